//! Forecasts of a sequence by two LSTM layers, dropout behind each, and a linear output (Malhotra et
//! al., "Long short term memory networks for anomaly detection in time series", ESANN 2015): what
//! the next value is, from the `sequence_length` rows before it.
//!
//! Training looks at stretches of `sequence_length` steps and asks for the next value after every
//! step, not only the last: ten answers for the work of one.

use crate::autoencoder::read_parameters;
use crate::codec::Reader;
use crate::neural::dropout;
use crate::neural::lstm::Trace;
use crate::neural::quantised::Quantised;
use crate::neural::{Activation, Budget, Dense, FitOptions, Lstm, Network, Random, Report, fit};
use crate::progress::Progress;
use crate::{Error, Result};

pub const MAX_COLUMNS: usize = 256;
pub const MAX_SEQUENCE: usize = 256;
pub const MAX_UNITS: usize = 256;
/// Standardised values beyond ± this count as this.
const FARTHEST: f32 = 8.0;
/// The share of the last rows that is held out.
const HELD_OUT: f64 = 0.1;
/// Stretches that are put through the network together where nothing is learned.
const BLOCK: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LstmOptions {
    /// Rows that a forecast looks back on.
    pub sequence_length: usize,
    /// Of the first layer; the second has half as many.
    pub units: usize,
    pub dropout_rate: f64,
    /// `batch` counts forecasts.
    pub fit: FitOptions,
}

impl Default for LstmOptions {
    fn default() -> Self {
        LstmOptions {
            sequence_length: 10,
            units: 64,
            dropout_rate: 0.2,
            fit: FitOptions { epochs: 50, batch: 32, learning_rate: 1e-3, patience: 5, seed: 42 },
        }
    }
}

/// How well the held-out values were forecast, by the network and by what costs nothing: mean squared
/// errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    pub network: f64,
    /// By the mean of the training values.
    pub constant: f64,
    /// By the value before.
    pub last: f64,
    /// By the value a season ago, where the caller knows of a season.
    pub seasonal: Option<f64>,
    /// Values held out.
    pub values: u32,
}

impl Evaluation {
    /// Whether the network is better than all the others.
    pub fn is_worth_it(&self) -> bool {
        self.network < self.constant.min(self.last).min(self.seasonal.unwrap_or(f64::INFINITY))
    }
}

/// What training came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    pub report: Report,
    pub evaluation: Evaluation,
}

/// Rows to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Standardised rows, one after the other in time.
    pub rows: &'a [f32],
    /// The value that follows each row, standardised.
    pub targets: &'a [f32],
    /// Whether a row follows the one before it without a break.
    pub follows: &'a [bool],
    /// Rows of a season.
    pub season: Option<usize>,
}

/// A network that forecasts the next value of rows with a fixed number of columns; the first column
/// is the value.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmForecaster {
    sequence_length: usize,
    first: Lstm,
    second: Lstm,
    output: Dense,
    parameters: Vec<f32>,
}

/// Room for passes forwards, to be used again.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    first: Trace,
    second: Trace,
    output: Vec<f32>,
}

impl LstmForecaster {
    /// An untrained network. `TooLarge` for sizes beyond [`MAX_COLUMNS`], [`MAX_SEQUENCE`] and
    /// [`MAX_UNITS`], or 0.
    pub fn new(columns: usize, options: &LstmOptions) -> Result<Self> {
        let mut network = Self::of_sizes(columns, options.sequence_length, options.units)?;
        let mut random = Random::new(options.fit.seed, 0);
        network.first.initialise(&mut network.parameters, &mut random);
        network.second.initialise(&mut network.parameters, &mut random);
        network.output.initialise(&mut network.parameters, &mut random);
        Ok(network)
    }

