//! The little languages of query parameters: resources, traits, aggregates.

use base::{Error, Result};
use http_api::{Query, Request, Version};
use store::Tx;

use crate::names;

/// Unknown parameters are refused.
pub fn only_known(query: &Query, known: &[&str]) -> Result<()> {
    match query.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => {
            Err(Error::invalid(format!("Invalid query string parameters: Additional properties are not allowed ('{name}' was unexpected)")))
        }
        None => Ok(()),
    }
}

pub fn uuid(text: &str) -> Result<String> {
    names::canonical(text.trim()).ok_or_else(|| Error::invalid(format!("Invalid query string parameters: '{text}' is not a 'uuid'")))
}

/// More of a class than any provider has in one unit.
const TOO_MUCH: u64 = 1 << 32;

/// `VCPU:4,MEMORY_MB:512`. Of a class that is named twice the last amount counts.
pub fn resources(text: &str) -> Result<Vec<(String, u64)>> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for part in text.split(',') {
        let bad = || {
            Error::invalid(format!(
                "Badly formed resources parameter: '{part}' is not of the form CLASS:AMOUNT, as in resources=VCPU:2,MEMORY_MB:1024."
            ))
        };
        let (class, amount) = part.split_once(':').ok_or_else(bad)?;
        let digits = amount.trim();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let amount = digits.parse().unwrap_or(TOO_MUCH).min(TOO_MUCH);
        if amount == 0 {
            return Err(Error::invalid(format!("Requested resource {class} requires an amount of at least 1.")));
        }
        found.retain(|(known, _)| known != class);
        found.push((class.to_string(), amount));
    }
    Ok(found)
}

pub fn class_known_in(tx: &Tx, class: &str) -> Result<()> {
    if names::class_exists_in(tx, class)? {
        Ok(())
    } else {
        Err(Error::invalid(format!("Invalid resource class in resources parameter: No such resource class {class}.")))
    }
}

/// Traits that must, may in part, or must not be there.
#[derive(Clone, Debug, Default)]
pub struct Traits {
    /// Of each list at least one.
    pub required: Vec<Vec<String>>,
    pub forbidden: Vec<String>,
}

impl Traits {
    /// All occurrences of the parameter `name`: `A,B`, from 1.22 `!C`, from 1.39 `in:D,E`, several times.
    pub fn parse(req: &Request, name: &str) -> Result<Traits> {
        Self::from_values(req.query.all(name), req.version)
    }

    pub fn from_values<'a>(values: impl Iterator<Item = &'a str>, version: Version) -> Result<Traits> {
        let mut traits = Traits::default();
        let values: Vec<&str> = values.collect();
        // Before 1.39 only the last occurrence counted.
        let values = if version >= Version::new(1, 39) { &values[..] } else { &values[values.len().saturating_sub(1)..] };
        for value in values {
            traits.read(value, version)?;
        }
        Ok(traits)
    }

    fn read(&mut self, value: &str, version: Version) -> Result<()> {
        let bad = |why: &str| Err(Error::invalid(format!("Invalid query string parameters: {why} in a list of traits. Got: {value}")));
        if let Some(any) = value.strip_prefix("in:") {
            if version < Version::new(1, 39) {
                return bad("'in:' is known from microversion 1.39 on only");
            }
            let any: Vec<String> = any.split(',').map(|t| t.trim().to_string()).collect();
            if any.iter().any(|t| t.is_empty() || t.starts_with('!')) {
                return bad("after 'in:' there must be names alone");
            }
            self.required.push(any);
            return Ok(());
        }
        for part in value.split(',').map(str::trim) {
            let name = part.trim_start_matches('!');
            if name.is_empty() {
                return bad("there must be no empty name");
            }
            if name.len() == part.len() {
                self.required.push(vec![name.to_string()]);
            } else if version >= Version::new(1, 22) {
                self.forbidden.push(name.to_string());
            } else {
                return bad("'!' is known from microversion 1.22 on only");
            }
        }
        Ok(())
    }

    /// Those required of which all are forbidden too.
    pub fn conflicts(&self) -> Vec<String> {
        let lost = self.required.iter().filter(|any| any.iter().all(|t| self.forbidden.contains(t)));
        lost.map(|any| any.join(", ")).collect()
    }

    pub fn check_in(&self, tx: &Tx) -> Result<()> {
        names::traits_check_in(tx, self.required.iter().flatten().chain(&self.forbidden))
    }
}

/// Aggregates of which a provider must be, or must not be, a member.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Of each list at least one.
    pub any_of: Vec<Vec<String>>,
    pub none_of: Vec<String>,
}

impl Members {
    /// All occurrences of the parameter: a UUID, `in:A,B`, from 1.24 several times, from 1.32 `!A` and `!in:A,B`.
    pub fn parse(req: &Request, name: &str) -> Result<Members> {
        Self::from_values(req.query.all(name), req.version)
    }

    pub fn from_values<'a>(values: impl Iterator<Item = &'a str>, version: Version) -> Result<Members> {
        let mut members = Members::default();
        let values: Vec<&str> = values.collect();
        if values.len() > 1 && version < Version::new(1, 24) {
            return Err(Error::invalid("Several member_of parameters are known from microversion 1.24 on only."));
        }
        for value in values {
            let (not, rest) = value.strip_prefix('!').map_or((false, value), |rest| (true, rest));
            let list: Vec<&str> = match rest.strip_prefix("in:") {
                Some(list) => list.split(',').collect(),
                None => vec![rest],
            };
            let list: Option<Vec<String>> = list.into_iter().map(names::canonical).collect();
            let list = list.ok_or_else(|| {
                Error::invalid(format!("Invalid query string parameters: member_of takes one UUID, or 'in:' and several. Got: {value}"))
            })?;
            if not && version < Version::new(1, 32) {
                return Err(Error::invalid("Forbidden aggregates in member_of are known from microversion 1.32 on only."));
            }
            if not { members.none_of.extend(list) } else { members.any_of.push(list) }
        }
        Ok(members)
    }
}
