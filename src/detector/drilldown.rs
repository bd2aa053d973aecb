//! `anomaly.drilldown`: which segments of the rows behind an alert explain it.
//!
//! The server adds up what each segment had in the time of the alert and in the times that it is compared with, in
//! one pass over these rows; [`anomaly_core::drilldown`] says what follows.

use anomaly_core::{
    drilldown::{Amount, Change, Dimension, Measure, explain},
    strategy::Kind,
};
use pgrx::{
    PgSqlErrorCode,
    datum::{DatumWithOid, Interval},
    pg_sys,
    pg_sys::panic::ErrorReport,
    prelude::*,
};

use crate::{
    detector::{
        catalog::DetectorRow,
        create_detector::interval_micros,
        rows::Behind,
        sampling::Aggregate,
        source::{Columns, Source, at_expression, entity_expression, is_text_like, quoted},
        train::check_runs_here,
    },
    error::{SqlResult, invalid, not_null, report, required},
    pg::internal_rights,
    sql,
};

/// Of a dimension, the segments that are compared one by one; the others together.
const MOST_SEGMENTS: i64 = 1000;
const MOST_DIMENSIONS: usize = 8;
const WEEK: i64 = 7 * DAY;
const DAY: i64 = 86_400_000_000;

type Row = (
    i32,
    Vec<String>,
    Option<Vec<Option<String>>>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    bool,
    i64,
    String,
);

/// Compares the rows of an alert's time and entity with those of the same times of earlier weeks or days, and divides
/// the change among the values of `dimensions`, columns of the source: by default those that hold texts. With depth 2,
/// pairs of dimensions as well. `baseline`: how far apart the times are that it is compared with.
///
/// # Errors
/// 42704 and 42501 as of `rows`; 42703 for a column that is not there, 0A000 for an aggregate whose change cannot be
/// divided and for a detector without a source, 22023 for arguments out of range, 55000 where there is nothing to
/// compare with; those of reading the source.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn drilldown(
    alert: Option<i64>,
    dimensions: default!(Option<Vec<Option<String>>>, "NULL"),
    depth: default!(Option<i32>, "1"),
    max_segments: default!(Option<i32>, "10"),
    baseline: default!(Option<Interval>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(rank, i32),
            name!(dimensions, Vec<String>),
            name!(segment, Option<Vec<Option<String>>>),
            name!(actual, Option<f64>),
            name!(expected, Option<f64>),
            name!(change, Option<f64>),
            name!(contribution, Option<f64>),
            name!(within, Option<f64>),
            name!(mix, Option<f64>),
            name!(surprise, Option<f64>),
            name!(explains, bool),
            name!(segments, i64),
            name!(compared_with, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(alert, depth, max_segments);
    if !(1..=2).contains(&depth) {
        return Err(invalid(
            format!("depth is {depth}"),
            "1 for each dimension by itself, 2 for pairs as well",
        ));
    }
    if !(1..=MOST_SEGMENTS).contains(&i64::from(max_segments)) {
        return Err(invalid(
            format!("max_segments is {max_segments}"),
            format!("ask for 1 to {MOST_SEGMENTS} segments of each dimension"),
        ));
    }
    let Behind { row, entity, from, to } = Behind::of(alert)?;
    let Some((source, columns)) = row.source()? else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("detector \"{}\" has no source with columns to divide by", row.detector),
        )
        .set_hint("drilldown is for detectors over tables, views and queries"));
    };
    check_runs_here(&row)?;
    let measured = Measured::of(&row, columns)?;
    let named = dimensions.unwrap_or_default().into_iter();
    let named = named.map(|name| required(name, "a dimension")).collect::<SqlResult<_>>()?;
    let dimensions = chosen(&source, columns, named)?;
    let until = to.saturating_add(1);
    let periods = Periods::choose(&row, &source, columns, alert, &entity, (from, until), baseline)?;
    let found = read(&row, &source, columns, &measured, &dimensions, depth, &entity, &periods)?;
    let rows = found.ranked(measured.measure, &dimensions, max_segments as usize);
    Ok(TableIterator::new(rows.into_iter().zip(1..).map(move |(mut row, rank)| {
        row.0 = rank;
        row.12.clone_from(&periods.told);
        row
    })))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.drilldown(bigint, text[], integer, integer, interval) IS
