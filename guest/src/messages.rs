//! The daemon that has the port for messages: programs in the guest send it datagrams, each from a socket with an abstract name, which is its
//! address, and it hands them what comes for that address.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use guest::lines::Lines;
use guest::messaging::{ADDRESS, LONGEST, PORT, VERSION, line};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::port::{Port, patient};

/// The pause while nobody has the port open on the other side.
const PAUSE: Duration = Duration::from_millis(100);
const LOOK: u16 = 1000;
/// Bytes that wait for a host which does not read.
const WAITING: usize = 64 << 10;

/// The daemon's own socket. Its name is the port's.
pub fn bind(name: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A program's message as a line for the host; none: it is not to be understood, or has no address to be answered at.
fn upward(datagram: &[u8], from: &SocketAddr) -> Option<Vec<u8>> {
    let from = from.as_abstract_name().and_then(|name| std::str::from_utf8(name).ok()).filter(|from| from.len() <= ADDRESS)?;
    let message: Value = serde_json::from_slice(datagram).ok()?;
    if message.get("version")?.as_u64()? != VERSION {
        return None;
    }
    let to = message.get("dest_addr")?.as_str().filter(|to| to.len() <= ADDRESS)?;
    let line = line(from, to, message.get("data")?);
    (line.len() <= LONGEST).then_some(line)
}

/// A line of the host as a datagram, and the address it is for.
fn downward(line: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let message: Value = serde_json::from_slice(line).ok()?;
    if message.get("version")?.as_u64()? != VERSION {
        return None;
    }
    let to = message.get("dest_addr")?.as_str().filter(|to| !to.is_empty() && to.len() <= ADDRESS && *to != PORT)?;
    let datagram = json!({"version": VERSION, "source_addr": message.get("source_addr"), "data": message.get("data")?});
    Some((SocketAddr::from_abstract_name(to).ok()?, datagram.to_string().into_bytes()))
}

/// Serves until `stop` has something to read.
pub fn run(port: &mut dyn Port, socket: &UnixDatagram, stop: BorrowedFd<'_>) {
    let (mut lines, mut unwritten, mut is_open) = (Lines::of(LONGEST), Vec::new(), false);
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !unwritten.is_empty());
        if let Some(fd) = port.fd() {
            fds.push(PollFd::new(fd, wanted));
        }
        // When it fails, it is tried again.
        let _ = poll(&mut fds, PollTimeout::from(LOOK));
        if fds[0].revents().is_some_and(|r| !r.is_empty()) {
            return;
        }
        // A port that nobody has open on the other side is ready all the time.
        let open = fds.get(2).is_some_and(|fd| !fd.revents().is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)));
        drop(fds);
        if open != is_open {
            // What was cut off there is no beginning here.
            (lines, is_open) = (Lines::of(LONGEST), open);
            unwritten.clear();
        }
        take(socket, &mut unwritten);
        if !open {
            unwritten.clear();
            std::thread::sleep(PAUSE);
            continue;
        }
        if exchange(port, &mut lines, socket).and_then(|()| flush(port, &mut unwritten)).is_err() {
            port.close();
        }
    }
}

/// What programs have to say.
fn take(socket: &UnixDatagram, unwritten: &mut Vec<u8>) {
    let mut buffer = [0u8; 2 * LONGEST];
    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
        if unwritten.len() > WAITING {
            // Each message begins with a newline, so one that is torn harms no other.
            unwritten.clear();
        }
        match upward(&buffer[..n], &from) {
            Some(line) => unwritten.extend(line),
            None => eprintln!("a message without an address, or of no use: not passed on"),
        }
    }
}

/// What the host has to say.
fn exchange(port: &mut dyn Port, lines: &mut Lines, socket: &UnixDatagram) -> std::io::Result<()> {
    let mut buffer = [0u8; 2048];
    loop {
        let n = port.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..n];
        while let Some(line) = lines.next(&mut bytes) {
            let Some((to, datagram)) = downward(&line) else { continue };
            match socket.send_to_addr(&datagram, &to) {
                // Nobody is there, or does not read: that is nobody's business here.
                Err(e) if !matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => eprintln!("a message is lost: {e}"),
                _ => {}
            }
        }
    }
}

fn flush(port: &mut dyn Port, unwritten: &mut Vec<u8>) -> std::io::Result<()> {
    while !unwritten.is_empty() {
        match patient(port.write(unwritten))? {
            0 => return Ok(()),
            n => drop(unwritten.drain(..n)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use guest::messaging::{GROUP, Port as Host, Said, Tell};

    use super::*;
    use crate::port::Socket;

    /// Addresses are the machine's: each test has its own.
    fn own(name: &str) -> String {
        format!("{name}.{}", std::process::id() % 100_000)
    }

    #[test]
    fn programs_and_host_hear_each_other() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut stop, stopped) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (daemon, app) = (own("msg"), own("app"));
        let socket = bind(&daemon).unwrap();
        let serving = std::thread::spawn(move || run(&mut Socket(theirs), &socket, stopped.as_fd()));
        let program = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&app).unwrap()).unwrap();
        program.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let to_daemon = SocketAddr::from_abstract_name(&daemon).unwrap();
        let say = |value: &Value| program.send_to_addr(value.to_string().as_bytes(), &to_daemon).unwrap();
        // What is of no use is passed over, and does not get in the way of what follows.
        program.send_to_addr(b"nonsense", &to_daemon).unwrap();
        say(&json!({"version": 1, "dest_addr": GROUP, "data": {}}));
        UnixDatagram::unbound().unwrap().send_to_addr(b"{\"version\": 2, \"dest_addr\": \"x\", \"data\": {}}", &to_daemon).unwrap();
        say(&json!({"version": 2, "dest_addr": GROUP, "data": {"version": 2, "msg_type": "broadcast", "data": "hello"}}));
        let (mut heard, mut buffer) = (Vec::new(), [0u8; 4096]);
        while heard.iter().filter(|b| **b == b'\n').count() < 2 {
            let n = ours.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..n]);
        }
        let message: Value = serde_json::from_slice(&heard).unwrap();
        assert_eq!((&message["source_addr"], &message["dest_addr"]), (&json!(app), &json!(GROUP)));
        let mut host = Host::default();
        host.received(&mut &heard[..], 10);
        assert_eq!(host.said(), [Said::Broadcast("hello".into())]);
        // And back: what is for nobody here is nobody's loss.
        ours.write_all(&line(GROUP, "cgcs.nobody", &json!({}))).unwrap();
        ours.write_all(&line(GROUP, &app, &json!({"msg_type": "nack"}))).unwrap();
        let n = program.recv(&mut buffer).unwrap();
        let told: Value = serde_json::from_slice(&buffer[..n]).unwrap();
        assert_eq!(told, json!({"version": 2, "source_addr": GROUP, "data": {"msg_type": "nack"}}));
        host.tell(Tell::Broadcast { source: "instance-00000002".into(), text: "hi".into() });
        assert!(host.pop().is_some());
        stop.write_all(b"x").unwrap();
        serving.join().unwrap();
    }
}
