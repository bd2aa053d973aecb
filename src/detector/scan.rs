//! `anomaly.scan`: judges the points since the last scan, in one transaction.
//!
//! The window is (watermark, now − settle]. States, alerts and the watermark are written together,
//! so whatever dies in between, each point is judged once and each episode stored once.

use std::time::{Duration, Instant};

use anomaly_core::{Detector, EntityState, Point, gaps::Arrival};
use pgrx::{datum::TimestampWithTimeZone, pg_sys::panic::ErrorReport, prelude::*};

use crate::{
    detector::{
        alerts::{AlertBook, StoredAlerts},
        batch::Batch,
        catalog::{DetectorRow, Feed},
        late::LateWindow,
        no_data::Presence,
        sampling::Sampling,
        source::read_query,
        states::{EntityStates, decode_shared},
        train, withhold, witness,
    },
    error::{SqlResult, report},
    limits::ScanMemory,
    pg::{internal_rights, latch, session, stream},
    run, sql, worker,
};

/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4096;
/// How often the detector's lock is tried again, and how far apart.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const DAY: f64 = 86_400e6;

/// What a scan did, for its run row.
#[derive(Debug, Default, Clone)]
pub struct ScanSummary {
    pub window_from: Option<i64>,
    pub window_until: Option<i64>,
    pub rows_read: i64,
    /// Points whose entity has a state, those that stand in for missing ones too.
    pub points_scored: i64,
    pub alerts_opened: i64,
    /// Alerts that people hear of: opened and not silenced, and those whose silence has ended.
    pub alerts_announced: i64,
    pub alerts_resolved: i64,
    /// Alerts that were one too many for a scan.
    pub alerts_suppressed: i64,
    /// Entities with rows that came late, which were judged again, and what that did to alerts.
    pub entities_replayed: i64,
    pub alerts_amended: i64,
    pub alerts_withdrawn: i64,
    pub entities: i64,
    pub entities_skipped: i64,
}

/// Scans a detector now and answers what came of it; in a session that is not its owner's, asks
/// the owner's worker to.
#[allow(clippy::type_complexity)]
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe, strict)]
fn scan(
    detector: &str,
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, String),
            name!(run_id, Option<i64>),
            name!(window_from, Option<TimestampWithTimeZone>),
            name!(window_until, Option<TimestampWithTimeZone>),
            name!(rows_read, Option<i64>),
            name!(points_scored, Option<i64>),
            name!(alerts_opened, Option<i64>),
            name!(alerts_resolved, Option<i64>),
        ),
    >,
    ErrorReport,
> {
    let row = DetectorRow::load_owned(detector)?;
    if let Some(reason) = run::paused()? {
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, reason)
            .set_hint("SELECT anomaly.resume()"));
    }
    if !row.runs_here() {
        queue_for_owner(&row)?;
        let queued = ("queued".to_owned(), None, None, None, None, None, None, None);
        return Ok(TableIterator::once(queued));
    }
    let run_id = run::begin(&row.detector, "scan", "scan")?;
    let done = execute(&row.detector, Some(run_id))?;
    run::succeed(run_id, &done)?;
    if done.alerts_announced > 0 {
        run::notify(run_id, done.alerts_announced)?;
    }
    let instant = |at: Option<i64>| at.map(sql::timestamptz).transpose();
    Ok(TableIterator::once((
        "succeeded".to_owned(),
        Some(run_id),
        instant(done.window_from)?,
        instant(done.window_until)?,
        Some(done.rows_read),
        Some(done.points_scored),
        Some(done.alerts_opened),
        Some(done.alerts_resolved),
    )))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.scan(text) IS
'judges the points of a detector since its last scan, now and in this transaction';"#,
    name = "scan_comment",
    requires = [scan]
);

/// Makes the detector due now, for the worker that connects as its owner.
fn queue_for_owner(row: &DetectorRow) -> SqlResult<()> {
    if !session::exists(row.owner) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the owner role of detector \"{}\" no longer exists", row.detector),
        )
        .set_hint(format!(
            "SELECT anomaly.drop_detector({}), and create it as another role",
            pgrx::spi::quote_literal(&row.detector)
        )));
    }
    if !worker::is_preloaded() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("detector \"{}\" runs its query only as its owner", row.detector),
        )
        .set_hint(
            "log in as the owner, or add anomaly_detection to shared_preload_libraries so that \
             a worker can run it",
        ));
    }
    let now = session::now();
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET next_due = $2 WHERE detector = $1",
            &[row.detector.as_str().into(), sql::timestamptz(now)?.into()],
        )
    })?;
    worker::notify_due(now);
    Ok(())
}

