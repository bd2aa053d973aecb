//! `anomaly.alter_detector`: other settings for a detector that there is.
//!
//! A JSON object and not one parameter a setting: a key that is not there stays as it is, and null is
//! the default, which is how a threshold, a schedule or a bucket is taken away. With parameters NULL
//! could mean only one of the two.

use pgrx::{JsonB, datum::Interval, pg_sys::panic::ErrorReport, prelude::*, spi::quote_literal};
use serde_json::{Map, Value, json};

use crate::{
    detector::{
        catalog::{DetectorRow, Feed},
        create_detector::{Created, FeedSetting, Settings, check, create, differences},
        no_data,
        sampling::{self, Sampling},
        source::{Columns, Named, Source},
        train,
    },
    error::{SqlResult, invalid, not_null, report},
    pg::{internal_rights, json_arg::JsonArg, session},
    sql, worker,
};

/// What a change of a setting is to what has been learned.
#[derive(Clone, Copy, PartialEq, PartialOrd, Eq, Debug)]
enum Effect {
    /// Nothing: it holds from the next scan on.
    Rule,
    /// The series is the same, the model is another one.
    Model,
    /// The series is another one.
    Series,
}

struct Setting {
    name: &'static str,
    columns: &'static [&'static str],
    effect: Effect,
    /// What null stands for, as JSON.
    default: &'static str,
}

const SOURCE: &[&str] = &["source_kind", "source_relation", "source_name", "source_query"];

