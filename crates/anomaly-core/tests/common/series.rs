//! Seeded series that look like what people watch, and the anomalies that are put into them.
//!
//! A [`Series`] knows the noise-free course it was made from, so an injector can reverse a season or
//! freeze a value wherever it is, and a test can ask for "the true value an hour later".

use anomaly_core::Point;
use anomaly_core::strategy::Kind;

use super::Rng;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// Monday 2024-01-08 00:00 UTC.
pub const MONDAY: i64 = 8_773 * DAY;

/// One row as a detector gets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Microseconds since 2000.
    pub at: i64,
    pub value: f64,
    /// NaN but for ratios.
    pub trials: f64,
    /// What `value` would be without noise.
    pub centre: f64,
}

impl Sample {
    pub fn point(&self) -> Point<'static> {
        Point { trials: self.trials, ..Point::new(self.at, self.value) }
    }

    /// The same row with another value.
    pub fn with(self, value: f64) -> Self {
        Sample { value, ..self }
    }
}

/// Samples of plain values without noise-free course, a minute apart.
pub fn plain(values: impl IntoIterator<Item = f64>) -> Vec<Sample> {
    let sample = |(i, value)| Sample {
        at: MONDAY + i as i64 * MINUTE,
        value,
        trials: f64::NAN,
        centre: value,
    };
    values.into_iter().enumerate().map(sample).collect()
}

/// What a series is made of. Values lie around 100 where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Independent normal noise of spread 5.
    White,
    /// Autoregressive noise of spread 5.
    Ar1 { phi: f64 },
    /// A day with two harmonics of amplitude 30, noise 3, weekends a third lower if `weekly`, and a
    /// trend of so many per day.
    Seasonal { weekly: bool, trend: f64 },
    /// Independent Poisson counts.
    Poisson { rate: f64 },
    /// The share of successes among so many trials on average; half the rows have a tenth of them.
    Ratio { share: f64, trials: f64 },
    /// Student's t with three degrees of freedom, times 5.
    T3,
    /// Median 100, so much spread of the logarithm.
    LogNormal { sigma: f64 },
    /// Normal noise of spread 5 rounded to multiples of 4.
    Quantised,
    /// Two levels, 10 and 100, for half an hour to some hours each.
    OnOff,
    /// Zero but for a burst now and then.
    Bursts,
    /// Steps of spread 1.
    RandomWalk,
    /// Noise of spread 2 around a level that changes about every 400 points.
    Levels,
    /// Noise whose spread grows from 2 to 6.
    GrowingVariance,
}

/// When the points of a series come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times {
    Every(i64),
    /// Every so often on average, each a little early or late, never out of order.
    Jittered(i64),
    /// Every so often, but for a share that is missing one by one and some holes of 20 in a row.
    Missing(i64, f64),
}

/// One shape of each sort.
pub const SHAPES: &[(&str, Shape, Times)] = &[
    ("white", Shape::White, Times::Every(MINUTE)),
    ("ar(1) 0.5", Shape::Ar1 { phi: 0.5 }, Times::Every(MINUTE)),
    ("ar(1) 0.95", Shape::Ar1 { phi: 0.95 }, Times::Every(5 * MINUTE)),
    ("daily, hourly points", Shape::Seasonal { weekly: false, trend: 0.0 }, Times::Every(HOUR)),
    ("weekly with trend", Shape::Seasonal { weekly: true, trend: 1.5 }, Times::Every(HOUR)),
    ("daily, 15 minutes", Shape::Seasonal { weekly: false, trend: 0.5 }, Times::Every(15 * MINUTE)),
    ("counts 0.3", Shape::Poisson { rate: 0.3 }, Times::Every(MINUTE)),
    ("counts 4", Shape::Poisson { rate: 4.0 }, Times::Every(MINUTE)),
    ("counts 50", Shape::Poisson { rate: 50.0 }, Times::Every(10 * MINUTE)),
    ("ratio", Shape::Ratio { share: 0.02, trials: 400.0 }, Times::Every(MINUTE)),
    ("t(3)", Shape::T3, Times::Every(MINUTE)),
    ("lognormal", Shape::LogNormal { sigma: 0.7 }, Times::Every(MINUTE)),
    ("quantised", Shape::Quantised, Times::Every(MINUTE)),
    ("on and off", Shape::OnOff, Times::Every(5 * MINUTE)),
    ("bursts", Shape::Bursts, Times::Every(MINUTE)),
    ("random walk", Shape::RandomWalk, Times::Every(MINUTE)),
    ("levels", Shape::Levels, Times::Every(MINUTE)),
    ("growing variance", Shape::GrowingVariance, Times::Every(MINUTE)),
    ("jittered", Shape::White, Times::Jittered(MINUTE)),
    (
        "daily with holes",
        Shape::Seasonal { weekly: false, trend: 0.0 },
        Times::Missing(15 * MINUTE, 0.1),
    ),
];

