//! Who can give an image to a host that wants it: those that asked for it before.
//!
//! All that asked stand in a line, and the nth is sent to the one at half its place: when a hundred ask at once each gives to two at most,
//! and the last is seven steps away from the controller. A lender that does not have it yet hands it on when it has
//! ([`host::lend`]). Everything here is a guess that costs a question when it is wrong; the controller's own copy is always there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::{Error, Result};
use pki::Pair;
use rpc::message::{Lender, Request, Response, Secret};
use rpc::session::Hosts;

/// How long a host may take to open a door.
const ANSWER: Duration = Duration::from_secs(3);
/// Images remembered; beyond that all are forgotten.
const IMAGES: usize = 1000;

pub struct Lenders {
    hosts: Hosts,
    /// By image: ids of the hosts that asked for it.
    lines: Mutex<HashMap<String, Vec<String>>>,
}

impl Lenders {
    pub fn new(hosts: Hosts) -> Lenders {
        Lenders { hosts, lines: Mutex::default() }
    }

    /// Another host that lets this one come for an image. None: the controller's own copy it is.
    pub async fn find(&self, host_id: &str, sha256: &str, elsewhere: bool) -> Option<Lender> {
        let before = self.join(host_id, sha256);
        let lender = before.filter(|_| elsewhere)?;
        match self.ask(&lender, sha256).await {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::info!("host {lender} gives no image {sha256} to {host_id}: {}", error.chain());
                // It does not have it, or gives away all it can.
                self.leave(&lender, sha256);
                None
            }
        }
    }

    /// Puts a host at the end of the line; who gives to it.
    fn join(&self, host_id: &str, sha256: &str) -> Option<String> {
        let lending: Vec<String> = self.hosts.connected().into_iter().filter(|info| info.lends).map(|info| info.id).collect();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= IMAGES && !lines.contains_key(sha256) {
            lines.clear();
        }
        let line = lines.entry(sha256.to_string()).or_default();
        line.retain(|id| id != host_id && lending.contains(id));
        let before = line.len().checked_sub(1).and_then(|last| line.get(last / 2)).cloned();
        line.push(host_id.to_string());
        before
    }

    fn leave(&self, host_id: &str, sha256: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(sha256) {
            line.retain(|id| id != host_id);
        }
    }

    async fn ask(&self, lender: &str, sha256: &str) -> Result<Lender> {
        let Pair { authority, name, server, client } = Pair::new(&base::id::uuid())?;
        let request = Request::ImageLend {
            sha256: sha256.to_string(),
            authority: authority.clone(),
            certificate: server.certificate,
            key: Secret(server.key),
        };
        match self.hosts.ask_within(lender, request, ANSWER).await? {
            Response::Text(address) => Ok(Lender { address, name, authority, certificate: client.certificate, key: Secret(client.key) }),
            other => Err(Error::internal(format!("a door for an image is answered by {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::message::{HostInfo, ToController, ToHost, VERSIONS};
    use rpc::session::{HostEnd, link};

    /// A host with a session, which lends or not.
    async fn host(hosts: &Hosts, id: &str, lends: bool) -> HostEnd {
        let (mut end, controller) = link();
        let serving = hosts.clone();
        tokio::spawn(async move { serving.serve(controller).await });
        let info = HostInfo { id: id.into(), name: id.into(), lends, ..HostInfo::default() };
        end.outgoing.send(ToController::Hello { versions: (*VERSIONS.start(), *VERSIONS.end()), host: info }).await.unwrap();
        assert!(matches!(end.incoming.recv().await, Some(ToHost::Welcome { .. })));
        end
    }

    #[tokio::test]
    async fn those_who_ask_later_go_to_those_who_asked_before() {
        let (hosts, mut heard) = Hosts::new();
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let mut ends = Vec::new();
        for id in ["a", "b", "c", "d", "e"] {
            ends.push(host(&hosts, id, id != "c").await);
        }
        let lenders = Lenders::new(hosts.clone());
        let joined: Vec<Option<String>> = ["a", "b", "c", "d", "e"].iter().map(|id| lenders.join(id, "x")).collect();
        // c gives nothing, so d stands third.
        assert_eq!(joined.iter().map(Option::as_deref).collect::<Vec<_>>(), [None, Some("a"), Some("a"), Some("a"), Some("b")]);
        assert_eq!(lenders.join("a", "y"), None, "each image has a line of its own");
        assert_eq!(lenders.join("a", "x").as_deref(), Some("d"), "who comes again stands last");
        ends.remove(3);
        while hosts.is_connected("d") {
            tokio::task::yield_now().await;
        }
        assert_eq!(lenders.join("a", "x").as_deref(), Some("b"), "who is gone gives nothing");
    }

    #[tokio::test]
    async fn a_host_that_does_not_have_it_is_not_asked_again() {
        let (hosts, mut heard) = Hosts::new();
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let mut a = host(&hosts, "a", true).await;
        let _b = host(&hosts, "b", true).await;
        let lenders = Lenders::new(hosts);
        assert!(lenders.find("a", "x", true).await.is_none());
        let answering = tokio::spawn(async move {
            for response in [Ok(Response::Text("1.2.3.4:5".into())), Err("Image data x could not be found.".to_string())] {
                let Some(ToHost::Request { id, request }) = a.incoming.recv().await else { panic!("no question") };
                assert!(matches!(request, Request::ImageLend { sha256, .. } if sha256 == "x"));
                a.outgoing.send(ToController::Response { id, response }).await.unwrap();
            }
            a
        });
        let lender = lenders.find("b", "x", true).await.unwrap();
        assert_eq!(lender.address, "1.2.3.4:5");
        assert!(lenders.find("b", "x", false).await.is_none(), "who would not go elsewhere is sent nowhere");
        assert!(lenders.find("b", "x", true).await.is_none(), "a did not have it");
        let _a = answering.await.unwrap();
        assert!(lenders.find("b", "x", true).await.is_none(), "and is not asked again");
    }
}
