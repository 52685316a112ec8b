//! Processors that guests have for themselves: which of this machine are given away, and who has which.
//!
//! What a guest has is in its journal, so it keeps it while it is off and through restarts of the host, until it is gone from here. What
//! is in memory is who may take which one next.

pub mod machine;
pub mod set;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::{Config, Error, Result};
use rpc::instance::{Dedicated, InstanceSpec};

use machine::Processors;

/// The processor that each vCPU has for itself.
pub type Pins = BTreeMap<u32, u32>;

/// Where the threads of a guest's process run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Each vCPU.
    pub vcpus: Vec<BTreeSet<u32>>,
    /// What emulates the guest's machine around them.
    pub others: BTreeSet<u32>,
}

pub struct Cpus {
    dedicated: BTreeSet<u32>,
    shared: Option<BTreeSet<u32>>,
    processors: Processors,
    /// By guest: those that it has, or had until it is moved.
    held: Mutex<HashMap<String, BTreeSet<u32>>>,
}

impl Cpus {
    /// As the configuration has it, of the processors that the machine has.
    pub fn open(config: &Config, processors: Processors) -> Result<Cpus> {
        let set = |key: &str| {
            let found = set::parse(config.text(key), key)?;
            match found.difference(&processors.online).next() {
                Some(missing) => Err(Error::invalid(format!("`{key}`: processor {missing} is not there, or not online"))),
                None => Ok(found),
            }
        };
        let (dedicated, shared) = (set("host.cpu_dedicated_set")?, set("host.cpu_shared_set")?);
        if let Some(both) = dedicated.intersection(&shared).next() {
            let text = format!("`host.cpu_dedicated_set` and `host.cpu_shared_set` both have processor {both}");
            return Err(Error::invalid(text));
        }
        let shared = Some(shared).filter(|shared| !shared.is_empty());
        Ok(Cpus { dedicated, shared, processors, held: Mutex::default() })
    }

    pub fn dedicated(&self) -> Vec<u32> {
        self.dedicated.iter().copied().collect()
    }

    pub fn shared(&self) -> Option<Vec<u32>> {
        self.shared.as_ref().map(|shared| shared.iter().copied().collect())
    }

    pub fn threaded(&self) -> bool {
        self.processors.threaded()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<u32>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a guest has had since before the agent's start: before anybody takes anything.
    pub fn restore(&self, id: &str, pins: &Pins) {
        if !pins.is_empty() {
            self.held().insert(id.to_string(), pins.values().copied().collect());
        }
    }

    /// A processor for each vCPU that is to have one, those it had first. What it had more it keeps until [`Cpus::keep`].
    pub fn claim(&self, spec: &InstanceSpec, had: &Pins) -> Result<Pins> {
        let mut held = self.held();
        let mut pins = had.clone();
        let wanted = owners(spec);
        pins.retain(|vcpu, cpu| wanted.contains(vcpu) && self.dedicated.contains(cpu));
        let missing: Vec<u32> = wanted.into_iter().filter(|vcpu| !pins.contains_key(vcpu)).collect();
        let mut free = self.dedicated.clone();
        for (id, taken) in held.iter() {
            free.retain(|cpu| !taken.contains(cpu) || (*id == spec.id && !pins.values().any(|own| own == cpu)));
        }
        let found = self.choose(&free, missing.len());
        if found.len() < missing.len() {
            let (need, have) = (missing.len(), free.len());
            return Err(Error::conflict(format!("{need} processors of its own are wanted for the guest, and this host has {have} free")));
        }
        pins.extend(missing.into_iter().zip(found));
        let own = held.entry(spec.id.clone()).or_default();
        own.extend(pins.values());
        if own.is_empty() {
            held.remove(&spec.id);
        }
        Ok(pins)
    }

    /// So many of the free ones: threads of as few cores as can be, so that whole cores are left for others.
    fn choose(&self, free: &BTreeSet<u32>, count: usize) -> Vec<u32> {
        let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for cpu in free {
            cores.entry(self.processors.core(*cpu)).or_default().push(*cpu);
        }
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let left = count - chosen.len();
            // The largest that is taken whole, else the smallest that is enough.
            let whole =
                cores.iter().filter(|(_, cpus)| cpus.len() <= left).max_by_key(|(core, cpus)| (cpus.len(), std::cmp::Reverse(**core)));
            let part = || cores.iter().min_by_key(|(_, cpus)| cpus.len());
            let Some(core) = whole.or_else(part).map(|(core, _)| *core) else { break };
            chosen.extend(cores.remove(&core).unwrap_or_default().into_iter().take(left));
        }
        chosen
    }

    /// The guest runs on these, and on no others any more.
    pub fn keep(&self, id: &str, pins: &Pins) {
        self.held().insert(id.to_string(), pins.values().copied().collect());
    }

    /// The guest is gone from here.
    pub fn release(&self, id: &str) {
        self.held().remove(id);
    }

    /// Where a guest's threads are to run; none: wherever the kernel likes.
    pub fn affinity(&self, spec: &InstanceSpec, pins: &Pins) -> Option<Affinity> {
        let rest: BTreeSet<u32> = self.processors.online.difference(&self.dedicated).copied().collect();
        let Some(first) = pins.get(&0) else {
            let common = match &self.shared {
                Some(shared) => shared.clone(),
                None if self.dedicated.is_empty() || rest.is_empty() => return None,
                None => rest,
            };
            return Some(Affinity { vcpus: vec![common.clone(); spec.vcpus as usize], others: common });
        };
        let of = |vcpu| BTreeSet::from([*pins.get(&vcpu).unwrap_or(first)]);
        let others = self.shared.clone().unwrap_or_else(|| pins.values().copied().collect());
        Some(Affinity { vcpus: (0..spec.vcpus).map(of).collect(), others })
    }
}

