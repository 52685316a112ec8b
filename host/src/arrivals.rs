//! The network document for what this host knows sooner or better than its controller: whether it has its lease, and who has arrived.

use std::collections::BTreeSet;

use rpc::network::{FloatingIp, NetworkDocument, Port, Router};

/// The document for what this host knows sooner or better than its controller; none: as it stands.
pub(crate) fn as_it_is(document: &NetworkDocument, leased: bool, arrived: &BTreeSet<String>) -> Option<NetworkDocument> {
    if document.routers.is_empty() {
        return None;
    }
    if !leased {
        // Ways out of routers, and their addresses there, go to other hosts when this one is lost, as guests do.
        let mut document = document.clone();
        for router in &mut document.routers {
            (router.gateway, router.home) = (None, None);
            router.floating.clear();
        }
        return Some(document);
    }
    // A guest that runs here is reached here: its floating addresses do not wait until the controller has written it down.
    if arrived.is_empty() {
        return None;
    }
    let mut now = document.clone();
    for (router, new) in document.routers.iter().zip(&mut now.routers) {
        for floating in &mut new.floating {
            floating.coming &= !arrived.iter().any(|id| comes(document, router, id, floating));
        }
    }
    Some(now)
}

/// Whether a floating address is one of a guest on its way here.
fn comes(document: &NetworkDocument, router: &Router, id: &str, floating: &FloatingIp) -> bool {
    let inside = |network: &str| router.interfaces.iter().any(|inner| inner.network_id == network);
    let of_guest = |port: &Port| port.instance_id == id && port.addresses.contains(&floating.fixed) && inside(&port.network_id);
    floating.coming && document.ports.iter().any(of_guest)
}

/// Whether the document has floating addresses of a guest wait until it is here.
pub(crate) fn awaits(document: &NetworkDocument, id: &str) -> bool {
    document.routers.iter().any(|router| router.floating.iter().any(|floating| comes(document, router, id, floating)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::network::RouterInterface;

    fn router(network: &str, fixed: &[&str]) -> Router {
        let inner = RouterInterface {
            port_id: base::id::uuid(),
            network_id: network.into(),
            mac: "fa:16:3e:00:00:01".into(),
            end: String::new(),
            addresses: vec!["10.0.0.1/24".parse().unwrap()],
            mtu: 1450,
        };
        let floating = |fixed: &&str| FloatingIp {
            id: base::id::uuid(),
            floating: "203.0.113.9".parse().unwrap(),
            fixed: fixed.parse().unwrap(),
            coming: true,
        };
        Router {
            id: base::id::uuid(),
            admin_up: true,
            interfaces: vec![inner],
            gateway: None,
            floating: fixed.iter().map(floating).collect(),
            routes: Vec::new(),
            home: None,
        }
    }

    fn port(network: &str, instance: &str, address: &str) -> Port {
        Port {
            id: base::id::uuid(),
            network_id: network.into(),
            instance_id: instance.into(),
            mac: "fa:16:3e:00:00:02".into(),
            admin_up: true,
            addresses: vec![address.parse().unwrap()],
            allowed_pairs: Vec::new(),
            port_security: true,
            limits: Default::default(),
            security_groups: Vec::new(),
        }
    }

    #[test]
    fn addresses_of_a_guest_that_has_come_do_not_wait_for_the_controller() {
        // The same addresses are in both networks; another guest is still on its way.
        let document = NetworkDocument {
            ports: vec![port("one", "a", "10.0.0.5"), port("one", "b", "10.0.0.6"), port("two", "c", "10.0.0.5")],
            routers: vec![router("one", &["10.0.0.5", "10.0.0.6"]), router("two", &["10.0.0.5"])],
            ..NetworkDocument::default()
        };
        assert_eq!(as_it_is(&document, true, &BTreeSet::new()), None);
        let now = as_it_is(&document, true, &["a".to_string()].into()).unwrap();
        let coming: Vec<bool> = now.routers.iter().flat_map(|r| &r.floating).map(|f| f.coming).collect();
        assert_eq!(coming, [false, true, true]);
        let unleased = as_it_is(&document, false, &["a".to_string()].into()).unwrap();
        assert!(unleased.routers.iter().all(|router| router.floating.is_empty()));
    }
}
