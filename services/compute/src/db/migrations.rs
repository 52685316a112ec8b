//! Migrations: what moved a server, or changed its size.

use base::{Context, Error, Result, Timestamp};
use rpc::instance::Amount;
use serde::{Deserialize, Serialize};
use store::{Dir, Row, Select, Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    pub id: i64,
    /// Under this one placement holds what the server leaves behind.
    pub uuid: String,
    pub server_id: String,
    /// `resize`, `migration`, `live-migration`, `evacuation`.
    pub kind: String,
    pub status: String,
    pub source: Option<String>,
    pub dest: Option<String>,
    pub user_id: String,
    pub project_id: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub progress: Progress,
}

/// How far a live migration is, as the host has said last. None: it has said nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub memory: Option<Amount>,
    pub disks: Option<Amount>,
}

const COLUMNS: &str = "id, uuid, server_id, kind, status, source, dest, user_id, project_id, created_at, updated_at, progress";

fn migration_row(r: &Row) -> Result<Migration> {
    Ok(Migration {
        id: r.int(0)?,
        uuid: r.text(1)?,
        server_id: r.text(2)?,
        kind: r.text(3)?,
        status: r.text(4)?,
        source: r.opt_text(5)?,
        dest: r.opt_text(6)?,
        user_id: r.text(7)?,
        project_id: r.text(8)?,
        created_at: r.time(9)?,
        updated_at: r.time(10)?,
        progress: r.json(11)?,
    })
}

/// Notes a new migration of a server; answers its uuid.
pub fn migration_begin_in(
    tx: &Tx,
    ctx: &Context,
    server_id: &str,
    kind: &str,
    status: &str,
    source: Option<&str>,
    dest: Option<&str>,
) -> Result<String> {
    tx.lock("compute/migration")?;
    let id = tx.query_one("SELECT COALESCE(MAX(id), 0) + 1 FROM server_migration", &[], |r| r.int(0))?;
    let (uuid, now) = (base::id::uuid(), Timestamp::now());
    tx.execute(
        &format!("INSERT INTO server_migration ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, '{{}}')"),
        params![id, &uuid, server_id, kind, status, source, dest, &ctx.user_id, ctx.project_id(), now],
    )?;
    Ok(uuid)
}

pub fn migration_status_in(tx: &Tx, uuid: &str, status: &str) -> Result<()> {
    tx.execute("UPDATE server_migration SET status = ?2, updated_at = ?3 WHERE uuid = ?1", params![uuid, status, Timestamp::now()])
        .map(drop)
}

pub fn migration_progress_in(tx: &Tx, uuid: &str, progress: &Progress) -> Result<()> {
    let sql = "UPDATE server_migration SET progress = ?2, updated_at = ?3 WHERE uuid = ?1";
    tx.execute(sql, params![uuid, store::Value::json(progress)?, Timestamp::now()]).map(drop)
}

pub fn migration_fetch_in(tx: &Tx, uuid: &str) -> Result<Option<Migration>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM server_migration WHERE uuid = ?1"), params![uuid], migration_row)
}

/// The migration of a server with this number.
pub fn migration_of_in(tx: &Tx, server_id: &str, number: i64) -> Result<Option<Migration>> {
    let sql = format!("SELECT {COLUMNS} FROM server_migration WHERE server_id = ?1 AND id = ?2");
    tx.query_opt(&sql, params![server_id, number], migration_row)
}

/// As [`migration_status_in`], with the host that it leads to.
pub fn migration_to_in(tx: &Tx, uuid: &str, status: &str, dest: &str) -> Result<()> {
    let sql = "UPDATE server_migration SET status = ?2, dest = ?3, updated_at = ?4 WHERE uuid = ?1";
    tx.execute(sql, params![uuid, status, dest, Timestamp::now()]).map(drop)
}

