//! Rules of security groups: rules.

use base::{Context, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Select, Tx, params};

use crate::attr::{Absent, Attribute, Check, Kind, Object, attr, show};
use crate::row::{self, Common, Resource};
use crate::security_groups::SecurityGroup;
use crate::{Network, db, fault, hosts};

static ATTRIBUTES: &[Attribute] = &[
    attr("security_group_id", Check::Text(255)).post(Absent::Required).column(),
    attr("direction", Check::OneOf(&["ingress", "egress"])).post(Absent::Required).column(),
    attr("ethertype", Check::Custom(ethertype)).post(Absent::Text("IPv4")).column(),
    attr("protocol", Check::Custom(protocol)).post(Absent::Null).column(),
    attr("port_range_min", Check::Custom(port)).post(Absent::Null).column(),
    attr("port_range_max", Check::Custom(port)).post(Absent::Null).column(),
    attr("remote_ip_prefix", Check::Custom(prefix)).post(Absent::Null).column(),
    attr("remote_group_id", Check::TextOrNull(255)).post(Absent::Null).column(),
    attr("remote_address_group_id", Check::UuidOrNull).post(Absent::Null),
    attr("normalized_cidr", Check::Any),
    attr("belongs_to_default_sg", Check::Flag),
];

pub static KIND: Kind = Kind {
    singular: "security_group_rule",
    plural: "security_group_rules",
    table: "security_group_rule",
    not_found: "SecurityGroupRuleNotFound",
    label: "Security group rule",
    attributes: ATTRIBUTES,
    policy_only: &["security_group:project_id", "name"],
    filters: &[],
};

/// Names of IP protocols and their numbers.
const PROTOCOLS: &[(&str, u8)] = &[
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("ip", 0),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
];
/// Protocols that IPv4 does not have.
const ONLY_V6: &[u8] = &[41, 43, 44, 58, 59, 60];
/// Protocols that have ports.
const WITH_PORTS: &[u8] = &[6, 17, 33, 132, 136];

/// The number of a protocol as stored; none: any protocol.
pub fn protocol_number(protocol: Option<&str>) -> Option<u8> {
    let text = protocol?;
    PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, n)| *n).or_else(|| text.parse().ok())
}

fn ethertype(value: &Value) -> Result<Value, String> {
    match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("ipv4") => Ok(json!("IPv4")),
        Some("ipv6") => Ok(json!("IPv6")),
        _ => Err(format!("Security group rule for ethertype '{}' not supported. Allowed values are ['IPv4', 'IPv6']", show(value))),
    }
}

fn protocol(value: &Value) -> Result<Value, String> {
    let wrong = || format!("Security group rule protocol {} not supported: a name or a number from 0 to 255 is needed", show(value));
    match value {
        Value::Null => Ok(Value::Null),
        Value::Number(n) => n.as_u64().filter(|n| *n <= 255).map(|n| json!(n.to_string())).ok_or_else(wrong),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "" | "any" => Ok(Value::Null),
            name if PROTOCOLS.iter().any(|(known, _)| *known == name) => Ok(json!(name)),
            number => number.parse::<u8>().map(|n| json!(n.to_string())).map_err(|_| wrong()),
        },
        _ => Err(wrong()),
    }
}

fn port(value: &Value) -> Result<Value, String> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::String(text) if text.is_empty() => Ok(Value::Null),
        value => crate::attr::int(value, -1, 65535).map(|n| json!(n)).map_err(|_| format!("Invalid value for port {}", show(value))),
    }
}

/// A network in any form: host bits are allowed and kept.
fn prefix(value: &Value) -> Result<Value, String> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::String(text) if text.is_empty() => Ok(Value::Null),
        value => {
            let text = value.as_str().unwrap_or_default();
            if let Ok(at) = text.parse::<std::net::IpAddr>() {
                return Ok(json!(IpNet::from(at)));
            }
            text.parse::<IpNet>().map(|_| json!(text)).map_err(|_| format!("'{}' is not a valid CIDR", show(value)))
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    #[serde(flatten)]
    pub common: Common,
    pub security_group_id: String,
    pub direction: String,
    pub ethertype: String,
    pub protocol: Option<String>,
    pub port_range_min: Option<i64>,
    pub port_range_max: Option<i64>,
    pub remote_ip_prefix: Option<String>,
    pub remote_group_id: Option<String>,
    pub remote_address_group_id: Option<String>,
    pub normalized_cidr: Option<String>,
    pub belongs_to_default_sg: bool,
}

