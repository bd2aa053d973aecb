//! Moving z-score against exponentially weighted mean and deviation: `ewma_score(v, alpha) OVER (…)`. The mathematics are in `anomaly_core::window`.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION @extschema@.ewma_score_trans(internal, double precision, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ewma_score_trans';
COMMENT ON FUNCTION @extschema@.ewma_score_trans(internal, double precision, double precision) IS
    'adds a row to the frame of aggregate ewma_score';

CREATE FUNCTION @extschema@.ewma_score_inv(internal, double precision, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ewma_score_inv';
COMMENT ON FUNCTION @extschema@.ewma_score_inv(internal, double precision, double precision) IS
    'takes the oldest row out of the frame of aggregate ewma_score';

CREATE FUNCTION @extschema@.ewma_score_final(internal) RETURNS double precision
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ewma_score_final';
COMMENT ON FUNCTION @extschema@.ewma_score_final(internal) IS
    'scores the last row of the frame of aggregate ewma_score';

CREATE AGGREGATE @extschema@.ewma_score(v double precision, alpha double precision) (
    SFUNC = @extschema@.ewma_score_trans, STYPE = internal, SSPACE = 192,
    FINALFUNC = @extschema@.ewma_score_final,
    MSFUNC = @extschema@.ewma_score_trans, MINVFUNC = @extschema@.ewma_score_inv, MSTYPE = internal,
    MSSPACE = 192, MFINALFUNC = @extschema@.ewma_score_final,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.ewma_score(double precision, double precision) IS
    'z-score of the frame''s last row against the exponentially weighted mean and standard deviation of its other rows; alpha in (0, 1]';
"#,
    name = "moving_ewma_score",
    requires = ["tables"]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn ewma_score_equals_pandas() {
        // pd.Series([1, 2, 4, 3]).ewm(alpha=.4, adjust=True): (10 - mean) / std
        let found: Option<f64> = Spi::get_one(
            "SELECT ewma_score(v, 0.4 ORDER BY t)
             FROM unnest(ARRAY[1, 2, NULL, 4, 3, 10]::float8[]) WITH ORDINALITY AS d(v, t)",
        )
        .expect("query");
        assert!(found.is_some_and(|s| (s - 6.393087491192089).abs() < 1e-12), "{found:?}");
    }

    #[pg_test]
    fn fault_i6_alpha_must_be_above_0_and_at_most_1() {
        for alpha in ["0", "-1", "1.5", "'NaN'", "'Infinity'", "NULL", "t * 0.1"] {
            for over in ["", "OVER (ORDER BY t ROWS 3 PRECEDING)"] {
                let query =
                    format!("SELECT ewma_score(t, {alpha}) {over} FROM generate_series(1, 5) AS t");
                let state = PgTryBuilder::new(|| {
                    Spi::run(&query).expect("spi");
                    None
                })
                .catch_when(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, |error| match error {
                    pgrx::pg_sys::panic::CaughtError::ErrorReport(e)
                    | pgrx::pg_sys::panic::CaughtError::PostgresError(e) => {
                        e.hint().map(str::to_owned)
                    }
                    _ => None,
                })
                .execute();
                assert!(state.is_some_and(|hint| !hint.is_empty()), "{query}");
            }
        }
    }
}
