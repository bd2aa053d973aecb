//! Autoencoders: networks that learn to give back a row through a layer narrower than the row
//! (Hinton & Salakhutdinov 2006). What they cannot give back is unusual.
//!
//! Layers are d → ¾d → `encoding_dim` → ¾d → d with a linear last one, the middle at most half as wide
//! as a row, so that a row cannot just be passed through. In training columns are hidden at random
//! (set to 0, their mean) and have to be given back all the same (Vincent et al., "Extracting and
//! composing robust features with denoising autoencoders", ICML 2008): so the network also says what
//! belongs in a column that is missing.

use crate::codec::Reader;
use crate::neural::{Activation, Budget, Dense, FitOptions, Network, Random, Report, fit};
use crate::progress::Progress;
use crate::{Error, Result};

/// Wider rows are an error.
pub const MAX_COLUMNS: usize = 10_000;
/// Hidden layers are no wider than this.
const MAX_HIDDEN: usize = 256;
/// The share of the last rows that is held out.
const HELD_OUT: f64 = 0.1;
/// Standardised values beyond ± this count as this: one gross outlier must not be all that is learned.
const FARTHEST: f32 = 8.0;
/// Columns are hidden with this probability.
const HIDDEN: f64 = 0.1;
/// Rows that are put through the network together where nothing is learned.
const BLOCK: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AutoencoderOptions {
    /// Width of the middle layer; at most half the columns, and at least 1, are used.
    pub encoding_dim: usize,
    pub activation: Activation,
    /// With what probability the first column is hidden in training.
    pub hide_first: f64,
    pub fit: FitOptions,
}

impl Default for AutoencoderOptions {
    fn default() -> Self {
        AutoencoderOptions {
            encoding_dim: 8,
            activation: Activation::Relu,
            hide_first: HIDDEN,
            fit: FitOptions { epochs: 50, batch: 32, learning_rate: 1e-3, patience: 5, seed: 42 },
        }
    }
}

/// An autoencoder of rows with a fixed number of columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoencoder {
    layers: Vec<Dense>,
    parameters: Vec<f32>,
}

/// What training came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    pub report: Report,
    /// Mean squared error on the held-out rows of giving back the training rows' means instead; with
    /// an error that is no smaller the network has learned nothing.
    pub constant: f64,
}

impl Autoencoder {
    /// An untrained network for rows of `columns`. `TooLarge` for none or too many of them.
    pub fn new(columns: usize, options: &AutoencoderOptions) -> Result<Self> {
        if columns == 0 || columns > MAX_COLUMNS {
            return Err(Error::TooLarge(format!(
                "rows have {columns} columns instead of 1 to {MAX_COLUMNS}"
            )));
        }
        let mut layers = layers(columns, options.encoding_dim, options.activation);
        let total = place(&mut layers);
        let mut parameters = vec![0.0; total];
        let mut random = Random::new(options.fit.seed, 0);
        layers.iter().for_each(|layer| layer.initialise(&mut parameters, &mut random));
        Ok(Autoencoder { layers, parameters })
    }

    pub fn columns(&self) -> usize {
        self.layers[0].inputs
    }

    /// Width of the narrowest layer.
    pub fn encoding_dim(&self) -> usize {
        self.layers[1].outputs
    }

    /// Trains on standardised rows, row by row one after the other; the last tenth is held out.
    ///
    /// `Data` for no rows or missing values, `TooLarge` beyond the budget's memory, `Stopped` when its
    /// progress says so; each leaves the network as it was.
    pub fn train(
        &mut self,
        rows: &[f32],
        options: &AutoencoderOptions,
        budget: &mut Budget<'_>,
    ) -> Result<Trained> {
        let columns = self.columns();
        if rows.is_empty() || !rows.len().is_multiple_of(columns) {
            return Err(Error::Data(format!(
                "{} values are no rows of {columns} columns",
                rows.len()
            )));
        }
        if let Some(bad) = rows.iter().find(|x| !x.is_finite()) {
            return Err(Error::Data(format!("a row holds {bad}; fill what is missing")));
        }
        budget.check_bytes(4 * rows.len() + 24 * self.parameters.len())?;
        let n = rows.len() / columns;
        let held = if n < 10 { 0 } else { ((n as f64 * HELD_OUT) as usize).max(1) };
        let rows: Vec<f32> = rows.iter().map(|x| x.clamp(-FARTHEST, FARTHEST)).collect();
        let (train, held) = rows.split_at((n - held) * columns);
        let constant = constant_error(train, held, columns);
        let mut task = Task {
            layers: &self.layers,
            parameters: std::mem::take(&mut self.parameters),
            train,
            held,
            hide_first: options.hide_first,
            outputs: vec![Vec::new(); self.layers.len()],
        };
        let report = fit(&mut task, &options.fit, budget);
        self.parameters = task.parameters;
        Ok(Trained { report: report?, constant })
    }

