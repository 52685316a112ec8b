//! The servers' answers, read back by somebody else's codec, and whatever bytes a guest may send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::v6;
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;
use rpc::network::{DhcpOption as Extra, Ipv6Mode, Lease, Route, Subnet};

use super::super::link::{Mac, link_local, mac_text};
use super::view::View;
use super::{dhcp4, dhcp6, dns, ra};

const MAC: Mac = [0xfa, 0x16, 0x3e, 0, 0, 1];

fn view(mode: Ipv6Mode) -> View {
    let subnet = |id: &str, cidr: &str, gateway: Option<&str>, ipv6| Subnet {
        id: id.into(),
        cidr: cidr.parse().unwrap(),
        gateway: gateway.map(|g| g.parse().unwrap()),
        dhcp: true,
        dns: vec![],
        host_routes: vec![],
        ipv6,
    };
    let mut four = subnet("4", "10.0.0.0/24", Some("10.0.0.1"), None);
    four.host_routes = vec![Route { destination: "192.168.0.0/16".parse().unwrap(), nexthop: "10.0.0.7".parse().unwrap() }];
    let lease = Lease {
        port_id: "p".into(),
        mac: mac_text(&MAC),
        addresses: vec!["10.0.0.11".parse().unwrap(), "fd00:1::11".parse().unwrap()],
        hostname: "Web".into(),
        options: vec![
            Extra { name: "bootfile-name".into(), value: "pxelinux.0".into(), ip_version: 4 },
            Extra { name: "server-ip-address".into(), value: "10.0.0.99".into(), ip_version: 4 },
            Extra { name: "42".into(), value: "10.0.0.5".into(), ip_version: 4 },
        ],
    };
    View {
        id: "n".into(),
        mtu: 1450,
        domain: "example.test".into(),
        subnets: vec![four, subnet("6", "fd00:1::/64", Some("fd00:1::1"), Some(mode)), subnet("5", "10.5.0.0/16", None, None)],
        service: vec!["10.0.0.2/24".parse().unwrap(), "fd00:1::2/64".parse().unwrap()],
        service_mac: [2, 0, 0, 0, 0, 9],
        leases: [(MAC, lease)].into(),
        ..View::default()
    }
}

fn ask(kind: v4::MessageType, edit: impl FnOnce(&mut v4::Message)) -> Vec<u8> {
    let mut message = v4::Message::default();
    message.set_chaddr(&MAC).set_xid(7);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    edit(&mut message);
    message.to_vec().unwrap()
}

fn answered(view: &View, bytes: &[u8]) -> Option<(v4::Message, dhcp4::Answer)> {
    let answer = dhcp4::answer(view, &dhcp4::Request::parse(bytes)?)?;
    Some((v4::Message::decode(&mut Decoder::new(&answer.bytes)).unwrap(), answer))
}

