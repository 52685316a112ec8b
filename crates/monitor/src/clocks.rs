//! The machine's time: what the service that keeps it says of its servers (100.114), and of the master it follows (100.119). A machine
//! on which none of those runs that are known here says nothing; its controller sees a clock that is wrong.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use rpc::monitor::{Condition, Level};
use tokio::process::Command;

use crate::{Board, Settings};

const NTP: &str = "100.114";
const PTP: &str = "100.119";
/// Seconds between samples, and how many in a row show it until it is told: a service that has just begun knows nothing yet.
const SAMPLE: u32 = 60;
const TIMES: u32 = 5;
const DEADLINE: Duration = Duration::from_secs(10);
/// Nanoseconds from the master from which it is told: minor, major. As StarlingX has them.
const OFFSET: (u64, u64) = (1_000, 1_000_000);
/// Clocks of a class below this are masters, and follow none (IEEE 1588, table 5).
const MASTERS: u32 = 128;

/// Where services are looked for, and how they are asked.
#[derive(Clone, Debug)]
pub struct Clocks {
    pub processes: PathBuf,
    pub chronyc: PathBuf,
    pub ntpq: PathBuf,
    pub pmc: PathBuf,
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks { processes: "/proc".into(), chronyc: "chronyc".into(), ntpq: "ntpq".into(), pmc: "pmc".into() }
    }
}

/// A server of time.
#[derive(Debug, PartialEq)]
struct Server {
    address: String,
    usable: bool,
    /// The clock goes by it.
    used: bool,
}

/// What is not well, by alarm and entity.
type Seen = BTreeMap<(&'static str, String), (Level, String)>;

pub(crate) async fn watch(settings: Settings, board: Arc<Board>) {
    let mut streaks = BTreeMap::new();
    loop {
        tell(sample(&settings.clocks, kernel_is_unsynchronised()).await, &mut streaks, &board);
        tokio::time::sleep(settings.second * SAMPLE).await;
    }
}

/// Says what has been so often enough, and takes back what is no longer.
fn tell(seen: Seen, streaks: &mut BTreeMap<(&'static str, String), u32>, board: &Board) {
    for (alarm, entity) in streaks.keys().filter(|key| !seen.contains_key(key)) {
        board.clear(alarm, entity);
    }
    streaks.retain(|key, _| seen.contains_key(key));
    for ((alarm, entity), (level, reason)) in seen {
        let times = streaks.entry((alarm, entity.clone())).or_default();
        *times = times.saturating_add(1);
        if *times >= TIMES {
            board.set(Condition { alarm_id: alarm.into(), entity, level, reason, degrades: false, fails: false });
        }
    }
}

async fn sample(clocks: &Clocks, unsynchronised: bool) -> Seen {
    let mut seen = Seen::new();
    let running = running(&clocks.processes);
    let runs = |name: &str| running.iter().any(|(known, _)| known == name);
    let (ntp, none) = ((NTP, "ntp".to_string()), (Level::Major, "no server of time is usable".to_string()));
    let servers = match () {
        () if runs("chronyd") => ask(&clocks.chronyc, &["-n", "-c", "sources"]).await.map(|text| chrony(&text)),
        () if runs("ntpd") => ask(&clocks.ntpq, &["-p", "-n"]).await.map(|text| ntp_peers(&text)),
        () if runs("systemd-timesyn") && unsynchronised => {
            seen.insert(ntp.clone(), none.clone());
            None
        }
        () => None,
    };
    if let Some(servers) = servers {
        for server in servers.iter().filter(|server| !server.usable) {
            seen.insert(
                (NTP, format!("ntp={}", server.address)),
                (Level::Minor, format!("the server of time {} is not usable", server.address)),
            );
        }
        if !servers.iter().any(|server| server.used) {
            seen.insert(ntp, none);
        }
    }
    for (_, pid) in running.iter().filter(|(name, _)| name == "ptp4l") {
        let instance = Instance::of(&clocks.processes.join(pid));
        let mut line = vec!["-u", "-b", "0"];
        line.extend(instance.socket.as_deref().into_iter().flat_map(|socket| ["-s", socket]));
        line.extend(["GET DEFAULT_DATA_SET", "GET PORT_DATA_SET", "GET TIME_STATUS_NP"]);
        if let Some(text) = ask(&clocks.pmc, &line).await {
            ptp(&instance.name, &text, &mut seen);
        }
    }
    seen
}

/// Names and directories of the machine's processes.
fn running(processes: &Path) -> Vec<(String, String)> {
    let directories = std::fs::read_dir(processes).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().into_string().ok().filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))?;
        Some((std::fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_string(), pid))
    };
    directories.filter_map(name).collect()
}

