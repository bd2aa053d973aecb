//! The share of stable points that each available strategy flags, divided by the promised share, per
//! kind of series: the table of docs/calibration.md, in Markdown. What is not nominal is in brackets; a
//! kind that a strategy refuses is a dash.
//!
//! `cargo run --release -p anomaly-core --example calibration [series per cell [judged points
//! [strategy …]]]`. 14 series of 8,000 judged points each are 1,000 and more series in all.

use std::io::Write;

use anomaly_core::strategy::{Kind, STRATEGIES};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/stable.rs"]
mod stable;

/// Within a fifth of the promise; of counts, whose whole numbers cannot meet it, not above.
fn is_nominal(kind: Kind, common: f64, rare: f64) -> bool {
    let least = if kind == Kind::Value { 0.8 } else { 0.0 };
    [common, rare].iter().all(|share| (least..=1.2).contains(share))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (series, judged) = (number(0, 14), number(1, 8000) as usize);
    let wanted = args.get(2..).unwrap_or_default();
    println!(
        "At alpha 0.01 / 0.001: flagged share, promised = 1; in brackets what is not nominal.\n"
    );
    print!("| strategy |");
    stable::KINDS.iter().for_each(|kind| print!(" {} |", kind.name));
    print!("\n|---|");
    stable::KINDS.iter().for_each(|_| print!("---|"));
    println!();
    for info in STRATEGIES.iter().filter(|s| s.is_available()) {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == info.short_name) {
            continue;
        }
        print!("| {} |", info.short_name);
        for noise in &stable::KINDS {
            let share = |alpha| stable::share(info.name, noise, alpha, 0..series, judged);
            match (share(0.01), share(0.001)) {
                (Some(common), Some(rare)) if is_nominal(noise.kind, common, rare) => {
                    print!(" {common:.2} / {rare:.2} |");
                }
                (Some(common), Some(rare)) => print!(" ({common:.2} / {rare:.2}) |"),
                _ => print!(" – |"),
            }
            let _ = std::io::stdout().flush();
        }
        println!();
    }
}
