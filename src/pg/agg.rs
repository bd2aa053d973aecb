//! Moving aggregates as plain V1 functions.
//!
//! Their transition, inverse and final functions run three times per row of a window, so they read
//! their arguments where the executor puts them instead of through boxed types. The state lives in the
//! aggregate's memory context; what it owns on Rust's heap is dropped by a callback when PostgreSQL
//! resets that context.
//!
//! PostgreSQL shows a moving aggregate its frame's last row, which need not be the current one. The
//! final function therefore checks the frame of the `WindowAgg` node that calls it, and the state
//! remembers the position of the row it saw last, so that a row that FILTER kept out scores NULL
//! instead of repeating an earlier row's score.

use crate::error::{from_core, report};
use anomaly_core::window::MovingScore;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What `internal` points to.
struct Held<S> {
    /// Position in the partition of the row pushed last.
    position: i64,
    score: S,
}

/// The node that calls an aggregate's support function.
enum Caller {
    Aggregate,
    Window(*mut pg_sys::WindowAggState),
}

/// Which node calls, as `AggCheckCallContext` finds it, without the cost of a guarded call.
///
/// # Safety
/// `fcinfo` is the argument of a V1 function called by PostgreSQL.
#[inline(always)]
unsafe fn caller(fcinfo: FunctionCallInfo) -> Caller {
    // SAFETY: the executor sets `context` to NULL or to a valid node.
    let context = unsafe { (*fcinfo).context };
    if !context.is_null() {
        // SAFETY: not NULL, hence a node with its tag first.
        match unsafe { (*context).type_ } {
            pg_sys::NodeTag::T_WindowAggState => return Caller::Window(context.cast()),
            pg_sys::NodeTag::T_AggState => return Caller::Aggregate,
            _ => {}
        }
    }
    not_in_aggregate()
}

#[cold]
fn not_in_aggregate() -> ! {
    report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "aggregate support function called outside an aggregate",
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Argument `index` as an optional number.
///
/// # Safety
/// `fcinfo` is valid and argument `index` exists and is a `double precision`.
#[inline(always)]
unsafe fn float_argument(fcinfo: FunctionCallInfo, index: usize) -> Option<f64> {
    // SAFETY: `args` is a flexible array of `nargs` elements; the caller vouches for the index.
    let argument =
        unsafe { &*(&raw const (*fcinfo).args).cast::<pg_sys::NullableDatum>().add(index) };
    (!argument.isnull).then(|| f64::from_bits(argument.value.value() as u64))
}

/// The state in argument 0, or NULL.
///
/// # Safety
/// `fcinfo` is valid, and argument 0 is an `internal` that [`moving_transition`] of the same `S` made.
#[inline(always)]
unsafe fn held<S>(fcinfo: FunctionCallInfo) -> *mut Held<S> {
    // SAFETY: every function here has at least one argument.
    let argument = unsafe { &*(&raw const (*fcinfo).args).cast::<pg_sys::NullableDatum>() };
    if argument.isnull { std::ptr::null_mut() } else { argument.value.cast_mut_ptr() }
}

/// Drops what a state owns outside PostgreSQL's memory.
///
/// # Safety
/// `state` points to a live `Held<S>`; PostgreSQL calls this once, before it frees the memory.
unsafe extern "C-unwind" fn drop_state<S>(state: *mut core::ffi::c_void) {
    // SAFETY: by the contract of this function. The guard is what `#[pg_guard]` adds, which does not
    // take generic functions.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| std::ptr::drop_in_place(state.cast::<Held<S>>()));
    }
}

