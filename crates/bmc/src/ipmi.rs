//! IPMI 2.0 over LAN, through `ipmitool`: the password goes by its environment, which nobody else can read.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Error, Result};
use tokio::process::Command;

use crate::{Access, Action, Address, Power, Quantity, Sensor, Status, Thresholds};

/// Suites of the session's cryptography: SHA-256 where it is known, else SHA-1, which every BMC has.
const SUITES: [&str; 2] = ["17", "3"];
/// Seconds to wait for each of its answers, and tries.
const WAIT: (&str, &str) = ("1", "3");
/// Reading all sensors of a large machine takes long.
const LONGEST: Duration = Duration::from_secs(60);
/// More than any list of sensors has.
const ANSWER: usize = 1 << 20;

pub(crate) struct Ipmi {
    address: Address,
    username: String,
    password: String,
    /// Which suite it took last.
    suite: AtomicUsize,
}

impl Ipmi {
    pub fn new(access: &Access) -> Ipmi {
        Ipmi { address: access.address, username: access.username.clone(), password: access.password.clone(), suite: AtomicUsize::new(0) }
    }

    pub async fn power(&self) -> Result<Power> {
        let said = self.ask(&["-v", "chassis", "power", "status"]).await?;
        match said.lines().find_map(|line| line.strip_prefix("Chassis Power is ")).map(str::trim) {
            Some("on") => Ok(Power::On),
            Some("off") => Ok(Power::Off),
            _ => Err(Error::unavailable(format!("the BMC at {} does not tell the power: {}", self.address, said.trim()))),
        }
    }

    pub async fn act(&self, action: Action) -> Result<()> {
        let word = match action {
            Action::On => "on",
            Action::Off => "off",
            Action::Reset => "reset",
        };
        self.ask(&["-v", "chassis", "power", word]).await.map(drop)
    }

    pub async fn sensors(&self) -> Result<Vec<Sensor>> {
        Ok(self.ask(&["sensor", "list"]).await?.lines().filter_map(line).collect())
    }

    async fn ask(&self, what: &[&str]) -> Result<String> {
        let known = self.suite.load(Ordering::Relaxed);
        match self.call(SUITES[known], what).await {
            Err(Failure::Suite) => {
                let other = (known + 1) % SUITES.len();
                let answer = self.call(SUITES[other], what).await.map_err(|failure| self.error(failure))?;
                self.suite.store(other, Ordering::Relaxed);
                Ok(answer)
            }
            outcome => outcome.map_err(|failure| self.error(failure)),
        }
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Suite => Error::unavailable(format!("the BMC at {} knows none of the ciphers that are good", self.address)),
            Failure::Refused => Error::forbidden(format!("the BMC at {} refuses the user name or the password", self.address)),
            Failure::Other(why) => Error::unavailable(format!("the BMC at {}: {why}", self.address)),
        }
    }

    async fn call(&self, suite: &str, what: &[&str]) -> std::result::Result<String, Failure> {
        let port = self.address.port.unwrap_or(623).to_string();
        let mut command = Command::new("ipmitool");
        command
            .args(["-I", "lanplus", "-E", "-L", "ADMINISTRATOR", "-C", suite, "-N", WAIT.0, "-R", WAIT.1])
            .args(["-H", &self.address.ip.to_string(), "-p", &port, "-U", &self.username])
            .args(what)
            .env("IPMI_PASSWORD", &self.password)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match tokio::time::timeout(LONGEST, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => return Err(Failure::Other("ipmitool is not installed here".into())),
            Ok(Err(e)) => return Err(Failure::Other(format!("ipmitool: {e}"))),
            Err(_) => return Err(Failure::Other("it is too slow".into())),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(ANSWER)]).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(failure(&text(&output.stderr)))
    }
}

#[derive(Debug, PartialEq)]
enum Failure {
    Suite,
    Refused,
    Other(String),
}

/// What ipmitool complains of; why a session was refused it tells with `-v` only, which changes how it prints sensors. The session's first message tells a cipher that is not known, its second a user, its third a password.
fn failure(complaint: &str) -> Failure {
    let has = |text: &str| complaint.contains(text);
    if has("invalid authentication algorithm") || has("invalid integrity algorithm") || has("no matching cipher suite") {
        return Failure::Suite;
    }
    if has("unauthorized name") || has("HMAC is invalid") || has("RAKP 2 message indicates") || has("RAKP 2 HMAC") || has("privilege level")
    {
        return Failure::Refused;
    }
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not answer");
    Failure::Other(last.trim().chars().take(200).collect())
}

/// `name | value | unit | status | lower: non-recoverable | critical | non-critical | upper: non-critical | critical | non-recoverable`
fn line(text: &str) -> Option<Sensor> {
    let fields: Vec<&str> = text.split('|').map(str::trim).collect();
    let [name, value, unit, status, _, lower_critical, lower_minor, upper_minor, upper_critical, _] = fields[..] else { return None };
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite());
    Some(Sensor {
        name: name.to_string(),
        quantity: Quantity::of_unit(unit)?,
        reading: number(value),
        unit: unit.to_string(),
        status: match status {
            "ok" => Status::Ok,
            "nc" => Status::Minor,
            "cr" | "nr" => Status::Critical,
            _ => Status::Offline,
        },
        thresholds: Thresholds {
            lower_critical: number(lower_critical),
            lower_minor: number(lower_minor),
            upper_minor: number(upper_minor),
            upper_critical: number(upper_critical),
            ..Thresholds::default()
        },
    })
    .filter(|sensor| !sensor.name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensors_are_read_and_states_are_not() {
        let fan = line(
            "FAN 1            | 2100.000   | RPM        | ok    | na        | 300.000   | 500.000   | na        | na        | na        ",
        )
        .unwrap();
        assert_eq!((fan.name.as_str(), fan.quantity, fan.reading, fan.status), ("FAN 1", Quantity::Fan, Some(2100.0), Status::Ok));
        assert_eq!((fan.thresholds.lower_critical, fan.thresholds.upper_critical), (Some(300.0), None));
        let silent = line("P1 Temp | na | degrees C | na | na | na | na | na | na | na").unwrap();
        assert_eq!((silent.reading, silent.status), (None, Status::Offline));
        let hot = line("P1 Temp | 99.0 | degrees C | nr | na | na | na | 80.0 | 90.0 | 95.0").unwrap();
        assert_eq!(hot.status, Status::Critical);
        for other in [
            "Chassis Intru | 0x0 | discrete | 0x0000| na | na | na | na | na | na",
            "",
            "a | b",
            "| 1 | RPM | ok | na | na | na | na | na | na",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }
}
