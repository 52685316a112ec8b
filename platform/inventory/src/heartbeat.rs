//! What the heartbeat says of hosts (maintenance specification, sections 2 and 6): states, and the alarm.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ::heartbeat::Way;
use base::{Result, Timestamp};
use fault::{Alarm, Severity};
use serde::{Deserialize, Serialize};
use store::Tx;

use crate::Inventory;
use crate::db::{self, Host};
use crate::enable::{Cause, Enabling};
use crate::hosts::entity;
use crate::parameters::OnLoss;

/// A host's heartbeat is intermittent, or lost: on the management network, and on the one among the hosts.
const HEARTBEAT: &str = "200.005";
const CLUSTER: &str = "200.009";
const STATE: &str = "200.022";
const EVENT: &str = "200.020";
/// Losses in a row after which a host is back in service by itself.
const GRACEFUL: u32 = 5;

/// How a host answers pulses, as far as an operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Well,
    Degraded,
    Lost,
}

impl Health {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Health::Well => "well",
            Health::Degraded => "degraded",
            Health::Lost => "lost",
        }
    }
    pub(crate) fn parse(word: &str) -> Health {
        match word {
            "degraded" => Health::Degraded,
            "lost" => Health::Lost,
            _ => Health::Well,
        }
    }
}

impl Host {
    /// Its heartbeat is lost once more. In a row with the last time, unless it was well for this long since.
    fn loss_count(&mut self, now: Timestamp, steady: Duration) {
        let again = self.upkeep.back_at.is_some_and(|back| now.since(back) < steady);
        self.upkeep.losses = if again { self.upkeep.losses.saturating_add(1) } else { 1 };
    }
}

impl Inventory {
    /// All hosts that have not been deleted.
    pub fn hosts_in(&self, tx: &Tx) -> Result<Vec<Host>> {
        db::host_list_in(tx)
    }

