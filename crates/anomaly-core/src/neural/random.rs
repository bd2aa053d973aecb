//! Random numbers that follow from a seed and from what they are for.

use crate::random::{below, mix, unit};

/// What SplitMix64 adds from one number to the next.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64 (Steele, Lea & Flood 2014). Its stream is part of what a seed means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for each purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut random = Random(seed ^ 0x6A09_E667_F3BC_C908);
        let first = random.bits();
        Random(first ^ purpose.wrapping_mul(STEP))
    }

    pub fn bits(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        bits
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Below `n` > 0.
    pub fn below(&mut self, n: usize) -> usize {
        below(self.bits(), n)
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_different_and_spread_evenly() {
        let mut a = Random::new(42, 0);
        let mut b = Random::new(42, 1);
        assert_ne!(a.bits(), b.bits());
        let n = 20_000i32;
        let mean = (0..n).map(|_| a.unit()).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let normals: Vec<f64> = (0..n).map(|_| a.normal()).collect();
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        let mut counts = [0i32; 7];
        (0..n).for_each(|_| counts[b.below(7)] += 1);
        assert!(counts.iter().all(|c| (c - n / 7).abs() < 300), "{counts:?}");
        let mut items: Vec<u32> = (0..100).collect();
        b.shuffle(&mut items);
        assert!(items.iter().enumerate().filter(|(i, v)| *i as u32 == **v).count() < 10);
        items.sort_unstable();
        assert!(items.iter().enumerate().all(|(i, v)| i as u32 == *v));
    }
}
