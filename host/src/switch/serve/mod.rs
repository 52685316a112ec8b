//! What answers inside the namespaces: DHCP, router advertisements, names and metadata.
//!
//! Sockets are opened in a namespace by a thread that lives no longer than that, and served by the process's own
//! runtime. Each server reads its namespace's view without waiting; a new document only swaps the view.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use rpc::network::{NetworkDocument, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::engine::{Engine, Live};
use super::link::{Mac, mac_parse};
use super::{METADATA_V4, METADATA_V6, frame, namespace, plan, sys};
use crate::drops::Drops;

mod desk;
mod dhcp4;
mod dhcp6;
mod dns;
mod http;
mod metadata;
mod options;
mod ra;
mod view;

#[cfg(test)]
mod tests;

pub use desk::Desk;
use view::{Callers, View};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_DHCP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ADVERTISE_EVERY: Duration = Duration::from_secs(200);

/// Answers to solicitations in a second at most: what a wire full of booting guests needs, not what a flood wants.
const ANSWERS: u32 = 50;
/// More than any link of a guest lets through.
const LARGEST_DHCP: usize = 2047;

/// The advertisement of each interface.
type Advertisements = Vec<(u32, Vec<u8>)>;

/// All servers of the host, by namespace.
pub struct Servers {
    running: BTreeMap<String, Running>,
    desk: Arc<Desk>,
    resolvers: Arc<Vec<IpAddr>>,
    drops: Arc<Drops>,
}

struct Running {
    /// The namespace and links the sockets belong to; when these are new, so must be the sockets.
    at: (u64, Vec<u32>),
    view: watch::Sender<Arc<View>>,
    callers: watch::Sender<Arc<Callers>>,
    advertisements: watch::Sender<Arc<Advertisements>>,
    tasks: JoinSet<()>,
}

/// What a namespace's servers are to know.
struct Wanted {
    view: View,
    callers: Callers,
    advertisements: Advertisements,
}

fn swap<T: PartialEq>(sender: &watch::Sender<Arc<T>>, value: T) {
    sender.send_if_modified(|old| {
        let new = **old != value;
        if new {
            *old = Arc::new(value);
        }
        new
    });
}

impl Servers {
    pub fn new(desk: Arc<Desk>, resolvers: Vec<IpAddr>, drops: Arc<Drops>) -> Servers {
        Servers { running: BTreeMap::new(), desk, resolvers: Arc::new(resolvers), drops }
    }

    /// Starts, informs and ends servers so that they fit the namespaces that are there. Must run on a thread of the
    /// runtime that may block.
    pub fn update(&mut self, engine: &Engine, document: &NetworkDocument) -> Vec<String> {
        let mut errors = Vec::new();
        let mut keep = Vec::new();
        for network in document.networks.iter().filter(|n| n.service_port.is_some()) {
            let name = plan::service_namespace(&network.id);
            let link = plan::service_name(&network.id);
            let Some((live, index)) = engine.namespaces.get(&name).and_then(|l| Some((l, *l.links.get(&link)?))) else { continue };
            let view = View::new(network, document);
            let advertisement = ra::service_advertisement(&view, &view.service_mac);
            let wanted = Wanted {
                callers: Callers::of_network(&network.id, document),
                advertisements: advertisement.into_iter().map(|a| (index, a)).collect(),
                view,
            };
            if let Err(e) = self.ensure(&name, live, vec![index], wanted, true) {
                errors.push(format!("network {}: its servers: {e}", network.id));
            }
            keep.push(name);
        }
        for router in &document.routers {
            let name = plan::router_namespace(&router.id);
            let Some(live) = engine.namespaces.get(&name) else { continue };
            let interfaces = interfaces(router, live);
            let advertisements = if router.admin_up { router_advertisements(&interfaces, document) } else { Vec::new() };
            let callers = if router.admin_up { Callers::of_router(router, document) } else { Callers::default() };
            let wanted = Wanted { callers, advertisements, view: View::default() };
            let indices = interfaces.iter().map(|i| i.index).collect();
            if let Err(e) = self.ensure(&name, live, indices, wanted, false) {
                errors.push(format!("router {}: its servers: {e}", router.id));
            }
            keep.push(name);
        }
        self.running.retain(|name, _| keep.contains(name));
        errors
    }

