//! Strategies that users write: a score of their own, calibrated here.
//!
//! What scores is a [`Functions`], of which nothing is known but that the same point gets the same score by
//! the same state. A larger score is more unusual; its scale is the author's. Scores of points that the
//! state was not made from are judged like any other statistic: centre and spread of the scores so far, and
//! the one-sided calibrator of their residuals (`location_scale.rs`). So p, deviation and the promised rate
//! of alerts mean what they mean for every strategy; a threshold is compared with the score itself.
//!
//! The latest `history` points are kept, and the state is made anew from them when their number has grown by
//! half and, from a full history on, when half of it has been renewed: a function of counts alone. A state
//! that other functions have made than those of now is made anew too, and with it what was calibrated.
//!
//! Functions are costly to call: points that are only learned are put off until [`EntityModel::settle`] or
//! the next judgement, and those that were announced are scored some thousand at a time.
//!
//! Expected is what the functions say, or else the median of the history. The range of normal values is
//! where the score passes its limit on the way out from there, looked for among values that have been
//! seen: a score may not be defined elsewhere.
//!
//! Parameters: `history` 1000 points (100 to 20,000); all others are the author's. 16 bytes a point and
//! 4 kB of scores.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale};
use super::statistic::describe;
use super::{EntityModel, Kind, Rule, Strategy, integer_param, json_number};
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};
use crate::{Error, Result};

/// Points behind the first state.
const FIRST_FIT: u64 = 32;
/// Scores behind centre and spread.
const SCORES: usize = 512;
/// Announced points that are scored by one call.
const CHUNK: usize = 4096;
/// Announced points that may be left out in a row.
const SKIPPED: usize = 64;
/// Bytes of a state.
pub const MAX_STATE: usize = 1 << 20;
/// The largest `history`.
const MAX_HISTORY: u64 = 20_000;
/// Values looked at on each side for the end of the range: halving the distance, then dividing the part in
/// which the limit is passed, twice.
const HALVINGS: usize = 12;
const PARTS: usize = 8;

/// What a user has written. Each may unwind, and what was being learned has to be dropped then.
pub trait Functions: Send + Sync {
    fn name(&self) -> &str;
    /// Another one when any of the functions has become another.
    fn version(&self) -> u64;
    /// Whether they can be called here and now.
    fn callable(&self) -> bool;
    /// The state learned from points in the order of their times, as JSON; `None` where the strategy has
    /// nothing to learn.
    fn train(&self, at: &[i64], values: &[f64]) -> Option<String>;
    /// A finite score for each point.
    fn score(&self, state: &str, at: &[i64], values: &[f64]) -> Vec<f64>;
    /// What is expected at a time, finite; `None` where the strategy does not say.
    fn expected(&self, state: &str, at: i64) -> Option<f64>;
}

/// A strategy of this kind, as a detector is told it.
#[derive(Clone)]
pub struct OwnFunctions(pub Arc<dyn Functions>);

impl fmt::Debug for OwnFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnFunctions").field(&self.0.name()).finish()
    }
}

impl PartialEq for OwnFunctions {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A user's strategy.
pub struct Own {
    functions: Arc<dyn Functions>,
    history: usize,
}

impl Own {
    /// The parameter `history`, in points; what else is there is for the functions.
    pub fn new(functions: &OwnFunctions, params: &Value, kind: Kind) -> Result<Self> {
        let empty = Map::new();
        let params = match params {
            Value::Null => &empty,
            Value::Object(params) => params,
            _ => {
                return Err(Error::invalid(
                    "strategy parameters must be a JSON object",
                    "Write for example {\"history\": 2000}, or {}.",
                ));
            }
        };
        if kind == Kind::Ratio {
            return Err(Error::invalid(
                format!("{} is not told of how many trials a ratio is", functions.0.name()),
                "Leave out trials: with kind value a share is judged like any number.",
            ));
        }
        Ok(Own {
            functions: functions.0.clone(),
            history: integer_param(params, "history", 1000, 100..=MAX_HISTORY)? as usize,
        })
    }

