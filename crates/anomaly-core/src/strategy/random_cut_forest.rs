//! `learning_random_cut_forest`: how much a point displaces in a forest of random cuts.
//!
//! A streaming robust random cut forest (Guha, Mishra, Roy & Schrijvers, "Robust random cut forest
//! based anomaly detection on streams", ICML 2016) over vectors of the latest `shingle_size` values
//! and, where the source has them, further columns of the row. Each tree cuts the bounding box of its
//! sample at a place drawn in proportion to the lengths of the box's sides, until every leaf holds
//! one vector; inserting and deleting a vector leave a tree distributed as if it had been built from
//! what remains (their theorems 4 and 5).
//!
//! The score is the collusive displacement CoDisp (their definition 4), averaged over the trees and,
//! exactly, over the random cuts by which the vector would be inserted: nothing is inserted to be
//! judged. The forecast is the forest's own: of each tree the leaf nearest in everything but the
//! newest value, and the median over the trees. What is said of distance and of p: [`super::shape`].
//!
//! * Good at: unusual combinations of columns, unusual courses of a few points, several regimes, no
//!   assumption about the distribution.
//! * Bad at: long patterns (a shingle is short), gaps between two modes (what lies beyond an unlikely
//!   value counts as at least as unlikely), more than some ten columns.
//! * Parameters: `shingle_size` 8 (1 to 16), `number_of_trees` 20 (1 to 100), `sample_size` 128 (32
//!   to 256), `history` 2048 points (256 to 8192), `random_state` 42.
//! * Cost: see the test `bytes_of_state`; a state is about 50 kB stored and 250 kB in memory.
//!
//! Samples. Each tree's sample is one point out of each of the latest `sample_size` stretches of
//! equal length, chosen by a hash of seed, tree and stretch; stretches are 1 point long at first and
//! double, two samples becoming one, until they cover `history`. So a sample is spread evenly over
//! the history, has a fixed size, forgets what is older, and follows from the counts alone: only the
//! values, and of the trees the cuts, are stored.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit};
use super::shape::{Clock, History, OFFSETS, Position, Shape, Shaped, Trust, rescale_due};
use super::{Context, EntityModel, Strategy, check_keys, integer_param, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::random::{mix, unit};
use crate::verdict::Verdict;

const NAME: &str = "learning_random_cut_forest";
/// Further columns that are looked at; those beyond are not.
pub const MAX_FEATURES: usize = 16;
const MAX_SHINGLE: usize = 16;
const MAX_DIMENSIONS: usize = MAX_FEATURES + MAX_SHINGLE;
/// With fewer points in a tree its score means little.
const LEAST_SAMPLE: usize = 32;
/// Below this chance that a vector gets so deep into a tree it is not followed any further.
const NEGLIGIBLE: f32 = 1e-4;

/// Candidates are computed side by side, as many as vector registers hold.
const LANES: usize = 8;

/// A node on the way down, with the chance that each candidate gets there (0 where it takes another
/// way) and the largest collusive displacement so far.
struct Descent {
    at: Link,
    chance: [f32; LANES],
    collusive: [f32; LANES],
}

type Vector = [f32; MAX_DIMENSIONS];
type Candidates = [f32; OFFSETS.len()];

/// Robust random cut forest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomCutForest {
    shingle: usize,
    trees: usize,
    sample: usize,
    history: usize,
    seed: u64,
}

impl RandomCutForest {
    /// Parameters `shingle_size`, `number_of_trees`, `sample_size`, `history`, `random_state`.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        let keys = ["shingle_size", "number_of_trees", "sample_size", "history", "random_state"];
        check_keys(NAME, params, &keys)?;
        let sample = integer_param(params, "sample_size", 128, 32..=256)?;
        let history = integer_param(params, "history", 2048, 256..=8192)?;
        // A whole number of doublings of the stretches.
        let doublings = (history / sample).max(1).ilog2();
        Ok(RandomCutForest {
            shingle: integer_param(params, "shingle_size", 8, 1..=MAX_SHINGLE as u64)? as usize,
            trees: integer_param(params, "number_of_trees", 20, 1..=100)? as usize,
            sample: sample as usize,
            history: (sample << doublings) as usize,
            seed: integer_param(params, "random_state", 42, 0..=u64::MAX)?,
        })
    }

    /// Points that samples reach back: shorter the more columns there are, so that the state stays
    /// as it is.
    fn reach(&self, features: usize) -> usize {
        let mut reach = self.history;
        while reach > self.sample && reach * (features + 1) > 2 * self.history {
            reach /= 2;
        }
        reach
    }

    fn keep(&self, features: usize) -> usize {
        self.reach(features) + MAX_SHINGLE
    }
}

impl Strategy for RandomCutForest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "random_cut_forest"
    }

    fn statistic_name(&self) -> &'static str {
        "deviation"
    }

    fn algorithm(&self) -> u16 {
        19
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Shaped::new(Forest::new(*self)))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(Shaped::decode(reader, |r| Forest::decode(*self, r))?))
    }
}

/// Random numbers that depend on what they are for and not on what was drawn before.
struct Random(u64);

