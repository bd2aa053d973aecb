//! How many rows per time bucket are usual, and which buckets are not.
//!
//! A bucket is judged against all others. Their usual count μ is a winsorised mean: counts farther than
//! three robust standard deviations from their median are drawn in to that distance, so that neither
//! an outage nor a burst among the others moves it much. Counts vary at least as a Poisson
//! variable does and often more, so their variance is taken as μ + α·μ² with α ≥ 0 from the
//! winsorised counts (negative binomial; Poisson at α = 0). The deviation is the signed root of the
//! deviance of that distribution, a nearly normal quantity at counts from about 1 (McCullagh and Nelder,
//! Generalized Linear Models, 1989), with the usual correction of one half for continuity.

use std::collections::HashMap;

use crate::progress::Progress;
use crate::{Error, Result};

/// A bucket is unusual from this many standard deviations.
pub const THRESHOLD: f64 = 3.0;
/// Fewer other buckets than this say nothing about what is usual.
pub const MIN_OTHERS: usize = 3;
/// More buckets are an error: the judgement of each needs all the others.
pub const MAX_BUCKETS: usize = 10_000;

/// What is usual for one bucket, and how far it is from that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Usual number of rows.
    pub expected: f64,
    /// Counts below this are unusual; 0 when even an empty bucket is not.
    pub lower: f64,
    /// Counts above this are unusual.
    pub upper: f64,
    /// Signed distance from usual in standard deviations of a normal variable.
    pub deviation: f64,
    /// Whether the count is outside [lower, upper].
    pub is_anomaly: bool,
}

/// Judges each count against the others; `None` where there are fewer than three others.
pub fn judge(counts: &[u64], progress: &mut dyn Progress) -> Result<Vec<Option<Judgement>>> {
    if counts.len() > MAX_BUCKETS {
        return Err(Error::TooLarge(format!(
            "{} buckets are more than {MAX_BUCKETS}",
            counts.len()
        )));
    }
    let mut sorted: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
    sorted.sort_by(f64::total_cmp);
    // Equal counts have equal others.
    let mut known: HashMap<u64, Option<Judgement>> = HashMap::new();
    let mut judgements = Vec::with_capacity(counts.len());
    for count in counts {
        let judgement = match known.get(count) {
            Some(judgement) => *judgement,
            None => {
                progress.tick()?;
                let judgement = judge_one(*count, &sorted);
                known.insert(*count, judgement);
                judgement
            }
        };
        judgements.push(judgement);
    }
    Ok(judgements)
}

fn judge_one(count: u64, sorted: &[f64]) -> Option<Judgement> {
    let x = count as f64;
    let mut others = sorted.to_vec();
    others.remove(sorted.partition_point(|c| *c < x));
    if others.len() < MIN_OTHERS {
        return None;
    }
    let usual = Usual::of(&others);
    let deviation = usual.deviation(x);
    let (lower, upper) = (usual.lower(), usual.upper());
    Some(Judgement {
        expected: usual.mean,
        lower,
        upper,
        deviation,
        is_anomaly: deviation.abs() >= THRESHOLD,
    })
}

struct Usual {
    mean: f64,
    /// Mean used for the spread: never zero.
    rate: f64,
    /// Variance beyond Poisson, relative to the squared mean.
    alpha: f64,
}

impl Usual {
    /// Of at least one count, ascending.
    fn of(sorted: &[f64]) -> Usual {
        let n = sorted.len() as f64;
        let median = middle(sorted);
        let mut distances: Vec<f64> = sorted.iter().map(|c| (c - median).abs()).collect();
        distances.sort_by(f64::total_cmp);
        // 1.4826: the MAD of a normal variable is its standard deviation / 1.4826.
        let spread = (1.4826 * middle(&distances)).max(median.max(1.0).sqrt());
        let (low, high) = (median - 3.0 * spread, median + 3.0 * spread);
        let mean = sorted.iter().map(|c| c.clamp(low, high)).sum::<f64>() / n;
        let squares: f64 = sorted.iter().map(|c| (c.clamp(low, high) - mean).powi(2)).sum();
        // 1 + 1/n: the mean is itself an estimate.
        let variance = squares / (n - 1.0).max(1.0) * (1.0 + 1.0 / n);
        // Half an event in the time observed keeps the rate above zero.
        let rate = mean.max(0.5 / n);
        Usual { mean, rate, alpha: ((variance - rate) / (rate * rate)).max(0.0) }
    }

    fn deviation(&self, x: f64) -> f64 {
        let distance = x - self.rate;
        if distance.abs() <= 0.5 {
            return 0.0;
        }
        let x = x - 0.5_f64.copysign(distance);
        let apart = x - self.rate;
        // x·ln(x/μ) - (x + r)·ln((x + r)/(μ + r)) with r = 1/α, arranged so that nothing cancels at
        // either end of α; Poisson is the limit of r without bound.
        let half_deviance = if self.alpha < 1e-12 {
            let own = if x > 0.0 { x * (x / self.rate).ln() } else { 0.0 };
            own - apart
        } else {
            let r = 1.0 / self.alpha;
            let (rate, mut own) = (self.rate, 0.0);
            if x > 0.0 {
                own = x * ln_ratio(x * (rate + r), rate * (x + r), r * apart);
            }
            own - r * ln_ratio(x + r, rate + r, apart)
        };
        (2.0 * half_deviance.max(0.0)).sqrt().copysign(distance)
    }

    fn lower(&self) -> f64 {
        if self.deviation(0.0) > -THRESHOLD { 0.0 } else { self.edge(0.0, self.rate).0 }
    }

