//! The resources of federation.

use serde_json::{Value, json};

use crate::cloud::*;

const ROOT: &str = "/v3/OS-FEDERATION";

fn rules() -> Value {
    json!([{ "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "UserName" }] }])
}

async fn ids(cloud: &Cloud, token: &str, what: &str, query: &str) -> Vec<Value> {
    let listed = cloud.get(token, &format!("{ROOT}/{what}{query}")).await.is(200);
    assert!(listed["links"]["self"].is_string());
    listed[what].as_array().unwrap().iter().map(|one| one["id"].clone()).collect()
}

pub async fn identity_providers(cloud: Cloud) {
    let admin = cloud.admin().await;
    let path = |id: &str| format!("{ROOT}/identity_providers/{id}");
    let new = |idp: Value| json!({ "identity_provider": idp });
    let put = async |id: &str, idp: Value| cloud.ask(&admin, "PUT", &path(id), new(idp)).await;
    let made = put("acme", json!({ "remote_ids": ["b", "a"], "description": "d", "authorization_ttl": 60 })).await.is(201);
    let domain = made["identity_provider"]["domain_id"].as_str().unwrap().to_string();
    let whole = json!({ "identity_provider": { "id": "acme", "domain_id": domain, "enabled": false, "description": "d",
        "authorization_ttl": 60, "remote_ids": ["a", "b"],
        "links": { "self": format!("http://cloud{}", path("acme")), "protocols": format!("http://cloud{}/protocols", path("acme")) } } });
    assert_eq!(made, whole);
    assert_eq!(cloud.get(&admin, &path("acme")).await.is(200), whole);
    let own = cloud.get(&admin, &format!("/v3/domains/{domain}")).await.is(200);
    assert_eq!(own["domain"]["name"], json!(domain));
    assert_eq!(own["domain"]["description"], "Auto generated federated domain for Identity Provider: acme");

    assert!(put("acme", json!({})).await.fault(409).contains("Duplicate entry: acme"));
    assert!(put("other", json!({ "remote_ids": ["a"] })).await.fault(409).contains("Duplicate remote ID: a"));
    cloud.get(&admin, &path("other")).await.fault(404);
    // What was refused left nothing: neither a provider nor a domain for it.
    let domains = cloud.get(&admin, "/v3/domains").await.is(200)["domains"].as_array().unwrap().len();
    assert_eq!(domains, 2);
    let second = put("other_one", json!({ "domain_id": "default", "enabled": true, "remote_ids": null })).await.is(201);
    assert_eq!(second["identity_provider"]["domain_id"], "default");
    assert_eq!(second["identity_provider"]["remote_ids"], json!([]));

    assert_eq!(ids(&cloud, &admin, "identity_providers", "").await, ["acme", "other_one"]);
    assert_eq!(ids(&cloud, &admin, "identity_providers", "?enabled=true").await, ["other_one"]);
    assert_eq!(ids(&cloud, &admin, "identity_providers", "?id=acme").await, ["acme"]);
    assert_eq!(ids(&cloud, &admin, "identity_providers", "?limit=1").await, ["acme"]);
    assert_eq!(ids(&cloud, &admin, "identity_providers", "?limit=1&marker=acme").await, ["other_one"]);

    let bad = [
        ("identity_provider/enabled", json!({ "enabled": 3 })),
        ("identity_provider/description", json!({ "description": 3 })),
        ("identity_provider/authorization_ttl", json!({ "authorization_ttl": -1 })),
        ("identity_provider/authorization_ttl", json!({ "authorization_ttl": "1" })),
        ("identity_provider/authorization_ttl", json!({ "authorization_ttl": u64::MAX })),
        ("identity_provider/remote_ids", json!({ "remote_ids": "a" })),
        ("identity_provider/remote_ids/1", json!({ "remote_ids": ["x", 1] })),
        ("identity_provider/remote_ids", json!({ "remote_ids": ["x", "x"] })),
        ("identity_provider/remote_ids/0", json!({ "remote_ids": ["x".repeat(256)] })),
        ("identity_provider", json!({ "name": "n" })),
    ];
    for (place, idp) in bad {
        let wanted = format!("'{place}'");
        let message = put("bad", idp.clone()).await.fault(400);
        assert!(message.contains(&wanted), "{message}");
        let message = cloud.patch(&admin, &path("acme"), new(idp)).await.fault(400);
        assert!(message.contains(&wanted), "{message}");
    }
    put(&"x".repeat(65), json!({})).await.fault(400);
    put("bad", json!({ "domain_id": "none" })).await.fault(404);
    put("bad", json!({ "domain_id": "no domain" })).await.fault(400);
    cloud.patch(&admin, &path("acme"), new(json!({}))).await.fault(400);
    cloud.patch(&admin, &path("acme"), new(json!({ "domain_id": "default" }))).await.fault(400);
    cloud.patch(&admin, &path("none"), new(json!({ "enabled": true }))).await.fault(404);
    cloud.patch(&admin, &path("other_one"), new(json!({ "remote_ids": ["b"] }))).await.fault(409);

    let change = json!({ "enabled": true, "description": null, "authorization_ttl": null, "remote_ids": ["c"] });
    let changed = cloud.patch(&admin, &path("acme"), new(change.clone())).await.is(200);
    for (name, value) in change.as_object().unwrap() {
        assert_eq!(&changed["identity_provider"][name], value, "{name}");
    }
    assert_eq!(cloud.get(&admin, &path("acme")).await.is(200), changed);
    // The names that it gave up are free.
    cloud.patch(&admin, &path("other_one"), new(json!({ "remote_ids": ["a", "b"] }))).await.is(200);

    cloud.delete(&admin, &path("other_one")).await.is(204);
    assert_eq!(cloud.delete(&admin, &path("other_one")).await.fault(404), "Could not find Identity Provider: other_one.");
    // With its domain a provider goes too.
    cloud.patch(&admin, &format!("/v3/domains/{domain}"), json!({ "domain": { "enabled": false } })).await.is(200);
    cloud.delete(&admin, &format!("/v3/domains/{domain}")).await.is(204);
    cloud.get(&admin, &path("acme")).await.fault(404);
}

pub async fn mappings_and_protocols(cloud: Cloud) {
    let admin = cloud.admin().await;
    let mapping = |id: &str| format!("{ROOT}/mappings/{id}");
    let put = async |id: &str, body: Value| cloud.ask(&admin, "PUT", &mapping(id), json!({ "mapping": body })).await;
    let made = put("m", json!({ "rules": rules() })).await.is(201);
    let whole = json!({ "mapping": { "id": "m", "schema_version": "1.0", "rules": rules(), "links": { "self": format!("http://cloud{}", mapping("m")) } } });
    assert_eq!(made, whole);
    assert_eq!(cloud.get(&admin, &mapping("m")).await.is(200), whole);
    assert!(put("m", json!({ "rules": rules() })).await.fault(409).contains("mapping"));
    let newest =
        json!([{ "local": [{ "user": { "name": "{0}" } }, { "projects_json": "{1}" }], "remote": [{ "type": "U" }, { "type": "P" }] }]);
    assert_eq!(put("n", json!({ "rules": newest, "schema_version": "3.0" })).await.is(201)["mapping"]["schema_version"], "3.0");
    assert!(put("x", json!({ "rules": newest })).await.fault(400).contains("mapping/rules/0/local/1"));
    for bad in [
        json!({}),
        json!({ "rules": [] }),
        json!({ "rules": rules(), "schema_version": "9" }),
        json!({ "rules": rules(), "schema_version": 1 }),
    ] {
        put("x", bad).await.fault(400);
    }
    put(&"x".repeat(65), json!({ "rules": rules() })).await.fault(400);
    assert_eq!(ids(&cloud, &admin, "mappings", "").await, ["m", "n"]);
    let patch = async |body: Value| cloud.patch(&admin, &mapping("n"), json!({ "mapping": body })).await;
    patch(json!({})).await.fault(400);
    patch(json!({ "schema_version": "2.0" })).await.fault(400);
    patch(json!({ "rules": newest, "schema_version": "2.0" })).await.fault(400);
    assert_eq!(patch(json!({ "rules": rules() })).await.is(200)["mapping"]["schema_version"], "3.0");
    assert_eq!(patch(json!({ "rules": rules(), "schema_version": "2.0" })).await.is(200)["mapping"]["schema_version"], "2.0");
    cloud.patch(&admin, &mapping("none"), json!({ "mapping": { "rules": rules() } })).await.fault(404);

    let provider = format!("{ROOT}/identity_providers/acme");
    cloud.ask(&admin, "PUT", &provider, json!({ "identity_provider": {} })).await.is(201);
    let protocol = |id: &str| format!("{provider}/protocols/{id}");
    let put = async |id: &str, body: Value| cloud.ask(&admin, "PUT", &protocol(id), json!({ "protocol": body })).await;
    let made = put("openid", json!({ "mapping_id": "m", "remote_id_attribute": "ISS" })).await.is(201);
    let links = json!({ "self": format!("http://cloud{}", protocol("openid")), "identity_provider": format!("http://cloud{provider}") });
    let whole = json!({ "protocol": { "id": "openid", "mapping_id": "m", "links": links } });
    assert_eq!(made, whole);
    assert_eq!(cloud.get(&admin, &protocol("openid")).await.is(200), whole);
    let listed = cloud.get(&admin, &format!("{provider}/protocols")).await.is(200);
    let one = json!({ "id": "openid", "mapping_id": "m", "idp_id": "acme", "remote_id_attribute": "ISS", "links": links });
    assert_eq!(listed["protocols"], json!([one]));
    put("openid", json!({ "mapping_id": "m" })).await.fault(409);
    assert_eq!(put("x", json!({ "mapping_id": "none" })).await.fault(400), "Invalid mapping id: none");
    for bad in [json!({}), json!({ "mapping_id": "" }), json!({ "mapping_id": 1 }), json!({ "mapping_id": "m", "x": 1 })] {
        put("x", bad.clone()).await.fault(400);
        cloud.patch(&admin, &protocol("openid"), json!({ "protocol": bad })).await.fault(400);
    }
    let patch = async |body: Value| cloud.patch(&admin, &protocol("openid"), json!({ "protocol": body })).await;
    patch(json!({ "mapping_id": "m", "remote_id_attribute": null })).await.fault(400);
    patch(json!({ "mapping_id": "none" })).await.fault(400);
    assert_eq!(patch(json!({ "mapping_id": "n" })).await.is(200)["protocol"]["mapping_id"], "n");
    let listed = cloud.get(&admin, &format!("{provider}/protocols")).await.is(200);
    assert_eq!(listed["protocols"][0]["remote_id_attribute"], "ISS");
    cloud.patch(&admin, &protocol("none"), json!({ "protocol": { "mapping_id": "m" } })).await.fault(404);
    let nowhere = format!("{ROOT}/identity_providers/none/protocols");
    cloud.ask(&admin, "PUT", &format!("{nowhere}/openid"), json!({ "protocol": { "mapping_id": "m" } })).await.fault(404);
    assert_eq!(cloud.get(&admin, &nowhere).await.is(200)["protocols"], json!([]));
    let message = cloud.get(&admin, &protocol("none")).await.fault(404);
    assert_eq!(message, "Could not find federated protocol none for Identity Provider: acme.");
    cloud.delete(&admin, &protocol("none")).await.fault(404);
    put("mapped", json!({ "mapping_id": "m" })).await.is(201);
    cloud.delete(&admin, &protocol("mapped")).await.is(204);
    cloud.get(&admin, &protocol("mapped")).await.fault(404);
    // A provider's protocols go with it, mappings stay.
    cloud.delete(&admin, &provider).await.is(204);
    cloud.get(&admin, &protocol("openid")).await.fault(404);
    cloud.delete(&admin, &mapping("n")).await.is(204);
    assert_eq!(cloud.delete(&admin, &mapping("n")).await.fault(404), "Could not find mapping: n.");
    cloud.get(&admin, &mapping("m")).await.is(200);
}

pub async fn service_providers(cloud: Cloud) {
    let admin = cloud.admin().await;
    let path = |id: &str| format!("{ROOT}/service_providers/{id}");
    let put = async |id: &str, body: Value| cloud.ask(&admin, "PUT", &path(id), json!({ "service_provider": body })).await;
    let urls = json!({ "auth_url": "https://beta/v3/auth", "sp_url": "https://beta/Shibboleth.sso/SAML2/ECP" });
    let whole = json!({ "service_provider": { "id": "beta", "enabled": false, "description": null, "auth_url": urls["auth_url"],
        "sp_url": urls["sp_url"], "relay_state_prefix": "ss:mem:", "links": { "self": format!("http://cloud{}", path("beta")) } } });
    assert_eq!(put("beta", urls.clone()).await.is(201), whole);
    assert_eq!(cloud.get(&admin, &path("beta")).await.is(200), whole);
    put("beta", urls.clone()).await.fault(409);
    let bad = [
        json!({}),
        json!({ "auth_url": "https://a" }),
        json!({ "auth_url": "https://a", "sp_url": 1 }),
        json!({ "auth_url": "https://a", "sp_url": "ftp://a" }),
        json!({ "auth_url": "https://a", "sp_url": "javascript:alert(1)" }),
        json!({ "auth_url": "https://a", "sp_url": format!("https://{}", "a".repeat(225)) }),
        json!({ "auth_url": "https://a", "sp_url": "https://a", "x": 1 }),
        json!({ "auth_url": "https://a", "sp_url": "https://a", "enabled": [] }),
    ];
    for body in bad {
        put("bad", body).await.fault(400);
    }
    // Tokens name those that are enabled.
    let before = cloud.admin().await;
    assert_eq!(cloud.validate(&admin, &before).await.is(200)["token"].get("service_providers"), None);
    let patch = async |body: Value| cloud.patch(&admin, &path("beta"), json!({ "service_provider": body })).await;
    assert_eq!(patch(json!({ "enabled": true, "description": "d" })).await.is(200)["service_provider"]["description"], "d");
    let named = json!([{ "id": "beta", "auth_url": urls["auth_url"], "sp_url": urls["sp_url"] }]);
    assert_eq!(cloud.validate(&admin, &before).await.is(200)["token"]["service_providers"], named);
    assert_eq!(cloud.login(admin_user(), admin_scope()).await.is(201)["token"]["service_providers"], named);
    assert_eq!(ids(&cloud, &admin, "service_providers", "?enabled=true").await, ["beta"]);
    assert_eq!(ids(&cloud, &admin, "service_providers", "?enabled=false").await, Vec::<Value>::new());
    patch(json!({})).await.fault(400);
    patch(json!({ "auth_url": "none" })).await.fault(400);
    cloud.patch(&admin, &path("none"), json!({ "service_provider": { "enabled": true } })).await.fault(404);
    cloud.delete(&admin, &path("beta")).await.is(204);
    assert_eq!(cloud.delete(&admin, &path("beta")).await.fault(404), "Could not find Service Provider: beta.");
    assert_eq!(cloud.validate(&admin, &before).await.is(200)["token"].get("service_providers"), None);
}

/// Each rule is tried allowed and denied: readers of the system read, members of projects do nothing of it.
pub async fn who_may_what(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (user, reader) = (cloud.user(&admin, "auditor").await, cloud.role(&admin, "reader").await);
    let project = cloud.project(&admin, "p", None).await;
    cloud.put(&admin, &format!("/v3/system/users/{user}/roles/{reader}")).await.is(204);
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{reader}")).await.is(204);
    cloud.put(&admin, &format!("/v3/domains/default/users/{user}/roles/{}", cloud.role(&admin, "manager").await)).await.is(204);
    let auditor = cloud.login(user_by_id(&user), on_system()).await.token;
    let tenant = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    let manager = cloud.login(user_by_id(&user), on_domain("default")).await.token;
    let urls = json!({ "auth_url": "https://a", "sp_url": "https://a" });
    // What, its path, what makes it, what changes it; in the order in which they can be made.
    let table = [
        ("mapping", "mappings/m", json!({ "rules": rules() }), json!({ "rules": rules() })),
        ("identity_provider", "identity_providers/i", json!({}), json!({ "enabled": true })),
        ("protocol", "identity_providers/i/protocols/p", json!({ "mapping_id": "m" }), json!({ "mapping_id": "m" })),
        ("service_provider", "service_providers/s", urls, json!({ "enabled": true })),
    ];
    for (key, path, new, change) in &table {
        let path = format!("{ROOT}/{path}");
        let list = &path[..path.rfind('/').unwrap()];
        for token in [&auditor, &tenant, &manager] {
            let message = cloud.ask(token, "PUT", &path, json!({ *key: new })).await.fault(403);
            assert_eq!(message, format!("You are not authorized to perform the requested action: identity:create_{key}."));
        }
        cloud.ask(&admin, "PUT", &path, json!({ *key: new })).await.is(201);
        for (method, path) in [("GET", path.as_str()), ("HEAD", &path), ("GET", list), ("HEAD", list)] {
            assert_eq!(cloud.ask(&auditor, method, path, Value::Null).await.status, 200, "{method} {path}");
            assert_eq!(cloud.ask(&tenant, method, path, Value::Null).await.status, 403, "{method} {path}");
            assert_eq!(cloud.ask(&manager, method, path, Value::Null).await.status, 403, "{method} {path}");
        }
        for token in [&auditor, &tenant, &manager] {
            cloud.patch(token, &path, json!({ *key: change })).await.fault(403);
            cloud.delete(token, &path).await.fault(403);
        }
        cloud.patch(&admin, &path, json!({ *key: change })).await.is(200);
    }
    for (_, path, ..) in table.iter().rev() {
        cloud.delete(&admin, &format!("{ROOT}/{path}")).await.is(204);
    }
    // Everybody sees where the own token can lead.
    for (federation, auth) in [("projects", "/v3/auth/projects"), ("domains", "/v3/auth/domains")] {
        let own = cloud.get(&tenant, &format!("{ROOT}/{federation}")).await.is(200);
        assert_eq!(own[federation], cloud.get(&tenant, auth).await.is(200)[federation]);
        assert_eq!(own[federation].as_array().unwrap().len(), 1);
    }
}
