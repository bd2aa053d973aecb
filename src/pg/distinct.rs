//! Counting distinct values of any type exactly and in bounded memory: PostgreSQL's own sort, which
//! spills to temporary files past `work_mem`, then one pass over neighbours.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

use super::varlena::{argument, return_null, version_1};
use crate::error::report;

version_1!(pg_finfo_uniqueness_trans, pg_finfo_uniqueness_final);

/// Lives in the aggregate's memory context; the sort is ended by a callback of that context's
/// aggregate, also when the query stops early.
struct DistinctState {
    sort: *mut pg_sys::Tuplesortstate,
    by_value: bool,
    collation: pg_sys::Oid,
    /// The type's three-way comparison.
    compare: *mut pg_sys::FmgrInfo,
    values: i64,
    sorted: Option<i64>,
}

/// Starts the sort, for the type that the call's second argument has.
///
/// # Safety
/// `fcinfo` is that of the running call and `context` its aggregate's memory context.
unsafe fn start(
    fcinfo: pg_sys::FunctionCallInfo,
    context: pg_sys::MemoryContext,
) -> *mut DistinctState {
    // SAFETY: the caller's promise; everything is allocated in the aggregate's context.
    unsafe {
        let oid = pg_sys::get_fn_expr_argtype((*fcinfo).flinfo, 1);
        let flags = pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_CMP_PROC_FINFO;
        let cache = pg_sys::lookup_type_cache(oid, flags as i32);
        if (*cache).lt_opr == pg_sys::InvalidOid
            || (*cache).cmp_proc_finfo.fn_oid == pg_sys::InvalidOid
        {
            let name = pg_sys::format_type_be(oid);
            let name = std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned();
            Err(report(
                PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                format!("could not identify an ordering operator for type {name}"),
            )
            .set_hint("cast the value to a type that can be sorted, such as text or jsonb"))
            .unwrap_or_report()
        }
        let collation = (*fcinfo).fncollation;
        let old = pg_sys::MemoryContextSwitchTo(context);
        let sort = pg_sys::tuplesort_begin_datum(
            oid,
            (*cache).lt_opr,
            collation,
            false,
            pg_sys::work_mem,
            std::ptr::null_mut(),
            pg_sys::TUPLESORT_NONE as i32,
        );
        let compare = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()).cast::<pg_sys::FmgrInfo>();
        pg_sys::fmgr_info_cxt((*cache).cmp_proc_finfo.fn_oid, compare, context);
        let state = pg_sys::palloc0(size_of::<DistinctState>()).cast::<DistinctState>();
        state.write(DistinctState {
            sort,
            by_value: (*cache).typbyval,
            collation,
            compare,
            values: 0,
            sorted: None,
        });
        pg_sys::MemoryContextSwitchTo(old);
        pg_sys::AggRegisterCallback(fcinfo, Some(end_sort), pg_sys::Datum::from(state));
        state
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn end_sort(state: pg_sys::Datum) {
    // SAFETY: registered with a state of the same context; the executor calls it before it frees
    // that.
    unsafe {
        let state = &mut *state.cast_mut_ptr::<DistinctState>();
        if !state.sort.is_null() {
            pg_sys::tuplesort_end(state.sort);
            state.sort = std::ptr::null_mut();
        }
    }
}

/// The context of the calling aggregate; raises for any other caller, because the state would have no
/// owner.
///
/// # Safety
/// `fcinfo` is that of the running call.
unsafe fn aggregate_context(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::MemoryContext {
    let mut context = std::ptr::null_mut();
    // SAFETY: the caller's promise. A window aggregate is refused: it has no callbacks, and the
    // sort cannot take values after the first answer.
    let kind = unsafe { pg_sys::AggCheckCallContext(fcinfo, &mut context) };
    if kind != pg_sys::AGG_CONTEXT_AGGREGATE as i32 {
        Err(report(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "uniqueness works as a plain aggregate only",
        )
        .set_hint("use it with GROUP BY, not with OVER"))
        .unwrap_or_report()
    }
    context
}

/// `uniqueness_trans(internal, "any")`: puts one value into the sort; NULLs are left out.
///
/// # Safety
/// Called by PostgreSQL with two arguments.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn uniqueness_trans(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: arguments as declared in SQL; the state is only ever one of ours.
    unsafe {
        let context = aggregate_context(fcinfo);
        let state = argument(fcinfo, 0).map(|state| state.cast_mut_ptr::<DistinctState>());
        let Some(value) = argument(fcinfo, 1) else {
            return state.map_or_else(|| return_null(fcinfo), pg_sys::Datum::from);
        };
        let state = state.unwrap_or_else(|| start(fcinfo, context));
        pg_sys::tuplesort_putdatum((*state).sort, value, false);
        (*state).values += 1;
        pg_sys::Datum::from(state)
    }
}

/// `uniqueness_final(internal)`: distinct values ÷ values; NULL without values.
///
/// # Safety
/// Called by PostgreSQL with one argument.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn uniqueness_final(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: argument as declared in SQL; the state is only ever one of ours.
    unsafe {
        aggregate_context(fcinfo);
        let Some(state) = argument(fcinfo, 0) else { return return_null(fcinfo) };
        let state = &mut *state.cast_mut_ptr::<DistinctState>();
        let distinct = match state.sorted {
            Some(distinct) => distinct,
            None => count_distinct(state),
        };
        state.sorted = Some(distinct);
        pg_sys::Datum::from((distinct as f64 / state.values as f64).to_bits())
    }
}

/// # Safety
/// The sort of `state` has not been read yet.
unsafe fn count_distinct(state: &mut DistinctState) -> i64 {
    let mut distinct = 0;
    let mut last: Option<pg_sys::Datum> = None;
    // SAFETY: the sort is running; each value read is ours to free unless it is passed by value.
    unsafe {
        pg_sys::tuplesort_performsort(state.sort);
        while let Some(value) = next(state.sort) {
            let equal = last.is_some_and(|last| {
                let order = pg_sys::FunctionCall2Coll(state.compare, state.collation, last, value);
                order.value() as i32 == 0
            });
            distinct += i64::from(!equal);
            if let (Some(last), false) = (last, state.by_value) {
                pg_sys::pfree(last.cast_mut_ptr());
            }
            last = Some(value);
            if distinct % 4096 == 0 {
                pgrx::check_for_interrupts!();
            }
        }
    }
    distinct
}

/// # Safety
/// `sort` has been performed.
unsafe fn next(sort: *mut pg_sys::Tuplesortstate) -> Option<pg_sys::Datum> {
    let mut value = pg_sys::Datum::null();
    let mut is_null = false;
    // SAFETY: the caller's promise; values are copied into the current memory context.
    let found = unsafe {
        #[cfg(feature = "pg15")]
        let found =
            pg_sys::tuplesort_getdatum(sort, true, &mut value, &mut is_null, std::ptr::null_mut());
        #[cfg(not(feature = "pg15"))]
        let found = pg_sys::tuplesort_getdatum(
            sort,
            true,
            true,
            &mut value,
            &mut is_null,
            std::ptr::null_mut(),
        );
        found
    };
    found.then_some(value)
}
