//! OAuth 2.0: application credentials as clients.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::cloud::*;

const PATH: &str = "/v3/OS-OAUTH2/token";
const GRANT: &str = "grant_type=client_credentials";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// A member of a project and an application credential of it with the role `reader` alone.
struct Client {
    admin: String,
    user: String,
    project: String,
    id: String,
    secret: String,
}

impl Client {
    async fn of(cloud: &Cloud) -> Client {
        let admin = cloud.admin().await;
        let (project, user) = (cloud.project(&admin, "p", None).await, cloud.user(&admin, "owner").await);
        let member = cloud.role(&admin, "member").await;
        cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{member}")).await.is(204);
        let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;
        let wanted = json!({ "application_credential": { "name": "client", "secret": "sec:r+e%t", "roles": [{ "name": "reader" }] } });
        let made = id(&cloud.post(&token, &format!("/v3/users/{user}/application_credentials"), wanted).await.is(201));
        Client { admin, user, project, id: made, secret: "sec:r+e%t".into() }
    }

    async fn ask(&self, cloud: &Cloud) -> Answer {
        by_header(cloud, &self.id, &self.secret, GRANT).await
    }
}

async fn by_header(cloud: &Cloud, id: &str, secret: &str, body: &str) -> Answer {
    let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    cloud.send("POST", PATH, &[FORM, ("authorization", &basic)], body.into()).await
}

/// Refused in OAuth's form, with what goes with that.
#[track_caller]
fn refused(answer: Answer, status: u16, error: &str) -> String {
    assert_eq!((answer.status, &answer.body["error"]), (status, &json!(error)), "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let asks = answer.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
    assert_eq!(asks, (status == 401).then_some("Keystone uri=\"http://cloud/v3\""));
    assert_eq!(answer.body.as_object().unwrap().len(), 2);
    answer.body["error_description"].as_str().unwrap().to_string()
}

pub async fn a_credential_is_a_client(cloud: Cloud) {
    let client = Client::of(&cloud).await;
    let answer = client.ask(&cloud).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["pragma"], "no-cache");
    let body = answer.is(200);
    let seconds = body["expires_in"].as_u64().unwrap();
    assert!((3590..=3600).contains(&seconds), "{seconds}");
    assert_eq!((&body["token_type"], body.as_object().unwrap().len()), (&json!("Bearer"), 3));
    let token = body["access_token"].as_str().unwrap();
    let shown = cloud.validate(&client.admin, token).await.is(200)["token"].clone();
    assert_eq!(shown["methods"], json!(["application_credential"]));
    assert_eq!((&shown["user"]["id"], &shown["project"]["id"]), (&json!(client.user), &json!(client.project)));
    assert_eq!(shown["application_credential"]["id"], json!(client.id));
    assert_eq!(shown["roles"].as_array().unwrap().iter().map(|role| &role["name"]).collect::<Vec<_>>(), ["reader"]);
    // It is as good as any token of the credential, and no better: it makes no credential, and reaches no other project.
    cloud.get(token, "/v3/auth/projects").await.is(200);
    let more = json!({ "application_credential": { "name": "more" } });
    cloud.post(token, &format!("/v3/users/{}/application_credentials", client.user), more).await.fault(403);
    let member = cloud.role(&client.admin, "member").await;
    let other = cloud.project(&client.admin, "q", None).await;
    cloud.put(&client.admin, &format!("/v3/projects/{other}/users/{}/roles/{member}", client.user)).await.is(204);
    let identity = json!({ "methods": ["token"], "token": { "id": token } });
    cloud.post("", "/v3/auth/tokens", json!({ "auth": { "identity": identity, "scope": on_project(&other) } })).await.fault(401);
    // The API takes tokens in `X-Auth-Token` alone.
    let bearer = format!("Bearer {token}");
    cloud.send("GET", "/v3/auth/projects", &[("authorization", &bearer)], Vec::new()).await.fault(401);

    // The form may name the client; the header counts when both do.
    let form = format!("{GRANT}&client_id={}&client_secret=sec%3Ar%2Be%25t", client.id);
    cloud.send("POST", PATH, &[FORM], form.clone().into()).await.is(200);
    by_header(&cloud, &client.id, &client.secret, &format!("{GRANT}&client_id=x&client_secret=y")).await.is(200);
    refused(by_header(&cloud, "x", "y", &form).await, 401, "invalid_client");

    // With the credential its tokens are gone.
    cloud.delete(&client.admin, &format!("/v3/users/{}/application_credentials/{}", client.user, client.id)).await.is(204);
    cloud.validate(&client.admin, token).await.fault(404);
    refused(client.ask(&cloud).await, 401, "invalid_client");
}

