//! Trees as scoring wants them: flat, aligned, and walked several at a time.
//!
//! A step of a walk is one load of a node, one or two of the row, a comparison and an addition; what
//! it waits for is the load of the node before. So [`LANES`] trees are walked side by side. Leaves
//! lead to themselves, so that a step needs no branch, and every index is a byte or two bytes' sum,
//! so that it needs no check and no mask either.

use super::tree::Tree;

/// Trees walked at once: 8 are a sixth slower, and a hundred trees are ten whole groups.
const LANES: usize = 10;
/// Nodes of a tree over 256 rows, and one that is not used: siblings stand at 2i and 2i + 1, the root
/// at 0.
const BLOCK: usize = 512;
/// Columns that a byte can name.
const COLUMNS: usize = 256;

type Block<N> = [N; BLOCK];

/// `z[column] > cut` goes to 2 · pair + 1, anything else to 2 · pair. In one word, because loads are
/// what a walk takes its time for: the cut as an ordered integer ([`ordered`]), the pair in bits 32 to
/// 39, the column in bits 56 to 63.
#[derive(Debug, Clone, Copy, Default)]
struct AxisNode(u64);

impl AxisNode {
    fn new(cut: f32, column: u8, pair: u8) -> Self {
        let cut = ordered(cut) as u32;
        AxisNode(u64::from(cut) | u64::from(pair) << 32 | u64::from(column) << 56)
    }
}

/// `z[column] + weight · z[other] > cut` goes to 2 · pair + 1. In `link` the pair is the lowest byte,
/// then column and other.
#[derive(Debug, Clone, Copy, Default)]
struct PairNode {
    cut: f32,
    weight: f32,
    link: u32,
}

impl PairNode {
    fn new(cut: f32, column: u8, pair: u8, (weight, other): (f32, u8)) -> Self {
        PairNode { cut, weight, link: u32::from_le_bytes([pair, column, other, 0]) }
    }
}

/// Integers in the order of the numbers, which are not NaN.
#[inline(always)]
fn ordered(x: f32) -> i32 {
    // −0 is 0
    let bits = (x + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) & i32::MAX)
}

/// What nodes compare with: a row's values as they want them.
trait Step: Copy {
    type Value: Copy;
    fn value(x: f32) -> Self::Value;
    fn next<const D: usize>(&self, z: &[Self::Value; D]) -> usize;
}

impl Step for AxisNode {
    type Value = i32;

    #[inline(always)]
    fn value(x: f32) -> i32 {
        ordered(x)
    }

    #[inline(always)]
    fn next<const D: usize>(&self, z: &[i32; D]) -> usize {
        let above = z[(self.0 >> 56) as usize % D] > self.0 as i32;
        2 * usize::from((self.0 >> 32) as u8) + usize::from(above)
    }
}

impl Step for PairNode {
    type Value = f32;

    #[inline(always)]
    fn value(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn next<const D: usize>(&self, z: &[f32; D]) -> usize {
        let [pair, column, other, _] = self.link.to_le_bytes();
        let v = z[usize::from(column) % D] + self.weight * z[usize::from(other) % D];
        2 * usize::from(pair) + usize::from(v > self.cut)
    }
}

#[derive(Debug, Clone)]
enum Blocks {
    Axis(Vec<Block<AxisNode>>),
    Pair(Vec<Block<PairNode>>),
    /// Larger trees, or more columns in a direction: walked as they are.
    None,
}

#[derive(Debug, Clone)]
pub(super) struct Kernel {
    blocks: Blocks,
    /// Values of the nodes, tree by tree.
    values: Vec<Block<f32>>,
    /// Depth of each group of trees.
    depths: Vec<usize>,
}

/// What rows are padded to.
pub(super) fn padded(width: usize) -> usize {
    match width {
        0..=16 => 16,
        17..=64 => 64,
        65..=256 => 256,
        _ => width,
    }
}

impl Kernel {
    pub fn new(trees: &[Tree], width: usize) -> Kernel {
        let terms = trees.iter().flat_map(|t| &t.nodes).map(|n| n.terms.len()).max().unwrap_or(0);
        let fits = width <= COLUMNS && terms <= 1 && trees.iter().all(|t| t.nodes.len() < BLOCK);
        let blocks = if !fits {
            Blocks::None
        } else if terms == 0 {
            Blocks::Axis(whole_groups(trees.iter().map(axis_block), [AxisNode::default(); BLOCK]))
        } else {
            Blocks::Pair(whole_groups(trees.iter().map(pair_block), [PairNode::default(); BLOCK]))
        };
        let values = if fits {
            whole_groups(trees.iter().map(value_block), [0.0; BLOCK])
        } else {
            Vec::new()
        };
        let depths = trees
            .chunks(LANES)
            .map(|group| group.iter().map(Tree::depth).max().unwrap_or(0))
            .collect();
        Kernel { blocks, values, depths }
    }

