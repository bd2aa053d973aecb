//! From the transitions of episodes to rows of `anomaly.alert`: one row per episode.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use anomaly_core::{
    Detector, EntityState, Episode, FLAPPING, Outcome, Phase, Severity, Transition, Verdict,
    incident::Span,
};
use pgrx::{JsonB, PgSqlErrorCode, datum::ToIsoString, pg_sys};
use serde_json::{Map, Value, json};

use crate::{
    detector::{
        catalog::{DetectorRow, is_admin, may_see_all},
        incidents::{self, Inhibitors, New},
        silence::Silences,
        states::EntityStates,
        withhold::{self, Withholding},
    },
    error::{SqlResult, report},
    gucs,
    handler::outbox::{self, Told},
    pg::{internal_rights, session},
    sql,
};

/// Alerts per statement.
const BATCH: usize = 1000;

/// What one run does to one alert. The texts are those of the most deviating point, `None` while
/// an alert that was stored earlier has not become more deviating.
struct Draft {
    stored_id: Option<i64>,
    /// The stored row says what came of points that are judged again: all of it is written anew.
    amends: bool,
    entity: String,
    /// Time of the point that opened it, or that changed it first.
    since: i64,
    episode: Episode,
    resolved_at: Option<i64>,
    /// It had ended and was opened again.
    reopens: bool,
    /// The calendar because of which nobody is told of it.
    silenced_by: Option<i64>,
    /// The alert of a detector that this one depends on, because of which nobody is told.
    inhibited_by: Option<i64>,
    /// Of one that is new.
    incident: Option<i64>,
    /// It was flapping and has stayed quiet since.
    settled: bool,
    /// One alert more than a scan may open: not stored. If its episode goes on, the next scan opens it.
    suppressed: bool,
    /// What handlers are to hear of it, in order, and when it happened.
    told: Vec<(&'static str, i64)>,
    texts: Option<Texts>,
}

/// What levels of categories are called, by their codes, for the alerts of a scan.
#[derive(Default)]
pub struct LevelNames(HashMap<u64, String>);

/// Levels whose names are kept.
const MAX_LEVELS: usize = 65_536;
/// Characters of the name of a level.
const MAX_NAME: usize = 100;

impl LevelNames {
    pub fn note(&mut self, code: f64, level: &[u8]) {
        if self.0.len() < MAX_LEVELS {
            let name = || String::from_utf8_lossy(level).chars().take(MAX_NAME).collect();
            self.0.entry(code.to_bits()).or_insert_with(name);
        }
    }

    /// Puts names in the place of codes.
    fn name(&self, metadata: &mut Map<String, Value>) {
        let Some(Value::Array(features)) = metadata.get_mut("features") else { return };
        for feature in features.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(code) = feature.remove("level") {
                let name = code.as_f64().and_then(|code| self.0.get(&code.to_bits()));
                feature.insert("value".into(), name.map_or(Value::Null, |n| n.as_str().into()));
            }
        }
    }
}

impl Draft {
    /// `since`: time of the point that opens or changes it.
    fn new(stored_id: Option<i64>, entity: &str, since: i64, episode: Episode) -> Self {
        Draft {
            stored_id,
            amends: false,
            entity: entity.to_owned(),
            since,
            episode,
            resolved_at: None,
            reopens: false,
            silenced_by: None,
            inhibited_by: None,
            incident: None,
            settled: false,
            suppressed: false,
            told: Vec::new(),
            texts: None,
        }
    }

    /// What handlers have to hear of a stored alert that is amended: by what it says that it did not say
    /// before.
    fn told_since(&self, before: &Before) -> Vec<(&'static str, i64)> {
        let mut told = Vec::new();
        if before.by_hand && before.status != "withdrawn" {
            return told;
        }
        let heard = !self.is_flapping();
        let is_open = self.resolved_at.is_none() && !before.by_hand;
        let was_open = matches!(before.status.as_str(), "open" | "acknowledged");
        if before.status == "withdrawn" || is_open && !was_open && heard {
            told.push(("reopened", self.episode.last_at));
        }
        if is_open && was_open && self.episode.peak.severity() > before.severity {
            told.push(("escalated", self.episode.peak.at));
        }
        let ends = was_open || before.status == "withdrawn" || before.flapping;
        if let Some(at) = self.resolved_at
            && ends
            && heard
        {
            told.push(("resolved", at));
        }
        told
    }

    fn is_flapping(&self) -> bool {
        self.episode.reopened >= FLAPPING && !self.settled
    }
}

/// What an alert says about the peak of its episode.
struct Texts {
    description: String,
    suggestion: &'static str,
    /// JSON: numbers that are read from the catalogue and written again keep every digit.
    metadata: String,
}

impl Texts {
    fn new(core: &Detector, episode: &Episode, metadata: String) -> Self {
        let peak = Verdict::from(&episode.peak);
        let figures = serde_json::from_str(&metadata).unwrap_or_default();
        Texts {
            description: core.description_with(&peak, &figures),
            suggestion: core.suggestion(&peak),
            metadata,
        }
    }
}