/// What a program says; none where it is not there, fails, or says nothing in its time: of the clock that tells nothing.
async fn ask(program: &Path, line: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(line).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(DEADLINE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            tracing::debug!(program = %program.display(), "{}", output.status);
            None
        }
        Ok(Err(error)) => {
            tracing::debug!(program = %program.display(), "{error}");
            None
        }
        Err(_) => {
            tracing::warn!(program = %program.display(), "it does not answer");
            None
        }
    }
}

/// Of `chronyc -n -c sources`: mode, state and address of each, with commas.
fn chrony(text: &str) -> Vec<Server> {
    let server = |line: &str| {
        let [_, state, address] = line.splitn(4, ',').take(3).collect::<Vec<_>>()[..] else { return None };
        let (usable, used) = (matches!(state, "*" | "+" | "-"), matches!(state, "*" | "+"));
        Some(Server { address: address.into(), usable, used })
    };
    text.lines().filter_map(server).collect()
}

/// Of `ntpq -p -n`: a mark, and the address; then what it goes by itself.
fn ntp_peers(text: &str) -> Vec<Server> {
    let server = |line: &str| {
        let mark = line.chars().next()?;
        let mut words = line.get(mark.len_utf8()..)?.split_whitespace();
        let (address, reference) = (words.next()?, words.next()?);
        // A pool is none itself: its servers follow.
        let used = matches!(mark, '*' | '+' | 'o' | '#');
        (reference != ".POOL.").then(|| Server { address: address.into(), usable: used || mark == '-', used })
    };
    // Two lines of heading.
    text.lines().skip(2).filter_map(server).collect()
}

/// A running `ptp4l`.
struct Instance {
    name: String,
    /// Where it is asked; none: where it is by default.
    socket: Option<String>,
}

impl Instance {
    /// As its command line and its file say. StarlingX calls an instance's file `ptp4l-NAME.conf`.
    fn of(process: &Path) -> Instance {
        let line = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split('\0').skip_while(|word| *word != "-f").skip(1);
        let Some(file) = words.next().map(Path::new) else { return Instance { name: "ptp4l".into(), socket: None } };
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("ptp4l");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let socket = text.lines().find_map(|line| line.trim().strip_prefix("uds_address")?.split_whitespace().next().map(str::to_string));
        Instance { name: stem.strip_prefix("ptp4l-").unwrap_or(stem).into(), socket }
    }
}

/// Of `pmc`: names and values, a port's once for each port.
fn ptp(instance: &str, text: &str, seen: &mut Seen) {
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace)).collect();
    let values = |name: &str| -> Vec<&str> { pairs.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.trim()).collect() };
    let ports = values("portState");
    if ports.is_empty() || values("clockClass").iter().any(|class| class.parse::<u32>().is_ok_and(|class| class < MASTERS)) {
        return;
    }
    let mut say = |what: &str, level, reason: String| drop(seen.insert((PTP, format!("instance={instance}.ptp={what}")), (level, reason)));
    if !ports.contains(&"SLAVE") {
        return say("no-lock", Level::Major, format!("the clock of {instance} follows no master (ports: {})", ports.join(", ")));
    }
    let offset = values("master_offset").first().and_then(|offset| offset.parse::<i64>().ok()).map_or(0, i64::unsigned_abs);
    let level = match offset {
        n if n >= OFFSET.1 => Level::Major,
        n if n >= OFFSET.0 => Level::Minor,
        _ => return,
    };
    let least = if level == Level::Major { OFFSET.1 } else { OFFSET.0 };
    say("out-of-tolerance", level, format!("the clock of {instance} is {least} ns and more from its master"));
}