#[derive(Debug, Clone)]
pub struct Series {
    pub samples: Vec<Sample>,
    pub kind: Kind,
    /// How far a value usually is from the noise-free course.
    pub spread: f64,
    /// Usual time between points.
    pub step: i64,
}

/// Knuth's product of uniforms, in pieces so that it does not underflow.
pub fn poisson(rng: &mut Rng, rate: f64) -> f64 {
    let mut count = 0.0;
    let mut left = rate;
    while left > 0.0 {
        let piece = left.min(30.0);
        left -= piece;
        let floor = libm::exp(-piece);
        let mut product = rng.uniform();
        while product > floor {
            product *= rng.uniform();
            count += 1.0;
        }
    }
    count
}

fn binomial(rng: &mut Rng, trials: f64, share: f64) -> f64 {
    (0..trials as u32).filter(|_| rng.uniform() < share).count() as f64
}

/// The noise-free course of [`Shape::Seasonal`].
fn season(at: i64, weekly: bool, trend: f64) -> f64 {
    let days = (at - MONDAY) as f64 / DAY as f64;
    let angle = std::f64::consts::TAU * days;
    let weekend = weekly && days.rem_euclid(7.0) >= 5.0;
    let day = 30.0 * libm::sin(angle) + 8.0 * libm::cos(2.0 * angle);
    (100.0 + day) * if weekend { 0.67 } else { 1.0 } + trend * days
}

/// `n` points from Monday 2024-01-08 on.
pub fn series(shape: Shape, times: Times, n: usize, seed: u64) -> Series {
    let rng = &mut Rng(seed ^ 0x5EED_0F5E_41E5);
    let step = match times {
        Times::Every(step) | Times::Jittered(step) | Times::Missing(step, _) => step,
    };
    let spread = match shape {
        Shape::White | Shape::Ar1 { .. } | Shape::Quantised => 5.0,
        Shape::T3 => 5.0 * 3.0f64.sqrt(),
        Shape::Seasonal { .. } => 3.0,
        Shape::Poisson { rate } => rate.sqrt(),
        Shape::Ratio { share, trials } => (share * (1.0 - share) / trials).sqrt(),
        Shape::LogNormal { sigma } => 100.0 * sigma,
        Shape::OnOff | Shape::Levels => 2.0,
        Shape::Bursts | Shape::RandomWalk => 1.0,
        Shape::GrowingVariance => 4.0,
    };
    let kind = match shape {
        Shape::Poisson { .. } => Kind::Count,
        Shape::Ratio { .. } => Kind::Ratio,
        _ => Kind::Value,
    };
    let mut noise = rng.normal();
    let (mut level, mut on, mut burst) = (100.0, false, 0u32);
    let mut hole = 0u32;
    let mut slot = 0i64;
    let mut samples = Vec::with_capacity(n);
    while samples.len() < n {
        let mut at = MONDAY + slot * step;
        slot += 1;
        match times {
            Times::Every(_) => {}
            Times::Jittered(step) => at += ((rng.uniform() - 0.5) * 0.9 * step as f64) as i64,
            Times::Missing(_, share) => {
                if hole == 0 && rng.uniform() < 0.003 {
                    hole = 20;
                }
                if hole > 0 || rng.uniform() < share {
                    hole = hole.saturating_sub(1);
                    continue;
                }
            }
        }
        let progress = samples.len() as f64 / n as f64;
        let mut trials = f64::NAN;
        let (centre, value) = match shape {
            Shape::White => (100.0, 100.0 + 5.0 * rng.normal()),
            Shape::Ar1 { phi } => {
                noise = phi * noise + (1.0 - phi * phi).sqrt() * rng.normal();
                (100.0, 100.0 + 5.0 * noise)
            }
            Shape::Seasonal { weekly, trend } => {
                let centre = season(at, weekly, trend);
                (centre, centre + 3.0 * rng.normal())
            }
            Shape::Poisson { rate } => (rate, poisson(rng, rate)),
            Shape::Ratio { share, trials: mean } => {
                let mean = if rng.uniform() < 0.5 { mean } else { mean / 10.0 };
                trials = poisson(rng, mean).max(1.0);
                (share, binomial(rng, trials, share) / trials)
            }
            Shape::T3 => {
                let chi2: f64 = (0..3).map(|_| rng.normal().powi(2)).sum();
                (100.0, 100.0 + 5.0 * rng.normal() / (chi2 / 3.0).sqrt())
            }
            Shape::LogNormal { sigma } => (100.0, 100.0 * libm::exp(sigma * rng.normal())),
            Shape::Quantised => (100.0, 4.0 * (25.0 + 1.25 * rng.normal()).round()),
            Shape::OnOff => {
                if rng.uniform() < 0.05 {
                    on = !on;
                }
                let centre = if on { 100.0 } else { 10.0 };
                (centre, centre + 2.0 * rng.normal())
            }
            Shape::Bursts => {
                if burst == 0 && rng.uniform() < 0.01 {
                    burst = 1 + (rng.uniform() * 8.0) as u32;
                }
                burst = burst.saturating_sub(1);
                (0.0, if burst > 0 { (20.0 * rng.exponential()).round() } else { 0.0 })
            }
            Shape::RandomWalk => {
                level += rng.normal();
                (level, level)
            }
            Shape::Levels => {
                if rng.uniform() < 1.0 / 400.0 {
                    level = 50.0 + 100.0 * rng.uniform();
                }
                (level, level + 2.0 * rng.normal())
            }
            Shape::GrowingVariance => (100.0, 100.0 + (2.0 + 4.0 * progress) * rng.normal()),
        };
        samples.push(Sample { at, value, trials, centre });
    }
    Series { samples, kind, spread, step }
}