/// The parameters of create_detector that can be altered.
const SETTINGS: &[Setting] = &[
    setting("source", SOURCE, Effect::Series, ""),
    setting("value", &["value_column"], Effect::Series, "null"),
    setting("at", &["at_column"], Effect::Series, "null"),
    setting("entity", &["entity_column"], Effect::Series, "null"),
    setting("trials", &["trials_column"], Effect::Series, "null"),
    // the last one is the setting, the other what its columns are
    setting("features", &["category_columns", "feature_columns"], Effect::Model, "[]"),
    setting("strategy", &["strategy"], Effect::Model, ""),
    setting("params", &["params"], Effect::Model, "{}"),
    setting("kind", &["kind"], Effect::Model, "null"),
    setting("bucket", &["bucket"], Effect::Series, "null"),
    setting("aggregate", &["aggregate"], Effect::Series, r#""avg""#),
    setting("on_missing", &["on_missing"], Effect::Model, "null"),
    // of days, and of columns without a zone
    setting("time_zone", &["time_zone"], Effect::Series, r#""UTC""#),
    setting("every", &["every"], Effect::Rule, "null"),
    setting("cron", &["cron"], Effect::Rule, "null"),
    setting("settle", &["settle"], Effect::Rule, r#""5 seconds""#),
    setting("late_window", &["late_window"], Effect::Rule, r#""0""#),
    setting("training_window", &["training_window"], Effect::Rule, r#""30 days""#),
    setting("retrain_every", &["retrain_every"], Effect::Rule, "null"),
    setting("min_data_points", &["min_data_points"], Effect::Rule, "100"),
    setting("threshold", &["threshold"], Effect::Rule, "null"),
    setting("alerts_per_day", &["alerts_per_day"], Effect::Rule, "1"),
    setting("fdr", &["fdr"], Effect::Rule, "null"),
    setting("fire_after", &["fire_after"], Effect::Rule, "1"),
    setting("clear_after", &["clear_after"], Effect::Rule, "3"),
    setting("cool_down", &["cool_down"], Effect::Rule, r#""0""#),
    setting("max_entities", &["max_entities"], Effect::Rule, "10000"),
    setting("entity_type", &["entity_type"], Effect::Rule, "null"),
    setting("no_data_after", &["no_data_after"], Effect::Rule, "null"),
    setting("depends_on", &["depends_on"], Effect::Rule, "[]"),
    setting("labels", &["labels"], Effect::Rule, "[]"),
    setting("direction", &["direction"], Effect::Rule, r#""both""#),
    setting("min_effect", &["min_effect"], Effect::Rule, "0"),
    setting("min_relative_effect", &["min_relative_effect"], Effect::Rule, "0"),
];

const fn setting(
    name: &'static str,
    columns: &'static [&'static str],
    effect: Effect,
    default: &'static str,
) -> Setting {
    Setting { name, columns, effect, default }
}

/// The setting that a column of anomaly.detector belongs to.
fn setting_of(column: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.columns.contains(&column))
}

/// Gives a detector other settings, checked as those of a new one. Keys are the parameters of
/// create_detector; one that is not there is left as it is, null is the default.
///
/// # Errors
/// 42704 for an unknown id, 42501 for a detector of somebody else, or of another session where its
/// source has to be read; 22023 and the errors of `create_detector` for the settings.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn alter_detector(
    detector: Option<&str>,
    settings: Option<JsonArg>,
) -> Result<
    TableIterator<
        'static,
        (name!(detector, String), name!(changed, Vec<String>), name!(effect, String)),
    >,
    ErrorReport,
> {
    not_null!(detector, settings);
    let detector = DetectorRow::load_administered(detector)?.detector;
    let (changed, effect) = alter(&detector, settings.0)?;
    Ok(TableIterator::once((detector, changed, effect)))
}

/// Gives a detector other settings; the names of those that are others now, and from when on they count.
///
/// # Errors
/// As of `alter_detector`.
pub fn alter(detector: &str, settings: Value) -> SqlResult<(Vec<String>, String)> {
    // Waits for a scan that is running, which began with the settings that it had.
    internal_rights::with(|| {
        sql::execute_returning(
            "SELECT 1 FROM anomaly.detector_state WHERE detector = $1 FOR UPDATE",
            &[detector.into()],
            |_| Ok(()),
        )
    })?;
    let row = DetectorRow::load_administered(detector)?;
    let changes = changes(settings, Some(&row))?;
    let mut wanted = Wanted::of(detector)?;
    wanted.take(&changes);
    apply(&row, &wanted, &changes)
}

/// All settings of a detector, by name, as [`alter`] takes them; what it reads among them, if it has a source.
///
/// # Errors
/// 42704 for an unknown id.
pub fn settings_of(detector: &str) -> SqlResult<Map<String, Value>> {
    let record = record_of(detector)?;
    let source = ["source_query", "source_relation"]
        .into_iter()
        .find_map(|column| record.get(column).filter(|text| text.is_string()).cloned());
    let mut settings = Wanted::of_record(record).0;
    if let Some(source) = source {
        settings.insert("source".to_owned(), source);
    }
    Ok(settings)
}

/// Makes a detector over a source, without a schedule, by the settings that a JSON object names.
///
/// # Errors
/// As of `create_detector`.
pub fn create_from(name: &str, source: &str, settings: Value) -> SqlResult<Created> {
    let changes = changes(settings, None)?;
    if let Some(scheduled) =
        ["every", "cron", "source"].into_iter().find(|n| changes.contains_key(*n))
    {
        return Err(invalid(format!("{scheduled} is no setting of a preview"), "leave it out"));
    }
    let mut wanted = Wanted::default_ones();
    wanted.take(&changes);
    let sampling = Sampling::check(&sampling::Wanted {
        kind: wanted.text("kind")?,
        trials: wanted.text("trials")?,
        bucket: wanted.interval("bucket")?,
        aggregate: wanted.must_text("aggregate")?,
        on_missing: wanted.text("on_missing")?,
        time_zone: wanted.must_text("time_zone")?,
    })?;
    let features = wanted.texts("features")?;
    let named = Named {
        value: wanted.text("value")?,
        at: wanted.text("at")?,
        entity: wanted.text("entity")?,
        trials: wanted.text("trials")?,
        features: &features,
    };
    let columns = Columns::choose(&Source::resolve(source)?, &named, &sampling)?;
    let metric = sampling.label(columns.value.as_deref(), wanted.must_text("aggregate")?);
    let feed = FeedSetting::Source {
        text: source,
        columns: Named {
            value: columns.value.as_deref(),
            at: Some(&columns.at),
            entity: columns.entity.as_deref(),
            trials: columns.trials.as_deref(),
            features: &features,
        },
    };
    create(wanted.settings(name, "data_outlier", &metric, feed)?)
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.alter_detector(text, jsonb) IS
'gives a detector other settings by the names of create_detector; one that is left out stays as it is, null is the default; what changed and from when on it counts';"#,
    name = "alter_detector_comment",
    requires = [alter_detector]
);

/// What is asked for, with defaults in the place of null.
fn changes(settings: Value, of: Option<&DetectorRow>) -> SqlResult<Map<String, Value>> {
    let Value::Object(settings) = settings else {
        return Err(invalid(
            "the settings are not a JSON object",
            r#"for example '{"alerts_per_day": 0.5, "threshold": null}'"#,
        ));
    };
    let mut changes = Map::new();
    for (name, value) in settings {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            return Err(no_such_setting(&name));
        };
        if let Some(row) = of {
            check_belongs(row, setting)?;
        }
        let value = match value {
            Value::Null if setting.default.is_empty() => {
                return Err(invalid(
                    format!("{name} cannot be taken away"),
                    format!("give another one, or leave out {name}"),
                ));
            }
            Value::Null => serde_json::from_str(setting.default).unwrap_or_default(),
            value => value,
        };
        changes.insert(name, value);
    }
    // One schedule takes the place of the other.
    for (name, other) in [("every", "cron"), ("cron", "every")] {
        if changes.get(name).is_some_and(|value| !value.is_null()) && !changes.contains_key(other) {
            changes.insert(other.to_owned(), Value::Null);
        }
    }
    Ok(changes)
}

fn no_such_setting(name: &str) -> ErrorReport {
    if ["name", "detector", "anomaly_type", "metric_name"].contains(&name) {
        return invalid(
            format!("{name} cannot be altered: another one makes it another detector"),
            "SELECT anomaly.create_detector(…) makes that one",
        );
    }
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let hint = match anomaly_core::nearest::nearest(name, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("settings are {}", names.join(", ")),
    };
    invalid(format!("unknown setting \"{name}\""), hint)
}

/// Refuses settings of a source for a detector that has none of its own.
fn check_belongs(row: &DetectorRow, setting: &Setting) -> SqlResult<()> {
    let of_source = ["source", "value", "at", "entity", "trials", "bucket", "late_window"];
    let of_schedule = ["every", "cron"];
    let what = match &row.feed {
        Feed::Relation { .. } | Feed::Query { .. } => return Ok(()),
        Feed::Samples if of_schedule.contains(&setting.name) => "its monitor has the schedule",
        Feed::Samples if setting.name == "features" || of_source.contains(&setting.name) => {
            "its monitor measures what it judges"
        }
        Feed::Points { .. }
            if of_source.contains(&setting.name) || setting.name == "no_data_after" =>
        {
            "it is fed by anomaly.process_data_point"
        }
        Feed::Samples | Feed::Points { .. } => return Ok(()),
    };
    Err(invalid(
        format!("detector \"{}\" has no {} of its own: {what}", row.detector, setting.name),
        "create a detector with source => 'table or query'",
    ))
}

/// The detector's row of the catalogue.
fn record_of(detector: &str) -> SqlResult<Map<String, Value>> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT to_jsonb(d) FROM anomaly.detector d WHERE d.detector = $1",
            &[detector.into()],
            |row| row.must::<JsonB>(1),
        )
    })?;
    match found {
        Some(JsonB(Value::Object(record))) => Ok(record),
        _ => Err(super::catalog::unknown(detector)),
    }
}

