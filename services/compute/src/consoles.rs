//! Consoles: a short-lived token opens a guest's screen or serial port. The bytes go through the host's session.

use std::time::Duration;

use base::{Context, Error, Kind, Result, Timestamp};
use rpc::session::Stream;
use rpc::stream::Target;

use crate::Compute;
use crate::db::console_tokens::{self as db, ConsoleToken};
use crate::db::servers;
use crate::servers::wrong_state;
use crate::states::task;

const RULE: &str = "os_compute_api:os-remote-consoles";

/// What a console shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    Vnc,
    Serial,
}

impl ConsoleKind {
    fn name(self) -> &'static str {
        match self {
            ConsoleKind::Vnc => "vnc",
            ConsoleKind::Serial => "serial",
        }
    }
}

impl Compute {
    /// A token for a server's console; `kind` is looked at after the server, as is its state.
    pub async fn console_create(&self, ctx: &Context, id: &str, action: &str, kind: Result<ConsoleKind>) -> Result<(String, ConsoleKind)> {
        let server = self.server_for(ctx, id, RULE).await?;
        if server.task_state.as_deref() == Some(task::DELETING) {
            return Err(wrong_state(action, &server, "task_state"));
        }
        let not_ready = || Error::conflict(format!("Instance {id} is not ready"));
        let host_id = server.host_id.clone().ok_or_else(not_ready)?;
        let kind = kind?;
        let lifetime = Duration::from_secs(self.core.config.int("console.token_seconds"));
        let token = base::id::uuid();
        let (text, of) = (
            token.clone(),
            ConsoleToken {
                server_id: server.id.clone(),
                host_id,
                host: server.host.clone().unwrap_or_default(),
                kind: kind.name().into(),
                expires_at: Timestamp::now().plus(lifetime),
            },
        );
        self.core.store.write(move |tx| db::console_token_put_in(tx, &text, &of)).await?;
        Ok((token, kind))
    }

    /// What a token opens. `NotFound` when it is not good, or no longer.
    pub async fn console_token_show(&self, token: &str) -> Result<ConsoleToken> {
        let missing = || Error::new(Kind::NotFound, "Token not found");
        self.core.store.read(|tx| db::console_token_fetch_in(tx, token)?.ok_or_else(missing)).await
    }

    /// Opens what a token is for: the server must still be on the host it was made for.
    pub async fn console_open(&self, token: &str) -> Result<Stream> {
        let of = self.console_token_show(token).await?;
        let server = self.core.store.read(|tx| servers::server_fetch_in(tx, &of.server_id, false)).await?;
        if server.is_none_or(|server| server.host_id.as_ref() != Some(&of.host_id)) {
            return Err(Error::new(Kind::NotFound, "Token not found"));
        }
        let instance_id = of.server_id;
        let target = match of.kind.as_str() {
            "serial" => Target::Serial { instance_id },
            _ => Target::Display { instance_id },
        };
        self.core.hosts.sessions().stream(&of.host_id, target).await
    }
}
