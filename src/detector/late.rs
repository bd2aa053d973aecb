//! Rows that arrive after the scan has passed their time, and corrected ones: they are judged as if they
//! had been there in time. DESIGN.md, "Late rows", says how.

use anomaly_core::{Detector, EntityState, digest::Digest};

use crate::{
    detector::{
        alerts::{AlertBook, StoredAlerts},
        catalog::DetectorRow,
        sampling::Reading,
        scan::{Judging, read_points},
        states::EntityStates,
    },
    error::{SqlResult, from_core},
    pg::{internal_rights, stream},
    sql, worker,
};

/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4096;
/// Rows per statement when digests and checkpoints are written.
const WRITE_BATCH: usize = 1000;

/// One entity's part of the window.
#[derive(Clone, Default)]
struct Series {
    /// By checkpoint, of the points between it and the next: as earlier scans have judged them, and
    /// with what this scan judges.
    seen: Vec<Digest>,
    now: Vec<Digest>,
    /// How many checkpoints it has passed, while it is replayed.
    replayed: Option<usize>,
}

/// The state of a replayed entity where it passed a checkpoint.
struct Passed {
    position: usize,
    at: i64,
    payload: Vec<u8>,
    /// As [`AlertBook::note`] has it; real ids are known when alerts are stored.
    alert_id: i64,
    metadata: Option<String>,
}

/// The rows that a scan reads again: from the oldest checkpoint to the watermark.
pub struct LateWindow {
    length: i64,
    watermark: i64,
    /// Their times, the oldest first; never empty.
    checkpoints: Vec<i64>,
    /// By position of the entity.
    series: Vec<Series>,
    passed: Vec<Passed>,
    /// Points of replayed entities before the watermark.
    points_again: i64,
}

impl LateWindow {
    /// `None` for a detector that does not look back. Before the first scan of a model version, what
    /// is stored becomes its first checkpoint: states are as they were at the watermark.
    pub fn open(
        row: &DetectorRow,
        version: i32,
        watermark: i64,
        states: &mut EntityStates,
    ) -> SqlResult<Option<Self>> {
        if row.late_window <= 0 {
            return Ok(None);
        }
        let mut window = LateWindow {
            length: row.late_window,
            watermark,
            checkpoints: Vec::new(),
            series: Vec::new(),
            passed: Vec::new(),
            points_again: 0,
        };
        let mut seen = Vec::new();
        internal_rights::with(|| {
            stream::for_each_row(
                "SELECT at, entity, points, digest FROM anomaly.checkpoint \
                 WHERE detector = $1 AND version = $2::int ORDER BY at",
                &[stream::Param::Text(&row.detector), stream::Param::Int8(version.into())],
                &mut |stored| {
                    let at = stored.int8(0).unwrap_or_default();
                    if window.checkpoints.last() != Some(&at) {
                        window.checkpoints.push(at);
                    }
                    let digest = Digest {
                        points: stored.int8(2).unwrap_or_default() as u64,
                        sum: stored.int8(3).unwrap_or_default() as u64,
                    };
                    seen.push((
                        stored.text(1).unwrap_or_default(),
                        window.checkpoints.len() - 1,
                        digest,
                    ));
                    Ok(())
                },
            )
        })?;
        if window.checkpoints.is_empty() {
            keep_checkpoint(row, version, watermark)?;
            window.checkpoints.push(watermark);
        }
        for (entity, checkpoint, digest) in seen {
            // An entity has a state wherever it has a checkpoint, unless max_entities has been lowered.
            if let Some(position) = states.position_if_room(entity.as_bytes())? {
                let series = window.at(position);
                series.seen[checkpoint] = digest;
                series.now[checkpoint] = digest;
            }
        }
        Ok(Some(window))
    }