    /// Sum over the trees of the leaves' values for one padded row without missing values.
    pub fn sum(&self, trees: &[Tree], z: &[f32]) -> f64 {
        match &self.blocks {
            Blocks::Axis(blocks) => self.dispatch(blocks, z),
            Blocks::Pair(blocks) => self.dispatch(blocks, z),
            Blocks::None => trees.iter().map(|t| f64::from(walk(t, z))).sum(),
        }
    }

    fn dispatch<N: Step>(&self, blocks: &[Block<N>], z: &[f32]) -> f64 {
        if let Ok(z) = <&[f32; 16]>::try_from(z) {
            self.walk(blocks, &z.map(N::value))
        } else if let Ok(z) = <&[f32; 64]>::try_from(z) {
            self.walk(blocks, &z.map(N::value))
        } else if let Ok(z) = <&[f32; 256]>::try_from(z) {
            self.walk(blocks, &z.map(N::value))
        } else {
            f64::NAN
        }
    }

    fn walk<N: Step, const D: usize>(&self, blocks: &[Block<N>], z: &[N::Value; D]) -> f64 {
        let mut sum = 0.0;
        let (groups, _) = blocks.as_chunks::<LANES>();
        for ((group, values), depth) in
            groups.iter().zip(self.values.as_chunks::<LANES>().0).zip(&self.depths)
        {
            let mut at = [0usize; LANES];
            for _ in 0..*depth {
                for lane in 0..LANES {
                    at[lane] = group[lane][at[lane]].next(z);
                }
            }
            for lane in 0..LANES {
                sum += f64::from(values[lane][at[lane]]);
            }
        }
        sum
    }
}

/// Trees that are worth nothing fill the last group.
fn whole_groups<B: Clone>(blocks: impl ExactSizeIterator<Item = B>, nothing: B) -> Vec<B> {
    let whole = blocks.len().next_multiple_of(LANES);
    let mut blocks: Vec<B> = blocks.collect();
    blocks.resize(whole, nothing);
    blocks
}

/// Where a tree's node stands: its children follow the root in pairs.
fn slot(node: usize) -> usize {
    if node == 0 { 0 } else { node + 1 }
}

/// Cut and pair of a node. A leaf leads to itself: nothing is above infinity, everything above minus
/// infinity.
fn lead(node: usize, tree: &Tree) -> (f32, u8) {
    let own = slot(node);
    let n = &tree.nodes[node];
    if n.is_leaf() {
        let cut = if own.is_multiple_of(2) { f32::INFINITY } else { f32::NEG_INFINITY };
        (cut, (own / 2) as u8)
    } else {
        (n.cut, (slot(n.child as usize) / 2) as u8)
    }
}

fn axis_block(tree: &Tree) -> Block<AxisNode> {
    let mut block = [AxisNode::default(); BLOCK];
    for (i, node) in tree.nodes.iter().enumerate() {
        let (cut, pair) = lead(i, tree);
        block[slot(i)] = AxisNode::new(cut, node.column as u8, pair);
    }
    block
}

fn pair_block(tree: &Tree) -> Block<PairNode> {
    let mut block = [PairNode::default(); BLOCK];
    for (i, node) in tree.nodes.iter().enumerate() {
        let (cut, pair) = lead(i, tree);
        let other = node.terms.first().map_or((0.0, 0), |t| (t.weight, t.column as u8));
        block[slot(i)] = PairNode::new(cut, node.column as u8, pair, other);
    }
    block
}

fn value_block(tree: &Tree) -> Block<f32> {
    let mut block = [0.0; BLOCK];
    for (i, node) in tree.nodes.iter().enumerate() {
        block[slot(i)] = node.value;
    }
    block
}

/// The value of the leaf that a row without missing values gets to.
pub(super) fn walk(tree: &Tree, z: &[f32]) -> f32 {
    let mut node = &tree.nodes[0];
    while !node.is_leaf() {
        let above = node.projection(z) > node.cut;
        node = &tree.nodes[node.child as usize + usize::from(above)];
    }
    node.value
}
