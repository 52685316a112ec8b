//! Rules of QoS policies, under their policy and by their ids alone, and what types there are.

use base::{Context, Error, Result};
use http_api::{Request, Response, Routes, empty, json};
use serde_json::{Value, json};
use store::Tx;

use super::{access, object_of, revision, revision_fits, seen};
use crate::attr::{self, Object};
use crate::qos::rules::{self, RuleType, TYPES, amount, text};
use crate::qos::{self, QosPolicy};
use crate::row::{self, Resource};
use crate::{Network, fault};

/// The routes of all types.
pub fn rules(routes: Routes<Network>) -> Routes<Network> {
    rules_of::<4>(rules_of::<3>(rules_of::<2>(rules_of::<1>(rules_of::<0>(routes)))))
}

/// The routes of the type at a place of [`TYPES`].
fn rules_of<const TYPE: usize>(routes: Routes<Network>) -> Routes<Network> {
    let all = format!("/qos/policies/{{id}}/{}", TYPES[TYPE].plural);
    let one = format!("{all}/{{rule_id}}");
    let routes = routes
        .get(&all, index::<TYPE>)
        .post(&all, create::<TYPE>)
        .get(&one, show::<TYPE, false>)
        .put(&one, update::<TYPE, false>)
        .delete(&one, delete::<TYPE, false>);
    if !TYPES[TYPE].alias {
        return routes;
    }
    let alias = format!("/qos/alias_{}/{{rule_id}}", TYPES[TYPE].plural);
    routes.get(&alias, show::<TYPE, true>).put(&alias, update::<TYPE, true>).delete(&alias, delete::<TYPE, true>)
}

/// What rules of policy ask about a rule: its policy's owner.
fn target(policy: &QosPolicy) -> Object {
    Object::from_iter([("ext_parent:project_id".to_string(), json!(policy.project())), ("project_id".into(), json!(policy.project()))])
}

/// The words of a type in policy rules and bodies.
fn name<const ALIAS: bool>(kind: &RuleType) -> String {
    if ALIAS { format!("alias_{}", kind.singular()) } else { kind.singular() }
}
fn word<const ALIAS: bool>(action: &str, kind: &RuleType) -> String {
    if ALIAS { format!("{action}_alias_{}", kind.singular()) } else { format!("{action}_policy_{}", kind.singular()) }
}

/// The policy and the rule that a request is about. Who may not read the rule finds none.
fn found<const TYPE: usize, const ALIAS: bool>(net: &Network, tx: &Tx, req: &Asked) -> Result<(QosPolicy, Object)> {
    let kind = TYPES[TYPE];
    let of = (!ALIAS).then_some(req.policy.as_str());
    if let Some(policy) = of {
        seen::<QosPolicy>(net, tx, &req.ctx, policy)?;
    }
    let rule = rules::fetch(tx, &req.rule, kind, of)?;
    let policy = row::fetch_locked::<QosPolicy>(tx, text(&rule, "qos_policy_id"))?;
    if !access::allowed(net, &req.ctx, &word::<ALIAS>("get", kind), &target(&policy)) {
        return Err(rules::missing(&req.rule, of.unwrap_or_default()));
    }
    Ok((policy, rule))
}

/// Who asks about what, at which revision of the policy.
struct Asked {
    ctx: Context,
    policy: String,
    rule: String,
    revision: Option<i64>,
}

impl Asked {
    fn of(req: &Request, alias: bool) -> Result<Asked> {
        let policy = if alias { String::new() } else { req.param("id").to_string() };
        Ok(Asked { ctx: req.ctx.clone(), policy, rule: req.param("rule_id").to_string(), revision: revision(req)? })
    }
}

fn body(req: &Request, key: &str) -> Result<Object> {
    match object_of(req)?.remove(key) {
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(fault::request(format!("Invalid input for {key}: a dictionary is required"))),
        None => Err(fault::request(format!("Unable to find '{key}' in request body"))),
    }
}

