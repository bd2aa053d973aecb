//! The entity states of one model version, read once per run and decoded when first touched.

use std::collections::{BTreeSet, HashMap};

use anomaly_core::{
    Detector, EntityState, Episode, Error, detector::standing, gaps::Presence, guidance::Guidance,
};
use pgrx::{PgSqlErrorCode, pg_sys::panic::ErrorReport};

use crate::{
    detector::{catalog::DetectorRow, feedback::Guidances},
    error::{SqlResult, from_core, report},
    limits::TrainingLimits,
    pg::{internal_rights, stream},
    sql,
};

/// How many names of entities beyond `max_entities` are kept to be shown.
const SKIPPED_NAMES: usize = 20;
/// Rows per statement when states are written: bounds the size of the parameter arrays.
const WRITE_BATCH: usize = 1000;

struct Item {
    entity: String,
    stored: Vec<u8>,
    state: Option<EntityState>,
}

/// What cannot be read of a detector, and how to come by it again.
fn unreadable(error: Error, what: &str, detector: &str) -> ErrorReport {
    let is_damaged = matches!(error, Error::Corrupted(_));
    let report = from_core(error).set_detail(format!("{what} of detector \"{detector}\""));
    if !is_damaged {
        return report;
    }
    let detector = pgrx::spi::quote_literal(detector);
    report.set_hint(format!("SELECT anomaly.train({detector}) builds it anew"))
}

/// The shared model of a version.
///
/// # Errors
/// XX001 naming the detector when it is damaged, 0A000 when a newer version of the extension wrote it.
pub fn decode_shared(core: &Detector, detector: &str, payload: &[u8]) -> SqlResult<EntityState> {
    core.decode_state(payload).map_err(|error| unreadable(error, "shared model", detector))
}

/// The state of one entity.
///
/// # Errors
/// As [`decode_shared`], naming the entity.
pub fn decode_entity(
    core: &Detector,
    detector: &str,
    entity: &str,
    payload: &[u8],
) -> SqlResult<EntityState> {
    core.decode_state(payload)
        .map_err(|error| unreadable(error, &format!("state of entity \"{entity}\""), detector))
}

impl Item {
    /// The name and the state: the stored one, or a new one where nothing is stored.
    fn decoded(
        &mut self,
        detector: &str,
        core: &Detector,
        guidances: &Guidances,
    ) -> SqlResult<(&str, &mut EntityState)> {
        if self.state.is_none() && !self.stored.is_empty() {
            let mut state = decode_entity(core, detector, &self.entity, &self.stored)?;
            state.guidance = guidances.of(&self.entity);
            self.state = Some(state);
            // No need to have it twice.
            self.stored = Vec::new();
        }
        let state = self.state.get_or_insert_with(|| EntityState {
            guidance: guidances.of(&self.entity),
            ..core.new_state()
        });
        Ok((&self.entity, state))
    }
}

/// States of a detector's entities by name; the empty name is a detector without entities.
pub struct EntityStates {
    index: HashMap<Vec<u8>, usize>,
    items: Vec<Item>,
    /// Position that was asked for last.
    latest: usize,
    max_entities: usize,
    skipped: BTreeSet<String>,
    skipped_points: u64,
    guidances: Guidances,
}

/// Episode and presence of each entity in the active version. A damaged state is what retraining
/// repairs, and rolling back avoids: there is nothing to take over from it.
fn going_on(row: &DetectorRow) -> SqlResult<Vec<(String, Episode, Option<Presence>)>> {
    let mut found = Vec::new();
    let Some(active) = &row.model else { return Ok(found) };
    // One after the other: those that are learned anew take memory enough.
    read_states(
        ALL,
        &[stream::Param::Text(&row.detector), stream::Param::Int8(active.version.into())],
        &mut |entity, payload| {
            if let Ok((episode, presence)) = standing(&payload) {
                found.push((entity, episode, presence));
            }
        },
    )?;
    Ok(found)
}

const ALL: &str = "SELECT entity, payload FROM anomaly.entity_state \
                   WHERE detector = $1 AND version = $2::int";

fn read_states(
    query: &str,
    params: &[stream::Param],
    each: &mut dyn FnMut(String, Vec<u8>),
) -> SqlResult<()> {
    internal_rights::with(|| {
        stream::for_each_row(query, params, &mut |stored| {
            let payload = stored.with_bytes(1, <[u8]>::to_vec).unwrap_or_default();
            each(stored.text(0).unwrap_or_default(), payload);
            Ok(())
        })
    })
}

impl EntityStates {
    /// No states yet.
    pub fn new(max_entities: usize) -> Self {
        EntityStates {
            index: HashMap::new(),
            items: Vec::new(),
            latest: 0,
            max_entities,
            skipped: BTreeSet::new(),
            skipped_points: 0,
            guidances: Guidances::default(),
        }
    }

