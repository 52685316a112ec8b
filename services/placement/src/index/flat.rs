//! One provider for everything: what the scheduler of servers asks.

use super::{Index, Node, Provider};
use crate::claims::{Inventory, Requirements, Stock};

/// Requirements in numbers.
pub struct Terms {
    resources: Vec<(u32, u64)>,
    required: Vec<u32>,
    forbidden: Vec<u32>,
}

impl Index {
    /// `None` when nobody can meet them.
    pub fn terms(&self, wanted: &Requirements) -> Option<Terms> {
        let resources = wanted.resources.iter().map(|(class, amount)| Some((self.class(class)?, *amount)));
        let required = wanted.required.iter().map(|name| self.trait_number(name));
        let forbidden = wanted.forbidden.iter().filter_map(|name| self.trait_number(name));
        Some(Terms {
            resources: resources.collect::<Option<_>>()?,
            required: required.collect::<Option<_>>()?,
            forbidden: forbidden.collect(),
        })
    }

    /// Providers that may meet the terms: none that does is missing.
    pub fn matching(&self, terms: &Terms) -> impl Iterator<Item = u32> {
        let mut trees = self.roots().clone();
        for (class, amount) in &terms.resources {
            trees.keep(&self.with_room(*class, *amount));
        }
        for number in &terms.required {
            trees.keep(self.with_trait(*number));
        }
        let trees: Vec<u32> = trees.iter().collect();
        trees.into_iter().flat_map(|root| self.node(root).members.iter().copied())
    }

    /// The provider's name and what it has of the classes asked for, if it meets the terms.
    pub fn meets(&self, number: u32, terms: &Terms) -> Option<(String, Vec<Stock>)> {
        let node = self.node(number);
        let traits = terms.required.iter().all(|t| node.has_trait(*t)) && !terms.forbidden.iter().any(|t| node.has_trait(*t));
        let stock = |(class, amount): &(u32, u64)| self.told_stock(node, *class).filter(|s| s.inventory.fits(s.used, *amount));
        let stock: Vec<Stock> = terms.resources.iter().map(stock).collect::<Option<_>>()?;
        traits.then(|| (node.uuid.to_string(), stock))
    }

    /// What a provider has of a class, and what is used of it.
    pub fn stock_of(&self, uuid: &str, class: &str) -> Option<Stock> {
        self.told_stock(self.node(self.number(uuid)?), self.class(class)?)
    }

    fn told_stock(&self, node: &Node, class: u32) -> Option<Stock> {
        let s = node.stock(class)?;
        let inventory = Inventory {
            class: self.class_name(class).to_string(),
            total: s.total,
            reserved: s.reserved,
            min_unit: s.min_unit.into(),
            max_unit: s.max_unit.into(),
            step_size: s.step_size.into(),
            allocation_ratio: s.ratio,
        };
        Some(Stock { inventory, used: s.used })
    }
}

impl Requirements {
    /// What the provider has of the classes asked for, if it meets them.
    pub(crate) fn met_by(&self, provider: &Provider) -> Option<Vec<Stock>> {
        let has = |name: &String| provider.traits.contains(name);
        let stock = |(class, amount): &(String, u64)| {
            provider.stock.iter().find(|s| s.inventory.class == *class && s.inventory.fits(s.used, *amount)).cloned()
        };
        let stock: Vec<Stock> = self.resources.iter().map(stock).collect::<Option<_>>()?;
        (self.required.iter().all(has) && !self.forbidden.iter().any(has)).then_some(stock)
    }
}
