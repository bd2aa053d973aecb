//! The strategy interface, and the registries of strategies and anomaly types.
//!
//! A [`Strategy`] is a configured algorithm, one per detector; an [`EntityModel`] is what it knows
//! of one entity. A new strategy is a file here and an entry in [`STRATEGIES`].
//!
//! What forecasts (a centre and a spread for each point) is a `Baseline` of `location_scale` and gets
//! calibration, verdicts and bounds from there; what has a statistic of its own implements
//! [`EntityModel`].

mod auto;
mod autoencoder;
mod chance;
mod changepoint;
mod contributions;
mod cusum;
mod ensemble;
mod error_scale;
mod esd;
mod ewma;
mod flat_line;
mod forecast;
mod holt_winters;
mod iqr;
mod isolation_forest;
mod learned;
mod level_shift;
mod linear;
mod location_scale;
mod lstm;
mod mad;
mod matrix_profile;
mod moments;
mod moving_average;
mod novelty;
mod one_class_svm;
mod own;
mod performance;
mod persist;
mod quantile;
mod quantiles;
mod random_cut_forest;
mod regression;
mod seasonal;
mod shape;
mod statistic;
mod threshold;
mod volatility_shift;
mod zscore;

use serde_json::{Map, Value};

use crate::calendar::Calendar;
use crate::calibration::Alpha;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::Verdict;
use crate::{Error, Result};

pub use auto::Auto;
pub use autoencoder::Autoencoder;
pub use changepoint::Changepoint;
pub use cusum::Cusum;
pub use ensemble::Ensemble;
pub use esd::Esd;
pub use ewma::Ewma;
pub use flat_line::FlatLine;
pub use holt_winters::HoltWinters;
pub use iqr::Iqr;
pub use isolation_forest::IsolationForest;
pub use level_shift::LevelShift;
pub use location_scale::Expectation;
pub use lstm::Lstm;
pub use mad::Mad;
pub use matrix_profile::MatrixProfile;
pub use moving_average::MovingAverage;
pub use novelty::Novelty;
pub use one_class_svm::OneClassSvm;
pub use own::{Functions, MAX_STATE, Own, OwnFunctions};
pub use performance::Performance;
pub use persist::Persist;
pub use quantile::Quantile;
pub use random_cut_forest::RandomCutForest;
pub use regression::Regression;
pub use seasonal::Seasonal;
pub use threshold::Threshold;
pub use volatility_shift::VolatilityShift;
pub use zscore::Zscore;

/// See [`EntityModel::metadata`].
pub const FOUND_BY: &str = "found_by";

/// When a point is an anomaly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The strategy's own rule: |z| > t, outside the quartiles ∓ t·IQR, |modified z| > t.
    pub threshold: Option<f64>,
    /// Without a threshold: an anomaly is a point with ln p < `ln_alpha`.
    pub ln_alpha: f64,
    /// The two-sided normal quantile of the same.
    pub z_alpha: f64,
    /// Whether a verdict says where the range of normal values ends. Without, its bounds may be NaN:
    /// they cost more than the rest, and nobody reads those of normal points in a scan.
    pub range: bool,
}

impl Rule {
    /// `ln_alpha` is brought below 0 and above that of the largest deviation.
    pub fn new(threshold: Option<f64>, ln_alpha: f64) -> Self {
        let alpha = Alpha::from_ln(ln_alpha);
        Rule { threshold, ln_alpha: alpha.ln_p, z_alpha: alpha.z, range: true }
    }

    fn alpha(&self) -> Alpha {
        Alpha { ln_p: self.ln_alpha, z: self.z_alpha }
    }
}