impl Random {
    fn new(seed: u64, tree: usize, what: u64) -> Self {
        Random(mix(mix(mix(seed) ^ tree as u64) ^ what))
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = mix(self.0);
        unit(self.0)
    }
}

/// Cuts fall in proportion to lengths: stretched by this, the features together are cut at least as
/// often as the values of the shingle together.
fn feature_weight(shingle: usize, features: usize) -> f32 {
    (shingle as f32 / features.max(1) as f32).max(1.0)
}

/// The vectors of the points at hand, by their numbers.
struct Vectors<'a> {
    history: &'a History,
    shingle: usize,
}

impl Vectors<'_> {
    fn dimensions(&self) -> usize {
        self.shingle + self.history.width()
    }

    /// Oldest value first, newest value at `shingle − 1`, then the features.
    fn fill(&self, index: u64, out: &mut Vector) {
        let slot = self.history.slot(index);
        let values = &self.history.z[slot + 1 - self.shingle..=slot];
        for (o, z) in out.iter_mut().zip(values) {
            *o = *z as f32;
        }
        let weight = feature_weight(self.shingle, self.history.width());
        for (o, z) in out[self.shingle..].iter_mut().zip(self.history.features(slot)) {
            *o = weight * *z as f32;
        }
    }

    fn get(&self, index: u64) -> Vector {
        let mut out = [0.0; MAX_DIMENSIONS];
        self.fill(index, &mut out);
        out
    }
}

/// A node: a leaf with the highest bit set, else an inner node; [`NONE`] for none.
type Link = u16;
const LEAF: u16 = 1 << 15;
const NONE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy, Default)]
struct Inner {
    /// Vectors with `x[dimension] ≤ cut` are on the left.
    cut: f32,
    dimension: u8,
    left: Link,
    right: Link,
    /// Vectors below.
    mass: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Leaf {
    /// Number of the newest of its points, which are all alike.
    point: u64,
    mass: u16,
}

/// A random cut tree in flat arrays.
#[derive(Debug, Clone)]
struct Tree {
    root: Link,
    inner: Vec<Inner>,
    /// Of inner node i, the least coordinates at 2·i·dimensions and then the greatest.
    boxes: Vec<f32>,
    leaves: Vec<Leaf>,
    free_inner: Vec<u16>,
    free_leaves: Vec<u16>,
}

/// How a vector lies to a box.
struct Extension {
    /// Sum of the sides of the box extended to the vector.
    total: f64,
    inside: bool,
}

fn extension(low: &[f32], high: &[f32], p: &[f32]) -> Extension {
    let (mut total, mut inside) = (0.0f64, true);
    for ((l, h), x) in low.iter().zip(high).zip(p) {
        total += f64::from(h.max(*x) - l.min(*x));
        inside &= l <= x && x <= h;
    }
    Extension { total, inside }
}

/// A cut of the extended box at `r` of its total side, if it parts the vector from the box: the
/// dimension, the cut, and whether the vector is on its left.
fn separating_cut(low: &[f32], high: &[f32], p: &[f32], mut r: f64) -> Option<(u8, f32, bool)> {
    for (i, ((l, h), x)) in low.iter().zip(high).zip(p).enumerate() {
        let (from, to) = (l.min(*x), h.max(*x));
        let side = f64::from(to - from);
        if r < side {
            // Rounding must not lift the cut to the upper end, where it would part nothing.
            let cut = ((f64::from(from) + r) as f32).clamp(from, to);
            let cut = if cut < to { cut } else { from };
            return if x < l && cut < *l && cut >= *x {
                Some((i as u8, cut, true))
            } else if x > h && cut >= *h && cut < *x {
                Some((i as u8, cut, false))
            } else {
                None
            };
        }
        r -= side;
    }
    None
}

/// The widest cut that parts two different vectors: what is left when rounding ate the random one.
fn widest_cut(q: &[f32], p: &[f32]) -> Option<(u8, f32, bool)> {
    let mut best = None;
    let mut widest = 0.0;
    for (i, (a, x)) in q.iter().zip(p).enumerate() {
        let d = (a - x).abs();
        if d > widest {
            widest = d;
            best = Some((i as u8, a.min(*x), x < a));
        }
    }
    best
}

impl Tree {
    fn new() -> Self {
        Tree {
            root: NONE,
            inner: Vec::new(),
            boxes: Vec::new(),
            leaves: Vec::new(),
            free_inner: Vec::new(),
            free_leaves: Vec::new(),
        }
    }

    fn mass(&self, link: Link) -> u16 {
        match link {
            NONE => 0,
            leaf if leaf & LEAF != 0 => self.leaves[(leaf & !LEAF) as usize].mass,
            inner => self.inner[inner as usize].mass,
        }
    }

    fn bounds(&self, node: Link, d: usize) -> (&[f32], &[f32]) {
        self.boxes[2 * d * node as usize..][..2 * d].split_at(d)
    }

    fn new_leaf(&mut self, point: u64) -> Link {
        let leaf = Leaf { point, mass: 1 };
        let i = match self.free_leaves.pop() {
            Some(i) => {
                self.leaves[i as usize] = leaf;
                i
            }
            None => {
                self.leaves.push(leaf);
                (self.leaves.len() - 1) as u16
            }
        };
        i | LEAF
    }

