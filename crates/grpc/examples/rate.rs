//! How fast a session is, over mutual TLS on loopback: `cargo run --release -p grpc --example rate`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use grpc::{ClientTls, ServerTls};
use pki::Authority;
use rpc::message::{HostInfo, Request, Response, ToController, ToHost};
use rpc::session::{Hosts, Said};
use tokio::net::TcpListener;
use tokio::sync::watch;

const MESSAGES: u64 = 200_000;
const QUESTIONS: u32 = 5_000;

/// This controller has sessions only.
struct Nothing;

impl grpc::Desk for Nothing {
    fn image(&self, sha256: &str) -> base::Result<PathBuf> {
        Err(base::Error::not_found("Image data", sha256))
    }
    fn renew(&self, _: &pki::Peer, _: &str) -> base::Result<grpc::Renewed> {
        Err(base::Error::unavailable("no certificates here"))
    }
    fn turned_away(&self, _: &'static str) {}
}

#[tokio::main]
async fn main() -> Result<()> {
    let home = tempfile::tempdir()?;
    let authority = Authority::open(home.path())?;
    let shown = pki::Served::issued(home.path(), vec!["127.0.0.1".to_string()])?;
    let ca = authority.certificate().to_string();
    let tls = ServerTls { ca: ca.clone(), shown, revocations: Some(authority.revocations().into()) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let (hosts, mut heard) = Hosts::new();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(grpc::serve(listener, tls, hosts.clone(), Arc::new(Nothing), stopped));

    let request = pki::Request::new()?;
    let cert = authority.sign_host("a", "edge", &request.text)?;
    let begun = Instant::now();
    let mut host = grpc::dial(&url, &ClientTls { ca, cert, key: request.key().to_string() }).await?;
    let info = HostInfo { id: "a".to_string(), name: "edge".to_string(), ..HostInfo::default() };
    host.outgoing
        .send(ToController::Hello { versions: (*rpc::message::VERSIONS.start(), *rpc::message::VERSIONS.end()), host: info })
        .await?;
    host.incoming.recv().await.context("no welcome")?;
    println!("connection, handshake and greeting: {:?}", begun.elapsed());
    heard.recv().await.context("nothing heard")?;

    let begun = Instant::now();
    let outgoing = host.outgoing.clone();
    let sender = tokio::spawn(async move {
        for generation in 0..MESSAGES {
            let report = ToController::Network { generation, ports_up: Vec::new(), error: None };
            if outgoing.send(report).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..MESSAGES {
        let heard = heard.recv().await.context("the session ended")?;
        ensure!(matches!(heard.message, Said::Message(_)), "{heard:?}");
    }
    sender.await?;
    report("reports of a host, one way", MESSAGES, begun);

    tokio::spawn(async move {
        while let Some(message) = host.incoming.recv().await {
            if let ToHost::Request { id, .. } = message
                && host.outgoing.send(ToController::Response { id, response: Ok(Response::Done) }).await.is_err()
            {
                return;
            }
        }
    });
    let begun = Instant::now();
    for _ in 0..QUESTIONS {
        hosts.ask("a", Request::Diagnostics { instance_id: "i".to_string() }).await?;
    }
    report("questions, one after another", u64::from(QUESTIONS), begun);
    Ok(())
}

fn report(what: &str, count: u64, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
    println!("{what}: {:.0} per second, {:.2} µs each", count / seconds, seconds * 1e6 / count);
}