    /// What the network makes of a row of at least [`Autoencoder::columns`] values.
    pub fn reconstruct(&self, row: &[f32]) -> Vec<f32> {
        let mut x: Vec<f32> =
            row[..self.columns()].iter().map(|x| x.clamp(-FARTHEST, FARTHEST)).collect();
        let mut y = Vec::new();
        for layer in &self.layers {
            layer.forward(&self.parameters, &x, &mut y);
            std::mem::swap(&mut x, &mut y);
        }
        x
    }

    /// Mean squared reconstruction error of a standardised row, counted from the row itself: it grows
    /// with distance for ever.
    pub fn error(&self, row: &[f32]) -> f64 {
        let squares = self.squares(row);
        squares.iter().sum::<f64>() / squares.len() as f64
    }

    /// Of each column.
    pub(crate) fn squares(&self, row: &[f32]) -> Vec<f64> {
        let off = |(x, y): (&f32, &f32)| {
            let d = (f64::from(*x) - f64::from(*y)).clamp(-1e15, 1e15);
            d * d
        };
        row.iter().zip(&self.reconstruct(row)).map(off).collect()
    }

    /// Which part of the error each column has; they sum to 1. All alike where there is no error.
    pub fn shares(&self, row: &[f32]) -> Vec<f64> {
        let squares = self.squares(row);
        let total: f64 = squares.iter().sum();
        let even = 1.0 / squares.len() as f64;
        squares.iter().map(|s| if total > 0.0 { s / total } else { even }).collect()
    }

    /// Columns u32, encoding u32, activation u8, then the parameters as `f32`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.columns() as u32).to_le_bytes());
        out.extend_from_slice(&(self.encoding_dim() as u32).to_le_bytes());
        out.push(self.layers[0].activation.code());
        for p in &self.parameters {
            out.extend_from_slice(&p.to_le_bytes());
        }
    }

    /// Reads what [`Autoencoder::encode`] wrote; `Corrupted` for anything else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let columns = reader.u32()? as usize;
        let encoding = reader.u32()? as usize;
        let activation = Activation::from_code(reader.u8()?);
        let (1..=MAX_COLUMNS, Some(activation)) = (columns, activation) else {
            return Err(reader.corrupted("autoencoder out of range"));
        };
        let mut layers = layers(columns, encoding, activation);
        if layers[1].outputs != encoding {
            return Err(reader.corrupted("autoencoder out of range"));
        }
        let total = place(&mut layers);
        let parameters = read_parameters(reader, total)?;
        Ok(Autoencoder { layers, parameters })
    }
}

/// No trained network has larger ones; smaller ones cannot overflow on the way.
const LARGEST_PARAMETER: f32 = 1e4;

/// So many finite parameters of a believable size.
pub(crate) fn read_parameters(reader: &mut Reader<'_>, n: usize) -> Result<Vec<f32>> {
    let parameters: Vec<f32> =
        reader.take(4 * n)?.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    // written so that NaN is refused
    if parameters.iter().all(|p| p.abs() <= LARGEST_PARAMETER) {
        Ok(parameters)
    } else {
        Err(reader.corrupted("parameters of a network out of range"))
    }
}

