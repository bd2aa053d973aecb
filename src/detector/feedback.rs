//! `anomaly.feedback`, `anomaly.report_missed` and `anomaly.withdraw_feedback`: what people say about
//! alerts. It acts at the next scan: on what is accepted (`anomaly_core::guidance`), on what trains and
//! on the weights of ensembles.

use std::{collections::HashMap, ops::RangeInclusive};

use anomaly_core::{
    Direction, distribution,
    guidance::{Accepted, Guidance, Periods},
    strategy::Performance,
};
use pgrx::{
    JsonB, PgSqlErrorCode,
    datum::{Interval, TimestampWithTimeZone},
    pg_sys,
    prelude::*,
};
use serde_json::{Map, Value};

use crate::{
    detector::{
        alerts, calendars,
        catalog::{DetectorRow, is_admin},
        exclude,
        train::retrain,
        update_detector_performance as performance,
    },
    error::{SqlResult, from_core, invalid, not_null, report},
    pg::{internal_rights, session},
    sql,
};

/// What may be said of an alert. What may be said without one has its own functions.
const VERDICTS: [&str; 5] =
    ["true_positive", "false_positive", "expected_once", "expected_always", "ignore_training"];
const SCOPES: [&str; 3] = ["alert", "entity", "detector"];

/// An alert as far as a judgement of it goes.
struct Judged {
    detector: String,
    owner: pg_sys::Oid,
    entity: String,
    at: TimestampWithTimeZone,
    last_at: TimestampWithTimeZone,
    points: i32,
    side: Direction,
    value: Option<f64>,
    expected: Option<f64>,
    deviation: f64,
    metadata: Map<String, Value>,
    /// Nothing up to here is judged anew.
    passed: i64,
    detected_after: Option<Interval>,
}

const JUDGED: &str = "\
    SELECT a.detector, a.owner::oid, a.entity, a.at, a.last_at, a.points, a.direction, a.value, \
           a.expected, a.deviation, a.metadata, GREATEST(s.watermark, a.last_at), a.raised_at - a.at \
      FROM anomaly.alert a \
      LEFT JOIN anomaly.detector d ON d.detector = a.detector AND d.owner = a.owner \
       AND d.created_at <= a.raised_at \
      LEFT JOIN anomaly.detector_state s ON s.detector = d.detector \
     WHERE a.alert_id = $1 FOR UPDATE OF a";

