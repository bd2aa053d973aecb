//! Weighted mean and second moment of a moving window, without storing the window.

/// Unit roundoff of `f64`.
const U: f64 = f64::EPSILON / 2.0;

/// Step between the scales on which sums are kept: a power of two, so that rescaling is exact.
const RESCALE: f64 = f64::from_bits((1023 - 600) << 52);
const RESCALE_UP: f64 = f64::from_bits((1023 + 600) << 52);

/// Largest scaled deviation. Its square times 10^18 rows is still finite.
const MAX_DELTA: f64 = 1e145;

/// Scaled deviations below this have squares that underflow.
const MIN_DELTA: f64 = 1e-153;

/// Relative error of the second moment, and error of the mean in standard deviations, that a removal
/// may leave behind. The standard deviation then agrees with a fresh computation to 1e-10.
const TOLERANCE: f64 = 2e-10;

/// Exact sum of two numbers as a rounded sum and its error (Knuth).
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let b_part = s - a;
    (s, (a - (s - b_part)) + (b - b_part))
}

/// Exact product of two numbers as a rounded product and its error (Dekker, Veltkamp).
#[inline]
fn two_prod(a: f64, b: f64) -> (f64, f64) {
    const SPLIT: f64 = 134_217_729.0; // 2^27 + 1
    let p = a * b;
    let halves = |x: f64| {
        let c = SPLIT * x;
        let hi = c - (c - x);
        (hi, x - hi)
    };
    let ((ah, al), (bh, bl)) = (halves(a), halves(b));
    (p, ((ah * bh - p) + ah * bl + al * bh) + al * bl)
}

/// An unevaluated sum of two `f64`: about 106 bits.
#[derive(Debug, Clone, Copy, Default)]
struct Double {
    hi: f64,
    lo: f64,
}

impl Double {
    #[inline(always)]
    fn add(&mut self, x: f64) {
        let (s, e) = two_sum(self.hi, x);
        let lo = self.lo + e;
        self.hi = s + lo;
        self.lo = lo - (self.hi - s);
    }

    #[inline]
    fn times(&mut self, r: f64) {
        let (p, e) = two_prod(self.hi, r);
        let lo = self.lo * r + e;
        self.hi = p + lo;
        self.lo = lo - (self.hi - p);
    }
}

/// Mean and sum of squared deviations of weighted values, by Welford's recurrence (Technometrics 4,
/// 1962; weighted form: West, CACM 22, 1979) with a mean and a sum of twice the usual precision.
///
/// Values can be taken out again. A removal cancels exactly when what leaves dominates what stays, so
/// every step carries a bound of the error made so far; [`Moments::precise`] says when the window has
/// to be recomputed. Because the recurrence follows the mean, values far from zero need no anchor.
///
/// Everything is kept in units of `1 / scale`, a power of two that is lowered when a deviation would
/// overflow: finite input never makes an infinite sum.
#[derive(Debug, Clone)]
pub struct Moments {
    count: u64,
    weight: f64,
    scale: f64,
    mean: Double,
    m2: Double,
    mean_error: f64,
    m2_error: f64,
    tolerance: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Moments {
            count: 0,
            weight: 0.0,
            scale: RESCALE_UP,
            mean: Double::default(),
            m2: Double::default(),
            mean_error: 0.0,
            m2_error: 0.0,
            tolerance: 0.0,
        }
    }
}

impl Moments {
    /// Number of values held.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a finite value with weight 1.
    #[inline]
    pub fn insert(&mut self, x: f64) {
        self.insert_decayed::<false>(x, 1.0);
    }

    /// Multiplies the weight of everything held by `retain` (in `[0, 1]`), then adds `x` with weight 1.
    #[inline]
    pub fn decay_and_insert(&mut self, x: f64, retain: f64) {
        self.insert_decayed::<true>(x, retain);
    }

    #[inline(always)]
    fn insert_decayed<const DECAY: bool>(&mut self, x: f64, retain: f64) {
        if self.count == 0 {
            return self.start(x);
        }
        let mut scaled = x * self.scale;
        let mut delta = (scaled - self.mean.hi) - self.mean.lo;
        // NaN is inf − inf: two values too far apart for this scale.
        while (delta.abs() > MAX_DELTA || delta.is_nan()) && self.scale > RESCALE {
            self.lower_scale();
            scaled = x * self.scale;
            delta = (scaled - self.mean.hi) - self.mean.lo;
        }
        self.count += 1;
        let kept = self.weight * retain;
        self.weight = if DECAY { kept + 1.0 } else { self.count as f64 };
        let share = 1.0 / self.weight;
        let step = delta * share;
        let term = if DECAY {
            let rest = delta * (kept / self.weight);
            if retain < 0.5 {
                // The mean is nearer to the new value than to the old mean.
                self.mean = Double { hi: scaled, lo: 0.0 };
                self.mean.add(-rest);
            } else {
                self.mean.add(step);
            }
            self.m2.times(retain);
            self.m2_error *= retain;
            delta * rest
        } else {
            self.mean.add(step);
            delta * ((scaled - self.mean.hi) - self.mean.lo)
        };
        self.m2.add(term);
        self.mean_error =
            self.mean_error * (1.0 - share) + 3.0 * U * step.abs() + U * self.mean.lo.abs();
        self.account(delta, term);
    }

