//! Groups and who is in them.

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::Request;
use serde_json::{Value, json};
use store::{Row, Select, Tx, params};

use crate::application_credentials::{Of, recheck_in};
use crate::list::Ask;
use crate::token::validate::{USER, revoke_in};
use crate::wire::Object;
use crate::{Identity, fault, ldap, note, projects, users, wire};

#[derive(Clone, Debug)]
pub struct Group {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    pub description: Option<String>,
    pub extra: Object,
}

const COLUMNS: &str = "id, name, domain_id, description, extra";

fn map(row: &Row) -> Result<Group> {
    Ok(Group { id: row.text(0)?, name: row.text(1)?, domain_id: row.text(2)?, description: row.opt_text(3)?, extra: row.json(4)? })
}

impl Group {
    pub fn view(&self, req: &Request) -> Value {
        let mut view = self.extra.clone();
        view.insert("id".into(), json!(self.id));
        view.insert("name".into(), json!(self.name));
        view.insert("domain_id".into(), json!(self.domain_id));
        view.insert("description".into(), json!(self.description));
        view.insert("links".into(), json!({ "self": format!("{}/v3/groups/{}", req.base_url, self.id) }));
        Value::Object(view)
    }

    pub fn target(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "domain_id": self.domain_id })
    }
}

pub fn group_fetch_in(tx: &Tx, id: &str) -> Result<Option<Group>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_group WHERE id = ?1"), params![id], map)
}

pub fn group_get_in(tx: &Tx, id: &str) -> Result<Group> {
    group_fetch_in(tx, id)?.ok_or_else(|| fault::not_found("group", id))
}

pub fn group_list_in(tx: &Tx, ask: &Ask, domain_id: Option<&str>) -> Result<(Vec<Group>, bool)> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM identity_group")).opt_eq("domain_id", domain_id);
    ask.fetch(tx, select, "identity_group", map)
}

/// Each with the end of the membership, when it has one: identity providers tell of such, and the last end counts.
pub fn groups_of_user_in(tx: &Tx, user_id: &str) -> Result<Vec<(Group, Option<Timestamp>)>> {
    let sql = format!(
        "SELECT {COLUMNS}, CASE WHEN id IN (SELECT group_id FROM membership WHERE user_id = ?1) THEN NULL \
         ELSE (SELECT MAX(expires_at) FROM expiring_membership WHERE user_id = ?1 AND group_id = identity_group.id) END \
         FROM identity_group WHERE id IN ({GROUPS_OF_USER}) ORDER BY id"
    );
    tx.query(&sql, params![user_id], |row| Ok((map(row)?, row.opt_time(5)?)))
}

/// Of the user `?1`: those it was put into, and those that an identity provider told of.
pub const GROUPS_OF_USER: &str =
    "SELECT group_id FROM membership WHERE user_id = ?1 UNION ALL SELECT group_id FROM expiring_membership WHERE user_id = ?1";

pub fn group_by_name_in(tx: &Tx, name: &str, domain_id: &str) -> Result<Option<Group>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM identity_group WHERE domain_id = ?1 AND name = ?2"), params![domain_id, name], map)
}

pub fn is_member_in(tx: &Tx, group_id: &str, user_id: &str) -> Result<bool> {
    let sql = "SELECT user_id FROM membership WHERE group_id = ?1 AND user_id = ?2 \
               UNION ALL SELECT user_id FROM expiring_membership WHERE group_id = ?1 AND user_id = ?2";
    Ok(!tx.query(sql, params![group_id, user_id], |_| Ok(()))?.is_empty())
}

pub fn group_remove_in(tx: &Tx, id: &str) -> Result<()> {
    let members = users::users_of_group_in(tx, id, None)?;
    tx.execute("DELETE FROM assignment WHERE actor_kind = 'group' AND actor_id = ?1", params![id])?;
    tx.execute("DELETE FROM membership WHERE group_id = ?1", params![id])?;
    ldap::forget_in(tx, id)?;
    tx.execute("DELETE FROM expiring_membership WHERE group_id = ?1", params![id])?;
    tx.execute("DELETE FROM identity_group WHERE id = ?1", params![id])?;
    members.iter().try_for_each(|user| recheck_in(tx, Of::User(&user.id)))
}

fn taken(error: Error, name: &str) -> Error {
    if error.is(Kind::Exists) { fault::duplicate("group", format!("Duplicate entry found with name {name}")) } else { error }
}

/// What a request wants to set.
pub struct GroupChange {
    pub name: Option<String>,
    pub domain_id: Option<String>,
    pub description: Option<Option<String>>,
    pub extra: Object,
}

