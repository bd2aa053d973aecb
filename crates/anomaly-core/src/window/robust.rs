//! The p-value of a robust z-score: how unusual a row is, given the median and MAD of `n` others.
//!
//! For normal data `r = |x − median| / (1.4826 · MAD)` is not normal: the median and the MAD of a few
//! values vary, so large `r` are much more frequent than a normal table says. It is modelled as
//! `median factor · MAD factor · |T|` with `T` of Student's t distribution with `df` degrees of freedom.
//! The three numbers per `n` come from a simulation (`examples/robust_score_table.rs`); how well the
//! model holds is in `docs/robust-score.md`.

use super::robust_table::{ASYMPTOTE, FIRST, TABLE};
use statrs::function::beta::checked_beta_reg;

/// `1 / Φ⁻¹(3/4)`: what makes the MAD of normal data estimate its standard deviation.
pub const MAD_TO_SD: f64 = 1.4826;

/// Fewest others for which p-values are given. With fewer, the MAD hangs on one pair of values (1 to 2
/// degrees of freedom), and hardly any distance would be convincing.
pub const MIN_OTHERS: usize = 5;

/// Above this many degrees of freedom the tail is computed from a normal deviate.
const MANY_DF: f64 = 20.0;

/// The correction for one number of others, kept because a moving frame keeps asking for the same.
#[derive(Debug, Clone, Copy)]
pub struct Correction {
    others: usize,
    factor: f64,
    df: f64,
}

impl Default for Correction {
    fn default() -> Self {
        Correction { others: 0, factor: 1.0, df: 1.0 }
    }
}

impl Correction {
    /// The correction for `others ≥` [`MIN_OTHERS`]; fewer are taken as so many.
    pub fn new(others: usize) -> Self {
        let (median_factor, mad_factor, df) = factors(others.max(MIN_OTHERS));
        Correction { others, factor: median_factor * mad_factor, df }
    }

    #[inline]
    pub(super) fn of(&mut self, others: usize) -> &Self {
        if self.others != others {
            *self = Correction::new(others);
        }
        self
    }

    /// Two-sided p-value of `r = |x − median| / (1.4826 · MAD) ≥ 0`.
    #[inline]
    pub fn p_value(&self, r: f64) -> f64 {
        two_sided_t(r / self.factor, self.df)
    }
}

/// Two-sided p-value of `r = |x − median| / (1.4826 · MAD)` against `others` rows.
pub fn p_value(r: f64, others: usize) -> f64 {
    Correction::new(others).p_value(r)
}

/// Median factor, MAD factor and degrees of freedom.
fn factors(n: usize) -> (f64, f64, f64) {
    if let Some(&row) = n.checked_sub(FIRST).and_then(|i| TABLE.get(i)) {
        return row;
    }
    // Beyond the table: the variance of the median tends to π / 2n, the other two to a constant over n
    // and to a line in n; their coefficients are fitted beyond the table, for even and odd n alike.
    let n = n as f64;
    let median_factor = (1.0 + std::f64::consts::FRAC_PI_2 / n).sqrt();
    (median_factor, 1.0 + ASYMPTOTE.mad / n, ASYMPTOTE.df_slope * n + ASYMPTOTE.df_offset)
}

