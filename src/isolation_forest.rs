//! `isolation_forest(double precision[])`, its type `anomaly_model`, and what can be asked of one:
//! `anomaly_score`, `anomaly_deviation`, `is_anomaly`, `explain_score`, `model_info`.

use std::ffi::{CStr, CString};

use anomaly_core::forest::{Explanation, Model, Options, sampler};
use anomaly_core::{Error, codec};
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Map, Value, json};

use crate::error::{SqlResult, from_core, invalid, report};
use crate::json::feature;
use crate::limits::TrainingLimits;
use crate::pg::forest::{ModelArg, ModelValue, SampleArg, SampleValue};

extension_sql!(
    "CREATE TYPE @extschema@.anomaly_sample; CREATE TYPE @extschema@.anomaly_model;",
    name = "anomaly_model_shells"
);

// A model is stored uncompressed: its numbers do not get shorter, and scoring starts sooner.
extension_sql!(
    r#"
CREATE FUNCTION anomaly_sample_recv(internal) RETURNS anomaly_sample
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_sample_recv';
CREATE FUNCTION anomaly_model_recv(internal) RETURNS anomaly_model
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_model_recv';

CREATE TYPE @extschema@.anomaly_sample (
    INPUT = anomaly_sample_in,
    OUTPUT = anomaly_sample_out,
    RECEIVE = anomaly_sample_recv,
    SEND = anomaly_sample_send,
    INTERNALLENGTH = variable,
    ALIGNMENT = double,
    STORAGE = extended
);

CREATE TYPE @extschema@.anomaly_model (
    INPUT = anomaly_model_in,
    OUTPUT = anomaly_model_out,
    RECEIVE = anomaly_model_recv,
    SEND = anomaly_model_send,
    INTERNALLENGTH = variable,
    STORAGE = external
);

CREATE FUNCTION isolation_forest_trans(anomaly_sample, double precision[]) RETURNS anomaly_sample
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'isolation_forest_trans';
CREATE FUNCTION isolation_forest_trans(anomaly_sample, double precision[], jsonb) RETURNS anomaly_sample
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'isolation_forest_trans';
CREATE FUNCTION isolation_forest_combine(anomaly_sample, anomaly_sample) RETURNS anomaly_sample
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'isolation_forest_combine';

-- COST: 100 trees take as long as 100 cheap operators do, about a microsecond.
CREATE FUNCTION anomaly_score(model anomaly_model, features double precision[]) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'model_anomaly_score';
-- STABLE: what a record's columns are called may change.
CREATE FUNCTION anomaly_score_row(model anomaly_model, features record) RETURNS double precision
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'model_score_row';
CREATE FUNCTION anomaly_score_json(model anomaly_model, features jsonb) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 200 AS 'MODULE_PATHNAME', 'model_score_json';
CREATE FUNCTION anomaly_deviation(model anomaly_model, features double precision[]) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'model_anomaly_deviation';
CREATE FUNCTION is_anomaly(model anomaly_model, features double precision[]) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'model_is_anomaly';
CREATE FUNCTION explain_score(model anomaly_model, features double precision[]) RETURNS jsonb
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'model_explain_score';
"#,
    name = "anomaly_model_types",
    requires = [
        "anomaly_model_shells",
        anomaly_sample_in,
        anomaly_sample_out,
        anomaly_sample_send,
        anomaly_model_in,
        anomaly_model_out,
        anomaly_model_send
    ],
);

