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
    enable_row(&row)?;
    Ok(true)
}

/// As [`enable`], once the caller's rights are checked.
pub fn enable_row(row: &DetectorRow) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector SET enabled = true, updated_at = $2 WHERE detector = $1",
            &[row.detector.as_str().into(), sql::timestamptz(session::now())?.into()],
        )
    })?;
    try_again(&row.detector)
}

/// Makes it due, as if it had never failed.
pub fn try_again(detector: &str) -> SqlResult<()> {
    let now = session::now();
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET consecutive_failures = 0, \
                status = CASE WHEN s.status <> 'broken' THEN s.status \
                              WHEN EXISTS (SELECT FROM anomaly.model m \
                                            WHERE m.detector = s.detector AND m.active) \
                              THEN 'active' ELSE 'new' END, \
                status_reason = CASE s.status WHEN 'broken' THEN NULL ELSE s.status_reason END, \
                status_hint = NULL, \
                next_due = CASE WHEN d.every IS NULL AND d.cron IS NULL THEN s.next_due ELSE $2 END \
             FROM anomaly.detector d WHERE d.detector = s.detector AND s.detector = $1",
            &[detector.into(), sql::timestamptz(now)?.into()],
        )
    })?;
    worker::notify_due(now);
    Ok(())
}

/// Stops a detector from running; its model and its place in the data are kept. False when there is
/// none of that id.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn disable(detector: &str) -> SqlResult<bool> {
    let Some(row) = DetectorRow::find_owned(detector)? else { return Ok(false) };
    stop(&row.detector)?;
    Ok(true)
}

/// As `disable`, for those who go by what happened: true when it ran until now, false when it was
/// stopped before, or there is none of that id. Registering it again lets it run.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn unregister(detector: &str) -> SqlResult<bool> {
    let Some(row) = DetectorRow::find_owned(detector)? else { return Ok(false) };
    stop(&row.detector)
}

/// Whether it ran until now.
fn stop(detector: &str) -> SqlResult<bool> {
    let stopped = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector SET enabled = false, updated_at = $2 \
             WHERE detector = $1 AND enabled",
            &[detector.into(), sql::timestamptz(session::now())?.into()],
        )
    })?;
    Ok(stopped == 1)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.enable(text) IS
'lets a detector run again from where it stopped; false when there is none of that id';
COMMENT ON FUNCTION anomaly.disable(text) IS
'stops a detector from running and keeps its model; false when there is none of that id';
COMMENT ON FUNCTION anomaly.unregister(text) IS
'stops a detector from running and keeps its model; true when it ran until now';
"#,
    name = "enable_comments",
    requires = [enable, disable, unregister]
);
