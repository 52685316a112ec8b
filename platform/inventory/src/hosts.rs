//! What hosts say of themselves, and what is done with them.

use async_trait::async_trait;
use base::{Context, Error, Result};
use fault::{Alarm, AlarmType, Severity};
use rpc::message::{HostInfo, ToController};
use rpc::session::Said;
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host};
use crate::enable::{CONFIGURATION, Enabling, Upkeep};

/// A host is administratively locked.
const LOCKED: &str = "200.001";

#[async_trait]
impl service::HostListener for Inventory {
    async fn heard(&self, host_id: &str, said: &Said) -> Result<()> {
        match said {
            Said::Connected(info) => self.host_seen(info, true).await,
            Said::Info(info) => self.host_seen(info, false).await,
            Said::Disconnected => {
                let id = host_id.to_string();
                self.core.store.write(move |tx| host_lost_in(tx, &id)).await
            }
            Said::Refused(why) => self.host_refused(host_id, why).await,
            Said::Message(ToController::Monitor(report)) => self.host_monitored(host_id, report).await,
            Said::Message(_) => Ok(()),
        }
    }
}

impl Host {
    /// The host as it describes itself now.
    fn says(&self, info: &HostInfo) -> Host {
        Host {
            hostname: info.name.clone(),
            mgmt_ip: info.address.clone(),
            connected: true,
            provisioned: true,
            guarded: info.guarded,
            waits: info.waits,
            // What speaks is on.
            powered_off: false,
            upkeep: Upkeep { cluster_ip: info.cluster_address.clone(), ..self.upkeep.clone() },
            ..self.clone()
        }
    }
}

fn host_lost_in(tx: &Tx, id: &str) -> Result<()> {
    match db::host_fetch_in(tx, id)? {
        Some(mut host) if host.connected => {
            host.connected = false;
            db::host_put_in(tx, &mut host)
        }
        _ => Ok(()),
    }
}

impl Inventory {
    /// A host cannot have a session as it is. It calls again and again: it is noted down once.
    async fn host_refused(&self, id: &str, why: &str) -> Result<()> {
        let differs = |tx: &Tx| Ok(db::host_fetch_in(tx, id)?.is_some_and(|host| !host.deleted && host.upkeep.refused != why));
        if !self.core.store.read(differs).await? {
            return Ok(());
        }
        let (this, id, why) = (self.clone(), id.to_string(), why.to_string());
        let note = move |tx: &Tx| {
            let Some(mut host) = db::host_fetch_in(tx, &id)?.filter(|host| !host.deleted) else { return Ok(()) };
            let name = &host.hostname;
            let text = format!("{name} experienced a configuration failure: it is sent away, because {why}.");
            let repair = "Correct what it says; the host is in service as soon as it is let in.";
            this.faults.alarm_set_in(tx, &Alarm::known(CONFIGURATION, entity(name), Severity::Critical, text, repair))?;
            host.upkeep.refused = why.clone();
            db::host_put_in(tx, &mut host)
        };
        self.core.store.write(note).await
    }

    async fn host_seen(&self, info: &HostInfo, connected: bool) -> Result<()> {
        let known = self.core.store.read(|tx| db::host_fetch_in(tx, &info.id)).await?;
        if !connected && known.is_some_and(|host| host.says(info) == host) {
            return Ok(());
        }
        let (this, info) = (self.clone(), info.clone());
        self.core.store.write(move |tx| this.host_seen_in(tx, &info, connected)).await
    }

