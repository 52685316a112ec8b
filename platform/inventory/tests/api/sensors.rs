//! What BMCs measure: learned, judged, and acted on.

use bmc::testing::{PASSWORD, Simulator, USERNAME};
use bmc::{Quantity, Sensor, Status, Thresholds};
use serde_json::{Value, json};
use testing::{Cloud, Token};

use super::{PATIENCE, act, cloud, fault};

fn read(name: &str, quantity: Quantity, status: Status) -> Sensor {
    Sensor { name: name.into(), quantity, reading: Some(40.0), unit: "x".into(), status, thresholds: Thresholds::default() }
}

pub(super) async fn patch(cloud: &Cloud, admin: &Token, path: &str, values: Value) -> testing::Answer {
    let replace = |(name, value): (&String, &Value)| json!({"op": "replace", "path": format!("/{name}"), "value": value});
    let changes: Vec<Value> = values.as_object().unwrap().iter().map(replace).collect();
    cloud.request("PATCH", &format!("/inventory/v1{path}")).token(admin).json(&json!(changes)).send().await
}

/// The host takes these; whether it is to be reset.
pub(super) async fn measured(cloud: &Cloud, id: &str, sensors: &[Sensor]) -> bool {
    let (this, id, sensors) = (cloud.controller.inventory.clone(), id.to_string(), sensors.to_vec());
    cloud.controller.core.store.write(move |tx| this.sensors_read_in(tx, &id, &sensors)).await.unwrap()
}

async fn alarms(cloud: &Cloud, admin: &Token) -> Vec<String> {
    let alarms = cloud.get(admin, "/fault/v1/alarms").await.expect(200);
    let text = |alarm: &Value, key: &str| alarm[key].as_str().unwrap().to_string();
    let all = alarms["alarms"].as_array().unwrap().iter();
    all.map(|a| format!("{} {} {}", text(a, "alarm_id"), text(a, "entity_instance_id"), text(a, "severity"))).collect()
}

