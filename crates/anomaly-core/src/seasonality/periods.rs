//! Which periods a series has.
//!
//! Candidates are peaks of the periodogram above its local background and peaks of the
//! autocorrelation; each must prove itself in the other domain (Vlachos, Yu and Castelli 2005,
//! "On Periodicity Detection and Structural Periodic Similarity"). The background follows the
//! spectrum over two octaves, so that the power of a random walk, a trend or a level shift at long
//! periods is no season; it is a low quantile, so that the harmonics of a season do not raise it.
//! Values are clipped at four spreads first, so that spikes have no say. What a period explains is
//! taken out before the next one is looked for.
//!
//! False alarms: white noise, random walks, AR(1), trends and level shifts show a period in at most
//! 1 % of the series of any length (test `noise_has_no_period`).

use super::fft::Fft;
use super::{median, scaled};
use crate::elementary::{exp_each, ln_each};

/// Most that are found.
pub const MAX_PERIODS: usize = 4;
/// Of longer series the latest so many values are looked at, and for longer periods averages.
const DETAIL: usize = 1 << 16;
/// With fewer values nothing repeats often enough.
const MIN_LENGTH: usize = 8;
/// How many peaks of either kind are looked at.
const CANDIDATES: usize = 6;
/// Outliers are clipped at so many spreads.
const CLIP: f64 = 4.0;
/// Chance of a peak of the periodogram anywhere, when there is no period.
const SPECTRAL_P: f64 = 2e-3;
/// How many times less likely where a period fits fewer than six times.
const FEW_CYCLES: f64 = 0.1;
/// Chance of an autocorrelation that needs no support by the periodogram.
const LAG_P: f64 = 1e-3;

/// A season of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Period {
    /// In values.
    pub length: usize,
    /// The same, not rounded.
    pub exact: f64,
    /// Share of the variance around the trend that repeats from cycle to cycle, 0 to 1: the
    /// autocorrelation at this lag, after the stronger periods were taken out.
    pub strength: f64,
}

/// The periods of an equally spaced series, at most [`MAX_PERIODS`]; NaN and infinities are missing
/// values. None is longer than half of the series. Short of 65,536 values, they come strongest first;
/// in longer series, periods that fit into the latest 65,536 values come first.
pub fn detect_periods(values: &[f64]) -> Vec<Period> {
    let mut found = periods_of(&values[values.len().saturating_sub(DETAIL)..]);
    if values.len() <= DETAIL {
        return found;
    }
    let factor = values.len().div_ceil(DETAIL);
    let averages: Vec<f64> = values
        .chunks(factor)
        .map(|chunk| {
            let finite = chunk.iter().filter(|v| v.is_finite());
            let count = finite.clone().count() as f64;
            if count > 0.0 { finite.map(|v| v / count).sum() } else { f64::NAN }
        })
        .collect();
    let coarse = periods_of(&averages).into_iter().map(|p| Period {
        length: (p.exact * factor as f64).round() as usize,
        exact: p.exact * factor as f64,
        strength: p.strength,
    });
    for period in coarse {
        let is_new = !found.iter().any(|p| explains(p.exact, period.exact, DETAIL));
        // What fits into the details was judged there.
        if is_new && 3 * period.length > DETAIL && found.len() < MAX_PERIODS {
            let length = period.length.min(values.len() / 2);
            found.push(Period { length, ..period });
        }
    }
    found
}

/// The periods of a series, strongest first.
fn periods_of(values: &[f64]) -> Vec<Period> {
    if values.len() < MIN_LENGTH {
        return Vec::new();
    }
    let fft = Fft::new(2 * values.len());
    let Some(mut series) = Series::new(values, &fft) else { return Vec::new() };
    let mut found: Vec<Period> = Vec::new();
    while found.len() < MAX_PERIODS {
        let Some(period) = strongest(&series, &fft, &found) else { break };
        series.remove(period.exact);
        found.push(period);
    }
    drop_harmonics(&mut found);
    found
}

/// Of two lengths of which one is two or three times the other, the longer, unless it explains next to
/// nothing: then it is what an irregular season leaves.
fn drop_harmonics(found: &mut Vec<Period>) {
    let mut left = 1.0;
    let shares: Vec<f64> = found
        .iter()
        .map(|p| {
            let share = left * p.strength;
            left -= share;
            share
        })
        .collect();
    let all = found.clone();
    let is_multiple = |p: &Period, q: &Period| {
        [2.0, 3.0].iter().any(|m| (m * p.exact - q.exact).abs() < 0.02 * q.exact)
    };
    let mut k = 0;
    found.retain(|p| {
        k += 1;
        let own = shares[k - 1];
        !all.iter().zip(&shares).any(|(q, share)| {
            (is_multiple(p, q) && *share > 0.1 * own) || (is_multiple(q, p) && own <= 0.1 * share)
        })
    });
}

