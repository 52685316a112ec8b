//! All providers in memory, in the form candidate search wants: see decision 0026.

mod bits;
mod flat;
mod live;
mod load;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

pub use bits::Bits;
pub use live::Live;
pub use load::{Provider, providers_in};
use names::Names;

/// The trait of providers whose inventory may be used by all trees with which they share an aggregate.
const SHARING: &str = "MISC_SHARES_VIA_AGGREGATE";

/// What a provider has of one class, and what is used of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    pub class: u32,
    pub min_unit: u32,
    pub max_unit: u32,
    pub step_size: u32,
    pub total: u64,
    pub reserved: u64,
    pub used: u64,
    pub ratio: f64,
}

impl Stock {
    pub fn capacity(&self) -> u64 {
        crate::claims::capacity(self.total, self.reserved, self.ratio)
    }

    /// Whether one request for this amount can be met.
    pub fn fits(&self, amount: u64) -> bool {
        let unit = amount >= u64::from(self.min_unit) && amount <= u64::from(self.max_unit);
        unit && amount.is_multiple_of(u64::from(self.step_size.max(1))) && self.used.saturating_add(amount) <= self.capacity()
    }

    /// What is left; nothing, when more is used than there is.
    pub fn free(&self) -> u64 {
        self.capacity().saturating_sub(self.used)
    }
}

/// A provider. Nodes are numbered; a number is used again when its provider is gone.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub uuid: Uuid,
    pub parent: Option<u32>,
    pub root: u32,
    /// Of a root: all of its tree, itself included.
    pub members: Vec<u32>,
    /// In ascending order. Sets that are equal are one.
    pub traits: Arc<[u32]>,
    /// In ascending order.
    pub aggregates: Arc<[u32]>,
    pub stock: Box<[Stock]>,
    /// Not for one that is only known as another's parent or root, in the midst of a change.
    there: bool,
}

impl Node {
    pub fn stock(&self, class: u32) -> Option<&Stock> {
        self.stock.iter().find(|s| s.class == class)
    }
    pub fn fits(&self, class: u32, amount: u64) -> bool {
        self.stock(class).is_some_and(|s| s.fits(amount))
    }
    pub fn has_trait(&self, number: u32) -> bool {
        self.traits.binary_search(&number).is_ok()
    }
    pub fn is_in(&self, aggregate: u32) -> bool {
        self.aggregates.binary_search(&aggregate).is_ok()
    }
}

/// The trees by how much of one class a provider of theirs has left: those with 2^n to 2^(n+1)-1 at n.
type Rooms = Vec<Bits>;

#[derive(Default)]
pub struct Index {
    /// The version of the store it shows; `None` before the first look.
    version: Option<i64>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    numbers: HashMap<Uuid, u32>,
    classes: Names<Arc<str>>,
    traits: Names<Arc<str>>,
    aggregates: Names<Uuid>,
    sets: HashSet<Arc<[u32]>>,
    roots: Bits,
    /// By class.
    rooms: Vec<Rooms>,
    /// By trait: the trees where a provider has it.
    bearers: Vec<Bits>,
    /// By aggregate: its providers.
    members: Vec<Vec<u32>>,
    /// Providers that share through aggregates.
    sharing: Vec<u32>,
    /// How many providers are below another.
    nested: usize,
}

/// What has changed in the store.
pub struct News {
    pub version: i64,
    /// Everything is told, not only what has changed.
    pub all: bool,
    pub providers: Vec<Provider>,
    pub gone: Vec<String>,
}

