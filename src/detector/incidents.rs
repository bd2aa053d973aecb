//! `anomaly.incidents`: to which incident an alert belongs, and whether an alert of a detector that its own
//! depends on keeps it from being told. DESIGN.md, "Incidents".

use std::time::Duration;

use anomaly_core::incident::{Groups, Incident, Span, TAKES_IN};
use pgrx::pg_sys;

use crate::{
    detector::catalog::DetectorRow,
    error::SqlResult,
    gucs,
    pg::{internal_rights, latch, locks, session},
    run, sql,
};

/// How often the lock on an owner's incidents is tried, and how far apart: a fifth of a second in all.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Alerts that are looked at for what belongs together, the latest.
const KNOWN: i64 = 20_000;

/// A new alert, as far as it matters here.
pub struct New<'a> {
    pub entity: &'a str,
    pub span: Span,
}

/// Lets one transaction at a time say which alerts of an owner belong together, until its end. False when
/// another one has not ended: waiting for a session that is idle in its transaction would make a scan fail, so
/// that who goes on without knows less of what belongs together, and tells more.
pub fn lock(owner: pg_sys::Oid) -> bool {
    let key = locks::item_key('i', &owner.to_u32().to_string());
    for tried in 0..LOCK_TRIES {
        if tried > 0 {
            latch::wait(LOCK_PAUSE);
        }
        if locks::try_lock_in_transaction(key) {
            return true;
        }
    }
    false
}

/// Alerts of the detectors that one depends on.
pub struct Inhibitors(Vec<(i64, String, Span)>);

impl Inhibitors {
    /// Those that were open at some time since then.
    pub fn load(row: &DetectorRow, since: i64) -> SqlResult<Inhibitors> {
        if row.depends_on.is_empty() {
            return Ok(Inhibitors(Vec::new()));
        }
        let found = internal_rights::with(|| {
            sql::execute_returning(
                "SELECT alert_id, entity, at, CASE status WHEN 'resolved' THEN resolved_at END \
                   FROM anomaly.alert \
                  WHERE detector = ANY ($1) AND owner = $2::oid AND withheld IS NULL \
                    AND (status IN ('open', 'acknowledged') \
                         OR status = 'resolved' AND resolved_at >= $3) ORDER BY alert_id",
                &[row.depends_on.clone().into(), row.owner.into(), sql::timestamptz(since)?.into()],
                |r| {
                    let span = Span {
                        from: r.micros(3)?.unwrap_or_default(),
                        until: r.micros(4)?.unwrap_or(i64::MAX),
                    };
                    Ok((r.must::<i64>(1)?, r.must::<String>(2)?, span))
                },
            )
        })?;
        Ok(Inhibitors(found))
    }

    /// The first of the same entity, or of none, that was open at some of this time.
    pub fn of(&self, entity: &str, span: Span) -> Option<i64> {
        let mut all = self.0.iter();
        all.find(|(_, of, at)| (of.is_empty() || of == entity) && at.is_near(&span, 0))
            .map(|(id, ..)| *id)
    }
}

/// What alerts of a detector have in common with others.
struct Keys {
    detector: String,
    source: Option<String>,
    labels: Vec<String>,
    depends_on: Vec<String>,
}

impl Keys {
    fn of(&self, entity: &str, entity_type: Option<&str>) -> Vec<String> {
        let mut keys = vec![format!("detector {}", self.detector)];
        keys.extend(self.depends_on.iter().map(|parent| format!("detector {parent}")));
        keys.extend(self.source.iter().map(|source| format!("source {source}")));
        keys.extend(self.labels.iter().map(|label| format!("label {label}")));
        if !entity.is_empty() {
            keys.push(format!("entity {:?} {entity}", entity_type.unwrap_or_default()));
        }
        keys
    }
}

const SOURCE_KEY: &str = "COALESCE('monitor ' || d.monitor, 'table ' || d.source_relation::oid, \
                                   'query ' || d.source_query)";

