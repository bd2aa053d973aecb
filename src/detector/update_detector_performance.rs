//! `anomaly.update_detector_performance`: how often a member of an ensemble was right.

use anomaly_core::strategy::{Performance, resolve_name};
use pgrx::{PgSqlErrorCode, prelude::*};

use crate::{
    detector::catalog::DetectorRow,
    error::{SqlResult, invalid, not_null, report},
    pg::internal_rights,
    sql,
};

/// Adds judgements of a member that somebody has checked, and answers its F1 now. Weights of
/// `hybrid_adaptive` follow at the next scan or point.
///
/// # Errors
/// 42704 for a detector that does not exist or is not the caller's; 22023 for a member that it does
/// not have and for a negative count; 22003 when a count becomes too large.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn update_detector_performance(
    detector: Option<&str>,
    member: Option<&str>,
    true_positives: default!(Option<i64>, "0"),
    false_positives: default!(Option<i64>, "0"),
    true_negatives: default!(Option<i64>, "0"),
    false_negatives: default!(Option<i64>, "0"),
) -> SqlResult<f64> {
    not_null!(detector, member, true_positives, false_positives, true_negatives, false_negatives);
    let row = DetectorRow::load_owned(detector)?;
    let detector = row.detector.as_str();
    let members = row.detection(None)?.strategy().members();
    if members.is_empty() {
        return Err(invalid(
            format!("detector \"{detector}\" has no members: it is of {}", row.strategy),
            "members are what hybrid_ensemble and hybrid_adaptive combine",
        ));
    }
    let wanted = resolve_name(member).ok();
    let Some(member) = members.iter().find(|m| Some(**m) == wanted) else {
        return Err(invalid(
            format!("detector \"{detector}\" has no member \"{member}\""),
            format!("its members are {}", members.join(", ")),
        ));
    };
    let more = Performance {
        true_positives: not_negative("true_positives", true_positives)?,
        false_positives: not_negative("false_positives", false_positives)?,
        true_negatives: not_negative("true_negatives", true_negatives)?,
        false_negatives: not_negative("false_negatives", false_negatives)?,
    };
    internal_rights::with(|| count(detector, member, &more, Performance::update))
}

fn not_negative(name: &str, value: i64) -> SqlResult<u64> {
    u64::try_from(value).map_err(|_| {
        invalid(format!("{name} is {value}"), "counts are added to those so far: 0 or more")
    })
}

/// Adds judgements of a member to those so far, or takes them back, and answers its F1. Under the row's
/// lock, so that two who do so at the same time both count.
pub fn count(
    detector: &str,
    member: &str,
    judgements: &Performance,
    change: fn(&mut Performance, &Performance),
) -> SqlResult<f64> {
    sql::execute(
        "INSERT INTO anomaly.member_performance (detector, member) VALUES ($1, $2) \
         ON CONFLICT DO NOTHING",
        &[detector.into(), member.into()],
    )?;
    let known = sql::row(
        "SELECT true_positives, false_positives, true_negatives, false_negatives \
           FROM anomaly.member_performance WHERE detector = $1 AND member = $2 FOR UPDATE",
        &[detector.into(), member.into()],
        |row| {
            let count = |column| Ok(row.must::<i64>(column)?.unsigned_abs());
            Ok(Performance {
                true_positives: count(1)?,
                false_positives: count(2)?,
                true_negatives: count(3)?,
                false_negatives: count(4)?,
            })
        },
    )?;
    let mut performance = known.unwrap_or_default();
    change(&mut performance, judgements);
    let stored = |count: u64| {
        i64::try_from(count).map_err(|_| {
            report(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("a count of member {member} becomes {count}, more than {}", i64::MAX),
            )
        })
    };
    sql::execute(
        "UPDATE anomaly.member_performance SET true_positives = $3, false_positives = $4, \
            true_negatives = $5, false_negatives = $6, precision = $7, recall = $8, f1_score = $9, \
            last_update = now() \
          WHERE detector = $1 AND member = $2",
        &[
            detector.into(),
            member.into(),
            stored(performance.true_positives)?.into(),
            stored(performance.false_positives)?.into(),
            stored(performance.true_negatives)?.into(),
            stored(performance.false_negatives)?.into(),
            performance.precision().into(),
            performance.recall().into(),
            performance.f1().into(),
        ],
    )?;
    Ok(performance.f1())
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.update_detector_performance IS
'adds checked judgements of a member of an ensemble and answers its F1; the weights of hybrid_adaptive follow at the next scan';"#,
    name = "update_detector_performance_comment",
    requires = [update_detector_performance]
);
