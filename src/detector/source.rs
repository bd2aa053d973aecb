//! Where a detector's points come from, and the query that reads them.

use pgrx::{PgSqlErrorCode, Spi, pg_sys, spi};
use serde_json::json;

use crate::{
    detector::sampling::{Aggregate, Features, Sampling},
    error::{SqlResult, invalid, report, required},
    pg::{catalog::base_type, parse::check_single_select},
    sql,
};

/// A column of a source, with domains resolved to their base type.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub base_type: pg_sys::Oid,
    pub type_name: String,
}

/// A source that exists and that the caller may look at.
#[derive(Debug, Clone)]
pub struct Source {
    /// The relation, `None` for a query.
    pub relation: Option<pg_sys::Oid>,
    /// Qualified and quoted relation name, or the text of the query.
    pub text: String,
    pub columns: Vec<Column>,
}

impl Source {
    /// Finds out what `text` names: text that starts with SELECT, WITH, TABLE or VALUES is a
    /// query, else a relation as the caller's search_path sees it.
    ///
    /// # Errors
    /// 42P01 with the nearest name; 22023 for something that is not a single query; 42809 for a
    /// relation that holds no rows. A query's own errors pass through.
    pub fn resolve(text: &str) -> SqlResult<Source> {
        if is_query(text) { Self::resolve_query(text.trim()) } else { Self::resolve_relation(text) }
    }

    fn resolve_query(text: &str) -> SqlResult<Source> {
        check_single_select(text)?;
        let probe = format!("SELECT * FROM ({text}\n) AS q LIMIT 0");
        let columns = Spi::connect(|client| -> Result<Vec<(String, pg_sys::Oid)>, spi::Error> {
            let table = client.select(probe.as_str(), None, &[])?;
            (1..=table.columns()?)
                .map(|i| Ok((table.column_name(i)?, table.column_type_oid(i)?.value())))
                .collect()
        })
        .map_err(|e| invalid(e.to_string(), "give a query that returns rows"))?;
        let columns = columns
            .into_iter()
            .map(|(name, oid)| {
                Ok(Column { name, base_type: base_type(oid), type_name: type_name(oid)? })
            })
            .collect::<SqlResult<_>>()?;
        Ok(Source { relation: None, text: text.to_owned(), columns })
    }

    fn resolve_relation(text: &str) -> SqlResult<Source> {
        let oid = sql::row(
            "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid",
            &[text.trim().into()],
            |row| row.get::<pg_sys::Oid>(1),
        )?
        .flatten();
        let Some(oid) = oid else {
            return Err(no_such_relation(text)?);
        };
        Self::of_relation(oid)?.ok_or_else(|| {
            report(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("{} holds no rows that could be watched", text.trim()),
            )
            .set_hint("give a table, a view, a materialized view or a foreign table")
        })
    }

