//! The identity service: who may do what where, and the tokens that say so.
//!
//! [`Identity`] is its handle. It is also the [`http_api::Authenticate`] of every API: a token is looked up in memory, and
//! only after a change in the store is it looked up there again.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod api;
mod application_credentials;
mod attempts;
mod auth;
mod bootstrap;
mod catalogue;
mod certificate;
mod console;
mod credentials;
mod domain_config;
mod ec2;
mod endpoint_filter;
mod endpoint_policy;
mod fault;
mod federation;
mod grants;
mod groups;
mod ldap;
mod limits;
mod list;
mod oauth1;
mod password;
mod password_rules;
mod policies;
mod policy;
mod projects;
mod roles;
mod sealed;
mod shared_keys;
mod signature_keys;
mod sync;
mod token;
mod trusts;
mod users;
mod wire;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Config, Context, Result, Scope};
use http_api::{Asked, Authenticate};
use serde_json::{Value, json};
use service::{Core, Service};
use store::{Migration, Store, Tx};

pub use bootstrap::CatalogueEntry;
pub use domain_config::DomainConfig;
pub use federation::mapping::mapping_test;
pub use policy::RULES;

use application_credentials::access;
use application_credentials::secret::Proven;
use attempts::Attempts;
use auth::Guesses;
use password::Hasher;
use password_rules::PasswordRules;
use token::cache::Cache;
use token::jws::Signatures;
use token::keys::Keys;
use token::methods::Methods;
use token::pairs::Pairs;
use token::ring::Ring;
use token::shared::Seal;

pub static MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_identity", sql: include_str!("../migrations/0001_identity.sql") },
    Migration { name: "0002_credential", sql: include_str!("../migrations/0002_credential.sql") },
    Migration { name: "0003_policy_blob", sql: include_str!("../migrations/0003_policy_blob.sql") },
    Migration { name: "0004_trust", sql: include_str!("../migrations/0004_trust.sql") },
    Migration { name: "0005_application_credential", sql: include_str!("../migrations/0005_application_credential.sql") },
    Migration { name: "0006_totp_use", sql: include_str!("../migrations/0006_totp_use.sql") },
    Migration { name: "0008_limit", sql: include_str!("../migrations/0008_limit.sql") },
    Migration { name: "0009_domain_config", sql: include_str!("../migrations/0009_domain_config.sql") },
    Migration { name: "0010_endpoint_filter", sql: include_str!("../migrations/0010_endpoint_filter.sql") },
    Migration { name: "0011_password", sql: include_str!("../migrations/0011_password.sql") },
    Migration { name: "0012_federation", sql: include_str!("../migrations/0012_federation.sql") },
    Migration { name: "0013_federated_user", sql: include_str!("../migrations/0013_federated_user.sql") },
    Migration { name: "0016_directory", sql: include_str!("../migrations/0016_directory.sql") },
    Migration { name: "0017_oauth1", sql: include_str!("../migrations/0017_oauth1.sql") },
    Migration { name: "0018_saml", sql: include_str!("../migrations/0018_saml.sql") },
    Migration { name: "0019_shared_key", sql: include_str!("../migrations/0019_shared_key.sql") },
];

/// The service's handle. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    store: Store,
    policy: ::policy::Policy,
    config: Arc<Config>,
    hasher: Hasher,
    proven: Proven,
    password_rules: PasswordRules,
    attempts: Attempts,
    guesses: Guesses,
    keys: Ring,
    methods: Methods,
    /// When tokens are signed.
    signatures: Option<RwLock<Arc<Signatures>>>,
    /// Of secrets in the store.
    credential_keys: Ring,
    /// When keys are shared with other controllers.
    seal: Option<Seal>,
    /// When an unknown key last made us look for new ones.
    keys_missed: Mutex<Option<Instant>>,
    cache: Cache,
    directories: ldap::Directories,
    peers: federation::peers::Peers,
    /// To which browsers may take tokens.
    dashboards: Vec<String>,
    /// When this cloud is a SAML identity provider.
    saml: Option<federation::saml::idp::Idp>,
}

/// A project as other services need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectInfo {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    pub enabled: bool,
}

