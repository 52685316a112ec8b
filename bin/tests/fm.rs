//! The command `fm` as its user calls it, against a cloud that serves.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Output;

use base::Config;
use fault::{Alarm, Severity};
use sturnus::cloud::Cloud;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

struct World {
    cloud: Cloud,
    home: tempfile::TempDir,
    fm: PathBuf,
    _stop: watch::Sender<bool>,
}

async fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::for_home(home.path());
    config.set("listen", &listener.local_addr().unwrap().to_string());
    config.set("password.memory_kib", "64");
    config.set("password.passes", "1");
    let cloud = Cloud::open(config).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(Cloud::serve(cloud.app.clone(), listener, None, stopped));
    let fm = home.path().join("fm");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sturnus"), &fm).unwrap();
    World { cloud, home, fm, _stop: stop }
}

impl World {
    async fn set(&self, id: &str, entity: &str, severity: Severity, text: &str) -> String {
        let alarm = Alarm::known(id, entity.into(), severity, text.into(), "mend it");
        let faults = self.cloud.faults.clone();
        self.cloud.core.store.write(move |tx| faults.alarm_set_in(tx, &alarm)).await.unwrap()
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fm);
        command.args(args).env_clear().env("STURNUS_HOME", self.home.path()).stdin(std::process::Stdio::null());
        command
    }
    async fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }
    /// What it prints, when it succeeds.
    async fn says(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "fm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The cells of a table, without its frame.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_does_what_it_says() {
    let w = world().await;
    assert_eq!(w.says(&["alarm-list"]).await, "", "no table of nothing");
    let hot = w.set("100.101", "host=a", Severity::Major, "hot").await;
    w.set("200.006", "host=a.process=p", Severity::Minor, "died").await;

    let table = w.says(&["alarm-list"]).await;
    let rows = cells(&table);
    assert_eq!(rows[0], ["Alarm ID", "Reason Text", "Entity ID", "Severity", "Time Stamp"]);
    assert_eq!((rows[1][0], rows[1][1], rows[2][0], rows[2][2]), ("200.006", "died", "100.101", "host=a"), "newest first");
    let table = w.says(&["alarm-list", "--uuid", "--mgmt_affecting", "--degrade_affecting", "-q", "severity>=major", "--nowrap"]).await;
    let rows = cells(&table);
    let headings = ["UUID", "Alarm ID", "Reason Text", "Entity ID", "Severity", "Management Affecting", "Degrade Affecting", "Time Stamp"];
    assert_eq!((rows.len(), &rows[0][..]), (2, &headings[..]));
    assert_eq!((rows[1][0], rows[1][5], rows[1][6]), (hot.as_str(), "True", "False"));

    let shown = w.says(&["alarm-show", &hot]).await;
    let names: Vec<&str> = cells(&shown).into_iter().map(|row| row[0]).collect();
    let expected = "Property alarm_id alarm_state alarm_type degrade_affecting entity_instance_id entity_type_id mgmt_affecting probable_cause \
        proposed_repair_action reason_text service_affecting severity suppression suppression_status timestamp uuid";
    assert_eq!(names.join(" "), expected, "sorted, as the original prints them");
    assert!(shown.contains("| service_affecting      | False"), "{shown}");
    assert_eq!(cells(&w.says(&["alarm-summary"]).await)[1], ["0", "1", "1", "0"]);
    assert_eq!(cells(&w.says(&["alarm-summary"]).await)[0], ["Critical Alarms", "Major Alarms", "Minor Alarms", "Warnings"]);

    // Unknown ids change nothing.
    let unknown = w.run(&["event-suppress", "--alarm_id", "100.101,1.2"]).await;
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("1.2"));
    let said = w.says(&["event-suppress", "--alarm_id", "100.101,100.103", "--nopaging"]).await;
    assert!(said.starts_with("Alarm ID: 100.101 suppressed.\nAlarm ID: 100.103 suppressed.\n+"), "{said}");
    assert_eq!(cells(&said), [["Event ID", "Status"], ["100.101", "suppressed"], ["100.103", "suppressed"]]);
    assert_eq!(cells(&w.says(&["alarm-list"]).await).len(), 2);
    assert!(w.says(&["alarm-list", "--include_suppress"]).await.contains("S(100.101)"));
    assert!(w.says(&["event-list", "--include_suppress", "--nopaging"]).await.contains("S(100.101)"));
    assert_eq!(cells(&w.says(&["event-suppress-list", "--include-unsuppressed", "--uuid"]).await).len(), 136);
    assert!(w.says(&["event-unsuppress", "--alarm_id", "100.103"]).await.starts_with("Alarm ID: 100.103 unsuppressed.\n"));
    assert_eq!(w.says(&["event-unsuppress-all"]).await, "Alarm ID: 100.101 unsuppressed.\n");
    assert_eq!(w.says(&["event-suppress-list"]).await, "");

    assert_eq!(w.says(&["alarm-delete", &hot]).await, "");
    let gone = w.run(&["alarm-delete", &hot]).await;
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains(&format!("Alarm not found: {hot}")));
    let events = w.says(&["event-list", "--alarms", "--uuid", "-l", "2"]).await;
    let rows = cells(&events);
    assert_eq!(rows[0], ["UUID", "Time Stamp", "State", "Event Log ID", "Reason Text", "Entity Instance ID", "Severity"]);
    assert_eq!((rows.len(), rows[1][2], rows[1][3]), (3, "clear", "100.101"));
    assert!(w.says(&["event-show", rows[1][0]]).await.contains("event_log_type"));
    assert_eq!(w.says(&["event-list", "--logs"]).await, "");
    assert!(cells(&w.says(&["event-list", "-q", "start=20160131 10:23:45;end=20991225"]).await).len() == 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_are_suppressed_by_pattern_with_a_comment_and_an_end() {
    let w = world().await;
    for entity in ["host=c-1", "host=c-2.process=p", "host=d-1"] {
        w.set("200.006", entity, Severity::Minor, "died").await;
    }
    w.set("100.101", "host=c-1", Severity::Major, "hot").await;
    let entities = async |args: &[&str]| {
        let table = w.says(args).await;
        cells(&table).into_iter().map(|row| format!("{} {}", row[0], row[2])).collect::<Vec<_>>()
    };
    let said = w
        .says(&[
            "event-suppress",
            "--entity",
            "host=c-*",
            "--alarm_id",
            "200.006",
            "--comment",
            "being mended",
            "--expires",
            "2099-01-01 10:00:00",
        ])
        .await;
    assert!(said.starts_with("Entity: host=c-* Alarm ID: 200.006 suppressed.\n+"), "{said}");
    let rows = cells(&said);
    assert_eq!(rows[0], ["Entity", "Event ID", "Owner", "Comment", "Expires"]);
    assert_eq!(rows[1], ["host=c-*", "200.006", "admin", "being mended", "2099-01-01T10:00:00.000000"]);
    assert_eq!(entities(&["alarm-list"]).await, ["Alarm ID Entity ID", "100.101 host=c-1", "200.006 host=d-1"]);
    assert!(w.says(&["alarm-list", "--include_suppress"]).await.contains("S(200.006)"));
    // Without ids it is about all of them; an end can be told from now.
    let said = w.says(&["event-suppress", "--entity", "host=c-1", "--minutes", "5"]).await;
    assert!(said.starts_with("Entity: host=c-1 suppressed.\n"), "{said}");
    assert_eq!((cells(&said)[2][1], &cells(&said)[2][4][..2]), ("all", "20"));
    assert_eq!(entities(&["alarm-list"]).await, ["Alarm ID Entity ID", "200.006 host=d-1"]);
    for (wrong, says) in [
        (&["event-suppress"][..], "--alarm_id"),
        (&["event-suppress", "--alarm_id", "100.101", "--comment", "x"], "--entity"),
        (&["event-suppress", "--entity", "host=x", "--alarm_id", ","], "--alarm_id"),
        (&["event-suppress", "--entity", "host=x", "--expires", "2001-01-01"], "in the past"),
        (&["event-unsuppress", "--entity", "host=nobody"], "host=nobody"),
    ] {
        let output = w.run(wrong).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(says), "{wrong:?}: {error}");
    }
    let said = w.says(&["event-unsuppress", "--entity", "host=c-*", "--alarm_id", "200.006"]).await;
    assert!(said.starts_with("Entity: host=c-* Alarm ID: 200.006 unsuppressed.\n"), "{said}");
    assert_eq!(entities(&["alarm-list"]).await.len(), 3);
    assert_eq!(w.says(&["event-unsuppress-all"]).await, "Entity: host=c-1 unsuppressed.\n");
    assert_eq!(entities(&["alarm-list"]).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_where_can_be_said_on_the_line() {
    let w = world().await;
    w.set("100.101", "host=a", Severity::Major, "hot").await;
    let openrc = std::fs::read_to_string(w.home.path().join("openrc")).unwrap();
    let of = |name: &str| openrc.lines().find_map(|l| l.strip_prefix(&format!("export {name}="))).unwrap().trim_matches('"').to_string();
    let (url, user, password, project) = (of("OS_AUTH_URL"), of("OS_USERNAME"), of("OS_PASSWORD"), of("OS_PROJECT_NAME"));
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path().to_str().unwrap();
    let all = ["--home", there, "--os-auth-url", &url, "--os-username", &user, "--os_password", &password, "--os-project-name", &project];
    assert!(w.says(&[&all[..], &["--timeout", "60", "--no-cache", "alarm-list"]].concat()).await.contains("100.101"));
    // Half of it would log in somewhere else.
    assert!(!w.run(&["--home", there, "--os-username", &user, "alarm-list"]).await.status.success());
    assert!(!w.run(&[&all[..], &["--os-region-name", "Nowhere", "alarm-list"]].concat()).await.status.success());
    assert!(!w.run(&[&all[..], &["--stx-auth-type", "oidc", "alarm-list"]].concat()).await.status.success());
    // A token and an endpoint need nobody's password.
    let base = url.trim_end_matches("/v3").trim_end_matches("/identity");
    let fault = format!("{base}/fault/v1");
    let refused = w.run(&["--home", there, "--os-auth-token", "none", "--fm-url", &fault, "alarm-list"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_away_asks_where_that_is_wanted() {
    let w = world().await;
    let uuid = w.set("100.101", "host=a", Severity::Major, "hot").await;
    let ask = |args: &[&str]| {
        let mut command = w.command(args);
        command.env("CLI_CONFIRMATIONS", "enabled");
        command
    };
    let no = ask(&["alarm-delete", &uuid]).output().await.unwrap();
    assert_eq!(no.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no.stdout).ends_with("Operation cancelled by the user.\n"));
    assert!(w.says(&["alarm-list"]).await.contains("100.101"));
    // The answer is there before the question, which waits ten seconds only.
    let answer = w.home.path().join("answer");
    std::fs::write(&answer, "yes\n").unwrap();
    let mut yes = ask(&["event-suppress", "--alarm_id", "100.103"]);
    assert!(yes.stdin(std::fs::File::open(answer).unwrap()).output().await.unwrap().status.success());
    assert!(ask(&["alarm-delete", &uuid, "--yes"]).output().await.unwrap().status.success());
    assert_eq!(w.says(&["alarm-list"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_helps_under_its_own_name() {
    let fm = tempfile::tempdir().unwrap();
    let link = fm.path().join("fm");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sturnus"), &link).unwrap();
    for (args, says) in [
        (&["--help"][..], "Usage: fm "),
        (&["alarm-list", "--help"], "Usage: fm alarm-list"),
        (&["help", "event-suppress"], "--alarm_id"),
        (&["--version"], "fm "),
        (&["completion", "bash"], "_fm()"),
    ] {
        let output = Command::new(&link).args(args).env_clear().output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(says), "fm {args:?}: {text}");
    }
    let whole = Command::new(env!("CARGO_BIN_EXE_sturnus")).args(["fm", "--help"]).env_clear().output().await.unwrap();
    assert!(String::from_utf8_lossy(&whole.stdout).contains("alarm-summary"));
}
