//! Writing the outbox: one row for each transition of an alert and each handler that it concerns, in the
//! commit that changes the alert.

use std::collections::{BTreeMap, HashMap, HashSet};

use anomaly_core::{
    Severity,
    handler::{Matchers, Subject, Template},
    incident::{Heard, Whole, hear},
};
use pgrx::{JsonB, datum::ToIsoString, pg_sys};
use serde_json::{Map, Value, json};

use crate::{
    detector::incidents,
    error::{SqlResult, from_core},
    gucs,
    pg::{internal_rights, session},
    sql, worker,
};

/// Transitions per statement.
const BATCH: usize = 1000;

/// What a template can show: fields of `anomaly.alerts`, and of the transition.
pub const FIELDS: [&str; 34] = [
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
    "kind",
    "incident_id",
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
    /// Told of incidents, and not of each alert.
    per_incident: bool,
    matchers: Matchers,
    template: Option<Template>,
}

fn handlers_of(owner: pg_sys::Oid) -> SqlResult<Vec<Handler>> {
    let stored = internal_rights::with(|| {
        sql::rows(
            "SELECT handler, kind, matchers, template, per = 'incident' FROM anomaly.handler \
              WHERE owner = $1::oid AND enabled ORDER BY rank, handler",
            &[owner.into()],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<String>(2)?,
                    row.must::<JsonB>(3)?.0,
                    row.get::<String>(4)?,
                    row.must::<bool>(5)?,
                ))
            },
        )
    })?;
    let read = |(name, kind, matchers, template, per_incident): (
        String,
        String,
        Value,
        Option<String>,
        bool,
    )| {
        Ok(Handler {
            name,
            kind,
            per_incident,
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
/// as they are now; of those that are silenced or inhibited nothing is told, and of more than
/// `messages_per_scan` alerts each handler gets one summary.
pub fn record(owner: pg_sys::Oid, told: &[Told]) -> SqlResult<()> {
    // Of what is replayed nothing is left, and it must not wait for what is going on.
    if told.is_empty() || !gucs::notifications() || session::is_replaying() {
        return Ok(());
    }
    let handlers = handlers_of(owner)?;
    if handlers.is_empty() {
        return Ok(());
    }
    let now = session::now();
    let mut due_here = false;
    let mut hearings = Hearings::open(owner, &handlers, told)?;
    let mut storms: Vec<Storm> = handlers.iter().map(|_| Storm::default()).collect();
    for (nth, batch) in told.chunks(BATCH).enumerate() {
        let alerts = number(batch)?;
        let mut next: HashMap<i64, i32> = alerts.iter().map(|(id, (n, _))| (*id, *n)).collect();
        let mut rows = Vec::new();
        for (i, told) in batch.iter().enumerate() {
            let Some((_, alert)) = alerts.get(&told.alert_id) else { continue };
            let Some(sequence) = next.get_mut(&told.alert_id) else { continue };
            *sequence += 1;
            let has = |field: &str| alert.get(field).is_some_and(|value| !value.is_null());
            let is_hushed = has("silenced_by") || has("inhibited_by");
            for (handler, storm) in handlers.iter().zip(&mut storms) {
                let incident = alert.get("incident_id").and_then(Value::as_i64);
                let (transition, incident) = match incident.filter(|_| handler.per_incident) {
                    Some(id) if hearings.are_known => {
                        let place = nth * BATCH + i;
                        let heard = hearings.hear(id, handler, told, place, alert, is_hushed);
                        (heard, hearings.wholes.get(&id))
                    }
                    _ => {
                        let matches = handler.matchers.matches(&subject(alert, told.transition));
                        ((matches && !is_hushed).then_some(told.transition), None)
                    }
                };
                let Some(transition) = transition else { continue };
                due_here |= is_delivered_here(&handler.kind);
                if storm.holds_back(told, transition, *sequence, alert) {
                    continue;
                }
                let told = Told { transition, ..told.clone() };
                rows.push(message(&told, *sequence, handler, alert, incident)?);
            }
        }
        write(owner, rows, now)?;
    }
    hearings.store()?;
    let summaries =
        handlers.iter().zip(storms).filter_map(|(handler, storm)| storm.summary(handler));
    write(owner, summaries.collect::<SqlResult<Vec<Value>>>()?, now)?;
    // A worker that scans delivers by itself.
    if due_here && !worker::is_scan_worker() {
        worker::notify_due(now);
    }
    Ok(())
}

/// A row of the outbox.
fn message(
    told: &Told,
    sequence: i32,
    handler: &Handler,
    alert: &Map<String, Value>,
    incident: Option<&Incident>,
) -> SqlResult<Value> {
    Ok(json!({
        "alert_id": told.alert_id,
        "sequence": sequence,
        "transition": told.transition,
        "handler": handler.name,
        "detector": text(alert, "detector"),
        "payload": payload(alert, told, sequence, handler, incident)?,
    }))
}

/// Alerts of which a handler is not told one by one, because it has been told of so many at once.
#[derive(Default)]
struct Storm {
    told: HashSet<i64>,
    held_back: HashSet<i64>,
    /// By transition.
    counts: BTreeMap<&'static str, usize>,
    /// The most severe of them.
    worst: Option<(Severity, Told, i32, Map<String, Value>)>,
}

impl Storm {
    /// Whether it becomes a part of the summary.
    fn holds_back(
        &mut self,
        told: &Told,
        transition: &'static str,
        sequence: i32,
        alert: &Map<String, Value>,
    ) -> bool {
        if self.told.contains(&told.alert_id) {
            return false;
        }
        if self.told.len() < gucs::messages_per_scan() {
            self.told.insert(told.alert_id);
            return false;
        }
        self.held_back.insert(told.alert_id);
        *self.counts.entry(transition).or_default() += 1;
        let severity = severity(alert);
        if self.worst.as_ref().is_none_or(|(worst, ..)| severity > *worst) {
            self.worst = Some((severity, told.clone(), sequence, alert.clone()));
        }
        true
    }

    /// What the handler is told of all of them: the place in the order of messages is that of the most severe.
    fn summary(self, handler: &Handler) -> Option<SqlResult<Value>> {
        let (_, told, sequence, alert) = self.worst?;
        let further = self.held_back.len();
        let counts: Vec<String> =
            self.counts.iter().map(|(transition, n)| format!("{n} {transition}")).collect();
        let text = format!(
            "{further} further alert{} of {}: {}; the most severe: {}",
            if further == 1 { "" } else { "s" },
            text(&alert, "detector"),
            counts.join(", "),
            text(&alert, "description"),
        );
        let told = Told { transition: "summary", ..told };
        let row = message(&told, sequence, handler, &alert, None).map(|mut row| {
            if let Some(payload) = row.get_mut("payload").and_then(Value::as_object_mut) {
                payload.insert("further".into(), json!(further));
                payload.insert("transitions".into(), json!(self.counts));
                payload.insert("text".into(), json!(text));
            }
            row
        });
        Some(row)
    }
}

/// How an incident stands now.
struct Incident {
    whole: Whole,
    alerts: i64,
    severity: Severity,
    /// Of the last that has happened to its alerts among what is told.
    last: usize,
}

/// What handlers that are told per incident have heard of the incidents of what has happened.
struct Hearings {
    /// False where another transaction is at the incidents too: then each alert is told.
    are_known: bool,
    wholes: HashMap<i64, Incident>,
    heard: HashMap<(i64, String), Heard>,
    changed: HashSet<(i64, String)>,
}

impl Hearings {
    fn open(owner: pg_sys::Oid, handlers: &[Handler], told: &[Told]) -> SqlResult<Hearings> {
        let mut hearings = Hearings {
            are_known: false,
            wholes: HashMap::new(),
            heard: HashMap::new(),
            changed: HashSet::new(),
        };
        if !handlers.iter().any(|handler| handler.per_incident) || !incidents::lock(owner) {
            return Ok(hearings);
        }
        hearings.are_known = true;
        let ids: Vec<i64> = told.iter().map(|told| told.alert_id).collect();
        internal_rights::with(|| {
            let of: HashMap<i64, i64> = sql::execute_returning(
                "SELECT alert_id, incident_id FROM anomaly.alert \
                  WHERE alert_id = ANY ($1) AND incident_id IS NOT NULL",
                &[ids.into()],
                |row| Ok((row.must::<i64>(1)?, row.must::<i64>(2)?)),
            )?
            .into_iter()
            .collect();
            let mut last: HashMap<i64, usize> = HashMap::new();
            for (place, told) in told.iter().enumerate() {
                if let Some(incident) = of.get(&told.alert_id) {
                    last.insert(*incident, place);
                }
            }
            let incidents: Vec<i64> = last.keys().copied().collect();
            let wholes = sql::execute_returning(
                "SELECT incident_id, bool_or(status = 'open'), bool_or(status = 'acknowledged'), \
                        count(*) FILTER (WHERE status <> 'withdrawn'), \
                        COALESCE(max(severity_rank) FILTER (WHERE status <> 'withdrawn'), 0)::int \
                   FROM anomaly.alert WHERE incident_id = ANY ($1) GROUP BY incident_id",
                &[incidents.clone().into()],
                |row| {
                    let alerts = row.must::<i64>(4)?;
                    let whole = match (row.must::<bool>(2)?, row.must::<bool>(3)?) {
                        (true, _) => Whole::Open,
                        (false, true) => Whole::Acknowledged,
                        _ if alerts > 0 => Whole::Resolved,
                        _ => Whole::Withdrawn,
                    };
                    let severity = by_rank(row.must::<i32>(5)?);
                    Ok((row.must::<i64>(1)?, whole, alerts, severity))
                },
            )?;
            for (id, whole, alerts, severity) in wholes {
                let last = last.get(&id).copied().unwrap_or(0);
                hearings.wholes.insert(id, Incident { whole, alerts, severity, last });
            }
            let heard = sql::execute_returning(
                "SELECT incident_id, handler, severity_rank::int, ended FROM anomaly.incident_hearing \
                  WHERE incident_id = ANY ($1)",
                &[incidents.into()],
                |row| {
                    let heard =
                        Heard { severity: by_rank(row.must::<i32>(3)?), ended: row.must(4)? };
                    Ok(((row.must::<i64>(1)?, row.must::<String>(2)?), heard))
                },
            )?;
            hearings.heard.extend(heard);
            Ok(())
        })?;
        Ok(hearings)
    }

    /// What the handler is told when this happens to an alert of an incident.
    fn hear(
        &mut self,
        incident: i64,
        handler: &Handler,
        told: &Told,
        place: usize,
        alert: &Map<String, Value>,
        is_hushed: bool,
    ) -> Option<&'static str> {
        let begins = ["opened", "reopened", "escalated"].contains(&told.transition);
        if begins
            && (is_hushed || !handler.matchers.matches_alert(&subject(alert, told.transition)))
        {
            return None;
        }
        let of = self.wholes.get(&incident)?;
        let key = (incident, handler.name.clone());
        let before = self.heard.get(&key).copied();
        let (transition, now) =
            hear(before, told.transition, severity(alert), of.whole, of.last == place);
        if let Some(heard) = now.filter(|_| now != before) {
            self.heard.insert(key.clone(), heard);
            self.changed.insert(key);
        }
        transition.filter(|transition| handler.matchers.admits(transition))
    }

    fn store(&self) -> SqlResult<()> {
        for (incident, handler) in &self.changed {
            let Some(heard) = self.heard.get(&(*incident, handler.clone())) else { continue };
            internal_rights::with(|| {
                sql::execute(
                    "INSERT INTO anomaly.incident_hearing (incident_id, handler, severity_rank, ended) \
                     VALUES ($1, $2, $3, $4) ON CONFLICT (incident_id, handler) DO UPDATE SET \
                        severity_rank = EXCLUDED.severity_rank, ended = EXCLUDED.ended",
                    &[
                        (*incident).into(),
                        handler.as_str().into(),
                        (heard.severity as i16).into(),
                        heard.ended.into(),
                    ],
                )
            })?;
        }
        Ok(())
    }
}

fn by_rank(rank: i32) -> Severity {
    let rank = usize::try_from(rank).unwrap_or(0);
    Severity::ALL.get(rank).copied().unwrap_or(Severity::Emergency)
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

fn severity(alert: &Map<String, Value>) -> Severity {
    text(alert, "severity").parse().unwrap_or(Severity::Info)
}

fn subject<'a>(alert: &'a Map<String, Value>, transition: &'a str) -> Subject<'a> {
    Subject {
        detector: text(alert, "detector"),
        entity: text(alert, "entity"),
        anomaly_type: text(alert, "anomaly_type"),
        kind: text(alert, "kind"),
        severity: severity(alert),
        transition,
    }
}

/// The alert with its transition, and the text for people.
fn payload(
    alert: &Map<String, Value>,
    told: &Told,
    sequence: i32,
    handler: &Handler,
    incident: Option<&Incident>,
) -> SqlResult<Value> {
    let mut payload = alert.clone();
    let at = sql::timestamptz(told.at)?.to_iso_string();
    payload.insert("transition".into(), json!(told.transition));
    payload.insert("transition_at".into(), json!(at));
    payload.insert("sequence".into(), json!(sequence));
    payload.insert("handler".into(), json!(handler.name));
    let mut text = match &handler.template {
        Some(template) => template.render(&payload),
        None => text(alert, "description").to_owned(),
    };
    if let Some(incident) = incident {
        if incident.alerts > 1 && handler.template.is_none() {
            text.push_str(&format!(" (incident of {} alerts)", incident.alerts));
        }
        let whole = json!({"alerts": incident.alerts, "severity": incident.severity.as_str(),
                           "status": incident.whole.as_str()});
        payload.insert("incident".into(), whole);
    }
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
