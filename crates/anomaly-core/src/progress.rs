//! How long work asks whether to go on.

use std::sync::OnceLock;

use crate::{Error, Result};

/// Called every few thousand inner steps. Inside PostgreSQL it checks for interrupts and the
/// postmaster; elsewhere it does nothing.
pub trait Progress {
    /// `Err(Error::Stopped)` ends the work at the next consistent point.
    fn tick(&mut self) -> Result<()>;
}

static INTERRUPT: OnceLock<fn()> = OnceLock::new();

/// Has `interrupt` called wherever a [`Progress`] is asked that never stops by itself: a model that fits
/// itself anew between two points may take seconds, and nobody can pass one down to it. `interrupt` may
/// unwind, and what was being learned has to be dropped then. The first call counts.
pub fn interrupt_by(interrupt: fn()) {
    let _ = INTERRUPT.set(interrupt);
}

/// Never stops by itself.
pub struct Unbounded;

impl Progress for Unbounded {
    fn tick(&mut self) -> Result<()> {
        if let Some(interrupt) = INTERRUPT.get() {
            interrupt();
        }
        Ok(())
    }
}

/// Stops after a number of ticks; for tests of cancellation.
pub struct StopAfter(pub u64);

impl Progress for StopAfter {
    fn tick(&mut self) -> Result<()> {
        if self.0 == 0 {
            return Err(Error::Stopped);
        }
        self.0 -= 1;
        Ok(())
    }
}
