//! Tokens: what is in them, what seals them, and what a valid one stands for.

pub mod cache;
pub mod issue;
pub mod jws;
pub mod keys;
pub mod methods;
pub mod pairs;
pub mod payload;
pub mod published;
pub mod receipt;
pub mod ring;
pub mod shared;
pub mod validate;
