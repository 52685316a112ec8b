//! Databases for tests. Every test of SQL should run on both backends:
//!
//! ```no_run
//! #[tokio::test]
//! async fn ports_are_listed() {
//!     store::testing::each_backend(|store| async move {
//!         // migrate, write, read, assert
//!     })
//!     .await;
//! }
//! ```
//!
//! The PostgreSQL server is Debian's, started once for each test process and gone with it; `STURNUS_TEST_POSTGRES` (an
//! address with the right to create databases) names one to use instead, which is quicker for many tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::{Migration, Store};

/// A SQLite store in a directory that is deleted with it.
pub struct Temporary {
    pub store: Store,
    pub directory: TempDir,
}

impl Deref for Temporary {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

pub async fn sqlite() -> Temporary {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&format!("sqlite:{}/test.db", directory.path().display())).await.expect("opening SQLite");
    Temporary { store, directory }
}

/// Runs the test on an empty SQLite database, then on an empty PostgreSQL database.
pub async fn each_backend<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    let temporary = sqlite().await;
    println!("--- on SQLite");
    test(temporary.store.clone()).await;
    temporary.close().await;
    let database = postgres(&[]).await;
    let store = Store::open(&database.url).await.expect("opening PostgreSQL");
    println!("--- on PostgreSQL");
    test(store.clone()).await;
    store.close().await;
    database.delete().await;
}

/// The address of a store without rows for a test that runs on one backend: SQLite in `directory`, or PostgreSQL where
/// `STURNUS_TEST_STORE` says so. `make test` runs such tests twice. On PostgreSQL the tables are there already.
pub async fn url(directory: &Path, tables: Tables<'_>) -> String {
    match std::env::var("STURNUS_TEST_STORE").as_deref() {
        Ok("postgresql") => postgres(tables).await.url,
        Ok("sqlite") | Err(_) => format!("sqlite:{}", directory.join("test.sqlite").display()),
        Ok(other) => panic!("STURNUS_TEST_STORE={other}: only sqlite and postgresql are known"),
    }
}

/// What services there are, with the migrations that make their tables.
pub type Tables<'a> = &'a [(&'static str, &'static [Migration])];

/// A PostgreSQL database without rows.
pub struct Database {
    /// For [`Store::open`].
    pub url: String,
    server: String,
    name: String,
}

pub async fn postgres(tables: Tables<'_>) -> Database {
    let server = server().await;
    let name = format!("test_{}", base::id::hex());
    let template = match tables {
        [] => "template0".to_string(),
        _ => template(&server, tables).await,
    };
    admin(&server, &creation(&name, &template)).await;
    Database { url: format!("{server}/{name}"), server, name }
}

fn creation(name: &str, template: &str) -> String {
    format!("CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
}

/// The name of a database with these tables, to copy: that is far quicker than to make them. The first test that wants it makes it.
async fn template(server: &str, tables: Tables<'_>) -> String {
    let mut hasher = DefaultHasher::new();
    for (service, migrations) in tables {
        service.hash(&mut hasher);
        migrations.iter().for_each(|m| (m.name, m.sql).hash(&mut hasher));
    }
    let number = hasher.finish();
    let name = format!("tables_{number:016x}");
    let (client, drive) = connect(server).await;
    // Held until this connection ends.
    client.execute("SELECT pg_advisory_lock($1)", &[&number.cast_signed()]).await.expect("locking a template");
    if client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await.expect("looking for a template").is_empty() {
        // Under another name until it is whole.
        let making = format!("making_{}", base::id::hex());
        client.batch_execute(&creation(&making, "template0")).await.expect("making a template");
        let store = Store::open(&format!("{server}/{making}")).await.expect("opening a template");
        for (service, migrations) in tables {
            store.migrate(service, migrations).await.expect("making the tables of a template");
        }
        store.close().await;
        drop(store);
        // Only what nobody uses can be named and copied, and who waits for nudges does not hear of the end.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        client.execute(end, &[&making]).await.expect("leaving a template");
        client.batch_execute(&format!("ALTER DATABASE {making} RENAME TO {name}")).await.expect("naming a template");
    }
    drop(client);
    let _ = drive.await;
    name
}

impl Database {
    pub async fn delete(self) {
        admin(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

async fn admin(server: &str, sql: &str) {
    let (client, drive) = connect(server).await;
    client.batch_execute(sql).await.expect(sql);
    drop(client);
    let _ = drive.await;
}

async fn connect(server: &str) -> (tokio_postgres::Client, tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>) {
    let (client, connection) = tokio_postgres::connect(&format!("{server}/postgres"), NoTls).await.expect("connecting to PostgreSQL");
    (client, tokio::spawn(connection))
}

/// The server of this process. Its standard input is held open here: the shell that watches it sees the end of it when
/// this process is gone, however it went, and then ends the server and deletes its files.
struct Server {
    url: String,
    _watcher: Child,
    _alive: ChildStdin,
}

async fn server() -> String {
    if let Ok(url) = std::env::var("STURNUS_TEST_POSTGRES") {
        return url.trim_end_matches('/').to_owned();
    }
    static SERVER: OnceLock<Server> = OnceLock::new();
    let url = SERVER.get_or_init(start).url.clone();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match tokio_postgres::connect(&format!("{url}/postgres"), NoTls).await {
            Ok(_) => return url,
            Err(error) if Instant::now() > end => panic!("PostgreSQL does not start: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

const SCRIPT: &str = r#"
dir=$1; bin=$2; shift 2
trap '' INT TERM HUP
clean() { rm -rf "$dir"; }
if [ $# -gt 0 ]; then chown postgres "$dir"; fi
cd "$dir"
"$@" "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale --no-sync --no-instructions >"$dir/log" 2>&1 </dev/null || { clean; exit 1; }
"$@" "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=on -c shared_buffers=16MB -c max_connections=200 \
    -c max_wal_size=64MB -c autovacuum=off -c jit=off -c unix_socket_permissions=0777 >>"$dir/log" 2>&1 </dev/null &
pid=$!
read -r _ || :
kill -QUIT "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
clean
"#;

fn start() -> Server {
    let Some(bin) = newest() else {
        panic!("PostgreSQL is not installed; `make test` installs it (Debian's package `postgresql`)");
    };
    // A short path: a socket's name has little room.
    let directory = tempfile::Builder::new().prefix("sturnus-pg-").tempdir_in("/tmp").expect("a temporary directory").keep();
    let mut command = Command::new("sh");
    command.arg("-c").arg(SCRIPT).arg("postgres-for-tests").arg(&directory).arg(&bin);
    if nix::unistd::geteuid().is_root() {
        // The server refuses to run as root.
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
    }
    use std::os::unix::process::CommandExt;
    let mut watcher =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("starting PostgreSQL");
    let alive = watcher.stdin.take().expect("the watcher's standard input");
    let host = directory.display().to_string().replace('/', "%2F");
    Server { url: format!("postgresql://postgres@{host}"), _watcher: watcher, _alive: alive }
}

/// The programs of the newest installed version.
fn newest() -> Option<PathBuf> {
    let versions = std::fs::read_dir(Path::new("/usr/lib/postgresql")).ok()?;
    let version = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
    let installed = versions.flatten().map(|e| e.path()).filter(|p| p.join("bin/initdb").is_file() && p.join("bin/postgres").is_file());
    installed.max_by_key(version).map(|p| p.join("bin"))
}