    fn host_seen_in(&self, tx: &Tx, info: &HostInfo, connected: bool) -> Result<()> {
        let before = match db::host_fetch_in(tx, &info.id)? {
            // It was deleted: its session is about to end.
            Some(host) if host.deleted => return Ok(()),
            Some(host) => host,
            // Who has not joined is of this process: no other gets a session.
            None => {
                let personality = if self.core.config.flag("host.simulated") { "worker" } else { "controller" };
                Host { uuid: info.id.clone(), ..Host::new(&info.name, personality) }
            }
        };
        let mut host = before.says(info);
        if connected && !std::mem::take(&mut host.upkeep.refused).is_empty() {
            self.faults.alarm_clear_in(tx, CONFIGURATION, &entity(&host.hostname))?;
        }
        if connected {
            if host.upkeep.held_off && host.upkeep.boot != info.boot_id {
                // Somebody has switched it on.
                (host.upkeep.held_off, host.upkeep.verdict) = (false, String::new());
            }
            self.host_address_in(tx, info)?;
            self.host_booted_in(tx, &mut host, &info.boot_id)?;
        }
        if host != before {
            db::host_put_in(tx, &mut host)?;
        }
        if !connected || self.host_enable_due_in(tx, &mut host)? {
            return Ok(());
        }
        // The others have heard of it before us; to them a host that is new is open.
        let closed = host.locked || host.upkeep.enabling != Enabling::Done;
        if closed { self.host_open_in(tx, &host) } else { Ok(()) }
    }

    /// Whether a host is the site's only one: StarlingX's simplex.
    pub(crate) fn is_alone_in(&self, tx: &Tx, host: &Host) -> Result<bool> {
        Ok(!db::host_list_in(tx)?.iter().any(|other| other.uuid != host.uuid && other.provisioned))
    }

    /// A host says that it is where another is. The other's tunnels are left as they are.
    fn host_address_in(&self, tx: &Tx, info: &HostInfo) -> Result<()> {
        let (name, address) = (&info.name, &info.address);
        let entity = format!("{}.interface=tunnel", entity(name));
        let Some(holder) = self.network.host_address_holder_in(tx, info)? else {
            return self.faults.alarm_clear_in(tx, CONFIGURATION, &entity).map(drop);
        };
        let text = format!("{name} experienced a configuration failure: its address {address} is that of {holder}; no tunnel leads to it.");
        let repair =
            format!("Give one of {name} and {holder} another address and start it again, or delete {holder} if it is gone for good.");
        self.faults.alarm_set_in(tx, &Alarm::known(CONFIGURATION, entity, Severity::Critical, text, &repair)).map(drop)
    }

    /// Takes an empty host out of service.
    pub(crate) fn host_lock_in(&self, tx: &Tx, mut host: Host) -> Result<Host> {
        self.host_enable_forget_in(tx, &mut host)?;
        (host.locked, host.task, host.progress) = (true, String::new(), String::new());
        host.upkeep.reboots = 0;
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        self.faults.alarm_set_in(tx, &locked_alarm(&host.hostname))?;
        Ok(host)
    }

    /// Begins to put a host back into service.
    pub fn host_unlock_in(&self, tx: &Tx, ctx: &Context, mut host: Host, force: bool) -> Result<Host> {
        if host.is_locking() {
            return self.host_lock_drop_in(tx, host);
        }
        if !host.locked {
            return Err(Error::invalid(format!("Host {} is already unlocked.", host.hostname)));
        }
        if !host.task.is_empty() {
            return Err(Error::invalid(format!("Host {}: an operation is in progress ({}).", host.hostname, host.task)));
        }
        // By force also one that is not there now: it is in service when it comes.
        let there = host.availability() == "online" || (host.connected && host.fenced && !host.is_silent());
        if !force && !there {
            return Err(Error::invalid(format!(
                "Host {} cannot be unlocked: its availability is {}, and must be online.",
                host.hostname,
                host.availability()
            )));
        }
        (host.locked, host.progress, host.upkeep.unlocking) = (false, String::new(), true);
        self.faults.alarm_clear_in(tx, LOCKED, &entity(&host.hostname))?;
        if host.connected {
            self.host_enable_in(tx, ctx, &mut host)?;
            return Ok(host);
        }
        host.upkeep.enabling = Enabling::Due;
        db::host_put_in(tx, &mut host)?;
        self.host_open_in(tx, &host)?;
        Ok(host)
    }

