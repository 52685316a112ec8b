//! `sturnus identity`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use base::Config;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Place, down};

#[derive(Subcommand)]
pub enum Identity {
    /// Make what every cloud begins with, as far as it is not there: the default domain, the user admin, roles, projects, the region
    ///
    /// The cloud does so by itself whenever it starts; this is for one that is to start later, or that lost a role. openrc and
    /// clouds.yaml in the home say the password of a user that is made; one that is there keeps its own (see reset-password).
    #[command(after_help = "Example:\n  sturnus --home /var/lib/sturnus identity bootstrap && sturnus --home /var/lib/sturnus up --daemon")]
    Bootstrap,
    /// Give the user admin a new random password when nobody can log in any more
    ///
    /// openrc and clouds.yaml in the home say it. The account is also enabled, unlocked, freed of demands for other factors and given
    /// its role on the project admin and on the system; if it was deleted it is made again. The tokens it had are void. The cloud may
    /// be running: it lets the new password in at once, and gives up old tokens within a minute or two.
    #[command(after_help = "Example:\n  sturnus --home /var/lib/sturnus identity reset-password\n  source /var/lib/sturnus/openrc")]
    ResetPassword(Reset),
    /// Make the next key of tokens primary now
    ///
    /// The cloud does so by itself every `token.key_rotation_seconds`. Tokens stay valid; a running cloud seals (and signs, when tokens are
    /// signed) with the new key within a minute. Each time the oldest key goes: who does this often makes old tokens void. To make all tokens void at once stop the
    /// cloud, remove the files of keys/token in its home, and start it.
    #[command(after_help = "Example:\n  sturnus identity rotate-keys")]
    RotateKeys,
    /// Make the next key of stored secrets primary now
    ///
    /// Credentials, secrets of OAuth 1.0a and of domains' configurations are sealed with it. As keystone-manage credential_rotate: nothing is
    /// done while any of them is sealed with an older key than the primary one. Afterwards use migrate-credentials.
    #[command(after_help = "Example:\n  sturnus identity rotate-credential-keys && sturnus identity migrate-credentials")]
    RotateCredentialKeys,
    /// Seal all stored secrets with the primary key
    ///
    /// As keystone-manage credential_migrate. The cloud may be running; cut off, it is called again and goes on.
    #[command(after_help = "Example:\n  sturnus identity migrate-credentials")]
    MigrateCredentials,
    /// Forget what is over: revocations of tokens that have ended; trusts, application credentials and memberships that have
    ///
    /// A running cloud does so by itself, at least every hour; this is for a database that is to be copied or moved.
    #[command(after_help = "Example:\n  sturnus down && sturnus identity purge")]
    Purge,
    /// Mappings of federation
    #[command(subcommand)]
    Mapping(Mapping),
}

#[derive(Args, Default)]
pub struct Reset {
    /// Take the default domain out of its directory (identity.driver), if it is in one: no password that is set here would work
    #[arg(long)]
    leave_directory: bool,
}

#[derive(Subcommand)]
pub enum Mapping {
    /// Say what a mapping makes of an assertion, and how each of its rules fared; asks no cloud and changes none
    #[command(after_help = "Example:\n  sturnus identity mapping test rules.json assertion.json\n\n\
        rules.json is the list of rules, or an object with `rules` and `schema_version`, as the mapping's API takes them.\n\
        assertion.json is an object of attributes: {\"REMOTE_USER\": \"ada\", \"groups\": \"staff;admins\"}.\n\
        Exits with 1 if the mapping lets nobody in by this assertion.")]
    Test(Test),
}

#[derive(Args)]
pub struct Test {
    /// File with the mapping
    #[arg(value_name = "RULES.json")]
    rules: PathBuf,
    /// File with what the identity provider says
    #[arg(value_name = "ASSERTION.json")]
    assertion: PathBuf,
}

