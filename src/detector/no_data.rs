//! Alerts of kind `no_data`: a detector, or an entity of it, that has had points and gets none for
//! `no_data_after`. A state of its own: an anomaly that is open stays open, because nothing says that it is over.
//!
//! When each entity had its latest point is kept beside the states (`anomaly.last_data`): it belongs to the
//! series, and not to a version of the model. What has never had a point, or none since this is asked for, is
//! not missed.

use std::collections::HashMap;

use anomaly_core::{Severity, incident::length};

use crate::{
    detector::{
        catalog::DetectorRow,
        conditions::{self, Condition, Over},
        states::EntityStates,
    },
    error::SqlResult,
    pg::{internal_rights, session},
    sql,
};

/// Rows per statement.
const BATCH: usize = 1000;

const SUGGESTION: &str = "Find out what writes the data, and whether it still does. If there will be no more of it, \
                          anomaly.resolve() ends the alert until there is data again.";

/// What a scan has seen of each entity: its earliest and its latest point.
pub struct Presence {
    after: i64,
    /// By position in the states.
    seen: Vec<Option<(i64, i64)>>,
}

/// What is known of an entity.
struct Known {
    entity: String,
    at: i64,
    excused_until: Option<i64>,
    alert_id: Option<i64>,
    /// The first of the points that a scan has found after `at`.
    back_at: Option<i64>,
    changed: bool,
}

impl Known {
    /// When it is missed.
    fn due(&self, after: i64) -> i64 {
        self.at.max(self.excused_until.unwrap_or(i64::MIN)).saturating_add(after)
    }
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    pub opened: i64,
    pub announced: i64,
    pub resolved: i64,
}

impl Presence {
    /// `None` for a detector that is not asked to miss anything, and where the past is replayed, in which nobody
    /// is missing.
    pub fn open(row: &DetectorRow) -> Option<Presence> {
        let after =
            row.no_data_after.filter(|_| !session::is_replaying() && row.shadow_of.is_none())?;
        Some(Presence { after, seen: Vec::new() })
    }