/// Says what an alert was, and answers the number of the judgement. A later one of the same alert takes
/// the place of the earlier.
///
/// `false_positive` and `expected_always`: that far from the expected value is normal from now on, of
/// the alert's entity, or of all with scope `detector`; with scope `alert` it only counts.
/// `true_positive`, `expected_once` and `ignore_training`: its period never trains.
///
/// # Errors
/// 42704 for an alert that does not exist or that the caller may not see, 42501 for one that is not
/// theirs, 22023 for an unknown verdict or scope.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn feedback(
    alert: Option<i64>,
    verdict: Option<&str>,
    scope: default!(Option<&str>, "'entity'"),
    note: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    not_null!(alert, verdict, scope);
    if !VERDICTS.contains(&verdict) {
        let hint = match verdict {
            "missed" => "SELECT anomaly.report_missed(detector, at => …)".to_owned(),
            _ => format!("verdicts are {}", VERDICTS.join(", ")),
        };
        return Err(invalid(format!("unknown verdict \"{verdict}\""), hint));
    }
    if !SCOPES.contains(&scope) {
        return Err(invalid(
            format!("unknown scope \"{scope}\""),
            format!("scopes are {}", SCOPES.join(", ")),
        ));
    }
    let kind = alerts::OwnedAlert::load(alert)?.kind;
    if kind != "anomaly" {
        return Err(invalid(
            format!(
                "alert {alert} is of kind {kind}: no model has judged, so that none can learn from it"
            ),
            format!("SELECT anomaly.resolve({alert})"),
        ));
    }
    let judged = internal_rights::with(|| {
        sql::execute_returning(JUDGED, &[alert.into()], |row| {
            Ok(Judged {
                detector: row.must(1)?,
                owner: row.must(2)?,
                entity: row.must(3)?,
                at: row.must(4)?,
                last_at: row.must(5)?,
                points: row.must(6)?,
                side: row.must::<String>(7)?.parse().unwrap_or(Direction::None),
                value: row.get(8)?,
                expected: row.get(9)?,
                deviation: row.must(10)?,
                metadata: match row.must::<JsonB>(11)?.0 {
                    Value::Object(map) => map,
                    _ => Map::new(),
                },
                passed: row.micros(12)?.unwrap_or_default(),
                detected_after: row.get(13)?,
            })
        })
    })?;
    // Under the row's lock: two judgements at once come one after the other.
    let Some(judged) = judged.into_iter().next() else { return Err(alerts::unknown(alert)) };
    take_back(|| sql::rows(OF_ALERT, &[alert.into()], read_given))?;

    let accepted = match (verdict, scope) {
        (_, "alert") => None,
        ("false_positive" | "expected_always", _) => Accepted::of(
            judged.side,
            judged.value.unwrap_or(f64::NAN),
            judged.expected.unwrap_or(f64::NAN),
            judged.deviation,
            judged.passed,
        ),
        _ => None,
    };
    let found = found_by(&judged.metadata);
    let members = Value::Object(found.iter().map(|(m, f)| (m.clone(), (*f).into())).collect());
    let id = insert(&Given {
        detector: &judged.detector,
        owner: judged.owner,
        entity: &judged.entity,
        alert: Some(alert),
        verdict,
        scope,
        period: (judged.at, judged.last_at),
        points: judged.points,
        detected_after: judged.detected_after,
        accepted,
        members,
        note,
    })?;
    count(&judged.detector, verdict, &found, Performance::update)?;
    Ok(id)
}

/// Reports an anomaly that raised no alert, and answers the number of the judgement. Its period, from
/// `at` to `until_ts` or that point alone, never trains, and it counts as missed.
///
/// # Errors
/// 42704 and 42501 as for other functions of detectors, 22023 for a period that ends before it begins.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn report_missed(
    detector: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    entity: default!(Option<&str>, "NULL"),
    until_ts: default!(Option<TimestampWithTimeZone>, "NULL"),
    note: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    not_null!(detector, at);
    let until = until_ts.unwrap_or(at);
    if pg_sys::TimestampTz::from(until) < pg_sys::TimestampTz::from(at) {
        return Err(invalid(
            "until_ts is before at",
            "give the time of the first anomalous point as at, of the last one as until_ts",
        ));
    }
    let row = DetectorRow::load_owned(detector)?;
    let members = row.detection(None)?.strategy().members();
    let found: Vec<(String, bool)> = members.iter().map(|m| ((*m).to_owned(), false)).collect();
    let id = insert(&Given {
        detector: &row.detector,
        owner: row.owner,
        entity: entity.unwrap_or_default(),
        alert: None,
        verdict: "missed",
        scope: "entity",
        period: (at, until),
        points: 0,
        detected_after: None,
        accepted: None,
        members: Value::Object(found.iter().map(|(m, f)| (m.clone(), (*f).into())).collect()),
        note,
    })?;
    count(&row.detector, "missed", &found, Performance::update)?;
    retrain(&row.detector)?;
    Ok(id)
}

