//! From the transitions of episodes to rows of `anomaly.alert`: one row per episode.

use std::collections::HashMap;

use anomaly_core::{Detector, EntityState, Episode, Outcome, Transition, Verdict};
use pgrx::{JsonB, datum::ToIsoString};
use serde_json::{Value, json};

use crate::{
    detector::{catalog::DetectorRow, states::EntityStates},
    error::SqlResult,
    pg::{internal_rights, session},
    sql,
};

/// Alerts per statement.
const BATCH: usize = 1000;

/// What one run does to one alert. The texts are those of the most deviating point, `None` while
/// an alert that was stored earlier has not become more deviating.
struct Draft {
    stored_id: Option<i64>,
    entity: String,
    /// Time of the point that opened it, or that changed it first.
    since: i64,
    episode: Episode,
    resolved_at: Option<i64>,
    texts: Option<(String, &'static str, Value)>,
}

/// The alerts that one run opens, changes and resolves, stored at its end.
#[derive(Default)]
pub struct AlertBook {
    drafts: Vec<Draft>,
    stored: HashMap<i64, usize>,
}

/// What `AlertBook::store` did.
#[derive(Debug, Default, Clone)]
pub struct StoredAlerts {
    pub opened: Vec<i64>,
    pub resolved: i64,
    /// Stored earlier and changed now.
    pub changed: Vec<i64>,
}

impl AlertBook {
    /// Takes note of what a point did. An alert that is not stored yet has the negative of its
    /// place here as `alert_id` until `store` knows the real one.
    pub fn note(
        &mut self,
        core: &Detector,
        entity: &str,
        state: &mut EntityState,
        outcome: &Outcome,
    ) {
        let Some(transition) = &outcome.transition else { return };
        let episode = *transition.episode();
        let place = match episode.alert_id {
            0 => {
                self.drafts.push(Draft {
                    stored_id: None,
                    entity: entity.to_owned(),
                    since: outcome.verdict.at,
                    episode,
                    resolved_at: None,
                    texts: None,
                });
                state.episode.alert_id = -(self.drafts.len() as i64);
                self.drafts.len() - 1
            }
            id if id < 0 => (-id - 1) as usize,
            id => *self.stored.entry(id).or_insert_with(|| {
                self.drafts.push(Draft {
                    stored_id: Some(id),
                    entity: entity.to_owned(),
                    since: outcome.verdict.at,
                    episode,
                    resolved_at: None,
                    texts: None,
                });
                self.drafts.len() - 1
            }),
        };
        let draft = &mut self.drafts[place];
        draft.episode = episode;
        if let Transition::Resolved(_) = transition {
            draft.resolved_at = Some(outcome.verdict.at);
        }
        if let Some(metadata) = &outcome.metadata {
            let peak = Verdict::from(&episode.peak);
            draft.texts = Some((
                core.description(&peak),
                core.suggestion(&peak),
                Value::Object(metadata.clone()),
            ));
        }
    }

    /// Writes the alerts and puts the real ids into the states of episodes that go on.
    pub fn store(
        self,
        row: &DetectorRow,
        states: &mut EntityStates,
        version: i32,
        run_id: Option<i64>,
    ) -> SqlResult<StoredAlerts> {
        let mut result = StoredAlerts::default();
        if self.drafts.is_empty() {
            return Ok(result);
        }
        let new = self.drafts.iter().filter(|d| d.stored_id.is_none()).count() as i64;
        let now = session::now();
        internal_rights::with(|| {
            let ids = sql::execute_returning(
                "SELECT nextval('anomaly.alert_id_seq') FROM generate_series(1, $1)",
                &[new.into()],
                |r| r.must::<i64>(1),
            )?;
            let mut fresh = ids.into_iter();
            let mut real_ids = vec![0; self.drafts.len()];
            let (mut inserts, mut updates) = (Vec::new(), Vec::new());
            // Ids rise with time, whatever the order in which entities were judged.
            let mut in_time: Vec<(usize, &Draft)> = self.drafts.iter().enumerate().collect();
            in_time.sort_by_key(|(_, draft)| draft.since);
            for (place, draft) in in_time {
                result.resolved += i64::from(draft.resolved_at.is_some());
                let id = match draft.stored_id {
                    Some(id) => {
                        result.changed.push(id);
                        updates.push(draft_json(draft, id)?);
                        id
                    }
                    None => {
                        let id = fresh.next().unwrap_or_default();
                        result.opened.push(id);
                        inserts.push(draft_json(draft, id)?);
                        id
                    }
                };
                real_ids[place] = id;
            }
            for batch in inserts.chunks(BATCH) {
                sql::execute(
                    INSERT,
                    &[
                        JsonB(Value::Array(batch.to_vec())).into(),
                        row.detector.as_str().into(),
                        row.owner.into(),
                        row.anomaly_type.as_str().into(),
                        row.strategy.as_str().into(),
                        row.metric_name.as_str().into(),
                        row.entity_type.as_deref().into(),
                        sql::timestamptz(now)?.into(),
                        version.into(),
                        run_id.into(),
                    ],
                )?;
            }
            for batch in updates.chunks(BATCH) {
                sql::execute(UPDATE, &[JsonB(Value::Array(batch.to_vec())).into()])?;
            }
            for state in states.touched() {
                let id = state.episode.alert_id;
                if id < 0 {
                    state.episode.alert_id = real_ids[(-id - 1) as usize];
                }
            }
            Ok(())
        })?;
        Ok(result)
    }
}

/// The slot of next month, and the time from which on alerts are kept when it is emptied: all but
/// the month that the slot last stood for.
pub fn next_slot(now: i64) -> SqlResult<(i16, i64)> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT ((extract(year FROM n) * 12 + extract(month FROM n)) % 16)::smallint, \
                    (date_trunc('month', n) - interval '15 months') AT TIME ZONE 'UTC' \
               FROM (SELECT $1 AT TIME ZONE 'UTC' + interval '1 month') AS next (n)",
            &[sql::timestamptz(now)?.into()],
            |row| Ok((row.must::<i16>(1)?, row.micros(2)?)),
        )
    })?;
    Ok(match found {
        Some((slot, Some(kept_from))) => (slot, kept_from),
        _ => (0, i64::MIN),
    })
}

