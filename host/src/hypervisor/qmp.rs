//! A small client of QEMU's monitor protocol: one JSON object a line, answers matched by id, events apart.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// No answer of a healthy QEMU is longer; a longer line comes from a broken one.
const LINE_MAX: usize = 4 << 20;
const EVENTS: usize = 64;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// An event by name, with its data.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

/// A connection after the handshake.
pub struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Connects. The number is that of the process that listens: the kernel's word, taken when it began to.
/// `NotFound` when nobody does.
pub async fn call(socket: &Path) -> Result<(UnixStream, i32)> {
    let stream = dial(socket).await?;
    let pid = stream.peer_cred().internal("cannot ask who listens on the monitor")?.pid().unwrap_or_default();
    Ok((stream, pid))
}

/// The number of the process that listens there, for those who cannot wait. None: nobody does.
pub fn listener(socket: &Path) -> Option<i32> {
    let directory = std::fs::File::open(socket.parent()?).ok()?;
    let path = by_descriptor(&directory, socket.file_name()?);
    let stream = std::os::unix::net::UnixStream::connect(path).ok()?;
    getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid())
}

/// Shakes hands.
pub async fn greet(stream: UnixStream, deadline: Duration) -> Result<(Qmp, mpsc::Receiver<Event>)> {
    let (read, writer) = stream.into_split();
    let (greeted, greeting) = oneshot::channel();
    let (events, received) = mpsc::channel(EVENTS);
    let waiting = Waiting::default();
    let reader = tokio::spawn(read_all(read, greeted, waiting.clone(), events));
    let qmp = Qmp { writer: writer.into(), waiting, next: AtomicU64::new(1), reader };
    match tokio::time::timeout(deadline, greeting).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(Error::unavailable("the monitor closed before it greeted")),
        Err(_) => return Err(Error::timeout("the monitor did not greet")),
    }
    qmp.execute("qmp_capabilities", json!({}), deadline).await?;
    Ok((qmp, received))
}

/// A socket's path may be longer than a socket address holds: the directory is named by its descriptor.
fn by_descriptor(directory: &std::fs::File, name: &std::ffi::OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

pub(super) async fn dial(socket: &Path) -> Result<UnixStream> {
    let (directory, name) = match (socket.parent(), socket.file_name()) {
        (Some(d), Some(n)) => (d, n),
        _ => return Err(Error::internal("a monitor's path has no directory")),
    };
    let directory = match std::fs::File::open(directory) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::not_found("Monitor", &socket.to_string_lossy())),
        Err(e) => return Err(Error::internal("cannot open a guest's directory").caused_by(e)),
    };
    match UnixStream::connect(&by_descriptor(&directory, name)).await {
        Ok(stream) => Ok(stream),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            Err(Error::not_found("Monitor", &socket.to_string_lossy()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(Error::timeout("the monitor takes no calls").caused_by(e)),
        Err(e) => Err(Error::unavailable("cannot connect to the monitor").caused_by(e)),
    }
}

impl Qmp {
    /// One command and its answer. `Timeout`: whether it was done is unknown.
    pub async fn execute(&self, command: &str, arguments: Value, deadline: Duration) -> Result<Value> {
        self.send(command, arguments, None, deadline).await
    }

    /// The same for a command that takes a descriptor along.
    pub async fn execute_with(&self, command: &str, arguments: Value, fd: BorrowedFd<'_>, deadline: Duration) -> Result<Value> {
        self.send(command, arguments, Some(fd), deadline).await
    }

    async fn send(&self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>, deadline: Duration) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        let work = async {
            let mut writer = self.writer.lock().await;
            let mut rest = line.as_bytes();
            if let Some(fd) = fd {
                // The descriptor travels with the first bytes of the line.
                let sent = pass(&writer, rest, fd).await.map_err(closed)?;
                rest = &rest[sent..];
            }
            writer.write_all(rest).await.map_err(closed)?;
            drop(writer);
            answered.await.map_err(|_| Error::unavailable("the monitor closed before it answered"))
        };
        let outcome = tokio::time::timeout(deadline, work).await;
        lock(&self.waiting).remove(&id);
        match outcome {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(text))) => Err(Error::internal(format!("{command}: {text}"))),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::timeout(format!("{command}: no answer from the monitor"))),
        }
    }
}

