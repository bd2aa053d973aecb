//! What is trained, stored and asked: one forest, or `auto`, four of different kinds together.
//!
//! No kind of forest wins on every table (bench/quality/RESULTS.md). `auto` takes the mean of
//! ln p of four, each calibrated by itself, with equal weights, and calibrates that mean by the rows
//! of the sample again: guided splits by one column and by two, random splits by two columns, scored
//! by depth and by density. None can dominate or silence the others by its scale.

use super::explain::Explanation;
use super::tree::Scoring;
use super::{DOF, IsolationForest, Options, Sample, Scored, Scratch, calibrate, threshold};
use crate::calibration::SideTail;
use crate::codec::{self, Reader};
use crate::distribution::MIN_LN_P;
use crate::progress::Progress;
use crate::{Error, Result};

/// Written into the envelope of several forests together.
pub const ENSEMBLE: u16 = 101;

/// The kinds of `auto`: share of guided splits, columns in a split, scoring.
pub(super) const KINDS: [(f64, usize, Scoring); 4] = [
    (1.0, 1, Scoring::Depth),
    (1.0, 2, Scoring::Depth),
    (0.0, 2, Scoring::Depth),
    (0.0, 2, Scoring::Density),
];

/// The options of each forest that options ask for: of the one, or of the kinds of `auto`.
pub(crate) fn each_kind(options: &Options) -> Vec<Options> {
    if !options.ensemble {
        return vec![options.clone()];
    }
    let of_kind = |(guided, dimensions, scoring)| Options {
        ensemble: false,
        guided,
        dimensions,
        scoring,
        ..options.clone()
    };
    KINDS.into_iter().map(of_kind).collect()
}

/// One forest, or several that judge together.
#[derive(Debug, Clone)]
pub enum Model {
    Forest(Box<IsolationForest>),
    Ensemble(Box<Ensemble>),
}

/// Forests over the same sample.
#[derive(Debug, Clone)]
pub struct Ensemble {
    members: Vec<IsolationForest>,
    /// The mean −ln p above which lies the promised share of the sample.
    threshold: f64,
    /// As in [`IsolationForest`], of the negative mean −ln p.
    usual: (f64, f64),
    tail: SideTail,
}

impl Ensemble {
    fn train(sample: &Sample, options: &Options, progress: &mut dyn Progress) -> Result<Ensemble> {
        let mut members: Vec<IsolationForest> = Vec::with_capacity(KINDS.len());
        let (mut inside, mut outside) = (vec![0.0; sample.rows()], vec![0.0; sample.rows()]);
        for mut options in each_kind(options) {
            if !members.is_empty() {
                // Rows to show and names are kept once.
                (options.kept_rows, options.features) = (0, Vec::new());
            }
            let grown = IsolationForest::grow(sample, &options, progress)?;
            for (sums, values) in
                [(&mut inside, &grown.in_sample), (&mut outside, &grown.out_of_sample)]
            {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += grown.forest.ln_p_of(*value) / KINDS.len() as f64;
                }
            }
            members.push(grown.forest);
        }
        let (usual, tail) = calibrate(&outside);
        inside.iter_mut().for_each(|ln_p| *ln_p = -*ln_p);
        let threshold = threshold(&inside, options.contamination);
        Ok(Ensemble { members, threshold, usual, tail })
    }

    /// Mean −ln p of the members, and ln p of the distance outside the range.
    fn value(&self, row: &[f64], scratch: &mut Scratch) -> (f64, f64) {
        // All members see rows alike: they have the same columns.
        let (missing, outside) = self.members[0].see(row, &mut scratch.z);
        let sum: f64 = self
            .members
            .iter()
            .map(|member| member.ln_p_of(member.value_of_seen(missing, scratch)))
            .sum();
        (-sum / self.members.len() as f64, outside)
    }

    fn judge(&self, row: &[f64], scratch: &mut Scratch) -> Result<Scored> {
        self.members[0].check(row)?;
        let (value, outside) = self.value(row, scratch);
        let (from, unit) = self.usual;
        let ln_p = self.tail.ln_p_of_residual(((from + value) / unit).max(0.0), DOF);
        let contamination = self.members[0].options.contamination;
        Ok(Scored {
            score: -libm::expm1(-value),
            ln_p: ln_p.min(outside).clamp(MIN_LN_P, 0.0),
            is_anomaly: value > self.threshold || outside < libm::log(contamination),
        })
    }

    fn explain(&self, row: &[f64], scratch: &mut Scratch) -> Result<Explanation> {
        let scored = self.judge(row, scratch)?;
        let (missing, _) = self.members[0].see(row, &mut scratch.z);
        let mut contributions = vec![0.0; self.members[0].features()];
        for member in &self.members {
            let ln_p = member.ln_p_of(member.value_of_seen(missing, scratch));
            let amount = -ln_p / self.members.len() as f64;
            member.add_path_shares(amount, scratch, &mut contributions);
        }
        Ok(self.members[0].explanation(row, scored, contributions))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let start = codec::open(&mut out, ENSEMBLE);
        for x in [self.threshold, self.usual.0, self.usual.1] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        self.tail.encode(&mut out);
        out.push(self.members.len() as u8);
        for member in &self.members {
            let bytes = member.encode()?;
            let length = u32::try_from(bytes.len())
                .map_err(|_| Error::TooLarge("a model exceeds 4 GiB".into()))?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        codec::seal(&mut out, start)?;
        Ok(out)
    }

    fn decode(payload: &[u8]) -> Result<Ensemble> {
        let mut reader = Reader::new(payload);
        let threshold = reader.non_negative("threshold")?;
        let usual = (reader.finite("usual value")?, reader.finite("unit")?);
        let tail = SideTail::decode(&mut reader)?;
        let count = reader.u8()?;
        if usual.1 < 1e-9 || count == 0 || usize::from(count) > KINDS.len() {
            return Err(reader.corrupted("ensemble out of range"));
        }
        let mut members: Vec<IsolationForest> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let length = reader.u32()? as usize;
            let member = IsolationForest::decode(reader.take(length)?)?;
            if members.first().is_some_and(|first| first.columns != member.columns) {
                return Err(reader.corrupted("forests over different columns"));
            }
            members.push(member);
        }
        reader.finish()?;
        Ok(Ensemble { members, threshold, usual, tail })
    }
}

