//! What is done about notifications.
//!
//! | type | what follows |
//! |---|---|
//! | `COMPUTE_HOST` STOPPED | the host is locked by force, unless it is lost already: its lease ends, it is fenced, and the site's own recovery brings up its instances elsewhere; each has a move here |
//! | `VM` | an instance that is healed at this moment is waited for; one that hangs (guest agent, introspection) or has failed is rebooted hard |
//! | `PROCESS` STOPPED | nothing new is placed on the host until its service is enabled again |
//!
//! A host that the heartbeat has found lost gets a notification by itself, once for each loss. All is read from what was written
//! with each change, so that a controller that starts anew goes on where the last one was.

use std::time::Duration;

use async_trait::async_trait;
use base::{Context, Result, Timestamp};
use compute::Compute;
use compute::db::migrations::{self, Migration};
use compute::db::servers::{self, Server};
use compute::db::{actions, nodes};
use compute::servers::{PowerAction, Stranded};
use compute::states::vm;
use inventory::Inventory;
use serde_json::{Value, json};
use service::Core;
use store::Tx;
use task::Reconciler;

use crate::db::{self, Host, Listed, Move, Notification, Segment};
use crate::notifications::{self, OPEN};

/// How long a recovery may take before it is given up here; the site's own goes on.
const LIMIT: Duration = Duration::from_secs(3600);
/// Events of instances that say that one hangs (upstream's monitors).
const HANGS: &[&str] = &["QEMU_GUEST_AGENT_ERROR", "INTROSPECTION_FAILURE"];

#[derive(Clone)]
pub struct Recovery {
    pub core: Core,
    pub inventory: Inventory,
    pub compute: Compute,
}

/// What a notification has come to.
enum Outcome {
    Running(String),
    Ended(&'static str, String),
}

use Outcome::{Ended, Running};

#[async_trait]
impl Reconciler for Recovery {
    fn name(&self) -> &'static str {
        "instance_ha.recovery"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run(&self) -> Result<()> {
        if self.core.store.read(|tx| Ok(!self.unnoticed_in(tx)?.is_empty())).await? {
            let this = self.clone();
            self.core.store.write(move |tx| this.notice_in(tx)).await?;
        }
        let open = self.core.store.read(|tx| {
            Notification::select().in_list("status", OPEN.iter().copied()).order(&[("id", store::Dir::Asc)]).fetch(tx, Notification::read)
        });
        for notification in open.await? {
            // One that cannot be worked on keeps no other.
            if let Err(error) = self.work(&notification).await {
                tracing::warn!(notification = notification.uuid, "not worked on: {}", error.chain());
            }
        }
        Ok(())
    }
}

impl Recovery {
    /// Hosts of segments whose loss, or return, has not been noted.
    fn unnoticed_in(&self, tx: &Tx) -> Result<Vec<(Host, bool)>> {
        let hosts = Host::select().fetch(tx, Host::read)?;
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.inventory.hosts_in(tx)?;
        let lost = |host: &Host| all.iter().any(|h| h.hostname == host.name && h.is_lost());
        Ok(hosts
            .into_iter()
            .map(|host| {
                let lost = lost(&host);
                (host, lost)
            })
            .filter(|(host, lost)| host.noticed != *lost)
            .collect())
    }

    fn notice_in(&self, tx: &Tx) -> Result<()> {
        for (mut host, lost) in self.unnoticed_in(tx)? {
            host.noticed = lost;
            db::host_put_in(tx, &mut host)?;
            let open = Notification::select()
                .eq("source_host_uuid", &host.uuid)
                .eq("type", "COMPUTE_HOST")
                .in_list("status", OPEN.iter().copied());
            if lost && !host.on_maintenance && open.fetch(tx, Notification::read)?.is_empty() {
                let payload = json!({"event": "STOPPED", "cluster_status": "OFFLINE", "host_status": "NORMAL"});
                let hostname = host.name.clone();
                notifications::notify_in(
                    tx,
                    &host,
                    notifications::New { kind: "COMPUTE_HOST".into(), hostname, generated_time: Timestamp::now(), payload },
                )?;
            }
        }
        Ok(())
    }

