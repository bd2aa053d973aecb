//! `anomaly_core`'s progress inside PostgreSQL.

use anomaly_core::progress::Progress;
use pgrx::pg_sys;

unsafe extern "C" {
    // Not bound by pgrx 0.18.1.
    fn PostmasterIsAliveInternal() -> bool;
}

/// Whether the postmaster is still there. Usable in signal handlers.
pub fn postmaster_is_alive() -> bool {
    // SAFETY: reads from the postmaster's death pipe without blocking; changes no state.
    unsafe { PostmasterIsAliveInternal() }
}

/// Raises PostgreSQL's own error on cancel and termination.
pub fn check() {
    pg_sys::check_for_interrupts!();
}

/// Raises PostgreSQL's own error on cancel and termination, and stops work whose server is gone.
#[derive(Default)]
pub struct Interrupts {
    ticks: u32,
}

// Asking for the postmaster costs a system call, a tick does not.
const TICKS_PER_POSTMASTER_CHECK: u32 = 16;

impl Progress for Interrupts {
    fn tick(&mut self) -> anomaly_core::Result<()> {
        pg_sys::check_for_interrupts!();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_POSTMASTER_CHECK) && !postmaster_is_alive() {
            return Err(anomaly_core::Error::Stopped);
        }
        Ok(())
    }
}
