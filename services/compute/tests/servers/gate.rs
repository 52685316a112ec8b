//! What happens to a server, its host or who calls while its guest is asked.

use std::time::{Duration, Instant};

use host::simulated::Manner;
use serde_json::{Value, json};

use crate::guests::{act, beating, logged, logs, world};
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
