//! A transaction, as closures see it.

use base::{Error, Result};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::nudge::Bus;
use crate::{Row, Value, postgres, sqlite};

pub(crate) type After = Box<dyn FnOnce() + Send>;
pub(crate) type Before = Box<dyn FnOnce(&Tx) -> Result<()> + Send>;

/// A transaction under way. Statements are SQL in the common dialect with numbered parameters `?1 ?2 ...`.
///
/// A statement that fails makes the transaction useless on both backends: return the error. Where a failure is an expected
/// answer (insert, and on `Exists` take another value), wrap the attempt in [`Tx::attempt`].
pub struct Tx {
    pub(crate) backend: Backend,
    bus: Bus,
    /// Our name in the nudges that go through the server.
    sender: Arc<str>,
    /// Channels to wake once durable.
    nudges: RefCell<Vec<String>>,
    after: RefCell<Vec<After>>,
    before: RefCell<Vec<Before>>,
    /// Why no further statement may run.
    failed: Cell<bool>,
    depth: Cell<u32>,
}

pub(crate) enum Backend {
    Sqlite(rusqlite::Connection),
    Postgres(postgres::Session),
}

impl Tx {
    pub(crate) fn new(backend: Backend, bus: Bus, sender: Arc<str>) -> Self {
        Tx {
            backend,
            bus,
            sender,
            nudges: RefCell::default(),
            after: RefCell::default(),
            before: RefCell::default(),
            failed: Cell::new(false),
            depth: Cell::new(0),
        }
    }

