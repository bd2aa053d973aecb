//! `anomaly.backtest`, `anomaly.backtest_summary` and `anomaly.preview`: what a detector would have told,
//! before anybody is told.
//!
//! There is no second path. A copy of the detector, or the one that is being thought of, is trained and
//! scanned by the code that trains and scans, with the session's clock put to the times of the past, in
//! a subtransaction that is rolled back: what it would have told is read from its alerts before.

use pgrx::{
    JsonB,
    datum::{Interval, TimestampWithTimeZone},
    pg_sys::panic::ErrorReport,
    prelude::*,
    spi::quote_literal,
};
use serde_json::{Map, Value, json};

use crate::{
    detector::{
        alter_detector::{alter, create_from},
        catalog::DetectorRow,
        scan, train,
    },
    error::{SqlResult, invalid, not_null, report},
    pg::{
        internal_rights,
        json_arg::JsonArg,
        session::{self, Clock},
        subxact,
    },
    sql, worker,
};

/// Replays of more trainings than this take a longer `retrain_every`.
const MOST_TRAININGS: i64 = 1000;
/// Scans of one that has too few points to begin with.
const WARMING_SCANS: i64 = 50;
/// Alerts that `preview` shows.
const SHOWN: usize = 5;

/// Stretches of time of one entity about which somebody has said what there was.
struct Label {
    entity: String,
    from: i64,
    until: i64,
    is_anomaly: bool,
}

struct Alert {
    entity: String,
    at: i64,
    last_at: i64,
    points: i32,
    severity: String,
    peak_at: i64,
    value: Option<f64>,
    expected: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    p_value: f64,
    deviation: f64,
    direction: String,
    description: String,
    resolved_at: Option<i64>,
}

/// What a detector would have told between two times.
struct Replay {
    since: i64,
    until: i64,
    status: String,
    trainings: i64,
    entities: i64,
    points: i64,
    alerts_per_day: f64,
    alerts: Vec<Alert>,
    labels: Vec<Label>,
}

impl Replay {
    fn label_of(&self, alert: &Alert) -> Option<&'static str> {
        let of = |is_anomaly: bool| {
            self.labels.iter().any(|l| {
                l.is_anomaly == is_anomaly
                    && l.entity == alert.entity
                    && l.from <= alert.last_at
                    && alert.at <= l.until
            })
        };
        match (of(true), of(false)) {
            (true, _) => Some("true_positive"),
            (false, true) => Some("false_positive"),
            (false, false) => None,
        }
    }

    /// Labelled anomalies in the time that was replayed, and how many of them an alert meets.
    fn found(&self) -> (i64, i64) {
        let within = |l: &&Label| l.is_anomaly && l.until > self.since && l.from <= self.until;
        let anomalies = self.labels.iter().filter(within);
        let found = anomalies.clone().filter(|l| {
            self.alerts
                .iter()
                .any(|a| a.entity == l.entity && l.from <= a.last_at && a.at <= l.until)
        });
        (anomalies.count() as i64, found.count() as i64)
    }

    fn labelled(&self, label: &str) -> i64 {
        self.alerts.iter().filter(|a| self.label_of(a) == Some(label)).count() as i64
    }

    fn days(&self) -> f64 {
        (self.until - self.since) as f64 / 86_400e6
    }
}

type Row<'a> = (
    name!(entity, Option<String>),
    name!(at, TimestampWithTimeZone),
    name!(last_at, TimestampWithTimeZone),
    name!(points, i32),
    name!(severity, String),
    name!(peak_at, TimestampWithTimeZone),
    name!(value, Option<f64>),
    name!(expected, Option<f64>),
    name!(lower, Option<f64>),
    name!(upper, Option<f64>),
    name!(p_value, f64),
    name!(deviation, f64),
    name!(direction, String),
    name!(description, String),
    name!(resolved_at, Option<TimestampWithTimeZone>),
    name!(label, Option<String>),
);