/// Takes the detector's lock for this transaction and reads the detector as it is then.
///
/// # Errors
/// 55006 when another session holds it.
pub fn lock(detector: &str) -> SqlResult<DetectorRow> {
    let try_lock = || {
        internal_rights::with(|| {
            sql::execute_returning(
                "SELECT 1 FROM anomaly.detector_state WHERE detector = $1 FOR UPDATE SKIP LOCKED",
                &[detector.into()],
                |_| Ok(()),
            )
        })
    };
    let mut locked = try_lock()?;
    // A session that only changes the row (asks for a scan, enables the detector) holds it for a
    // moment, which is no reason for a run to fail.
    for _ in 0..LOCK_TRIES {
        if !locked.is_empty() {
            break;
        }
        latch::wait(LOCK_PAUSE);
        locked = try_lock()?;
    }
    if locked.is_empty() {
        // Gone, or held.
        DetectorRow::load(detector)?;
        let by = match run::running(detector)? {
            Some((pid, since)) => format!("pid {pid}, since {since}"),
            None => "in a transaction that has not ended".to_owned(),
        };
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("detector \"{detector}\" is already running ({by})"),
        )
        .set_hint("wait for it to end; anomaly.progress shows how far it is"));
    }
    DetectorRow::load(detector)
}

/// Judges points and takes note of what comes of them.
pub struct Judging<'a> {
    pub core: &'a Detector,
    shared: &'a EntityState,
    pub book: AlertBook,
    /// Set while points of an entity are judged that may have been judged before: those that are
    /// earlier than the window are not counted again.
    pub again: bool,
    /// Whether the detector bounds the share of false alarms.
    bounds_share: bool,
    /// Where the window begins.
    from: i64,
    /// Whether the point at `from` itself belongs to the window.
    with_from: bool,
    points_scored: i64,
    anomalies: i64,
    /// Somebody wants to know how points of this time are judged.
    watched: Option<i64>,
}

impl Judging<'_> {
    pub fn judge(
        &mut self,
        entity: &str,
        state: &mut EntityState,
        arrival: &Arrival,
    ) -> SqlResult<()> {
        // Each point: one may make a model fit itself anew, which takes a good part of a second.
        pgrx::check_for_interrupts!();
        if self.again {
            self.book.end_by_hand(entity, state, arrival.at(), self.with_from);
        }
        let at = arrival.at();
        let witnessed = self.watched == Some(at)
            && witness::examine(self.core, entity, state, self.shared, arrival);
        let outcome = self.core.process_arrival(state, Some(self.shared), arrival);
        if witnessed {
            witness::note(state, &outcome);
        }
        if !self.again || at > self.from || at == self.from && self.with_from {
            self.points_scored += 1;
            self.anomalies += i64::from(outcome.verdict.is_anomaly);
        }
        self.book.note(self.core, entity, state, &outcome);
        if self.bounds_share {
            withhold::note(&mut self.book.judged, arrival, &outcome, state.episode.alert_id);
        }
        Ok(())
    }
}

