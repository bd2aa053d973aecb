//! Incidents: alerts that belong together, who is told of them, and which of them is the likely root.
//!
//! * [`Groups`] says to which incident an alert belongs.
//! * [`hear`] says what somebody hears who is told once per incident.
//! * [`rank`] says in which order the alerts of an incident may have caused each other.
//!
//! Times are µs.

use std::collections::{HashMap, HashSet};

use crate::verdict::Severity;

/// An incident takes in what begins within a day of its first alert. Without an end, one alert that stays open
/// for weeks would take in everything that happens near it, and nobody would hear of that.
pub const TAKES_IN: i64 = 86_400_000_000;

/// From when to when an alert lasts; [`i64::MAX`] while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: i64,
    pub until: i64,
}

impl Span {
    /// Whether they overlap, or lie no further apart than `gap`.
    pub fn is_near(&self, other: &Span, gap: i64) -> bool {
        self.from <= other.until.saturating_add(gap) && other.from <= self.until.saturating_add(gap)
    }

    fn with(&self, other: &Span) -> Span {
        Span { from: self.from.min(other.from), until: self.until.max(other.until) }
    }
}

/// An incident that is stored, or the n-th new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Incident {
    Stored(i64),
    New(usize),
}

/// Incidents by what their alerts have in common: an entity, a source, a label, whatever a key stands for.
#[derive(Debug)]
pub struct Groups {
    gap: i64,
    /// By key, when alerts of an incident have had it; spans of one incident that are near are one.
    by_key: HashMap<String, Vec<(Incident, Span)>>,
    started: HashMap<Incident, i64>,
    new: usize,
}

impl Groups {
    /// `gap`: how far apart in time alerts may lie that belong together.
    pub fn new(gap: i64) -> Self {
        Groups { gap: gap.max(0), by_key: HashMap::new(), started: HashMap::new(), new: 0 }
    }

    /// An alert of an incident that there is, which began at `started`.
    pub fn know(&mut self, incident: i64, started: i64, keys: &[String], span: Span) {
        let incident = Incident::Stored(incident);
        self.started.insert(incident, started);
        self.add(incident, keys, span);
    }

    /// Where an alert belongs: to the incident that began first of those that share a key with it at about the
    /// same time, or to a new one. Alerts have to come in the order in which they began.
    pub fn place(&mut self, keys: &[String], span: Span) -> Incident {
        let near = keys.iter().filter_map(|key| self.by_key.get(key)).flatten();
        let takes_in = |incident: &Incident| {
            self.started.get(incident).is_some_and(|at| span.from.abs_diff(*at) <= TAKES_IN as u64)
        };
        let found = near
            .filter(|(incident, of)| of.is_near(&span, self.gap) && takes_in(incident))
            .map(|(incident, _)| *incident)
            .min_by_key(|incident| (self.started.get(incident).copied(), *incident));
        let incident = found.unwrap_or_else(|| {
            let incident = Incident::New(self.new);
            self.new += 1;
            self.started.insert(incident, span.from);
            incident
        });
        self.add(incident, keys, span);
        incident
    }

    fn add(&mut self, incident: Incident, keys: &[String], span: Span) {
        for key in keys {
            let spans = self.by_key.entry(key.clone()).or_default();
            let same =
                |(of, at): &&mut (Incident, Span)| *of == incident && at.is_near(&span, self.gap);
            match spans.iter_mut().find(same) {
                Some((_, at)) => *at = at.with(&span),
                None => spans.push((incident, span)),
            }
        }
    }

    /// How many incidents are new.
    pub fn new_ones(&self) -> usize {
        self.new
    }
}

/// How an incident stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// An alert is open that nobody has acknowledged.
    Open,
    /// All alerts that are open are acknowledged.
    Acknowledged,
    Resolved,
    /// There was nothing in any of them.
    Withdrawn,
}

impl Whole {
    /// The status of the incident.
    pub fn as_str(self) -> &'static str {
        match self {
            Whole::Open => "open",
            Whole::Acknowledged => "acknowledged",
            Whole::Resolved => "resolved",
            Whole::Withdrawn => "withdrawn",
        }
    }
}

/// What somebody has heard of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The highest so far.
    pub severity: Severity,
    /// They heard that it has ended.
    pub ended: bool,
}

