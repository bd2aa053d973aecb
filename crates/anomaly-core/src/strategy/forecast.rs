//! What the strategies share that forecast a value with a spread of its own.

use super::location_scale::{Fit, ROUNDING, finite};

/// The standard deviation that a strategy's own rule takes where there has been no error at all.
const CONSTANT_SD: f64 = 1e-6;

/// The standard deviation that a rule takes: one that is rounding noise of the centre is none.
pub(super) fn of_rule(spread: f64, centre: f64) -> f64 {
    let noise = ROUNDING * centre.abs();
    if spread > noise { spread } else { CONSTANT_SD.max(noise) }
}

/// (value − forecast) / spread.
pub(super) fn z_score(value: f64, fit: &Fit) -> f64 {
    let d = value - fit.centre;
    finite(d / of_rule(if d < 0.0 { fit.below } else { fit.above }, fit.centre))
}

/// Where |z| is the threshold.
pub(super) fn z_bounds(fit: &Fit, threshold: f64) -> (f64, f64) {
    (
        finite(fit.centre - threshold * of_rule(fit.below, fit.centre)),
        finite(fit.centre + threshold * of_rule(fit.above, fit.centre)),
    )
}