    /// Reads the states of a model version, and what people have said of their entities.
    pub fn load(row: &DetectorRow, version: i32) -> SqlResult<Self> {
        let mut states = Self::new(row.max_entities as usize);
        states.guidances = Guidances::load(row, None)?;
        states.read(
            ALL,
            &[stream::Param::Text(&row.detector), stream::Param::Int8(version.into())],
        )?;
        Ok(states)
    }

    /// Reads the state of one entity only; a new one still counts against `max_entities`. `at`: of the
    /// point that it is to judge, if there is one.
    pub fn load_one(
        row: &DetectorRow,
        version: i32,
        entity: &str,
        at: Option<i64>,
    ) -> SqlResult<Self> {
        let others = internal_rights::with(|| {
            sql::row(
                "SELECT count(*) FROM anomaly.entity_state \
                 WHERE detector = $1 AND version = $2 AND entity <> $3",
                &[row.detector.as_str().into(), version.into(), entity.into()],
                |r| r.must::<i64>(1),
            )
        })?;
        let room = i64::from(row.max_entities) - others.unwrap_or(0);
        let mut states = Self::new(room.max(0) as usize);
        states.guidances = Guidances::load(row, at)?;
        states.read(
            "SELECT entity, payload FROM anomaly.entity_state \
             WHERE detector = $1 AND version = $2::int AND entity = $3",
            &[
                stream::Param::Text(&row.detector),
                stream::Param::Int8(version.into()),
                stream::Param::Text(entity),
            ],
        )?;
        Ok(states)
    }

    fn read(&mut self, query: &str, params: &[stream::Param]) -> SqlResult<()> {
        read_states(query, params, &mut |entity, payload| {
            self.index.insert(entity.as_bytes().to_vec(), self.items.len());
            self.items.push(Item { entity, stored: payload, state: None });
        })
    }

    /// Where the entity is among all, below [`EntityStates::len`]; a new one comes last. `None` beyond
    /// `max_entities`.
    pub fn position(&mut self, entity: &[u8]) -> SqlResult<Option<usize>> {
        // Rows often come by entity, or visit all entities in turn: no need to hash the name.
        let is_at = |at: &usize| self.items.get(*at).is_some_and(|i| i.entity.as_bytes() == entity);
        let guessed = [self.latest, self.latest + 1].into_iter().find(is_at);
        let position = match guessed.or_else(|| self.index.get(entity).copied()) {
            Some(position) => position,
            None if self.items.len() >= self.max_entities => {
                self.skipped_points += 1;
                if self.skipped.len() < SKIPPED_NAMES {
                    self.skipped.insert(String::from_utf8_lossy(entity).into_owned());
                }
                return Ok(None);
            }
            None => {
                let name = String::from_utf8(entity.to_vec()).map_err(|_| {
                    report(
                        PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
                        "entity name is not valid UTF-8",
                    )
                    .set_hint("anomaly_detection needs a database with encoding UTF8")
                })?;
                self.index.insert(entity.to_vec(), self.items.len());
                self.items.push(Item { entity: name, stored: Vec::new(), state: None });
                self.items.len() - 1
            }
        };
        self.latest = position;
        Ok(Some(position))
    }

    /// As [`EntityStates::position`]; a row of an entity beyond `max_entities` is not counted.
    pub fn position_if_room(&mut self, entity: &[u8]) -> SqlResult<Option<usize>> {
        if self.items.len() >= self.max_entities && !self.index.contains_key(entity) {
            return Ok(None);
        }
        self.position(entity)
    }

    /// The name of the entity at a position.
    pub fn name(&self, position: usize) -> &str {
        &self.items[position].entity
    }

    /// What people have said of an entity.
    pub fn guidance(&self, entity: &str) -> Guidance {
        self.guidances.of(entity)
    }

    /// Puts a stored state in the place of the one at a position; an empty one stands for none.
    pub fn put_back(&mut self, position: usize, stored: Vec<u8>) {
        let item = &mut self.items[position];
        item.stored = stored;
        item.state = None;
    }

    /// Name and state of the entity at a position, which [`EntityStates::position`] gave.
    ///
    /// # Errors
    /// XX001 naming detector and entity when the stored state is damaged.
    pub fn at(
        &mut self,
        detector: &str,
        core: &Detector,
        position: usize,
    ) -> SqlResult<(&str, &mut EntityState)> {
        self.items[position].decoded(detector, core, &self.guidances)
    }

    /// The entity's name and state, made anew for one not seen before; `None` beyond
    /// `max_entities`.
    ///
    /// # Errors
    /// As [`EntityStates::at`].
    pub fn get(
        &mut self,
        detector: &str,
        core: &Detector,
        entity: &[u8],
    ) -> SqlResult<Option<(&str, &mut EntityState)>> {
        match self.position(entity)? {
            Some(position) => self.at(detector, core, position).map(Some),
            None => Ok(None),
        }
    }

