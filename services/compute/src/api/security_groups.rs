//! `/os-security-groups` and `/os-security-group-rules`: the network's groups, before 2.36.

use base::{Error, Kind, Result};
use http_api::{Request, Response, Routes, empty, json};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::proxies;
use crate::Compute;
use crate::fields::{self, Field, Fields};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/os-security-groups", index)
        .post("/os-security-groups", create)
        .get("/os-security-groups/{id}", show)
        .put("/os-security-groups/{id}", update)
        .delete("/os-security-groups/{id}", delete)
        .post("/os-security-group-rules", rule_create)
        .delete("/os-security-group-rules/{id}", rule_delete)
}

fn allowed(compute: &Compute, req: &Request, action: &str) -> Result<()> {
    proxies::allowed(compute, req, &format!("os_compute_api:os-security-groups:{action}"))
}

fn id(req: &Request) -> Result<&str> {
    let id = req.param("id");
    if base::id::is_uuid(id) { Ok(id) } else { Err(Error::invalid("Security group id should be uuid")) }
}

/// A network's fault as compute tells it: what is in the way is a bad request, what is too much is forbidden.
fn told(error: Error) -> Error {
    let kind = match error.kind() {
        Kind::Conflict | Kind::Exists => Kind::Invalid,
        kind => kind,
    };
    Error::new(kind, error.message().to_string()).caused_by(error)
}

/// As [`told`], of a create request, which takes any conflict for a quota that is used up.
fn told_of_create(error: Error) -> Error {
    match error.kind() {
        Kind::Conflict | Kind::Exists => Error::forbidden(error.message().to_string()).caused_by(error),
        _ => told(error),
    }
}

/// First and last port, or type and code, of a network's rule: -1 where it has none, all where it leaves them out.
fn ports(rule: &Value) -> (Value, Value) {
    let (from, to) = (&rule["port_range_min"], &rule["port_range_max"]);
    match rule["protocol"].as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("tcp" | "udp") if from.is_null() && to.is_null() => (json!(1), json!(65535)),
        Some(_) if from.is_null() && to.is_null() => (json!(-1), json!(-1)),
        _ => (from.clone(), to.clone()),
    }
}

/// From where a network's rule lets in; a rule without a prefix counts as one for all of IPv4.
fn cidr(rule: &Value) -> &str {
    rule["remote_ip_prefix"].as_str().filter(|c| !c.is_empty()).unwrap_or("0.0.0.0/0")
}

fn rule_view(rule: &Value, peer: Option<&Value>) -> Value {
    let (from, to) = ports(rule);
    let range = if peer.is_some() { json!({}) } else { json!({"cidr": cidr(rule)}) };
    json!({
        "id": rule["id"],
        "parent_group_id": rule["security_group_id"],
        "ip_protocol": rule["protocol"],
        "from_port": from,
        "to_port": to,
        "group": peer.cloned().unwrap_or_else(|| json!({})),
        "ip_range": range,
    })
}

/// Rules that let in; compute never knew of others.
fn ingress(group: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    group.get("security_group_rules").and_then(Value::as_array).into_iter().flatten().filter(|r| r["direction"] == "ingress")
}

fn view(group: &Map<String, Value>) -> Value {
    let rules = ingress(group).filter_map(|rule| match (rule["remote_group_id"].is_null(), rule.get("remote_group")) {
        (true, _) => Some(rule_view(rule, None)),
        (false, Some(peer)) => Some(rule_view(rule, Some(peer))),
        // A rule for a group that the caller may not see is not shown.
        (false, None) => None,
    });
    json!({
        "id": group["id"],
        "name": group["name"],
        "description": group["description"],
        "tenant_id": group["tenant_id"],
        "rules": rules.collect::<Vec<Value>>(),
    })
}

