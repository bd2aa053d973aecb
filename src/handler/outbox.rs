//! Writing the outbox: one row for each transition of an alert and each handler that it concerns, in the
//! commit that changes the alert.

use std::collections::HashMap;

use anomaly_core::{
    Severity,
    handler::{Matchers, Subject, Template},
};
use pgrx::{JsonB, datum::ToIsoString, pg_sys};
use serde_json::{Map, Value, json};

use crate::{
    error::{SqlResult, from_core},
    gucs,
    pg::{internal_rights, session},
    sql, worker,
};

/// Transitions per statement.
const BATCH: usize = 1000;

/// What a template can show: fields of `anomaly.alerts`, and of the transition.
pub const FIELDS: [&str; 32] = [
    "metric_name",
    "value",
    "expected",
    "lower",
    "upper",
    "deviation",
    "severity",
    "description",
    "suggestion",
    "entity",
    "entity_type",
    "at",
    "last_at",
    "peak_at",
    "raised_at",
    "resolved_at",
    "duration",
    "points",
    "detector",
    "anomaly_type",
    "detection_strategy",
    "direction",
    "score",
    "p_value",
    "status",
    "reopened",
    "note",
    "id",
    "uuid",
    "transition",
    "transition_at",
    "handler",
];

/// Something that has happened to a stored alert.
#[derive(Debug, Clone)]
pub struct Told {
    pub alert_id: i64,
    /// One of [`anomaly_core::handler::TRANSITIONS`].
    pub transition: &'static str,
    /// When, by the time of the points.
    pub at: i64,
}

/// Whether handlers of this kind are called in the database.
pub fn is_delivered_here(kind: &str) -> bool {
    matches!(kind, "function" | "notify")
}

struct Handler {
    name: String,
    kind: String,
    matchers: Matchers,
    template: Option<Template>,
}

fn handlers_of(owner: pg_sys::Oid) -> SqlResult<Vec<Handler>> {
    let stored = internal_rights::with(|| {
        sql::rows(
            "SELECT handler, kind, matchers, template FROM anomaly.handler \
              WHERE owner = $1::oid AND enabled ORDER BY rank, handler",
            &[owner.into()],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<String>(2)?,
                    row.must::<JsonB>(3)?.0,
                    row.get::<String>(4)?,
                ))
            },
        )
    })?;
    let read = |(name, kind, matchers, template): (String, String, Value, Option<String>)| {
        Ok(Handler {
            name,
            kind,
            matchers: Matchers::parse(&matchers).map_err(from_core)?,
            template: template
                .map(|text| Template::parse(&text, &FIELDS))
                .transpose()
                .map_err(from_core)?,
        })
    };
    stored.into_iter().map(read).collect()
}

/// Writes what handlers of the owner are to be told, in the order in which it happened. The alerts are stored
/// as they are now; of those that are silenced nothing is told.
pub fn record(owner: pg_sys::Oid, told: &[Told]) -> SqlResult<()> {
    if told.is_empty() || !gucs::notifications() {
        return Ok(());
    }
    let handlers = handlers_of(owner)?;
    if handlers.is_empty() {
        return Ok(());
    }
    let now = session::now();
    let mut due_here = false;
    for batch in told.chunks(BATCH) {
        let alerts = number(batch)?;
        let mut next: HashMap<i64, i32> = alerts.iter().map(|(id, (n, _))| (*id, *n)).collect();
        let mut rows = Vec::new();
        for told in batch {
            let Some((_, alert)) = alerts.get(&told.alert_id) else { continue };
            let Some(sequence) = next.get_mut(&told.alert_id) else { continue };
            *sequence += 1;
            if alert.get("silenced_by").is_some_and(|by| !by.is_null()) {
                continue;
            }
            for handler in &handlers {
                if handler.matchers.matches(&subject(alert, told.transition)) {
                    due_here |= is_delivered_here(&handler.kind);
                    rows.push(json!({
                        "alert_id": told.alert_id,
                        "sequence": sequence,
                        "transition": told.transition,
                        "handler": handler.name,
                        "detector": text(alert, "detector"),
                        "payload": payload(alert, told, *sequence, handler)?,
                    }));
                }
            }
        }
        write(owner, rows, now)?;
    }
    // A worker that scans delivers by itself.
    if due_here && !worker::is_scan_worker() {
        worker::notify_due(now);
    }
    Ok(())
}