    fn of_sizes(columns: usize, sequence_length: usize, units: usize) -> Result<Self> {
        for (name, value, most) in [
            ("columns", columns, MAX_COLUMNS),
            ("steps", sequence_length, MAX_SEQUENCE),
            ("units", units, MAX_UNITS),
        ] {
            if value == 0 || value > most {
                return Err(Error::TooLarge(format!("{value} {name} instead of 1 to {most}")));
            }
        }
        let first = Lstm { at: 0, inputs: columns, units };
        let half = units.div_ceil(2);
        let second = Lstm { at: first.parameters(), inputs: units, units: half };
        let at = second.at + second.parameters();
        let output = Dense { at, inputs: half, outputs: 1, activation: Activation::Linear };
        let parameters = vec![0.0; at + output.parameters()];
        Ok(LstmForecaster { sequence_length, first, second, output, parameters })
    }

    pub fn columns(&self) -> usize {
        self.first.inputs
    }

    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    pub fn units(&self) -> usize {
        self.first.units
    }

    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Trains on a sequence; the last tenth is held out to stop by and to be compared on.
    ///
    /// `Data` for rows that do not fit together, hold missing values or have no stretch of
    /// `sequence_length` without a break; `TooLarge` beyond the budget's memory; `Stopped` when its
    /// progress says so. Each leaves the network as it was.
    pub fn train(
        &mut self,
        sequence: &Sequence<'_>,
        options: &LstmOptions,
        budget: &mut Budget<'_>,
    ) -> Result<Trained> {
        let Stretches { rows, targets, train, held, .. } = self.stretches(sequence)?;
        let (columns, steps) = (self.columns(), self.sequence_length);
        let batch = options.fit.batch.div_ceil(steps).max(1);
        let per_step = 6 * (self.first.units + self.second.units) + columns;
        budget.check_bytes(
            4 * (rows.len() + targets.len())
                + 24 * self.parameters.len()
                + 8 * steps * per_step * batch.max(BLOCK),
        )?;
        let mut task = Task {
            network: self.clone(),
            rows: &rows,
            targets: &targets,
            train: &train,
            held: &held,
            dropout: options.dropout_rate as f32,
            space: Workspace::default(),
        };
        let fit_options = FitOptions { batch, ..options.fit };
        let report = fit(&mut task, &fit_options, budget)?;
        self.parameters = std::mem::take(&mut task.network.parameters);
        let evaluation = self.evaluate(sequence, budget)?;
        Ok(Trained { report, evaluation })
    }

    fn stretches(&self, sequence: &Sequence<'_>) -> Result<Stretches> {
        let (columns, steps) = (self.columns(), self.sequence_length);
        let n = sequence.targets.len();
        if sequence.rows.len() != n * columns || sequence.follows.len() != n {
            return Err(Error::Data(format!(
                "{} values are no {n} rows of {columns} columns",
                sequence.rows.len()
            )));
        }
        let mut values = sequence.rows.iter().chain(sequence.targets);
        if let Some(bad) = values.find(|x| !x.is_finite()) {
            return Err(Error::Data(format!("a row holds {bad}; fill what is missing")));
        }
        let limited =
            |xs: &[f32]| -> Vec<f32> { xs.iter().map(|x| x.clamp(-FARTHEST, FARTHEST)).collect() };
        // starts of stretches without a break
        let mut run = 0;
        let mut starts = Vec::new();
        for (i, follows) in sequence.follows.iter().enumerate() {
            run = if *follows { run + 1 } else { 1 };
            if run >= steps {
                starts.push((i + 1 - steps) as u32);
            }
        }
        let border = n - (n as f64 * HELD_OUT) as usize;
        let held: Vec<u32> =
            starts.iter().copied().filter(|s| *s as usize + steps > border).collect();
        // half overlapping, and ending before what is held out begins
        let stride = steps.div_ceil(2).max(1);
        let train: Vec<u32> = starts
            .iter()
            .copied()
            .filter(|s| *s as usize + steps <= border && (*s as usize).is_multiple_of(stride))
            .collect();
        if train.is_empty() || held.is_empty() {
            return Err(Error::Data(format!(
                "{n} rows have too few stretches of {steps} without a break"
            )));
        }
        let (rows, targets) = (limited(sequence.rows), limited(sequence.targets));
        Ok(Stretches { rows, targets, train, held, border })
    }

