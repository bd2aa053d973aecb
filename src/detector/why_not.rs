//! `anomaly.why_not`: why there was no alert at a time, or which one.
//!
//! What is not stored is found out as [`backtest`] does it: a copy of the detector is trained on the rows
//! that the model of that time was trained on, and scanned up to the point, by the code that trains and
//! scans; [`witness`] tells how the point was judged. All of it is rolled back.

use anomaly_core::{
    Phase, Status,
    describe::{figure, probability},
    strategy::json_number,
    verdict::{Direction, Verdict},
};
use pgrx::{
    JsonB,
    datum::{TimestampWithTimeZone, ToIsoString},
    pg_sys::panic::ErrorReport,
    prelude::*,
    spi::quote_literal,
};
use serde_json::{Map, Value, json};

use crate::{
    detector::{
        backtest,
        catalog::{DetectorRow, Feed},
        scan,
        source::select_rows,
        train::check_runs_here,
        witness::{Seen, Witness},
    },
    error::{SqlResult, invalid, not_null},
    pg::{
        internal_rights,
        session::{self, Clock},
        subxact,
    },
    run, sql,
};

/// Entities that an error names.
const NAMED: usize = 5;

type Reasons = Vec<(String, String, JsonB)>;

/// What decided about a point of an entity at that time, in the order in which it decided; the last of
/// them says what came of it. Where there is no row at that time, the nearest one is explained. It takes
/// as long as training the detector and scanning up to that time; nothing is stored.
///
/// # Errors
/// 42704 and 42501 for the detector, 42501 in a session that is not its owner's, 22023 where it is not
/// clear which entity is meant and for a time that is to come, 25006 on a standby; those of `train` and
/// `scan`.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn why_not(
    detector: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    entity: default!(Option<&str>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(rank, i32),
            name!(reason, String),
            name!(explanation, String),
            name!(figures, JsonB),
        ),
    >,
    ErrorReport,
> {
    not_null!(detector, at);
    let row = DetectorRow::load_owned(detector)?;
    check_runs_here(&row)?;
    let at = i64::from(at);
    if at == i64::MIN || at > session::now() {
        return Err(invalid("at is not in the past", "give the time of a point that has been"));
    }
    let entity = which_entity(&row, entity)?;
    let reasons = Question { row: &row, entity: &entity, reasons: Vec::new() }.answer(at)?;
    let ranked = reasons.into_iter().zip(1..);
    Ok(TableIterator::new(
        ranked.map(|((reason, explanation, figures), rank)| (rank, reason, explanation, figures)),
    ))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.why_not(text, timestamptz, text) IS
'why there was no alert of an entity at a time, or which one: what decided, in order, with the figures of the verdict as it was judged; nothing is stored';"#,
    name = "why_not_comment",
    requires = [why_not]
);

/// The entity that is meant: where none is named, the only one.
fn which_entity(row: &DetectorRow, named: Option<&str>) -> SqlResult<String> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let known = internal_rights::with(|| {
        sql::rows(
            "SELECT e.entity FROM anomaly.entity_state e JOIN anomaly.model m USING (detector, version) \
              WHERE e.detector = $1 AND m.active ORDER BY e.entity LIMIT $2",
            &[row.detector.as_str().into(), (NAMED as i64 + 1).into()],
            |r| r.must::<String>(1),
        )
    })?;
    if let [only] = known.as_slice() {
        return Ok(only.clone());
    }
    if known.is_empty() || known.iter().any(String::is_empty) {
        return Ok(String::new());
    }
    let examples: Vec<String> = known.iter().take(NAMED).map(quote_literal).collect();
    Err(invalid(
        format!("detector \"{}\" has several entities", row.detector),
        format!("name one: entity => one of {}", examples.join(", ")),
    ))
}

/// Rows of the entity at the time in question, and the nearest ones.
#[derive(Default)]
struct Neighbours {
    rows: i64,
    with_value: i64,
    before: Option<i64>,
    after: Option<i64>,
}

impl Neighbours {
    fn nearest(&self, at: i64) -> Option<i64> {
        match (self.before, self.after) {
            (Some(before), Some(after)) if after - at < at - before => Some(after),
            (None, after) => after,
            (before, _) => before,
        }
    }
}

