//! Faults under the type names clients of this API know.

use base::{Error, Kind};

/// 400 with a type of its own.
pub fn bad(name: &'static str, message: impl Into<String>) -> Error {
    Error::invalid(message).named(name)
}

/// 400 `BadRequest`: what a resource refuses.
pub fn refused(resource: &str, message: impl std::fmt::Display) -> Error {
    bad("BadRequest", format!("Bad {resource} request: {message}."))
}

/// 400 `InvalidInput`.
pub fn input(message: impl std::fmt::Display) -> Error {
    bad("InvalidInput", format!("Invalid input for operation: {message}."))
}

/// 400 `HTTPBadRequest`: an attribute that is wrong in itself.
pub fn attribute(name: &str, reason: impl std::fmt::Display) -> Error {
    bad("HTTPBadRequest", format!("Invalid input for {name}. Reason: {reason}."))
}

/// 400 `HTTPBadRequest`: the request as a whole.
pub fn request(message: impl Into<String>) -> Error {
    bad("HTTPBadRequest", message)
}

/// 409 with a type of its own.
pub fn in_use(name: &'static str, message: impl Into<String>) -> Error {
    Error::conflict(message).named(name)
}

/// 404 with a type of its own.
pub fn missing(name: &'static str, message: impl Into<String>) -> Error {
    Error::new(Kind::NotFound, message).named(name)
}

pub fn forbidden(rule: &str) -> Error {
    Error::forbidden(format!("rule:{rule} is disallowed by policy")).named("PolicyNotAuthorized")
}

pub fn over_quota(resource: &str) -> Error {
    Error::quota(format!("Quota exceeded for resources: ['{resource}'].")).named("OverQuota")
}

pub fn addresses_exhausted(network_id: &str) -> Error {
    in_use("IpAddressGenerationFailure", format!("No more IP addresses available on network {network_id}."))
}

pub fn address_in_use(network_id: &str, address: &str) -> Error {
    let message = format!("Unable to complete operation for network {network_id}. The IP address {address} is in use.");
    in_use("IpAddressInUse", message)
}
