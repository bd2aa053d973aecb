//! Local regression of an equally spaced series with weights (Cleveland, Cleveland, McRae and
//! Terpenning 1990, "STL: A Seasonal-Trend Decomposition Procedure Based on Loess", section 2).

/// How a series is smoothed.
#[derive(Debug, Clone, Copy)]
pub struct Smoother {
    /// How many neighbours take part.
    pub window: usize,
    /// 0 for a local constant, 1 for a local line.
    pub degree: u8,
    /// Fitted at every so many points, linear in between.
    pub jump: usize,
}

impl Smoother {
    /// The fit at position `x` from the values at `from..to`, in units of the index; `None` where all
    /// weights are 0. `work` is overwritten.
    fn at(
        &self,
        y: &[f64],
        weights: Option<&[f64]>,
        x: f64,
        (from, to): (usize, usize),
        work: &mut Vec<f64>,
    ) -> Option<f64> {
        let mut reach = (x - from as f64).max((to - 1) as f64 - x);
        if self.window > y.len() {
            // A window beyond the series flattens the weights within it.
            reach += ((self.window - y.len()) / 2) as f64;
        }
        work.clear();
        let mut total = 0.0;
        for j in from..to {
            let r = (j as f64 - x).abs();
            let mut w = if r > 0.999 * reach {
                0.0
            } else if r <= 0.001 * reach {
                1.0
            } else {
                let u = r / reach;
                let v = 1.0 - u * u * u;
                v * v * v
            };
            if let Some(weights) = weights {
                w *= weights[j];
            }
            total += w;
            work.push(w);
        }
        if total <= 0.0 {
            return None;
        }
        // A constant fit, tilted to a line around the mean of the positions.
        let (mut tilt, mut mean) = (0.0, 0.0);
        if self.degree > 0 && reach > 0.0 {
            mean = work.iter().zip(from..to).map(|(w, j)| w * j as f64).sum::<f64>() / total;
            let spread: f64 =
                work.iter().zip(from..to).map(|(w, j)| w * (j as f64 - mean).powi(2)).sum::<f64>()
                    / total;
            if spread.sqrt() > 0.001 * (y.len() - 1) as f64 {
                tilt = (x - mean) / spread;
            }
        }
        let sum: f64 = work
            .iter()
            .zip(from..to)
            .map(|(w, j)| w * (tilt * (j as f64 - mean) + 1.0) * y[j])
            .sum();
        Some(sum / total)
    }

    /// Smooths a series of finite values. Where every weight in reach is 0, the value itself.
    pub fn smooth(&self, y: &[f64], weights: Option<&[f64]>, out: &mut [f64], work: &mut Vec<f64>) {
        let n = y.len();
        if n < 2 {
            out.copy_from_slice(y);
            return;
        }
        let jump = self.jump.clamp(1, n - 1);
        let half = self.window.div_ceil(2);
        let neighbours = |i: usize| {
            let from = if self.window >= n {
                0
            } else {
                (i + 1).saturating_sub(half).min(n - self.window)
            };
            (from, (from + self.window).min(n))
        };
        let mut previous = 0;
        let mut i = 0;
        loop {
            out[i] = self.at(y, weights, i as f64, neighbours(i), work).unwrap_or(y[i]);
            let step = (out[i] - out[previous]) / (i - previous).max(1) as f64;
            for j in previous + 1..i {
                out[j] = out[previous] + step * (j - previous) as f64;
            }
            if i == n - 1 {
                return;
            }
            previous = i;
            i = (i + jump).min(n - 1);
        }
    }

    /// The fit one step before the first value.
    pub fn before(&self, y: &[f64], weights: Option<&[f64]>, work: &mut Vec<f64>) -> Option<f64> {
        self.at(y, weights, -1.0, (0, self.window.min(y.len())), work)
    }

    /// The fit one step after the last value.
    pub fn after(&self, y: &[f64], weights: Option<&[f64]>, work: &mut Vec<f64>) -> Option<f64> {
        let n = y.len();
        self.at(y, weights, n as f64, (n.saturating_sub(self.window), n), work)
    }
}
