//! What the triggers of `anomaly.watch_writes` do: rows are judged in the statement that writes them, by
//! what detectors have learned so far. Nothing is learned here and no alert is raised: the next scan does both.
//!
//! Whoever writes the rows need not own the detector. Rows are read with the writer's rights, from the
//! statement's own table of new rows; states are read, and verdicts written, by fixed SQL with the
//! extension's. Each detector has a subtransaction: what goes wrong is told and recorded, and the
//! statement goes on.
//!
//! Decoded states are kept for as long as the session lasts, and nothing of them is read again while the
//! detector's rows in the catalogue are the same versions: whatever changes states writes one of those.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use anomaly_core::{Detector, EntityState, Point, Verdict, guidance::Guidance};
use pgrx::{
    PgLogLevel, PgSqlErrorCode,
    datum::{TimestampWithTimeZone, ToIsoString},
    pg_sys::{self, panic::ErrorReport},
    spi::quote_literal,
};
use serde_json::json;

use crate::{
    detector::{
        catalog::{DetectorRow, Feed},
        feedback::Guidances,
        sampling::Features,
        source::written_query,
        states::{decode_entity, decode_shared},
    },
    error::{SqlResult, invalid, report},
    gucs,
    pg::{
        bgworker, internal_rights, memory, session, stream,
        subxact::{self, Caught},
        written_rows::{NAME, Take, WrittenRows},
    },
    sql,
};

/// Slots of the ring of `anomaly.row_score`, one a day.
pub const SLOTS: i64 = 8;
/// Rows that are held at a time, whatever the size of the statement.
const ROWS: u32 = 4096;
/// Entities whose states are looked up by one query.
const ENTITIES: u32 = 256;
/// A session records at most one failure of a detector in so long, µs.
const RECORD_EVERY: i64 = 60_000_000;
/// Calendars are not looked up further in the future than this, µs.
const FARTHEST: i64 = 366 * 86_400_000_000;

/// What is done with verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All are stored.
    Annotate,
    /// Those of anomalous rows are stored, and told.
    Notify,
    /// An anomalous row is an error.
    Reject,
}

impl Mode {
    /// # Errors
    /// 22023 listing the modes.
    pub fn parse(text: &str) -> SqlResult<Mode> {
        match text {
            "annotate" => Ok(Mode::Annotate),
            "notify" => Ok(Mode::Notify),
            "reject" => Ok(Mode::Reject),
            _ => Err(invalid(
                format!("unknown mode \"{text}\""),
                "modes are annotate (store a verdict for each row), notify (store and NOTIFY anomalous rows) \
                 and reject (an anomalous row is an error)",
            )),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Annotate => "annotate",
            Mode::Notify => "notify",
            Mode::Reject => "reject",
        }
    }
}

/// The slot of a time.
pub fn slot(at: i64) -> i16 {
    at.div_euclid(86_400_000_000).rem_euclid(SLOTS) as i16
}

/// Whether rows of this detector's source can be judged by themselves, in a trigger on it; its table then.
///
/// # Errors
/// 0A000 or 42809 with what to do instead, 42P01 when the table is gone.
pub fn check_fits(row: &DetectorRow) -> SqlResult<pg_sys::Oid> {
    let unfit = |why: String, hint: &str| {
        Err(report(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, why).set_hint(hint))
    };
    let detector = &row.detector;
    let oid = match &row.feed {
        Feed::Relation { oid, .. } => *oid,
        Feed::Query { .. } => {
            return unfit(
                format!(
                    "detector \"{detector}\" reads a query, not a table that rows are written to"
                ),
                "watch the table itself: SELECT * FROM anomaly.watch('your_table', …)",
            );
        }
        Feed::Samples | Feed::Points { .. } => {
            return unfit(
                format!("detector \"{detector}\" reads no table"),
                "it judges what anomaly.process_data_point or its monitor brings, when it is brought",
            );
        }
    };
    if row.sampling.bucket.is_some() {
        return unfit(
            format!("detector \"{detector}\" judges buckets of rows, not rows"),
            "watch the table by a detector without bucket, whose points are the rows themselves",
        );
    }
    if anomaly_core::strategy::strategy_info(&row.strategy).is_err() {
        return unfit(
            format!("strategy {} of detector \"{detector}\" is not built in", row.strategy),
            "SELECT strategy FROM anomaly.strategies names those that judge rows as they are written",
        );
    }
    check_table(row, oid)?;
    Ok(oid)
}

