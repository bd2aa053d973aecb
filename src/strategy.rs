//! Strategies that users write as SQL functions, and the names of all.
//!
//! `create_strategy` and `drop_strategy` are what users call. What judges with their functions is
//! [`anomaly_core::strategy::Own`]; here is how it calls them: as the detector's owner, in a session of
//! theirs, in the transaction of the run, and never inside [`internal_rights`]. What a function raises is the
//! error of the run, with the strategy and the detector named.

pub mod create_strategy;
pub mod drop_strategy;

use std::{panic::AssertUnwindSafe, sync::Arc};

use anomaly_core::strategy::{Functions, MAX_STATE, OwnFunctions, resolve_name};
use pgrx::{
    JsonB, PgSqlErrorCode, PgTryBuilder, datum::TimestampWithTimeZone, pg_sys,
    pg_sys::panic::ErrorReportable,
};
use serde_json::Value;

use crate::{
    error::{SqlResult, from_core, report},
    pg::{internal_rights, session, subxact},
    sql,
};

/// What a function of a strategy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Score,
    Train,
    Expected,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Score => "score",
            Role::Train => "train",
            Role::Expected => "expected",
        }
    }

    /// Types of its arguments.
    fn arguments(self) -> &'static str {
        match self {
            Role::Score => {
                "pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.float8, pg_catalog.jsonb"
            }
            Role::Train => "pg_catalog.timestamptz[], pg_catalog.float8[], pg_catalog.jsonb",
            Role::Expected => "pg_catalog.jsonb, pg_catalog.timestamptz, pg_catalog.jsonb",
        }
    }

    fn result(self) -> &'static str {
        match self {
            Role::Train => "jsonb",
            Role::Score | Role::Expected => "double precision",
        }
    }

    /// The same for a cast to regtype, whatever the search_path is.
    fn result_type(self) -> pg_sys::Oid {
        match self {
            Role::Train => pg_sys::JSONBOID,
            Role::Score | Role::Expected => pg_sys::FLOAT8OID,
        }
    }

    /// As people write it.
    fn signature(self, name: &str) -> String {
        let arguments = match self {
            Role::Score => "state jsonb, at timestamptz, value double precision, params jsonb",
            Role::Train => "at timestamptz[], value double precision[], params jsonb",
            Role::Expected => "state jsonb, at timestamptz, params jsonb",
        };
        format!("{name}({arguments}) RETURNS {}", self.result())
    }
}

/// A strategy as it was registered.
struct Registered {
    owner: pg_sys::Oid,
    /// Qualified names, quoted.
    score: String,
    train: Option<String>,
    expected: Option<String>,
}

impl Registered {
    fn functions(&self) -> impl Iterator<Item = (Role, &str)> {
        let named = [
            (Role::Score, Some(self.score.as_str())),
            (Role::Train, self.train.as_deref()),
            (Role::Expected, self.expected.as_deref()),
        ];
        named.into_iter().filter_map(|(role, name)| Some((role, name?)))
    }
}

fn find(strategy: &str) -> SqlResult<Option<Registered>> {
    internal_rights::with(|| {
        sql::row(
            "SELECT owner::oid, score_function, train_function, expected_function \
               FROM anomaly.strategy WHERE strategy = $1 AND NOT builtin",
            &[strategy.into()],
            |row| {
                Ok(Registered {
                    owner: row.must(1)?,
                    score: row.must(2)?,
                    train: row.get(3)?,
                    expected: row.get(4)?,
                })
            },
        )
    })
}

/// The full name of a strategy, one of the user's own or not.
///
/// # Errors
/// 22023 for one that there is not.
pub fn resolve(strategy: &str) -> SqlResult<String> {
    match resolve_name(strategy) {
        Ok(full) => Ok(full.to_owned()),
        Err(_) if find(strategy)?.is_some() => Ok(strategy.to_owned()),
        Err(unknown) => Err(from_core(unknown)),
    }
}

/// The functions of a strategy that is the user's own, for a detector of this owner; `None` of any other.
///
/// # Errors
/// 42501 for a strategy of a role that the owner is no member of.
pub fn functions(
    strategy: &str,
    owner: pg_sys::Oid,
    params: &Value,
    detector: &str,
) -> SqlResult<Option<OwnFunctions>> {
    if resolve_name(strategy).is_ok() {
        return Ok(None);
    }
    let Some(registered) = find(strategy)? else { return Ok(None) };
    if !session::has_privileges_of(owner, registered.owner) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("strategy \"{strategy}\" is that of another role"),
        )
        .set_hint(
            "its functions would run with the rights of the detector's owner, who has to be a \
             member of the strategy's owner; anomaly.own_strategies names it",
        ));
    }
    let mut version = 0u64;
    let mut problem = None;
    for (role, name) in registered.functions() {
        match look_up(role, name, owner)? {
            Ok(hash) => version = version.rotate_left(1) ^ hash,
            Err(found) => problem = problem.or(Some(found)),
        }
    }
    Ok(Some(OwnFunctions(Arc::new(SqlFunctions {
        strategy: strategy.to_owned(),
        detector: detector.to_owned(),
        owner,
        score: registered.score,
        train: registered.train,
        expected: registered.expected,
        params: params.clone(),
        version,
        problem,
    }))))
}

