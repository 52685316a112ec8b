//! Registered limits and limits.

use serde_json::{Value, json};

use crate::cloud::*;

/// A service, and the registered limits of its `cores` (10) in general and (20) of RegionOne.
pub async fn registered(cloud: &Cloud, admin: &str) -> (String, Vec<String>) {
    let service = id(&cloud.post(admin, "/v3/services", json!({ "service": { "type": "quota-test" } })).await.is(201));
    let body = json!({ "registered_limits": [
        { "service_id": service, "resource_name": "cores", "default_limit": 10, "description": "of processors" },
        { "service_id": service, "region_id": "RegionOne", "resource_name": "cores", "default_limit": 20 },
    ] });
    let made = cloud.post(admin, "/v3/registered_limits", body).await.is(201);
    assert!(made.get("links").is_none());
    let ids = made["registered_limits"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_string()).collect();
    (service, ids)
}

fn ids(body: &Value, key: &str) -> Vec<String> {
    body[key].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_string()).collect()
}

pub async fn limits_are_registered_and_overridden(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (service, made) = registered(&cloud, &admin).await;
    let path = format!("/v3/registered_limits/{}", made[0]);
    assert_eq!(
        cloud.get(&admin, &path).await.is(200),
        json!({ "registered_limit": { "id": made[0], "service_id": service, "region_id": null, "resource_name": "cores", "default_limit": 10,
            "description": "of processors", "links": { "self": format!("http://cloud{path}") } } })
    );
    let list = async |query: &str| ids(&cloud.get(&admin, &format!("/v3/registered_limits{query}")).await.is(200), "registered_limits");
    let mut both = made.clone();
    both.sort();
    assert_eq!(list("").await, both);
    assert_eq!(list("?region_id=RegionOne").await, made[1..]);
    assert_eq!(list(&format!("?service_id={service}&resource_name=cores")).await, both);
    assert_eq!(list("?resource_name__icontains=CORE").await, both);
    assert_eq!(list("?resource_name=ram").await, Vec::<String>::new());
    assert_eq!(list("?limit=1").await, both[..1]);
    assert_eq!(list(&format!("?limit=1&marker={}", both[0])).await, both[1..]);

    // All of a request or none.
    let new = |name: &str| json!({ "service_id": service, "resource_name": name, "default_limit": 1 });
    let message = cloud.post(&admin, "/v3/registered_limits", json!({ "registered_limits": [new("ram"), new("cores")] })).await.fault(409);
    assert_eq!(message, "Conflict occurred attempting to store registered_limit - Duplicate entry.");
    assert_eq!(list("?resource_name=ram").await, Vec::<String>::new());
    let with = |name: &str, value: Value| {
        let mut limit = new("ram");
        limit[name] = value;
        limit
    };
    for bad in [
        json!({}),
        with("default_limit", json!(-2)),
        with("default_limit", json!(2_147_483_648_u64)),
        with("default_limit", json!("1")),
        with("default_limit", json!(1.5)),
        with("default_limit", json!(true)),
        with("resource_name", json!("")),
        with("resource_name", json!("n".repeat(256))),
        with("service_id", json!("none")),
        with("service_id", json!(null)),
        with("region_id", json!("none")),
        with("region_id", json!("")),
        with("region_id", json!(1)),
        with("description", json!("d".repeat(256))),
        with("more", json!(1)),
    ] {
        cloud.post(&admin, "/v3/registered_limits", json!({ "registered_limits": [bad] })).await.fault(400);
    }
    for bad in [json!({}), json!({ "registered_limits": [] }), json!({ "registered_limits": {} }), json!({ "registered_limits": [1] })] {
        cloud.post(&admin, "/v3/registered_limits", bad).await.fault(400);
    }
    let change = json!({ "registered_limit": { "default_limit": -1, "description": null, "region_id": null, "resource_name": "cores" } });
    let changed = cloud.patch(&admin, &path, change).await.is(200);
    assert_eq!((&changed["registered_limit"]["default_limit"], &changed["registered_limit"]["description"]), (&json!(-1), &Value::Null));
    let clash = json!({ "registered_limit": { "region_id": "RegionOne" } });
    cloud.patch(&admin, &path, clash).await.fault(409);
    cloud.patch(&admin, &path, json!({ "registered_limit": { "region_id": "none" } })).await.fault(400);
    cloud.patch(&admin, &path, json!({ "registered_limit": { "id": made[0] } })).await.fault(400);
    assert_eq!(cloud.get(&admin, "/v3/registered_limits/none").await.fault(404), "Could not find registered limit for none.");
    cloud.patch(&admin, "/v3/registered_limits/none", json!({ "registered_limit": {} })).await.fault(404);
    cloud.delete(&admin, "/v3/registered_limits/none").await.fault(404);

    // Limits of a project and of a domain, which may be named as a project.
    let project = cloud.project(&admin, "p", None).await;
    let limit = |of: &str, whose: &str, number: i64| json!({ of: whose, "service_id": service, "resource_name": "cores", "resource_limit": number });
    let body = json!({ "limits": [limit("project_id", &project, 5), limit("project_id", "default", 50)] });
    let limits = cloud.post(&admin, "/v3/limits", body).await.is(201)["limits"].clone();
    let own = format!("/v3/limits/{}", limits[0]["id"].as_str().unwrap());
    assert_eq!(
        cloud.get(&admin, &own).await.is(200),
        json!({ "limit": { "id": limits[0]["id"], "project_id": project, "domain_id": null, "service_id": service, "region_id": null,
            "resource_name": "cores", "resource_limit": 5, "description": null, "links": { "self": format!("http://cloud{own}") } } })
    );
    assert_eq!((&limits[1]["project_id"], &limits[1]["domain_id"]), (&Value::Null, &json!("default")));
    let list = async |query: &str| ids(&cloud.get(&admin, &format!("/v3/limits{query}")).await.is(200), "limits").len();
    for (query, count) in [
        ("", 2),
        ("?domain_id=default", 1),
        (&*format!("?project_id={project}"), 1),
        (&*format!("?service_id={service}"), 2),
        ("?resource_name=ram", 0),
        ("?region_id=RegionOne", 0),
        ("?limit=1", 1),
    ] {
        assert_eq!(list(query).await, count, "{query}");
    }
    let message = cloud.post(&admin, "/v3/limits", json!({ "limits": [limit("project_id", &project, 6)] })).await.fault(409);
    assert_eq!(message, "Conflict occurred attempting to store limit - Duplicate entry.");
    let mut unregistered = limit("project_id", &project, 6);
    unregistered["resource_name"] = json!("ram");
    let message = cloud.post(&admin, "/v3/limits", json!({ "limits": [unregistered] })).await.fault(403);
    assert_eq!(message, "Unable to create a limit that has no corresponding registered limit.");
    let mut both_holders = limit("project_id", &project, 1);
    both_holders["domain_id"] = json!("default");
    let mut nobodys = limit("project_id", &project, 1);
    nobodys["project_id"] = Value::Null;
    let bad =
        [limit("project_id", "none", 1), limit("domain_id", "none", 1), limit("domain_id", &project, 1), limit("project_id", &project, -2)];
    for bad in bad.into_iter().chain([both_holders, nobodys, json!({})]) {
        cloud.post(&admin, "/v3/limits", json!({ "limits": [bad] })).await.fault(400);
    }
    let changed = cloud.patch(&admin, &own, json!({ "limit": { "resource_limit": 0, "description": "none" } })).await.is(200);
    assert_eq!((&changed["limit"]["resource_limit"], &changed["limit"]["description"]), (&json!(0), &json!("none")));
    assert_eq!(cloud.get(&admin, &own).await.is(200), changed);
    cloud.patch(&admin, &own, json!({ "limit": { "project_id": project } })).await.fault(400);
    cloud.patch(&admin, "/v3/limits/none", json!({ "limit": {} })).await.fault(404);
    assert_eq!(cloud.get(&admin, "/v3/limits/none").await.fault(404), "Could not find limit for none.");
    assert_eq!(cloud.get(&admin, "/v3/limits/model").await.is(200)["model"]["name"], "flat");

    // What has limits stays as it is.
    let message = cloud.delete(&admin, &path).await.fault(403);
    assert_eq!(
        message,
        format!("Unable to update or delete registered limit {} because there are project limits associated with it.", made[0])
    );
    cloud.patch(&admin, &path, json!({ "registered_limit": { "default_limit": 3 } })).await.fault(403);

    // Limits go with what they are for and what they are about.
    cloud.delete(&admin, &format!("/v3/projects/{project}")).await.is(204);
    assert_eq!(list("").await, 1);
    cloud.delete(&admin, &format!("/v3/services/{service}")).await.is(204);
    assert_eq!(list("").await, 0);
    assert_eq!(cloud.get(&admin, "/v3/registered_limits").await.is(200)["registered_limits"], json!([]));
    let (_, made) = registered(&cloud, &admin).await;
    cloud.delete(&admin, &format!("/v3/registered_limits/{}", made[0])).await.is(204);
    cloud.delete(&admin, &own).await.fault(404);
}

