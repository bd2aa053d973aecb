//! `learning_matrix_profile`: subsequences unlike any before (discords).
//!
//! The left matrix profile of a stream: the z-normalised Euclidean distance of the latest `window`
//! values to their nearest neighbour among all earlier subsequences of the history that do not
//! overlap them (Yeh et al., "Matrix profile I", ICDM 2016; left profiles and their use on streams:
//! Lu, Wu, Mueen, Zuluaga & Keogh, "Matrix profile XXIV", KDD 2022). The dot products behind it are
//! carried from point to point by STOMP's recurrence (Zhu et al., "Matrix profile II", ICDM 2016) and
//! computed anew every 256 points, before rounding adds up. The forecast is what followed the nearest
//! neighbour of the latest complete window, moved to the window's mean and standard deviation. What
//! is said of distance and of p: [`super::shape`].
//!
//! A flat subsequence has no shape: its distance is 0 to another flat one and √window to any other,
//! as in STUMPY.
//!
//! * Good at: repeating shapes of any kind, also when each value is in range: a missing beat, a wave
//!   that is flattened, reversed or comes at the wrong time. No period has to be known.
//! * Bad at: noise without a shape (it finds nothing there, at the nominal rate), shapes much longer
//!   or shorter than the window, what recurs within the history (no discord any more).
//! * Parameters: `window` 24 points (4 to 128), `history` 2048 points (256 to 8192).
//! * Cost: O(history) per point, and `16·(history + window)` bytes and 3 kB.

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit};
use super::shape::{Clock, History, OFFSETS, Position, Shape, Shaped, Trust, rescale_due};
use super::{Context, EntityModel, Strategy, check_keys, integer_param, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;

const NAME: &str = "learning_matrix_profile";
/// Standard deviation of a flat subsequence at most, beside its mean or 1, in scaled units.
const FLAT: f64 = 1e-9;
/// Earlier subsequences before the nearest means anything.
const LEAST_NEIGHBOURS: usize = 32;
/// Points after which dot products are computed anew.
const RENEWAL: u64 = 256;
/// No dot product is larger: 128 squares of scaled values, and rounding.
const MOST: f64 = 2e14;
/// Candidates are computed side by side, as many as vector registers hold.
const LANES: usize = 8;

/// Discords by the left matrix profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixProfile {
    window: usize,
    history: usize,
}

impl MatrixProfile {
    /// Parameters `window` and `history`, in points.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys(NAME, params, &["window", "history"])?;
        Ok(MatrixProfile {
            window: integer_param(params, "window", 24, 4..=128)? as usize,
            history: integer_param(params, "history", 2048, 256..=8192)? as usize,
        })
    }

    /// Values behind so many subsequences.
    fn keep(&self) -> usize {
        self.history + self.window + 1
    }
}

impl Strategy for MatrixProfile {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "matrix_profile"
    }

    fn statistic_name(&self) -> &'static str {
        "deviation"
    }

    fn algorithm(&self) -> u16 {
        18
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Shaped::new(Profile::new(*self)))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(Shaped::decode(reader, |r| Profile::decode(*self, r))?))
    }
}

/// Mean and sum of squares about it.
fn mean_and_squares(z: &[f64]) -> (f64, f64) {
    let mean = z.iter().sum::<f64>() / z.len() as f64;
    (mean, z.iter().map(|v| (v - mean) * (v - mean)).sum())
}

