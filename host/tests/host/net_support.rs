//! A bench for the switch: everything in a network and mount namespace of the test's own, which vanish with it.
//!
//! A guest is a network namespace with one `eth0`. The test opens the switch's tap as QEMU would, and carries
//! frames between it and `eth0`, so real programs run in the guest.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::switch::{Options, Switch};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rpc::network::*;

nix::ioctl_write_ptr!(tun_set_iff, b'T', 202, libc::c_int);

pub struct Bench {
    pub home: tempfile::TempDir,
    pub options: Options,
    pub runtime: tokio::runtime::Runtime,
    pub switch: Arc<Switch>,
}

impl Bench {
    /// Moves the calling thread, and with it all it starts, into namespaces of their own.
    pub fn new() -> Bench {
        Bench::with(Options::default())
    }
    pub fn with(options: Options) -> Bench {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests of the data plane run as root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::create_dir_all("/run/netns").unwrap();
        sh("ip link set lo up");
        // Security groups must not depend on a setting of the whole machine.
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let switch = runtime.block_on(async { Switch::start(home.path().into(), options.clone()).unwrap() });
        Bench { home, options, runtime, switch }
    }
    /// Ends the switch's process, so to say, without a new one.
    pub fn stop(&mut self) {
        let options = Options { vtep: None, ..self.options.clone() };
        let empty = tempfile::tempdir().unwrap();
        self.switch = self.runtime.block_on(async { Switch::start(empty.path().into(), options).unwrap() });
    }
    /// A new switch on the same home, as after a crash.
    pub fn restart(&mut self) {
        let (home, options) = (self.home.path().to_path_buf(), self.options.clone());
        self.switch = self.runtime.block_on(async { Switch::start(home, options).unwrap() });
    }
    pub fn try_apply(&self, document: &NetworkDocument) -> base::Result<host::wire::Applied> {
        self.runtime.block_on(self.switch.apply(document))
    }
    pub fn apply(&self, document: &NetworkDocument) -> Vec<String> {
        let applied = self.try_apply(document).unwrap();
        assert_eq!(applied.errors, Vec::<String>::new());
        applied.ports
    }
    /// Changes made while applying.
    pub fn changes(&self, document: &NetworkDocument) -> u64 {
        let before = self.switch.probe().operations();
        self.apply(document);
        self.switch.probe().operations() - before
    }
}

pub fn run(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}
/// Runs a command that must succeed.
pub fn sh(command: &str) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `check` is true.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Guest {
    pub name: String,
}

fn tap(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    unsafe { tun_set_iff(file.as_raw_fd(), (&raw const request).cast()) }.unwrap();
    file
}

/// Runs `f` in a named namespace.
pub fn within<T: Send>(namespace: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            })
            .join()
            .unwrap()
    })
}

impl Guest {
    /// A guest on a port; addresses are set by hand where DHCP is not what is tested.
    pub fn start(name: &str, port: &Port, addresses: &[&str], gateway: Option<&str>) -> Guest {
        // Where addresses are set by hand, routes are too.
        let prepare = if addresses.is_empty() { "true" } else { "sysctl -qw net.ipv6.conf.eth0.accept_ra=0" };
        let guest = Guest::start_with(name, port, prepare);
        for address in addresses {
            guest.sh(&format!("ip addr add {address} dev eth0 nodad"));
        }
        if let Some(gateway) = gateway {
            guest.sh(&format!("ip route add default via {gateway}"));
        }
        guest
    }
    /// With a command that runs before the link comes up.
    pub fn start_with(name: &str, port: &Port, prepare: &str) -> Guest {
        Guest::start_prepared(name, &port.id, &port.mac, prepare)
    }
    fn start_prepared(name: &str, port_id: &str, mac: &str, prepare: &str) -> Guest {
        let guest = Guest { name: name.into() };
        sh(&format!("ip netns add {name}"));
        guest.sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        let outer = tap(&rpc::instance::tap_name(port_id));
        let inner = within(name, || tap("eth0"));
        guest.sh(&format!("{prepare}; ip link set lo up; ip link set eth0 address {mac} up"));
        for (mut from, mut to) in [(outer.try_clone().unwrap(), inner.try_clone().unwrap()), (inner, outer)] {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while let Ok(n) = from.read(&mut buffer) {
                    // The other end may be down for a moment.
                    let _ = to.write(&buffer[..n]);
                }
            });
        }
        guest
    }
    pub fn run(&self, command: &str) -> Output {
        Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.name)).args(["sh", "-c", command]).output().unwrap()
    }
    pub fn sh(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{}: {command}: {}{}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
    pub fn ok(&self, command: &str) -> bool {
        self.run(command).status.success()
    }
    pub fn pings(&self, address: &str) -> bool {
        // A busy machine may lose the first ones.
        (0..20).any(|_| self.ok(&format!("ping -n -c 1 -W 0.5 {address}")))
    }
    /// One packet, a short wait: for what is expected to be refused.
    pub fn pings_once(&self, address: &str) -> bool {
        self.ok(&format!("ping -n -c 1 -W 0.3 {address}"))
    }
    /// Takes one TCP connection after the other on a port and answers each line of it with the caller's address.
    pub fn serve(&self, port: u16) {
        let listener = within(&self.name, || std::net::TcpListener::bind(("::", port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                        let _ = stream.write_all(format!("{}\n", peer.ip().to_canonical()).as_bytes());
                    }
                });
            }
        });
    }
    pub fn connect(&self, address: &str, port: u16) -> Option<Talk> {
        let address: IpAddr = address.parse().unwrap();
        let stream = within(&self.name, || std::net::TcpStream::connect_timeout(&(address, port).into(), Duration::from_millis(500)));
        stream.ok().map(|stream| Talk { stream })
    }
    /// A frame from the guest, whatever its addresses.
    pub fn send_frame(&self, frame: &[u8]) {
        within(&self.name, || Wire::open("eth0").send(frame));
    }
}

