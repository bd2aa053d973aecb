//! Columns of a table and what trees see of them.
//!
//! A numeric column becomes (x − median) / spread, brought into the range of the training rows, their
//! extremes left out ([`crate::normal_range`]): what lies outside is judged by its distance
//! ([`Column::ln_p_outside`]) and not by the trees, which cannot tell 200 from 15,000. A categorical column becomes a few random orders of its categories,
//! so that a threshold on one of them is a random subset of the categories; −1 for a category among
//! the rare ones that are not told apart, NaN for one never seen.

use crate::Result;
use crate::calibration::{Calibrator, SideTail};
use crate::codec::Reader;
use crate::distribution::MIN_LN_P;
use crate::normal_range::without_extremes;
use crate::random::{mix, unit};

/// Orders of a categorical column's categories.
pub(super) const ORDERS: usize = 4;
/// Categories that are told apart; further ones count as one.
pub(super) const MAX_CATEGORIES: usize = 1024;
/// Standardised values keep sums of products finite.
const MOST: f64 = 1e30;
/// Degrees of freedom that residuals are calibrated with: from a few dozen rows on a median and a
/// MAD are good enough.
const DOF: f64 = 500.0;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub kind: ColumnKind,
    /// Rows of the sample with a value.
    pub present: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum ColumnKind {
    /// No value at all, or only missing ones.
    Empty,
    Constant(f64),
    Numeric(Box<Numeric>),
    Categorical(Categories),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Numeric {
    pub centre: f64,
    pub spread: f64,
    /// The range of the sample, extremes left out.
    pub low: f64,
    pub high: f64,
    /// Below and above the centre.
    pub tails: [SideTail; 2],
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Categories {
    /// The codes told apart, ascending.
    pub codes: Vec<f64>,
    /// Of each code, from 0 for one that all rows have to 1 for one that a single row has.
    pub rarity: Vec<f32>,
    /// Whether there are others.
    pub others: bool,
    /// ln of the chance of a category that was never seen.
    pub ln_p_unseen: f64,
    pub seed: u64,
}

impl Categories {
    /// Places in the random orders, NaN for a category never seen.
    fn places(&self, x: f64) -> [f32; ORDERS] {
        match self.codes.binary_search_by(|c| c.total_cmp(&x)) {
            // The first order is by rarity, so that one cut can part the rare ones from the rest.
            Ok(at) => std::array::from_fn(|i| match i {
                0 => self.rarity[at],
                i => unit(mix(mix(self.seed ^ i as u64) ^ x.to_bits())) as f32,
            }),
            Err(_) if self.others => std::array::from_fn(|i| if i == 0 { 1.0 } else { -1.0 }),
            Err(_) => [f32::NAN; ORDERS],
        }
    }

    fn is_unseen(&self, x: f64) -> bool {
        !self.others && self.codes.binary_search_by(|c| c.total_cmp(&x)).is_err()
    }
}

fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    let (a, b) = (sorted[(n - 1) / 2], sorted[n / 2]);
    0.5 * a + 0.5 * b
}

impl Numeric {
    /// From the finite values of at least two different ones, ascending.
    fn fit(values: &[f64]) -> Numeric {
        let centre = median(values);
        let usual = without_extremes(values, centre);
        let (low, high) = (usual[0], usual[usual.len() - 1]);
        let mut distances: Vec<f64> =
            usual.iter().map(|x| (x - centre).abs().min(f64::MAX)).collect();
        distances.sort_unstable_by(f64::total_cmp);
        let mut spread = 1.4826 * median(&distances);
        if spread <= 1e-9 * distances[distances.len() - 1] {
            // More than half of the values are alike: the mean distance, of normal noise σ·√(2/π).
            let n = distances.len() as f64;
            spread = 1.2533 * distances.iter().map(|d| d / n).sum::<f64>();
        }
        let spread = spread.clamp(f64::MIN_POSITIVE, f64::MAX);
        let mut calibrator = Calibrator::new();
        for x in usual {
            calibrator.learn(residual(*x, centre, spread), DOF);
        }
        calibrator.refresh();
        if usual.len() < values.len() {
            for x in values.iter().filter(|x| **x < low || **x > high) {
                calibrator.learn_anomalous(residual(*x, centre, spread), DOF);
            }
            calibrator.refresh();
        }
        let (below, above) = calibrator.tails();
        Numeric { centre, spread, low, high, tails: [below, above] }
    }

    pub fn standardise(&self, x: f64) -> f32 {
        // clamp keeps NaN
        let z = (x.clamp(self.low, self.high) - self.centre) / self.spread;
        z.clamp(-MOST, MOST) as f32
    }
}

fn residual(x: f64, centre: f64, spread: f64) -> f64 {
    ((x - centre) / spread).clamp(-f64::MAX, f64::MAX)
}

impl Column {
    /// From a column of the sample; NaN and infinities are missing.
    pub fn fit(values: &mut Vec<f64>, categorical: bool, seed: u64) -> Column {
        values.retain(|x| x.is_finite());
        for x in values.iter_mut() {
            // −0 is 0
            *x += 0.0;
        }
        values.sort_unstable_by(f64::total_cmp);
        let present = values.len() as u32;
        let kind = match (values.first(), values.last()) {
            (Some(_), Some(_)) if categorical => Self::categories(values, seed),
            (Some(low), Some(high)) if low < high => {
                ColumnKind::Numeric(Box::new(Numeric::fit(values)))
            }
            (Some(x), _) => ColumnKind::Constant(*x),
            _ => ColumnKind::Empty,
        };
        Column { kind, present }
    }

    fn categories(values: &[f64], seed: u64) -> ColumnKind {
        let mut counts: Vec<(f64, usize)> =
            values.chunk_by(|a, b| a == b).map(|c| (c[0], c.len())).collect();
        let singles = counts.iter().filter(|c| c.1 == 1).count();
        // Good's estimate of the chance of something new (1953), never 0.
        let unseen = (singles as f64 + 1.0) / (values.len() as f64 + 2.0);
        let others = counts.len() > MAX_CATEGORIES;
        if others {
            counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.total_cmp(&b.0)));
            counts.truncate(MAX_CATEGORIES);
            counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        ColumnKind::Categorical(Categories {
            rarity: counts
                .iter()
                .map(|c| {
                    (1.0 - libm::log(c.1 as f64) / libm::log(values.len() as f64 + 1.0)) as f32
                })
                .collect(),
            codes: counts.into_iter().map(|c| c.0).collect(),
            others,
            ln_p_unseen: libm::log(unseen),
            seed,
        })
    }

    /// Values that trees see of it.
    pub fn width(&self) -> usize {
        match self.kind {
            ColumnKind::Empty | ColumnKind::Constant(_) => 0,
            ColumnKind::Numeric(_) => 1,
            ColumnKind::Categorical(_) => ORDERS,
        }
    }

    pub fn push(&self, x: f64, out: &mut Vec<f32>) {
        match &self.kind {
            ColumnKind::Empty | ColumnKind::Constant(_) => {}
            ColumnKind::Numeric(n) => out.push(n.standardise(x)),
            ColumnKind::Categorical(c) => out.extend(c.places(x + 0.0)),
        }
    }

    /// ln of the two-sided p of a value outside the range of the training rows by its distance; 0
    /// for one inside it and for a missing one. Falls with distance, finite.
    pub fn ln_p_outside(&self, x: f64) -> f64 {
        match &self.kind {
            ColumnKind::Numeric(n) if x > n.high || x < n.low => {
                let r = residual(x, n.centre, n.spread);
                n.tails[usize::from(r > 0.0)].ln_p_of_residual(r, DOF).clamp(MIN_LN_P, 0.0)
            }
            // Rank says 1/(n + 1), the distance beyond that a tail like Cauchy's.
            ColumnKind::Constant(c) if x != *c && !x.is_nan() => {
                let far = ((x - c) / c.abs().max(1.0)).abs().min(f64::MAX);
                -libm::log(f64::from(self.present) + 1.0) - libm::log1p(far)
            }
            ColumnKind::Categorical(c) if !x.is_nan() && c.is_unseen(x + 0.0) => c.ln_p_unseen,
            _ => 0.0,
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.present.to_le_bytes());
        match &self.kind {
            ColumnKind::Empty => out.push(0),
            ColumnKind::Constant(c) => {
                out.push(1);
                out.extend_from_slice(&c.to_le_bytes());
            }
            ColumnKind::Numeric(n) => {
                out.push(2);
                for x in [n.centre, n.spread, n.low, n.high] {
                    out.extend_from_slice(&x.to_le_bytes());
                }
                n.tails[0].encode(out);
                n.tails[1].encode(out);
            }
            ColumnKind::Categorical(c) => {
                out.push(3);
                out.push(u8::from(c.others));
                out.extend_from_slice(&c.ln_p_unseen.to_le_bytes());
                out.extend_from_slice(&c.seed.to_le_bytes());
                out.extend_from_slice(&(c.codes.len() as u16).to_le_bytes());
                for code in &c.codes {
                    out.extend_from_slice(&code.to_le_bytes());
                }
                for rarity in &c.rarity {
                    out.extend_from_slice(&rarity.to_le_bytes());
                }
            }
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Column> {
        let present = reader.u32()?;
        let kind = match reader.u8()? {
            0 => ColumnKind::Empty,
            1 => ColumnKind::Constant(reader.finite("constant")?),
            2 => {
                let centre = reader.finite("centre")?;
                let spread = reader.non_negative("spread")?;
                let low = reader.finite("range")?;
                let high = reader.finite("range")?;
                let tails = [SideTail::decode(reader)?, SideTail::decode(reader)?];
                if !(low < high && low <= centre && centre <= high && spread > 0.0) {
                    return Err(reader.corrupted("column without a range"));
                }
                ColumnKind::Numeric(Box::new(Numeric { centre, spread, low, high, tails }))
            }
            3 => {
                let others = match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(reader.corrupted("unknown mark")),
                };
                let ln_p_unseen = reader.finite("chance of a new category")?;
                let seed = reader.u64()?;
                let n = usize::from(reader.u16()?);
                if n == 0 || n > MAX_CATEGORIES || !(MIN_LN_P..0.0).contains(&ln_p_unseen) {
                    return Err(reader.corrupted("categories out of range"));
                }
                let bytes = reader.take(8 * n)?;
                let codes: Vec<f64> =
                    bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
                let ordered = codes.is_sorted_by(|a, b| a.total_cmp(b).is_lt());
                if !ordered || codes.iter().any(|c| !c.is_finite()) {
                    return Err(reader.corrupted("categories out of order"));
                }
                let bytes = reader.take(4 * n)?;
                let rarity: Vec<f32> =
                    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                if !rarity.iter().all(|r| (0.0..=1.0).contains(r)) {
                    return Err(reader.corrupted("rarity out of range"));
                }
                ColumnKind::Categorical(Categories { codes, rarity, others, ln_p_unseen, seed })
            }
            _ => return Err(reader.corrupted("unknown kind of column")),
        };
        Ok(Column { kind, present })
    }
}
