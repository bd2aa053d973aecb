//! The mergeable summary of a sample: counts, moments and quantiles in one flat array of words.
//!
//! One layout serves as the state of a running aggregate (changed in place), as the stored value and,
//! in little-endian order with a checksum, as the wire format. Words are `u64`:
//!
//! | word | content |
//! |---|---|
//! | 0 | magic `ASKT` (low half), format version (high half) |
//! | 1 | capacity in words (low), index of the first word of the buffer (high) |
//! | 2 | values in the buffer (low), how many of them are already in the moments (high) |
//! | 3 – 6 | NULLs, NaNs, +Infinities, −Infinities |
//! | 7 – 13 | moments: count, min, max, mean, sums of 2nd, 3rd and 4th powers of deviations |
//! | 14 | exponent the moments are scaled by (low), levels above the buffer L (high) |
//! | 15 – 18 | compactions, coins, owed coins, Σ 4^h of the quantile sketch |
//! | 19 … | sizes of levels 1 … L, then their values ascending, then the buffer, then slack |
//!
//! `capacity` bounds everything past the header. Adding a value writes one word into the buffer; the
//! work is done for a whole buffer at a time when it is full. Slack lets a small state start small
//! and grow by doubling.
//!
//! Moments, extremes and quantiles describe the finite values; NaN, infinities and NULL are counted
//! beside them. −0 is stored as 0.

pub mod moments;
pub mod quantiles;
#[cfg(test)]
mod tests;

use crate::{Error, Result};
use moments::{Moments, finite, standardise};
use quantiles::{Levels, MAX_LEVELS, merge_weighted, rank_error, sort, sort_weighted};
pub(crate) use quantiles::{Weighted, weighted_quantile, weighted_quantiles};

/// Words before the level table.
pub const HEADER: usize = 19;
/// Capacity of the SQL aggregate: quantiles are exact up to this many values; about 16 kB.
pub const DEFAULT_CAPACITY: usize = 2000;
/// Below this the level table of a huge sample would leave no room for values.
pub const MIN_CAPACITY: usize = 128;
/// Half a megabyte.
pub const MAX_CAPACITY: usize = 65_536;

const MAGIC: u32 = u32::from_le_bytes(*b"ASKT");
const VERSION: u32 = 1;
const FIRST: u64 = pair(MAGIC, VERSION);
const INITIAL_BUFFER: usize = 12;

mod word {
    pub const FIRST: usize = 0;
    pub const EXTENT: usize = 1;
    pub const FILL: usize = 2;
    pub const NULLS: usize = 3;
    pub const NANS: usize = 4;
    pub const POSITIVE_INFS: usize = 5;
    pub const NEGATIVE_INFS: usize = 6;
    pub const COUNT: usize = 7;
    pub const MIN: usize = 8;
    pub const MAX: usize = 9;
    pub const MEAN: usize = 10;
    pub const M2: usize = 11;
    pub const M3: usize = 12;
    pub const M4: usize = 13;
    pub const SCALE: usize = 14;
    pub const COMPACTIONS: usize = 15;
    pub const COINS: usize = 16;
    pub const OWED: usize = 17;
    pub const VARIANCE: usize = 18;
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn low(word: u64) -> usize {
    (word & 0xFFFF_FFFF) as usize
}

const fn high(word: u64) -> usize {
    (word >> 32) as usize
}

/// What a flat state needs before it can take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is room now.
    Ready,
    /// Copy the state into an array of this many words (the new ones zero) and try again.
    Grow(usize),
}

/// Words of a state that holds nothing yet.
pub const INITIAL_WORDS: usize = HEADER + INITIAL_BUFFER;

/// Writes an empty state of checked `capacity` into `words`, at least `HEADER` long.
fn init(words: &mut [u64], capacity: u32) {
    words.fill(0);
    words[word::FIRST] = FIRST;
    words[word::EXTENT] = pair(capacity, HEADER as u32);
    put_moments(words, &Moments::default());
}

