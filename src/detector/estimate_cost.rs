//! `anomaly.estimate_cost`: what a detector takes, or would take, of this server.
//!
//! Of a detector that has been scanned it is what its runs took. Otherwise it is rehearsed: a copy is trained on the latest
//! rows, at most [`SAMPLE_ROWS`] of them, and scanned three times, by the code that trains and scans, and rolled back.

use std::time::Instant;

use pgrx::{
    PgSqlErrorCode,
    datum::{Interval, TimestampWithTimeZone},
    pg_sys::panic::ErrorReport,
    prelude::*,
};

use crate::{
    detector::{
        alter_detector::create_from,
        backtest,
        catalog::DetectorRow,
        create_detector::interval_micros,
        scan,
        source::{Columns, Source, at_expression, latest_query},
        train::check_runs_here,
    },
    error::{SqlResult, invalid, not_null, report},
    pg::{
        internal_rights,
        json_arg::JsonArg,
        session::{self, Clock},
        subxact,
    },
    run, sql,
};

/// Rows that a rehearsal trains on.
const SAMPLE_ROWS: i64 = 100_000;
/// Scans that it times.
const SCANS: i64 = 3;
/// Runs that are looked at, and how many it takes to tell what a row costs from what a scan does.
const RUNS: i32 = 100;
const ENOUGH_RUNS: i64 = 10;
const DAY: f64 = 86_400e6;

/// What a detector costs by one source of knowledge.
struct Cost {
    basis: String,
    rows_per_scan: f64,
    ms_per_scan: f64,
    entities: i64,
    state_bytes: i64,
}

/// `source`: the id of a detector, or else what one would watch, with `settings` as of `preview`. `every`: how often it
/// is, or would be, scanned; by default as the detector is, else each minute. Nothing is stored.
///
/// # Errors
/// Those of `create_detector`, `train` and `scan`; 42501 in a session that is not the detector's owner's, 55000 where there
/// is nothing to measure, 22023 for an `every` below a second, 25006 on a standby.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn estimate_cost(
    source: Option<&str>,
    every: default!(Option<Interval>, "NULL"),
    settings: default!(Option<JsonArg>, "'{}'"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(rows_per_scan, f64),
            name!(ms_per_scan, f64),
            name!(scans_per_day, f64),
            name!(share_of_a_core, f64),
            name!(entities, i64),
            name!(bytes_per_entity, Option<f64>),
            name!(state_bytes, i64),
            name!(basis, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(source, settings);
    run::check_writable("estimate_cost")?;
    let row = DetectorRow::find_owned(source)?;
    let own = match &row {
        Some(row) => own_schedule(&row.detector)?,
        None => None,
    };
    let every = match &every {
        Some(every) => i64::try_from(interval_micros(every)).unwrap_or(i64::MAX),
        None => own.unwrap_or(60_000_000),
    };
    if every < 1_000_000 {
        return Err(invalid(
            "every must be at least one second",
            "for example every => '1 minute'",
        ));
    }
    let cost = match &row {
        Some(row) => match of_runs(row, every)? {
            Some(cost) => cost,
            None => {
                check_runs_here(row)?;
                rehearsed(every, |name| backtest::copy(row, name))?
            }
        },
        None => rehearsed(every, |name| create_from(name, source, settings.0).map(|_| ()))?,
    };
    let bytes = (cost.entities > 0).then(|| cost.state_bytes as f64 / cost.entities as f64);
    Ok(TableIterator::once((
        cost.rows_per_scan,
        cost.ms_per_scan,
        DAY / every as f64,
        cost.ms_per_scan * 1e3 / every as f64,
        cost.entities,
        bytes,
        cost.state_bytes,
        cost.basis,
    )))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.estimate_cost(text, interval, jsonb) IS
'what a detector takes of this server, by its runs, or would take, by a rehearsal: rows and milliseconds of a scan, the share of a core, bytes of state; nothing is stored';"#,
    name = "estimate_cost_comment",
    requires = [estimate_cost]
);

/// How often it is scanned, µs.
fn own_schedule(detector: &str) -> SqlResult<Option<i64>> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT (extract(epoch FROM every) * 1000000)::bigint FROM anomaly.detector WHERE detector = $1",
            &[detector.into()],
            |row| row.get::<i64>(1),
        )
    })?;
    Ok(found.flatten())
}

/// Entities and bytes of the states of a detector's active model, with its checkpoints.
fn states(detector: &str) -> SqlResult<(i64, i64)> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT count(*), COALESCE(sum(octet_length(e.payload)), 0)::bigint + COALESCE(( \
                    SELECT sum(octet_length(c.payload)) FROM anomaly.checkpoint c WHERE c.detector = $1), 0)::bigint \
               FROM anomaly.entity_state e JOIN anomaly.model m USING (detector, version) \
              WHERE e.detector = $1 AND m.active",
            &[detector.into()],
            |row| Ok((row.must(1)?, row.must(2)?)),
        )
    })?;
    Ok(found.unwrap_or((0, 0)))
}

