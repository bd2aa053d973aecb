//! What the strategies share that are trained on the history of an entity at once and again later:
//! isolation_forest, one_class_svm, autoencoder, lstm.
//!
//! A [`Learned`] keeps the latest rows (time, value, further columns) and refits its [`Machine`] when
//! their number has doubled and, from a full history on, whenever it has been renewed: a function
//! of counts alone, so that a state does not depend on how its points were divided into calls. Each
//! fit has a budget of multiplications, some tenths of a second on an idle processor, and can be
//! interrupted only by unwinding ([`crate::progress::interrupt_by`]). Judging and learning between fits only use what was fitted: residuals and statistics
//! are of points that the machine has not seen.
//!
//! Columns of a row: the value, the further columns of the point, and the phases of day, week, month
//! and year as a point on a circle (hour 23 is next to hour 0) as far as `time_features` says and the
//! history covers the cycle at least twice: a phase never seen would make everything unusual. A
//! missing or superfluous further column counts as its median. A category becomes several columns
//! ([`crate::category`]). Rows are standardised by median and
//! median absolute deviation; in training they count as at most 8 of these out.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, ROUNDING};
use super::shape::{Clock, History, OFFSETS, Position, Shape, Trust, rescale_due, robust_scale};
use super::{Context, Kind, Parameters, contributions, json_number};
use crate::calendar::Calendar;
use crate::category::{self, Levels};
use crate::codec::Reader;
use crate::normal_range::without_extremes;
use crate::point::{Point, Question};
use crate::verdict::Verdict;
use crate::{Error, Result};

/// Further columns that are looked at; those beyond are not. With so many 170 rows are kept, some ten
/// for each column: with fewer nothing can be told about combinations.
pub const MAX_FEATURES: usize = 16;
/// Rows that are kept, fewer the more columns there are: some 24 kB.
const KEEP: usize = 1024;
const KEPT_NUMBERS: usize = 3 * KEEP;
/// Columns of a table at most, without the calendar's.
const MAX_COLUMNS: usize = 48;
/// Standardised figures lie within ± this: enough to be far out.
const FARTHEST: f32 = 1e6;
/// Longest reach back of any machine.
pub(super) const MAX_REACH: usize = 128;
const DAY: f64 = 86_400.0;

/// A cycle of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cycle {
    Hour,
    Weekday,
    Day,
    Month,
}

impl Cycle {
    const ALL: [Cycle; 4] = [Cycle::Hour, Cycle::Weekday, Cycle::Day, Cycle::Month];

