//! Reboots this machine, when the controller asks for it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base::Config;
use tokio::process::Command;

/// The answer is to be on its way before the machine goes.
const PAUSE: Duration = Duration::from_millis(500);

/// Begins it; an error says why this machine is not rebooted by us. `joined`: this host is a machine of its own, not its controller's.
pub fn begin(config: &Config, joined: bool) -> Result<(), String> {
    let command = match config.text("host.reboot_command") {
        "auto" if joined && Path::new("/run/systemd/system").exists() => "systemctl reboot",
        "" | "auto" => return Err("it does not know how it is rebooted (`host.reboot_command`)".into()),
        command => command,
    };
    tracing::warn!(command, "this machine reboots: its controller asks for it");
    // Not a child that goes with us: who ends this process may be what it begins.
    let mut child = Command::new("sh");
    child.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(false);
    tokio::spawn(async move {
        tokio::time::sleep(PAUSE).await;
        match child.status().await {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::error!("the command to reboot failed: {status}"),
            Err(e) => tracing::error!("the command to reboot cannot be run: {e}"),
        }
    });
    Ok(())
}
