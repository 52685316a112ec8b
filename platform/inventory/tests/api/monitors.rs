//! What hosts' monitors see, as alarms and states.

use base::Timestamp;
use rpc::message::ToController;
use rpc::monitor::{Condition, Dropped, Level, MonitorReport};
use rpc::session::Said;
use serde_json::{Value, json};
use service::HostListener;
use testing::{Cloud, Token};

use super::{PATIENCE, cloud};

fn condition(alarm_id: &str, entity: &str, level: Level) -> Condition {
    Condition {
        alarm_id: alarm_id.into(),
        entity: entity.into(),
        level,
        reason: "x".into(),
        degrades: level == Level::Major,
        fails: level == Level::Critical && alarm_id == "200.006",
    }
}

/// The host reports these, with its clock off by so many seconds.
async fn report(cloud: &Cloud, id: &str, conditions: &[Condition], off: i64) {
    let clock = Timestamp(Timestamp::now().micros() + off * 1_000_000);
    let said = Said::Message(ToController::Monitor(MonitorReport { conditions: conditions.to_vec(), clock, dropped: Vec::new() }));
    cloud.controller.inventory.heard(id, &said).await.unwrap();
}

async fn state(cloud: &Cloud, admin: &Token) -> (Vec<String>, Value, Value) {
    let alarms = cloud.get(admin, "/fault/v1/alarms").await.expect(200);
    let all = alarms["alarms"].as_array().unwrap().iter();
    let text = |alarm: &Value, key: &str| alarm[key].as_str().unwrap().to_string();
    let mut all: Vec<String> =
        all.map(|a| format!("{} {} {}", text(a, "alarm_id"), text(a, "entity_instance_id"), text(a, "severity"))).collect();
    all.sort();
    let host = cloud.get(admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0].clone();
    (all, host["availability"].clone(), host["operational"].clone())
}

#[tokio::test]
async fn what_is_not_well_is_an_alarm_as_long_as_the_host_says_so() {
    let (cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let full = condition("100.104", "filesystem=/var", Level::Critical);
    let process = condition("200.006", "process=sshd", Level::Major);
    report(&cloud, &id, &[full.clone(), process.clone()], 0).await;
    let (alarms, availability, operational) = state(&cloud, &admin).await;
    assert_eq!(alarms, ["100.104 host=host-0.filesystem=/var critical", "200.006 host=host-0.process=sshd major"]);
    assert_eq!((availability, operational), (json!("degraded"), json!("enabled")));

    // A host tells of itself, and of what is in the catalogue for it.
    report(&cloud, &id, &[condition("700.001", "x=y", Level::Major), condition("200.006", "process=a\nb", Level::Major)], 0).await;
    assert_eq!(state(&cloud, &admin).await, (vec![], json!("available"), json!("enabled")));

    // Without this one the host takes nothing new. It is the only controller's, which stays in service.
    report(&cloud, &id, &[condition("200.006", "process=sm", Level::Critical)], 0).await;
    let (alarms, availability, operational) = state(&cloud, &admin).await;
    assert_eq!(alarms, ["200.006 host=host-0.process=sm critical", "200.013 host=host-0 major"]);
    assert_eq!((availability, operational), (json!("degraded"), json!("enabled")));
    let services = async || cloud.get(&admin, "/compute/v2.1/os-services?host=host-0").await.expect(200)["services"][0].clone();
    assert!(services().await["disabled_reason"].as_str().unwrap().contains("has failed"));
    // The controller that comes next knows it, and hears when it is over.
    let cloud = cloud.crash().await;
    let path = format!("/inventory/v1/ihosts/{id}");
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["subfunction_avail"] == "failed").await;
    report(&cloud, &id, &[], 0).await;
    assert_eq!(state(&cloud, &admin).await, (vec![], json!("available"), json!("enabled")));
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-0").await.expect(200)["services"][0].clone();
    assert_eq!(services["status"], "enabled");
}

