//! One function for each kind of input that reaches the core crate as bytes or text, with what has
//! to hold whatever the input is, and seeds for it. The fuzzers in `fuzz_targets` call them, and so
//! does `crates/anomaly-core/tests/fuzz_targets.rs`, which compiles this file on stable Rust.

use anomaly_core::autoencoder::{Autoencoder, AutoencoderOptions};
use anomaly_core::exported::{self, ExportedModel};
use anomaly_core::forest::{self, Model, Options, Sample, Scratch, sampler};
use anomaly_core::lstm::{LstmForecaster, LstmOptions, Workspace};
use anomaly_core::neural::Budget;
use anomaly_core::one_class_svm::{OneClassSvm, OneClassSvmOptions};
use anomaly_core::recurrence::{Length, Occurrences, Recurrence};
use anomaly_core::schedule::CronSchedule;
use anomaly_core::sketch::{self, Sketch, View};
use anomaly_core::strategy::{Kind, STRATEGIES};
use anomaly_core::{Detector, DetectorConfig, EntityState, Point, codec, host, progress, volume};
use serde_json::{Value, json};

/// A fuzzer by the name of its file in `fuzz_targets`.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that get past the first checks.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "sketch_bytes", run: sketch_bytes, seeds: sketch_bytes_seeds },
    Target { name: "sketch_text", run: sketch_text, seeds: sketch_text_seeds },
    Target { name: "entity_state", run: entity_state, seeds: entity_state_seeds },
    Target { name: "parameters", run: parameters, seeds: parameters_seeds },
    Target { name: "cron", run: cron, seeds: cron_seeds },
    Target { name: "recurrence", run: recurrence, seeds: recurrence_seeds },
    Target { name: "volume", run: volume, seeds: volume_seeds },
    Target { name: "proc", run: proc, seeds: proc_seeds },
    Target { name: "forest_model", run: forest_model, seeds: forest_model_seeds },
    Target { name: "learned_model", run: learned_model, seeds: learned_model_seeds },
    Target { name: "exported_model", run: exported_model, seeds: exported_model_seeds },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// First line and the rest.
fn two_texts(data: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(data).ok()?;
    Some(text.split_once('\n').unwrap_or((text, "")))
}

/// The wire format of anomaly_sketch without its checksum, and the same words as a stored value.
pub fn sketch_bytes(data: &[u8]) {
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    if let Ok(sketch) = Sketch::decode(&sealed) {
        assert_eq!(sketch.encode().as_ref(), Ok(&sealed));
        use_sketch(sketch);
    }
    // A stored value is checked for structure only.
    let words: Vec<u64> = data.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    if let Ok(view) = View::new(&words) {
        let _ = (view.moments(), view.median(), view.robust(), view.settled(), view.encode());
        let mut state = words.clone();
        if let Ok(sketch::Room::Grow(len)) = sketch::merge(&mut state, &words) {
            state.resize(len, 0);
            let _ = sketch::merge(&mut state, &words);
        }
        let _ = sketch::make_room(&mut state);
    }
}

fn use_sketch(mut sketch: Sketch) {
    let view = sketch.view().expect("a decoded sketch is sound");
    let moments = view.moments().expect("a decoded sketch has moments");
    let _ = (moments.mean(), moments.variance(), moments.skewness(), moments.kurtosis());
    let _ = (moments.zscore(1.0), view.robust(), view.iqr(), view.iqr_bounds(1.5));
    assert!(view.rank_error() >= 0.0);
    if let Some(qs) = view.quantiles([0.0, 0.3, 0.5, 1.0]).expect("the fractions are valid") {
        assert!(qs.windows(2).all(|pair| pair[0] <= pair[1]), "{qs:?}");
    }
    let _ = sketch.merge(&sketch.clone());
    for i in 0..300 {
        let _ = sketch.push(f64::from(i));
    }
    let bytes = sketch.encode().expect("a sketch in use is sound");
    assert_eq!(Sketch::decode(&bytes).as_ref().map(Sketch::encode), Ok(Ok(bytes)));
}

fn sketches() -> Vec<Vec<u8>> {
    [0, 3, 700]
        .map(|n| {
            let mut sketch = Sketch::new(128).expect("the smallest capacity");
            for i in 0..n {
                sketch.push(f64::from((i * 37) % 101) / 8.0).expect("there is room");
            }
            let _ = (sketch.push(f64::NAN), sketch.push(f64::INFINITY));
            sketch.push_null();
            sketch.encode().expect("a sketch in use is sound")
        })
        .into()
}