    /// All entities that have a state, in no order.
    ///
    /// # Errors
    /// As [`EntityStates::get`].
    pub fn decoded(
        &mut self,
        detector: &str,
        core: &Detector,
    ) -> SqlResult<Vec<(&str, &EntityState)>> {
        for item in &mut self.items {
            item.decoded(detector, core, &self.guidances)?;
        }
        Ok(self.items.iter().filter_map(|i| Some((i.entity.as_str(), i.state.as_ref()?))).collect())
    }

    /// Hands over every entity with its state, in no order.
    ///
    /// # Errors
    /// As [`EntityStates::get`].
    pub fn for_each(
        &mut self,
        detector: &str,
        core: &Detector,
        each: &mut dyn FnMut(&str, &mut EntityState) -> SqlResult<()>,
    ) -> SqlResult<()> {
        for item in &mut self.items {
            let (entity, state) = item.decoded(detector, core, &self.guidances)?;
            each(entity, state)?;
        }
        Ok(())
    }

    /// Takes in the state of an entity that is not there yet.
    pub fn insert(&mut self, entity: &str, state: EntityState) -> SqlResult<()> {
        if let Some(position) = self.position(entity.as_bytes())? {
            self.items[position].state = Some(state);
        }
        Ok(())
    }

    /// [`EntityState::detach`] for all that were touched.
    pub fn detach(&mut self) {
        self.touched().for_each(EntityState::detach);
    }

    /// [`Detector::settle`] for all that were touched.
    pub fn settle(&mut self, core: &Detector) {
        self.touched().for_each(|state| core.settle(state, 0));
    }

    /// How many entities have a state.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many points belonged to entities beyond `max_entities`, and some of these by name.
    pub fn skipped(&self) -> (u64, &BTreeSet<String>) {
        (self.skipped_points, &self.skipped)
    }

    /// The states that were touched, for changes across all of them.
    pub fn touched(&mut self) -> impl Iterator<Item = &mut EntityState> {
        self.items.iter_mut().filter_map(|item| item.state.as_mut())
    }

    /// Takes over what was going on in the states of the active version: an episode that is open stays
    /// open when the baseline is learned anew.
    pub fn keep_episodes(&mut self, row: &DetectorRow, core: &Detector) -> SqlResult<()> {
        for (entity, episode, presence) in going_on(row)? {
            if !episode.is_idle()
                && let Some((_, new)) = self.get(&row.detector, core, entity.as_bytes())?
            {
                new.episode = episode;
                new.presence = new.presence.or(presence);
            }
        }
        Ok(())
    }

    /// Makes states that were learned earlier, or elsewhere, go on where those of the active version
    /// are: what is happening in a series, and how much of it has been there, is a matter of the series
    /// and not of the baseline. Decodes all states.
    ///
    /// # Errors
    /// As [`EntityStates::at`], and those of the limits.
    pub fn go_on_from(
        &mut self,
        row: &DetectorRow,
        core: &Detector,
        limits: &mut TrainingLimits,
    ) -> SqlResult<()> {
        for item in &mut self.items {
            limits.at_row().map_err(from_core)?;
            item.decoded(&row.detector, core, &self.guidances)?.1.detach();
        }
        for (entity, episode, presence) in going_on(row)? {
            if (presence.is_some()
                || !episode.is_idle()
                || self.index.contains_key(entity.as_bytes()))
                && let Some((_, state)) = self.get(&row.detector, core, entity.as_bytes())?
            {
                state.episode = episode;
                state.presence = presence;
            }
        }
        Ok(())
    }

    /// Alerts that are open in the states that were touched, or may be opened again.
    pub fn open_alerts(&mut self) -> Vec<i64> {
        self.touched().map(|state| state.episode.latest_alert()).filter(|id| *id > 0).collect()
    }

    /// Writes the touched states of a version.
    pub fn save(&self, detector: &str, core: &Detector, version: i32) -> SqlResult<()> {
        let touched: Vec<&Item> = self.items.iter().filter(|i| i.state.is_some()).collect();
        internal_rights::with(|| {
            for batch in touched.chunks(WRITE_BATCH) {
                let mut entities = Vec::with_capacity(batch.len());
                let mut payloads = Vec::with_capacity(batch.len());
                for item in batch {
                    if let Some(state) = &item.state {
                        entities.push(item.entity.as_str());
                        payloads.push(core.encode_state(state).map_err(from_core)?);
                    }
                }
                sql::execute(
                    "INSERT INTO anomaly.entity_state (detector, version, entity, payload) \
                     SELECT $1, $2, n.entity, n.payload \
                       FROM unnest($3::text[], $4::bytea[]) AS n (entity, payload) \
                     ON CONFLICT (detector, version, entity) \
                     DO UPDATE SET payload = EXCLUDED.payload",
                    &[detector.into(), version.into(), entities.into(), payloads.into()],
                )?;
            }
            Ok(())
        })
    }
}
