//! The one path of every detection: point → verdict → episode → learn.
//!
//! Training, the scheduled scan, single points, the backtest and the API all go through
//! [`Detector`]; they differ only in who feeds points and who takes verdicts.
//!
//! What is learned. A normal point is learned as it is. A point called anomalous is not, and neither
//! is the rest of its episode; when the episode ends, its peak alone is learned, moved to the border
//! of normal. Without that, a detector that calls one normal point in twenty an anomaly would trim
//! its own baseline until it called one in six (measured, see the tests); with it, an incident of
//! any height is worth one unremarkable point. More than a tenth of the latest points is never left
//! out: what lasts is learned as the new normal.

use serde_json::{Map, Value, json};

use crate::calendar::Calendar;
use crate::codec::{self, Reader};
use crate::episode::{Episode, LifeCycle, Observed, Transition};
use crate::gaps::{Arrival, Presence};
use crate::guidance::{Guidance, Tolerance};
use crate::point::Point;
use crate::strategy::{
    Context, EntityModel, Kind, Own, OwnFunctions, Performance, Rule, Strategy, json_number,
    strategy, taking_features,
};
use crate::verdict::{Direction, Status, Tail, Verdict};
use crate::{Error, Result};

mod examine;
pub use examine::Examination;

/// Over how many points the share of those left out of the baseline fades.
const LEFT_OUT_MEMORY: f64 = 100.0;
/// The largest share of the latest points that may be left out; ten in a row reach it. A rule that
/// never learned what it calls anomalous would hold on to its first points for ever: after a level
/// shift, or when its history had shown one of two modes only, nothing would be normal again.
/// What exceeds the budget is the new normal until something better can tell a long incident from a
/// shift.
const LEFT_OUT_BUDGET: f64 = 0.1;
/// Precedes the episode in the stored state of an entity whose gaps matter; no phase of an episode
/// is stored as this.
const HAS_PRESENCE: u8 = 0x80;
/// Assumed where nobody has counted yet: one point a minute.
const POINTS_PER_DAY: f64 = 1440.0;

/// What a detector is told, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorConfig {
    /// Full or short name.
    pub strategy: String,
    /// A user's strategy; `None`: the one of that name here.
    pub own: Option<OwnFunctions>,
    /// A JSON object or null.
    pub params: Value,
    /// The strategy's own rule; `None`: `alerts_per_day` decides.
    pub threshold: Option<f64>,
    /// Alerts that quiet data may give per day, over all entities.
    pub alerts_per_day: f64,
    /// Points per day over all entities; `None`: one a minute.
    pub points_per_day: Option<f64>,
    /// How many entities share the rate.
    pub entities: u64,
    /// An entity is judged by its own baseline from so many points on.
    pub min_data_points: u64,
    /// Consecutive anomalous points that open an alert; 1 for what tells an event by one point.
    pub fire_after: u32,
    /// Consecutive normal points that resolve it.
    pub clear_after: u32,
    /// For how long after its end an alert is opened again instead of a new one, µs.
    pub cool_down: i64,
    pub metric_name: String,
    pub anomaly_type: String,
    /// Of a type that is not built in: `system`, `user`, `data` or `other`.
    pub family: Option<String>,
    /// IANA name; hours and weekdays are local ones.
    pub time_zone: String,
    pub kind: Kind,
    /// Anomalies on the other side do not count; `None`: both sides do.
    pub direction: Option<Direction>,
    /// How often members of an ensemble were right, by their full names; weights of `adaptive`.
    pub performance: Vec<(String, Performance)>,
    /// Least distance from the expected value, in the metric's unit, that matters to anybody.
    pub min_effect: f64,
    /// The same as a share of the expected value.
    pub min_relative_effect: f64,
    /// Names of the further columns that are judged together with the value: those of
    /// [`Point::features`], in their order.
    pub features: Vec<String>,
    /// Those of them that are categories, whose numbers are [`crate::category::code`]s.
    pub categories: Vec<String>,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        DetectorConfig {
            strategy: "statistical_zscore".into(),
            own: None,
            params: Value::Null,
            threshold: None,
            alerts_per_day: 1.0,
            points_per_day: None,
            entities: 1,
            min_data_points: 100,
            fire_after: 1,
            clear_after: 3,
            cool_down: 0,
            metric_name: "value".into(),
            anomaly_type: "data_outlier".into(),
            family: None,
            time_zone: "UTC".into(),
            kind: Kind::Value,
            performance: Vec::new(),
            direction: None,
            min_effect: 0.0,
            min_relative_effect: 0.0,
            features: Vec::new(),
            categories: Vec::new(),
        }
    }
}

