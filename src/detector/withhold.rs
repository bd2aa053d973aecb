//! Alerts that are told to nobody: those of shadows, and those that `fdr` takes for chance.
//!
//! What is judged, learned and stored does not depend on it; only who hears of it does. The families of `fdr` are the
//! buckets of a detector: a scan judges whole buckets, of all entities at once, so that it does not matter how scans
//! cut time. Where single entities are judged again (`late_window`) that would not hold, so that the two exclude each other.

use std::collections::{HashMap, HashSet};

use anomaly_core::{Outcome, Transition, error_rate::Families, gaps::Arrival};

use crate::{
    detector::{
        catalog::DetectorRow,
        create_detector::{Settings, interval_micros},
    },
    error::{SqlResult, from_core, invalid},
    pg::internal_rights,
    sql,
};

/// Of a detector that is only compared.
const SHADOW: &str = "shadow";
/// One of many tests at a time, and not improbable enough for that many.
const CHANCE: &str = "chance";

/// # Errors
/// 22023 for an `fdr` that is no share, or that has no families.
pub fn check(settings: &Settings) -> SqlResult<()> {
    let Some(fdr) = settings.fdr else { return Ok(()) };
    anomaly_core::error_rate::check_share(fdr).map_err(from_core)?;
    if settings.bucket.is_none() {
        return Err(invalid(
            "fdr without buckets: there is nothing that happens at one time",
            "give for example bucket => '5 minutes', or leave out fdr",
        ));
    }
    if interval_micros(&settings.late_window) != 0 {
        return Err(invalid(
            "fdr and late_window do not go together: entities are judged again one by one",
            "leave out one of them; a longer settle waits for late rows as well",
        ));
    }
    Ok(())
}

/// What is judged in a scan, bucket by bucket; alerts by the `alert_id` of their episodes.
pub type Judged = Families<i64>;

/// Takes note of an arrival; `alert_id` is that of the entity's episode after it. What was made up for a missing
/// value is no test.
pub fn note(families: &mut Judged, arrival: &Arrival, outcome: &Outcome, alert_id: i64) {
    if matches!(arrival, Arrival::Filled(_)) {
        return;
    }
    let goes_on = outcome.transition.is_some_and(|t| !matches!(t, Transition::Resolved(_)));
    let found = (goes_on && outcome.verdict.is_anomaly).then(|| (alert_id, outcome.verdict.ln_p()));
    families.judged(arrival.at(), found);
}

/// Decides about the alerts of one run.
pub struct Withholding {
    is_shadow: bool,
    /// By the `alert_id` of the episode; `None`: chance is no reason.
    told: Option<HashSet<i64>>,
    /// Stored before: why they were withheld then.
    before: HashMap<i64, String>,
    changes: Vec<(i64, Option<&'static str>)>,
}

impl Withholding {
    pub fn new(row: &DetectorRow, judged: &Judged, stored: Vec<i64>) -> SqlResult<Self> {
        let before = if stored.is_empty() {
            HashMap::new()
        } else {
            internal_rights::with(|| {
                sql::rows(
                    "SELECT alert_id, withheld FROM anomaly.alert \
                      WHERE alert_id = ANY ($1) AND withheld IS NOT NULL",
                    &[stored.into()],
                    |r| Ok((r.must::<i64>(1)?, r.must::<String>(2)?)),
                )
            })?
            .into_iter()
            .collect()
        };
        Ok(Withholding {
            is_shadow: row.shadow_of.is_some(),
            told: row.fdr.map(|share| judged.told(share)),
            before,
            changes: Vec::new(),
        })
    }

    /// Whether the alert is told to nobody, after this run: `id` as it is stored, `noted` as [`note`] had it. What has
    /// been told stays so.
    pub fn withholds(&mut self, id: i64, noted: i64, is_new: bool) -> bool {
        let before = self.before.get(&id).map(String::as_str);
        let by_chance = (is_new || before == Some(CHANCE))
            && self.told.as_ref().is_some_and(|told| !told.contains(&noted));
        let reason = if by_chance {
            Some(CHANCE)
        } else if self.is_shadow {
            Some(SHADOW)
        } else {
            None
        };
        if reason != before {
            self.changes.push((id, reason));
        }
        reason.is_some()
    }

    /// Whether nobody has heard of the alert so far.
    pub fn withheld_before(&self, id: i64) -> bool {
        self.before.contains_key(&id)
    }

    /// Writes why alerts are withheld. Rights are those of the catalogue.
    pub fn store(&self) -> SqlResult<()> {
        for reason in [Some(SHADOW), Some(CHANCE), None] {
            let of: Vec<i64> =
                self.changes.iter().filter(|(_, r)| *r == reason).map(|(id, _)| *id).collect();
            if !of.is_empty() {
                sql::execute(
                    "UPDATE anomaly.alert SET withheld = $2 WHERE alert_id = ANY ($1)",
                    &[of.into(), reason.into()],
                )?;
            }
        }
        Ok(())
    }
}
