//! Seeing what is there now, in a query that sees what was there when it began.

use pgrx::pg_sys;

use crate::error::SqlResult;

/// Runs `read`, which only reads, under a snapshot of this moment. Not in a parallel plan: callers are
/// labelled parallel unsafe.
pub fn latest<R>(read: impl FnOnce() -> SqlResult<R>) -> SqlResult<R> {
    // SAFETY: inside a transaction, and popped below; an error that unwinds past it aborts the
    // (sub)transaction, which pops what it has pushed.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = read();
    // SAFETY: the snapshot that was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
