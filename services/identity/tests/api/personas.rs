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
    /// Ids of the people, in the same order.
    ids: Vec<String>,
    /// Of the default domain.
    pub stranger: String,
    pub user: String,
    /// The user's own token for the project.
    pub own: String,
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
    /// The key of an EC2 credential of the user's.
    pub access: String,
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
        let (mut tokens, mut ids) = (Vec::new(), Vec::new());
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
                ids.push(user);
            }
        }
        let user = made("/v3/users", json!({ "user": { "name": "target", "domain_id": domain, "password": PASSWORD } })).await;
        cloud.put(admin, &format!("/v3/projects/{project}/users/{user}/roles/{}", roles["member"])).await.is(204);
        let own = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        let trust = json!({ "trust": { "trustor_user_id": user, "trustee_user_id": user, "impersonation": false, "project_id": project,
            "roles": [{ "id": roles["member"] }] } });
        let ec2 = cloud.post(&own, &format!("/v3/users/{user}/credentials/OS-EC2"), json!({ "tenant_id": project })).await.is(201);
        let federation = "/v3/OS-FEDERATION/";
        let rules = json!([{ "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "REMOTE_USER" }] }]);
        for (path, body) in [
            ("identity_providers/known", json!({ "identity_provider": { "domain_id": domain } })),
            ("mappings/known", json!({ "mapping": { "rules": rules } })),
            ("identity_providers/known/protocols/known", json!({ "protocol": { "mapping_id": "known" } })),
            ("service_providers/known", json!({ "service_provider": { "auth_url": "https://h/a", "sp_url": "https://h/b" } })),
        ] {
            cloud.ask(admin, "PUT", &format!("{federation}{path}"), body).await.is(201);
        }
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
            access: ec2["credential"]["access"].as_str().unwrap().to_string(),
            own,
            tokens,
            ids,
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
    /// The token that it is about.
    pub subject: Option<String>,
}

/// Something that is made to be deleted.
pub struct Destructive {
    pub rule: &'static str,
    pub collection: String,
    /// With a name of its own each time.
    pub body: Box<dyn Fn(&str) -> Value>,
    pub who: Who,
    /// Of who makes it; none: the administrator.
    pub maker: Option<String>,
    /// Where in the answer the last part of its path is.
    pub named: &'static str,
}

#[track_caller]
fn judge(rule: &str, name: &str, may: bool, answer: Answer, status: u16) {
    let policy = format!("You are not authorized to perform the requested action: identity:{rule}.");
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    let denied = answer.status == 403 && message == policy;
    assert_eq!(denied, !may, "{rule} by {name}: {} {}", answer.status, answer.body);
    assert!(!may || answer.status == status, "{rule} by {name}: {} {}", answer.status, answer.body);
}

/// What only the user it is about may do, and only with a token for a project: the people do it for themselves and for somebody else.
async fn for_themselves(cloud: &Cloud, world: &World) -> [&'static str; 2] {
    for ((name, token), me) in world.tokens.iter().zip(&world.ids) {
        let role = name.split_once('_').unwrap().1;
        for user in [me, &world.user] {
            let may = user == me && name.starts_with("project_");
            let trust = json!({ "trust": { "trustor_user_id": user, "trustee_user_id": world.user, "impersonation": false,
                "project_id": world.project, "roles": [{ "name": role }] } });
            judge("create_trust", name, may, cloud.post(token, "/v3/OS-TRUST/trusts", trust).await, 201);
            let path = format!("/v3/users/{user}/application_credentials");
            let credential = json!({ "application_credential": { "name": "c" } });
            judge("create_application_credential", name, may, cloud.post(token, &path, credential).await, 201);
        }
    }
    ["create_trust", "create_application_credential"]
}

/// A rule that lets everybody in; but only a token for a project has such a catalogue.
async fn catalogue(cloud: &Cloud, world: &World) -> &'static str {
    for (name, token) in &world.tokens {
        let answer = cloud.get(token, "/v3/auth/catalog").await;
        judge("get_auth_catalog", name, true, answer, if name.starts_with("project_") { 200 } else { 403 });
    }
    "get_auth_catalog"
}

async fn revocation(cloud: &Cloud, world: &World) -> &'static str {
    for (name, token) in &world.tokens {
        let subject = cloud.login(user_by_id(&world.user), on_project(&world.project)).await.token;
        let headers = [("x-auth-token", token.as_str()), ("x-subject-token", &subject)];
        let answer = cloud.send("DELETE", "/v3/auth/tokens", &headers, Vec::new()).await;
        judge("revoke_token", name, name.ends_with("_admin"), answer, 204);
        let own = [("x-auth-token", subject.as_str()), ("x-subject-token", &subject)];
        let gone = name.ends_with("_admin");
        assert_eq!(cloud.send("DELETE", "/v3/auth/tokens", &own, Vec::new()).await.status, if gone { 401 } else { 204 });
    }
    "revoke_token"
}

pub async fn every_rule_is_tried_by_every_persona(cloud: Cloud) {
    let admin = cloud.admin().await;
    let world = World::new(&cloud, &admin).await;
    let mut tried: BTreeSet<String> = BTreeSet::new();
    for row in standing(&world) {
        for (name, token) in &world.tokens {
            let mut headers = vec![("x-auth-token", token.as_str())];
            headers.extend(row.subject.as_ref().map(|subject| ("x-subject-token", subject.as_str())));
            let body = if row.body.is_null() { Vec::new() } else { row.body.to_string().into_bytes() };
            let answer = cloud.send(row.method, &row.path, &headers, body).await;
            judge(row.rule, name, (row.who)(name), answer, row.status);
        }
        tried.insert(row.rule.into());
    }
    tried.extend(for_themselves(&cloud, &world).await.map(str::to_string));
    tried.insert(catalogue(&cloud, &world).await.into());
    for row in destructive(&world) {
        for (name, token) in &world.tokens {
            let maker = row.maker.as_ref().unwrap_or(&admin);
            let made = cloud.post(maker, &row.collection, (row.body)(&format!("for {name}"))).await.is(201);
            let thing = made.as_object().unwrap().values().next().unwrap()[row.named].as_str().unwrap();
            let answer = cloud.delete(token, &format!("{}/{thing}", row.collection)).await;
            judge(row.rule, name, (row.who)(name), answer, 204);
        }
        tried.insert(row.rule.into());
    }
    tried.insert(revocation(&cloud, &world).await.into());
    let rules = identity::RULES.iter().filter_map(|rule| rule.name.strip_prefix("identity:"));
    assert_eq!(rules.filter(|name| !tried.contains(*name)).collect::<Vec<_>>(), [""; 0], "rules that nobody tried");
}
