//! A cloud of the bench's own: its process, its guests' processes, and how to log in to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http::Client;

pub struct Cloud {
    pub program: PathBuf,
    pub home: PathBuf,
    /// Settings of its own, as environment.
    settings: Vec<(&'static str, &'static str)>,
    process: Option<Child>,
    pub address: SocketAddr,
    password: String,
    /// Path of each service type on the listening address.
    paths: BTreeMap<String, String>,
    pub token: String,
}

impl Cloud {
    pub fn new(program: &Path, home: &Path, settings: &[(&'static str, &'static str)]) -> Result<Cloud> {
        fs::create_dir_all(home)?;
        Ok(Cloud {
            program: program.to_path_buf(),
            home: home.to_path_buf(),
            settings: settings.to_vec(),
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 5000)),
            password: String::new(),
            paths: BTreeMap::new(),
            token: String::new(),
        })
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("STURNUS_HOME", &self.home).envs(self.settings.iter().copied()).stdin(Stdio::null());
        command
    }

    /// Starts the process and returns how long it took until a login and one authorised call to each service had succeeded.
    pub fn start(&mut self) -> Result<Duration> {
        let log = File::options().create(true).append(true).open(self.home.join("sturnus.log"))?;
        let began = Instant::now();
        self.process = Some(self.command(&["up"]).stdout(log.try_clone()?).stderr(log).spawn()?);
        loop {
            match self.try_everything() {
                Ok(()) => return Ok(began.elapsed()),
                Err(e) => {
                    if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                        bail!("sturnus ended at its start: {status}; see {}", self.home.join("sturnus.log").display());
                    }
                    if began.elapsed() > Duration::from_secs(30) {
                        return Err(e.context("not everything answers 30 s after the start"));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn try_everything(&mut self) -> Result<()> {
        self.login()?;
        for (kind, path) in &self.paths {
            let probe = match kind.as_str() {
                "identity" => "/users",
                "image" => "/v2/images",
                "placement" => "/resource_providers",
                "compute" => "/servers",
                "network" => "/v2.0/networks",
                "faultmanagement" => "/v1/alarms",
                _ => continue,
            };
            let probe = format!("{path}{probe}").replace("/v1/v1", "/v1");
            Client::new(self.address, &self.token).get(&probe)?.expect(200).with_context(|| probe.clone())?;
        }
        Ok(())
    }

    pub fn login_body(&self) -> Value {
        json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": self.password}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}})
    }

    fn login(&mut self) -> Result<()> {
        if self.password.is_empty() {
            let openrc = fs::read_to_string(self.home.join("openrc"))?;
            let value = |name: &str| {
                let line = openrc.lines().find_map(|l| l.trim().strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
                line.map(|v| v.trim_matches(['\'', '"']).to_string()).with_context(|| format!("openrc has no {name}"))
            };
            let url = value("OS_AUTH_URL")?;
            let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
            self.address = authority.parse().with_context(|| format!("the bench wants plain HTTP on an address: {url}"))?;
            self.password = value("OS_PASSWORD")?;
        }
        let answer = Client::new(self.address, "").post("/identity/v3/auth/tokens", &self.login_body())?;
        let body = answer.expect(201)?;
        self.token = answer.token.context("no token in the answer to a login")?;
        for service in body["token"]["catalog"].as_array().into_iter().flatten() {
            let url =
                service["endpoints"].as_array().into_iter().flatten().find(|e| e["interface"] == "public").and_then(|e| e["url"].as_str());
            if let (Some(kind), Some(url)) = (service["type"].as_str(), url) {
                let path = url.splitn(4, '/').nth(3).unwrap_or_default().trim_end_matches('/');
                let path = if kind == "identity" && !path.ends_with("v3") { format!("{path}/v3") } else { path.to_string() };
                self.paths.insert(kind.to_string(), format!("/{path}"));
            }
        }
        Ok(())
    }

    /// `compute` + `/servers` → the path to call.
    pub fn path(&self, kind: &str, rest: &str) -> Result<String> {
        let base = self.paths.get(kind).with_context(|| format!("no {kind} in the catalogue"))?;
        Ok(format!("{base}{rest}"))
    }

    pub fn client(&self) -> Client {
        Client::new(self.address, &self.token)
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the cloud does not run")?.id())
    }

    /// Ends the process by this signal's name and waits for it.
    pub fn end(&mut self, signal: &str) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            send(signal, process.id())?;
            process.wait()?;
        }
        Ok(())
    }

    /// User and system time the process has used so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.get(11..13).context("/proc stat")?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Proportional set size in MiB: its program counts in part only while another process of the same file runs.
    pub fn pss(&self) -> Result<f64> {
        self.memory("Pss:")
    }

    /// What is its own beside its program, in MiB: for what grows, whatever comes and goes on the machine meanwhile.
    pub fn anonymous(&self) -> Result<f64> {
        self.memory("Anonymous:")
    }

    fn memory(&self, kind: &str) -> Result<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()?))?;
        let line = rollup.lines().find_map(|l| l.strip_prefix(kind)).with_context(|| format!("no {kind}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Makes flavors, image and networks as `make up` does.
    pub fn seed(&self, image: &Path) -> Result<()> {
        let done = self.command(&["seed", "--image", &image.to_string_lossy()]).output()?;
        if !done.status.success() {
            bail!("sturnus seed: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // errors have nobody to hear them here
        let _ = self.command(&["down", "--guests"]).output();
        let _ = self.end("KILL");
    }
}

pub fn send(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("kill -{signal} {pid}: {status}") }
}

/// Process id of the QEMU whose command line names this server.
pub fn guest_pid(server: &str) -> Option<u32> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let program = words.split(|b| *b == 0).next().unwrap_or_default();
        let is_qemu = String::from_utf8_lossy(program).rsplit('/').next().is_some_and(|name| name.starts_with("qemu-system"));
        if is_qemu && String::from_utf8_lossy(&words).contains(server) {
            return Some(pid);
        }
    }
    None
}
