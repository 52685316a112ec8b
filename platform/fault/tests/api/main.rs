//! The fault service on a store of its own.
#![allow(clippy::unwrap_used)]

mod alarms;
mod behaviour;
mod carry;
mod clients;
mod crashes;
mod flap;
mod net_snmp;
mod rest;
mod stream;
mod suppression;

use fault::{Alarm, Faults, MIGRATIONS, RULES, Severity};
use serde_json::Value;
use service::Core;
use service::testing::{Bench, core};

const PROJECT: &str = "0123456789abcdef0123456789abcdef";

struct World {
    bench: Bench,
    faults: Faults,
    core: Core,
    _home: tempfile::TempDir,
}

async fn world() -> World {
    world_with(&[]).await
}

/// With these keys of the configuration.
async fn world_with(config: &[(&'static str, &str)]) -> World {
    let (mut core, home) = core("fault", RULES).await;
    let mut changed = (*core.config).clone();
    for (key, value) in config {
        changed.set(key, value);
    }
    core.config = changed.into();
    core.store.migrate("fault", MIGRATIONS).await.unwrap();
    let faults = Faults::new(core.clone()).await.unwrap();
    World { bench: Bench::new(faults.service().unwrap()), faults, core, _home: home }
}

fn failed(instance: &str) -> Alarm {
    Alarm::of_instance(
        "700.001",
        PROJECT,
        instance,
        Severity::Critical,
        format!("Instance {instance} has failed"),
        "It is recovered by itself",
    )
}

/// The entity of [`failed`].
fn instance(name: &str) -> String {
    fault::instance_entity(PROJECT, name)
}

impl World {
    async fn set(&self, alarm: Alarm) -> String {
        let faults = self.faults.clone();
        self.core.store.write(move |tx| faults.alarm_set_in(tx, &alarm)).await.unwrap()
    }
    async fn clear(&self, id: &'static str, entity: String) -> bool {
        let faults = self.faults.clone();
        self.core.store.write(move |tx| faults.alarm_clear_in(tx, id, &entity)).await.unwrap()
    }
    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.bench.call("admin", &format!("GET {path}"), Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
    /// A list's texts under `key`.
    async fn column(&self, path: &str, key: &str) -> Vec<String> {
        let body = self.get(path).await;
        let items = body.as_object().unwrap().values().find_map(Value::as_array).unwrap();
        items.iter().map(|item| item[key].as_str().unwrap().to_string()).collect()
    }
    async fn states(&self) -> Vec<String> {
        self.column("/v1/event_log", "state").await
    }
    /// What the outbox holds: types and payloads.
    async fn outbox(&self) -> Vec<(String, Value)> {
        let sql = "SELECT event_type, payload FROM event WHERE event_type LIKE 'fault.%' ORDER BY seq";
        self.core.store.read(|tx| tx.query(sql, &[], |row| Ok((row.text(0)?, row.json(1)?)))).await.unwrap()
    }
}

/// Waits until it is so.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !so().await {
        assert!(started.elapsed().as_secs() < 30, "it is still not so");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
