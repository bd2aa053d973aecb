//! One tree: how it is grown from a sample, and how a row runs down it.
//!
//! A node splits by `z[a] + Σ wᵢ·z[bᵢ] > cut`: no further term is the axis-parallel split of Liu,
//! Ting and Zhou (2008), more are the hyperplanes of Hariri, Kind and Brunner (2019). Cuts are drawn
//! uniformly from the range of the projected rows, or are the best of several by the gain in
//! standard deviation (Liu, Ting and Zhou, "On detecting clustered anomalies using SCiForest", 2010).
//! Projections are computed by the same operations in the same order here and when rows are scored.

use super::random::Random;
use crate::Result;
use crate::progress::Progress;

/// Nodes of a tree.
pub(super) const MAX_NODES: usize = 1 << 14;

/// What the rows of a leaf are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// The leaf's depth, and the mean depth of a tree over its rows.
    Depth,
    /// The logarithm of the density: rows per extent along the way (Cortes 2021).
    Density,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    /// Share of the splits that are guided; the others are cut anywhere.
    pub guided: f64,
    pub scoring: Scoring,
    /// Columns in a direction.
    pub dimensions: usize,
    /// Directions that are compared for a guided split.
    pub tries: usize,
    pub max_depth: usize,
}

/// A further column of a direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Term {
    pub column: u16,
    pub weight: f32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Index of the left child, the right one follows; 0 for a leaf.
    pub child: u32,
    pub column: u16,
    pub cut: f32,
    pub terms: Vec<Term>,
    /// Rows below, fractions of them where values are missing.
    pub mass: f32,
    /// Depth or logarithm of density: of a leaf its own, else the mean over the leaves below.
    pub value: f32,
}

impl Node {
    pub fn is_leaf(&self) -> bool {
        self.child == 0
    }

    /// On which side of the split a row is; NaN where a value is missing.
    pub fn projection(&self, z: &[f32]) -> f32 {
        project(self.column, &self.terms, z)
    }
}

/// The sum of a direction; NaN where a value is missing, so that the row takes both ways. Of three
/// columns or more nearly every row would; there a missing value counts as the median, which is 0.
fn project(column: u16, terms: &[Term], z: &[f32]) -> f32 {
    let first = z[usize::from(column)];
    if terms.len() < 2 {
        return terms.iter().fold(first, |sum, t| sum + t.weight * z[usize::from(t.column)]);
    }
    let mut known = !first.is_nan();
    let mut sum = if known { first } else { 0.0 };
    for term in terms {
        let v = z[usize::from(term.column)];
        if !v.is_nan() {
            sum += term.weight * v;
            known = true;
        }
    }
    if known { sum } else { f32::NAN }
}

/// Nodes in breadth-first order, the root first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tree {
    pub nodes: Vec<Node>,
}

const EULER: f64 = 0.577_215_664_901_532_9;

/// Mean depth of an unsuccessful search in a binary search tree of m rows, c(m) in Liu et al. 2008.
pub(super) fn mean_depth(m: f64) -> f64 {
    if m <= 1.0 {
        0.0
    } else if m <= 2.0 {
        m - 1.0
    } else {
        2.0 * (libm::log(m - 1.0) + EULER) - 2.0 * (m - 1.0) / m
    }
}

impl Tree {
    /// Fills the values of inner nodes from those of the leaves.
    pub fn sum_up(&mut self) {
        for i in (0..self.nodes.len()).rev() {
            if self.nodes[i].is_leaf() {
                continue;
            }
            let child = self.nodes[i].child as usize;
            let (left, right) = (&self.nodes[child], &self.nodes[child + 1]);
            let mass = left.mass + right.mass;
            let value = (left.mass * left.value + right.mass * right.value) / mass;
            self.nodes[i].value = value;
        }
    }

    pub fn depth(&self) -> usize {
        let mut depth = vec![0u32; self.nodes.len()];
        let mut most = 0;
        for (i, node) in self.nodes.iter().enumerate() {
            if !node.is_leaf() {
                for child in [node.child as usize, node.child as usize + 1] {
                    depth[child] = depth[i] + 1;
                    most = most.max(depth[child]);
                }
            }
        }
        most as usize
    }

