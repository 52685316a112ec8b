//! Starting, stopping, rebooting, pausing.

use base::{Context, Error, Result};
use rpc::instance::{Power, Restart};
use serde::{Deserialize, Serialize};
use store::Tx;

use super::former::Former;
use super::{require_free, require_state, require_unlocked, wrong_state};
use crate::Compute;
use crate::db::servers::{self as db, Server};
use crate::db::{actions, nodes};
use crate::gate::Gated;
use crate::op;
use crate::states::{task, vm};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    Start,
    Stop,
    RebootSoft,
    RebootHard,
    Pause,
    Unpause,
    Suspend,
    Resume,
    Rebuild,
    Rescue,
    Unrescue,
    RevertResize,
}

impl PowerAction {
    /// The word in faults, as the reference has it.
    pub fn verb(self) -> &'static str {
        match self {
            PowerAction::Start => "start",
            PowerAction::Stop => "stop",
            PowerAction::RebootSoft | PowerAction::RebootHard => "reboot",
            PowerAction::Pause => "pause",
            PowerAction::Unpause => "unpause",
            PowerAction::Suspend => "suspend",
            PowerAction::Resume => "resume",
            PowerAction::Rebuild => "rebuild",
            PowerAction::Rescue => "rescue",
            PowerAction::Unrescue => "unrescue",
            PowerAction::RevertResize => "revertResize",
        }
    }
    fn rule(self) -> &'static str {
        match self {
            PowerAction::Start => "os_compute_api:servers:start",
            PowerAction::Stop => "os_compute_api:servers:stop",
            PowerAction::RebootSoft | PowerAction::RebootHard => "os_compute_api:servers:reboot",
            PowerAction::Pause => "os_compute_api:os-pause-server:pause",
            PowerAction::Unpause => "os_compute_api:os-pause-server:unpause",
            PowerAction::Suspend => "os_compute_api:os-suspend-server:suspend",
            PowerAction::Resume => "os_compute_api:os-suspend-server:resume",
            PowerAction::Rebuild => "os_compute_api:servers:rebuild",
            PowerAction::Rescue => "os_compute_api:os-rescue",
            PowerAction::Unrescue => "os_compute_api:os-unrescue",
            PowerAction::RevertResize => "os_compute_api:servers:revert_resize",
        }
    }
    /// The middle of its notifications' names.
    pub fn event(self) -> &'static str {
        match self {
            PowerAction::Start => "power_on",
            PowerAction::Stop => "power_off",
            PowerAction::RebootSoft | PowerAction::RebootHard => "reboot",
            PowerAction::Pause => "pause",
            PowerAction::Unpause => "unpause",
            PowerAction::Suspend => "suspend",
            PowerAction::Resume => "resume",
            PowerAction::Rebuild => "rebuild",
            PowerAction::Rescue => "rescue",
            PowerAction::Unrescue => "unrescue",
            PowerAction::RevertResize => "resize.revert",
        }
    }
    /// The name of its event in the action list.
    pub fn step(self) -> &'static str {
        match self {
            PowerAction::Start => "compute_start_instance",
            PowerAction::Stop => "compute_stop_instance",
            PowerAction::RebootSoft | PowerAction::RebootHard => "compute_reboot_instance",
            PowerAction::Pause => "compute_pause_instance",
            PowerAction::Unpause => "compute_unpause_instance",
            PowerAction::Suspend => "compute_suspend_instance",
            PowerAction::Resume => "compute_resume_instance",
            PowerAction::Rebuild => "compute_rebuild_instance",
            PowerAction::Rescue => "compute_rescue_instance",
            PowerAction::Unrescue => "compute_unrescue_instance",
            PowerAction::RevertResize => "compute_finish_revert_resize",
        }
    }
    pub fn log_name(self) -> &'static str {
        match self {
            PowerAction::Start => "Start",
            PowerAction::Stop => "Stop",
            PowerAction::RebootSoft | PowerAction::RebootHard => "Reboot",
            PowerAction::Pause => "Pause",
            PowerAction::Unpause => "Unpause",
            PowerAction::Suspend => "Suspend",
            PowerAction::Resume => "Resume",
            PowerAction::Rebuild => "Rebuild",
            PowerAction::Rescue => "Rescue",
            PowerAction::Unrescue => "Unrescue",
            PowerAction::RevertResize => "Resize-Revert",
        }
    }
    fn task(self) -> &'static str {
        match self {
            PowerAction::Start => task::POWERING_ON,
            PowerAction::Stop => task::POWERING_OFF,
            PowerAction::RebootSoft => task::REBOOTING,
            PowerAction::RebootHard => task::REBOOTING_HARD,
            PowerAction::Pause => task::PAUSING,
            PowerAction::Unpause => task::UNPAUSING,
            PowerAction::Suspend => task::SUSPENDING,
            PowerAction::Resume => task::RESUMING,
            PowerAction::Rebuild => task::REBUILDING,
            PowerAction::Rescue => task::RESCUING,
            PowerAction::Unrescue => task::UNRESCUING,
            PowerAction::RevertResize => task::RESIZE_REVERTING,
        }
    }
    /// The state the server is in afterwards.
    pub fn outcome(self) -> &'static str {
        match self {
            PowerAction::Start
            | PowerAction::RebootSoft
            | PowerAction::RebootHard
            | PowerAction::Unpause
            | PowerAction::Resume
            | PowerAction::Rebuild
            | PowerAction::Unrescue
            | PowerAction::RevertResize => vm::ACTIVE,
            PowerAction::Rescue => vm::RESCUED,
            PowerAction::Suspend => vm::SUSPENDED,
            PowerAction::Stop => vm::STOPPED,
            PowerAction::Pause => vm::PAUSED,
        }
    }

    fn check(self, server: &Server) -> Result<()> {
        match self {
            PowerAction::Start => require_state("start", server, &[vm::STOPPED]),
            PowerAction::Stop => require_state("stop", server, &[vm::ACTIVE, vm::ERROR]),
            PowerAction::Pause => require_state("pause", server, &[vm::ACTIVE]),
            PowerAction::Unpause => require_state("unpause", server, &[vm::PAUSED]),
            PowerAction::Suspend => require_state("suspend", server, &[vm::ACTIVE]),
            PowerAction::Resume => require_state("resume", server, &[vm::SUSPENDED]),
            PowerAction::Rebuild => require_state("rebuild", server, &[vm::ACTIVE, vm::STOPPED, vm::ERROR]),
            PowerAction::Rescue => require_state("rescue", server, &[vm::ACTIVE, vm::STOPPED, vm::ERROR]),
            PowerAction::Unrescue => require_state("unrescue", server, &[vm::RESCUED]),
            PowerAction::RevertResize => require_state("revertResize", server, &[vm::RESIZED]),
            PowerAction::RebootSoft => require_state("reboot", server, &[vm::ACTIVE]),
            PowerAction::RebootHard => {
                // What hangs is what a hard reboot is for.
                const OVER: &[&str] = &[
                    task::REBOOTING,
                    "reboot_pending",
                    "reboot_started",
                    task::REBOOTING_HARD,
                    task::PAUSING,
                    task::UNPAUSING,
                    task::RESUMING,
                    task::SUSPENDING,
                ];
                require_free("reboot", server)?;
                if ![vm::ACTIVE, vm::STOPPED, vm::PAUSED, vm::SUSPENDED, vm::ERROR].contains(&server.vm_state.as_str()) {
                    return Err(wrong_state("reboot", server, "vm_state"));
                }
                match server.task_state.as_deref() {
                    Some(task) if !OVER.contains(&task) => Err(wrong_state("reboot", server, "task_state")),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Writes into the server what its host shall do.
    fn wish(self, server: &mut Server) {
        match self {
            PowerAction::Start | PowerAction::Unpause => server.want(Power::Running),
            PowerAction::Resume => server.want(Power::Running),
            PowerAction::Suspend => server.want(Power::Suspended),
            // A new process, on whatever the caller has changed; a server that is off stays off.
            PowerAction::Rebuild | PowerAction::RevertResize => {
                let wanted = if server.wanted == Power::Stopped { Power::Stopped } else { Power::Running };
                start_anew(server, wanted);
            }
            PowerAction::Rescue | PowerAction::Unrescue => start_anew(server, Power::Running),
            PowerAction::Stop => server.want(Power::Stopped),
            PowerAction::Pause => server.want(Power::Paused),
            PowerAction::RebootSoft | PowerAction::RebootHard => {
                server.doc.restart = if self == PowerAction::RebootSoft { Restart::Soft } else { Restart::Hard };
                server.boot += 1;
                server.want(Power::Running);
            }
        }
    }
}

fn start_anew(server: &mut Server, wanted: Power) {
    server.doc.restart = Restart::Hard;
    server.boot += 1;
    server.want(wanted);
}

impl Compute {
    /// Begins a power action: what the host shall do is stored with the operation that sees it done.
    pub async fn server_power(&self, ctx: &Context, id: &str, action: PowerAction) -> Result<()> {
        let server = self.server_for(ctx, id, action.rule()).await?;
        self.gated(ctx, server, Gated::Power(action)).await
    }

    pub(crate) fn power_in(&self, tx: &Tx, ctx: &Context, server: &mut Server, action: PowerAction) -> Result<()> {
        Self::power_check(action, ctx, server)?;
        self.power_begin_in(tx, ctx, server, action, None, None)
    }

    /// The state a power action needs, and what of the caller it needs.
    pub(crate) fn power_check(action: PowerAction, ctx: &Context, server: &Server) -> Result<()> {
        require_unlocked(server, ctx)?;
        action.check(server)
    }

    /// Writes the wish and what follows it. The server has been checked, and changed in all the action's own ways.
    pub(crate) fn power_begin_in(
        &self,
        tx: &Tx,
        ctx: &Context,
        server: &mut Server,
        action: PowerAction,
        migration: Option<String>,
        former: Option<Box<Former>>,
    ) -> Result<()> {
        require_unlocked(server, ctx)?;
        let Some(host) = &server.host_id else {
            return Err(Error::conflict(format!("Instance {} is not ready", server.id)));
        };
        let node = nodes::node_fetch_in(tx, host)?;
        action.wish(server);
        // Where an operator works nothing begins to run; the guard of all ways that end in a running guest.
        if let Some(node) = node.filter(|node| node.resting && server.wanted == Power::Running) {
            let (verb, id, host) = (action.verb(), &server.id, node.name);
            return Err(Error::conflict(format!("Cannot '{verb}' instance {id} host '{host}' is disabled")));
        }
        server.task_state = Some(action.task().into());
        db::server_update_in(tx, server)?;
        actions::action_start_in(tx, &server.id, action.verb(), ctx)?;
        crate::notify::server_event_in(tx, &format!("{}.start", action.event()), server, ctx, None)?;
        self.vim_begin_in(tx, ctx, server, action.log_name())?;
        let params = op::server_power::Params { action, generation: server.spec_generation, migration, former };
        let params = serde_json::to_value(params).map_err(|e| Error::internal("writing parameters").caused_by(e))?;
        self.core.tasks.submit(tx, op::submit(op::server_power::KIND, server, ctx, params))?;
        Ok(())
    }
}