#[tokio::test]
async fn sensors_are_judged_on_the_second_reading_and_their_groups_say_what_is_done() {
    let (cloud, admin) = cloud().await;
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let at = format!("/ihosts/{id}");
    // The host's own BMC is one that nobody asks in this test: its protocol is known, and nothing is there.
    let known = json!({"bm_type": "redfish", "bm_ip": "127.0.0.1:9", "bm_username": "a", "bm_password": "b"});
    patch(&cloud, &admin, &at, known).await.expect(200);
    let both = |temperature, fan| [read("CPU Temp", Quantity::Temperature, temperature), read("FAN 1", Quantity::Fan, fan)];
    assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    let groups = cloud.get(&admin, &format!("/inventory/v1{at}/isensorgroups")).await.expect(200);
    let names: Vec<&str> = groups["isensorgroups"].as_array().unwrap().iter().map(|g| g["sensorgroupname"].as_str().unwrap()).collect();
    assert_eq!(names, ["server fans", "server temperature"]);
    let group = groups["isensorgroups"][1]["uuid"].as_str().unwrap().to_string();
    assert_eq!(groups["isensorgroups"][1]["actions_critical_group"], "alarm");
    assert_eq!(alarms(&cloud, &admin).await, Vec::<String>::new());
    measured(&cloud, &id, &both(Status::Critical, Status::Minor)).await;
    measured(&cloud, &id, &both(Status::Critical, Status::Minor)).await;
    // Minor is ignored as long as nobody wants it otherwise.
    assert_eq!(alarms(&cloud, &admin).await, ["200.007 host=host-0.sensor=CPU Temp critical"]);
    let host = async || cloud.get(&admin, &format!("/inventory/v1{at}")).await.expect(200)["availability"].clone();
    assert_eq!(host().await, "degraded");
    let sensors = cloud.get(&admin, "/inventory/v1/isensors").await.expect(200)["isensors"].clone();
    assert_eq!(
        (&sensors[0]["sensorname"], &sensors[0]["status"], &sensors[1]["status"]),
        (&json!("CPU Temp"), &json!("critical"), &json!("minor"))
    );
    let sensor = format!("/isensors/{}", sensors[0]["uuid"].as_str().unwrap());
    assert_eq!(cloud.get(&admin, &format!("/inventory/v1{sensor}")).await.expect(200)["sensorgroup_uuid"], json!(group));

    // A suppressed group, or sensor, says nothing.
    let place = format!("/isensorgroups/{group}");
    patch(&cloud, &admin, &place, json!({"suppress": "True"})).await.expect(200);
    assert_eq!((alarms(&cloud, &admin).await, host().await), (vec![], json!("available")));
    patch(&cloud, &admin, &sensor, json!({"suppress": "True"})).await.expect(200);
    patch(&cloud, &admin, &place, json!({"suppress": "False"})).await.expect(200);
    assert_eq!(alarms(&cloud, &admin).await, Vec::<String>::new());
    patch(&cloud, &admin, &sensor, json!({"suppress": "False"})).await.expect(200);
    assert_eq!(alarms(&cloud, &admin).await.len(), 1);

    // Reset: once for each time that it becomes critical.
    patch(&cloud, &admin, &place, json!({"actions_critical_group": "reset", "audit_interval_group": "60"})).await.expect(200);
    assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    for _ in 0..2 {
        assert!(!measured(&cloud, &id, &both(Status::Ok, Status::Ok)).await);
    }
    assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    assert!(measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);

    // What is not watched is told of as such, and does nothing.
    for (path, shown) in [(&place, "isensorgroups"), (&sensor, "isensors")] {
        patch(&cloud, &admin, path, json!({"state": "disabled"})).await.expect(200);
        for _ in 0..2 {
            assert!(!measured(&cloud, &id, &both(Status::Ok, Status::Ok)).await, "{shown}");
        }
        for _ in 0..2 {
            assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await, "{shown}");
        }
        let one = cloud.get(&admin, &format!("/inventory/v1{sensor}")).await.expect(200);
        assert_eq!((&one["state"], &one["status"]), (&json!("disabled"), &json!("disabled")), "{shown}");
        patch(&cloud, &admin, path, json!({"state": "enabled"})).await.expect(200);
    }
    for _ in 0..2 {
        assert!(!measured(&cloud, &id, &both(Status::Ok, Status::Ok)).await);
    }
    // Nor is anything done to a machine that is not in service; when it is, it is time.
    act(&cloud, &admin, &id, "lock").await.expect(200);
    for _ in 0..3 {
        assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    }
    act(&cloud, &admin, &id, "unlock").await.expect(200);
    cloud.until(&admin, &format!("/inventory/v1{at}"), PATIENCE, |a| a.json()["availability"] == "available").await;
    assert!(measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);
    assert!(!measured(&cloud, &id, &both(Status::Critical, Status::Ok)).await);

    for (path, values, word) in [
        (&place, json!({"audit_interval_group": 9}), "audit_interval_group"),
        (&place, json!({"actions_major_group": "power-cycle"}), "critical"),
        (&place, json!({"actions_critical_group": "power-cycle"}), "controller's own host"),
        (&place, json!({"state": "asleep"}), "state"),
        (&place, json!({"actions_minor_group": "reset"}), "critical"),
        (&place, json!({"actions_major_group": "explode"}), "actions_major_group"),
        (&place, json!({"suppress": "perhaps"}), "suppress"),
        (&place, json!({"sensortype": "x"}), "sensortype"),
        (&sensor, json!({"status": "ok"}), "suppress"),
    ] {
        let answer = patch(&cloud, &admin, path, values).await;
        assert!(answer.status == 400 && fault(&answer).contains(word), "{}", answer.text());
    }

    // Learned anew: what was set of the groups stays.
    let body = json!({"host_uuid": id});
    assert_eq!(cloud.post(&admin, "/inventory/v1/isensorgroups/relearn", body).await.status, 204);
    assert_eq!(cloud.get(&admin, "/inventory/v1/isensors").await.expect(200)["isensors"], json!([]));
    measured(&cloud, &id, &[read("CPU 2", Quantity::Temperature, Status::Ok)]).await;
    let shown = cloud.get(&admin, "/inventory/v1/isensors?limit=1").await.expect(200);
    assert_eq!((&shown["isensors"][0]["sensorname"], &shown["isensors"][0]["audit_interval"]), (&json!("CPU 2"), &json!(60)));
    // Without a BMC there is nothing.
    patch(&cloud, &admin, &at, json!({"bm_type": "none"})).await.expect(200);
    assert_eq!(cloud.get(&admin, "/inventory/v1/isensorgroups").await.expect(200)["isensorgroups"], json!([]));
    assert_eq!(alarms(&cloud, &admin).await, Vec::<String>::new());
}

