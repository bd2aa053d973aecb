//! `anomaly.add_calendar`, `alter_calendar`, `drop_calendar`, `calendar_occurrences` and
//! `next_occurrence`: times that are known beforehand, once or again and again
//! (`anomaly_core::recurrence`). What they do is looked up where points are judged and learned
//! (`feedback.rs`, `train.rs`), and where alerts are stored (`silence.rs`).

use std::ops::RangeInclusive;

use anomaly_core::recurrence::{Length, Occurrences, Recurrence};
use pgrx::{
    PgSqlErrorCode,
    datum::{Interval, Range, TimestampWithTimeZone},
    pg_sys::{self, panic::ErrorReport},
    prelude::*,
};

use crate::{
    detector::{
        catalog::is_admin,
        catalog::{DetectorRow, may_see_all},
        train::retrain,
    },
    error::{SqlResult, from_core, invalid, not_null, report},
    pg::{internal_rights, session},
    run, sql,
};

const ACTIONS: [&str; 3] = ["expect", "exclude", "mute"];
/// Of one calendar in the window of a scan or a training; one a minute are two years.
const MOST_OCCURRENCES: usize = 1_000_000;
/// That `calendar_occurrences` answers.
const MOST_SHOWN: usize = 100_000;

/// When a calendar is, as it is stored.
#[derive(Clone)]
pub struct When {
    pub starts_at: TimestampWithTimeZone,
    pub duration: Interval,
    pub rrule: Option<String>,
    pub time_zone: String,
}

impl When {
    /// Columns of a row, from this one on: starts_at, duration, rrule, time_zone.
    pub fn read(row: &sql::Row, column: usize) -> SqlResult<When> {
        Ok(When {
            starts_at: row.must(column)?,
            duration: row.must(column + 1)?,
            rrule: row.get(column + 2)?,
            time_zone: row.must(column + 3)?,
        })
    }

    /// # Errors
    /// 22023 saying what is wrong.
    pub fn occurrences(&self) -> SqlResult<Occurrences> {
        let starts_at = pg_sys::TimestampTz::from(self.starts_at);
        let recurrence = Recurrence::new(starts_at, &self.time_zone, self.rrule.as_deref())
            .map_err(from_core)?;
        let length = Length {
            months: self.duration.months(),
            days: self.duration.days(),
            micros: self.duration.micros(),
        };
        Occurrences::new(recurrence, length).map_err(from_core)
    }

    /// The occurrences of which a part lies within [from, until].
    ///
    /// # Errors
    /// Those of [`When::occurrences`], 54000 for too many.
    pub fn periods(&self, from: i64, until: i64) -> SqlResult<Vec<RangeInclusive<i64>>> {
        let all = self.occurrences()?.between(from, until, MOST_OCCURRENCES);
        let all = all.map_err(|error| {
            from_core(error).set_hint(
                "have the calendar come less often, or shorten the detector's training_window",
            )
        })?;
        Ok(all.into_iter().map(|period| period.start..=period.end.saturating_sub(1)).collect())
    }
}

/// The times of a detector's calendars with one of these actions, within [from, until], by entity;
/// `None`: of all.
pub fn periods(
    row: &DetectorRow,
    actions: &[&str],
    (from, until): (i64, i64),
) -> SqlResult<Vec<(Option<String>, RangeInclusive<i64>)>> {
    let calendars = internal_rights::with(|| {
        sql::rows(
            "SELECT entity, starts_at, duration, rrule, time_zone FROM anomaly.calendar \
              WHERE (detector = $1 OR detector IS NULL AND owner = $2::oid) \
                AND (anomaly_type IS NULL OR anomaly_type = $3) AND action = ANY ($4) \
              ORDER BY calendar_id",
            &[
                row.judged_as().into(),
                row.owner.into(),
                row.anomaly_type.as_str().into(),
                actions.to_vec().into(),
            ],
            |r| Ok((r.get::<String>(1)?, When::read(r, 2)?)),
        )
    })?;
    let mut found = Vec::new();
    for (entity, when) in calendars {
        for period in when.periods(from, until)? {
            found.push((entity.clone(), period));
        }
    }
    Ok(found)
}

