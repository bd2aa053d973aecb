//! `learning_isolation_forest`: how few random splits part a row from those before it.
//!
//! An isolation forest ([`crate::forest`]; Liu, Ting and Zhou 2008) over the value, further columns
//! and the calendar, grown anew as the history grows ([`super::learned`]). Trees cannot tell 200 from
//! 15,000 when the history ends at 150, so to the score is added how far the row lies outside the
//! range of the training rows. Scores are standardised by those of the training rows, each by the
//! trees that did not see it: what one forest says can be calibrated on what others said.
//! What is said of distance and of p: [`super::shape`].
//!
//! Splits are by two columns at random unless asked for otherwise: so the value is judged beside the
//! hour, which splits by one column at a time hardly do. A forest that is kept for each entity has to
//! be small: each tree takes 96 rows instead of 256 and is stored in some 350 bytes.
//!
//! * Good at: rows that are unlike all others, several columns, no tuning.
//! * Bad at: trends, gaps between two modes of the value (what lies beyond an unlikely value counts as
//!   at least as unlikely), small counts, combinations of columns each of which is usual.
//! * Parameters: `n_estimators` 100 (1 to 1000), `max_samples` auto (2 to 1024; together with the
//!   number of trees 65,536 rows at most), `variant` extended (standard, mixed, sciforest, density,
//!   auto),
//!   `random_state` 42, `time_features` true, `contamination` (above 0, at most ½; not given).
//! * Cost: 24 rows through a hundred trees a point; a fit takes some 50 ms.

use serde_json::{Map, Value};

use super::learned::{self, LARGEST, Learned, Machine, Query, Settings, Table};
use super::shape::{OFFSETS, Shaped};
use super::{Context, EntityModel, Parameters, Strategy, check_keys, contamination};
use crate::calibration::SideTail;
use crate::codec::Reader;
use crate::distribution::MIN_LN_P;
use crate::forest::{
    CompactForest, DOF, Grown, MAX_COMPACT_ROWS, Options, STEPS, calibrate, each_kind, on_grid,
};
use crate::progress::Unbounded;
use crate::{Error, Result};

const NAME: &str = "learning_isolation_forest";
/// Rows per tree unless asked for otherwise.
const ROWS_PER_TREE: usize = 96;
const VARIANT: &str = "extended";
/// Rows of all trees together at most: half a megabyte or so.
const MAX_ROWS: usize = 65_536;
/// Columns of a split that has more than one: two bytes each would make a state of megabytes.
const DIMENSIONS: usize = 2;
/// Values tried for what is usual.
const TRIED: usize = 17;
/// Training rows that the line from there to a forecast is fitted to, at most.
const LINE_ROWS: usize = 256;
const STEEPEST: f64 = 16.0;
/// Least unit of scores.
const LEAST_UNIT: f64 = 1e-3;

/// Isolation forest over the rows of an entity.
pub struct IsolationForest {
    settings: Settings<Fitted>,
    contamination: Option<f64>,
}

/// Trees of each of several kinds, at least: what fewer say of a row they had not seen varies so much that
/// nothing is unusual beside it.
const LEAST_TREES: usize = 20;

