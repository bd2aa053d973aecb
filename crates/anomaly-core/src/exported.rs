//! A version of a detector's model as one value, to be taken to another detector or server.
//!
//! The envelope of [`crate::codec`] around, little-endian: settings as JSON (u32 length, text), when
//! it was trained i64, on how many rows u64, from and until when i64 each (`i64::MIN`: unknown), points
//! per day f64 (NaN: unknown), the shared state (u32 length, bytes), the number of entities u32, and of
//! each, in the order of their names, the name and the state (u32 length, bytes, twice). States are as
//! [`crate::Detector::encode_state`] wrote them, with their own checksums.
//!
//! Who reads one need not trust who wrote it: nothing is allocated from a length that was not compared
//! with the bytes at hand, and a state is only handed out as bytes, to be decoded by a detector that has
//! the same settings ([`ExportedModel::check_settings`]).

use serde_json::{Map, Value};

use crate::codec::{self, Reader};
use crate::{Error, Result};

/// Written into the envelope of an exported model.
pub const ALGORITHM: u16 = 200;
/// PostgreSQL's values have at most 1 GB, and this has to be written as hexadecimal digits too.
pub const MAX_BYTES: usize = 384 << 20;
/// Of the settings, as JSON.
const MAX_SETTINGS: usize = 1 << 20;
/// Two lengths and the envelope of a state.
const LEAST_ENTITY: usize = 24;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedModel<'a> {
    /// What has to be the same of a detector that is to use the model.
    pub settings: Map<String, Value>,
    /// µs since 2000-01-01 UTC, as the next two.
    pub trained_at: i64,
    pub trained_rows: u64,
    pub trained_from: Option<i64>,
    pub trained_until: Option<i64>,
    /// Over all entities.
    pub points_per_day: Option<f64>,
    pub shared: &'a [u8],
    /// Names, in ascending order, and states.
    pub entities: Vec<(&'a str, &'a [u8])>,
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    // With the lengths that follow, the whole stays within what the envelope can count.
    if bytes.len() > MAX_BYTES || out.len() + bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge(format!(
            "the model has more than {} MB, the most that fit into one value",
            MAX_BYTES >> 20
        )));
    }
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn taken<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    let length = reader.u32()? as usize;
    reader.take(length)
}