fn sketch_bytes_seeds() -> Vec<Vec<u8>> {
    sketches().into_iter().map(|bytes| bytes[..bytes.len() - 4].to_vec()).collect()
}

/// The text form of `anomaly_sketch`.
pub fn sketch_text(data: &[u8]) {
    let Some(bytes) = codec::from_text(data) else { return };
    assert_eq!(codec::to_text(&bytes), data.to_ascii_lowercase());
    if let Ok(sketch) = Sketch::decode(&bytes) {
        assert_eq!(sketch.encode(), Ok(bytes));
    }
}

fn sketch_text_seeds() -> Vec<Vec<u8>> {
    sketches()
        .iter()
        .map(|bytes| codec::to_text(bytes))
        .chain(texts(&["\\x", "\\x0", "x00"]))
        .collect()
}

const TEN_MINUTES: i64 = 600_000_000;

/// One detector for each available strategy and kind of value that it takes, and of auto, which is
/// another one with further columns, two.
fn detectors() -> impl Iterator<Item = (&'static str, Kind, usize)> {
    let available = STRATEGIES.iter().filter(|strategy| strategy.is_available());
    let all = available.flat_map(|s| s.kinds.iter().map(|kind| (s.name, *kind, 0)));
    all.chain([("hybrid_auto", Kind::Value, 2)])
}

fn detector((strategy, kind, features): (&str, Kind, usize)) -> Detector {
    // flags one normal point in a thousand
    let config = DetectorConfig {
        strategy: strategy.into(),
        // threshold cannot do without
        params: if strategy == "statistical_threshold" { json!({"min": 0}) } else { Value::Null },
        kind,
        features: (0..features).map(|i| format!("f{i}")).collect(),
        alerts_per_day: 0.001,
        points_per_day: Some(1.0),
        ..DetectorConfig::default()
    };
    Detector::new(config).expect("these settings are valid for every strategy")
}

/// The first byte picks a strategy and a kind of value; the rest is the stored state of an entity
/// without its envelope.
pub fn entity_state(data: &[u8]) {
    let Some((pick, payload)) = data.split_first() else { return };
    let picks: Vec<_> = detectors().collect();
    let detector = detector(picks[usize::from(*pick) % picks.len()]);
    let _ = detector.decode_state(payload);
    let algorithm = detector.strategy().algorithm();
    let bytes = codec::wrap(algorithm, payload).expect("it is far below 4 GiB");
    let Ok(mut state) = detector.decode_state(&bytes) else { return };
    for x in [0.0, -1e300, 1e300, f64::NAN, f64::INFINITY, 5e-324] {
        let verdict = detector.process(&mut state, None, &Point::new(0, x)).verdict;
        assert!(verdict.deviation() <= 1e6 || verdict.value.is_nan(), "{verdict:?}");
        detector.description(&verdict);
    }
    for i in 0..300 {
        detector.process(&mut state, None, &Point::new(i * TEN_MINUTES, i as f64));
    }
    state.model.explain();
    sound(&detector, &state);
}

/// A state that could be read must not turn into one that cannot.
fn sound(detector: &Detector, state: &EntityState) {
    let bytes = detector.encode_state(state).expect("it is far below 4 GiB");
    if let Err(error) = detector.decode_state(&bytes) {
        panic!("{}: {error}", detector.strategy().name());
    }
}

fn entity_state_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (pick, which) in detectors().enumerate() {
        let detector = detector(which);
        for (points, peak) in [(0, 1.0), (130, 1.0), (130, 99.5)] {
            let mut state = detector.new_state();
            for i in 0..points {
                let value = ((i * 37) % 11) as f64 + 0.25;
                detector.train(&mut state, &Point::new(i * TEN_MINUTES, value));
            }
            detector.process(&mut state, None, &Point::new(points * TEN_MINUTES, peak));
            let bytes = detector.encode_state(&state).expect("it is far below 4 GiB");
            let (_, payload) = codec::unwrap(&bytes).expect("it was just sealed");
            seeds.push([&[pick as u8], payload].concat());
        }
    }
    seeds
}

