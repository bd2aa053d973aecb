//! `anomaly.create_detector`: registers a detector and says nothing about training it.
//!
//! Settings are checked here and nowhere else ([`check`]), whoever gives them: a new detector, one that is
//! registered again, or one that is altered.

use anomaly_core::{Detector, DetectorConfig, schedule::CronSchedule, verdict::Direction};
use pgrx::{JsonB, PgSqlErrorCode, datum::Interval, prelude::*};
use serde_json::{Map, Value, json};

use crate::{
    anomaly_type,
    detector::{
        alter_detector,
        catalog::DetectorRow,
        enable, process_data_point, quota,
        sampling::{Sampling, Wanted},
        source::{self, Columns, Named, Source, feature_names},
        withhold,
    },
    error::{SqlResult, from_core, invalid, not_null, report},
    pg::{internal_rights, json_arg::JsonArg, session},
    sql, strategy, worker,
};

/// Where a new detector's points come from.
pub enum FeedSetting<'a> {
    /// A relation or a query, with the columns that the caller named.
    Source { text: &'a str, columns: Named<'a> },
    /// Measurements of a monitor.
    Samples { monitor: &'a str },
    /// `process_data_point`, with the keys of the point that are judged together with the metric.
    Points { features: &'a [String] },
    /// As a detector has it that keeps its source and its columns: they are not looked at again.
    Kept { source_kind: &'a str, trials: Option<&'a str>, features: &'a [String] },
}

/// Everything that is configured about a detector, unchecked.
pub struct Settings<'a> {
    /// The id; by default type_strategy_metric.
    pub name: Option<&'a str>,
    pub anomaly_type: &'a str,
    pub strategy: &'a str,
    pub metric_name: &'a str,
    pub entity_type: Option<&'a str>,
    pub feed: FeedSetting<'a>,
    pub every: Option<Interval>,
    pub cron: Option<&'a str>,
    pub time_zone: &'a str,
    pub settle: Interval,
    pub training_window: Interval,
    pub min_data_points: i32,
    pub threshold: Option<f64>,
    pub alerts_per_day: f64,
    /// NULL: only alerts_per_day decides who is told.
    pub fdr: Option<f64>,
    pub fire_after: i32,
    pub clear_after: i32,
    pub max_entities: i32,
    /// NULL: only when somebody asks.
    pub retrain_every: Option<Interval>,
    /// By default ratio with trials, count where rows are counted, else value.
    pub kind: Option<&'a str>,
    /// NULL: each row is a point.
    pub bucket: Option<Interval>,
    pub aggregate: &'a str,
    /// By default zero where rows are counted, else ignore.
    pub on_missing: Option<&'a str>,
    pub late_window: Interval,
    /// For how long after its end an alert is opened again instead of a new one.
    pub cool_down: Interval,
    pub direction: &'a str,
    pub min_effect: f64,
    pub min_relative_effect: f64,
    /// NULL: that there is no data is no alert.
    pub no_data_after: Option<Interval>,
    pub depends_on: Vec<String>,
    pub labels: Vec<String>,
    pub params: serde_json::Value,
    /// Run for the first time at the next time of the schedule instead of at once: for a caller
    /// that trains the detector itself.
    pub trained_by_caller: bool,
}

#[allow(clippy::too_many_arguments)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn create_detector(
    anomaly_type: Option<&str>,
    strategy: Option<&str>,
    metric_name: Option<&str>,
    source: default!(Option<&str>, "NULL"),
    value: default!(Option<&str>, "NULL"),
    at: default!(Option<&str>, "NULL"),
    entity: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "NULL"),
    cron: default!(Option<&str>, "NULL"),
    time_zone: default!(Option<&str>, "'UTC'"),
    training_window: default!(Option<Interval>, "'30 days'"),
    min_data_points: default!(Option<i32>, "100"),
    threshold: default!(Option<f64>, "NULL"),
    alerts_per_day: default!(Option<f64>, "1"),
    params: default!(Option<JsonArg>, "'{}'"),
    settle: default!(Option<Interval>, "'5 seconds'"),
    fire_after: default!(Option<i32>, "1"),
    clear_after: default!(Option<i32>, "3"),
    max_entities: default!(Option<i32>, "10000"),
    entity_type: default!(Option<&str>, "NULL"),
    name: default!(Option<&str>, "NULL"),
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
) -> SqlResult<String> {
    not_null!(
        anomaly_type,
        strategy,
        metric_name,
        time_zone,
        training_window,
        min_data_points,
        alerts_per_day,
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
    let features = &feature_names(features)?;
    let feed = match source {
        Some(text) => {
            FeedSetting::Source { text, columns: Named { value, at, entity, trials, features } }
        }
        None if trials.is_some() || bucket.is_some() => {
            return Err(invalid(
                format!(
                    "{} without a source to read",
                    if trials.is_some() { "trials" } else { "bucket" }
                ),
                "give source => 'table or query'",
            ));
        }
        None if interval_micros(&late_window) != 0 => {
            return Err(invalid(
                "late_window without a source to read again",
                "give source => 'table or query', or leave out late_window",
            ));
        }
        None => FeedSetting::Points { features },
    };
    Ok(create(Settings {
        name,
        anomaly_type,
        strategy,
        metric_name,
        entity_type,
        feed,
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
        trained_by_caller: false,
    })?
    .detector)
}

/// A detector that was asked for.
pub struct Created {
    pub detector: String,
    /// False for one that was there, with these settings.
    pub is_new: bool,
}

/// Checks the settings and stores the detector, owned by the current user. The first detector of
/// a database that has none makes it run; in a restored or copied one everything stays paused.
///
/// One that the current user has registered before, with equal settings, is the answer: it keeps what it
/// has learned, and is enabled.
///
/// # Errors
/// 22023 for a setting out of range, 42P01/42703/42804/42501 for a source that cannot be read,
/// 42710 when the id is taken, 25006 on a standby, 55000 for an owner that no worker can be.
pub fn create(settings: Settings) -> SqlResult<Created> {
    if session::in_recovery() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot create a detector on a standby",
        )
        .set_hint("create it on the primary; it runs there, and here after a promotion"));
    }
    let owner = session::current_user();
    let checked = check(settings, owner)?;
    let Checked { detector, record, first_due } = &checked;
    let columns: Vec<&str> = record.keys().map(String::as_str).collect();
    let inserted = internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.setting (database_oid, resumed_by) \
             SELECT oid, $1::oid FROM pg_database WHERE datname = current_database() \
                AND NOT EXISTS (SELECT FROM anomaly.detector) \
                AND NOT EXISTS (SELECT FROM anomaly.monitor) \
             ON CONFLICT DO NOTHING",
            &[owner.into()],
        )?;
        let inserted = sql::execute(
            &format!(
                "INSERT INTO anomaly.detector ({columns}) \
                 SELECT {columns} FROM jsonb_populate_record(NULL::anomaly.detector, $1) \
                 ON CONFLICT DO NOTHING",
                columns = columns.join(", ")
            ),
            &[JsonB(Value::Object(record.clone())).into()],
        )?;
        if inserted == 1 {
            sql::execute(
                "INSERT INTO anomaly.detector_state (detector, next_due) VALUES ($1, $2)",
                &[detector.as_str().into(), first_due.map(sql::timestamptz).transpose()?.into()],
            )?;
            quota::check_detectors(owner)?;
        }
        Ok(inserted)
    })?;
    if inserted == 0 {
        register_again(&checked, owner)?;
    }
    if let Some(first_due) = first_due {
        if !worker::is_preloaded() {
            pgrx::warning!(
                "detector \"{detector}\" will not run by itself: anomaly_detection is not in \
                 shared_preload_libraries (add it and restart, or CALL anomaly.run_due())"
            );
        }
        worker::notify_due(*first_due);
    }
    Ok(Created { detector: checked.detector, is_new: inserted == 1 })
}