/// Whose detectors a calendar is about, if the caller may say so: of the named one, or their own.
pub fn owner_of(detector: Option<&str>) -> SqlResult<pg_sys::Oid> {
    match detector {
        None => Ok(session::current_user()),
        Some(detector) if is_admin()? => Ok(DetectorRow::load(detector)?.owner),
        Some(detector) => Ok(DetectorRow::load_owned(detector)?.owner),
    }
}

pub fn check_type(anomaly_type: Option<&str>) -> SqlResult<()> {
    if let Some(anomaly_type) = anomaly_type {
        crate::anomaly_type::check(anomaly_type)?;
    }
    Ok(())
}

fn check_action(action: &str) -> SqlResult<()> {
    if ACTIONS.contains(&action) {
        return Ok(());
    }
    Err(invalid(
        format!("unknown action \"{action}\""),
        format!("actions are {}", ACTIONS.join(", ")),
    ))
}

fn check_name(name: &str) -> SqlResult<()> {
    if !name.is_empty() {
        return Ok(());
    }
    Err(invalid("the name is empty", "name the calendar, for example 'holidays'"))
}

/// Says what is known beforehand of times that come once, or again and again, and answers the number
/// of the calendar. At such times, `expect`: nothing is an anomaly, and nothing is learned;
/// `exclude`: points are judged and not learned; `mute`: alerts are stored, and nobody is told.
///
/// # Errors
/// 22023 for a rule, duration, zone or action that cannot be, with what is wrong; 42704 and 42501 as
/// for other functions of detectors.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments)]
fn add_calendar(
    name: Option<&str>,
    starts_at: Option<TimestampWithTimeZone>,
    duration: Option<Interval>,
    rrule: default!(Option<String>, "NULL"),
    time_zone: default!(Option<String>, "'UTC'"),
    detector: default!(Option<&str>, "NULL"),
    entity: default!(Option<&str>, "NULL"),
    anomaly_type: default!(Option<&str>, "NULL"),
    action: default!(Option<&str>, "'expect'"),
    reason: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    not_null!(name, starts_at, duration, time_zone, action);
    run::check_writable("add_calendar")?;
    check_name(name)?;
    check_action(action)?;
    check_type(anomaly_type)?;
    let when = When { starts_at, duration, rrule, time_zone };
    when.occurrences()?;
    let owner = owner_of(detector)?;
    let (severities, scope) = ((None, None), (detector, entity, anomaly_type));
    insert(&New { name, owner, scope, severities, action, when, reason })
}

/// A calendar that has been checked.
pub struct New<'a> {
    pub name: &'a str,
    pub owner: pg_sys::Oid,
    /// detector, entity, anomaly type
    pub scope: (Option<&'a str>, Option<&'a str>, Option<&'a str>),
    /// from, to
    pub severities: (Option<&'a str>, Option<&'a str>),
    pub action: &'a str,
    pub when: When,
    pub reason: Option<&'a str>,
}

pub fn insert(new: &New) -> SqlResult<i64> {
    let by = session::current_user();
    let id = internal_rights::with(|| {
        sql::execute_returning(
            "INSERT INTO anomaly.calendar (name, owner, detector, entity, anomaly_type, min_severity, \
                max_severity, action, starts_at, duration, rrule, time_zone, reason, created_by) \
             VALUES ($1, $2::oid, $3, $4, $5, $6::anomaly.severity, $7::anomaly.severity, $8, $9, $10, $11, \
                $12, $13, $14::oid) RETURNING calendar_id",
            &[
                new.name.into(),
                new.owner.into(),
                new.scope.0.into(),
                new.scope.1.into(),
                new.scope.2.into(),
                new.severities.0.into(),
                new.severities.1.into(),
                new.action.into(),
                new.when.starts_at.into(),
                new.when.duration.into(),
                new.when.rrule.as_deref().into(),
                new.when.time_zone.as_str().into(),
                new.reason.into(),
                by.into(),
            ],
            |row| row.must::<i64>(1),
        )
    })?;
    let id = id.first().copied().unwrap_or_default();
    retrain_if_learned(id)?;
    Ok(id)
}

/// A stored calendar that the caller may change.
struct Owned {
    name: String,
    when: When,
    action: String,
    reason: Option<String>,
    /// Silences whose severities are bounded.
    bounded: bool,
}