/// Groups as compute shows them, by project and name.
pub fn views(groups: &[Map<String, Value>]) -> Vec<Value> {
    let mut views: Vec<Value> = groups.iter().map(view).collect();
    let key = |v: &Value| (v["tenant_id"].as_str().unwrap_or_default().to_string(), v["name"].as_str().unwrap_or_default().to_string());
    views.sort_by_key(key);
    views
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "get")?;
    let (offset, limit) = proxies::slice(&compute, &req)?;
    let everybody = req.ctx.is_admin() && req.query.get("all_tenants").is_some();
    let project = Some(req.ctx.project_id()).filter(|p| !everybody && !p.is_empty());
    let groups = compute.network.security_groups_list(&req.ctx, project, offset, limit).await?;
    json(200, &json!({"security_groups": views(&groups)}))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "show")?;
    let group = compute.network.security_group_show(&req.ctx, id(&req)?).await.map_err(told)?;
    json(200, &json!({"security_group": view(&group)}))
}

/// Name and description, both of them needed. Other attributes were never looked at.
fn named(req: &Request) -> Result<(String, String)> {
    let body = req.object()?;
    Fields::root(&body, req.version).need("security_group", |field| {
        let mut group = Fields::of(field)?;
        Ok((group.need("name", fields::text(0, 255))?, group.need("description", fields::text(0, 255))?))
    })
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "create")?;
    let (name, description) = named(&req)?;
    let group = compute.network.security_group_create(&req.ctx, &name, &description).await.map_err(told_of_create)?;
    json(200, &json!({"security_group": view(&group)}))
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "update")?;
    let (name, description) = named(&req)?;
    let group = compute.network.security_group_update(&req.ctx, id(&req)?, &name, &description).await.map_err(told)?;
    json(200, &json!({"security_group": view(&group)}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "delete")?;
    compute.network.security_group_delete(&req.ctx, id(&req)?).await.map_err(told)?;
    empty(202)
}

/// What a new rule is about, as its request says it.
#[derive(Default)]
struct RuleWish {
    parent: String,
    group: Option<String>,
    protocol: Option<String>,
    /// Both or neither.
    ports: Option<(i64, i64)>,
    cidr: Option<IpNet>,
}

fn input(reason: &str) -> Error {
    Error::invalid(format!("Invalid input received: {reason}"))
}

/// A prefix; an address alone is none. The text may be percent-encoded.
fn prefix(field: Field) -> Result<Option<IpNet>> {
    let given = match field.value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text,
        other => return Err(Error::invalid(format!("{other} is not a valid IP network."))),
    };
    let wrong = || Error::invalid(format!("{given} is not a valid IP network."));
    let text = percent_encoding::percent_decode_str(given).decode_utf8().map_err(|_| wrong())?;
    let cidr: IpNet = text.parse().map_err(|_| wrong())?;
    if cidr.prefix_len() == 0 && !cidr.addr().is_unspecified() {
        return Err(Error::invalid(format!("Bad prefix for network in cidr {text}")));
    }
    Ok(Some(cidr))
}

fn protocol(field: Field) -> Result<Option<String>> {
    match field.value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
        other => Err(Error::invalid(format!("Invalid IP protocol {other}."))),
    }
}

impl RuleWish {
    fn read(req: &Request) -> Result<RuleWish> {
        let body = req.object()?;
        Fields::root(&body, req.version).need("security_group_rule", |field| {
            let mut rule = Fields::of(field)?;
            let mut wish = RuleWish {
                parent: rule.need("parent_group_id", fields::uuid)?,
                group: rule.take("group_id", fields::nullable(fields::uuid))?.flatten(),
                protocol: rule.take("ip_protocol", protocol)?.flatten(),
                ..RuleWish::default()
            };
            if wish.group.is_none() {
                // Nothing said: from everywhere on IPv4.
                wish.cidr = rule.take("cidr", prefix)?.flatten().or_else(|| "0.0.0.0/0".parse().ok());
            }
            let given = |name: &str, rule: &mut Fields| rule.take(name, fields::any).map(|v| v.filter(|v| !v.is_null()));
            let ends = (given("from_port", &mut rule)?, given("to_port", &mut rule)?);
            wish.settle(ends)?;
            Ok(wish)
        })
    }

