//! Limits of projects, and what they use. Use is counted where it is, so it cannot drift.

use base::{Error, Result};
use store::{Tx, params};

/// Every resource with its default limit; -1 is none. Types add three of their own each: see [`names_in`].
pub const DEFAULTS: &[(&str, i64)] = &[
    ("volumes", 10),
    ("snapshots", 10),
    ("gigabytes", 1000),
    ("backups", 10),
    ("backup_gigabytes", 1000),
    ("groups", 10),
    ("per_volume_gigabytes", -1),
];

/// All resources there are now.
pub fn names_in(tx: &Tx) -> Result<Vec<String>> {
    let mut names: Vec<String> = DEFAULTS.iter().map(|(name, _)| name.to_string()).collect();
    for kind in crate::db::types::type_list_in(tx)? {
        names.extend(["volumes", "snapshots", "gigabytes"].map(|r| format!("{r}_{}", kind.name)));
    }
    Ok(names)
}

/// The limit everybody has who has no other.
pub fn default_in(tx: &Tx, resource: &str) -> Result<i64> {
    let sql = "SELECT hard_limit FROM volume_quota_class WHERE class = 'default' AND resource = ?1";
    let set = tx.query_opt(sql, params![resource], |r| r.int(0))?;
    Ok(set.unwrap_or_else(|| DEFAULTS.iter().find(|(name, _)| *name == resource).map_or(-1, |(_, limit)| *limit)))
}

pub fn limit_in(tx: &Tx, project_id: &str, resource: &str) -> Result<i64> {
    let sql = "SELECT hard_limit FROM volume_quota WHERE project_id = ?1 AND resource = ?2";
    match tx.query_opt(sql, params![project_id, resource], |r| r.int(0))? {
        Some(limit) => Ok(limit),
        None => default_in(tx, resource),
    }
}

pub fn limit_set_in(tx: &Tx, project_id: &str, resource: &str, limit: i64) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_quota (project_id, resource, hard_limit) VALUES (?1, ?2, ?3) \
         ON CONFLICT (project_id, resource) DO UPDATE SET hard_limit = excluded.hard_limit",
        params![project_id, resource, limit],
    )
    .map(drop)
}

pub fn class_set_in(tx: &Tx, class: &str, resource: &str, limit: i64) -> Result<()> {
    tx.execute(
        "INSERT INTO volume_quota_class (class, resource, hard_limit) VALUES (?1, ?2, ?3) \
         ON CONFLICT (class, resource) DO UPDATE SET hard_limit = excluded.hard_limit",
        params![class, resource, limit],
    )
    .map(drop)
}

pub fn limits_forget_in(tx: &Tx, project_id: &str) -> Result<()> {
    tx.execute("DELETE FROM volume_quota WHERE project_id = ?1", params![project_id]).map(drop)
}

/// What a project uses of a resource.
pub fn used_in(tx: &Tx, project_id: &str, resource: &str) -> Result<i64> {
    let (what, kind) = match resource.split_once('_') {
        Some((what @ ("volumes" | "snapshots" | "gigabytes"), name)) => (what, Some(name)),
        _ => (resource, None),
    };
    let join = if kind.is_some() { "JOIN volume_type t ON t.id = v.volume_type_id AND t.name = ?2" } else { "" };
    let all = [project_id.into(), kind.unwrap_or_default().into()];
    let values = if kind.is_some() { &all[..] } else { &all[..1] };
    let count = |sql: String| tx.query_one(&sql, values, |r| r.int(0));
    let volumes = |of: &str| format!("SELECT CAST({of} AS BIGINT) FROM volume v {join} WHERE v.project_id = ?1");
    let snapshots = |of: &str| {
        format!("SELECT CAST({of} AS BIGINT) FROM volume_snapshot s JOIN volume v ON v.id = s.volume_id {join} WHERE s.project_id = ?1")
    };
    match what {
        "volumes" => count(volumes("COUNT(*)")),
        "snapshots" => count(snapshots("COUNT(*)")),
        "gigabytes" => Ok(count(volumes("COALESCE(SUM(v.size), 0)"))? + count(snapshots("COALESCE(SUM(s.size), 0)"))?),
        "groups" => tx.query_one("SELECT COUNT(*) FROM volume_group WHERE project_id = ?1", params![project_id], |r| r.int(0)),
        _ => Ok(0),
    }
}

fn over(message: String) -> Error {
    Error::quota(message).with_status(413)
}

/// Refuses what would exceed a limit. Holds until the transaction ends.
pub fn reserve_in(tx: &Tx, project_id: &str, type_name: Option<&str>, wanted: &[(&str, i64)]) -> Result<()> {
    tx.lock(&format!("block-storage/quota/{project_id}"))?;
    for (resource, more) in wanted {
        let of_type = type_name.map(|name| format!("{resource}_{name}"));
        for name in std::iter::once(resource.to_string()).chain(of_type) {
            let limit = limit_in(tx, project_id, &name)?;
            if limit < 0 {
                continue;
            }
            let used = used_in(tx, project_id, &name)?;
            if used + more > limit {
                return Err(over(match *resource {
                    "volumes" => format!("VolumeLimitExceeded: Maximum number of volumes allowed ({limit}) exceeded for quota '{name}'."),
                    "groups" => format!("GroupLimitExceeded: Maximum number of groups allowed ({limit}) exceeded"),
                    "snapshots" => format!("SnapshotLimitExceeded: Maximum number of snapshots allowed ({limit}) exceeded"),
                    _ => format!(
                        "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed {name} quota. Requested {more}G, \
                         quota is {limit}G and {used}G has been consumed."
                    ),
                }));
            }
        }
    }
    Ok(())
}

/// Refuses a volume that is larger than any of the project's may be.
pub fn size_fits_in(tx: &Tx, project_id: &str, size: i64) -> Result<()> {
    let limit = limit_in(tx, project_id, "per_volume_gigabytes")?;
    if limit >= 0 && size > limit {
        return Err(over(format!("VolumeSizeExceedsLimit: Requested volume size {size}G is larger than maximum allowed limit {limit}G.")));
    }
    Ok(())
}

/// What a volume needs of the limits of a type it shall get.
pub fn reserve_type_in(tx: &Tx, project_id: &str, type_name: &str, size: i64) -> Result<()> {
    tx.lock(&format!("block-storage/quota/{project_id}"))?;
    for (resource, more) in [("volumes", 1), ("gigabytes", size)] {
        let name = format!("{resource}_{type_name}");
        let limit = limit_in(tx, project_id, &name)?;
        if limit >= 0 && used_in(tx, project_id, &name)? + more > limit {
            return Err(over(format!("Quota exceeded for {name}: limit is {limit}.")));
        }
    }
    Ok(())
}
