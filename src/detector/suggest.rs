//! `anomaly.suggest`: what of a table or query is worth watching, as calls that run as they are.

use anomaly_core::suggest::{Column, Proposal, Sample, Values, suggest as propose};
use pgrx::{
    PgSqlErrorCode, pg_sys,
    pg_sys::panic::ErrorReport,
    prelude::*,
    spi::{quote_identifier, quote_literal},
};

use crate::{
    detector::source::{Source, is_number, is_text_like, is_time, quoted},
    error::{SqlResult, invalid, not_null, report},
    pg::{session, stream},
    sql,
};

/// Rows that are looked at, and columns.
const SAMPLE_ROWS: i64 = 20_000;
const MOST_COLUMNS: usize = 60;
/// Alerts that `watch` promises of quiet data.
const ALERTS_PER_DAY: f64 = 1.0;

/// Looks at no more than 20,000 rows of a relation or query and proposes calls of `watch`, the best first: what each
/// watches, why, how many points a day that is and how many alerts quiet data gives. What is watched already, by a detector
/// of the same name, is left out. Keys, codes and numbers of rows are never proposed as magnitudes.
///
/// # Errors
/// Those of `watch` for a source; 55000 where there are no rows or no time column.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn suggest(
    source: Option<&str>,
    max_suggestions: default!(Option<i32>, "10"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(rank, i32),
            name!(call, String),
            name!(watches, String),
            name!(why, String),
            name!(entities, i64),
            name!(points_per_day, f64),
            name!(alerts_per_day, f64),
            name!(cost, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(source, max_suggestions);
    if max_suggestions < 1 {
        return Err(invalid(
            format!("max_suggestions is {max_suggestions}"),
            "ask for 1 suggestion or more",
        ));
    }
    let resolved = Source::resolve(source)?;
    if !resolved.columns.iter().any(|column| is_time(column.base_type)) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "there is no column of type timestamptz, timestamp or date",
        )
        .set_hint("what is watched has a time: select one in a query"));
    }
    let sample = sample(&resolved)?;
    let name = match resolved.relation {
        Some(oid) => sql::row(
            "SELECT relname::pg_catalog.text FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) $1",
            &[oid.into()],
            |row| row.must::<String>(1),
        )?
        .unwrap_or_default(),
        None => "query".to_owned(),
    };
    let watched =
        sql::rows("SELECT detector FROM anomaly.detectors", &[], |row| row.must::<String>(1))?;
    let mut rows = Vec::new();
    for proposal in propose(&sample) {
        let detector = detector_name(&name, &proposal);
        if watched.contains(&detector) {
            continue;
        }
        let arguments = arguments(&resolved, &proposal);
        rows.push((
            rows.len() as i32 + 1,
            format!(
                "SELECT * FROM anomaly.watch({}, name => {})",
                arguments.join(", "),
                quote_literal(&detector)
            ),
            watches(&proposal),
            proposal.why.clone(),
            proposal.entities as i64,
            proposal.points_per_day,
            ALERTS_PER_DAY,
            cost_call(&resolved, &proposal),
        ));
        if rows.len() == max_suggestions as usize {
            break;
        }
    }
    Ok(TableIterator::new(rows))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.suggest(text, integer) IS
'what of a table or query is worth watching, from a sample of its rows: calls that run as they are, the best first, with what they watch and why';"#,
    name = "suggest_comment",
    requires = [suggest]
);

/// Columns of primary, unique and foreign keys.
fn keys(relation: Option<pg_sys::Oid>) -> SqlResult<Vec<String>> {
    let Some(relation) = relation else { return Ok(Vec::new()) };
    sql::rows(
        "SELECT DISTINCT a.attname::pg_catalog.text \
           FROM pg_catalog.pg_attribute a \
           JOIN (SELECT i.indkey::pg_catalog.int2[] AS columns FROM pg_catalog.pg_index i \
                  WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisunique \
                 UNION ALL \
                 SELECT c.conkey FROM pg_catalog.pg_constraint c \
                  WHERE c.conrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) 'f') k \
             ON a.attnum OPERATOR(pg_catalog.=) ANY (k.columns) \
          WHERE a.attrelid OPERATOR(pg_catalog.=) $1",
        &[relation.into()],
        |row| row.must::<String>(1),
    )
}

/// How a column is read.
enum Read {
    Time,
    Number { whole: bool },
    Name,
    Flag,
}

