//! The links that lead to the other machines: an alarm for one that is down, and the answer of StarlingX's link monitor.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use rpc::monitor::{Condition, Level};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Board, Settings};

/// The port of the management network is down; its interface has lost members.
const PORT: &str = "100.108";
const INTERFACE: &str = "100.109";
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

fn management(settings: &Settings) -> Option<(String, Vec<Link>)> {
    let address = settings.address.filter(|address| !address.is_loopback())?;
    let (name, running) = interfaces(address)?;
    let links = ports(Path::new("/sys/class/net"), &name, &running);
    Some((name, links))
}

/// What is wrong with an interface and its ports.
fn conditions(interface: &str, links: &[Link]) -> Vec<Condition> {
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
        .map(|link| condition(PORT, format!("port={}", link.name), Level::Major, format!("'MGMT' port '{}' failed", link.name)))
        .collect();
    if links.len() > 1 && !down.is_empty() {
        let (level, word) = if down.len() == links.len() { (Level::Critical, "failed") } else { (Level::Major, "degraded") };
        all.push(condition(INTERFACE, format!("interface={interface}"), level, format!("'MGMT' interface '{interface}' {word}")));
    }
    all
}

/// Follows them for ever.
pub async fn watch(settings: Settings, board: Arc<Board>) {
    let mut said: Vec<Condition> = Vec::new();
    loop {
        // An interface that has lost its address is not known to be down.
        if let Some((name, links)) = management(&settings) {
            let now = conditions(&name, &links);
            for gone in said.iter().filter(|c| !now.iter().any(|n| (&n.alarm_id, &n.entity) == (&c.alarm_id, &c.entity))) {
                board.clear(&gone.alarm_id, &gone.entity);
            }
            now.iter().cloned().for_each(|condition| board.set(condition));
            said = now;
        }
        tokio::time::sleep(settings.second).await;
    }
}

/// Answers `GET /mtce/lmon`.
pub async fn serve(at: SocketAddr, settings: Settings) {
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
        let settings = settings.clone();
        tokio::spawn(async move {
            // Who does not listen gets no answer.
            let _ = tokio::time::timeout(PATIENCE, one(stream, &settings)).await;
            drop(place);
        });
    }
}

async fn one(mut stream: TcpStream, settings: &Settings) -> std::io::Result<()> {
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
        (Some("GET"), Some("/mtce/lmon")) => respond("200 OK", "", &reply(settings).to_string()),
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

fn reply(settings: &Settings) -> Value {
    let time = Timestamp::now().micros().to_string();
    let state = |link: &Link| json!({"name": link.name, "state": if link.up { "Up" } else { "Down" }, "time": time});
    let networks: Vec<Value> = management(settings)
        .into_iter()
        .map(|(_, links)| json!({"network": "mgmt", "links": links.iter().map(state).collect::<Vec<_>>()}))
        .collect();
    json!({"status": "pass", "link_info": networks})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_is_degraded_by_one_member_and_failed_by_all() {
        let class = tempfile::tempdir().unwrap();
        let slaves = class.path().join("bond0/bonding/slaves");
        std::fs::create_dir_all(slaves.parent().unwrap()).unwrap();
        std::fs::write(&slaves, "eth0 eth1\n").unwrap();
        let running =
            |eth0, eth1| BTreeMap::from([("bond0".into(), true), ("eth0".into(), eth0), ("eth1".into(), eth1), ("mgmt".into(), false)]);
        let said = |name: &str, running: &BTreeMap<String, bool>| -> Vec<(String, Level)> {
            let all = conditions(name, &ports(class.path(), name, running));
            all.into_iter().map(|c| (format!("{} {}", c.alarm_id, c.entity), c.level)).collect()
        };
        let (port, bond) = ("100.108 port=eth1".to_string(), "100.109 interface=bond0".to_string());
        assert_eq!(said("bond0", &running(true, true)), []);
        assert_eq!(said("bond0", &running(true, false)), [(port, Level::Major), (bond.clone(), Level::Major)]);
        assert_eq!(said("bond0", &running(false, false)).last(), Some(&(bond, Level::Critical)));
        assert_eq!(said("mgmt", &running(true, true)), [("100.108 port=mgmt".to_string(), Level::Major)]);
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
        let server = tokio::spawn(serve(at, settings));
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
