//! Which policy blob is for which endpoint: said of the endpoint, of its service in a region, or of its service.

use base::{Context, Error, Kind, Result};
use store::{Tx, params};

use crate::catalogue::{Endpoint, endpoint_get_in, endpoints_all_in, region_get_in, service_get_in};
use crate::policies::{PolicyBlob, policy_fetch_in};
use crate::{Identity, note};

/// What a policy is for. A region has a policy only together with a service.
#[derive(Clone, Debug)]
pub enum Place {
    Endpoint(String),
    Service(String),
    Region { service: String, region: String },
}

impl Place {
    /// endpoint_id, service_id, region_id.
    fn columns(&self) -> [&str; 3] {
        match self {
            Place::Endpoint(id) => [id, "", ""],
            Place::Service(id) => ["", id, ""],
            Place::Region { service, region } => ["", service, region],
        }
    }

    fn check_in(&self, tx: &Tx) -> Result<()> {
        match self {
            Place::Endpoint(id) => endpoint_get_in(tx, id).map(|_| ()),
            Place::Service(id) => service_get_in(tx, id).map(|_| ()),
            Place::Region { service, region } => {
                service_get_in(tx, service)?;
                region_get_in(tx, region).map(|_| ())
            }
        }
    }
}

fn not_associated() -> Error {
    Error::new(Kind::NotFound, "Could not find policy association.")
}

fn policy_of_in(tx: &Tx, place: &Place) -> Result<Option<String>> {
    let [endpoint, service, region] = place.columns();
    tx.query_opt(
        "SELECT policy_id FROM policy_association WHERE endpoint_id = ?1 AND service_id = ?2 AND region_id = ?3",
        params![endpoint, service, region],
        |row| row.text(0),
    )
}

pub fn association_check_in(tx: &Tx, policy_id: &str, place: &Place) -> Result<()> {
    policy_fetch_in(tx, policy_id)?;
    place.check_in(tx)?;
    if policy_of_in(tx, place)?.as_deref() == Some(policy_id) { Ok(()) } else { Err(not_associated()) }
}

/// The policy in force for an endpoint: its own, else that of its service in its region or the nearest one above, else its service's.
pub fn policy_for_endpoint_in(tx: &Tx, id: &str) -> Result<PolicyBlob> {
    let endpoint = endpoint_get_in(tx, id)?;
    let mut found = policy_of_in(tx, &Place::Endpoint(endpoint.id))?;
    // Regions have no circles: that is checked when one gets its parent.
    let mut next = endpoint.region_id;
    while let (None, Some(region)) = (&found, next) {
        found = policy_of_in(tx, &Place::Region { service: endpoint.service_id.clone(), region: region.clone() })?;
        next = region_get_in(tx, &region)?.parent_region_id;
    }
    if found.is_none() {
        found = policy_of_in(tx, &Place::Service(endpoint.service_id))?;
    }
    let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("No policy is associated with endpoint {id}.")))?;
    policy_fetch_in(tx, &found)
}

/// All endpoints that the associations of a policy reach, whether or not another one is nearer to them.
pub fn endpoints_for_policy_in(tx: &Tx, policy_id: &str) -> Result<Vec<Endpoint>> {
    policy_fetch_in(tx, policy_id)?;
    let sql = "SELECT endpoint_id, service_id, region_id FROM policy_association WHERE policy_id = ?1";
    let places = tx.query(sql, params![policy_id], |row| Ok((row.text(0)?, row.text(1)?, row.text(2)?)))?;
    let parents = tx.query("SELECT id, parent_region_id FROM region", params![], |row| Ok((row.text(0)?, row.opt_text(1)?)))?;
    let parents: std::collections::HashMap<String, Option<String>> = parents.into_iter().collect();
    let inside = |region: &str, of: Option<&str>| {
        std::iter::successors(of, |id| parents.get(*id).and_then(|parent| parent.as_deref())).any(|id| id == region)
    };
    let reached = |endpoint: &Endpoint| {
        places.iter().any(|(id, service, region)| match (id.as_str(), service.as_str(), region.as_str()) {
            ("", service, "") => endpoint.service_id == service,
            ("", service, region) => endpoint.service_id == service && inside(region, endpoint.region_id.as_deref()),
            (id, ..) => endpoint.id == id,
        })
    };
    Ok(endpoints_all_in(tx)?.into_iter().filter(reached).collect())
}

/// The associations of a policy, an endpoint, a service or a region that goes.
pub fn associations_remove_in(tx: &Tx, column: &'static str, id: &str) -> Result<()> {
    tx.execute(&format!("DELETE FROM policy_association WHERE {column} = ?1"), params![id])?;
    Ok(())
}

impl Identity {
    /// In place of the policy that was there.
    pub(crate) async fn policy_associate(&self, ctx: &Context, policy_id: &str, place: Place) -> Result<()> {
        let (ctx, policy_id) = (ctx.clone(), policy_id.to_string());
        self.add(move |tx| {
            policy_fetch_in(tx, &policy_id)?;
            place.check_in(tx)?;
            let [endpoint, service, region] = place.columns();
            tx.execute(
                "INSERT INTO policy_association (endpoint_id, service_id, region_id, policy_id) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (endpoint_id, service_id, region_id) DO UPDATE SET policy_id = excluded.policy_id",
                params![endpoint, service, region, &policy_id],
            )?;
            note(tx, &ctx, "policy.updated", &policy_id)
        })
        .await
    }

    pub(crate) async fn policy_dissociate(&self, ctx: &Context, policy_id: &str, place: Place) -> Result<()> {
        let (ctx, policy_id) = (ctx.clone(), policy_id.to_string());
        self.add(move |tx| {
            association_check_in(tx, &policy_id, &place)?;
            let [endpoint, service, region] = place.columns();
            tx.execute(
                "DELETE FROM policy_association WHERE endpoint_id = ?1 AND service_id = ?2 AND region_id = ?3",
                params![endpoint, service, region],
            )?;
            note(tx, &ctx, "policy.updated", &policy_id)
        })
        .await
    }
}