/// # Errors
/// 42P01, 42809, 42501: see [`check_fits`].
fn check_table(row: &DetectorRow, oid: pg_sys::Oid) -> SqlResult<()> {
    struct Table {
        name: String,
        kind: String,
        is_partition: bool,
        is_ours: bool,
        hides_rows: bool,
        owner: pg_sys::Oid,
    }
    let found = sql::row(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::pg_catalog.text, c.relispartition, \
                n.nspname OPERATOR(pg_catalog.=) 'anomaly', \
                c.relrowsecurity AND c.relforcerowsecurity, c.relowner \
           FROM pg_catalog.pg_class c \
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
          WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[oid.into()],
        |r| {
            Ok(Table {
                name: r.must(1)?,
                kind: r.must(2)?,
                is_partition: r.must(3)?,
                is_ours: r.must(4)?,
                hides_rows: r.must(5)?,
                owner: r.must(6)?,
            })
        },
    )?;
    let Some(table) = found else {
        return row.source().map(|_| ());
    };
    let name = &table.name;
    let wrong = |what: &str, hint: &str| {
        Err(report(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("{name} {what}"))
            .set_hint(hint))
    };
    match table.kind.as_str() {
        "r" | "p" => {}
        "f" => {
            return wrong(
                "is a foreign table, whose triggers cannot see the rows of a statement",
                "watch writes on the server that holds the table, or let anomaly.scan() find them here",
            );
        }
        _ => {
            return wrong(
                "is no table: rows are not written to it",
                "watch the tables that rows are written to",
            );
        }
    }
    if table.is_partition {
        return wrong(
            "is a partition, which does not see rows that are written to the table it is part of",
            "watch the partitioned table",
        );
    }
    if table.is_ours {
        return wrong("belongs to anomaly_detection", "watch tables of your own");
    }
    if table.hides_rows {
        return Err(report(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{name} hides rows from its own owner: verdicts on them must not be stored"),
        )
        .set_hint(format!("ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")));
    }
    if !session::has_privileges_of(row.owner, table.owner) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "the owner of detector \"{}\" does not own {name}, and would see rows that are not theirs",
                row.detector
            ),
        )
        .set_hint("create the detector as the owner of the table"));
    }
    Ok(())
}

/// A detector that the rows of a statement are for.
struct Check {
    detector: String,
    /// Tells versions of everything that a verdict depends on.
    version: String,
    /// The table it reads is this one.
    reads_this: bool,
    /// There are judgements or calendars that may change verdicts.
    is_guided: bool,
}

/// What is known of a detector's rows in the catalogue, and of its table's columns and primary key.
const CHECKS: &str = "\
    SELECT w.detector, \
           concat_ws(' ', w.xmin, w.ctid, d.xmin, d.ctid, s.xmin, s.ctid, m.xmin, m.ctid, \
               (SELECT string_agg(concat(p.xmin, p.ctid), ' ') \
                  FROM anomaly.member_performance p WHERE p.detector = w.detector), \
               c.xmin, c.ctid, \
               (SELECT string_agg(concat_ws(' ', a.attnum, a.xmin, a.ctid), ' ' ORDER BY a.attnum) \
                  FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0), \
               (SELECT concat(i.xmin, i.ctid) FROM pg_index i \
                 WHERE i.indrelid = $1::oid AND i.indisprimary)), \
           COALESCE(d.source_relation::oid = $1::oid, false), \
           EXISTS (SELECT FROM anomaly.judgement j WHERE j.detector = w.detector AND j.side IS NOT NULL) \
               OR EXISTS (SELECT FROM anomaly.calendar e WHERE e.action = 'expect' \
                    AND (e.detector = w.detector OR e.detector IS NULL AND e.owner = d.owner)) \
      FROM anomaly.write_check w \
      JOIN anomaly.detector d ON d.detector = w.detector \
      JOIN anomaly.detector_state s ON s.detector = w.detector \
      LEFT JOIN anomaly.model m ON m.detector = w.detector AND m.active \
      LEFT JOIN pg_class c ON c.oid = $1::oid \
     WHERE w.source_relation::oid = $1::oid AND (w.updates OR NOT $2) AND d.enabled \
       AND (SELECT x.database_oid FROM anomaly.setting x) = $3::oid \
     ORDER BY w.detector";