/// A configured algorithm.
pub trait Strategy: Send + Sync {
    /// As registered, `statistical_zscore`.
    fn name(&self) -> &str;
    /// `zscore`.
    fn short_name(&self) -> &str;
    /// What [`Verdict::statistic`] is called in a description.
    fn statistic_name(&self) -> &'static str;
    /// Written into every stored state: zscore 1, iqr 2, mad 3, moving_average 4, regression 5, ewma 6,
    /// cusum 7, esd 8, quantile 9, threshold 10, persist 11, level_shift 12, volatility_shift 13,
    /// flat_line 14, seasonal 15, holt_winters 16, changepoint 17, matrix_profile 18,
    /// random_cut_forest 19, novelty 20, auto 21, isolation_forest 22, one_class_svm 23,
    /// autoencoder 24, lstm 25, ensemble 26, adaptive 27, auto of several columns 28,
    /// those of users 64.
    fn algorithm(&self) -> u16;
    /// `InvalidParameter` when the strategy has no rule that this threshold, a number above 0, could be
    /// for.
    fn check_threshold(&self, _threshold: f64) -> Result<()> {
        Ok(())
    }
    /// The threshold where it is a parameter of the strategy; one that is given to the detector replaces
    /// it.
    fn threshold(&self) -> Option<f64> {
        None
    }
    /// What [`Verdict::statistic`] must exceed under a threshold: the threshold itself but where that is
    /// of another kind.
    fn limit(&self, threshold: f64) -> f64 {
        threshold
    }
    /// The strategies that it combines, by full name; none where it is but one.
    fn members(&self) -> Vec<&'static str> {
        Vec::new()
    }
    /// Whether what is told is an event of one anomalous point, after which nothing is unusual: a second
    /// one in a row would never come.
    fn tells_once(&self) -> bool {
        false
    }
    /// Whether it matters on which side of what is expected a value lies, and how far.
    fn has_sides(&self) -> bool {
        true
    }
    /// `InvalidParameter` when an alert would wait for so many anomalous points in vain.
    fn check_fire_after(&self, fire_after: u32) -> Result<()> {
        if fire_after <= 1 || !self.tells_once() {
            return Ok(());
        }
        Err(Error::invalid(
            format!(
                "fire_after is {fire_after}, but {} tells each event once, by one anomalous point",
                self.name()
            ),
            "Leave out fire_after: 1, its default, opens the alert with the event.",
        ))
    }
    /// The share of points to call anomalous where it is a parameter of the strategy: then it decides
    /// instead of the promised rate of alerts.
    fn contamination(&self) -> Option<f64> {
        None
    }
    /// How many further columns of a row ([`Point::features`]) it judges together with the value at most;
    /// 0 where it looks at the value alone. An ensemble's follow from its members.
    fn features(&self) -> usize {
        strategy_info(self.name()).map_or(0, |info| info.features)
    }
    fn new_state(&self) -> Box<dyn EntityModel>;
    /// Reads what [`EntityModel::encode`] wrote; never panics, whatever the bytes.
    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>>;
}

/// What a strategy knows of one entity.
pub trait EntityModel: Send {
    /// Points learned.
    fn count(&self) -> u64;
    /// Whether enough was learned to judge by; `least` is what the detector asks for.
    fn is_warm(&self, least: u64) -> bool {
        self.count() >= least
    }
    /// Judges a point without learning it.
    fn judge(&self, point: &Point, rule: &Rule) -> Verdict;
    /// What is expected at the time of a point, its value playing no part; `None` of a model that does
    /// not forecast, and while nothing is expected yet.
    fn expectation(&self, _point: &Point) -> Option<Expectation<'_>> {
        None
    }
    /// Learns a point; ignores NaN and infinities.
    fn learn(&mut self, point: &Point);
    /// Tells which points (time and value) will be judged next, in their order: where judging costs less
    /// for many at once. Others may come in between.
    fn announce(&mut self, _points: &mut dyn Iterator<Item = (i64, f64)>) {}
    /// Does what learning has put off, if it is at least so many points: before a model is stored, any
    /// number.
    fn settle(&mut self, _from: usize) {}
    /// Takes note of an anomalous point that is not learned. What is never counted cannot be rare: a
    /// calibrator that sees none of them would call more and more points anomalous.
    /// And a statistic that runs over several points (a cumulative sum, a window, a difference) has to
    /// see it too, or it would stand still for as long as an anomaly lasts: such a model takes the point
    /// in here, and ignores [`EntityModel::learn_clipped`].
    fn leave_out(&mut self, _point: &Point) {}
    /// Learns an anomalous point, left out before, as one on the border of normal, moved there if it
    /// lies beyond.
    fn learn_clipped(&mut self, point: &Point);
    fn encode(&self, out: &mut Vec<u8>) -> Result<()>;
    /// The strategy's figures behind a verdict, by the names users know. Valid JSON whatever the
    /// verdict holds. In a list [`FOUND_BY`] the members of an ensemble that find it unusual by
    /// themselves, for [`crate::describe`].
    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value>;
    /// By how much each column makes a point unusual: the value, then each of [`Point::features`] that
    /// the model looks at; ≥ 0, 1 in total. `None` of a model that looks at the value only, and where
    /// no column explains anything. Meant for a point that was judged and not learned yet.
    fn contributions(&self, _point: &Point) -> Option<Vec<f64>> {
        None
    }
    /// What the model is made of and why, for people; empty where there is nothing to choose.
    fn explain(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// What a strategy is told besides its own parameters.
#[derive(Debug, Clone)]
pub struct Context {
    /// The detector's time zone: hours and weekdays are local ones.
    pub calendar: Calendar,
    pub kind: Kind,
    /// How many further columns points have.
    pub features: usize,
    /// Which of them are categories: codes ([`crate::category`]) that are no magnitudes.
    pub categories: Vec<bool>,
    /// How often members of an ensemble were right, by their full names.
    pub performance: Vec<(String, Performance)>,
}

impl Context {
    /// Of a detector of values alone that nobody has judged.
    pub fn new(calendar: Calendar, kind: Kind) -> Self {
        Context { calendar, kind, features: 0, categories: Vec::new(), performance: Vec::new() }
    }
}

/// What a value is, as far as it decides how much it varies by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Any number.
    #[default]
    Value,
    /// How often something happened: a whole number ≥ 0 that varies at least as much as Poisson's.
    Count,
    /// The share of so many trials, between 0 and 1; see [`Point::trials`].
    Ratio,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Value, Kind::Count, Kind::Ratio];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::Count => "count",
            Kind::Ratio => "ratio",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Kind::ALL.into_iter().find(|k| k.as_str() == s).ok_or_else(|| {
            Error::invalid(format!("unknown kind \"{s}\""), "Kinds are value, count and ratio.")
        })
    }
}

