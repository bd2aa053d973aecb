//! `anomaly.resolve`: somebody declares an alert to be over, whatever its points do.

use anomaly_core::Episode;
use pgrx::prelude::*;

use crate::{
    detector::{alerts::OwnedAlert, failures, no_data, scan::lock, states::EntityStates},
    error::{SqlResult, required},
    handler::outbox::{self, Told},
    pg::{internal_rights, session},
    run, sql,
};

/// True when the alert was open and is resolved now. Its episode ends with it: what is anomalous from now on opens
/// another alert.
///
/// # Errors
/// 42704 for an alert that the caller does not see, 42501 for one that is not theirs, 55006 while its
/// detector is running.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn resolve(alert: Option<i64>, note: default!(Option<&str>, "NULL")) -> SqlResult<bool> {
    let alert = required(alert, "alert")?;
    run::check_writable("resolve")?;
    let alert = OwnedAlert::load(alert)?;
    if !alert.is_open {
        return Ok(false);
    }
    // Under the detector's lock, so that no scan goes on with the episode meanwhile.
    let through = match (alert.has_detector, alert.kind.as_str()) {
        (true, "anomaly") => end_episode(&alert)?,
        (true, kind) => {
            let row = lock(&alert.detector)?;
            match kind {
                "no_data" => no_data::forget(&row.detector, Some(alert.alert_id))?,
                _ => failures::forget(&row.detector, alert.alert_id)?,
            }
            None
        }
        (false, _) => None,
    };
    let by = session::current_user();
    let now = session::now();
    let changed = internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.alert SET status = 'resolved', resolved_at = $2, flapping = false, \
                resolved_by = pg_get_userbyid($3), note = COALESCE($4, note), closed_through = $5 \
              WHERE alert_id = $1 AND status IN ('open', 'acknowledged')",
            &[
                alert.alert_id.into(),
                sql::timestamptz(now)?.into(),
                by.into(),
                note.into(),
                through.map(sql::timestamptz).transpose()?.into(),
            ],
        )
    })?;
    if changed > 0 {
        let told = Told { alert_id: alert.alert_id, transition: "resolved", at: now };
        outbox::record(alert.owner, &[told])?;
    }
    Ok(changed > 0)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.resolve(bigint, text) IS
'ends an alert by hand: true when it was open. What is anomalous from then on opens another alert';"#,
    name = "resolve_comment",
    requires = [resolve]
);

/// Ends the episode in the entity's state; answers up to when the detector has judged.
fn end_episode(alert: &OwnedAlert) -> SqlResult<Option<i64>> {
    let row = lock(&alert.detector)?;
    let Some(model) = &row.model else { return Ok(row.watermark) };
    let core = row.detection(model.points_per_day)?;
    let mut states = EntityStates::load_one(&row, model.version, &alert.entity, None)?;
    let state = states.get(&row.detector, &core, alert.entity.as_bytes())?;
    if let Some((_, state)) = state.filter(|(_, s)| s.episode.latest_alert() == alert.alert_id) {
        state.episode = Episode::default();
        states.save(&row.detector, &core, model.version)?;
    }
    Ok(row.watermark)
}