impl Identity {
    /// Needs the tables of [`MIGRATIONS`]. Loads the keys of tokens, or makes them.
    pub async fn new(core: Core) -> Result<Identity> {
        let model = limits::Model::of(&core.config)?;
        core.store.read(|tx| model.check_tree_in(tx)).await?;
        let providers = match core.config.text("federation.settings") {
            "" => core.config.home().join("federation.toml"),
            file => PathBuf::from(file),
        };
        let own_url = match core.config.text("federation.url") {
            "" => format!("{}/identity/v3", core.config.public_url()),
            url => url.trim_end_matches('/').to_string(),
        };
        let signatures = match core.config.text("token.provider") {
            "fernet" => None,
            "jws" => {
                let pairs = Pairs::open(&core.config.home().join("keys/jws"), Duration::MAX)?;
                Some(RwLock::new(Arc::new(Signatures::of(pairs, Vec::new()))))
            }
            other => return Err(base::Error::invalid(format!("token.provider: `{other}` is neither fernet nor jws"))),
        };
        let identity = Identity(Arc::new(Inner {
            hasher: Hasher::start(&core.config)?,
            proven: Proven::new()?,
            password_rules: PasswordRules::read(&core.config)?,
            attempts: Attempts::new(core.config.int("password.attempts_per_minute")),
            guesses: Guesses::default(),
            methods: Methods::read(&core.config)?,
            keys: Ring::open(directory(&core.config, "token.key_directory", "keys/token"))?,
            signatures,
            credential_keys: Ring::open(directory(&core.config, "credential.key_repository", "keys/credential"))?,
            seal: if core.store.is_sqlite() { None } else { Some(Seal::read(&core.config)?) },
            keys_missed: Mutex::default(),
            peers: federation::peers::Peers::load(providers, own_url)?,
            dashboards: federation::settings::dashboards(&core.config)?,
            saml: federation::saml::idp::Idp::read(&core.config)?,
            cache: Cache::new(!core.store.is_sqlite()),
            directories: ldap::Directories::default(),
            store: core.store,
            policy: core.policy,
            config: core.config,
        }));
        identity.keys_begin().await?;
        sync::follow(&identity.0.store, identity.0.cache.clone());
        core.tasks.reconcile(Arc::new(sync::FollowKeys(identity.clone())));
        core.tasks.reconcile(Arc::new(sync::TokenKeys(identity.clone())));
        core.tasks.reconcile(Arc::new(sync::Revocations(identity.clone())));
        core.tasks.reconcile(Arc::new(sync::InactiveUsers(identity.clone())));
        core.tasks.reconcile(Arc::new(sync::Directories(identity.clone())));
        core.tasks.reconcile(Arc::new(sync::Memberships(identity.clone())));
        Ok(identity)
    }

    pub fn service(&self) -> Result<Service> {
        Ok(Service {
            kind: "identity",
            name: "keystone",
            description: "Users, projects, roles and the catalogue",
            mounts: &["/identity", ""],
            endpoint: "/identity",
            routes: api::routes(self.clone())?,
        })
    }

    /// `None` when there is none, or when it is a domain.
    pub async fn project_fetch(&self, id: &str) -> Result<Option<ProjectInfo>> {
        let found = self.0.store.read(|tx| projects::project_fetch_in(tx, id)).await?;
        Ok(found.filter(|p| !p.is_domain).map(|p| ProjectInfo { id: p.id, name: p.name, domain_id: p.domain_id, enabled: p.enabled }))
    }

    /// The id of the project that is named so, by its id or by its name in the default domain.
    pub fn project_named_in(&self, tx: &Tx, name: &str) -> Result<Option<String>> {
        let found = match projects::project_fetch_in(tx, name)? {
            Some(found) => Some(found),
            None => projects::project_by_name_in(tx, name, bootstrap::DEFAULT_DOMAIN)?,
        };
        Ok(found.filter(|p| !p.is_domain).map(|p| p.id))
    }

    pub async fn project_exists(&self, id: &str) -> Result<bool> {
        Ok(self.project_fetch(id).await?.is_some())
    }

