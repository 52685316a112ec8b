//! Dead-office recovery: when all of a site has lost its power, machines come back when they can, some long after the controller. Who
//! took each that is not there yet for lost would reset and evacuate what would have been back by itself a minute later. So the site
//! is waited for first; nothing is switched off and nothing is started elsewhere meanwhile.

use std::time::Duration;

use base::{Result, Timestamp};
use inventory::{Host, Inventory, Site};
use service::Core;

/// A share of the hosts, as one in so many, that must have been up for the whole time.
const SHARE: usize = 2;
/// With fewer hosts than that a short time is waited.
const FEW: usize = 4;

/// Where the controller runs, as it is now.
pub struct Machine {
    pub boot: String,
    pub uptime: Duration,
}

impl Machine {
    pub fn now() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        // Without them the site counts as one that never lost its power.
        let uptime = read("/proc/uptime").split_whitespace().next().and_then(|text| text.parse().ok()).map(Duration::from_secs_f64);
        Machine { boot: read("/proc/sys/kernel/random/boot_id").trim().into(), uptime: uptime.unwrap_or(Duration::MAX) }
    }
}

/// For how long machines, and a site of few, are waited for.
#[derive(Clone, Copy)]
pub struct Times {
    pub up: Duration,
    pub few: Duration,
}

/// A host that is waited for.
pub struct Awaited {
    /// In service.
    pub enabled: bool,
    /// For how long its machine is up; none: it has no session.
    pub uptime: Option<Duration>,
}

/// What is to be noted down of the site now.
fn judge(site: &Site, machine: &Machine, hosts: &[Awaited], times: Times, now: Timestamp) -> Site {
    let boot = machine.boot.clone();
    let outage = match site.outage {
        // Nobody knows of an earlier boot: the site is new.
        _ if site.boot.is_empty() || boot.is_empty() => None,
        // This machine has rebooted, just now; with it, perhaps, all the others.
        outage if site.boot != boot => (machine.uptime < times.up).then(|| outage.unwrap_or(now)),
        outage => outage,
    };
    let over = |since: Timestamp| {
        let long = hosts.iter().filter(|host| host.uptime.is_some_and(|uptime| uptime >= times.up)).count();
        machine.uptime >= times.up
            || hosts.iter().all(|host| host.enabled)
            || long * SHARE >= hosts.len()
            || (hosts.len() < FEW && now.since(since) >= times.few)
    };
    Site { boot, outage: outage.filter(|since| !over(*since)) }
}

/// Whether the site is waited for. To be asked before anything is done about hosts that are not there.
pub async fn waits(core: &Core, inventory: &Inventory) -> Result<bool> {
    let seconds = |key| Duration::from_secs(core.config.int(key));
    let times = Times { up: seconds("maintenance.outage_seconds"), few: seconds("maintenance.outage_small_seconds") };
    let (site, hosts) = core.store.read(|tx| Ok((inventory.site_in(tx)?, inventory.hosts_in(tx)?))).await?;
    let machine = Machine::now();
    if site.outage.is_none() && site.boot == machine.boot {
        return Ok(false);
    }
    let sessions = core.hosts.sessions().connected();
    let awaited = |host: &Host| Awaited {
        enabled: host.operational() == "enabled",
        uptime: sessions.iter().find(|info| info.id == host.uuid).map(|info| Duration::from_secs(info.uptime_seconds)),
    };
    let hosts: Vec<Awaited> =
        hosts.iter().filter(|host| host.provisioned && !host.locked && host.personality != "controller").map(awaited).collect();
    let judged = judge(&site, &machine, &hosts, times, Timestamp::now());
    let waits = judged.outage.is_some();
    if judged != site {
        let inventory = inventory.clone();
        core.store.write(move |tx| inventory.site_put_in(tx, &judged)).await?;
        match waits {
            true => tracing::warn!("this machine has just booted, and may have been down with the whole site: its hosts are waited for"),
            false if site.outage.is_some() => tracing::warn!("the site is waited for no longer"),
            false => {}
        }
    }
    Ok(waits)
}

