//! How many false alarms there are among those that are told: the share of false discoveries.
//!
//! A point is an anomaly when its p is below a rate, which bounds how many false alarms there are a day, whatever else
//! happens. It does not bound which share of those that are told is false: where a step of time has 10,000
//! entities and a rate that lets one of them through, one that is told alone is as likely false as not. Benjamini and
//! Yekutieli (2001) bound that share, for tests that depend on each other in whatever way, as entities on the same
//! network do: of `m` tests those are told whose p, the k-th smallest, is at most `share · k / (m · H(m))`.
//!
//! A family is a step of time: all entities at one and the same time. Points of several steps are never compared, so
//! that it does not matter whether they were judged together. Tests whose p is not below the rate count as 1, which is
//! larger than their p: so the bound holds, and only anomalies have to be remembered.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::{Error, Result};

/// Up to here the sum is added up, beyond it the expansion has all digits.
const EXACT: u64 = 1000;
const EULER: f64 = 0.577_215_664_901_532_9;

/// `1 + 1/2 + … + 1/n`.
pub fn harmonic(n: u64) -> f64 {
    if n <= EXACT {
        // the small ones first
        return (1..=n).rev().map(|i| 1.0 / i as f64).sum();
    }
    let n = n as f64;
    libm::log(n) + EULER + 0.5 / n - 1.0 / (12.0 * n * n)
}

/// For the smallest p of `tests` tests, as logarithms: the logarithm of the least share of false discoveries at which
/// each is told (the adjusted p of Benjamini and Yekutieli). NaN is no evidence.
pub fn ln_q(ln_p: &[f64], tests: u64) -> Vec<f64> {
    let tests = tests.max(ln_p.len() as u64).max(1);
    let factor = libm::log(tests as f64) + libm::log(harmonic(tests));
    let evidence: Vec<f64> =
        ln_p.iter().map(|p| if p.is_nan() { 0.0 } else { p.min(0.0) }).collect();
    let mut by_p: Vec<usize> = (0..ln_p.len()).collect();
    by_p.sort_by(|a, b| evidence[*a].total_cmp(&evidence[*b]));
    let mut all = vec![0.0; ln_p.len()];
    let mut least = 0.0f64;
    for (before, place) in by_p.into_iter().enumerate().rev() {
        least = least.min(evidence[place] + factor - libm::log((before + 1) as f64));
        all[place] = least;
    }
    all
}

/// `InvalidParameter` for what is no share.
pub fn check_share(share: f64) -> Result<()> {
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(Error::invalid(
        format!("fdr is {share}"),
        "fdr is the share of false alarms among those that are told, above 0 and below 1: for example 0.1.",
    ))
}

/// The tests of each step of time, and those of them that may be told. `K` names what is told.
#[derive(Debug, Clone)]
pub struct Families<K> {
    tests: HashMap<i64, u64>,
    candidates: HashMap<i64, Vec<(K, f64)>>,
}

