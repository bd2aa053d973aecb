//! `statistical_seasonal`: distance from trend and seasons that are found by themselves.
//!
//! Good at: business metrics, where hour of day, weekday, weekend, day of month, or any other period
//! explain most of what happens; irregular and missing points, because everything goes by time. Bad at:
//! seasons it has seen for less than two cycles, and events at irregular times. Cost: under 1 µs a
//! point, at most 10 kB a state, whatever the history.
//!
//! value = level + profile of each season at its phase + noise. A profile is a ring of means, linear
//! between them where points are denser. All are learned online with clipped errors (after Gelper,
//! Fried and Croux 2010), each from what the others leave. Profiles of the calendar (time of day,
//! a different time of day on weekends, weekday, hour of the week, day of the month, days to its end)
//! are always learned, those of other periods once [`detect_periods`] finds them; but a profile takes
//! part in forecasts only while forecasts are better with it than without it, by their own record. The
//! same record chooses how fast the level follows, and whether along a line. The spread may depend on
//! the hour. A jump of the level that has lasted eight learned points is followed at once.
//!
//! Parameters: `calendar` (true), `periods` (true): whether such seasons are looked for.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::forecast::{z_bounds, z_score};
use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::{Context, EntityModel, Kind, Strategy, bool_param, check_keys, json_number};
use crate::Result;
use crate::calendar::{Calendar, Local};
use crate::codec::{self, Reader};
use crate::point::Point;
use crate::seasonality::{detect_periods, median};
use crate::verdict::Verdict;

const HOUR: f64 = 3600e6;
const DAY: f64 = 24.0 * HOUR;
/// Points after which the sampling interval is known.
const EARLY: usize = 32;
/// Cells of the history that periods are looked for in: of one sampling interval, and of sixteen.
const FINE: usize = 1024;
const COARSE: usize = 384;
const COARSENESS: i64 = 16;
/// Periods besides those of the calendar, and bins of all their profiles together.
const MAX_PERIODS: usize = 4;
const PERIOD_BINS: usize = 128;
const MAX_PERIOD_BINS: usize = 64;
/// Learned points in a row, beyond three spreads on the same side, that make a new level.
const SHIFT: usize = 8;
/// Mean absolute value of normal noise.
const MEAN_ABSOLUTE: f64 = 0.797_884_560_802_865_4;
/// How fast levels follow: the share of an error that the next forecast makes good. The last one
/// follows a line; the slow one, besides, has a speed of its own that no season can lead astray.
const RATES: [f64; 4] = [0.5, 0.15, 0.04, 0.15];
const SLOWER: usize = 2;
const LINE: usize = 3;
const SLOPE_RATE: f64 = 0.02;
/// Each step ahead, the slope is this share of the one before.
const DAMPING: f64 = 0.98;
const SLOW: usize = RATES.len();
const LEVELS: usize = RATES.len() + 1;
/// Bins of the spread.
const SPREADS: usize = 24;

/// See the module.
pub struct Seasonal {
    config: Config,
    kind: Kind,
}

#[derive(Debug, Clone)]
struct Config {
    calendar: Calendar,
    by_calendar: bool,
    by_period: bool,
}

impl Seasonal {
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_seasonal", params, &["calendar", "periods"])?;
        Ok(Seasonal {
            kind: context.kind,
            config: Config {
                calendar: context.calendar.clone(),
                by_calendar: bool_param(params, "calendar", true)?,
                by_period: bool_param(params, "periods", true)?,
            },
        })
    }
}

impl Strategy for Seasonal {
    fn name(&self) -> &'static str {
        "statistical_seasonal"
    }

    fn short_name(&self) -> &'static str {
        "seasonal"
    }

    fn statistic_name(&self) -> &'static str {
        "z-score"
    }

    fn algorithm(&self) -> u16 {
        15
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Model::new(self.config.clone())).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Model::decode(r, self.config.clone()))?))
    }
}

fn elapsed(from: i64, to: i64) -> f64 {
    (i128::from(to) - i128::from(from)) as f64
}

/// What a season depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Season {
    TimeOfDay,
    /// On Saturdays and Sundays only, in addition to the time of day.
    Weekend,
    Weekday,
    HourOfWeek,
    DayOfMonth,
    MonthEnd,
    /// Any other period, in microseconds, counted from a time.
    Period {
        length: f64,
        origin: i64,
    },
}

impl Season {
    const CALENDAR: [Season; 6] = [
        Season::TimeOfDay,
        Season::Weekend,
        Season::Weekday,
        Season::HourOfWeek,
        Season::DayOfMonth,
        Season::MonthEnd,
    ];

    fn name(&self) -> &'static str {
        match self {
            Season::TimeOfDay => "time_of_day",
            Season::Weekend => "weekend",
            Season::Weekday => "weekday",
            Season::HourOfWeek => "hour_of_week",
            Season::DayOfMonth => "day_of_month",
            Season::MonthEnd => "days_to_month_end",
            Season::Period { .. } => "period",
        }
    }

    /// Microseconds after which it repeats.
    fn cycle(&self) -> f64 {
        match self {
            Season::TimeOfDay => DAY,
            Season::Weekend | Season::Weekday | Season::HourOfWeek => 7.0 * DAY,
            Season::DayOfMonth | Season::MonthEnd => 31.0 * DAY,
            Season::Period { length, .. } => *length,
        }
    }

    /// How many bins its profile has at a sampling interval; 0 where points are too far apart.
    fn bins(&self, interval: f64) -> usize {
        match self {
            // The finest of these that still has a point in each bin.
            Season::TimeOfDay | Season::Weekend => [96, 48, 24, 12, 8, 6, 4]
                .into_iter()
                .find(|bins| DAY / f64::from(*bins) >= 0.99 * interval)
                .unwrap_or(0) as usize,
            Season::Weekday if interval <= 1.01 * DAY => 7,
            Season::HourOfWeek if interval <= 1.01 * HOUR => 168,
            Season::DayOfMonth | Season::MonthEnd if interval <= 1.01 * DAY => 31,
            Season::Period { length, .. } => {
                let points = (length / interval).round().clamp(2.0, MAX_PERIOD_BINS as f64);
                points as usize
            }
            _ => 0,
        }
    }

    /// The phase in bins; `None` where the season has no say.
    fn phase(&self, at: i64, local: &Local, bins: usize) -> Option<f64> {
        let n = bins as f64;
        let of_day = f64::from(local.second) / 86_400.0;
        match self {
            Season::TimeOfDay => Some(of_day * n),
            Season::Weekend => local.is_weekend().then_some(of_day * n),
            Season::Weekday => Some(f64::from(local.weekday)),
            Season::HourOfWeek => Some((f64::from(local.weekday) + of_day) * 24.0),
            Season::DayOfMonth => Some(f64::from(local.day_of_month) - 1.0),
            Season::MonthEnd => Some(f64::from(local.days_to_month_end())),
            Season::Period { length, origin } => {
                let cycles = elapsed(*origin, at) / length;
                Some((cycles - cycles.floor()) * n)
            }
        }
    }

    /// Whether one bin leads to the next.
    fn is_continuous(&self) -> bool {
        !matches!(self, Season::Weekday | Season::DayOfMonth | Season::MonthEnd)
    }
}

/// The bins around a phase with their weights.
#[derive(Debug, Clone, Copy)]
struct Place {
    bins: [usize; 2],
    weights: [f64; 2],
}

