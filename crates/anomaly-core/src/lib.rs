//! The algorithms of `anomaly_detection`: no PostgreSQL, no I/O, no clock, no threads.
//!
//! Times are `i64` microseconds since 2000-01-01 00:00 UTC, PostgreSQL's epoch, everywhere.
#![forbid(unsafe_code)]

pub mod autoencoder;
pub mod bucket;
pub mod calendar;
pub mod calibration;
pub mod category;
pub mod codec;
pub mod describe;
pub mod detector;
pub mod digest;
pub mod distribution;
pub mod drilldown;
pub mod durations;
mod elementary;
pub mod episode;
pub mod error;
pub mod error_rate;
pub mod exported;
pub mod forest;
pub mod gaps;
pub mod guidance;
pub mod handler;
pub mod host;
pub mod incident;
pub mod lstm;
pub mod nearest;
pub mod neural;
mod normal_range;
pub mod one_class_svm;
pub mod point;
pub mod progress;
mod random;
pub mod recurrence;
pub mod schedule;
pub mod seasonality;
pub mod sketch;
pub mod strategy;
pub mod suggest;
pub mod system_metrics;
pub mod verdict;
pub mod volume;
pub mod window;

pub use calendar::Calendar;
pub use detector::{Detector, DetectorConfig, EntityState, Outcome};
pub use episode::{Episode, FLAPPING, Phase, Transition};
pub use error::{Error, Result};
pub use point::Point;
pub use verdict::{Direction, Severity, Status, Verdict};
