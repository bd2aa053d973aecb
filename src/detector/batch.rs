//! Rows that are held until there are enough to be judged entity by entity.
//!
//! Rows come in the order of time, so that of ten thousand entities each is somewhere else in memory
//! than the one before. Held and grouped, an entity's points follow each other while its state is in
//! the processor's cache. The points of one entity keep their order; nothing depends on that of
//! points of different entities.

use crate::{detector::sampling::Reading, error::SqlResult};

/// Rows that are held: 4 MB, whatever the size of the window.
pub const ROWS: usize = 65_536;

#[derive(Default)]
pub struct Batch {
    /// With the position of the entity.
    rows: Vec<(u32, Reading)>,
    /// Scratch: where the rows of each entity begin in `order`, and the places of rows in `rows`.
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl Batch {
    /// Holds a row; whether there is room for no other.
    pub fn push(&mut self, entity: usize, reading: Reading) -> bool {
        self.rows.push((entity as u32, reading));
        self.rows.len() >= ROWS
    }

    /// Hands over what is held, entity by entity, and lets go of it. All positions are below
    /// `entities`.
    pub fn drain(
        &mut self,
        entities: usize,
        each: &mut dyn FnMut(usize, &Reading) -> SqlResult<()>,
    ) -> SqlResult<()> {
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
        for row in &self.order {
            let (entity, reading) = &self.rows[*row as usize];
            each(*entity as usize, reading)?;
        }
        self.rows.clear();
        Ok(())
    }
}
