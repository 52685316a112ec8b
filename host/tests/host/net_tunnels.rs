//! Overlay networks between two hosts: each a namespace of its own, with a wire between them.

use std::sync::mpsc;

use host::switch::Options;
use rpc::network::*;

use crate::net_support::*;

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// The other host: a thread with namespaces of its own, that does what it is told.
pub struct Far {
    jobs: mpsc::Sender<Job>,
    /// The path of its network namespace.
    pub namespace: String,
}

pub fn options(vtep: &str) -> Options {
    Options { vtep: Some(vtep.parse().unwrap()), ..Options::default() }
}

impl Far {
    pub fn start(vtep: &'static str) -> Far {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bench = Bench::with(options(vtep));
            tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
            for job in todo {
                job(&mut bench);
            }
        });
        Far { jobs, namespace: told.recv().unwrap() }
    }

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Bench) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move |bench| tell.send(job(bench)).unwrap())).unwrap();
        told.recv().expect("the far host's job panicked")
    }
}

/// Two hosts, 192.0.2.1 here and 192.0.2.2 there, and the link `wire` between them.
pub fn hosts() -> (Bench, Far) {
    hosts_at("192.0.2.1", "192.0.2.2", 24)
}

/// The same under other addresses.
pub fn hosts_at(here: &str, there: &'static str, prefix: u8) -> (Bench, Far) {
    let near = Bench::with(options(here));
    let far = Far::start(there);
    sh(&format!("ip link add wire type veth peer name wire netns {}", far.namespace));
    sh(&format!("ip addr add {here}/{prefix} dev wire nodad && ip link set wire up"));
    far.run(move |_| sh(&format!("ip addr add {there}/{prefix} dev wire nodad && ip link set wire up")));
    (near, far)
}

fn at(address: &str, ports: &[&Port]) -> Vec<RemoteHost> {
    let ports = ports.iter().map(|p| RemotePort { mac: p.mac.clone(), addresses: p.addresses.clone() }).collect();
    vec![RemoteHost { address: address.parse().unwrap(), ports, ends: vec![] }]
}

/// A host's document: its own ports, and those of the other host.
pub fn view(net: &Network, own: &[&Port], other: &str, others: &[&Port], group: &SecurityGroup, generation: u64) -> NetworkDocument {
    let net = Network { elsewhere: at(other, others), ..net.clone() };
    let mut document = document(vec![net], own.iter().map(|p| (*p).clone()).collect(), vec![], vec![group.clone()]);
    document.generation = generation;
    document
}

/// Packets that left through the network's tunnel.
fn sent(net: &Network) -> u64 {
    let name = format!("vx{}", base::id::short(&net.id, 11));
    std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/tx_packets")).map_or_else(
        // /sys shows the namespace it was mounted in.
        |_| {
            sh(&format!("ip -s -j link show {name}"))
                .split("\"tx\":{\"bytes\":")
                .nth(1)
                .and_then(|t| number_after(t, "\"packets\":"))
                .unwrap()
        },
        |text| text.trim().parse().unwrap(),
    )
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[test]
fn net_tunnels_lead_where_the_controller_says() {
    let (near, far) = hosts();
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None), subnet(2, "2001:db8::/64", None)], &["10.0.0.2/24"]);
    let open = open_group(1);
    let [a, b, c] = [1, 2, 3].map(|n| port(n, &net, &[&format!("10.0.0.1{n}"), &format!("2001:db8::1{n}")], &[&open]));
    near.apply(&view(&net, &[&a], "192.0.2.2", &[&b], &open, 1));
    let (there, port_b) = (view(&net, &[&b], "192.0.2.1", &[&a], &open, 1), b.clone());
    far.run(move |bench| {
        bench.apply(&there);
        Guest::start("b", &port_b, &["10.0.0.12/24", "2001:db8::12/64"], None);
    });
    let guest = Guest::start("a", &a, &["10.0.0.11/24", "2001:db8::11/64"], None);
    assert!(guest.pings("10.0.0.12") && guest.pings("2001:db8::12"), "to the other host");
    assert!(guest.ok("ping -n -c 3 -i 0.2 -W 1 -M do -s 1422 10.0.0.12"), "the network's whole MTU fits the wire");

    // Who has a known address is answered here, even while the other host is out of reach.
    sh("ip link set wire down");
    guest.sh("ip neigh flush all");
    assert!(!guest.pings_once("10.0.0.12") && !guest.pings_once("2001:db8::12"));
    for address in ["10.0.0.12", "2001:db8::12"] {
        assert!(guest.sh(&format!("ip neigh show {address}")).contains(&mac(2)), "{}", guest.sh("ip neigh show"));
    }
    sh("ip link set wire up");
    assert!(guest.pings("10.0.0.12"));

    // What nobody knows is not sent around; what is for everybody is.
    guest.sh("ip neigh replace 10.0.0.99 lladdr 02:00:00:00:00:09 dev eth0");
    let before = sent(&net);
    assert!(!guest.ok("ping -n -c 50 -i 0.01 -W 0.2 10.0.0.99"));
    assert!(sent(&net) < before + 25, "unknown destinations leave: {} packets", sent(&net) - before);
    guest.run("ping -n -b -c 50 -i 0.01 -W 0.2 10.0.0.255");
    eventually("broadcasts reach the other host", || sent(&net) >= before + 50);

    // The same document again changes nothing.
    assert_eq!(near.changes(&view(&net, &[&a], "192.0.2.2", &[&b], &open, 1)), 0);

    // A port moves over here, one comes there: entries follow, and nothing of the old ones stays.
    let (there, port_c) = (view(&net, &[&c], "192.0.2.1", &[&a, &b], &open, 2), c.clone());
    far.run(move |bench| {
        sh("ip netns delete b");
        bench.apply(&there);
        Guest::start("c", &port_c, &["10.0.0.13/24"], None);
    });
    near.apply(&view(&net, &[&a, &b], "192.0.2.2", &[&c], &open, 2));
    let moved = Guest::start("b", &b, &["10.0.0.12/24"], None);
    assert!(guest.pings("10.0.0.12"), "on this host now");
    assert!(moved.pings("10.0.0.13") && guest.pings("10.0.0.13"), "and to the one that came");
    let entries = sh("bridge fdb show; ip neigh show; ip -6 neigh show");
    assert!(!entries.contains(&format!("{} dev vx", mac(2))), "{entries}");

    // Without ports elsewhere the tunnel leads nowhere.
    near.apply(&view(&net, &[&a, &b], "192.0.2.2", &[], &open, 3));
    assert!(!sh("bridge fdb show").contains(&mac(3)), "{}", sh("bridge fdb show"));
}

