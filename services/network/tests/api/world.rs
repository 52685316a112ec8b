//! A network service with callers by token text, and a host at the other end of a link.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use base::{Config, Context, Error, Result, Scope};
use http_api::{App, Authenticate, Peer, access::AccessLog};
use network::Network;
use rpc::message::{HostInfo, ToController, ToHost};
use rpc::network::NetworkDocument;
use rpc::session::{HostEnd, Hosts, link};
use serde_json::{Value, json};
use service::{Core, HostLinks};

/// The tables that the service stands on.
pub const TABLES: [(&str, &[store::Migration]); 3] =
    [("events", events::MIGRATIONS), ("task", task::MIGRATIONS), ("network", network::MIGRATIONS)];

pub struct World {
    pub app: App,
    pub net: Network,
    pub core: Core,
    home: tempfile::TempDir,
}

/// `ROLE:PROJECT`, for example `member:p1`.
struct Tokens;

pub fn caller(token: &str) -> Context {
    let (role, project) = token.split_once(':').unwrap_or((token, "admins"));
    let roles: &[&str] = match role {
        "admin" => &["admin", "manager", "member", "reader"],
        "manager" => &["manager", "member", "reader"],
        "member" => &["member", "reader"],
        "reader" => &["reader"],
        "service" => &["service"],
        _ => &[],
    };
    Context {
        user_id: format!("user-{role}"),
        scope: Scope::Project { id: project.into(), name: project.into(), domain_id: "default".into(), domain_name: "Default".into() },
        roles: roles.iter().map(|r| r.to_string()).collect(),
        ..Context::default()
    }
}

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Context> {
        if token == "bad" { Err(Error::unauthenticated("The request you have made requires authentication.")) } else { Ok(caller(token)) }
    }
}

pub async fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/db.sqlite", home.path().display());
    made(home, &url).await
}

/// The same on another store.
pub async fn on(url: &str) -> World {
    made(tempfile::tempdir().unwrap(), url).await
}

async fn made(home: tempfile::TempDir, url: &str) -> World {
    let store = store::Store::open(url).await.unwrap();
    for (name, migrations) in TABLES {
        store.migrate(name, migrations).await.unwrap();
    }
    started(Config::for_home(home.path()), home, store).await
}

async fn started(config: Config, home: tempfile::TempDir, store: store::Store) -> World {
    let policy = policy::Policy::new(policy::Enforcer::load(&[("network", &[network::RULES])], None).unwrap());
    let tasks = task::Engine::new(store.clone(), "test");
    let (hosts, heard) = Hosts::new();
    let core = Core { config: Arc::new(config), store, policy, tasks, hosts: HostLinks::new(hosts), metrics: Default::default() };
    let net = Network::new(core.clone()).await.unwrap();
    let links = core.hosts.clone();
    tokio::spawn(async move { links.dispatch(heard).await });
    core.tasks.start().await.unwrap();
    let mut app = App::new(Arc::new(Tokens), AccessLog::default(), 1 << 20, "http://localhost/identity".into(), core.metrics.clone());
    let service = net.service().unwrap();
    app.mount(service.mounts, service.routes);
    World { app, net, core, home }
}

