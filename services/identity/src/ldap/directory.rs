//! A directory: the people and groups in it, and whose password it is. Connections are kept for the next search; each login has one of
//! its own, so that nobody searches as somebody else.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::client::{Connection, Entry, Scope, Search};
use super::filter;
use super::settings::{Enabled, Settings};
use crate::wire::Object;

/// The most people or groups that are taken from one directory.
const MOST: usize = 200_000;

/// A person as the directory has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub local_id: String,
    pub dn: String,
    pub name: String,
    pub enabled: bool,
    pub default_project_id: Option<String>,
    pub extra: Object,
}

/// A group as the directory has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Club {
    pub local_id: String,
    pub dn: String,
    pub name: String,
    pub description: Option<String>,
    pub extra: Object,
    /// DNs (as [`key`] has them), or local ids where the directory names members by these.
    pub members: HashSet<String>,
}

pub struct Directory {
    settings: Settings,
    idle: Mutex<Vec<(Connection, Instant)>>,
    searches: Semaphore,
    logins: Semaphore,
    /// When the last look at the whole directory began.
    pub looked_at: tokio::sync::Mutex<Option<Instant>>,
}

/// A DN in one form: case and the spaces between its parts mean nothing.
pub fn key(dn: &str) -> String {
    let mut out = String::with_capacity(dn.len());
    let mut escaped = false;
    for c in dn.trim().chars() {
        if c == ' ' && !escaped && out.ends_with([',', '=', '+']) {
            continue;
        }
        if matches!(c, ',' | '=' | '+') && !escaped {
            out.truncate(out.trim_end_matches(' ').len());
        }
        escaped = c == '\\' && !escaped;
        out.extend(c.to_lowercase());
    }
    out
}

impl Directory {
    pub fn new(settings: Settings) -> Directory {
        Directory {
            searches: Semaphore::new(settings.pool),
            logins: Semaphore::new(settings.logins),
            settings,
            idle: Mutex::default(),
            looked_at: tokio::sync::Mutex::default(),
        }
    }

    pub fn members_are_ids(&self) -> bool {
        self.settings.groups.members_are_ids
    }

    /// Everybody.
    pub async fn people(&self) -> Result<Vec<Person>> {
        self.find_people(&self.settings.users.tree, self.settings.scope, "").await
    }

    pub async fn person_by_id(&self, local_id: &str) -> Result<Option<Person>> {
        self.one(filter::equal(&self.settings.users.id, local_id), |person| person.local_id == local_id).await
    }

    /// As LDAP compares names: without regard to case.
    pub async fn person_by_name(&self, name: &str) -> Result<Option<Person>> {
        let wanted = name.to_lowercase();
        self.one(filter::equal(&self.settings.users.name, name), |person| person.name.to_lowercase() == wanted).await
    }