thread_local! {
    static KNOWN: RefCell<HashMap<String, Known>> = RefCell::default();
    static FAILING: RefCell<HashMap<String, Failing>> = RefCell::default();
    static CHECKS_PLAN: sql::KeptPlan = const { Cell::new(None) };
}

/// A detector that could not judge the last statement of this session.
#[derive(Default)]
struct Failing {
    message: String,
    /// Statements that have not been recorded.
    statements: i64,
    recorded_at: Option<i64>,
}

/// Judges the rows of a statement by the detectors that watch the writes of its table.
///
/// # Errors
/// 23514 for an anomalous row, where one is to be rejected. Nothing else but a cancel or a shutdown.
pub fn check(rows: &WrittenRows) -> SqlResult<()> {
    if !gucs::write_check() {
        return Ok(());
    }
    let checks = match subxact::attempt(|| checks(rows)) {
        Ok(checks) => checks,
        Err(caught) => {
            // No detector to record it for.
            if FAILING.with_borrow_mut(|f| f.insert(String::new(), Failing::default())).is_none() {
                warn("rows were written without being judged", &caught);
            }
            return Ok(());
        }
    };
    FAILING.with_borrow_mut(|f| f.remove(""));
    for check in &checks {
        match subxact::attempt(|| judge(check, rows)) {
            Ok(None) => FAILING.with_borrow_mut(|f| f.remove(&check.detector)).map_or((), drop),
            Ok(Some(rejected)) => return Err(rejected),
            Err(caught) => failed(check, &caught),
        }
    }
    Ok(())
}

fn checks(rows: &WrittenRows) -> SqlResult<Vec<Check>> {
    internal_rights::with(|| {
        sql::rows_kept(
            &CHECKS_PLAN,
            CHECKS,
            &[pg_sys::OIDOID, pg_sys::BOOLOID, pg_sys::OIDOID],
            &[rows.relation().into(), rows.is_update().into(), bgworker::my_database().into()],
            |row| {
                Ok(Check {
                    detector: row.must(1)?,
                    version: row.must(2)?,
                    reads_this: row.must(3)?,
                    is_guided: row.must(4)?,
                })
            },
        )
    })
}

fn warn(what: &str, caught: &Caught) {
    let mut warning = report(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("{what}: {} ({})", caught.message, caught.sqlstate),
    );
    if let Some(detail) = &caught.detail {
        warning = warning.set_detail(detail.clone());
    }
    if let Some(hint) = &caught.hint {
        warning = warning.set_hint(hint.clone());
    }
    warning.report(PgLogLevel::WARNING);
}

/// Tells that rows were not judged, once, and records it from time to time.
fn failed(check: &Check, caught: &Caught) {
    let now = session::now();
    let (is_news, statements) = FAILING.with_borrow_mut(|all| {
        let failing = all.entry(check.detector.clone()).or_default();
        let is_news = failing.message != caught.message;
        failing.message.clone_from(&caught.message);
        failing.statements += 1;
        let is_due =
            is_news || failing.recorded_at.is_none_or(|at| (now - at).abs() >= RECORD_EVERY);
        if is_due {
            failing.recorded_at = Some(now);
            (is_news, std::mem::take(&mut failing.statements))
        } else {
            (is_news, 0)
        }
    });
    if is_news {
        let what =
            format!("rows were written without being judged by detector \"{}\"", check.detector);
        warn(&what, caught);
    }
    if statements == 0 {
        return;
    }
    // In a subtransaction of its own: where even this fails, the statement still goes on.
    let recorded = subxact::attempt(|| {
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.write_failure (detector, failed_at, statements, error_code, message, hint) \
                 SELECT d.detector, $2, $3, $4, $5, $6 FROM anomaly.detector d WHERE d.detector = $1",
                &[
                    check.detector.as_str().into(),
                    sql::timestamptz(now)?.into(),
                    statements.into(),
                    caught.sqlstate.as_str().into(),
                    caught.message.as_str().into(),
                    caught.hint.as_deref().into(),
                ],
            )
        })
    });
    if let Err(caught) = recorded {
        pgrx::debug1!("a failure to judge rows was not recorded: {}", caught.message);
    }
}

