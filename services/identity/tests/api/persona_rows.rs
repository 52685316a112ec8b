//! The requests by which the rules are tried.

use serde_json::{Value, json};

use crate::personas::{Destructive, Row, Who, World};

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
fn all_admins(name: &str) -> bool {
    name.ends_with("_admin")
}
fn all_admins_and_auditors(name: &str) -> bool {
    all_admins(name) || name.starts_with("system_")
}
/// Who may see what is in the domain.
fn domain_readers(name: &str) -> bool {
    all_admins_and_auditors(name) || name.starts_with("domain_")
}
/// Who may change what is in the domain.
fn domain_managers(name: &str) -> bool {
    all_admins(name) || name == "domain_manager"
}

fn row(rule: &'static str, method: &'static str, path: impl Into<String>, body: Value, status: u16, who: Who) -> Row {
    Row { rule, method, path: path.into(), body, status, who, subject: None }
}

fn get(rule: &'static str, path: impl Into<String>, status: u16, who: Who) -> Row {
    row(rule, "GET", path, Value::Null, status, who)
}

/// Requests that anybody can make again and again.
pub fn standing(world: &World) -> Vec<Row> {
    let tables = [
        tokens(world),
        delegations(world),
        ec2(world),
        oauth1(world),
        federation(),
        domains(world),
        projects(world),
        users(world),
        groups(world),
        grants(world),
        roles(world),
        catalogue(world),
        credentials(world),
        trusts(world),
        policies(),
        limits(),
        domain_config(),
        endpoint_filter(),
        endpoint_policy(),
    ];
    tables.into_iter().flatten().collect()
}

/// With tokens for a project.
fn project_admin(name: &str) -> bool {
    name == "project_admin"
}
fn auditors(name: &str) -> bool {
    name.starts_with("system_")
}

fn tokens(world: &World) -> Vec<Row> {
    let about = |rule, method| Row {
        subject: Some(world.own.clone()),
        ..row(rule, method, "/v3/auth/tokens", Value::Null, 200, all_admins_and_auditors)
    };
    vec![
        about("check_token", "HEAD"),
        about("validate_token", "GET"),
        get("list_revoke_events", "/v3/OS-REVOKE/events", 200, admins),
        get("get_auth_projects", "/v3/auth/projects", 200, everybody),
        get("get_auth_domains", "/v3/auth/domains", 200, everybody),
        get("get_auth_system", "/v3/auth/system", 200, everybody),
    ]
}

fn delegations(world: &World) -> Vec<Row> {
    let of = |tail: &str| format!("/v3/users/{}/{tail}", world.user);
    vec![
        get("list_application_credentials", of("application_credentials"), 200, admins_and_auditors),
        get("get_application_credential", of("application_credentials/none"), 404, admins_and_auditors),
        row("delete_application_credential", "DELETE", of("application_credentials/none"), Value::Null, 404, admins),
        get("list_access_rules", of("access_rules"), 200, auditors),
        get("get_access_rule", of("access_rules/none"), 404, auditors),
        row("delete_access_rule", "DELETE", of("access_rules/none"), Value::Null, 404, |name| name == "system_admin"),
    ]
}

fn ec2(world: &World) -> Vec<Row> {
    let all = format!("/v3/users/{}/credentials/OS-EC2", world.user);
    vec![
        get("ec2_list_credentials", &all, 200, admins_and_auditors),
        get("ec2_get_credential", format!("{all}/{}", world.access), 200, admins_and_auditors),
        row("ec2_create_credential", "POST", all, json!({ "tenant_id": world.project }), 201, admins),
        // Who may ask is told that nothing was signed.
        row("ec2tokens_validate", "POST", "/v3/ec2tokens", json!({}), 400, all_admins),
        row("s3tokens_validate", "POST", "/v3/s3tokens", json!({}), 400, all_admins),
    ]
}