/// What is kept of one entity between points: its model and its episode.
pub struct EntityState {
    pub model: Box<dyn EntityModel>,
    pub episode: Episode,
    /// How many entities the model was learned from; 1 but for a shared model.
    pub entities: u64,
    /// Share of anomalous points among the latest, fading with [`LEFT_OUT_MEMORY`].
    pub left_out: f64,
    /// What has been there of the series, where gaps matter; see [`crate::gaps`].
    pub presence: Option<Presence>,
    /// What people have said of the entity; not stored with it.
    pub guidance: Guidance,
}

/// Episode and presence of a stored state of whatever strategy: what is going on in a series is there to
/// be taken over when the model can not be read any more, because the strategy is another one now.
pub fn standing(bytes: &[u8]) -> Result<(Episode, Option<Presence>)> {
    let (_, payload) = codec::unwrap(bytes)?;
    let (_, _, presence, episode) = decode_series(&mut Reader::new(payload))?;
    Ok((episode, presence))
}

/// What a state holds before its model: entities, left_out, presence, episode.
fn decode_series(reader: &mut Reader<'_>) -> Result<(u64, f64, Option<Presence>, Episode)> {
    let entities = reader.u64()?;
    let left_out = reader.non_negative("left_out")?;
    let presence = if reader.peek() == Some(HAS_PRESENCE) {
        reader.u8()?;
        Some(Presence::decode(reader)?)
    } else {
        None
    };
    Ok((entities, left_out, presence, Episode::decode(reader)?))
}

impl EntityState {
    /// Leaves what was learned alone: no episode, which belongs to an alert, and no place in the series
    /// that was seen. What a model is before it goes on with another series, or elsewhere in this one.
    pub fn detach(&mut self) {
        self.episode = Episode::default();
        self.presence = None;
    }
}

/// What one point gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub transition: Option<Transition>,
    /// The figures behind the peak of the episode, whenever the alert needs them: when it opens, and
    /// when a later point becomes the peak. `features` are the names and values of its further
    /// columns, in their order; of a category the code of its `level`.
    pub metadata: Option<Map<String, Value>>,
    /// The alert that was flapping and has stayed quiet until this point.
    pub settled: Option<i64>,
}

/// A checked configuration.
pub struct Detector {
    strategy: Box<dyn Strategy>,
    config: DetectorConfig,
    rule: Rule,
    /// The same for models that have seen fewer points than it takes to know so small a share: of 1, 2, 4, 8 … points.
    rules_of_few: Vec<Rule>,
}

fn positive(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}"), format!("{name} must be a number above 0.")))
}

fn not_negative(name: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}"), format!("{name} must be a number from 0 on.")))
}

fn at_least(name: &str, value: u64, least: u64) -> Result<()> {
    if value >= least {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}"), format!("{name} must be at least {least}.")))
}

/// `InvalidParameter` for further columns that the strategy does not look at, for more than it takes,
/// and for one that is named twice.
fn check_features(features: &[String], strategy: &dyn Strategy) -> Result<()> {
    if features.is_empty() {
        return Ok(());
    }
    let most = strategy.features();
    if most == 0 {
        return Err(Error::invalid(
            format!("{} judges the value alone, without features", strategy.name()),
            format!("Strategies that take features are {}.", taking_features()),
        ));
    }
    if features.len() > most {
        return Err(Error::invalid(
            format!("{} features, more than {} takes", features.len(), strategy.name()),
            format!("Name at most {most}."),
        ));
    }
    for (i, name) in features.iter().enumerate() {
        if name.is_empty() {
            return Err(Error::invalid("the name of a feature is empty", "Name its column."));
        }
        if features[..i].contains(name) {
            return Err(Error::invalid(
                format!("feature \"{name}\" is named twice"),
                "Name each feature once.",
            ));
        }
    }
    Ok(())
}

/// When a point is an anomaly, by the threshold or else by the strategy's share of anomalous points or
/// the promised rate of alerts.
fn rule(config: &DetectorConfig, strategy: &dyn Strategy, points_per_day: f64) -> Rule {
    if let Some(share) = strategy.contamination() {
        return Rule::new(config.threshold, libm::log(share));
    }
    // Each alert takes fire_after anomalous points of its own, so that alerts_per_day of them
    // take at least so many times more points, however these depend on each other.
    let points_to_alert = config.alerts_per_day * f64::from(config.fire_after);
    let alpha = (points_to_alert / points_per_day).clamp(1e-12, 0.05);
    Rule::new(config.threshold, libm::log(alpha))
}