/// A stored alert of points that are judged again.
struct Earlier {
    alert_id: i64,
    at: i64,
    last_at: i64,
    status: String,
    points: i64,
    peak_at: i64,
    value: Option<f64>,
    /// Somebody resolved it: when, and up to where the detector had judged.
    by_hand: Option<(i64, i64)>,
}

impl Earlier {
    fn is_withdrawn(&self) -> bool {
        self.status == "withdrawn"
    }

    /// Whether the draft says something else about the episode.
    fn differs(&self, draft: &Draft) -> bool {
        let episode = &draft.episode;
        let ended = self.status == "resolved";
        self.is_withdrawn()
            || ended != draft.resolved_at.is_some()
            || (self.at, self.last_at, self.points, self.peak_at)
                != (episode.started_at, episode.last_at, episode.points as i64, episode.peak.at)
            || self.value.is_some_and(|value| value != episode.peak.value)
    }
}

/// What a stored alert said before it is written again.
struct Before {
    status: String,
    severity: Severity,
    flapping: bool,
    by_hand: bool,
}

/// The alerts that one run opens, changes and resolves, stored at its end.
#[derive(Default)]
pub struct AlertBook {
    drafts: Vec<Draft>,
    stored: HashMap<i64, usize>,
    /// Stored earlier and flapping until now.
    settled: Vec<(i64, i64)>,
    /// By entity, those that points after some time raised which are judged again.
    reconsidered: HashMap<String, Vec<Earlier>>,
    /// Filled by who reads the rows.
    pub levels: Rc<RefCell<LevelNames>>,
    /// Filled where the share of false alarms is bounded.
    pub judged: withhold::Judged,
}

/// What `AlertBook::store` did.
#[derive(Debug, Default, Clone)]
pub struct StoredAlerts {
    pub opened: Vec<i64>,
    /// How many people are to hear of: opened and not silenced, and those whose silence has ended.
    pub announced: i64,
    pub resolved: i64,
    /// More than a scan may open: counted and not stored.
    pub suppressed: i64,
    /// Stored earlier and changed now.
    pub changed: Vec<i64>,
    /// Of points that were judged again: alerts that say something else now, and those that nothing
    /// is left of.
    pub amended: i64,
    pub withdrawn: i64,
    /// By place in the book.
    ids: Vec<i64>,
}

impl StoredAlerts {
    /// The id of an alert that [`AlertBook::note`] gave a provisional one, any other as it is.
    pub fn id_of(&self, alert_id: i64) -> i64 {
        match usize::try_from(-(alert_id + 1)) {
            Ok(place) => self.ids.get(place).copied().unwrap_or(alert_id),
            Err(_) => alert_id,
        }
    }
}

impl AlertBook {
    /// Takes note of what a point did. An alert that is not stored yet has the negative of its
    /// place here as `alert_id` until `store` knows the real one.
    pub fn note(
        &mut self,
        core: &Detector,
        entity: &str,
        state: &mut EntityState,
        outcome: &Outcome,
    ) {
        if let Some(alert_id) = outcome.settled {
            match self.place(alert_id) {
                Some(place) => {
                    let draft = &mut self.drafts[place];
                    draft.settled = true;
                    draft.told.push(("resolved", outcome.verdict.at));
                }
                None => self.settled.push((alert_id, outcome.verdict.at)),
            }
        }
        let Some(transition) = &outcome.transition else { return };
        let episode = *transition.episode();
        let since = outcome.verdict.at;
        let place = match (episode.alert_id, self.place(episode.alert_id)) {
            (_, Some(place)) => place,
            (id, None) => {
                let stored_id = (id > 0).then_some(id);
                let mut draft = Draft::new(stored_id, entity, since, episode);
                let place = self.drafts.len();
                match stored_id {
                    Some(id) => {
                        self.stored.insert(id, place);
                    }
                    None => {
                        if !matches!(transition, Transition::Opened(_)) {
                            // An episode whose alert was one too many for the scan that saw it begin.
                            draft.texts = Some(Texts::new(core, &episode, "{}".to_owned()));
                            draft.told.push(("opened", since));
                        }
                        give_place(state, transition, -(place as i64) - 1);
                    }
                }
                self.drafts.push(draft);
                place
            }
        };
        let draft = &mut self.drafts[place];
        draft.episode = episode;
        // Of an alert that flaps, handlers hear when it has begun to and when it has stayed quiet.
        match transition {
            Transition::Resolved(_) => {
                draft.resolved_at = Some(since);
                if episode.reopened < FLAPPING {
                    draft.told.push(("resolved", since));
                }
            }
            Transition::Reopened(_) => {
                draft.resolved_at = None;
                draft.reopens = true;
                if episode.reopened <= FLAPPING {
                    draft.told.push(("reopened", since));
                }
            }
            Transition::Opened(_) => draft.told.push(("opened", since)),
            Transition::Escalated(_) => draft.told.push(("escalated", since)),
            Transition::Updated(_) => {}
        }
        if let Some(metadata) = &outcome.metadata {
            let mut metadata = metadata.clone();
            self.levels.borrow().name(&mut metadata);
            let metadata = Value::Object(metadata).to_string();
            draft.texts = Some(Texts::new(core, &episode, metadata));
        }
    }