/// The alerts that a detector would have raised since then, had it been trained at that time and scanned
/// ever after, with other `settings` (as of `alter_detector`) if any are given. `label` is what people
/// have said of an alert or a missed anomaly at that time. Nothing is stored.
///
/// # Errors
/// Those of `train`, `scan` and `alter_detector`; 22023 for a time that is not in the past, 25006 on a
/// standby.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn backtest(
    detector: Option<&str>,
    since: default!(Option<Interval>, "'30 days'"),
    until_ts: default!(Option<TimestampWithTimeZone>, "NULL"),
    settings: default!(Option<JsonArg>, "'{}'"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(entity, Option<String>),
            name!(at, TimestampWithTimeZone),
            name!(last_at, TimestampWithTimeZone),
            name!(points, i32),
            name!(severity, String),
            name!(peak_at, TimestampWithTimeZone),
            name!(value, Option<f64>),
            name!(expected, Option<f64>),
            name!(lower, Option<f64>),
            name!(upper, Option<f64>),
            name!(p_value, f64),
            name!(deviation, f64),
            name!(direction, String),
            name!(description, String),
            name!(resolved_at, Option<TimestampWithTimeZone>),
            name!(label, Option<String>),
        ),
    >,
    ErrorReport,
> {
    not_null!(detector, since, settings);
    let replay = replay_of(detector, since, until_ts, settings.0)?;
    let rows: SqlResult<Vec<Row>> = replay
        .alerts
        .iter()
        .map(|alert| {
            Ok((
                Some(alert.entity.clone()).filter(|entity| !entity.is_empty()),
                sql::timestamptz(alert.at)?,
                sql::timestamptz(alert.last_at)?,
                alert.points,
                alert.severity.clone(),
                sql::timestamptz(alert.peak_at)?,
                alert.value,
                alert.expected,
                alert.lower,
                alert.upper,
                alert.p_value,
                alert.deviation,
                alert.direction.clone(),
                alert.description.clone(),
                alert.resolved_at.map(sql::timestamptz).transpose()?,
                replay.label_of(alert).map(str::to_owned),
            ))
        })
        .collect();
    Ok(TableIterator::new(rows?))
}

/// The same as `backtest` in one row of figures. Precision and recall are of what somebody has labelled,
/// NULL where nobody has.
///
/// # Errors
/// As of `backtest`.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn backtest_summary(
    detector: Option<&str>,
    since: default!(Option<Interval>, "'30 days'"),
    until_ts: default!(Option<TimestampWithTimeZone>, "NULL"),
    settings: default!(Option<JsonArg>, "'{}'"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, String),
            name!(since, TimestampWithTimeZone),
            name!(until_ts, TimestampWithTimeZone),
            name!(trainings, i64),
            name!(entities, i64),
            name!(points, i64),
            name!(alerts, i64),
            name!(alerts_per_day, Option<f64>),
            name!(promised_alerts_per_day, f64),
            name!(true_positives, i64),
            name!(false_positives, i64),
            name!(missed, i64),
            name!(precision, Option<f64>),
            name!(recall, Option<f64>),
        ),
    >,
    ErrorReport,
> {
    not_null!(detector, since, settings);
    let replay = replay_of(detector, since, until_ts, settings.0)?;
    let (anomalies, found) = replay.found();
    let (right, wrong) = (replay.labelled("true_positive"), replay.labelled("false_positive"));
    let share = |part: i64, of: i64| (of > 0).then(|| part as f64 / of as f64);
    let alerts = replay.alerts.len() as i64;
    Ok(TableIterator::once((
        replay.status.clone(),
        sql::timestamptz(replay.since)?,
        sql::timestamptz(replay.until)?,
        replay.trainings,
        replay.entities,
        replay.points,
        alerts,
        (replay.days() > 0.0).then(|| alerts as f64 / replay.days()),
        replay.alerts_per_day,
        right,
        wrong,
        anomalies - found,
        share(right, right + wrong),
        share(found, anomalies),
    )))
}

/// What a detector over a table or query would have told since then, before it is created: the figures,
/// its alerts with the largest deviations, and what to type to have it. `settings` are those of
/// `create_detector`, by name. Nothing is stored.
///
/// # Errors
/// Those of `create_detector` and `backtest`.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn preview(
    source: Option<&str>,
    since: default!(Option<Interval>, "'7 days'"),
    settings: default!(Option<JsonArg>, "'{}'"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, String),
            name!(entities, i64),
            name!(points, i64),
            name!(alerts, i64),
            name!(alerts_per_day, Option<f64>),
            name!(promised_alerts_per_day, f64),
            name!(by_severity, JsonB),
            name!(worst, JsonB),
            name!(next_step, String),
        ),
    >,
    ErrorReport,