/// Forgets failures that are older than verdicts are kept.
pub fn forget_failures(kept_from: i64) -> SqlResult<()> {
    internal_rights::with(|| {
        sql::execute(
            "DELETE FROM anomaly.write_failure WHERE failed_at < $1",
            &[sql::timestamptz(kept_from)?.into()],
        )
    })?;
    Ok(())
}

/// What is kept of a detector between statements.
struct Known {
    version: String,
    row: DetectorRow,
    mode: Mode,
    core: Detector,
    shared: Option<EntityState>,
    table: pg_sys::Oid,
    /// Reads the rows that are written.
    query: String,
    model: i32,
    /// Bytes of everything above and below.
    held: usize,
    /// New ones for entities that the detector does not know.
    states: HashMap<Vec<u8>, EntityState>,
}

impl Known {
    fn load(check: &Check) -> SqlResult<Known> {
        let before = memory::held();
        let row = DetectorRow::load(&check.detector)?;
        if !check.reads_this {
            return Err(report(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("detector \"{}\" was altered and reads another table now", row.detector),
            )
            .set_hint(format!(
                "SELECT * FROM anomaly.watch_writes({})",
                quote_literal(&row.detector)
            )));
        }
        let oid = check_fits(&row)?;
        row.check_model_fits()?;
        let Some(model) = &row.model else { return Err(untrained(&row)) };
        let mode = internal_rights::with(|| {
            sql::row(
                "SELECT mode FROM anomaly.write_check WHERE detector = $1",
                &[row.detector.as_str().into()],
                |r| Mode::parse(&r.must::<String>(1)?),
            )
        })?;
        let mut core = row.detection(model.points_per_day)?;
        if mode != Some(Mode::Annotate) {
            core = core.with_ranges_of_anomalies_only();
        }
        // A model of one entity has nothing to say about another.
        let shared = match model.entities {
            0 | 1 => None,
            _ => Some(decode_shared(&core, &row.detector, &model.payload)?),
        };
        let query = match row.source()? {
            Some((source, columns)) => {
                let key = primary_key(oid)?;
                written_query(&source, columns, &row.sampling, &row.time_zone, &key, NAME)?
            }
            None => return Err(untrained(&row)),
        };
        Ok(Known {
            version: check.version.clone(),
            mode: mode.unwrap_or(Mode::Annotate),
            model: model.version,
            core,
            shared,
            table: oid,
            query,
            held: memory::held().saturating_sub(before),
            states: HashMap::new(),
            row,
        })
    }

    /// Makes sure that the states of these entities are there.
    fn find(&mut self, entities: &[Vec<u8>]) -> SqlResult<()> {
        let is_missing = |name: &&Vec<u8>| !self.states.contains_key(*name);
        if !entities.iter().any(|name| is_missing(&name)) {
            return Ok(());
        }
        if self.held > gucs::write_check_memory() {
            self.forget();
        }
        let missing: Vec<String> = entities
            .iter()
            .filter(|name| !self.states.contains_key(*name))
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let before = memory::held();
        let stored = internal_rights::with(|| {
            sql::rows(
                "SELECT entity, payload FROM anomaly.entity_state \
                 WHERE detector = $1 AND version = $2 AND entity = ANY ($3)",
                &[self.row.detector.as_str().into(), self.model.into(), missing.clone().into()],
                |r| Ok((r.must::<String>(1)?, r.must::<Vec<u8>>(2)?)),
            )
        })?;
        for (entity, payload) in stored {
            let state = decode_entity(&self.core, &self.row.detector, &entity, &payload)?;
            self.states.insert(entity.into_bytes(), state);
        }
        for entity in missing {
            self.states.entry(entity.into_bytes()).or_insert_with(|| self.core.new_state());
        }
        self.held += memory::held().saturating_sub(before);
        Ok(())
    }