'which values of the source''s columns explain an alert: each with what it had and what was expected, its contribution to the change and how surprising that is; in the session of the owner';"#,
    name = "drilldown_comment",
    requires = [drilldown]
);

/// What is added up of the rows.
struct Measured {
    measure: Measure,
    /// Of a row: the value times its weight, and the weight.
    value: String,
    weight: String,
}

impl Measured {
    fn of(row: &DetectorRow, columns: &Columns) -> SqlResult<Measured> {
        let value = columns.value.as_deref().map(quoted);
        let number = |column: &str| format!("({column})::pg_catalog.float8");
        let one = || "1::pg_catalog.float8".to_owned();
        let total = |value: String| Measured { measure: Measure::Total, value, weight: one() };
        let mean = |value, weight| Measured { measure: Measure::Mean, value, weight };
        Ok(match (row.sampling.aggregate, value) {
            (Aggregate::Count, None) => total(one()),
            (Aggregate::Count, Some(value)) => {
                total(format!("CASE WHEN {value} IS NOT NULL THEN 1::pg_catalog.float8 END"))
            }
            (Aggregate::Sum, Some(value)) => total(number(&value)),
            (Aggregate::Avg, Some(value)) => match (row.sampling.kind, &columns.trials) {
                (Kind::Ratio, Some(trials)) => {
                    let trials = number(&quoted(trials));
                    let known = format!(
                        "CASE WHEN {trials} OPERATOR(pg_catalog.>) 0 \
                              AND {trials} OPERATOR(pg_catalog.<) '1e50'::pg_catalog.float8 THEN {trials} END"
                    );
                    mean(number(&value), known)
                }
                _ => mean(number(&value), one()),
            },
            _ => {
                return Err(report(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    format!("the change of detector \"{}\" cannot be divided among segments", row.detector),
                )
                .set_hint(
                    "drilldown is for values of rows and for buckets of aggregate sum, count or avg: of a \
                     maximum or percentile, SELECT anomaly.rows(…) shows the rows",
                ));
            }
        })
    }
}

/// The columns to divide by.
fn chosen(source: &Source, columns: &Columns, named: Vec<String>) -> SqlResult<Vec<String>> {
    let used = |name: &str| {
        [Some(columns.at.as_str()), columns.value.as_deref(), columns.entity.as_deref()]
            .contains(&Some(name))
    };
    let mut dimensions = Vec::new();
    if named.is_empty() {
        for column in &source.columns {
            let divides = column.base_type == pg_sys::BOOLOID || is_text_like(column.base_type)?;
            if divides && !used(&column.name) && dimensions.len() < MOST_DIMENSIONS {
                dimensions.push(column.name.clone());
            }
        }
        if dimensions.is_empty() {
            return Err(invalid(
                "the source has no further column of a text type",
                format!(
                    "name columns: dimensions => '{{country}}'; there are {}",
                    source.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
                ),
            ));
        }
        return Ok(dimensions);
    }
    for name in named {
        source.column(&name)?;
        if dimensions.contains(&name) {
            return Err(invalid(
                format!("dimension \"{name}\" is named twice"),
                "name each column once",
            ));
        }
        dimensions.push(name);
    }
    if dimensions.len() > MOST_DIMENSIONS {
        return Err(invalid(
            format!("{} dimensions", dimensions.len()),
            format!("name at most {MOST_DIMENSIONS}"),
        ));
    }
    Ok(dimensions)
}

/// The time of the alert, and those that it is compared with: each from, included, until, excluded.
struct Periods {
    all: Vec<(i64, i64)>,
    told: String,
}

