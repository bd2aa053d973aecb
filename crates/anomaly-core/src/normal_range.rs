//! Which values of a sample its range is made of: extremes among them must not widen it.
//!
//! A forest or a support vector machine cannot tell values beyond its training rows apart, so what
//! lies outside their range is judged by its distance. One 15,000 among values of 100 ± 20 would make
//! everything up to 15,000 lie inside. Extremes are told from a heavy tail by a gap: values on one
//! side of the median, beyond which the next lies at least [`GAP`] times as far out, and further than
//! the tail before the gap explains. That tail is taken for Pareto's, with the index by Hill's
//! estimate (1975) from the values before the gap, the others known to lie beyond them only; it is a
//! heavy one for most noise, so that clean samples keep their range.

/// How many times as far out the next value lies beyond a gap, at least.
const GAP: f64 = 3.0;
/// Share of a side's values that are its tail.
const TAIL: f64 = 0.1;
/// Values in a tail at least; sides with fewer than twice as many have no extremes.
const LEAST_TAIL: usize = 10;
/// Different values in what of a tail lies before a gap, at least: of codes and small counts, which
/// are tied, no tail can be told.
const LEAST_DIFFERENT: usize = 3;
/// Half of a tail at most may be extremes.
const MOST_EXTREMES: f64 = 0.5;
/// Lighter tails are taken for this one, r^−5: that of normal noise two standard deviations out.
const LIGHTEST: f64 = 5.0;
/// The chance that a sample without extremes is found to have some, over all numbers of them.
const CHANCE: f64 = 0.01;

/// How many of the last `distances` (≥ 0, finite, ascending) are extremes.
fn extremes(distances: &[f64]) -> usize {
    let n = distances.len();
    let tail = ((n as f64 * TAIL) as usize).max(LEAST_TAIL);
    if n < 2 * LEAST_TAIL || distances[n - 1 - tail] <= 0.0 {
        return 0;
    }
    // how far each of the tail lies beyond its beginning, as logarithms
    let from = distances[n - 1 - tail];
    let logs: Vec<f64> = distances[n - tail..].iter().map(|d| libm::log(d / from)).collect();
    let most = (tail as f64 * MOST_EXTREMES) as usize;
    let mut sum: f64 = logs.iter().sum();
    let mut found = 0;
    for k in 1..=most {
        let (last, next) = (logs[tail - k - 1], logs[tail - k]);
        sum -= next;
        // of those beyond the gap it is only known that they are
        let hill = (tail - k) as f64 / (sum + k as f64 * last).max(f64::MIN_POSITIVE);
        let among = k as f64;
        let ln_p = -hill.min(LIGHTEST) * among * (next - last);
        let is_gap = next - last >= libm::log(GAP)
            && ln_p < libm::log(CHANCE / (among * (among + 1.0)))
            && logs[..tail - k].chunk_by(|a, b| a == b).count() >= LEAST_DIFFERENT;
        if is_gap {
            found = k;
        }
    }
    found
}

/// The part of `values` (finite, ascending) between the extremes below and above `centre`.
pub(crate) fn without_extremes(values: &[f64], centre: f64) -> &[f64] {
    // halves, so that a difference of huge values is finite
    let far = |x: &f64| (0.5 * x - 0.5 * centre).abs();
    let below: Vec<f64> = values.iter().take_while(|x| **x < centre).map(far).collect();
    let above = values.iter().rev().take_while(|x| **x > centre).map(far);
    let (mut above, mut below): (Vec<f64>, Vec<f64>) = (above.collect(), below);
    below.reverse();
    above.reverse();
    &values[extremes(&below)..values.len() - extremes(&above)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{mix, unit};

    fn normal(seed: u64, n: usize) -> Vec<f64> {
        let at = |i: u64| unit(mix(mix(seed) ^ i));
        let noise = |i: u64| -> f64 { (12 * i..12 * (i + 1)).map(at).sum::<f64>() - 6.0 };
        let mut values: Vec<f64> = (0..n as u64).map(|i| 100.0 + 20.0 * noise(i)).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    fn with(values: &[f64], extremes: &[f64]) -> Vec<f64> {
        let mut all = [values, extremes].concat();
        all.sort_unstable_by(f64::total_cmp);
        all
    }

    #[test]
    fn extremes_are_left_out() {
        for n in [60, 300, 5000] {
            let values = normal(7, n);
            for extremes in [
                &[15_000.0][..],
                &[-4000.0],
                &[1500.0, 15_000.0],
                &[15_000.0, 15_000.0],
                &[f64::MAX, f64::MIN],
            ] {
                let all = with(&values, extremes);
                assert_eq!(without_extremes(&all, 100.0), values, "{n} {extremes:?}");
            }
        }
    }

    /// Normal, uniform, exponential, with tails like r^−3, and small counts.
    #[test]
    fn clean_samples_keep_their_range() {
        let mut cut = [0; 5];
        for seed in 0..200 {
            let uniform: Vec<f64> = (0..1000).map(|i| unit(mix(mix(seed) ^ i))).collect();
            let of = |f: &dyn Fn(&f64) -> f64| {
                let mut values: Vec<f64> = uniform.iter().map(f).collect();
                values.sort_unstable_by(f64::total_cmp);
                values
            };
            let samples = [
                normal(seed, 1000),
                of(&|u| *u),
                of(&|u| -libm::log(1.0 - u)),
                of(&|u| libm::cbrt(1.0 / (1.0 - u))),
                of(&|u| libm::floor(-libm::log(1.0 - u) / 0.7)),
            ];
            for (values, cut) in samples.iter().zip(&mut cut) {
                *cut += usize::from(without_extremes(values, values[500]) != values);
            }
        }
        assert!(cut[0] == 0 && cut[1] == 0 && cut.iter().all(|n| *n <= 4), "{cut:?} of 200");
    }

    #[test]
    fn small_and_constant_samples_stay_whole() {
        for values in [&[][..], &[1.0], &[1.0, 1e300], &[5.0; 100]] {
            assert_eq!(without_extremes(values, 5.0), values);
        }
        let zeros = with(&[0.0; 99], &[1e9]);
        assert_eq!(without_extremes(&zeros, 0.0), zeros);
        // a code that is rare
        let codes: Vec<f64> = (0..150).map(|i| [1.0, 2.0, 2.0, 3.0][i % 4]).collect();
        let codes = with(&codes, &[8.0, 8.0]);
        assert_eq!(without_extremes(&codes, 2.0), codes);
    }
}
