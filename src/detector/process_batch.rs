//! `anomaly.process_batch`: judges many points, as `anomaly.process_data_point` does one after the other.
//!
//! A point that cannot be read, or a detector that fails, is a row of the result and stops nothing. Some
//! points at a time share a subtransaction; only where one of them fails they are judged again, each
//! detector in one of its own, because each that writes costs the server a transaction number.

use pgrx::{
    Spi,
    pg_sys::{self, panic::ErrorReport},
    prelude::*,
    spi::quote_identifier,
};
use serde_json::Value;

use crate::{
    detector::{
        process_data_point::{Judged, alerts, announce, check_may_judge, judge_point},
        source::Source,
    },
    error::{SqlResult, invalid, report, required},
    pg::{json_arg::JsonArg, payload, result_set::ResultSet, subxact},
};

/// Points that share a subtransaction, and rows that are fetched at a time.
const CHUNK: usize = 64;

const EXAMPLE: &str =
    r#"for example '[{"cpu_usage": 0.7, "entity_id": "web1"}, {"cpu_usage": 0.9}]'"#;

/// The points of a JSON array.
#[pg_extern(sql = r#"
CREATE FUNCTION anomaly.process_batch(points jsonb, anomaly_types text[] DEFAULT NULL)
RETURNS TABLE (row_number bigint, status text, detector text, reason text, alert bigint, severity text,
    entity text, metric_name text, at timestamptz, value double precision, expected double precision,
    lower double precision, upper double precision, deviation double precision, description text, suggestion text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS '@MODULE_PATHNAME@', 'process_batch_of_points_wrapper';
COMMENT ON FUNCTION anomaly.process_batch(jsonb, text[]) IS
'judges an array of points one after the other: a row for each alert of a point and for each failure';
"#)]
fn process_batch_of_points(
    points: Option<JsonArg>,
    anomaly_types: Option<Vec<String>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlResult<()> {
    let points = required(points, "points")?;
    let Value::Array(points) = points.0 else {
        return Err(invalid("the points are not a JSON array", EXAMPLE));
    };
    check_may_judge(anomaly_types.as_deref())?;
    let mut batch = Batch::begin(fcinfo, anomaly_types)?;
    for points in points.chunks(CHUNK) {
        batch.judge(points)?;
    }
    batch.end()
}

/// The rows of a table or query, whose columns are the keys of the points.
#[pg_extern(sql = r#"
CREATE FUNCTION anomaly.process_batch(source text, at text DEFAULT NULL, entity text DEFAULT NULL, anomaly_types text[] DEFAULT NULL)
RETURNS TABLE (row_number bigint, status text, detector text, reason text, alert bigint, severity text,
    entity text, metric_name text, at timestamptz, value double precision, expected double precision,
    lower double precision, upper double precision, deviation double precision, description text, suggestion text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS '@MODULE_PATHNAME@', 'process_batch_of_source_wrapper';
COMMENT ON FUNCTION anomaly.process_batch(text, text, text, text[]) IS
'judges the rows of a table or query, whose columns are the keys of points, one after the other: a row for each alert of a point and for each failure';
"#)]
fn process_batch_of_source(
    source: Option<&str>,
    at: Option<&str>,
    entity: Option<&str>,
    anomaly_types: Option<Vec<String>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlResult<()> {
    let text = required(source, "source")?;
    // A literal without a type is text to PostgreSQL.
    if text.trim_start().starts_with('[') {
        payload::check_size(text.len())?;
        let points = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the points are not valid JSON: {error}"), EXAMPLE))?;
        return process_batch_of_points(Some(JsonArg(points)), anomaly_types, fcinfo);
    }
    check_may_judge(anomaly_types.as_deref())?;
    let source = Source::resolve(text)?;
    let has = |name: &str| source.has_column(name);
    let time = match at {
        Some(name) => Some(source.named(name)?),
        None if has("timestamp") => Some("timestamp"),
        None => source.first_time(),
    };
    let entity = match entity {
        Some(name) => Some(source.named(name)?),
        None => Some("entity_id").filter(|name| has(name)),
    };
    // A table has no order of its own, a query says what it wants.
    let order = match (source.relation, time) {
        (Some(_), Some(time)) => format!(" ORDER BY q.{}", quote_identifier(time)),
        _ => String::new(),
    };
    let query = format!(
        "SELECT pg_catalog.to_jsonb(q)::pg_catalog.text FROM {} AS q{order}",
        source.table_expression()
    );
    let mut batch = Batch::begin(fcinfo, anomaly_types)?;
    let cursor = Spi::connect(|client| {
        client.try_open_cursor(query.as_str(), &[]).map(|cursor| cursor.detach_into_name())
    })
    .map_err(spi_error)?;
    loop {
        let rows = Spi::connect(|client| -> Result<Vec<Option<String>>, pgrx::spi::Error> {
            let mut open = client.find_cursor(&cursor)?;
            let rows = open.fetch(CHUNK as i64)?.map(|row| row.get::<String>(1)).collect();
            open.detach_into_name();
            rows
        })
        .map_err(spi_error)?;
        if rows.is_empty() {
            break;
        }
        let points: Vec<Value> = rows
            .into_iter()
            .map(|row| {
                let row = row.and_then(|row| serde_json::from_str(&row).ok());
                with_keys(row.unwrap_or(Value::Null), time, entity)
            })
            .collect();
        batch.judge(&points)?;
    }
    Spi::connect(|client| client.find_cursor(&cursor).map(drop)).map_err(spi_error)?;
    batch.end()
}

fn spi_error(error: pgrx::spi::Error) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("SPI: {error}"))
}

/// A row as a point: what names its time and its entity goes under the keys for these.
fn with_keys(mut row: Value, time: Option<&str>, entity: Option<&str>) -> Value {
    if let Value::Object(map) = &mut row {
        for (name, key) in [(time, "timestamp"), (entity, "entity_id")] {
            if let Some(value) = name.filter(|name| *name != key).and_then(|name| map.remove(name))
            {
                map.insert(key.to_owned(), value);
            }
        }
    }
    row
}

struct Batch {
    result: ResultSet,
    anomaly_types: Option<Vec<String>>,
    /// Of the point that comes next.
    row_number: i64,
    /// Those of all points so far.
    alerts: Vec<i64>,
}

impl Batch {
    fn begin(
        fcinfo: pg_sys::FunctionCallInfo,
        anomaly_types: Option<Vec<String>>,
    ) -> SqlResult<Batch> {
        Ok(Batch {
            result: ResultSet::begin(fcinfo)?,
            anomaly_types,
            row_number: 1,
            alerts: Vec::new(),
        })
    }

    fn judge(&mut self, points: &[Value]) -> SqlResult<()> {
        let types = self.anomaly_types.as_deref();
        let together = subxact::attempt(|| {
            points
                .iter()
                .map(|point| {
                    pgrx::check_for_interrupts!();
                    let judged = judge_point(point, types, false)?;
                    let alerts = alerts(judged.alerts)?;
                    Ok((alerts, Vec::new()))
                })
                .collect::<SqlResult<Vec<_>>>()
        });
        match together {
            Ok(judged) => {
                for (alerts, failures) in judged {
                    self.put(alerts, failures)?;
                }
            }
            Err(caught) if caught.is_transient() => return Err(caught.into_report()),
            Err(_) => {
                let types = self.anomaly_types.clone();
                for point in points {
                    pgrx::check_for_interrupts!();
                    let judged = subxact::attempt(|| judge_point(point, types.as_deref(), true));
                    match judged {
                        Ok(Judged { alerts: ids, failures }) => {
                            let failures = failures
                                .into_iter()
                                .map(|(detector, caught)| (Some(detector), caught.message));
                            let failures = failures.collect();
                            self.put(alerts(ids)?, failures)?;
                        }
                        Err(caught) if caught.is_transient() => return Err(caught.into_report()),
                        Err(caught) => self.put(Vec::new(), vec![(None, caught.message)])?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows of one point.
    fn put(
        &mut self,
        alerts: Vec<super::process_data_point::Alert>,
        failures: Vec<(Option<String>, String)>,
    ) -> SqlResult<()> {
        self.alerts.extend(alerts.iter().map(|alert| alert.id));
        for alert in alerts {
            self.result
                .column(Some(self.row_number))
                .column(Some("anomaly"))
                .column(Some(alert.detector))
                .column(None::<String>)
                .column(Some(alert.id))
                .column(Some(alert.severity))
                .column(alert.entity)
                .column(Some(alert.metric_name))
                .column(Some(alert.at))
                .column(Some(alert.value))
                .column(alert.expected)
                .column(alert.lower)
                .column(alert.upper)
                .column(Some(alert.deviation))
                .column(Some(alert.description))
                .column(alert.suggestion);
            self.result.end_row()?;
        }
        for (detector, reason) in failures {
            self.result
                .column(Some(self.row_number))
                .column(Some("failed"))
                .column(detector)
                .column(Some(reason))
                .column(None::<i64>)
                .column(None::<String>)
                .column(None::<String>)
                .column(None::<String>)
                .column(None::<TimestampWithTimeZone>)
                .column(None::<f64>)
                .column(None::<f64>)
                .column(None::<f64>)
                .column(None::<f64>)
                .column(None::<f64>)
                .column(None::<String>)
                .column(None::<String>);
            self.result.end_row()?;
        }
        self.row_number += 1;
        Ok(())
    }

    fn end(self) -> SqlResult<()> {
        announce(&self.alerts)
    }
}
