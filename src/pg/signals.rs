//! What our processes do on signals: what every PostgreSQL backend does.
//!
//! pgrx's own handlers only set a flag, which makes a long query unkillable: `pg_cancel_backend` is
//! ignored, DROP DATABASE … WITH (FORCE) fails and a fast stop waits for the query to end. So SIGTERM
//! is PostgreSQL's `die`, SIGHUP reloads, and SIGINT keeps the cancel handler that PostgreSQL installs
//! in workers with a database connection.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    #[link_name = "die"]
    fn backend_die(signal: std::ffi::c_int);
    #[link_name = "SignalHandlerForConfigReload"]
    fn backend_config_reload(signal: std::ffi::c_int);
}

// pgrx's bindings wrap each function in a guard that may not run inside a signal handler, and
// their addresses are those of the wrappers; these go straight to PostgreSQL.
unsafe extern "C-unwind" fn on_terminate(signal: std::ffi::c_int) {
    // SAFETY: PostgreSQL's own SIGTERM handler; async-signal-safe.
    unsafe { backend_die(signal) }
}

unsafe extern "C-unwind" fn on_hang_up(signal: std::ffi::c_int) {
    // SAFETY: PostgreSQL's own SIGHUP handler; async-signal-safe.
    unsafe { backend_config_reload(signal) }
}

/// Installs the handlers and lets signals in. The first thing a worker does.
pub fn install() {
    // SAFETY: called once at the start of a background worker, while signals are still blocked.
    unsafe {
        set_handler(pg_sys::SIGHUP as i32, on_hang_up);
        set_handler(pg_sys::SIGTERM as i32, on_terminate);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn set_handler(signal: i32, handler: unsafe extern "C-unwind" fn(std::ffi::c_int)) {
    // SAFETY: the handler is async-signal-safe and lives as long as the library.
    unsafe { pg_sys::pqsignal(signal, Some(handler)) };
}

#[cfg(feature = "pg18")]
unsafe fn set_handler(signal: i32, handler: unsafe extern "C-unwind" fn(std::ffi::c_int)) {
    // SAFETY: the handler is async-signal-safe and lives as long as the library.
    unsafe { pg_sys::pqsignal_be(signal, Some(handler)) };
}