/// What somebody hears who is told of incidents and not of each alert, when this happens to an alert, and what
/// they have heard by then: of the first alert, of a severity that nothing before had, and of the end. `whole`: how
/// the incident stands after all that has happened together; `is_last`: whether this is the last of it. What has
/// begun and ended again when somebody could first hear of it opens nothing that they have heard is over.
pub fn hear(
    heard: Option<Heard>,
    transition: &str,
    severity: Severity,
    whole: Whole,
    is_last: bool,
) -> (Option<&'static str>, Option<Heard>) {
    let is_over = matches!(whole, Whole::Resolved | Whole::Withdrawn);
    match (transition, heard) {
        ("opened" | "reopened" | "escalated", None) => {
            (Some("opened"), Some(Heard { severity, ended: false }))
        }
        ("opened" | "reopened" | "escalated", Some(h)) if h.ended && !is_over => {
            let severity = severity.max(h.severity);
            (Some("reopened"), Some(Heard { severity, ended: false }))
        }
        ("opened" | "reopened" | "escalated", Some(h)) if severity > h.severity => {
            (Some("escalated"), Some(Heard { severity, ..h }))
        }
        ("acknowledged", Some(h)) if !h.ended && is_last && whole == Whole::Acknowledged => {
            (Some("acknowledged"), heard)
        }
        ("resolved" | "withdrawn", Some(h)) if !h.ended && is_last && is_over => {
            (Some(whole.as_str()), Some(Heard { ended: true, ..h }))
        }
        _ => (None, heard),
    }
}

/// An alert of an incident, as far as it matters for what caused what.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    pub alert: i64,
    pub detector: String,
    /// When it began.
    pub from: i64,
    pub severity: Severity,
    /// `None` where no model has judged: no data, errors.
    pub deviation: Option<f64>,
}

/// A suspect's place, and why it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    pub alert: i64,
    /// Detectors with alerts in the incident on which its own depends, near or far.
    pub depends_on: Vec<String>,
    pub reason: String,
}

/// The likely root first. What depends on nothing that has an alert comes before what does, and what depends on
/// fewer before what depends on more; of these, what began first; of these, the higher severity and then the larger
/// deviation. `depends_on` names the detectors that a detector depends on. A pure function: the order in which
/// suspects come does not matter.
pub fn rank(suspects: &[Suspect], depends_on: &HashMap<String, Vec<String>>) -> Vec<Ranked> {
    let present: HashSet<&str> = suspects.iter().map(|s| s.detector.as_str()).collect();
    let parents: HashMap<&str, Vec<String>> = present
        .iter()
        .map(|detector| (*detector, ancestors(detector, depends_on, &present)))
        .collect();
    let of =
        |suspect: &Suspect| parents.get(suspect.detector.as_str()).map_or(&[][..], Vec::as_slice);
    let mut order: Vec<&Suspect> = suspects.iter().collect();
    order.sort_by(|a, b| {
        let deviation =
            |s: &Suspect| s.deviation.filter(|d| !d.is_nan()).unwrap_or(f64::NEG_INFINITY);
        of(a)
            .len()
            .cmp(&of(b).len())
            .then(a.from.cmp(&b.from))
            .then(b.severity.cmp(&a.severity))
            .then(deviation(b).total_cmp(&deviation(a)))
            .then(a.alert.cmp(&b.alert))
    });
    let mut before: Option<&Suspect> = None;
    let mut ranked = Vec::with_capacity(order.len());
    for (i, suspect) in order.iter().enumerate() {
        let parents = of(suspect);
        let next = order.get(i + 1).copied();
        let reason = match (before, next) {
            (None, None) => "the only alert".to_owned(),
            (None, Some(next)) if of(next).len() > parents.len() => {
                "depends on nothing else that has an alert".to_owned()
            }
            (None, Some(next)) if next.from > suspect.from => "began first".to_owned(),
            (None, Some(_)) => "began first, with others, and is the most severe".to_owned(),
            (Some(_), _) if !parents.is_empty() => {
                format!("depends on {}", parents.join(", "))
            }
            (Some(before), _) if suspect.from > before.from => {
                format!("began {} later", length(suspect.from.saturating_sub(order[0].from)))
            }
            (Some(_), _) => "began at the same time".to_owned(),
        };
        ranked.push(Ranked { alert: suspect.alert, depends_on: parents.to_vec(), reason });
        before = Some(suspect);
    }
    ranked
}

/// Which of `present` a detector depends on, through others too, sorted. Itself is none of them, also in a circle.
fn ancestors(
    detector: &str,
    depends_on: &HashMap<String, Vec<String>>,
    present: &HashSet<&str>,
) -> Vec<String> {
    let mut seen = HashSet::from([detector]);
    let mut next = vec![detector];
    let mut found = Vec::new();
    while let Some(child) = next.pop() {
        for parent in depends_on.get(child).into_iter().flatten() {
            if seen.insert(parent) {
                next.push(parent);
                if present.contains(parent.as_str()) {
                    found.push(parent.clone());
                }
            }
        }
    }
    found.sort();
    found
}