    /// Runs a statement; answers how many rows it changed.
    pub fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        self.usable()?;
        self.noting(match &self.backend {
            Backend::Sqlite(conn) => sqlite::execute(conn, sql, params),
            Backend::Postgres(session) => session.execute(sql, params),
        })
    }

    /// All rows of an answer, each through `map`. Also for `INSERT ... RETURNING`.
    pub fn query<T>(&self, sql: &str, params: &[Value], map: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        self.usable()?;
        self.noting(match &self.backend {
            Backend::Sqlite(conn) => sqlite::query(conn, sql, params, map),
            Backend::Postgres(session) => session.query(sql, params, map),
        })
    }

    /// The first row, when there is one. A statement that can answer several should say `LIMIT 1`.
    pub fn query_opt<T>(&self, sql: &str, params: &[Value], map: impl FnMut(&Row) -> Result<T>) -> Result<Option<T>> {
        let mut rows = self.query(sql, params, map)?;
        Ok(if rows.is_empty() { None } else { Some(rows.swap_remove(0)) })
    }

    /// As [`Tx::query_opt`] on one table, for a row that this transaction goes on to change: others who want to change it wait
    /// until this transaction ends. In a read it is a plain read.
    pub fn query_opt_locked<T>(&self, sql: &str, params: &[Value], map: impl FnMut(&Row) -> Result<T>) -> Result<Option<T>> {
        match &self.backend {
            // SQLite has one writer at a time.
            Backend::Postgres(session) if session.writes() => self.query_opt(&format!("{sql} FOR UPDATE"), params, map),
            _ => self.query_opt(sql, params, map),
        }
    }

    /// The one row of a statement that always has one; none is an internal error.
    pub fn query_one<T>(&self, sql: &str, params: &[Value], map: impl FnMut(&Row) -> Result<T>) -> Result<T> {
        self.query_opt(sql, params, map)?.ok_or_else(|| Error::internal(format!("no row from: {sql}")))
    }

    /// Runs `f` once what this transaction wrote is durable; drops it unrun when the transaction is rolled back.
    /// For nudges only: `f` runs on the thread that commits and must not block.
    pub fn after_commit(&self, f: impl FnOnce() + Send + 'static) {
        self.after.borrow_mut().push(Box::new(f));
    }

    /// Wakes everyone who waits on this channel ([`crate::Store::watch`]), on every controller, once what this transaction
    /// wrote is durable.
    pub fn nudge(&self, channel: &str) {
        let mut nudges = self.nudges.borrow_mut();
        if !nudges.iter().any(|c| c == channel) {
            nudges.push(channel.to_owned());
        }
    }

    /// Runs `f` as the last thing in this transaction, after the closure that was given to `write`. For what must hold its
    /// locks as briefly as possible.
    pub fn before_commit(&self, f: impl FnOnce(&Tx) -> Result<()> + Send + 'static) {
        self.before.borrow_mut().push(Box::new(f));
    }

    /// Runs `f` so that its failure takes back only its own statements, and the transaction can go on.
    ///
    /// ```no_run
    /// # use store::{Tx, params}; use base::{Kind, Result};
    /// fn mac_take(tx: &Tx, wanted: &[&str]) -> Result<Option<String>> {
    ///     for mac in wanted {
    ///         match tx.attempt(|tx| tx.execute("INSERT INTO mac (address) VALUES (?1)", params![mac])) {
    ///             Ok(_) => return Ok(Some(mac.to_string())),
    ///             Err(e) if e.is(Kind::Exists) => continue,
    ///             Err(e) => return Err(e),
    ///         }
    ///     }
    ///     Ok(None)
    /// }
    /// ```
    pub fn attempt<T>(&self, f: impl FnOnce(&Tx) -> Result<T>) -> Result<T> {
        self.usable()?;
        let depth = self.depth.get() + 1;
        self.batch(&format!("SAVEPOINT s{depth}"))?;
        self.depth.set(depth);
        let (after, before) = (self.after.borrow().len(), self.before.borrow().len());
        let result = f(self);
        self.depth.set(depth - 1);
        match result {
            Ok(value) if !self.failed.get() => {
                self.batch(&format!("RELEASE SAVEPOINT s{depth}"))?;
                Ok(value)
            }
            result => {
                self.after.borrow_mut().truncate(after);
                self.before.borrow_mut().truncate(before);
                self.failed.set(false);
                self.batch(&format!("ROLLBACK TO SAVEPOINT s{depth}"))?;
                self.batch(&format!("RELEASE SAVEPOINT s{depth}"))?;
                result.and_then(|_| Err(swallowed()))
            }
        }
    }

    /// Holds a named lock until the transaction ends, so that two controllers cannot both do what the name stands for.
    /// On SQLite nothing needs to be done: there is one writer.
    /// Not waited for longer than ten seconds: then the write fails as [`base::Kind::Unavailable`].
    pub fn lock(&self, key: &str) -> Result<()> {
        if self.is_sqlite() {
            return Ok(());
        }
        self.query("SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))", &[key.into()], |_| Ok(())).map(drop)
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.backend, Backend::Sqlite(_))
    }

    /// Several statements without parameters.
    pub(crate) fn batch(&self, sql: &str) -> Result<()> {
        self.noting(match &self.backend {
            Backend::Sqlite(conn) => conn.execute_batch(sql).map_err(|e| sqlite::error(e, sql)),
            Backend::Postgres(session) => session.batch(sql),
        })
    }

    fn usable(&self) -> Result<()> {
        if self.failed.get() {
            return Err(Error::internal("a statement after a failed one: wrap what may fail in Tx::attempt"));
        }
        Ok(())
    }

    fn noting<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed.set(true);
        }
        result
    }

    /// What is left to do when the closure has returned well, and whether it may be committed.
    pub(crate) fn complete(&self) -> Result<()> {
        loop {
            if self.failed.get() {
                return Err(swallowed());
            }
            let next = {
                let mut before = self.before.borrow_mut();
                if before.is_empty() { None } else { Some(before.remove(0)) }
            };
            match next {
                Some(f) => f(self)?,
                None => break,
            }
        }
        for channel in self.nudges.take() {
            if let Backend::Postgres(session) = &self.backend {
                postgres::nudge(session, &self.sender, &channel)?;
            }
            let bus = self.bus.clone();
            self.after_commit(move || bus.wake(&channel));
        }
        Ok(())
    }

    /// Forgets what the last closure left, and hands over its hooks.
    pub(crate) fn reset(&self) -> Vec<After> {
        self.failed.set(false);
        self.depth.set(0);
        self.before.borrow_mut().clear();
        self.nudges.borrow_mut().clear();
        std::mem::take(&mut *self.after.borrow_mut())
    }
}

/// Runs what was to be run after a commit. A panic of one is not the others' misfortune.
pub(crate) fn run_hooks(hooks: Vec<After>) {
    for hook in hooks {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(hook)) {
            tracing::error!(error = ?crate::panicked(&*panic), "a hook after a commit failed");
        }
    }
}

fn swallowed() -> Error {
    Error::internal("a statement failed and its error was ignored: wrap what may fail in Tx::attempt")
}
