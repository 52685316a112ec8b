//! Domains whose users and groups are in a directory (`identity.driver` = `ldap` in the domain's configuration). They are read there
//! and checked there; what was read last is [kept](mirror) in the store.

mod ber;
mod client;
mod directory;
mod filter;
mod mirror;
mod settings;
mod trust;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, Kind, Result};

use crate::domain_config::DomainConfig;
use crate::users::user_fetch_in;
use crate::{Identity, fault};

use directory::{Directory, Person};
use mirror::{CLUB, PERSON, Seen};
use settings::Settings;

pub use mirror::forget_in;

/// How long somebody waits for a look at a whole directory that others are taking.
const QUEUE: Duration = Duration::from_secs(30);

/// The directories in use, each with the configuration it was made from.
#[derive(Default)]
pub struct Directories(Mutex<HashMap<String, (DomainConfig, Arc<Directory>)>>);

/// Who logs in.
pub enum Who<'a> {
    Id(&'a str),
    Name { name: &'a str, domain_id: &'a str },
}

impl Identity {
    /// The directory of a domain; none when the domain has its users here.
    async fn directory(&self, domain_id: &str) -> Result<Option<Arc<Directory>>> {
        let config = self.domain_config(domain_id).await?;
        let cache = &self.0.directories.0;
        if config.text("identity", "driver") != "ldap" {
            cache.lock().unwrap_or_else(PoisonError::into_inner).remove(domain_id);
            return Ok(None);
        }
        if let Some((known, directory)) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(domain_id)
            && *known == config
        {
            return Ok(Some(directory.clone()));
        }
        let of_config = config.clone();
        let settings = tokio::task::spawn_blocking(move || Settings::read(&|option| of_config.get("ldap", option))).await;
        let settings = settings.map_err(|e| Error::internal("reading a domain's configuration").caused_by(e))?;
        // Whoever calls cannot mend it: it is the cloud that does not work.
        let settings = settings.map_err(|e| Error::new(Kind::Unavailable, e.message().to_string()))?;
        let directory = Arc::new(Directory::new(settings));
        cache.lock().unwrap_or_else(PoisonError::into_inner).insert(domain_id.to_string(), (config, directory.clone()));
        Ok(Some(directory))
    }

    /// The id of the user, when it is one of a directory and the password is theirs. None: the user's domain has no directory.
    pub(crate) async fn directory_login(&self, who: Who<'_>, password: &str) -> Result<Option<String>> {
        let (domain_id, local_id) = match who {
            Who::Name { domain_id, .. } => (domain_id.to_string(), None),
            Who::Id(id) => match self.0.store.read(|tx| Ok((mirror::origin_in(tx, PERSON, id)?, user_fetch_in(tx, id)?))).await? {
                (Some(origin), _) => (origin.domain_id, Some(origin.local_id)),
                (None, Some(user)) => (user.domain_id, None),
                (None, None) => return Ok(None),
            },
        };
        let Some(directory) = self.directory(&domain_id).await? else { return Ok(None) };
        let person = match (who, local_id) {
            (Who::Name { name, .. }, _) => directory.person_by_name(name).await?,
            (Who::Id(_), Some(local_id)) => directory.person_by_id(&local_id).await?,
            // A user who was here before the domain had a directory: the stored password counts no more.
            (Who::Id(_), None) => None,
        };
        if !directory.is_password_of(person.as_ref(), password).await? {
            return Err(fault::unauthorized());
        }
        let person = person.ok_or_else(fault::unauthorized)?;
        let id = mirror::id(&domain_id, PERSON, &person.local_id);
        self.directory_keep_person(&domain_id, &directory, person).await?;
        Ok(Some(id))
    }

    async fn directory_keep_person(&self, domain_id: &str, directory: &Directory, person: Person) -> Result<()> {
        let clubs = directory.groups_of(&person).await?;
        let members_are_ids = directory.members_are_ids();
        self.directory_keep(Seen { domain_id: domain_id.to_string(), people: vec![person], clubs, whole: false, members_are_ids }).await
    }

    /// Writes only what is new: what nobody changed makes no token be looked up again.
    async fn directory_keep(&self, seen: Seen) -> Result<()> {
        if self.0.store.read(|tx| mirror::plan_in(tx, &seen)).await?.is_empty() {
            return Ok(());
        }
        let lifetime = self.token_lifetime();
        self.change(move |tx| {
            let plan = mirror::plan_in(tx, &seen)?;
            mirror::apply_in(tx, plan, lifetime)
        })
        .await
    }