#[test]
fn a_lease_and_all_that_comes_with_it() {
    let view = view(Ipv6Mode::Slaac);
    let (offer, answer) = answered(&view, &ask(v4::MessageType::Discover, |_| {})).unwrap();
    assert_eq!((offer.opts().msg_type(), offer.yiaddr(), offer.xid()), (Some(v4::MessageType::Offer), Ipv4Addr::new(10, 0, 0, 11), 7));
    assert_eq!((answer.to, answer.mac, answer.from), (Ipv4Addr::new(10, 0, 0, 11), MAC, Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!(offer.siaddr(), Ipv4Addr::new(10, 0, 0, 99));
    assert_eq!(offer.fname_str().unwrap().unwrap().trim_end_matches('\0'), "pxelinux.0");
    let own = Ipv4Addr::new(10, 0, 0, 2);
    for (code, wanted) in [
        (OptionCode::SubnetMask, DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))),
        (OptionCode::Router, DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 1)])),
        (OptionCode::DomainNameServer, DhcpOption::DomainNameServer(vec![own])),
        (OptionCode::Hostname, DhcpOption::Hostname("web".into())),
        (OptionCode::DomainName, DhcpOption::DomainName("example.test".into())),
        (OptionCode::InterfaceMtu, DhcpOption::InterfaceMtu(1450)),
        (OptionCode::ServerIdentifier, DhcpOption::ServerIdentifier(own)),
        (OptionCode::AddressLeaseTime, DhcpOption::AddressLeaseTime(86_400)),
        (OptionCode::NtpServers, DhcpOption::NtpServers(vec![Ipv4Addr::new(10, 0, 0, 5)])),
        (OptionCode::BootfileName, DhcpOption::BootfileName(b"pxelinux.0".to_vec())),
    ] {
        assert_eq!(offer.opts().get(code), Some(&wanted));
    }
    let Some(DhcpOption::ClasslessStaticRoute(routes)) = offer.opts().get(OptionCode::ClasslessStaticRoute) else { panic!("no routes") };
    let routes: Vec<String> = routes.iter().map(|(net, via)| format!("{net} {via}")).collect();
    assert_eq!(routes, ["169.254.169.254/32 10.0.0.2", "192.168.0.0/16 10.0.0.7", "10.5.0.0/16 0.0.0.0", "0.0.0.0/0 10.0.0.1"]);
}

#[test]
fn requests_are_granted_refused_or_left_to_others() {
    let view = view(Ipv6Mode::Slaac);
    let request = |address: [u8; 4], server: Option<[u8; 4]>| {
        ask(v4::MessageType::Request, |m| {
            m.opts_mut().insert(DhcpOption::RequestedIpAddress(address.into()));
            if let Some(server) = server {
                m.opts_mut().insert(DhcpOption::ServerIdentifier(server.into()));
            }
        })
    };
    let kind = |bytes: &[u8]| answered(&view, bytes).map(|(m, a)| (m.opts().msg_type().unwrap(), a.to));
    let own = Ipv4Addr::new(10, 0, 0, 11);
    assert_eq!(kind(&request([10, 0, 0, 11], Some([10, 0, 0, 2]))), Some((v4::MessageType::Ack, own)));
    assert_eq!(kind(&request([10, 0, 0, 11], None)), Some((v4::MessageType::Ack, own)), "after a reboot");
    assert_eq!(kind(&request([10, 0, 0, 12], None)), Some((v4::MessageType::Nak, Ipv4Addr::BROADCAST)));
    assert_eq!(kind(&request([10, 0, 0, 11], Some([10, 0, 0, 200]))), None, "another server's offer");
    let renew = ask(v4::MessageType::Request, |m| {
        m.set_ciaddr(own);
    });
    assert_eq!(kind(&renew), Some((v4::MessageType::Ack, own)));
    let broadcast = ask(v4::MessageType::Discover, |m| {
        m.set_flags(v4::Flags::default().set_broadcast());
    });
    assert_eq!(kind(&broadcast), Some((v4::MessageType::Offer, Ipv4Addr::BROADCAST)));
    let inform = ask(v4::MessageType::Inform, |m| {
        m.set_ciaddr(own);
    });
    let (ack, _) = answered(&view, &inform).unwrap();
    assert_eq!((ack.yiaddr(), ack.opts().get(OptionCode::AddressLeaseTime)), (Ipv4Addr::UNSPECIFIED, None));
    for silent in [v4::MessageType::Decline, v4::MessageType::Release] {
        assert_eq!(kind(&ask(silent, |_| {})), None);
    }
    let stranger = ask(v4::MessageType::Discover, |m| {
        m.set_chaddr(&[0xfa, 0x16, 0x3e, 9, 9, 9]);
    });
    assert_eq!(kind(&stranger), None);
}

fn ask6(kind: v6::MessageType, edit: impl FnOnce(&mut v6::DhcpOptions)) -> Vec<u8> {
    let mut message = v6::Message::new(kind);
    message.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 1, 2, 3, 4, 5, 6]));
    edit(message.opts_mut());
    message.to_vec().unwrap()
}

