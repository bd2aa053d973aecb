//! What a detector is fed.

/// One measurement of one entity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    /// In the metric's own unit.
    pub value: f64,
    /// Of how many trials `value` is the share; NaN for a value that is no ratio.
    pub trials: f64,
    /// Further columns of the row, for strategies that judge several together; empty for the others.
    pub features: &'a [f64],
}

impl Point<'_> {
    pub fn new(at: i64, value: f64) -> Self {
        Point { at, value, trials: f64::NAN, features: &[] }
    }
}
