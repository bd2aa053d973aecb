//! What can be asked of a forest.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::model::KINDS;
use super::sampler::{DEFAULT_ROWS, MAX_ROWS};
use super::tree::{Node, Scoring, Term};
use crate::{Error, Result};

/// Columns in a direction.
pub(super) const MAX_DIMENSIONS: usize = 64;
pub(super) const MAX_TREES: usize = 1000;
pub(super) const MAX_DEPTH: usize = 64;
pub(super) const MAX_ROWS_PER_TREE: usize = 4096;
pub(super) const MAX_TRIES: usize = 64;
pub(super) const MAX_KEPT: usize = 1000;
/// Bytes of the name of a feature.
pub(super) const MAX_NAME: usize = 255;
/// Rows of a tree unless asked for otherwise: more swamp the anomalies (Liu et al. 2008, §4.2).
const ROWS_PER_TREE: usize = 256;
const KEYS: [&str; 14] = [
    "variant",
    "n_estimators",
    "max_samples",
    "max_depth",
    "contamination",
    "random_state",
    "guided",
    "ndim",
    "ntry",
    "scoring",
    "features",
    "categorical",
    "sample_size",
    "keep_rows",
];

/// Checked options of a forest; see [`Options::from_json`].
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Several forests of different kinds instead of one: [`super::Model`].
    pub ensemble: bool,
    pub trees: usize,
    /// `None`: 256, or all rows when there are fewer.
    pub rows_per_tree: Option<usize>,
    /// `None`: 8, and up to 16 the more of the splits are guided: those part few rows at a time. At
    /// least log2 of the rows per tree.
    pub max_depth: Option<usize>,
    /// Share of the rows above the threshold, in (0, 0.5].
    pub contamination: f64,
    pub seed: u64,
    /// Share of the splits that are guided: the best of several cuts instead of a random one.
    pub guided: f64,
    pub scoring: Scoring,
    /// Columns in a direction.
    pub dimensions: usize,
    /// Directions that are compared for a guided split.
    pub tries: usize,
    /// Names of the features in the order of the arrays, all different; empty where they have none.
    pub features: Vec<String>,
    /// Positions of categorical features, from 0, ascending.
    pub categorical: Vec<usize>,
    /// Rows that the one-pass sample keeps.
    pub sample_rows: usize,
    /// Normal rows kept in the model, to be shown beside an unusual one.
    pub kept_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ensemble: false,
            trees: 100,
            rows_per_tree: None,
            max_depth: None,
            contamination: 0.05,
            seed: 42,
            guided: 0.5,
            scoring: Scoring::Depth,
            dimensions: 1,
            tries: 10,
            features: Vec::new(),
            categorical: Vec::new(),
            sample_rows: DEFAULT_ROWS,
            kept_rows: 32,
        }
    }
}

fn invalid(key: &str, value: &Value, must: impl Into<String>) -> Error {
    Error::invalid(format!("option \"{key}\" is {value}"), must)
}

