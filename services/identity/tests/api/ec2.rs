//! EC2 credentials, and the tokens for what was signed with them.

use base::Timestamp;
use base64::Engine;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::cloud::*;

/// A member of a project, and a service that hands signatures on.
struct People {
    admin: String,
    project: String,
    user: String,
    token: String,
    service: String,
}

impl People {
    async fn of(cloud: &Cloud) -> People {
        let admin = cloud.admin().await;
        let project = cloud.project(&admin, "p", None).await;
        let (user, swift) = (cloud.user(&admin, "u").await, cloud.user(&admin, "swift").await);
        for (who, role) in [(&user, "member"), (&swift, "service")] {
            let role = cloud.role(&admin, role).await;
            cloud.put(&admin, &format!("/v3/projects/{project}/users/{who}/roles/{role}")).await.is(204);
        }
        let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        let service = cloud.login(user_by_id(&swift), on_project(&project)).await.token;
        People { admin, project, user, token, service }
    }

    fn path(&self) -> String {
        format!("/v3/users/{}/credentials/OS-EC2", self.user)
    }

    async fn make(&self, cloud: &Cloud, token: &str) -> Value {
        cloud.post(token, &self.path(), json!({ "tenant_id": self.project })).await.is(201)["credential"].clone()
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// What a service hands on of a request that was signed with version 2 at `at`.
pub fn ec2(access: &str, secret: &str, at: Timestamp) -> Value {
    let at = at.iso();
    let query = format!("AWSAccessKeyId={access}&SignatureMethod=HmacSHA256&SignatureVersion=2&Timestamp={}", at.replace(':', "%3A"));
    let signature = hmac(secret.as_bytes(), &format!("GET\ncloud\n/\n{query}"));
    let params = json!({ "AWSAccessKeyId": access, "SignatureMethod": "HmacSHA256", "SignatureVersion": "2", "Timestamp": at });
    let signature = base64::engine::general_purpose::STANDARD.encode(signature);
    json!({ "credentials": { "access": access, "signature": signature, "host": "cloud", "verb": "GET", "path": "/", "params": params } })
}

/// What a service hands on of a request to S3 that was signed with version 4 at `at`.
fn s3(access: &str, secret: &str, at: Timestamp) -> Value {
    let time = at.iso().replace(['-', ':'], "");
    let date = &time[..8];
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{date}/r/s3/aws4_request\n{}", "0".repeat(64));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, "r", "s3", "aws4_request"] {
        key = hmac(&key, part);
    }
    let signature: String = hmac(&key, &text).iter().map(|byte| format!("{byte:02x}")).collect();
    let token = base64::engine::general_purpose::URL_SAFE.encode(text);
    json!({ "credentials": { "access": access, "signature": signature, "token": token } })
}

fn parts(credential: &Value) -> (&str, &str) {
    (credential["access"].as_str().unwrap(), credential["secret"].as_str().unwrap())
}

pub async fn ec2_credentials_are_made_listed_and_deleted(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let path = people.path();
    let made = people.make(&cloud, &people.token).await;
    let (access, secret) = parts(&made);
    assert!(access.len() == 32 && secret.len() == 32 && access != secret);
    let own = format!("{path}/{access}");
    let whole = json!({ "user_id": people.user, "tenant_id": people.project, "access": access, "secret": secret, "trust_id": null,
        "links": { "self": format!("http://cloud{own}") } });
    assert_eq!(made, whole);
    let auditor = cloud.user(&people.admin, "auditor").await;
    let reader = cloud.role(&people.admin, "reader").await;
    cloud.put(&people.admin, &format!("/v3/system/users/{auditor}/roles/{reader}")).await.is(204);
    let auditor_token = cloud.login(user_by_id(&auditor), on_system()).await.token;
    for token in [&people.token, &people.admin, &auditor_token] {
        assert_eq!(cloud.get(token, &own).await.is(200)["credential"], whole);
        assert_eq!(cloud.get(token, &path).await.is(200)["credentials"], json!([whole]));
        assert_eq!(cloud.ask(token, "HEAD", &own, Value::Null).await.status, 200);
        assert_eq!(cloud.ask(token, "HEAD", &path, Value::Null).await.status, 200);
    }
    // It is a credential like others, but others are no EC2 credentials.
    let all = cloud.get(&people.token, "/v3/credentials?type=ec2").await.is(200);
    assert_eq!(all["credentials"][0]["project_id"], json!(people.project));
    let plain = json!({ "credential": { "type": "cert", "blob": "b", "user_id": people.user } });
    cloud.post(&people.token, "/v3/credentials", plain).await.is(201);
    assert_eq!(cloud.get(&people.token, &path).await.is(200)["credentials"].as_array().unwrap().len(), 1);
    // Others neither see nor make nor delete them; whoever only reads makes and deletes none either.
    let stranger = cloud.user(&people.admin, "stranger").await;
    let role = cloud.role(&people.admin, "member").await;
    cloud.put(&people.admin, &format!("/v3/projects/{}/users/{stranger}/roles/{role}", people.project)).await.is(204);
    let stranger_token = cloud.login(user_by_id(&stranger), on_project(&people.project)).await.token;
    let wanted = json!({ "tenant_id": people.project });
    for (token, reads) in [(&stranger_token, false), (&auditor_token, true)] {
        cloud.post(token, &path, wanted.clone()).await.fault(403);
        cloud.delete(token, &own).await.fault(403);
        if !reads {
            cloud.get(token, &own).await.fault(403);
            cloud.get(token, &path).await.fault(403);
        }
    }
    cloud.get(&stranger_token, &format!("/v3/users/{stranger}/credentials/OS-EC2/{access}")).await.fault(403);
    // The access key alone names it, as upstream; the user of the path has to be there.
    cloud.get(&people.token, &format!("/v3/users/{stranger}/credentials/OS-EC2/{access}")).await.is(200);
    cloud.get(&people.token, &format!("/v3/users/none/credentials/OS-EC2/{access}")).await.fault(404);
    for (body, status) in [
        (json!({}), 400),
        (json!([]), 400),
        (json!({ "tenant_id": null }), 400),
        (json!({ "tenant_id": 1 }), 400),
        (json!({ "tenant_id": "none" }), 404),
    ] {
        cloud.post(&people.token, &path, body).await.fault(status);
    }
    cloud.post(&people.admin, "/v3/users/none/credentials/OS-EC2", wanted.clone()).await.fault(404);
    cloud.get(&people.admin, "/v3/users/none/credentials/OS-EC2").await.fault(404);
    cloud.get(&people.token, &format!("{path}/none")).await.fault(404);
    let theirs = cloud.post(&people.admin, &path, wanted).await.is(201)["credential"]["access"].clone();
    cloud.delete(&people.admin, &format!("{path}/{}", theirs.as_str().unwrap())).await.is(204);
    cloud.delete(&people.token, &own).await.is(204);
    cloud.delete(&people.token, &own).await.fault(404);
    cloud.get(&people.token, &own).await.fault(404);
}

pub async fn a_signature_gives_a_token(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let made = people.make(&cloud, &people.token).await;
    let (access, secret) = parts(&made);
    let now = Timestamp::now();
    let long_ago = Timestamp(now.0 - 16 * 60 * 1_000_000);
    // Whoever is neither a service nor an administrator gets nothing for a signature (CVE-2025-65073).
    for (path, body) in [("/v3/ec2tokens", ec2(access, secret, now)), ("/v3/s3tokens", s3(access, secret, now))] {
        cloud.post("", path, body.clone()).await.fault(401);
        cloud.post(&people.token, path, body.clone()).await.fault(403);
        cloud.post(&people.admin, path, body.clone()).await.is(200);
        cloud.get(&people.service, path).await.fault(405);
        let mut other = body.clone();
        other["credentials"]["signature"] = json!("AAAA");
        cloud.post(&people.service, path, other.clone()).await.fault(401);
        other["credentials"]["signature"] = json!("");
        cloud.post(&people.service, path, other).await.fault(401);
        for (wrong, status) in [
            (json!({}), 400),
            (json!({ "credentials": 1 }), 400),
            (json!({ "credentials": { "access": 1 } }), 400),
            (json!({ "credentials": {} }), 401),
            (json!({ "other": {} }), 401),
            (json!({ "credentials": { "access": access } }), 401),
            (json!({ "credentials": { "access": "none" } }), 404),
        ] {
            cloud.post(&people.service, path, wrong).await.fault(status);
        }
        for name in ["credential", "ec2Credentials"] {
            cloud.post(&people.service, path, json!({ name: body["credentials"] })).await.is(200);
        }
    }
    cloud.post(&people.service, "/v3/ec2tokens", ec2(access, "other", now)).await.fault(401);
    cloud.post(&people.service, "/v3/s3tokens", s3(access, "other", now)).await.fault(401);
    cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, long_ago)).await.fault(401);

    let got = cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await;
    assert_eq!(got.status, 200, "{}", got.body);
    let token = &got.body["token"];
    assert_eq!(token["methods"], json!(["ec2credential"]));
    assert_eq!((&token["user"]["id"], &token["project"]["id"]), (&json!(people.user), &json!(people.project)));
    assert!(token["catalog"].is_array());
    assert_eq!(cloud.validate(&people.admin, &got.token).await.is(200), got.body);
    // It is for the service that was asked, and not for this one (upstream since July 2026); another token can be had for it.
    cloud.get(&got.token, &people.path()).await.fault(403);
    cloud.validate(&got.token, &got.token).await.fault(403);
    cloud.get(&got.token, "/compute/v2.1/servers").await.is(200);
    let s3_got = cloud.post(&people.service, "/v3/s3tokens", s3(access, secret, now)).await;
    assert_eq!(s3_got.body["token"]["user"], token["user"]);
    assert_eq!(s3_got.token, "", "nobody acts as the one who signed");

    // It gives what the user has now, and nothing once either is gone, and it goes with them.
    let role = cloud.role(&people.admin, "member").await;
    let grant = format!("/v3/projects/{}/users/{}/roles/{role}", people.project, people.user);
    let tries = async |status: u16| {
        cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await.is(status);
        cloud.post(&people.service, "/v3/s3tokens", s3(access, secret, now)).await.is(status);
    };
    cloud.delete(&people.admin, &grant).await.is(204);
    tries(401).await;
    cloud.put(&people.admin, &grant).await.is(204);
    tries(200).await;
    let user = format!("/v3/users/{}", people.user);
    cloud.patch(&people.admin, &user, json!({ "user": { "enabled": false } })).await.is(200);
    tries(401).await;
    cloud.patch(&people.admin, &user, json!({ "user": { "enabled": true } })).await.is(200);
    cloud.delete(&people.admin, &user).await.is(204);
    tries(404).await;
}