/// An alert that the time falls into.
struct Alert {
    id: i64,
    status: String,
    severity: String,
    at: i64,
    last_at: i64,
    points: i32,
    reopened: i32,
    flapping: bool,
    resolved_by: Option<String>,
    silenced_by: Option<i64>,
    calendar: Option<String>,
    value: Option<f64>,
    p_value: f64,
    peak_at: i64,
}

/// A training from which the detector went on to the time in question.
struct Training {
    from: i64,
    until: i64,
    trained_at: i64,
}

/// How the detector stands.
struct Standing {
    enabled: bool,
    scheduled: bool,
    created_at: i64,
    updated_at: i64,
    next_due: Option<i64>,
    reason: Option<String>,
}

/// A run that judged the time in question.
struct Run {
    id: i64,
    started_at: i64,
    finished_at: i64,
}

struct Question<'a> {
    row: &'a DetectorRow,
    entity: &'a str,
    reasons: Reasons,
}

impl Question<'_> {
    fn say(&mut self, reason: &str, explanation: impl Into<String>, figures: Value) {
        self.reasons.push((reason.to_owned(), explanation.into(), JsonB(figures)));
    }

    fn answer(mut self, at: i64) -> SqlResult<Reasons> {
        let row = self.row;
        let standing = self.standing()?;
        let found = self.neighbours(at)?;
        let target = self.target(at, &found)?;
        let judged = self.judged(target)?;
        let run = if judged { self.run_of(target)? } else { None };
        if at < standing.created_at && run.is_none() {
            self.say(
                "not_created_yet",
                format!("detector {} was created at {}", row.detector, text(standing.created_at)?),
                json!({"created_at": text(standing.created_at)?}),
            );
        }
        if !judged {
            self.not_judged(target, &standing)?;
        }
        self.failures(target, run.as_ref())?;
        if row.model.is_none() {
            return Ok(self.reasons);
        }
        if let Some(run) = run.as_ref().filter(|run| run.finished_at < standing.updated_at) {
            self.say(
                "altered_since",
                format!(
                    "the detector was altered, enabled or disabled at {}, after run {} had judged this time: \
                     what follows is of its present settings",
                    text(standing.updated_at)?,
                    run.id
                ),
                json!({"updated_at": text(standing.updated_at)?, "run": run.id}),
            );
        }
        let fills = self.row.sampling.bucket.is_some() && self.row.sampling.fills_gaps();
        if found.rows == 0 && self.nothing_there(at, &found, fills)? {
            return Ok(self.reasons);
        }
        if found.rows > 0 && found.with_value == 0 && !fills {
            self.say(
                "no_value",
                "its value is NULL, which is neither normal nor anomalous",
                json!({}),
            );
            return Ok(self.reasons);
        }
        let Some(training) = self.training(target, run.as_ref())? else {
            return Ok(self.reasons);
        };
        let until = match &row.sampling.bucket {
            // What stands in for a gap may depend on what comes after it.
            Some(bucket) => {
                let over = found.after.filter(|_| found.rows == 0).unwrap_or(target);
                bucket.start(bucket.index(over.max(target)) + 1)
            }
            None => target,
        };
        if until > session::now() {
            self.say(
                "bucket_goes_on",
                format!("its bucket goes on until {}", text(until)?),
                json!({"until": text(until)?}),
            );
            return Ok(self.reasons);
        }
        match self.replay(&training, target, until)? {
            Some(seen) => self.verdict(&seen, target, judged)?,
            None if found.with_value > 0 => self.say(
                "entity_not_modelled",
                format!(
                    "entity {} is beyond max_entities, {}",
                    quote_literal(self.entity),
                    row.max_entities
                ),
                json!({"max_entities": row.max_entities}),
            ),
            None => self.say(
                "nothing_stands_in",
                "nothing stands in for this bucket: it is before the entity's first value, or far into a gap",
                json!({}),
            ),
        }
        Ok(self.reasons)
    }

    fn standing(&self) -> SqlResult<Standing> {
        let found = internal_rights::with(|| {
            sql::row(
                "SELECT d.enabled, d.every IS NOT NULL OR d.cron IS NOT NULL, d.created_at, d.updated_at, \
                        s.next_due, s.status_reason \
                   FROM anomaly.detector d JOIN anomaly.detector_state s USING (detector) \
                  WHERE d.detector = $1",
                &[self.row.detector.as_str().into()],
                |r| {
                    Ok(Standing {
                        enabled: r.must(1)?,
                        scheduled: r.must(2)?,
                        created_at: r.micros(3)?.unwrap_or(i64::MIN),
                        updated_at: r.micros(4)?.unwrap_or(i64::MIN),
                        next_due: r.micros(5)?,
                        reason: r.get(6)?,
                    })
                },
            )
        })?;
        found.ok_or_else(|| crate::detector::catalog::unknown(&self.row.detector))
    }

    /// The times of one point: the bucket, or the very moment. Both included.
    fn span(&self, at: i64) -> (i64, i64) {
        match &self.row.sampling.bucket {
            Some(bucket) => {
                let index = bucket.index(at);
                (bucket.start(index), bucket.start(index + 1) - 1)
            }
            None => (at, at),
        }
    }

    fn neighbours(&self, at: i64) -> SqlResult<Neighbours> {
        let row = self.row;
        let (first, last) = self.span(at);
        let read = |r: &sql::Row| {
            Ok(Neighbours {
                rows: r.must(1)?,
                with_value: r.must(2)?,
                before: r.micros(3)?,
                after: r.micros(4)?,
            })
        };
        // Three look-ups instead of one pass, so that an index on the time is of use.
        let around = |rows: &str| {
            format!(
                "SELECT (SELECT pg_catalog.count(*) FROM {rows} WHERE {of} AND r.at OPERATOR(pg_catalog.>=) $2 \
                            AND r.at OPERATOR(pg_catalog.<=) $3), \
                        (SELECT pg_catalog.count(r.value) FROM {rows} WHERE {of} AND r.at OPERATOR(pg_catalog.>=) $2 \
                            AND r.at OPERATOR(pg_catalog.<=) $3), \
                        (SELECT r.at FROM {rows} WHERE {of} AND r.at OPERATOR(pg_catalog.<) $2 \
                            AND pg_catalog.isfinite(r.at) ORDER BY r.at DESC LIMIT 1), \
                        (SELECT r.at FROM {rows} WHERE {of} AND r.at OPERATOR(pg_catalog.>) $3 \
                            AND pg_catalog.isfinite(r.at) ORDER BY r.at LIMIT 1)",
                of = "COALESCE(r.entity, '') OPERATOR(pg_catalog.=) $1"
            )
        };
        let mut arguments = vec![
            self.entity.into(),
            sql::timestamptz(first)?.into(),
            sql::timestamptz(last)?.into(),
        ];
        let found = match row.source()? {
            Some((source, columns)) => {
                let rows = select_rows(&source, columns, &row.sampling, &row.time_zone)?;
                // Rows are counted where there is no value to look at.
                let rows = match columns.value {
                    Some(_) => format!("({rows}) AS r (at, value, entity)"),
                    None => format!(
                        "(SELECT p.at, true, p.entity FROM ({rows}) AS p (at, value, entity)) \
                         AS r (at, value, entity)"
                    ),
                };
                sql::row(&around(&rows), &arguments, read)?
            }
            None => {
                arguments.push(row.owner.into());
                arguments.push(row.metric_name.as_str().into());
                let rows = "(SELECT s.at, s.value, s.entity FROM anomaly.sample s \
                              WHERE s.owner = $4::oid AND s.metric = $5) AS r (at, value, entity)";
                internal_rights::with(|| sql::row(&around(rows), &arguments, read))?
            }
        };
        Ok(found.unwrap_or_default())
    }

    /// The time of the point that is explained.
    fn target(&self, at: i64, found: &Neighbours) -> SqlResult<i64> {
        let fills = self.row.sampling.fills_gaps();
        Ok(match &self.row.sampling.bucket {
            Some(bucket) if found.rows > 0 || fills => bucket.start(bucket.index(at)),
            Some(bucket) => {
                found.nearest(at).map_or(at, |nearest| bucket.start(bucket.index(nearest)))
            }
            None if found.rows > 0 => at,
            None => found.nearest(at).unwrap_or(at),
        })
    }

    /// Whether scans have passed that time; points that are brought are judged as they come.
    fn judged(&self, target: i64) -> SqlResult<bool> {
        Ok(match (&self.row.feed, self.row.watermark) {
            (Feed::Points { .. }, _) => self.row.model.is_some(),
            (_, None) => false,
            (_, Some(watermark)) => match self.row.sampling.bucket {
                Some(_) => target < watermark,
                None => target <= watermark,
            },
        })
    }

    fn not_judged(&mut self, target: i64, standing: &Standing) -> SqlResult<()> {
        let row = self.row;
        let detector = quote_literal(&row.detector);
        if !standing.enabled {
            let hint = format!("the detector is disabled: SELECT anomaly.enable({detector})");
            self.say("disabled", hint, json!({}));
        }
        if let Some(paused) = run::paused()? {
            self.say("paused", format!("{paused}: SELECT anomaly.resume()"), json!({}));
        }
        if row.status == "broken" {
            let reason = standing.reason.as_deref().unwrap_or("it cannot run");
            let figures = json!({"status_reason": standing.reason});
            self.say("broken", format!("the detector is broken: {reason}"), figures);
        }
        if row.consecutive_failures > 0 {
            let failures = row.consecutive_failures;
            let explanation = format!("its last {failures} runs have failed");
            self.say("failing", explanation, json!({"consecutive_failures": failures}));
        }
        if row.model.is_none() {
            let explanation = match standing.reason.as_deref() {
                Some(reason) => format!("the detector has not been trained yet: {reason}"),
                None => format!(
                    "the detector has not been trained yet: SELECT anomaly.train({detector})"
                ),
            };
            self.say("not_trained_yet", explanation, json!({}));
            return Ok(());
        }
        let watermark = row.watermark.map(text).transpose()?;
        let next_due = standing.next_due.filter(|_| standing.enabled).map(text).transpose()?;
        let waits = if target > row.settled_until {
            "it waits until settle has passed, for rows that come late"
        } else if standing.scheduled {
            "it is judged by the next scan"
        } else {
            "the detector has no schedule: SELECT anomaly.scan(…)"
        };
        self.say(
            "not_scanned_yet",
            match &watermark {
                Some(watermark) => {
                    format!("scans have judged everything up to {watermark}; {waits}")
                }
                None => format!("nothing has been scanned yet; {waits}"),
            },
            json!({"watermark": watermark, "next_due": next_due}),
        );
        Ok(())
    }

    /// The first run that passed this time, as far as runs are kept.
    fn run_of(&self, target: i64) -> SqlResult<Option<Run>> {
        let compare = if self.row.sampling.bucket.is_some() {
            "r.window_from <= $2 AND r.window_until > $2"
        } else {
            "r.window_from < $2 AND r.window_until >= $2"
        };
        internal_rights::with(|| {
            sql::row(
                &format!(
                    "SELECT r.run_id, r.started_at, COALESCE(r.finished_at, r.started_at) \
                       FROM anomaly.run r JOIN anomaly.detector d USING (detector) \
                      WHERE r.detector = $1 AND r.status = 'succeeded' AND {compare} \
                        AND r.started_at >= d.created_at ORDER BY r.run_id LIMIT 1"
                ),
                &[self.row.detector.as_str().into(), sql::timestamptz(target)?.into()],
                |r| {
                    Ok(Run {
                        id: r.must(1)?,
                        started_at: r.micros(2)?.unwrap_or_default(),
                        finished_at: r.micros(3)?.unwrap_or_default(),
                    })
                },
            )
        })
    }

    /// Runs that should have judged this time and did not.
    fn failures(&mut self, target: i64, run: Option<&Run>) -> SqlResult<()> {
        let before = run.map_or_else(session::now, |run| run.started_at);
        let failed = internal_rights::with(|| {
            sql::row(
                "SELECT count(*), max(r.started_at), (array_agg(r.status || COALESCE(': ' || r.error_message, '') \
                        ORDER BY r.run_id DESC))[1] \
                   FROM anomaly.run r JOIN anomaly.detector d USING (detector) \
                  WHERE r.detector = $1 AND r.status IN ('failed', 'cancelled', 'crashed') \
                    AND r.started_at >= $2 AND r.started_at <= $3 AND r.started_at >= d.created_at",
                &[
                    self.row.detector.as_str().into(),
                    sql::timestamptz(target)?.into(),
                    sql::timestamptz(before)?.into(),
                ],
                |r| Ok((r.must::<i64>(1)?, r.micros(2)?, r.get::<String>(3)?)),
            )
        })?;
        if let Some((count @ 1.., Some(last), message)) = failed {
            let message = message.unwrap_or_default();
            let outcome = match run {
                Some(run) => format!("run {} has judged it since", run.id),
                None => "none has judged it yet".to_owned(),
            };
            self.say(
                "failed_runs",
                format!("{count} runs after this time ended without a result, the last at {}: {message}; {outcome}", text(last)?),
                json!({"failed_runs": count, "last_at": text(last)?, "message": message}),
            );
        }
        Ok(())
    }

    /// Says what is nearest; whether there is nothing to explain.
    fn nothing_there(&mut self, at: i64, found: &Neighbours, fills: bool) -> SqlResult<bool> {
        let of = match self.entity {
            "" => String::new(),
            entity => format!(" of {}", quote_literal(entity)),
        };
        let (before, after) =
            (found.before.map(text).transpose()?, found.after.map(text).transpose()?);
        let nearest = match (&before, &after) {
            (Some(before), Some(after)) => format!("the nearest are at {before} and at {after}"),
            (Some(before), None) => format!("the latest is at {before}"),
            (None, Some(after)) => format!("the first is at {after}"),
            (None, None) => "there is none at all".to_owned(),
        };
        let rule = self.row.sampling.on_missing.as_str();
        let what = match &self.row.sampling.bucket {
            Some(_) => "no row in the bucket of this time",
            None => "no row at this time",
        };
        let explained = match found.nearest(at) {
            _ if fills => format!("; on_missing is {rule}"),
            Some(nearest) => format!("; what follows is of {}", text(nearest)?),
            None => String::new(),
        };
        self.say(
            "no_row",
            format!("there is {what}{of}; {nearest}{explained}"),
            json!({"before": before, "after": after, "on_missing": rule}),
        );
        let none_at_all = found.before.is_none() && found.after.is_none();
        Ok(none_at_all || !fills && found.nearest(at).is_none_or(|at| at > session::now()))
    }

    /// The training that the detector had gone on from when it judged this time.
    fn training(&mut self, target: i64, run: Option<&Run>) -> SqlResult<Option<Training>> {
        let judged_at = run.map(|run| sql::timestamptz(run.finished_at)).transpose()?;
        let versions = internal_rights::with(|| {
            sql::rows(
                "SELECT m.version, m.trained_from, m.trained_until, m.trained_at \
                   FROM anomaly.model m WHERE m.detector = $1 ORDER BY m.version",
                &[self.row.detector.as_str().into()],
                |r| Ok((r.must::<i32>(1)?, r.micros(2)?, r.micros(3)?, r.micros(4)?)),
            )
        })?;
        let judged_at = judged_at.map(i64::from);
        let fitting = versions.iter().rev().find_map(|(_, from, until, trained_at)| {
            let training =
                Training { from: (*from)?, until: (*until)?, trained_at: (*trained_at)? };
            let in_time = judged_at.is_none_or(|judged_at| training.trained_at <= judged_at);
            (training.until < target && in_time).then_some(training)
        });
        if fitting.is_some() {
            return Ok(fitting);
        }
        let Some((first, _, _, trained_at)) = versions.first() else { return Ok(None) };
        if *first == 1 && run.is_none() {
            let trained_at = trained_at.map(text).transpose()?;
            self.say(
                "learned",
                "the detector was trained on this time, and judges what came after it",
                json!({"trained_at": trained_at}),
            );
            return Ok(None);
        }
        // Without a trace of the training, the one that there would be now.
        self.say(
            "model_gone",
            "the model that judged this time is not kept any more: what follows is by one of the rows before it",
            json!({}),
        );
        let window = self.row.settled_until.saturating_sub(self.row.training_from);
        let until = target - 1;
        Ok(Some(Training {
            from: until.saturating_sub(window),
            until,
            trained_at: run.map_or(until, |run| run.started_at),
        }))
    }

    /// Trains a copy of the detector as it was trained, and has it judge what came up to `until`.
    fn replay(&self, training: &Training, target: i64, until: i64) -> SqlResult<Option<Seen>> {
        run::check_writable("why_not")?;
        // Windows of rows are without their first moment, those of buckets without their last.
        let (trained_until, window) = match &self.row.sampling.bucket {
            Some(bucket) => {
                let end = bucket.start(bucket.index(training.until) + 1);
                (end, end.saturating_sub(training.from))
            }
            None => (training.until, training.until.saturating_sub(training.from) + 1),
        };
        let name = backtest::copy_name("why_not");
        subxact::rehearse(|| {
            let clock = Clock::at(trained_until);
            backtest::copy(self.row, &name)?;
            internal_rights::with(|| {
                sql::execute(
                    "UPDATE anomaly.detector SET settle = '0', late_window = '0', retrain_every = NULL, \
                            training_window = ($2 || ' microseconds')::interval \
                      WHERE detector = $1",
                    &[name.as_str().into(), window.max(1).to_string().into()],
                )?;
                // Training leaves out what had been an alert by then, as far as it had gone on.
                sql::execute(
                    "INSERT INTO anomaly.alert (slot, detector, owner, status, anomaly_type, detection_strategy, \
                            severity, entity, metric_name, at, last_at, raised_at, resolved_at, points, peak_at, \
                            deviation, score, p_value, direction, description, model_version) \
                     SELECT a.slot, $2, a.owner, 'resolved', a.anomaly_type, a.detection_strategy, a.severity, a.entity, \
                            a.metric_name, a.at, LEAST(a.last_at, $4), a.raised_at, a.last_at, a.points, a.peak_at, a.deviation, \
                            a.score, a.p_value, a.direction, a.description, a.model_version \
                       FROM anomaly.alert a JOIN anomaly.detector d USING (detector) \
                      WHERE a.detector = $1 AND a.owner = d.owner AND a.raised_at >= d.created_at \
                        AND a.raised_at <= $3 AND a.at <= $4 AND a.status <> 'withdrawn'",
                    &[
                        self.row.detector.as_str().into(),
                        name.as_str().into(),
                        sql::timestamptz(training.trained_at)?.into(),
                        sql::timestamptz(trained_until)?.into(),
                    ],
                )
            })?;
            backtest::know_alerts(&name)?;
            scan::execute(&name, None)?;
            clock.set(until);
            let witness = Witness::of(self.entity, target);
            scan::execute(&name, None)?;
            Ok(witness.seen())
        })
    }

    /// What was decided of the point, step by step.
    fn verdict(&mut self, seen: &Seen, target: i64, judged: bool) -> SqlResult<()> {
        let row = self.row;
        let examined = &seen.examination;
        let verdict = &examined.verdict;
        if let Status::Warming { have, need } = verdict.status {
            let judge = if examined.by_shared {
                "judged by the baseline of all entities"
            } else {
                "nothing of it is an anomaly yet"
            };
            self.say(
                "warming",
                format!("the entity has {have} of {need} points (min_data_points): {judge}"),
                json!({"have": have, "need": need, "by_shared": examined.by_shared}),
            );
        }
        let figures = figures_of(verdict, seen)?;
        if verdict.value.is_nan() && verdict.status != Status::Missing {
            self.say(
                "not_a_number",
                "its value is NaN, which is neither normal nor anomalous",
                figures,
            );
            return Ok(());
        }
        if !examined.unusual {
            self.say("within_bounds", within_bounds(seen), figures);
            return self.alert_around(target, false, seen, judged);
        }
        self.say("anomalous", anomalous(verdict), figures);
        if examined.expected {
            let explanation = "a calendar expects everything at this time: SELECT * FROM anomaly.calendars \
                               WHERE action = 'expect'";
            self.say("expected_by_calendar", explanation, json!({}));
        }
        if examined.accepted {
            let explanation = "feedback has called what is as far from the expected value normal: \
                               SELECT * FROM anomaly.feedback_log";
            self.say("accepted_by_feedback", explanation, json!({}));
        }
        if examined.wrong_side {
            let side = match verdict.direction {
                Direction::Low => "above",
                _ => "below",
            };
            self.say(
                "wrong_side",
                format!("it is {} what is expected, and direction is {side}", verdict.direction),
                json!({"direction": verdict.direction.as_str()}),
            );
        }
        if examined.too_small {
            self.say(
                "effect_too_small",
                format!(
                    "it is {} from what is expected; from {} on it matters (min_effect {}, min_relative_effect {})",
                    figure(examined.effect),
                    figure(examined.least_effect),
                    row.min_effect,
                    row.min_relative_effect
                ),
                json!({"effect": json_number(examined.effect), "least_effect": json_number(examined.least_effect)}),
            );
        }
        if verdict.is_anomaly && seen.phase == Phase::Pending {
            self.say(
                "fire_after",
                format!(
                    "{} of the {} anomalous points in a row that make an alert (fire_after)",
                    seen.points, row.fire_after
                ),
                json!({"points": seen.points, "fire_after": row.fire_after}),
            );
        }
        self.alert_around(target, verdict.is_anomaly, seen, judged)
    }

    /// The alert that there is of this time, and what became of it.
    fn alert_around(
        &mut self,
        target: i64,
        is_anomaly: bool,
        seen: &Seen,
        judged: bool,
    ) -> SqlResult<()> {
        let Some(alert) = self.alert(target)? else {
            let fires = is_anomaly && seen.phase == Phase::Open;
            if fires && judged {
                self.say(
                    "judged_otherwise",
                    "by the rows and settings of today it alerts: the row came later than late_window, was changed \
                     since, or was judged by other settings or another model",
                    json!({"late_window_seconds": self.row.late_window as f64 / 1e6}),
                );
            } else if fires {
                self.say("will_alert", "the scan that judges it will alert", json!({}));
            }
            return Ok(());
        };
        let figures = json!({
            "alert": alert.id, "status": alert.status, "severity": alert.severity, "points": alert.points,
            "at": text(alert.at)?, "last_at": text(alert.last_at)?, "peak_at": text(alert.peak_at)?,
            "value": alert.value.map(json_number), "p_value": json_number(alert.p_value),
        });
        let id = alert.id;
        let (reason, explanation) = if !is_anomaly {
            (
                "within_alert",
                format!(
                    "normal by itself, within alert {id}, which ends after {} normal points in a row (clear_after)",
                    self.row.clear_after
                ),
            )
        } else if alert.reopened > 0 && alert.at != target {
            (
                "part_of_alert",
                format!(
                    "it belongs to alert {id}, which was opened again {} times within cool_down",
                    alert.reopened
                ),
            )
        } else if alert.at == target {
            ("alert", format!("it began alert {id}"))
        } else {
            ("part_of_alert", format!("it belongs to alert {id}, which was open"))
        };
        self.say(reason, explanation, figures);
        if let Some(calendar) = alert.silenced_by {
            let name = alert.calendar.as_deref().unwrap_or("that is gone");
            self.say(
                "silenced",
                format!("nobody is told of alert {id}: silence {name}"),
                json!({"calendar": calendar, "name": alert.calendar}),
            );
        }
        if alert.flapping {
            self.say(
                "flapping",
                format!("alert {id} comes and goes; handlers hear of it when it stays quiet"),
                json!({}),
            );
        }
        if alert.status == "withdrawn" {
            self.say(
                "withdrawn",
                format!("alert {id} was withdrawn: rows that came late changed the verdict"),
                json!({}),
            );
        }
        if let Some(by) = alert.resolved_by {
            self.say(
                "resolved_by_hand",
                format!("{by} has resolved alert {id}"),
                json!({"resolved_by": by}),
            );
        }
        Ok(())
    }

    fn alert(&self, target: i64) -> SqlResult<Option<Alert>> {
        internal_rights::with(|| {
            sql::row(
                "SELECT a.alert_id, a.status, a.severity::text, a.at, a.last_at, a.points, a.reopened, a.flapping, \
                        a.resolved_by, a.silenced_by, c.name, a.value, a.p_value, a.peak_at \
                   FROM anomaly.alert a JOIN anomaly.detector d USING (detector) \
                   LEFT JOIN anomaly.calendar c ON c.calendar_id = a.silenced_by \
                  WHERE a.detector = $1 AND a.owner = d.owner AND a.raised_at >= d.created_at \
                    AND a.entity = $2 AND a.at <= $3 AND a.last_at >= $3 \
                  ORDER BY a.status = 'withdrawn', a.alert_id DESC LIMIT 1",
                &[
                    self.row.detector.as_str().into(),
                    self.entity.into(),
                    sql::timestamptz(target)?.into(),
                ],
                |r| {
                    Ok(Alert {
                        id: r.must(1)?,
                        status: r.must(2)?,
                        severity: r.must(3)?,
                        at: r.micros(4)?.unwrap_or_default(),
                        last_at: r.micros(5)?.unwrap_or_default(),
                        points: r.must(6)?,
                        reopened: r.must(7)?,
                        flapping: r.must(8)?,
                        resolved_by: r.get(9)?,
                        silenced_by: r.get(10)?,
                        calendar: r.get(11)?,
                        value: r.get(12)?,
                        p_value: r.must(13)?,
                        peak_at: r.micros(14)?.unwrap_or_default(),
                    })
                },
            )
        })
    }
}

