//! Access rules: the requests for which an application credential may be used.

use base::{Error, Result};
use http_api::Asked;
use serde_json::{Value, json};
use store::{Row, Tx, params};

use crate::fault;
use crate::wire::Object;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    pub id: String,
    pub user_id: String,
    /// The type of a service, as the catalogue has it.
    pub service: String,
    /// A pattern; see [`matches`].
    pub path: String,
    pub method: String,
}

pub const COLUMNS: &str = "id, user_id, service, path, method";

pub fn map(row: &Row) -> Result<AccessRule> {
    Ok(AccessRule { id: row.text(0)?, user_id: row.text(1)?, service: row.text(2)?, path: row.text(3)?, method: row.text(4)? })
}

impl AccessRule {
    /// As tokens and application credentials show it.
    pub fn view(&self) -> Value {
        json!({ "id": self.id, "service": self.service, "path": self.path, "method": self.method })
    }

    fn admits(&self, asked: &Asked) -> bool {
        self.method == asked.method.as_str()
            && canonical(&self.service) == canonical(asked.service)
            && (matches(&self.path, asked.path) || matches(&self.path, asked.inner))
    }
}

/// Whether a token with these rules is good for a request.
pub fn admit(rules: &[AccessRule], asked: &Asked) -> bool {
    // As upstream: every token may be validated, else no service could tell what it is good for.
    let validation = asked.service == "identity" && asked.method == "GET" && asked.inner == "/v3/auth/tokens";
    validation || rules.iter().any(|rule| rule.admits(asked))
}

/// The catalogue has some services by more than one type.
fn canonical(service: &str) -> &str {
    match service {
        "volume" | "volumev2" | "volumev3" | "block-store" => "block-storage",
        "faultmanagement" => "fault",
        other => other,
    }
}

/// keystonemiddleware's language: `*` and `{name}` stand for one or more characters within a segment, `**` for any characters at all.
pub fn matches(pattern: &str, path: &str) -> bool {
    let parts = parse(pattern);
    // The places in the path up to which the parts so far may reach: as long as the path, however the pattern is.
    let path = path.as_bytes();
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; path.len() + 1];
        match part {
            Part::Literal(text) => {
                for at in (0..=path.len()).filter(|at| reached[*at] && path[*at..].starts_with(text.as_bytes())) {
                    next[at + text.len()] = true;
                }
            }
            Part::Segment => {
                let mut open = false;
                for at in 0..path.len() {
                    open = (open || reached[at]) && path[at] != b'/';
                    next[at + 1] = open;
                }
            }
            Part::Any => {
                let mut open = false;
                for at in 0..=path.len() {
                    open |= reached[at];
                    next[at] = open;
                }
            }
        }
        reached = next;
    }
    reached[path.len()]
}

enum Part<'a> {
    Literal(&'a str),
    /// `*` or `{name}`
    Segment,
    /// `**`
    Any,
}

fn parse(pattern: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("**") {
            parts.push(Part::Any);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            parts.push(Part::Segment);
            rest = after;
        } else if let Some((_, after)) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            parts.push(Part::Segment);
            rest = after;
        } else {
            let special = rest.char_indices().skip(1).find(|(_, c)| matches!(c, '*' | '{')).map_or(rest.len(), |(at, _)| at);
            let (literal, after) = rest.split_at(special);
            parts.push(Part::Literal(literal));
            rest = after;
        }
    }
    parts
}

/// A rule as a request names it.
pub enum RuleWanted {
    Id(String),
    New { service: String, path: String, method: String },
}

pub const METHODS: [&str; 6] = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"];

pub fn read(list: Value) -> Result<Vec<RuleWanted>> {
    const AT: &str = "application_credential/access_rules";
    let Value::Array(items) = list else { return Err(fault::field(AT, "it is not of type 'array'")) };
    let read_one = |item: &Value| {
        let rule = item.as_object().ok_or_else(|| fault::field(AT, format!("{item} is not of type 'object'")))?;
        let id = part(rule, "id", 64)?;
        if let Some(id) = id {
            return Ok(RuleWanted::Id(id));
        }
        let required = |name: &str| fault::field(AT, format!("'{name}' is a required property"));
        let service = part(rule, "service", 64)?.ok_or_else(|| required("service"))?;
        let path = part(rule, "path", 225)?.ok_or_else(|| required("path"))?;
        let method = part(rule, "method", 16)?.ok_or_else(|| required("method"))?;
        if !path.starts_with('/') {
            return Err(fault::field(&format!("{AT}/path"), format!("'{path}' does not match '^/\\\\.*'")));
        }
        if !METHODS.contains(&method.as_str()) {
            return Err(fault::field(&format!("{AT}/method"), format!("'{method}' is not one of {METHODS:?}")));
        }
        Ok(RuleWanted::New { service, path, method })
    };
    items.iter().map(read_one).collect()
}