    fn ensure(&mut self, name: &str, live: &Live, links: Vec<u32>, wanted: Wanted, network: bool) -> io::Result<()> {
        let at = (live.serial, links);
        if let Some(running) = self.running.get(name).filter(|r| r.at == at) {
            swap(&running.view, wanted.view);
            swap(&running.callers, wanted.callers);
            swap(&running.advertisements, wanted.advertisements);
            return Ok(());
        }
        let runtime = tokio::runtime::Handle::current();
        if let Some(mut old) = self.running.remove(name) {
            // Their ports must be free before new sockets want them.
            runtime.block_on(old.tasks.shutdown());
        }
        let links = &at.1;
        let sockets = namespace::inside(live.namespace.fd.as_fd(), || Sockets::open(links, network))?;
        let running = sockets.start(&runtime, at, wanted, self)?;
        self.running.insert(name.to_string(), running);
        Ok(())
    }
}

struct Interface<'a> {
    index: u32,
    mac: Mac,
    addresses: &'a [IpNet],
    network_id: &'a str,
}

fn interfaces<'a>(router: &'a Router, live: &Live) -> Vec<Interface<'a>> {
    let find = |i: &'a rpc::network::RouterInterface| {
        let index = *live.links.get(&plan::interface_name(&i.port_id))?;
        Some(Interface { index, mac: mac_parse(&i.mac)?, addresses: &i.addresses, network_id: &i.network_id })
    };
    router.interfaces.iter().filter_map(find).collect()
}

fn router_advertisements(interfaces: &[Interface<'_>], document: &NetworkDocument) -> Advertisements {
    let network = |id: &str| document.networks.iter().find(|n| n.id == id);
    interfaces
        .iter()
        .filter(|i| i.addresses.iter().any(|a| a.addr().is_ipv6()))
        .filter_map(|i| {
            let view = View::new(network(i.network_id)?, document);
            Some((i.index, ra::router_advertisement(&view, i.addresses, &i.mac)?))
        })
        .collect()
}

/// The sockets of a namespace, as the thread that opened them hands them over.
struct Sockets {
    index: u32,
    http: TcpListener,
    icmp: Option<UdpSocket>,
    network: Option<NetworkSockets>,
}

struct NetworkSockets {
    dhcp4: UdpSocket,
    frames: OwnedFd,
    dhcp6: Option<UdpSocket>,
    dns: UdpSocket,
    dns_tcp: TcpListener,
}

/// With IPv6 switched off in the kernel there is nobody to serve it to.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) => Ok(None),
        other => other.map(Some),
    }
}

fn udp(port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
}

fn tcp(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}

fn icmp(links: &[u32]) -> io::Result<UdpSocket> {
    let fd = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    // Receivers take neighbour discovery only with the hop limit no router can have let through.
    setsockopt(&fd, sockopt::Ipv6MulticastHops, &255)?;
    setsockopt(&fd, sockopt::Ipv6Ttl, &255)?;
    // A raw socket is sent to and received from like one for UDP.
    let socket = UdpSocket::from(fd);
    for index in links {
        socket.join_multicast_v6(&ALL_ROUTERS, *index)?;
    }
    Ok(socket)
}

fn dhcp6_socket(index: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 547))?;
    socket.join_multicast_v6(&ALL_DHCP, index)?;
    Ok(socket)
}

impl Sockets {
    /// Must run on a thread inside the namespace.
    fn open(links: &[u32], network: bool) -> io::Result<Sockets> {
        let index = links.first().copied().unwrap_or(0);
        let network = if network {
            let dhcp4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?;
            let frames = sys::packet_socket(index)?;
            Some(NetworkSockets { dhcp4, frames, dhcp6: optional(dhcp6_socket(index))?, dns: udp(53)?, dns_tcp: tcp(53)? })
        } else {
            None
        };
        Ok(Sockets { index, http: tcp(80)?, icmp: optional(icmp(links))?, network })
    }

