//! The PostgreSQL backend: pooled connections, driven from synchronous closures.
//!
//! The sockets live on a small runtime of their own. So a closure that blocks its thread while it waits for an answer never
//! blocks the thread that has to receive it, whatever runtime the caller has.

use base::error::Internal;
use base::{Error, Kind, Result};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

use crate::nudge::Bus;
use crate::tx::{Backend, Tx};
use crate::{Counters, Row, Value, count, row};

/// Connections a controller has at most, one more for listening apart.
const CONNECTIONS: usize = 24;
/// How long a caller waits for a connection.
const WAIT: Duration = Duration::from_secs(15);
/// A lock that is not granted in this time is an error, so that no request hangs behind a stuck one.
const SESSION: &str = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'; SET client_min_messages = warning";
/// The one channel of the server that carries all our nudges.
const CHANNEL: &str = "sturnus";

pub(crate) struct Postgres {
    pool: Pool,
    /// Held by who writes. Others wait here without a connection, so that reading goes on.
    writer: tokio::sync::Mutex<()>,
    bus: Bus,
    /// Tells our own nudges, which woke everybody here already, from those of other controllers.
    sender: Arc<str>,
    counters: Arc<Counters>,
    io: Io,
}

/// The thread with the sockets; it ends with this value.
struct Io {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Io {
    fn start() -> Result<Io> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().internal("starting the database's runtime")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            let _ = runtime.block_on(stopped);
        };
        std::thread::Builder::new().name("store-postgres".into()).spawn(run).internal("starting the database's thread")?;
        Ok(Io { handle, _stop: stop })
    }
}

/// Opens connections on the sockets' thread.
struct Connector(Handle);

type Connected = std::result::Result<(Client, tokio::task::JoinHandle<()>), tokio_postgres::Error>;

impl deadpool_postgres::Connect for Connector {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let (config, handle) = (config.clone(), self.0.clone());
        Box::pin(async move {
            let task = self.0.spawn(async move {
                let (client, connection) = config.connect(NoTls).await?;
                let drive = handle.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::warn!(%error, "a database connection ended");
                    }
                });
                client.batch_execute(SESSION).await?;
                Ok((client, drive))
            });
            match task.await {
                Ok(connected) => connected,
                // The store is being dropped: the pool's own time limit ends this.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl Postgres {
    pub(crate) async fn open(url: &str, bus: Bus, counters: Arc<Counters>) -> Result<Self> {
        let mut config: Config = url.parse().map_err(|e| Error::invalid("database: not a valid postgresql:// address").caused_by(e))?;
        if config.get_application_name().is_none() {
            config.application_name("sturnus");
        }
        config.connect_timeout(Duration::from_secs(10)).keepalives_idle(Duration::from_secs(30));
        let io = Io::start()?;
        let manager =
            Manager::from_connect(config.clone(), Connector(io.handle.clone()), ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(WAIT))
            .runtime(Runtime::Tokio1)
            .build()
            .internal("making the connection pool")?;
        let sender: Arc<str> = base::id::hex().into();
        let postgres = Postgres { pool, writer: tokio::sync::Mutex::default(), bus: bus.clone(), sender: sender.clone(), counters, io };
        postgres.check().await?;
        postgres.io.handle.spawn(listen(config, bus, sender));
        Ok(postgres)
    }

    /// Refuses a server that could break a promise, warns of one that sorts otherwise than we do.
    async fn check(&self) -> Result<()> {
        let client = self.connection().await?;
        let sql = "SELECT current_setting('server_encoding'), datcollate, current_setting('fsync'), current_setting('synchronous_commit'), \
                   current_setting('server_version_num')::int4 FROM pg_database WHERE datname = current_database()";
        let row = client.query_one(sql, &[]).await.map_err(|e| error(e, sql))?;
        let (encoding, collation, fsync, commit, version): (String, String, String, String, i32) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        if encoding != "UTF8" {
            return Err(Error::invalid(format!("database: its encoding is {encoding}, it must be UTF8")));
        }
        if version < 130_000 {
            return Err(Error::invalid("database: PostgreSQL 13 or newer is needed"));
        }
        if fsync == "off" || commit == "off" {
            tracing::warn!(fsync, synchronous_commit = commit, "the database server may lose acknowledged writes in a power failure");
        }
        if !matches!(collation.as_str(), "C" | "POSIX" | "C.UTF-8" | "C.utf8") {
            tracing::warn!(
                collation,
                "the database does not sort texts by code point; create it with LC_COLLATE 'C' for the usual order of lists"
            );
        }
        Ok(())
    }

    async fn connection(&self) -> Result<Object> {
        self.pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => Error::unavailable("The database cannot be reached.").caused_by(e),
            other => Error::unavailable("The database is busy or closed.").caused_by(other),
        })
    }

    pub(crate) async fn read<T: Send>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send) -> Result<T> {
        let session = Session::new(self.connection().await?, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let tx = Tx::new(Backend::Postgres(session), self.bus.clone(), self.sender.clone());
        in_place(move || {
            let result = f(&tx);
            if let Backend::Postgres(session) = &tx.backend {
                session.end();
            }
            result
        })
    }

    pub(crate) async fn write<T: Send>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send) -> Result<T> {
        let _turn = self.writer.lock().await;
        let session = Session::new(self.connection().await?, WRITE);
        count(&self.counters.writes);
        let tx = Tx::new(Backend::Postgres(session), self.bus.clone(), self.sender.clone());
        in_place(move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let value = f(&tx)?;
                tx.complete()?;
                Ok(value)
            }))
            .unwrap_or_else(|panic| Err(crate::panicked(&*panic)));
            let hooks = tx.reset();
            let Backend::Postgres(session) = &tx.backend else { return result };
            match result {
                Ok(value) => {
                    count(&self.counters.commits);
                    session.commit()?;
                    crate::tx::run_hooks(hooks);
                    Ok(value)
                }
                Err(error) => {
                    session.end();
                    Err(error)
                }
            }
        })
    }

    pub(crate) async fn close(&self) {
        self.pool.close();
    }
}