    fn name(self) -> &'static str {
        match self {
            Cycle::Hour => "hour",
            Cycle::Weekday => "weekday",
            Cycle::Day => "day",
            Cycle::Month => "month",
        }
    }

    /// Length in seconds.
    fn length(self) -> f64 {
        match self {
            Cycle::Hour => DAY,
            Cycle::Weekday => 7.0 * DAY,
            Cycle::Day => 31.0 * DAY,
            Cycle::Month => 366.0 * DAY,
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which cycles there may be columns for, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeFeatures(u8);

impl TimeFeatures {
    /// `true`, `false` or a list of names; all of them by default.
    pub fn from_params(params: &Parameters) -> Result<Self> {
        let bad = |what: &Value| {
            Error::invalid(
                format!("parameter \"time_features\" is {what}"),
                "It must be true, false or a list of hour, weekday, day and month.",
            )
        };
        match params.get("time_features") {
            None | Some(Value::Bool(true)) => Ok(TimeFeatures(0b1111)),
            Some(Value::Bool(false)) => Ok(TimeFeatures(0)),
            Some(all @ Value::Array(names)) => {
                let mut bits = 0;
                for name in names {
                    let cycle = Cycle::ALL.into_iter().find(|c| name.as_str() == Some(c.name()));
                    bits |= cycle.ok_or_else(|| bad(all))?.bit();
                }
                Ok(TimeFeatures(bits))
            }
            Some(other) => Err(bad(other)),
        }
    }

    fn cycles(self) -> impl Iterator<Item = Cycle> {
        Cycle::ALL.into_iter().filter(move |c| self.0 & c.bit() != 0)
    }

    fn columns(self) -> usize {
        2 * self.cycles().count()
    }

    /// Cosine and sine of each phase.
    fn push(self, at: i64, calendar: &Calendar, out: &mut Vec<f32>) {
        if self.0 == 0 {
            return;
        }
        let local = calendar.local(at);
        let of_day = f64::from(local.second) / DAY;
        for cycle in self.cycles() {
            let phase = match cycle {
                Cycle::Hour => of_day,
                Cycle::Weekday => (f64::from(local.weekday) + of_day) / 7.0,
                Cycle::Day => {
                    (f64::from(local.day_of_month) - 1.0 + of_day) / f64::from(local.days_in_month)
                }
                Cycle::Month => (f64::from(local.day) + of_day) / 365.2425,
            };
            let angle = std::f64::consts::TAU * phase;
            out.push(libm::cos(angle) as f32);
            out.push(libm::sin(angle) as f32);
        }
    }

    fn names(self) -> Vec<&'static str> {
        self.cycles().map(Cycle::name).collect()
    }
}

/// Standardised rows of a history, the columns being value, further columns, calendar.
pub(super) struct Table {
    pub rows: Vec<f32>,
    pub width: usize,
    /// How many of the columns are not the calendar's.
    pub own: usize,
    /// Columns that say one thing together: of a category, of a cycle of the calendar.
    pub groups: Vec<Vec<u16>>,
    /// Whether a row follows the one before without a break.
    pub follows: Vec<bool>,
    /// Rows of a day, where the sampling is regular and there are three days of them.
    pub season: Option<usize>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.follows.len()
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..][..self.width]
    }

    /// Whether rows take so few different values that ranks of a statistic mean nothing: that of the
    /// next larger count lies so far from those before that no rank tells how unusual it is.
    pub fn is_tied(&self) -> bool {
        let mut values: Vec<f32> = self.rows.iter().step_by(self.width).copied().collect();
        values.sort_unstable_by(f32::total_cmp);
        values.dedup();
        self.width == 1 && values.len() < DISTINCT
    }

    /// The range of each column, its extremes left out.
    pub fn ranges(&self) -> Vec<(f32, f32)> {
        let range = |c: usize| {
            let column = self.rows.iter().skip(c).step_by(self.width);
            let mut values: Vec<f64> = column.map(|x| f64::from(*x)).collect();
            values.sort_unstable_by(f64::total_cmp);
            let usual = without_extremes(&values, values[values.len() / 2]);
            let bound = |x: Option<&f64>| (*x.unwrap_or(&0.0) as f32).clamp(-LARGEST, LARGEST);
            (bound(usual.first()), bound(usual.last()))
        };
        (0..self.width).map(range).collect()
    }
}

pub(super) fn encode_ranges(ranges: &[(f32, f32)], out: &mut Vec<u8>) {
    for (low, high) in ranges {
        out.extend_from_slice(&low.to_le_bytes());
        out.extend_from_slice(&high.to_le_bytes());
    }
}

pub(super) fn decode_ranges(width: usize, reader: &mut Reader<'_>) -> Result<Vec<(f32, f32)>> {
    let mut ranges = Vec::new();
    for _ in 0..width {
        let (low, high) = (f32::from_bits(reader.u32()?), f32::from_bits(reader.u32()?));
        // written so that NaN is refused
        if !(-LARGEST..=LARGEST).contains(&low) || !(low..=LARGEST).contains(&high) {
            return Err(reader.corrupted("range of rows is none"));
        }
        ranges.push((low, high));
    }
    Ok(ranges)
}

/// The rows that a forecast or a statistic is made from.
pub(super) struct Query<'a> {
    /// As many rows as the machine reaches back, and the one that is asked for with the value 0.
    pub rows: Vec<f32>,
    pub width: usize,
    pub own: usize,
    history: &'a History,
    scale: (f64, f64),
}