/// `None` where there is none that the caller sees.
///
/// # Errors
/// 42501 for one that they may only look at.
fn find_owned(calendar: i64) -> SqlResult<Option<Owned>> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT name, starts_at, duration, rrule, time_zone, action, reason, \
                    min_severity IS NOT NULL OR max_severity IS NOT NULL, owner::oid \
               FROM anomaly.calendar WHERE calendar_id = $1",
            &[calendar.into()],
            |row| {
                let owned = Owned {
                    name: row.must(1)?,
                    when: When::read(row, 2)?,
                    action: row.must(6)?,
                    reason: row.get(7)?,
                    bounded: row.must(8)?,
                };
                Ok((owned, row.must::<pg_sys::Oid>(9)?))
            },
        )
    })?;
    let Some((found, owner)) = found else { return Ok(None) };
    if session::has_privileges_of(session::current_user(), owner) || is_admin()? {
        return Ok(Some(found));
    }
    if may_see_all()? {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of calendar {calendar}"),
        )
        .set_hint("SET ROLE to its owner; anomaly.calendars names it"));
    }
    Ok(None)
}

fn unknown(calendar: i64) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("calendar {calendar} does not exist"))
        .set_hint("SELECT id, name FROM anomaly.calendars")
}

/// Changes a calendar or a silence; what is NULL stays, and an empty rrule makes it come once.
///
/// # Errors
/// As `add_calendar`; 42704 for one that does not exist or that the caller may not see, 42501 for one that is
/// not theirs.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments)]
fn alter_calendar(
    calendar: Option<i64>,
    name: default!(Option<&str>, "NULL"),
    starts_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    duration: default!(Option<Interval>, "NULL"),
    rrule: default!(Option<String>, "NULL"),
    time_zone: default!(Option<String>, "NULL"),
    action: default!(Option<&str>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> SqlResult<()> {
    not_null!(calendar);
    run::check_writable("alter_calendar")?;
    let old = find_owned(calendar)?.ok_or_else(|| unknown(calendar))?;
    let name = name.unwrap_or(&old.name);
    check_name(name)?;
    let action = action.unwrap_or(&old.action);
    check_action(action)?;
    if action != "mute" && old.bounded {
        return Err(invalid(
            format!("calendar {calendar} is of some severities only, which \"{action}\" cannot be"),
            "drop it, and add another",
        ));
    }
    let when = When {
        starts_at: starts_at.unwrap_or(old.when.starts_at),
        duration: duration.unwrap_or(old.when.duration),
        rrule: rrule.or(old.when.rrule).filter(|rule| !rule.is_empty()),
        time_zone: time_zone.unwrap_or(old.when.time_zone),
    };
    when.occurrences()?;
    let reason = reason.or(old.reason.as_deref());
    // What it was, and what it becomes: either can be about what has been learned.
    retrain_if_learned(calendar)?;
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.calendar SET name = $2, starts_at = $3, duration = $4, rrule = $5, \
                time_zone = $6, action = $7, reason = $8 WHERE calendar_id = $1",
            &[
                calendar.into(),
                name.into(),
                when.starts_at.into(),
                when.duration.into(),
                when.rrule.into(),
                when.time_zone.into(),
                action.into(),
                reason.into(),
            ],
        )
    })?;
    retrain_if_learned(calendar)
}

/// Forgets a calendar or a silence; true when there was one that the caller sees.
///
/// # Errors
/// 42501 for one of somebody else.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_calendar(calendar: i64) -> SqlResult<bool> {
    run::check_writable("drop_calendar")?;
    if find_owned(calendar)?.is_none() {
        return Ok(false);
    }
    retrain_if_learned(calendar)?;
    let dropped = internal_rights::with(|| {
        sql::execute("DELETE FROM anomaly.calendar WHERE calendar_id = $1", &[calendar.into()])
    })?;
    Ok(dropped == 1)
}

/// When a calendar is, as far as a part of it lies between two times; 100,000 times at most.
///
/// # Errors
/// 42704 for one that does not exist or that the caller may not see, 22023 for a period that ends before
/// it begins, 54000 for too many times.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", stable, parallel_unsafe)]
fn calendar_occurrences(
    calendar: Option<i64>,
    from_ts: Option<TimestampWithTimeZone>,
    until_ts: Option<TimestampWithTimeZone>,
) -> Result<
    TableIterator<
        'static,
        (name!(starts_at, TimestampWithTimeZone), name!(ends_at, TimestampWithTimeZone)),
    >,
    ErrorReport,