    fn forget(&mut self) {
        let before = memory::held();
        self.states = HashMap::new();
        self.held = self.held.saturating_sub(before.saturating_sub(memory::held()));
    }
}

/// 55000 for a detector without a model.
pub fn untrained(row: &DetectorRow) -> ErrorReport {
    report(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("detector \"{}\" has not been trained", row.detector),
    )
    .set_hint(format!("SELECT anomaly.train({})", quote_literal(&row.detector)))
}

/// The columns of a table's primary key; none where it has none.
fn primary_key(oid: pg_sys::Oid) -> SqlResult<Vec<String>> {
    sql::rows(
        "SELECT a.attname::pg_catalog.text \
           FROM pg_catalog.pg_index i \
           CROSS JOIN pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k (attnum, place) \
           JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
                                         AND a.attnum OPERATOR(pg_catalog.=) k.attnum \
          WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary \
            AND k.place OPERATOR(pg_catalog.<=) i.indnkeyatts ORDER BY k.place",
        &[oid.into()],
        |row| row.must::<String>(1),
    )
}

/// Judges the rows of a statement by one detector; the error to raise for a row that is to be rejected.
fn judge(check: &Check, rows: &WrittenRows) -> SqlResult<Option<ErrorReport>> {
    // What fails is not put back, and read anew the next time.
    let known = KNOWN.with_borrow_mut(|all| all.remove(&check.detector));
    let known = match known.filter(|known| known.version == check.version) {
        Some(known) => known,
        None => {
            make_room();
            Known::load(check)?
        }
    };
    let query = known.query.clone();
    let mut judging = Judging {
        features: known.row.new_features(),
        known,
        is_guided: check.is_guided,
        written: Vec::new(),
        columns: Vec::new(),
        entities: HashMap::new(),
        names: Vec::new(),
        judged_at: session::now(),
        anomalous: 0,
        rejected: None,
    };
    rows.read(&query, ROWS, &mut judging)?;
    judging.tell()?;
    let Judging { known, rejected, .. } = judging;
    KNOWN.with_borrow_mut(|all| all.insert(check.detector.clone(), known));
    Ok(rejected)
}

/// Forgets the states of all detectors when they take more than they may.
fn make_room() {
    KNOWN.with_borrow_mut(|all| {
        if all.values().map(|known| known.held).sum::<usize>() > gucs::write_check_memory() {
            all.clear();
        }
    });
}

/// A row as it was written.
struct Written {
    at: i64,
    value: f64,
    trials: f64,
    entity: u32,
    key: Option<String>,
}

/// Rows of a statement that are judged, some at a time.
struct Judging {
    known: Known,
    is_guided: bool,
    features: Features,
    written: Vec<Written>,
    /// Further columns, as many of each row.
    columns: Vec<f64>,
    entities: HashMap<Vec<u8>, u32>,
    names: Vec<Vec<u8>>,
    /// One time for all rows of the statement, by which listeners find them.
    judged_at: i64,
    anomalous: i64,
    rejected: Option<ErrorReport>,
}

impl Take for Judging {
    fn row(&mut self, row: &stream::Row) -> SqlResult<()> {
        // A scan does not read such rows either.
        let Some(at) = row.int8(0).filter(|at| ![i64::MIN, i64::MAX].contains(at)) else {
            return Ok(());
        };
        let Some(value) = row.float8(1) else { return Ok(()) };
        let (entities, names) = (&mut self.entities, &mut self.names);
        let mut number = |name: &[u8]| match entities.get(name) {
            Some(number) => *number,
            None => {
                let number = names.len() as u32;
                entities.insert(name.to_vec(), number);
                names.push(name.to_vec());
                number
            }
        };
        let entity = match row.with_bytes(2, &mut number) {
            Some(entity) => entity,
            None => number(b""),
        };
        self.features.read(row, |_, _| ());
        self.columns.extend_from_slice(&self.features.values);
        let key = row.text(4 + self.features.values.len());
        let trials = row.float8(3).unwrap_or(f64::NAN);
        self.written.push(Written { at, value, trials, entity, key });
        Ok(())
    }

