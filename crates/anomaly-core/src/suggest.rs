//! What in a table is worth watching, from a sample of its rows.
//!
//! Two kinds of tables are told apart by how their rows come. *Series* come at regular times, of each entity or of the
//! whole: most gaps are near the median one; their numbers are watched row by row. *Events* come whenever something happens:
//! how many there are, and the sums and means of their numbers, are watched by buckets of time that hold some twenty of them.
//! Numbers that only name something are never magnitudes: keys, numbers that count rows, and what is called an id,
//! code, year, port or the like. How many different ones there are may be worth watching.

use std::collections::{HashMap, HashSet};

/// Gaps that differ from the median one by up to half of it, and how many of those make a series.
const REGULAR: f64 = 0.75;
/// Rows that a bucket holds on average, and those of each entity.
const ROWS_A_BUCKET: f64 = 20.0;
const ROWS_OF_ENTITY: f64 = 5.0;
/// Buckets that are tried, in seconds.
const BUCKETS: [i64; 6] = [60, 300, 900, 3600, 21_600, 86_400];
/// An entity has so many rows of the sample, and there are so many entities.
const ROWS_PER_ENTITY: usize = 20;
const MOST_ENTITIES: usize = 5000;
const DAY: f64 = 86_400e6;

/// The values of a column in the sample, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// µs since 2000-01-01 UTC.
    Times(Vec<Option<i64>>),
    /// `whole`: of a type of whole numbers.
    Numbers {
        values: Vec<Option<f64>>,
        whole: bool,
    },
    /// Hashes of texts, and of whatever else can be told apart.
    Names(Vec<Option<i64>>),
    Flags(Vec<Option<bool>>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub values: Values,
    /// Part of a primary, unique or foreign key.
    pub is_key: bool,
}

/// A sample of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub columns: Vec<Column>,
    /// How many rows the table has in the time that the sample spans.
    pub rows: f64,
    pub now: i64,
}

/// What could be watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub at: String,
    /// `None`: rows are counted.
    pub value: Option<String>,
    /// The value is a boolean, whose share of true is meant.
    pub is_flag: bool,
    pub entity: Option<String>,
    /// With buckets, how long they are in seconds and what is made of their rows.
    pub bucket: Option<(i64, &'static str)>,
    /// Seconds between scans.
    pub every: i64,
    /// Days that training has to look back, where 30 are not enough.
    pub training_days: Option<i64>,
    pub entities: usize,
    pub points_per_day: f64,
    /// Points of the history, of each entity.
    pub history: f64,
    pub why: String,
}

/// Words of a column's name, in lower case: `userID` and `user_id` are user and id.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && before.is_lowercase() {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

fn has_word(name: &str, of: &[&str]) -> bool {
    words(name).iter().any(|word| of.contains(&word.as_str()))
}

const NAMES_OF_NAMES: [&str; 31] = [
    "id",
    "ids",
    "uuid",
    "guid",
    "oid",
    "key",
    "pk",
    "fk",
    "code",
    "zip",
    "postcode",
    "postal",
    "phone",
    "fax",
    "iban",
    "ssn",
    "hash",
    "checksum",
    "version",
    "year",
    "month",
    "weekday",
    "port",
    "pid",
    "seq",
    "sequence",
    "serial",
    "lat",
    "latitude",
    "lon",
    "longitude",
];
const ADD_UP: [&str; 16] = [
    "amount", "total", "sum", "count", "bytes", "quantity", "qty", "revenue", "cost", "sales",
    "units", "items", "requests", "errors", "clicks", "visits",
];
const DO_NOT_ADD_UP: [&str; 18] = [
    "latency",
    "duration",
    "ms",
    "seconds",
    "temperature",
    "temp",
    "rate",
    "ratio",
    "share",
    "percent",
    "pct",
    "score",
    "usage",
    "load",
    "price",
    "speed",
    "pressure",
    "age",
];
const EVENT_TIMES: [&str; 10] =
    ["at", "ts", "time", "timestamp", "created", "occurred", "logged", "recorded", "date", "event"];
const OTHER_TIMES: [&str; 12] = [
    "updated", "modified", "deleted", "expires", "expired", "expiry", "due", "birth", "birthday",
    "valid", "until", "end",
];

/// The time column that the rows go by.
struct Times<'a> {
    name: &'a str,
    values: &'a [Option<i64>],
    first: i64,
    last: i64,
}

