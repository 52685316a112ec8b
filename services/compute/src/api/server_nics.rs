//! Interfaces of servers, and the old actions on their addresses.

use base::{Error, Result};
use http_api::{Request, Response, Routes, Version, empty, json};
use network::NicWanted;
use serde_json::json;

use super::server_parts::interface;
use crate::Compute;
use crate::fields::{self, Field, Fields};
use crate::servers::Unshelve;

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes.post("/servers/{id}/os-interface", create).delete("/servers/{id}/os-interface/{port}", delete)
}

fn v(minor: u16) -> Version {
    Version::new(2, minor)
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let wanted = root.need("interfaceAttachment", |field| {
        let mut f = Fields::of(field)?;
        let network = f.take("net_id", fields::uuid)?;
        let port = f.take("port_id", fields::uuid)?;
        let addresses = f.take(
            "fixed_ips",
            fields::list(1, |field| {
                let mut f = Fields::of(field)?;
                let address = f.need("ip_address", fields::ip)?;
                f.finish()?;
                Ok(address)
            }),
        )?;
        let tag = f.take_if(req.version >= v(49), "tag", fields::tag)?;
        f.finish()?;
        if addresses.as_ref().is_some_and(Vec::is_empty) {
            return Err(field.wrong("fixed_ips is too short"));
        }
        let fixed_ip = addresses.and_then(|list| list.into_iter().next());
        match (network, port) {
            (Some(_), Some(_)) => Err(Error::invalid("Must not input both network_id and port_id")),
            (None, _) if fixed_ip.is_some() => Err(Error::invalid("Must input network_id when request IP address")),
            (Some(id), None) => Ok(NicWanted::Network { id, fixed_ip, tag }),
            (None, Some(id)) => Ok(NicWanted::Port { id, tag }),
            (None, None) => Ok(NicWanted::Auto),
        }
    })?;
    root.finish()?;
    let id = req.param("id");
    let port = compute.nic_attach(&req.ctx, id, wanted).await?;
    let nics = compute.core.store.read(|tx| compute.network.nics_in(tx, id)).await?;
    let nic = nics.iter().find(|nic| nic.port_id == port).ok_or_else(|| Error::conflict(format!("Port {port} is gone again.")))?;
    json(200, &json!({"interfaceAttachment": interface(nic, req.version)}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.nic_detach(&req.ctx, req.param("id"), req.param("port")).await?;
    empty(202)
}

pub async fn add_fixed_ip(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut f = Fields::of(field)?;
    let network = f.need("networkId", |field| match field.value.as_i64() {
        Some(number) => Ok(number.to_string()),
        None => fields::text(1, 255)(field),
    })?;
    f.finish()?;
    compute.nic_address_add(&req.ctx, req.param("id"), network).await
}

pub async fn remove_fixed_ip(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut f = Fields::of(field)?;
    let address = f.need("address", fields::ip)?;
    f.finish()?;
    compute.nic_address_remove(&req.ctx, req.param("id"), address).await
}

pub async fn add_floating_ip(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut f = Fields::of(field)?;
    let address = f.need("address", fields::ip)?;
    let fixed = f.take("fixed_address", fields::ip)?;
    f.finish()?;
    compute.floating_ip_add(&req.ctx, req.param("id"), address, fixed).await
}

pub async fn remove_floating_ip(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut f = Fields::of(field)?;
    let address = f.need("address", fields::ip)?;
    f.finish()?;
    compute.floating_ip_remove(&req.ctx, req.param("id"), address).await
}

pub async fn unshelve(compute: &Compute, req: &Request, field: Field<'_>) -> Result<()> {
    let mut wish = Unshelve::default();
    if req.version < v(77) {
        // Of old, anything.
        fields::any(field)?;
    } else if !field.value.is_null() {
        let newest = req.version >= v(91);
        let mut f = Fields::of(field)?;
        wish.zone = if newest {
            f.take("availability_zone", fields::nullable(fields::name))?
        } else {
            Some(Some(f.need("availability_zone", fields::name)?))
        };
        wish.host = f.take_if(newest, "host", fields::fqdn)?;
        f.finish()?;
        if wish == Unshelve::default() {
            return Err(field.wrong("it must hold availability_zone or host"));
        }
    }
    compute.server_unshelve(&req.ctx, req.param("id"), wish).await
}