    /// A host's heartbeat is another one now: its state follows, and the alarm.
    pub fn host_health_in(&self, tx: &Tx, id: &str, health: Health) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted && h.health != health) else { return Ok(()) };
        host.upkeep.on_loss = self.on_loss_in(tx)?;
        let before = host.is_silent();
        host.health = health;
        self.host_judged_in(tx, host, before)
    }

    /// What follows from a lost heartbeat may be another thing now: the states and alarms of all hosts follow.
    pub(crate) fn hosts_on_loss_in(&self, tx: &Tx) -> Result<()> {
        let on_loss = self.on_loss_in(tx)?;
        for mut host in db::host_list_in(tx)?.into_iter().filter(|host| host.upkeep.on_loss != on_loss) {
            let before = host.is_silent();
            host.upkeep.on_loss = on_loss;
            self.host_judged_in(tx, host, before)?;
        }
        Ok(())
    }

    /// Its heartbeat, or what follows from it, is another one; `before`: whether it was out of service by it.
    fn host_judged_in(&self, tx: &Tx, mut host: Host, before: bool) -> Result<()> {
        let (lost, back) = (host.is_silent() && !before, before && !host.is_silent());
        host.upkeep.waiting = host.is_silent() && self.cut_off.load(Ordering::Relaxed);
        if lost {
            host.loss_count(Timestamp::now(), Duration::from_secs(self.core.config.int("maintenance.steady_seconds")));
        } else if back {
            host.upkeep.back_at = Some(Timestamp::now());
        }
        db::host_put_in(tx, &mut host)?;
        self.host_heartbeat_alarm_in(tx, &host)?;
        if !lost && !back {
            return Ok(());
        }
        self.compute.host_lost_in(tx, &host.uuid, host.is_lost())?;
        if !host.is_waited_for() {
            self.host_status_log_in(tx, &host)?;
        }
        // One that comes and goes is not relied on, however well it is now.
        if back && host.upkeep.losses > GRACEFUL && host.upkeep.enabling == Enabling::Done && !host.locked && host.task.is_empty() {
            host.upkeep.shut = !host.failed && self.compute.host_is_shut_in(tx, &host.uuid)?;
            let why = format!("its heartbeat was lost {} times in a row", host.upkeep.losses);
            self.host_enable_failed_in(tx, &mut host, Cause::Heartbeat, &why)?;
        }
        Ok(())
    }

    /// On one of its networks a host's heartbeat is another one now.
    pub fn host_way_in(&self, tx: &Tx, id: &str, way: Way, health: Health) -> Result<()> {
        let Some(host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted) else { return Ok(()) };
        let mut ways = host.upkeep.ways.unwrap_or([Health::Well; 2]);
        ways[way as usize] = health;
        self.host_ways_in(tx, id, Some(ways))
    }

    /// The same of all of them; none: it has only one, of which nothing more is to be told than of the host.
    pub fn host_ways_in(&self, tx: &Tx, id: &str, ways: Option<[Health; 2]>) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted && h.upkeep.ways != ways) else { return Ok(()) };
        host.upkeep.ways = ways;
        host.upkeep.on_loss = self.on_loss_in(tx)?;
        db::host_put_in(tx, &mut host)?;
        self.host_heartbeat_alarm_in(tx, &host)
    }

    fn host_status_log_in(&self, tx: &Tx, host: &Host) -> Result<()> {
        let state = if host.is_lost() { "failed" } else { "online" };
        let text = format!("{} is now '{state}'", host.hostname);
        self.faults.log_in(tx, &Alarm::known(STATE, format!("{}.status={state}", entity(&host.hostname)), Severity::None, text, ""))
    }

    fn host_heartbeat_alarm_in(&self, tx: &Tx, host: &Host) -> Result<()> {
        let [management, cluster] = host.upkeep.ways.unwrap_or([host.health, Health::Well]);
        self.host_way_alarm_in(tx, host, HEARTBEAT, "management", management)?;
        self.host_way_alarm_in(tx, host, CLUSTER, "cluster-host", cluster)
    }

    fn host_way_alarm_in(&self, tx: &Tx, host: &Host, id: &str, network: &str, health: Health) -> Result<()> {
        let name = &host.hostname;
        let severity = match health {
            _ if host.upkeep.on_loss == OnLoss::Nothing => return self.faults.alarm_clear_in(tx, id, &entity(name)).map(drop),
            Health::Well => return self.faults.alarm_clear_in(tx, id, &entity(name)).map(drop),
            Health::Degraded => Severity::Major,
            Health::Lost => Severity::Critical,
        };
        let what = match health {
            Health::Lost => format!("{name} has lost its heartbeat on the {network} network"),
            _ => format!("{name} is experiencing intermittent heartbeat loss on the {network} network"),
        };
        let so = match health {
            Health::Lost if host.is_waited_for() => ", as too many hosts have; nothing is recovered elsewhere.",
            Health::Lost if host.is_silent() => "; its instances recover elsewhere.",
            _ if host.upkeep.on_loss == OnLoss::Alarm => "; nothing is done about it (`heartbeat_failure_action`).",
            Health::Lost if host.health == Health::Lost => "; host is degraded (`heartbeat_failure_action`).",
            Health::Lost => "; it answers on another network, and is degraded.",
            _ => "; host is degraded.",
        };
        let repair =
            format!("Check the host's power and its link to the {network} network; what the host reports when it is back needs no action.");
        self.faults.alarm_set_in(tx, &Alarm::known(id, entity(name), severity, format!("{what}{so}"), &repair)).map(drop)
    }

    /// Too many hosts are silent at once, or no longer are: an event of the controller's own host. Hosts that are lost are waited
    /// for meanwhile, with no change of their state.
    pub fn site_cut_off_in(&self, tx: &Tx, cut_off: bool) -> Result<()> {
        self.site_wait_in(tx, cut_off)?;
        let hosts = db::host_list_in(tx)?;
        let name = hosts.iter().find(|h| h.personality == "controller").map_or("controller", |h| h.hostname.as_str());
        let (event, text) = match cut_off {
            true => ("mnfa_enter", "too many hosts are silent at once: nothing is recovered elsewhere until they answer again"),
            false => ("mnfa_exit", "enough hosts answer again, or too many have been silent for too long"),
        };
        self.faults
            .log_in(tx, &Alarm::known(EVENT, format!("{}.event={event}", entity(name)), Severity::None, format!("{name}: {text}"), ""))
    }

    /// Whether hosts that are lost are waited for.
    pub fn site_wait_in(&self, tx: &Tx, wait: bool) -> Result<()> {
        self.cut_off.store(wait, Ordering::Relaxed);
        for mut host in db::host_list_in(tx)? {
            let waiting = wait && host.is_silent();
            if host.upkeep.waiting == waiting {
                continue;
            }
            host.upkeep.waiting = waiting;
            db::host_put_in(tx, &mut host)?;
            if host.is_silent() {
                self.host_heartbeat_alarm_in(tx, &host)?;
                if !waiting {
                    self.host_status_log_in(tx, &host)?;
                }
            }
        }
        Ok(())
    }

    /// The host's guard has answered with the list of the site: from now on its guests can be counted on to end with its lease.
    pub fn host_leased_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.leased) else { return Ok(()) };
        host.leased = true;
        db::host_put_in(tx, &mut host)
    }

    /// The host has certainly stopped what may run elsewhere, and gets no lease until it is admitted. Its routers go to others.
    pub fn host_fence_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| !h.deleted && !h.fenced) else { return Ok(()) };
        let forced = host.is_forced();
        host.fenced = true;
        db::host_put_in(tx, &mut host)?;
        if forced {
            self.host_lock_in(tx, host)?;
        }
        self.compute.host_lost_in(tx, id, true)?;
        self.network.host_close_in(tx, id, true)?;
        // Nobody is to wait for a host that says nothing: what it must know it is told when it calls again.
        let (sessions, id) = (self.core.hosts.sessions().clone(), id.to_string());
        tx.after_commit(move || sessions.end(&id, "this host has lost its lease"));
        Ok(())
    }

    /// The host is back and knows what of its own is elsewhere now.
    pub fn host_admit_in(&self, tx: &Tx, id: &str) -> Result<()> {
        let Some(mut host) = db::host_fetch_in(tx, id)?.filter(|h| h.fenced) else { return Ok(()) };
        host.fenced = false;
        db::host_put_in(tx, &mut host)?;
        self.compute.host_lost_in(tx, id, host.is_lost())?;
        self.network.host_close_in(tx, id, host.locked)
    }
}
