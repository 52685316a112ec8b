//! Users of whom several methods are demanded: one-time passwords and receipts. And what is told of revocations.

use base::Timestamp;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};

use crate::cloud::*;

/// In base32: `12345678901234567890`.
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// The code of an authenticator, some steps of 30 seconds from now.
fn code(steps: i64) -> String {
    let step = Timestamp::now().micros() / 30_000_000 + steps;
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"12345678901234567890").unwrap();
    mac.update(&step.to_be_bytes());
    let hash = mac.finalize().into_bytes();
    let at = usize::from(hash[19] & 15);
    let word = u32::from_be_bytes(hash[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

/// Far enough from the end of a step that what follows falls into one.
async fn within_a_step() {
    while Timestamp::now().micros() % 30_000_000 > 25_000_000 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A user with an authenticator.
async fn owner(cloud: &Cloud, admin: &str, name: &str) -> String {
    let user = cloud.user(admin, name).await;
    let credential = json!({ "credential": { "type": "totp", "user_id": user, "blob": SECRET } });
    cloud.post(admin, "/v3/credentials", credential).await.is(201);
    user
}

async fn by(cloud: &Cloud, receipt: &str, identity: Value) -> Answer {
    let body = json!({ "auth": { "identity": identity } }).to_string().into_bytes();
    let header = [("openstack-auth-receipt", receipt)];
    let headers: &[(&str, &str)] = if receipt.is_empty() { &[] } else { &header };
    cloud.send("POST", "/v3/auth/tokens", headers, body).await
}

fn totp(user: &str, code: &str) -> Value {
    json!({ "methods": ["totp"], "totp": { "user": { "id": user, "passcode": code } } })
}

fn password(user: &str) -> Value {
    json!({ "methods": ["password"], "password": { "user": user_by_id(user) } })
}

fn receipt(answer: &Answer) -> String {
    answer.headers.get("openstack-auth-receipt").map(|text| text.to_str().unwrap().to_string()).unwrap_or_default()
}

async fn demand(cloud: &Cloud, admin: &str, user: &str, rules: Value) {
    let options = json!({ "user": { "options": { "multi_factor_auth_enabled": true, "multi_factor_auth_rules": rules } } });
    cloud.patch(admin, &format!("/v3/users/{user}"), options).await.is(200);
}

pub async fn a_code_counts_once(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = owner(&cloud, &admin, "owner").await;
    within_a_step().await;
    let (before, now) = (code(-1), code(0));
    let by_name =
        json!({ "methods": ["totp"], "totp": { "user": { "name": "owner", "domain": { "id": "default" }, "passcode": before } } });
    assert_eq!(by(&cloud, "", by_name).await.is(201)["token"]["methods"], json!(["totp"]), "the one before is taken too");
    by(&cloud, "", totp(&user, &before)).await.fault(401);
    by(&cloud, "", totp(&user, &now)).await.is(201);
    by(&cloud, "", totp(&user, &now)).await.fault(401);
    by(&cloud, "", totp(&user, &before)).await.fault(401);

    // Too old, too early, of nobody, of another; in a wrong form.
    let other = owner(&cloud, &admin, "other").await;
    let stranger = cloud.user(&admin, "stranger").await;
    for (user, code) in [(&other, code(-2)), (&other, code(1)), (&stranger, code(0)), (&"nobody".to_string(), code(0))] {
        by(&cloud, "", totp(user, &code)).await.fault(401);
    }
    by(&cloud, "", totp(&other, &code(0))).await.is(201);
    for wrong in [json!({}), json!({ "user": {} }), json!({ "user": { "id": user } }), json!({ "user": { "id": user, "passcode": 1 } })] {
        by(&cloud, "", json!({ "methods": ["totp"], "totp": wrong })).await.fault(400);
    }
}

pub async fn codes_are_not_guessed(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = owner(&cloud, &admin, "owner").await;
    let other = owner(&cloud, &admin, "other").await;
    within_a_step().await;
    for _ in 0..5 {
        by(&cloud, "", totp(&user, "abcdef")).await.fault(401);
    }
    by(&cloud, "", totp(&user, &code(0))).await.fault(401);
    by(&cloud, "", totp(&other, &code(0))).await.is(201);
}

pub async fn a_receipt_stands_for_the_methods_so_far(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = owner(&cloud, &admin, "owner").await;
    demand(&cloud, &admin, &user, json!([["password", "totp"], ["token", "magic"], ["totp", "external"]])).await;
    within_a_step().await;
    let first = by(&cloud, "", password(&user)).await;
    let held = receipt(&first);
    assert_eq!(first.status, 401);
    let body = first.body;
    assert_eq!(body["receipt"]["methods"], json!(["password"]));
    assert_eq!(body["receipt"]["user"], json!({ "id": user, "name": "owner", "domain": { "id": "default", "name": "Default" } }));
    assert_eq!(body["required_auth_methods"], json!([["password", "totp"]]), "only what has been begun");
    // The same again is no more, and nobody else's proof adds to it.
    assert_eq!(by(&cloud, &held, password(&user)).await.status, 401);
    let other = owner(&cloud, &admin, "other").await;
    by(&cloud, &held, totp(&other, &code(-1))).await.fault(401);
    by(&cloud, "nonsense", totp(&user, &code(-1))).await.fault(401);
    let whole = by(&cloud, &held, totp(&user, &code(0))).await.is(201);
    assert_eq!(whole["token"]["methods"], json!(["password", "totp"]));
    // A receipt is no token, a token no receipt.
    cloud.get(&held, "/v3/auth/projects").await.fault(401);
    cloud.validate(&admin, &held).await.fault(404);
    by(&cloud, &admin, password(&user)).await.fault(401);

    // Both at once need none; a wrong password does not use up the code.
    demand(&cloud, &admin, &other, json!([["password", "totp"]])).await;
    let both = |password: &str| {
        json!({ "methods": ["totp", "password"], "totp": { "user": { "id": other, "passcode": code(0) } },
            "password": { "user": { "id": other, "password": password } } })
    };
    by(&cloud, "", both("wrong")).await.fault(401);
    by(&cloud, "", both(PASSWORD)).await.is(201);
}

pub async fn a_receipt_is_void_with_what_it_stands_on(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = owner(&cloud, &admin, "owner").await;
    demand(&cloud, &admin, &user, json!([["password", "totp"]])).await;
    within_a_step().await;
    let held = receipt(&by(&cloud, "", password(&user)).await);
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "password": "another" } })).await.is(200);
    by(&cloud, &held, totp(&user, &code(-1))).await.fault(401);
    let again = json!({ "methods": ["password"], "password": { "user": { "id": user, "password": "another" } } });
    let held = receipt(&by(&cloud, "", again).await);
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": false } })).await.is(200);
    by(&cloud, &held, totp(&user, &code(0))).await.fault(401);
    assert_eq!(receipt(&by(&cloud, "", password(&user)).await), "");

    // What is bound to a project or to an end gives no receipt: it would not be bound any more.
    let (second, project) = (owner(&cloud, &admin, "second").await, cloud.project(&admin, "p", None).await);
    let member = cloud.role(&admin, "member").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{second}/roles/{member}")).await.is(204);
    let token = cloud.login(user_by_id(&second), on_project(&project)).await.token;
    let credentials = format!("/v3/users/{second}/application_credentials");
    let made = cloud.post(&token, &credentials, json!({ "application_credential": { "name": "n" } })).await;
    let made = made.is(201)["application_credential"].clone();
    demand(&cloud, &admin, &second, json!([["application_credential", "totp"], ["token", "totp"]])).await;
    let credential =
        json!({ "methods": ["application_credential"], "application_credential": { "id": made["id"], "secret": made["secret"] } });
    for identity in [credential, json!({ "methods": ["token"], "token": { "id": token } })] {
        let answer = by(&cloud, "", identity).await;
        assert_eq!(receipt(&answer), "");
        answer.fault(401);
    }
}

