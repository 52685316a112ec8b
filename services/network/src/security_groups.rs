//! Security groups: rules.

use base::{Context, Kind as ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Absent, Attribute, Check, Kind, Object, attr};
use crate::row::{self, Common, Resource};
use crate::security_rules::Rule;
use crate::{Network, db, fault, hosts, quotas, security_rules};

/// Name of the group every project has.
pub const DEFAULT: &str = "default";

static ATTRIBUTES: &[Attribute] = &[
    attr("stateful", Check::Flag).post(Absent::Flag(true)).put().column(),
    attr("shared", Check::Flag),
    attr("security_group_rules", Check::Any),
];

pub static KIND: Kind = Kind {
    singular: "security_group",
    plural: "security_groups",
    table: "security_group",
    not_found: "SecurityGroupNotFound",
    label: "Security group",
    attributes: ATTRIBUTES,
    policy_only: &[],
    filters: &[],
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecurityGroup {
    #[serde(flatten)]
    pub common: Common,
    pub stateful: bool,
    pub shared: bool,
}

impl Resource for SecurityGroup {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let mut rules = db::grouped(tx, "security_group_rule", "security_group_id", &db::ids(objects))?;
        for object in objects {
            let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_string();
            let mut own = rules.remove(&id).unwrap_or_default();
            for rule in &mut own {
                crate::api::finish(&crate::security_rules::KIND, rule);
            }
            object.insert("security_group_rules".into(), json!(own));
        }
        Ok(())
    }

    fn create_in(net: &Network, tx: &Tx, ctx: &Context, project: &str, body: &Object) -> Result<Self> {
        default_id(net, tx, ctx, project)?;
        if body.get("name").and_then(Value::as_str).is_some_and(|name| name.eq_ignore_ascii_case(DEFAULT)) {
            return Err(default_exists());
        }
        // A new group begins with a rule for each family.
        quotas::check_several(tx, &security_rules::KIND, project, 2)?;
        insert(net, tx, ctx, Common::new(project, body), body.get("stateful").and_then(Value::as_bool).unwrap_or(true), false)
    }

    fn update_in(net: &Network, tx: &Tx, _ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        let stateful = item.stateful;
        for (name, value) in change {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "name" if item.common.name == DEFAULT && text != DEFAULT => {
                    return Err(fault::in_use("SecurityGroupCannotUpdateDefault", "Updating default security group not allowed."));
                }
                "name" if item.common.name != DEFAULT && text.eq_ignore_ascii_case(DEFAULT) => return Err(default_exists()),
                "name" => item.common.name = text.into(),
                "description" => item.common.description = text.into(),
                "stateful" => item.stateful = value.as_bool().unwrap_or_default(),
                _ => {}
            }
        }
        if stateful != item.stateful {
            if db::security_groups::has_ports(tx, item.id())? {
                let message = format!("Security Group {} in use.", item.id());
                return Err(fault::in_use("SecurityGroupInUse", message));
            }
            hosts::touch_groups(net, tx, &[item.id().to_string()])?;
        }
        row::update(tx, &mut item)?;
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, ctx: &Context, item: Self) -> Result<()> {
        let id = item.id();
        if item.common.name == DEFAULT && !ctx.is_admin() {
            return Err(fault::in_use("SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group."));
        }
        if db::security_groups::has_ports(tx, id)? {
            return Err(fault::in_use("SecurityGroupInUse", format!("Security Group {id} in use.")));
        }
        hosts::touch_groups(net, tx, &[id.to_string()])?;
        // Rules of other groups that name this one go too: nobody is left whom they could mean.
        for rule in row::list::<Rule>(tx, "security_group_id = ?1 OR remote_group_id = ?1", params![id])? {
            row::remove::<Rule>(tx, rule.id())?;
            net.recorded(tx, ctx, "security_group_rule.delete.end", &rule)?;
        }
        tx.execute("DELETE FROM security_group_default WHERE security_group_id = ?1", params![id])?;
        row::remove::<SecurityGroup>(tx, id)
    }

    fn visible(select: Select, project: &str) -> Select {
        select.eq("project_id", project)
    }
}

fn default_exists() -> base::Error {
    fault::in_use("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
}

fn insert(net: &Network, tx: &Tx, ctx: &Context, common: Common, stateful: bool, default: bool) -> Result<SecurityGroup> {
    let group = SecurityGroup { common, stateful, shared: false };
    row::insert(tx, &group)?;
    for ethertype in ["IPv4", "IPv6"] {
        let mut rules = vec![Rule::open(&group, "egress", ethertype, None)];
        if default {
            rules.push(Rule::open(&group, "ingress", ethertype, Some(group.id())));
        }
        for mut rule in rules {
            rule.belongs_to_default_sg = default;
            row::insert(tx, &rule)?;
            net.recorded(tx, ctx, "security_group_rule.create.end", &rule)?;
        }
    }
    Ok(group)
}

/// The project's default group, made when it is first asked for.
pub fn default_id(net: &Network, tx: &Tx, ctx: &Context, project: &str) -> Result<String> {
    if let Some(id) = db::security_groups::default_id(tx, project)? {
        return Ok(id);
    }
    let made = tx.attempt(|tx| {
        let mut common = Common::new(project, &Object::new());
        common.name = DEFAULT.into();
        common.description = "Default security group".into();
        let group = insert(net, tx, ctx, common, true, true)?;
        db::security_groups::default_set(tx, project, group.id())?;
        net.recorded(tx, ctx, "security_group.create.end", &group)?;
        Ok(group.common.id)
    });
    match made {
        // Another controller made it at the same moment.
        Err(error) if error.is(ErrorKind::Exists) => db::security_groups::default_id(tx, project)?.ok_or(error),
        made => made,
    }
}

/// Ids of groups that a port of `project` may be in, each once.
pub fn check_ids(net: &Network, tx: &Tx, ctx: &Context, project: &str, ids: &[String]) -> Result<Vec<String>> {
    let mut out: Vec<String> = Vec::new();
    let mut stateful = None;
    for id in ids {
        let group = row::find::<SecurityGroup>(tx, id)?;
        let seen = |g: &SecurityGroup| net.sees_all(ctx) || g.project() == ctx.project_id() || g.project() == project;
        let group = group.filter(seen).ok_or_else(|| KIND.missing(id))?;
        if stateful.is_some_and(|known| known != group.stateful) {
            let message = "Error cannot apply both stateful and stateless security groups on the same port while attempting the operation.";
            return Err(fault::in_use("SecurityGroupConflict", message));
        }
        stateful = Some(group.stateful);
        if !out.contains(&group.common.id) {
            out.push(group.common.id);
        }
    }
    Ok(out)
}