    /// Compares what is there with what was seen, and puts the entities in which they differ back to
    /// the oldest checkpoint. Answers from when on points have to be read.
    pub fn look_back(
        &mut self,
        row: &DetectorRow,
        core: &Detector,
        version: i32,
        states: &mut EntityStates,
        book: &mut AlertBook,
    ) -> SqlResult<i64> {
        let begin = self.checkpoints[0];
        if begin >= self.watermark {
            return Ok(self.watermark);
        }
        for series in &mut self.series {
            series.now.fill(Digest::default());
        }
        let mut rows = 0u64;
        let mut entity = Vec::new();
        let mut features = row.new_features();
        read_points(row, begin, self.watermark, &mut |read| {
            rows += 1;
            if rows.is_multiple_of(TICK_ROWS) {
                pgrx::check_for_interrupts!();
                worker::progress_report(rows as i64);
            }
            let Some(reading) = row.sampling.read(read).filter(|r| r.value.is_some()) else {
                return Ok(());
            };
            entity.clear();
            read.with_bytes(2, |name| entity.extend_from_slice(name));
            // Points of entities that are not modelled are counted when they are new.
            if let Some(position) = states.position_if_room(&entity)? {
                features.read(read, |_, _| {});
                self.note(position, &reading, &features.values);
            }
            Ok(())
        })?;
        let changed: Vec<usize> =
            (0..self.series.len()).filter(|&p| self.series[p].seen != self.series[p].now).collect();
        // What stands for the points that are not read again is what was seen of them.
        let checkpoints = self.checkpoints.len();
        for series in &mut self.series {
            series.now.clone_from(&series.seen);
        }
        if changed.is_empty() {
            return Ok(self.watermark);
        }
        for &position in &changed {
            let series = &mut self.series[position];
            series.replayed = Some(1);
            series.now = vec![Digest::default(); checkpoints];
        }
        self.restore(row, core, version, &changed, states, book)?;
        Ok(begin)
    }

    /// States as they were at the oldest checkpoint, and the alerts that have to be looked at again.
    fn restore(
        &self,
        row: &DetectorRow,
        core: &Detector,
        version: i32,
        changed: &[usize],
        states: &mut EntityStates,
        book: &mut AlertBook,
    ) -> SqlResult<()> {
        let begin = self.checkpoints[0];
        let names: Vec<String> = changed.iter().map(|&p| states.name(p).to_owned()).collect();
        let stored = internal_rights::with(|| {
            sql::rows(
                "SELECT c.payload, c.metadata::text \
                   FROM unnest($4::text[]) WITH ORDINALITY AS n (entity, place) \
                   LEFT JOIN anomaly.checkpoint c ON c.detector = $1 AND c.version = $2 \
                    AND c.at = $3 AND c.entity = n.entity ORDER BY n.place",
                &[
                    row.detector.as_str().into(),
                    version.into(),
                    sql::timestamptz(begin)?.into(),
                    names.clone().into(),
                ],
                |r| Ok((r.get::<Vec<u8>>(1)?, r.get::<String>(2)?)),
            )
        })?;
        for (&position, (payload, metadata)) in changed.iter().zip(stored) {
            states.put_back(position, payload.unwrap_or_default());
            let (name, state) = states.at(&row.detector, core, position)?;
            let episode = state.episode;
            if episode.latest_alert() <= 0 {
                continue;
            }
            match episode.cooling {
                Some(ended) => {
                    book.resume(core, name, &ended.episode(), Some(ended.ended_at), metadata);
                }
                None => book.resume(core, name, &episode, None, metadata),
            }
        }
        book.reconsider(row, begin, &names)
    }

    /// Whether the point lies in the part that earlier scans have judged.
    pub fn is_past(&self, reading: &Reading) -> bool {
        is_before(reading, self.watermark)
    }

    /// Whether the entity is judged from the oldest checkpoint on.
    pub fn replays(&self, position: usize) -> bool {
        self.series.get(position).is_some_and(|s| s.replayed.is_some())
    }

    /// Takes note of a point that is judged.
    pub fn take(&mut self, position: usize, reading: &Reading, features: &[f64]) {
        self.points_again += i64::from(self.is_past(reading));
        self.note(position, reading, features);
    }

    fn note(&mut self, position: usize, reading: &Reading, features: &[f64]) {
        let Some(point) = reading.point(features) else { return };
        let after =
            self.checkpoints.iter().rposition(|&at| !is_before(reading, at)).unwrap_or_default();
        self.at(position).now[after].add(&point);
    }