/// An empty state of the default capacity.
pub fn initial() -> [u64; INITIAL_WORDS] {
    let mut words = [0; INITIAL_WORDS];
    init(&mut words, DEFAULT_CAPACITY as u32);
    words
}

/// Adds one value; false, with nothing changed, when a finite value finds no room (`make_room`).
///
/// This is all that happens for most rows.
#[inline]
pub fn push(words: &mut [u64; HEADER], tail: &mut [u64], x: f64) -> bool {
    if x.is_finite() {
        let extent = words[word::EXTENT];
        // Relative to the tail; a damaged state makes this wrap and finds no slot.
        let at = (high(extent) + low(words[word::FILL])).wrapping_sub(HEADER);
        let Some(slot) = tail.get_mut(at).filter(|_| at < low(extent)) else {
            return false;
        };
        *slot = (x + 0.0).to_bits();
        words[word::FILL] += 1;
    } else if x.is_nan() {
        words[word::NANS] += 1;
    } else if x > 0.0 {
        words[word::POSITIVE_INFS] += 1;
    } else {
        words[word::NEGATIVE_INFS] += 1;
    }
    true
}

/// Counts one NULL.
#[inline]
pub fn push_null(words: &mut [u64; HEADER]) {
    words[word::NULLS] += 1;
}

/// Makes room for one more value: asks for a larger array, or folds and compacts the buffer.
pub fn make_room(words: &mut [u64]) -> Result<Room> {
    let view = View::new(words)?;
    let limit = HEADER + view.capacity();
    if view.used() < words.len() && view.used() < limit {
        return Ok(Room::Ready);
    }
    if words.len() < limit {
        return Ok(Room::Grow(limit.min(2 * words.len() + 1)));
    }
    let moments = view.moments()?;
    let capacity = view.capacity();
    let mut levels = view.levels();
    levels.compact(capacity)?;
    put_moments(words, &moments);
    put_levels(words, &levels);
    Ok(Room::Ready)
}

/// Adds everything that `from` holds to `into`. The result has the smaller of the two capacities.
/// With `Room::Grow` nothing has changed.
pub fn merge(into: &mut [u64], from: &[u64]) -> Result<Room> {
    let (a, b) = (View::new(into)?, View::new(from)?);
    let capacity = a.capacity().min(b.capacity());
    let mut moments = a.moments()?;
    let needed = a.used() + b.used() - HEADER;
    let limit = HEADER + capacity;
    if into.len() < needed.min(limit) {
        return Ok(Room::Grow(limit.min(needed.max(2 * into.len() + 1))));
    }
    moments = moments.merge(&b.moments()?)?;
    let mut specials = [0; 4];
    for (i, special) in specials.iter_mut().enumerate() {
        // Each is at most 2^63 - 1 (View::new), so the sum fits.
        *special = into[word::NULLS + i] + from[word::NULLS + i];
    }
    check_total(moments.n, &specials)?;
    let mut levels = a.levels();
    levels.absorb(b.levels());
    levels.shrink(capacity)?;
    if levels.words_above() + levels.levels[0].len() > capacity {
        levels.compact(capacity)?;
    }
    into[word::EXTENT] = pair(capacity as u32, 0);
    into[word::NULLS..word::NULLS + 4].copy_from_slice(&specials);
    put_moments(into, &moments);
    put_levels(into, &levels);
    Ok(Room::Ready)
}

fn check_total(n: u64, specials: &[u64]) -> Result<()> {
    let total: u128 = specials.iter().map(|x| u128::from(*x)).sum::<u128>() + u128::from(n);
    if total > i64::MAX as u128 {
        return Err(Error::TooLarge("a summary holds at most 2^63 - 1 values".into()));
    }
    Ok(())
}

fn put_moments(words: &mut [u64], m: &Moments) {
    let levels = high(words[word::SCALE]) as u32;
    words[word::COUNT] = m.n;
    for (i, x) in [m.min, m.max, m.mean, m.m2, m.m3, m.m4].into_iter().enumerate() {
        words[word::MIN + i] = x.to_bits();
    }
    words[word::SCALE] = pair(m.scale as u32, levels);
}

