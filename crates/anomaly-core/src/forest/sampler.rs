//! A random sample of rows in one pass, mergeable, in one flat array of words.
//!
//! Each row has a key drawn from an exponential distribution with its weight as the rate; the sample
//! is the rows with the smallest keys (Efraimidis and Spirakis 2006), so the sample of a whole is the
//! rows with the smallest keys of the samples of its parts. Once the sample is full nothing is drawn
//! for most rows: the weight up to the next row that gets in is drawn instead (their algorithm
//! A-ExpJ), and a row costs a subtraction.
//!
//! The same rows in the same order give the same sample. Rows that are divided otherwise (parallel
//! plans) give another one of the same distribution.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic `ASMP` (low half), format version (high half) |
//! | 1 | values in a row (low), capacity in rows (high) |
//! | 2 | rows in the sample (low), bytes of the options (high) |
//! | 3 | rows seen |
//! | 4 | seed, and from the first row on the state of the random numbers |
//! | 5, 6 | weight up to the next row that gets in; greatest key once full, else infinite |
//! | 7 | weight of all rows seen |
//! | 8 … | options, then per row key, weight and values, then slack |
//!
//! Rows with more than one value per [`STATE_BYTES`] / 2 KiB are sampled fewer than asked for: the
//! state is bounded.

use std::cmp::Ordering;

use crate::random::{mix, unit};
pub use crate::sketch::Room;
use crate::{Error, Result};

/// Values that a row may have.
pub const MAX_FEATURES: usize = 16_384;
/// Rows that the aggregate keeps: enough for p down to 1e-4 and for a hundred trees of 256 rows.
pub const DEFAULT_ROWS: usize = 8000;
pub const MAX_ROWS: usize = 100_000;
/// A state grows no further, unless that would leave less than [`LEAST_ROWS`].
pub const STATE_BYTES: usize = 32 << 20;
pub const LEAST_ROWS: usize = 256;

const MAGIC: u32 = u32::from_le_bytes(*b"ASMP");
const FIRST: u64 = MAGIC as u64 | 1 << 32;
/// Words before the options.
pub const HEADER: usize = 8;
const MAX_OPTIONS: usize = 16 << 10;

mod word {
    pub const FIRST: usize = 0;
    pub const SHAPE: usize = 1;
    pub const FILL: usize = 2;
    pub const SEEN: usize = 3;
    pub const RANDOM: usize = 4;
    pub const JUMP: usize = 5;
    pub const GREATEST: usize = 6;
    pub const WEIGHT: usize = 7;
}

const fn pair(low: usize, high: usize) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn low(word: u64) -> usize {
    (word & 0xFFFF_FFFF) as usize
}

const fn high(word: u64) -> usize {
    (word >> 32) as usize
}