    /// Nobody, when several answer to it: whose password would be asked for?
    async fn one(&self, narrow: String, is: impl Fn(&Person) -> bool) -> Result<Option<Person>> {
        let mut found = self.find_people(&self.settings.users.tree, self.settings.scope, &narrow).await?;
        found.retain(is);
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    async fn find_people(&self, base: &str, scope: Scope, narrow: &str) -> Result<Vec<Person>> {
        let users = &self.settings.users;
        let mut attributes: Vec<String> = vec![users.id.clone(), users.name.clone()];
        attributes.extend(users.extra.iter().map(|(from, _)| from.clone()));
        attributes.extend(users.default_project.clone());
        if let Enabled::Flag { attribute, .. } | Enabled::Mask { attribute, .. } = &users.enabled {
            attributes.push(attribute.clone());
        }
        let entries = self.search(base, scope, &filter::all([users.filter.as_str(), narrow]), &attributes).await?;
        let enabled = match &users.enabled {
            Enabled::Member { dn, attribute } => {
                let groups = self.search(dn, Scope::Base, "(objectClass=*)", std::slice::from_ref(attribute)).await?;
                groups.iter().flat_map(|group| group.all(attribute)).map(|dn| key(dn)).collect()
            }
            _ => HashSet::new(),
        };
        Ok(entries.iter().filter_map(|entry| self.person(entry, &enabled)).collect())
    }

    /// None for an entry without an id or a name.
    fn person(&self, entry: &Entry, enabled: &HashSet<String>) -> Option<Person> {
        let users = &self.settings.users;
        Some(Person {
            local_id: entry.first(&users.id)?.to_string(),
            dn: entry.dn.clone(),
            name: entry.first(&users.name)?.trim().to_string(),
            enabled: match &users.enabled {
                Enabled::Always => true,
                Enabled::Member { .. } => enabled.contains(&key(&entry.dn)),
                Enabled::Flag { attribute, default, invert } => {
                    entry.first(attribute).map_or(*default, |flag| flag.eq_ignore_ascii_case("true")) != *invert
                }
                Enabled::Mask { attribute, default, mask } => {
                    let value: i64 = entry.first(attribute).and_then(|value| value.trim().parse().ok()).unwrap_or(*default);
                    value & mask != *mask
                }
            },
            default_project_id: users.default_project.as_deref().and_then(|name| entry.first(name)).map(str::to_string),
            extra: extra(entry, &users.extra),
        })
    }

    pub async fn groups(&self) -> Result<Vec<Club>> {
        let mut clubs = self.find_groups("").await?;
        if self.settings.groups.nested {
            nest(&mut clubs);
        }
        Ok(clubs)
    }

    /// Those that name this member, and where groups are nested those that name these.
    pub async fn groups_of(&self, person: &Person) -> Result<Vec<Club>> {
        let groups = &self.settings.groups;
        let member = if groups.members_are_ids { &person.local_id } else { &person.dn };
        let mut found = self.find_groups(&filter::equal(&groups.member, member)).await?;
        let mut known: HashSet<String> = found.iter().map(|club| key(&club.dn)).collect();
        let mut next = 0;
        while groups.nested && next < found.len() && found.len() <= MOST {
            let outer = self.find_groups(&filter::equal(&groups.member, &found[next].dn)).await?;
            for mut club in outer {
                if known.insert(key(&club.dn)) {
                    club.members.insert(key(&person.dn));
                    found.push(club);
                }
            }
            next += 1;
        }
        Ok(found)
    }

    async fn find_groups(&self, narrow: &str) -> Result<Vec<Club>> {
        let groups = &self.settings.groups;
        let mut attributes = vec![groups.id.clone(), groups.name.clone(), groups.member.clone()];
        attributes.extend(groups.description.clone());
        attributes.extend(groups.extra.iter().map(|(from, _)| from.clone()));
        let entries = self.search(&groups.tree, self.settings.scope, &filter::all([groups.filter.as_str(), narrow]), &attributes).await?;
        let club = |entry: &Entry| {
            let members = entry.all(&groups.member).iter();
            Some(Club {
                local_id: entry.first(&groups.id)?.to_string(),
                dn: entry.dn.clone(),
                name: entry.first(&groups.name)?.trim().to_string(),
                description: groups.description.as_deref().and_then(|name| entry.first(name)).map(str::to_string),
                extra: extra(entry, &groups.extra),
                members: members.map(|member| if groups.members_are_ids { member.clone() } else { key(member) }).collect(),
            })
        };
        Ok(entries.iter().filter_map(club).collect())
    }

    /// Whether the password is the person's. For nobody a bind is tried all the same, so that it takes as long.
    pub async fn is_password_of(&self, person: Option<&Person>, password: &str) -> Result<bool> {
        if password.is_empty() {
            return Ok(false);
        }
        let nobody = format!("{}={},{}", self.settings.users.id, base::id::hex(), self.settings.users.tree);
        let _permit = self.logins.try_acquire().map_err(|_| busy())?;
        let mut connection = self.open().await?;
        let right = connection.bind(person.map_or(&nobody, |person| &person.dn), password).await?;
        Ok(right && person.is_some())
    }

    /// A search by the directory's own user. A kept connection may have died meanwhile: then a new one is tried.
    async fn search(&self, base: &str, scope: Scope, filter: &str, attributes: &[String]) -> Result<Vec<Entry>> {
        let search = Search { base, scope, filter, attributes, page: self.settings.page, most: MOST };
        let _permit = self.searches.acquire().await.map_err(|_| busy())?;
        let lifetime = self.settings.pool_lifetime;
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(_, since)| since.elapsed() < lifetime);
            idle.pop()
        };
        if let Some((mut connection, since)) = kept
            && let Ok(found) = connection.search(&search).await
        {
            self.keep(connection, since);
            return Ok(found);
        }
        let (mut connection, since) = (self.open().await?, Instant::now());
        if let Some((user, password)) = &self.settings.user
            && !connection.bind(user, password).await?
        {
            return Err(Error::new(Kind::Unavailable, "The LDAP server refuses the user and password of the domain's configuration."));
        }
        let found = connection.search(&search).await?;
        self.keep(connection, since);
        Ok(found)
    }

    fn keep(&self, connection: Connection, since: Instant) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, since));
    }

    async fn open(&self) -> Result<Connection> {
        let mut failed = busy();
        for server in &self.settings.servers {
            match Connection::open(server).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// Each group has the members of the groups in it too, however deep. Groups that are in each other have the same.
fn nest(clubs: &mut [Club]) {
    let at: HashMap<String, usize> = clubs.iter().enumerate().map(|(i, club)| (key(&club.dn), i)).collect();
    let direct: Vec<HashSet<String>> = clubs.iter().map(|club| club.members.clone()).collect();
    for (i, club) in clubs.iter_mut().enumerate() {
        let (mut seen, mut next) = (HashSet::from([i]), vec![i]);
        while let Some(one) = next.pop() {
            for member in &direct[one] {
                match at.get(member) {
                    Some(inner) if seen.insert(*inner) => next.push(*inner),
                    Some(_) => {}
                    None => drop(club.members.insert(member.clone())),
                }
            }
        }
    }
}

fn busy() -> Error {
    Error::new(Kind::Unavailable, "The LDAP server is asked too much at once.")
}

fn extra(entry: &Entry, names: &[(String, String)]) -> Object {
    let mut out = HashMap::new();
    for (from, to) in names {
        if let Some(value) = entry.first(from) {
            out.insert(to.clone(), json!(value));
        }
    }
    let mut out: Vec<(String, Value)> = out.into_iter().collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out.into_iter().collect()
}