impl Index {
    pub fn version(&self) -> Option<i64> {
        self.version
    }
    pub fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }
    pub fn number(&self, uuid: &str) -> Option<u32> {
        let number = *self.numbers.get(&Uuid::try_parse(uuid).ok()?)?;
        self.node(number).there.then_some(number)
    }
    pub fn class(&self, name: &str) -> Option<u32> {
        self.classes.get(name)
    }
    pub fn class_name(&self, number: u32) -> &str {
        self.classes.key(number)
    }
    pub fn trait_number(&self, name: &str) -> Option<u32> {
        self.traits.get(name)
    }
    pub fn trait_name(&self, number: u32) -> &str {
        self.traits.key(number)
    }
    pub fn aggregate(&self, uuid: &str) -> Option<u32> {
        self.aggregates.get(&Uuid::try_parse(uuid).ok()?)
    }
    /// The roots of all trees.
    pub fn roots(&self) -> &Bits {
        &self.roots
    }
    pub fn members(&self, aggregate: u32) -> &[u32] {
        &self.members[aggregate as usize]
    }
    pub fn sharing(&self) -> &[u32] {
        &self.sharing
    }
    pub fn has_nested(&self) -> bool {
        self.nested > 0
    }
    /// Trees with a provider that has the trait.
    pub fn with_trait(&self, number: u32) -> &Bits {
        &self.bearers[number as usize]
    }
    /// Trees with a provider that has so much left of the class, and a few that have less: at least half of it.
    pub fn with_room(&self, class: u32, amount: u64) -> Bits {
        let mut trees = Bits::default();
        for level in self.rooms[class as usize].iter().skip(amount.max(1).ilog2() as usize) {
            trees.add(level);
        }
        trees
    }

    pub fn apply(&mut self, news: News) {
        if news.all {
            *self = Index::default();
        }
        // Trees of which something is no longer as it was.
        let mut touched = HashSet::new();
        for provider in news.providers {
            self.put(provider, &mut touched);
        }
        for uuid in &news.gone {
            self.remove(uuid, &mut touched);
        }
        for root in touched {
            self.survey(root);
        }
        self.version = Some(news.version);
    }

    fn put(&mut self, provider: Provider, touched: &mut HashSet<u32>) {
        let Some(number) = self.slot(&provider.uuid) else { return };
        let parent = provider.parent.as_deref().and_then(|uuid| self.slot(uuid));
        let root = self.slot(&provider.root).unwrap_or(number);
        self.withdraw(number, touched);
        let mut traits: Vec<u32> = provider.traits.iter().map(|name| self.traits.number(&Arc::from(name.as_str()))).collect();
        traits.sort_unstable();
        self.bearers.resize(self.traits.len(), Bits::default());
        let uuids = provider.aggregates.iter().filter_map(|uuid| Uuid::try_parse(uuid).ok());
        let mut aggregates: Vec<u32> = uuids.map(|uuid| self.aggregates.number(&uuid)).collect();
        aggregates.sort_unstable();
        self.members.resize(self.aggregates.len(), Vec::new());
        let stock = provider.stock.into_iter().map(|s| self.stock(s)).collect();
        self.rooms.resize(self.classes.len(), Rooms::default());
        for aggregate in &aggregates {
            self.members[*aggregate as usize].push(number);
        }
        if self.traits.get(SHARING).is_some_and(|sharing| traits.contains(&sharing)) {
            self.sharing.push(number);
        }
        self.nested += usize::from(parent.is_some());
        let (traits, aggregates) = (self.set(traits), self.set(aggregates));
        let node = &mut self.nodes[number as usize];
        (node.parent, node.root, node.there) = (parent, root, true);
        (node.traits, node.aggregates, node.stock) = (traits, aggregates, stock);
        self.nodes[root as usize].members.push(number);
        touched.insert(root);
    }

    fn remove(&mut self, uuid: &str, touched: &mut HashSet<u32>) {
        let Some(number) = Uuid::try_parse(uuid).ok().and_then(|uuid| self.numbers.remove(&uuid)) else { return };
        self.withdraw(number, touched);
        self.nodes[number as usize] = Node::default();
        self.free.push(number);
    }

    /// Takes a node out of everything that lists it.
    fn withdraw(&mut self, number: u32, touched: &mut HashSet<u32>) {
        let node = &mut self.nodes[number as usize];
        if !node.there {
            return;
        }
        node.there = false;
        let (root, parent) = (node.root, node.parent);
        let (traits, aggregates) = (std::mem::take(&mut node.traits), std::mem::take(&mut node.aggregates));
        let leave = |list: &mut Vec<u32>| list.retain(|n| *n != number);
        leave(&mut self.nodes[root as usize].members);
        for aggregate in aggregates.iter() {
            leave(&mut self.members[*aggregate as usize]);
        }
        leave(&mut self.sharing);
        self.nested -= usize::from(parent.is_some());
        for set in [traits, aggregates] {
            // Ours, and that of the collection.
            if Arc::strong_count(&set) == 2 {
                self.sets.remove(&set);
            }
        }
        touched.insert(root);
    }

    /// The number of a provider, a new one if need be.
    fn slot(&mut self, uuid: &str) -> Option<u32> {
        let uuid = Uuid::try_parse(uuid).ok()?;
        if let Some(number) = self.numbers.get(&uuid) {
            return Some(*number);
        }
        let number = self.free.pop().unwrap_or(self.nodes.len() as u32);
        if number as usize == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        self.nodes[number as usize].uuid = uuid;
        self.numbers.insert(uuid, number);
        Some(number)
    }

    fn set(&mut self, numbers: Vec<u32>) -> Arc<[u32]> {
        if let Some(set) = self.sets.get(&numbers[..]) {
            return set.clone();
        }
        let set: Arc<[u32]> = numbers.into();
        self.sets.insert(set.clone());
        set
    }

    fn stock(&mut self, stock: crate::claims::Stock) -> Stock {
        // No request asks for more than an u32 holds.
        let unit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let i = stock.inventory;
        Stock {
            class: self.classes.number(&Arc::from(i.class.as_str())),
            min_unit: unit(i.min_unit),
            max_unit: unit(i.max_unit),
            step_size: unit(i.step_size),
            total: i.total,
            reserved: i.reserved,
            used: stock.used,
            ratio: i.allocation_ratio,
        }
    }

    /// Looks over a tree again: its places among rooms and bearers.
    fn survey(&mut self, root: u32) {
        self.roots.clear(root);
        self.rooms.iter_mut().flatten().for_each(|level| level.clear(root));
        self.bearers.iter_mut().for_each(|trees| trees.clear(root));
        let tree = &self.nodes[root as usize];
        if tree.there && tree.root == root {
            self.roots.set(root);
        }
        for member in &tree.members {
            let node = &self.nodes[*member as usize];
            for stock in node.stock.iter().filter(|s| s.free() > 0) {
                let (rooms, level) = (&mut self.rooms[stock.class as usize], stock.free().ilog2() as usize);
                if rooms.len() <= level {
                    rooms.resize(level + 1, Bits::default());
                }
                rooms[level].set(root);
            }
            for number in node.traits.iter() {
                self.bearers[*number as usize].set(root);
            }
        }
    }

    /// Providers, and roughly the bytes they take.
    pub fn size(&self) -> (usize, usize) {
        let nodes: usize = self.nodes.iter().map(|n| n.members.capacity() * 4 + n.stock.len() * size_of::<Stock>()).sum();
        let sets: usize = self.sets.iter().map(|s| s.len() * 4 + 32).sum();
        let bits = self.rooms.iter().flatten().chain(&self.bearers).map(Bits::size).sum::<usize>();
        let lists: usize = self.members.iter().map(|m| m.capacity() * 4 + 24).sum();
        let table = self.nodes.capacity() * size_of::<Node>() + self.numbers.capacity() * (size_of::<(Uuid, u32)>() + 1);
        (self.numbers.len(), nodes + sets + bits + lists + table)
    }
}

