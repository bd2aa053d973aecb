//! `hybrid_auto`: chooses and combines strategies by what the data shows.
//!
//! **Choice.** The strategies that forecast compete for the entity's own recent points: each is run
//! over them causally, and the second half is scored by the interval score of its 95 % range
//! (Gneiting and Raftery 2007, eq. 43), width plus 2/α times what lies outside. It is a proper score:
//! nobody gains by a range that is too narrow or too wide, and no labels are needed. The best is what
//! is expected from then on; another takes over only if it is better by more than [`MARGIN`], so that
//! choices do not flap. It is decided when the number of points doubles.
//!
//! **Combination.** What was never seen before in all history or at the time of day is added by
//! [`Surprise`], and their sum is calibrated by its own past: the alert rate is the promised one
//! whichever strategy is chosen.

use serde_json::{Map, Value, json};

use super::novelty::{self, Surprise};
use super::{
    Context, EntityModel, Rule, STRATEGIES, Strategy, check_keys, integer_param, json_number,
};
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;
use crate::{Error, Result};

/// Strategies that compete, in the order in which ties are decided: the simpler first.
const CANDIDATES: [&str; 11] = [
    "zscore",
    "mad",
    "ewma",
    "moving_average",
    "persist",
    "quantile",
    "novelty",
    "seasonal",
    "regression",
    "holt_winters",
    "iqr",
];
/// Recent points that are kept to choose by.
const RECENT: usize = 512;
/// A choice needs so many points.
const FIRST_CHOICE: u64 = 64;
/// By how much another must be better to take over.
const MARGIN: f64 = 0.05;
/// The range that is scored leaves out this share.
const SCORED_ALPHA: f64 = 0.05;
/// Share of the worst scores that does not count: incidents in the history decide nothing.
const TRIMMED: f64 = 0.02;

struct Candidate {
    short_name: &'static str,
    strategy: Box<dyn Strategy>,
}

/// See the head of this file.
pub struct Auto {
    context: Context,
    memory: u64,
    candidates: std::sync::Arc<Vec<Candidate>>,
}

impl Auto {
    /// `habituation`: as of [`super::Novelty`].
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("hybrid_auto", params, &["habituation", "base"])?;
        let memory = integer_param(params, "habituation", novelty::MEMORY, 0..=1_000_000)?;
        let mut candidates = Vec::new();
        for short_name in CANDIDATES {
            if short_name == "novelty" {
                candidates.push(Candidate {
                    short_name,
                    strategy: Box::new(novelty::Profile::new(context)),
                });
                continue;
            }
            let info = STRATEGIES.iter().find(|s| s.short_name == short_name);
            if let Some(make) = info.and_then(|s| s.make) {
                candidates.push(Candidate { short_name, strategy: make(&Map::new(), context)? });
            }
        }
        if let Some(base) = params.get("base") {
            candidates.retain(|c| Some(c.short_name) == base.as_str());
            if candidates.is_empty() {
                return Err(Error::invalid(
                    format!("parameter \"base\" is {base}"),
                    format!("It must be one of {}.", CANDIDATES.join(", ")),
                ));
            }
        }
        Ok(Auto { context: context.clone(), memory, candidates: candidates.into() })
    }
}

