//! Moving distance beyond the quartiles: `iqr_score(v) OVER (…)`. The mathematics are in `anomaly_core::window`.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION @extschema@.iqr_score_trans(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iqr_score_trans';
COMMENT ON FUNCTION @extschema@.iqr_score_trans(internal, double precision) IS
    'adds a row to the frame of aggregate iqr_score';

CREATE FUNCTION @extschema@.iqr_score_inv(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iqr_score_inv';
COMMENT ON FUNCTION @extschema@.iqr_score_inv(internal, double precision) IS
    'takes the oldest row out of the frame of aggregate iqr_score';

CREATE FUNCTION @extschema@.iqr_score_final(internal) RETURNS double precision
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iqr_score_final';
COMMENT ON FUNCTION @extschema@.iqr_score_final(internal) IS
    'scores the last row of the frame of aggregate iqr_score';

CREATE AGGREGATE @extschema@.iqr_score(v double precision) (
    SFUNC = @extschema@.iqr_score_trans, STYPE = internal, SSPACE = 4096,
    FINALFUNC = @extschema@.iqr_score_final,
    MSFUNC = @extschema@.iqr_score_trans, MINVFUNC = @extschema@.iqr_score_inv, MSTYPE = internal,
    MSSPACE = 4096, MFINALFUNC = @extschema@.iqr_score_final,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.iqr_score(double precision) IS
    'signed distance of the frame''s last row beyond the nearer quartile of its other rows, in interquartile ranges; 0 between the quartiles';
"#,
    name = "moving_iqr_score",
    requires = ["tables"]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn iqr_score_is_zero_between_the_quartiles_and_signed_beyond() {
        // others 1, 2, 4, 8, 9: type 7 quartiles 2 and 8.
        for (last, expected) in [("2", 0.0), ("8", 0.0), ("5", 0.0), ("17", 1.5), ("-10", -2.0)] {
            let found: Option<f64> = Spi::get_one(&format!(
                "SELECT iqr_score(v ORDER BY t)
                 FROM unnest(ARRAY[1, 2, 4, 8, 9, {last}]) WITH ORDINALITY AS d(v, t)"
            ))
            .expect("query");
            assert_eq!(found, Some(expected), "{last}");
        }
    }
}
