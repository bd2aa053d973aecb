//! A forest as bytes: see [`crate::codec`] for the envelope.
//!
//! Trees are stored in breadth-first order without indices: the children of the k-th inner node,
//! from 0, are nodes 2k + 1 and 2k + 2. What follows from the rest is not stored.

use super::IsolationForest;
use super::columns::{Column, ColumnKind};
use super::kernel::Kernel;
use super::options::{
    MAX_DEPTH, MAX_DIMENSIONS, MAX_KEPT, MAX_ROWS_PER_TREE, MAX_TREES, MAX_TRIES, Options, twice,
};
use super::sampler::{MAX_FEATURES, MAX_ROWS};
use super::tree::{MAX_NODES, Node, Scoring, Term, Tree, mean_depth};
use crate::calibration::SideTail;
use crate::codec::{self, Reader};
use crate::{Error, Result};

/// Written into the envelope of a stored isolation forest.
pub const ALGORITHM: u16 = 100;

/// Values of leaves: depths and logarithms of densities are far smaller.
const MOST_VALUE: f32 = 1e4;

impl IsolationForest {
    /// The model as bytes; `TooLarge` beyond 4 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let start = codec::open(&mut out, ALGORITHM);
        self.options.encode(&mut out);
        out.extend_from_slice(&self.seen.to_le_bytes());
        out.extend_from_slice(&self.sampled.to_le_bytes());
        out.extend_from_slice(&self.rows_per_tree.to_le_bytes());
        for x in [self.threshold, self.usual.0, self.usual.1] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        self.tail.encode(&mut out);
        out.extend_from_slice(&(self.columns.len() as u16).to_le_bytes());
        for column in &self.columns {
            column.encode(&mut out);
        }
        out.extend_from_slice(&(self.trees.len() as u16).to_le_bytes());
        for tree in &self.trees {
            encode_tree(tree, &mut out);
        }
        out.extend_from_slice(&((self.kept.len() / self.columns.len()) as u16).to_le_bytes());
        for x in &self.kept {
            out.extend_from_slice(&x.to_le_bytes());
        }
        codec::seal(&mut out, start)?;
        Ok(out)
    }

    /// Reads what [`IsolationForest::encode`] wrote; never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<IsolationForest> {
        let (algorithm, payload) = codec::unwrap(bytes)?;
        if algorithm != ALGORITHM {
            return Err(Error::Corrupted(format!(
                "stored model is of algorithm {algorithm}, not an isolation forest"
            )));
        }
        let mut reader = Reader::new(payload);
        let forest = Self::decode_payload(&mut reader)?;
        reader.finish()?;
        Ok(forest)
    }

    fn decode_payload(reader: &mut Reader<'_>) -> Result<IsolationForest> {
        let options = Options::decode(reader)?;
        let (seen, sampled, rows_per_tree) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let counts_are_sound = (2..=MAX_ROWS as u32).contains(&sampled)
            && (2..=sampled.min(MAX_ROWS_PER_TREE as u32)).contains(&rows_per_tree)
            && seen >= u64::from(sampled);
        let threshold = reader.finite("threshold")?;
        let usual = (reader.finite("usual value")?, reader.finite("unit")?);
        if !counts_are_sound || !(0.0..=1.0).contains(&threshold) || usual.1 < 1e-9 {
            return Err(reader.corrupted("forest out of range"));
        }
        let tail = SideTail::decode(reader)?;
        let features = usize::from(reader.u16()?);
        let named = options.features.len();
        if features == 0 || features > MAX_FEATURES || named != 0 && named != features {
            return Err(reader.corrupted("number of features out of range"));
        }
        // Each column has at least 5 bytes.
        if reader.remaining() < 5 * features {
            return Err(reader.corrupted("fewer columns than promised"));
        }
        let columns: Vec<Column> =
            (0..features).map(|_| Column::decode(reader)).collect::<Result<_>>()?;
        options
            .check(features)
            .map_err(|_| reader.corrupted("categorical features out of range"))?;
        let width: usize = columns.iter().map(Column::width).sum();
        if width >= usize::from(u16::MAX) {
            return Err(reader.corrupted("too many columns"));
        }
        let count = usize::from(reader.u16()?);
        if count != options.trees {
            return Err(reader.corrupted("number of trees"));
        }
        let trees: Vec<Tree> =
            (0..count).map(|_| decode_tree(reader, width)).collect::<Result<_>>()?;
        let kept = usize::from(reader.u16()?);
        if kept > options.kept_rows {
            return Err(reader.corrupted("too many rows kept"));
        }
        let bytes = reader.take(8 * kept * features)?;
        let kept = bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        let kernel = Kernel::new(&trees, width);
        Ok(IsolationForest {
            options,
            columns,
            trees,
            seen,
            sampled,
            rows_per_tree,
            threshold,
            usual,
            tail,
            kept,
            kernel,
            width,
            normal: mean_depth(f64::from(rows_per_tree)),
        })
    }

    /// Positions of the features that are constant in the sample or have no value in it, from 0: what
    /// the trees cannot tell apart.
    pub fn uninformative(&self) -> Vec<usize> {
        let empty = |c: &Column| matches!(c.kind, ColumnKind::Empty | ColumnKind::Constant(_));
        (0..self.columns.len()).filter(|i| empty(&self.columns[*i])).collect()
    }
}

