//! `anomaly.acknowledge_incident`: somebody looks after all that is open of an incident.

use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{acknowledge::acknowledge_all, alerts::OwnedAlert},
    error::{SqlResult, report, required},
    pg::internal_rights,
    run, sql,
};

/// 42704 for an incident that does not exist, or that the caller may not see.
pub fn unknown(incident: i64) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("incident {incident} does not exist"))
        .set_hint("SELECT id, status, detectors FROM anomaly.incidents")
}

/// Acknowledges all open alerts of an incident, and answers how many there were.
///
/// # Errors
/// 42704 for an incident that the caller does not see, 42501 for one that is not theirs.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn acknowledge_incident(
    incident: Option<i64>,
    note: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    let incident = required(incident, "incident")?;
    run::check_writable("acknowledge_incident")?;
    // As the caller: what they do not see is not there.
    let seen = sql::row(
        "SELECT 1 FROM anomaly.incidents WHERE id OPERATOR(pg_catalog.=) $1",
        &[incident.into()],
        |_| Ok(()),
    )?;
    if seen.is_none() {
        return Err(unknown(incident));
    }
    let alerts = internal_rights::with(|| {
        sql::rows(
            "SELECT alert_id FROM anomaly.alert WHERE incident_id = $1 ORDER BY alert_id",
            &[incident.into()],
            |row| row.must::<i64>(1),
        )
    })?;
    let Some(first) = alerts.first() else { return Err(unknown(incident)) };
    // All are of one owner.
    let owner = OwnedAlert::load(*first)?.owner;
    acknowledge_all(owner, &alerts, note)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.acknowledge_incident(bigint, text) IS
'notes that somebody looks after an incident: all its open alerts are acknowledged; how many there were';"#,
    name = "acknowledge_incident_comment",
    requires = [acknowledge_incident]
);
