//! `detect_anomalies`: judges every point of a table or query, each by the points before it.

use anomaly_core::{
    Detector, DetectorConfig, Direction, EntityState, Outcome, Status, Verdict,
    gaps::{Arrival, OnMissing},
};
use pgrx::{datum::Interval, pg_sys, prelude::*};

use crate::{
    detector::{
        sampling::{self, Features, Sampling, Wanted},
        source::{self, Columns, Named, Source, read_all_query},
    },
    error::{SqlResult, from_core, invalid},
    pg::{json_arg::JsonArg, result_set::ResultSet, session, stream},
    sql,
};

const DAY: f64 = 86_400e6;
/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4096;
const DEFAULT_MIN_DATA_POINTS: i32 = 30;

/// Replays the source causally through the path of the managed scan, entity by entity in the order
/// of time, and returns the verdict of each point. Until an entity has `min_data_points` points its
/// status is `warming` and nothing is anomalous. With `only_anomalies` it returns anomalies, and the
/// last row of each entity of which no point could be judged.
///
/// # Errors
/// 42P01, 42703, 42804, 42501 for the source; 22023 for settings.
#[allow(clippy::too_many_arguments)]
#[pg_extern(sql = r#"
CREATE FUNCTION detect_anomalies(
    source text, value text DEFAULT NULL, at text DEFAULT NULL, entity text DEFAULT NULL,
    strategy text DEFAULT 'auto', threshold double precision DEFAULT NULL,
    alerts_per_day double precision DEFAULT 1, min_data_points integer DEFAULT 30,
    time_zone text DEFAULT 'UTC', params jsonb DEFAULT '{}', kind text DEFAULT NULL,
    trials text DEFAULT NULL, direction text DEFAULT 'both', min_effect double precision DEFAULT 0,
    min_relative_effect double precision DEFAULT 0, bucket interval DEFAULT NULL,
    aggregate text DEFAULT 'avg', on_missing text DEFAULT NULL,
    only_anomalies boolean DEFAULT false, features text[] DEFAULT NULL)
RETURNS TABLE (
    at timestamptz, entity text, value double precision, expected double precision,
    lower double precision, upper double precision, score double precision,
    p_value double precision, deviation double precision, direction text, is_anomaly boolean,
    status text, reasons text[])
VOLATILE PARALLEL UNSAFE LANGUAGE c AS '@MODULE_PATHNAME@', 'detect_anomalies_wrapper';
COMMENT ON FUNCTION detect_anomalies IS
'judges every point of a table or query by the points before it: one row with expected range and deviation for each, or for anomalies only';
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
    params: Option<JsonArg>,
    kind: Option<&str>,
    trials: Option<&str>,
    direction: Option<&str>,
    min_effect: Option<f64>,
    min_relative_effect: Option<f64>,
    bucket: Option<Interval>,
    aggregate: Option<&str>,
    on_missing: Option<&str>,
    only_anomalies: Option<bool>,
    features: Option<Vec<Option<String>>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlResult<()> {
    let result = ResultSet::begin(fcinfo)?;
    let Some(source) = source else { return Ok(()) };
    let time_zone = time_zone.unwrap_or("UTC");
    let aggregate = aggregate.unwrap_or("avg");
    let sampling =
        Sampling::check(&Wanted { kind, trials, bucket, aggregate, on_missing, time_zone })?;
    let min_data_points = min_data_points.unwrap_or(DEFAULT_MIN_DATA_POINTS);
    let min_data_points = u64::try_from(min_data_points).map_err(|_| {
        invalid(
            format!("min_data_points must be at least 2, not {min_data_points}"),
            format!("leave out min_data_points for its default, {DEFAULT_MIN_DATA_POINTS}"),
        )
    })?;
    let features = source::feature_names(features)?;
    let source = Source::resolve(source)?;
    let mut named = Named { value, at, entity, trials, features: &features };
    named.entity = match entity {
        None => source.likely_entity(&named)?,
        Some("") => None,
        entity => entity,
    };
    let columns = Columns::choose(&source, &named, &sampling)?;
    let detector = Detector::new(DetectorConfig {
        strategy: strategy.unwrap_or("auto").to_owned(),
        own: crate::strategy::functions(
            strategy.unwrap_or("auto"),
            session::current_user(),
            params.as_ref().map_or(&serde_json::Value::Null, |p| &p.0),
            "detect_anomalies",
        )?,
        params: params.map_or(serde_json::Value::Null, |p| p.0),
        threshold,
        alerts_per_day: alerts_per_day.unwrap_or(1.0),
        points_per_day: None,
        entities: 1,
        min_data_points,
        fire_after: 1,
        clear_after: 1,
        cool_down: 0,
        metric_name: sampling.label(columns.value.as_deref(), aggregate),
        anomaly_type: "data_outlier".to_owned(),
        family: None,
        time_zone: time_zone.to_owned(),
        kind: sampling.kind,
        performance: Vec::new(),
        direction: Direction::side(direction.unwrap_or("both")).map_err(from_core)?,
        min_effect: min_effect.unwrap_or(0.0),
        min_relative_effect: min_relative_effect.unwrap_or(0.0),
        features: columns.features.clone(),
        categories: columns.categories.clone(),
    })
    .map_err(from_core)?;
    let read = read_all_query(&source, &columns, &sampling, time_zone)?;
    let further = |prefix| sampling::feature_names(features.len(), prefix);
    let Some(extent) = Extent::of(&read, &further(""))? else { return Ok(()) };
    let detector = match extent.points_per_day() {
        Some(rate) => detector.with_points_per_day(rate).map_err(from_core)?,
        None => detector,
    };
    let only_anomalies = only_anomalies.unwrap_or(false);
    let detector = if only_anomalies { detector.with_ranges_of_anomalies_only() } else { detector };
    let until = sampling.settled(session::now());
    let until = match &sampling.bucket {
        // The silence of an entity ends with the last bucket of any.
        Some(bucket) => bucket.start(bucket.index_of_bin(extent.last) + 1).min(until),
        None => i64::MAX,
    };
    let state = detector.new_state();
    let output = Output { detector, result, only_anomalies, unjudged: Unjudged::default() };
    let features = columns.new_features();
    let mut replay = Replay { output, sampling, state, name: String::new(), features, until };
    let mut rows = 0u64;
    stream::for_each_row(
        &format!(
            "SELECT e.at, e.value, e.entity, e.trials{of_e} \
               FROM (SELECT p.at, p.value, COALESCE(p.entity, ''), p.trials{of_p} \
                       FROM ({read}) AS p (at, value, entity, trials{names})) \
                    AS e (at, value, entity, trials{names}) \
              ORDER BY e.entity COLLATE pg_catalog.\"C\", e.at, e.value{of_e}",
            of_e = further("e."),
            of_p = further("p."),
            names = further("")
        ),
        &[],
        &mut |row| {
            rows += 1;
            if rows.is_multiple_of(TICK_ROWS) {
                pgrx::check_for_interrupts!();
            }
            replay.row(row)
        },
    )?;
    replay.end_of_entity()
}

