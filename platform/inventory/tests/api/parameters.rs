//! Service parameters: what they may be, when they hold, and what follows from those of the heartbeat.

use inventory::Health;
use serde_json::{Value, json};
use testing::{Answer, Cloud, Token};

use super::{PATIENCE, cloud, fault, workers};

const ALL: &str = "/inventory/v1/service_parameter";

async fn uuid(cloud: &Cloud, admin: &Token, name: &str) -> String {
    let found = cloud.get(admin, &format!("{ALL}?service=platform&section=maintenance&name={name}")).await.expect(200);
    assert_eq!(found["parameters"].as_array().unwrap().len(), 1, "{found}");
    found["parameters"][0]["uuid"].as_str().unwrap().to_string()
}

async fn set(cloud: &Cloud, admin: &Token, name: &str, value: Value) -> Answer {
    let path = format!("{ALL}/{}", uuid(cloud, admin, name).await);
    let body = json!([{"op": "replace", "path": "/value", "value": value}]);
    cloud.request("PATCH", &path).token(admin).json(&body).send().await
}

async fn apply(cloud: &Cloud, admin: &Token, body: Value) -> Answer {
    cloud.post(admin, &format!("{ALL}/apply"), body).await
}

async fn rules(cloud: &Cloud) -> heartbeat::Rules {
    let this = cloud.controller.inventory.clone();
    cloud.controller.core.store.read(|tx| this.heartbeat_rules_in(tx)).await.unwrap()
}