/// Takes a judgement back with all that followed from it; true when it was in force.
///
/// # Errors
/// 42704 for a judgement that does not exist or that the caller may not see, 42501 for one of a
/// detector that is not theirs.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn withdraw_feedback(feedback: i64) -> SqlResult<bool> {
    let owner = internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid FROM anomaly.judgement WHERE judgement_id = $1",
            &[feedback.into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })?;
    let unknown = || {
        report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("feedback {feedback} does not exist"),
        )
        .set_hint("SELECT id, verdict, alert FROM anomaly.feedback_log")
    };
    let Some(owner) = owner else { return Err(unknown()) };
    if !may_judge(owner)? {
        let seen = sql::row(
            "SELECT 1 FROM anomaly.feedback_log WHERE id OPERATOR(pg_catalog.=) $1",
            &[feedback.into()],
            |_| Ok(()),
        )?;
        return Err(if seen.is_some() {
            not_theirs(&format!("feedback {feedback}"))
        } else {
            unknown()
        });
    }
    take_back(|| sql::rows(BY_ID, &[feedback.into()], read_given))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.feedback(bigint, text, text, text) IS
'says what an alert was: true_positive, false_positive, expected_once, expected_always or ignore_training; acts at the next scan, and answers the number to withdraw it by';
COMMENT ON FUNCTION anomaly.report_missed(text, timestamptz, text, timestamptz, text) IS
'reports an anomaly that raised no alert: it counts as missed, and its period never trains';
COMMENT ON FUNCTION anomaly.withdraw_feedback(bigint) IS
'takes feedback back with all that followed from it; true when it was in force';
COMMENT ON FUNCTION anomaly.wilson_interval(bigint, bigint) IS
'95 % interval (Wilson) of the share of successes among trials; NULL of no trials';
"#,
    name = "feedback_comments",
    requires = [feedback, report_missed, withdraw_feedback, wilson_interval]
);

/// The bounds of the 95 % interval of a share.
///
/// # Errors
/// 22023 for more successes than trials and for negative counts.
#[pg_extern(schema = "anomaly", immutable, parallel_safe, strict)]
pub fn wilson_interval(successes: i64, trials: i64) -> SqlResult<Option<Vec<f64>>> {
    match (u64::try_from(successes), u64::try_from(trials)) {
        (Ok(successes), Ok(trials)) if successes <= trials => {
            let interval = distribution::wilson_interval(successes, trials);
            Ok(interval.map(|(low, high)| vec![low, high]))
        }
        _ => Err(invalid(
            format!("{successes} successes in {trials} trials"),
            "give counts from 0 on, and no more successes than trials",
        )),
    }
}

/// Judgements are taken back by members of the owner and by administrators.
fn may_judge(owner: pg_sys::Oid) -> SqlResult<bool> {
    if session::has_privileges_of(session::current_user(), owner) {
        return Ok(true);
    }
    is_admin()
}

fn not_theirs(what: &str) -> pg_sys::panic::ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of the detector of {what}"),
    )
    .set_hint("SET ROLE to its owner; anomaly.detectors names it")
}

/// Which members of an ensemble found the anomaly by themselves, from the figures of its alert.
fn found_by(metadata: &Map<String, Value>) -> Vec<(String, bool)> {
    let limit = metadata.get("threshold").and_then(Value::as_f64);
    match (metadata.get("detector_results"), limit) {
        (Some(Value::Object(scores)), Some(limit)) => scores
            .iter()
            .map(|(member, score)| (member.clone(), score.as_f64().is_some_and(|s| s >= limit)))
            .collect(),
        _ => Vec::new(),
    }
}

struct Given<'a> {
    detector: &'a str,
    owner: pg_sys::Oid,
    entity: &'a str,
    alert: Option<i64>,
    verdict: &'a str,
    scope: &'a str,
    period: (TimestampWithTimeZone, TimestampWithTimeZone),
    points: i32,
    detected_after: Option<Interval>,
    accepted: Option<Accepted>,
    members: Value,
    note: Option<&'a str>,
}

