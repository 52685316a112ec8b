//! What an operator does at the console.

use base::Timestamp;
use serde_json::{Value, json};

use crate::cloud::*;

fn admin_with(password: &str) -> Value {
    json!({ "name": "admin", "domain": { "id": "default" }, "password": password })
}

pub async fn who_is_locked_out_gets_in_again(cloud: Cloud) {
    let settings = |config: &mut base::Config| {
        config.set("security_compliance.lockout_failure_attempts", "1");
        config.set("security_compliance.change_password_upon_first_use", "true");
    };
    let cloud = cloud.configured(settings).await.unwrap();
    let first = cloud.admin().await;
    let token = cloud.validate(&first, &first).await.is(200)["token"].clone();
    let (me, project) = (token["user"]["id"].as_str().unwrap().to_string(), token["project"]["id"].as_str().unwrap().to_string());
    let role = cloud.role(&first, "admin").await;
    // All that can go wrong with the only administrator.
    let options = json!({ "multi_factor_auth_enabled": true, "multi_factor_auth_rules": [["password", "totp"]] });
    cloud.patch(&first, &format!("/v3/users/{me}"), json!({ "user": { "options": options } })).await.is(200);
    cloud.delete(&first, &format!("/v3/system/users/{me}/roles/{role}")).await.is(204);
    cloud.patch(&first, &format!("/v3/projects/{project}"), json!({ "project": { "enabled": false } })).await.is(200);
    cloud.login(json!({ "id": me, "password": "wrong" }), Value::Null).await.fault(401);
    let disable = "UPDATE identity_user SET enabled = 0";
    cloud.store.write(move |tx| tx.execute(disable, store::params![]).map(|_| ())).await.unwrap();
    cloud.login(admin_user(), admin_scope()).await.fault(401);

    cloud.identity.admin_reset("a new one", false).await.unwrap();
    let second = cloud.login(admin_with("a new one"), admin_scope()).await;
    assert_eq!(second.status, 201, "{}", second.body);
    cloud.login(admin_with("a new one"), on_system()).await.is(201);
    cloud.validate(&second.token, &first).await.fault(404);
    // Again, it is the same; and where there is no administrator there is one afterwards.
    cloud.identity.admin_reset("a third", false).await.unwrap();
    let third = cloud.login(admin_with("a third"), admin_scope()).await.token;
    cloud.delete(&third, &format!("/v3/users/{me}")).await.is(204);
    cloud.identity.admin_reset("a fourth", false).await.unwrap();
    let fourth = cloud.login(admin_with("a fourth"), admin_scope()).await.token;

    // In a directory no stored password works: that is said before anything is done, and the domain can leave it.
    let config = json!({ "config": { "identity": { "driver": "ldap" }, "ldap": { "url": "ldap://127.0.0.1:1" } } });
    cloud.ask(&fourth, "PUT", "/v3/domains/default/config", config).await.is(201);
    let refused = cloud.identity.admin_reset("a fifth", false).await.unwrap_err();
    assert!(refused.is(base::Kind::Conflict) && refused.message().contains("--leave-directory"), "{refused}");
    assert_ne!(cloud.login(admin_with("a fourth"), admin_scope()).await.status, 201);
    cloud.identity.admin_reset("a fifth", true).await.unwrap();
    let fifth = cloud.login(admin_with("a fifth"), admin_scope()).await.token;
    let kept = cloud.get(&fifth, "/v3/domains/default/config").await.is(200);
    assert_eq!(kept["config"], json!({ "ldap": { "url": "ldap://127.0.0.1:1" } }));
}

pub async fn what_is_over_is_forgotten(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": false } })).await.is(200);
    let count = async || {
        let sql = "SELECT COUNT(*) FROM revocation";
        cloud.store.read(|tx| tx.query_opt(sql, store::params![], |row| row.int(0))).await.unwrap()
    };
    cloud.identity.purge().await.unwrap();
    assert_eq!(count().await, Some(1), "a token that it meets may still be about");
    let past = Timestamp::now().micros() - 1;
    let sql = "UPDATE revocation SET forget_after = ?1";
    cloud.store.write(move |tx| tx.execute(sql, store::params![past]).map(|_| ())).await.unwrap();
    cloud.identity.purge().await.unwrap();
    assert_eq!(count().await, Some(0));
}
