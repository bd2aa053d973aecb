//! A sorted multiset for moving windows: insert, remove, rank, median, MAD and quantiles.

use crate::{Error, Result};

/// Values per block. Half a block is moved per insertion, so small blocks are cheap to change; few
/// blocks keep the index small.
const BLOCK: usize = 256;
/// A block shorter than this is merged with a neighbour if both fit into three quarters of a block.
const SHORT: usize = BLOCK / 4;

/// Most values one window may hold: 2^27 values are 1 GiB and more with their slack.
pub const MAX_VALUES: usize = 1 << 27;

/// Steps of a linear search for the MAD's window before it turns to bisection.
const NEAR: usize = 12;

/// Where a value stands: block and offset inside it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    block: usize,
    offset: usize,
}

/// Finite values in ascending order, cut into contiguous blocks.
///
/// Insertion and removal find the block by bisection over the blocks' smallest values, then the place
/// by bisection in the block, then move at most a block. Ranks are found through a Fenwick tree over
/// the blocks' lengths (Fenwick, Software: Practice and Experience 24, 1994), rebuilt when a block
/// splits, merges or goes. So each operation costs O(log n) steps plus one short move, and memory is
/// linear in the number of values held.
#[derive(Debug, Default)]
pub struct OrderWindow {
    blocks: Vec<Vec<f64>>,
    smallest: Vec<f64>,
    /// `tree[i]` covers the blocks `i − lowbit(i + 1) + 1 ..= i`.
    tree: Vec<u32>,
    spare: Vec<Vec<f64>>,
    len: usize,
    /// Where the last MAD's window began: the next one begins near it.
    mad_start: usize,
}

fn out_of_memory() -> Error {
    Error::TooLarge(format!("not enough memory for one more block of {BLOCK} window values"))
}

