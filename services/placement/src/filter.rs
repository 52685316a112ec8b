//! The little languages of query parameters: resources, traits, aggregates.

use base::{Error, Result};
use http_api::{Query, Request, Version};
use store::{Tx, params};

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
    if base::id::is_uuid(text) {
        Ok(text.to_string())
    } else {
        Err(Error::invalid(format!("Invalid query string parameters: '{text}' is not a 'uuid'")))
    }
}

/// `VCPU:4,MEMORY_MB:512`.
pub fn resources(text: &str) -> Result<Vec<(String, u64)>> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for part in text.split(',') {
        let bad = || {
            Error::invalid(format!(
                "Badly formed resources parameter. Expected resources query string parameter in form: ?resources=VCPU:2,MEMORY_MB:1024. Got: {text}."
            ))
        };
        let (class, amount) = part.trim().split_once(':').ok_or_else(bad)?;
        let amount: u64 = amount.parse().map_err(|_| bad())?;
        if amount == 0 || amount > i32::MAX as u64 {
            return Err(Error::invalid(format!("Requested resource {class} requires amount >= 1. Got: {amount}.")));
        }
        if !names::is_name(class) {
            return Err(bad());
        }
        if found.iter().any(|(known, _)| known == class) {
            return Err(Error::invalid(format!("Resource class {class} is asked for twice.")));
        }
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
            let bad = || {
                Error::invalid(format!(
                    "Invalid query string parameters: Expected 'required' parameter value of the form: HW_CPU_X86_VMX,CUSTOM_MAGIC. Got: {value}"
                ))
            };
            if let Some(any) = value.strip_prefix("in:").filter(|_| version >= Version::new(1, 39)) {
                let any: Vec<String> = any.split(',').map(|t| t.trim().to_string()).collect();
                if any.iter().any(|t| !names::is_name(t)) {
                    return Err(bad());
                }
                traits.required.push(any);
                continue;
            }
            for part in value.split(',').map(str::trim) {
                match part.strip_prefix('!').filter(|_| version >= Version::new(1, 22)) {
                    Some(not) if names::is_name(not) => traits.forbidden.push(not.to_string()),
                    None if names::is_name(part) => traits.required.push(vec![part.to_string()]),
                    _ => return Err(bad()),
                }
            }
        }
        let both = traits.forbidden.iter().find(|t| traits.required.iter().any(|any| any.len() == 1 && any[0] == **t));
        match both {
            Some(name) => Err(Error::invalid(format!(
                "Conflicting required and forbidden traits found in the following traits keys: required: ({name})"
            ))),
            None => Ok(traits),
        }
    }

    pub fn check_in(&self, tx: &Tx) -> Result<()> {
        names::traits_check_in(tx, self.required.iter().flatten().chain(&self.forbidden))
    }

    pub fn fit(&self, has: &[String]) -> bool {
        self.required.iter().all(|any| any.iter().any(|t| has.contains(t))) && !self.forbidden.iter().any(|t| has.contains(t))
    }

    pub fn fit_in(&self, tx: &Tx, provider: &str) -> Result<bool> {
        if self.required.is_empty() && self.forbidden.is_empty() {
            return Ok(true);
        }
        let has = tx.query("SELECT trait FROM provider_trait WHERE provider = ?1", params![provider], |r| r.text(0))?;
        Ok(self.fit(&has))
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
    /// All occurrences of the parameter: a UUID, `in:A,B`, from 1.32 `!A` and `!in:A,B`.
    pub fn parse(req: &Request, name: &str) -> Result<Members> {
        Self::from_values(req.query.all(name), req.version)
    }

    pub fn from_values<'a>(values: impl Iterator<Item = &'a str>, version: Version) -> Result<Members> {
        let mut members = Members::default();
        let values: Vec<&str> = values.collect();
        if values.len() > 1 && version < Version::new(1, 24) {
            return Err(Error::invalid("Multiple member_of parameters are not supported"));
        }
        for value in values {
            let (not, rest) = match value.strip_prefix('!') {
                Some(rest) if version >= Version::new(1, 32) => (true, rest),
                _ => (false, value),
            };
            let list: Vec<String> = match rest.strip_prefix("in:") {
                Some(list) => list.split(',').map(str::to_string).collect(),
                None => vec![rest.to_string()],
            };
            if list.iter().any(|uuid| !base::id::is_uuid(uuid)) {
                return Err(Error::invalid(format!("Expected 'member_of' parameter to contain valid UUID(s). Got: {value}")));
            }
            if not { members.none_of.extend(list) } else { members.any_of.push(list) }
        }
        Ok(members)
    }

    pub fn fit(&self, of: &[String]) -> bool {
        self.any_of.iter().all(|any| any.iter().any(|a| of.contains(a))) && !self.none_of.iter().any(|a| of.contains(a))
    }

    pub fn fit_in(&self, tx: &Tx, provider: &str) -> Result<bool> {
        if self.any_of.is_empty() && self.none_of.is_empty() {
            return Ok(true);
        }
        let of = tx.query("SELECT aggregate FROM provider_aggregate WHERE provider = ?1", params![provider], |r| r.text(0))?;
        Ok(self.fit(&of))
    }
}
