//! Transactions of a worker, and what a backend does after its own has committed.

use std::{
    cell::{Cell, RefCell},
    panic::AssertUnwindSafe,
};

use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};

use crate::{
    error::SqlResult,
    pg::subxact::{Caught, describe},
};

/// Runs `work` in a transaction of its own: committed when it answers `Ok`, rolled back when it
/// answers or raises an error. Only outside a transaction.
pub fn run<R>(work: impl FnOnce() -> SqlResult<R>) -> Result<R, Caught> {
    // SAFETY: called from the main loop of a worker, which is in no transaction; every way out ends
    // the transaction that is started here.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            let result = work().unwrap_or_report();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }))
        .catch_others(|error| Err(describe(&error)))
        .execute();
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        // Else table statistics stay in this process, and autovacuum never sees the dead rows.
        pg_sys::pgstat_report_stat(true);
        outcome
    }
}

/// Leaves whatever transaction there is. For exit callbacks.
pub fn abandon() {
    // SAFETY: legal in any transaction state; what PostgreSQL's own exit callbacks begin with.
    unsafe { pg_sys::AbortOutOfAnyTransaction() }
}

/// Forgets a cancel that arrived after the work it was meant for had ended.
pub fn forget_cancel() {
    // SAFETY: the flag is only set by signal handlers and read by CHECK_FOR_INTERRUPTS.
    unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) }
}

thread_local! {
    static AFTER_COMMIT: RefCell<Vec<fn()>> = const { RefCell::new(Vec::new()) };
    static AFTER_ABORT: RefCell<Vec<fn()>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `committed` after each commit and `aborted` after each abort of this session's
/// transactions, from now on. Both must do little and must not raise. Asking twice is the same as
/// once.
pub fn after_each_transaction(committed: fn(), aborted: fn()) {
    for (list, call) in [(&AFTER_COMMIT, committed), (&AFTER_ABORT, aborted)] {
        list.with_borrow_mut(|calls| {
            if !calls.iter().any(|known| std::ptr::fn_addr_eq(*known, call)) {
                calls.push(call);
            }
        });
    }
    if !REGISTERED.replace(true) {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let calls = match event {
        XACT_EVENT_COMMIT => &AFTER_COMMIT,
        // A prepared transaction has not committed; the launcher's regular visit finds its rows.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => &AFTER_ABORT,
        _ => return,
    };
    calls.with_borrow(|calls| calls.iter().for_each(|call| call()));
}