impl Query<'_> {
    pub fn last(&self) -> &[f32] {
        &self.rows[self.rows.len() - self.width..]
    }

    /// The value so many rows before the one that is asked for, standardised.
    pub fn value_back(&self, rows: usize) -> Option<f32> {
        let slot = self.history.len().checked_sub(rows)?;
        Some(standardised(self.history.raw(slot), self.scale))
    }
}

fn standardised(x: f64, (offset, scale): (f64, f64)) -> f32 {
    (((x - offset) / scale) as f32).clamp(-FARTHEST, FARTHEST)
}

/// In training, figures count as at most this.
pub(super) const LARGEST: f32 = 8.0;
/// A single column with fewer different values is judged by distance only.
const DISTINCT: usize = 16;

/// A machine has to have this share of the error of the best of the others: with less of a difference
/// it is chance on so few values, and the simpler forecast is the steadier one.
const WORTH: f64 = 0.9;

/// What a forecast is taken from: whatever was best on the history held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    Machine,
    /// The value before.
    Last,
    /// The value so many rows before.
    Season(u16),
    /// The mean of the values.
    Mean,
}

/// Mean squared errors on the history held out: of the machine's forecasts, the value before, the
/// value a season before and the mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Evaluation {
    pub machine: f64,
    pub last: f64,
    pub seasonal: f64,
    pub mean: f64,
    pub source: Source,
}

impl Evaluation {
    /// `seasonal` is infinite where there is no season.
    pub fn new(machine: f64, last: f64, seasonal: f64, mean: f64, season: Option<usize>) -> Self {
        let season = season.and_then(|s| u16::try_from(s).ok());
        let seasonal = if season.is_some() { seasonal } else { f64::INFINITY };
        let least = last.min(seasonal).min(mean);
        let source = match season {
            _ if machine < WORTH * least => Source::Machine,
            _ if mean <= least => Source::Mean,
            Some(season) if seasonal <= last => Source::Season(season),
            _ => Source::Last,
        };
        Evaluation { machine, last, seasonal, mean, source }
    }

    pub fn forecast(
        &self,
        query: &Query<'_>,
        machine: impl FnOnce() -> Option<f32>,
    ) -> Option<f32> {
        match self.source {
            Source::Machine => machine(),
            Source::Last => query.value_back(1),
            Source::Season(rows) => query.value_back(usize::from(rows)),
            Source::Mean => None,
        }
    }