    /// Compares on the held-out stretches, each for its last value. Errors as [`LstmForecaster::train`].
    pub fn evaluate(&self, sequence: &Sequence<'_>, budget: &mut Budget<'_>) -> Result<Evaluation> {
        let Stretches { rows, targets, held, border, .. } = self.stretches(sequence)?;
        let columns = self.columns();
        let known = &targets[..border.min(targets.len()).max(1)];
        let mean = known.iter().map(|t| f64::from(*t)).sum::<f64>() / known.len() as f64;
        let mut sums = [0.0; 4];
        let mut space = Workspace::default();
        // a season ago must be there for all of them
        let lag = sequence.season.filter(|lag| {
            *lag > 0 && held.iter().all(|s| *s as usize + self.sequence_length > *lag)
        });
        for start in &held {
            budget.progress.tick()?;
            let start = *start as usize;
            let last = start + self.sequence_length - 1;
            let stretch = &rows[start * columns..][..self.sequence_length * columns];
            let target = f64::from(targets[last]);
            let forecasts = [
                f64::from(self.forecast(stretch, &mut space)),
                mean,
                f64::from(rows[last * columns]),
                lag.map_or(mean, |lag| f64::from(targets[last - lag])),
            ];
            for (sum, forecast) in sums.iter_mut().zip(forecasts) {
                *sum += (forecast - target) * (forecast - target) / held.len() as f64;
            }
        }
        let [network, constant, last, seasonal] = sums;
        let seasonal = lag.map(|_| seasonal);
        Ok(Evaluation { network, constant, last, seasonal, values: held.len() as u32 })
    }

    /// The value after `sequence_length` rows of `columns`, standardised as in training.
    pub fn forecast(&self, rows: &[f32], space: &mut Workspace) -> f32 {
        self.forward(rows, 1, space);
        let last = space.second.h.len() - self.second.units;
        self.output.forward(&self.parameters, &space.second.h[last..], &mut space.output);
        space.output[0]
    }

    fn forward(&self, x: &[f32], batch: usize, space: &mut Workspace) {
        self.first.forward(&self.parameters, x, batch, &mut space.first);
        self.second.forward(&self.parameters, &space.first.h, batch, &mut space.second);
    }

    /// A network whose parameters can be stored in a byte each, and these.
    pub fn quantised(mut self) -> (Self, Quantised) {
        let quantised = Quantised::of(&self.parameters);
        self.parameters = quantised.parameters();
        (self, quantised)
    }

    /// The network of quantised parameters. `TooLarge` as [`LstmForecaster::new`].
    pub fn from_quantised(
        columns: usize,
        sequence_length: usize,
        units: usize,
        reader: &mut Reader<'_>,
    ) -> Result<(Self, Quantised)> {
        let mut network = Self::of_sizes(columns, sequence_length, units)?;
        let quantised = Quantised::decode(reader, network.parameters.len())?;
        network.parameters = quantised.parameters();
        Ok((network, quantised))
    }

    /// Columns, steps and units as u32, then the parameters as `f32`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for size in [self.columns(), self.sequence_length, self.units()] {
            out.extend_from_slice(&(size as u32).to_le_bytes());
        }
        for p in &self.parameters {
            out.extend_from_slice(&p.to_le_bytes());
        }
    }

    /// Reads what [`LstmForecaster::encode`] wrote; `Corrupted` for anything else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (columns, steps, units) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let mut network = Self::of_sizes(columns as usize, steps as usize, units as usize)
            .map_err(|_| reader.corrupted("sizes of a network out of range"))?;
        network.parameters = read_parameters(reader, network.parameters.len())?;
        Ok(network)
    }
}

/// A sequence cut up.
struct Stretches {
    rows: Vec<f32>,
    targets: Vec<f32>,
    /// Starts of those to train on, and of those held out.
    train: Vec<u32>,
    held: Vec<u32>,
    /// Where the rows begin that are held out.
    border: usize,
}