/// Enables the detector of that id, if it is the current user's and has these settings.
///
/// # Errors
/// 42710 that says which settings are others.
fn register_again(checked: &Checked, owner: pg_sys::Oid) -> SqlResult<()> {
    let detector = checked.detector.as_str();
    let taken = |hint: String| {
        report(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("detector \"{detector}\" already exists"),
        )
        .set_hint(hint)
    };
    let existing = internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid FROM anomaly.detector WHERE detector = $1",
            &[detector.into()],
            |row| row.must::<pg_sys::Oid>(1),
        )
    })?;
    // Of another role, or of a transaction that this one does not see.
    if existing != Some(owner) {
        return Err(taken("give another name => '…'".to_owned()));
    }
    let differences = differences(detector, &checked.record)?;
    if differences.is_empty() {
        return enable::enable_row(&DetectorRow::load(detector)?);
    }
    Err(taken(format!(
        "{}, or give another name => '…'",
        alter_detector::how_to_have(detector, &differences)
    )))
}

/// Which of these columns a detector has otherwise, with the values here as PostgreSQL writes them.
pub fn differences(detector: &str, record: &Map<String, Value>) -> SqlResult<Map<String, Value>> {
    // The table may have been renamed since: its name is kept for messages only.
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT COALESCE(jsonb_object_agg(n.key, n.value), '{}') \
               FROM anomaly.detector d, jsonb_each(to_jsonb(d)) o, \
                    jsonb_each(to_jsonb(jsonb_populate_record(d, $2))) n \
              WHERE d.detector = $1 AND n.key = o.key AND n.value <> o.value \
                AND n.key <> 'source_name'",
            &[detector.into(), JsonB(Value::Object(record.clone())).into()],
            |row| row.must::<JsonB>(1),
        )
    })?;
    Ok(match found {
        Some(JsonB(Value::Object(differences))) => differences,
        _ => Map::new(),
    })
}

