//! Claims: the handle other services use. A claim is checked and written in the caller's transaction, so two
//! schedulers can never hand out the same space.

use std::collections::{BTreeSet, HashMap, HashSet};

use base::{Error, Kind, Result, Timestamp};
use store::{Select, Tx, params};

use crate::groups::{self, Amounts, Group};
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
pub(crate) const FEW: usize = 16;

/// What a scheduler looks for.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    pub resources: Vec<(String, u64)>,
    pub required: Vec<String>,
    pub forbidden: Vec<String>,
    /// Only these providers, when given.
    pub in_providers: Option<Vec<String>>,
    /// What others of the provider's tree, or it, have to give besides.
    pub groups: Vec<Group>,
}

/// What a consumer takes. A provider and those below it give it together, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub consumer: &'a str,
    /// The consumer's type, such as `INSTANCE`.
    pub kind: &'a str,
    pub project_id: &'a str,
    pub user_id: &'a str,
    /// The root of a tree.
    pub provider: &'a str,
    /// Of that provider itself.
    pub resources: &'a [(String, u64)],
    pub groups: &'a [Group],
}

/// A provider below another one, and those below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Child {
    /// Follows the root's name and a colon.
    pub name: String,
    pub inventories: Vec<Inventory>,
    pub traits: Vec<String>,
    pub children: Vec<Child>,
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
    /// inventory of nothing goes at the next sync at which nothing of it is used. Writes nothing when nothing differs.
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
        let narrowed = if wanted.groups.is_empty() { None } else { Some(groups::narrowed_in(tx, wanted)?) };
        let mut found = self.fitting_in(tx, narrowed.as_ref().unwrap_or(wanted), limit)?;
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

    /// Keeps the providers below the root of a tree, of those whose names begin with its own: these are there, no others. One that is not
    /// wanted any more goes at the next sync at which nothing of it is used.
    pub async fn children_sync(&self, root: &str, name: &str, children: &[Child]) -> Result<()> {
        let (root, name, children) = (root.to_string(), name.to_string(), children.to_vec());
        self.core.store.write(move |tx| children_sync_in(tx, &root, &name, &children)).await
    }

    /// Gives what the claim says to its consumer, in place of whatever it had there and elsewhere. Answers which provider gives each group.
    /// `NoCapacity` when it does not fit; what the consumer has it may keep, however little there is by now.
    pub fn claim_in(&self, tx: &Tx, claim: &Claim) -> Result<Vec<String>> {
        let Claim { consumer, provider, .. } = *claim;
        // Two claims on one provider must see each other's rows.
        tx.lock(&format!("placement-provider-{provider}"))?;
        let held = groups::held_in(tx, consumer)?;
        for (class, amount) in claim.resources {
            let had = held.get(&(provider.to_string(), class.clone())).copied().unwrap_or_default();
            let fits = *amount <= had || stock_in(tx, provider, class, consumer)?.is_some_and(|s| s.inventory.fits(s.used, *amount));
            if !fits {
                return Err(Error::new(
                    Kind::NoCapacity,
                    format!("Unable to allocate {amount} of {class} on resource provider {provider}."),
                ));
            }
        }
        let given = groups::given_in(tx, provider, claim.resources, claim.groups, &held)?.ok_or_else(|| {
            let asked = claim.groups.iter().flat_map(|g| &g.resources).map(|(class, amount)| format!("{amount} of {class}"));
            let asked = asked.collect::<Vec<_>>().join(", ");
            Error::new(Kind::NoCapacity, format!("Unable to allocate {asked} in the tree of resource provider {provider}."))
        })?;
        let now = Timestamp::now();
        allocations_withdraw_in(tx, consumer)?;
        tx.execute(
            "INSERT INTO consumer (uuid, project_id, user_id, kind, generation, created_at) VALUES (?1, ?2, ?3, ?4, 1, ?5)
             ON CONFLICT (uuid) DO UPDATE SET project_id = excluded.project_id, user_id = excluded.user_id, generation = consumer.generation + 1",
            params![consumer, claim.project_id, claim.user_id, claim.kind, now],
        )?;
        let mut amounts = Amounts::new();
        let own = claim.resources.iter().map(|resource| (provider, resource));
        let others =
            claim.groups.iter().zip(&given).flat_map(|(group, by)| group.resources.iter().map(move |resource| (by.as_str(), resource)));
        for (by, (class, amount)) in own.chain(others).filter(|(_, (_, amount))| *amount > 0) {
            *amounts.entry((by.to_string(), class.clone())).or_default() += amount;
        }
        for ((by, class), amount) in &amounts {
            tx.execute(
                "INSERT INTO allocation (consumer, provider, class, used, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![consumer, by, class, amount_value(*amount)?, now],
            )?;
        }
        let providers: BTreeSet<&str> = given.iter().map(String::as_str).chain([provider]).collect();
        providers.into_iter().try_for_each(|by| provider_raise_in(tx, by, now))?;
        Ok(given)
    }

    /// The roots of the trees in which the consumer has anything.
    pub fn roots_of_in(&self, tx: &Tx, consumer: &str) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT p.root FROM allocation a JOIN provider p ON p.uuid = a.provider WHERE a.consumer = ?1 ORDER BY p.root";
        tx.query(sql, params![consumer], |r| r.text(0))
    }

    /// Whether the consumer has all that the claim asks for by now: making it can take nothing from others.
    pub fn holds_in(&self, tx: &Tx, claim: &Claim) -> Result<bool> {
        let held = groups::held_in(tx, claim.consumer)?;
        let had = |class: &String| held.get(&(claim.provider.to_string(), class.clone())).copied().unwrap_or_default();
        Ok(claim.resources.iter().all(|(class, amount)| *amount <= had(class))
            && groups::kept_in(tx, claim.provider, claim.resources, claim.groups, &held)?.is_some())
    }

    /// What the consumer has, by provider and resource class.
    pub fn held_in(&self, tx: &Tx, consumer: &str) -> Result<Amounts> {
        groups::held_in(tx, consumer)
    }

    /// Makes what a consumer has another one's, in place of what that has, or only what they have of one provider. It asks for nothing, so
    /// that it succeeds however little there is by now. A consumer that has nothing leaves the other one what it has.
    pub fn hand_over_in(&self, tx: &Tx, from: &str, to: &str, provider: Option<&str>) -> Result<()> {
        let had = "SELECT 1 FROM allocation WHERE consumer = ?1 AND provider = COALESCE(?2, provider) LIMIT 1";
        if tx.query_opt(had, params![from, provider], |r| r.int(0))?.is_none() {
            return Ok(());
        }
        tx.execute(
            "INSERT INTO consumer (uuid, project_id, user_id, kind, generation, created_at)
             SELECT ?2, project_id, user_id, kind, 1, created_at FROM consumer WHERE uuid = ?1
             ON CONFLICT (uuid) DO UPDATE SET generation = consumer.generation + 1",
            params![from, to],
        )?;
        let gone = "DELETE FROM allocation WHERE consumer = ?1 AND provider = COALESCE(?2, provider) RETURNING provider";
        for freed in tx.query(gone, params![to, provider], |r| r.text(0))? {
            change::note_in(tx, &freed)?;
        }
        tx.execute(
            "UPDATE allocation SET consumer = ?2 WHERE consumer = ?1 AND provider = COALESCE(?3, provider)",
            params![from, to, provider],
        )?;
        let empty = "DELETE FROM consumer WHERE uuid = ?1 AND NOT EXISTS (SELECT 1 FROM allocation a WHERE a.consumer = ?1)";
        tx.execute(empty, params![from]).map(drop)
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

    /// Removes the provider of a host, or of a part of it, that is gone for good, and those below a host. `Conflict` while something is allocated there.
    pub fn provider_forget_in(&self, tx: &Tx, provider: &str) -> Result<()> {
        let sql =
            "SELECT uuid FROM provider WHERE root = ?1 OR uuid = ?1 ORDER BY CASE WHEN uuid = ?1 THEN 1 ELSE 0 END, created_at DESC, uuid";
        for one in tx.query(sql, params![provider], |r| r.text(0))? {
            if provider_used_in(tx, &one)? {
                return Err(Error::conflict(format!("Unable to delete resource provider {one}: Resource provider has allocations.")));
            }
            provider_drop_in(tx, &one)?;
        }
        Ok(())
    }

    /// Every consumer with allocations: what the leak check compares with servers.
    pub async fn consumers(&self) -> Result<Vec<String>> {
        self.core
            .store
            .read(|tx| tx.query("SELECT DISTINCT consumer FROM allocation ORDER BY consumer", params![], |row| row.text(0)))
            .await
    }
}