#[test]
fn dhcp6_gives_addresses_where_the_subnet_says_so() {
    let source = link_local(&MAC);
    let ask_address = || {
        ask6(v6::MessageType::Solicit, |o| {
            o.insert(v6::DhcpOption::IANA(v6::IANA { id: 5, t1: 0, t2: 0, opts: v6::DhcpOptions::new() }));
        })
    };
    let decode = |bytes: Vec<u8>| v6::Message::decode(&mut Decoder::new(&bytes)).unwrap();
    let stateful = decode(dhcp6::answer(&view(Ipv6Mode::DhcpStateful), &ask_address(), source).unwrap());
    assert_eq!(stateful.msg_type(), v6::MessageType::Advertise);
    let Some(v6::DhcpOption::IANA(ia)) = stateful.opts().get(v6::OptionCode::IANA) else { panic!("no association") };
    let Some(v6::DhcpOption::IAAddr(address)) = ia.opts.get(v6::OptionCode::IAAddr) else { panic!("no address") };
    assert_eq!((ia.id, address.addr), (5, "fd00:1::11".parse::<Ipv6Addr>().unwrap()));
    let stateless = decode(dhcp6::answer(&view(Ipv6Mode::DhcpStateless), &ask_address(), source).unwrap());
    let Some(v6::DhcpOption::IANA(ia)) = stateless.opts().get(v6::OptionCode::IANA) else { panic!("no association") };
    assert!(ia.opts.get(v6::OptionCode::IAAddr).is_none() && ia.opts.get(v6::OptionCode::StatusCode).is_some());
    let information =
        decode(dhcp6::answer(&view(Ipv6Mode::DhcpStateless), &ask6(v6::MessageType::InformationRequest, |_| {}), source).unwrap());
    let Some(v6::DhcpOption::DomainNameServers(dns)) = information.opts().get(v6::OptionCode::DomainNameServers) else {
        panic!("no names")
    };
    assert_eq!(dns, &["fd00:1::2".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(dhcp6::answer(&view(Ipv6Mode::DhcpStateful), &ask_address(), "fe80::1".parse().unwrap()), None, "nobody we know");
}

#[test]
fn advertisements_say_who_routes_and_who_gives_addresses() {
    let mut v = view(Ipv6Mode::Slaac);
    let service = ra::service_advertisement(&v, &MAC).unwrap();
    assert_eq!((service[5], &service[6..8]), (0, &[0, 0][..]), "no way out through the service");
    let router = ra::router_advertisement(&v, &["fd00:1::1/64".parse().unwrap()], &MAC).unwrap();
    assert_eq!(&router[6..8], &1800u16.to_be_bytes());
    assert_eq!(router.len() % 8, 0);
    let prefix = router.windows(4).position(|w| w == [3, 4, 64, 0xc0]).expect("an autonomous prefix on the link");
    assert_eq!(router[prefix + 16..prefix + 20], [0xfd, 0, 0, 1]);
    v.routed.insert("6".into());
    assert_eq!(ra::service_advertisement(&v, &MAC), None, "the router does");
    let managed = ra::router_advertisement(&view(Ipv6Mode::DhcpStateful), &["fd00:1::1/64".parse().unwrap()], &MAC).unwrap();
    assert_eq!(managed[5], 0xc0);
    assert!(managed.windows(4).any(|w| w == [3, 4, 64, 0x80]));
    assert_eq!(ra::router_advertisement(&v, &["10.0.0.1/24".parse().unwrap()], &MAC), None);
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend(super::options::name_bytes(name).unwrap());
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

#[test]
fn names_of_the_network() {
    let view = view(Ipv6Mode::Slaac);
    let reply = |name: &str, kind: u16| match dns::answer(&view, &query(name, kind)) {
        dns::Answer::Reply(r) => r,
        other => panic!("{name}: {other:?}"),
    };
    let four = reply("WEB.example.test", 1);
    assert_eq!((four[3] & 15, four[7], &four[four.len() - 4..]), (0, 1, &[10, 0, 0, 11][..]));
    assert_eq!(reply("web", 28)[7], 1);
    assert_eq!((reply("web.example.test", 15)[3] & 15, reply("web.example.test", 15)[7]), (0, 0), "a name without such a record");
    assert_eq!(reply("nobody.example.test", 1)[3] & 15, 3);
    let back = reply("11.0.0.10.in-addr.arpa", 12);
    assert!(back.ends_with(b"\x03web\x07example\x04test\0"));
    let six: String = "fd000001000000000000000000000011".chars().rev().flat_map(|c| [c, '.']).collect();
    assert_eq!(reply(&format!("{six}ip6.arpa"), 12)[7], 1);
    for other in ["example.org", "1.1.1.1.in-addr.arpa"] {
        assert_eq!(dns::answer(&view, &query(other, 1)), dns::Answer::Forward, "{other}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let solicit = ask6(v6::MessageType::Solicit, |o| {
        o.insert(v6::DhcpOption::IANA(v6::IANA { id: 5, t1: 0, t2: 0, opts: v6::DhcpOptions::new() }));
    });
    vec![
        ask(v4::MessageType::Discover, |_| {}),
        ask(v4::MessageType::Request, |m| {
            m.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 0, 0, 11].into()));
        }),
        solicit,
        query("web.example.test", 1),
        query("11.0.0.10.in-addr.arpa", 12),
    ]
}

