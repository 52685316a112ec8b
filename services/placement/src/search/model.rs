//! Candidates by trying everything: slow, and plainly what is meant. The search is compared with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, Search};
use crate::filter::{Members, Traits};
use crate::index::Provider;

/// What is taken of whom, and who serves each group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    pub amounts: BTreeMap<(String, String), u64>,
    pub mappings: BTreeMap<String, BTreeSet<String>>,
}

fn has(traits: &Traits, of: &[&Provider]) -> bool {
    let any = |names: &Vec<String>| of.iter().any(|p| names.iter().any(|t| p.traits.contains(t)));
    traits.required.iter().all(any)
}

fn lacks(traits: &Traits, p: &Provider) -> bool {
    !traits.forbidden.iter().any(|t| p.traits.contains(t))
}

fn inside(members: &Members, p: &Provider) -> bool {
    members.any_of.iter().all(|any| any.iter().any(|a| p.aggregates.contains(a)))
}

fn outside(members: &Members, p: &Provider) -> bool {
    !members.none_of.iter().any(|a| p.aggregates.contains(a))
}

fn room(p: &Provider, class: &str, amount: u64) -> bool {
    p.stock.iter().any(|s| s.inventory.class == class && s.inventory.fits(s.used, amount))
}

fn shares_with_tree(forest: &[Provider], p: &Provider, root: &Provider) -> bool {
    let shares = p.traits.iter().any(|t| t == "MISC_SHARES_VIA_AGGREGATE");
    shares && forest.iter().filter(|m| m.root == root.uuid).any(|m| m.aggregates.iter().any(|a| p.aggregates.contains(a)))
}

/// Providers, and what is taken of each.
type Way<'a> = Vec<(&'a Provider, Vec<(String, u64)>)>;

/// All ways in which the tree of `root`, and what is shared with it, can serve one group alone.
fn ways<'a>(forest: &'a [Provider], root: &Provider, group: &Group) -> Vec<Way<'a>> {
    let own = |p: &Provider| p.root == root.uuid;
    let reached: Vec<&Provider> = forest.iter().filter(|p| own(p) || shares_with_tree(forest, p, root)).collect();
    let tree = group.in_tree.as_ref().map(|uuid| forest.iter().find(|p| p.uuid == *uuid).map(|p| p.root.clone()));
    if tree == Some(None) {
        return Vec::new();
    }
    let tree = tree.flatten();
    let in_tree = |p: &Provider| tree.as_ref().is_none_or(|root| p.root == *root);
    if !group.suffix.is_empty() {
        let serves = |p: &&Provider| {
            group.resources.iter().all(|(class, amount)| room(p, class, *amount))
                && has(&group.traits, &[p])
                && lacks(&group.traits, p)
                && inside(&group.members, p)
                && outside(&group.members, p)
                && in_tree(p)
        };
        return reached.into_iter().filter(serves).map(|p| vec![(p, group.resources.clone())]).collect();
    }
    let mut ways: Vec<Way> = vec![Vec::new()];
    for (class, amount) in &group.resources {
        let serves = |p: &&&Provider| {
            let member = inside(&group.members, p) || (own(p) && inside(&group.members, root));
            let barred = !outside(&group.members, p) || !outside(&group.members, root);
            // in_tree keeps the group from what other trees share.
            room(p, class, *amount) && lacks(&group.traits, p) && member && !barred && in_tree(p) && (tree.is_none() || own(p))
        };
        let fits: Vec<&&Provider> = reached.iter().filter(serves).collect();
        let longer =
            |way: &Vec<_>| fits.iter().map(|p| [way.clone(), vec![(**p, vec![(class.clone(), *amount)])]].concat()).collect::<Vec<_>>();
        ways = ways.iter().flat_map(longer).collect();
    }
    ways.retain(|way| has(&group.traits, &way.iter().map(|(p, _)| *p).collect::<Vec<_>>()));
    ways
}

fn is_below(forest: &[Provider], uuid: &str, top: &str) -> bool {
    uuid == top
        || forest.iter().find(|p| p.uuid == uuid).and_then(|p| p.parent.as_ref()).is_some_and(|parent| is_below(forest, parent, top))
}

pub fn candidates(forest: &[Provider], search: &Search) -> BTreeSet<Candidate> {
    let mut found = BTreeSet::new();
    for root in forest.iter().filter(|p| p.root == p.uuid && has(&search.root, &[p]) && lacks(&search.root, p)) {
        let mut all = vec![Candidate::default()];
        for group in &search.groups {
            let mut next = Vec::new();
            for (candidate, way) in all.iter().flat_map(|c| ways(forest, root, group).into_iter().map(move |w| (c, w))) {
                let mut candidate = candidate.clone();
                for (p, amounts) in way {
                    candidate.mappings.entry(group.suffix.clone()).or_default().insert(p.uuid.clone());
                    for (class, amount) in amounts {
                        *candidate.amounts.entry((p.uuid.clone(), class)).or_default() += amount;
                    }
                }
                next.push(candidate);
            }
            all = next;
        }
        found.extend(all.into_iter().filter(|c| stands(forest, search, c)));
    }
    found
}

/// Whether what serves each group alone serves all of them together.
fn stands(forest: &[Provider], search: &Search, candidate: &Candidate) -> bool {
    let fits = candidate.amounts.iter().all(|((uuid, class), amount)| {
        let stock = forest.iter().filter(|p| p.uuid == *uuid).flat_map(|p| &p.stock).find(|s| s.inventory.class == *class);
        stock.is_some_and(|s| s.used + amount <= s.inventory.capacity() && *amount <= s.inventory.max_unit)
    });
    let suffixed = || candidate.mappings.iter().filter(|(suffix, _)| !suffix.is_empty());
    let isolated = suffixed().flat_map(|(_, p)| p).collect::<BTreeSet<_>>().len() == suffixed().count();
    let subtrees = search.subtrees.iter().all(|suffixes| {
        let providers: BTreeSet<&String> = suffixes.iter().filter_map(|s| candidate.mappings.get(s)).flatten().collect();
        providers.iter().any(|top| providers.iter().all(|p| is_below(forest, p, top)))
    });
    let users: BTreeSet<&String> = candidate.amounts.keys().map(|(uuid, _)| uuid).collect();
    let trees: BTreeSet<&String> = forest.iter().filter(|p| users.contains(&p.uuid)).map(|p| &p.root).collect();
    fits && (!search.isolate || isolated) && subtrees && (!search.flat || users.len() == trees.len())
}
