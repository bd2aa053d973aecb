//! How the rows of a source become points: one by one, or a bucket of them at a time.
//!
//! Rows are aggregated by the server, with one GROUP BY over the window. A bucket's point has the
//! time of its start. The end of a window is the start of the bucket that is still going on, so that
//! no part of a bucket is ever judged.

use anomaly_core::{
    EntityState, Point,
    bucket::{Bucket, Length},
    calendar::Calendar,
    category,
    gaps::{Arrival, Gaps, OnMissing},
    strategy::Kind,
};
use pgrx::{datum::Interval, spi};

use crate::{
    error::{SqlResult, from_core, invalid},
    pg::stream,
};

const AGGREGATES: &str = "aggregates are avg, sum, count, count_distinct, min, max, median, stddev, first, last, and \
                          percentiles such as p95 and p99.9";

/// What is made of the rows of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    Avg,
    Sum,
    /// Of the rows; with a value column, of those in which it is not NULL.
    Count,
    CountDistinct,
    Min,
    Max,
    Stddev,
    First,
    Last,
    /// Interpolated between values; 0.5 is the median.
    Quantile(f64),
}

impl Aggregate {
    /// # Errors
    /// 22023 listing the aggregates.
    pub fn parse(text: &str) -> SqlResult<Aggregate> {
        let percentile = || {
            let digits = text.strip_prefix('p')?;
            let plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
            let percent = digits.parse::<f64>().ok().filter(|_| plain && digits.len() <= 9)?;
            (percent > 0.0 && percent < 100.0).then_some(Aggregate::Quantile(percent / 100.0))
        };
        Ok(match text {
            "avg" => Aggregate::Avg,
            "sum" => Aggregate::Sum,
            "count" => Aggregate::Count,
            "count_distinct" => Aggregate::CountDistinct,
            "min" => Aggregate::Min,
            "max" => Aggregate::Max,
            "stddev" => Aggregate::Stddev,
            "first" => Aggregate::First,
            "last" => Aggregate::Last,
            "median" => Aggregate::Quantile(0.5),
            _ => percentile()
                .ok_or_else(|| invalid(format!("unknown aggregate \"{text}\""), AGGREGATES))?,
        })
    }

    /// Whether it counts, so that its value column may be of any type.
    pub fn counts(self) -> bool {
        matches!(self, Aggregate::Count | Aggregate::CountDistinct)
    }

    /// Whether it can do without a value column.
    pub fn counts_rows(self) -> bool {
        self == Aggregate::Count
    }

    /// What is made of further columns, which nobody counts.
    fn of_features(self) -> Aggregate {
        if self.counts() { Aggregate::Avg } else { self }
    }

    /// The call over column `x` of rows `p`, whose times are `p.at`; over the rows without a column.
    fn call(self, x: Option<&str>) -> String {
        let Some(x) = x else { return "pg_catalog.count(*)".to_owned() };
        match self {
            Aggregate::Avg => scaled("pg_catalog.avg", x, &format!("pg_catalog.count({x})")),
            Aggregate::Sum => scaled("pg_catalog.sum", x, "1"),
            Aggregate::Count => format!("pg_catalog.count({x})"),
            Aggregate::CountDistinct => format!("pg_catalog.count(DISTINCT {x})"),
            Aggregate::Min => format!("pg_catalog.min({x})"),
            Aggregate::Max => format!("pg_catalog.max({x})"),
            // Of large values, the squares are beyond all numbers: no finite answer.
            Aggregate::Stddev => format!(
                "CASE WHEN pg_catalog.bool_or({large}) THEN 'NaN' \
                 ELSE pg_catalog.stddev_samp({x}) FILTER (WHERE NOT ({large})) END",
                large = is_large(x)
            ),
            Aggregate::Quantile(q) => {
                format!("pg_catalog.percentile_cont({q:?}) WITHIN GROUP (ORDER BY {x})")
            }
            Aggregate::First => latest(x, &format!("p.at, {x}")),
            Aggregate::Last => latest(x, &format!("p.at DESC, {x} DESC")),
        }
    }
}

/// Core's sums raise an error where they exceed the largest number, and its averages where a square
/// does: for values of this size (and for NaN and infinities) they are not used.
fn is_large(x: &str) -> String {
    format!("pg_catalog.abs({x}) OPERATOR(pg_catalog.>=) '1e140'::pg_catalog.float8")
}
/// What large values are divided by meanwhile: a power of two, so that no digit is lost.
const SCALE: f64 = f64::from_bits((1023 + 664) << 52);