/// The vCPUs that have a processor each.
pub fn owners(spec: &InstanceSpec) -> BTreeSet<u32> {
    match &spec.dedicated {
        Some(Dedicated { offline }) => (0..spec.vcpus).filter(|vcpu| !offline.contains(vcpu)).collect(),
        None => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// Eight processors, the first four and the last four two threads of a core each.
    fn cpus(dedicated: &str, shared: &str) -> Result<Cpus> {
        let siblings = (0..8).map(|cpu| (cpu, BTreeSet::from([cpu / 2 * 2, cpu / 2 * 2 + 1]))).collect();
        let mut config = Config::for_home(std::path::Path::new("/nonexistent"));
        config.set("host.cpu_dedicated_set", dedicated);
        config.set("host.cpu_shared_set", shared);
        Cpus::open(&config, Processors { online: (0..8).collect(), siblings })
    }

    fn guest(vcpus: u32, offline: &[u32]) -> InstanceSpec {
        InstanceSpec { vcpus, dedicated: Some(Dedicated { offline: offline.iter().copied().collect() }), ..testing::spec() }
    }

    fn on(pins: &Pins) -> Vec<u32> {
        pins.values().copied().collect()
    }

    #[test]
    fn sets_are_of_this_machine_and_apart() {
        for (dedicated, shared) in [("8", ""), ("", "0-9"), ("2-4", "4-5"), ("x", "")] {
            assert!(cpus(dedicated, shared).is_err(), "{dedicated} {shared}");
        }
        assert_eq!(cpus("2-3", "0").unwrap().shared(), Some(vec![0]));
    }

    #[test]
    fn each_has_its_own_and_what_is_given_back_is_free() {
        let cpus = cpus("2-7", "0-1").unwrap();
        let (a, b) = (guest(3, &[]), guest(2, &[]));
        let pins = cpus.claim(&a, &Pins::new()).unwrap();
        assert_eq!(on(&pins), [2, 3, 4], "whole cores first");
        let of_b = cpus.claim(&b, &Pins::new()).unwrap();
        assert_eq!(on(&of_b), [6, 7], "a core is not shared without need");
        assert!(cpus.claim(&guest(2, &[]), &Pins::new()).unwrap_err().message().contains("1 free"));
        assert_eq!(cpus.claim(&a, &pins).unwrap(), pins, "again the same");
        // Less: what it had is another's only when it runs there no more.
        let less = InstanceSpec { dedicated: Some(Dedicated { offline: [1].into() }), ..a.clone() };
        let fewer = cpus.claim(&less, &pins).unwrap();
        assert_eq!(fewer, Pins::from([(0, 2), (2, 4)]));
        assert!(cpus.claim(&guest(2, &[]), &Pins::new()).is_err());
        cpus.keep(&a.id, &fewer);
        assert_eq!(on(&cpus.claim(&guest(2, &[]), &Pins::new()).unwrap()), [3, 5]);
        cpus.release(&b.id);
        assert_eq!(on(&cpus.claim(&guest(1, &[]), &Pins::new()).unwrap()), [6]);
    }

    #[test]
    fn what_was_held_before_is_nobody_elses() {
        let cpus = cpus("2-3", "").unwrap();
        let old = guest(1, &[]);
        cpus.restore(&old.id, &Pins::from([(0, 2)]));
        assert_eq!(on(&cpus.claim(&guest(1, &[]), &Pins::new()).unwrap()), [3]);
        assert_eq!(on(&cpus.claim(&old, &Pins::from([(0, 2)])).unwrap()), [2]);
        // Of a set that has changed meanwhile.
        let (moved, pins) = (guest(1, &[]), Pins::from([(0, 7)]));
        assert!(cpus.claim(&moved, &pins).is_err());
        cpus.release(&old.id);
        assert_eq!(on(&cpus.claim(&moved, &pins).unwrap()), [2]);
    }

    #[test]
    fn threads_run_where_they_belong() {
        let pins = Pins::from([(0, 4), (2, 5)]);
        let spec = guest(3, &[1]);
        let set = |cpus: &[u32]| cpus.iter().copied().collect::<BTreeSet<u32>>();
        let affinity = cpus("4-7", "0-1").unwrap().affinity(&spec, &pins).unwrap();
        assert_eq!(affinity, Affinity { vcpus: vec![set(&[4]), set(&[4]), set(&[5])], others: set(&[0, 1]) });
        assert_eq!(cpus("4-7", "").unwrap().affinity(&spec, &pins).unwrap().others, set(&[4, 5]), "with its own vCPUs");
        // A guest that shares.
        let plain = testing::spec();
        let shares = |dedicated, shared| cpus(dedicated, shared).unwrap().affinity(&plain, &Pins::new()).map(|a| a.others);
        assert_eq!(shares("4-7", "0-1"), Some(set(&[0, 1])));
        assert_eq!(shares("4-7", ""), Some(set(&[0, 1, 2, 3])), "what is dedicated is left to those it belongs to");
        assert_eq!((shares("", ""), shares("0-7", "")), (None, None));
    }
}