fn provider_used_in(tx: &Tx, provider: &str) -> Result<bool> {
    Ok(tx.query_opt("SELECT 1 FROM allocation WHERE provider = ?1 LIMIT 1", params![provider], |r| r.int(0))?.is_some())
}

fn provider_drop_in(tx: &Tx, provider: &str) -> Result<()> {
    for table in ["inventory", "provider_trait", "provider_aggregate"] {
        tx.execute(&format!("DELETE FROM {table} WHERE provider = ?1"), params![provider])?;
    }
    tx.execute("DELETE FROM provider WHERE uuid = ?1", params![provider])?;
    change::note_in(tx, provider)
}

/// Gives a provider its new name, and those of its tree that are called after it. Says whether it had another one.
fn renamed_in(tx: &Tx, uuid: &str, name: &str) -> Result<bool> {
    let before = tx.query_opt("SELECT name FROM provider WHERE uuid = ?1 AND name <> ?2", params![uuid, name], |r| r.text(0))?;
    let Some(before) = before else { return Ok(false) };
    tx.execute("UPDATE provider SET name = ?2 WHERE uuid = ?1", params![uuid, name])?;
    let below = "SELECT uuid, name FROM provider WHERE root = ?1 AND uuid <> ?1";
    let children = tx.query(below, params![uuid], |r| Ok((r.text(0)?, r.text(1)?)))?;
    for (child, old) in children {
        if let Some(rest) = old.strip_prefix(&before).filter(|rest| rest.starts_with(':')) {
            tx.execute("UPDATE provider SET name = ?2 WHERE uuid = ?1", params![child, format!("{name}{rest}")])?;
            change::note_in(tx, &child)?;
        }
    }
    Ok(true)
}

