//! Rows that are held until there are enough to be judged entity by entity.
//!
//! Rows come in the order of time, so that of ten thousand entities each is somewhere else in memory
//! than the one before. Held and grouped, an entity's points follow each other while its state is in
//! the processor's cache. The points of one entity keep their order; nothing depends on that of
//! points of different entities.

use std::collections::BTreeMap;

use crate::{detector::sampling::Reading, error::SqlResult};

/// Rows that are held: 4 MB, and half a MB for each further column, whatever the size of the window.
pub const ROWS: usize = 65_536;

/// What is done with each row: position of the entity, the row, its further columns.
pub type Each<'a> = dyn FnMut(usize, &Reading, &[f64]) -> SqlResult<()> + 'a;

#[derive(Default)]
pub struct Batch {
    /// With the position of the entity.
    rows: Vec<(u32, Reading)>,
    /// Further columns, as many of each row, row by row.
    features: Vec<f64>,
    /// Scratch: where the rows of each entity begin in `order`, and the places of rows in `rows`.
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl Batch {
    /// Holds a row with its further columns, the same number of each; whether there is room for no
    /// other.
    pub fn push(&mut self, entity: usize, reading: Reading, features: &[f64]) -> bool {
        self.rows.push((entity as u32, reading));
        self.features.extend_from_slice(features);
        self.rows.len() >= ROWS
    }

    /// Hands over time and value of what is held, entity by entity, and keeps it.
    pub fn look(
        &self,
        each: &mut dyn FnMut(usize, Vec<(i64, f64)>) -> SqlResult<()>,
    ) -> SqlResult<()> {
        let mut by_entity: BTreeMap<u32, Vec<(i64, f64)>> = BTreeMap::new();
        for (entity, reading) in &self.rows {
            if let Some(value) = reading.value {
                by_entity.entry(*entity).or_default().push((reading.at, value));
            }
        }
        for (entity, points) in by_entity {
            each(entity as usize, points)?;
        }
        Ok(())
    }

    /// Hands over what is held, entity by entity, and lets go of it. All positions are below
    /// `entities`.
    pub fn drain(&mut self, entities: usize, each: &mut Each) -> SqlResult<()> {
        // A counting sort, which is stable.
        self.starts.clear();
        self.starts.resize(entities, 0);
        for (entity, _) in &self.rows {
            self.starts[*entity as usize] += 1;
        }
        let mut sum = 0;
        for start in &mut self.starts {
            sum += std::mem::replace(start, sum);
        }
        self.order.resize(self.rows.len(), 0);
        for (row, (entity, _)) in self.rows.iter().enumerate() {
            let start = &mut self.starts[*entity as usize];
            self.order[*start as usize] = row as u32;
            *start += 1;
        }
        let width = self.features.len() / self.rows.len().max(1);
        for row in &self.order {
            let row = *row as usize;
            let (entity, reading) = &self.rows[row];
            each(*entity as usize, reading, &self.features[row * width..][..width])?;
        }
        self.rows.clear();
        self.features.clear();
        Ok(())
    }
}