    /// Takes out a value that was inserted with [`Self::insert`].
    #[inline]
    pub fn remove(&mut self, x: f64) {
        self.remove_weighted(x, 1.0, 0.0);
    }

    /// Takes out a value of which `weight` is left, known to a relative error of `weight_error`.
    #[inline(always)]
    pub fn remove_weighted(&mut self, x: f64, weight: f64, weight_error: f64) {
        if self.count <= 1 {
            *self = Moments::default();
            return;
        }
        if self.tolerance == 0.0 {
            // The first removal since the window was built. If building alone cost this much, building
            // it again would not help.
            self.tolerance = TOLERANCE.max(4.0 * self.relative_error());
        }
        self.count -= 1;
        let scaled = x * self.scale;
        let delta = (scaled - self.mean.hi) - self.mean.lo;
        let left = self.weight - weight;
        let ratio = weight / left;
        let step = delta * ratio;
        self.weight = left;
        self.mean.add(-step);
        let rest = (scaled - self.mean.hi) - self.mean.lo;
        let term = weight * delta * rest;
        self.m2.add(-term);
        self.mean_error = self.mean_error * (1.0 + ratio)
            + (3.0 * U + weight_error) * step.abs()
            + U * self.mean.lo.abs();
        self.m2_error += weight_error * term.abs();
        self.account(delta, term);
    }

    /// Replaces the sum of weights, which the caller may know in closed form.
    #[inline]
    pub fn set_weight(&mut self, weight: f64) {
        self.weight = weight;
    }

    #[inline(always)]
    fn account(&mut self, delta: f64, term: f64) {
        self.m2_error +=
            4.0 * U * term.abs() + U * self.m2.lo.abs() + 2.0 * self.mean_error * delta.abs();
        if delta.abs() < MIN_DELTA && delta != 0.0 {
            self.m2_error += f64::MIN_POSITIVE;
        }
    }

    /// Relative error of the second moment or error of the mean in standard deviations, whichever is
    /// larger; NaN or infinite where nothing is known any more.
    fn relative_error(&self) -> f64 {
        if self.m2_error == 0.0 && self.mean_error == 0.0 {
            return 0.0;
        }
        let m2 = self.m2.hi;
        (self.m2_error / m2).max(self.mean_error / (m2 / self.weight).sqrt())
    }

    /// Whether removals have left enough precision.
    #[inline]
    pub fn precise(&self) -> bool {
        let m2 = self.m2.hi;
        let t = self.tolerance;
        m2 >= 0.0
            && self.m2_error <= t * m2
            && self.mean_error * self.mean_error * self.weight <= t * t * m2
    }

    #[cold]
    fn start(&mut self, x: f64) {
        *self = Moments::default();
        while (x * self.scale).abs() > 1e300 && self.scale > RESCALE {
            self.scale *= RESCALE;
        }
        self.count = 1;
        self.weight = 1.0;
        self.mean.hi = x * self.scale;
    }

    #[cold]
    fn lower_scale(&mut self) {
        self.scale *= RESCALE;
        self.mean.hi *= RESCALE;
        self.mean.lo *= RESCALE;
        self.m2.hi *= RESCALE * RESCALE;
        self.m2.lo *= RESCALE * RESCALE;
        // What falls below the smallest number is lost.
        self.mean_error = self.mean_error * RESCALE + f64::MIN_POSITIVE;
        self.m2_error = self.m2_error * RESCALE * RESCALE + f64::MIN_POSITIVE;
    }