impl IsolationForest {
    /// Parameters `n_estimators`, `max_samples`, `variant`, `random_state`, `time_features`,
    /// `contamination`.
    pub fn new(params: &Parameters, context: &Context) -> Result<Self> {
        let of_forest = ["n_estimators", "max_samples", "variant", "random_state"];
        let keys = [&of_forest[..], &["time_features", "contamination"]].concat();
        check_keys(NAME, params, &keys)?;
        let given = params.iter().filter(|(key, _)| of_forest.contains(&key.as_str()));
        let mut given: Parameters = given.map(|(k, v)| (k.clone(), v.clone())).collect();
        given.entry("variant").or_insert_with(|| Value::from(VARIANT));
        let mut options = Options::from_json(&given)?;
        options.dimensions = options.dimensions.min(DIMENSIONS);
        let most = MAX_ROWS / options.trees;
        let rows = options.rows_per_tree.unwrap_or(ROWS_PER_TREE.min(most));
        if rows > most.min(MAX_COMPACT_ROWS) {
            return Err(Error::invalid(
                format!("option \"max_samples\" is {rows} with {} trees", options.trees),
                format!(
                    "It must be {MAX_COMPACT_ROWS} at most, and {MAX_ROWS} over all trees: a forest \
                     is kept for each entity."
                ),
            ));
        }
        options.rows_per_tree = Some(rows);
        let kinds = each_kind(&options).len();
        if kinds > 1 {
            options.trees = options.trees.div_ceil(kinds).max(LEAST_TREES);
        }
        Ok(IsolationForest {
            settings: Settings::new(options, params, context)?,
            contamination: contamination(params)?,
        })
    }
}

impl Strategy for IsolationForest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn short_name(&self) -> &'static str {
        "isolation_forest"
    }

    fn statistic_name(&self) -> &'static str {
        "deviation"
    }

    fn algorithm(&self) -> u16 {
        22
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

/// From where trees have their rows to a forecast, as it fits training rows by the trees that had not
/// seen them: leaves are wide, and what is usual in them varies less than values do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Line {
    /// Means of both.
    usual: f64,
    values: f64,
    slope: f64,
}

/// A forest beside others, with where unusual begins for it, the unit and the tail beyond.
struct Calibrated {
    forest: CompactForest,
    usual: (f64, f64),
    tail: SideTail,
}

impl Calibrated {
    /// Calibrated by the training rows, each by the trees that had not seen it.
    fn new(grown: &Grown, rows: &[i16], width: usize) -> Self {
        let rows = rows.chunks_exact(width).enumerate();
        let values: Vec<f64> = rows.map(|(i, row)| grown.value_unseen(i, row)).collect();
        let (usual, tail) = calibrate(&values);
        Calibrated { forest: grown.forest.clone(), usual, tail }
    }

    /// −ln p of a depth or density.
    fn evidence(&self, value: f64) -> f64 {
        let (from, unit) = self.usual;
        -self.tail.ln_p_of_residual(((from - value) / unit).max(0.0), DOF).clamp(MIN_LN_P, 0.0)
    }
}

/// The trees of a variant.
enum Trees {
    One(CompactForest),
    Several(Vec<Calibrated>),
}

impl Trees {
    fn new(grown: &[Grown], options: &Options, rows: &[i16], width: usize) -> Self {
        match grown {
            [one] if !options.ensemble => Trees::One(one.forest.clone()),
            several => Trees::Several(
                several.iter().map(|grown| Calibrated::new(grown, rows, width)).collect(),
            ),
        }
    }

    /// How unusual a row is, by what each forest makes of it: the score, or the mean of several −ln p.
    fn score_by(&self, value: impl Fn(usize, &CompactForest) -> f64) -> f64 {
        match self {
            Trees::One(forest) => forest.score_of(value(0, forest)),
            Trees::Several(kinds) => {
                let each = kinds.iter().enumerate();
                let sum: f64 = each.map(|(i, k)| k.evidence(value(i, &k.forest))).sum();
                sum / kinds.len() as f64
            }
        }
    }

    fn score(&self, row: &[i16]) -> f64 {
        self.score_by(|_, forest| forest.value(row))
    }

    fn forests(&self) -> Vec<&CompactForest> {
        match self {
            Trees::One(forest) => vec![forest],
            Trees::Several(kinds) => kinds.iter().map(|k| &k.forest).collect(),
        }
    }

