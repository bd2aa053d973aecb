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

/// All that a forecast depends on: the time of a point and its further columns.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    at: i64,
    features: Vec<f64>,
}

impl Question {
    pub fn new(at: i64, features: &[f64]) -> Self {
        Question { at, features: features.to_vec() }
    }

    /// Whether it is the same, bit by bit.
    pub fn is(&self, at: i64, features: &[f64]) -> bool {
        let bits = |x: &f64| x.to_bits();
        self.at == at && self.features.iter().map(bits).eq(features.iter().map(bits))
    }
}
