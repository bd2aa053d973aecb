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
//!   number of trees 65,536 rows at most), `variant` extended (standard, mixed, sciforest, density),
//!   `random_state` 42, `time_features` true, `contamination` (above 0, at most ½; not given).
//! * Cost: 24 rows through a hundred trees a point; a fit takes some 50 ms.

use serde_json::{Map, Value};

use super::learned::{self, LARGEST, Learned, Machine, Query, Settings, Table};
use super::shape::{OFFSETS, Shaped};
use super::{Context, EntityModel, Parameters, Strategy, check_keys, contamination};
use crate::codec::Reader;
use crate::forest::{CompactForest, Grown, MAX_COMPACT_ROWS, Options, STEPS, on_grid};
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
        if options.ensemble {
            return Err(Error::invalid(
                "option \"variant\" is \"auto\"",
                "Four forests are too large to be kept for each entity: variants are extended, \
                 standard, mixed, sciforest and density.",
            ));
        }
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

/// A forest and the range of the rows that it was grown from.
struct Fitted {
    forest: CompactForest,
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
fn line(grown: &Grown, table: &Table, ranges: &[(f32, f32)]) -> Line {
    let tried = tried(ranges);
    let (mut n, mut uu, mut ux) = (0.0, 0.0, 0.0);
    let mut line = Line::default();
    for i in (0..table.len()).step_by(table.len().div_ceil(LINE_ROWS)) {
        let x = f64::from(table.row(i)[0].clamp(-LARGEST, LARGEST));
        let usual = grown.first_beside_unseen(i, &mut inside(table.row(i), ranges), &tried)
            / f64::from(STEPS);
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
        let value = self.forest.value(&inside(row, &self.ranges));
        let u = (self.forest.score_of(value) - median) / unit + outside;
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
        // the two columns of a cycle count as one
        let mut groups: Vec<Vec<u16>> = (0..table.own).map(|c| vec![c as u16]).collect();
        groups.extend((table.own..table.width).step_by(2).map(|c| vec![c as u16, c as u16 + 1]));
        let mut options = options.clone();
        if table.width == 1 {
            // all directions are the same
            options.tries = 1;
        }
        let grown =
            CompactForest::grow(&rows, table.width, &groups, &options, &mut Unbounded).ok()?;
        let mut scores: Vec<f64> = rows
            .chunks_exact(table.width)
            .enumerate()
            .map(|(i, row)| grown.forest.score_of(grown.value_unseen(i, row)))
            .collect();
        scores.sort_unstable_by(f64::total_cmp);
        let (median, high) = (scores[scores.len() / 2], scores[scores.len() * 19 / 20]);
        let ranges = table.ranges();
        let line = if table.width > 1 { line(&grown, table, &ranges) } else { Line::default() };
        Some(Fitted {
            forest: grown.forest,
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
        let usual = self.forest.first_beside(&mut row, &tried(&self.ranges)) / f64::from(STEPS);
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
        map.insert("trees".into(), Value::from(self.forest.trees()));
        map.insert("rows_per_tree".into(), Value::from(self.forest.rows_per_tree()));
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.tied));
        out.extend_from_slice(&self.usual.0.to_le_bytes());
        out.extend_from_slice(&self.usual.1.to_le_bytes());
        for x in [self.line.usual, self.line.values, self.line.slope] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        learned::encode_ranges(&self.ranges, out);
        self.forest.encode(out);
    }

    fn decode(
        _options: &Options,
        (width, _): (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self> {
        let tied = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown mark")),
        };
        let usual = (reader.non_negative("usual score")?, reader.non_negative("usual score")?);
        if usual.0 > 1.0 || usual.1 < LEAST_UNIT {
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
        Ok(Fitted { forest: CompactForest::decode(width, reader)?, ranges, tied, usual, line })
    }
}
