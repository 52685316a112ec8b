//! Who is let in and who is not.

use std::sync::Arc;

use base::Kind;
use grpc::ClientTls;
use pki::Authority;
use rpc::message::ToHost;
use rpc::session::Said;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::world::{NAMES, TIMING, World, client_of, hello, soon};

/// Dials and expects that nothing comes of it.
async fn refused(world: &World, tls: &ClientTls) {
    let outcome = soon(grpc::dial_with(&world.url(), tls, TIMING)).await;
    assert_eq!(outcome.err().expect("no session").kind(), Kind::Unavailable);
    assert!(world.hosts.connected().is_empty());
}

#[tokio::test]
async fn a_host_of_another_authority_is_refused() {
    let world = World::new().await;
    let other = Authority::open(&world.home.path().join("other")).unwrap();
    refused(&world, &client_of(&other, world.authority.certificate(), "a")).await;
    assert_eq!(*world.turned_away.lock().unwrap(), ["refused"]);
}

#[tokio::test]
async fn a_controller_of_another_authority_is_refused() {
    let world = World::new().await;
    let other = Authority::open(&world.home.path().join("other")).unwrap();
    refused(&world, &ClientTls { ca: other.certificate().into(), ..world.client("a") }).await;
}

#[tokio::test]
async fn a_server_s_certificate_makes_no_host() {
    let world = World::new().await;
    let issued = world.authority.issue_server(&["localhost".into()]).unwrap();
    refused(&world, &ClientTls { ca: world.authority.certificate().into(), cert: issued.certificate, key: issued.key }).await;
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let world = World::new().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.certificate().as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // The refusal comes after the client's part of the handshake: it shows at the first byte.
    let error = soon(async {
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.read_u8().await
    })
    .await
    .unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");

    let empty = ClientTls { ca: world.authority.certificate().into(), cert: String::new(), key: String::new() };
    assert_eq!(grpc::dial(&world.url(), &empty).await.err().unwrap().kind(), Kind::Invalid);
    let clear = format!("http://{}", world.address);
    assert_eq!(grpc::dial(&clear, &world.client("a")).await.err().unwrap().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_host_speaks_for_itself_only() {
    let world = World::new().await;
    let mut end = grpc::dial_with(&world.url(), &world.client("a"), TIMING).await.unwrap();
    end.outgoing.send(hello("b")).await.unwrap();
    let Some(ToHost::Refused { reason }) = soon(end.incoming.recv()).await else { panic!("not refused") };
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(soon(end.incoming.recv()).await, None);
    assert!(world.hosts.connected().is_empty());
}

#[tokio::test]
async fn a_revoked_host_is_put_out_and_kept_out() {
    let mut world = World::new().await;
    let tls = world.client("a");
    let mut end = grpc::dial_with(&world.url(), &tls, TIMING).await.unwrap();
    end.outgoing.send(hello("a")).await.unwrap();
    assert_eq!(soon(end.incoming.recv()).await, Some(ToHost::Welcome { version: *rpc::message::VERSIONS.end() }));
    assert!(matches!(world.said().await, Said::Connected(_)));
    let mut other = world.host("b").await;

    assert_eq!(world.authority.revoke_host("a").unwrap(), 1);
    assert_eq!(soon(end.incoming.recv()).await, None, "the live session ends");
    assert!(matches!(world.said().await, Said::Disconnected));
    assert!(!world.hosts.is_connected("a"));
    let error = soon(grpc::dial_with(&world.url(), &tls, TIMING)).await.err().expect("kept out");
    assert_eq!(error.kind(), Kind::Unavailable);

    // Others go on, and the host may come back with a new certificate.
    world.hosts.send("b", ToHost::EventsStored { up_to: 1 }).await.unwrap();
    assert_eq!(soon(other.incoming.recv()).await, Some(ToHost::EventsStored { up_to: 1 }));
    world.host("a").await;
}

#[tokio::test]
async fn a_host_renews_its_certificate_until_it_is_revoked() {
    let mut world = World::new().await;
    let old = world.client("a");
    let request = pki::Request::new().unwrap();
    assert_eq!(grpc::renew(&world.url(), &old, "nonsense").await.unwrap_err().kind(), Kind::Invalid);
    let answer = soon(grpc::renew(&world.url(), &old, &request.text)).await.unwrap();
    assert_eq!(answer.authority, old.ca);
    let renewed = ClientTls { ca: answer.authority, cert: answer.certificate, key: request.key().to_string() };
    let end = grpc::dial_with(&world.url(), &renewed, TIMING).await.unwrap();
    // It is the same host still: it may not greet as another.
    end.outgoing.send(hello("a")).await.unwrap();
    assert!(matches!(world.said().await, Said::Connected(info) if info.id == "a"));
    assert_eq!(world.authority.revoke_host("a").unwrap(), 2);
    let request = pki::Request::new().unwrap();
    for tls in [&old, &renewed] {
        assert_eq!(grpc::renew(&world.url(), tls, &request.text).await.unwrap_err().kind(), Kind::Unavailable);
    }
}

/// The certificate that the controller shows to a new connection.
async fn shown(world: &World) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = soon(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_controller_that_is_up_for_long_shows_a_new_certificate_and_keeps_its_sessions() {
    let mut world = World::new().await;
    let mut open = world.host("a").await;
    let first = shown(&world).await;
    // Its own is nearly over.
    std::fs::remove_file(world.home.path().join("server.names")).unwrap();
    let short = Authority::open(world.home.path()).unwrap().lasting(std::time::Duration::from_secs(1200));
    short.server_pair(&NAMES.map(String::from)).unwrap();
    assert!(world.shown.refresh().unwrap());
    assert_ne!(shown(&world).await, first);
    world.host("b").await;
    world.hosts.send("a", ToHost::EventsStored { up_to: 1 }).await.unwrap();
    assert_eq!(soon(open.incoming.recv()).await, Some(ToHost::EventsStored { up_to: 1 }));
}

#[tokio::test]
async fn images_go_to_hosts_only() {
    let world = World::new().await;
    let images = world.home.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(images.join("abc"), &data).unwrap();
    let mut got = Vec::new();
    soon(grpc::image(&world.url(), &world.client("a"), "abc", true, &mut got)).await.unwrap();
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
    // Who would go to another host is told of one; who would not gets the data here.
    std::fs::write(images.join("lent"), b"here").unwrap();
    let lender = grpc::image(&world.url(), &world.client("a"), "lent", true, &mut Vec::new()).await.unwrap().unwrap();
    assert_eq!((lender.address.as_str(), lender.key.0.as_str()), ("address for a and lent", "key for a and lent"));
    let mut here = Vec::new();
    assert_eq!(grpc::image(&world.url(), &world.client("a"), "lent", false, &mut here).await.unwrap(), None);
    assert_eq!(here, b"here");
    let mut none = Vec::new();
    assert_eq!(grpc::image(&world.url(), &world.client("a"), "abd", true, &mut none).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(grpc::image(&world.url(), &world.client("a"), "../ca.key", true, &mut none).await.unwrap_err().kind(), Kind::Invalid);
    let other = Authority::open(&world.home.path().join("other")).unwrap();
    let stranger = client_of(&other, world.authority.certificate(), "a");
    assert_eq!(grpc::image(&world.url(), &stranger, "abc", true, &mut none).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(none.is_empty());
}
