//! `anomaly.rows`: the rows behind an alert.

use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{catalog::DetectorRow, source::rows_query, train::check_runs_here},
    error::{SqlResult, invalid, not_null, report},
    sql,
};

/// The detector that raised an alert, and the points of it: their entity and from when to when they are,
/// both included; of a detector with buckets all of these.
pub struct Behind {
    pub row: DetectorRow,
    pub entity: String,
    pub from: i64,
    pub to: i64,
}

impl Behind {
    /// # Errors
    /// 42704 for an alert that does not exist or that the caller may not see, or whose detector is gone;
    /// 42501 for one of another owner.
    pub fn of(alert: i64) -> SqlResult<Behind> {
        let found = sql::row(
            "SELECT a.detector, COALESCE(a.entity, ''), a.at, a.last_at, d.detector IS NOT NULL \
               FROM anomaly.alerts a \
               LEFT JOIN anomaly.detectors d ON d.detector OPERATOR(pg_catalog.=) a.detector \
                AND d.owner OPERATOR(pg_catalog.=) a.owner \
                AND d.created_at OPERATOR(pg_catalog.<=) a.raised_at \
              WHERE a.id OPERATOR(pg_catalog.=) $1",
            &[alert.into()],
            |row| {
                Ok((
                    row.must::<String>(1)?,
                    row.must::<String>(2)?,
                    row.micros(3)?.unwrap_or_default(),
                    row.micros(4)?.unwrap_or_default(),
                    row.must::<bool>(5)?,
                ))
            },
        )?;
        let Some((detector, entity, at, last_at, is_there)) = found else {
            return Err(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("alert {alert} does not exist"),
            )
            .set_hint("SELECT id, description FROM anomaly.alerts"));
        };
        if !is_there {
            return Err(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!(
                    "detector \"{detector}\", which raised alert {alert}, does not exist any more"
                ),
            )
            .set_hint("what the alert itself has kept: SELECT anomaly.explain(…)"));
        }
        let row = DetectorRow::load_owned(&detector)?;
        let (from, to) = match &row.sampling.bucket {
            Some(bucket) => {
                (bucket.start(bucket.index(at)), bucket.start(bucket.index(last_at) + 1) - 1)
            }
            None => (at, last_at),
        };
        Ok(Behind { row, entity, from, to })
    }
}

/// Rows of the source from the first to the last anomalous point of an alert, of its entity, in the order
/// of time: all columns, as they are now. Of a detector with buckets all rows of these.
///
/// # Errors
/// 42704 for an alert that does not exist or that the caller may not see, or whose detector is gone;
/// 42501 in a session that is not the owner's; those of reading the source.
// json is stored as text is; a value of it would lose digits on its way through serde.
#[pg_extern(
    schema = "anomaly",
    volatile,
    parallel_unsafe,
    sql = r#"
CREATE FUNCTION anomaly.rows(alert bigint, max_rows integer DEFAULT 100) RETURNS SETOF json
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#
)]
fn rows(
    alert: Option<i64>,
    max_rows: default!(Option<i32>, "100"),
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    not_null!(alert, max_rows);
    if max_rows < 1 {
        return Err(invalid(format!("max_rows is {max_rows}"), "ask for 1 row or more"));
    }
    let Behind { row, entity, from, to } = Behind::of(alert)?;
    let source = row.source()?;
    let kept_only = source.is_none();
    let query = match source {
        Some((source, columns)) => {
            check_runs_here(&row)?;
            rows_query(&source, columns, &row.time_zone)?
        }
        // Of points that were brought, what is kept of them.
        None => "SELECT pg_catalog.to_json(s)::pg_catalog.text FROM anomaly.samples s \
                  WHERE s.at OPERATOR(pg_catalog.>=) $1 AND s.at OPERATOR(pg_catalog.<=) $2 \
                    AND COALESCE(s.entity, '') OPERATOR(pg_catalog.=) $3 \
                    AND s.metric OPERATOR(pg_catalog.=) $5 AND s.owner OPERATOR(pg_catalog.=) $6::pg_catalog.oid \
                  ORDER BY s.at LIMIT $4"
            .to_owned(),
    };
    let mut arguments = vec![
        sql::timestamptz(from)?.into(),
        sql::timestamptz(to)?.into(),
        entity.into(),
        i64::from(max_rows).into(),
    ];
    if kept_only {
        arguments.push(row.metric_name.as_str().into());
        arguments.push(row.owner.into());
    }
    let rows: SqlResult<Vec<String>> = sql::rows(&query, &arguments, |r| r.must::<String>(1));
    Ok(SetOfIterator::new(rows?))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.rows(bigint, integer) IS
'the rows of the source behind an alert, whole and as they are now; in the session of the owner';"#,
    name = "rows_comment",
    requires = [rows]
);
