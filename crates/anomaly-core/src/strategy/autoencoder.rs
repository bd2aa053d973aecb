//! `learning_autoencoder`: reconstruction error of a neural network.
//!
//! A denoising autoencoder ([`crate::autoencoder`]) over the value, the `lags` values before it, further
//! columns and the calendar, trained anew as the history grows ([`super::learned`]). In training the
//! value is hidden half of the time, so that the network says what belongs there: that is the
//! forecast, if on the last tenth of the history it is better than the mean, the value before and
//! the value a day before; else the best of these is. The statistic is the mean squared error of
//! what the network makes of the row, the calendar left out; without one while the network does not
//! give back rows better than their means. What is said of distance and of p: [`super::shape`].
//!
//! * Good at: courses of some values and combinations of columns that have not been there before.
//! * Bad at: few points (below 64 only distances count), trends, more than some twenty columns.
//! * Parameters: `encoding_dim` 8 (1 to 64; at most half the columns are used), `epochs` 50 (1 to
//!   1000), `batch_size` 32 (1 to 1024), `activation` relu (tanh, sigmoid, linear), `learning_rate`
//!   0.001 (above 0, at most 1), `lags` 8 (0 to 32), `time_features` true, `random_state` 42,
//!   `contamination` (above 0, at most ½; not given).
//! * Cost: eight passes through a network of some 400 weights a point; training takes 50 ms.

use serde_json::{Map, Value};

use super::learned::{Evaluation, LARGEST, Learned, Machine, Query, Settings, Table};
use super::shape::{OFFSETS, Shaped};
use super::{
    Context, EntityModel, Parameters, Strategy, check_keys, contamination, integer_param,
    positive_param,
};
use crate::Result;
use crate::autoencoder::{Autoencoder as Network, AutoencoderOptions};
use crate::codec::Reader;
use crate::neural::{Activation, Budget, FitOptions};
use crate::progress::Unbounded;

const NAME: &str = "learning_autoencoder";
/// Rows without which nothing is trained.
const LEAST_ROWS: usize = 32;
/// Multiplications for one fit.
const WORK: u64 = 400_000_000;

/// Denoising autoencoder.
pub struct Autoencoder {
    settings: Settings<Fitted>,
    contamination: Option<f64>,
}

impl Autoencoder {
    /// Parameters `encoding_dim`, `epochs`, `batch_size`, `activation`, `learning_rate`, `lags`,
    /// `time_features`, `random_state`, `contamination`.
    pub fn new(params: &Parameters, context: &Context) -> Result<Self> {
        let keys = [
            "encoding_dim",
            "epochs",
            "batch_size",
            "activation",
            "learning_rate",
            "lags",
            "time_features",
            "random_state",
            "contamination",
        ];
        check_keys(NAME, params, &keys)?;
        let activation = match params.get("activation") {
            None => Activation::Relu,
            Some(name) => name.as_str().unwrap_or_default().parse()?,
        };
        let network = AutoencoderOptions {
            encoding_dim: integer_param(params, "encoding_dim", 8, 1..=64)? as usize,
            activation,
            hide_first: 0.5,
            fit: fit_options(params)?,
        };
        let lags = integer_param(params, "lags", 8, 0..=32)? as usize;
        Ok(Autoencoder {
            settings: Settings::new(Options { network, lags }, params, context)?,
            contamination: contamination(params)?,
        })
    }
}

/// Parameters of training that networks have in common.
pub(super) fn fit_options(params: &Parameters) -> Result<FitOptions> {
    Ok(FitOptions {
        epochs: integer_param(params, "epochs", 50, 1..=1000)? as u32,
        batch: integer_param(params, "batch_size", 32, 1..=1024)? as usize,
        learning_rate: positive_param(params, "learning_rate", 1.0)?.unwrap_or(1e-3),
        patience: 5,
        seed: integer_param(params, "random_state", 42, 0..=u64::MAX)?,
    })
}

