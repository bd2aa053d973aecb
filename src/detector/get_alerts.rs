//! The page of `anomaly.get_alerts` (sql/engine.sql).
//!
//! The view `anomaly.alerts` is a security barrier, and an order does not pass one as conditions do: the newest
//! hundred alerts of all would cost reading and sorting all. So which rows a page has is decided here, on the
//! table and by its indexes, among the owners that the caller may see; what is in them is read through the view.

use anomaly_core::Severity;
use pgrx::{datum::TimestampWithTimeZone, pg_sys, prelude::*};

use crate::{
    detector::catalog::may_see_all,
    error::{SqlResult, from_core, invalid},
    pg::internal_rights,
    sql,
};

const STATUSES: [&str; 4] = ["open", "acknowledged", "resolved", "withdrawn"];

/// Ids of the alerts of a page, the newest first. NULL arguments are no conditions; an empty `entity` means
/// alerts without one.
///
/// # Errors
/// 22023 that lists what is valid.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe)]
#[expect(clippy::too_many_arguments, reason = "those of get_alerts")]
pub fn alert_page(
    start_at: Option<TimestampWithTimeZone>,
    end_at: Option<TimestampWithTimeZone>,
    anomaly_types: Option<Vec<Option<String>>>,
    severities: Option<Vec<Option<String>>>,
    entity: Option<&str>,
    entity_type: Option<&str>,
    detector: Option<&str>,
    status: Option<&str>,
    max_rows: Option<i32>,
    skip_rows: Option<i32>,
    before_id: Option<i64>,
) -> SqlResult<Vec<i64>> {
    check(anomaly_types.as_deref(), status, max_rows, skip_rows)?;
    let ranks = severities.map(severity_ranks).transpose()?;
    // NULL: all.
    let owners = if may_see_all()? { None } else { Some(visible_owners()?) };
    if owners.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    // Only what is asked for becomes a condition: one plan for all could use no index.
    let conditions = [
        (start_at.is_some(), "a.at >= $1"),
        (end_at.is_some(), "a.at <= $2"),
        (anomaly_types.is_some(), "a.anomaly_type = ANY ($3)"),
        (ranks.is_some(), "a.severity_rank = ANY ($4)"),
        (entity.is_some(), "a.entity = $5"),
        (entity_type.is_some(), "a.entity_type = $6"),
        (detector.is_some(), "a.detector = $7"),
        (status.is_some(), "a.status = $8"),
        (
            before_id.is_some(),
            "(a.at, a.alert_id) < (SELECT b.at, b.alert_id FROM anomaly.alert b \
                                   WHERE b.alert_id = $11 AND b.withheld IS NULL AND ($12 IS NULL OR b.owner = ANY ($12::regrole[])))",
        ),
    ];
    let conditions: String = conditions
        .iter()
        .filter(|(asked, _)| *asked)
        .map(|(_, sql)| format!(" AND {sql}"))
        .collect();
    // The newest of each owner, by the index of owner and time: one may have few among millions.
    let query = if owners.is_none() {
        format!(
            "SELECT a.alert_id FROM anomaly.alert a WHERE a.withheld IS NULL{conditions} \
              ORDER BY a.at DESC, a.alert_id DESC LIMIT $9 OFFSET $10"
        )
    } else {
        format!(
            "SELECT n.alert_id FROM unnest($12::regrole[]) o (owner), LATERAL (\
                SELECT a.at, a.alert_id FROM anomaly.alert a WHERE a.withheld IS NULL AND a.owner = o.owner{conditions} \
                 ORDER BY a.at DESC, a.alert_id DESC LIMIT $9::bigint + $10) n \
              ORDER BY n.at DESC, n.alert_id DESC LIMIT $9 OFFSET $10"
        )
    };
    internal_rights::with(|| {
        sql::rows(
            &query,
            &[
                start_at.into(),
                end_at.into(),
                anomaly_types.into(),
                ranks.into(),
                entity.into(),
                entity_type.into(),
                detector.into(),
                status.into(),
                max_rows.into(),
                skip_rows.unwrap_or(0).into(),
                before_id.into(),
                owners.into(),
            ],
            |row| row.must(1),
        )
    })
}

/// The owners of alerts that the caller may see. They are found one after the other in the index of owners: told of
/// a role that has none, the planner may well read the alerts of all others.
fn visible_owners() -> SqlResult<Vec<pg_sys::Oid>> {
    let roles: Option<Vec<pg_sys::Oid>> = sql::row(
        "SELECT pg_catalog.array_agg(oid) FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid, 'MEMBER')",
        &[],
        |row| row.get(1),
    )?
    .flatten();
    internal_rights::with(|| {
        sql::rows(
            "WITH RECURSIVE o (owner) AS ( \
                 (SELECT a.owner FROM anomaly.alert a WHERE a.withheld IS NULL ORDER BY a.owner LIMIT 1) \
                 UNION ALL \
                 SELECT (SELECT a.owner FROM anomaly.alert a \
                          WHERE a.withheld IS NULL AND a.owner > o.owner ORDER BY a.owner LIMIT 1) \
                   FROM o WHERE o.owner IS NOT NULL) \
             SELECT owner::oid FROM o WHERE owner = ANY ($1::regrole[])",
            &[roles.into()],
            |row| row.must(1),
        )
    })
}

fn check(
    anomaly_types: Option<&[Option<String>]>,
    status: Option<&str>,
    max_rows: Option<i32>,
    skip_rows: Option<i32>,
) -> SqlResult<()> {
    for name in anomaly_types.into_iter().flatten().flatten() {
        crate::anomaly_type::check(name)?;
    }
    if let Some(status) = status.filter(|status| !STATUSES.contains(status)) {
        return Err(invalid(
            format!("unknown status \"{status}\""),
            format!("an alert is {}", STATUSES.join(", ")),
        ));
    }
    for (name, number) in [("max_rows", max_rows), ("skip_rows", skip_rows)] {
        if number.is_some_and(|number| number < 0) {
            return Err(invalid(
                format!("{name} must not be negative"),
                format!("leave out {name} for its default"),
            ));
        }
    }
    Ok(())
}

/// Severities as numbers, from 0 for info to 3.
fn severity_ranks(severities: Vec<Option<String>>) -> SqlResult<Vec<i16>> {
    severities
        .into_iter()
        .flatten()
        .map(|name| Ok(name.parse::<Severity>().map_err(from_core)? as i16))
        .collect()
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.alert_page IS
'part of anomaly.get_alerts, with its arguments: ids of the alerts of a page, the newest first';
"#,
    name = "get_alerts_comments",
    requires = [alert_page]
);
