//! `anomaly.process_data`: values of metrics, one or a series of each, and the anomalies among them.

use pgrx::{JsonB, prelude::*};
use serde_json::{Map, Value, json};

use crate::{
    detector::process_data_point::{alerts, announce, check_may_judge, judge_point},
    error::{SqlResult, invalid, not_null},
    pg::{json_arg::JsonArg, session},
    sql,
};

const EXAMPLE: &str = r#"for example '{"cpu_usage": 0.7, "latency": [0.1, 0.2], "errors": [{"timestamp": "2026-01-31T12:00:00Z", "value": 3}]}'"#;

/// Judges each value by the detectors without source of this anomaly type, as process_data_point does.
/// A metric has a value of now, or a series: of values that end now, a millisecond apart, or of objects
/// with `timestamp` and `value`.
///
/// # Errors
/// As `process_data_point`; 22023 for a metric that is neither a value nor a series.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn process_data(
    anomaly_type: Option<&str>,
    metrics: Option<JsonArg>,
    entity: default!(Option<&str>, "NULL"),
) -> SqlResult<JsonB> {
    not_null!(anomaly_type, metrics);
    crate::anomaly_type::check(anomaly_type)?;
    let types = [anomaly_type.to_owned()];
    check_may_judge(Some(&types))?;
    let Value::Object(metrics) = metrics.0 else {
        return Err(invalid("the metrics are not a JSON object", EXAMPLE));
    };
    let now = session::now();
    let (mut anomalies, mut ids) = (Vec::new(), Vec::new());
    for (metric, values) in metrics {
        let series = match values {
            Value::Array(series) => series,
            value => vec![value],
        };
        let length = series.len() as i64;
        for (place, value) in series.into_iter().enumerate() {
            pgrx::check_for_interrupts!();
            let before_now = (length - 1 - place as i64) * 1000;
            let point = point(&metric, value, entity, now.saturating_sub(before_now))?;
            let judged = judge_point(&point, Some(&types), true)?;
            judged.warn();
            for alert in alerts(judged.alerts)? {
                ids.push(alert.id);
                anomalies.push(json!({
                    "type": alert.anomaly_type,
                    "metric": alert.metric_name,
                    "severity": alert.severity,
                    "value": alert.value,
                    "suggestion": alert.suggestion,
                    "description": alert.description,
                    "entity": alert.entity,
                    "detector": alert.detector,
                    "alert": alert.id,
                    "at": instant(alert.at)?,
                }));
            }
        }
    }
    announce(&ids)?;
    Ok(JsonB(json!({ "anomalies": anomalies })))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.process_data(text, jsonb, text) IS
'judges a value or a series of each metric by the detectors of an anomaly type; the anomalies among them as JSON';"#,
    name = "process_data_comment",
    requires = [process_data]
);

/// A data point with one metric.
fn point(metric: &str, value: Value, entity: Option<&str>, at: i64) -> SqlResult<Value> {
    let mut point = match value {
        Value::Object(mut element) => {
            let Some(value) = element.remove("value") else {
                return Err(invalid(
                    format!("an element of metric \"{metric}\" has no key \"value\""),
                    EXAMPLE,
                ));
            };
            element.insert(metric.to_owned(), value);
            element
        }
        value => Map::from_iter([(metric.to_owned(), value)]),
    };
    if !point.contains_key("timestamp") {
        point.insert("timestamp".to_owned(), instant(sql::timestamptz(at)?)?);
    }
    if let Some(entity) = entity {
        point.insert("entity_id".to_owned(), Value::from(entity));
    }
    Ok(Value::Object(point))
}

/// ISO 8601, as the session's time zone has it.
fn instant(at: pgrx::datum::TimestampWithTimeZone) -> SqlResult<Value> {
    let json =
        sql::row("SELECT pg_catalog.to_jsonb($1)", &[at.into()], |row| row.must::<JsonB>(1))?;
    Ok(json.map_or(Value::Null, |json| json.0))
}