/// How many migrations of a server began at or after a time.
pub fn migrations_since_in(tx: &Tx, server_id: &str, since: Timestamp) -> Result<u64> {
    let sql = "SELECT COUNT(*) FROM server_migration WHERE server_id = ?1 AND created_at >= ?2";
    tx.query_one(sql, params![server_id, since], |r| r.count(0))
}

/// How many evacuations have begun and not ended, from a host (its name) or all.
pub fn evacuations_running_in(tx: &Tx, source: Option<&str>) -> Result<usize> {
    let mut select = Select::new("SELECT COUNT(*) FROM server_migration").eq("kind", "evacuation");
    select = select.in_list("status", &["accepted".to_string(), "pre-migrating".to_string()]);
    if let Some(source) = source {
        select = select.eq("source", source);
    }
    let count = select.fetch(tx, |r| r.count(0))?;
    Ok(count.first().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0))
}

/// Whether an evacuation of a server has begun and not ended.
pub fn is_evacuating_in(tx: &Tx, server_id: &str) -> Result<bool> {
    let sql =
        "SELECT 1 FROM server_migration WHERE server_id = ?1 AND kind = 'evacuation' AND status IN ('accepted', 'pre-migrating') LIMIT 1";
    Ok(tx.query_opt(sql, params![server_id], |_| Ok(()))?.is_some())
}

/// Whether the last thing that went on with a server was a `resize` or a `migration`.
pub fn last_move_in(tx: &Tx, server_id: &str) -> Result<Option<String>> {
    let sql = "SELECT kind FROM server_migration WHERE server_id = ?1 AND kind IN ('resize', 'migration') ORDER BY id DESC LIMIT 1";
    tx.query_opt(sql, params![server_id], |r| r.text(0))
}

/// Evacuations from a host, of a server.
pub fn evacuations_in(tx: &Tx, source: Option<&str>, server_id: Option<&str>) -> Result<Vec<Migration>> {
    let filter = Filter {
        kind: Some("evacuation".into()),
        source: source.map(str::to_string),
        server_id: server_id.map(str::to_string),
        limit: i64::MAX as u64,
        ..Filter::default()
    };
    migration_list_in(tx, &filter)
}

/// Which migrations to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub host: Option<String>,
    pub source: Option<String>,
    pub server_id: Option<String>,
    pub kind: Option<String>,
    pub status: Option<String>,
    pub user_id: Option<String>,
    pub project_id: Option<String>,
    pub since: Option<Timestamp>,
    pub before: Option<Timestamp>,
    pub marker: Option<String>,
    pub limit: u64,
}

/// The newest first.
pub fn migration_list_in(tx: &Tx, filter: &Filter) -> Result<Vec<Migration>> {
    let mut select = Select::new(format!("SELECT {COLUMNS} FROM server_migration"))
        .order(&[("created_at", Dir::Desc), ("id", Dir::Desc)])
        .limit(filter.limit);
    for (column, wanted) in [
        ("source", &filter.source),
        ("server_id", &filter.server_id),
        ("kind", &filter.kind),
        ("status", &filter.status),
        ("user_id", &filter.user_id),
        ("project_id", &filter.project_id),
    ] {
        if let Some(wanted) = wanted {
            select = select.eq(column, wanted);
        }
    }
    if let Some(host) = &filter.host {
        select = select.cond("(source = ? OR dest = ?)", [host.as_str().into(), host.as_str().into()]);
    }
    if let Some(since) = filter.since {
        select = select.ge("updated_at", since);
    }
    if let Some(before) = filter.before {
        select = select.le("updated_at", before);
    }
    if let Some(marker) = &filter.marker {
        let sql = format!("SELECT {COLUMNS} FROM server_migration WHERE uuid = ?1");
        let missing = || Error::invalid(format!("Marker {marker} could not be found."));
        let after = tx.query_opt(&sql, params![marker], migration_row)?.ok_or_else(missing)?;
        select = select.after(params![after.created_at, after.id].to_vec());
    }
    select.fetch(tx, migration_row)
}
