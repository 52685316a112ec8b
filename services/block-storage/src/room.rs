//! Room for volumes. What a place has is an inventory in placement, and what a volume may come to take of it is an allocation there: decision 32.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Kind, Result};
use placement::{Holding, Inventory, Stock};
use store::Tx;

use crate::Volumes;
use crate::capabilities::Pool;
use crate::db::hosts::{self, Host};
use crate::db::pools::{self, KnownPool, Terms};
use crate::db::{snapshots, visits, volumes as db};
use crate::model::Volume;

/// The class of inventories of volumes, in GiB. One of its own: what is of the class `DISK_GB` is offered to servers.
pub const CLASS: &str = "CUSTOM_VOLUME_GB";
/// The type of consumers.
const KIND: &str = "VOLUME";
/// The largest unit: a volume that is thin may be larger than where it is.
const LARGEST: u64 = i32::MAX as u64;

/// What placement has of some places.
pub struct Stocks(HashMap<String, Stock>);

impl Stocks {
    /// Nothing, of a place that placement does not know.
    pub fn of(&self, pool: &Pool) -> Stock {
        self.0.get(pool.id()).cloned().unwrap_or_else(|| Stock { inventory: Inventory::of(CLASS, 0, 1.0), used: 0 })
    }
}

/// GiB that a volume may come to take: all of itself, and of each snapshot what it is frozen in.
pub fn weight_in(tx: &Tx, volume: &Volume) -> Result<i64> {
    Ok(volume.size.saturating_add(snapshots::snapshots_size_in(tx, &volume.id)?))
}

/// The places (ids) where a volume is, and is about to be.
fn places_in(tx: &Tx, volume: &Volume) -> Result<BTreeSet<String>> {
    if let Some(storage) = &volume.storage {
        return Ok(BTreeSet::from([storage.clone()]));
    }
    let to = volume.doc.parcel.as_ref().map(|parcel| parcel.to.clone());
    Ok(volume.host_id.clone().into_iter().chain(to).chain(visits::visit_fetch_in(tx, &volume.id)?).collect())
}

/// What a place offers. It has as many GiB as it says; the rest follows the settings, except for what somebody has changed in placement since
/// it was made of the settings `before`.
fn offered(total: u64, had: Option<Inventory>, terms: Terms, before: Terms) -> Inventory {
    let Some(had) = had else {
        let (reserved, allocation_ratio) = (terms.reserved_of(total), terms.ratio);
        return Inventory { reserved, max_unit: LARGEST, ..Inventory::of(CLASS, total, allocation_ratio) };
    };
    let reserved = if had.reserved == before.reserved_of(had.total) { terms.reserved_of(total) } else { had.reserved };
    let allocation_ratio = if had.allocation_ratio == before.ratio { terms.ratio } else { had.allocation_ratio };
    Inventory { total, reserved, allocation_ratio, ..had }
}

impl Volumes {
    fn terms(&self) -> Terms {
        let config = &self.core.config;
        Terms {
            ratio: config.float("block_storage.max_over_subscription_ratio"),
            reserved: config.int("block_storage.reserved_percentage"),
        }
    }

    /// Makes the places of a host known to placement, or brings what it knows in line. Answers those (ids) that are new.
    pub(crate) fn pools_sync_in(&self, tx: &Tx, host: &Host) -> Result<Vec<String>> {
        let terms = self.terms();
        let mut new = Vec::new();
        for pool in Pool::of(host) {
            let known = pools::pool_fetch_in(tx, pool.id())?;
            let provider = known.as_ref().map_or_else(base::id::uuid, |known| known.provider.clone());
            let (name, above) = match pool.storage() {
                Some(storage) => (format!("shared-storage-{storage}"), None),
                None => (pool.full(), Some((host.id.as_str(), host.name.as_str()))),
            };
            self.placement.provider_keep_in(tx, &provider, &name, above)?;
            let before = known.as_ref().map_or(terms, |known| known.terms);
            self.placement.inventory_keep_in(tx, &provider, CLASS, |had| offered(pool.total(), had, terms, before))?;
            if known.is_none() {
                new.push(pool.id().to_string());
            }
            if known.is_none_or(|known| known.terms != terms) {
                pools::pool_put_in(tx, &KnownPool { id: pool.id().to_string(), provider, terms })?;
            }
        }
        Ok(new)
    }

    /// Makes known to placement what it has not heard of: places that are there, and the volumes in them, whatever room there is.
    pub(crate) fn pools_adopt_in(&self, tx: &Tx) -> Result<()> {
        let mut new = Vec::new();
        for host in hosts::host_list_in(tx)? {
            new.extend(self.pools_sync_in(tx, &host)?);
        }
        if new.is_empty() {
            return Ok(());
        }
        for volume in db::volumes_placed_in(tx)? {
            if places_in(tx, &volume)?.iter().any(|place| new.contains(place)) {
                self.settle_in(tx, &volume)?;
            }
        }
        Ok(())
    }

