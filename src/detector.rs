//! The managed path: detectors that are configured once and then train, scan and alert.
//!
//! `create_detector` and `watch` set one up, `train` learns its baseline, `scan` judges what is new,
//! `process_data_point` judges one point that the caller brings. All of them feed points to
//! [`anomaly_core::detector::Detector`] and store what it answers through [`alerts`]; they differ
//! only in who brings the points.

mod acknowledge;
mod acknowledge_incident;
mod alert_view;
pub mod alerts;
mod alter_detector;
mod backtest;
mod batch;
pub mod calendars;
pub mod catalog;
mod conditions;
pub mod create_detector;
mod drilldown;
mod drop_detector;
mod enable;
mod estimate_cost;
mod exclude;
mod explain;
mod explain_detector;
mod explain_incident;
mod export_model;
pub mod failures;
pub mod feedback;
pub mod get_alerts;
mod import_model;
pub mod incidents;
mod late;
mod models;
mod no_data;
#[cfg(any(test, feature = "pg_test"))]
mod panics;
mod process_batch;
mod process_data;
mod process_data_point;
mod quota;
mod resolve;
mod rollback_model;
mod rows;
pub mod sampling;
pub mod scan;
mod shadow;
mod silence;
pub mod source;
mod states;
mod suggest;
mod train;
mod update_detector_performance;
mod watch;
mod watch_writes;
mod why_not;
mod withhold;
mod witness;
pub mod written_rows;