    /// The mean value of the leaves that a row gets to: where a value is missing it takes both ways,
    /// with the shares of the training rows.
    pub fn value_with_missing(&self, z: &[f32], stack: &mut Vec<(u32, f32)>) -> f64 {
        let mut sum = 0.0;
        stack.clear();
        stack.push((0, 1.0));
        while let Some((at, share)) = stack.pop() {
            let node = &self.nodes[at as usize];
            if node.is_leaf() {
                sum += f64::from(share) * f64::from(node.value);
                continue;
            }
            let v = node.projection(z);
            if v.is_nan() {
                let left = self.nodes[node.child as usize].mass;
                let left = left / (left + self.nodes[node.child as usize + 1].mass);
                stack.push((node.child, share * left));
                stack.push((node.child + 1, share * (1.0 - left)));
            } else {
                stack.push((node.child + u32::from(v > node.cut), share));
            }
        }
        sum
    }
}

/// A row in a node, by its number in the sample.
type Item = (u32, f32);

/// Grows trees; keeps its buffers from tree to tree.
pub(super) struct Grower<'a> {
    growth: Growth,
    /// Row by row.
    z: &'a [f32],
    width: usize,
    /// Columns that differ somewhere in the sample, by the original column they come from.
    groups: &'a [Vec<u16>],
    order: Vec<u32>,
    projected: Vec<(f32, f32)>,
}

struct Cut {
    column: u16,
    terms: Vec<Term>,
    cut: f32,
    gain: f64,
    /// Share of the projected range on the left.
    left: f64,
}

impl<'a> Grower<'a> {
    /// `z` holds rows of `width` columns; `groups` the columns to split by, those that come from one
    /// column of the table together.
    pub fn new(growth: Growth, z: &'a [f32], width: usize, groups: &'a [Vec<u16>]) -> Self {
        Grower {
            growth,
            z,
            width,
            groups,
            order: (0..groups.len() as u32).collect(),
            projected: Vec::new(),
        }
    }

    fn at(&self, row: u32, column: u16) -> f32 {
        self.z[row as usize * self.width + usize::from(column)]
    }

    /// Least and greatest value of a column in a node.
    fn range(&self, items: &[Item], column: u16) -> Option<(f32, f32)> {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for (row, _) in items {
            let v = self.at(*row, column);
            low = low.min(v);
            high = high.max(v);
        }
        (low < high).then_some((low, high))
    }

    /// Mean and standard deviation of what is there.
    fn spread(&self, items: &[Item], column: u16) -> f64 {
        let (mut n, mut mean, mut m2) = (0.0, 0.0, 0.0);
        for (row, _) in items {
            let v = f64::from(self.at(*row, column));
            if v.is_nan() {
                continue;
            }
            n += 1.0;
            let d = v - mean;
            mean += d / n;
            m2 += d * (v - mean);
        }
        libm::sqrt(m2 / n)
    }

