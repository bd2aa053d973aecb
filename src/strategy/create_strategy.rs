//! `anomaly.create_strategy`: registers a strategy that is made of SQL functions.

use anomaly_core::strategy::resolve_name;
use pgrx::{PgSqlErrorCode, prelude::*};

use super::{Role, volatile};
use crate::{
    error::{SqlResult, invalid, not_null, report},
    function,
    pg::{internal_rights, session},
    run, sql,
};

/// Bytes of a description.
const MAX_DESCRIPTION: usize = 2048;

/// Answers the strategy's name, which detectors take like that of any other from then on: those of the
/// current role and of members of it.
///
/// * `score(state jsonb, at timestamptz, value double precision, params jsonb)` answers how unusual a value
///   is, a larger number for what is more unusual, on whatever scale.
/// * `train(at timestamptz[], value double precision[], params jsonb)` answers the state, as jsonb, of the
///   latest points of an entity; without it the state is `{}`.
/// * `expected(state jsonb, at timestamptz, params jsonb)` answers what is expected at a time; without it
///   the median of the latest points is.
///
/// # Errors
/// 22023 for a name that cannot be, and for functions of another kind; 42883 and 42501 for functions that
/// are not there or not the caller's to execute; 42710 when the name is taken.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
fn create_strategy(
    strategy: Option<&str>,
    score: Option<&str>,
    train: default!(Option<&str>, "NULL"),
    expected: default!(Option<&str>, "NULL"),
    description: default!(Option<&str>, "NULL"),
) -> SqlResult<String> {
    not_null!(strategy, score);
    run::check_writable("create_strategy")?;
    check_name("strategy", strategy)?;
    if resolve_name(strategy).is_ok() {
        return Err(taken("strategy", strategy));
    }
    let description = check_description(description)?;
    let score = function(Role::Score, score)?;
    let train = train.map(|name| function(Role::Train, name)).transpose()?;
    let expected = expected.map(|name| function(Role::Expected, name)).transpose()?;
    let owner = session::current_user();
    let inserted = internal_rights::with(|| {
        sql::execute(
            "INSERT INTO anomaly.strategy (strategy, short_name, family, description, available, \
                                           owner, score_function, train_function, expected_function, \
                                           created_at) \
             VALUES ($1, $1, 'own', $2, true, $3::oid, $4, $5, $6, now()) ON CONFLICT DO NOTHING",
            &[
                strategy.into(),
                description.into(),
                owner.into(),
                score.into(),
                train.into(),
                expected.into(),
            ],
        )
    })?;
    if inserted == 1 { Ok(strategy.to_owned()) } else { Err(taken("strategy", strategy)) }
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.create_strategy(text, text, text, text, text) IS
'registers a strategy that is made of SQL functions: one that scores a point, and, if it learns, one that makes the state of the latest points and one that answers what is expected';"#,
    name = "create_strategy_comment",
    requires = [create_strategy]
);

/// # Errors
/// 22023 for what is no plain name.
pub fn check_name(what: &str, name: &str) -> SqlResult<()> {
    let is_plain = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain {
        return Ok(());
    }
    Err(invalid(
        format!("{what} \"{name}\" has no plain name"),
        "take up to 63 small letters, digits and _, a letter first",
    ))
}

/// What is said of it, empty where nothing is.
pub fn check_description(description: Option<&str>) -> SqlResult<&str> {
    let description = description.unwrap_or_default();
    if description.len() <= MAX_DESCRIPTION {
        return Ok(description);
    }
    Err(invalid(
        format!("description of {} bytes", description.len()),
        format!("shorten it to {MAX_DESCRIPTION} bytes"),
    ))
}

pub fn taken(what: &str, name: &str) -> pg_sys::panic::ErrorReport {
    report(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, format!("{what} \"{name}\" already exists"))
        .set_hint(format!(
            "give another name; anomaly.drop_{} drops one of yours",
            what.replace(' ', "_")
        ))
}

/// The qualified name of a function of these arguments that the caller may execute.
fn function(role: Role, given: &str) -> SqlResult<String> {
    let name = given.split_once('(').map_or(given, |(name, _)| name).trim();
    let signature = role.signature(name);
    let mut found = function::find(&format!("{name}({})", role.arguments()))?;
    if given.contains('(') {
        // Its arguments have to be these.
        let named = function::find(given)?.map(|named| named.oid);
        found = found.filter(|function| Some(function.oid) == named);
    }
    let Some(function) = found else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            format!("function {signature} does not exist"),
        )
        .set_hint(format!("CREATE FUNCTION {signature} STABLE …")));
    };
    if !function.is_plain || function.result != role.result_type() {
        return Err(invalid(
            format!("{name} is no plain function that returns one {}", role.result()),
            format!("CREATE FUNCTION {signature} STABLE …"),
        ));
    }
    function.check_callable(name)?;
    if function.is_volatile {
        let problem = volatile(&format!("function {signature}"), role, name);
        return Err(report(problem.0, problem.1).set_hint(problem.2));
    }
    Ok(function.name)
}