impl Periods {
    /// The same times of earlier weeks, if the history has two; else of earlier days; else what lies right before. Times
    /// with other alerts are passed over where there are others.
    fn choose(
        row: &DetectorRow,
        source: &Source,
        columns: &Columns,
        alert: i64,
        entity: &str,
        (from, until): (i64, i64),
        baseline: Option<Interval>,
    ) -> SqlResult<Periods> {
        let at = at_expression(source, columns, &row.time_zone)?;
        let first = sql::row(
            &format!(
                "SELECT pg_catalog.min(r.at) FROM (SELECT ({at})::pg_catalog.timestamptz, COALESCE({}, '') \
                   FROM {} AS q) AS r (at, entity) \
                  WHERE pg_catalog.isfinite(r.at) AND r.entity OPERATOR(pg_catalog.=) $1",
                entity_expression(source, columns)?,
                source.table_expression()
            ),
            &[entity.into()],
            |r| r.micros(1),
        )?;
        let first = first.flatten().unwrap_or(from);
        let length = until.saturating_sub(from);
        let others = internal_rights::with(|| {
            sql::rows(
                "SELECT a.at, a.last_at FROM anomaly.alert a \
                  WHERE a.detector = $1 AND a.entity = $2 AND a.alert_id <> $3 AND a.status <> 'withdrawn' \
                    AND a.at < $4",
                &[
                    row.detector.as_str().into(),
                    entity.into(),
                    alert.into(),
                    sql::timestamptz(from)?.into(),
                ],
                |r| Ok((r.micros(1)?.unwrap_or_default(), r.micros(2)?.unwrap_or_default())),
            )
        })?;
        let mut chosen = None;
        match baseline {
            // A row is a moment, which has no like in other weeks; averages do not mind how long a time is.
            apart if row.sampling.bucket.is_none() => {
                let back = apart.as_ref().map_or(i128::from(DAY.max(8 * length)), interval_micros);
                let start = from.saturating_sub(i64::try_from(back).unwrap_or(i64::MAX)).max(first);
                if start >= from {
                    return Err(nothing_before());
                }
                let told = format!("the {} seconds before", (from - start) / 1_000_000);
                return Ok(Periods { all: vec![(from, until), (start, from)], told });
            }
            Some(apart) => {
                let step = interval_micros(&apart);
                if step < i128::from(length) {
                    return Err(invalid(
                        "baseline is shorter than the alert",
                        format!("give an interval of at least {} seconds", length / 1_000_000 + 1),
                    ));
                }
                let told = sql::row("SELECT $1::pg_catalog.text", &[apart.into()], |r| {
                    r.must::<String>(1)
                })?;
                let steps = steps(row, apart, (from, until), 14)?;
                chosen = Some((usable(steps, first, &others, 7), told.unwrap_or_default()));
            }
            None => {
                for (step, name, months_days, looked_at, taken) in
                    [(WEEK, "7 days", 7, 8, 4), (DAY, "1 day", 1, 14, 7)]
                {
                    if length > step || first > from.saturating_sub(2 * step) {
                        continue;
                    }
                    let apart = Interval::new(0, months_days, 0)
                        .map_err(|e| invalid(e.to_string(), "give baseline => '1 day'"))?;
                    let steps = steps(row, apart, (from, until), looked_at)?;
                    chosen = Some((usable(steps, first, &others, taken), name.to_owned()));
                    break;
                }
            }
        }
        let (mut all, told) = match chosen {
            Some((found, apart)) => {
                let told = format!("{} earlier times, {apart} apart", found.len());
                (found, told)
            }
            None => {
                let before = (1..=16).map(|k| {
                    let back = length.saturating_mul(k);
                    (from.saturating_sub(back), until.saturating_sub(back))
                });
                let found = usable(before.collect(), first, &others, 8);
                let told = format!("{} times as long, right before", found.len());
                (found, told)
            }
        };
        if all.is_empty() {
            return Err(nothing_before());
        }
        all.insert(0, (from, until));
        Ok(Periods { all, told })
    }
}

fn nothing_before() -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "there is no earlier time to compare the alert with",
    )
    .set_hint(
        "the rows of the entity begin too shortly before it: give a shorter baseline => interval",
    )
}

/// The same time, `apart` and twice and three times … earlier by the clock of the detector's time zone.
fn steps(
    row: &DetectorRow,
    apart: Interval,
    (from, until): (i64, i64),
    looked_at: i32,
) -> SqlResult<Vec<(i64, i64)>> {
    let length = until - from;
    internal_rights::with(|| {
        sql::rows(
            "SELECT (($1 AT TIME ZONE $2) - k * $3::interval) AT TIME ZONE $2 FROM generate_series(1, $4) k ORDER BY k",
            &[
                sql::timestamptz(from)?.into(),
                row.time_zone.as_str().into(),
                apart.into(),
                looked_at.into(),
            ],
            |r| Ok(r.micros(1)?.unwrap_or_default()),
        )
    })
    .map(|starts| starts.into_iter().map(|start| (start, start.saturating_add(length))).collect())
}