impl Strategy for Auto {
    fn name(&self) -> &'static str {
        "hybrid_auto"
    }

    fn short_name(&self) -> &'static str {
        "auto"
    }

    fn statistic_name(&self) -> &'static str {
        "surprise"
    }

    fn algorithm(&self) -> u16 {
        21
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(AutoModel {
            candidates: self.candidates.clone(),
            chosen: 0,
            base: self.candidates[0].strategy.new_state(),
            surprise: Surprise::new(self.context.calendar.clone(), self.memory),
            recent: Vec::new(),
            oldest: 0,
            count: 0,
            scores: vec![f32::NAN; self.candidates.len()],
            chosen_at: 0,
            facts: Facts::default(),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let count = reader.u64()?;
        let chosen_at = reader.u64()?;
        // by name, for later versions have other candidates
        let algorithm = reader.u16()?;
        let chosen = self
            .candidates
            .iter()
            .position(|c| c.strategy.algorithm() == algorithm)
            .ok_or_else(|| reader.corrupted("unknown strategy"))?;
        let facts = Facts::decode(reader)?;
        let mut scores = vec![f32::NAN; self.candidates.len()];
        for _ in 0..reader.u8()? {
            let algorithm = reader.u16()?;
            let score = f32::from_bits(reader.u32()?);
            if let Some(i) =
                self.candidates.iter().position(|c| c.strategy.algorithm() == algorithm)
            {
                scores[i] = score;
            }
        }
        let n = usize::from(reader.u16()?);
        let oldest = usize::from(reader.u16()?);
        if n > RECENT || (oldest != 0 && oldest >= n) || n as u64 > count || chosen_at > count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        let mut recent = Vec::with_capacity(n);
        for _ in 0..n {
            recent.push(Recent {
                at: reader.i64()?,
                value: reader.finite("value")?,
                trials: reader.f64()?,
            });
        }
        let surprise = Surprise::decode(reader, self.context.calendar.clone(), self.memory)?;
        let base = self.candidates[chosen].strategy.decode_state(reader)?;
        Ok(Box::new(AutoModel {
            candidates: self.candidates.clone(),
            chosen,
            base,
            surprise,
            recent,
            oldest,
            count,
            scores,
            chosen_at,
            facts,
        }))
    }
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    at: i64,
    value: f64,
    trials: f64,
}

impl Recent {
    fn point(&self) -> Point<'static> {
        Point { trials: self.trials, ..Point::new(self.at, self.value) }
    }
}

/// What the recent points look like, for people.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Facts {
    /// Median of the times between points, µs.
    interval: i64,
    constant: bool,
    whole: bool,
    /// Kurtosis by quantiles (Moors 1988): 1.23 for the normal distribution.
    tails: f32,
}

impl Facts {
    fn of(points: &[Recent]) -> Self {
        let mut gaps: Vec<i64> =
            points.windows(2).map(|w| w[1].at.saturating_sub(w[0].at)).collect();
        gaps.sort_unstable();
        let mut values: Vec<f64> = points.iter().map(|p| p.value).collect();
        values.sort_unstable_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else { return Facts::default() };
        let q = |eighths: usize| values[last * eighths / 8];
        let spread = q(6) / 4.0 - q(2) / 4.0;
        let tails = (q(7) / 4.0 - q(5) / 4.0 + (q(3) / 4.0 - q(1) / 4.0)) / spread;
        Facts {
            interval: gaps.get(gaps.len() / 2).copied().unwrap_or(0).max(0),
            constant: values[0] == values[last],
            whole: values.iter().all(|v| *v >= 0.0 && *v == v.floor()),
            tails: if tails.is_finite() { tails.min(1e30) as f32 } else { 0.0 },
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.interval.to_le_bytes());
        out.push(u8::from(self.constant) | u8::from(self.whole) << 1);
        out.extend_from_slice(&self.tails.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let interval = reader.i64()?;
        let flags = reader.u8()?;
        let tails = f32::from_bits(reader.u32()?);
        if interval < 0 || flags > 3 || !tails.is_finite() {
            return Err(reader.corrupted("facts out of range"));
        }
        Ok(Facts { interval, constant: flags & 1 != 0, whole: flags & 2 != 0, tails })
    }
}

struct AutoModel {
    candidates: std::sync::Arc<Vec<Candidate>>,
    chosen: usize,
    base: Box<dyn EntityModel>,
    surprise: Surprise,
    /// A ring: the oldest is at `oldest` once it is full.
    recent: Vec<Recent>,
    oldest: usize,
    count: u64,
    /// Interval scores at the last choice; NaN where there is none.
    scores: Vec<f32>,
    /// Points at the last choice; 0 before the first.
    chosen_at: u64,
    facts: Facts,
}

impl AutoModel {
    fn remember(&mut self, point: &Point) {
        let entry = Recent { at: point.at, value: point.value, trials: point.trials };
        if self.recent.len() < RECENT {
            self.recent.push(entry);
        } else {
            self.recent[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % RECENT;
        }
    }

    fn choose(&mut self) {
        let mut points = self.recent.clone();
        points.rotate_left(self.oldest);
        self.facts = Facts::of(&points);
        self.chosen_at = self.count;
        let rule = Rule::new(None, libm::log(SCORED_ALPHA));
        let mut best: Option<(usize, f32, Box<dyn EntityModel>)> = None;
        for (i, candidate) in self.candidates.iter().enumerate() {
            let mut model = candidate.strategy.new_state();
            let mut scores = Vec::with_capacity(points.len() / 2);
            for (j, p) in points.iter().enumerate() {
                let point = p.point();
                if 2 * j >= points.len() {
                    scores.push(interval_score(&model.judge(&point, &rule)));
                }
                model.learn(&point);
            }
            scores.sort_unstable_by(f64::total_cmp);
            let kept = scores.len() - (TRIMMED * scores.len() as f64) as usize;
            let mean = scores[..kept].iter().map(|s| s / kept as f64).sum::<f64>();
            let score = if mean.is_finite() { (mean as f32).min(f32::MAX) } else { f32::MAX };
            self.scores[i] = score;
            let handicap = if i == self.chosen { 1.0 } else { 1.0 + MARGIN as f32 };
            let mine = score * handicap;
            if best.as_ref().is_none_or(|(_, least, _)| mine < *least) {
                best = Some((i, mine, model));
            }
        }
        if let Some((i, _, model)) = best
            && i != self.chosen
        {
            self.chosen = i;
            self.base = model;
        }
    }
}

/// Width of the range plus 2/α times what lies outside.
fn interval_score(v: &Verdict) -> f64 {
    if v.lower.is_nan() {
        return f64::INFINITY;
    }
    let outside = (v.lower - v.value).max(v.value - v.upper).max(0.0);
    (v.upper - v.lower) + 2.0 / SCORED_ALPHA * outside
}

impl EntityModel for AutoModel {
    fn count(&self) -> u64 {
        self.count
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        self.surprise.judge(self.base.as_ref(), point, rule)
    }