    /// Where the book has an alert, by the `alert_id` of its episode.
    fn place(&self, alert_id: i64) -> Option<usize> {
        match alert_id {
            0 => None,
            id if id < 0 => usize::try_from(-(id + 1)).ok().filter(|p| *p < self.drafts.len()),
            id => self.stored.get(&id).copied(),
        }
    }

    /// An entity goes on from an earlier state, in which this episode was open, or had ended at
    /// `resolved_at` and might be opened again: its alert becomes what it was then, and what follows
    /// changes it again.
    pub fn resume(
        &mut self,
        core: &Detector,
        entity: &str,
        episode: &Episode,
        resolved_at: Option<i64>,
        metadata: Option<String>,
    ) {
        self.stored.insert(episode.alert_id, self.drafts.len());
        self.drafts.push(Draft {
            amends: true,
            resolved_at,
            texts: metadata.map(|metadata| Texts::new(core, episode, metadata)),
            ..Draft::new(Some(episode.alert_id), entity, episode.started_at, *episode)
        });
    }

    /// The points after `begin` of these entities are judged again: of the alerts that they raised,
    /// those that they raise again are amended, and the others withdrawn.
    pub fn reconsider(
        &mut self,
        row: &DetectorRow,
        begin: i64,
        entities: &[String],
    ) -> SqlResult<()> {
        let found = internal_rights::with(|| {
            sql::rows(
                "SELECT a.entity, a.alert_id, a.at, a.last_at, a.status, a.points::bigint, a.peak_at, \
                    a.value, a.resolved_at, a.closed_through \
                   FROM anomaly.alert a JOIN anomaly.detector d USING (detector) \
                  WHERE detector = $1 AND a.owner = $2::oid AND a.raised_at >= d.created_at \
                    AND a.kind = 'anomaly' AND a.entity = ANY ($3) AND (a.last_at > $4 OR $5 AND a.last_at = $4 OR a.closed_through > $4) \
                  ORDER BY a.alert_id",
                &[
                    row.detector.as_str().into(),
                    row.owner.into(),
                    entities.to_vec().into(),
                    sql::timestamptz(begin)?.into(),
                    row.sampling.bucket.is_some().into(),
                ],
                |r| {
                    let earlier = Earlier {
                        alert_id: r.must(2)?,
                        at: r.micros(3)?.unwrap_or_default(),
                        last_at: r.micros(4)?.unwrap_or_default(),
                        status: r.must(5)?,
                        points: r.must(6)?,
                        peak_at: r.micros(7)?.unwrap_or_default(),
                        value: r.get(8)?,
                        by_hand: r.micros(9)?.zip(r.micros(10)?),
                    };
                    Ok((r.must::<String>(1)?, earlier))
                },
            )
        })?;
        for (entity, earlier) in found {
            self.reconsidered.entry(entity).or_default().push(earlier);
        }
        Ok(())
    }

    /// An entity that is judged again comes to where somebody resolved its alert: there its episode ended.
    /// `with_end`: a point at the end of what had been judged was not among it.
    pub fn end_by_hand(&mut self, entity: &str, state: &mut EntityState, at: i64, with_end: bool) {
        let Some(earlier) = self.reconsidered.get(entity) else { return };
        let began = match (state.episode.phase, &state.episode.cooling) {
            (Phase::Quiet, None) => return,
            (Phase::Quiet, Some(before)) => before.ended_at,
            _ => state.episode.started_at,
        };
        let is_later = |at: i64, end: i64| at > end || with_end && at == end;
        let ends = earlier.iter().filter_map(|e| e.by_hand);
        let Some((resolved_at, _)) =
            ends.into_iter().find(|(_, end)| is_later(at, *end) && !is_later(began, *end))
        else {
            return;
        };
        if let Some(place) = self.place(state.episode.latest_alert()) {
            self.drafts[place].resolved_at.get_or_insert(resolved_at);
        }
        state.episode = Episode::default();
    }

    /// The figures behind the alert of an episode as JSON, by the episode's `alert_id`; `None` where
    /// nothing has changed them.
    pub fn metadata(&self, alert_id: i64) -> Option<String> {
        let place = self.place(alert_id)?;
        self.drafts.get(place)?.texts.as_ref().map(|texts| texts.metadata.clone())
    }