impl Times<'_> {
    fn days(&self) -> f64 {
        (self.last - self.first) as f64 / DAY
    }
}

fn best_time(sample: &Sample) -> Option<Times<'_>> {
    let mut best: Option<(f64, Times)> = None;
    for column in &sample.columns {
        let Values::Times(values) = &column.values else { continue };
        let known: Vec<i64> = values.iter().flatten().copied().collect();
        let (Some(first), Some(last)) = (known.iter().min(), known.iter().max()) else { continue };
        if first == last {
            continue;
        }
        let share = known.len() as f64 / values.len() as f64;
        let past = known.iter().filter(|at| **at <= sample.now).count() as f64 / known.len() as f64;
        let named = f64::from(has_word(&column.name, &EVENT_TIMES))
            - f64::from(has_word(&column.name, &OTHER_TIMES));
        let score = share + past + named / 4.0;
        if best.as_ref().is_none_or(|(most, _)| score > *most) {
            best = Some((score, Times { name: &column.name, values, first: *first, last: *last }));
        }
    }
    best.map(|(_, times)| times)
}

/// How a column may be looked at.
enum Role<'a> {
    Magnitude(&'a [Option<f64>]),
    /// Which row has which, by numbers that say nothing else, and how many there are.
    Names(Vec<Option<i64>>, usize),
    Flag(&'a [Option<bool>]),
    None,
}

fn distinct(values: &[Option<i64>]) -> usize {
    values.iter().flatten().collect::<HashSet<_>>().len()
}

/// Whole numbers that rise (or fall) from row to row in the order of time number the rows.
fn numbers_rows(values: &[Option<f64>], times: &Times) -> bool {
    let mut rows: Vec<(i64, f64)> =
        times.values.iter().zip(values).filter_map(|(at, v)| Some(((*at)?, (*v)?))).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let steps = rows.windows(2).count();
    let rising = rows.windows(2).filter(|w| w[1].1 > w[0].1).count();
    let different: HashSet<u64> = rows.iter().map(|(_, v)| v.to_bits()).collect();
    steps >= 20
        && different.len() as f64 >= 0.98 * rows.len() as f64
        && (rising as f64 >= 0.95 * steps as f64 || {
            let (min, max) =
                rows.iter().fold((f64::MAX, f64::MIN), |(lo, hi), (_, v)| (lo.min(*v), hi.max(*v)));
            // All different and without holes: drawn from a counter.
            max - min < 1.5 * rows.len() as f64
        })
}

fn role<'a>(column: &'a Column, times: &Times) -> Role<'a> {
    match &column.values {
        Values::Numbers { values, whole } => {
            let finite: Vec<f64> =
                values.iter().flatten().copied().filter(|v| v.is_finite()).collect();
            let names = column.is_key
                || has_word(&column.name, &NAMES_OF_NAMES)
                || *whole && numbers_rows(values, times);
            if names {
                if !*whole {
                    return Role::None;
                }
                let codes: Vec<Option<i64>> =
                    values.iter().map(|v| v.map(|v| v.to_bits() as i64)).collect();
                let count = distinct(&codes);
                return Role::Names(codes, count);
            }
            let varies = finite.iter().any(|v| *v != finite[0]);
            let there = finite.len() * 10 >= values.len();
            if varies && there { Role::Magnitude(values) } else { Role::None }
        }
        Values::Names(values) => Role::Names(values.clone(), distinct(values)),
        Values::Flags(values) => {
            let (yes, no) = (values.contains(&Some(true)), values.contains(&Some(false)));
            if yes && no { Role::Flag(values) } else { Role::None }
        }
        Values::Times(_) => Role::None,
    }
}

/// The median gap between rows of an entity, µs, if most gaps are near it.
fn cadence(times: &Times, entity: Option<&[Option<i64>]>) -> Option<f64> {
    let mut of: HashMap<Option<i64>, Vec<i64>> = HashMap::new();
    for (i, at) in times.values.iter().enumerate() {
        if let Some(at) = at {
            of.entry(entity.and_then(|names| names[i])).or_default().push(*at);
        }
    }
    let mut gaps = Vec::new();
    for at in of.values_mut() {
        at.sort_unstable();
        gaps.extend(at.windows(2).map(|w| w[1] - w[0]));
    }
    if gaps.len() < ROWS_PER_ENTITY {
        return None;
    }
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2] as f64;
    let near = gaps.iter().filter(|gap| (**gap as f64 - median).abs() <= median / 2.0).count();
    (median > 0.0 && near as f64 >= REGULAR * gaps.len() as f64).then_some(median)
}

