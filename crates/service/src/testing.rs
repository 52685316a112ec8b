//! One service on a temporary store, without the rest of the cloud: for the service's own API tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use base::{Config, Context, Error, Result, Scope};
use http_api::access::AccessLog;
use http_api::metrics::Metrics;
use http_api::{App, Authenticate, Peer};
use serde_json::Value;

use crate::{Core, HostLinks, Service};

/// A core on a store of its own, with the rules of one service. Keep the directory as long as the core.
pub async fn core(kind: &'static str, rules: &'static [policy::Rule]) -> (Core, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let tables = [("events", events::MIGRATIONS), ("task", task::MIGRATIONS)];
    let store = store::Store::open(&store::testing::url(home.path(), &tables).await).await.unwrap();
    for (name, migrations) in tables {
        store.migrate(name, migrations).await.unwrap();
    }
    let core = Core {
        config: Arc::new(Config::for_home(home.path())),
        policy: policy::Policy::new(policy::Enforcer::load(&[(kind, &[rules])], None).unwrap()),
        tasks: task::Engine::new(store.clone(), "test"),
        hosts: HostLinks::new(rpc::session::Hosts::new().0),
        metrics: Metrics::default(),
        store,
    };
    (core, home)
}

/// Tokens of a test: `admin` (project `admin`), `member`, `reader` (project `p1`), `other` (member of `p2`).
struct Tokens(HashMap<&'static str, Context>);

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Context> {
        self.0.get(token).cloned().ok_or_else(|| Error::unauthenticated("The request you have made requires authentication."))
    }
}

fn context(user: &str, project: &str, roles: &[&str]) -> Context {
    let scope = Scope::Project { id: project.into(), name: project.into(), domain_id: "default".into(), domain_name: "Default".into() };
    Context {
        user_id: user.into(),
        user_name: user.into(),
        scope,
        roles: roles.iter().map(|r| r.to_string()).collect(),
        ..Context::default()
    }
}

/// A service behind the real router.
pub struct Bench {
    app: App,
}

impl Bench {
    pub fn new(service: Service) -> Bench {
        let tokens = Tokens(HashMap::from([
            ("admin", context("admin", "admin", &["admin", "manager", "member", "reader"])),
            ("member", context("u1", "p1", &["member", "reader"])),
            ("reader", context("u3", "p1", &["reader"])),
            ("other", context("u2", "p2", &["member", "reader"])),
        ]));
        let mut app = App::new(Arc::new(tokens), AccessLog::default(), 1 << 20, "http://test/v3".into(), Metrics::default());
        app.mount(&[""], service.routes);
        Bench { app }
    }

    /// Status and body of a request. `line` is `METHOD PATH [HEADER=VALUE ...]`; an empty token sends none.
    pub async fn call(&self, token: &str, line: &str, body: Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(token, line, text).await
    }

    /// As [`Bench::call`], with any text as body.
    pub async fn raw(&self, token: &str, line: &str, body: String) -> (u16, Value) {
        let response = self.response(token, line, body).await;
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The answer as such, for bodies that do not end.
    pub async fn response(&self, token: &str, line: &str, body: String) -> http_api::Response {
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "test");
        for header in words {
            let (name, value) = header.split_once('=').unwrap();
            request = request.header(name, value.replace('+', " "));
        }
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        self.app.handle(request.body(Body::from(body)).unwrap(), &Peer::default()).await
    }
}