fn all(bytes: &[u8]) {
    let v = view(Ipv6Mode::DhcpStateful);
    if let Some(request) = dhcp4::Request::parse(bytes) {
        let _ = dhcp4::answer(&v, &request);
    }
    let _ = dhcp6::answer(&v, bytes, link_local(&MAC));
    let _ = dns::answer(&v, bytes);
    let _ = dns::refuse(bytes, true);
    let _ = ra::solicited(bytes, link_local(&MAC));
    let _ = IpAddr::from(link_local(&MAC));
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        all(&bytes);
    }

    #[test]
    fn damaged_messages_do_no_harm(seed in 0..5usize, hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), cut in any::<prop::sample::Index>()) {
        let mut bytes = seeds().remove(seed);
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        all(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        all(&bytes);
    }
}

/// Messages worth keeping, `host/corpus/KIND-OUTCOME-WHAT.hex`: whoever finds another one adds it there.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let mut all: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let digits: Vec<u8> = text.lines().filter(|l| !l.starts_with('#')).flat_map(str::bytes).collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_string(), digits.chunks(2).map(byte).collect())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_corpus_is_answered_as_its_names_say() {
    let v = view(Ipv6Mode::DhcpStateful);
    let corpus = corpus();
    assert!(corpus.len() > 20);
    for (name, bytes) in &corpus {
        all(bytes);
        let answered = match name.split('-').next() {
            Some("dhcp4") => dhcp4::Request::parse(bytes).and_then(|r| dhcp4::answer(&v, &r)).is_some(),
            Some("dhcp6") => dhcp6::answer(&v, bytes, link_local(&MAC)).is_some(),
            _ => continue,
        };
        match name.split('-').nth(1) {
            Some("answered") => assert!(answered, "{name}"),
            Some("silent") => assert!(!answered, "{name}"),
            other => assert_eq!(other, Some("any"), "{name}"),
        }
    }
}

proptest! {
    #[test]
    fn what_grows_from_the_corpus_does_no_harm(one in any::<prop::sample::Index>(), hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12), cut in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 0..40)) {
        let corpus = corpus();
        let mut bytes = corpus[one.index(corpus.len())].1.clone();
        bytes.truncate(cut.index(bytes.len() + 1));
        bytes.extend(more);
        for (at, value) in hits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        all(&bytes);
    }
}
