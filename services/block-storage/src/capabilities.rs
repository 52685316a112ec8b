//! What a host offers as a backend, and whether a volume type asks for just that.

use std::collections::BTreeMap;

use placement::Stock;
use rpc::message::SharedStorage;
use serde_json::{Map, Value, json};

use crate::db::hosts::Host;

/// What the disk of each host is called.
pub const LOCAL: &str = "local";

/// A place for volumes, as a host offers it.
#[derive(Clone, Copy)]
pub struct Pool<'a> {
    pub host: &'a Host,
    shared: Option<&'a SharedStorage>,
}

impl<'a> Pool<'a> {
    /// All that a host offers, its own disk first.
    pub fn of(host: &'a Host) -> impl Iterator<Item = Pool<'a>> {
        std::iter::once(Pool::local(host)).chain(host.info.storage.iter().map(|shared| Pool { host, shared: Some(shared) }))
    }

    pub fn local(host: &'a Host) -> Pool<'a> {
        Pool { host, shared: None }
    }

    /// Of the storage, or of the host whose disk it is.
    pub fn id(&self) -> &'a str {
        self.storage().unwrap_or(self.host.id.as_str())
    }

    /// Its id, when other hosts see it too.
    pub fn storage(&self) -> Option<&'a str> {
        self.shared.map(|shared| shared.id.as_str())
    }

    pub fn name(&self) -> &'a str {
        self.shared.map_or(LOCAL, |shared| shared.name.as_str())
    }

    /// As services show it.
    pub fn backend(&self) -> String {
        format!("{}@{}", self.host.name, self.name())
    }

    /// As pools show it.
    pub fn full(&self) -> String {
        format!("{}#{}", self.backend(), self.name())
    }

    fn gib(&self) -> (u64, u64) {
        self.shared.map_or((self.host.info.disk_gib, self.host.info.free_disk_gib), |shared| (shared.gib, shared.free_gib))
    }

    /// GiB.
    pub fn total(&self) -> u64 {
        self.gib().0
    }

    /// What pools show, and what extra specs of types are compared with.
    pub fn capabilities(&self, volumes: i64, allocated: i64, stock: &Stock) -> Map<String, Value> {
        let (total, free) = self.gib();
        let offer = &stock.inventory;
        let all = json!({
            "total_capacity_gb": total,
            "free_capacity_gb": free,
            "allocated_capacity_gb": allocated,
            "provisioned_capacity_gb": stock.used,
            "total_volumes": volumes,
            "reserved_percentage": offer.reserved.saturating_mul(100) / offer.total.max(1),
            "max_over_subscription_ratio": format!("{:?}", offer.allocation_ratio),
            "thin_provisioning_support": true,
            "thick_provisioning_support": false,
            "multiattach": true,
            "QoS_support": false,
            "storage_protocol": self.protocol(),
            "driver_version": env!("CARGO_PKG_VERSION"),
            "vendor_name": "Sturnus",
            "volume_backend_name": self.name(),
            "backend_state": "up",
        });
        if let Value::Object(all) = all { all } else { Map::new() }
    }

    pub fn protocol(&self) -> &'static str {
        if self.shared.is_some() { "file" } else { LOCAL }
    }

    /// Whether it has everything that the extra specs of a type ask for. A key may say `capabilities:`; other scopes are for drivers and say
    /// nothing here.
    pub fn fits(&self, volumes: i64, allocated: i64, stock: &Stock, specs: &BTreeMap<String, String>) -> bool {
        let all = self.capabilities(volumes, allocated, stock);
        specs.iter().all(|(key, wanted)| {
            let key = match key.split_once(':') {
                None => key.as_str(),
                Some(("capabilities", key)) => key,
                Some(_) => return true,
            };
            all.get(key).is_some_and(|has| matches(&text(has), wanted))
        })
    }

    /// GiB of volumes that it still takes: as many as placement promises, and no more than what is really free is good for.
    pub fn room(&self, stock: &Stock) -> i64 {
        let promised = i64::try_from(stock.inventory.capacity().saturating_sub(stock.used)).unwrap_or(i64::MAX);
        promised.min(self.real(stock))
    }

    /// What is really free is good for so many GiB of volumes.
    fn real(&self, stock: &Stock) -> i64 {
        let offer = &stock.inventory;
        (self.gib().1.saturating_sub(offer.reserved) as f64 * offer.allocation_ratio) as i64
    }

    /// How well it stands beside others: what is really free, and how little of that is promised already.
    pub fn rank(&self, stock: &Stock) -> i64 {
        self.real(stock).saturating_sub_unsigned(stock.used)
    }
}

/// Whether volumes of a type with these specs may be in the pool of this name.
pub fn names(specs: &BTreeMap<String, String>, pool: &str) -> bool {
    let named = specs.get("volume_backend_name").or(specs.get("capabilities:volume_backend_name"));
    named.is_none_or(|wanted| matches(pool, wanted))
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