fn closed(e: std::io::Error) -> Error {
    Error::unavailable("the monitor is closed").caused_by(e)
}

/// Writes what fits now, with a descriptor.
async fn pass(writer: &OwnedWriteHalf, bytes: &[u8], fd: BorrowedFd<'_>) -> std::io::Result<usize> {
    let stream: &UnixStream = writer.as_ref();
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let rights = [ControlMessage::ScmRights(&[fd.as_raw_fd()])];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None).map_err(Into::into)
        });
        match sent {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

async fn read_all(mut read: OwnedReadHalf, greeted: oneshot::Sender<()>, waiting: Waiting, events: mpsc::Sender<Event>) {
    let mut greeted = Some(greeted);
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = vec![0u8; 16 << 10];
    loop {
        match read.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if let Ok(message) = serde_json::from_slice::<Value>(&line) {
                take(message, &mut greeted, &waiting, &events);
            }
        }
        if buffer.len() > LINE_MAX {
            break;
        }
    }
    // Whoever still waits learns it by the closed channel.
    lock(&waiting).clear();
}

fn take(message: Value, greeted: &mut Option<oneshot::Sender<()>>, waiting: &Waiting, events: &mpsc::Sender<Event>) {
    if message.get("QMP").is_some() {
        if let Some(greeted) = greeted.take() {
            let _ = greeted.send(());
        }
    } else if let Some(name) = message.get("event").and_then(Value::as_str) {
        // Events say only that it is worth asking; when as many wait already, one more says nothing new.
        let _ = events.try_send(Event { name: name.to_string(), data: message.get("data").cloned().unwrap_or(Value::Null) });
    } else if let Some(waiter) = message.get("id").and_then(Value::as_u64).and_then(|id| lock(waiting).remove(&id)) {
        let result = match message.get("error") {
            Some(error) => Err(error.get("desc").and_then(Value::as_str).unwrap_or("unknown error").to_string()),
            None => Ok(message.get("return").cloned().unwrap_or(Value::Null)),
        };
        let _ = waiter.send(result);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    const SECOND: Duration = Duration::from_secs(5);

    /// A monitor that greets and then answers each command as `answer` says.
    async fn monitor(path: &Path, answer: impl Fn(&Value) -> Vec<Value> + Send + 'static) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                let command: Value = serde_json::from_str(&line).unwrap();
                for reply in answer(&command) {
                    write.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                }
            }
        });
    }

    #[tokio::test]
    async fn answers_meet_their_questions_and_events_go_apart() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("qmp");
        monitor(&path, |c| match c["execute"].as_str().unwrap() {
            "quit" => vec![],
            "bad" => vec![json!({"error": {"class": "GenericError", "desc": "no such thing"}, "id": c["id"]})],
            _ => vec![json!({"event": "STOP", "data": {}}), json!({"return": c["execute"], "id": c["id"]})],
        })
        .await;
        let (stream, pid) = call(&path).await.unwrap();
        assert_eq!(pid, std::process::id() as i32);
        let (qmp, mut events) = greet(stream, SECOND).await.unwrap();
        let (a, b) = tokio::join!(qmp.execute("one", json!({}), SECOND), qmp.execute("two", json!({}), SECOND));
        assert_eq!((a.unwrap(), b.unwrap()), (json!("one"), json!("two")));
        assert_eq!(events.recv().await.unwrap().name, "STOP");
        assert!(qmp.execute("bad", json!({}), SECOND).await.unwrap_err().message().contains("no such thing"));
        let silent = qmp.execute("quit", json!({}), Duration::from_millis(20)).await.unwrap_err();
        assert!(silent.is(base::Kind::Timeout));
    }

    #[tokio::test]
    async fn nobody_there_is_not_found() {
        let home = tempfile::tempdir().unwrap();
        assert!(call(&home.path().join("none")).await.err().unwrap().is(base::Kind::NotFound));
        let path = home.path().join("left");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(call(&path).await.err().unwrap().is(base::Kind::NotFound));
    }
}