/// The series as far as periods are concerned: around its trend, clipped, without gaps.
struct Series {
    y: Vec<f64>,
    present: Vec<bool>,
    /// How many pairs of values there are at each lag.
    pairs: Vec<f64>,
    /// What its ends are faded by.
    window: Vec<f64>,
}

impl Series {
    fn new(values: &[f64], fft: &Fft) -> Option<Self> {
        let n = values.len();
        let (mut y, _) = scaled(values);
        let present: Vec<bool> = y.iter().map(|v| !v.is_nan()).collect();
        if present.iter().filter(|p| **p).count() < MIN_LENGTH {
            return None;
        }
        // The median slope of pairs half a series apart (after Theil 1950).
        let half = n / 2;
        let mut slopes: Vec<f64> =
            (0..n - half).map(|i| y[i + half] - y[i]).filter(|d| !d.is_nan()).collect();
        let slope = if slopes.is_empty() { 0.0 } else { median(&mut slopes) / half as f64 };
        for (i, v) in y.iter_mut().enumerate() {
            *v -= slope * i as f64;
        }
        let mut work: Vec<f64> = y.iter().copied().filter(|v| !v.is_nan()).collect();
        let centre = median(&mut work);
        work.iter_mut().for_each(|v| *v = (*v - centre).abs());
        let rounding = 1e-13 * centre.abs();
        let mut spread = median(&mut work);
        if spread <= rounding {
            // More than half of the values are the same: what the others are apart.
            work.retain(|d| *d > rounding);
            spread = median(&mut work);
        }
        let limit = CLIP * 1.4826 * spread;
        // also when nothing is left and the median is NaN
        if limit.is_nan() || limit <= 0.0 {
            return None;
        }
        // Gaps are filled linearly: zeros would look like noise, and at regular gaps like a season.
        let mut last: Option<usize> = None;
        for i in 0..n {
            if !present[i] {
                continue;
            }
            y[i] = ((y[i] - centre) / limit).clamp(-1.0, 1.0);
            match last {
                None => {
                    let v = y[i];
                    y[..i].fill(v);
                }
                Some(last) => {
                    let step = (y[i] - y[last]) / (i - last) as f64;
                    for j in last + 1..i {
                        y[j] = y[last] + step * (j - last) as f64;
                    }
                }
            }
            last = Some(i);
        }
        let last = last?;
        let v = y[last];
        y[last..].fill(v);
        let pairs = if present.iter().all(|p| *p) {
            (0..fft.len() / 2).map(|lag| n.saturating_sub(lag) as f64).collect()
        } else {
            let mask: Vec<f64> = present.iter().map(|p| f64::from(u8::from(*p))).collect();
            let mut pairs = fft.autocovariance(&fft.power(&mask));
            pairs.iter_mut().for_each(|pairs| *pairs = pairs.round());
            pairs
        };
        // Hann's.
        let step = std::f64::consts::TAU / n as f64;
        let window = (0..n).map(|i| 0.5 - 0.5 * libm::cos(step * (i as f64 + 0.5))).collect();
        Some(Series { y, present, pairs, window })
    }

    /// Over how many values moving averages are taken that leave a period alone, 0 for none: over it, or
    /// several short ones, since over a few values they would leave white noise with a period of its own.
    /// With fewer than four periods too little would be left.
    fn width(&self, period: usize) -> usize {
        let n = self.y.len();
        if n < 4 * period {
            return 0;
        }
        period * 24_usize.div_ceil(period).min(n / (4 * period)).max(1)
    }

    /// Without moving averages of a width: no trend and nothing slower. Gaps are 0.
    fn high_pass(&self, width: usize) -> Vec<f64> {
        let n = self.y.len();
        let mut out = Vec::with_capacity(n);
        if width == 0 {
            out.extend_from_slice(&self.y);
        } else {
            // An even width takes half of either end, so that the average is centred; near the ends of
            // the series the nearest average counts.
            let half = width / 2;
            let ends = if width.is_multiple_of(2) { 0.5 } else { 0.0 };
            let mut sum: f64 = self.y[..2 * half + 1].iter().sum();
            for i in half..n - half {
                let average = (sum - ends * (self.y[i - half] + self.y[i + half])) / width as f64;
                while out.len() <= i {
                    out.push(self.y[out.len()] - average);
                }
                if i + half + 1 < n {
                    sum += self.y[i + half + 1] - self.y[i - half];
                } else {
                    out.extend(self.y[i + 1..].iter().map(|v| v - average));
                }
            }
        }
        for (v, present) in out.iter_mut().zip(&self.present) {
            *v *= f64::from(u8::from(*present));
        }
        out
    }