    /// The relation with this OID, `None` when it is gone or has no rows to read.
    pub fn of_relation(oid: pg_sys::Oid) -> SqlResult<Option<Source>> {
        let text = sql::row(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.oid OPERATOR(pg_catalog.=) $1 \
             AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[])",
            &[oid.into()],
            |row| row.must::<String>(1),
        )?;
        let Some(text) = text else { return Ok(None) };
        let columns = sql::rows(
            "SELECT a.attname::pg_catalog.text, a.atttypid, \
                    pg_catalog.format_type(a.atttypid, a.atttypmod) \
             FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0 \
             AND NOT a.attisdropped ORDER BY a.attnum",
            &[oid.into()],
            |row| {
                Ok(Column {
                    name: row.must(1)?,
                    base_type: base_type(row.must(2)?),
                    type_name: row.must(3)?,
                })
            },
        )?;
        Ok(Some(Source { relation: Some(oid), text, columns }))
    }

    /// What stands behind FROM.
    pub fn table_expression(&self) -> String {
        match self.relation {
            Some(_) => self.text.clone(),
            None => format!("({}\n)", self.text),
        }
    }

    /// # Errors
    /// 42703 with the nearest name.
    pub fn column(&self, name: &str) -> SqlResult<&Column> {
        self.columns.iter().find(|c| c.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
            let error = report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{name}\" does not exist in {}", self.label()),
            );
            match anomaly_core::nearest::nearest(name, &names) {
                Some(near) => error.set_hint(format!("did you mean \"{near}\"?")),
                None => error.set_hint(format!("its columns are: {}", names.join(", "))),
            }
        })
    }

    /// The first column that reads like a name of something and that nobody has named.
    pub fn likely_entity(&self, named: &Named) -> SqlResult<Option<&str>> {
        for column in &self.columns {
            let name = Some(column.name.as_str());
            if ![named.value, named.at, named.trials].contains(&name)
                && !named.features.contains(&column.name)
                && is_text_like(column.base_type)?
            {
                return Ok(name);
            }
        }
        Ok(None)
    }

    /// Whether there is a column of that name.
    pub fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// The column of that name.
    ///
    /// # Errors
    /// 42703 with the nearest name.
    pub fn named(&self, name: &str) -> SqlResult<&str> {
        self.column(name).map(|column| column.name.as_str())
    }

    /// The first column that holds times.
    pub fn first_time(&self) -> Option<&str> {
        self.columns.iter().find(|column| is_time(column.base_type)).map(|c| c.name.as_str())
    }

    /// See [`Columns::check`].
    fn still_has(
        &self,
        name: &str,
        role: &str,
        fits: fn(pg_sys::Oid) -> bool,
        detector: &str,
    ) -> SqlResult<()> {
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        let (code, what, near) = match self.columns.iter().find(|column| column.name == name) {
            Some(column) if fits(column.base_type) => return Ok(()),
            Some(column) => (
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "column \"{name}\" of {}, which detector \"{detector}\" reads as {role}, has type {} now",
                    self.label(),
                    column.type_name
                ),
                None,
            ),
            None => (
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!(
                    "column \"{name}\" of {}, which detector \"{detector}\" reads as {role}, does not exist",
                    self.label()
                ),
                anomaly_core::nearest::nearest(name, &names),
            ),
        };
        let column = near.unwrap_or("…");
        let settings = match role {
            "features" => json!({role: [column]}),
            _ => json!({role: column}),
        };
        let choice = match near {
            Some(_) => String::new(),
            None => format!("; its columns are: {}", names.join(", ")),
        };
        Err(report(code, what).set_hint(format!(
            "restore it, or name another one: SELECT anomaly.alter_detector({}, {}){choice}",
            spi::quote_literal(detector),
            spi::quote_literal(settings.to_string())
        )))
    }

    fn label(&self) -> &str {
        if self.relation.is_some() { &self.text } else { "the query" }
    }
}

/// The columns of a source that a detector reads.
#[derive(Debug, Clone)]
pub struct Columns {
    /// `None` where rows are counted.
    pub value: Option<String>,
    pub at: String,
    pub entity: Option<String>,
    /// The denominators of a ratio.
    pub trials: Option<String>,
    /// Judged together with the value.
    pub features: Vec<String>,
    /// Those of them that are categories.
    pub categories: Vec<String>,
}

/// The columns that a caller named.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    pub value: Option<&'a str>,
    pub at: Option<&'a str>,
    pub entity: Option<&'a str>,
    pub trials: Option<&'a str>,
    pub features: &'a [String],
}

/// The names of an argument `features`; none for NULL.
///
/// # Errors
/// 22004 for a NULL among them.
pub fn feature_names(features: Option<Vec<Option<String>>>) -> SqlResult<Vec<String>> {
    let features = features.unwrap_or_default();
    features.into_iter().map(|name| required(name, "an element of features")).collect()
}

