//! What servers claim of hosts, in placement: their own resources, and what their ports ask for.

use base::{Error, Result};
use network::Demand;
use placement::{Claim, Group};
use store::Tx;

use crate::Compute;
use crate::db::servers::{self as db, Server};

/// Demands as placement's groups, in order.
pub(crate) fn groups(demands: &[Demand]) -> Vec<Group> {
    demands.iter().map(|d| Group { resources: d.resources.clone(), required: d.traits.clone() }).collect()
}

impl Compute {
    /// What a server's ports ask for besides its own resources.
    pub(crate) fn groups_in(&self, tx: &Tx, server_id: &str) -> Result<Vec<Group>> {
        Ok(groups(&self.network.demands_in(tx, server_id)?))
    }

    /// Claims `resources` of a host for a server, and what its ports ask for; the ports know afterwards who gives it to them.
    /// `NoCapacity` when it does not fit.
    pub(crate) fn claim_in(&self, tx: &Tx, server: &Server, host_id: &str, resources: &[(String, u64)]) -> Result<()> {
        self.claim_with_in(tx, server, host_id, resources, self.network.demands_in(tx, &server.id)?)
    }

    /// As [`Compute::claim_in`], where a server stays: of its ports' demands only what they have, and all of a new port's.
    pub(crate) fn claim_here_in(
        &self,
        tx: &Tx,
        server: &Server,
        host_id: &str,
        resources: &[(String, u64)],
        newcomer: Option<&str>,
    ) -> Result<()> {
        self.claim_with_in(tx, server, host_id, resources, self.network.demands_kept_in(tx, &server.id, newcomer)?)
    }

    fn claim_with_in(&self, tx: &Tx, server: &Server, host_id: &str, resources: &[(String, u64)], demands: Vec<Demand>) -> Result<()> {
        let given = self.placement.claim_in(tx, &claim(server, host_id, resources, &groups(&demands)))?;
        let given: Vec<(Demand, String)> = demands.into_iter().zip(given).collect();
        self.network.promises_put_in(tx, &server.id, &given)
    }

    /// Gives a server what was handed over to a migration, in place of what it has by now, as far as its ports still ask for it. They know
    /// afterwards who gives it to them. Nothing is asked for anew.
    pub(crate) fn claim_back_in(
        &self,
        tx: &Tx,
        migration: &str,
        server: &Server,
        host_id: &str,
        resources: &[(String, u64)],
    ) -> Result<()> {
        let beside = self.placement.roots_of_in(tx, &server.id)? == [host_id.to_string()];
        self.placement.hand_over_in(tx, migration, &server.id, beside.then_some(host_id))?;
        self.placement.release_in(tx, migration)?;
        let mut kept = Vec::new();
        for demand in self.network.demands_in(tx, &server.id)? {
            kept.push(demand);
            if !self.placement.holds_in(tx, &claim(server, host_id, resources, &groups(&kept)))? {
                kept.pop();
            }
        }
        self.claim_with_in(tx, server, host_id, resources, kept)
    }

    /// Claims anew what a server has on its host, after its ports have come to ask for something else: what they had nothing of they do not
    /// get. `NoCapacity` when that is too much, `Conflict` while the server is in a task or may still go back to another host, where there
    /// may not be so much; less is always fine. A server that has no claim gets none.
    pub(crate) fn demands_changed_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        let Some(server) = db::server_fetch_in(tx, server_id, false)? else { return Ok(()) };
        let roots = self.placement.roots_of_in(tx, server_id)?;
        let Some(root) = roots.first() else { return Ok(()) };
        // Its own resources as they are: in a task they need not be those of its flavor.
        let held = self.placement.held_in(tx, server_id)?;
        let own = held.into_iter().filter(|((provider, class), _)| provider == root && !network::is_demanded(class));
        let own: Vec<(String, u64)> = own.map(|((_, class), amount)| (class, amount)).collect();
        let demands = self.network.demands_kept_in(tx, server_id, None)?;
        let less = roots.len() == 1 && self.placement.holds_in(tx, &claim(&server, root, &own, &groups(&demands)))?;
        if !less {
            if let Some(task) = &server.task_state {
                return Err(Error::conflict(format!("it is in task state {task}.")));
            }
            if server.doc.resize.as_ref().is_some_and(|resize| resize.source.is_some()) {
                return Err(Error::conflict("it may still go back to the host that it came from."));
            }
            if server.host_id.as_ref() != Some(root) || roots.len() > 1 {
                return Err(Error::conflict("it is on its way from a host to another."));
            }
        }
        self.claim_with_in(tx, &server, root, &own, demands)
    }
}

fn claim<'a>(server: &'a Server, host_id: &'a str, resources: &'a [(String, u64)], groups: &'a [Group]) -> Claim<'a> {
    Claim {
        consumer: &server.id,
        kind: "INSTANCE",
        project_id: &server.project_id,
        user_id: &server.user_id,
        provider: host_id,
        resources,
        groups,
    }
}