/// The sum of the values of column `x` over `divisor`, infinite where it exceeds the largest number.
/// `aggregate` is what core has for values that are not large.
fn scaled(aggregate: &str, x: &str, divisor: &str) -> String {
    let is_large = is_large(x);
    let scale = format!("'{SCALE:e}'::pg_catalog.float8");
    let max = format!("'{:e}'::pg_catalog.float8", f64::MAX / SCALE);
    let small = format!("FILTER (WHERE NOT ({is_large}))");
    let large =
        format!("pg_catalog.sum({x} OPERATOR(pg_catalog./) {scale}) FILTER (WHERE {is_large})");
    // A sum that is too small to be divided does not matter beside large values.
    let rest = format!("pg_catalog.sum({x}) {small}");
    let rest = format!(
        "CASE WHEN pg_catalog.abs({rest}) OPERATOR(pg_catalog.>=) 1 \
         THEN {rest} OPERATOR(pg_catalog./) {scale} ELSE 0 END"
    );
    let total = format!(
        "(({large} OPERATOR(pg_catalog.+) {rest}) \
         OPERATOR(pg_catalog./) ({divisor})::pg_catalog.float8)"
    );
    format!(
        "CASE WHEN {large} IS NULL THEN {aggregate}({x}) {small} \
         WHEN pg_catalog.abs({total}) OPERATOR(pg_catalog.<=) {max} \
         THEN {total} OPERATOR(pg_catalog.*) {scale} \
         ELSE {total} OPERATOR(pg_catalog.*) 'Infinity'::pg_catalog.float8 END"
    )
}

fn latest(x: &str, order: &str) -> String {
    format!("(pg_catalog.array_agg({x} ORDER BY {order}) FILTER (WHERE {x} IS NOT NULL))[1]")
}

/// Names of further columns, to follow those of `at, value, entity, trials` in a list.
pub fn feature_names(features: usize, prefix: &str) -> String {
    (1..=features).map(|i| format!(", {prefix}f{i}")).collect()
}

/// The further columns of the row at hand.
#[derive(Debug, Clone)]
pub struct Features {
    categories: Vec<bool>,
    /// NaN for NULL, a missing one.
    pub values: Vec<f64>,
}

impl Features {
    /// Which of them are categories.
    pub fn new(categories: Vec<bool>) -> Self {
        Features { values: vec![f64::NAN; categories.len()], categories }
    }

    pub fn numbers(count: usize) -> Self {
        Self::new(vec![false; count])
    }

    /// Those of a row, which follow the columns that [`Sampling::read`] reads. Levels of categories are
    /// handed over with their codes.
    pub fn read(&mut self, row: &stream::Row, mut level: impl FnMut(f64, &[u8])) {
        for (column, (value, category)) in (4..).zip(self.values.iter_mut().zip(&self.categories)) {
            let known = if *category {
                row.with_bytes(column, |text| {
                    let code = category::code(text);
                    level(code, text);
                    code
                })
            } else {
                row.float8(column)
            };
            *value = known.unwrap_or(f64::NAN);
        }
    }
}

/// What a caller asked for, unchecked.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub kind: Option<&'a str>,
    pub trials: Option<&'a str>,
    pub bucket: Option<Interval>,
    pub aggregate: &'a str,
    /// By default zero where rows are counted, else ignore.
    pub on_missing: Option<&'a str>,
    pub time_zone: &'a str,
}

/// How rows become points, checked.
#[derive(Debug, Clone)]
pub struct Sampling {
    pub kind: Kind,
    /// `None`: each row is a point.
    pub bucket: Option<Bucket>,
    pub aggregate: Aggregate,
    pub on_missing: OnMissing,
    gaps: Option<Gaps>,
}

/// What is done with each point of an entity's series.
pub type Each<'a> = dyn FnMut(&mut EntityState, Arrival) -> SqlResult<()> + 'a;