impl Model {
    /// Trains what the options ask for. Errors as [`IsolationForest::train`].
    pub fn train(sample: &Sample, options: &Options, progress: &mut dyn Progress) -> Result<Model> {
        if options.ensemble {
            return Ok(Model::Ensemble(Box::new(Ensemble::train(sample, options, progress)?)));
        }
        Ok(Model::Forest(Box::new(IsolationForest::train(sample, options, progress)?)))
    }

    fn first(&self) -> &IsolationForest {
        match self {
            Model::Forest(forest) => forest,
            Model::Ensemble(ensemble) => &ensemble.members[0],
        }
    }

    pub fn features(&self) -> usize {
        self.first().features()
    }

    /// Rows that the sample was drawn from.
    pub fn rows_seen(&self) -> u64 {
        self.first().rows_seen()
    }

    /// Names of the features, in their order; empty where they have none.
    pub fn names(&self) -> &[String] {
        &self.options().features
    }

    /// What it was trained with.
    pub fn options(&self) -> &Options {
        self.first().options()
    }

    /// Positions of features that the sample says nothing about, from 0.
    pub fn uninformative(&self) -> Vec<usize> {
        self.first().uninformative()
    }

    /// Score, ln p and verdict of one row; NaN is a missing value. `Data` for a wrong number of
    /// features.
    pub fn judge(&self, row: &[f64], scratch: &mut Scratch) -> Result<Scored> {
        match self {
            Model::Forest(forest) => forest.judge(row, scratch),
            Model::Ensemble(ensemble) => ensemble.judge(row, scratch),
        }
    }

    /// As [`Model::judge`], and why.
    pub fn explain(&self, row: &[f64], scratch: &mut Scratch) -> Result<Explanation> {
        match self {
            Model::Forest(forest) => forest.explain(row, scratch),
            Model::Ensemble(ensemble) => ensemble.explain(row, scratch),
        }
    }

    /// The model as bytes; `TooLarge` beyond 4 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        match self {
            Model::Forest(forest) => forest.encode(),
            Model::Ensemble(ensemble) => ensemble.encode(),
        }
    }

    /// Reads what [`Model::encode`] wrote; never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Model> {
        match codec::unwrap(bytes)? {
            (ENSEMBLE, payload) => Ok(Model::Ensemble(Box::new(Ensemble::decode(payload)?))),
            _ => Ok(Model::Forest(Box::new(IsolationForest::decode(bytes)?))),
        }
    }
}