impl Rule {
    /// A rule that lets everything of one direction pass, or everything of a group's members.
    pub fn open(group: &SecurityGroup, direction: &str, ethertype: &str, remote_group: Option<&str>) -> Rule {
        Rule {
            common: Common::new(group.project(), &Object::new()),
            security_group_id: group.id().into(),
            direction: direction.into(),
            ethertype: ethertype.into(),
            protocol: None,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: None,
            remote_group_id: remote_group.map(str::to_string),
            remote_address_group_id: None,
            normalized_cidr: None,
            belongs_to_default_sg: false,
        }
    }

    fn same(&self, other: &Rule) -> bool {
        let key = |r: &Rule| {
            (
                r.direction.clone(),
                r.ethertype.clone(),
                protocol_number(r.protocol.as_deref()),
                r.port_range_min,
                r.port_range_max,
                // No prefix and the whole of the family say the same.
                r.normalized_cidr.clone().filter(|c| !matches!(c.as_str(), "0.0.0.0/0" | "::/0")),
                r.remote_group_id.clone(),
            )
        };
        key(self) == key(other)
    }

    fn check(&mut self) -> Result<()> {
        let v6 = self.ethertype == "IPv6";
        let written = protocol_number(self.protocol.as_deref());
        if let Some(name) = self.protocol.as_deref().filter(|_| !v6 && written.is_some_and(|n| ONLY_V6.contains(&n))) {
            let message = format!("Invalid ethertype {} for protocol {name}.", self.ethertype);
            return Err(fault::bad("SecurityGroupEthertypeConflictWithProtocol", message));
        }
        // `icmp` on IPv6 means what ICMP is called there.
        if v6 && self.protocol.as_deref() == Some("icmp") {
            self.protocol = Some("ipv6-icmp".into());
        }
        let number = protocol_number(self.protocol.as_deref());
        let (min, max) = (self.port_range_min, self.port_range_max);
        match number {
            None if min.is_some() || max.is_some() => {
                let message = "Must also specify protocol if port range is given.";
                return Err(fault::bad("SecurityGroupProtocolRequiredWithPorts", message));
            }
            Some(1 | 58) => {
                for (field, value) in [("type", min), ("code", max)] {
                    if let Some(value) = value.filter(|v| !(0..=255).contains(v)) {
                        let attribute = if field == "type" { "port-range-min" } else { "port-range-max" };
                        let message = format!("Invalid value for ICMP {field} ({attribute}) {value}. It must be 0 to 255.");
                        return Err(fault::bad("SecurityGroupInvalidIcmpValue", message));
                    }
                }
                if let (None, Some(code)) = (min, max) {
                    let message = format!("ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing.");
                    return Err(fault::bad("SecurityGroupMissingIcmpType", message));
                }
            }
            Some(n) if WITH_PORTS.contains(&n) => {
                let fits = match (min, max) {
                    (None, None) => true,
                    (Some(min), Some(max)) => min <= max && min >= 0,
                    _ => false,
                };
                if !fits {
                    let message = "For TCP/UDP protocols, port_range_min must be <= port_range_max";
                    return Err(fault::bad("SecurityGroupInvalidPortRange", message));
                }
                if n != 132 && min == Some(0) && max == Some(0) {
                    return Err(fault::bad("SecurityGroupInvalidPortValue", "Invalid value for port 0"));
                }
            }
            Some(n) if min.is_some() || max.is_some() => {
                let message =
                    format!("Ports cannot be specified for protocol {n}. Ports are only supported for tcp, udp, dccp, sctp and udplite.");
                return Err(fault::bad("SecurityGroupInvalidProtocolForPort", message));
            }
            _ => {}
        }
        if self.remote_ip_prefix.is_some() && self.remote_group_id.is_some() {
            let message = "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.";
            return Err(fault::bad("SecurityGroupMultipleRemoteEntites", message));
        }
        if let Some(text) = &self.remote_ip_prefix {
            let cidr: IpNet = text.parse().map_err(|_| fault::attribute("remote_ip_prefix", format!("'{text}' is not a valid CIDR")))?;
            if matches!(cidr, IpNet::V6(_)) != v6 {
                let message = format!("Conflicting value ethertype {} for CIDR {text}", self.ethertype);
                return Err(fault::bad("SecurityGroupRuleParameterConflict", message));
            }
            self.normalized_cidr = Some(cidr.trunc().to_string());
        }
        Ok(())
    }
}

