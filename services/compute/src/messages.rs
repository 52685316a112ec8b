//! Messages between the servers of a group (guest specification, sections 3 and 4): what a guest says to its group reaches the other members'
//! hosts, and what happens to a member is told to the others. Nothing of it is kept, and nobody waits for anybody.
//!
//! Hosts hand on what guests say; a reconciler passes it on, and follows the events of servers. It is woken by both.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use events::{Feed, Recorded};
use rpc::guest::{GroupSaid, GroupTell};
use rpc::message::ToHost;
use serde_json::{Value, json};
use store::Tx;
use task::Reconciler;

use crate::Compute;
use crate::db::server_groups;
use crate::db::servers::{self as db, Server};
use crate::notify;
use crate::spec;

pub const NAME: &str = "compute.group_messages";
/// Words of guests that wait; then the oldest are lost.
const WAITING: usize = 1024;
/// Events read at a time.
const BATCH: u64 = 200;
/// How often a place in the events is renewed that nobody needs.
const LOOK: Duration = Duration::from_secs(5);

/// What guests have said: the host that says so, the server, its word.
#[derive(Default)]
pub struct Mail(Mutex<VecDeque<(String, String, GroupSaid)>>);

impl Mail {
    fn all(&self) -> MutexGuard<'_, VecDeque<(String, String, GroupSaid)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, host_id: &str, server_id: &str, said: GroupSaid) {
        let mut all = self.all();
        all.push_back((host_id.to_string(), server_id.to_string(), said));
        if all.len() > WAITING {
            all.pop_front();
        }
    }
}

pub struct GroupMessages {
    compute: Compute,
    /// Lives as long as the controller: what happened while there was none is told to nobody.
    feed: tokio::sync::Mutex<Option<Feed>>,
}

impl GroupMessages {
    pub fn new(compute: Compute) -> GroupMessages {
        GroupMessages { compute, feed: tokio::sync::Mutex::default() }
    }
}

#[async_trait]
impl Reconciler for GroupMessages {
    fn name(&self) -> &'static str {
        NAME
    }
    fn every(&self) -> Duration {
        LOOK
    }
    /// Each controller has sessions, and guests, of its own.
    fn everywhere(&self) -> bool {
        true
    }
    async fn run(&self) -> Result<()> {
        let mail: Vec<_> = self.compute.mail.all().drain(..).collect();
        for (host_id, server_id, said) in mail {
            self.compute.group_said(&host_id, &server_id, said).await?;
        }
        let mut place = self.feed.lock().await;
        if place.is_none() {
            *place = Some(Feed::live(&self.compute.core.store).await?);
        }
        let Some(feed) = place.as_mut() else { return Ok(()) };
        loop {
            let batch = feed.next(BATCH).await?;
            let Some(last) = batch.last().map(|event| event.seq) else { return Ok(()) };
            self.compute.group_events(&batch).await?;
            feed.commit(last).await?;
        }
    }
}

/// Where somebody who listens is.
type Listener = (String, String);

/// The listening members of a group, but for one.
fn listeners_in(tx: &Tx, group: &str, but: &str) -> Result<Vec<Listener>> {
    let members = server_groups::member_servers_in(tx, group)?.into_iter().filter(|s| s.id != but && spec::messaging(s));
    Ok(members.filter_map(|s| Some((s.host_id?, s.id))).collect())
}

impl Compute {
    async fn group_tell(&self, (host_id, server_id): &Listener, tell: GroupTell) {
        let message = ToHost::Group { instance_id: server_id.clone(), tell };
        if let Err(error) = self.core.hosts.send(host_id, message).await {
            tracing::debug!(server_id, "a group's message is lost: {}", error.chain());
        }
    }

    async fn group_said(&self, host_id: &str, server_id: &str, said: GroupSaid) -> Result<()> {
        let found = self.core.store.read(|tx| {
            // Only a guest's own host speaks for it, and only for one that may speak.
            let Some(server) = db::server_fetch_in(tx, server_id, false)?.filter(|s| s.host_id.as_deref() == Some(host_id)) else {
                return Ok(None);
            };
            let group = server_groups::group_of_in(tx, server_id)?.filter(|_| spec::messaging(&server));
            Ok(group.map(|group| (server, group)))
        });
        let Some((server, group)) = found.await? else { return Ok(()) };
        match said {
            GroupSaid::Broadcast { text } => {
                let source = server.instance_name();
                for listener in self.core.store.read(|tx| listeners_in(tx, &group, server_id)).await? {
                    self.group_tell(&listener, GroupTell::Broadcast { source: source.clone(), text: text.clone() }).await;
                }
            }
            GroupSaid::StatusQuery { seq } => {
                let asker = (host_id.to_string(), server_id.to_string());
                for member in self.core.store.read(|tx| server_groups::member_servers_in(tx, &group)).await? {
                    self.group_tell(&asker, GroupTell::Status { seq, of: status(&member) }).await;
                }
                self.group_tell(&asker, GroupTell::StatusDone { seq }).await;
            }
        }
        Ok(())
    }

    /// What has happened to servers: the others of their groups hear of it.
    async fn group_events(&self, batch: &[Recorded]) -> Result<()> {
        let about: Vec<&Recorded> = batch.iter().filter(|event| event.event.event_type.starts_with("compute.instance.")).collect();
        // Mostly nobody listens: one transaction finds that out for all.
        let heard = self.core.store.read(|tx| {
            let mut heard = Vec::new();
            for event in &about {
                let listeners = concerned_in(tx, event)?;
                if !listeners.is_empty() {
                    heard.push((*event, listeners));
                }
            }
            Ok(heard)
        });
        for (event, listeners) in heard.await? {
            let data = json!({
                "payload": absent_is_empty(event.event.payload.clone()),
                "event_type": event.event.event_type,
                "priority": "INFO",
                "timestamp": event.recorded_at.iso_micros().replace('T', " "),
            });
            for listener in listeners {
                self.group_tell(&listener, GroupTell::Notification(data.clone())).await;
            }
        }
        Ok(())
    }
}

/// Who listens to what happens to a server.
fn concerned_in(tx: &Tx, event: &Recorded) -> Result<Vec<Listener>> {
    let id = event.event.resource.as_str();
    let group = match server_groups::group_of_in(tx, id)? {
        Some(group) => Some(group),
        // One that is gone is no member any more, but was.
        None if event.event.event_type.contains(".delete.") => {
            db::server_fetch_in(tx, id, true)?.filter(|s| s.deleted).and_then(|s| s.doc.placement.group)
        }
        None => None,
    };
    group.map_or_else(|| Ok(Vec::new()), |group| listeners_in(tx, &group, id))
}

/// What a server is, as those who ask for it are used to it.
fn status(server: &Server) -> Value {
    absent_is_empty(notify::payload(server))
}

fn absent_is_empty(mut payload: Value) -> Value {
    if let Some(fields) = payload.as_object_mut() {
        fields.values_mut().filter(|value| value.is_null()).for_each(|value| *value = "".into());
    }
    payload
}
