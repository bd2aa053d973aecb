//! Replays series through a strategy, causally: each point is judged before it is learned.
//!
//! `cargo run --release --example replay -- STRATEGY PARAMS DATA OUT` reads `DATA/<category>/<series>.csv`
//! (`timestamp,value`) and writes the same with `timestamp,anomaly_score`, the score being
//! deviation / (1 + deviation). It goes the way of `detect_anomalies` with default settings, without a
//! database. `bench/quality/nested_splits.py` and the scoring programs of a quality folder read it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anomaly_core::{Detector, DetectorConfig, Point, Status};

/// Microseconds since 2000-01-01 of `2014-02-14 14:30:00`.
fn at(stamp: &str) -> Option<i64> {
    let part = |from: usize, to: usize| stamp.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let seconds = part(11, 13)? * 3600 + part(14, 16)? * 60 + part(17, 19).unwrap_or(0);
    let years = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * years + years / 4 - years / 100 + years / 400 + of_year - 730_425;
    Some((days * 86_400 + seconds) * 1_000_000)
}

fn replay(detector: &Detector, text: &str) -> Option<(String, usize, String)> {
    let mut state = detector.new_state();
    let mut out = String::from("timestamp,anomaly_score,flag,statistic\n");
    let (mut last, mut rows) = (i64::MIN, 0);
    for line in text.lines().skip(1) {
        let mut fields = line.split(',');
        let stamp = fields.next()?;
        let value: f64 = fields.next()?.trim().parse().ok()?;
        last = at(stamp)?.max(last.saturating_add(1));
        let verdict = detector.process(&mut state, None, &Point::new(last, value)).verdict;
        let judged = verdict.status == Status::Ok && !verdict.deviation().is_nan();
        let deviation = if judged { verdict.deviation() } else { 0.0 };
        let flag = u8::from(verdict.is_anomaly);
        writeln!(out, "{stamp},{},{flag},{}", deviation / (1.0 + deviation), verdict.statistic)
            .ok()?;
        rows += 1;
    }
    let explained = state.model.explain();
    let chosen = explained.get("strategy").and_then(|s| s.as_str()).unwrap_or("").to_owned();
    Some((out, rows, chosen))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [strategy, params, data, out] = arguments.as_slice() else {
        return Err("usage: replay STRATEGY PARAMS DATA OUT".into());
    };
    let config = DetectorConfig {
        strategy: strategy.clone(),
        params: serde_json::from_str(params)?,
        ..DetectorConfig::default()
    };
    let detector = Detector::new(config).map_err(|e| format!("{e:?}"))?;
    let (mut rows, start) = (0, Instant::now());
    for folder in fs::read_dir(data)? {
        let folder = folder?.path();
        if !folder.is_dir() || folder.ends_with("labels") {
            continue;
        }
        for file in fs::read_dir(&folder)? {
            let file = file?.path();
            let (Some(category), Some(name)) = (folder.file_name(), file.file_name()) else {
                continue;
            };
            let replayed = replay(&detector, &fs::read_to_string(&file)?);
            let (text, n, chosen) =
                replayed.ok_or_else(|| format!("cannot read {}", file.display()))?;
            rows += n;
            if !chosen.is_empty() {
                println!("{} {chosen}", Path::new(category).join(name).display());
            }
            let target = Path::new(out).join(category);
            fs::create_dir_all(&target)?;
            fs::write(target.join(name), text)?;
        }
    }
    let each = start.elapsed().as_secs_f64() / rows.max(1) as f64;
    println!("{rows} rows, {:.2} µs each", each * 1e6);
    Ok(())
}
