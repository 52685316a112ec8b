//! Each rule, allowed and denied: every request of a table is made by a person for each pair of scope and role.

use serde_json::{Value, json};

use crate::cloud::*;

/// `system_admin` … `project_reader` and their tokens. Domain and project are their own ones, the project in the domain.
pub struct Personas {
    pub tokens: Vec<(String, String)>,
    pub domain: String,
    pub project: String,
}

impl Personas {
    pub async fn new(cloud: &Cloud, admin: &str) -> Personas {
        let domain = id(&cloud.post(admin, "/v3/domains", json!({ "domain": { "name": "personas" } })).await.is(201));
        let project = json!({ "project": { "name": "own", "domain_id": domain } });
        let project = id(&cloud.post(admin, "/v3/projects", project).await.is(201));
        let mut tokens = Vec::new();
        for (level, target, scope) in [
            ("system", "system".to_string(), on_system()),
            ("domain", format!("domains/{domain}"), on_domain(&domain)),
            ("project", format!("projects/{project}"), on_project(&project)),
        ] {
            for role in ["admin", "manager", "member", "reader"] {
                let name = format!("{level}_{role}");
                let user = json!({ "user": { "name": name, "domain_id": domain, "password": PASSWORD } });
                let user = id(&cloud.post(admin, "/v3/users", user).await.is(201));
                let role = cloud.role(admin, role).await;
                cloud.put(admin, &format!("/v3/{target}/users/{user}/roles/{role}")).await.is(204);
                tokens.push((name, cloud.login(user_by_id(&user), scope.clone()).await.token));
            }
        }
        Personas { tokens, domain, project }
    }
}

/// Who may: by name of persona.
type Who = fn(&str) -> bool;

fn everybody(_: &str) -> bool {
    true
}
/// Where tokens of domains are no good.
fn admins(name: &str) -> bool {
    matches!(name, "system_admin" | "project_admin")
}
fn admins_and_auditors(name: &str) -> bool {
    admins(name) || name.starts_with("system_")
}

/// Rule, request, the status for those who may, and who that is. Many requests are for what is not there: that is told only
/// to who may ask.
type Row = (&'static str, &'static str, String, Value, u16, Who);

fn limits() -> Vec<Row> {
    let registered = json!({ "registered_limits": [{ "service_id": "none", "resource_name": "n", "default_limit": 1 }] });
    let limits = json!({ "limits": [{ "service_id": "none", "project_id": "p", "resource_name": "n", "resource_limit": 1 }] });
    vec![
        ("get_registered_limit", "GET", "/v3/registered_limits/none".into(), Value::Null, 404, everybody),
        ("list_registered_limits", "GET", "/v3/registered_limits".into(), Value::Null, 200, everybody),
        ("create_registered_limits", "POST", "/v3/registered_limits".into(), registered, 400, admins),
        ("update_registered_limit", "PATCH", "/v3/registered_limits/none".into(), json!({ "registered_limit": {} }), 404, admins),
        ("delete_registered_limit", "DELETE", "/v3/registered_limits/none".into(), Value::Null, 404, admins),
        ("get_limit_model", "GET", "/v3/limits/model".into(), Value::Null, 200, everybody),
        ("get_limit", "GET", "/v3/limits/none".into(), Value::Null, 404, |name| name == "domain_admin" || admins_and_auditors(name)),
        ("list_limits", "GET", "/v3/limits".into(), Value::Null, 200, everybody),
        ("create_limits", "POST", "/v3/limits".into(), limits, 400, admins),
        ("update_limit", "PATCH", "/v3/limits/none".into(), json!({ "limit": {} }), 404, admins),
        ("delete_limit", "DELETE", "/v3/limits/none".into(), Value::Null, 404, admins),
    ]
}