    /// Tells those who place things on hosts whether this one takes any.
    pub(crate) fn host_open_in(&self, tx: &Tx, host: &Host) -> Result<()> {
        let reason = match host.locked {
            true => Some("the host is locked"),
            false if host.failed => Some("something that the host needs has failed"),
            false => host.enabling_reason().or(Some(host.task.as_str()).filter(|task| !task.is_empty())),
        };
        if !host.upkeep.shut {
            self.compute.host_close_in(tx, &host.uuid, reason)?;
        }
        self.compute.host_rests_in(tx, &host.uuid, host.locked)?;
        self.volumes.host_close_in(tx, &host.uuid, reason)?;
        self.network.host_close_in(tx, &host.uuid, host.locked || host.fenced)
    }

    /// Forgets a locked host that holds nothing. Its certificate is worthless first: when the rest fails, it can be done again.
    pub(crate) async fn host_delete(&self, host: &Host) -> Result<()> {
        if !host.locked {
            return Err(Error::invalid(format!("Host {} must be locked before it is deleted.", host.hostname)));
        }
        if host.personality == "controller" {
            return Err(Error::invalid(format!("Host {} is the active controller: it cannot be deleted.", host.hostname)));
        }
        if !host.task.is_empty() {
            return Err(Error::invalid(format!("Host {}: an operation is in progress ({}).", host.hostname, host.task)));
        }
        let id = host.uuid.clone();
        self.core.store.read(|tx| self.host_is_empty_in(tx, &id)).await?;
        let (directory, of) = (self.pki(), id.clone());
        let revoked = tokio::task::spawn_blocking(move || pki::Authority::open(&directory)?.revoke_host(&of)).await;
        match revoked.map_err(|e| Error::internal("revoking a certificate broke off").caused_by(e))? {
            // It never joined.
            Err(error) if error.is(base::Kind::NotFound) => {}
            outcome => drop(outcome?),
        }
        let this = self.clone();
        self.core
            .store
            .write(move |tx| {
                this.host_is_empty_in(tx, &id)?;
                let Some(mut host) = db::host_fetch_in(tx, &id)?.filter(|host| !host.deleted) else { return Ok(()) };
                (host.deleted, host.connected, host.health, host.fenced) = (true, false, crate::Health::Well, false);
                // Nothing asks its BMC any more.
                this.sensors_forget_in(tx, &host)?;
                host.bmc_clear();
                db::host_put_in(tx, &mut host)?;
                this.compute.host_forget_in(tx, &id)?;
                this.network.host_forget_in(tx, &id)?;
                this.volumes.host_forget_in(tx, &id)?;
                this.faults.alarms_clear_under_in(tx, &entity(&host.hostname))?;
                let sessions = this.core.hosts.sessions().clone();
                let (of, name) = (this.clone(), host.hostname.clone());
                tx.after_commit(move || {
                    of.dropped.take(&id, &name, &[]);
                    sessions.end(&id, "this host was deleted from the cloud");
                });
                Ok(())
            })
            .await
    }

    fn host_is_empty_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let (servers, volumes) = (self.compute.servers_on_in(tx, id)?, self.volumes.volumes_on_in(tx, id)?);
        match (servers, volumes) {
            (0, 0) => Ok(()),
            _ => Err(Error::invalid(format!("The host cannot be deleted: it holds {servers} instances and {volumes} volumes."))),
        }
    }
}

pub(crate) fn entity(hostname: &str) -> String {
    format!("host={hostname}")
}

fn locked_alarm(hostname: &str) -> Alarm {
    Alarm {
        alarm_id: LOCKED.into(),
        entity_type_id: "host".into(),
        entity_instance_id: entity(hostname),
        severity: Severity::Warning,
        reason_text: format!("{hostname} was administratively locked to take it out-of-service."),
        alarm_type: AlarmType::OperationalViolation,
        // out-of-service
        probable_cause: 63,
        proposed_repair_action: format!("Administratively unlock host {hostname} to bring it back in-service."),
        service_affecting: true,
        suppression: false,
        inhibit_alarms: false,
        timestamp: None,
    }
}