    /// Protocol and ports together: without a source group all of them are needed, with one they may be left out.
    fn settle(&mut self, ends: (Option<Value>, Option<Value>)) -> Result<()> {
        let upper = self.protocol.as_deref().map(str::to_ascii_uppercase);
        let ends = match (upper.as_deref(), ends) {
            (Some("ICMP"), (None, None)) if self.group.is_some() => (Some(json!(-1)), Some(json!(-1))),
            (Some("TCP" | "UDP"), (None, None)) if self.group.is_some() => (Some(json!(1)), Some(json!(65535))),
            (_, ends) => ends,
        };
        let (Some(upper), (Some(from), Some(to))) = (upper, ends) else {
            self.protocol = None;
            let enough = self.group.is_some();
            return if enough { Ok(()) } else { Err(Error::invalid("Not enough parameters to build a valid rule.")) };
        };
        let what =
            if upper == "ICMP" { "Type and Code must be integers for ICMP protocol type" } else { "To and From ports must be integers" };
        let number = |value: &Value| fields::integer(i64::MIN, i64::MAX)(Field { at: "", value, relaxed: false }).map_err(|_| input(what));
        let (from, to) = (number(&from)?, number(&to)?);
        let range = |why: &str| Err(Error::invalid(format!("Invalid port range {from}:{to}. {why}")));
        match upper.as_str() {
            "TCP" | "UDP" if from > to => range("Former value cannot be greater than the later"),
            "TCP" | "UDP" if from < 1 || to > 65535 => range(&format!("Valid {upper} ports should be between 1-65535")),
            "ICMP" if !(-1..=255).contains(&from) || !(-1..=255).contains(&to) => range("For ICMP, the type:code must be valid"),
            "TCP" | "UDP" | "ICMP" => {
                self.ports = Some((from, to));
                Ok(())
            }
            _ => Err(Error::invalid(format!("Invalid IP protocol {}.", self.protocol.as_deref().unwrap_or_default()))),
        }
    }

    /// Whether a rule of the group says the same, compared as upstream does: a rule for a group never equals one.
    fn is(&self, rule: &Value) -> bool {
        let Some(wanted) = self.cidr.filter(|_| rule["remote_group_id"].is_null()) else { return false };
        let (from, to) = ports(rule);
        let same_protocol = rule["protocol"].as_str().map(str::to_ascii_lowercase) == self.protocol.as_deref().map(str::to_ascii_lowercase);
        same_protocol && cidr(rule) == wanted.to_string() && self.ports.is_some_and(|p| (json!(p.0), json!(p.1)) == (from, to))
    }

    /// The body of the network's own request.
    fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| body.insert(name.into(), value);
        put("security_group_id", json!(self.parent));
        put("direction", json!("ingress"));
        // A group's rules are for IPv4 only: compute's requests have no word for the family.
        put("ethertype", json!(if matches!(self.cidr, Some(IpNet::V6(_))) { "IPv6" } else { "IPv4" }));
        put("protocol", json!(self.protocol));
        put("remote_ip_prefix", json!(self.cidr));
        put("remote_group_id", json!(self.group));
        if let Some((from, to)) = self.ports {
            put("port_range_min", json!(Some(from).filter(|n| *n != -1)));
            put("port_range_max", json!(Some(to).filter(|n| *n != -1)));
        }
        body
    }
}

async fn rule_create(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "rule:create")?;
    let wish = RuleWish::read(&req)?;
    let parent = compute.network.security_group_show(&req.ctx, &wish.parent).await.map_err(told)?;
    let peer = match &wish.group {
        Some(id) => {
            let group = compute.network.security_group_show(&req.ctx, id).await.map_err(told)?;
            Some(json!({"name": group["name"], "tenant_id": group["tenant_id"]}))
        }
        None => None,
    };
    if ingress(&parent).any(|rule| wish.is(rule)) {
        return Err(Error::invalid(format!("This rule already exists in group {}", wish.parent)));
    }
    let rule = compute.network.security_group_rule_create(&req.ctx, wish.body()).await.map_err(told_of_create)?;
    json(200, &json!({"security_group_rule": rule_view(&Value::Object(rule), peer.as_ref())}))
}

async fn rule_delete(compute: Compute, req: Request) -> Result<Response> {
    allowed(&compute, &req, "rule:delete")?;
    compute.network.security_group_rule_delete(&req.ctx, id(&req)?).await.map_err(told)?;
    empty(202)
}
