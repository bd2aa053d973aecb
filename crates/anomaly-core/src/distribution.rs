//! Tail probabilities on the logarithmic scale.
//!
//! Two-sided tails of the normal and of Student's t distribution, and their inverses, accurate where
//! the probabilities themselves have long underflowed. Everything goes through `libm`, so that the
//! same input gives the same bits on every platform.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

/// The largest deviation there is, reached at ln p ≈ −5e11.
pub const MAX_DEVIATION: f64 = 1e6;

/// ln p of [`MAX_DEVIATION`]: what an infinite value is given.
pub const MIN_LN_P: f64 = -500_000_000_014.041_3;

const LN_PI: f64 = 1.144_729_885_849_400_2;

/// ln erfc(x) for x ≥ 0.
fn ln_erfc(x: f64) -> f64 {
    if x < 0.5 {
        libm::log1p(-libm::erf(x))
    } else if x < 20.0 {
        libm::log(libm::erfc(x))
    } else {
        // Abramowitz & Stegun 7.1.23; at x = 20 the first term left out is 6e-17.
        let y = 1.0 / (2.0 * x * x);
        let series = y * (-1.0 + y * (3.0 + y * (-15.0 + y * (105.0 - y * 945.0))));
        -x * x - libm::log(x) - 0.5 * LN_PI + libm::log1p(series)
    }
}

const LN_2_OVER_PI: f64 = -0.451_582_705_289_454_9;

/// The step of Halley's method from value, slope and curvature; Newton's where Halley's would turn
/// around.
fn halley(value: f64, slope: f64, curvature: f64) -> f64 {
    let newton = value / slope;
    let correction = 1.0 - 0.5 * newton * curvature / slope;
    if correction > 0.2 { newton / correction } else { newton }
}

/// The 95 % score interval of a share (Wilson 1927): between 0 and 1 whatever the counts, unlike the
/// normal interval. `None` of no trials.
pub fn wilson_interval(successes: u64, trials: u64) -> Option<(f64, f64)> {
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return None;
    }
    let n = trials as f64;
    let share = successes.min(trials) as f64 / n;
    let scale = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * libm::sqrt(share * (1.0 - share) / n + Z * Z / (4.0 * n * n));
    Some(((centre - half).max(0.0), (centre + half).min(1.0)))
}

/// ln of the two-sided normal tail: ln P(|Z| ≥ |z|). NaN gives NaN.
pub fn ln_p_normal_two_sided(z: f64) -> f64 {
    ln_erfc(z.abs() * FRAC_1_SQRT_2)
}

/// The two-sided normal quantile: the z ≥ 0 with P(|Z| ≥ z) = p, from ln p.
///
/// 0 for ln p ≥ 0, at most [`MAX_DEVIATION`]; NaN gives NaN. Relative error below 1e-13.
pub fn deviation_from_ln_p(ln_p: f64) -> f64 {
    if ln_p.is_nan() {
        return f64::NAN;
    }
    if ln_p >= 0.0 {
        return 0.0;
    }
    if ln_p <= MIN_LN_P {
        return MAX_DEVIATION;
    }
    // p ≤ exp(−z²/2) bounds z from above, and p ≈ exp(−z²/2)·√(2/π)/z estimates it in the tail.
    let mut z = libm::sqrt(-2.0 * ln_p);
    if z > 2.0 {
        z = libm::sqrt(z * z - libm::log(0.5 * PI * z * z) + 2.0 / (z * z));
    }
    // Halley's method on the concave, decreasing ln p: cubic, so that a step below 1e-6 leaves an
    // error below rounding.
    for _ in 0..60 {
        let excess = ln_p_normal_two_sided(z) - ln_p;
        // −d/dz ln p = √(2/π) exp(−z²/2) / p
        let hazard = libm::exp(0.5 * LN_2_OVER_PI - 0.5 * z * z - excess - ln_p);
        let step = halley(excess, -hazard, -hazard * (hazard - z));
        z = (z - step).max(0.0);
        if step.abs() <= 1e-6 * z {
            break;
        }
    }
    z.min(MAX_DEVIATION)
}

