//! The reserved prefix of the settings, and setting them from inside a worker.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Makes unknown `anomaly_detection.*` names an error.
pub fn reserve() {
    // SAFETY: copies the name; called from `_PG_init`.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"anomaly_detection".as_ptr()) }
}

/// Sets an option for the rest of this worker's session, as SET would.
pub fn set_option(name: &CStr, value: &str) {
    // A zero byte can only come from a detector's name, and only ends what is displayed.
    let value = CString::new(value.replace('\0', "")).unwrap_or_default();
    // SAFETY: both strings are NUL-terminated and copied by the callee.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}
