//! `anomaly.enable` and `anomaly.disable`: whether a detector runs.

use pgrx::prelude::*;

use crate::{
    detector::catalog::DetectorRow,
    error::SqlResult,
    pg::{internal_rights, session},
    sql, worker,
};

/// Lets a detector run again, from where it stopped. A broken one is tried again. False when there
/// is none of that id.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn enable(detector: &str) -> SqlResult<bool> {
    let Some(row) = DetectorRow::find_owned(detector)? else { return Ok(false) };
    let now = session::now();
    let status = if row.model.is_none() { "new" } else { "active" };
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector SET enabled = true, updated_at = $2 WHERE detector = $1",
            &[detector.into(), sql::timestamptz(now)?.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.detector_state s SET consecutive_failures = 0, \
                status = CASE s.status WHEN 'broken' THEN $3 ELSE s.status END, \
                status_reason = CASE s.status WHEN 'broken' THEN NULL ELSE s.status_reason END, \
                status_hint = NULL, \
                next_due = CASE WHEN d.every IS NULL AND d.cron IS NULL THEN s.next_due ELSE $2 END \
             FROM anomaly.detector d WHERE d.detector = s.detector AND s.detector = $1",
            &[detector.into(), sql::timestamptz(now)?.into(), status.into()],
        )
    })?;
    worker::notify_due(now);
    Ok(true)
}

/// Stops a detector from running; its model and its place in the data are kept. False when there is
/// none of that id.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn disable(detector: &str) -> SqlResult<bool> {
    if DetectorRow::find_owned(detector)?.is_none() {
        return Ok(false);
    }
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector SET enabled = false, updated_at = $2 WHERE detector = $1",
            &[detector.into(), sql::timestamptz(session::now())?.into()],
        )
    })?;
    Ok(true)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.enable(text) IS
'lets a detector run again from where it stopped; false when there is none of that id';
COMMENT ON FUNCTION anomaly.disable(text) IS
'stops a detector from running and keeps its model; false when there is none of that id';
"#,
    name = "enable_comments",
    requires = [enable, disable]
);