/// ln Γ(a + ½) − ln Γ(a), a > 0, without the cancellation of the two large logarithms.
fn ln_gamma_half_ratio(a: f64) -> f64 {
    if a < 20.0 {
        return libm::lgamma(a + 0.5) - libm::lgamma(a);
    }
    // Asymptotic series of Γ(a+½)/Γ(a); the first term left out is 1e-14 at a = 20.
    let y = 1.0 / a;
    let y2 = y * y;
    0.5 * libm::log(a)
        - y * (1.0 / 8.0 - y2 * (1.0 / 192.0 - y2 * (1.0 / 640.0 - y2 * 17.0 / 14336.0)))
}

/// The continued fraction of the incomplete beta function, by the modified Lentz method
/// (Press et al., Numerical Recipes, §6.4). Needs of the order of √max(a, b) terms.
fn beta_continued_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut c = 1.0;
    let mut d = 1.0 - (a + b) * x / (a + 1.0);
    if d.abs() < TINY {
        d = TINY;
    }
    d = 1.0 / d;
    let mut h = d;
    for m in 1..200_000u32 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 + even * d;
        if d.abs() < TINY {
            d = TINY;
        }
        c = 1.0 + even / c;
        if c.abs() < TINY {
            c = TINY;
        }
        d = 1.0 / d;
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 + odd * d;
        if d.abs() < TINY {
            d = TINY;
        }
        c = 1.0 + odd / c;
        if c.abs() < TINY {
            c = TINY;
        }
        d = 1.0 / d;
        let delta = d * c;
        h *= delta;
        if (delta - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

/// ln of the two-sided tail of Student's t: ln P(|T| ≥ |t|) with `dof` > 0 degrees of freedom
/// (infinite: the normal distribution). NaN in, NaN out; finite for every finite t.
///
/// Relative error below 1e-12 up to 1e7 degrees of freedom, below 1e-9 beyond.
///
/// p is the regularised incomplete beta function I_x(dof/2, ½) at x = dof/(dof + t²).
pub fn ln_p_student_t_two_sided(t: f64, dof: f64) -> f64 {
    let t = t.abs();
    if t.is_nan() || dof.is_nan() || dof <= 0.0 {
        return f64::NAN;
    }
    if t == 0.0 {
        return 0.0;
    }
    if dof == f64::INFINITY {
        return ln_p_normal_two_sided(t).max(-f64::MAX);
    }
    let a = 0.5 * dof;
    let (ln_x, ln_1_x, x, one_minus_x) = if t > 1e100 {
        // t² would overflow, and dof / t² is far below the rounding of 1
        (libm::log(dof) - 2.0 * libm::log(t.min(f64::MAX)), 0.0, 0.0, 1.0)
    } else {
        let q = t * t / dof;
        (-libm::log1p(q), libm::log(q) - libm::log1p(q), 1.0 / (1.0 + q), q / (1.0 + q))
    };
    // ln B(a, ½) = ½ ln π − (ln Γ(a+½) − ln Γ(a))
    let ln_front = a * ln_x + 0.5 * ln_1_x - 0.5 * LN_PI + ln_gamma_half_ratio(a);
    if x < (a + 1.0) / (a + 2.5) {
        let ln_p = ln_front - libm::log(a) + libm::log(beta_continued_fraction(a, 0.5, x));
        ln_p.min(0.0)
    } else {
        let q = libm::exp(ln_front + LN_2) * beta_continued_fraction(0.5, a, one_minus_x);
        libm::log1p(-q.min(1.0 - f64::EPSILON))
    }
}

/// The two-sided quantile of Student's t: the t ≥ 0 with P(|T| ≥ t) = exp(`ln_p`). Needs
/// `dof` > 1; at most `f64::MAX`. NaN in, NaN out.
pub fn student_t_quantile_two_sided(ln_p: f64, dof: f64) -> f64 {
    if ln_p.is_nan() || dof.is_nan() || dof <= 1.0 {
        return f64::NAN;
    }
    if ln_p >= 0.0 {
        return 0.0;
    }
    student_t_quantile_from_normal(ln_p, deviation_from_ln_p(ln_p), dof)
}

/// As [`student_t_quantile_two_sided`], for −∞ < `ln_p` < 0 and `dof` > 1, from the normal quantile
/// `z` of the same `ln_p`, which callers keep when only `dof` changes.
pub(crate) fn student_t_quantile_from_normal(ln_p: f64, z: f64, dof: f64) -> f64 {
    if dof == f64::INFINITY {
        return z;
    }
    // Start: Gaver & Kafadar 1984, in ln t. Then Halley's method on ln p as a function of ln t, which
    // is concave and decreasing.
    let exponent = z * z * (dof - 1.0).max(0.5) / ((dof - 0.5) * (dof - 0.5));
    let ln_expm1 = if exponent > 30.0 { exponent } else { libm::log(libm::expm1(exponent)) };
    let mut u = 0.5 * (libm::log(dof) + ln_expm1);
    let ln_max = libm::log(f64::MAX);
    let ln_norm = ln_gamma_half_ratio(0.5 * dof) - 0.5 * (libm::log(dof) + LN_PI) + LN_2;
    for _ in 0..60 {
        u = u.min(ln_max);
        let t = libm::exp(u).min(f64::MAX);
        let g = ln_p_student_t_two_sided(t, dof);
        let ln_1_q = if t > 1e100 { 2.0 * u - libm::log(dof) } else { libm::log1p(t * t / dof) };
        let hazard = libm::exp(u + ln_norm - 0.5 * (dof + 1.0) * ln_1_q - g);
        let q = if t > 1e100 { 1.0 } else { t * t / (dof + t * t) };
        let step = halley(g - ln_p, -hazard, -hazard * (hazard + 1.0 - (dof + 1.0) * q));
        u -= step;
        if step.abs() < 1e-5 || u >= ln_max {
            break;
        }
    }
    if u >= ln_max { f64::MAX } else { libm::exp(u) }
}

#[cfg(test)]
#[allow(clippy::excessive_precision, clippy::unreadable_literal)] // as the reference program prints them
mod tests {
    use super::*;

    fn close(value: f64, expected: f64, tolerance: f64) {
        let error = (value - expected).abs() / expected.abs();
        assert!(error <= tolerance, "{value:e} instead of {expected:e}, off by {error:e}");
    }

    /// mpmath 1.4.1 with 40 digits: numerical integration of the density (not of the incomplete
    /// beta function that the implementation uses); the entries past t = 1e3 by `betainc`.
    const STUDENT_T: [(f64, f64, f64); 14] = [
        (1e-8, 7.0, -7.6998290462890302e-9),
        (0.5, 3.0, -0.42855775537192233),
        (1.7, 1e6, -2.4176454280495189),
        (2.0, 5.0, -2.2833759866018668),
        (3.0, 99.0, -5.6794290644922145),
        (4.5, 12.5, -7.327313930790136),
        (6.0, 1e9, -20.043621427618984),
        (10.0, 4.0, -7.4840022619774959),
        (40.0, 500.0, -361.96938141481058),
        (50.0, 199.0, -262.26531330844569),
        (447.0, 1e7, -98925.826616323431),
        (1e3, 2.5, -16.905664992002956),
        (1e20, 3.0, -137.36423496003820),
        (1e200, 2.5, -1150.9288208610177),
    ];

    #[test]
    fn wilson_intervals_are_those_of_statsmodels() {
        // statsmodels 0.14: proportion_confint(k, n, method="wilson")
        for (k, n, low, high) in [
            (8, 10, 0.490_162_471_536_641_8, 0.943_317_848_545_624_7),
            (0, 10, 0.0, 0.277_532_799_862_889_3),
            (10, 10, 0.722_467_200_137_110_6, 1.0),
            (1, 1, 0.206_549_314_377_237_4, 1.0),
            (50, 1000, 0.038_130_262_392_748_81, 0.065_313_820_244_250_81),
        ] {
            let (l, h) = wilson_interval(k, n).unwrap();
            assert!((l - low).abs() < 1e-9 && (h - high).abs() < 1e-9, "{k} of {n}: {l} {h}");
        }
        assert_eq!(wilson_interval(0, 0), None);
    }

    #[test]
    fn student_t_against_references() {
        for (t, dof, ln_p) in STUDENT_T {
            let tolerance = if dof > 1e7 { 1e-9 } else { 1e-12 };
            close(ln_p_student_t_two_sided(t, dof), ln_p, tolerance);
            close(ln_p_student_t_two_sided(-t, dof), ln_p, tolerance);
        }
    }

    /// mpmath 1.4.1: roots of ln erfc(z/√2) − ln p, by its asymptotic series past z = 1000.
    const NORMAL: [(f64, f64); 13] = [
        (-1e-12, 1.2533141373148736e-12),
        (-1e-5, 1.2533078707985134e-5),
        (-0.1, 0.11955279186825691),
        (-LN_2, 0.67448975019608174),
        (-3.0789, 1.9953030299523712),
        (-5.914503516444497, 2.9999769958932795),
        (-14.3715, 4.999932282776828),
        (-50.0, 9.7454748649659347),
        (-700.0, 37.313647170039451),
        (-745.0, 38.499944891379201),
        (-1e5, 447.19944364672312),
        (-123456789.0, 15713.483325598701),
        (-4e11, 894427.19098434197),
    ];

    #[test]
    fn deviations_against_references_and_back() {
        for (ln_p, deviation) in NORMAL {
            close(deviation_from_ln_p(ln_p), deviation, 1e-13);
            close(ln_p_normal_two_sided(deviation), ln_p, 1e-12);
        }
        assert_eq!(deviation_from_ln_p(0.0), 0.0);
        assert_eq!(deviation_from_ln_p(-1e300), MAX_DEVIATION);
        assert_eq!(deviation_from_ln_p(f64::NEG_INFINITY), MAX_DEVIATION);
        assert!(deviation_from_ln_p(f64::NAN).is_nan());
        close(ln_p_normal_two_sided(MAX_DEVIATION), MIN_LN_P, 1e-15);
    }

    #[test]
    fn deviations_are_monotone() {
        let mut last = 0.0;
        let mut ln_p = -1e-14;
        while ln_p > -1e12 {
            let deviation = deviation_from_ln_p(ln_p);
            assert!(deviation > last || deviation == MAX_DEVIATION, "at {ln_p}");
            last = deviation;
            ln_p *= 1.01;
        }
    }

    /// SciPy 1.17.1 `t.isf(p / 2, dof)`.
    #[test]
    fn quantiles_against_references() {
        for (p, dof, t) in [
            (0.05, 2.5, 3.574654842003683),
            (0.01, 4.0, 4.604094871349992),
            (1.0 / 1440.0, 7.3, 5.613840521995316),
            (1e-6, 99.0, 5.217164206649465),
            (1e-12, 499.0, 7.319881142527959),
            (0.5, 10.0, 0.6998120613124317),
        ] {
            close(student_t_quantile_two_sided(libm::log(p), dof), t, 1e-11);
        }
    }

    #[test]
    fn quantiles_invert_tails() {
        for dof in [1.5, 2.5, 3.0, 7.7, 30.0, 500.0, 1e5] {
            for ln_p in [-1e-6, -0.01, -0.7, -3.0, -7.3, -27.6, -700.0, -1500.0] {
                let t = student_t_quantile_two_sided(ln_p, dof);
                if t < f64::MAX {
                    close(ln_p_student_t_two_sided(t, dof), ln_p, 1e-9);
                }
            }
        }
        assert_eq!(student_t_quantile_two_sided(-1e5, 2.5), f64::MAX);
        assert_eq!(student_t_quantile_two_sided(0.0, 5.0), 0.0);
        close(student_t_quantile_two_sided(-14.3715, f64::INFINITY), 4.999932282776828, 1e-13);
        assert!(student_t_quantile_two_sided(f64::NAN, 5.0).is_nan());
        assert!(student_t_quantile_two_sided(-1.0, 1.0).is_nan());
    }

    #[test]
    fn tails_are_total_and_monotone() {
        for dof in [1e-3, 0.5, 2.5, 4.0, 100.0, 500.0, 1e7] {
            let mut last = f64::INFINITY;
            let mut t = 1e-12;
            while t < 1e300 {
                let ln_p = ln_p_student_t_two_sided(t, dof);
                assert!(ln_p.is_finite() && ln_p <= last, "{ln_p} after {last} at {t}, dof {dof}");
                last = ln_p;
                t *= 1.07;
            }
        }
        assert_eq!(ln_p_student_t_two_sided(0.0, 5.0), 0.0);
        assert!(ln_p_student_t_two_sided(f64::MAX, 2.5).is_finite());
        assert!(ln_p_student_t_two_sided(f64::NAN, 2.5).is_nan());
        assert!(ln_p_student_t_two_sided(1.0, 0.0).is_nan());
        assert!(ln_p_student_t_two_sided(1.0, f64::NAN).is_nan());
    }
}