type Parameters = Map<String, Value>;
/// Makes a strategy from its parameters.
type Make = fn(&Parameters, &Context) -> Result<Box<dyn Strategy>>;

/// One row of the strategy registry.
#[derive(Debug, Clone, Copy)]
pub struct StrategyInfo {
    pub name: &'static str,
    pub short_name: &'static str,
    /// `statistical`, `learning` or `hybrid`.
    pub family: &'static str,
    pub description: &'static str,
    /// Kinds of values it takes: those whose share of quiet points flagged is measured to keep the promise
    /// where it promises any.
    pub kinds: &'static [Kind],
    /// How many further columns of a row it takes at most; see [`Strategy::features`].
    pub features: usize,
    /// Whether these may be categories.
    pub categories: bool,
    make: Option<Make>,
}

impl StrategyInfo {
    /// Whether this version implements it.
    pub fn is_available(&self) -> bool {
        self.make.is_some()
    }

    /// It judges each row by itself, and does not know how much a share of so many trials varies.
    const fn not_ratios(mut self) -> Self {
        self.kinds = &[Kind::Value, Kind::Count];
        self
    }

    /// Small counts, coarse and skewed, look like events to it.
    const fn values_only(mut self) -> Self {
        self.kinds = &[Kind::Value];
        self
    }

    const fn with_features(mut self, most: usize) -> Self {
        self.features = most;
        self
    }

    const fn and_categories(mut self) -> Self {
        self.categories = true;
        self
    }

    /// `InvalidParameter` for categories that the strategy would take for magnitudes.
    fn check_categories(&self, context: &Context) -> Result<()> {
        if self.categories || self.features == 0 || !context.categories.contains(&true) {
            return Ok(());
        }
        let others = STRATEGIES.iter().filter(|s| s.is_available() && s.categories);
        Err(Error::invalid(
            format!("{} takes numbers and booleans as features, no categories", self.name),
            format!(
                "Strategies that take categories are {}; a query can make booleans of one, plan = 'free' AS is_free.",
                listed(others.map(|s| s.short_name))
            ),
        ))
    }

    /// `InvalidParameter` for a kind of value that the strategy would judge wrongly.
    fn check_kind(&self, kind: Kind) -> Result<()> {
        if self.kinds.contains(&kind) {
            return Ok(());
        }
        let others = STRATEGIES.iter().filter(|s| s.is_available() && s.kinds.contains(&kind));
        let without = if kind == Kind::Ratio { " and without trials" } else { "" };
        Err(Error::invalid(
            format!(
                "{} does not know how much a value of kind {} varies by chance",
                self.name,
                kind.as_str()
            ),
            format!(
                "Strategies for kind {} are {}; with kind value{without} it is judged like any number.",
                kind.as_str(),
                listed(others.map(|s| s.short_name)),
            ),
        ))
    }
}

