//! The metadata address's HTTP: the little of HTTP/1.1 that its clients speak, with every size, time and rate bounded.
//!
//! Guests are untrusted and many. A caller is who its source address says (anti-spoofing vouches for it); no header
//! changes that.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::desk::{Desk, Posted};
use super::metadata::{Found, is_password, look};
use super::view::Callers;
use crate::drops::Drops;

/// The port's name in counts.
const PORT: &str = "metadata";
const LARGEST_HEAD: usize = 8 * 1024;
const LARGEST_BODY: u64 = 64 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(10);
const WRITE_TIME: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 128;
const CONNECTIONS_EACH: u32 = 16;
/// Requests a caller may make at once, and each second after.
const BURST: f64 = 100.0;
const RATE: f64 = 50.0;

#[derive(Default)]
struct Account {
    open: u32,
    tokens: f64,
    at: Option<Instant>,
}

/// What each caller has open and has asked of late.
#[derive(Default)]
struct Accounts(Mutex<HashMap<IpAddr, Account>>);

impl Accounts {
    fn enter(&self, caller: IpAddr) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Idle accounts are full again and worth nothing.
        if all.len() > 4 * CONNECTIONS {
            all.retain(|_, a| a.open > 0);
        }
        let account = all.entry(caller).or_default();
        let room = account.open < CONNECTIONS_EACH;
        account.open += u32::from(room);
        room
    }
    fn leave(&self, caller: IpAddr) {
        if let Some(account) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&caller) {
            account.open = account.open.saturating_sub(1);
        }
    }
    fn spend(&self, caller: IpAddr, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let account = all.entry(caller).or_default();
        let since = account.at.map_or(f64::MAX, |at| now.duration_since(at).as_secs_f64());
        account.tokens = (account.tokens + since * RATE).min(BURST);
        account.at = Some(now);
        let may = account.tokens >= 1.0;
        if may {
            account.tokens -= 1.0;
        }
        may
    }
}

/// Serves until dropped. `addresses`: the local addresses that connections may have been made to.
pub async fn serve(
    listener: TcpListener,
    addresses: Vec<IpAddr>,
    callers: watch::Receiver<Arc<Callers>>,
    desk: Arc<Desk>,
    drops: Arc<Drops>,
) {
    let accounts = Arc::new(Accounts::default());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let local = stream.local_addr().map(|a| a.ip().to_canonical()).ok();
        let caller = peer.ip().to_canonical();
        if !local.is_some_and(|l| addresses.contains(&l)) {
            drops.add(PORT, "elsewhere");
            continue;
        }
        if !accounts.enter(caller) {
            drops.add(PORT, "overload");
            continue;
        }
        let (callers, desk, accounts, drops) = (callers.clone(), desk.clone(), accounts.clone(), drops.clone());
        connections.spawn(async move {
            if let Ok(Some(reason)) = talk(stream, peer, &callers, &desk, &accounts, &drops).await {
                drops.add(PORT, reason);
            }
            accounts.leave(caller);
            drop(permit);
        });
    }
}