    /// Finds the stored alert of each episode of the points that were judged again: the one that
    /// began at the same time, or else one that it overlaps. Answers how many say something else now,
    /// and the ids of those that are left over.
    fn settle(&mut self) -> (i64, Vec<i64>) {
        for begins in [true, false] {
            for place in 0..self.drafts.len() {
                let draft = &mut self.drafts[place];
                if draft.stored_id.is_some() {
                    continue;
                }
                let (from, to) = (draft.episode.started_at, draft.episode.last_at);
                let earlier = self.reconsidered.get(&draft.entity).and_then(|of| {
                    of.iter().find(|e| {
                        !self.stored.contains_key(&e.alert_id)
                            && if begins { e.at == from } else { e.at <= to && from <= e.last_at }
                    })
                });
                if let Some(earlier) = earlier {
                    draft.stored_id = Some(earlier.alert_id);
                    draft.amends = true;
                    self.stored.insert(earlier.alert_id, place);
                }
            }
        }
        let mut amended = 0;
        let mut left_over = Vec::new();
        for earlier in self.reconsidered.values().flatten() {
            match self.stored.get(&earlier.alert_id) {
                Some(place) => amended += i64::from(earlier.differs(&self.drafts[*place])),
                None if earlier.is_withdrawn() => {}
                None => left_over.push(earlier.alert_id),
            }
        }
        (amended, left_over)
    }

    /// Writes the alerts and puts the real ids into the states of episodes that go on.
    pub fn store(
        mut self,
        row: &DetectorRow,
        states: &mut EntityStates,
        version: i32,
        run_id: Option<i64>,
    ) -> SqlResult<StoredAlerts> {
        let mut result = StoredAlerts::default();
        let (amended, left_over) = self.settle();
        result.amended = amended;
        result.withdrawn = left_over.len() as i64;
        if self.drafts.is_empty() && left_over.is_empty() && self.settled.is_empty() {
            return Ok(result);
        }
        self.suppress(gucs::max_alerts_per_scan());
        self.silence(row)?;
        self.place_in_incidents(row)?;
        let hushed = self.hushed_before()?;
        let new =
            self.drafts.iter().filter(|d| d.stored_id.is_none() && !d.suppressed).count() as i64;
        let now = session::now();
        let mut told = Vec::new();
        let amended: Vec<i64> =
            self.drafts.iter().filter(|d| d.amends).filter_map(|d| d.stored_id).collect();
        let before = if amended.is_empty() { HashMap::new() } else { before(amended)? };
        let stored = self.drafts.iter().filter_map(|d| d.stored_id).collect();
        let mut withholding = Withholding::new(row, &self.judged, stored)?;
        internal_rights::with(|| {
            let ids = sql::execute_returning(
                "SELECT nextval('anomaly.alert_id_seq') FROM generate_series(1, $1)",
                &[new.into()],
                |r| r.must::<i64>(1),
            )?;
            let mut fresh = ids.into_iter();
            let mut real_ids = vec![0; self.drafts.len()];
            let (mut inserts, mut updates) = (Vec::new(), Vec::new());
            // Ids rise with time and then by entity, whatever the order in which entities were judged: where their
            // states lie in the table, for example.
            let mut in_time: Vec<(usize, &Draft)> = self.drafts.iter().enumerate().collect();
            in_time.sort_by(|(_, a), (_, b)| {
                a.since.cmp(&b.since).then_with(|| a.entity.cmp(&b.entity))
            });
            for (place, draft) in in_time {
                if draft.suppressed {
                    result.suppressed += 1;
                    continue;
                }
                // What was judged again may have been resolved before.
                result.resolved += i64::from(draft.resolved_at.is_some() && !draft.amends);
                let id = match draft.stored_id {
                    Some(id) => {
                        result.changed.push(id);
                        updates.push(draft_json(draft, id)?);
                        id
                    }
                    None => {
                        let id = fresh.next().unwrap_or_default();
                        result.opened.push(id);
                        inserts.push(draft_json(draft, id)?);
                        id
                    }
                };
                real_ids[place] = id;
                let mut happened = match before.get(&id) {
                    Some(before) => draft.told_since(before),
                    None => draft.told.clone(),
                };
                let noted = draft.stored_id.unwrap_or(-(place as i64 + 1));
                if withholding.withholds(id, noted, draft.stored_id.is_none()) {
                    continue;
                }
                let heard_first = draft.silenced_by.is_none()
                    && draft.inhibited_by.is_none()
                    && (draft.stored_id.is_none()
                        || hushed.contains(&id)
                        || withholding.withheld_before(id));
                result.announced += i64::from(heard_first);
                if heard_first && draft.stored_id.is_some() {
                    // Nobody has heard that it was opened.
                    happened.retain(|(transition, _)| *transition == "resolved");
                    happened.insert(0, ("opened", draft.episode.last_at));
                }
                let tell = |(transition, at)| Told { alert_id: id, transition, at };
                told.extend(happened.into_iter().map(tell));
            }
            for batch in inserts.chunks(BATCH) {
                sql::execute(
                    INSERT,
                    &[
                        JsonB(Value::Array(batch.to_vec())).into(),
                        row.detector.as_str().into(),
                        row.owner.into(),
                        row.anomaly_type.as_str().into(),
                        row.strategy.as_str().into(),
                        row.metric_name.as_str().into(),
                        row.entity_type.as_deref().into(),
                        sql::timestamptz(now)?.into(),
                        version.into(),
                        run_id.into(),
                    ],
                )?;
            }
            relate(row, &result.opened)?;
            for batch in updates.chunks(BATCH) {
                sql::execute(UPDATE, &[JsonB(Value::Array(batch.to_vec())).into()])?;
            }
            withholding.store()?;
            for batch in left_over.chunks(BATCH) {
                sql::execute(
                    "UPDATE anomaly.alert SET status = 'withdrawn', flapping = false \
                      WHERE alert_id = ANY ($1)",
                    &[batch.to_vec().into()],
                )?;
                let tell = |id: &i64| Told { alert_id: *id, transition: "withdrawn", at: now };
                told.extend(batch.iter().map(tell));
            }
            for batch in self.settled.chunks(BATCH) {
                // Resolved by hand meanwhile, or withdrawn, it was told then.
                let settled = sql::execute_returning(
                    "UPDATE anomaly.alert SET flapping = false \
                      WHERE alert_id = ANY ($1) AND flapping AND status = 'resolved' \
                      RETURNING alert_id",
                    &[batch.iter().map(|(id, _)| *id).collect::<Vec<i64>>().into()],
                    |r| r.must::<i64>(1),
                )?;
                let still = batch.iter().filter(|(id, _)| settled.contains(id));
                told.extend(still.map(|(id, at)| Told {
                    alert_id: *id,
                    transition: "resolved",
                    at: *at,
                }));
            }
            result.ids = real_ids;
            for state in states.touched() {
                state.episode.renumber(|id| result.id_of(id));
            }
            Ok(())
        })?;
        // Of several alerts, handlers hear in the order in which things happened.
        told.sort_by_key(|told| told.at);
        outbox::record(row.owner, &told)?;
        Ok(result)
    }
}

