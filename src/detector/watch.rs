//! `anomaly.watch`: one call that finds the columns, creates a detector, trains it on the table's
//! history and leaves it to the workers.

use pgrx::{
    datum::Interval,
    pg_sys::panic::ErrorReport,
    prelude::*,
    spi::{quote_literal, quote_qualified_identifier},
};

use crate::{
    detector::{
        catalog::DetectorRow,
        create_detector::{Created, FeedSetting, Settings, create, names},
        sampling::{Sampling, Wanted},
        scan::lock,
        source::{Columns, Named, Source, feature_names},
        train,
    },
    error::{SqlResult, not_null},
    pg::{json_arg::JsonArg, session},
    sql,
};

/// Answers what it chose and what to type next.
///
/// # Errors
/// As `create_detector`.
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn watch(
    source: Option<&str>,
    value: default!(Option<&str>, "NULL"),
    at: default!(Option<&str>, "NULL"),
    entity: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "NULL"),
    strategy: default!(Option<&str>, "'auto'"),
    threshold: default!(Option<f64>, "NULL"),
    alerts_per_day: default!(Option<f64>, "1"),
    name: default!(Option<&str>, "NULL"),
    anomaly_type: default!(Option<&str>, "'data_outlier'"),
    cron: default!(Option<&str>, "NULL"),
    time_zone: default!(Option<&str>, "'UTC'"),
    training_window: default!(Option<Interval>, "'30 days'"),
    min_data_points: default!(Option<i32>, "100"),
    params: default!(Option<JsonArg>, "'{}'"),
    settle: default!(Option<Interval>, "'5 seconds'"),
    fire_after: default!(Option<i32>, "1"),
    clear_after: default!(Option<i32>, "3"),
    max_entities: default!(Option<i32>, "10000"),
    entity_type: default!(Option<&str>, "NULL"),
    kind: default!(Option<&str>, "NULL"),
    trials: default!(Option<&str>, "NULL"),
    direction: default!(Option<&str>, "'both'"),
    min_effect: default!(Option<f64>, "0"),
    min_relative_effect: default!(Option<f64>, "0"),
    bucket: default!(Option<Interval>, "NULL"),
    aggregate: default!(Option<&str>, "'avg'"),
    on_missing: default!(Option<&str>, "NULL"),
    late_window: default!(Option<Interval>, "'0'"),
    features: default!(Option<Vec<Option<String>>>, "NULL"),
    retrain_every: default!(Option<Interval>, "NULL"),
    cool_down: default!(Option<Interval>, "'0'"),
    no_data_after: default!(Option<Interval>, "NULL"),
    depends_on: default!(Option<Vec<Option<String>>>, "NULL"),
    labels: default!(Option<Vec<Option<String>>>, "NULL"),
    fdr: default!(Option<f64>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(detector, String),
            name!(status, String),
            name!(chosen, String),
            name!(next_step, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(
        source,
        strategy,
        alerts_per_day,
        anomaly_type,
        time_zone,
        training_window,
        min_data_points,
        params,
        settle,
        fire_after,
        clear_after,
        max_entities,
        direction,
        min_effect,
        min_relative_effect,
        aggregate,
        late_window,
        cool_down,
    );
    let sampling =
        Sampling::check(&Wanted { kind, trials, bucket, aggregate, on_missing, time_zone })?;
    let features = &feature_names(features)?;
    let resolved = Source::resolve(source)?;
    let named = Named { value, at, entity, trials, features };
    let columns = Columns::choose(&resolved, &named, &sampling)?;
    let every = match (every, cron) {
        (None, None) => Some(
            Interval::new(0, 0, 60_000_000)
                .map_err(|e| crate::error::invalid(e.to_string(), "give every => '1 minute'"))?,
        ),
        (every, _) => every,
    };
    let relation_name = match resolved.relation {
        Some(oid) => sql::row(
            "SELECT relname::pg_catalog.text FROM pg_catalog.pg_class \
             WHERE oid OPERATOR(pg_catalog.=) $1",
            &[oid.into()],
            |row| row.must::<String>(1),
        )?,
        None => None,
    };
    let metric = sampling.label(columns.value.as_deref(), aggregate);
    let default_name = format!("{}_{metric}", relation_name.as_deref().unwrap_or("query"));
    let schedule = match (&every, cron) {
        (Some(every), _) => format!("every {}", interval_text(*every)?),
        (None, cron) => format!("at {} ({time_zone})", cron.unwrap_or_default()),
    };
    let Created { detector, is_new } = create(Settings {
        name: Some(name.unwrap_or(&default_name)),
        anomaly_type,
        strategy,
        metric_name: &metric,
        entity_type,
        feed: FeedSetting::Source {
            text: source,
            columns: Named {
                value: columns.value.as_deref(),
                at: Some(&columns.at),
                entity: columns.entity.as_deref(),
                trials: columns.trials.as_deref(),
                features,
            },
        },
        every,
        cron,
        time_zone,
        settle,
        training_window,
        min_data_points,
        threshold,
        alerts_per_day,
        fdr,
        fire_after,
        clear_after,
        max_entities,
        retrain_every,
        kind,
        direction,
        min_effect,
        min_relative_effect,
        bucket,
        aggregate,
        on_missing,
        late_window,
        cool_down,
        no_data_after,
        depends_on: names("depends_on", depends_on)?,
        labels: names("labels", labels)?,
        params: params.0,
        trained_by_caller: session::session_user() == session::current_user(),
    })?;

    let row = DetectorRow::load(&detector)?;
    let mut chosen = format!(
        "{}: {}{}, at {}, {}; {}, {schedule}; {}",
        if resolved.relation.is_some() { resolved.text.as_str() } else { "query" },
        match (&columns.value, bucket) {
            (value, Some(bucket)) => format!(
                "{aggregate} of {} per {}",
                value.as_deref().unwrap_or("rows"),
                interval_text(bucket)?
            ),
            (value, None) => format!("value {}", value.as_deref().unwrap_or_default()),
        },
        match features.as_slice() {
            [] => String::new(),
            features => format!(" with {}", features.join(", ")),
        },
        columns.at,
        match &columns.entity {
            Some(entity) => format!("entity {entity}"),
            None => "no entity".to_owned(),
        },
        row.strategy,
        match threshold {
            Some(t) => format!("threshold {t}"),
            None => format!("about {alerts_per_day} alerts a day on quiet data"),
        }
    );
    let status = if !is_new && row.model.is_some() {
        chosen.push_str("; has been there with these settings, and keeps what it has learned");
        row.status.clone()
    } else if row.runs_here() {
        let trained = train::execute(&lock(&detector)?)?;
        chosen.push_str(&format!(
            "; trained on {} rows of {} entities",
            trained.trained_rows, trained.entities
        ));
        trained.status
    } else {
        chosen.push_str("; will be trained by its owner's worker");
        "new".to_owned()
    };
    let next_step = format!(
        "SELECT * FROM {} WHERE detector = {};",
        quote_qualified_identifier("anomaly", "alerts"),
        quote_literal(&detector)
    );
    Ok(TableIterator::once((detector, status, chosen, next_step)))
}

fn interval_text(interval: Interval) -> SqlResult<String> {
    Ok(sql::row("SELECT $1::pg_catalog.text", &[interval.into()], |row| row.must::<String>(1))?
        .unwrap_or_default())
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.watch IS
'watches a table, view or query: finds the columns, creates a detector, trains it on the history and leaves it to the workers';"#,
    name = "watch_comment",
    requires = [watch]
);
