//! The entity states of one model version, read once per run and decoded when first touched.

use std::collections::{BTreeSet, HashMap};

use anomaly_core::{Detector, EntityState};
use pgrx::PgSqlErrorCode;

use crate::{
    detector::catalog::DetectorRow,
    error::{SqlResult, from_core, report},
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

impl Item {
    /// The name and the state: the stored one, or a new one where nothing is stored.
    fn decoded(&mut self, detector: &str, core: &Detector) -> SqlResult<(&str, &mut EntityState)> {
        if self.state.is_none() && !self.stored.is_empty() {
            self.state = Some(core.decode_state(&self.stored).map_err(|e| {
                from_core(e)
                    .set_detail(format!(
                        "state of entity \"{}\" of detector \"{detector}\"",
                        self.entity
                    ))
                    .set_hint(format!("SELECT anomaly.train('{detector}') builds it anew"))
            })?);
            // No need to have it twice.
            self.stored = Vec::new();
        }
        Ok((&self.entity, self.state.get_or_insert_with(|| core.new_state())))
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
        }
    }

    /// Reads the states of a model version.
    pub fn load(row: &DetectorRow, version: i32) -> SqlResult<Self> {
        let mut states = Self::new(row.max_entities as usize);
        states.read(
            "SELECT entity, payload FROM anomaly.entity_state \
             WHERE detector = $1 AND version = $2::int",
            &[stream::Param::Text(&row.detector), stream::Param::Int8(version.into())],
        )?;
        Ok(states)
    }

    /// Reads the state of one entity only; a new one still counts against `max_entities`.
    pub fn load_one(row: &DetectorRow, version: i32, entity: &str) -> SqlResult<Self> {
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
        internal_rights::with(|| {
            stream::for_each_row(query, params, &mut |stored| {
                let entity = stored.text(0).unwrap_or_default();
                let payload = stored.with_bytes(1, <[u8]>::to_vec).unwrap_or_default();
                self.index.insert(entity.as_bytes().to_vec(), self.items.len());
                self.items.push(Item { entity, stored: payload, state: None });
                Ok(())
            })
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
        self.items[position].decoded(detector, core)
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
            item.decoded(detector, core)?;
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
            let (entity, state) = item.decoded(detector, core)?;
            each(entity, state)?;
        }
        Ok(())
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

    /// Takes over what was going on in the states of the version before: an episode that is open
    /// stays open when the baseline is learned anew.
    pub fn keep_episodes(
        &mut self,
        detector: &str,
        core: &Detector,
        before: &mut EntityStates,
    ) -> SqlResult<()> {
        for item in &mut before.items {
            // A damaged state is what retraining repairs; there is nothing to take over from it.
            let Ok(old) = core.decode_state(&item.stored) else { continue };
            if old.episode.phase != anomaly_core::Phase::Quiet
                && let Some((_, new)) = self.get(detector, core, item.entity.as_bytes())?
            {
                new.episode = old.episode;
                new.presence = new.presence.or(old.presence);
            }
        }
        Ok(())
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
