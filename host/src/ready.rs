//! What comes before this host is in service: tests that the operator, or the machine's packages, have put there, and services of the
//! machine that are started (maintenance specification, section 4).
//!
//! The executables of a directory, and of its subdirectory `worker`, run side by side, each in a group of its own that ends when its
//! time is over. What one that fails has said goes to the operator.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rpc::message::{Part, Readiness};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How long a question waits for the end before it is answered that there is none yet.
const WAIT: Duration = Duration::from_secs(5);
/// The end of what an executable says that is kept.
const KEPT: usize = 1000;
/// Executables of one part at most.
const MOST: usize = 100;

/// What is under way, or was last, of each part.
#[derive(Default)]
pub(crate) struct Ready(Mutex<HashMap<Part, Run>>);

struct Run {
    id: String,
    outcome: watch::Receiver<Readiness>,
    task: JoinHandle<()>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ready {
    /// Begins a run, unless it is this one already, and tells how far it is.
    pub async fn ask(&self, directories: Vec<PathBuf>, part: Part, run: String, limit: Duration) -> Readiness {
        let mut outcome = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.get(&part).is_none_or(|known| known.id != run) {
                let (told, outcome) = watch::channel(Readiness::default());
                let task = tokio::spawn(async move {
                    let arguments: &'static [&'static str] = match part {
                        Part::Tests => &[],
                        Part::Services => &["start"],
                        Part::Stop => &["stop"],
                    };
                    told.send_replace(all_of(&directories, arguments, limit).await);
                });
                all.insert(part, Run { id: run, outcome, task });
            }
            match all.get(&part) {
                Some(run) => run.outcome.clone(),
                None => return Readiness::default(),
            }
        };
        let over = tokio::time::timeout(WAIT, outcome.wait_for(|outcome| outcome.over)).await;
        match over {
            Ok(Ok(outcome)) => outcome.clone(),
            // The run broke off; it is begun again when it is asked for under another name.
            Ok(Err(_)) => Readiness { over: true, unusable: Some("it broke off".into()), ..Readiness::default() },
            Err(_) => Readiness::default(),
        }
    }
}

/// Runs all there are.
async fn all_of(directories: &[PathBuf], arguments: &'static [&'static str], limit: Duration) -> Readiness {
    let mut files = Vec::new();
    for directory in directories {
        match executables(directory).and_then(|these| Ok((these, executables(&directory.join("worker"))?))) {
            Ok((these, workers)) => files.extend(these.into_iter().chain(workers)),
            Err(error) => return Readiness { over: true, unusable: Some(error), ..Readiness::default() },
        }
    }
    if files.len() > MOST {
        let unusable = format!("there are {} executables, and at most {MOST} are run", files.len());
        return Readiness { over: true, unusable: Some(unusable), ..Readiness::default() };
    }
    let (count, mut running) = (files.len(), JoinSet::new());
    for file in files {
        running.spawn(async move { one(&file, arguments, limit).await.map(|said| (name(&file), said)) });
    }
    let mut failures: Vec<(String, String)> = running.join_all().await.into_iter().flatten().collect();
    failures.sort();
    for (name, said) in &failures {
        tracing::error!(name, said, "failed{}", if arguments == ["stop"] { "" } else { ": this host is not ready for service" });
    }
    Readiness { over: true, failures, unusable: None, count }
}

fn name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The executables of a directory, by name. One that is not there has none.
fn executables(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let unusable = |error: std::io::Error| format!("{}: {error}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unusable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unusable)?.path();
        // Also behind a link; what editors and packagers leave about is none.
        let runs = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if runs && !name(&path).starts_with('.') && !name(&path).ends_with('~') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Ends all that an executable has begun, whichever way its run is left.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// What one has said, when it failed.
async fn one(file: &Path, arguments: &[&str], limit: Duration) -> Option<String> {
    let mut command = Command::new(file);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Some(format!("it cannot be run: {error}")),
    };
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut listening = JoinSet::new();
    if let Some(out) = child.stdout.take() {
        listening.spawn(listen(out, said.clone()));
    }
    if let Some(err) = child.stderr.take() {
        listening.spawn(listen(err, said.clone()));
    }
    let ended = tokio::time::timeout(limit, child.wait()).await;
    let why = match ended {
        Ok(Ok(status)) if status.success() => {
            // What a service's script has left running is what it is for.
            group.0 = None;
            return None;
        }
        Ok(Ok(status)) => verdict(status),
        Ok(Err(error)) => format!("it cannot be waited for: {error}"),
        Err(_) => format!("not over within {} s", limit.as_secs()),
    };
    drop(group);
    // Its pipes are closed with the last of its group.
    let _ = tokio::time::timeout(WAIT, async { while listening.join_next().await.is_some() {} }).await;
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&said).trim().to_string();
    Some(if text.is_empty() { why } else { format!("{why}: {text}") })
}