> {
    not_null!(source, since, settings);
    let (since, until) = period(since, None)?;
    let name = copy_name("preview");
    let replay = subxact::rehearse(|| {
        let clock = Clock::at(since);
        create_from(&name, source, settings.0.clone())?;
        end_settling(&name)?;
        run(&name, None, &clock, since, until)
    })?;
    let mut by_severity = Map::new();
    for alert in &replay.alerts {
        let count = by_severity.get(&alert.severity).and_then(Value::as_i64).unwrap_or(0);
        by_severity.insert(alert.severity.clone(), (count + 1).into());
    }
    let mut worst: Vec<&Alert> = replay.alerts.iter().collect();
    worst.sort_by(|a, b| b.deviation.total_cmp(&a.deviation));
    let worst: SqlResult<Vec<Value>> = worst.iter().take(SHOWN).map(|a| a.to_json()).collect();
    let alerts = replay.alerts.len() as i64;
    Ok(TableIterator::once((
        replay.status.clone(),
        replay.entities,
        replay.points,
        alerts,
        (replay.days() > 0.0).then(|| alerts as f64 / replay.days()),
        replay.alerts_per_day,
        JsonB(Value::Object(by_severity)),
        JsonB(Value::Array(worst?)),
        next_step(source, &settings.0),
    )))
}

extension_sql!(
    r#"
COMMENT ON FUNCTION anomaly.backtest(text, interval, timestamptz, jsonb) IS
'the alerts that a detector would have raised since then, with other settings if any are given; nothing is stored';
COMMENT ON FUNCTION anomaly.backtest_summary(text, interval, timestamptz, jsonb) IS
'figures of a backtest: alerts a day beside the promise, precision and recall where somebody has labelled';
COMMENT ON FUNCTION anomaly.preview(text, interval, jsonb) IS
'what a detector over a table or query would have told since then, before it is created; nothing is stored';
"#,
    name = "backtest_comments",
    requires = [backtest, backtest_summary, preview]
);

impl Alert {
    fn to_json(&self) -> SqlResult<Value> {
        use pgrx::datum::ToIsoString;
        Ok(json!({
            "entity": (!self.entity.is_empty()).then_some(&self.entity),
            "at": sql::timestamptz(self.at)?.to_iso_string(),
            "severity": self.severity,
            "value": self.value,
            "expected": self.expected,
            "description": self.description,
        }))
    }
}

/// The call that creates what was previewed.
fn next_step(source: &str, settings: &Value) -> String {
    let mut arguments = vec![quote_literal(source)];
    for (name, value) in settings.as_object().into_iter().flatten() {
        arguments.push(match value {
            Value::Null => continue,
            Value::String(text) => format!("{name} => {}", quote_literal(text)),
            Value::Array(items) => {
                let texts = items.iter().filter_map(Value::as_str).map(quote_literal);
                format!("{name} => ARRAY[{}]", texts.collect::<Vec<_>>().join(", "))
            }
            Value::Object(_) => format!("{name} => {}", quote_literal(value.to_string())),
            other => format!("{name} => {other}"),
        });
    }
    if settings.get("strategy").is_none() {
        arguments.push("strategy => 'auto'".to_owned());
    }
    format!("SELECT * FROM anomaly.watch({})", arguments.join(", "))
}

/// The times of a replay: no later than the clock.
fn period(since: Interval, until: Option<TimestampWithTimeZone>) -> SqlResult<(i64, i64)> {
    if session::in_recovery() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot replay a detector on a standby",
        )
        .set_hint("a replay writes what it rolls back: ask the primary"));
    }
    let until = until.map_or_else(session::now, i64::from);
    let bounded = sql::row(
        "SELECT $1::pg_catalog.timestamptz OPERATOR(pg_catalog.-) $2",
        &[sql::timestamptz(until)?.into(), since.into()],
        |row| row.micros(1),
    )?;
    let since = bounded.flatten().unwrap_or(until);
    if since >= until || until > session::now() || until == i64::MIN || since == i64::MIN {
        return Err(invalid(
            "there is no past between since and until_ts",
            "since is a length of time above 0, for example '30 days'; until_ts is now or earlier",
        ));
    }
    Ok((since, until))
}

/// A name that no other session's replay has.
pub fn copy_name(what: &str) -> String {
    format!("{what} of backend {}", std::process::id())
}

