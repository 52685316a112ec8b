//! What was seen of a directory, kept beside the users and groups of the cloud: whoever asks what a user may do asks the store alone, and
//! a directory that is down keeps no token from being valid.
//!
//! An entry's id is the hash of its domain, kind and local id, as keystone's. Roles that it was granted stay when it goes, and count
//! again when it returns.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base::Result;
use sha2::{Digest, Sha256};
use store::{Row, Tx, params};

use super::directory::{Club, Person, key};
use crate::token::validate::{USER, revoke_in};
use crate::wire::Object;

pub const PERSON: &str = "user";
pub const CLUB: &str = "group";

/// Where an id leads.
pub struct Origin {
    pub domain_id: String,
    pub local_id: String,
}

/// What was seen of a domain's directory.
pub struct Seen {
    pub domain_id: String,
    pub people: Vec<Person>,
    pub clubs: Vec<Club>,
    /// All there is; else only the groups of the people are all there.
    pub whole: bool,
    pub members_are_ids: bool,
}

pub fn id(domain_id: &str, kind: &str, local_id: &str) -> String {
    let hash = Sha256::digest([domain_id, kind, local_id].concat().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// None: the user or group is the cloud's own.
pub fn origin_in(tx: &Tx, kind: &str, id: &str) -> Result<Option<Origin>> {
    let origin = |row: &Row| Ok(Origin { domain_id: row.text(0)?, local_id: row.text(1)? });
    tx.query_opt("SELECT domain_id, local_id FROM directory_entry WHERE id = ?1 AND kind = ?2", params![id, kind], origin)
}

/// Forgets that the user or group came from a directory.
pub fn forget_in(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM directory_entry WHERE id = ?1", params![id])?;
    Ok(())
}

#[derive(Clone, PartialEq)]
struct Kept {
    local_id: String,
    dn: String,
    name: String,
    enabled: bool,
    default_project_id: Option<String>,
    description: Option<String>,
    extra: Object,
}

/// What has to change so that the store has what was seen.
#[derive(Default)]
pub struct Plan {
    domain_id: String,
    people: Vec<(String, Kept)>,
    clubs: Vec<(String, Kept)>,
    gone_people: Vec<String>,
    gone_clubs: Vec<String>,
    /// Of group and user.
    joined: Vec<(String, String)>,
    left: Vec<(String, String)>,
    disabled: Vec<String>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
            && self.clubs.is_empty()
            && self.gone_people.is_empty()
            && self.gone_clubs.is_empty()
            && self.joined.is_empty()
            && self.left.is_empty()
    }
}

const PEOPLE: &str = "SELECT u.id, e.local_id, e.dn, u.name, u.enabled, u.default_project_id, NULL, u.extra FROM identity_user u \
                      JOIN directory_entry e ON e.id = u.id WHERE e.domain_id = ?1";
const CLUBS: &str = "SELECT g.id, e.local_id, e.dn, g.name, 1, NULL, g.description, g.extra FROM identity_group g \
                     JOIN directory_entry e ON e.id = g.id WHERE e.domain_id = ?1";

fn kept(row: &Row) -> Result<(String, Kept)> {
    let kept = Kept {
        local_id: row.text(1)?,
        dn: row.text(2)?,
        name: row.text(3)?,
        enabled: row.flag(4)?,
        default_project_id: row.opt_text(5)?,
        description: row.opt_text(6)?,
        extra: row.json(7)?,
    };
    Ok((row.text(0)?, kept))
}

/// Those that the store has: all of the domain, or those of `ids`.
fn kept_in(tx: &Tx, sql: &str, letter: &str, seen: &Seen, ids: impl Iterator<Item = String>) -> Result<HashMap<String, Kept>> {
    if seen.whole {
        return Ok(tx.query(sql, params![&seen.domain_id], kept)?.into_iter().collect());
    }
    let sql = format!("{sql} AND {letter}.id = ?2");
    let mut found = HashMap::new();
    for id in ids {
        found.extend(tx.query_opt(&sql, params![&seen.domain_id, &id], kept)?);
    }
    Ok(found)
}

/// Of several with one name only the first is taken.
fn unique(wanted: Vec<(String, Kept)>) -> HashMap<String, Kept> {
    let mut names = HashSet::new();
    let mut wanted = wanted;
    wanted.sort_by(|a, b| a.1.local_id.cmp(&b.1.local_id));
    wanted.retain(|(_, kept)| {
        let first = names.insert(kept.name.clone());
        if !first {
            tracing::warn!(name = kept.name, "a domain's directory has several entries of one name");
        }
        first
    });
    wanted.into_iter().collect()
}

pub fn plan_in(tx: &Tx, seen: &Seen) -> Result<Plan> {
    let domain = &seen.domain_id;
    let person = |person: &Person| Kept {
        local_id: person.local_id.clone(),
        dn: key(&person.dn),
        name: person.name.clone(),
        enabled: person.enabled,
        default_project_id: person.default_project_id.clone(),
        description: None,
        extra: person.extra.clone(),
    };
    let club = |club: &Club| Kept {
        local_id: club.local_id.clone(),
        dn: String::new(),
        name: club.name.clone(),
        enabled: true,
        default_project_id: None,
        description: club.description.clone(),
        extra: club.extra.clone(),
    };
    let people = unique(seen.people.iter().map(|p| (id(domain, PERSON, &p.local_id), person(p))).collect());
    let clubs = unique(seen.clubs.iter().map(|c| (id(domain, CLUB, &c.local_id), club(c))).collect());
    let had_people = kept_in(tx, PEOPLE, "u", seen, people.keys().cloned())?;
    let had_clubs = kept_in(tx, CLUBS, "g", seen, clubs.keys().cloned())?;
    let gone = |had: &HashMap<String, Kept>, has: &HashMap<String, Kept>| had.keys().filter(|id| !has.contains_key(*id)).cloned().collect();
    let mut plan = Plan {
        domain_id: domain.clone(),
        gone_people: gone(&had_people, &people),
        gone_clubs: gone(&had_clubs, &clubs),
        ..Plan::default()
    };
    let by_member: HashMap<&str, &String> =
        people.iter().map(|(id, person)| (if seen.members_are_ids { person.local_id.as_str() } else { person.dn.as_str() }, id)).collect();
    let mut wanted = HashSet::new();
    for club in &seen.clubs {
        let club_id = id(domain, CLUB, &club.local_id);
        if clubs.contains_key(&club_id) {
            let members = club.members.iter().filter_map(|member| by_member.get(member.as_str()));
            wanted.extend(members.map(|person| (club_id.clone(), (*person).clone())));
        }
    }
    let pair = |row: &Row| Ok((row.text(0)?, row.text(1)?));
    let memberships = "SELECT m.group_id, m.user_id FROM membership m JOIN directory_entry e ON e.id = m.group_id WHERE e.domain_id = ?1";
    let mut had = HashSet::new();
    if seen.whole {
        had.extend(tx.query(memberships, params![domain], pair)?);
    } else {
        for person in people.keys() {
            had.extend(tx.query(&format!("{memberships} AND m.user_id = ?2"), params![domain, person], pair)?);
        }
    }
    plan.joined = wanted.difference(&had).cloned().collect();
    plan.left = had.difference(&wanted).cloned().collect();
    plan.disabled = people
        .iter()
        .filter(|(id, now)| !now.enabled && had_people.get(*id).is_some_and(|before| before.enabled))
        .map(|(id, _)| id.clone())
        .collect();
    plan.people = people.into_iter().filter(|(id, now)| had_people.get(id) != Some(now)).collect();
    plan.clubs = clubs.into_iter().filter(|(id, now)| had_clubs.get(id) != Some(now)).collect();
    Ok(plan)
}

/// Carries the plan out. Who left a group, is disabled or gone has no tokens any more.
pub fn apply_in(tx: &Tx, plan: Plan, lifetime: Duration) -> Result<()> {
    let mut revoked: HashSet<&String> = plan.disabled.iter().chain(&plan.gone_people).collect();
    revoked.extend(plan.left.iter().map(|(_, user)| user));
    for user in revoked {
        revoke_in(tx, USER, user, lifetime)?;
    }
    for (group, user) in &plan.left {
        tx.execute("DELETE FROM membership WHERE group_id = ?1 AND user_id = ?2", params![group, user])?;
    }
    for user in &plan.gone_people {
        gone_in(tx, "identity_user", "user_id", user)?;
    }
    for group in &plan.gone_clubs {
        gone_in(tx, "identity_group", "group_id", group)?;
    }
    // Names may have gone from one entry to another: those who have one that is wanted lose it first.
    for (table, wanted) in [("identity_user", &plan.people), ("identity_group", &plan.clubs)] {
        let sql = format!(
            "UPDATE {table} SET name = id WHERE domain_id = ?1 AND name = ?2 AND id <> ?3 AND id IN (SELECT id FROM directory_entry)"
        );
        for (id, kept) in wanted {
            tx.execute(&sql, params![&plan.domain_id, &kept.name, id])?;
        }
    }
    for (id, person) in &plan.people {
        put_in(tx, &plan.domain_id, PERSON, id, person, |tx| {
            tx.execute(
                "INSERT INTO identity_user (id, name, domain_id, enabled, default_project_id, options, extra) VALUES (?1, ?2, ?3, ?4, ?5, '{}', ?6) \
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, enabled = excluded.enabled, \
                 default_project_id = excluded.default_project_id, extra = excluded.extra",
                params![id, &person.name, &plan.domain_id, person.enabled, &person.default_project_id, store::Value::json(&person.extra)?],
            )
        })?;
    }
    for (id, club) in &plan.clubs {
        put_in(tx, &plan.domain_id, CLUB, id, club, |tx| {
            tx.execute(
                "INSERT INTO identity_group (id, name, domain_id, description, extra) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, extra = excluded.extra",
                params![id, &club.name, &plan.domain_id, &club.description, store::Value::json(&club.extra)?],
            )
        })?;
    }
    for (group, user) in &plan.joined {
        tx.execute(
            "INSERT INTO membership (group_id, user_id) VALUES (?1, ?2) ON CONFLICT (group_id, user_id) DO NOTHING",
            params![group, user],
        )?;
    }
    Ok(())
}

/// One whose name the cloud's own user or group of the domain has is left out.
fn put_in(tx: &Tx, domain_id: &str, kind: &str, id: &str, kept: &Kept, put: impl FnOnce(&Tx) -> Result<u64>) -> Result<()> {
    match tx.attempt(put) {
        Err(e) if e.is(base::Kind::Exists) => {
            tracing::warn!(
                domain = domain_id,
                kind,
                name = kept.name,
                "an entry of a directory has the name of what the domain has itself"
            );
            return Ok(());
        }
        done => done?,
    };
    tx.execute(
        "INSERT INTO directory_entry (id, domain_id, kind, local_id, dn) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (id) DO UPDATE SET dn = excluded.dn",
        params![id, domain_id, kind, &kept.local_id, &kept.dn],
    )?;
    Ok(())
}

/// The entry's place in `directory_entry` stays, and what it was granted.
fn gone_in(tx: &Tx, table: &str, column: &str, id: &str) -> Result<()> {
    tx.execute(&format!("DELETE FROM membership WHERE {column} = ?1"), params![id])?;
    tx.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![id])?;
    Ok(())
}
