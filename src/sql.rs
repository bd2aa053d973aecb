//! Fixed SQL from Rust: short forms over pgrx's SPI that keep SQLSTATEs and never unwrap.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem::ManuallyDrop,
    thread::LocalKey,
};

use pgrx::{
    FromDatum, IntoDatum, PgOid, PgSqlErrorCode, Spi,
    datum::{DatumWithOid, TimestampWithTimeZone},
    pg_sys,
    spi::{OwnedPreparedStatement, SpiHeapTupleData},
};

use crate::error::{SqlResult, report};

/// A row of a result; columns are counted from 1.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// The column's value, `None` when NULL.
    pub fn get<T: FromDatum + IntoDatum>(&self, column: usize) -> SqlResult<Option<T>> {
        self.0.get::<T>(column).map_err(from_spi)
    }

    /// The value of a column that the query or the table guarantees to be there.
    pub fn must<T: FromDatum + IntoDatum>(&self, column: usize) -> SqlResult<T> {
        self.get(column)?.ok_or_else(|| {
            report(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("catalogue of anomaly_detection: column {column} is unexpectedly NULL"),
            )
        })
    }

    /// A `timestamptz` column, µs since 2000-01-01 UTC.
    pub fn micros(&self, column: usize) -> SqlResult<Option<i64>> {
        Ok(self.get::<TimestampWithTimeZone>(column)?.map(pg_sys::TimestampTz::from))
    }
}

/// All rows of a query that only reads.
pub fn rows<R>(
    query: &str,
    args: &[DatumWithOid],
    mut read: impl FnMut(&Row) -> SqlResult<R>,
) -> SqlResult<Vec<R>> {
    Spi::connect(|client| {
        client.select(query, None, args).map_err(from_spi)?.map(|row| read(&Row(row))).collect()
    })
}

/// The place of a plan. What is in it is never dropped, because that calls the server, which may be on its
/// way out, or about to handle an error.
pub type KeptPlan = Cell<Option<ManuallyDrop<OwnedPreparedStatement>>>;

/// As [`rows`], for a query that is asked again and again: its plan is kept in this place.
pub fn rows_kept<R>(
    plan: &'static LocalKey<KeptPlan>,
    query: &str,
    types: &[pg_sys::Oid],
    args: &[DatumWithOid],
    mut read: impl FnMut(&Row) -> SqlResult<R>,
) -> SqlResult<Vec<R>> {
    Spi::connect(|client| {
        let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
        // Not there while it is in use: a query within it makes a plan of its own.
        let kept = match plan.take() {
            Some(kept) => kept,
            None => ManuallyDrop::new(client.prepare(query, &types).map_err(from_spi)?.keep()),
        };
        let found = client
            .select(&*kept, None, args)
            .map_err(from_spi)?
            .map(|row| read(&Row(row)))
            .collect();
        plan.set(Some(kept));
        found
    })
}

/// The first row of a query that only reads.
pub fn row<R>(
    query: &str,
    args: &[DatumWithOid],
    read: impl FnMut(&Row) -> SqlResult<R>,
) -> SqlResult<Option<R>> {
    Ok(rows(query, args, read)?.into_iter().next())
}

thread_local! {
    /// Plans of [`rows_by_plan`]. Never freed: at the end of a process PostgreSQL's memory goes before the thread's.
    static PLANS: RefCell<HashMap<String, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// As [`rows`], of a query that is asked again and again: its plan is kept as long as the session lives. There are as many as
/// texts, so nothing may be in a text that comes from data.
pub fn rows_by_plan<R>(
    query: &str,
    types: &[pg_sys::Oid],
    args: &[DatumWithOid],
    mut read: impl FnMut(&Row) -> SqlResult<R>,
) -> SqlResult<Vec<R>> {
    Spi::connect(|client| {
        let kept = PLANS.with_borrow(|plans| plans.get(query).copied());
        let plan = match kept {
            Some(plan) => plan,
            None => {
                let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
                let plan = client.prepare(query, &types).map_err(from_spi)?.keep();
                let plan: &'static OwnedPreparedStatement = Box::leak(Box::new(plan));
                PLANS.with_borrow_mut(|plans| plans.insert(query.to_owned(), plan));
                plan
            }
        };
        client.select(plan, None, args).map_err(from_spi)?.map(|row| read(&Row(row))).collect()
    })
}

/// Runs a statement that writes; answers how many rows it touched.
pub fn execute(statement: &str, args: &[DatumWithOid]) -> SqlResult<usize> {
    Spi::connect_mut(|client| {
        client.update(statement, None, args).map(|table| table.len()).map_err(from_spi)
    })
}

/// Runs a statement that writes and reads what it returns.
pub fn execute_returning<R>(
    statement: &str,
    args: &[DatumWithOid],
    mut read: impl FnMut(&Row) -> SqlResult<R>,
) -> SqlResult<Vec<R>> {
    Spi::connect_mut(|client| {
        client.update(statement, None, args).map_err(from_spi)?.map(|row| read(&Row(row))).collect()
    })
}

/// A `timestamptz` from µs since 2000-01-01 UTC.
pub fn timestamptz(micros: i64) -> SqlResult<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(micros).map_err(|_| {
        report(
            PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            format!("timestamp out of range: {micros} µs since 2000-01-01"),
        )
    })
}

fn from_spi(error: pgrx::spi::Error) -> pg_sys::panic::ErrorReport {
    report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("SPI: {error}"))
}
