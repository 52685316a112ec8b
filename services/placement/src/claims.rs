//! Claims: the handle other services use. A claim is checked and written in the caller's transaction, so two
//! schedulers can never hand out the same space.

use std::collections::{BTreeSet, HashMap, HashSet};

use base::{Error, Kind, Result, Timestamp};
use store::{Select, Tx, params};

use crate::index::providers_in;
use crate::{Placement, change};

/// What a provider has of one resource class.
#[derive(Clone, Debug, PartialEq)]
pub struct Inventory {
    pub class: String,
    pub total: u64,
    pub reserved: u64,
    pub min_unit: u64,
    pub max_unit: u64,
    pub step_size: u64,
    pub allocation_ratio: f64,
}

impl Inventory {
    /// An inventory without reservation, in steps of one.
    pub fn of(class: &str, total: u64, allocation_ratio: f64) -> Self {
        Inventory { class: class.into(), total, reserved: 0, min_unit: 1, max_unit: total.max(1), step_size: 1, allocation_ratio }
    }
    /// What may be handed out altogether.
    pub fn capacity(&self) -> u64 {
        capacity(self.total, self.reserved, self.allocation_ratio)
    }
    /// Whether `amount` may be asked for at once.
    pub fn fits_unit(&self, amount: u64) -> bool {
        amount >= self.min_unit && amount <= self.max_unit && amount.is_multiple_of(self.step_size.max(1))
    }
    /// Whether `amount` more fits beside `used`, in units and in all.
    pub fn fits(&self, used: u64, amount: u64) -> bool {
        self.fits_unit(amount) && used.saturating_add(amount) <= self.capacity()
    }
}

/// What may be handed out altogether.
pub(crate) fn capacity(total: u64, reserved: u64, ratio: f64) -> u64 {
    (total.saturating_sub(reserved) as f64 * ratio) as u64
}

/// With more changes than these read by a search, the index is brought up to date.
const FEW: usize = 16;

/// What a scheduler looks for.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    pub resources: Vec<(String, u64)>,
    pub required: Vec<String>,
    pub forbidden: Vec<String>,
    /// Only these providers, when given.
    pub in_providers: Option<Vec<String>>,
}

/// A provider on which everything fits, with what it has and what is used of each class asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub provider: String,
    pub name: String,
    pub stock: Vec<Stock>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    pub inventory: Inventory,
    pub used: u64,
}

impl Placement {
    /// Creates the provider or brings it in line: these inventories, at least these traits, and none of those that it lacks. An
    /// inventory of nothing goes, as soon as nothing of it is used. Writes nothing when nothing differs.
    pub async fn provider_sync(
        &self,
        uuid: &str,
        name: &str,
        inventories: &[Inventory],
        traits: &[String],
        lacks: &[String],
    ) -> Result<()> {
        let (uuid, name, inventories) = (uuid.to_string(), name.to_string(), inventories.to_vec());
        let (traits, lacks) = (traits.to_vec(), lacks.to_vec());
        self.core.store.write(move |tx| provider_sync_in(tx, &uuid, &name, &inventories, &traits, &lacks)).await
    }

    pub async fn candidates(&self, wanted: &Requirements, limit: usize) -> Result<Vec<Candidate>> {
        self.index.catch_up(&self.core.store).await?;
        self.core.store.read(|tx| self.candidates_in(tx, wanted, limit)).await
    }