    fn new_inner(&mut self, inner: Inner, d: usize) -> Link {
        match self.free_inner.pop() {
            Some(i) => {
                self.inner[i as usize] = inner;
                i
            }
            None => {
                self.inner.push(inner);
                self.boxes.resize(2 * d * self.inner.len(), 0.0);
                (self.inner.len() - 1) as u16
            }
        }
    }

    /// Puts `link` where `parent` (its left child if so said) or the root pointed.
    fn relink(&mut self, parent: Option<(Link, bool)>, link: Link) {
        match parent {
            None => self.root = link,
            Some((p, true)) => self.inner[p as usize].left = link,
            Some((p, false)) => self.inner[p as usize].right = link,
        }
    }

    /// The box of a node's two children.
    fn refit(&mut self, node: Link, vectors: &Vectors<'_>) {
        let d = vectors.dimensions();
        let Inner { left, right, .. } = self.inner[node as usize];
        let mut low = [f32::INFINITY; MAX_DIMENSIONS];
        let mut high = [f32::NEG_INFINITY; MAX_DIMENSIONS];
        for child in [left, right] {
            let point;
            let (l, h) = if child & LEAF != 0 {
                point = vectors.get(self.leaves[(child & !LEAF) as usize].point);
                (&point[..d], &point[..d])
            } else {
                self.bounds(child, d)
            };
            for i in 0..d {
                low[i] = low[i].min(l[i]);
                high[i] = high[i].max(h[i]);
            }
        }
        let at = 2 * d * node as usize;
        self.boxes[at..at + d].copy_from_slice(&low[..d]);
        self.boxes[at + d..at + 2 * d].copy_from_slice(&high[..d]);
        self.inner[node as usize].mass = self.mass(left) + self.mass(right);
    }

    /// Inserts the vector of point `index` (Guha et al. 2016, algorithm 2).
    fn insert(&mut self, index: u64, vectors: &Vectors<'_>, random: &mut Random) {
        let d = vectors.dimensions();
        let vector = vectors.get(index);
        let p = &vector[..d];
        if self.root == NONE {
            self.root = self.new_leaf(index);
            return;
        }
        let mut at = self.root;
        let mut parent = None;
        loop {
            let leaf;
            let (low, high) = if at & LEAF != 0 {
                leaf = vectors.get(self.leaves[(at & !LEAF) as usize].point);
                (&leaf[..d], &leaf[..d])
            } else {
                self.bounds(at, d)
            };
            let extended = extension(low, high, p);
            if extended.inside && at & LEAF != 0 {
                let leaf = &mut self.leaves[(at & !LEAF) as usize];
                leaf.mass += 1;
                leaf.point = leaf.point.max(index);
                return;
            }
            let r = random.unit() * extended.total;
            let mut cut = None;
            if !extended.inside {
                cut = separating_cut(low, high, p, r);
                if cut.is_none() && at & LEAF != 0 {
                    cut = widest_cut(low, p);
                }
            }
            if let Some((dimension, cut, on_left)) = cut {
                let new = self.new_leaf(index);
                let (left, right) = if on_left { (new, at) } else { (at, new) };
                let node = self.new_inner(Inner { cut, dimension, left, right, mass: 0 }, d);
                self.refit(node, vectors);
                self.relink(parent, node);
                return;
            }
            let start = 2 * d * at as usize;
            for (i, x) in p.iter().enumerate() {
                let low = &mut self.boxes[start + i];
                *low = low.min(*x);
                let high = &mut self.boxes[start + d + i];
                *high = high.max(*x);
            }
            let node = &mut self.inner[at as usize];
            node.mass += 1;
            let to_left = p[node.dimension as usize] <= node.cut;
            parent = Some((at, to_left));
            at = if to_left { node.left } else { node.right };
        }
    }

    /// Deletes the vector of point `index`, which was inserted (Guha et al. 2016, algorithm 1).
    fn delete(&mut self, index: u64, vectors: &Vectors<'_>) {
        if self.root == NONE {
            return;
        }
        let p = vectors.get(index);
        let mut path: Vec<(Link, bool)> = Vec::with_capacity(32);
        let mut at = self.root;
        while at & LEAF == 0 {
            let node = &self.inner[at as usize];
            let to_left = p[node.dimension as usize] <= node.cut;
            path.push((at, to_left));
            at = if to_left { node.left } else { node.right };
        }
        let leaf = (at & !LEAF) as usize;
        if self.leaves[leaf].mass > 1 {
            self.leaves[leaf].mass -= 1;
            for (node, _) in path {
                self.inner[node as usize].mass -= 1;
            }
            return;
        }
        self.free_leaves.push(leaf as u16);
        let Some((parent, was_left)) = path.pop() else {
            self.root = NONE;
            return;
        };
        let Inner { left, right, .. } = self.inner[parent as usize];
        self.relink(path.last().copied(), if was_left { right } else { left });
        self.free_inner.push(parent);
        for (node, _) in path.into_iter().rev() {
            self.refit(node, vectors);
        }
    }

