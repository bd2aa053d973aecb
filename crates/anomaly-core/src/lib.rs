//! The algorithms of `anomaly_detection`: no PostgreSQL, no I/O, no clock, no threads.
//!
//! Times are `i64` microseconds since 2000-01-01 00:00 UTC, PostgreSQL's epoch, everywhere.
#![forbid(unsafe_code)]

pub mod error;
pub mod progress;

pub use error::{Error, Result};
