//! Web single sign-on: what browsers do between a dashboard, an identity provider and us.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::cloud::*;
use crate::openid::{Provider, Says, World};

const DASHBOARD: &str = "http://dash/auth/websso/?a=1&b='2'";
pub const ACME: &str = "/v3/auth/OS-FEDERATION/identity_providers/acme/protocols/openid/websso";

pub fn settings(config: &mut base::Config) {
    config.set("federation.url", "http://cloud/identity/v3");
    config.set("federation.trusted_dashboard", &format!("https://other/auth/websso/, {DASHBOARD}"));
}

/// A browser that was sent away: where to, with what, and what it keeps.
pub struct Sent {
    pub to: String,
    pub query: BTreeMap<String, String>,
    pub cookie: String,
}

pub async fn leave(cloud: &Cloud, path: &str) -> Sent {
    let away = cloud.get("", &format!("{path}?origin={}", http_api::query::encode(DASHBOARD))).await;
    assert_eq!(away.headers["cache-control"], "no-store");
    let header = |name: &str| away.headers[name].to_str().unwrap().to_string();
    let (location, cookie) = (header("location"), header("set-cookie"));
    let (to, query) = location.split_once('?').unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert!(attributes.contains("HttpOnly; SameSite=") && attributes.contains("Path=/identity/v3/auth/OS-FEDERATION/"), "{cookie}");
    let sent = Sent { to: to.into(), query: http_api::Query::parse(query).0.into_iter().collect(), cookie: pair.into() };
    assert_eq!(away.status, 302);
    sent
}

