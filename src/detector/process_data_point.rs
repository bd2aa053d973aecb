//! `anomaly.process_data_point`: judges one point that the caller brings.
//!
//! Its detectors are those without a source. The point is kept in `anomaly.sample`, so that they
//! can be trained on what they were shown.

use std::{collections::BTreeSet, time::Instant};

use anomaly_core::Point;
use pgrx::{JsonB, datum::TimestampWithTimeZone, pg_sys::panic::ErrorReport, prelude::*};
use serde_json::{Map, Value};

use crate::{
    detector::{
        alerts::AlertBook,
        catalog::DetectorRow,
        failures,
        scan::{SAMPLE_SLOTS, durations, finish, judge, lock, sample_slot},
        states::{EntityStates, decode_shared},
        train,
    },
    error::{SqlResult, invalid, report, required},
    json,
    pg::{
        internal_rights,
        json_arg::JsonArg,
        session,
        subxact::{self, Caught},
    },
    run, sql,
};

const DAY: i64 = 86_400_000_000;
const NOT_METRICS: [&str; 4] = ["timestamp", "entity_id", "entity_type", "features"];

/// Whether keys of a data point can be features of this metric.
///
/// # Errors
/// 22023 for the keys that have another meaning and for the metric itself.
pub fn check_features(features: &[String], metric: &str) -> SqlResult<()> {
    for name in features {
        if NOT_METRICS.contains(&name.as_str()) || name == metric {
            return Err(invalid(
                format!("key \"{name}\" of a data point cannot be a feature of \"{metric}\""),
                "name other keys, those of numbers that are judged together with the metric",
            ));
        }
    }
    Ok(())
}

/// A point as it came: metric values by name, with the keys timestamp, entity_id, entity_type.
struct DataPoint<'a> {
    at: i64,
    entity: String,
    entity_type: Option<&'a str>,
    metrics: Vec<(&'a str, &'a Value)>,
    /// The object under the key features: numbers that are no metrics.
    features: Option<&'a Map<String, Value>>,
}

impl<'a> DataPoint<'a> {
    fn read(point: &'a Value) -> SqlResult<Self> {
        let Some(map) = point.as_object() else {
            return Err(invalid(
                "the data point is not a JSON object",
                r#"for example '{"cpu_usage": 0.7, "entity_id": "web1"}'"#,
            ));
        };
        let at = match map.get("timestamp") {
            None | Some(Value::Null) => session::now(),
            Some(Value::String(text)) => {
                // PostgreSQL's own error (22007) for a text that is no timestamp.
                let at = sql::row(
                    "SELECT $1::pg_catalog.timestamptz",
                    &[text.as_str().into()],
                    |row| row.micros(1),
                )?;
                at.flatten().unwrap_or_default()
            }
            Some(other) => {
                return Err(invalid(
                    format!("timestamp {other} is not a text"),
                    "write it as ISO 8601, for example \"2026-01-31T12:00:00Z\"",
                ));
            }
        };
        if at == i64::MAX || at == i64::MIN {
            return Err(invalid("the timestamp is infinite", "give the time of the measurement"));
        }
        let entity = match map.get("entity_id") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => {
                return Err(invalid(
                    format!("entity_id {other} is neither text nor number"),
                    "give the entity's name",
                ));
            }
        };
        let features = match map.get("features") {
            None | Some(Value::Null) => None,
            Some(Value::Object(features)) => Some(features),
            Some(other) => {
                return Err(invalid(
                    format!("features {other} is not an object"),
                    r#"for example "features": {"errors": 3, "weekend": false}"#,
                ));
            }
        };
        let metrics = map
            .iter()
            .filter(|(key, _)| !NOT_METRICS.contains(&key.as_str()))
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        Ok(DataPoint {
            at,
            entity,
            entity_type: map.get("entity_type").and_then(Value::as_str),
            metrics,
            features,
        })
    }

    /// The number under a key, within the object `features` or among the metrics; NaN for one that is
    /// missing or null.
    ///
    /// # Errors
    /// 22023 naming the key for what is no number, true or false.
    fn feature(&self, name: &str) -> SqlResult<f64> {
        let metric = || self.metrics.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        json::feature(name, self.features.and_then(|map| map.get(name)).or_else(metric))
    }

    /// Those of these features that are numbers, as they are kept: JSON has no infinity, its text is
    /// read as one. `None` where there is none. Whoever judges by one that is no number says so.
    fn kept_features(&self, names: &BTreeSet<String>) -> Option<JsonB> {
        let mut kept = Map::new();
        for name in names {
            let value = self.feature(name).unwrap_or(f64::NAN);
            let json = match serde_json::Number::from_f64(value) {
                Some(number) => Value::Number(number),
                None if value.is_nan() => continue,
                None => Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" }),
            };
            kept.insert(name.clone(), json);
        }
        (!kept.is_empty()).then_some(JsonB(Value::Object(kept)))
    }
}