/// The name of a strategy, and on the next lines its parameters as JSON.
pub fn parameters(data: &[u8]) {
    let Some((strategy, json)) = two_texts(data) else { return };
    let Ok(params) = serde_json::from_str(json) else { return };
    let config = DetectorConfig { strategy: strategy.into(), params, ..DetectorConfig::default() };
    let Ok(detector) = Detector::new(config) else { return };
    let mut state = detector.new_state();
    for i in 0..300 {
        detector.process(&mut state, None, &Point::new(i * TEN_MINUTES, (i % 7) as f64));
    }
    sound(&detector, &state);
}

fn parameters_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for strategy in STRATEGIES {
        let name = strategy.short_name;
        for params in ["", "{}", "null", "{\"sketch_capacity\": 128}"] {
            seeds.push(format!("{name}\n{params}").into_bytes());
        }
    }
    seeds
}

/// A recurrence rule, and on the next line a time zone (UTC without one).
pub fn recurrence(data: &[u8]) {
    let Some((rule, zone)) = two_texts(data) else { return };
    let zone = if zone.is_empty() { "UTC" } else { zone };
    let day = 86_400_000_000;
    for start in [0, 26 * 365 * day + 1] {
        let Ok(recurrence) = Recurrence::new(start, zone, Some(rule)) else { continue };
        let length = Length { months: 0, days: 0, micros: 1 };
        let occurrences = Occurrences::new(recurrence.clone(), length).expect("a microsecond");
        for from in [i64::MIN, start, start + 1000 * day, i64::MAX] {
            let until = from.saturating_add(400 * day);
            let Ok(starts) = recurrence.starts(from, until, 1000) else { continue };
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(starts.iter().all(|at| (from.max(start)..=until).contains(at)));
            if let Some(first) = starts.first() {
                assert_eq!(occurrences.next(from).map(|o| o.start), Some(*first));
            }
        }
    }
}

fn recurrence_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "FREQ=DAILY",
        "RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE;WKST=SU\nEurope/Berlin",
        "FREQ=MONTHLY;BYDAY=-1FR,2TU;BYSETPOS=1,-1;COUNT=40\nAmerica/New_York",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1,29;BYHOUR=2;BYMINUTE=30;UNTIL=20300101T000000Z",
        "FREQ=MINUTELY;INTERVAL=1439;BYHOUR=3;UNTIL=20270101\nAustralia/Lord_Howe",
        "FREQ=HOURLY;INTERVAL=7;BYMINUTE=0,20,40;BYSETPOS=-1",
    ])
}

/// A cron expression, and on the next line a time zone (UTC without one).
pub fn cron(data: &[u8]) {
    let Some((expression, zone)) = two_texts(data) else { return };
    let zone = if zone.is_empty() { "UTC" } else { zone };
    let Ok(schedule) = CronSchedule::new(expression, zone) else { return };
    for after in [0, 835_000_000_123_456, -10_000_000_000_000_000, i64::MIN, i64::MAX] {
        if let Ok(next) = schedule.next_fire(after) {
            assert!(next > after, "{expression:?} in {zone}: {next} is not after {after}");
        }
    }
}

fn cron_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "*/5 * * * *",
        "30 2 * * *\nEurope/Berlin",
        "*/20 0-7,12 1,15 JAN-MAR,dec MON-FRI",
        "0 0 29 2 *\nAmerica/New_York",
        "0 0 L * 5L",
        "15,45 */20 * * * SUN#2\nAsia/Kolkata",
        "0 12 15W * *\nAustralia/Lord_Howe",
        "@hourly",
    ])
}

/// Counts per time bucket, eight bytes each.
pub fn volume(data: &[u8]) {
    let counts: Vec<u64> =
        data.as_chunks().0.iter().take(100).map(|count| u64::from_le_bytes(*count)).collect();
    let judged = volume::judge(&counts, &mut progress::Unbounded).expect("few buckets");
    assert_eq!(judged.len(), counts.len());
    for (count, judged) in counts.iter().zip(judged) {
        let Some(j) = judged else { continue };
        let figures = [j.expected, j.lower, j.upper, j.deviation];
        assert!(figures.iter().all(|x| x.is_finite()), "{count} of {counts:?}: {j:?}");
        assert!(0.0 <= j.lower && j.lower <= j.upper, "{count} of {counts:?}: {j:?}");
    }
}

fn volume_seeds() -> Vec<Vec<u8>> {
    let bytes = |counts: &[u64]| counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    vec![
        bytes(&[100, 95, 103, 0, 99, 108, 101, 400, 97, 102]),
        bytes(&[0, 0, 0, 0, 9]),
        bytes(&[u64::MAX, u64::MAX, 1, 0, u64::MAX]),
    ]
}