    fn model(&self, inner: Inner) -> Box<dyn EntityModel> {
        Box::new(Model {
            functions: self.functions.clone(),
            history: self.history,
            inner: RefCell::new(inner),
        })
    }
}

impl Strategy for Own {
    fn name(&self) -> &str {
        self.functions.name()
    }

    fn short_name(&self) -> &str {
        self.functions.name()
    }

    fn statistic_name(&self) -> &'static str {
        "score"
    }

    fn algorithm(&self) -> u16 {
        64
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        self.model(Inner::new(self.functions.version()))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(self.model(Inner::decode(reader)?))
    }
}

/// The scores so far: half of them lie below the centre, one in six beyond the spread above it. Below the
/// centre none is unusual.
struct Scores {
    count: u64,
    latest: VecDeque<f64>,
    fit: Option<Fit>,
}

impl Scores {
    fn new() -> Self {
        Scores { count: 0, latest: VecDeque::new(), fit: None }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.u64()?;
        let kept = usize::from(reader.u16()?);
        if count > i64::MAX as u64 || kept > SCORES || (kept as u64) > count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        let mut latest = VecDeque::new();
        for _ in 0..kept {
            latest.push_back(reader.finite("score")?);
        }
        let fit = match reader.u8()? {
            0 => None,
            1 => Some(Fit {
                centre: reader.finite("centre of scores")?,
                below: f64::MAX,
                above: reader.non_negative("spread of scores")?,
            }),
            _ => return Err(reader.corrupted("unknown mark")),
        };
        Ok(Scores { count, latest, fit })
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value with this share of the sorted ones below it, of at least one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share + 0.5) as usize]
}

impl Baseline for Scores {
    /// Of a spread between two quantiles, about that of the median absolute deviation.
    const EFFICIENCY: f64 = 0.4;

    fn dof(&self, count: u64) -> f64 {
        Self::EFFICIENCY * count.min(SCORES as u64).saturating_sub(1) as f64
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        if self.latest.len() == SCORES {
            self.latest.pop_front();
        }
        self.latest.push_back(point.value);
        self.count = self.count.saturating_add(1);
    }

    fn refresh(&mut self) {
        let scores = sorted(self.latest.iter().copied());
        if scores.is_empty() {
            return;
        }
        let centre = quantile(&scores, 0.5);
        let above = (quantile(&scores, 0.8413) - centre).clamp(0.0, f64::MAX);
        self.fit = Some(Fit { centre, below: f64::MAX, above });
    }

    fn fit(&self, _point: &Point) -> Option<Fit> {
        self.fit
    }

