//! `anomaly.acknowledge`: somebody has seen an alert and looks after it.

use pgrx::{pg_sys, prelude::*};

use crate::{
    detector::alerts::OwnedAlert,
    error::{SqlResult, required},
    handler::outbox::{self, Told},
    pg::{internal_rights, session},
    run, sql,
};

/// True when the alert was open and is acknowledged now. One that is acknowledged already takes the note, and one
/// that has ended stays as it is.
///
/// # Errors
/// 42704 for an alert that the caller does not see, 42501 for one that is not theirs.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn acknowledge(alert: Option<i64>, note: default!(Option<&str>, "NULL")) -> SqlResult<bool> {
    let alert = required(alert, "alert")?;
    run::check_writable("acknowledge")?;
    let alert = OwnedAlert::load(alert)?;
    Ok(acknowledge_all(alert.owner, &[alert.alert_id], note)? > 0)
}

/// Acknowledges those of an owner's alerts that are open; how many there were. The caller may.
pub fn acknowledge_all(owner: pg_sys::Oid, alerts: &[i64], note: Option<&str>) -> SqlResult<i64> {
    let by = session::current_user();
    let now = session::now();
    let changed = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.alert SET note = $2 \
              WHERE alert_id = ANY ($1) AND status = 'acknowledged' AND $2 IS NOT NULL",
            &[alerts.to_vec().into(), note.into()],
        )?;
        sql::execute_returning(
            "UPDATE anomaly.alert SET status = 'acknowledged', acknowledged_at = $2, \
                acknowledged_by = pg_get_userbyid($3), note = COALESCE($4, note) \
              WHERE alert_id = ANY ($1) AND status = 'open' RETURNING alert_id",
            &[alerts.to_vec().into(), sql::timestamptz(now)?.into(), by.into(), note.into()],
            |row| row.must::<i64>(1),
        )
    })?;
    let tell = |alert_id: &i64| Told { alert_id: *alert_id, transition: "acknowledged", at: now };
    outbox::record(owner, &changed.iter().map(tell).collect::<Vec<Told>>())?;
    Ok(changed.len() as i64)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.acknowledge(bigint, text) IS
'notes that somebody looks after an alert; true when it was open and is acknowledged now';"#,
    name = "acknowledge_comment",
    requires = [acknowledge]
);
