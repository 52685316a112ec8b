//! Hosts that are to be emptied (VIM specification, section 3, "lock pre-check" and "migrate"): what keeps a server on its host,
//! and one look at how far it is on its way from there.

use base::{Context, Error, Kind, Result, Timestamp};
use store::Tx;

use super::LiveWish;
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::db::{migrations, nodes, volumes};
use crate::states::{task, vm};

impl Compute {
    /// The servers that have to leave a host before it is locked. An error says why one of them, or all, cannot; nothing has moved
    /// then. One that is switched off, or has failed, stays with its host.
    pub fn departing_in(&self, tx: &Tx, host_id: &str) -> Result<Vec<String>> {
        let others = nodes::node_list_in(tx)?.into_iter().any(|n| n.id != host_id && n.is_up() && !n.disabled);
        let mut ids = Vec::new();
        for server in db::servers_on_host_in(tx, host_id)? {
            if server.task_state.is_none() && rests(&server) {
                continue;
            }
            if let Some(why) = self.obstacle_in(tx, &server, others)? {
                return Err(Error::conflict(why));
            }
            ids.push(server.id);
        }
        match ids.is_empty() || others {
            true => Ok(ids),
            false => Err(Error::conflict("there are no other hypervisors available.")),
        }
    }

    /// `others`: there are hosts it could go to, as far as they go.
    fn obstacle_in(&self, tx: &Tx, server: &Server, others: bool) -> Result<Option<String>> {
        let name = &server.display_name;
        let why = match (server.vm_state.as_str(), &server.task_state) {
            (vm::PAUSED, None) if !others || self.live_obstacle_in(tx, server)?.is_none() => return Ok(None),
            (vm::PAUSED, _) => "is paused",
            (vm::SUSPENDED, _) => "is suspended",
            (vm::RESIZED, _) => "is resizing",
            (_, Some(task)) => self.busy_in(tx, server, task)?,
            // What keeps its volumes here keeps them when it is off, too.
            (vm::ACTIVE, _) if others && !volumes::volumes_of_in(tx, &server.id)?.is_empty() => {
                let Some(why) = self.live_obstacle_in(tx, server)? else { return Ok(None) };
                let host = server.host.as_deref().unwrap_or_default();
                return Ok(Some(format!(
                    "instance {name} can't be live-migrated by the system.  Manually move the instance off of host {host}. ({why})"
                )));
            }
            (vm::ACTIVE, _) => return Ok(None),
            _ => "is in a state that cannot be migrated",
        };
        Ok(Some(format!("instance {name} {why}.")))
    }

    /// What keeps a server busy, in StarlingX's words.
    fn busy_in(&self, tx: &Tx, server: &Server, busy: &str) -> Result<&'static str> {
        Ok(match busy {
            task::MIGRATING => "is migrating",
            task::REBUILDING => "is rebuilding",
            task::RESIZE_PREP | task::RESIZE_MIGRATING => match migrations::last_move_in(tx, &server.id)?.as_deref() {
                Some("migration") => "is migrating",
                _ => "is resizing",
            },
            _ => "action in progress",
        })
    }

    /// Why a server cannot go to another host as it is, running or paused.
    fn live_obstacle_in(&self, tx: &Tx, server: &Server) -> Result<Option<String>> {
        match self.live_choose_in(tx, server, None, false, None, &[]) {
            Ok(_) => Ok(None),
            Err(error) if error.is(Kind::NoCapacity) || error.is(Kind::Conflict) => Ok(Some(error.message().to_string())),
            Err(error) => Err(error),
        }
    }

    /// One look at a server that leaves a host, and the next thing to be done for it. True: it is not there any more, or rests there.
    /// A migration that was begun after `since` and came to nothing is an error. Not `wanted` any more, it is only seen to its end.
    pub async fn depart(&self, ctx: &Context, id: &str, host_id: &str, since: Timestamp, wanted: bool) -> Result<bool> {
        let look = self.core.store.read(|tx| {
            let newest = migrations::migrations_since_in(tx, id, since)?;
            let fault = db::faults_of_in(tx, &[id.to_string()])?.remove(id).map(|fault| fault.message);
            let server = db::server_fetch_in(tx, id, false)?;
            let movable = server.as_ref().filter(|s| s.task_state.is_none() && matches!(s.vm_state.as_str(), vm::ACTIVE | vm::PAUSED));
            let live = movable.map(|server| self.live_obstacle_in(tx, server)).transpose()?.is_some_and(|why| why.is_none());
            Ok((server, newest, fault, self.host_away_in(tx, host_id)?, live))
        });
        let (server, begun, fault, away, live) = look.await?;
        let Some(server) = server else { return Ok(true) };
        if server.task_state.is_some() || server.doc.gate.is_some() {
            return Ok(false);
        }
        if server.host_id.as_deref() != Some(host_id) {
            if server.vm_state != vm::RESIZED {
                return Ok(true);
            }
            // The system's own migration needs nobody to confirm it.
            self.server_resize_confirm(ctx, id).await?;
            return Ok(false);
        }
        if rests(&server) || !wanted {
            return Ok(true);
        }
        if begun > 0 {
            let why = fault.unwrap_or_else(|| "its migration came to nothing.".into());
            return Err(Error::conflict(format!("instance {} could not be moved: {why}", server.display_name)));
        }
        if away {
            return Ok(false);
        }
        let begun = match live {
            true => self.server_migrate_live(ctx, id, LiveWish::default()).await,
            // Switched off, it has room where it cannot go running.
            false => self.server_migrate(ctx, id, None).await,
        };
        match begun {
            // Refused because its host has just hung up.
            Err(_) if self.core.store.read(|tx| self.host_away_in(tx, host_id)).await? => Ok(false),
            begun => begun.map(|()| false),
        }
    }
}

fn rests(server: &Server) -> bool {
    matches!(server.vm_state.as_str(), vm::STOPPED | vm::ERROR | vm::SHELVED)
}