/// Those below a root that are called after it.
struct Below<'a> {
    root: &'a str,
    prefix: String,
    /// Ids by name, of those that nobody has asked for yet.
    present: HashMap<String, String>,
}

impl Below<'_> {
    fn sync_in(&mut self, tx: &Tx, parent: &str, children: &[Child]) -> Result<()> {
        let now = Timestamp::now();
        for child in children {
            let name = format!("{}{}", self.prefix, child.name);
            let uuid = self.present.remove(&name).unwrap_or_else(base::id::uuid);
            let put = "INSERT INTO provider (uuid, name, generation, parent, root, created_at, updated_at) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5) \
                ON CONFLICT (uuid) DO UPDATE SET parent = excluded.parent WHERE provider.parent <> excluded.parent";
            if tx.execute(put, params![uuid, name, parent, self.root, now])? > 0 {
                change::note_in(tx, &uuid)?;
            }
            for custom in child.traits.iter().filter(|t| crate::names::is_custom(t)) {
                tx.execute("INSERT INTO custom_trait (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![custom, now])?;
            }
            provider_sync_in(tx, &uuid, &name, &child.inventories, &child.traits, &[])?;
            self.sync_in(tx, &uuid, &child.children)?;
        }
        Ok(())
    }

    /// Takes away one that nobody asked for, and leaves it without anything to give while something of it, or of one below it, is used.
    fn forget_in(&self, tx: &Tx, name: &str, uuid: &str) -> Result<()> {
        let has_children = tx.query_opt("SELECT 1 FROM provider WHERE parent = ?1 LIMIT 1", params![uuid], |r| r.int(0))?.is_some();
        if has_children || provider_used_in(tx, uuid)? {
            let none = inventories_in(tx, uuid)?.into_iter().map(|i| Inventory { total: 0, reserved: 0, ..i });
            return provider_sync_in(tx, uuid, name, &none.collect::<Vec<_>>(), &[], &[]);
        }
        provider_drop_in(tx, uuid)
    }
}

fn children_sync_in(tx: &Tx, root: &str, name: &str, children: &[Child]) -> Result<()> {
    let prefix = format!("{name}:");
    let sql = "SELECT uuid, name, parent FROM provider WHERE root = ?1 AND uuid <> ?1";
    let rows = tx.query(sql, params![root], |r| Ok((r.text(0)?, r.text(1)?, r.text(2)?)))?;
    let ours: Vec<(String, String, String)> = rows.into_iter().filter(|(_, name, _)| name.starts_with(&prefix)).collect();
    let present = ours.iter().map(|(uuid, name, _)| (name.clone(), uuid.clone())).collect();
    let mut below = Below { root, prefix, present };
    below.sync_in(tx, root, children)?;
    // Those that are farther from the root go first.
    let above: HashMap<&str, &str> = ours.iter().map(|(uuid, _, parent)| (uuid.as_str(), parent.as_str())).collect();
    let depth = |uuid: &str| std::iter::successors(above.get(uuid), |parent| above.get(**parent)).count();
    let mut gone: Vec<(&String, &String)> = below.present.iter().collect();
    gone.sort_by_key(|(_, uuid)| std::cmp::Reverse(depth(uuid)));
    gone.into_iter().try_for_each(|(name, uuid)| below.forget_in(tx, name, uuid))
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
    changed |= renamed_in(tx, uuid, name)?;
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
