//! A cloud of this service alone.

use std::sync::Arc;

use axum::body::Body;
use http_api::access::AccessLog;
use http_api::{App, Authenticate, Certificate, Peer, Proxies};
use identity::{CatalogueEntry, Identity};
use serde_json::{Value, json};

pub const PASSWORD: &str = "a secret";

/// The tables that the service stands on.
pub const TABLES: [(&str, &[store::Migration]); 3] =
    [("events", events::MIGRATIONS), ("task", task::MIGRATIONS), ("identity", identity::MIGRATIONS)];

pub struct Cloud {
    pub identity: Identity,
    pub app: Arc<App>,
    pub store: store::Store,
    pub tasks: task::Engine,
    pub home: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub token: String,
    pub headers: axum::http::HeaderMap,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
    /// The message of a fault with this status.
    #[track_caller]
    pub fn fault(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["error"]["code"], status);
        assert!(self.body["error"]["title"].is_string());
        self.body["error"]["message"].as_str().unwrap().to_string()
    }
}

/// Another service of the cloud, which believes the same tokens.
fn other_service() -> http_api::Table {
    let api = http_api::Api { service: "compute", style: http_api::FaultStyle::Compute, versions: None, head: false, slash: false };
    let routes = http_api::Routes::new((), api);
    let routes = routes.get("/v2.1/servers", async |(), _| http_api::json(200, &json!({ "servers": [] })));
    let routes = routes.get("/v2.1/servers/{server_id}", async |(), _| http_api::json(200, &json!({})));
    routes.post("/v2.1/servers/{server_id}/action", async |(), _| http_api::empty(202)).build().unwrap()
}

/// The id of the one member of a document.
#[track_caller]
pub fn id(body: &Value) -> String {
    let inner = body.as_object().unwrap().values().next().unwrap();
    inner["id"].as_str().unwrap().to_string()
}

impl Cloud {
    pub async fn new() -> Cloud {
        Self::in_home(tempfile::tempdir().unwrap(), |_| {}).await
    }

    pub async fn in_home(home: tempfile::TempDir, settings: impl FnOnce(&mut base::Config)) -> Cloud {
        Self::on(home, None, settings).await
    }

    /// On the database of a URL; none: SQLite in the home.
    pub async fn on(home: tempfile::TempDir, url: Option<&str>, settings: impl FnOnce(&mut base::Config)) -> Cloud {
        let sqlite = format!("sqlite:{}/db/sturnus.db", home.path().display());
        let store = store::Store::open(url.unwrap_or(&sqlite)).await.unwrap();
        for (name, migrations) in TABLES {
            store.migrate(name, migrations).await.unwrap();
        }
        Self::start(home, store, settings).await.unwrap()
    }

    /// A cloud on a store; the error with which it does not start.
    pub async fn try_on(home: tempfile::TempDir, store: store::Store, settings: impl FnOnce(&mut base::Config)) -> base::Result<Cloud> {
        Self::start(home, store, settings).await
    }

    /// Another process on the same store, with a home of its own.
    pub async fn beside(&self, home: tempfile::TempDir) -> Cloud {
        Self::start(home, self.store.clone(), |_| {}).await.unwrap()
    }

    /// The same cloud, started again with other settings; the error with which it does not.
    pub async fn configured(self, settings: impl FnOnce(&mut base::Config)) -> base::Result<Cloud> {
        Self::start(self.home, self.store, settings).await
    }

    async fn start(home: tempfile::TempDir, store: store::Store, settings: impl FnOnce(&mut base::Config)) -> base::Result<Cloud> {
        let mut config = base::Config::for_home(home.path());
        config.set("password.memory_kib", "64");
        config.set("password.passes", "1");
        settings(&mut config);
        let said = |name: &str| config.text(name);
        let proxies = Proxies::read(config.flag("api.proxied"), said("api.proxies"), said("api.client_certificate_header"))?;
        let enforcer = policy::Enforcer::load(&[("identity", &[identity::RULES])], None).unwrap();
        assert_eq!(enforcer.problems(), Vec::<String>::new());
        let tasks = task::Engine::new(store.clone(), "test");
        let core = service::Core {
            config: Arc::new(config),
            store: store.clone(),
            policy: policy::Policy::new(enforcer),
            tasks: tasks.clone(),
            hosts: service::HostLinks::new(rpc::session::Hosts::new().0),
            metrics: Default::default(),
        };
        let identity = Identity::new(core).await?;
        identity.bootstrap(PASSWORD).await.unwrap();
        let entry = |kind: &str, name: &str, url: &str| CatalogueEntry {
            kind: kind.into(),
            name: name.into(),
            description: format!("{name} of the test"),
            url_template: format!("http://cloud{url}"),
        };
        let entries =
            vec![entry("identity", "keystone", "/identity"), entry("object-store", "swift", "/object-store/v1/AUTH_{project_id}")];
        identity.catalogue_set(entries).await.unwrap();
        let authenticator: Arc<dyn Authenticate> = Arc::new(identity.clone());
        let mut app =
            App::new(authenticator, AccessLog::default(), 1 << 20, "http://cloud/identity/v3".into(), Default::default()).behind(proxies);
        let service = identity.service().unwrap();
        app.mount(service.mounts, service.routes);
        app.mount(&["/compute"], other_service());
        Ok(Cloud { identity, app: Arc::new(app), store, tasks, home })
    }

