//! A connection to a directory: LDAP version 3 as far as it is needed to look for entries and to check passwords. Each call has an
//! end in time, and what a server sends has one in size.
//!
//! It is our own because the decoder that the crate ldap3 stands on recurses as deep as a server wishes, which ends the whole process, and
//! panics on entries that are none.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, Kind, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::ber::{self, ENUMERATED, INTEGER, OCTETS, Reader, SEQUENCE, SET, tlv};
use super::filter;

/// The longest message that is read: a group of 100,000 members fits.
const MESSAGE: usize = 16 << 20;
/// The most of one search, in bytes.
const ANSWER: usize = 128 << 20;
const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// Where a directory is, and how to talk to it.
#[derive(Clone)]
pub struct Server {
    pub place: Place,
    /// TLS from the first byte on, else after StartTLS, else none.
    pub tls: Tls,
    pub timeout: Duration,
}

#[derive(Clone)]
pub enum Place {
    Host {
        host: String,
        port: u16,
    },
    /// A socket of this machine (`ldapi`), which needs no TLS.
    Socket(PathBuf),
}

#[derive(Clone)]
pub enum Tls {
    None,
    Start(Arc<rustls::ClientConfig>),
    Always(Arc<rustls::ClientConfig>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    Base,
    One,
    Sub,
}

pub struct Search<'a> {
    pub base: &'a str,
    pub scope: Scope,
    pub filter: &'a str,
    pub attributes: &'a [String],
    /// Entries a page; 0: all in one.
    pub page: i32,
    /// More entries than this are an error.
    pub most: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub dn: String,
    /// By the attribute's name in lower case.
    pub attributes: HashMap<String, Vec<String>>,
}

impl Entry {
    pub fn all(&self, name: &str) -> &[String] {
        self.attributes.get(&name.to_lowercase()).map_or(&[], Vec::as_slice)
    }

    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).iter().map(String::as_str).find(|value| !value.is_empty())
    }
}

pub struct Connection {
    stream: Box<dyn Stream>,
    last_id: i32,
    timeout: Duration,
}

fn broken(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unavailable, "Unable to establish a connection to LDAP Server.").caused_by(why.to_string())
}

fn garbled() -> Error {
    broken("the LDAP server sent what is no LDAP")
}

/// What ends an operation.
struct Outcome {
    code: i64,
    message: String,
}

impl Outcome {
    fn read(content: &[u8]) -> Result<Outcome> {
        let mut reader = Reader(content);
        let code = reader.expect_integer(ENUMERATED).ok_or_else(garbled)?;
        reader.expect(OCTETS).ok_or_else(garbled)?;
        Ok(Outcome { code, message: reader.expect_text().ok_or_else(garbled)? })
    }

    fn failed(&self, doing: &str) -> Error {
        broken(format!("the LDAP server answers {} to {doing}: {}", self.code, self.message))
    }
}

/// Ends a call that takes longer than the server's time.
async fn within<T>(timeout: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(broken("the LDAP server does not answer in time")))
}

async fn secured(tcp: TcpStream, host: &str, config: &Arc<rustls::ClientConfig>) -> Result<Box<dyn Stream>> {
    let name = ServerName::try_from(host.to_string()).map_err(broken)?;
    Ok(Box::new(TlsConnector::from(config.clone()).connect(name, tcp).await.map_err(broken)?))
}

impl Connection {
    pub async fn open(server: &Server) -> Result<Connection> {
        within(server.timeout, Connection::connect(server)).await
    }

