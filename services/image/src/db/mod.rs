//! SQL of this service.

pub mod images;
pub mod members;
