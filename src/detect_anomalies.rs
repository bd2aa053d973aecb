//! `detect_anomalies`: judges every point of a table or query, each by the points before it.

use anomaly_core::{Detector, DetectorConfig, EntityState, Point};
use pgrx::{JsonB, pg_sys, prelude::*};

use crate::{
    detector::source::{Columns, Named, Source, read_all_query},
    error::{SqlResult, from_core},
    pg::{result_set::ResultSet, stream},
    sql,
};

const DAY: f64 = 86_400e6;
/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4096;

/// Replays the source causally through the path of the managed scan, entity by entity in the order
/// of time, and returns the verdict of each point. Until an entity has `min_data_points` points its
/// status is `warming` and nothing is anomalous.
///
/// # Errors
/// 42P01, 42703, 42804, 42501 for the source; 22023 for settings.
#[allow(clippy::too_many_arguments)]
#[pg_extern(sql = r#"
CREATE FUNCTION detect_anomalies(
    source text, value text DEFAULT NULL, at text DEFAULT NULL, entity text DEFAULT NULL,
    strategy text DEFAULT 'mad', threshold double precision DEFAULT NULL,
    alerts_per_day double precision DEFAULT 1, min_data_points integer DEFAULT 30,
    time_zone text DEFAULT 'UTC', params jsonb DEFAULT '{}')
RETURNS TABLE (
    at timestamptz, entity text, value double precision, expected double precision,
    lower double precision, upper double precision, score double precision,
    p_value double precision, deviation double precision, direction text, is_anomaly boolean,
    status text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS '@MODULE_PATHNAME@', 'detect_anomalies_wrapper';
COMMENT ON FUNCTION detect_anomalies IS
'judges every point of a table or query by the points before it: one row with expected range and deviation for each';
"#)]
fn detect_anomalies(
    source: Option<&str>,
    value: Option<&str>,
    at: Option<&str>,
    entity: Option<&str>,
    strategy: Option<&str>,
    threshold: Option<f64>,
    alerts_per_day: Option<f64>,
    min_data_points: Option<i32>,
    time_zone: Option<&str>,
    params: Option<JsonB>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlResult<()> {
    let mut result = ResultSet::begin(fcinfo)?;
    let Some(source) = source else { return Ok(()) };
    let time_zone = time_zone.unwrap_or("UTC");
    let source = Source::resolve(source)?;
    let columns = Columns::choose(&source, &Named { value, at, entity, trials: None })?;
    let detector = |points_per_day| {
        Detector::new(DetectorConfig {
            strategy: strategy.unwrap_or("mad").to_owned(),
            params: params.as_ref().map_or(serde_json::Value::Null, |p| p.0.clone()),
            threshold,
            alerts_per_day: alerts_per_day.unwrap_or(1.0),
            points_per_day,
            min_data_points: u64::try_from(min_data_points.unwrap_or(30)).unwrap_or(0),
            fire_after: 1,
            clear_after: 1,
            metric_name: columns.value.clone(),
            anomaly_type: "data_outlier".to_owned(),
            time_zone: time_zone.to_owned(),
            ..DetectorConfig::default()
        })
        .map_err(from_core)
    };
    detector(None)?;
    let read = read_all_query(&source, &columns, time_zone)?;
    let detector = detector(points_per_day(&read, min_data_points.unwrap_or(30))?)?;

    let mut rows = 0u64;
    let mut entity: Vec<u8> = Vec::new();
    let mut state: EntityState = detector.new_state();
    stream::for_each_row(
        &format!(
            "SELECT p.at, p.value, p.entity FROM ({read}) AS p (at, value, entity, trials) \
             ORDER BY p.entity COLLATE pg_catalog.\"C\", p.at"
        ),
        &[],
        &mut |row| {
            rows += 1;
            if rows.is_multiple_of(TICK_ROWS) {
                pgrx::check_for_interrupts!();
            }
            let Some(at) = row.int8(0) else { return Ok(()) };
            row.with_bytes(2, |name| {
                if rows == 1 || name != entity {
                    entity.clear();
                    entity.extend_from_slice(name);
                    state = detector.new_state();
                }
            });
            let name = std::str::from_utf8(&entity).ok().filter(|name| !name.is_empty());
            let Some(value) = row.float8(1) else {
                return missing(&mut result, at, name);
            };
            let verdict = detector.process(&mut state, None, &Point::new(at, value)).verdict;
            let finite = |v: f64| (!v.is_nan()).then_some(v);
            result
                .column(Some(sql::timestamptz(verdict.at)?))
                .column(name)
                .column(Some(verdict.value))
                .column(finite(verdict.expected))
                .column(finite(verdict.lower))
                .column(finite(verdict.upper))
                .column(Some(verdict.score()))
                .column(Some(verdict.p_value()))
                .column(Some(verdict.deviation()))
                .column(Some(verdict.direction.as_str()))
                .column(Some(verdict.is_anomaly))
                .column(Some(verdict.status.to_string()));
            result.end_row()
        },
    )
}

/// A row for a point that has a time but no value.
fn missing(result: &mut ResultSet, at: i64, entity: Option<&str>) -> SqlResult<()> {
    result.column(Some(sql::timestamptz(at)?)).column(entity);
    for _ in 0..7 {
        result.column::<f64>(None);
    }
    result.column::<&str>(None).column(Some(false)).column(Some("missing value"));
    result.end_row()
}

/// How many points a day the source has, over all entities, by its first points only: a verdict may
/// not depend on points that came later.
fn points_per_day(read: &str, first_points: i32) -> SqlResult<Option<f64>> {
    let mut found = None;
    stream::for_each_row(
        &format!(
            "SELECT pg_catalog.count(*), pg_catalog.min(p.at), pg_catalog.max(p.at) \
             FROM (SELECT * FROM ({read}) AS r (at, value, entity, trials) ORDER BY at LIMIT {first_points}) \
                  AS p"
        ),
        &[],
        &mut |row| {
            if let (Some(count), Some(first), Some(last)) = (row.int8(0), row.int8(1), row.int8(2))
                && last > first
            {
                found = Some(count as f64 * DAY / (last as f64 - first as f64));
            }
            Ok(())
        },
    )?;
    Ok(found)
}