/// Writes the quantile part; every value in it is in the moments already.
fn put_levels(words: &mut [u64], parts: &Levels) {
    let capacity = low(words[word::EXTENT]) as u32;
    let above = parts.levels.len() - 1;
    let mut at = HEADER + above;
    for (h, level) in parts.levels.iter().enumerate().skip(1) {
        words[HEADER + h - 1] = level.len() as u64;
        put_values(&mut words[at..], level);
        at += level.len();
    }
    let fill = parts.levels[0].len() as u32;
    put_values(&mut words[at..], &parts.levels[0]);
    words[at + fill as usize..].fill(0);
    words[word::EXTENT] = pair(capacity, at as u32);
    words[word::FILL] = pair(fill, fill);
    words[word::SCALE] = pair(low(words[word::SCALE]) as u32, above as u32);
    words[word::COMPACTIONS] = parts.compactions;
    words[word::COINS] = parts.coins;
    words[word::OWED] = parts.owed;
    words[word::VARIANCE] = parts.variance.to_bits();
}

fn put_values(words: &mut [u64], values: &[f64]) {
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_bits();
    }
}

/// Read access to a flat sketch whose structure has been checked.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    words: &'a [u64],
}

impl<'a> View<'a> {
    /// Checks lengths and counts against each other, so that no later step can leave the array.
    /// Values are not looked at (`Sketch::decode` does).
    pub fn new(words: &'a [u64]) -> Result<View<'a>> {
        if words.len() < HEADER || low(words[word::FIRST]) != MAGIC as usize {
            return Err(corrupted("does not start as one"));
        }
        let version = high(words[word::FIRST]);
        if version > VERSION as usize {
            return Err(Error::NewerFormat(format!(
                "anomaly_sketch has format version {version}, newer than {VERSION}"
            )));
        }
        if words[word::FIRST] != FIRST {
            return Err(corrupted("has an unknown format version"));
        }
        let view = View { words };
        let capacity = view.capacity();
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
            return Err(corrupted("has an impossible capacity"));
        }
        let above = view.above();
        if above > MAX_LEVELS || HEADER + above > words.len() {
            return Err(corrupted("has too many levels"));
        }
        let folded = high(words[word::FILL]);
        let fill = view.fill();
        let mut start = (HEADER + above) as u64;
        let mut weights = folded as u128;
        for (h, size) in words[HEADER..HEADER + above].iter().enumerate() {
            if *size > capacity as u64 {
                return Err(corrupted("has a level past its capacity"));
            }
            start += size;
            weights += u128::from(*size) << (h + 1);
        }
        let used = start + fill as u64;
        if start != view.buffer_at() as u64
            || used > words.len() as u64
            || used > (HEADER + capacity) as u64
            || folded > fill
        {
            return Err(corrupted("has lengths that contradict each other"));
        }
        if weights != u128::from(words[word::COUNT]) {
            return Err(corrupted("has a count that contradicts its values"));
        }
        let pending = (fill - folded) as u64;
        let specials = &words[word::NULLS..word::NULLS + 4];
        check_total(words[word::COUNT].saturating_add(pending), specials)
            .map_err(|_| corrupted("has impossible counts"))?;
        Ok(view)
    }

    fn float(&self, at: usize) -> f64 {
        f64::from_bits(self.words[at])
    }

    /// Words that values and level table may take.
    pub fn capacity(&self) -> usize {
        low(self.words[word::EXTENT])
    }

    fn buffer_at(&self) -> usize {
        high(self.words[word::EXTENT])
    }

    fn fill(&self) -> usize {
        low(self.words[word::FILL])
    }

    fn above(&self) -> usize {
        high(self.words[word::SCALE])
    }

    /// Words in use; the rest is slack.
    pub fn used(&self) -> usize {
        self.buffer_at() + self.fill()
    }

