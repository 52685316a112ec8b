//! Ethernet frames made by hand: DHCP answers to clients without an address, and announcements.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use nix::sys::socket::{MsgFlags, send};

use super::link::Mac;
use super::sys;

const BROADCAST: Mac = [0xff; 6];

/// The Internet checksum over parts, each but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A UDP packet in IPv4 in Ethernet; `None` when `payload` does not fit into one packet.
pub fn udp4(from: (Mac, Ipv4Addr, u16), to: (Mac, Ipv4Addr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(payload.len() + 8).ok()?;
    let length = udp_length.checked_add(20)?;
    let mut udp = Vec::with_capacity(payload.len() + 8);
    udp.extend_from_slice(&from.2.to_be_bytes());
    udp.extend_from_slice(&to.2.to_be_bytes());
    udp.extend_from_slice(&udp_length.to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(payload);
    let pseudo = [&from.1.octets()[..], &to.1.octets()[..], &[0, 17], &udp_length.to_be_bytes()[..]].concat();
    let sum = match checksum(&[&pseudo, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0xc0];
    ip.extend_from_slice(&length.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend_from_slice(&from.1.octets());
    ip.extend_from_slice(&to.1.octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + ip.len() + udp.len());
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&udp);
    Some(frame)
}

/// An ARP request for an address by its owner: everyone who hears it learns the owner's MAC.
fn arp_announcement(mac: &Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(mac);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(mac);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes, which overrides what they remember.
fn neighbour_announcement(mac: &Mac, address: std::net::Ipv6Addr) -> Vec<u8> {
    let all = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = vec![136, 0, 0, 0, 0xa0, 0, 0, 0];
    icmp.extend_from_slice(&address.octets());
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(mac);
    let length = icmp.len() as u16;
    let pseudo = [&address.octets()[..], &all.octets()[..], &u32::from(length).to_be_bytes()[..], &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend_from_slice(mac);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[58, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&all.octets());
    frame.extend_from_slice(&icmp);
    frame
}

/// Tells the neighbours on a link of the calling thread's namespace where these addresses are now.
pub fn announce(ifindex: u32, mac: &Mac, addresses: &[IpNet]) -> io::Result<()> {
    let socket = sys::packet_socket(ifindex)?;
    for address in addresses {
        let frame = match address.addr() {
            IpAddr::V4(a) => arp_announcement(mac, a),
            IpAddr::V6(a) => neighbour_announcement(mac, a),
        };
        send_frame(std::os::fd::AsFd::as_fd(&socket), &frame)?;
    }
    Ok(())
}

pub fn send_frame(socket: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_in_ipv4() {
        let from = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 2), 67);
        let to = ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 0, 0, 9), 68);
        let frame = udp4(from, to, b"hello").unwrap();
        assert_eq!(frame.len(), 14 + 20 + 8 + 5);
        // A header with its checksum in place sums to zero.
        assert_eq!(checksum(&[&frame[14..34]]), 0);
        let pseudo = [&from.1.octets()[..], &to.1.octets()[..], &[0, 17, 0, 13]].concat();
        assert_eq!(checksum(&[&pseudo, &frame[34..]]), 0);
        assert!(udp4(from, to, &vec![0; 70_000]).is_none());
    }
}
