//! SQL of this service.

pub mod cache;
pub mod images;
pub mod members;
pub mod metadefs;