fn endpoint_filter() -> Vec<Row> {
    let filter = |tail: &str| format!("/v3/OS-EP-FILTER{tail}");
    let group = json!({ "endpoint_group": { "name": "n", "filters": { "interface": "public" } } });
    let (one, of_project) = (filter("/endpoint_groups/none"), filter("/endpoint_groups/none/projects/none"));
    let endpoint = filter("/projects/none/endpoints/none");
    vec![
        ("create_endpoint_group", "POST", filter("/endpoint_groups"), group.clone(), 201, admins),
        ("list_endpoint_groups", "GET", filter("/endpoint_groups"), Value::Null, 200, admins_and_auditors),
        ("get_endpoint_group", "GET", one.clone(), Value::Null, 404, admins_and_auditors),
        ("update_endpoint_group", "PATCH", one.clone(), group, 404, admins),
        ("delete_endpoint_group", "DELETE", one.clone(), Value::Null, 404, admins),
        ("list_projects_associated_with_endpoint_group", "GET", format!("{one}/projects"), Value::Null, 404, admins_and_auditors),
        ("list_endpoints_associated_with_endpoint_group", "GET", format!("{one}/endpoints"), Value::Null, 404, admins_and_auditors),
        ("get_endpoint_group_in_project", "GET", of_project.clone(), Value::Null, 404, admins_and_auditors),
        ("list_endpoint_groups_for_project", "GET", filter("/projects/none/endpoint_groups"), Value::Null, 404, admins_and_auditors),
        ("add_endpoint_group_to_project", "PUT", of_project.clone(), Value::Null, 404, admins),
        ("remove_endpoint_group_from_project", "DELETE", of_project, Value::Null, 404, admins),
        ("list_projects_for_endpoint", "GET", filter("/endpoints/none/projects"), Value::Null, 404, admins_and_auditors),
        ("add_endpoint_to_project", "PUT", endpoint.clone(), Value::Null, 404, admins),
        ("check_endpoint_in_project", "GET", endpoint.clone(), Value::Null, 404, admins_and_auditors),
        ("list_endpoints_for_project", "GET", filter("/projects/none/endpoints"), Value::Null, 404, admins_and_auditors),
        ("remove_endpoint_from_project", "DELETE", endpoint, Value::Null, 404, admins),
    ]
}

fn endpoint_policy() -> Vec<Row> {
    let of_policy = |tail: &str| format!("/v3/policies/none/OS-ENDPOINT-POLICY{tail}");
    let mut rows: Vec<Row> = vec![
        ("get_policy_for_endpoint", "GET", "/v3/endpoints/none/OS-ENDPOINT-POLICY/policy".into(), Value::Null, 404, admins_and_auditors),
        ("list_endpoints_for_policy", "GET", of_policy("/endpoints"), Value::Null, 404, admins_and_auditors),
    ];
    let places = [
        (
            "/endpoints/none",
            ["create_policy_association_for_endpoint", "check_policy_association_for_endpoint", "delete_policy_association_for_endpoint"],
        ),
        (
            "/services/none",
            ["create_policy_association_for_service", "check_policy_association_for_service", "delete_policy_association_for_service"],
        ),
        (
            "/services/none/regions/none",
            [
                "create_policy_association_for_region_and_service",
                "check_policy_association_for_region_and_service",
                "delete_policy_association_for_region_and_service",
            ],
        ),
    ];
    for (tail, [create, check, delete]) in places {
        rows.push((create, "PUT", of_policy(tail), Value::Null, 404, admins));
        rows.push((check, "GET", of_policy(tail), Value::Null, 404, admins_and_auditors));
        rows.push((delete, "DELETE", of_policy(tail), Value::Null, 404, admins));
    }
    rows
}

/// Their own domain and project.
fn own(personas: &Personas) -> Vec<Row> {
    vec![
        ("get_domain", "GET", format!("/v3/domains/{}", personas.domain), Value::Null, 200, everybody),
        ("get_project", "GET", format!("/v3/projects/{}", personas.project), Value::Null, 200, everybody),
    ]
}

fn domain_config() -> Vec<Row> {
    let config = json!({ "config": { "ldap": { "url": "u" } } });
    let of_none = |tail: &str| format!("/v3/domains/none/config{tail}");
    vec![
        ("create_domain_config", "PUT", of_none(""), config.clone(), 404, admins),
        ("get_domain_config", "GET", of_none(""), Value::Null, 404, admins_and_auditors),
        ("get_domain_config", "GET", of_none("/ldap/url"), Value::Null, 404, admins_and_auditors),
        (
            "get_security_compliance_domain_config",
            "GET",
            "/v3/domains/default/config/security_compliance".into(),
            Value::Null,
            200,
            everybody,
        ),
        ("update_domain_config", "PATCH", of_none("/ldap"), config, 404, admins),
        ("delete_domain_config", "DELETE", of_none(""), Value::Null, 404, admins),
        ("get_domain_config_default", "GET", "/v3/domains/config/ldap/default".into(), Value::Null, 200, admins_and_auditors),
    ]
}

pub async fn every_rule_is_tried_by_every_persona(cloud: Cloud) {
    let admin = cloud.admin().await;
    let personas = Personas::new(&cloud, &admin).await;
    let table: Vec<Row> = [own(&personas), limits(), domain_config(), endpoint_filter(), endpoint_policy()].into_iter().flatten().collect();
    for (rule, method, path, body, status, who) in table {
        for (name, token) in &personas.tokens {
            let answer = cloud.ask(token, method, &path, body.clone()).await;
            let said = format!("{rule} by {name}: {method} {path}: {}", answer.body);
            if who(name) {
                assert_eq!(answer.status, status, "{said}");
            } else {
                let message = answer.fault(403);
                assert_eq!(message, format!("You are not authorized to perform the requested action: identity:{rule}."), "{said}");
            }
        }
    }
}
