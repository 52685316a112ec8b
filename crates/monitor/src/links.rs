//! The links that lead to the other machines: an alarm for one that is down, and the answer of StarlingX's link monitor.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Timestamp;
use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use rpc::monitor::{Condition, Level};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};

use crate::{Board, Settings};

/// The longest request that is read, and how long one may take.
const REQUEST: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests served at once.
const AT_ONCE: usize = 8;

/// An interface, with its members if it is a bond.
#[derive(Debug, PartialEq)]
struct Link {
    name: String,
    up: bool,
}

/// The interface that has this address, and of each interface of this network namespace whether it runs. (What lies in /sys may be
/// of another namespace.)
fn interfaces(address: IpAddr) -> Option<(String, BTreeMap<String, bool>)> {
    let all: Vec<_> = getifaddrs().ok()?.collect();
    let ip = |entry: &InterfaceAddress| {
        let storage = entry.address?;
        let four = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        four.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let name = all.iter().find(|entry| ip(entry) == Some(address))?.interface_name.clone();
    let runs = |entry: &InterfaceAddress| (entry.interface_name.clone(), entry.flags.contains(InterfaceFlags::IFF_RUNNING));
    Some((name, all.iter().map(runs).collect()))
}

/// The physical ends of an interface: the members of a bond, or itself.
fn ports(class: &Path, name: &str, running: &BTreeMap<String, bool>) -> Vec<Link> {
    let slaves = std::fs::read_to_string(class.join(name).join("bonding/slaves")).unwrap_or_default();
    let names: Vec<&str> = if slaves.trim().is_empty() { vec![name] } else { slaves.split_whitespace().collect() };
    // One that is not seen is not known to be down.
    names.into_iter().map(|port| Link { name: port.to_string(), up: running.get(port).copied().unwrap_or(true) }).collect()
}

/// A network that leads to other machines.
#[derive(Clone, Copy)]
struct Network {
    /// As the link monitor's clients know it, and as its alarms do.
    name: &'static str,
    word: &'static str,
    /// The alarms of a port that is down, and of an interface that has lost members.
    port: &'static str,
    interface: &'static str,
    address: IpAddr,
}

/// The networks that this machine has an address on.
fn networks(settings: &Settings) -> Vec<Network> {
    let known = [
        ("mgmt", "MGMT", "100.108", "100.109", settings.address),
        ("cluster-host", "CLUSTER-HOST", "100.110", "100.111", settings.cluster_address),
        // What users call may be reached by the management network too.
        ("oam", "OAM", "100.106", "100.107", settings.public_address.filter(|public| settings.address != Some(*public))),
    ];
    let outside = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    let network = |(name, word, port, interface, address): (_, _, _, _, Option<IpAddr>)| {
        Some(Network { name, word, port, interface, address: address.filter(outside)? })
    };
    known.into_iter().filter_map(network).collect()
}

/// The interface of a network, with its ports.
fn look(network: &Network) -> Option<(String, Vec<Link>)> {
    let (name, running) = interfaces(network.address)?;
    let links = ports(Path::new("/sys/class/net"), &name, &running);
    Some((name, links))
}

/// Since when each port has been as it is.
#[derive(Default)]
pub struct Since(Mutex<BTreeMap<String, (bool, Timestamp)>>);

impl Since {
    fn note(&self, link: &Link, now: Timestamp) -> Timestamp {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(link.name.clone()).or_insert((link.up, now));
        if known.0 != link.up {
            *known = (link.up, now);
        }
        known.1
    }
}

/// What is wrong with an interface and its ports.
fn conditions(network: &Network, interface: &str, links: &[Link]) -> Vec<Condition> {
    let word = network.word;
    let condition = |alarm_id: &str, entity: String, level, reason| Condition {
        alarm_id: alarm_id.into(),
        entity,
        level,
        reason,
        degrades: true,
        fails: false,
    };
    let down: Vec<&Link> = links.iter().filter(|link| !link.up).collect();
    let mut all: Vec<Condition> = down
        .iter()
        .map(|link| condition(network.port, format!("port={}", link.name), Level::Major, format!("'{word}' port '{}' failed", link.name)))
        .collect();
    if links.len() > 1 && !down.is_empty() {
        let (level, how) = if down.len() == links.len() { (Level::Critical, "failed") } else { (Level::Major, "degraded") };
        let reason = format!("'{word}' interface '{interface}' {how}");
        all.push(condition(network.interface, format!("interface={interface}"), level, reason));
    }
    all
}

/// Where the kernel tells of each change of a link. None where it cannot be heard: then looking has to do.
#[allow(unsafe_code)]
fn changes() -> Option<AsyncFd<OwnedFd>> {
    /// `RTMGRP_LINK` of rtnetlink.
    const LINKS: u32 = 1;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let heard = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).ok()?;
    bind(heard.as_raw_fd(), &NetlinkAddr::new(0, LINKS)).ok()?;
    // SAFETY: an `OwnedFd` owns its descriptor, and nothing replaces or closes it inside the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(heard, Interest::READABLE) }.ok()
}