/// A detector of many entities asks of each for a small part of its rate, for which none has seen enough points: what is rarer than
/// one in a third of them is extrapolated, and off by more the further out it is. Errors on either side do not cancel:
/// an entity whose tail was taken too short alerts more often than one whose tail was taken too long is silent. So that the *mean*
/// over entities keeps the promise, the share is lowered by the square root of what is missing, up to that of the number of entities: one
/// series by itself is judged as ever. On quiet series of 3,000 points 200 entities gave 1.5 to 6 times the promised rate of one in
/// 30,000 points before.
fn rules_of_few(rule: &Rule, config: &DetectorConfig, strategy: &dyn Strategy) -> Vec<Rule> {
    if config.entities < 2 || config.threshold.is_some() || strategy.contamination().is_some() {
        return Vec::new();
    }
    let ln_entities = libm::log(config.entities as f64);
    let ln_enough = libm::log(3.0) - rule.ln_alpha;
    let ln_points = (0..64).map(|power| f64::from(power) * core::f64::consts::LN_2);
    ln_points
        .take_while(|ln_points| *ln_points < ln_enough)
        .map(|ln_points| {
            let missing = (ln_enough - ln_points).min(ln_entities);
            let lowered = Rule::new(None, rule.ln_alpha - 0.5 * missing);
            Rule { range: rule.range, ..lowered }
        })
        .collect()
}

impl Detector {
    /// `InvalidParameter` names the setting and its range; `Unsupported`: see [`strategy`].
    pub fn new(mut config: DetectorConfig) -> Result<Self> {
        let context = Context {
            calendar: Calendar::new(&config.time_zone)?,
            kind: config.kind,
            features: config.features.len(),
            categories: config.features.iter().map(|f| config.categories.contains(f)).collect(),
            performance: config.performance.clone(),
        };
        let strategy = match &config.own {
            Some(own) => Box::new(Own::new(own, &config.params, config.kind)?),
            None => strategy(&config.strategy, &config.params, &context)?,
        };
        if let Some(threshold) = config.threshold {
            positive("threshold", threshold)?;
            strategy.check_threshold(threshold)?;
        } else {
            config.threshold = strategy.threshold();
        }
        positive("alerts_per_day", config.alerts_per_day)?;
        let points_per_day = config.points_per_day.unwrap_or(POINTS_PER_DAY);
        positive("points_per_day", points_per_day)?;
        at_least("min_data_points", config.min_data_points, 2)?;
        at_least("fire_after", u64::from(config.fire_after), 1)?;
        strategy.check_fire_after(config.fire_after)?;
        at_least("clear_after", u64::from(config.clear_after), 1)?;
        if config.cool_down < 0 {
            return Err(Error::invalid(
                format!("cool_down is {} µs", config.cool_down),
                "cool_down must not be negative.",
            ));
        }
        not_negative("min_effect", config.min_effect)?;
        not_negative("min_relative_effect", config.min_relative_effect)?;
        if config.direction == Some(Direction::None) {
            return Err(Error::invalid("direction is \"at\"", "Directions are above and below."));
        }
        let by_side = config.direction.is_some()
            || config.min_effect > 0.0
            || config.min_relative_effect > 0.0;
        if by_side && !strategy.has_sides() {
            return Err(Error::invalid(
                format!(
                    "direction, min_effect and min_relative_effect mean nothing to {}",
                    strategy.name()
                ),
                "Leave them out: what it tells lies on no side of what is expected.",
            ));
        }
        check_features(&config.features, strategy.as_ref())?;
        if config.metric_name.is_empty() {
            return Err(Error::invalid("metric_name is empty", "Name what is measured."));
        }
        let rule = rule(&config, strategy.as_ref(), points_per_day);
        let rules_of_few = rules_of_few(&rule, &config, strategy.as_ref());
        Ok(Detector { strategy, config, rule, rules_of_few })
    }

    /// The same detector, told how many points a day there are over all entities.
    pub fn with_points_per_day(mut self, points_per_day: f64) -> Result<Self> {
        positive("points_per_day", points_per_day)?;
        let range = self.rule.range;
        self.rule = Rule { range, ..rule(&self.config, self.strategy.as_ref(), points_per_day) };
        self.rules_of_few = rules_of_few(&self.rule, &self.config, self.strategy.as_ref());
        self.config.points_per_day = Some(points_per_day);
        Ok(self)
    }

