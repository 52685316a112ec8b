//! The search behind allocation candidates: groups of wants over trees of providers.
//!
//! A tree is searched on its own. A group with a suffix is served by one provider; the group without one may
//! be spread over the tree, class by class. Providers that share through aggregates are not modelled.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result};
use store::{Tx, params};

use crate::claims::{Stock, inventories_in, stock_in};
use crate::filter::{Members, Traits, class_known_in};

/// Combinations tried in one tree before the request is refused: a bound on what one request may cost.
const COMBINATIONS: usize = 100_000;

#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Empty for the group without a suffix.
    pub suffix: String,
    pub resources: Vec<(String, u64)>,
    pub traits: Traits,
    pub members: Members,
    pub in_tree: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Search {
    pub groups: Vec<Group>,
    pub limit: Option<usize>,
    /// Whether groups with a suffix must be served by different providers.
    pub isolate: Option<bool>,
    pub root: Traits,
    /// Suffixes whose providers must lie below one of them.
    pub subtrees: Vec<Vec<String>>,
}

/// One way to serve everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Provider → class → amount.
    pub amounts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Suffix → providers.
    pub mappings: BTreeMap<String, Vec<String>>,
}

pub struct Summary {
    pub uuid: String,
    pub parent: Option<String>,
    pub root: String,
    pub traits: Vec<String>,
    pub stock: Vec<Stock>,
}

pub struct Found {
    pub candidates: Vec<Candidate>,
    pub summaries: Vec<Summary>,
    /// Every class asked for.
    pub asked: BTreeSet<String>,
}

/// A provider with all that the search asks about.
struct Node {
    uuid: String,
    parent: Option<String>,
    root: String,
    traits: Vec<String>,
    aggregates: Vec<String>,
    stock: Vec<Stock>,
}

impl Node {
    fn has_room(&self, class: &str, amount: u64) -> bool {
        self.stock.iter().any(|s| s.inventory.class == class && s.inventory.fits(s.used, amount))
    }
}

pub fn search_in(tx: &Tx, search: &Search) -> Result<Found> {
    let asked: BTreeSet<String> = search.groups.iter().flat_map(|g| g.resources.iter().map(|(class, _)| class.clone())).collect();
    for class in &asked {
        class_known_in(tx, class)?;
    }
    for group in &search.groups {
        group.traits.check_in(tx)?;
    }
    search.root.check_in(tx)?;
    let mut candidates = Vec::new();
    let mut trees = BTreeMap::new();
    for node in nodes_in(tx)? {
        trees.entry(node.root.clone()).or_insert_with(Vec::new).push(node);
    }
    let mut used = Vec::new();
    for (root, nodes) in trees {
        if search.limit.is_some_and(|limit| candidates.len() >= limit) {
            break;
        }
        let fits = nodes.iter().find(|n| n.uuid == root).is_some_and(|n| search.root.fit(&n.traits));
        let before = candidates.len();
        if fits {
            tree(search, &nodes, &mut candidates)?;
        }
        if candidates.len() > before {
            used.extend(nodes);
        }
    }
    if let Some(limit) = search.limit {
        candidates.truncate(limit);
    }
    let summaries = used.into_iter().map(|n| Summary { uuid: n.uuid, parent: n.parent, root: n.root, traits: n.traits, stock: n.stock });
    Ok(Found { summaries: summaries.collect(), candidates, asked })
}

fn nodes_in(tx: &Tx) -> Result<Vec<Node>> {
    let rows =
        tx.query("SELECT uuid, parent, root FROM provider ORDER BY uuid", params![], |r| Ok((r.text(0)?, r.opt_text(1)?, r.text(2)?)))?;
    rows.into_iter()
        .map(|(uuid, parent, root)| {
            let traits = tx.query("SELECT trait FROM provider_trait WHERE provider = ?1 ORDER BY trait", params![&uuid], |r| r.text(0))?;
            let aggregates = tx.query("SELECT aggregate FROM provider_aggregate WHERE provider = ?1", params![&uuid], |r| r.text(0))?;
            let mut stock = Vec::new();
            for inventory in inventories_in(tx, &uuid)? {
                stock.extend(stock_in(tx, &uuid, &inventory.class, "")?);
            }
            Ok(Node { uuid, parent, root, traits, aggregates, stock })
        })
        .collect()
}

/// One want and the nodes that can serve it.
struct Choice<'a> {
    group: &'a Group,
    resources: Vec<(&'a str, u64)>,
    nodes: Vec<usize>,
}

