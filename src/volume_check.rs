//! `volume_check(source, at, bucket)`: rows per time bucket, and which buckets are unusual.
//!
//! Runs as the caller and reads through read-only SPI. Buckets of whole days, and all buckets of a
//! column without time zone, follow the session's local time; shorter ones are counted in absolute
//! time, so that a change to or from daylight saving makes no bucket twice as long.

use anomaly_core::nearest::nearest;
use anomaly_core::volume::{self, MAX_BUCKETS};
use pgrx::datum::{DatumWithOid, Interval, Timestamp, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiError, quote_identifier};

use crate::error::{SqlResult, from_core, invalid, report};
use crate::pg::interrupts::Interrupts;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// 2000-01-03, a Monday, so that buckets of weeks start on Mondays.
const ORIGIN: i64 = 2 * MICROS_PER_DAY;

extension_sql!(
    r#"
COMMENT ON FUNCTION volume_check(regclass, text, interval, timestamptz) IS 'rows per time bucket of a table or view, each judged against all other buckets';
"#,
    name = "volume_check_comment",
    requires = [volume_check],
);

#[expect(clippy::type_complexity, reason = "the row type of the SQL function")]
#[pg_extern(
    sql = r#"
CREATE FUNCTION volume_check(
    source regclass, at text, bucket interval, until_ts timestamptz DEFAULT NULL
) RETURNS TABLE (
    bucket_start timestamptz, rows bigint, expected double precision, lower double precision,
    upper double precision, deviation double precision, is_anomaly boolean
)
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#,
    stable,
    parallel_restricted
)]
fn volume_check(
    source: Option<pg_sys::Oid>,
    at: Option<&str>,
    bucket: Option<Interval>,
    until_ts: Option<TimestampWithTimeZone>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(bucket_start, TimestampWithTimeZone),
            name!(rows, i64),
            name!(expected, Option<f64>),
            name!(lower, Option<f64>),
            name!(upper, Option<f64>),
            name!(deviation, Option<f64>),
            name!(is_anomaly, Option<bool>),
        ),
    >,
    ErrorReport,
> {
    let (Some(source), Some(at), Some(bucket)) = (source, at, bucket) else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "source, at and bucket must not be NULL",
        )
        .set_hint("for example volume_check('orders', at => 'created_at', bucket => '1 day')"));
    };
    let width = bucket_width(&bucket)?;
    let buckets = Spi::connect(|client| count(client, source, at, width, until_ts))?;
    let counts: Vec<u64> = buckets.iter().map(|(_, rows)| *rows as u64).collect();
    let judgements = volume::judge(&counts, &mut Interrupts::default()).map_err(from_core)?;
    let rows: Vec<_> = buckets
        .into_iter()
        .zip(judgements)
        .enumerate()
        .map(|(i, ((start, rows), judgement))| {
            // The first row of a table rarely falls on the start of a bucket, so a small first
            // bucket says nothing.
            let unusual = judgement.map(|j| j.is_anomaly && (i > 0 || j.deviation > 0.0));
            (
                start,
                rows,
                judgement.map(|j| j.expected),
                judgement.map(|j| j.lower),
                judgement.map(|j| j.upper),
                judgement.map(|j| j.deviation),
                unusual,
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}

/// Width in microseconds, above 0.
fn bucket_width(bucket: &Interval) -> SqlResult<i64> {
    let hint = "use a fixed length such as '1 hour', '1 day' or '7 days'";
    if bucket.months() != 0 {
        return Err(invalid("bucket must not contain months or years: they vary in length", hint));
    }
    let width =
        i128::from(bucket.days()) * i128::from(MICROS_PER_DAY) + i128::from(bucket.micros());
    match i64::try_from(width) {
        Ok(width) if width > 0 => Ok(width),
        _ => Err(invalid("bucket must be longer than zero", hint)),
    }
}

fn failed(error: SpiError) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("volume_check could not read: {error}"))
}

/// The time axis that buckets are cut on: microseconds, local or absolute.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Local,
    Absolute,
}

impl Axis {
    fn position(self, at: TimestampWithTimeZone) -> i64 {
        match self {
            Axis::Local => Timestamp::from(at).into(),
            Axis::Absolute => at.into(),
        }
    }

    fn time(self, position: i64) -> SqlResult<TimestampWithTimeZone> {
        let outside =
            || report(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "timestamp out of range");
        match self {
            Axis::Local => Timestamp::try_from(position)
                .map(TimestampWithTimeZone::from)
                .map_err(|_| outside()),
            Axis::Absolute => TimestampWithTimeZone::try_from(position).map_err(|_| outside()),
        }
    }
}

/// Start of the bucket that holds a position.
fn bin(position: i64, width: i64) -> i64 {
    let offset = (i128::from(position) - i128::from(ORIGIN)).rem_euclid(i128::from(width));
    position.saturating_sub(offset as i64)
}

