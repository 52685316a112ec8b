//! What a host offers as a backend, and whether a volume type asks for just that.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::db::hosts::Host;

/// What pools show, and what extra specs of types are compared with.
pub fn of(host: &Host, volumes: i64, allocated: i64) -> Map<String, Value> {
    let all = json!({
        "total_capacity_gb": host.info.disk_gib,
        "free_capacity_gb": host.info.free_disk_gib,
        "allocated_capacity_gb": allocated,
        "provisioned_capacity_gb": allocated,
        "total_volumes": volumes,
        "reserved_percentage": 0,
        "max_over_subscription_ratio": "20.0",
        "thin_provisioning_support": true,
        "thick_provisioning_support": false,
        "multiattach": true,
        "QoS_support": false,
        "storage_protocol": "local",
        "driver_version": env!("CARGO_PKG_VERSION"),
        "vendor_name": "Sturnus",
        "volume_backend_name": "local",
        "backend_state": "up",
    });
    if let Value::Object(all) = all { all } else { Map::new() }
}

/// Whether a host has everything that the extra specs of a type ask for. A key may say `capabilities:`; other scopes are for
/// drivers and say nothing here.
pub fn fit(host: &Host, volumes: i64, allocated: i64, specs: &BTreeMap<String, String>) -> bool {
    let all = of(host, volumes, allocated);
    specs.iter().all(|(key, wanted)| {
        let key = match key.split_once(':') {
            None => key.as_str(),
            Some(("capabilities", key)) => key,
            Some(_) => return true,
        };
        all.get(key).is_some_and(|has| matches(&text(has), wanted))
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a value is what an extra spec asks for: an operator and its operand, or just the value.
fn matches(value: &str, wanted: &str) -> bool {
    let mut words = wanted.split_whitespace();
    let operator = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let first = rest.first().copied();
    let numbers = |compare: fn(&f64, &f64) -> bool| match (value.parse::<f64>(), first.map(str::parse::<f64>)) {
        (Ok(value), Some(Ok(operand))) => compare(&value, &operand),
        _ => false,
    };
    let texts = |compare: fn(&str, &str) -> bool| first.is_some_and(|operand| compare(value, operand));
    match operator {
        "=" | ">=" => numbers(f64::ge),
        "<=" => numbers(f64::le),
        "==" => numbers(f64::eq),
        "!=" => numbers(f64::ne),
        "s==" => texts(|a, b| a == b),
        "s!=" => texts(|a, b| a != b),
        "s<" => texts(|a, b| a < b),
        "s<=" => texts(|a, b| a <= b),
        "s>" => texts(|a, b| a > b),
        "s>=" => texts(|a, b| a >= b),
        "<in>" => texts(|a, b| a.contains(b)),
        "<is>" => texts(|a, b| a.eq_ignore_ascii_case(b)),
        // `<or> a <or> b`: every second word is an alternative.
        "<or>" => rest.iter().step_by(2).any(|alternative| *alternative == value),
        _ => value.eq_ignore_ascii_case(wanted.trim()),
    }
}

/// Share of a volume's size that must be free where it is made: it only takes what is written to it.
const OVERCOMMIT: i64 = 20;

/// GiB of volumes that a host still takes.
pub fn room(host: &Host, allocated: i64) -> i64 {
    i64::try_from(host.info.free_disk_gib).unwrap_or(i64::MAX).saturating_mul(OVERCOMMIT) - allocated
}

/// Whether volumes of a type with these specs may be had by several servers.
pub fn multiattach(specs: &BTreeMap<String, String>) -> bool {
    specs.get("multiattach").is_some_and(|v| v.eq_ignore_ascii_case("<is> true"))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn operators_compare_as_types_mean_them() {
        for (value, wanted, fits) in [
            ("local", "local", true),
            ("local", "iSCSI", false),
            ("true", "<is> True", true),
            ("false", "<is> True", false),
            ("true", "True", true),
            ("100", ">= 50", true),
            ("100", "<= 50", false),
            ("4", "== 4.0", true),
            ("4", "!= 4", false),
            ("x", "= 4", false),
            ("a", "s== a", true),
            ("a", "s!= a", false),
            ("b", "s> a", true),
            ("a", "s<= b", true),
            ("nfs ceph", "<in> ceph", true),
            ("b", "<or> a <or> b", true),
            ("c", "<or> a <or> b", false),
            ("c", "<is>", false),
        ] {
            assert_eq!(matches(value, wanted), fits, "{value} {wanted}");
        }
    }
}
