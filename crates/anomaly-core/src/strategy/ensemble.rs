//! `hybrid_ensemble` and `hybrid_adaptive`: what several strategies together think of a point.
//!
//! **Members** are strategies of the registry, each a calibrated model of its own that learns every
//! point. Of a value x a member i knows its evidence eᵢ = −ln pᵢ, however it comes by it. Evidence
//! has no end, and the sum of it would be that of whoever shouts loudest; so each member has a score
//! between 0 and 1, and those are combined with the weights w of the members:
//!
//! ```text
//!   gᵢ = eᵢᵏ / (eᵢᵏ + hᵏ)        S = Σ wᵢ gᵢ   (mean: k = 1; vote: k = 8)   or   max (wᵢ / max w) gᵢ
//! ```
//!
//! h is such that a member which finds the value [`SIGMAS`] standard deviations out (or the
//! `threshold` of the detector) has the score 0.6. One member alone, however sure, gives at most its
//! weight; one that sees nothing takes away no more than that.
//!
//! **p.** T = h (S / (1 − S))^(1/k) is the mean evidence (Kolmogorov 1930): what every member would have
//! to find for the same S. Members agree most of the time but not always, so T is calibrated once more
//! by its own past ([`Calibrator`]): the promised rate holds whoever the members are. T rises as far
//! as the members' evidence does. Of counts and ratios p is exp(−T) at least.
//!
//! **Sides.** Members expect different values. What the ensemble expects is the expectation of that
//! member with which all together agree best. On the way from there to x a member's evidence counts
//! as the largest on the way, so that S never falls with distance; each member's own evidence has but
//! one valley, so that this is the larger of that at both ends.
//!
//! **Rows.** `hybrid_auto` of a value with further columns ([`super::auto`]) is an ensemble, too: of what
//! knows the course of the value in time, and of what judges the row as a whole in different ways, with
//! equal weights, because none of them is the best on most tables. What is unusual in one way only must
//! not be hidden by those that cannot see it, so that T is the mean of the evidence itself, as in
//! [`crate::forest::Model`]: all of these members are calibrated with Pareto tails, by which evidence
//! grows as the logarithm of a distance, and none of them drowns the others. p is that of T's own past
//! or e·exp(−T), the smaller of the two: e times a geometric mean of p is no less than the chance of
//! it, whatever members have in common (Vovk and Wang 2020), and does not depend on a tail that is
//! fitted to few points. Whose expectation it is, is decided by scores as above.
//!
//! **Adaptive** weights are shares of the members' F1 in judgements that people have made
//! ([`super::performance`]). They are part of what the strategy is made from, not of any state.

use std::cell::Cell;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::location_scale::finite;
use super::novelty::root;
use super::performance::{Performance, adapted};
use super::statistic::{DOF, evidence_of, residual_of};
use super::{
    Context, EntityModel, FOUND_BY, Kind, Parameters, Rule, STRATEGIES, Strategy, StrategyInfo,
    check_keys, json_number, number_param, strategy_info,
};
use crate::calibration::Calibrator;
use crate::codec::Reader;
use crate::describe::{figure, probability};
use crate::distribution::{MIN_LN_P, ln_p_normal_two_sided};
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};
use crate::{Error, Result};

/// Without `detectors`: names and weights.
const DEFAULT: [(&str, f64); 3] =
    [("statistical_zscore", 0.3), ("statistical_iqr", 0.2), ("learning_isolation_forest", 0.5)];
/// Of rows with further columns: what knows the course of the value, without these columns, and what
/// judges the row.
const OF_ROWS: [&str; 3] = ["hybrid_auto", "learning_isolation_forest", "learning_one_class_svm"];
/// Members at most: each is asked about what each of them expects.
const MOST: usize = 8;
/// At so many standard deviations a member has the score [`THRESHOLD`].
const SIGMAS: f64 = 3.0;
/// A score from here on is an anomaly where scores decide.
const THRESHOLD: f64 = 0.6;
/// (1 − [`THRESHOLD`]) / [`THRESHOLD`].
const ODDS_AGAINST: f64 = 2.0 / 3.0;
/// By so much sums of weights are off.
const ROUNDING: f64 = 1e-12;

/// One figure for each member.
type Figures = [f64; MOST];

/// How scores are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    Mean,
    Max,
    Vote,
    /// Of rows: the mean of the evidence.
    Evidence,
}