    /// Subtracts the mean of each phase.
    fn remove(&mut self, exact: f64) {
        let bins = (exact.round() as usize).max(2);
        let phase = |i: usize| {
            let cycles = i as f64 / exact;
            // a little more, for what rounding took from whole numbers
            (((cycles - cycles.floor()) * bins as f64 + 1e-6) as usize).min(bins - 1)
        };
        let mut sums = vec![(0.0, 0.0); bins];
        for i in (0..self.y.len()).filter(|i| self.present[*i]) {
            let (sum, count) = &mut sums[phase(i)];
            *sum += self.y[i];
            *count += 1.0;
        }
        for (i, v) in self.y.iter_mut().enumerate() {
            let (sum, count) = sums[phase(i)];
            if count > 0.0 {
                *v -= sum / count;
            }
        }
    }
}

/// A periodogram beside its background.
struct Spectrum {
    power: Vec<f64>,
    /// power ÷ background: exponentially distributed with mean 1 where there is no period.
    ratio: Vec<f64>,
    /// How many independent values the background rests on.
    support: Vec<f64>,
    /// The first bin of a period that fits twice.
    first: usize,
    bins_per_cycle: f64,
}

/// Quantile of the power in a window that the background is estimated by.
const QUANTILE: f64 = 0.35;

fn logarithms(mut numbers: Vec<f64>) -> Vec<f64> {
    let (many, rest) = numbers.as_chunks_mut::<16>();
    many.iter_mut().for_each(ln_each);
    rest.iter_mut().for_each(|x| ln_each(std::array::from_mut(x)));
    numbers
}

fn exponentials(numbers: &mut [f64]) {
    let (many, rest) = numbers.as_chunks_mut::<16>();
    many.iter_mut().for_each(exp_each);
    rest.iter_mut().for_each(|x| exp_each(std::array::from_mut(x)));
}

impl Spectrum {
    fn new(series: &Series, fft: &Fft) -> Self {
        let y = &series.y;
        let n = y.len();
        // Without a window the ends of a trend spread over all frequencies.
        let mean = y.iter().sum::<f64>() / n as f64;
        let windowed: Vec<f64> =
            y.iter().zip(&series.window).map(|(v, window)| (v - mean) * window).collect();
        let power = fft.power(&windowed);
        let bins_per_cycle = fft.len() as f64 / n as f64;
        let first = ((1.75 * bins_per_cycle).ceil() as usize).min(power.len() - 1);
        let last = power.len() - 1;

        // At nodes six to an octave, log-linear in between.
        let mut nodes = Vec::new();
        let mut at = first as f64;
        while (at as usize) < last {
            nodes.push(at);
            at *= 1.122_462_048_309_373;
        }
        nodes.push(last as f64);
        let span = (16.0 * bins_per_cycle) as usize;
        let window = |at: f64| {
            let from = ((at / 2.0) as usize).max(first).min(last);
            let to = ((at * 2.0) as usize).min(last).max((from + span).min(last));
            (from.min(to.saturating_sub(span).max(first)), to)
        };
        // That of bin 0 plays no part.
        let ln_bins = logarithms((0..=last).map(|j| j.max(1) as f64).collect());
        let ln_nodes = logarithms(nodes.clone());
        let mut work = Vec::new();
        let mut estimate = |k: usize, slope: f64| {
            let (from, to) = window(nodes[k]);
            let stride = ((to - from) / 400).max(1);
            work.clear();
            if slope == 0.0 {
                work.extend(power[from..=to].iter().step_by(stride));
            } else {
                // in proportion to the power at the node if it falls like that
                let bins = ln_bins[from..=to].iter().step_by(stride);
                work.extend(bins.map(|ln| slope * (ln_nodes[k] - ln)));
                exponentials(&mut work);
                for (v, power) in work.iter_mut().zip(power[from..=to].iter().step_by(stride)) {
                    *v *= power;
                }
            }
            let rank = ((work.len() as f64 * QUANTILE) as usize).min(work.len() - 1);
            let (_, value, _) = work.select_nth_unstable_by(rank, f64::total_cmp);
            (*value / -libm::log1p(-QUANTILE)).max(f64::MIN_POSITIVE)
        };
        let flat: Vec<f64> = (0..nodes.len()).map(|k| libm::log(estimate(k, 0.0))).collect();
        let slopes: Vec<f64> = (0..nodes.len())
            .map(|k| {
                let (a, b) = (k.saturating_sub(4), (k + 4).min(nodes.len() - 1));
                let run = ln_nodes[b] - ln_nodes[a];
                if run > 0.0 { ((flat[b] - flat[a]) / run).clamp(-4.0, 4.0) } else { 0.0 }
            })
            .collect();
        let levels: Vec<f64> =
            slopes.iter().enumerate().map(|(k, slope)| libm::log(estimate(k, *slope))).collect();

        let mut ratio = vec![0.0; power.len()];
        let mut support = vec![1.0; power.len()];
        let mut k = 0;
        for j in first..=last {
            while k + 1 < nodes.len() && nodes[k + 1] < j as f64 {
                k += 1;
            }
            let next = (k + 1).min(nodes.len() - 1);
            let run = ln_nodes[next] - ln_nodes[k];
            let part = if run > 0.0 { (ln_bins[j] - ln_nodes[k]) / run } else { 0.0 };
            ratio[j] = levels[k] + (levels[next] - levels[k]) * part.clamp(0.0, 1.0);
            let (from, to) = window(j as f64);
            // A bin of Hann's window has the width of 1.5 cycles; a quantile tells half of a mean.
            support[j] = ((to - from + 1) as f64 / bins_per_cycle / 3.0).max(1.0);
            // Where it falls steeply, as that of a random walk does, it is half a guess.
            if slopes[k] < -1.0 {
                support[j] = (0.5 * support[j]).max(1.0);
            }
        }
        exponentials(&mut ratio[first..]);
        for (ratio, power) in ratio[first..].iter_mut().zip(&power[first..]) {
            *ratio = power / *ratio;
        }
        Spectrum { power, ratio, support, first, bins_per_cycle }
    }

