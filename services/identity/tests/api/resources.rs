//! Every resource: its life, its lists, bad input.

use serde_json::{Value, json};

use crate::cloud::*;

/// Bodies that each must be refused with 400, below `{"<what>": ...}` and as they are.
async fn refuses(cloud: &Cloud, admin: &str, method: &str, path: &str, what: &str, inner: Vec<Value>) {
    for inner in inner {
        let answer = cloud.ask(admin, method, path, json!({ what: inner })).await;
        assert_eq!(answer.status, 400, "{method} {path} {what}: {inner} gives {}", answer.body);
    }
    for whole in [json!({}), json!([]), json!("x"), json!({ what: 1 }), json!({ what: null }), json!({ "other": {} })] {
        let answer = cloud.ask(admin, method, path, whole.clone()).await;
        assert_eq!(answer.status, 400, "{method} {path}: {whole} gives {}", answer.body);
    }
    let answer = cloud.send(method, path, &[("x-auth-token", admin)], b"{\"broken".to_vec()).await;
    assert_eq!(answer.status, 400);
    let nothing = cloud.send(method, path, &[("x-auth-token", admin)], vec![]).await;
    assert_eq!(nothing.status, 400);
}

pub async fn users(cloud: Cloud) {
    let admin = cloud.admin().await;
    let new = json!({ "user": {
        "name": " ann ", "password": PASSWORD, "email": "ann@example.org", "description": "d", "enabled": "yes",
        "options": { "ignore_password_expiry": true } } });
    let body = cloud.post(&admin, "/identity/v3/users", new.clone()).await.is(201);
    let user = id(&body);
    assert_eq!(
        body["user"],
        json!({
            "email": "ann@example.org", "description": "d", "id": user, "name": "ann", "domain_id": "default", "enabled": true,
            "password_expires_at": null, "options": { "ignore_password_expiry": true },
            "links": { "self": format!("http://cloud/identity/v3/users/{user}") } })
    );
    assert!(cloud.post(&admin, "/v3/users", new).await.fault(409).starts_with("Conflict occurred attempting to store user"));
    let path = format!("/v3/users/{user}");
    assert_eq!(cloud.get(&admin, &path).await.is(200)["user"]["name"], "ann");
    let change = json!({ "user": { "id": user, "email": null, "team": { "a": [1] }, "name": "anna", "description": "e" } });
    let changed = cloud.patch(&admin, &path, change).await.is(200);
    assert_eq!(changed["user"]["name"], "anna");
    assert_eq!(changed["user"]["email"], Value::Null);
    assert_eq!(changed["user"]["team"], json!({ "a": [1] }));
    assert_eq!(cloud.get(&admin, &path).await.is(200)["user"]["description"], "e");
    cloud.patch(&admin, &path, json!({ "user": { "id": "other" } })).await.fault(400);
    cloud.patch(&admin, &path, json!({ "user": { "domain_id": "other" } })).await.fault(400);
    cloud.patch(&admin, &path, json!({ "user": { "name": "admin" } })).await.fault(409);
    cloud.post(&admin, "/v3/users", json!({ "user": { "name": "x", "domain_id": "none" } })).await.fault(404);
    let bad = vec![
        json!({}),
        json!({ "name": "" }),
        json!({ "name": "  " }),
        json!({ "name": 1 }),
        json!({ "name": null }),
        json!({ "name": "x".repeat(256) }),
        json!({ "name": "x", "enabled": "maybe" }),
        json!({ "name": "x", "enabled": 1 }),
        json!({ "name": "x", "domain_id": "a/b" }),
        json!({ "name": "x", "password": 5 }),
        json!({ "name": "x", "options": { "unknown": true } }),
        json!({ "name": "x", "options": { "lock_password": "x" } }),
        json!({ "name": "x", "options": { "multi_factor_auth_rules": [[]] } }),
        json!({ "name": "x", "options": [] }),
        json!({ "name": "x", "default_project_id": [] }),
        json!({ "name": "x", "federated": [{}] }),
    ];
    refuses(&cloud, &admin, "POST", "/v3/users", "user", bad).await;
    refuses(&cloud, &admin, "PATCH", &path, "user", vec![json!({}), json!({ "name": "" }), json!({ "enabled": [] })]).await;
    cloud.post(&admin, "/v3/users", json!({ "user": { "name": "x", "password": "p".repeat(4097) } })).await.fault(403);
    cloud.delete(&admin, &path).await.is(204);
    for (method, body) in [("GET", Value::Null), ("DELETE", Value::Null), ("PATCH", json!({ "user": { "name": "x" } }))] {
        assert_eq!(cloud.ask(&admin, method, &path, body).await.fault(404), format!("Could not find user: {user}."));
    }
    cloud.get(&admin, &format!("{path}/projects")).await.fault(404);
    cloud.get(&admin, &format!("{path}/groups")).await.fault(404);
}

