//! Configuration of domains.

use serde_json::{Value, json};

use crate::cloud::*;

pub async fn domains_are_configured(cloud: Cloud) {
    let admin = cloud.admin().await;
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let path = format!("/v3/domains/{domain}/config");
    let put = async |config: Value| cloud.ask(&admin, "PUT", &path, json!({ "config": config })).await;
    let patch = async |tail: &str, config: Value| cloud.patch(&admin, &format!("{path}{tail}"), json!({ "config": config })).await;
    let get = async |tail: &str| cloud.get(&admin, &format!("{path}{tail}")).await;

    let missing = |what: &str| format!("Could not find {what} in domain configuration for domain {domain}.");
    assert_eq!(get("").await.fault(404), missing("any options"));
    let ldap =
        json!({ "url": "ldap://h", "user_tree_dn": "ou=Users", "password": "hunter2", "use_tls": true, "user_attribute_ignore": ["a"] });
    let shown = json!({ "url": "ldap://h", "user_tree_dn": "ou=Users", "use_tls": true, "user_attribute_ignore": ["a"] });
    let made = put(json!({ "identity": { "driver": "ldap" }, "ldap": ldap })).await.is(201);
    assert_eq!(made, json!({ "config": { "identity": { "driver": "ldap" }, "ldap": shown } }));
    assert_eq!(get("").await.is(200), made);
    assert_eq!(get("/ldap").await.is(200), json!({ "config": { "ldap": shown } }));
    assert_eq!(get("/ldap/url").await.is(200), json!({ "config": { "url": "ldap://h" } }));
    assert_eq!(get("/ldap/suffix").await.fault(404), missing("option suffix in group ldap"));
    assert_eq!(get("/ldap/password").await.fault(404), missing("option password in group ldap"));
    assert_eq!(cloud.ask(&admin, "HEAD", &path, Value::Null).await.status, 200);

    // The secret lies sealed.
    let stored: Vec<String> = cloud
        .store
        .read(|tx| tx.query("SELECT value FROM domain_config ORDER BY value", store::params![], |row| row.text(0)))
        .await
        .unwrap();
    assert_eq!(stored.len(), 6);
    assert!(stored.iter().all(|value| !value.contains("hunter2")), "{stored:?}");

    let changed = patch("", json!({ "ldap": { "url": "ldaps://h" }, "identity": { "list_limit": 5 } })).await.is(200);
    assert_eq!((&changed["config"]["ldap"]["url"], &changed["config"]["identity"]["list_limit"]), (&json!("ldaps://h"), &json!(5)));
    assert_eq!(changed["config"]["identity"]["driver"], "ldap", "what is not named stays");
    let changed = patch("/ldap", json!({ "ldap": { "page_size": 10 } })).await.is(200);
    assert_eq!(changed["config"]["ldap"]["page_size"], 10);
    let changed = patch("/ldap/url", json!({ "url": "ldap://other" })).await.is(200);
    assert_eq!(changed["config"]["ldap"]["url"], "ldap://other");
    patch("/ldap/password", json!({ "password": "other" })).await.is(200);
    assert_eq!(patch("/ldap/suffix", json!({ "suffix": "s" })).await.fault(404), missing("option suffix in group ldap"));

    for (tail, config) in [
        ("", json!({})),
        ("", json!({ "ldap": {} })),
        ("", json!({ "ldap": "url" })),
        ("", json!({ "ldap": { "none": 1 } })),
        ("", json!({ "none": { "url": 1 } })),
        ("", json!({ "identity": { "password": "p" } })),
        ("", json!({ "security_compliance": { "password_regex": "." } })),
        ("/ldap", json!({ "identity": { "driver": "sql" } })),
        ("/ldap", json!({ "ldap": { "url": "u" }, "identity": { "driver": "sql" } })),
        ("/ldap/url", json!({ "suffix": "s" })),
        ("/ldap/url", json!({ "url": "u", "suffix": "s" })),
        ("/ldap/url", json!({ "ldap": { "url": "u" } })),
        ("/none", json!({ "none": { "url": "u" } })),
        ("/ldap/none", json!({ "none": "u" })),
    ] {
        let message = patch(tail, config.clone()).await.fault(403);
        assert!(message.starts_with("Domain configuration: "), "{tail} {config}: {message}");
    }
    put(json!({ "ldap": { "none": 1 } })).await.fault(403);
    cloud.ask(&admin, "PUT", &path, json!({ "config": 1 })).await.fault(400);
    for tail in ["/none", "/ldap/none", "/security_compliance"] {
        get(tail).await.fault(403);
        cloud.delete(&admin, &format!("{path}{tail}")).await.fault(403);
    }

    cloud.delete(&admin, &format!("{path}/ldap/url")).await.is(204);
    cloud.delete(&admin, &format!("{path}/ldap/url")).await.fault(404);
    cloud.delete(&admin, &format!("{path}/ldap")).await.is(204);
    assert_eq!(cloud.delete(&admin, &format!("{path}/ldap")).await.fault(404), missing("group ldap"));
    assert_eq!(get("").await.is(200), json!({ "config": { "identity": { "driver": "ldap", "list_limit": 5 } } }));
    // Again: in place of what there is.
    assert_eq!(put(json!({ "ldap": { "user": "u" } })).await.is(200), json!({ "config": { "ldap": { "user": "u" } } }));
    cloud.delete(&admin, &path).await.is(204);
    cloud.delete(&admin, &path).await.is(204);
    get("").await.fault(404);

    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        let body = if method == "GET" { Value::Null } else { json!({ "config": { "ldap": { "url": "u" } } }) };
        cloud.ask(&admin, method, "/v3/domains/none/config", body).await.fault(404);
    }
    // It goes with its domain.
    put(json!({ "ldap": { "user": "u" } })).await.is(201);
    cloud.patch(&admin, &format!("/v3/domains/{domain}"), json!({ "domain": { "enabled": false } })).await.is(200);
    cloud.delete(&admin, &format!("/v3/domains/{domain}")).await.is(204);
    let left = cloud.store.read(|tx| tx.query("SELECT 1 FROM domain_config", store::params![], |_| Ok(()))).await.unwrap();
    assert!(left.is_empty());
}