/// Why a function cannot be called: code, message and hint.
#[derive(Debug, Clone)]
struct Problem(PgSqlErrorCode, String, String);

impl Problem {
    fn raise(&self, about: &str) -> pg_sys::panic::ErrorReport {
        report(self.0, format!("{about}: {}", self.1)).set_hint(self.2.as_str())
    }
}

/// A number that is another one when the function is, or what is wrong with it.
fn look_up(role: Role, name: &str, owner: pg_sys::Oid) -> SqlResult<Result<u64, Problem>> {
    let found = internal_rights::with(|| {
        sql::row(
            "SELECT hashtextextended(CASE WHEN p.prokind = 'f' THEN pg_get_functiondef(p.oid) END, 0), \
                    p.prokind = 'f' AND NOT p.proretset AND p.prorettype = $2::oid, \
                    p.provolatile <> 'v', \
                    has_function_privilege($3::oid, p.oid, 'EXECUTE') \
                    AND has_schema_privilege($3::oid, p.pronamespace, 'USAGE') \
               FROM pg_proc p WHERE p.oid = to_regprocedure($1)::oid",
            &[
                format!("{name}({})", role.arguments()).into(),
                role.result_type().into(),
                owner.into(),
            ],
            |row| {
                Ok((
                    row.get::<i64>(1)?.unwrap_or_default() as u64,
                    row.must::<bool>(2)?,
                    row.must::<bool>(3)?,
                    row.must::<bool>(4)?,
                ))
            },
        )
    })?;
    use PgSqlErrorCode::*;
    let function = format!("function {}", role.signature(name));
    Ok(match found {
        None | Some((_, false, ..)) => Err(Problem(
            ERRCODE_UNDEFINED_FUNCTION,
            format!("{function} does not exist"),
            format!("CREATE FUNCTION {} STABLE …", role.signature(name)),
        )),
        Some((.., false)) => Err(Problem(
            ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for {function}"),
            "it runs as the detector's owner: GRANT EXECUTE on it, and USAGE on its schema".into(),
        )),
        Some((_, _, false, _)) => Err(volatile(&function, role, name)),
        Some((hash, ..)) => Ok(hash),
    })
}

fn volatile(function: &str, role: Role, name: &str) -> Problem {
    let types = role.arguments().replace("pg_catalog.", "");
    Problem(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("{function} is volatile"),
        format!(
            "the same point has to get the same score each time: ALTER FUNCTION {name}({types}) \
             STABLE, or IMMUTABLE if it reads no table"
        ),
    )
}

/// How the core calls what a user has written.
struct SqlFunctions {
    strategy: String,
    detector: String,
    owner: pg_sys::Oid,
    score: String,
    train: Option<String>,
    expected: Option<String>,
    /// Of the detector.
    params: Value,
    version: u64,
    problem: Option<Problem>,
}

impl SqlFunctions {
    fn about(&self, role: Role) -> String {
        format!(
            "function {} of strategy \"{}\" (detector \"{}\")",
            role.name(),
            self.strategy,
            self.detector
        )
    }

    /// As [`crate::detector::catalog::DetectorRow::runs_here`]: in a session of the owner's, so that a
    /// function cannot act with rights that its owner lacks.
    fn is_owner(&self) -> bool {
        session::session_user() == self.owner && session::current_user() == self.owner
    }

    /// Calls a function, and raises what goes wrong: nobody between here and the command could answer it.
    fn call<R>(&self, role: Role, work: impl FnOnce() -> SqlResult<R>) -> R {
        if let Some(problem) = &self.problem {
            return Err(problem.raise(&self.about(role))).unwrap_or_report();
        }
        if !self.is_owner() {
            let error = report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{} runs only as the detector's owner", self.about(role)),
            );
            return Err(error.set_hint("log in as the owner (SET ROLE does not suffice)"))
                .unwrap_or_report();
        }
        let answer = PgTryBuilder::new(AssertUnwindSafe(|| work().unwrap_or_report()))
            .catch_others(|error| {
                let mut caught = subxact::describe(&error);
                // Cancel and shutdown are nobody's fault.
                if ["57014", "57P01"].contains(&caught.sqlstate.as_str()) {
                    error.rethrow();
                }
                caught.message = format!("{}: {}", self.about(role), caught.message);
                Err::<R, _>(caught.into_report()).unwrap_or_report()
            })
            .execute();
        if !self.is_owner() {
            let error = report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{} left another role behind than its owner", self.about(role)),
            );
            return Err(error.set_hint("a function must not end under another role: RESET ROLE"))
                .unwrap_or_report();
        }
        answer
    }

    fn params(&self) -> JsonB {
        match &self.params {
            Value::Null => JsonB(Value::Object(Default::default())),
            params => JsonB(params.clone()),
        }
    }

    /// A number that a function answered.
    fn number(&self, at: i64, answer: Option<f64>) -> SqlResult<f64> {
        let when = || -> SqlResult<String> {
            use pgrx::datum::ToIsoString;
            Ok(sql::timestamptz(at)?.to_iso_string())
        };
        match answer {
            Some(number) if number.is_finite() => Ok(number),
            Some(number) => Err(report(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                match number.is_nan() {
                    true => format!("the answer for {} is NaN", when()?),
                    false => format!("the answer for {} is infinite", when()?),
                },
            )
            .set_hint("answer a finite number: a large one for what is as unusual as can be")),
            None => Err(report(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                format!("the answer for {} is NULL", when()?),
            )
            .set_hint("answer a number for every point: 0, say, where nothing is unusual")),
        }
    }
}