/// Rows per bucket, empty ones included, from the first row to the last bucket that is over.
fn count(
    client: &SpiClient<'_>,
    source: pg_sys::Oid,
    at: &str,
    width: i64,
    until_ts: Option<TimestampWithTimeZone>,
) -> SqlResult<Vec<(TimestampWithTimeZone, i64)>> {
    let relation = relation_name(client, source)?;
    let zoned = column_is_zoned(client, source, &relation, at)?;
    let axis = if zoned && width % MICROS_PER_DAY != 0 { Axis::Absolute } else { Axis::Local };
    let kind = if axis == Axis::Local { "timestamp" } else { "timestamptz" };
    let column = quote_identifier(at);
    // date_bin cuts in the server what `bin` cuts here; positions leave SQL as microseconds.
    let query = format!(
        "SELECT pg_catalog.date_bin($1, t.p, $2::pg_catalog.{kind}), pg_catalog.count(*) \
         FROM (SELECT s.{column}::pg_catalog.{kind} AS p FROM {relation} AS s) AS t \
         WHERE pg_catalog.isfinite(t.p) GROUP BY 1 ORDER BY 1"
    );
    let origin = Timestamp::try_from(ORIGIN).map_err(|_| {
        report(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "timestamp out of range")
    })?;
    let args = match axis {
        Axis::Local => {
            [DatumWithOid::from(Interval::from_micros(width)), DatumWithOid::from(origin)]
        }
        Axis::Absolute => {
            let origin = axis.time(ORIGIN)?;
            [DatumWithOid::from(Interval::from_micros(width)), DatumWithOid::from(origin)]
        }
    };
    let mut found = Vec::new();
    let rows = client.select(&query, Some(MAX_BUCKETS as i64 + 1), &args).map_err(failed)?;
    for row in rows {
        let start = match axis {
            Axis::Local => row.get::<Timestamp>(1).map_err(failed)?.map(i64::from),
            Axis::Absolute => row.get::<TimestampWithTimeZone>(1).map_err(failed)?.map(i64::from),
        };
        let rows = row.get::<i64>(2).map_err(failed)?;
        if let (Some(start), Some(rows)) = (start, rows) {
            found.push((start, rows));
        }
    }
    let (Some(first), Some(last)) = (found.first().map(|b| b.0), found.last().map(|b| b.0)) else {
        return Ok(Vec::new());
    };
    let now = client
        .select("SELECT pg_catalog.now()", Some(1), &[])
        .and_then(|rows| rows.first().get_one::<TimestampWithTimeZone>())
        .map_err(failed)?;
    // The bucket that holds the present is not over yet.
    let over = match (until_ts, now) {
        (Some(until), _) => bin(axis.position(until), width).saturating_sub(width),
        (None, Some(now)) => last.min(bin(axis.position(now), width).saturating_sub(width)),
        (None, None) => last,
    };
    let steps = (i128::from(over) - i128::from(first)) / i128::from(width) + 1;
    if found.len() > MAX_BUCKETS || steps > MAX_BUCKETS as i128 {
        return Err(report(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("{relation} spans more than {MAX_BUCKETS} buckets of this length"),
        )
        .set_hint("use longer buckets, or a view of the recent rows"));
    }
    let mut filled = Vec::new();
    let mut found = found.into_iter().peekable();
    let mut start = first;
    while start <= over {
        let rows = found.next_if(|b| b.0 == start).map_or(0, |b| b.1);
        filled.push((axis.time(start)?, rows));
        start += width;
    }
    Ok(filled)
}

/// The relation's quoted, qualified name.
fn relation_name(client: &SpiClient<'_>, source: pg_sys::Oid) -> SqlResult<String> {
    let rows = client
        .select(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.oid OPERATOR(pg_catalog.=) $1",
            Some(1),
            &[DatumWithOid::from(source)],
        )
        .map_err(failed)?;
    let name = if rows.is_empty() { None } else { rows.first().get_one().map_err(failed)? };
    name.ok_or_else(|| {
        report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", source.to_u32()),
        )
    })
}

/// Whether the column is a timestamptz (domains count as what they are over); 42703 for an unknown
/// column, 42804 for one that is no time.
fn column_is_zoned(
    client: &SpiClient<'_>,
    source: pg_sys::Oid,
    relation: &str,
    at: &str,
) -> SqlResult<bool> {
    let rows = client
        .select(
            "SELECT a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, NULL), \
                    CASE WHEN t.typtype OPERATOR(pg_catalog.=) 'd' THEN t.typbasetype ELSE t.oid END \
             FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
             WHERE a.attrelid OPERATOR(pg_catalog.=) $1 \
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
             ORDER BY a.attnum",
            None,
            &[DatumWithOid::from(source)],
        )
        .map_err(failed)?;
    let mut names = Vec::new();
    for row in rows {
        let name = row.get::<String>(1).map_err(failed)?.unwrap_or_default();
        if name != at {
            names.push(name);
            continue;
        }
        return match row.get::<pg_sys::Oid>(3).map_err(failed)? {
            Some(pg_sys::TIMESTAMPTZOID) => Ok(true),
            Some(pg_sys::TIMESTAMPOID | pg_sys::DATEOID) => Ok(false),
            _ => {
                let kind = row.get::<String>(2).map_err(failed)?.unwrap_or_default();
                Err(report(
                    PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                    format!(
                        "column \"{at}\" of {relation} has type {kind}, which is no point in time"
                    ),
                )
                .set_hint("name a column of type timestamptz, timestamp or date"))
            }
        };
    }
    let error = report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{at}\" of {relation} does not exist"),
    );
    let candidates: Vec<&str> = names.iter().map(String::as_str).collect();
    Err(match nearest(at, &candidates) {
        Some(name) => error.set_hint(format!("did you mean \"{name}\"?")),
        None => error.set_hint(format!("its columns are {}", candidates.join(", "))),
    })
}
