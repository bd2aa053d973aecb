//! Moving modified z-score: `modified_zscore(v) OVER (…)`. The mathematics are in `anomaly_core::window`.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION @extschema@.modified_zscore_trans(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'modified_zscore_trans';
COMMENT ON FUNCTION @extschema@.modified_zscore_trans(internal, double precision) IS
    'adds a row to the frame of aggregate modified_zscore';

CREATE FUNCTION @extschema@.modified_zscore_inv(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'modified_zscore_inv';
COMMENT ON FUNCTION @extschema@.modified_zscore_inv(internal, double precision) IS
    'takes the oldest row out of the frame of aggregate modified_zscore';

CREATE FUNCTION @extschema@.modified_zscore_final(internal) RETURNS double precision
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'modified_zscore_final';
COMMENT ON FUNCTION @extschema@.modified_zscore_final(internal) IS
    'scores the last row of the frame of aggregate modified_zscore';

CREATE AGGREGATE @extschema@.modified_zscore(v double precision) (
    SFUNC = @extschema@.modified_zscore_trans, STYPE = internal, SSPACE = 4096,
    FINALFUNC = @extschema@.modified_zscore_final,
    MSFUNC = @extschema@.modified_zscore_trans, MINVFUNC = @extschema@.modified_zscore_inv, MSTYPE = internal,
    MSSPACE = 4096, MFINALFUNC = @extschema@.modified_zscore_final,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.modified_zscore(double precision) IS
    'modified z-score of the frame''s last row against its other rows: 0.6745 * (v - median) / MAD';
"#,
    name = "moving_modified_zscore",
    requires = ["tables"]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn modified_zscore_uses_median_and_mad_of_the_others() {
        // others 1, 2, 4, 8, 9: median 4, deviations 3, 2, 0, 4, 5: MAD 3.
        let found: Option<f64> = Spi::get_one(
            "SELECT modified_zscore(v ORDER BY t)
             FROM unnest(ARRAY[1, 2, 4, 8, 9, 34]) WITH ORDINALITY AS d(v, t)",
        )
        .expect("query");
        assert_eq!(found, Some(0.6745 * 10.0));
    }
}
