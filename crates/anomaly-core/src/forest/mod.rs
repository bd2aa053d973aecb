//! Isolation forests: how few splits part a row from the others.
//!
//! Standard (Liu, Ting and Zhou 2008), extended (Hariri, Kind and Brunner 2019) and guided splits
//! (SCiForest; Liu, Ting and Zhou 2010), scored by depth or by density (Cortes 2021). Missing values
//! follow both branches with the shares of the training rows (Cortes 2019), categories are split by
//! subset, rows have weights (by which they are drawn). [`Sampler`] takes the rows in one pass,
//! [`IsolationForest::train`] grows the trees from its sample.
//!
//! **Score** of a row: 2^(−E\[h\]/c(n)) of Liu et al. for depths, 1/(1 + density) for densities.
//! **ln p**: the share of rows of the sample with a score as high, of each row by the trees that did
//! not see it, with a Pareto tail ([`crate::calibration`]). Forests cannot tell 200 from 15,000 when
//! the sample ends at 150; so a row outside the sample's range, extremes left out, is scored as one on
//! its border, and p is the smaller of the score's and of that of the distance, corrected for the
//! number of columns.
//! So deviation grows with distance for ever, and never falls on the way out.
//!
//! Everything follows from the sample, the options and the seed, to the last bit on every platform.

mod columns;
mod compact;
mod explain;
mod kernel;
mod model;
mod options;
mod random;
pub mod sampler;
mod stored;
mod tree;

use crate::Result;
use crate::calibration::{Calibrator, SideTail};
use crate::distribution::{MAX_DEVIATION, MIN_LN_P, deviation_from_ln_p};
use crate::progress::Progress;
use crate::{Error, verdict::Severity};
use columns::{Column, ColumnKind};
pub(crate) use compact::{
    CompactForest, Grown, MAX_ROWS_PER_TREE as MAX_COMPACT_ROWS, STEPS, on_grid,
};
pub use explain::Explanation;
use kernel::Kernel;
pub(crate) use model::each_kind;
pub use model::{ENSEMBLE, Model};
pub use options::Options;
use random::Random;
pub use sampler::{MAX_FEATURES, Sample, Sampler};
pub use stored::ALGORITHM;
pub use tree::Scoring;
use tree::{Grower, Growth, Tree, mean_depth};

/// Degrees of freedom that scores are calibrated with.
pub(crate) const DOF: f64 = 500.0;

/// A trained forest.
#[derive(Debug, Clone)]
pub struct IsolationForest {
    options: Options,
    columns: Vec<Column>,
    trees: Vec<Tree>,
    /// Rows it was trained for, and rows of the sample.
    seen: u64,
    sampled: u32,
    /// Rows that each tree was grown from.
    rows_per_tree: u32,
    /// The score above which lies the promised share of the sample.
    threshold: f64,
    /// The least depth or density that counts for nothing, and the unit beyond it.
    usual: (f64, f64),
    tail: SideTail,
    /// Normal rows to show beside an unusual one, row by row.
    kept: Vec<f64>,
    kernel: Kernel,
    /// Values that trees see, unpadded.
    width: usize,
    /// c(n) of the trees.
    normal: f64,
}

/// What is said of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// From 0 to 1, higher is more unusual.
    pub score: f64,
    /// Natural logarithm of the chance of a row at least as unusual; finite, ≤ 0.
    pub ln_p: f64,
    /// Whether the score is above the threshold that contamination asked for, or the row so far
    /// outside the sample's range that one in 1/contamination normal rows would not be.
    pub is_anomaly: bool,
}

impl Scored {
    /// How many standard deviations of a normal distribution p is worth, at most 1e6.
    pub fn deviation(&self) -> f64 {
        deviation_from_ln_p(self.ln_p).min(MAX_DEVIATION)
    }

    pub fn severity(&self) -> Severity {
        Severity::from_deviation(self.deviation())
    }

    /// 1 − p, on the scale of all other strategies, and ranked as `deviation`; exactly 1 for p below
    /// 1e-16.
    pub fn anomaly_score(&self) -> f64 {
        -libm::expm1(self.ln_p)
    }
}

/// Buffers for scoring many rows.
#[derive(Debug, Default, Clone)]
pub struct Scratch {
    z: Vec<f32>,
    stack: Vec<(u32, f32)>,
}

/// A forest, and for each row of the sample its mean depth or density by all trees, and by those
/// that did not see it.
struct Trained {
    forest: IsolationForest,
    in_sample: Vec<f64>,
    out_of_sample: Vec<f64>,
}

impl IsolationForest {
    /// Grows a forest. `Data` with fewer than two rows, `Stopped` when `progress` says so.
    pub fn train(
        sample: &Sample,
        options: &Options,
        progress: &mut dyn Progress,
    ) -> Result<IsolationForest> {
        Ok(Self::grow(sample, options, progress)?.forest)
    }