    fn start(self, runtime: &tokio::runtime::Handle, at: (u64, Vec<u32>), wanted: Wanted, servers: &Servers) -> io::Result<Running> {
        let Servers { desk, resolvers, drops, .. } = servers;
        let _context = runtime.enter();
        let mut tasks = JoinSet::new();
        let mac = wanted.view.service_mac;
        let (view, views) = watch::channel(Arc::new(wanted.view));
        let (callers, callers_seen) = watch::channel(Arc::new(wanted.callers));
        let (advertisements, advertisements_seen) = watch::channel(Arc::new(wanted.advertisements));
        self.http.set_nonblocking(true)?;
        let own = vec![IpAddr::V4(METADATA_V4), IpAddr::V6(METADATA_V6)];
        let listener = tokio::net::TcpListener::from_std(self.http)?;
        tasks.spawn_on(http::serve(listener, own, callers_seen, desk.clone(), drops.clone()), runtime);
        if let Some(icmp) = self.icmp {
            tasks.spawn_on(advertise(async_udp(icmp)?, advertisements_seen, drops.clone()), runtime);
        }
        if let Some(network) = self.network {
            tasks.spawn_on(dhcp4_serve(async_udp(network.dhcp4)?, network.frames, mac, views.clone(), drops.clone()), runtime);
            if let Some(socket) = network.dhcp6 {
                tasks.spawn_on(dhcp6_serve(async_udp(socket)?, self.index, views.clone(), drops.clone()), runtime);
            }
            tasks.spawn_on(dns_serve(async_udp(network.dns)?, views.clone(), resolvers.clone(), drops.clone()), runtime);
            network.dns_tcp.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(network.dns_tcp)?;
            tasks.spawn_on(dns_tcp_serve(listener, views, resolvers.clone(), drops.clone()), runtime);
        }
        Ok(Running { at, view, callers, advertisements, tasks })
    }
}

fn async_udp(socket: UdpSocket) -> io::Result<tokio::net::UdpSocket> {
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

/// After an error of a socket (a link went down): a moment's rest, so that a lasting error does not spin.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn dhcp4_serve(socket: tokio::net::UdpSocket, frames: OwnedFd, mac: Mac, views: watch::Receiver<Arc<View>>, drops: Arc<Drops>) {
    let mut buffer = [0; LARGEST_DHCP + 1];
    loop {
        let Ok((n, _)) = socket.recv_from(&mut buffer).await else {
            rest().await;
            continue;
        };
        let view = views.borrow().clone();
        let request = match dhcp4::Request::parse(&buffer[..n]) {
            _ if n > LARGEST_DHCP => Err("oversized"),
            None => Err("malformed"),
            Some(request) if !view.leases.contains_key(&request.mac) => Err("stranger"),
            Some(request) => Ok(request),
        };
        let request = match request {
            Ok(request) => request,
            Err(reason) => {
                drops.add("dhcp", reason);
                continue;
            }
        };
        let Some(answer) = dhcp4::answer(&view, &request) else { continue };
        if let Some(bytes) = frame::udp4((mac, answer.from, 67), (answer.mac, answer.to, 68), &answer.bytes) {
            // A full queue loses it, and the client asks again.
            let _ = frame::send_frame(frames.as_fd(), &bytes);
        }
    }
}

async fn dhcp6_serve(socket: tokio::net::UdpSocket, index: u32, views: watch::Receiver<Arc<View>>, drops: Arc<Drops>) {
    let mut buffer = [0; LARGEST_DHCP + 1];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else {
            rest().await;
            continue;
        };
        let IpAddr::V6(source) = from.ip() else { continue };
        let view = views.borrow().clone();
        let refused = match dhcp6::client(&buffer[..n], source) {
            _ if n > LARGEST_DHCP => Some("oversized"),
            _ if !source.is_unicast_link_local() => Some("forged"),
            None => Some("malformed"),
            Some(mac) => (!view.leases.contains_key(&mac)).then_some("stranger"),
        };
        if let Some(reason) = refused {
            drops.add("dhcp6", reason);
            continue;
        }
        if let Some(answer) = dhcp6::answer(&view, &buffer[..n], source) {
            let _ = socket.send_to(&answer, SocketAddrV6::new(source, 546, 0, index)).await;
        }
    }
}

async fn advertise(socket: tokio::net::UdpSocket, mut seen: watch::Receiver<Arc<Advertisements>>, drops: Arc<Drops>) {
    let mut buffer = [0; 2048];
    let mut next = Instant::now();
    let (mut answers, mut second) = (0, Instant::now());
    loop {
        tokio::select! {
            changed = seen.changed() => {
                if changed.is_err() {
                    return;
                }
                next = Instant::now();
            }
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + ADVERTISE_EVERY;
                let all = seen.borrow_and_update().clone();
                for (index, bytes) in all.iter() {
                    let _ = socket.send_to(bytes, SocketAddrV6::new(ALL_NODES, 0, 0, *index)).await;
                }
            }
            received = socket.recv_from(&mut buffer) => {
                let Ok((n, std::net::SocketAddr::V6(from))) = received else {
                    rest().await;
                    continue;
                };
                match ra::solicited(&buffer[..n], *from.ip()) {
                    Ok(true) => {}
                    // The kernel's business: neighbours, echoes.
                    Ok(false) => continue,
                    Err(reason) => {
                        drops.add("ra", reason);
                        continue;
                    }
                }
                if second.elapsed() > Duration::from_secs(1) {
                    (answers, second) = (0, Instant::now());
                }
                answers += 1;
                if answers > ANSWERS {
                    drops.add("ra", "overload");
                    continue;
                }
                let all = seen.borrow().clone();
                // Who has no address yet does not know from which link it came: all nodes may hear the answer.
                let to = if from.ip().is_unspecified() { ALL_NODES } else { *from.ip() };
                for (index, bytes) in all.iter().filter(|(i, _)| *i == from.scope_id() || from.scope_id() == 0) {
                    let _ = socket.send_to(bytes, SocketAddrV6::new(to, 0, 0, *index)).await;
                }
            }
        }
    }
}

