//! Seasons: which periods a series has, and what they look like.

pub mod decompose;
mod fft;
mod loess;
pub mod periods;

pub use decompose::{Decomposition, Options, decompose};
pub use periods::{Period, detect_periods};

/// Finite values multiplied by a power of two so that the largest is near 1, and everything else as
/// NaN (missing); with the exponent that takes results back. Squares and sums of the result neither
/// overflow nor vanish.
fn scaled(values: &[f64]) -> (Vec<f64>, i32) {
    let largest = values.iter().filter(|v| v.is_finite()).fold(0.0_f64, |m, v| m.max(v.abs()));
    let exponent = if largest > 0.0 { libm::frexp(largest).1 } else { 0 };
    let scale = |v: f64| if v.is_finite() { libm::scalbn(v, -exponent) } else { f64::NAN };
    (values.iter().map(|v| scale(*v)).collect(), exponent)
}

/// The median, reordering the values; NaN for none. The mean of the middle two for an even number.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    let n = values.len();
    if n == 0 {
        return f64::NAN;
    }
    let (below, &mut upper, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // neither the sum nor the difference may overflow
    if (lower < 0.0) == (upper < 0.0) {
        lower + (upper - lower) / 2.0
    } else {
        (lower + upper) / 2.0
    }
}