    /// Looks again at a domain's directory, if it has one. Who comes while somebody looks waits for that.
    pub(crate) async fn directory_refresh(&self, domain_id: &str) -> Result<()> {
        let Some(directory) = self.directory(domain_id).await? else { return Ok(()) };
        let came = Instant::now();
        let busy = |_| Error::new(Kind::Unavailable, "The LDAP server is asked too much at once.");
        let mut looked_at = tokio::time::timeout(QUEUE, directory.looked_at.lock()).await.map_err(busy)?;
        if looked_at.is_some_and(|at| at > came) {
            return Ok(());
        }
        let now = Instant::now();
        let (people, clubs) = (directory.people().await?, directory.groups().await?);
        let members_are_ids = directory.members_are_ids();
        self.directory_keep(Seen { domain_id: domain_id.to_string(), people, clubs, whole: true, members_are_ids }).await?;
        *looked_at = Some(now);
        Ok(())
    }

    /// Looks again at one user by name, for who asks for no other.
    pub(crate) async fn directory_refresh_name(&self, domain_id: &str, name: &str) -> Result<()> {
        let Some(directory) = self.directory(domain_id).await? else { return Ok(()) };
        match directory.person_by_name(name).await? {
            Some(person) => self.directory_keep_person(domain_id, &directory, person).await,
            None => Ok(()),
        }
    }

    /// Looks again at a user who came from a directory. One who is gone there is gone here.
    pub(crate) async fn directory_refresh_user(&self, id: &str) -> Result<()> {
        let Some(origin) = self.0.store.read(|tx| mirror::origin_in(tx, PERSON, id)).await? else { return Ok(()) };
        let Some(directory) = self.directory(&origin.domain_id).await? else { return Ok(()) };
        match directory.person_by_id(&origin.local_id).await? {
            Some(person) => self.directory_keep_person(&origin.domain_id, &directory, person).await,
            None => self.directory_refresh(&origin.domain_id).await,
        }
    }

    /// Looks again at the directory that a group came from.
    pub(crate) async fn directory_refresh_group(&self, id: &str) -> Result<()> {
        match self.0.store.read(|tx| mirror::origin_in(tx, CLUB, id)).await? {
            Some(origin) => self.directory_refresh(&origin.domain_id).await,
            None => Ok(()),
        }
    }

    /// Looks again at all directories; what fails is told of and tried again the next time.
    pub(crate) async fn directories_refresh(&self) -> Result<()> {
        let sql = "SELECT DISTINCT domain_id FROM directory_entry ORDER BY domain_id";
        for domain in self.0.store.read(|tx| tx.query(sql, &[], |row| row.text(0))).await? {
            if let Err(error) = self.directory_refresh(&domain).await {
                tracing::warn!(domain, error = error.chain(), "a domain's directory cannot be read");
            }
        }
        Ok(())
    }

    /// `Forbidden` for what would have to be written into a directory: a new user or group of the domain.
    pub(crate) async fn directory_refuse(&self, domain_id: &str) -> Result<()> {
        let config = self.domain_config(domain_id).await?;
        if config.text("identity", "driver") == "ldap" { Err(Error::forbidden("LDAP does not support write operations")) } else { Ok(()) }
    }

    /// As [`directory_refuse`](Self::directory_refuse), of a change of what may have come from one.
    pub(crate) async fn directory_refuse_change(&self, id: &str) -> Result<()> {
        let origin = self.0.store.read(|tx| Ok(mirror::origin_in(tx, PERSON, id)?.or(mirror::origin_in(tx, CLUB, id)?))).await?;
        match origin {
            Some(origin) => self.directory_refuse(&origin.domain_id).await,
            None => Ok(()),
        }
    }

    /// As [`directory_refuse`](Self::directory_refuse), of a new password: also of users who were here before the directory.
    pub(crate) async fn directory_refuse_password(&self, user_id: &str) -> Result<()> {
        match self.0.store.read(|tx| user_fetch_in(tx, user_id)).await? {
            Some(user) => self.directory_refuse(&user.domain_id).await,
            None => Ok(()),
        }
    }
}
