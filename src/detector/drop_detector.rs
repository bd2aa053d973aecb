//! `anomaly.drop_detector`: forgets a detector, its models and states. Its alerts stay.

use pgrx::prelude::*;

use crate::{
    detector::{alerts, catalog::DetectorRow, shadow},
    error::SqlResult,
    pg::internal_rights,
    sql,
};

/// True when it existed, false when not (as the caller sees it).
///
/// # Errors
/// 42501 for somebody else's detector.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_detector(detector: &str) -> SqlResult<bool> {
    let Some(row) = DetectorRow::find_owned(detector)? else { return Ok(false) };
    let detector = row.detector.as_str();
    let shadows = shadow::of(detector)?;
    // First, because it waits for a scan that is running; what that raises is seen below.
    let deleted = internal_rights::with(|| {
        // In the order in which a run takes them: it has its state, and asks for the detector when it stores a model.
        sql::execute(
            "SELECT FROM anomaly.detector_state WHERE detector = $1 \
                OR detector IN (SELECT h.detector FROM anomaly.shadow h WHERE h.live = $1) \
              ORDER BY detector FOR UPDATE",
            &[detector.into()],
        )?;
        // Its shadows before it: without it they would be detectors like any other.
        sql::execute(
            "DELETE FROM anomaly.detector \
             WHERE detector IN (SELECT h.detector FROM anomaly.shadow h WHERE h.live = $1)",
            &[detector.into()],
        )?;
        sql::execute("DELETE FROM anomaly.detector WHERE detector = $1", &[detector.into()])
    })?;
    // Alerts that are open now will never be judged again: they end with their detector.
    for gone in std::iter::once(&row).chain(&shadows) {
        alerts::resolve_all_but(gone, &[], true)?;
    }
    Ok(deleted == 1)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.drop_detector(text) IS
'forgets a detector with its models and shadows; true when it existed. Its alerts stay readable';"#,
    name = "drop_detector_comment",
    requires = [drop_detector]
);