/// Settings that were checked.
pub struct Checked {
    /// The id.
    pub detector: String,
    /// Columns of anomaly.detector by name. A detector that keeps its source keeps what tells of it.
    pub record: Map<String, Value>,
    /// When it runs for the first time, if it is scheduled.
    pub first_due: Option<i64>,
}

/// Checks settings of a detector of this owner; reads nothing of the source but its columns.
///
/// # Errors
/// As [`create`], but for the id.
pub fn check(settings: Settings, owner: pg_sys::Oid) -> SqlResult<Checked> {
    let strategy = strategy::resolve(settings.strategy)?;
    strategy::check(&strategy, owner)?;
    let sampling = settings.sampling()?;
    check_ranges(&settings)?;
    withhold::check(&settings)?;
    check_names("depends_on", &settings.depends_on)?;
    check_names("labels", &settings.labels)?;
    settings.check_detection(&sampling, &[], owner)?;
    anomaly_type::check(settings.anomaly_type)?;
    let first_due = first_due(&settings)?;
    quota::check_interval(settings.every.as_ref(), settings.cron, settings.time_zone, owner)?;
    // PostgreSQL's own error (22023) names an unknown zone.
    sql::row("SELECT pg_catalog.now() AT TIME ZONE $1", &[settings.time_zone.into()], |_| Ok(()))?;
    let detector = match settings.name {
        Some(name) => name.to_owned(),
        None => format!("{}_{strategy}_{}", settings.anomaly_type, settings.metric_name),
    };
    if detector.is_empty() || detector.len() > 512 {
        return Err(invalid(
            format!("detector id of {} bytes", detector.len()),
            "give a name of 1 to 512 bytes",
        ));
    }

    check_parents(&detector, &settings.depends_on, owner)?;
    let scheduled = first_due.is_some();
    if scheduled {
        check_login(owner)?;
    }
    let mut record = Map::new();
    let mut put = |column: &str, value: Value| record.insert(column.to_owned(), value);
    let source_kind = match &settings.feed {
        FeedSetting::Source { text, columns } => {
            let source = Source::resolve(text)?;
            let columns = Columns::choose(&source, columns, &sampling)?;
            settings.check_detection(&sampling, &columns.categories, owner)?;
            let read = source::read_query(&source, &columns, &sampling, settings.time_zone)?;
            // Runs as the caller and returns nothing: PostgreSQL checks the rights on every
            // relation behind it and that the casts exist.
            let nothing: Option<pgrx::datum::TimestampWithTimeZone> = None;
            sql::row(
                &format!("SELECT 1 FROM ({read}) AS readable LIMIT 0"),
                &[nothing.into(), nothing.into()],
                |_| Ok(()),
            )?;
            let (name, query) = match source.relation {
                Some(_) => (Some(source.text), None),
                None => (None, Some(source.text)),
            };
            put("source_relation", json!(source.relation.map(|oid| oid.to_u32().to_string())));
            put("source_name", json!(name));
            put("source_query", json!(query));
            put("value_column", json!(columns.value));
            put("at_column", json!(columns.at));
            put("entity_column", json!(columns.entity));
            put("trials_column", json!(columns.trials));
            put("category_columns", json!(columns.categories));
            if source.relation.is_some() { "relation" } else { "query" }
        }
        FeedSetting::Points { features } => {
            process_data_point::check_features(features, settings.metric_name)?;
            "points"
        }
        FeedSetting::Samples { monitor } => {
            put("monitor", json!(monitor));
            "samples"
        }
        FeedSetting::Kept { source_kind, .. } => *source_kind,
    };
    if source_kind == "points" && scheduled {
        return Err(invalid(
            "a detector without source has nothing to scan on a schedule",
            "give source => 'table or query', or leave out every and cron and call \
             anomaly.process_data_point",
        ));
    }
    if source_kind == "points" && settings.no_data_after.is_some() {
        return Err(invalid(
            "no_data_after without a source: nothing looks for points that nobody brings",
            "give source => 'table or query', or leave out no_data_after",
        ));
    }
    put("detector", json!(detector));
    put("owner", json!(owner.to_u32().to_string()));
    put("anomaly_type", json!(settings.anomaly_type));
    put("strategy", json!(strategy));
    put("metric_name", json!(settings.metric_name));
    put("entity_type", json!(settings.entity_type));
    put("source_kind", json!(source_kind));
    put("feature_columns", json!(settings.features()));
    put("every", interval_json(settings.every.as_ref()));
    put("cron", json!(settings.cron));
    put("time_zone", json!(settings.time_zone));
    put("settle", interval_json(Some(&settings.settle)));
    put("late_window", interval_json(Some(&settings.late_window)));
    put("training_window", interval_json(Some(&settings.training_window)));
    put("retrain_every", interval_json(settings.retrain_every.as_ref()));
    put("min_data_points", json!(settings.min_data_points));
    put("threshold", json!(settings.threshold));
    put("alerts_per_day", json!(settings.alerts_per_day));
    put("fdr", json!(settings.fdr));
    put("fire_after", json!(settings.fire_after));
    put("clear_after", json!(settings.clear_after));
    put("cool_down", interval_json(Some(&settings.cool_down)));
    put("max_entities", json!(settings.max_entities));
    put("kind", json!(sampling.kind.as_str()));
    put("direction", json!(settings.direction));
    put("min_effect", json!(settings.min_effect));
    put("min_relative_effect", json!(settings.min_relative_effect));
    put("bucket", interval_json(settings.bucket.as_ref()));
    put("aggregate", json!(settings.aggregate));
    put("on_missing", json!(sampling.on_missing.as_str()));
    put("no_data_after", interval_json(settings.no_data_after.as_ref()));
    put("depends_on", json!(settings.depends_on));
    put("labels", json!(settings.labels));
    put("params", settings.params);
    Ok(Checked { detector, record, first_due })
}