fn tree(search: &Search, nodes: &[Node], candidates: &mut Vec<Candidate>) -> Result<()> {
    let mut choices = Vec::new();
    for group in &search.groups {
        if group.in_tree.as_ref().is_some_and(|uuid| !nodes.iter().any(|n| n.uuid == *uuid)) {
            return Ok(());
        }
        let resources: Vec<(&str, u64)> = group.resources.iter().map(|(class, amount)| (class.as_str(), *amount)).collect();
        if group.suffix.is_empty() {
            // Traits may be anywhere in the tree but never a forbidden one where something is taken; aggregates hold for the tree's root or the provider.
            let everywhere: Vec<String> = nodes.iter().flat_map(|n| n.traits.iter().cloned()).collect();
            let required = Traits { required: group.traits.required.clone(), forbidden: Vec::new() };
            if !required.fit(&everywhere) {
                return Ok(());
            }
            let root = nodes.iter().find(|n| n.uuid == n.root);
            for (class, amount) in resources {
                let member = |n: &Node| group.members.fit(&n.aggregates) || root.is_some_and(|root| group.members.fit(&root.aggregates));
                let serves =
                    |n: &Node| n.has_room(class, amount) && member(n) && !group.traits.forbidden.iter().any(|t| n.traits.contains(t));
                choices.push(Choice { group, resources: vec![(class, amount)], nodes: indices(nodes, serves) });
            }
        } else {
            let serves = |n: &Node| {
                resources.iter().all(|(class, amount)| n.has_room(class, *amount))
                    && group.traits.fit(&n.traits)
                    && group.members.fit(&n.aggregates)
            };
            let nodes = indices(nodes, serves);
            choices.push(Choice { group, resources, nodes });
        }
    }
    let combinations = choices.iter().try_fold(1usize, |product, choice| product.checked_mul(choice.nodes.len())).unwrap_or(usize::MAX);
    if combinations == 0 {
        return Ok(());
    }
    if combinations > COMBINATIONS {
        return Err(Error::invalid("The request has too many combinations; ask with fewer groups."));
    }
    let mut seen = BTreeSet::new();
    for number in 0..combinations {
        if search.limit.is_some_and(|limit| candidates.len() >= limit) {
            break;
        }
        let mut rest = number;
        let picked: Vec<usize> = choices
            .iter()
            .map(|choice| {
                let pick = choice.nodes[rest % choice.nodes.len()];
                rest /= choice.nodes.len();
                pick
            })
            .collect();
        if let Some(candidate) = combine(search, nodes, &choices, &picked) {
            if seen.insert(candidate.clone()) {
                candidates.push(candidate);
            }
        }
    }
    Ok(())
}

fn indices(nodes: &[Node], fits: impl Fn(&Node) -> bool) -> Vec<usize> {
    nodes.iter().enumerate().filter(|(_, n)| fits(n)).map(|(i, _)| i).collect()
}

/// The candidate of one combination, if everything fits together.
fn combine(search: &Search, nodes: &[Node], choices: &[Choice], picked: &[usize]) -> Option<Candidate> {
    let mut amounts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut mappings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut isolated = BTreeSet::new();
    for (choice, node) in choices.iter().zip(picked) {
        let node = &nodes[*node];
        if search.isolate == Some(true) && !choice.group.suffix.is_empty() && !choice.resources.is_empty() && !isolated.insert(&node.uuid) {
            return None;
        }
        for (class, amount) in &choice.resources {
            *amounts.entry(node.uuid.clone()).or_default().entry(class.to_string()).or_default() += amount;
        }
        let providers = mappings.entry(choice.group.suffix.clone()).or_default();
        if !providers.contains(&node.uuid) {
            providers.push(node.uuid.clone());
        }
    }
    let node = |uuid: &str| nodes.iter().find(|n| n.uuid == uuid);
    // What several groups take from one provider must fit together.
    let fits = amounts.iter().all(|(uuid, of)| node(uuid).is_some_and(|n| of.iter().all(|(class, amount)| n.has_room(class, *amount))));
    let together = search.subtrees.iter().all(|suffixes| {
        let providers: Vec<&String> = suffixes.iter().filter_map(|s| mappings.get(s)).flatten().collect();
        providers.iter().any(|top| providers.iter().all(|p| below(nodes, p, top)))
    });
    (fits && together).then_some(Candidate { amounts, mappings })
}

/// Whether `uuid` is `top` or lies below it.
fn below(nodes: &[Node], uuid: &str, top: &str) -> bool {
    let mut at = Some(uuid);
    // A tree is never deeper than it has nodes.
    for _ in 0..=nodes.len() {
        match at {
            Some(here) if here == top => return true,
            Some(here) => at = nodes.iter().find(|n| n.uuid == here).and_then(|n| n.parent.as_deref()),
            None => return false,
        }
    }
    false
}
