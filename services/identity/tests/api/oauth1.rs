//! OAuth 1.0a: consumers, and what users let them do.

use std::sync::atomic::{AtomicU64, Ordering};

use base::Timestamp;
use base64::Engine;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::cloud::*;

const CONSUMERS: &str = "/v3/OS-OAUTH1/consumers";
const REQUEST: &str = "/v3/OS-OAUTH1/request_token";
const ACCESS: &str = "/v3/OS-OAUTH1/access_token";
const TOKENS: &str = "/v3/auth/tokens";

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A key and its secret.
#[derive(Clone, Default)]
struct Key(String, String);

/// The header of a POST to `path` by the consumer, with the secret of a token.
fn header(path: &str, consumer: &Key, token: &Key, more: &[(&str, &str)]) -> String {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let nonce = NONCE.fetch_add(1, Ordering::Relaxed).to_string();
    let now = (Timestamp::now().micros() / 1_000_000).to_string();
    let mut fields = std::collections::BTreeMap::from([
        ("oauth_consumer_key", consumer.0.as_str()),
        ("oauth_nonce", nonce.as_str()),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", now.as_str()),
        ("oauth_version", "1.0"),
    ]);
    if !token.0.is_empty() {
        fields.insert("oauth_token", &token.0);
    }
    fields.extend(more.iter().copied());
    let params: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    let base = format!("POST&{}&{}", escape(&format!("http://cloud{path}")), escape(&params.join("&")));
    let mut mac = <Hmac<Sha1> as Mac>::new_from_slice(format!("{}&{}", consumer.1, token.1).as_bytes()).unwrap();
    mac.update(base.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("OAuth realm=\"\", {}, oauth_signature=\"{}\"", fields.join(", "), escape(&signature))
}

async fn send(cloud: &Cloud, path: &str, header: &str, project: &str) -> (u16, String) {
    let mut request = hyper::Request::builder().method("POST").uri(path).header("host", "cloud").header("authorization", header);
    if !project.is_empty() {
        request = request.header("requested-project-id", project);
    }
    let response = cloud.app.handle(request.body(axum::body::Body::empty()).unwrap(), &http_api::Peer::default()).await;
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[track_caller]
fn key(answer: (u16, String)) -> Key {
    assert_eq!(answer.0, 201, "{}", answer.1);
    let part = |name: &str| answer.1.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap().to_string();
    assert!(Timestamp::parse(&part("oauth_expires_at")).unwrap() > Timestamp::now());
    Key(part("oauth_token"), part("oauth_token_secret"))
}

async fn login(cloud: &Cloud, header: &str) -> Answer {
    let body = json!({ "auth": { "identity": { "methods": ["oauth1"], "oauth1": {} } } });
    cloud.send("POST", TOKENS, &[("authorization", header)], body.to_string().into_bytes()).await
}

/// An administrator of a project, who may authorize, and a consumer.
struct World {
    admin: String,
    project: String,
    user: String,
    token: String,
    consumer: Key,
}

impl World {
    async fn of(cloud: &Cloud) -> World {
        let admin = cloud.admin().await;
        let (project, user) = (cloud.project(&admin, "p", None).await, cloud.user(&admin, "u").await);
        for role in ["admin", "member"] {
            let role = cloud.role(&admin, role).await;
            cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{role}")).await.is(204);
        }
        let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        let made = cloud.post(&admin, CONSUMERS, json!({ "consumer": { "description": "a program" } })).await.is(201)["consumer"].clone();
        let consumer = Key(made["id"].as_str().unwrap().into(), made["secret"].as_str().unwrap().into());
        World { admin, project, user, token, consumer }
    }

    async fn request(&self, cloud: &Cloud) -> Key {
        key(send(cloud, REQUEST, &header(REQUEST, &self.consumer, &Key::default(), &[("oauth_callback", "oob")]), &self.project).await)
    }

    async fn authorize(&self, cloud: &Cloud, request: &Key, role: &str) -> String {
        let body = json!({ "roles": [{ "name": role }] });
        let path = format!("/v3/OS-OAUTH1/authorize/{}", request.0);
        let answer = cloud.ask(&self.token, "PUT", &path, body).await.is(200);
        answer["token"]["oauth_verifier"].as_str().unwrap().to_string()
    }

    async fn access(&self, cloud: &Cloud) -> Key {
        let request = self.request(cloud).await;
        let verifier = self.authorize(cloud, &request, "member").await;
        key(send(cloud, ACCESS, &header(ACCESS, &self.consumer, &request, &[("oauth_verifier", &verifier)]), "").await)
    }

    fn path(&self) -> String {
        format!("/v3/users/{}/OS-OAUTH1/access_tokens", self.user)
    }
}

pub async fn consumers_are_made_listed_and_deleted(cloud: Cloud) {
    let admin = cloud.admin().await;
    let body = json!({ "consumer": { "description": "a program", "more": 1 } });
    let made = cloud.post(&admin, CONSUMERS, body).await.is(201)["consumer"].clone();
    let own = format!("{CONSUMERS}/{}", made["id"].as_str().unwrap());
    let mut shown = made.clone();
    assert_eq!(shown.as_object_mut().unwrap().remove("secret").unwrap().as_str().unwrap().len(), 32);
    let links = json!({ "self": format!("http://cloud{own}") });
    assert_eq!(shown, json!({ "id": made["id"], "description": "a program", "more": 1, "links": links }));
    assert_eq!(cloud.get(&admin, &own).await.is(200)["consumer"], shown);
    assert_eq!(cloud.get(&admin, CONSUMERS).await.is(200)["consumers"], json!([shown]));
    cloud.post(&admin, CONSUMERS, json!({ "consumer": {} })).await.is(201);
    assert_eq!(cloud.get(&admin, &format!("{CONSUMERS}?limit=1")).await.is(200)["consumers"].as_array().unwrap().len(), 1);
    for bad in [json!({}), json!({ "consumer": { "secret": "s" } }), json!({ "consumer": { "description": 1 } }), json!({ "consumer": [] })]
    {
        cloud.post(&admin, CONSUMERS, bad.clone()).await.fault(400);
        cloud.patch(&admin, &own, bad).await.fault(400);
    }
    cloud.patch(&admin, &own, json!({ "consumer": {} })).await.fault(400);
    cloud.patch(&admin, &own, json!({ "consumer": { "id": "other" } })).await.fault(400);
    let changed = cloud.patch(&admin, &own, json!({ "consumer": { "description": null, "more": 2 } })).await.is(200);
    assert_eq!(changed["consumer"], json!({ "id": made["id"], "description": null, "more": 2, "links": links }));
    // Nothing secret lies in the database.
    let sealed = cloud.store.read(|tx| tx.query("SELECT sealed FROM oauth1_consumer", &[], |row| row.text(0))).await.unwrap();
    assert!(sealed.iter().all(|text| !text.contains(made["secret"].as_str().unwrap())));
    let auditor = cloud.user(&admin, "auditor").await;
    let reader = cloud.role(&admin, "reader").await;
    cloud.put(&admin, &format!("/v3/system/users/{auditor}/roles/{reader}")).await.is(204);
    let token = cloud.login(user_by_id(&auditor), on_system()).await.token;
    cloud.get(&token, CONSUMERS).await.is(200);
    cloud.get(&token, &own).await.is(200);
    cloud.post(&token, CONSUMERS, json!({ "consumer": {} })).await.fault(403);
    cloud.patch(&token, &own, json!({ "consumer": { "more": 3 } })).await.fault(403);
    cloud.delete(&token, &own).await.fault(403);
    cloud.delete(&admin, &own).await.is(204);
    for method in ["GET", "DELETE"] {
        cloud.ask(&admin, method, &own, Value::Null).await.fault(404);
    }
    cloud.patch(&admin, &own, json!({ "consumer": { "more": 3 } })).await.fault(404);
}

pub async fn a_consumer_acts_with_what_it_was_let(cloud: Cloud) {
    let world = World::of(&cloud).await;
    let request = world.request(&cloud).await;
    let verifier = world.authorize(&cloud, &request, "member").await;
    assert!(verifier.len() == 8 && verifier.bytes().all(|b| b.is_ascii_alphanumeric()));
    let exchange = header(ACCESS, &world.consumer, &request, &[("oauth_verifier", &verifier)]);
    let access = key(send(&cloud, ACCESS, &exchange, "").await);
    // A request token is used once.
    assert_eq!(send(&cloud, ACCESS, &exchange, "").await.0, 401);
    let again = header(ACCESS, &world.consumer, &request, &[("oauth_verifier", &verifier)]);
    assert_eq!(send(&cloud, ACCESS, &again, "").await.0, 401);

    let sign = || header(TOKENS, &world.consumer, &access, &[]);
    let signed = sign();
    let got = login(&cloud, &signed).await;
    assert_eq!(got.status, 201, "{}", got.body);
    let token = &got.body["token"];
    assert_eq!((&token["user"]["id"], &token["project"]["id"]), (&json!(world.user), &json!(world.project)));
    assert_eq!(token["methods"], json!(["oauth1"]));
    assert_eq!(token["OS-OAUTH1"], json!({ "access_token_id": access.0, "consumer_id": world.consumer.0 }));
    let mut roles: Vec<_> = token["roles"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
    roles.sort();
    assert_eq!(roles, ["member", "reader"], "admin was not given");
    assert_eq!(cloud.validate(&world.admin, &got.token).await.is(200), got.body);
    // A signature counts once.
    login(&cloud, &signed).await.fault(401);
    login(&cloud, &sign()).await.is(201);

    // It leads no further (cf. CVE-2020-12691): to no other token, no other scope, no other grant.
    let scope = json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": got.token } } } });
    cloud.post("", TOKENS, scope).await.fault(403);
    let elsewhere = cloud.project(&world.admin, "elsewhere", None).await;
    let body = json!({ "auth": { "identity": { "methods": ["oauth1"], "oauth1": {} }, "scope": on_project(&elsewhere) } });
    cloud.send("POST", TOKENS, &[("authorization", &sign())], body.to_string().into_bytes()).await.fault(401);
    cloud.get(&got.token, &world.path()).await.fault(403);
    let other = world.request(&cloud).await;
    cloud
        .ask(&got.token, "PUT", &format!("/v3/OS-OAUTH1/authorize/{}", other.0), json!({ "roles": [{ "name": "member" }] }))
        .await
        .fault(403);

    // An EC2 credential that it makes gives no more, and no longer.
    let keys = format!("/v3/users/{}/credentials/OS-EC2", world.user);
    cloud.post(&got.token, &keys, json!({ "tenant_id": elsewhere })).await.fault(403);
    let made = cloud.post(&got.token, &keys, json!({ "tenant_id": world.project })).await.is(201)["credential"].clone();
    let (name, secret) = (made["access"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let signed = || crate::ec2::ec2(name, secret, Timestamp::now());
    let by_key = cloud.post(&world.admin, "/v3/ec2tokens", signed()).await.is(200);
    assert_eq!(by_key["token"]["OS-OAUTH1"], token["OS-OAUTH1"]);
    assert_eq!(by_key["token"]["roles"], token["roles"]);

    // What it was let is seen, and can be taken back.
    let (path, own) = (world.path(), format!("{}/{}", world.path(), access.0));
    let shown = cloud.get(&world.token, &own).await.is(200)["access_token"].clone();
    assert_eq!((&shown["consumer_id"], &shown["authorizing_user_id"]), (&json!(world.consumer.0), &json!(world.user)));
    assert_eq!(shown["links"], json!({ "self": format!("http://cloud{own}"), "roles": format!("http://cloud{own}/roles") }));
    assert!(shown.get("access_secret").is_none() && shown.get("role_ids").is_none());
    assert_eq!(cloud.get(&world.token, &path).await.is(200)["access_tokens"], json!([shown]));
    let member = cloud.role(&world.admin, "member").await;
    assert_eq!(cloud.get(&world.token, &format!("{own}/roles")).await.is(200)["roles"][0]["id"], json!(member));
    assert_eq!(cloud.get(&world.token, &format!("{own}/roles/{member}")).await.is(200)["role"]["name"], "member");
    let top = cloud.role(&world.admin, "admin").await;
    cloud.get(&world.token, &format!("{own}/roles/{top}")).await.fault(404);
    let stranger = cloud.user(&world.admin, "stranger").await;
    cloud.get(&world.token, &format!("/v3/users/{stranger}/OS-OAUTH1/access_tokens/{}", access.0)).await.fault(404);
    cloud.delete(&world.token, &format!("/v3/users/{stranger}/OS-OAUTH1/access_tokens/{}", access.0)).await.fault(404);
    cloud.put(&world.admin, &format!("/v3/projects/{}/users/{stranger}/roles/{member}", world.project)).await.is(204);
    let theirs = cloud.login(user_by_id(&stranger), on_project(&world.project)).await.token;
    for path in [&path, &own, &format!("{own}/roles"), &format!("{own}/roles/{member}"), &CONSUMERS.to_string()] {
        cloud.get(&theirs, path).await.fault(403);
    }
    cloud.delete(&theirs, &own).await.fault(403);
    cloud.ask(&theirs, "PUT", &format!("/v3/OS-OAUTH1/authorize/{}", other.0), json!({ "roles": [{ "name": "member" }] })).await.fault(403);

    // It holds as long as the user has the roles.
    let grant = format!("/v3/projects/{}/users/{}/roles/", world.project, world.user);
    let reader = cloud.role(&world.admin, "reader").await;
    cloud.put(&world.admin, &format!("{grant}{reader}")).await.is(204);
    for role in [&member, &top] {
        cloud.delete(&world.admin, &format!("{grant}{role}")).await.is(204);
    }
    cloud.validate(&world.admin, &got.token).await.fault(404);
    login(&cloud, &sign()).await.fault(401);
    for role in [&member, &top] {
        cloud.put(&world.admin, &format!("{grant}{role}")).await.is(204);
    }
    cloud.validate(&world.admin, &got.token).await.is(200);
    let owner = cloud.login(user_by_id(&world.user), on_project(&world.project)).await.token;
    cloud.delete(&owner, &own).await.is(204);
    cloud.delete(&owner, &own).await.fault(404);
    cloud.validate(&world.admin, &got.token).await.fault(404);
    login(&cloud, &sign()).await.fault(401);
    cloud.post(&world.admin, "/v3/ec2tokens", signed()).await.fault(401);
    // All goes with the consumer, and with the user.
    let access = world.access(&cloud).await;
    let token = login(&cloud, &header(TOKENS, &world.consumer, &access, &[])).await.token;
    cloud.delete(&world.admin, &format!("{CONSUMERS}/{}", world.consumer.0)).await.is(204);
    cloud.validate(&world.admin, &token).await.fault(404);
    assert_eq!(cloud.get(&owner, &world.path()).await.is(200)["access_tokens"], json!([]));
}

pub async fn what_is_signed_wrongly_gives_nothing(cloud: Cloud) {
    let world = World::of(&cloud).await;
    let none = Key::default();
    let oob: &[(&str, &str)] = &[("oauth_callback", "oob")];
    let good = || header(REQUEST, &world.consumer, &none, oob);
    let wrong = Key(world.consumer.0.clone(), "wrong".into());
    let stranger = Key("0".repeat(32), world.consumer.1.clone());
    let signed = good();
    assert_eq!(send(&cloud, REQUEST, &signed, &world.project).await.0, 201);
    for (header, project, status) in [
        (signed, world.project.as_str(), 401),
        (good(), "", 400),
        (good(), "none", 404),
        ("Basic x".into(), &world.project, 400),
        ("OAuth oauth_consumer_key=\"\"".into(), &world.project, 400),
        (header(REQUEST, &wrong, &none, oob), &world.project, 401),
        (header(REQUEST, &stranger, &none, oob), &world.project, 404),
        (header(ACCESS, &world.consumer, &none, oob), &world.project, 401),
        (header(REQUEST, &world.consumer, &none, &[("oauth_timestamp", "1")]), &world.project, 401),
        (header(REQUEST, &world.consumer, &none, &[("oauth_timestamp", "soon")]), &world.project, 400),
        (header(REQUEST, &world.consumer, &none, &[("oauth_signature_method", "PLAINTEXT")]), &world.project, 401),
    ] {
        let answer = send(&cloud, REQUEST, &header, project).await;
        assert_eq!(answer.0, status, "{header} {project}: {}", answer.1);
    }
    let request = world.request(&cloud).await;
    let path = format!("/v3/OS-OAUTH1/authorize/{}", request.0);
    let ask = async |roles: Value| cloud.ask(&world.token, "PUT", &path, json!({ "roles": roles })).await.status;
    assert_eq!(ask(json!("member")).await, 400);
    assert_eq!(ask(json!([{ "id": "a", "name": "b" }])).await, 400);
    assert_eq!(ask(json!([{ "name": "service" }])).await, 401, "the user does not have it");
    assert_eq!(ask(json!([{ "name": "nothing" }])).await, 404);
    cloud.ask(&world.token, "PUT", "/v3/OS-OAUTH1/authorize/none", json!({ "roles": [] })).await.fault(404);
    // Not authorized yet.
    let early = header(ACCESS, &world.consumer, &request, &[("oauth_verifier", "abcdefgh")]);
    assert_eq!(send(&cloud, ACCESS, &early, "").await.0, 401);
    let verifier = world.authorize(&cloud, &request, "member").await;
    let word: &[(&str, &str)] = &[("oauth_verifier", &verifier)];
    let made = cloud.post(&world.admin, CONSUMERS, json!({ "consumer": {} })).await.is(201)["consumer"].clone();
    let second = Key(made["id"].as_str().unwrap().into(), made["secret"].as_str().unwrap().into());
    let forged = Key(request.0.clone(), "wrong".into());
    for (header, status) in [
        (header(ACCESS, &world.consumer, &request, &[("oauth_verifier", "abcdefgh")]), 401),
        (header(ACCESS, &world.consumer, &request, &[]), 400),
        (header(ACCESS, &world.consumer, &none, word), 400),
        (header(ACCESS, &second, &request, word), 401),
        (header(ACCESS, &world.consumer, &forged, word), 401),
        (header(ACCESS, &world.consumer, &Key("none".into(), String::new()), word), 401),
    ] {
        assert_eq!(send(&cloud, ACCESS, &header, "").await.0, status, "{header}");
    }
    let access = key(send(&cloud, ACCESS, &header(ACCESS, &world.consumer, &request, word), "").await);
    for header in [
        header(TOKENS, &world.consumer, &Key(access.0.clone(), "wrong".into()), &[]),
        header(TOKENS, &second, &access, &[]),
        header(ACCESS, &world.consumer, &access, &[]),
        header(TOKENS, &world.consumer, &request, &[]),
    ] {
        login(&cloud, &header).await.fault(401);
    }
    login(&cloud, "OAuth x").await.fault(400);
    let body = json!({ "auth": { "identity": { "methods": ["oauth1"], "oauth1": {} } } });
    cloud.post("", TOKENS, body).await.fault(400);
}
