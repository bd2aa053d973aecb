//! Moving windows: the state behind `zscore(v) OVER (…)` and its relatives.
//!
//! Every score here is of a window's *last* row against the *other* rows. The last row is held apart
//! and joins the others only when the next one arrives: taking it out of a sum again would cancel
//! exactly when it is extreme, which is when the score matters.
//!
//! Rules common to all (`score_of` is where they stand):
//!
//! * a NULL row scores NULL and is ignored by the others;
//! * fewer other values than the score needs: NULL;
//! * a NaN row scores NaN, ±∞ scores ±∞ (1 for [`AnomalyScoreWindow`]); both are ignored by the others;
//! * others without spread: 0 at their centre, ±∞ elsewhere ([`AnomalyScoreWindow`]: 0 and 1).

mod ewma;
pub mod moments;
pub mod order_window;
pub mod robust;
mod robust_table;
mod scores;

pub use ewma::EwmaScoreWindow;
pub use scores::{AnomalyScoreWindow, IqrScoreWindow, ModifiedZscoreWindow, ZscoreWindow};

use crate::Result;

/// A moving window that scores its last row against the other rows.
pub trait MovingScore: Default {
    /// Number of parameters after the value, alike for every row of a window.
    const PARAMETERS: usize = 0;

    /// Checks and takes the parameters of the row that is about to be pushed.
    ///
    /// # Errors
    /// [`crate::Error::InvalidParameter`] for one out of range or one that changes inside a window.
    fn configure(&mut self, _parameters: &[Option<f64>]) -> Result<()> {
        Ok(())
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] when the window needs more memory than it may have.
    fn push(&mut self, value: Option<f64>) -> Result<()>;

    /// Takes out the oldest row, which had this value. `false`: the window has lost too much precision
    /// and must be built again from its rows; its state is then useless.
    fn pop(&mut self, value: Option<f64>) -> bool;

    /// Scores the last row. Changes nothing that a later score could show.
    fn score(&mut self) -> Option<f64>;
}

/// The rules that do not depend on the kind of score. `measure` gets a finite value.
#[inline(always)]
fn score_of(
    last: Option<f64>,
    others: u64,
    needed: u64,
    measure: impl FnOnce(f64) -> Option<f64>,
) -> Option<f64> {
    let x = last?;
    if others < needed {
        return None;
    }
    if x.is_finite() { measure(x) } else { Some(x) }
}

#[cfg(test)]
mod tests;