/// All settings of a detector by the names of create_detector.
struct Wanted(Map<String, Value>);

impl Wanted {
    fn of(detector: &str) -> SqlResult<Wanted> {
        Ok(Wanted::of_record(record_of(detector)?))
    }

    fn of_record(mut record: Map<String, Value>) -> Wanted {
        let mut settings = Map::new();
        for setting in SETTINGS.iter().filter(|setting| setting.name != "source") {
            for column in setting.columns {
                let value = record.remove(*column).unwrap_or_default();
                settings.insert(setting.name.to_owned(), value);
            }
        }
        Wanted(settings)
    }

    /// Those of a detector for which nobody has given any.
    fn default_ones() -> Wanted {
        let defaults = SETTINGS.iter().filter(|setting| setting.name != "source").map(|setting| {
            let default = match setting.name {
                "strategy" => json!("auto"),
                _ => serde_json::from_str(setting.default).unwrap_or_default(),
            };
            (setting.name.to_owned(), default)
        });
        Wanted(defaults.collect())
    }

    fn take(&mut self, changes: &Map<String, Value>) {
        for (name, value) in changes {
            self.0.insert(name.clone(), value.clone());
        }
    }

    /// As create_detector takes them.
    fn settings<'a>(
        &'a self,
        name: &'a str,
        anomaly_type: &'a str,
        metric_name: &'a str,
        feed: FeedSetting<'a>,
    ) -> SqlResult<Settings<'a>> {
        Ok(Settings {
            name: Some(name),
            anomaly_type,
            strategy: self.must_text("strategy")?,
            metric_name,
            entity_type: self.text("entity_type")?,
            feed,
            every: self.interval("every")?,
            cron: self.text("cron")?,
            time_zone: self.must_text("time_zone")?,
            settle: self.must_interval("settle")?,
            training_window: self.must_interval("training_window")?,
            min_data_points: self.integer("min_data_points")?,
            threshold: self.number_or_null("threshold")?,
            alerts_per_day: self.number("alerts_per_day")?,
            fdr: self.number_or_null("fdr")?,
            fire_after: self.integer("fire_after")?,
            clear_after: self.integer("clear_after")?,
            cool_down: self.must_interval("cool_down")?,
            max_entities: self.integer("max_entities")?,
            retrain_every: self.interval("retrain_every")?,
            kind: self.text("kind")?,
            bucket: self.interval("bucket")?,
            aggregate: self.must_text("aggregate")?,
            on_missing: self.text("on_missing")?,
            late_window: self.must_interval("late_window")?,
            direction: self.must_text("direction")?,
            min_effect: self.number("min_effect")?,
            min_relative_effect: self.number("min_relative_effect")?,
            no_data_after: self.interval("no_data_after")?,
            depends_on: self.texts("depends_on")?,
            labels: self.texts("labels")?,
            params: self.get("params").clone(),
            trained_by_caller: true,
        })
    }

    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> SqlResult<Option<&str>> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other => Err(not_a(name, other, "a text")),
        }
    }

    fn must_text(&self, name: &str) -> SqlResult<&str> {
        self.text(name)?.ok_or_else(|| not_a(name, &Value::Null, "a text"))
    }

    fn texts(&self, name: &str) -> SqlResult<Vec<String>> {
        let value = self.get(name);
        let texts = value.as_array().map(|array| {
            array.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.flatten().ok_or_else(|| not_a(name, value, "an array of texts"))
    }

    fn integer(&self, name: &str) -> SqlResult<i32> {
        let value = self.get(name);
        let whole = value.as_i64().and_then(|number| i32::try_from(number).ok());
        whole.ok_or_else(|| not_a(name, value, "a whole number up to 2147483647"))
    }

    fn number(&self, name: &str) -> SqlResult<f64> {
        let value = self.get(name);
        value.as_f64().ok_or_else(|| not_a(name, value, "a number"))
    }

    fn number_or_null(&self, name: &str) -> SqlResult<Option<f64>> {
        match self.get(name) {
            Value::Null => Ok(None),
            _ => self.number(name).map(Some),
        }
    }

    fn interval(&self, name: &str) -> SqlResult<Option<Interval>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        // PostgreSQL's own error (22007) for a text that is none.
        Ok(sql::row("SELECT $1::pg_catalog.interval", &[text.into()], |row| row.get(1))?.flatten())
    }

    fn must_interval(&self, name: &str) -> SqlResult<Interval> {
        self.interval(name)?.ok_or_else(|| not_a(name, &Value::Null, "a length of time"))
    }
}