    pub fn explain(&self, map: &mut Map<String, Value>) {
        let status = match self.source {
            Source::Machine => "in use",
            Source::Last => "not in use: the value before forecasts better",
            Source::Season(_) => "not in use: the value a day before forecasts better",
            Source::Mean => "not in use: the mean forecasts better",
        };
        map.insert("status".into(), Value::from(status));
        for (name, error) in [
            ("held_out_error", self.machine),
            ("held_out_error_of_last", self.last),
            ("held_out_error_of_season", self.seasonal),
            ("held_out_error_of_mean", self.mean),
        ] {
            if error.is_finite() {
                map.insert(name.into(), json_number(error.sqrt()));
            }
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for error in [self.machine, self.last, self.seasonal, self.mean] {
            out.extend_from_slice(&error.to_le_bytes());
        }
        let (mark, rows) = match self.source {
            Source::Machine => (0, 0),
            Source::Last => (1, 0),
            Source::Season(rows) => (2, rows),
            Source::Mean => (3, 0),
        };
        out.push(mark);
        out.extend_from_slice(&u16::to_le_bytes(rows));
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut error = || -> Result<f64> {
            let error = reader.f64()?;
            // written so that NaN is refused
            if error >= 0.0 { Ok(error) } else { Err(reader.corrupted("error out of range")) }
        };
        let (machine, last, seasonal, mean) = (error()?, error()?, error()?, error()?);
        let (mark, rows) = (reader.u8()?, reader.u16()?);
        let source = match mark {
            0 => Source::Machine,
            1 => Source::Last,
            2 if rows > 0 => Source::Season(rows),
            3 => Source::Mean,
            _ => return Err(reader.corrupted("unknown source of forecasts")),
        };
        Ok(Evaluation { machine, last, seasonal, mean, source })
    }
}

/// What is fitted to a table.
pub(super) trait Machine: Send + Sized {
    type Options: Clone + Send + Sync;
    /// What the statistic is called in metadata.
    const STATISTIC: &'static str;
    /// Values pushed when it is fitted for the first time.
    const FIRST_FIT: u64;
    /// Rows that it reaches back.
    fn reach(options: &Self::Options) -> usize;
    /// A machine for a table, from the one before if there is one; `None` where there is nothing to
    /// learn from.
    fn fit(options: &Self::Options, table: &Table, before: Option<Self>) -> Option<Self>;
    /// The value that belongs to the last row, standardised.
    fn forecast(&self, query: &Query<'_>) -> Option<f32>;
    /// The statistic if the value of the last row were each of `values`.
    fn statistics(
        &self,
        _query: &Query<'_>,
        _values: [f64; OFFSETS.len()],
    ) -> Option<[f64; OFFSETS.len()]> {
        None
    }
    fn explain(&self, map: &mut Map<String, Value>);
    fn encode(&self, out: &mut Vec<u8>);
    /// `columns`: those of a table, and how many of them are its own.
    fn decode(
        options: &Self::Options,
        columns: (usize, usize),
        reader: &mut Reader<'_>,
    ) -> Result<Self>;
}

/// What a further column is in a table.
enum Column {
    /// Offset and scale.
    Number(f64, f64),
    Category(Levels),
}

impl Column {
    fn width(&self) -> usize {
        match self {
            Column::Number(..) => 1,
            Column::Category(levels) => levels.width(),
        }
    }

    fn push(&self, x: f64, out: &mut Vec<f32>) {
        match self {
            Column::Number(..) if x.is_nan() => out.push(0.0),
            Column::Number(offset, scale) => out.push(standardised(x, (*offset, *scale))),
            Column::Category(levels) => levels.push(x, out),
        }
    }
}

/// What rows are in a table.
struct Columns {
    /// Offset and scale of the value.
    value: (f64, f64),
    further: Vec<Column>,
    time_features: TimeFeatures,
}

impl Columns {
    fn own(&self) -> usize {
        1 + self.further.iter().map(Column::width).sum::<usize>()
    }

    fn width(&self) -> usize {
        self.own() + self.time_features.columns()
    }

    fn push_row(
        &self,
        value: f64,
        features: impl Iterator<Item = f64>,
        at: i64,
        calendar: &Calendar,
        out: &mut Vec<f32>,
    ) {
        out.push(standardised(value, self.value));
        for (column, x) in self.further.iter().zip(features) {
            column.push(x, out);
        }
        self.time_features.push(at, calendar, out);
    }

    fn groups(&self) -> Vec<Vec<u16>> {
        let cycles = self.time_features.cycles().map(|_| 2);
        let widths = [1].into_iter().chain(self.further.iter().map(Column::width)).chain(cycles);
        let mut next = 0u16;
        widths
            .map(|width| {
                next += width as u16;
                (next - width as u16..next).collect()
            })
            .collect()
    }

    /// Makes further columns as usual, where they are not marked as to be left.
    fn make_usual(&self, row: &mut [f32], left: &[bool]) {
        let (mut from, mut usual) = (1, Vec::new());
        for (column, left) in self.further.iter().zip(left) {
            usual.clear();
            column.push(f64::NAN, &mut usual);
            if !left {
                row[from..from + usual.len()].copy_from_slice(&usual);
            }
            from += usual.len();
        }
    }
}

/// A machine with the columns that it was fitted to.
struct Fitted<M> {
    columns: Columns,
    machine: M,
}

/// What a strategy is configured with.
pub(super) struct Settings<M: Machine> {
    pub options: M::Options,
    pub time_features: TimeFeatures,
    pub calendar: Calendar,
    pub kind: Kind,
    /// Which further columns are categories.
    categories: Vec<bool>,
}

impl<M: Machine> Clone for Settings<M> {
    fn clone(&self) -> Self {
        Settings {
            options: self.options.clone(),
            time_features: self.time_features,
            calendar: self.calendar.clone(),
            kind: self.kind,
            categories: self.categories.clone(),
        }
    }
}

impl<M: Machine> Settings<M> {
    pub fn new(options: M::Options, params: &Parameters, context: &Context) -> Result<Self> {
        Ok(Settings {
            options,
            time_features: TimeFeatures::from_params(params)?,
            calendar: context.calendar.clone(),
            kind: context.kind,
            categories: context.categories.clone(),
        })
    }