impl Strategy for Autoencoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "autoencoder"
    }

    fn statistic_name(&self) -> &'static str {
        "deviation"
    }

    fn algorithm(&self) -> u16 {
        24
    }

    fn contamination(&self) -> Option<f64> {
        self.contamination
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        let learned = Learned::new(self.settings.clone());
        Box::new(Shaped::new(learned).of_kind(self.settings.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let settings = self.settings.clone();
        Ok(Box::new(Shaped::decode(reader, |r| Learned::decode(settings, r))?))
    }
}

#[derive(Debug, Clone)]
struct Options {
    network: AutoencoderOptions,
    lags: usize,
}

struct Fitted {
    network: Network,
    lags: usize,
    evaluation: Evaluation,
    /// Root mean squared errors on the history held out: of the network, and of the means.
    reconstruction: (f64, f64),
}

/// The value, the values before it, further columns, the calendar: from rows of which the last is
/// looked at.
fn lagged(rows: &[f32], width: usize, out: &mut Vec<f32>) {
    let last = rows.len() - width;
    out.push(rows[last]);
    out.extend(rows[..last].iter().step_by(width).rev());
    out.extend_from_slice(&rows[last + 1..]);
}

impl Fitted {
    /// Columns that count for the error.
    fn own(&self, query: &Query<'_>) -> usize {
        self.lags + query.own
    }

    fn detects(&self) -> bool {
        self.reconstruction.0 < self.reconstruction.1
    }
}

impl Machine for Fitted {
    type Options = Options;
    const STATISTIC: &'static str = "reconstruction_error";
    const FIRST_FIT: u64 = 64;

    fn reach(options: &Options) -> usize {
        options.lags
    }

    fn fit(options: &Options, table: &Table, before: Option<Self>) -> Option<Self> {
        let lags = options.lags;
        let columns = table.width + lags;
        let mut rows = Vec::new();
        let mut of = Vec::new();
        let mut run = 0;
        for i in 0..table.len() {
            run = if table.follows[i] { run + 1 } else { 0 };
            if run >= lags {
                let all = &table.rows[(i - lags) * table.width..(i + 1) * table.width];
                lagged(all, table.width, &mut rows);
                of.push(i);
            }
        }
        if of.len() < LEAST_ROWS {
            return None;
        }
        let mut network = match before {
            Some(before) if before.network.columns() == columns => before.network,
            _ => Network::new(columns, &options.network).ok()?,
        };
        let mut unbounded = Unbounded;
        let mut budget = Budget { work: WORK, ..Budget::unbounded(&mut unbounded) };
        let trained = network.train(&rows, &options.network, &mut budget).ok()?;

        let held = of.len() / 10;
        let (known, asked) = of.split_at(of.len() - held);
        let value = |i: usize| f64::from(table.row(i)[0].clamp(-LARGEST, LARGEST));
        let mean = known.iter().map(|i| value(*i)).sum::<f64>() / known.len() as f64;
        let season = table.season.filter(|season| asked.iter().all(|i| i >= season));
        let (mut machine, mut last, mut seasonal, mut constant) = (0.0, 0.0, 0.0, 0.0);
        for (row, i) in rows[known.len() * columns..].chunks_exact(columns).zip(asked) {
            let mut hidden = row.to_vec();
            hidden[0] = 0.0;
            let off = |forecast: f64| (forecast - value(*i)) * (forecast - value(*i));
            machine += off(f64::from(network.reconstruct(&hidden)[0]));
            last += off(value(i.saturating_sub(1)));
            seasonal += season.map_or(0.0, |season| off(value(i - season)));
            constant += off(mean);
        }
        let n = held.max(1) as f64;
        Some(Fitted {
            evaluation: Evaluation::new(machine / n, last / n, seasonal / n, constant / n, season),
            reconstruction: (trained.report.error.sqrt(), trained.constant.sqrt()),
            network,
            lags,
        })
    }

    fn forecast(&self, query: &Query<'_>) -> Option<f32> {
        self.evaluation.forecast(query, || {
            let mut row = Vec::with_capacity(self.network.columns());
            lagged(&query.rows, query.width, &mut row);
            Some(self.network.reconstruct(&row)[0])
        })
    }

    fn statistics(
        &self,
        query: &Query<'_>,
        values: [f64; OFFSETS.len()],
    ) -> Option<[f64; OFFSETS.len()]> {
        if !self.detects() {
            return None;
        }
        let mut row = Vec::with_capacity(self.network.columns());
        lagged(&query.rows, query.width, &mut row);
        let own = self.own(query);
        Some(values.map(|value| {
            row[0] = value as f32;
            self.network.squares(&row)[..own].iter().sum::<f64>() / own as f64
        }))
    }

    fn explain(&self, map: &mut Map<String, Value>) {
        self.evaluation.explain(map);
        map.insert("columns".into(), Value::from(self.network.columns()));
        map.insert("encoding_dim".into(), Value::from(self.network.encoding_dim()));
        map.insert("reconstruction_error".into(), super::json_number(self.reconstruction.0));
        map.insert(
            "reconstruction_error_of_mean".into(),
            super::json_number(self.reconstruction.1),
        );
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.evaluation.encode(out);
        out.extend_from_slice(&self.reconstruction.0.to_le_bytes());
        out.extend_from_slice(&self.reconstruction.1.to_le_bytes());
        self.network.encode(out);
    }

    fn decode(
        options: &Options,
        (width, _): (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self> {
        let evaluation = Evaluation::decode(reader)?;
        let reconstruction =
            (reader.non_negative("error of a network")?, reader.non_negative("error of means")?);
        let network = Network::decode(reader)?;
        if network.columns() != width + options.lags {
            return Err(reader.corrupted("network of another width"));
        }
        Ok(Fitted { network, lags: options.lags, evaluation, reconstruction })
    }
}
