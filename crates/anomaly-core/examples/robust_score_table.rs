//! Makes the table behind `anomaly_score(v)`: `crates/anomaly-core/src/window/robust_table.rs` and the
//! figures in `docs/robust-score.md`.
//!
//! For a frame of `n` other rows drawn from one normal distribution and a tested row from the same,
//! let `r = |x − median| / (1.4826 · MAD)`. Given the frame, `P(r > t)` is a normal probability, so it
//! is averaged over simulated frames instead of counting rare exceedances. The two-sided p-value is
//! modelled as Student's t with `df` degrees of freedom at `r / (median factor · MAD factor)`:
//!
//! * median factor: `sqrt(1 + Var(median))`, because the tested row and the median both vary;
//! * `df` and the MAD factor: chosen so that p is exact at 0.01 and at 0.001.
//!
//! ```text
//! cargo run --release -p anomaly-core --example robust_score_table            # the Rust table
//! cargo run --release -p anomaly-core --example robust_score_table -- 63      # only from 63 others on
//! cargo run --release -p anomaly-core --example robust_score_table -- check   # achieved p-values
//! ```
//!
//! Fixed seed (SplitMix64 per `n`): the same output on every run.

use anomaly_core::window::robust;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) with Marsaglia's polar method.
struct Normal {
    state: u64,
    spare: Option<f64>,
}

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn draw(&mut self) -> f64 {
        if let Some(x) = self.spare.take() {
            return x;
        }
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s < 1.0 && s > 0.0 {
                let f = (-2.0 * libm::log(s) / s).sqrt();
                self.spare = Some(v * f);
                return u * f;
            }
        }
    }
}

fn median(v: &mut [f64]) -> f64 {
    let n = v.len();
    let (below, &mut upper, _) = v.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        upper
    } else {
        (below.iter().copied().fold(f64::NEG_INFINITY, f64::max) + upper) / 2.0
    }
}

/// Median and scaled MAD of simulated frames of `n` rows.
fn frames(n: usize, how_many: usize, seed: u64) -> Vec<(f64, f64)> {
    let mut normal = Normal { state: seed ^ (n as u64) << 32, spare: None };
    let mut v = vec![0.0; n];
    (0..how_many)
        .map(|_| {
            v.fill_with(|| normal.draw());
            let centre = median(&mut v);
            v.iter_mut().for_each(|x| *x = (*x - centre).abs());
            (centre, robust::MAD_TO_SD * median(&mut v))
        })
        .collect()
}

/// P(|x − median| > t · scaled MAD), averaged over the frames.
fn exceedance(frames: &[(f64, f64)], t: f64) -> f64 {
    let half = |z: f64| 0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2);
    let sum: f64 = frames.iter().map(|&(m, s)| half(t * s - m) + half(t * s + m)).sum();
    sum / frames.len() as f64
}

/// The decreasing function's argument at which it takes `target`, by bisection on a log scale.
fn solve(target: f64, mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..36 {
        let mid = (low * high).sqrt();
        if f(mid) > target { low = mid } else { high = mid }
    }
    (low * high).sqrt()
}

fn t_quantile(p: f64, df: f64) -> f64 {
    let t = StudentsT::new(0.0, 1.0, df).expect("df is positive");
    solve(p, 1e-3, 1e6, |x| 2.0 * t.sf(x))
}

/// Degrees of freedom per row as the frame grows: the MAD's efficiency against the standard deviation
/// (Rousseeuw and Croux, JASA 88, 1993).
const DF_SLOPE: f64 = 0.3674;

/// Frames to simulate: p varies less between larger frames.
fn how_many(n: usize) -> usize {
    let rows = if n <= 62 { 40_000_000 } else { 10_000_000 };
    (rows / n).clamp(20_000, 1_000_000)
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("check") {
        println!(
            "| others | p = 0.1 | 0.01 | 0.001 | 0.0001 | 0.00001 |\n|---|---|---|---|---|---|"
        );
        for n in [5, 6, 7, 8, 9, 10, 15, 20, 30, 50, 99, 100, 150, 300, 1000, 5000] {
            let sample = frames(n, how_many(n), 0x5eed_0002);
            print!("| {n} ");
            for p in [0.1, 0.01, 0.001, 0.0001, 0.00001] {
                let t = solve(p, 1e-3, 1e9, |r| robust::p_value(r, n));
                print!("| {:.4} ", exceedance(&sample, t) / p);
            }
            println!("|");
        }
        return;
    }
    println!("// n, median factor, MAD factor, degrees of freedom");
    let first = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(3);
    let mut asymptote = (0.0, 0.0, 0);
    for n in first..=100 {
        let sample = frames(n, how_many(n), 0x5eed_0001);
        let variance = sample.iter().map(|&(m, _)| m * m).sum::<f64>() / sample.len() as f64;
        let median_factor = (1.0 + variance).sqrt();
        let at = |p| solve(p, 0.5, 1e6, |t| exceedance(&sample, t));
        let (r1, r2) = (at(0.01), at(0.001));
        let df = solve(r2 / r1, 0.3, 1e6, |df| t_quantile(0.001, df) / t_quantile(0.01, df));
        let mad_factor = r1 / t_quantile(0.01, df) / median_factor;
        println!("    ({median_factor:.5}, {mad_factor:.5}, {df:.4}), // {n}");
        if n > 40 {
            asymptote.0 += n as f64 * (mad_factor - 1.0);
            asymptote.1 += df - DF_SLOPE * n as f64;
            asymptote.2 += 1;
        }
    }
    let rows = f64::from(asymptote.2);
    println!("mad: {:.3}, df_offset: {:.3}", asymptote.0 / rows, asymptote.1 / rows);
}
