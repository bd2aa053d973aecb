//! `learning_lstm`: prediction error of a recurrent neural network.
//!
//! Two LSTM layers ([`crate::lstm`]) forecast the value from the latest `sequence_length` rows of the
//! series itself, trained anew as the history grows ([`super::learned`]). On the last tenth of the
//! history the network competes with the mean, the value before and the value a day before; only
//! the best of them is what is expected, and [`EntityModel::explain`] says which. The distance from
//! it is calibrated as every forecast's ([`super::location_scale`]), counts and ratios included.
//!
//! * Good at: courses that repeat with variations, phases, what depends on the latest values.
//! * Bad at: few points (below 672 the mean is expected), trends beyond what has been seen.
//! * Parameters: `sequence_length` 10 (2 to 128), `lstm_units` 64 (1 to 128; the second layer has half
//!   as many), `dropout_rate` 0.2 (0 to 0.9), `epochs` 50 (1 to 1000), `batch_size` 32 (1 to 1024),
//!   `learning_rate` 0.001 (above 0, at most 1), `time_features` true, `random_state` 42,
//!   `contamination` (above 0, at most ½; not given).
//! * Cost: one pass over ten rows a point; training up to half a second, at 672 points, then whenever
//!   they have doubled or 1024 more have come. A state is 60 kB: 8 bits a parameter.

use serde_json::{Map, Value};

use super::autoencoder::fit_options;
use super::learned::{Evaluation, LARGEST, Learned, Machine, Query, Settings, Table};
use super::location_scale::LocationScale;
use super::{
    Context, EntityModel, Expectation, Parameters, Rule, Strategy, check_keys, contamination,
    integer_param, number_param,
};
use crate::Result;
use crate::codec::Reader;
use crate::lstm::{LstmForecaster, LstmOptions, Sequence, Workspace};
use crate::neural::Budget;
use crate::neural::quantised::Quantised;
use crate::point::Point;
use crate::progress::Unbounded;
use crate::verdict::Verdict;

const NAME: &str = "learning_lstm";
/// Multiplications for one fit: half a second or so.
const WORK: u64 = 1_500_000_000;

/// Forecasts by an LSTM network.
pub struct Lstm {
    settings: Settings<Fitted>,
    contamination: Option<f64>,
}

impl Lstm {
    /// Parameters `sequence_length`, `lstm_units`, `dropout_rate`, `epochs`, `batch_size`,
    /// `learning_rate`, `time_features`, `random_state`, `contamination`.
    pub fn new(params: &Parameters, context: &Context) -> Result<Self> {
        let keys = [
            "sequence_length",
            "lstm_units",
            "dropout_rate",
            "epochs",
            "batch_size",
            "learning_rate",
            "time_features",
            "random_state",
            "contamination",
        ];
        check_keys(NAME, params, &keys)?;
        let options = LstmOptions {
            sequence_length: integer_param(params, "sequence_length", 10, 2..=128)? as usize,
            units: integer_param(params, "lstm_units", 64, 1..=128)? as usize,
            dropout_rate: number_param(params, "dropout_rate", 0.0..=0.9)?.unwrap_or(0.2),
            fit: fit_options(params)?,
        };
        Ok(Lstm {
            settings: Settings::new(options, params, context)?,
            contamination: contamination(params)?,
        })
    }
}

impl Strategy for Lstm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "lstm"
    }

    fn statistic_name(&self) -> &'static str {
        "prediction error"
    }

    fn algorithm(&self) -> u16 {
        25
    }

    fn contamination(&self) -> Option<f64> {
        self.contamination
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        let learned = Learned::new(self.settings.clone());
        Box::new(Model(LocationScale::new(learned).of_kind(self.settings.kind)))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let settings = self.settings.clone();
        Ok(Box::new(Model(LocationScale::decode(reader, |r| Learned::decode(settings, r))?)))
    }
}

/// A forecast with its calibration, which can say what the network is worth.
struct Model(LocationScale<Learned<Fitted>>);

impl EntityModel for Model {
    fn count(&self) -> u64 {
        self.0.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        self.0.judge(point, rule)
    }

