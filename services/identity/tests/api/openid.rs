//! Users of OpenID providers, who may be hostile.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::cloud::*;

/// A provider that says what it is told to.
#[derive(Clone)]
pub struct Provider(pub Arc<Inner>);

pub struct Inner {
    pub issuer: String,
    key: Mutex<(String, Ed25519KeyPair)>,
    /// What it answers instead of its own, by path.
    says: Mutex<Vec<(&'static str, Says)>>,
    /// How often it was asked to describe itself.
    described: Mutex<u32>,
    /// How often its keys were fetched.
    fetched: Mutex<u32>,
    /// What is asked about tokens that only it can read.
    introspected: Mutex<Vec<(String, String)>>,
    /// What it is sent to get tokens.
    pub redeemed: Mutex<Vec<(String, String)>>,
}

#[derive(Clone)]
pub enum Says {
    Json(Value),
    Status(u16),
    Redirect(String),
    Text(String),
    Much,
    Nothing,
    /// A little, again and again.
    Drip,
}

impl Says {
    async fn answer(self) -> Response {
        match self {
            Says::Json(value) => value.to_string().into_response(),
            Says::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
            Says::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
            Says::Text(text) => text.into_response(),
            Says::Drip => {
                let drop = |()| async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Some((Ok::<_, std::convert::Infallible>(" "), ()))
                };
                axum::body::Body::from_stream(futures_util::stream::unfold((), drop)).into_response()
            }
            Says::Much => format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20)).into_response(),
            Says::Nothing => std::future::pending().await,
        }
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn key() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn now() -> i64 {
    base::Timestamp::now().micros() / 1_000_000
}

impl Provider {
    pub async fn start() -> Provider {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let provider = Provider(Arc::new(Inner {
            issuer,
            key: Mutex::new(("one".into(), key())),
            says: Mutex::default(),
            described: Mutex::default(),
            fetched: Mutex::default(),
            introspected: Mutex::default(),
            redeemed: Mutex::default(),
        }));
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/introspect", post(introspect))
            .route("/token", post(redeem))
            .route("/userinfo", get(userinfo))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        provider
    }

    pub fn says(&self, path: &'static str, what: Says) {
        let mut says = self.0.says.lock().unwrap();
        says.retain(|(other, _)| *other != path);
        says.push((path, what));
    }
    fn said(&self, path: &str) -> Option<Says> {
        self.0.says.lock().unwrap().iter().find(|(other, _)| *other == path).map(|(_, says)| says.clone())
    }
    fn fetched(&self) -> u32 {
        *self.0.fetched.lock().unwrap()
    }

    pub fn claims(&self, more: Value) -> Value {
        let mut claims =
            json!({ "iss": self.0.issuer, "aud": "sturnus", "sub": "bob", "exp": now() + 600, "groups": ["staff"], "email": "bob@acme" });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }
    pub fn sign(&self, header: Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let sign = self.0.key.lock().unwrap().1.sign(message.as_bytes());
        format!("{message}.{}", b64(sign))
    }
    pub fn token(&self, more: Value) -> String {
        let id = self.0.key.lock().unwrap().0.clone();
        self.sign(json!({ "alg": "EdDSA", "kid": id }), &self.claims(more))
    }
}

async fn discovery(State(provider): State<Provider>) -> Response {
    *provider.0.described.lock().unwrap() += 1;
    let issuer = &provider.0.issuer;
    let own = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "introspection_endpoint": format!("{issuer}/introspect"),
        "authorization_endpoint": format!("{issuer}/authorize"), "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo") });
    provider.said("discovery").unwrap_or(Says::Json(own)).answer().await
}

async fn jwks(State(provider): State<Provider>) -> Response {
    *provider.0.fetched.lock().unwrap() += 1;
    let own = {
        let key = provider.0.key.lock().unwrap();
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": key.0, "use": "sig", "x": b64(key.1.public_key()) }] })
    };
    provider.said("jwks").unwrap_or(Says::Json(own)).answer().await
}

async fn introspect(State(provider): State<Provider>, headers: HeaderMap, body: String) -> Response {
    let who = headers["authorization"].to_str().unwrap().to_string();
    provider.0.introspected.lock().unwrap().push((who, body));
    provider.said("introspect").unwrap_or(Says::Json(json!({ "active": false }))).answer().await
}

async fn redeem(State(provider): State<Provider>, headers: HeaderMap, body: String) -> Response {
    let who = headers["authorization"].to_str().unwrap().to_string();
    provider.0.redeemed.lock().unwrap().push((who, body));
    provider.said("token").unwrap_or(Says::Status(400)).answer().await
}

