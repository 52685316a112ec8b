//! Groups of a claim: resources that one provider of a host's tree gives together, beside what the host itself gives.

use std::collections::{BTreeMap, HashMap, HashSet};

use base::Result;
use serde::{Deserialize, Serialize};
use store::{Select, Tx, params};

use crate::claims::{Inventory, Requirements, Stock};

/// What a port, or another device of a consumer, asks of one provider with these traits. Several groups may get the same provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub resources: Vec<(String, u64)>,
    pub required: Vec<String>,
}

impl Group {
    fn classes(groups: &[Group]) -> HashSet<&str> {
        groups.iter().flat_map(|g| &g.resources).map(|(class, _)| class.as_str()).collect()
    }
}

/// By provider and class.
pub type Amounts = HashMap<(String, String), u64>;

/// What the consumer has.
pub fn held_in(tx: &Tx, consumer: &str) -> Result<Amounts> {
    let sql = "SELECT provider, class, used FROM allocation WHERE consumer = ?1";
    Ok(tx.query(sql, params![consumer], |r| Ok(((r.text(0)?, r.text(1)?), r.count(2)?)))?.into_iter().collect())
}

/// A provider of a tree, with what it has of the classes asked for.
#[derive(Debug, Default)]
struct Shelf {
    provider: String,
    traits: HashSet<String>,
    stock: HashMap<String, Stock>,
    /// By the claim that is being settled.
    taken: HashMap<String, u64>,
}

impl Shelf {
    fn taken(&mut self, class: &str) -> &mut u64 {
        self.taken.entry(class.to_string()).or_default()
    }

    /// Whether the group fits beside what is used and taken, or is no more than the consumer has here.
    fn gives(&self, group: &Group, held: &Amounts) -> bool {
        let fits = |(class, amount): &(String, u64)| {
            let had = held.get(&(self.provider.clone(), class.clone())).copied().unwrap_or_default();
            let taken = self.taken.get(class).copied().unwrap_or_default();
            let room = |stock: &Stock| stock.inventory.fits(stock.used.saturating_add(taken), *amount);
            taken.saturating_add(*amount) <= had || self.stock.get(class).is_some_and(room)
        };
        group.required.iter().all(|name| self.traits.contains(name)) && group.resources.iter().all(fits)
    }

    fn take(&mut self, resources: &[(String, u64)]) {
        resources.iter().for_each(|(class, amount)| *self.taken(class) += amount);
    }

    fn put_back(&mut self, resources: &[(String, u64)]) {
        resources.iter().for_each(|(class, amount)| *self.taken(class) -= amount);
    }
}

/// Which shelf gives each group, in order; another choice for an earlier group is tried when a later one finds nothing.
fn settle(groups: &[Group], shelves: &mut [Shelf], held: &Amounts) -> Option<Vec<usize>> {
    let Some((group, rest)) = groups.split_first() else { return Some(Vec::new()) };
    for at in 0..shelves.len() {
        if !shelves[at].gives(group, held) {
            continue;
        }
        shelves[at].take(&group.resources);
        if let Some(mut found) = settle(rest, shelves, held) {
            found.insert(0, at);
            return Some(found);
        }
        shelves[at].put_back(&group.resources);
    }
    None
}