fn not_a(name: &str, value: &Value, what: &str) -> ErrorReport {
    invalid(
        format!("{name} is {value}, not {what}"),
        format!("give {name} as {what}, null for its default, or leave it out"),
    )
}

/// Whether the source has to be looked at, because what is read of it changes.
fn reads_source(row: &DetectorRow, changes: &Map<String, Value>) -> bool {
    let Some(columns) = row.columns() else { return false };
    // Not every strategy takes categories.
    changes.contains_key("strategy") && !columns.categories.is_empty()
        || SETTINGS.iter().any(|setting| {
            changes.contains_key(setting.name)
                && (setting.effect == Effect::Series
                    || ["features", "kind", "on_missing"].contains(&setting.name))
        })
}

/// Checks and stores the settings; the names of those that are others now, and from when on they count.
fn apply(
    row: &DetectorRow,
    wanted: &Wanted,
    changes: &Map<String, Value>,
) -> SqlResult<(Vec<String>, String)> {
    let looks = reads_source(row, changes);
    // Its owner's query, or the functions behind its columns, run with nobody else's rights.
    if looks && !row.runs_here() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("what detector \"{}\" reads is altered by its owner only", row.detector),
        )
        .set_hint("log in as the owner (SET ROLE does not suffice)"));
    }
    let features = wanted.texts("features")?;
    let source = match wanted.text("source")? {
        Some(text) => Some(text.to_owned()),
        None if looks => row.unchecked_source()?.map(|(source, _)| source.text),
        None => None,
    };
    let feed = match (&row.feed, &source) {
        (Feed::Points { .. }, _) => FeedSetting::Points { features: &features },
        (_, Some(text)) => FeedSetting::Source {
            text,
            columns: Named {
                value: wanted.text("value")?,
                at: wanted.text("at")?,
                entity: wanted.text("entity")?,
                trials: wanted.text("trials")?,
                features: &features,
            },
        },
        (feed, None) => FeedSetting::Kept {
            source_kind: match feed {
                Feed::Relation { .. } => "relation",
                Feed::Query { .. } => "query",
                Feed::Samples | Feed::Points { .. } => "samples",
            },
            trials: wanted.text("trials")?,
            features: &features,
        },
    };
    let settings = wanted.settings(&row.detector, &row.anomaly_type, &row.metric_name, feed)?;
    let checked = check(settings, row.owner)?;

    // What was not asked for stays to the last digit.
    let record: Map<String, Value> = checked
        .record
        .into_iter()
        .filter(|(column, _)| {
            setting_of(column).is_some_and(|setting| {
                changes.contains_key(setting.name)
                    || looks && setting.effect == Effect::Series && setting.name != "time_zone"
            })
        })
        .collect();
    let differences = differences(&row.detector, &record)?;
    let altered: Vec<&Setting> = SETTINGS
        .iter()
        .filter(|s| s.columns.iter().any(|c| differences.contains_key(*c)))
        .collect();
    if altered.is_empty() {
        return Ok((Vec::new(), "nothing to change".to_owned()));
    }
    let checked_off = record.get("no_data_after").is_some_and(Value::is_null);
    store(row, &record)?;
    let names = altered.iter().map(|setting| setting.name.to_owned()).collect();
    let has = |name: &str| altered.iter().any(|setting| setting.name == name);
    let strongest =
        altered.iter().map(|s| s.effect).fold(Effect::Rule, |a, b| if b > a { b } else { a });
    if has("late_window") {
        // What is looked at again begins anew: an old checkpoint may be long ago.
        internal_rights::with(|| {
            sql::execute(
                "DELETE FROM anomaly.checkpoint WHERE detector = $1",
                &[row.detector.as_str().into()],
            )
        })?;
    }
    if has("no_data_after") && checked_off {
        no_data::stop(row)?;
    }
    if has("every") || has("cron") || has("time_zone") {
        set_due(&row.detector, checked.first_due)?;
    }
    if strongest == Effect::Rule || row.model.is_none() {
        let effect = match row.model {
            Some(_) => "counts from now on",
            None => "counts from its first training on",
        };
        revive(row, has("source"))?;
        return Ok((names, effect.to_owned()));
    }
    mark(row, strongest)?;
    Ok((names, retrain(&row.detector, checked.first_due.is_some())?))
}