pub async fn lists_filter_and_page(cloud: Cloud) {
    let admin = cloud.admin().await;
    for name in ["Alpha", "alphabet", "beta", "100%_x"] {
        let user = json!({ "user": { "name": name, "enabled": name != "beta" } });
        cloud.post(&admin, "/v3/users", user).await.is(201);
    }
    let names = async |query: &str| -> Vec<String> {
        let listed = cloud.get(&admin, &format!("/v3/users?{query}")).await.is(200);
        let mut names: Vec<String> = listed["users"].as_array().unwrap().iter().map(|u| u["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names("").await, ["100%_x", "Alpha", "admin", "alphabet", "beta"]);
    assert_eq!(names("name=beta").await, ["beta"]);
    assert_eq!(names("name=Beta").await, Vec::<String>::new());
    assert_eq!(names("name__contains=lpha").await, ["Alpha", "alphabet"]);
    assert_eq!(names("name__startswith=alpha").await, ["alphabet"]);
    assert_eq!(names("name__istartswith=ALPHA").await, ["Alpha", "alphabet"]);
    assert_eq!(names("name__endswith=a").await, ["Alpha", "beta"]);
    assert_eq!(names("name__icontains=%25_").await, ["100%_x"]);
    assert_eq!(names("enabled=false").await, ["beta"]);
    assert_eq!(names("enabled=0").await, ["beta"]);
    assert_eq!(names("enabled&name__contains=et").await, ["alphabet"]);
    assert_eq!(names("domain_id=none").await, Vec::<String>::new());
    assert_eq!(names("unknown=x").await.len(), 5);
    assert_eq!(names("idp_id=x").await, Vec::<String>::new());
    assert_eq!(names("password_expires_at=lt:2016-12-08T22:02:00Z").await, Vec::<String>::new());

    let mut seen = Vec::new();
    let mut path = "/v3/users?limit=2&name__contains=a".to_string();
    loop {
        let page = cloud.get(&admin, &path).await.is(200);
        assert_eq!(page["links"]["self"], format!("http://cloud{path}"));
        assert_eq!(page["links"]["previous"], Value::Null);
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 2);
        seen.extend(users.iter().map(|u| u["name"].as_str().unwrap().to_string()));
        match page["links"]["next"].as_str() {
            Some(next) => {
                assert_eq!(page["truncated"], true);
                path = next.strip_prefix("http://cloud").unwrap().to_string();
            }
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["Alpha", "admin", "alphabet", "beta"]);
    let sorted = cloud.get(&admin, "/v3/users?sort_key=name&sort_dir=desc&limit=2").await.is(200);
    assert_eq!(sorted["users"][0]["name"], "beta");
    let next = sorted["links"]["next"].as_str().unwrap().strip_prefix("http://cloud").unwrap().to_string();
    assert_eq!(cloud.get(&admin, &next).await.is(200)["users"][0]["name"], "admin");
    cloud.get(&admin, "/v3/users?marker=none").await.fault(404);
    for query in [
        "limit=x",
        "limit=-1",
        "enabled=maybe",
        "sort_key=password_hash",
        "sort_key=name&sort_dir=up",
        "password_expires_at=xx:1",
        "password_expires_at=lt:soon",
    ] {
        cloud.get(&admin, &format!("/v3/users?{query}")).await.fault(400);
    }
}

pub async fn groups(cloud: Cloud) {
    let admin = cloud.admin().await;
    let body = cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g", "description": "d", "more": 1 } })).await.is(201);
    let group = id(&body);
    assert_eq!(
        body["group"],
        json!({ "more": 1, "id": group, "name": "g", "domain_id": "default", "description": "d",
                "links": { "self": format!("http://cloud/v3/groups/{group}") } })
    );
    cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.fault(409);
    let path = format!("/v3/groups/{group}");
    let changed = cloud.patch(&admin, &path, json!({ "group": { "name": "h", "description": null } })).await.is(200);
    assert_eq!((&changed["group"]["name"], &changed["group"]["description"]), (&json!("h"), &Value::Null));
    let user = cloud.user(&admin, "u").await;
    let member = format!("{path}/users/{user}");
    cloud.get(&admin, &member).await.fault(404);
    for _ in 0..2 {
        cloud.put(&admin, &member).await.is(204);
    }
    cloud.get(&admin, &member).await.is(204);
    assert_eq!(cloud.get(&admin, &format!("{path}/users")).await.is(200)["users"][0]["id"], json!(user));
    assert_eq!(cloud.get(&admin, &format!("{path}/users?name=other")).await.is(200)["users"], json!([]));
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{user}/groups")).await.is(200)["groups"][0]["id"], json!(group));
    cloud.delete(&admin, &member).await.is(204);
    cloud.delete(&admin, &member).await.fault(404);
    cloud.put(&admin, &format!("{path}/users/none")).await.fault(404);
    cloud.put(&admin, &format!("/v3/groups/none/users/{user}")).await.fault(404);
    cloud.get(&admin, "/v3/groups/none/users").await.fault(404);
    refuses(&cloud, &admin, "POST", "/v3/groups", "group", vec![json!({}), json!({ "name": 1 }), json!({ "name": "x", "description": 1 })])
        .await;
    refuses(&cloud, &admin, "PATCH", &path, "group", vec![json!({}), json!({ "name": "" })]).await;
    assert_eq!(cloud.get(&admin, "/v3/groups?name=h").await.is(200)["groups"].as_array().unwrap().len(), 1);
    cloud.delete(&admin, &path).await.is(204);
    cloud.get(&admin, &path).await.fault(404);
}

pub async fn projects(cloud: Cloud) {
    let admin = cloud.admin().await;
    let body = cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "p", "tags": ["b", "a"], "x": "y" } })).await.is(201);
    let project = id(&body);
    assert_eq!(
        body["project"],
        json!({ "x": "y", "id": project, "name": "p", "description": "", "enabled": true, "tags": ["a", "b"], "options": {},
                "domain_id": "default", "parent_id": "default", "is_domain": false,
                "links": { "self": format!("http://cloud/v3/projects/{project}") } })
    );
    cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "p" } })).await.fault(409);
    let path = format!("/v3/projects/{project}");
    let child = cloud.project(&admin, "child", Some(&project)).await;
    let shown = cloud.get(&admin, &format!("{path}?subtree_as_ids&parents_as_ids")).await.is(200);
    assert_eq!(shown["project"]["subtree"], json!({ child.as_str(): null }));
    assert_eq!(shown["project"]["parents"], json!({ "default": null }));
    let shown = cloud.get(&admin, &format!("/v3/projects/{child}?parents_as_ids")).await.is(200);
    assert_eq!(shown["project"]["parents"], json!({ project.as_str(): { "default": null } }));
    // In lists only what the caller has a role on.
    assert_eq!(cloud.get(&admin, &format!("{path}?subtree_as_list")).await.is(200)["project"]["subtree"], json!([]));
    let me = cloud.validate(&admin, &admin).await.is(200)["token"]["user"]["id"].as_str().unwrap().to_string();
    let grant = format!("/v3/projects/{child}/users/{me}/roles/{}", cloud.role(&admin, "reader").await);
    cloud.put(&admin, &grant).await.is(204);
    let service = id(&cloud.post(&admin, "/v3/services", json!({ "service": { "type": "t" } })).await.is(201));
    let registered = json!({ "registered_limits": [{ "service_id": service, "resource_name": "r", "default_limit": 1 }] });
    cloud.post(&admin, "/v3/registered_limits", registered).await.is(201);
    let limits = json!({ "limits": [{ "service_id": service, "project_id": child, "resource_name": "r", "resource_limit": 5 }] });
    cloud.post(&admin, "/v3/limits", limits).await.is(201);
    let below = async |query: &str| cloud.get(&admin, &format!("{path}?{query}")).await.is(200)["project"].clone();
    let found = below("subtree_as_list&include_limits").await["subtree"][0]["project"].clone();
    assert_eq!((&found["id"], &found["limits"][0]["resource_limit"]), (&json!(child), &json!(5)));
    assert_eq!(below("subtree_as_list").await["subtree"][0]["project"].get("limits"), None);
    assert_eq!(below("include_limits").await.get("limits"), None, "it is for lists of others");
    cloud.delete(&admin, &grant).await.is(204);
    cloud.get(&admin, &format!("{path}?subtree_as_list&subtree_as_ids")).await.fault(400);
    cloud.get(&admin, &format!("{path}?parents_as_list&parents_as_ids")).await.fault(400);

    cloud.patch(&admin, &path, json!({ "project": { "enabled": false } })).await.fault(403);
    cloud.delete(&admin, &path).await.fault(403);
    cloud.patch(&admin, &format!("/v3/projects/{child}"), json!({ "project": { "enabled": false } })).await.is(200);
    cloud.patch(&admin, &path, json!({ "project": { "enabled": false } })).await.is(200);
    cloud.patch(&admin, &format!("/v3/projects/{child}"), json!({ "project": { "enabled": true } })).await.fault(403);
    cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "x", "parent_id": project } })).await.fault(400);
    cloud.patch(&admin, &path, json!({ "project": { "enabled": true } })).await.is(200);
    cloud.patch(&admin, &path, json!({ "project": { "parent_id": child } })).await.fault(403);
    cloud.patch(&admin, &path, json!({ "project": { "domain_id": "x" } })).await.fault(400);
    cloud.patch(&admin, &path, json!({ "project": { "is_domain": true } })).await.fault(400);
    for bad in [json!({ "parent_id": "none" }), json!({ "domain_id": "none" }), json!({ "is_domain": true, "parent_id": "default" })] {
        let mut bad = bad;
        bad["name"] = json!("new");
        cloud.post(&admin, "/v3/projects", json!({ "project": bad })).await.fault(400);
    }
    let mut parent = child.clone();
    cloud.patch(&admin, &format!("/v3/projects/{child}"), json!({ "project": { "enabled": true } })).await.is(200);
    for level in 3..=5 {
        parent = cloud.project(&admin, &format!("l{level}"), Some(&parent)).await;
    }
    cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "deep", "parent_id": parent } })).await.fault(403);

    let names = async |query: &str| -> Vec<String> {
        let listed = cloud.get(&admin, &format!("/v3/projects?{query}")).await.is(200);
        let mut names: Vec<String> = listed["projects"].as_array().unwrap().iter().map(|u| u["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names("").await, ["admin", "child", "l3", "l4", "l5", "p", "service"]);
    assert_eq!(names(&format!("parent_id={project}")).await, ["child"]);
    assert_eq!(names("is_domain=true").await, ["Default"]);
    assert_eq!(names("tags=a,b").await, ["p"]);
    assert_eq!(names("tags=a,c").await, Vec::<String>::new());
    assert_eq!(names("tags-any=a,c").await, ["p"]);
    assert_eq!(names("not-tags=a,c&name__startswith=p").await, ["p"]);
    assert_eq!(names("not-tags-any=a,c&name__startswith=p").await, Vec::<String>::new());

    let unlock = json!({ "project": { "options": { "immutable": false } } });
    cloud.patch(&admin, &path, json!({ "project": { "options": { "immutable": true } } })).await.is(200);
    cloud.patch(&admin, &path, json!({ "project": { "name": "q" } })).await.fault(403);
    cloud.delete(&admin, &path).await.fault(403);
    cloud.patch(&admin, &path, unlock).await.is(200);
    cloud.patch(&admin, &path, json!({ "project": { "name": "q" } })).await.is(200);

    let tags = format!("{path}/tags");
    assert_eq!(cloud.get(&admin, &tags).await.is(200), json!({ "links": { "self": format!("http://cloud{tags}") }, "tags": ["a", "b"] }));
    cloud.get(&admin, &format!("{tags}/a")).await.is(204);
    cloud.get(&admin, &format!("{tags}/c")).await.fault(404);
    let created = cloud.put(&admin, &format!("{tags}/c")).await;
    assert_eq!(created.headers["location"], format!("http://cloud{tags}/c"));
    assert_eq!(created.status, 201);
    cloud.put(&admin, &format!("{tags}/a%2Cb")).await.fault(400);
    cloud.delete(&admin, &format!("{tags}/c")).await.is(204);
    cloud.delete(&admin, &format!("{tags}/c")).await.fault(404);
    let set = cloud.ask(&admin, "PUT", &tags, json!({ "tags": ["z"] })).await.is(200);
    assert_eq!(set["tags"], json!(["z"]));
    for bad in [
        json!({}),
        json!({ "tags": "a" }),
        json!({ "tags": ["a", "a"] }),
        json!({ "tags": ["a/b"] }),
        json!({ "tags": [1] }),
        json!({ "tags": (0..81).map(|i| i.to_string()).collect::<Vec<_>>() }),
    ] {
        cloud.ask(&admin, "PUT", &tags, bad).await.fault(400);
    }
    cloud.delete(&admin, &tags).await.is(204);
    assert_eq!(cloud.get(&admin, &tags).await.is(200)["tags"], json!([]));

    let bad = vec![
        json!({}),
        json!({ "name": "x".repeat(65) }),
        json!({ "name": "x", "tags": ["a,b"] }),
        json!({ "name": "x", "options": { "other": 1 } }),
        json!({ "name": "x", "parent_id": "%" }),
    ];
    refuses(&cloud, &admin, "POST", "/v3/projects", "project", bad).await;
    cloud.delete(&admin, &format!("/v3/projects/{parent}")).await.is(204);
    cloud.get(&admin, &format!("/v3/projects/{parent}")).await.fault(404);
}

pub async fn domains(cloud: Cloud) {
    let admin = cloud.admin().await;
    let explicit = "0123456789abcdef0123456789abcdef";
    let new = json!({ "domain": { "name": "d", "explicit_domain_id": explicit, "description": "x", "tags": ["t"] } });
    let body = cloud.post(&admin, "/v3/domains", new).await.is(201);
    assert_eq!(
        body["domain"],
        json!({ "id": explicit, "name": "d", "description": "x", "enabled": true, "tags": ["t"], "options": {},
                "links": { "self": format!("http://cloud/v3/domains/{explicit}") } })
    );
    cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.fault(409);
    let as_project = cloud.get(&admin, &format!("/v3/projects/{explicit}")).await.is(200);
    assert_eq!(as_project["project"]["is_domain"], true);
    assert_eq!(as_project["project"]["domain_id"], Value::Null);
    let listed = cloud.get(&admin, "/v3/domains?name=d").await.is(200);
    assert_eq!(listed["domains"].as_array().unwrap().len(), 1);
    let path = format!("/v3/domains/{explicit}");
    let user = id(&cloud.post(&admin, "/v3/users", json!({ "user": { "name": "u", "domain_id": explicit } })).await.is(201));
    let project = id(&cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "p", "domain_id": explicit } })).await.is(201));
    cloud.project(&admin, "other", None).await;
    cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g", "domain_id": explicit } })).await.is(201);
    let role = id(&cloud.post(&admin, "/v3/roles", json!({ "role": { "name": "r", "domain_id": explicit } })).await.is(201));
    assert_eq!(cloud.get(&admin, &format!("/v3/roles?domain_id={explicit}")).await.is(200)["roles"][0]["id"], json!(role));
    cloud.delete(&admin, &path).await.fault(403);
    cloud.patch(&admin, &path, json!({ "domain": { "enabled": false, "description": null } })).await.is(200);
    cloud.delete(&admin, &path).await.is(204);
    for gone in [path.clone(), format!("/v3/users/{user}"), format!("/v3/projects/{project}"), format!("/v3/roles/{role}")] {
        cloud.get(&admin, &gone).await.fault(404);
    }
    cloud.patch(&admin, &path, json!({ "domain": { "name": "x" } })).await.fault(404);
    cloud.delete(&admin, &path).await.fault(404);
    // A project is no domain.
    let project = cloud.project(&admin, "plain", None).await;
    cloud.get(&admin, &format!("/v3/domains/{project}")).await.fault(404);
    let bad = vec![
        json!({}),
        json!({ "name": "x", "explicit_domain_id": "short" }),
        json!({ "name": "x", "explicit_domain_id": 1 }),
        json!({ "name": "x", "enabled": {} }),
    ];
    refuses(&cloud, &admin, "POST", "/v3/domains", "domain", bad).await;
}

