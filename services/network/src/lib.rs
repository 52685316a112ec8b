//! The network service: OpenStack Networking v2.0, and the documents that tell hosts what to build.
//!
//! Other services use [`Network`]: [`Network::nics_plan`], [`Network::ports_create_in`], [`Network::ports_bind_in`],
//! [`Network::ports_release_in`], [`Network::nics`]. Every change that matters to a host counts up that host's
//! document in the same transaction; a reconciler sends the newest one as soon as it is durable.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod allocation;
mod api;
mod attr;
mod db;
mod document;
mod encryption;
mod fault;
mod floatingips;
mod hosts;
mod interfaces;
mod ip;
mod list;
mod networks;
mod nics;
mod on_behalf;
mod parts;
mod policy;
mod ports;
mod qos;
mod quotas;
mod routers;
mod row;
mod security_groups;
mod security_rules;
mod seen;
mod segments;
mod subnets;

use std::sync::{Arc, OnceLock};

use base::error::Internal;
use base::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use service::{Core, Service};
use store::{Migration, Tx};

pub use crate::nics::{FixedInfo, NicInfo, NicPlan, NicWanted, ServerPorts};
pub use crate::policy::RULES;
pub use crate::qos::demand::{Demand, is_demanded, word};

use crate::attr::Object;
use crate::row::Resource;

pub static MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_networks", sql: include_str!("../migrations/0001_networks.sql") },
    Migration { name: "0002_host_state", sql: include_str!("../migrations/0002_host_state.sql") },
    Migration { name: "0003_host_address", sql: include_str!("../migrations/0003_host_address.sql") },
    Migration { name: "0004_many_ports", sql: include_str!("../migrations/0004_many_ports.sql") },
    Migration { name: "0005_visits", sql: include_str!("../migrations/0005_visits.sql") },
    Migration { name: "0006_encryption", sql: include_str!("../migrations/0006_encryption.sql") },
    Migration { name: "0007_address_once", sql: include_str!("../migrations/0007_address_once.sql") },
    Migration { name: "0008_qos", sql: include_str!("../migrations/0008_qos.sql") },
];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// Answers which project a device is of; `None`: it knows of no such device.
pub type DeviceProject = Box<dyn Fn(&Tx, &str) -> Result<Option<String>> + Send + Sync>;

/// Hears, within the transaction, of devices whose interfaces changed other than by their own doing.
pub type DeviceListener = Box<dyn Fn(&Tx, &str) -> Result<()> + Send + Sync>;

struct Inner {
    core: Core,
    sent: hosts::Sent,
    seen: seen::Cache,
    nudge: OnceLock<task::Nudge>,
    devices: OnceLock<DeviceListener>,
    demands: OnceLock<DeviceListener>,
    owners: OnceLock<DeviceProject>,
    /// The one availability zone there is.
    zone: String,
    /// VLANs that are given out.
    vlans: segments::Ranges,
}

impl Network {
    /// Brings the tables up to date and registers what the service does by itself.
    pub async fn new(core: Core) -> Result<Network> {
        let vlans = segments::Ranges::of(&core.config)?;
        core.store.migrate("network", MIGRATIONS).await?;
        let net = Network(Arc::new(Inner {
            core,
            sent: hosts::Sent::default(),
            seen: seen::Cache::default(),
            nudge: OnceLock::new(),
            devices: OnceLock::new(),
            demands: OnceLock::new(),
            owners: OnceLock::new(),
            zone: "nova".into(),
            vlans,
        }));
        encryption::settle(&net).await?;
        let nudge = net.core().tasks.reconcile(Arc::new(hosts::Documents(net.clone())));
        // Set once, here.
        let _ = net.0.nudge.set(nudge);
        net.core().hosts.listen(Arc::new(hosts::Listener(net.clone())));
        Ok(net)
    }

    /// Has `listener` called with the id of each device whose addresses or groups change. There is one listener.
    pub fn devices_listen(&self, listener: DeviceListener) {
        let _ = self.0.devices.set(listener);
    }
    fn device_changed(&self, tx: &Tx, device_id: &str) -> Result<()> {
        match self.0.devices.get() {
            Some(listener) if !device_id.is_empty() => listener(tx, device_id),
            _ => Ok(()),
        }
    }

    /// Has `asked` say whose the devices are that ports name. There is one who is asked.
    pub fn devices_owned(&self, asked: DeviceProject) {
        let _ = self.0.owners.set(asked);
    }
    fn device_project(&self, tx: &Tx, device_id: &str) -> Result<Option<String>> {
        self.0.owners.get().map_or(Ok(None), |asked| asked(tx, device_id))
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "network",
            name: "neutron",
            description: "OpenStack Networking",
            mounts: &["/network"],
            endpoint: "/network",
            routes: api::routes(self.clone())?,
        })
    }

    fn core(&self) -> &Core {
        &self.0.core
    }
    fn sent(&self) -> &hosts::Sent {
        &self.0.sent
    }
    fn seen(&self) -> &seen::Cache {
        &self.0.seen
    }
    fn zone(&self) -> &str {
        &self.0.zone
    }
    fn zones(&self) -> [&str; 1] {
        [self.zone()]
    }
    fn vlans(&self) -> &segments::Ranges {
        &self.0.vlans
    }
    /// MTU of the underlying network.
    fn mtu(&self) -> i64 {
        i64::try_from(self.core().config.int("network.mtu")).unwrap_or(1500)
    }
    fn max_limit(&self) -> u64 {
        self.core().config.int("api.max_limit").max(1)
    }
    /// Whether lists hold every project's rows for the caller.
    fn sees_all(&self, ctx: &Context) -> bool {
        ctx.is_admin() || ctx.has_role("service")
    }
    /// Wakes the sender of documents once `tx` is durable.
    fn nudge(&self, tx: &Tx) {
        if let Some(nudge) = self.0.nudge.get() {
            nudge.nudge_after_commit(tx);
        }
    }

    /// Writes the event of a change to a resource.
    fn recorded<T: Resource>(&self, tx: &Tx, ctx: &Context, event: &str, item: &T) -> Result<()> {
        let mut view = row::object(item)?;
        api::finish(T::KIND, &mut view);
        let mut payload = json!({T::KIND.singular: view});
        if event.contains(".delete.") {
            payload[format!("{}_id", T::KIND.singular)] = json!(item.id());
        }
        self.notify(tx, ctx, event, item.id(), payload)
    }

    fn notify(&self, tx: &Tx, ctx: &Context, event: &str, id: &str, payload: Value) -> Result<()> {
        let mut event = events::Event::new(event, id, ctx).payload(payload);
        event.publisher = "network".into();
        events::record(tx, &event).map(|_| ())
    }
}

/// A list of texts out of a checked body.
fn attr_list(body: &Object, name: &str) -> Vec<String> {
    let list = body.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
}

/// A checked value as a type.
fn parsed<T: DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(value).internal("reading a checked attribute")
}
