//! A whole cloud in one process. The list of services stands here, once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Config, Result, error::Internal};
use futures_util::future::BoxFuture;
use http_api::{App, Proxies};
use prometheus_client::metrics::{counter::Counter, family::Family};

use rpc::message::Lender;
use service::{Core, HostLinks, Service};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::certificates::Certificates;
use crate::housekeeping::Housekeeping;
use crate::lenders::Lenders;

/// How long running requests may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// A service's parts that are needed before it can be made.
struct Parts {
    kind: &'static str,
    rules: &'static [policy::Rule],
    migrations: &'static [store::Migration],
}

/// All services, in the order in which they are made.
const SERVICES: &[Parts] = &[
    Parts { kind: "identity", rules: identity::RULES, migrations: identity::MIGRATIONS },
    Parts { kind: "image", rules: image::RULES, migrations: image::MIGRATIONS },
    Parts { kind: "placement", rules: placement::RULES, migrations: placement::MIGRATIONS },
    Parts { kind: "network", rules: network::RULES, migrations: network::MIGRATIONS },
    Parts { kind: "fault", rules: fault::RULES, migrations: fault::MIGRATIONS },
    Parts { kind: "operation", rules: operation::RULES, migrations: &[] },
    Parts { kind: block_storage::KIND, rules: block_storage::RULES, migrations: block_storage::MIGRATIONS },
    Parts { kind: "compute", rules: compute::RULES, migrations: compute::MIGRATIONS },
    Parts { kind: inventory::KIND, rules: inventory::RULES, migrations: inventory::MIGRATIONS },
    Parts { kind: instance_ha::KIND, rules: instance_ha::RULES, migrations: instance_ha::MIGRATIONS },
];

/// The controller of a running cloud.
pub struct Cloud {
    pub core: Core,
    pub app: Arc<App>,
    pub identity: identity::Identity,
    pub images: image::Images,
    pub placement: placement::Placement,
    pub network: network::Network,
    pub faults: fault::Faults,
    pub volumes: block_storage::Volumes,
    pub compute: compute::Compute,
    pub inventory: inventory::Inventory,
    pub maintenance: maintenance::Maintenance,
    certificates: Arc<Certificates>,
    dispatcher: JoinHandle<()>,
}

/// Whose tables there are in the store, and the migrations that make them.
pub fn tables() -> Vec<(&'static str, &'static [store::Migration])> {
    let below = [("events", events::MIGRATIONS), ("task", task::MIGRATIONS)];
    below.into_iter().chain(SERVICES.iter().map(|parts| (parts.kind, parts.migrations))).collect()
}

/// The policy of all services with the overrides of `policy.yaml`.
pub fn policy(config: &Config) -> Result<policy::Policy> {
    let rules: Vec<(&'static str, &[&'static [policy::Rule]])> =
        SERVICES.iter().map(|s| (s.kind, std::slice::from_ref(&s.rules))).collect();
    Ok(policy::Policy::new(policy::Enforcer::load(&rules, overrides(config)?.as_deref())?))
}

/// The text of the file with overrides, if there is one.
fn overrides(config: &Config) -> Result<Option<String>> {
    let (path, required) = match config.text("policy_file") {
        "" => (config.home().join("policy.yaml"), false),
        path => (path.into(), true),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if !required && e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(base::Error::invalid(format!("{}: {e}", path.display()))),
    }
}

/// The store that `config` names.
pub async fn store(config: &Config) -> Result<store::Store> {
    match config.text("store") {
        "sqlite" => {
            let directory = config.home().join("db");
            std::fs::create_dir_all(&directory).internal("making the database directory")?;
            store::Store::open(&format!("sqlite:{}", directory.join("sturnus.sqlite").display())).await
        }
        url => store::Store::open(url).await,
    }
}

