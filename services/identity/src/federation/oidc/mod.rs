//! OpenID Connect: what a provider's tokens say, once it is sure that they are its own and meant for us.

pub mod claims;
pub mod code;
pub mod fetch;
pub mod jwt;
mod provider;

pub use provider::Provider;