/// A mean over the latest so many values of something.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Fading {
    count: u32,
    mean: f64,
}

impl Fading {
    fn push(&mut self, v: f64, memory: f64) {
        self.count = self.count.saturating_add(1);
        self.mean += (v - self.mean) / f64::from(self.count).min(memory);
        // differences of values near 1e308
        self.mean = finite(self.mean);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        codec::put_varint(out, self.count);
        out.extend_from_slice(&self.mean.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Fading { count: reader.varint()?, mean: reader.finite("mean")? })
    }
}

/// What a season is worth to forecasts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Record {
    /// What of the profile the level follows by itself.
    followed: f64,
    /// Absolute error of forecasts with the season.
    with: Fading,
    /// How much larger the error is without it, and the square of that.
    gain: Fading,
    gain2: Fading,
}

impl Record {
    /// A level that follows at a rate, but single errors up to a clip only, makes part of the season good
    /// by itself; gives the rest.
    fn follow(&mut self, value: f64, (rate, clip): (f64, f64)) -> f64 {
        let own = finite(value - self.followed);
        self.followed = finite(self.followed + rate * own.clamp(-clip, clip));
        own
    }

    /// Errors of one forecast with the season and without it, counted up to a limit. The later half of
    /// the record counts: profiles get better.
    fn push(&mut self, with: f64, without: f64, limit: f64, memory: f64) {
        let memory = memory.min((0.5 * f64::from(self.with.count)).max(16.0));
        let (with, without) = (with.abs().min(limit), without.abs().min(limit));
        let gain = without - with;
        self.with.push(with, memory);
        self.gain.push(gain, memory);
        self.gain2.push(finite(gain * gain), memory);
    }

    /// The mean gain as a share of the error, and in standard errors.
    fn merit(&self, memory: f64) -> (f64, f64) {
        let n = (0.5 * f64::from(self.gain.count)).min(memory);
        if n < 16.0 {
            return (0.0, 0.0);
        }
        let mean = self.gain.mean;
        let error = ((self.gain2.mean - mean * mean).max(0.0) / n).sqrt();
        let share = mean / (self.with.mean + mean.max(0.0)).max(f64::MIN_POSITIVE);
        (share, if error > 0.0 { mean / error } else { mean.signum() * 1e3 })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.followed.to_le_bytes());
        self.with.encode(out);
        self.gain.encode(out);
        self.gain2.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let followed = reader.finite("followed")?;
        let with = Fading::decode(reader)?;
        if with.mean < 0.0 {
            return Err(reader.corrupted("negative error"));
        }
        let gain = Fading::decode(reader)?;
        Ok(Record { followed, with, gain, gain2: Fading::decode(reader)? })
    }
}

/// A finite number to 21 binary digits, which four bytes hold: far less than its noise is lost of an effect.
fn shortened(v: f64) -> f64 {
    const KEPT: u64 = !0xffff_ffff;
    let rounded = f64::from_bits((v.to_bits() + (1 << 31)) & KEPT);
    if rounded.is_finite() { rounded } else { f64::from_bits(v.to_bits() & KEPT) }
}

/// The upper half of a [`shortened`] number, which is all of it.
fn put_shortened(out: &mut Vec<u8>, v: f64) {
    out.extend_from_slice(&((v.to_bits() >> 32) as u32).to_le_bytes());
}

/// Smaller weights are multiples of 1/8192; larger ones have 13 binary digits.
const LIGHT: f32 = 0.5;
const HEAVIEST: f32 = 16_382.0;

/// A number of points as two bytes hold it.
fn weight(points: f32) -> f32 {
    if points < LIGHT {
        return (points * 8192.0).round() / 8192.0;
    }
    f32::from_bits((points.to_bits() + (1 << 10)) & !((1 << 11) - 1)).min(HEAVIEST)
}

/// The least exponent of weights that are not light, and the one below, in their place in a code.
const BELOW_LIGHT: u32 = 125 << 12;

fn code_of_weight(weight: f32) -> u16 {
    if weight < LIGHT {
        (weight * 8192.0) as u16
    } else {
        ((weight.to_bits() >> 11) - BELOW_LIGHT) as u16
    }
}

fn weight_of_code(code: u16) -> f32 {
    if code < 1 << 12 {
        f32::from(code) / 8192.0
    } else {
        f32::from_bits((u32::from(code) + BELOW_LIGHT) << 11)
    }
}

/// A season, its profile, and its records.
#[derive(Debug, Clone, PartialEq)]
struct Component {
    season: Season,
    active: bool,
    /// Time of its first point.
    since: i64,
    /// Each one [`shortened`].
    values: Vec<f64>,
    /// Points learned per bin, each one a [`weight`].
    weights: Vec<f32>,
    /// The level that the profile refers to: a slow one, of what the profile itself leaves.
    base: f64,
    /// How far its profile is from what it should say, on average.
    scale: Fading,
    /// The bins whose last value was beyond the clip, and on which side: the second time it counts.
    beyond: Vec<i8>,
    /// Its record beside the level that forecasts; and that of forecasts by the slower level and this
    /// season against those made now.
    records: [Record; 2],
    /// Points that a bin gets in one cycle, as far as the sampling interval tells.
    density: f64,
    interpolates: bool,
}

impl Component {
    fn new(season: Season, bins: usize, since: i64, base: f64, interval: f64) -> Self {
        let width = season.cycle() / bins as f64;
        Component {
            season,
            active: false,
            since,
            values: vec![0.0; bins],
            weights: vec![0.0; bins],
            base,
            scale: Fading::default(),
            beyond: vec![0; bins],
            records: [Record::default(); 2],
            density: (width / interval).max(1.0),
            interpolates: season.is_continuous() && interval < 0.75 * width,
        }
    }

    fn place(&self, at: i64, local: &Local) -> Option<Place> {
        let bins = self.values.len();
        let phase = self.season.phase(at, local, bins)?;
        let (phase, part) = if self.interpolates {
            (phase.floor(), phase - phase.floor())
        } else {
            (phase.round(), 0.0)
        };
        let first = phase as usize % bins;
        Some(Place { bins: [first, (first + 1) % bins], weights: [1.0 - part, part] })
    }

    /// The effect at a place.
    ///
    /// Where few of many bins stand out (one hour in 168, one day in 31) the noise of the others would
    /// cost more than those are worth: there a mean counts as far as it is more than two of its standard
    /// errors (the positive part of James and Stein 1961, bin by bin).
    fn value(&self, place: &Place) -> f64 {
        let mean = self.mean(place);
        let few_stand_out =
            matches!(self.season, Season::HourOfWeek | Season::DayOfMonth | Season::MonthEnd);
        if !few_stand_out || mean == 0.0 {
            return mean;
        }
        let [a, b] = place.bins.map(|bin| f64::from(self.weights[bin]).min(self.remembered()));
        let n = (a * place.weights[0] + b * place.weights[1]).max(0.5);
        let error = self.scale.mean / MEAN_ABSOLUTE / mean;
        mean * (1.0 - 4.0 * error * error / n).max(0.0)
    }

    fn mean(&self, place: &Place) -> f64 {
        self.values[place.bins[0]] * place.weights[0]
            + self.values[place.bins[1]] * place.weights[1]
    }

    /// How many points of a bin count; profiles remember some cycles, a calendar of months must do
    /// with fewer.
    fn remembered(&self) -> f64 {
        let cycles = match self.season {
            Season::TimeOfDay | Season::Period { .. } => 16.0,
            Season::Weekend | Season::Weekday | Season::HourOfWeek => 10.0,
            Season::DayOfMonth | Season::MonthEnd => 6.0,
        };
        cycles * self.density
    }