/// The text of any of Linux's files that the monitor reads.
pub fn proc(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(found) = host::processors(text) {
        assert!(found.all.iter().chain(found.each.values()).all(|times| times.busy <= times.total));
    }
    if let Some(memory) = host::memory(text) {
        assert!(memory.available <= memory.total);
    }
    assert!(host::load1(text).is_none_or(|load| load >= 0.0 && load.is_finite()));
    let _ = (host::disks(text), host::interfaces(text));
}

fn proc_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "cpu  7463 12 2201 99999 310 0 55 1 0 0\ncpu0 3700 6 1100 50000 150 0 30 1 0 0\nintr 1\n",
        "0.20 0.18 0.12 1/80 11206\n",
        "MemTotal: 24632880 kB\nMemFree: 100 kB\nMemAvailable: 19000000 kB\nBuffers: 1 kB\nCached: 2 kB\n",
        " 8 0 sda 1 2 300 4 5 6 700 8 0 9 10\n 8 1 sda1 1 2 30 4 5 6 70 8 0 9 10\n 253 0 dm-0 1 0 3 0 5 0 7 0 0 0 0\n",
        "Inter-| Receive | Transmit\n face |bytes packets\n lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n eth0: 9 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n",
    ])
}

/// The stored forms of forests and of samples, by the first byte, without their checksums.
pub fn forest_model(data: &[u8]) {
    let Some((pick, payload)) = data.split_first() else { return };
    if *pick == 0 {
        return forest_sample(payload);
    }
    let algorithm = if *pick == 1 { forest::ALGORITHM } else { forest::ENSEMBLE };
    let bytes = codec::wrap(algorithm, payload).expect("it is far below 4 GiB");
    let Ok(model) = Model::decode(&bytes) else { return };
    let mut scratch = Scratch::default();
    for x in [0.0, -1e308, 1e308, f64::NAN, f64::INFINITY, 5e-324] {
        let row = vec![x; model.features()];
        let why = model.explain(&row, &mut scratch).expect("the row has the right length");
        let ln_p = why.scored.ln_p;
        assert!(ln_p <= 0.0 && ln_p.is_finite(), "{:?}", why.scored);
        assert!((why.contributions.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }
    assert_eq!(model.encode(), Ok(bytes));
}

fn forest_sample(data: &[u8]) {
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    let Ok(mut words) = sampler::decode(&sealed) else { return };
    assert_eq!(sampler::encode(&words), Ok(sealed));
    let sample = Sample::from_words(&words).expect("a decoded sample is sound");
    let row = vec![1.0; sample.features];
    let copy = words.clone();
    while let Ok(sampler::Room::Grow(len)) = sampler::merge(&mut words, &copy) {
        words.resize(len, 0);
    }
    for _ in 0..300 {
        while let Ok(sampler::Room::Grow(len)) = sampler::add(&mut words, &row) {
            words.resize(len, 0);
        }
    }
    let bytes = sampler::encode(&words).expect("a sample in use is sound");
    assert!(sampler::decode(&bytes).is_ok());
}

fn forest_model_seeds() -> Vec<Vec<u8>> {
    let values: Vec<f64> =
        (0..120).map(|i| if i == 7 { f64::NAN } else { f64::from((i * 37) % 11) }).collect();
    let sample = Sample::new(2, values).expect("these are whole rows");
    let mut seeds = Vec::new();
    for (pick, variant) in [(1, "mixed"), (1, "extended"), (1, "density"), (2, "auto")] {
        let json = json!({"variant": variant, "n_estimators": 2, "max_samples": 16, "features": ["a", "bc"], "categorical": [2], "keep_rows": 1});
        let options = json.as_object().map(Options::from_json).expect("it is an object");
        let options = options.expect("these are valid options");
        let model = Model::train(&sample, &options, &mut progress::Unbounded);
        let bytes = model.and_then(|m| m.encode()).expect("there are rows enough");
        let (_, payload) = codec::unwrap(&bytes).expect("it was just sealed");
        seeds.push([&[pick], payload].concat());
    }
    for rows in [3, 60] {
        let mut words = sampler::initial(2, 20, 1, b"{}").expect("this is a valid shape");
        for row in sample.values.chunks(2).take(rows) {
            while let Ok(sampler::Room::Grow(len)) = sampler::add(&mut words, row) {
                words.resize(len, 0);
            }
        }
        let bytes = sampler::encode(&words).expect("it was just made");
        seeds.push([&[0], &bytes[..bytes.len() - 4]].concat());
    }
    seeds
}

/// The first byte picks a kind of learned model; the rest is what is stored of one.
pub fn learned_model(data: &[u8]) {
    let Some((pick, data)) = data.split_first() else { return };
    let mut reader = codec::Reader::new(data);
    let mut again = Vec::new();
    match pick % 3 {
        0 => {
            let Ok(machine) = OneClassSvm::decode(&mut reader) else { return };
            for x in [0.0, -1e300, f64::NAN, 5e-324] {
                assert!(machine.score(&vec![x; machine.width()]).is_finite());
            }
            machine.encode(&mut again);
        }
        1 => {
            let Ok(network) = Autoencoder::decode(&mut reader) else { return };
            let row = vec![-1e30; network.columns()];
            assert!(network.error(&row).is_finite());
            let shares = network.shares(&row);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{shares:?}");
            network.encode(&mut again);
        }
        _ => {
            let Ok(network) = LstmForecaster::decode(&mut reader) else { return };
            let rows = vec![1e30; network.columns() * network.sequence_length()];
            assert!(network.forecast(&rows, &mut Workspace::default()).is_finite());
            network.encode(&mut again);
        }
    }
    assert_eq!(again, data[..data.len() - reader.remaining()]);
}

fn learned_model_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![2]];
    let rows: Vec<f64> = (0..60).map(|i| f64::from((i * 37) % 11)).collect();
    let mut unbounded = progress::Unbounded;
    let mut budget = Budget::unbounded(&mut unbounded);
    OneClassSvm::fit(&rows, 3, &OneClassSvmOptions::default(), &mut budget)
        .expect("these rows are sound")
        .encode(&mut seeds[0]);
    Autoencoder::new(5, &AutoencoderOptions::default())
        .expect("five columns are not too many")
        .encode(&mut seeds[1]);
    LstmForecaster::new(2, &LstmOptions { units: 4, ..LstmOptions::default() })
        .expect("these sizes are allowed")
        .encode(&mut seeds[2]);
    seeds
}

