//! Host aggregates: groups of hosts with metadata that the scheduler looks at, one of which is their availability zone.
//!
//! A host is in one zone at most, and a zone never changes under the servers on a host. Each aggregate is mirrored by a
//! placement aggregate of the same id, in the same transaction.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result, Timestamp};
use serde_json::{Value, json};
use store::{Tx, params};

use crate::Compute;
use crate::db::aggregates::{self as db, Aggregate, Metadata, ZONE_KEY};
use crate::db::nodes::{self, Node};
use crate::op::aggregate_images;

/// Values by key; `None` takes a key out.
pub type MetadataChange = BTreeMap<String, Option<String>>;

/// What an update changes.
#[derive(Clone, Debug, Default)]
pub struct AggregateUpdate {
    pub name: Option<String>,
    pub zone: Option<Option<String>>,
}

fn missing(number: i64) -> Error {
    Error::new(Kind::NotFound, format!("Aggregate {number} could not be found."))
}

fn name_taken(name: &str) -> impl FnOnce(Error) -> Error {
    let name = name.to_string();
    move |e| if e.is(Kind::Exists) { Error::exists(format!("Aggregate {name} already exists.")) } else { e }
}

/// Records `aggregate.<what>.start` and `.end`: both, since nothing lies between them.
fn event_in(tx: &Tx, what: &str, aggregate: &Aggregate, more: Value, ctx: &Context) -> Result<()> {
    let mut payload = json!({"aggregate_id": aggregate.number, "name": aggregate.name});
    for (key, value) in more.as_object().into_iter().flatten() {
        payload[key] = value.clone();
    }
    for phase in ["start", "end"] {
        let event = events::Event::new(format!("aggregate.{what}.{phase}"), &aggregate.id, ctx)
            .publisher(format!("aggregate.{}", aggregate.number))
            .payload(payload.clone());
        events::record(tx, &event)?;
    }
    Ok(())
}

/// How many servers are on these hosts.
fn servers_on_in(tx: &Tx, hosts: &[String]) -> Result<u64> {
    let mut count = 0;
    for host in hosts {
        count += tx.query_one("SELECT COUNT(*) FROM server WHERE host = ?1 AND deleted = 0", params![host], |r| r.count(0))?;
    }
    Ok(count)
}