fn text(at: i64) -> SqlResult<String> {
    Ok(sql::timestamptz(at)?.to_iso_string())
}

/// The figures of a verdict, those that are no numbers left out.
fn figures_of(verdict: &Verdict, seen: &Seen) -> SqlResult<Value> {
    let examined = &seen.examination;
    let mut figures = Map::new();
    figures.insert("at".into(), text(verdict.at)?.into());
    for (name, figure) in [
        ("value", Some(verdict.value)),
        ("expected", Some(verdict.expected)),
        ("lower", Some(verdict.lower)),
        ("upper", Some(verdict.upper)),
        ("p_value", Some(verdict.p_value())),
        ("deviation", Some(verdict.deviation())),
        ("alerts_above", examined.alerts_above),
        ("alerts_below", examined.alerts_below),
    ] {
        if let Some(figure) = figure.filter(|figure| !figure.is_nan()) {
            figures.insert(name.into(), json_number(figure));
        }
    }
    figures.insert("direction".into(), verdict.direction.as_str().into());
    if seen.filled {
        figures.insert("filled".into(), true.into());
    }
    Ok(Value::Object(figures))
}

fn within_bounds(seen: &Seen) -> String {
    let verdict = &seen.examination.verdict;
    let value = match seen.filled {
        true => format!("{}, which stands in for the missing value,", figure(verdict.value)),
        false => figure(verdict.value),
    };
    if verdict.expected.is_nan() {
        return format!("{value} has no baseline to be judged by");
    }
    let mut explanation = format!(
        "{value} is normal: expected {}, range {} to {}, p = {}",
        figure(verdict.expected),
        figure(verdict.lower),
        figure(verdict.upper),
        probability(verdict.ln_p())
    );
    let would: Vec<String> = [
        seen.examination.alerts_above.map(|x| format!("above {}", figure(x))),
        seen.examination.alerts_below.map(|x| format!("below {}", figure(x))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !would.is_empty() {
        explanation.push_str(&format!("; it would have been an anomaly {}", would.join(" or ")));
    }
    explanation
}

fn anomalous(verdict: &Verdict) -> String {
    if verdict.status == Status::Missing {
        return format!(
            "there is no value, {} in a row, p = {}",
            verdict.statistic,
            probability(verdict.ln_p())
        );
    }
    format!(
        "{} is anomalous: expected {}, range {} to {}, p = {}",
        figure(verdict.value),
        figure(verdict.expected),
        figure(verdict.lower),
        figure(verdict.upper),
        probability(verdict.ln_p())
    )
}