    /// A point of the entity at this position.
    pub fn note(&mut self, position: usize, at: i64) {
        if position >= self.seen.len() {
            self.seen.resize(position + 1, None);
        }
        let seen = &mut self.seen[position];
        *seen = Some(seen.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    }

    /// Opens and resolves what follows for `until`, in the scan's transaction.
    pub fn store(
        self,
        row: &DetectorRow,
        states: &EntityStates,
        until: i64,
        run_id: Option<i64>,
    ) -> SqlResult<Outcome> {
        let mut known = known(row)?;
        let index: HashMap<String, usize> =
            known.iter().enumerate().map(|(i, k)| (k.entity.clone(), i)).collect();
        for (position, seen) in self.seen.iter().enumerate() {
            let Some((first, last)) = *seen else { continue };
            let entity = states.name(position);
            match index.get(entity) {
                Some(at) if last > known[*at].at => {
                    let known = &mut known[*at];
                    known.back_at = Some(first.max(known.at));
                    (known.at, known.changed) = (last, true);
                }
                Some(_) => {}
                None => known.push(Known {
                    entity: entity.to_owned(),
                    at: last,
                    excused_until: None,
                    alert_id: None,
                    back_at: None,
                    changed: true,
                }),
            }
        }
        let mut outcome = Outcome::default();
        if known.is_empty() {
            return Ok(outcome);
        }
        for known in known.iter_mut().filter(|known| known.at < until) {
            if states.guidance(&known.entity).trains(until) {
                continue;
            }
            // Nothing is expected of these times, and so nothing is missed.
            (known.excused_until, known.changed) = (Some(until), true);
        }

        let mut over = Vec::new();
        for known in &mut known {
            if let (Some(alert_id), Some(at)) = (known.alert_id, known.back_at) {
                over.push(Over { alert_id, at });
                (known.alert_id, known.changed) = (None, true);
            }
        }
        let due = |known: &Known| known.due(self.after) <= until;
        let silent = known.iter().filter(|known| due(known)).count();
        let alone = known.iter().filter(|known| due(known) && known.alert_id.is_none()).count();
        let nothing_comes = known.len() > 1 && silent == known.len();
        let mut whole = row.no_data_alert;
        if let (Some(alert_id), false) = (whole, nothing_comes) {
            let back = known.iter().filter_map(|known| known.back_at).min();
            over.push(Over { alert_id, at: back.unwrap_or(until) });
            whole = None;
        }
        // One alert says that nothing comes at all, and not one for each entity.
        let opens_whole = nothing_comes && whole.is_none() && alone > 1;
        let mut missing: Vec<usize> = Vec::new();
        if !nothing_comes || alone == 1 && whole.is_none() {
            missing.extend(
                (0..known.len()).filter(|i| due(&known[*i]) && known[*i].alert_id.is_none()),
            );
        }
        outcome.resolved = conditions::end(row, &over, "there is data again")?;

        let of_entities = known.len() > 1 || known.iter().any(|known| !known.entity.is_empty());
        let mut found: Vec<Condition> = missing
            .iter()
            .map(|i| {
                let known = &known[*i];
                let of = match known.entity.as_str() {
                    "" => String::new(),
                    entity => format!(" of {entity}"),
                };
                Condition {
                    kind: "no_data",
                    entity: &known.entity,
                    since: known.at,
                    fired_at: known.due(self.after),
                    until,
                    severity: if of_entities { Severity::Warning } else { Severity::Critical },
                    description: format!(
                        "{}{of}: no data for {}",
                        row.metric_name,
                        length(until.saturating_sub(known.at))
                    ),
                    suggestion: SUGGESTION,
                }
            })
            .collect();
        if opens_whole {
            let latest = known.iter().map(|known| known.at).max().unwrap_or(until);
            let fired_at = known.iter().map(|known| known.due(self.after)).max();
            found.push(Condition {
                kind: "no_data",
                entity: "",
                since: latest,
                fired_at: fired_at.unwrap_or(until),
                until,
                severity: Severity::Critical,
                description: format!(
                    "{}: no data of any of {} entities for {}",
                    row.metric_name,
                    known.len(),
                    length(until.saturating_sub(latest))
                ),
                suggestion: SUGGESTION,
            });
        }
        let (mut ids, announced) = conditions::open(row, &found, run_id)?;
        drop(found);
        outcome.opened = ids.len() as i64;
        if opens_whole {
            whole = ids.pop();
        }
        for (i, id) in missing.into_iter().zip(ids) {
            (known[i].alert_id, known[i].changed) = (Some(id), true);
        }
        let open: Vec<i64> = known.iter().filter_map(|known| known.alert_id).chain(whole).collect();
        outcome.announced = announced + conditions::tell_at_last(row, &open, until)?;
        save(row, &known, whole)?;
        Ok(outcome)
    }
}

fn known(row: &DetectorRow) -> SqlResult<Vec<Known>> {
    internal_rights::with(|| {
        sql::rows(
            "SELECT entity, at, excused_until, alert_id FROM anomaly.last_data \
              WHERE detector = $1 ORDER BY entity",
            &[row.detector.as_str().into()],
            |r| {
                Ok(Known {
                    entity: r.must(1)?,
                    at: r.micros(2)?.unwrap_or_default(),
                    excused_until: r.micros(3)?,
                    alert_id: r.get(4)?,
                    back_at: None,
                    changed: false,
                })
            },
        )
    })
}

fn save(row: &DetectorRow, known: &[Known], whole: Option<i64>) -> SqlResult<()> {
    let changed: Vec<&Known> = known.iter().filter(|known| known.changed).collect();
    for batch in changed.chunks(BATCH) {
        let names: Vec<&str> = batch.iter().map(|known| known.entity.as_str()).collect();
        let times = batch.iter().map(|k| sql::timestamptz(k.at)).collect::<SqlResult<Vec<_>>>()?;
        let excused = batch
            .iter()
            .map(|k| k.excused_until.map(sql::timestamptz).transpose())
            .collect::<SqlResult<Vec<_>>>()?;
        let alerts: Vec<Option<i64>> = batch.iter().map(|known| known.alert_id).collect();
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.last_data AS l (detector, entity, at, excused_until, alert_id) \
                 SELECT $1, n.* FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], \
                    $5::bigint[]) AS n \
                 ON CONFLICT (detector, entity) DO UPDATE SET at = GREATEST(l.at, EXCLUDED.at), \
                    excused_until = EXCLUDED.excused_until, alert_id = EXCLUDED.alert_id",
                &[
                    row.detector.as_str().into(),
                    names.into(),
                    times.into(),
                    excused.into(),
                    alerts.into(),
                ],
            )
        })?;
    }
    if whole != row.no_data_alert {
        internal_rights::with(|| {
            sql::execute(
                "UPDATE anomaly.detector_state SET no_data_alert = $2 WHERE detector = $1",
                &[row.detector.as_str().into(), whole.into()],
            )
        })?;
    }
    Ok(())
}