    fn is_category(&self, feature: usize) -> bool {
        self.categories.get(feature).is_some_and(|c| *c)
    }
}

fn encode_scale((offset, scale): (f64, f64), out: &mut Vec<u8>) {
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&scale.to_le_bytes());
}

fn decode_scale(reader: &mut Reader<'_>) -> Result<(f64, f64)> {
    let scale = (reader.finite("offset")?, reader.non_negative("scale")?);
    if scale.1 == 0.0 { Err(reader.corrupted("scale is 0")) } else { Ok(scale) }
}

fn keep(features: usize) -> usize {
    (KEPT_NUMBERS / (features + 2)).min(KEEP)
}

/// The model of one entity.
pub(super) struct Learned<M: Machine> {
    settings: Settings<M>,
    clock: Clock,
    /// `is_real` of a value: it follows the one before without a break.
    history: History,
    /// Times of the values at hand.
    times: Vec<i64>,
    trust: Trust,
    /// Latest values without a break, at most [`MAX_REACH`].
    run: usize,
    /// Points learned.
    learned: u64,
    /// Values pushed at the latest fit, 0 for none yet.
    fitted_at: u64,
    fitted: Option<Fitted<M>>,
    /// The forecast that was made last, scaled: an ensemble asks about many values of the same point.
    forecast: RefCell<Option<(Question, Option<f64>)>>,
}

impl<M: Machine> Learned<M> {
    pub fn new(settings: Settings<M>) -> Self {
        Learned {
            settings,
            clock: Clock::new(),
            history: History::new(keep(0), 0),
            times: Vec::new(),
            trust: Trust::default(),
            run: 0,
            learned: 0,
            fitted_at: 0,
            fitted: None,
            forecast: RefCell::new(None),
        }
    }

    /// Whether a fit is due: at [`Machine::FIRST_FIT`] values or a full history, when they have
    /// doubled, and from a full history on when it has been renewed.
    fn fit_due(&self) -> bool {
        let (pushed, keep) = (self.history.pushed, self.history.keep() as u64);
        if self.fitted_at == 0 {
            return pushed >= M::FIRST_FIT.min(keep);
        }
        pushed >= self.fitted_at + self.fitted_at.clamp(1, keep.max(M::FIRST_FIT))
    }

    /// The slots that count: as many as are stored, however many are at hand.
    fn first_slot(&self) -> usize {
        self.history.len().saturating_sub(self.history.keep())
    }

