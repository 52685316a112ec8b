//! The service's errors, in the words its clients know.

use base::{Error, Kind};

/// `Could not find user: ID.`
pub fn not_found(what: &str, id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Could not find {what}: {id}."))
}

/// The body or a parameter lacks `attribute` or has it in a wrong form.
pub fn expecting(attribute: &str, target: &str) -> Error {
    Error::invalid(format!("Expecting to find {attribute} in {target}. {MALFORMED}"))
}

const MALFORMED: &str = "The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error.";

pub fn field(path: &str, problem: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid input for field '{path}': {problem}"))
}

/// A name or id is taken.
pub fn duplicate(kind: &str, details: impl std::fmt::Display) -> Error {
    Error::conflict(format!("Conflict occurred attempting to store {kind} - {details}."))
}

pub fn forbidden_action(rule: &str) -> Error {
    Error::forbidden(format!("You are not authorized to perform the requested action: {rule}."))
}

/// Why is never told: it would help to guess.
pub fn unauthorized() -> Error {
    Error::unauthenticated("The request you have made requires authentication.")
}

pub fn immutable(verb: &str, kind: &str, id: &str) -> Error {
    Error::forbidden(format!("Unable to {verb} immutable {kind} resource: `{id}. Set resource option \"immutable\" to false first."))
}