/// The value of a metric; `None` for null.
fn metric_value(metric: &str, value: &Value) -> SqlResult<Option<f64>> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        // JSON has no NaN and no infinity; PostgreSQL's spelling is taken.
        Value::String(text) if ["NaN", "Infinity", "-Infinity"].contains(&text.as_str()) => {
            Ok(text.parse().ok())
        }
        other => Err(invalid(
            format!("metric \"{metric}\" is {other}, not a number"),
            "give a JSON number, null, or \"NaN\", \"Infinity\", \"-Infinity\"",
        )),
    }
}

/// Judges the point by every enabled detector without source that the caller owns and whose metric
/// is a key of the point; answers the alerts that it opened or belongs to. A detector that fails warns and
/// shows in anomaly.health; the others judge all the same.
///
/// # Errors
/// 22023 for a point that is not a flat object of numbers, 22007 for a bad timestamp, 55000 while
/// paused.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn process_data_point(
    point: Option<JsonArg>,
    anomaly_types: default!(Option<Vec<String>>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(alert, i64),
            name!(detector, String),
            name!(severity, String),
            name!(entity, Option<String>),
            name!(metric_name, String),
            name!(at, TimestampWithTimeZone),
            name!(value, f64),
            name!(expected, Option<f64>),
            name!(lower, Option<f64>),
            name!(upper, Option<f64>),
            name!(deviation, f64),
            name!(description, String),
            name!(suggestion, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let point = required(point, "point")?;
    check_may_judge(anomaly_types.as_deref())?;
    let judged = judge_point(&point.0, anomaly_types.as_deref(), true)?;
    judged.warn();
    announce(&judged.alerts)?;
    let rows = alerts(judged.alerts)?.into_iter().map(|alert| {
        (
            alert.id,
            alert.detector,
            alert.severity,
            alert.entity,
            alert.metric_name,
            alert.at,
            alert.value,
            alert.expected,
            alert.lower,
            alert.upper,
            alert.deviation,
            alert.description,
            alert.suggestion,
        )
    });
    Ok(TableIterator::new(rows))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.process_data_point(jsonb, text[]) IS
'judges one point by the detectors without source; answers the alerts it opened or belongs to';"#,
    name = "process_data_point_comment",
    requires = [process_data_point]
);

/// # Errors
/// 55000 while paused, 22023 for an unknown anomaly type.
pub fn check_may_judge(anomaly_types: Option<&[String]>) -> SqlResult<()> {
    if let Some(reason) = run::paused()? {
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, reason)
            .set_hint("SELECT anomaly.resume()"));
    }
    for anomaly_type in anomaly_types.unwrap_or_default() {
        crate::anomaly_type::check(anomaly_type)?;
    }
    Ok(())
}

/// What came of one point.
#[derive(Default)]
pub struct Judged {
    /// That it opened or belongs to.
    pub alerts: Vec<i64>,
    /// Detectors that could not judge it.
    pub failures: Vec<(String, Caught)>,
}

impl Judged {
    /// Warns of each detector that failed.
    pub fn warn(&self) {
        for (detector, caught) in &self.failures {
            pgrx::warning!(
                "detector \"{detector}\" failed: {} ({})",
                caught.message,
                caught.sqlstate
            );
        }
    }
}

