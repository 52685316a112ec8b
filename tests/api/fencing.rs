//! A host that is lost in a site of two machines: only its BMC can say that its guests do not run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bmc::testing::{PASSWORD, Simulator, USERNAME};
use serde_json::json;
use testing::{Answer, Cloud, Token};

use crate::servers::ready;

const SOON: Duration = Duration::from_secs(30);

async fn until(what: &str, fits: impl Fn() -> bool) {
    let began = Instant::now();
    while !fits() {
        assert!(began.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A site of two hosts, the second of which has a guest that its BMC alone can say to be off: the cloud, the host's and the guest's id.
async fn site(settings: &[(&'static str, &str)]) -> (Cloud, Token, String, String) {
    // A port that nobody answers: the host that has a guard is lost as soon as it is watched.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let own = [("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true"), ("heartbeat.port", &port)];
    let mut cloud = Cloud::with_settings(2, &[&own, settings].concat()).await;
    let admin = cloud.admin().await;
    cloud.hosts[1].guard = Some(PathBuf::from("/bin/true"));
    cloud.hosts[1].vanish().await;
    cloud.host_return(1).await;
    let both = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    let hosts = cloud.until(&admin, "/inventory/v1/ihosts", SOON, both).await.json();
    let hosts = hosts["ihosts"].as_array().unwrap().clone();
    let id = hosts.iter().find(|h| h["hostname"] == "host-1").unwrap()["uuid"].as_str().unwrap().to_string();
    let mut body = ready(&cloud, &admin).await;
    body["server"]["availability_zone"] = json!("nova:host-1");
    let server = cloud.post(&admin, "/compute/v2.1/servers", body).await.expect(202)["server"]["id"].as_str().unwrap().to_string();
    let of_server = format!("/compute/v2.1/servers/{server}");
    cloud.until(&admin, &of_server, SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    let (store, compute) = (cloud.controller.core.store.clone(), cloud.controller.compute.clone());
    let began = Instant::now();
    while !store.read(|tx| compute.stranded_in(tx, &id)).await.unwrap().iter().any(|s| s.leased) {
        assert!(began.elapsed() < SOON, "the host does not confirm");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (cloud, admin, id, server)
}

/// Says how a host's BMC is reached.
async fn known(cloud: &Cloud, admin: &Token, path: &str, known: &[(&str, &str)]) {
    let change = |(name, value): &(&str, &str)| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let changes: Vec<_> = known.iter().map(change).collect();
    cloud.request("PATCH", path).token(admin).json(&json!(changes)).send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_is_switched_off_before_its_guests_run_elsewhere() {
    let (mut cloud, admin, id, server) = site(&[]).await;
    let (path, of_server) = (format!("/inventory/v1/ihosts/{id}"), format!("/compute/v2.1/servers/{server}"));
    let simulator = Simulator::start();
    simulator.stuck_set(true);
    let at = simulator.access().address.to_string();
    known(&cloud, &admin, &path, &[("bm_type", "dynamic"), ("bm_username", USERNAME), ("bm_password", PASSWORD), ("bm_ip", &at)]).await;

    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let watching = cloud.controller.maintenance.clone().watch("127.0.0.1".parse().unwrap(), stopped).unwrap();
    let watching = tokio::spawn(watching);
    cloud.until(&admin, &path, SOON, |a| a.json()["availability"] == "failed").await;
    // It is told to switch off, and does not: nothing is certain, so nothing is started elsewhere.
    until("the machine is told", || simulator.told().contains(&"power 0".to_string())).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let shown = cloud.get(&admin, &of_server).await.expect(200);
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
    assert!(cloud.hosts[0].hypervisor.running().is_empty());

    // Now it goes off, with all that ran on it.
    cloud.hosts[1].vanish().await;
    cloud.hosts[1].hypervisor.power_cut();
    simulator.stuck_set(false);
    simulator.power_set(false);
    cloud.until(&admin, &of_server, SOON, |a| a.json()["server"]["OS-EXT-SRV-ATTR:host"] == "host-0").await;
    cloud.until(&admin, &of_server, SOON, |a| a.json()["server"]["status"] == "ACTIVE").await;
    assert_eq!(cloud.hosts[0].hypervisor.running(), std::slice::from_ref(&server));
    // And it is switched on again; what is elsewhere now it does not start.
    until("the machine is on", || simulator.is_on()).await;
    cloud.host_return(1).await;
    let id = json!(id);
    let (store, compute) = (cloud.controller.core.store.clone(), cloud.controller.compute.clone());
    let began = Instant::now();
    while !store.read(|tx| compute.host_is_clear_in(tx, id.as_str().unwrap())).await.unwrap() {
        assert!(began.elapsed() < SOON, "the host does not let go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cloud.hosts[1].hypervisor.running().is_empty());
    watching.abort();
}

/// Maintenance specification, acceptance 15: three tries within its time; then the host is locked, or that came to nothing, which an operator
/// sees. It is never locked without being certainly off.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_by_force_whose_fence_fails_ends_and_can_be_asked_for_again() {
    // Each of the three tries has a part of it, in which a busy machine must get an answer from a simulated BMC.
    let limit = Duration::from_secs(27);
    let (mut cloud, admin, id, server) = site(&[("maintenance.force_seconds", "27")]).await;
    let (path, of_server) = (format!("/inventory/v1/ihosts/{id}"), format!("/compute/v2.1/servers/{server}"));
    let simulator = Simulator::start();
    simulator.stuck_set(true);
    // A BMC that takes what comes and says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (at, nowhere) = (simulator.access().address.to_string(), silent.local_addr().unwrap().to_string());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let watching = cloud.controller.maintenance.clone().watch("127.0.0.1".parse().unwrap(), stopped).unwrap();
    let watching = tokio::spawn(watching);
    let force = async |cloud: &Cloud| {
        let body = json!([{"op": "replace", "path": "/action", "value": "force-lock"}]);
        cloud.request("PATCH", &path).token(&admin).json(&body).send().await
    };
    for (address, password, word) in
        [(&at, PASSWORD, "should be Off"), (&at, "wrong", "refuses the user name or the password"), (&nowhere, PASSWORD, "")]
    {
        known(&cloud, &admin, &path, &[("bm_type", "ipmi"), ("bm_username", USERNAME), ("bm_password", password), ("bm_ip", address)])
            .await;
        let began = Instant::now();
        let begun = force(&cloud).await.expect(200);
        assert_eq!((&begun["task"], &begun["vim_progress_status"]), (&json!("Force Lock Reset in Progress"), &json!("")));
        let over = |a: &Answer| a.json()["task"] == "Force Lock Failed, its instances may still run";
        let shown = cloud.until(&admin, &path, limit * 2, over).await.json();
        assert!(began.elapsed() < limit + Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!((&shown["administrative"], &shown["action"]), (&json!("unlocked"), &json!("none")));
        let why = shown["vim_progress_status"].as_str().unwrap();
        assert!(why.starts_with("Force-lock of host host-1 failed: ") && why.contains(word) && why.contains("by hand"), "{why}");
        if word == "should be Off" {
            assert_eq!(simulator.told().iter().filter(|told| *told == "power 0").count(), 3, "{:?}", simulator.told());
        }
        assert_eq!(cloud.get(&admin, &of_server).await.expect(200)["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
        assert!(cloud.hosts[0].hypervisor.running().is_empty(), "nothing is certain: nothing is started elsewhere");
    }
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200).to_string();
    assert!(log.contains("host=host-1.command=force-lock"), "{log}");

    // Asked for again with a BMC that does what it is told.
    cloud.hosts[1].vanish().await;
    cloud.hosts[1].hypervisor.power_cut();
    simulator.stuck_set(false);
    known(&cloud, &admin, &path, &[("bm_type", "ipmi"), ("bm_username", USERNAME), ("bm_password", PASSWORD), ("bm_ip", &at)]).await;
    force(&cloud).await.expect(200);
    cloud.until(&admin, &path, SOON, |a| a.json()["administrative"] == "locked" && a.json()["task"] == "").await;
    cloud.until(&admin, &of_server, SOON, |a| a.json()["server"]["OS-EXT-SRV-ATTR:host"] == "host-0").await;
    watching.abort();
}

/// What looks after BMCs all the time: an unlocked machine that is found off is switched on; a BMC that does not answer is told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_found_off_is_switched_on_and_a_silent_bmc_is_told_of() {
    let (mut cloud, admin, id, _) = site(&[]).await;
    let path = format!("/inventory/v1/ihosts/{id}");
    let simulator = Simulator::start();
    let at = simulator.access().address.to_string();
    known(&cloud, &admin, &path, &[("bm_type", "ipmi"), ("bm_username", USERNAME), ("bm_password", PASSWORD), ("bm_ip", &at)]).await;
    let store = cloud.controller.core.store.clone();
    let look = || task::nudge_here(&store, "maintenance.bmc");
    cloud.hosts[1].vanish().await;
    cloud.until(&admin, &path, SOON, |a| a.json()["availability"] == "offline").await;
    simulator.power_set(false);
    let began = Instant::now();
    while !simulator.is_on() {
        assert!(began.elapsed() < SOON, "it stays off");
        look();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cloud.host_return(1).await;

    // Nobody listens there: at once an error, each time.
    known(&cloud, &admin, &path, &[("bm_type", "redfish"), ("bm_ip", "127.0.0.1:9")]).await;
    let alarm = |a: &Answer| a.text().contains("200.010");
    let began = Instant::now();
    while !alarm(&cloud.get(&admin, "/fault/v1/alarms").await) {
        assert!(began.elapsed() < SOON, "the BMC is never told of");
        look();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(1000), "five times in a row first: {:?}", began.elapsed());
    known(&cloud, &admin, &path, &[("bm_type", "ipmi"), ("bm_ip", &at)]).await;
    let began = Instant::now();
    while alarm(&cloud.get(&admin, "/fault/v1/alarms").await) {
        assert!(began.elapsed() < SOON, "it is told of for ever");
        look();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Maintenance specification, acceptance 12 and 13: while it is rather the network, or the whole site has just lost its power, a BMC is told
/// nothing, however long a host is silent.
#[tokio::test(flavor = "multi_thread")]
async fn no_machine_is_switched_off_while_the_site_is_waited_for() {
    // However long this machine is up, that is short.
    let long = "99999999999";
    let outage = [("maintenance.outage_seconds", long), ("maintenance.outage_small_seconds", long)];
    for settings in [vec![("heartbeat.mnfa_threshold", "1")], outage.to_vec()] {
        let (mut cloud, admin, id, server) = site(&settings).await;
        let path = format!("/inventory/v1/ihosts/{id}");
        let simulator = Simulator::start();
        let at = simulator.access().address.to_string();
        known(&cloud, &admin, &path, &[("bm_type", "ipmi"), ("bm_username", USERNAME), ("bm_password", PASSWORD), ("bm_ip", &at)]).await;
        let (store, inventory) = (cloud.controller.core.store.clone(), cloud.controller.inventory.clone());
        let site_is = async |outage: bool| {
            let this = inventory.clone();
            let now = store.read(|tx| this.site_in(tx)).await.unwrap();
            let boot = if outage { "an earlier one".into() } else { now.boot };
            store.write(move |tx| this.site_put_in(tx, &inventory::Site { boot, outage: None })).await.unwrap();
        };
        let is_outage = settings.len() > 1;
        if is_outage {
            // It is not there yet when the controller is.
            cloud.hosts[1].vanish().await;
            cloud.until(&admin, &path, SOON, |a| a.json()["availability"] == "offline").await;
            site_is(true).await;
        }
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let watching = cloud.controller.maintenance.clone().watch("127.0.0.1".parse().unwrap(), stopped).unwrap();
        let watching = tokio::spawn(watching);
        let lost = |a: &Answer| {
            let alarms = a.json()["alarms"].as_array().unwrap().clone();
            alarms.iter().any(|a| a["alarm_id"] == "200.005" && a["severity"] == "critical")
        };
        cloud.until(&admin, "/fault/v1/alarms", SOON, lost).await;
        if !is_outage {
            cloud.until(&admin, &path, SOON, |a| a.json()["task"] == "Graceful Recovery Wait").await;
        }
        // A lost host is switched off when it has been lost for three seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(simulator.is_on() && simulator.told().is_empty(), "{settings:?}: {:?}", simulator.told());
        let shown = cloud.get(&admin, &format!("/compute/v2.1/servers/{server}")).await.expect(200);
        assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "host-1");
        if is_outage {
            // The others are back, this one is not: now it is its own fault.
            site_is(false).await;
            until("the machine is told", || simulator.told().contains(&"power 0".to_string())).await;
        }
        watching.abort();
    }
}

/// Maintenance specification, acceptance 21: who writes alarms down may stand still, pulses go out all the same, and the alarm is there when
/// the store is again.
#[tokio::test(flavor = "multi_thread")]
async fn pulses_keep_their_pace_while_the_store_stands_still() {
    const STALL: Duration = Duration::from_secs(5);
    let (cloud, admin, id, _) = site(&[]).await;
    let port = u16::try_from(cloud.controller.core.config.int("heartbeat.port")).unwrap();
    let host = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let watching = cloud.controller.maintenance.clone().watch("127.0.0.1".parse().unwrap(), stopped).unwrap();
    let watching = tokio::spawn(watching);
    // It hears its pulses, and answers none.
    let heard = tokio::task::spawn_blocking(move || {
        let (mut packet, mut at) = ([0; 512], Vec::new());
        while at.first().is_none_or(|first: &Instant| first.elapsed() < STALL + Duration::from_secs(1)) {
            if host.recv(&mut packet).is_ok() {
                at.push(Instant::now());
            }
        }
        at
    });
    let store = cloud.controller.core.store.clone();
    let stall = tokio::spawn(async move {
        let stand_still = |_: &store::Tx| {
            std::thread::sleep(STALL);
            Ok(())
        };
        store.write(stand_still).await.unwrap();
    });
    let alarm =
        |a: &Answer| a.json()["alarms"].as_array().unwrap().iter().any(|a| a["alarm_id"] == "200.005" && a["severity"] == "critical");
    let began = Instant::now();
    while began.elapsed() < STALL / 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!alarm(&cloud.get(&admin, "/fault/v1/alarms").await), "the store does not stand still");
    }
    let heard = heard.await.unwrap();
    stall.await.unwrap();
    cloud.until(&admin, "/fault/v1/alarms", SOON, alarm).await;
    cloud.until(&admin, &format!("/inventory/v1/ihosts/{id}"), SOON, |a| a.json()["availability"] == "failed").await;
    watching.abort();
    let mut periods: Vec<u128> = heard.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
    assert!(periods.len() >= 50, "{periods:?}");
    // How soon a reader gets to run is none of the sender's doing: one in ten may be late.
    periods.sort_unstable();
    let middle = &periods[periods.len() / 20..periods.len() - periods.len() / 10];
    assert!(middle.iter().all(|period| (80..=120).contains(period)), "{periods:?}");
}