    /// Random columns that are not constant in the node, one per group, `wanted` at most.
    fn columns(
        &mut self,
        items: &[Item],
        wanted: usize,
        random: &mut Random,
        progress: &mut dyn Progress,
    ) -> Result<Vec<(u16, f32, f32)>> {
        let mut found = Vec::with_capacity(wanted);
        let n = self.order.len();
        for i in 0..n {
            if i % 1024 == 1023 {
                progress.tick()?;
            }
            let j = i + random.below(n - i);
            self.order.swap(i, j);
            let group = &self.groups[self.order[i] as usize];
            let column = group[if group.len() > 1 { random.below(group.len()) } else { 0 }];
            if let Some((low, high)) = self.range(items, column) {
                found.push((column, low, high));
                if found.len() == wanted {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// A random direction over `columns`: the column with the greatest coefficient first, with
    /// coefficient 1.
    fn direction(
        &self,
        items: &[Item],
        columns: &[(u16, f32, f32)],
        random: &mut Random,
    ) -> (u16, Vec<Term>) {
        if columns.len() == 1 {
            return (columns[0].0, Vec::new());
        }
        let mut terms: Vec<(u16, f64)> = columns
            .iter()
            .map(|(c, _, _)| {
                // A range above 0 whose squares underflow.
                let spread = self.spread(items, *c).max(1e-30);
                (*c, random.normal() / spread)
            })
            .collect();
        let most = (0..terms.len())
            .fold(0, |best, i| if terms[i].1.abs() > terms[best].1.abs() { i } else { best });
        terms.swap(0, most);
        let (first, by) = terms[0];
        let rest = terms[1..]
            .iter()
            .map(|(column, c)| Term { column: *column, weight: (c / by) as f32 })
            .collect();
        (first, rest)
    }

    fn project(&mut self, items: &[Item], column: u16, terms: &[Term]) {
        self.projected.clear();
        for (row, weight) in items {
            let z = &self.z[*row as usize * self.width..][..self.width];
            let v = project(column, terms, z);
            if !v.is_nan() {
                self.projected.push((v, *weight));
            }
        }
    }

    /// A uniform cut of the projected rows.
    fn random_cut(&self, random: &mut Random) -> Option<(f32, f64)> {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for (v, _) in &self.projected {
            low = low.min(*v);
            high = high.max(*v);
        }
        uniform_cut(low, high, random)
    }

    /// The cut with the greatest gain, and the gain: how much smaller the mean standard deviation of
    /// the sides is than that of all rows (SDgain of Liu et al. 2010).
    fn guided_cut(&mut self) -> Option<(f32, f64, f64)> {
        let p = &mut self.projected;
        p.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (low, high) = (p.first()?.0, p.last()?.0);
        if low >= high {
            return None;
        }
        // Around the middle of the range, so that squares lose nothing.
        let middle = 0.5 * (f64::from(low) + f64::from(high));
        let scale = 1.0 / (f64::from(high) - f64::from(low));
        let (mut n, mut s, mut q) = (0.0, 0.0, 0.0);
        for (v, w) in p.iter() {
            let d = (f64::from(*v) - middle) * scale;
            let w = f64::from(*w);
            n += w;
            s += w * d;
            q += w * d * d;
        }
        let sd = |n: f64, s: f64, q: f64| libm::sqrt((q / n - (s / n) * (s / n)).max(0.0));
        let all = sd(n, s, q);
        let (mut n1, mut s1, mut q1) = (0.0, 0.0, 0.0);
        let mut best: Option<(usize, f64)> = None;
        for i in 0..p.len() - 1 {
            let d = (f64::from(p[i].0) - middle) * scale;
            let w = f64::from(p[i].1);
            n1 += w;
            s1 += w * d;
            q1 += w * d * d;
            if p[i].0 < p[i + 1].0 {
                let both = sd(n1, s1, q1) + sd(n - n1, s - s1, q - q1);
                let gain = (all - 0.5 * both) / all;
                if best.is_none_or(|(_, most)| gain > most) {
                    best = Some((i, gain));
                }
            }
        }
        let (i, gain) = best?;
        let (below, above) = (p[i].0, p[i + 1].0);
        let cut = (0.5 * (f64::from(below) + f64::from(above))) as f32;
        let cut = if cut < above { cut } else { below };
        Some((cut, gain, (f64::from(cut) - f64::from(low)) * scale))
    }

    fn split(
        &mut self,
        items: &[Item],
        random: &mut Random,
        progress: &mut dyn Progress,
    ) -> Result<Option<Cut>> {
        let wanted = self.growth.dimensions;
        if random.unit() >= self.growth.guided {
            let columns = self.columns(items, wanted, random, progress)?;
            let Some((column, low, high)) = columns.first().copied() else { return Ok(None) };
            if columns.len() == 1 {
                return Ok(uniform_cut(low, high, random).map(|(cut, left)| Cut {
                    column,
                    terms: Vec::new(),
                    cut,
                    gain: 0.0,
                    left,
                }));
            }
            let (column, terms) = self.direction(items, &columns, random);
            self.project(items, column, &terms);
            let found = self.random_cut(random);
            return Ok(found.map(|(cut, left)| Cut { column, terms, cut, gain: 0.0, left }));
        }
        let mut best: Option<Cut> = None;
        for _ in 0..self.growth.tries {
            let columns = self.columns(items, wanted, random, progress)?;
            if columns.is_empty() {
                return Ok(None);
            }
            let (column, terms) = self.direction(items, &columns, random);
            self.project(items, column, &terms);
            let Some((cut, gain, left)) = self.guided_cut() else { continue };
            if best.as_ref().is_none_or(|b| gain > b.gain) {
                best = Some(Cut { column, terms, cut, gain, left });
            }
            // Two rows are parted the same way by any direction.
            if items.len() == 2 {
                break;
            }
        }
        Ok(best)
    }

    /// Grows one tree over `rows`, numbers of rows of `z`.
    pub fn grow(
        &mut self,
        rows: &[u32],
        random: &mut Random,
        progress: &mut dyn Progress,
    ) -> Result<Tree> {
        struct Open {
            node: u32,
            depth: u32,
            /// Σ ln(rows per extent) so far.
            density: f64,
            items: Vec<Item>,
        }
        let leaf = Node { child: 0, column: 0, cut: 0.0, terms: Vec::new(), mass: 0.0, value: 0.0 };
        let mut nodes = vec![leaf.clone()];
        let items = rows.iter().map(|row| (*row, 1.0)).collect();
        let mut open =
            std::collections::VecDeque::from([Open { node: 0, depth: 0, density: 0.0, items }]);
        let most = (4 * rows.len()).min(MAX_NODES);
        while let Some(Open { node, depth, density, items }) = open.pop_front() {
            progress.tick()?;
            let mass: f64 = items.iter().map(|(_, w)| f64::from(*w)).sum();
            nodes[node as usize].mass = mass as f32;
            let mut cut = None;
            // Rows with missing values are on both sides; their fractions must not add up for ever.
            let room = nodes.len() + 2 <= most;
            if room && (depth as usize) < self.growth.max_depth && items.len() > 1 && mass > 1.0 {
                cut = self.split(&items, random, progress)?;
            }
            let Some(cut) = cut else {
                nodes[node as usize].value = match self.growth.scoring {
                    Scoring::Depth => (f64::from(depth) + mean_depth(mass)) as f32,
                    Scoring::Density => density as f32,
                };
                continue;
            };
            let child = nodes.len() as u32;
            let this = &mut nodes[node as usize];
            (this.child, this.column, this.cut, this.terms) =
                (child, cut.column, cut.cut, cut.terms);
            let (mut left, mut right, mut missing) = (Vec::new(), Vec::new(), Vec::new());
            let (mut left_mass, mut right_mass) = (0.0, 0.0);
            for item in items {
                let z = &self.z[item.0 as usize * self.width..][..self.width];
                let v = this.projection(z);
                if v.is_nan() {
                    missing.push(item);
                } else if v > this.cut {
                    right_mass += f64::from(item.1);
                    right.push(item);
                } else {
                    left_mass += f64::from(item.1);
                    left.push(item);
                }
            }
            let share = left_mass / (left_mass + right_mass);
            for (row, weight) in missing {
                // Hardly anything of a row is not worth following.
                for (side, w) in [
                    (&mut left, (f64::from(weight) * share) as f32),
                    (&mut right, (f64::from(weight) * (1.0 - share)) as f32),
                ] {
                    if w > 1e-3 {
                        side.push((row, w));
                    }
                }
            }
            for (side, items, share, extent) in
                [(0, left, share, cut.left), (1, right, 1.0 - share, 1.0 - cut.left)]
            {
                nodes.push(leaf.clone());
                // A side without extent (its rows are all alike in this direction) is as dense as
                // a hundredth of the parent's extent would be.
                let density = density + libm::log(share.max(1e-6) / extent.max(0.01));
                open.push_back(Open { node: child + side, depth: depth + 1, density, items });
            }
        }
        let mut tree = Tree { nodes };
        tree.sum_up();
        Ok(tree)
    }
}

/// A cut with `low` on its left and `high` on its right, and the share of the range on the left.
fn uniform_cut(low: f32, high: f32, random: &mut Random) -> Option<(f32, f64)> {
    if low >= high {
        return None;
    }
    let share = random.unit();
    let cut = (f64::from(low) + share * (f64::from(high) - f64::from(low))) as f32;
    Some((if cut < high { cut } else { low }, share))
}