impl Identity {
    pub async fn run(self, place: &Place) -> Result<ExitCode> {
        match self {
            Identity::Mapping(Mapping::Test(test)) => return test.run(),
            Identity::Bootstrap => {
                let config = place.load()?;
                let home = config.home();
                std::fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
                let password = crate::credentials::ensure(&config)?;
                open(&config).await?.bootstrap(&password).await?;
                println!("the user admin is there: see {}", home.join("openrc").display());
            }
            Identity::ResetPassword(reset) => reset_password(&place.load()?, reset.leave_directory).await?,
            Identity::RotateKeys => {
                open(&place.load()?).await?.keys_rotate().await?;
                println!("a new key of tokens is primary");
            }
            Identity::RotateCredentialKeys => {
                open(&place.load()?).await?.credential_keys_rotate().await?;
                println!("a new key of stored secrets is primary: go on with migrate-credentials");
            }
            Identity::MigrateCredentials => {
                let count = open(&place.load()?).await?.credentials_migrate().await?;
                println!("secrets sealed anew: {count}");
            }
            Identity::Purge => {
                open(&place.load()?).await?.purge().await?;
                println!("what is over is forgotten");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Cut off between its two steps it leaves files with the old password; called again it is done.
async fn reset_password(config: &Config, leave_directory: bool) -> Result<()> {
    let password = crate::credentials::random_password()?;
    open(config).await?.admin_reset(&password, leave_directory).await?;
    crate::credentials::save(config, &password)?;
    println!("the user admin has a new password: see {}", config.home().join("openrc").display());
    Ok(())
}

impl Test {
    fn run(&self) -> Result<ExitCode> {
        let assertion = json(&self.assertion)?;
        let assertion = assertion.as_object().ok_or_else(|| anyhow!("{}: not an object of attributes", self.assertion.display()))?;
        let report = ::identity::mapping_test(&json(&self.rules)?, assertion).with_context(|| self.rules.display().to_string())?;
        println!("{report:#}");
        Ok(if report.get("error").is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// The identity service on the cloud's database, which another process may be using.
async fn open(config: &Config) -> Result<::identity::Identity> {
    let home = config.home();
    if !home.join("openrc").exists() {
        bail!("there is no cloud in {}: give its --home", home.display());
    }
    let store = crate::cloud::store(config).await?;
    // The tables of a cloud that runs are its own affair.
    if down::running(&home)?.is_none() {
        for (service, migrations) in crate::cloud::tables() {
            store.migrate(service, migrations).await?;
        }
    }
    let (hosts, _) = rpc::session::Hosts::new();
    let core = service::Core {
        policy: crate::cloud::policy(config)?,
        tasks: task::Engine::new(store.clone(), "console"),
        hosts: service::HostLinks::new(hosts),
        metrics: http_api::metrics::Metrics::default(),
        store,
        config: Arc::new(config.clone()),
    };
    Ok(::identity::Identity::new(core).await?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A cloud that is to be in `cloud` in a directory.
    fn place(directory: &Path) -> Place {
        Place { home: Some(directory.join("cloud")), config: Some(directory.join("sturnus.toml")) }
    }

    fn password(home: &Path) -> String {
        let openrc = std::fs::read_to_string(home.join("openrc")).unwrap();
        openrc.lines().find(|line| line.starts_with("export OS_PASSWORD=")).unwrap().into()
    }

    #[tokio::test]
    async fn commands_work_on_the_database_of_the_home() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("cloud");
        let settings = "[password]\nmemory_kib = 64\npasses = 1\n";
        std::fs::write(directory.path().join("sturnus.toml"), settings).unwrap();
        let place = place(directory.path());
        let nothing = Identity::ResetPassword(Reset::default()).run(&place).await.unwrap_err();
        assert!(nothing.to_string().contains("there is no cloud"), "{nothing}");
        Identity::Bootstrap.run(&place).await.unwrap();
        let hash = async || {
            let store = crate::cloud::store(&place.load().unwrap()).await.unwrap();
            let sql = "SELECT password_hash FROM identity_user WHERE name = 'admin'";
            let found = store.read(|tx| tx.query(sql, store::params![], |row| row.text(0))).await.unwrap();
            store.close().await;
            found
        };
        let (before, hashed) = (password(&home), hash().await);
        assert_eq!(hashed.len(), 1);
        Identity::Bootstrap.run(&place).await.unwrap();
        assert_eq!((password(&home), hash().await), (before.clone(), hashed.clone()), "what is there stays");
        Identity::ResetPassword(Reset::default()).run(&place).await.unwrap();
        assert_ne!(password(&home), before);
        assert_ne!(hash().await, hashed);
        let keys = || std::fs::read(home.join("keys/token/0")).unwrap();
        let staged = keys();
        Identity::RotateKeys.run(&place).await.unwrap();
        assert_ne!(keys(), staged);
        Identity::RotateCredentialKeys.run(&place).await.unwrap();
        Identity::MigrateCredentials.run(&place).await.unwrap();
        Identity::Purge.run(&place).await.unwrap();
    }

    #[test]
    fn a_mapping_is_tested_on_paper() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str, value: Value| {
            let path = home.path().join(name);
            std::fs::write(&path, value.to_string()).unwrap();
            path
        };
        let rules = json!([{ "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "NAME" }] }]);
        let rules = file("rules.json", rules);
        let run = |rules: &Path, assertion: Value| {
            Test { rules: rules.into(), assertion: file("assertion.json", assertion) }.run().map(|code| code == ExitCode::SUCCESS)
        };
        assert!(run(&rules, json!({ "NAME": "ada" })).unwrap());
        assert!(!run(&rules, json!({ "OTHER": "ada" })).unwrap());
        assert!(run(&rules, json!(["ada"])).is_err());
        assert!(run(&file("bad.json", json!([{ "local": 1 }])), json!({})).is_err());
        assert!(run(Path::new("/nonexistent"), json!({})).is_err());
    }
}
