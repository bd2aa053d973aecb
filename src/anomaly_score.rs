//! Moving anomaly score: `anomaly_score(v) OVER (…)`. The mathematics are in `anomaly_core::window`.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION @extschema@.anomaly_score_trans(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_score_trans';
COMMENT ON FUNCTION @extschema@.anomaly_score_trans(internal, double precision) IS
    'adds a row to the frame of aggregate anomaly_score';

CREATE FUNCTION @extschema@.anomaly_score_inv(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_score_inv';
COMMENT ON FUNCTION @extschema@.anomaly_score_inv(internal, double precision) IS
    'takes the oldest row out of the frame of aggregate anomaly_score';

CREATE FUNCTION @extschema@.anomaly_score_final(internal) RETURNS double precision
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_score_final';
COMMENT ON FUNCTION @extschema@.anomaly_score_final(internal) IS
    'scores the last row of the frame of aggregate anomaly_score';

CREATE AGGREGATE @extschema@.anomaly_score(v double precision) (
    SFUNC = @extschema@.anomaly_score_trans, STYPE = internal, SSPACE = 4096,
    FINALFUNC = @extschema@.anomaly_score_final,
    MSFUNC = @extschema@.anomaly_score_trans, MINVFUNC = @extschema@.anomaly_score_inv, MSTYPE = internal,
    MSSPACE = 4096, MFINALFUNC = @extschema@.anomaly_score_final,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.anomaly_score(double precision) IS
    'anomaly score of the frame''s last row against its other rows, from 0 to 1: one minus the two-sided p-value of its robust z-score';
"#,
    name = "moving_anomaly_score",
    requires = ["tables"]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn anomaly_score_ranks_from_0_to_1() {
        let found: Vec<Option<f64>> = [0.0, 0.5, 1.0, 2.0, 5.0, 1e9]
            .iter()
            .map(|x| {
                Spi::get_one_with_args(
                    "SELECT anomaly_score(v ORDER BY t) FROM (
                         SELECT t, sin(t * 12.9898) FROM generate_series(1, 60) AS t
                         UNION ALL SELECT 1000, $1) AS d(t, v)",
                    &[(*x).into()],
                )
                .expect("query")
            })
            .collect();
        assert!(found.is_sorted(), "{found:?}");
        assert!(found.iter().flatten().all(|s| (0.0..=1.0).contains(s)), "{found:?}");
        assert_eq!(found[5], Some(1.0));
        assert!(found[1].is_some_and(|s| s < 0.9), "{found:?}");
    }
}
