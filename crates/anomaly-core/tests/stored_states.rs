//! Stored states: golden bytes, and damage that is found. `fuzz_targets.rs` has what passes the checksum.

mod common;

use anomaly_core::exported::ExportedModel;
use anomaly_core::{Detector, DetectorConfig, Error, Point, codec};
use common::{config, trained, with_alpha};

fn state_bytes(name: &str, open: bool) -> Vec<u8> {
    let detector = with_alpha(name, 0.001);
    let mut state = trained(&detector, (0..130).map(|i| f64::from((i * 37) % 11) + 0.25));
    if open {
        detector.process(&mut state, None, &Point::new(5_000_000, 99.5));
        state.episode.alert_id = 7;
    }
    detector.encode_state(&state).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What is going on in a series can be read without knowing the strategy.
#[test]
fn standing_of_any_strategy() {
    for name in ["zscore", "mad", "random_cut_forest", "auto"] {
        let bytes = state_bytes(name, true);
        let known = with_alpha(name, 0.001).decode_state(&bytes).unwrap();
        let (episode, presence) = anomaly_core::detector::standing(&bytes).unwrap();
        assert_eq!(episode, known.episode, "{name}");
        assert_eq!(presence, known.presence, "{name}");
        assert_eq!(episode.alert_id, 7, "{name}");
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..20], &[]] {
            assert!(anomaly_core::detector::standing(damaged).is_err(), "{name}");
        }
        let mut flipped = bytes.clone();
        flipped[40] ^= 1;
        assert!(anomaly_core::detector::standing(&flipped).is_err(), "{name}");
    }
}

/// The files were written by this test with UPDATE_GOLDEN=1; a change of them is a change of format.
#[test]
fn golden_bytes() {
    for (name, short) in
        [("statistical_zscore", "zscore"), ("statistical_iqr", "iqr"), ("statistical_mad", "mad")]
    {
        let path = format!("{}/tests/golden/state_v1_{short}.hex", env!("CARGO_MANIFEST_DIR"));
        let bytes = state_bytes(name, true);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&bytes) + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert_eq!(hex(&bytes), golden.trim(), "the stored format of {name} has changed");
        let detector = with_alpha(name, 0.001);
        let state = detector.decode_state(&bytes).unwrap();
        assert_eq!(state.episode.alert_id, 7);
        assert_eq!(state.episode.peak.value, 99.5);
        assert_eq!(state.model.count(), 130);
    }
}

/// As [`golden_bytes`], of an episode that has ended and may be opened again, and of one that was.
#[test]
fn golden_bytes_of_an_episode_that_cools() {
    let cooling = DetectorConfig { cool_down: 1_000_000, clear_after: 1, ..config("zscore") };
    let detector = Detector::new(cooling).unwrap();
    let mut state = trained(&detector, (0..130).map(|i| f64::from((i * 37) % 11) + 0.25));
    let mut feed = |at: i64, x: f64| {
        detector.process(&mut state, None, &Point::new(at, x));
        state.episode.renumber(|id| if id == 0 { 0 } else { 7 });
        detector.encode_state(&state).unwrap()
    };
    feed(5_000_000, 99.5);
    let ended = feed(5_100_000, 5.0);
    let again = feed(5_200_000, 77.5);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state_v1_cooling.hex");
    let bytes = format!("{}\n{}\n", hex(&ended), hex(&again));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(bytes, std::fs::read_to_string(path).unwrap(), "the stored format has changed");
    let before = detector.decode_state(&ended).unwrap().episode.cooling.unwrap();
    assert_eq!((before.started_at, before.ended_at, before.points), (5_000_000, 5_100_000, 1));
    let open = detector.decode_state(&again).unwrap().episode;
    assert_eq!((open.reopened, open.points, open.peak.value), (1, 2, 99.5));
    assert!(open.peak_is_learned && open.cooling.is_none());
}

/// As [`golden_bytes`], of what `anomaly.export_model` gives out.
#[test]
fn golden_bytes_of_an_exported_model() {
    let state = codec::wrap(3, &[7; 40]).unwrap();
    let settings = serde_json::json!({"strategy": "statistical_mad", "params": {"a": 1.5}});
    let model = ExportedModel {
        settings: settings.as_object().cloned().unwrap(),
        trained_at: 820_000_000_000_000,
        trained_rows: 300,
        trained_from: Some(819_000_000_000_000),
        trained_until: None,
        points_per_day: Some(1440.0),
        shared: &state,
        entities: vec![("", &state), ("web1", &state)],
    };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/exported_model_v1.hex");
    let bytes = model.encode().unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, hex(&bytes) + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(hex(&bytes), golden.trim(), "the format of exported models has changed");
    assert_eq!(ExportedModel::decode(&bytes), Ok(model));
}

#[test]
fn the_envelope_is_what_its_documentation_says() {
    let bytes = codec::wrap(7, b"abc").unwrap();
    assert_eq!(&bytes[..12], b"ANOM\x01\x00\x07\x00\x03\x00\x00\x00");
    // CRC-32 (zlib.crc32) of bytes 4..12 and the payload
    assert_eq!(bytes[12..16], 0x35e5_81a8_u32.to_le_bytes());
    assert_eq!(&bytes[16..], b"abc");
    assert_eq!(codec::unwrap(&bytes).unwrap(), (7, &b"abc"[..]));
}

#[test]
fn damage_is_found_and_named() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let bytes = state_bytes(name, true);
        let decode = |b: &[u8]| detector.decode_state(b).err();
        assert_eq!(decode(&bytes), None);
        for n in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..n]), Some(Error::Corrupted(_))), "cut at {n}");
        }
        for i in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = bytes.clone();
                damaged[i] ^= bit;
                let error = decode(&damaged);
                match i {
                    // the format version is compared before the checksum
                    4 | 5 => assert!(
                        matches!(error, Some(Error::NewerFormat(_) | Error::Corrupted(_))),
                        "byte {i}"
                    ),
                    _ => assert!(matches!(error, Some(Error::Corrupted(_))), "byte {i}"),
                }
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Some(Error::Corrupted(_))));
        let mut newer = bytes.clone();
        newer[4] = 2;
        let Some(Error::NewerFormat(message)) = decode(&newer) else { panic!() };
        assert!(message.contains("format 2") && message.contains("up to 1"));
        // another strategy's state is not silently taken for one's own
        for other in common::STRATEGIES.iter().filter(|o| **o != name) {
            let error = Detector::new(config(other)).unwrap().decode_state(&bytes).err();
            assert!(matches!(error, Some(Error::Corrupted(m)) if m.contains(other)));
        }
    }
}

/// Otherwise the next points would make an infinity of it, and the state could not be read again.
#[test]
fn sums_beyond_any_values_are_refused() {
    let detector = with_alpha("statistical_zscore", 0.001);
    let bytes = state_bytes("statistical_zscore", false);
    let (algorithm, payload) = codec::unwrap(&bytes).unwrap();
    // it ends with the mean, the sum of squares and a byte for the unit
    for behind in [17, 9] {
        let mut damaged = payload.to_vec();
        let at = damaged.len() - behind;
        damaged[at..at + 8].copy_from_slice(&1e305_f64.to_le_bytes());
        let error = detector.decode_state(&codec::wrap(algorithm, &damaged).unwrap()).err();
        assert!(matches!(&error, Some(Error::Corrupted(m)) if m.contains("beyond")), "{error:?}");
    }
}