pub async fn limits_are_seen_by_those_they_are_for(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (service, _) = registered(&cloud, &admin).await;
    let (mine, other) = (cloud.project(&admin, "mine", None).await, cloud.project(&admin, "other", None).await);
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let limit = |of: &str, whose: &str| json!({ of: whose, "service_id": service, "resource_name": "cores", "resource_limit": 1 });
    let body = json!({ "limits": [
        limit("project_id", &mine), limit("project_id", &other), limit("domain_id", "default"), limit("domain_id", &domain)
    ] });
    let limits = ids(&cloud.post(&admin, "/v3/limits", body).await.is(201), "limits");
    let (user, role) = (cloud.user(&admin, "u").await, cloud.role(&admin, "reader").await);
    for target in [format!("projects/{mine}"), "domains/default".into(), "system".into()] {
        cloud.put(&admin, &format!("/v3/{target}/users/{user}/roles/{role}")).await.is(204);
    }
    let sees =
        [(on_project(&mine), vec![0]), (on_domain("default"), vec![0, 1, 2]), (on_system(), vec![0, 1, 2, 3]), (json!("unscoped"), vec![])];
    for (scope, seen) in sees {
        let token = cloud.login(user_by_id(&user), scope.clone()).await.token;
        let mut wanted: Vec<String> = seen.iter().map(|i| limits[*i].clone()).collect();
        wanted.sort();
        assert_eq!(ids(&cloud.get(&token, "/v3/limits").await.is(200), "limits"), wanted, "{scope}");
        for (i, limit) in limits.iter().enumerate() {
            let status = if seen.contains(&i) { 200 } else { 403 };
            assert_eq!(cloud.get(&token, &format!("/v3/limits/{limit}")).await.status, status, "{i} {scope}");
        }
        let missing = cloud.get(&token, "/v3/limits/none").await.status;
        assert_eq!(missing, if scope == on_system() { 404 } else { 403 }, "{scope}");
    }
}