/// What `anomaly.import_model` reads, without the checksum around it.
pub fn exported_model(data: &[u8]) {
    let _ = ExportedModel::decode(data);
    let bytes = codec::wrap(exported::ALGORITHM, data).expect("it is far below 4 GiB");
    let Ok(model) = ExportedModel::decode(&bytes) else { return };
    let again = model.encode().expect("what was read fits");
    let again = ExportedModel::decode(&again).expect("what was written can be read");
    assert_eq!((&again.entities, again.shared), (&model.entities, model.shared));
    assert!(model.check_settings(&model.settings, "the same").is_ok());
    let setting = |name: &str| model.settings.get(name).cloned().unwrap_or_default();
    let config = DetectorConfig {
        strategy: setting("strategy").as_str().unwrap_or_default().into(),
        params: setting("params"),
        ..DetectorConfig::default()
    };
    let Ok(detector) = Detector::new(config) else { return };
    for bytes in model.entities.iter().map(|(_, state)| *state).chain([model.shared]) {
        let Ok(mut state) = detector.decode_state(bytes) else { continue };
        state.detach();
        sound(&detector, &state);
    }
}

fn exported_model_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // Small ones: the states have a fuzzer of their own.
    for (strategy, entities) in [
        ("statistical_zscore", &["", "web1", "\u{fc}ber"][..]),
        ("statistical_mad", &["db"]),
        ("statistical_seasonal", &[]),
    ] {
        let detector = detector((strategy, Kind::Value, 0));
        let mut state = detector.new_state();
        for i in 0..130 {
            detector.train(&mut state, &Point::new(i * TEN_MINUTES, ((i * 37) % 11) as f64));
        }
        let state = detector.encode_state(&state).expect("it is far below 4 GiB");
        let settings = json!({"strategy": strategy, "params": {}, "kind": "value"});
        let model = ExportedModel {
            settings: settings.as_object().cloned().expect("it is an object"),
            trained_at: 130 * TEN_MINUTES,
            trained_rows: 130,
            trained_from: Some(0),
            trained_until: None,
            points_per_day: Some(144.0),
            shared: &state,
            entities: entities.iter().map(|name| (*name, state.as_slice())).collect(),
        };
        let bytes = model.encode().expect("these entities are in order");
        let (_, payload) = codec::unwrap(&bytes).expect("it was just sealed");
        seeds.push(payload.to_vec());
    }
    seeds
}