    /// The mean over forests of which each has as many trees.
    fn first_beside(&self, row: &mut [i16], tried: &[i16]) -> f64 {
        match self {
            Trees::One(forest) => forest.first_beside(row, tried),
            Trees::Several(kinds) => {
                let sum: f64 = kinds.iter().map(|k| k.forest.first_beside(row, tried)).sum();
                sum / kinds.len() as f64
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Trees::One(forest) => forest.encode(out),
            Trees::Several(kinds) => {
                out.push(kinds.len() as u8);
                for kind in kinds {
                    out.extend_from_slice(&kind.usual.0.to_le_bytes());
                    out.extend_from_slice(&kind.usual.1.to_le_bytes());
                    kind.tail.encode(out);
                    kind.forest.encode(out);
                }
            }
        }
    }

    fn decode(options: &Options, width: usize, reader: &mut Reader<'_>) -> Result<Self> {
        if !options.ensemble {
            return Ok(Trees::One(CompactForest::decode(width, reader)?));
        }
        if usize::from(reader.u8()?) != each_kind(options).len() {
            return Err(reader.corrupted("another number of forests"));
        }
        let mut kinds = Vec::new();
        for _ in each_kind(options) {
            let usual = (reader.finite("usual value")?, reader.finite("unit")?);
            if usual.1 < 1e-9 {
                return Err(reader.corrupted("unit out of range"));
            }
            let tail = SideTail::decode(reader)?;
            kinds.push(Calibrated { forest: CompactForest::decode(width, reader)?, usual, tail });
        }
        Ok(Trees::Several(kinds))
    }
}

/// The trees and the range of the rows that they were grown from.
struct Fitted {
    trees: Trees,
    /// Of each column.
    ranges: Vec<(f32, f32)>,
    /// Rows take so few different values that ranks of the statistic mean nothing.
    tied: bool,
    /// Median of the scores of rows by trees that had not seen them, and how far the twentieth of
    /// them with the largest lies above it: forests differ, and are calibrated together.
    usual: (f64, f64),
    line: Line,
}

/// A row brought into the range, on the grid of the trees.
fn inside(row: &[f32], ranges: &[(f32, f32)]) -> Vec<i16> {
    row.iter().zip(ranges).map(|(x, (low, high))| on_grid(x.clamp(*low, *high))).collect()
}

/// Values over the usual range, on the grid of the trees.
fn tried(ranges: &[(f32, f32)]) -> [i16; TRIED] {
    let (low, high) = (ranges[0].0.max(-4.0), ranges[0].1.min(4.0));
    let step = (high - low) / (TRIED - 1) as f32;
    std::array::from_fn(|i| on_grid(low + step * i as f32))
}

/// The line of training rows' values on what is usual beside their other columns.
fn line(grown: &[Grown], table: &Table, ranges: &[(f32, f32)]) -> Line {
    let tried = tried(ranges);
    let (mut n, mut uu, mut ux) = (0.0, 0.0, 0.0);
    let mut line = Line::default();
    for i in (0..table.len()).step_by(table.len().div_ceil(LINE_ROWS)) {
        let x = f64::from(table.row(i)[0].clamp(-LARGEST, LARGEST));
        let mut row = inside(table.row(i), ranges);
        let usual: f64 = grown.iter().map(|g| g.first_beside_unseen(i, &mut row, &tried)).sum();
        let usual = usual / grown.len() as f64 / f64::from(STEPS);
        n += 1.0;
        let du = usual - line.usual;
        line.usual += du / n;
        line.values += (x - line.values) / n;
        uu += du * (usual - line.usual);
        ux += du * (x - line.values);
    }
    line.slope = if uu > 0.0 { (ux / uu).clamp(0.0, STEEPEST) } else { 0.0 };
    line
}

impl Fitted {
    fn statistic(&self, row: &[f32]) -> f64 {
        let (median, unit) = self.usual;
        let outside = row.iter().zip(&self.ranges).map(|(x, (low, high))| {
            let d = f64::from((low - x).max(x - high).max(0.0));
            d * d
        });
        let outside = outside.sum::<f64>().sqrt();
        let u = (self.trees.score(&inside(row, &self.ranges)) - median) / unit + outside;
        if u > 0.0 { 1.0 + u } else { libm::exp(u) }
    }
}

impl Machine for Fitted {
    type Options = Options;
    const STATISTIC: &'static str = "anomaly_score";
    const FIRST_FIT: u64 = 128;