    fn metadata(&self, _verdict: &Verdict, _map: &mut Map<String, Value>) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&(self.latest.len() as u16).to_le_bytes());
        self.latest.iter().for_each(|score| out.extend_from_slice(&score.to_le_bytes()));
        match self.fit {
            None => out.push(0),
            Some(fit) => {
                out.push(1);
                out.extend_from_slice(&fit.centre.to_le_bytes());
                out.extend_from_slice(&fit.above.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// What there is of one entity.
struct Inner {
    /// Of the functions that made the state.
    version: u64,
    state: Option<String>,
    /// Points learned, and at the latest fit.
    learned: u64,
    fitted_at: u64,
    latest: VecDeque<(i64, f64)>,
    scores: LocationScale<Scores>,
    /// Points to be learned, in their order.
    pending: Vec<(i64, f64)>,
    /// Points that will be judged next, and scores of the first of them by the state at hand.
    announced: VecDeque<(i64, f64)>,
    ready: VecDeque<f64>,
    /// The point that was scored last, by the state at hand.
    last: Option<((i64, u64), f64)>,
}

impl Inner {
    fn new(version: u64) -> Self {
        Inner {
            version,
            state: None,
            learned: 0,
            fitted_at: 0,
            latest: VecDeque::new(),
            scores: LocationScale::new(Scores::new()).one_sided(),
            pending: Vec::new(),
            announced: VecDeque::new(),
            ready: VecDeque::new(),
            last: None,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        if reader.u8()? != 1 {
            return Err(Error::NewerFormat("state of a later version".into()));
        }
        let mut inner = Inner::new(reader.u64()?);
        (inner.learned, inner.fitted_at) = (reader.u64()?, reader.u64()?);
        inner.state = match reader.u32()? as usize {
            0 => None,
            length if length <= MAX_STATE => {
                let text = std::str::from_utf8(reader.take(length)?);
                Some(text.map_err(|_| reader.corrupted("state is no text"))?.to_owned())
            }
            _ => return Err(reader.corrupted("state too long")),
        };
        let points = u64::from(reader.u32()?);
        if inner.learned > i64::MAX as u64
            || inner.fitted_at > inner.learned
            || points > inner.learned.min(MAX_HISTORY)
        {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for _ in 0..points {
            inner.latest.push_back((reader.i64()?, reader.finite("value")?));
        }
        inner.scores = LocationScale::decode(reader, Scores::decode)?;
        Ok(inner)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.push(1);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.extend_from_slice(&self.fitted_at.to_le_bytes());
        let state = self.state.as_deref().unwrap_or_default();
        out.extend_from_slice(&(state.len() as u32).to_le_bytes());
        out.extend_from_slice(state.as_bytes());
        out.extend_from_slice(&(self.latest.len() as u32).to_le_bytes());
        for (at, value) in &self.latest {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        self.scores.encode(out)
    }

    /// How many more points are learned before the next fit.
    fn until_fit(&self, history: usize) -> u64 {
        let next = match self.fitted_at {
            0 => FIRST_FIT,
            at => at + (at / 2).min(history as u64 / 2),
        };
        next.saturating_sub(self.learned)
    }

    /// Makes a state of the history.
    fn fit(&mut self, functions: &dyn Functions) {
        let mut points: Vec<(i64, f64)> = self.latest.iter().copied().collect();
        points.sort_by_key(|(at, _)| *at);
        let (at, values): (Vec<i64>, Vec<f64>) = points.into_iter().unzip();
        self.state = Some(functions.train(&at, &values).unwrap_or_else(|| "{}".to_owned()));
        self.fitted_at = self.learned;
        self.ready.clear();
        self.last = None;
    }

    /// Takes in a point with its score, which is that of the state at hand.
    fn take(&mut self, (at, value): (i64, f64), score: Option<f64>, model: &Model) {
        if let Some(score) = score {
            self.scores.learn(&Point::new(at, score));
        }
        while self.latest.len() >= model.history {
            self.latest.pop_front();
        }
        self.latest.push_back((at, value));
        self.learned += 1;
        if self.until_fit(model.history) == 0 {
            self.fit(model.functions.as_ref());
        }
    }

    /// Learns what was put off, and begins anew from the history where the functions are others now.
    fn settle(&mut self, model: &Model) {
        let functions = model.functions.as_ref();
        if self.version != functions.version() {
            let mut again = Inner::new(functions.version());
            again.pending = self.latest.drain(..).collect();
            again.pending.append(&mut self.pending);
            again.announced = std::mem::take(&mut self.announced);
            *self = again;
        }
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        loop {
            let most = match &self.state {
                None => 1,
                Some(_) => self.until_fit(model.history).clamp(1, CHUNK as u64) as usize,
            };
            let points: Vec<(i64, f64)> = pending.by_ref().take(most).collect();
            if points.is_empty() {
                return;
            }
            let scores = self.state.as_deref().map(|state| score_all(functions, state, &points));
            for (i, point) in points.into_iter().enumerate() {
                self.take(point, scores.as_ref().map(|scores| scores[i]), model);
            }
        }
    }

    /// The score of a point by the state at hand, if there is one.
    fn score(&mut self, at: i64, value: f64, model: &Model) -> Option<f64> {
        let (functions, history) = (model.functions.as_ref(), model.history);
        let key = (at, value.to_bits());
        if let Some((_, score)) = self.last.filter(|(last, _)| *last == key) {
            return Some(score);
        }
        let state = self.state.as_deref()?;
        let is_next = |(a, v): &(i64, f64)| (*a, v.to_bits()) == key;
        // Others than those that were announced may come in between, and of these some may not come.
        let place = self.announced.iter().take(SKIPPED).position(is_next);
        let score = if let Some(place) = place {
            self.announced.drain(..place);
            self.ready.drain(..place.min(self.ready.len()));
            if self.ready.is_empty() {
                // No more are learned before the next fit, which changes the scores.
                let most = self.until_fit(history).clamp(1, CHUNK as u64) as usize;
                let next: Vec<(i64, f64)> = self.announced.iter().take(most).copied().collect();
                self.ready = score_all(functions, state, &next).into();
            }
            self.announced.pop_front();
            self.ready.pop_front()?
        } else {
            score_all(functions, state, &[(at, value)])[0]
        };
        self.last = Some((key, score));
        Some(score)
    }
}

fn score_all(functions: &dyn Functions, state: &str, points: &[(i64, f64)]) -> Vec<f64> {
    let (at, values): (Vec<i64>, Vec<f64>) = points.iter().copied().unzip();
    functions.score(state, &at, &values)
}

struct Model {
    functions: Arc<dyn Functions>,
    history: usize,
    /// Judging settles what was put off.
    inner: RefCell<Inner>,
}

impl Model {
    fn settled(&self) -> RefMut<'_, Inner> {
        let mut inner = self.inner.borrow_mut();
        inner.settle(self);
        inner
    }

    /// Expected value and range of normal values at a time, with `limit` the largest score of a normal
    /// point.
    fn range(&self, inner: &Inner, at: i64, value: f64, limit: f64) -> (f64, f64, f64) {
        let functions = self.functions.as_ref();
        let seen = sorted(inner.latest.iter().map(|(_, v)| *v));
        let (Some(least), Some(most), Some(state)) = (seen.first(), seen.last(), &inner.state)
        else {
            return (f64::NAN, f64::NAN, f64::NAN);
        };
        let median = quantile(&seen, 0.5);
        if !functions.callable() {
            return (median, f64::NAN, f64::NAN);
        }
        let expected = functions.expected(state, at).unwrap_or(median);
        let value = if value.is_finite() { value } else { expected };
        // from what is expected to the ends of what has been seen
        let reach =
            [expected - least.min(value).min(expected), most.max(value).max(expected) - expected];
        let mut steps = [Vec::new(), Vec::new()];
        for (side, steps) in steps.iter_mut().enumerate() {
            let reach = reach[side].min(f64::MAX);
            *steps = (0..HALVINGS as i32).rev().map(|i| reach * 0.5f64.powi(i)).collect();
            let own = if side == 0 { expected - value } else { value - expected };
            if own > 0.0 {
                steps.push(own.min(f64::MAX));
                steps.sort_unstable_by(f64::total_cmp);
            }
        }
        // The largest distance up to which everything was normal.
        let mut ends = reach.map(|d| d.min(f64::MAX));
        let mut from = [0.0; 2];
        for _ in 0..3 {
            let point = |side: usize, d: f64| {
                let x = if side == 0 { expected - d } else { expected + d };
                (at, x.clamp(-f64::MAX, f64::MAX))
            };
            let places: Vec<(usize, f64)> =
                (0..2).flat_map(|side| steps[side].iter().map(move |d| (side, *d))).collect();
            if places.is_empty() {
                break;
            }
            let points: Vec<(i64, f64)> = places.iter().map(|(side, d)| point(*side, *d)).collect();
            let scores = score_all(functions, state, &points);
            for side in 0..2 {
                let mut last = from[side];
                let mut passed = None;
                for ((_, d), score) in places.iter().zip(&scores).filter(|((s, _), _)| *s == side) {
                    if *score > limit {
                        passed = Some(*d);
                        break;
                    }
                    last = *d;
                }
                steps[side].clear();
                let Some(d) = passed else { continue };
                (from[side], ends[side]) = (last, last);
                if d > last {
                    let part = |i: usize| last + (d - last) * (i as f64 / PARTS as f64);
                    steps[side].extend((1..=PARTS).map(part));
                }
            }
        }
        (expected, expected - ends[0], expected + ends[1])
    }
}

impl EntityModel for Model {
    fn count(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.learned + inner.pending.len() as u64
    }

    fn is_warm(&self, least: u64) -> bool {
        self.count() >= least.max(FIRST_FIT)
    }

    fn announce(&mut self, points: &mut dyn Iterator<Item = (i64, f64)>) {
        let inner = self.inner.get_mut();
        inner.ready.clear();
        inner.announced = points.filter(|(_, value)| value.is_finite()).collect();
    }

    fn settle(&mut self, from: usize) {
        let waiting = self.inner.get_mut().pending.len();
        if waiting > 0 && waiting >= from {
            drop(self.settled());
        }
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        if point.value.is_nan() && !self.functions.callable() {
            // What is expected can be told to whoever may not call them.
            verdict.expected = self.range(&self.inner.borrow(), point.at, f64::NAN, f64::NAN).0;
            return verdict.of_non_finite();
        }
        let mut inner = self.settled();
        let by_p = Rule { threshold: None, ..*rule };
        let score =
            if point.value.is_finite() { inner.score(point.at, point.value, self) } else { None };
        let judged = inner.scores.judge(&Point::new(point.at, score.unwrap_or(f64::NAN)), &by_p);
        if rule.range {
            let limit = rule.threshold.unwrap_or(judged.upper);
            let limit = if limit.is_nan() { f64::INFINITY } else { limit };
            (verdict.expected, verdict.lower, verdict.upper) =
                self.range(&inner, point.at, point.value, limit);
        }
        if !point.value.is_finite() {
            return verdict.of_non_finite();
        }
        let Some(score) = score else { return verdict };
        verdict.direction = Direction::of(point.value, verdict.expected);
        verdict.statistic = score;
        if judged.direction == Direction::High {
            verdict.tail = judged.tail;
            verdict.is_anomaly = judged.is_anomaly;
        } else {
            verdict.tail = Tail::LnP(0.0);
        }
        if let Some(threshold) = rule.threshold {
            verdict.is_anomaly = score > threshold;
        }
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if !point.value.is_finite() {
            return;
        }
        let key = (point.at, point.value.to_bits());
        let inner = self.inner.get_mut();
        match inner.last {
            Some((last, score)) if last == key && inner.pending.is_empty() => {
                let mut inner = self.inner.borrow_mut();
                inner.take((point.at, point.value), Some(score), self);
            }
            _ => inner.pending.push((point.at, point.value)),
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            let mut inner = self.settled();
            let score = inner.score(point.at, point.value, self);
            if let Some(score) = score {
                inner.scores.leave_out(&Point::new(point.at, score));
            }
        }
    }

    /// Only its score is learned, as one on the border of normal: which value would have it is unknown.
    fn learn_clipped(&mut self, point: &Point) {
        if point.value.is_finite() {
            let mut inner = self.settled();
            let score = inner.score(point.at, point.value, self);
            if let Some(score) = score {
                inner.scores.learn_clipped(&Point::new(point.at, score));
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        // Only what was put off needs the functions.
        if self.inner.borrow().pending.is_empty() {
            return self.inner.borrow().encode(out);
        }
        self.settled().encode(out)
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let inner = self.inner.borrow();
        let mut map = Map::new();
        map.insert("score".into(), json_number(verdict.statistic));
        if rule.threshold.is_none() {
            let by_p = Rule { range: true, ..*rule };
            let limit = inner.scores.judge(&Point::new(verdict.at, f64::NAN), &by_p).upper;
            map.insert("score_limit".into(), json_number(limit));
        }
        describe(verdict, rule, inner.learned, &mut map);
        map
    }

    fn explain(&self) -> Map<String, Value> {
        let inner = self.inner.borrow();
        let mut map = Map::new();
        map.insert("history".into(), Value::from(inner.latest.len()));
        match &inner.state {
            None => {
                let status = format!("not trained yet ({} of {FIRST_FIT})", inner.learned);
                map.insert("status".into(), Value::from(status));
            }
            Some(state) => {
                map.insert("fitted_after".into(), Value::from(inner.fitted_at));
                let state = serde_json::from_str(state).unwrap_or(Value::Null);
                map.insert("state".into(), state);
            }
        }
        map
    }
}