/// The latest of those within the history, without other alerts if there are such.
fn usable(
    periods: Vec<(i64, i64)>,
    first: i64,
    others: &[(i64, i64)],
    taken: usize,
) -> Vec<(i64, i64)> {
    let there: Vec<(i64, i64)> = periods.into_iter().filter(|p| p.0 >= first).collect();
    let quiet: Vec<(i64, i64)> = there
        .iter()
        .copied()
        .filter(|(from, until)| !others.iter().any(|(at, last)| at < until && last >= from))
        .collect();
    let mut chosen = if quiet.is_empty() { there } else { quiet };
    chosen.truncate(taken);
    chosen
}

/// The segments of one set of dimensions, and how many there are.
struct Group {
    dimensions: Vec<usize>,
    values: Vec<Vec<Option<String>>>,
    changes: Vec<Change>,
    segments: i64,
}

struct Found {
    total: Change,
    groups: Vec<Group>,
}

/// Which dimensions are looked at together.
fn sets(dimensions: usize, depth: i32) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = (0..dimensions).map(|i| vec![i]).collect();
    if depth > 1 {
        for i in 0..dimensions {
            sets.extend((i + 1..dimensions).map(|j| vec![i, j]));
        }
    }
    sets
}

#[allow(clippy::too_many_arguments)]
fn read(
    row: &DetectorRow,
    source: &Source,
    columns: &Columns,
    measured: &Measured,
    dimensions: &[String],
    depth: i32,
    entity: &str,
    periods: &Periods,
) -> SqlResult<Found> {
    let at = at_expression(source, columns, &row.time_zone)?;
    let at = format!("({at})::pg_catalog.timestamptz");
    let within: Vec<String> = (0..periods.all.len())
        .map(|k| {
            format!(
                "{at} OPERATOR(pg_catalog.>=) ${} AND {at} OPERATOR(pg_catalog.<) ${}",
                2 * k + 2,
                2 * k + 3
            )
        })
        .collect();
    let values: String = (0..)
        .zip(dimensions)
        .map(|(i, name)| format!(", ({})::pg_catalog.text AS d{i}", quoted(name)))
        .collect();
    let names: Vec<String> = (0..dimensions.len()).map(|i| format!("r.d{i}")).collect();
    let sets = sets(dimensions.len(), depth);
    let grouping: Vec<String> = sets
        .iter()
        .map(|set| {
            let of: Vec<&str> = set.iter().map(|i| names[*i].as_str()).collect();
            format!("({})", of.join(", "))
        })
        .collect();
    // Sums of these stay within the numbers; NaN is larger than all of them.
    let usual =
        |x: &str| format!("pg_catalog.abs({x}) OPERATOR(pg_catalog.<) '1e140'::pg_catalog.float8");
    let sum = |x: &str, now: bool| {
        let sign = if now { "" } else { "NOT " };
        format!("COALESCE(pg_catalog.sum({x}) FILTER (WHERE {sign}r.now AND {}), 0)", usual("r.x"))
    };
    let product = "r.x OPERATOR(pg_catalog.*) r.w";
    let earlier = (periods.all.len() - 1) as f64;
    let (now_x, before_x) = (sum(product, true), sum(product, false));
    let (now_w, before_w) = (sum("r.w", true), sum("r.w", false));
    // What is kept one by one: what has changed most, of means what weighs most.
    let weight = match measured.measure {
        Measure::Total => format!(
            "pg_catalog.abs(({now_x}) OPERATOR(pg_catalog.-) (({before_x}) OPERATOR(pg_catalog./) \
             {earlier}::pg_catalog.float8))"
        ),
        Measure::Mean => format!(
            "GREATEST({now_w}, ({before_w}) OPERATOR(pg_catalog./) {earlier}::pg_catalog.float8)"
        ),
    };
    let query = format!(
        "SELECT * FROM (SELECT s.*, pg_catalog.row_number() OVER (PARTITION BY s.g ORDER BY s.weight DESC, s.values COLLATE pg_catalog.\"C\") AS place, \
                pg_catalog.count(*) OVER (PARTITION BY s.g) AS segments \
           FROM (SELECT GROUPING({names}) AS g, {now_x} AS nx, {now_w} AS nw, {before_x} AS bx, {before_w} AS bw, \
                        {weight} AS weight, ARRAY[{names}] AS values \
                   FROM (SELECT {is_now} AS now, ({value})::pg_catalog.float8 AS x, \
                                CASE WHEN ({value}) IS NOT NULL THEN ({w})::pg_catalog.float8 END AS w{values} \
                           FROM {table} AS q \
                          WHERE COALESCE({of}, '') OPERATOR(pg_catalog.=) $1 AND (({any}))) AS r \
                  GROUP BY GROUPING SETS ((), {sets})) AS s) AS t \
          WHERE t.place OPERATOR(pg_catalog.<=) {MOST_SEGMENTS} ORDER BY t.g, t.place",
        names = names.join(", "),
        is_now = within[0],
        value = measured.value,
        w = measured.weight,
        table = source.table_expression(),
        of = entity_expression(source, columns)?,
        any = within.join(") OR ("),
        sets = grouping.join(", "),
    );
    let mut arguments: Vec<DatumWithOid> = vec![entity.into()];
    for (from, until) in &periods.all {
        arguments.push(sql::timestamptz(*from)?.into());
        arguments.push(sql::timestamptz(*until)?.into());
    }
    let all = (1i32 << dimensions.len()) - 1;
    let group =
        |dimensions| Group { dimensions, values: Vec::new(), changes: Vec::new(), segments: 0 };
    let mut found =
        Found { total: Change::default(), groups: sets.into_iter().map(group).collect() };
    sql::rows(&query, &arguments, |r| {
        let mask: i32 = r.must(1)?;
        let change = Change {
            now: Amount { sum: r.must(2)?, weight: r.must(3)? },
            before: Amount {
                sum: r.must::<f64>(4)? / earlier,
                weight: r.must::<f64>(5)? / earlier,
            },
        };
        if mask == all {
            found.total = change;
            return Ok(());
        }
        // A bit is set for a dimension that is not in the set; the first is the highest.
        let set: Vec<usize> = (0..dimensions.len())
            .filter(|i| mask & (1 << (dimensions.len() - 1 - i)) == 0)
            .collect();
        if let Some(group) = found.groups.iter_mut().find(|group| group.dimensions == set) {
            let values: Vec<Option<String>> = r.must(7)?;
            group.values.push(set.iter().map(|i| values.get(*i).cloned().flatten()).collect());
            group.changes.push(change);
            group.segments = r.must(9)?;
        }
        Ok(())
    })?;
    Ok(found)
}

