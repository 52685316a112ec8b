//! `/v3/role_assignments`.

use std::collections::HashMap;

use base::{Error, Result};
use http_api::{Request, Response};
use serde_json::{Value, json};
use store::Tx;

use super::{R, answer, own_domain};
use crate::grants::{Actor, Assignment, On, Wanted, direct_in, domain_of_in, effective_in};
use crate::list::{collection, is_set};
use crate::projects::{project_fetch_in, project_get_in};
use crate::{Identity, groups, roles, users, wire};

pub fn routes(routes: R) -> R {
    routes.get("/v3/role_assignments", index)
}

async fn index(identity: Identity, req: Request) -> Result<Response> {
    let wanted = read(&req)?;
    let effective = is_set(&req.query, "effective");
    let mut within = req.ctx.domain_id().map(str::to_string);
    if wanted.subtree {
        let id = wanted.project_id.clone().unwrap_or_default();
        let project = identity.0.store.read(|tx| project_get_in(tx, &id)).await?;
        let domain = if project.is_domain { &project.id } else { &project.domain_id };
        let target = json!({ "target": { "project": project.target(), "domain_id": domain } });
        identity.allow("list_role_assignments_for_tree", &req.ctx, &target)?;
        within = None;
    } else {
        let target = own_domain(&req.ctx, |domain| json!({ "domain_id": domain }));
        identity.allow("list_role_assignments", &req.ctx, &target)?;
    }
    check(&req, &wanted, effective)?;
    let names = is_set(&req.query, "include_names");
    let views = identity
        .0
        .store
        .read(|tx| {
            let mut found = if effective { effective_in(tx, &wanted)? } else { direct_in(tx, &wanted)? };
            if let Some(domain) = &within {
                let mut kept = Vec::new();
                for assignment in found {
                    if domain_of_in(tx, &assignment.grant.on)?.as_ref() == Some(domain) {
                        kept.push(assignment);
                    }
                }
                found = kept;
            }
            let mut render = Render { tx, req: &req, names, seen: HashMap::new() };
            found.iter().map(|assignment| render.view(assignment)).collect::<Result<Vec<Value>>>()
        })
        .await?;
    answer(200, &collection(&req, "role_assignments", views, None))
}

/// What anybody is told who asks in a wrong form, as upstream's schema has it: what is there counts there, also when it is empty or says no.
fn read(req: &Request) -> Result<Wanted> {
    let get = |name: &str| req.query.get(name).map(str::to_string);
    // Users' ids may be those of a directory, in any form.
    for name in ["group.id", "role.id", "scope.project.id", "scope.domain.id"] {
        if get(name).is_some_and(|id| !wire::is_id(&id)) {
            return Err(crate::fault::field(name, "it does not match '^[a-zA-Z0-9-]+$'"));
        }
    }
    if get("user.id").is_some_and(|id| id.contains('\0')) {
        return Err(crate::fault::field("user.id", "no id has a zero byte"));
    }
    if get("user.id").is_some() && get("group.id").is_some() {
        return Err(Error::invalid("Specify a user or group, not both"));
    }
    if get("include_subtree").is_some() && get("scope.project.id").is_none() {
        return Err(Error::invalid("scope.project.id must be specified if include_subtree is also specified"));
    }
    Ok(Wanted {
        role_id: get("role.id"),
        user_id: get("user.id").filter(|id| !id.is_empty()),
        group_id: get("group.id"),
        project_id: get("scope.project.id"),
        domain_id: get("scope.domain.id"),
        system: get("scope.system").as_deref() == Some("all"),
        inherited: get("scope.OS-INHERIT:inherited_to").map(|to| to == "projects"),
        subtree: is_set(&req.query, "include_subtree"),
    })
}

