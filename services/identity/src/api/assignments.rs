//! `/v3/role_assignments`.

use std::collections::{BTreeMap, HashMap};

use base::{Error, Result};
use http_api::{Request, Response};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;
use store::Tx;

use super::{R, answer, own_domain};
use crate::grants::{Actor, Assignment, On, Wanted, direct_in, domain_of_in, effective_in};
use crate::list::{Item, collection, is_set};
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
    let with_names = is_set(&req.query, "include_names");
    let (found, names) = identity
        .0
        .store
        .read(|tx| {
            let mut found = if effective { effective_in(tx, &wanted)? } else { direct_in(tx, &wanted)? };
            if let Some(domain) = &within {
                found = within_in(tx, found, domain)?;
            }
            let names = if with_names { Some(names_in(tx, &found)?) } else { None };
            Ok((found, names))
        })
        .await?;
    let view = |assignment| View { assignment, names: names.as_ref(), base_url: &req.base_url };
    answer(200, &collection(&req, "role_assignments", found.iter().map(view).collect(), None))
}

/// Those on what lies in a domain.
fn within_in(tx: &Tx, found: Vec<Assignment>, domain: &str) -> Result<Vec<Assignment>> {
    let mut known: HashMap<On, bool> = HashMap::new();
    let mut kept = Vec::new();
    for assignment in found {
        let on = &assignment.grant.on;
        let inside = match known.get(on) {
            Some(inside) => *inside,
            None => {
                let inside = domain_of_in(tx, on)?.as_deref() == Some(domain);
                known.insert(on.clone(), inside);
                inside
            }
        };
        if inside {
            kept.push(assignment);
        }
    }
    Ok(kept)
}

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

/// What is shown of a name beside its id, with names asked for.
struct Named {
    name: String,
    /// Id and name.
    domain: Option<(String, String)>,
}

/// By kind and id: each is looked up once.
type Names = HashMap<(&'static str, String), Named>;

/// All names that the assignments need.
fn names_in(tx: &Tx, assignments: &[Assignment]) -> Result<Names> {
    let mut names = Names::new();
    let mut domains: HashMap<String, String> = HashMap::new();
    for Assignment { grant, .. } in assignments {
        let (kind, actor) = grant.actor.columns();
        let on = match &grant.on {
            On::Project(id) => Some(("project", id.as_str())),
            On::Domain(id) => Some(("domain", id.as_str())),
            On::System => None,
        };
        for (kind, id) in [(kind, actor), ("role", grant.role_id.as_str())].into_iter().chain(on) {
            if names.contains_key(&(kind, id.to_string())) {
                continue;
            }
            let found: Option<(String, String)> = match kind {
                "user" => users::user_fetch_in(tx, id)?.map(|u| (u.name, u.domain_id)),
                "group" => groups::group_fetch_in(tx, id)?.map(|g| (g.name, g.domain_id)),
                "role" => roles::role_fetch_in(tx, id)?.map(|r| (r.name, r.domain_id)),
                _ => project_fetch_in(tx, id)?.map(|p| (p.name, p.domain_id)),
            };
            let (name, domain) = found.unwrap_or_default();
            if !domain.is_empty() && !domains.contains_key(&domain) {
                let name = project_fetch_in(tx, &domain)?.map(|p| p.name).unwrap_or_default();
                domains.insert(domain.clone(), name);
            }
            // Users and groups always have a domain, also those that are gone.
            let shown = !domain.is_empty() || kind == "user" || kind == "group";
            let domain = shown.then(|| (domain.clone(), domains.get(&domain).cloned().unwrap_or_default()));
            names.insert((kind, id.to_string()), Named { name, domain });
        }
    }
    Ok(names)
}

/// `{"id"}`, with names also name and domain.
struct Thing<'a> {
    id: &'a str,
    named: Option<&'a Named>,
}

impl Serialize for Thing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut thing = serializer.serialize_map(None)?;
        if let Some((id, name)) = self.named.and_then(|named| named.domain.as_ref()) {
            thing.serialize_entry("domain", &BTreeMap::from([("id", id), ("name", name)]))?;
        }
        thing.serialize_entry("id", self.id)?;
        if let Some(named) = self.named {
            thing.serialize_entry("name", &named.name)?;
        }
        thing.end()
    }
}

/// An assignment as the API shows it.
struct View<'a> {
    assignment: &'a Assignment,
    names: Option<&'a Names>,
    base_url: &'a str,
}

impl Item for View<'_> {
    fn id(&self) -> Option<&str> {
        None
    }
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let grant = &self.assignment.grant;
        let (kind, actor) = grant.actor.columns();
        let mut view = serializer.serialize_map(None)?;
        view.serialize_entry("links", &self.links())?;
        view.serialize_entry("role", &self.thing("role", &grant.role_id))?;
        view.serialize_entry("scope", &Scope(self))?;
        view.serialize_entry(kind, &self.thing(kind, actor))?;
        view.end()
    }
}

impl View<'_> {
    fn thing<'a>(&'a self, kind: &'static str, id: &'a str) -> Thing<'a> {
        Thing { id, named: self.names.and_then(|names| names.get(&(kind, id.to_string()))) }
    }

    fn is_inherited(&self) -> bool {
        self.assignment.grant.inherited || self.assignment.via.is_some()
    }

    fn links(&self) -> BTreeMap<&'static str, String> {
        let Assignment { grant, via_group, via, via_role } = self.assignment;
        let base = self.base_url;
        // The link leads to the grant that is stored, wherever the assignment holds.
        let on = match via.as_ref().unwrap_or(&grant.on) {
            On::Project(id) => format!("projects/{id}"),
            On::Domain(id) => format!("domains/{id}"),
            On::System => "system".to_string(),
        };
        let mut links = BTreeMap::new();
        let by = match (&grant.actor, via_group) {
            (Actor::User(user), Some(group)) => {
                links.insert("membership", format!("{base}/v3/groups/{group}/users/{user}"));
                format!("groups/{group}")
            }
            (Actor::User(user), None) => format!("users/{user}"),
            (Actor::Group(group), _) => format!("groups/{group}"),
        };
        let role = via_role.as_ref().unwrap_or(&grant.role_id);
        let link = match self.is_inherited() {
            true => format!("{base}/v3/OS-INHERIT/{on}/{by}/roles/{role}/inherited_to_projects"),
            false => format!("{base}/v3/{on}/{by}/roles/{role}"),
        };
        links.insert("assignment", link);
        if let Some(prior) = via_role {
            links.insert("prior_role", format!("{base}/v3/prior_role/{prior}/implies/{}", grant.role_id));
        }
        links
    }
}

/// Where an assignment holds.
struct Scope<'a>(&'a View<'a>);

impl Serialize for Scope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut scope = serializer.serialize_map(None)?;
        match &self.0.assignment.grant.on {
            On::Project(id) => scope.serialize_entry("project", &self.0.thing("project", id))?,
            On::Domain(id) => scope.serialize_entry("domain", &self.0.thing("domain", id))?,
            On::System => scope.serialize_entry("system", &BTreeMap::from([("all", true)]))?,
        }
        if self.0.is_inherited() {
            scope.serialize_entry("OS-INHERIT:inherited_to", "projects")?;
        }
        scope.end()
    }
}