    /// Has placement promise a volume what it may come to take wherever its row says that it is or will be: nothing, if that is nowhere.
    /// `NoCapacity` when there is no room, and then nothing is changed.
    pub(crate) fn promise_in(&self, tx: &Tx, volume: &Volume) -> Result<()> {
        self.holding_in(tx, volume, |holding| self.placement.hold_in(tx, holding))
    }

    /// As [`Volumes::promise_in`], of what is so already, or has become less: never refused.
    pub(crate) fn settle_in(&self, tx: &Tx, volume: &Volume) -> Result<()> {
        self.holding_in(tx, volume, |holding| self.placement.adopt_in(tx, holding))
    }

    fn holding_in(&self, tx: &Tx, volume: &Volume, give: impl FnOnce(&Holding) -> Result<()>) -> Result<()> {
        let amount = u64::try_from(weight_in(tx, volume)?).unwrap_or(0);
        let mut amounts = BTreeMap::new();
        for place in places_in(tx, volume)? {
            // One that has never said what it has can promise nothing.
            if let Some(known) = pools::pool_fetch_in(tx, &place)? {
                amounts.insert(known.provider, amount);
            }
        }
        let (project_id, user_id) = (&volume.project_id, &volume.user_id);
        give(&Holding { consumer: &volume.id, kind: KIND, project_id, user_id, class: CLASS, amounts: &amounts })
    }

    /// What placement has of places.
    pub(crate) fn stocks_in(&self, tx: &Tx, of: &[Pool]) -> Result<Stocks> {
        let wanted: BTreeSet<&str> = of.iter().map(Pool::id).collect();
        let known: Vec<KnownPool> = pools::pool_list_in(tx)?.into_iter().filter(|known| wanted.contains(known.id.as_str())).collect();
        let providers: Vec<String> = known.iter().map(|known| known.provider.clone()).collect();
        let mut stocks = self.placement.stocks_in(tx, CLASS, &providers)?;
        Ok(Stocks(known.into_iter().filter_map(|known| Some((known.id, stocks.remove(&known.provider)?))).collect()))
    }

    /// Forgets the place of a host that is gone for good, and shared storage that nobody who is left sees and nothing is in.
    pub(crate) fn pools_forget_in(&self, tx: &Tx, host_id: &str) -> Result<()> {
        let seen: BTreeSet<String> = hosts::host_list_in(tx)?.into_iter().filter_map(|host| Some(host.info.storage?.id)).collect();
        let kept: BTreeSet<String> = db::volumes_stored_in(tx)?.into_iter().filter_map(|volume| volume.storage).collect();
        let hosts: BTreeSet<String> = hosts::host_list_in(tx)?.into_iter().map(|host| host.id).collect();
        for known in pools::pool_list_in(tx)? {
            let stays = seen.contains(&known.id) || kept.contains(&known.id) || hosts.contains(&known.id);
            if known.id != host_id && stays {
                continue;
            }
            match self.placement.provider_forget_in(tx, &known.provider) {
                // Somebody else has something of storage that nobody sees: that is no reason for a host to stay.
                Err(error) if error.is(Kind::Conflict) && known.id != host_id => continue,
                forgotten => forgotten?,
            }
            pools::pool_drop_in(tx, &known.id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASS, Inventory, LARGEST, Terms, offered};

    #[test]
    fn an_inventory_follows_the_host_and_the_settings_but_not_over_an_administrators_word() {
        let terms = |ratio, reserved| Terms { ratio, reserved };
        let first = offered(100, None, terms(20.0, 5), terms(20.0, 5));
        assert_eq!(first, Inventory { reserved: 5, max_unit: LARGEST, ..Inventory::of(CLASS, 100, 20.0) });
        let larger = offered(200, Some(first.clone()), terms(20.0, 5), terms(20.0, 5));
        assert_eq!((larger.total, larger.reserved, larger.allocation_ratio), (200, 10, 20.0));
        let settings = offered(200, Some(larger.clone()), terms(3.0, 10), terms(20.0, 5));
        assert_eq!((settings.reserved, settings.allocation_ratio), (20, 3.0));
        let by_hand = Inventory { reserved: 7, allocation_ratio: 2.0, step_size: 2, ..larger };
        let held = offered(300, Some(by_hand.clone()), terms(3.0, 10), terms(20.0, 5));
        assert_eq!(held, Inventory { total: 300, ..by_hand });
        assert_eq!(offered(3, None, terms(1.0, 10), terms(1.0, 10)).reserved, 1, "a part of one counts whole");
    }
}