    /// Over how many points its record goes: some cycles.
    fn memory(&self, interval: f64) -> f64 {
        (16.0 * self.season.cycle() / interval).clamp(200.0, 20_000.0)
    }

    /// Whether the bins of a place have been seen.
    fn knows(&self, place: &Place) -> bool {
        let seen = |k: usize| self.weights[place.bins[k]] * place.weights[k] as f32;
        seen(0) + seen(1) >= 1.0
    }

    /// Keeps the records. `now`: error of the forecast, and rate and clip of its level; `slower`: the
    /// same of the slower level. What a line makes good of a season by itself cannot be told by a rate.
    fn judge(
        &mut self,
        place: &Place,
        now: (f64, Option<(f64, f64)>),
        slower: (f64, (f64, f64)),
        limit: f64,
        interval: f64,
    ) {
        let value = self.value(place);
        let beside_now = now.1.map(|rate| self.records[0].follow(value, rate));
        let beside_slower = self.records[1].follow(value, slower.1);
        if !self.knows(place) {
            return;
        }
        let memory = self.memory(interval);
        if let Some(own) = beside_now {
            let (with, without) =
                if self.active { (now.0, now.0 + own) } else { (now.0 - own, now.0) };
            self.records[0].push(with, without, limit, memory);
        }
        self.records[1].push(slower.0 - beside_slower, now.0, limit, memory);
    }

    /// Learns what the other seasons leave of a value. `rate`: of the level below; `level`: a faster one,
    /// for comparison.
    fn learn(&mut self, place: &Place, rest: f64, rate: f64, level: f64, interval: f64) {
        let [a, b] = place.bins;
        let [wa, wb] = place.weights;
        let target = finite(rest - self.base);
        let error = finite(target - self.mean(place));
        let clip = if self.scale.count > 8 { 5.0 * self.scale.mean } else { f64::MAX };
        if self.knows(place) {
            self.scale.push(error.abs().min(1.2 * clip), self.memory(interval));
        }
        let remembered = self.remembered();
        // Whether the level is where the one below is, give or take what it follows of this season.
        let followed = if self.active { 0.0 } else { self.records[1].followed };
        let apart = finite(level - self.base - followed);
        let settled = apart.abs() <= clip;
        let is_short = matches!(self.season, Season::TimeOfDay | Season::Period { .. });
        if !settled && is_short {
            // On the way to a new level every phase is off by the same: the level below hurries, and the
            // profile waits. Not so of a week, for which two days of another level are its season.
            self.base =
                finite(self.base + 0.1 * error.clamp(-2.0 * apart.abs(), 2.0 * apart.abs()));
            return;
        }
        self.base = finite(self.base + rate * error.clamp(-clip, clip));
        // An outlier counts as one at the clip; what comes back in the next cycle is none.
        let side = if error.abs() > clip { error.signum() as i8 } else { 0 };
        let nearest = if wa >= wb { a } else { b };
        let again = settled && side != 0 && self.beyond[nearest] == side;
        self.beyond[nearest] = side;
        let error = if again { 0.5 * error } else { error.clamp(-clip, clip) };
        let error = error / (wa * wa + wb * wb);
        for (bin, w) in [(a, wa), (b, wb)] {
            if w > 0.0 {
                let n = f64::from(self.weights[bin]).min(remembered) + 1.0;
                let n = if again { 1.0 } else { n };
                self.values[bin] = shortened(finite(self.values[bin] + w * error / n));
                self.weights[bin] = weight(self.weights[bin] + w as f32);
            }
        }
    }

    /// Seen for two cycles, in four bins at least.
    fn is_eligible(&self, last: i64) -> bool {
        elapsed(self.since, last) >= 2.0 * self.season.cycle()
            && self.weights.iter().filter(|w| **w >= 1.0).count() >= 4.min(self.values.len())
    }

    /// What forecasts gain by it, as a share of their error, if that is more than chance.
    fn merit(&self, interval: f64) -> f64 {
        let memory = self.memory(interval);
        let merits = self.records.map(|record| record.merit(memory));
        merits.into_iter().filter(|m| m.0 > 0.02 && m.1 > 3.0).fold(0.0, |best, m| best.max(m.0))
    }

    fn is_harmful(&self, interval: f64) -> bool {
        let (share, errors) = self.records[0].merit(self.memory(interval));
        share < -0.005 && errors < -2.0
    }

    /// Takes the mean of the profile out, into the level below.
    fn centre(&mut self) {
        if self.season == Season::Weekend {
            return;
        }
        let known = || self.values.iter().zip(&self.weights).filter(|(_, w)| **w > 0.0);
        let n = known().count() as f64;
        let mean: f64 = known().map(|(v, _)| v / n).sum();
        for (v, w) in self.values.iter_mut().zip(&self.weights) {
            *v = if *w > 0.0 { shortened(finite(*v - mean)) } else { 0.0 };
        }
        self.base = finite(self.base + mean);
    }
}

/// The latest values on a grid of times, for [`detect_periods`].
#[derive(Debug, Clone, PartialEq)]
struct History {
    /// Time of cell 0.
    origin: i64,
    /// Microseconds of a cell.
    interval: f64,
    /// Values are kept as (value / unit − base), each as a [`cell_of`].
    unit: f64,
    base: f64,
    /// The newest cell.
    head: i64,
    fine: Vec<u16>,
    /// The newest coarse cell, still open: what it holds so far.
    coarse_head: i64,
    coarse_sum: f64,
    coarse_count: u32,
    coarse: Vec<u16>,
}

/// A cell of the history without a value: the sign alone.
const EMPTY: u16 = 1 << 15;
/// 2^−48, which is 0 here, as exponent and nine binary digits.
const LEAST: u32 = (127 - 48) << 9;

/// A finite number in two bytes: sign, six binary digits of the exponent (2^−48 to 2^15), and ten of the
/// number. Periods show in more than a thousandth of what a value is apart from the usual.
fn cell_of(v: f64) -> u16 {
    let bits = ((v.abs() as f32).to_bits() + (1 << 13)) >> 14;
    let size = bits.saturating_sub(LEAST).min(u32::from(EMPTY) - 1) as u16;
    if v < 0.0 && size > 0 { size | EMPTY } else { size }
}

/// The number of a [`cell_of`]; NaN of an empty one.
fn of_cell(cell: u16) -> f64 {
    let size = cell & (EMPTY - 1);
    if size == 0 {
        return if cell == EMPTY { f64::NAN } else { 0.0 };
    }
    let v = f64::from(f32::from_bits((u32::from(size) + LEAST) << 14));
    if cell & EMPTY == 0 { v } else { -v }
}

/// Moves a ring of cells forward, emptying what it passes.
fn advance(ring: &mut Vec<u16>, capacity: usize, head: i64, to: i64) {
    for cell in (head + 1).max(to.saturating_sub(capacity as i64) + 1)..=to {
        let place = cell.rem_euclid(capacity as i64) as usize;
        if place >= ring.len() {
            ring.resize(place + 1, EMPTY);
        }
        ring[place] = EMPTY;
    }
}