/// Makes a state in the aggregate's memory context.
///
/// # Safety
/// `fcinfo` is valid and called by an aggregate.
#[cold]
unsafe fn new_state<S: MovingScore>(fcinfo: FunctionCallInfo) -> *mut Held<S> {
    const { assert!(align_of::<Held<S>>() <= 8, "palloc aligns to 8 bytes") };
    let mut context: pg_sys::MemoryContext = std::ptr::null_mut();
    // SAFETY: `fcinfo` is valid; the callback and the state are allocated in the context whose reset
    // calls the one on the other.
    unsafe {
        if pg_sys::AggCheckCallContext(fcinfo, &mut context) == 0 {
            not_in_aggregate();
        }
        let state: *mut Held<S> = pg_sys::MemoryContextAlloc(context, size_of::<Held<S>>()).cast();
        state.write(Held { position: -1, score: S::default() });
        if std::mem::needs_drop::<S>() {
            let callback: *mut pg_sys::MemoryContextCallback =
                pg_sys::MemoryContextAlloc(context, size_of::<pg_sys::MemoryContextCallback>())
                    .cast();
            (*callback).func = Some(drop_state::<S>);
            (*callback).arg = state.cast();
            pg_sys::MemoryContextRegisterResetCallback(context, callback);
        }
        state
    }
}

/// `(internal, double precision [, parameter]) → internal`.
///
/// # Safety
/// Called by PostgreSQL with the arguments above.
#[inline(always)]
unsafe fn moving_transition<S: MovingScore>(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: by the contract of this function; the state is ours alone while we run.
    unsafe {
        let caller = caller(fcinfo);
        let mut state = held::<S>(fcinfo);
        if state.is_null() {
            state = new_state(fcinfo);
        }
        if let Caller::Window(window) = caller {
            (*state).position = (*window).aggregatedupto;
        }
        let score = &mut (*state).score;
        let mut outcome = Ok(());
        if S::PARAMETERS > 0 {
            const { assert!(S::PARAMETERS <= 1) };
            outcome = score.configure(&[float_argument(fcinfo, 2)]);
        }
        if let Err(error) = outcome.and_then(|()| score.push(float_argument(fcinfo, 1))) {
            from_core(error).report(PgLogLevel::ERROR);
        }
        (*fcinfo).isnull = false;
        Datum::from(state)
    }
}

/// `(internal, double precision [, parameter]) → internal`; NULL makes PostgreSQL aggregate the frame
/// anew.
///
/// # Safety
/// Called by PostgreSQL with the arguments above.
#[inline(always)]
unsafe fn moving_inverse<S: MovingScore>(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: by the contract of this function; the state is ours alone while we run.
    unsafe {
        let _ = caller(fcinfo);
        let state = held::<S>(fcinfo);
        let kept = !state.is_null() && (*state).score.pop(float_argument(fcinfo, 1));
        (*fcinfo).isnull = !kept;
        if kept { Datum::from(state) } else { Datum::null() }
    }
}

/// `(internal) → double precision`.
///
/// # Safety
/// Called by PostgreSQL with the arguments above.
#[inline(always)]
unsafe fn moving_final<S: MovingScore>(fcinfo: FunctionCallInfo, name: &str) -> Datum {
    // SAFETY: by the contract of this function; the state is ours alone while we run.
    unsafe {
        let caller = caller(fcinfo);
        let state = held::<S>(fcinfo);
        let mut current = !state.is_null();
        if let Caller::Window(window) = caller {
            check_frame(&*window, name);
            current = current && (*state).position == (*window).currentpos;
        }
        let score = if current { (*state).score.score() } else { None };
        (*fcinfo).isnull = score.is_none();
        Datum::from(score.unwrap_or(0.0).to_bits() as usize)
    }
}

/// Raises 42P20 unless the frame's last row is the current row.
#[inline(always)]
fn check_frame(window: &pg_sys::WindowAggState, name: &str) {
    const SKIPS_CURRENT: u32 =
        pg_sys::FRAMEOPTION_EXCLUDE_CURRENT_ROW | pg_sys::FRAMEOPTION_EXCLUDE_GROUP;
    let options = window.frameOptions as u32;
    if options & pg_sys::FRAMEOPTION_END_CURRENT_ROW == 0 || options & SKIPS_CURRENT != 0 {
        wrong_frame(name, "the frame does not end at the current row");
    }
    if options & pg_sys::FRAMEOPTION_ROWS != 0 {
        return;
    }
    // SAFETY: the plan of a WindowAggState is a WindowAgg.
    let ordered = unsafe { (*window.ss.ps.plan.cast::<pg_sys::WindowAgg>()).ordNumCols > 0 };
    if !ordered {
        wrong_frame(name, "without ORDER BY the frame ends at the partition's last row");
    }
    // In RANGE and GROUPS mode the frame ends at the last row that ties with the current one, and all
    // of them would get that one's score. EXCLUDE TIES leaves the current row last.
    let ties_kept = options & pg_sys::FRAMEOPTION_EXCLUDE_TIES == 0;
    if ties_kept && window.aggregatedupto != window.currentpos + 1 {
        wrong_frame(name, "rows that tie in ORDER BY share one frame");
    }
}