    /// Adds, for each candidate of the newest value (ascending), the expected CoDisp of the vector
    /// that is `p` otherwise.
    ///
    /// On its way down a vector is parted from node v, of mass m(v), with the chance q of a cut in
    /// the extension of v's box. Inserted there it has v as its sibling: removing it would displace
    /// m(v), removing the subtree of c points together with it m(sibling)/(c + 1) each.
    fn displace(
        &self,
        p: &[f32],
        newest: usize,
        candidates: &Candidates,
        vectors: &Vectors<'_>,
        sums: &mut [f64; OFFSETS.len()],
    ) {
        if self.root == NONE {
            return;
        }
        let d = vectors.dimensions();
        let mut expected = [0.0f32; LANES];
        let mut x = [0.0f32; LANES];
        x[..OFFSETS.len()].copy_from_slice(candidates);
        let mut stack = Vec::with_capacity(64);
        let mut chance = [0.0; LANES];
        chance[..OFFSETS.len()].fill(1.0);
        stack.push(Descent { at: self.root, chance, collusive: [0.0; LANES] });
        while let Some(Descent { at, mut chance, collusive }) = stack.pop() {
            if chance.iter().all(|c| *c < NEGLIGIBLE) {
                continue;
            }
            if at & LEAF != 0 {
                let leaf = &self.leaves[(at & !LEAF) as usize];
                let l = vectors.get(leaf.point);
                let mass = f32::from(leaf.mass);
                let alike = (0..d).all(|i| i == newest || l[i] == p[i]);
                for k in 0..LANES {
                    let own = if alike && x[k] == l[newest] { 0.0 } else { mass };
                    expected[k] += chance[k] * own.max(collusive[k]);
                }
                continue;
            }
            let node = &self.inner[at as usize];
            let (low, high) = self.bounds(at, d);
            let (mut side, mut beyond) = (0.0f32, 0.0f32);
            for i in 0..d {
                let (l, h) = (low[i], high[i]);
                side += h - l;
                if i != newest {
                    beyond += (l - p[i]).max(0.0) + (p[i] - h).max(0.0);
                }
            }
            let mass = f32::from(node.mass);
            let (l, h) = (low[newest], high[newest]);
            for k in 0..LANES {
                let out = beyond + (l - x[k]).max(0.0) + (x[k] - h).max(0.0);
                let parted = out / (side + out);
                expected[k] += chance[k] * parted * mass.max(collusive[k]);
                chance[k] *= 1.0 - parted;
            }
            let dimension = node.dimension as usize;
            let mut to_left = [0.0f32; LANES];
            for k in 0..LANES {
                let coordinate = if dimension == newest { x[k] } else { p[dimension] };
                to_left[k] = if coordinate <= node.cut { 1.0 } else { 0.0 };
            }
            let (left, right) = (f32::from(self.mass(node.left)), f32::from(self.mass(node.right)));
            let go = |at: Link, share: f32, to: [f32; LANES]| Descent {
                at,
                chance: std::array::from_fn(|k| chance[k] * to[k]),
                collusive: collusive.map(|c| c.max(share)),
            };
            if to_left.contains(&1.0) {
                stack.push(go(node.left, right / (left + 1.0), to_left));
            }
            if to_left.contains(&0.0) {
                stack.push(go(node.right, left / (right + 1.0), to_left.map(|t| 1.0 - t)));
            }
        }
        for (sum, e) in sums.iter_mut().zip(expected) {
            *sum += f64::from(e);
        }
    }

    /// The newest value of the leaf that is nearest in everything else, among those that the cuts in
    /// everything else allow.
    fn forecast(&self, p: &[f32], newest: usize, vectors: &Vectors<'_>) -> Option<f32> {
        let d = vectors.dimensions();
        let mut nearest = None;
        let mut least = f32::INFINITY;
        let mut stack = Vec::with_capacity(32);
        if self.root != NONE {
            stack.push(self.root);
        }
        while let Some(at) = stack.pop() {
            if at & LEAF != 0 {
                let l = vectors.get(self.leaves[(at & !LEAF) as usize].point);
                let mut distance = 0.0;
                for i in 0..d {
                    if i != newest {
                        distance += (l[i] - p[i]).abs();
                    }
                }
                if distance < least {
                    least = distance;
                    nearest = Some(l[newest]);
                }
                continue;
            }
            let node = &self.inner[at as usize];
            let dimension = node.dimension as usize;
            if dimension == newest || p[dimension] > node.cut {
                stack.push(node.right);
            }
            if dimension == newest || p[dimension] <= node.cut {
                stack.push(node.left);
            }
        }
        nearest
    }

    /// The cuts in preorder: 255 for a leaf, else the dimension and the cut.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut stack = Vec::new();
        if self.root != NONE {
            stack.push(self.root);
        }
        while let Some(at) = stack.pop() {
            if at & LEAF != 0 {
                out.push(u8::MAX);
                continue;
            }
            let node = &self.inner[at as usize];
            out.push(node.dimension);
            out.extend_from_slice(&node.cut.to_le_bytes());
            stack.push(node.right);
            stack.push(node.left);
        }
    }