impl Combine {
    /// Those to choose from.
    const ALL: [(&'static str, Combine); 3] =
        [("mean", Combine::Mean), ("max", Combine::Max), ("vote", Combine::Vote)];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, c)| *c == self).map_or("evidence", |(name, _)| name)
    }

    fn from_params(params: &Parameters) -> Result<Self> {
        let Some(wanted) = params.get("combine") else { return Ok(Combine::Mean) };
        let found = Self::ALL.into_iter().find(|(name, _)| wanted.as_str() == Some(name));
        found.map(|(_, combine)| combine).ok_or_else(|| {
            Error::invalid(
                format!("parameter \"combine\" is {wanted}"),
                "It must be \"mean\", \"max\" or \"vote\".",
            )
        })
    }

    /// x to the power of k: a vote is all or nothing, but for what is close to the border.
    fn power(self, x: f64) -> f64 {
        if self != Combine::Vote {
            return x;
        }
        let square = x * x;
        let fourth = square * square;
        fourth * fourth
    }

    /// The inverse.
    fn root(self, x: f64) -> f64 {
        if self != Combine::Vote {
            return x;
        }
        libm::sqrt(libm::sqrt(libm::sqrt(x)))
    }
}

/// A score and what is left to 1, both to full precision.
#[derive(Debug, Clone, Copy)]
struct Score {
    score: f64,
    rest: f64,
}

/// From evidence to scores and back.
#[derive(Debug, Clone, Copy)]
struct Scale {
    combine: Combine,
    /// Evidence whose score is ½, above 0.
    half: f64,
}

impl Scale {
    fn new(combine: Combine, sigmas: f64) -> Self {
        let evidence = (-ln_p_normal_two_sided(sigmas)).clamp(f64::MIN_POSITIVE, -MIN_LN_P);
        let half = (evidence * combine.root(ODDS_AGAINST)).max(f64::MIN_POSITIVE);
        Scale { combine, half }
    }

    fn score(&self, evidence: f64) -> Score {
        let odds = self.combine.power(evidence / self.half);
        if odds <= 1.0 {
            Score { score: odds / (1.0 + odds), rest: 1.0 / (1.0 + odds) }
        } else {
            let against = 1.0 / odds;
            Score { score: 1.0 / (1.0 + against), rest: against / (1.0 + against) }
        }
    }

    /// How well members agree, each having a say that is bounded.
    fn agreement(&self) -> Scale {
        let combine = if self.combine == Combine::Evidence { Combine::Mean } else { self.combine };
        Scale { combine, ..*self }
    }

    /// ln p that mean evidence is worth without any past; 0 where it is worth none.
    fn at_least_known(&self, evidence: f64) -> f64 {
        if self.combine == Combine::Evidence { (1.0 - evidence).min(0.0) } else { 0.0 }
    }

    /// The scores of all members as one; `weights` of sum 1.
    fn combined(&self, weights: &Figures, evidence: &Figures) -> Score {
        let all = weights.iter().zip(evidence).filter(|(weight, _)| **weight > 0.0);
        if self.combine == Combine::Max {
            let heaviest = weights.iter().fold(0.0, |most: f64, w| most.max(*w));
            return all.fold(Score { score: 0.0, rest: 1.0 }, |most, (weight, evidence)| {
                let (own, share) = (self.score(*evidence), weight / heaviest);
                let score = share * own.score;
                if score <= most.score {
                    return most;
                }
                Score { score, rest: (1.0 - share) + share * own.rest }
            });
        }
        if self.combine == Combine::Evidence {
            return self.score(all.map(|(weight, evidence)| weight * evidence).sum());
        }
        all.fold(Score { score: 0.0, rest: 0.0 }, |sum, (weight, evidence)| {
            let own = self.score(*evidence);
            Score { score: sum.score + weight * own.score, rest: sum.rest + weight * own.rest }
        })
    }

    /// The evidence that has this score.
    fn evidence(&self, score: Score) -> f64 {
        (self.half * self.combine.root(score.score / score.rest)).min(-MIN_LN_P)
    }
}

/// What an ensemble is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Ensemble,
    Adaptive,
    Rows,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Ensemble => "hybrid_ensemble",
            Purpose::Adaptive => "hybrid_adaptive",
            Purpose::Rows => "hybrid_auto",
        }
    }
}

struct Member {
    info: &'static StrategyInfo,
    strategy: Box<dyn Strategy>,
    /// As configured; all of them sum to 1.
    weight: f64,
}

