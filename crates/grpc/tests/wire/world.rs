//! A controller on loopback with an authority of its own, and a wire that can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Result;
use futures_util::future::BoxFuture;
use grpc::{ClientTls, Renewed, ServerTls, Timing};
use pki::{Authority, Served};
use rpc::message::{HostInfo, Lender, Secret, ToController, ToHost};
use rpc::session::{Heard, HostEnd, Hosts, Said};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const TIMING: Timing = Timing {
    handshake: Duration::from_secs(5),
    keep_alive: Duration::from_millis(300),
    keep_alive_answer: Duration::from_millis(300),
    revocation: Duration::from_millis(50),
};

/// By what names the controller is reached.
pub const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

pub struct World {
    pub home: tempfile::TempDir,
    pub authority: Authority,
    pub shown: Arc<Served>,
    pub hosts: Hosts,
    pub heard: mpsc::Receiver<Heard>,
    pub address: SocketAddr,
    pub stop: watch::Sender<bool>,
    pub served: JoinHandle<Result<()>>,
    pub timing: Timing,
    /// Why connections were closed that were no host's.
    pub turned_away: Arc<Mutex<Vec<&'static str>>>,
}

impl World {
    pub async fn new() -> World {
        World::with(TIMING).await
    }

    pub async fn with(timing: Timing) -> World {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::open(home.path()).unwrap();
        let shown = Served::issued(home.path(), NAMES.map(String::from).to_vec()).unwrap();
        let revocations = Some(Arc::new(authority.revocations()));
        let tls = ServerTls { ca: authority.certificate().to_string(), shown: shown.clone(), revocations };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hosts, heard) = Hosts::new();
        let (stop, stopped) = watch::channel(false);
        let turned_away = Arc::default();
        let desk = Arc::new(Files { home: home.path().to_path_buf(), turned_away: Arc::clone(&turned_away) });
        let served = tokio::spawn(grpc::serve_with(listener, tls, hosts.clone(), desk, timing, stopped));
        World { home, authority, shown, hosts, heard, address, stop, served, timing, turned_away }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn client(&self, host_id: &str) -> ClientTls {
        client_of(&self.authority, self.authority.certificate(), host_id)
    }

    /// A host that has greeted.
    pub async fn host(&mut self, host_id: &str) -> HostEnd {
        let url = self.url();
        self.host_at(&url, host_id).await
    }

    pub async fn host_at(&mut self, url: &str, host_id: &str) -> HostEnd {
        let mut end = grpc::dial_with(url, &self.client(host_id), self.timing).await.unwrap();
        end.outgoing.send(hello(host_id)).await.unwrap();
        assert_eq!(soon(end.incoming.recv()).await, Some(ToHost::Welcome { version: *rpc::message::VERSIONS.end() }));
        assert!(matches!(self.said().await, Said::Connected(info) if info.id == host_id));
        end
    }

    pub async fn said(&mut self) -> Said {
        soon(self.heard.recv()).await.expect("something").message
    }
}

/// The name of all hosts here.
pub const NAME: &str = "edge";

/// Gives out what lies in `images` of a directory, and signs by the authority there.
pub struct Files {
    home: PathBuf,
    turned_away: Arc<Mutex<Vec<&'static str>>>,
}

impl grpc::Desk for Files {
    fn image(&self, sha256: &str) -> Result<PathBuf> {
        if sha256.contains('/') {
            return Err(base::Error::invalid("no hash"));
        }
        Ok(self.home.join("images").join(sha256))
    }
    fn lender<'a>(&'a self, host: &'a pki::Peer, sha256: &'a str, elsewhere: bool) -> BoxFuture<'a, Option<Lender>> {
        let text = |what: &str| format!("{what} for {} and {sha256}", host.host_id);
        let lender = || Lender {
            address: text("address"),
            name: text("name"),
            authority: text("authority"),
            certificate: text("certificate"),
            key: Secret(text("key")),
        };
        Box::pin(std::future::ready((elsewhere && sha256 == "lent").then(lender)))
    }
    fn renew(&self, host: &pki::Peer, request: &str) -> Result<Renewed> {
        let authority = Authority::open(&self.home)?;
        let certificate = authority.sign_host(&host.host_id, &host.name, request)?;
        Ok(Renewed { authority: authority.certificate().to_string(), certificate })
    }
    fn turned_away(&self, reason: &'static str) {
        self.turned_away.lock().unwrap().push(reason);
    }
}

/// What a host with a certificate of `authority` shows to a controller of `ca`.
pub fn client_of(authority: &Authority, ca: &str, host_id: &str) -> ClientTls {
    let request = pki::Request::new().unwrap();
    let cert = authority.sign_host(host_id, NAME, &request.text).unwrap();
    ClientTls { ca: ca.to_string(), cert, key: request.key().to_string() }
}

pub fn hello(host_id: &str) -> ToController {
    ToController::Hello {
        versions: (*rpc::message::VERSIONS.start(), *rpc::message::VERSIONS.end()),
        host: HostInfo { id: host_id.to_string(), name: NAME.into(), ..HostInfo::default() },
    }
}

/// A wire to `target` that lies dead, without anyone being told, once `cut` is true.
pub async fn wire(target: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(is_cut.wait_for(|cut| *cut).await) } => std::future::pending().await,
                }
            });
        }
    });
    (address, cut)
}
