//! Alerts of kind `error`: the runs of a detector fail again and again, or it is broken. A state of the detector
//! and not of its metric: what is open of that stays open.

use anomaly_core::Severity;
use pgrx::pg_sys;

use crate::{
    detector::{
        catalog::DetectorRow,
        conditions::{self, Condition, Over},
    },
    error::SqlResult,
    gucs,
    handler::outbox::{self, Told},
    pg::{internal_rights, session},
    run, sql,
};

const SUGGESTION: &str = "SELECT reason, hint FROM anomaly.health WHERE kind = 'detector' says what is wrong and what to type.";

struct Standing {
    is_broken: bool,
    failures: i32,
    since: Option<i64>,
}

/// Opens an alert, or makes it more severe, where failures of a detector have come to be one. Called where a
/// failure is recorded, in the same transaction.
pub fn note(detector: &str, message: &str) -> SqlResult<()> {
    let standing = internal_rights::with(|| {
        // Sees what this transaction has written.
        sql::execute_returning(
            "SELECT status = 'broken', consecutive_failures, failing_since \
               FROM anomaly.detector_state WHERE detector = $1",
            &[detector.into()],
            |r| Ok(Standing { is_broken: r.must(1)?, failures: r.must(2)?, since: r.micros(3)? }),
        )
    })?;
    let Some(Standing { is_broken, failures, since }) = standing.into_iter().next() else {
        return Ok(());
    };
    if !is_broken && failures < gucs::error_alert_after() || session::is_replaying() {
        return Ok(());
    }
    let row = DetectorRow::load(detector)?;
    if row.shadow_of.is_some() {
        // Nobody hears of a shadow; anomaly.health shows it.
        return Ok(());
    }
    let now = session::now();
    let (severity, description) = match is_broken {
        true => (Severity::Critical, format!("detector {detector} is broken: {message}")),
        false => (
            Severity::Warning,
            format!("runs of detector {detector} have failed {failures} times in a row: {message}"),
        ),
    };
    let announced = match row.error_alert {
        None => {
            let condition = Condition {
                kind: "error",
                entity: "",
                since: since.unwrap_or(now).min(now),
                fired_at: now,
                until: now,
                severity,
                description,
                suggestion: SUGGESTION,
            };
            let (ids, announced) = conditions::open(&row, &[condition], None)?;
            set_alert(detector, ids.first().copied())?;
            announced
        }
        Some(alert_id) => {
            let worse = internal_rights::with(|| {
                sql::execute_returning(
                    "UPDATE anomaly.alert a SET severity = $2::anomaly.severity, description = $3, \
                        last_at = $4 \
                       FROM anomaly.alert b \
                      WHERE a.alert_id = $1 AND b.alert_id = $1 AND a.severity <= $2::anomaly.severity \
                      RETURNING a.severity > b.severity",
                    &[
                        alert_id.into(),
                        severity.as_str().into(),
                        description.into(),
                        sql::timestamptz(now)?.into(),
                    ],
                    |r| r.must::<bool>(1),
                )
            })?;
            if worse.contains(&true) {
                outbox::record(row.owner, &[Told { alert_id, transition: "escalated", at: now }])?;
            }
            conditions::tell_at_last(&row, &[alert_id], now)?
        }
    };
    if announced > 0 {
        run::notify_alerts(announced)?;
    }
    Ok(())
}

/// The same for all detectors of an owner.
pub fn note_owner(owner: pg_sys::Oid, message: &str) -> SqlResult<()> {
    let detectors = internal_rights::with(|| {
        sql::rows(
            "SELECT detector FROM anomaly.detector WHERE owner = $1::oid AND enabled ORDER BY detector",
            &[owner.into()],
            |r| r.must::<String>(1),
        )
    })?;
    detectors.iter().try_for_each(|detector| note(detector, message))
}

/// A run of the detector has succeeded: resolves its alert, in the commit of the run.
pub fn recovered(detector: &str) -> SqlResult<()> {
    let alert = internal_rights::with(|| {
        sql::row(
            "SELECT error_alert FROM anomaly.detector_state \
              WHERE detector = $1 AND error_alert IS NOT NULL",
            &[detector.into()],
            |r| r.must::<i64>(1),
        )
    })?;
    let Some(alert_id) = alert else { return Ok(()) };
    let row = DetectorRow::load(detector)?;
    conditions::end(&row, &[Over { alert_id, at: session::now() }], "it works again")?;
    set_alert(detector, None)
}

/// Somebody says that the alert is over: further failures are another one.
pub fn forget(detector: &str, alert_id: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET error_alert = NULL, failing_since = $3 \
              WHERE detector = $1 AND error_alert = $2",
            &[detector.into(), alert_id.into(), sql::timestamptz(session::now())?.into()],
        )
    })?;
    Ok(())
}

fn set_alert(detector: &str, alert_id: Option<i64>) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET error_alert = $2 WHERE detector = $1",
            &[detector.into(), alert_id.into()],
        )
    })?;
    Ok(())
}
