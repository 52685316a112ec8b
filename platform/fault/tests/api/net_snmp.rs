//! The agent and its traps as others' programs see them: net-snmp's own tools.

use std::path::Path;
use std::process::Stdio;

use fault::{Alarm, Severity};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UdpSocket;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

use super::{World, world_with};

/// `wrsAlarmActiveTable`, and in it the column of ids.
const ACTIVE: &str = ".1.3.6.1.4.1.731.1.1.1.1.1";
const ALARM_ID: &str = ".1.3.6.1.4.1.731.1.1.1.1.1.1.3";
const TRAPS: &str = ".1.3.6.1.4.1.731.1.1.1.1.0";

/// A user as the file has it, and as the tools are told.
const USERS: [(&str, &[&str]); 4] = [
    (
        "alice sha password1 aes password2",
        &["-l", "authPriv", "-u", "alice", "-a", "SHA", "-A", "password1", "-x", "AES", "-X", "password2"],
    ),
    (
        "carol md5 password4 des password5",
        &["-l", "authPriv", "-u", "carol", "-a", "MD5", "-A", "password4", "-x", "DES", "-X", "password5"],
    ),
    ("bob md5 password3", &["-l", "authNoPriv", "-u", "bob", "-a", "MD5", "-A", "password3"]),
    ("dave none", &["-l", "noAuthNoPriv", "-u", "dave"]),
];

fn users(home: &Path) -> String {
    let path = home.join("users");
    std::fs::write(&path, USERS.map(|(line, _)| line).join("\n")).unwrap();
    path.to_str().unwrap().to_string()
}

