//! Sleeping, being woken, and what has to be done on waking.

use std::time::Duration;

use pgrx::pg_sys;

/// Address of a process latch, to be kept in shared memory. Zero is nobody's.
///
/// It stays valid when its process ends: process slots are never freed, and setting the latch of a
/// slot's next owner only wakes that one needlessly.
pub type LatchAddress = usize;

/// This process's latch.
pub fn mine() -> LatchAddress {
    // SAFETY: reads a backend-local pointer.
    unsafe { pg_sys::MyLatch as usize }
}

/// Wakes the process whose latch it is.
pub fn set(latch: LatchAddress) {
    if latch != 0 {
        // SAFETY: the address was stored by `mine` in the same server life; shared memory is
        // mapped at the same address in every process, and process slots are never freed.
        unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) }
    }
}

/// Sleeps until the latch is set or the time is up, then handles interrupts and reloads the
/// configuration if asked to. Ends the process when the postmaster has died.
pub fn wait(at_most: Duration) {
    let millis = std::ffi::c_long::try_from(at_most.as_millis()).unwrap_or(std::ffi::c_long::MAX);
    // SAFETY: waits on this process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            millis,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    serve_interrupts();
}

/// Cancel, termination, barriers of DROP DATABASE, and a pending reload.
pub fn serve_interrupts() {
    pg_sys::check_for_interrupts!();
    // SAFETY: the flag is set by the SIGHUP handler; reading and clearing it is what PostgreSQL's
    // own main loops do.
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() != 0 {
            (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
