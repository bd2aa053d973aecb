//! The managed path: detectors that are configured once and then train, scan and alert.
//!
//! `create_detector` and `watch` set one up, `train` learns its baseline, `scan` judges what is new,
//! `process_data_point` judges one point that the caller brings. All of them feed points to
//! [`anomaly_core::detector::Detector`] and store what it answers through [`alerts`]; they differ
//! only in who brings the points.

mod acknowledge;
mod alert_view;
pub mod alerts;
mod alter_detector;
mod backtest;
mod batch;
pub mod calendars;
pub mod catalog;
pub mod create_detector;
mod drilldown;
mod drop_detector;
mod enable;
mod estimate_cost;
mod exclude;
mod explain;
mod explain_detector;
mod export_model;
pub mod feedback;
pub mod get_alerts;
mod import_model;
mod late;
mod models;
#[cfg(any(test, feature = "pg_test"))]
mod panics;
mod process_batch;
mod process_data;
mod process_data_point;
mod resolve;
mod rollback_model;
mod rows;
pub mod sampling;
pub mod scan;
mod silence;
pub mod source;
mod states;
mod suggest;
mod train;
mod update_detector_performance;
mod watch;
mod why_not;
mod witness;
