//! Claims: the handle other services use. A claim is checked and written in the caller's transaction, so two
//! schedulers can never hand out the same space.

use base::{Error, Kind, Result, Timestamp};
use store::{Select, Tx, params};

use crate::Placement;

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
        ((self.total.saturating_sub(self.reserved)) as f64 * self.allocation_ratio) as u64
    }
    /// Whether `amount` more fits beside `used`, in units and in all.
    pub fn fits(&self, used: u64, amount: u64) -> bool {
        let unit = amount >= self.min_unit && amount <= self.max_unit && amount.is_multiple_of(self.step_size.max(1));
        unit && used.saturating_add(amount) <= self.capacity()
    }
}

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
        self.core.store.read(|tx| self.candidates_in(tx, wanted, limit)).await
    }

    /// Providers on which everything fits now, in the order of their names.
    pub fn candidates_in(&self, tx: &Tx, wanted: &Requirements, limit: usize) -> Result<Vec<Candidate>> {
        let mut select = Select::new("SELECT uuid, name FROM provider");
        if let Some(only) = &wanted.in_providers {
            select = select.in_list("uuid", only.iter().map(String::as_str));
        }
        for name in &wanted.required {
            select = select
                .cond("EXISTS (SELECT 1 FROM provider_trait t WHERE t.provider = provider.uuid AND t.trait = ?)", [name.as_str().into()]);
        }
        for name in &wanted.forbidden {
            select = select.cond(
                "NOT EXISTS (SELECT 1 FROM provider_trait t WHERE t.provider = provider.uuid AND t.trait = ?)",
                [name.as_str().into()],
            );
        }
        let providers = select.order(&[("name", store::Dir::Asc)]).fetch(tx, |row| Ok((row.text(0)?, row.text(1)?)))?;
        let mut candidates = Vec::new();
        for (provider, name) in providers {
            let mut stock = Vec::with_capacity(wanted.resources.len());
            for (class, amount) in &wanted.resources {
                match stock_in(tx, &provider, class, "")? {
                    Some(found) if found.inventory.fits(found.used, *amount) => stock.push(found),
                    _ => break,
                }
            }
            if stock.len() == wanted.resources.len() {
                candidates.push(Candidate { provider, name, stock });
                if candidates.len() == limit {
                    break;
                }
            }
        }
        Ok(candidates)
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
        tx.execute("DELETE FROM allocation WHERE consumer = ?1", params![consumer])?;
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
        tx.execute("UPDATE provider SET generation = generation + 1, updated_at = ?2 WHERE uuid = ?1", params![provider, now])?;
        Ok(())
    }

    /// Takes back everything the consumer had. Nothing to take back is fine.
    pub fn release_in(&self, tx: &Tx, consumer: &str) -> Result<()> {
        tx.execute(
            "UPDATE provider SET generation = generation + 1, updated_at = ?2 WHERE uuid IN (SELECT provider FROM allocation WHERE consumer = ?1)",
            params![consumer, Timestamp::now()],
        )?;
        tx.execute("DELETE FROM allocation WHERE consumer = ?1", params![consumer])?;
        tx.execute("DELETE FROM consumer WHERE uuid = ?1", params![consumer])?;
        Ok(())
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
        tx.execute("DELETE FROM provider WHERE uuid = ?1", params![provider]).map(drop)
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
    if rows > 0 {
        let raised = "UPDATE provider SET generation = generation + 1, updated_at = ?2 WHERE uuid = ?1";
        tx.execute(raised, params![provider, Timestamp::now()])?;
    }
    Ok(())
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
    if changed {
        tx.execute("UPDATE provider SET generation = generation + 1, updated_at = ?2 WHERE uuid = ?1", params![uuid, now])?;
    }
    Ok(())
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