impl Sampling {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// 22023 with what is valid.
    pub fn check(wanted: &Wanted) -> SqlResult<Sampling> {
        let aggregate = Aggregate::parse(wanted.aggregate)?;
        let bucket = match wanted.bucket {
            Some(bucket) => {
                let calendar = Calendar::new(wanted.time_zone).map_err(from_core)?;
                let (months, days, micros) = (bucket.months(), bucket.days(), bucket.micros());
                Some(Bucket::new(months, days, micros, calendar).map_err(from_core)?)
            }
            None if aggregate != Aggregate::Avg => {
                return Err(invalid(
                    format!("aggregate {} without a bucket to aggregate over", wanted.aggregate),
                    "give for example bucket => '5 minutes', or leave out aggregate",
                ));
            }
            None => None,
        };
        let counts = bucket.is_some() && aggregate.counts();
        let kind = match wanted.kind {
            Some(kind) => kind.parse().map_err(from_core)?,
            None if wanted.trials.is_some() => Kind::Ratio,
            None if counts => Kind::Count,
            None => Kind::Value,
        };
        let on_missing = match wanted.on_missing {
            Some(rule) => rule.parse().map_err(from_core)?,
            None if counts => OnMissing::Zero,
            None => OnMissing::Ignore,
        };
        if bucket.is_none() && on_missing != OnMissing::Ignore {
            return Err(invalid(
                format!("on_missing {} without buckets that could be empty", on_missing.as_str()),
                "give for example bucket => '5 minutes', or leave out on_missing",
            ));
        }
        let gaps = bucket.as_ref().and_then(|bucket| Gaps::new(bucket, on_missing));
        match (kind, wanted.trials) {
            (Kind::Ratio, None) => Err(invalid(
                "kind ratio needs trials: how far a share may stray depends on how many it is of",
                "name the column with the denominators: trials => 'requests'",
            )),
            (Kind::Value | Kind::Count, Some(_)) => Err(invalid(
                format!("trials belong to kind ratio, not to kind {}", kind.as_str()),
                "give kind => 'ratio', or leave out trials",
            )),
            (Kind::Ratio, _) if bucket.is_some() && aggregate != Aggregate::Avg => Err(invalid(
                format!("of ratios, aggregate {} is not a ratio", wanted.aggregate),
                "use aggregate => 'avg': it weighs each ratio by its trials",
            )),
            _ => Ok(Sampling { kind, bucket, aggregate, on_missing, gaps }),
        }
    }

    /// The bucket up to which everything is over at a time: the end of a window.
    pub fn settled(&self, until: i64) -> i64 {
        self.bucket.as_ref().map_or(until, |bucket| bucket.start(bucket.index(until)))
    }

    /// The point of a row whose columns are `bin or time, value, entity, trials`.
    pub fn read(&self, row: &stream::Row) -> Option<Reading> {
        let at = row.int8(0)?;
        let index = self.bucket.as_ref().map(|bucket| bucket.index_of_bin(at));
        Some(Reading {
            at: self.bucket.as_ref().zip(index).map_or(at, |(bucket, index)| bucket.start(index)),
            index,
            value: row.float8(1),
            trials: row.float8(3).unwrap_or(f64::NAN),
        })
    }

    /// Hands over the point of a reading and its further columns, after what stands in for the buckets
    /// that are missing before it. A reading without a value is itself a missing one.
    pub fn arrive(
        &self,
        state: &mut EntityState,
        reading: &Reading,
        features: &[f64],
        each: &mut Each,
    ) -> SqlResult<()> {
        let Some(point) = reading.point(features) else { return Ok(()) };
        match (&self.gaps, reading.index) {
            (Some(gaps), Some(index)) => {
                gaps.arrive(state, |s| &mut s.presence, index, &point, each)
            }
            _ => each(state, Arrival::Point(point)),
        }
    }

    /// Hands over what stands in for the buckets that are missing before the end of a window.
    pub fn pass(&self, state: &mut EntityState, until: i64, each: &mut Each) -> SqlResult<()> {
        match (&self.gaps, &self.bucket) {
            (Some(gaps), Some(bucket)) => {
                gaps.pass(state, |s| &mut s.presence, bucket.first_from(until), each)
            }
            _ => Ok(()),
        }
    }

    /// Whether anything stands in for a bucket without a value.
    pub fn fills_gaps(&self) -> bool {
        self.gaps.is_some()
    }

    /// Whether [`Sampling::pass`] does anything.
    pub fn fills_silence(&self) -> bool {
        self.gaps.as_ref().is_some_and(Gaps::fills_at_once)
    }

