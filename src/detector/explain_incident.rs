//! `anomaly.explain_incident`: which alert of an incident is the likely root, and why.

use std::collections::HashMap;

use anomaly_core::{
    Severity,
    incident::{Suspect, rank},
};
use pgrx::{datum::TimestampWithTimeZone, pg_sys::panic::ErrorReport, prelude::*};

use crate::{detector::acknowledge_incident::unknown, error::SqlResult, sql};

struct Row {
    entity: Option<String>,
    kind: String,
    status: String,
    severity: String,
    at: TimestampWithTimeZone,
    deviation: Option<f64>,
    detector: String,
    description: String,
}

/// The alerts of an incident, the likely root first ([`rank`] says by which rule), with the reason.
///
/// # Errors
/// 42704 for an incident that the caller does not see.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", stable, parallel_unsafe, strict)]
fn explain_incident(
    incident: i64,
) -> Result<
    TableIterator<
        'static,
        (
            name!(place, i32),
            name!(alert, i64),
            name!(detector, String),
            name!(entity, Option<String>),
            name!(kind, String),
            name!(status, String),
            name!(severity, String),
            name!(at, TimestampWithTimeZone),
            name!(deviation, Option<f64>),
            name!(depends_on, Vec<String>),
            name!(reason, String),
            name!(description, String),
        ),
    >,
    ErrorReport,
> {
    // As the caller, through the views.
    let mut suspects = Vec::new();
    let alerts: HashMap<i64, Row> = sql::rows(
        "SELECT id, entity, kind, status, severity::pg_catalog.text, at, deviation, detector, description \
           FROM anomaly.alerts WHERE incident_id OPERATOR(pg_catalog.=) $1 \
            AND status OPERATOR(pg_catalog.<>) 'withdrawn' ORDER BY id",
        &[incident.into()],
        |r| {
            let row = Row {
                entity: r.get(2)?,
                kind: r.must(3)?,
                status: r.must(4)?,
                severity: r.must(5)?,
                at: r.must(6)?,
                deviation: r.get(7)?,
                detector: r.must(8)?,
                description: r.must(9)?,
            };
            let id = r.must::<i64>(1)?;
            suspects.push(Suspect {
                alert: id,
                detector: row.detector.clone(),
                from: r.micros(6)?.unwrap_or_default(),
                severity: row.severity.parse().unwrap_or(Severity::Info),
                deviation: row.deviation,
            });
            Ok((id, row))
        },
    )?
    .into_iter()
    .collect();
    if alerts.is_empty() && !exists(incident)? {
        return Err(unknown(incident));
    }
    let depends_on: HashMap<String, Vec<String>> = sql::rows(
        "SELECT detector, depends_on FROM anomaly.detectors \
          WHERE depends_on OPERATOR(pg_catalog.<>) '{}'",
        &[],
        |r| Ok((r.must::<String>(1)?, r.must::<Vec<String>>(2)?)),
    )?
    .into_iter()
    .collect();
    let mut alerts = alerts;
    let rows = rank(&suspects, &depends_on).into_iter().zip(1..).filter_map(|(ranked, place)| {
        let row = alerts.remove(&ranked.alert)?;
        Some((
            place,
            ranked.alert,
            row.detector,
            row.entity,
            row.kind,
            row.status,
            row.severity,
            row.at,
            row.deviation,
            ranked.depends_on,
            ranked.reason,
            row.description,
        ))
    });
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}

fn exists(incident: i64) -> SqlResult<bool> {
    let found = sql::row(
        "SELECT 1 FROM anomaly.incidents WHERE id OPERATOR(pg_catalog.=) $1",
        &[incident.into()],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.explain_incident(bigint) IS
'the alerts of an incident, the likely root first, each with the reason of its place: what others depend on, then what began first, then the most severe';"#,
    name = "explain_incident_comment",
    requires = [explain_incident]
);
