//! Reboots this machine: when the controller asks for it, and when a process without which the machine cannot be counted on does not
//! come back. A machine that does not get through its own shutdown is reset by a timer that does not depend on anything of ours.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base::Config;
use tokio::process::{Child, Command};

use crate::guarded::Guarded;

/// The answer is to be on its way before the machine goes.
const PAUSE: Duration = Duration::from_millis(500);
/// The kernel reboots at once; what is written is written before, as far as that goes.
const RESET: &str = "echo 1 >/proc/sys/kernel/sysrq; (echo s >/proc/sysrq-trigger) & sleep 2; echo b >/proc/sysrq-trigger";
/// Waits, then does it. The shutdown's signals do not end it, nor does the end of our unit, whose processes it leaves; a name that begins
/// with `@` is spared when systemd kills what is left. Its sleep may be killed, so the time is that of the machine.
const TIMER: &str = r#"trap '' TERM HUP INT
echo $$ 2>/dev/null >/sys/fs/cgroup/cgroup.procs
up() { cut -d. -f1 /proc/uptime; }
end=$(($(up) + $1))
while [ "$(up)" -lt "$end" ]; do sleep 1; done
eval "$2""#;

/// Begins it for a machine that cannot be counted on, `why`. An error says for what reason it is left as it is.
pub fn unless_left(config: &Config, guarded: Option<&Guarded>, why: &str) -> Result<(), String> {
    if config.text("monitor.watchdog") != "reboot" {
        return Err("the machine is left as it is (`monitor.watchdog`)".into());
    }
    if guarded.is_some_and(Guarded::locked) {
        return Err("the host is locked, and left as it is".into());
    }
    begin(config, guarded.is_some(), why).map_err(|refused| format!("the machine is not rebooted: {refused}"))
}

/// Begins it; an error says why this machine is not rebooted by us. `joined`: this host is a machine of its own, not its controller's.
pub fn begin(config: &Config, joined: bool, why: &str) -> Result<(), String> {
    let (by_systemd, command) = match config.text("host.reboot_command") {
        "auto" if joined && Path::new("/run/systemd/system").exists() => (true, "systemctl reboot"),
        "" | "auto" => return Err("it does not know how it is rebooted (`host.reboot_command`)".into()),
        command => (false, command),
    };
    let reset = match config.text("host.reset_command") {
        "auto" if by_systemd => RESET,
        "auto" => "",
        reset => reset,
    };
    tracing::warn!(command, "this machine reboots: {why}");
    let timer = (!reset.is_empty()).then(|| arm(reset, config.int("host.reset_seconds"))).transpose();
    let mut timer = timer.unwrap_or_else(|error| {
        tracing::error!("a shutdown that hangs will not be cut short: {error}");
        None
    });
    // Not a child that goes with us: who ends this process may be what it begins.
    let mut child = Command::new("sh");
    child.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(false);
    tokio::spawn(async move {
        tokio::time::sleep(PAUSE).await;
        match child.status().await {
            Ok(status) if status.success() => return,
            Ok(status) => tracing::error!("the command to reboot failed: {status}"),
            Err(e) => tracing::error!("the command to reboot cannot be run: {e}"),
        }
        // Nothing was begun that could hang.
        if let Some(timer) = &mut timer
            && let Err(e) = timer.kill().await
        {
            tracing::error!("the timer that resets this machine cannot be ended: {e}");
        }
    });
    Ok(())
}

fn arm(reset: &str, seconds: u64) -> std::io::Result<Child> {
    let mut timer = Command::new("sh");
    timer.arg0("@sturnus-reset").args(["-c", TIMER, "@sturnus-reset", &seconds.to_string(), reset]);
    timer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(false).spawn()
}

#[cfg(test)]
mod tests {
    use heartbeat::Key;
    use rpc::heartbeat::HeartbeatDocument;
    use uuid::Uuid;

    use super::*;

    /// Maintenance specification, section 7: "while locked: nothing"; and an operator may want to be told only.
    #[tokio::test]
    async fn a_machine_that_cannot_be_counted_on_reboots_unless_it_is_to_be_left() {
        let home = tempfile::tempdir().unwrap();
        let mark = home.path().join("rebooted");
        let command = format!("echo >> {}", mark.display());
        let config = |watchdog: &str, command: &str| {
            let mut config = Config::for_home(home.path());
            for (key, value) in [("monitor.watchdog", watchdog), ("host.reboot_command", command), ("host.reset_command", "")] {
                config.set(key, value);
            }
            config
        };
        std::fs::create_dir(home.path().join("host")).unwrap();
        let guarded = Guarded::open(home.path(), "/bin/true".into()).unwrap();
        let locked_set = |locked| {
            let document = HeartbeatDocument {
                site: 1,
                controller: Uuid::from_u128(1),
                key: Key::new([1; 32]),
                site_key: Key::new([2; 32]),
                port: 2106,
                peers: Vec::new(),
                locked,
            };
            guarded.take(&document).unwrap();
        };
        let left = |config: &Config, guarded| unless_left(config, guarded, "a test").unwrap_err();
        assert!(left(&config("log", &command), Some(&guarded)).contains("`monitor.watchdog`"));
        locked_set(true);
        assert!(left(&config("reboot", &command), Some(&guarded)).contains("locked"));
        locked_set(false);
        // One that does not know how; one that is its controller's is left where only systemd would.
        assert!(left(&config("reboot", ""), Some(&guarded)).contains("not rebooted: it does not know how"));
        assert!(left(&config("reboot", "auto"), None).contains("does not know how"));
        let lines = || std::fs::read_to_string(&mark).map_or(0, |text| text.lines().count());
        for (times, guarded) in [(1, Some(&guarded)), (2, None)] {
            unless_left(&config("reboot", &command), guarded, "a test").unwrap();
            let began = std::time::Instant::now();
            while lines() < times {
                assert!(began.elapsed() < Duration::from_secs(20), "never rebooted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // What was left before it did not come in between.
            assert_eq!(lines(), times);
        }
    }

    /// Maintenance specification, section 5: every ordered reboot arms a timer.
    #[tokio::test]
    async fn a_machine_that_hangs_in_its_shutdown_is_reset() {
        let home = tempfile::tempdir().unwrap();
        let mark = |name: &str| home.path().join(name);
        let config = |reboot: &str, reset: &str| {
            let mut config = Config::for_home(home.path());
            for (key, value) in [("host.reboot_command", reboot), ("host.reset_command", reset), ("host.reset_seconds", "1")] {
                config.set(key, value);
            }
            config
        };
        let exists = async |name: &str| {
            let began = std::time::Instant::now();
            while !mark(name).exists() {
                assert!(began.elapsed() < Duration::from_secs(20), "never: {name}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(begin(&config("", "touch x"), true, "a test").is_err());
        // A command that fails has begun nothing.
        let touch = |name: &str| format!("touch {}", mark(name).display());
        begin(&config("false", &touch("too-much")), true, "a test").unwrap();
        begin(&config(&touch("shutdown"), &touch("reset")), true, "a test").unwrap();
        exists("shutdown").await;
        exists("reset").await;
        assert!(!mark("too-much").exists());
    }
}
