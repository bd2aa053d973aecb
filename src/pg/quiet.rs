//! Keeping the text of a statement out of the server's log.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReportable;

use crate::error::SqlResult;

const SETTING: &CStr = c"log_min_error_statement";

/// Runs `work`; an error that it answers is raised without the statement, which holds a secret, being logged beside it.
/// (What logs statements that succeed is the administrator's to switch off.)
pub fn without_statement<R>(work: impl FnOnce() -> SqlResult<R>) -> R {
    // SAFETY: sets an option for a new nesting level, which ends below, or with the (sub)transaction that an error
    // aborts: only after the error has been logged.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            SETTING.as_ptr(),
            c"panic".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let result = work().unwrap_or_report();
    // SAFETY: the level was taken above, and inner ones have ended.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}