    /// ln of the chance of such a peak anywhere, over a background estimated from a few values.
    fn ln_p(&self, j: usize) -> f64 {
        // Every octave has the same share of the chance, not every bin: long periods would else have to
        // stand against the many bins of the short ones.
        let octaves = libm::log2(self.power.len() as f64 / self.first as f64).max(1.0);
        let m = self.support[j];
        libm::log(octaves * j as f64 / self.bins_per_cycle) - m * libm::log1p(self.ratio[j] / m)
    }

    /// Whether there is more power than in the background near a frequency in cycles per value.
    fn has_peak(&self, frequency: f64) -> bool {
        let at = frequency * 2.0 * (self.ratio.len() - 1) as f64;
        let from = (at - 0.5 * self.bins_per_cycle).floor().max(0.0) as usize;
        let to = ((at + 0.5 * self.bins_per_cycle).ceil() as usize).min(self.ratio.len() - 1);
        (from..=to).any(|j| self.ratio[j] > 8.0)
    }

    /// Local peaks that are significant, by height.
    fn peaks(&self) -> Vec<usize> {
        let last = self.power.len() - 1;
        let is_peak = |j: usize| {
            // A few cycles are what a random walk shows, too.
            let few = if (j as f64) < 6.0 * self.bins_per_cycle { FEW_CYCLES } else { 1.0 };
            self.power[j] >= self.power[j - 1]
                && (j == last || self.power[j] > self.power[j + 1])
                && self.ln_p(j) < libm::log(few * SPECTRAL_P)
        };
        let mut peaks: Vec<usize> = (self.first.max(1)..=last).filter(|j| is_peak(*j)).collect();
        peaks.sort_by(|a, b| self.power[*b].total_cmp(&self.power[*a]));
        peaks.truncate(CANDIDATES);
        peaks
    }

    /// The frequency in bins of the peak nearest to a frequency, between bins, with its power.
    fn refine(&self, frequency: f64, reach: f64) -> Option<(f64, f64)> {
        let from = ((frequency - reach).ceil().max(1.0)) as usize;
        let to = ((frequency + reach).floor() as usize).min(self.power.len().saturating_sub(2));
        let best = (from..=to).max_by(|a, b| self.power[*a].total_cmp(&self.power[*b]))?;
        if self.power[best] <= self.power[best - 1] || self.power[best] <= self.power[best + 1] {
            return None;
        }
        // The vertex of a parabola through the logarithms.
        let ln = |j: usize| libm::log(self.power[j].max(f64::MIN_POSITIVE));
        let (a, b, c) = (ln(best - 1), ln(best), ln(best + 1));
        let bend = a - 2.0 * b + c;
        let shift = if bend < 0.0 { 0.5 * (a - c) / bend } else { 0.0 };
        Some((best as f64 + shift.clamp(-0.5, 0.5), self.power[best]))
    }
}