fn encode_tree(tree: &Tree, out: &mut Vec<u8>) {
    out.extend_from_slice(&(tree.nodes.len() as u16).to_le_bytes());
    for node in &tree.nodes {
        if node.is_leaf() {
            out.push(0);
            out.extend_from_slice(&node.mass.to_le_bytes());
            out.extend_from_slice(&node.value.to_le_bytes());
            continue;
        }
        out.push(node.terms.len() as u8 + 1);
        out.extend_from_slice(&node.mass.to_le_bytes());
        out.extend_from_slice(&node.cut.to_le_bytes());
        out.extend_from_slice(&node.column.to_le_bytes());
        for term in &node.terms {
            out.extend_from_slice(&term.column.to_le_bytes());
            out.extend_from_slice(&term.weight.to_le_bytes());
        }
    }
}

fn float(reader: &mut Reader<'_>, most: f32, what: &str) -> Result<f32> {
    let x = f32::from_bits(reader.u32()?);
    // NaN too
    if x.abs() <= most { Ok(x) } else { Err(reader.corrupted(what)) }
}

fn decode_tree(reader: &mut Reader<'_>, width: usize) -> Result<Tree> {
    let count = usize::from(reader.u16()?);
    if count.is_multiple_of(2) || count > MAX_NODES || reader.remaining() < 9 * count {
        return Err(reader.corrupted("number of nodes out of range"));
    }
    let column = |reader: &mut Reader<'_>| -> Result<u16> {
        let column = reader.u16()?;
        if usize::from(column) < width {
            Ok(column)
        } else {
            Err(reader.corrupted("split by a column that is not there"))
        }
    };
    let mut nodes = Vec::with_capacity(count);
    let mut next = 1u32;
    for i in 0..count {
        let columns = usize::from(reader.u8()?);
        let mass = float(reader, 1e6, "mass of a node")?;
        if mass <= 0.0 {
            return Err(reader.corrupted("mass of a node"));
        }
        let mut node = Node { child: 0, column: 0, cut: 0.0, terms: Vec::new(), mass, value: 0.0 };
        if columns == 0 {
            node.value = float(reader, MOST_VALUE, "value of a leaf")?;
        } else {
            node.cut = float(reader, f32::MAX, "cut")?;
            node.column = column(reader)?;
            if columns > MAX_DIMENSIONS {
                return Err(reader.corrupted("split by too many columns"));
            }
            for _ in 1..columns {
                let column = column(reader)?;
                let weight = float(reader, 1.0, "weight of a column")?;
                node.terms.push(Term { column, weight });
            }
            node.child = next;
            next += 2;
        }
        // A node comes after its parent, and its children have to be there.
        if i > 0 && (i as u32) >= next || next as usize > count {
            return Err(reader.corrupted("nodes without a parent"));
        }
        nodes.push(node);
    }
    if next as usize != count {
        return Err(reader.corrupted("nodes without a parent"));
    }
    let mut tree = Tree { nodes };
    if tree.depth() > MAX_DEPTH {
        return Err(reader.corrupted("a tree too deep"));
    }
    tree.sum_up();
    Ok(tree)
}

