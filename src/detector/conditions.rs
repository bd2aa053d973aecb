//! Alerts that are no anomalies: what they have in common, whoever finds them ([`super::no_data`],
//! [`super::failures`]). They live as alerts of points do, and nothing is made up for them: no model has judged,
//! so that they have no value, no deviation and no score.

use anomaly_core::{
    Severity,
    incident::{Span, length},
};

use crate::{
    detector::{
        catalog::DetectorRow,
        incidents::{self, Inhibitors, New},
        silence::Silences,
    },
    error::SqlResult,
    handler::outbox::{self, Told},
    pg::{internal_rights, session},
    sql,
};

/// What is wrong with a detector or with one of its entities.
pub struct Condition<'a> {
    pub kind: &'static str,
    /// Empty for the detector as a whole.
    pub entity: &'a str,
    /// Since when.
    pub since: i64,
    /// When it became an alert; silences go by this time and by `until`.
    pub fired_at: i64,
    pub until: i64,
    pub severity: Severity,
    pub description: String,
    pub suggestion: &'static str,
}

/// Stores alerts and tells handlers; their numbers, in their order, and of how many people are to hear.
pub fn open(
    row: &DetectorRow,
    conditions: &[Condition],
    run_id: Option<i64>,
) -> SqlResult<(Vec<i64>, i64)> {
    let times = || conditions.iter().flat_map(|c| [c.fired_at, c.until]);
    let (Some(from), Some(until)) = (times().min(), times().max()) else {
        return Ok((Vec::new(), 0));
    };
    let silences = Silences::load(row, from, until)?;
    let inhibitors = Inhibitors::load(row, from)?;
    let new: Vec<New> = conditions
        .iter()
        .map(|c| New { entity: c.entity, span: Span { from: c.since, until: i64::MAX } })
        .collect();
    let placed = incidents::place(row, &new)?;
    let now = session::now();
    let mut ids = Vec::with_capacity(conditions.len());
    let mut told = Vec::new();
    for (condition, incident) in conditions.iter().zip(placed) {
        let Condition { entity, fired_at, until, severity, .. } = *condition;
        let silenced_by = silences.of(entity, severity, &[fired_at, until]);
        let inhibited_by = inhibitors.of(entity, Span { from: fired_at, until });
        let id = internal_rights::with(|| {
            sql::execute_returning(
                INSERT,
                &[
                    sql::timestamptz(now)?.into(),
                    row.detector.as_str().into(),
                    row.owner.into(),
                    condition.kind.into(),
                    row.anomaly_type.as_str().into(),
                    row.strategy.as_str().into(),
                    severity.as_str().into(),
                    entity.into(),
                    row.entity_type.as_deref().into(),
                    row.metric_name.as_str().into(),
                    sql::timestamptz(condition.since)?.into(),
                    sql::timestamptz(until)?.into(),
                    sql::timestamptz(fired_at)?.into(),
                    silenced_by.into(),
                    inhibited_by.into(),
                    incident.into(),
                    condition.description.as_str().into(),
                    condition.suggestion.into(),
                    row.model.as_ref().map(|model| model.version).into(),
                    run_id.into(),
                ],
                |r| r.must::<i64>(1),
            )
        })?;
        let Some(alert_id) = id.first().copied() else { continue };
        ids.push(alert_id);
        if silenced_by.is_none() && inhibited_by.is_none() {
            told.push(Told { alert_id, transition: "opened", at: until });
        }
    }
    outbox::record(row.owner, &told)?;
    Ok((ids, told.len() as i64))
}

const INSERT: &str = "\
    INSERT INTO anomaly.alert (slot, detector, owner, kind, status, anomaly_type, detection_strategy, \
        severity, entity, entity_type, metric_name, at, last_at, raised_at, silenced_by, inhibited_by, \
        incident_id, points, peak_at, description, suggestion, model_version, run_id) \
    SELECT ((extract(year FROM $1 AT TIME ZONE 'UTC') * 12 \
            + extract(month FROM $1 AT TIME ZONE 'UTC')) % 16)::smallint, \
        $2, $3::oid, $4, 'open', $5, $6, $7::anomaly.severity, $8, $9, $10, $11, $12, $1, $14, $15, \
        $16, 0, $13, $17, $18, $19, $20 RETURNING alert_id";

/// An alert that is over.
pub struct Over {
    pub alert_id: i64,
    pub at: i64,
}

/// Resolves those of the alerts that are open, and says in each how long it lasted; how many there were.
/// `what`: how their description ends.
pub fn end(row: &DetectorRow, over: &[Over], what: &str) -> SqlResult<i64> {
    let mut told = Vec::new();
    for Over { alert_id, at } in over {
        let since = internal_rights::with(|| {
            sql::row(
                "SELECT at FROM anomaly.alert WHERE alert_id = $1",
                &[(*alert_id).into()],
                |r| r.micros(1),
            )
        })?;
        let Some(since) = since.flatten() else { continue };
        let lasted = length(at.saturating_sub(since));
        let ended = internal_rights::with(|| {
            sql::execute(
                "UPDATE anomaly.alert SET status = 'resolved', resolved_at = $2, last_at = $2, \
                    description = description || $3 \
                  WHERE alert_id = $1 AND status IN ('open', 'acknowledged')",
                &[
                    (*alert_id).into(),
                    sql::timestamptz(*at)?.into(),
                    format!("; {what} after {lasted}").into(),
                ],
            )
        })?;
        if ended > 0 {
            told.push(Told { alert_id: *alert_id, transition: "resolved", at: *at });
        }
    }
    outbox::record(row.owner, &told)?;
    Ok(told.len() as i64)
}

/// Tells of those of these open alerts of which a silence, or another alert, has kept people from hearing until
/// now; how many there were.
pub fn tell_at_last(row: &DetectorRow, alerts: &[i64], at: i64) -> SqlResult<i64> {
    if alerts.is_empty() {
        return Ok(0);
    }
    let hushed = internal_rights::with(|| {
        sql::execute_returning(
            "SELECT alert_id, entity, severity::text FROM anomaly.alert \
              WHERE alert_id = ANY ($1) AND status IN ('open', 'acknowledged') \
                AND (silenced_by IS NOT NULL OR inhibited_by IS NOT NULL) ORDER BY alert_id",
            &[alerts.to_vec().into()],
            |r| {
                let severity = r.must::<String>(3)?.parse().unwrap_or(Severity::Info);
                Ok((r.must::<i64>(1)?, r.must::<String>(2)?, severity))
            },
        )
    })?;
    if hushed.is_empty() {
        return Ok(0);
    }
    let silences = Silences::load(row, at, at)?;
    let inhibitors = Inhibitors::load(row, at)?;
    let mut told = Vec::new();
    for (alert_id, entity, severity) in hushed {
        let is_hushed = silences.of(&entity, severity, &[at]).is_some()
            || inhibitors.of(&entity, Span { from: at, until: at }).is_some();
        if !is_hushed {
            told.push(Told { alert_id, transition: "opened", at });
        }
    }
    let ids: Vec<i64> = told.iter().map(|told| told.alert_id).collect();
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.alert SET silenced_by = NULL, inhibited_by = NULL \
              WHERE alert_id = ANY ($1)",
            &[ids.into()],
        )
    })?;
    outbox::record(row.owner, &told)?;
    Ok(told.len() as i64)
}