    fn grow(sample: &Sample, options: &Options, progress: &mut dyn Progress) -> Result<Trained> {
        options.check(sample.features)?;
        let n = sample.rows();
        if n < 2 {
            return Err(Error::Data(format!(
                "an isolation forest needs at least 2 rows, there are {n}"
            )));
        }
        let columns = fit_columns(sample, options, progress)?;
        let width: usize = columns.iter().map(Column::width).sum();
        if width >= usize::from(u16::MAX) {
            return Err(Error::TooLarge(format!(
                "trees would see {width} columns, more than {}",
                u16::MAX
            )));
        }
        let mut z = Vec::with_capacity(n * width);
        for i in 0..n {
            if i % 256 == 0 {
                progress.tick()?;
            }
            for (column, x) in columns.iter().zip(sample.row(i)) {
                column.push(if x.is_finite() { *x } else { f64::NAN }, &mut z);
            }
        }
        let groups = groups(&columns);
        let rows_per_tree = options.rows_per_tree(n);
        let growth = Growth {
            guided: options.guided,
            scoring: options.scoring,
            dimensions: options.dimensions,
            tries: options.tries,
            max_depth: options.depth(rows_per_tree),
        };
        let mut grower = Grower::new(growth, &z, width, &groups);
        let mut trees = Vec::with_capacity(options.trees);
        // Sums over all trees and over those that did not see the row.
        let (mut all, mut unseen, mut unseen_by) = (vec![0.0; n], vec![0.0; n], vec![0u32; n]);
        let mut drawn = vec![false; n];
        let mut stack = Vec::new();
        let missing = z.iter().any(|v| v.is_nan());
        for t in 0..options.trees {
            let mut random = Random::new(options.seed, t as u64);
            let rows = draw_rows(&sample.weights, rows_per_tree, &mut random);
            let tree = grower.grow(&rows, &mut random, progress)?;
            drawn.fill(false);
            for row in &rows {
                drawn[*row as usize] = true;
            }
            for i in 0..n {
                if i % 1024 == 0 {
                    progress.tick()?;
                }
                let row = &z[i * width..][..width];
                let value = if missing {
                    tree.value_with_missing(row, &mut stack)
                } else {
                    f64::from(kernel::walk(&tree, row))
                };
                all[i] += value;
                if !drawn[i] {
                    unseen[i] += value;
                    unseen_by[i] += 1;
                }
            }
            trees.push(tree);
        }
        let count = trees.len() as f64;
        let out_of_sample: Vec<f64> = (0..n)
            .map(|i| match unseen_by[i] {
                0 => all[i] / count,
                by => unseen[i] / f64::from(by),
            })
            .collect();
        let (usual, tail) = calibrate(&out_of_sample);
        let kernel = Kernel::new(&trees, width);
        let mut forest = IsolationForest {
            options: options.clone(),
            columns,
            trees,
            seen: sample.seen,
            sampled: n as u32,
            rows_per_tree: rows_per_tree as u32,
            threshold: 0.0,
            usual,
            tail,
            kept: Vec::new(),
            kernel,
            width,
            normal: mean_depth(rows_per_tree as f64),
        };
        all.iter_mut().for_each(|sum| *sum /= count);
        let scores: Vec<f64> = all.iter().map(|value| forest.score_of(*value)).collect();
        forest.threshold = threshold(&scores, options.contamination);
        forest.keep_rows(sample, &scores);
        Ok(Trained { forest, in_sample: all, out_of_sample })
    }

    pub fn features(&self) -> usize {
        self.columns.len()
    }

