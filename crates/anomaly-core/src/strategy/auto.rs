//! `hybrid_auto`: chooses and combines strategies by what the data shows.
//!
//! **Choice.** A few strategies that forecast in different ways all learn every point. Each point is
//! forecast by all of them first (prequential analysis: Dawid 1984), and each forecast is scored by
//! the logarithmic score of a Laplace distribution with its centre and spread, a proper score that
//! needs no labels (Gneiting and Raftery 2007): nobody gains by a spread that is too narrow or too
//! wide, and errors beyond [`WORST`] spreads count as that, so that incidents decide nothing. The
//! one with the best recent scores is what is expected; another takes over when it is better by more
//! than [`MARGIN`], so that choices do not flap.
//!
//! **Combination.** What was never seen before in all history or at the time of day is added by
//! [`Surprise`], and their sum is calibrated by its own past: the alert rate is the promised one
//! whichever strategy is chosen.
//!
//! **Several columns.** Where points have further columns, this is one of the members of an
//! [`Ensemble`] beside an isolation forest and a one-class SVM over the whole row.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::location_scale::refresh_due;
use super::novelty::{self, Surprise};
use super::{
    Context, Ensemble, EntityModel, Kind, Rule, Strategy, check_keys, integer_param, json_number,
};
use crate::codec::Reader;
use crate::elementary::ln_each;
use crate::point::Point;
use crate::verdict::Verdict;
use crate::{Error, Result};

/// Strategies that compete, in the order in which ties are decided: the simpler first.
const CANDIDATES: [&str; 5] = ["zscore", "quantile", "ewma", "persist", "seasonal"];
/// A choice needs so many points.
const FIRST_CHOICE: u64 = 64;
/// Over how many points scores fade.
const RECENT: f64 = 256.0;
/// By how many nats a point another must be better to take over.
const MARGIN: f64 = 0.05;
/// A forecast that is better by so many nats than any that knows nothing of time explains most of what
/// happens: ln 2 is half the spread.
const EXPLAINS: f64 = 1.4;
/// Errors count up to so many spreads.
const WORST: f64 = 10.0;
/// No forecast is credited with a spread below this share of the typical error of the first one.
const LEAST_SPREAD: f64 = 0.02;
/// Mean absolute value of normal noise.
const MEAN_ABSOLUTE: f64 = 0.797_884_560_802_865_4;

