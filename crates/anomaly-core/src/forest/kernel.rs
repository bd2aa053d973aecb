//! Trees as scoring wants them: flat, aligned, and walked several at a time.
//!
//! A step of a walk is one load of a node, one or two of the row, a comparison and an addition; what
//! it waits for is the load of the node before. So [`LANES`] trees are walked side by side. Leaves
//! lead to themselves, so that a step needs no branch.

use super::tree::Tree;

/// Trees walked at once.
const LANES: usize = 8;
/// Nodes of a tree over 256 rows.
const BLOCK: usize = 512;

/// `z[column] + weight · z[other] > cut` goes to child + 1.
#[derive(Debug, Clone, Copy, Default)]
struct PairNode {
    cut: f32,
    weight: f32,
    child: u16,
    column: u16,
    other: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct AxisNode {
    cut: f32,
    child: u16,
    column: u16,
}

/// A tree's nodes in an array of fixed length, so that an index needs no check.
type Block<N> = [N; BLOCK];

trait Step: Copy + Default {
    fn next<const D: usize>(&self, z: &[f32; D]) -> u16;
}

impl Step for AxisNode {
    #[inline(always)]
    fn next<const D: usize>(&self, z: &[f32; D]) -> u16 {
        self.child + u16::from(z[usize::from(self.column) % D] > self.cut)
    }
}

impl Step for PairNode {
    #[inline(always)]
    fn next<const D: usize>(&self, z: &[f32; D]) -> u16 {
        let v = z[usize::from(self.column) % D] + self.weight * z[usize::from(self.other) % D];
        self.child + u16::from(v > self.cut)
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
    values: Vec<[f32; BLOCK]>,
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
            Blocks::Axis(trees.iter().map(axis_block).collect())
        } else {
            Blocks::Pair(trees.iter().map(pair_block).collect())
        };
        let values = if fits {
            let block =
                |t: &Tree| std::array::from_fn(|i| t.nodes.get(i).map_or(0.0, |node| node.value));
            trees.iter().map(block).collect()
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
        let (groups, rest) = blocks.as_chunks::<LANES>();
        for ((group, values), depth) in
            groups.iter().zip(self.values.as_chunks::<LANES>().0).zip(&self.depths)
        {
            let mut at = [0u16; LANES];
            for _ in 0..*depth {
                for lane in 0..LANES {
                    at[lane] = group[lane][usize::from(at[lane]) % BLOCK].next(z);
                }
            }
            for lane in 0..LANES {
                sum += f64::from(values[lane][usize::from(at[lane]) % BLOCK]);
            }
        }
        let done = blocks.len() - rest.len();
        for (block, values) in rest.iter().zip(&self.values[done..]) {
            let mut at = 0u16;
            for _ in 0..self.depths[done / LANES] {
                at = block[usize::from(at) % BLOCK].next(z);
            }
            sum += f64::from(values[usize::from(at) % BLOCK]);
        }
        sum
    }
}

/// A leaf leads to itself: nothing is above infinity.
fn child(i: usize, child: u32) -> u16 {
    if child == 0 { i as u16 } else { child as u16 }
}

fn axis_block(tree: &Tree) -> Block<AxisNode> {
    let mut block = [AxisNode::default(); BLOCK];
    for (i, (to, node)) in block.iter_mut().zip(&tree.nodes).enumerate() {
        let cut = if node.is_leaf() { f32::INFINITY } else { node.cut };
        *to = AxisNode { cut, child: child(i, node.child), column: node.column };
    }
    block
}

fn pair_block(tree: &Tree) -> Block<PairNode> {
    let mut block = [PairNode::default(); BLOCK];
    for (i, (to, node)) in block.iter_mut().zip(&tree.nodes).enumerate() {
        let cut = if node.is_leaf() { f32::INFINITY } else { node.cut };
        let (weight, other) = node.terms.first().map_or((0.0, 0), |t| (t.weight, t.column));
        *to = PairNode { cut, weight, child: child(i, node.child), column: node.column, other };
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
