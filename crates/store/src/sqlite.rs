//! The embedded backend: one writer thread that commits waiting closures together, and a pool of readers.

use base::error::Internal;
use base::{Error, Kind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use crate::nudge::Bus;
use crate::tx::{After, Backend, Tx, run_hooks};
use crate::{Counters, Row, Value, count, row};

/// Closures that may wait for the writer before callers have to.
const QUEUE: usize = 1024;
/// A group ends with this many closures or after this time, whichever is first: the earliest of a group waits for the whole of it.
const GROUP: usize = 256;
const GROUP_TIME: Duration = Duration::from_millis(10);
/// Readers that are kept when idle.
const READERS: usize = 8;

pub(crate) struct Sqlite {
    path: PathBuf,
    bus: Bus,
    writer: mpsc::Sender<Message>,
    readers: Mutex<Vec<Tx>>,
}

enum Message {
    Write(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// A closure with its result and the one who waits for it.
trait Job: Send {
    /// Whether anyone still waits.
    fn wanted(&self) -> bool;
    /// Runs it; true when its statements shall stay.
    fn run(&mut self, tx: &Tx) -> bool;
    /// Turns its result into an error, when its statements could not stay.
    fn fail(&mut self, error: Error);
    /// Hands the result over.
    fn answer(self: Box<Self>);
}

struct Closure<T, F> {
    f: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnOnce(&Tx) -> Result<T> + Send> Job for Closure<T, F> {
    fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }
    fn run(&mut self, tx: &Tx) -> bool {
        let Some(f) = self.f.take() else { return false };
        let result = catch_unwind(AssertUnwindSafe(|| {
            let value = f(tx)?;
            tx.complete()?;
            Ok(value)
        }))
        .unwrap_or_else(|panic| Err(crate::panicked(&*panic)));
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }
    fn fail(&mut self, error: Error) {
        self.result = Some(Err(error));
    }
    fn answer(self: Box<Self>) {
        let result = self.result.unwrap_or_else(|| Err(Error::internal("a write without a result")));
        // The caller may have gone; what it asked for is done nevertheless.
        let _ = self.reply.send(result);
    }
}

impl Sqlite {
    pub(crate) fn open(path: &Path, bus: Bus, counters: Arc<Counters>) -> Result<Self> {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).internal("creating the database's directory")?;
        // Ours alone: it holds password hashes. SQLite gives its side files the same mode.
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(path).and_then(|mut f| f.flush()).internal("creating the database")?;
        let conn = Connection::open(path).internal("opening the database")?;
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).internal("setting the journal mode")?;
        if mode != "wal" {
            return Err(Error::internal(format!("the database's file system does not allow write-ahead logging (mode {mode})")));
        }
        conn.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000; PRAGMA cache_size = -16384; \
             PRAGMA mmap_size = 0; PRAGMA journal_size_limit = 16777216; PRAGMA case_sensitive_like = ON;",
        )
        .internal("configuring the database")?;
        plan_once(&conn)?;
        conn.set_prepared_statement_cache_capacity(256);
        // A name that was just made must outlive a power cut too.
        std::fs::File::open(directory).and_then(|d| d.sync_all()).internal("syncing the database's directory")?;
        let (writer, queue) = mpsc::channel(QUEUE);
        let tx = Tx::new(Backend::Sqlite(conn), bus.clone(), "".into());
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_loop(tx, queue, &counters))
            .internal("starting the writer")?;
        Ok(Sqlite { path: path.to_owned(), bus, writer, readers: Mutex::default() })
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&Tx) -> Result<T>) -> Result<T> {
        let kept = self.readers.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let tx = match kept {
            Some(tx) => tx,
            None => self.reader()?,
        };
        let reader = Reader { pool: self, tx: Some(tx) };
        reader.run(f)
    }

    fn reader(&self) -> Result<Tx> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).internal("opening a reader")?;
        conn.execute_batch(
            "PRAGMA busy_timeout = 10000; PRAGMA cache_size = -4096; PRAGMA mmap_size = 0; PRAGMA case_sensitive_like = ON;",
        )
        .internal("configuring a reader")?;
        plan_once(&conn)?;
        conn.set_prepared_statement_cache_capacity(128);
        Ok(Tx::new(Backend::Sqlite(conn), self.bus.clone(), "".into()))
    }

    pub(crate) async fn write<T: Send + 'static>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = Closure { f: Some(f), result: None, reply };
        self.writer.send(Message::Write(Box::new(job))).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub(crate) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.writer.send(Message::Close(done)).await.is_ok() {
            let _ = wait.await;
        }
        self.readers.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

