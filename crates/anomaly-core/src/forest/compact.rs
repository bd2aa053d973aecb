//! A forest small enough to be kept for each entity of a detector.
//!
//! Rows are whole numbers of a fixed grid ([`on_grid`]), so that a cut takes two bytes and parts the
//! rows as it did before it was rounded; what remains of a leaf is how many rows it has. A tree over
//! 96 rows takes some 300 bytes.
//! There are no missing values and no categories: [`super::IsolationForest`] has them.
//!
//! Trees are stored in breadth-first order without indices, as in [`super::stored`]. A node is a byte
//! that says what it is and then:
//!
//! | byte | |
//! |---|---|
//! | 0 to 125 | leaf of 1 to 126 rows |
//! | 126 | leaf: number of rows (2 bytes) |
//! | 128 + column | cut (2 bytes) |
//! | 192 + column | split by two columns: the other (1 byte), its weight in 1/127 (1 byte), cut in steps of two (2 bytes) |
//!
//! A leaf scored by density is followed by the logarithm of that in 1/256 (2 bytes).

use super::options::{MAX_DEPTH, MAX_TREES};
use super::random::Random;
use super::tree::{Grower, Growth, Scoring, Tree, mean_depth};
use super::{Options, draw_rows};
use crate::codec::Reader;
use crate::progress::Progress;
use crate::{Error, Result};

/// Steps of the grid in 1.
pub(crate) const STEPS: f32 = 4096.0;
/// Columns of a row at most: two bits of a byte say what a node is.
pub(crate) const MAX_COLUMNS: usize = 64;
pub(crate) const MAX_ROWS_PER_TREE: usize = 1024;
const MARK_MANY: u8 = 126;
const MARK_CUT: u8 = 128;
const MARK_PAIR: u8 = 192;
const WEIGHTS: f32 = 127.0;
const DENSITIES: f32 = 256.0;

/// The nearest number of the grid, which reaches to ± 8.
pub(crate) fn on_grid(x: f32) -> i16 {
    // saturates, and NaN is 0
    libm::roundf(x * STEPS) as i16
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    /// What lies above it goes to child + 1; of a leaf by density the logarithm of that.
    cut: f32,
    /// Of the other column, 0 where there is none.
    weight: f32,
    /// 0 for a leaf.
    child: u16,
    /// Rows in a leaf.
    mass: u16,
    column: u8,
    other: u8,
}

impl Node {
    const LEAF: Node = Node { cut: 0.0, weight: 0.0, child: 0, mass: 1, column: 0, other: 0 };

    fn is_leaf(&self) -> bool {
        self.child == 0
    }

    fn next(&self, row: &[i16]) -> usize {
        let z = |column: u8| f32::from(row[usize::from(column)]);
        let mut v = z(self.column);
        if self.weight != 0.0 {
            v += self.weight * z(self.other);
        }
        usize::from(self.child) + usize::from(v > self.cut)
    }
}

/// Trees over rows of the grid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompactForest {
    scoring: Scoring,
    width: usize,
    rows_per_tree: usize,
    trees: Vec<Vec<Node>>,
    /// Mean depth below a leaf by its number of rows.
    below: Vec<f32>,
}

impl CompactForest {
    /// Where along the values tried for the first column, equally far apart, one tree has its rows, the
    /// other columns being those of a row: their mean, each weighted by the density of its leaf. That is
    /// rows by volume, and each split halves a volume, on average.
    fn first_by(&self, tree: &[Node], row: &mut [i16], tried: &[i16]) -> f64 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for x in tried {
            row[0] = *x;
            let (leaf, depth) = leaf(tree, row);
            let density = match self.scoring {
                Scoring::Depth => f64::from(leaf.mass) * libm::exp2(f64::from(depth)),
                Scoring::Density => libm::exp(f64::from(leaf.cut)),
            };
            sum += density * f64::from(*x);
            weights += density;
        }
        sum / weights
    }

    /// What is usual in the first column beside the others of a row, of some equally far apart; the mean
    /// over the trees.
    pub fn first_beside(&self, row: &mut [i16], tried: &[i16]) -> f64 {
        let sum: f64 = self.trees.iter().map(|t| self.first_by(t, row, tried)).sum();
        sum / self.trees.len() as f64
    }
}

/// A forest, and which tree saw which row.
pub(crate) struct Grown {
    pub forest: CompactForest,
    /// Tree by tree.
    seen: Vec<bool>,
    rows: usize,
}

impl Grown {
    /// Depth or log density of what the training row so numbered might be instead, the mean over the
    /// trees that did not see that row; over all, where each did.
    pub fn value_unseen(&self, number: usize, row: &[i16]) -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        for (tree, seen) in self.forest.trees.iter().zip(self.seen.chunks_exact(self.rows)) {
            if !seen[number] {
                sum += f64::from(self.forest.value_by(tree, row));
                count += 1;
            }
        }
        if count > 0 { sum / f64::from(count) } else { self.forest.value(row) }
    }

    /// As [`CompactForest::first_beside`], by the trees that did not see that training row.
    pub fn first_beside_unseen(&self, number: usize, row: &mut [i16], tried: &[i16]) -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        for (tree, seen) in self.forest.trees.iter().zip(self.seen.chunks_exact(self.rows)) {
            if !seen[number] {
                sum += self.forest.first_by(tree, row, tried);
                count += 1;
            }
        }
        if count > 0 { sum / f64::from(count) } else { self.forest.first_beside(row, tried) }
    }
}