/// Judges one point. With `isolated`, a detector that fails is recorded and the others go on; without, its
/// error is that of the point.
pub fn judge_point(
    point: &Value,
    anomaly_types: Option<&[String]>,
    isolated: bool,
) -> SqlResult<Judged> {
    let data = DataPoint::read(point)?;
    let caller = session::current_user();
    let mut judged = Judged::default();
    for (metric, value) in &data.metrics {
        let detectors = internal_rights::with(|| {
            sql::rows(
                "SELECT detector, enabled AND ($3 IS NULL OR anomaly_type = ANY ($3)), \
                    feature_columns \
                 FROM anomaly.detector WHERE source_kind = 'points' \
                 AND metric_name = $1 AND owner = $2::oid ORDER BY detector",
                &[(*metric).into(), caller.into(), anomaly_types.map(<[String]>::to_vec).into()],
                |row| {
                    Ok((row.must::<String>(1)?, row.must::<bool>(2)?, row.must::<Vec<String>>(3)?))
                },
            )
        })?;
        if !detectors.iter().any(|(_, judges, _)| *judges) {
            continue;
        }
        let Some(value) = metric_value(metric, value)? else { continue };
        // What is no number is the point's fault, and no detector's.
        for name in detectors.iter().filter(|(_, judges, _)| *judges).flat_map(|(.., names)| names)
        {
            data.feature(name)?;
        }
        // One sample is for all of them, those that do not judge now too.
        let features = detectors.iter().flat_map(|(_, _, features)| features).cloned().collect();
        keep_sample(metric, &data, value, data.kept_features(&features), caller)?;
        for (detector, ..) in detectors.into_iter().filter(|(_, judges, _)| *judges) {
            if !isolated {
                judged.alerts.extend(judge_one(&detector, &data, value)?);
                continue;
            }
            match subxact::attempt(|| judge_one(&detector, &data, value)) {
                Ok(alerts) => judged.alerts.extend(alerts),
                Err(caught) if caught.is_transient() => return Err(caught.into_report()),
                Err(caught) => {
                    record_failure(&detector, &caught)?;
                    judged.failures.push((detector, caught));
                }
            }
        }
    }
    Ok(judged)
}

/// The next point that it judges takes it back.
fn record_failure(detector: &str, caught: &Caught) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET consecutive_failures = consecutive_failures + 1, \
                failures = failures + 1, \
                failing_since = CASE consecutive_failures WHEN 0 THEN $4 ELSE failing_since END, \
                status_reason = $2, status_hint = $3 \
             WHERE detector = $1",
            &[
                detector.into(),
                caught.message.as_str().into(),
                caught.hint.as_deref().into(),
                sql::timestamptz(session::now())?.into(),
            ],
        )
    })?;
    failures::note(detector, &caught.message)
}

/// Tells listeners of alerts, but for silenced ones.
pub fn announce(alerts: &[i64]) -> SqlResult<()> {
    if alerts.is_empty() {
        return Ok(());
    }
    let told = internal_rights::with(|| {
        sql::row(
            "SELECT count(*) FROM unnest($1) AS n (alert_id) JOIN anomaly.alert a USING (alert_id) \
              WHERE a.silenced_by IS NULL AND a.inhibited_by IS NULL AND a.withheld IS NULL",
            &[alerts.to_vec().into()],
            |row| row.must::<i64>(1),
        )
    })?;
    match told {
        Some(told @ 1..) => run::notify_alerts(told),
        _ => Ok(()),
    }
}

/// An alert as it is answered to who brought the point.
pub struct Alert {
    pub id: i64,
    pub detector: String,
    pub anomaly_type: String,
    pub severity: String,
    pub entity: Option<String>,
    pub metric_name: String,
    pub at: TimestampWithTimeZone,
    pub value: f64,
    pub expected: Option<f64>,
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    pub deviation: f64,
    pub description: String,
    pub suggestion: Option<String>,
}

/// Those of the alerts that have not ended.
pub fn alerts(ids: Vec<i64>) -> SqlResult<Vec<Alert>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    internal_rights::with(|| {
        sql::rows(
            "SELECT alert_id, detector, severity::text, NULLIF(entity, ''), metric_name, peak_at, \
                value, expected, lower, upper, deviation, description, suggestion, anomaly_type \
             FROM anomaly.alert WHERE alert_id = ANY ($1) AND status <> 'resolved' AND withheld IS NULL \
             ORDER BY alert_id",
            &[ids.into()],
            |row| {
                Ok(Alert {
                    id: row.must(1)?,
                    detector: row.must(2)?,
                    severity: row.must(3)?,
                    entity: row.get(4)?,
                    metric_name: row.must(5)?,
                    at: row.must(6)?,
                    value: row.must(7)?,
                    expected: row.get(8)?,
                    lower: row.get(9)?,
                    upper: row.get(10)?,
                    deviation: row.must(11)?,
                    description: row.must(12)?,
                    suggestion: row.get(13)?,
                    anomaly_type: row.must(14)?,
                })
            },
        )
    })
}