impl Resource for Rule {
    const KIND: &'static Kind = &KIND;
    fn common(&self) -> &Common {
        &self.common
    }
    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn decorate(_net: &Network, tx: &Tx, objects: &mut [Object]) -> Result<()> {
        let groups = db::grouped(tx, "security_group", "id", &db::column(objects, "security_group_id"))?;
        for object in objects {
            let id = object.get("security_group_id").and_then(Value::as_str).unwrap_or_default();
            if let Some(project) = groups.get(id).and_then(|l| l.first()).and_then(|g| g.get("project_id")) {
                object.insert("security_group:project_id".into(), project.clone());
            }
        }
        Ok(())
    }

    fn visible(select: Select, project: &str) -> Select {
        let groups = "security_group_id IN (SELECT id FROM security_group WHERE project_id = ?)";
        select.any(|or| or.eq("project_id", project).cond(groups, [project.into()]))
    }

    fn parent(net: &Network, tx: &Tx, ctx: &Context, body: &Object) -> Result<()> {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if text("remote_address_group_id").is_some() {
            return Err(fault::missing("AddressGroupNotFound", "Address group could not be found: there are none in this cloud."));
        }
        for id in [text("security_group_id"), text("remote_group_id")].into_iter().flatten() {
            let group = row::find::<SecurityGroup>(tx, id)?;
            if group.filter(|g| net.sees_all(ctx) || g.project() == ctx.project_id()).is_none() {
                return Err(crate::security_groups::KIND.missing(id));
            }
        }
        Ok(())
    }

    fn create_in(net: &Network, tx: &Tx, _ctx: &Context, _project: &str, body: &Object) -> Result<Self> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_string);
        let group = row::fetch::<SecurityGroup>(tx, &text("security_group_id").unwrap_or_default())?;
        let mut rule = Rule::open(&group, "", "", text("remote_group_id").as_deref());
        rule.common = Common::new(group.project(), body);
        rule.direction = text("direction").unwrap_or_default();
        rule.ethertype = text("ethertype").unwrap_or_default();
        rule.protocol = text("protocol");
        // -1 is an old way to say "all".
        rule.port_range_min = body.get("port_range_min").and_then(Value::as_i64).filter(|n| *n != -1 || text("protocol").is_some());
        rule.port_range_max = body.get("port_range_max").and_then(Value::as_i64).filter(|n| *n != -1 || text("protocol").is_some());
        rule.remote_ip_prefix = text("remote_ip_prefix");
        rule.belongs_to_default_sg = db::security_groups::default_id(tx, group.project())?.as_deref() == Some(group.id());
        rule.check()?;
        for known in row::list::<Rule>(tx, "security_group_id = ?1", params![group.id()])? {
            if known.same(&rule) {
                let message = format!("Security group rule already exists. Rule id is {}.", known.id());
                return Err(fault::in_use("SecurityGroupRuleExists", message));
            }
        }
        row::insert(tx, &rule)?;
        changed(net, tx, group)?;
        Ok(rule)
    }

    fn update_in(_net: &Network, tx: &Tx, _ctx: &Context, mut item: Self, change: &Object) -> Result<Self> {
        if let Some(text) = change.get("description").and_then(Value::as_str) {
            item.common.description = text.into();
        }
        row::update(tx, &mut item)?;
        Ok(item)
    }

    fn delete_in(net: &Network, tx: &Tx, _ctx: &Context, item: Self) -> Result<()> {
        row::remove::<Rule>(tx, item.id())?;
        changed(net, tx, row::fetch::<SecurityGroup>(tx, &item.security_group_id)?)
    }
}