fn depths_below(rows_per_tree: usize) -> Vec<f32> {
    (0..=rows_per_tree).map(|m| mean_depth(m as f64) as f32).collect()
}

impl CompactForest {
    /// Grows a forest over rows of `width` columns; those of a group count as one where columns are
    /// drawn. `Data` with fewer than two rows, `Stopped` when `progress` says so.
    pub fn grow(
        rows: &[i16],
        width: usize,
        groups: &[Vec<u16>],
        options: &Options,
        progress: &mut dyn Progress,
    ) -> Result<Grown> {
        let n = rows.len() / width.max(1);
        if n < 2 || width > MAX_COLUMNS {
            return Err(Error::Data(format!("{n} rows of {width} columns make no forest")));
        }
        let z: Vec<f32> = rows.iter().map(|q| f32::from(*q)).collect();
        let rows_per_tree = options.rows_per_tree(n).min(MAX_ROWS_PER_TREE);
        let growth = Growth {
            guided: options.guided,
            scoring: options.scoring,
            dimensions: options.dimensions.min(2),
            tries: options.tries,
            max_depth: options.depth(rows_per_tree),
        };
        let mut grower = Grower::new(growth, &z, width, groups);
        let mut forest = CompactForest {
            scoring: options.scoring,
            width,
            rows_per_tree,
            trees: Vec::with_capacity(options.trees),
            below: depths_below(rows_per_tree),
        };
        let weights = vec![1.0; n];
        let mut seen = vec![false; n * options.trees];
        for (t, seen) in seen.chunks_exact_mut(n).enumerate() {
            let mut random = Random::new(options.seed, t as u64);
            let drawn = draw_rows(&weights, rows_per_tree, &mut random);
            let mut tree = compact(&grower.grow(&drawn, &mut random, progress)?);
            drawn.iter().for_each(|row| seen[*row as usize] = true);
            let drawn = drawn.iter().map(|i| &rows[*i as usize * width..][..width]);
            count_rows(&mut tree, drawn);
            forest.trees.push(tree);
        }
        Ok(Grown { forest, seen, rows: n })
    }

    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    pub fn rows_per_tree(&self) -> usize {
        self.rows_per_tree
    }

    fn value_by(&self, tree: &[Node], row: &[i16]) -> f32 {
        let (leaf, depth) = leaf(tree, row);
        match self.scoring {
            Scoring::Depth => depth as f32 + self.below[usize::from(leaf.mass)],
            Scoring::Density => leaf.cut,
        }
    }

    /// Depth or log density of a row, the mean over the trees.
    pub fn value(&self, row: &[i16]) -> f64 {
        let sum: f64 = self.trees.iter().map(|t| f64::from(self.value_by(t, row))).sum();
        sum / self.trees.len() as f64
    }

    /// From 0 to 1, higher is more unusual: 2^(−E\[h\]/c(n)) of Liu et al. for depths,
    /// 1/(1 + density) for densities.
    pub fn score_of(&self, value: f64) -> f64 {
        match self.scoring {
            Scoring::Depth => {
                let normal = f64::from(self.below[self.rows_per_tree]).max(1.0);
                libm::exp2(-value / normal)
            }
            Scoring::Density => 1.0 / (1.0 + libm::exp(value)),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.scoring {
            Scoring::Depth => 0,
            Scoring::Density => 1,
        });
        out.extend_from_slice(&(self.rows_per_tree as u16).to_le_bytes());
        out.extend_from_slice(&(self.trees.len() as u16).to_le_bytes());
        for tree in &self.trees {
            out.extend_from_slice(&(tree.len() as u16).to_le_bytes());
            for node in tree {
                self.encode_node(node, out);
            }
        }
    }

    fn encode_node(&self, node: &Node, out: &mut Vec<u8>) {
        if node.is_leaf() {
            if node.mass <= u16::from(MARK_MANY) {
                out.push(node.mass as u8 - 1);
            } else {
                out.push(MARK_MANY);
                out.extend_from_slice(&node.mass.to_le_bytes());
            }
            if self.scoring == Scoring::Density {
                out.extend_from_slice(&((node.cut * DENSITIES) as i16).to_le_bytes());
            }
        } else if node.weight == 0.0 {
            out.push(MARK_CUT + node.column);
            out.extend_from_slice(&(node.cut as i16).to_le_bytes());
        } else {
            let weight = libm::roundf(node.weight * WEIGHTS) as i8;
            out.extend_from_slice(&[MARK_PAIR + node.column, node.other, weight as u8]);
            out.extend_from_slice(&((node.cut * 0.5) as i16).to_le_bytes());
        }
    }