    /// Rows that the sample was drawn from.
    pub fn rows_seen(&self) -> u64 {
        self.seen
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The score above which a row is an anomaly by the contamination that was asked for.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    pub fn number_of_trees(&self) -> usize {
        self.trees.len()
    }

    fn score_of(&self, value: f64) -> f64 {
        match self.options.scoring {
            Scoring::Depth => libm::exp2(-value / self.normal.max(f64::MIN_POSITIVE)),
            Scoring::Density => 1.0 / (1.0 + libm::exp(value)),
        }
    }

    /// ln p of a depth or density.
    fn ln_p_of(&self, value: f64) -> f64 {
        let (from, unit) = self.usual;
        self.tail.ln_p_of_residual(((from - value) / unit).max(0.0), DOF)
    }

    /// Fills the buffer with what trees see; whether a value is missing, and ln p of the distance.
    #[inline]
    fn see(&self, row: &[f64], z: &mut Vec<f32>) -> (bool, f64) {
        z.clear();
        let (mut missing, mut least) = (false, 0.0f64);
        for (column, x) in self.columns.iter().zip(row) {
            if let ColumnKind::Numeric(n) = &column.kind {
                let v = n.standardise(*x);
                missing |= v.is_nan();
                z.push(v);
                if *x > n.high || *x < n.low {
                    least = least.min(column.ln_p_outside(*x));
                }
                continue;
            }
            let from = z.len();
            column.push(*x, z);
            missing |= z[from..].iter().any(|v| v.is_nan());
            least = least.min(column.ln_p_outside(*x));
        }
        z.resize(kernel::padded(self.width), 0.0);
        if least < 0.0 {
            // For the columns, and for the look at the score.
            least = (least + libm::log(2.0 * self.columns.len() as f64)).min(0.0);
        }
        (missing, least)
    }

    fn check(&self, row: &[f64]) -> Result<()> {
        if row.len() == self.columns.len() {
            return Ok(());
        }
        Err(Error::Data(format!(
            "the model was trained with {} features, the row has {}",
            self.columns.len(),
            row.len()
        )))
    }

    /// Depth or log density, mean over the trees, and ln p of the distance outside the range.
    #[inline]
    fn value(&self, row: &[f64], scratch: &mut Scratch) -> (f64, f64) {
        let (missing, outside) = self.see(row, &mut scratch.z);
        (self.value_of_seen(missing, scratch), outside)
    }

    /// Depth or log density of the row in the buffer, mean over the trees.
    #[inline]
    fn value_of_seen(&self, missing: bool, scratch: &mut Scratch) -> f64 {
        let sum: f64 = if missing {
            let stack = &mut scratch.stack;
            self.trees.iter().map(|t| t.value_with_missing(&scratch.z, stack)).sum()
        } else {
            self.kernel.sum(&self.trees, &scratch.z)
        };
        sum / self.trees.len() as f64
    }

    /// The score alone: what costs least. NaN is a missing value, infinities lie outside any range.
    pub fn score(&self, row: &[f64], scratch: &mut Scratch) -> Result<f64> {
        self.check(row)?;
        let (value, _) = self.value(row, scratch);
        Ok(self.score_of(value))
    }

    /// Score, ln p and verdict of one row.
    pub fn judge(&self, row: &[f64], scratch: &mut Scratch) -> Result<Scored> {
        self.check(row)?;
        let (value, outside) = self.value(row, scratch);
        let score = self.score_of(value);
        let ln_p = self.ln_p_of(value).min(outside).clamp(MIN_LN_P, 0.0);
        let is_anomaly = score > self.threshold || outside < libm::log(self.options.contamination);
        Ok(Scored { score, ln_p, is_anomaly })
    }
}

fn fit_columns(
    sample: &Sample,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(sample.features);
    let mut values = Vec::with_capacity(sample.rows());
    for j in 0..sample.features {
        progress.tick()?;
        values.clear();
        values.extend(sample.values.iter().skip(j).step_by(sample.features));
        let categorical = options.categorical.contains(&j);
        let seed = crate::random::mix(options.seed ^ (j as u64) << 32);
        columns.push(Column::fit(&mut values, categorical, seed));
    }
    Ok(columns)
}

/// Columns that trees see, those of one feature together.
fn groups(columns: &[Column]) -> Vec<Vec<u16>> {
    let mut groups = Vec::new();
    let mut next = 0u16;
    for column in columns {
        let width = column.width() as u16;
        if width > 0 {
            groups.push((next..next + width).collect());
            next += width;
        }
    }
    groups
}

/// Rows for one tree, without replacement, by weight.
fn draw_rows(weights: &[f64], wanted: usize, random: &mut Random) -> Vec<u32> {
    let n = weights.len();
    let mut rows: Vec<u32> = (0..n as u32).collect();
    if wanted >= n {
        return rows;
    }
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        for i in 0..wanted {
            let j = i + random.below(n - i);
            rows.swap(i, j);
        }
        rows.truncate(wanted);
    } else {
        // The smallest of exponential keys with the weights as rates (Efraimidis and Spirakis 2006).
        let mut keys: Vec<(f64, u32)> = rows
            .iter()
            .map(|i| (-libm::log(1.0 - random.unit()) / weights[*i as usize], *i))
            .collect();
        keys.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rows = keys[..wanted].iter().map(|k| k.1).collect();
    }
    rows
}

/// Where unusual begins, its unit, and the tail.
pub(crate) fn calibrate(values: &[f64]) -> ((f64, f64), SideTail) {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let n = sorted.len();
    let from = sorted[0];
    // 5 % of |Z| lie beyond 1.96.
    let at = sorted[((n - 1) as f64 * 0.95) as usize];
    let unit = ((from - at) / 1.96).max(1e-6 * from.abs()).max(1e-9);
    let mut calibrator = Calibrator::one_sided();
    for v in &sorted {
        calibrator.learn((from - v) / unit, DOF);
    }
    calibrator.refresh();
    ((from, unit), calibrator.tails().1)
}

/// The score with the given share of the scores above it.
fn threshold(scores: &[f64], share: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let above = (share * sorted.len() as f64) as usize;
    sorted[above.min(sorted.len() - 1)]
}