/// `P(|T| > t)` for Student's t with `df` degrees of freedom and `t ≥ 0`.
fn two_sided_t(t: f64, df: f64) -> f64 {
    if t > 1e150 {
        return 0.0; // t² would overflow
    }
    if df <= MANY_DF {
        let x = df / (df + t * t);
        return checked_beta_reg(df / 2.0, 0.5, x).unwrap_or(f64::NAN);
    }
    // Hill, CACM 13 (1970), algorithm 395: a normal deviate with the same tail.
    let a = df - 0.5;
    let b = 48.0 * a * a;
    let y = a * libm::log1p(t * t / df);
    let z = (((((-0.4 * y - 3.3) * y - 24.0) * y - 85.5) / (0.8 * y * y + 100.0 + b) + y + 3.0)
        / b
        + 1.0)
        * y.sqrt();
    libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{AnomalyScoreWindow, MovingScore};

    /// A standard normal deviate by Wichura's AS 241 as in statrs, from SplitMix64.
    fn normals(seed: u64) -> impl FnMut() -> f64 {
        use statrs::distribution::{ContinuousCDF, Normal};
        let normal = Normal::standard();
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let u = (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            normal.inverse_cdf(u)
        }
    }

    fn median(v: &mut [f64]) -> f64 {
        v.sort_by(f64::total_cmp);
        let n = v.len();
        if n % 2 == 1 { v[n / 2] } else { (v[n / 2 - 1] + v[n / 2]) / 2.0 }
    }

    /// `(t, df, 2 * scipy.stats.t.sf(t, df))`, scipy 1.17.1.
    const T_REFERENCE: [(f64, f64, f64); 40] = [
        (0.3, 1.9675, 0.7928984677147457),
        (1.0, 1.9675, 0.42413308525281607),
        (2.5, 1.9675, 0.1316551655006715),
        (4.0, 1.9675, 0.058756594552123634),
        (7.0, 1.9675, 0.020678552853740435),
        (0.3, 2.8336, 0.7848266583609879),
        (1.0, 2.8336, 0.3948931593742632),
        (2.5, 2.8336, 0.09265990286668126),
        (4.0, 2.8336, 0.031122144666938568),
        (7.0, 2.8336, 0.007192515953767568),
        (0.3, 8.3, 0.7715537270080747),
        (1.0, 8.3, 0.3455691784102989),
        (2.5, 8.3, 0.035932930754860405),
        (4.0, 8.3, 0.003664646632037874),
        (7.0, 8.3, 9.424199140434514e-05),
        (0.3, 19.9, 0.7672884436333004),
        (1.0, 19.9, 0.329315831567221),
        (2.5, 19.9, 0.021281774729775455),
        (4.0, 19.9, 0.0007093609695927745),
        (7.0, 19.9, 8.843766370535034e-07),
        (0.3, 20.1, 0.7672577152882342),
        (1.0, 20.1, 0.329197904669458),
        (2.5, 20.1, 0.021185830570409063),
        (4.0, 20.1, 0.0006977738334886336),
        (7.0, 20.1, 8.359918343469203e-07),
        (0.3, 36.0, 0.7659026536659824),
        (1.0, 36.0, 0.3239850262651272),
        (2.5, 36.0, 0.017113829906915394),
        (4.0, 36.0, 0.0003014848356015082),
        (7.0, 36.0, 3.2828019009827386e-08),
        (0.3, 100.5, 0.7647967863920563),
        (1.0, 100.5, 0.319712177630808),
        (2.5, 100.5, 0.014037513382705254),
        (4.0, 100.5, 0.00012116624240919242),
        (7.0, 100.5, 2.929698478640495e-10),
        (0.3, 3674.8, 0.764194123792863),
        (1.0, 3674.8, 0.3173763493406225),
        (2.5, 3674.8, 0.012462586251548355),
        (4.0, 3674.8, 6.458932961607714e-05),
        (7.0, 3674.8, 3.029294955185858e-12),
    ];

    #[test]
    fn two_sided_t_equals_scipy() {
        for (t, df, expected) in T_REFERENCE {
            let found = two_sided_t(t, df);
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "t {t}, df {df}: {found} not {expected}"
            );
        }
        assert_eq!(two_sided_t(0.0, 5.0), 1.0);
        assert_eq!(two_sided_t(0.0, 500.0), 1.0);
        assert_eq!(two_sided_t(f64::INFINITY, 5.0), 0.0);
        assert_eq!(two_sided_t(1e300, 500.0), 0.0);
    }

    #[test]
    fn p_value_falls_with_distance_at_every_size() {
        for others in [5, 6, 20, 54, 55, 60, 61, 100, 10_000, 10_000_000] {
            let c = Correction::new(others);
            let mut before = 1.0 + 1e-12;
            for step in 0..2000 {
                let p = c.p_value(f64::from(step) / 50.0);
                assert!((0.0..=1.0).contains(&p) && p <= before, "{others} {step}: {p} > {before}");
                before = p;
            }
        }
    }

    #[test]
    fn the_table_continues_smoothly() {
        let last = FIRST + TABLE.len() - 1;
        let (m1, s1, d1) = factors(last);
        let (m2, s2, d2) = factors(last + 1);
        assert!((m1 - m2).abs() < 1e-3 && (s1 - s2).abs() < 1e-3 && (d1 - d2).abs() < 1.0);
    }

    /// On independent normal frames P(p ≤ level) = level. Given a frame the tested row's distribution
    /// is known, so its exceedance is computed rather than counted: few frames suffice. The frames are
    /// not those the table was made from.
    #[test]
    fn p_values_are_uniform_on_normal_frames() {
        use statrs::function::erf::erfc;
        for (others, frames) in [
            (5, 60_000),
            (6, 60_000),
            (9, 40_000),
            (10, 40_000),
            (20, 20_000),
            (50, 8000),
            (100, 6000),
            (101, 6000),
            (500, 1500),
        ] {
            let mut normal = normals(0x7e57 + others as u64);
            let mut v = vec![0.0; others];
            let c = Correction::new(others);
            for level in [0.1, 0.01, 0.001] {
                let (mut low, mut high) = (0.0, 1e5);
                for _ in 0..60 {
                    let mid = (low + high) / 2.0;
                    if c.p_value(mid) > level { low = mid } else { high = mid }
                }
                let mut sum = 0.0;
                for _ in 0..frames {
                    v.fill_with(&mut normal);
                    let centre = median(&mut v);
                    v.iter_mut().for_each(|x| *x = (*x - centre).abs());
                    let reach = low * MAD_TO_SD * median(&mut v);
                    let root = std::f64::consts::FRAC_1_SQRT_2;
                    sum += 0.5 * (erfc((reach - centre) * root) + erfc((reach + centre) * root));
                }
                let achieved = sum / f64::from(frames) / level;
                // Two parameters fit two levels; small frames are conservative at the third.
                let tolerance = match level {
                    0.1 if others < 20 => 0.12,
                    0.001 => 0.08,
                    _ => 0.04,
                };
                assert!(
                    (achieved - 1.0).abs() < tolerance,
                    "{others} others, p = {level}: {achieved} times as often"
                );
            }
        }
    }

    /// The whole path: a moving window over independent normal rows.
    #[test]
    fn scores_of_a_normal_stream_exceed_at_their_nominal_rate() {
        let mut normal = normals(77);
        let mut window = AnomalyScoreWindow::default();
        let (width, rows) = (40, 200_000);
        let values: Vec<f64> = (0..rows).map(|_| normal()).collect();
        let mut above = [0u32; 3];
        for (i, &x) in values.iter().enumerate() {
            if i > width {
                assert!(window.pop(Some(values[i - width - 1])));
            }
            window.push(Some(x)).unwrap();
            let score = window.score().unwrap_or(0.0);
            for (count, level) in above.iter_mut().zip([0.9, 0.99, 0.999]) {
                *count += u32::from(score > level);
            }
        }
        // Expected 20000, 2000, 200. Rows share their frames, so the counts vary more than binomially.
        assert!((19_300..20_700).contains(&above[0]), "{above:?}");
        assert!((1800..2200).contains(&above[1]), "{above:?}");
        assert!((140..260).contains(&above[2]), "{above:?}");
    }
}