/// The number of the transition before, and the alert.
type Numbered = (i32, Map<String, Value>);

/// Reserves numbers for the transitions, by alert.
fn number(told: &[Told]) -> SqlResult<HashMap<i64, Numbered>> {
    let mut counts: HashMap<i64, i32> = HashMap::new();
    for told in told {
        *counts.entry(told.alert_id).or_default() += 1;
    }
    let (ids, counts): (Vec<i64>, Vec<i32>) = counts.into_iter().unzip();
    internal_rights::with(|| {
        let before: HashMap<i64, i32> = sql::execute_returning(
            "UPDATE anomaly.alert a SET transitions = a.transitions + n.count \
               FROM unnest($1::bigint[], $2::int[]) AS n (alert_id, count) \
              WHERE a.alert_id = n.alert_id RETURNING a.alert_id, a.transitions - n.count",
            &[ids.clone().into(), counts.into()],
            |row| Ok((row.must::<i64>(1)?, row.must::<i32>(2)?)),
        )?
        .into_iter()
        .collect();
        let alerts = sql::rows(
            "SELECT v.id, to_jsonb(v) FROM anomaly.alerts v WHERE v.id = ANY ($1)",
            &[ids.into()],
            |row| Ok((row.must::<i64>(1)?, row.must::<JsonB>(2)?.0)),
        )?;
        let numbered = alerts.into_iter().filter_map(|(id, alert)| match alert {
            Value::Object(alert) => Some((id, (*before.get(&id)?, alert))),
            _ => None,
        });
        Ok(numbered.collect())
    })
}

fn text<'a>(alert: &'a Map<String, Value>, field: &str) -> &'a str {
    alert.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn subject<'a>(alert: &'a Map<String, Value>, transition: &'a str) -> Subject<'a> {
    let severity = text(alert, "severity");
    Subject {
        detector: text(alert, "detector"),
        entity: text(alert, "entity"),
        anomaly_type: text(alert, "anomaly_type"),
        severity: Severity::ALL
            .into_iter()
            .find(|s| s.as_str() == severity)
            .unwrap_or(Severity::Info),
        transition,
    }
}

/// The alert with its transition, and the text for people.
fn payload(
    alert: &Map<String, Value>,
    told: &Told,
    sequence: i32,
    handler: &Handler,
) -> SqlResult<Value> {
    let mut payload = alert.clone();
    let at = sql::timestamptz(told.at)?.to_iso_string();
    payload.insert("transition".into(), json!(told.transition));
    payload.insert("transition_at".into(), json!(at));
    payload.insert("sequence".into(), json!(sequence));
    payload.insert("handler".into(), json!(handler.name));
    let text = match &handler.template {
        Some(template) => template.render(&payload),
        None => text(alert, "description").to_owned(),
    };
    payload.insert("text".into(), json!(text));
    Ok(Value::Object(payload))
}

/// Forgets messages that nobody has taken in two weeks: they are no news any more.
pub fn make_room(now: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.outbox WHERE created_at < $1 - interval '14 days'",
            &[sql::timestamptz(now)?.into()],
        )
    })?;
    Ok(())
}

/// While an earlier message of the same alert to the same handler waits to be tried again, a later one
/// waits with it.
fn write(owner: pg_sys::Oid, rows: Vec<Value>, now: i64) -> SqlResult<()> {
    for batch in rows.chunks(BATCH) {
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.outbox (alert_id, sequence, transition, handler, owner, detector, \
                    payload, created_at, next_try) \
                 SELECT n.alert_id, n.sequence, n.transition, n.handler, $2::oid, n.detector, n.payload, \
                        $3, greatest($3, (SELECT max(e.next_try) FROM anomaly.outbox e \
                            WHERE e.handler = n.handler AND e.alert_id = n.alert_id \
                              AND e.last_error IS NOT NULL AND NOT e.dead)) \
                   FROM ROWS FROM (jsonb_to_recordset($1) AS (alert_id bigint, sequence int, \
                        transition text, handler text, detector text, payload jsonb)) \
                        WITH ORDINALITY AS n (alert_id, sequence, transition, handler, detector, \
                        payload, place) \
                  ORDER BY n.place",
                &[
                    JsonB(Value::Array(batch.to_vec())).into(),
                    owner.into(),
                    sql::timestamptz(now)?.into(),
                ],
            )
        })?;
    }
    Ok(())
}