/// A length of time for people: its two largest units.
pub fn length(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, of) in units {
        let count = rest / of;
        rest %= of;
        if count > 0 || unit == "s" && parts.is_empty() {
            parts.push(format!("{count} {unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn span(from: i64, until: i64) -> Span {
        Span { from: from * MINUTE, until: until.saturating_mul(MINUTE) }
    }

    #[test]
    fn what_shares_a_key_at_about_the_same_time_is_one_incident() {
        let mut groups = Groups::new(15 * MINUTE);
        let first = groups.place(&keys(&["web1", "cpu"]), span(0, 10));
        assert_eq!(
            groups.place(&keys(&["web1", "memory"]), span(25, 30)),
            first,
            "just within the gap"
        );
        assert_ne!(
            groups.place(&keys(&["web2", "disk"]), span(26, 30)),
            first,
            "nothing in common"
        );
        assert_eq!(
            groups.place(&keys(&["web3", "memory"]), span(40, i64::MAX)),
            first,
            "by what came in between"
        );
        assert_ne!(groups.place(&keys(&["web1"]), span(46, 47)), first, "too late for its entity");
        assert_eq!(
            groups.place(&keys(&["memory"]), span(600, 601)),
            first,
            "one of it is still open"
        );
        assert_eq!(groups.new_ones(), 3);
    }

    #[test]
    fn an_incident_takes_in_nothing_after_a_day() {
        let mut groups = Groups::new(15 * MINUTE);
        groups.know(7, 0, &keys(&["web1"]), span(0, i64::MAX));
        assert_eq!(groups.place(&keys(&["web1"]), span(24 * 60, i64::MAX)), Incident::Stored(7));
        let next = groups.place(&keys(&["web1"]), span(24 * 60 + 1, i64::MAX));
        assert_eq!(next, Incident::New(0));
        assert_eq!(groups.place(&keys(&["web1"]), span(24 * 60 + 2, i64::MAX)), next);
    }

    #[test]
    fn of_several_incidents_the_one_that_began_first_takes_it() {
        let mut groups = Groups::new(0);
        groups.know(9, 5 * MINUTE, &keys(&["a"]), span(5, i64::MAX));
        groups.know(8, 6 * MINUTE, &keys(&["b"]), span(6, i64::MAX));
        assert_eq!(groups.place(&keys(&["b", "a"]), span(10, 12)), Incident::Stored(9));
        assert_eq!(
            groups.place(&keys(&["b"]), span(12, 13)),
            Incident::Stored(9),
            "and what follows by either key"
        );
    }

    #[test]
    fn without_keys_each_is_alone_and_extreme_times_do_no_harm() {
        let mut groups = Groups::new(i64::MAX);
        let first = groups.place(&[], Span { from: i64::MIN, until: i64::MAX });
        assert_ne!(groups.place(&[], Span { from: i64::MAX, until: i64::MAX }), first);
        let a = groups.place(&keys(&["a"]), Span { from: i64::MIN, until: i64::MIN });
        assert_ne!(
            groups.place(&keys(&["a"]), Span { from: i64::MAX, until: i64::MAX }),
            a,
            "a day at most"
        );
        assert_eq!(Groups::new(-5).gap, 0);
    }

    #[test]
    fn who_is_told_per_incident_hears_of_the_first_of_what_is_worse_and_of_the_end() {
        use Severity::*;
        let (told, heard) = hear(None, "opened", Warning, Whole::Open, true);
        assert_eq!(told, Some("opened"));
        assert_eq!(hear(heard, "opened", Warning, Whole::Open, true), (None, heard));
        assert_eq!(hear(heard, "opened", Info, Whole::Open, true), (None, heard));
        let (told, heard) = hear(heard, "opened", Emergency, Whole::Open, false);
        assert_eq!(told, Some("escalated"));
        assert_eq!(hear(heard, "escalated", Critical, Whole::Open, true), (None, heard));
        assert_eq!(hear(heard, "acknowledged", Critical, Whole::Open, true), (None, heard));
        let (told, _) = hear(heard, "acknowledged", Critical, Whole::Acknowledged, true);
        assert_eq!(told, Some("acknowledged"));
        // Others are open, or more has happened.
        assert_eq!(hear(heard, "resolved", Emergency, Whole::Open, true), (None, heard));
        assert_eq!(hear(heard, "resolved", Emergency, Whole::Resolved, false), (None, heard));
        assert_eq!(hear(heard, "withdrawn", Warning, Whole::Withdrawn, true).0, Some("withdrawn"));
        let (told, heard) = hear(heard, "resolved", Warning, Whole::Resolved, true);
        assert_eq!(told, Some("resolved"));
        assert_eq!(hear(heard, "withdrawn", Warning, Whole::Resolved, true), (None, heard));
        // Another alert of it that is over by the time somebody looks: nothing opens again.
        assert_eq!(hear(heard, "opened", Info, Whole::Resolved, false), (None, heard));
        let (told, heard) = hear(heard, "opened", Info, Whole::Open, true);
        assert_eq!(told, Some("reopened"));
        assert_eq!(heard, Some(Heard { severity: Emergency, ended: false }));
        // Worse than all before is told in any case.
        let ended = Some(Heard { severity: Warning, ended: true });
        let (told, heard) = hear(ended, "opened", Critical, Whole::Resolved, false);
        assert_eq!(told, Some("escalated"));
        assert_eq!(heard, Some(Heard { severity: Critical, ended: true }));
        // Who has heard nothing of it hears nothing of its end either.
        for transition in ["resolved", "withdrawn", "acknowledged"] {
            assert_eq!(hear(None, transition, Warning, Whole::Resolved, true), (None, None));
        }
        assert_eq!(hear(None, "escalated", Critical, Whole::Open, true).0, Some("opened"));
    }

    fn suspect(
        alert: i64,
        detector: &str,
        from: i64,
        severity: Severity,
        deviation: Option<f64>,
    ) -> Suspect {
        Suspect { alert, detector: detector.to_owned(), from: from * MINUTE, severity, deviation }
    }

    fn order(ranked: &[Ranked]) -> Vec<i64> {
        ranked.iter().map(|r| r.alert).collect()
    }

    fn depends(on: &[(&str, &[&str])]) -> HashMap<String, Vec<String>> {
        on.iter().map(|(child, parents)| ((*child).to_owned(), keys(parents))).collect()
    }

    #[test]
    fn what_others_depend_on_is_the_root_then_what_began_first_then_the_most_severe() {
        use Severity::*;
        let suspects = [
            suspect(1, "web", 0, Emergency, Some(9.0)),
            suspect(2, "db", 3, Warning, Some(2.5)),
            suspect(3, "cache", 3, Critical, None),
            suspect(4, "other", 9, Critical, Some(4.0)),
            suspect(5, "other", 9, Critical, Some(4.5)),
        ];
        // through a detector that has no alert
        let on = depends(&[("web", &["pool"]), ("pool", &["db"])]);
        let ranked = rank(&suspects, &on);
        assert_eq!(order(&ranked), [3, 2, 5, 4, 1]);
        assert_eq!(ranked[0].reason, "began first, with others, and is the most severe");
        assert_eq!(ranked[2].reason, "began 6 min later");
        assert_eq!(ranked[4].reason, "depends on db");
        assert_eq!(order(&rank(&suspects, &HashMap::new())), [1, 3, 2, 5, 4]);
        assert_eq!(rank(&suspects[..1], &on)[0].reason, "the only alert");
        let two = rank(&suspects[..2], &on);
        assert_eq!(
            (two[0].alert, two[0].reason.as_str()),
            (2, "depends on nothing else that has an alert")
        );
        assert!(rank(&[], &on).is_empty());
    }

    #[test]
    fn circles_and_the_order_of_suspects_change_nothing() {
        use Severity::*;
        let mut suspects = vec![
            suspect(1, "a", 2, Info, Some(f64::NAN)),
            suspect(2, "b", 1, Info, Some(f64::INFINITY)),
            suspect(3, "c", 1, Info, Some(2.0)),
        ];
        let on = depends(&[("a", &["b"]), ("b", &["a", "b"]), ("c", &["b"])]);
        let ranked = order(&rank(&suspects, &on));
        assert_eq!(ranked, [2, 1, 3]);
        for _ in 0..3 {
            suspects.rotate_left(1);
            assert_eq!(order(&rank(&suspects, &on)), ranked);
        }
    }

    #[test]
    fn lengths_have_two_units_at_most() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_661, "1 h 1 min"),
            (86_400, "1 d"),
            (90_061, "1 d 1 h"),
            (86_460, "1 d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(length(seconds * 1_000_000), text);
        }
        assert_eq!(length(i64::MIN), "0 s");
    }
}