    fn expectation(&self, point: &Point) -> Option<Expectation<'_>> {
        self.0.expectation(point)
    }

    fn learn(&mut self, point: &Point) {
        self.0.learn(point);
    }

    fn leave_out(&mut self, point: &Point) {
        self.0.leave_out(point);
    }

    fn learn_clipped(&mut self, point: &Point) {
        self.0.learn_clipped(point);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.0.encode(out)
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = self.0.metadata(verdict, rule);
        map.insert("prediction_error".into(), super::json_number(verdict.statistic.abs()));
        map.insert("predicted_value".into(), super::json_number(verdict.expected));
        map
    }

    fn contributions(&self, point: &Point) -> Option<Vec<f64>> {
        self.0.baseline().contributions_to_error(point)
    }

    fn explain(&self) -> Map<String, Value> {
        self.0.baseline().describe()
    }
}

struct Fitted {
    network: LstmForecaster,
    stored: Quantised,
    evaluation: Evaluation,
}

/// Own columns of a row and the calendar of the next one.
fn step(row: &[f32], next: &[f32], own: usize, out: &mut Vec<f32>) {
    out.extend(row[..own].iter().map(|x| x.clamp(-LARGEST, LARGEST)));
    out.extend_from_slice(&next[own..]);
}

impl Machine for Fitted {
    type Options = LstmOptions;
    const STATISTIC: &'static str = "prediction_error";
    /// Four weeks of hours.
    const FIRST_FIT: u64 = 672;

    fn reach(options: &LstmOptions) -> usize {
        options.sequence_length
    }

    fn fit(options: &LstmOptions, table: &Table, before: Option<Self>) -> Option<Self> {
        let n = table.len() - 1;
        let mut rows = Vec::with_capacity(n * table.width);
        let mut targets = Vec::with_capacity(n);
        let mut follows = Vec::with_capacity(n);
        for i in 0..n {
            step(table.row(i), table.row(i + 1), table.own, &mut rows);
            targets.push(table.row(i + 1)[0]);
            // the target has to follow its row as well
            follows.push(table.follows[i] && table.follows[i + 1]);
        }
        let sequence =
            Sequence { rows: &rows, targets: &targets, follows: &follows, season: table.season };
        let mut network = match before {
            Some(before) if before.network.columns() == table.width => before.network,
            _ => LstmForecaster::new(table.width, options).ok()?,
        };
        let mut unbounded = Unbounded;
        let mut budget = Budget { work: WORK, ..Budget::unbounded(&mut unbounded) };
        network.train(&sequence, options, &mut budget).ok()?;
        let (network, stored) = network.quantised();
        let e = network.evaluate(&sequence, &mut budget).ok()?;
        let season = table.season.filter(|_| e.seasonal.is_some());
        let seasonal = e.seasonal.unwrap_or(f64::INFINITY);
        let evaluation = Evaluation::new(e.network, e.last, seasonal, e.constant, season);
        Some(Fitted { network, stored, evaluation })
    }

    fn forecast(&self, query: &Query<'_>) -> Option<f32> {
        self.evaluation.forecast(query, || {
            let mut rows = Vec::with_capacity(query.rows.len());
            let all: Vec<&[f32]> = query.rows.chunks_exact(query.width).collect();
            for pair in all.windows(2) {
                step(pair[0], pair[1], query.own, &mut rows);
            }
            Some(self.network.forecast(&rows, &mut Workspace::default()))
        })
    }

    fn explain(&self, map: &mut Map<String, Value>) {
        self.evaluation.explain(map);
        map.insert("sequence_length".into(), Value::from(self.network.sequence_length()));
        map.insert("lstm_units".into(), Value::from(self.network.units()));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.evaluation.encode(out);
        self.stored.encode(out);
    }

    fn decode(
        options: &LstmOptions,
        (width, _): (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self> {
        let evaluation = Evaluation::decode(reader)?;
        let (network, stored) =
            LstmForecaster::from_quantised(width, options.sequence_length, options.units, reader)?;
        Ok(Fitted { network, stored, evaluation })
    }
}
