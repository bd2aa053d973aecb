//! `anomaly.watch_writes` and `anomaly.unwatch_writes`: whether rows of a table are judged in the statement
//! that writes them. What the triggers do is in `written_rows.rs`.

use pgrx::{
    PgSqlErrorCode,
    pg_sys::{self, panic::ErrorReport},
    prelude::*,
    spi::quote_literal,
};

use crate::{
    detector::{
        catalog::{DetectorRow, Feed, unknown},
        source::Source,
        written_rows::{Mode, check_fits, untrained},
    },
    error::{SqlResult, invalid, not_null, report},
    pg::{internal_rights, session, written_rows::NAME},
    sql,
};

const ON_INSERT: (&str, &str) = ("anomaly_check_insert", "INSERT");
const ON_UPDATE: (&str, &str) = ("anomaly_check_update", "UPDATE");

/// Judges the rows of a table in the statements that write them, by a detector that has been trained. Called
/// again, it changes how.
///
/// # Errors
/// 42704 without such a detector, 55000 for one that has not been trained, 0A000, 42809 and 42501 for one
/// whose rows cannot be judged so.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn watch_writes(
    source: Option<&str>,
    mode: default!(Option<&str>, "'annotate'"),
    updates: default!(Option<bool>, "false"),
    detector: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(detector, String),
            name!(mode, String),
            name!(chosen, String),
            name!(next_step, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(source, mode, updates);
    let mode = Mode::parse(mode)?;
    let row = watched(source, detector)?;
    let oid = check_fits(&row)?;
    row.check_model_fits()?;
    let Some(model) = &row.model else { return Err(untrained(&row)) };
    let table = Table::find(oid)?.ok_or_else(|| unknown(&row.detector))?;
    table.check_owned()?;
    table.check_partitions()?;

    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.write_check (detector, source_relation, mode, updates) \
             VALUES ($1, $2::oid, $3, $4) \
             ON CONFLICT (detector) DO UPDATE SET source_relation = EXCLUDED.source_relation, \
                mode = EXCLUDED.mode, updates = EXCLUDED.updates",
            &[row.detector.as_str().into(), oid.into(), mode.as_str().into(), updates.into()],
        )
    })?;
    table.fit_triggers()?;

    let statements = if updates { "INSERT, UPDATE and COPY" } else { "INSERT and COPY" };
    let what = match mode {
        Mode::Annotate => "a verdict on each row is kept in anomaly.row_scores for seven days",
        Mode::Notify => {
            "anomalous rows are kept in anomaly.row_scores and told on channel anomaly_writes"
        }
        Mode::Reject => "an anomalous row is an error",
    };
    let mut chosen = format!(
        "{}: rows of {statements} are judged by {}, version {} of its model; {what}",
        table.name, row.strategy, model.version
    );
    if table.has_children {
        chosen.push_str("; rows written to a partition or child table by its own name are not");
    }
    let detector = quote_literal(&row.detector);
    let next_step = match mode {
        Mode::Annotate => {
            format!(
                "SELECT * FROM anomaly.row_scores WHERE detector = {detector} ORDER BY created_at DESC;"
            )
        }
        Mode::Notify => "LISTEN anomaly_writes;".to_owned(),
        Mode::Reject => {
            "SET anomaly_detection.write_check = off; -- lets the rows of a session in".to_owned()
        }
    };
    Ok(TableIterator::once((row.detector.clone(), mode.as_str().to_owned(), chosen, next_step)))
}