/// The cells of a ring in order, oldest first.
fn in_order(ring: &[u16], capacity: usize, head: i64) -> Vec<f64> {
    let oldest = head - capacity.min(ring.len()) as i64 + 1;
    let cells = (oldest..=head).map(|cell| {
        let v = ring.get(cell.rem_euclid(capacity as i64) as usize).copied();
        v.map_or(f64::NAN, of_cell)
    });
    // What came before the first value is not a gap.
    cells.skip_while(|v| v.is_nan()).collect()
}

impl History {
    fn new(early: &[(i64, f64)]) -> Self {
        let mut times: Vec<i64> = early.iter().map(|p| p.0).collect();
        times.sort_unstable();
        let mut steps: Vec<f64> =
            times.windows(2).map(|t| elapsed(t[0], t[1])).filter(|d| *d > 0.0).collect();
        let interval = if steps.is_empty() { 1.0 } else { median(&mut steps).max(1.0) };
        let largest = early.iter().fold(0.0_f64, |m, p| m.max(p.1.abs()));
        let unit = if largest > 1e-300 { largest } else { 1.0 };
        let mut values: Vec<f64> = early.iter().map(|p| p.1 / unit).collect();
        History {
            origin: times[0],
            interval,
            unit,
            base: median(&mut values),
            head: -1,
            fine: Vec::new(),
            coarse_head: 0,
            coarse_sum: 0.0,
            coarse_count: 0,
            coarse: Vec::new(),
        }
    }

    fn push(&mut self, at: i64, value: f64) {
        let cell = (elapsed(self.origin, at) / self.interval).round().clamp(-1e15, 1e15) as i64;
        let v = (value / self.unit - self.base).clamp(-1e30, 1e30);
        if cell > self.head {
            advance(&mut self.fine, FINE, self.head, cell);
            self.head = cell;
        }
        if cell > self.head - FINE as i64 && cell >= 0 {
            let place = cell.rem_euclid(FINE as i64) as usize;
            if let Some(slot) = self.fine.get_mut(place) {
                *slot = cell_of(v);
            }
        }
        let coarse = cell.div_euclid(COARSENESS);
        if coarse > self.coarse_head {
            if self.coarse_count > 0 {
                let mean = cell_of(self.coarse_sum / f64::from(self.coarse_count));
                let place = self.coarse_head.rem_euclid(COARSE as i64) as usize;
                if place >= self.coarse.len() {
                    self.coarse.resize(place + 1, EMPTY);
                }
                self.coarse[place] = mean;
            }
            advance(&mut self.coarse, COARSE, self.coarse_head, coarse);
            self.coarse_head = coarse;
            self.coarse_sum = 0.0;
            self.coarse_count = 0;
        }
        if coarse == self.coarse_head {
            self.coarse_sum += v;
            self.coarse_count = self.coarse_count.saturating_add(1);
        }
    }