/// An interval as PostgreSQL reads it, whatever the session's settings are.
fn interval_json(interval: Option<&Interval>) -> Value {
    let text = interval.map(|interval| {
        format!(
            "{} months {} days {} microseconds",
            interval.months(),
            interval.days(),
            interval.micros()
        )
    });
    json!(text)
}

/// When a scheduled detector runs for the first time.
fn first_due(settings: &Settings) -> SqlResult<Option<i64>> {
    let now = session::now();
    let next = match (&settings.every, settings.cron) {
        (Some(every), _) => now.saturating_add(interval_micros(every) as i64),
        (None, Some(cron)) => CronSchedule::new(cron, settings.time_zone)
            .and_then(|schedule| schedule.next_fire(now))
            .map_err(from_core)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(if settings.trained_by_caller { next } else { now }))
}

impl Settings<'_> {
    /// Names of the further columns that are judged together with the value.
    fn features(&self) -> &[String] {
        match &self.feed {
            FeedSetting::Source { columns, .. } => columns.features,
            FeedSetting::Points { features } | FeedSetting::Kept { features, .. } => features,
            FeedSetting::Samples { .. } => &[],
        }
    }

    /// # Errors
    /// 22023 for settings that do not go together.
    pub fn sampling(&self) -> SqlResult<Sampling> {
        Sampling::check(&Wanted {
            kind: self.kind,
            trials: match &self.feed {
                FeedSetting::Source { columns, .. } => columns.trials,
                FeedSetting::Kept { trials, .. } => *trials,
                FeedSetting::Samples { .. } | FeedSetting::Points { .. } => None,
            },
            bucket: self.bucket,
            aggregate: self.aggregate,
            on_missing: self.on_missing,
            time_zone: self.time_zone,
        })
    }

    /// Refuses what the detection would refuse later, when somebody waits for its alerts.
    fn check_detection(
        &self,
        sampling: &Sampling,
        categories: &[String],
        owner: pg_sys::Oid,
    ) -> SqlResult<()> {
        let detector = self.name.unwrap_or("new");
        Detector::new(DetectorConfig {
            strategy: self.strategy.to_owned(),
            own: strategy::functions(self.strategy, owner, &self.params, detector)?,
            params: self.params.clone(),
            threshold: self.threshold,
            alerts_per_day: self.alerts_per_day,
            points_per_day: None,
            entities: 1,
            min_data_points: self.min_data_points as u64,
            fire_after: self.fire_after as u32,
            clear_after: self.clear_after as u32,
            cool_down: i64::try_from(interval_micros(&self.cool_down)).unwrap_or(i64::MAX),
            metric_name: self.metric_name.to_owned(),
            anomaly_type: self.anomaly_type.to_owned(),
            family: anomaly_type::own_family(self.anomaly_type)?,
            time_zone: self.time_zone.to_owned(),
            kind: sampling.kind,
            performance: Vec::new(),
            direction: Direction::side(self.direction).map_err(from_core)?,
            min_effect: self.min_effect,
            min_relative_effect: self.min_relative_effect,
            features: self.features().to_vec(),
            categories: categories.to_vec(),
        })
        .map_err(from_core)?;
        Ok(())
    }
}