/// A secret that a user chose can be guessed, and is guarded as a password is. One that was made here cannot, and nobody is kept from using it.
pub async fn a_secret_that_was_chosen_is_not_guessed(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("password.attempts_per_minute", "3")).await.unwrap();
    let people = People::of(&cloud).await;
    let now = Timestamp::now();
    let blob = json!({ "access": "chosen", "secret": "short" }).to_string();
    let credential = json!({ "type": "ec2", "blob": blob, "user_id": people.user, "project_id": people.project });
    cloud.post(&people.token, "/v3/credentials", json!({ "credential": credential })).await.is(201);
    let made = people.make(&cloud, &people.token).await;
    let (access, secret) = (made["access"].as_str().unwrap(), made["secret"].as_str().unwrap());
    for path in ["/v3/ec2tokens", "/v3/s3tokens"] {
        let ask = async |access: &str, secret: &str| {
            let body = if path.contains("ec2") { ec2(access, secret, now) } else { s3(access, secret, now) };
            cloud.post(&people.service, path, body).await
        };
        let first = path.contains("ec2");
        for _ in 0..3 {
            ask("chosen", "wrong").await.fault(if first { 401 } else { 429 });
            ask(access, "wrong").await.fault(401);
        }
        // Not even the right one is answered, by neither door.
        ask("chosen", "short").await.fault(429);
        assert_eq!(ask(access, secret).await.status, 200);
    }
}