pub async fn roles_and_what_they_imply(cloud: Cloud) {
    let admin = cloud.admin().await;
    let make = async |name: &str| id(&cloud.post(&admin, "/v3/roles", json!({ "role": { "name": name } })).await.is(201));
    let (a, b) = (make("a").await, make("b").await);
    let shown = cloud.get(&admin, &format!("/v3/roles/{a}")).await.is(200);
    assert_eq!(
        shown["role"],
        json!({ "id": a, "name": "a", "domain_id": null, "description": null, "options": {},
                "links": { "self": format!("http://cloud/v3/roles/{a}") } })
    );
    cloud.post(&admin, "/v3/roles", json!({ "role": { "name": "a" } })).await.fault(409);
    cloud.patch(&admin, &format!("/v3/roles/{a}"), json!({ "role": { "name": "b" } })).await.fault(409);
    cloud.patch(&admin, &format!("/v3/roles/{a}"), json!({ "role": { "description": "x", "more": true } })).await.is(200);
    let pair = format!("/v3/roles/{a}/implies/{b}");
    cloud.get(&admin, &pair).await.fault(404);
    let made = cloud.put(&admin, &pair).await.is(201);
    assert_eq!(made["role_inference"]["prior_role"]["name"], "a");
    assert_eq!(made["role_inference"]["implies"]["links"]["self"], format!("http://cloud/v3/roles/{b}"));
    assert_eq!(cloud.get(&admin, &pair).await.is(200), made);
    assert_eq!(cloud.ask(&admin, "HEAD", &pair, Value::Null).await.status, 204);
    let listed = cloud.get(&admin, &format!("/v3/roles/{a}/implies")).await.is(200);
    assert_eq!(listed["role_inference"]["implies"][0]["id"], json!(b));
    let all = cloud.get(&admin, "/v3/role_inferences").await.is(200);
    assert_eq!(all["role_inferences"].as_array().unwrap().len(), 4);
    cloud.delete(&admin, &pair).await.is(204);
    cloud.delete(&admin, &pair).await.fault(404);
    let top = cloud.role(&admin, "admin").await;
    cloud.put(&admin, &format!("/v3/roles/{a}/implies/{top}")).await.fault(403);
    cloud.put(&admin, &format!("/v3/roles/{a}/implies/none")).await.fault(404);
    cloud.delete(&admin, &format!("/v3/roles/{top}")).await.fault(403);
    cloud.patch(&admin, &format!("/v3/roles/{top}"), json!({ "role": { "name": "x" } })).await.fault(403);
    cloud.patch(&admin, &format!("/v3/roles/{a}"), json!({ "role": { "domain_id": "default" } })).await.fault(400);
    cloud.post(&admin, "/v3/roles", json!({ "role": { "name": "x", "domain_id": "none" } })).await.fault(404);
    refuses(&cloud, &admin, "POST", "/v3/roles", "role", vec![json!({}), json!({ "name": [] }), json!({ "name": "x", "domain_id": "?" })])
        .await;
    cloud.delete(&admin, &format!("/v3/roles/{a}")).await.is(204);
    cloud.get(&admin, &format!("/v3/roles/{a}")).await.fault(404);
}