> {
    not_null!(calendar, from_ts, until_ts);
    let (from, until) = (pg_sys::TimestampTz::from(from_ts), pg_sys::TimestampTz::from(until_ts));
    if until < from {
        return Err(invalid("until_ts is before from_ts", "give the earlier time as from_ts"));
    }
    // The view shows what the caller may see.
    let when = sql::row(
        "SELECT starts_at, duration, rrule, time_zone FROM anomaly.calendars \
          WHERE id OPERATOR(pg_catalog.=) $1",
        &[calendar.into()],
        |row| When::read(row, 1),
    )?
    .ok_or_else(|| unknown(calendar))?;
    let all = when
        .occurrences()?
        .between(from, until, MOST_SHOWN)
        .map_err(|error| from_core(error).set_hint("ask for a shorter period"))?;
    let rows = all
        .into_iter()
        .map(|period| Ok((sql::timestamptz(period.start)?, sql::timestamptz(period.end)?)))
        .collect::<SqlResult<Vec<_>>>()?;
    Ok(TableIterator::new(rows))
}

/// The occurrence that is going on at a time, or else the next one; NULL after the last.
///
/// # Errors
/// 22023 saying what is wrong with the rule, the duration or the zone.
#[pg_extern(schema = "anomaly", immutable, parallel_safe)]
pub fn next_occurrence(
    starts_at: Option<TimestampWithTimeZone>,
    duration: Option<Interval>,
    rrule: Option<String>,
    time_zone: Option<String>,
    at: Option<TimestampWithTimeZone>,
) -> SqlResult<Option<Range<TimestampWithTimeZone>>> {
    not_null!(starts_at, duration, time_zone, at);
    let when = When { starts_at, duration, rrule, time_zone };
    let Some(next) = when.occurrences()?.next(at.into()) else { return Ok(None) };
    let (start, end) = (sql::timestamptz(next.start)?, sql::timestamptz(next.end)?);
    Ok(Some(Range::new(start, end)))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.add_calendar(text, timestamptz, interval, text, text, text, text, text, text, text) IS
'adds times, once or by a rule of RFC 5545, at which everything is expected, points are excluded from learning, or alerts are muted; answers the number of the calendar';
COMMENT ON FUNCTION anomaly.alter_calendar(bigint, text, timestamptz, interval, text, text, text, text) IS
'changes a calendar or a silence: what is NULL stays, an empty rrule makes it come once';
COMMENT ON FUNCTION anomaly.drop_calendar(bigint) IS
'forgets a calendar or a silence; true when there was one';
COMMENT ON FUNCTION anomaly.calendar_occurrences(bigint, timestamptz, timestamptz) IS
'when a calendar is, as far as a part of it lies between two times';
COMMENT ON FUNCTION anomaly.next_occurrence(timestamptz, interval, text, text, timestamptz) IS
'the occurrence of a recurrence rule that is going on at a time, or else the next one';
"#,
    name = "calendars_comments",
    requires = [add_calendar, alter_calendar, drop_calendar, calendar_occurrences, next_occurrence]
);

/// Has those detectors trained anew whose training has learned, or left out, what lies at the calendar's times.
fn retrain_if_learned(calendar: i64) -> SqlResult<()> {
    let about = internal_rights::with(|| {
        sql::rows(
            "SELECT d.detector, COALESCE(s.watermark, s.last_training_time) - d.training_window, \
                    COALESCE(s.watermark, s.last_training_time), \
                    c.starts_at, c.duration, c.rrule, c.time_zone \
               FROM anomaly.calendar c JOIN anomaly.detector d \
                 ON (d.detector = c.detector OR c.detector IS NULL AND d.owner = c.owner) \
                AND (c.anomaly_type IS NULL OR d.anomaly_type = c.anomaly_type) \
               JOIN anomaly.detector_state s ON s.detector = d.detector \
              WHERE c.calendar_id = $1 AND c.action <> 'mute' \
                AND COALESCE(s.watermark, s.last_training_time) >= c.starts_at ORDER BY d.detector",
            &[calendar.into()],
            |row| Ok((row.must::<String>(1)?, row.micros(2)?, row.micros(3)?, When::read(row, 4)?)),
        )
    })?;
    for (detector, from, until, when) in about {
        let next = when.occurrences()?.next(from.unwrap_or(i64::MIN));
        if next.is_some_and(|next| until.is_some_and(|until| next.start <= until)) {
            retrain(&detector)?;
        }
    }
    Ok(())
}