/// Runs what blocks, telling the runtime so where it has other threads.
fn in_place<T>(f: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|h| h.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(f),
        _ => f(),
    }
}

/// One writer at a time, as with SQLite, whatever the process: see decision 0009. The number is ours among the server's users of
/// such locks; the lock ends with the transaction.
const WRITE: &str = "BEGIN; SELECT pg_advisory_xact_lock(5774215)";

/// A connection with at most one transaction.
pub(crate) struct Session {
    client: Object,
    /// The statement that begins the transaction, until it has been sent.
    begin: Cell<Option<&'static str>>,
    open: Cell<bool>,
    writes: bool,
}

impl Session {
    fn new(client: Object, begin: &'static str) -> Self {
        Session { client, begin: Cell::new(Some(begin)), open: Cell::new(false), writes: begin == WRITE }
    }

    /// Whether the transaction may change anything.
    pub(crate) fn writes(&self) -> bool {
        self.writes
    }

    /// Sends BEGIN ahead of the first statement, without waiting for its answer.
    fn run<T>(&self, sql: &str, statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>) -> Result<T> {
        let result = match self.begin.take() {
            None => block_on(statement),
            Some(begin) => {
                self.open.set(true);
                block_on(async {
                    let mut begin = pin!(self.client.batch_execute(begin));
                    // The first poll puts it on the wire; the statement follows in order.
                    let begun = poll_once(begin.as_mut());
                    let result = statement.await;
                    match begun {
                        Some(done) => done?,
                        None => begin.await?,
                    }
                    result
                })
            }
        };
        result.map_err(|e| error(e, sql))
    }

    fn prepared<T>(
        &self,
        sql: &str,
        params: &[Value],
        run: impl AsyncFnOnce(&Client, &Statement, &[&(dyn ToSql + Sync)]) -> std::result::Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let text = numbered(sql);
        let wrong = Cell::new(None);
        let result = self.run(sql, async {
            let statement = self.client.prepare_cached(&text).await?;
            if statement.params().len() != params.len() {
                wrong.set(Some(statement.params().len()));
                return Ok(None);
            }
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
            run(&self.client, &statement, &params).await.map(Some)
        })?;
        result.ok_or_else(|| {
            Error::internal(format!("{} parameters for a statement of {}: {sql}", params.len(), wrong.get().unwrap_or_default()))
        })
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        self.prepared(sql, params, async |client, statement, params| client.execute(statement, params).await)
    }