fn fields(req: &Request) -> Vec<String> {
    req.query.all("fields").filter(|f| !f.is_empty()).map(str::to_string).collect()
}

/// The policy's next revision, and those who go by it: hosts, and what servers hold of them.
fn changed(net: &Network, tx: &Tx, asked: &Asked, mut policy: QosPolicy, kind: &RuleType, event: &str, rule: &Object) -> Result<()> {
    row::update(tx, &mut policy)?;
    qos::touch(net, tx, policy.id())?;
    let name = format!("policy_{}", kind.singular());
    net.notify(tx, &asked.ctx, &format!("{name}.{event}.end"), text(rule, "id"), json!({name: rule}))?;
    if kind.promises() { net.policy_demands_changed(tx, &asked.ctx, policy.id()) } else { Ok(()) }
}

const CONTROL: [&str; 6] = ["fields", "limit", "marker", "sort_key", "sort_dir", "page_reverse"];

async fn index<const TYPE: usize>(net: Network, req: Request) -> Result<Response> {
    let kind = TYPES[TYPE];
    let known: Vec<&str> = ["id"].into_iter().chain(kind.attributes()).collect();
    let filters: Vec<(&str, &str)> =
        req.query.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(k, _)| !CONTROL.contains(k)).collect();
    if let Some((name, _)) = filters.iter().find(|(name, _)| !known.contains(name)) {
        return Err(fault::request(format!("['{name}'] is invalid attribute for filtering")));
    }
    let page = http_api::Page::from_query(&req.query, 0, &[]).map_err(|e| fault::request(e.message()))?;
    if let Some((key, _)) = page.sort.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(fault::request(format!("['{key}'] is invalid attribute for sort key")));
    }
    let read = |tx: &Tx| {
        let (policy, _) = seen::<QosPolicy>(&net, tx, &req.ctx, req.param("id"))?;
        let may = access::allowed(&net, &req.ctx, &word::<false>("get", kind), &target(&policy));
        if may { rules::list(tx, policy.id(), kind) } else { Ok(Vec::new()) }
    };
    let mut found = net.core().store.read(read).await?;
    let shown = |rule: &Object, name: &str| rule.get(name).map(attr::show).unwrap_or_default();
    found.retain(|rule| {
        known.iter().all(|name| {
            let mut asked = filters.iter().filter(|(k, _)| k == name).peekable();
            asked.peek().is_none() || asked.any(|(_, value)| shown(rule, name) == *value)
        })
    });
    found.sort_by(|a, b| {
        let by = page.sort.iter().map(|(key, dir)| {
            let order = (amount(a, key), text(a, key)).cmp(&(amount(b, key), text(b, key)));
            if *dir == http_api::SortDir::Desc { order.reverse() } else { order }
        });
        by.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    // There are two at most, one for each direction: a page of them has an end of its own.
    if let Some(marker) = &page.marker {
        let at = found.iter().position(|rule| text(rule, "id") == marker).ok_or_else(|| rules::missing(marker, req.param("id")))?;
        if page.reverse { found.truncate(at) } else { drop(found.drain(..=at)) }
    }
    let limit = usize::try_from(page.fetch_limit(net.max_limit())).unwrap_or(usize::MAX);
    if page.reverse {
        drop(found.drain(..found.len().saturating_sub(limit)))
    } else {
        found.truncate(limit)
    }
    let fields = fields(&req);
    let views: Vec<Object> = found.into_iter().map(|rule| kind.view(rule, &fields)).collect();
    json(200, &json!({kind.plural: views}))
}

async fn create<const TYPE: usize>(net: Network, req: Request) -> Result<Response> {
    let kind = TYPES[TYPE];
    let (given, asked, handle) = (body(&req, &kind.singular())?, Asked::of(&req, false)?, net.clone());
    let made = net.core().store.write(move |tx| {
        let (policy, _) = seen::<QosPolicy>(&handle, tx, &asked.ctx, &asked.policy)?;
        access::require(&handle, &asked.ctx, &word::<false>("create", kind), &target(&policy))?;
        let rule = kind.read(policy.id(), &given, None)?;
        rules::put(tx, kind, &rule)?;
        changed(&handle, tx, &asked, policy, kind, "create", &rule)?;
        Ok(rule)
    });
    json(201, &json!({kind.singular(): kind.view(made.await?, &[])}))
}

async fn show<const TYPE: usize, const ALIAS: bool>(net: Network, req: Request) -> Result<Response> {
    let asked = Asked::of(&req, ALIAS)?;
    let (_, rule) = net.core().store.read(|tx| found::<TYPE, ALIAS>(&net, tx, &asked)).await?;
    json(200, &json!({name::<ALIAS>(TYPES[TYPE]): TYPES[TYPE].view(rule, &fields(&req))}))
}

async fn update<const TYPE: usize, const ALIAS: bool>(net: Network, req: Request) -> Result<Response> {
    let kind = TYPES[TYPE];
    let (given, asked, handle) = (body(&req, &name::<ALIAS>(kind))?, Asked::of(&req, ALIAS)?, net.clone());
    let rule = net.core().store.write(move |tx| {
        let (policy, old) = found::<TYPE, ALIAS>(&handle, tx, &asked)?;
        access::require(&handle, &asked.ctx, &word::<ALIAS>("update", kind), &target(&policy))?;
        revision_fits(&policy, asked.revision)?;
        let rule = kind.read(policy.id(), &given, Some(&old))?;
        rules::put(tx, kind, &rule)?;
        changed(&handle, tx, &asked, policy, kind, "update", &rule)?;
        Ok(rule)
    });
    json(200, &json!({name::<ALIAS>(kind): kind.view(rule.await?, &[])}))
}

async fn delete<const TYPE: usize, const ALIAS: bool>(net: Network, req: Request) -> Result<Response> {
    let kind = TYPES[TYPE];
    let (asked, handle) = (Asked::of(&req, ALIAS)?, net.clone());
    net.core()
        .store
        .write(move |tx| {
            let (policy, rule) = found::<TYPE, ALIAS>(&handle, tx, &asked)?;
            access::require(&handle, &asked.ctx, &word::<ALIAS>("delete", kind), &target(&policy))?;
            revision_fits(&policy, asked.revision)?;
            rules::remove(tx, &asked.rule)?;
            changed(&handle, tx, &asked, policy, kind, "delete", &rule)
        })
        .await?;
    empty(204)
}

/// Every type holds on every host: whoever asks for all that exist, or for those that hold everywhere, gets the same.
pub async fn types(net: Network, req: Request) -> Result<Response> {
    access::require(&net, &req.ctx, "get_rule_type", &Object::new())?;
    for (name, value) in req.query.0.iter().filter(|(name, _)| matches!(name.as_str(), "all_supported" | "all_rules")) {
        if attr::flag(&json!(value)).is_none() {
            return Err(fault::attribute(name, format!("'{value}' cannot be converted to boolean")));
        }
    }
    let wanted: Vec<&str> = req.query.all("type").collect();
    let known = TYPES.iter().filter(|t| wanted.is_empty() || wanted.contains(&t.name));
    json(200, &json!({"rule_types": known.map(|t| json!({"type": t.name})).collect::<Vec<_>>()}))
}

pub async fn type_show(net: Network, req: Request) -> Result<Response> {
    access::require(&net, &req.ctx, "get_rule_type", &Object::new())?;
    if !req.ctx.is_admin() {
        return Err(Error::forbidden("Only administrators see what a type of rules takes.").named("NotAuthorized"));
    }
    let name = req.param("name");
    let kind = TYPES.iter().find(|t| t.name == name);
    let kind = kind.ok_or_else(|| fault::missing("HTTPNotFound", format!("There is no type of rules {name}.")))?;
    let driver = json!({"name": "sturnus", "supported_parameters": rules::parameters(kind)});
    json(200, &json!({"rule_type": {"type": name, "drivers": [driver]}}))
}
