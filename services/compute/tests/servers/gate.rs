//! What happens to a server, its host or who calls while its guest is asked.

use std::time::{Duration, Instant};

use guest::message::Event;
use host::simulated::Manner;
use serde_json::{Value, json};

use crate::guests::{VOTE, act, beating, beats, logged, logs, world};
use crate::world::{PATIENCE, World};

/// Longer than any request waits.
const LONG: Duration = Duration::from_secs(60);
/// What is not waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Guests that think for long, and say nothing.
fn silent(manner: &Manner) {
    let mut mood = manner.mood();
    (mood.settings.vote, mood.deaf) = (LONG, true);
}

/// The guest has been asked or told so often.
async fn asked(manner: &Manner, id: &str, times: usize) {
    let started = Instant::now();
    while manner.heard(id).len() < times {
        assert!(started.elapsed() < PATIENCE, "it is never asked: {:?}", manner.heard(id));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Somebody asks for this, and leaves while the guest thinks.
async fn begin(w: &World, manner: &Manner, id: &str, body: Value) {
    let times = manner.heard(id).len() + 1;
    tokio::select! {
        answer = w.act(id, body) => panic!("it has not waited: {}", answer.text()),
        () = asked(manner, id, times) => {}
    }
}

async fn host_of(w: &World, id: &str) -> String {
    let shown = w.call(&w.admin, "GET", &format!("/servers/{id}"), None, "2.1").await.expect(200);
    shown["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_set_by_hand_ends_the_question() {
    let (w, manner) = world(1, &[]).await;
    silent(&manner);
    let id = beating(&w, "beat").await;
    let (held, (reset, at)) = tokio::join!(w.act(&id, json!({"os-stop": null})), async {
        asked(&manner, &id, 1).await;
        (act(&w, &id, &json!({"os-resetState": {"state": "active"}})).await, Instant::now())
    });
    assert_eq!(reset.status, 202, "{}", reset.text());
    assert!(at.elapsed() < AT_ONCE, "{:?}", at.elapsed());
    let why = format!("The stop of instance {id} is not wanted any more: its state was set by hand.");
    assert_eq!((held.status, &held.json()["conflictingRequest"]["message"]), (409, &json!(why)));
    logged(&w, &id, "700.148", 1).await;
    // The next one is asked about, and done.
    manner.mood().deaf = false;
    w.wait(&id, "ACTIVE").await;
    assert_eq!(w.act(&id, json!({"os-stop": null})).await.status, 202);
    w.wait(&id, "SHUTOFF").await;
    assert_eq!(logs(&w, &id, "700.149").await, 0, "nothing has failed");
}

/// Proxy specification, acceptance 15.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_answers_who_waits_for_the_guest_at_once() {
    let (w, manner) = world(1, &[]).await;
    silent(&manner);
    let id = beating(&w, "beat").await;
    let (held, (deleted, at)) = tokio::join!(w.act(&id, json!({"os-stop": null})), async {
        asked(&manner, &id, 1).await;
        (w.delete(&format!("/servers/{id}"), "2.1").await, Instant::now())
    });
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert!([404, 409].contains(&held.status), "{} {}", held.status, held.text());
    assert!(at.elapsed() < AT_ONCE, "{:?}", at.elapsed());
    w.gone(&id).await;
    logged(&w, &id, "700.148", 1).await;
    w.clean().await;
}

/// Guest specification, acceptance 6 and 12: the end of a session is no consent.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_host_hangs_up_is_asked_again() {
    let (mut w, manner) = world(1, &[]).await;
    silent(&manner);
    let id = beating(&w, "beat").await;
    begin(&w, &manner, &id, json!({"os-stop": null})).await;
    w.cloud.hosts[0].vanish().await;
    {
        let mut mood = manner.mood();
        (mood.deaf, mood.refuses) = (false, Some("Not Now".into()));
    }
    w.cloud.host_return(0).await;
    logged(&w, &id, "700.147", 1).await;
    w.wait(&id, "ACTIVE").await;
    let heard: Vec<_> = manner.heard(&id).into_iter().map(|(event, notification, _)| (event, notification)).collect();
    assert_eq!(heard, [(Event::Stop, VOTE); 2]);
    assert_eq!(logs(&w, &id, "700.213").await, 0, "a host that begins anew loses nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_lost_host_has_no_say_in_its_evacuation() {
    let (mut w, manner) = world(2, &[]).await;
    silent(&manner);
    let id = beating(&w, "beat").await;
    begin(&w, &manner, &id, json!({"os-stop": null})).await;
    let host = host_of(&w, &id).await;
    w.cloud.hosts[usize::from(host == "host-1")].vanish().await;
    let path = format!("/compute/v2.1/os-services?host={host}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["services"][0]["state"] == "down").await;
    let answer = w.call(&w.admin, "POST", &format!("/servers/{id}/action"), Some(json!({"evacuate": {}})), "2.94").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    w.wait(&id, "ACTIVE").await;
    assert_ne!(host_of(&w, &id).await, host);
    assert_eq!((logs(&w, &id, "700.148").await, logs(&w, &id, "700.180").await), (1, 1), "the stop is cancelled, the evacuation done");
}

/// Proxy specification, acceptance 11.
#[tokio::test(flavor = "multi_thread")]
async fn no_header_makes_a_caller_the_system() {
    let (w, manner) = world(1, &[]).await;
    let id = beating(&w, "beat").await;
    manner.mood().refuses = Some("No".into());
    let path = format!("/compute/v2.1/servers/{id}/action");
    let headers = [
        ("x-internal", "true"),
        ("x-sturnus-internal", "true"),
        ("x-permit", "1"),
        ("x-service-token", "system"),
        ("x-service-roles", "service,admin"),
        ("x-roles", "admin"),
        ("x-is-admin-project", "true"),
        ("x-system-scope", "all"),
        ("x-user-id", "vim"),
        ("x-openstack-request-id", "req-00000000-0000-0000-0000-000000000000"),
    ];
    for token in [&w.tenant, &w.admin] {
        for (name, value) in headers {
            let request = w.cloud.request("POST", &path).token(token).header(name, value);
            let answer = request.json(&json!({"os-stop": null})).send().await;
            let message = answer.json()["conflictingRequest"]["message"].clone();
            assert_eq!((answer.status, message), (409, json!("action-rejected")), "{name}");
        }
    }
    assert_eq!(manner.heard(&id).len(), 2 * headers.len(), "it was asked each time");
    let log = w.cloud.get(&w.admin, "/fault/v1/event_log?limit=1000").await.text();
    assert!(log.contains("Stop issued by tenant") && !log.contains("Stop issued by the system"), "{log}");
    let mut nobody = w.cloud.request("POST", &path);
    for (name, value) in headers {
        nobody = nobody.header(name, value);
    }
    assert_eq!(nobody.json(&json!({"os-stop": null})).send().await.status, 401);
}

/// Guest specification, acceptance 9.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_moved_is_not_lost() {
    let (w, _) = world(2, &[]).await;
    let id = beating(&w, "beat").await;
    let live = json!({"os-migrateLive": {"host": null, "block_migration": "auto"}});
    for (body, status) in [(live, "ACTIVE"), (json!({"migrate": null}), "VERIFY_RESIZE")] {
        let from = host_of(&w, &id).await;
        assert_eq!(act(&w, &id, &body).await.status, 202, "{body}");
        w.wait(&id, status).await;
        assert_ne!(host_of(&w, &id).await, from, "{body}");
        beats(&w, &id).await;
        // Its challenges come each 400 ms, of which two make a loss.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(logs(&w, &id, "700.213").await, 0, "{body}");
    }
    assert_eq!(act(&w, &id, &json!({"confirmResize": null})).await.status, 204);
    w.wait(&id, "ACTIVE").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(logs(&w, &id, "700.213").await, 0);
}

/// Guest specification, acceptance 10; proxy specification, acceptance 10.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_asks_a_guest_once_and_one_by_force_does_not() {
    let (w, manner) = world(2, &[("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true")]).await;
    let available = |h: &&Value| h["availability"] == "available";
    let both = |a: &testing::Answer| a.json()["ihosts"].as_array().is_some_and(|hosts| hosts.iter().filter(available).count() == 2);
    let hosts = w.cloud.until(&w.admin, "/inventory/v1/ihosts", PATIENCE, both).await.json()["ihosts"].clone();
    let uuid = |name: &str| {
        let of = |h: &&Value| h["hostname"] == name;
        hosts.as_array().unwrap().iter().find(of).unwrap()["uuid"].as_str().unwrap().to_string()
    };
    let order = async |id: &str, action: &str| {
        let body = json!([{"op": "replace", "path": "/action", "value": action}]);
        w.cloud.request("PATCH", &format!("/inventory/v1/ihosts/{id}")).token(&w.admin).json(&body).send().await.expect(200)
    };
    let votes = |id: &str| manner.heard(id).iter().filter(|(_, notification, _)| *notification == VOTE).count();
    let id = beating(&w, "beat").await;
    let first = host_of(&w, &id).await;
    let here = uuid(&first);
    let path = format!("/inventory/v1/ihosts/{here}");

    manner.mood().refuses = Some("I Am Needed".into());
    order(&here, "lock").await;
    let shown = w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["task"] == "").await.json();
    let why = shown["vim_progress_status"].as_str().unwrap();
    assert!(why.contains("failed because Action rejected by instance: i am needed"), "{why}");
    assert_eq!((&shown["administrative"], host_of(&w, &id).await), (&json!("unlocked"), first.clone()));
    assert_eq!(votes(&id), 1);

    manner.mood().refuses = None;
    order(&here, "lock").await;
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["administrative"] == "locked").await;
    w.wait(&id, "ACTIVE").await;
    let second = host_of(&w, &id).await;
    assert_ne!(second, first);
    // A vote that was refused, a vote, a notice, and that it is over.
    asked(&manner, &id, 4).await;
    assert_eq!(votes(&id), 2);

    order(&here, "unlock").await;
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["availability"] == "available").await;
    // It refuses whatever it is asked.
    manner.mood().refuses = Some("I Am Needed".into());
    let (store, compute) = (w.cloud.controller.core.store.clone(), w.cloud.controller.compute.clone());
    let there = uuid(&second);
    let started = Instant::now();
    while !store.read(|tx| compute.stranded_in(tx, &there)).await.unwrap().iter().all(|s| s.leased) {
        assert!(started.elapsed() < PATIENCE, "its host does not confirm");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (inventory, of) = (w.cloud.controller.inventory.clone(), [here, there.clone()]);
    store
        .write(move |tx| {
            for host in &of {
                inventory.host_leased_in(tx, host)?;
            }
            inventory.host_force_lock_in(tx, &of[1])
        })
        .await
        .unwrap();
    let inventory = w.cloud.controller.inventory.clone();
    let lost = there.clone();
    store
        .write(move |tx| {
            inventory.host_fence_in(tx, &lost)?;
            compute.host_failed_in(tx, &lost)
        })
        .await
        .unwrap();
    let path = format!("/inventory/v1/ihosts/{there}");
    w.cloud.until(&w.admin, &path, PATIENCE, |a| a.json()["administrative"] == "locked").await;
    let path = format!("/compute/v2.1/servers/{id}");
    let back = |a: &testing::Answer| a.json()["server"]["OS-EXT-SRV-ATTR:host"] == first.as_str();
    w.cloud.until(&w.admin, &path, PATIENCE, back).await;
    w.wait(&id, "ACTIVE").await;
    assert_eq!(manner.heard(&id).len(), 4, "nobody was asked: {:?}", manner.heard(&id));
}