/// Columns that name what the rows are of, the best first: texts before numbers, fewer before more.
fn entities<'a>(
    columns: &'a [(&Column, Role)],
    rows: usize,
) -> Vec<(&'a str, &'a [Option<i64>], usize)> {
    let mut found: Vec<(bool, &str, &[Option<i64>], usize)> = columns
        .iter()
        .filter_map(|(column, role)| match role {
            Role::Names(values, count)
                if (2..=MOST_ENTITIES).contains(count) && rows >= count * ROWS_PER_ENTITY =>
            {
                let is_number = !matches!(column.values, Values::Names(_));
                Some((is_number, column.name.as_str(), values.as_slice(), *count))
            }
            _ => None,
        })
        .collect();
    found.sort_by_key(|(is_number, _, _, count)| (*is_number, *count));
    found.into_iter().map(|(_, name, values, count)| (name, values, count)).collect()
}

fn bucket_for(rows_per_day: f64, rows: f64) -> i64 {
    let enough = |seconds: &&i64| rows_per_day * **seconds as f64 / 86_400.0 >= rows;
    BUCKETS.iter().find(enough).copied().unwrap_or(86_400)
}

/// Proposals, the best first; none of a sample without a time or with too few rows.
pub fn suggest(sample: &Sample) -> Vec<Proposal> {
    let Some(times) = best_time(sample) else { return Vec::new() };
    let rows = times.values.iter().flatten().count();
    if rows < ROWS_PER_ENTITY || times.days() <= 0.0 {
        return Vec::new();
    }
    let columns: Vec<(&Column, Role)> = sample
        .columns
        .iter()
        .filter(|column| column.name != times.name)
        .map(|column| (column, role(column, &times)))
        .collect();
    let age = (sample.now - times.last) as f64 / DAY;
    let reach = (sample.now - times.first) as f64 / DAY;
    let training_days = (age > 10.0).then(|| (reach.ceil() as i64).saturating_add(1));
    let mut proposals = {
        let named = entities(&columns, rows);
        let by_entity = || {
            named.iter().find_map(|(name, values, count)| {
                cadence(&times, Some(values)).map(|gap| (Some((*name, *count)), gap))
            })
        };
        match cadence(&times, None).map(|gap| (None, gap)).or_else(by_entity) {
            Some((entity, gap)) => series(sample, &times, &columns, entity, gap),
            None => events(sample, &times, &columns, &named),
        }
    };
    for proposal in &mut proposals {
        proposal.training_days = training_days;
        if proposal.history < 100.0 {
            proposal.why.push_str(&format!(
                "; {:.0} of the 100 points are there that it needs (min_data_points), so it warms up first",
                proposal.history
            ));
        }
        if training_days.is_some() {
            proposal.why.push_str(&format!("; the latest row is {age:.0} days old"));
        }
    }
    proposals
}

fn seconds(gap: f64) -> String {
    let s = gap / 1e6;
    match s {
        _ if s < 120.0 => format!("{s:.0} seconds"),
        _ if s < 7200.0 => format!("{:.0} minutes", s / 60.0),
        _ if s < 172_800.0 => format!("{:.0} hours", s / 3600.0),
        _ => format!("{:.0} days", s / 86_400.0),
    }
}

fn series(
    sample: &Sample,
    times: &Times,
    columns: &[(&Column, Role)],
    entity: Option<(&str, usize)>,
    gap: f64,
) -> Vec<Proposal> {
    let entities = entity.map_or(1, |(_, count)| count);
    // Rows that are due every few seconds need not be looked at one by one.
    let every = BUCKETS.iter().find(|s| **s as f64 * 1e6 >= gap * 0.99).copied().unwrap_or(86_400);
    let points_per_day = sample.rows / times.days();
    columns
        .iter()
        .filter(|(_, role)| matches!(role, Role::Magnitude(_)))
        .map(|(column, _)| Proposal {
            at: times.name.to_owned(),
            value: Some(column.name.clone()),
            is_flag: false,
            entity: entity.map(|(name, _)| name.to_owned()),
            bucket: None,
            every,
            training_days: None,
            entities,
            points_per_day,
            history: sample.rows / entities as f64,
            why: match entity {
                Some((name, count)) => {
                    format!("a row each {} of each of {count} {name}", seconds(gap))
                }
                None => format!("a row each {}", seconds(gap)),
            },
        })
        .collect()
}

