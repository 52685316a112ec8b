//! Logging in, scopes, the catalogue, version documents.

use serde_json::{Value, json};

use crate::cloud::*;

pub async fn a_password_gives_a_token_for_a_project(cloud: Cloud) {
    let issued = cloud.login(admin_user(), admin_scope()).await;
    assert_eq!(issued.headers["vary"], "X-Auth-Token");
    let token = issued.token.clone();
    assert!(!token.is_empty() && token.len() < 255, "{token}");
    let body = issued.is(201);
    let inner = &body["token"];
    assert_eq!(inner["methods"], json!(["password"]));
    assert_eq!(inner["user"]["name"], "admin");
    assert_eq!(inner["user"]["domain"], json!({ "id": "default", "name": "Default" }));
    assert_eq!(inner["user"]["password_expires_at"], Value::Null);
    assert_eq!(inner["project"]["name"], "admin");
    assert_eq!(inner["is_domain"], false);
    let roles: Vec<&str> = inner["roles"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(roles, ["admin", "manager", "member", "reader"]);
    assert_eq!(inner["audit_ids"].as_array().unwrap().len(), 1);
    let catalogue = inner["catalog"].as_array().unwrap();
    assert_eq!(catalogue.len(), 2);
    assert_eq!(catalogue[0]["type"], "identity");
    assert_eq!(catalogue[0]["endpoints"].as_array().unwrap().len(), 3);
    let project = inner["project"]["id"].as_str().unwrap();
    assert_eq!(catalogue[1]["endpoints"][0]["url"], format!("http://cloud/object-store/v1/AUTH_{project}"));
    assert_eq!(catalogue[1]["endpoints"][0]["region"], "RegionOne");

    let shown = cloud.validate(&token, &token).await;
    assert_eq!(shown.token, token);
    assert_eq!(shown.is(200), body, "what is validated is what was issued");
    let headers = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
    let bare = cloud.send("GET", "/v3/auth/tokens?nocatalog", &headers, vec![]).await.is(200);
    assert_eq!(bare["token"].get("catalog"), None);
    assert_eq!(cloud.send("HEAD", "/identity/v3/auth/tokens", &headers, vec![]).await.status, 200);
    assert_eq!(cloud.get(&token, "/v3/auth/catalog").await.is(200)["catalog"], inner["catalog"]);
}

pub async fn scopes_are_given_as_asked(cloud: Cloud) {
    let admin = cloud.admin().await;
    let system = cloud.login(admin_user(), on_system()).await.is(201);
    assert_eq!(system["token"]["system"], json!({ "all": true }));
    // Without a project, endpoints that need one are left out.
    assert_eq!(system["token"]["catalog"][1]["endpoints"], json!([]));
    let unscoped = cloud.login(admin_user(), Value::Null).await;
    let token = unscoped.token.clone();
    let unscoped = unscoped.is(201);
    for absent in ["project", "domain", "system", "roles", "catalog", "is_domain"] {
        assert_eq!(unscoped["token"].get(absent), None, "{absent}");
    }
    assert_eq!(cloud.get(&token, "/v3/auth/catalog").await.fault(403), "Only a token for a project has a catalogue here.");
    cloud.get(&token, "/v3/users").await.fault(403);
    assert_eq!(cloud.get(&token, "/v3/auth/projects").await.is(200)["projects"][0]["name"], "admin");
    assert_eq!(cloud.get(&token, "/v3/auth/system").await.is(200)["system"], json!([{ "all": true }]));
    assert_eq!(cloud.get(&token, "/v3/auth/domains").await.is(200)["domains"], json!([]));
    // No role on the domain yet.
    cloud.login(admin_user(), on_domain("default")).await.fault(401);
    let (user, role) = (unscoped["token"]["user"]["id"].as_str().unwrap(), cloud.role(&admin, "reader").await);
    cloud.put(&admin, &format!("/v3/domains/default/users/{user}/roles/{role}")).await.is(204);
    let domain = cloud.login(admin_user(), json!({ "domain": { "name": "Default" } })).await.is(201);
    assert_eq!(domain["token"]["domain"], json!({ "id": "default", "name": "Default" }));
    assert_eq!(domain["token"]["roles"][0]["name"], "reader");
    assert_eq!(cloud.get(&token, "/v3/auth/domains").await.is(200)["domains"][0]["id"], "default");
}

pub async fn a_default_project_is_the_scope_unless_unscoped_is_asked_for(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (user, project) = (cloud.user(&admin, "u").await, cloud.project(&admin, "p", None).await);
    let set = json!({ "user": { "default_project_id": project } });
    assert_eq!(cloud.patch(&admin, &format!("/v3/users/{user}"), set).await.is(200)["user"]["default_project_id"], project);
    // Without a role there it is passed over.
    assert_eq!(cloud.login(user_by_id(&user), Value::Null).await.is(201)["token"].get("project"), None);
    let role = cloud.role(&admin, "member").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
    assert_eq!(cloud.login(user_by_id(&user), Value::Null).await.is(201)["token"]["project"]["id"], project);
    for unscoped in [json!("unscoped"), json!({ "unscoped": {} })] {
        assert_eq!(cloud.login(user_by_id(&user), unscoped).await.is(201)["token"].get("project"), None);
    }
    let to_domain = json!({ "user": { "default_project_id": "default" } });
    cloud.patch(&admin, &format!("/v3/users/{user}"), to_domain).await.fault(400);
    cloud.patch(&admin, &format!("/v3/projects/{project}"), json!({ "project": { "enabled": false } })).await.is(200);
    assert_eq!(cloud.login(user_by_id(&user), Value::Null).await.is(201)["token"].get("project"), None);
}

pub async fn a_token_gives_a_token(cloud: Cloud) {
    let first = cloud.login(admin_user(), Value::Null).await;
    let auth = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": first.token } }, "scope": admin_scope() } });
    let second = cloud.post("", "/v3/auth/tokens", auth).await;
    assert_ne!(first.token, second.token);
    let (first, second) = (first.is(201), second.is(201));
    assert_eq!(second["token"]["methods"], json!(["password", "token"]));
    assert_eq!(second["token"]["expires_at"], first["token"]["expires_at"], "it lives no longer");
    assert_eq!(second["token"]["audit_ids"][1], first["token"]["audit_ids"][0]);
    assert_eq!(second["token"]["project"]["name"], "admin");
}

pub async fn bad_logins_are_told_apart_from_wrong_ones(cloud: Cloud) {
    let admin = cloud.admin().await;
    let disabled = json!({ "user": { "name": "off", "password": PASSWORD, "enabled": false } });
    cloud.post(&admin, "/v3/users", disabled).await.is(201);
    cloud.post(&admin, "/v3/users", json!({ "user": { "name": "without" } })).await.is(201);
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d", "enabled": false } })).await.is(201));
    cloud.post(&admin, "/v3/users", json!({ "user": { "name": "in", "domain_id": domain, "password": PASSWORD } })).await.is(201);
    let by_name = |name: &str, domain: Value, password: &str| json!({ "name": name, "domain": domain, "password": password });
    let default = || json!({ "id": "default" });
    for user in [
        by_name("admin", default(), "wrong"),
        by_name("admin", default(), ""),
        by_name("nobody", default(), PASSWORD),
        by_name("admin", json!({ "name": "nowhere" }), PASSWORD),
        by_name("off", default(), PASSWORD),
        by_name("without", default(), ""),
        by_name("in", json!({ "name": "d" }), PASSWORD),
        json!({ "id": "nobody", "password": PASSWORD }),
    ] {
        let refused = cloud.login(user.clone(), Value::Null).await;
        assert_eq!(refused.headers["www-authenticate"], "Keystone uri=\"http://cloud/identity/v3\"");
        assert_eq!(refused.fault(401), "The request you have made requires authentication.", "{user}");
    }
    for scope in [
        json!({ "project": { "id": "none" } }),
        json!({ "project": { "name": "admin", "domain": { "id": "none" } } }),
        json!({ "project": { "id": "default" } }),
        json!({ "domain": { "id": domain } }),
        json!({ "OS-TRUST:trust": { "id": "x" } }),
    ] {
        cloud.login(admin_user(), scope).await.fault(401);
    }
    let password = |user: Value| json!({ "auth": { "identity": { "methods": ["password"], "password": { "user": user } } } });
    for body in [
        json!({}),
        json!([]),
        json!({ "auth": null }),
        json!({ "auth": 1 }),
        json!({ "auth": {} }),
        json!({ "auth": { "identity": {} } }),
        json!({ "auth": { "identity": { "methods": "password" } } }),
        json!({ "auth": { "identity": { "methods": [1] } } }),
        json!({ "auth": { "identity": { "methods": ["password"] } } }),
        json!({ "auth": { "identity": { "methods": ["password"], "password": {} } } }),
        password(json!({})),
        password(json!({ "name": "admin", "password": PASSWORD })),
        password(json!({ "name": "admin", "domain": {}, "password": PASSWORD })),
        password(json!({ "name": 1, "domain": { "id": "default" }, "password": PASSWORD })),
        password(json!({ "id": "x" })),
    ] {
        cloud.post("", "/v3/auth/tokens", body.clone()).await.fault(400);
    }
    for scope in [
        json!({}),
        json!("x"),
        json!(1),
        json!({ "project": {}, "domain": {} }),
        json!({ "project": {} }),
        json!({ "project": { "name": "admin" } }),
    ] {
        cloud.login(admin_user(), scope.clone()).await.fault(400);
    }
    cloud.send("POST", "/v3/auth/tokens", &[], b"{\"auth\":".to_vec()).await.fault(400);
    let no_method = json!({ "auth": { "identity": { "methods": [] } } });
    cloud.post("", "/v3/auth/tokens", no_method).await.fault(401);
    let unknown = json!({ "auth": { "identity": { "methods": ["magic"], "magic": {} } } });
    cloud.post("", "/v3/auth/tokens", unknown).await.fault(401);
}

pub async fn several_methods_can_be_demanded(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let token = cloud.login(user_by_id(&user), Value::Null).await.token;
    let path = format!("/v3/users/{user}");
    let options = json!({ "multi_factor_auth_enabled": true, "multi_factor_auth_rules": [["password", "token"]] });
    cloud.patch(&admin, &path, json!({ "user": { "options": options } })).await.is(200);
    cloud.login(user_by_id(&user), Value::Null).await.is(401);
    let both = json!({ "auth": { "identity": {
        "methods": ["password", "token"], "password": { "user": user_by_id(&user) }, "token": { "id": token } } } });
    cloud.post("", "/v3/auth/tokens", both).await.is(201);
    // Two proofs of two users prove nothing.
    let other = json!({ "auth": { "identity": {
        "methods": ["password", "token"], "password": { "user": admin_user() }, "token": { "id": token } } } });
    cloud.post("", "/v3/auth/tokens", other).await.fault(401);
    // Rules bind unless they are switched off.
    for (enabled, status) in [(json!(null), 401), (json!(false), 201)] {
        let option = json!({ "user": { "options": { "multi_factor_auth_enabled": enabled } } });
        cloud.patch(&admin, &path, option).await.is(200);
        assert_eq!(cloud.login(user_by_id(&user), Value::Null).await.status, status);
    }
}

pub async fn version_documents_need_no_token(cloud: Cloud) {
    for (mount, base) in [("", "http://cloud"), ("/identity", "http://cloud/identity")] {
        let all = cloud.get("", &format!("{mount}/")).await;
        assert_eq!(all.headers["location"], format!("{base}/v3/"));
        let version = all.is(300)["versions"]["values"][0].clone();
        assert_eq!(version["id"], "v3.14");
        assert_eq!(version["links"][0]["href"], format!("{base}/v3/"));
        for path in ["/v3", "/v3/"] {
            assert_eq!(cloud.get("", &format!("{mount}{path}")).await.is(200)["version"], version);
        }
    }
    assert_eq!(cloud.get("", "/identity").await.status, 300);
}

#[tokio::test]
async fn a_second_start_changes_nothing() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let before = cloud.get(&admin, "/v3/role_assignments?include_names").await.is(200);
    cloud.identity.bootstrap("another password").await.unwrap();
    let Cloud { home, store, identity, app, tasks, .. } = cloud;
    store.close().await;
    drop((identity, app, tasks));
    let cloud = Cloud::in_home(home, |_| {}).await;
    cloud.validate(&admin, &admin).await.is(200);
    let admin = cloud.admin().await;
    assert_eq!(cloud.get(&admin, "/v3/role_assignments?include_names").await.is(200), before);
    assert_eq!(cloud.get(&admin, "/v3/endpoints").await.is(200)["endpoints"].as_array().unwrap().len(), 6);
    assert_eq!(cloud.get(&admin, "/v3/services").await.is(200)["services"].as_array().unwrap().len(), 2);
    assert_eq!(cloud.identity.project_fetch("default").await.unwrap(), None);
    let project = id(&json!({ "project": cloud.get(&admin, "/v3/projects?name=admin").await.is(200)["projects"][0] }));
    assert!(cloud.identity.project_exists(&project).await.unwrap());
}