    /// `(x − mean) / sd` with `sd² = factor · Σw(x−mean)² / Σw`; `factor` 1 gives the population's
    /// standard deviation. A zero spread gives 0 at the mean and ±∞ elsewhere; a quotient beyond the
    /// range of `f64` is ±∞.
    #[inline]
    pub fn standardize(&self, x: f64, factor: f64) -> f64 {
        let mut delta = (x * self.scale - self.mean.hi) - self.mean.lo;
        let variance = factor * (self.m2.hi / self.weight);
        let mut sd = if variance > 0.0 { variance.sqrt() } else { 0.0 };
        if !delta.is_finite() {
            // Only the tested value is out of scale: halve everything twice.
            let scale = self.scale * RESCALE;
            delta = (x * scale - self.mean.hi * RESCALE) - self.mean.lo * RESCALE;
            if !delta.is_finite() {
                let again = RESCALE * RESCALE;
                delta = (x * (scale * RESCALE) - self.mean.hi * again) - self.mean.lo * again;
                sd *= RESCALE;
            }
            sd *= RESCALE;
        }
        ratio_or_infinity(delta, sd)
    }

    /// Mean and population standard deviation; either may overflow to ±∞ only if it is not
    /// representable.
    pub fn mean_and_sd(&self) -> (f64, f64) {
        let unscale = 1.0 / self.scale;
        (
            (self.mean.hi + self.mean.lo) * unscale,
            (self.m2.hi / self.weight).max(0.0).sqrt() * unscale,
        )
    }
}

/// `numerator / denominator` for a denominator that is not negative: 0/0 is 0, x/0 is ±∞.
#[inline(always)]
pub(super) fn ratio_or_infinity(numerator: f64, denominator: f64) -> f64 {
    if numerator == 0.0 { 0.0 } else { numerator / denominator }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_prod_is_exact_on_a_known_case() {
        // (2^27 + 1)^2 = 2^54 + 2^28 + 1 needs 55 bits.
        let x = 134_217_729.0;
        assert_eq!(two_prod(x, x), (18_014_398_777_917_440.0, 1.0));
    }

    #[test]
    fn insert_then_remove_restores_the_moments() {
        let mut m = Moments::default();
        for x in [1.0, 2.0, 4.0, 8.0] {
            m.insert(x);
        }
        m.remove(1.0);
        assert!(m.precise());
        // numpy: np.mean([2,4,8]), np.std([2,4,8])
        let (mean, sd) = m.mean_and_sd();
        assert!((mean - 4.666666666666667).abs() < 1e-14, "{mean}");
        assert!((sd - 2.494438257849294).abs() < 1e-14, "{sd}");
    }

    #[test]
    fn an_outlier_that_left_asks_for_recomputation() {
        let mut m = Moments::default();
        m.insert(1e15);
        for i in 0..50 {
            m.insert(1.0 + f64::from(i % 7) / 7.0);
        }
        m.remove(1e15);
        assert!(!m.precise());
    }

    #[test]
    fn a_constant_window_after_a_spike_asks_for_recomputation() {
        let mut m = Moments::default();
        m.insert(0.1);
        for _ in 0..9 {
            m.insert(7.3);
        }
        m.remove(0.1);
        assert!(!m.precise());
    }

    #[test]
    fn a_constant_window_is_exact() {
        let mut m = Moments::default();
        for _ in 0..1000 {
            m.insert(0.1);
        }
        m.remove(0.1);
        assert!(m.precise());
        assert_eq!(m.standardize(0.1, 1.0), 0.0);
        assert_eq!(m.standardize(0.1 + 1e-16, 1.0), f64::INFINITY);
        assert_eq!(m.standardize(-1e308, 1.0), f64::NEG_INFINITY);
    }

    #[test]
    fn fault_i3_sums_that_overflow_stay_finite() {
        // numpy on the values divided by 1e300: mean 0, sd 1e8 → z of 1.5e308 is 1.5.
        let mut m = Moments::default();
        for _ in 0..10 {
            m.insert(1e308);
            m.insert(-1e308);
        }
        assert!((m.standardize(1.5e308, 1.0) - 1.5).abs() < 1e-12);
        assert!((m.standardize(-1e308, 1.0) + 1.0).abs() < 1e-12);
        let mut m = Moments::default();
        for x in [5e-324, 1e-323, 1.5e-323] {
            m.insert(x);
        }
        // Units of the smallest denormal: z of 4 against 1, 2, 3.
        assert!((m.standardize(2e-323, 1.0) - 2.449489742783178).abs() < 1e-12);
        // A large row tested against tiny others, and the reverse.
        assert_eq!(m.standardize(1e300, 1.0), f64::INFINITY);
        let mut m = Moments::default();
        m.insert(-1.7e308);
        m.insert(-1.6e308);
        // mean −1.65e308, sd 0.05e308
        assert!((m.standardize(1.7e308, 1.0) - 67.0).abs() < 1e-10);
    }
}
