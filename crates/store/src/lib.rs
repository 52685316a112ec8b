//! The SQL store: synchronous transactions over SQLite (embedded) or PostgreSQL, one SQL text for both.
//!
//! ```no_run
//! use store::{Dir, Migration, Select, Store, params};
//!
//! static MIGRATIONS: &[Migration] = &[Migration {
//!     name: "0001_keypairs",
//!     sql: "CREATE TABLE keypair (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, name TEXT NOT NULL, created_at BIGINT NOT NULL, doc TEXT NOT NULL);
//!           CREATE UNIQUE INDEX keypair_name ON keypair (user_id, name);",
//! }];
//!
//! # async fn example() -> base::Result<()> {
//! let store = Store::open("sqlite:/var/lib/sturnus/db/sturnus.db").await?;
//! store.migrate("compute", MIGRATIONS).await?;
//! store
//!     .write(|tx| {
//!         tx.execute("INSERT INTO keypair (id, user_id, name, created_at, doc) VALUES (?1, ?2, ?3, ?4, ?5)",
//!             params!["k1", "u1", "laptop", base::Timestamp::now(), serde_json::json!({"type": "ssh"})])?;
//!         tx.after_commit(|| tracing::debug!("durable now"));
//!         Ok(())
//!     })
//!     .await?;
//! let user = "u1"; // reads may borrow
//! let names: Vec<String> = store
//!     .read(|tx| {
//!         Select::new("SELECT name FROM keypair")
//!             .eq("user_id", user)
//!             .order(&[("created_at", Dir::Desc), ("id", Dir::Asc)])
//!             .limit(100)
//!             .fetch(tx, |row| row.text(0))
//!     })
//!     .await?;
//! # drop(names); Ok(())
//! # }
//! ```
//!
//! What both backends understand: `TEXT`, `BIGINT`, `DOUBLE PRECISION`, `BYTEA` columns; `ON CONFLICT`, `RETURNING`, `WITH`,
//! window functions; booleans as 0/1, times as microseconds, no defaults but `0` and `''`. `LIKE` minds case.
//! A bare `?1` needs a type PostgreSQL can infer: compare it with a column or write `CAST(?1 AS TEXT)`.
//!
//! A violated unique key is [`base::Kind::Exists`], a violated foreign key [`base::Kind::Conflict`]; both messages may be
//! shown to a user, the constraint is in the source chain.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod migrate;
mod nudge;
mod pgtypes;
mod postgres;
mod row;
mod select;
mod sqlite;
pub mod testing;
mod tx;
mod value;

pub use migrate::Migration;
pub use nudge::Watch;
pub use row::Row;
pub use select::{Dir, Or, Select, escape_like};
pub use tx::Tx;
pub use value::{Value, value_of};

use base::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const EXISTS: &str = "A resource with the same name or key exists already.";
const IN_USE: &str = "The resource is used by others, or refers to one that does not exist.";

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    driver: Driver,
    bus: nudge::Bus,
    counters: Arc<Counters>,
}

/// What the store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub reads: u64,
    /// Closures that were carried out, successfully or not.
    pub writes: u64,
    /// Transactions; on SQLite one for many writes when they come fast.
    pub commits: u64,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    commits: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

enum Driver {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Store {
    /// Opens `sqlite:/path/file.db` (created with its directory if missing) or `postgresql://user@host/database`.
    pub async fn open(url: &str) -> Result<Store> {
        let bus = nudge::Bus::default();
        let counters = Arc::new(Counters::default());
        let driver = if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.starts_with(':') {
                return Err(Error::invalid(format!("database: {url} names no file")));
            }
            Driver::Sqlite(sqlite::Sqlite::open(Path::new(path), bus.clone(), counters.clone())?)
        } else if url.starts_with("postgresql://") || url.starts_with("postgres://") {
            Driver::Postgres(postgres::Postgres::open(url, bus.clone(), counters.clone()).await?)
        } else {
            return Err(Error::invalid(format!("database: {url} is neither sqlite:/path nor postgresql://...")));
        };
        Ok(Store(Arc::new(Shared { driver, bus, counters })))
    }

    /// Runs `f` on one snapshot of the data. On SQLite it runs in place: keep it short.
    pub async fn read<T: Send>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send) -> Result<T> {
        count(&self.0.counters.reads);
        match &self.0.driver {
            Driver::Sqlite(sqlite) => sqlite.read(f),
            Driver::Postgres(postgres) => postgres.read(f).await,
        }
    }

    /// Runs `f` in a transaction and answers when its work is on disk. An error (or a panic) of `f` takes all of it back.
    /// When the caller stops waiting, `f` may or may not be carried out.
    pub async fn write<T: Send + 'static>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send + 'static) -> Result<T> {
        match &self.0.driver {
            Driver::Sqlite(sqlite) => sqlite.write(f).await,
            Driver::Postgres(postgres) => postgres.write(f).await,
        }
    }

    /// Brings a service's tables up to date. Migrations are only ever appended: a stored one that is missing from, or in
    /// another place of, `migrations` is an error.
    pub async fn migrate(&self, service: &'static str, migrations: &'static [Migration]) -> Result<()> {
        self.write(move |tx| migrate::run(tx, service, migrations)).await
    }

    /// Waits for the nudges that transactions send with [`Tx::nudge`]. A nudge can be lost when the database connection is:
    /// who must not miss a change also looks from time to time.
    pub fn watch(&self, channel: &str) -> Watch {
        self.0.bus.watch(channel)
    }

    /// Nudges this process only, outside of any transaction.
    pub fn nudge_here(&self, channel: &str) {
        self.0.bus.wake(channel);
    }

    pub fn stats(&self) -> Stats {
        let c = &self.0.counters;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Stats { reads: get(&c.reads), writes: get(&c.writes), commits: get(&c.commits) }
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(&self.0.driver, Driver::Sqlite(_))
    }

    /// Finishes the writes that were accepted and refuses further ones.
    pub async fn close(&self) {
        match &self.0.driver {
            Driver::Sqlite(sqlite) => sqlite.close().await,
            Driver::Postgres(postgres) => postgres.close().await,
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::internal(format!("panic in a transaction: {}", text.unwrap_or("no message")))
}