fn oauth1(world: &World) -> Vec<Row> {
    let one = "/v3/OS-OAUTH1/consumers/none";
    let all = format!("/v3/users/{}/OS-OAUTH1/access_tokens", world.user);
    let of = |tail: &str| format!("{all}/none{tail}");
    let roles = json!({ "roles": [{ "id": world.role }] });
    vec![
        get("list_consumers", "/v3/OS-OAUTH1/consumers", 200, admins_and_auditors),
        get("get_consumer", one, 404, admins_and_auditors),
        row("create_consumer", "POST", "/v3/OS-OAUTH1/consumers", json!({ "consumer": {} }), 201, admins),
        row("update_consumer", "PATCH", one, json!({ "consumer": { "description": "d" } }), 404, admins),
        row("delete_consumer", "DELETE", one, Value::Null, 404, admins),
        row("authorize_request_token", "PUT", "/v3/OS-OAUTH1/authorize/none", roles, 404, project_admin),
        get("list_access_tokens", &all, 200, project_admin),
        get("get_access_token", of(""), 404, project_admin),
        get("list_access_token_roles", of("/roles"), 404, project_admin),
        get("get_access_token_role", of("/roles/none"), 404, project_admin),
        row("delete_access_token", "DELETE", of(""), Value::Null, 404, project_admin),
    ]
}