/// The incidents of new alerts, in their order, those that are new stored. `None` while something is replayed:
/// a rehearsal must not wait for what is going on, nor take part in it; and for a shadow, which tells nobody.
pub fn place(row: &DetectorRow, new: &[New]) -> SqlResult<Vec<Option<i64>>> {
    let Some(first) = new.iter().map(|alert| alert.span.from).min() else { return Ok(Vec::new()) };
    if session::is_replaying() || row.shadow_of.is_some() {
        return Ok(vec![None; new.len()]);
    }
    let gap = run::micros(gucs::incident_gap());
    let mut groups = Groups::new(gap);
    if lock(row.owner) {
        know(&mut groups, row, first, gap)?;
    }
    let own = internal_rights::with(|| {
        sql::row(
            &format!("SELECT {SOURCE_KEY} FROM anomaly.detector d WHERE d.detector = $1"),
            &[row.detector.as_str().into()],
            |r| r.get::<String>(1),
        )
    })?;
    let keys = Keys {
        detector: row.detector.clone(),
        source: own.flatten(),
        labels: row.labels.clone(),
        depends_on: row.depends_on.clone(),
    };
    let mut places: Vec<usize> = (0..new.len()).collect();
    places.sort_by_key(|place| new[*place].span.from);
    let mut incidents = vec![Incident::New(0); new.len()];
    let mut started: Vec<i64> = Vec::new();
    for place in places {
        let New { entity, span } = new[place];
        let incident = groups.place(&keys.of(entity, row.entity_type.as_deref()), span);
        if incident == Incident::New(started.len()) {
            started.push(span.from);
        }
        incidents[place] = incident;
    }
    let ids = create(row.owner, &started)?;
    let id_of = |incident: Incident| match incident {
        Incident::Stored(id) => Some(id),
        Incident::New(n) => ids.get(n).copied(),
    };
    Ok(incidents.into_iter().map(id_of).collect())
}

/// The owner's alerts that new ones from `first` on may belong to.
fn know(groups: &mut Groups, row: &DetectorRow, first: i64, gap: i64) -> SqlResult<()> {
    // In a transaction that has written, a snapshot of its own: what was committed before the lock was ours is
    // seen.
    internal_rights::with(|| {
        let known = sql::execute_returning(
            &format!(
                "SELECT a.incident_id, i.started_at, a.at, \
                        CASE a.status WHEN 'resolved' THEN GREATEST(a.resolved_at, a.last_at) END, \
                        a.detector, a.entity, a.entity_type, {SOURCE_KEY}, d.labels, d.depends_on \
                   FROM anomaly.alert a JOIN anomaly.incident i USING (incident_id) \
                   LEFT JOIN anomaly.detector d ON d.detector = a.detector AND d.owner = a.owner \
                  WHERE a.owner = $1::oid AND a.withheld IS NULL AND i.started_at >= $2 \
                    AND (a.status IN ('open', 'acknowledged') \
                         OR a.status = 'resolved' AND a.resolved_at >= $3) \
                  ORDER BY a.alert_id DESC LIMIT $4"
            ),
            &[
                row.owner.into(),
                sql::timestamptz(first.saturating_sub(TAKES_IN))?.into(),
                sql::timestamptz(first.saturating_sub(gap))?.into(),
                KNOWN.into(),
            ],
            |r| {
                let keys = Keys {
                    detector: r.must(5)?,
                    source: r.get(8)?,
                    labels: r.get::<Vec<String>>(9)?.unwrap_or_default(),
                    depends_on: r.get::<Vec<String>>(10)?.unwrap_or_default(),
                };
                let keys = keys.of(&r.must::<String>(6)?, r.get::<String>(7)?.as_deref());
                let span = Span {
                    from: r.micros(3)?.unwrap_or_default(),
                    until: r.micros(4)?.unwrap_or(i64::MAX),
                };
                Ok((r.must::<i64>(1)?, r.micros(2)?.unwrap_or_default(), keys, span))
            },
        )?;
        for (incident, started, keys, span) in known {
            groups.know(incident, started, &keys, span);
        }
        Ok(())
    })
}

/// Stores incidents that began then; answers their numbers.
fn create(owner: pg_sys::Oid, started: &[i64]) -> SqlResult<Vec<i64>> {
    if started.is_empty() {
        return Ok(Vec::new());
    }
    let now = session::now();
    let times = started.iter().map(|at| sql::timestamptz(*at)).collect::<SqlResult<Vec<_>>>()?;
    internal_rights::with(|| {
        let ids = sql::execute_returning(
            "SELECT nextval('anomaly.incident_id_seq') FROM generate_series(1, $1)",
            &[(times.len() as i64).into()],
            |r| r.must::<i64>(1),
        )?;
        sql::execute(
            "INSERT INTO anomaly.incident (incident_id, owner, started_at, raised_at) \
             SELECT n.id, $1::oid, n.at, $4 FROM unnest($2::bigint[], $3::timestamptz[]) AS n (id, at)",
            &[owner.into(), ids.clone().into(), times.into(), sql::timestamptz(now)?.into()],
        )?;
        Ok(ids)
    })
}

/// Forgets incidents whose alerts have made room for others.
pub fn make_room(kept_from: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.incident i WHERE i.raised_at < $1 \
                AND NOT EXISTS (SELECT FROM anomaly.alert a WHERE a.incident_id = i.incident_id)",
            &[sql::timestamptz(kept_from)?.into()],
        )
    })?;
    Ok(())
}