    /// The same detector, whose verdicts say where the range of normal values ends for anomalies only:
    /// for scans, in which nobody reads the others.
    pub fn with_ranges_of_anomalies_only(mut self) -> Self {
        self.rule.range = false;
        self.rules_of_few.iter_mut().for_each(|rule| rule.range = false);
        self
    }

    pub fn config(&self) -> &DetectorConfig {
        &self.config
    }

    pub fn strategy(&self) -> &dyn Strategy {
        self.strategy.as_ref()
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The rule by which a model judges: see [`rules_of_few`].
    fn rule_of(&self, model: &dyn EntityModel) -> &Rule {
        let power = model.count().max(1).ilog2() as usize;
        self.rules_of_few.get(power).unwrap_or(&self.rule)
    }

    pub fn new_state(&self) -> EntityState {
        EntityState {
            model: self.strategy.new_state(),
            episode: Episode::default(),
            entities: 1,
            left_out: 0.0,
            presence: None,
            guidance: Guidance::default(),
        }
    }

    /// Reads what [`Detector::encode_state`] wrote. `Corrupted` for bytes that are no state of this
    /// strategy, `NewerFormat` for one that a later version wrote.
    pub fn decode_state(&self, bytes: &[u8]) -> Result<EntityState> {
        let (algorithm, payload) = codec::unwrap(bytes)?;
        if algorithm != self.strategy.algorithm() {
            return Err(Error::Corrupted(format!(
                "stored state is of algorithm {algorithm}, not {}",
                self.strategy.name()
            )));
        }
        let mut reader = Reader::new(payload);
        let (entities, left_out, presence, episode) = decode_series(&mut reader)?;
        let model = self.strategy.decode_state(&mut reader)?;
        reader.finish()?;
        Ok(EntityState {
            model,
            episode,
            entities,
            left_out,
            presence,
            guidance: Guidance::default(),
        })
    }

    pub fn encode_state(&self, state: &EntityState) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(2048);
        let start = codec::open(&mut out, self.strategy.algorithm());
        out.extend_from_slice(&state.entities.to_le_bytes());
        out.extend_from_slice(&state.left_out.to_le_bytes());
        if let Some(presence) = &state.presence {
            out.push(HAS_PRESENCE);
            presence.encode(&mut out);
        }
        state.episode.encode(&mut out);
        state.model.encode(&mut out)?;
        codec::seal(&mut out, start)?;
        Ok(out)
    }

    /// Does what learning has put off; see [`EntityModel::settle`].
    pub fn settle(&self, state: &mut EntityState, from: usize) {
        state.model.settle(from);
    }

    /// Learns a point of the history without judging it. NaN and infinities are left out.
    pub fn train(&self, state: &mut EntityState, point: &Point) {
        state.model.learn(point);
    }

    /// Whether the entity has enough points of its own.
    pub fn is_warm(&self, state: &EntityState) -> bool {
        state.model.is_warm(self.config.min_data_points)
    }

    /// Judges a point, moves the episode on, and learns the point unless it is anomalous.
    ///
    /// An entity with too few points is judged by the `shared` model, if that has seen enough points
    /// of at least two entities; otherwise no finite value of it is an anomaly. Either way it learns
    /// every finite value and its status is `warming`.
    pub fn process(
        &self,
        state: &mut EntityState,
        shared: Option<&EntityState>,
        point: &Point,
    ) -> Outcome {
        let warming = !self.is_warm(state);
        let (judge, mut verdict) =
            self.judge_next(state.model.as_ref(), &state.guidance, shared, point);

        let unusual = verdict.is_anomaly;
        verdict.is_anomaly &= self.matters(&verdict);

        let observed = state.episode.observe(&verdict, &self.life_cycle());
        let metadata = match observed.transition {
            Some(Transition::Opened(episode)) => {
                Some(self.metadata(judge, &Verdict::from(&episode.peak), point))
            }
            Some(Transition::Updated(_) | Transition::Escalated(_)) if observed.new_peak => {
                Some(self.metadata(judge, &verdict, point))
            }
            Some(Transition::Reopened(episode)) if observed.new_peak => {
                Some(self.metadata(judge, &Verdict::from(&episode.peak), point))
            }
            _ => None,
        };

        // NaN is neither normal nor anomalous, and changes nothing.
        let trains = state.guidance.trains(point.at);
        if !point.value.is_nan() && trains {
            state.left_out += (f64::from(u8::from(unusual)) - state.left_out) / LEFT_OUT_MEMORY;
        }
        if !trains {
            // To the model as if it had never been there.
            let (transition, settled) = (observed.transition, observed.settled);
            return Outcome { verdict, transition, metadata, settled };
        }
        if warming || !unusual || state.left_out > LEFT_OUT_BUDGET {
            state.model.learn(point);
        } else {
            state.model.leave_out(point);
        }
        if !warming && unusual && !verdict.is_anomaly && state.left_out <= LEFT_OUT_BUDGET {
            // Unusual in a way that nobody wants to hear of: not an episode, and not normal either.
            state.model.learn_clipped(point);
        }
        if let Some(ended) = observed.ended
            && !warming
            && !ended.peak_is_learned
            && !ended.peak.value.is_nan()
            && state.guidance.trains(ended.peak.at)
        {
            let peak = Point::new(ended.peak.at, ended.peak.value);
            state.model.learn_clipped(&peak);
        }
        Outcome { verdict, transition: observed.transition, metadata, settled: observed.settled }
    }

