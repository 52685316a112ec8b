//! Federation: users whom others know. Who is believed (identity providers and their protocols), what is made of what they say
//! (mappings), and which clouds believe us (service providers).

pub mod links;
pub mod mapping;
pub mod mappings;
pub mod oidc;
pub mod peers;
pub mod protocols;
pub mod providers;
pub mod rules;
pub mod saml;
pub mod service_providers;
pub mod settings;
pub mod shadow;
pub mod state;

use base::{Error, Kind, Result};

use crate::fault;

/// Ids are chosen by whoever makes the thing, so they may hold anything, but not too much of it.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.chars().count() > 64 || id.contains('\0') {
        return Err(fault::field(what, format!("'{id}' is not of 1 to 64 characters")));
    }
    Ok(())
}

/// Turns a taken key into upstream's words for it.
fn taken(error: Error, kind: &str, id: &str) -> Error {
    if error.is(Kind::Exists) { fault::duplicate(kind, format!("Duplicate entry: {id}")) } else { error }
}