/// Something that must come true soon.
pub async fn soon<T, F: std::future::Future<Output = Option<T>>>(what: &str, mut f: impl FnMut() -> F) -> T {
    let tries = async {
        loop {
            if let Some(found) = f().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), tries).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

impl World {
    /// The controller starts again with these settings.
    pub async fn again(self, settings: &[(&'static str, &str)]) -> World {
        self.core.tasks.stop().await;
        let mut config = Config::for_home(self.home.path());
        for (key, value) in settings {
            config.set(key, value);
        }
        started(config, self.home, self.core.store).await
    }

    /// Status and body of a request to `/network/v2.0` and `path`.
    pub async fn ask(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask_with(token, method, path, body, &[]).await
    }

    pub async fn ask_with(&self, token: &str, method: &str, path: &str, body: Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = hyper::Request::builder().method(method).uri(format!("/network/v2.0{path}")).header("host", "cloud");
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let response = self.app.handle(request.body(Body::from(bytes)).unwrap(), &Peer::default()).await;
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A create request that must succeed; answers the resource.
    pub async fn make(&self, token: &str, path: &str, kind: &str, body: Value) -> Value {
        let (status, answer) = self.ask(token, "POST", path, json!({kind: body})).await;
        assert_eq!(status, 201, "{path}: {answer}");
        answer[kind].clone()
    }
    pub async fn network(&self, token: &str) -> String {
        text(&self.make(token, "/networks", "network", json!({"name": "n"})).await["id"])
    }
    pub async fn subnet(&self, token: &str, network: &str, cidr: &str) -> String {
        let version = if cidr.contains(':') { 6 } else { 4 };
        text(&self.make(token, "/subnets", "subnet", json!({"network_id": network, "cidr": cidr, "ip_version": version})).await["id"])
    }
    pub async fn port(&self, token: &str, network: &str) -> Value {
        self.make(token, "/ports", "port", json!({"network_id": network})).await
    }
    /// The external network and its subnet.
    pub async fn public(&self) -> String {
        let body =
            json!({"name": "public", "router:external": true, "provider:network_type": "flat", "provider:physical_network": "public"});
        let id = text(&self.make("admin", "/networks", "network", body).await["id"]);
        let body = json!({"network_id": id, "cidr": "172.24.4.0/24", "ip_version": 4, "enable_dhcp": false});
        self.make("admin", "/subnets", "subnet", body).await;
        id
    }
    /// A router of the project from a new network with `cidr` to `public`: (router, network, subnet).
    pub async fn routed(&self, token: &str, public: &str, cidr: &str) -> (String, String, String) {
        let network = self.network(token).await;
        let subnet = self.subnet(token, &network, cidr).await;
        let router = text(&self.make(token, "/routers", "router", json!({"external_gateway_info": {"network_id": public}})).await["id"]);
        let (status, answer) =
            self.ask(token, "PUT", &format!("/routers/{router}/add_router_interface"), json!({"subnet_id": subnet})).await;
        assert_eq!(status, 200, "{answer}");
        (router, network, subnet)
    }
    /// The fault's type, after a check of the status.
    pub async fn refused(&self, token: &str, method: &str, path: &str, body: Value, status: u16) -> String {
        let (got, answer) = self.ask(token, method, path, body.clone()).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        text(&answer["NeutronError"]["type"])
    }
    pub async fn get(&self, token: &str, path: &str) -> Value {
        let (status, answer) = self.ask(token, "GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
    pub async fn delete(&self, token: &str, path: &str) {
        let (status, answer) = self.ask(token, "DELETE", path, Value::Null).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }

    /// Connects a host.
    pub async fn host(&self, id: &str, name: &str) -> Host {
        self.host_at(id, name, "").await
    }

    /// A host whose tunnels end at an address.
    pub async fn host_at(&self, id: &str, name: &str, address: &str) -> Host {
        self.host_of(HostInfo { id: id.into(), name: name.into(), address: address.into(), ..HostInfo::default() }).await
    }

    /// A host that describes itself so.
    pub async fn host_of(&self, info: HostInfo) -> Host {
        let (host, controller) = link();
        let hosts = self.core.hosts.sessions().clone();
        tokio::spawn(async move { hosts.serve(controller).await });
        host.outgoing
            .send(ToController::Hello { versions: (*rpc::message::VERSIONS.start(), *rpc::message::VERSIONS.end()), host: info })
            .await
            .unwrap();
        let mut host = Host { end: host, last: NetworkDocument::default() };
        host.document(|_| true).await;
        host
    }

    /// Nothing at all is left in these tables.
    pub async fn empty(&self, tables: &[&str]) {
        for table in tables {
            let sql = format!("SELECT COUNT(*) FROM {table}");
            let n = self.core.store.read(|tx| tx.query_one(&sql, &[], |row| row.int(0))).await.unwrap();
            assert_eq!(n, 0, "{table} is not empty");
        }
    }
}

pub struct Host {
    end: HostEnd,
    pub last: NetworkDocument,
}

impl Host {
    /// The first document from now on that fits.
    pub async fn document(&mut self, fits: impl Fn(&NetworkDocument) -> bool) -> NetworkDocument {
        let wait = async {
            loop {
                match self.end.incoming.recv().await.expect("the session ended") {
                    ToHost::Network(document) => {
                        assert!(document.generation >= self.last.generation);
                        self.last = *document;
                        if fits(&self.last) {
                            return self.last.clone();
                        }
                    }
                    _ => continue,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("no such document came")
    }

    /// Why the session ended, once it has.
    pub async fn ended(&mut self) -> String {
        let wait = async {
            while let Some(message) = self.end.incoming.recv().await {
                if let ToHost::Refused { reason } = message {
                    return reason;
                }
            }
            panic!("it ended without a word");
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the session goes on")
    }

    /// Says that the last document was applied and these ports are up.
    pub async fn applied(&self, ports_up: &[&str]) {
        let ports_up = ports_up.iter().map(|p| p.to_string()).collect();
        let generation = self.last.generation;
        self.end.outgoing.send(ToController::Network { generation, ports_up, error: None }).await.unwrap();
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_string()
}

/// The ids (or any other attribute) of a list.
pub fn all(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| text(&item[key])).collect()
}
