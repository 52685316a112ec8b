//! Guests that keep a heartbeat with their host, and have a say in what is done with them.

use std::time::{Duration, Instant};

use guest::message::{Action, Event, Notification};
use host::simulated::Manner;
use serde_json::{Value, json};
use testing::{Answer, Cloud};

use crate::world::{PATIENCE, World};

pub const VOTE: Notification = Notification::Revocable;
const NOTICE: Notification = Notification::Irrevocable;

/// A cloud whose guests have a client of these manners, and flavors that ask for one: `beat`, `bigger`, and `mortal`, which is not
/// repaired.
pub async fn world(hosts: usize, settings: &[(&'static str, &str)]) -> (World, Manner) {
    let w = World::on(Cloud::with_settings(hosts, settings).await, hosts).await;
    for (id, ram, auto) in [("beat", 64, "true"), ("bigger", 128, "true"), ("mortal", 64, "false")] {
        let flavor = json!({"flavor": {"id": id, "name": id, "ram": ram, "vcpus": 1, "disk": 1}});
        w.cloud.post(&w.admin, "/compute/v2.1/flavors", flavor).await.expect(200);
        let specs = json!({"extra_specs": {"sw:wrs:guest:heartbeat": "true", "sw:wrs:auto_recovery": auto}});
        w.cloud.post(&w.admin, &format!("/compute/v2.1/flavors/{id}/os-extra_specs"), specs).await.expect(200);
    }
    let manner = Manner::default();
    {
        let mut mood = manner.mood();
        mood.settings.name = "vm".into();
        mood.settings.interval = Duration::from_millis(400);
    }
    for host in &w.cloud.hosts {
        host.hypervisor.speaking(manner.clone());
    }
    (w, manner)
}

/// A server whose guest beats.
pub async fn beating(w: &World, flavor: &str) -> String {
    let id = w.active(json!({"flavorRef": flavor})).await;
    logged(w, &id, "700.211", 1).await;
    // Its host tells of the level and of the event apart from each other.
    beats(w, &id).await;
    id
}

/// The heart of a server's guest beats where the server is.
pub async fn beats(w: &World, id: &str) {
    let compute = &w.cloud.controller.compute;
    let server = compute.core.store.read(|tx| compute::db::servers::server_get_in(tx, id)).await.unwrap();
    let started = Instant::now();
    while compute.beats.of(&server).is_none() {
        assert!(started.elapsed() < PATIENCE, "its heart does not beat");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many logs of this id there are of a server.
pub async fn logs(w: &World, id: &str, log: &str) -> usize {
    let all = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.expect(200);
    let of = |e: &&Value| e["event_log_id"] == log && e["entity_instance_id"].as_str().unwrap_or_default().contains(id);
    all["event_log"].as_array().unwrap().iter().filter(of).count()
}

pub async fn logged(w: &World, id: &str, log: &str, times: usize) {
    let started = Instant::now();
    while logs(w, id, log).await < times {
        assert!(started.elapsed() < PATIENCE, "{log} is never logged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn alarms(w: &World, alarm: &str, there: bool) {
    w.cloud.until(&w.admin, "/fault/v1/alarms", PATIENCE, |a| a.status == 200 && a.text().contains(alarm) == there).await;
}

/// What can be done with a running server that its guest has a say in: the request, what the guest is asked, its logs (issued), and
/// the state after it.
fn gated() -> Vec<(Value, Event, u32, &'static str)> {
    vec![
        (json!({"os-stop": null}), Event::Stop, 145, "SHUTOFF"),
        (json!({"reboot": {"type": "SOFT"}}), Event::Reboot, 181, "ACTIVE"),
        (json!({"reboot": {"type": "HARD"}}), Event::Reboot, 181, "ACTIVE"),
        (json!({"pause": null}), Event::Pause, 115, "PAUSED"),
        (json!({"suspend": null}), Event::Suspend, 127, "SUSPENDED"),
        (json!({"resize": {"flavorRef": "bigger"}}), Event::ResizeBegin, 193, "VERIFY_RESIZE"),
        (json!({"migrate": null}), Event::ColdMigrateBegin, 157, "VERIFY_RESIZE"),
        (json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), Event::LiveMigrateBegin, 151, "ACTIVE"),
    ]
}

pub async fn act(w: &World, id: &str, body: &Value) -> Answer {
    w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(body.clone()), "2.104").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_refuses_is_not_done() {
    let (w, manner) = world(2, &[]).await;
    let id = beating(&w, "beat").await;
    manner.mood().refuses = Some("I Am Needed".into());
    let before = w.get(&format!("/servers/{id}"), "2.104").await.expect(200)["server"].clone();
    for (body, event, issued, _) in gated() {
        let rejected = logs(&w, &id, &format!("700.{}", issued + 2)).await;
        let answer = act(&w, &id, &body).await;
        let refusal = json!({"conflictingRequest": {
            "message": "action-rejected", "details": "Action rejected by instance: i am needed", "code": 409}});
        assert_eq!((answer.status, answer.json()), (409, refusal), "{body}");
        let after = w.get(&format!("/servers/{id}"), "2.104").await.expect(200)["server"].clone();
        assert_eq!(after, before, "{body}");
        assert_eq!(logs(&w, &id, &format!("700.{}", issued + 2)).await, rejected + 1, "{body}");
        assert_eq!(manner.heard(&id).last().unwrap(), &(event, VOTE, Duration::from_secs(10)), "{body}");
    }
    assert!(manner.heard(&id).iter().all(|(_, notification, _)| *notification == VOTE), "none was told that it would be done");
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
    let request = actions["instanceActions"][0]["request_id"].as_str().unwrap();
    let action = w.get(&format!("/servers/{id}/os-instance-actions/{request}"), "2.104").await.expect(200)["instanceAction"].clone();
    let refused = json!("Error: Action rejected by instance: i am needed");
    assert_eq!((&action["message"], &action["events"][0]["result"]), (&refused, &json!("Error")));
    // What would be refused anyway is no question to a guest.
    let asked = manner.heard(&id).len();
    assert_eq!(act(&w, &id, &json!({"resize": {"flavorRef": "beat"}})).await.status, 400);
    assert_eq!(act(&w, &id, &json!({"os-start": null})).await.status, 409);
    assert_eq!(manner.heard(&id).len(), asked);
    // It has no say in its end.
    assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_asked_and_told_before_anything_is_done() {
    let (w, manner) = world(2, &[]).await;
    {
        let mut mood = manner.mood();
        mood.settings.vote = Duration::from_secs(7);
        mood.settings.shutdown_notice = Duration::from_secs(8);
        mood.settings.suspend_notice = Duration::from_secs(9);
        mood.settings.resume_notice = Duration::from_secs(6);
    }
    let heard = |id: &str, from: usize| manner.heard(id)[from..].to_vec();
    let seconds = Duration::from_secs;
    for (body, event, issued, status) in gated() {
        let id = beating(&w, "beat").await;
        assert_eq!(act(&w, &id, &body).await.status, 202, "{body}");
        w.wait(&id, status).await;
        let notice = if matches!(event, Event::Stop | Event::Reboot) { 8 } else { 9 };
        assert_eq!(heard(&id, 0)[..2], [(event, VOTE, seconds(7)), (event, NOTICE, seconds(notice))], "{body}");
        let ids = [issued, issued + 5].map(|n| format!("700.{n}"));
        for log in ids.into_iter().chain([format!("700.{}", issued + 1)]) {
            assert_eq!(logs(&w, &id, &log).await, 1, "{body} {log}");
        }
        let (undo, told, log) = match event {
            Event::Pause => (Some(json!({"unpause": null})), Some(Event::Unpause), "700.126"),
            Event::Suspend => (Some(json!({"resume": null})), Some(Event::Resume), "700.138"),
            Event::ResizeBegin => (Some(json!({"confirmResize": null})), Some(Event::ResizeEnd), "700.204"),
            Event::ColdMigrateBegin => (Some(json!({"confirmResize": null})), Some(Event::ColdMigrateEnd), "700.168"),
            Event::LiveMigrateBegin => (None, Some(Event::LiveMigrateEnd), "700.156"),
            _ => (None, None, "700.103"),
        };
        if let Some(undo) = undo {
            assert!(act(&w, &id, &undo).await.status < 300, "{undo}");
            w.wait(&id, "ACTIVE").await;
        }
        if let Some(told) = told {
            let started = Instant::now();
            while heard(&id, 2).is_empty() {
                assert!(started.elapsed() < PATIENCE, "the guest is never told of {told:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(heard(&id, 2), [(told, NOTICE, seconds(6))], "{body}");
        }
        assert_eq!(logs(&w, &id, log).await, 1, "{body} {log}");
        assert_eq!(w.delete(&format!("/servers/{id}"), "2.1").await.status, 204);
        w.gone(&id).await;
    }
    // Nobody is asked in a server without the key, or before its client has begun.
    let plain = w.active(json!({})).await;
    assert_eq!(w.act(&plain, json!({"os-stop": null})).await.status, 202);
    w.wait(&plain, "SHUTOFF").await;
    assert!(manner.heard(&plain).is_empty());
    let gate = task::Filter { kind: Some("compute.server_gate".into()), resource_id: Some(plain.clone()), ..Default::default() };
    assert_eq!(w.cloud.controller.core.tasks.list(&gate).await.unwrap(), []);
    assert_eq!(w.delete(&format!("/servers/{plain}"), "2.1").await.status, 204);
    w.gone(&plain).await;
    w.clean().await;
}

/// Guest specification, section 2.1: a guest that was off is told of the end when it is back within its own time.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_takes_longer_to_return_than_it_said_is_not_told_of_the_end() {
    let (w, manner) = world(2, &[]).await;
    manner.mood().settings.restart = Duration::from_secs(1);
    let id = beating(&w, "beat").await;
    // Its client starts late where it comes to.
    manner.mood().absent = true;
    assert_eq!(act(&w, &id, &json!({"migrate": null})).await.status, 202);
    w.wait(&id, "VERIFY_RESIZE").await;
    let confirmed = Instant::now();
    assert_eq!(act(&w, &id, &json!({"confirmResize": null})).await.status, 204);
    w.wait(&id, "ACTIVE").await;
    // A second more, for the way.
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(confirmed.elapsed())).await;
    manner.mood().absent = false;
    logged(&w, &id, "700.211", 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Event::ColdMigrateBegin;
    let heard: Vec<_> = manner.heard(&id).into_iter().map(|(event, notification, _)| (event, notification)).collect();
    assert_eq!(heard, [(begun, VOTE), (begun, NOTICE)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_guest_has_its_time_and_no_more() {
    let (w, manner) = world(1, &[]).await;
    {
        let mut mood = manner.mood();
        (mood.settings.vote, mood.settings.shutdown_notice, mood.deaf) = (Duration::from_secs(1), Duration::from_secs(2), true);
    }
    let id = beating(&w, "beat").await;
    let started = Instant::now();
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    let took = started.elapsed();
    // A second more each, for the way.
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
    w.wait(&id, "SHUTOFF").await;
    // One that is off is not asked.
    let asked = manner.heard(&id).len();
    assert_eq!(w.act(&id, json!({"os-start": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    assert_eq!(manner.heard(&id).len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_guest_is_asked_nothing_else_is_begun() {
    let (w, manner) = world(1, &[("compute.guest_wait_seconds", "1")]).await;
    {
        let mut mood = manner.mood();
        (mood.settings.vote, mood.slow, mood.refuses) = (Duration::from_secs(60), Duration::from_secs(4), Some("Later".into()));
    }
    let id = beating(&w, "beat").await;
    let started = Instant::now();
    let (first, second) = tokio::join!(w.act(&id, json!({"pause": null})), async {
        while manner.heard(&id).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        w.act(&id, json!({"os-stop": null})).await
    });
    // It has waited for so long, and is answered before the guest has spoken.
    assert_eq!(first.status, 202, "{}", first.text());
    assert!(started.elapsed() >= Duration::from_secs(1));
    let text = format!("Cannot 'stop' instance {id} action 'pause' is in progress");
    assert_eq!((second.status, second.json()["conflictingRequest"]["message"].clone()), (409, json!(text)));
    let asked = manner.heard(&id).len();
    assert_eq!(w.act(&id, json!({"reboot": {"type": "HARD"}})).await.status, 409);
    assert_eq!(w.act(&id, json!({"createImage": {"name": "x"}})).await.status, 409);
    assert_eq!(manner.heard(&id).len(), asked);
    // The refusal comes late, and is on record.
    logged(&w, &id, "700.117", 1).await;
    let actions = w.get(&format!("/servers/{id}/os-instance-actions"), "2.104").await.expect(200);
    let paused = actions["instanceActions"].as_array().unwrap().iter().find(|a| a["action"] == "pause").unwrap().clone();
    let request = &paused["request_id"];
    // Its owner reads why, and no more of what is inside.
    assert_eq!(paused["message"], "Error: Action rejected by instance: later");
    let action = w.get(&format!("/servers/{id}/os-instance-actions/{}", request.as_str().unwrap()), "2.104").await.expect(200);
    let action = &action["instanceAction"];
    assert_eq!((&action["message"], &action["events"][0]["details"]), (&paused["message"], &Value::Null));
    assert_eq!(action["events"][0]["host"], Value::Null);
    let action = w.call(&w.admin, "GET", &format!("/servers/{id}/os-instance-actions/{}", request.as_str().unwrap()), None, "2.104").await;
    assert!(action.text().contains("Action rejected by instance: later"), "{}", action.text());
    w.wait(&id, "ACTIVE").await;
    // A delete does not wait.
    manner.mood().refuses = None;
    manner.mood().deaf = true;
    let (held, deleted) = tokio::join!(w.act(&id, json!({"os-stop": null})), async {
        while manner.heard(&id).len() == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        w.delete(&format!("/servers/{id}"), "2.1").await
    });
    assert_eq!(deleted.status, 204);
    assert!([404, 409, 202].contains(&held.status), "{}", held.text());
    w.gone(&id).await;
    w.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_dies_meanwhile_goes_on() {
    let (mut w, manner) = world(1, &[]).await;
    manner.mood().deaf = true;
    let id = beating(&w, "beat").await;
    let held = w.act(&id, json!({"os-stop": null}));
    tokio::select! {
        answer = held => panic!("it has not waited: {}", answer.text()),
        () = async {
            while manner.heard(&id).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    manner.mood().deaf = false;
    w.cloud = w.cloud.crash().await;
    w.wait(&id, "SHUTOFF").await;
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(!log.contains("700.213"), "a host that begins anew loses nobody: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_falls_silent_is_repaired_or_failed() {
    let (w, manner) = world(1, &[]).await;
    let (id, mortal) = (beating(&w, "beat").await, beating(&w, "mortal").await);
    let starts = w.cloud.hosts[0].hypervisor.starts();
    manner.mood().dead = true;
    logged(&w, &id, "700.213", 1).await;
    manner.mood().dead = false;
    logged(&w, &mortal, "700.213", 1).await;
    // Rebooted, softly, without being asked; it beats again.
    logged(&w, &id, "700.186", 1).await;
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(log.contains("Reboot issued by the instance against instance vm"), "{log}");
    w.wait(&id, "ACTIVE").await;
    logged(&w, &id, "700.211", 2).await;
    let shown =
        w.cloud.until(&w.admin, &format!("/compute/v2.1/servers/{mortal}"), PATIENCE, |a| a.json()["server"]["status"] == "ERROR").await;
    assert!(shown.json()["server"]["fault"]["message"].as_str().unwrap().contains("heartbeat failed"), "{}", shown.text());
    alarms(&w, "700.001", true).await;
    assert_eq!(w.cloud.hosts[0].hypervisor.starts(), starts + 1);
    assert!(manner.heard(&id).is_empty() && manner.heard(&mortal).is_empty(), "nobody was asked");
    // Somebody starts it again.
    assert_eq!(w.act(&mortal, json!({"reboot": {"type": "HARD"}})).await.status, 202);
    w.wait(&mortal, "ACTIVE").await;
    alarms(&w, "700.001", false).await;
    logged(&w, &mortal, "700.211", 2).await;
    // Who takes leave is not lost.
    let starts = w.cloud.hosts[0].hypervisor.starts();
    manner.mood().leaves = true;
    logged(&w, &id, "700.212", 1).await;
    let lost = logs(&w, &id, "700.213").await;
    assert_eq!((lost, w.cloud.hosts[0].hypervisor.starts()), (1, starts));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_that_is_not_well_wants_is_done() {
    let (w, manner) = world(1, &[]).await;
    let id = beating(&w, "beat").await;
    manner.mood().unwell = Some((Action::Log, "a disk is slow".into()));
    logged(&w, &id, "700.215", 1).await;
    let status = w.get(&format!("/servers/{id}"), "2.1").await.expect(200)["server"]["status"].clone();
    assert_eq!(status, "ACTIVE");
    manner.mood().unwell = None;
    let other = beating(&w, "beat").await;
    manner.mood().unwell = Some((Action::Stop, "no disk".into()));
    w.wait(&other, "SHUTOFF").await;
    logged(&w, &other, "700.215", 1).await;
    let text = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(text.contains("reason no disk") && manner.heard(&other).is_empty(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_heartbeat_is_an_alarm() {
    let (w, manner) = world(1, &[("compute.guest_silent_seconds", "0")]).await;
    manner.mood().absent = true;
    let (id, plain) = (w.active(json!({"flavorRef": "beat"})).await, w.active(json!({})).await);
    let audit = || async {
        let look = |tx: &store::Tx| {
            tx.nudge("reconcile/compute.server_power");
            Ok(())
        };
        w.cloud.controller.core.store.write(look).await.unwrap();
    };
    audit().await;
    alarms(&w, "700.015", true).await;
    let alarm = w.cloud.get(&w.admin, "/fault/v1/alarms").await.text();
    assert!(alarm.contains(&id) && !alarm.contains(&plain), "{alarm}");
    // Nobody is asked who is not there.
    assert_eq!(w.act(&id, json!({"pause": null})).await.status, 202);
    w.wait(&id, "PAUSED").await;
    audit().await;
    alarms(&w, "700.015", false).await;
    assert_eq!(w.act(&id, json!({"unpause": null})).await.status, 202);
    w.wait(&id, "ACTIVE").await;
    audit().await;
    alarms(&w, "700.015", true).await;
    manner.mood().absent = false;
    logged(&w, &id, "700.211", 1).await;
    alarms(&w, "700.015", false).await;
    assert!(manner.heard(&id).iter().all(|(event, ..)| *event == Event::Unpause));
}

/// More than may wait: those who have waited longest hear at once that they shall come back, and reads go on.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_wait_for_guests_the_oldest_give_way_and_nothing_is_lost() {
    const SERVERS: usize = 10;
    const HELD: usize = 6;
    let wait = Duration::from_secs(3);
    let (w, manner) = world(2, &[("compute.guest_waiting", "6"), ("compute.guest_wait_seconds", "3")]).await;
    manner.mood().settings.vote = Duration::from_secs(60);
    let mut ids = Vec::new();
    for _ in 0..SERVERS {
        ids.push(beating(&w, "beat").await);
    }
    // They think longer than anybody waits.
    manner.mood().slow = wait + Duration::from_secs(1);
    let began = Instant::now();
    let asked = ids.iter().map(|id| {
        let w = &w;
        async move { (act(w, id, &json!({"os-stop": null})).await, began.elapsed()) }
    });
    let reads = async {
        let mut longest = Duration::ZERO;
        while began.elapsed() < wait {
            let read = Instant::now();
            assert_eq!(w.get("/servers/detail", "2.104").await.status, 200);
            longest = longest.max(read.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        longest
    };
    let (answers, longest) = tokio::join!(futures_util::future::join_all(asked), reads);
    assert!(longest < wait, "a read waited with them: {longest:?}");
    let (sent_away, kept): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(answer, _)| answer.status == 503);
    assert_eq!((sent_away.len(), kept.len()), (SERVERS - HELD, HELD));
    for (answer, after) in &sent_away {
        assert!(*after < wait, "{after:?}");
        assert_eq!(answer.header("retry-after"), "5", "{}", answer.text());
        assert_eq!(answer.json()["serviceUnavailable"]["code"], 503, "{}", answer.text());
    }
    for (answer, after) in &kept {
        assert_eq!((answer.status, *after >= wait), (202, true), "{after:?} {}", answer.text());
    }
    // What was begun goes on, whoever heard of it.
    for id in &ids {
        w.wait(id, "SHUTOFF").await;
    }
}
