//! `anomaly.alert_view`: a view of the alerts with other names, for programs that expect these.

use pgrx::{prelude::*, spi::quote_identifier};

use crate::{
    error::{SqlResult, invalid},
    sql,
};

/// Creates the view as the caller, under a name with or without schema, quoted or not; answers its name.
/// Whoever reads it sees the alerts that they may see in `anomaly.alerts`.
///
/// # Errors
/// 22023 for what is no name of a view; PostgreSQL's own errors for one that is taken (42P07), a schema
/// that is not there (3F000) or that the caller may not create in (42501).
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn alert_view(name: &str) -> SqlResult<String> {
    // PostgreSQL's own error (22023) for what is no identifier.
    let parts = sql::row("SELECT pg_catalog.parse_ident($1)", &[name.into()], |row| {
        row.must::<Vec<String>>(1)
    })?
    .unwrap_or_default();
    let (1..=2) = parts.len() else {
        return Err(invalid(
            format!("\"{name}\" has {} parts", parts.len()),
            "give the name of a view, or schema.view",
        ));
    };
    let quoted: Vec<String> = parts.iter().map(quote_identifier).collect();
    let quoted = quoted.join(".");
    // An id that is unique beyond this database, as they expect it.
    sql::execute(
        &format!(
            "CREATE VIEW {quoted} AS SELECT a.uuid::pg_catalog.text AS id, a.at AS \"timestamp\", \
                a.anomaly_type, a.detection_strategy, a.severity::pg_catalog.text AS severity, \
                a.entity AS entity_id, a.entity_type, a.metric_name, a.value AS metric_value, \
                pg_catalog.jsonb_build_object('lower', a.lower, 'upper', a.upper) AS expected_range, \
                a.deviation AS deviation_factor, a.description, a.suggestion, \
                pg_catalog.to_jsonb(a.related_alerts) AS related_alerts, a.metadata, \
                a.raised_at AS created_at, a.is_critical \
             FROM anomaly.alerts a"
        ),
        &[],
    )?;
    sql::execute(
        &format!(
            "COMMENT ON VIEW {quoted} IS 'alerts of anomaly_detection that the reader may see'"
        ),
        &[],
    )?;
    Ok(quoted)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.alert_view(text) IS
'creates a view of the alerts under any name, with the columns id, timestamp, entity_id, metric_value, expected_range, deviation_factor …';"#,
    name = "alert_view_comment",
    requires = [alert_view]
);