    async fn work(&self, notification: &Notification) -> Result<()> {
        if notification.kind == "VM" {
            self.instance(notification).await?;
        }
        let (this, uuid) = (self.clone(), notification.uuid.clone());
        self.core
            .store
            .write(move |tx| {
                let Some(mut notification) = Notification::fetch_in(tx, &uuid)?.filter(|n| OPEN.contains(&n.status.as_str())) else {
                    return Ok(());
                };
                let before = notification.clone();
                let outcome = match Segment::fetch_in(tx, &notification.segment_uuid)? {
                    Some(segment) if !segment.enabled => Ended("ignored", "Failover segment is disabled.".into()),
                    segment => match notification.kind.as_str() {
                        "COMPUTE_HOST" => this.host_in(tx, &notification, segment.as_ref())?,
                        "PROCESS" => this.process_in(tx, &notification)?,
                        _ => this.instance_in(tx, &notification)?,
                    },
                };
                let outcome = match outcome {
                    Running(text) if Timestamp::now().since(notification.created_at) > LIMIT => Ended("failed", text),
                    outcome => outcome,
                };
                let (status, text) = match outcome {
                    Running(text) => ("running", text),
                    Ended(status, text) => (status, text),
                };
                note(&mut notification, status, &text);
                if notification != before {
                    notification.updated_at = Some(Timestamp::now());
                    db::notification_put_in(tx, &mut notification)?;
                }
                Ok(())
            })
            .await
    }

    // --- hosts

    fn host_in(&self, tx: &Tx, notification: &Notification, segment: Option<&Segment>) -> Result<Outcome> {
        let said = |key: &str| notification.payload[key].as_str().unwrap_or_default();
        match said("host_status") {
            "NORMAL" => {}
            "" => return Ok(Ended("ignored", "host_status is not provided.".into())),
            other => return Ok(Ended("ignored", format!("host_status is '{other}'."))),
        }
        if said("event") == "STARTED" {
            return Ok(Ended("finished", "The host has been started.".into()));
        }
        let Some(mut machine) = self.machine_in(tx, notification)? else {
            return Ok(Ended("error", format!("Host {} is not there any more.", notification.hostname)));
        };
        if notification.status == "new" {
            if let Err(outcome) = self.host_begin_in(tx, notification, segment, &machine)? {
                return Ok(outcome);
            }
            machine = self.machine_in(tx, notification)?.unwrap_or(machine);
        }
        self.moves_follow_in(tx, notification, &machine)
    }

    fn machine_in(&self, tx: &Tx, notification: &Notification) -> Result<Option<inventory::Host>> {
        Ok(self.inventory.hosts_in(tx)?.into_iter().find(|h| h.hostname == notification.hostname))
    }

    /// The first look at it: the host is to be fenced, and each of its instances has a move.
    fn host_begin_in(
        &self,
        tx: &Tx,
        notification: &Notification,
        segment: Option<&Segment>,
        machine: &inventory::Host,
    ) -> Result<std::result::Result<(), Outcome>> {
        let method = segment.map_or("auto", |segment| segment.recovery_method.as_str());
        if let Err(why) = self.reserve_in(tx, notification, method)? {
            return Ok(Err(Ended("error", why)));
        }
        if !machine.is_lost() && !machine.locked {
            // What a monitor says is no proof: the host loses its lease first.
            if let Err(error) = self.inventory.host_force_lock_in(tx, &machine.uuid) {
                return Ok(Err(Ended("error", error.message().to_string())));
            }
        }
        if let Some(mut host) = Host::fetch_in(tx, &notification.source_host_uuid)?.filter(|_| !machine.is_lost()) {
            (host.on_maintenance, host.reserved) = (true, false);
            host.updated_at = Some(Timestamp::now());
            db::host_put_in(tx, &mut host)?;
        }
        for stranded in self.compute.stranded_in(tx, &machine.uuid)? {
            let obstacle = obstacle(&stranded);
            let now = Timestamp::now();
            let mut vmove = Move {
                uuid: base::id::uuid(),
                id: 0,
                notification_uuid: notification.uuid.clone(),
                instance_uuid: stranded.id,
                instance_name: stranded.name,
                source_host: notification.hostname.clone(),
                dest_host: None,
                start_time: None,
                end_time: obstacle.is_some().then_some(now),
                kind: "evacuation".into(),
                status: if obstacle.is_some() { "ignored" } else { "pending" }.into(),
                message: obstacle,
                created_at: now,
                updated_at: None,
            };
            db::move_put_in(tx, &mut vmove)?;
        }
        Ok(Ok(()))
    }