    async fn connect(server: &Server) -> Result<Connection> {
        let (host, port) = match &server.place {
            Place::Host { host, port } => (host.as_str(), *port),
            Place::Socket(path) => {
                let stream = Box::new(UnixStream::connect(path).await.map_err(broken)?);
                return Ok(Connection { stream, last_id: 1, timeout: server.timeout });
            }
        };
        let tcp = TcpStream::connect((host, port)).await.map_err(broken)?;
        tcp.set_nodelay(true).map_err(broken)?;
        let stream: Box<dyn Stream> = match &server.tls {
            Tls::None => Box::new(tcp),
            Tls::Always(config) => secured(tcp, host, config).await?,
            Tls::Start(config) => {
                let mut tcp = tcp;
                let request = tlv(0x77, &tlv(0x80, START_TLS.as_bytes()));
                send(&mut tcp, 1, &request, &[]).await?;
                let message = receive(&mut tcp).await?;
                let outcome =
                    message.parts().filter(|(id, op, ..)| *id == 1 && *op == 0x78).map(|(_, _, content, _)| Outcome::read(content));
                let outcome = outcome.ok_or_else(garbled)??;
                if outcome.code != 0 {
                    return Err(outcome.failed("StartTLS"));
                }
                secured(tcp, host, config).await?
            }
        };
        Ok(Connection { stream, last_id: 1, timeout: server.timeout })
    }

    /// Whether the password is that of the entry. An empty one would bind nobody and succeed: it is refused here.
    pub async fn bind(&mut self, dn: &str, password: &str) -> Result<bool> {
        if password.is_empty() || dn.is_empty() {
            return Ok(false);
        }
        within(self.timeout, async {
            let request = tlv(0x60, &[ber::integer(INTEGER, 3), ber::text(dn), tlv(0x80, password.as_bytes())].concat());
            let id = self.send(&request, &[]).await?;
            let message = self.answer(id).await?;
            let (_, op, content, _) = message.parts().ok_or_else(garbled)?;
            if op != 0x61 {
                return Err(garbled());
            }
            let outcome = Outcome::read(content)?;
            match outcome.code {
                0 => Ok(true),
                // no such object, wrong syntax of a name, inappropriate, wrong, too few rights, unwilling (an account that is locked)
                32 | 34 | 48 | 49 | 50 | 53 => Ok(false),
                _ => Err(outcome.failed("a bind")),
            }
        })
        .await
    }

    /// The entries that match; none where there is no base.
    pub async fn search(&mut self, search: &Search<'_>) -> Result<Vec<Entry>> {
        within(self.timeout, self.all_pages(search)).await
    }

    async fn all_pages(&mut self, search: &Search<'_>) -> Result<Vec<Entry>> {
        let filter = filter::encode(search.filter).ok_or_else(|| Error::internal(format!("{} is no LDAP filter", search.filter)))?;
        let scope = match search.scope {
            Scope::Base => 0,
            Scope::One => 1,
            Scope::Sub => 2,
        };
        let attributes: Vec<u8> = search.attributes.iter().flat_map(|name| ber::text(name)).collect();
        let request = [
            ber::text(search.base),
            ber::integer(ENUMERATED, scope),
            ber::integer(ENUMERATED, 0),
            ber::integer(INTEGER, 0),
            ber::integer(INTEGER, i32::try_from(self.timeout.as_secs()).unwrap_or(0)),
            ber::flag(false),
            filter,
            tlv(SEQUENCE, &attributes),
        ];
        let request = tlv(0x63, &request.concat());
        let (mut entries, mut size, mut cookie) = (Vec::new(), 0, Vec::new());
        loop {
            let controls = if search.page > 0 { paged(search.page, &cookie) } else { Vec::new() };
            let id = self.send(&request, &controls).await?;
            cookie = loop {
                let message = self.answer(id).await?;
                size += message.0.len();
                let (_, op, content, controls) = message.parts().ok_or_else(garbled)?;
                match op {
                    0x64 => entries.push(entry(content).ok_or_else(garbled)?),
                    // What other servers have is not asked for.
                    0x73 => {}
                    0x65 => match Outcome::read(content)? {
                        Outcome { code: 0, .. } => break next_page(controls),
                        Outcome { code: 32 | 10, .. } => return Ok(Vec::new()),
                        failed => return Err(failed.failed("a search")),
                    },
                    _ => return Err(garbled()),
                }
                if entries.len() > search.most || size > ANSWER {
                    return Err(broken("the LDAP server finds more than is taken from it"));
                }
            };
            if cookie.is_empty() || search.page <= 0 {
                return Ok(entries);
            }
        }
    }