fn replay_of(
    detector: &str,
    since: Interval,
    until: Option<TimestampWithTimeZone>,
    settings: Value,
) -> SqlResult<Replay> {
    let row = DetectorRow::load_owned(detector)?;
    train::check_runs_here(&row)?;
    let (since, until) = period(since, until)?;
    let name = copy_name("backtest");
    let has_settings = settings.as_object().is_none_or(|settings| !settings.is_empty());
    if !has_settings {
        // A source that cannot be read is told of the detector, and not of its copy.
        row.source()?;
    }
    subxact::rehearse(|| {
        let clock = Clock::at(since);
        copy(&row, &name)?;
        if has_settings {
            alter(&name, settings)?;
        }
        end_settling(&name)?;
        run(&name, Some(&row), &clock, since, until)
    })
}

/// The copy has what people have said of the detector, and nothing that it has learned.
pub fn copy(row: &DetectorRow, name: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        let has = [
            "INSERT INTO anomaly.detector \
             SELECT (jsonb_populate_record(d, jsonb_build_object('detector', $2::text, 'every', NULL, \
                        'cron', NULL, 'enabled', true, 'created_at', '-infinity'::timestamptz))).* \
               FROM anomaly.detector d WHERE d.detector = $1",
            "INSERT INTO anomaly.detector_state (detector) \
             SELECT $2 FROM anomaly.detector_state s WHERE s.detector = $1",
            "INSERT INTO anomaly.member_performance \
             SELECT (jsonb_populate_record(p, jsonb_build_object('detector', $2::text))).* \
               FROM anomaly.member_performance p WHERE p.detector = $1",
        ];
        let said = [
            "INSERT INTO anomaly.exclusion \
             SELECT (jsonb_populate_record(e, jsonb_build_object('detector', $2::text, \
                        'exclusion_id', nextval('anomaly.exclusion_id_seq')))).* \
               FROM anomaly.exclusion e WHERE e.detector = $1",
            "INSERT INTO anomaly.calendar \
             SELECT (jsonb_populate_record(c, jsonb_build_object('detector', $2::text, \
                        'calendar_id', nextval('anomaly.calendar_id_seq')))).* \
               FROM anomaly.calendar c WHERE c.detector = $1",
            "INSERT INTO anomaly.judgement \
             SELECT (jsonb_populate_record(j, jsonb_build_object('detector', $2::text, 'alert_id', NULL, \
                        'judgement_id', nextval('anomaly.judgement_id_seq')))).* \
               FROM anomaly.judgement j JOIN anomaly.detector d USING (detector) \
              WHERE j.detector = $1 AND j.owner = d.owner AND j.given_at >= d.created_at",
        ];
        for (detector, statements) in [(row.detector.as_str(), has), (row.judged_as(), said)] {
            for statement in statements {
                sql::execute(statement, &[detector.into(), name.into()])?;
            }
        }
        Ok(())
    })
}

/// The clock says where the window ends, and everything has come by now: there is nothing to wait for.
fn end_settling(name: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector SET settle = '0', late_window = '0', created_at = '-infinity' \
             WHERE detector = $1",
            &[name.into()],
        )
    })?;
    Ok(())
}

/// Trains the copy at the beginning, and scans it to each time at which the detector was or would have
/// been trained, and to the end.
fn run(
    name: &str,
    original: Option<&DetectorRow>,
    clock: &Clock,
    since: i64,
    until: i64,
) -> SqlResult<Replay> {
    scan::execute(name, None)?;
    let (mut entities, mut scored) = (0, 0);
    let mut stops = stops(name, original, since, until)?;
    if DetectorRow::load(name)?.status == "warming" {
        // It is trained once it has seen enough, by a scan.
        let step = (until - since) / WARMING_SCANS + 1;
        stops.extend((1..WARMING_SCANS).map(|i| (since + i * step, false)).filter(|s| s.0 < until));
        stops.sort_unstable();
    }
    for (at, train) in stops {
        clock.set(at);
        worker::progress_report(scored);
        let summary = scan::execute(name, None)?;
        entities = summary.entities.max(entities);
        scored += summary.points_scored;
        know_alerts(name)?;
        if train {
            train::execute(&scan::lock(name)?)?;
        }
    }
    let row = DetectorRow::load(name)?;
    Ok(Replay {
        since,
        until,
        status: row.status,
        trainings: row.model.map_or(0, |model| i64::from(model.version)),
        entities,
        points: scored,
        alerts_per_day: row.alerts_per_day,
        alerts: alerts_of(name)?,
        labels: match original {
            Some(original) => labels_of(original.judged_as())?,
            None => Vec::new(),
        },
    })
}