/// The strongest period that is not explained by those found already.
fn strongest(series: &Series, fft: &Fft, found: &[Period]) -> Option<Period> {
    let n = series.y.len();
    let energy: f64 = series.y.iter().map(|v| v * v).sum();
    if energy / n as f64 <= 1e-26 {
        return None;
    }
    let spectrum = Spectrum::new(series, fft);
    let covariance = Autocorrelation::new(&series.y, series, fft);
    // Lengths, and whether the periodogram has a significant peak there.
    let mut candidates: Vec<(f64, bool)> = Vec::new();
    for j in spectrum.peaks() {
        let frequency = spectrum.refine(j as f64, 1.0).map_or(j as f64, |(f, _)| f);
        candidates.push((fft.len() as f64 / frequency, true));
    }
    let is_top = |k: usize| {
        let r = covariance.at(k);
        r > 0.0 && r > covariance.at(k - 1) && r >= covariance.at(k + 1)
    };
    let mut lags: Vec<usize> = (2..=n / 2).filter(|k| is_top(*k)).collect();
    lags.sort_by(|a, b| covariance.at(*b).total_cmp(&covariance.at(*a)));
    // A season has the same height at all multiples of its length, give or take: the first count.
    let high = lags.first().map_or(0.0, |k| 0.6 * covariance.at(*k));
    lags.retain(|k| covariance.at(*k) >= high);
    lags.sort_unstable();
    candidates.extend(lags.into_iter().take(CANDIDATES).map(|lag| (lag as f64, false)));

    let mut filtered = Filtered { series, fft, by_width: Vec::new() };
    if series.present.iter().all(|p| *p) {
        filtered.by_width.push((0, covariance));
    }
    let mut best: Option<Period> = None;
    let mut tried: Vec<f64> = Vec::new();
    for (exact, spectral) in candidates {
        // A peak of the periodogram is a little off.
        if exact > 1.1 * n as f64 / 2.0 || tried.iter().any(|t| (t - exact).abs() < 0.5) {
            continue;
        }
        tried.push(exact);
        let length = exact.min(n as f64 / 2.0);
        let Some(period) = confirm(series, &spectrum, &mut filtered, length, spectral) else {
            continue;
        };
        if found.iter().any(|p| explains(p.exact, period.exact, n)) {
            continue;
        }
        // Of lengths that differ, the shortest that says at least half as much: what it leaves is found
        // next, while a common multiple of two seasons would hide both.
        let better = best.is_none_or(|best| {
            if 3 * period.length < 2 * best.length {
                period.strength > 0.5 * best.strength
            } else if 3 * best.length < 2 * period.length {
                period.strength > 2.0 * best.strength
            } else {
                period.strength > best.strength
            }
        });
        if better {
            best = Some(period);
        }
    }
    best
}

/// Whether a period found before, or one of its first harmonics, is this one.
fn explains(found: f64, exact: f64, n: usize) -> bool {
    (1..=6).any(|m| {
        let harmonic = found / f64::from(m);
        // what n values can tell apart
        let resolution = (harmonic * harmonic / n as f64).max(0.03 * harmonic).max(0.75);
        (harmonic - exact).abs() < resolution
    })
}

/// Correlations of a series with itself, over the pairs that are present.
struct Autocorrelation<'a> {
    covariance: Vec<f64>,
    pairs: &'a [f64],
    variance: f64,
}

/// How many multiples of a length its autocorrelation is averaged over.
const MULTIPLES: usize = 16;

impl<'a> Autocorrelation<'a> {
    fn new(x: &[f64], series: &'a Series, fft: &Fft) -> Self {
        let covariance = fft.autocovariance(&fft.power(x));
        let variance = covariance[0] / series.pairs[0].max(1.0);
        Autocorrelation { covariance, pairs: &series.pairs, variance }
    }

    fn pairs(&self, lag: usize) -> f64 {
        self.pairs.get(lag).copied().unwrap_or(0.0)
    }

    /// −1 where there is nothing to tell by.
    fn at(&self, lag: usize) -> f64 {
        let pairs = self.pairs(lag);
        if pairs >= 1.0 && self.variance > 0.0 {
            self.covariance[lag] / pairs / self.variance
        } else {
            -1.0
        }
    }

    /// The mean over the first multiples of a length by the number of pairs, and that number: only
    /// what comes back cycle after cycle counts, other periods cancel out.
    fn coherence(&self, exact: f64, n: usize) -> (f64, f64) {
        let (mut sum, mut weight) = (0.0, 0.0);
        for m in 1..=MULTIPLES {
            // rounded: lengths are 2 at least
            let lag = (m as f64 * exact + 0.5) as usize;
            if m > 1 && lag as f64 > n as f64 - 0.75 * exact {
                break;
            }
            let pairs = self.pairs(lag);
            if pairs >= 1.0 {
                sum += pairs * self.at(lag);
                weight += pairs;
            }
        }
        if weight > 0.0 { (sum / weight, weight) } else { (-1.0, 1.0) }
    }