pub async fn limits_of_a_strict_tree(cloud: Cloud) {
    let strict = |config: &mut base::Config| config.set("unified_limit.enforcement_model", "strict_two_level");
    let cloud = cloud.configured(strict).await.unwrap();
    let admin = cloud.admin().await;
    assert_eq!(cloud.get(&admin, "/v3/limits/model").await.is(200)["model"]["name"], "strict_two_level");
    let (service, _) = registered(&cloud, &admin).await;
    let project = cloud.project(&admin, "p", None).await;
    let deeper = json!({ "project": { "name": "deeper", "parent_id": project } });
    cloud.post(&admin, "/v3/projects", deeper.clone()).await.fault(403);
    let limit = |of: &str, whose: &str, number: i64| json!({ of: whose, "service_id": service, "resource_name": "cores", "resource_limit": number });
    let create = async |limits: Value| cloud.post(&admin, "/v3/limits", json!({ "limits": limits })).await;
    // Without a limit the domain has what is registered: 10.
    let message = create(json!([limit("project_id", &project, 11)])).await.fault(403);
    assert!(message.starts_with("Invalid resource limit: The resource limit (project_id: "), "{message}");
    // Within one request both are seen, in either order.
    create(json!([limit("project_id", &project, 16), limit("domain_id", "default", 15)])).await.fault(403);
    let made = create(json!([limit("project_id", &project, 12), limit("domain_id", "default", 15)])).await.is(201);
    let [own, domain] = [0, 1].map(|i| format!("/v3/limits/{}", made["limits"][i]["id"].as_str().unwrap()));
    let set = async |path: &str, number: i64| cloud.patch(&admin, path, json!({ "limit": { "resource_limit": number } })).await;
    set(&own, 16).await.fault(403);
    set(&own, 15).await.is(200);
    set(&domain, 14).await.fault(403);
    set(&domain, 1000).await.is(200);
    set(&own, 1000).await.is(200);
    set(&own, 1001).await.fault(403);
    // -1 is a number like others: less than any, though whoever enforces it takes it for no limit.
    set(&domain, -1).await.fault(403);
    set(&own, -1).await.is(200);
    set(&domain, -1).await.is(200);
    set(&own, 0).await.fault(403);
    set(&domain, 0).await.is(200);
    set(&own, 1).await.fault(403);
    set(&own, 0).await.is(200);
    let other = cloud.project(&admin, "other", None).await;
    create(json!([limit("project_id", &other, 1)])).await.fault(403);
    create(json!([limit("project_id", &other, -1)])).await.is(201);

    // A deeper tree cannot be served by this model.
    let flat = cloud.configured(|_| {}).await.unwrap();
    let admin = flat.admin().await;
    flat.post(&admin, "/v3/projects", deeper).await.is(201);
    let error = flat.configured(strict).await.err().unwrap();
    assert!(error.message().contains("strict_two_level"), "{error}");
}