    /// Lengths in microseconds, strongest first.
    fn periods(&self) -> Vec<f64> {
        let fine = in_order(&self.fine, FINE, self.head);
        let mut lengths: Vec<f64> =
            detect_periods(&fine).iter().map(|p| p.exact * self.interval).collect();
        // Shorter ones are in the details.
        let factor = COARSENESS as f64 * self.interval;
        let least = FINE as f64 / 4.0 * self.interval;
        let coarse = in_order(&self.coarse, COARSE, self.coarse_head - 1);
        lengths.extend(
            detect_periods(&coarse)
                .iter()
                .map(|p| p.exact * factor)
                .filter(|length| *length > least),
        );
        lengths
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.origin.to_le_bytes());
        for v in [self.interval, self.unit, self.base] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&self.head.to_le_bytes());
        out.extend_from_slice(&self.coarse_head.to_le_bytes());
        out.extend_from_slice(&self.coarse_sum.to_le_bytes());
        out.extend_from_slice(&self.coarse_count.to_le_bytes());
        for ring in [&self.fine, &self.coarse] {
            out.extend_from_slice(&(ring.len() as u16).to_le_bytes());
            for v in ring {
                out.extend_from_slice(&v.to_le_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let origin = reader.i64()?;
        let interval = reader.finite("interval")?;
        let unit = reader.finite("unit")?;
        let base = reader.finite("base")?;
        let head = reader.i64()?;
        let coarse_head = reader.i64()?;
        let coarse_sum = reader.finite("sum")?;
        let coarse_count = reader.u32()?;
        const FAR: i64 = 1_000_000_000_000_000;
        let cells = (-1..=FAR).contains(&head) && (0..=FAR).contains(&coarse_head);
        if interval < 1.0 || unit <= 0.0 || !cells {
            return Err(reader.corrupted("history out of range"));
        }
        let mut ring = |capacity: usize| {
            let n = usize::from(reader.u16()?);
            if n > capacity {
                return Err(reader.corrupted("history too long"));
            }
            (0..n).map(|_| reader.u16()).collect::<Result<Vec<u16>>>()
        };
        let fine = ring(FINE)?;
        let coarse = ring(COARSE)?;
        Ok(History {
            origin,
            interval,
            unit,
            base,
            head,
            fine,
            coarse_head,
            coarse_sum,
            coarse_count,
            coarse,
        })
    }
}

/// Everything known of one entity.
struct Model {
    config: Config,
    count: u64,
    /// The first points, until the sampling interval is known.
    early: Vec<(i64, f64)>,
    history: Option<History>,
    /// Time of the newest point.
    last: i64,
    levels: [f64; LEVELS],
    slope: f64,
    /// Absolute error of forecasts by each level.
    errors: [Fading; LEVELS],
    /// Which level forecasts.
    level: usize,
    components: Vec<Component>,
    /// Absolute error of forecasts, and of what share of it each bin of the spread has.
    spread: Fading,
    ratios: [Fading; SPREADS],
    run: Vec<f64>,
    /// Counts at the last choice of seasons and levels, and at the last search for periods.
    chosen_at: u64,
    searched_at: u64,
    /// The latest time that was asked about since the latest point was learned.
    known: Cell<Option<(i64, Forecast)>>,
}

/// What the model says about a time.
#[derive(Debug, Clone, Copy)]
struct Forecast {
    centre: f64,
    /// The seasons that take part, together.
    seasons: f64,
    /// The bin of the spread.
    bin: usize,
}

impl Model {
    fn new(config: Config) -> Self {
        Model {
            config,
            count: 0,
            early: Vec::new(),
            history: None,
            last: i64::MIN,
            levels: [0.0; LEVELS],
            slope: 0.0,
            errors: [Fading::default(); LEVELS],
            level: 0,
            components: Vec::new(),
            spread: Fading::default(),
            ratios: [Fading::default(); SPREADS],
            run: Vec::new(),
            chosen_at: 0,
            searched_at: 0,
            known: Cell::new(None),
        }
    }

    fn interval(&self) -> f64 {
        self.history.as_ref().map_or(1.0, |h| h.interval)
    }

    /// The longest cycle that the slow level must not follow.
    fn slow_rate(&self) -> f64 {
        let interval = self.interval();
        let active = self.components.iter().filter(|c| c.active).map(|c| c.season.cycle());
        let day = if interval < DAY / 4.0 { DAY } else { 0.0 };
        let cycle = active.fold(day, f64::max);
        1.0 / (1.5 * cycle / interval).clamp(100.0, 2000.0)
    }

    /// The level by one of the ways to follow it, at a time.
    fn level_at(&self, way: usize, at: i64) -> f64 {
        if way != LINE || self.count == 0 {
            return self.levels[way];
        }
        let steps = (elapsed(self.last, at) / self.interval()).clamp(0.0, 1e4);
        // Most often one.
        let power = if steps == 1.0 { DAMPING } else { libm::pow(DAMPING, steps) };
        let damped = DAMPING * (1.0 - power) / (1.0 - DAMPING);
        finite(self.levels[way] + self.slope * damped)
    }

    /// A point is judged, calibrated and learned by the same forecast.
    fn known_forecast(&self, at: i64) -> Forecast {
        if let Some((_, forecast)) = self.known.get().filter(|known| known.0 == at) {
            return forecast;
        }
        let forecast = self.forecast(at, &self.config.calendar.local(at));
        self.known.set(Some((at, forecast)));
        forecast
    }

    fn forecast(&self, at: i64, local: &Local) -> Forecast {
        let mut seasons = 0.0;
        // The hour, unless another period is all there is.
        let mut bin = local.hour() as usize;
        for component in self.components.iter().filter(|c| c.active) {
            let Some(place) = component.place(at, local) else { continue };
            seasons += component.value(&place);
            if self.spread_by_period()
                && let Season::Period { .. } = component.season
            {
                bin = place.bins[0] * SPREADS / component.values.len();
            }
        }
        let seasons = finite(seasons);
        let centre = finite(self.level_at(self.level, at) + seasons);
        Forecast { centre, seasons, bin: bin.min(SPREADS - 1) }
    }

    fn spread_by_period(&self) -> bool {
        let mut active = self.components.iter().filter(|c| c.active).map(|c| c.season);
        active.clone().any(|s| matches!(s, Season::Period { .. }))
            && !active.any(|s| !matches!(s, Season::Period { .. }))
    }

    fn spread_at(&self, bin: usize) -> f64 {
        let ratio = &self.ratios[bin];
        // Each bin starts as if it had the common spread thirty times.
        let n = f64::from(ratio.count).min(100.0);
        let share = (30.0 + n * ratio.mean) / (30.0 + n);
        finite(self.spread.mean / MEAN_ABSOLUTE * share.clamp(0.2, 5.0))
    }

    fn learn(&mut self, at: i64, value: f64) {
        let local = self.config.calendar.local(at);
        if self.count == 0 {
            self.levels = [value; LEVELS];
        }
        let forecast =
            if self.count > 0 { self.known_forecast(at) } else { self.forecast(at, &local) };
        self.known.set(None);
        let error = finite(value - forecast.centre);
        if self.count > 0 {
            let spread = self.spread_at(forecast.bin);
            // After a constant beginning there is no spread to clip by: what lasts counts in full.
            let lasts = spread == 0.0 && self.run.len() >= 2;
            let clipped = if self.spread.count > 8 && !lasts {
                error.abs().min(4.0 * spread)
            } else {
                error.abs()
            };
            if self.spread.count > 20 && self.spread.mean > 0.0 {
                self.ratios[forecast.bin].push(clipped / self.spread.mean, 100.0);
            }
            // Errors shrink while profiles are learned: the latest third counts.
            self.spread.push(clipped, (0.3 * f64::from(self.spread.count)).clamp(8.0, 500.0));
            self.follow_shift(error, spread);
        }
        self.count += 1;

        // What the seasons leave, before the levels have seen it.
        let slower = self.levels[SLOWER];
        let slow = self.slow_rate();
        let level_target = finite(value - forecast.seasons);
        for way in 0..LEVELS {
            let expected = self.level_at(way, at);
            let error = finite(level_target - expected);
            let limit = if self.errors[way].count > 8 {
                4.0 / MEAN_ABSOLUTE * self.errors[way].mean
            } else {
                f64::MAX
            };
            let clipped = error.clamp(-limit, limit);
            if self.count > 1 {
                self.errors[way].push(error.abs().min(1.5 * limit), 200.0);
            }
            let rate = RATES.get(way).copied().unwrap_or(slow);
            let rate = rate.max(1.0 / self.count as f64);
            self.levels[way] = finite(expected + rate * clipped);
            if way == LINE {
                let steps = (elapsed(self.last, at) / self.interval()).clamp(0.0, 1e4);
                if steps > 0.0 && self.history.is_some() {
                    let damped = DAMPING * self.slope;
                    self.slope = finite(damped + SLOPE_RATE * clipped / steps.max(1.0));
                }
            }
        }
        self.last = self.last.max(at);

        let interval = self.interval();
        let limit = 10.0 * self.spread.mean;
        let clip = |way: usize| 4.0 / MEAN_ABSOLUTE * self.errors[way].mean;
        let rate = match self.level {
            LINE => None,
            way => Some((RATES.get(way).copied().unwrap_or(slow), clip(way))),
        };
        let beside_slower = (finite(level_target - slower), (RATES[SLOWER], clip(SLOWER)));
        for component in &mut self.components {
            let Some(place) = component.place(at, &local) else { continue };
            component.judge(&place, (error, rate), beside_slower, limit, interval);
            let own = if component.active { component.value(&place) } else { 0.0 };
            component.learn(&place, finite(level_target + own), slow, slower, interval);
        }
        if let Some(history) = &mut self.history {
            history.push(at, value);
        }
    }

    /// A new level at once, when the latest points all say so.
    fn follow_shift(&mut self, error: f64, spread: f64) {
        if error.abs() <= 3.0 * spread {
            self.run.clear();
            return;
        }
        if self.run.first().is_some_and(|first| first.is_sign_positive() != (error > 0.0)) {
            self.run.clear();
        }
        self.run.push(error);
        if self.run.len() == SHIFT {
            let jump = median(&mut self.run);
            // The slow level, which the profiles refer to, waits: it may be a weekend.
            for level in &mut self.levels[..SLOW] {
                *level = finite(*level + jump);
            }
            if self.level == SLOW {
                let centre = finite(self.levels[SLOW] + jump);
                self.level = SLOWER;
                self.levels[..SLOW].fill(centre);
            }
            self.run.clear();
        }
    }

    /// After the first points: the grid, the seasons that it allows, and those points once more.
    fn begin(&mut self) {
        let early = std::mem::take(&mut self.early);
        let mut history = History::new(&early);
        let interval = history.interval;
        let since = history.origin;
        let base = self.levels[SLOW];
        if self.config.by_calendar {
            for season in Season::CALENDAR {
                let bins = season.bins(interval);
                if bins > 0 {
                    self.components.push(Component::new(season, bins, since, base, interval));
                }
            }
        }
        for (at, value) in early {
            history.push(at, value);
            let local = self.config.calendar.local(at);
            for component in &mut self.components {
                if let Some(place) = component.place(at, &local) {
                    component.learn(&place, value, 0.01, base, interval);
                }
            }
        }
        self.history = Some(history);
    }

    /// Lets a season take part or not, and chooses the level, by their records.
    fn choose(&mut self) {
        self.chosen_at = self.count;
        let interval = self.interval();
        let last = self.last;
        let before = self.forecast(last, &self.config.calendar.local(last)).centre;
        let mut changed = false;
        for component in self.components.iter_mut().filter(|c| c.active) {
            if component.is_harmful(interval) {
                component.active = false;
                changed = true;
            }
        }
        // One at a time: the others may have learned the same.
        let best = self
            .components
            .iter_mut()
            .filter(|c| !c.active && c.is_eligible(last))
            .map(|c| (c.merit(interval), c))
            .filter(|(merit, _)| *merit > 0.0)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, component)) = best {
            component.centre();
            component.active = true;
            self.levels[SLOW] = component.base;
            component.records = [Record::default(); 2];
            changed = true;
        }
        if changed {
            // Faster levels have followed the season that is now forecast by itself. What is left of the
            // forecast is the level, unless that is the slow one's within the noise.
            let local = self.config.calendar.local(last);
            let level = finite(before - self.forecast(last, &local).seasons);
            let slow = self.levels[SLOW];
            let apart = (level - slow).abs() > 4.0 * self.spread.mean / MEAN_ABSOLUTE;
            self.levels[..SLOW].fill(if apart { level } else { slow });
            self.slope = 0.0;
            self.errors = [Fading::default(); LEVELS];
            self.ratios = [Fading::default(); SPREADS];
            self.spread.count = self.spread.count.min(16);
        }
        // A season that has not helped for twenty cycles is forgotten.
        self.components.retain(|c| {
            let judged = f64::from(c.records[1].gain.count);
            let is_young = judged < 200.0 || judged * interval < 20.0 * c.season.cycle();
            c.active || is_young || !matches!(c.season, Season::Period { .. })
        });
        let least = |way: &usize| self.errors[*way].mean;
        if let Some(best) = (0..LEVELS).min_by(|a, b| least(a).total_cmp(&least(b)))
            && self.errors[best].count >= 16
            && least(&best) < 0.98 * least(&self.level)
        {
            self.level = best;
        }
    }

    fn search(&mut self) {
        self.searched_at = self.count;
        let Some(history) = &self.history else { return };
        let interval = history.interval;
        let last = self.last;
        let covered = |length: f64| {
            self.config.by_calendar
                && interval <= DAY / 4.0
                && [1.0, 2.0, 3.0, 4.0, 6.0, 1.0 / 7.0, 2.0 / 7.0, 1.0 / 14.0]
                    .iter()
                    .any(|part| (length * part / DAY - 1.0).abs() < 0.06)
        };
        for length in history.periods() {
            if covered(length) {
                continue;
            }
            let periods = |c: &&mut Component| matches!(c.season, Season::Period { .. });
            let known = self
                .components
                .iter_mut()
                .filter(periods)
                .find(|c| (c.season.cycle() / length - 1.0).abs() < 0.04);
            if let Some(component) = known {
                // Better known by now. The phase at the newest point stays.
                if let Season::Period { length: old, origin } = &mut component.season
                    && (*old / length - 1.0).abs() > 0.002
                {
                    let cycles = elapsed(*origin, last) / *old;
                    let past = (cycles - cycles.floor()) * length;
                    *old = length;
                    *origin = last.saturating_sub(past as i64);
                }
                continue;
            }
            let season = Season::Period { length, origin: history.origin };
            let used: Vec<usize> = self
                .components
                .iter()
                .filter(|c| matches!(c.season, Season::Period { .. }))
                .map(|c| c.values.len())
                .collect();
            let left = PERIOD_BINS - used.iter().sum::<usize>().min(PERIOD_BINS);
            let bins = season.bins(interval).min(left);
            if used.len() == MAX_PERIODS || bins < 2 {
                continue;
            }
            let mut component = Component::new(season, bins, last, 0.0, interval);
            history.replay(&mut component);
            component.base = self.levels[SLOW];
            self.components.push(component);
        }
    }

    fn decode(reader: &mut Reader<'_>, config: Config) -> Result<Self> {
        let mut model = Model::new(config);
        model.count = reader.u64()?;
        model.last = reader.i64()?;
        model.chosen_at = reader.u64()?;
        model.searched_at = reader.u64()?;
        let early = usize::from(reader.u8()?);
        if early > EARLY || model.chosen_at > model.count || model.searched_at > model.count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for _ in 0..early {
            model.early.push((reader.i64()?, reader.finite("value")?));
        }
        model.history = match reader.u8()? {
            0 => None,
            1 => Some(History::decode(reader)?),
            _ => return Err(reader.corrupted("unknown history")),
        };
        if (model.history.is_none() && early as u64 != model.count)
            || (model.history.is_some() && early > 0)
        {
            return Err(reader.corrupted("early points contradict the count"));
        }
        for level in &mut model.levels {
            *level = reader.finite("level")?;
        }
        model.slope = reader.finite("slope")?;
        for error in &mut model.errors {
            *error = Fading::decode(reader)?;
        }
        model.level = usize::from(reader.u8()?);
        if model.level >= LEVELS {
            return Err(reader.corrupted("unknown level"));
        }
        model.spread = Fading::decode(reader)?;
        for ratio in &mut model.ratios {
            *ratio = Fading::decode(reader)?;
        }
        let negative = model.spread.mean < 0.0
            || model.errors.iter().any(|f| f.mean < 0.0)
            || model.ratios.iter().any(|f| f.mean < 0.0);
        if negative {
            return Err(reader.corrupted("negative spread"));
        }
        let run = usize::from(reader.u8()?);
        if run >= SHIFT {
            return Err(reader.corrupted("run out of range"));
        }
        for _ in 0..run {
            model.run.push(reader.finite("error")?);
        }
        let components = usize::from(reader.u8()?);
        if components > Season::CALENDAR.len() + MAX_PERIODS {
            return Err(reader.corrupted("too many seasons"));
        }
        let interval = model.interval();
        for _ in 0..components {
            model.components.push(Component::decode(reader, interval)?);
        }
        Ok(model)
    }
}

