//! Agents: one for each host that ever had a session. What each has is what its document says: a router has a part on every host with a
//! guest on a network of its own, and on its home; DHCP answers on every host that has a network.

use base::{Result, Timestamp};
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};
use store::{Tx, params};

use super::misc::{filtered, object};
use super::{access, decorated, object_of, seen, view};
use crate::attr::{self, Object};
use crate::networks::Net;
use crate::routers::Router;
use crate::row::{self, Resource};
use crate::seen::Gather;
use crate::{Network, document, fault, hosts};

fn missing(id: &str) -> base::Error {
    fault::missing("AgentNotFound", format!("Agent {id} could not be found."))
}

fn list(net: &Network, tx: &Tx) -> Result<Vec<Object>> {
    let sql =
        "SELECT id, name, started_at, heard_at, wanted, applied, error, description, closed FROM network_host ORDER BY started_at, id";
    tx.query(sql, params![], |row| {
        let id = row.text(0)?;
        let alive = net.core().hosts.is_connected(&id);
        let stamp = |t: Timestamp| t.iso_plain().replace('T', " ");
        // A host with a session is heard from all the time.
        let heard = if alive { Timestamp::now() } else { row.time(3)? };
        Ok(object(json!({
            "id": id,
            "agent_type": "Sturnus host",
            "binary": "sturnus",
            "topic": "N/A",
            "host": row.text(1)?,
            "availability_zone": net.zone(),
            "admin_state_up": !row.flag(8)?,
            "alive": alive,
            "created_at": stamp(row.time(2)?),
            "started_at": stamp(row.time(2)?),
            "heartbeat_timestamp": stamp(heard),
            "description": row.text(7)?,
            "resources_synced": row.count(4)? == row.count(5)?,
            "configurations": {"document_wanted": row.count(4)?, "document_applied": row.count(5)?, "error": row.text(6)?},
        })))
    })
}

fn one(net: &Network, tx: &Tx, id: &str) -> Result<Object> {
    list(net, tx)?.into_iter().find(|row| row.get("id").and_then(Value::as_str) == Some(id)).ok_or_else(|| missing(id))
}

/// Who may not even read agents does not learn whether there is one.
fn require(net: &Network, req: &Request, rule: &str) -> Result<()> {
    if !access::allowed(net, &req.ctx, "get_agent", &Object::new()) {
        return Err(missing(req.param("id")));
    }
    access::require(net, &req.ctx, rule, &Object::new())
}

pub async fn index(net: Network, req: Request) -> Result<Response> {
    // Lists leave out what the caller may not see, here everything.
    if !access::allowed(&net, &req.ctx, "get_agent", &Object::new()) {
        return json(200, &json!({"agents": []}));
    }
    let rows = net.core().store.read(|tx| list(&net, tx)).await?;
    json(200, &json!({"agents": filtered(&req, rows)}))
}

pub async fn show(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "get_agent")?;
    let agent = net.core().store.read(|tx| one(&net, tx, req.param("id"))).await?;
    json(200, &json!({"agent": agent}))
}

/// An agent that is not up gets no new routers.
pub async fn update(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "update_agent")?;
    let Some(Value::Object(body)) = object_of(&req)?.remove("agent") else {
        return Err(fault::request("Unable to find 'agent' in request body"));
    };
    let (mut up, mut description) = (None, None);
    for (name, value) in &body {
        match name.as_str() {
            "admin_state_up" => {
                let wrong = || fault::attribute(name, format!("'{}' cannot be converted to boolean", attr::show(value)));
                up = Some(attr::flag(value).ok_or_else(wrong)?);
            }
            "description" => description = Some(attr::text(value, 255).map_err(|reason| fault::attribute(name, reason))?),
            other => return Err(fault::request(format!("Cannot update read-only attribute {other}"))),
        }
    }
    let (handle, id) = (net.clone(), req.param("id").to_string());
    let agent = net
        .core()
        .store
        .write(move |tx| {
            one(&handle, tx, &id)?;
            if let Some(up) = up {
                tx.execute("UPDATE network_host SET closed = ?2 WHERE id = ?1", params![&id, !up])?;
            }
            if let Some(text) = description {
                tx.execute("UPDATE network_host SET description = ?2 WHERE id = ?1", params![&id, text])?;
            }
            one(&handle, tx, &id)
        })
        .await?;
    json(200, &json!({"agent": agent}))
}

