//! The dispatcher as a client sees it: routing, tokens, versions, faults, limits.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use base::{Context, Error, Kind, Result, Scope};
use http_api::access::AccessLog;
use http_api::metrics::Metrics;
use http_api::{Api, App, Authenticate, FaultStyle, Peer, Request, Response, Routes, Version, Versions, empty, json};
use serde_json::{Value, json};

struct Tokens;

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Context> {
        if token != "good" {
            return Err(Error::unauthenticated("The request you have made requires authentication."));
        }
        let scope = Scope::Project { id: "p1".into(), name: "demo".into(), domain_id: "default".into(), domain_name: "Default".into() };
        Ok(Context { user_id: "u1".into(), scope, roles: vec!["member".into()], ..Context::default() })
    }
}

async fn echo(_: (), req: Request) -> Result<Response> {
    let body = json!({"id": req.param("id"), "version": req.version.to_string(), "user": req.ctx.user_id, "request": req.ctx.request_id, "base": req.base_url});
    json(200, &body)
}

async fn create(_: (), req: Request) -> Result<Response> {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Thing {
        name: String,
        size: u32,
    }
    json(201, &req.wrapped::<Thing>("thing")?)
}

async fn broken(_: (), _: Request) -> Result<Response> {
    Err(Error::internal("the secret reason"))
}

async fn panics(_: (), req: Request) -> Result<Response> {
    assert!(req.path.is_empty(), "on purpose");
    empty(204)
}

fn app(style: FaultStyle) -> App {
    let versions = Versions {
        service: "compute",
        legacy_header: Some("x-openstack-nova-api-version"),
        min: Version::new(2, 1),
        max: Version::new(2, 9),
    };
    let api = Api { service: "things", style, versions: Some(versions), head: true, slash: false };
    let table = Routes::new((), api)
        .public("GET", "/", echo)
        .public("GET", "/v2.1", echo)
        .under_also("/v2.1", "/v2.1/{project_id}")
        .legacy_also("/v2", "/v2/{project_id}")
        .get("/things/detail", echo)
        .get("/things/{id}", echo)
        .post("/things", create)
        .get("/broken", broken)
        .get("/panics", panics)
        .build()
        .unwrap();
    let mut app = App::new(Arc::new(Tokens), AccessLog::default(), 1000, "http://here/identity/v3".into(), Metrics::default());
    app.mount(&["/things"], table);
    app
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }
}