type Candidates = Arc<Vec<(&'static str, Box<dyn Strategy>)>>;

/// `hybrid_auto` of values, or of rows where there are further columns.
pub(super) fn strategy(
    params: &Map<String, Value>,
    context: &Context,
) -> Result<Box<dyn Strategy>> {
    match context.features {
        0 => Ok(Box::new(Auto::new(params, context)?)),
        _ => Ok(Box::new(Ensemble::of_rows(params, context)?)),
    }
}

/// See the head of this file.
pub struct Auto {
    context: Context,
    memory: u64,
    candidates: Candidates,
}

impl Auto {
    /// `habituation`: as of [`super::Novelty`]. `base`: the one strategy that is to forecast.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("hybrid_auto", params, &["habituation", "base"])?;
        let memory = integer_param(params, "habituation", novelty::MEMORY, 0..=1_000_000)?;
        let mut candidates = Vec::new();
        for short_name in CANDIDATES {
            if params.get("base").is_some_and(|base| base.as_str() != Some(short_name)) {
                continue;
            }
            // The latest value says nothing of how chance moves the next one.
            if short_name == "persist" && context.kind != Kind::Value {
                continue;
            }
            candidates.push((short_name, super::strategy(short_name, &Value::Null, context)?));
        }
        if candidates.is_empty() {
            return Err(Error::invalid(
                format!("parameter \"base\" is {}", params["base"]),
                format!("It must be one of {}.", CANDIDATES.join(", ")),
            ));
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
        let members =
            self.candidates.iter().map(|(_, s)| Member { model: s.new_state(), loss: 0.0 });
        Box::new(AutoModel {
            candidates: self.candidates.clone(),
            members: members.collect(),
            kind: self.context.kind,
            chosen: 0,
            since: 0,
            considered: 0,
            typical: 0.0,
            surprise: Surprise::new(self.context.calendar.clone(), self.memory),
            facts: Facts::default(),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let chosen = usize::from(reader.u8()?);
        let (since, considered) = (reader.u64()?, reader.u64()?);
        let typical = reader.non_negative("typical error")?;
        let facts = Facts::decode(reader)?;
        let surprise = Surprise::decode(reader, self.context.calendar.clone(), self.memory)?;
        if usize::from(reader.u8()?) != self.candidates.len() || chosen >= self.candidates.len() {
            return Err(reader.corrupted("other strategies compete"));
        }
        let mut members = Vec::with_capacity(self.candidates.len());
        for (_, strategy) in self.candidates.iter() {
            let loss = reader.finite("score")?;
            // some states take all that is left
            let length = reader.u32()? as usize;
            let mut part = Reader::new(reader.take(length)?);
            members.push(Member { model: strategy.decode_state(&mut part)?, loss });
            part.finish()?;
        }
        let count = surprise.count();
        if since > count || considered > count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(Box::new(AutoModel {
            candidates: self.candidates.clone(),
            members,
            kind: self.context.kind,
            chosen,
            since,
            considered,
            typical,
            surprise,
            facts,
        }))
    }
}

/// A strategy that competes.
struct Member {
    model: Box<dyn EntityModel>,
    /// Fading mean of its scores; the less the better.
    loss: f64,
}

/// What the values look like, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Facts {
    low: f64,
    high: f64,
    whole: bool,
    /// Points that had p < 0.01 and p < 0.001 when they came.
    below: [u64; 2],
    /// Points whose p was known.
    judged: u64,
}

/// Probabilities whose frequency is counted.
const COUNTED: [f64; 2] = [0.01, 0.001];
/// Their logarithms.
const LN_COUNTED: [f64; 2] = [-4.605_170_185_988_091, -6.907_755_278_982_137];

impl Default for Facts {
    fn default() -> Self {
        Facts { low: f64::INFINITY, high: f64::NEG_INFINITY, whole: true, below: [0; 2], judged: 0 }
    }
}

impl Facts {
    fn learn(&mut self, value: f64, ln_p: Option<f64>) {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self.whole &= value >= 0.0 && value == value.floor();
        if let Some(ln_p) = ln_p {
            self.judged = self.judged.saturating_add(1);
            for (count, limit) in self.below.iter_mut().zip(LN_COUNTED) {
                *count += u64::from(ln_p < limit);
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.low.to_le_bytes());
        out.extend_from_slice(&self.high.to_le_bytes());
        out.push(u8::from(self.whole));
        for n in [self.below[0], self.below[1], self.judged] {
            out.extend_from_slice(&n.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (low, high) = (reader.f64()?, reader.f64()?);
        let whole = reader.u8()?;
        let facts = Facts {
            low,
            high,
            whole: whole == 1,
            below: [reader.u64()?, reader.u64()?],
            judged: reader.u64()?,
        };
        let empty = low == f64::INFINITY && high == f64::NEG_INFINITY;
        let ordered = low.is_finite() && high.is_finite() && low <= high;
        let counted = facts.below.iter().all(|n| *n <= facts.judged);
        if !(empty || ordered) || whole > 1 || !counted {
            return Err(reader.corrupted("facts out of range"));
        }
        Ok(facts)
    }
}

struct AutoModel {
    candidates: Candidates,
    members: Vec<Member>,
    kind: Kind,
    chosen: usize,
    /// Points when it was chosen, and when that was last considered.
    since: u64,
    considered: u64,
    /// Fading mean absolute error of the first strategy.
    typical: f64,
    surprise: Surprise,
    facts: Facts,
}

impl AutoModel {
    fn base(&self) -> &dyn EntityModel {
        self.members[self.chosen].model.as_ref()
    }

    /// Scores every forecast of a point.
    fn score(&mut self, point: &Point) {
        let weight = 1.0 / (self.surprise.count() as f64 + 1.0).min(RECENT);
        let judged_by = self.surprise.forecast(point);
        // Even, as `ln_each` wants it.
        let mut spreads = [1.0; CANDIDATES.len() + 1];
        let mut errors = [f64::NAN; CANDIDATES.len()];
        for (i, member) in self.members.iter_mut().enumerate() {
            let known = if i == self.chosen { judged_by } else { None };
            let forecast = || member.model.expectation(point).map(|e| (e.expected(), e.spread()));
            let Some((expected, spread)) = known.or_else(forecast) else { continue };
            let error = (point.value / 2.0 - expected / 2.0).abs();
            if i == 0 {
                self.typical += weight * (error - self.typical);
            }
            let least = (LEAST_SPREAD * self.typical).max(f64::MIN_POSITIVE);
            spreads[i] = (0.5 * MEAN_ABSOLUTE * spread).max(least);
            errors[i] = (error / spreads[i]).min(WORST);
        }
        ln_each(&mut spreads);
        for ((member, error), ln_spread) in self.members.iter_mut().zip(errors).zip(spreads) {
            if !error.is_nan() {
                member.loss += weight * (ln_spread + error - member.loss);
            }
        }
    }

    fn choose(&mut self) {
        let count = self.surprise.count();
        if count < FIRST_CHOICE || !refresh_due(count, self.considered) {
            return;
        }
        self.considered = count;
        let mut best = self.chosen;
        for (i, member) in self.members.iter().enumerate() {
            let margin = if best == self.chosen { MARGIN } else { 0.0 };
            if member.loss < self.members[best].loss - margin {
                best = i;
            }
        }
        if best != self.chosen {
            (self.chosen, self.since) = (best, count);
        }
        // The first two know nothing of time.
        let still = self.members.iter().take(2).map(|m| m.loss).fold(f64::INFINITY, f64::min);
        self.surprise.trusted =
            self.members[best].loss < still - EXPLAINS && self.candidates[best].0 == "seasonal";
    }
}

impl EntityModel for AutoModel {
    fn count(&self) -> u64 {
        self.surprise.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        self.surprise.judge(self.base(), point, rule)
    }

    fn learn(&mut self, point: &Point) {
        if !point.value.is_finite() {
            return;
        }
        self.score(point);
        let base = self.members[self.chosen].model.as_ref();
        let ln_p = self.surprise.learn(base, point);
        self.facts.learn(point.value, ln_p);
        for member in &mut self.members {
            member.model.learn(point);
        }
        self.choose();
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            let base = self.members[self.chosen].model.as_ref();
            let ln_p = self.surprise.learn(base, point);
            self.facts.learn(point.value, ln_p);
            for member in &mut self.members {
                member.model.leave_out(point);
            }
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        for member in &mut self.members {
            member.model.learn_clipped(point);
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.push(self.chosen as u8);
        out.extend_from_slice(&self.since.to_le_bytes());
        out.extend_from_slice(&self.considered.to_le_bytes());
        out.extend_from_slice(&self.typical.to_le_bytes());
        self.facts.encode(out);
        self.surprise.encode(out);
        out.push(self.members.len() as u8);
        for member in &self.members {
            out.extend_from_slice(&member.loss.to_le_bytes());
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            member.model.encode(out)?;
            let length = (out.len() - start - 4) as u32;
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = self.base().metadata(verdict, rule);
        map.insert("strategy".into(), Value::from(self.candidates[self.chosen].0));
        self.surprise.metadata(verdict, rule, &mut map);
        map
    }

    fn explain(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let count = self.surprise.count();
        map.insert("strategy".into(), Value::from(self.candidates[self.chosen].0));
        map.insert(
            "combined_with".into(),
            json!(["range of all history", "range at the time of day"]),
        );
        let because = if self.considered == 0 {
            format!("fewer than {FIRST_CHOICE} points so far")
        } else {
            format!(
                "its forecasts of the latest {} points had the best logarithmic score, or one within {MARGIN} of it",
                count.min(RECENT as u64)
            )
        };
        map.insert("because".into(), Value::from(because));
        let mut ranking: Vec<_> = self.candidates.iter().zip(&self.members).collect();
        ranking.sort_by(|a, b| a.1.loss.total_cmp(&b.1.loss));
        let listed = ranking.iter().map(
            |((name, _), member)| json!({"strategy": name, "score": json_number(-member.loss)}),
        );
        map.insert("candidates".into(), Value::Array(listed.collect()));
        map.insert("chosen_at_points".into(), Value::from(self.since));
        let seasonal = self.candidates.iter().position(|(name, _)| *name == "seasonal");
        let mut data = seasonal.map_or_else(Map::new, |i| self.members[i].model.explain());
        data.insert("points".into(), Value::from(count));
        data.insert("interval_seconds".into(), json_number(self.surprise.interval() / 1e6));
        data.insert("kind".into(), Value::from(self.kind.as_str()));
        data.insert("constant".into(), Value::from(self.facts.low >= self.facts.high));
        data.insert("whole_numbers".into(), Value::from(self.facts.whole && count > 0));
        map.insert("data".into(), Value::Object(data));
        let rates = COUNTED.iter().zip(self.facts.below).map(|(p, n)| {
            let share = n as f64 / self.facts.judged as f64;
            json!({"promised": p, "measured": json_number(share)})
        });
        map.insert("share_of_points_by_p".into(), Value::Array(rates.collect()));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With every season there is, at all intervals, and a long history.
    #[test]
    fn a_state_has_at_most_16_kb() {
        let auto = Auto::new(&Map::new(), &Context::new(Default::default(), Kind::Value)).unwrap();
        let mut seed = 1_u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as f64 / (1_u64 << 31) as f64 - 0.5
        };
        for seconds in [60, 300, 600, 3600] {
            let mut model = auto.new_state();
            for i in 0..20_000_i64 {
                let wave = |n: f64| libm::sin(i as f64 * std::f64::consts::TAU / n);
                let value = 20.0 * (wave(37.0) + wave(90.0) + wave(111.0) + wave(401.0));
                let at = i * seconds * 1_000_000;
                model.learn(&Point::new(at, value + 3.0 * (noise() + noise() + noise())));
                if i % 2000 == 1999 {
                    let mut out = Vec::new();
                    model.encode(&mut out).unwrap();
                    assert!(out.len() <= 16_000, "{seconds} {i}: {}", out.len());
                }
            }
        }
    }
}