async fn userinfo(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    if headers["authorization"] != "Bearer access" {
        return Says::Status(401).answer().await;
    }
    provider.said("userinfo").unwrap_or(Says::Json(json!({ "sub": "bob", "groups": ["staff"], "email": "bob@acme" }))).answer().await
}

const AUTH: &str = "/v3/OS-FEDERATION/identity_providers/acme/protocols/openid/auth";

/// A cloud that believes the provider; its group `staff` has a role on a project.
pub struct World {
    pub cloud: Cloud,
    pub admin: String,
    project: String,
    group: String,
}

fn rules() -> Value {
    json!([{
        "local": [{ "user": { "name": "{0}", "email": "{1}" } }, { "groups": "{2}", "domain": { "id": "default" } }],
        "remote": [{ "type": "OIDC-sub" }, { "type": "OIDC-email" }, { "type": "OIDC-groups" }]
    }])
}

impl World {
    pub async fn of(cloud: Cloud, provider: &Provider) -> World {
        let text = format!(
            "[[oidc]]\nidentity_provider = 'acme'\nprotocol = 'openid'\nissuer = '{}'\nclient_id = 'sturnus'\nclient_secret = 's:e%'\n",
            provider.0.issuer
        );
        std::fs::write(cloud.home.path().join("federation.toml"), text).unwrap();
        let cloud = cloud.configured(crate::websso::settings).await.unwrap();
        let admin = cloud.admin().await;
        let project = cloud.project(&admin, "p", None).await;
        let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "staff" } })).await.is(201));
        let member = cloud.role(&admin, "member").await;
        cloud.put(&admin, &format!("/v3/projects/{project}/groups/{group}/roles/{member}")).await.is(204);
        let world = World { cloud, admin, project, group };
        let idp = json!({ "identity_provider": { "enabled": true, "remote_ids": [provider.0.issuer] } });
        world.make("identity_providers/acme", idp).await;
        world.make("mappings/m", json!({ "mapping": { "rules": rules() } })).await;
        world.make("identity_providers/acme/protocols/openid", json!({ "protocol": { "mapping_id": "m" } })).await;
        world
    }

    async fn make(&self, path: &str, body: Value) {
        self.cloud.ask(&self.admin, "PUT", &format!("/v3/OS-FEDERATION/{path}"), body).await.is(201);
    }
    async fn change(&self, path: &str, body: Value) {
        self.cloud.patch(&self.admin, &format!("/v3/OS-FEDERATION/{path}"), body).await.is(200);
    }
    async fn rules(&self, rules: Value, version: &str) {
        self.change("mappings/m", json!({ "mapping": { "rules": rules, "schema_version": version } })).await;
    }
    async fn enter(&self, token: &str) -> Answer {
        let header = format!("Bearer {token}");
        self.cloud.send("POST", AUTH, &[("authorization", &header)], Vec::new()).await
    }
    async fn rescope(&self, token: &str, scope: Value) -> Answer {
        let auth = json!({ "identity": { "methods": ["token"], "token": { "id": token } }, "scope": scope });
        self.cloud.post("", "/v3/auth/tokens", json!({ "auth": auth })).await
    }
}