    /// Reads the cuts and puts the points of the sample, oldest first, into the leaves. Every leaf
    /// must get some, and points in one leaf must be alike.
    fn decode(reader: &mut Reader<'_>, points: &[u64], vectors: &Vectors<'_>) -> Result<Self> {
        let d = vectors.dimensions();
        let mut tree = Tree::new();
        if points.is_empty() {
            return Ok(tree);
        }
        // Where the next node in preorder belongs.
        let mut open: Vec<Option<(Link, bool)>> = vec![None];
        let mut inner_nodes = Vec::new();
        while let Some(parent) = open.pop() {
            let dimension = reader.u8()?;
            if dimension == u8::MAX {
                let leaf = tree.new_leaf(0);
                tree.leaves[(leaf & !LEAF) as usize].mass = 0;
                tree.relink(parent, leaf);
                continue;
            }
            let cut = f32::from_bits(reader.u32()?);
            if usize::from(dimension) >= d
                || !cut.is_finite()
                || tree.inner.len() + 1 >= points.len()
            {
                return Err(reader.corrupted("tree out of range"));
            }
            let node =
                tree.new_inner(Inner { cut, dimension, left: NONE, right: NONE, mass: 0 }, d);
            inner_nodes.push(node);
            tree.relink(parent, node);
            open.push(Some((node, false)));
            open.push(Some((node, true)));
        }
        for index in points {
            let p = vectors.get(*index);
            let mut at = tree.root;
            while at & LEAF == 0 {
                let node = &tree.inner[at as usize];
                at = if p[node.dimension as usize] <= node.cut { node.left } else { node.right };
            }
            let leaf = &mut tree.leaves[(at & !LEAF) as usize];
            if leaf.mass > 0 && vectors.get(leaf.point)[..d] != p[..d] {
                return Err(reader.corrupted("different points in one leaf"));
            }
            (leaf.point, leaf.mass) = (*index, leaf.mass + 1);
        }
        if tree.leaves.iter().any(|leaf| leaf.mass == 0) {
            return Err(reader.corrupted("leaf without a point"));
        }
        for node in inner_nodes.into_iter().rev() {
            tree.refit(node, vectors);
        }
        Ok(tree)
    }
}

/// The forest of one entity.
struct Forest {
    config: RandomCutForest,
    clock: Clock,
    history: History,
    trust: Trust,
    trees: Vec<Tree>,
    /// Latest values without a break, at most [`MAX_SHINGLE`].
    run: usize,
    /// Points learned.
    learned: u64,
    /// The forecast of the next value, scaled, where there are no features. Derived.
    next: Option<f64>,
}

impl Forest {
    fn new(config: RandomCutForest) -> Self {
        Forest {
            config,
            clock: Clock::new(),
            history: History::new(config.keep(0), 0),
            trust: Trust::default(),
            trees: vec![Tree::new(); config.trees],
            run: 0,
            learned: 0,
            next: None,
        }
    }

    fn dimensions(&self) -> usize {
        self.config.shingle + self.history.width()
    }

    /// How often stretches have doubled when so many values have been pushed.
    fn level(&self, pushed: u64) -> u32 {
        let sample = self.config.sample as u64;
        let last = (self.config.reach(self.history.width()) as u64 / sample).ilog2();
        (0..last).find(|level| pushed <= sample << level).unwrap_or(last)
    }

    /// The point chosen from stretch `stretch` at a level: one of the two chosen below.
    fn chosen(&self, tree: usize, mut stretch: u64, level: u32) -> u64 {
        for below in (0..level).rev() {
            let what = stretch ^ u64::from(below) << 56;
            stretch = 2 * stretch + (mix(mix(self.config.seed ^ !(tree as u64)) ^ what) & 1);
        }
        stretch
    }

    /// The points in the sample of a tree, oldest first.
    fn sample(&self, tree: usize) -> Vec<u64> {
        let pushed = self.history.pushed;
        let level = self.level(pushed);
        let stretches = pushed.div_ceil(1 << level);
        let first = stretches.saturating_sub(self.config.sample as u64);
        (first..stretches)
            .map(|s| self.chosen(tree, s, level))
            .filter(|&i| i < pushed && self.is_sampled(i))
            .collect()
    }

    fn is_sampled(&self, index: u64) -> bool {
        index + (self.history.len() as u64) >= self.history.pushed
            && self.history.is_real(self.history.slot(index))
    }

    fn rebuild(&mut self) {
        for tree in 0..self.trees.len() {
            let sample = self.sample(tree);
            let vectors = Vectors { history: &self.history, shingle: self.config.shingle };
            let mut random = Random::new(self.config.seed, tree, !self.history.pushed);
            let mut built = Tree::new();
            for index in sample {
                built.insert(index, &vectors, &mut random);
            }
            self.trees[tree] = built;
        }
    }

