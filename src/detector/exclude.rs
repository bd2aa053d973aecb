//! `anomaly.exclude` and `anomaly.drop_exclusion`: periods of a detector's data that never train.

use std::ops::RangeInclusive;

use pgrx::{
    PgSqlErrorCode,
    datum::{Range, TimestampWithTimeZone},
    prelude::*,
};

use crate::{
    detector::{catalog::DetectorRow, train::retrain},
    error::{SqlResult, not_null, report},
    pg::{internal_rights, session},
    sql,
};

/// Keeps a period, of one entity or of all, out of what a detector learns, and answers the number of
/// the exclusion. Points of it are judged and may alert. If it reaches into what has been learned, the
/// detector is trained again at its next run.
///
/// # Errors
/// 42704 and 42501 as for other functions of detectors, 22000 for an empty period.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn exclude(
    detector: Option<&str>,
    during: Option<Range<TimestampWithTimeZone>>,
    reason: Option<&str>,
    entity: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    not_null!(detector, during, reason);
    let row = DetectorRow::load_owned(detector)?;
    if during.is_empty() {
        return Err(report(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "the period is empty")
            .set_hint("a period from a to b is tstzrange(a, b, '[]')"));
    }
    let by = session::current_user();
    let id = internal_rights::with(|| {
        sql::execute_returning(
            "INSERT INTO anomaly.exclusion (detector, entity, during, reason, excluded_by) \
             VALUES ($1, $2, $3, $4, $5::oid) RETURNING exclusion_id",
            &[row.detector.as_str().into(), entity.into(), during.into(), reason.into(), by.into()],
            |r| r.must::<i64>(1),
        )
    })?;
    let id = id.first().copied().unwrap_or_default();
    retrain_if_learned(&row.detector, id)?;
    Ok(id)
}

/// Lets a period train again; true when there was such an exclusion.
///
/// # Errors
/// 42501 for one of somebody else's detector.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn drop_exclusion(exclusion: i64) -> SqlResult<bool> {
    let of = internal_rights::with(|| {
        sql::row(
            "SELECT detector FROM anomaly.exclusion WHERE exclusion_id = $1",
            &[exclusion.into()],
            |row| row.must::<String>(1),
        )
    })?;
    let Some(detector) = of else { return Ok(false) };
    if DetectorRow::find_owned(&detector)?.is_none() {
        return Ok(false);
    }
    retrain_if_learned(&detector, exclusion)?;
    let dropped = internal_rights::with(|| {
        sql::execute("DELETE FROM anomaly.exclusion WHERE exclusion_id = $1", &[exclusion.into()])
    })?;
    Ok(dropped == 1)
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.exclude(text, tstzrange, text, text) IS
'keeps a period, of one entity or of all, out of what a detector learns; points of it are judged all the same';
COMMENT ON FUNCTION anomaly.drop_exclusion(bigint) IS
'lets a period train again; true when there was such an exclusion';
"#,
    name = "exclude_comments",
    requires = [exclude, drop_exclusion]
);

/// A period that lies ahead takes effect as its points come.
fn retrain_if_learned(detector: &str, exclusion: i64) -> SqlResult<()> {
    let learned = internal_rights::with(|| {
        sql::row(
            "SELECT 1 FROM anomaly.exclusion e JOIN anomaly.detector_state s USING (detector) \
              WHERE e.exclusion_id = $1 \
                AND COALESCE(lower(e.during), '-infinity') <= COALESCE(s.watermark, s.last_training_time)",
            &[exclusion.into()],
            |_| Ok(()),
        )
    })?;
    match learned {
        Some(()) => retrain(detector),
        None => Ok(()),
    }
}

/// The excluded periods of a detector, by entity; `None`: of all.
pub fn periods(detector: &str) -> SqlResult<Vec<(Option<String>, RangeInclusive<i64>)>> {
    internal_rights::with(|| {
        sql::rows(
            "SELECT entity, COALESCE(lower(during), '-infinity'), lower_inc(during), \
                    COALESCE(upper(during), 'infinity'), upper_inc(during) \
               FROM anomaly.exclusion WHERE detector = $1 ORDER BY exclusion_id",
            &[detector.into()],
            |row| {
                let within = |at: Option<i64>, included: Option<bool>, step: i64| {
                    at.unwrap_or_default().saturating_add(i64::from(included == Some(false)) * step)
                };
                let first = within(row.micros(2)?, row.get(3)?, 1);
                let last = within(row.micros(4)?, row.get(5)?, -1);
                Ok((row.get::<String>(1)?, first..=last))
            },
        )
    })
}