impl Cloud {
    /// Opens the store, brings its tables up to date and makes every service. Nothing is served yet.
    pub async fn open(config: Config) -> Result<Cloud> {
        let config = Arc::new(config);
        let password = crate::credentials::ensure(&config)?;
        let store = store(&config).await?;
        for (service, migrations) in tables() {
            store.migrate(service, migrations).await?;
        }
        let (hosts, heard) = rpc::session::Hosts::new();
        let core = Core {
            policy: policy(&config)?,
            tasks: task::Engine::new(store.clone(), "controller"),
            hosts: HostLinks::new(hosts),
            metrics: http_api::metrics::Metrics::default(),
            store,
            config: config.clone(),
        };
        let identity = identity::Identity::new(core.clone()).await?;
        identity.bootstrap(&password).await?;
        let images = image::Images::new(core.clone()).await?;
        let limits = identity.clone();
        images.limits_set(Box::new(move |tx, project, resource| limits.limit_in(tx, "image", project, resource)));
        let endpoints = identity.clone();
        images.endpoints_set(Box::new(move |tx, region, interface| endpoints.endpoint_in(tx, "image", interface, region)));
        images.key_manager_set(image::Barbican::new(&config, KeyManager { config: config.clone(), identity: identity.clone() })?);
        let placement = placement::Placement::new(core.clone()).await?;
        let network = network::Network::new(core.clone()).await?;
        let faults = fault::Faults::new(core.clone()).await?;
        let volumes = block_storage::Volumes::new(core.clone(), images.clone(), placement.clone()).await?;
        let projects = identity.clone();
        volumes.projects_set(Box::new(move |tx, name| projects.project_named_in(tx, name)));
        let compute =
            compute::Compute::new(core.clone(), images.clone(), placement.clone(), network.clone(), volumes.clone(), faults.clone())
                .await?;

        let inventory = inventory::Inventory::new(core.clone(), network.clone(), volumes.clone(), compute.clone(), faults.clone()).await?;

        let instance_ha = instance_ha::InstanceHa::new(core.clone(), inventory.clone(), compute.clone()).await?;

        let maintenance = maintenance::Maintenance::new(core.clone(), inventory.clone(), compute.clone());

        let services = vec![
            identity.service()?,
            images.service()?,
            placement.service()?,
            network.service()?,
            faults.service()?,
            operation::Operations::new(core.clone()).service()?,
            volumes.service()?,
            compute.service()?,
            inventory.service()?,
            instance_ha.service()?,
        ];
        let base = config.public_url();
        let entries = services.iter().map(|s| identity::CatalogueEntry {
            kind: s.kind.to_string(),
            name: s.name.to_string(),
            description: s.description.to_string(),
            url_template: format!("{base}{}", s.endpoint),
        });
        let mut entries: Vec<identity::CatalogueEntry> = entries.collect();
        aliases(&mut entries);
        identity.catalogue_set(entries).await?;
        let app = Arc::new(app(&core, identity.clone(), services)?);
        let links = core.hosts.clone();
        let dispatcher = tokio::spawn(async move { links.dispatch(heard).await });
        core.tasks.reconcile(Arc::new(Housekeeping { store: core.store.clone(), tasks: core.tasks.clone() }));
        let certificates = Arc::new(Certificates::new(core.store.clone(), faults.clone(), config.home().join("pki")));
        core.tasks.reconcile(certificates.clone());
        core.tasks.start().await?;
        Ok(Cloud {
            core,
            app,
            identity,
            images,
            placement,
            network,
            faults,
            volumes,
            compute,
            inventory,
            maintenance,
            certificates,
            dispatcher,
        })
    }

    /// Serves the API until `stop` becomes true.
    pub async fn serve(
        app: Arc<App>,
        listener: TcpListener,
        tls: Option<http_api::tls::Acceptor>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        http_api::server::serve(listener, tls, app, stop, DRAIN).await
    }