impl Member {
    fn new(name: &str, params: &Value, weight: f64, context: &Context) -> Result<Self> {
        let info = strategy_info(name)?;
        let strategy =
            super::strategy(info.name, params, context).map_err(|error| match error {
                Error::InvalidParameter { message, hint } => Error::InvalidParameter {
                    message: format!("member {}: {message}", info.name),
                    hint,
                },
                other => other,
            })?;
        if !strategy.has_sides() {
            return Err(Error::invalid(
                format!("{} is no member of an ensemble", info.name),
                "It tells that a value stays, not how far out it is: give it a detector of its own.",
            ));
        }
        if strategy.contamination().is_some() || strategy.threshold().is_some() {
            return Err(Error::invalid(
                format!("member {}: a limit of its own means nothing in an ensemble", info.name),
                "Leave it out: members say how improbable a point is, and the ensemble decides.",
            ));
        }
        Ok(Member { info, strategy, weight })
    }

    fn listed(entry: &Value, context: &Context) -> Result<Self> {
        let shape =
            "Write for example {\"detectors\": [{\"strategy\": \"zscore\", \"weight\": 0.5}]}.";
        let Value::Object(entry) = entry else {
            return Err(Error::invalid(format!("a member is {entry}"), shape));
        };
        check_keys("a member", entry, &["type", "strategy", "weight", "params"])?;
        let Some(name) = entry.get("strategy").and_then(Value::as_str) else {
            return Err(Error::invalid("a member has no strategy", shape));
        };
        let family = match strategy_info(name) {
            Ok(info) => info.family,
            Err(Error::InvalidParameter { message, hint }) => {
                let hint = format!("{hint} One of your own has a detector of its own.");
                return Err(Error::InvalidParameter { message, hint });
            }
            Err(other) => return Err(other),
        };
        match entry.get("type").map(Value::as_str) {
            None => {}
            Some(Some(told)) if told == family => {}
            Some(_) => {
                return Err(Error::invalid(
                    format!("member {name} has the type {}", entry["type"]),
                    format!("Its type is \"{family}\"; it can be left out."),
                ));
            }
        }
        if family == "hybrid" {
            return Err(Error::invalid(
                format!("{} is no member of an ensemble", strategy_info(name)?.name),
                "Members are statistical and learning strategies: list those that it is made of.",
            ));
        }
        let weight = entry.get("weight").map_or(Ok(1.0), |weight| weight_of(name, weight))?;
        Member::new(name, entry.get("params").unwrap_or(&Value::Null), weight, context)
    }
}

fn weight_of(name: &str, weight: &Value) -> Result<f64> {
    weight.as_f64().filter(|w| (0.0..=1e100).contains(w)).ok_or_else(|| {
        Error::invalid(
            format!("the weight of {name} is {weight}"),
            "Weights are numbers from 0 on; they are divided by their sum.",
        )
    })
}

/// What an ensemble is made of.
struct Settings {
    purpose: Purpose,
    /// Of counts and ratios members know what chance explains; shares of few different values cannot be
    /// finer, so that p is no less than the members' own.
    by_chance: bool,
    members: Vec<Member>,
    /// What judges: the configured weights, or those that follow feedback.
    weights: Vec<f64>,
    scale: Scale,
    threshold: f64,
    /// Whether scores decide although the detector was given no threshold.
    by_score: bool,
    /// What members are asked with: any rule gives the same p, and always the same one keeps what they
    /// have computed for it.
    ask: Rule,
}

impl Settings {
    fn name(&self) -> &'static str {
        self.purpose.name()
    }

    /// A figure of each member under its name.
    fn by_member(&self, figure: impl Fn(usize) -> f64) -> Value {
        let each = self.members.iter().enumerate();
        Value::Object(each.map(|(i, m)| (m.info.name.to_owned(), json_number(figure(i)))).collect())
    }

    /// How scores are made and the least that is an anomaly, where scores decide.
    fn by_threshold(&self, threshold: f64) -> (Scale, f64) {
        (Scale::new(self.scale.combine, threshold), self.threshold)
    }
}

/// See the head of this file.
pub struct Ensemble(Arc<Settings>);