fn federation() -> Vec<Row> {
    let rules = json!([{ "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "REMOTE_USER" }] }]);
    let provider = json!({ "service_provider": { "auth_url": "https://h/a", "sp_url": "https://h/b" } });
    let of_provider = "/v3/OS-FEDERATION/identity_providers/known/protocols";
    let mut rows = Vec::new();
    for (collection, [list, show, create, update, delete], body) in [
        (
            "/v3/OS-FEDERATION/identity_providers",
            [
                "list_identity_providers",
                "get_identity_provider",
                "create_identity_provider",
                "update_identity_provider",
                "delete_identity_provider",
            ],
            json!({ "identity_provider": { "enabled": true } }),
        ),
        (
            "/v3/OS-FEDERATION/mappings",
            ["list_mappings", "get_mapping", "create_mapping", "update_mapping", "delete_mapping"],
            json!({ "mapping": { "rules": rules } }),
        ),
        (
            of_provider,
            ["list_protocols", "get_protocol", "create_protocol", "update_protocol", "delete_protocol"],
            json!({ "protocol": { "mapping_id": "known" } }),
        ),
        (
            "/v3/OS-FEDERATION/service_providers",
            [
                "list_service_providers",
                "get_service_provider",
                "create_service_provider",
                "update_service_provider",
                "delete_service_provider",
            ],
            provider,
        ),
    ] {
        let (known, none) = (format!("{collection}/known"), format!("{collection}/none"));
        rows.push(get(list, collection, 200, admins_and_auditors));
        rows.push(get(show, &known, 200, admins_and_auditors));
        rows.push(row(create, "PUT", &known, body.clone(), 409, admins));
        rows.push(row(update, "PATCH", &known, body, 200, admins));
        rows.push(row(delete, "DELETE", none, Value::Null, 404, admins));
    }
    rows
}

fn domains(world: &World) -> Vec<Row> {
    let own = format!("/v3/domains/{}", world.domain);
    vec![
        get("get_domain", &own, 200, everybody),
        get("get_domain", "/v3/domains/default", 200, all_admins_and_auditors),
        get("list_domains", "/v3/domains", 200, domain_readers),
        row("create_domain", "POST", "/v3/domains", json!({ "domain": { "name": "personas" } }), 409, admins),
        row("update_domain", "PATCH", &own, json!({ "domain": { "description": "d" } }), 200, admins),
        // It is enabled.
        row("delete_domain", "DELETE", &own, Value::Null, 403, admins),
    ]
}

fn projects(world: &World) -> Vec<Row> {
    let (own, other) = (format!("/v3/projects/{}", world.project), format!("/v3/projects/{}", world.stranger));
    let (tags, tag, none) = (format!("{own}/tags"), format!("{own}/tags/a"), format!("{own}/tags/none"));
    let there = json!({ "project": { "name": "own", "domain_id": world.domain } });
    let elsewhere = json!({ "project": { "name": "stranger", "domain_id": "default" } });
    vec![
        get("get_project", &own, 200, everybody),
        get("get_project", &other, 200, all_admins_and_auditors),
        get("list_projects", "/v3/projects", 200, domain_readers),
        get("list_user_projects", format!("/v3/users/{}/projects", world.user), 200, domain_readers),
        row("create_project", "POST", "/v3/projects", there, 409, domain_managers),
        row("create_project", "POST", "/v3/projects", elsewhere, 409, all_admins),
        row("update_project", "PATCH", &own, json!({ "project": { "description": "d" } }), 200, domain_managers),
        row("update_project", "PATCH", &other, json!({ "project": { "description": "d" } }), 200, all_admins),
        // There is one below it.
        row("delete_project", "DELETE", &own, Value::Null, 403, domain_managers),
        get("list_project_tags", &tags, 200, everybody),
        get("list_project_tags", format!("{other}/tags"), 200, all_admins_and_auditors),
        get("get_project_tag", &none, 404, everybody),
        get("get_project_tag", format!("{other}/tags/none"), 404, all_admins_and_auditors),
        row("update_project_tags", "PUT", &tags, json!({ "tags": ["a"] }), 200, domain_managers),
        row("create_project_tag", "PUT", &tag, Value::Null, 400, domain_managers),
        row("delete_project_tag", "DELETE", &none, Value::Null, 404, domain_managers),
        row("delete_project_tags", "DELETE", &tags, Value::Null, 204, domain_managers),
    ]
}

fn users(world: &World) -> Vec<Row> {
    let one = format!("/v3/users/{}", world.user);
    let there = json!({ "user": { "name": "target", "domain_id": world.domain } });
    vec![
        get("get_user", &one, 200, domain_readers),
        get("list_users", "/v3/users", 200, domain_readers),
        row("create_user", "POST", "/v3/users", there, 409, domain_managers),
        row("create_user", "POST", "/v3/users", json!({ "user": { "name": "admin", "domain_id": "default" } }), 409, all_admins),
        row("update_user", "PATCH", &one, json!({ "user": { "note": "n" } }), 200, domain_managers),
    ]
}

fn groups(world: &World) -> Vec<Row> {
    let one = format!("/v3/groups/{}", world.group);
    let member = format!("{one}/users/{}", world.user);
    let there = json!({ "group": { "name": "target", "domain_id": world.domain } });
    vec![
        get("get_group", &one, 200, domain_readers),
        get("list_groups", "/v3/groups", 200, domain_readers),
        get("list_groups_for_user", format!("/v3/users/{}/groups", world.user), 200, domain_readers),
        row("create_group", "POST", "/v3/groups", there, 409, domain_managers),
        row("update_group", "PATCH", &one, json!({ "group": { "description": "d" } }), 200, domain_managers),
        get("list_users_in_group", format!("{one}/users"), 200, domain_readers),
        get("check_user_in_group", &member, 404, domain_readers),
        row("remove_user_from_group", "DELETE", &member, Value::Null, 404, domain_managers),
        row("add_user_to_group", "PUT", &member, Value::Null, 204, domain_managers),
    ]
}

fn grants(world: &World) -> Vec<Row> {
    let of = |actor: &str, id: &str| format!("/v3/projects/{}/{actor}/{id}/roles", world.project);
    let (user, group) = (of("users", &world.user), of("groups", &world.group));
    let role = |all: &str, name: &str| format!("{all}/{}", world.roles[name]);
    let mut rows = vec![
        get("list_grants", &user, 200, domain_readers),
        get("list_grants", &group, 200, domain_readers),
        get("check_grant", role(&user, "reader"), 404, domain_readers),
        get("check_grant", format!("{user}/{}", world.domain_role), 404, domain_readers),
        // Of another domain's role those of the domain hear nothing.
        get("check_grant", format!("{user}/{}", world.foreign_role), 404, all_admins_and_auditors),
        row("create_grant", "PUT", role(&group, "member"), Value::Null, 204, domain_managers),
        // Managers give nothing that is above them.
        row("create_grant", "PUT", role(&group, "admin"), Value::Null, 204, all_admins),
        row(
            "create_grant",
            "PUT",
            format!("/v3/domains/default/users/{}/roles/{}", world.user, world.roles["member"]),
            Value::Null,
            204,
            all_admins,
        ),
        row("revoke_grant", "DELETE", role(&user, "manager"), Value::Null, 404, domain_managers),
        row("revoke_grant", "DELETE", role(&user, "admin"), Value::Null, 404, all_admins),
        get("list_role_assignments", "/v3/role_assignments", 200, domain_readers),
        get(
            "list_role_assignments_for_tree",
            format!("/v3/role_assignments?scope.project.id={}&include_subtree", world.project),
            200,
            domain_readers,
        ),
    ];
    let rules = [
        ["list_system_grants_for_user", "check_system_grant_for_user", "create_system_grant_for_user", "revoke_system_grant_for_user"],
        ["list_system_grants_for_group", "check_system_grant_for_group", "create_system_grant_for_group", "revoke_system_grant_for_group"],
    ];
    for ([list, check, create, revoke], actor) in
        rules.into_iter().zip([format!("users/{}", world.user), format!("groups/{}", world.group)])
    {
        let all = format!("/v3/system/{actor}/roles");
        rows.push(get(list, &all, 200, admins_and_auditors));
        rows.push(get(check, role(&all, "reader"), 404, admins_and_auditors));
        rows.push(row(create, "PUT", role(&all, "member"), Value::Null, 204, admins));
        rows.push(row(revoke, "DELETE", role(&all, "manager"), Value::Null, 404, admins));
    }
    rows
}

fn roles(world: &World) -> Vec<Row> {
    let role = |name: &str| format!("/v3/roles/{}", world.roles[name]);
    let of_domain = format!("/v3/roles/{}", world.domain_role);
    let there = |body: Value| json!({ "role": body });
    let implies = format!("{}/implies/{}", role("admin"), world.roles["manager"]);
    let implies_not = format!("{}/implies/{}", role("reader"), world.roles["manager"]);
    vec![
        // Managers see the roles that they may give.
        get("get_role", role("reader"), 200, |name| all_admins_and_auditors(name) || name.ends_with("_manager")),
        get("get_role", role("admin"), 200, all_admins_and_auditors),
        get("list_roles", "/v3/roles", 200, |name| all_admins_and_auditors(name) || name == "domain_manager"),
        row("create_role", "POST", "/v3/roles", there(json!({ "name": "reader" })), 409, admins),
        row("update_role", "PATCH", format!("/v3/roles/{}", world.role), there(json!({ "description": "d" })), 200, admins),
        get("get_domain_role", &of_domain, 200, admins_and_auditors),
        get("list_domain_roles", format!("/v3/roles?domain_id={}", world.domain), 200, admins_and_auditors),
        row("create_domain_role", "POST", "/v3/roles", there(json!({ "name": "of the domain", "domain_id": world.domain })), 409, admins),
        row("update_domain_role", "PATCH", &of_domain, there(json!({ "description": "d" })), 200, admins),
        get("list_implied_roles", format!("{}/implies", role("admin")), 200, admins_and_auditors),
        get("get_implied_role", &implies, 200, admins_and_auditors),
        row("check_implied_role", "HEAD", &implies, Value::Null, 204, admins_and_auditors),
        row("create_implied_role", "PUT", &implies, Value::Null, 201, admins),
        row("delete_implied_role", "DELETE", implies_not, Value::Null, 404, admins),
        get("list_role_inference_rules", "/v3/role_inferences", 200, admins_and_auditors),
    ]
}

fn catalogue(world: &World) -> Vec<Row> {
    let (service, endpoint) = (format!("/v3/services/{}", world.service), format!("/v3/endpoints/{}", world.endpoint));
    let new = json!({ "endpoint": { "service_id": "none", "interface": "public", "url": "http://h" } });
    vec![
        get("get_region", "/v3/regions/RegionOne", 200, everybody),
        get("list_regions", "/v3/regions", 200, everybody),
        row("create_region", "PUT", "/v3/regions/RegionOne", json!({ "region": {} }), 409, admins),
        row("update_region", "PATCH", "/v3/regions/RegionOne", json!({ "region": { "description": "" } }), 200, admins),
        // It has endpoints.
        row("delete_region", "DELETE", "/v3/regions/RegionOne", Value::Null, 403, admins),
        get("get_service", &service, 200, admins_and_auditors),
        get("list_services", "/v3/services", 200, admins_and_auditors),
        row("create_service", "POST", "/v3/services", json!({ "service": { "type": "t" } }), 201, admins),
        row("update_service", "PATCH", &service, json!({ "service": { "note": "n" } }), 200, admins),
        row("delete_service", "DELETE", "/v3/services/none", Value::Null, 404, admins),
        get("get_endpoint", &endpoint, 200, admins_and_auditors),
        get("list_endpoints", "/v3/endpoints", 200, admins_and_auditors),
        row("create_endpoint", "POST", "/v3/endpoints", new, 400, admins),
        row("update_endpoint", "PATCH", &endpoint, json!({ "endpoint": { "note": "n" } }), 200, admins),
        row("delete_endpoint", "DELETE", "/v3/endpoints/none", Value::Null, 404, admins),
    ]
}

/// Of another user.
fn credentials(world: &World) -> Vec<Row> {
    let one = format!("/v3/credentials/{}", world.credential);
    let new = json!({ "credential": { "user_id": world.user, "type": "t", "blob": "b" } });
    vec![
        get("get_credential", &one, 200, all_admins_and_auditors),
        // Everybody lists their own.
        get("list_credentials", "/v3/credentials", 200, everybody),
        row("create_credential", "POST", "/v3/credentials", new, 201, all_admins),
        row("update_credential", "PATCH", &one, json!({ "credential": { "blob": "c" } }), 200, all_admins),
    ]
}

/// Of another user, for another user.
fn trusts(world: &World) -> Vec<Row> {
    let one = format!("/v3/OS-TRUST/trusts/{}", world.trust);
    vec![
        get("list_trusts", "/v3/OS-TRUST/trusts", 200, admins_and_auditors),
        get("list_trusts_for_trustor", format!("/v3/OS-TRUST/trusts?trustor_user_id={}", world.user), 200, admins_and_auditors),
        get("list_trusts_for_trustee", format!("/v3/OS-TRUST/trusts?trustee_user_id={}", world.user), 200, admins_and_auditors),
        get("get_trust", &one, 200, admins_and_auditors),
        get("list_roles_for_trust", format!("{one}/roles"), 200, admins_and_auditors),
        get("get_role_for_trust", format!("{one}/roles/{}", world.roles["member"]), 200, admins_and_auditors),
    ]
}

fn policies() -> Vec<Row> {
    let body = json!({ "policy": { "type": "t", "blob": "b" } });
    vec![
        get("get_policy", "/v3/policies/none", 404, admins_and_auditors),
        get("list_policies", "/v3/policies", 200, admins_and_auditors),
        row("create_policy", "POST", "/v3/policies", body.clone(), 201, admins),
        row("update_policy", "PATCH", "/v3/policies/none", body, 404, admins),
        row("delete_policy", "DELETE", "/v3/policies/none", Value::Null, 404, admins),
    ]
}

/// What is gone once somebody was allowed to.
pub fn destructive(world: &World) -> Vec<Destructive> {
    let thing = |rule, collection, what: &'static str, domain: Option<&str>, who| {
        let domain = domain.map(str::to_string);
        let body = move |name: &str| match &domain {
            Some(domain) => json!({ what: { "name": name, "domain_id": domain } }),
            None => json!({ what: { "name": name } }),
        };
        Destructive { rule, collection: String::from(collection), body: Box::new(body), who, maker: None, named: "id" }
    };
    let (user, project) = (world.user.clone(), world.project.clone());
    let trust = json!({ "trust": { "trustor_user_id": user, "trustee_user_id": user, "impersonation": false, "project_id": project,
        "roles": [{ "name": "member" }] } });
    vec![
        thing("delete_user", "/v3/users", "user", Some(&world.domain), domain_managers),
        thing("delete_user", "/v3/users", "user", None, all_admins),
        thing("delete_group", "/v3/groups", "group", Some(&world.domain), domain_managers),
        thing("delete_project", "/v3/projects", "project", Some(&world.domain), domain_managers),
        thing("delete_role", "/v3/roles", "role", None, admins),
        thing("delete_domain_role", "/v3/roles", "role", Some(&world.domain), admins),
        Destructive {
            rule: "ec2_delete_credential",
            collection: format!("/v3/users/{user}/credentials/OS-EC2"),
            body: Box::new(move |_| json!({ "tenant_id": project })),
            who: admins,
            maker: Some(world.own.clone()),
            named: "access",
        },
        Destructive {
            rule: "delete_trust",
            collection: "/v3/OS-TRUST/trusts".into(),
            body: Box::new(move |_| trust.clone()),
            who: admins,
            maker: Some(world.own.clone()),
            named: "id",
        },
        Destructive {
            rule: "delete_credential",
            collection: "/v3/credentials".into(),
            body: Box::new(move |_| json!({ "credential": { "user_id": user, "type": "t", "blob": "b" } })),
            who: all_admins,
            maker: None,
            named: "id",
        },
    ]
}

fn limits() -> Vec<Row> {
    let registered = json!({ "registered_limits": [{ "service_id": "none", "resource_name": "n", "default_limit": 1 }] });
    let limits = json!({ "limits": [{ "service_id": "none", "project_id": "p", "resource_name": "n", "resource_limit": 1 }] });
    vec![
        row("get_registered_limit", "GET", "/v3/registered_limits/none", Value::Null, 404, everybody),
        row("list_registered_limits", "GET", "/v3/registered_limits", Value::Null, 200, everybody),
        row("create_registered_limits", "POST", "/v3/registered_limits", registered, 400, admins),
        row("update_registered_limit", "PATCH", "/v3/registered_limits/none", json!({ "registered_limit": {} }), 404, admins),
        row("delete_registered_limit", "DELETE", "/v3/registered_limits/none", Value::Null, 404, admins),
        row("get_limit_model", "GET", "/v3/limits/model", Value::Null, 200, everybody),
        row("get_limit", "GET", "/v3/limits/none", Value::Null, 404, |name| name == "domain_admin" || admins_and_auditors(name)),
        row("list_limits", "GET", "/v3/limits", Value::Null, 200, everybody),
        row("create_limits", "POST", "/v3/limits", limits, 400, admins),
        row("update_limit", "PATCH", "/v3/limits/none", json!({ "limit": {} }), 404, admins),
        row("delete_limit", "DELETE", "/v3/limits/none", Value::Null, 404, admins),
    ]
}

fn domain_config() -> Vec<Row> {
    let config = json!({ "config": { "ldap": { "url": "u" } } });
    let of_none = |tail: &str| format!("/v3/domains/none/config{tail}");
    vec![
        row("create_domain_config", "PUT", of_none(""), config.clone(), 404, admins),
        row("get_domain_config", "GET", of_none(""), Value::Null, 404, admins_and_auditors),
        row("get_domain_config", "GET", of_none("/ldap/url"), Value::Null, 404, admins_and_auditors),
        row("get_security_compliance_domain_config", "GET", "/v3/domains/default/config/security_compliance", Value::Null, 200, everybody),
        row("update_domain_config", "PATCH", of_none("/ldap"), config, 404, admins),
        row("delete_domain_config", "DELETE", of_none(""), Value::Null, 404, admins),
        row("get_domain_config_default", "GET", "/v3/domains/config/ldap/default", Value::Null, 200, admins_and_auditors),
    ]
}

fn endpoint_filter() -> Vec<Row> {
    let filter = |tail: &str| format!("/v3/OS-EP-FILTER{tail}");
    let group = json!({ "endpoint_group": { "name": "n", "filters": { "interface": "public" } } });
    let (one, of_project) = (filter("/endpoint_groups/none"), filter("/endpoint_groups/none/projects/none"));
    let endpoint = filter("/projects/none/endpoints/none");
    vec![
        row("create_endpoint_group", "POST", filter("/endpoint_groups"), group.clone(), 201, admins),
        row("list_endpoint_groups", "GET", filter("/endpoint_groups"), Value::Null, 200, admins_and_auditors),
        row("get_endpoint_group", "GET", one.clone(), Value::Null, 404, admins_and_auditors),
        row("update_endpoint_group", "PATCH", one.clone(), group, 404, admins),
        row("delete_endpoint_group", "DELETE", one.clone(), Value::Null, 404, admins),
        row("list_projects_associated_with_endpoint_group", "GET", format!("{one}/projects"), Value::Null, 404, admins_and_auditors),
        row("list_endpoints_associated_with_endpoint_group", "GET", format!("{one}/endpoints"), Value::Null, 404, admins_and_auditors),
        row("get_endpoint_group_in_project", "GET", of_project.clone(), Value::Null, 404, admins_and_auditors),
        row("list_endpoint_groups_for_project", "GET", filter("/projects/none/endpoint_groups"), Value::Null, 404, admins_and_auditors),
        row("add_endpoint_group_to_project", "PUT", of_project.clone(), Value::Null, 404, admins),
        row("remove_endpoint_group_from_project", "DELETE", of_project, Value::Null, 404, admins),
        row("list_projects_for_endpoint", "GET", filter("/endpoints/none/projects"), Value::Null, 404, admins_and_auditors),
        row("add_endpoint_to_project", "PUT", endpoint.clone(), Value::Null, 404, admins),
        row("check_endpoint_in_project", "GET", endpoint.clone(), Value::Null, 404, admins_and_auditors),
        row("list_endpoints_for_project", "GET", filter("/projects/none/endpoints"), Value::Null, 404, admins_and_auditors),
        row("remove_endpoint_from_project", "DELETE", endpoint, Value::Null, 404, admins),
    ]
}

fn endpoint_policy() -> Vec<Row> {
    let of_policy = |tail: &str| format!("/v3/policies/none/OS-ENDPOINT-POLICY{tail}");
    let mut rows: Vec<Row> = vec![
        row("get_policy_for_endpoint", "GET", "/v3/endpoints/none/OS-ENDPOINT-POLICY/policy", Value::Null, 404, admins_and_auditors),
        row("list_endpoints_for_policy", "GET", of_policy("/endpoints"), Value::Null, 404, admins_and_auditors),
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
        rows.push(row(create, "PUT", of_policy(tail), Value::Null, 404, admins));
        rows.push(row(check, "GET", of_policy(tail), Value::Null, 404, admins_and_auditors));
        rows.push(row(delete, "DELETE", of_policy(tail), Value::Null, 404, admins));
    }
    rows
}