/// Entities that a training has seen not longer ago than `no_data_after`: they are missed from then on, also when
/// no scan ever finds a point of theirs. Those that were gone by then are not.
pub fn seed(
    row: &DetectorRow,
    states: &EntityStates,
    latest: &[Option<i64>],
    until: i64,
) -> SqlResult<()> {
    let Some(after) =
        row.no_data_after.filter(|_| !session::is_replaying() && row.shadow_of.is_none())
    else {
        return Ok(());
    };
    let mut known = Vec::new();
    for (position, at) in latest.iter().enumerate() {
        if let Some(at) = at.filter(|at| *at > until.saturating_sub(after)) {
            known.push((states.name(position), at));
        }
    }
    for batch in known.chunks(BATCH) {
        let names: Vec<&str> = batch.iter().map(|(name, _)| *name).collect();
        let times =
            batch.iter().map(|(_, at)| sql::timestamptz(*at)).collect::<SqlResult<Vec<_>>>()?;
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.last_data (detector, entity, at) \
                 SELECT $1, n.* FROM unnest($2::text[], $3::timestamptz[]) AS n \
                 ON CONFLICT (detector, entity) DO NOTHING",
                &[row.detector.as_str().into(), names.into(), times.into()],
            )
        })?;
    }
    Ok(())
}

/// Ends what is open and forgets what is known: nothing is missed any more.
pub fn stop(row: &DetectorRow) -> SqlResult<()> {
    let known = known(row)?;
    let at = session::now();
    let over: Vec<Over> = known
        .iter()
        .filter_map(|known| known.alert_id)
        .chain(row.no_data_alert)
        .map(|alert_id| Over { alert_id, at })
        .collect();
    conditions::end(row, &over, "not watched any more")?;
    forget(&row.detector, None)
}

/// Somebody says that an alert is over: what it misses is missed again when there has been data.
pub fn forget(detector: &str, alert_id: Option<i64>) -> SqlResult<()> {
    internal_rights::with(|| {
        // That of the detector as a whole is about all of them.
        sql::execute(
            "DELETE FROM anomaly.last_data l USING anomaly.detector_state s \
              WHERE l.detector = $1 AND s.detector = $1 \
                AND ($2 IS NULL OR l.alert_id = $2 OR s.no_data_alert = $2 AND l.alert_id IS NULL)",
            &[detector.into(), alert_id.into()],
        )?;
        sql::execute(
            "UPDATE anomaly.detector_state SET no_data_alert = NULL \
              WHERE detector = $1 AND ($2 IS NULL OR no_data_alert = $2)",
            &[detector.into(), alert_id.into()],
        )
    })?;
    Ok(())
}