const fn info(
    name: &'static str,
    short_name: &'static str,
    family: &'static str,
    description: &'static str,
    make: Option<Make>,
) -> StrategyInfo {
    StrategyInfo {
        name,
        short_name,
        family,
        description,
        kinds: &Kind::ALL,
        features: 0,
        categories: false,
        make,
    }
}

/// Every strategy there is, whether or not this version implements it.
#[rustfmt::skip]
pub const STRATEGIES: &[StrategyInfo] = &[
    info("statistical_zscore", "zscore", "statistical",
        "distance from the mean in standard deviations",
        Some(|params, context| Ok(Box::new(Zscore::new(params, context)?)))),
    info("statistical_iqr", "iqr", "statistical",
        "distance past the quartiles in interquartile ranges",
        Some(|params, context| Ok(Box::new(Iqr::new(params, context)?)))),
    info("statistical_mad", "mad", "statistical",
        "distance from the median in median absolute deviations",
        Some(|params, context| Ok(Box::new(Mad::new(params, context)?)))),
    info("statistical_moving_average", "moving_average", "statistical",
        "distance from moving averages over three windows",
        Some(|params, context| Ok(Box::new(MovingAverage::new(params, context)?)))),
    info("statistical_regression", "regression", "statistical",
        "residual of a regression on trend, season and calendar",
        Some(|params, context| Ok(Box::new(Regression::new(params, context)?)))),
    info("statistical_ewma", "ewma", "statistical",
        "distance from an exponentially weighted moving average",
        Some(|params, context| Ok(Box::new(Ewma::new(params, context)?)))),
    info("statistical_cusum", "cusum", "statistical",
        "cumulative sum of small deviations in one direction",
        Some(|params, context| Ok(Box::new(Cusum::new(params, context)?))))
        .not_ratios(),
    info("statistical_esd", "esd", "statistical",
        "generalised extreme studentised deviate test over the latest points",
        Some(|params, context| Ok(Box::new(Esd::new(params, context)?))))
        .values_only(),
    info("statistical_quantile", "quantile", "statistical",
        "beyond quantiles of the history",
        Some(|params, context| Ok(Box::new(Quantile::new(params, context)?)))),
    info("statistical_threshold", "threshold", "statistical",
        "outside a range of valid values",
        Some(|params, context| Ok(Box::new(Threshold::new(params, context)?)))),
    info("statistical_persist", "persist", "statistical",
        "difference from the previous value",
        Some(|params, context| Ok(Box::new(Persist::new(params, context)?))))
        .not_ratios(),
    info("statistical_level_shift", "level_shift", "statistical",
        "the level of the latest points against that of the points before",
        Some(|params, context| Ok(Box::new(LevelShift::new(params, context)?))))
        .values_only(),
    info("statistical_volatility_shift", "volatility_shift", "statistical",
        "the spread of the latest points against that of the points before",
        Some(|params, context| Ok(Box::new(VolatilityShift::new(params, context)?))))
        .values_only(),
    info("statistical_flat_line", "flat_line", "statistical",
        "a value that stays the same for unusually long",
        Some(|params, context| Ok(Box::new(FlatLine::new(params, context)?)))),
    info("statistical_seasonal", "seasonal", "statistical",
        "distance from trend and seasons that are found by themselves",
        Some(|params, context| Ok(Box::new(Seasonal::new(params, context)?)))),
    info("statistical_holt_winters", "holt_winters", "statistical",
        "forecast error of triple exponential smoothing",
        Some(|params, context| Ok(Box::new(HoltWinters::new(params, context)?)))),
    info("statistical_changepoint", "changepoint", "statistical",
        "a new regime, told once, then the new normal",
        Some(|params, context| Ok(Box::new(Changepoint::new(params, context)?))))
        .not_ratios(),
    info("statistical_novelty", "novelty", "statistical",
        "values and courses of the day that were never seen before",
        Some(|params, context| Ok(Box::new(Novelty::new(params, context)?)))),
    info("learning_matrix_profile", "matrix_profile", "learning",
        "subsequences unlike any before (discords)",
        Some(|params, context| Ok(Box::new(MatrixProfile::new(params, context)?))))
        .values_only(),
    info("learning_random_cut_forest", "random_cut_forest", "learning",
        "how much a point displaces in a forest of random cuts",
        Some(|params, context| Ok(Box::new(RandomCutForest::new(params, context)?))))
        .values_only()
        .with_features(random_cut_forest::MAX_FEATURES),
    info("learning_isolation_forest", "isolation_forest", "learning",
        "how few random splits isolate a point",
        Some(|params, context| Ok(Box::new(IsolationForest::new(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("learning_one_class_svm", "one_class_svm", "learning",
        "distance outside the support of the training data",
        Some(|params, context| Ok(Box::new(OneClassSvm::new(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("learning_autoencoder", "autoencoder", "learning",
        "reconstruction error of a neural network",
        Some(|params, context| Ok(Box::new(Autoencoder::new(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("learning_lstm", "lstm", "learning",
        "prediction error of a recurrent neural network",
        Some(|params, context| Ok(Box::new(Lstm::new(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("hybrid_ensemble", "ensemble", "hybrid",
        "weighted vote of calibrated members",
        Some(|params, context| Ok(Box::new(Ensemble::new(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("hybrid_adaptive", "adaptive", "hybrid",
        "ensemble that learns its weights from feedback",
        Some(|params, context| Ok(Box::new(Ensemble::adaptive(params, context)?))))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
    info("hybrid_auto", "auto", "hybrid",
        "chooses and combines strategies by what the data shows",
        Some(auto::strategy))
        .with_features(learned::MAX_FEATURES)
        .and_categories(),
];

/// Older names that still work.
const ALIASES: &[(&str, &str)] =
    &[("learning_deep_lstm", "learning_lstm"), ("deep_lstm", "learning_lstm")];

/// One row of the anomaly type registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnomalyTypeInfo {
    pub name: &'static str,
    /// `system`, `user`, `data` or `other`.
    pub family: &'static str,
    pub description: &'static str,
}

const fn kind(
    name: &'static str,
    family: &'static str,
    description: &'static str,
) -> AnomalyTypeInfo {
    AnomalyTypeInfo { name, family, description }
}

/// The built-in anomaly types.
pub const ANOMALY_TYPES: &[AnomalyTypeInfo] = &[
    kind("system_cpu", "system", "processor use"),
    kind("system_memory", "system", "memory use"),
    kind("system_disk", "system", "disk use"),
    kind("system_network", "system", "network traffic"),
    kind("system_error_rate", "system", "rate of errors"),
    kind("system_latency", "system", "response time"),
    kind("user_login_pattern", "user", "when, how often and from where a user logs in"),
    kind("user_access_pattern", "user", "what a user reads"),
    kind("user_transaction_pattern", "user", "how much and how often a user pays"),
    kind("user_content_pattern", "user", "what a user works with"),
    kind("data_outlier", "data", "single values out of line"),
    kind("data_drift", "data", "a distribution that moves"),
    kind("data_missing", "data", "values or rows that are not there"),
    kind("data_inconsistency", "data", "values that contradict rules or each other"),
    kind("data_volume", "data", "more or fewer rows than usual"),
    kind("data_quality", "data", "the quality of a table as a whole"),
];

fn listed(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The registered strategy of a full name, a short name or an alias.
pub fn strategy_info(name: &str) -> Result<&'static StrategyInfo> {
    let full = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, full)| full);
    STRATEGIES.iter().find(|s| s.name == full || s.short_name == full).ok_or_else(|| {
        Error::invalid(
            format!("unknown strategy \"{name}\""),
            format!("Strategies are {}.", listed(STRATEGIES.iter().map(|s| s.name))),
        )
    })
}

/// The strategies that take further columns, for a hint.
pub(crate) fn taking_features() -> String {
    listed(STRATEGIES.iter().filter(|s| s.is_available() && s.features > 0).map(|s| s.short_name))
}

/// The full name of a strategy.
pub fn resolve_name(name: &str) -> Result<&'static str> {
    strategy_info(name).map(|s| s.name)
}

/// Ids of detectors as they are by default, `type_strategy_metric`, that this one may stand for: with the
/// full name of a strategy in the place of its short one.
pub fn full_ids(id: &str) -> Vec<String> {
    let after = |name: &'static str, of: &str| {
        Some(of.strip_prefix(name)?.strip_prefix('_')?.to_owned()).filter(|rest| !rest.is_empty())
    };
    let mut ids = Vec::new();
    for anomaly_type in ANOMALY_TYPES {
        let Some(rest) = after(anomaly_type.name, id) else { continue };
        for strategy in STRATEGIES {
            if let Some(metric) = after(strategy.short_name, &rest) {
                ids.push(format!("{}_{}_{metric}", anomaly_type.name, strategy.name));
            }
        }
    }
    ids
}

/// The registered anomaly type of a name.
pub fn anomaly_type_info(name: &str) -> Result<&'static AnomalyTypeInfo> {
    ANOMALY_TYPES.iter().find(|t| t.name == name).ok_or_else(|| {
        Error::invalid(
            format!("unknown anomaly type \"{name}\""),
            format!("Anomaly types are {}.", listed(ANOMALY_TYPES.iter().map(|t| t.name))),
        )
    })
}

/// The strategy of a name with its parameters, a JSON object or null.
///
/// `InvalidParameter` for an unknown name, an unknown parameter, a bad value or a kind of value that the
/// strategy does not take; `Unsupported` for a strategy that this version does not implement.
pub fn strategy(name: &str, params: &Value, context: &Context) -> Result<Box<dyn Strategy>> {
    let info = strategy_info(name)?;
    let empty = Map::new();
    let params = match params {
        Value::Null => &empty,
        Value::Object(map) => map,
        _ => {
            return Err(Error::invalid(
                "strategy parameters must be a JSON object",
                "Write for example {\"sketch_capacity\": 128}, or {}.",
            ));
        }
    };
    let Some(make) = info.make else {
        return Err(Error::Unsupported(format!(
            "strategy \"{}\" is not implemented in this version",
            info.name
        )));
    };
    info.check_kind(context.kind)?;
    info.check_categories(context)?;
    make(params, context)
}

/// Refuses parameters that the strategy does not know.
fn check_keys(strategy: &str, params: &Map<String, Value>, valid: &[&'static str]) -> Result<()> {
    for key in params.keys() {
        if !valid.contains(&key.as_str()) {
            let hint = if valid.is_empty() {
                format!("Strategy {strategy} takes no parameters.")
            } else {
                format!("Parameters of {strategy} are {}.", valid.join(", "))
            };
            return Err(Error::invalid(format!("unknown parameter \"{key}\" of {strategy}"), hint));
        }
    }
    Ok(())
}

/// An integer parameter, checked against its range.
fn integer_param(
    params: &Parameters,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64> {
    let Some(value) = params.get(key) else { return Ok(default) };
    match value.as_u64().filter(|v| range.contains(v)) {
        Some(v) => Ok(v),
        None => Err(Error::invalid(
            format!("parameter \"{key}\" is {value}"),
            format!("It must be a whole number from {} to {}.", range.start(), range.end()),
        )),
    }
}

/// A parameter that is a number, checked against its range; `None` when it is not given.
fn number_param(
    params: &Parameters,
    key: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f64>> {
    let Some(value) = params.get(key) else { return Ok(None) };
    match value.as_f64().filter(|v| range.contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(Error::invalid(
            format!("parameter \"{key}\" is {value}"),
            format!("It must be a number from {} to {}.", range.start(), range.end()),
        )),
    }
}

/// A parameter that is a number above 0 and at most `most`; `None` when it is not given.
fn positive_param(params: &Parameters, key: &str, most: f64) -> Result<Option<f64>> {
    let Some(value) = params.get(key) else { return Ok(None) };
    match value.as_f64().filter(|v| *v > 0.0 && *v <= most) {
        Some(v) => Ok(Some(v)),
        None => Err(Error::invalid(
            format!("parameter \"{key}\" is {value}"),
            format!("It must be a number above 0 and at most {most}."),
        )),
    }
}

/// The share of points to call anomalous, where a strategy is told one.
fn contamination(params: &Parameters) -> Result<Option<f64>> {
    positive_param(params, "contamination", 0.5)
}

/// A parameter that is true or false.
fn bool_param(params: &Parameters, key: &str, default: bool) -> Result<bool> {
    let Some(value) = params.get(key) else { return Ok(default) };
    value.as_bool().ok_or_else(|| {
        Error::invalid(format!("parameter \"{key}\" is {value}"), "It must be true or false.")
    })
}

/// JSON of a figure. JSON has no infinity or NaN: they become text, as in PostgreSQL's `to_jsonb`.
pub fn json_number(v: f64) -> Value {
    match serde_json::Number::from_f64(v) {
        Some(n) => Value::Number(n),
        None if v.is_nan() => Value::from("NaN"),
        None if v > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}
