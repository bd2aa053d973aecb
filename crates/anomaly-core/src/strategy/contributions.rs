//! Which columns make a point unusual, by occlusion: what is left of how unusual it is once a column
//! is as usual, and how unusual that column alone makes a usual point. The mean of both is the first
//! and the last term of Shapley's value: columns that are unusual together share, and so do those of
//! which each would do. Any model can be asked so, and distance counts, which leaves of trees and
//! kernels know nothing of.

/// Shares of so many columns, ≥ 0 and 1 in total. `unusual` says how unusual the point is when only
/// the columns marked are as they are and the others as usual. `None` where no column explains it.
pub(super) fn shares(columns: usize, unusual: impl Fn(&[bool]) -> f64) -> Option<Vec<f64>> {
    let (mut actual, mut usual) = (vec![true; columns], vec![false; columns]);
    let (most, least) = (unusual(&actual), unusual(&usual));
    let mut amounts = Vec::with_capacity(columns);
    for c in 0..columns {
        (actual[c], usual[c]) = (false, true);
        let (without, alone) = (unusual(&actual), unusual(&usual));
        (actual[c], usual[c]) = (true, false);
        amounts.push((most - without).max(0.0) + (alone - least).max(0.0));
    }
    let sum: f64 = amounts.iter().sum();
    if !(sum > 0.0 && sum.is_finite()) {
        return None;
    }
    amounts.iter_mut().for_each(|a| *a /= sum);
    Some(amounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_one_of_two_and_of_none() {
        let sum = |weights: [f64; 3]| {
            shares(3, |on| on.iter().zip(weights).map(|(on, w)| if *on { w } else { 0.0 }).sum())
        };
        assert_eq!(sum([0.0, 7.0, 0.0]), Some(vec![0.0, 1.0, 0.0]));
        assert_eq!(sum([1.0, 0.0, 3.0]), Some(vec![0.25, 0.0, 0.75]));
        assert_eq!(sum([0.0; 3]), None);
        // each would do, and only both together
        assert_eq!(shares(3, |on| f64::from(on[0] || on[1])), Some(vec![0.5, 0.5, 0.0]));
        assert_eq!(shares(3, |on| f64::from(on[0] && on[1])), Some(vec![0.5, 0.5, 0.0]));
        // what makes a point more usual contributes nothing
        assert_eq!(sum([4.0, -2.0, 0.0]), Some(vec![1.0, 0.0, 0.0]));
    }
}