/// Stops judging the rows of a table as they are written: those of one detector, or of all of the caller's;
/// the owner of the table may stop everybody's. Whether there was anything to stop.
///
/// # Errors
/// 42704 for a detector, 42P01 for a table that does not exist.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn unwatch_writes(
    source: Option<&str>,
    detector: default!(Option<&str>, "NULL"),
) -> SqlResult<bool> {
    not_null!(source);
    let (oid, detector) = match (DetectorRow::find_owned(source)?, detector) {
        (Some(row), None) => (None, Some(row.detector)),
        (_, detector) => {
            let oid = relation(source)?;
            let detector = match detector {
                Some(detector) => Some(DetectorRow::load_owned(detector)?.detector),
                None => None,
            };
            (Some(oid), detector)
        }
    };
    let me = session::current_user();
    let checks = internal_rights::with(|| {
        sql::rows(
            "SELECT w.detector, w.source_relation::oid, d.owner::oid \
               FROM anomaly.write_check w JOIN anomaly.detector d USING (detector) \
              WHERE ($1 IS NULL OR w.source_relation::oid = $1) AND ($2 IS NULL OR w.detector = $2) \
              ORDER BY w.detector",
            &[oid.into(), detector.into()],
            |row| {
                let names = (row.must::<String>(1)?, row.must::<pg_sys::Oid>(2)?);
                Ok((names, row.must::<pg_sys::Oid>(3)?))
            },
        )
    })?;
    let mut tables: Vec<pg_sys::Oid> = oid.into_iter().collect();
    let mut stopped = false;
    for ((detector, oid), owner) in checks {
        let owns_table = Table::find(oid)?.is_some_and(|table| table.is_owned());
        if !owns_table && !session::has_privileges_of(me, owner) {
            continue;
        }
        internal_rights::with(|| {
            sql::execute("DELETE FROM anomaly.write_check WHERE detector = $1", &[detector.into()])
        })?;
        stopped = true;
        if !tables.contains(&oid) {
            tables.push(oid);
        }
    }
    for oid in tables {
        // The triggers of others' tables stay, and do nothing.
        if let Some(table) = Table::find(oid)?.filter(Table::is_owned) {
            stopped |= table.fit_triggers()?;
        }
    }
    Ok(stopped)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.watch_writes(text, text, boolean, text) IS
'judges rows in the statement that writes them, by a trained detector on their table: modes annotate, notify, reject';
COMMENT ON FUNCTION anomaly.unwatch_writes(text, text) IS
'stops judging the rows of a table, or of a detector, as they are written; true when they were';
"#,
    name = "watch_writes_comments",
    requires = [watch_writes, unwatch_writes]
);

/// The table that a text names.
///
/// # Errors
/// 42P01 with the nearest name, 0A000 for a query.
fn relation(source: &str) -> SqlResult<pg_sys::Oid> {
    Source::resolve(source)?.relation.ok_or_else(|| {
        report(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "rows are written to a table, not to a query",
        )
        .set_hint("name a table or a detector")
    })
}

/// The detector that `source` and `detector` mean: the one of that name, or else the one that reads that
/// table.
fn watched(source: &str, detector: Option<&str>) -> SqlResult<DetectorRow> {
    if let Some(detector) = detector {
        let row = DetectorRow::load_owned(detector)?;
        let asked = relation(source)?;
        return match &row.feed {
            Feed::Relation { oid, name, .. } if *oid != asked => Err(invalid(
                format!("detector \"{}\" reads {name}, not {source}", row.detector),
                format!("SELECT * FROM anomaly.watch_writes({})", quote_literal(&row.detector)),
            )),
            _ => Ok(row),
        };
    }
    if let Some(row) = DetectorRow::find_owned(source)? {
        return Ok(row);
    }
    let oid = relation(source)?;
    let me = session::current_user();
    let readers = internal_rights::with(|| {
        sql::rows(
            "SELECT detector, owner::oid FROM anomaly.detector \
              WHERE source_relation::oid = $1 AND bucket IS NULL ORDER BY detector",
            &[oid.into()],
            |row| Ok((row.must::<String>(1)?, row.must::<pg_sys::Oid>(2)?)),
        )
    })?;
    let readers: Vec<String> = readers
        .into_iter()
        .filter(|(_, owner)| session::has_privileges_of(me, *owner))
        .map(|(detector, _)| detector)
        .collect();
    match readers.as_slice() {
        [detector] => DetectorRow::load_owned(detector),
        [] => Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no detector of yours judges the rows of {}", source.trim()),
        )
        .set_hint(format!("SELECT * FROM anomaly.watch({}) first", quote_literal(source.trim())))),
        several => Err(invalid(
            format!("{} detectors judge the rows of {}", several.len(), source.trim()),
            format!("name one: detector => {}", {
                let names: Vec<String> = several.iter().map(quote_literal).collect();
                names.join(" or ")
            }),
        )),
    }
}

