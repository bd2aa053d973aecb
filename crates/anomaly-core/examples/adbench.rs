//! Area under the ROC curve and average precision of forests over labelled tables, a line per table
//! and a pair of columns per strategy; the mean of three seeds.
//!
//! `cargo run --release -p anomaly-core --example adbench -- DIR [--scores OUT] [NAME=OPTIONS]...`
//!
//! DIR holds CSV files with columns row,label,f1,…,fd and a header. OPTIONS are those of
//! isolation_forest as JSON. Labels are read by the measure only: all rows are sampled, and all are
//! scored. OUT gets one NAME.csv per strategy with dataset,row,score,seed.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anomaly_core::forest::{Model, Options, Sampler, Scratch};
use anomaly_core::progress::Unbounded;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Table {
    name: String,
    features: usize,
    values: Vec<f64>,
    labels: Vec<bool>,
}

fn read(path: &Path) -> Result<Table> {
    let name = path.file_stem().ok_or("no file name")?.to_string_lossy().into_owned();
    let mut table = Table { name, features: 0, values: Vec::new(), labels: Vec::new() };
    for line in fs::read_to_string(path)?.lines().skip(1) {
        let mut fields = line.split(',').skip(1);
        table.labels.push(fields.next() == Some("1"));
        let before = table.values.len();
        for field in fields {
            table.values.push(if field.is_empty() { f64::NAN } else { field.parse()? });
        }
        table.features = table.values.len() - before;
    }
    Ok(table)
}

/// AUROC with mid-ranks, and average precision with tied scores as one threshold.
fn measures(scores: &[f64], labels: &[bool]) -> [f64; 2] {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let anomalies = labels.iter().filter(|l| **l).count() as f64;
    let normal = labels.len() as f64 - anomalies;
    let (mut found, mut flagged, mut area, mut precision) = (0.0, 0.0, 0.0, 0.0);
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let hits = tied.iter().filter(|i| labels[**i]).count() as f64;
        let misses = tied.len() as f64 - hits;
        area += misses * (found + 0.5 * hits);
        found += hits;
        flagged += tied.len() as f64;
        precision += hits * found / flagged;
    }
    [area / (anomalies * normal), precision / anomalies]
}

/// Deviation of every row, trained on all rows.
fn scores(table: &Table, options: &Map<String, Value>, seed: u64) -> Result<Vec<f64>> {
    let mut options = options.clone();
    options.insert("random_state".into(), seed.into());
    let options = Options::from_json(&options)?;
    let mut sampler = Sampler::new(table.features, options.sample_rows, seed)?;
    for row in table.values.chunks_exact(table.features) {
        sampler.add(row)?;
    }
    let forest = Model::train(&sampler.sample()?, &options, &mut Unbounded)?;
    let mut scratch = Scratch::default();
    let rows = table.values.chunks_exact(table.features);
    rows.map(|row| Ok(-forest.judge(row, &mut scratch)?.ln_p)).collect()
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: adbench DIR [--scores OUT] [NAME=OPTIONS]...")?;
    let mut out: Option<PathBuf> = None;
    let mut strategies = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--scores" {
            out = Some(args.next().ok_or("--scores needs a folder")?.into());
            continue;
        }
        let (name, json) = arg.split_once('=').ok_or("a strategy is NAME=OPTIONS")?;
        strategies.push((name.to_owned(), serde_json::from_str::<Map<String, Value>>(json)?));
    }
    if strategies.is_empty() {
        strategies.push(("default".to_owned(), Map::new()));
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(&dir)?.map(|f| Ok(f?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "csv"));
    files.sort();

    print!("{:22}", "set, AUROC AP");
    strategies.iter().for_each(|(name, _)| print!(" {name:>15}"));
    println!();
    let mut means = vec![[0.0; 2]; strategies.len()];
    let mut seconds = vec![0.0; strategies.len()];
    let mut written = vec![String::from("dataset,row,score,seed\n"); strategies.len()];
    for file in &files {
        let table = read(file)?;
        print!("{:22}", table.name);
        for (i, (_, options)) in strategies.iter().enumerate() {
            let mut mean = [0.0; 2];
            for seed in 0..3 {
                let start = Instant::now();
                let scores = scores(&table, options, seed)?;
                seconds[i] += start.elapsed().as_secs_f64();
                for (m, v) in mean.iter_mut().zip(measures(&scores, &table.labels)) {
                    *m += v / 3.0;
                }
                if out.is_some() {
                    for (row, score) in scores.iter().enumerate() {
                        writeln!(written[i], "{},{row},{score},{seed}", table.name)?;
                    }
                }
            }
            print!("   {:.4} {:.4}", mean[0], mean[1]);
            for (m, v) in means[i].iter_mut().zip(mean) {
                *m += v / files.len() as f64;
            }
        }
        println!();
    }
    print!("{:22}", "mean");
    means.iter().for_each(|m| print!("   {:.4} {:.4}", m[0], m[1]));
    print!("\n{:22}", "seconds");
    seconds.iter().for_each(|s| print!(" {s:15.1}"));
    println!();
    if let Some(out) = out {
        fs::create_dir_all(&out)?;
        for ((name, _), text) in strategies.iter().zip(written) {
            fs::write(out.join(format!("{name}.csv")), text)?;
        }
    }
    Ok(())
}
