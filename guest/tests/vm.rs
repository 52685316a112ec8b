//! The program in a real guest, under QEMU and a host's agent: it begins, votes by its script, and takes leave. Its other port carries
//! messages, and with how many vCPUs it does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../../host/tests/host/common.rs"]
mod common;

use std::time::{Duration, Instant};

use base64::Engine;
use common::{Bench, next, vm};
use rpc::guest::{GroupSaid, GroupTell, GuestEvent, GuestScaled, GuestVerdict};
use rpc::instance::{Dedicated, InstanceSpec, InstanceState, Metadata, Power};
use rpc::message::{HostEventKind, Request, Response, ToHost};

/// Fetches the program, which comes on the config drive.
const FETCH: &str = r#"#!/bin/sh
exec >/dev/console 2>&1
drive=$(blkid -L config-2)
mkdir -p /run/cd
mount -o ro "$drive" /run/cd || mount -t iso9660 -o ro "$drive" /run/cd
cp /run/cd/openstack/content/0000 /run/sturnus-guest
cp /run/cd/openstack/content/0001 /run/libgcc_s.so.1
umount /run/cd
chmod 755 /run/sturnus-guest
"#;

/// Begins the program with a script that refuses the first stop.
const SCRIPT: &str = r#"
cat >/run/event <<'END'
#!/bin/sh
echo "asked $1 $2." >/dev/console
if [ "$1 $2" = "revocable stop" ] && [ ! -e /run/refused ]; then touch /run/refused; echo I Am Busy; exit 1; fi
END
chmod 755 /run/event
printf 'HB_INTERVAL="500"\nVOTE="8"\nSHUTDOWN_NOTICE="8"\nEVENT_NOTIFICATION_SCRIPT="/run/event"\n' >/run/guest.conf
(LD_LIBRARY_PATH=/run /run/sturnus-guest --config /run/guest.conf --applications /run/applications; echo "the client has ended: $?.") &
# Asks what its group is, and shows the answer.
(exec 3<>/dev/virtio-ports/cgcs.messaging
printf '\n{"version":2,"source_addr":"cgcs.server_grp","dest_addr":"cgcs.server_grp","data":{"version":2,"msg_type":"status_query","seq":7}}\n' >&3
while read -r line <&3; do echo "told: $line."; done) &
echo "the client has begun."
"#;

/// Begins the daemon that has the port for messages, and the program behind it, and shows which vCPUs there are.
const SCALE: &str = r#"
export LD_LIBRARY_PATH=/run
/run/sturnus-guest messages &
/run/sturnus-guest scale --metadata 127.0.0.1:9 &
(seen=; while sleep 1; do now=$(cat /sys/devices/system/cpu/online); [ "$now" = "$seen" ] || echo "online: $now."; seen=$now; done) &
"#;

/// The program without what only debuggers read: it goes to the guest as text.
fn program() -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    let small = home.path().join("sturnus-guest");
    let stripped = std::process::Command::new("strip").arg("-o").arg(&small).arg(env!("CARGO_BIN_EXE_sturnus-guest")).status();
    match stripped {
        Ok(status) if status.success() => std::fs::read(small).unwrap(),
        _ => std::fs::read(env!("CARGO_BIN_EXE_sturnus-guest")).unwrap(),
    }
}

/// The one library that the small guest does not have, and a program that is not linked statically needs.
fn library() -> Vec<u8> {
    let needs = std::process::Command::new("ldd").arg(env!("CARGO_BIN_EXE_sturnus-guest")).output().unwrap();
    let needs = String::from_utf8(needs.stdout).unwrap();
    let path = needs.lines().find(|l| l.contains("libgcc_s")).and_then(|l| l.split_whitespace().nth(2));
    path.map(|path| std::fs::read(path).unwrap()).unwrap_or_default()
}

fn spec(script: &str) -> InstanceSpec {
    let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut spec = vm();
    (spec.heartbeat, spec.messaging) = (true, true);
    spec.metadata = Metadata {
        meta_data: serde_json::json!({"uuid": spec.id, "hostname": "bench", "name": "bench", "meta": {}}),
        network_data: serde_json::json!({"links": [], "networks": [], "services": []}),
        vendor_data: serde_json::json!({}),
        user_data_base64: Some(text(format!("{FETCH}{script}").as_bytes())),
        config_drive: true,
        files: vec![text(&program()), text(&library())],
        ..Metadata::default()
    };
    spec
}

async fn ask(bench: &Bench, spec: &InstanceSpec, vote: bool) -> GuestVerdict {
    let request = Request::GuestAsk { instance_id: spec.id.clone(), event: "stop".into(), vote };
    let told = bench.hosts.ask_within(&bench.host_id(), request, Duration::from_secs(60)).await.unwrap();
    let Response::Json(verdict) = told else { panic!("{told:?}") };
    serde_json::from_value(verdict).unwrap()
}

