//! Categories: what a level of a text column is as a number, and what a history of them looks like.
//!
//! A level becomes a whole number ([`code`]), a hash of its bytes, so that no dictionary has to be kept
//! and any level that was never seen has a code, too.
//!
//! A model that knows numbers only sees a category as several columns ([`Levels`]): how rare its level
//! is, and one column for each of the few frequent levels, 1 where it is that level. So rows are told
//! apart by level where there is enough to learn about it, and by rareness where there is not.
//!
//! **Rareness** is −ln p, p being the share of rows whose level is at most as frequent: 0 where all are
//! alike. A level that was seen once is what a level that was never seen will be when it has come; so
//! both, and the levels beyond those that are kept, count as one (Good 1953): a new identifier is
//! nothing unusual in a column of identifiers, and is in a column of three plans.

use crate::Result;
use crate::codec::Reader;
use crate::random::mix;

/// Levels of a column that are kept.
const MAX_LEVELS: usize = 64;
/// One in so many rows has a level that gets a column of its own.
const FREQUENT: u64 = 20;
/// Columns of frequent levels of one category.
pub(crate) const MAX_FREQUENT: usize = 6;
/// Stands for a missing category where there can be no NaN.
pub(crate) const MISSING: f64 = -1.0;
/// Rareness is at most this.
const RAREST: f64 = 8.0;

/// The number of a level, ≥ 0 and whole. Of 40 bits: these survive where the last digits of a number
/// do not count.
pub fn code(level: &[u8]) -> f64 {
    let seed = mix(level.len() as u64);
    let hash = level.chunks(8).fold(seed, |hash, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        mix(hash ^ u64::from_le_bytes(word))
    });
    (hash >> 24) as f64
}

/// The levels of one column, as of some rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Levels {
    /// Codes and numbers of rows of the levels that were seen more than once, the most frequent first.
    kept: Vec<(f64, u32)>,
    /// Rows with any other level.
    rest: u32,
    /// How many of those kept have a column of their own.
    frequent: usize,
}

impl Levels {
    /// Of the rows of a history, missing ones left out; with so many columns at most.
    pub fn new(codes: impl Iterator<Item = f64>, most: usize) -> Self {
        let mut codes: Vec<f64> = codes.filter(|code| *code >= 0.0).collect();
        codes.sort_unstable_by(f64::total_cmp);
        let all = codes.len() as u64;
        let mut kept: Vec<(f64, u32)> = codes
            .chunk_by(|a, b| a == b)
            .filter(|same| same.len() > 1)
            .map(|same| (same[0], same.len() as u32))
            .collect();
        // stable: ties stay in the order of codes
        kept.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        kept.truncate(MAX_LEVELS);
        let rest = all - kept.iter().map(|(_, rows)| u64::from(*rows)).sum::<u64>();
        let frequent = |rows: u32| u64::from(rows) * FREQUENT >= all;
        let mut count = kept.iter().take_while(|(_, rows)| frequent(*rows)).count();
        // of two levels the column of one says it all
        if count == kept.len() && rest == 0 {
            count = count.saturating_sub(1);
        }
        Levels { kept, rest: rest as u32, frequent: count.min(most) }
    }

    /// Columns that it becomes.
    pub fn width(&self) -> usize {
        1 + self.frequent
    }

    fn rareness(&self, place: Option<usize>) -> f64 {
        let rows = place.map_or(0, |place| self.kept[place].1);
        let as_rare = self.kept.iter().filter(|(_, other)| *other <= rows);
        let as_rare: u64 = as_rare.map(|(_, rows)| u64::from(*rows)).sum();
        let all: u64 = self.kept.iter().map(|(_, rows)| u64::from(*rows)).sum();
        let rest = u64::from(self.rest);
        let share = ((as_rare + rest) as f64 + 0.5) / ((all + rest) as f64 + 0.5);
        (-libm::log(share)).min(RAREST)
    }