    fn rest(&mut self) -> SqlResult<bool> {
        let judged = self.judge()?;
        if self.known.mode == Mode::Reject {
            if let Some((row, verdict)) = judged.iter().min_by_key(|(row, _)| *row) {
                self.rejected = Some(self.rejection(*row, verdict)?);
            }
        } else {
            self.store(judged)?;
        }
        self.written.clear();
        self.columns.clear();
        self.entities.clear();
        self.names.clear();
        Ok(self.rejected.is_none())
    }
}

impl Judging {
    /// The verdicts that somebody asked for, with the numbers of their rows: all, or those of anomalies.
    fn judge(&mut self) -> SqlResult<Vec<(usize, Verdict)>> {
        let Judging { known, written, names, .. } = self;
        let guidances = match written.iter().map(|row| row.at).max().filter(|_| self.is_guided) {
            Some(at) => Some(Guidances::load(
                &known.row,
                Some(at.min(session::now().saturating_add(FARTHEST))),
            )?),
            None => None,
        };
        let mut order: Vec<usize> = (0..written.len()).collect();
        order.sort_by_key(|row| written[*row].entity);
        let width = self.columns.len() / written.len().max(1);
        let mut judged = Vec::new();
        let mut order = order.into_iter().peekable();
        while let Some(first) = order.peek().map(|row| written[*row].entity) {
            let end = first.saturating_add(ENTITIES).min(names.len() as u32);
            known.find(&names[first as usize..end as usize])?;
            for entity in first..end {
                let Known { states, core, shared, mode, .. } = &mut *known;
                let name = &names[entity as usize];
                let Some(state) = states.get_mut(name) else { continue };
                state.guidance = match &guidances {
                    Some(guidances) => guidances.of(&String::from_utf8_lossy(name)),
                    None => Guidance::default(),
                };
                while let Some(row) = order.next_if(|row| written[*row].entity == entity) {
                    pgrx::check_for_interrupts!();
                    let Written { at, value, trials, .. } = written[row];
                    let features = &self.columns[row * width..][..width];
                    let point = Point { at, value, trials, features };
                    let verdict = core.preview(state, shared.as_ref(), &point);
                    if verdict.is_anomaly || *mode == Mode::Annotate {
                        judged.push((row, verdict));
                    }
                }
            }
        }
        Ok(judged)
    }

    fn entity(&self, row: usize) -> String {
        let name = &self.names[self.written[row].entity as usize];
        String::from_utf8_lossy(name).into_owned()
    }