    fn buffer(&self) -> impl Iterator<Item = f64> + 'a {
        self.words[self.buffer_at()..self.used()].iter().map(|bits| f64::from_bits(*bits))
    }

    /// Number of finite values, which are the ones that all statistics describe.
    pub fn num_vals(&self) -> u64 {
        self.words[word::COUNT] + (self.fill() - high(self.words[word::FILL])) as u64
    }

    /// Number of NULLs.
    pub fn num_nulls(&self) -> u64 {
        self.words[word::NULLS]
    }

    /// Number of NaNs.
    pub fn num_nans(&self) -> u64 {
        self.words[word::NANS]
    }

    /// Number of infinities of either sign.
    pub fn num_infs(&self) -> u64 {
        self.words[word::POSITIVE_INFS] + self.words[word::NEGATIVE_INFS]
    }

    /// Moments of the values that have been folded.
    fn stored_moments(&self) -> Moments {
        Moments {
            n: self.words[word::COUNT],
            min: self.float(word::MIN),
            max: self.float(word::MAX),
            mean: self.float(word::MEAN),
            m2: self.float(word::M2),
            m3: self.float(word::M3),
            m4: self.float(word::M4),
            scale: low(self.words[word::SCALE]) as u32 as i32,
        }
    }

    /// Moments of the finite values.
    pub fn moments(&self) -> Result<Moments> {
        let stored = self.stored_moments();
        let folded = high(self.words[word::FILL]);
        if folded == self.fill() {
            return Ok(stored);
        }
        let pending: Vec<f64> = self.buffer().skip(folded).collect();
        stored.merge(&Moments::of(&pending))
    }

    fn level(&self, h: usize) -> &'a [u64] {
        let sizes = &self.words[HEADER..HEADER + self.above()];
        let start: u64 = (HEADER + self.above()) as u64 + sizes[..h - 1].iter().sum::<u64>();
        &self.words[start as usize..(start + sizes[h - 1]) as usize]
    }

    fn levels(&self) -> Levels {
        let mut levels = Vec::with_capacity(self.above() + 2);
        levels.push(self.buffer().collect());
        for h in 1..=self.above() {
            levels.push(self.level(h).iter().map(|bits| f64::from_bits(*bits)).collect());
        }
        Levels {
            levels,
            compactions: self.words[word::COMPACTIONS],
            coins: self.words[word::COINS],
            owed: self.words[word::OWED],
            variance: self.float(word::VARIANCE),
        }
    }

    /// The values with their weights, ascending.
    pub(crate) fn points(&self) -> Vec<Weighted> {
        let mut buffer: Vec<f64> = self.buffer().collect();
        sort(&mut buffer);
        let mut points = Vec::with_capacity(self.used());
        points.extend(buffer.iter().map(|value| Weighted { value: *value, weight: 1 }));
        for h in 1..=self.above() {
            merge_weighted(&mut points, self.level(h).iter().map(|b| f64::from_bits(*b)), 1 << h);
        }
        points
    }

    /// Largest error of the rank of a quantile, as a fraction of the number of values; holds with 99 %
    /// confidence for each quantile. 0 while every value is still kept.
    pub fn rank_error(&self) -> f64 {
        let spacing = if self.above() == 0 { 0 } else { 1_u64 << self.above() };
        rank_error(self.float(word::VARIANCE), spacing, self.num_vals())
    }

    /// The quantiles asked for, each 0 ≤ q ≤ 1; `None` without values. Type 7 (linear, R's and NumPy's
    /// default) while every value is kept, else within `rank_error` of it.
    pub fn quantiles<const N: usize>(&self, qs: [f64; N]) -> Result<Option<[f64; N]>> {
        for q in qs {
            if !(0.0..=1.0).contains(&q) {
                return Err(Error::invalid(
                    format!("quantile {q} is not between 0 and 1"),
                    "use a fraction such as 0.5 for the median or 0.99 for the 99th percentile",
                ));
            }
        }
        if self.num_vals() == 0 {
            return Ok(None);
        }
        let Moments { min, max, .. } = self.moments()?;
        let points = self.points();
        Ok(Some(qs.map(|q| weighted_quantile(&points, q, min, max))))
    }

    /// One quantile.
    pub fn quantile(&self, q: f64) -> Result<Option<f64>> {
        Ok(self.quantiles([q])?.map(|[x]| x))
    }

    /// Middle of the values.
    pub fn median(&self) -> Result<Option<f64>> {
        self.quantile(0.5)
    }

    /// Median and median absolute deviation from it (unscaled), in the values' units.
    pub fn robust(&self) -> Result<Option<Robust>> {
        let Some(median) = self.median()? else {
            return Ok(None);
        };
        let Moments { min, max, .. } = self.moments()?;
        // Halved where the difference of two values could overflow.
        let unit = if min.abs().max(max.abs()) > f64::MAX / 4.0 { 0.5 } else { 1.0 };
        let mut points = self.points();
        for point in &mut points {
            point.value = (point.value * unit - median * unit).abs();
        }
        sort_weighted(&mut points);
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return Ok(None);
        };
        let mad = weighted_quantile(&points, 0.5, first.value, last.value);
        Ok(Some(Robust { n: self.num_vals(), median, mad, unit }))
    }

    /// Interquartile range.
    pub fn iqr(&self) -> Result<Option<f64>> {
        self.quantiles([0.25, 0.75])?
            .map(|[q1, q3]| finite(q3 - q1, "interquartile range"))
            .transpose()
    }

    /// Tukey's fences: first quartile - k·IQR and third quartile + k·IQR.
    pub fn iqr_bounds(&self, k: f64) -> Result<Option<(f64, f64)>> {
        if !(k >= 0.0 && k.is_finite()) {
            return Err(Error::invalid(
                format!("iqr multiplier {k} is not a finite number from 0"),
                "use 1.5 (Tukey's fences) or 3 (far out)",
            ));
        }
        let Some([q1, q3]) = self.quantiles([0.25, 0.75])? else {
            return Ok(None);
        };
        let reach = k * (q3 - q1);
        Ok(Some((finite(q1 - reach, "lower bound")?, finite(q3 + reach, "upper bound")?)))
    }

    /// A copy without slack, with every value in the moments, so that reading it is cheap.
    pub fn settled(&self) -> Result<Vec<u64>> {
        let moments = self.moments()?;
        let mut words = self.words[..self.used()].to_vec();
        put_moments(&mut words, &moments);
        let fill = self.fill() as u32;
        words[word::FILL] = pair(fill, fill);
        Ok(words)
    }

    /// Wire format: the words in use, little-endian, and their CRC-32.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.used() + 4);
        for word in &self.words[..self.used()] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Checks the values too: finite, sorted, between the extremes.
    fn check_values(&self) -> Result<()> {
        let stored = self.stored_moments();
        if !stored.plausible() {
            return Err(corrupted("has impossible extremes or moments"));
        }
        // Each compaction makes values fewer, and adds 4^h for a level h below the top one at most.
        let compactions = self.words[word::COMPACTIONS];
        let most = compactions as f64 * libm::scalbn(1.0, 2 * self.above() as i32);
        if compactions > stored.n
            || !(0.0..=most).contains(&self.float(word::VARIANCE))
            || (self.words[word::COINS] | self.words[word::OWED]) >> (MAX_LEVELS + 1) != 0
        {
            return Err(corrupted("has impossible compactions"));
        }
        let within = |x: f64| x >= stored.min && x <= stored.max;
        let folded = high(self.words[word::FILL]);
        for (i, x) in self.buffer().enumerate() {
            if !x.is_finite() || (i < folded && !within(x)) {
                return Err(corrupted("has a value outside its extremes"));
            }
        }
        for h in 1..=self.above() {
            let mut last = f64::NEG_INFINITY;
            for x in self.level(h).iter().map(|bits| f64::from_bits(*bits)) {
                if !within(x) || x < last {
                    return Err(corrupted("has a level that is not sorted"));
                }
                last = x;
            }
        }
        Ok(())
    }
}