impl OrderWindow {
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of values held.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a finite value.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`MAX_VALUES`] or when memory is exhausted; the window is unchanged.
    pub fn insert(&mut self, x: f64) -> Result<()> {
        debug_assert!(x.is_finite());
        if self.blocks.is_empty() {
            return self.insert_first(x);
        }
        let mut b = self.block_of(x);
        if self.blocks[b].len() == BLOCK {
            if self.len >= MAX_VALUES {
                return Err(Error::TooLarge(format!(
                    "window frame holds {} values, the limit is {MAX_VALUES}",
                    self.len
                )));
            }
            self.split(b)?;
            b = self.block_of(x);
        }
        let block = &mut self.blocks[b];
        let at = block.partition_point(|&y| y <= x);
        block.insert(at, x); // never reallocates: capacity is BLOCK
        if at == 0 {
            self.smallest[b] = x;
        }
        self.len += 1;
        self.tree_add(b, 1);
        Ok(())
    }

    /// Takes out one value equal to `x`; `false` if there is none.
    pub fn remove(&mut self, x: f64) -> bool {
        if self.blocks.is_empty() {
            return false;
        }
        // The last occurrence of x is in the last block that begins at or below x.
        let b = self.block_of(x);
        let block = &mut self.blocks[b];
        let after = block.partition_point(|&y| y <= x);
        if after == 0 || block[after - 1] != x {
            return false;
        }
        block.remove(after - 1);
        self.len -= 1;
        let length = block.len();
        if length >= SHORT {
            if after == 1 {
                self.smallest[b] = block[0];
            }
            self.tree_sub(b, 1);
        } else {
            self.shrink(b);
        }
        true
    }

    /// Last block whose smallest value is at or below `x`, or the first block.
    #[inline]
    fn block_of(&self, x: f64) -> usize {
        if self.smallest.len() == 1 {
            return 0;
        }
        self.smallest.partition_point(|&y| y <= x).saturating_sub(1)
    }

    #[cold]
    fn insert_first(&mut self, x: f64) -> Result<()> {
        let mut block = self.new_block()?;
        block.push(x);
        self.blocks.try_reserve(1).map_err(|_| out_of_memory())?;
        self.smallest.try_reserve(1).map_err(|_| out_of_memory())?;
        self.tree.try_reserve(1).map_err(|_| out_of_memory())?;
        self.blocks.push(block);
        self.smallest.push(x);
        self.len = 1;
        self.rebuild();
        Ok(())
    }

    fn new_block(&mut self) -> Result<Vec<f64>> {
        if let Some(block) = self.spare.pop() {
            return Ok(block);
        }
        let mut block = Vec::new();
        block.try_reserve_exact(BLOCK).map_err(|_| out_of_memory())?;
        Ok(block)
    }

    #[cold]
    fn split(&mut self, b: usize) -> Result<()> {
        let mut upper = self.new_block()?;
        self.blocks.try_reserve(1).map_err(|_| out_of_memory())?;
        self.smallest.try_reserve(1).map_err(|_| out_of_memory())?;
        self.tree.try_reserve(1).map_err(|_| out_of_memory())?;
        // Sorted arrival fills the last block from below; leave it nearly full then.
        let at = if b + 1 == self.blocks.len() { BLOCK * 3 / 4 } else { BLOCK / 2 };
        upper.extend_from_slice(&self.blocks[b][at..]);
        self.blocks[b].truncate(at);
        self.smallest.insert(b + 1, upper[0]);
        self.blocks.insert(b + 1, upper);
        self.rebuild();
        Ok(())
    }

    /// A block has become short: drop it, merge it or leave it.
    #[cold]
    fn shrink(&mut self, b: usize) {
        if self.blocks[b].is_empty() {
            self.drop_block(b);
            self.rebuild();
            return;
        }
        self.smallest[b] = self.blocks[b][0];
        let fits = |s: &Self, i: usize| s.blocks[i].len() + s.blocks[i + 1].len() <= BLOCK * 3 / 4;
        let left = if b > 0 && fits(self, b - 1) {
            b - 1
        } else if b + 1 < self.blocks.len() && fits(self, b) {
            b
        } else {
            self.tree_sub(b, 1);
            return;
        };
        let (head, tail) = self.blocks.split_at_mut(left + 1);
        head[left].extend_from_slice(&tail[0]);
        self.drop_block(left + 1);
        self.rebuild();
    }

    fn drop_block(&mut self, b: usize) {
        let mut block = self.blocks.remove(b);
        self.smallest.remove(b);
        // One spare block avoids allocating anew when a window's size hovers around a boundary.
        if self.spare.is_empty() {
            block.clear();
            self.spare.push(block);
        }
    }

    fn rebuild(&mut self) {
        let n = self.blocks.len();
        self.tree.clear();
        self.tree.extend(self.blocks.iter().map(|b| b.len() as u32)); // capacity reserved with the block
        for i in 0..n {
            let parent = i | (i + 1);
            if parent < n {
                self.tree[parent] += self.tree[i];
            }
        }
    }

    #[inline]
    fn tree_add(&mut self, b: usize, by: u32) {
        let mut i = b;
        while let Some(t) = self.tree.get_mut(i) {
            *t += by;
            i |= i + 1;
        }
    }

    #[inline]
    fn tree_sub(&mut self, b: usize, by: u32) {
        let mut i = b;
        while let Some(t) = self.tree.get_mut(i) {
            *t -= by;
            i |= i + 1;
        }
    }

    /// Place of the value of 0-based `rank < len`.
    #[inline]
    fn place(&self, rank: usize) -> Place {
        debug_assert!(rank < self.len);
        let n = self.tree.len();
        if n == 1 {
            return Place { block: 0, offset: rank };
        }
        let mut left = rank as u32;
        let mut block = 0;
        let mut step = 1usize << n.ilog2();
        while step > 0 {
            let next = block + step;
            if next <= n {
                let covered = self.tree[next - 1];
                let skip = covered <= left;
                left -= if skip { covered } else { 0 };
                block = if skip { next } else { block };
            }
            step >>= 1;
        }
        Place { block, offset: left as usize }
    }

    #[inline]
    fn at(&self, place: Place) -> f64 {
        self.blocks[place.block][place.offset]
    }

    #[inline]
    fn next(&self, mut place: Place) -> Place {
        place.offset += 1;
        if place.offset == self.blocks[place.block].len() {
            place = Place { block: place.block + 1, offset: 0 };
        }
        place
    }

    #[inline]
    fn previous(&self, place: Place) -> Place {
        if place.offset > 0 {
            Place { offset: place.offset - 1, ..place }
        } else {
            Place { block: place.block - 1, offset: self.blocks[place.block - 1].len() - 1 }
        }
    }

    /// The value of 0-based `rank`, or `None` at or beyond `len`.
    pub fn select(&self, rank: usize) -> Option<f64> {
        (rank < self.len).then(|| self.at(self.place(rank)))
    }

    /// Median; the mean of the two middle values when their number is even.
    #[inline]
    pub fn median(&self) -> Option<f64> {
        if self.len == 0 {
            return None;
        }
        let lower = self.place((self.len - 1) / 2);
        let low = self.at(lower);
        Some(if self.len % 2 == 1 { low } else { midpoint(low, self.at(self.next(lower))) })
    }

    /// Quantile of type 7 (Hyndman and Fan, The American Statistician 50, 1996), the default of R and
    /// numpy: linear between the values of rank `(n − 1)·q`.
    #[inline]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.len == 0 {
            return None;
        }
        let position = (self.len - 1) as f64 * q;
        let rank = (position.floor() as usize).min(self.len - 1);
        let fraction = position - rank as f64;
        let place = self.place(rank);
        let low = self.at(place);
        if fraction == 0.0 || rank + 1 == self.len {
            return Some(low);
        }
        let high = self.at(self.next(place));
        let gap = high - low;
        Some(if gap.is_finite() {
            low + fraction * gap
        } else {
            low * (1.0 - fraction) + high * fraction
        })
    }

    /// Median of the absolute deviations from `centre`.
    ///
    /// The h values nearest to the centre are neighbours in sorted order, so the search is for where
    /// that run of h begins: the first `a` with `centre − x[a] ≤ x[a + h] − centre`. Between two rows
    /// of a moving window it moves by a step or two, hence the search starts at the last answer.
    pub fn mad(&mut self, centre: f64) -> Option<f64> {
        let n = self.len;
        if n == 0 {
            return None;
        }
        let h = n.div_ceil(2);
        let last = n - h;
        let scale = if self.spans_overflow(centre) { 0.5 } else { 1.0 };
        let centre = centre * scale;
        let mut a = self.mad_start.min(last);
        let mut low = self.place(a);
        // Place of rank a + h; none at the very end, where the run cannot move further right.
        let mut high = (a < last).then(|| self.place(a + h));
        let begins_here = |s: &Self, low: Place, high: Option<Place>| match high {
            None => true,
            Some(high) => centre - s.at(low) * scale <= s.at(high) * scale - centre,
        };
        let mut steps = 0;
        if begins_here(self, low, high) {
            while a > 0 {
                let (p, q) = (
                    self.previous(low),
                    match high {
                        Some(high) => self.previous(high),
                        None => self.place(n - 1),
                    },
                );
                if !begins_here(self, p, Some(q)) {
                    break;
                }
                (a, low, high) = (a - 1, p, Some(q));
                steps += 1;
                if steps == NEAR {
                    (a, low, high) = self.bisect(0, a, h, centre, scale);
                    break;
                }
            }
        } else {
            while !begins_here(self, low, high) {
                a += 1;
                low = self.next(low);
                high = if a < last { high.map(|q| self.next(q)) } else { None };
                steps += 1;
                if steps == NEAR && a < last {
                    (a, low, high) = self.bisect(a, last, h, centre, scale);
                    break;
                }
            }
        }
        self.mad_start = a;
        let run_end = match high {
            Some(high) => self.previous(high),
            None => self.place(n - 1),
        };
        let inner = (centre - self.at(low) * scale).max(self.at(run_end) * scale - centre);
        let mad = if n % 2 == 1 {
            inner
        } else {
            let below =
                if a > 0 { centre - self.at(self.previous(low)) * scale } else { f64::INFINITY };
            let above = match high {
                Some(high) => self.at(high) * scale - centre,
                None => f64::INFINITY,
            };
            midpoint(inner, below.min(above))
        };
        Some(mad / scale)
    }

    /// First start in `[from, to]` of the run nearest to the centre, given that `to` is one.
    #[cold]
    fn bisect(
        &self,
        from: usize,
        to: usize,
        h: usize,
        centre: f64,
        scale: f64,
    ) -> (usize, Place, Option<Place>) {
        let (mut from, mut to) = (from, to);
        while from < to {
            let mid = from + (to - from) / 2;
            let (low, high) = (self.at(self.place(mid)), self.at(self.place(mid + h)));
            if centre - low * scale <= high * scale - centre {
                to = mid;
            } else {
                from = mid + 1;
            }
        }
        (to, self.place(to), (to + h < self.len).then(|| self.place(to + h)))
    }

    /// Whether a deviation from `centre` may exceed the range of `f64`.
    #[inline]
    fn spans_overflow(&self, centre: f64) -> bool {
        match (self.smallest.first(), self.blocks.last().and_then(|b| b.last())) {
            (Some(&min), Some(&max)) => !(centre - min).is_finite() || !(max - centre).is_finite(),
            _ => false,
        }
    }
}

