//! How one point is judged, for who asks why: the scan that judges it tells.

use std::cell::RefCell;

use anomaly_core::{
    Detector, EntityState, Episode, Outcome, Phase, Transition, detector::Examination,
    gaps::Arrival,
};

thread_local! {
    static WANTED: RefCell<Option<Wanted>> = const { RefCell::new(None) };
}

struct Wanted {
    entity: String,
    at: i64,
    seen: Option<Seen>,
}

/// What happened to the point.
#[derive(Debug, Clone)]
pub struct Seen {
    pub examination: Examination,
    /// It stands in for a bucket without a value.
    pub filled: bool,
    /// The run of anomalous points that it belongs to: how many there are with it, and whether they are
    /// an alert.
    pub points: u64,
    pub phase: Phase,
    pub transition: Option<&'static str>,
}

/// Wants to know of the points of an entity at a time, until it is dropped.
pub struct Witness(());

impl Witness {
    pub fn of(entity: &str, at: i64) -> Self {
        WANTED.set(Some(Wanted { entity: entity.to_owned(), at, seen: None }));
        Witness(())
    }

    /// What has been seen of them; of several the first that is an anomaly, or else the last.
    pub fn seen(&self) -> Option<Seen> {
        WANTED.with_borrow(|wanted| wanted.as_ref()?.seen.clone())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        WANTED.set(None);
    }
}

/// The time of the points that somebody wants to know of.
pub fn wanted_at() -> Option<i64> {
    WANTED.with_borrow(|wanted| wanted.as_ref().map(|wanted| wanted.at))
}

/// Looks at a point of that time before it is judged; whether it is of the entity.
pub fn examine(
    core: &Detector,
    entity: &str,
    state: &EntityState,
    shared: &EntityState,
    arrival: &Arrival,
) -> bool {
    WANTED.with_borrow_mut(|wanted| {
        let Some(wanted) = wanted.as_mut().filter(|wanted| wanted.entity == entity) else {
            return false;
        };
        if wanted.seen.as_ref().is_some_and(|seen| seen.examination.verdict.is_anomaly) {
            return false;
        }
        wanted.seen = Some(Seen {
            examination: core.examine(state, Some(shared), arrival),
            filled: matches!(arrival, Arrival::Filled(_)),
            points: 0,
            phase: Phase::Quiet,
            transition: None,
        });
        true
    })
}

/// Takes note of what came of it.
pub fn note(state: &EntityState, outcome: &Outcome) {
    WANTED.with_borrow_mut(|wanted| {
        let Some(seen) = wanted.as_mut().and_then(|wanted| wanted.seen.as_mut()) else { return };
        let Episode { points, phase, .. } = state.episode;
        (seen.points, seen.phase) = (points, phase);
        seen.transition = outcome.transition.as_ref().map(|transition| match transition {
            Transition::Opened(_) => "opened",
            Transition::Updated(_) => "updated",
            Transition::Escalated(_) => "escalated",
            Transition::Reopened(_) => "reopened",
            Transition::Resolved(_) => "resolved",
        });
    });
}