impl Columns {
    /// Checks the named columns and finds those that were not named: the first timestamp column,
    /// the first numeric column.
    ///
    /// # Errors
    /// 42703 for a name that is not there, 42804 for a type that cannot be used, 22023 for a feature
    /// that is the value.
    pub fn choose(source: &Source, named: &Named, sampling: &Sampling) -> SqlResult<Columns> {
        let Named { value, at, entity, trials, features } = *named;
        let mut categories = Vec::new();
        for name in features {
            if is_text_like(source.column(name)?.base_type)? {
                categories.push(name.clone());
            } else {
                feature(source, name, false)?;
            }
        }
        let pick =
            |name: Option<&str>, role: &str, kinds: &str, fits: fn(pg_sys::Oid) -> bool| match name
            {
                Some(name) => {
                    let column = source.column(name)?;
                    if fits(column.base_type) {
                        return Ok(column.name.clone());
                    }
                    Err(unfit(column, role, kinds))
                }
                None => source
                    .columns
                    .iter()
                    .find(|c| {
                        fits(c.base_type)
                            && ![entity, trials].contains(&Some(c.name.as_str()))
                            && !features.contains(&c.name)
                    })
                    .map(|c| c.name.clone())
                    .ok_or_else(|| {
                        report(
                            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                            format!("{} has no column of type {kinds}", source.label()),
                        )
                        .set_hint(format!("name one: {role} => 'column'"))
                    }),
            };
        let at = pick(at, "at", "timestamptz, timestamp or date", is_time)?;
        let value = match (value, sampling.aggregate) {
            (Some(name), aggregate) if aggregate.counts() => {
                Some(source.column(name)?.name.clone())
            }
            (None, aggregate) if aggregate.counts_rows() => None,
            (None, Aggregate::CountDistinct) => {
                return Err(invalid(
                    "aggregate count_distinct needs a column to count",
                    "name one: value => 'user_id'",
                ));
            }
            (value, _) => Some(pick(value, "value", NUMBERS, is_number)?),
        };
        let entity = entity.map(|name| source.column(name).map(|c| c.name.clone())).transpose()?;
        let trials =
            trials.map(|name| pick(Some(name), "trials", NUMBERS, is_number)).transpose()?;
        if let Some(name) = value.as_ref().filter(|name| features.contains(name)) {
            return Err(invalid(
                format!("feature \"{name}\" is the value itself"),
                "name other columns that are judged together with the value",
            ));
        }
        Ok(Columns { value, at, entity, trials, features: features.to_vec(), categories })
    }

    /// Checks that the source still has these columns, of types that can be read.
    ///
    /// # Errors
    /// 42703 for one that is gone, 42804 for one of another type, naming the detector and what to type.
    pub fn check(&self, source: &Source, sampling: &Sampling, detector: &str) -> SqlResult<()> {
        let any: fn(pg_sys::Oid) -> bool = |_| true;
        let further = |oid| oid == pg_sys::BOOLOID || is_number(oid);
        let one = |role, name: Option<&String>, fits: fn(pg_sys::Oid) -> bool| {
            name.map_or(Ok(()), |name| source.still_has(name, role, fits, detector))
        };
        one(
            "value",
            self.value.as_ref(),
            if sampling.aggregate.counts() { any } else { is_number },
        )?;
        one("at", Some(&self.at), is_time)?;
        one("entity", self.entity.as_ref(), any)?;
        one("trials", self.trials.as_ref(), is_number)?;
        for name in &self.features {
            one("features", Some(name), if self.is_category(name) { any } else { further })?;
        }
        Ok(())
    }

    fn is_category(&self, feature: &String) -> bool {
        self.categories.contains(feature)
    }

    /// Which features are categories.
    pub fn kinds(&self) -> Vec<bool> {
        self.features.iter().map(|feature| self.is_category(feature)).collect()
    }

    /// A place for the further columns of a row.
    pub fn new_features(&self) -> Features {
        Features::new(self.kinds())
    }
}

const NUMBERS: &str = "smallint to bigint, numeric, real or double";

fn unfit(column: &Column, role: &str, kinds: &str) -> pg_sys::panic::ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("column \"{}\" of type {} cannot be used as {role}", column.name, column.type_name),
    )
    .set_hint(format!("{role} takes a column of type {kinds}"))
}

/// The expression of a further column: a float8, or a text where it is a category.
///
/// # Errors
/// 42703 for a name that is not there, 42804 for a type that is no magnitude where one is needed.
fn feature(source: &Source, name: &str, is_category: bool) -> SqlResult<String> {
    let column = source.column(name)?;
    if is_category {
        return Ok(format!("({})::pg_catalog.text", quoted(&column.name)));
    }
    match column.base_type {
        pg_sys::BOOLOID => {
            Ok(format!("(({})::pg_catalog.int4)::pg_catalog.float8", quoted(&column.name)))
        }
        oid if is_number(oid) => Ok(format!("({})::pg_catalog.float8", quoted(&column.name))),
        _ => Err(unfit(
            column,
            "features",
            &format!("{NUMBERS}, boolean, or of a category: text, varchar, char, name, uuid, enum"),
        )),
    }
}