impl AlertBook {
    /// Of new alerts, the most deviating ones are stored, so many as a scan may open. In the states the others
    /// have no number: nothing of their episodes is lost, and one that goes on is opened by a later scan.
    fn suppress(&mut self, most: Option<usize>) {
        let Some(most) = most else { return };
        let mut new: Vec<usize> =
            (0..self.drafts.len()).filter(|i| self.drafts[*i].stored_id.is_none()).collect();
        if new.len() <= most {
            return;
        }
        new.sort_by(|a, b| {
            let (a, b) = (&self.drafts[*a], &self.drafts[*b]);
            let by_size = b.episode.peak.deviation.total_cmp(&a.episode.peak.deviation);
            by_size.then_with(|| a.since.cmp(&b.since)).then_with(|| a.entity.cmp(&b.entity))
        });
        for place in new.split_off(most) {
            self.drafts[place].suppressed = true;
        }
    }

    /// Who is told of what is decided by the times of points, so that it does not depend on when they are
    /// judged: a new alert is silenced if its first and its latest anomalous point so far fall into a silence,
    /// and one that is silenced for as long as its latest does.
    fn silence(&mut self, row: &DetectorRow) -> SqlResult<()> {
        let times = self.drafts.iter().flat_map(|d| [d.episode.started_at, d.episode.last_at]);
        let Some((from, until)) = times.fold(None, |span: Option<(i64, i64)>, at| {
            Some(span.map_or((at, at), |(from, until)| (from.min(at), until.max(at))))
        }) else {
            return Ok(());
        };
        let silences = Silences::load(row, from, until)?;
        for draft in &mut self.drafts {
            let Episode { started_at, last_at, peak, .. } = draft.episode;
            let opens = (draft.stored_id.is_none() || draft.amends) && !draft.reopens;
            let times = [if opens { started_at } else { last_at }, last_at];
            draft.silenced_by = silences.of(&draft.entity, peak.severity(), &times);
        }
        Ok(())
    }

    /// New alerts belong to an incident, and while a detector that this one depends on has an alert nobody is told
    /// of those of this one. Like silences, that is decided by the times of points.
    fn place_in_incidents(&mut self, row: &DetectorRow) -> SqlResult<()> {
        let Some(since) = self.drafts.iter().map(|d| d.episode.started_at).min() else {
            return Ok(());
        };
        let inhibitors = Inhibitors::load(row, since)?;
        let (mut new, mut places) = (Vec::new(), Vec::new());
        for (place, draft) in self.drafts.iter_mut().enumerate() {
            let Episode { started_at, last_at, .. } = draft.episode;
            let opens = (draft.stored_id.is_none() || draft.amends) && !draft.reopens;
            let from = if opens { started_at } else { last_at };
            draft.inhibited_by = inhibitors.of(&draft.entity, Span { from, until: last_at });
            if draft.stored_id.is_none() && !draft.suppressed {
                new.push((started_at, draft.resolved_at.map_or(i64::MAX, |at| at.max(last_at))));
                places.push(place);
            }
        }
        let new: Vec<New> = places
            .iter()
            .zip(new)
            .map(|(place, (from, until))| New {
                entity: &self.drafts[*place].entity,
                span: Span { from, until },
            })
            .collect();
        let incidents = incidents::place(row, &new)?;
        drop(new);
        for (place, incident) in places.into_iter().zip(incidents) {
            self.drafts[place].incident = incident;
        }
        Ok(())
    }