    fn keys(&self) -> Arc<Keys> {
        self.0.keys.keys()
    }

    fn signatures(&self) -> Option<Arc<Signatures>> {
        self.0.signatures.as_ref().map(|signatures| signatures.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Makes the staged key of tokens the one that seals, and stages a new one; likewise the pair of this controller that signs them. Other controllers of
    /// the database follow at once, whoever shares the directory within a minute.
    pub async fn keys_rotate(&self) -> Result<()> {
        self.signatures_rotate(None).await?;
        sync::TokenKeys(self.clone()).rotate(None).await
    }

    fn token_lifetime(&self) -> Duration {
        Duration::from_secs(self.0.config.int("token.lifetime_seconds").max(1))
    }

    /// A write that leaves the answers about tokens as they are.
    async fn add<T: Send + 'static>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send + 'static) -> Result<T> {
        self.0
            .store
            .write(move |tx| {
                tx.lock("identity")?;
                f(tx)
            })
            .await
    }

    /// A write after which every token is looked up again.
    async fn change<T: Send + 'static>(&self, f: impl FnOnce(&Tx) -> Result<T> + Send + 'static) -> Result<T> {
        let cache = self.0.cache.clone();
        self.add(move |tx| {
            sync::changed_in(tx, cache);
            f(tx)
        })
        .await
    }

    /// Whether the caller may do what `identity:<rule>` guards.
    fn allow(&self, rule: &str, ctx: &Context, target: &Value) -> Result<()> {
        let rule = format!("identity:{rule}");
        if self.0.policy.check("identity", &rule, &scoped(ctx), target) { Ok(()) } else { Err(fault::forbidden_action(&rule)) }
    }
}

/// Where keys are: as a setting says, or in the home.
fn directory(config: &Config, setting: &str, own: &str) -> PathBuf {
    match config.text(setting) {
        "" => config.home().join(own),
        directory => PathBuf::from(directory),
    }
}

/// To upstream's rules a token without a scope is one for a project, if for none in particular: a user sees itself by it.
fn scoped(ctx: &Context) -> Cow<'_, Context> {
    if ctx.scope != Scope::Unscoped {
        return Cow::Borrowed(ctx);
    }
    let none = String::new;
    let scope = Scope::Project { id: none(), name: none(), domain_id: none(), domain_name: none() };
    Cow::Owned(Context { scope, ..ctx.clone() })
}

/// Writes the event of a change into its transaction.
fn note(tx: &Tx, ctx: &Context, what: &str, id: &str) -> Result<()> {
    events::record(tx, &events::Event::new(format!("identity.{what}"), id, ctx).payload(json!({ "resource_info": id }))).map(|_| ())
}

#[async_trait]
impl Authenticate for Identity {
    async fn authenticate(&self, token: &str) -> Result<Context> {
        let live = self.token_live(token, Duration::ZERO).await?;
        // Nobody has shown a certificate here.
        if live.is_held_by(None) { Ok(live.ctx.clone()) } else { Err(fault::unauthorized()) }
    }

    async fn admit(&self, token: &str, asked: &Asked<'_>) -> Result<Context> {
        let live = self.token_live(token, Duration::ZERO).await?;
        if !live.is_held_by(asked.certificate) {
            return Err(fault::unauthorized());
        }
        // Upstream's too since 2026: what somebody got for a signature is for the service that was asked, and rules no identities.
        if asked.service == "identity" && live.payload.methods & self.0.methods.bit("ec2credential") != 0 {
            return Err(base::Error::forbidden("A token by an EC2 credential is not taken here."));
        }
        match live.access_rules() {
            [] => Ok(live.ctx.clone()),
            rules if access::admit(rules, asked) => Ok(live.ctx.clone()),
            _ => Err(fault::unauthorized()),
        }
    }

    async fn admit_tokenless(&self, asked: &Asked<'_>) -> Result<Context> {
        // Other services take tokens alone, as upstream.
        if asked.service != "identity" {
            return Err(fault::unauthorized());
        }
        Ok(self.tokenless_live(asked.certificate, asked.headers).await?.ctx.clone())
    }
}