    /// Pushes a value; `real` if it is measured and follows at least shingle − 1 values without a
    /// break, so that its vector belongs into the sample.
    fn append(&mut self, x: f64, features: &[f64], real: bool) {
        let before = self.level(self.history.pushed);
        self.history.push(x, features, real);
        let pushed = self.history.pushed;
        let (index, level) = (pushed - 1, self.level(pushed));
        if rescale_due(pushed, self.history_reach())
            && let Some(change) = self.history.rescale()
        {
            self.trust.rescale(change);
            self.rebuild();
            return;
        }
        let sample = self.config.sample as u64;
        let stretch = index >> level;
        for tree in 0..self.trees.len() {
            if level > before {
                // Half of what was chosen makes room for longer stretches.
                for old in 0..sample {
                    let point = self.chosen(tree, old, before);
                    if point != self.chosen(tree, old / 2, level) && point < index {
                        self.delete(tree, point);
                    }
                }
            }
            if index.is_multiple_of(1 << level) && stretch >= sample {
                self.delete(tree, self.chosen(tree, stretch - sample, level));
            }
            if self.chosen(tree, stretch, level) == index && real {
                let vectors = Vectors { history: &self.history, shingle: self.config.shingle };
                let mut random = Random::new(self.config.seed, tree, index);
                self.trees[tree].insert(index, &vectors, &mut random);
            }
        }
    }

    fn history_reach(&self) -> usize {
        self.config.reach(self.history.width())
    }

    fn delete(&mut self, tree: usize, index: u64) {
        if self.is_sampled(index) {
            let vectors = Vectors { history: &self.history, shingle: self.config.shingle };
            self.trees[tree].delete(index, &vectors);
        }
    }

    /// Points in the largest sample there can be now, or none while vectors are incomplete.
    fn sampled(&self) -> usize {
        self.trees.first().map_or(0, |t| usize::from(t.mass(t.root)))
    }

    /// The vector of the next point, `ahead` forecasts from the latest; the newest value is left 0.
    fn query(&self, features: &[f64], ahead: &[f64]) -> Vector {
        let mut p = [0.0; MAX_DIMENSIONS];
        let known = self.config.shingle - 1;
        let z = &self.history.z;
        for (i, o) in p[..known].iter_mut().enumerate() {
            // counted from the newest known value backwards
            let back = known - 1 - i;
            *o = if back < ahead.len() {
                ahead[ahead.len() - 1 - back] as f32
            } else {
                z[z.len() - 1 - (back - ahead.len())] as f32
            };
        }
        let weight = feature_weight(self.config.shingle, self.history.width());
        for (o, f) in p[known + 1..].iter_mut().zip(self.history.scale_features(features)) {
            *o = weight * f as f32;
        }
        p
    }

    /// The forest's forecast of the newest value of a vector, scaled.
    fn forecast_of(&self, p: &Vector) -> Option<f64> {
        if self.dimensions() < 2 || self.sampled() < LEAST_SAMPLE {
            return None;
        }
        let vectors = Vectors { history: &self.history, shingle: self.config.shingle };
        let newest = self.config.shingle - 1;
        let mut found: Vec<f32> =
            self.trees.iter().filter_map(|t| t.forecast(p, newest, &vectors)).collect();
        let middle = found.len() / 2;
        (!found.is_empty())
            .then(|| f64::from(*found.select_nth_unstable_by(middle, f32::total_cmp).1))
    }

    /// The forecast of a point `steps` after the latest, scaled, and those of the points between.
    fn forecasts(&self, features: &[f64], steps: usize) -> Option<Vec<f64>> {
        if self.run + 1 < self.config.shingle {
            return None;
        }
        let mut ahead = Vec::new();
        for _ in 0..steps {
            let f = if ahead.is_empty() && self.history.width() == 0 {
                self.next?
            } else {
                self.forecast_of(&self.query(features, &ahead))?
            };
            ahead.push(self.trust.centre(f));
        }
        Some(ahead)
    }

    fn position(&self, at: i64) -> Position {
        self.clock.position(at, self.config.shingle.max(2))
    }

    /// The unshrunk forecast of a point in its place.
    fn forecast(&self, point: &Point, position: Position) -> Option<f64> {
        let Position::Next(steps) = position else { return None };
        if self.run + 1 < self.config.shingle {
            return None;
        }
        let ahead = self.forecasts(point.features, steps - 1)?;
        if ahead.is_empty() && self.history.width() == 0 {
            return self.next;
        }
        self.forecast_of(&self.query(point.features, &ahead))
    }

    /// Mean CoDisp over the trees for each candidate of the newest value.
    fn score(&self, p: &Vector, candidates: &Candidates) -> [f64; OFFSETS.len()] {
        let vectors = Vectors { history: &self.history, shingle: self.config.shingle };
        let mut sums = [0.0; OFFSETS.len()];
        for tree in &self.trees {
            tree.displace(p, self.config.shingle - 1, candidates, &vectors, &mut sums);
        }
        sums.map(|s| s / self.trees.len() as f64)
    }

    fn derive_next(&mut self) {
        self.next = if self.history.width() == 0
            && self.run + 1 >= self.config.shingle
            && !self.history.z.is_empty()
        {
            self.forecast_of(&self.query(&[], &[]))
        } else {
            None
        };
    }