    /// Reads the policy file again; a broken one leaves the policy as it is.
    pub fn policy_reload(&self) -> Result<()> {
        self.core.policy.reload(overrides(&self.core.config)?.as_deref())
    }

    /// Serves hosts of other machines until `stop` becomes true.
    pub async fn sessions(&self, listener: TcpListener, stop: watch::Receiver<bool>) -> Result<impl Future<Output = Result<()>> + use<>> {
        let config = &self.core.config;
        let pki = config.home().join("pki");
        let shown = self.certificates.issued(names(config))?;
        let authority = pki::Authority::open(&pki)?;
        let tls = grpc::ServerTls { ca: authority.certificate().to_string(), shown, revocations: Some(Arc::new(authority.revocations())) };
        let turned_away = Family::default();
        self.core.metrics.register("session_refusals", "Connections to the sessions' port that were no host's", turned_away.clone());
        let lenders = Lenders::new(self.core.hosts.sessions().clone());
        let desk = Arc::new(Desk { images: config.home().join("images"), lenders, pki, turned_away });
        Ok(grpc::serve(listener, tls, self.core.hosts.sessions().clone(), desk, stop))
    }

    /// What wraps connections to `address`: nothing on loopback, TLS elsewhere. Without a certificate in the
    /// configuration the built-in authority issues one.
    pub fn tls(&self, address: std::net::IpAddr) -> Result<Option<http_api::tls::Acceptor>> {
        let config = &self.core.config;
        let clients = match config.text("tls.client_ca") {
            "" => None,
            file => Some(http_api::tls::clients(file.as_ref())?),
        };
        match (config.text("tls.certificate"), config.text("tls.key")) {
            ("", "") if address.is_loopback() => Ok(None),
            ("", "") => http_api::tls::acceptor(self.certificates.issued(names(config))?, clients).map(Some),
            ("", _) | (_, "") => Err(base::Error::invalid("give `tls.certificate` and `tls.key` together, or neither")),
            (certificate, key) => http_api::tls::acceptor(self.certificates.given(certificate.as_ref(), key.as_ref())?, clients).map(Some),
        }
    }

    /// How a host of this process reaches the controller: the same messages as over the wire, in memory.
    pub fn dial(&self) -> host::Dial {
        let sessions = self.core.hosts.sessions().clone();
        Arc::new(move || {
            let (host, controller) = rpc::session::link();
            let sessions = sessions.clone();
            tokio::spawn(async move {
                if let Err(error) = sessions.serve(controller).await {
                    tracing::warn!("the session with the local host ended: {}", error.chain());
                }
            });
            Box::pin(async move { Ok(host) })
        })
    }

    /// Ends the work under way in an orderly manner. What is not finished goes on after the next start.
    pub async fn close(self) {
        self.core.tasks.stop().await;
        self.dispatcher.abort();
        self.core.store.close().await;
    }

    /// Ends as a crash does, for tests that go on in this process: nothing of it may reach the store that the next one opens.
    pub async fn kill(self) {
        self.core.tasks.kill().await;
        self.dispatcher.abort();
        let _ = self.dispatcher.await;
    }
}

/// Where the key manager is.
struct KeyManager {
    config: Arc<Config>,
    identity: identity::Identity,
}

#[async_trait]
impl image::Endpoint for KeyManager {
    async fn url(&self) -> Result<Option<String>> {
        match self.config.text("image.key_manager") {
            "" => self.identity.service_url("key-manager").await,
            url => Ok(Some(url.to_string())),
        }
    }
}

/// Clients of older habits look for services under older types.
fn aliases(entries: &mut Vec<identity::CatalogueEntry>) {
    let of = |e: &&identity::CatalogueEntry| e.kind == block_storage::KIND;
    if let Some(entry) = entries.iter().find(of) {
        let alias = identity::CatalogueEntry {
            kind: "volumev3".into(),
            name: "cinderv3".into(),
            description: entry.description.clone(),
            url_template: entry.url_template.clone(),
        };
        entries.push(alias);
    }
}