impl Found {
    /// The dimensions that explain most surprisingly first, single ones before pairs.
    fn ranked(&self, measure: Measure, names: &[String], max_segments: usize) -> Vec<Row> {
        let mut explained: Vec<(&Group, Vec<usize>, Dimension)> = self
            .groups
            .iter()
            .map(|group| {
                let all = explain(measure, self.total, &group.changes);
                let shown: Vec<usize> =
                    all.segments.iter().filter_map(|s| s.place).take(max_segments).collect();
                let changes: Vec<Change> = shown.iter().map(|i| group.changes[*i]).collect();
                // Again, because what is not shown is one segment.
                (group, shown, explain(measure, self.total, &changes))
            })
            .collect();
        explained.sort_by(|(a, _, x), (b, _, y)| {
            (a.dimensions.len().cmp(&b.dimensions.len())).then(y.surprise.total_cmp(&x.surprise))
        });
        let mut rows = Vec::new();
        for (group, shown, dimension) in explained {
            let of: Vec<String> = group.dimensions.iter().map(|i| names[*i].clone()).collect();
            for segment in dimension.segments {
                let known = |x: f64| Some(x).filter(|x| !x.is_nan());
                let parts = |x: f64| known(x).filter(|_| measure == Measure::Mean);
                let values = segment.place.map(|place| group.values[shown[place]].clone());
                let segments = match values {
                    Some(_) => 1,
                    None => group.segments.saturating_sub(shown.len() as i64),
                };
                rows.push((
                    0,
                    of.clone(),
                    values,
                    known(segment.actual),
                    known(segment.expected),
                    known(segment.change),
                    known(segment.share),
                    parts(segment.within),
                    parts(segment.mix),
                    known(segment.surprise),
                    segment.explains,
                    segments,
                    String::new(),
                ));
            }
        }
        rows
    }
}