    /// Those of the stored alerts of which nobody is told.
    fn hushed_before(&self) -> SqlResult<HashSet<i64>> {
        let stored: Vec<i64> = self.drafts.iter().filter_map(|d| d.stored_id).collect();
        if stored.is_empty() {
            return Ok(HashSet::new());
        }
        let hushed = internal_rights::with(|| {
            sql::rows(
                "SELECT alert_id FROM anomaly.alert WHERE alert_id = ANY ($1) \
                    AND (silenced_by IS NOT NULL OR inhibited_by IS NOT NULL)",
                &[stored.into()],
                |r| r.must::<i64>(1),
            )
        })?;
        Ok(hushed.into_iter().collect())
    }
}

/// The alert of the episode that a transition is about gets this number in the state.
fn give_place(state: &mut EntityState, transition: &Transition, alert_id: i64) {
    match (transition, &mut state.episode.cooling) {
        (Transition::Resolved(ended), Some(before)) if before.started_at == ended.started_at => {
            before.alert_id = alert_id;
        }
        (Transition::Resolved(_), _) => {}
        _ => state.episode.alert_id = alert_id,
    }
}

/// What these alerts say now.
fn before(ids: Vec<i64>) -> SqlResult<HashMap<i64, Before>> {
    let rows = internal_rights::with(|| {
        sql::rows(
            "SELECT alert_id, status, severity::text, flapping, resolved_by IS NOT NULL \
               FROM anomaly.alert WHERE alert_id = ANY ($1)",
            &[ids.into()],
            |r| {
                let severity = r.must::<String>(3)?;
                let severity = Severity::ALL.into_iter().find(|s| s.as_str() == severity);
                let before = Before {
                    status: r.must(2)?,
                    severity: severity.unwrap_or(Severity::Info),
                    flapping: r.must(4)?,
                    by_hand: r.must(5)?,
                };
                Ok((r.must::<i64>(1)?, before))
            },
        )
    })?;
    Ok(rows.into_iter().collect())
}

/// Writes into new alerts which others are open now: of the same entity, and of detectors of the same monitor or
/// source; of one owner, and 20 at most.
fn relate(row: &DetectorRow, opened: &[i64]) -> SqlResult<()> {
    for batch in opened.chunks(BATCH) {
        sql::execute(
            RELATE,
            &[batch.to_vec().into(), row.detector.as_str().into(), row.owner.into()],
        )?;
    }
    Ok(())
}

/// Neighbours are the same few for all new alerts: looked up once.
const RELATE: &str = "\
    WITH neighbour AS MATERIALIZED ( \
        SELECT o.alert_id, o.uuid FROM anomaly.alert o \
         WHERE o.status IN ('open', 'acknowledged') AND o.withheld IS NULL AND o.owner = $3::oid AND o.detector IN ( \
               SELECT n.detector FROM anomaly.detector d JOIN anomaly.detector n ON n.owner = d.owner \
                  AND (n.detector = d.detector OR n.monitor = d.monitor \
                       OR n.source_relation = d.source_relation OR n.source_query = d.source_query) \
                WHERE d.detector = $2) \
         ORDER BY o.alert_id DESC LIMIT 21) \
    UPDATE anomaly.alert a SET related_alerts = r.uuids \
      FROM (SELECT n.alert_id, ARRAY( \
                SELECT c.uuid FROM ( \
                    (SELECT 0 AS place, o.alert_id, o.uuid FROM anomaly.alert o \
                      WHERE o.status IN ('open', 'acknowledged') AND o.withheld IS NULL AND o.owner = n.owner \
                        AND o.entity = n.entity AND n.entity <> '' AND o.alert_id <> n.alert_id \
                      ORDER BY o.alert_id DESC LIMIT 20) \
                    UNION ALL \
                    SELECT 1, e.alert_id, e.uuid FROM neighbour e WHERE e.alert_id <> n.alert_id) c \
                 GROUP BY c.alert_id, c.uuid ORDER BY min(c.place), c.alert_id DESC LIMIT 20) AS uuids \
              FROM anomaly.alert n WHERE n.alert_id = ANY ($1)) r \
     WHERE a.alert_id = r.alert_id AND r.uuids <> '{}'";