#[test]
fn net_tunnels_survive_a_break_at_every_change() {
    let near = Bench::with(options("192.0.2.1"));
    let net = network(1, vec![subnet(1, "10.0.0.0/24", None)], &[]);
    let open = open_group(1);
    let [a, b, c] = [1, 2, 3].map(|n| port(n, &net, &[&format!("10.0.0.1{n}")], &[&open]));
    let first = view(&net, &[&a], "192.0.2.2", &[&b], &open, 1);
    let second = view(&net, &[&a], "192.0.2.3", &[&b, &c], &open, 2);
    near.apply(&first);
    let entries = || sh("bridge fdb show | grep -v 33:33 | sort; ip neigh show | sort");
    let at_first = entries();
    near.apply(&second);
    let at_second = entries();
    assert_ne!(at_first, at_second);
    for breaks in 0..20 {
        near.apply(&first);
        assert_eq!(entries(), at_first);
        near.switch.probe().fail_after(breaks);
        let broken = near.try_apply(&second);
        near.switch.probe().fail_after(u64::MAX >> 1);
        near.apply(&second);
        assert_eq!(entries(), at_second, "after a break at change {breaks}");
        if broken.is_ok_and(|applied| applied.errors.is_empty()) {
            return;
        }
    }
    panic!("more changes than this test breaks at");
}

/// A router's site, of overlays or of VLANs: host 0 is here, 1 and 2 are far. Two networks; guests `a` (one) and `d` (two) on host 0, `b` (two) and
/// `c` (one) on host 1, none on host 2. `a` and `b` have floating addresses.
pub struct Site {
    pub nets: [Network; 2],
    out: Network,
    /// With the host each is on, and its network.
    guests: Vec<(usize, usize, Port)>,
    open: SecurityGroup,
}

const FLOATING: [(&str, &str); 2] = [("172.24.4.51", "10.0.0.11"), ("172.24.4.52", "10.1.0.12")];

impl Site {
    fn new() -> Site {
        Site::of(|n, subnets| network(n, subnets, &[]))
    }

    pub fn of(make: fn(u32, Vec<Subnet>) -> Network) -> Site {
        let nets = [("10.0.0.0/24", "10.0.0.1"), ("10.1.0.0/24", "10.1.0.1")];
        let mut n = 0;
        let nets = nets.map(|(cidr, gateway)| {
            n += 1;
            make(n, vec![subnet(n, cidr, Some(gateway))])
        });
        let open = open_group(1);
        let mut guests: Vec<(usize, usize, Port)> = [(0, 0, "10.0.0.11"), (1, 1, "10.1.0.12"), (1, 0, "10.0.0.13"), (0, 1, "10.1.0.14")]
            .into_iter()
            .zip(1..)
            .map(|((host, net, address), n)| (host, net, port(n, &nets[net], &[address], &[&open])))
            .collect();
        // An address that `c` may take and nobody is told of.
        guests[2].2.allowed_pairs = vec![AddressPair { mac: guests[2].2.mac.clone(), cidr: "10.0.0.99/32".parse().unwrap() }];
        Site { nets, out: external(9), guests, open }
    }