/// A group whose rules changed is at its next revision, and its hosts hear of it.
fn changed(net: &Network, tx: &Tx, mut group: SecurityGroup) -> Result<()> {
    row::update(tx, &mut group)?;
    hosts::touch_groups(net, tx, &[group.common.id])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        ethertype: &str,
        protocol: Option<&str>,
        min: Option<i64>,
        max: Option<i64>,
        prefix: Option<&str>,
    ) -> Result<Rule, &'static str> {
        let group = SecurityGroup { common: Common::default(), stateful: true, shared: false };
        let mut rule = Rule::open(&group, "ingress", ethertype, None);
        rule.protocol = protocol.map(str::to_string);
        (rule.port_range_min, rule.port_range_max) = (min, max);
        rule.remote_ip_prefix = prefix.map(str::to_string);
        rule.check().map(|()| rule).map_err(|e| e.name().unwrap())
    }

    #[test]
    fn ports_and_icmp_are_checked_as_upstream() {
        assert!(rule("IPv4", Some("tcp"), Some(80), Some(80), None).is_ok());
        assert_eq!(rule("IPv4", Some("tcp"), Some(80), None, None).unwrap_err(), "SecurityGroupInvalidPortRange");
        assert_eq!(rule("IPv4", Some("tcp"), Some(80), Some(16), None).unwrap_err(), "SecurityGroupInvalidPortRange");
        assert_eq!(rule("IPv4", Some("udp"), Some(-16), Some(80), None).unwrap_err(), "SecurityGroupInvalidPortRange");
        assert_eq!(rule("IPv4", None, Some(80), Some(80), None).unwrap_err(), "SecurityGroupProtocolRequiredWithPorts");
        assert_eq!(rule("IPv4", Some("icmp"), Some(256), None, None).unwrap_err(), "SecurityGroupInvalidIcmpValue");
        assert_eq!(rule("IPv4", Some("icmp"), None, Some(5), None).unwrap_err(), "SecurityGroupMissingIcmpType");
        assert_eq!(rule("IPv4", Some("111"), Some(1), Some(2), None).unwrap_err(), "SecurityGroupInvalidProtocolForPort");
        assert_eq!(rule("IPv4", Some("ipv6-icmp"), None, None, None).unwrap_err(), "SecurityGroupEthertypeConflictWithProtocol");
        assert_eq!(rule("IPv6", Some("icmp"), Some(1), None, None).unwrap().protocol.as_deref(), Some("ipv6-icmp"));
    }

    #[test]
    fn prefixes_are_normalised_and_of_the_family() {
        let made = rule("IPv4", None, None, None, Some("10.0.0.7/24")).unwrap();
        assert_eq!((made.remote_ip_prefix.as_deref(), made.normalized_cidr.as_deref()), (Some("10.0.0.7/24"), Some("10.0.0.0/24")));
        assert_eq!(rule("IPv6", None, None, None, Some("10.0.0.0/8")).unwrap_err(), "SecurityGroupRuleParameterConflict");
    }

    #[test]
    fn protocols_by_name_and_number() {
        assert_eq!(protocol(&json!("TCP")), Ok(json!("tcp")));
        assert_eq!(protocol(&json!(6)), Ok(json!("6")));
        assert_eq!(protocol(&json!("any")), Ok(Value::Null));
        assert!(protocol(&json!("bad")).is_err() && protocol(&json!(256)).is_err() && protocol(&json!([])).is_err());
        assert_eq!((protocol_number(Some("udp")), protocol_number(Some("99")), protocol_number(None)), (Some(17), Some(99), None));
    }
}
