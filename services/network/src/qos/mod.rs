//! Quality of service: policies, and which of them holds for a port.

pub mod demand;
pub mod rules;

use base::{Context, Error, Kind as ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Absent, Attribute, Check, Kind, Object, attr};
use crate::row::{self, Common, Resource};
use crate::{Network, db, fault, hosts};

static ATTRIBUTES: &[Attribute] = &[
    attr("shared", Check::Flag).post(Absent::Flag(false)).put().column(),
    attr("is_default", Check::Flag).post(Absent::Flag(false)).put().column(),
    attr("rules", Check::Any),
];

pub static KIND: Kind = Kind {
    singular: "policy",
    plural: "policies",
    table: "qos_policy",
    not_found: "QosPolicyNotFound",
    label: "QoS policy",
    attributes: ATTRIBUTES,
    policy_only: &[],
    filters: &[],
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QosPolicy {
    #[serde(flatten)]
    pub common: Common,
    pub shared: bool,
    pub is_default: bool,
}

impl QosPolicy {
    fn seen_by(&self, net: &Network, ctx: &Context) -> bool {
        net.sees_all(ctx) || self.shared || self.project() == ctx.project_id()
    }
}

impl Resource for QosPolicy {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let mut rules = rules::of_policies(tx, &db::ids(objects))?;
        for object in objects {
            let own = object.get("id").and_then(Value::as_str).and_then(|id| rules.remove(id)).unwrap_or_default();
            object.insert("rules".into(), json!(own));
        }
        Ok(())
    }

    fn visible(select: Select, project: &str) -> Select {
        select.any(|or| or.eq("project_id", project).eq("shared", true))
    }

    fn create_in(_net: &Network, tx: &Tx, _ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or_default();
        let item = QosPolicy { common: Common::new(project, body), shared: flag("shared"), is_default: flag("is_default") };
        tx.attempt(|tx| row::insert(tx, &item)).map_err(|error| one_default(project, error))?;
        Ok(item)
    }

    fn update_in(_net: &Network, tx: &Tx, _ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        let shared = item.shared;
        for (name, value) in change {
            let flag = value.as_bool().unwrap_or_default();
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "name" => item.common.name = text.into(),
                "description" => item.common.description = text.into(),
                "shared" => item.shared = flag,
                "is_default" => item.is_default = flag,
                _ => {}
            }
        }
        if shared && !item.shared && used_by_others(tx, &item)? {
            let message = format!("QoS policy {} cannot be taken back from other projects: they use it.", item.id());
            return Err(fault::in_use("RbacPolicyInUse", message));
        }
        tx.attempt(|tx| row::update(tx, &mut item)).map_err(|error| one_default(&item.common.project_id, error))?;
        Ok(item)
    }

    fn delete_in(_net: &Network, tx: &Tx, _ctx: &Context, item: Self) -> Result<()> {
        for table in ["network", "port"] {
            let sql = format!("SELECT id FROM {table} WHERE qos_policy_id = ?1 ORDER BY created_at, id LIMIT 1");
            if let Some(user) = tx.query_opt(&sql, params![item.id()], |row| row.text(0))? {
                return Err(fault::in_use("QosPolicyInUse", format!("QoS policy {} is used by {table} {user}.", item.id())));
            }
        }
        tx.execute("DELETE FROM qos_rule WHERE policy_id = ?1", params![item.id()])?;
        row::remove::<QosPolicy>(tx, item.id())
    }
}

/// A project has one default policy at most: a unique index says so.
fn one_default(project: &str, error: Error) -> Error {
    match error.kind() {
        ErrorKind::Exists => {
            fault::in_use("QoSPolicyDefaultAlreadyExists", format!("A default QoS policy exists for project {project}.")).caused_by(error)
        }
        _ => error,
    }
}

fn used_by_others(tx: &Tx, item: &QosPolicy) -> Result<bool> {
    let sql = "SELECT 1 FROM network WHERE qos_policy_id = ?1 AND project_id <> ?2 UNION ALL \
        SELECT 1 FROM port WHERE qos_policy_id = ?1 AND project_id <> ?2 LIMIT 1";
    Ok(tx.query_opt(sql, params![item.id(), item.project()], |row| row.int(0))?.is_some())
}

/// The policy a resource gets, once it is certain that the caller may use it.
pub fn checked(net: &Network, tx: &Tx, ctx: &Context, id: Option<&str>) -> Result<Option<String>> {
    let Some(id) = id else { return Ok(None) };
    row::find::<QosPolicy>(tx, id)?.filter(|p| p.seen_by(net, ctx)).ok_or_else(|| KIND.missing(id))?;
    Ok(Some(id.to_string()))
}

/// The policy a resource has instead of the `old` one, which the caller must know to take it away.
pub fn changed(net: &Network, tx: &Tx, ctx: &Context, old: Option<&str>, new: Option<&str>) -> Result<Option<String>> {
    if old == new {
        return Ok(new.map(str::to_string));
    }
    if let Some(old) = old
        && row::find::<QosPolicy>(tx, old)?.is_some_and(|p| !p.seen_by(net, ctx))
    {
        let message = format!("Failed to remove provided policy {old} because you are not authorized.");
        return Err(Error::forbidden(message).named("PolicyRemoveAuthorizationError"));
    }
    checked(net, tx, ctx, new)
}

/// What new networks of a project get that name none.
pub fn default_of(tx: &Tx, project: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT id FROM qos_policy WHERE project_id = ?1 AND is_default = 1", params![project], |row| row.text(0))
}

/// The policy that holds for a port: its own, else its network's, unless it is the network service's own port.
pub fn effective<'a>(own: Option<&'a str>, of_network: Option<&'a str>, device_owner: &str) -> Option<&'a str> {
    own.or(of_network.filter(|_| !device_owner.starts_with("network:")))
}

/// Tells the hosts of ports for which a policy holds.
pub fn touch(net: &Network, tx: &Tx, policy: &str) -> Result<()> {
    let sql = "SELECT DISTINCT p._host FROM port p JOIN network n ON n.id = p.network_id \
        WHERE p.qos_policy_id = ?1 OR (p.qos_policy_id IS NULL AND n.qos_policy_id = ?1)";
    tx.query(sql, params![policy], |row| row.text(0))?.iter().try_for_each(|host| hosts::touch_host(net, tx, host))
}

/// The devices of ports that are bound and for which a policy holds.
pub fn devices(tx: &Tx, policy: &str) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT p.device_id FROM port p JOIN network n ON n.id = p.network_id \
        WHERE (p.qos_policy_id = ?1 OR (p.qos_policy_id IS NULL AND n.qos_policy_id = ?1)) AND p._host <> '' AND p.device_id <> '' \
        ORDER BY p.device_id";
    tx.query(sql, params![policy], |row| row.text(0))
}

/// As [`devices`], of a network's ports that have no policy of their own.
pub fn devices_on(tx: &Tx, network: &str) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT device_id FROM port WHERE network_id = ?1 AND qos_policy_id IS NULL AND _host <> '' \
        AND device_id <> '' ORDER BY device_id";
    tx.query(sql, params![network], |row| row.text(0))
}
