//! What the strategies share that forecast a value with a spread of its own.

use super::location_scale::{Fit, finite};

/// The standard deviation that a strategy's own rule takes where there has been no error at all.
const CONSTANT_SD: f64 = 1e-6;

fn of_rule(spread: f64) -> f64 {
    if spread > 0.0 { spread } else { CONSTANT_SD }
}

/// (value − forecast) / spread.
pub(super) fn z_score(value: f64, fit: &Fit) -> f64 {
    let d = value - fit.centre;
    finite(d / of_rule(if d < 0.0 { fit.below } else { fit.above }))
}

/// Where |z| is the threshold.
pub(super) fn z_bounds(fit: &Fit, threshold: f64) -> (f64, f64) {
    (
        finite(fit.centre - threshold * of_rule(fit.below)),
        finite(fit.centre + threshold * of_rule(fit.above)),
    )
}