impl<'a> ExportedModel<'a> {
    /// The model as bytes; `TooLarge` beyond [`MAX_BYTES`], `Data` for entities out of order.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if !self.entities.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::Data("entities of an exported model are out of order".into()));
        }
        let mut out = Vec::new();
        let start = codec::open(&mut out, ALGORITHM);
        let settings = serde_json::to_vec(&self.settings)
            .map_err(|error| Error::Data(format!("settings of an exported model: {error}")))?;
        if settings.len() > MAX_SETTINGS {
            return Err(Error::TooLarge(format!(
                "settings of {} bytes are more than {MAX_SETTINGS}",
                settings.len()
            )));
        }
        put(&mut out, &settings)?;
        out.extend_from_slice(&self.trained_at.to_le_bytes());
        out.extend_from_slice(&self.trained_rows.to_le_bytes());
        for at in [self.trained_from, self.trained_until] {
            out.extend_from_slice(&at.unwrap_or(i64::MIN).to_le_bytes());
        }
        out.extend_from_slice(&self.points_per_day.unwrap_or(f64::NAN).to_le_bytes());
        put(&mut out, self.shared)?;
        out.extend_from_slice(&(self.entities.len() as u32).to_le_bytes());
        for (name, state) in &self.entities {
            put(&mut out, name.as_bytes())?;
            put(&mut out, state)?;
        }
        codec::seal(&mut out, start)?;
        Ok(out)
    }

    /// Reads what [`ExportedModel::encode`] wrote; never panics, whatever the bytes. `Corrupted` for
    /// bytes that are no exported model, `NewerFormat` for one that a later version wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<ExportedModel<'a>> {
        let (algorithm, payload) = codec::unwrap(bytes)?;
        if algorithm != ALGORITHM {
            return Err(Error::Corrupted(format!(
                "stored state is of algorithm {algorithm}, not an exported model"
            )));
        }
        let mut reader = Reader::new(payload);
        let settings = taken(&mut reader)?;
        if settings.len() > MAX_SETTINGS {
            return Err(reader.corrupted("settings are too long"));
        }
        let settings = serde_json::from_slice(settings)
            .map_err(|error| reader.corrupted(&format!("settings: {error}")))?;
        let (trained_at, trained_rows) = (reader.i64()?, reader.u64()?);
        let mut instant = || Ok(Some(reader.i64()?).filter(|at| *at != i64::MIN));
        let (trained_from, trained_until) = (instant()?, instant()?);
        let points_per_day = Some(reader.f64()?).filter(|rate| !rate.is_nan());
        if trained_rows > i64::MAX as u64
            || points_per_day.is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
        {
            return Err(reader.corrupted("figures out of range"));
        }
        let shared = taken(&mut reader)?;
        let count = reader.u32()? as usize;
        if count > reader.remaining() / LEAST_ENTITY {
            return Err(reader.corrupted("fewer entities than promised"));
        }
        let mut entities: Vec<(&str, &[u8])> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = std::str::from_utf8(taken(&mut reader)?)
                .map_err(|_| reader.corrupted("the name of an entity is not UTF-8"))?;
            // PostgreSQL's texts have no zero bytes.
            if name.contains('\0') || entities.last().is_some_and(|(last, _)| *last >= name) {
                return Err(reader.corrupted("names of entities out of order"));
            }
            let state = taken(&mut reader)?;
            if state.len() < LEAST_ENTITY - 8 {
                return Err(reader.corrupted("a state is too short"));
            }
            entities.push((name, state));
        }
        reader.finish()?;
        Ok(ExportedModel {
            settings,
            trained_at,
            trained_rows,
            trained_from,
            trained_until,
            points_per_day,
            shared,
            entities,
        })
    }

    /// `InvalidParameter` whose hint lists each setting that is another one in the detector, given its
    /// own.
    pub fn check_settings(&self, own: &Map<String, Value>, detector: &str) -> Result<()> {
        // Written and read as theirs were: the last digit of a number may have changed on the way.
        let own: Map<String, Value> =
            serde_json::to_vec(own).and_then(|text| serde_json::from_slice(&text)).map_err(
                |error| Error::Data(format!("settings of detector \"{detector}\": {error}")),
            )?;
        let mut names: Vec<&String> = self.settings.keys().chain(own.keys()).collect();
        names.sort();
        names.dedup();
        let of = |settings: &Map<String, Value>, name: &str| {
            settings.get(name).cloned().unwrap_or(Value::Null)
        };
        let differences: Vec<String> = names
            .into_iter()
            .map(|name| (name, of(&self.settings, name), of(&own, name)))
            .filter(|(_, theirs, own)| theirs != own)
            .map(|(name, theirs, own)| {
                format!("{name} is {theirs} in the model and {own} in the detector")
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(
            format!("the model does not fit detector \"{detector}\""),
            format!(
                "{}; import it into a detector with the same settings.",
                differences.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> Map<String, Value> {
        json!({"strategy": "statistical_mad", "params": {}}).as_object().unwrap().clone()
    }

    fn model<'a>(state: &'a [u8], names: &[&'a str]) -> ExportedModel<'a> {
        ExportedModel {
            settings: settings(),
            trained_at: 820_000_000_000_000,
            trained_rows: 300,
            trained_from: None,
            trained_until: Some(819_999_000_000_000),
            points_per_day: Some(1440.0),
            shared: state,
            entities: names.iter().map(|name| (*name, state)).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let state = codec::wrap(3, &[7; 40]).unwrap();
        for names in [&[][..], &[""], &["", "a", "aa", "ä", "Ω"]] {
            let model = model(&state, names);
            let bytes = model.encode().unwrap();
            assert_eq!(ExportedModel::decode(&bytes), Ok(model));
        }
        let nothing_known =
            ExportedModel { points_per_day: None, trained_until: None, ..model(&state, &["a"]) };
        let bytes = nothing_known.encode().unwrap();
        assert_eq!(ExportedModel::decode(&bytes), Ok(nothing_known));
    }

    #[test]
    fn fault_a10_damaged_exports_are_refused() {
        let state = codec::wrap(3, &[7; 40]).unwrap();
        let bytes = model(&state, &["a", "b"]).encode().unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(ExportedModel::decode(&damaged).is_err(), "byte {at}");
            assert!(ExportedModel::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        // With a checksum that fits: each length one too large, or as large as can be.
        let (_, payload) = codec::unwrap(&bytes).unwrap();
        for at in 0..payload.len() - 4 {
            let mut longer = payload.to_vec();
            longer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let _ = ExportedModel::decode(&codec::wrap(ALGORITHM, &longer).unwrap());
        }
        for bad in [
            ExportedModel { points_per_day: Some(0.0), ..model(&state, &[]) },
            ExportedModel { points_per_day: Some(f64::INFINITY), ..model(&state, &[]) },
            ExportedModel { trained_rows: u64::MAX, ..model(&state, &[]) },
            model(&state, &["a\0b"]),
            model(&[1, 2, 3], &["a"]),
        ] {
            let bytes = bad.encode().unwrap();
            assert!(matches!(ExportedModel::decode(&bytes), Err(Error::Corrupted(_))), "{bad:?}");
        }
    }

    #[test]
    fn entities_have_one_order() {
        let state = codec::wrap(3, &[7; 40]).unwrap();
        for names in [["b", "a"], ["a", "a"]] {
            assert!(matches!(model(&state, &names).encode(), Err(Error::Data(_))));
        }
        let mut bytes = model(&state, &["a", "b"]).encode().unwrap();
        let at = bytes.iter().rposition(|b| *b == b'b').unwrap();
        bytes[at] = b'a';
        let (_, payload) = bytes.split_at(16);
        let twice = codec::wrap(ALGORITHM, payload).unwrap();
        assert!(matches!(ExportedModel::decode(&twice), Err(Error::Corrupted(_))));
    }

    #[test]
    fn fault_m4_settings_that_differ_are_named() {
        let state = codec::wrap(3, &[7; 40]).unwrap();
        let model = model(&state, &[]);
        assert_eq!(model.check_settings(&settings(), "d"), Ok(()));
        let mut own = settings();
        own.insert("params".into(), json!({"sketch_capacity": 128}));
        own.insert("features".into(), json!(["a", "b"]));
        let Err(Error::InvalidParameter { message, hint }) = model.check_settings(&own, "d") else {
            panic!("accepted");
        };
        assert_eq!(message, "the model does not fit detector \"d\"");
        assert!(
            hint.starts_with(
                "features is null in the model and [\"a\",\"b\"] in the detector, \
                 params is {} in the model and {\"sketch_capacity\":128} in the detector"
            ),
            "{hint}"
        );
    }

    #[test]
    fn what_does_not_fit_into_a_value_is_refused() {
        let state = vec![0; 100 << 20];
        let large = model(&state, &["a", "b", "c", "d"]);
        assert!(matches!(large.encode(), Err(Error::TooLarge(_))));
    }
}