    /// Puts a reserved host of the segment into service where its method wants one; an error says that there is none.
    fn reserve_in(&self, tx: &Tx, notification: &Notification, method: &str) -> Result<std::result::Result<(), String>> {
        if method == "auto" {
            return Ok(Ok(()));
        }
        let hosts = db::hosts_of_in(tx, &notification.segment_uuid)?;
        let mut spare = hosts.into_iter().filter(|h| h.reserved && !h.on_maintenance && h.uuid != notification.source_host_uuid);
        let Some(mut host) = spare.next() else {
            return Ok(if method == "reserved_host" { Err("No reserved_hosts available for evacuation.".into()) } else { Ok(()) });
        };
        let Some(node) = nodes::node_by_name_in(tx, &host.name)? else {
            return Ok(Err(format!("Reserved host {} is not there any more.", host.name)));
        };
        if method == "auto_priority" && nodes::node_list_in(tx)?.iter().any(|n| n.name != notification.hostname && n.is_up() && !n.disabled)
        {
            // Others may have the room; the reserve is for when they have not.
            return Ok(Ok(()));
        }
        self.compute.host_close_in(tx, &node.id, None)?;
        host.reserved = false;
        host.updated_at = Some(Timestamp::now());
        db::host_put_in(tx, &mut host)?;
        Ok(Ok(()))
    }

    fn moves_follow_in(&self, tx: &Tx, notification: &Notification, machine: &inventory::Host) -> Result<Outcome> {
        let mut moves = db::moves_of_in(tx, &notification.uuid)?;
        for vmove in moves.iter_mut().filter(|m| m.end_time.is_none()) {
            let before = vmove.clone();
            self.move_follow_in(tx, vmove, machine)?;
            if *vmove != before {
                vmove.updated_at = Some(Timestamp::now());
                db::move_put_in(tx, vmove)?;
            }
        }
        let count = |status: &str| moves.iter().filter(|m| m.status == status).count();
        let sum = format!(
            "{} of {} instances moved, {} not to be moved, {} failed",
            count("succeeded"),
            moves.len(),
            count("ignored"),
            count("failed")
        );
        if machine.is_forced() && !machine.locked {
            return Ok(Running("Waiting until the host's lease has ended.".into()));
        }
        Ok(match moves.iter().all(|m| m.end_time.is_some()) {
            false if machine.is_lost() && !machine.fenced => Running("Waiting until the host is fenced.".into()),
            false => Running(format!("{sum}.")),
            true if count("failed") > 0 => Ended("error", format!("{sum}.")),
            true => Ended("finished", format!("{sum}.")),
        })
    }

    /// Reads what became of an instance from its host and its evacuations.
    fn move_follow_in(&self, tx: &Tx, vmove: &mut Move, machine: &inventory::Host) -> Result<()> {
        let now = Timestamp::now();
        let newest = migrations::evacuations_in(tx, Some(&vmove.source_host), Some(&vmove.instance_uuid))?.into_iter().next();
        let newest = newest.filter(|m| m.created_at >= vmove.created_at);
        if let Some(Migration { created_at, dest, .. }) = &newest {
            vmove.start_time.get_or_insert(*created_at);
            vmove.dest_host.clone_from(dest);
            vmove.status = "ongoing".into();
        }
        let end = |vmove: &mut Move, status: &str, message: Option<String>| {
            vmove.end_time = Some(now);
            vmove.status = status.into();
            vmove.message = message;
        };
        match servers::server_fetch_in(tx, &vmove.instance_uuid, false)? {
            None => end(vmove, "ignored", Some("It was deleted.".into())),
            Some(server) if server.host_id.as_deref() != Some(&machine.uuid) && server.task_state.is_none() => {
                vmove.dest_host = server.host;
                match server.vm_state.as_str() {
                    vm::ERROR => end(vmove, "failed", Some("It is on another host, and has failed there.".into())),
                    _ => end(vmove, "succeeded", None),
                }
            }
            Some(_) if !machine.is_lost() && !machine.locked && !machine.is_forced() => {
                end(vmove, "ignored", Some("Its host is back, and it with it.".into()));
            }
            Some(_) => {
                let failed = newest.is_some_and(|m| ["error", "failed"].contains(&m.status.as_str()));
                vmove.message = failed.then(|| "It is tried again.".into());
            }
        }
        Ok(())
    }

    // --- processes

    fn process_in(&self, tx: &Tx, notification: &Notification) -> Result<Outcome> {
        let said = |key: &str| notification.payload[key].as_str().unwrap_or_default();
        if said("event") == "STARTED" {
            return Ok(Ended("finished", format!("Process {} has been started.", said("process_name"))));
        }
        let Some(node) = nodes::node_by_name_in(tx, &notification.hostname)? else {
            return Ok(Ended("error", format!("Host {} is not there any more.", notification.hostname)));
        };
        if let Some(mut host) = Host::fetch_in(tx, &notification.source_host_uuid)? {
            (host.on_maintenance, host.reserved) = (true, false);
            host.updated_at = Some(Timestamp::now());
            db::host_put_in(tx, &mut host)?;
        }
        if !node.disabled {
            self.compute.host_close_in(tx, &node.id, Some(&format!("process {} has failed", said("process_name"))))?;
        }
        Ok(Ended("finished", "Nothing new is placed on the host until its compute service is enabled.".into()))
    }