/// By the latest scans: rows in proportion to the time between two, milliseconds by the line through those of the runs, if
/// they differ enough to have one.
fn of_runs(row: &DetectorRow, every: i64) -> SqlResult<Option<Cost>> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT count(*), sum(rows)::float8, sum(length)::float8, avg(ms)::float8, \
                    regr_slope(ms, rows), regr_intercept(ms, rows) \
               FROM (SELECT COALESCE(r.rows_read, 0)::float8 AS rows, \
                            extract(epoch FROM r.window_until - r.window_from)::float8 * 1e6 AS length, \
                            extract(epoch FROM r.finished_at - r.started_at)::float8 * 1e3 AS ms \
                       FROM anomaly.run r JOIN anomaly.detector d USING (detector) \
                      WHERE r.detector = $1 AND r.kind = 'scan' AND r.status = 'succeeded' \
                        AND r.window_from < r.window_until AND r.started_at >= d.created_at \
                      ORDER BY r.run_id DESC LIMIT $2) q",
            &[row.detector.as_str().into(), RUNS.into()],
            |r| {
                Ok((
                    r.must::<i64>(1)?,
                    r.get::<f64>(2)?,
                    r.get::<f64>(3)?,
                    r.get::<f64>(4)?,
                    r.get::<f64>(5)?.zip(r.get::<f64>(6)?),
                ))
            },
        )
    })?;
    let Some((runs @ 1.., Some(rows), Some(length), Some(ms), line)) = found else {
        return Ok(None);
    };
    if length <= 0.0 {
        return Ok(None);
    }
    let rows_per_scan = rows / length * every as f64;
    let line =
        line.filter(|(slope, intercept)| runs >= ENOUGH_RUNS && *slope > 0.0 && *intercept >= 0.0);
    let (ms_per_scan, by) = match line {
        Some((slope, intercept)) => (
            intercept + slope * rows_per_scan,
            format!("{intercept:.2} ms and {:.4} ms a row", slope),
        ),
        None => (ms, format!("{ms:.2} ms on average, of {:.0} rows", rows / runs as f64)),
    };
    let (entities, state_bytes) = states(&row.detector)?;
    Ok(Some(Cost {
        basis: format!("its latest {runs} scans: {by}"),
        rows_per_scan,
        ms_per_scan,
        entities,
        state_bytes,
    }))
}

/// Trains what `create` makes and scans it: the median of [`SCANS`], without what its commit takes.
fn rehearsed(every: i64, create: impl FnOnce(&str) -> SqlResult<()>) -> SqlResult<Cost> {
    let name = backtest::copy_name("cost");
    subxact::rehearse(|| {
        create(&name)?;
        let row = DetectorRow::load(&name)?;
        let Some((source, columns)) = row.source()? else {
            return Err(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "a detector without a source has not been scanned yet",
            )
            .set_hint("ask again after its first scans"));
        };
        let latest =
            sql::row(&latest_query(&source, columns, &row.sampling, &row.time_zone)?, &[], |r| {
                r.micros(1)
            })?;
        let Some(latest) = latest.flatten().map(|latest| latest.min(session::now())) else {
            return Err(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there are no rows to measure with",
            )
            .set_hint("ask again when some have come"));
        };
        // Whole buckets, the last of which holds the latest row.
        let end = match &row.sampling.bucket {
            Some(bucket) => bucket.start(bucket.index(latest) + 1),
            None => latest,
        };
        let begin = end.saturating_sub(every.saturating_mul(SCANS));
        let window = row.settled_until.saturating_sub(row.training_from);
        let window = sample_window(&row, &source, columns, begin, window)?;
        internal_rights::with(|| {
            sql::execute(
                "UPDATE anomaly.detector SET settle = '0', retrain_every = NULL, created_at = '-infinity', \
                        training_window = ($2 || ' microseconds')::interval WHERE detector = $1",
                &[name.as_str().into(), window.to_string().into()],
            )
        })?;
        let clock = Clock::at(begin);
        let trained = scan::execute(&name, None)?;
        let mut times = Vec::new();
        let mut rows = 0;
        for i in 1..=SCANS {
            clock.set(begin.saturating_add(every.saturating_mul(i)));
            let began = Instant::now();
            rows += scan::execute(&name, None)?.rows_read;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (entities, state_bytes) = states(&name)?;
        let learned = trained.rows_read;
        // What many rows say, where there are many; what the scans have read, where not.
        let rate = DetectorRow::load(&name)?.model.and_then(|model| model.points_per_day);
        let rows_per_scan = match rate {
            Some(rate) if learned > rows => rate * every as f64 / DAY,
            _ => rows as f64 / SCANS as f64,
        };
        Ok(Cost {
            basis: format!(
                "a rehearsal: trained on the latest {learned} points, the median of {SCANS} scans that read {rows}, \
                 without their commits"
            ),
            rows_per_scan,
            ms_per_scan: times[times.len() / 2],
            entities,
            state_bytes,
        })
    })
}

/// How long a time before `until` holds at most [`SAMPLE_ROWS`] rows, µs: `window` or a part of it.
fn sample_window(
    row: &DetectorRow,
    source: &Source,
    columns: &Columns,
    until: i64,
    window: i64,
) -> SqlResult<i64> {
    let at = at_expression(source, columns, &row.time_zone)?;
    let query = format!(
        "SELECT pg_catalog.count(*) FROM (SELECT 1 FROM {} AS q \
          WHERE ({at})::pg_catalog.timestamptz OPERATOR(pg_catalog.>) $1 \
            AND ({at})::pg_catalog.timestamptz OPERATOR(pg_catalog.<=) $2 LIMIT {}) AS r",
        source.table_expression(),
        SAMPLE_ROWS + 1
    );
    let mut window = window.max(1);
    loop {
        let from: TimestampWithTimeZone = sql::timestamptz(until.saturating_sub(window))?;
        let rows = sql::row(&query, &[from.into(), sql::timestamptz(until)?.into()], |r| {
            r.must::<i64>(1)
        })?;
        if rows.unwrap_or(0) <= SAMPLE_ROWS || window <= 1_000_000 {
            return Ok(window);
        }
        window /= 2;
    }
}
