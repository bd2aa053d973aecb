//! Why a row is unusual: which features, and what a normal row looks like.

use super::columns::{Column, ColumnKind};
use super::{IsolationForest, Sample, Scored, Scratch};
use crate::Result;
use crate::describe::figure;

/// Why a row is unusual.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub scored: Scored,
    /// Of each feature, ≥ 0, 1 in total.
    pub contributions: Vec<f64>,
    /// The most similar of the normal rows that the model keeps, if it keeps any; NaN is missing.
    pub nearest: Option<Vec<f64>>,
    /// Of each numeric feature the range that it had in the sample, extremes left out, else NaN.
    pub ranges: Vec<(f64, f64)>,
    /// Names of the features; empty where they have none.
    pub names: Vec<String>,
}

impl Explanation {
    /// One sentence about the row that was explained: the feature that contributes most, what is
    /// unusual about it, and what a normal row has in its place. Features without names are counted
    /// from 1.
    pub fn sentence(&self, row: &[f64]) -> String {
        if !self.scored.is_anomaly {
            return "the row is like the others".into();
        }
        let most = (0..row.len())
            .max_by(|a, b| self.contributions[*a].total_cmp(&self.contributions[*b]).then(b.cmp(a)))
            .unwrap_or(0);
        let (Some(x), Some((low, high))) = (row.get(most), self.ranges.get(most)) else {
            return "the row is unusual".into();
        };
        let what = if x.is_nan() {
            "is missing".into()
        } else if x < low || x > high {
            let side = if x < low { "below" } else { "above" };
            format!(
                "is {}, {side} the usual range ({} to {})",
                figure(*x),
                figure(*low),
                figure(*high)
            )
        } else if row.len() == 1 {
            format!("is {}, which is rare", figure(*x))
        } else {
            format!("is {}, which is rare beside the row's other values", figure(*x))
        };
        let normal = match self.nearest.as_ref().and_then(|near| near.get(most)) {
            Some(v) if v.is_nan() => "; the most similar normal row has none".into(),
            Some(v) => format!("; the most similar normal row has {}", figure(*v)),
            None => String::new(),
        };
        let share = 100.0 * self.contributions[most];
        let name = match self.names.get(most) {
            Some(name) => name.clone(),
            None => format!("feature {}", most + 1),
        };
        format!("{name} {what}{normal}; it makes up {share:.0} % of the deviation")
    }
}

impl IsolationForest {
    /// Scores a row and says why. A feature's part in ln p of the score is by how much the splits on
    /// it shortened the way down, against the mean of the rows that met the same split; what lies
    /// outside the range adds ln p of its distance.
    pub fn explain(&self, row: &[f64], scratch: &mut Scratch) -> Result<Explanation> {
        let scored = self.judge(row, scratch)?;
        let (value, _) = self.value(row, scratch);
        let mut contributions = vec![0.0; self.columns.len()];
        self.add_path_shares(-self.ln_p_of(value), scratch, &mut contributions);
        Ok(self.explanation(row, scored, contributions))
    }

    /// Completes an explanation from what the ways down the trees contribute.
    pub(super) fn explanation(
        &self,
        row: &[f64],
        scored: Scored,
        mut contributions: Vec<f64>,
    ) -> Explanation {
        for ((c, column), x) in contributions.iter_mut().zip(&self.columns).zip(row) {
            *c -= column.ln_p_outside(*x);
        }
        let sum: f64 = contributions.iter().sum();
        if sum > 0.0 && sum.is_finite() {
            contributions.iter_mut().for_each(|c| *c /= sum);
        } else {
            let equal = 1.0 / contributions.len() as f64;
            contributions.fill(equal);
        }
        let ranges = self
            .columns
            .iter()
            .map(|column| match &column.kind {
                ColumnKind::Numeric(n) => (n.low, n.high),
                ColumnKind::Constant(c) => (*c, *c),
                _ => (f64::NAN, f64::NAN),
            })
            .collect();
        let names = self.options.features.clone();
        Explanation { scored, contributions, nearest: self.nearest(row), ranges, names }
    }