/// One entity after the other, each with a state of its own that goes when the next one comes.
struct Replay {
    output: Output,
    sampling: Sampling,
    name: String,
    state: EntityState,
    /// Further columns of the row at hand.
    features: Features,
    /// A bucket that begins at this time or later is not over.
    until: i64,
}

impl Replay {
    fn row(&mut self, row: &stream::Row) -> SqlResult<()> {
        let Some(reading) = self.sampling.read(row) else { return Ok(()) };
        if reading.at >= self.until {
            return Ok(());
        }
        if row.with_bytes(2, |name| name != self.name.as_bytes()) == Some(true) {
            self.end_of_entity()?;
            self.name = row.text(2).unwrap_or_default();
            self.state = self.output.detector.new_state();
        }
        if reading.value.is_none() && self.sampling.on_missing == OnMissing::Ignore {
            return self.output.without_value(&self.name, reading.at);
        }
        self.features.read(row, |_, _| {});
        let (output, name) = (&mut self.output, self.name.as_str());
        self.sampling.arrive(
            &mut self.state,
            &reading,
            &self.features.values,
            &mut |state, arrival| output.verdict(name, state, &arrival),
        )
    }

    /// What is still missing of the entity.
    fn end_of_entity(&mut self) -> SqlResult<()> {
        let (output, name) = (&mut self.output, self.name.as_str());
        self.sampling.pass(&mut self.state, self.until, &mut |state, arrival| {
            output.verdict(name, state, &arrival)
        })?;
        output.end_of_entity(name)
    }
}

struct Output {
    detector: Detector,
    result: ResultSet,
    /// Whether normal points of series that can be judged are left out.
    only_anomalies: bool,
    unjudged: Unjudged,
}

/// What there is to say of an entity if none of its points can be judged.
#[derive(Default)]
struct Unjudged {
    /// Whether one could.
    is_judged: bool,
    last: Option<Answer>,
}

/// A row of the result.
struct Answer {
    at: i64,
    value: Option<f64>,
    /// `None` for what has a time but no value.
    verdict: Option<Verdict>,
    /// Why it is an anomaly.
    reason: Option<String>,
    is_filled: bool,
}

impl Output {
    /// Judges a point and answers it.
    fn verdict(
        &mut self,
        entity: &str,
        state: &mut EntityState,
        arrival: &Arrival,
    ) -> SqlResult<()> {
        let outcome = self.detector.process_arrival(state, None, arrival);
        let verdict = outcome.verdict;
        let value = match arrival {
            Arrival::Missing { .. } => None,
            _ => Some(verdict.value),
        };
        let is_filled = matches!(arrival, Arrival::Filled(_));
        let reason = verdict.is_anomaly.then(|| self.reason(state, &outcome));
        let at = verdict.at;
        self.answer(entity, Answer { at, value, verdict: Some(verdict), reason, is_filled })
    }