#[tokio::test]
async fn a_clock_that_stays_wrong_is_told_of() {
    let (cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    for off in [-3600, 3600, 0, 3600, 3600] {
        report(&cloud, &id, &[], off).await;
        assert_eq!(state(&cloud, &admin).await.0, Vec::<String>::new());
    }
    report(&cloud, &id, &[], 3600).await;
    report(&cloud, &id, &[], 3700).await;
    assert_eq!(state(&cloud, &admin).await.0, ["100.114 host=host-0.ntp major"]);
    // With what its time service says it is one alarm, and one for each server.
    let said = [condition("100.114", "ntp", Level::Major), condition("100.114", "ntp=192.0.2.1", Level::Minor)];
    report(&cloud, &id, &said, 3600).await;
    let text = async || cloud.get(&admin, "/fault/v1/alarms").await.expect(200).to_string();
    assert_eq!(state(&cloud, &admin).await.0, ["100.114 host=host-0.ntp major", "100.114 host=host-0.ntp=192.0.2.1 minor"]);
    assert!(text().await.contains("more than 5 s apart"));
    report(&cloud, &id, &said[..1], 0).await;
    assert_eq!(state(&cloud, &admin).await.0, ["100.114 host=host-0.ntp major"]);
    assert!(!text().await.contains("apart"), "its clock is right: what its service says stands");
    report(&cloud, &id, &[], 0).await;
    assert_eq!(state(&cloud, &admin).await.0, Vec::<String>::new());
}

/// A host whose release is too old for this controller is not merely not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_sent_away_is_told_of_with_the_reason() {
    let (mut cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let path = format!("/inventory/v1/ihosts/{id}");
    cloud.hosts[0].vanish().await;
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "offline").await;
    // As the transport does for a host that has proved who it is.
    let (host, controller) = rpc::session::link();
    let hello = ToController::Hello {
        versions: (1, rpc::message::VERSIONS.start() - 1),
        host: rpc::message::HostInfo { id: id.clone(), name: "host-0".into(), ..Default::default() },
    };
    host.outgoing.send(hello).await.unwrap();
    let refused = cloud.controller.core.hosts.sessions().serve_known(controller, &id, "host-0").await;
    assert!(refused.is_err());
    let why =
        |a: &testing::Answer| a.json()["vim_progress_status"].as_str().is_some_and(|text| text.contains("older than this controller's"));
    cloud.until(&admin, &path, PATIENCE, why).await;
    assert_eq!(state(&cloud, &admin).await.0, ["200.011 host=host-0 critical"]);
    // Brought up to date it is let in, and nothing is left of it.
    cloud.host_return(0).await;
    cloud.until(&admin, &path, PATIENCE, |a| a.json()["availability"] == "available" && a.json()["vim_progress_status"] == "").await;
    assert_eq!(state(&cloud, &admin).await.0, Vec::<String>::new());
}