/// The ids of the alerts that the point opened or changed.
fn judge_one(detector: &str, data: &DataPoint, value: f64) -> SqlResult<Vec<i64>> {
    let began = Instant::now();
    let row = lock(detector)?;
    let row = DetectorRow {
        entity_type: data.entity_type.map(str::to_owned).or(row.entity_type.clone()),
        ..row
    };
    let features: Vec<f64> =
        row.features().iter().map(|name| data.feature(name)).collect::<SqlResult<_>>()?;
    let Some(model) = row.model.as_ref().filter(|_| !row.needs_training) else {
        // The first points are learned from anomaly.sample, this one among them.
        train::execute_all(&row)?;
        return Ok(Vec::new());
    };
    let core = row.detection(model.points_per_day)?;
    let mut states = EntityStates::load_one(&row, model.version, &data.entity, Some(data.at))?;
    let entity = data.entity.as_bytes();
    // An entity that knows enough of its own is not judged by the shared model, and decoding that takes
    // longer than judging by it: up to some milliseconds.
    let warm = match states.get(detector, &core, entity)? {
        Some((_, state)) => core.is_warm(state),
        None => true,
    };
    let shared = if warm || model.entities < 2 {
        None
    } else {
        Some(decode_shared(&core, detector, &model.payload)?)
    };
    let mut book = AlertBook::default();
    let point = Point { features: &features, ..Point::new(data.at, value) };
    let anomalous = judge(&row, &core, shared.as_ref(), &mut states, &mut book, entity, point)?;
    let stored = finish(&row, &core, &mut states, book, model.version, None)?;
    let judged = i64::from(anomalous.is_some());
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET watermark = GREATEST(watermark, $2), \
                points_processed = points_processed + $3, \
                anomalies_detected = anomalies_detected + $4, last_scan_at = $5, \
                detection_times = $6, alerts_opened = alerts_opened + $7, consecutive_failures = 0, \
                status_reason = CASE WHEN consecutive_failures > 0 THEN NULL ELSE status_reason END, \
                status_hint = CASE WHEN consecutive_failures > 0 THEN NULL ELSE status_hint END \
             WHERE detector = $1",
            &[
                detector.into(),
                sql::timestamptz(data.at)?.into(),
                judged.into(),
                i64::from(anomalous == Some(true)).into(),
                sql::timestamptz(session::now())?.into(),
                durations(&row, judged, began).into(),
                (stored.opened.len() as i64).into(),
            ],
        )
    })?;
    if row.error_alert.is_some() {
        failures::recovered(detector)?;
    }
    if row.status == "warming" {
        train::leave_warming(&row, data.at.max(row.watermark.unwrap_or(data.at)))?;
    } else if row.retraining_due {
        train::on_schedule(detector)?;
    }
    Ok(stored.opened.into_iter().chain(stored.changed).collect())
}

/// Keeps the point as training history, if the ring still has a slot for its day.
fn keep_sample(
    metric: &str,
    data: &DataPoint,
    value: f64,
    features: Option<JsonB>,
    owner: pg_sys::Oid,
) -> SqlResult<()> {
    let age = session::now() - data.at;
    if age >= i64::from(SAMPLE_SLOTS - 1) * DAY || age < -DAY {
        return Ok(());
    }
    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.sample (slot, owner, metric, entity, at, value, features) \
             VALUES ($1, $2::oid, $3, $4, $5, $6, $7) \
             ON CONFLICT (owner, metric, at, entity, slot) \
             DO UPDATE SET value = EXCLUDED.value, features = EXCLUDED.features",
            &[
                sample_slot(data.at.div_euclid(DAY)).into(),
                owner.into(),
                metric.into(),
                data.entity.as_str().into(),
                sql::timestamptz(data.at)?.into(),
                value.into(),
                features.into(),
            ],
        )
    })?;
    Ok(())
}