/// Mean of two numbers without overflow.
#[inline]
fn midpoint(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if sum.is_finite() { sum / 2.0 } else { a / 2.0 + b / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive_median(v: &mut [f64]) -> f64 {
        v.sort_by(f64::total_cmp);
        let n = v.len();
        if n % 2 == 1 { v[n / 2] } else { midpoint(v[n / 2 - 1], v[n / 2]) }
    }

    fn naive_mad(v: &[f64], centre: f64) -> f64 {
        let mut d: Vec<f64> = v.iter().map(|x| (x - centre).abs()).collect();
        naive_median(&mut d)
    }

    fn check(w: &mut OrderWindow, held: &[f64]) {
        assert_eq!(w.len(), held.len());
        if held.is_empty() {
            assert_eq!((w.median(), w.mad(0.0), w.quantile(0.5)), (None, None, None));
            return;
        }
        let mut sorted = held.to_vec();
        let median = naive_median(&mut sorted);
        for rank in [0, held.len() / 3, held.len() / 2, held.len() - 1] {
            assert_eq!(w.select(rank), Some(sorted[rank]));
        }
        assert_eq!(w.median(), Some(median));
        assert_eq!(w.mad(median), Some(naive_mad(held, median)));
    }

    #[test]
    fn quantiles_are_of_type_7() {
        let mut w = OrderWindow::new();
        for x in [9.0, 1.0, 4.0, 16.0, 25.0, 36.0] {
            w.insert(x).unwrap();
        }
        // numpy.quantile([1,4,9,16,25,36], [.25,.5,.75,1])
        assert_eq!(w.quantile(0.25), Some(5.25));
        assert_eq!(w.quantile(0.5), Some(12.5));
        assert_eq!(w.quantile(0.75), Some(22.75));
        assert_eq!(w.quantile(1.0), Some(36.0));
        assert_eq!(w.select(6), None);
    }

    #[test]
    fn removal_of_what_is_not_there_changes_nothing() {
        let mut w = OrderWindow::new();
        assert!(!w.remove(1.0));
        w.insert(1.0).unwrap();
        assert!(!w.remove(2.0));
        assert!(!w.remove(0.5));
        assert!(w.remove(1.0));
        assert!(w.is_empty());
        w.insert(0.0).unwrap();
        assert!(w.remove(-0.0));
    }

    #[test]
    fn grows_and_drains_in_any_order() {
        for (step, start) in [(1_i64, 0), (-1, 40_000), (7_919, 0)] {
            let mut w = OrderWindow::new();
            let value = |i: i64| ((start + i * step).rem_euclid(40_000)) as f64 / 8.0;
            for i in 0..40_000 {
                w.insert(value(i)).unwrap();
            }
            assert_eq!(w.select(12_345), Some(12_345.0 / 8.0));
            assert!(w.blocks.capacity() * BLOCK < 4 * 40_000, "{}", w.blocks.capacity());
            for i in 0..39_990 {
                assert!(w.remove(value(i)));
                if i % 4_999 == 0 {
                    let median = w.median().unwrap();
                    let all: Vec<f64> = w.blocks.iter().flatten().copied().collect();
                    assert!(all.is_sorted());
                    assert_eq!(w.mad(median), Some(naive_mad(&all, median)));
                }
            }
            assert_eq!(w.len(), 10);
            assert!(w.blocks.len() <= 3);
        }
    }

    #[test]
    fn fault_i3_extremes_do_not_overflow() {
        let mut w = OrderWindow::new();
        for x in [-1.7e308, -1.6e308, 1.6e308, 1.7e308] {
            w.insert(x).unwrap();
        }
        assert_eq!(w.median(), Some(0.0));
        assert!((w.mad(0.0).unwrap() / 1.65e308 - 1.0).abs() < 1e-15);
        let q = w.quantile(0.5).unwrap();
        assert!(q.is_finite() && q.abs() < 1e300, "{q}");
    }

    proptest! {
        #[test]
        fn sliding_agrees_with_sorting(
            values in prop::collection::vec(prop_oneof![
                4 => -1e3..1e3f64,
                3 => (-3i32..3).prop_map(f64::from),
                1 => -1e12..1e12f64,
            ], 1..1500),
            width in 1usize..700,
        ) {
            let mut w = OrderWindow::new();
            for (i, &x) in values.iter().enumerate() {
                if i >= width {
                    prop_assert!(w.remove(values[i - width]));
                }
                w.insert(x).unwrap();
                if i % 17 == 0 || i + 1 == values.len() {
                    check(&mut w, &values[(i + 1).saturating_sub(width)..=i]);
                }
            }
        }
    }
}
