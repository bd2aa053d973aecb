//! What has been seen of a series, in a few bytes: whether it is still what it was, without keeping
//! it.

use crate::point::Point;
use crate::random::mix;

/// Of a value's 52 binary digits the last ones do not count: they depend on the order in which a
/// server adds up the rows of a bucket.
const NOISE_BITS: u64 = 0xfff;

/// A set of points, in whatever order they came, as their number and the sum of a hash of each. Two
/// sets that differ in a point's time, or in its value by more than 1 in 10¹², have the same digest
/// with a probability of 2⁻⁶⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    pub points: u64,
    pub sum: u64,
}

impl Digest {
    pub fn add(&mut self, point: &Point) {
        let rounded = |value: f64| match value {
            // The two zeros are equal, and so are all NaNs; the largest number rounds to no infinity.
            0.0 => 0,
            v if v.is_nan() => u64::MAX,
            f64::INFINITY => u64::MAX - 1,
            f64::NEG_INFINITY => u64::MAX - 2,
            v => v.to_bits().wrapping_add(NOISE_BITS / 2 + 1) & !NOISE_BITS,
        };
        let hash = [point.value, point.trials]
            .iter()
            .chain(point.features)
            .fold(mix(point.at as u64), |hash, value| mix(hash ^ rounded(*value)));
        self.points = self.points.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(points: &[(i64, f64)]) -> Digest {
        let mut digest = Digest::default();
        for (at, value) in points {
            digest.add(&Point::new(*at, *value));
        }
        digest
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let points = [(1, 10.0), (2, 20.0), (2, 20.0), (3, -5.0)];
        let mut other = points;
        other.reverse();
        assert_eq!(digest(&points), digest(&other));
        assert_eq!(digest(&[]), Digest::default());
        for changed in [
            // another time, another value, one less, one of two equal ones, two values swapped
            vec![(1, 10.0), (2, 20.0), (2, 20.0), (4, -5.0)],
            vec![(1, 10.0), (2, 20.0), (2, 20.0), (3, 5.0)],
            vec![(1, 10.0), (2, 20.0), (2, 20.0)],
            vec![(1, 10.0), (2, 20.0), (3, -5.0)],
            vec![(1, 20.0), (2, 10.0), (2, 20.0), (3, -5.0)],
        ] {
            assert_ne!(digest(&points), digest(&changed), "{changed:?}");
        }
    }

    #[test]
    fn rounding_noise_does_not_count() {
        let sum: f64 = (1..=1000).map(|i| 1.0 / f64::from(i)).sum();
        let backwards: f64 = (1..=1000).rev().map(|i| 1.0 / f64::from(i)).sum();
        assert_ne!(sum, backwards);
        assert_eq!(digest(&[(1, sum)]), digest(&[(1, backwards)]));
        assert_ne!(digest(&[(1, sum)]), digest(&[(1, sum * (1.0 + 1e-11))]));
    }

    #[test]
    fn what_is_no_number_counts() {
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, f64::MAX, f64::MIN_POSITIVE];
        for (i, a) in values.iter().enumerate() {
            for b in &values[i + 1..] {
                assert_ne!(digest(&[(1, *a)]), digest(&[(1, *b)]), "{a} {b}");
            }
        }
        assert_eq!(digest(&[(1, 0.0)]), digest(&[(1, -0.0)]));
        assert_eq!(digest(&[(1, f64::NAN)]), digest(&[(1, -f64::NAN)]));
    }

    #[test]
    fn trials_count() {
        let with = |trials| {
            let mut digest = Digest::default();
            digest.add(&Point { trials, ..Point::new(1, 0.5) });
            digest
        };
        assert_ne!(with(10.0), with(20.0));
        assert_eq!(with(f64::NAN), with(f64::NAN));
    }
}
