//! nftables as values: what a namespace's rules should be, and the commands from one state to the next.
//!
//! A [`Ruleset`] is compared with the one applied before, and only the difference is sent, as one transaction of
//! `nft -j -f -`. When nothing is known about what is there (first time, or somebody else changed the rules
//! since), our tables are replaced as a whole in one transaction, which leaves no gap either.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Probe;
use super::namespace::inside;
use super::netlink::{Message, Netlink, find};

/// Name of all our tables.
pub const TABLE: &str = "sturnus";
const FAMILIES: [&str; 5] = ["bridge", "inet", "ip", "ip6", "netdev"];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    /// By family; each is called [`TABLE`].
    pub tables: BTreeMap<&'static str, Table>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    pub hook: Option<Hook>,
    pub rules: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    pub hook: &'static str,
    pub priority: i32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    pub key: Vec<&'static str>,
    /// The type of the values when it is a map.
    pub map: Option<&'static str>,
    /// Whether elements may be prefixes; they must not overlap.
    pub interval: bool,
    /// By the text of the key.
    pub elements: BTreeMap<String, Value>,
}

impl Table {
    pub fn chain(&mut self, name: &str) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }
    pub fn base(&mut self, name: &str, kind: &'static str, hook: &'static str, priority: i32) -> &mut Chain {
        let chain = self.chain(name);
        chain.hook = Some(Hook { kind, hook, priority });
        chain
    }
    pub fn set(&mut self, name: &str, key: &[&'static str]) -> &mut Set {
        let set = self.sets.entry(name.into()).or_default();
        set.key = key.to_vec();
        set
    }
    /// A set of prefixes.
    pub fn prefixes(&mut self, name: &str, key: &[&'static str]) -> &mut Set {
        let set = self.set(name, key);
        set.interval = true;
        set
    }
    pub fn map(&mut self, name: &str, key: &[&'static str], value: &'static str) -> &mut Set {
        let set = self.set(name, key);
        set.map = Some(value);
        set
    }
}

impl Chain {
    /// Adds a rule: its statements in order.
    pub fn rule(&mut self, statements: impl IntoIterator<Item = Value>) -> &mut Self {
        self.rules.push(Value::Array(statements.into_iter().collect()));
        self
    }
}

impl Set {
    pub fn insert(&mut self, key: Value) {
        self.elements.insert(key.to_string(), key);
    }
    pub fn insert_value(&mut self, key: Value, value: Value) {
        self.elements.insert(key.to_string(), json!([key, value]));
    }
}

// The words of a rule.

pub fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}
pub fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}
/// Bits of the transport header.
pub fn transport(offset: u32, length: u32) -> Value {
    json!({"payload": {"base": "th", "offset": offset, "len": length}})
}
pub fn concat<const N: usize>(parts: [Value; N]) -> Value {
    json!({"concat": parts.to_vec()})
}
pub fn is(left: Value, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right.into()}})
}
pub fn is_not(left: Value, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "!=", "left": left, "right": right.into()}})
}
pub fn one_of(left: Value, values: &[Value]) -> Value {
    is(left, json!({"set": values}))
}
pub fn ct_state(states: &[&str]) -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": states}})
}
pub fn ct_status(status: &str) -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": status}})
}
pub fn mapped(key: Value, map: &str) -> Value {
    json!({"map": {"key": key, "data": format!("@{map}")}})
}
pub fn verdict_by(key: Value, map: &str) -> Value {
    json!({"vmap": {"key": key, "data": format!("@{map}")}})
}
pub fn assign(key: Value, value: impl Into<Value>) -> Value {
    json!({"mangle": {"key": key, "value": value.into()}})
}
pub fn prefix(net: &IpNet) -> Value {
    json!({"prefix": {"addr": net.network().to_string(), "len": net.prefix_len()}})
}
/// Holds for what goes beyond a rate, in bytes per second, and beyond a bucket for what comes at once: nftables gives that the bytes of one
/// second and of the burst.
pub fn beyond(rate: u64, burst: u64) -> Value {
    json!({"limit": {"rate": rate, "rate_unit": "bytes", "per": "second", "burst": burst, "burst_unit": "bytes", "inv": true}})
}
/// Holds for what goes beyond a rate, in packets per second, and beyond a bucket of so many for what comes at once.
pub fn beyond_packets(rate: u64, bucket: u32) -> Value {
    json!({"limit": {"rate": rate, "per": "second", "burst": bucket, "inv": true}})
}
pub fn accept() -> Value {
    json!({"accept": null})
}
pub fn drop_it() -> Value {
    json!({"drop": null})
}
pub fn back() -> Value {
    json!({"return": null})
}
pub fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}
pub fn goto(chain: &str) -> Value {
    json!({"goto": {"target": chain}})
}