pub async fn a_user_of_a_provider_comes_in(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let cloud = &world.cloud;
    let entered = world.enter(&provider.token(json!({}))).await;
    let token = entered.token.clone();
    let body = entered.is(201)["token"].clone();
    let idp = cloud.get(&world.admin, "/v3/OS-FEDERATION/identity_providers/acme").await.is(200)["identity_provider"].clone();
    assert_eq!(body["methods"], json!(["openid"]));
    assert_eq!(body["user"]["name"], "bob");
    assert_eq!(body["user"]["domain"]["id"], idp["domain_id"]);
    let said = json!({ "groups": [{ "id": world.group }], "identity_provider": { "id": "acme" }, "protocol": { "id": "openid" } });
    assert_eq!(body["user"]["OS-FEDERATION"], said);
    assert_eq!(body["user"].get("password_expires_at"), None);
    assert_eq!(body.get("project"), None);
    // The id is the one that upstream makes of domain and name.
    let user = body["user"]["id"].as_str().unwrap().to_string();
    assert_eq!(user.len(), 64);

    // The other ways to say the same.
    for (method, path) in [("GET", AUTH), ("POST", AUTH)] {
        let header = format!("bearer {}", provider.token(json!({})));
        let again = cloud.send(method, path, &[("authorization", &header)], Vec::new()).await.is(201);
        assert_eq!(again["token"]["user"]["id"], json!(user));
    }
    for method in ["mapped", "openid"] {
        let said = json!({ "identity_provider": "acme", "protocol": "openid" });
        let auth = json!({ "auth": { "identity": { "methods": [method], method: said }, "scope": on_project(&world.project) } });
        let header = format!("Bearer {}", provider.token(json!({})));
        let direct = cloud.send("POST", "/v3/auth/tokens", &[("authorization", &header)], auth.to_string().into_bytes()).await.is(201);
        assert_eq!(direct["token"]["project"]["id"], json!(world.project));
        cloud.post("", "/v3/auth/tokens", auth).await.fault(401);
    }

    // On to a scope: where, and what it is there.
    let projects = cloud.get(&token, "/v3/OS-FEDERATION/projects").await.is(200);
    assert_eq!(projects["projects"][0]["id"], json!(world.project));
    assert_eq!(projects, {
        let mut same = cloud.get(&token, "/v3/auth/projects").await.is(200);
        same["links"] = projects["links"].clone();
        same
    });
    let scoped = world.rescope(&token, on_project(&world.project)).await;
    let scoped_token = scoped.token.clone();
    let scoped = scoped.is(201)["token"].clone();
    assert_eq!(scoped["methods"], json!(["token", "openid"]));
    assert_eq!(scoped["user"]["OS-FEDERATION"], said);
    assert_eq!(scoped["roles"].as_array().unwrap().iter().filter(|role| role["name"] == "member").count(), 1);
    assert_eq!(scoped["expires_at"], body["expires_at"], "it lives no longer (CVE-2026-44394)");
    assert_eq!(cloud.validate(&world.admin, &scoped_token).await.is(200)["token"], scoped);
    world.rescope(&token, on_domain("default")).await.fault(401);
    world.rescope(&token, on_system()).await.fault(401);
    let old = json!({ "identity": { "methods": ["saml2"], "saml2": { "id": token } }, "scope": on_project(&world.project) });
    cloud.post("", "/v3/auth/tokens", json!({ "auth": old })).await.is(201);

    // As the API of users shows it.
    let shown = cloud.get(&world.admin, &format!("/v3/users/{user}")).await.is(200)["user"].clone();
    let federated = json!([{ "idp_id": "acme", "protocols": [{ "protocol_id": "openid", "unique_id": "bob" }] }]);
    assert_eq!((&shown["federated"], &shown["email"], &shown["name"]), (&federated, &json!("bob@acme"), &json!("bob")));
    for (query, found) in
        [("idp_id=acme", 1), ("idp_id=acme&protocol_id=openid&unique_id=bob", 1), ("idp_id=other", 0), ("unique_id=eve", 0)]
    {
        let listed = cloud.get(&world.admin, &format!("/v3/users?{query}")).await.is(200);
        assert_eq!(listed["users"].as_array().unwrap().len(), found, "{query}");
    }
    // Nobody logs in as such a user with a password, and others may have the name.
    let by_name = json!({ "name": "bob", "domain": { "id": idp["domain_id"] }, "password": PASSWORD });
    cloud.login(by_name.clone(), Value::Null).await.fault(401);
    let local = json!({ "user": { "name": "bob", "domain_id": idp["domain_id"], "password": PASSWORD } });
    cloud.post(&world.admin, "/v3/users", local.clone()).await.is(201);
    cloud.post(&world.admin, "/v3/users", local).await.fault(409);
    let other = cloud.login(by_name, Value::Null).await.is(201);
    assert_ne!(other["token"]["user"]["id"], json!(user));

    // What the provider says now counts: groups that are gone, a new address.
    world.enter(&provider.token(json!({ "groups": ["none"], "email": "new@acme" }))).await.is(201);
    cloud.validate(&world.admin, &scoped_token).await.fault(404);
    assert_eq!(cloud.get(&world.admin, &format!("/v3/users/{user}")).await.is(200)["user"]["email"], "new@acme");
    world.enter(&provider.token(json!({}))).await.is(201);
    cloud.validate(&world.admin, &scoped_token).await.is(200);

    // A user who is disabled stays out.
    cloud.patch(&world.admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": false } })).await.is(200);
    world.enter(&provider.token(json!({}))).await.fault(401);
    cloud.validate(&world.admin, &token).await.fault(404);
    cloud.patch(&world.admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": true } })).await.is(200);

    // So do all while their provider is disabled, and they go with it.
    let token = world.enter(&provider.token(json!({}))).await.token;
    world.change("identity_providers/acme", json!({ "identity_provider": { "enabled": false } })).await;
    world.enter(&provider.token(json!({}))).await.fault(403);
    cloud.validate(&world.admin, &token).await.fault(404);
    world.change("identity_providers/acme", json!({ "identity_provider": { "enabled": true } })).await;
    cloud.validate(&world.admin, &token).await.is(200);
    cloud.delete(&world.admin, "/v3/OS-FEDERATION/identity_providers/acme").await.is(204);
    cloud.validate(&world.admin, &token).await.fault(404);
    cloud.get(&world.admin, &format!("/v3/users/{user}")).await.fault(404);
    world.enter(&provider.token(json!({}))).await.fault(401);
}

/// `federated` of a user of the provider.
fn known_as(unique_id: &str) -> Value {
    json!([{ "idp_id": "acme", "protocols": [{ "protocol_id": "openid", "unique_id": unique_id }] }])
}

pub async fn a_user_is_linked_to_a_name_elsewhere(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let (cloud, admin) = (&world.cloud, &world.admin);
    let new = |name: &str, federated: Value| json!({ "user": { "name": name, "password": PASSWORD, "federated": federated } });

    let made = cloud.post(admin, "/v3/users", new("robert", known_as("bob"))).await.is(201);
    assert_eq!(made["user"]["federated"], known_as("bob"));
    let robert = id(&made);
    let path = format!("/v3/users/{robert}");
    assert_eq!(cloud.get(admin, &path).await.is(200)["user"]["federated"], known_as("bob"));
    // Who the provider calls bob is robert here, who logs in by password as before.
    let entered = world.enter(&provider.token(json!({}))).await;
    let token = entered.token.clone();
    let user = entered.is(201)["token"]["user"].clone();
    assert_eq!((&user["id"], &user["name"]), (&json!(robert), &json!("robert")));
    cloud.login(user_by_id(&robert), Value::Null).await.is(201);

    // Tokens of federation have no form for the system, whatever roles their user has there (as upstream, where it is 500).
    let reader = cloud.role(admin, "reader").await;
    cloud.put(admin, &format!("/v3/system/users/{robert}/roles/{reader}")).await.is(204);
    world.rescope(&token, on_system()).await.fault(401);
    cloud.login(user_by_id(&robert), on_system()).await.is(201);

    // A name elsewhere is one user's.
    let taken = cloud.post(admin, "/v3/users", new("other", known_as("bob"))).await.fault(409);
    assert_eq!(taken, "Conflict occurred attempting to store federated_user - Duplicate entry: bob.");
    assert_eq!(cloud.get(admin, "/v3/users?name=other").await.is(200)["users"], json!([]), "nothing is half made");
    // Others replace those that were there; none leave them as they are.
    let changed = cloud.patch(admin, &path, json!({ "user": { "federated": known_as("rob") } })).await.is(200);
    assert_eq!(changed["user"]["federated"], known_as("rob"));
    for change in [json!({ "federated": [] }), json!({ "description": "d" })] {
        assert_eq!(cloud.patch(admin, &path, json!({ "user": change })).await.is(200)["user"]["federated"], known_as("rob"));
    }
    let again = world.enter(&provider.token(json!({}))).await.is(201);
    assert_ne!(again["token"]["user"]["id"], json!(robert));
    cloud.patch(admin, &path, json!({ "user": { "federated": known_as("bob") } })).await.fault(409);
    assert_eq!(cloud.get(admin, &path).await.is(200)["user"]["federated"], known_as("rob"));

    let one = json!({ "protocol_id": "openid", "unique_id": "x" });
    let bad = [
        ("user/federated", json!("x")),
        ("user/federated/0", json!([{}])),
        ("user/federated/0", json!(["acme"])),
        ("user/federated/0/idp_id", json!([{ "idp_id": 1, "protocols": [one] }])),
        ("user/federated/0/protocols", json!([{ "idp_id": "acme" }])),
        ("user/federated/0/protocols", json!([{ "idp_id": "acme", "protocols": [] }])),
        ("user/federated/0/protocols/1", json!([{ "idp_id": "acme", "protocols": [one, {}] }])),
        ("user/federated/0/protocols/0", json!([{ "idp_id": "acme", "protocols": [{ "protocol_id": "openid" }] }])),
        ("user/federated/0/protocols/0/unique_id", known_as("")),
        ("user/federated/0/protocols/0/unique_id", known_as(&"x".repeat(256))),
        ("user/federated", json!(vec![json!({ "idp_id": "acme", "protocols": [one] }); 101])),
        ("identity provider: none", json!([{ "idp_id": "none", "protocols": [one] }])),
        ("federated protocol none", json!([{ "idp_id": "acme", "protocols": [{ "protocol_id": "none", "unique_id": "x" }] }])),
    ];
    for (place, federated) in bad {
        for fault in [
            cloud.post(admin, "/v3/users", new("eve", federated.clone())).await.fault(400),
            cloud.patch(admin, &path, json!({ "user": { "federated": federated } })).await.fault(400),
        ] {
            assert!(fault.to_lowercase().contains(place), "{fault} for {federated}");
        }
    }
    assert_eq!(cloud.get(admin, &path).await.is(200)["user"]["federated"], known_as("rob"));
    // Who manages the users of one domain speaks for the providers of that domain alone: else the account, whose password the manager chose,
    // would get what another domain gives to the provider's user.
    let manager = cloud.user(admin, "manager").await;
    cloud.put(admin, &format!("/v3/domains/default/users/{manager}/roles/{}", cloud.role(admin, "manager").await)).await.is(204);
    let manager = cloud.login(user_by_id(&manager), on_domain("default")).await.token;
    let refused = "You are not authorized to perform the requested action: identity:update_identity_provider.";
    let of_default = |federated: Value| json!({ "user": { "name": "mine", "domain_id": "default", "federated": federated } });
    assert_eq!(cloud.post(&manager, "/v3/users", of_default(known_as("carol"))).await.fault(403), refused);
    assert_eq!(cloud.patch(&manager, &path, json!({ "user": { "federated": known_as("carol") } })).await.fault(403), refused);
    world.make("identity_providers/own", json!({ "identity_provider": { "domain_id": "default" } })).await;
    world.make("identity_providers/own/protocols/openid", json!({ "protocol": { "mapping_id": "m" } })).await;
    let own = json!([{ "idp_id": "own", "protocols": [{ "protocol_id": "openid", "unique_id": "carol" }] }]);
    cloud.post(&manager, "/v3/users", of_default(own)).await.is(201);
    assert_eq!(cloud.get(admin, &path).await.is(200)["user"]["federated"], known_as("rob"));
    // Whom a provider only made known stays when it goes.
    cloud.delete(admin, "/v3/OS-FEDERATION/identity_providers/acme").await.is(204);
    assert_eq!(cloud.get(admin, &path).await.is(200)["user"].get("federated"), None);
}

pub async fn mappings_decide_who_it_is(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let cloud = &world.cloud;
    let rule = |local: Value| json!([{ "local": local, "remote": [{ "type": "HTTP_OIDC_SUB" }, { "type": "HTTP_OIDC_P" }] }]);
    let with = |projects: Value| provider.token(json!({ "p": projects }));

    // A user who was here before, by id and by name.
    let local = cloud.user(&world.admin, "bob").await;
    for user in [json!({ "id": local, "type": "local" }), json!({ "name": "{0}", "domain": { "name": "Default" }, "type": "local" })] {
        world.rules(rule(json!([{ "user": user }])), "1.0").await;
        let body = world.enter(&with(json!("x"))).await.is(201);
        assert_eq!(body["token"]["user"]["id"], json!(local));
        assert_eq!(body["token"]["user"].get("OS-FEDERATION"), None);
    }
    for user in [
        json!({ "id": "nobody", "type": "local" }),
        json!({ "name": "eve", "domain": { "id": "default" }, "type": "local" }),
        json!({ "name": "bob", "type": "local" }),
    ] {
        world.rules(rule(json!([{ "user": user }])), "1.0").await;
        world.enter(&with(json!("x"))).await.fault(401);
    }
    // Of whom more is demanded gets a receipt for this.
    world.rules(rule(json!([{ "user": { "id": local, "type": "local" } }])), "1.0").await;
    let options = |rules: Value| json!({ "user": { "options": { "multi_factor_auth_rules": rules } } });
    let path = format!("/v3/users/{local}");
    cloud.patch(&world.admin, &path, options(json!([["openid", "password"]]))).await.is(200);
    let begun = world.enter(&with(json!("x"))).await;
    assert!(begun.headers.contains_key("openstack-auth-receipt"), "{}", begun.body);
    assert_eq!(begun.is(401)["receipt"]["methods"], json!(["openid"]));
    cloud.patch(&world.admin, &path, options(Value::Null)).await.is(200);

    // Without a user in the rules it is the subject; without a match it is nobody.
    world.rules(rule(json!([{ "group": { "id": world.group } }])), "1.0").await;
    assert_eq!(world.enter(&with(json!("x"))).await.is(201)["token"]["user"]["name"], "bob");
    world.enter(&provider.token(json!({}))).await.fault(401);
    world.rules(rule(json!([{ "group": { "id": "none" } }])), "1.0").await;
    world.enter(&with(json!("x"))).await.fault(401);

    // Projects are made with the roles on them, and nothing when a role is not there.
    let projects = json!([{ "name": "of {0}", "roles": [{ "name": "member" }] }, { "name": "q", "roles": [{ "name": "{1}" }], "domain": { "id": "default" } }]);
    world.rules(rule(json!([{ "user": { "name": "{0}" }, "projects": projects }])), "2.0").await;
    world.enter(&with(json!("none"))).await.fault(401);
    let named = async |name: &str| {
        cloud.get(&world.admin, &format!("/v3/projects?name={name}")).await.is(200)["projects"].as_array().unwrap().len()
    };
    assert_eq!((named("of%20bob").await, named("q").await), (0, 0));
    let token = world.enter(&with(json!("reader"))).await.token;
    assert_eq!((named("of%20bob").await, named("q").await), (1, 1));
    let reach = async |token: &str| -> Vec<String> {
        let listed = cloud.get(token, "/v3/auth/projects").await.is(200);
        let mut names: Vec<String> = listed["projects"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(reach(&token).await, ["of bob", "q"]);
    // From the third version on, what is no longer told of is taken back.
    let token_of = async |projects: Value| world.enter(&with(projects)).await.token;
    world.rules(rule(json!([{ "user": { "name": "{0}" }, "projects_json": "{1}" }])), "3.0").await;
    let told = json!([{ "name": "q", "roles": [{ "name": "member" }], "domain": { "name": "Default" } }]);
    let token = token_of(told).await;
    assert_eq!(reach(&token).await, ["q"]);
    let scoped = world.rescope(&token, json!({ "project": { "name": "q", "domain": { "id": "default" } } })).await.is(201);
    let roles: Vec<&str> = scoped["token"]["roles"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap()).collect();
    assert_eq!(roles, ["member", "reader"], "member implies reader, which is no grant of its own any more");
    assert_eq!(reach(&token_of(json!("[]")).await).await, Vec::<String>::new());

    // Two providers of one domain do not become each other's users.
    let domain =
        cloud.get(&world.admin, "/v3/OS-FEDERATION/identity_providers/acme").await.is(200)["identity_provider"]["domain_id"].clone();
    world.rules(rule(json!([{ "user": { "id": "b b/é", "name": "{0}" } }])), "1.0").await;
    let odd = world.enter(&with(json!("x"))).await.is(201)["token"]["user"]["id"].as_str().unwrap().to_string();
    let shown = cloud.get(&world.admin, &format!("/v3/users/{odd}")).await.is(200);
    assert_eq!(shown["user"]["federated"][0]["protocols"][0]["unique_id"], "b%20b/%C3%A9");
    assert_eq!(shown["user"]["domain_id"], domain);
    // A domain that the rules name is the user's.
    world.rules(rule(json!([{ "user": { "id": "carl", "name": "carl", "domain": { "name": "Default" } } }])), "1.0").await;
    assert_eq!(world.enter(&with(json!("x"))).await.is(201)["token"]["user"]["domain"]["id"], "default");
    world.rules(rule(json!([{ "user": { "id": "dora", "name": "dora", "domain": { "name": "None" } } }])), "1.0").await;
    world.enter(&with(json!("x"))).await.fault(401);
}

pub async fn memberships_outlive_tokens_as_long_as_they_may(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let cloud = &world.cloud;
    let user = world.enter(&provider.token(json!({}))).await.is(201)["token"]["user"]["id"].as_str().unwrap().to_string();
    let ends = async || -> i64 {
        let sql = "SELECT expires_at FROM expiring_membership";
        cloud.store.read(|tx| tx.query_opt(sql, store::params![], |row| row.int(0))).await.unwrap().unwrap() / 1_000_000 - now()
    };
    // At least as long as the token.
    assert!((3590..=3601).contains(&ends().await), "{}", ends().await);
    world.change("identity_providers/acme", json!({ "identity_provider": { "authorization_ttl": 120 } })).await;
    world.enter(&provider.token(json!({}))).await.is(201);
    assert!((7190..=7200).contains(&ends().await));
    let groups = cloud.get(&world.admin, &format!("/v3/users/{user}/groups")).await.is(200);
    assert_eq!(groups["groups"][0]["id"], json!(world.group));
    let end = groups["groups"][0]["membership_expires_at"].as_str().unwrap().to_string();
    let kept = cloud.store.read(|tx| tx.query_opt("SELECT expires_at FROM expiring_membership", &[], |row| row.time(0))).await.unwrap();
    assert_eq!(end, kept.unwrap().iso_micros());
    // Who is in the group by a provider's word is shown as one of it, and once.
    let members = async || {
        let listed = cloud.get(&world.admin, &format!("/v3/groups/{}/users", world.group)).await.is(200);
        listed["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let member = format!("/v3/groups/{}/users/{user}", world.group);
    assert_eq!(members().await, [user.as_str()]);
    cloud.ask(&world.admin, "HEAD", &member, Value::Null).await.is(204);
    // Who was put into it besides is there to stay, and who is taken out again has the provider's word left.
    cloud.put(&world.admin, &member).await.is(204);
    assert_eq!(members().await, [user.as_str()]);
    let both = cloud.get(&world.admin, &format!("/v3/users/{user}/groups")).await.is(200);
    assert_eq!((both["groups"].as_array().unwrap().len(), both["groups"][0].get("membership_expires_at")), (1, None));
    cloud.delete(&world.admin, &member).await.is(204);
    assert_eq!(members().await, [user.as_str()]);
    cloud.delete(&world.admin, &member).await.fault(404);
    let effective = cloud.get(&world.admin, &format!("/v3/role_assignments?effective&user.id={user}")).await.is(200);
    assert_eq!(effective["role_assignments"].as_array().unwrap().len(), 2, "member and what it implies");
    let scoped = world.rescope(&world.enter(&provider.token(json!({}))).await.token, on_project(&world.project)).await.token;
    cloud.validate(&world.admin, &scoped).await.is(200);
    // When its time is over it is gone, also for tokens that are held in memory.
    let past = base::Timestamp::now().plus(Duration::ZERO);
    cloud.store.write(move |tx| tx.execute("UPDATE expiring_membership SET expires_at = ?1", store::params![past])).await.unwrap();
    cloud.tasks.start().await.unwrap();
    let gone = async {
        while cloud.validate(&world.admin, &scoped).await.status != 404 {
            task::nudge_here(&cloud.store, "identity.memberships");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    cloud.tasks.stop().await;
    // With a group its memberships go.
    world.enter(&provider.token(json!({}))).await.is(201);
    cloud.delete(&world.admin, &format!("/v3/groups/{}", world.group)).await.is(204);
    let left = cloud.store.read(|tx| tx.query_opt("SELECT 1 FROM expiring_membership", store::params![], |_| Ok(()))).await.unwrap();
    assert_eq!(left, None);
}

pub async fn tokens_that_are_not_believed(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    world.enter(&provider.token(json!({}))).await.is(201);
    let claims = provider.claims(json!({}));
    let public = b64(provider.0.key.lock().unwrap().1.public_key());
    let part = |value: &Value| b64(value.to_string());
    let none = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims));
    let hmac = {
        let message = format!("{}.{}", part(&json!({ "alg": "HS256", "kid": "one" })), part(&claims));
        let sign = hmac_by_hand(public.as_bytes(), message.as_bytes());
        format!("{message}.{}", b64(sign))
    };
    let stranger = {
        let message = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "one" })), part(&claims));
        format!("{message}.{}", b64(key().sign(message.as_bytes())))
    };
    let embedded = {
        let own = key();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": b64(own.public_key()) });
        let message =
            format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "one", "jwk": jwk, "jku": "http://127.0.0.1:1/" })), part(&claims));
        format!("{message}.{}", b64(own.sign(message.as_bytes())))
    };
    let bad = [
        ("no algorithm (CVE-2015-9235)", none),
        ("the public key as a secret", hmac),
        ("another key", stranger),
        ("a key that it brings itself (CVE-2018-0114)", embedded),
        ("another issuer", provider.token(json!({ "iss": "https://other" }))),
        ("another audience", provider.token(json!({ "aud": "other" }))),
        ("no audience", provider.token(json!({ "aud": null }))),
        ("ended", provider.token(json!({ "exp": now() - 1 }))),
        ("without an end", provider.token(json!({ "exp": null }))),
        ("not yet", provider.token(json!({ "nbf": now() + 600 }))),
        ("bound to a key", provider.token(json!({ "cnf": { "jkt": "x" } }))),
        ("about nobody", provider.token(json!({ "sub": "" }))),
        ("no token", "nonsense".into()),
        ("nothing", String::new()),
        ("too long", "x".repeat(20_000)),
    ];
    for (what, token) in bad {
        let message = world.enter(&token).await.fault(401);
        assert_eq!(message, "The request you have made requires authentication.", "{what}");
    }
    // Names of keys that are made up do not make us ask again and again.
    let before = provider.fetched();
    for i in 0..50 {
        world.enter(&provider.sign(json!({ "alg": "EdDSA", "kid": format!("x{i}") }), &claims)).await.fault(401);
    }
    assert!(provider.fetched() <= before + 1, "{} times", provider.fetched() - before);
    // Who is no provider of ours, and one whose name is not the one that it should be.
    let header = format!("Bearer {}", provider.token(json!({})));
    for path in ["other/protocols/openid", "acme/protocols/other"] {
        let path = format!("/v3/OS-FEDERATION/identity_providers/{path}/auth");
        world.cloud.send("POST", &path, &[("authorization", &header)], Vec::new()).await.fault(401);
    }
    world.change("identity_providers/acme", json!({ "identity_provider": { "remote_ids": ["https://other"] } })).await;
    world.enter(&provider.token(json!({}))).await.fault(403);
}