    fn at(&mut self, position: usize) -> &mut Series {
        if self.series.len() <= position {
            self.series.resize(position + 1, Series::default());
        }
        let series = &mut self.series[position];
        series.seen.resize(self.checkpoints.len(), Digest::default());
        series.now.resize(self.checkpoints.len(), Digest::default());
        series
    }

    /// A replayed entity is about to take in a point, or has none left: checkpoints that it passes
    /// are made anew.
    pub fn pass_checkpoints(
        &mut self,
        row: &DetectorRow,
        position: usize,
        name: &str,
        state: &mut EntityState,
        next: Option<&Reading>,
        judging: &mut Judging,
    ) -> SqlResult<()> {
        let Some(series) = self.series.get_mut(position) else { return Ok(()) };
        let Some(reached) = &mut series.replayed else { return Ok(()) };
        while let Some(&at) = self.checkpoints.get(*reached)
            && next.is_none_or(|reading| !is_before(reading, at))
        {
            *reached += 1;
            row.sampling
                .pass(state, at, &mut |state, arrival| judging.judge(name, state, &arrival))?;
            let alert_id = state.episode.latest_alert();
            self.passed.push(Passed {
                position,
                at,
                payload: judging.core.encode_state(state).map_err(from_core)?,
                alert_id,
                metadata: judging.book.metadata(alert_id),
            });
        }
        Ok(())
    }

    /// All points are judged: the replayed entities pass what checkpoints are left.
    pub fn pass_rest(
        &mut self,
        row: &DetectorRow,
        states: &mut EntityStates,
        judging: &mut Judging,
    ) -> SqlResult<()> {
        for position in 0..self.series.len() {
            if self.replays(position) {
                judging.again = true;
                let (name, state) = states.at(&row.detector, judging.core, position)?;
                self.pass_checkpoints(row, position, name, state, None, judging)?;
            }
        }
        Ok(())
    }

    /// Entities that were judged again, and how many more points of theirs there are than before.
    pub fn replayed(&self) -> (i64, i64) {
        let replayed = || self.series.iter().filter(|s| s.replayed.is_some());
        let before: u64 = replayed().flat_map(|s| &s.seen).map(|digest| digest.points).sum();
        (replayed().count() as i64, self.points_again - before as i64)
    }

    /// Writes what was seen, and a new checkpoint when the window has moved on by its length. Alerts
    /// and states are stored.
    pub fn store(
        self,
        row: &DetectorRow,
        core: &Detector,
        version: i32,
        until: i64,
        states: &EntityStates,
        alerts: &StoredAlerts,
    ) -> SqlResult<()> {
        self.store_digests(row, version, states)?;
        self.store_passed(row, core, version, states, alerts)?;
        let newest = self.checkpoints.last().copied().unwrap_or(i64::MIN);
        if until.saturating_sub(newest) >= self.length {
            keep_checkpoint(row, version, until)?;
        }
        // The next scan looks back to the last one that is as old as the window is long.
        internal_rights::with(|| {
            sql::execute(
                "DELETE FROM anomaly.checkpoint WHERE detector = $1 AND (version <> $2 OR at < \
                    (SELECT max(at) FROM anomaly.checkpoint \
                      WHERE detector = $1 AND version = $2 AND at <= $3))",
                &[
                    row.detector.as_str().into(),
                    version.into(),
                    sql::timestamptz(until.saturating_sub(self.length))?.into(),
                ],
            )
        })?;
        Ok(())
    }