fn insert(given: &Given) -> SqlResult<i64> {
    let by = session::current_user();
    let from = given.accepted.map(|a| sql::timestamptz(a.from)).transpose()?;
    let id = internal_rights::with(|| {
        sql::execute_returning(
            "INSERT INTO anomaly.judgement (detector, owner, entity, alert_id, verdict, scope, from_at, \
                until_at, points, detected_after, side, distance, effective_from, members, note, given_by) \
             VALUES ($1, $2::oid, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::oid) \
             RETURNING judgement_id",
            &[
                given.detector.into(),
                given.owner.into(),
                given.entity.into(),
                given.alert.into(),
                given.verdict.into(),
                given.scope.into(),
                given.period.0.into(),
                given.period.1.into(),
                given.points.into(),
                given.detected_after.into(),
                given.accepted.map(|a| a.side.as_str()).into(),
                given.accepted.map(|a| a.distance).into(),
                from.into(),
                JsonB(given.members.clone()).into(),
                given.note.into(),
                by.into(),
            ],
            |row| row.must::<i64>(1),
        )
    })?;
    Ok(id.first().copied().unwrap_or_default())
}

/// A judgement that is in force.
struct InForce {
    id: i64,
    detector: String,
    verdict: String,
    found: Vec<(String, bool)>,
}

const OF_ALERT: &str = "SELECT judgement_id, detector, verdict, members FROM anomaly.judgement \
                        WHERE alert_id = $1 AND withdrawn_at IS NULL";
const BY_ID: &str = "SELECT judgement_id, detector, verdict, members FROM anomaly.judgement \
                     WHERE judgement_id = $1 AND withdrawn_at IS NULL";

fn read_given(row: &sql::Row) -> SqlResult<InForce> {
    let members = row.must::<JsonB>(4)?.0;
    let found = members.as_object().into_iter().flatten();
    Ok(InForce {
        id: row.must(1)?,
        detector: row.must(2)?,
        verdict: row.must(3)?,
        found: found.map(|(m, f)| (m.clone(), f.as_bool() == Some(true))).collect(),
    })
}

/// Withdraws the judgements that are found; whether there were any. What was accepted holds for the
/// points that have been judged under it, so that these can be judged again alike.
fn take_back(find: impl Fn() -> SqlResult<Vec<InForce>>) -> SqlResult<bool> {
    let by = session::current_user();
    let mut any = false;
    for given in internal_rights::with(find)? {
        let taken = internal_rights::with(|| {
            sql::execute(
                "UPDATE anomaly.judgement j SET withdrawn_at = now(), withdrawn_by = $2::oid, \
                    effective_until = (SELECT GREATEST(s.watermark, j.effective_from) \
                        FROM anomaly.detector_state s WHERE s.detector = j.detector) \
                  WHERE judgement_id = $1 AND withdrawn_at IS NULL",
                &[given.id.into(), by.into()],
            )
        })?;
        if taken == 0 {
            continue; // somebody else has meanwhile
        }
        any = true;
        count(&given.detector, &given.verdict, &given.found, Performance::take_back)?;
        if given.verdict == "missed" {
            retrain(&given.detector)?;
        }
    }
    Ok(any)
}

/// Counts a judgement for the members of an ensemble, or takes that back.
fn count(
    detector: &str,
    verdict: &str,
    found: &[(String, bool)],
    change: fn(&mut Performance, &Performance),
) -> SqlResult<()> {
    for (member, found) in found {
        let mut one = Performance::default();
        match (verdict, found) {
            ("true_positive", true) => one.true_positives = 1,
            ("true_positive" | "missed", false) => one.false_negatives = 1,
            ("false_positive", true) => one.false_positives = 1,
            ("false_positive", false) => one.true_negatives = 1,
            _ => continue,
        }
        internal_rights::with(|| performance::count(detector, member, &one, change))?;
    }
    Ok(())
}

/// What has been said of a detector's entities.
#[derive(Default)]
pub struct Guidances {
    of_all: Guidance,
    by_entity: HashMap<String, Guidance>,
}