impl Ensemble {
    /// `detectors`: a list of {type, strategy, weight, params}; `ensemble_weights`: member → weight;
    /// `combine`: mean, max or vote; `ensemble_threshold`: above 0, at most 1.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        Self::make(params, context, Purpose::Ensemble)
    }

    /// The same whose weights follow [`Context::performance`].
    pub fn adaptive(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        Self::make(params, context, Purpose::Adaptive)
    }

    /// `hybrid_auto` of rows; `params` are those of the member that knows the course of the value.
    pub fn of_rows(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        let of_value = Context { features: 0, categories: Vec::new(), ..context.clone() };
        let mut members = Vec::new();
        for name in OF_ROWS {
            let (params, context) = match name {
                "hybrid_auto" => (Value::Object(params.clone()), &of_value),
                "learning_isolation_forest" => (json!({"variant": "auto"}), context),
                _ => (Value::Null, context),
            };
            members.push(Member::new(name, &params, 1.0, context)?);
        }
        Self::of_members(members, Combine::Evidence, None, context, Purpose::Rows)
    }

    fn make(params: &Map<String, Value>, context: &Context, purpose: Purpose) -> Result<Self> {
        let name = purpose.name();
        let keys = ["detectors", "ensemble_threshold", "ensemble_weights", "combine"];
        check_keys(name, params, &keys)?;
        let mut members = members(params, context)?;
        if let Some(weights) = params.get("ensemble_weights") {
            give_weights(&mut members, weights)?;
        }
        let sum: f64 = members.iter().map(|m| m.weight).sum();
        if sum <= 0.0 {
            return Err(Error::invalid(
                format!("the weights of {name} are all 0"),
                "Give at least one member a weight above 0.",
            ));
        }
        let combine = Combine::from_params(params)?;
        let threshold = number_param(params, "ensemble_threshold", 0.0..=1.0)?;
        if threshold == Some(0.0) {
            return Err(Error::invalid(
                "parameter \"ensemble_threshold\" is 0",
                "It must be above 0 and at most 1: every score is at least 0.",
            ));
        }
        Self::of_members(members, combine, threshold, context, purpose)
    }

    /// Of members with weights of a sum above 0.
    fn of_members(
        mut members: Vec<Member>,
        combine: Combine,
        threshold: Option<f64>,
        context: &Context,
        purpose: Purpose,
    ) -> Result<Self> {
        let sum: f64 = members.iter().map(|m| m.weight).sum();
        members.iter_mut().for_each(|m| m.weight /= sum);
        let configured: Vec<f64> = members.iter().map(|m| m.weight).collect();
        let performance: Vec<Performance> = members
            .iter()
            .map(|m| {
                let own = context.performance.iter().find(|(member, _)| member == m.info.name);
                own.map_or(Performance::default(), |(_, performance)| *performance)
            })
            .collect();
        let weights = match purpose {
            Purpose::Adaptive => adapted(&configured, &performance),
            Purpose::Ensemble | Purpose::Rows => configured,
        };
        Ok(Ensemble(Arc::new(Settings {
            purpose,
            by_chance: context.kind != Kind::Value,
            weights,
            members,
            scale: Scale::new(combine, SIGMAS),
            threshold: threshold.unwrap_or(THRESHOLD),
            by_score: threshold.is_some(),
            ask: Rule { range: false, ..Rule::new(None, libm::log(1e-3)) },
        })))
    }
}

/// The members that were listed; of the default ones, those that this version has and that take the
/// kind of value.
fn members(params: &Parameters, context: &Context) -> Result<Vec<Member>> {
    let Some(listed) = params.get("detectors") else {
        let usable = |name: &str| {
            let info = STRATEGIES.iter().find(|s| s.name == name);
            info.is_some_and(|s| s.is_available() && s.kinds.contains(&context.kind))
        };
        let default = DEFAULT.into_iter().filter(|(name, _)| usable(name));
        return default
            .map(|(name, weight)| Member::new(name, &Value::Null, weight, context))
            .collect();
    };
    let entries = listed.as_array().filter(|entries| (1..=MOST).contains(&entries.len()));
    let Some(entries) = entries else {
        return Err(Error::invalid(
            "parameter \"detectors\" is no list of members",
            format!("It must be a list of 1 to {MOST} members, [{{\"strategy\": \"zscore\"}}, …]."),
        ));
    };
    let mut members: Vec<Member> = Vec::new();
    for entry in entries {
        let member = Member::listed(entry, context)?;
        if members.iter().any(|m| m.info.name == member.info.name) {
            return Err(Error::invalid(
                format!("member {} is listed twice", member.info.name),
                "List each strategy once; its weight says how much it counts.",
            ));
        }
        members.push(member);
    }
    Ok(members)
}

