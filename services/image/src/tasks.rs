//! Tasks: what users see of imports.

use std::time::Duration;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Query;
use serde_json::Value;
use store::{Dir, Row, Select, Tx, params};

use crate::{Images, KIND};

/// How long a task that is over is shown.
const LIFE: Duration = Duration::from_secs(48 * 3600);
const DEFAULT_LIMIT: u64 = 25;
const STATUSES: [&str; 4] = ["pending", "processing", "success", "failure"];
const TYPES: [&str; 3] = ["import", "api_image_import", "location_import"];
const SORT_KEYS: [&str; 7] = ["id", "type", "status", "owner", "expires_at", "created_at", "updated_at"];
const COLUMNS: &str = "SELECT id, type, status, owner, image_id, user_id, request_id, input, result, message, expires_at, created_at, updated_at \
     FROM image_task";

#[derive(Clone, Debug)]
pub struct Task {
    pub id: String,
    pub kind: String,
    pub status: String,
    pub owner: String,
    pub image_id: Option<String>,
    pub user_id: String,
    pub request_id: String,
    pub input: Value,
    pub result: Option<Value>,
    pub message: String,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Task {
    pub fn new(kind: &str, ctx: &Context, image_id: &str, input: Value) -> Task {
        let now = Timestamp::now();
        Task {
            id: base::id::uuid(),
            kind: kind.into(),
            status: "pending".into(),
            owner: ctx.project_id().into(),
            image_id: Some(image_id.into()),
            user_id: ctx.user_id.clone(),
            request_id: ctx.request_id.clone(),
            input,
            result: None,
            message: String::new(),
            expires_at: None,
            created_at: now,
            updated_at: now,
        }
    }
}

fn read(row: &Row) -> Result<Task> {
    let json = |text: &str| serde_json::from_str(text).map_err(|error| Error::internal("the input of a task").caused_by(error));
    Ok(Task {
        id: row.text(0)?,
        kind: row.text(1)?,
        status: row.text(2)?,
        owner: row.text(3)?,
        image_id: row.opt_text(4)?,
        user_id: row.text(5)?,
        request_id: row.text(6)?,
        input: json(&row.text(7)?)?,
        result: row.opt_text(8)?.map(|text| json(&text)).transpose()?,
        message: row.text(9)?,
        expires_at: row.opt_time(10)?,
        created_at: row.time(11)?,
        updated_at: row.time(12)?,
    })
}

pub fn task_insert_in(tx: &Tx, task: &Task) -> Result<()> {
    tx.execute(
        "INSERT INTO image_task (id, type, status, owner, image_id, user_id, request_id, input, message, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            task.id,
            task.kind,
            task.status,
            task.owner,
            &task.image_id,
            task.user_id,
            task.request_id,
            task.input.to_string(),
            task.message,
            task.created_at,
            task.updated_at
        ],
    )?;
    Ok(())
}

/// The task runs. One that is over stays so.
pub fn task_run_in(tx: &Tx, id: &str) -> Result<()> {
    let open = "UPDATE image_task SET status = 'processing', updated_at = ?2 WHERE id = ?1 AND status IN ('pending', 'processing')";
    tx.execute(open, params![id, Timestamp::now()])?;
    Ok(())
}

/// Keeps this content from being tidied away until the task is over; none: no longer.
pub fn task_claim_in(tx: &Tx, id: &str, sha256: Option<&str>) -> Result<()> {
    tx.execute("UPDATE image_task SET content = ?2 WHERE id = ?1", params![id, sha256])?;
    Ok(())
}

pub fn task_end_in(tx: &Tx, id: &str, status: &str, result: Option<&Value>, message: &str) -> Result<()> {
    let now = Timestamp::now();
    let expires = Timestamp(now.micros().saturating_add(i64::try_from(LIFE.as_micros()).unwrap_or(i64::MAX)));
    tx.execute(
        "UPDATE image_task SET status = ?2, result = ?3, message = ?4, content = NULL, expires_at = ?5, updated_at = ?6 WHERE id = ?1",
        params![id, status, result.map(Value::to_string), message, expires, now],
    )?;
    Ok(())
}

/// A page of tasks.
pub struct Page {
    pub tasks: Vec<Task>,
    pub more: bool,
}

impl Images {
    fn task_access(&self, ctx: &Context) -> Result<()> {
        self.core().authorize(KIND, "tasks_api_access", ctx, &[("project_id", ctx.project_id())])
    }