/// The same while it is put together.
#[derive(Default)]
struct Said {
    accepted: Vec<Accepted>,
    excluded: Vec<RangeInclusive<i64>>,
    expected: Vec<RangeInclusive<i64>>,
}

impl From<Said> for Guidance {
    fn from(said: Said) -> Guidance {
        Guidance {
            accepted: said.accepted,
            excluded: said.excluded.into_iter().collect(),
            expected: said.expected.into_iter().collect(),
        }
    }
}

/// How long before the points that are judged calendars are looked up: an episode that began so
/// long ago still knows that its peak was excluded.
fn window(row: &DetectorRow, at: Option<i64>) -> SqlResult<(i64, i64)> {
    let checkpoint = internal_rights::with(|| {
        sql::row(
            "SELECT min(at) FROM anomaly.checkpoint WHERE detector = $1",
            &[row.detector.as_str().into()],
            |r| r.micros(1),
        )
    })?;
    let scanned = checkpoint.flatten().or(row.watermark).unwrap_or(row.training_from);
    let reach = row.settled_until.saturating_sub(row.training_from);
    let first = at.map_or(scanned, |at| at.min(scanned));
    let last = at.map_or(row.settled_until, |at| at.max(row.settled_until));
    Ok((first.saturating_sub(reach), last))
}

impl Guidances {
    /// `at`: of the point that is brought; otherwise the detector scans.
    ///
    /// # Errors
    /// Those of reading the catalogue.
    pub fn load(row: &DetectorRow, at: Option<i64>) -> SqlResult<Self> {
        let mut said: HashMap<Option<String>, Said> = HashMap::new();
        let accepted = internal_rights::with(|| {
            sql::rows(ACCEPTED, &[row.judged_as().into(), row.owner.into()], |r| {
                let accepted = Accepted {
                    side: r.must::<String>(2)?.parse().map_err(from_core)?,
                    distance: r.must(3)?,
                    from: r.micros(4)?.unwrap_or_default(),
                    until: r.micros(5)?.unwrap_or(i64::MAX),
                };
                Ok((r.get::<String>(1)?, accepted))
            })
        })?;
        for (entity, accepted) in accepted {
            said.entry(entity).or_default().accepted.push(accepted);
        }
        let window = window(row, at)?;
        for (entity, period) in exclude::periods(row.judged_as())?
            .into_iter()
            .chain(calendars::periods(row, &["exclude"], window)?)
        {
            said.entry(entity).or_default().excluded.push(period);
        }
        for (entity, period) in calendars::periods(row, &["expect"], window)? {
            said.entry(entity).or_default().expected.push(period);
        }
        let mut guidances = Guidances::default();
        for (entity, said) in said {
            match entity {
                None => guidances.of_all = said.into(),
                Some(entity) => {
                    guidances.by_entity.insert(entity, said.into());
                }
            }
        }
        Ok(guidances)
    }

    pub fn of(&self, entity: &str) -> Guidance {
        let mut guidance = self.of_all.clone();
        if let Some(own) = self.by_entity.get(entity) {
            guidance.accepted.extend_from_slice(&own.accepted);
            let both = |all: &Periods, own: &Periods| all.iter().chain(own.iter()).collect();
            guidance.excluded = both(&guidance.excluded, &own.excluded);
            guidance.expected = both(&guidance.expected, &own.expected);
        }
        guidance
    }
}

/// A judgement that was withdrawn holds for the points that were judged under it.
const ACCEPTED: &str = "\
    SELECT CASE j.scope WHEN 'entity' THEN j.entity END, j.side, j.distance, j.effective_from, \
           j.effective_until \
      FROM anomaly.judgement j JOIN anomaly.detector d USING (detector) \
     WHERE j.detector = $1 AND j.owner = $2::oid AND j.given_at >= d.created_at \
       AND j.side IS NOT NULL AND (j.effective_until IS NULL OR j.effective_until > j.effective_from) \
     ORDER BY j.judgement_id";