    /// The feature that each column that trees see comes from.
    fn feature_of(&self) -> Vec<usize> {
        let widths = self.columns.iter().map(Column::width).enumerate();
        widths.flat_map(|(i, width)| std::iter::repeat_n(i, width)).collect()
    }

    /// Distributes `amount` over the features by their shares in how short the ways of the row in the
    /// buffer are; nothing where no split shortened one.
    pub(super) fn add_path_shares(&self, amount: f64, scratch: &mut Scratch, to: &mut [f64]) {
        let z = &scratch.z;
        let feature_of = self.feature_of();
        let mut gained = vec![0.0; self.columns.len()];
        for tree in &self.trees {
            let stack = &mut scratch.stack;
            stack.clear();
            stack.push((0, 1.0));
            while let Some((at, weight)) = stack.pop() {
                let node = &tree.nodes[at as usize];
                if node.is_leaf() {
                    continue;
                }
                let v = node.projection(z);
                let children = [node.child, node.child + 1];
                if v.is_nan() {
                    let mass = children.map(|c| tree.nodes[c as usize].mass);
                    for (child, m) in children.iter().zip(mass) {
                        stack.push((*child, weight * m / (mass[0] + mass[1])));
                    }
                    continue;
                }
                let child = children[usize::from(v > node.cut)];
                stack.push((child, weight));
                let gain = f64::from(weight)
                    * (f64::from(node.value) - f64::from(tree.nodes[child as usize].value));
                let parts = || {
                    let first = (node.column, z[usize::from(node.column)]);
                    let rest =
                        node.terms.iter().map(|t| (t.column, t.weight * z[usize::from(t.column)]));
                    std::iter::once(first).chain(rest)
                };
                // Of a direction of many columns some may be missing.
                let parts = || parts().filter(|(_, part)| !part.is_nan());
                let total: f64 = parts().map(|(_, part)| f64::from(part.abs())).sum();
                for (column, part) in parts() {
                    let share = if total > 0.0 {
                        f64::from(part.abs()) / total
                    } else {
                        1.0 / (node.terms.len() + 1) as f64
                    };
                    gained[feature_of[usize::from(column)]] += gain * share;
                }
            }
        }
        gained.iter_mut().for_each(|g| *g = g.max(0.0));
        let sum: f64 = gained.iter().sum();
        if sum > 0.0 {
            to.iter_mut().zip(gained).for_each(|(t, g)| *t += amount * g / sum);
        }
    }

    /// Keeps rows of the more normal half, as they come.
    pub(super) fn keep_rows(&mut self, sample: &Sample, scores: &[f64]) {
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        self.kept = (0..sample.rows())
            .filter(|i| scores[*i] <= median)
            .take(self.options.kept_rows)
            .flat_map(|i| sample.row(i).iter().copied())
            .collect();
    }

    fn nearest(&self, row: &[f64]) -> Option<Vec<f64>> {
        let distance = |kept: &[f64]| -> f64 {
            self.columns
                .iter()
                .zip(kept.iter().zip(row))
                .map(|(column, (a, b))| match &column.kind {
                    _ if a.is_nan() && b.is_nan() => 0.0,
                    ColumnKind::Numeric(n) if !a.is_nan() && !b.is_nan() => {
                        // One feature far off must not make all rows alike.
                        let d = f64::from(n.standardise(*a)) - f64::from(n.standardise(*b));
                        (d * d).min(100.0)
                    }
                    _ if a == b => 0.0,
                    _ => 1.0,
                })
                .sum()
        };
        self.kept
            .chunks_exact(self.columns.len())
            .map(|kept| (distance(kept), kept))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, kept)| kept.to_vec())
    }
}