/// The caller's weights, by member, short names allowed.
fn give_weights(members: &mut [Member], weights: &Value) -> Result<()> {
    let names = members.iter().map(|m| m.info.name).collect::<Vec<_>>().join(", ");
    let Value::Object(weights) = weights else {
        return Err(Error::invalid(
            format!("parameter \"ensemble_weights\" is {weights}"),
            format!("It must be an object of members and weights; members are {names}."),
        ));
    };
    for (name, weight) in weights {
        let info = strategy_info(name).ok();
        let member = members.iter_mut().find(|m| info.is_some_and(|i| i.name == m.info.name));
        let Some(member) = member else {
            return Err(Error::invalid(
                format!("parameter \"ensemble_weights\" names \"{name}\", which is no member"),
                format!("Members are {names}."),
            ));
        };
        member.weight = weight_of(name, weight)?;
    }
    Ok(())
}

impl Strategy for Ensemble {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn short_name(&self) -> &'static str {
        match self.0.purpose {
            Purpose::Ensemble => "ensemble",
            Purpose::Adaptive => "adaptive",
            Purpose::Rows => "auto",
        }
    }

    fn statistic_name(&self) -> &'static str {
        "score"
    }

    fn algorithm(&self) -> u16 {
        match self.0.purpose {
            Purpose::Ensemble => 26,
            Purpose::Adaptive => 27,
            Purpose::Rows => 28,
        }
    }

    fn threshold(&self) -> Option<f64> {
        self.0.by_score.then_some(SIGMAS)
    }

    fn limit(&self, threshold: f64) -> f64 {
        self.0.by_threshold(threshold).1
    }

    fn tells_once(&self) -> bool {
        self.0.members.iter().all(|m| m.strategy.tells_once())
    }

    fn members(&self) -> Vec<&'static str> {
        self.0.members.iter().map(|m| m.info.name).collect()
    }

    fn features(&self) -> usize {
        self.0.members.iter().map(|m| m.strategy.features()).max().unwrap_or(0)
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        let models = self.0.members.iter().map(|m| m.strategy.new_state());
        Box::new(EnsembleModel::new(self.0.clone(), models.collect()))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let calibrator = Calibrator::decode(reader)?;
        let learned = reader.u64()?;
        if learned > i64::MAX as u64 {
            return Err(reader.corrupted("count out of range"));
        }
        if usize::from(reader.u8()?) != self.0.members.len() {
            return Err(reader.corrupted("another number of members"));
        }
        let mut models = Vec::with_capacity(self.0.members.len());
        for member in &self.0.members {
            if reader.u16()? != member.strategy.algorithm() {
                return Err(reader.corrupted("other members"));
            }
            // some states take all that is left
            let length = reader.u32()? as usize;
            let mut part = Reader::new(reader.take(length)?);
            models.push(member.strategy.decode_state(&mut part)?);
            part.finish()?;
        }
        let model = EnsembleModel::new(self.0.clone(), models);
        Ok(Box::new(EnsembleModel { calibrator, learned, ..model }))
    }
}

/// What all members expect at the time of a point.
struct Look {
    expected: f64,
    /// Of the members that expect anything, of sum 1; 0 of the others.
    weights: Figures,
    /// Evidence at what is expected.
    evidence: Figures,
}

impl Look {
    /// The largest evidence on the way from what is expected to x, where it is `evidence`.
    fn on_the_way(&self, x: f64, mut evidence: Figures) -> Figures {
        if x == self.expected {
            // Nothing is unusual about what is expected, whoever expects something else.
            return [0.0; MOST];
        }
        for (evidence, before) in evidence.iter_mut().zip(&self.evidence) {
            *evidence = evidence.max(*before);
        }
        evidence
    }
}

/// The point that was judged last.
#[derive(Debug, Clone, Copy)]
struct Judged {
    at: i64,
    value: u64,
    trials: u64,
    /// Points seen before.
    seen: u64,
    weights: Figures,
    evidence: Figures,
    /// The members' own figures.
    statistics: Figures,
}

/// The model of one entity.
struct EnsembleModel {
    settings: Arc<Settings>,
    models: Vec<Box<dyn EntityModel>>,
    /// Of the mean evidence.
    calibrator: Calibrator,
    learned: u64,
    /// Points that changed anything since the state was made or read.
    seen: u64,
    judged: Cell<Option<Judged>>,
    /// ln alpha and the mean evidence whose p it is; forgotten at each refresh.
    critical: Cell<Option<(f64, f64)>>,
}

