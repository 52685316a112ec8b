//! How much each project may have.

use base::Result;
use serde_json::{Value, json};
use store::Tx;

use crate::attr::{Kind, Object};
use crate::{db, fault};

/// Resource, limit where none is set. -1: none.
pub static DEFAULTS: &[(&str, i64)] = &[
    ("network", 100),
    ("subnet", 100),
    ("port", 500),
    ("router", 10),
    ("floatingip", 50),
    ("security_group", 10),
    ("security_group_rule", 100),
];

pub fn default(resource: &str) -> i64 {
    DEFAULTS.iter().find(|(name, _)| *name == resource).map_or(-1, |(_, n)| *n)
}

/// The limits of a project.
pub fn limits(tx: &Tx, project: &str) -> Result<Vec<(&'static str, i64)>> {
    let own = db::quotas::of_project(tx, project)?;
    Ok(DEFAULTS.iter().map(|(name, default)| (*name, own.iter().find(|(n, _)| n == name).map_or(*default, |(_, q)| *q))).collect())
}

pub fn defaults_view() -> Object {
    DEFAULTS.iter().map(|(name, n)| (name.to_string(), json!(n))).collect()
}

pub fn view(tx: &Tx, project: &str) -> Result<Object> {
    Ok(limits(tx, project)?.into_iter().map(|(name, n)| (name.to_string(), json!(n))).collect())
}

pub fn details(tx: &Tx, project: &str) -> Result<Object> {
    let mut out = Object::new();
    for (name, limit) in limits(tx, project)? {
        let used = db::quotas::used(tx, name, project)?;
        out.insert(name.into(), json!({"limit": limit, "used": used, "reserved": 0}));
    }
    Ok(out)
}

/// Whether one more of `kind` fits, before it is written.
pub fn check(tx: &Tx, kind: &Kind, project: &str) -> Result<()> {
    check_several(tx, kind, project, 1)
}

/// Whether so many more of `kind` fit.
pub fn check_several(tx: &Tx, kind: &Kind, project: &str, more: i64) -> Result<()> {
    let limit = limits(tx, project)?.into_iter().find(|(name, _)| *name == kind.singular).map_or(-1, |(_, n)| n);
    if limit < 0 {
        return Ok(());
    }
    // Two controllers must not both take the last one.
    tx.lock(&format!("network/quota/{project}/{}", kind.singular))?;
    if db::quotas::used(tx, kind.table, project)? + more > limit { Err(fault::over_quota(kind.singular)) } else { Ok(()) }
}

/// Limits out of a request's body, and whether they may not be lower than what is used.
pub fn read(body: &Object) -> Result<(Vec<(&'static str, i64)>, bool)> {
    let mut out = Vec::new();
    let mut checked = false;
    for (name, value) in body {
        if matches!(name.as_str(), "tenant_id" | "project_id") {
            continue;
        }
        if matches!(name.as_str(), "force" | "check_limit") {
            let given = crate::attr::flag(value);
            let wrong = || fault::attribute(name, format!("'{}' cannot be converted to boolean", crate::attr::show(value)));
            checked |= given.ok_or_else(wrong)? && name == "check_limit";
            continue;
        }
        let Some((known, _)) = DEFAULTS.iter().find(|(known, _)| known == name) else {
            return Err(fault::request(format!("Unrecognized attribute(s) '{name}'")));
        };
        let limit = match value {
            Value::Null => default(known),
            value => crate::attr::int(value, -1, i64::from(i32::MAX)).map_err(|reason| fault::attribute(name, reason))?,
        };
        out.push((*known, limit));
    }
    Ok((out, checked))
}