/// The query that reads points of a window, its columns those that [`Sampling::read`] takes, in the
/// order of time. Its parameters are the window's bounds: `$1` exclusive and `$2` inclusive for rows,
/// the other way round for buckets.
pub fn read_query(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
) -> SqlResult<String> {
    let at_type = source.column(&columns.at)?.base_type;
    // The bounds are turned into the column's type, not the column into theirs, so that an index
    // on it can be used.
    let at = quoted(&columns.at);
    let (at, from, until) = if at_type == pg_sys::TIMESTAMPTZOID {
        (at, "$1".to_owned(), "$2".to_owned())
    } else {
        let zone = spi::quote_literal(time_zone);
        let at =
            if at_type == pg_sys::DATEOID { format!("({at})::pg_catalog.timestamp") } else { at };
        (at, format!("($1 AT TIME ZONE {zone})"), format!("($2 AT TIME ZONE {zone})"))
    };
    let rows = select_rows(source, columns, sampling, time_zone)?;
    if sampling.bucket.is_none() {
        return Ok(format!(
            "{rows} WHERE {at} OPERATOR(pg_catalog.>) {from} AND {at} OPERATOR(pg_catalog.<=) {until} \
             ORDER BY {at}"
        ));
    }
    let rows = format!(
        "{rows} WHERE {at} OPERATOR(pg_catalog.>=) {from} AND {at} OPERATOR(pg_catalog.<) {until}"
    );
    let points = sampling.aggregated(&rows, columns.value.is_some(), &columns.kinds());
    Ok(format!("{points} ORDER BY 1"))
}

/// The query that reads all points with a finite time, with the columns of [`read_query`], in no
/// order.
pub fn read_all_query(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
) -> SqlResult<String> {
    let rows = format!(
        "{} WHERE pg_catalog.isfinite({})",
        select_rows(source, columns, sampling, time_zone)?,
        quoted(&columns.at)
    );
    Ok(sampling.aggregated(&rows, columns.value.is_some(), &columns.kinds()))
}

/// The query for the latest finite time.
pub fn latest_query(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
) -> SqlResult<String> {
    Ok(format!(
        "SELECT pg_catalog.max(r.at) FROM ({}) AS r (at) WHERE pg_catalog.isfinite(r.at)",
        select_rows(source, columns, sampling, time_zone)?
    ))
}

/// Columns `at timestamptz, value, entity text, trials float8`, then the further ones, float8 or text;
/// the value is a float8 unless it is to be counted.
pub fn select_rows(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
) -> SqlResult<String> {
    select_rows_and(source, columns, sampling, time_zone, "", &source.table_expression())
}

/// The query that reads the rows of a statement as [`read_query`] reads those of the table, in the order they
/// were written in; `written` is what they are called. One more column is the row's key as JSON text, NULL
/// without columns of a key.
pub fn written_query(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
    key: &[String],
    written: &str,
) -> SqlResult<String> {
    let pairs: Vec<String> = key
        .iter()
        .map(|column| format!("{}, {}", spi::quote_literal(column), quoted(column)))
        .collect();
    let key = match pairs.as_slice() {
        [] => ", NULL::pg_catalog.text".to_owned(),
        pairs => {
            format!(", pg_catalog.jsonb_build_object({})::pg_catalog.text", pairs.join(", "))
        }
    };
    select_rows_and(source, columns, sampling, time_zone, &key, written)
}

/// As [`select_rows`], with more columns, and from something with the columns of the source.
fn select_rows_and(
    source: &Source,
    columns: &Columns,
    sampling: &Sampling,
    time_zone: &str,
    more: &str,
    from: &str,
) -> SqlResult<String> {
    let at = at_expression(source, columns, time_zone)?;
    let value = match &columns.value {
        Some(name) => {
            source.column(name)?;
            let cast = if sampling.aggregate.counts() { "" } else { "::pg_catalog.float8" };
            format!("({}){cast}", quoted(name))
        }
        None => "NULL::pg_catalog.float8".to_owned(),
    };
    let entity = entity_expression(source, columns)?;
    let trials = match &columns.trials {
        Some(name) => {
            source.column(name)?;
            quoted(name)
        }
        None => "NULL".to_owned(),
    };
    let mut features = String::new();
    for name in &columns.features {
        features.push_str(", ");
        features.push_str(&feature(source, name, columns.is_category(name))?);
    }
    Ok(format!(
        "SELECT ({at})::pg_catalog.timestamptz, {value}, {entity}, \
            ({trials})::pg_catalog.float8{features}{more} FROM {from} AS q"
    ))
}