/// An empty state for rows of `features` values, with options of the caller's that it carries along.
/// `rows` asks for so many rows; wide rows are bounded by [`STATE_BYTES`].
pub fn initial(features: usize, rows: usize, seed: u64, options: &[u8]) -> Result<Vec<u64>> {
    check_features(features)?;
    if !(2..=MAX_ROWS).contains(&rows) {
        return Err(Error::invalid(
            format!("a sample of {rows} rows"),
            format!("Ask for 2 to {MAX_ROWS} rows."),
        ));
    }
    if options.len() > MAX_OPTIONS {
        return Err(Error::TooLarge(format!("options have more than {MAX_OPTIONS} bytes")));
    }
    let fitting = STATE_BYTES / (8 * (features + 2));
    let capacity = rows.min(fitting.max(LEAST_ROWS));
    let mut words = vec![0; HEADER + options.len().div_ceil(8)];
    words[word::FIRST] = FIRST;
    words[word::SHAPE] = pair(features, capacity);
    words[word::FILL] = pair(0, options.len());
    words[word::RANDOM] = mix(seed);
    words[word::GREATEST] = f64::INFINITY.to_bits();
    for (word, bytes) in words[HEADER..].iter_mut().zip(options.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    Ok(words)
}

fn check_features(features: usize) -> Result<()> {
    if features == 0 {
        return Err(Error::Data("a row has no features".into()));
    }
    if features > MAX_FEATURES {
        return Err(Error::TooLarge(format!(
            "a row has {features} features, more than {MAX_FEATURES}"
        )));
    }
    Ok(())
}

/// Uniform in (0, 1].
fn draw(words: &mut [u64]) -> f64 {
    let state = words[word::RANDOM].wrapping_add(0x9E37_79B9_7F4A_7C15);
    words[word::RANDOM] = state;
    1.0 - unit(mix(state))
}

fn float(words: &[u64], at: usize) -> f64 {
    f64::from_bits(words[at])
}

/// The shape of a state, checked against its length.
#[derive(Debug, Clone, Copy)]
struct Shape {
    features: usize,
    capacity: usize,
    filled: usize,
    /// The first row's first word.
    rows: usize,
}

impl Shape {
    fn of(words: &[u64]) -> Result<Shape> {
        let corrupted = |what: &str| Error::Corrupted(format!("stored sample: {what}"));
        if words.len() < HEADER || words[word::FIRST] != FIRST {
            return Err(corrupted("it does not start as one"));
        }
        let (features, capacity) = (low(words[word::SHAPE]), high(words[word::SHAPE]));
        let (filled, options) = (low(words[word::FILL]), high(words[word::FILL]));
        let rows = HEADER + options.div_ceil(8);
        let sound = (1..=MAX_FEATURES).contains(&features)
            && (2..=MAX_ROWS).contains(&capacity)
            && filled <= capacity
            && options <= MAX_OPTIONS
            && rows + filled * (features + 2) <= words.len();
        if !sound {
            return Err(corrupted("its shape is out of range"));
        }
        Ok(Shape { features, capacity, filled, rows })
    }

    fn stride(&self) -> usize {
        self.features + 2
    }

    fn row(&self, i: usize) -> usize {
        self.rows + i * self.stride()
    }

    fn is_full(&self) -> bool {
        self.filled == self.capacity
    }
}

/// Adds a row with weight 1; see [`add_weighted`].
pub fn add(words: &mut [u64], row: &[f64]) -> Result<Room> {
    add_weighted(words, row, 1.0)
}

/// Adds a row that counts as `weight` ≥ 0 rows. Missing values are NaN. With [`Room::Grow`] nothing
/// has changed: copy the state into an array of that many words and add the row again.
#[inline]
pub fn add_weighted(words: &mut [u64], row: &[f64], weight: f64) -> Result<Room> {
    if words.len() < HEADER || words[word::FIRST] != FIRST || row.len() != low(words[word::SHAPE]) {
        Shape::of(words)?;
        return Err(Error::Data(format!(
            "a row has {} features, the rows before it have {}",
            row.len(),
            low(words[word::SHAPE])
        )));
    }
    let greatest = float(words, word::GREATEST);
    if greatest.is_finite() && weight >= 0.0 {
        let jump = float(words, word::JUMP) - weight;
        if jump > 0.0 {
            words[word::JUMP] = jump.to_bits();
            count(words, weight);
            return Ok(Room::Ready);
        }
    }
    enter(words, row, weight)
}

fn count(words: &mut [u64], weight: f64) {
    words[word::SEEN] = words[word::SEEN].saturating_add(1);
    words[word::WEIGHT] = (float(words, word::WEIGHT) + weight).to_bits();
}

#[cold]
fn enter(words: &mut [u64], row: &[f64], weight: f64) -> Result<Room> {
    let shape = Shape::of(words)?;
    if !(0.0..=1e100).contains(&weight) {
        return Err(Error::invalid(
            format!("a row has weight {weight}"),
            "Weights must be from 0 to 1e100.",
        ));
    }
    if weight < 1e-100 {
        words[word::SEEN] = words[word::SEEN].saturating_add(1);
        return Ok(Room::Ready);
    }
    if !shape.is_full() && shape.row(shape.filled + 1) > words.len() {
        let most = shape.row(shape.capacity);
        return Ok(Room::Grow(most.min(shape.row(2 * shape.filled + 8))));
    }
    if words[word::SEEN] == 0 {
        // Workers of a parallel plan have the same seed and different rows.
        for x in row {
            words[word::RANDOM] = mix(words[word::RANDOM] ^ x.to_bits());
        }
    }
    count(words, weight);
    if !shape.is_full() {
        let key = (-libm::log(draw(words)) / weight).max(f64::MIN_POSITIVE);
        put(words, shape.row(shape.filled), key, weight, row);
        words[word::FILL] += 1;
        if shape.filled + 1 == shape.capacity {
            let full = Shape { filled: shape.capacity, ..shape };
            for i in (0..full.filled / 2).rev() {
                sift_down(words, &full, i);
            }
            jump(words, &full);
        }
    } else {
        let greatest = float(words, word::GREATEST);
        let u = draw(words);
        let key = -libm::log1p(u * libm::expm1(-weight * greatest)) / weight;
        put(words, shape.row(0), key.clamp(f64::MIN_POSITIVE, greatest), weight, row);
        sift_down(words, &shape, 0);
        jump(words, &shape);
    }
    Ok(Room::Ready)
}

fn put(words: &mut [u64], at: usize, key: f64, weight: f64, row: &[f64]) {
    words[at] = key.to_bits();
    words[at + 1] = weight.to_bits();
    for (word, x) in words[at + 2..].iter_mut().zip(row) {
        *word = x.to_bits();
    }
}

/// Draws the weight up to the next row that gets in.
fn jump(words: &mut [u64], shape: &Shape) {
    let greatest = float(words, shape.row(0));
    words[word::GREATEST] = greatest.to_bits();
    let wait = -libm::log(draw(words)) / greatest;
    words[word::JUMP] = wait.to_bits();
}

/// Rows are a heap with the greatest key first.
fn sift_down(words: &mut [u64], shape: &Shape, mut i: usize) {
    loop {
        let mut greatest = i;
        for child in [2 * i + 1, 2 * i + 2] {
            if child < shape.filled
                && float(words, shape.row(child)) > float(words, shape.row(greatest))
            {
                greatest = child;
            }
        }
        if greatest == i {
            return;
        }
        let (front, back) = words.split_at_mut(shape.row(greatest));
        front[shape.row(i)..][..shape.stride()].swap_with_slice(&mut back[..shape.stride()]);
        i = greatest;
    }
}

/// The rows of a state in the order of their keys.
fn ordered<'a>(words: &'a [u64], shape: &Shape) -> Vec<&'a [u64]> {
    let mut rows: Vec<&[u64]> =
        words[shape.rows..].chunks_exact(shape.stride()).take(shape.filled).collect();
    rows.sort_unstable_by(|a, b| by_key(a, b));
    rows
}