impl GroupChange {
    pub fn read(mut map: Object) -> Result<GroupChange> {
        let mut take = wire::Take { map: &mut map, what: "group" };
        let (name, domain_id) = (take.name("name", 255)?, take.id("domain_id")?);
        let description = take.nullable_text("description", 65_535)?;
        map.remove("links");
        Ok(GroupChange { name, domain_id, description, extra: map })
    }
}

impl Identity {
    pub(crate) async fn group_create(&self, ctx: &Context, domain_id: String, change: GroupChange) -> Result<Group> {
        let mut extra = change.extra;
        extra.remove("id");
        let group = Group {
            id: base::id::hex(),
            name: change.name.ok_or_else(|| fault::field("group", "'name' is a required property"))?,
            domain_id,
            description: change.description.unwrap_or_else(|| Some(String::new())),
            extra,
        };
        let ctx = ctx.clone();
        self.add(move |tx| {
            projects::domain_get_in(tx, &group.domain_id)?;
            let inserted = tx.attempt(|tx| {
                tx.execute(
                    &format!("INSERT INTO identity_group ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)"),
                    params![&group.id, &group.name, &group.domain_id, &group.description, store::Value::json(&group.extra)?],
                )
            });
            inserted.map_err(|e| taken(e, &group.name))?;
            note(tx, &ctx, "group.created", &group.id)?;
            Ok(group)
        })
        .await
    }

    pub(crate) async fn group_update(&self, ctx: &Context, id: &str, change: GroupChange) -> Result<Group> {
        let (ctx, id) = (ctx.clone(), id.to_string());
        self.add(move |tx| {
            let mut group = group_get_in(tx, &id)?;
            if change.domain_id.is_some_and(|domain| domain != group.domain_id) {
                return Err(Error::invalid("Cannot change Domain ID"));
            }
            if let Some(name) = change.name {
                group.name = name;
            }
            if let Some(description) = change.description {
                group.description = description;
            }
            group.extra.extend(change.extra);
            let updated = tx.attempt(|tx| {
                tx.execute(
                    "UPDATE identity_group SET name = ?2, description = ?3, extra = ?4 WHERE id = ?1",
                    params![&id, &group.name, &group.description, store::Value::json(&group.extra)?],
                )
            });
            updated.map_err(|e| taken(e, &group.name))?;
            note(tx, &ctx, "group.updated", &id)?;
            Ok(group)
        })
        .await
    }

    pub(crate) async fn group_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (ctx, id, lifetime) = (ctx.clone(), id.to_string(), self.token_lifetime());
        self.change(move |tx| {
            group_get_in(tx, &id)?;
            let granted = tx
                .query_opt("SELECT 1 FROM assignment WHERE actor_kind = 'group' AND actor_id = ?1 LIMIT 1", params![&id], |_| Ok(()))?
                .is_some();
            if granted {
                for user in users::users_of_group_in(tx, &id, None)? {
                    revoke_in(tx, USER, &user.id, lifetime)?;
                }
            }
            group_remove_in(tx, &id)?;
            note(tx, &ctx, "group.deleted", &id)
        })
        .await
    }

    pub(crate) async fn member_add(&self, ctx: &Context, group_id: &str, user_id: &str) -> Result<()> {
        let (ctx, group_id, user_id) = (ctx.clone(), group_id.to_string(), user_id.to_string());
        self.change(move |tx| {
            group_get_in(tx, &group_id)?;
            users::user_get_in(tx, &user_id)?;
            tx.execute(
                "INSERT INTO membership (group_id, user_id) VALUES (?1, ?2) ON CONFLICT (group_id, user_id) DO NOTHING",
                params![&group_id, &user_id],
            )?;
            note(tx, &ctx, "group.updated", &group_id)
        })
        .await
    }

    pub(crate) async fn member_remove(&self, ctx: &Context, group_id: &str, user_id: &str) -> Result<()> {
        let (ctx, group_id, user_id, lifetime) = (ctx.clone(), group_id.to_string(), user_id.to_string(), self.token_lifetime());
        self.change(move |tx| {
            group_get_in(tx, &group_id)?;
            users::user_get_in(tx, &user_id)?;
            let removed = tx.execute("DELETE FROM membership WHERE group_id = ?1 AND user_id = ?2", params![&group_id, &user_id])?;
            if removed == 0 {
                return Err(Error::new(Kind::NotFound, format!("User '{user_id}' not found in group '{group_id}'.")));
            }
            recheck_in(tx, Of::User(&user_id))?;
            revoke_in(tx, USER, &user_id, lifetime)?;
            note(tx, &ctx, "group.updated", &group_id)
        })
        .await
    }
}
