//! The search behind allocation candidates: groups of wants over trees of providers, and over providers that share with them.
//!
//! A group with a suffix is served by one provider; the group without one may be spread over a tree and what is shared with it, class by
//! class. All of a candidate belongs to one tree, its anchor. Trees that cannot serve are passed over many at a time; within a tree,
//! candidates are made one by one as they are asked for ([`combine`]).

mod combine;
#[cfg(test)]
mod model;
mod plan;
mod shuffle;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use base::Result;
use store::Tx;

use crate::filter::{Members, Traits, class_known_in};
use crate::index::Index;
use combine::Combinations;
use plan::Plan;
use shuffle::Shuffle;

#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Empty for the group without a suffix.
    pub suffix: String,
    pub resources: Vec<(String, u64)>,
    pub traits: Traits,
    pub members: Members,
    pub in_tree: Option<String>,
}

/// In which order trees are gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All candidates of a tree before the next tree.
    #[default]
    DepthFirst,
    /// One candidate of each tree in turn.
    BreadthFirst,
    /// As `BreadthFirst`, the trees and within each the choices in an order that follows from this number.
    Random(u64),
}

#[derive(Clone, Debug, Default)]
pub struct Search {
    pub groups: Vec<Group>,
    pub limit: Option<usize>,
    /// Whether groups with a suffix must be served by different providers.
    pub isolate: bool,
    /// Of the anchor's root.
    pub root: Traits,
    /// Suffixes whose providers must lie below one of them.
    pub subtrees: Vec<Vec<String>>,
    /// No two providers of one tree: what clients know that have not heard of trees.
    pub flat: bool,
    pub order: Order,
}

impl Search {
    /// `Invalid` for classes and traits that are none.
    pub fn check_in(&self, tx: &Tx) -> Result<()> {
        for class in self.asked() {
            class_known_in(tx, class)?;
        }
        for group in &self.groups {
            group.traits.check_in(tx)?;
        }
        self.root.check_in(tx)
    }

    /// Every class asked for.
    pub fn asked(&self) -> BTreeSet<&str> {
        self.groups.iter().flat_map(|g| g.resources.iter().map(|(class, _)| class.as_str())).collect()
    }
}

/// What one provider is to serve: all of a group with a suffix, or one class of the group without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its place among the search's groups.
    pub group: usize,
    pub resources: Vec<(u32, u64)>,
}

/// Candidates, as the numbers of providers in the index they were found in.
#[derive(Debug, Default)]
pub struct Found {
    pub wants: Vec<Want>,
    /// Of each candidate the provider of each want.
    pub candidates: Vec<Box<[u32]>>,
}

/// The first candidates, as many as the search is limited to.
pub fn find(index: &Index, search: &Search) -> Found {
    let Some(plan) = Plan::new(index, search) else { return Found::default() };
    let limit = search.limit.unwrap_or(usize::MAX);
    let mut trees: Vec<u32> = plan.trees().iter().collect();
    let mut shuffle = match search.order {
        Order::Random(seed) => Some(Shuffle(seed)),
        _ => None,
    };
    if let Some(shuffle) = &mut shuffle {
        shuffle.mix(&mut trees);
    }
    let mut anchors = trees.into_iter().filter_map(|root| {
        let mut choices = plan.choices(root)?;
        if let Some(shuffle) = &mut shuffle {
            choices.iter_mut().for_each(|of| shuffle.mix(of));
        }
        Combinations::new(&plan, choices)
    });
    let mut collected = Collected { index, candidates: Vec::new(), shared: HashSet::new() };
    match search.order {
        Order::DepthFirst => {
            for mut combinations in anchors {
                while collected.candidates.len() < limit && combinations.advance() {
                    collected.add(combinations.picks());
                }
                if collected.candidates.len() >= limit {
                    break;
                }
            }
        }
        Order::BreadthFirst | Order::Random(_) => {
            let mut waiting = std::collections::VecDeque::new();
            while collected.candidates.len() < limit {
                let Some(mut combinations) = anchors.next().or_else(|| waiting.pop_front()) else { break };
                if combinations.advance() {
                    collected.add(combinations.picks());
                    waiting.push_back(combinations);
                }
            }
        }
    }
    let candidates = collected.candidates;
    Found { wants: plan.wants, candidates }
}

/// Every provider that meets all conditions of a group by itself.
pub fn alone(index: &Index, group: Group) -> Vec<u32> {
    let search = Search { groups: vec![Group { suffix: "alone".into(), ..group }], ..Search::default() };
    let Some(plan) = Plan::new(index, &search) else { return Vec::new() };
    let mut found = Vec::new();
    for root in plan.trees().iter() {
        found.extend(index.node(root).members.iter().copied().filter(|n| plan.serves(&plan.wants[0], root, *n)));
    }
    found
}

struct Collected<'a> {
    index: &'a Index,
    candidates: Vec<Box<[u32]>>,
    /// Those of sharing providers alone: several anchors may lead to them.
    shared: HashSet<Box<[u32]>>,
}

impl Collected<'_> {
    fn add(&mut self, picks: Box<[u32]>) {
        let sharing = self.index.sharing();
        let shared = !sharing.is_empty() && picks.iter().all(|number| sharing.contains(number));
        if !shared || self.shared.insert(picks.clone()) {
            self.candidates.push(picks);
        }
    }
}