    /// Rows `p (at, value, entity, trials, further columns)` as points of these columns, one a bucket
    /// and entity; the rows themselves where there are no buckets.
    /// `categories` says which of the further columns are categories: of a bucket, the level that most of
    /// its rows have.
    pub fn aggregated(&self, rows: &str, has_value: bool, categories: &[bool]) -> String {
        let Some(bucket) = &self.bucket else { return rows.to_owned() };
        let local = || format!("pg_catalog.timezone({}, p.at)", spi::quote_literal(bucket.zone()));
        let bin = match bucket.length() {
            Length::Fixed(micros) => format!(
                "pg_catalog.date_bin('{micros} microseconds', p.at, \
                 '0001-01-01 00:00:00+00'::pg_catalog.timestamptz)"
            ),
            Length::Days(days) => format!(
                "pg_catalog.date_bin('{days} days', {}, '0001-01-01'::pg_catalog.timestamp)",
                local()
            ),
            Length::Months(months) => {
                let unit = match months {
                    1 => "month",
                    3 => "quarter",
                    _ => "year",
                };
                format!("pg_catalog.date_trunc('{unit}', {})", local())
            }
        };
        let (value, trials) = if self.kind == Kind::Ratio {
            // The ratio of the whole bucket: each row counts as much as its trials.
            let known = "p.value IS NOT NULL AND p.trials OPERATOR(pg_catalog.>) 0";
            // No product or quotient of these exceeds the largest number or gets too small for any,
            // which the server's operators refuse.
            let usual = "pg_catalog.abs(p.value) OPERATOR(pg_catalog.<) '1e100'::pg_catalog.float8 \
                 AND p.trials OPERATOR(pg_catalog.>) '1e-50'::pg_catalog.float8 \
                 AND p.trials OPERATOR(pg_catalog.<) '1e50'::pg_catalog.float8";
            // 0 where all are; else the value: NaN, or an infinity on the side of the large values.
            let unusual = format!(
                "pg_catalog.sum(CASE WHEN {usual} THEN 0 \
                     WHEN p.value OPERATOR(pg_catalog.=) 'NaN'::pg_catalog.float8 \
                          OR pg_catalog.abs(p.value) OPERATOR(pg_catalog.<) '1e100'::pg_catalog.float8 THEN 'NaN' \
                     ELSE pg_catalog.sign(p.value) OPERATOR(pg_catalog.*) 'Infinity'::pg_catalog.float8 END) \
                 FILTER (WHERE {known})"
            );
            let trials = format!("pg_catalog.sum(p.trials) FILTER (WHERE {usual})");
            let value = format!(
                "CASE WHEN {unusual} OPERATOR(pg_catalog.<>) 0 THEN {unusual} \
                 ELSE pg_catalog.sum(CASE WHEN pg_catalog.abs(p.value) OPERATOR(pg_catalog.>) \
                         '1e-100'::pg_catalog.float8 \
                     THEN p.value OPERATOR(pg_catalog.*) p.trials ELSE 0 END) FILTER (WHERE {usual}) \
                 OPERATOR(pg_catalog./) {trials} END"
            );
            (value, trials)
        } else {
            (self.aggregate.call(has_value.then_some("p.value")), "NULL".to_owned())
        };
        let of_features: String = (1..)
            .zip(categories)
            .map(|(i, category)| match category {
                true => format!(
                    ", pg_catalog.mode() WITHIN GROUP (ORDER BY p.f{i} COLLATE pg_catalog.\"C\")"
                ),
                false => {
                    let value = self.aggregate.of_features().call(Some(&format!("p.f{i}")));
                    format!(", ({value})::pg_catalog.float8")
                }
            })
            .collect();
        format!(
            "SELECT {bin}, ({value})::pg_catalog.float8, COALESCE(p.entity, ''), \
                ({trials})::pg_catalog.float8{of_features} \
             FROM ({rows}) AS p (at, value, entity, trials{}) GROUP BY 1, 3",
            feature_names(categories.len(), "")
        )
    }

    /// What the value is called: the column, or the aggregate of it.
    pub fn label(&self, value: Option<&str>, aggregate: &str) -> String {
        match (&self.bucket, value) {
            (None, value) => value.unwrap_or("value").to_owned(),
            (Some(_), Some(value)) => format!("{aggregate}_{value}"),
            (Some(_), None) => aggregate.to_owned(),
        }
    }
}

/// A row as a point that may have no value.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub at: i64,
    /// Of the bucket.
    pub index: Option<i64>,
    pub value: Option<f64>,
    pub trials: f64,
}

impl Reading {
    pub fn point<'a>(&self, features: &'a [f64]) -> Option<Point<'a>> {
        Some(Point { at: self.at, value: self.value?, trials: self.trials, features })
    }
}
