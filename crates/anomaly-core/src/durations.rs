//! How long the latest detections took, in bounded space.
//!
//! Detections are counted in groups: one scan judges a million points, one call a single one. A group
//! that is still small takes in the next detections, so that few groups are kept whatever comes.

/// Detections that the mean is taken over, at least, once there were so many.
pub const LATEST: u64 = 1000;
/// A group with fewer detections is not complete yet.
const GROUP: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    detections: u64,
    milliseconds: f64,
}

/// The latest detections, the oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durations(Vec<Group>);

impl Durations {
    /// Adds detections that took so long together. No detections, and a time that is none, count for
    /// nothing.
    pub fn add(&mut self, detections: u64, milliseconds: f64) {
        if detections == 0 || !milliseconds.is_finite() || milliseconds < 0.0 {
            return;
        }
        match self.0.last_mut().filter(|last| last.detections < GROUP) {
            Some(last) => {
                last.detections = last.detections.saturating_add(detections);
                last.milliseconds += milliseconds;
            }
            None => self.0.push(Group { detections, milliseconds }),
        }
        // What is left without the oldest group must still be enough.
        let mut total = self.total();
        let mut outdated = 0;
        for group in &self.0 {
            if total - group.detections < LATEST {
                break;
            }
            total -= group.detections;
            outdated += 1;
        }
        self.0.drain(..outdated);
    }

    fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, group| sum.saturating_add(group.detections))
    }

    /// Milliseconds per detection; `None` before the first.
    pub fn mean(&self) -> Option<f64> {
        let total = self.total();
        let time: f64 = self.0.iter().map(|group| group.milliseconds).sum();
        (total > 0).then(|| time / total as f64)
    }

    /// Numbers of detections and milliseconds in turn, as they are stored.
    pub fn to_array(&self) -> Vec<f64> {
        self.0.iter().flat_map(|group| [group.detections as f64, group.milliseconds]).collect()
    }

    /// Reads what [`Durations::to_array`] gave; leaves out pairs that it cannot have given.
    pub fn from_array(numbers: &[f64]) -> Self {
        let mut durations = Durations::default();
        for pair in numbers.chunks_exact(2) {
            let (detections, milliseconds) = (pair[0], pair[1]);
            if (1.0..9e15).contains(&detections) && (0.0..f64::INFINITY).contains(&milliseconds) {
                durations.0.push(Group { detections: detections as u64, milliseconds });
            }
        }
        durations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_mean() {
        let mut none = Durations::default();
        none.add(0, 5.0);
        none.add(3, f64::NAN);
        none.add(3, -1.0);
        none.add(3, f64::INFINITY);
        assert_eq!(none.mean(), None);
        assert_eq!(none.to_array(), Vec::<f64>::new());
    }

    #[test]
    fn check_c12_mean_of_the_last_1000() {
        let mut single = Durations::default();
        for _ in 0..5000 {
            single.add(1, 9.0);
        }
        for _ in 0..LATEST {
            single.add(1, 2.0);
        }
        // Up to one group more than the last thousand.
        let mean = single.mean().unwrap();
        assert!((2.0..=2.0 + 7.0 * 49.0 / 1049.0).contains(&mean), "{mean}");
        for _ in 0..GROUP {
            single.add(1, 2.0);
        }
        assert_eq!(single.mean(), Some(2.0));
        assert!(single.to_array().len() <= 2 * (LATEST / GROUP + 1) as usize);

        // A scan of many points is what the mean is of, until as many have come since.
        let mut scan = single.clone();
        scan.add(1_000_000, 4e6);
        assert_eq!(scan.mean(), Some(4.0));
        scan.add(999, 0.0);
        assert!(scan.mean().unwrap() > 3.9);
        scan.add(1, 0.0);
        assert_eq!(scan.mean(), Some(0.0));
    }

    #[test]
    fn exact_while_there_are_few() {
        let mut few = Durations::default();
        for ms in [1.0, 2.0, 6.0] {
            few.add(1, ms);
        }
        assert_eq!(few.mean(), Some(3.0));
        assert_eq!(Durations::from_array(&few.to_array()), few);
    }

    #[test]
    fn damaged_arrays_are_left_out() {
        let bad = [f64::NAN, 1.0, 0.0, 1.0, -4.0, 1.0, 2.0, f64::INFINITY, 2.0, -1.0, 3.0];
        assert_eq!(Durations::from_array(&bad), Durations::default());
    }
}
