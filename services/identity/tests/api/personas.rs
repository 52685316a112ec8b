//! Each rule, allowed and denied: every request of a table is made by a person for each pair of scope and role.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cloud::*;
use crate::persona_rows::{destructive, standing};

/// What the requests are about. All of it is in a domain of its own, but for what says otherwise.
pub struct World {
    /// `system_admin` … `project_reader` and their tokens, those of domain and project for `domain` and `project`.
    tokens: Vec<(String, String)>,
    pub domain: String,
    pub project: String,
    /// Of the default domain.
    pub stranger: String,
    pub user: String,
    pub group: String,
    /// Roles of the cloud by name.
    pub roles: std::collections::HashMap<&'static str, String>,
    /// One that can be changed.
    pub role: String,
    pub domain_role: String,
    /// Of the default domain.
    pub foreign_role: String,
    pub service: String,
    pub endpoint: String,
    /// Of the user.
    pub credential: String,
    /// By the user.
    pub trust: String,
}

impl World {
    async fn new(cloud: &Cloud, admin: &str) -> World {
        let made = async |path: &str, body: Value| id(&cloud.post(admin, path, body).await.is(201));
        let domain = made("/v3/domains", json!({ "domain": { "name": "personas" } })).await;
        let project = made("/v3/projects", json!({ "project": { "name": "own", "domain_id": domain } })).await;
        made("/v3/projects", json!({ "project": { "name": "child", "domain_id": domain, "parent_id": project } })).await;
        let mut roles = std::collections::HashMap::new();
        for name in ["admin", "manager", "member", "reader"] {
            roles.insert(name, cloud.role(admin, name).await);
        }
        let mut tokens = Vec::new();
        for (level, target, scope) in [
            ("system", "system".to_string(), on_system()),
            ("domain", format!("domains/{domain}"), on_domain(&domain)),
            ("project", format!("projects/{project}"), on_project(&project)),
        ] {
            for role in ["admin", "manager", "member", "reader"] {
                let name = format!("{level}_{role}");
                let user = json!({ "user": { "name": name, "domain_id": domain, "password": PASSWORD } });
                let user = made("/v3/users", user).await;
                cloud.put(admin, &format!("/v3/{target}/users/{user}/roles/{}", roles[role])).await.is(204);
                tokens.push((name, cloud.login(user_by_id(&user), scope.clone()).await.token));
            }
        }
        let user = made("/v3/users", json!({ "user": { "name": "target", "domain_id": domain, "password": PASSWORD } })).await;
        cloud.put(admin, &format!("/v3/projects/{project}/users/{user}/roles/{}", roles["member"])).await.is(204);
        let own = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        let trust = json!({ "trust": { "trustor_user_id": user, "trustee_user_id": user, "impersonation": false, "project_id": project,
            "roles": [{ "id": roles["member"] }] } });
        let service = made("/v3/services", json!({ "service": { "type": "t" } })).await;
        let endpoint = json!({ "endpoint": { "service_id": service, "interface": "public", "url": "http://h" } });
        World {
            stranger: cloud.project(admin, "stranger", None).await,
            group: made("/v3/groups", json!({ "group": { "name": "target", "domain_id": domain } })).await,
            role: made("/v3/roles", json!({ "role": { "name": "mutable" } })).await,
            domain_role: made("/v3/roles", json!({ "role": { "name": "of the domain", "domain_id": domain } })).await,
            foreign_role: made("/v3/roles", json!({ "role": { "name": "of another", "domain_id": "default" } })).await,
            endpoint: made("/v3/endpoints", endpoint).await,
            credential: made("/v3/credentials", json!({ "credential": { "user_id": user, "type": "t", "blob": "b" } })).await,
            trust: id(&cloud.post(&own, "/v3/OS-TRUST/trusts", trust).await.is(201)),
            tokens,
            domain,
            project,
            user,
            roles,
            service,
        }
    }
}

/// Who may: by name of persona.
pub type Who = fn(&str) -> bool;

pub struct Row {
    pub rule: &'static str,
    pub method: &'static str,
    pub path: String,
    pub body: Value,
    /// What those hear who may. It may be a fault, so long as it is not the rule's: that the thing is not there or cannot be done is
    /// told only to who may ask.
    pub status: u16,
    pub who: Who,
}

/// Something that is made by the administrator, to be deleted.
pub struct Destructive {
    pub rule: &'static str,
    pub collection: &'static str,
    /// With a name of its own each time.
    pub body: Box<dyn Fn(&str) -> Value>,
    pub who: Who,
}

#[track_caller]
fn judge(rule: &str, name: &str, may: bool, answer: Answer, status: u16) {
    let policy = format!("You are not authorized to perform the requested action: identity:{rule}.");
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    let denied = answer.status == 403 && message == policy;
    assert_eq!(denied, !may, "{rule} by {name}: {} {}", answer.status, answer.body);
    assert!(!may || answer.status == status, "{rule} by {name}: {} {}", answer.status, answer.body);
}

/// Tried, allowed and denied, in scenarios of their own: they need what a row cannot have, such as another's token in a header.
const ELSEWHERE: [&str; 7] =
    ["get_auth_catalog", "check_token", "validate_token", "revoke_token", "check_implied_role", "create_trust", "delete_trust"];
/// Resources whose scenarios have tables of their own.
const THEIRS: [&str; 16] = [
    "application_credential",
    "access_rule",
    "ec2",
    "s3tokens",
    "consumer",
    "access_token",
    "request_token",
    "identity_provider",
    "mapping",
    "protocol",
    "service_provider",
    "revoke_event",
    "revocation_list",
    "list_projects_for_user",
    "list_domains_for_user",
    "oauth",
];

pub async fn every_rule_is_tried_by_every_persona(cloud: Cloud) {
    let admin = cloud.admin().await;
    let world = World::new(&cloud, &admin).await;
    let mut tried: BTreeSet<String> = ELSEWHERE.iter().map(|name| name.to_string()).collect();
    for row in standing(&world) {
        for (name, token) in &world.tokens {
            let answer = cloud.ask(token, row.method, &row.path, row.body.clone()).await;
            judge(row.rule, name, (row.who)(name), answer, row.status);
        }
        tried.insert(row.rule.into());
    }
    for row in destructive(&world) {
        for (name, token) in &world.tokens {
            let thing = id(&cloud.post(&admin, row.collection, (row.body)(&format!("for {name}"))).await.is(201));
            let answer = cloud.delete(token, &format!("{}/{thing}", row.collection)).await;
            judge(row.rule, name, (row.who)(name), answer, 204);
        }
        tried.insert(row.rule.into());
    }
    let rules = identity::RULES.iter().filter_map(|rule| rule.name.strip_prefix("identity:"));
    let missing: Vec<&str> = rules.filter(|name| !tried.contains(*name) && !THEIRS.iter().any(|part| name.contains(part))).collect();
    assert_eq!(missing, [""; 0], "rules that nobody tried");
}