impl History {
    /// Shows a new season what there is, cycle by cycle around its mean.
    fn replay(&self, component: &mut Component) {
        let length = component.season.cycle() / self.interval;
        let (values, step, head) = if length <= FINE as f64 / 4.0 {
            (in_order(&self.fine, FINE, self.head), 1.0, self.head)
        } else {
            let coarse = in_order(&self.coarse, COARSE, self.coarse_head - 1);
            (coarse, COARSENESS as f64, self.coarse_head - 1)
        };
        let n = values.len();
        let width = ((length / step).round() as usize).clamp(1, n.max(1));
        let first = head - n as i64 + 1;
        let calendar = Calendar::default();
        for (i, v) in values.iter().enumerate().filter(|(_, v)| !v.is_nan()) {
            let from = i.saturating_sub(width / 2).min(n - width);
            let around = values[from..from + width].iter().filter(|v| !v.is_nan());
            let count = around.clone().count() as f64;
            let mean = around.sum::<f64>() / count;
            // The middle of a coarse cell.
            let cell = (first + i as i64) as f64 * step + (step - 1.0) / 2.0;
            let at = self.origin.saturating_add((cell * self.interval) as i64);
            if i == 0 {
                component.since = at;
            }
            if let Some(place) = component.place(at, &calendar.local(at)) {
                component.learn(&place, finite((v - mean) * self.unit), 0.0, 0.0, self.interval);
            }
        }
    }
}