/// Rows of a large table are those of pages drawn at random, so that all of its time is in them; of everything else the
/// first that come.
fn sample(source: &Source) -> SqlResult<Sample> {
    let keys = keys(source.relation)?;
    let mut reads = Vec::new();
    let mut expressions = Vec::new();
    for column in source.columns.iter().take(MOST_COLUMNS) {
        let name = quoted(&column.name);
        let (read, expression) = match column.base_type {
            oid if is_time(oid) => {
                let at = format!("({name})::pg_catalog.timestamptz");
                (Read::Time, format!("CASE WHEN pg_catalog.isfinite({name}) THEN {at} END"))
            }
            oid if is_number(oid) => {
                let whole = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&oid);
                (Read::Number { whole }, format!("({name})::pg_catalog.float8"))
            }
            pg_sys::BOOLOID => {
                (Read::Flag, format!("(({name})::pg_catalog.int4)::pg_catalog.int8"))
            }
            oid if is_text_like(oid)? => {
                (Read::Name, format!("pg_catalog.hashtextextended(({name})::pg_catalog.text, 0)"))
            }
            _ => continue,
        };
        reads.push((column.name.clone(), read));
        expressions.push(expression);
    }
    let total = match source.relation {
        Some(oid) => sql::row(
            "SELECT c.reltuples::pg_catalog.float8 FROM pg_catalog.pg_class c \
              WHERE c.oid OPERATOR(pg_catalog.=) $1 \
                AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,m}'::pg_catalog.\"char\"[])",
            &[oid.into()],
            |row| row.must::<f64>(1),
        )?
        .filter(|rows| *rows > 2.0 * SAMPLE_ROWS as f64),
        None => None,
    };
    let (drawn, limit) = match total {
        Some(rows) => {
            let percent = (100.0 * SAMPLE_ROWS as f64 / rows).min(100.0);
            (format!(" TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (1)"), 2 * SAMPLE_ROWS)
        }
        None => (String::new(), SAMPLE_ROWS),
    };
    let query = format!(
        "SELECT {} FROM {} AS q{drawn} LIMIT {limit}",
        expressions.join(", "),
        source.table_expression()
    );
    let mut columns: Vec<Values> = reads
        .iter()
        .map(|(_, read)| match read {
            Read::Time => Values::Times(Vec::new()),
            Read::Number { whole } => Values::Numbers { values: Vec::new(), whole: *whole },
            Read::Name => Values::Names(Vec::new()),
            Read::Flag => Values::Flags(Vec::new()),
        })
        .collect();
    let mut rows = 0u64;
    stream::for_each_row(&query, &[], &mut |row| {
        rows += 1;
        for (i, column) in columns.iter_mut().enumerate() {
            match column {
                Values::Times(values) | Values::Names(values) => values.push(row.int8(i)),
                Values::Numbers { values, .. } => values.push(row.float8(i)),
                Values::Flags(values) => values.push(row.int8(i).map(|flag| flag != 0)),
            }
        }
        Ok(())
    })?;
    if rows == 0 {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "there are no rows to look at",
        )
        .set_hint("ask again when some have come"));
    }
    let columns = reads
        .into_iter()
        .zip(columns)
        .map(|((name, _), values)| Column { is_key: keys.contains(&name), name, values })
        .collect();
    Ok(Sample { columns, rows: total.unwrap_or(rows as f64), now: session::now() })
}

fn detector_name(table: &str, proposal: &Proposal) -> String {
    let mut name = table.to_owned();
    if let Some((_, aggregate)) = proposal.bucket {
        name.push('_');
        name.push_str(aggregate);
    }
    if let Some(value) = &proposal.value {
        name.push('_');
        name.push_str(value);
    }
    if let Some(entity) = &proposal.entity {
        name.push_str("_by_");
        name.push_str(entity);
    }
    // Ids have at most 512 bytes.
    name.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= 500).then_some(c)
        })
        .collect()
}

fn span(seconds: i64) -> String {
    let (count, unit) = match seconds {
        s if s % 86_400 == 0 => (s / 86_400, "day"),
        s if s % 3600 == 0 => (s / 3600, "hour"),
        s if s % 60 == 0 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// What is read: the source, or of a boolean a query that makes numbers of it.
fn source_of(source: &Source, proposal: &Proposal) -> String {
    match &proposal.value {
        Some(value) if proposal.is_flag => format!(
            "SELECT {at}, ({value})::int4 AS {value} FROM {} AS q",
            source.table_expression(),
            at = quote_identifier(&proposal.at),
            value = quote_identifier(value)
        ),
        _ => source.text.clone(),
    }
}

/// Arguments of `watch`, but for the name.
fn arguments(source: &Source, proposal: &Proposal) -> Vec<String> {
    let mut arguments = vec![quote_literal(source_of(source, proposal))];
    if let Some(value) = &proposal.value {
        arguments.push(format!("value => {}", quote_literal(value)));
    }
    arguments.push(format!("at => {}", quote_literal(&proposal.at)));
    if let Some(entity) = &proposal.entity {
        arguments.push(format!("entity => {}", quote_literal(entity)));
    }
    if let Some((seconds, aggregate)) = proposal.bucket {
        arguments.push(format!("bucket => {}", quote_literal(span(seconds))));
        arguments.push(format!("aggregate => {}", quote_literal(aggregate)));
    }
    arguments.push(format!("every => {}", quote_literal(span(proposal.every))));
    if let Some(days) = proposal.training_days {
        arguments.push(format!("training_window => '{days} days'"));
    }
    arguments
}

/// The call that measures what it would cost.
fn cost_call(source: &Source, proposal: &Proposal) -> String {
    let mut settings = serde_json::Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            settings.insert(name.to_owned(), value.into());
        }
    };
    put("value", proposal.value.clone());
    put("at", Some(proposal.at.clone()));
    put("entity", proposal.entity.clone());
    put("bucket", proposal.bucket.map(|(seconds, _)| span(seconds)));
    put("aggregate", proposal.bucket.map(|(_, aggregate)| aggregate.to_owned()));
    put("training_window", proposal.training_days.map(|days| format!("{days} days")));
    put("strategy", Some("auto".to_owned()));
    format!(
        "SELECT * FROM anomaly.estimate_cost({}, every => {}, settings => {})",
        quote_literal(source_of(source, proposal)),
        quote_literal(span(proposal.every)),
        quote_literal(serde_json::Value::Object(settings).to_string())
    )
}

fn watches(proposal: &Proposal) -> String {
    let what = match (&proposal.value, proposal.bucket) {
        (None, Some((seconds, _))) => format!("rows per {}", span(seconds)),
        (Some(value), Some((seconds, aggregate))) => {
            format!("{aggregate} of {value} per {}", span(seconds))
        }
        (value, None) => value.clone().unwrap_or_default(),
    };
    match &proposal.entity {
        Some(entity) => format!("{what}, of each {entity}"),
        None => what,
    }
}