/// Values are StarlingX's, with its bounds; each holds from when it is applied, and is told of in the log.
#[tokio::test]
async fn parameters_hold_when_they_are_applied_and_not_before() {
    let (cloud, admin) = cloud().await;
    let listed = cloud.get(&admin, ALL).await.expect(200);
    let pairs = |listed: &Value| -> Vec<(String, String)> {
        let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_string();
        listed["parameters"].as_array().unwrap().iter().map(|one| (text(one, "name"), text(one, "value"))).collect()
    };
    let defaults = [
        ("heartbeat_degrade_threshold", "6"),
        ("heartbeat_failure_action", "fail"),
        ("heartbeat_failure_threshold", "10"),
        ("heartbeat_period", "100"),
        ("mnfa_threshold", "0"),
        ("mnfa_timeout", "0"),
    ];
    assert_eq!(pairs(&listed), defaults.map(|(name, value)| (name.to_string(), value.to_string())));
    for (name, wrong) in [
        ("heartbeat_period", json!("99")),
        ("heartbeat_period", json!("1001")),
        ("heartbeat_degrade_threshold", json!("3")),
        ("heartbeat_failure_threshold", json!("101")),
        ("heartbeat_failure_action", json!("reset")),
        ("mnfa_threshold", json!("1")),
        ("mnfa_timeout", json!("99")),
        ("mnfa_timeout", json!(null)),
    ] {
        let answer = set(&cloud, &admin, name, wrong.clone()).await;
        assert!(answer.status == 400, "{name} {wrong}: {}", answer.text());
        assert!(wrong == json!(null) || fault(&answer).contains(name), "{}", answer.text());
    }
    let path = format!("{ALL}/{}", uuid(&cloud, &admin, "mnfa_timeout").await);
    for body in
        [json!([]), json!([{"op": "replace", "path": "/name", "value": "x"}]), json!([{"op": "remove", "path": "/value", "value": ""}])]
    {
        let answer = cloud.request("PATCH", &path).token(&admin).json(&body).send().await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    assert_eq!(cloud.get(&admin, &format!("{ALL}/nowhere")).await.status, 404);

    let wanted = [
        ("heartbeat_period", json!("250")),
        ("heartbeat_degrade_threshold", json!(20)),
        ("mnfa_threshold", json!("3")),
        ("mnfa_timeout", json!("600")),
    ];
    for (name, value) in wanted {
        assert_eq!(set(&cloud, &admin, name, value.clone()).await.expect(200)["name"], name);
    }
    assert_eq!(rules(&cloud).await, heartbeat::Rules::default(), "it is only written down");
    let answer = apply(&cloud, &admin, json!({"service": "platform", "section": "maintenance"})).await;
    assert!(answer.status == 400 && fault(&answer).contains("'heartbeat_degrade_threshold' is 20"), "{}", answer.text());
    assert_eq!(rules(&cloud).await, heartbeat::Rules::default(), "none of them holds");
    set(&cloud, &admin, "heartbeat_failure_threshold", json!("30")).await.expect(200);
    for body in
        [json!({"service": "platform", "section": "x"}), json!({"service": "dns"}), json!({}), json!({"service": "platform", "x": 1})]
    {
        assert_eq!(apply(&cloud, &admin, body).await.status, 400);
    }
    assert_eq!(apply(&cloud, &admin, json!({"service": "platform"})).await.status, 204);
    // Also for the controller that comes next.
    let cloud = cloud.crash().await;
    let rules = rules(&cloud).await;
    assert_eq!((rules.period.as_millis(), rules.degrade, rules.loss, rules.fails), (250, 20, 30, true));
    assert_eq!((rules.most, rules.patience.as_secs()), (3, 600));
    let log = cloud.get(&admin, "/fault/v1/event_log?limit=1000").await.expect(200);
    let told: Vec<&Value> = log["event_log"].as_array().unwrap().iter().filter(|event| event["event_log_id"] == "200.024").collect();
    assert_eq!(told.len(), 5, "{log}");
    let period = told.iter().find(|event| event["entity_instance_id"] == "host=host-0.event=heartbeat_period").unwrap();
    assert_eq!(period["reason_text"], "host-0: service parameter platform maintenance heartbeat_period was changed from '100' to '250'");
}

/// `heartbeat_failure_action`: what a lost heartbeat does to a host's state, its alarm, and to what is placed there.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_a_lost_heartbeat_is_what_is_set() {
    let (cloud, admin) = workers(2).await;
    let hosts = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"].clone();
    let host = hosts.as_array().unwrap().iter().find(|host| host["hostname"] == "host-1").unwrap().clone();
    let (id, path) = (host["uuid"].as_str().unwrap().to_string(), format!("/inventory/v1/ihosts/{}", host["uuid"].as_str().unwrap()));
    let health = async |health| {
        let (this, id) = (cloud.controller.inventory.clone(), id.clone());
        cloud.controller.core.store.write(move |tx| this.host_health_in(tx, &id, health)).await.unwrap();
    };
    let act_on = async |action: &str| {
        set(&cloud, &admin, "heartbeat_failure_action", json!(action)).await.expect(200);
        assert_eq!(apply(&cloud, &admin, json!({"service": "platform", "section": "maintenance"})).await.status, 204);
    };
    let seen = async || {
        let host = cloud.get(&admin, &path).await.expect(200);
        let alarms = cloud.get(&admin, "/fault/v1/alarms").await.expect(200)["alarms"].clone();
        let alarm =
            alarms.as_array().unwrap().first().map(|alarm| format!("{} {}", alarm["alarm_id"], alarm["severity"])).unwrap_or_default();
        let state = cloud.get(&admin, "/compute/v2.1/os-services?host=host-1").await.expect(200)["services"][0]["state"].clone();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        [text(&host["operational"]), text(&host["availability"]), alarm.replace('"', ""), text(&state)]
    };
    let expected = [
        ("degrade", ["enabled", "degraded", "200.005 critical", "up"], ["enabled", "degraded", "200.005 major", "up"]),
        ("alarm", ["enabled", "available", "200.005 critical", "up"], ["enabled", "available", "200.005 major", "up"]),
        ("none", ["enabled", "available", "", "up"], ["enabled", "available", "", "up"]),
        ("fail", ["disabled", "failed", "200.005 critical", "down"], ["enabled", "degraded", "200.005 major", "up"]),
    ];
    for (action, lost, degraded) in expected {
        act_on(action).await;
        health(Health::Degraded).await;
        assert_eq!(seen().await, degraded, "{action}");
        health(Health::Lost).await;
        assert_eq!(seen().await, lost, "{action}");
        health(Health::Well).await;
        assert_eq!(seen().await, ["enabled", "available", "", "up"], "{action}");
    }
    // Set while the host is silent it holds for it at once, either way.
    health(Health::Lost).await;
    for (action, lost, _) in expected.into_iter().chain(expected) {
        act_on(action).await;
        assert_eq!(seen().await, lost, "{action}");
    }
}

