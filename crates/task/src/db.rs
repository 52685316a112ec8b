//! SQL of the operations. Every write of a running one is fenced: it names the owner and the epoch of its claim, and
//! finds no row when another controller has taken the operation over since.

use base::{Context, Error, Result, Timestamp};
use serde_json::Value;
use store::{Dir, Row, Select, Tx, params};

use crate::operation::{Failure, Journal};
use crate::{Filter, New, OperationView, State};

/// The channel on which controllers learn of operations that nobody has claimed.
pub(crate) const CHANNEL: &str = "task";

/// Proof of being the one who runs an operation.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    pub id: String,
    pub owner: String,
    pub epoch: i64,
}

/// An operation with all that is needed to run it.
#[derive(Clone)]
pub(crate) struct Claimed {
    pub fence: Fence,
    pub kind: String,
    pub resource_kind: String,
    pub resource_id: String,
    pub project_id: String,
    pub params: Value,
    pub context: Context,
    pub journal: Journal,
    pub cancel: bool,
    pub deadline: Timestamp,
    /// Whether it ran before: then the next step may have happened in part.
    pub resumed: bool,
}

const CLAIMED: &str =
    "id, owner, epoch, kind, resource_kind, resource_id, project_id, params, context, journal, cancel, deadline_at, started_at";

fn claimed(row: &Row) -> Result<Claimed> {
    Ok(Claimed {
        fence: Fence { id: row.text(0)?, owner: row.opt_text(1)?.unwrap_or_default(), epoch: row.int(2)? },
        kind: row.text(3)?,
        resource_kind: row.text(4)?,
        resource_id: row.text(5)?,
        project_id: row.text(6)?,
        params: row.json(7)?,
        context: row.json(8)?,
        journal: row.json(9)?,
        cancel: row.flag(10)?,
        deadline: row.time(11)?,
        resumed: row.opt_time(12)?.is_some(),
    })
}

/// Who may claim, and for how long.
#[derive(Clone)]
pub(crate) struct Claimant {
    pub owner: String,
    pub lease: std::time::Duration,
}

fn resource_lock(tx: &Tx, resource_id: &str) -> Result<()> {
    tx.lock(&format!("task/{resource_id}"))
}

/// Stores a new operation; claims it right away when a claimant is given and nothing of the same resource is before it.
pub(crate) fn insert(tx: &Tx, id: &str, new: &New, deadline: Timestamp, claimant: Option<&Claimant>) -> Result<Option<Claimed>> {
    resource_lock(tx, &new.resource_id)?;
    let (seq, waiting) = tx.query_one(
        "SELECT COALESCE(MAX(seq), 0) + 1, COUNT(CASE WHEN finished_at IS NULL THEN 1 END) FROM operation WHERE resource_id = ?1",
        params![new.resource_id],
        |row| Ok((row.int(0)?, row.int(1)?)),
    )?;
    let now = Timestamp::now();
    let claim = claimant.filter(|_| waiting == 0);
    let (state, started) = if claim.is_some() { (State::Running, Some(now)) } else { (State::Pending, None) };
    tx.execute(
        "INSERT INTO operation (id, seq, kind, resource_kind, resource_id, project_id, state, step, progress, cancel, params, context, \
         journal, owner, epoch, lease_until, created_at, started_at, updated_at, deadline_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '', 0, 0, ?8, ?9, '{}', ?10, 1, ?11, ?12, ?13, ?12, ?14)",
        params![
            id,
            seq,
            new.kind,
            new.resource_kind,
            new.resource_id,
            new.project_id,
            state.as_str(),
            new.params,
            store::Value::json(&new.context)?,
            claim.map(|c| c.owner.as_str()),
            claim.map_or(0, |c| now.plus(c.lease).micros()),
            now,
            started,
            deadline
        ],
    )?;
    Ok(claim.map(|c| Claimed {
        fence: Fence { id: id.to_owned(), owner: c.owner.clone(), epoch: 1 },
        kind: new.kind.clone(),
        resource_kind: new.resource_kind.clone(),
        resource_id: new.resource_id.clone(),
        project_id: new.project_id.clone(),
        params: new.params.clone(),
        context: new.context.clone(),
        journal: Journal::default(),
        cancel: false,
        deadline,
        resumed: false,
    }))
}