    /// What [`Detector::process`] would say of a point that came next, and nothing is changed by it.
    pub fn preview(
        &self,
        state: &EntityState,
        shared: Option<&EntityState>,
        point: &Point,
    ) -> Verdict {
        let (_, mut verdict) =
            self.judge_next(state.model.as_ref(), &state.guidance, shared, point);
        verdict.is_anomaly &= self.matters(&verdict);
        verdict
    }

    /// The model that judges the next point of an entity, its own or the shared one, and its verdict; whether
    /// the anomaly matters is left to the caller.
    fn judge_next<'a>(
        &self,
        model: &'a dyn EntityModel,
        guidance: &Guidance,
        shared: Option<&'a EntityState>,
        point: &Point,
    ) -> (&'a dyn EntityModel, Verdict) {
        let warming = !model.is_warm(self.config.min_data_points);
        let shared = shared.filter(|s| warming && s.entities >= 2 && self.is_warm(s));
        let judge = shared.map_or(model, |s| s.model.as_ref());
        let mut verdict = self.verdict(judge, guidance, point);
        if warming && verdict.status == Status::Ok {
            verdict.status =
                Status::Warming { have: model.count(), need: self.config.min_data_points };
            verdict.is_anomaly &= shared.is_some();
        }
        (judge, verdict)
    }

    fn life_cycle(&self) -> LifeCycle {
        LifeCycle {
            fire_after: self.config.fire_after,
            clear_after: self.config.clear_after,
            cool_down: self.config.cool_down,
        }
    }

    /// The figures behind the peak of an episode; if that is the latest point, with its further columns
    /// and what each column contributes: those of an earlier one are not kept.
    fn metadata(
        &self,
        judge: &dyn EntityModel,
        peak: &Verdict,
        latest: &Point,
    ) -> Map<String, Value> {
        let mut map = judge.metadata(peak, self.rule_of(judge));
        if peak.at != latest.at || peak.value != latest.value {
            return map;
        }
        if !self.config.features.is_empty() {
            let features = self.config.features.iter().zip(latest.features);
            let features = features.map(|(name, x)| match x.is_nan() {
                true => json!({"name": name, "value": null}),
                false if self.config.categories.contains(name) => {
                    json!({"name": name, "level": json_number(*x)})
                }
                false => json!({"name": name, "value": json_number(*x)}),
            });
            map.insert("features".into(), features.collect());
        }
        if let Some(shares) = judge.contributions(latest) {
            map.insert("contributions".into(), Value::from(shares));
        }
        map
    }

    /// Judges what comes next in a series of buckets, as [`Detector::process`]; [`crate::gaps`] tells
    /// what that is and keeps the presence.
    pub fn process_arrival(
        &self,
        state: &mut EntityState,
        shared: Option<&EntityState>,
        arrival: &Arrival,
    ) -> Outcome {
        match arrival {
            Arrival::Point(point) | Arrival::Filled(point) => self.process(state, shared, point),
            Arrival::Missing { at } => self.process_missing(state, *at),
        }
    }

    /// That a bucket has no value is an anomaly, unless the entity has too few points for any. How
    /// improbable it is follows from the gaps there have been.
    fn process_missing(&self, state: &mut EntityState, at: i64) -> Outcome {
        let verdict = self.missing(state, at);
        let run = verdict.statistic as u64;
        let observed = state.episode.observe(&verdict, &self.life_cycle());
        let metadata = || Map::from_iter([("missing_in_a_row".to_owned(), Value::from(run))]);
        let metadata = match observed {
            Observed { transition: Some(Transition::Opened(_)), .. } => Some(metadata()),
            Observed {
                transition:
                    Some(Transition::Updated(_) | Transition::Escalated(_) | Transition::Reopened(_)),
                new_peak: true,
                ..
            } => Some(metadata()),
            _ => None,
        };
        Outcome { verdict, transition: observed.transition, metadata, settled: observed.settled }
    }

    fn missing(&self, state: &EntityState, at: i64) -> Verdict {
        let rule = Rule { range: true, ..*self.rule_of(state.model.as_ref()) };
        let judged = state.model.judge(&Point::new(at, f64::NAN), &rule);
        let (run, ln_p) = state.presence.as_ref().map_or((1, 0.0), |p| (p.run(), p.ln_p()));
        Verdict {
            direction: Direction::None,
            is_anomaly: self.is_warm(state) && !state.guidance.expected.contain(at),
            status: Status::Missing,
            statistic: run as f64,
            tail: Tail::LnP(ln_p),
            ..judged
        }
    }

    /// Judges a point and changes nothing.
    pub fn judge(&self, state: &EntityState, point: &Point) -> Verdict {
        let mut verdict = self.verdict(state.model.as_ref(), &state.guidance, point);
        verdict.is_anomaly &= self.matters(&verdict);
        verdict
    }

    /// What the model says, with what follows from the rest of it for every strategy alike.
    fn verdict(&self, model: &dyn EntityModel, guidance: &Guidance, point: &Point) -> Verdict {
        self.verdict_by(self.rule_of(model), model, guidance, point)
    }

    fn verdict_by(
        &self,
        rule: &Rule,
        model: &dyn EntityModel,
        guidance: &Guidance,
        point: &Point,
    ) -> Verdict {
        let mut verdict = model.judge(point, rule);
        if verdict.is_anomaly && !rule.range {
            verdict = model.judge(point, &Rule { range: true, ..*rule });
        }
        verdict.direction = if point.value.is_infinite() {
            Direction::of(point.value, 0.0)
        } else if self.strategy.has_sides() {
            Direction::of(point.value, verdict.expected)
        } else {
            Direction::None
        };
        // A model compares with a limit it has at hand; where the limit is at the end of the numbers
        // only p tells. Few points get here.
        if verdict.is_anomaly && rule.threshold.is_none() {
            verdict.is_anomaly = verdict.ln_p() < rule.ln_alpha;
        }
        if let Some(tolerance) = Tolerance::at(&guidance.accepted, point) {
            tolerance.apply(&mut verdict);
        }
        verdict.is_anomaly &= !guidance.expected.contain(point.at);
        verdict
    }

    /// Whether an anomaly is on a side that counts and large enough to matter.
    fn matters(&self, verdict: &Verdict) -> bool {
        if self.config.direction.is_some_and(|side| side != verdict.direction) {
            return false;
        }
        // Of an infinity, or where nothing is expected, every effect is large enough.
        let effect = (verdict.value - verdict.expected).abs();
        effect.is_nan() || effect >= self.least_effect(verdict)
    }

    /// The distance from the expected value from which on an anomaly matters.
    fn least_effect(&self, verdict: &Verdict) -> f64 {
        self.config.min_effect.max(self.config.min_relative_effect * verdict.expected.abs())
    }

    /// One sentence for people; see [`crate::describe`].
    pub fn description(&self, verdict: &Verdict) -> String {
        self.description_with(verdict, &Map::new())
    }

    /// The same, with what the model's metadata of the verdict says about members that found it.
    pub fn description_with(&self, verdict: &Verdict, metadata: &Map<String, Value>) -> String {
        // The rule that judged may be that of an entity with few points.
        let ln_alpha =
            metadata.get("alpha").and_then(Value::as_f64).map_or(self.rule.ln_alpha, f64::ln);
        crate::describe::description(
            &self.config.metric_name,
            self.strategy.as_ref(),
            &Rule { ln_alpha, ..self.rule },
            verdict,
            metadata,
        )
    }

    /// What to do about it; see [`crate::describe`].
    pub fn suggestion(&self, verdict: &Verdict) -> &'static str {
        let config = &self.config;
        let family = config.family.as_deref();
        crate::describe::suggestion(&config.anomaly_type, family, verdict.direction)
    }
}
