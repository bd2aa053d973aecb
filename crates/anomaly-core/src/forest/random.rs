//! The forest's random numbers: xoshiro256++ (Blackman & Vigna 2021), seeded through SplitMix64
//! (Steele, Lea & Flood 2014). The streams are part of what a model's bytes depend on.

use crate::random::{below, mix, unit};

#[derive(Debug, Clone)]
pub(super) struct Random {
    state: [u64; 4],
    spare: Option<f64>,
}

impl Random {
    /// A stream of its own for each pair of numbers.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut z = mix(mix(seed) ^ stream);
        let state = std::array::from_fn(|_| {
            z = mix(z);
            z
        });
        Random { state, spare: None }
    }

    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A whole number below `n` ≥ 1.
    pub fn below(&mut self, n: usize) -> usize {
        below(self.bits(), n)
    }

    /// Standard normal, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (u, v) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let r = u * u + v * v;
            if r > 0.0 && r < 1.0 {
                let f = libm::sqrt(-2.0 * libm::log(r) / r);
                self.spare = Some(v * f);
                return u * f;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xoshiro256++ from 1, 2, 3, 4, as its authors' code gives them.
    #[test]
    fn published_streams() {
        let mut random = Random { state: [1, 2, 3, 4], spare: None };
        let first: [u64; 4] = std::array::from_fn(|_| random.bits());
        assert_eq!(first, [41943041, 58720359, 3588806011781223, 3591011842654386]);
    }

    #[test]
    fn moments() {
        let mut random = Random::new(1, 2);
        let (mut sum, mut squares, mut low) = (0.0, 0.0, 0);
        for _ in 0..100_000 {
            let x = random.normal();
            sum += x;
            squares += x * x;
            low += usize::from(random.below(10) < 3);
        }
        assert!((sum / 1e5).abs() < 0.015 && (squares / 1e5 - 1.0).abs() < 0.02);
        assert!((low as f64 / 1e5 - 0.3).abs() < 0.006);
        assert_ne!(Random::new(1, 2).bits(), Random::new(2, 1).bits());
    }
}
