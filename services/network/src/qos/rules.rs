//! Rules of policies. Each type has an amount, most for a direction as the guest sees it, and a policy has one of them at most.

use std::collections::HashMap;
use std::fmt::Display;

use base::{Error, Kind as ErrorKind, Result, Timestamp};
use rpc::network::{Limit, Limits, PacketLimit};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Check, Object};
use crate::{db, fault};

pub struct RuleType {
    pub name: &'static str,
    /// The name in `/qos/policies/{id}/{plural}`.
    pub plural: &'static str,
    pub amount: &'static str,
    /// What the amount may be; empty: anything up to [`MAX`].
    pub values: &'static [i64],
    /// What may be spent at once beyond what a second of the rate carries; zero: what suits it.
    pub burst: Option<&'static str>,
    /// Empty: the type has none.
    pub directions: &'static [&'static str],
    /// Whether a rule is found by its id alone.
    pub alias: bool,
}

/// In kilobits per second and kilobits.
pub static LIMIT: RuleType = RuleType {
    name: "bandwidth_limit",
    plural: "bandwidth_limit_rules",
    amount: "max_kbps",
    values: &[],
    burst: Some("max_burst_kbps"),
    directions: &DIRECTIONS,
    alias: true,
};
pub static MARK: RuleType = RuleType {
    name: "dscp_marking",
    plural: "dscp_marking_rules",
    amount: "dscp_mark",
    values: &MARKS,
    burst: None,
    directions: &[],
    alias: true,
};
/// In kilobits per second.
pub static MINIMUM: RuleType = RuleType {
    name: "minimum_bandwidth",
    plural: "minimum_bandwidth_rules",
    amount: "min_kbps",
    values: &[],
    burst: None,
    directions: &DIRECTIONS,
    alias: true,
};
/// In thousands of packets per second.
pub static PACKET_MINIMUM: RuleType = RuleType {
    name: "minimum_packet_rate",
    plural: "minimum_packet_rate_rules",
    amount: "min_kpps",
    values: &[],
    burst: None,
    directions: &["any", "ingress", "egress"],
    alias: true,
};
/// In thousands of packets per second and thousands of packets. Upstream has no alias of these.
pub static PACKET_LIMIT: RuleType = RuleType {
    name: "packet_rate_limit",
    plural: "packet_rate_limit_rules",
    amount: "max_kpps",
    values: &[],
    burst: Some("max_burst_kpps"),
    directions: &DIRECTIONS,
    alias: false,
};

pub static TYPES: [&RuleType; 5] = [&LIMIT, &MARK, &MINIMUM, &PACKET_MINIMUM, &PACKET_LIMIT];
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
/// The marks that have a name: RFC 2474, 2597, 3246 and 5865.
const MARKS: [i64; 22] = [0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 44, 46, 48, 56];
/// The largest amount of a rule.
pub const MAX: i64 = i32::MAX as i64;

impl RuleType {
    /// Whether ports ask their host for what its rules say.
    pub fn promises(&self) -> bool {
        self.name == MINIMUM.name || self.name == PACKET_MINIMUM.name
    }