    /// A request with any headers and body.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.send_with(None, method, path, headers, body).await
    }

    /// By a client that has shown a certificate, or none.
    pub async fn send_with(
        &self,
        shown: Option<&Certificate>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        self.send_from(&Peer { certificate: shown.cloned(), ..Peer::default() }, method, path, headers, body).await
    }

    pub async fn send_from(&self, peer: &Peer, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "cloud");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.handle(request.body(Body::from(body)).unwrap(), peer).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = match serde_json::from_slice(&bytes) {
            Ok(json) => json,
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8(bytes.to_vec()).unwrap()),
        };
        let token = parts.headers.get("x-subject-token").map(|v| v.to_str().unwrap().to_string()).unwrap_or_default();
        Answer { status: parts.status.as_u16(), body, token, headers: parts.headers }
    }

    pub async fn ask(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("x-auth-token", token)] };
        self.send(method, path, headers, bytes).await
    }
    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(token, "GET", path, Value::Null).await
    }
    pub async fn put(&self, token: &str, path: &str) -> Answer {
        self.ask(token, "PUT", path, Value::Null).await
    }
    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.ask(token, "DELETE", path, Value::Null).await
    }
    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.ask(token, "POST", path, body).await
    }
    pub async fn patch(&self, token: &str, path: &str, body: Value) -> Answer {
        self.ask(token, "PATCH", path, body).await
    }
    /// `GET /v3/auth/tokens` on `subject`.
    pub async fn validate(&self, token: &str, subject: &str) -> Answer {
        self.send("GET", "/v3/auth/tokens", &[("x-auth-token", token), ("x-subject-token", subject)], Vec::new()).await
    }

    /// A login by password; `scope` null: none is asked for.
    pub async fn login(&self, user: Value, scope: Value) -> Answer {
        let mut auth = json!({ "identity": { "methods": ["password"], "password": { "user": user } } });
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        self.post("", "/v3/auth/tokens", json!({ "auth": auth })).await
    }

    /// The administrator's token for the project `admin`.
    pub async fn admin(&self) -> String {
        self.login(admin_user(), admin_scope()).await.token
    }

    /// A new enabled user with [`PASSWORD`] in the default domain.
    pub async fn user(&self, admin: &str, name: &str) -> String {
        id(&self.post(admin, "/v3/users", json!({ "user": { "name": name, "password": PASSWORD } })).await.is(201))
    }

    pub async fn project(&self, admin: &str, name: &str, parent: Option<&str>) -> String {
        let mut project = json!({ "name": name });
        if let Some(parent) = parent {
            project["parent_id"] = json!(parent);
        }
        id(&self.post(admin, "/v3/projects", json!({ "project": project })).await.is(201))
    }

    pub async fn role(&self, admin: &str, name: &str) -> String {
        let found = self.get(admin, &format!("/v3/roles?name={name}")).await.is(200);
        found["roles"][0]["id"].as_str().unwrap().to_string()
    }
}

pub fn admin_user() -> Value {
    json!({ "name": "admin", "domain": { "id": "default" }, "password": PASSWORD })
}
pub fn admin_scope() -> Value {
    json!({ "project": { "name": "admin", "domain": { "name": "Default" } } })
}
pub fn user_by_id(id: &str) -> Value {
    json!({ "id": id, "password": PASSWORD })
}
pub fn on_project(id: &str) -> Value {
    json!({ "project": { "id": id } })
}
pub fn on_domain(id: &str) -> Value {
    json!({ "domain": { "id": id } })
}
pub fn on_system() -> Value {
    json!({ "system": { "all": true } })
}
