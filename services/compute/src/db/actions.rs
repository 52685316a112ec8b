//! What was done with servers: one action a request, with the events it was made of.

use base::{Context, Result, Timestamp};
use store::{Dir, Row, Select, Tx, params};

#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub server_id: String,
    pub request_id: String,
    pub action: String,
    pub user_id: String,
    pub project_id: String,
    /// `Error` when it failed, and why if its owner may know.
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ActionEvent {
    pub event: String,
    pub host: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// `Success` or `Error`.
    pub result: Option<String>,
    pub details: Option<String>,
}

const COLUMNS: &str = "server_id, request_id, action, user_id, project_id, message, started_at, updated_at";

fn action_row(r: &Row) -> Result<Action> {
    Ok(Action {
        server_id: r.text(0)?,
        request_id: r.text(1)?,
        action: r.text(2)?,
        user_id: r.text(3)?,
        project_id: r.text(4)?,
        message: r.opt_text(5)?,
        started_at: r.time(6)?,
        updated_at: r.time(7)?,
    })
}

/// Notes that `ctx` asked for `action`. A request that does two things to a server keeps the first.
pub fn action_start_in(tx: &Tx, server_id: &str, action: &str, ctx: &Context) -> Result<()> {
    let now = Timestamp::now();
    tx.execute(
        "INSERT INTO server_action (server_id, request_id, action, user_id, project_id, message, started_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, ?6) ON CONFLICT (server_id, request_id) DO NOTHING",
        params![server_id, ctx.request_id, action, ctx.user_id, ctx.project_id(), now],
    )?;
    Ok(())
}

/// Notes one thing that an action consisted of, from `started_at` to now.
pub fn action_event_in(
    tx: &Tx,
    server_id: &str,
    request_id: &str,
    event: &str,
    host: Option<&str>,
    started_at: Timestamp,
    problem: Option<&str>,
) -> Result<()> {
    event_in(tx, server_id, request_id, event, host, started_at, problem.map_or(Ok(None), Err))
}

/// The same of something that was done, with what is worth a word about how.
pub fn action_remark_in(
    tx: &Tx,
    server_id: &str,
    request_id: &str,
    event: &str,
    host: Option<&str>,
    started_at: Timestamp,
    remark: Option<&str>,
) -> Result<()> {
    event_in(tx, server_id, request_id, event, host, started_at, Ok(remark))
}

/// `outcome`: a remark, or what is wrong.
fn event_in(
    tx: &Tx,
    server_id: &str,
    request_id: &str,
    event: &str,
    host: Option<&str>,
    started_at: Timestamp,
    outcome: std::result::Result<Option<&str>, &str>,
) -> Result<()> {
    let (result, details) = outcome.map_or_else(|problem| ("Error", Some(problem)), |remark| ("Success", remark));
    let now = Timestamp::now();
    let place = tx.query_one(
        "SELECT COALESCE(MAX(place), 0) + 1 FROM server_action_event WHERE server_id = ?1 AND request_id = ?2",
        params![server_id, request_id],
        |r| r.int(0),
    )?;
    tx.execute(
        "INSERT INTO server_action_event (server_id, request_id, place, event, host, started_at, finished_at, result, details) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![server_id, request_id, place, event, host, started_at, now, result, details],
    )?;
    let message = outcome.err().map(|_| "Error");
    tx.execute(
        "UPDATE server_action SET updated_at = ?3, message = COALESCE(?4, message) WHERE server_id = ?1 AND request_id = ?2",
        params![server_id, request_id, now, message],
    )?;
    Ok(())
}

/// Notes why an action came to nothing, in words for the server's owner, who does not read the details of events.
pub fn action_refused_in(tx: &Tx, server_id: &str, request_id: &str, why: &str) -> Result<()> {
    let sql = "UPDATE server_action SET message = ?3 WHERE server_id = ?1 AND request_id = ?2";
    tx.execute(sql, params![server_id, request_id, format!("Error: {why}")]).map(drop)
}

pub fn action_fetch_in(tx: &Tx, server_id: &str, request_id: &str) -> Result<Option<Action>> {
    let sql = format!("SELECT {COLUMNS} FROM server_action WHERE server_id = ?1 AND request_id = ?2");
    tx.query_opt(&sql, params![server_id, request_id], action_row)
}

/// The newest first.
pub fn action_list_in(
    tx: &Tx,
    server_id: &str,
    since: Option<Timestamp>,
    before: Option<Timestamp>,
    after: Option<&Action>,
    limit: u64,
) -> Result<Vec<Action>> {
    let mut select = Select::new(format!("SELECT {COLUMNS} FROM server_action"))
        .eq("server_id", server_id)
        .order(&[("started_at", Dir::Desc), ("request_id", Dir::Desc)])
        .limit(limit);
    if let Some(since) = since {
        select = select.ge("updated_at", since);
    }
    if let Some(before) = before {
        select = select.le("updated_at", before);
    }
    if let Some(after) = after {
        select = select.after(params![after.started_at, &after.request_id].to_vec());
    }
    select.fetch(tx, action_row)
}

/// The newest first.
pub fn action_events_in(tx: &Tx, server_id: &str, request_id: &str) -> Result<Vec<ActionEvent>> {
    tx.query(
        "SELECT event, host, started_at, finished_at, result, details FROM server_action_event \
         WHERE server_id = ?1 AND request_id = ?2 ORDER BY place DESC",
        params![server_id, request_id],
        |r| {
            Ok(ActionEvent {
                event: r.text(0)?,
                host: r.opt_text(1)?,
                started_at: r.time(2)?,
                finished_at: r.opt_time(3)?,
                result: r.opt_text(4)?,
                details: r.opt_text(5)?,
            })
        },
    )
}