fn store(row: &DetectorRow, record: &Map<String, Value>) -> SqlResult<()> {
    let columns: Vec<&str> = record.keys().map(String::as_str).collect();
    internal_rights::with(|| {
        sql::execute(
            &format!(
                "UPDATE anomaly.detector d SET updated_at = $3, ({columns}) = \
                    (SELECT {columns} FROM jsonb_populate_record(d, $2)) \
                 WHERE d.detector = $1",
                columns = columns.join(", ")
            ),
            &[
                row.detector.as_str().into(),
                JsonB(Value::Object(record.clone())).into(),
                sql::timestamptz(session::now())?.into(),
            ],
        )
    })?;
    Ok(())
}

fn set_due(detector: &str, due: Option<i64>) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET next_due = $2 \
             WHERE detector = $1 AND status <> 'broken'",
            &[detector.into(), due.map(sql::timestamptz).transpose()?.into()],
        )
    })?;
    if let Some(due) = due {
        worker::notify_due(due);
    }
    Ok(())
}

/// A detector that was broken is tried again with what it reads now.
fn revive(row: &DetectorRow, has_other_source: bool) -> SqlResult<()> {
    if has_other_source && row.status == "broken" {
        super::enable::try_again(&row.detector)?;
    }
    Ok(())
}

