//! Policy: the rule of an action, and those of the attributes that are given or shown.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use base::{Context, Result};
use serde_json::Value;

use crate::attr::{Kind, Object};
use crate::policy::RULES;
use crate::{Network, fault};

fn known(rule: &str) -> bool {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| RULES.iter().map(|r| r.name).collect()).contains(rule)
}

/// Attributes of a resource that have a rule for being shown.
fn guarded(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    static GUARDED: OnceLock<HashMap<&'static str, Vec<(&'static str, &'static str)>>> = OnceLock::new();
    let table = GUARDED.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<_>> = HashMap::new();
        for rule in RULES {
            if let Some((resource, attribute)) = rule.name.strip_prefix("get_").and_then(|rest| rest.split_once(':')) {
                table.entry(resource).or_default().push((attribute, rule.name));
            }
        }
        table
    });
    table.get(kind.singular).map(Vec::as_slice).unwrap_or_default()
}

pub fn allowed(net: &Network, ctx: &Context, rule: &str, target: &Object) -> bool {
    net.core().policy.check("network", rule, ctx, target)
}

/// `rule` on `target`, or `PolicyNotAuthorized`.
pub fn require(net: &Network, ctx: &Context, rule: &str, target: &Object) -> Result<()> {
    if allowed(net, ctx, rule, target) { Ok(()) } else { Err(fault::forbidden(rule)) }
}

/// The rule of the action, then that of each attribute the caller gave, and of its parts.
pub fn write(net: &Network, ctx: &Context, kind: &Kind, action: &str, target: &Object, given: &[(&String, &Value)]) -> Result<()> {
    let base = format!("{action}_{}", kind.singular);
    require(net, ctx, &base, target)?;
    let attribute = |rule: &str| if known(rule) { require(net, ctx, rule, target) } else { Ok(()) };
    for (name, value) in given {
        attribute(&format!("{base}:{name}"))?;
        let parts: Vec<&Object> = match value {
            Value::Object(map) => vec![map],
            Value::Array(list) => list.iter().filter_map(Value::as_object).collect(),
            _ => Vec::new(),
        };
        let mut keys: Vec<&str> = parts.iter().flat_map(|part| part.keys().map(String::as_str)).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            attribute(&format!("{base}:{name}:{key}"))?;
        }
    }
    Ok(())
}

/// What a caller may see of a kind of resource, as far as it is the same for all: a list asks the rules once, not for each row.
pub struct Sight {
    hidden: Vec<&'static str>,
    /// Attributes whose rules look at the resource.
    open: Vec<(&'static str, &'static str)>,
}

impl Sight {
    pub fn of(net: &Network, ctx: &Context, kind: &Kind) -> Sight {
        let policy = net.core().policy.current();
        let mut sight = Sight { hidden: Vec::new(), open: Vec::new() };
        for (attribute, rule) in guarded(kind) {
            match policy.settled("network", rule, ctx) {
                Some(true) => {}
                Some(false) => sight.hidden.push(attribute),
                None => sight.open.push((attribute, rule)),
            }
        }
        sight
    }

    /// Takes away the attributes the caller may not see.
    pub fn hide(&self, net: &Network, ctx: &Context, object: &mut Object) {
        let closed = self.open.iter().filter(|(_, rule)| !allowed(net, ctx, rule, object));
        let hidden: Vec<&str> = self.hidden.iter().copied().chain(closed.map(|(attribute, _)| *attribute)).collect();
        if !hidden.is_empty() {
            object.retain(|name, _| !hidden.contains(&name.as_str()));
        }
    }
}
