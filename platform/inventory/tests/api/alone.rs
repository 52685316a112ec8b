//! The only host of a site, which reboots itself when nothing else helps.

use std::path::{Path, PathBuf};

use base::Timestamp;
use rpc::message::ToController;
use rpc::monitor::{Condition, Level, MonitorReport};
use rpc::session::Said;
use serde_json::Value;
use service::HostListener;
use testing::{Answer, Cloud, Token};

use super::enable::{lines, script};
use super::{PATIENCE, act};

const HOSTS: &str = "/inventory/v1/ihosts";

/// A site of one host that knows how it is rebooted: it writes a line there.
async fn site(settings: &[(&'static str, &str)]) -> (Cloud, Token, PathBuf) {
    let own = [
        ("hosts.listen", "127.0.0.1:5001"),
        ("host.reboot_command", "/bin/true"),
        ("maintenance.in_service_seconds", "0"),
        ("maintenance.retry_seconds", "0"),
        // Whatever the uptime of the machine that tests run on.
        ("maintenance.steady_seconds", "1000000000"),
    ];
    let mut cloud = Cloud::with_settings(1, &[&own, settings].concat()).await;
    let admin = cloud.admin().await;
    cloud.until(&admin, HOSTS, PATIENCE, is("availability", "available")).await;
    let (mark, command) = (cloud.home().join("rebooted"), cloud.home().join("commands"));
    script(&command, "reboot", &format!("echo >> {}", mark.display()));
    for (key, path) in [("host.reboot_command", command.join("reboot")), ("host.tests", cloud.home().join("tests"))] {
        cloud.hosts[0].settings.push((key, path.display().to_string()));
    }
    cloud.hosts[0].vanish().await;
    cloud.until(&admin, HOSTS, PATIENCE, is("availability", "offline")).await;
    cloud.host_return(0).await;
    cloud.until(&admin, HOSTS, PATIENCE, is("availability", "available")).await;
    (cloud, admin, mark)
}

fn is(key: &'static str, value: &str) -> impl Fn(&Answer) -> bool {
    move |a: &Answer| a.json()["ihosts"][0][key] == value
}

async fn host(cloud: &Cloud, admin: &Token) -> Value {
    cloud.get(admin, HOSTS).await.expect(200)["ihosts"][0].clone()
}

async fn alarms(cloud: &Cloud, admin: &Token) -> Vec<String> {
    let all = cloud.get(admin, "/fault/v1/alarms").await.expect(200);
    let mut ids: Vec<String> = all["alarms"].as_array().unwrap().iter().map(|a| a["alarm_id"].as_str().unwrap().to_string()).collect();
    ids.sort();
    ids
}

/// Its monitors see these, each of which takes the host out of service.
async fn sees(cloud: &Cloud, admin: &Token, conditions: &[(&str, &str)]) {
    let condition = |(id, entity): &(&str, &str)| Condition {
        alarm_id: (*id).into(),
        entity: (*entity).into(),
        level: Level::Critical,
        reason: "x".into(),
        degrades: false,
        fails: true,
    };
    let report = MonitorReport { conditions: conditions.iter().map(condition).collect(), clock: Timestamp::now(), dropped: Vec::new() };
    let id = host(cloud, admin).await["uuid"].as_str().unwrap().to_string();
    cloud.controller.inventory.heard(&id, &Said::Message(ToController::Monitor(report))).await.unwrap();
}

async fn until_told(mark: &Path, times: usize) {
    let began = std::time::Instant::now();
    while lines(mark) < times {
        assert!(began.elapsed() < PATIENCE, "it is told {} times, not {times}", lines(mark));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The machine goes, with its controller, and is back.
async fn boots(mut cloud: Cloud) -> Cloud {
    let mut gone = cloud.hosts.remove(0);
    gone.vanish().await;
    gone.hypervisor.power_cut();
    let mut cloud = cloud.crash().await;
    cloud.hosts.push(gone);
    cloud.host_return(0).await;
    cloud
}

/// Long enough for another one to be begun.
async fn nothing_more(mark: &Path, times: usize) {
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(lines(mark), times);
}

/// Maintenance specification, section 4: "simplex: up to 3 self reboots, then degrade only".
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_come_back_has_the_only_host_reboot_three_times() {
    let (mut cloud, admin, mark) = site(&[]).await;
    let process = ("200.006", "process=sm");
    // A disk that is full would be so afterwards.
    sees(&cloud, &admin, &[("100.104", "filesystem=/var")]).await;
    assert_eq!(alarms(&cloud, &admin).await, ["100.104", "200.013"]);
    nothing_more(&mark, 0).await;
    for n in 1..=3 {
        sees(&cloud, &admin, &[process]).await;
        until_told(&mark, n).await;
        cloud = boots(cloud).await;
        let reboots = format!("Reboots={n}");
        let back = |a: &Answer| is("availability", "available")(a) && is("task", "")(a) && is("mtce_info", &reboots)(a);
        cloud.until(&admin, HOSTS, PATIENCE, back).await;
        sees(&cloud, &admin, &[]).await;
        assert_eq!(alarms(&cloud, &admin).await, Vec::<String>::new());
    }
    sees(&cloud, &admin, &[process]).await;
    nothing_more(&mark, 3).await;
    let shown = host(&cloud, &admin).await;
    let states = ["operational", "availability", "subfunction_oper", "subfunction_avail", "task"].map(|key| shown[key].clone());
    assert_eq!(states, ["enabled", "degraded", "disabled", "failed", ""].map(Value::from));
    assert_eq!(alarms(&cloud, &admin).await, ["200.006", "200.013"]);
    let services = cloud.get(&admin, "/compute/v2.1/os-services?host=host-0").await.expect(200);
    assert_eq!(services["services"][0]["status"], "disabled", "it takes nothing new");
    // Locked and unlocked, it has its whole budget again.
    sees(&cloud, &admin, &[]).await;
    for action in ["lock", "unlock"] {
        act(&cloud, &admin, shown["uuid"].as_str().unwrap(), action).await.expect(200);
    }
    cloud.until(&admin, HOSTS, PATIENCE, is("availability", "available")).await;
    assert_eq!((host(&cloud, &admin).await["mtce_info"].clone(), alarms(&cloud, &admin).await), (Value::from(""), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_that_fail_again_and_again_have_the_only_host_reboot() {
    let (mut cloud, admin, mark) = site(&[("maintenance.self_reboots", "1")]).await;
    let tests = cloud.home().join("tests");
    script(&tests, "disk", "exit 1");
    cloud = boots(cloud).await;
    until_told(&mark, 1).await;
    cloud = boots(cloud).await;
    let held = "In-Test Failure, threshold reached, Lock/Unlock to retry";
    let kept = |a: &Answer| is("task", held)(a) && is("availability", "degraded")(a) && is("mtce_info", "In-Test=3 Reboots=1")(a);
    cloud.until(&admin, HOSTS, PATIENCE, kept).await;
    nothing_more(&mark, 1).await;
    assert_eq!(alarms(&cloud, &admin).await, ["200.004"]);
    std::fs::remove_file(tests.join("disk")).unwrap();
    let id = host(&cloud, &admin).await["uuid"].as_str().unwrap().to_string();
    for action in ["lock", "unlock"] {
        act(&cloud, &admin, &id, action).await.expect(200);
    }
    cloud.until(&admin, HOSTS, PATIENCE, is("availability", "available")).await;
    assert_eq!(alarms(&cloud, &admin).await, Vec::<String>::new());
}

/// A host that has been well for long since its last reboot has its budget again, and one with others around it keeps still.
#[tokio::test(flavor = "multi_thread")]
async fn reboots_count_while_they_are_in_a_row_and_only_where_nobody_else_is() {
    let (mut cloud, admin, mark) = site(&[("maintenance.steady_seconds", "0")]).await;
    sees(&cloud, &admin, &[("200.006", "process=sm")]).await;
    until_told(&mark, 1).await;
    cloud = boots(cloud).await;
    sees(&cloud, &admin, &[]).await;
    let back = |a: &Answer| is("availability", "available")(a) && is("task", "")(a) && is("mtce_info", "")(a);
    cloud.until(&admin, HOSTS, PATIENCE, back).await;
    cloud.host_add("host-1").await;
    cloud.until(&admin, HOSTS, PATIENCE, |a| a.json()["ihosts"][1]["availability"] == "available").await;
    sees(&cloud, &admin, &[("200.006", "process=sm")]).await;
    nothing_more(&mark, 1).await;
    assert_eq!(host(&cloud, &admin).await["availability"], "degraded");
}