/// What it has is another's: nothing of the other's is sent to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_at_the_address_of_another_is_told_of_with_both_names() {
    let (mut cloud, admin) = cloud().await;
    let returns = async |cloud: &mut Cloud, number: usize, address: &str| {
        cloud.hosts[number].vanish().await;
        cloud.hosts[number].settings = vec![("host.address", address.to_string())];
        cloud.host_return(number).await;
    };
    cloud.host_add("host-1").await;
    let at = |name: &'static str, address: &'static str| {
        let fits = move |host: &Value| host["hostname"] == name && host["mgmt_ip"] == address;
        move |a: &testing::Answer| a.json()["ihosts"].as_array().unwrap().iter().any(fits)
    };
    let hosts = "/inventory/v1/ihosts";
    returns(&mut cloud, 0, "192.0.2.1").await;
    cloud.until(&admin, hosts, PATIENCE, at("host-0", "192.0.2.1")).await;
    returns(&mut cloud, 1, "192.0.2.1").await;
    cloud.until(&admin, hosts, PATIENCE, at("host-1", "192.0.2.1")).await;
    let text = async |cloud: &Cloud| {
        let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"].clone();
        alarms.as_array().unwrap().iter().map(|a| a["reason_text"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let expected = "host-1 experienced a configuration failure: its address 192.0.2.1 is that of host-0; no tunnel leads to it.";
    assert_eq!(text(&cloud).await, [expected]);
    assert_eq!(state(&cloud, &admin).await.0, ["200.011 host=host-1.interface=tunnel critical"]);
    // The first one moves: the other greets again by itself.
    returns(&mut cloud, 0, "192.0.2.7").await;
    cloud.until(&admin, hosts, PATIENCE, at("host-0", "192.0.2.7")).await;
    cloud.until(&admin, "/fault/v1/alarms", PATIENCE, |a| a.json()["alarms"] == json!([])).await;
}

/// One of a host's two networks: it is degraded, and not lost.
#[tokio::test]
async fn each_network_of_a_host_has_its_alarm() {
    use heartbeat::Way::{Cluster, Management};
    use inventory::Health::{Degraded, Lost, Well};
    let (cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let way = async |way, health| {
        let (this, id) = (cloud.controller.inventory.clone(), id.clone());
        cloud.controller.core.store.write(move |tx| this.host_way_in(tx, &id, way, health)).await.unwrap();
        state(&cloud, &admin).await
    };
    let is = |state: &(Vec<String>, Value, Value), alarms: &[&str], availability: &str, operational: &str| {
        assert_eq!(state.0, alarms);
        assert_eq!((&state.1, &state.2), (&json!(availability), &json!(operational)));
    };
    is(&way(Cluster, Degraded).await, &["200.009 host=host-0 major"], "degraded", "enabled");
    is(&way(Cluster, Lost).await, &["200.009 host=host-0 critical"], "degraded", "enabled");
    is(&way(Management, Degraded).await, &["200.005 host=host-0 major", "200.009 host=host-0 critical"], "degraded", "enabled");
    is(&way(Management, Lost).await, &["200.005 host=host-0 critical", "200.009 host=host-0 critical"], "degraded", "enabled");
    // All of them together is what the host as a whole is judged by.
    let health = async |health| {
        let (this, id) = (cloud.controller.inventory.clone(), id.clone());
        cloud.controller.core.store.write(move |tx| this.host_health_in(tx, &id, health)).await.unwrap();
        state(&cloud, &admin).await
    };
    is(&health(Lost).await, &["200.005 host=host-0 critical", "200.009 host=host-0 critical"], "failed", "disabled");
    health(Well).await;
    is(&way(Management, Well).await, &["200.009 host=host-0 critical"], "degraded", "enabled");
    // The network is taken away: nothing more is to be told of it.
    let (this, of) = (cloud.controller.inventory.clone(), id.clone());
    cloud.controller.core.store.write(move |tx| this.host_ways_in(tx, &of, None)).await.unwrap();
    is(&state(&cloud, &admin).await, &[], "available", "enabled");
}

#[tokio::test]
async fn what_a_host_has_dropped_is_a_metric() {
    let (cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let shown = async |dropped: &[(&str, &str, u64)]| -> Vec<String> {
        let dropped =
            dropped.iter().map(|(port, reason, packets)| Dropped { port: (*port).into(), reason: (*reason).into(), packets: *packets });
        let report = MonitorReport { conditions: Vec::new(), clock: Timestamp::now(), dropped: dropped.collect() };
        cloud.controller.inventory.heard(&id, &Said::Message(ToController::Monitor(report))).await.unwrap();
        let text = cloud.controller.core.metrics.render().unwrap();
        let mut lines: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("sturnus_host_dropped_packets_total")).map(str::to_string).collect();
        lines.sort();
        lines
    };
    let line = |port: &str, reason: &str, n: u64| format!("{{host=\"host-0\",port=\"{port}\",reason=\"{reason}\"}} {n}");
    let all = [("dns", "malformed", 1), ("tunnel", "forged", 3), ("x\"y", "z", 1), ("dns", "A\nB", 1)];
    assert_eq!(shown(&all).await, [line("dns", "malformed", 1), line("tunnel", "forged", 3)]);
    // The host's program has started again.
    assert_eq!(shown(&[("tunnel", "forged", 1)]).await, [line("tunnel", "forged", 1)]);
    assert_eq!(shown(&[]).await, Vec::<String>::new());
}

/// A collector that is not there says so by its machine; one that says nothing is there.
#[tokio::test]
async fn a_collector_of_the_log_that_cannot_be_reached_is_told_of() {
    use task::Reconciler;
    let collector = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = collector.local_addr().unwrap().to_string();
    let cloud = Cloud::with_settings(1, &[("hosts.listen", "127.0.0.1:5001"), ("fault.syslog", &at)]).await;
    let admin = cloud.admin().await;
    cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, |a| a.json()["ihosts"][0]["availability"] == "available").await;
    let log = inventory::RemoteLog::with_patience(cloud.controller.inventory.clone(), std::time::Duration::from_millis(500));
    let alarms = async || {
        log.run().await.unwrap();
        state(&cloud, &admin).await.0
    };
    assert_eq!((alarms().await, alarms().await), (vec![], vec![]));
    drop(collector);
    assert_eq!(alarms().await, Vec::<String>::new(), "once is nothing");
    assert_eq!(alarms().await, ["100.118 host=host-0 minor"]);
    let _collector = std::net::UdpSocket::bind(&at).unwrap();
    assert_eq!(alarms().await, Vec::<String>::new());
}
