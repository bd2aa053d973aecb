//! `detect_anomalies`: judges every point of a table or query, each by the points before it.

use anomaly_core::{Detector, DetectorConfig, Direction, EntityState, Verdict};
use pgrx::{JsonB, datum::Interval, pg_sys, prelude::*};

use crate::{
    detector::{
        sampling::{Sampling, Wanted},
        source::{Columns, Named, Source, read_all_query},
    },
    error::{SqlResult, from_core},
    pg::{result_set::ResultSet, session, stream},
    sql,
};

const DAY: f64 = 86_400e6;
/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4096;
const DEFAULT_MIN_DATA_POINTS: i32 = 30;

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
    time_zone text DEFAULT 'UTC', params jsonb DEFAULT '{}', kind text DEFAULT NULL,
    trials text DEFAULT NULL, direction text DEFAULT 'both', min_effect double precision DEFAULT 0,
    min_relative_effect double precision DEFAULT 0, bucket interval DEFAULT NULL,
    aggregate text DEFAULT 'avg')
RETURNS TABLE (
    at timestamptz, entity text, value double precision, expected double precision,
    lower double precision, upper double precision, score double precision,
    p_value double precision, deviation double precision, direction text, is_anomaly boolean,
    status text, reasons text[])
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
    kind: Option<&str>,
    trials: Option<&str>,
    direction: Option<&str>,
    min_effect: Option<f64>,
    min_relative_effect: Option<f64>,
    bucket: Option<Interval>,
    aggregate: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlResult<()> {
    let result = ResultSet::begin(fcinfo)?;
    let Some(source) = source else { return Ok(()) };
    let time_zone = time_zone.unwrap_or("UTC");
    let aggregate = aggregate.unwrap_or("avg");
    let sampling = Sampling::check(&Wanted { kind, trials, bucket, aggregate, time_zone })?;
    let source = Source::resolve(source)?;
    let mut named = Named { value, at, entity, trials };
    named.entity = match entity {
        None => source.likely_entity(&named)?,
        Some("") => None,
        entity => entity,
    };
    let columns = Columns::choose(&source, &named, &sampling)?;
    let detector = Detector::new(DetectorConfig {
        strategy: strategy.unwrap_or("mad").to_owned(),
        params: params.map_or(serde_json::Value::Null, |p| p.0),
        threshold,
        alerts_per_day: alerts_per_day.unwrap_or(1.0),
        points_per_day: None,
        min_data_points: min_data_points
            .unwrap_or(DEFAULT_MIN_DATA_POINTS)
            .try_into()
            .unwrap_or_default(),
        fire_after: 1,
        clear_after: 1,
        metric_name: sampling.label(columns.value.as_deref(), aggregate),
        anomaly_type: "data_outlier".to_owned(),
        time_zone: time_zone.to_owned(),
        kind: sampling.kind,
        direction: Direction::side(direction.unwrap_or("both")).map_err(from_core)?,
        min_effect: min_effect.unwrap_or(0.0),
        min_relative_effect: min_relative_effect.unwrap_or(0.0),
    })
    .map_err(from_core)?;
    let read = read_all_query(&source, &columns, &sampling, time_zone)?;
    let detector = match points_per_day(&read)? {
        Some(rate) => detector.with_points_per_day(rate).map_err(from_core)?,
        None => detector,
    };
    Replay::new(detector, sampling, result).run(&read)
}

/// One entity after the other, each with a state of its own that goes when the next one comes.
struct Replay {
    detector: Detector,
    sampling: Sampling,
    result: ResultSet,
    entity: String,
    state: EntityState,
    /// A bucket that begins at this time or later is not over.
    settled: i64,
}

impl Replay {
    fn new(detector: Detector, sampling: Sampling, result: ResultSet) -> Self {
        let state = detector.new_state();
        let settled =
            if sampling.bucket.is_some() { sampling.settled(session::now()) } else { i64::MAX };
        Replay { detector, sampling, result, entity: String::new(), state, settled }
    }

    fn run(mut self, read: &str) -> SqlResult<()> {
        let mut rows = 0u64;
        stream::for_each_row(
            &format!(
                "SELECT p.at, p.value, COALESCE(p.entity, '') AS entity, p.trials \
                   FROM ({read}) AS p (at, value, entity, trials) \
                  ORDER BY entity COLLATE pg_catalog.\"C\", p.at, p.value"
            ),
            &[],
            &mut |row| {
                rows += 1;
                if rows.is_multiple_of(TICK_ROWS) {
                    pgrx::check_for_interrupts!();
                }
                self.row(row)
            },
        )
    }

    fn row(&mut self, row: &stream::Row) -> SqlResult<()> {
        let Some(reading) = self.sampling.read(row) else { return Ok(()) };
        if reading.at >= self.settled {
            return Ok(());
        }
        let same = row.with_bytes(2, |name| name == self.entity.as_bytes());
        if same == Some(false) {
            self.entity = row.text(2).unwrap_or_default();
            self.state = self.detector.new_state();
        }
        match reading.point() {
            Some(point) => {
                let verdict = self.detector.process(&mut self.state, None, &point).verdict;
                self.judged(&verdict)
            }
            None => self.missing(reading.at),
        }
    }

    fn judged(&mut self, verdict: &Verdict) -> SqlResult<()> {
        let finite = |v: f64| (!v.is_nan()).then_some(v);
        let reasons: Vec<String> =
            verdict.is_anomaly.then(|| self.detector.description(verdict)).into_iter().collect();
        let entity = Some(self.entity.as_str()).filter(|name| !name.is_empty());
        self.result
            .column(Some(sql::timestamptz(verdict.at)?))
            .column(entity)
            .column(Some(verdict.value))
            .column(finite(verdict.expected))
            .column(finite(verdict.lower))
            .column(finite(verdict.upper))
            .column(Some(verdict.score()))
            .column(Some(verdict.p_value()))
            .column(Some(verdict.deviation()))
            .column(Some(verdict.direction.as_str()))
            .column(Some(verdict.is_anomaly))
            .column(Some(verdict.status.to_string()))
            .column(Some(reasons));
        self.result.end_row()
    }

    /// A row for a point that has a time but no value.
    fn missing(&mut self, at: i64) -> SqlResult<()> {
        let entity = Some(self.entity.as_str()).filter(|name| !name.is_empty());
        self.result.column(Some(sql::timestamptz(at)?)).column(entity);
        for _ in 0..7 {
            self.result.column::<f64>(None);
        }
        self.result
            .column::<&str>(None)
            .column(Some(false))
            .column(Some("missing"))
            .column(Some(Vec::<String>::new()));
        self.result.end_row()
    }
}

/// How many points a day the source has, over all entities; `None` from fewer than two instants.
fn points_per_day(read: &str) -> SqlResult<Option<f64>> {
    let mut found = None;
    stream::for_each_row(
        &format!(
            "SELECT pg_catalog.count(p.value), \
                pg_catalog.min(p.at) FILTER (WHERE p.value IS NOT NULL), \
                pg_catalog.max(p.at) FILTER (WHERE p.value IS NOT NULL) \
             FROM ({read}) AS p (at, value, entity, trials)"
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