/// With a real BMC's answers: learned by itself, and the alarm comes and goes with the temperature.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_gets_too_hot_is_told_of() {
    let (cloud, admin) = cloud().await;
    let simulator = Simulator::start();
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let known =
        json!({"bm_type": "ipmi", "bm_ip": simulator.access().address.to_string(), "bm_username": USERNAME, "bm_password": PASSWORD});
    patch(&cloud, &admin, &format!("/ihosts/{id}"), known).await.expect(200);
    let learned = |a: &testing::Answer| a.json()["isensors"][0]["sensorname"] == "CPU Temp";
    cloud.until(&admin, "/inventory/v1/isensors", PATIENCE, learned).await;
    simulator.temperature_set(93);
    let bmc = bmc::Bmc::new(simulator.access()).unwrap();
    let began = std::time::Instant::now();
    while alarms(&cloud, &admin).await != ["200.007 host=host-0.sensor=CPU Temp critical"] {
        assert!(began.elapsed() < PATIENCE);
        let sensors = bmc.sensors().await.unwrap();
        measured(&cloud, &id, &sensors).await;
    }
    simulator.temperature_set(50);
    while !alarms(&cloud, &admin).await.is_empty() {
        assert!(began.elapsed() < 2 * PATIENCE);
        let sensors = bmc.sensors().await.unwrap();
        measured(&cloud, &id, &sensors).await;
    }
}

/// Maintenance specification, acceptance 18: one reset, really told to the BMC.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_sensor_asks_for_it_is_reset_once() {
    let (cloud, admin) = cloud().await;
    let simulator = Simulator::start();
    let id = cloud.get(&admin, "/inventory/v1/ihosts").await.expect(200)["ihosts"][0]["uuid"].as_str().unwrap().to_string();
    let known =
        json!({"bm_type": "ipmi", "bm_ip": simulator.access().address.to_string(), "bm_username": USERNAME, "bm_password": PASSWORD});
    patch(&cloud, &admin, &format!("/ihosts/{id}"), known).await.expect(200);
    let groups = |a: &testing::Answer| !a.json()["isensorgroups"].as_array().unwrap().is_empty();
    let groups = cloud.until(&admin, "/inventory/v1/isensorgroups", PATIENCE, groups).await.json();
    let place = format!("/isensorgroups/{}", groups["isensorgroups"][0]["uuid"].as_str().unwrap());
    patch(&cloud, &admin, &place, json!({"actions_critical_group": "reset", "audit_interval_group": 10})).await.expect(200);
    simulator.temperature_set(93);
    let resets = || simulator.told().iter().filter(|told| *told == "reset 1").count();
    let began = std::time::Instant::now();
    // Two readings, ten seconds apart.
    while resets() == 0 {
        assert!(began.elapsed() < 3 * PATIENCE, "{:?}", simulator.told());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // It stays critical, which is no reason for another.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(resets(), 1, "{:?}", simulator.told());
}
