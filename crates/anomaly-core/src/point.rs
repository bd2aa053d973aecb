//! What a detector is fed.

/// One measurement of one entity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    /// In the metric's own unit.
    pub value: f64,
}

impl Point {
    pub fn new(at: i64, value: f64) -> Self {
        Point { at, value }
    }
}