/// The times to scan to, and whether it is trained then: as often as it is due, or else when it was, as
/// far as its models tell.
fn stops(
    name: &str,
    original: Option<&DetectorRow>,
    since: i64,
    until: i64,
) -> SqlResult<Vec<(i64, bool)>> {
    let every = internal_rights::with(|| {
        sql::row(
            "SELECT (extract(epoch FROM retrain_every) * 1000000)::bigint \
               FROM anomaly.detector WHERE detector = $1",
            &[name.into()],
            |row| row.get::<i64>(1),
        )
    })?;
    let mut stops = Vec::new();
    if let Some(every) = every.flatten().filter(|every| *every > 0) {
        if (until - since) / every > MOST_TRAININGS {
            return Err(invalid(
                format!("{} trainings in that time", (until - since) / every),
                format!("give a longer retrain_every, or a shorter time: at most {MOST_TRAININGS}"),
            ));
        }
        let mut at = since.saturating_add(every);
        while at < until {
            // the scan trains it itself
            stops.push((at, false));
            at = at.saturating_add(every);
        }
    } else if let Some(original) = original {
        let trained = internal_rights::with(|| {
            sql::rows(
                "SELECT trained_at FROM anomaly.model WHERE detector = $1 ORDER BY version",
                &[original.detector.as_str().into()],
                |row| row.micros(1),
            )
        })?;
        let trained = trained.into_iter().flatten();
        stops.extend(trained.filter(|at| (since + 1..until).contains(at)).map(|at| (at, true)));
    }
    stops.push((until, false));
    Ok(stops)
}

/// Judgements of the detector's alerts are of the copy's that begin at the same time.
pub fn know_alerts(name: &str) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.judgement j SET alert_id = a.alert_id FROM anomaly.alert a \
              WHERE j.detector = $1 AND a.detector = $1 AND j.alert_id IS NULL \
                AND j.withdrawn_at IS NULL AND j.verdict <> 'missed' \
                AND j.entity = a.entity AND j.from_at = a.at",
            &[name.into()],
        )
    })?;
    Ok(())
}

fn alerts_of(name: &str) -> SqlResult<Vec<Alert>> {
    internal_rights::with(|| {
        sql::rows(
            "SELECT entity, at, last_at, points, severity::text, peak_at, value, expected, lower, upper, \
                    p_value, deviation, direction, description, resolved_at \
               FROM anomaly.alert WHERE detector = $1 AND withheld IS NULL ORDER BY at, entity",
            &[name.into()],
            |row| {
                Ok(Alert {
                    entity: row.must(1)?,
                    at: row.micros(2)?.unwrap_or_default(),
                    last_at: row.micros(3)?.unwrap_or_default(),
                    points: row.must(4)?,
                    severity: row.must(5)?,
                    peak_at: row.micros(6)?.unwrap_or_default(),
                    value: row.get(7)?,
                    expected: row.get(8)?,
                    lower: row.get(9)?,
                    upper: row.get(10)?,
                    p_value: row.must(11)?,
                    deviation: row.must(12)?,
                    direction: row.must(13)?,
                    description: row.must(14)?,
                    resolved_at: row.micros(15)?,
                })
            },
        )
    })
}

/// What people have said there was, and what there was not.
fn labels_of(detector: &str) -> SqlResult<Vec<Label>> {
    internal_rights::with(|| {
        sql::rows(
            "SELECT j.entity, j.from_at, j.until_at, j.verdict <> 'false_positive' \
               FROM anomaly.judgement j JOIN anomaly.detector d USING (detector) \
              WHERE j.detector = $1 AND j.owner = d.owner AND j.given_at >= d.created_at \
                AND j.withdrawn_at IS NULL \
                AND j.verdict IN ('true_positive', 'false_positive', 'missed')",
            &[detector.into()],
            |row| {
                Ok(Label {
                    entity: row.must(1)?,
                    from: row.micros(2)?.unwrap_or_default(),
                    until: row.micros(3)?.unwrap_or_default(),
                    is_anomaly: row.must(4)?,
                })
            },
        )
    })
}