impl Component {
    fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.season {
            Season::Period { .. } => Season::CALENDAR.len(),
            season => Season::CALENDAR.iter().position(|s| *s == season).unwrap_or(0),
        };
        out.push(kind as u8);
        if let Season::Period { length, origin } = self.season {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&origin.to_le_bytes());
        }
        out.push(u8::from(self.active));
        out.extend_from_slice(&self.since.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        self.scale.encode(out);
        self.records.iter().for_each(|record| record.encode(out));
        out.push(self.values.len() as u8);
        // 0, 1 or 2 in two bits
        let side = |(i, side): (usize, &i8)| ((side + 1) as u8) << (2 * i);
        let four = |sides: &[i8]| sides.iter().enumerate().map(side).fold(0, |all, one| all | one);
        out.extend(self.beyond.chunks(4).map(four));
        self.values.iter().for_each(|v| put_shortened(out, *v));
        for w in &self.weights {
            out.extend_from_slice(&code_of_weight(*w).to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>, interval: f64) -> Result<Self> {
        let kind = usize::from(reader.u8()?);
        let season = match Season::CALENDAR.get(kind) {
            Some(season) => *season,
            None if kind == Season::CALENDAR.len() => {
                let length = reader.finite("period")?;
                if length < 1.0 {
                    return Err(reader.corrupted("period out of range"));
                }
                Season::Period { length, origin: reader.i64()? }
            }
            None => return Err(reader.corrupted("unknown season")),
        };
        let active = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown flag")),
        };
        let since = reader.i64()?;
        let base = reader.finite("base")?;
        let scale = Fading::decode(reader)?;
        let records = [Record::decode(reader)?, Record::decode(reader)?];
        if scale.mean < 0.0 {
            return Err(reader.corrupted("negative error"));
        }
        let bins = usize::from(reader.u8()?);
        let expected = match season {
            Season::Period { .. } => bins.clamp(2, MAX_PERIOD_BINS),
            season => season.bins(interval),
        };
        if bins != expected || bins == 0 {
            return Err(reader.corrupted("profile of another length"));
        }
        let mut component = Component::new(season, bins, since, base, interval);
        component.active = active;
        (component.scale, component.records) = (scale, records);
        for sides in component.beyond.chunks_mut(4) {
            let four = reader.u8()?;
            for (i, side) in sides.iter_mut().enumerate() {
                *side = (four >> (2 * i) & 3) as i8 - 1;
                if *side > 1 {
                    return Err(reader.corrupted("unknown side"));
                }
            }
        }
        for v in &mut component.values {
            *v = f64::from_bits(u64::from(reader.u32()?) << 32);
            if !v.is_finite() {
                return Err(reader.corrupted("profile is not finite"));
            }
        }
        for w in &mut component.weights {
            *w = weight_of_code(reader.u16()?);
        }
        Ok(component)
    }
}

impl Baseline for Model {
    const EFFICIENCY: f64 = 0.88;

    fn dof(&self, count: u64) -> f64 {
        Self::EFFICIENCY * count.min(500).saturating_sub(1) as f64
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        self.learn(point.at, point.value);
        if self.history.is_none() {
            self.early.push((point.at, point.value));
            if self.early.len() == EARLY {
                self.begin();
            }
        }
        if self.count >= EARLY as u64
            && self.count - self.chosen_at >= (self.chosen_at / 32).clamp(16, 256)
        {
            self.choose();
        }
        if self.config.by_period
            && self.count >= 64
            && self.count - self.searched_at >= self.searched_at.clamp(64, 16_384)
        {
            self.search();
        }
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.count == 0 {
            return None;
        }
        let forecast = self.known_forecast(point.at);
        let spread = self.spread_at(forecast.bin);
        Some(Fit { centre: forecast.centre, below: spread, above: spread })
    }

    fn statistic(&self, point: &Point, fit: &Fit) -> f64 {
        z_score(point.value, fit)
    }

    fn bounds(&self, _point: &Point, fit: &Fit, threshold: f64) -> (f64, f64) {
        z_bounds(fit, threshold)
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let local = self.config.calendar.local(verdict.at);
        let forecast = self.forecast(verdict.at, &local);
        map.insert("z_score".into(), json_number(verdict.statistic));
        map.insert("predicted_value".into(), json_number(forecast.centre));
        map.insert("level".into(), json_number(self.level_at(self.level, verdict.at)));
        map.insert("residual".into(), json_number(finite(verdict.value - forecast.centre)));
        map.insert("residual_std".into(), json_number(self.spread_at(forecast.bin)));
        let seasons: Vec<Value> = self
            .components
            .iter()
            .filter(|c| c.active)
            .map(|c| {
                let place = c.place(verdict.at, &local);
                let effect = place.map_or(0.0, |place| c.value(&place));
                json!({
                    "season": c.season.name(),
                    "period_seconds": json_number(c.season.cycle() / 1e6),
                    "effect": json_number(effect),
                })
            })
            .collect();
        map.insert("seasons".into(), Value::Array(seasons));
    }

