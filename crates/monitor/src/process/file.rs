//! The files that say which processes are watched, in the form of StarlingX's process monitor (`/etc/pmon.d`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base::{Error, Result};
use rpc::monitor::Level;

/// More files than this are not read; longer ones neither.
const FILES: usize = 100;
const LONGEST: u64 = 64 << 10;

#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub name: String,
    /// A unit of systemd.
    pub service: Option<String>,
    pub script: Option<PathBuf>,
    pub pidfile: PathBuf,
    pub severity: Level,
    /// Restarts in a row that fail until it is said; 0: it is not restarted.
    pub restarts: u32,
    /// Seconds, all of them.
    pub interval: u32,
    pub debounce: u32,
    pub startuptime: u32,
    pub mode: Mode,
    pub quorum: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Its death counts.
    Passive,
    /// It is asked besides, and must answer.
    Active {
        port: u16,
        period: u32,
        timeout: u32,
        threshold: u32,
    },
    /// A command tells how it is.
    Status {
        start: String,
        status: String,
        failure: Option<PathBuf>,
        period: u32,
        timeout: u32,
    },
    Ignore,
}

impl Process {
    pub fn parse(text: &str) -> Result<Process> {
        let mut keys = BTreeMap::new();
        let mut section = String::new();
        for line in text.lines() {
            // A comment may stand behind a value.
            let line = line.split(" ;").next().unwrap_or_default().split("\t;").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.trim().to_string();
            } else if let (true, Some((key, value))) = (section == "process", line.split_once('=')) {
                keys.insert(key.trim().to_string(), value.trim().to_string());
            }
        }
        Keys(keys).process()
    }
}

struct Keys(BTreeMap<String, String>);

impl Keys {
    fn given(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
    fn text(&self, key: &str) -> Result<&str> {
        self.given(key).ok_or_else(|| Error::invalid(format!("`{key}` is missing")))
    }
    fn number(&self, key: &str, or: Option<u32>, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
        let text = match (self.given(key), or) {
            (None, Some(or)) => return Ok(or),
            _ => self.text(key)?,
        };
        let number = text.parse().ok().filter(|n| range.contains(n));
        number.ok_or_else(|| Error::invalid(format!("`{key}` must be a number from {} to {}", range.start(), range.end())))
    }

    fn process(&self) -> Result<Process> {
        const DAY: u32 = 86400;
        let name = self.text("process")?.to_string();
        if name.len() > 64 || name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '.' | ',' | '=')) {
            return Err(Error::invalid("`process` is no name"));
        }
        let severity = match self.text("severity")? {
            "critical" => Level::Critical,
            "major" => Level::Major,
            "minor" => Level::Minor,
            _ => return Err(Error::invalid("`severity` must be critical, major or minor")),
        };
        let mode = self.mode()?;
        let pidfile = match mode {
            Mode::Status { .. } | Mode::Ignore => self.given("pidfile").unwrap_or_default(),
            _ => self.text("pidfile")?,
        };
        let (service, script) = (self.given("service").map(str::to_string), self.given("script").map(PathBuf::from));
        if service.is_none() && script.is_none() {
            return Err(Error::invalid("`service` or `script` is needed"));
        }
        if service.as_ref().is_some_and(|unit| unit.starts_with('-')) {
            return Err(Error::invalid("`service` is no unit"));
        }
        Ok(Process {
            name,
            service,
            script,
            pidfile: pidfile.into(),
            severity,
            restarts: self.number("restarts", None, 0..=1000)?,
            interval: self.number("interval", None, 0..=DAY)?,
            debounce: self.number("debounce", None, 0..=DAY)?,
            startuptime: self.number("startuptime", Some(1), 0..=DAY)?,
            mode,
            quorum: self.given("quorum") == Some("1"),
        })
    }

    fn mode(&self) -> Result<Mode> {
        let period = || self.number("period", None, 1..=120);
        match self.given("mode").unwrap_or("passive") {
            "passive" => Ok(Mode::Passive),
            "ignore" => Ok(Mode::Ignore),
            "active" => {
                let (port, period) = (self.number("port", None, 1..=65535)?, period()?);
                Ok(Mode::Active {
                    port: u16::try_from(port).unwrap_or_default(),
                    period,
                    timeout: self.number("timeout", None, 1..=period)?,
                    threshold: self.number("threshold", None, 1..=1000)?,
                })
            }
            "status" => Ok(Mode::Status {
                start: self.given("start_arg").unwrap_or("start").into(),
                status: self.given("status_arg").unwrap_or("status").into(),
                failure: self.given("status_failure_text").map(PathBuf::from),
                period: period()?,
                timeout: self.number("timeout", None, 1..=120)?,
            }),
            other => Err(Error::invalid(format!("`mode` {other} is not known"))),
        }
    }
}

