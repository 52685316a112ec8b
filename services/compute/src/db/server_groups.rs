//! Server groups and their members.

use std::collections::HashMap;

use base::{Result, Timestamp};
use store::{Dir, Row, Select, Tx, Value, params};

use super::servers::{SERVER_COLUMNS, Server, server_row};

#[derive(Clone, Debug, PartialEq)]
pub struct ServerGroup {
    pub id: String,
    pub name: String,
    pub project_id: String,
    pub user_id: String,
    /// `affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`.
    pub policy: String,
    /// `max_server_per_host`, of anti-affinity.
    pub rules: serde_json::Value,
    pub created_at: Timestamp,
}

const COLUMNS: &str = "id, name, project_id, user_id, policy, rules, created_at";

fn row(r: &Row) -> Result<ServerGroup> {
    Ok(ServerGroup {
        id: r.text(0)?,
        name: r.text(1)?,
        project_id: r.text(2)?,
        user_id: r.text(3)?,
        policy: r.text(4)?,
        rules: r.json(5)?,
        created_at: r.time(6)?,
    })
}

pub fn server_group_fetch_in(tx: &Tx, id: &str) -> Result<Option<ServerGroup>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM server_group WHERE id = ?1"), params![id], row)
}

/// Of one project or of all, in the order they were made.
pub fn server_group_list_in(tx: &Tx, project_id: Option<&str>) -> Result<Vec<ServerGroup>> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM server_group")).opt_eq("project_id", project_id);
    select.order(&[("created_at", Dir::Asc), ("id", Dir::Asc)]).fetch(tx, row)
}

/// How many groups a project has, or one user in it.
pub fn server_group_count_in(tx: &Tx, project_id: &str, user_id: Option<&str>) -> Result<i64> {
    let select = Select::new("SELECT id FROM server_group").eq("project_id", project_id).opt_eq("user_id", user_id);
    Ok(i64::try_from(select.count(tx)?).unwrap_or(i64::MAX))
}

pub fn server_group_insert_in(tx: &Tx, g: &ServerGroup) -> Result<()> {
    tx.execute(
        "INSERT INTO server_group (id, name, project_id, user_id, policy, rules, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![&g.id, &g.name, &g.project_id, &g.user_id, &g.policy, Value::json(&g.rules)?, g.created_at],
    )
    .map(drop)
}

/// Removes a group; its members stay as they are, but in no group.
pub fn server_group_delete_in(tx: &Tx, id: &str) -> Result<bool> {
    tx.execute("DELETE FROM server_group_member WHERE group_id = ?1", params![id])?;
    Ok(tx.execute("DELETE FROM server_group WHERE id = ?1", params![id])? > 0)
}

/// Members that still exist, by group.
pub fn members_in(tx: &Tx, groups: &[ServerGroup]) -> Result<HashMap<String, Vec<String>>> {
    let mut by_group: HashMap<String, Vec<String>> = HashMap::new();
    let ids = groups.iter().map(|g| g.id.as_str());
    let select = Select::new("SELECT m.group_id, m.server_id FROM server_group_member m JOIN server s ON s.id = m.server_id");
    let select = select.in_list("m.group_id", ids).eq("s.deleted", 0).order(&[("s.created_at", Dir::Asc), ("s.id", Dir::Asc)]);
    for (group, server) in select.fetch(tx, |r| Ok((r.text(0)?, r.text(1)?)))? {
        by_group.entry(group).or_default().push(server);
    }
    Ok(by_group)
}

/// How many members of each group each host has.
pub fn group_hosts_in(tx: &Tx) -> Result<HashMap<String, HashMap<String, u64>>> {
    let sql = "SELECT m.group_id, s.host_id, COUNT(*) FROM server_group_member m JOIN server s ON s.id = m.server_id \
               WHERE s.deleted = 0 AND s.host_id IS NOT NULL GROUP BY m.group_id, s.host_id";
    let mut by_group: HashMap<String, HashMap<String, u64>> = HashMap::new();
    for (group, host, members) in tx.query(sql, &[], |r| Ok((r.text(0)?, r.text(1)?, r.count(2)?)))? {
        by_group.entry(group).or_default().insert(host, members);
    }
    Ok(by_group)
}

pub fn member_add_in(tx: &Tx, group: &str, server: &str) -> Result<()> {
    tx.execute("INSERT INTO server_group_member (group_id, server_id) VALUES (?1, ?2)", params![group, server]).map(drop)
}

pub fn member_count_in(tx: &Tx, group: &str) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM server_group_member m JOIN server s ON s.id = m.server_id WHERE m.group_id = ?1 AND s.deleted = 0";
    tx.query_one(sql, params![group], |r| r.int(0))
}

/// The group that a server is a member of.
pub fn group_of_in(tx: &Tx, server: &str) -> Result<Option<String>> {
    tx.query_opt("SELECT group_id FROM server_group_member WHERE server_id = ?1 LIMIT 1", params![server], |r| r.text(0))
}

/// The members of a group that still exist.
pub fn member_servers_in(tx: &Tx, group: &str) -> Result<Vec<Server>> {
    let sql = format!(
        "SELECT {SERVER_COLUMNS} FROM server WHERE deleted = 0 AND id IN (SELECT server_id FROM server_group_member WHERE group_id = ?1) \
         ORDER BY number"
    );
    tx.query(&sql, params![group], server_row)
}