/// Whether guests of hosts that are there may be started anew: the site is not waited for, or has been for a while.
pub async fn is_stable(core: &Core, inventory: &Inventory) -> Result<bool> {
    if !waits(core, inventory).await? {
        return Ok(true);
    }
    let outage = core.store.read(|tx| inventory.site_in(tx)).await?.outage;
    // As upstream: 240 s of 1200.
    let stable = Duration::from_secs(core.config.int("maintenance.outage_seconds")) / 5;
    Ok(outage.is_none_or(|since| Timestamp::now().since(since) >= stable))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { up: Duration::from_secs(1200), few: Duration::from_secs(60) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(seconds))
    }

    fn site(boot: &str, outage: Option<u64>) -> Site {
        Site { boot: boot.into(), outage: outage.map(at) }
    }

    fn machine(uptime: u64) -> Machine {
        Machine { boot: "b".into(), uptime: Duration::from_secs(uptime) }
    }

    /// Hosts up for so long, none of them in service.
    fn hosts(uptimes: &[Option<u64>]) -> Vec<Awaited> {
        uptimes.iter().map(|uptime| Awaited { enabled: false, uptime: uptime.map(Duration::from_secs) }).collect()
    }

    fn waits(site: &Site, uptime: u64, hosts: &[Awaited], now: u64) -> Option<Timestamp> {
        let judged = judge(site, &machine(uptime), hosts, TIMES, at(now));
        assert_eq!(judged.boot, "b");
        judged.outage
    }

    #[test]
    fn a_controller_that_starts_again_is_no_outage() {
        let away = hosts(&[None; 6]);
        assert_eq!(waits(&site("b", None), 100, &away, 100), None, "the same boot");
        assert_eq!(waits(&site("", None), 100, &away, 100), None, "a new site on a machine that has just booted");
        assert_eq!(waits(&site("a", None), 1200, &away, 1200), None, "a machine that is up for long");
        assert_eq!(waits(&site("a", None), 100, &away, 100), Some(at(100)));
        assert_eq!(waits(&site("b", Some(100)), 300, &away, 300), Some(at(100)), "since then");
    }

    /// VIM specification, acceptance 10: not before half of the hosts are up for 20 minutes.
    #[test]
    fn it_is_over_when_half_of_the_hosts_are_up_for_long_or_all_are_in_service() {
        let begun = site("b", Some(100));
        assert!(waits(&begun, 1100, &hosts(&[Some(1199), Some(1199), Some(1000), Some(900)]), 1100).is_some());
        assert!(waits(&begun, 1100, &hosts(&[Some(1200), Some(900), None, None]), 1100).is_some());
        assert!(waits(&begun, 1100, &hosts(&[Some(1200), Some(1200), None, None]), 1100).is_none());
        // The controller's machine alone was off.
        assert!(waits(&site("a", None), 50, &hosts(&[Some(9000), Some(9000), Some(9000), None]), 50).is_none());
        let mut back = hosts(&[Some(40), Some(50), Some(60), Some(70)]);
        assert!(waits(&begun, 200, &back, 200).is_some());
        back.iter_mut().for_each(|host| host.enabled = true);
        assert!(waits(&begun, 200, &back, 200).is_none());
        assert!(waits(&begun, 1200, &hosts(&[None; 4]), 1200).is_none(), "at most so long");
        // Few are waited for a minute.
        let few = hosts(&[Some(40), None]);
        assert!(waits(&begun, 159, &few, 159).is_some() && waits(&begun, 160, &few, 160).is_none());
    }

    #[test]
    fn this_machine_tells_of_itself() {
        let machine = Machine::now();
        assert!(machine.boot.len() == 36 && machine.uptime > Duration::ZERO && machine.uptime < Duration::MAX);
    }
}