/// One connection, until it ends. Some: why what came last was not taken.
async fn talk(
    mut stream: TcpStream,
    peer: SocketAddr,
    callers: &watch::Receiver<Arc<Callers>>,
    desk: &Arc<Desk>,
    accounts: &Accounts,
    drops: &Drops,
) -> io::Result<Option<&'static str>> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    for _ in 0..100 {
        let end = match timeout(HEAD_TIME, head(&mut stream, &mut buffer)).await {
            Ok(Ok(Some(end))) => end,
            Ok(Ok(None)) | Err(_) => return Ok(None),
            Ok(Err(_)) => return refuse(&mut stream, 431).await.map(|()| Some("oversized")),
        };
        let caller = peer.ip().to_canonical();
        let Some(request) = parse(&buffer[..end]) else { return refuse(&mut stream, 400).await.map(|()| Some("malformed")) };
        buffer.drain(..end);
        if request.chunked || request.length > LARGEST_BODY {
            return refuse(&mut stream, 413).await.map(|()| Some("oversized"));
        }
        let Ok(body) = timeout(HEAD_TIME, body(&mut stream, &mut buffer, request.length)).await else { return Ok(None) };
        let body = body?;
        let (status, found) = if accounts.spend(caller, Instant::now()) {
            let instance = callers.borrow().instance(caller).map(str::to_string);
            if instance.is_none() {
                drops.add(PORT, "stranger");
            }
            reply(&request, body, instance, desk).await
        } else {
            drops.add(PORT, "overload");
            (429, None)
        };
        timeout(WRITE_TIME, respond(&mut stream, status, found, request.method == "HEAD", request.close)).await??;
        if request.close {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Answers a request that was not read to its end. What still comes is read, up to a bound: closing with unread bytes
/// resets the connection, and the other side may lose the answer.
async fn refuse(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    timeout(WRITE_TIME, respond(stream, status, None, false, true)).await??;
    stream.shutdown().await?;
    let mut part = [0; 4096];
    let drained = async {
        for _ in 0..16 {
            if stream.read(&mut part).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    timeout(WRITE_TIME, drained).await?
}

async fn reply(request: &Request, body: Vec<u8>, instance: Option<String>, desk: &Arc<Desk>) -> (u16, Option<Found>) {
    let Some(instance) = instance else { return (404, None) };
    match request.method.as_str() {
        "GET" | "HEAD" => match desk.get(&instance).and_then(|metadata| look(&metadata, &request.path)) {
            Some(found) => (200, Some(found)),
            None => (404, None),
        },
        "POST" if is_password(&request.path) => {
            let desk = desk.clone();
            let posted = tokio::task::spawn_blocking(move || desk.post(&instance, &body)).await.unwrap_or(Posted::Failed);
            match posted {
                Posted::Kept => (200, Some(Found { kind: "text/plain; charset=UTF-8", body: Vec::new() })),
                Posted::Nobody => (404, None),
                Posted::Taken => (409, None),
                Posted::Refused => (400, None),
                Posted::Failed => (503, None),
            }
        }
        _ => (405, None),
    }
}

/// Reads until the end of a request's head and returns where it is; `None`: the other side has closed.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        let end = buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        // Also one whose end came with the last piece: how a head arrives must not decide.
        if end.unwrap_or(buffer.len()) > LARGEST_HEAD {
            return Err(io::Error::other("head too large"));
        }
        if end.is_some() {
            return Ok(end);
        }
        let mut part = [0; 2048];
        match stream.read(&mut part).await? {
            0 => return Ok(None),
            n => buffer.extend_from_slice(&part[..n]),
        }
    }
}

/// Reads a request's body. What follows it stays in the buffer.
async fn body(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: u64) -> io::Result<Vec<u8>> {
    let length = length as usize;
    let mut body: Vec<u8> = buffer.drain(..length.min(buffer.len())).collect();
    let mut part = [0; 4096];
    while body.len() < length {
        let most = (length - body.len()).min(part.len());
        match stream.read(&mut part[..most]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => body.extend_from_slice(&part[..n]),
        }
    }
    Ok(body)
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
    close: bool,
}

fn parse(head: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target, version) = (first.next()?, first.next()?, first.next()?);
    if first.next().is_some() || !target.starts_with('/') || !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return None;
    }
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let mut request = Request { method: method.into(), path: path.into(), length: 0, chunked: false, close: version == "HTTP/1.0" };
    for line in lines.filter(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.length = value.parse().ok()?,
            "transfer-encoding" => request.chunked = true,
            "connection" if value.eq_ignore_ascii_case("close") => request.close = true,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.close = false,
            _ => {}
        }
    }
    Some(request)
}

async fn respond(stream: &mut TcpStream, status: u16, found: Option<Found>, head_only: bool, close: bool) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Request Header Fields Too Large",
    };
    let found = found.unwrap_or_else(|| Found { kind: "text/plain; charset=UTF-8", body: format!("{status} {reason}\n").into_bytes() });
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let connection = if close { "close" } else { "keep-alive" };
    let mut out = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: {connection}\r\n\r\n",
        found.kind,
        found.body.len()
    )
    .into_bytes();
    if !head_only {
        out.extend(found.body);
    }
    stream.write_all(&out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let request =
            parse(b"GET /latest/meta-data/?a=b HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.9\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!((request.path.as_str(), request.close), ("/latest/meta-data/", true));
        assert!(parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().close);
        for bad in [
            &b"GET /\r\n\r\n"[..],
            b"GET http://x/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/2\r\n\r\n",
            b"GET / HTTP/1.1\r\nnone\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"\xff\xff",
        ] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn callers_are_limited() {
        let (accounts, caller, now) = (Accounts::default(), IpAddr::from([10, 0, 0, 1]), Instant::now());
        assert_eq!((0..200).filter(|_| accounts.spend(caller, now)).count(), 100);
        assert!(accounts.spend(IpAddr::from([10, 0, 0, 2]), now));
        assert_eq!((0..100).filter(|_| accounts.spend(caller, now + Duration::from_secs(1))).count(), 50);
        assert_eq!((0..100).filter(|_| accounts.enter(caller)).count(), 16);
    }

    proptest::proptest! {
        #[test]
        fn any_head(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