/// One alert as a row for `jsonb_to_recordset`. Numbers that JSON lacks travel as text.
fn draft_json(draft: &Draft, id: i64) -> SqlResult<Value> {
    let number = |v: f64| {
        if v.is_finite() {
            json!(v)
        } else if v.is_nan() {
            Value::Null
        } else {
            json!(if v > 0.0 { "Infinity" } else { "-Infinity" })
        }
    };
    let instant = |at: i64| -> SqlResult<Value> {
        Ok(json!(sql::timestamptz(at)?.to_iso_string_with_timezone("UTC").map_err(|e| {
            crate::error::report(
                pgrx::PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
                e.to_string(),
            )
        })?))
    };
    let episode = &draft.episode;
    let peak = &episode.peak;
    let (description, suggestion, metadata) = match &draft.texts {
        Some((d, s, m)) => (json!(d), json!(s), m.clone()),
        None => (Value::Null, Value::Null, Value::Null),
    };
    Ok(json!({
        "alert_id": id,
        "entity": draft.entity,
        "status": if draft.resolved_at.is_some() { "resolved" } else { "open" },
        "severity": peak.severity().as_str(),
        "at": instant(episode.started_at)?,
        "last_at": instant(episode.last_at)?,
        "resolved_at": draft.resolved_at.map(instant).transpose()?,
        "points": episode.points.min(i32::MAX as u64),
        "peak_at": instant(peak.at)?,
        "value": number(peak.value),
        "expected": number(peak.expected),
        "lower": number(peak.lower),
        "upper": number(peak.upper),
        "deviation": number(peak.deviation),
        "score": 0.0 - libm::expm1(peak.ln_p),
        "p_value": libm::exp(peak.ln_p),
        "direction": peak.direction.as_str(),
        "description": description,
        "suggestion": suggestion,
        "metadata": metadata,
    }))
}

/// The slot is the month in which the alert is raised; see sql/alerts.sql.
const INSERT: &str = "\
    INSERT INTO anomaly.alert (slot, alert_id, detector, owner, status, anomaly_type, \
        detection_strategy, severity, entity, entity_type, metric_name, at, last_at, raised_at, \
        resolved_at, points, peak_at, value, expected, lower, upper, deviation, score, p_value, \
        direction, description, suggestion, metadata, model_version, run_id) \
    SELECT ((extract(year FROM $8 AT TIME ZONE 'UTC') * 12 \
            + extract(month FROM $8 AT TIME ZONE 'UTC')) % 16)::smallint, \
        n.alert_id, $2, $3::oid, n.status, $4, $5, n.severity, n.entity, $7, $6, n.at, n.last_at, \
        $8, n.resolved_at, n.points, n.peak_at, n.value, n.expected, n.lower, n.upper, \
        n.deviation, n.score, n.p_value, n.direction, n.description, n.suggestion, n.metadata, \
        $9, $10 \
      FROM jsonb_to_recordset($1) AS n (alert_id bigint, entity text, status text, \
        severity anomaly.severity, at timestamptz, last_at timestamptz, resolved_at timestamptz, \
        points int, peak_at timestamptz, value float8, expected float8, lower float8, \
        upper float8, deviation float8, score float8, p_value float8, direction text, \
        description text, suggestion text, metadata jsonb)";

const UPDATE: &str = "\
    UPDATE anomaly.alert a SET \
        status = CASE WHEN n.status = 'resolved' THEN 'resolved' ELSE a.status END, \
        severity = n.severity, last_at = n.last_at, \
        resolved_at = COALESCE(n.resolved_at, a.resolved_at), points = n.points, \
        peak_at = n.peak_at, value = n.value, expected = n.expected, lower = n.lower, \
        upper = n.upper, deviation = n.deviation, score = n.score, p_value = n.p_value, \
        direction = n.direction, description = COALESCE(n.description, a.description), \
        suggestion = COALESCE(n.suggestion, a.suggestion), \
        metadata = COALESCE(n.metadata, a.metadata) \
      FROM jsonb_to_recordset($1) AS n (alert_id bigint, status text, \
        severity anomaly.severity, last_at timestamptz, resolved_at timestamptz, points int, \
        peak_at timestamptz, value float8, expected float8, lower float8, upper float8, \
        deviation float8, score float8, p_value float8, direction text, description text, \
        suggestion text, metadata jsonb) \
     WHERE a.alert_id = n.alert_id";
