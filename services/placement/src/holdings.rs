//! What services promise of single providers, wherever in the forest these are; and providers that services keep for what they have.

use std::collections::{BTreeMap, HashMap, HashSet};

use base::{Error, Kind, Result, Timestamp};
use store::{Tx, params};

use crate::claims::{
    FEW, Inventory, Stock, allocations_withdraw_in, amount_value, inventories_in, inventory_put_in, provider_raise_in, stock_in,
};
use crate::groups::held_in;
use crate::index::{Provider, providers_in};
use crate::{Placement, change, names};

/// What a consumer takes, of one provider or of several that have nothing to do with each other.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    pub consumer: &'a str,
    /// The consumer's type, such as `VOLUME`.
    pub kind: &'a str,
    pub project_id: &'a str,
    pub user_id: &'a str,
    pub class: &'a str,
    /// Of each provider, by its id.
    pub amounts: &'a BTreeMap<String, u64>,
}

impl Placement {
    /// Gives a consumer exactly this, in place of whatever it had. `NoCapacity` when it does not fit, and nothing is changed then; what the
    /// consumer has it may keep, however little there is by now. Writes nothing when nothing differs.
    pub fn hold_in(&self, tx: &Tx, holding: &Holding) -> Result<()> {
        let held = held_in(tx, holding.consumer)?;
        for (provider, amount) in holding.amounts {
            // Two that ask one provider must see each other's rows. In the order of ids, so that no two wait for each other.
            tx.lock(&format!("placement-provider-{provider}"))?;
            let had = held.get(&(provider.clone(), holding.class.to_string())).copied().unwrap_or_default();
            let fits = || {
                Ok::<_, Error>(stock_in(tx, provider, holding.class, holding.consumer)?.is_some_and(|s| s.inventory.fits(s.used, *amount)))
            };
            if *amount > had && !fits()? {
                let what = format!("Unable to allocate {amount} of {} on resource provider {provider}.", holding.class);
                return Err(Error::new(Kind::NoCapacity, what));
            }
        }
        self.adopt_in(tx, holding)
    }

    /// As [`Placement::hold_in`], of what is there already: however little room there is.
    pub fn adopt_in(&self, tx: &Tx, holding: &Holding) -> Result<()> {
        let Holding { consumer, kind, project_id, user_id, class, amounts } = *holding;
        if amounts.is_empty() {
            return self.release_in(tx, consumer);
        }
        let wanted = amounts.iter().map(|(provider, amount)| ((provider.clone(), class.to_string()), *amount)).collect();
        let owner = "SELECT 1 FROM consumer WHERE uuid = ?1 AND project_id = ?2 AND user_id = ?3";
        let owned = tx.query_opt(owner, params![consumer, project_id, user_id], |r| r.int(0))?.is_some();
        if owned && held_in(tx, consumer)? == wanted {
            return Ok(());
        }
        let now = Timestamp::now();
        allocations_withdraw_in(tx, consumer)?;
        tx.execute(
            "INSERT INTO consumer (uuid, project_id, user_id, kind, generation, created_at) VALUES (?1, ?2, ?3, ?4, 1, ?5)
             ON CONFLICT (uuid) DO UPDATE SET project_id = excluded.project_id, user_id = excluded.user_id, generation = consumer.generation + 1",
            params![consumer, project_id, user_id, kind, now],
        )?;
        for (provider, amount) in amounts {
            tx.execute(
                "INSERT INTO allocation (consumer, provider, class, used, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![consumer, provider, class, amount_value(*amount)?, now],
            )?;
            provider_raise_in(tx, provider, now)?;
        }
        Ok(())
    }

    /// What these providers have of a class and what is used of it, as this transaction sees it: out of the index, but for what has changed
    /// since. Those that have nothing of it are left out.
    pub fn stocks_in(&self, tx: &Tx, class: &str, providers: &[String]) -> Result<HashMap<String, Stock>> {
        let version = self.index.get().version();
        let changed = version.map(|version| change::since_in(tx, version)).transpose()?;
        if changed.as_ref().is_none_or(|changed| changed.len() > FEW) {
            self.index.fell_behind();
        }
        let changed: Option<HashSet<String>> = changed.map(|changed| changed.into_iter().collect());
        let (fresh, known): (Vec<String>, Vec<String>) =
            providers.iter().cloned().partition(|uuid| changed.as_ref().is_none_or(|changed| changed.contains(uuid)));
        let of = |provider: Provider| Some((provider.uuid, provider.stock.into_iter().find(|s| s.inventory.class == class)?));
        let mut found: HashMap<String, Stock> = providers_in(tx, Some(&fresh))?.into_iter().filter_map(of).collect();
        let index = self.index.get();
        found.extend(known.into_iter().filter_map(|uuid| {
            let stock = index.stock_of(&uuid, class)?;
            Some((uuid, stock))
        }));
        Ok(found)
    }

    /// Makes a provider that a service keeps, or gives it its name. `above`: the host that it is part of, by id and name, which is made too
    /// if it is not there yet; none: it is a root. Where a provider is that is there already is not changed. A name that another one has is
    /// followed by the id.
    pub fn provider_keep_in(&self, tx: &Tx, uuid: &str, name: &str, above: Option<(&str, &str)>) -> Result<()> {
        let root = match above {
            Some((above, called)) => {
                keep_in(tx, above, called, None, above)?;
                tx.query_one("SELECT root FROM provider WHERE uuid = ?1", params![above], |r| r.text(0))?
            }
            None => uuid.to_string(),
        };
        if keep_in(tx, uuid, name, above.map(|(above, _)| above), &root)? {
            return Ok(());
        }
        let name = free_in(tx, uuid, name)?;
        let renamed = tx.execute("UPDATE provider SET name = ?2 WHERE uuid = ?1 AND name <> ?2", params![uuid, name])?;
        if renamed > 0 { provider_raise_in(tx, uuid, Timestamp::now()) } else { Ok(()) }
    }

    /// Sets what a provider has of a class, from what it had. The class is made if it is a custom one.
    pub fn inventory_keep_in(
        &self,
        tx: &Tx,
        provider: &str,
        class: &str,
        change: impl FnOnce(Option<Inventory>) -> Inventory,
    ) -> Result<()> {
        let now = Timestamp::now();
        if names::is_custom(class) {
            tx.execute("INSERT INTO custom_class (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![class, now])?;
        }
        let had = inventories_in(tx, provider)?.into_iter().find(|i| i.class == class);
        if inventory_put_in(tx, provider, &change(had))? { provider_raise_in(tx, provider, now) } else { Ok(()) }
    }
}

/// A name for a provider that no other one has.
fn free_in(tx: &Tx, uuid: &str, name: &str) -> Result<String> {
    let taken = tx.query_opt("SELECT 1 FROM provider WHERE name = ?1 AND uuid <> ?2", params![name, uuid], |r| r.int(0))?;
    Ok(taken.map_or_else(|| name.to_string(), |_| format!("{name} ({uuid})")))
}

/// Makes a provider; says whether it was not there.
fn keep_in(tx: &Tx, uuid: &str, name: &str, parent: Option<&str>, root: &str) -> Result<bool> {
    let name = free_in(tx, uuid, name)?;
    let made = tx.execute(
        "INSERT INTO provider (uuid, name, generation, parent, root, created_at, updated_at) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5) \
         ON CONFLICT (uuid) DO NOTHING",
        params![uuid, name, parent.map(str::to_string), root, Timestamp::now()],
    )? > 0;
    if made {
        change::note_in(tx, uuid)?;
    }
    Ok(made)
}