fn times(at: &[i64]) -> SqlResult<Vec<TimestampWithTimeZone>> {
    at.iter().map(|at| sql::timestamptz(*at)).collect()
}

impl Functions for SqlFunctions {
    fn name(&self) -> &str {
        &self.strategy
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn callable(&self) -> bool {
        self.problem.is_none() && self.is_owner()
    }

    fn train(&self, at: &[i64], values: &[f64]) -> Option<String> {
        let name = self.train.as_ref()?;
        let state = self.call(Role::Train, || {
            let state = sql::rows_by_plan(
                &format!("SELECT {name}($1, $2, $3)::pg_catalog.text"),
                &[pg_sys::TIMESTAMPTZARRAYOID, pg_sys::FLOAT8ARRAYOID, pg_sys::JSONBOID],
                &[times(at)?.into(), values.to_vec().into(), self.params().into()],
                |row| row.get::<String>(1),
            )?;
            match state.into_iter().next().flatten() {
                Some(state) if state.len() > MAX_STATE => Err(report(
                    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                    format!("a state of {} bytes", state.len()),
                )
                .set_hint(format!("a state is kept for each entity: at most {MAX_STATE} bytes"))),
                Some(state) => Ok(state),
                None => {
                    Err(report(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "the state is NULL")
                        .set_hint("answer a jsonb, '{}' where there is nothing to keep"))
                }
            }
        });
        Some(state)
    }

    fn score(&self, state: &str, at: &[i64], values: &[f64]) -> Vec<f64> {
        self.call(Role::Score, || {
            // The state is parsed once: OFFSET 0 keeps it from being made for each point.
            let query = format!(
                "SELECT p.n, {}(s.state, p.at, p.value, s.params) \
                   FROM (SELECT $1::pg_catalog.jsonb AS state, $4 AS params OFFSET 0) AS s, \
                        ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) \
                            WITH ORDINALITY AS p (at, value, n)",
                self.score
            );
            let args =
                [state.into(), times(at)?.into(), values.to_vec().into(), self.params().into()];
            let mut scores = vec![f64::NAN; at.len()];
            let types = [
                pg_sys::TEXTOID,
                pg_sys::TIMESTAMPTZARRAYOID,
                pg_sys::FLOAT8ARRAYOID,
                pg_sys::JSONBOID,
            ];
            let answers = sql::rows_by_plan(&query, &types, &args, |row| {
                Ok((row.must::<i64>(1)?, row.get::<f64>(2)?))
            })?;
            for (place, answer) in answers {
                let i = usize::try_from(place - 1).unwrap_or(usize::MAX);
                if let (Some(score), Some(at)) = (scores.get_mut(i), at.get(i)) {
                    *score = self.number(*at, answer)?;
                }
            }
            Ok(scores)
        })
    }

    fn expected(&self, state: &str, at: i64) -> Option<f64> {
        let name = self.expected.as_ref()?;
        let expected = self.call(Role::Expected, || {
            let answer = sql::rows_by_plan(
                &format!("SELECT {name}($1::pg_catalog.jsonb, $2, $3)"),
                &[pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID, pg_sys::JSONBOID],
                &[state.into(), sql::timestamptz(at)?.into(), self.params().into()],
                |row| row.get::<f64>(1),
            )?;
            self.number(at, answer.into_iter().next().flatten())
        });
        Some(expected)
    }
}

/// Refuses functions that cannot be called now, where a detector that needs them is made.
pub fn check(strategy: &str, owner: pg_sys::Oid) -> SqlResult<()> {
    if resolve_name(strategy).is_ok() {
        return Ok(());
    }
    let Some(registered) = find(strategy)? else { return Ok(()) };
    for (role, name) in registered.functions() {
        if let Err(problem) = look_up(role, name, owner)? {
            return Err(problem.raise(&format!("strategy \"{strategy}\"")));
        }
    }
    Ok(())
}