/// What can be put into a series from sample `from` on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anomaly {
    /// One value so many spreads higher; lower if negative.
    Spike(f64),
    /// From here on so many spreads higher.
    LevelShift(f64),
    /// So many samples with the value of the first of them.
    Flat(usize),
    /// So many samples on the other side of the mean of the course, noise kept.
    PhaseReversal(usize),
    /// So many samples with the noise so many times larger.
    Volatility(usize, f64),
    /// Rises to so many spreads within so many samples and stays there.
    Drift(usize, f64),
}

impl Series {
    pub fn points(&self) -> impl Iterator<Item = Point<'static>> + '_ {
        self.samples.iter().map(Sample::point)
    }

    /// The samples before and from `at` on.
    pub fn split(&self, at: usize) -> (&[Sample], &[Sample]) {
        self.samples.split_at(at)
    }

    /// Counts stay whole and not negative, ratios between 0 and 1.
    pub fn inject(&mut self, from: usize, anomaly: Anomaly) {
        let spread = self.spread;
        let mean =
            self.samples.iter().map(|s| s.centre).sum::<f64>() / self.samples.len().max(1) as f64;
        let Some(first) = self.samples.get(from).map(|s| s.value) else { return };
        for (i, s) in self.samples.iter_mut().skip(from).enumerate() {
            let noise = s.value - s.centre;
            s.value = match anomaly {
                Anomaly::Spike(k) if i == 0 => s.value + k * spread,
                Anomaly::LevelShift(k) => s.value + k * spread,
                Anomaly::Flat(n) if i < n => first,
                Anomaly::PhaseReversal(n) if i < n => 2.0 * mean - s.centre + noise,
                Anomaly::Volatility(n, factor) if i < n => s.centre + factor * noise,
                Anomaly::Drift(n, k) => s.value + k * spread * ((i + 1) as f64 / n as f64).min(1.0),
                _ => s.value,
            };
            s.value = match self.kind {
                Kind::Value => s.value,
                Kind::Count => s.value.round().max(0.0),
                Kind::Ratio => s.value.clamp(0.0, 1.0),
            };
        }
    }
}