#[tokio::test]
async fn parameters_are_read_by_readers_and_changed_by_configurators() {
    let (cloud, admin) = cloud().await;
    let of = cloud.get(&admin, ALL).await.expect(200)["parameters"][0].clone();
    let path = format!("{ALL}/{}", of["uuid"].as_str().unwrap());
    for (role, [sees, changes]) in [("reader", [true, false]), ("operator", [true, false]), ("configurator", [true, true])] {
        let token = super::roles::with_role(&cloud, &admin, role).await;
        assert_eq!(cloud.get(&token, ALL).await.status == 200, sees, "{role}");
        let body = json!([{"op": "replace", "path": "/value", "value": of["value"]}]);
        let changed = cloud.request("PATCH", &path).token(&token).json(&body).send().await.status;
        assert_eq!(changed, if changes { 200 } else { 403 }, "{role}");
        let applied = apply(&cloud, &token, json!({"service": "platform"})).await.status;
        assert_eq!(applied, if changes { 204 } else { 403 }, "{role}");
    }
}

/// Who sends the pulses goes by what is applied from then on: a host that never answers is only degraded, only told of, and then lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_holds_for_who_watches_without_a_restart() {
    // A port that nobody answers.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let settings = [("hosts.listen", "127.0.0.1:5001"), ("host.simulated", "true"), ("heartbeat.port", port.as_str())];
    let mut cloud = Cloud::with_settings(2, &settings).await;
    let admin = cloud.admin().await;
    cloud.hosts[1].guard = Some(std::path::PathBuf::from("/bin/true"));
    cloud.hosts[1].vanish().await;
    cloud.host_return(1).await;
    let both = |a: &Answer| a.json()["ihosts"].as_array().unwrap().iter().filter(|h| h["availability"] == "available").count() == 2;
    let hosts = cloud.until(&admin, "/inventory/v1/ihosts", PATIENCE, both).await.json()["ihosts"].clone();
    let host = hosts.as_array().unwrap().iter().find(|host| host["hostname"] == "host-1").unwrap().clone();
    let path = format!("/inventory/v1/ihosts/{}", host["uuid"].as_str().unwrap());
    let hold = async |values: &[(&str, &str)]| {
        for (name, value) in values {
            set(&cloud, &admin, name, json!(value)).await.expect(200);
        }
        assert_eq!(apply(&cloud, &admin, json!({"service": "platform"})).await.status, 204);
    };
    hold(&[("heartbeat_period", "500"), ("heartbeat_degrade_threshold", "4"), ("heartbeat_failure_threshold", "100")]).await;
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let watching = tokio::spawn(cloud.controller.maintenance.clone().watch("127.0.0.1".parse().unwrap(), stopped).unwrap());
    let alarm = |severity: &'static str| {
        move |a: &Answer| a.json()["alarms"].as_array().unwrap().iter().any(|a| a["alarm_id"] == "200.005" && a["severity"] == severity)
    };
    let is = |operational: &'static str, availability: &'static str| {
        move |a: &Answer| a.json()["operational"] == operational && a.json()["availability"] == availability
    };
    cloud.until(&admin, &path, PATIENCE, is("enabled", "degraded")).await;
    cloud.until(&admin, "/fault/v1/alarms", PATIENCE, alarm("major")).await;
    hold(&[("heartbeat_period", "100"), ("heartbeat_failure_threshold", "10"), ("heartbeat_failure_action", "degrade")]).await;
    cloud.until(&admin, "/fault/v1/alarms", PATIENCE, alarm("critical")).await;
    cloud.until(&admin, &path, PATIENCE, is("enabled", "degraded")).await;
    hold(&[("heartbeat_failure_action", "fail")]).await;
    cloud.until(&admin, &path, PATIENCE, is("disabled", "failed")).await;
    watching.abort();
}
