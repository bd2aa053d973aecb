//! `alerts_per_day` is a promise over all entities of a detector: 200 of them on quiet control days.

mod common;

use anomaly_core::{DetectorConfig, Transition};
use common::available::{detector, of_kind, trained_on};
use common::series::{DAY, MINUTE, Sample, Series, Shape, Times, series};
use common::{Rng, in_full, repetitions};

const ENTITIES: u64 = 200;
/// Enough for what `auto` says of small shares; see docs/calibration.md.
const HISTORY: i64 = 21;

/// The least number that a Poisson variable of this mean exceeds once in twenty times at most.
fn poisson_95(mean: f64) -> u64 {
    let (mut term, mut k) = (libm::exp(-mean), 0u64);
    let mut sum = term;
    while sum < 0.95 {
        k += 1;
        term *= mean / k as f64;
        sum += term;
    }
    k
}

#[test]
fn the_bound_is_that_of_tables() {
    assert_eq!([0.5, 1.0, 5.0, 10.0, 100.0].map(poisson_95), [2, 3, 9, 15, 117]);
}

/// A day's course with AR(1) noise on it.
fn season_and_ar1(points: usize, step: i64, seed: u64) -> Series {
    let mut all =
        series(Shape::Seasonal { weekly: false, trend: 0.0 }, Times::Every(step), points, seed);
    let mut rng = Rng(seed);
    let mut noise = rng.normal();
    for sample in &mut all.samples {
        noise = 0.6 * noise + 0.8 * rng.normal();
        sample.value = sample.centre + 3.0 * noise;
    }
    all
}

/// What an entity of the control day is like.
#[derive(Clone, Copy)]
enum Entity {
    Of(Shape),
    SeasonAndAr1,
}

const KINDS: [(&str, Entity); 6] = [
    ("white noise", Entity::Of(Shape::White)),
    ("AR(1) 0.5", Entity::Of(Shape::Ar1 { phi: 0.5 })),
    ("AR(1) 0.9", Entity::Of(Shape::Ar1 { phi: 0.9 })),
    ("a daily course", Entity::Of(Shape::Seasonal { weekly: false, trend: 0.0 })),
    ("a daily course with AR(1) 0.6", Entity::SeasonAndAr1),
    ("lognormal", Entity::Of(Shape::LogNormal { sigma: 0.5 })),
];

fn quiet(entity: Entity, points: usize, step: i64, seed: u64) -> Series {
    match entity {
        Entity::Of(shape) => series(shape, Times::Every(step), points, seed),
        Entity::SeasonAndAr1 => season_and_ar1(points, step, seed),
    }
}

/// Alerts that the entities of a detector raise in `days` after their history, and how many are promised.
fn alerts(
    strategy: &str,
    kind: impl Fn(u64) -> Entity,
    entities: u64,
    days: i64,
    per_day: f64,
) -> (u64, f64) {
    let step = 10 * MINUTE;
    let (history, judged) = ((HISTORY * DAY / step) as usize, (days * DAY / step) as usize);
    // The promise of each entity is its share of the detector's.
    let per_day = per_day * entities as f64 / ENTITIES as f64;
    let mut opened = 0;
    for entity in 0..entities {
        let all = quiet(kind(entity), history + judged, step, 1000 + entity);
        let detector = detector(DetectorConfig {
            alerts_per_day: per_day,
            points_per_day: Some(entities as f64 * (DAY / step) as f64),
            entities,
            ..of_kind(strategy, all.kind)
        });
        let (before, after) = all.samples.split_at(history);
        let mut state = trained_on(&detector, before);
        let opens = |s: &&Sample| {
            let outcome = detector.process(&mut state, None, &s.point());
            matches!(outcome.transition, Some(Transition::Opened(_)))
        };
        opened += after.iter().filter(opens).count() as u64;
    }
    (opened, per_day * days as f64)
}

/// Fails with all that raised more than chance explains.
fn assert_kept(broken: &[String]) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A detector over series of all kinds, as one over hosts is.
#[test]
fn quiet_control_days_of_200_entities_keep_the_promised_rate() {
    let entities = repetitions(ENTITIES, 60);
    let mut broken = Vec::new();
    for strategy in ["auto", "mad"] {
        for (per_day, days) in [(1.0, 3), (20.0, 1)] {
            let kind = |entity: u64| KINDS[entity as usize % KINDS.len()].1;
            let (opened, promised) = alerts(strategy, kind, entities, days, per_day);
            let most = poisson_95(promised);
            let said = format!(
                "{strategy}: {opened} alerts of {entities} entities in {days} days, {promised} promised, {most} at most"
            );
            println!("{said}");
            if opened > most {
                broken.push(said);
            }
        }
    }
    assert_kept(&broken);
}

/// The same for each kind by itself, where a kind that breaks the promise cannot hide among others.
#[test]
fn quiet_control_days_of_each_kind_keep_the_promised_rate() {
    if !in_full() {
        return;
    }
    let mut broken = Vec::new();
    for strategy in ["auto", "mad"] {
        for (name, entity) in KINDS {
            for (per_day, days) in [(1.0, 3), (10.0, 2)] {
                let (opened, promised) = alerts(strategy, |_| entity, ENTITIES, days, per_day);
                let most = poisson_95(promised);
                let said = format!(
                    "{strategy}, {name}: {opened} alerts in {days} days, {promised} promised, {most} at most"
                );
                println!("{said}");
                if opened > most {
                    broken.push(said);
                }
            }
        }
    }
    assert_kept(&broken);
}
