//! `anomaly.silence`: nobody is told of alerts during a period. It is a calendar with action `mute`, and
//! what all of these do is here too.

use anomaly_core::{Severity, guidance::Periods};
use pgrx::{
    PgSqlErrorCode,
    datum::{Interval, Range, RangeBound, TimestampWithTimeZone},
    pg_sys,
    prelude::*,
};

use crate::{
    detector::{
        calendars::{self, New, When},
        catalog::DetectorRow,
    },
    error::{SqlResult, invalid, not_null, report},
    pg::internal_rights,
    run, sql,
};

/// Mutes alerts during a period, and answers the number of the silence: they are stored and marked, and
/// nobody is told of them. Without a detector, those of all detectors of the current role.
///
/// # Errors
/// 22000 for an empty period, 22023 for one without an end or an unknown severity; 42704 and 42501 as for
/// other functions of detectors.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn silence(
    during: Option<Range<TimestampWithTimeZone>>,
    detector: default!(Option<&str>, "NULL"),
    entity: default!(Option<&str>, "NULL"),
    anomaly_type: default!(Option<&str>, "NULL"),
    min_severity: default!(Option<&str>, "NULL"),
    max_severity: default!(Option<&str>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    not_null!(during);
    run::check_writable("silence")?;
    let (from, until) = bounds(&during)?;
    calendars::check_type(anomaly_type)?;
    let least = min_severity.map(severity).transpose()?;
    let most = max_severity.map(severity).transpose()?;
    if least.zip(most).is_some_and(|(least, most)| least > most) {
        return Err(invalid("min_severity is above max_severity", "swap them"));
    }
    let when = When {
        starts_at: sql::timestamptz(from)?,
        duration: Interval::from_micros(until - from),
        rrule: None,
        time_zone: "UTC".to_owned(),
    };
    when.occurrences()?;
    let owner = calendars::owner_of(detector)?;
    calendars::insert(&New {
        name: "silence",
        owner,
        scope: (detector, entity, anomaly_type),
        severities: (min_severity, max_severity),
        action: "mute",
        when,
        reason,
    })
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.silence(tstzrange, text, text, text, text, text, text) IS
'mutes alerts during a period: they are stored and marked, and nobody is told; answers the number of the silence';"#,
    name = "silence_comment",
    requires = [silence]
);

/// From the first microsecond to the one after the last.
fn bounds(during: &Range<TimestampWithTimeZone>) -> SqlResult<(i64, i64)> {
    let endless = || {
        invalid(
            "the period has no beginning or no end",
            "silence until a certain time, for example tstzrange(now(), now() + interval '2 hours')",
        )
    };
    let at = |bound: Option<&RangeBound<TimestampWithTimeZone>>, steps: (i64, i64)| {
        let at = match bound {
            Some(RangeBound::Inclusive(at)) => pg_sys::TimestampTz::from(*at).checked_add(steps.0),
            Some(RangeBound::Exclusive(at)) => pg_sys::TimestampTz::from(*at).checked_add(steps.1),
            _ => None,
        };
        at.filter(|at| (i64::MIN + 2..i64::MAX - 1).contains(at))
    };
    if during.is_empty() {
        return Err(report(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "the period is empty")
            .set_hint("a period from a to b is tstzrange(a, b)"));
    }
    let from = at(during.lower(), (0, 1)).ok_or_else(endless)?;
    let until = at(during.upper(), (1, 0)).ok_or_else(endless)?;
    if until <= from {
        return Err(report(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "the period is empty")
            .set_hint("a period from a to b is tstzrange(a, b)"));
    }
    Ok((from, until))
}

fn severity(name: &str) -> SqlResult<Severity> {
    Severity::ALL.into_iter().find(|s| s.as_str() == name).ok_or_else(|| {
        let all: Vec<&str> = Severity::ALL.iter().map(|s| s.as_str()).collect();
        invalid(
            format!("unknown severity \"{name}\""),
            format!("severities are {}", all.join(", ")),
        )
    })
}

struct Mute {
    id: i64,
    entity: Option<String>,
    least: Option<Severity>,
    most: Option<Severity>,
    periods: Periods,
}

/// What mutes alerts of a detector at some times.
#[derive(Default)]
pub struct Silences(Vec<Mute>);

impl Silences {
    /// Those of alerts of [from, until].
    ///
    /// # Errors
    /// Those of reading the catalogue.
    pub fn load(row: &DetectorRow, from: i64, until: i64) -> SqlResult<Silences> {
        let stored = internal_rights::with(|| {
            sql::rows(
                "SELECT calendar_id, entity, min_severity::text, max_severity::text, \
                        starts_at, duration, rrule, time_zone FROM anomaly.calendar \
                  WHERE (detector = $1 OR detector IS NULL AND owner = $2::oid) \
                    AND (anomaly_type IS NULL OR anomaly_type = $3) AND action = 'mute' \
                    AND starts_at <= $4 ORDER BY calendar_id",
                &[
                    row.detector.as_str().into(),
                    row.owner.into(),
                    row.anomaly_type.as_str().into(),
                    sql::timestamptz(until)?.into(),
                ],
                |r| {
                    let bound = |column| match r.get::<String>(column)? {
                        Some(name) => severity(&name).map(Some),
                        None => Ok(None),
                    };
                    Ok(Mute {
                        id: r.must(1)?,
                        entity: r.get(2)?,
                        least: bound(3)?,
                        most: bound(4)?,
                        periods: When::read(r, 5)?.periods(from, until)?.into_iter().collect(),
                    })
                },
            )
        })?;
        Ok(Silences(
            stored.into_iter().filter(|mute| mute.periods.iter().next().is_some()).collect(),
        ))
    }

    /// The first that mutes an alert of this severity at all of these times.
    pub fn of(&self, entity: &str, severity: Severity, times: &[i64]) -> Option<i64> {
        let mutes = |mute: &&Mute| {
            mute.entity.as_deref().is_none_or(|of| of == entity)
                && mute.least.is_none_or(|least| severity >= least)
                && mute.most.is_none_or(|most| severity <= most)
                && times.iter().all(|at| mute.periods.contain(*at))
        };
        self.0.iter().find(mutes).map(|mute| mute.id)
    }
}
