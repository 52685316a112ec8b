//! Sees to it that each server group whose policy does not hold has its alarm (VIM specification, section 5): a server that was forced onto
//! a host, or that had no other place when its own was lost, may break it. The alarm follows from where the members are, and from nothing else.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use fault::{Alarm, Severity};
use store::Tx;
use task::Reconciler;

use crate::Compute;
use crate::db::server_groups::{self as db, ServerGroup};

pub const NAME: &str = "compute.group_alarms";
const VIOLATED: &str = "700.017";
const REPAIR: &str = "Migrate instances of the server group to other hosts, so that its policy holds again";
/// It is woken by what happens to members; this is for what was missed.
const LOOK: Duration = Duration::from_secs(60);
/// What happens at about the same time is looked at together.
const GATHER: Duration = Duration::from_millis(100);

pub struct GroupAlarms {
    compute: Compute,
}

impl GroupAlarms {
    pub fn new(compute: Compute) -> GroupAlarms {
        GroupAlarms { compute }
    }
}

#[async_trait]
impl Reconciler for GroupAlarms {
    fn name(&self) -> &'static str {
        NAME
    }
    fn every(&self) -> Duration {
        LOOK
    }
    async fn run(&self) -> Result<()> {
        tokio::time::sleep(GATHER).await;
        let store = &self.compute.core.store;
        if store.read(|tx| self.compute.group_changes_in(tx)).await?.is_empty() {
            return Ok(());
        }
        let this = self.compute.clone();
        store.write(move |tx| this.groups_align_in(tx)).await
    }
}

/// What is to be done about an entity's alarm: set it, with this text, or clear it.
type Changes = BTreeMap<String, Option<String>>;

/// Why a group's policy does not hold. Soft ones are wishes, which nothing breaks.
fn violation(group: &ServerGroup, hosts: &HashMap<String, u64>) -> Option<String> {
    let most = group.rules["max_server_per_host"].as_u64().unwrap_or(1).max(1);
    let crowded = hosts.values().any(|members| *members > most);
    match group.policy.as_str() {
        "affinity" if hosts.len() > 1 => Some(format!("its members are on {} hosts", hosts.len())),
        "anti-affinity" if crowded => Some(format!("more than {most} of its members are on one host")),
        _ => None,
    }
}

impl Compute {
    /// Where alarms differ from what they should be.
    fn group_changes_in(&self, tx: &Tx) -> Result<Changes> {
        let present = self.faults.alarm_entities_in(tx, VIOLATED)?;
        let mut changes: Changes = present.into_iter().map(|entity| (entity, None)).collect();
        let hosts = db::group_hosts_in(tx)?;
        for group in db::server_group_list_in(tx, None)? {
            let Some(why) = hosts.get(&group.id).and_then(|hosts| violation(&group, hosts)) else { continue };
            let entity = format!("server-group={}", group.id);
            // One that is set stays as it is.
            if changes.remove(&entity).is_none() {
                changes.insert(entity, Some(format!("Server group {} violates its policy {}: {why}", group.name, group.policy)));
            }
        }
        Ok(changes)
    }

    fn groups_align_in(&self, tx: &Tx) -> Result<()> {
        for (entity, text) in self.group_changes_in(tx)? {
            match text {
                Some(text) => drop(self.faults.alarm_set_in(tx, &Alarm::known(VIOLATED, entity, Severity::Minor, text, REPAIR))?),
                None => drop(self.faults.alarm_clear_in(tx, VIOLATED, &entity)?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Timestamp;
    use serde_json::json;

    #[test]
    fn only_what_must_hold_can_be_violated() {
        let breaks = |policy: &str, rules: serde_json::Value, hosts: &[u64]| {
            let (id, name, user_id) = Default::default();
            let group = ServerGroup { id, name, project_id: "p".into(), user_id, policy: policy.into(), rules, created_at: Timestamp(0) };
            let hosts = hosts.iter().enumerate().map(|(n, members)| (n.to_string(), *members)).collect();
            violation(&group, &hosts).is_some()
        };
        assert!(!breaks("affinity", json!({}), &[3]) && breaks("affinity", json!({}), &[3, 1]) && !breaks("affinity", json!({}), &[]));
        assert!(!breaks("anti-affinity", json!({}), &[1, 1]) && breaks("anti-affinity", json!({}), &[1, 2]));
        let two = json!({"max_server_per_host": 2});
        assert!(!breaks("anti-affinity", two.clone(), &[2, 2]) && breaks("anti-affinity", two, &[3]));
        assert!(!breaks("soft-affinity", json!({}), &[1, 1]) && !breaks("soft-anti-affinity", json!({}), &[2]));
    }
}