    fn refit(&mut self) {
        self.fitted_at = self.history.pushed;
        *self.forecast.get_mut() = None;
        let from = self.first_slot();
        let slots = from..self.history.len();
        let width = self.history.width();
        let mut column: Vec<f64> = slots.clone().map(|s| self.history.raw(s)).collect();
        // or rounding noise, which has no course
        let noise = ROUNDING * column[0].abs();
        let constant = column.iter().all(|x| (x - column[0]).abs() <= noise);
        let value = robust_scale(&mut column);
        let categories = (0..width).filter(|j| self.settings.is_category(*j)).count();
        let most = (MAX_COLUMNS - 1 - width) / categories.max(1);
        let mut further = Vec::with_capacity(width);
        for j in 0..width {
            column.clear();
            column.extend(slots.clone().map(|s| self.history.raw_features(s)[j]));
            further.push(if self.settings.is_category(j) {
                let codes = column.iter().copied();
                Column::Category(Levels::new(codes, most.min(category::MAX_FREQUENT)))
            } else {
                let (offset, scale) = robust_scale(&mut column);
                Column::Number(offset, scale)
            });
        }
        if constant && width == 0 {
            // nothing to learn, and nothing learned before is of any use
            self.fitted = None;
            return;
        }
        let first = self.times[slots.clone()].iter().copied().min().unwrap_or(0);
        let last = self.times[slots.clone()].iter().copied().max().unwrap_or(0);
        let covered = (last as f64 - first as f64) / 1e6;
        let mut bits = 0;
        for cycle in self.settings.time_features.cycles() {
            if covered >= 2.0 * cycle.length() {
                bits |= cycle.bit();
            }
        }
        let columns = Columns { value, further, time_features: TimeFeatures(bits) };
        let mut rows = Vec::new();
        for slot in slots.clone() {
            columns.push_row(
                self.history.raw(slot),
                self.history.raw_features(slot).iter().copied(),
                self.times[slot],
                &self.settings.calendar,
                &mut rows,
            );
        }
        let day = (DAY * 1e6) as i64;
        let season = self.clock.step().map(|step| ((day + step / 2) / step) as usize);
        let table = Table {
            rows,
            width: columns.width(),
            own: columns.own(),
            groups: columns.groups(),
            follows: slots.clone().map(|s| s > from && self.history.is_real(s)).collect(),
            season: season.filter(|s| *s >= 2 && 3 * s <= slots.len()),
        };
        let same = |f: &Fitted<M>| {
            let (old, new) = (&f.columns, &columns);
            old.time_features == new.time_features && old.groups() == new.groups()
        };
        let before = self.fitted.take().filter(same);
        let machine = M::fit(&self.settings.options, &table, before.map(|f| f.machine));
        self.fitted = machine.map(|machine| Fitted { columns, machine });
    }

    fn position(&self, at: i64) -> Position {
        self.clock.position(at, M::reach(&self.settings.options).clamp(2, 16))
    }

    fn query(&self, at: i64, features: &[f64]) -> Option<(&Fitted<M>, Query<'_>)> {
        let fitted = self.fitted.as_ref()?;
        let reach = M::reach(&self.settings.options);
        if self.run < reach {
            return None;
        }
        let mut rows = Vec::with_capacity((reach + 1) * fitted.columns.width());
        let calendar = &self.settings.calendar;
        for slot in self.history.len() - reach..self.history.len() {
            let own = self.history.raw_features(slot).iter().copied();
            let columns = &fitted.columns;
            columns.push_row(self.history.raw(slot), own, self.times[slot], calendar, &mut rows);
        }
        let own = (0..self.history.width()).map(|j| features.get(j).copied().unwrap_or(f64::NAN));
        let place = rows.len();
        fitted.columns.push_row(fitted.columns.value.0, own, at, calendar, &mut rows);
        rows[place] = 0.0;
        let query = Query {
            rows,
            width: fitted.columns.width(),
            own: fitted.columns.own(),
            history: &self.history,
            scale: fitted.columns.value,
        };
        Some((fitted, query))
    }

    /// The forecast of the next point, scaled.
    fn forecast_of(&self, at: i64, features: &[f64]) -> Option<f64> {
        let features = &features[..features.len().min(self.history.width())];
        if let Some((question, forecast)) = &*self.forecast.borrow()
            && question.is(at, features)
        {
            return *forecast;
        }
        let forecast = self.query(at, features).and_then(|(fitted, query)| {
            let f = f64::from(fitted.machine.forecast(&query)?);
            let (offset, scale) = fitted.columns.value;
            Some(self.history.scale(offset + f * scale))
        });
        *self.forecast.borrow_mut() = Some((Question::new(at, features), forecast));
        forecast
    }

