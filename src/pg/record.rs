//! Numbers from the columns of a record, found by name.

use std::ffi::CStr;

use pgrx::{PgSqlErrorCode, PgTupleDesc, direct_function_call_as_datum, pg_sys};

use super::catalog::base_type;
use crate::error::{SqlResult, report};

/// Where the columns of these names were in the record before: records of one query are mostly of one
/// type, so that the first look is the last. Only a hint, because a type may change.
#[derive(Default)]
pub struct Places(Vec<usize>);

/// Reads the columns of these names as numbers into `row`; NaN for NULL and for a column that the record
/// does not have.
///
/// # Errors
/// 42703 for a record that has none of them, 42804 for one that is no number or boolean.
///
/// # Safety
/// `datum` is a non-NULL datum of a composite type.
pub unsafe fn numbers(
    datum: pg_sys::Datum,
    names: &[String],
    places: &mut Places,
    row: &mut Vec<f64>,
) -> SqlResult<()> {
    places.0.resize(names.len(), 0);
    row.clear();
    let mut found = false;
    // SAFETY: the caller's promise: a detoasted composite datum begins with the header of its tuple,
    // which names its type; the description is released when it is dropped.
    let (mut tuple, columns) = unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let tuple = pg_sys::HeapTupleData {
            t_len: pgrx::heap_tuple_header_get_datum_length(header) as u32,
            t_data: header,
            ..Default::default()
        };
        let described = pg_sys::lookup_rowtype_tupdesc(
            pgrx::heap_tuple_header_get_type_id(header),
            pgrx::heap_tuple_header_get_typmod(header),
        );
        (tuple, PgTupleDesc::from_pg(described))
    };
    for (name, place) in names.iter().zip(&mut places.0) {
        let is_it = |at: usize| {
            columns.get(at).is_some_and(|c| {
                !c.attisdropped && name_of(&c.attname).to_bytes() == name.as_bytes()
            })
        };
        let at = match is_it(*place) {
            true => Some(*place),
            false => (0..columns.len()).find(|at| is_it(*at)),
        };
        let Some((at, column)) = at.and_then(|at| Some((at, columns.get(at)?))) else {
            row.push(f64::NAN);
            continue;
        };
        (found, *place) = (true, at);
        let mut is_null = false;
        // SAFETY: the number of a column of the type that the tuple has.
        let value = unsafe {
            pg_sys::heap_getattr(&raw mut tuple, at as i32 + 1, columns.as_ptr(), &mut is_null)
        };
        // SAFETY: a datum of the column's type, not NULL.
        match unsafe { number(value, is_null, column.atttypid) } {
            Some(x) => row.push(x),
            None => return Err(unfit(name, column.atttypid)),
        }
    }
    if found {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        "the record has no column that is named as a feature of the model",
    )
    .set_hint(format!("the features are: {}", names.join(", "))))
}

fn name_of(name: &pg_sys::NameData) -> &CStr {
    // SAFETY: a name ends with a zero byte within its 64 bytes.
    unsafe { CStr::from_ptr(name.data.as_ptr()) }
}

/// A datum as a number, NaN for NULL; `None` for a type that is none.
///
/// # Safety
/// `value` is a datum of this type unless it is NULL.
unsafe fn number(value: pg_sys::Datum, is_null: bool, column: pg_sys::Oid) -> Option<f64> {
    let read: fn(pg_sys::Datum) -> f64 = match column {
        pg_sys::FLOAT8OID => |d| f64::from_bits(d.value() as u64),
        pg_sys::FLOAT4OID => |d| f64::from(f32::from_bits(d.value() as u32)),
        pg_sys::INT2OID => |d| f64::from(d.value() as i16),
        pg_sys::INT4OID => |d| f64::from(d.value() as i32),
        pg_sys::INT8OID => |d| d.value() as i64 as f64,
        pg_sys::BOOLOID => |d| f64::from(u8::from(d.value() as u8 != 0)),
        pg_sys::NUMERICOID => |d| {
            // SAFETY: a function of core's that takes a numeric and answers a float8.
            let float = unsafe {
                direct_function_call_as_datum(pg_sys::numeric_float8_no_overflow, &[Some(d)])
            };
            float.map_or(f64::NAN, |d| f64::from_bits(d.value() as u64))
        },
        domain => {
            let below = base_type(domain);
            // SAFETY: a value of a domain is one of the type below it.
            return if below == domain { None } else { unsafe { number(value, is_null, below) } };
        }
    };
    Some(if is_null { f64::NAN } else { read(value) })
}

fn unfit(name: &str, column: pg_sys::Oid) -> pg_sys::panic::ErrorReport {
    // SAFETY: raises for no type; answers a text in the current memory context.
    let type_name = unsafe { CStr::from_ptr(pg_sys::format_type_be(column)) };
    report(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("column \"{name}\" of type {} is no number", type_name.to_string_lossy()),
    )
    .set_hint("features are numbers or booleans; cast it, or give a record without it")
}