/// Whether `hosts` may be in this zone by an aggregate: no other aggregate may put them in another.
fn zone_fits_in(tx: &Tx, aggregate: &Aggregate, zone: &str, hosts: &[String]) -> std::result::Result<(), Refusal> {
    let mut others = Vec::new();
    for host in hosts {
        for other in db::aggregates_of_host_in(tx, host)? {
            if let Some(theirs) = other.zone().filter(|theirs| *theirs != zone && other.number != aggregate.number) {
                others.push(format!("'{theirs}'"));
            }
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    others.sort();
    others.dedup();
    Err(Refusal::Because(format!("One or more hosts already in availability zone(s) [{}]", others.join(", "))))
}

/// Why something about zones is refused; each action has its own words and status for it.
enum Refusal {
    Because(String),
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Failed(error)
    }
}

impl Refusal {
    fn of(self, status: Kind, doing: &str, number: i64) -> Error {
        match self {
            Refusal::Because(why) => Error::new(status, format!("Cannot {doing} aggregate {number}. Reason: {why}.")),
            Refusal::Failed(error) => error,
        }
    }
}

/// The metadata of an aggregate may change its zone only while no server is on its hosts.
fn zone_change_fits_in(tx: &Tx, aggregate: &Aggregate, change: &MetadataChange) -> std::result::Result<(), Refusal> {
    let Some(zone) = change.get(ZONE_KEY) else { return Ok(()) };
    let Some(zone) = zone.as_deref().filter(|zone| !zone.is_empty()) else {
        return Err(Refusal::Because(format!("Aggregate {} does not support empty named availability zone", aggregate.name)));
    };
    zone_fits_in(tx, aggregate, zone, &aggregate.hosts)?;
    if aggregate.zone() != Some(zone) && servers_on_in(tx, &aggregate.hosts)? > 0 {
        return Err(Refusal::Because("One or more hosts contain instances in this zone".into()));
    }
    Ok(())
}

fn change_metadata(metadata: &mut Metadata, change: MetadataChange) {
    for (key, value) in change {
        match value {
            Some(value) => drop(metadata.insert(key, value)),
            None => drop(metadata.remove(&key)),
        }
    }
}

/// A host's zone among these aggregates.
fn zone_among(aggregates: &[Aggregate]) -> Option<&str> {
    aggregates.iter().find_map(Aggregate::zone)
}

/// Servers keep their zone: why a host with servers may not go from one zone to another.
fn host_keeps_zone_in(tx: &Tx, host: &str, verb: &str, old: Option<&str>, new: Option<&str>) -> std::result::Result<(), Refusal> {
    let servers = servers_on_in(tx, &[host.to_string()])?;
    if old == new || servers == 0 {
        return Ok(());
    }
    let name = |zone: Option<&str>| zone.map_or_else(|| "None".to_string(), |z| format!("'{z}'"));
    Err(Refusal::Because(format!(
        "The host cannot be {verb} the aggregate as its availability zone would change from {} to {} but the host already has {servers} \
         instance(s). Changing the availability zone of an existing instance is not supported by this action",
        name(old),
        name(new)
    )))
}

impl Compute {
    pub async fn aggregate_list(&self) -> Result<Vec<Aggregate>> {
        self.core.store.read(db::aggregate_list_in).await
    }

    pub async fn aggregate_show(&self, number: i64) -> Result<Aggregate> {
        self.core.store.read(|tx| db::aggregate_fetch_in(tx, number)?.ok_or_else(|| missing(number))).await
    }

    pub async fn aggregate_create(&self, ctx: &Context, name: String, zone: Option<String>) -> Result<Aggregate> {
        let ctx = ctx.clone();
        self.core
            .store
            .write(move |tx| {
                let aggregate = Aggregate {
                    number: db::aggregate_number_in(tx)?,
                    id: base::id::uuid(),
                    name,
                    metadata: zone.map(|zone| (ZONE_KEY.to_string(), zone)).into_iter().collect(),
                    created_at: Timestamp::now(),
                    updated_at: None,
                    hosts: Vec::new(),
                };
                db::aggregate_insert_in(tx, &aggregate).map_err(name_taken(&aggregate.name))?;
                event_in(tx, "create", &aggregate, json!({"meta_data": aggregate.metadata}), &ctx)?;
                Ok(aggregate)
            })
            .await
    }

    /// Changes an aggregate in one transaction. All changes go one after the other: zones span aggregates.
    async fn aggregate_change<T: Send + 'static>(
        &self,
        ctx: &Context,
        number: i64,
        change: impl FnOnce(&Compute, &Tx, &Context, Aggregate) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, ctx) = (self.clone(), ctx.clone());
        self.core
            .store
            .write(move |tx| {
                tx.lock("compute/aggregates")?;
                let aggregate = db::aggregate_fetch_in(tx, number)?.ok_or_else(|| missing(number))?;
                change(&this, tx, &ctx, aggregate)
            })
            .await
    }

    pub async fn aggregate_update(&self, ctx: &Context, number: i64, update: AggregateUpdate) -> Result<Aggregate> {
        self.aggregate_change(ctx, number, move |_, tx, ctx, mut aggregate| {
            let change: MetadataChange = update.zone.map(|zone| (ZONE_KEY.to_string(), zone)).into_iter().collect();
            zone_change_fits_in(tx, &aggregate, &change).map_err(|e| e.of(Kind::Invalid, "update", number))?;
            if let Some(name) = update.name {
                aggregate.name = name;
            }
            change_metadata(&mut aggregate.metadata, change);
            aggregate.updated_at = Some(Timestamp::now());
            db::aggregate_update_in(tx, &aggregate).map_err(name_taken(&aggregate.name))?;
            event_in(tx, "updateprop", &aggregate, json!({"meta_data": aggregate.metadata}), ctx)?;
            Ok(aggregate)
        })
        .await
    }

    pub async fn aggregate_metadata_update(&self, ctx: &Context, number: i64, change: MetadataChange) -> Result<Aggregate> {
        self.aggregate_change(ctx, number, move |_, tx, ctx, mut aggregate| {
            zone_change_fits_in(tx, &aggregate, &change).map_err(|e| e.of(Kind::Invalid, "update metadata of", number))?;
            let told = json!({"meta_data": change});
            change_metadata(&mut aggregate.metadata, change);
            aggregate.updated_at = Some(Timestamp::now());
            db::aggregate_update_in(tx, &aggregate)?;
            event_in(tx, "updatemetadata", &aggregate, told, ctx)?;
            Ok(aggregate)
        })
        .await
    }

    pub async fn aggregate_delete(&self, ctx: &Context, number: i64) -> Result<()> {
        self.aggregate_change(ctx, number, move |_, tx, ctx, aggregate| {
            if !aggregate.hosts.is_empty() {
                return Err(Refusal::Because("Host aggregate is not empty".into()).of(Kind::Invalid, "remove host from", number));
            }
            db::aggregate_delete_in(tx, number)?;
            event_in(tx, "delete", &aggregate, Value::Null, ctx)
        })
        .await
    }

    pub async fn aggregate_host_add(&self, ctx: &Context, number: i64, host: String) -> Result<Aggregate> {
        self.aggregate_change(ctx, number, move |this, tx, ctx, mut aggregate| {
            let missing = || Error::new(Kind::NotFound, format!("Compute host {host} could not be found."));
            let node = nodes::node_by_name_in(tx, &host)?.ok_or_else(missing)?;
            let of_host = db::aggregates_of_host_in(tx, &host)?;
            let refused = |e: Refusal| e.of(Kind::Conflict, "add host to", number);
            if let Some(zone) = aggregate.zone() {
                zone_fits_in(tx, &aggregate, zone, std::slice::from_ref(&host)).map_err(refused)?;
                host_keeps_zone_in(tx, &host, "added to", zone_among(&of_host), Some(zone)).map_err(refused)?;
            }
            if aggregate.hosts.contains(&host) {
                return Err(Error::exists(format!("Aggregate {number} already has host {host}.")));
            }
            db::aggregate_host_add_in(tx, number, &host)?;
            this.placement.provider_aggregate_add_in(tx, &node.id, &aggregate.id)?;
            event_in(tx, "addhost", &aggregate, json!({"host_name": host}), ctx)?;
            aggregate.hosts.push(host);
            aggregate.hosts.sort();
            Ok(aggregate)
        })
        .await
    }

    pub async fn aggregate_host_remove(&self, ctx: &Context, number: i64, host: String) -> Result<Aggregate> {
        self.aggregate_change(ctx, number, move |this, tx, ctx, mut aggregate| {
            let node = nodes::node_by_name_in(tx, &host)?;
            if !aggregate.hosts.contains(&host) {
                return Err(Error::new(Kind::NotFound, format!("Cannot remove host {host} in aggregate {number}")));
            }
            if let Some(zone) = aggregate.zone() {
                let mut others = db::aggregates_of_host_in(tx, &host)?;
                others.retain(|other| other.number != number);
                host_keeps_zone_in(tx, &host, "removed from", Some(zone), zone_among(&others))
                    .map_err(|e| e.of(Kind::Conflict, "remove host from", number))?;
            }
            db::aggregate_host_remove_in(tx, number, &host)?;
            if let Some(Node { id, .. }) = node {
                this.placement.provider_aggregate_remove_in(tx, &id, &aggregate.id)?;
            }
            event_in(tx, "removehost", &aggregate, json!({"host_name": host}), ctx)?;
            aggregate.hosts.retain(|h| *h != host);
            Ok(aggregate)
        })
        .await
    }

    /// Has the aggregate's hosts fetch images ahead of use. The rest is an operation.
    pub async fn aggregate_images_cache(&self, ctx: &Context, number: i64, images: Vec<String>) -> Result<()> {
        self.aggregate_change(ctx, number, move |this, tx, ctx, aggregate| {
            let params = serde_json::to_value(aggregate_images::Params { number, images })
                .map_err(|e| Error::internal("writing an operation's parameters").caused_by(e))?;
            let operation = task::New::new(aggregate_images::KIND, "aggregate", &aggregate.id);
            this.core.tasks.submit(tx, operation.project(ctx.project_id()).context(ctx.clone()).params(params)).map(drop)
        })
        .await
    }

    /// A host that came: placement must know the aggregates that its name is in.
    pub(crate) async fn aggregates_mirror(&self, node_id: &str, host: &str) -> Result<()> {
        let (this, node_id, host) = (self.clone(), node_id.to_string(), host.to_string());
        if self.core.store.read(|tx| db::aggregates_of_host_in(tx, &host)).await?.is_empty() {
            return Ok(());
        }
        self.core
            .store
            .write(move |tx| {
                for aggregate in db::aggregates_of_host_in(tx, &host)? {
                    this.placement.provider_aggregate_add_in(tx, &node_id, &aggregate.id)?;
                }
                Ok(())
            })
            .await
    }
}
