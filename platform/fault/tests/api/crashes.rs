//! Ends in the middle of what clients were promised.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fault::{Access, Faults, MIGRATIONS, RULES};
use service::Core;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::clients::{Client, packet, record};
use super::{until, world};

const ROUNDS: usize = 30;

fn entity(n: usize) -> String {
    format!("host=h{n:03}")
}

/// Killed as soon as a client has its answer, over and over: what was answered has its row, its event and its trap.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_has_its_trap_after_any_number_of_crashes() {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut core, _home) = service::testing::core("fault", RULES).await;
    let mut config = (*core.config).clone();
    config.set("fault.snmp_traps", &sink.local_addr().unwrap().to_string());
    config.set("fault.snmp_community", "secret");
    core.config = config.into();
    core.store.migrate("fault", MIGRATIONS).await.unwrap();
    let trapped = Arc::new(Mutex::new(Vec::new()));
    let heard = trapped.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok(length) = sink.recv(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            heard.lock().unwrap().extend((0..ROUNDS).filter(|n| text.contains(&entity(*n))));
        }
    });
    let start = async |name: &'static str| {
        let tasks = task::Engine::new(core.store.clone(), name);
        let core = Core { tasks, metrics: http_api::metrics::Metrics::default(), ..core.clone() };
        let faults = Faults::new(core.clone()).await.unwrap();
        core.tasks.start().await.unwrap();
        (core, faults)
    };
    for n in 0..ROUNDS {
        let (one, faults) = start("one of many").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(async move { faults.clients_serve(listener, Access::Local, stopped).await });
        assert_eq!(client.ask(0, &record("100.101", &entity(n), 3)).await.0, 0);
        one.tasks.kill().await;
        drop(stop);
        serving.await.unwrap();
    }
    // Where there may be several controllers, the lease of the last one that was killed would end by itself two minutes later.
    core.store.write(|tx| tx.execute("DELETE FROM reconciler_lease", &[])).await.unwrap();
    let (last, _faults) = start("the last").await;
    until(async || trapped.lock().unwrap().iter().collect::<BTreeSet<_>>().len() == ROUNDS).await;
    let count = |table: &'static str| format!("SELECT COUNT(*) FROM {table}");
    for table in ["alarm", "event_log"] {
        let rows = last.store.read(move |tx| tx.query_one(&count(table), &[], |row| row.int(0))).await.unwrap();
        assert_eq!(rows, ROUNDS as i64, "{table}");
    }
    // In order, but for those that were sent again.
    let mut first = trapped.lock().unwrap().clone();
    let mut seen = BTreeSet::new();
    first.retain(|n| seen.insert(*n));
    assert_eq!(first, (0..ROUNDS).collect::<Vec<_>>());
    last.tasks.stop().await;
}

/// Nobody takes them for a while; the kernel and the sender keep them meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_anybody_served_comes_in_its_order() {
    const SETS: usize = 500;
    let w = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sending = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for n in 0..SETS {
            stream.write_all(&packet(0, &record("100.101", &entity(n), 3))).await.unwrap();
        }
        stream
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_stop, stopped) = watch::channel(false);
    let faults = w.faults.clone();
    tokio::spawn(async move { faults.clients_serve(listener, Access::Local, stopped).await });
    let mut client = Client(sending.await.unwrap());
    for n in 0..SETS {
        assert_eq!(client.read(0).await.0, 0, "{n}");
    }
    let sql = "SELECT entity_instance_id FROM event_log ORDER BY id";
    let order = w.core.store.read(|tx| tx.query(sql, &[], |row| row.text(0))).await.unwrap();
    assert_eq!(order, (0..SETS).map(entity).collect::<Vec<_>>());
}
