//! How often a member of an ensemble was right, as people have said, and what its vote is worth then.

/// Judgements of one member that somebody has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Performance {
    pub true_positives: u64,
    pub false_positives: u64,
    pub true_negatives: u64,
    pub false_negatives: u64,
}

/// Keeps a share of nothing from being no number.
const LEAST: f64 = 1e-10;
/// A member starts as if it had an F1 like all members together, from judgements worth so many:
/// one that is right counts two, one that is wrong counts one. With fewer, the first judgement
/// of one member would give it all the weight.
const PRIOR: f64 = 10.0;

impl Performance {
    /// Adds judgements.
    pub fn update(&mut self, more: &Performance) {
        self.change(more, u64::saturating_add);
    }

    /// Takes back judgements that were added before.
    pub fn take_back(&mut self, less: &Performance) {
        self.change(less, u64::saturating_sub);
    }

    fn change(&mut self, by: &Performance, change: fn(u64, u64) -> u64) {
        for (count, by) in [
            (&mut self.true_positives, by.true_positives),
            (&mut self.false_positives, by.false_positives),
            (&mut self.true_negatives, by.true_negatives),
            (&mut self.false_negatives, by.false_negatives),
        ] {
            *count = change(*count, by);
        }
    }

    /// The share of its alarms that were right.
    pub fn precision(&self) -> f64 {
        let right = self.true_positives as f64;
        right / (right + self.false_positives as f64 + LEAST)
    }

    /// The share of the anomalies that it found.
    pub fn recall(&self) -> f64 {
        let right = self.true_positives as f64;
        right / (right + self.false_negatives as f64 + LEAST)
    }

    /// The harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        let (precision, recall) = (self.precision(), self.recall());
        2.0 * precision * recall / (precision + recall + LEAST)
    }

    /// What is counted twice or once in F1 = 2·tp / (2·tp + fp + fn).
    fn counted(&self) -> (f64, f64) {
        let right = 2.0 * self.true_positives as f64;
        (right, right + self.false_positives as f64 + self.false_negatives as f64)
    }
}

/// Shares of the members' F1, each shrunk towards the F1 of all of them together (empirical Bayes)
/// times what the member's configured weight is above the mean: without judgements these are the
/// configured weights, with many the shares of F1. The configured weights (of sum 1) where nobody was
/// ever right.
pub(super) fn adapted(weights: &[f64], performance: &[Performance]) -> Vec<f64> {
    let (mut right, mut all) = (0.0, 0.0);
    for p in performance {
        let (r, n) = p.counted();
        (right, all) = (right + r, all + n);
    }
    if right <= 0.0 {
        return weights.to_vec();
    }
    let (together, members) = (right / all, weights.len() as f64);
    let shrunk = weights.iter().zip(performance).map(|(weight, p)| {
        let (right, all) = p.counted();
        (right + PRIOR * together * members * weight) / (all + PRIOR)
    });
    let shrunk: Vec<f64> = shrunk.collect();
    let sum: f64 = shrunk.iter().sum();
    shrunk.iter().map(|f1| f1 / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tp: u64, fp: u64, tn: u64, r#fn: u64) -> Performance {
        Performance {
            true_positives: tp,
            false_positives: fp,
            true_negatives: tn,
            false_negatives: r#fn,
        }
    }

    #[test]
    fn check_c24_counts_are_added_and_figures_are_exact() {
        let mut p = counts(3, 1, 50, 2);
        p.update(&counts(5, 1, 7, 2));
        assert_eq!(p, counts(8, 2, 57, 4));
        p.take_back(&counts(5, 1, 7, 2));
        assert_eq!(p, counts(3, 1, 50, 2));
        p.update(&counts(5, 1, 7, 2));
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        near(p.precision(), 0.8);
        near(p.recall(), 2.0 / 3.0);
        near(p.f1(), 16.0 / 22.0);
        // nothing known: 0, and no division by it
        let none = Performance::default();
        assert_eq!((none.precision(), none.recall(), none.f1()), (0.0, 0.0, 0.0));
        let mut most = counts(u64::MAX, 0, 0, u64::MAX);
        most.update(&counts(1, 0, 0, 1));
        assert_eq!(most, counts(u64::MAX, 0, 0, u64::MAX));
        near(most.f1(), 2.0 / 3.0);
    }

    #[test]
    fn check_c24_weights_are_shares_of_f1() {
        let configured = [0.3, 0.2, 0.5];
        let many =
            [counts(9000, 1000, 0, 1000), counts(0, 9000, 0, 9000), counts(4500, 0, 0, 5500)];
        let weights = adapted(&configured, &many);
        let f1: Vec<f64> = many.iter().map(Performance::f1).collect();
        let sum: f64 = f1.iter().sum();
        for (weight, f1) in weights.iter().zip(&f1) {
            assert!((weight - f1 / sum).abs() < 1e-3, "{weights:?} {f1:?}");
        }
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn check_c24_all_zero_gives_the_configured_weights() {
        let configured = [0.3, 0.2, 0.5];
        for nothing_right in [[counts(0, 0, 0, 0); 3], [counts(0, 7, 9, 3); 3]] {
            assert_eq!(adapted(&configured, &nothing_right), configured);
        }
    }

    #[test]
    fn defect_s19_the_first_judgement_silences_nobody() {
        let configured = [0.3, 0.2, 0.5];
        let none = Performance::default();
        for first in [counts(1, 0, 0, 0), counts(0, 1, 0, 0)] {
            let weights = adapted(&configured, &[first, none, none]);
            for (weight, configured) in weights.iter().zip(configured) {
                assert!((weight / configured - 1.0).abs() < 0.1, "{weights:?}");
            }
        }
        // a member without any among some with many keeps what all of them together deserve
        let seasoned = counts(80, 20, 900, 20);
        let weights = adapted(&configured, &[seasoned, none, seasoned]);
        assert!(weights[1] > 0.15, "{weights:?}");
    }
}
