//! Providers as the index takes them from the store.

use std::collections::HashMap;

use base::Result;
use store::{Select, Tx};

use crate::claims::{Inventory, Stock};

/// A provider with all that a search asks about.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub uuid: String,
    pub parent: Option<String>,
    pub root: String,
    pub traits: Vec<String>,
    pub aggregates: Vec<String>,
    pub stock: Vec<Stock>,
}

/// How many providers are asked for by name in one statement.
const BATCH: usize = 500;

/// These providers, as far as they are there; all, when none are named.
pub fn providers_in(tx: &Tx, only: Option<&[String]>) -> Result<Vec<Provider>> {
    match only {
        None => batch_in(tx, None),
        Some(uuids) => {
            let mut found = Vec::new();
            for batch in uuids.chunks(BATCH) {
                found.extend(batch_in(tx, Some(batch))?);
            }
            Ok(found)
        }
    }
}

fn batch_in(tx: &Tx, only: Option<&[String]>) -> Result<Vec<Provider>> {
    let select = |sql: &str, column: &str| match only {
        Some(uuids) => Select::new(sql).in_list(column, uuids.iter().map(String::as_str)),
        None => Select::new(sql),
    };
    let empty = |uuid, parent, root| Provider { uuid, parent, root, traits: Vec::new(), aggregates: Vec::new(), stock: Vec::new() };
    let mut providers =
        select("SELECT uuid, parent, root FROM provider", "uuid").fetch(tx, |r| Ok(empty(r.text(0)?, r.opt_text(1)?, r.text(2)?)))?;
    let at: HashMap<String, usize> = providers.iter().enumerate().map(|(at, p)| (p.uuid.clone(), at)).collect();
    let pair = |r: &store::Row| Ok((r.text(0)?, r.text(1)?));
    for (provider, name) in select("SELECT provider, trait FROM provider_trait", "provider").fetch(tx, pair)? {
        if let Some(at) = at.get(&provider) {
            providers[*at].traits.push(name);
        }
    }
    for (provider, aggregate) in select("SELECT provider, aggregate FROM provider_aggregate", "provider").fetch(tx, pair)? {
        if let Some(at) = at.get(&provider) {
            providers[*at].aggregates.push(aggregate);
        }
    }
    let sql = "SELECT i.provider, i.class, i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio,
                      CAST((SELECT COALESCE(SUM(a.used), 0) FROM allocation a WHERE a.provider = i.provider AND a.class = i.class) AS BIGINT)
               FROM inventory i";
    let stock = select(sql, "i.provider").fetch(tx, |r| {
        let inventory = Inventory {
            class: r.text(1)?,
            total: r.count(2)?,
            reserved: r.count(3)?,
            min_unit: r.count(4)?,
            max_unit: r.count(5)?,
            step_size: r.count(6)?,
            allocation_ratio: r.real(7)?,
        };
        Ok((r.text(0)?, Stock { inventory, used: r.count(8)? }))
    })?;
    for (provider, stock) in stock {
        if let Some(at) = at.get(&provider) {
            providers[*at].stock.push(stock);
        }
    }
    Ok(providers)
}
