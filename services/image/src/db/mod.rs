//! SQL of this service.

pub mod cache;
pub mod converted;
pub mod images;
pub mod members;
pub mod metadefs;
