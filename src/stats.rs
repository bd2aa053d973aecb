//! `anomaly.reset_stats`: lets the counters of `anomaly.stats` begin anew.

use pgrx::prelude::*;

use crate::{
    detector::catalog::DetectorRow,
    error::SqlResult,
    pg::{internal_rights, session},
    run, sql,
};

/// Sets the counters of a detector to zero, or those of all that the caller owns. Answers how many detectors
/// that were. Waits for a scan that is running.
///
/// # Errors
/// 42704 and 42501 for the detector, 25006 on a standby.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
pub fn reset_stats(detector: default!(Option<&str>, "NULL")) -> SqlResult<i64> {
    run::check_writable("reset_stats")?;
    let detector =
        detector.map(DetectorRow::load_administered).transpose()?.map(|row| row.detector);
    let me = session::current_user();
    let reset = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state s SET stats_since = $2, scans = 0, failures = 0, \
                rows_read = 0, alerts_opened = 0, scan_ms = 0, max_scan_ms = 0, \
                points_before = s.points_processed, anomalies_before = s.anomalies_detected \
              FROM anomaly.detector d WHERE d.detector = s.detector AND s.detector IN ( \
                SELECT o.detector FROM anomaly.detector_state o JOIN anomaly.detector p USING (detector) \
                 WHERE CASE WHEN $1 IS NULL THEN pg_has_role($3, p.owner, 'USAGE') \
                            ELSE o.detector = $1 END \
                 ORDER BY o.detector FOR UPDATE OF o)",
            &[detector.into(), sql::timestamptz(session::now())?.into(), me.into()],
        )
    })?;
    Ok(reset as i64)
}