    /// What a rule has besides its id.
    pub fn attributes(&self) -> impl Iterator<Item = &'static str> {
        [self.amount].into_iter().chain(self.burst).chain((!self.directions.is_empty()).then_some("direction"))
    }

    fn check(&self, name: &str, value: &Value) -> Result<Value, String> {
        let checked = match name {
            "direction" => Check::OneOf(self.directions).apply(value),
            _ => Check::Int(0, MAX).apply(value),
        }?;
        let known = name != self.amount || self.values.is_empty() || checked.as_i64().is_some_and(|n| self.values.contains(&n));
        if known {
            Ok(checked)
        } else {
            Err(format!("'{checked}' is not in {}", self.values.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")))
        }
    }

    pub fn singular(&self) -> String {
        format!("{}_rule", self.name)
    }

    /// The rule that a body makes, or of an `old` one.
    pub fn read(&self, policy: &str, body: &Object, old: Option<&Object>) -> Result<Object> {
        let mut rule = old.cloned().unwrap_or_else(|| {
            let mut rule = Object::new();
            rule.insert("id".into(), json!(base::id::uuid()));
            rule.insert("qos_policy_id".into(), json!(policy));
            rule.insert("type".into(), json!(self.name));
            rule.extend((!self.directions.is_empty()).then(|| ("direction".to_string(), json!("egress"))));
            rule.extend(self.burst.map(|name| (name.to_string(), json!(0))));
            rule
        });
        for (name, value) in body {
            match name.as_str() {
                name if self.attributes().any(|known| known == name) => {}
                // Whose it is the policy says.
                "tenant_id" | "project_id" if old.is_none() => continue,
                _ if old.is_some() && rule.contains_key(name) => {
                    return Err(fault::request(format!("Cannot update read-only attribute {name}")));
                }
                _ => return Err(fault::request(format!("Unrecognized attribute(s) '{name}'"))),
            }
            rule.insert(name.clone(), self.check(name, value).map_err(|reason| fault::attribute(name, reason))?);
        }
        if !rule.contains_key(self.amount) {
            return Err(fault::request(format!("Failed to parse request. Required attribute '{}' not specified", self.amount)));
        }
        Ok(rule)
    }

    /// As clients see it under its own name.
    pub fn view(&self, mut rule: Object, fields: &[String]) -> Object {
        rule.retain(|name, _| !matches!(name.as_str(), "qos_policy_id" | "type") && (fields.is_empty() || fields.contains(name)));
        rule
    }
}

pub fn text<'a>(rule: &'a Object, name: &str) -> &'a str {
    rule.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub fn amount(rule: &Object, name: &str) -> u64 {
    rule.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Rules by policy, oldest first.
pub fn of_policies(tx: &Tx, policies: &[String]) -> Result<HashMap<String, Vec<Object>>> {
    db::grouped(tx, "qos_rule", "policy_id", policies)
}

/// The rules of one type of a policy, oldest first.
pub fn list(tx: &Tx, policy: &str, kind: &RuleType) -> Result<Vec<Object>> {
    let rules = of_policies(tx, &[policy.to_string()])?.remove(policy).unwrap_or_default();
    Ok(rules.into_iter().filter(|rule| text(rule, "type") == kind.name).collect())
}

pub fn missing(id: &str, policy: &str) -> Error {
    fault::missing("QosRuleNotFound", format!("QoS rule {id} for policy {policy} could not be found."))
}

/// A rule of this type, of this policy if one is named.
pub fn fetch(tx: &Tx, id: &str, kind: &RuleType, policy: Option<&str>) -> Result<Object> {
    let found = Select::new("SELECT doc FROM qos_rule").eq("id", id).eq("type", kind.name).opt_eq("policy_id", policy);
    found.fetch(tx, |row| row.json(0))?.pop().ok_or_else(|| missing(id, policy.unwrap_or_default()))
}

/// Writes a new rule, or a changed one, where the others of its policy allow it.
pub fn put(tx: &Tx, kind: &RuleType, rule: &Object) -> Result<()> {
    let (id, policy, direction) = (text(rule, "id"), text(rule, "qos_policy_id"), text(rule, "direction"));
    let others = of_policies(tx, &[policy.to_string()])?.remove(policy).unwrap_or_default();
    for other in others.iter().filter(|other| text(other, "id") != id) {
        let there = text(other, "direction");
        if text(other, "type") == kind.name && there == direction {
            let message =
                format!("Rule {} conflicts with rule {} which already exists in QoS policy {policy}.", kind.name, text(other, "id"));
            return Err(fault::in_use("QoSRulesConflict", message));
        }
        if text(other, "type") == kind.name && (there == "any" || direction == "any") {
            return Err(contradiction(policy, direction, kind.name, there));
        }
        if there != direction {
            continue;
        }
        let (least, most) = if kind.name == MINIMUM.name { (rule, other) } else { (other, rule) };
        if text(least, "type") == MINIMUM.name
            && text(most, "type") == LIMIT.name
            && amount(least, MINIMUM.amount) > amount(most, LIMIT.amount)
        {
            let there = if kind.name == MINIMUM.name { &LIMIT } else { &MINIMUM };
            return Err(contradiction(policy, amount(rule, kind.amount), there.name, amount(other, there.amount)));
        }
    }
    let doc = Value::Object(rule.clone());
    let written = tx.attempt(|tx| {
        tx.execute(
            "INSERT INTO qos_rule (id, policy_id, type, direction, created_at, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (id) DO UPDATE SET direction = excluded.direction, doc = excluded.doc",
            params![id, policy, kind.name, direction, Timestamp::now(), doc],
        )
    });
    written.map(drop).map_err(|error| match error.kind() {
        ErrorKind::Exists => fault::in_use("QoSRulesConflict", format!("Another rule was made for QoS policy {policy} meanwhile.")),
        _ => error,
    })
}

fn contradiction(policy: &str, value: impl Display, existing: &str, there: impl Display) -> Error {
    let message = format!(
        "Unable to add the rule with value {value} to the policy {policy}: the existing rule of type {existing} has value {there}."
    );
    fault::in_use("QoSRuleParameterConflict", message)
}

pub fn remove(tx: &Tx, id: &str) -> Result<()> {
    tx.execute("DELETE FROM qos_rule WHERE id = ?1", params![id]).map(drop)
}

/// Kilobits of the largest packet that a guest hands over at once (64 KiB, which its card would cut in pieces).
const PACKET: u64 = 525;

/// How much a port of the policy with these rules carries at most, and how what it sends is marked. The host's buckets hold a second of
/// the rate and the burst. A burst of zero bytes is four fifths of what a second carries, which lets TCP come near the rate, and at least
/// one packet.
pub fn limits(rules: &[Object]) -> Limits {
    let limit = |kind: &RuleType, direction: &str| {
        let rule = rules.iter().find(|rule| text(rule, "type") == kind.name && text(rule, "direction") == direction)?;
        let rate = amount(rule, kind.amount);
        (rate > 0).then(|| (rate, kind.burst.map(|name| amount(rule, name)).filter(|burst| *burst > 0)))
    };
    let bytes = |direction: &str| {
        let (rate, burst) = limit(&LIMIT, direction)?;
        Some(Limit { rate, burst: burst.unwrap_or((rate * 4 / 5).max(PACKET)) })
    };
    let packets = |direction: &str| {
        let (rate, burst) = limit(&PACKET_LIMIT, direction)?;
        Some(PacketLimit { rate, burst: burst.unwrap_or_default() })
    };
    let mark = rules.iter().find(|rule| text(rule, "type") == MARK.name).map(|rule| amount(rule, MARK.amount));
    Limits {
        egress: bytes("egress"),
        ingress: bytes("ingress"),
        egress_packets: packets("egress"),
        ingress_packets: packets("ingress"),
        mark: mark.and_then(|mark| u8::try_from(mark).ok()),
    }
}

/// What a rule-type document says of the parameters.
pub fn parameters(kind: &RuleType) -> Vec<Value> {
    let choices = |name: &str, values: Value| json!({"parameter_name": name, "parameter_type": "choices", "parameter_values": values});
    let range = |name: &str| json!({"parameter_name": name, "parameter_type": "range", "parameter_values": {"start": 0, "end": MAX}});
    let parameter = |name: &str| match name {
        "direction" => choices(name, json!(kind.directions)),
        name if name == kind.amount && !kind.values.is_empty() => choices(name, json!(kind.values)),
        name => range(name),
    };
    kind.attributes().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_takes_what_its_type_knows() {
        let body = |value: Value| value.as_object().cloned().unwrap();
        let rule = LIMIT.read("p", &body(json!({"max_kbps": "7", "tenant_id": "t"})), None).unwrap();
        assert_eq!((amount(&rule, "max_kbps"), amount(&rule, "max_burst_kbps"), text(&rule, "direction")), (7, 0, "egress"));
        let changed = LIMIT.read("p", &body(json!({"direction": "ingress"})), Some(&rule)).unwrap();
        assert_eq!((amount(&changed, "max_kbps"), text(&changed, "direction"), changed["id"] == rule["id"]), (7, "ingress", true));
        let wrong = [
            json!({}),
            json!({"max_kbps": -1}),
            json!({"max_kbps": MAX + 1}),
            json!({"max_kbps": "many"}),
            json!({"max_kbps": 1, "direction": "any"}),
            json!({"min_kbps": 1}),
        ];
        for wrong in wrong {
            assert!(LIMIT.read("p", &body(wrong.clone()), None).is_err(), "{wrong}");
        }
        for wrong in [json!({"id": "x"}), json!({"type": "x"}), json!({"tenant_id": "x"})] {
            assert!(LIMIT.read("p", &body(wrong.clone()), Some(&rule)).is_err(), "{wrong}");
        }
        let mark = MARK.read("p", &body(json!({"dscp_mark": "46"})), None).unwrap();
        assert_eq!((amount(&mark, "dscp_mark"), mark.get("direction")), (46, None));
        for wrong in [json!({}), json!({"dscp_mark": 47}), json!({"dscp_mark": 64}), json!({"dscp_mark": 46, "direction": "egress"})] {
            assert!(MARK.read("p", &body(wrong.clone()), None).is_err(), "{wrong}");
        }
        assert!(PACKET_MINIMUM.read("p", &body(json!({"min_kpps": 1, "direction": "any"})), None).is_ok());
        assert!(PACKET_LIMIT.read("p", &body(json!({"max_kpps": 1, "direction": "any"})), None).is_err());
    }
}