    /// What a host is told while `home` has the gateway, of the hosts that `live`.
    pub fn view(&self, me: usize, home: usize, live: &[usize], generation: u64) -> NetworkDocument {
        let end = |net: usize, host: usize| format!("02:00:00:00:0{net}:0{host}");
        let mut nets: Vec<Network> = self.nets.to_vec();
        for (i, net) in nets.iter_mut().enumerate() {
            for host in live.iter().filter(|host| **host != me) {
                let there: Vec<&Port> = self.guests.iter().filter(|g| (g.0, g.1) == (*host, i)).map(|g| &g.2).collect();
                net.elsewhere.extend(at(&format!("192.0.2.{}", host + 1), &there));
                net.elsewhere.last_mut().unwrap().ends.push(end(i, *host));
            }
        }
        let mut out = self.out.clone();
        if let (true, NetworkKind::Provider { host_addresses, .. }) = (me != 0, &mut out.kind) {
            host_addresses.clear();
        }
        let own: Vec<Port> = self.guests.iter().filter(|g| g.0 == me).map(|g| g.2.clone()).collect();
        let floating: Vec<(&str, &str)> =
            FLOATING.into_iter().filter(|(_, fixed)| own.iter().any(|p| p.addresses == ips(&[fixed]))).collect();
        let joins: [(&Network, &[&str]); 2] = [(&nets[0], &["10.0.0.1/24"]), (&nets[1], &["10.1.0.1/24"])];
        let mut router = router(1, &joins, Some((&out, "172.24.4.100/24")), &floating);
        for (i, interface) in router.interfaces.iter_mut().enumerate() {
            interface.end = end(i, me);
        }
        if me != home {
            router.gateway.as_mut().unwrap().mac = end(9, me);
            router.home = Some(RouterHome { port_id: router.interfaces[0].port_id.clone(), mac: end(0, home) });
        }
        nets.push(out);
        let mut document = document(nets, own, vec![router], vec![self.open.clone()]);
        document.generation = generation;
        document
    }

    pub fn guest(&self, name: &str, i: usize) -> Guest {
        let (_, net, port) = &self.guests[i];
        Guest::start(name, port, &[&format!("{}/24", port.addresses[0])], Some(&format!("10.{net}.0.1")))
    }
}

/// As a far host's guest is known here.
pub fn of(name: &str) -> Guest {
    Guest { name: name.into() }
}

fn outside_pings(address: &str) -> bool {
    (0..20).any(|_| run(&format!("ping -n -c 1 -W 0.5 {address}")).status.success())
}

/// Answers with the address it sees.
fn serve_outside() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("172.24.4.1", 8000)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

/// How many frames that `filter` fits reach a guest while `what` runs.
fn heard(guest: &Guest, filter: &str, what: impl FnOnce()) -> u64 {
    guest.sh(&format!(
        "nft 'add table netdev heard; add chain netdev heard c {{ type filter hook ingress device eth0 priority 0; }}; \
         add rule netdev heard c {filter} counter'"
    ));
    what();
    let text = guest.sh("nft -j list table netdev heard; nft delete table netdev heard");
    number_after(&text, "\"packets\": ").unwrap()
}

#[test]
fn net_routers_have_parts_on_every_host() {
    routers_have_parts(Site::new);
}

