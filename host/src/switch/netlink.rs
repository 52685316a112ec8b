//! A small netlink client: messages with nested attributes, acknowledged requests, dumps.
//!
//! Synchronous on purpose. A request to the kernel returns within microseconds, and a socket stays in the
//! namespace it was opened in, so one socket a namespace, used from a blocking thread, is all the switch needs.
//! Every request that changes something passes [`Probe::step`], which counts and, in tests, fails.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Probe;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// A request: header, fixed part, attributes.
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Message { bytes };
        message.pad();
        message
    }
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }
    /// Text with the zero byte the kernel wants behind it.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }
    pub fn nest(self, kind: u16, inner: impl FnOnce(Message) -> Message) -> Self {
        self.nest_behind(kind, &[], inner)
    }
    /// A nested attribute that begins with a fixed part.
    pub fn nest_behind(mut self, kind: u16, fixed: &[u8], inner: impl FnOnce(Message) -> Message) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.pad();
        let mut done = inner(self);
        let length = (done.bytes.len() - start) as u16;
        done.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        done
    }
    /// Runs `f` when there is a value.
    pub fn maybe<T>(self, value: Option<T>, f: impl FnOnce(Message, T) -> Message) -> Self {
        match value {
            Some(value) => f(self, value),
            None => self,
        }
    }
    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes of a message, or of a nested attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = u16::from_ne_bytes([bytes[0], bytes[1]]) as usize;
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & NLA_TYPE_MASK;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

pub fn as_u32(value: &[u8]) -> u32 {
    value.get(..4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

pub fn as_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_string()
}

/// An error of the kernel, told apart by number.
pub fn is_errno(error: &io::Error, errno: nix::errno::Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    probe: Arc<Probe>,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub fn route(probe: Arc<Probe>) -> io::Result<Netlink> {
        Self::open(SockProtocol::NetlinkRoute, probe)
    }
    pub fn netfilter(probe: Arc<Probe>) -> io::Result<Netlink> {
        Self::open(SockProtocol::NetlinkNetFilter, probe)
    }
    fn open(protocol: SockProtocol, probe: Arc<Probe>) -> io::Result<Netlink> {
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // The kernel answers at once; a limit only so that a bug cannot hang the host.
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        socket::setsockopt(&fd, sockopt::RcvBuf, &(1 << 20))?;
        Ok(Netlink { fd, sequence: 0, probe })
    }
    fn send(&mut self, message: Message, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(flags, self.sequence);
        socket::send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(self.sequence)
    }
    /// A request that changes something; `what` names it for the log.
    pub fn change(&mut self, what: &str, message: Message) -> io::Result<()> {
        self.probe.step(what)?;
        let sequence = self.send(message, NLM_F_ACK)?;
        self.receive(sequence, true).map(drop)
    }
    /// A request with one answer.
    pub fn get(&mut self, message: Message) -> io::Result<Vec<u8>> {
        let sequence = self.send(message, 0)?;
        self.receive(sequence, true)?.pop().ok_or_else(|| io::Error::other("netlink: empty answer"))
    }
    /// All objects, each without its netlink header.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.send(message, NLM_F_DUMP)?;
        self.receive(sequence, false)
    }
    fn receive(&mut self, sequence: u32, single: bool) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let n = match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let mut rest = &buffer[..n];
            while rest.len() >= HEADER {
                let length = as_u32(rest) as usize;
                if length < HEADER || length > rest.len() {
                    return Err(io::Error::other("netlink: message cut short"));
                }
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let ours = as_u32(&rest[8..12]) == sequence;
                let body = &rest[HEADER..length];
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                if !ours {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        let code = as_u32(body) as i32;
                        return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    NLMSG_DONE => return Ok(found),
                    _ => {
                        found.push(body.to_vec());
                        if single {
                            return Ok(found);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_are_read_back() {
        let bytes = Message::new(16, 0, &[0; 16]).text(3, "br0").nest(18, |m| m.text(1, "bridge").nest(2, |m| m.u8(23, 0))).finish(0, 1);
        let body = &bytes[HEADER + 16..];
        assert_eq!(find(body, 3).map(as_text).as_deref(), Some("br0"));
        let info = find(body, 18).unwrap();
        assert_eq!(find(info, 1).map(as_text).as_deref(), Some("bridge"));
        assert_eq!(find(find(info, 2).unwrap(), 23), Some(&[0u8][..]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            for (_, value) in attributes(&bytes) {
                attributes(value).for_each(drop);
            }
        }
    }
}