/// An alert that the caller may change.
pub struct OwnedAlert {
    pub alert_id: i64,
    pub kind: String,
    pub detector: String,
    pub entity: String,
    pub owner: pg_sys::Oid,
    pub is_open: bool,
    /// The detector that raised it is still there.
    pub has_detector: bool,
}

/// 42704 for an alert that does not exist, or that the caller may not see.
pub fn unknown(alert: i64) -> pg_sys::panic::ErrorReport {
    report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("alert {alert} does not exist"))
        .set_hint("SELECT id, description FROM anomaly.alerts")
}

impl OwnedAlert {
    /// For members of the owner and of anomaly_admin.
    ///
    /// # Errors
    /// 42704 for an alert that does not exist, or that the caller does not see; 42501 for one that they
    /// may only look at.
    pub fn load(alert: i64) -> SqlResult<OwnedAlert> {
        let unknown = || unknown(alert);
        let found = internal_rights::with(|| {
            sql::row(
                "SELECT a.detector, a.entity, a.owner::oid, a.status IN ('open', 'acknowledged'), \
                    COALESCE(a.raised_at >= d.created_at AND a.owner = d.owner, false), a.kind \
                   FROM anomaly.alert a LEFT JOIN anomaly.detector d USING (detector) \
                  WHERE a.alert_id = $1",
                &[alert.into()],
                |row| {
                    Ok(OwnedAlert {
                        alert_id: alert,
                        detector: row.must(1)?,
                        entity: row.must(2)?,
                        owner: row.must(3)?,
                        is_open: row.must(4)?,
                        has_detector: row.must(5)?,
                        kind: row.must(6)?,
                    })
                },
            )
        })?
        .ok_or_else(unknown)?;
        if session::has_privileges_of(session::current_user(), found.owner) || is_admin()? {
            return Ok(found);
        }
        if may_see_all()? {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of alert {alert}"),
            )
            .set_hint(
                "SET ROLE to its owner, whom anomaly.alerts names, or ask for anomaly_admin",
            ));
        }
        Err(unknown())
    }
}

/// Ends alerts of a detector that are open and not among those named: no state knows their episode any
/// more, so that nobody would ever end them. Those that are no anomalies are in no state: they end only with
/// the detector.
pub fn resolve_all_but(row: &DetectorRow, open: &[i64], is_gone: bool) -> SqlResult<()> {
    let now = session::now();
    let ended = internal_rights::with(|| {
        sql::execute_returning(
            "UPDATE anomaly.alert SET status = 'resolved', flapping = false, \
                resolved_at = CASE status WHEN 'resolved' THEN resolved_at ELSE $3 END \
             WHERE detector = $1 AND (status IN ('open', 'acknowledged') OR flapping) \
               AND alert_id <> ALL ($2) AND (kind = 'anomaly' OR $4) RETURNING alert_id",
            &[
                row.detector.as_str().into(),
                open.to_vec().into(),
                sql::timestamptz(now)?.into(),
                is_gone.into(),
            ],
            |r| r.must::<i64>(1),
        )
    })?;
    let tell = |alert_id| Told { alert_id, transition: "resolved", at: now };
    outbox::record(row.owner, &ended.into_iter().map(tell).collect::<Vec<Told>>())
}

/// The slot of next month, and the time from which on alerts are kept when it is emptied: all but
/// the month that the slot last stood for.
pub fn next_slot(now: i64) -> SqlResult<(i16, i64)> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT ((extract(year FROM n) * 12 + extract(month FROM n)) % 16)::smallint, \
                    (date_trunc('month', n) - interval '15 months') AT TIME ZONE 'UTC' \
               FROM (SELECT $1 AT TIME ZONE 'UTC' + interval '1 month') AS next (n)",
            &[sql::timestamptz(now)?.into()],
            |row| Ok((row.must::<i16>(1)?, row.micros(2)?)),
        )
    })?;
    Ok(match found {
        Some((slot, Some(kept_from))) => (slot, kept_from),
        _ => (0, i64::MIN),
    })
}

