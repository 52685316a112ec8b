//! What servers claim of hosts, in placement: their own resources, and what their ports ask for.

use base::{Error, Kind, Result};
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
        let demands = self.network.demands_in(tx, &server.id)?;
        let given = self.placement.claim_in(tx, &claim(&server.id, server, host_id, resources, &groups(&demands)))?;
        let given: Vec<(Demand, String)> = demands.into_iter().zip(given).collect();
        self.network.promises_put_in(tx, &server.id, &given)
    }

    /// Gives a server what was handed over to a migration, in place of what it has by now, as far as it is still asked for. Its ports know
    /// afterwards who gives it to them.
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
        match self.claim_in(tx, server, host_id, resources) {
            // It keeps what it had.
            Err(error) if error.is(Kind::NoCapacity) => Ok(()),
            done => done,
        }
    }

    /// Claims anew what a server has on its host, after its ports have come to ask for something else. `NoCapacity` when that is too much,
    /// `Conflict` while the server is in a task or may still go back to another host, where there may not be so much; less is always fine.
    /// A server that has no claim gets none.
    pub(crate) fn demands_changed_in(&self, tx: &Tx, server_id: &str) -> Result<()> {
        let Some(server) = db::server_fetch_in(tx, server_id, false)? else { return Ok(()) };
        let roots = self.placement.roots_of_in(tx, server_id)?;
        let Some(root) = roots.first() else { return Ok(()) };
        // Its own resources as they are: in a task they need not be those of its flavor.
        let held = self.placement.held_in(tx, server_id)?;
        let own = held.into_iter().filter(|((provider, class), _)| provider == root && !network::is_demanded(class));
        let own: Vec<(String, u64)> = own.map(|((_, class), amount)| (class, amount)).collect();
        let groups = self.groups_in(tx, server_id)?;
        let less = roots.len() == 1 && self.placement.holds_in(tx, &claim(server_id, &server, root, &own, &groups))?;
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
        self.claim_in(tx, &server, root, &own)
    }
}

fn claim<'a>(consumer: &'a str, server: &'a Server, host_id: &'a str, resources: &'a [(String, u64)], groups: &'a [Group]) -> Claim<'a> {
    Claim { consumer, kind: "INSTANCE", project_id: &server.project_id, user_id: &server.user_id, provider: host_id, resources, groups }
}