pub async fn revocations_are_told(cloud: Cloud) {
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let since = Timestamp::now().iso_micros_z();
    let token = cloud.login(user_by_id(&user), Value::Null).await;
    let audit = token.body["token"]["audit_ids"][0].clone();
    let headers = [("x-auth-token", admin.as_str()), ("x-subject-token", token.token.as_str())];
    cloud.send("DELETE", "/v3/auth/tokens", &headers, vec![]).await.is(204);
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": false } })).await.is(200);
    let told = cloud.get(&admin, &format!("/v3/OS-REVOKE/events?since={since}")).await.is(200);
    let events = told["events"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{told}");
    assert_eq!((&events[0]["audit_id"], &events[1]["user_id"]), (&audit, &json!(user)));
    assert!(events[0]["issued_before"].as_str().unwrap() > since.as_str());
    assert!(told["links"]["self"].as_str().unwrap().ends_with("/v3/OS-REVOKE/events"));
    let later = Timestamp::now().iso_micros_z();
    assert_eq!(cloud.get(&admin, &format!("/v3/OS-REVOKE/events?since={later}")).await.is(200)["events"], json!([]));
    cloud.get(&admin, "/v3/OS-REVOKE/events?since=then").await.fault(400);
    let (other, project, member) =
        (cloud.user(&admin, "o").await, cloud.project(&admin, "p", None).await, cloud.role(&admin, "member").await);
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{other}/roles/{member}")).await.is(204);
    let other = cloud.login(user_by_id(&other), on_project(&project)).await.token;
    cloud.get(&other, "/v3/OS-REVOKE/events").await.fault(403);
    for path in ["/v3/OS-SIMPLE-CERT/ca", "/v3/OS-SIMPLE-CERT/certificates", "/v3/auth/tokens/OS-PKI/revoked"] {
        cloud.get("", path).await.fault(410);
        assert_eq!(cloud.ask("", "HEAD", path, json!(null)).await.status, 410);
    }
}

#[tokio::test]
async fn keys_are_rotated_when_told_and_followed_when_somebody_else_does() {
    let shared = tempfile::tempdir().unwrap();
    let directory = shared.path().join("keys").display().to_string();
    let cloud = async || {
        Cloud::in_home(tempfile::tempdir().unwrap(), |config| {
            config.set("token.key_directory", &directory);
            config.set("token.key_rotation_seconds", "0");
        })
        .await
    };
    let (one, two) = (cloud().await, cloud().await);
    let before = two.admin().await;
    let staged = std::fs::read_to_string(shared.path().join("keys/0")).unwrap();
    one.identity.keys_rotate().await.unwrap();
    assert_eq!(std::fs::read_to_string(shared.path().join("keys/2")).unwrap(), staged);
    for _ in 0..2 {
        one.identity.keys_rotate().await.unwrap();
    }
    // By now the key that sealed the token of the other one is gone.
    assert!(!shared.path().join("keys/1").exists());
    let fresh = one.admin().await;
    one.validate(&fresh, &fresh).await.is(200);
    two.validate(&before, &before).await.is(200);
    two.tasks.start().await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while two.get(&before, "/v3/auth/projects").await.status == 200 {
        assert!(std::time::Instant::now() < deadline, "it does not look");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let fresh = two.admin().await;
    two.validate(&fresh, &fresh).await.is(200);
    two.tasks.stop().await;
}