/// Three hosts with the parts of a router, and all ways through it.
pub fn routers_have_parts(make: fn() -> Site) {
    // The wire between hosts and the world outside are bridges here, so that each host's end can be cut.
    let near = Bench::with(options("192.0.2.1"));
    let fars = [Far::start("192.0.2.2"), Far::start("192.0.2.3")];
    sh("ip link add wire type bridge && ip addr add 192.0.2.1/24 dev wire && ip link set wire up");
    sh("ip link add br-ex type bridge && ip link set br-ex up");
    for (host, far) in (1..).zip(&fars) {
        for (bridge, letter) in [("wire", 'w'), ("br-ex", 'x')] {
            sh(&format!("ip link add {letter}{host} type veth peer name {letter} netns {}", far.namespace));
            sh(&format!("ip link set {letter}{host} master {bridge} up"));
        }
        far.run(move |_| {
            sh(&format!("ip addr add 192.0.2.{}/24 dev w && ip link set w up", host + 1));
            sh("ip link add br-ex type bridge && ip link set br-ex up && ip link set x master br-ex up");
        });
    }
    let site = make();
    let all = [0, 1, 2];
    near.apply(&site.view(0, 2, &all, 1));
    assert_eq!(near.changes(&site.view(0, 2, &all, 1)), 0, "the same document again");
    for (host, far) in (1..).zip(&fars) {
        let view = site.view(host, 2, &all, 1);
        far.run(move |bench| drop(bench.apply(&view)));
    }
    let (a, d) = (site.guest("a", 0), site.guest("d", 3));
    let started = make();
    fars[0].run(move |_| {
        let (b, c) = (started.guest("b", 1), started.guest("c", 2));
        c.sh("ip addr add 10.0.0.99/32 dev eth0");
        b.serve(80);
        c.serve(80);
    });
    a.serve(80);
    serve_outside();
    let seen = |guest: &str, address: &str, port: u16| of(guest).connect(address, port).and_then(|mut talk| talk.seen_as());
    let far_seen = |guest: &'static str, address: &'static str, port: u16| {
        fars[0].run(move |_| of(guest).connect(address, port).and_then(|mut talk| talk.seen_as()))
    };

    // East-west, from network to network and within one; by each part itself.
    assert!(a.pings("10.1.0.12") && d.pings("10.0.0.13") && a.pings("10.0.0.13") && a.pings("10.1.0.14"));
    assert_eq!(seen("a", "10.1.0.12", 80).as_deref(), Some("10.0.0.11"), "by fixed addresses nothing is translated");
    assert!(d.pings("10.0.0.99"), "an address behind another tunnel that nobody was told of");
    // Nobody hears of the router from two hosts.
    let answers = heard(&a, "arp operation reply", || {
        a.sh("arping -q -c 1 -w 1 -I eth0 10.0.0.1");
    });
    assert_eq!(answers, 1, "who has the router's address");

    // Without a floating address out by the home; with one, by the guest's own host.
    assert!(d.pings("172.24.4.1"));
    assert_eq!(far_seen("c", "172.24.4.1", 8000).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("d", "172.24.4.1", 8000).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("a", "172.24.4.1", 8000).as_deref(), Some("172.24.4.51"));
    assert_eq!(far_seen("b", "172.24.4.1", 8000).as_deref(), Some("172.24.4.52"));
    assert!(outside_pings("172.24.4.51") && outside_pings("172.24.4.52") && outside_pings("172.24.4.100"));
    // To floating addresses from within: on another host, on the same, with an own one and without, to itself.
    assert_eq!(seen("a", "172.24.4.52", 80).as_deref(), Some("172.24.4.51"));
    assert_eq!(seen("d", "172.24.4.52", 80).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("d", "172.24.4.51", 80).as_deref(), Some("172.24.4.100"));
    assert_eq!(far_seen("b", "172.24.4.51", 80).as_deref(), Some("172.24.4.52"));
    assert_eq!(far_seen("c", "172.24.4.51", 80).as_deref(), Some("172.24.4.100"));
    assert_eq!(far_seen("c", "172.24.4.52", 80).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("a", "172.24.4.51", 80).as_deref(), Some("172.24.4.51"));

    // The home is cut off: only what leaves by it stops.
    sh("ip link set w2 down && ip link set x2 down");
    assert!(a.pings("10.1.0.12") && d.pings("10.0.0.13"), "east-west while the home is cut off");
    assert!(outside_pings("172.24.4.51") && outside_pings("172.24.4.52"), "floating addresses while the home is cut off");
    assert_eq!(seen("a", "172.24.4.52", 80).as_deref(), Some("172.24.4.51"));
    assert!(!d.pings_once("172.24.4.1"));

    // Another host is the home: this one.
    let left = [0, 1];
    let view = site.view(1, 0, &left, 2);
    fars[0].run(move |bench| drop(bench.apply(&view)));
    near.apply(&site.view(0, 0, &left, 2));
    assert!(d.pings("172.24.4.1") && outside_pings("172.24.4.100"));
    assert_eq!(far_seen("c", "172.24.4.1", 8000).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("d", "172.24.4.1", 8000).as_deref(), Some("172.24.4.100"));
    assert_eq!(seen("a", "172.24.4.1", 8000).as_deref(), Some("172.24.4.51"));
    assert!(outside_pings("172.24.4.51") && outside_pings("172.24.4.52") && a.pings("10.1.0.12"));
    let rules =
        sh(&format!("ip netns exec sturnus-r-{} sh -c 'ip rule; ip route show table 100; ip neigh show nud permanent'", id('8', 1)));
    let gone = |text: &str| !rules.contains(text);
    let overlay = matches!(site.nets[0].kind, NetworkKind::Overlay { .. });
    assert!(gone("lookup 100") && gone("169.254.169.253") && (!overlay || gone("dev q")), "what a part needed is gone: {rules}");
}