/// A blob that a client made itself: without a secret everybody could sign, and what it says of delegations gives nothing.
pub async fn a_blob_gives_nothing_by_itself(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let now = Timestamp::now();
    let make = async |blob: Value| {
        let credential = json!({ "type": "ec2", "blob": blob.to_string(), "user_id": people.user, "project_id": people.project });
        cloud.post(&people.token, "/v3/credentials", json!({ "credential": credential })).await.is(201);
    };
    make(json!({ "access": "bare" })).await;
    make(json!({ "access": "empty", "secret": "" })).await;
    make(json!({ "access": "number", "secret": 1 })).await;
    for (access, secret) in [("bare", ""), ("bare", "None"), ("bare", "null"), ("empty", ""), ("number", "1")] {
        cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await.fault(401);
        cloud.post(&people.service, "/v3/s3tokens", s3(access, secret, now)).await.fault(401);
    }
    // Of a trust between others, and of delegations that are not there (cf. CVE-2020-12689 and CVE-2020-12691).
    let trust = json!({ "trust": { "trustor_user_id": people.user, "trustee_user_id": people.user, "project_id": people.project,
        "impersonation": true, "roles": [{ "name": "member" }] } });
    let own = id(&cloud.post(&people.token, "/v3/OS-TRUST/trusts", trust).await.is(201));
    let thief = cloud.user(&people.admin, "thief").await;
    let role = cloud.role(&people.admin, "reader").await;
    cloud.put(&people.admin, &format!("/v3/projects/{}/users/{thief}/roles/{role}", people.project)).await.is(204);
    let thief_token = cloud.login(user_by_id(&thief), on_project(&people.project)).await.token;
    let blobs = [("a", "trust_id", own.as_str()), ("b", "trust_id", "none"), ("c", "app_cred_id", "x"), ("d", "access_token_id", "x")];
    for (access, key, value) in blobs {
        let blob = json!({ "access": access, "secret": "s", key: value }).to_string();
        let credential = json!({ "type": "ec2", "blob": blob, "user_id": thief, "project_id": people.project });
        cloud.post(&thief_token, "/v3/credentials", json!({ "credential": credential })).await.is(201);
        cloud.post(&people.service, "/v3/ec2tokens", ec2(access, "s", now)).await.fault(401);
    }
}

