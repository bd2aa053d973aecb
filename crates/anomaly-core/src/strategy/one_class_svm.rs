//! `learning_one_class_svm`: distance outside the support of the training rows.
//!
//! A one-class support vector machine ([`crate::one_class_svm`]; Schölkopf et al. 2001) over the value,
//! further columns and the calendar, fitted anew as the history grows ([`super::learned`]). Its
//! decision function says nothing about distance (an RBF kernel cannot tell 200 from 15,000), so to the
//! score ([`Svm::score`], 1 on the border of the support) is added how far the row lies outside
//! the range of the training rows, and the sum is standardised by the scores of rows left out in a
//! cross-validation, so that what one fit says can be calibrated on what others said.
//! What is said of distance and of p: [`super::shape`].
//!
//! * Good at: values that are usual at another time or with other columns.
//! * Bad at: trends, gaps between two modes of the value (what lies beyond an unlikely value counts as
//!   at least as unlikely), many columns.
//! * Parameters: `kernel` rbf (linear, poly), `nu` 0.05 (above 0, at most 1), `gamma` scale (auto or a
//!   number above 0), `time_features` true, `contamination` (above 0, at most ½; not given).
//! * Cost: one kernel for each support vector, of which there are some `nu`·1024, and each of some 25
//!   values tried; a fit takes some 50 ms.

use serde_json::{Map, Value};

use super::learned::{self, LARGEST, Learned, Machine, Query, Settings, Table};
use super::shape::{OFFSETS, Shaped};
use super::{Context, EntityModel, Parameters, Strategy, check_keys, contamination, number_param};
use crate::codec::Reader;
use crate::neural::Budget;
use crate::one_class_svm::{Gamma, Kernel, OneClassSvm as Svm, OneClassSvmOptions};
use crate::progress::Unbounded;
use crate::{Error, Result};

const NAME: &str = "learning_one_class_svm";
/// Numbers in the support vectors at most; of longer rows fewer are used.
const MAX_NUMBERS: usize = 6144;
/// Multiplications for one fit.
const WORK: u64 = 200_000_000;
/// Of a cross-validation.
const FOLDS: usize = 4;
/// Values tried for a forecast.
const TRIED: usize = 17;

/// One-class support vector machine.
pub struct OneClassSvm {
    settings: Settings<Fitted>,
    contamination: Option<f64>,
}

impl OneClassSvm {
    /// Parameters `kernel`, `nu`, `gamma`, `time_features`, `contamination`.
    pub fn new(params: &Parameters, context: &Context) -> Result<Self> {
        check_keys(NAME, params, &["kernel", "nu", "gamma", "time_features", "contamination"])?;
        let mut options = OneClassSvmOptions::default();
        if let Some(kernel) = params.get("kernel") {
            options.kernel = kernel.as_str().unwrap_or_default().parse::<Kernel>()?;
        }
        if let Some(nu) = number_param(params, "nu", 0.0..=1.0)? {
            options.nu = nu;
        }
        options.gamma = match params.get("gamma") {
            None => Gamma::Scale,
            Some(Value::String(s)) if s == "scale" => Gamma::Scale,
            Some(Value::String(s)) if s == "auto" => Gamma::Auto,
            Some(other) => match other.as_f64() {
                Some(gamma) => Gamma::Value(gamma),
                None => {
                    return Err(Error::invalid(
                        format!("parameter \"gamma\" is {other}"),
                        "gamma must be \"scale\", \"auto\" or a number above 0.",
                    ));
                }
            },
        };
        options.check()?;
        Ok(OneClassSvm {
            settings: Settings::new(options, params, context)?,
            contamination: contamination(params)?,
        })
    }
}

impl Strategy for OneClassSvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "one_class_svm"
    }

    fn statistic_name(&self) -> &'static str {
        "deviation"
    }

    fn algorithm(&self) -> u16 {
        23
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

/// A machine and the range of the rows that it was fitted to.
struct Fitted {
    svm: Svm,
    /// Of each column.
    ranges: Vec<(f32, f32)>,
    /// Rows take so few different values that ranks of the statistic mean nothing.
    tied: bool,
    /// Median of the scores of rows that a machine had not been fitted to, and how far the twentieth
    /// of them with the largest lies above it: machines differ, and are calibrated together.
    usual: (f64, f64),
}

impl Fitted {
    fn statistic(&self, row: &[f64]) -> f64 {
        let (median, reach) = self.usual;
        let outside = row.iter().zip(&self.ranges).map(|(x, (low, high))| {
            let d = (f64::from(*low) - x).max(x - f64::from(*high)).max(0.0);
            d * d
        });
        let score = self.svm.score(row) + outside.sum::<f64>().sqrt();
        let u = (score - median) / reach;
        if u > 0.0 { 1.0 + u } else { libm::exp(u) }
    }
}

/// Scores of all rows, each by a machine that was fitted to three quarters of the rows without it.
fn scores_of_unseen(
    rows: &[f64],
    width: usize,
    options: &OneClassSvmOptions,
    budget: &mut Budget<'_>,
) -> Option<Vec<f64>> {
    let mut scores = Vec::new();
    for fold in 0..FOLDS {
        let (mut seen, mut unseen) = (Vec::new(), Vec::new());
        for (i, row) in rows.chunks_exact(width).enumerate() {
            let into = if i % FOLDS == fold { &mut unseen } else { &mut seen };
            into.extend_from_slice(row);
        }
        let svm = Svm::fit(&seen, width, options, budget).ok()?;
        scores.extend(unseen.chunks_exact(width).map(|row| svm.score(row)));
    }
    Some(scores)
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x)).collect()
}

