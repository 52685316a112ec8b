//! SQL of this service.

pub mod images;
pub mod members;
pub mod metadefs;
