//! A fast Fourier transform with the same bits on every machine: what it finds is stored, and libraries
//! choose their instructions, and with them their rounding, by processor.

/// A transform of a length that is a power of two (Cooley and Tukey 1965, radix 2, in place).
pub struct Fft {
    /// cos and −sin of 2πk/n for k < n/2.
    twiddles: Vec<(f64, f64)>,
    n: usize,
}

impl Fft {
    /// For at least `n` values, rounded up to a power of two.
    pub fn new(n: usize) -> Self {
        let n = n.max(2).next_power_of_two();
        let step = std::f64::consts::TAU / n as f64;
        let twiddles = (0..n / 2)
            .map(|k| {
                let (sin, cos) = libm::sincos(step * k as f64);
                (cos, -sin)
            })
            .collect();
        Fft { twiddles, n }
    }

    pub fn len(&self) -> usize {
        self.n
    }

    /// Σ x_j·e^(−2πi·jk/n) for every k; `re` and `im` have the length [`Fft::len`].
    pub fn transform(&self, re: &mut [f64], im: &mut [f64]) {
        let n = self.n;
        let bits = n.trailing_zeros();
        for i in 0..n {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                re.swap(i, j);
                im.swap(i, j);
            }
        }
        let mut half = 1;
        while half < n {
            let stride = n / (2 * half);
            for (re, im) in re.chunks_exact_mut(2 * half).zip(im.chunks_exact_mut(2 * half)) {
                let (re0, re1) = re.split_at_mut(half);
                let (im0, im1) = im.split_at_mut(half);
                for k in 0..half {
                    let (c, s) = self.twiddles[k * stride];
                    let (a, b) = (re1[k] * c - im1[k] * s, re1[k] * s + im1[k] * c);
                    re1[k] = re0[k] - a;
                    im1[k] = im0[k] - b;
                    re0[k] += a;
                    im0[k] += b;
                }
            }
            half *= 2;
        }
    }

    /// |Σ x_j·e^(−2πi·jk/n)|² of a real series, padded with zeros, for k ≤ n/2.
    pub fn power(&self, x: &[f64]) -> Vec<f64> {
        let mut re = x.to_vec();
        re.resize(self.n, 0.0);
        let mut im = vec![0.0; self.n];
        self.transform(&mut re, &mut im);
        (0..=self.n / 2).map(|k| re[k] * re[k] + im[k] * im[k]).collect()
    }

    /// Σ_j x_j·x_(j+k) for every lag k < n/2 from a spectrum of [`Fft::power`], if the series was no
    /// longer than n/2.
    pub fn autocovariance(&self, power: &[f64]) -> Vec<f64> {
        let n = self.n;
        let mut re: Vec<f64> = (0..n).map(|k| power[k.min(n - k)]).collect();
        let mut im = vec![0.0; n];
        self.transform(&mut re, &mut im);
        re.truncate(n / 2);
        re.iter_mut().for_each(|v| *v /= n as f64);
        re
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_and_autocovariance_are_their_sums() {
        let x: Vec<f64> = (0..13).map(|i| ((i * 7) % 5) as f64 - 1.5).collect();
        let fft = Fft::new(2 * x.len());
        assert_eq!(fft.len(), 32);
        let power = fft.power(&x);
        for (k, p) in power.iter().enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (j, v) in x.iter().enumerate() {
                let angle = std::f64::consts::TAU * (j * k) as f64 / 32.0;
                re += v * angle.cos();
                im -= v * angle.sin();
            }
            assert!((p - (re * re + im * im)).abs() < 1e-10, "{k}: {p}");
        }
        for (lag, c) in fft.autocovariance(&power).iter().enumerate() {
            let sum: f64 = x.iter().zip(x.iter().skip(lag)).map(|(a, b)| a * b).sum();
            assert!((c - sum).abs() < 1e-10, "{lag}: {c} is not {sum}");
        }
    }
}