/// A link as its neighbours see it: every frame that passes from now on, and any frame sent.
pub struct Wire {
    file: File,
}

impl Wire {
    pub fn open(link: &str) -> Wire {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0);
        let file = unsafe { File::from_raw_fd(fd) };
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = nix::net::if_::if_nametoindex(link).unwrap() as i32;
        let length = std::mem::size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(unsafe { libc::bind(fd, (&raw const address).cast(), length) }, 0);
        Wire { file }
    }
    pub fn send(&self, frame: &[u8]) {
        assert_eq!((&self.file).write(frame).unwrap(), frame.len());
    }
    /// The frames that passed since the last call.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let mut frames = Vec::new();
        while let Ok(n) = (&self.file).read(&mut buffer) {
            frames.push(buffer[..n].to_vec());
        }
        frames
    }
}

/// An open TCP connection of a guest.
pub struct Talk {
    stream: std::net::TcpStream,
}

impl Talk {
    /// Says something and returns the address under which the other side sees us.
    pub fn seen_as(&mut self) -> Option<String> {
        self.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        self.stream.write_all(b"?").ok()?;
        let mut buffer = [0; 64];
        let n = self.stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        Some(String::from_utf8_lossy(&buffer[..n]).trim().to_string())
    }
}

// Documents.

/// An id from a letter and a number, distinct in its first characters.
pub fn id(letter: char, n: u32) -> String {
    format!("{n:07x}{}-0000-4000-8000-000000000000", if letter.is_ascii_hexdigit() { letter } else { 'f' })
}
pub fn mac(n: u32) -> String {
    format!("fa:16:3e:00:{:02x}:{:02x}", n >> 8 & 0xff, n & 0xff)
}
pub fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}
pub fn nets(list: &[&str]) -> Vec<ipnet::IpNet> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

pub fn subnet(n: u32, cidr: &str, gateway: Option<&str>) -> Subnet {
    let cidr: ipnet::IpNet = cidr.parse().unwrap();
    Subnet {
        id: id('e', n),
        cidr,
        gateway: gateway.map(|g| g.parse().unwrap()),
        dhcp: true,
        dns: vec![],
        host_routes: vec![],
        ipv6: cidr.addr().is_ipv6().then_some(Ipv6Mode::Slaac),
    }
}

/// A tenant's network; its service port has the given addresses.
pub fn network(n: u32, subnets: Vec<Subnet>, service: &[&str]) -> Network {
    Network {
        id: id('a', n),
        mtu: 1450,
        kind: NetworkKind::Overlay { vni: n },
        subnets,
        service_port: (!service.is_empty()).then(|| ServicePort { port_id: id('d', n), mac: mac(0xd000 + n), addresses: nets(service) }),
        elsewhere: Vec::new(),
        dns_domain: "example.test.".into(),
        leases: vec![],
    }
}

/// A VLAN of the physical network that [`external`] is on.
pub fn vlan(n: u32, id: u16, subnets: Vec<Subnet>, service: &[&str]) -> Network {
    Network { mtu: 1500, kind: NetworkKind::Vlan { physical_network: "external".into(), id }, ..network(n, subnets, service) }
}

pub fn external(n: u32) -> Network {
    Network {
        id: id('a', n),
        mtu: 1500,
        kind: NetworkKind::Provider { physical_network: "external".into(), host_addresses: nets(&["172.24.4.1/24"]) },
        subnets: vec![subnet(n, "172.24.4.0/24", Some("172.24.4.1"))],
        service_port: None,
        elsewhere: Vec::new(),
        dns_domain: String::new(),
        leases: vec![],
    }
}