pub async fn what_is_wrong_is_told_in_oauths_words(cloud: Cloud) {
    let client = Client::of(&cloud).await;
    let with = async |body: &str| by_header(&cloud, &client.id, &client.secret, body).await;
    assert_eq!(refused(with("").await, 400, "invalid_request"), "The parameter grant_type is required.");
    refused(with("grant_type=client_credentials&grant_type=password").await, 400, "invalid_request");
    assert_eq!(
        refused(with("grant_type=password").await, 400, "unsupported_grant_type"),
        "The parameter grant_type password is not supported."
    );
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", client.id, client.secret)));
    let json = [("content-type", "application/json"), ("authorization", basic.as_str())];
    refused(cloud.send("POST", PATH, &json, br#"{"grant_type":"client_credentials"}"#.to_vec()).await, 400, "invalid_request");
    // Whichever half of a client is wrong, nobody hears which.
    let mut told = Vec::new();
    for (id, secret) in [
        (client.id.as_str(), "wrong"),
        ("nobody", "wrong"),
        ("a\0", "wrong"),
        (&client.user, PASSWORD),
        ("", &client.secret),
        (&client.id, ""),
    ] {
        told.push(refused(by_header(&cloud, id, secret, GRANT).await, 401, "invalid_client"));
    }
    assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
    for header in ["Basic", "Basic x", "Digest username=\"u\"", "Bearer x"] {
        refused(cloud.send("POST", PATH, &[FORM, ("authorization", header)], GRANT.into()).await, 401, "invalid_client");
    }
    refused(cloud.send("POST", PATH, &[FORM], GRANT.into()).await, 401, "invalid_client");
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        assert_eq!(cloud.send(method, PATH, &[FORM, ("authorization", &basic)], GRANT.into()).await.status, 405, "{method}");
    }
    // Who has to show more than one thing gets nothing by one, and no receipt either.
    let rules = json!({ "user": { "options": { "multi_factor_auth_rules": [["password", "totp"]] } } });
    cloud.patch(&client.admin, &format!("/v3/users/{}", client.user), rules).await.is(200);
    let answer = client.ask(&cloud).await;
    assert!(!answer.headers.contains_key("openstack-auth-receipt"));
    refused(answer, 401, "invalid_client");
    let none = json!({ "user": { "options": { "multi_factor_auth_rules": null }, "enabled": false } });
    cloud.patch(&client.admin, &format!("/v3/users/{}", client.user), none).await.is(200);
    refused(client.ask(&cloud).await, 401, "invalid_client");
}

pub async fn who_guesses_secrets_is_slowed_down(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("password.attempts_per_minute", "3")).await.unwrap();
    let client = Client::of(&cloud).await;
    for _ in 0..3 {
        refused(by_header(&cloud, &client.id, "wrong", GRANT).await, 401, "invalid_client");
        refused(by_header(&cloud, "nobody", "wrong", GRANT).await, 401, "invalid_client");
    }
    // Not even the right one is answered, by neither door.
    let told = refused(client.ask(&cloud).await, 429, "other_error");
    assert_eq!(told, refused(by_header(&cloud, "nobody", "wrong", GRANT).await, 429, "other_error"));
    let identity = |secret: &str| {
        let given = json!({ "id": client.id, "secret": secret });
        json!({ "auth": { "identity": { "methods": ["application_credential"], "application_credential": given } } })
    };
    cloud.post("", "/v3/auth/tokens", identity(&client.secret)).await.fault(429);
    // The owner goes on by password.
    cloud.login(user_by_id(&client.user), Value::Null).await.is(201);
}