    /// What makes the value differ from its forecast: itself, and each further column as it was in the
    /// rows that the forecast is made from; see [`EntityModel::contributions`]. For machines that do not
    /// look at the further columns of the point itself.
    pub fn contributions_to_error(&self, point: &Point) -> Option<Vec<f64>> {
        let features = self.history.width();
        if features == 0 || !point.value.is_finite() || self.position(point.at) != Position::Next(1)
        {
            return None;
        }
        let forecast = |actual: &[bool]| -> Option<f64> {
            let (fitted, mut query) = self.query(point.at, point.features)?;
            for row in query.rows.chunks_exact_mut(query.width) {
                fitted.columns.make_usual(row, actual);
            }
            let (offset, scale) = fitted.columns.value;
            let forecast = f64::from(fitted.machine.forecast(&query)?);
            let forecast = self.history.scale(offset + forecast * scale);
            Some(self.trust.centre(forecast))
        };
        let usual = forecast(&vec![false; features])?;
        let value = self.history.scale(point.value);
        contributions::shares(features + 1, |actual| {
            let x = if actual[0] { value } else { usual };
            forecast(&actual[1..]).map_or(0.0, |f| (x - f).abs())
        })
    }

    fn append(&mut self, at: i64, x: f64, features: &[f64]) {
        *self.forecast.get_mut() = None;
        let before = self.history.len();
        let known: Vec<f64> = features
            .iter()
            .enumerate()
            .map(|(j, f)| match self.settings.is_category(j) {
                true if f.is_nan() => category::MISSING,
                _ => *f,
            })
            .collect();
        self.history.push(x, &known, self.run > 0);
        self.run = (self.run + 1).min(MAX_REACH);
        self.times.drain(..before + 1 - self.history.len());
        self.times.push(at);
        if rescale_due(self.history.pushed, self.history.keep())
            && let Some(change) = self.history.rescale()
        {
            self.trust.rescale(change);
        }
        if self.fit_due() {
            self.refit();
        }
    }

    pub fn decode(settings: Settings<M>, reader: &mut Reader<'_>) -> Result<Self> {
        let mut new = Learned::new(settings);
        new.clock = Clock::decode(reader)?;
        new.trust = Trust::decode(reader)?;
        new.learned = reader.u64()?;
        new.fitted_at = reader.u64()?;
        new.run = usize::from(reader.u8()?);
        new.history = History::decode(reader, keep, MAX_FEATURES)?;
        let sound = new.learned <= i64::MAX as u64
            && new.history.pushed <= i64::MAX as u64
            && new.fitted_at <= new.history.pushed
            && new.run <= new.history.len().min(MAX_REACH);
        if !sound {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for _ in 0..new.history.len() {
            new.times.push(reader.i64()?);
        }
        match reader.u8()? {
            0 => {}
            1 => {
                let time_features = TimeFeatures(reader.u8()?);
                if time_features.0 & !new.settings.time_features.0 != 0 {
                    return Err(reader.corrupted("unknown columns"));
                }
                let value = decode_scale(reader)?;
                let mut further = Vec::new();
                for j in 0..new.history.width() {
                    further.push(if new.settings.is_category(j) {
                        Column::Category(Levels::decode(reader)?)
                    } else {
                        let (offset, scale) = decode_scale(reader)?;
                        Column::Number(offset, scale)
                    });
                }
                let columns = Columns { value, further, time_features };
                if columns.own() > MAX_COLUMNS {
                    return Err(reader.corrupted("too many columns"));
                }
                let (width, own) = (columns.width(), columns.own());
                let machine = M::decode(&new.settings.options, (width, own), reader)?;
                new.fitted = Some(Fitted { columns, machine });
            }
            _ => return Err(reader.corrupted("unknown mark")),
        }
        Ok(new)
    }

    /// What has been fitted, for people.
    pub fn describe(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("history".into(), Value::from(self.history.len().min(self.history.keep())));
        map.insert("features".into(), Value::from(self.history.width()));
        match &self.fitted {
            Some(fitted) => {
                map.insert(
                    "time_features".into(),
                    Value::from(fitted.columns.time_features.names()),
                );
                map.insert("fitted_after".into(), Value::from(self.fitted_at));
                fitted.machine.explain(&mut map);
            }
            None if self.fitted_at > 0 => {
                map.insert("status".into(), Value::from("nothing to learn from"));
            }
            None => {
                let need = M::FIRST_FIT.min(self.history.keep() as u64);
                let status = format!("not trained yet ({} of {need})", self.history.pushed);
                map.insert("status".into(), Value::from(status));
            }
        }
        map
    }
}

impl<M: Machine> Baseline for Learned<M> {
    /// Spreads are means of so many squares as there are points, within the memory of [`Trust`].
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        count.saturating_sub(1).min(500) as f64
    }

