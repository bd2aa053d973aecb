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

/// Runs `work` under the snapshot that there is, with what this transaction has written since added. In a
/// subtransaction that has not written yet, queries that only read would not see that otherwise.
pub fn with_own_writes<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: inside a transaction; what is pushed is a copy, which nobody else refers to, and popped
    // below; an error that unwinds past it aborts the (sub)transaction, which pops what it has pushed.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushCopiedSnapshot(pg_sys::GetActiveSnapshot());
        pg_sys::UpdateActiveSnapshotCommandId();
    }
    let result = work();
    // SAFETY: the snapshot that was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