    fn store(&mut self, mut judged: Vec<(usize, Verdict)>) -> SqlResult<()> {
        if judged.is_empty() {
            return Ok(());
        }
        // As they were written.
        judged.sort_by_key(|(row, _)| *row);
        let known = |x: f64| (!x.is_nan()).then_some(x);
        let count = judged.len();
        let mut keys: Vec<Option<String>> = Vec::with_capacity(count);
        let mut entities: Vec<String> = Vec::with_capacity(count);
        let mut times: Vec<TimestampWithTimeZone> = Vec::with_capacity(count);
        let mut numbers: [Vec<Option<f64>>; 7] = Default::default();
        let mut anomalies: Vec<bool> = Vec::with_capacity(count);
        let mut status: Vec<String> = Vec::with_capacity(count);
        for (row, verdict) in &judged {
            entities.push(self.entity(*row));
            times.push(sql::timestamptz(verdict.at)?);
            let figures = [
                Some(verdict.value),
                known(verdict.expected),
                known(verdict.lower),
                known(verdict.upper),
                Some(verdict.score()),
                Some(verdict.p_value()),
                Some(verdict.deviation()),
            ];
            for (column, figure) in numbers.iter_mut().zip(figures) {
                column.push(figure);
            }
            anomalies.push(verdict.is_anomaly);
            status.push(verdict.status.to_string());
            if verdict.is_anomaly {
                self.anomalous += 1;
            }
            keys.push(self.written[*row].key.take());
        }
        let [value, expected, lower, upper, score, p_value, deviation] = numbers;
        let row = &self.known.row;
        internal_rights::with(|| {
            sql::execute(
                "INSERT INTO anomaly.row_score (slot, detector, owner, row_key, entity, at, value, \
                    expected, lower, upper, score, p_value, deviation, is_anomaly, status, created_at) \
                 SELECT $1, $2, $3::oid, n.key::jsonb, n.entity, n.at, n.value, n.expected, n.lower, \
                    n.upper, n.score, n.p_value, n.deviation, n.is_anomaly, n.status, $4 \
                   FROM unnest($5::text[], $6::text[], $7::timestamptz[], $8::float8[], $9::float8[], \
                        $10::float8[], $11::float8[], $12::float8[], $13::float8[], $14::float8[], \
                        $15::bool[], $16::text[]) \
                     AS n (key, entity, at, value, expected, lower, upper, score, p_value, deviation, \
                           is_anomaly, status)",
                &[
                    slot(self.judged_at).into(),
                    row.detector.as_str().into(),
                    row.owner.into(),
                    sql::timestamptz(self.judged_at)?.into(),
                    keys.into(),
                    entities.into(),
                    times.into(),
                    value.into(),
                    expected.into(),
                    lower.into(),
                    upper.into(),
                    score.into(),
                    p_value.into(),
                    deviation.into(),
                    anomalies.into(),
                    status.into(),
                ],
            )
        })?;
        Ok(())
    }

    /// Tells listeners that a statement had anomalous rows, in one message. Anybody may listen: what the rows
    /// are is in anomaly.row_scores, for those who may see it.
    fn tell(&self) -> SqlResult<()> {
        if self.known.mode != Mode::Notify || self.anomalous == 0 {
            return Ok(());
        }
        let source = match &self.known.row.feed {
            Feed::Relation { name, .. } => name.as_str(),
            _ => "",
        };
        let payload = json!({
            "detector": self.known.row.detector,
            "source": source,
            "anomalous": self.anomalous,
            "created_at": sql::timestamptz(self.judged_at)?.to_iso_string(),
        });
        sql::row(
            "SELECT pg_catalog.pg_notify('anomaly_writes', $1)",
            &[payload.to_string().into()],
            |_| Ok(()),
        )?;
        Ok(())
    }

    /// 23514 that says what is unusual about the row and how to write it all the same. What is usual follows
    /// from the other rows of the table: it is told to those who may read them.
    fn rejection(&self, row: usize, verdict: &Verdict) -> SqlResult<ErrorReport> {
        let Written { key, .. } = &self.written[row];
        let detector = &self.known.row.detector;
        let may_read = sql::row(
            "SELECT pg_catalog.has_table_privilege($1, 'SELECT') AND NOT pg_catalog.row_security_active($1)",
            &[self.known.table.into()],
            |r| r.must::<bool>(1),
        )?;
        let description = match may_read {
            Some(true) => format!(": {}", self.known.core.description(verdict)),
            _ => String::new(),
        };
        let entity = Some(self.entity(row)).filter(|name| !name.is_empty());
        let which = [
            key.as_ref().map(|key| format!("key {key}")),
            entity.map(|entity| format!("entity \"{entity}\"")),
            Some(format!("at {}", sql::timestamptz(verdict.at)?.to_iso_string())),
        ];
        let which: Vec<String> = which.into_iter().flatten().collect();
        Ok(report(
            PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            format!("row is anomalous to detector \"{detector}\"{description}"),
        )
        .set_detail(format!("Row with {}: value {}.", which.join(", "), verdict.value))
        .set_hint(
            "If the row is right, SET anomaly_detection.write_check = off and write it again; \
             anomaly.unwatch_writes() stops the check for everybody",
        ))
    }
}