fn closed() -> Error {
    Error::unavailable("The database is closed.")
}

/// A reader out of the pool. It goes back when it is sound, also when the closure panics.
struct Reader<'a> {
    pool: &'a Sqlite,
    tx: Option<Tx>,
}

impl Reader<'_> {
    fn run<T>(&self, f: impl FnOnce(&Tx) -> Result<T>) -> Result<T> {
        let Some(tx) = &self.tx else { return Err(closed()) };
        let Backend::Sqlite(conn) = &tx.backend else { return Err(closed()) };
        // One snapshot for all statements of the closure.
        execute(conn, "BEGIN", &[])?;
        f(tx)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(tx) = self.tx.take() else { return };
        let Backend::Sqlite(conn) = &tx.backend else { return };
        let sound = conn.is_autocommit() || execute(conn, "COMMIT", &[]).is_ok();
        drop(tx.reset());
        let mut readers = self.pool.readers.lock().unwrap_or_else(|e| e.into_inner());
        if sound && readers.len() < READERS {
            readers.push(tx);
        }
    }
}

fn write_loop(tx: Tx, mut queue: mpsc::Receiver<Message>, counters: &Counters) {
    let mut closing = Vec::new();
    loop {
        match queue.blocking_recv() {
            Some(Message::Write(job)) => write_group(&tx, job, &mut queue, &mut closing, counters),
            Some(Message::Close(done)) => closing.push(done),
            None => break,
        }
        if !closing.is_empty() {
            // What was accepted is still done; `recv` answers None after the last.
            queue.close();
        }
    }
    drop(tx);
    for done in closing {
        let _ = done.send(());
    }
}

/// Runs `first` and all that wait behind it in one transaction, and answers them when it is on disk.
fn write_group(
    tx: &Tx,
    first: Box<dyn Job>,
    queue: &mut mpsc::Receiver<Message>,
    closing: &mut Vec<oneshot::Sender<()>>,
    counters: &Counters,
) {
    let Backend::Sqlite(conn) = &tx.backend else { return };
    let mut first = Some(first);
    let mut hooks: Vec<After> = Vec::new();
    // Those whose statements stay if the commit succeeds, and those who know their answer already.
    let mut group: Vec<Box<dyn Job>> = Vec::new();
    let mut answers: Vec<Box<dyn Job>> = Vec::new();
    let begun = execute(conn, "BEGIN IMMEDIATE", &[]).map(|_| Instant::now());
    let start = match begun {
        Ok(start) => start,
        Err(error) => {
            if let Some(mut job) = first.take() {
                job.fail(error);
                job.answer();
            }
            return;
        }
    };
    while let Some(mut job) = first.take() {
        if job.wanted() {
            count(&counters.writes);
            let kept = match execute(conn, "SAVEPOINT job", &[]) {
                Err(error) => {
                    job.fail(error);
                    false
                }
                Ok(_) => {
                    let keep = job.run(tx);
                    let mut mine = tx.reset();
                    let settled = if keep {
                        execute(conn, "RELEASE job", &[]).map(|_| hooks.append(&mut mine))
                    } else if conn.is_autocommit() {
                        Ok(())
                    } else {
                        execute(conn, "ROLLBACK TO job", &[]).and_then(|_| execute(conn, "RELEASE job", &[])).map(|_| ())
                    };
                    match settled {
                        Ok(()) => keep,
                        Err(error) => {
                            job.fail(error);
                            false
                        }
                    }
                }
            };
            if kept {
                group.push(job);
            } else {
                answers.push(job);
            }
            if conn.is_autocommit() {
                // SQLite gave up the whole transaction (disk full, I/O error): nothing of the group was written.
                hooks.clear();
                break;
            }
        }
        if group.len() + answers.len() < GROUP && start.elapsed() < GROUP_TIME {
            match queue.try_recv() {
                Ok(Message::Write(job)) => first = Some(job),
                Ok(Message::Close(done)) => closing.push(done),
                Err(_) => {}
            }
        }
    }
    let committed = if conn.is_autocommit() {
        Err(Error::unavailable("The database could not write."))
    } else {
        count(&counters.commits);
        execute(conn, "COMMIT", &[]).map(|_| ())
    };
    match committed {
        Ok(()) => run_hooks(hooks),
        Err(error) => {
            tracing::error!(error = %error.chain(), writes = group.len(), "commit failed");
            if !conn.is_autocommit() {
                let _ = execute(conn, "ROLLBACK", &[]);
            }
            for job in &mut group {
                job.fail(Error::new(error.kind(), error.message()));
            }
        }
    }
    for job in group.into_iter().chain(answers) {
        job.answer();
    }
}

