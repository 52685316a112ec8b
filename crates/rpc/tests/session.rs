//! Sessions as both ends see them, in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use base::{Kind, Result};
use rpc::message::{HostInfo, Request, Response, ToController, ToHost, VERSIONS};
use rpc::session::{Heard, HostEnd, Hosts, Said, link};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(5);
/// What a host of this release speaks.
const NOW: (u32, u32) = (*VERSIONS.start(), *VERSIONS.end());

fn hello(id: &str, versions: (u32, u32)) -> ToController {
    ToController::Hello { versions, host: HostInfo { id: id.to_string(), ..HostInfo::default() } }
}

fn log() -> Request {
    Request::ConsoleLog { instance_id: "i".into(), lines: None }
}

fn start(hosts: &Hosts) -> (HostEnd, JoinHandle<Result<()>>) {
    let (host, controller) = link();
    let hosts = hosts.clone();
    (host, tokio::spawn(async move { hosts.serve(controller).await }))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

async fn heard(stream: &mut mpsc::Receiver<Heard>) -> Said {
    soon(stream.recv()).await.expect("something").message
}

async fn greeted(hosts: &Hosts, stream: &mut mpsc::Receiver<Heard>) -> (HostEnd, JoinHandle<Result<()>>) {
    let (mut host, served) = start(hosts);
    host.outgoing.send(hello("a", NOW)).await.unwrap();
    assert_eq!(soon(host.incoming.recv()).await, Some(ToHost::Welcome { version: NOW.1 }));
    assert!(matches!(heard(stream).await, Said::Connected(_)));
    (host, served)
}

#[tokio::test]
async fn releases_whose_versions_overlap_agree_on_the_newest_common() {
    let last = *VERSIONS.end();
    // A host of the same release, of the next one, and of one that still knows an older version.
    for versions in [(*VERSIONS.start(), last), (last, last + 1), (last.saturating_sub(1), last)] {
        let (hosts, mut stream) = Hosts::new();
        let (mut host, _served) = start(&hosts);
        host.outgoing.send(hello("a", versions)).await.unwrap();
        assert_eq!(soon(host.incoming.recv()).await, Some(ToHost::Welcome { version: last }));
        assert!(matches!(heard(&mut stream).await, Said::Connected(_)));
    }
}

#[tokio::test]
async fn releases_without_a_common_version_part_with_a_reason() {
    let last = *VERSIONS.end();
    // From the future, from the past, and a range that is upside down.
    for versions in [(last + 1, last + 2), (0, VERSIONS.start() - 1), (last + 1, last)] {
        let (hosts, _stream) = Hosts::new();
        let (mut host, served) = start(&hosts);
        host.outgoing.send(hello("a", versions)).await.unwrap();
        let Some(ToHost::Refused { reason }) = soon(host.incoming.recv()).await else { panic!("not refused") };
        let word = if versions.1 < last { "older than this controller's" } else { "newer than this controller's" };
        assert!(reason.contains("speaks versions") && (reason.contains(word) || versions.0 > versions.1), "{reason}");
        assert_eq!(soon(served).await.unwrap().unwrap_err().kind(), Kind::Invalid);
        assert!(!hosts.is_connected("a"));
        assert_eq!(soon(host.incoming.recv()).await, None);
    }
}

#[tokio::test]
async fn the_first_message_must_be_hello() {
    let (hosts, _stream) = Hosts::new();
    let (mut host, served) = start(&hosts);
    host.outgoing.send(ToController::Host(HostInfo::default())).await.unwrap();
    assert!(matches!(soon(host.incoming.recv()).await, Some(ToHost::Refused { .. })));
    assert!(soon(served).await.unwrap().is_err());

    let (mut host, served) = start(&hosts);
    host.outgoing.send(hello("", NOW)).await.unwrap();
    let Some(ToHost::Refused { reason }) = soon(host.incoming.recv()).await else { panic!("not refused") };
    assert!(reason.contains("id"), "{reason}");
    assert!(soon(served).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_not_waited_for() {
    let (hosts, _stream) = Hosts::new();
    let (_host, served) = start(&hosts);
    assert_eq!(served.await.unwrap().unwrap_err().kind(), Kind::Timeout);
}

#[tokio::test]
async fn a_host_greets_under_its_own_id_and_name_only() {
    let (hosts, _stream) = Hosts::new();
    for (id, name) in [("b", ""), ("a", "edge-1")] {
        let (mut host, controller) = link();
        host.outgoing.send(hello("a", NOW)).await.unwrap();
        assert_eq!(soon(hosts.serve_known(controller, id, name)).await.unwrap_err().kind(), Kind::Forbidden);
        assert!(matches!(soon(host.incoming.recv()).await, Some(ToHost::Refused { .. })));
    }
}

/// Who is certainly a host of the site and cannot be one as it is, is told of: its operator sees more than that it is not there.
#[tokio::test]
async fn a_known_host_that_is_sent_away_is_told_of() {
    let (hosts, mut stream) = Hosts::new();
    let (mut host, controller) = link();
    host.outgoing.send(hello("a", (1, VERSIONS.start() - 1))).await.unwrap();
    assert_eq!(soon(hosts.serve_known(controller, "a", "")).await.unwrap_err().kind(), Kind::Invalid);
    let Some(ToHost::Refused { reason }) = soon(host.incoming.recv()).await else { panic!("not refused") };
    assert!(reason.contains("older than this controller's") && reason.contains("Bring the host"), "{reason}");
    assert!(matches!(heard(&mut stream).await, Said::Refused(told) if told == reason));
}

#[tokio::test]
async fn a_newer_session_replaces_the_older() {
    let (hosts, mut stream) = Hosts::new();
    let (mut old, served) = greeted(&hosts, &mut stream).await;
    let asked = tokio::spawn({
        let hosts = hosts.clone();
        async move { hosts.ask("a", log()).await }
    });
    assert!(matches!(soon(old.incoming.recv()).await, Some(ToHost::Request { .. })));

    let (mut new, _served) = start(&hosts);
    new.outgoing.send(hello("a", NOW)).await.unwrap();
    // The old end goes first, its question fails at once, and only then the new one is there.
    assert!(matches!(heard(&mut stream).await, Said::Disconnected));
    assert!(matches!(heard(&mut stream).await, Said::Connected(_)));
    soon(served).await.unwrap().unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    assert!(matches!(soon(old.incoming.recv()).await, Some(ToHost::Refused { .. })));
    assert_eq!(soon(old.incoming.recv()).await, None);
    assert!(old.outgoing.send(ToController::Host(HostInfo::default())).await.is_err(), "nobody listens to the old session");

    assert_eq!(soon(new.incoming.recv()).await, Some(ToHost::Welcome { version: NOW.1 }));
    assert!(hosts.is_connected("a"));
    hosts.send("a", ToHost::EventsStored { up_to: 7 }).await.unwrap();
    assert_eq!(soon(new.incoming.recv()).await, Some(ToHost::EventsStored { up_to: 7 }));
}

#[tokio::test]
async fn many_sessions_of_one_host_leave_one() {
    let (hosts, mut stream) = Hosts::new();
    let (mut ends, mut served) = (Vec::new(), tokio::task::JoinSet::new());
    for _ in 0..20 {
        let (host, controller) = link();
        let hosts = hosts.clone();
        served.spawn(async move { hosts.serve(controller).await });
        host.outgoing.send(hello("a", NOW)).await.unwrap();
        ends.push(host);
    }
    for _ in 0..19 {
        soon(served.join_next()).await.unwrap().unwrap().unwrap();
    }
    soon(async {
        while !hosts.is_connected("a") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(served.try_join_next().is_none());
    // Heard in pairs: never two connected at once.
    let mut connected = false;
    while let Ok(said) = stream.try_recv() {
        assert_ne!(connected, matches!(said.message, Said::Connected(_)));
        connected = !connected;
    }
}

#[tokio::test]
async fn an_unanswered_request_fails_with_its_session() {
    let (hosts, mut stream) = Hosts::new();
    let (mut host, served) = greeted(&hosts, &mut stream).await;
    let asked = tokio::spawn({
        let hosts = hosts.clone();
        async move { hosts.ask("a", log()).await }
    });
    assert!(matches!(soon(host.incoming.recv()).await, Some(ToHost::Request { .. })));
    drop(host);
    assert_eq!(soon(asked).await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    soon(served).await.unwrap().unwrap();
    assert!(matches!(heard(&mut stream).await, Said::Disconnected));
    assert_eq!(hosts.ask("a", log()).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(hosts.send("a", ToHost::EventsStored { up_to: 1 }).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn answers_find_their_questions() {
    let (hosts, mut stream) = Hosts::new();
    let (mut host, _served) = greeted(&hosts, &mut stream).await;
    let first = tokio::spawn({
        let hosts = hosts.clone();
        async move { hosts.ask("a", log()).await }
    });
    let Some(ToHost::Request { id: one, .. }) = soon(host.incoming.recv()).await else { panic!() };
    let second = tokio::spawn({
        let hosts = hosts.clone();
        async move { hosts.ask("a", log()).await }
    });
    let Some(ToHost::Request { id: two, .. }) = soon(host.incoming.recv()).await else { panic!() };
    // Out of order, one twice, one that nobody asked for, one failed.
    for (id, response) in
        [(two, Ok(Response::Done)), (two, Ok(Response::Done)), (9999, Ok(Response::Done)), (one, Err("broken".to_string()))]
    {
        host.outgoing.send(ToController::Response { id, response }).await.unwrap();
    }
    assert_eq!(soon(second).await.unwrap().unwrap(), Response::Done);
    assert_eq!(soon(first).await.unwrap().unwrap_err().kind(), Kind::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_in_nothing_delays_a_sender_only_so_long() {
    let (hosts, mut stream) = Hosts::new();
    let (host, _served) = greeted(&hosts, &mut stream).await;
    let mut sent = 0;
    let error = loop {
        match hosts.send("a", ToHost::EventsStored { up_to: sent }).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(sent <= 1024, "{sent}");
    assert_eq!(hosts.ask("a", log()).await.unwrap_err().kind(), Kind::Timeout);
    drop(host);
}

#[tokio::test]
async fn a_session_can_be_ended() {
    let (hosts, mut stream) = Hosts::new();
    let (mut host, served) = greeted(&hosts, &mut stream).await;
    hosts.end("a", "revoked");
    hosts.end("nobody", "revoked");
    assert_eq!(soon(host.incoming.recv()).await, Some(ToHost::Refused { reason: "revoked".into() }));
    soon(served).await.unwrap().unwrap();
    assert!(matches!(heard(&mut stream).await, Said::Disconnected));
    assert!(!hosts.is_connected("a"));
}

#[test]
fn hello_of_another_release_is_understood() {
    // An older host knows fewer fields, a newer one more.
    let old = r#"{"hello":{"versions":[1,1],"host":{"id":"a","name":"n"}}}"#;
    let new = r#"{"hello":{"versions":[1,2],"host":{"id":"a","name":"n","gpus":3},"mood":"good"}}"#;
    for text in [old, new] {
        let ToController::Hello { host, .. } = serde_json::from_str(text).unwrap() else { panic!() };
        assert_eq!((host.id.as_str(), host.name.as_str()), ("a", "n"));
    }
}
