//! Training: batches in random order, Adam, and a tail of the rows held out, on which training ends
//! when it does not get better any more (Prechelt, "Early stopping – but when?", 1998). The best
//! parameters on the held-out rows are what remains.

use super::{Adam, Random};
use crate::progress::Progress;
use crate::{Error, Result};

/// What training may use.
pub struct Budget<'a> {
    /// Asked before every batch; its error ends the training and leaves the network as it was.
    pub progress: &'a mut dyn Progress,
    /// Seconds since the host allowed the work; the core has no clock.
    pub elapsed: Option<&'a dyn Fn() -> f64>,
    /// Training ends with the best so far when `elapsed` says more than so many seconds.
    pub seconds: f64,
    /// Multiplications after which training ends with the best so far, the same on every machine.
    pub work: u64,
    /// Bytes it may take beside the rows; more is an error before anything is done.
    pub bytes: usize,
}

impl<'a> Budget<'a> {
    /// Of everything as much as is needed.
    pub fn unbounded(progress: &'a mut dyn Progress) -> Self {
        Budget {
            progress,
            elapsed: None,
            seconds: f64::INFINITY,
            work: u64::MAX,
            bytes: usize::MAX,
        }
    }

    /// `TooLarge` when so many bytes are more than allowed.
    pub fn check_bytes(&self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        Err(Error::TooLarge(format!(
            "training needs {bytes} bytes, more than the {} that are allowed",
            self.bytes
        )))
    }

    pub(crate) fn is_late(&self) -> bool {
        self.elapsed.is_some_and(|elapsed| elapsed() >= self.seconds)
    }
}

/// A network and the rows it is trained on.
pub trait Network {
    fn parameters(&mut self) -> &mut Vec<f32>;
    /// Rows to train on.
    fn rows(&self) -> usize;
    /// Adds the gradient of the mean squared error over the picked rows and returns that error.
    fn gradient(&mut self, picked: &[u32], random: &mut Random, gradient: &mut [f32]) -> f64;
    /// Mean squared error on the held-out rows, without dropout; asks `progress` as often as a batch
    /// takes. 0 when nothing is held out.
    fn held_out(&mut self, progress: &mut dyn Progress) -> Result<f64>;
    /// Multiplications for one row, forwards only.
    fn work_per_row(&self) -> u64;
    /// Held-out rows.
    fn held_out_rows(&self) -> usize;
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    pub epochs: u32,
    pub batch: usize,
    pub learning_rate: f64,
    /// Epochs without improvement on the held-out rows after which training ends.
    pub patience: u32,
    pub seed: u64,
}

/// Why training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All epochs were made.
    Epochs,
    /// The held-out error did not get smaller any more.
    EarlyStopping,
    /// The time or the work allowed was used up.
    Budget,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    pub ended: Ended,
    /// Whole epochs made.
    pub epochs: u32,
    /// Mean squared error on the held-out rows before and after.
    pub error_before: f64,
    pub error: f64,
}

/// An improvement is one by this share: less is noise, and would go on for ever.
const IMPROVEMENT: f64 = 1e-3;
/// Gradients longer than this are shortened (Pascanu, Mikolov & Bengio 2013).
const MAX_GRADIENT: f64 = 1.0;

/// Trains a network in place. `Stopped` leaves it as it was.
pub fn fit(
    network: &mut dyn Network,
    options: &FitOptions,
    budget: &mut Budget<'_>,
) -> Result<Report> {
    let parameters = network.parameters().len();
    budget.check_bytes(5 * size_of::<f32>() * parameters)?;
    let original = network.parameters().clone();
    let result = epochs(network, options, budget);
    if result.is_err() {
        *network.parameters() = original;
    }
    result
}

fn epochs(
    network: &mut dyn Network,
    options: &FitOptions,
    budget: &mut Budget<'_>,
) -> Result<Report> {
    let parameters = network.parameters().len();
    let mut adam = Adam::new(parameters, options.learning_rate);
    let mut gradient = vec![0.0f32; parameters];
    let mut best = network.parameters().clone();
    let mut order: Vec<u32> = (0..network.rows() as u32).collect();
    let error_before = network.held_out(budget.progress)?;
    let mut report = Report { ended: Ended::Epochs, epochs: 0, error_before, error: error_before };
    let mut random = Random::new(options.seed, 1);
    let mut work = 0u64;
    let mut worse = 0;
    let row = network.work_per_row();
    'training: for epoch in 0..options.epochs {
        random.shuffle(&mut order);
        for picked in order.chunks(options.batch.max(1)) {
            budget.progress.tick()?;
            // backwards takes twice what forwards does
            work = work.saturating_add(3 * row * picked.len() as u64);
            if work > budget.work || budget.is_late() {
                report.ended = Ended::Budget;
                break 'training;
            }
            gradient.fill(0.0);
            network.gradient(picked, &mut random, &mut gradient);
            let length = gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
            if !length.is_finite() {
                continue;
            }
            if length > MAX_GRADIENT {
                let factor = (MAX_GRADIENT / length) as f32;
                gradient.iter_mut().for_each(|g| *g *= factor);
            }
            adam.step(network.parameters(), &gradient);
        }
        work = work.saturating_add(row * network.held_out_rows() as u64);
        let error = network.held_out(budget.progress)?;
        report.epochs = epoch + 1;
        if error < report.error {
            worse = if error < report.error * (1.0 - IMPROVEMENT) { 0 } else { worse + 1 };
            report.error = error;
            best.copy_from_slice(network.parameters());
        } else {
            worse += 1;
        }
        if worse >= options.patience {
            report.ended = Ended::EarlyStopping;
            break;
        }
    }
    if network.held_out_rows() > 0 {
        network.parameters().copy_from_slice(&best);
    }
    Ok(report)
}
