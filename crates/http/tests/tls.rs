//! Certificates of clients, over real connections.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Error, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_api::access::AccessLog;
use http_api::{Api, App, Authenticate, FaultStyle, Proxies, Request, Response, Routes, json};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

struct Nobody;

#[async_trait]
impl Authenticate for Nobody {
    async fn authenticate(&self, _: &str) -> Result<Context> {
        Err(Error::unauthenticated("no"))
    }
}

async fn shown(_: (), req: Request) -> Result<Response> {
    let shown = req.certificate.as_ref().map(|shown| STANDARD.encode(shown.der()));
    json(200, &serde_json::json!({ "shown": shown, "by_proxy": req.by_proxy }))
}

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority(Issuer::new(params, key), pem)
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> rustls::RootCertStore {
        use rustls::pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.1.as_bytes()).unwrap()).unwrap();
        roots
    }
}

struct Server {
    address: SocketAddr,
    authority: Authority,
    _stop: watch::Sender<bool>,
}

impl Server {
    async fn start(clients: &Authority, proxies: Proxies) -> Server {
        let authority = Authority::new("of servers");
        let (certificate, key) = authority.issue("cloud.example");
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let mut resolver = ResolvesServerCertUsingSni::new();
        resolver.add("cloud.example", CertifiedKey::new(vec![certificate], key)).unwrap();
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ca.pem");
        std::fs::write(&file, &clients.1).unwrap();
        let tls = http_api::tls::acceptor(Arc::new(resolver), Some(http_api::tls::clients(&file).unwrap())).unwrap();
        let api = Api { service: "things", style: FaultStyle::Identity, versions: None, head: true, slash: false };
        let table = Routes::new((), api).public("GET", "/shown", shown).build().unwrap();
        let mut app = App::new(Arc::new(Nobody), AccessLog::default(), 1000, "http://here".into(), Default::default()).behind(proxies);
        app.mount(&[""], table);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(http_api::server::serve(listener, Some(tls), Arc::new(app), stopped, Duration::from_secs(1)));
        Server { address, authority, _stop: stop }
    }

    /// What the server has seen of a client; none: it did not get as far as an answer.
    async fn ask(&self, own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>, header: &str) -> Option<Value> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.authority.roots());
        let config = match own {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("cloud.example").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.ok()?;
        let request = format!("GET /shown HTTP/1.1\r\nhost: cloud.example\r\n{header}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }
}

#[tokio::test]
async fn a_client_shows_a_certificate_or_none() {
    let clients = Authority::new("of clients");
    let server = Server::start(&clients, Proxies::default()).await;
    let (certificate, key) = clients.issue("alice");
    let own = STANDARD.encode(&certificate);
    assert_eq!(server.ask(Some((certificate, key)), "").await.unwrap()["shown"], own);
    assert_eq!(server.ask(None, "").await.unwrap()["shown"], Value::Null);
    // One by somebody else ends the connection: nobody takes it for none.
    assert_eq!(server.ask(Some(Authority::new("of clients").issue("alice")), "").await, None);
    // Whatever a client writes in a header is only that.
    let header = format!("client-cert: :{own}:\r\n");
    assert_eq!(server.ask(None, &header).await.unwrap(), serde_json::json!({ "shown": null, "by_proxy": false }));
}

#[tokio::test]
async fn a_proxy_hands_on_what_it_was_shown() {
    let clients = Authority::new("of clients");
    let server = Server::start(&clients, Proxies::read(true, "127.0.0.1", "client-cert").unwrap()).await;
    let alice = STANDARD.encode(clients.issue("alice").0);
    let header = format!("client-cert: :{alice}:\r\n");
    let wanted = serde_json::json!({ "shown": alice, "by_proxy": true });
    assert_eq!(server.ask(Some(clients.issue("proxy")), &header).await.unwrap(), wanted);
    assert_eq!(server.ask(Some(clients.issue("proxy")), "").await.unwrap()["shown"], Value::Null);
}

#[test]
fn a_file_without_authorities_is_told() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("ca.pem");
    assert!(http_api::tls::clients(&file).unwrap_err().message().starts_with("tls.client_ca"));
    std::fs::write(&file, "nothing").unwrap();
    assert!(http_api::tls::clients(&file).unwrap_err().message().ends_with("there is no certificate in it"));
}