/// What those are told who may ask, but ask for what cannot be.
fn check(req: &Request, wanted: &Wanted, effective: bool) -> Result<()> {
    let system = req.query.get("scope.system").is_some_and(|scope| !scope.is_empty());
    let (domain, project) = (wanted.domain_id.is_some(), wanted.project_id.is_some());
    let wrong = |message: &str| Err(Error::invalid(message));
    match () {
        () if domain && project => wrong("Specify a domain or project, not both"),
        () if domain && system => wrong("Specify system or domain, not both"),
        () if project && system => wrong("Specify system or project, not both"),
        () if effective && wanted.group_id.is_some() => wrong("Combining effective and group filter will always result in an empty list."),
        () if effective && wanted.inherited == Some(true) && domain => {
            wrong("Combining effective, domain and inherited filters will always result in an empty list.")
        }
        () => Ok(()),
    }
}

/// Assignments as the API shows them; names are looked up once each.
struct Render<'a> {
    tx: &'a Tx,
    req: &'a Request,
    names: bool,
    seen: HashMap<(&'static str, String), Value>,
}

impl Render<'_> {
    /// `{"id"}`, with names also name and domain.
    fn thing(&mut self, kind: &'static str, id: &str) -> Result<Value> {
        if !self.names {
            return Ok(json!({ "id": id }));
        }
        if let Some(known) = self.seen.get(&(kind, id.to_string())) {
            return Ok(known.clone());
        }
        let tx = self.tx;
        let found: Option<(String, String)> = match kind {
            "user" => users::user_fetch_in(tx, id)?.map(|u| (u.name, u.domain_id)),
            "group" => groups::group_fetch_in(tx, id)?.map(|g| (g.name, g.domain_id)),
            "role" => roles::role_fetch_in(tx, id)?.map(|r| (r.name, r.domain_id)),
            _ => project_fetch_in(tx, id)?.map(|p| (p.name, p.domain_id)),
        };
        let (name, domain) = found.unwrap_or_default();
        let mut thing = json!({ "id": id, "name": name });
        if !domain.is_empty() {
            thing["domain"] = self.thing("domain", &domain)?;
        } else if kind == "user" || kind == "group" {
            thing["domain"] = json!({ "id": "", "name": "" });
        }
        self.seen.insert((kind, id.to_string()), thing.clone());
        Ok(thing)
    }

    fn view(&mut self, assignment: &Assignment) -> Result<Value> {
        let grant = &assignment.grant;
        let mut scope = match &grant.on {
            On::Project(id) => json!({ "project": self.thing("project", id)? }),
            On::Domain(id) => json!({ "domain": self.thing("domain", id)? }),
            On::System => json!({ "system": { "all": true } }),
        };
        // The link leads to the grant that is stored, wherever the assignment holds.
        let mut link = match assignment.via.as_ref().unwrap_or(&grant.on) {
            On::Project(id) => format!("/projects/{id}"),
            On::Domain(id) => format!("/domains/{id}"),
            On::System => "/system".to_string(),
        };
        let mut links = json!({});
        let base = &self.req.base_url;
        match (&grant.actor, &assignment.via_group) {
            (Actor::User(user), Some(group)) => {
                links["membership"] = json!(format!("{base}/v3/groups/{group}/users/{user}"));
                link.push_str(&format!("/groups/{group}"));
            }
            (Actor::User(user), None) => link.push_str(&format!("/users/{user}")),
            (Actor::Group(group), _) => link.push_str(&format!("/groups/{group}")),
        }
        link.push_str(&format!("/roles/{}", assignment.via_role.as_ref().unwrap_or(&grant.role_id)));
        if grant.inherited || assignment.via.is_some() {
            scope["OS-INHERIT:inherited_to"] = json!("projects");
            link = format!("/OS-INHERIT{link}/inherited_to_projects");
        }
        links["assignment"] = json!(format!("{base}/v3{link}"));
        if let Some(prior) = &assignment.via_role {
            links["prior_role"] = json!(format!("{base}/v3/prior_role/{prior}/implies/{}", grant.role_id));
        }
        let mut view = json!({ "links": links, "scope": scope, "role": self.thing("role", &grant.role_id)? });
        match &grant.actor {
            Actor::User(id) => view["user"] = self.thing("user", id)?,
            Actor::Group(id) => view["group"] = self.thing("group", id)?,
        }
        Ok(view)
    }
}