    fn upper(&self) -> f64 {
        let mut far = self.rate + 1.0;
        while self.deviation(far) < THRESHOLD && far < 1e300 {
            far *= 2.0;
        }
        self.edge(far, self.rate).0
    }

    /// The count at the threshold between one outside and one inside, by bisection.
    fn edge(&self, mut outside: f64, mut inside: f64) -> (f64, f64) {
        for _ in 0..80 {
            let middle = 0.5 * (outside + inside);
            if self.deviation(middle).abs() >= THRESHOLD {
                outside = middle
            } else {
                inside = middle
            }
        }
        (outside, inside)
    }
}

/// ln(a/b) with a - b given: near 1 the difference keeps digits that the ratio has lost, and far
/// below 1 it is the other way round.
fn ln_ratio(a: f64, b: f64, difference: f64) -> f64 {
    if difference.abs() < 0.5 * b { (difference / b).ln_1p() } else { (a / b).ln() }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { 0.5 * (sorted[half - 1] + sorted[half]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{StopAfter, Unbounded};

    fn judged(counts: &[u64]) -> Vec<Option<Judgement>> {
        judge(counts, &mut Unbounded).unwrap()
    }

    fn flagged(counts: &[u64]) -> Vec<usize> {
        let judgements = judged(counts);
        (0..counts.len()).filter(|i| judgements[*i].is_some_and(|j| j.is_anomaly)).collect()
    }

    /// Poisson counts by inversion of a fixed sequence.
    fn poisson(mean: f64, n: usize) -> Vec<u64> {
        let mut seed = 42_u64;
        (0..n)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let u = (seed >> 11) as f64 / (1_u64 << 53) as f64;
                let (mut k, mut p) = (0, (-mean).exp());
                let mut sum = p;
                while sum < u && k < 10_000 {
                    k += 1;
                    p *= mean / k as f64;
                    sum += p;
                }
                k
            })
            .collect()
    }

    #[test]
    fn few_buckets_are_not_judged() {
        assert!(judged(&[]).is_empty());
        assert_eq!(judged(&[5, 5, 500]), vec![None, None, None]);
        assert!(judged(&[5, 5, 5, 500]).iter().all(Option::is_some));
    }

    #[test]
    fn outage_and_burst_stand_out_and_do_not_hide_each_other() {
        let counts = [100, 95, 103, 0, 99, 108, 101, 400, 97, 102, 94, 105];
        assert_eq!(flagged(&counts), vec![3, 7]);
        let quiet = judged(&counts)[0].unwrap();
        assert!((quiet.expected - 100.0).abs() < 6.0, "{quiet:?}");
        assert!(quiet.lower > 50.0 && quiet.upper < 160.0, "{quiet:?}");
    }

    #[test]
    fn fault_i2_constant_counts() {
        assert!(flagged(&[10; 30]).is_empty());
        assert!(flagged(&[0; 30]).is_empty());
        let mut counts = [0; 30];
        counts[4] = 9;
        assert_eq!(flagged(&counts), vec![4]);
        let mut counts = [1000; 30];
        counts[4] = 0;
        assert_eq!(flagged(&counts), vec![4]);
        assert!(judged(&counts)[4].unwrap().deviation.is_finite());
    }

    #[test]
    fn random_counts_rarely_stand_out() {
        for mean in [0.3, 2.0, 20.0, 300.0] {
            let false_alarms = flagged(&poisson(mean, 2000)).len();
            // 0.27 % of a normal variable; counts near zero have a longer upper tail.
            assert!(false_alarms <= 16, "{false_alarms} of 2000 at mean {mean}");
        }
        // Sums of 30 bursts of about 10: variance ten times the mean.
        let bursts: Vec<u64> = poisson(30.0, 2000).iter().map(|c| c * 10).collect();
        assert!(flagged(&bursts).len() <= 16, "{}", flagged(&bursts).len());
    }

    #[test]
    fn deviation_rises_with_the_count_and_agrees_with_the_bounds() {
        for base in [vec![3_u64, 1, 0, 2, 4, 1, 2], vec![100, 140, 60, 90, 110, 101, 99]] {
            let mut last = f64::NEG_INFINITY;
            for count in 0..500 {
                let mut counts = base.clone();
                counts.push(count);
                let j = judged(&counts)[base.len()].unwrap();
                assert!(j.deviation >= last, "{count}: {j:?}");
                last = j.deviation;
                let inside = (count as f64) > j.lower - 1e-9 && (count as f64) < j.upper + 1e-9;
                assert!(inside != j.is_anomaly || (j.lower == 0.0 && count == 0), "{count}: {j:?}");
            }
        }
    }

    #[test]
    fn huge_counts_stay_finite() {
        let far_apart = [1 << 63, 0, 177_021_372_071_936, 15_420_325_124_116_578_304, 1 << 62];
        for counts in [[u64::MAX, u64::MAX, 1, 0, u64::MAX], far_apart] {
            for j in judged(&counts).into_iter().flatten() {
                let figures = [j.expected, j.lower, j.upper, j.deviation];
                assert!(figures.iter().all(|x| x.is_finite()), "{j:?}");
            }
        }
    }

    #[test]
    fn too_many_buckets_and_a_stop_are_errors() {
        assert!(matches!(judge(&[1; 10_001], &mut Unbounded), Err(Error::TooLarge(_))));
        let counts: Vec<u64> = (0..100).collect();
        assert_eq!(judge(&counts, &mut StopAfter(5)), Err(Error::Stopped));
    }
}