fn corrupted(why: &str) -> Error {
    Error::Corrupted(format!("damaged anomaly_sketch: it {why}"))
}

/// Median and median absolute deviation of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Robust {
    n: u64,
    /// Middle of the values.
    pub median: f64,
    mad: f64,
    /// 1, or 0.5 where `mad` is stored halved.
    unit: f64,
}

impl Robust {
    /// Unscaled median absolute deviation.
    pub fn mad(&self) -> Result<f64> {
        finite(self.mad / self.unit, "median absolute deviation")
    }

    /// 0.6745·(x - median)/MAD (Iglewicz and Hoaglin 1993), with the rules of `Moments::zscore`.
    pub fn modified_zscore(&self, x: f64) -> Option<f64> {
        if self.n < 2 {
            return None;
        }
        let distance = x * self.unit - self.median * self.unit;
        let score = standardise(distance, self.mad, x);
        Some(if score.is_finite() { 0.6745 * score } else { score })
    }
}

/// A sketch that owns its words.
///
/// ```
/// use anomaly_core::sketch::Sketch;
/// let mut sketch = Sketch::new(224)?; // at most 2 kB
/// for x in [3.0, 1.0, 2.0, 4.0] {
///     sketch.push(x)?;
/// }
/// assert_eq!(sketch.view()?.quantile(0.25)?, Some(1.75));
/// # Ok::<(), anomaly_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    words: Vec<u64>,
}