#[cfg(test)]
impl Index {
    /// What it holds, without its numbers.
    pub fn told(&self) -> std::collections::BTreeMap<String, String> {
        let uuid = |n: u32| self.node(n).uuid.to_string();
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        let there = self.nodes.iter().enumerate().filter(|(_, n)| n.there);
        let mut told: std::collections::BTreeMap<String, String> = there
            .map(|(number, n)| {
                let of = |class: u32, s: &Stock| format!("{} {s:?}", self.class_name(class)).replacen(&format!("class: {class},"), "", 1);
                let text = format!(
                    "{:?} {} {:?} {:?} {:?} {:?}",
                    n.parent.map(uuid),
                    uuid(n.root),
                    sorted(n.members.iter().map(|m| uuid(*m)).collect()),
                    sorted(n.traits.iter().map(|t| self.trait_name(*t).to_string()).collect()),
                    sorted(n.aggregates.iter().map(|a| self.aggregates.key(*a).to_string()).collect()),
                    sorted(n.stock.iter().map(|s| of(s.class, s)).collect()),
                );
                (uuid(number as u32), text)
            })
            .collect();
        let trees = |bits: &Bits| sorted(bits.iter().map(uuid).collect());
        let mut add = |name: String, of: Vec<String>| {
            if !of.is_empty() {
                told.insert(name, format!("{of:?}"));
            }
        };
        add("roots".into(), trees(&self.roots));
        add("sharing".into(), sorted(self.sharing.iter().map(|n| uuid(*n)).collect()));
        add("nested".into(), vec![self.nested.to_string()]);
        for (class, rooms) in self.rooms.iter().enumerate() {
            for (level, bits) in rooms.iter().enumerate() {
                add(format!("{} {level}", self.class_name(class as u32)), trees(bits));
            }
        }
        for (number, bits) in self.bearers.iter().enumerate() {
            add(self.trait_name(number as u32).to_string(), trees(bits));
        }
        for (number, members) in self.members.iter().enumerate() {
            add(self.aggregates.key(number as u32).to_string(), sorted(members.iter().map(|n| uuid(*n)).collect()));
        }
        told
    }
}