fn is_flat(mean: f64, sd: f64) -> bool {
    sd <= FLAT * mean.abs().max(1.0)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The subsequence that ends at a value.
#[derive(Debug, Clone, Copy, Default)]
struct Subsequence {
    /// NaN where there is none: too few values before, or a break among them.
    mean: f64,
    /// 1/standard deviation; 0 for a flat one.
    inverse: f64,
    /// The last value, z-normalised.
    last: f64,
}

/// The sequence of one entity.
struct Profile {
    config: MatrixProfile,
    clock: Clock,
    history: History,
    trust: Trust,
    /// Latest values without a break, at most `window`.
    run: usize,
    /// Points learned.
    learned: u64,
    /// By the slot of their last value. Derived.
    subsequences: Vec<Subsequence>,
    /// By slot, the dot product of the subsequence that ends there with the latest one; up to the
    /// last that does not overlap it.
    dots: Vec<f64>,
    renewed: Vec<f64>,
    /// Slot at which the nearest neighbour of the latest subsequence ends. Derived.
    nearest: Option<usize>,
}

impl Profile {
    fn new(config: MatrixProfile) -> Self {
        Profile {
            config,
            clock: Clock::new(),
            history: History::new(config.keep(), 0),
            trust: Trust::default(),
            run: 0,
            learned: 0,
            subsequences: Vec::new(),
            dots: Vec::new(),
            renewed: Vec::new(),
            nearest: None,
        }
    }

    /// Slots at which the subsequences end that do not overlap one that ends at slot `at`.
    fn neighbours(&self, at: usize) -> std::ops::Range<usize> {
        let m = self.config.window;
        let from = (at + 1).saturating_sub(self.config.history).max(m - 1);
        from..at.saturating_sub(m).max(from)
    }

    fn subsequence(&self, slot: usize) -> Subsequence {
        let m = self.config.window;
        if slot + 1 < m || !self.history.is_real(slot) {
            return Subsequence { mean: f64::NAN, ..Subsequence::default() };
        }
        let (mean, squares) = mean_and_squares(&self.history.z[slot + 1 - m..=slot]);
        let sd = (squares / m as f64).sqrt();
        let inverse = if is_flat(mean, sd) { 0.0 } else { 1.0 / sd };
        Subsequence { mean, inverse, last: (self.history.z[slot] - mean) * inverse }
    }

    fn ending_at(&self, slot: usize) -> &[f64] {
        &self.history.z[slot + 1 - self.config.window..=slot]
    }

    /// Computes everything derived anew, dot products included.
    fn renew(&mut self) {
        self.derive_subsequences();
        let latest = self.history.len() - 1;
        self.dots.clear();
        self.dots.resize(latest + 1, 0.0);
        for slot in self.neighbours(latest) {
            self.dots[slot] = dot(self.ending_at(latest), self.ending_at(slot));
        }
    }

    fn derive_subsequences(&mut self) {
        self.subsequences = (0..self.history.len()).map(|slot| self.subsequence(slot)).collect();
    }

    fn append(&mut self, x: f64) {
        let m = self.config.window;
        self.run = (self.run + 1).min(m);
        let before = self.history.len();
        self.history.push(x, &[], self.run >= m);
        // What the history has dropped at its old end.
        let dropped = before + 1 - self.history.len();
        self.subsequences.drain(..dropped);
        self.dots.drain(..dropped);
        let pushed = self.history.pushed;
        let changed =
            if rescale_due(pushed, self.config.history) { self.history.rescale() } else { None };
        if let Some(change) = changed {
            self.trust.rescale(change);
        }
        if changed.is_some() || pushed.is_multiple_of(RENEWAL) {
            self.renew();
        } else {
            let latest = self.history.len() - 1;
            self.subsequences.push(self.subsequence(latest));
            self.carry_on(latest);
        }
        self.nearest = self.find_nearest();
    }

    /// STOMP's recurrence: from the dot products with the subsequence before to those with the one
    /// that ends at `latest`.
    fn carry_on(&mut self, latest: usize) {
        let m = self.config.window;
        let neighbours = self.neighbours(latest);
        let mut renewed = std::mem::take(&mut self.renewed);
        renewed.clear();
        renewed.resize(latest + 1, 0.0);
        if !neighbours.is_empty() {
            let (from, to) = (neighbours.start, neighbours.end);
            let start = if from == m - 1 {
                renewed[from] = dot(self.ending_at(latest), self.ending_at(from));
                from + 1
            } else {
                from
            };
            if start < to {
                let z = &self.history.z;
                let (newest, oldest) = (z[latest], z[latest - m]);
                let ends = z[start..to].iter().zip(&z[start - m..to - m]);
                let old = &self.dots[start - 1..to - 1];
                for ((new, old), (end, begin)) in renewed[start..to].iter_mut().zip(old).zip(ends) {
                    *new = old - oldest * begin + newest * end;
                }
            }
        }
        self.renewed = std::mem::replace(&mut self.dots, renewed);
    }

    fn find_nearest(&self) -> Option<usize> {
        let latest = self.history.len().checked_sub(1)?;
        let neighbours = self.neighbours(latest);
        let own = self.subsequences[latest];
        if self.run < self.config.window
            || own.inverse == 0.0
            || neighbours.len() < LEAST_NEIGHBOURS
        {
            return None;
        }
        let shift = self.config.window as f64 * own.mean;
        let mut best = f64::NEG_INFINITY;
        let mut nearest = None;
        let from = neighbours.start;
        let pairs = self.dots[neighbours.clone()].iter().zip(&self.subsequences[neighbours]);
        for (i, (dot, s)) in pairs.enumerate() {
            let correlation = (dot - shift * s.mean) * s.inverse;
            // NaN where there is no subsequence
            if correlation > best && s.inverse > 0.0 {
                best = correlation;
                nearest = Some(from + i);
            }
        }
        nearest
    }

    fn position(&self, at: i64) -> Position {
        self.clock.position(at, self.config.window / 2)
    }

    /// The forecast of a value so many steps after the latest, scaled: what followed the nearest
    /// neighbour. Of a flat course, its level.
    fn forecast(&self, steps: usize) -> Option<f64> {
        let latest = self.history.len().checked_sub(1)?;
        let own = self.subsequences[latest];
        if self.run < self.config.window {
            return None;
        }
        if own.inverse == 0.0 {
            return Some(own.mean);
        }
        let slot = self.nearest?;
        let near = self.subsequences[slot];
        let z = self.history.z.get(slot + steps)?;
        Some(own.mean + (z - near.mean) * near.inverse / own.inverse)
    }

    fn forecast_of(&self, position: Position) -> Option<f64> {
        match position {
            Position::Next(steps) => self.forecast(steps),
            _ => None,
        }
    }

    /// The distance to the nearest neighbour if the next value, scaled, were each of the candidates.
    fn distances(&self, candidates: &[f64; OFFSETS.len()]) -> Option<[f64; OFFSETS.len()]> {
        let m = self.config.window;
        let next = self.history.len();
        let neighbours = self.neighbours(next);
        if self.run + 1 < m || neighbours.len() < LEAST_NEIGHBOURS {
            return None;
        }
        let z = &self.history.z;
        let begun = &z[next + 1 - m..];
        let (begun_mean, begun_squares) = mean_and_squares(begun);
        let sum = begun_mean * (m - 1) as f64;
        let mut x = [0.0; LANES];
        x[..OFFSETS.len()].copy_from_slice(candidates);
        // m times covariance over the neighbour's standard deviation, the largest for each candidate.
        let mut best = [f64::NEG_INFINITY; LANES];
        let mut flat = false;
        let mut look = |dot: f64, s: &Subsequence| {
            let base = (dot - sum * s.mean) * s.inverse;
            for k in 0..LANES {
                let v = base + x[k] * s.last;
                best[k] = if v > best[k] { v } else { best[k] };
            }
            flat |= s.inverse == 0.0 && !s.mean.is_nan();
        };
        let mut start = neighbours.start;
        if start == m - 1 {
            look(dot(begun, &z[..m - 1]), &self.subsequences[start]);
            start += 1;
        }
        let oldest = z[next - m];
        let dots = &self.dots[start - 1..neighbours.end - 1];
        let begins = &z[start - m..neighbours.end - m];
        for ((dot, begin), s) in
            dots.iter().zip(begins).zip(&self.subsequences[start..neighbours.end])
        {
            look(dot - oldest * begin, s);
        }
        if best[0] == f64::NEG_INFINITY {
            return None;
        }
        let m = m as f64;
        Some(std::array::from_fn(|k| {
            let d = x[k] - begun_mean;
            let sd = ((begun_squares + d * d * (m - 1.0) / m) / m).sqrt();
            if is_flat(begun_mean + d / m, sd) {
                return if flat { 0.0 } else { m.sqrt() };
            }
            let correlation = best[k] / (m * sd);
            // √m is the distance of a correlation of one half.
            let correlation = if flat { correlation.max(0.5) } else { correlation };
            (2.0 * m * (1.0 - correlation)).clamp(0.0, 4.0 * m).sqrt()
        }))
    }

    fn decode(config: MatrixProfile, reader: &mut Reader<'_>) -> Result<Self> {
        let clock = Clock::decode(reader)?;
        let trust = Trust::decode(reader)?;
        let learned = reader.u64()?;
        let run = usize::from(reader.u8()?);
        let history = History::decode(reader, |_| config.keep(), 0)?;
        let mut profile = Profile { clock, trust, learned, run, history, ..Profile::new(config) };
        let len = profile.history.len();
        if run > len.min(config.window)
            || learned > i64::MAX as u64
            || profile.history.pushed > i64::MAX as u64
        {
            return Err(reader.corrupted("counts contradict each other"));
        }
        profile.dots = vec![0.0; len];
        if let Some(latest) = len.checked_sub(1) {
            for slot in profile.neighbours(latest) {
                let dot = reader.finite("dot product")?;
                if dot.abs() > MOST {
                    return Err(reader.corrupted("dot product out of range"));
                }
                profile.dots[slot] = dot;
            }
        }
        profile.derive_subsequences();
        profile.nearest = profile.find_nearest();
        Ok(profile)
    }
}

impl Baseline for Profile {
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
        self.learned += 1;
        let forecast = self.forecast_of(position);
        match position {
            Position::Next(steps) => {
                let missing: Option<Vec<f64>> = (1..steps)
                    .map(|step| self.forecast(step).map(|f| self.trust.centre(f)))
                    .map(|z| z.map(|z| self.history.unscale(z)))
                    .collect();
                match missing {
                    Some(missing) => missing.into_iter().for_each(|x| self.append(x)),
                    None => self.run = 0,
                }
            }
            _ => self.run = 0,
        }
        self.trust.learn(self.history.scale(point.value), forecast);
        self.clock.push(point.at);
        self.append(point.value);
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.history.pushed == 0 {
            return None;
        }
        let position = self.position(point.at);
        // What followed the neighbour is as good a forecast some steps ahead as one step.
        let (centre, spread) = self.trust.expect(self.forecast_of(position), 1);
        let spread = self.history.unscale_length(spread);
        Some(Fit { centre: self.history.unscale(centre), below: spread, above: spread })
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        map.insert("expected".into(), json_number(verdict.expected));
        map.insert("window".into(), Value::from(self.config.window));
    }

    fn explain(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("window".into(), Value::from(self.config.window));
        map.insert("history".into(), Value::from(self.config.history));
        map
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.clock.encode(out);
        self.trust.encode(out);
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.push(self.run as u8);
        self.history.encode(out);
        if let Some(latest) = self.history.len().checked_sub(1) {
            for slot in self.neighbours(latest) {
                out.extend_from_slice(&self.dots[slot].to_le_bytes());
            }
        }
        Ok(())
    }
}