/// Providers with an inventory of any class asked for, by the root of their tree; of all trees, unless one is named.
fn shelves_in(tx: &Tx, groups: &[Group], root: Option<&str>) -> Result<BTreeMap<String, Vec<Shelf>>> {
    let sql = "SELECT p.root, i.provider, i.class, i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio,
                      CAST((SELECT COALESCE(SUM(a.used), 0) FROM allocation a WHERE a.provider = i.provider AND a.class = i.class) AS BIGINT)
               FROM inventory i JOIN provider p ON p.uuid = i.provider";
    let rows = Select::new(sql)
        .in_list("i.class", Group::classes(groups))
        .opt_eq("p.root", root)
        .order(&[("p.name", store::Dir::Asc), ("p.uuid", store::Dir::Asc)])
        .fetch(tx, |r| {
            let inventory = Inventory {
                class: r.text(2)?,
                total: r.count(3)?,
                reserved: r.count(4)?,
                min_unit: r.count(5)?,
                max_unit: r.count(6)?,
                step_size: r.count(7)?,
                allocation_ratio: r.real(8)?,
            };
            Ok((r.text(0)?, r.text(1)?, Stock { inventory, used: r.count(9)? }))
        })?;
    let traits = "SELECT t.provider, t.trait FROM provider_trait t JOIN provider p ON p.uuid = t.provider";
    let names = groups.iter().flat_map(|g| &g.required).map(String::as_str);
    let traits = Select::new(traits).in_list("t.trait", names).opt_eq("p.root", root).fetch(tx, |r| Ok((r.text(0)?, r.text(1)?)))?;
    let mut of: HashMap<String, HashSet<String>> = HashMap::new();
    for (provider, name) in traits {
        of.entry(provider).or_default().insert(name);
    }
    let mut trees: BTreeMap<String, Vec<Shelf>> = BTreeMap::new();
    for (root, provider, stock) in rows {
        let shelves = trees.entry(root).or_default();
        let at = shelves.iter().position(|s| s.provider == provider).unwrap_or_else(|| {
            let traits = of.remove(&provider).unwrap_or_default();
            shelves.push(Shelf { provider, traits, ..Shelf::default() });
            shelves.len() - 1
        });
        shelves[at].stock.insert(stock.inventory.class.clone(), stock);
    }
    Ok(trees)
}

/// What is searched for without its groups, among the trees that have room for them.
pub fn narrowed_in(tx: &Tx, wanted: &Requirements) -> Result<Requirements> {
    let mut roots = Vec::new();
    for (root, mut shelves) in shelves_in(tx, &wanted.groups, None)? {
        if wanted.in_providers.as_ref().is_some_and(|only| !only.contains(&root)) {
            continue;
        }
        if let Some(own) = shelves.iter_mut().find(|s| s.provider == root) {
            own.take(&wanted.resources);
        }
        if settle(&wanted.groups, &mut shelves, &Amounts::new()).is_some() {
            roots.push(root);
        }
    }
    Ok(Requirements { groups: Vec::new(), in_providers: Some(roots), ..wanted.clone() })
}

/// The provider of the tree that gives each group, to a consumer who gives back what it holds and takes `resources` of the root itself.
pub fn given_in(tx: &Tx, root: &str, resources: &[(String, u64)], groups: &[Group], held: &Amounts) -> Result<Option<Vec<String>>> {
    settled_in(tx, root, resources, groups, held, |shelf| {
        for stock in shelf.stock.values_mut() {
            let own = held.get(&(shelf.provider.clone(), stock.inventory.class.clone()));
            stock.used = stock.used.saturating_sub(own.copied().unwrap_or_default());
        }
    })
}

/// As [`given_in`], out of what the consumer holds and nothing else.
pub fn kept_in(tx: &Tx, root: &str, resources: &[(String, u64)], groups: &[Group], held: &Amounts) -> Result<Option<Vec<String>>> {
    settled_in(tx, root, resources, groups, held, |shelf| shelf.stock.clear())
}

fn settled_in(
    tx: &Tx,
    root: &str,
    resources: &[(String, u64)],
    groups: &[Group],
    held: &Amounts,
    offers: impl Fn(&mut Shelf),
) -> Result<Option<Vec<String>>> {
    if groups.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut shelves = shelves_in(tx, groups, Some(root))?.remove(root).unwrap_or_default();
    for shelf in &mut shelves {
        offers(shelf);
        if shelf.provider == root {
            shelf.take(resources);
        }
    }
    // What a group has it keeps, where it can.
    shelves.sort_by_key(|shelf| !held.keys().any(|(provider, _)| *provider == shelf.provider));
    let found = settle(groups, &mut shelves, held);
    Ok(found.map(|found| found.into_iter().map(|at| shelves[at].provider.clone()).collect()))
}
