//! Extra DHCP options of a port: from name or number and text to code and bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// IPv4 addresses (IPv6 ones in DHCPv6).
    Addresses,
    U8,
    U16,
    U32,
    Text,
    Names,
    Routes,
    Bytes,
}

use Form::{Addresses, Bytes, Names, Routes, Text, U8, U16, U32};

/// DHCPv4 options by the names dnsmasq made common.
const V4: &[(&str, u8, Form)] = &[
    ("netmask", 1, Addresses),
    ("time-offset", 2, U32),
    ("router", 3, Addresses),
    ("time-server", 4, Addresses),
    ("dns-server", 6, Addresses),
    ("log-server", 7, Addresses),
    ("lpr-server", 9, Addresses),
    ("hostname", 12, Text),
    ("boot-file-size", 13, U16),
    ("domain-name", 15, Text),
    ("swap-server", 16, Addresses),
    ("root-path", 17, Text),
    ("extension-path", 18, Text),
    ("ip-forward-enable", 19, U8),
    ("non-local-source-routing", 20, U8),
    ("policy-filter", 21, Addresses),
    ("max-datagram-reassembly", 22, U16),
    ("default-ttl", 23, U8),
    ("mtu", 26, U16),
    ("all-subnets-local", 27, U8),
    ("broadcast", 28, Addresses),
    ("router-discovery", 31, U8),
    ("router-solicitation", 32, Addresses),
    ("static-route", 33, Addresses),
    ("trailer-encapsulation", 34, U8),
    ("arp-timeout", 35, U32),
    ("ethernet-encap", 36, U8),
    ("tcp-ttl", 37, U8),
    ("tcp-keepalive", 38, U32),
    ("nis-domain", 40, Text),
    ("nis-server", 41, Addresses),
    ("ntp-server", 42, Addresses),
    ("vendor-encap", 43, Bytes),
    ("netbios-ns", 44, Addresses),
    ("netbios-dd", 45, Addresses),
    ("netbios-nodetype", 46, U8),
    ("netbios-scope", 47, Text),
    ("x-windows-fs", 48, Addresses),
    ("x-windows-dm", 49, Addresses),
    ("lease-time", 51, U32),
    ("t1", 58, U32),
    ("t2", 59, U32),
    ("vendor-class", 60, Text),
    ("nis+-domain", 64, Text),
    ("nis+-server", 65, Addresses),
    ("tftp-server", 66, Text),
    ("tftp-server-name", 66, Text),
    ("bootfile-name", 67, Text),
    ("mobile-ip-home", 68, Addresses),
    ("smtp-server", 69, Addresses),
    ("pop3-server", 70, Addresses),
    ("nntp-server", 71, Addresses),
    ("irc-server", 74, Addresses),
    ("user-class", 77, Text),
    ("posix-timezone", 100, Text),
    ("tzdb-timezone", 101, Text),
    ("domain-search", 119, Names),
    ("classless-static-route", 121, Routes),
    ("tftp-server-address", 150, Addresses),
    ("path-prefix", 210, Text),
    ("ms-classless-static-route", 249, Routes),
];

const V6: &[(&str, u16, Form)] = &[
    ("sip-server-domain", 21, Names),
    ("sip-server", 22, Addresses),
    ("dns-server", 23, Addresses),
    ("domain-search", 24, Names),
    ("nis-server", 27, Addresses),
    ("nis-domain", 29, Names),
    ("sntp-server", 31, Addresses),
    ("information-refresh-time", 32, U32),
    ("ntp-server", 56, Addresses),
    ("bootfile-url", 59, Text),
    ("bootfile-param", 60, Text),
];

fn bare(name: &str) -> &str {
    name.strip_prefix("option6:").or_else(|| name.strip_prefix("option:")).unwrap_or(name).trim()
}

/// `None`: no such option, or a value that does not fit it.
pub fn option4(name: &str, value: &str) -> Option<(u8, Vec<u8>)> {
    let name = bare(name);
    let (code, form) = match name.parse::<u8>() {
        Ok(code) => (code, V4.iter().find(|(_, c, _)| *c == code).map(|(_, _, f)| *f)),
        Err(_) => V4.iter().find(|(n, _, _)| n.eq_ignore_ascii_case(name)).map(|(_, c, f)| (*c, Some(*f)))?,
    };
    // 0 and 255 are no options; type, server and client of the message are the server's own to say.
    if matches!(code, 0 | 50 | 52 | 53 | 54 | 61 | 255) {
        return None;
    }
    Some((code, bytes(form.unwrap_or_else(|| guess(value)), value, 4)?))
}

