//! Who may speak to the TCP port, whose protocol knows neither names nor passwords.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use base::{Error, Result};
use ipnet::IpNet;

/// Whom the port lets in.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Programs on this machine that run as root or as the user we run as.
    Local,
    /// Every program on machines of these networks.
    Networks(Vec<IpNet>),
}

impl Access {
    /// A port that others can reach must say who they are.
    pub fn new(address: IpAddr, networks: &str) -> Result<Access> {
        let networks = networks.split(',').map(str::trim).filter(|text| !text.is_empty());
        let parsed: Vec<IpNet> = networks
            .map(|text| text.parse().map_err(|_| Error::invalid(format!("`fault.peers`: {text} is no network"))))
            .collect::<Result<_>>()?;
        match (address.is_loopback(), parsed.is_empty()) {
            (true, true) => Ok(Access::Local),
            (false, true) => Err(Error::invalid(format!(
                "`fault.listen` is {address}, which other machines can reach, and the protocol has no passwords: name their networks in `fault.peers`"
            ))),
            _ => Ok(Access::Networks(parsed)),
        }
    }

    pub(super) fn lets_in(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        match self {
            Access::Networks(networks) => networks.iter().any(|network| network.contains(&peer.ip().to_canonical())),
            Access::Local => {
                let ours = std::fs::metadata("/proc/self").map(|of| of.uid());
                owner(peer, local).is_some_and(|uid| uid == 0 || ours.is_ok_and(|ours| uid == ours))
            }
        }
    }
}

/// The user whose socket is at the other end of a connection on this machine.
fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string(if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" }).ok()?;
    find(&table, &hex(peer), &hex(local))
}

fn find(table: &str, from: &str, to: &str) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        match cells[..] {
            [_, local, remote, _, _, _, _, uid, ..] if local == from && remote == to => uid.parse().ok(),
            _ => None,
        }
    })
}

/// An address as the kernel's table has it: words of its own byte order, in hexadecimal.
fn hex(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    format!("{}:{:04X}", words.map(|word| format!("{word:08X}")).collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_others_names_them() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(Access::new(at("127.0.0.1"), "").unwrap(), Access::Local);
        assert!(Access::new(at("192.0.2.1"), "").unwrap_err().message().contains("fault.peers"));
        assert!(Access::new(at("192.0.2.1"), "here").is_err());
        let some = Access::new(at("192.0.2.1"), "192.0.2.0/24, 2001:db8::/64").unwrap();
        let lets_in = |peer: &str| some.lets_in(peer.parse().unwrap(), "192.0.2.1:8001".parse().unwrap());
        assert!(lets_in("192.0.2.7:1") && lets_in("[2001:db8::9]:1") && lets_in("[::ffff:192.0.2.7]:1"));
        assert!(!lets_in("192.0.3.7:1") && !lets_in("127.0.0.1:1"));
    }

    #[test]
    fn the_kernels_table_tells_whose_a_socket_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(owner(stream.local_addr().unwrap(), stream.peer_addr().unwrap()), Some(uid));
        assert!(Access::Local.lets_in(stream.local_addr().unwrap(), stream.peer_addr().unwrap()));
        let table = "head\n 0: 0100007F:1F41 0100007F:D431 01 0:0 0:0 0 1000 0 5 1\n";
        assert_eq!(find(table, &hex("127.0.0.1:8001".parse().unwrap()), &hex("127.0.0.1:54321".parse().unwrap())), Some(1000));
        assert_eq!(find(table, &hex("127.0.0.1:8002".parse().unwrap()), &hex("127.0.0.1:54321".parse().unwrap())), None);
    }
}