fn by_key(a: &[u64], b: &[u64]) -> Ordering {
    f64::from_bits(a[0]).total_cmp(&f64::from_bits(b[0])).then_with(|| a.cmp(b))
}

/// Adds the sample `from` to `into`. With [`Room::Grow`] nothing has changed.
pub fn merge(into: &mut [u64], from: &[u64]) -> Result<Room> {
    let (a, b) = (Shape::of(into)?, Shape::of(from)?);
    if a.features != b.features {
        return Err(Error::Data(format!(
            "rows with {} and with {} features cannot be put together",
            a.features, b.features
        )));
    }
    if a.capacity != b.capacity || options(into)? != options(from)? {
        return Err(Error::Data("samples with different options cannot be put together".into()));
    }
    let filled = (a.filled + b.filled).min(a.capacity);
    let needed = a.row(filled);
    if needed > into.len() {
        return Ok(Room::Grow(needed.max(a.row(a.capacity.min(2 * a.filled)))));
    }
    let old = into[a.rows..a.row(a.filled)].to_vec();
    let mut rows: Vec<&[u64]> = old
        .chunks_exact(a.stride())
        .chain(from[b.rows..b.row(b.filled)].chunks_exact(a.stride()))
        .collect();
    rows.sort_unstable_by(|a, b| by_key(a, b));
    rows.truncate(filled);
    // Backwards: descending keys are a heap.
    for (i, row) in rows.iter().rev().enumerate() {
        into[a.row(i)..][..a.stride()].copy_from_slice(row);
    }
    into[word::FILL] = pair(filled, high(into[word::FILL]));
    into[word::SEEN] = into[word::SEEN].saturating_add(from[word::SEEN]);
    into[word::WEIGHT] = (float(into, word::WEIGHT) + float(from, word::WEIGHT)).to_bits();
    into[word::RANDOM] = mix(into[word::RANDOM] ^ from[word::RANDOM].rotate_left(32));
    if filled == a.capacity {
        jump(into, &Shape { filled, ..a });
    }
    Ok(Room::Ready)
}

/// The options that [`initial`] was given.
pub fn options(words: &[u64]) -> Result<Vec<u8>> {
    let shape = Shape::of(words)?;
    let length = high(words[word::FILL]);
    let mut bytes: Vec<u8> =
        words[HEADER..shape.rows].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(length);
    Ok(bytes)
}

/// Words of a state that are in use; the rest is slack.
pub fn used(words: &[u64]) -> Result<usize> {
    let shape = Shape::of(words)?;
    Ok(shape.row(shape.filled))
}