impl Sketch {
    /// An empty sketch. `capacity` (128 to 65,536) is the number of 8-byte words beside the header
    /// of 152 bytes; quantiles are exact up to that many values.
    pub fn new(capacity: usize) -> Result<Sketch> {
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
            return Err(Error::invalid(
                format!(
                    "sketch capacity {capacity} is not between {MIN_CAPACITY} and {MAX_CAPACITY}"
                ),
                format!("use {DEFAULT_CAPACITY} for 16 kB"),
            ));
        }
        let mut words = vec![0; INITIAL_WORDS];
        init(&mut words, capacity as u32);
        Ok(Sketch { words })
    }

    /// Adds a value; NaN and infinities are only counted.
    pub fn push(&mut self, x: f64) -> Result<()> {
        loop {
            let Some((header, tail)) = self.words.split_first_chunk_mut::<HEADER>() else {
                return Err(corrupted("is too short"));
            };
            if push(header, tail, x) {
                return Ok(());
            }
            if let Room::Grow(len) = make_room(&mut self.words)? {
                self.words.resize(len, 0);
            }
        }
    }

    /// Counts a NULL.
    pub fn push_null(&mut self) {
        if let Some(header) = self.words.first_chunk_mut::<HEADER>() {
            push_null(header);
        }
    }

    /// Adds all that another sketch holds.
    pub fn merge(&mut self, other: &Sketch) -> Result<()> {
        while let Room::Grow(len) = merge(&mut self.words, &other.words)? {
            self.words.resize(len, 0);
        }
        Ok(())
    }

    /// Read access.
    pub fn view(&self) -> Result<View<'_>> {
        View::new(&self.words)
    }

    /// The flat form.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Wire format, see `View::encode`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        Ok(self.view()?.encode())
    }

    /// Reads the wire format. Total: any bytes give a usable sketch or an error.
    pub fn decode(bytes: &[u8]) -> Result<Sketch> {
        let Some((payload, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(corrupted("is too short"));
        };
        let (chunks, rest) = payload.as_chunks::<8>();
        if !rest.is_empty() || !(HEADER..=HEADER + MAX_CAPACITY).contains(&chunks.len()) {
            return Err(corrupted("has an impossible length"));
        }
        let first = u64::from_le_bytes(chunks[0]);
        let newer = low(first) == MAGIC as usize && high(first) > VERSION as usize;
        if !newer && crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
            return Err(corrupted("has a wrong checksum"));
        }
        let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        let view = View::new(&words)?;
        if view.used() != words.len() {
            return Err(corrupted("has bytes past its end"));
        }
        view.check_values()?;
        Ok(Sketch { words })
    }
}