    pub(crate) fn query<T>(&self, sql: &str, params: &[Value], mut map: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        let rows = self.prepared(sql, params, async |client, statement, params| client.query(statement, params).await)?;
        rows.iter().map(|row| map(&Row(row::Inner::Postgres(row)))).collect()
    }

    pub(crate) fn batch(&self, sql: &str) -> Result<()> {
        self.run(sql, self.client.batch_execute(sql))
    }

    fn commit(&self) -> Result<()> {
        if !self.open.replace(false) {
            return Ok(());
        }
        block_on(self.client.batch_execute("COMMIT")).map_err(|e| {
            if e.is_closed() || e.as_db_error().is_none() {
                return Error::timeout("The connection to the database broke; whether the change was made is unknown.").caused_by(e);
            }
            error(e, "COMMIT")
        })
    }

    /// Gives the transaction up without waiting for the answer: the next one on this connection comes after it in any case.
    fn end(&self) {
        if self.open.replace(false) {
            let _ = poll_once(pin!(self.client.batch_execute("ROLLBACK")));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Polls once; what it started goes on without us.
fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that another thread completes. Unlike a runtime's own, it may be called from inside one.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        std::thread::park();
    }
}

/// `?1` becomes `$1`, but not inside quotes.
fn numbered(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut quote = None;
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '?' && chars.peek().is_some_and(char::is_ascii_digit) => {
                out.push('$');
                continue;
            }
            None => {}
        }
        out.push(c);
    }
    out
}

/// The notification that carries a nudge: who sent it and which channel.
pub(crate) fn nudge(session: &Session, sender: &str, channel: &str) -> Result<()> {
    session.query("SELECT pg_notify(?1, ?2)", &[CHANNEL.into(), format!("{sender}/{channel}").into()], |_| Ok(())).map(drop)
}

/// Passes the nudges of other controllers on, for as long as the runtime lives.
async fn listen(config: Config, bus: Bus, sender: Arc<str>) {
    let mut pause = Duration::from_millis(100);
    loop {
        match listen_once(&config, &bus, &sender).await {
            Ok(()) => pause = Duration::from_millis(100),
            Err(error) => tracing::warn!(%error, "listening to the database"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

async fn listen_once(config: &Config, bus: &Bus, sender: &str) -> std::result::Result<(), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let heard = std::future::poll_fn(|cx| {
        loop {
            match connection.poll_message(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(AsyncMessage::Notification(n)))) => match n.payload().split_once('/') {
                    Some((from, channel)) if from != sender => bus.wake(channel),
                    _ => {}
                },
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
    });
    let subscribe = async {
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        // Whatever was said before is lost: everybody looks.
        bus.wake_all();
        std::future::pending::<std::result::Result<(), tokio_postgres::Error>>().await
    };
    tokio::select! {
        end = heard => end,
        end = subscribe => end,
    }
}

/// Sorts an error of PostgreSQL into ours.
pub(crate) fn error(error: tokio_postgres::Error, sql: &str) -> Error {
    let busy = "The database cannot do this at the moment.";
    let (kind, message) = match error.code() {
        Some(code) if *code == SqlState::UNIQUE_VIOLATION => (Kind::Exists, crate::EXISTS.to_owned()),
        Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION => (Kind::Conflict, crate::IN_USE.to_owned()),
        // Serialization failure and deadlock; insufficient resources; operator intervention; lock not available.
        Some(code) if ["40", "53", "57"].contains(&&code.code()[..2]) || *code == SqlState::LOCK_NOT_AVAILABLE => {
            (Kind::Unavailable, busy.to_owned())
        }
        None if error.is_closed() => (Kind::Unavailable, busy.to_owned()),
        _ => (Kind::Internal, format!("statement failed: {sql}")),
    };
    Error::new(kind, message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn parameters_are_renumbered_outside_of_quotes() {
        assert_eq!(
            numbered("SELECT '?1''?2', \"a?3\" FROM t WHERE a = ?1 AND b IN (?2, ?12) AND c LIKE '%?' ESCAPE '\\'"),
            "SELECT '?1''?2', \"a?3\" FROM t WHERE a = $1 AND b IN ($2, $12) AND c LIKE '%?' ESCAPE '\\'"
        );
    }
}