    fn store_digests(
        &self,
        row: &DetectorRow,
        version: i32,
        states: &EntityStates,
    ) -> SqlResult<()> {
        let changed = self.series.iter().enumerate().flat_map(|(position, series)| {
            let differ = |i: &usize| series.seen[*i] != series.now[*i];
            (0..series.now.len()).filter(differ).map(move |i| (position, i, series.now[i]))
        });
        let changed: Vec<(usize, usize, Digest)> = changed.collect();
        for batch in changed.chunks(WRITE_BATCH) {
            let times = batch
                .iter()
                .map(|(_, i, _)| sql::timestamptz(self.checkpoints[*i]))
                .collect::<SqlResult<Vec<_>>>()?;
            let entities: Vec<&str> = batch.iter().map(|(p, ..)| states.name(*p)).collect();
            let points: Vec<i64> = batch.iter().map(|(.., d)| d.points as i64).collect();
            let sums: Vec<i64> = batch.iter().map(|(.., d)| d.sum as i64).collect();
            internal_rights::with(|| {
                sql::execute(
                    "INSERT INTO anomaly.checkpoint (detector, version, at, entity, points, digest) \
                     SELECT $1, $2, n.* FROM unnest($3::timestamptz[], $4::text[], $5::bigint[], \
                            $6::bigint[]) AS n \
                     ON CONFLICT (detector, version, at, entity) \
                     DO UPDATE SET points = EXCLUDED.points, digest = EXCLUDED.digest",
                    &[
                        row.detector.as_str().into(),
                        version.into(),
                        times.into(),
                        entities.into(),
                        points.into(),
                        sums.into(),
                    ],
                )
            })?;
        }
        Ok(())
    }

    fn store_passed(
        &self,
        row: &DetectorRow,
        core: &Detector,
        version: i32,
        states: &EntityStates,
        alerts: &StoredAlerts,
    ) -> SqlResult<()> {
        for batch in self.passed.chunks(WRITE_BATCH) {
            let mut times = Vec::with_capacity(batch.len());
            let mut entities = Vec::with_capacity(batch.len());
            let mut payloads = Vec::with_capacity(batch.len());
            let mut metadata = Vec::with_capacity(batch.len());
            for passed in batch {
                times.push(sql::timestamptz(passed.at)?);
                entities.push(states.name(passed.position));
                payloads.push(match alerts.id_of(passed.alert_id) {
                    id if id == passed.alert_id => passed.payload.clone(),
                    _ => {
                        let mut state = core.decode_state(&passed.payload).map_err(from_core)?;
                        state.episode.renumber(|id| alerts.id_of(id));
                        core.encode_state(&state).map_err(from_core)?
                    }
                });
                metadata.push(passed.metadata.as_deref());
            }
            internal_rights::with(|| {
                sql::execute(
                    "INSERT INTO anomaly.checkpoint (detector, version, at, entity, payload, metadata) \
                     SELECT $1, $2, n.at, n.entity, n.payload, n.metadata::jsonb \
                       FROM unnest($3::timestamptz[], $4::text[], $5::bytea[], $6::text[]) \
                         AS n (at, entity, payload, metadata) \
                     ON CONFLICT (detector, version, at, entity) \
                     DO UPDATE SET payload = EXCLUDED.payload, metadata = EXCLUDED.metadata",
                    &[
                        row.detector.as_str().into(),
                        version.into(),
                        times.into(),
                        entities.into(),
                        payloads.into(),
                        metadata.into(),
                    ],
                )
            })?;
        }
        Ok(())
    }
}

/// Whether a point belongs to a window that ends at `end`. Rows belong to the window that ends at their
/// time, buckets to the one in which they begin.
fn is_before(reading: &Reading, end: i64) -> bool {
    if reading.index.is_some() { reading.at < end } else { reading.at <= end }
}

/// Copies the states that are stored, which are those at `at`.
fn keep_checkpoint(row: &DetectorRow, version: i32, at: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.checkpoint (detector, version, at, entity, payload, metadata) \
             SELECT s.detector, s.version, $3, s.entity, s.payload, a.metadata \
               FROM anomaly.entity_state s LEFT JOIN ( \
                    SELECT DISTINCT ON (entity) entity, metadata FROM anomaly.alert \
                     WHERE detector = $1 AND kind = 'anomaly' AND (status IN ('open', 'acknowledged') \
                        OR $4 > 0 AND status = 'resolved' \
                           AND resolved_at >= $3 - $4 * interval '1 microsecond') \
                     ORDER BY entity, alert_id DESC) a USING (entity) \
              WHERE s.detector = $1 AND s.version = $2",
            &[
                row.detector.as_str().into(),
                version.into(),
                sql::timestamptz(at)?.into(),
                row.cool_down.into(),
            ],
        )
    })?;
    Ok(())
}