/// One of the tools, which leaves nothing behind and reads nobody's settings.
fn tool(name: &str, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    let path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
    command.env_clear().env("PATH", path).env("MIBS", "").env("SNMPCONFPATH", home).env("SNMP_PERSISTENT_DIR", home.join("net-snmp"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(name: &str, home: &Path, args: &[&str]) -> (bool, String) {
    let output = tool(name, home, args).output().await.unwrap_or_else(|e| panic!("{name} (tools/install test): {e}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn hot(entity: &str, severity: Severity) -> Alarm {
    Alarm::known("100.101", entity.into(), severity, "hot".into(), "cool it")
}

#[tokio::test(flavor = "multi_thread")]
async fn they_walk_the_table_as_every_kind_of_user_and_write_nothing() {
    let home = tempfile::tempdir().unwrap();
    let file = users(home.path());
    let w = world_with(&[("fault.snmp_listen", "127.0.0.1:0"), ("fault.snmp_community", "secret"), ("fault.snmp_users", &file)]).await;
    for n in 0..250 {
        w.set(hot(&format!("host=h{n}"), Severity::Major)).await;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let agent = socket.local_addr().unwrap().to_string();
    let faults = w.faults.clone();
    tokio::spawn(async move { faults.snmp_serve(socket).await });
    let community: &[&str] = &["-v2c", "-c", "secret"];
    let walks = USERS.iter().map(|(_, args)| [&["-v3"], *args].concat()).chain([community.to_vec()]);
    for (n, who) in walks.enumerate() {
        let args = [&who[..], &["-On", "-Oq", "-t", "5", &agent]].concat();
        // By one question after the other, and by many at once.
        for walk in ["snmpwalk", "snmpbulkwalk"] {
            let (done, text) = run(walk, home.path(), &[&args[..], &[ALARM_ID]].concat()).await;
            let ids = text.lines().filter(|line| line.ends_with(r#""100.101""#)).count();
            assert_eq!((done, ids), (true, 250), "{walk} {n}: {text:.2000}");
        }
        let (done, text) = run("snmpset", home.path(), &[&args[..], &[&format!("{ALARM_ID}.1"), "s", "x"]].concat()).await;
        assert!(!done && text.contains("notWritable"), "{n}: {text}");
    }
    let (_, text) = run("snmpwalk", home.path(), &["-v2c", "-c", "secret", "-On", &agent, ACTIVE]).await;
    assert_eq!(text.lines().filter(|line| line.starts_with(ACTIVE)).count(), 250 * 11, "every column of every alarm");

    // Strangers, wrong passwords, and known users who show less than they could.
    for who in [
        &["-v2c", "-c", "public"][..],
        &["-v3", "-l", "authPriv", "-u", "alice", "-a", "SHA", "-A", "password9", "-x", "AES", "-X", "password2"],
        &["-v3", "-l", "authPriv", "-u", "alice", "-a", "SHA", "-A", "password1", "-x", "AES", "-X", "password9"],
        &["-v3", "-l", "authPriv", "-u", "carol", "-a", "MD5", "-A", "password4", "-x", "DES", "-X", "password9"],
        &["-v3", "-l", "authNoPriv", "-u", "alice", "-a", "SHA", "-A", "password1"],
        &["-v3", "-l", "noAuthNoPriv", "-u", "bob"],
        &["-v3", "-l", "noAuthNoPriv", "-u", "nobody"],
        &["-v3", "-l", "authNoPriv", "-u", "dave", "-a", "SHA", "-A", "password1"],
    ] {
        let (done, text) = run("snmpget", home.path(), &[who, &["-On", "-t", "1", "-r", "0", &agent, ".1.3.6.1.2.1.1.3.0"]].concat()).await;
        assert!(!done, "{who:?}: {text}");
    }
}

/// A receiver of traps, and what it prints, a line each.
struct Receiver {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Receiver {
    /// `say`: what its configuration says of who may send.
    async fn start(home: &Path, address: &str, say: &str) -> Receiver {
        let settings = home.join("snmptrapd.conf.test");
        std::fs::write(&settings, say).unwrap();
        let args = ["-f", "-Lo", "-n", "-On", "-C", "-c", settings.to_str().unwrap(), "-F", "%v\n", address];
        let mut child = tool("snmptrapd", home, &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It says when it listens.
        while !soon(lines.next_line()).await.unwrap().unwrap().contains("NET-SNMP") {}
        Receiver { _child: child, lines }
    }

    /// The next line that tells of one of our traps.
    async fn trap(&mut self) -> String {
        loop {
            let line = soon(self.lines.next_line()).await.unwrap().unwrap();
            if line.contains(TRAPS) {
                return line;
            }
        }
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(30), work).await.unwrap()
}

/// A port of this machine that nobody has.
async fn free() -> String {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

async fn traps_are_received(user: Option<(&str, &str)>) {
    let home = tempfile::tempdir().unwrap();
    let (file, sink) = (users(home.path()), free().await);
    let name = user.map_or("", |(line, _)| line.split(' ').next().unwrap());
    let w: World = world_with(&[
        ("fault.snmp_community", "secret"),
        ("fault.snmp_users", &file),
        ("fault.snmp_traps", &sink),
        ("fault.snmp_trap_user", name),
        ("fault.system_name", "edge"),
    ])
    .await;
    let say = match user {
        None => "authCommunity log secret\n".to_string(),
        Some((_, say)) => {
            let kept = std::fs::read_to_string(w.core.config.home().join("keys/snmp.engine")).unwrap();
            format!("createUser -e 0x800002db05{} {say}\nauthUser log {name} {}\n", &kept[..32], level(say))
        }
    };
    let mut receiver = Receiver::start(home.path(), &sink, &say).await;
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(w.faults.snmp(stopped).unwrap());
    w.core.tasks.start().await.unwrap();
    w.set(hot("host=a", Severity::Critical)).await;
    let set = receiver.trap().await;
    assert!(set.contains(&format!("{TRAPS}.1")) && set.contains("region=RegionOne.system=edge.host=a") && set.contains("cool it"), "{set}");
    w.clear("100.101", "host=a".to_string()).await;
    assert!(receiver.trap().await.contains(&format!("{TRAPS}.9")));
    w.core.tasks.stop().await;
}

/// The least that a receiver is to accept of a user.
fn level(say: &str) -> &'static str {
    match say.split(' ').count() {
        1 => "noauth",
        3 => "auth",
        _ => "priv",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn their_receiver_understands_traps_of_every_kind() {
    traps_are_received(None).await;
    for user in [
        ("alice sha", "alice SHA password1 AES password2"),
        ("carol md5", "carol MD5 password4 DES password5"),
        ("bob md5", "bob MD5 password3"),
        ("dave none", "dave"),
    ] {
        traps_are_received(Some(user)).await;
    }
}
