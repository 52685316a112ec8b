//! Encrypted traffic between hosts: the setting, what it takes from networks' MTU, and what hosts are told of it.
//!
//! The configuration of the controller that started last holds. It is kept in the store, so that all documents say the same,
//! whichever controller makes them.

use base::{Config, Context, Result};
use rpc::network::{Encryption, Peer};
use store::{Tx, params};

use crate::networks::Net;
use crate::row;
use crate::{Network, hosts};

/// What is configured while traffic is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Setting {
    port: i64,
    /// MTU of the underlying network.
    mtu: i64,
}

impl Setting {
    fn of(config: &Config) -> Option<Setting> {
        let number = |name: &str| i64::try_from(config.int(name)).unwrap_or_default();
        config.flag("network.encryption").then(|| Setting { port: number("network.encryption_port"), mtu: number("network.mtu") })
    }

    fn stored(tx: &Tx) -> Result<Option<Setting>> {
        tx.query_opt("SELECT port, mtu FROM network_encryption", params![], |row| Ok(Setting { port: row.int(0)?, mtu: row.int(1)? }))
    }
}

/// What tunnels take from the underlying network's MTU, in bytes: Ethernet, IP, UDP and VXLAN headers; WireGuard adds IP and UDP
/// headers and 32 bytes of its own.
fn overhead(tx: &Tx, encrypted: bool) -> Result<i64> {
    let v6 = tx.query_opt("SELECT 1 FROM network_host WHERE address LIKE '%:%' LIMIT 1", params![], |row| row.int(0))?.is_some();
    let ip = if v6 { 40 } else { 20 };
    let vxlan = 14 + ip + 8 + 8;
    Ok(if encrypted { vxlan + ip + 8 + 32 } else { vxlan })
}

/// The largest MTU that overlay networks may have.
pub fn greatest(net: &Network, tx: &Tx) -> Result<i64> {
    Ok(net.mtu() - overhead(tx, net.core().config.flag("network.encryption"))?)
}

pub fn is_on(tx: &Tx) -> Result<bool> {
    Ok(Setting::stored(tx)?.is_some())
}

/// What a host is told.
pub fn document(tx: &Tx, host_id: &str) -> Result<Option<Encryption>> {
    let Some(setting) = Setting::stored(tx)? else { return Ok(None) };
    let sql = "SELECT address, tunnel_key FROM network_host WHERE id <> ?1 AND address <> '' AND tunnel_key <> '' ORDER BY id";
    let others = tx.query(sql, params![host_id], |row| Ok((row.text(0)?, row.text(1)?)))?;
    let number = |n: i64| u32::try_from(n).unwrap_or_default();
    Ok(Some(Encryption {
        port: u16::try_from(setting.port).unwrap_or_default(),
        mtu: number(setting.mtu),
        largest: number(setting.mtu - overhead(tx, false)?),
        peers: others.into_iter().filter_map(|(address, key)| Some(Peer { address: address.parse().ok()?, key })).collect(),
    }))
}

/// Puts what is configured into force. Networks that have the greatest MTU, or more than fits now, follow it.
pub async fn settle(net: &Network) -> Result<()> {
    let this = net.clone();
    net.core().store.write(move |tx| settle_in(&this, tx)).await
}

fn settle_in(net: &Network, tx: &Tx) -> Result<()> {
    let (before, wanted) = (Setting::stored(tx)?, Setting::of(&net.core().config));
    if before == wanted {
        return Ok(());
    }
    tx.execute("DELETE FROM network_encryption", params![])?;
    if let Some(setting) = &wanted {
        tx.execute("INSERT INTO network_encryption (port, mtu) VALUES (?1, ?2)", params![setting.port, setting.mtu])?;
    }
    let followed = match before {
        Some(setting) => setting.mtu - overhead(tx, true)?,
        None => net.mtu() - overhead(tx, false)?,
    };
    let greatest = greatest(net, tx)?;
    let ctx = Context::system(format!("req-{}", base::id::uuid()));
    let sql = "provider_network_type = 'vxlan' AND (mtu > ?1 OR mtu = ?2)";
    for mut network in row::list::<Net>(tx, sql, params![greatest, followed])? {
        network.mtu = greatest;
        row::update(tx, &mut network)?;
        net.recorded(tx, &ctx, "network.update.end", &network)?;
    }
    hosts::touch_all(net, tx)
}