/// The commands that lead from `old` to `new`; `None`: whatever our tables in `families` now hold.
pub fn transaction(old: Result<&Ruleset, &[String]>, new: &Ruleset) -> Vec<Value> {
    let empty = Ruleset::default();
    let mut commands = Vec::new();
    let old = match old {
        Ok(old) => old,
        Err(families) => {
            for family in families {
                commands.push(json!({"delete": {"table": {"family": family, "name": TABLE}}}));
            }
            &empty
        }
    };
    for family in old.tables.keys().filter(|f| !new.tables.contains_key(*f)) {
        commands.push(json!({"delete": {"table": {"family": family, "name": TABLE}}}));
    }
    for (family, table) in &new.tables {
        match old.tables.get(family) {
            Some(before) => table_change(&mut commands, family, before, table),
            None => {
                commands.push(json!({"add": {"table": {"family": family, "name": TABLE}}}));
                table_change(&mut commands, family, &Table::default(), table);
            }
        }
    }
    commands
}

fn table_change(commands: &mut Vec<Value>, family: &str, old: &Table, new: &Table) {
    let chain = |name: &str| json!({"family": family, "table": TABLE, "name": name});
    let same_kind = |a: &Set, b: &Set| a.key == b.key && a.map == b.map && a.interval == b.interval;
    let new_sets = || new.sets.iter().filter(|(name, set)| !old.sets.get(*name).is_some_and(|o| same_kind(o, set)));
    for (name, set) in new_sets() {
        let key = if set.key.len() == 1 { json!(set.key[0]) } else { json!(set.key) };
        let mut value = json!({"family": family, "table": TABLE, "name": name, "type": key});
        if set.interval {
            value["flags"] = json!(["interval"]);
        }
        match set.map {
            Some(map) => {
                value["map"] = json!(map);
                commands.push(json!({"add": {"map": value}}));
            }
            None => commands.push(json!({"add": {"set": value}})),
        }
    }
    for (name, c) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        let mut value = chain(name);
        if let Some(hook) = c.hook {
            value["type"] = json!(hook.kind);
            value["hook"] = json!(hook.hook);
            value["prio"] = json!(hook.priority);
            value["policy"] = json!("accept");
        }
        commands.push(json!({"add": {"chain": value}}));
    }
    for (name, c) in &old.chains {
        if new.chains.get(name).is_none_or(|n| n.rules != c.rules) && !c.rules.is_empty() {
            commands.push(json!({"flush": {"chain": chain(name)}}));
        }
    }
    let elements = |verb: &str, name: &str, elements: Vec<&Value>| json!({verb: {"element": {"family": family, "table": TABLE, "name": name, "elem": elements}}});
    for (name, set) in &old.sets {
        let gone: Vec<&Value> = match new.sets.get(name) {
            Some(n) => set.elements.iter().filter(|(k, v)| n.elements.get(*k) != Some(v)).map(|(_, v)| v).collect(),
            // A verdict holds on to its chain until the element goes.
            None => set.elements.values().collect(),
        };
        if !gone.is_empty() {
            commands.push(elements("delete", name, gone));
        }
    }
    for (name, set) in &new.sets {
        let before = old.sets.get(name);
        let added: Vec<&Value> =
            set.elements.iter().filter(|(k, v)| before.and_then(|b| b.elements.get(*k)) != Some(v)).map(|(_, v)| v).collect();
        if !added.is_empty() {
            commands.push(elements("add", name, added));
        }
    }
    for (name, c) in &new.chains {
        if old.chains.get(name).is_none_or(|o| o.rules != c.rules) {
            for rule in &c.rules {
                commands.push(json!({"add": {"rule": {"family": family, "table": TABLE, "chain": name, "expr": rule}}}));
            }
        }
    }
    for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
        commands.push(json!({"delete": {"chain": chain(name)}}));
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        commands.push(json!({"delete": {"set": {"family": family, "table": TABLE, "name": name}}}));
    }
}

