//! What a port's body may hold.

use std::net::IpAddr;

use base::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::allocation::Wish;
use crate::attr::{self, Absent, Attribute, Check, Object, attr, show};
use crate::networks::is_label;
use crate::ports::Draft;
use crate::row::Common;

const VNIC_TYPES: &[&str] = &[
    "normal",
    "direct",
    "macvtap",
    "baremetal",
    "direct-physical",
    "virtio-forwarder",
    "smart-nic",
    "accelerator-direct",
    "vdpa",
    "remote-managed",
];
const MAX_PAIRS: usize = 10;

pub static ATTRIBUTES: &[Attribute] = &[
    attr("network_id", Check::Uuid).post(Absent::Required).column(),
    attr("admin_state_up", Check::Flag).post(Absent::Flag(true)).put().column(),
    attr("status", Check::Text(16)).column(),
    attr("mac_address", Check::Mac).post(Absent::Unset).put().column(),
    attr("fixed_ips", Check::Custom(fixed_ips)).post(Absent::Unset).put(),
    attr("device_id", Check::Text(255)).post(Absent::Text("")).put().column(),
    attr("device_owner", Check::Text(255)).post(Absent::Text("")).put().column(),
    attr("security_groups", Check::Custom(groups)).post(Absent::Unset).put(),
    attr("allowed_address_pairs", Check::Custom(check_pairs)).post(Absent::Unset).put(),
    attr("extra_dhcp_opts", Check::Custom(options)).post(Absent::Null).put(),
    attr("port_security_enabled", Check::Flag).post(Absent::Unset).put(),
    attr("dns_name", Check::Custom(dns_name)).post(Absent::Text("")).put(),
    attr("dns_assignment", Check::Any),
    attr("binding:vnic_type", Check::OneOf(VNIC_TYPES)).post(Absent::Text("normal")).put(),
    attr("binding:host_id", Check::Custom(host_id)).post(Absent::Unset).put().column(),
    attr("binding:profile", Check::Custom(profile)).post(Absent::Unset).put(),
    attr("qos_policy_id", Check::UuidOrNull).post(Absent::Null).put().column(),
    attr("qos_network_policy_id", Check::Any),
    attr("resource_request", Check::Any),
    attr("binding:vif_type", Check::Text(64)),
    attr("binding:vif_details", Check::Any),
    attr("_host", Check::Text(64)).column(),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub ip_address: String,
    pub mac_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpOption {
    pub opt_name: String,
    pub opt_value: String,
    pub ip_version: u8,
}

fn host_id(value: &Value) -> Result<Value, String> {
    if value.is_null() { Ok(json!("")) } else { attr::text(value, 255).map(|t| json!(t)) }
}

fn profile(value: &Value) -> Result<Value, String> {
    match value {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(value.clone()),
        other => Err(format!("'{}' is not a dictionary", show(other))),
    }
}

fn dns_name(value: &Value) -> Result<Value, String> {
    let text = attr::text(value, 255)?.to_lowercase();
    let labels = text.strip_suffix('.').unwrap_or(&text);
    if labels.is_empty() || labels.split('.').all(is_label) { Ok(json!(text)) } else { Err(format!("'{text}' not a valid PQDN or FQDN")) }
}

/// `[{subnet_id?, ip_address?}]`.
pub fn fixed_ips(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(json!([]));
    }
    let list = value.as_array().ok_or_else(|| format!("Invalid data format for fixed IP: '{}'", show(value)))?;
    let mut out: Vec<Value> = Vec::new();
    for item in list {
        let entry = item.as_object().ok_or_else(|| format!("Invalid data format for fixed IP: '{}'", show(item)))?;
        let mut kept = Object::new();
        for (name, value) in entry.iter().filter(|(_, v)| !v.is_null()) {
            let value = match name.as_str() {
                "subnet_id" => json!(attr::uuid(value)?),
                "ip_address" => json!(attr::address(value)?),
                _ => return Err(format!("Invalid data format for fixed IP: '{}'", show(item))),
            };
            kept.insert(name.clone(), value);
        }
        if out.iter().any(|known| kept.contains_key("ip_address") && known.get("ip_address") == kept.get("ip_address")) {
            return Err(format!("Duplicate IP address '{}'", kept.get("ip_address").map(show).unwrap_or_default()));
        }
        out.push(Value::Object(kept));
    }
    Ok(json!(out))
}

fn groups(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(json!([]));
    }
    let list = value.as_array().ok_or_else(|| format!("'{}' is not a list", show(value)))?;
    let ids = list.iter().map(attr::uuid).collect::<Result<Vec<_>, _>>()?;
    attr::distinct(&ids)?;
    Ok(json!(ids))
}