const FORWARD_TIME: Duration = Duration::from_secs(3);
const LARGEST_NAME_MESSAGE: usize = 4096;

/// Asks the configured name servers, one after the other.
async fn forward(question: &[u8], resolvers: &[IpAddr], over_tcp: bool) -> Vec<u8> {
    for resolver in resolvers {
        let answer = if over_tcp { ask_tcp(question, *resolver).await } else { ask_udp(question, *resolver).await };
        if let Ok(answer) = answer {
            return answer;
        }
    }
    dns::refuse(question, !resolvers.is_empty())
}

async fn ask_udp(question: &[u8], resolver: IpAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A new socket each: the port is as hard to guess as the kernel makes it.
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect((resolver, 53)).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; LARGEST_NAME_MESSAGE];
    let deadline = Instant::now() + FORWARD_TIME;
    loop {
        let n = tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await??;
        if n >= 12 && buffer[..2] == question[..2] {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(question: &[u8], resolver: IpAddr) -> io::Result<Vec<u8>> {
    let work = async {
        let mut stream = tokio::net::TcpStream::connect((resolver, 53)).await?;
        stream.write_all(&(question.len() as u16).to_be_bytes()).await?;
        stream.write_all(question).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    timeout(FORWARD_TIME, work).await?
}

async fn dns_serve(socket: tokio::net::UdpSocket, views: watch::Receiver<Arc<View>>, resolvers: Arc<Vec<IpAddr>>, drops: Arc<Drops>) {
    let socket = Arc::new(socket);
    let room = Arc::new(Semaphore::new(64));
    let mut forwards = JoinSet::new();
    let mut buffer = [0; LARGEST_NAME_MESSAGE + 1];
    loop {
        while forwards.try_join_next().is_some() {}
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else {
            rest().await;
            continue;
        };
        if n > LARGEST_NAME_MESSAGE {
            drops.add("dns", "oversized");
            continue;
        }
        let view = views.borrow().clone();
        match dns::answer(&view, &buffer[..n]) {
            dns::Answer::Reply(reply) => drop(socket.send_to(&reply, from).await),
            dns::Answer::Forward => {
                // When too many wait already, this one asks again.
                let Ok(permit) = room.clone().try_acquire_owned() else {
                    drops.add("dns", "overload");
                    continue;
                };
                let (socket, resolvers, question) = (socket.clone(), resolvers.clone(), buffer[..n].to_vec());
                forwards.spawn(async move {
                    let _ = socket.send_to(&forward(&question, &resolvers, false).await, from).await;
                    drop(permit);
                });
            }
            dns::Answer::Nothing => drops.add("dns", "malformed"),
        }
    }
}

async fn dns_tcp_serve(
    listener: tokio::net::TcpListener,
    views: watch::Receiver<Arc<View>>,
    resolvers: Arc<Vec<IpAddr>>,
    drops: Arc<Drops>,
) {
    let room = Arc::new(Semaphore::new(32));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            rest().await;
            continue;
        };
        let (views, resolvers, drops) = (views.clone(), resolvers.clone(), drops.clone());
        connections.spawn(async move {
            let talk = async {
                for _ in 0..16 {
                    let length = usize::from(stream.read_u16().await?);
                    if length > LARGEST_NAME_MESSAGE {
                        drops.add("dns", "oversized");
                        break;
                    }
                    let mut question = vec![0; length];
                    stream.read_exact(&mut question).await?;
                    let view = views.borrow().clone();
                    let reply = match dns::answer(&view, &question) {
                        dns::Answer::Reply(reply) => reply,
                        dns::Answer::Forward => forward(&question, &resolvers, true).await,
                        dns::Answer::Nothing => {
                            drops.add("dns", "malformed");
                            break;
                        }
                    };
                    stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat()).await?;
                }
                io::Result::Ok(())
            };
            let _ = timeout(Duration::from_secs(30), talk).await;
            drop(permit);
        });
    }
}
