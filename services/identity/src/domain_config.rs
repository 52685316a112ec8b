//! Configuration of domains: where a domain's users come from, and how to reach them there. In keystone's groups and options.

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result};
use serde_json::{Map, Value, json};
use store::{Row, Tx, params};

use crate::token::ring::Ring;
use crate::wire::Object;
use crate::{Identity, note, projects};

struct Known {
    group: &'static str,
    option: &'static str,
    /// JSON. None: the option is secret, and neither it nor its default is shown.
    default: Option<&'static str>,
}

const fn open(group: &'static str, option: &'static str, default: &'static str) -> Known {
    Known { group, option, default: Some(default) }
}

const fn secret(group: &'static str, option: &'static str) -> Known {
    Known { group, option, default: None }
}

/// Every option that a domain may set.
const KNOWN: &[Known] = &[
    open("identity", "driver", r#""sql""#),
    open("identity", "list_limit", "null"),
    open("ldap", "url", r#""ldap://localhost""#),
    open("ldap", "user", "null"),
    secret("ldap", "password"),
    open("ldap", "suffix", r#""cn=example,cn=com""#),
    open("ldap", "query_scope", r#""one""#),
    open("ldap", "page_size", "0"),
    open("ldap", "alias_dereferencing", r#""default""#),
    open("ldap", "debug_level", "null"),
    open("ldap", "chase_referrals", "null"),
    open("ldap", "user_tree_dn", "null"),
    open("ldap", "user_filter", "null"),
    open("ldap", "user_objectclass", r#""inetOrgPerson""#),
    open("ldap", "user_id_attribute", r#""cn""#),
    open("ldap", "user_name_attribute", r#""sn""#),
    open("ldap", "user_mail_attribute", r#""mail""#),
    open("ldap", "user_description_attribute", r#""description""#),
    open("ldap", "user_pass_attribute", r#""userPassword""#),
    open("ldap", "user_enabled_attribute", r#""enabled""#),
    open("ldap", "user_enabled_invert", "false"),
    open("ldap", "user_enabled_mask", "0"),
    open("ldap", "user_enabled_default", r#""True""#),
    open("ldap", "user_attribute_ignore", r#"["default_project_id"]"#),
    open("ldap", "user_default_project_id_attribute", "null"),
    open("ldap", "user_enabled_emulation", "false"),
    open("ldap", "user_enabled_emulation_dn", "null"),
    open("ldap", "user_enabled_emulation_use_group_config", "false"),
    open("ldap", "user_additional_attribute_mapping", "[]"),
    open("ldap", "group_tree_dn", "null"),
    open("ldap", "group_filter", "null"),
    open("ldap", "group_objectclass", r#""groupOfNames""#),
    open("ldap", "group_id_attribute", r#""cn""#),
    open("ldap", "group_name_attribute", r#""ou""#),
    open("ldap", "group_members_are_ids", "false"),
    open("ldap", "group_ad_nesting", "false"),
    open("ldap", "group_member_attribute", r#""member""#),
    open("ldap", "group_desc_attribute", r#""description""#),
    open("ldap", "group_attribute_ignore", "[]"),
    open("ldap", "group_additional_attribute_mapping", "[]"),
    open("ldap", "tls_cacertfile", "null"),
    open("ldap", "tls_cacertdir", "null"),
    open("ldap", "use_tls", "false"),
    open("ldap", "tls_req_cert", r#""demand""#),
    open("ldap", "use_pool", "true"),
    open("ldap", "pool_size", "10"),
    open("ldap", "pool_retry_max", "3"),
    open("ldap", "pool_retry_delay", "0.1"),
    open("ldap", "pool_connection_timeout", "-1"),
    open("ldap", "pool_connection_lifetime", "600"),
    open("ldap", "use_auth_pool", "true"),
    open("ldap", "auth_pool_size", "100"),
    open("ldap", "auth_pool_connection_lifetime", "60"),
];

/// The options that anybody may read of the whole cloud's rules for passwords.
const READABLE: [&str; 2] = ["password_regex", "password_regex_description"];

/// A whole configuration, a group, or an option of it.
#[derive(Clone, Copy, Default)]
pub struct Place<'a> {
    pub group: Option<&'a str>,
    /// Only with a group.
    pub option: Option<&'a str>,
}

impl Place<'_> {
    fn holds(&self, group: &str, option: &str) -> bool {
        self.group.is_none_or(|wanted| wanted == group) && self.option.is_none_or(|wanted| wanted == option)
    }

    fn check(&self) -> Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        if !KNOWN.iter().any(|known| known.group == group) {
            return Err(wrong(format!("there is no group {group}")));
        }
        match self.option {
            Some(option) if find(group, option).is_none() => Err(wrong(format!("group {group} has no option {option}"))),
            _ => Ok(()),
        }
    }

    fn missing(&self, domain_id: &str) -> Error {
        let what = match (self.group, self.option) {
            (Some(group), Some(option)) => format!("option {option} in group {group}"),
            (Some(group), None) => format!("group {group}"),
            _ => "any options".into(),
        };
        Error::new(Kind::NotFound, format!("Could not find {what} in domain configuration for domain {domain_id}."))
    }
}

fn find(group: &str, option: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.group == group && known.option == option)
}

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::forbidden(format!("Domain configuration: {reason}."))
}

/// What a domain has set, secrets included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DomainConfig {
    options: BTreeMap<(String, String), Value>,
}

impl DomainConfig {
    /// The value in force: what the domain set, else the default. `%(password)s` in a text stands for the secret of that name.
    pub fn get(&self, group: &str, option: &str) -> Value {
        let set = self.options.get(&(group.to_string(), option.to_string()));
        match set {
            Some(Value::String(text)) => Value::String(self.fill(text)),
            Some(value) => value.clone(),
            None => default_of(group, option),
        }
    }

    /// Empty when there is no such text.
    pub fn text(&self, group: &str, option: &str) -> String {
        match self.get(group, option) {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    fn fill(&self, text: &str) -> String {
        self.options.iter().fold(text.to_string(), |text, ((group, option), value)| match (find(group, option), value) {
            (Some(Known { default: None, .. }), Value::String(value)) => text.replace(&format!("%({option})s"), value),
            _ => text,
        })
    }

    /// Without secrets. An option alone comes without its group. None: nothing of the place is set.
    fn view(&self, place: Place) -> Option<Value> {
        let shown = self
            .options
            .iter()
            .filter(|((group, option), _)| place.holds(group, option) && find(group, option).is_some_and(|known| known.default.is_some()));
        collect(shown.map(|((group, option), value)| (group.as_str(), option.as_str(), value.clone())), place)
    }
}

fn default_of(group: &str, option: &str) -> Value {
    let text = find(group, option).and_then(|known| known.default).unwrap_or("null");
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn collect<'a>(items: impl Iterator<Item = (&'a str, &'a str, Value)>, place: Place) -> Option<Value> {
    let mut groups: Map<String, Value> = Map::new();
    for (group, option, value) in items {
        if place.option.is_some() {
            return Some(json!({ option: value }));
        }
        if let Value::Object(options) = groups.entry(group).or_insert_with(|| json!({})) {
            options.insert(option.into(), value);
        }
    }
    Some(Value::Object(groups)).filter(|view| view.as_object().is_some_and(|groups| !groups.is_empty()))
}

/// The defaults of what domains may set, but of secrets.
pub fn defaults(place: Place) -> Result<Value> {
    place.check()?;
    if let (Some(group), Some(option)) = (place.group, place.option)
        && find(group, option).is_some_and(|known| known.default.is_none())
    {
        return Err(wrong(format!("Reading the default for option {option} in group {group} is not supported")));
    }
    let shown = KNOWN.iter().filter(|known| known.default.is_some() && place.holds(known.group, known.option));
    Ok(collect(shown.map(|known| (known.group, known.option, default_of(known.group, known.option))), place).unwrap_or_else(|| json!({})))
}

/// The options of a request, which may only hold what its place says.
fn read(config: Object, place: Place) -> Result<DomainConfig> {
    place.check()?;
    let config = match (place.group, place.option) {
        (Some(group), Some(_)) => Map::from_iter([(group.to_string(), Value::Object(config))]),
        _ => config,
    };
    if config.is_empty() {
        return Err(wrong("No options specified"));
    }
    let mut options = BTreeMap::new();
    for (group, inner) in config {
        let inner = match inner {
            Value::Object(inner) if !inner.is_empty() => inner,
            _ => return Err(wrong(format!("The value of group {group} specified in the config should be a dictionary of options"))),
        };
        for (option, value) in inner {
            Place { group: Some(&group), option: Some(&option) }.check()?;
            if !place.holds(&group, &option) {
                let wanted = match (place.group, place.option) {
                    (Some(group), Some(option)) => format!("option {option} in group {group}, so that, and only that, option"),
                    (Some(group), None) => format!("group {group}, so that, and only that, group"),
                    _ => String::new(),
                };
                return Err(wrong(format!("Trying to update {wanted} must be specified in the config")));
            }
            options.insert((group.clone(), option), value);
        }
    }
    Ok(DomainConfig { options })
}

/// What a domain has set; nothing when it has set nothing or is not there.
pub fn domain_config_in(tx: &Tx, keys: &Ring, domain_id: &str) -> Result<DomainConfig> {
    let value = |row: &Row| -> Result<Value> {
        if !row.flag(2)? {
            return row.json(3);
        }
        let lost = || Error::internal("no key in keys/credential opens a stored option of a domain");
        serde_json::from_slice(&keys.open_text(&row.text(3)?).ok_or_else(lost)?).map_err(|_| lost())
    };
    let sql = "SELECT group_name, option_name, sensitive, value FROM domain_config WHERE domain_id = ?1";
    let rows = tx.query(sql, params![domain_id], |row| Ok(((row.text(0)?, row.text(1)?), value(row)?)))?;
    Ok(DomainConfig { options: rows.into_iter().collect() })
}

/// Of a domain that goes.
pub fn domain_config_remove_in(tx: &Tx, domain_id: &str) -> Result<()> {
    tx.execute("DELETE FROM domain_config WHERE domain_id = ?1", params![domain_id])?;
    Ok(())
}

fn store_in(tx: &Tx, keys: &Ring, domain_id: &str, config: &DomainConfig) -> Result<()> {
    for ((group, option), value) in &config.options {
        let sensitive = find(group, option).is_none_or(|known| known.default.is_none());
        let text = value.to_string();
        let text = if sensitive { keys.seal_text(text.as_bytes()) } else { text };
        tx.execute(
            "INSERT INTO domain_config (domain_id, group_name, option_name, sensitive, value) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (domain_id, group_name, option_name) DO UPDATE SET value = excluded.value",
            params![domain_id, group, option, sensitive, text],
        )?;
    }
    Ok(())
}

impl Identity {
    /// What a domain has set, secrets included: for whoever talks to its directory.
    pub async fn domain_config(&self, domain_id: &str) -> Result<DomainConfig> {
        self.0.store.read(|tx| domain_config_in(tx, &self.0.credential_keys, domain_id)).await
    }

    pub(crate) async fn domain_config_show(&self, domain_id: &str, place: Place<'_>) -> Result<Value> {
        place.check()?;
        self.domain_config(domain_id).await?.view(place).ok_or_else(|| place.missing(domain_id))
    }

    /// The rules for passwords, of which the default domain tells. They are the same for all.
    pub(crate) fn password_rules_show(&self, domain_id: &str, option: Option<&str>) -> Result<Value> {
        if domain_id != "default" {
            return Err(wrong(
                "Reading security compliance information for any domain other than the default domain is not allowed or supported",
            ));
        }
        if option.is_some_and(|option| !READABLE.contains(&option)) {
            return Err(wrong(
                "Reading security compliance values other than password_regex and password_regex_description is not allowed",
            ));
        }
        let value = |name: &str| match self.0.config.text(&format!("security_compliance.{name}")) {
            "" => Value::Null,
            text => json!(text),
        };
        Ok(match option {
            Some(option) => json!({ option: value(option) }),
            None => json!({ "security_compliance": READABLE.map(|name| (name.to_string(), value(name))).into_iter().collect::<Object>() }),
        })
    }

    /// In place of whatever there was; the second value says whether there was nothing.
    pub(crate) async fn domain_config_create(&self, ctx: &Context, domain_id: &str, config: Object) -> Result<(Value, bool)> {
        let config = read(config, Place::default())?;
        let (ctx, id, identity) = (ctx.clone(), domain_id.to_string(), self.clone());
        self.change(move |tx| {
            projects::domain_get_in(tx, &id)?;
            let fresh = tx.execute("DELETE FROM domain_config WHERE domain_id = ?1", params![&id])? == 0;
            store_in(tx, &identity.0.credential_keys, &id, &config)?;
            note(tx, &ctx, if fresh { "domain_config.created" } else { "domain_config.updated" }, &id)?;
            Ok((config.view(Place::default()).unwrap_or_else(|| json!({})), fresh))
        })
        .await
    }

    /// A group or option that is named must have been set before.
    pub(crate) async fn domain_config_update(&self, ctx: &Context, domain_id: &str, config: Object, place: Place<'_>) -> Result<Value> {
        let config = read(config, place)?;
        let (ctx, id, identity) = (ctx.clone(), domain_id.to_string(), self.clone());
        let (group, option) = (place.group.map(str::to_string), place.option.map(str::to_string));
        self.change(move |tx| {
            let place = Place { group: group.as_deref(), option: option.as_deref() };
            projects::domain_get_in(tx, &id)?;
            let keys = &identity.0.credential_keys;
            let before = domain_config_in(tx, keys, &id)?;
            if place.group.is_some() && !before.options.keys().any(|(group, option)| place.holds(group, option)) {
                return Err(place.missing(&id));
            }
            store_in(tx, keys, &id, &config)?;
            note(tx, &ctx, "domain_config.updated", &id)?;
            Ok(domain_config_in(tx, keys, &id)?.view(Place::default()).unwrap_or_else(|| json!({})))
        })
        .await
    }

    pub(crate) async fn domain_config_delete(&self, ctx: &Context, domain_id: &str, place: Place<'_>) -> Result<()> {
        place.check()?;
        let (ctx, id) = (ctx.clone(), domain_id.to_string());
        let (group, option) = (place.group.map(str::to_string), place.option.map(str::to_string));
        self.change(move |tx| {
            projects::domain_get_in(tx, &id)?;
            let gone = tx.execute(
                "DELETE FROM domain_config WHERE domain_id = ?1 AND (CAST(?2 AS TEXT) IS NULL OR group_name = ?2) \
                 AND (CAST(?3 AS TEXT) IS NULL OR option_name = ?3)",
                params![&id, &group, &option],
            )?;
            if gone == 0 && group.is_some() {
                return Err(Place { group: group.as_deref(), option: option.as_deref() }.missing(&id));
            }
            note(tx, &ctx, "domain_config.deleted", &id)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_json() {
        for known in KNOWN {
            assert!(known.default.is_none_or(|text| serde_json::from_str::<Value>(text).is_ok()), "{}", known.option);
        }
    }

    #[test]
    fn a_secret_can_be_part_of_another_option() {
        let set = json!({ "ldap": { "url": "ldap://u:%(password)s@h/%(user)s%(", "password": "s%(url)s", "page_size": 5 } });
        let Value::Object(set) = set else { unreachable!() };
        let config = read(set, Place::default()).unwrap();
        assert_eq!(config.text("ldap", "url"), "ldap://u:s%(url)s@h/%(user)s%(");
        assert_eq!((config.get("ldap", "page_size"), config.get("ldap", "pool_size")), (json!(5), json!(10)));
        assert_eq!((config.text("ldap", "user"), config.text("identity", "driver")), (String::new(), "sql".into()));
        assert_eq!(config.view(Place { group: Some("ldap"), option: Some("password") }), None);
    }
}