    fn learn(&mut self, point: &Point) {
        if !point.value.is_finite() {
            return;
        }
        self.surprise.learn(self.base.as_ref(), point);
        self.base.learn(point);
        self.remember(point);
        self.count = self.count.saturating_add(1);
        if self.count >= FIRST_CHOICE && self.count.is_power_of_two() {
            self.choose();
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.surprise.learn(self.base.as_ref(), point);
            self.base.leave_out(point);
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        self.base.learn_clipped(point);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.chosen_at.to_le_bytes());
        out.extend_from_slice(&self.candidates[self.chosen].strategy.algorithm().to_le_bytes());
        self.facts.encode(out);
        out.push(self.candidates.len() as u8);
        for (candidate, score) in self.candidates.iter().zip(&self.scores) {
            out.extend_from_slice(&candidate.strategy.algorithm().to_le_bytes());
            out.extend_from_slice(&score.to_le_bytes());
        }
        out.extend_from_slice(&(self.recent.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.oldest as u16).to_le_bytes());
        for p in &self.recent {
            out.extend_from_slice(&p.at.to_le_bytes());
            out.extend_from_slice(&p.value.to_le_bytes());
            out.extend_from_slice(&p.trials.to_le_bytes());
        }
        self.surprise.encode(out);
        self.base.encode(out)
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = self.base.metadata(verdict, rule);
        map.insert("strategy".into(), Value::from(self.candidates[self.chosen].short_name));
        self.surprise.metadata(verdict, rule, &mut map);
        map
    }

    fn explain(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let chosen = self.candidates[self.chosen].short_name;
        map.insert("strategy".into(), Value::from(chosen));
        map.insert(
            "combined_with".into(),
            json!(["range of all history", "range at the time of day"]),
        );
        if self.chosen_at == 0 {
            map.insert(
                "because".into(),
                Value::from(format!("fewer than {FIRST_CHOICE} points so far")),
            );
            return map;
        }
        let mut ranking: Vec<_> = self.candidates.iter().zip(&self.scores).collect();
        ranking.sort_by(|a, b| a.1.total_cmp(b.1));
        let because = format!(
            "its 95 % range had the best interval score over the latest {} of {} points, or was within {:.0} % of it and is kept",
            self.recent.len() / 2,
            self.chosen_at,
            MARGIN * 100.0
        );
        map.insert("because".into(), Value::from(because));
        let listed = ranking.iter().map(|(c, score)| {
            json!({"strategy": c.short_name, "interval_score": json_number(f64::from(**score))})
        });
        map.insert("candidates".into(), Value::Array(listed.collect()));
        map.insert("chosen_at_points".into(), Value::from(self.chosen_at));
        map.insert(
            "data".into(),
            json!({
                "interval_seconds": self.facts.interval as f64 / 1e6,
                "constant": self.facts.constant,
                "whole_numbers": self.facts.whole,
                "tail_weight": json_number(f64::from(self.facts.tails)),
            }),
        );
        map
    }
}