/// What is checked nowhere else; whole numbers are those that [`DetectorConfig`] takes afterwards.
fn check_ranges(settings: &Settings) -> SqlResult<()> {
    let at_least = |name: &str, value: i32, least: i32| {
        if value < least {
            return Err(invalid(
                format!("{name} must be at least {least}, not {value}"),
                format!("leave out {name} for its default"),
            ));
        }
        Ok(())
    };
    at_least("min_data_points", settings.min_data_points, 2)?;
    at_least("fire_after", settings.fire_after, 1)?;
    at_least("clear_after", settings.clear_after, 1)?;
    at_least("max_entities", settings.max_entities, 1)?;
    if let Some(every) = &settings.every {
        if interval_micros(every) < 1_000_000 {
            return Err(invalid(
                "every must be at least one second",
                "for example every => '1 minute'",
            ));
        }
        if settings.cron.is_some() {
            return Err(invalid("both every and cron are given", "give one of them"));
        }
    }
    if interval_micros(&settings.settle) < 0 {
        return Err(invalid("settle must not be negative", "for example settle => '5 seconds'"));
    }
    if interval_micros(&settings.late_window) < 0 {
        return Err(invalid(
            "late_window must not be negative",
            "for example late_window => '1 hour'",
        ));
    }
    if settings.retrain_every.as_ref().is_some_and(|every| interval_micros(every) < 60_000_000) {
        return Err(invalid(
            "retrain_every must be at least one minute",
            "for example retrain_every => '7 days', or leave it out: models learn each point anyway",
        ));
    }
    if interval_micros(&settings.cool_down) < 0 {
        return Err(invalid("cool_down must not be negative", "for example cool_down => '1 hour'"));
    }
    if settings.no_data_after.as_ref().is_some_and(|after| interval_micros(after) < 1_000_000) {
        return Err(invalid(
            "no_data_after must be at least one second",
            "for example no_data_after => '15 minutes', some three times what lies between two points",
        ));
    }
    if interval_micros(&settings.training_window) <= 0 {
        return Err(invalid(
            "training_window must be positive",
            "for example training_window => '30 days'",
        ));
    }
    Ok(())
}