    /// Reads what [`CompactForest::encode`] wrote for rows of `width` columns; never panics, whatever
    /// the bytes.
    pub fn decode(width: usize, reader: &mut Reader<'_>) -> Result<CompactForest> {
        let scoring = match reader.u8()? {
            0 => Scoring::Depth,
            1 => Scoring::Density,
            _ => return Err(reader.corrupted("unknown scoring")),
        };
        let rows_per_tree = usize::from(reader.u16()?);
        let count = usize::from(reader.u16()?);
        let sound = (1..=MAX_COLUMNS).contains(&width)
            && (2..=MAX_ROWS_PER_TREE).contains(&rows_per_tree)
            && (1..=MAX_TREES).contains(&count);
        if !sound {
            return Err(reader.corrupted("forest out of range"));
        }
        let mut trees = Vec::new();
        for _ in 0..count {
            trees.push(decode_tree(width, rows_per_tree, scoring, reader)?);
        }
        Ok(CompactForest {
            scoring,
            width,
            rows_per_tree,
            trees,
            below: depths_below(rows_per_tree),
        })
    }
}

/// The leaf that a row gets to, and its depth.
fn leaf<'a>(tree: &'a [Node], row: &[i16]) -> (&'a Node, u16) {
    let (mut at, mut depth) = (0, 0);
    while !tree[at].is_leaf() {
        at = tree[at].next(row);
        depth += 1;
    }
    (&tree[at], depth)
}

/// A tree over rows of the grid, as it is stored.
fn compact(tree: &Tree) -> Vec<Node> {
    let of = |node: &super::tree::Node| {
        if node.is_leaf() {
            let most = f32::from(i16::MAX) / DENSITIES;
            let cut = libm::roundf(node.value.clamp(-most, most) * DENSITIES) / DENSITIES;
            return Node { cut, ..Node::LEAF };
        }
        let split =
            Node { child: node.child as u16, mass: 0, column: node.column as u8, ..Node::LEAF };
        let Some(term) = node.terms.first() else {
            // Rows of the grid lie on the same side of a cut as of the whole number below it.
            return Node { cut: libm::floorf(node.cut), ..split };
        };
        let weight = libm::roundf(term.weight * WEIGHTS) / WEIGHTS;
        let cut = 2.0 * libm::floorf(node.cut * 0.5).clamp(-32_768.0, 32_767.0);
        if weight == 0.0 {
            return Node { cut: cut.clamp(-32_768.0, 32_767.0), ..split };
        }
        Node { cut, weight, other: term.column as u8, ..split }
    };
    tree.nodes.iter().map(of).collect()
}

/// Fills in how many rows each leaf has, now that directions are rounded; at least one.
fn count_rows<'a>(tree: &mut [Node], rows: impl Iterator<Item = &'a [i16]>) {
    let mut counts = vec![0u16; tree.len()];
    for row in rows {
        let mut at = 0;
        while !tree[at].is_leaf() {
            at = tree[at].next(row);
        }
        counts[at] += 1;
    }
    for (node, count) in tree.iter_mut().zip(counts).filter(|(node, _)| node.is_leaf()) {
        node.mass = count.max(1);
    }
}

fn decode_tree(
    width: usize,
    rows: usize,
    scoring: Scoring,
    reader: &mut Reader<'_>,
) -> Result<Vec<Node>> {
    let count = usize::from(reader.u16()?);
    if count.is_multiple_of(2) || count > 2 * rows || reader.remaining() < count {
        return Err(reader.corrupted("number of nodes out of range"));
    }
    let mut nodes = Vec::with_capacity(count);
    let mut depths = vec![0u8; count];
    let mut next = 1;
    for i in 0..count {
        let mark = reader.u8()?;
        let mut node = Node::LEAF;
        if mark < MARK_CUT {
            node.mass = match mark {
                MARK_MANY => reader.u16()?,
                _ => u16::from(mark) + 1,
            };
            if mark > MARK_MANY || node.mass == 0 || usize::from(node.mass) > rows {
                return Err(reader.corrupted("rows of a leaf"));
            }
            if scoring == Scoring::Density {
                node.cut = f32::from(reader.u16()? as i16) / DENSITIES;
            }
        } else {
            node.child = next as u16;
            node.column = mark % MARK_PAIR % MARK_CUT;
            let half = mark >= MARK_PAIR;
            if half {
                node.other = reader.u8()?;
                node.weight = f32::from(reader.u8()? as i8) / WEIGHTS;
            }
            node.cut = f32::from(reader.u16()? as i16) * if half { 2.0 } else { 1.0 };
            if usize::from(node.column.max(node.other)) >= width || half && node.weight == 0.0 {
                return Err(reader.corrupted("split by a column that is not there"));
            }
            if next + 2 > count || usize::from(depths[i]) >= MAX_DEPTH {
                return Err(reader.corrupted("a tree too deep"));
            }
            depths[next] = depths[i] + 1;
            depths[next + 1] = depths[i] + 1;
            next += 2;
        }
        // A node comes after its parent.
        if i > 0 && i >= next {
            return Err(reader.corrupted("nodes without a parent"));
        }
        nodes.push(node);
    }
    if next != count {
        return Err(reader.corrupted("nodes without a parent"));
    }
    Ok(nodes)
}
