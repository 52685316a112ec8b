//! Which addresses a port has. The unique key of the table decides between two that want the same.

use std::net::IpAddr;

use base::{Kind, Result};
use store::{Tx, params};

use crate::fault;
use crate::ip;
use crate::ports::FixedIp;
use crate::row::Resource;
use crate::subnets::Subnet;

/// One entry of a request's `fixed_ips`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    pub subnet_id: Option<String>,
    pub address: Option<IpAddr>,
}

/// The port that asks.
pub struct Asker<'a> {
    pub port_id: &'a str,
    pub network_id: &'a str,
    pub mac: &'a str,
    pub device_owner: &'a str,
}

/// Beyond this distance from a subnet's start no address is handed out by itself.
const FARTHEST: u128 = 1 << 62;

/// Routers take the address they are told, also where stations make their own.
pub fn is_router_port(device_owner: &str) -> bool {
    matches!(device_owner, "network:router_interface" | "network:router_gateway")
}

/// Gives a port the addresses it wishes for; without wishes one of each family, and always one in each subnet
/// whose stations make their own. `present` are kept where they fit a wish and given back where not.
pub fn settle(tx: &Tx, asker: &Asker, subnets: &[Subnet], wishes: Option<&[Wish]>, present: &[FixedIp]) -> Result<Vec<FixedIp>> {
    let mut plan: Vec<(&Subnet, Option<IpAddr>)> = Vec::new();
    let mut either: Vec<Vec<&Subnet>> = Vec::new();
    match wishes {
        Some(wishes) => {
            for wish in wishes {
                let wanted = resolve(asker, subnets, wish)?;
                if wanted.1.is_some() && plan.iter().any(|(subnet, at)| subnet.id() == wanted.0.id() && *at == wanted.1) {
                    return Err(fault::input(format!(
                        "Duplicate IP address {} for port",
                        wish.address.map(|a| a.to_string()).unwrap_or_default()
                    )));
                }
                plan.push(wanted);
            }
        }
        None => {
            let serves = |s: &&Subnet| s.service_types.is_empty() || s.service_types.iter().any(|t| t == asker.device_owner);
            let open: Vec<&Subnet> = subnets.iter().filter(serves).filter(|s| !s.is_auto()).collect();
            let (v4, v6): (Vec<_>, Vec<_>) = open.into_iter().partition(|s| s.ip_version == 4);
            either = vec![v4, v6].into_iter().filter(|family| !family.is_empty()).collect();
        }
    }
    if !is_router_port(asker.device_owner) {
        for subnet in subnets.iter().filter(|s| s.is_auto()) {
            if plan.iter().all(|(known, _)| known.id() != subnet.id()) {
                plan.push((subnet, ip::eui64(&subnet.cidr, asker.mac)));
            }
        }
    }
    // What is there already and fits stays: first where the address is named, then where only the subnet is.
    let mut left: Vec<FixedIp> = present.to_vec();
    let mut settled: Vec<Option<FixedIp>> = vec![None; plan.len()];
    for exact in [true, false] {
        for (slot, (subnet, at)) in settled.iter_mut().zip(&plan).filter(|(slot, (_, at))| slot.is_none() && at.is_some() == exact) {
            let fits = |f: &FixedIp| f.subnet_id == subnet.id() && at.is_none_or(|at| at == f.ip_address);
            if let Some(i) = left.iter().position(fits) {
                *slot = Some(left.remove(i));
            }
        }
    }
    for old in left {
        release_one(tx, &old)?;
    }
    let mut out = Vec::new();
    for (slot, (subnet, at)) in settled.into_iter().zip(plan) {
        out.push(match (slot, at) {
            (Some(kept), _) => kept,
            (None, Some(at)) => {
                if !take(tx, subnet, at, asker.port_id)? {
                    return Err(fault::address_in_use(asker.network_id, &at.to_string()));
                }
                FixedIp { subnet_id: subnet.id().into(), ip_address: at }
            }
            (None, None) => allocate(tx, &[subnet], asker)?,
        });
    }
    for family in either {
        out.push(allocate(tx, &family, asker)?);
    }
    Ok(out)
}

/// The subnet and, when it is settled already, the address a wish means.
fn resolve<'a>(asker: &Asker, subnets: &'a [Subnet], wish: &Wish) -> Result<(&'a Subnet, Option<IpAddr>)> {
    let subnet = match (&wish.subnet_id, wish.address) {
        (Some(id), _) => subnets.iter().find(|s| s.id() == id).ok_or_else(|| {
            let network = asker.network_id;
            fault::input(format!("Failed to create port on network {network}, because fixed_ips included invalid subnet {id}"))
        })?,
        (None, Some(at)) => subnets.iter().find(|s| s.cidr.contains(&at)).ok_or_else(|| {
            let message = format!("IP address {at} is not a valid IP for any of the subnets on the specified network.");
            fault::bad("InvalidIpForNetwork", message)
        })?,
        (None, None) => return Err(fault::input("IP allocation requires subnet_id or ip_address")),
    };
    let own = if is_router_port(asker.device_owner) || !subnet.is_auto() { None } else { ip::eui64(&subnet.cidr, asker.mac) };
    match (wish.address, own) {
        (Some(at), _) if !ip::is_usable(&subnet.cidr, at) => {
            Err(fault::bad("InvalidIpForSubnet", format!("IP address {at} is not a valid IP for the specified subnet.")))
        }
        (Some(at), Some(own)) if at != own => Err(fault::input(format!(
            "IPv6 address {at} can not be directly assigned to a port on subnet {} since the subnet is configured for automatic addresses",
            subnet.id()
        ))),
        (Some(at), _) => Ok((subnet, Some(at))),
        (None, own) => Ok((subnet, own)),
    }
}