/// A statement keeps its plan, whatever it is given. Otherwise SQLite, as it is compiled here (`ENABLE_STAT4`), makes a new one each
/// time that a parameter is looked for in an index, for statistics that we do not have.
fn plan_once(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop).internal("configuring the planner")
}

fn prepared<'a>(conn: &'a Connection, sql: &str, params: &[Value]) -> Result<rusqlite::CachedStatement<'a>> {
    let mut statement = conn.prepare_cached(sql).map_err(|e| error(e, sql))?;
    if statement.parameter_count() != params.len() {
        return Err(Error::internal(format!("{} parameters for a statement of {}: {sql}", params.len(), statement.parameter_count())));
    }
    for (i, value) in params.iter().enumerate() {
        let bound = match value {
            Value::Null => statement.raw_bind_parameter(i + 1, rusqlite::types::Null),
            Value::Int(v) => statement.raw_bind_parameter(i + 1, v),
            Value::Real(v) => statement.raw_bind_parameter(i + 1, v),
            Value::Text(v) => statement.raw_bind_parameter(i + 1, v.as_str()),
            Value::Bytes(v) => statement.raw_bind_parameter(i + 1, v.as_slice()),
        };
        bound.map_err(|e| error(e, sql))?;
    }
    Ok(statement)
}

pub(crate) fn execute(conn: &Connection, sql: &str, params: &[Value]) -> Result<u64> {
    let changed = prepared(conn, sql, params)?.raw_execute().map_err(|e| error(e, sql))?;
    Ok(changed as u64)
}

pub(crate) fn query<T>(conn: &Connection, sql: &str, params: &[Value], mut map: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
    let mut statement = prepared(conn, sql, params)?;
    let mut rows = statement.raw_query();
    let mut answer = Vec::new();
    while let Some(row) = rows.next().map_err(|e| error(e, sql))? {
        answer.push(map(&Row(row::Inner::Sqlite(row)))?);
    }
    Ok(answer)
}

/// Sorts an error of SQLite into ours.
pub(crate) fn error(error: rusqlite::Error, sql: &str) -> Error {
    let (kind, message) = match &error {
        rusqlite::Error::SqliteFailure(e, _) => match e.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
                (Kind::Exists, crate::EXISTS.to_owned())
            }
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => (Kind::Conflict, crate::IN_USE.to_owned()),
            _ => match e.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull => {
                    (Kind::Unavailable, "The database cannot write at the moment.".to_owned())
                }
                _ => (Kind::Internal, format!("statement failed: {sql}")),
            },
        },
        _ => (Kind::Internal, format!("statement failed: {sql}")),
    };
    Error::new(kind, message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_keeps_its_plan() {
        let conn = Connection::open_in_memory().unwrap();
        plan_once(&conn).unwrap();
        conn.execute_batch("CREATE TABLE thing (id TEXT, part TEXT); CREATE INDEX thing_part ON thing (part)").unwrap();
        for (sql, given) in
            [("SELECT id FROM thing WHERE part = ?1", Value::Text("a".into())), ("SELECT id FROM thing LIMIT ?1", Value::Int(3))]
        {
            for _ in 0..3 {
                let mut statement = prepared(&conn, sql, std::slice::from_ref(&given)).unwrap();
                assert!(statement.raw_query().next().unwrap().is_none());
                assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
            }
        }
    }
}