    /// The length of best coherence within what a peak of the periodogram may be off.
    fn sharpen(&self, exact: f64, n: usize) -> (f64, f64) {
        let reach = (0.6 * exact * exact / n as f64).max(0.6).min(0.1 * exact.max(8.0));
        let cycles = (n as f64 / exact).clamp(1.0, MULTIPLES as f64);
        let steps = ((2.0 * reach * cycles).ceil() as usize).clamp(2, 200);
        let (from, to) = ((exact - reach).max(2.0), (exact + reach).min(n as f64 / 2.0));
        (0..=steps)
            .map(|k| from + (to - from) * k as f64 / steps as f64)
            .chain([exact, exact.round()])
            .map(|exact| (exact, self.coherence(exact, n).0))
            .fold((exact, f64::NEG_INFINITY), |best, new| if new.1 >= best.1 { new } else { best })
    }
}

/// The autocorrelations of a series without moving averages, by their width: lengths that are tried share
/// them.
struct Filtered<'a> {
    series: &'a Series,
    fft: &'a Fft,
    by_width: Vec<(usize, Autocorrelation<'a>)>,
}

impl<'a> Filtered<'a> {
    /// What a period near a length is confirmed by.
    fn beside(&mut self, length: usize) -> &Autocorrelation<'a> {
        let width = self.series.width(length);
        let at = self.by_width.iter().position(|(w, _)| *w == width).unwrap_or_else(|| {
            let r = Autocorrelation::new(&self.series.high_pass(width), self.series, self.fft);
            self.by_width.push((width, r));
            self.by_width.len() - 1
        });
        &self.by_width[at].1
    }
}