fn verdict(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "it failed".into(),
    }
}

/// Keeps the end of what is said.
async fn listen(mut from: impl AsyncReadExt + Unpin, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(n) = from.read(&mut piece).await {
        if n == 0 {
            return;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..n]);
        let surplus = said.len().saturating_sub(KEPT);
        said.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(directory: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(directory).unwrap();
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    const LONG: Duration = Duration::from_secs(60);

    async fn run(directory: &Path, part: Part, limit: Duration) -> Readiness {
        Ready::default().ask(vec![directory.to_path_buf()], part, "1".into(), limit).await
    }

    #[tokio::test]
    async fn all_are_run_side_by_side_and_those_that_fail_are_told_of_with_what_they_said() {
        let home = tempfile::tempdir().unwrap();
        let tests = home.path().join("tests");
        assert_eq!(run(&tests, Part::Tests, LONG).await, Readiness { over: true, ..Readiness::default() }, "nothing to test");
        // Each waits for the other: one after the other neither would end.
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        let meet = |own: &Path, other: &Path| format!("touch {}; until [ -e {} ]; do sleep 0.01; done", own.display(), other.display());
        script(&tests, "one", &meet(&a, &b));
        script(&tests.join("worker"), "two", &meet(&b, &a));
        script(&tests, "disk", "echo looking; echo 'sda: bad blocks' >&2; exit 3");
        std::fs::write(tests.join("README"), "not executable").unwrap();
        let seen = run(&tests, Part::Tests, LONG).await;
        assert!(seen.over && seen.unusable.is_none());
        assert_eq!(seen.failures.len(), 1, "{seen:?}");
        let (name, said) = &seen.failures[0];
        assert!(name == "disk" && said.starts_with("exit status 3: ") && said.contains("sda: bad blocks"), "{said}");
        // Services hear what they are to do.
        let services = home.path().join("services");
        script(&services, "s", &format!("echo $1 > {}", home.path().join("told").display()));
        assert_eq!(run(&services, Part::Services, LONG).await.failures, []);
        assert_eq!(std::fs::read_to_string(home.path().join("told")).unwrap(), "start\n");
        // A directory that is none is a fault of the configuration.
        assert!(run(&a, Part::Tests, LONG).await.unusable.is_some());
    }

    #[tokio::test]
    async fn one_that_hangs_ends_with_all_it_began_and_one_run_is_one_run() {
        let home = tempfile::tempdir().unwrap();
        let (tests, pid) = (home.path().join("tests"), home.path().join("pid"));
        script(&tests, "hang", &format!("sleep 600 & echo $! > {}; wait", pid.display()));
        let ready = Ready::default();
        let ask = async |run: &str| ready.ask(vec![tests.clone()], Part::Tests, run.into(), Duration::from_secs(1)).await;
        let seen = ask("1").await;
        assert!(seen.failures[0].1.starts_with("not over within 1 s"), "{seen:?}");
        let child: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let began = std::time::Instant::now();
        // Gone, or a zombie whose parent in this namespace takes its time.
        let runs = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
        while runs(child) {
            assert!(began.elapsed() < Duration::from_secs(20), "its child runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_file(&pid).unwrap();
        assert_eq!(ask("1").await, seen, "told again");
        assert!(!pid.exists(), "and not run again");
        assert!(ask("2").await.over && pid.exists());
    }
}