    /// The columns of a level: of one that is missing those of the most frequent.
    pub fn push(&self, code: f64, out: &mut Vec<f32>) {
        // written so that NaN is missing
        let place = match code >= 0.0 {
            true => self.kept.iter().position(|(kept, _)| *kept == code),
            false => (!self.kept.is_empty()).then_some(0),
        };
        out.push(self.rareness(place) as f32);
        out.extend((0..self.frequent).map(|i| f32::from(u8::from(place == Some(i)))));
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kept.len() as u8, self.frequent as u8]);
        out.extend_from_slice(&self.rest.to_le_bytes());
        for (code, rows) in &self.kept {
            out.extend_from_slice(&code.to_le_bytes());
            out.extend_from_slice(&rows.to_le_bytes());
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let (count, frequent) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
        let rest = reader.u32()?;
        if count > MAX_LEVELS || frequent > count.min(MAX_FREQUENT) {
            return Err(reader.corrupted("too many levels"));
        }
        let mut kept: Vec<(f64, u32)> = Vec::with_capacity(count);
        for _ in 0..count {
            let level = (reader.non_negative("code of a level")?, reader.u32()?);
            if kept.last().is_some_and(|(_, before)| *before < level.1) {
                return Err(reader.corrupted("levels out of order"));
            }
            kept.push(level);
        }
        Ok(Levels { kept, rest, frequent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(levels: &Levels, code: f64) -> Vec<f32> {
        let mut out = Vec::new();
        levels.push(code, &mut out);
        out
    }

    #[test]
    fn codes_are_whole_and_stay_what_they_are() {
        for level in ["", "a", "free", "12345678", "123456789", "ß\0"] {
            let code = code(level.as_bytes());
            assert!(code >= 0.0 && code < (1u64 << 40) as f64 && code == code.floor());
        }
        // stored in models
        assert_eq!([code(b"free"), code(b"")], [515_306_641_064.0, 971_210_504_571.0]);
        assert_ne!(code(b"a"), code(b"a\0"));
    }

    #[test]
    fn frequent_levels_have_a_column_and_rare_ones_their_rareness() {
        let rows = [(7.0, 60), (5.0, 30), (9.0, 8), (1.0, 2)];
        let codes = rows.iter().flat_map(|(code, n)| std::iter::repeat_n(*code, *n));
        let levels = Levels::new(codes, MAX_FREQUENT);
        assert_eq!(levels.width(), 4);
        assert_eq!(columns(&levels, 7.0), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(columns(&levels, 9.0)[1..], [0.0, 0.0, 1.0]);
        assert_eq!(columns(&levels, 1.0)[1..], [0.0; 3]);
        // missing is the most frequent
        assert_eq!(columns(&levels, MISSING), columns(&levels, 7.0));
        assert_eq!(columns(&levels, f64::NAN), columns(&levels, 7.0));
        // the rarer, the more unusual; what was never seen most of all
        let rareness = [7.0, 5.0, 9.0, 1.0, 4711.0].map(|code| columns(&levels, code)[0]);
        assert!(rareness.windows(2).all(|pair| pair[0] < pair[1]), "{rareness:?}");
        assert!(rareness[4] > 5.0, "{rareness:?}");
        let mut bytes = Vec::new();
        levels.encode(&mut bytes);
        assert_eq!(Levels::decode(&mut Reader::new(&bytes)).unwrap(), levels);
    }

    #[test]
    fn a_new_identifier_is_nothing_unusual_among_identifiers() {
        let levels = Levels::new((0..1000).map(f64::from), MAX_FREQUENT);
        assert_eq!(levels.width(), 1);
        assert_eq!(columns(&levels, 5.0), columns(&levels, 5000.0));
        assert!(columns(&levels, 5000.0)[0].abs() < 1e-6);
        // nor is anything where there is nothing, or one level
        let none = Levels::new(std::iter::repeat_n(MISSING, 10), MAX_FREQUENT);
        assert_eq!([columns(&none, 1.0), columns(&none, MISSING)], [vec![0.0], vec![0.0]]);
        let one = Levels::new(std::iter::repeat_n(3.0, 10), MAX_FREQUENT);
        assert_eq!(columns(&one, 3.0), [0.0]);
        assert!(columns(&one, 4.0)[0] > 2.0);
        // and there is no end to how many there may be
        let many = Levels::new((0..100_000).map(|i| f64::from(i % 5000)), MAX_FREQUENT);
        assert_eq!(many.kept.len(), MAX_LEVELS);
    }
}