#[cold]
#[inline(never)]
fn wrong_frame(name: &str, why: &str) -> ! {
    report(
        PgSqlErrorCode::ERRCODE_WINDOWING_ERROR,
        format!("{name} scores the last row of its frame, which must be the current row: {why}"),
    )
    .set_hint(
        "end the frame at the current row, as in OVER (ORDER BY t ROWS 100 PRECEDING), or score \
         against a summary of the frame: zscore(anomaly_summary(v) OVER (…), v)",
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Exports the three support functions of a moving aggregate, each with the record by which PostgreSQL
/// knows that it follows version 1 of the calling convention.
macro_rules! moving_aggregate {
    ($module:ident: $state:ident,
     $trans:ident $trans_info:ident, $inv:ident $inv_info:ident, $final:ident $final_info:ident) => {
        mod $module {
            use super::*;
            use anomaly_core::window::$state;

            static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

            /// # Safety
            /// Called by PostgreSQL as declared in SQL.
            #[unsafe(no_mangle)]
            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn $trans(fcinfo: FunctionCallInfo) -> Datum {
                // SAFETY: PostgreSQL calls this as declared in SQL.
                unsafe { moving_transition::<$state>(fcinfo) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn $trans_info() -> *const pg_sys::Pg_finfo_record {
                &raw const V1
            }

            /// # Safety
            /// Called by PostgreSQL as declared in SQL.
            #[unsafe(no_mangle)]
            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn $inv(fcinfo: FunctionCallInfo) -> Datum {
                // SAFETY: PostgreSQL calls this as declared in SQL.
                unsafe { moving_inverse::<$state>(fcinfo) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn $inv_info() -> *const pg_sys::Pg_finfo_record {
                &raw const V1
            }

            /// # Safety
            /// Called by PostgreSQL as declared in SQL.
            #[unsafe(no_mangle)]
            #[pgrx::pg_guard]
            unsafe extern "C-unwind" fn $final(fcinfo: FunctionCallInfo) -> Datum {
                // SAFETY: PostgreSQL calls this as declared in SQL.
                unsafe { moving_final::<$state>(fcinfo, stringify!($module)) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn $final_info() -> *const pg_sys::Pg_finfo_record {
                &raw const V1
            }
        }
    };
}

moving_aggregate!(zscore: ZscoreWindow,
    zscore_trans pg_finfo_zscore_trans, zscore_inv pg_finfo_zscore_inv,
    zscore_final pg_finfo_zscore_final);
moving_aggregate!(modified_zscore: ModifiedZscoreWindow,
    modified_zscore_trans pg_finfo_modified_zscore_trans,
    modified_zscore_inv pg_finfo_modified_zscore_inv,
    modified_zscore_final pg_finfo_modified_zscore_final);
moving_aggregate!(iqr_score: IqrScoreWindow,
    iqr_score_trans pg_finfo_iqr_score_trans, iqr_score_inv pg_finfo_iqr_score_inv,
    iqr_score_final pg_finfo_iqr_score_final);
moving_aggregate!(ewma_score: EwmaScoreWindow,
    ewma_score_trans pg_finfo_ewma_score_trans, ewma_score_inv pg_finfo_ewma_score_inv,
    ewma_score_final pg_finfo_ewma_score_final);
moving_aggregate!(anomaly_score: AnomalyScoreWindow,
    anomaly_score_trans pg_finfo_anomaly_score_trans,
    anomaly_score_inv pg_finfo_anomaly_score_inv,
    anomaly_score_final pg_finfo_anomaly_score_final);