/// What we last applied in a namespace, and the kernel's count of changes right after.
#[derive(Clone, Debug, Default)]
pub struct State {
    applied: Option<(Ruleset, u32)>,
}

impl State {
    /// What was applied last, unless something about it is not certain.
    pub fn applied(&self) -> Option<&Ruleset> {
        self.applied.as_ref().map(|(rules, _)| rules)
    }

    /// Makes the rules of a namespace (`None`: the process's own) what `new` says. Returns the rules before, if
    /// they were known and have changed.
    pub fn apply(
        &mut self,
        namespace: Option<BorrowedFd<'_>>,
        netfilter: &mut Netlink,
        new: &Ruleset,
        probe: &Probe,
    ) -> io::Result<Option<Ruleset>> {
        let generation = generation(netfilter)?;
        if self.applied.as_ref().is_some_and(|(_, g)| *g != generation) {
            self.applied = None;
        }
        let commands = match &self.applied {
            Some((old, _)) if old == new => return Ok(None),
            Some((old, _)) => transaction(Ok(old), new),
            None => transaction(Err(&present(namespace)?), new),
        };
        let before = self.applied.take();
        if !commands.is_empty() {
            probe.step("change rules")?;
            run(namespace, &["-j", "-f", "-"], Some(json!({"nftables": commands}).to_string()))?;
        }
        let after = self::generation(netfilter)?;
        // Exactly our transaction in between: else somebody else's came too, and we look again next time.
        if after == generation.wrapping_add(u32::from(!commands.is_empty())) {
            self.applied = Some((new.clone(), after));
        }
        Ok(before.map(|(ruleset, _)| ruleset))
    }
}

/// The families in which a table of ours exists.
fn present(namespace: Option<BorrowedFd<'_>>) -> io::Result<Vec<String>> {
    let text = run(namespace, &["-j", "list", "tables"], None)?;
    let value: Value = serde_json::from_str(&text)?;
    let tables = value["nftables"].as_array().cloned().unwrap_or_default();
    let ours = tables.iter().filter(|t| t["table"]["name"] == TABLE).filter_map(|t| t["table"]["family"].as_str());
    Ok(ours.filter(|f| FAMILIES.contains(f)).map(str::to_string).collect())
}

/// The kernel's count of changes to the rules of a namespace.
fn generation(netfilter: &mut Netlink) -> io::Result<u32> {
    // NFNL_SUBSYS_NFTABLES (10), NFT_MSG_GETGEN (16); NFTA_GEN_ID (1), big-endian.
    let body = netfilter.get(Message::new(10 << 8 | 16, 0, &[0; 4]))?;
    let value = body.get(4..).and_then(|b| find(b, 1)).and_then(|v| v.try_into().ok());
    value.map(u32::from_be_bytes).ok_or_else(|| io::Error::other("nftables: no generation"))
}

fn run(namespace: Option<BorrowedFd<'_>>, arguments: &[&str], input: Option<String>) -> io::Result<String> {
    let work = || {
        let mut child = Command::new("nft").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take();
        let feed = std::thread::scope(|scope| {
            let writer = scope.spawn(move || match (&mut stdin, input) {
                (Some(stdin), Some(input)) => stdin.write_all(input.as_bytes()),
                _ => Ok(()),
            });
            let output = child.wait_with_output();
            (writer.join(), output)
        });
        let output = feed.1?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
    };
    // A child is born in the namespace of the thread that spawns it.
    match namespace {
        Some(namespace) => inside(namespace, work),
        None => work(),
    }
}