/// A free address of the first subnet that has one.
fn allocate(tx: &Tx, subnets: &[&Subnet], asker: &Asker) -> Result<FixedIp> {
    for subnet in subnets {
        if is_router_port(asker.device_owner)
            && let Some(gateway) = subnet.gateway_ip.filter(|_| subnet.is_auto())
            && take(tx, subnet, gateway, asker.port_id)?
        {
            return Ok(FixedIp { subnet_id: subnet.id().into(), ip_address: gateway });
        }
        // Two controllers may look at the same moment; the loser looks again.
        for _ in 0..8 {
            let Some(at) = free(tx, subnet)? else { break };
            if take(tx, subnet, at, asker.port_id)? {
                return Ok(FixedIp { subnet_id: subnet.id().into(), ip_address: at });
            }
        }
    }
    Err(fault::addresses_exhausted(asker.network_id))
}

/// The address behind the highest one taken, so that a freed one rests a while; then the lowest gap.
fn free(tx: &Tx, subnet: &Subnet) -> Result<Option<IpAddr>> {
    let ranges: Vec<(i64, i64)> = subnet
        .allocation_pools
        .iter()
        .filter_map(|pool| {
            let (low, high) = (ip::place(&subnet.cidr, pool.start), ip::place(&subnet.cidr, pool.end).min(FARTHEST));
            Some((i64::try_from(low).ok()?, i64::try_from(high).ok()?)).filter(|(low, high)| low <= high)
        })
        .collect();
    let id = subnet.id();
    let at = |place: i64| ip::at_place(&subnet.cidr, u128::from(place.unsigned_abs()));
    for (low, high) in &ranges {
        let highest = tx.query_one(
            "SELECT MAX(place) FROM ip_allocation WHERE subnet_id = ?1 AND place >= ?2 AND place <= ?3",
            params![id, low, high],
            |row| row.opt_int(0),
        )?;
        match highest {
            None => return Ok(Some(at(*low))),
            Some(n) if n < *high => return Ok(Some(at(n + 1))),
            _ => {}
        }
    }
    for (low, high) in &ranges {
        let first = tx.query_opt("SELECT 1 FROM ip_allocation WHERE subnet_id = ?1 AND place = ?2", params![id, low], |row| row.int(0))?;
        if first.is_none() {
            return Ok(Some(at(*low)));
        }
        let gap = tx.query_opt(
            "SELECT a.place + 1 FROM ip_allocation a WHERE a.subnet_id = ?1 AND a.place >= ?2 AND a.place < ?3 AND NOT EXISTS \
             (SELECT 1 FROM ip_allocation b WHERE b.subnet_id = a.subnet_id AND b.place = a.place + 1) ORDER BY a.place LIMIT 1",
            params![id, low, high],
            |row| row.int(0),
        )?;
        if let Some(place) = gap {
            return Ok(Some(at(place)));
        }
    }
    Ok(None)
}

/// False when somebody has it.
fn take(tx: &Tx, subnet: &Subnet, at: IpAddr, port_id: &str) -> Result<bool> {
    let place = i64::try_from(ip::place(&subnet.cidr, at)).ok().filter(|p| u128::from(p.unsigned_abs()) <= FARTHEST);
    let insert = tx.attempt(|tx| {
        tx.execute(
            "INSERT INTO ip_allocation (subnet_id, address, place, port_id) VALUES (?1, ?2, ?3, ?4)",
            params![subnet.id(), at.to_string(), place, port_id],
        )
    });
    match insert {
        Ok(_) => Ok(true),
        Err(error) if error.is(Kind::Exists) => Ok(false),
        Err(error) => Err(error),
    }
}

fn release_one(tx: &Tx, fixed: &FixedIp) -> Result<()> {
    tx.execute("DELETE FROM ip_allocation WHERE subnet_id = ?1 AND address = ?2", params![&fixed.subnet_id, fixed.ip_address.to_string()])?;
    Ok(())
}

/// Gives back every address of a port.
pub fn release(tx: &Tx, port_id: &str) -> Result<()> {
    tx.execute("DELETE FROM ip_allocation WHERE port_id = ?1", params![port_id])?;
    Ok(())
}

/// Who has an address.
pub fn holder(tx: &Tx, subnet_id: &str, at: IpAddr) -> Result<Option<String>> {
    let sql = "SELECT port_id FROM ip_allocation WHERE subnet_id = ?1 AND address = ?2";
    tx.query_opt(sql, params![subnet_id, at.to_string()], |row| row.text(0))
}