/// The token that a page takes to the dashboard.
#[track_caller]
pub fn carried(page: Answer) -> String {
    assert_eq!(page.headers["cache-control"], "no-store");
    let policy = page.headers["content-security-policy"].to_str().unwrap().to_string();
    assert!(
        policy.contains("default-src 'none'; script-src 'sha256-") && policy.contains("form-action http://dash; frame-ancestors 'none'"),
        "{policy}"
    );
    assert!(page.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let body = page.is(200);
    let document = body.as_str().unwrap();
    assert!(document.contains("action=\"http://dash/auth/websso/?a=1&amp;b=&#39;2&#39;\""), "{document}");
    let (_, rest) = document.split_once("name=\"token\" value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_string()
}

async fn come_back(cloud: &Cloud, query: &str, cookie: &str) -> Answer {
    cloud.send("GET", &format!("{ACME}?{query}"), &[("cookie", cookie)], Vec::new()).await
}

pub async fn a_browser_logs_in_at_an_openid_provider(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let (cloud, admin) = (&world.cloud, &world.admin);
    // The ID token says little, the user's document more.
    let answers = |claims: Value| {
        let mut id_token = provider.claims(claims);
        for name in ["groups", "email"] {
            id_token.as_object_mut().unwrap().remove(name);
        }
        let id_token = provider.sign(json!({ "alg": "EdDSA", "kid": "one" }), &id_token);
        provider.says("token", Says::Json(json!({ "access_token": "access", "token_type": "Bearer", "id_token": id_token })));
    };
    for path in [ACME, "/v3/auth/OS-FEDERATION/websso/openid"] {
        let sent = leave(cloud, path).await;
        assert_eq!(sent.to, format!("{}/authorize", provider.0.issuer));
        let asked = |name: &str| sent.query[name].as_str();
        assert_eq!((asked("response_type"), asked("client_id"), asked("scope")), ("code", "sturnus", "openid email profile"));
        assert_eq!(asked("redirect_uri"), format!("http://cloud/identity{ACME}"));
        assert_eq!(asked("code_challenge_method"), "S256");
        answers(json!({ "nonce": asked("nonce") }));
        let state = asked("state");
        let token = carried(
            come_back(cloud, &format!("code=c%2F1&state={state}&iss={}", provider.0.issuer), &format!("x=y; {}", sent.cookie)).await,
        );
        let body = cloud.validate(admin, &token).await.is(200)["token"].clone();
        assert_eq!((&body["user"]["name"], &body["methods"]), (&json!("bob"), &json!(["openid"])));
        assert_eq!(body["user"]["OS-FEDERATION"]["groups"].as_array().unwrap().len(), 1, "of the user's document");
        let (who, form) = provider.0.redeemed.lock().unwrap().pop().unwrap();
        assert!(who.starts_with("Basic "));
        let form: BTreeMap<String, String> = http_api::Query::parse(&form).0.into_iter().collect();
        assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "c/1"));
        assert_eq!(form["redirect_uri"], asked("redirect_uri"));
        assert_eq!(URL_SAFE_NO_PAD.encode(digest(&SHA256, form["code_verifier"].as_bytes())), asked("code_challenge"));
        // Nobody else's browser ends this login, nor does this one another.
        let other = leave(cloud, path).await;
        for (state, cookie) in
            [(state, ""), (state, other.cookie.as_str()), (other.query["state"].as_str(), sent.cookie.as_str()), ("", "")]
        {
            come_back(cloud, &format!("code=c&state={state}"), cookie).await.fault(401);
        }
        let renamed = format!("sturnus-sso-{}={}", other.query["state"], sent.cookie.split_once('=').unwrap().1);
        come_back(cloud, &format!("code=c&state={}", other.query["state"]), &renamed).await.fault(401);
    }

    // Where a token may be taken.
    assert!(cloud.get("", ACME).await.fault(400).contains("origin"));
    for origin in ["http://evil/", "http://dash/auth/websso/", "", "http://dash/auth/websso/?a=1%26b='2'x"] {
        for path in [ACME, "/v3/auth/OS-FEDERATION/websso/openid"] {
            let status = cloud.get("", &format!("{path}?origin={origin}")).await.status;
            assert_eq!(status, if origin.is_empty() { 400 } else { 401 }, "{origin}");
        }
    }
    let origin = http_api::query::encode(DASHBOARD);
    for path in ["/v3/auth/OS-FEDERATION/websso/none", "/v3/auth/OS-FEDERATION/identity_providers/none/protocols/openid/websso"] {
        cloud.get("", &format!("{path}?origin={origin}")).await.fault(401);
    }

    // Answers that are not believed.
    let refused = async |claims: Value, status: u16| {
        let sent = leave(cloud, ACME).await;
        let mut claims = claims;
        if claims.get("nonce").is_none() {
            claims["nonce"] = json!(sent.query["nonce"]);
        }
        answers(claims.clone());
        let back = come_back(cloud, &format!("code=c&state={}", sent.query["state"]), &sent.cookie).await;
        assert_eq!(back.status, status, "{claims}: {}", back.body);
    };
    refused(json!({}), 200).await;
    refused(json!({ "aud": ["sturnus"], "azp": "sturnus" }), 200).await;
    for claims in [
        json!({ "nonce": "other" }),
        json!({ "nonce": null }),
        json!({ "aud": "other" }),
        json!({ "aud": ["sturnus", "other"] }),
        json!({ "aud": ["sturnus", "other"], "azp": "other" }),
        json!({ "azp": "other" }),
        json!({ "iss": "http://other" }),
        json!({ "exp": 1 }),
        json!({ "sub": "eve" }),
    ] {
        refused(claims, 401).await;
    }
    let hostile = async |path: &'static str, says: Says, status: u16| {
        let sent = leave(cloud, ACME).await;
        answers(json!({ "nonce": sent.query["nonce"] }));
        provider.says(path, says);
        let back = come_back(cloud, &format!("code=c&state={}", sent.query["state"]), &sent.cookie).await;
        assert_eq!(back.status, status, "{path}: {}", back.body);
    };
    let none =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), URL_SAFE_NO_PAD.encode(provider.claims(json!({})).to_string()));
    hostile("token", Says::Json(json!({ "access_token": "access", "id_token": none })), 401).await;
    hostile("token", Says::Json(json!({ "access_token": "access" })), 401).await;
    hostile("token", Says::Json(json!([])), 401).await;
    hostile("token", Says::Status(400), 401).await;
    hostile("token", Says::Status(500), 503).await;
    hostile("token", Says::Much, 503).await;
    hostile("token", Says::Redirect(format!("{}/jwks", provider.0.issuer)), 503).await;
    for says in [Says::Json(json!("bob")), Says::Status(401), Says::Much, Says::Redirect(format!("{}/jwks", provider.0.issuer))] {
        hostile("userinfo", says, 503).await;
    }
    hostile("userinfo", Says::Json(json!({ "sub": "eve" })), 401).await;
    hostile("userinfo", Says::Json(json!({})), 401).await;
    provider.says("userinfo", Says::Json(json!({ "sub": "bob", "iss": "http://other", "exp": 1, "groups": ["staff"], "email": "e" })));
    refused(json!({}), 200).await;
    // Another provider's answer (mix-up, RFC 9207), and none at all.
    let sent = leave(cloud, ACME).await;
    let state = &sent.query["state"];
    for query in [format!("code=c&state={state}&iss=http://other"), format!("error=access_denied&state={state}"), format!("state={state}")]
    {
        come_back(cloud, &query, &sent.cookie).await.fault(401);
    }
    // Of several providers one is chosen.
    let file = cloud.home.path().join("federation.toml");
    let settings = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{settings}\n{}", settings.replace("'acme'", "'b&<c>'"))).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    let page = cloud.get("", &format!("/v3/auth/OS-FEDERATION/websso/openid?origin={origin}")).await;
    assert_eq!(page.headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
    let page = page.is(200).as_str().unwrap().to_string();
    for (name, shown) in [("acme", "acme"), ("b%26%3Cc%3E", "b&amp;&lt;c&gt;")] {
        let url = format!("http://cloud/identity{}?origin={origin}", ACME.replace("acme", name));
        assert!(page.contains(&format!("<li><a href=\"{url}\">{shown}</a></li>")), "{page}");
    }
    cloud.get("", "/v3/auth/OS-FEDERATION/websso/openid?origin=http://evil/").await.fault(401);
    let scripted = world.cloud.configured(|config| config.set("federation.trusted_dashboard", "https://dash, javascript:x()")).await;
    assert!(scripted.err().unwrap().chain().contains("'javascript:x()' is no URL of http or https"));
}