impl EnsembleModel {
    fn new(settings: Arc<Settings>, models: Vec<Box<dyn EntityModel>>) -> Self {
        EnsembleModel {
            settings,
            models,
            calibrator: Calibrator::one_sided(),
            learned: 0,
            seen: 0,
            judged: Cell::new(None),
            critical: Cell::new(None),
        }
    }

    /// What a member says if the value were x.
    fn ask(&self, member: usize, point: &Point, x: f64) -> Verdict {
        self.models[member].judge(&Point { value: x, ..*point }, &self.settings.ask)
    }

    /// The evidence of each member that has a weight.
    fn evidence(&self, weights: &Figures, point: &Point, x: f64) -> Figures {
        std::array::from_fn(|i| {
            if weights[i] > 0.0 { evidence_in(&self.ask(i, point, x)) } else { 0.0 }
        })
    }

    /// What is expected, and what each member says of the point's value, or of 0 where it is no
    /// number; `None` while nobody expects anything.
    fn look(&self, point: &Point) -> Option<(Look, [Option<Verdict>; MOST])> {
        let x = if point.value.is_finite() { point.value } else { 0.0 };
        let mut said = [None; MOST];
        let (mut weights, mut sum) = ([0.0; MOST], 0.0);
        for (i, weight) in self.settings.weights.iter().enumerate() {
            if *weight <= 0.0 {
                continue;
            }
            let verdict = self.ask(i, point, x);
            if !verdict.expected.is_nan() {
                said[i] = Some(verdict);
                weights[i] = *weight;
                sum += weight;
            }
        }
        if sum <= 0.0 {
            return None;
        }
        weights.iter_mut().for_each(|w| *w /= sum);
        let expected = |i: usize| said[i].map_or(f64::NAN, |verdict: Verdict| verdict.expected);
        let mut best: Option<(f64, Look)> = None;
        for i in (0..MOST).filter(|i| said[*i].is_some()) {
            let candidate = expected(i);
            if (0..i).any(|other| expected(other) == candidate) {
                continue;
            }
            let evidence = self.evidence(&weights, point, candidate);
            let agreement = self.settings.scale.agreement();
            let score = agreement.combined(&weights, &evidence).score;
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, Look { expected: candidate, weights, evidence }));
            }
        }
        best.map(|(_, look)| (look, said))
    }

    /// All that is to be known of a point with a finite value.
    fn judged(&self, point: &Point, look: &Look, said: &[Option<Verdict>; MOST]) -> Judged {
        let of = |i: usize, of: fn(&Verdict) -> f64| said[i].as_ref().map_or(0.0, of);
        let evidence = std::array::from_fn(|i| of(i, evidence_in));
        Judged {
            at: point.at,
            value: point.value.to_bits(),
            trials: point.trials.to_bits(),
            seen: self.seen,
            weights: look.weights,
            evidence: look.on_the_way(point.value, evidence),
            statistics: std::array::from_fn(|i| of(i, |v| v.statistic)),
        }
    }

    fn mean_evidence(&self, judged: &Judged) -> f64 {
        let scale = &self.settings.scale;
        scale.evidence(scale.combined(&judged.weights, &judged.evidence))
    }

    /// The mean evidence whose p is alpha.
    fn critical(&self, rule: &Rule) -> f64 {
        if let Some((ln_alpha, critical)) = self.critical.get()
            && ln_alpha == rule.ln_alpha
        {
            return critical;
        }
        let (_, above) = self.calibrator.quantiles(&rule.alpha(), DOF);
        let mut critical = evidence_of(above);
        if self.settings.scale.combine == Combine::Evidence {
            critical = critical.min(1.0 - rule.ln_alpha);
        }
        if self.settings.by_chance {
            critical = critical.max(-rule.ln_alpha);
        }
        self.critical.set(Some((rule.ln_alpha, critical)));
        critical
    }

    /// How scores are made, and the score from which on a point is an anomaly.
    fn limit(&self, rule: &Rule) -> (Scale, f64) {
        match rule.threshold {
            Some(threshold) => self.settings.by_threshold(threshold),
            None => {
                let scale = self.settings.scale;
                (scale, scale.score(self.critical(rule)).score)
            }
        }
    }

    /// Lower and upper end of the values that are no anomalies.
    fn bounds(&self, point: &Point, look: &Look, rule: &Rule) -> (f64, f64) {
        let critical = rule.threshold.is_none().then(|| self.critical(rule));
        let (scale, limit) = self.limit(rule);
        let excess = |x: f64| {
            let evidence = look.on_the_way(x, self.evidence(&look.weights, point, x));
            let score = scale.combined(&look.weights, &evidence);
            match critical {
                Some(critical) => scale.evidence(score) - critical,
                None => score.score - limit + ROUNDING,
            }
        };
        let spreads = self.models.iter().filter_map(|m| m.expectation(point).map(|e| e.spread()));
        let spread = spreads.fold(0.0, f64::max);
        let side = |sign: f64| {
            let at = |d: f64| finite(look.expected + sign * d);
            let excess = |d: f64| excess(at(d));
            if excess(4.0 * ROUNDING * look.expected.abs()) > 0.0 {
                return look.expected;
            }
            let mut low = 0.0;
            let mut step = spread.max(1e-9 * look.expected.abs()).max(1e-300);
            loop {
                let further = low + step;
                if !(look.expected + sign * further).is_finite() {
                    return finite(sign * f64::INFINITY);
                }
                if excess(further) > 0.0 {
                    return at(root(&excess, low, further));
                }
                low = further;
                step *= 4.0;
            }
        };
        (side(-1.0), side(1.0))
    }

    /// Takes note of what was said of a point with a finite value that nobody has learned.
    fn note(&mut self, point: &Point, anomalous: bool) {
        let known = self.judged.get().filter(|j| {
            point.features.is_empty()
                && (j.at, j.value, j.trials, j.seen)
                    == (point.at, point.value.to_bits(), point.trials.to_bits(), self.seen)
        });
        let judged = known.or_else(|| {
            let (look, said) = self.look(point)?;
            Some(self.judged(point, &look, &said))
        });
        // from one point nobody knows a spread
        if let Some(judged) = judged.filter(|_| self.learned > 1) {
            let residual = residual_of(self.mean_evidence(&judged));
            if anomalous {
                self.calibrator.learn_anomalous(residual, DOF);
            } else {
                self.calibrator.learn(residual, DOF);
            }
            if self.calibrator.refresh_when_due() {
                self.critical.set(None);
            }
        }
        self.seen = self.seen.wrapping_add(1);
    }

    /// The scores behind a verdict.
    fn behind(&self, verdict: &Verdict) -> Option<Judged> {
        let last = self.judged.get();
        last.filter(|j| (j.at, j.value) == (verdict.at, verdict.value.to_bits())).or_else(|| {
            let point = Point::new(verdict.at, verdict.value);
            let (look, said) = self.look(&point)?;
            Some(self.judged(&point, &look, &said))
        })
    }

    /// The members whose own scores reach the limit, with what they found.
    fn found_by(&self, judged: &Judged, scale: &Scale, limit: f64) -> Vec<String> {
        let members = self.settings.members.iter().enumerate();
        let fire = members.filter(|(i, _)| {
            judged.weights[*i] > 0.0 && scale.score(judged.evidence[*i]).score >= limit - ROUNDING
        });
        fire.map(|(i, member)| {
            format!(
                "{} ({} {}, p = {})",
                member.info.name,
                member.strategy.statistic_name(),
                figure(judged.statistics[i]),
                probability(-judged.evidence[i])
            )
        })
        .collect()
    }
}