/// Waits for a change. What it was is looked at anyway.
async fn changed(heard: Option<&AsyncFd<OwnedFd>>) {
    let Some(heard) = heard else { return std::future::pending().await };
    let Ok(mut ready) = heard.readable().await else { return std::future::pending().await };
    let mut message = [0; 8192];
    // More than there was room for is a change too.
    while matches!(recv(heard.get_ref().as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT), Ok(1..) | Err(Errno::ENOBUFS)) {}
    ready.clear_ready();
}

/// Follows them for ever.
pub async fn watch(settings: Settings, board: Arc<Board>, since: Arc<Since>) {
    let heard = changes();
    let networks = networks(&settings);
    let mut said: Vec<Vec<Condition>> = vec![Vec::new(); networks.len()];
    loop {
        for (network, said) in networks.iter().zip(&mut said) {
            // An interface that has lost its address is not known to be down.
            let Some((name, links)) = look(network) else { continue };
            for link in &links {
                since.note(link, Timestamp::now());
            }
            let now = conditions(network, &name, &links);
            for gone in said.iter().filter(|c| !now.iter().any(|n| (&n.alarm_id, &n.entity) == (&c.alarm_id, &c.entity))) {
                board.clear(&gone.alarm_id, &gone.entity);
            }
            now.iter().cloned().for_each(|condition| board.set(condition));
            *said = now;
        }
        tokio::select! {
            () = changed(heard.as_ref()) => {}
            () = tokio::time::sleep(settings.second) => {}
        }
    }
}

/// Answers `GET /mtce/lmon`.
pub async fn serve(at: SocketAddr, settings: Settings, since: Arc<Since>) {
    let listener = match TcpListener::bind(at).await {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("the state of links cannot be asked for at {at}: {error}"),
    };
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (settings, since) = (settings.clone(), since.clone());
        tokio::spawn(async move {
            // Who does not listen gets no answer.
            let _ = tokio::time::timeout(PATIENCE, one(stream, &settings, &since)).await;
            drop(place);
        });
    }
}