    /// The description of an anomaly.
    fn reason(&self, state: &EntityState, outcome: &Outcome) -> String {
        let (detector, verdict) = (&self.detector, &outcome.verdict);
        if detector.strategy().members().is_empty() {
            return detector.description(verdict);
        }
        // Which members found it; of the peak of an episode it is known.
        let figures = || state.model.metadata(verdict, detector.rule());
        let metadata = outcome.metadata.clone().unwrap_or_else(figures);
        detector.description_with(verdict, &metadata)
    }

    /// A row for what has a time but no value.
    fn without_value(&mut self, entity: &str, at: i64) -> SqlResult<()> {
        let answer = Answer { at, value: None, verdict: None, reason: None, is_filled: false };
        self.answer(entity, answer)
    }

    /// Writes the row, or keeps it as long as it may be the only one of its entity.
    fn answer(&mut self, entity: &str, answer: Answer) -> SqlResult<()> {
        if !self.only_anomalies {
            return self.write(entity, &answer);
        }
        let verdict = answer.verdict.as_ref();
        let is_anomaly = verdict.is_some_and(|v| v.is_anomaly);
        if is_anomaly || verdict.is_some_and(|v| v.status == Status::Ok) {
            self.unjudged = Unjudged { is_judged: true, last: None };
        } else if !self.unjudged.is_judged {
            self.unjudged.last = Some(answer);
            return Ok(());
        }
        if is_anomaly { self.write(entity, &answer) } else { Ok(()) }
    }

    fn end_of_entity(&mut self, entity: &str) -> SqlResult<()> {
        match std::mem::take(&mut self.unjudged).last {
            Some(answer) => self.write(entity, &answer),
            None => Ok(()),
        }
    }

    fn write(&mut self, entity: &str, answer: &Answer) -> SqlResult<()> {
        self.result
            .column(Some(sql::timestamptz(answer.at)?))
            .column(Some(entity).filter(|name| !name.is_empty()))
            .column(answer.value);
        let Some(verdict) = &answer.verdict else {
            for _ in 0..6 {
                self.result.column::<f64>(None);
            }
            self.result
                .column::<&str>(None)
                .column(Some(false))
                .column(Some("missing"))
                .column(Some(Vec::<String>::new()));
            return self.result.end_row();
        };
        let finite = |v: f64| (!v.is_nan()).then_some(v);
        let mut reasons = Vec::new();
        if answer.is_filled {
            reasons.push("no value in this bucket: this one stands in for it".to_owned());
        }
        reasons.extend(answer.reason.clone());
        self.result
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
}

/// How many points the source has, and from when to when.
struct Extent {
    points: i64,
    first: i64,
    last: i64,
}

impl Extent {
    /// `None` without any row. `further` names the columns that `read` has besides the usual four.
    fn of(read: &str, further: &str) -> SqlResult<Option<Extent>> {
        let mut found = None;
        stream::for_each_row(
            &format!(
                "SELECT pg_catalog.count(p.value), pg_catalog.min(p.at), pg_catalog.max(p.at) \
                 FROM ({read}) AS p (at, value, entity, trials{further})"
            ),
            &[],
            &mut |row| {
                if let (Some(points), Some(first), Some(last)) =
                    (row.int8(0), row.int8(1), row.int8(2))
                {
                    found = Some(Extent { points, first, last });
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Points a day, over all entities; `None` where all are at one time.
    fn points_per_day(&self) -> Option<f64> {
        let days = (self.last as f64 - self.first as f64) / DAY;
        (days > 0.0 && self.points > 0).then(|| self.points as f64 / days)
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// The most memory that this process ever had, in kB.
    fn peak() -> i64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn verdicts(entities: i32, points: i32) -> i64 {
        let source = format!(
            "SELECT timestamptz '2024-01-01' + i * interval '1 minute' AS at, e::text AS entity, \
                    (i * 7919 % 101)::float8 AS v \
               FROM generate_series(1, {points}) i, generate_series(1, {entities}) e"
        );
        let query = format!(
            "SELECT count(*) FROM detect_anomalies($${source}$$, bucket => '1 minute', \
                on_missing => 'zero')"
        );
        Spi::get_one(&query).unwrap().unwrap()
    }

    #[pg_test]
    fn ten_thousand_entities_take_no_more_memory_than_a_hundred() {
        Spi::run("SET LOCAL work_mem = '1MB'; SET LOCAL enable_hashagg = off").unwrap();
        assert_eq!(verdicts(100, 40), 4000);
        let before = peak();
        assert_eq!(verdicts(10_000, 40), 400_000);
        let grown = peak() - before;
        assert!(grown < 12_000, "{grown} kB more for a hundred times the entities");
    }
}