/// Forgets a host that is gone for good.
pub async fn delete(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "delete_agent")?;
    let (handle, id) = (net.clone(), req.param("id").to_string());
    net.core()
        .store
        .write(move |tx| {
            let agent = one(&handle, tx, &id)?;
            let bound = tx.query_opt("SELECT 1 FROM port WHERE _host = ?1 LIMIT 1", params![&id], |row| row.int(0))?;
            if agent.get("alive") == Some(&json!(true)) || bound.is_some() {
                return Err(fault::in_use("AgentInUse", format!("Agent {id} is alive, or ports are bound to its host.")));
            }
            tx.execute("DELETE FROM network_host WHERE id = ?1", params![&id])?;
            Ok(())
        })
        .await?;
    empty(204)
}

/// Routers and networks with DHCP that a host has.
struct Parts {
    routers: Vec<String>,
    networks: Vec<String>,
}

fn parts(gather: &mut Gather, host: &str) -> Result<Parts> {
    let document = document::build(gather, host)?;
    let networks = document.networks.into_iter().filter(|network| network.service_port.is_some());
    Ok(Parts { routers: document.routers.into_iter().map(|r| r.id).collect(), networks: networks.map(|n| n.id).collect() })
}

/// Resources of these ids as the caller may see them.
fn views<T: Resource>(net: &Network, tx: &Tx, req: &Request, ids: &[String]) -> Result<Vec<Object>> {
    let all = row::list_in::<T>(tx, "id", ids)?;
    let mut all: Vec<&T> = all.iter().collect();
    all.sort_by(|a, b| (&a.common().created_at, &a.common().id).cmp(&(&b.common().created_at, &b.common().id)));
    all.into_iter().map(|item| Ok(view(net, &req.ctx, T::KIND, decorated(net, tx, item)?, &[]))).collect()
}

pub async fn routers(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "get_l3-routers")?;
    let read = |tx: &Tx| {
        one(&net, tx, req.param("id"))?;
        let ids = parts(&mut Gather::new(tx, net.seen()), req.param("id"))?.routers;
        views::<Router>(&net, tx, &req, &ids)
    };
    json(200, &json!({"routers": filtered(&req, net.core().store.read(read).await?)}))
}

pub async fn networks(net: Network, req: Request) -> Result<Response> {
    require(&net, &req, "get_dhcp-networks")?;
    let read = |tx: &Tx| {
        one(&net, tx, req.param("id"))?;
        let ids = parts(&mut Gather::new(tx, net.seen()), req.param("id"))?.networks;
        views::<Net>(&net, tx, &req, &ids)
    };
    json(200, &json!({"networks": filtered(&req, net.core().store.read(read).await?)}))
}

/// Agents of the hosts near a network that have what is asked for.
fn having(net: &Network, tx: &Tx, network: Option<&str>, has: impl Fn(&Parts) -> bool) -> Result<Vec<Object>> {
    let Some(network) = network else { return Ok(Vec::new()) };
    let mut gather = Gather::new(tx, net.seen());
    let mut ids = Vec::new();
    for host in hosts::near(tx, network)? {
        if has(&parts(&mut gather, &host)?) {
            ids.push(host);
        }
    }
    let mut all = list(net, tx)?;
    all.retain(|agent| agent.get("id").and_then(Value::as_str).is_some_and(|id| ids.iter().any(|known| known == id)));
    Ok(all)
}

pub async fn of_router(net: Network, req: Request) -> Result<Response> {
    let read = |tx: &Tx| {
        let (router, object) = seen::<Router>(&net, tx, &req.ctx, req.param("id"))?;
        access::require(&net, &req.ctx, "get_l3-agents", &object)?;
        let joined = "SELECT network_id FROM port WHERE device_id = ?1 AND device_owner IN ('network:router_interface', 'network:router_gateway') LIMIT 1";
        let network = tx.query_opt(joined, params![router.id()], |row| row.text(0))?;
        let mut agents = having(&net, tx, network.as_deref(), |parts| parts.routers.iter().any(|id| id == router.id()))?;
        for agent in &mut agents {
            // It is no pair of which one waits: each part leads its own guests.
            agent.insert("ha_state".into(), Value::Null);
        }
        Ok(agents)
    };
    json(200, &json!({"agents": filtered(&req, net.core().store.read(read).await?)}))
}

pub async fn of_network(net: Network, req: Request) -> Result<Response> {
    let read = |tx: &Tx| {
        let (network, object) = seen::<Net>(&net, tx, &req.ctx, req.param("id"))?;
        access::require(&net, &req.ctx, "get_dhcp-agents", &object)?;
        having(&net, tx, Some(network.id()), |parts| parts.networks.iter().any(|id| id == network.id()))
    };
    json(200, &json!({"agents": filtered(&req, net.core().store.read(read).await?)}))
}