fn happened(kind: &HostEventKind, fits: impl Fn(&GuestEvent) -> bool) -> bool {
    matches!(kind, HostEventKind::Guest { event, .. } if fits(event))
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_beats_votes_and_takes_leave() {
    let mut bench = Bench::qemu();
    bench.start().await;
    let spec = spec(SCRIPT);
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    assert_eq!(ask(&bench, &spec, true).await, GuestVerdict::Absent, "nobody is there to be asked yet");
    bench.console_shows(&spec, "the client has begun.", 1).await;
    bench.event("its heart beats", |e| happened(e, |g| *g == GuestEvent::Established)).await;
    assert_eq!(ask(&bench, &spec, true).await, GuestVerdict::Rejected("I Am Busy".into()));
    assert_eq!(ask(&bench, &spec, true).await, GuestVerdict::Accepted);
    let asked = (spec.id.clone(), GroupSaid::StatusQuery { seq: 7 });
    bench.until("it asks what its group is", Duration::from_secs(60), |h| h.groups.contains(&asked)).await;
    let answer = ToHost::Group { instance_id: spec.id.clone(), tell: GroupTell::StatusDone { seq: 7 } };
    bench.hosts.send(&bench.host_id(), answer).await.unwrap();
    bench.console_shows(&spec, "status_response_done", 1).await;
    // The agent begins anew, and finds it again.
    bench.stop().await;
    bench.start().await;
    let begun = |h: &common::Heard| h.events.iter().filter(|(_, e)| happened(&e.kind, |g| *g == GuestEvent::Established)).count() > 1;
    bench.until("it beats again", Duration::from_secs(60), begun).await;
    assert_eq!(ask(&bench, &spec, false).await, GuestVerdict::Accepted);
    bench.console_shows(&spec, "asked irrevocable stop.", 1).await;
    let off = next(&spec, |s| s.power = Power::Stopped);
    bench.want(&off).await;
    bench.state(&off, InstanceState::Stopped).await;
    let lost = |g: &GuestEvent| matches!(g, GuestEvent::Lost { .. });
    assert!(!bench.heard.borrow().events.iter().any(|(_, e)| happened(&e.kind, lost)), "{:?}", bench.heard.borrow().events);
    bench.clean(&[&off]).await;
}

async fn scale(bench: &Bench, spec: &InstanceSpec, cpu: Option<u32>, online: &[u32]) -> GuestScaled {
    let request = Request::GuestScale { instance_id: spec.id.clone(), cpu, online: online.iter().copied().collect() };
    let told = bench.hosts.ask_within(&bench.host_id(), request, Duration::from_secs(60)).await.unwrap();
    let Response::Json(scaled) = told else { panic!("{told:?}") };
    serde_json::from_value(scaled).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_does_with_fewer_vcpus_and_more() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let mut bench = Bench::qemu();
    bench.config.set("host.cpu_dedicated_set", "0-1");
    bench.start().await;
    let spec = InstanceSpec { vcpus: 2, dedicated: Some(Dedicated::default()), ..spec(SCALE) };
    bench.want(&spec).await;
    bench.state(&spec, InstanceState::Running).await;
    bench.console_shows(&spec, "online: 0-1.", 1).await;
    let done = |cpu, online: &[u32]| GuestScaled::Done { cpu: Some(cpu), online: online.iter().copied().collect() };
    // What it is asked while it boots it hears later, or not at all; then it is asked again.
    let limit = Instant::now() + Duration::from_secs(120);
    while scale(&bench, &spec, None, &[0, 1]).await != done(1, &[0]) {
        assert!(Instant::now() < limit, "it never answers");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    bench.console_shows(&spec, "online: 0.", 1).await;
    assert_eq!(scale(&bench, &spec, None, &[0, 1]).await, done(1, &[0]), "the same question has the same answer");
    assert!(matches!(scale(&bench, &spec, None, &[0]).await, GuestScaled::Failed(_)));
    let fewer = next(&spec, |s| s.dedicated = Some(Dedicated { offline: [1].into() }));
    bench.want(&fewer).await;
    bench.state(&fewer, InstanceState::Running).await;
    let both = next(&fewer, |s| s.dedicated = Some(Dedicated::default()));
    bench.want(&both).await;
    bench.state(&both, InstanceState::Running).await;
    assert_eq!(scale(&bench, &spec, Some(1), &[0, 1]).await, done(1, &[0, 1]));
    bench.console_shows(&spec, "online: 0-1.", 2).await;
    bench.clean(&[&both]).await;
}