async fn one(mut stream: TcpStream, settings: &Settings, since: &Since) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST {
        let mut piece = [0; 1024];
        let n = stream.read(&mut piece).await?;
        if n == 0 {
            break;
        }
        request.extend_from_slice(piece.get(..n).unwrap_or_default());
    }
    let line = String::from_utf8_lossy(request.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let answer = match (words.next(), words.next()) {
        (Some("GET"), Some("/mtce/lmon")) => respond("200 OK", "", &reply(settings, since).to_string()),
        (Some("GET"), _) => respond("404 Not Found", "", ""),
        _ => respond("405 Method Not Allowed", "Allow: GET\r\n", ""),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn reply(settings: &Settings, since: &Since) -> Value {
    let state = |link: &Link| {
        // That of the change. One of this very moment is known from now on.
        let time = since.note(link, Timestamp::now()).micros().to_string();
        json!({"name": link.name, "state": if link.up { "Up" } else { "Down" }, "time": time})
    };
    let links = |network: &Network| {
        let (_, links) = look(network)?;
        Some(json!({"network": network.name, "links": links.iter().map(state).collect::<Vec<_>>()}))
    };
    json!({"status": "pass", "link_info": networks(settings).iter().filter_map(links).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Network = Network {
        name: "cluster-host",
        word: "CLUSTER-HOST",
        port: "100.110",
        interface: "100.111",
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    };

    #[test]
    fn the_networks_are_those_that_lead_to_others() {
        let address = |text: &str| text.parse().ok();
        let names = |address, cluster_address, public_address| {
            let settings = Settings { address, cluster_address, public_address, ..Settings::of(&base::Config::for_home("/nowhere")) };
            networks(&settings).iter().map(|n| (n.name, n.port)).collect::<Vec<_>>()
        };
        assert_eq!(names(None, None, address("127.0.0.1")), []);
        let both = [("mgmt", "100.108"), ("cluster-host", "100.110")];
        assert_eq!(names(address("10.0.0.1"), address("10.1.0.1"), address("10.0.0.1")), both);
        assert_eq!(names(address("10.0.0.1"), None, address("192.0.2.1")), [("mgmt", "100.108"), ("oam", "100.106")]);
        assert_eq!(names(address("10.0.0.1"), None, address("0.0.0.0")), [("mgmt", "100.108")]);
    }

    #[test]
    fn the_time_is_that_of_the_change() {
        let since = Since::default();
        let note = |up, at| since.note(&Link { name: "eth0".into(), up }, Timestamp(at)).0;
        assert_eq!([note(true, 1), note(true, 2), note(false, 3), note(false, 4), note(true, 5), note(true, 6)], [1, 1, 3, 3, 5, 5]);
    }

    fn ip(line: &str) {
        let done = std::process::Command::new("ip").args(line.split(' ')).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Two networks of a machine, each a cable whose other end is pulled.
    #[test]
    fn net_links_that_go_down_are_told_at_once_each_as_what_it_is() {
        let machine = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(pulled());
        });
        machine.join().unwrap();
    }

    async fn pulled() {
        for (name, address) in [("mgmt", "192.0.2.1/24"), ("cluster", "198.51.100.1/24")] {
            ip(&format!("link add {name} type veth peer name {name}-end"));
            ip(&format!("address add {address} dev {name}"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name}-end up"));
        }
        let settings = Settings {
            // So that nothing is seen by looking now and then.
            second: Duration::from_secs(3600),
            address: "192.0.2.1".parse().ok(),
            cluster_address: "198.51.100.1".parse().ok(),
            ..Settings::of(&base::Config::for_home("/nowhere"))
        };
        let (board, since) = (Arc::new(Board::default()), Arc::<Since>::default());
        let watching = tokio::spawn(watch(settings.clone(), board.clone(), since.clone()));
        let says = async |wanted: &[&str]| {
            let mut changes = board.changes();
            let said = || board.conditions().iter().map(|c| format!("{} {}", c.alarm_id, c.entity)).collect::<Vec<_>>();
            let wait = async {
                while said() != wanted {
                    changes.changed().await.unwrap();
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "{:?}", said());
        };
        says(&[]).await;
        let before = Timestamp::now();
        ip("link set cluster-end down");
        says(&["100.110 port=cluster"]).await;
        let answered = Timestamp::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = reply(&settings, &since);
        let link = |n: usize| answer["link_info"][n]["links"][0].clone();
        assert_eq!((&answer["link_info"][0]["network"], &answer["link_info"][1]["network"]), (&json!("mgmt"), &json!("cluster-host")));
        assert_eq!((&link(0)["state"], &link(1)["state"]), (&json!("Up"), &json!("Down")));
        let time = |link: &Value| link["time"].as_str().unwrap().parse::<i64>().unwrap();
        assert!((before.micros()..=answered.micros()).contains(&time(&link(1))), "{answer}");
        ip("link set mgmt-end down");
        says(&["100.108 port=mgmt", "100.110 port=cluster"]).await;
        ip("link set cluster-end up");
        ip("link set mgmt-end up");
        says(&[]).await;
        watching.abort();
    }

    #[test]
    fn a_bond_is_degraded_by_one_member_and_failed_by_all() {
        let class = tempfile::tempdir().unwrap();
        let slaves = class.path().join("bond0/bonding/slaves");
        std::fs::create_dir_all(slaves.parent().unwrap()).unwrap();
        std::fs::write(&slaves, "eth0 eth1\n").unwrap();
        let running =
            |eth0, eth1| BTreeMap::from([("bond0".into(), true), ("eth0".into(), eth0), ("eth1".into(), eth1), ("mgmt".into(), false)]);
        let said = |name: &str, running: &BTreeMap<String, bool>| -> Vec<(String, Level)> {
            let all = conditions(&CLUSTER, name, &ports(class.path(), name, running));
            all.into_iter().map(|c| (format!("{} {}", c.alarm_id, c.entity), c.level)).collect()
        };
        let (port, bond) = ("100.110 port=eth1".to_string(), "100.111 interface=bond0".to_string());
        assert_eq!(said("bond0", &running(true, true)), []);
        assert_eq!(said("bond0", &running(true, false)), [(port, Level::Major), (bond.clone(), Level::Major)]);
        assert_eq!(said("bond0", &running(false, false)).last(), Some(&(bond, Level::Critical)));
        assert_eq!(said("mgmt", &running(true, true)), [("100.110 port=mgmt".to_string(), Level::Major)]);
        assert_eq!(said("elsewhere", &running(true, true)), []);
    }

    #[test]
    fn this_machine_s_own_interfaces_are_seen() {
        let (name, running) = interfaces("127.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((name.as_str(), running.get("lo")), ("lo", Some(&true)));
        assert_eq!(interfaces("192.0.2.1".parse().unwrap()), None);
    }

    #[tokio::test]
    async fn the_link_monitor_answers_as_its_clients_know_it() {
        let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = Settings { links: Some(at), ..Settings::of(&base::Config::for_home("/nowhere")) };
        let server = tokio::spawn(serve(at, settings, Arc::default()));
        let ask = async |request: &str| {
            let began = std::time::Instant::now();
            let mut stream = loop {
                match TcpStream::connect(at).await {
                    Ok(stream) => break stream,
                    Err(e) => assert!(began.elapsed() < Duration::from_secs(20), "{e}"),
                }
            };
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let answer = ask("GET /mtce/lmon HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"status":"pass","link_info":[]}"#), "{answer}");
        let answer = ask("POST /mtce/lmon HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("\r\nAllow: GET\r\n"), "{answer}");
        assert!(ask("GET /else HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