// SSPACE: 2,000 rows of 10 values; at most 8,000 rows and 32 MB.
extension_sql!(
    r#"
CREATE AGGREGATE @extschema@.isolation_forest(features double precision[]) (
    SFUNC = isolation_forest_trans,
    STYPE = anomaly_sample,
    SSPACE = 200000,
    COMBINEFUNC = isolation_forest_combine,
    FINALFUNC = isolation_forest_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);

CREATE AGGREGATE @extschema@.isolation_forest(features double precision[], options jsonb) (
    SFUNC = isolation_forest_trans,
    STYPE = anomaly_sample,
    SSPACE = 200000,
    COMBINEFUNC = isolation_forest_combine,
    FINALFUNC = isolation_forest_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);

COMMENT ON TYPE anomaly_sample IS 'state of isolation_forest: a random sample of rows in at most 32 MB';
COMMENT ON TYPE anomaly_model IS 'trained model: scores rows of numbers';
COMMENT ON AGGREGATE isolation_forest(double precision[]) IS 'trains an isolation forest on a random sample of the rows; NULL elements are missing values';
COMMENT ON AGGREGATE isolation_forest(double precision[], jsonb) IS 'trains an isolation forest with options such as variant, n_estimators, contamination, random_state';
COMMENT ON FUNCTION anomaly_sample_in(cstring) IS 'input of anomaly_sample: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_sample_out(anomaly_sample) IS 'output of anomaly_sample: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_sample_recv(internal) IS 'binary input of anomaly_sample';
COMMENT ON FUNCTION anomaly_sample_send(anomaly_sample) IS 'binary output of anomaly_sample';
COMMENT ON FUNCTION anomaly_model_in(cstring) IS 'input of anomaly_model: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_model_out(anomaly_model) IS 'output of anomaly_model: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_model_recv(internal) IS 'binary input of anomaly_model';
COMMENT ON FUNCTION anomaly_model_send(anomaly_model) IS 'binary output of anomaly_model';
COMMENT ON FUNCTION isolation_forest_trans(anomaly_sample, double precision[]) IS 'transition function of isolation_forest: adds one row to the sample';
COMMENT ON FUNCTION isolation_forest_trans(anomaly_sample, double precision[], jsonb) IS 'transition function of isolation_forest: adds one row to the sample';
COMMENT ON FUNCTION isolation_forest_combine(anomaly_sample, anomaly_sample) IS 'joins two samples into one of all their rows';
COMMENT ON FUNCTION isolation_forest_final(anomaly_sample) IS 'final function of isolation_forest: grows the trees';
COMMENT ON FUNCTION anomaly_score(anomaly_model, double precision[]) IS 'anomaly score of a row from 0 to 1: one minus the share of the training rows that are as unusual';
COMMENT ON FUNCTION anomaly_score_row(anomaly_model, record) IS 'anomaly score of a record by a model with named features: the columns of these names, in any order';
COMMENT ON FUNCTION anomaly_score_json(anomaly_model, jsonb) IS 'anomaly score of an object by a model with named features: the keys of these names; those that are not there are missing';
COMMENT ON FUNCTION anomaly_deviation(anomaly_model, double precision[]) IS 'how unusual a row is, in standard deviations of a normal distribution: 2 warning, 3 critical, 5 emergency';
COMMENT ON FUNCTION is_anomaly(anomaly_model, double precision[]) IS 'whether a row is more unusual than the share of training rows that the option contamination names';
COMMENT ON FUNCTION explain_score(anomaly_model, double precision[]) IS 'score of a row and why: contribution of each feature, ranges, the most similar normal row, a sentence';
COMMENT ON FUNCTION model_info(anomaly_model) IS 'what a model was trained with: features, rows, options';
"#,
    name = "isolation_forest_aggregates",
    requires = ["anomaly_model_types", isolation_forest_final, model_info],
);

/// The trees of a model may take so much memory, and its text form twice as much: a value has at most
/// 1 GB.
const MOST_BYTES: u64 = 384 << 20;

/// Options from the aggregate's argument; NULL is none.
fn options_of(json: Option<Value>) -> SqlResult<(Map<String, Value>, Options)> {
    let map = match json {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(invalid(
                format!("options of isolation_forest are {other}, not an object"),
                r#"give them as '{"n_estimators": 200, "contamination": 0.01}'"#,
            ));
        }
    };
    let options = Options::from_json(&map).map_err(from_core)?;
    Ok((map, options))
}

/// The state before the first row, which says how many features there are.
pub fn first_state(features: usize, json: Option<Value>) -> SqlResult<Vec<u64>> {
    let (map, options) = options_of(json)?;
    options.check(features.max(1)).map_err(from_core)?;
    let most = options.most_bytes();
    if most > MOST_BYTES {
        let message =
            format!("the forest could take {} MB, more than {} MB", most >> 20, MOST_BYTES >> 20);
        return Err(report(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
            .set_hint("lower n_estimators, max_samples or ndim"));
    }
    let bytes = serde_json::to_vec(&map).map_err(|error| {
        report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string())
    })?;
    sampler::initial(features, options.sample_rows, options.seed, &bytes).map_err(row_error)
}

/// As [`from_core`], for rows to train on.
pub fn row_error(error: Error) -> ErrorReport {
    let hint = match error {
        Error::Data(_) => {
            "give every row an array of the same length, and the same options; NULL stands for a missing value"
        }
        Error::TooLarge(_) => "train on fewer features",
        _ => return from_core(error),
    };
    from_core(error).set_hint(hint)
}

