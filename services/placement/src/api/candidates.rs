//! `/allocation_candidates`: where a request would fit.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use base::{Error, Result};
use http_api::{Request, Response, Version, json};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{admit, dated, since, v};
use crate::Placement;
use crate::filter::{self, Members, Traits};
use crate::index::Index;
use crate::search::{Found, Group, Order, Search, find};

/// Parameters that may carry a group's suffix.
const GROUPED: [&str; 4] = ["resources", "required", "member_of", "in_tree"];
const BAD_VALUE: &str = "placement.query.bad_value";

pub async fn index(placement: Placement, req: Request) -> Result<Response> {
    since(&req, v(10))?;
    admit(&placement, "placement:allocation_candidates:list", &req)?;
    let mut search = parse(&req)?;
    let config = &placement.core.config;
    if config.flag("placement.randomize_allocation_candidates") {
        search.order = Order::Random(RandomState::new().build_hasher().finish());
    } else if config.text("placement.allocation_candidates_generation_strategy") == "breadth-first" {
        search.order = Order::BreadthFirst;
    }
    let most = config.int("placement.max_allocation_candidates") as usize;
    if most > 0 {
        search.limit = Some(search.limit.map_or(most, |limit| limit.min(most)));
    }
    placement.core.store.read(|tx| search.check_in(tx)).await?;
    placement.index.catch_up(&placement.core.store).await?;
    let index = placement.index.get();
    search.flat = req.version < v(29) && index.has_nested();
    let found = find(&index, &search);
    dated(&req, json(200, &Answer { index: &index, search: &search, found: &found, version: req.version })?, None)
}

/// The suffix of a group's parameter: empty, a number, or from 1.33 on up to 64 letters, digits, `_` and `-`.
fn split<'a>(req: &Request, name: &'a str) -> Option<(&'static str, &'a str)> {
    let base = GROUPED.iter().find(|base| name.starts_with(**base))?;
    let suffix = &name[base.len()..];
    let fits = match suffix {
        "" => true,
        _ if req.version >= v(33) => suffix.len() <= 64 && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
        _ if req.version >= v(25) => suffix.parse::<u32>().is_ok_and(|n| n > 0) && !suffix.starts_with('0'),
        _ => false,
    };
    fits.then_some((*base, suffix))
}

fn parse(req: &Request) -> Result<Search> {
    let minor = req.version.minor;
    let mut parts: BTreeMap<&str, BTreeMap<&'static str, Vec<&str>>> = BTreeMap::new();
    let mut search = Search::default();
    let mut policy = None;
    for (name, value) in &req.query.0 {
        let unknown =
            || Error::invalid(format!("Invalid query string parameters: Additional properties are not allowed ('{name}' was unexpected)"));
        match name.as_str() {
            "limit" if minor >= 16 => {
                let digits = value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() && !value.starts_with('0');
                if !digits {
                    return Err(Error::invalid(format!("Invalid query string parameters: limit: '{value}' is not a positive integer")));
                }
                // Of several the first counts, as upstream.
                search.limit = search.limit.or(Some(value.parse().unwrap_or(usize::MAX)));
            }
            "group_policy" if minor >= 25 => match value.as_str() {
                "none" => policy = policy.or(Some(false)),
                "isolate" => policy = policy.or(Some(true)),
                _ => return Err(Error::invalid(format!("Invalid query string parameters: '{value}' is not one of ['none', 'isolate']"))),
            },
            "root_required" if minor >= 35 => {}
            "same_subtree" if minor >= 36 => {
                let suffixes: Vec<String> = value.split(',').map(|s| s.trim().to_string()).collect();
                if suffixes.iter().any(String::is_empty) {
                    return Err(Error::invalid("same_subtree names the group without a suffix, which cannot stand there.").named(BAD_VALUE));
                }
                search.subtrees.push(suffixes);
            }
            _ => {
                let (base, suffix) = split(req, name).ok_or_else(unknown)?;
                let since = match base {
                    "required" => 17,
                    "member_of" => 21,
                    "in_tree" => 31,
                    _ => 10,
                };
                if minor < since {
                    return Err(unknown());
                }
                parts.entry(suffix).or_default().entry(base).or_default().push(value);
            }
        }
    }
    search.root = root(req)?;
    for (suffix, values) in parts {
        search.groups.push(group(req.version, suffix, &values)?);
    }
    check(&search, req.version)?;
    if search.groups.iter().filter(|g| !g.suffix.is_empty()).count() > 1 && policy.is_none() {
        return Err(Error::invalid("With more than one group that has a suffix, group_policy is required."));
    }
    search.isolate = policy == Some(true);
    Ok(search)
}