/// What hosts of other machines ask for besides their sessions.
struct Desk {
    images: PathBuf,
    lenders: Lenders,
    /// The authority's directory.
    pki: PathBuf,
    /// Connections that were no host's, by reason.
    turned_away: Family<[(&'static str, &'static str); 1], Counter>,
}

impl grpc::Desk for Desk {
    fn image(&self, sha256: &str) -> Result<PathBuf> {
        // A name that is a hash leads nowhere else.
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(base::Error::invalid(format!("`{sha256}` is no SHA-256")));
        }
        Ok(self.images.join(sha256))
    }

    fn lender<'a>(&'a self, host: &'a pki::Peer, sha256: &'a str, elsewhere: bool) -> BoxFuture<'a, Option<Lender>> {
        Box::pin(self.lenders.find(&host.host_id, sha256, elsewhere))
    }

    fn renew(&self, host: &pki::Peer, request: &str) -> Result<grpc::Renewed> {
        let authority = pki::Authority::open(&self.pki)?;
        let certificate = authority.sign_host(&host.host_id, &host.name, request)?;
        Ok(grpc::Renewed { authority: authority.certificate().to_string(), certificate })
    }

    fn turned_away(&self, reason: &'static str) {
        self.turned_away.get_or_create(&[("reason", reason)]).inc();
    }
}

/// By what names and addresses clients and hosts reach this controller: the one in the catalogue, those it listens on, and
/// this machine's own.
fn names(config: &Config) -> Vec<String> {
    let api = config.listen().ip().to_string();
    let sessions = config.text("hosts.listen").parse::<SocketAddr>().map_or_else(|_| api.clone(), |at| at.ip().to_string());
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).filter(|name| name.is_ascii());
    let mut names = Vec::new();
    for name in [&config.public_host(), &api, &sessions, &machine.unwrap_or_default(), "localhost", "127.0.0.1", "::1"] {
        // The address that stands for all of them is nobody's name.
        let unspecified = name.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_unspecified());
        if !name.is_empty() && !unspecified && !names.iter().any(|n| n == name) {
            names.push(name.to_string());
        }
    }
    names
}

fn app(core: &Core, identity: identity::Identity, services: Vec<Service>) -> Result<App> {
    let log = http_api::access::AccessLog::open(&core.config.home().join("log"))?;
    let max_body = usize::try_from(core.config.int("api.max_body_bytes")).unwrap_or(usize::MAX);
    let identity_url = format!("{}/identity/v3", core.config.public_url());
    let said = |name: &str| core.config.text(name);
    let proxies = Proxies::read(core.config.flag("api.proxied"), said("api.proxies"), said("api.client_certificate_header"))?;
    let mut app = App::new(Arc::new(identity), log, max_body, identity_url, core.metrics.clone()).behind(proxies);
    for service in services {
        app.mount(service.mounts, service.routes);
    }
    Ok(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_what_clients_may_call_the_api() {
        let names_of = |url: &str, address: &str| {
            let mut config = Config::for_home("/nowhere");
            config.set("public_url", url);
            config.set("listen", &SocketAddr::new(address.parse().unwrap(), 5000).to_string());
            config.set("hosts.listen", "192.0.2.9:5001");
            names(&config)
        };
        let names = names_of("https://cloud.example:5000/api", "0.0.0.0");
        assert!(names.contains(&"192.0.2.9".to_string()));
        assert_eq!(names.first().map(String::as_str), Some("cloud.example"));
        assert!(!names.contains(&"0.0.0.0".to_string()));
        assert!(names.contains(&"127.0.0.1".to_string()));
        assert_eq!(names_of("https://[2001:db8::1]/", "::")[0], "2001:db8::1");
        assert_eq!(names_of("https://192.0.2.7:5000", "192.0.2.7")[..1], ["192.0.2.7"]);
    }
}
