//! What training, and other work on whole models, may take: memory, time, and whether anybody still
//! wants it. And the memory that a scan may take.

use std::time::{Duration, Instant};

use anomaly_core::{Error, Result, progress::Progress};

use crate::{
    error::{SqlResult, from_core},
    gucs,
    pg::{interrupts::Interrupts, memory},
};

/// How often the clock is looked at: a look costs as much as some twenty other questions.
const ASKED_PER_LOOK: u32 = 16;

/// The limits of one training (or export, import, rollback), from its begin on. The core's loops ask it
/// as their [`Progress`], the loops over rows ask [`TrainingLimits::at_row`].
pub struct TrainingLimits {
    /// For messages.
    what: &'static str,
    interrupts: Interrupts,
    began: Instant,
    most_time: Option<Duration>,
    held_before: usize,
    most_bytes: usize,
    asked: u32,
}

impl TrainingLimits {
    /// As the settings are now; `what` is "training" or whatever else begins.
    pub fn begin(what: &'static str) -> Self {
        TrainingLimits {
            what,
            interrupts: Interrupts::default(),
            began: Instant::now(),
            most_time: gucs::train_time_limit(),
            held_before: memory::held(),
            most_bytes: gucs::train_memory(),
            asked: 0,
        }
    }

    /// Raises PostgreSQL's own error when the training was cancelled. Cheap enough for every row: what a
    /// row makes a model do may take most of a second.
    ///
    /// # Errors
    /// `MemoryLimit` or `TimeLimit`, with the setting that it is about.
    #[inline]
    pub fn at_row(&mut self) -> Result<()> {
        pgrx::check_for_interrupts!();
        if memory::held() > self.held_before.saturating_add(self.most_bytes) {
            return Err(self.memory_error());
        }
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(ASKED_PER_LOOK) {
            return self.look_at_clock();
        }
        Ok(())
    }

    fn look_at_clock(&self) -> Result<()> {
        match self.most_time {
            Some(most) if self.began.elapsed() > most => Err(Error::TimeLimit {
                message: format!(
                    "{} takes longer than anomaly_detection.train_time_limit ({} ms)",
                    self.what,
                    most.as_millis()
                ),
                hint: "SET anomaly_detection.train_time_limit to more, or train on fewer rows \
                       (training_window, sample_size) or fewer entities"
                    .into(),
            }),
            _ => Ok(()),
        }
    }

    #[cold]
    fn memory_error(&self) -> Error {
        Error::MemoryLimit {
            message: format!(
                "{} takes more than anomaly_detection.train_memory ({} kB)",
                self.what,
                self.most_bytes >> 10
            ),
            hint: "SET anomaly_detection.train_memory to more, or lower max_entities, n_estimators or \
                   max_samples"
                .into(),
        }
    }
}

impl Progress for TrainingLimits {
    fn tick(&mut self) -> Result<()> {
        self.interrupts.tick()?;
        self.at_row()?;
        // Between two ticks lies more than a look at the clock takes.
        self.look_at_clock()
    }
}

/// How much memory a scan may take: the states of its entities and the alerts that it is going to store.
pub struct ScanMemory {
    held_before: usize,
    most_bytes: usize,
}

impl ScanMemory {
    /// As the setting is now.
    pub fn begin() -> Self {
        ScanMemory { held_before: memory::held(), most_bytes: gucs::scan_memory() }
    }

    /// Cheap enough for every row.
    ///
    /// # Errors
    /// 53200 naming the setting.
    #[inline]
    pub fn check(&self) -> SqlResult<()> {
        if memory::held() > self.held_before.saturating_add(self.most_bytes) {
            return Err(self.error());
        }
        Ok(())
    }

    #[cold]
    fn error(&self) -> pgrx::pg_sys::panic::ErrorReport {
        from_core(Error::MemoryLimit {
            message: format!(
                "the scan takes more than anomaly_detection.scan_memory ({} kB)",
                self.most_bytes >> 10
            ),
            hint: "have it raised, lower max_entities, or scan more often, so that a scan has less to judge"
                .into(),
        })
    }
}