pub async fn defaults_and_password_rules_can_be_read(cloud: Cloud) {
    let cloud = cloud
        .configured(|config| {
            config.set("security_compliance.password_regex", "^.{4,}$");
            config.set("security_compliance.password_regex_description", "four at least");
        })
        .await
        .unwrap();
    let admin = cloud.admin().await;
    let get = async |tail: &str| cloud.get(&admin, &format!("/v3/domains/{tail}")).await;
    let all = get("config/default").await.is(200);
    assert_eq!((&all["config"]["identity"]["driver"], &all["config"]["ldap"]["url"]), (&json!("sql"), &json!("ldap://localhost")));
    assert_eq!(all["config"]["ldap"].get("password"), None);
    assert_eq!(get("config/ldap/default").await.is(200), json!({ "config": { "ldap": all["config"]["ldap"] } }));
    assert_eq!(get("config/ldap/pool_size/default").await.is(200), json!({ "config": { "pool_size": 10 } }));
    for tail in ["config/none/default", "config/ldap/none/default", "config/ldap/password/default"] {
        get(tail).await.fault(403);
    }

    let project = cloud.project(&admin, "p", None).await;
    let (user, role) = (cloud.user(&admin, "u").await, cloud.role(&admin, "reader").await);
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
    let rules = cloud.get(&token, "/v3/domains/default/config/security_compliance").await.is(200);
    let whole = json!({ "password_regex": "^.{4,}$", "password_regex_description": "four at least" });
    assert_eq!(rules, json!({ "config": { "security_compliance": whole } }));
    let one = cloud.get(&token, "/v3/domains/default/config/security_compliance/password_regex").await.is(200);
    assert_eq!(one, json!({ "config": { "password_regex": "^.{4,}$" } }));
    cloud.get(&token, "/v3/domains/default/config/security_compliance/lockout_duration").await.fault(403);
    cloud.get(&token, "/v3/domains/other/config/security_compliance").await.fault(403);
}