impl Machine for Fitted {
    type Options = OneClassSvmOptions;
    const STATISTIC: &'static str = "anomaly_score";
    const FIRST_FIT: u64 = 128;

    fn reach(_options: &OneClassSvmOptions) -> usize {
        0
    }

    fn fit(options: &OneClassSvmOptions, table: &Table, _before: Option<Self>) -> Option<Self> {
        // the latest rows, as many as can be stored should all of them be support vectors
        let most = MAX_NUMBERS / (table.width + 1);
        let first = table.len().saturating_sub(most);
        let rows: Vec<f64> = table.rows[first * table.width..]
            .iter()
            .map(|x| f64::from(x.clamp(-LARGEST, LARGEST)))
            .collect();
        let mut unbounded = Unbounded;
        let mut budget = Budget { work: WORK, ..Budget::unbounded(&mut unbounded) };
        let svm = Svm::fit(&rows, table.width, options, &mut budget).ok()?;
        let mut scores = scores_of_unseen(&rows, table.width, options, &mut budget)?;
        scores.sort_unstable_by(f64::total_cmp);
        let (median, high) = (scores[scores.len() / 2], scores[scores.len() * 19 / 20]);
        let usual = (median, (high - median).max(1e-3));
        let (ranges, tied) = (table.ranges(), table.is_tied());
        Some(Fitted { svm, ranges, tied, usual })
    }

    /// The value that lies deepest in the support, other columns being as they are.
    fn forecast(&self, query: &Query<'_>) -> Option<f32> {
        if query.width == 1 {
            return None;
        }
        let mut row = wide(query.last());
        let (low, high) = self.ranges[0];
        let (low, high) = (f64::from(low.max(-4.0)), f64::from(high.min(4.0)));
        let step = (high - low) / (TRIED - 1) as f64;
        let mut at = |i: usize| {
            row[0] = low + step * i as f64;
            self.svm.score(&row)
        };
        let scores: Vec<f64> = (0..TRIED).map(&mut at).collect();
        let best = (0..TRIED).min_by(|a, b| scores[*a].total_cmp(&scores[*b]))?;
        // the vertex of a parabola through the best and its neighbours
        let mut between = 0.0;
        if best > 0 && best + 1 < TRIED {
            let (a, b, c) = (scores[best - 1], scores[best], scores[best + 1]);
            let bend = a - 2.0 * b + c;
            if bend > 0.0 {
                between = (0.5 * (a - c) / bend).clamp(-0.5, 0.5);
            }
        }
        Some((low + step * (best as f64 + between)) as f32)
    }

    fn statistics(
        &self,
        query: &Query<'_>,
        values: [f64; OFFSETS.len()],
    ) -> Option<[f64; OFFSETS.len()]> {
        if self.tied {
            return None;
        }
        let mut row = wide(query.last());
        Some(values.map(|value| {
            row[0] = value;
            self.statistic(&row)
        }))
    }

    fn explain(&self, map: &mut Map<String, Value>) {
        map.insert("support_vectors".into(), Value::from(self.svm.terms()));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.tied));
        out.extend_from_slice(&self.usual.0.to_le_bytes());
        out.extend_from_slice(&self.usual.1.to_le_bytes());
        learned::encode_ranges(&self.ranges, out);
        self.svm.encode(out);
    }

    fn decode(
        _options: &OneClassSvmOptions,
        (width, _): (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self> {
        let tied = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown mark")),
        };
        let usual = (reader.non_negative("usual score")?, reader.non_negative("usual score")?);
        if usual.1 < 1e-3 {
            return Err(reader.corrupted("usual scores are all alike"));
        }
        let ranges = learned::decode_ranges(width, reader)?;
        let svm = Svm::decode(reader)?;
        if svm.width() != width {
            return Err(reader.corrupted("support vectors of another width"));
        }
        Ok(Fitted { svm, ranges, tied, usual })
    }
}