    /// Providers on which everything fits now, as this transaction sees it, in the order of their names.
    pub fn candidates_in(&self, tx: &Tx, wanted: &Requirements, limit: usize) -> Result<Vec<Candidate>> {
        let mut found = self.fitting_in(tx, wanted, limit)?;
        let uuids = found.keys().map(String::as_str);
        let named = Select::new("SELECT uuid, name FROM provider").in_list("uuid", uuids).order(&[("name", store::Dir::Asc)]);
        let named = named.fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))?;
        Ok(named.into_iter().filter_map(|(provider, name)| Some(Candidate { stock: found.remove(&provider)?, provider, name })).collect())
    }

    /// The index, and the store for those providers that have changed since: the transaction may have changed some itself.
    fn fitting_in(&self, tx: &Tx, wanted: &Requirements, limit: usize) -> Result<HashMap<String, Vec<Stock>>> {
        let version = self.index.get().version();
        let changed = version.map(|version| change::since_in(tx, version)).transpose()?;
        let fresh = providers_in(tx, changed.as_deref())?;
        if fresh.len() > FEW {
            self.index.fell_behind();
        }
        let index = self.index.get();
        let only = wanted.in_providers.as_ref().map(|only| only.iter().map(String::as_str).collect::<HashSet<_>>());
        let asked = |uuid: &str| only.as_ref().is_none_or(|only| only.contains(uuid));
        let met = fresh.iter().filter(|p| asked(&p.uuid)).filter_map(|p| Some((p.uuid.clone(), wanted.met_by(p)?)));
        let mut found: HashMap<String, Vec<Stock>> = met.take(limit).collect();
        let skipped: HashSet<u32> = changed.iter().flatten().filter_map(|uuid| index.number(uuid)).collect();
        let (Some(_), Some(terms)) = (version, index.terms(wanted)) else { return Ok(found) };
        match only {
            Some(only) => {
                let numbers = only.iter().filter_map(|uuid| index.number(uuid));
                found.extend(numbers.filter(|n| !skipped.contains(n)).filter_map(|n| index.meets(n, &terms)));
            }
            None => {
                let met = index.matching(&terms).filter(|n| !skipped.contains(n)).filter_map(|n| index.meets(n, &terms));
                found.extend(met.take(limit - found.len()));
            }
        }
        Ok(found)
    }

    /// Gives `resources` of one provider to the consumer, in place of whatever it had there and elsewhere.
    /// `NoCapacity` when they do not fit.
    pub fn claim_in(
        &self,
        tx: &Tx,
        consumer: &str,
        project_id: &str,
        user_id: &str,
        provider: &str,
        resources: &[(String, u64)],
    ) -> Result<()> {
        // Two claims on one provider must see each other's rows.
        tx.lock(&format!("placement-provider-{provider}"))?;
        for (class, amount) in resources {
            let fits = stock_in(tx, provider, class, consumer)?.is_some_and(|s| s.inventory.fits(s.used, *amount));
            if !fits {
                return Err(Error::new(
                    Kind::NoCapacity,
                    format!("Unable to allocate {amount} of {class} on resource provider {provider}."),
                ));
            }
        }
        let now = Timestamp::now();
        allocations_withdraw_in(tx, consumer)?;
        tx.execute(
            "INSERT INTO consumer (uuid, project_id, user_id, kind, generation, created_at) VALUES (?1, ?2, ?3, 'INSTANCE', 1, ?4)
             ON CONFLICT (uuid) DO UPDATE SET project_id = excluded.project_id, user_id = excluded.user_id, generation = consumer.generation + 1",
            params![consumer, project_id, user_id, now],
        )?;
        for (class, amount) in resources {
            tx.execute(
                "INSERT INTO allocation (consumer, provider, class, used, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![consumer, provider, class, amount_value(*amount)?, now],
            )?;
        }
        provider_raise_in(tx, provider, now)
    }

    /// Takes back everything the consumer had. Nothing to take back is fine.
    pub fn release_in(&self, tx: &Tx, consumer: &str) -> Result<()> {
        allocations_withdraw_in(tx, consumer)?;
        tx.execute("DELETE FROM consumer WHERE uuid = ?1", params![consumer]).map(drop)
    }

    /// Makes a provider a member of an aggregate. A provider that is not known here, or is a member already, is left alone.
    pub fn provider_aggregate_add_in(&self, tx: &Tx, provider: &str, aggregate: &str) -> Result<()> {
        let added = tx.execute(
            "INSERT INTO provider_aggregate (provider, aggregate) SELECT uuid, ?2 FROM provider WHERE uuid = ?1 ON CONFLICT DO NOTHING",
            params![provider, aggregate],
        )?;
        provider_changed_in(tx, provider, added)
    }

    pub fn provider_aggregate_remove_in(&self, tx: &Tx, provider: &str, aggregate: &str) -> Result<()> {
        let gone = tx.execute("DELETE FROM provider_aggregate WHERE provider = ?1 AND aggregate = ?2", params![provider, aggregate])?;
        provider_changed_in(tx, provider, gone)
    }

    /// Removes the provider of a host that is gone for good. `Conflict` while something is allocated there.
    pub fn provider_forget_in(&self, tx: &Tx, provider: &str) -> Result<()> {
        let used = tx.query_opt("SELECT 1 FROM allocation WHERE provider = ?1 LIMIT 1", params![provider], |r| r.int(0))?;
        if used.is_some() {
            return Err(Error::conflict(format!("Unable to delete resource provider {provider}: Resource provider has allocations.")));
        }
        for table in ["inventory", "provider_trait", "provider_aggregate"] {
            tx.execute(&format!("DELETE FROM {table} WHERE provider = ?1"), params![provider])?;
        }
        tx.execute("DELETE FROM provider WHERE uuid = ?1", params![provider])?;
        change::note_in(tx, provider)
    }

    /// Every consumer with allocations: what the leak check compares with servers.
    pub async fn consumers(&self) -> Result<Vec<String>> {
        self.core
            .store
            .read(|tx| tx.query("SELECT DISTINCT consumer FROM allocation ORDER BY consumer", params![], |row| row.text(0)))
            .await
    }
}

fn provider_changed_in(tx: &Tx, provider: &str, rows: u64) -> Result<()> {
    if rows > 0 { provider_raise_in(tx, provider, Timestamp::now()) } else { Ok(()) }
}

/// Something of the provider is no longer as it was.
pub(crate) fn provider_raise_in(tx: &Tx, provider: &str, now: Timestamp) -> Result<()> {
    tx.execute("UPDATE provider SET generation = generation + 1, updated_at = ?2 WHERE uuid = ?1", params![provider, now])?;
    change::note_in(tx, provider)
}