    fn decode(config: RandomCutForest, reader: &mut Reader<'_>) -> Result<Self> {
        let clock = Clock::decode(reader)?;
        let trust = Trust::decode(reader)?;
        let learned = reader.u64()?;
        let run = usize::from(reader.u8()?);
        let history = History::decode(reader, |f| config.keep(f), MAX_FEATURES)?;
        let mut forest = Forest {
            config,
            clock,
            trust,
            trees: Vec::with_capacity(config.trees),
            run,
            learned,
            next: None,
            history,
        };
        let first_sampled = (0..forest.history.len()).find(|s| forest.history.is_real(*s));
        // Older values than the shingle of the oldest point are always there.
        let complete = first_sampled.is_none_or(|s| s + 1 >= config.shingle)
            || forest.history.pushed > forest.history.len() as u64;
        if run > forest.history.len().min(MAX_SHINGLE)
            || learned > i64::MAX as u64
            || forest.history.pushed > i64::MAX as u64
            || !complete
        {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for tree in 0..config.trees {
            let sample = forest.sample(tree);
            let vectors = Vectors { history: &forest.history, shingle: config.shingle };
            let tree = Tree::decode(reader, &sample, &vectors)?;
            forest.trees.push(tree);
        }
        forest.derive_next();
        Ok(forest)
    }
}

impl Baseline for Forest {
    /// Spreads are means of so many squares as there are points, within the memory of [`Trust`].
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        count.saturating_sub(1).min(500) as f64
    }

    fn count(&self) -> u64 {
        self.learned
    }

    fn push(&mut self, point: &Point) {
        let position = self.position(point.at);
        if position == Position::Late {
            // Learned by its residual; it has no place in the sequence any more.
            self.learned += 1;
            return;
        }
        if self.learned == 0 && self.history.pushed == 0 {
            let width = point.features.len().min(MAX_FEATURES);
            self.history = History::new(self.config.keep(width), width);
        }
        let forecast = self.forecast(point, position);
        match position {
            Position::Next(steps) if steps > 1 => match self.forecasts(point.features, steps - 1) {
                Some(ahead) => {
                    for z in ahead {
                        let x = self.history.unscale(z);
                        self.append(x, point.features, false);
                        self.run = (self.run + 1).min(MAX_SHINGLE);
                    }
                }
                None => self.run = 0,
            },
            Position::Next(_) => {}
            _ => self.run = 0,
        }
        self.trust.learn(self.history.scale(point.value), forecast);
        self.clock.push(point.at);
        self.run = (self.run + 1).min(MAX_SHINGLE);
        self.append(point.value, point.features, self.run >= self.config.shingle);
        self.learned += 1;
        self.derive_next();
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.history.pushed == 0 {
            return None;
        }
        let position = self.position(point.at);
        let steps = if let Position::Next(steps) = position { steps } else { 1 };
        let (centre, spread) = self.trust.expect(self.forecast(point, position), steps);
        let spread = self.history.unscale_length(spread);
        Some(Fit { centre: self.history.unscale(centre), below: spread, above: spread })
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        map.insert("expected".into(), json_number(verdict.expected));
    }

    fn explain(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("shingle_size".into(), Value::from(self.config.shingle));
        map.insert("number_of_trees".into(), Value::from(self.config.trees));
        map.insert("sample_size".into(), Value::from(self.config.sample));
        map.insert("history".into(), Value::from(self.history_reach()));
        map.insert("features".into(), Value::from(self.history.width()));
        map
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.clock.encode(out);
        self.trust.encode(out);
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.push(self.run as u8);
        self.history.encode(out);
        for tree in &self.trees {
            tree.encode(out);
        }
        Ok(())
    }
}

impl Shape for Forest {
    const STATISTIC: &'static str = "displacement";

    fn profile(&self, point: &Point, fit: &Fit) -> Option<[f64; OFFSETS.len()]> {
        if self.position(point.at) != Position::Next(1)
            || self.run + 1 < self.config.shingle
            || self.sampled() < LEAST_SAMPLE
        {
            return None;
        }
        let at = |offset: f64| self.history.scale(fit.centre + offset * fit.below) as f32;
        Some(self.score(&self.query(point.features, &[]), &OFFSETS.map(at)))
    }

    fn disturbs(&self) -> u8 {
        self.config.shingle as u8 - 1
    }