fn group(version: Version, suffix: &str, values: &BTreeMap<&'static str, Vec<&str>>) -> Result<Group> {
    let all = |name: &str| values.get(name).into_iter().flatten().copied();
    Ok(Group {
        suffix: suffix.to_string(),
        resources: all("resources").next_back().map(filter::resources).transpose()?.unwrap_or_default(),
        traits: Traits::from_values(all("required"), version)?,
        members: Members::from_values(all("member_of"), version)?,
        in_tree: all("in_tree").next_back().map(filter::uuid).transpose()?,
    })
}

/// Traits of the anchor's root: `A,!B`, once.
fn root(req: &Request) -> Result<Traits> {
    let mut values = req.query.all("root_required");
    let Some(value) = values.next() else { return Ok(Traits::default()) };
    if values.next().is_some() {
        return Err(Error::invalid("root_required may be given once only.").named("placement.query.duplicate_key"));
    }
    // As the form of lists was before 1.39.
    let traits = Traits::from_values([value].into_iter(), v(38))?;
    let lost = traits.conflicts();
    if lost.is_empty() {
        Ok(traits)
    } else {
        Err(Error::invalid(format!("Traits both required and forbidden in root_required: {}.", lost.join(", "))).named(BAD_VALUE))
    }
}

/// Groups must ask for something; from 1.36 on those in a same_subtree need not.
fn check(search: &Search, version: Version) -> Result<()> {
    let empty = |g: &&Group| g.resources.is_empty();
    if search.groups.iter().all(|g| g.resources.is_empty()) {
        let error = Error::invalid("At least one resources parameter is required, with or without a suffix.");
        return Err(if version >= v(36) { error.named("placement.query.missing_value") } else { error });
    }
    let listed = |suffix: &str| search.subtrees.iter().flatten().any(|s| s == suffix);
    if let Some(group) = search.groups.iter().filter(empty).find(|g| version < v(36) || !listed(&g.suffix)) {
        let error =
            Error::invalid(format!("The group with the suffix '{}' asks for no resources and is in no same_subtree.", group.suffix));
        return Err(if version >= v(36) { error.named(BAD_VALUE) } else { error });
    }
    if let Some(name) = search.subtrees.iter().flatten().find(|name| !search.groups.iter().any(|g| g.suffix == **name)) {
        return Err(Error::invalid(format!("same_subtree names the suffix '{name}', and there is no such group.")).named(BAD_VALUE));
    }
    let lost: Vec<String> =
        search.groups.iter().flat_map(|g| g.traits.conflicts().into_iter().map(|t| format!("required{}: ({t})", g.suffix))).collect();
    if lost.is_empty() { Ok(()) } else { Err(Error::invalid(format!("Traits both required and forbidden: {}.", lost.join("; ")))) }
}

/// The body, written straight from the index.
struct Answer<'a> {
    index: &'a Index,
    search: &'a Search,
    found: &'a Found,
    version: Version,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        let requests = Each(|| self.found.candidates.iter().map(|picks| Offer { answer: self, picks }));
        map.serialize_entry("allocation_requests", &requests)?;
        map.serialize_entry(
            "provider_summaries",
            &Pairs(|| self.summarised().into_iter().map(|n| (self.uuid(n), Summary { answer: self, number: n }))),
        )?;
        map.end()
    }
}

impl Answer<'_> {
    fn uuid(&self, number: u32) -> uuid::fmt::Hyphenated {
        self.index.node(number).uuid.hyphenated()
    }

    /// Everyone of the trees of those who would serve; for clients that do not know trees, those who would.
    fn summarised(&self) -> Vec<u32> {
        let takes: Vec<bool> = self.found.wants.iter().map(|want| !want.resources.is_empty()).collect();
        let used = self.found.candidates.iter().flat_map(|picks| picks.iter().zip(&takes)).filter(|(_, takes)| **takes).map(|(n, _)| *n);
        let mut numbers: Vec<u32> = match self.search.flat {
            true => used.collect(),
            false => {
                let mut roots: Vec<u32> = used.map(|n| self.index.node(n).root).collect();
                roots.sort_unstable();
                roots.dedup();
                roots.iter().flat_map(|root| &self.index.node(*root).members).copied().collect()
            }
        };
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// One candidate.
struct Offer<'a> {
    answer: &'a Answer<'a>,
    picks: &'a [u32],
}