struct Task<'a> {
    network: LstmForecaster,
    rows: &'a [f32],
    targets: &'a [f32],
    /// Starts of stretches.
    train: &'a [u32],
    held: &'a [u32],
    dropout: f32,
    space: Workspace,
}

impl Task<'_> {
    /// The rows of the picked stretches, step by step.
    fn gather(&self, starts: &[u32], x: &mut Vec<f32>) {
        let columns = self.network.columns();
        x.clear();
        for step in 0..self.network.sequence_length {
            for start in starts {
                x.extend_from_slice(&self.rows[(*start as usize + step) * columns..][..columns]);
            }
        }
    }
}

impl Network for Task<'_> {
    fn parameters(&mut self) -> &mut Vec<f32> {
        &mut self.network.parameters
    }

    fn rows(&self) -> usize {
        self.train.len()
    }

    fn gradient(&mut self, picked: &[u32], random: &mut Random, gradient: &mut [f32]) -> f64 {
        let starts: Vec<u32> = picked.iter().map(|i| self.train[*i as usize]).collect();
        let batch = starts.len();
        let mut x = Vec::new();
        self.gather(&starts, &mut x);
        let (network, space) = (&self.network, &mut self.space);
        network.first.forward(&network.parameters, &x, batch, &mut space.first);
        let mask = dropout::mask(random, self.dropout, space.first.h.len());
        let mut seen = space.first.h.clone();
        dropout::apply(&mut seen, &mask);
        network.second.forward(&network.parameters, &seen, batch, &mut space.second);
        let second_mask = dropout::mask(random, self.dropout, space.second.h.len());
        let mut read = space.second.h.clone();
        dropout::apply(&mut read, &second_mask);
        network.output.forward(&network.parameters, &read, &mut space.output);

        let n = space.output.len() as f32;
        let mut loss = 0.0;
        let steps = network.sequence_length;
        let mut dy = vec![0.0; space.output.len()];
        for step in 0..steps {
            for (b, start) in starts.iter().enumerate() {
                let at = step * batch + b;
                let off = space.output[at] - self.targets[*start as usize + step];
                loss += f64::from(off) * f64::from(off);
                dy[at] = 2.0 * off / n;
            }
        }
        let mut dh = vec![0.0; read.len()];
        network.output.backward(
            &network.parameters,
            &read,
            &space.output,
            &mut dy,
            gradient,
            Some(&mut dh),
        );
        dropout::apply(&mut dh, &second_mask);
        let mut dx = vec![0.0; seen.len()];
        network.second.backward(
            &network.parameters,
            &seen,
            batch,
            &mut space.second,
            &dh,
            gradient,
            Some(&mut dx),
        );
        dropout::apply(&mut dx, &mask);
        network.first.backward(
            &network.parameters,
            &x,
            batch,
            &mut space.first,
            &dx,
            gradient,
            None,
        );
        loss / f64::from(n)
    }

    fn held_out(&mut self, progress: &mut dyn Progress) -> Result<f64> {
        let mut x = Vec::new();
        let mut sum = 0.0;
        let last = self.network.sequence_length - 1;
        for starts in self.held.chunks(BLOCK) {
            progress.tick()?;
            self.gather(starts, &mut x);
            let (network, space) = (&self.network, &mut self.space);
            network.forward(&x, starts.len(), space);
            let h = &space.second.h[last * starts.len() * network.second.units..];
            network.output.forward(&network.parameters, h, &mut space.output);
            for (y, start) in space.output.iter().zip(starts) {
                let off = f64::from(y - self.targets[*start as usize + last]);
                sum += off * off;
            }
        }
        Ok(sum / self.held.len().max(1) as f64)
    }

    fn work_per_row(&self) -> u64 {
        self.network.sequence_length as u64
            * (self.network.first.work() + self.network.second.work())
    }

    fn held_out_rows(&self) -> usize {
        self.held.len()
    }
}