impl<K> Default for Families<K> {
    fn default() -> Self {
        Families { tests: HashMap::new(), candidates: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash> Families<K> {
    /// A point at `at` was judged; `found`: it is an anomaly, with this ln p, and to be told as this.
    pub fn judged(&mut self, at: i64, found: Option<(K, f64)>) {
        *self.tests.entry(at).or_default() += 1;
        if let Some(found) = found {
            self.candidates.entry(at).or_default().push(found);
        }
    }

    /// What is told at this share: each of which one point at least passes among those of its time.
    pub fn told(&self, share: f64) -> HashSet<K> {
        let limit = libm::log(share);
        let mut told = HashSet::new();
        for (at, candidates) in &self.candidates {
            let ln_p: Vec<f64> = candidates.iter().map(|(_, ln_p)| *ln_p).collect();
            let tests = self.tests.get(at).copied().unwrap_or_default();
            let passes = candidates.iter().zip(ln_q(&ln_p, tests)).filter(|(_, q)| *q <= limit);
            told.extend(passes.map(|((key, _), _)| *key));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ln(p: &[f64]) -> Vec<f64> {
        p.iter().map(|p| libm::log(*p)).collect()
    }

    #[test]
    fn nothing_one_and_what_is_no_number() {
        assert!(ln_q(&[], 0).is_empty());
        // one test is its own family
        assert!((ln_q(&ln(&[0.03]), 1)[0] - libm::log(0.03)).abs() < 1e-15);
        // fewer tests than there are: as many as there are
        assert_eq!(ln_q(&ln(&[0.03, 0.5]), 1), ln_q(&ln(&[0.03, 0.5]), 2));
        assert_eq!(ln_q(&[f64::NAN, 1.0, f64::INFINITY], 3), [0.0; 3]);
        assert_eq!(ln_q(&[f64::NEG_INFINITY, -1.0], 10_000)[0], f64::NEG_INFINITY);
        for share in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
            assert!(check_share(share).is_err(), "{share}");
        }
        assert!(check_share(0.1).is_ok());
        assert!(Families::<i64>::default().told(0.1).is_empty());
    }

    #[test]
    fn the_expansion_meets_the_sum() {
        let sum = |n: u64| (1..=n).rev().map(|i| 1.0 / i as f64).sum::<f64>();
        for n in [1, 2, EXACT, EXACT + 1, 10_000, 1_000_000] {
            assert!((harmonic(n) - sum(n)).abs() < 1e-12 * sum(n), "{n}");
        }
        assert_eq!(harmonic(0), 0.0);
    }

    /// Numbers of statsmodels: crates/anomaly-core/tests/reference/error_rate.py makes them.
    #[test]
    fn adjusted_p_are_those_of_statsmodels() {
        let reference = include_str!("../tests/reference/error_rate.csv");
        let mut cases = 0;
        for line in reference.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.split(';');
            let tests: u64 = parts.next().unwrap().parse().unwrap();
            let numbers = |text: Option<&str>| -> Vec<f64> {
                text.unwrap().split(' ').map(|n| n.parse().unwrap()).collect()
            };
            let (p, adjusted) = (numbers(parts.next()), numbers(parts.next()));
            for (q, expected) in ln_q(&ln(&p), tests).iter().zip(&adjusted) {
                assert!((libm::exp(*q) - expected).abs() < 1e-12, "{line}: {}", libm::exp(*q));
            }
            cases += 1;
        }
        assert_eq!(cases, 6);
    }

    /// The procedure as the paper has it: the largest k whose p is small enough, and all up to it.
    fn directly(p: &[f64], tests: usize, share: f64) -> Vec<bool> {
        let mut sorted = p.to_vec();
        sorted.resize(tests, 1.0);
        sorted.sort_by(f64::total_cmp);
        let sum: f64 = (1..=tests).map(|i| 1.0 / i as f64).sum();
        let cut = (1..=tests)
            .rfind(|k| sorted[k - 1] <= share * *k as f64 / (tests as f64 * sum))
            .map(|k| sorted[k - 1]);
        p.iter().map(|p| cut.is_some_and(|cut| *p <= cut)).collect()
    }

    proptest! {
        #[test]
        fn those_are_told_that_the_paper_tells(
            exponents in prop::collection::vec(0.0f64..12.0, 1..40), others in 0usize..200, share in 0.01f64..0.5,
        ) {
            let p: Vec<f64> = exponents.iter().map(|e| libm::exp(-e)).collect();
            let tests = p.len() + others;
            let told = ln_q(&ln(&p), tests as u64);
            for (i, expected) in directly(&p, tests, share).into_iter().enumerate() {
                // at the border either is right
                let border = (told[i] - libm::log(share)).abs() < 1e-9;
                prop_assert!(border || (told[i] <= libm::log(share)) == expected);
            }
        }

        /// However the points of several steps come, and whether one family or several take them.
        #[test]
        fn steps_do_not_touch_each_other(
            points in prop::collection::vec((0i64..5, 0u32..30, 0.0f64..20.0), 0..60), cut in 1i64..5,
        ) {
            let take = |points: &mut dyn Iterator<Item = &(i64, u32, f64)>| {
                let mut families = Families::default();
                for (at, key, e) in points {
                    families.judged(*at, (*e > 5.0).then_some((*key, -*e)));
                }
                families.told(0.1)
            };
            let whole = take(&mut points.iter());
            prop_assert_eq!(&whole, &take(&mut points.iter().rev()));
            let mut halves = take(&mut points.iter().filter(|p| p.0 < cut));
            halves.extend(take(&mut points.iter().filter(|p| p.0 >= cut)));
            prop_assert_eq!(whole, halves);
        }
    }

    /// 1,000 tests that lean on a common cause, a tenth of them true: of those told, no more than the share is false,
    /// and most that are far out are found.
    #[test]
    fn the_share_of_false_ones_is_kept_under_dependence() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let mut normal = || {
            libm::sqrt(-2.0 * libm::log(uniform())) * libm::cos(std::f64::consts::TAU * uniform())
        };
        let (mut shares, mut found) = (0.0, 0.0);
        const TIMES: i64 = 200;
        for _ in 0..TIMES {
            let mut families = Families::default();
            let common = normal();
            for i in 0..1000u64 {
                let is_true = i < 100;
                let z = 0.7 * common
                    + libm::sqrt(1.0 - 0.49) * normal()
                    + if is_true { 6.0 } else { 0.0 };
                let ln_p = crate::distribution::ln_p_normal_two_sided(z);
                families.judged(0, (ln_p < libm::log(0.01)).then_some((i, ln_p)));
            }
            let told = families.told(0.1);
            let wrong = told.iter().filter(|i| **i >= 100).count();
            shares += wrong as f64 / told.len().max(1) as f64;
            found += (told.len() - wrong) as f64 / 100.0;
        }
        let (share, found) = (shares / TIMES as f64, found / TIMES as f64);
        println!("{share} of those told are false, {found} of the true ones are told");
        assert!(share <= 0.1, "{share}");
        assert!(found > 0.9, "{found}");
    }
}