/// All that a directory names, by name. A file that cannot be read or is wrong is told of, and watches nothing.
pub fn read(directory: &Path) -> BTreeMap<String, Process> {
    // No such directory: nothing is watched.
    let Ok(entries) = std::fs::read_dir(directory) else { return BTreeMap::new() };
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    paths.sort();
    let mut all = BTreeMap::new();
    for path in paths.iter().take(FILES) {
        let small = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= LONGEST);
        let read = || Process::parse(&std::fs::read_to_string(path).map_err(|e| Error::invalid(e.to_string()))?);
        match if small { read() } else { Err(Error::invalid("it is no file, or too long")) } {
            Ok(process) => drop(all.insert(process.name.clone(), process)),
            Err(error) => tracing::warn!("{}: {}", path.display(), error.message()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSHD: &str = "[process]\nprocess  = sshd\nservice  = sshd\nscript   = /etc/init.d/sshd\nstyle    = lsb ; ocf or lsb\npidfile  = /var/run/sshd.pid\n\
                        severity = minor\t; minor, major, critical\nrestarts = 10\ninterval = 5\ndebounce = 20\n; the end\n";

    #[test]
    fn the_files_of_packages_are_understood() {
        let sshd = Process::parse(SSHD).unwrap();
        assert_eq!((sshd.name.as_str(), sshd.severity, sshd.restarts, sshd.interval), ("sshd", Level::Minor, 10, 5));
        assert_eq!((sshd.debounce, sshd.startuptime, &sshd.mode), (20, 1, &Mode::Passive));
        let active = format!("{SSHD}mode = active\nport = 2201\nperiod = 5\ntimeout = 4\nthreshold = 5\nquorum = 1\n");
        let active = Process::parse(&active).unwrap();
        assert_eq!((active.mode, active.quorum), (Mode::Active { port: 2201, period: 5, timeout: 4, threshold: 5 }, true));
        let status = Process::parse(&format!("{SSHD}mode = status\nperiod = 30\ntimeout = 10\nstatus_failure_text = /x\n")).unwrap();
        assert!(matches!(status.mode, Mode::Status { ref status, period: 30, .. } if status == "status"));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_key() {
        for (text, key) in [
            ("", "process"),
            (&SSHD.replace("[process]", "[other]"), "process"),
            (&SSHD.replace("= sshd\nservice", "= a b\nservice"), "process"),
            (&SSHD.replace("minor\t", "fatal\t"), "severity"),
            (&SSHD.replace("restarts = 10", "restarts = ten"), "restarts"),
            (&SSHD.replace("pidfile", "pid"), "pidfile"),
            (&SSHD.replace("service", "s").replace("script", "t"), "service"),
            (&format!("{SSHD}mode = active\nport = 70000\n"), "port"),
            (&format!("{SSHD}mode = active\nport = 1\nperiod = 5\ntimeout = 6\nthreshold = 1\n"), "timeout"),
            (&format!("{SSHD}mode = dance\n"), "mode"),
        ] {
            let error = Process::parse(text).unwrap_err();
            assert!(error.message().contains(&format!("`{key}`")), "{key}: {}", error.message());
        }
    }
}