/// As [`from_core`], for a row to score.
pub fn score_error(error: Error) -> ErrorReport {
    match error {
        Error::Data(_) => from_core(error).set_hint(
            "give the features that the model was trained with, in the same order; NULL stands for a missing value",
        ),
        error => from_core(error),
    }
}

/// As [`from_core`], for what is wrong with the bytes of a model.
pub fn model_error(error: Error) -> ErrorReport {
    match error {
        Error::Corrupted(what) => report(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("damaged anomaly_model: {}", what.trim_start_matches("stored state: ")),
        )
        .set_hint("train it again, or restore it from a backup"),
        error => from_core(error),
    }
}

/// The names of a model's features.
///
/// # Errors
/// 55000 for a model without.
pub fn feature_names(model: &Model) -> SqlResult<&[String]> {
    if !model.names().is_empty() {
        return Ok(model.names());
    }
    let message = "the features of this model have no names";
    Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).set_hint(
        r#"train it with their names, as isolation_forest(ARRAY[amount, items], '{"features": ["amount", "items"]}')"#,
    ))
}

/// The numbers under these keys of a JSON object, NaN for those that are missing or null.
///
/// # Errors
/// 22023 for what is no object, for what is no number under such a key, and for numbers beyond all
/// double precision ones.
pub fn read_json(text: &CStr, names: &[String], row: &mut Vec<f64>) -> SqlResult<()> {
    let example = r#"for example '{"amount": 12.5, "items": 3}'"#;
    let map: Map<String, Value> = serde_json::from_slice(text.to_bytes()).map_err(|_| {
        invalid("the features are not an object of double precision numbers", example)
    })?;
    row.clear();
    for name in names {
        row.push(feature(name, map.get(name))?);
    }
    Ok(())
}

/// What `explain_score` returns.
pub fn explanation_json(why: &Explanation, row: &[f64]) -> Value {
    // JSON has neither NaN nor infinities; missing values are null, as in the features.
    let number = |x: &f64| x.is_finite().then_some(*x);
    let scored = why.scored;
    json!({
        "score": scored.anomaly_score(),
        "deviation": scored.deviation(),
        "severity": scored.severity().as_str(),
        "is_anomaly": scored.is_anomaly,
        "isolation": scored.score,
        "names": (!why.names.is_empty()).then_some(&why.names),
        "contributions": why.contributions,
        "ranges": why.ranges.iter().map(|(low, high)| [number(low), number(high)]).collect::<Vec<_>>(),
        "nearest_normal": why.nearest.as_ref().map(|row| row.iter().map(number).collect::<Vec<_>>()),
        "reason": why.sentence(row),
    })
}

fn bytes_from_text(input: &CStr, type_name: &str) -> SqlResult<Vec<u8>> {
    // The input is already in memory, so its own length bounds what is allocated here.
    codec::from_text(input.to_bytes()).ok_or_else(|| {
        report(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type {type_name}"),
        )
        .set_hint(format!(
            "use text that {type_name} has given out: \\x and an even number of hexadecimal digits"
        ))
    })
}