fn check_pairs(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(json!([]));
    }
    let list = value.as_array().ok_or_else(|| "Allowed address pairs must be a list.".to_string())?;
    if list.len() > MAX_PAIRS {
        return Err(format!("The number of allowed address pair exceeds the maximum {MAX_PAIRS}"));
    }
    let mut out: Vec<Value> = Vec::new();
    for item in list {
        let entry = item.as_object().ok_or_else(|| format!("'{}' is not a dictionary", show(item)))?;
        if let Some(name) = entry.keys().find(|k| !matches!(k.as_str(), "ip_address" | "mac_address")) {
            return Err(format!("Unrecognized attribute(s) '{name}'"));
        }
        let at = entry.get("ip_address").ok_or("AllowedAddressPair must contain ip_address")?;
        let text = at.as_str().unwrap_or_default();
        if text.parse::<IpAddr>().is_err() && text.parse::<IpNet>().is_err() {
            return Err(format!("'{}' is not a valid IP address or subnet", show(at)));
        }
        let mut kept = Object::new();
        kept.insert("ip_address".into(), json!(text));
        if let Some(mac) = entry.get("mac_address").filter(|v| !v.is_null()) {
            kept.insert("mac_address".into(), json!(attr::mac(mac)?));
        }
        let kept = Value::Object(kept);
        if out.contains(&kept) {
            return Err(format!("Request contains duplicate address pair: {text}"));
        }
        out.push(kept);
    }
    Ok(json!(out))
}

fn options(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let list = value.as_array().ok_or_else(|| format!("'{}' is not a list", show(value)))?;
    let mut out: Vec<Value> = Vec::new();
    for item in list {
        let entry = item.as_object().ok_or_else(|| format!("'{}' is not a dictionary", show(item)))?;
        if let Some(name) = entry.keys().find(|k| !matches!(k.as_str(), "opt_name" | "opt_value" | "ip_version")) {
            return Err(format!("Unrecognized attribute(s) '{name}'"));
        }
        let name = attr::text(entry.get("opt_name").unwrap_or(&Value::Null), 64)?;
        if name.trim().is_empty() {
            return Err("opt_name must not be blank".into());
        }
        let given = match entry.get("opt_value") {
            None | Some(Value::Null) => Value::Null,
            Some(value) => json!(attr::text(value, 255)?),
        };
        if given.as_str().is_some_and(|t| t.trim().is_empty()) {
            return Err(format!("the value of option '{name}' must not be blank"));
        }
        let version = match entry.get("ip_version").filter(|v| !v.is_null()) {
            None => 4,
            Some(value) => match attr::int(value, 0, 9)? {
                n @ (4 | 6) => n,
                n => return Err(format!("'{n}' is not in [4, 6]")),
            },
        };
        if out.iter().any(|known| known["opt_name"] == json!(name) && known["ip_version"] == json!(version)) {
            return Err(format!("Duplicate option '{name}'"));
        }
        out.push(json!({"opt_name": name, "opt_value": given, "ip_version": version}));
    }
    Ok(json!(out))
}

/// Checked `fixed_ips` as wishes.
pub fn wishes(value: &Value) -> Vec<Wish> {
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|e| Wish { subnet_id: text(e, "subnet_id"), address: text(e, "ip_address").and_then(|a| a.parse().ok()) }).collect()
}

/// Checked pairs; those without a MAC take the port's.
pub fn pairs(value: &Value, mac: &str) -> Vec<Pair> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
    list.iter()
        .map(|e| Pair {
            ip_address: text(e, "ip_address").unwrap_or_default(),
            mac_address: text(e, "mac_address").unwrap_or_else(|| mac.into()),
        })
        .collect()
}

/// Sets the options of a checked list; one without a value is taken away.
pub fn merge_options(have: &mut Vec<DhcpOption>, value: &Value) {
    for entry in value.as_array().map(Vec::as_slice).unwrap_or_default() {
        let name = entry["opt_name"].as_str().unwrap_or_default();
        let ip_version = if entry["ip_version"] == json!(6) { 6 } else { 4 };
        have.retain(|o| o.opt_name != name || o.ip_version != ip_version);
        if let Some(text) = entry["opt_value"].as_str() {
            have.push(DhcpOption { opt_name: name.into(), opt_value: text.into(), ip_version });
        }
    }
}

impl Draft {
    /// What a checked create request asks for.
    pub fn read(project: &str, body: &Object) -> Result<Draft> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let mut draft = Draft {
            common: Common::new(project, body),
            admin_state_up: body.get("admin_state_up").and_then(Value::as_bool).unwrap_or(true),
            mac: body.get("mac_address").and_then(Value::as_str).map(str::to_string),
            wishes: body.get("fixed_ips").map(wishes),
            device_id: text("device_id"),
            device_owner: text("device_owner"),
            groups: body.contains_key("security_groups").then(|| crate::attr_list(body, "security_groups")),
            pairs: body.get("allowed_address_pairs").cloned().unwrap_or_default(),
            port_security: body.get("port_security_enabled").and_then(Value::as_bool),
            dns_name: text("dns_name"),
            vnic_type: text("binding:vnic_type"),
            host_name: text("binding:host_id"),
            qos_policy_id: body.get("qos_policy_id").and_then(Value::as_str).map(str::to_string),
            profile: body.get("binding:profile").and_then(Value::as_object).cloned().unwrap_or_default(),
            ..Draft::default()
        };
        merge_options(&mut draft.options, body.get("extra_dhcp_opts").unwrap_or(&Value::Null));
        Ok(draft)
    }
}
