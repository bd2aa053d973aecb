//! The versions of a detector's model: each is stored first, then made the active one, and kept to
//! return to.
//!
//! All of it happens under the detector's lock and in one transaction, so that a session that dies at
//! any point leaves the version active that was.

use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport};

use crate::{
    detector::{alerts, catalog::DetectorRow, states::EntityStates},
    error::{SqlResult, report},
    gucs,
    pg::{internal_rights, session},
    sql, worker,
};

/// A version without its entity states.
#[derive(Debug, Clone)]
pub struct Version {
    pub strategy: String,
    pub trained_at: i64,
    pub trained_rows: i64,
    pub trained_from: Option<i64>,
    pub trained_until: Option<i64>,
    pub entities: i64,
    pub points_per_day: Option<f64>,
    /// The shared model.
    pub payload: Vec<u8>,
}

impl Version {
    /// # Errors
    /// 42704 when the detector has no such version.
    pub fn load(detector: &str, version: i32) -> SqlResult<Version> {
        let found = internal_rights::with(|| {
            sql::row(
                "SELECT strategy, trained_at, trained_rows, trained_from, trained_until, entities, \
                    points_per_day, payload \
                 FROM anomaly.model WHERE detector = $1 AND version = $2",
                &[detector.into(), version.into()],
                |row| {
                    Ok(Version {
                        strategy: row.must(1)?,
                        trained_at: row.micros(2)?.unwrap_or_default(),
                        trained_rows: row.must(3)?,
                        trained_from: row.micros(4)?,
                        trained_until: row.micros(5)?,
                        entities: row.must(6)?,
                        points_per_day: row.get(7)?,
                        payload: row.must(8)?,
                    })
                },
            )
        })?;
        found.ok_or_else(|| no_version(detector, &format!("version {version}")))
    }

    /// Stores it under the next number, which it answers; not active yet.
    pub fn store(&self, detector: &str) -> SqlResult<i32> {
        let instant = |at: Option<i64>| at.map(sql::timestamptz).transpose();
        let stored = internal_rights::with(|| {
            sql::execute_returning(
                "INSERT INTO anomaly.model (detector, version, active, strategy, trained_at, \
                    trained_rows, trained_from, trained_until, entities, points_per_day, payload) \
                 SELECT $1, COALESCE(max(version), 0) + 1, false, $2, $3, $4, $5, $6, $7, $8, $9 \
                   FROM anomaly.model WHERE detector = $1 RETURNING version",
                &[
                    detector.into(),
                    self.strategy.as_str().into(),
                    sql::timestamptz(self.trained_at)?.into(),
                    self.trained_rows.into(),
                    instant(self.trained_from)?.into(),
                    instant(self.trained_until)?.into(),
                    self.entities.into(),
                    self.points_per_day.into(),
                    self.payload.as_slice().into(),
                ],
                |row| row.must(1),
            )
        })?;
        stored
            .into_iter()
            .next()
            .ok_or_else(|| report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "model was not stored"))
    }

    /// What a training that gave it would have said: `active`, or `warming (n of N)`.
    pub fn status(&self, row: &DetectorRow) -> String {
        if self.is_enough(row) {
            "active".to_owned()
        } else {
            format!("warming ({} of {})", self.trained_rows, row.min_data_points)
        }
    }

    /// Whether it was trained on rows enough.
    pub fn is_enough(&self, row: &DetectorRow) -> bool {
        self.trained_rows >= i64::from(row.min_data_points)
    }
}

/// 42704 for a version that the detector does not have.
pub fn no_version(detector: &str, which: &str) -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("detector \"{detector}\" has no model {which}"),
    )
    .set_hint(format!(
        "SELECT version, active, trained_at FROM anomaly.models WHERE detector = {}",
        pgrx::spi::quote_literal(detector)
    ))
}

/// How a detector stands with the version that becomes active.
#[derive(Debug, Default)]
pub struct Standing {
    /// Why it is as it is, for people.
    pub reason: Option<String>,
    /// Everything up to here counts as judged; by default what there is when the detector gets its first
    /// model.
    pub watermark: Option<i64>,
    /// When the version was trained, if it was now.
    pub trained_at: Option<i64>,
    /// Points of entities beyond `max_entities`, if they were counted.
    pub skipped: Option<i64>,
}

/// Makes a stored version the active one, with the states that it starts from, and forgets versions
/// beyond `keep_model_versions`. A detector that was broken is due again.
pub fn activate(
    row: &DetectorRow,
    number: i32,
    version: &Version,
    states: &mut EntityStates,
    standing: Standing,
) -> SqlResult<()> {
    let now = session::now();
    let instant = |at: Option<i64>| at.map(sql::timestamptz).transpose();
    let first = row.model.is_none().then_some(row.settled_until);
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.model SET active = false WHERE detector = $1 AND active",
            &[row.detector.as_str().into()],
        )?;
        sql::execute(
            "UPDATE anomaly.model SET active = true WHERE detector = $1 AND version = $2",
            &[row.detector.as_str().into(), number.into()],
        )?;
        // What is looked back at begins with these states.
        sql::execute(
            "DELETE FROM anomaly.checkpoint WHERE detector = $1",
            &[row.detector.as_str().into()],
        )?;
        // A scan goes on where this leaves it, and never back.
        sql::execute(
            "UPDATE anomaly.detector_state s SET status = $2, status_reason = $3, \
                status_hint = NULL, needs_training = false, retrain_requested = false, \
                retry_training_at = NULL, \
                watermark = GREATEST(watermark, $4), \
                last_training_time = COALESCE($5, last_training_time), \
                entities_skipped = COALESCE($6, entities_skipped), \
                consecutive_failures = CASE s.status WHEN 'broken' THEN 0 \
                                                     ELSE consecutive_failures END, \
                next_due = CASE WHEN s.status = 'broken' AND d.enabled \
                                     AND (d.every IS NOT NULL OR d.cron IS NOT NULL) THEN $7 \
                                ELSE next_due END \
             FROM anomaly.detector d WHERE d.detector = s.detector AND s.detector = $1",
            &[
                row.detector.as_str().into(),
                if version.is_enough(row) { "active" } else { "warming" }.into(),
                standing.reason.into(),
                instant(standing.watermark.or(first))?.into(),
                instant(standing.trained_at)?.into(),
                standing.skipped.into(),
                sql::timestamptz(now)?.into(),
            ],
        )
    })?;
    if row.needs_training {
        // Nobody can return to a version of other settings.
        internal_rights::with(|| {
            sql::execute(
                "DELETE FROM anomaly.model WHERE detector = $1 AND NOT active",
                &[row.detector.as_str().into()],
            )
        })?;
    }
    alerts::resolve_all_but(row, &states.open_alerts(), false)?;
    keep_latest(&row.detector)?;
    if row.status == "broken" {
        worker::notify_due(now);
    }
    Ok(())
}

/// Forgets versions, with their entity states, beyond the latest `keep_model_versions`; the active one
/// stays in any case.
pub fn keep_latest(detector: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.model WHERE detector = $1 AND NOT active AND version <= \
                (SELECT version FROM anomaly.model WHERE detector = $1 \
                  ORDER BY version DESC OFFSET $2 LIMIT 1)",
            &[detector.into(), gucs::keep_model_versions().into()],
        )
    })?;
    Ok(())
}