/// One alert as a row for `jsonb_to_recordset`. Numbers that JSON lacks travel as text.
fn draft_json(draft: &Draft, id: i64) -> SqlResult<Value> {
    let number = |v: f64| {
        if v.is_finite() {
            json!(v)
        } else if v.is_nan() {
            Value::Null
        } else {
            json!(if v > 0.0 { "Infinity" } else { "-Infinity" })
        }
    };
    let instant = |at: i64| -> SqlResult<Value> {
        Ok(json!(sql::timestamptz(at)?.to_iso_string_with_timezone("UTC").map_err(|e| {
            crate::error::report(
                pgrx::PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
                e.to_string(),
            )
        })?))
    };
    let episode = &draft.episode;
    let peak = &episode.peak;
    let texts = draft.texts.as_ref();
    Ok(json!({
        "alert_id": id,
        "amends": draft.amends,
        "entity": draft.entity,
        "status": if draft.resolved_at.is_some() { "resolved" } else { "open" },
        "severity": peak.severity().as_str(),
        "at": instant(episode.started_at)?,
        "last_at": instant(episode.last_at)?,
        "resolved_at": draft.resolved_at.map(instant).transpose()?,
        "reopens": draft.reopens,
        "reopened": episode.reopened,
        "silenced_by": draft.silenced_by,
        "inhibited_by": draft.inhibited_by,
        "incident_id": draft.incident,
        "flapping": draft.is_flapping(),
        "points": episode.points.min(i32::MAX as u64),
        "peak_at": instant(peak.at)?,
        "value": number(peak.value),
        "expected": number(peak.expected),
        "lower": number(peak.lower),
        "upper": number(peak.upper),
        "deviation": number(peak.deviation),
        "score": 0.0 - libm::expm1(peak.ln_p),
        "p_value": libm::exp(peak.ln_p),
        "direction": peak.direction.as_str(),
        "description": texts.map(|texts| &texts.description),
        "suggestion": texts.map(|texts| texts.suggestion),
        "metadata": texts.map(|texts| &texts.metadata),
    }))
}

/// The slot is the month in which the alert is raised; see sql/alerts.sql.
const INSERT: &str = "\
    INSERT INTO anomaly.alert (slot, alert_id, detector, owner, status, anomaly_type, \
        detection_strategy, severity, entity, entity_type, metric_name, at, last_at, raised_at, \
        resolved_at, reopened, flapping, silenced_by, inhibited_by, incident_id, points, peak_at, value, expected, lower, upper, \
        deviation, score, p_value, direction, description, suggestion, metadata, model_version, \
        run_id) \
    SELECT ((extract(year FROM $8 AT TIME ZONE 'UTC') * 12 \
            + extract(month FROM $8 AT TIME ZONE 'UTC')) % 16)::smallint, \
        n.alert_id, $2, $3::oid, n.status, $4, $5, n.severity, n.entity, $7, $6, n.at, n.last_at, \
        $8, n.resolved_at, n.reopened, n.flapping, n.silenced_by, n.inhibited_by, \
        n.incident_id, n.points, n.peak_at, n.value, n.expected, n.lower, n.upper, \
        n.deviation, n.score, n.p_value, n.direction, n.description, n.suggestion, \
        n.metadata::jsonb, \
        $9, $10 \
      FROM jsonb_to_recordset($1) AS n (alert_id bigint, entity text, status text, \
        severity anomaly.severity, at timestamptz, last_at timestamptz, resolved_at timestamptz, \
        reopened int, flapping boolean, silenced_by bigint, inhibited_by bigint, incident_id bigint, \
        points int, peak_at timestamptz, value float8, expected float8, lower float8, \
        upper float8, deviation float8, score float8, p_value float8, direction text, \
        description text, suggestion text, metadata text)";

const UPDATE: &str = "\
    UPDATE anomaly.alert a SET \
        status = CASE WHEN a.resolved_by IS NOT NULL THEN 'resolved' \
                      WHEN n.status = 'resolved' OR n.reopens \
                           OR n.amends AND a.status <> 'acknowledged' \
                      THEN n.status ELSE a.status END, \
        severity = n.severity, last_at = n.last_at, \
        at = CASE WHEN n.amends THEN n.at ELSE a.at END, \
        resolved_at = CASE WHEN a.resolved_by IS NOT NULL THEN a.resolved_at \
                           WHEN n.amends OR n.reopens THEN n.resolved_at \
                           ELSE COALESCE(n.resolved_at, a.resolved_at) END, \
        reopened = n.reopened, flapping = n.flapping, points = n.points, \
        silenced_by = CASE WHEN n.amends OR n.reopens OR a.silenced_by IS NOT NULL \
                           THEN n.silenced_by END, \
        inhibited_by = CASE WHEN n.amends OR n.reopens OR a.inhibited_by IS NOT NULL \
                           THEN n.inhibited_by END, \
        peak_at = n.peak_at, value = n.value, expected = n.expected, lower = n.lower, \
        upper = n.upper, deviation = n.deviation, score = n.score, p_value = n.p_value, \
        direction = n.direction, description = COALESCE(n.description, a.description), \
        suggestion = COALESCE(n.suggestion, a.suggestion), \
        metadata = COALESCE(n.metadata::jsonb, a.metadata) \
      FROM jsonb_to_recordset($1) AS n (alert_id bigint, amends boolean, reopens boolean, \
        reopened int, flapping boolean, silenced_by bigint, inhibited_by bigint, status text, severity anomaly.severity, at timestamptz, \
        last_at timestamptz, resolved_at timestamptz, points int, peak_at timestamptz, value float8, expected float8, lower float8, upper float8, \
        deviation float8, score float8, p_value float8, direction text, description text, \
        suggestion text, metadata text) \
     WHERE a.alert_id = n.alert_id";
