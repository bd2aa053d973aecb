//! Trees as scoring wants them: flat, aligned, and walked several at a time.
//!
//! A step of a walk is one load of a node, one or two of the row, a comparison and an addition; what
//! it waits for is the load of the node before. So [`LANES`] trees are walked side by side. Leaves
//! lead to themselves, so that a step needs no branch.

use super::tree::Tree;

/// Trees walked at once: 8 are a sixth slower, and a hundred trees are ten whole groups.
const LANES: usize = 10;
/// Nodes of a tree over 256 rows.
const BLOCK: usize = 512;

/// A tree's nodes in an array of fixed length, one more than a masked index plus 1 can reach, so that
/// no index needs a check.
type Block<N> = [N; BLOCK + 1];

/// Where a node leads to and what it looks at: child in the low half, column in the high one.
type Link = u32;

fn link(child: usize, column: u16) -> Link {
    child as u32 | u32::from(column) << 16
}

#[inline(always)]
fn child(link: Link) -> usize {
    link as usize % BLOCK
}

/// `z[column] > cut` goes to child + 1.
#[derive(Debug, Clone, Copy, Default)]
struct AxisNode {
    cut: f32,
    link: Link,
}

/// `z[column] + weight · z[other] > cut` goes to child + 1.
#[derive(Debug, Clone, Copy, Default)]
struct PairNode {
    cut: f32,
    weight: f32,
    link: Link,
    other: u32,
}

trait Step: Copy {
    /// The next node, at most [`BLOCK`].
    fn next<const D: usize>(&self, z: &[f32; D]) -> usize;
}

impl Step for AxisNode {
    #[inline(always)]
    fn next<const D: usize>(&self, z: &[f32; D]) -> usize {
        child(self.link) + usize::from(z[(self.link >> 16) as usize % D] > self.cut)
    }
}

impl Step for PairNode {
    #[inline(always)]
    fn next<const D: usize>(&self, z: &[f32; D]) -> usize {
        let v = z[(self.link >> 16) as usize % D] + self.weight * z[self.other as usize % D];
        child(self.link) + usize::from(v > self.cut)
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
        let fits = width <= 256 && terms <= 1 && trees.iter().all(|t| t.nodes.len() <= BLOCK);
        let blocks = if !fits {
            Blocks::None
        } else if terms == 0 {
            Blocks::Axis(whole_groups(
                trees.iter().map(axis_block),
                [AxisNode::default(); BLOCK + 1],
            ))
        } else {
            Blocks::Pair(whole_groups(
                trees.iter().map(pair_block),
                [PairNode::default(); BLOCK + 1],
            ))
        };
        let values = if fits {
            let block =
                |t: &Tree| std::array::from_fn(|i| t.nodes.get(i).map_or(0.0, |node| node.value));
            whole_groups(trees.iter().map(block), [0.0; BLOCK + 1])
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
            self.walk(blocks, z)
        } else if let Ok(z) = <&[f32; 64]>::try_from(z) {
            self.walk(blocks, z)
        } else if let Ok(z) = <&[f32; 256]>::try_from(z) {
            self.walk(blocks, z)
        } else {
            f64::NAN
        }
    }

    fn walk<N: Step, const D: usize>(&self, blocks: &[Block<N>], z: &[f32; D]) -> f64 {
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

/// A leaf leads to itself: nothing is above infinity.
fn lead(i: usize, tree: &Tree) -> (f32, Link) {
    let node = &tree.nodes[i];
    if node.is_leaf() {
        (f32::INFINITY, link(i, 0))
    } else {
        (node.cut, link(node.child as usize, node.column))
    }
}

fn axis_block(tree: &Tree) -> Block<AxisNode> {
    let mut block = [AxisNode::default(); BLOCK + 1];
    for (i, to) in block.iter_mut().enumerate().take(tree.nodes.len()) {
        let (cut, link) = lead(i, tree);
        *to = AxisNode { cut, link };
    }
    block
}

fn pair_block(tree: &Tree) -> Block<PairNode> {
    let mut block = [PairNode::default(); BLOCK + 1];
    for (i, (to, node)) in block.iter_mut().zip(&tree.nodes).enumerate() {
        let (cut, link) = lead(i, tree);
        let (weight, other) = node.terms.first().map_or((0.0, 0), |t| (t.weight, t.column.into()));
        *to = PairNode { cut, weight, link, other };
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