/// A table that may have our triggers.
struct Table {
    oid: pg_sys::Oid,
    /// Qualified and quoted.
    name: String,
    owner: pg_sys::Oid,
    has_children: bool,
    foreign_child: Option<String>,
}

impl Table {
    fn find(oid: pg_sys::Oid) -> SqlResult<Option<Table>> {
        sql::row(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, c.relhassubclass, \
                    (WITH RECURSIVE child AS ( \
                        SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
                         WHERE i.inhparent OPERATOR(pg_catalog.=) $1 \
                        UNION SELECT i.inhrelid FROM child \
                          JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) child.inhrelid) \
                     SELECT pg_catalog.min(f.oid::pg_catalog.regclass::pg_catalog.text) FROM child \
                       JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) child.inhrelid \
                        AND f.relkind OPERATOR(pg_catalog.=) 'f') \
               FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
              WHERE c.oid OPERATOR(pg_catalog.=) $1 \
                AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])",
            &[oid.into()],
            |row| {
                Ok(Table {
                    oid,
                    name: row.must(1)?,
                    owner: row.must(2)?,
                    has_children: row.must(3)?,
                    foreign_child: row.get(4)?,
                })
            },
        )
    }

    fn is_owned(&self) -> bool {
        session::has_privileges_of(session::current_user(), self.owner)
    }

    /// 42501 for a table of somebody else's: what is written to it is theirs, and so are its triggers.
    fn check_owned(&self) -> SqlResult<()> {
        if self.is_owned() {
            return Ok(());
        }
        Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}", self.name),
        )
        .set_hint("its owner creates a detector and calls anomaly.watch_writes()"))
    }

    /// 42809 where a statement could write rows that no trigger sees, which newer servers make an error.
    fn check_partitions(&self) -> SqlResult<()> {
        let Some(child) = &self.foreign_child else { return Ok(()) };
        Err(report(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!(
                "{child}, a part of {}, is a foreign table, whose rows no trigger sees",
                self.name
            ),
        )
        .set_hint("watch the tables that are here one by one, or let anomaly.scan() find the rows"))
    }

    /// Makes the triggers that are needed and missing, and drops those that are not needed any more; whether
    /// any of these. As the caller, who owns the table.
    fn fit_triggers(&self) -> SqlResult<bool> {
        let (insert, update) = internal_rights::with(|| {
            sql::row(
                "SELECT count(*) > 0, count(*) FILTER (WHERE updates) > 0 \
                   FROM anomaly.write_check WHERE source_relation::oid = $1",
                &[self.oid.into()],
                |row| Ok((row.must::<bool>(1)?, row.must::<bool>(2)?)),
            )
        })?
        .unwrap_or_default();
        let there = sql::rows(
            "SELECT tgname::pg_catalog.text FROM pg_catalog.pg_trigger \
              WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND tgfoid OPERATOR(pg_catalog.=) \
                    'anomaly.check_written_rows()'::pg_catalog.regprocedure::pg_catalog.oid",
            &[self.oid.into()],
            |row| row.must::<String>(1),
        )?;
        let mut dropped = false;
        for ((name, event), is_needed) in [(ON_INSERT, insert), (ON_UPDATE, update)] {
            let is_there = there.iter().any(|there| there == name);
            if is_needed && !is_there {
                sql::execute(
                    &format!(
                        "CREATE TRIGGER {name} AFTER {event} ON {} REFERENCING NEW TABLE AS {NAME} \
                         FOR EACH STATEMENT EXECUTE FUNCTION anomaly.check_written_rows()",
                        self.name
                    ),
                    &[],
                )?;
            } else if is_there && !is_needed {
                sql::execute(&format!("DROP TRIGGER {name} ON {}", self.name), &[])?;
                dropped = true;
            }
        }
        Ok(dropped)
    }
}