fn integer(
    map: &Map<String, Value>,
    key: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>> {
    let Some(value) = map.get(key) else { return Ok(None) };
    let number = value.as_u64().and_then(|v| usize::try_from(v).ok());
    match number.filter(|v| range.contains(v)) {
        Some(v) => Ok(Some(v)),
        None => Err(invalid(
            key,
            value,
            format!("It must be a whole number from {} to {}.", range.start(), range.end()),
        )),
    }
}

/// As [`integer`]; `None` for "auto" too.
fn integer_or_auto(
    map: &Map<String, Value>,
    key: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>> {
    if map.get(key).is_some_and(|v| v == "auto") {
        return Ok(None);
    }
    integer(map, key, range)
}

/// `InvalidParameter` for an empty name, one that is too long or one that is there twice.
fn check_names(names: &[String]) -> Result<()> {
    let must = || format!("Features have different names of 1 to {MAX_NAME} bytes.");
    if let Some(name) = names.iter().find(|name| !(1..=MAX_NAME).contains(&name.len())) {
        return Err(Error::invalid(format!("name of a feature of {} bytes", name.len()), must()));
    }
    match twice(names) {
        Some(name) => Err(Error::invalid(format!("feature \"{name}\" is named twice"), must())),
        None => Ok(()),
    }
}

/// A name that is there before.
pub(super) fn twice(names: &[String]) -> Option<&str> {
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(name.as_str())).map(String::as_str)
}

impl Options {
    /// From a JSON object; what is left out has its default:
    ///
    /// | key | default | |
    /// |---|---|---|
    /// | `variant` | `"mixed"` | or `"standard"`, `"extended"`, `"sciforest"`, `"density"`: sets `guided`, `ndim` and `scoring`; `"auto"`: four kinds together |
    /// | `n_estimators` | 100 | trees, 1 to 1000 |
    /// | `max_samples` | `"auto"` | rows per tree, 2 to 4096 |
    /// | `max_depth` | `"auto"` | 1 to 64 |
    /// | `contamination` | 0.05 | share of the rows above the threshold, above 0 and at most 0.5 |
    /// | `random_state` | 42 | seed |
    /// | `guided` | 0.5 | share of the splits that are guided, 0 to 1 |
    /// | `ndim` | 1 | columns in a split, 1 to 64 |
    /// | `ntry` | 10 | directions compared for a guided split, 1 to 64 |
    /// | `scoring` | `"depth"` | or `"density"` |
    /// | `features` | `[]` | names of the features, in the order of the arrays |
    /// | `categorical` | `[]` | features that are codes of categories: their names, or their positions from 1 |
    /// | `sample_size` | 8000 | rows that are kept to train from |
    /// | `keep_rows` | 32 | normal rows kept in the model, to be shown beside an unusual one |
    ///
    /// `InvalidParameter` for an unknown key or a value out of range.
    pub fn from_json(map: &Map<String, Value>) -> Result<Options> {
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(Error::invalid(
                format!("unknown option \"{key}\" of isolation_forest"),
                format!("Options are {}.", KEYS.join(", ")),
            ));
        }
        let ensemble = map.get("variant").is_some_and(|v| v == "auto");
        let mut options = Options { ensemble, ..Options::default() };
        if let Some(value) = map.get("variant").filter(|_| !ensemble) {
            (options.guided, options.dimensions, options.scoring) = match value.as_str() {
                Some("mixed") => (0.5, 1, Scoring::Depth),
                Some("standard") => (0.0, 1, Scoring::Depth),
                Some("extended") => (0.0, MAX_DIMENSIONS, Scoring::Depth),
                Some("sciforest") => (1.0, 2, Scoring::Depth),
                Some("density") => (0.0, 1, Scoring::Density),
                _ => {
                    let must =
                        "Variants are mixed, standard, extended, sciforest, density and auto.";
                    return Err(invalid("variant", value, must));
                }
            };
        }
        if let Some(trees) = integer(map, "n_estimators", 1..=MAX_TREES)? {
            options.trees = trees;
        }
        options.rows_per_tree = integer_or_auto(map, "max_samples", 2..=MAX_ROWS_PER_TREE)?;
        options.max_depth = integer_or_auto(map, "max_depth", 1..=MAX_DEPTH)?;
        if let Some(value) = map.get("contamination") {
            options.contamination =
                value.as_f64().filter(|c| *c > 0.0 && *c <= 0.5).ok_or_else(|| {
                    invalid("contamination", value, "It must be above 0 and at most 0.5.")
                })?;
        }
        if let Some(value) = map.get("random_state") {
            options.seed = value
                .as_u64()
                .ok_or_else(|| invalid("random_state", value, "It must be a whole number ≥ 0."))?;
        }
        if let Some(value) = map.get("guided") {
            options.guided = value
                .as_f64()
                .filter(|share| (0.0..=1.0).contains(share))
                .ok_or_else(|| invalid("guided", value, "It must be a number from 0 to 1."))?;
        }
        if let Some(value) = map.get("scoring") {
            options.scoring = match value.as_str() {
                Some("depth") => Scoring::Depth,
                Some("density") => Scoring::Density,
                _ => return Err(invalid("scoring", value, "It must be depth or density.")),
            };
        }
        if let Some(dimensions) = integer(map, "ndim", 1..=MAX_DIMENSIONS)? {
            options.dimensions = dimensions;
        }
        if let Some(tries) = integer(map, "ntry", 1..=MAX_TRIES)? {
            options.tries = tries;
        }
        if let Some(value) = map.get("features") {
            let names = value.as_array().and_then(|list| {
                list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<_>>()
            });
            options.features =
                names.ok_or_else(|| invalid("features", value, "It must be an array of names."))?;
            check_names(&options.features)?;
        }
        if let Some(value) = map.get("categorical") {
            let position = |v: &Value| match v.as_str() {
                Some(name) => options.features.iter().position(|f| f == name),
                None => v.as_u64().filter(|p| (1..=1 << 20).contains(p)).map(|p| p as usize - 1),
            };
            let positions = value
                .as_array()
                .and_then(|list| list.iter().map(position).collect::<Option<Vec<usize>>>());
            options.categorical = positions.ok_or_else(|| {
                let must = "It must be an array of names in \"features\", or of positions of \
                            features, the first being 1.";
                invalid("categorical", value, must)
            })?;
            options.categorical.sort_unstable();
            options.categorical.dedup();
        }
        if let Some(rows) = integer(map, "sample_size", 2..=MAX_ROWS)? {
            options.sample_rows = rows;
        }
        if let Some(rows) = integer(map, "keep_rows", 0..=MAX_KEPT)? {
            options.kept_rows = rows;
        }
        Ok(options)
    }

    /// Whether the options are in range and make sense for rows of so many features.
    pub fn check(&self, features: usize) -> Result<()> {
        let rows = self.rows_per_tree.unwrap_or(ROWS_PER_TREE);
        for (what, value, most) in [
            ("n_estimators", self.trees, MAX_TREES),
            ("max_samples", rows.saturating_sub(1), MAX_ROWS_PER_TREE - 1),
            ("max_depth", self.max_depth.unwrap_or(1), MAX_DEPTH),
            ("ndim", self.dimensions, MAX_DIMENSIONS),
            ("ntry", self.tries, MAX_TRIES),
            ("sample_size", self.sample_rows.saturating_sub(1), MAX_ROWS - 1),
            ("keep_rows", self.kept_rows + 1, MAX_KEPT + 1),
        ] {
            if value == 0 || value > most {
                return Err(Error::invalid(
                    format!("option \"{what}\" is out of range"),
                    "Options::from_json lists the ranges.",
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.guided) {
            return Err(Error::invalid(
                format!("option \"guided\" is {}", self.guided),
                "It must be a number from 0 to 1.",
            ));
        }
        if !(self.contamination > 0.0 && self.contamination <= 0.5) {
            return Err(Error::invalid(
                format!("option \"contamination\" is {}", self.contamination),
                "It must be above 0 and at most 0.5.",
            ));
        }
        check_names(&self.features)?;
        if !self.features.is_empty() && self.features.len() != features {
            return Err(Error::invalid(
                format!("{} names of features, rows have {features}", self.features.len()),
                "Give \"features\" one name for each element of the arrays.",
            ));
        }
        match self.categorical.last() {
            Some(last) if *last >= features => Err(Error::invalid(
                format!("feature {} is to be categorical, rows have {features}", last + 1),
                "Positions in \"categorical\" begin with 1.",
            )),
            _ => Ok(()),
        }
    }

    /// Bytes that the trees of a model can take at most, stored or in memory.
    pub fn most_bytes(&self) -> u64 {
        let rows = self.rows_per_tree.unwrap_or(ROWS_PER_TREE);
        let (forests, dimensions, depth) = match self.ensemble {
            true => (KINDS.len(), 2, 16),
            false => (1, self.dimensions, self.depth(rows)),
        };
        let by_depth = 1u64 << self.max_depth.unwrap_or(depth).min(32);
        let leaves = by_depth.min(rows as u64);
        let terms = leaves * (dimensions - 1) as u64 * size_of::<Term>() as u64;
        forests as u64 * self.trees as u64 * (2 * leaves * size_of::<Node>() as u64 + terms)
    }

    pub(super) fn rows_per_tree(&self, n: usize) -> usize {
        self.rows_per_tree.unwrap_or(ROWS_PER_TREE).min(n)
    }

    pub(super) fn depth(&self, rows: usize) -> usize {
        let random = rows.next_power_of_two().ilog2().max(1) as usize;
        self.max_depth.unwrap_or(random.max((8.0 + 8.0 * self.guided) as usize))
    }
}