/// The query for the whole rows of an entity from one time to another, both included, as JSON and in the
/// order of time. Parameters: the two times, the entity, the most rows.
pub fn rows_query(source: &Source, columns: &Columns, time_zone: &str) -> SqlResult<String> {
    let at = at_expression(source, columns, time_zone)?;
    let at = format!("({at})::pg_catalog.timestamptz");
    Ok(format!(
        "SELECT pg_catalog.to_json(q)::pg_catalog.text FROM {} AS q \
          WHERE {at} OPERATOR(pg_catalog.>=) $1 AND {at} OPERATOR(pg_catalog.<=) $2 \
            AND COALESCE({}, '') OPERATOR(pg_catalog.=) $3 ORDER BY {at} LIMIT $4",
        source.table_expression(),
        entity_expression(source, columns)?
    ))
}

pub fn at_expression(source: &Source, columns: &Columns, time_zone: &str) -> SqlResult<String> {
    Ok(match source.column(&columns.at)?.base_type {
        pg_sys::TIMESTAMPTZOID => quoted(&columns.at),
        _ => format!(
            "(({})::pg_catalog.timestamp AT TIME ZONE {})",
            quoted(&columns.at),
            spi::quote_literal(time_zone)
        ),
    })
}

pub fn entity_expression(source: &Source, columns: &Columns) -> SqlResult<String> {
    Ok(match &columns.entity {
        Some(name) => {
            source.column(name)?;
            format!("({})::pg_catalog.text", quoted(name))
        }
        None => "''::pg_catalog.text".to_owned(),
    })
}

pub fn quoted(column: &str) -> String {
    format!("q.{}", spi::quote_identifier(column))
}

fn is_query(text: &str) -> bool {
    let word: String =
        text.trim_start().chars().take_while(|c| c.is_ascii_alphabetic()).take(7).collect();
    ["SELECT", "WITH", "TABLE", "VALUES"].iter().any(|k| word.eq_ignore_ascii_case(k))
        && text.trim().len() > word.len()
        && text.trim()[word.len()..].starts_with(|c: char| c.is_whitespace() || c == '(')
}

/// Whether a column may name an entity by itself: text in its forms, uuid, enums.
pub fn is_text_like(oid: pg_sys::Oid) -> SqlResult<bool> {
    let text =
        [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::NAMEOID, pg_sys::UUIDOID];
    if text.contains(&oid) {
        return Ok(true);
    }
    let is_enum = sql::row(
        "SELECT typtype OPERATOR(pg_catalog.=) 'e' FROM pg_catalog.pg_type \
         WHERE oid OPERATOR(pg_catalog.=) $1",
        &[oid.into()],
        |row| row.must::<bool>(1),
    )?;
    Ok(is_enum.unwrap_or(false))
}

pub fn is_time(oid: pg_sys::Oid) -> bool {
    [pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPOID, pg_sys::DATEOID].contains(&oid)
}

pub fn is_number(oid: pg_sys::Oid) -> bool {
    [
        pg_sys::INT2OID,
        pg_sys::INT4OID,
        pg_sys::INT8OID,
        pg_sys::FLOAT4OID,
        pg_sys::FLOAT8OID,
        pg_sys::NUMERICOID,
    ]
    .contains(&oid)
}

fn type_name(oid: pg_sys::Oid) -> SqlResult<String> {
    Ok(sql::row("SELECT pg_catalog.format_type($1, NULL)", &[oid.into()], |row| {
        row.must::<String>(1)
    })?
    .unwrap_or_default())
}

fn no_such_relation(text: &str) -> SqlResult<pg_sys::panic::ErrorReport> {
    let names = sql::rows(
        "SELECT CASE WHEN pg_catalog.pg_table_is_visible(c.oid) \
                THEN pg_catalog.quote_ident(c.relname) \
                ELSE pg_catalog.format('%I.%I', n.nspname, c.relname) END \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[]) \
         AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,anomaly}') \
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') LIMIT 10000",
        &[],
        |row| row.must::<String>(1),
    )?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("relation \"{}\" does not exist", text.trim()),
    );
    Ok(match anomaly_core::nearest::nearest(text.trim(), &names) {
        Some(near) => error.set_hint(format!("did you mean {near}?")),
        None => error.set_hint(
            "give the name of a table or view, schema-qualified if it is not on the search_path, \
             or a query",
        ),
    })
}
