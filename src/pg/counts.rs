//! Transition and combine functions over a state of two counters, `bigint[2]`, changed in place.

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{pg_sys, varlena};

use super::varlena::{argument, in_aggregate, return_null, version_1};
use crate::error::report;

version_1!(
    pg_finfo_completeness_trans,
    pg_finfo_validity_trans,
    pg_finfo_count_pair_combine,
    pg_finfo_share_final
);

/// `ArrayType` of one dimension without NULLs, and its two elements.
#[repr(C)]
struct CountPair {
    header: pg_sys::ArrayType,
    dimension: i32,
    lower_bound: i32,
    counts: [i64; 2],
}

/// The counters of argument `i`: in place inside an aggregate when `change` is set, else of a copy.
///
/// # Safety
/// `fcinfo` is that of the running call; argument `i` is declared as bigint[].
unsafe fn pair<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
    i: usize,
    change: bool,
) -> Option<&'a mut CountPair> {
    // SAFETY: the caller's promise. What is not changed in place is a detoasted copy, and every
    // field is checked before the array is taken for a CountPair.
    unsafe {
        let ptr = argument(fcinfo, i)?.cast_mut_ptr::<pg_sys::varlena>();
        let in_place = change
            && in_aggregate(fcinfo)
            && varlena::varatt_is_4b_u(ptr)
            && (ptr as usize).is_multiple_of(align_of::<CountPair>());
        let ptr = if in_place { ptr } else { pg_sys::pg_detoast_datum_copy(ptr) };
        let array = ptr.cast::<CountPair>();
        if varlena::varsize_4b(ptr) != size_of::<CountPair>()
            || (*array).header.ndim != 1
            || (*array).header.dataoffset != 0
            || (*array).header.elemtype != pg_sys::INT8OID
            || (*array).dimension != 2
        {
            Err(report(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                "expected a bigint array of two counts",
            ))
            .unwrap_or_report()
        }
        Some(&mut *array)
    }
}

fn datum(pair: &mut CountPair) -> pg_sys::Datum {
    pg_sys::Datum::from(std::ptr::from_mut(pair))
}

fn add(counter: &mut i64, n: i64) {
    *counter = counter
        .checked_add(n)
        .ok_or_else(|| {
            report(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range")
        })
        .unwrap_or_report();
}

/// `completeness_trans(bigint[], "any")`: counts {rows, values that are not NULL}.
///
/// # Safety
/// Called by PostgreSQL with two arguments.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn completeness_trans(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe {
        let Some(state) = pair(fcinfo, 0, true) else { return return_null(fcinfo) };
        add(&mut state.counts[0], 1);
        add(&mut state.counts[1], i64::from(argument(fcinfo, 1).is_some()));
        datum(state)
    }
}

/// `validity_trans(bigint[], boolean)`: counts {values that are not NULL, values that are true}.
///
/// # Safety
/// Called by PostgreSQL with two arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn validity_trans(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe {
        let Some(state) = pair(fcinfo, 0, true) else { return return_null(fcinfo) };
        if let Some(valid) = argument(fcinfo, 1) {
            add(&mut state.counts[0], 1);
            add(&mut state.counts[1], i64::from(valid.value() != 0));
        }
        datum(state)
    }
}

/// `count_pair_combine(bigint[], bigint[])`: adds counters.
///
/// # Safety
/// Called by PostgreSQL with two arguments of these types.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn count_pair_combine(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL.
    unsafe {
        let Some(state) = pair(fcinfo, 0, true) else { return return_null(fcinfo) };
        if let Some(other) = pair(fcinfo, 1, false) {
            add(&mut state.counts[0], other.counts[0]);
            add(&mut state.counts[1], other.counts[1]);
        }
        datum(state)
    }
}

/// `share_final(bigint[])`: second counter ÷ first; NULL when nothing was counted.
///
/// # Safety
/// Called by PostgreSQL with one argument of this type.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn share_final(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL; double precision is passed by value.
    unsafe {
        match pair(fcinfo, 0, false) {
            Some(state) if state.counts[0] > 0 => {
                pg_sys::Datum::from((state.counts[1] as f64 / state.counts[0] as f64).to_bits())
            }
            _ => return_null(fcinfo),
        }
    }
}