    // --- instances

    /// An instance that hangs or has failed is rebooted, once for each notification: the action says whether it was.
    async fn instance(&self, notification: &Notification) -> Result<()> {
        let (uuid, ctx) = (instance_of(notification).to_string(), context(notification));
        let request = ctx.request_id.clone();
        let hangs = hangs(notification);
        let wanted = self.core.store.read(|tx| {
            let enabled = Segment::fetch_in(tx, &notification.segment_uuid)?.is_none_or(|segment| segment.enabled);
            let server = servers::server_fetch_in(tx, &uuid, false)?.filter(|_| enabled);
            let reboots =
                server.is_some_and(|s| s.task_state.is_none() && (s.vm_state == vm::ERROR || (s.vm_state == vm::ACTIVE && hangs)));
            Ok(reboots && actions::action_fetch_in(tx, &uuid, &request)?.is_none())
        });
        if wanted.await? {
            self.compute.server_power(&ctx, &uuid, PowerAction::RebootHard).await?;
        }
        Ok(())
    }

    fn instance_in(&self, tx: &Tx, notification: &Notification) -> Result<Outcome> {
        let Some(server) = servers::server_fetch_in(tx, instance_of(notification), false)? else {
            return Ok(Ended("ignored", "The instance could not be found.".into()));
        };
        let rebooted = actions::action_fetch_in(tx, &server.id, &context(notification).request_id)?.is_some();
        Ok(match &server {
            Server { task_state: Some(task), .. } => Running(format!("The instance is {task}.")),
            Server { vm_state, .. } if vm_state == vm::ACTIVE && (rebooted || !hangs(notification)) => {
                Ended("finished", "The instance runs.".into())
            }
            Server { vm_state, .. } if vm_state == vm::ERROR && rebooted => Ended("error", "The instance could not be recovered.".into()),
            Server { vm_state, .. } if [vm::ACTIVE, vm::ERROR].contains(&vm_state.as_str()) => {
                Running("The instance is to be rebooted.".into())
            }
            Server { vm_state, .. } => Ended("ignored", format!("The instance is {vm_state}.")),
        })
    }
}

fn instance_of(notification: &Notification) -> &str {
    notification.payload["instance_uuid"].as_str().unwrap_or_default()
}

fn hangs(notification: &Notification) -> bool {
    ["event", "vir_domain_event"].iter().any(|key| notification.payload[key].as_str().is_some_and(|event| HANGS.contains(&event)))
}

/// In the name of the notification: what was done for it can be found by it.
fn context(notification: &Notification) -> Context {
    Context::system(format!("req-{}", notification.uuid))
}

/// Why an instance of a lost host stays where it is.
fn obstacle(stranded: &Stranded) -> Option<String> {
    if let Some(why) = &stranded.obstacle {
        return Some(why.clone());
    }
    if !stranded.auto_recovery {
        return Some("It is not to be recovered (sw:wrs:auto_recovery, HA_Enabled).".into());
    }
    (!stranded.leased).then(|| "Its host has not confirmed that it ends with the host's lease.".into())
}

/// Writes what a notification has come to, and a line of its workflow where something new is to be told.
fn note(notification: &mut Notification, status: &str, text: &str) {
    if notification.status == status && notification.message.as_deref() == Some(text) {
        return;
    }
    notification.status = status.into();
    notification.message = Some(text.into());
    let over = !OPEN.contains(&status);
    let progress = if over { 1.0 } else { 0.5 };
    let state = match status {
        "error" | "failed" => "FAILURE",
        _ if over => "SUCCESS",
        _ => "RUNNING",
    };
    if notification.details.as_array().is_none_or(Vec::is_empty) {
        notification.details = json!([{"name": "recovery", "progress_details": []}]);
    }
    let line = json!({"timestamp": Timestamp::now().iso_micros(), "message": text, "progress": progress});
    if let Some(workflow) = notification.details[0].as_object_mut() {
        workflow.insert("state".into(), json!(state));
        workflow.insert("progress".into(), json!(progress));
        if let Some(lines) = workflow.get_mut("progress_details").and_then(Value::as_array_mut) {
            lines.push(line);
        }
    }
}