/// Takes back all that a consumer has; says of whom. That leaves the providers' generations as they are, as upstream: what is free now
/// can break nobody's plans.
pub(crate) fn allocations_withdraw_in(tx: &Tx, consumer: &str) -> Result<BTreeSet<String>> {
    let had = tx.query("DELETE FROM allocation WHERE consumer = ?1 RETURNING provider", params![consumer], |r| r.text(0))?;
    let had: BTreeSet<String> = had.into_iter().collect();
    had.iter().try_for_each(|provider| change::note_in(tx, provider))?;
    Ok(had)
}

/// What a provider has of a class and how much of it is used by others than `except`.
pub(crate) fn stock_in(tx: &Tx, provider: &str, class: &str, except: &str) -> Result<Option<Stock>> {
    tx.query_opt(
        "SELECT i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio,
                CAST((SELECT COALESCE(SUM(a.used), 0) FROM allocation a WHERE a.provider = i.provider AND a.class = i.class AND a.consumer <> ?3) AS BIGINT)
         FROM inventory i WHERE i.provider = ?1 AND i.class = ?2",
        params![provider, class, except],
        |row| {
            let inventory = Inventory {
                class: class.to_string(),
                total: row.count(0)?,
                reserved: row.count(1)?,
                min_unit: row.count(2)?,
                max_unit: row.count(3)?,
                step_size: row.count(4)?,
                allocation_ratio: row.real(5)?,
            };
            Ok(Stock { inventory, used: row.count(6)? })
        },
    )
}

fn provider_sync_in(tx: &Tx, uuid: &str, name: &str, inventories: &[Inventory], traits: &[String], lacks: &[String]) -> Result<()> {
    let now = Timestamp::now();
    let mut changed = tx.execute(
        "INSERT INTO provider (uuid, name, generation, parent, root, created_at, updated_at) VALUES (?1, ?2, 0, NULL, ?1, ?3, ?3) ON CONFLICT (uuid) DO NOTHING",
        params![uuid, name, now],
    )? > 0;
    changed |= tx.execute("UPDATE provider SET name = ?2 WHERE uuid = ?1 AND name <> ?2", params![uuid, name])? > 0;
    for i in inventories {
        let gone = i.total == 0
            && tx.execute(
                "DELETE FROM inventory WHERE provider = ?1 AND class = ?2 \
                 AND NOT EXISTS (SELECT 1 FROM allocation a WHERE a.provider = ?1 AND a.class = ?2)",
                params![uuid, &i.class],
            )? > 0;
        let there = i.total > 0 || (!gone && stock_in(tx, uuid, &i.class, "")?.is_some());
        changed |= gone || (there && inventory_put_in(tx, uuid, i)?);
    }
    for name in lacks {
        changed |= tx.execute("DELETE FROM provider_trait WHERE provider = ?1 AND trait = ?2", params![uuid, name])? > 0;
    }
    for name in traits {
        changed |=
            tx.execute("INSERT INTO provider_trait (provider, trait) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![uuid, name])? > 0;
    }
    if changed { provider_raise_in(tx, uuid, now) } else { Ok(()) }
}

/// Writes an inventory; says whether that changed anything.
pub(crate) fn inventory_put_in(tx: &Tx, provider: &str, i: &Inventory) -> Result<bool> {
    let changed = tx.execute(
        "INSERT INTO inventory (provider, class, total, reserved, min_unit, max_unit, step_size, allocation_ratio, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (provider, class) DO UPDATE SET total = excluded.total, reserved = excluded.reserved, min_unit = excluded.min_unit,
             max_unit = excluded.max_unit, step_size = excluded.step_size, allocation_ratio = excluded.allocation_ratio, updated_at = excluded.updated_at
         WHERE inventory.total <> excluded.total OR inventory.reserved <> excluded.reserved OR inventory.allocation_ratio <> excluded.allocation_ratio
             OR inventory.min_unit <> excluded.min_unit OR inventory.max_unit <> excluded.max_unit OR inventory.step_size <> excluded.step_size",
        params![
            provider,
            &i.class,
            amount_value(i.total)?,
            amount_value(i.reserved)?,
            amount_value(i.min_unit)?,
            amount_value(i.max_unit)?,
            amount_value(i.step_size)?,
            i.allocation_ratio,
            Timestamp::now()
        ],
    )?;
    Ok(changed > 0)
}

/// All inventories of a provider, by class.
pub(crate) fn inventories_in(tx: &Tx, provider: &str) -> Result<Vec<Inventory>> {
    let sql =
        "SELECT class, total, reserved, min_unit, max_unit, step_size, allocation_ratio FROM inventory WHERE provider = ?1 ORDER BY class";
    tx.query(sql, params![provider], |row| {
        Ok(Inventory {
            class: row.text(0)?,
            total: row.count(1)?,
            reserved: row.count(2)?,
            min_unit: row.count(3)?,
            max_unit: row.count(4)?,
            step_size: row.count(5)?,
            allocation_ratio: row.real(6)?,
        })
    })
}

pub(crate) fn amount_value(amount: u64) -> Result<i64> {
    i64::try_from(amount).map_err(|_| Error::invalid(format!("{amount} is too large an amount.")))
}