    /// The seasons that take part and, where the level is expected to go on as it went, by how much a day.
    fn explain(&self) -> Map<String, Value> {
        let seasons = self.components.iter().filter(|c| c.active).map(|c| {
            json!({
                "season": c.season.name(),
                "period_seconds": json_number(c.season.cycle() / 1e6),
            })
        });
        let a_day = if self.level == LINE { self.slope * (DAY / self.interval()) } else { 0.0 };
        Map::from_iter([
            ("seasons".to_owned(), Value::Array(seasons.collect())),
            ("trend_per_day".to_owned(), json_number(finite(a_day))),
        ])
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
        out.extend_from_slice(&self.chosen_at.to_le_bytes());
        out.extend_from_slice(&self.searched_at.to_le_bytes());
        out.push(self.early.len() as u8);
        for (at, value) in &self.early {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.push(u8::from(self.history.is_some()));
        if let Some(history) = &self.history {
            history.encode(out);
        }
        for v in self.levels.iter().chain([&self.slope]) {
            out.extend_from_slice(&v.to_le_bytes());
        }
        self.errors.iter().for_each(|error| error.encode(out));
        out.push(self.level as u8);
        self.spread.encode(out);
        self.ratios.iter().for_each(|ratio| ratio.encode(out));
        out.push(self.run.len() as u8);
        for error in &self.run {
            out.extend_from_slice(&error.to_le_bytes());
        }
        out.push(self.components.len() as u8);
        self.components.iter().for_each(|component| component.encode(out));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    const HOURS: i64 = 3_600_000_000;
    const MINUTES: i64 = 60_000_000;
    /// 2024-01-01, a Monday.
    const START: i64 = 757_382_400_000_000;

    /// SplitMix64; nearly normal.
    struct Rng(u64);

    impl Rng {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    fn config(zone: &str) -> Config {
        Config { calendar: Calendar::new(zone).unwrap(), by_calendar: true, by_period: true }
    }

    /// Learns `n` values of `f` with unit noise, `step` apart.
    fn learned(zone: &str, n: i64, step: i64, f: impl Fn(i64) -> f64) -> Model {
        let mut model = Model::new(config(zone));
        let mut rng = Rng(n as u64);
        for i in 0..n {
            model.push(&Point::new(START + i * step, f(START + i * step) + rng.normal()));
        }
        model
    }

    /// Root mean square of the errors against the true values at `n` more times.
    fn error(model: &Model, from: i64, n: i64, step: i64, f: impl Fn(i64) -> f64) -> f64 {
        let sum: f64 = (0..n)
            .map(|i| START + (from + i) * step)
            .map(|at| (model.fit(&Point::new(at, 0.0)).unwrap().centre - f(at)).powi(2))
            .sum();
        (sum / n as f64).sqrt()
    }

    fn seasons(model: &Model) -> Vec<&'static str> {
        model.components.iter().filter(|c| c.active).map(|c| c.season.name()).collect()
    }

    fn local(zone: &str, at: i64) -> Local {
        Calendar::new(zone).unwrap().local(at)
    }

    #[test]
    fn weekends_are_days_of_their_own() {
        let zone = "Europe/Berlin";
        let f = |at: i64| {
            let local = local(zone, at);
            let of_day = f64::from(local.second) / 86_400.0;
            let height = if local.is_weekend() { 4.0 } else { 20.0 };
            100.0 - height * (TAU * of_day).cos()
        };
        let model = learned(zone, 24 * 7 * 9, HOURS, f);
        let error = error(&model, 24 * 7 * 9, 24 * 7, HOURS, f);
        assert!(error < 1.5, "{error} {:?}", seasons(&model));
        assert!(seasons(&model).contains(&"time_of_day"), "{:?}", seasons(&model));
    }

    /// One hour of the week stands out, across both clock changes of a year.
    #[test]
    fn an_hour_of_the_week_is_found_by_the_clock_on_the_wall() {
        let zone = "America/New_York";
        let f = |at: i64| if local(zone, at).hour_of_week() == 2 * 24 + 15 { 160.0 } else { 100.0 };
        let n = 24 * 7 * 30;
        let model = learned(zone, n, HOURS, f);
        let error = error(&model, n, 24 * 14, HOURS, f);
        assert!(error < 2.0, "{error} {:?}", seasons(&model));
    }

    #[test]
    fn days_of_the_month_and_its_end_are_found() {
        const DAYS: i64 = 24 * HOURS;
        let first = |at: i64| if local("UTC", at).day_of_month == 1 { 130.0 } else { 100.0 };
        let model = learned("UTC", 700, DAYS, first);
        assert!(error(&model, 700, 90, DAYS, first) < 1.5, "{:?}", seasons(&model));
        assert!(seasons(&model).contains(&"day_of_month"));
        let last = |at: i64| if local("UTC", at).days_to_month_end() == 0 { 130.0 } else { 100.0 };
        let model = learned("UTC", 700, DAYS, last);
        assert!(error(&model, 700, 90, DAYS, last) < 1.5, "{:?}", seasons(&model));
        assert!(seasons(&model).contains(&"days_to_month_end"));
    }

    #[test]
    fn periods_beside_the_calendar_are_found() {
        let wave = |at: i64, minutes: f64| (TAU * (at - START) as f64 / 60e6 / minutes).sin();
        let f = |at: i64| 50.0 + 8.0 * wave(at, 37.0) + 5.0 * wave(at, 90.0);
        let n = 60 * 24 * 4;
        let model = learned("UTC", n, MINUTES, f);
        let error = error(&model, n, 300, MINUTES, f);
        assert!(error < 1.0, "{error} {:?}", seasons(&model));
        assert_eq!(seasons(&model).iter().filter(|s| **s == "period").count(), 2);
    }

    /// Times that only count.
    #[test]
    fn a_period_of_counted_points_is_found() {
        let f = |at: i64| 10.0 * (TAU * (at - START) as f64 / 24.0).sin();
        let model = learned("UTC", 600, 1, f);
        assert_eq!(seasons(&model), ["period"]);
        assert!(error(&model, 600, 240, 1, f) < 1.0);
    }

    #[test]
    fn noise_has_no_season() {
        let mut found = 0;
        for seed in 0..20 {
            let mut rng = Rng(seed);
            let mut model = Model::new(config("UTC"));
            let mut walk = 0.0;
            for i in 0..3000 {
                let noise = rng.normal();
                walk += noise;
                let value = if seed % 2 == 0 { noise } else { walk };
                model.push(&Point::new(START + i * HOURS, value));
            }
            found += usize::from(!seasons(&model).is_empty());
        }
        assert!(found <= 2, "{found} of 20");
    }

    #[test]
    fn the_spread_depends_on_the_hour_where_the_noise_does() {
        let mut model = Model::new(config("UTC"));
        let mut rng = Rng(1);
        let is_day = |i: i64| (8..20).contains(&(i % 24));
        for i in 0..24 * 90 {
            let noise = if is_day(i) { 5.0 } else { 1.0 } * rng.normal();
            model.push(&Point::new(START + i * HOURS, 100.0 + noise));
        }
        for i in 24 * 90..24 * 91 {
            let fit = model.fit(&Point::new(START + i * HOURS, 0.0)).unwrap();
            let expected = if is_day(i) { 5.0 } else { 1.0 };
            let ratio = fit.above / expected;
            assert!((0.6..1.9).contains(&ratio), "{i}: {ratio}");
        }
    }

    #[test]
    fn trends_are_followed() {
        let f = |at: i64| 0.5 * (at - START) as f64 / HOURS as f64;
        let model = learned("UTC", 1000, HOURS, f);
        assert!(error(&model, 1000, 5, HOURS, f) < 2.5, "{:?}", model.levels);
    }

    /// With every season there is, and a long history.
    #[test]
    fn a_state_has_at_most_10_kb() {
        let strategy = Seasonal { config: config("UTC"), kind: Kind::Value };
        let mut model = strategy.new_state();
        let wave = |i: i64, minutes: f64| (TAU * i as f64 / minutes).sin();
        let mut rng = Rng(2);
        for i in 0..40_000 {
            let value = wave(i, 37.0) + wave(i, 90.0) + wave(i, 111.0) + wave(i, 401.0);
            model.learn(&Point::new(START + i * MINUTES * 3, 20.0 * value + rng.normal()));
        }
        let mut out = Vec::new();
        model.encode(&mut out).unwrap();
        assert!(out.len() < 10_000, "{}", out.len());
    }

    #[test]
    fn cells_keep_ten_digits_and_what_is_missing() {
        assert!(of_cell(EMPTY).is_nan());
        for v in [0.0, -0.0, 1e-15, -1e-300] {
            assert_eq!(of_cell(cell_of(v)), 0.0);
        }
        let mut v = 1e-14;
        while v < 6e4 {
            for v in [v, -v] {
                let kept = of_cell(cell_of(v));
                assert!((kept - v).abs() <= v.abs() / 1024.0, "{v}: {kept}");
                assert_eq!(cell_of(kept), cell_of(v));
            }
            v *= 1.01;
        }
        for v in [1e5, 1e30] {
            assert_eq!([v, -v].map(|v| of_cell(cell_of(v)).signum()), [1.0, -1.0]);
            assert!(of_cell(cell_of(v)) > 6e4);
        }
    }

    #[test]
    fn weights_and_values_are_stored_as_they_are() {
        for code in 0..=u16::MAX {
            let kept = weight_of_code(code);
            assert!(kept.is_finite() && kept >= 0.0);
            if kept <= HEAVIEST {
                assert_eq!((weight(kept), code_of_weight(kept)), (kept, code));
            }
        }
        // Single points, and different parts of them, add up to as many as most profiles remember.
        let add = |n: u32, part: fn(u32) -> f32| (0..n).fold(0.0, |sum, i| weight(sum + part(i)));
        assert_eq!(add(5000, |_| 1.0), 5000.0);
        let parts = add(5000, |i| (i % 10) as f32 / 10.0);
        assert!((parts - 2250.0).abs() < 50.0, "{parts}");
        assert!(add(100_000, |_| 1.0) <= HEAVIEST);
        for v in [0.0, 1.0, -1.0 / 3.0, 5e-324, f64::MAX, -f64::MAX, 1e9 / 7.0] {
            let kept = shortened(v);
            assert!((kept - v).abs() <= v.abs() / 1e6 + 1e-300 && shortened(kept) == kept);
            let mut out = Vec::new();
            put_shortened(&mut out, kept);
            let bits = Reader::new(&out).u32().unwrap();
            assert_eq!(f64::from_bits(u64::from(bits) << 32), kept);
        }
    }
}