/// What may be claimed: waiting operations that are first of their resource, and those whose owner's lease has run out.
/// With `own`, also those that this owner had in an earlier life. Ids with the epoch to claim them from.
pub(crate) fn claimable(tx: &Tx, claimant: &Claimant, kinds: &[&'static str], own: bool, limit: u64) -> Result<Vec<(String, i64)>> {
    Select::new("SELECT id, epoch FROM operation o")
        .cond("o.finished_at IS NULL", [])
        .in_list("o.kind", kinds.iter().copied())
        .any(|or| {
            let or = or.eq("o.state", State::Pending.as_str()).lt("o.lease_until", Timestamp::now());
            if own { or.eq("o.owner", &claimant.owner) } else { or }
        })
        .cond(
            "NOT EXISTS (SELECT 1 FROM operation earlier \
             WHERE earlier.resource_id = o.resource_id AND earlier.seq < o.seq AND earlier.finished_at IS NULL)",
            [],
        )
        .order(&[("o.created_at", Dir::Asc), ("o.id", Dir::Asc)])
        .limit(limit)
        .fetch(tx, |row| Ok((row.text(0)?, row.int(1)?)))
}

/// Claims these, but for those that somebody else was quicker to claim.
pub(crate) fn claim(tx: &Tx, claimant: &Claimant, found: Vec<(String, i64)>) -> Result<Vec<Claimed>> {
    let now = Timestamp::now();
    let mut taken = Vec::new();
    for (id, epoch) in found {
        taken.extend(take(tx, claimant, &id, epoch, now)?);
    }
    Ok(taken)
}

fn take(tx: &Tx, claimant: &Claimant, id: &str, epoch: i64, now: Timestamp) -> Result<Option<Claimed>> {
    let resumed = tx.query_opt("SELECT started_at FROM operation WHERE id = ?1", params![id], |row| row.opt_time(0))?.flatten().is_some();
    let taken = tx.query_opt(
        &format!(
            "UPDATE operation SET owner = ?3, epoch = epoch + 1, lease_until = ?4, started_at = COALESCE(started_at, ?5), updated_at = ?5, \
             state = CASE WHEN state = 'pending' THEN 'running' ELSE state END WHERE id = ?1 AND epoch = ?2 AND finished_at IS NULL \
             RETURNING {CLAIMED}"
        ),
        params![id, epoch, claimant.owner, now.plus(claimant.lease), now],
        claimed,
    )?;
    Ok(taken.map(|c| Claimed { resumed, ..c }))
}

/// Extends the lease of everything this owner runs.
pub(crate) fn renew(tx: &Tx, claimant: &Claimant) -> Result<u64> {
    tx.execute(
        "UPDATE operation SET lease_until = ?2 WHERE owner = ?1 AND finished_at IS NULL",
        params![claimant.owner, Timestamp::now().plus(claimant.lease)],
    )
}

/// Gives an operation back unfinished, for whoever comes next.
pub(crate) fn release(tx: &Tx, fence: &Fence) -> Result<()> {
    tx.execute(
        "UPDATE operation SET lease_until = 0 WHERE id = ?1 AND owner = ?2 AND epoch = ?3 AND finished_at IS NULL",
        params![fence.id, fence.owner, fence.epoch],
    )?;
    Ok(())
}

/// What `lost` says: another controller runs the operation now, so this one stops without a trace.
pub(crate) const LOST: &str = "OperationTakenOver";

fn lost(fence: &Fence) -> Error {
    Error::conflict(format!("operation {} was taken over", fence.id)).named(LOST)
}

/// Records progress through the steps; answers whether cancelling has been asked for.
pub(crate) fn journal(tx: &Tx, fence: &Fence, state: State, step: &str, progress: u8, journal: &Journal) -> Result<bool> {
    tx.query_opt(
        "UPDATE operation SET state = ?4, step = ?5, journal = ?6, updated_at = ?7, progress = CASE WHEN CAST(?8 AS BIGINT) > progress THEN CAST(?8 AS BIGINT) ELSE progress END \
         WHERE id = ?1 AND owner = ?2 AND epoch = ?3 AND finished_at IS NULL RETURNING cancel",
        params![
            fence.id,
            fence.owner,
            fence.epoch,
            state.as_str(),
            step,
            store::Value::json(journal)?,
            Timestamp::now(),
            i64::from(progress)
        ],
        |row| row.flag(0),
    )?
    .ok_or_else(|| lost(fence))
}

pub(crate) fn progress(tx: &Tx, fence: &Fence, percent: u8) -> Result<()> {
    let changed = tx.execute(
        "UPDATE operation SET progress = ?4, updated_at = ?5 WHERE id = ?1 AND owner = ?2 AND epoch = ?3 AND finished_at IS NULL",
        params![fence.id, fence.owner, fence.epoch, i64::from(percent), Timestamp::now()],
    )?;
    if changed == 0 { Err(lost(fence)) } else { Ok(()) }
}

/// Ends an operation; answers the next one of the same resource, claimed, when it waits and its kind is known here.
pub(crate) fn finish(
    tx: &Tx,
    run: &Claimed,
    state: State,
    step: &str,
    journal: &Journal,
    failure: Option<&Failure>,
    claimant: Option<(&Claimant, &[&'static str])>,
) -> Result<Option<Claimed>> {
    resource_lock(tx, &run.resource_id)?;
    let now = Timestamp::now();
    let changed = tx.execute(
        "UPDATE operation SET state = ?4, step = ?5, journal = ?6, error = ?7, error_detail = ?8, updated_at = ?9, finished_at = ?9, \
         progress = CASE WHEN ?4 = 'done' THEN 100 ELSE progress END WHERE id = ?1 AND owner = ?2 AND epoch = ?3 AND finished_at IS NULL",
        params![
            run.fence.id,
            run.fence.owner,
            run.fence.epoch,
            state.as_str(),
            step,
            store::Value::json(journal)?,
            failure.map(|f| f.message.as_str()),
            failure.map(|f| f.detail.as_str()),
            now
        ],
    )?;
    if changed == 0 {
        return Err(lost(&run.fence));
    }
    let next = tx.query_opt(
        "SELECT id, epoch, kind FROM operation WHERE resource_id = ?1 AND finished_at IS NULL ORDER BY seq LIMIT 1",
        params![run.resource_id],
        |row| Ok((row.text(0)?, row.int(1)?, row.text(2)?)),
    )?;
    match (next, claimant) {
        (Some((id, epoch, kind)), Some((claimant, kinds))) if kinds.contains(&kind.as_str()) => take(tx, claimant, &id, epoch, now),
        (Some(_), _) => {
            // It is for another controller.
            tx.nudge(CHANNEL);
            Ok(None)
        }
        (None, _) => Ok(None),
    }
}

const VIEW: &str = "SELECT id, kind, resource_kind, resource_id, project_id, state, step, progress, cancel, error, created_at, started_at, \
                    updated_at, finished_at, owner FROM operation";

fn view(row: &Row) -> Result<OperationView> {
    Ok(OperationView {
        id: row.text(0)?,
        kind: row.text(1)?,
        resource_kind: row.text(2)?,
        resource_id: row.text(3)?,
        project_id: row.text(4)?,
        state: state(&row.text(5)?)?,
        step: row.text(6)?,
        progress: u8::try_from(row.int(7)?).unwrap_or(100),
        cancel: row.flag(8)?,
        error: row.opt_text(9)?,
        created_at: row.time(10)?,
        started_at: row.opt_time(11)?,
        updated_at: row.time(12)?,
        finished_at: row.opt_time(13)?,
        owner: row.opt_text(14)?,
    })
}

pub(crate) fn show(tx: &Tx, id: &str) -> Result<Option<OperationView>> {
    tx.query_opt(&format!("{VIEW} WHERE id = ?1"), params![id], view)
}

fn state(text: &str) -> Result<State> {
    State::parse(text).ok_or_else(|| Error::internal(format!("operation state {text:?}")))
}

pub(crate) fn list(tx: &Tx, filter: &Filter) -> Result<Vec<OperationView>> {
    let mut select = Select::new(VIEW)
        .opt_eq("kind", filter.kind.as_deref())
        .opt_eq("resource_kind", filter.resource_kind.as_deref())
        .opt_eq("resource_id", filter.resource_id.as_deref())
        .opt_eq("project_id", filter.project_id.as_deref())
        .opt_eq("state", filter.state.map(State::as_str))
        .order(&[("created_at", Dir::Desc), ("id", Dir::Desc)])
        .limit(filter.limit.unwrap_or(1000));
    if filter.open {
        select = select.cond("finished_at IS NULL", []);
    }
    if let Some((created_at, id)) = &filter.after {
        select = select.after(params![created_at, id].to_vec());
    }
    select.fetch(tx, view)
}

/// Asks for cancelling; false when the operation is unknown or over.
pub(crate) fn cancel(tx: &Tx, id: &str) -> Result<bool> {
    Ok(tx
        .execute("UPDATE operation SET cancel = 1, updated_at = ?2 WHERE id = ?1 AND finished_at IS NULL", params![id, Timestamp::now()])?
        == 1)
}

pub(crate) fn cancel_asked(tx: &Tx, owner: &str) -> Result<Vec<String>> {
    tx.query("SELECT id FROM operation WHERE owner = ?1 AND finished_at IS NULL AND cancel = 1", params![owner], |row| row.text(0))
}

pub(crate) fn prune(tx: &Tx, before: Timestamp) -> Result<u64> {
    tx.execute("DELETE FROM operation WHERE finished_at IS NOT NULL AND finished_at < ?1", params![before])
}