pub async fn regions_services_and_endpoints(cloud: Cloud) {
    let admin = cloud.admin().await;
    let region = cloud.ask(&admin, "PUT", "/v3/regions/north", json!({ "region": { "description": "n" } })).await.is(201);
    assert_eq!(
        region["region"],
        json!({ "id": "north", "parent_region_id": null, "description": "n", "links": { "self": "http://cloud/v3/regions/north" } })
    );
    cloud.post(&admin, "/v3/regions", json!({ "region": { "id": "north" } })).await.fault(409);
    cloud.ask(&admin, "PUT", "/v3/regions/a", json!({ "region": { "id": "b" } })).await.fault(400);
    let below = cloud.post(&admin, "/v3/regions", json!({ "region": { "parent_region_id": "north" } })).await.is(201);
    let below = id(&below);
    cloud.post(&admin, "/v3/regions", json!({ "region": { "parent_region_id": "none" } })).await.fault(404);
    let circle = json!({ "region": { "parent_region_id": below } });
    cloud.patch(&admin, "/v3/regions/north", circle).await.fault(400);
    let listed = cloud.get(&admin, "/v3/regions?parent_region_id=north").await.is(200);
    assert_eq!(listed["regions"][0]["id"], json!(below));
    cloud.patch(&admin, "/v3/regions/north", json!({ "region": { "description": null } })).await.is(200);

    let new = json!({ "service": { "type": "dns", "name": "designate", "description": "d" } });
    let body = cloud.post(&admin, "/v3/services", new).await.is(201);
    let service = id(&body);
    assert_eq!(
        body["service"],
        json!({ "description": "d", "id": service, "type": "dns", "name": "designate", "enabled": true,
                "links": { "self": format!("http://cloud/v3/services/{service}") } })
    );
    assert_eq!(cloud.get(&admin, "/v3/services?type=dns").await.is(200)["services"].as_array().unwrap().len(), 1);
    cloud.patch(&admin, &format!("/v3/services/{service}"), json!({ "service": { "name": "x" } })).await.is(200);
    refuses(
        &cloud,
        &admin,
        "POST",
        "/v3/services",
        "service",
        vec![json!({}), json!({ "type": "" }), json!({ "type": "x", "enabled": "yes" })],
    )
    .await;

    let new = json!({ "endpoint": { "interface": "public", "service_id": service, "url": "http://h/%(project_id)s", "region": "new" } });
    let body = cloud.post(&admin, "/v3/endpoints", new).await.is(201);
    let endpoint = id(&body);
    assert_eq!(
        body["endpoint"],
        json!({ "id": endpoint, "service_id": service, "interface": "public", "region_id": "new", "region": "new",
                "url": "http://h/%(project_id)s", "enabled": true, "links": { "self": format!("http://cloud/v3/endpoints/{endpoint}") } })
    );
    cloud.get(&admin, "/v3/regions/new").await.is(200);
    let path = format!("/v3/endpoints/{endpoint}");
    let change = json!({ "endpoint": { "region_id": below, "interface": "internal", "url": "http://i" } });
    assert_eq!(cloud.patch(&admin, &path, change).await.is(200)["endpoint"]["region"], json!(below));
    assert_eq!(
        cloud.get(&admin, &format!("/v3/endpoints?service_id={service}&interface=internal")).await.is(200)["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(cloud.get(&admin, "/v3/endpoints?region_id=none").await.is(200)["endpoints"], json!([]));
    cloud.delete(&admin, "/v3/regions/north").await.fault(403);
    let bad = |change: Value| {
        let mut endpoint = json!({ "interface": "public", "service_id": service, "url": "http://h" });
        for (name, value) in change.as_object().unwrap() {
            endpoint[name] = value.clone();
        }
        endpoint
    };
    let bad = vec![
        json!({}),
        json!({ "interface": "public", "url": "http://h" }),
        bad(json!({ "interface": "other" })),
        bad(json!({ "service_id": "none" })),
        bad(json!({ "region_id": "none" })),
        bad(json!({ "url": "no url" })),
        bad(json!({ "url": "http://h/%(nothing)s" })),
        bad(json!({ "url": format!("http://{}", "x".repeat(225)) })),
        bad(json!({ "enabled": "yes" })),
    ];
    refuses(&cloud, &admin, "POST", "/v3/endpoints", "endpoint", bad).await;
    cloud.delete(&admin, &format!("/v3/services/{service}")).await.is(204);
    cloud.get(&admin, &path).await.fault(404);
    cloud.delete(&admin, "/v3/regions/north").await.is(204);
    cloud.get(&admin, &format!("/v3/regions/{below}")).await.fault(404);
    for gone in ["/v3/regions/none", "/v3/services/none", "/v3/endpoints/none"] {
        cloud.get(&admin, gone).await.fault(404);
        cloud.delete(&admin, gone).await.fault(404);
    }
}

pub async fn credentials(cloud: Cloud) {
    let admin = cloud.admin().await;
    let project = cloud.project(&admin, "p", None).await;
    let (user, other) = (cloud.user(&admin, "u").await, cloud.user(&admin, "o").await);
    let role = cloud.role(&admin, "member").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    let new = |user: &str| json!({ "credential": { "type": "cert", "blob": "very secret", "user_id": user, "more": 1 } });
    let body = cloud.post(&token, "/v3/credentials", new(&user)).await.is(201);
    let own = id(&body);
    assert_eq!(
        body["credential"],
        json!({ "more": 1, "id": own, "user_id": user, "project_id": null, "type": "cert", "blob": "very secret",
                "links": { "self": format!("http://cloud/v3/credentials/{own}") } })
    );
    cloud.post(&token, "/v3/credentials", new(&other)).await.fault(403);
    let foreign = id(&cloud.post(&admin, "/v3/credentials", new(&other)).await.is(201));
    let ids = async |token: &str, query: &str| -> Vec<Value> {
        let listed = cloud.get(token, &format!("/v3/credentials{query}")).await.is(200);
        listed["credentials"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect()
    };
    assert_eq!(ids(&token, "").await, [json!(own)]);
    assert_eq!(ids(&admin, "").await.len(), 2);
    assert_eq!(ids(&admin, &format!("?user_id={other}&type=cert")).await, [json!(foreign)]);
    assert_eq!(ids(&admin, "?type=ec2").await, Vec::<Value>::new());
    cloud.get(&token, &format!("/v3/credentials/{foreign}")).await.fault(403);
    cloud.get(&token, "/v3/credentials/none").await.fault(403);
    cloud.get(&admin, "/v3/credentials/none").await.fault(404);
    let path = format!("/v3/credentials/{own}");
    let changed = cloud.patch(&token, &path, json!({ "credential": { "blob": "other" } })).await.is(200);
    assert_eq!(changed["credential"]["blob"], "other");
    assert_eq!(cloud.get(&token, &path).await.is(200), changed);
    cloud.patch(&token, &path, json!({ "credential": { "user_id": other } })).await.fault(403);
    // Nothing secret lies in the database.
    let sealed = cloud.store.read(|tx| tx.query("SELECT sealed FROM credential", &[], |row| row.text(0))).await.unwrap();
    assert!(sealed.len() == 2 && sealed.iter().all(|text| !text.contains("secret")), "{sealed:?}");
    let ec2 = |blob: &str, project: Value| json!({ "credential": { "type": "ec2", "blob": blob, "user_id": user, "project_id": project } });
    let made = cloud.post(&token, "/v3/credentials", ec2(r#"{"access": "a", "secret": "s"}"#, json!(project))).await.is(201);
    // The hash of the access key.
    assert_eq!(made["credential"]["id"], "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
    cloud.post(&token, "/v3/credentials", ec2(r#"{"access": "a"}"#, json!(project))).await.fault(409);
    let ec2_path = format!("/v3/credentials/{}", id(&made));
    cloud.patch(&token, &ec2_path, json!({ "credential": { "blob": r#"{"access": "a", "trust_id": "t"}"# } })).await.fault(400);
    cloud.patch(&token, &ec2_path, json!({ "credential": { "blob": "no json" } })).await.fault(400);
    for (blob, project) in
        [("no json", json!(project)), ("{}", json!(project)), (r#"{"a": 1}"#, json!(project)), (r#"{"access": "b"}"#, Value::Null)]
    {
        cloud.post(&token, "/v3/credentials", ec2(blob, project)).await.fault(400);
    }
    let bad =
        vec![json!({}), json!({ "type": 1 }), json!({ "type": "t", "blob": {}, "user_id": user }), json!({ "type": "t", "blob": "b" })];
    refuses(&cloud, &admin, "POST", "/v3/credentials", "credential", bad).await;
    cloud.delete(&token, &path).await.is(204);
    cloud.delete(&admin, &path).await.fault(404);
    // They go with their user and with their project.
    cloud.delete(&admin, &format!("/v3/users/{other}")).await.is(204);
    cloud.delete(&admin, &format!("/v3/projects/{project}")).await.is(204);
    assert_eq!(ids(&admin, "").await, Vec::<Value>::new());
}

pub async fn every_change_leaves_an_event(cloud: Cloud) {
    let admin = cloud.admin().await;
    let mut feed = events::Feed::open(&cloud.store, "test").await.unwrap();
    let user = cloud.user(&admin, "u").await;
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": false } })).await.is(200);
    cloud.delete(&admin, &format!("/v3/users/{user}")).await.is(204);
    let wanted = ["identity.user.created", "identity.user.updated", "identity.user.disabled", "identity.user.deleted"];
    let mut seen = Vec::new();
    while seen.len() < wanted.len() {
        let batch = tokio::time::timeout(std::time::Duration::from_secs(10), feed.next_batch(100)).await.unwrap().unwrap();
        seen.extend(batch.iter().filter(|e| e.event.resource == user).map(|e| e.event.event_type.clone()));
        feed.commit(batch.last().unwrap().seq).await.unwrap();
    }
    assert_eq!(seen, wanted);
}
