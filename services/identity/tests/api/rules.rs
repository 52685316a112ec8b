//! Who may do what: nobody without a token, little without a role, a domain's people in their domain.

use serde_json::{Value, json};

use crate::cloud::*;

pub async fn every_route_but_the_public_ones_wants_a_token(cloud: Cloud) {
    let mut count = 0;
    for route in cloud.app.routes() {
        let path = route.path.replace(['{', '}'], "");
        if route.public || route.service != "identity" {
            continue;
        }
        count += 1;
        for token in ["", "nonsense"] {
            let message = cloud.ask(token, route.method, &path, json!({})).await.fault(401);
            assert_eq!(message, "The request you have made requires authentication.", "{} {path}", route.method);
        }
    }
    assert!(count > 80, "{count}");
}

pub async fn a_member_of_a_project_sees_little(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (me, other) = (cloud.user(&admin, "me").await, cloud.user(&admin, "other").await);
    let role = cloud.role(&admin, "member").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{me}/roles/{role}")).await.is(204);
    let token = cloud.login(user_by_id(&me), on_project(&project)).await.token;
    let domain = json!({ "domain": { "name": "d" } });
    let table: Vec<(&str, String, Value, u16)> = vec![
        ("GET", format!("/v3/users/{me}"), Value::Null, 200),
        ("GET", format!("/v3/users/{other}"), Value::Null, 403),
        ("GET", "/v3/users/nobody".into(), Value::Null, 403),
        ("GET", "/v3/users".into(), Value::Null, 403),
        ("POST", "/v3/users".into(), json!({ "user": { "name": "n" } }), 403),
        ("POST", "/v3/users".into(), json!({ "user": {} }), 400),
        ("PATCH", format!("/v3/users/{me}"), json!({ "user": { "enabled": true } }), 403),
        ("DELETE", format!("/v3/users/{me}"), Value::Null, 403),
        ("GET", format!("/v3/users/{me}/projects"), Value::Null, 200),
        ("GET", format!("/v3/users/{me}/groups"), Value::Null, 200),
        ("GET", format!("/v3/users/{other}/projects"), Value::Null, 403),
        ("GET", format!("/v3/users/{other}/groups"), Value::Null, 403),
        ("GET", format!("/v3/projects/{project}"), Value::Null, 200),
        ("GET", format!("/v3/projects/{project}/tags"), Value::Null, 200),
        ("PUT", format!("/v3/projects/{project}/tags/x"), Value::Null, 403),
        ("GET", "/v3/projects".into(), Value::Null, 403),
        ("POST", "/v3/projects".into(), json!({ "project": { "name": "n" } }), 403),
        ("PATCH", format!("/v3/projects/{project}"), json!({ "project": { "name": "n" } }), 403),
        ("DELETE", format!("/v3/projects/{project}"), Value::Null, 403),
        ("GET", "/v3/domains/default".into(), Value::Null, 200),
        ("GET", "/v3/domains".into(), Value::Null, 403),
        ("POST", "/v3/domains".into(), domain.clone(), 403),
        ("PATCH", "/v3/domains/default".into(), domain, 403),
        ("DELETE", "/v3/domains/default".into(), Value::Null, 403),
        ("GET", "/v3/groups".into(), Value::Null, 403),
        ("POST", "/v3/groups".into(), json!({ "group": { "name": "n" } }), 403),
        ("GET", "/v3/roles".into(), Value::Null, 403),
        ("GET", format!("/v3/roles/{role}"), Value::Null, 403),
        ("POST", "/v3/roles".into(), json!({ "role": { "name": "n" } }), 403),
        ("DELETE", format!("/v3/roles/{role}"), Value::Null, 403),
        ("GET", format!("/v3/roles/{role}/implies"), Value::Null, 403),
        ("GET", "/v3/role_inferences".into(), Value::Null, 403),
        ("GET", "/v3/role_assignments".into(), Value::Null, 403),
        ("GET", format!("/v3/role_assignments?scope.project.id={project}&include_subtree"), Value::Null, 403),
        ("PUT", format!("/v3/projects/{project}/users/{other}/roles/{role}"), Value::Null, 403),
        ("GET", format!("/v3/projects/{project}/users/{me}/roles"), Value::Null, 403),
        ("PUT", format!("/v3/system/users/{me}/roles/{role}"), Value::Null, 403),
        ("GET", "/v3/regions".into(), Value::Null, 200),
        ("GET", "/v3/regions/RegionOne".into(), Value::Null, 200),
        ("POST", "/v3/regions".into(), json!({ "region": {} }), 403),
        ("GET", "/v3/services".into(), Value::Null, 403),
        ("POST", "/v3/services".into(), json!({ "service": { "type": "t" } }), 403),
        ("GET", "/v3/endpoints".into(), Value::Null, 403),
        ("GET", "/v3/auth/projects".into(), Value::Null, 200),
        ("GET", format!("/v3/users/{me}/credentials/OS-EC2"), Value::Null, 200),
        ("GET", format!("/v3/users/{other}/credentials/OS-EC2"), Value::Null, 403),
        ("POST", format!("/v3/users/{me}/credentials/OS-EC2"), json!({ "tenant_id": project }), 201),
        ("POST", format!("/v3/users/{other}/credentials/OS-EC2"), json!({ "tenant_id": project }), 403),
        ("POST", "/v3/ec2tokens".into(), json!({ "credentials": {} }), 403),
        ("POST", "/v3/s3tokens".into(), json!({ "credentials": {} }), 403),
        // Of these everybody hears that they are not there.
        ("DELETE", "/v3/roles/none".into(), Value::Null, 404),
        ("DELETE", "/v3/domains/none".into(), Value::Null, 404),
        ("DELETE", "/v3/groups/none".into(), Value::Null, 404),
    ];
    for (method, path, body, status) in table {
        let answer = cloud.ask(&token, method, &path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        if status == 403 {
            let message = answer.fault(403);
            assert!(message.starts_with("You are not authorized to perform the requested action: identity:"), "{message}");
        }
    }
    // A token may be looked at by its owner, an administrator or a service, and by no other.
    let others = cloud.login(user_by_id(&other), json!("unscoped")).await.token;
    cloud.validate(&token, &token).await.is(200);
    cloud.validate(&token, &others).await.fault(403);
    let service = cloud.role(&admin, "service").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{me}/roles/{service}")).await.is(204);
    cloud.validate(&token, &others).await.is(200);
    let headers = [("x-auth-token", token.as_str()), ("x-subject-token", others.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.fault(403);
}

pub async fn a_reader_of_the_system_sees_all_and_changes_nothing(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (user, reader) = (cloud.user(&admin, "auditor").await, cloud.role(&admin, "reader").await);
    cloud.put(&admin, &format!("/v3/system/users/{user}/roles/{reader}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_system()).await.token;
    for path in [
        "/v3/users",
        "/v3/projects",
        "/v3/domains",
        "/v3/groups",
        "/v3/roles",
        "/v3/role_inferences",
        "/v3/role_assignments",
        "/v3/services",
        "/v3/endpoints",
        "/v3/regions",
    ] {
        cloud.get(&token, path).await.is(200);
    }
    cloud.post(&token, "/v3/users", json!({ "user": { "name": "n" } })).await.fault(403);
    cloud.post(&token, "/v3/regions", json!({ "region": {} })).await.fault(403);
    cloud.delete(&token, &format!("/v3/users/{user}")).await.fault(403);
}

pub async fn a_manager_of_a_domain_rules_there_and_nowhere_else(cloud: Cloud) {
    let admin = cloud.admin().await;
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let user = json!({ "user": { "name": "boss", "domain_id": domain, "password": PASSWORD } });
    let boss = id(&cloud.post(&admin, "/v3/users", user).await.is(201));
    let role = async |name: &str| cloud.role(&admin, name).await;
    let (manager, member, top, service) = (role("manager").await, role("member").await, role("admin").await, role("service").await);
    cloud.put(&admin, &format!("/v3/domains/{domain}/users/{boss}/roles/{manager}")).await.is(204);
    let token = cloud.login(user_by_id(&boss), on_domain(&domain)).await.token;

    let new = |what: &str, name: &str, domain: Value| json!({ what: { "name": name, "domain_id": domain } });
    let mut made = Vec::new();
    for what in ["user", "group", "project"] {
        let path = format!("/v3/{what}s");
        made.push(id(&cloud.post(&token, &path, new(what, "n", json!(domain))).await.is(201)));
        cloud.post(&token, &path, new(what, "other", json!("default"))).await.fault(403);
        let listed = cloud.get(&token, &path).await.is(200);
        let listed = listed[format!("{what}s")].as_array().unwrap();
        assert!(!listed.is_empty() && listed.iter().all(|thing| thing["domain_id"] == json!(domain)), "{listed:?}");
    }
    let [user, group, project] = &made[..] else { unreachable!() };
    let domains = cloud.get(&token, "/v3/domains").await.is(200);
    assert_eq!(domains["domains"].as_array().unwrap().len(), 1);
    cloud.patch(&token, &format!("/v3/users/{user}"), json!({ "user": { "email": "n@d" } })).await.is(200);
    cloud.put(&token, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    let grants = format!("/v3/projects/{project}/users/{user}/roles");
    cloud.put(&token, &format!("{grants}/{member}")).await.is(204);
    cloud.get(&token, &format!("{grants}/{member}")).await.is(204);
    cloud.put(&token, &format!("{grants}/{top}")).await.fault(403);
    cloud.put(&token, &format!("{grants}/{service}")).await.fault(403);
    cloud.delete(&token, &format!("{grants}/{member}")).await.is(204);
    let stranger = cloud.user(&admin, "stranger").await;
    cloud.put(&token, &format!("/v3/projects/{project}/users/{stranger}/roles/{member}")).await.fault(403);
    cloud.get(&token, &format!("/v3/users/{stranger}")).await.fault(403);
    cloud.put(&token, &format!("/v3/groups/{group}/users/{stranger}")).await.fault(403);
    cloud.get(&token, "/v3/roles").await.is(200);
    cloud.get(&token, &format!("/v3/roles/{member}")).await.is(200);
    cloud.get(&token, &format!("/v3/roles/{top}")).await.fault(403);
    cloud.post(&token, "/v3/domains", json!({ "domain": { "name": "e" } })).await.fault(403);
    let assignments = cloud.get(&token, "/v3/role_assignments").await.is(200);
    assert_eq!(assignments["role_assignments"].as_array().unwrap().len(), 1, "only those of the domain");
    cloud.delete(&token, &format!("/v3/projects/{project}")).await.is(204);
}

pub async fn a_token_without_a_scope_shows_its_user_and_no_more(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (me, other) = (cloud.user(&admin, "me").await, cloud.user(&admin, "other").await);
    let token = cloud.login(user_by_id(&me), json!("unscoped")).await.token;
    for (path, status) in [
        (format!("/v3/users/{me}"), 200),
        (format!("/v3/users/{me}/projects"), 200),
        (format!("/v3/users/{me}/groups"), 200),
        (format!("/v3/users/{other}"), 403),
        (format!("/v3/users/{other}/projects"), 403),
        ("/v3/users".into(), 403),
        ("/v3/projects".into(), 403),
        ("/v3/domains".into(), 403),
        ("/v3/domains/default".into(), 403),
        ("/v3/roles".into(), 403),
        ("/v3/role_assignments".into(), 403),
        ("/v3/regions".into(), 200),
    ] {
        assert_eq!(cloud.get(&token, &path).await.status, status, "{path}");
    }
    cloud.post(&token, "/v3/projects", json!({ "project": { "name": "n" } })).await.fault(403);
}
