//! The fuzzers' functions over their seeds and damaged copies of them.

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::sync::LazyLock;
use std::{env, fs};

use anomaly_core::codec;
use anomaly_core::sketch::Sketch;
use anomaly_core::strategy::STRATEGIES;
use fuzz::{TARGETS, Target};
use proptest::prelude::*;
use proptest::sample::Index;

static SEEDS: LazyLock<Vec<Vec<Vec<u8>>>> =
    LazyLock::new(|| TARGETS.iter().map(|target| (target.seeds)()).collect());

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz");

/// With FUZZ_SEEDS=1 it writes the seeds to where cargo-fuzz looks for them.
#[test]
fn seeds_hold_and_every_target_has_a_fuzzer() {
    let mut names: Vec<String> = fs::read_dir(format!("{FOLDER}/fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut expected: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    expected.sort();
    assert_eq!(names, expected);
    let manifest = fs::read_to_string(format!("{FOLDER}/Cargo.toml")).unwrap();
    for Target { name, run, seeds } in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let corpus = format!("{FOLDER}/corpus/{name}");
        for (i, seed) in seeds().iter().enumerate() {
            run(seed);
            if env::var_os("FUZZ_SEEDS").is_some() {
                fs::create_dir_all(&corpus).unwrap();
                fs::write(format!("{corpus}/seed{i}"), seed).unwrap();
            }
        }
    }
}

/// Else the fuzzers would spend their time on what the first check refuses.
#[test]
fn seeds_get_past_the_checks() {
    let seeds = |name: &str| (TARGETS.iter().find(|t| t.name == name).unwrap().seeds)();
    for text in &seeds("sketch_text")[..3] {
        Sketch::decode(&codec::from_text(text).unwrap()).unwrap();
    }
    let available = STRATEGIES.iter().filter(|s| s.is_available());
    let kinds: usize = available.map(|s| s.kinds.len()).sum();
    let states = seeds("entity_state");
    // and auto of several columns
    assert_eq!(states.len(), 3 * (kinds + 1));
    assert!(states.len() <= 3 * 256, "one byte picks no more");
    for text in seeds("cron") {
        let text = String::from_utf8(text).unwrap();
        let (expression, zone) = text.split_once('\n').unwrap_or((&text, "UTC"));
        anomaly_core::schedule::next_fire(expression, zone, 0).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for target in TARGETS {
            (target.run)(&bytes);
        }
    }

    #[test]
    fn any_text(text in "\\PC{0,30}(\n\\PC{0,10})?") {
        for target in TARGETS {
            (target.run)(text.as_bytes());
        }
    }

    /// Bytes, or whole words, of a seed replaced, and the end cut off.
    #[test]
    fn damaged_seeds(
        pick in any::<Index>(),
        bytes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        words in prop::collection::vec((any::<Index>(), prop_oneof![
            any::<u64>(), 0..3000_u64, Just(u64::MAX), Just(f64::NAN.to_bits()), Just(f64::MAX.to_bits()),
        ]), 0..3),
        cut in prop_oneof![3 => Just(0), 1 => 0..20_usize],
    ) {
        for (target, seeds) in TARGETS.iter().zip(SEEDS.iter()) {
            let mut seed = pick.get(seeds).clone();
            for (at, byte) in &bytes {
                let at = at.index(seed.len());
                seed[at] = *byte;
            }
            for (at, word) in &words {
                // sketches and counts begin at a word, states behind one byte
                let at = 8 * at.index(seed.len().div_ceil(8)) + usize::from(target.name == "entity_state");
                if let Some(slot) = seed.get_mut(at..at + 8) {
                    slot.copy_from_slice(&word.to_le_bytes());
                }
            }
            seed.truncate(seed.len().saturating_sub(cut));
            (target.run)(&seed);
        }
    }
}