fn text_from_bytes(bytes: &[u8]) -> SqlResult<CString> {
    CString::new(codec::to_text(bytes))
        .map_err(|_| report(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "zero byte in output"))
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_sample_in(input: &CStr) -> SqlResult<SampleValue> {
    let bytes = bytes_from_text(input, "anomaly_sample")?;
    sampler::decode(&bytes).map(SampleValue).map_err(from_core)
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_sample_out(sample: SampleArg<'_>) -> SqlResult<CString> {
    text_from_bytes(&sample.encode()?)
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_sample_send(sample: SampleArg<'_>) -> SqlResult<Vec<u8>> {
    sample.encode()
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_model_in(input: &CStr) -> SqlResult<ModelValue> {
    let bytes = bytes_from_text(input, "anomaly_model")?;
    Model::decode(&bytes).map_err(model_error)?;
    Ok(ModelValue(bytes))
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_model_out(model: ModelArg<'_>) -> SqlResult<CString> {
    text_from_bytes(model.bytes())
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_shells"])]
fn anomaly_model_send(model: ModelArg<'_>) -> Vec<u8> {
    model.bytes().to_vec()
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_types"])]
fn isolation_forest_final(sample: SampleArg<'_>) -> SqlResult<ModelValue> {
    let json = serde_json::from_slice(&sample.options()?).map_err(|error| {
        report(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("damaged anomaly_sample: {error}"))
    })?;
    let (_, options) = options_of(Some(json))?;
    let rows = sample.sample()?;
    if rows.rows() < 2 {
        let message = format!(
            "an isolation forest needs at least 2 rows that are not NULL, there are {}",
            rows.rows()
        );
        return Err(report(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, message)
            .set_hint("train on more rows; some hundred are a good start"));
    }
    let mut limits = TrainingLimits::begin("training");
    let model = Model::train(&rows, &options, &mut limits).map_err(from_core)?;
    limits.at_row().map_err(from_core)?;
    let bytes = model.encode().map_err(from_core)?;
    Ok(ModelValue(bytes))
}

/// What a model was trained with.
#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_model_types"])]
fn model_info(model: ModelArg<'_>) -> SqlResult<JsonB> {
    let bytes = model.bytes();
    let model = Model::decode(bytes).map_err(model_error)?;
    let options = model.options();
    Ok(JsonB(json!({
        "algorithm": "isolation_forest",
        "kind": if matches!(model, Model::Ensemble(_)) { "auto" } else { "one forest" },
        "features": model.features(),
        "names": (!model.names().is_empty()).then_some(model.names()),
        "rows": model.rows_seen(),
        "n_estimators": options.trees,
        "contamination": options.contamination,
        "random_state": options.seed,
        // Counted from 1, as in SQL arrays.
        "uninformative_features": model.uninformative().iter().map(|i| i + 1).collect::<Vec<_>>(),
        "bytes": bytes.len(),
    })))
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    fn truth(query: &str) -> bool {
        Spi::get_one(query) == Ok(Some(true))
    }

    #[pg_test]
    fn binary_copy_restores_the_same_models_and_samples() {
        Spi::run(
            "CREATE TABLE before AS
             SELECT n, isolation_forest(ARRAY[v, v % 7], format('{\"n_estimators\": %s}', n)::jsonb) AS m,
                    isolation_forest_trans(NULL, ARRAY[n], '{}') AS s
             FROM unnest('{1,20}'::int[]) AS n, generate_series(1, 300) AS v GROUP BY n;
             CREATE TABLE after (LIKE before);
             DO $$
             DECLARE file text := current_setting('data_directory') || '/anomaly_model_test.bin';
             BEGIN
                 EXECUTE format('COPY before TO %L (FORMAT binary)', file);
                 EXECUTE format('COPY after FROM %L (FORMAT binary)', file);
             END $$",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert!(truth(
            "SELECT count(*) = 2 AND bool_and(a.m::text = b.m::text AND a.s::text = b.s::text
                 AND anomaly_score(a.m, '{5,5}') = anomaly_score(b.m, '{5,5}'))
             FROM before AS b JOIN after AS a USING (n)"
        ));
    }

    #[pg_test]
    fn a_sample_outside_an_aggregate_is_changed_as_a_copy() {
        assert!(truth(
            "SELECT length(isolation_forest_trans(s, '{3}')::text) > length(s::text)
                AND length(isolation_forest_combine(s, s)::text) > length(s::text) AND s::text = before
             FROM (SELECT s, s::text AS before FROM isolation_forest_trans(NULL, '{1}') AS s OFFSET 0) AS t"
        ));
    }

    /// The model changes from row to row: in a plain value at one address, and stored out of line.
    #[pg_test]
    fn rows_are_scored_by_their_own_model() {
        Spi::run(
            "CREATE TABLE models AS
             SELECT g, isolation_forest(ARRAY[1000 * g + sin(v)], '{\"n_estimators\": 30}') AS m
             FROM generate_series(1, 120) AS g, generate_series(1, 300) AS v GROUP BY g",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert!(truth(
            "SELECT count(*) = 6400 AND bool_and((anomaly_deviation(m, ARRAY[1000.0 * h]) < 3) = (g = h))
             FROM models, generate_series(1, 80) AS h WHERE g <= 80"
        ));
        assert!(truth(
            "SELECT bool_and(anomaly_deviation(m, ARRAY[1000.0 * g]) < 3 AND anomaly_deviation(m, ARRAY[0.0]) > 4)
             FROM (SELECT g, m::text::anomaly_model AS m FROM models OFFSET 0) AS t, generate_series(1, 3)"
        ));
    }

    #[pg_test(error = "damaged anomaly_model: model checksum mismatch")]
    fn fault_m1_damaged_text_is_refused() {
        let _: Option<f64> = Spi::get_one(
            "SELECT anomaly_score(overlay(isolation_forest(ARRAY[v])::text placing '5a' from 101)::anomaly_model, '{1}')
             FROM generate_series(1, 100) AS v",
        )
        .unwrap_or_default();
    }
}
