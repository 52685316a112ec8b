//! The service on a real store, and clients with tokens.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::HeaderMap;
use base::{Config, Context, Error, Result, Scope};
use http_api::access::AccessLog;
use http_api::metrics::Metrics;
use http_api::{App, Authenticate, Peer};
use image::Images;
use serde_json::Value;
use service::{Core, HostLinks};

/// `admin`, `alice` and `reader` of project a, `bob` of b, `carol` of c, `service`, `system`.
struct Tokens;

pub fn context(name: &str) -> Option<Context> {
    let (project, roles): (&str, &[&str]) = match name {
        "admin" => ("adm", &["admin", "manager", "member", "reader"]),
        "alice" => ("a", &["member", "reader"]),
        "reader" => ("a", &["reader"]),
        "bob" => ("b", &["member", "reader"]),
        "carol" => ("c", &["member", "reader"]),
        "service" => ("svc", &["service"]),
        "nova" => ("svc", &["admin", "member", "reader", "service"]),
        "system" => ("", &["admin", "member", "reader"]),
        _ => return None,
    };
    let scope = match project {
        "" => Scope::System,
        id => Scope::Project { id: id.into(), name: id.into(), domain_id: "default".into(), domain_name: "Default".into() },
    };
    Some(Context { user_id: format!("user-{name}"), scope, roles: roles.iter().map(|r| r.to_string()).collect(), ..Context::default() })
}

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Context> {
        context(token).ok_or_else(|| Error::unauthenticated("The request you have made requires authentication."))
    }
}

/// The tables that the service stands on.
pub const TABLES: [(&str, &[store::Migration]); 3] =
    [("events", events::MIGRATIONS), ("task", task::MIGRATIONS), ("image", image::MIGRATIONS)];

pub struct World {
    pub core: Core,
    pub images: Images,
    pub app: Arc<App>,
    pub dir: Arc<tempfile::TempDir>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }
    #[track_caller]
    pub fn is(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// How a request is told apart from a plain one.
pub type Headers<'a> = &'a [(&'static str, &'a str)];

impl World {
    pub async fn new() -> World {
        World::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> World {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = Config::for_home(dir.path());
        configure(&mut config);
        World::open(dir, config).await
    }

    /// The service on another store.
    pub async fn on(url: &str) -> World {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = Config::for_home(dir.path());
        config.set("store", url);
        World::open(dir, config).await
    }

    /// The service as a new process finds it.
    pub async fn open(dir: Arc<tempfile::TempDir>, config: Config) -> World {
        let url = match config.text("store") {
            "sqlite" => format!("sqlite:{}/db/sturnus.db", dir.path().display()),
            url => url.to_string(),
        };
        let store = store::Store::open(&url).await.unwrap();
        for (name, migrations) in TABLES {
            store.migrate(name, migrations).await.unwrap();
        }
        let policy = policy::Policy::new(policy::Enforcer::load(&[("image", &[image::RULES])], None).unwrap());
        let tasks = task::Engine::new(store.clone(), "test");
        let (hosts, _) = rpc::session::Hosts::new();
        let core = Core { config: Arc::new(config), store, policy, tasks, hosts: HostLinks::new(hosts), metrics: Metrics::default() };
        let images = Images::new(core.clone()).await.unwrap();
        let mut app = App::new(Arc::new(Tokens), AccessLog::default(), 1 << 20, "http://id/v3".into(), Metrics::default());
        let service = images.service().unwrap();
        app.mount(service.mounts, service.routes);
        World { core, images, app: Arc::new(app), dir }
    }

    /// Ends this process without any farewell and starts the next one.
    pub async fn restart(self) -> World {
        let World { core, dir, .. } = self;
        let config = (*core.config).clone();
        core.store.close().await;
        World::open(dir, config).await
    }

    pub async fn send(&self, token: &str, method: &str, path: &str, headers: Headers<'_>, body: Body) -> Answer {
        let mut request =
            hyper::Request::builder().method(method).uri(format!("/image{}", path.replace('"', "%22"))).header("host", "cloud:5000");
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.handle(request.body(body).unwrap(), &Peer::default()).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    /// The answer as it comes, its body unread.
    pub async fn raw(&self, token: &str, path: &str) -> http_api::Response {
        let request = hyper::Request::builder().uri(format!("/image{path}")).header("x-auth-token", token);
        self.app.handle(request.body(Body::empty()).unwrap(), &Peer::default()).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(token, "GET", path, &[], Body::empty()).await
    }
    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send(token, "DELETE", path, &[], Body::empty()).await
    }
    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(token, "POST", path, &[("content-type", "application/json")], Body::from(body.to_string())).await
    }
    pub async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(token, "PUT", path, &[("content-type", "application/json")], Body::from(body.to_string())).await
    }
    pub async fn patch(&self, token: &str, id: &str, body: Value) -> Answer {
        let kind = [("content-type", "application/openstack-images-v2.1-json-patch")];
        self.send(token, "PATCH", &format!("/v2/images/{id}"), &kind, Body::from(body.to_string())).await
    }
    pub async fn upload(&self, token: &str, id: &str, body: impl Into<Body>) -> Answer {
        self.send(token, "PUT", &format!("/v2/images/{id}/file"), &[("content-type", "application/octet-stream")], body.into()).await
    }

    pub async fn stage(&self, token: &str, id: &str, body: impl Into<Body>) -> Answer {
        self.send(token, "PUT", &format!("/v2/images/{id}/stage"), &[("content-type", "application/octet-stream")], body.into()).await
    }
    pub async fn import(&self, token: &str, id: &str, body: Value) -> Answer {
        self.post(token, &format!("/v2/images/{id}/import"), body).await
    }
    /// The image once no import has it any more.
    pub async fn imported(&self, token: &str, id: &str) -> Value {
        for _ in 0..2000 {
            let image = self.show(token, id).await;
            if image.get("os_glance_import_task").is_none() {
                return image;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the import of {id} does not end");
    }

    /// Creates an image and answers its id.
    pub async fn image(&self, token: &str, body: Value) -> String {
        let answer = self.post(token, "/v2/images", body).await.is(201);
        answer.json()["id"].as_str().unwrap().to_string()
    }
    /// Creates an active raw image.
    pub async fn active(&self, token: &str, mut body: Value, content: &[u8]) -> String {
        body["disk_format"] = "raw".into();
        body["container_format"] = "bare".into();
        let id = self.image(token, body).await;
        self.upload(token, &id, content.to_vec()).await.is(204);
        id
    }
    pub async fn show(&self, token: &str, id: &str) -> Value {
        self.get(token, &format!("/v2/images/{id}")).await.is(200).json()
    }

    /// Names in the directory of content, sorted.
    pub fn files(&self) -> Vec<String> {
        self.files_of(&self.images.directory())
    }
    pub fn files_of(&self, directory: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
