//! How long work asks whether to go on.

use crate::{Error, Result};

/// Called every few thousand inner steps. Inside PostgreSQL it checks for interrupts and the
/// postmaster; elsewhere it does nothing.
pub trait Progress {
    /// `Err(Error::Stopped)` ends the work at the next consistent point.
    fn tick(&mut self) -> Result<()>;
}

/// Never stops.
pub struct Unbounded;

impl Progress for Unbounded {
    fn tick(&mut self) -> Result<()> {
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