/// As in CVE-2013-6391, where it gave all that the trustor may.
pub async fn a_credential_gives_no_more_than_the_trust_that_made_it(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let now = Timestamp::now();
    let lent = id(&cloud.post(&people.admin, "/v3/roles", json!({ "role": { "name": "lent" } })).await.is(201));
    cloud.put(&people.admin, &format!("/v3/projects/{}/users/{}/roles/{lent}", people.project, people.user)).await.is(204);
    let token = cloud.login(user_by_id(&people.user), on_project(&people.project)).await.token;
    let trustee = cloud.user(&people.admin, "trustee").await;
    for (impersonation, uses) in [(true, Value::Null), (false, Value::Null), (true, json!(2))] {
        let trust = json!({ "trust": { "trustor_user_id": people.user, "trustee_user_id": trustee, "project_id": people.project,
            "impersonation": impersonation, "remaining_uses": uses, "roles": [{ "name": "member" }] } });
        let trust = id(&cloud.post(&token, "/v3/OS-TRUST/trusts", trust).await.is(201));
        let lent_token = cloud.login(user_by_id(&trustee), json!({ "OS-TRUST:trust": { "id": trust } })).await.token;
        let actor = if impersonation { &people.user } else { &trustee };
        let path = format!("/v3/users/{actor}/credentials/OS-EC2");
        let elsewhere = cloud.project(&people.admin, &format!("elsewhere {impersonation} {uses}"), None).await;
        cloud.post(&lent_token, &path, json!({ "tenant_id": elsewhere })).await.fault(403);
        let made = cloud.post(&lent_token, &path, json!({ "tenant_id": people.project })).await.is(201)["credential"].clone();
        assert_eq!(made["trust_id"], json!(trust));
        let (access, secret) = parts(&made);
        let got = cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await;
        assert_eq!(got.status, 200, "{}", got.body);
        assert_eq!(got.body["token"]["OS-TRUST:trust"]["id"], json!(trust));
        assert_eq!(got.body["token"]["user"]["id"], json!(actor));
        let roles: Vec<_> = got.body["token"]["roles"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
        assert!(roles.contains(&"member") && !roles.contains(&"lent"), "{roles:?}");
        // Neither that token nor a change of the credential leads further (cf. CVE-2020-12689).
        let again =
            json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": got.token } }, "scope": on_project(&people.project) } });
        cloud.post("", "/v3/auth/tokens", again).await.fault(403);
        if impersonation {
            let found = cloud.get(&token, "/v3/credentials?type=ec2").await.is(200);
            let path = format!("/v3/credentials/{}", found["credentials"][0]["id"].as_str().unwrap());
            let blob = json!({ "access": access, "secret": secret }).to_string();
            cloud.patch(&token, &path, json!({ "credential": { "blob": blob } })).await.fault(400);
        }
        if !uses.is_null() {
            cloud.post(&people.service, "/v3/s3tokens", s3(access, secret, now)).await.fault(401);
        }
        cloud.delete(&token, &format!("/v3/OS-TRUST/trusts/{trust}")).await.is(204);
        cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await.fault(401);
        cloud.validate(&people.admin, &got.token).await.fault(404);
        cloud.delete(&people.admin, &format!("{path}/{access}")).await.is(204);
    }
}

pub async fn a_credential_gives_no_more_than_the_application_credential_that_made_it(cloud: Cloud) {
    let people = People::of(&cloud).await;
    let now = Timestamp::now();
    let lent = id(&cloud.post(&people.admin, "/v3/roles", json!({ "role": { "name": "kept" } })).await.is(201));
    cloud.put(&people.admin, &format!("/v3/projects/{}/users/{}/roles/{lent}", people.project, people.user)).await.is(204);
    let token = cloud.login(user_by_id(&people.user), on_project(&people.project)).await.token;
    let by = async |name: &str, unrestricted: bool| {
        let wanted = json!({ "name": name, "secret": "s", "unrestricted": unrestricted, "roles": [{ "name": "member" }] });
        let path = format!("/v3/users/{}/application_credentials", people.user);
        let made = id(&cloud.post(&token, &path, json!({ "application_credential": wanted })).await.is(201));
        let auth = json!({ "methods": ["application_credential"], "application_credential": { "id": made, "secret": "s" } });
        (cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": auth } })).await.token, format!("{path}/{made}"))
    };
    let wanted = json!({ "tenant_id": people.project });
    let (restricted, _) = by("restricted", false).await;
    cloud.post(&restricted, &people.path(), wanted.clone()).await.fault(403);
    let (free, path) = by("free", true).await;
    let made = cloud.post(&free, &people.path(), wanted).await.is(201)["credential"].clone();
    cloud.delete(&restricted, &format!("{}/{}", people.path(), made["access"].as_str().unwrap())).await.fault(403);
    let (access, secret) = parts(&made);
    let got = cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await;
    assert_eq!(got.status, 200, "{}", got.body);
    let roles: Vec<_> = got.body["token"]["roles"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
    assert!(roles.contains(&"member") && !roles.contains(&"kept"), "{roles:?}");
    cloud.delete(&token, &path).await.is(204);
    cloud.post(&people.service, "/v3/ec2tokens", ec2(access, secret, now)).await.fault(401);
    cloud.validate(&people.admin, &got.token).await.fault(404);
}