impl Options {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.trees as u16).to_le_bytes());
        out.extend_from_slice(&(self.rows_per_tree.unwrap_or(0) as u16).to_le_bytes());
        out.push(self.max_depth.unwrap_or(0) as u8);
        out.extend_from_slice(&self.contamination.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.guided.to_le_bytes());
        out.push(match self.scoring {
            Scoring::Depth => 0,
            Scoring::Density => 1,
        });
        out.push(self.dimensions as u8);
        out.push(self.tries as u8);
        out.extend_from_slice(&(self.sample_rows as u32).to_le_bytes());
        out.extend_from_slice(&(self.kept_rows as u16).to_le_bytes());
        out.extend_from_slice(&(self.categorical.len() as u16).to_le_bytes());
        for position in &self.categorical {
            out.extend_from_slice(&(*position as u16).to_le_bytes());
        }
        out.extend_from_slice(&(self.features.len() as u16).to_le_bytes());
        for name in &self.features {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Options> {
        let trees = usize::from(reader.u16()?);
        let rows_per_tree = usize::from(reader.u16()?);
        let max_depth = usize::from(reader.u8()?);
        let contamination = reader.finite("contamination")?;
        let seed = reader.u64()?;
        let guided = reader.finite("share of guided splits")?;
        let scoring = match reader.u8()? {
            0 => Scoring::Depth,
            1 => Scoring::Density,
            _ => return Err(reader.corrupted("unknown scoring")),
        };
        let (dimensions, tries) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
        let sample_rows = reader.u32()? as usize;
        let kept_rows = usize::from(reader.u16()?);
        let positions = usize::from(reader.u16()?);
        let sound = (1..=MAX_TREES).contains(&trees)
            && (rows_per_tree == 0 || (2..=MAX_ROWS_PER_TREE).contains(&rows_per_tree))
            && max_depth <= MAX_DEPTH
            && (0.0..=1.0).contains(&guided)
            && contamination > 0.0
            && contamination <= 0.5
            && (1..=MAX_DIMENSIONS).contains(&dimensions)
            && (1..=MAX_TRIES).contains(&tries)
            && (2..=MAX_ROWS).contains(&sample_rows)
            && kept_rows <= MAX_KEPT
            && positions <= MAX_FEATURES;
        if !sound {
            return Err(reader.corrupted("options out of range"));
        }
        let bytes = reader.take(2 * positions)?;
        let categorical: Vec<usize> =
            bytes.as_chunks().0.iter().map(|b| usize::from(u16::from_le_bytes(*b))).collect();
        if !categorical.is_sorted_by(|a, b| a < b) {
            return Err(reader.corrupted("categorical features out of order"));
        }
        let count = usize::from(reader.u16()?);
        // Each name has at least 2 bytes.
        if count > MAX_FEATURES || reader.remaining() < 2 * count {
            return Err(reader.corrupted("more names than there can be"));
        }
        let mut features = Vec::with_capacity(count);
        for _ in 0..count {
            let length = usize::from(reader.u8()?);
            match str::from_utf8(reader.take(length)?) {
                Ok(name) if !name.is_empty() => features.push(name.to_owned()),
                _ => return Err(reader.corrupted("name of a feature")),
            }
        }
        if twice(&features).is_some() {
            return Err(reader.corrupted("a name that is there twice"));
        }
        let none = |v: usize| if v == 0 { None } else { Some(v) };
        Ok(Options {
            ensemble: false,
            trees,
            rows_per_tree: none(rows_per_tree),
            max_depth: none(max_depth),
            contamination,
            seed,
            guided,
            scoring,
            dimensions,
            tries,
            features,
            categorical,
            sample_rows,
            kept_rows,
        })
    }
}