    fn reach(_options: &Options) -> usize {
        0
    }

    fn fit(options: &Options, table: &Table, _before: Option<Self>) -> Option<Self> {
        let rows: Vec<i16> = table.rows.iter().map(|x| on_grid(*x)).collect();
        let mut options = options.clone();
        if table.width == 1 {
            // all directions are the same
            options.tries = 1;
        }
        let width = table.width;
        let mut grown = Vec::new();
        for options in each_kind(&options) {
            grown.push(
                CompactForest::grow(&rows, width, &table.groups, &options, &mut Unbounded).ok()?,
            );
        }
        let trees = Trees::new(&grown, &options, &rows, width);
        let mut scores: Vec<f64> = rows
            .chunks_exact(width)
            .enumerate()
            .map(|(i, row)| trees.score_by(|kind, _| grown[kind].value_unseen(i, row)))
            .collect();
        scores.sort_unstable_by(f64::total_cmp);
        let (median, high) = (scores[scores.len() / 2], scores[scores.len() * 19 / 20]);
        let ranges = table.ranges();
        let line = if width > 1 { line(&grown, table, &ranges) } else { Line::default() };
        Some(Fitted {
            trees,
            ranges,
            tied: table.is_tied(),
            usual: (median, (high - median).max(LEAST_UNIT)),
            line,
        })
    }

    fn forecast(&self, query: &Query<'_>) -> Option<f32> {
        if query.width == 1 {
            return None;
        }
        let mut row = inside(query.last(), &self.ranges);
        let usual = self.trees.first_beside(&mut row, &tried(&self.ranges)) / f64::from(STEPS);
        let line = &self.line;
        let (low, high) = self.ranges[0];
        Some(((line.values + line.slope * (usual - line.usual)) as f32).clamp(low, high))
    }

    fn statistics(
        &self,
        query: &Query<'_>,
        values: [f64; OFFSETS.len()],
    ) -> Option<[f64; OFFSETS.len()]> {
        if self.tied {
            return None;
        }
        let mut row = query.last().to_vec();
        Some(values.map(|value| {
            row[0] = value as f32;
            self.statistic(&row)
        }))
    }

    fn explain(&self, map: &mut Map<String, Value>) {
        let forests = self.trees.forests();
        let trees: usize = forests.iter().map(|f| f.trees()).sum();
        map.insert("trees".into(), Value::from(trees));
        if forests.len() > 1 {
            map.insert("forests".into(), Value::from(forests.len()));
        }
        map.insert("rows_per_tree".into(), Value::from(forests[0].rows_per_tree()));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.tied));
        out.extend_from_slice(&self.usual.0.to_le_bytes());
        out.extend_from_slice(&self.usual.1.to_le_bytes());
        for x in [self.line.usual, self.line.values, self.line.slope] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        learned::encode_ranges(&self.ranges, out);
        self.trees.encode(out);
    }

    fn decode(
        options: &Options,
        (width, _): (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self> {
        let tied = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown mark")),
        };
        let usual = (reader.non_negative("usual score")?, reader.non_negative("usual score")?);
        let most = if options.ensemble { -MIN_LN_P } else { 1.0 };
        if usual.0 > most || usual.1 < LEAST_UNIT {
            return Err(reader.corrupted("usual scores are none"));
        }
        let line = Line {
            usual: reader.finite("mean of rows")?,
            values: reader.finite("mean of values")?,
            slope: reader.non_negative("slope of forecasts")?,
        };
        let largest = line.usual.abs().max(line.values.abs());
        if largest > f64::from(LARGEST) || line.slope > STEEPEST {
            return Err(reader.corrupted("forecasts out of range"));
        }
        let ranges = learned::decode_ranges(width, reader)?;
        Ok(Fitted { trees: Trees::decode(options, width, reader)?, ranges, tied, usual, line })
    }
}
