//! The timer of a scheduled run and of a handler: it cancels what has taken too long, and ends the process
//! when the postmaster has died.
//!
//! `statement_timeout` is armed only for statements that a client sends, never in a worker. And a
//! query that computes without waiting never notices by itself that the postmaster is gone, so its
//! worker would go on alone.

use std::{
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    time::Duration,
};

use pgrx::pg_sys;

use crate::pg::interrupts::postmaster_is_alive;

// Not bound by pgrx 0.18.1.
unsafe extern "C-unwind" {
    fn RegisterTimeout(
        id: std::ffi::c_int,
        handler: unsafe extern "C-unwind" fn(),
    ) -> std::ffi::c_int;
    fn enable_timeout_every(
        id: std::ffi::c_int,
        first: pg_sys::TimestampTz,
        delay: std::ffi::c_int,
    );
    fn disable_timeout(id: std::ffi::c_int, keep_indicator: bool);
}
unsafe extern "C" {
    fn kill(pid: std::ffi::c_int, signal: std::ffi::c_int) -> std::ffi::c_int;
    fn getpid() -> std::ffi::c_int;
    fn _exit(status: std::ffi::c_int) -> !;
}

// TimeoutId::USER_TIMEOUT of utils/timeout.h; PostgreSQL 17 put one more in front of it.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const USER_TIMEOUT: i32 = 12;
#[cfg(feature = "pg18")]
const USER_TIMEOUT: i32 = 13;

/// How often the timer looks. Two looks fit into the second within which workers end after the
/// postmaster's death.
const PERIOD: Duration = Duration::from_millis(250);

const NOT_REGISTERED: i32 = -1;
static TIMEOUT_ID: AtomicI32 = AtomicI32::new(NOT_REGISTERED);
/// Looks left until the run has taken too long; zero means no limit.
static LOOKS_LEFT: AtomicU32 = AtomicU32::new(0);
static TIMED_OUT: AtomicBool = AtomicBool::new(false);

unsafe extern "C-unwind" fn look() {
    if !postmaster_is_alive() {
        // SAFETY: async-signal-safe; shared memory is lost with the postmaster, so there is nothing
        // to clean up (what PostgreSQL's quickdie does).
        unsafe { _exit(1) }
    }
    let left = LOOKS_LEFT.load(Ordering::Relaxed);
    if left > 0 {
        // From then on at each look: code that swallows one cancel is cancelled again.
        LOOKS_LEFT.store((left - 1).max(1), Ordering::Relaxed);
        if left == 1 {
            TIMED_OUT.store(true, Ordering::Relaxed);
            // SAFETY: async-signal-safe; PostgreSQL's cancel handler takes it from here.
            unsafe {
                kill(getpid(), pg_sys::SIGINT as i32);
            }
        }
    }
}

/// Runs until dropped or disarmed.
pub struct Armed(());

/// Starts the timer of a run that may take `limit`.
pub fn arm(limit: Option<Duration>) -> Armed {
    let looks = limit.map_or(0, |d| d.as_millis().div_ceil(PERIOD.as_millis()).max(1));
    LOOKS_LEFT.store(u32::try_from(looks).unwrap_or(u32::MAX), Ordering::Relaxed);
    TIMED_OUT.store(false, Ordering::Relaxed);
    // SAFETY: PostgreSQL initialised its timeouts before the worker's main function; the handler is
    // async-signal-safe and registered once per process.
    unsafe {
        let mut id = TIMEOUT_ID.load(Ordering::Relaxed);
        if id == NOT_REGISTERED {
            id = RegisterTimeout(USER_TIMEOUT, look);
            TIMEOUT_ID.store(id, Ordering::Relaxed);
        }
        let period = PERIOD.as_millis() as i32;
        let first = pg_sys::GetCurrentTimestamp() + i64::from(period) * 1_000;
        enable_timeout_every(id, first, period);
    }
    Armed(())
}

impl Armed {
    /// Stops the timer; answers whether it was the one that cancelled the run.
    pub fn disarm(self) -> bool {
        drop(self);
        TIMED_OUT.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        LOOKS_LEFT.store(0, Ordering::Relaxed);
        // SAFETY: `arm` has registered the id; disabling changes backend-local state and cannot
        // raise, so it may also run while an error unwinds.
        unsafe { disable_timeout(TIMEOUT_ID.load(Ordering::Relaxed), false) }
    }
}
