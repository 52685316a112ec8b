//! Overlay networks between two hosts: each a namespace of its own, with a wire between them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod net_support;

use std::sync::mpsc;

use host::switch::Options;
use net_support::*;
use rpc::network::*;

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// The other host: a thread with namespaces of its own, that does what it is told.
struct Far {
    jobs: mpsc::Sender<Job>,
    /// The path of its network namespace.
    namespace: String,
}

fn options(vtep: &str) -> Options {
    Options { vtep: Some(vtep.parse().unwrap()), ..Options::default() }
}

impl Far {
    fn start(vtep: &'static str) -> Far {
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

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Bench) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move |bench| tell.send(job(bench)).unwrap())).unwrap();
        told.recv().expect("the far host's job panicked")
    }
}

/// Two hosts, 192.0.2.1 here and 192.0.2.2 there, and the link `wire` between them.
fn hosts() -> (Bench, Far) {
    let near = Bench::with(options("192.0.2.1"));
    let far = Far::start("192.0.2.2");
    sh(&format!("ip link add wire type veth peer name wire netns {}", far.namespace));
    sh("ip addr add 192.0.2.1/24 dev wire && ip link set wire up");
    far.run(|_| sh("ip addr add 192.0.2.2/24 dev wire && ip link set wire up"));
    (near, far)
}

fn at(address: &str, ports: &[&Port]) -> Vec<RemoteHost> {
    let ports = ports.iter().map(|p| RemotePort { mac: p.mac.clone(), addresses: p.addresses.clone() }).collect();
    vec![RemoteHost { address: address.parse().unwrap(), ports }]
}

/// A host's document: its own ports, and those of the other host.
fn view(net: &Network, own: &[&Port], other: &str, others: &[&Port], group: &SecurityGroup, generation: u64) -> NetworkDocument {
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