impl Shape for Profile {
    const STATISTIC: &'static str = "distance";

    fn profile(&self, point: &Point, fit: &Fit) -> Option<[f64; OFFSETS.len()]> {
        if self.position(point.at) != Position::Next(1) {
            return None;
        }
        let at = |offset: f64| self.history.scale(fit.centre + offset * fit.below);
        self.distances(&OFFSETS.map(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course() -> Vec<f64> {
        let mut course: Vec<f64> = (0..300)
            .map(|i| libm::sin(f64::from(i) / 5.0) * 10.0 + f64::from((i * 7919) % 1000) / 100.0)
            .collect();
        course[150..160].fill(3.0);
        course[220..228].fill(7.0);
        course
    }

    /// STUMPY 1.14.1, `core.mass(T[s:s+8], T)[:s-8].min()` for the subsequences that end at e = s + 7;
    /// among them flat ones.
    const DISTANCES: [(usize, f64); 11] = [
        (60, 1.5679286624373798),
        (100, 0.1720972133959311),
        (157, 2.8284271247461903),
        (158, 2.8284271247461903),
        (160, 0.4078247653709941),
        (163, 0.2910853041371485),
        (200, 0.5552409503633224),
        (227, 0.0),
        (228, 0.0),
        (250, 0.25564689496467574),
        (299, 0.2948372647261606),
    ];

    /// Also across renewals and changes of scale, which z-normalised distances do not feel.
    #[test]
    fn distances_against_references() {
        let mut profile = Profile::new(MatrixProfile { window: 8, history: 512 });
        let mut checked = 0;
        for (i, x) in course().into_iter().enumerate() {
            let x = 1e9 + 1e3 * x;
            if let Some((_, expected)) = DISTANCES.iter().find(|(e, _)| *e == i) {
                let z = profile.history.scale(x);
                let distance = profile.distances(&[z; OFFSETS.len()]).unwrap()[0];
                assert!((distance - expected).abs() < 1e-5, "{distance}, not {expected}, at {i}");
                checked += 1;
            }
            profile.push(&Point::new(i as i64 * 1000, x));
        }
        assert_eq!(checked, DISTANCES.len());
    }

    /// What the recurrence carries is what comes of computing it anew, also when the history slides.
    #[test]
    fn dot_products_do_not_drift() {
        let mut profile = Profile::new(MatrixProfile { window: 12, history: 256 });
        for (i, x) in course().into_iter().cycle().take(1400).enumerate() {
            profile.push(&Point::new(i as i64, x + (i % 17) as f64));
            if i > 100 && i % 61 == 0 {
                let latest = profile.history.len() - 1;
                let neighbours = profile.neighbours(latest);
                assert!(neighbours.len() > 60);
                for slot in neighbours {
                    let anew = dot(profile.ending_at(latest), profile.ending_at(slot));
                    assert!((profile.dots[slot] - anew).abs() < 1e-9, "at {i}");
                }
            }
        }
    }
}