/// The period near a length, if autocorrelation confirms it: a hill, high enough for the number of
/// cycles. A multiple that is clearly better takes its place: the length is then that of a harmonic.
fn confirm(
    series: &Series,
    spectrum: &Spectrum,
    filtered: &mut Filtered<'_>,
    exact: f64,
    spectral: bool,
) -> Option<Period> {
    let n = series.y.len();
    let lag = (exact.round() as usize).clamp(2, n / 2);
    let r = filtered.beside(lag);
    // With some cycles a peak of the periodogram is more precise than lags are.
    let (mut exact, mut strength) = if spectral && n as f64 >= 6.0 * exact {
        (exact, r.coherence(exact, n).0)
    } else {
        r.sharpen(exact, n)
    };
    let error = 1.0 / r.pairs(lag).max(1.0).sqrt();
    let single = exact;
    for m in 2..=12 {
        let multiple = m as f64 * single;
        if multiple > n as f64 / 2.0 {
            break;
        }
        // A common multiple of two seasons is no season: it has no power of its own.
        let own = |h: usize| !h.is_multiple_of(m) && spectrum.has_peak(h as f64 / multiple);
        if !own(1) && !own(2) {
            continue;
        }
        let top = r.sharpen(multiple, n);
        // A week takes the place of a day only where the day alone says little.
        let needed = if m <= 4 { 1.1 } else { 1.6 } * strength.max(0.0);
        if top.1 > needed + 3.0 * error * (1.0 - top.1 * top.1).max(0.0) {
            (exact, strength) = top;
        }
    }
    if exact != single {
        // Moving averages over the short length have taken away what the long one has.
        return confirm(series, spectrum, filtered, exact, spectral);
    }

    let length = (exact.round() as usize).clamp(2, n / 2);
    let cycles = n as f64 / exact;
    let least = match cycles {
        c if c < 2.5 => 0.85,
        c if c < 3.5 => 0.7,
        c if c < 5.0 => 0.5,
        c if c < 10.0 => 0.25,
        _ => 0.06,
    };
    let (_, weight) = r.coherence(exact, n);
    if strength < least || strength < 4.0 / weight.sqrt() {
        return None;
    }
    let beside = if length >= 8 { length / 4 } else { 1 };
    let top = r.at(length).max(r.at(length - 1)).max(r.at(length + 1));
    let top = if length >= 8 { top } else { r.at(length) };
    if top <= r.at(length - beside) || top <= r.at(length + beside) {
        return None;
    }
    // Such coherence over four cycles no noise has.
    let coherent = strength >= 0.65 && cycles >= 4.0;
    if !spectral && !coherent {
        // Bartlett 1946: noise that is correlated over short lags has larger correlations at all lags.
        let stride = (length / 2 / 400).max(1);
        let sum: f64 =
            (1..=length / 2).step_by(stride).map(|k| r.at(k).powi(2) * stride as f64).sum();
        // The largest of as many normal values as there are lags, and some in between.
        let z = (2.0 * (libm::log(4.0 * n as f64) - libm::log(LAG_P))).sqrt();
        if strength < z * ((1.0 + 2.0 * sum) / weight).sqrt() {
            return None;
        }
    }
    // Where it is an integer as far as one can tell, it is one.
    let whole = r.coherence(length as f64, n).0;
    if whole >= strength - error {
        exact = length as f64;
    }
    Some(Period { length, exact, strength: strength.min(1.0) })
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::prelude::*;

    use super::*;

    /// SplitMix64 and Box and Muller.
    struct Rng(u64);

    impl Rng {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            let radius = (-2.0 * libm::log(self.uniform())).sqrt();
            radius * libm::cos(TAU * self.uniform())
        }
    }

    fn lengths(values: &[f64]) -> Vec<usize> {
        let mut lengths: Vec<usize> = detect_periods(values).iter().map(|p| p.length).collect();
        lengths.sort_unstable();
        lengths
    }

    fn series(n: usize, seed: u64, f: impl Fn(f64) -> f64, noise: f64) -> Vec<f64> {
        let mut rng = Rng(seed);
        (0..n).map(|i| f(i as f64) + noise * rng.normal()).collect()
    }

    fn sine(i: f64, period: f64) -> f64 {
        (TAU * i / period).sin()
    }

    #[test]
    fn one_sine_is_one_period() {
        for (n, period, noise) in [
            (60, 12.0, 0.1),
            (48, 24.0, 0.05),
            (120, 24.0, 0.4),
            (240, 24.0, 0.8),
            (1000, 7.0, 1.0),
            (2000, 288.0, 0.7),
            (5000, 1440.0, 0.3),
            (20_000, 1440.0, 1.0),
            (400, 2.0, 0.5),
            (400, 3.0, 0.5),
            (1000, 500.0, 0.1),
        ] {
            for seed in 0..if n < 5000 { 10 } else { 3 } {
                let y = series(n, seed, |i| 10.0 + sine(i + 3.3, period), noise);
                let found = detect_periods(&y);
                assert_eq!(found.len(), 1, "{n} {period} {noise} {seed}: {found:?}");
                let length = found[0].length as f64;
                let tolerance = (0.01 * period).max(0.15 * period * period / n as f64);
                assert!((length - period).abs() <= tolerance, "{n} {period}: {found:?}");
                let share = 0.5 / (0.5 + noise * noise);
                assert!((found[0].strength - share).abs() < 0.25, "{share}: {found:?}");
            }
        }
    }

    /// A day of hours with a working week: both are found, and nothing else.
    #[test]
    fn a_day_and_a_week_are_two_periods() {
        for seed in 0..10 {
            let y = series(
                24 * 7 * 8,
                seed,
                |i| {
                    let day = (i / 24.0) as usize % 7;
                    let weekday = if day < 5 { 1.0 } else { 0.35 };
                    50.0 + 20.0 * weekday * (1.0 - (TAU * (i - 3.0) / 24.0).cos())
                },
                3.0,
            );
            assert_eq!(lengths(&y), [24, 168], "{seed}");
        }
    }

    #[test]
    fn four_periods_are_found_and_no_more() {
        for seed in 0..5 {
            let f = |i: f64| {
                4.0 * sine(i, 11.0)
                    + 3.0 * sine(i, 40.0)
                    + 2.0 * sine(i, 150.0)
                    + 2.0 * sine(i, 7.0)
            };
            assert_eq!(lengths(&series(3000, seed, f, 1.0)), [7, 11, 40, 150], "{seed}");
        }
    }

    /// One value in 24 stands out, or the shape is a square wave: the fundamental, not a harmonic.
    #[test]
    fn the_fundamental_is_preferred_to_harmonics_and_multiples() {
        type Shape = fn(f64) -> f64;
        let shapes: [(&str, Shape); 4] = [
            ("spike", |i| if i % 24.0 == 5.0 { 10.0 } else { 0.0 }),
            ("square", |i| if i % 24.0 < 8.0 { 3.0 } else { 0.0 }),
            ("two humps", |i| 2.0 * sine(i, 12.0) + 1.2 * sine(i + 1.0, 24.0)),
            ("saw", |i| i % 24.0 / 6.0),
        ];
        for (name, shape) in shapes {
            for n in [240, 480, 3000] {
                for seed in 0..5 {
                    let found = lengths(&series(n, seed, shape, 0.5));
                    assert_eq!(found, [24], "{name} of {n}, {seed}");
                }
            }
        }
    }

    #[test]
    fn trends_spikes_gaps_and_shifts_do_not_hide_a_period() {
        let mut more = 0;
        let mut check = |name: &str, y: &[f64]| {
            let found = lengths(y);
            assert!(found.contains(&24), "{name}: {found:?}");
            more += found.len() - 1;
        };
        for seed in 0..20 {
            let clean = series(600, seed, |i| 100.0 + 5.0 * sine(i, 24.0), 1.0);
            let mut rng = Rng(seed + 1000);
            let mut gaps = clean.clone();
            gaps.iter_mut().filter(|_| rng.uniform() < 0.3).for_each(|v| *v = f64::NAN);
            gaps[200..260].fill(f64::NAN);
            check("gaps", &gaps);
            let mut spikes = clean.clone();
            for v in spikes.iter_mut().filter(|_| rng.uniform() < 0.02) {
                *v += 500.0;
            }
            spikes[17] = f64::INFINITY;
            spikes[18] = -1e30;
            check("spikes", &spikes);
            let trend: Vec<f64> =
                clean.iter().enumerate().map(|(i, v)| v + 0.2 * i as f64).collect();
            check("trend", &trend);
            let bend: Vec<f64> = clean
                .iter()
                .enumerate()
                .map(|(i, v)| v + 40.0 * (i as f64 / 300.0).powi(2))
                .collect();
            check("bend", &bend);
            let shift: Vec<f64> = clean
                .iter()
                .enumerate()
                .map(|(i, v)| if i < 350 { *v } else { v + 30.0 })
                .collect();
            check("shift", &shift);
            let mut level = 0.0;
            let walk: Vec<f64> = clean
                .iter()
                .map(|v| {
                    level += rng.normal();
                    v + level
                })
                .collect();
            check("walk", &walk);
        }
        // 120 series, each with its chance of a false one
        assert!(more <= 3, "{more}");
    }

    #[test]
    fn noise_has_no_period() {
        type Make = fn(&mut Rng, usize) -> Vec<f64>;
        fn cumulated(rng: &mut Rng, n: usize, keep: f64) -> Vec<f64> {
            let mut level = 0.0;
            (0..n)
                .map(|_| {
                    level = keep * level + rng.normal();
                    level
                })
                .collect()
        }
        let kinds: [(&str, Make); 7] = [
            ("white", |rng, n| (0..n).map(|_| rng.normal()).collect()),
            ("heavy", |rng, n| (0..n).map(|_| rng.normal() / rng.uniform()).collect()),
            ("walk", |rng, n| cumulated(rng, n, 1.0)),
            ("ar", |rng, n| cumulated(rng, n, 0.9)),
            ("ar half", |rng, n| cumulated(rng, n, 0.5)),
            ("trend", |rng, n| (0..n).map(|i| (i as f64 / 50.0).powi(2) + rng.normal()).collect()),
            ("shift", |rng, n| {
                let at = (rng.uniform() * n as f64) as usize;
                (0..n).map(|i| if i < at { 0.0 } else { 10.0 } + rng.normal()).collect()
            }),
        ];
        for (name, make) in kinds {
            let mut false_ones = Vec::new();
            for (n, series) in [(20, 200), (50, 200), (120, 200), (400, 100), (1000, 50)] {
                let mut rng = Rng(n as u64);
                for _ in 0..series {
                    false_ones.extend(detect_periods(&make(&mut rng, n)).first().map(|p| (n, *p)));
                }
            }
            assert!(false_ones.len() <= 7, "{name}, of 750: {false_ones:?}");
        }
    }

    #[test]
    fn series_without_information_have_no_period() {
        for y in [
            vec![],
            vec![1.0],
            vec![1.0, 2.0, 1.0, 2.0],
            vec![f64::NAN; 100],
            vec![5.0; 100],
            vec![f64::INFINITY; 50],
            (0..100).map(f64::from).collect(),
        ] {
            assert_eq!(detect_periods(&y), []);
        }
        // one and a half cycles
        assert_eq!(detect_periods(&series(150, 1, |i| sine(i, 100.0), 0.01)), []);
    }

    #[test]
    fn huge_and_tiny_values_keep_their_period() {
        for unit in [1e308, 1e-310, 1e-300, 1e100] {
            let y: Vec<f64> = series(200, 3, |i| 0.5 * sine(i, 20.0), 0.05);
            let y: Vec<f64> = y.iter().map(|v| v * unit).collect();
            assert_eq!(lengths(&y), [20], "{unit}");
        }
    }

    proptest! {
        #[test]
        fn any_series_is_answered(
            y in prop::collection::vec(
                prop_oneof![
                    6 => -100.0..100.0f64,
                    3 => Just(1.0),
                    1 => prop::sample::select(
                        vec![f64::NAN, f64::INFINITY, -f64::INFINITY, -1e308, 1e308, 1e-310],
                    ),
                ],
                0..300,
            ),
        ) {
            for period in detect_periods(&y) {
                prop_assert!(period.length >= 2 && period.length <= y.len() / 2);
                prop_assert!(period.strength > 0.0 && period.strength <= 1.0);
                prop_assert!((period.exact - period.length as f64).abs() <= 1.0);
            }
        }
    }
}