/// Little-endian words in use and a checksum.
pub fn encode(words: &[u64]) -> Result<Vec<u8>> {
    let used = used(words)?;
    let mut out: Vec<u8> = words[..used].iter().flat_map(|word| word.to_le_bytes()).collect();
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Reads what [`encode`] wrote; never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<u64>> {
    let corrupted = |what: &str| Error::Corrupted(format!("stored sample: {what}"));
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(corrupted("it is too short"));
    };
    if crc32fast::hash(body).to_le_bytes() != *crc {
        return Err(corrupted("it fails its checksum"));
    }
    let (words, rest) = body.as_chunks();
    if !rest.is_empty() {
        return Err(corrupted("it is no whole number of words"));
    }
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let shape = Shape::of(&words)?;
    if words.len() != shape.row(shape.filled) {
        return Err(corrupted("it has a wrong length"));
    }
    let positive = |at: usize| float(&words, at) > 0.0;
    let rows_are_sound = (0..shape.filled).all(|i| {
        let at = shape.row(i);
        words[at] < f64::INFINITY.to_bits()
            && positive(at + 1)
            && float(&words, at + 1).is_finite()
            && (!shape.is_full() || i == 0 || words[at] <= words[shape.row((i - 1) / 2)])
    });
    let greatest = float(&words, word::GREATEST);
    let full_is_sound = if shape.is_full() {
        words[word::GREATEST] == words[shape.row(0)] && float(&words, word::JUMP) >= 0.0
    } else {
        greatest == f64::INFINITY
    };
    let options_are_padded = {
        let length = high(words[word::FILL]);
        words[HEADER..shape.rows]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .skip(length)
            .all(|byte| byte == 0)
    };
    let seen = words[word::SEEN];
    let counts_are_sound = seen >= shape.filled as u64 && float(&words, word::WEIGHT) >= 0.0;
    if !(rows_are_sound && full_is_sound && options_are_padded && counts_are_sound) {
        return Err(corrupted("its values are out of range"));
    }
    Ok(words)
}

/// Rows to train from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Values in a row.
    pub features: usize,
    /// Row by row; NaN is missing.
    pub values: Vec<f64>,
    /// How often each row has to be drawn, relative to the others, for the trees' samples to be such
    /// of all rows.
    pub weights: Vec<f64>,
    /// Rows it is a sample of.
    pub seen: u64,
}

impl Sample {
    /// All rows, each as likely as the others. `Data` when they are not whole rows.
    pub fn new(features: usize, values: Vec<f64>) -> Result<Sample> {
        check_features(features)?;
        if !values.len().is_multiple_of(features) {
            return Err(Error::Data(format!(
                "{} values are no whole rows of {features} features",
                values.len()
            )));
        }
        let rows = values.len() / features;
        Ok(Sample { features, weights: vec![1.0; rows], values, seen: rows as u64 })
    }

    /// The sample of a state.
    pub fn from_words(words: &[u64]) -> Result<Sample> {
        let shape = Shape::of(words)?;
        let greatest = float(words, word::GREATEST);
        let rows = ordered(words, &shape);
        let mut values = Vec::with_capacity(rows.len() * shape.features);
        let mut weights = Vec::with_capacity(rows.len());
        for row in rows {
            let weight = f64::from_bits(row[1]);
            // By the chance that the row is in the sample (Horvitz and Thompson 1952).
            weights.push(weight / -libm::expm1(-weight * greatest));
            values.extend(row[2..].iter().map(|x| f64::from_bits(*x)));
        }
        Ok(Sample { features: shape.features, values, weights, seen: words[word::SEEN] })
    }

    pub fn rows(&self) -> usize {
        self.weights.len()
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.features..][..self.features]
    }
}

/// A sample that owns its state; for callers without memory of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    words: Vec<u64>,
}

impl Sampler {
    /// See [`initial`].
    pub fn new(features: usize, rows: usize, seed: u64) -> Result<Sampler> {
        Ok(Sampler { words: initial(features, rows, seed, &[])? })
    }

    pub fn add(&mut self, row: &[f64]) -> Result<()> {
        self.add_weighted(row, 1.0)
    }

    pub fn add_weighted(&mut self, row: &[f64], weight: f64) -> Result<()> {
        while let Room::Grow(words) = add_weighted(&mut self.words, row, weight)? {
            self.words.resize(words, 0);
        }
        Ok(())
    }

    pub fn merge(&mut self, other: &Sampler) -> Result<()> {
        while let Room::Grow(words) = merge(&mut self.words, &other.words)? {
            self.words.resize(words, 0);
        }
        Ok(())
    }

    pub fn sample(&self) -> Result<Sample> {
        Sample::from_words(&self.words)
    }

    pub fn words(&self) -> &[u64] {
        &self.words
    }
}