/// Scans in the current transaction as the detector's owner: the work of the scan worker, of
/// `anomaly.scan` and of `anomaly.run_due`. A detector that was never trained is trained instead.
pub fn execute(detector: &str, run_id: Option<i64>) -> SqlResult<ScanSummary> {
    let began = Instant::now();
    let mut row = lock(detector)?;
    if row.needs_training {
        // Its settings were altered: the model becomes one of these, and then goes on.
        train::execute(&row)?;
        row = DetectorRow::load(detector)?;
    }
    let Some(model) = &row.model else {
        let trained = train::execute(&row)?;
        return Ok(ScanSummary {
            window_until: Some(row.settled_until),
            rows_read: trained.trained_rows,
            entities: trained.entities,
            ..ScanSummary::default()
        });
    };
    let from = row.watermark.unwrap_or(row.training_from);
    let until = row.settled_until.max(from);
    let mut summary = ScanSummary {
        window_from: Some(from),
        window_until: Some(until),
        ..ScanSummary::default()
    };
    if until == from && row.late_window == 0 {
        return Ok(summary);
    }

    // Until training has measured it, the rate of points is what the first window shows.
    let core = row.detection(model.points_per_day)?.with_ranges_of_anomalies_only();
    let shared = decode_shared(&core, detector, &model.payload)?;
    let memory = ScanMemory::begin();
    let mut states = EntityStates::load(&row, model.version)?;
    memory.check()?;
    let mut judging = Judging {
        core: &core,
        shared: &shared,
        book: AlertBook::default(),
        bounds_share: row.fdr.is_some(),
        from,
        again: false,
        with_from: row.sampling.bucket.is_some(),
        points_scored: 0,
        anomalies: 0,
        watched: witness::wanted_at(),
    };
    let mut presence = Presence::open(&row);
    let levels = judging.book.levels.clone();
    let mut late = LateWindow::open(&row, model.version, from, &mut states)?;
    let begin = match &mut late {
        Some(late) => late.look_back(&row, &core, model.version, &mut states, &mut judging.book)?,
        None => from,
    };
    let mut rows_judged = 0u64;
    let mut judge_all =
        |states: &mut EntityStates, batch: &mut Batch, late: &mut Option<LateWindow>| {
            if row.own.is_some() {
                batch.look(&mut |position, points| {
                    let state = states.at(&row.detector, &core, position)?.1;
                    state.model.announce(&mut points.into_iter());
                    Ok(())
                })?;
            }
            batch.drain(states.len(), &mut |position, reading, features| {
                rows_judged += 1;
                if rows_judged.is_multiple_of(TICK_ROWS) {
                    worker::progress_report(rows_judged as i64);
                }
                memory.check()?;
                let (name, state) = states.at(&row.detector, &core, position)?;
                if let Some(late) = late {
                    judging.again = late.replays(position);
                    let next = Some(reading);
                    late.pass_checkpoints(&row, position, name, state, next, &mut judging)?;
                }
                row.sampling.arrive(state, reading, features, &mut |state, arrival| {
                    judging.judge(name, state, &arrival)
                })
            })
        };
    let mut rows_read = 0u64;
    let mut entity = Vec::new();
    let mut batch = Batch::default();
    let mut features = row.new_features();
    read_points(&row, begin, until, &mut |read| {
        let reading = row.sampling.read(read);
        let past = late.as_ref().zip(reading.as_ref()).is_some_and(|(late, r)| late.is_past(r));
        if !past {
            rows_read += 1;
            if rows_read.is_multiple_of(TICK_ROWS) {
                pgrx::check_for_interrupts!();
            }
        }
        let Some(reading) = reading.filter(|r| r.value.is_some()) else {
            return Ok(());
        };
        // A row without entity belongs to the entity with the empty name.
        entity.clear();
        read.with_bytes(2, |name| entity.extend_from_slice(name));
        let position =
            if past { states.position_if_room(&entity) } else { states.position(&entity) };
        let Some(position) = position? else { return Ok(()) };
        if let Some(presence) = &mut presence {
            presence.note(position, reading.at);
        }
        features.read(read, |code, level| levels.borrow_mut().note(code, level));
        if let Some(late) = &mut late {
            if past && !late.replays(position) {
                return Ok(());
            }
            late.take(position, &reading, &features.values);
        }
        if batch.push(position, reading, &features.values) && row.runs_between_rows() {
            judge_all(&mut states, &mut batch, &mut late)?;
        }
        Ok(())
    })?;
    judge_all(&mut states, &mut batch, &mut late)?;
    if let Some(late) = &mut late {
        late.pass_rest(&row, &mut states, &mut judging)?;
    }
    if row.sampling.fills_silence() {
        judging.again = late.is_some();
        states.for_each(&row.detector, &core, &mut |name, state| {
            row.sampling
                .pass(state, until, &mut |state, arrival| judging.judge(name, state, &arrival))
        })?;
    }
    let (entities_replayed, points_late) = late.as_ref().map_or((0, 0), LateWindow::replayed);
    let Judging { book, points_scored, anomalies, .. } = judging;
    summary.rows_read = rows_read as i64;
    summary.points_scored = points_scored + points_late.max(0);
    summary.entities = states.len() as i64;
    summary.entities_skipped = states.skipped().0 as i64;
    summary.entities_replayed = entities_replayed;

    let stored = finish(&row, &core, &mut states, book, model.version, run_id)?;
    summary.alerts_opened = stored.opened.len() as i64;
    summary.alerts_announced = stored.announced;
    summary.alerts_resolved = stored.resolved;
    summary.alerts_suppressed = stored.suppressed;
    summary.alerts_amended = stored.amended;
    summary.alerts_withdrawn = stored.withdrawn;
    if let Some(presence) = presence {
        let missed = presence.store(&row, &states, until, run_id)?;
        summary.alerts_opened += missed.opened;
        summary.alerts_announced += missed.announced;
        summary.alerts_resolved += missed.resolved;
    }
    if let Some(late) = late {
        late.store(&row, &core, model.version, until, &states, &stored)?;
    }
    internal_rights::with(|| {
        sql::execute(
            "UPDATE anomaly.detector_state SET watermark = $2, \
                points_processed = points_processed + $3, \
                anomalies_detected = anomalies_detected + $4, entities_skipped = $5, \
                detection_times = $6, alerts_suppressed = $7 \
             WHERE detector = $1",
            &[
                detector.into(),
                sql::timestamptz(until)?.into(),
                (points_scored + points_late).into(),
                anomalies.into(),
                summary.entities_skipped.into(),
                durations(&row, summary.points_scored, began).into(),
                summary.alerts_suppressed.into(),
            ],
        )
    })?;
    if row.status == "warming" {
        train::leave_warming(&row, until)?;
    } else if row.retraining_due {
        train::on_schedule(detector)?;
    }
    Ok(summary)
}