    fn count(&self) -> u64 {
        self.learned
    }

    fn push(&mut self, point: &Point) {
        let position = self.position(point.at);
        self.learned += 1;
        if position == Position::Late {
            // Learned by its residual; it has no place in the sequence any more.
            return;
        }
        if self.history.pushed == 0 {
            let width = point.features.len().min(MAX_FEATURES);
            self.history = History::new(keep(width), width);
        }
        let (last, step) = (self.clock.last(), self.clock.step().unwrap_or(0));
        match position {
            Position::Next(steps) => {
                // what is missing is filled in by what was expected
                for i in 1..steps {
                    let at = last.saturating_add(step.saturating_mul(i as i64));
                    let (centre, _) = self.trust.expect(self.forecast_of(at, point.features), 1);
                    let x = self.history.unscale(centre);
                    self.append(at, x, point.features);
                }
            }
            _ => self.run = 0,
        }
        let forecast = self.forecast_of(point.at, point.features);
        self.trust.learn(self.history.scale(point.value), forecast);
        self.clock.push(point.at);
        self.append(point.at, point.value, point.features);
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.history.pushed == 0 {
            return None;
        }
        let (steps, forecast) = match self.position(point.at) {
            Position::Next(1) => (1, self.forecast_of(point.at, point.features)),
            Position::Next(steps) => (steps, None),
            _ => (1, None),
        };
        let (centre, spread) = self.trust.expect(forecast, steps);
        let spread = self.history.unscale_length(spread);
        Some(Fit { centre: self.history.unscale(centre), below: spread, above: spread })
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        map.insert("expected".into(), json_number(verdict.expected));
    }

    fn explain(&self) -> Map<String, Value> {
        self.describe()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.clock.encode(out);
        self.trust.encode(out);
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.extend_from_slice(&self.fitted_at.to_le_bytes());
        out.push(self.run as u8);
        self.history.encode(out);
        for at in &self.times[self.first_slot()..] {
            out.extend_from_slice(&at.to_le_bytes());
        }
        match &self.fitted {
            None => out.push(0),
            Some(fitted) => {
                let columns = &fitted.columns;
                out.extend_from_slice(&[1, columns.time_features.0]);
                encode_scale(columns.value, out);
                for column in &columns.further {
                    match column {
                        Column::Number(offset, scale) => encode_scale((*offset, *scale), out),
                        Column::Category(levels) => levels.encode(out),
                    }
                }
                fitted.machine.encode(out);
            }
        }
        Ok(())
    }
}

impl<M: Machine> Shape for Learned<M> {
    const STATISTIC: &'static str = M::STATISTIC;

    fn profile(&self, point: &Point, fit: &Fit) -> Option<[f64; OFFSETS.len()]> {
        // Chance explains how a count or ratio varies, and a statistic of its size does not know it.
        let by_chance = self.settings.kind != Kind::Value && self.history.width() == 0;
        if by_chance || self.position(point.at) != Position::Next(1) {
            return None;
        }
        let (fitted, query) = self.query(point.at, point.features)?;
        let (offset, scale) = fitted.columns.value;
        let values = OFFSETS.map(|o| {
            let z = (fit.centre + o * fit.below - offset) / scale;
            z.clamp(-1e6, 1e6)
        });
        fitted.machine.statistics(&query, values)
    }

    fn disturbs(&self) -> u8 {
        M::reach(&self.settings.options).min(32) as u8
    }

    fn features(&self) -> usize {
        self.history.width()
    }
}