/// The active model does not fit any more: of the same series it says until the training what is going
/// on, of another series there is nothing to keep.
fn mark(row: &DetectorRow, effect: Effect) -> SqlResult<()> {
    internal_rights::with(|| {
        let detector = row.detector.as_str();
        if effect == Effect::Series {
            sql::execute("DELETE FROM anomaly.model WHERE detector = $1", &[detector.into()])?;
        }
        sql::execute(
            "UPDATE anomaly.detector_state SET needs_training = $2, \
                status = CASE WHEN $2 AND status <> 'broken' THEN status ELSE 'new' END, \
                status_reason = 'its settings were altered since it was trained', \
                status_hint = NULL, consecutive_failures = 0 \
             WHERE detector = $1",
            &[detector.into(), (effect == Effect::Model).into()],
        )
    })?;
    Ok(())
}

/// Trains at once where nobody else will, and where this session may.
fn retrain(detector: &str, is_scheduled: bool) -> SqlResult<String> {
    let row = DetectorRow::load(detector)?;
    let trained = match &row.feed {
        Feed::Points { .. } => train::execute_all(&row)?,
        Feed::Samples => train::execute(&row)?,
        Feed::Relation { .. } | Feed::Query { .. } if is_scheduled => {
            set_due(detector, Some(session::now()))?;
            return Ok("is trained anew at its next run, now".to_owned());
        }
        Feed::Relation { .. } | Feed::Query { .. } if row.runs_here() => train::execute(&row)?,
        Feed::Relation { .. } | Feed::Query { .. } => {
            return Ok(format!(
                "counts once its owner has called anomaly.train({})",
                quote_literal(detector)
            ));
        }
    };
    Ok(format!("trained anew on {} rows: {}", trained.trained_rows, trained.status))
}

/// What to type to give a detector these values of columns.
pub fn how_to_have(detector: &str, differences: &Map<String, Value>) -> String {
    let mut settings = Map::new();
    for (column, value) in differences {
        let has_no_source = ["points", "samples"].contains(&value.as_str().unwrap_or_default());
        let follows = column == "category_columns" || column == "source_kind" && has_no_source;
        match setting_of(column).filter(|_| !follows) {
            // One column of the source says what it is, the kind and the other follow.
            Some(setting) if setting.name == "source" => {
                let text = ["source_query", "source_relation"]
                    .into_iter()
                    .find_map(|of| differences.get(of).filter(|text| text.is_string()));
                settings.insert("source".to_owned(), text.cloned().unwrap_or(json!("…")));
            }
            Some(setting) => {
                settings.insert(setting.name.to_owned(), value.clone());
            }
            None => {
                return format!(
                    "its {column} is another one: SELECT anomaly.drop_detector({}) before",
                    quote_literal(detector)
                );
            }
        }
    }
    format!(
        "it has other settings: SELECT anomaly.alter_detector({}, {})",
        quote_literal(detector),
        quote_literal(Value::Object(settings).to_string())
    )
}