/// How long detections took, with these, as it is stored.
pub fn durations(row: &DetectorRow, points: i64, began: Instant) -> Vec<f64> {
    let mut durations = row.durations.clone();
    durations.add(points.max(0) as u64, began.elapsed().as_secs_f64() * 1e3);
    durations.to_array()
}

/// Judges one point; whether it was anomalous, `None` when its entity is not modelled.
pub fn judge(
    row: &DetectorRow,
    core: &Detector,
    shared: Option<&EntityState>,
    states: &mut EntityStates,
    book: &mut AlertBook,
    entity: &[u8],
    point: Point,
) -> SqlResult<Option<bool>> {
    let Some((entity, state)) = states.get(&row.detector, core, entity)? else { return Ok(None) };
    let outcome = core.process(state, shared, &point);
    book.note(core, entity, state, &outcome);
    Ok(Some(outcome.verdict.is_anomaly))
}

/// Writes alerts, then states, because states carry the ids of their alerts.
pub fn finish(
    row: &DetectorRow,
    core: &Detector,
    states: &mut EntityStates,
    book: AlertBook,
    version: i32,
    run_id: Option<i64>,
) -> SqlResult<StoredAlerts> {
    let stored = book.store(row, states, version, run_id)?;
    states.save(&row.detector, core, version)?;
    Ok(stored)
}

/// Reads the points of (from, until] in the order of time: as the caller from tables and queries,
/// with fixed SQL from collected samples. Of buckets, those that begin in [from, until).
pub fn read_points(
    row: &DetectorRow,
    from: i64,
    until: i64,
    each: &mut dyn FnMut(&stream::Row) -> SqlResult<()>,
) -> SqlResult<()> {
    match &row.feed {
        Feed::Relation { .. } | Feed::Query { .. } => {
            let Some((source, columns)) = row.source()? else { return Ok(()) };
            let query = read_query(&source, columns, &row.sampling, &row.time_zone)?;
            read_source(&query, &row.sampling, from, until, each)
        }
        Feed::Samples | Feed::Points { .. } => {
            // Few slots named keep the planner from looking at all of the ring.
            let (first, last) = (from.div_euclid(DAY as i64), until.div_euclid(DAY as i64));
            let slots = if last - first < i64::from(SAMPLE_SLOTS) - 1 {
                let slots: Vec<String> =
                    (first..=last).map(|day| sample_slot(day).to_string()).collect();
                format!("AND slot IN ({})", slots.join(", "))
            } else {
                String::new()
            };
            let features: String = (4..)
                .zip(row.features())
                .map(|(i, _)| format!(", (features ->> ${i})::float8"))
                .collect();
            let query = format!(
                "SELECT at, value, entity, NULL::float8{features} FROM anomaly.sample \
                 WHERE owner = {}::oid AND metric = $3 AND at > $1 AND at <= $2 {slots} ORDER BY at",
                row.owner.to_u32()
            );
            let mut params = vec![
                stream::Param::TimestampTz(Some(from)),
                stream::Param::TimestampTz(Some(until)),
                stream::Param::Text(&row.metric_name),
            ];
            params.extend(row.features().iter().map(|name| stream::Param::Text(name)));
            internal_rights::with(|| stream::for_each_row(&query, &params, each))
        }
    }
}

/// Reads the points of (from, until] by a query of [`read_query`]. Of buckets, those that begin in
/// [from, until).
pub fn read_source(
    query: &str,
    sampling: &Sampling,
    from: i64,
    until: i64,
    each: &mut dyn FnMut(&stream::Row) -> SqlResult<()>,
) -> SqlResult<()> {
    let Some(bucket) = &sampling.bucket else {
        let bounds = [from, until].map(|at| stream::Param::TimestampTz(Some(at)));
        return stream::for_each_row(query, &bounds, each);
    };
    let (first, end) = (bucket.first_from(from), bucket.first_from(until));
    let bounds = [
        bucket.start(first).saturating_sub(bucket.slack()),
        bucket.start(end).saturating_add(bucket.slack()),
    ];
    let bounds = bounds.map(|at| stream::Param::TimestampTz(Some(at)));
    stream::for_each_row(query, &bounds, &mut |read| match read
        .int8(0)
        .map(|bin| bucket.index_of_bin(bin))
    {
        Some(index) if (first..end).contains(&index) => each(read),
        _ => Ok(()),
    })
}

/// Slots of the ring of `anomaly.sample`, one a day.
pub const SAMPLE_SLOTS: i16 = 32;

/// The slot of a day, counted from 2000-01-01.
pub fn sample_slot(day: i64) -> i16 {
    day.rem_euclid(i64::from(SAMPLE_SLOTS)) as i16
}