/// −ln p, 0 at least.
fn evidence_in(verdict: &Verdict) -> f64 {
    (-verdict.ln_p()).max(0.0)
}

impl EntityModel for EnsembleModel {
    fn count(&self) -> u64 {
        self.learned
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let look = self.look(point);
        if let Some((look, _)) = &look {
            verdict.expected = look.expected;
            if rule.range {
                (verdict.lower, verdict.upper) = self.bounds(point, look, rule);
            }
        }
        if !point.value.is_finite() {
            return verdict.of_non_finite();
        }
        let Some((look, said)) = look else { return verdict };
        let judged = self.judged(point, &look, &said);
        self.judged.set(Some(judged));
        verdict.direction = Direction::of(point.value, look.expected);
        let (scale, limit) = self.limit(rule);
        verdict.statistic = scale.combined(&judged.weights, &judged.evidence).score;
        let evidence = self.mean_evidence(&judged);
        verdict.tail = self.calibrator.tail(residual_of(evidence), DOF);
        let known = self.settings.scale.at_least_known(evidence);
        if known < verdict.ln_p() {
            verdict.tail = Tail::LnP(known);
        }
        if self.settings.by_chance {
            verdict.tail = Tail::LnP(verdict.ln_p().max(-evidence));
        }
        verdict.is_anomaly = match rule.threshold {
            Some(_) => verdict.statistic >= limit - ROUNDING && point.value != look.expected,
            None => verdict.ln_p() < rule.ln_alpha,
        };
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.note(point, false);
            self.models.iter_mut().for_each(|m| m.learn(point));
            self.learned = self.learned.saturating_add(1);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.note(point, true);
            self.models.iter_mut().for_each(|m| m.leave_out(point));
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        self.models.iter_mut().for_each(|m| m.learn_clipped(point));
        self.seen = self.seen.wrapping_add(1);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.calibrator.encode(out);
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.push(self.models.len() as u8);
        for (member, model) in self.settings.members.iter().zip(&self.models) {
            out.extend_from_slice(&member.strategy.algorithm().to_le_bytes());
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            model.encode(out)?;
            let length = (out.len() - start - 4) as u32;
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let settings = &self.settings;
        let mut map = Map::new();
        let (scale, limit) = self.limit(rule);
        if verdict.value.is_finite()
            && let Some(judged) = self.behind(verdict)
        {
            let score = |i: usize| scale.score(judged.evidence[i]).score;
            map.insert("detector_results".into(), settings.by_member(score));
            map.insert(FOUND_BY.into(), self.found_by(&judged, &scale, limit).into());
        }
        map.insert("weighted_score".into(), json_number(verdict.statistic));
        map.insert("threshold".into(), json_number(limit));
        map.insert("weights".into(), settings.by_member(|i| settings.members[i].weight));
        if settings.purpose == Purpose::Adaptive {
            map.insert("adaptive_weights".into(), settings.by_member(|i| settings.weights[i]));
        }
        map.insert("combine".into(), Value::from(scale.combine.name()));
        map.insert("p_value".into(), json_number(verdict.p_value()));
        map.insert("ln_p".into(), json_number(verdict.ln_p()));
        if rule.threshold.is_none() {
            map.insert("alpha".into(), json_number(libm::exp(rule.ln_alpha)));
        }
        map.insert("baseline_points".into(), Value::from(self.learned));
        map
    }

    /// Each member's shares by its weight and score; a member that looks at the value alone blames that.
    fn contributions(&self, point: &Point) -> Option<Vec<f64>> {
        if !point.value.is_finite() {
            return None;
        }
        let (look, said) = self.look(point)?;
        let judged = self.judged(point, &look, &said);
        let mut total = vec![0.0; 1 + point.features.len()];
        let mut columns = 1;
        for (i, model) in self.models.iter().enumerate() {
            let amount = judged.weights[i] * self.settings.scale.score(judged.evidence[i]).score;
            if amount <= 0.0 {
                continue;
            }
            let shares = model.contributions(point);
            columns = columns.max(shares.as_ref().map_or(1, Vec::len));
            for (sum, share) in total.iter_mut().zip(shares.as_deref().unwrap_or(&[1.0])) {
                *sum += amount * share;
            }
        }
        total.truncate(columns);
        let sum: f64 = total.iter().sum();
        if columns < 2 || sum <= 0.0 {
            return None;
        }
        total.iter_mut().for_each(|share| *share /= sum);
        Some(total)
    }

    fn explain(&self) -> Map<String, Value> {
        let settings = &self.settings;
        let members =
            settings.members.iter().zip(&self.models).enumerate().map(|(i, (m, model))| {
                json!({
                    "member": m.info.name,
                    "weight": json_number(settings.weights[i]),
                    "configured_weight": json_number(m.weight),
                    "points": model.count(),
                    "explanation": model.explain(),
                })
            });
        let mut map = Map::new();
        if settings.purpose == Purpose::Rows {
            let because = "there are further columns: what knows the course of the value in time, \
                           and what judges the row as a whole, count alike";
            map.insert("because".into(), Value::from(because));
        }
        map.insert("members".into(), members.collect());
        map.insert("combine".into(), Value::from(settings.scale.combine.name()));
        map.insert("ensemble_threshold".into(), json_number(settings.threshold));
        map
    }
}
