//! A fast Fourier transform with the same bits on every machine: what it finds is stored, and libraries
//! choose their instructions, and with them their rounding, by processor.

use crate::progress::{Progress, Unbounded};

/// Transforms of real series of a length that is a power of two: two values are taken as one complex
/// number, and what that mixes is taken apart again. The complex one is Cooley and Tukey's (1965), radix
/// 2, in place; real and imaginary parts lie apart, which lets compilers use vectors.
pub struct Fft {
    /// cos and −sin of 2πk/n for k < n/2.
    twiddles: (Vec<f64>, Vec<f64>),
    /// The same for the passes of the complex transform, one after the other.
    passes: (Vec<f64>, Vec<f64>),
    n: usize,
}

impl Fft {
    /// For at least `n` values, rounded up to a power of two.
    pub fn new(n: usize) -> Self {
        let n = n.max(4).next_power_of_two();
        let step = std::f64::consts::TAU / n as f64;
        let twiddles: (Vec<f64>, Vec<f64>) = (0..n / 2)
            .map(|k| {
                let (sin, cos) = libm::sincos(step * k as f64);
                (cos, -sin)
            })
            .unzip();
        let of_passes = |all: &[f64]| {
            let mut passes = Vec::with_capacity(n / 2);
            let mut half = 2;
            while half < n / 2 {
                passes.extend(all.iter().step_by(n / 2 / half));
                half *= 2;
            }
            passes
        };
        let passes = (of_passes(&twiddles.0), of_passes(&twiddles.1));
        Fft { twiddles, passes, n }
    }

    pub fn len(&self) -> usize {
        self.n
    }

    /// Σ z_j·e^(−2πi·jk/m) for every k; `re` and `im` have the length m = n/2.
    fn transform(&self, re: &mut [f64], im: &mut [f64]) {
        // Looking for periods is some dozen transforms, and nothing else that takes long.
        let _ = Unbounded.tick();
        let m = re.len();
        let bits = m.trailing_zeros();
        for i in 0..m {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                re.swap(i, j);
                im.swap(i, j);
            }
        }
        // By 1 there is nothing to multiply.
        for part in [&mut *re, &mut *im] {
            for pair in part.as_chunks_mut::<2>().0 {
                *pair = [pair[0] + pair[1], pair[0] - pair[1]];
            }
        }
        let mut half = 2;
        let (mut cos, mut sin) = (self.passes.0.as_slice(), self.passes.1.as_slice());
        while half < m {
            let (c, s) = (&cos[..half], &sin[..half]);
            (cos, sin) = (&cos[half..], &sin[half..]);
            for (re, im) in re.chunks_exact_mut(2 * half).zip(im.chunks_exact_mut(2 * half)) {
                let (re0, re1) = re.split_at_mut(half);
                let (im0, im1) = im.split_at_mut(half);
                let (im0, im1) = (&mut im0[..half], &mut im1[..half]);
                let (re0, re1) = (&mut re0[..half], &mut re1[..half]);
                for k in 0..half {
                    let x = re1[k] * c[k] - im1[k] * s[k];
                    let y = re1[k] * s[k] + im1[k] * c[k];
                    (re1[k], im1[k]) = (re0[k] - x, im0[k] - y);
                    (re0[k], im0[k]) = (re0[k] + x, im0[k] + y);
                }
            }
            half *= 2;
        }
    }

    /// For k from 1 to m/2, from the transform of x_(2j) + i·x_(2j+1): what the even values of x and what
    /// the odd ones add to its transform at k. At m − k it is the conjugate of their difference.
    fn apart(&self, re: &[f64], im: &[f64], mut take: impl FnMut(usize, [f64; 4])) {
        let m = re.len();
        for k in 1..=m / 2 {
            let (a, b) = (k, m - k);
            let (even_re, even_im) = (0.5 * (re[a] + re[b]), 0.5 * (im[a] - im[b]));
            let (odd_re, odd_im) = (0.5 * (im[a] + im[b]), 0.5 * (re[b] - re[a]));
            let (c, s) = (self.twiddles.0[k], self.twiddles.1[k]);
            take(k, [even_re, even_im, odd_re * c - odd_im * s, odd_re * s + odd_im * c]);
        }
    }

    /// |Σ x_j·e^(−2πi·jk/n)|² of a real series, padded with zeros, for k ≤ n/2.
    pub fn power(&self, x: &[f64]) -> Vec<f64> {
        let m = self.n / 2;
        let mut re: Vec<f64> = x.iter().copied().step_by(2).collect();
        let mut im: Vec<f64> = x.iter().copied().skip(1).step_by(2).collect();
        re.resize(m, 0.0);
        im.resize(m, 0.0);
        self.transform(&mut re, &mut im);
        let mut power = vec![0.0; m + 1];
        power[0] = (re[0] + im[0]) * (re[0] + im[0]);
        power[m] = (re[0] - im[0]) * (re[0] - im[0]);
        self.apart(&re, &im, |k, [re0, im0, re1, im1]| {
            power[k] = (re0 + re1) * (re0 + re1) + (im0 + im1) * (im0 + im1);
            power[m - k] = (re0 - re1) * (re0 - re1) + (im0 - im1) * (im0 - im1);
        });
        power
    }

    /// Σ_j x_j·x_(j+k) for every lag k < n/2 from a spectrum of [`Fft::power`], if the series was no
    /// longer than n/2.
    pub fn autocovariance(&self, power: &[f64]) -> Vec<f64> {
        let (n, m) = (self.n, self.n / 2);
        // The spectrum is as long as the series and the same from either end.
        let at = |k: usize| power[k.min(n - k)];
        let mut re: Vec<f64> = (0..m).map(|j| at(2 * j)).collect();
        let mut im: Vec<f64> = (0..m).map(|j| at(2 * j + 1)).collect();
        self.transform(&mut re, &mut im);
        let mut covariance = vec![0.0; m];
        covariance[0] = (re[0] + im[0]) / n as f64;
        self.apart(&re, &im, |k, [re0, _, re1, _]| {
            covariance[k] = (re0 + re1) / n as f64;
            covariance[m - k] = (re0 - re1) / n as f64;
        });
        covariance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_and_autocovariance_are_their_sums() {
        for values in [1, 2, 3, 4, 5, 8, 13, 16, 100] {
            are_their_sums(values);
        }
    }

    fn are_their_sums(values: usize) {
        let x: Vec<f64> = (0..values).map(|i| ((i * 7) % 5) as f64 - 1.5).collect();
        let fft = Fft::new(2 * x.len());
        assert_eq!(fft.len(), (2 * values).next_power_of_two().max(4));
        let power = fft.power(&x);
        assert_eq!(power.len(), fft.len() / 2 + 1);
        for (k, p) in power.iter().enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (j, v) in x.iter().enumerate() {
                let angle = std::f64::consts::TAU * (j * k) as f64 / fft.len() as f64;
                re += v * angle.cos();
                im -= v * angle.sin();
            }
            assert!((p - (re * re + im * im)).abs() < 1e-8, "{values}, {k}: {p}");
        }
        for (lag, c) in fft.autocovariance(&power).iter().enumerate() {
            let sum: f64 = x.iter().zip(x.iter().skip(lag)).map(|(a, b)| a * b).sum();
            assert!((c - sum).abs() < 1e-10, "{values}, {lag}: {c} is not {sum}");
        }
    }
}