/// Whether nobody has told the kernel that its clock is right.
fn kernel_is_unsynchronised() -> bool {
    // SAFETY: a `timex` of zeros is a valid one, which asks for nothing to be changed; the call writes to it only.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex.status)
    };
    state == libc::TIME_ERROR || status & libc::STA_UNSYNC != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CHRONY: &str = "^,*,192.0.2.1,5,6,377,1,-0.000000056,-0.000000103,0.000003258\n\
                          ^,-,192.0.2.2,2,6,377,1,0.0,0.0,0.0\n\
                          ^,?,192.0.2.9,0,0,0,4294967295,0.0,0.0,0.0\n\
                          ^,x,2001:db8::9,2,6,377,1,0.0,0.0,0.0\n";
    const NTPQ: &str = "     remote           refid      st t when poll reach   delay   offset  jitter\n\
                        ==============================================================================\n \
                        0.debian.pool.n .POOL.          16 p    -   64    0    0.000    0.000   0.000\n \
                        192.0.2.9       .INIT.          16 u    -   64    0    0.000    0.000   0.000\n\
                        *192.0.2.1       .GPS.            1 u   33   64  377    0.122    0.031   0.012\n";

    fn server(address: &str, usable: bool, used: bool) -> Server {
        Server { address: address.into(), usable, used }
    }

    #[test]
    fn servers_are_read_as_their_services_tell_them() {
        let of_chrony = [
            server("192.0.2.1", true, true),
            server("192.0.2.2", true, false),
            server("192.0.2.9", false, false),
            server("2001:db8::9", false, false),
        ];
        assert_eq!(chrony(CHRONY), of_chrony);
        assert_eq!(ntp_peers(NTPQ), [server("192.0.2.9", false, false), server("192.0.2.1", true, true)]);
        for wrong in ["", "\n\n\n", "^,*", "506 Cannot talk to daemon", "*\n*\n*\n", "é\né\né x"] {
            assert!(chrony(wrong).is_empty() && ntp_peers(wrong).is_empty(), "{wrong}");
        }
    }

    /// Answers of a real `pmc`, shortened.
    fn status(class: u32, ports: &[&str], offset: i64) -> String {
        let ports: String = ports.iter().map(|state| format!("\t\tportState               {state}\n")).collect();
        format!(
            "sending: GET DEFAULT_DATA_SET\n\tf6-0 seq 0 RESPONSE MANAGEMENT DEFAULT_DATA_SET \n\t\tclockClass              {class}\n{ports}\t\tmaster_offset              {offset}\n"
        )
    }

    #[test]
    fn a_clock_that_follows_no_master_or_from_afar_is_told_of() {
        let seen = |text: &str| {
            let mut seen = Seen::new();
            ptp("ptp1", text, &mut seen);
            seen.into_iter().map(|((_, entity), (level, _))| (entity, level)).collect::<Vec<_>>()
        };
        let of = |what: &str, level| vec![(format!("instance=ptp1.ptp={what}"), level)];
        assert_eq!(seen(&status(255, &["SLAVE"], -999)), []);
        assert_eq!(seen(&status(255, &["LISTENING"], 0)), of("no-lock", Level::Major));
        assert_eq!(seen(&status(248, &["MASTER", "FAULTY"], 0)), of("no-lock", Level::Major));
        assert_eq!(seen(&status(248, &["MASTER", "SLAVE"], 1000)), of("out-of-tolerance", Level::Minor));
        assert_eq!(seen(&status(248, &["SLAVE"], -1_000_000)), of("out-of-tolerance", Level::Major));
        assert_eq!(seen(&status(6, &["MASTER"], 0)), [], "it is the master");
        assert_eq!(seen("sending: GET DEFAULT_DATA_SET\n"), [], "nobody answers");
    }

    #[tokio::test]
    async fn who_runs_is_asked_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let program = |name: &str, says: &str| {
            std::fs::write(at(&format!("{name}.says")), says).unwrap();
            std::fs::write(at(name), "#!/bin/sh\necho \"$@\" >>$0.asked\ncat $0.says\n").unwrap();
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).unwrap();
        };
        let process = |pid: &str, name: &str, line: &str| {
            std::fs::create_dir_all(at("proc").join(pid)).unwrap();
            std::fs::write(at("proc").join(pid).join("comm"), format!("{name}\n")).unwrap();
            std::fs::write(at("proc").join(pid).join("cmdline"), line).unwrap();
        };
        let clocks = Clocks { processes: at("proc"), chronyc: at("chronyc"), ntpq: at("ntpq"), pmc: at("pmc") };
        let keys = async |unsynchronised| -> Vec<String> {
            let seen = sample(&clocks, unsynchronised).await;
            seen.iter().map(|((alarm, entity), (level, _))| format!("{alarm} {entity} {level:?}")).collect()
        };
        program("chronyc", CHRONY);
        program("ntpq", &NTPQ.replace('*', "x"));
        process("1", "systemd", "");
        assert_eq!(keys(true).await, Vec::<String>::new(), "nobody keeps the time");
        process("7", "systemd-timesyn", "");
        assert_eq!((keys(true).await, keys(false).await), (vec!["100.114 ntp Major".to_string()], vec![]));
        process("8", "ntpd", "");
        assert_eq!(keys(true).await, ["100.114 ntp Major", "100.114 ntp=192.0.2.1 Minor", "100.114 ntp=192.0.2.9 Minor"]);
        process("9", "chronyd", "");
        assert_eq!(keys(true).await, ["100.114 ntp=192.0.2.9 Minor", "100.114 ntp=2001:db8::9 Minor"]);
        program("chronyc", "");
        assert_eq!(keys(true).await, ["100.114 ntp Major"], "it knows no server");
        std::fs::remove_file(at("chronyc")).unwrap();
        assert_eq!(keys(true).await, Vec::<String>::new());
        // Each instance is asked at its own socket.
        program("pmc", &status(255, &["LISTENING"], 0));
        let file = at("ptp4l-ptp1.conf");
        std::fs::write(&file, "[global]\nuds_address  /run/ptp4l-ptp1\n").unwrap();
        process("10", "ptp4l", &format!("/usr/sbin/ptp4l\0-f\0{}\0-m\0", file.display()));
        assert_eq!(keys(true).await, ["100.119 instance=ptp1.ptp=no-lock Major"]);
        let asked = std::fs::read_to_string(at("pmc.asked")).unwrap();
        assert!(asked.starts_with("-u -b 0 -s /run/ptp4l-ptp1 GET DEFAULT_DATA_SET"), "{asked}");
        process("11", "ptp4l", "/usr/sbin/ptp4l\0-i\0eth0\0");
        assert_eq!(keys(true).await.len(), 2);
        // This machine's kernel answers, whatever it says.
        kernel_is_unsynchronised();
    }

    #[test]
    fn it_is_told_when_it_has_been_so_for_a_while() {
        let (board, mut streaks) = (Board::default(), BTreeMap::new());
        let seen = |entity: &str| Seen::from([((NTP, entity.to_string()), (Level::Major, "x".to_string()))]);
        for _ in 1..TIMES {
            tell(seen("ntp"), &mut streaks, &board);
            assert_eq!(board.conditions(), []);
        }
        tell(seen("ntp"), &mut streaks, &board);
        assert_eq!(board.conditions().len(), 1);
        tell(seen("ntp=192.0.2.1"), &mut streaks, &board);
        assert_eq!(board.conditions(), [], "the other has to be so as long");
    }
}