pub fn option6(name: &str, value: &str) -> Option<(u16, Vec<u8>)> {
    let name = bare(name);
    let (code, form) = match name.parse::<u16>() {
        Ok(code) => (code, V6.iter().find(|(_, c, _)| *c == code).map(|(_, _, f)| *f)),
        Err(_) => V6.iter().find(|(n, _, _)| n.eq_ignore_ascii_case(name)).map(|(_, c, f)| (*c, Some(*f)))?,
    };
    if code <= 20 {
        return None;
    }
    let data = bytes(form.unwrap_or_else(|| guess(value)), value, 6)?;
    // The NTP option holds suboptions, one a server address (1).
    if code == 56 {
        return Some((code, data.chunks(16).flat_map(|a| [&[0, 1, 0, 16][..], a].concat()).collect()));
    }
    Some((code, data))
}

/// What a value of an option we know only by number most likely is.
fn guess(value: &str) -> Form {
    let parts = || value.split(',').map(str::trim);
    if parts().all(|p| p.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()) {
        Addresses
    } else if value.contains(':') && value.split(':').all(|p| p.len() <= 2 && u8::from_str_radix(p, 16).is_ok()) {
        Bytes
    } else if let Ok(n) = value.parse::<u32>() {
        match n {
            0..=0xff => U8,
            0x100..=0xffff => U16,
            _ => U32,
        }
    } else {
        Text
    }
}

fn bytes(form: Form, value: &str, version: u8) -> Option<Vec<u8>> {
    let value = value.trim();
    let parts = || value.split([',', ' ']).map(str::trim).filter(|p| !p.is_empty());
    match form {
        Addresses => {
            let mut out = Vec::new();
            for part in parts() {
                if version == 4 {
                    out.extend(part.parse::<Ipv4Addr>().ok()?.octets());
                } else {
                    out.extend(part.trim_matches(['[', ']']).parse::<Ipv6Addr>().ok()?.octets());
                }
            }
            (!out.is_empty()).then_some(out)
        }
        U8 => value.parse::<u8>().ok().map(|v| vec![v]),
        U16 => value.parse::<u16>().ok().map(|v| v.to_be_bytes().to_vec()),
        U32 => value.parse::<i64>().ok().and_then(|v| u32::try_from(v & 0xffff_ffff).ok()).map(|v| v.to_be_bytes().to_vec()),
        Text => (!value.is_empty() && value.len() <= 1024).then(|| value.as_bytes().to_vec()),
        Names => {
            let mut out = Vec::new();
            for part in parts() {
                out.extend(name_bytes(part)?);
            }
            (!out.is_empty()).then_some(out)
        }
        Routes => {
            let list: Vec<&str> = parts().collect();
            let mut out = Vec::new();
            for pair in list.chunks(2) {
                let [to, via] = pair else { return None };
                let IpNet::V4(net) = to.parse::<IpNet>().or_else(|_| to.parse::<IpAddr>().map(IpNet::from)).ok()? else { return None };
                out.extend(route_bytes(net, via.parse().ok()?));
            }
            (!out.is_empty()).then_some(out)
        }
        Bytes => value.split(':').map(|p| u8::from_str_radix(p, 16).ok()).collect(),
    }
}

/// A route of option 121: only the bytes of the destination that its prefix covers.
pub fn route_bytes(net: ipnet::Ipv4Net, via: Ipv4Addr) -> Vec<u8> {
    let covered = usize::from(net.prefix_len()).div_ceil(8);
    let mut out = vec![net.prefix_len()];
    out.extend(&net.network().octets()[..covered]);
    out.extend(via.octets());
    out
}

/// A domain name on the wire; `None` when a label or the whole is too long.
pub fn name_bytes(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(option4("bootfile-name", "pxelinux.0"), Some((67, b"pxelinux.0".to_vec())));
        assert_eq!(option4("67", "pxelinux.0"), Some((67, b"pxelinux.0".to_vec())));
        assert_eq!(option4("option:ntp-server", "10.0.0.1,10.0.0.2"), Some((42, vec![10, 0, 0, 1, 10, 0, 0, 2])));
        assert_eq!(option4("mtu", "1400"), Some((26, vec![5, 0x78])));
        assert_eq!(option4("domain-search", "a.b,c"), Some((119, b"\x01a\x01b\0\x01c\0".to_vec())));
        assert_eq!(option4("121", "10.0.0.0/8,10.0.0.1"), Some((121, vec![8, 10, 10, 0, 0, 1])));
        assert_eq!(option4("200", "01:ff"), Some((200, vec![1, 255])));
        assert_eq!(option4("201", "70000"), Some((201, vec![0, 1, 0x11, 0x70])));
        for (name, value) in
            [("mtu", "a"), ("mtu", "70000"), ("router", "x"), ("53", "1"), ("255", "1"), ("unheard-of", "1"), ("121", "10.0.0.0/8")]
        {
            assert_eq!(option4(name, value), None, "{name}={value}");
        }
        assert_eq!(option6("23", "fd00::1").map(|o| o.1.len()), Some(16));
        assert_eq!(option6("ntp-server", "fd00::1").map(|o| o.1.len()), Some(20));
    }

    proptest::proptest! {
        #[test]
        fn any_text(name in ".{0,20}", value in ".{0,80}") {
            let _ = (option4(&name, &value), option6(&name, &value));
        }
    }
}