async fn call(app: &App, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", "cloud:5000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.handle(request.body(body.into()).unwrap(), &Peer::default()).await;
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

const TOKEN: (&str, &str) = ("x-auth-token", "good");

#[tokio::test]
async fn literals_win_over_variables_and_both_mounts_work() {
    let app = app(FaultStyle::Compute);
    assert_eq!(call(&app, "GET", "/things/v2.1/things/detail", &[TOKEN], "").await.json()["id"], "");
    assert_eq!(call(&app, "GET", "/things/v2.1/things/a%20b", &[TOKEN], "").await.json()["id"], "a b");
    let answer = call(&app, "GET", "/things/v2.1/p1/things/x", &[TOKEN], "").await;
    assert_eq!((answer.json()["id"].as_str(), answer.json()["base"].as_str()), (Some("x"), Some("http://cloud:5000/things")));
    let other = call(&app, "GET", "/things/v2.1/p2/things/x", &[TOKEN], "").await;
    assert_eq!((other.status, other.json()["badRequest"]["code"].as_u64()), (400, Some(400)));
}

#[tokio::test]
async fn tokens_are_asked_for_everywhere_but_on_public_routes() {
    let app = app(FaultStyle::Network);
    assert_eq!(call(&app, "GET", "/things", &[], "").await.status, 200);
    for (path, token) in
        [("/things/v2.1/things/x", None), ("/things/v2.1/things/x", Some("bad")), ("/things/nowhere", None), ("/metrics", None)]
    {
        let headers: Vec<_> = token.map(|t| ("x-auth-token", t)).into_iter().collect();
        let answer = call(&app, "GET", path, &headers, "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.json()["error"]["code"], 401);
        assert_eq!(answer.header("www-authenticate"), "Keystone uri=\"http://here/identity/v3\"");
    }
    assert_eq!(call(&app, "GET", "/healthz", &[], "").await.text, "OK");
    assert!(call(&app, "GET", "/metrics", &[TOKEN], "").await.text.contains("sturnus_api_requests_total"));
}

#[tokio::test]
async fn unknown_paths_methods_and_versions_get_the_services_own_fault() {
    let app = app(FaultStyle::Compute);
    let missing = call(&app, "GET", "/things/v2.1/nothing", &[TOKEN], "").await;
    assert_eq!((missing.status, missing.json()["itemNotFound"]["code"].as_u64()), (404, Some(404)));
    let method = call(&app, "DELETE", "/things/v2.1/things", &[TOKEN], "").await;
    assert_eq!((method.status, method.header("allow")), (405, "POST"));
    assert_eq!(call(&app, "DELETE", "/things/v2.1/things/", &[TOKEN], "").await.status, 404, "the thing without a name");
    let version = call(&app, "GET", "/things/v2.1/things/x", &[TOKEN, ("openstack-api-version", "compute 2.10")], "").await;
    assert_eq!((version.status, version.header("openstack-api-version")), (406, "compute 2.1"));
    let latest = call(&app, "GET", "/things/v2.1/things/x", &[TOKEN, ("openstack-api-version", "compute latest")], "").await;
    assert_eq!((latest.header("x-openstack-nova-api-version"), latest.json()["version"].as_str()), ("2.9", Some("2.9")));
}

#[tokio::test]
async fn bad_bodies_name_the_field_and_large_ones_are_refused() {
    let app = app(FaultStyle::Compute);
    let post = async |body: &str| call(&app, "POST", "/things/v2.1/things", &[TOKEN], body.to_string()).await;
    assert_eq!(post(r#"{"thing": {"name": "a", "size": 1}}"#).await.status, 201);
    for (body, word) in [
        ("", "required"),
        ("{", "Malformed"),
        ("[1]", "object"),
        (r#"{"thong": {}}"#, "'thing' is a required property"),
        (r#"{"thing": {"name": "a", "size": "x"}}"#, "thing.size"),
        (r#"{"thing": {"name": 1, "size": 1}}"#, "thing.name"),
        (r#"{"thing": 5}"#, "thing"),
    ] {
        let answer = post(body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text.contains(word), "{body}: {}", answer.text);
    }
    assert_eq!(post(&"x".repeat(1001)).await.status, 413);
    let declared = call(&app, "POST", "/things/v2.1/things", &[TOKEN, ("content-length", "99999")], "x").await;
    assert_eq!(declared.status, 413);
}

#[tokio::test]
async fn our_own_faults_show_the_request_id_and_nothing_else() {
    let app = app(FaultStyle::Placement);
    for path in ["/things/v2.1/broken", "/things/v2.1/panics"] {
        let answer = call(&app, "GET", path, &[TOKEN], "").await;
        assert_eq!(answer.status, 500);
        assert!(!answer.text.contains("secret"), "{}", answer.text);
        assert_eq!(answer.json()["errors"][0]["request_id"], answer.header("x-openstack-request-id"));
    }
}

#[tokio::test]
async fn every_style_renders_every_kind() {
    let kinds =
        [Kind::NotFound, Kind::Exists, Kind::Invalid, Kind::Forbidden, Kind::Conflict, Kind::QuotaExceeded, Kind::NoCapacity, Kind::Gone];
    for style in
        [FaultStyle::Compute, FaultStyle::Identity, FaultStyle::Network, FaultStyle::Placement, FaultStyle::Image, FaultStyle::Fault]
    {
        for kind in kinds {
            let error = Error::new(kind, "words <of> the fault");
            let response = http_api::fault::render(style, &error, "req-1");
            assert!(response.status().is_client_error(), "{style:?} {kind:?}");
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(text.contains("of") && (style != FaultStyle::Image || text.contains("&lt;of&gt;")), "{text}");
        }
    }
}

#[tokio::test]
async fn a_slash_at_the_end_is_an_empty_id() {
    let app = app(FaultStyle::Compute);
    assert_eq!(call(&app, "GET", "/things/v2.1/things/detail/", &[TOKEN], "").await.status, 404);
    assert_eq!(call(&app, "GET", "/things/v2.1/things/x/", &[TOKEN], "").await.status, 404);
    assert_eq!(call(&app, "POST", "/things/v2.1/things/", &[TOKEN], "{}").await.status, 404);
    // Version documents are found either way.
    for path in ["/things", "/things/", "/things/v2.1", "/things/v2.1/"] {
        assert_eq!(call(&app, "GET", path, &[], "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn of_old_there_were_no_microversions() {
    let app = app(FaultStyle::Compute);
    let headers = [TOKEN, ("openstack-api-version", "compute 2.5"), ("x-openstack-nova-api-version", "2.99")];
    for path in ["/things/v2/things/x", "/things/v2/p1/things/x"] {
        let answer = call(&app, "GET", path, &headers, "").await;
        assert_eq!((answer.status, answer.json()["version"].as_str()), (200, Some("2.0")), "{path}");
        assert_eq!((answer.header("openstack-api-version"), answer.header("x-openstack-nova-api-version")), ("", ""));
        assert_eq!(answer.header("vary"), "");
    }
    assert_eq!(call(&app, "GET", "/things/v2/p2/things/x", &[TOKEN], "").await.status, 400);
    assert_eq!(call(&app, "GET", "/things/v2/things/x", &[], "").await.status, 401);
}