    fn features(&self) -> usize {
        self.history.width()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(points: &[[f64; 2]]) -> History {
        let mut history = History::new(512, 1);
        for [x, y] in points {
            history.push(*x, &[*y], true);
        }
        history
    }

    fn tree(seed: u64, points: std::ops::Range<u64>, vectors: &Vectors<'_>) -> Tree {
        let mut tree = Tree::new();
        for index in points {
            tree.insert(index, vectors, &mut Random::new(seed, 0, index));
        }
        tree
    }

    const POINTS: [[f64; 2]; 12] = [
        [0.0, 0.0],
        [1.0, 0.0],
        [0.0, 1.0],
        [2.0, 1.0],
        [1.0, 3.0],
        [3.0, 2.0],
        [2.0, 2.0],
        [4.0, 4.0],
        [1.0, 1.0],
        [0.0, 3.0],
        [3.0, 0.0],
        [2.0, 4.0],
    ];

    fn mean_codisp(trees: &[Tree], vectors: &Vectors<'_>, q: [f64; 2]) -> f64 {
        let mut sums = [0.0; OFFSETS.len()];
        for tree in trees {
            let p = [0.0, q[1] as f32];
            tree.displace(&p, 0, &[q[0] as f32; OFFSETS.len()], vectors, &mut sums);
        }
        sums[0] / trees.len() as f64
    }

    /// rrcf 0.4.4: `RCTree(points, random_state=k)`, `insert_point(q)`, `codisp(q)`, mean over k in
    /// range(6000); the standard errors of those means are at most 0.8 %.
    #[test]
    fn displacement_against_references() {
        let history = history(&POINTS);
        let vectors = Vectors { history: &history, shingle: 1 };
        let trees: Vec<Tree> = (0..2000).map(|k| tree(k, 0..12, &vectors)).collect();
        for (q, codisp) in [
            ([1.5, 1.5], 1.8671416666666667),
            ([6.0, 6.0], 6.683802777777777),
            ([2.0, 9.0], 7.715305555555556),
            ([3.0, 1.0], 1.670663888888889),
        ] {
            let mean = mean_codisp(&trees, &vectors, q);
            assert!((mean / codisp - 1.0).abs() < 0.03, "{q:?}: {mean} instead of {codisp}");
        }
    }

    /// Theorem 5 of Guha et al. 2016: what remains after deletions is distributed like a tree that
    /// never held the deleted points.
    #[test]
    fn deleting_leaves_a_tree_of_the_rest() {
        let far = [[50.0, -30.0], [-20.0, 7.0], [6.0, 40.0]];
        let points: Vec<[f64; 2]> = far.iter().chain(&POINTS).copied().collect();
        let history = history(&points);
        let vectors = Vectors { history: &history, shingle: 1 };
        let trees: Vec<Tree> = (0..2000)
            .map(|k| {
                let mut tree = tree(k, 0..15, &vectors);
                (0..3).for_each(|index| tree.delete(index, &vectors));
                tree
            })
            .collect();
        for (q, codisp) in [([1.5, 1.5], 1.8671416666666667), ([6.0, 6.0], 6.683802777777777)] {
            let mean = mean_codisp(&trees, &vectors, q);
            assert!((mean / codisp - 1.0).abs() < 0.03, "{q:?}: {mean} instead of {codisp}");
        }
    }

    /// Masses and boxes of all nodes, by going through everything below them.
    fn check(tree: &Tree, at: Link, vectors: &Vectors<'_>) -> (Vec<f32>, Vec<f32>, u16) {
        let d = vectors.dimensions();
        if at & LEAF != 0 {
            let leaf = tree.leaves[(at & !LEAF) as usize];
            let p = vectors.get(leaf.point)[..d].to_vec();
            assert!(leaf.mass > 0);
            return (p.clone(), p, leaf.mass);
        }
        let node = tree.inner[at as usize];
        let (low_l, high_l, mass_l) = check(tree, node.left, vectors);
        let (low_r, high_r, mass_r) = check(tree, node.right, vectors);
        let dimension = node.dimension as usize;
        assert!(high_l[dimension] <= node.cut && node.cut < low_r[dimension]);
        let low: Vec<f32> = low_l.iter().zip(&low_r).map(|(a, b)| a.min(*b)).collect();
        let high: Vec<f32> = high_l.iter().zip(&high_r).map(|(a, b)| a.max(*b)).collect();
        assert_eq!(tree.bounds(at, d), (&low[..], &high[..]));
        assert_eq!(node.mass, mass_l + mass_r);
        (low, high, node.mass)
    }

    /// Through all doublings, the sliding, breaks and changes of scale: every tree holds exactly the
    /// sample that follows from the counts, with ties, in sound boxes.
    #[test]
    fn trees_hold_their_samples() {
        let params = serde_json::json!({"number_of_trees": 3, "sample_size": 32, "history": 256});
        let Value::Object(params) = params else { unreachable!() };
        let calendar = crate::calendar::Calendar::new("UTC").unwrap();
        let context = Context::new(calendar, super::super::Kind::Value);
        let mut forest = Forest::new(RandomCutForest::new(&params, &context).unwrap());
        let mut at = 0;
        for i in 0..1500i64 {
            at += if i % 211 == 0 { 1_000_000 } else { 1000 + 1000 * i64::from(i % 37 == 0) };
            let scale = if i > 900 { 1e6 } else { 1.0 };
            let value = scale * (((i * 7919) % 13) as f64 + f64::from(i % 4 == 0) * 0.5);
            let features = [((i * 31) % 7) as f64];
            forest.push(&Point { features: &features, ..Point::new(at, value) });
            if i % 50 != 49 && i > 40 {
                continue;
            }
            for (k, tree) in forest.trees.iter().enumerate() {
                let sample = forest.sample(k);
                let vectors = Vectors { history: &forest.history, shingle: 8 };
                assert_eq!(usize::from(tree.mass(tree.root)), sample.len(), "after {i}");
                if tree.root != NONE {
                    check(tree, tree.root, &vectors);
                }
                let mut left = tree.clone();
                sample.iter().for_each(|index| left.delete(*index, &vectors));
                assert_eq!(left.root, NONE);
            }
        }
        // Breaks leave out shingle − 1 points each, and filled points are not sampled.
        assert!(forest.sample(0).len() > 24, "{}", forest.sample(0).len());
        assert_ne!(forest.sample(0), forest.sample(1));
    }
}