    pub async fn task_show(&self, ctx: &Context, id: &str) -> Result<Task> {
        self.task_access(ctx)?;
        self.core().authorize(KIND, "get_task", ctx, &())?;
        let found = self.core().store.read(|tx| Ok(Select::new(COLUMNS).eq("id", id).limit(1).fetch(tx, read)?.pop())).await?;
        let seen = found.filter(|task| self.is_admin(ctx) || task.owner == ctx.project_id());
        seen.ok_or_else(|| Error::new(Kind::NotFound, format!("No task found with ID {id}")))
    }

    pub async fn task_list(&self, ctx: &Context, query: &Query) -> Result<Page> {
        self.task_access(ctx)?;
        self.core().authorize(KIND, "get_tasks", ctx, &())?;
        let limit = crate::listing::limit(query)?.unwrap_or(DEFAULT_LIMIT).min(self.core().config.int("api.max_limit"));
        let mut select = Select::new(COLUMNS);
        if !self.is_admin(ctx) {
            select = select.eq("owner", ctx.project_id());
        }
        for (name, column, words) in [("status", "status", &STATUSES[..]), ("type", "type", &TYPES[..])] {
            match query.get(name).filter(|v| !v.is_empty()) {
                Some(word) if words.contains(&word) => select = select.eq(column, word),
                Some(other) => return Err(Error::invalid(format!("Invalid {name} value: {other}"))),
                None => {}
            }
        }
        select = select.opt_eq("owner", query.get("owner")).opt_eq("image_id", query.get("image_id"));
        let wanted = query.get("sort_key").unwrap_or("created_at");
        let key = SORT_KEYS.into_iter().find(|k| *k == wanted);
        let key = key.ok_or_else(|| Error::invalid(format!("Invalid sort key: {wanted}. It must be one of: {}.", SORT_KEYS.join(", "))))?;
        let dir = match query.get("sort_dir").unwrap_or("desc") {
            "asc" => Dir::Asc,
            "desc" => Dir::Desc,
            other => return Err(Error::invalid(format!("Invalid sort direction: {other}"))),
        };
        let order: Vec<(&str, Dir)> = match key {
            "id" => vec![("id", dir)],
            "created_at" => vec![("created_at", dir), ("id", dir)],
            other => vec![(other, dir), ("created_at", dir), ("id", dir)],
        };
        select = select.order(&order);
        let marker = query.get("marker").filter(|m| !m.is_empty());
        if marker.is_some_and(|marker| !base::id::is_uuid(marker)) {
            return Err(Error::invalid("Invalid marker format"));
        }
        let columns = order.iter().map(|(column, _)| *column).collect::<Vec<_>>().join(", ");
        let listed = self.core().store.read(|tx| {
            if let Some(marker) = marker {
                let values = tx.query_opt(&format!("SELECT {columns} FROM image_task WHERE id = ?1"), params![marker], |row| {
                    (0..order.len()).map(|i| row.value(i)).collect::<Result<Vec<store::Value>>>()
                })?;
                let Some(values) = values else { return Ok(None) };
                select = select.after(values);
            }
            select.limit(limit + 1).fetch(tx, read).map(Some)
        });
        let unknown = || Error::invalid(format!("Invalid marker: no task found with ID {}", marker.unwrap_or_default()));
        let mut tasks = listed.await?.ok_or_else(unknown)?;
        let more = tasks.len() as u64 > limit;
        tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Page { more: more && !tasks.is_empty(), tasks })
    }

    /// Tasks that brought content into an image, newest first.
    pub async fn image_tasks(&self, ctx: &Context, id: &str) -> Result<Vec<Task>> {
        self.image_show(ctx, id).await?;
        let order = [("created_at", Dir::Desc), ("id", Dir::Desc)];
        self.core().store.read(|tx| Select::new(COLUMNS).eq("image_id", id).order(&order).fetch(tx, read)).await
    }

    /// Tasks are kept until they expire, whatever anybody asks.
    pub fn task_delete(&self, ctx: &Context) -> Result<()> {
        self.task_access(ctx)?;
        Err(Error::new(Kind::MethodNotAllowed, "Tasks are not deleted: each goes by itself at the time it says it expires at."))
    }

    /// Forgets tasks whose time is over.
    pub(crate) async fn tasks_expire(&self) -> Result<()> {
        let now = Timestamp::now();
        let over = self.core().store.read(move |tx| {
            tx.query_one("SELECT COUNT(*) FROM image_task WHERE expires_at <= ?1", params![now], |row| Ok(row.count(0)? > 0))
        });
        if !over.await? {
            return Ok(());
        }
        self.core().store.write(move |tx| tx.execute("DELETE FROM image_task WHERE expires_at <= ?1", params![now]).map(drop)).await
    }
}