    async fn send(&mut self, operation: &[u8], controls: &[u8]) -> Result<i32> {
        self.last_id = self.last_id.checked_add(1).ok_or_else(|| broken("a worn out connection"))?;
        send(&mut *self.stream, self.last_id, operation, controls).await?;
        Ok(self.last_id)
    }

    /// The next message about the operation `id`; a notice (id 0) says that the server goes away.
    async fn answer(&mut self, id: i32) -> Result<Message> {
        loop {
            let message = receive(&mut *self.stream).await?;
            let (found, ..) = message.parts().ok_or_else(garbled)?;
            if found == i64::from(id) {
                return Ok(message);
            }
            if found == 0 {
                return Err(broken("the LDAP server goes away"));
            }
        }
    }
}

fn paged(size: i32, cookie: &[u8]) -> Vec<u8> {
    let value = tlv(SEQUENCE, &[ber::integer(INTEGER, size), tlv(OCTETS, cookie)].concat());
    let control = tlv(SEQUENCE, &[ber::text(PAGED_RESULTS), ber::flag(false), tlv(OCTETS, &value)].concat());
    tlv(0xa0, &control)
}

/// The cookie for the next page; empty: there is none.
fn next_page(controls: &[u8]) -> Vec<u8> {
    let mut controls = Reader(controls);
    while let Some(content) = controls.expect(SEQUENCE) {
        let mut control = Reader(content);
        if control.expect(OCTETS) != Some(PAGED_RESULTS.as_bytes()) {
            continue;
        }
        let value = loop {
            match control.next() {
                Some((OCTETS, value)) => break value,
                Some(_) => {}
                None => return Vec::new(),
            }
        };
        let mut value = Reader(Reader(value).expect(SEQUENCE).unwrap_or_default());
        value.next();
        return value.expect(OCTETS).unwrap_or_default().to_vec();
    }
    Vec::new()
}

fn entry(content: &[u8]) -> Option<Entry> {
    let mut reader = Reader(content);
    let dn = reader.expect_text()?;
    let mut list = Reader(reader.expect(SEQUENCE)?);
    let mut attributes: HashMap<String, Vec<String>> = HashMap::new();
    while let Some((tag, content)) = list.next() {
        let mut attribute = Reader(Some(content).filter(|_| tag == SEQUENCE)?);
        let name = attribute.expect_text()?;
        let mut values = Reader(attribute.expect(SET)?);
        let into = attributes.entry(name.to_lowercase()).or_default();
        while let Some(value) = values.expect_text() {
            into.push(value);
        }
    }
    Some(Entry { dn, attributes })
}

async fn send(stream: &mut (impl AsyncWrite + Unpin + ?Sized), id: i32, operation: &[u8], controls: &[u8]) -> Result<()> {
    let message = tlv(SEQUENCE, &[&ber::integer(INTEGER, id), operation, controls].concat());
    stream.write_all(&message).await.map_err(broken)?;
    stream.flush().await.map_err(broken)
}

struct Message(Vec<u8>);

impl Message {
    /// Its id, the operation's tag and content, the controls.
    fn parts(&self) -> Option<(i64, u8, &[u8], &[u8])> {
        let mut reader = Reader(&self.0);
        let id = reader.expect_integer(INTEGER)?;
        let (op, content) = reader.next()?;
        Some((id, op, content, reader.expect(0xa0).unwrap_or_default()))
    }
}

async fn receive(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<Message> {
    let mut head = vec![0; 2];
    stream.read_exact(&mut head).await.map_err(broken)?;
    if head[0] != SEQUENCE || head[1] > 0x84 {
        return Err(garbled());
    }
    if head[1] > 0x80 {
        let from = head.len();
        head.resize(from + usize::from(head[1] & 0x7f), 0);
        stream.read_exact(&mut head[from..]).await.map_err(broken)?;
    }
    let (_, length) = ber::header(&head).ok_or_else(garbled)?;
    if length > MESSAGE {
        return Err(garbled());
    }
    let mut content = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut content).await.map_err(broken)?;
    if read < length { Err(garbled()) } else { Ok(Message(content)) }
}