fn part(rule: &Object, name: &str, max: usize) -> Result<Option<String>> {
    let at = format!("application_credential/access_rules/{name}");
    match rule.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() || text.chars().count() > max || text.contains('\0') => {
            Err(fault::field(&at, format!("it is not of 1 to {max} characters")))
        }
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(fault::field(&at, format!("{other} is not of type 'string'"))),
    }
}

/// The rules of a user that a request means; those that are not there yet are made.
pub fn settle_in(tx: &Tx, user_id: &str, wanted: &[RuleWanted]) -> Result<Vec<AccessRule>> {
    let mut rules: Vec<AccessRule> = Vec::new();
    for one in wanted {
        let rule = match one {
            // Nobody's rules but the own: others could be deleted, and what is told of them is not for everybody.
            RuleWanted::Id(id) => rule_fetch_in(tx, id)?.filter(|rule| rule.user_id == user_id).ok_or_else(|| not_found(id))?,
            RuleWanted::New { service, path, method } => {
                tx.execute(
                    &format!("INSERT INTO access_rule ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (user_id, service, path, method) DO NOTHING"),
                    params![base::id::hex(), user_id, service, path, method],
                )?;
                let sql = format!("SELECT {COLUMNS} FROM access_rule WHERE user_id = ?1 AND service = ?2 AND path = ?3 AND method = ?4");
                let found = tx.query_opt(&sql, params![user_id, service, path, method], map)?;
                found.ok_or_else(|| Error::internal("an access rule that was just made is gone"))?
            }
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    Ok(rules)
}

pub fn rule_fetch_in(tx: &Tx, id: &str) -> Result<Option<AccessRule>> {
    tx.query_opt(&format!("SELECT {COLUMNS} FROM access_rule WHERE id = ?1"), params![id], map)
}

pub fn not_found(id: &str) -> Error {
    fault::not_found("Access Rule", id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_upstream_documents() {
        for (pattern, path, wanted) in [
            ("/v2.1/servers", "/v2.1/servers", true),
            ("/v2.1/servers", "/v2x1/servers", false),
            ("/v2.1/servers", "/v2.1/servers/", false),
            ("/v2.1/servers", "/v2.1/servers/x", false),
            ("/v2.1/servers/*", "/v2.1/servers/x", true),
            ("/v2.1/servers/*", "/v2.1/servers/", false),
            ("/v2.1/servers/*", "/v2.1/servers/x/action", false),
            ("/v2.1/servers/{server_id}/ips", "/v2.1/servers/x/ips", true),
            ("/v2.1/servers/{server_id}/ips", "/v2.1/servers/x/y/ips", false),
            ("/v2.1/**", "/v2.1/", true),
            ("/v2.1/**", "/v2.1/servers/x/ips", true),
            ("/v2.1**", "/v2.1", true),
            ("/**/ips", "/v2.1/servers/x/ips", true),
            ("/**/ips", "/v2.1/servers/x/ip", false),
            ("/a*b/c", "/axxb/c", true),
            ("/a*b/c", "/ab/c", false),
            ("/{open", "/{open", true),
            ("/", "/", true),
            ("/", "", false),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }

    /// The same by trying every way, as slow as it may be.
    fn slowly(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| slowly(rest, &path[at..])),
            [b'*', rest @ ..] => (1..=path.len()).take_while(|at| path[at - 1] != b'/').any(|at| slowly(rest, &path[at..])),
            [byte, rest @ ..] => path.first() == Some(byte) && slowly(rest, &path[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[/ab*]{0,8}", path in "[/ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &path), slowly(pattern.as_bytes(), path.as_bytes()));
        }

        #[test]
        fn never_panics(pattern in ".{0,40}", path in ".{0,40}") {
            let _ = matches(&pattern, &path);
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_its_length() {
        let started = std::time::Instant::now();
        assert!(!matches(&"**a".repeat(75), &"/".repeat(8000)));
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
}
