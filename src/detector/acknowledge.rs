//! `anomaly.acknowledge`: somebody has seen an alert and looks after it.

use pgrx::prelude::*;

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
    let by = session::current_user();
    let now = session::now();
    let changed = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.alert SET note = $2 \
              WHERE alert_id = $1 AND status = 'acknowledged' AND $2 IS NOT NULL",
            &[alert.alert_id.into(), note.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.alert SET status = 'acknowledged', acknowledged_at = $2, \
                acknowledged_by = pg_get_userbyid($3), note = COALESCE($4, note) \
              WHERE alert_id = $1 AND status = 'open'",
            &[alert.alert_id.into(), sql::timestamptz(now)?.into(), by.into(), note.into()],
        )
    })?;
    if changed > 0 {
        let told = Told { alert_id: alert.alert_id, transition: "acknowledged", at: now };
        outbox::record(alert.owner, &[told])?;
    }
    Ok(changed > 0)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.acknowledge(bigint, text) IS
'notes that somebody looks after an alert; true when it was open and is acknowledged now';"#,
    name = "acknowledge_comment",
    requires = [acknowledge]
);