fn events(
    sample: &Sample,
    times: &Times,
    columns: &[(&Column, Role)],
    named: &[(&str, &[Option<i64>], usize)],
) -> Vec<Proposal> {
    let rows_per_day = sample.rows / times.days();
    let bucket = bucket_for(rows_per_day, ROWS_A_BUCKET);
    let propose = |value: Option<&str>, aggregate, bucket: i64, why: String| Proposal {
        at: times.name.to_owned(),
        value: value.map(str::to_owned),
        is_flag: false,
        entity: None,
        bucket: Some((bucket, aggregate)),
        every: bucket,
        training_days: None,
        entities: 1,
        points_per_day: 86_400.0 / bucket as f64,
        history: times.days() * 86_400.0 / bucket as f64,
        why,
    };
    let mut all = vec![propose(
        None,
        "count",
        bucket,
        format!("{rows_per_day:.0} rows a day, that come when something happens"),
    )];
    for (column, role) in columns {
        if let Role::Magnitude(values) = role {
            let name = column.name.as_str();
            let adds_up = has_word(name, &ADD_UP) && !has_word(name, &DO_NOT_ADD_UP);
            let negative = values.iter().flatten().any(|v| *v < 0.0);
            if adds_up && !negative {
                all.push(propose(
                    Some(name),
                    "sum",
                    bucket,
                    format!("how much {name} there is in all"),
                ));
            }
            all.push(propose(Some(name), "avg", bucket, format!("how large {name} is on average")));
        }
    }
    for (column, role) in columns {
        if let Role::Flag(values) = role {
            let share = values.iter().flatten().filter(|v| **v).count() as f64
                / values.iter().flatten().count().max(1) as f64;
            let name = column.name.as_str();
            all.push(Proposal {
                is_flag: true,
                ..propose(
                    Some(name),
                    "avg",
                    bucket,
                    format!("the share of rows with {name}, {:.0} % so far", 100.0 * share),
                )
            });
        }
    }
    if let Some((name, _, count)) = named.first() {
        let bucket = bucket_for(rows_per_day / *count as f64, ROWS_OF_ENTITY);
        let counted =
            propose(None, "count", bucket, format!("how many rows each of {count} {name} has"));
        all.push(Proposal {
            entity: Some((*name).to_owned()),
            entities: *count,
            points_per_day: counted.points_per_day * *count as f64,
            ..counted
        });
    }
    for (column, role) in columns {
        if let Role::Names(values, count) = role {
            let known = values.iter().flatten().count();
            // Neither a few that are always there nor a new one in each row.
            if *count > 20 && (*count as f64) < 0.9 * known as f64 {
                let name = column.name.as_str();
                all.push(propose(
                    Some(name),
                    "count_distinct",
                    bucket,
                    format!("how many different {name} there are"),
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn column(name: &str, values: Values) -> Column {
        Column { name: name.into(), values, is_key: false }
    }

    fn numbers(name: &str, rows: usize, whole: bool, of: impl Fn(usize) -> f64) -> Column {
        let values = (0..rows).map(|i| Some(of(i))).collect();
        column(name, Values::Numbers { values, whole })
    }

    fn names(name: &str, rows: usize, of: impl Fn(usize) -> i64) -> Column {
        column(name, Values::Names((0..rows).map(|i| Some(of(i))).collect()))
    }

    fn times(name: &str, rows: usize, of: impl Fn(usize) -> i64) -> Column {
        column(name, Values::Times((0..rows).map(|i| Some(of(i))).collect()))
    }

    type What<'a> = (Option<&'a str>, Option<&'a str>, Option<(i64, &'a str)>);

    fn what(proposals: &[Proposal]) -> Vec<What<'_>> {
        proposals.iter().map(|p| (p.value.as_deref(), p.entity.as_deref(), p.bucket)).collect()
    }

    #[test]
    fn regular_rows_of_hosts_are_series() {
        let rows = 900;
        let sample = Sample {
            columns: vec![
                numbers("id", rows, true, |i| i as f64),
                times("at", rows, |i| (i / 3) as i64 * 5 * MINUTE),
                names("host", rows, |i| i as i64 % 3),
                numbers("cpu", rows, false, |i| (i % 7) as f64),
                numbers("constant", rows, false, |_| 1.0),
            ],
            rows: rows as f64,
            now: 300 * 5 * MINUTE,
        };
        let proposals = suggest(&sample);
        assert_eq!(what(&proposals), [(Some("cpu"), Some("host"), None)]);
        assert_eq!((proposals[0].every, proposals[0].entities), (300, 3));
        assert!((proposals[0].points_per_day - 3.0 * 288.0).abs() < 5.0);
        assert_eq!(proposals[0].training_days, None);
    }

    #[test]
    fn rows_at_random_times_are_counted_and_added_up() {
        let rows = 2000;
        let random = |i: usize| (i as u64 * 2_654_435_761 % 1_000_003) as i64;
        let sample = Sample {
            columns: vec![
                times("created_at", rows, |i| random(i) * 86),
                times("updated_at", rows, |i| random(i) * 86 + 5),
                names("country", rows, |i| i as i64 % 4),
                numbers("customer_id", rows, true, |i| (random(i) % 300) as f64),
                numbers("order_no", rows, true, |i| i as f64),
                numbers("amount", rows, false, |i| random(i) as f64 / 1e4),
                numbers("latency_ms", rows, false, |i| (random(i) % 100) as f64),
                column("failed", Values::Flags((0..rows).map(|i| Some(i % 50 == 0)).collect())),
            ],
            rows: rows as f64,
            now: 86_400_000_000 * 40,
        };
        let proposals = suggest(&sample);
        let bucket = proposals[0].bucket.unwrap().0;
        let found = what(&proposals);
        assert_eq!(found[0], (None, None, Some((bucket, "count"))));
        assert!(found.contains(&(Some("amount"), None, Some((bucket, "sum")))));
        assert!(found.contains(&(Some("latency_ms"), None, Some((bucket, "avg")))));
        assert!(!found.contains(&(Some("latency_ms"), None, Some((bucket, "sum")))));
        assert!(found.contains(&(Some("customer_id"), None, Some((bucket, "count_distinct")))));
        assert!(found.iter().any(|f| f.0.is_none() && f.1 == Some("country")));
        assert!(proposals.iter().any(|p| p.is_flag));
        // Names are no magnitudes, however they are written.
        for p in &proposals {
            let is_name =
                p.value.as_deref().is_some_and(|v| ["customer_id", "order_no"].contains(&v));
            assert!(!is_name || p.bucket.unwrap().1 == "count_distinct", "{p:?}");
            assert_eq!(p.at, "created_at");
            assert_eq!(p.training_days, Some(41));
        }
    }

    #[test]
    fn nothing_is_proposed_of_nothing() {
        let none = Sample { columns: Vec::new(), rows: 0.0, now: 0 };
        assert!(suggest(&none).is_empty());
        for rows in [0, 1, 5] {
            let sample = Sample {
                columns: vec![
                    times("at", rows, |i| i as i64),
                    numbers("v", rows, false, |i| i as f64),
                ],
                rows: rows as f64,
                now: 0,
            };
            assert!(suggest(&sample).is_empty());
        }
        let odd = |values: Vec<Option<f64>>| Sample {
            columns: vec![
                times("at", values.len(), |i| i as i64 * MINUTE),
                column("v", Values::Numbers { values, whole: false }),
            ],
            rows: 100.0,
            now: i64::MAX,
        };
        for value in [None, Some(f64::NAN), Some(f64::INFINITY), Some(7.0)] {
            assert!(suggest(&odd(vec![value; 100])).is_empty(), "{value:?}");
        }
        let same_time = Sample {
            columns: vec![times("at", 100, |_| 5), numbers("v", 100, false, |i| i as f64)],
            rows: 100.0,
            now: 9,
        };
        assert!(suggest(&same_time).is_empty());
    }

    #[test]
    fn words_of_names() {
        assert_eq!(words("userID"), ["user", "id"]);
        assert_eq!(words("order_id"), ["order", "id"]);
        assert_eq!(words("Größe in cm"), ["größe", "in", "cm"]);
        assert!(words("___").is_empty());
        assert!(!has_word("paid", &NAMES_OF_NAMES) && has_word("PaymentId", &NAMES_OF_NAMES));
    }
}