/// RFC 2104 with SHA-256, so that a token can be forged as a careless verifier would take it.
fn hmac_by_hand(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::sign(&key, message).as_ref().to_vec()
}

pub async fn keys_change(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    // A key that is new since the last look is fetched; the first look is that of this token.
    *provider.0.key.lock().unwrap() = ("two".into(), key());
    world.enter(&provider.token(json!({}))).await.is(201);
    assert_eq!(provider.fetched(), 1);
    world.enter(&provider.token(json!({}))).await.is(201);
    assert_eq!(provider.fetched(), 1, "keys are kept");
}

pub async fn providers_that_answer_badly(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    provider.says("jwks", Says::Json(json!({ "keys": "none" })));
    world.enter(&provider.token(json!({}))).await.fault(503);
    // It is left alone for a while, also when it would answer now.
    provider.says("jwks", Says::Json(json!({ "keys": [] })));
    world.enter(&provider.token(json!({}))).await.fault(503);
    assert_eq!(provider.fetched(), 1);

    // Tokens that only it can read are asked for each time.
    let good = json!({ "active": true, "client_id": "sturnus", "sub": "eve", "email": "e@e", "groups": ["staff"], "exp": now() + 60 });
    provider.says("introspect", Says::Json(good.clone()));
    let body = world.enter("opaque&token=x").await.is(201);
    assert_eq!(body["token"]["user"]["name"], "eve");
    let asked = provider.0.introspected.lock().unwrap().remove(0);
    assert_eq!(asked.0, format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("sturnus:s%3Ae%25")));
    assert_eq!(asked.1, "token=opaque%26token%3Dx&token_type_hint=access_token");
    let with = |name: &str, value: Value| {
        let mut answer = good.clone();
        answer[name] = value;
        Says::Json(answer)
    };
    for says in [
        with("active", json!(false)),
        with("client_id", json!("other")),
        with("iss", json!("https://other")),
        with("exp", json!(now() - 1)),
        with("sub", json!(null)),
    ] {
        provider.says("introspect", says);
        world.enter("opaque").await.fault(401);
    }
    let elsewhere = Provider::start().await;
    elsewhere.says("introspect", Says::Json(good));
    let to = format!("{}/introspect", elsewhere.0.issuer);
    for says in [
        Says::Status(500),
        Says::Status(201),
        Says::Redirect(to),
        Says::Much,
        Says::Nothing,
        Says::Drip,
        Says::Json(json!([])),
        Says::Text("[".repeat(200_000)),
    ] {
        let started = std::time::Instant::now();
        provider.says("introspect", says);
        world.enter("opaque").await.fault(503);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(elsewhere.0.introspected.lock().unwrap().len(), 0, "a redirect is not followed");
}

pub async fn providers_that_say_they_are_others(cloud: Cloud) {
    let provider = Provider::start().await;
    let world = World::of(cloud, &provider).await;
    let bad = [
        json!({ "issuer": "https://other" }),
        json!([]),
        json!({ "issuer": provider.0.issuer, "introspection_endpoint": "http://example.com/" }),
    ];
    for (i, document) in bad.into_iter().enumerate() {
        // Settings that change make it known anew.
        let file = std::fs::File::options().write(true).open(world.cloud.home.path().join("federation.toml")).unwrap();
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(60 * (i as u64 + 1))).unwrap();
        provider.says("discovery", Says::Json(document));
        for _ in 0..20 {
            world.enter("opaque").await.fault(503);
            world.cloud.get("", &format!("{}?origin=https://other/auth/websso/", crate::websso::ACME)).await.fault(503);
        }
    }
    assert_eq!(provider.0.introspected.lock().unwrap().len(), 0);
    // One that does not describe itself is left alone for a while, so that nobody waits behind others; what it says is kept.
    assert_eq!(*provider.0.described.lock().unwrap(), 3);
}