pub fn port(n: u32, network: &Network, addresses: &[&str], groups: &[&SecurityGroup]) -> Port {
    Port {
        id: id('b', n),
        network_id: network.id.clone(),
        instance_id: id('c', n),
        mac: mac(n),
        admin_up: true,
        addresses: ips(addresses),
        allowed_pairs: vec![],
        port_security: true,
        limits: Default::default(),
        security_groups: groups.iter().map(|g| g.id.clone()).collect(),
    }
}

pub fn lease(port: &Port, hostname: &str) -> Lease {
    Lease { port_id: port.id.clone(), mac: port.mac.clone(), addresses: port.addresses.clone(), hostname: hostname.into(), options: vec![] }
}

pub fn rule(ingress: bool, version: u8, protocol: Option<u8>, ports: Option<(u16, u16)>, remote: Remote) -> SecurityRule {
    SecurityRule {
        id: base::id::uuid(),
        ingress,
        ip_version: version,
        protocol,
        port_min: ports.map(|p| p.0),
        port_max: ports.map(|p| p.1),
        remote,
    }
}

/// A group whose members may send anything, as new groups may; `rules` come on top.
pub fn group(n: u32, rules: Vec<SecurityRule>) -> SecurityGroup {
    let mut all = vec![rule(false, 4, None, None, Remote::Any), rule(false, 6, None, None, Remote::Any)];
    all.extend(rules);
    SecurityGroup { id: id('9', n), stateful: true, rules: all, members: vec![] }
}

pub fn open_group(n: u32) -> SecurityGroup {
    group(n, vec![rule(true, 4, None, None, Remote::Any), rule(true, 6, None, None, Remote::Any)])
}

pub fn router(n: u32, interfaces: &[(&Network, &[&str])], gateway: Option<(&Network, &str)>, floating: &[(&str, &str)]) -> Router {
    Router {
        id: id('8', n),
        admin_up: true,
        interfaces: interfaces
            .iter()
            .enumerate()
            .map(|(i, (network, addresses))| RouterInterface {
                port_id: id('7', n * 16 + i as u32),
                network_id: network.id.clone(),
                mac: mac(0x7000 + n * 16 + i as u32),
                end: String::new(),
                addresses: nets(addresses),
                mtu: network.mtu,
            })
            .collect(),
        gateway: gateway.map(|(network, address)| RouterGateway {
            port_id: id('6', n),
            network_id: network.id.clone(),
            mac: mac(0x6000 + n),
            addresses: nets(&[address]),
            mtu: 1500,
            nexthops: ips(&["172.24.4.1"]),
            snat: true,
        }),
        floating: floating
            .iter()
            .enumerate()
            .map(|(i, (floating, fixed))| FloatingIp {
                id: id('5', i as u32),
                floating: floating.parse().unwrap(),
                fixed: fixed.parse().unwrap(),
                coming: false,
            })
            .collect(),
        routes: vec![],
        home: None,
    }
}

pub fn document(networks: Vec<Network>, ports: Vec<Port>, routers: Vec<Router>, groups: Vec<SecurityGroup>) -> NetworkDocument {
    NetworkDocument { generation: 1, networks, ports, routers, security_groups: groups, encryption: None }
}

/// Everything there is in the switch's namespace and in those it made, without what differs from run to run.
pub fn snapshot() -> String {
    let strip = r"s/^[0-9]+: //; s/@if[0-9]+//; s/link-netnsid [0-9]+//; s/link-netns [^ \\]+//; s/link\/ether [0-9a-f:]+ brd [0-9a-f:]+//; s/^[0-9]+: //; s/valid_lft.*//; s/NO-CARRIER,//; s/,LOWER_UP//; s/ state [A-Z]+//; s/ linkdown//";
    let look = |name: &str, prefix: &str| {
        let part = |command: &str| format!("echo '== {name}: {command}'; {command} | sed -E '{strip}' | sort;");
        let script = ["ip -o link show", "ip -o addr show scope global", "ip -4 route show", "ip -6 route show"].map(part).concat();
        let output =
            Command::new("sh").args(["-c", &format!("{prefix} sh -c \"$0\""), &format!("{script} nft -s list ruleset")]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut text = look("root", "");
    for link in sh("ip -o link show").lines().filter_map(|line| line.split([' ', '@']).nth(1)).filter(|name| name.starts_with("vo")) {
        let link = link.trim_end_matches(':');
        let shown = sh(&format!("tc filter show dev {link} ingress; tc filter show dev {link} egress"));
        let programs: Vec<&str> = shown.split_whitespace().filter(|word| word.starts_with("sturnus")).collect();
        text.push_str(&format!("programs of {link}: {programs:?}\n"));
    }
    for name in namespaces() {
        text.push_str(&look(&name, &format!("nsenter --net=/run/netns/{name}")));
    }
    text
}

pub fn namespaces() -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir("/run/netns").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.retain(|n| n.starts_with("sturnus"));
    found.sort();
    found
}