/// Names in an array.
///
/// # Errors
/// 22004 for a NULL among them.
pub fn names(parameter: &str, array: Option<Vec<Option<String>>>) -> SqlResult<Vec<String>> {
    let names: Option<Vec<String>> = array.unwrap_or_default().into_iter().collect();
    crate::error::required(names, &format!("an element of {parameter}"))
}

/// Most detectors that one depends on, and most labels.
const MAX_NAMES: usize = 100;

fn check_names(parameter: &str, names: &[String]) -> SqlResult<()> {
    if names.len() > MAX_NAMES {
        return Err(invalid(
            format!("{} elements of {parameter}", names.len()),
            format!("give {MAX_NAMES} at most"),
        ));
    }
    let is_bad = |name: &&String| name.is_empty() || name.len() > 512;
    if let Some(name) = names.iter().find(is_bad) {
        return Err(invalid(
            format!("{parameter} has an element of {} bytes", name.len()),
            "give names of 1 to 512 bytes",
        ));
    }
    Ok(())
}

/// What a detector depends on has to be there, and of the same owner: else a misspelt name would be found out
/// when somebody is told what they should not have been.
fn check_parents(detector: &str, parents: &[String], owner: pg_sys::Oid) -> SqlResult<()> {
    if parents.iter().any(|parent| parent == detector) {
        return Err(invalid(
            format!("detector \"{detector}\" depends on itself"),
            "leave it out of depends_on",
        ));
    }
    let unknown = internal_rights::with(|| {
        sql::row(
            "SELECT n.name, (SELECT array_agg(detector ORDER BY detector) FROM anomaly.detector \
                              WHERE owner = $2::oid) \
               FROM unnest($1::text[]) AS n (name) WHERE NOT EXISTS ( \
                    SELECT FROM anomaly.detector d WHERE d.detector = n.name AND d.owner = $2::oid)",
            &[parents.to_vec().into(), owner.into()],
            |row| Ok((row.must::<String>(1)?, row.get::<Vec<String>>(2)?.unwrap_or_default())),
        )
    })?;
    let Some((unknown, there)) = unknown else { return Ok(()) };
    let there: Vec<&str> = there.iter().map(String::as_str).collect();
    Err(report(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("depends_on: no detector \"{unknown}\" of the same owner"),
    )
    .set_hint(match anomaly_core::nearest::nearest(&unknown, &there) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "SELECT detector, owner FROM anomaly.detectors".to_owned(),
    }))
}

/// Before PostgreSQL 17 a worker cannot connect as a role without LOGIN.
pub fn check_login(owner: pg_sys::Oid) -> SqlResult<()> {
    let can_login = sql::row(
        "SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE oid OPERATOR(pg_catalog.=) $1",
        &[owner.into()],
        |row| row.must::<bool>(1),
    )?
    .unwrap_or(false);
    if can_login || cfg!(feature = "pg18") {
        return Ok(());
    }
    Err(report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the current role has no LOGIN, so no worker can connect as it",
    )
    .set_hint("create the detector as a member role that may log in"))
}

/// An interval's length with months of 30 days, as PostgreSQL compares intervals.
pub fn interval_micros(interval: &Interval) -> i128 {
    const DAY: i128 = 86_400_000_000;
    i128::from(interval.months()) * 30 * DAY
        + i128::from(interval.days()) * DAY
        + i128::from(interval.micros())
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.create_detector IS
'registers a detector owned by the current role and answers its id, that of the one there is when all settings are equal; without source it is fed by process_data_point';"#,
    name = "create_detector_comment",
    requires = [create_detector]
);