impl Offer<'_> {
    /// What is taken of whom, each class once.
    fn amounts(&self) -> Vec<(u32, Vec<(u32, u64)>)> {
        let mut amounts: Vec<(u32, Vec<(u32, u64)>)> = Vec::new();
        for (want, number) in self.answer.found.wants.iter().zip(self.picks) {
            for (class, amount) in &want.resources {
                let at = amounts.iter().position(|(n, _)| n == number).unwrap_or_else(|| {
                    amounts.push((*number, Vec::new()));
                    amounts.len() - 1
                });
                let of = &mut amounts[at].1;
                match of.iter_mut().find(|(c, _)| c == class) {
                    Some((_, sum)) => *sum += amount,
                    None => of.push((*class, *amount)),
                }
            }
        }
        amounts
    }

    /// Who serves the groups, by suffix.
    fn mappings(&self) -> BTreeMap<&str, Vec<uuid::fmt::Hyphenated>> {
        let mut mappings: BTreeMap<&str, Vec<uuid::fmt::Hyphenated>> = BTreeMap::new();
        for (want, number) in self.answer.found.wants.iter().zip(self.picks) {
            let providers = mappings.entry(&self.answer.search.groups[want.group].suffix).or_default();
            let uuid = self.answer.uuid(*number);
            if !providers.contains(&uuid) {
                providers.push(uuid);
            }
        }
        mappings
    }
}

impl Serialize for Offer<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let amounts = self.amounts();
        let mut map = to.serialize_map(None)?;
        if self.answer.version < v(12) {
            let list = Each(|| amounts.iter().map(|(n, of)| Taken { answer: self.answer, number: Some(*n), of }));
            map.serialize_entry("allocations", &list)?;
        } else {
            let pairs = Pairs(|| amounts.iter().map(|(n, of)| (self.answer.uuid(*n), Taken { answer: self.answer, number: None, of })));
            map.serialize_entry("allocations", &pairs)?;
        }
        if self.answer.version >= v(34) {
            map.serialize_entry("mappings", &self.mappings())?;
        }
        map.end()
    }
}

/// What is taken of a provider; with its name in it, in the form of before 1.12.
struct Taken<'a> {
    answer: &'a Answer<'a>,
    number: Option<u32>,
    of: &'a [(u32, u64)],
}

impl Serialize for Taken<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        if let Some(number) = self.number {
            map.serialize_entry("resource_provider", &Pairs(|| [("uuid", self.answer.uuid(number))].into_iter()))?;
        }
        map.serialize_entry("resources", &Pairs(|| self.of.iter().map(|(class, sum)| (self.answer.index.class_name(*class), *sum))))?;
        map.end()
    }
}

struct Summary<'a> {
    answer: &'a Answer<'a>,
    number: u32,
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let Answer { index, search, version, .. } = *self.answer;
        let node = index.node(self.number);
        let asked = search.asked();
        let shown = |class: &str| version >= v(27) || asked.contains(class);
        let mut map = to.serialize_map(None)?;
        let stock = || node.stock.iter().map(|s| (index.class_name(s.class), s)).filter(|(class, _)| shown(class));
        map.serialize_entry("resources", &Pairs(|| stock().map(|(class, s)| (class, Room { capacity: s.capacity(), used: s.used }))))?;
        if version >= v(17) {
            map.serialize_entry("traits", &Each(|| node.traits.iter().map(|t| index.trait_name(*t))))?;
        }
        if version >= v(29) {
            map.serialize_entry("parent_provider_uuid", &node.parent.map(|n| self.answer.uuid(n)))?;
            map.serialize_entry("root_provider_uuid", &self.answer.uuid(node.root))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Room {
    capacity: u64,
    used: u64,
}

/// A list made as it is written.
struct Each<F>(F);

impl<I: Iterator<Item: Serialize>, F: Fn() -> I> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(self.0())
    }
}

/// An object made as it is written.
struct Pairs<F>(F);

impl<K: Serialize, V: Serialize, I: Iterator<Item = (K, V)>, F: Fn() -> I> Serialize for Pairs<F> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0())
    }
}
