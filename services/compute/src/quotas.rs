//! Limits of projects and users, and what they use. Use is counted where it is, so it cannot drift.

use base::{Error, Result};
use store::{Tx, params};

/// Every resource with its default limit; -1 is none.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("cores", 20),
    ("instances", 10),
    ("ram", 50 * 1024),
    ("metadata_items", 128),
    ("injected_files", 5),
    ("injected_file_content_bytes", 10 * 1024),
    ("injected_file_path_bytes", 255),
    ("key_pairs", 100),
    ("server_groups", 10),
    ("server_group_members", 10),
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("security_groups", -1),
    ("security_group_rules", -1),
];

/// The limit in force for a project: its own, else the default class's, else the built-in one.
pub fn limit_in(tx: &Tx, project_id: &str, resource: &str) -> Result<i64> {
    let sql = "SELECT hard_limit FROM compute_quota WHERE project_id = ?1 AND user_id = '' AND resource = ?2";
    if let Some(limit) = tx.query_opt(sql, params![project_id, resource], |r| r.int(0))? {
        return Ok(limit);
    }
    let sql = "SELECT hard_limit FROM compute_quota_class WHERE class = 'default' AND resource = ?1";
    if let Some(limit) = tx.query_opt(sql, params![resource], |r| r.int(0))? {
        return Ok(limit);
    }
    Ok(DEFAULTS.iter().find(|(name, _)| *name == resource).map_or(-1, |(_, limit)| *limit))
}

/// The limit in force for one user in a project: never more than the project's.
pub fn user_limit_in(tx: &Tx, project_id: &str, user_id: &str, resource: &str) -> Result<i64> {
    let sql = "SELECT hard_limit FROM compute_quota WHERE project_id = ?1 AND user_id = ?2 AND resource = ?3";
    match tx.query_opt(sql, params![project_id, user_id, resource], |r| r.int(0))? {
        Some(limit) => Ok(limit),
        None => limit_in(tx, project_id, resource),
    }
}

/// What servers use: how many, their virtual processors, their memory in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerUse {
    pub instances: i64,
    pub cores: i64,
    pub ram: i64,
}

/// Use of a project, or of one user in it.
pub fn server_use_in(tx: &Tx, project_id: &str, user_id: Option<&str>) -> Result<ServerUse> {
    let select = "SELECT COUNT(*), CAST(COALESCE(SUM(vcpus), 0) AS BIGINT), CAST(COALESCE(SUM(memory_mb), 0) AS BIGINT) FROM server \
                  WHERE project_id = ?1 AND deleted = 0";
    let read = |r: &store::Row| Ok(ServerUse { instances: r.int(0)?, cores: r.int(1)?, ram: r.int(2)? });
    match user_id {
        Some(user) => tx.query_one(&format!("{select} AND user_id = ?2"), params![project_id, user], read),
        None => tx.query_one(select, params![project_id], read),
    }
}

/// How many of `count` equal servers fit the limits; at least `min`, or the quota is exceeded. Holds until the transaction ends.
pub fn servers_reserve_in(tx: &Tx, project_id: &str, user_id: &str, min: i64, count: i64, vcpus: i64, memory_mb: i64) -> Result<i64> {
    tx.lock(&format!("compute/quota/{project_id}"))?;
    let of_project = server_use_in(tx, project_id, None)?;
    let of_user = server_use_in(tx, project_id, Some(user_id))?;
    let mut fits = count;
    let mut worst: Option<(&str, i64, i64, i64)> = None;
    for (resource, each, used, user_used) in [
        ("instances", 1, of_project.instances, of_user.instances),
        ("cores", vcpus, of_project.cores, of_user.cores),
        ("ram", memory_mb, of_project.ram, of_user.ram),
    ] {
        let project_limit = limit_in(tx, project_id, resource)?;
        let user_limit = user_limit_in(tx, project_id, user_id, resource)?;
        for (limit, used) in [(project_limit, used), (user_limit, user_used)] {
            if limit < 0 || each <= 0 {
                continue;
            }
            let room = ((limit - used) / each).max(0);
            if room < fits {
                fits = room;
            }
            if room < min && worst.is_none() {
                worst = Some((resource, each * min, used, limit));
            }
        }
    }
    match worst {
        Some((resource, wanted, used, limit)) => {
            Err(Error::quota(format!("Quota exceeded for {resource}: Requested {wanted}, but already used {used} of {limit} {resource}")))
        }
        None => Ok(fits),
    }
}

/// Whether one server may grow by so much. Holds until the transaction ends.
pub fn growth_check_in(tx: &Tx, project_id: &str, user_id: &str, vcpus: i64, memory_mb: i64) -> Result<()> {
    tx.lock(&format!("compute/quota/{project_id}"))?;
    let of_project = server_use_in(tx, project_id, None)?;
    let of_user = server_use_in(tx, project_id, Some(user_id))?;
    for (resource, more, used, user_used) in
        [("cores", vcpus, of_project.cores, of_user.cores), ("ram", memory_mb, of_project.ram, of_user.ram)]
    {
        let limits = [(limit_in(tx, project_id, resource)?, used), (user_limit_in(tx, project_id, user_id, resource)?, user_used)];
        if let Some((limit, used)) = limits.into_iter().find(|(limit, used)| more > 0 && *limit >= 0 && used + more > *limit) {
            let text = format!("Quota exceeded for {resource}: Requested {more}, but already used {used} of {limit} {resource}");
            return Err(Error::quota(text));
        }
    }
    Ok(())
}
