//! `anomaly.create_shadow` and `anomaly.promote`: other settings on trial beside a detector, on the same points as they
//! come, before anybody hears of them.
//!
//! A shadow is a detector like any other, with a row in `anomaly.shadow`; that it tells nobody is decided where alerts
//! are stored (`withhold.rs`). It begins at the watermark of the one that it shadows and goes by what people say of that
//! one, so that the two differ by their settings only.

use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport, prelude::*, spi::quote_literal};
use serde_json::{Map, Value};

use crate::{
    detector::{
        alter_detector::{alter, settings_of},
        catalog::{DetectorRow, Feed},
        scan::lock,
        train,
    },
    error::{SqlResult, invalid, not_null, report},
    pg::{internal_rights, json_arg::JsonArg, session},
    run, sql, worker,
};

/// Makes a copy of a detector with other settings (as of `alter_detector`) that judges the same points and tells
/// nobody: `anomaly.shadow_comparison` sets the two beside each other. By default it is named after the detector.
///
/// # Errors
/// 42704 and 42501 for the detector, 55000 for one that has not been trained, 22023 for a shadow, for a detector of a
/// monitor and for settings, 42710 when the name is taken, 25006 on a standby.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn create_shadow(
    detector: Option<&str>,
    settings: default!(Option<JsonArg>, "'{}'"),
    name: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (name!(detector, String), name!(status, String), name!(next_step, String)),
    >,
    ErrorReport,
> {
    not_null!(detector, settings);
    run::check_writable("create_shadow")?;
    let live = DetectorRow::load_owned(detector)?;
    check_can_be_shadowed(&live)?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => format!("{}_shadow", live.detector),
    };
    if name.is_empty() || name.len() > 512 {
        return Err(invalid(
            format!("detector id of {} bytes", name.len()),
            "give a name of 1 to 512 bytes",
        ));
    }
    copy(&live, &name)?;
    if settings.0.as_object().is_none_or(|settings| !settings.is_empty()) {
        alter(&name, settings.0)?;
    }
    let row = DetectorRow::load(&name)?;
    let status = if row.runs_here() {
        let locked = lock(&name)?;
        let trained = match row.feed {
            Feed::Points { .. } => train::execute_all(&locked)?,
            _ => train::execute(&locked)?,
        };
        trained.status
    } else {
        worker::notify_due(session::now());
        row.status
    };
    let next_step = format!(
        "SELECT * FROM anomaly.shadow_comparison WHERE shadow = {}; SELECT * FROM anomaly.promote({0});",
        quote_literal(&name)
    );
    Ok(TableIterator::once((name, status, next_step)))
}

/// Gives a detector the settings of its shadow, and the shadow those that the detector had: promoted again, all is as
/// it was. Open episodes go on, as whenever a detector is altered; the comparison begins anew.
///
/// # Errors
/// 22023 for a detector that is no shadow; those of `alter_detector`.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn promote(
    shadow: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (name!(detector, String), name!(changed, Vec<String>), name!(effect, String)),
    >,
    ErrorReport,
> {
    not_null!(shadow);
    let row = DetectorRow::load_administered(shadow)?;
    let Some(live) = row.shadow_of else {
        return Err(invalid(
            format!("detector \"{}\" is no shadow", row.detector),
            "SELECT detector, shadow_of FROM anomaly.shadows",
        ));
    };
    let (former, promoted) = (settings_of(&live)?, settings_of(&row.detector)?);
    let (changed, effect) = alter(&live, Value::Object(differing(&promoted, &former)))?;
    alter(&row.detector, Value::Object(differing(&former, &promoted)))?;
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.shadow h SET points_before = s.points_processed, \
                since = GREATEST(h.since, s.watermark, l.watermark) \
               FROM anomaly.detector_state s, anomaly.detector_state l \
              WHERE h.detector = $1 AND s.detector = $1 AND l.detector = $2",
            &[row.detector.as_str().into(), live.as_str().into()],
        )
    })?;
    Ok(TableIterator::once((live, changed, effect)))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.create_shadow(text, jsonb, text) IS
'makes a copy of a detector with other settings that judges the same points and tells nobody, to compare the two';
COMMENT ON FUNCTION anomaly.promote(text) IS
'gives a detector the settings of its shadow, and the shadow those that it had; open episodes go on';
"#,
    name = "shadow_comments",
    requires = [create_shadow, promote]
);

fn check_can_be_shadowed(live: &DetectorRow) -> SqlResult<()> {
    if let Some(of) = &live.shadow_of {
        return Err(invalid(
            format!("detector \"{}\" is a shadow itself", live.detector),
            format!("SELECT anomaly.create_shadow({}, …)", quote_literal(of)),
        ));
    }
    if matches!(live.feed, Feed::Samples) {
        return Err(invalid(
            format!(
                "detector \"{}\" belongs to a monitor, which keeps one for each metric",
                live.detector
            ),
            "backtest it with other settings: SELECT * FROM anomaly.backtest_summary(detector, settings => …)",
        ));
    }
    live.check_model_fits()?;
    if live.model.is_none() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "detector \"{}\" has not been trained: there is nothing to compare with",
                live.detector
            ),
        )
        .set_hint(format!("SELECT anomaly.train({})", quote_literal(&live.detector))));
    }
    Ok(())
}

/// The shadows of a detector.
pub fn of(live: &str) -> SqlResult<Vec<DetectorRow>> {
    let names = internal_rights::with(|| {
        sql::rows(
            "SELECT detector FROM anomaly.shadow WHERE live = $1 ORDER BY detector",
            &[live.into()],
            |row| row.must::<String>(1),
        )
    })?;
    names.iter().map(|name| DetectorRow::load(name)).collect()
}

/// Writes the copy with its place in the series, and nothing that has been learned.
fn copy(live: &DetectorRow, name: &str) -> SqlResult<()> {
    let now = sql::timestamptz(session::now())?;
    let copied = internal_rights::with(|| {
        let copied = sql::execute(
            "INSERT INTO anomaly.detector \
             SELECT (jsonb_populate_record(d, jsonb_build_object('detector', $2::text, 'enabled', true, \
                        'created_at', $3::timestamptz, 'updated_at', $3::timestamptz))).* \
               FROM anomaly.detector d WHERE d.detector = $1 ON CONFLICT DO NOTHING",
            &[live.detector.as_str().into(), name.into(), now.into()],
        )?;
        if copied == 1 {
            sql::execute(
                "INSERT INTO anomaly.detector_state (detector, watermark, next_due) \
                 SELECT $2, s.watermark, CASE WHEN d.every IS NOT NULL OR d.cron IS NOT NULL THEN $3::timestamptz END \
                   FROM anomaly.detector d JOIN anomaly.detector_state s USING (detector) \
                  WHERE d.detector = $1",
                &[live.detector.as_str().into(), name.into(), now.into()],
            )?;
            sql::execute(
                "INSERT INTO anomaly.shadow (detector, live, since) \
                 SELECT $2, $1, COALESCE(s.watermark, $3::timestamptz) \
                   FROM anomaly.detector_state s WHERE s.detector = $1",
                &[live.detector.as_str().into(), name.into(), now.into()],
            )?;
        }
        Ok(copied)
    })?;
    if copied == 1 {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("detector \"{name}\" already exists"),
    )
    .set_hint("give another name => '…'"))
}

/// Those of the settings that the others do not have.
fn differing(settings: &Map<String, Value>, others: &Map<String, Value>) -> Map<String, Value> {
    let differs = |(name, value): &(&String, &Value)| others.get(*name) != Some(*value);
    settings.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect()
}