pub async fn services_ask_for_what_a_project_may_have(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (service, _) = registered(&cloud, &admin).await;
    let (mine, other) = (cloud.project(&admin, "mine", None).await, cloud.project(&admin, "other", None).await);
    let body = json!({ "limits": [{ "project_id": mine, "service_id": service, "region_id": "RegionOne", "resource_name": "cores",
        "resource_limit": 7 }] });
    cloud.post(&admin, "/v3/limits", body).await.is(201);
    for (kind, project, resource, limit) in [
        ("quota-test", &mine, "cores", Some(7)),
        // The default of our own region, not the one for all.
        ("quota-test", &other, "cores", Some(20)),
        ("quota-test", &mine, "ram", None),
        ("image", &mine, "cores", None),
    ] {
        let found = cloud.store.read(|tx| cloud.identity.limit_in(tx, kind, project, resource)).await.unwrap();
        assert_eq!(found, limit, "{kind} {resource}");
    }
    // And where another service is in a region.
    cloud.post(&admin, "/v3/regions", json!({ "region": { "id": "west" } })).await.is(201);
    for (interface, url) in [("public", "http://west/%(project_id)s"), ("internal", "http://west/x")] {
        let endpoint = json!({ "service_id": service, "interface": interface, "region_id": "west", "url": url });
        cloud.post(&admin, "/v3/endpoints", json!({ "endpoint": endpoint })).await.is(201);
    }
    for (interface, region, url) in [("internal", "west", Some("http://west/x")), ("public", "west", None), ("internal", "east", None)] {
        let found = cloud.store.read(|tx| cloud.identity.endpoint_in(tx, "quota-test", interface, region)).await.unwrap();
        assert_eq!(found.as_deref(), url, "{interface} {region}");
    }
}
