//! Logs of hosts' compute services and hypervisors, as the infrastructure manager of StarlingX gives them (VIM specification, section 5).

use base::Result;
use fault::{Alarm, Severity};
use store::Tx;

use crate::Compute;
use crate::db::nodes::{self, Node};
use crate::vim::because;

/// What of a host's compute service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Failed,
    Enabled,
    Disabled,
}

impl Service {
    fn of(enabled: bool, up: bool) -> Service {
        match (enabled, up) {
            (false, _) => Service::Disabled,
            (true, true) => Service::Enabled,
            (true, false) => Service::Failed,
        }
    }

    fn log(self) -> &'static str {
        match self {
            Service::Failed => "270.101",
            Service::Enabled => "270.102",
            Service::Disabled => "270.103",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Service::Failed => "failed",
            Service::Enabled => "enabled",
            Service::Disabled => "disabled",
        }
    }
}

/// The hypervisor's.
const HYPERVISOR: &str = "275.001";

/// Whether a service may be enabled, and be there.
const ALL: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

/// A hypervisor's state, in the words that are kept of it.
fn state(enabled: bool, up: bool) -> String {
    format!("{}-{}", if enabled { "enabled" } else { "disabled" }, if up { "up" } else { "down" })
}

/// Why a service failed, or was disabled.
fn reason(node: &Node) -> Option<&str> {
    match node {
        Node { disabled: true, disabled_reason, .. } => disabled_reason.as_deref().filter(|why| !why.is_empty()),
        Node { lost: true, .. } => Some("the host does not answer"),
        Node { forced_down: true, .. } => Some("it was forced down"),
        Node { connected: false, .. } => Some("the host has no session"),
        _ => None,
    }
}

impl Compute {
    /// Logs the state of a host's service and of its hypervisor, if it is another one than was logged last. Nothing is done with servers.
    pub(crate) fn host_tell_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        let Some(node) = nodes::node_fetch_in(tx, host_id)? else { return Ok(()) };
        let (enabled, up) = (!node.disabled, node.is_up());
        let (now, service) = (state(enabled, up), Service::of(enabled, up));
        if node.told == now {
            return Ok(());
        }
        let before = ALL.into_iter().find(|(enabled, up)| node.told == state(*enabled, *up));
        if before.map(|(enabled, up)| Service::of(enabled, up)) != Some(service) {
            let text = format!("Compute services of host {} are {}{}", node.name, service.word(), because(reason(&node)));
            let entity = format!("host={}.services=compute", node.name);
            self.faults.log_in(tx, &Alarm::known(service.log(), entity, Severity::Critical, text, ""))?;
        }
        let text = format!("Hypervisor of host {} is {}", node.name, now.replace('-', " and "));
        let entity = format!("host={}.hypervisor={}", node.name, node.id);
        self.faults.log_in(tx, &Alarm::known(HYPERVISOR, entity, Severity::Critical, text, ""))?;
        nodes::node_told_in(tx, host_id, &now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_disabled_does_not_fail() {
        let all = ALL.map(|(enabled, up)| Service::of(enabled, up));
        assert_eq!(all, [Service::Enabled, Service::Failed, Service::Disabled, Service::Disabled]);
        assert_eq!((state(true, false), state(false, true)), ("enabled-down".into(), "disabled-up".into()));
    }
}