fn layers(columns: usize, encoding_dim: usize, activation: Activation) -> Vec<Dense> {
    let hidden = (3 * columns).div_ceil(4).clamp(1, MAX_HIDDEN);
    let encoding = encoding_dim.min(columns / 2).min(hidden).max(1);
    let dense = |inputs, outputs, activation| Dense { at: 0, inputs, outputs, activation };
    vec![
        dense(columns, hidden, activation),
        dense(hidden, encoding, activation),
        dense(encoding, hidden, activation),
        dense(hidden, columns, Activation::Linear),
    ]
}

/// Puts the layers' parameters one behind the other and returns how many there are.
fn place(layers: &mut [Dense]) -> usize {
    let mut at = 0;
    for layer in layers {
        layer.at = at;
        at += layer.parameters();
    }
    at
}

fn constant_error(train: &[f32], held: &[f32], columns: usize) -> f64 {
    if held.is_empty() {
        return 0.0;
    }
    let n = (train.len() / columns) as f64;
    let mut means = vec![0.0; columns];
    for row in train.chunks_exact(columns) {
        means.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n);
    }
    let off = |(x, m): (&f32, &f64)| (f64::from(*x) - m) * (f64::from(*x) - m);
    held.iter().zip(means.iter().cycle()).map(off).sum::<f64>() / held.len() as f64
}

struct Task<'a> {
    layers: &'a [Dense],
    parameters: Vec<f32>,
    train: &'a [f32],
    held: &'a [f32],
    hide_first: f64,
    /// Of each layer for the batch at hand.
    outputs: Vec<Vec<f32>>,
}

impl Task<'_> {
    fn columns(&self) -> usize {
        self.layers[0].inputs
    }

    fn forward(&mut self, x: &[f32]) {
        for (i, layer) in self.layers.iter().enumerate() {
            let (before, rest) = self.outputs.split_at_mut(i);
            let input = before.last().map_or(x, |y| y);
            layer.forward(&self.parameters, input, &mut rest[0]);
        }
    }
}

impl Network for Task<'_> {
    fn parameters(&mut self) -> &mut Vec<f32> {
        &mut self.parameters
    }

    fn rows(&self) -> usize {
        self.train.len() / self.columns()
    }

    fn gradient(&mut self, picked: &[u32], random: &mut Random, gradient: &mut [f32]) -> f64 {
        let columns = self.columns();
        let mut target = Vec::with_capacity(picked.len() * columns);
        for i in picked {
            target.extend_from_slice(&self.train[*i as usize * columns..][..columns]);
        }
        let mut x = target.clone();
        for row in x.chunks_exact_mut(columns) {
            for (column, x) in row.iter_mut().enumerate() {
                let hide = if column == 0 { self.hide_first } else { HIDDEN };
                if columns > 1 && random.unit() < hide {
                    *x = 0.0;
                }
            }
        }
        self.forward(&x);
        let n = target.len() as f32;
        let mut loss = 0.0;
        let last = self.layers.len() - 1;
        let mut dy: Vec<f32> = self.outputs[last]
            .iter()
            .zip(&target)
            .map(|(y, t)| {
                loss += f64::from(y - t) * f64::from(y - t);
                2.0 * (y - t) / n
            })
            .collect();
        for i in (0..=last).rev() {
            let input = if i == 0 { &x } else { &self.outputs[i - 1] };
            let mut dx = vec![0.0; if i == 0 { 0 } else { input.len() }];
            let into = if i == 0 { None } else { Some(&mut dx[..]) };
            let y = &self.outputs[i];
            self.layers[i].backward(&self.parameters, input, y, &mut dy, gradient, into);
            dy = dx;
        }
        loss / f64::from(n)
    }

    fn held_out(&mut self, progress: &mut dyn Progress) -> Result<f64> {
        let held = self.held;
        let mut sum = 0.0;
        for block in held.chunks(BLOCK * self.columns()) {
            progress.tick()?;
            self.forward(block);
            let y = &self.outputs[self.layers.len() - 1];
            sum +=
                y.iter().zip(block).map(|(y, x)| f64::from(y - x) * f64::from(y - x)).sum::<f64>();
        }
        Ok(if held.is_empty() { 0.0 } else { sum / held.len() as f64 })
    }

    fn work_per_row(&self) -> u64 {
        self.parameters.len() as u64
    }

    fn held_out_rows(&self) -> usize {
        self.held.len() / self.columns()
    }
}
