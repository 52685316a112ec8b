//! Agents: one for each host that ever had a session.

use base::{Result, Timestamp};
use http_api::{Request, Response, empty, json};
use serde_json::{Value, json};
use store::{Tx, params};

use super::misc::{filtered, object};
use super::{access, object_of};
use crate::attr::{self, Object};
use crate::{Network, fault};

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
