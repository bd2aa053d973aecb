//! Moving z-score: `zscore(v) OVER (…)`. The mathematics are in `anomaly_core::window`.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION @extschema@.zscore_trans(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'zscore_trans';
COMMENT ON FUNCTION @extschema@.zscore_trans(internal, double precision) IS
    'adds a row to the frame of aggregate zscore';

CREATE FUNCTION @extschema@.zscore_inv(internal, double precision) RETURNS internal
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'zscore_inv';
COMMENT ON FUNCTION @extschema@.zscore_inv(internal, double precision) IS
    'takes the oldest row out of the frame of aggregate zscore';

CREATE FUNCTION @extschema@.zscore_final(internal) RETURNS double precision
    LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'zscore_final';
COMMENT ON FUNCTION @extschema@.zscore_final(internal) IS
    'scores the last row of the frame of aggregate zscore';

CREATE AGGREGATE @extschema@.zscore(v double precision) (
    SFUNC = @extschema@.zscore_trans, STYPE = internal, SSPACE = 128,
    FINALFUNC = @extschema@.zscore_final,
    MSFUNC = @extschema@.zscore_trans, MINVFUNC = @extschema@.zscore_inv, MSTYPE = internal,
    MSSPACE = 128, MFINALFUNC = @extschema@.zscore_final,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.zscore(double precision) IS
    'z-score of the frame''s last row against its other rows: (v - mean) / population standard deviation';
"#,
    name = "moving_zscore",
    requires = ["tables"]
);

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    const MOVING: [(&str, &str); 5] = [
        ("zscore", "v"),
        ("modified_zscore", "v"),
        ("iqr_score", "v"),
        ("ewma_score", "v, 0.3"),
        ("anomaly_score", "v"),
    ];

    /// Runs `query` and answers its error as `SQLSTATE hint`, or `none`.
    fn error_of(query: &str) -> String {
        Spi::run(
            "CREATE OR REPLACE FUNCTION pg_temp.error_of(query text) RETURNS text LANGUAGE plpgsql AS $$
             DECLARE hint text;
             BEGIN
                 EXECUTE query;
                 RETURN 'none';
             EXCEPTION WHEN OTHERS THEN
                 GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
                 RETURN SQLSTATE || ' ' || hint;
             END $$",
        )
        .expect("helper");
        Spi::get_one_with_args("SELECT pg_temp.error_of($1)", &[query.into()])
            .expect("query")
            .expect("not null")
    }

    fn floats(query: &str) -> Vec<Option<f64>> {
        Spi::get_one::<Vec<Option<f64>>>(query).expect("query").expect("one array")
    }

    #[pg_test]
    fn zscore_over_rows_scores_the_last_row_against_the_others() {
        // numpy: (x - o.mean()) / o.std() with o the up to 3 rows before x.
        let found = floats(
            "SELECT array_agg(round(s::numeric, 9)::float8 ORDER BY t) FROM (
                 SELECT t, zscore(v) OVER (ORDER BY t ROWS 3 PRECEDING) AS s
                 FROM unnest(ARRAY[1, 2, 4, 8, 9, 9.5]) WITH ORDINALITY AS d(v, t)) AS q",
        );
        let expected =
            [None, None, Some(5.0), Some(4.543441113), Some(1.737198072), Some(1.157275125)];
        assert_eq!(found, expected);
    }

    #[pg_test]
    fn plain_aggregate_needs_no_window() {
        let found: Option<f64> = Spi::get_one(
            "SELECT zscore(v ORDER BY t) FROM (VALUES (3, 10), (1, 1), (2, 3)) AS d(t, v)",
        )
        .expect("query");
        assert_eq!(found, Some(8.0));
        let empty: Option<f64> =
            Spi::get_one("SELECT zscore(v) FROM (VALUES (1.0::float8)) AS d(v) WHERE false")
                .expect("query");
        assert_eq!(empty, None);
    }

    #[pg_test]
    fn fault_i1_null_nan_and_infinity() {
        for (name, arguments) in MOVING {
            // Eight values, then rows without a value in between: they score by their own rule and
            // change nothing for the last.
            let found = floats(&format!(
                "SELECT array_agg(s ORDER BY t) FROM (
                     SELECT t, {name}({arguments}) OVER (ORDER BY t ROWS 50 PRECEDING) AS s
                     FROM unnest(ARRAY[1, 5, 2, 4, 3, 6, 2, 4, NULL, 'NaN', 'Infinity', '-Infinity', 30]
                                 ::float8[]) WITH ORDINALITY AS d(v, t)) AS q WHERE t > 8"
            ));
            let without = floats(&format!(
                "SELECT ARRAY[{name}({arguments} ORDER BY t)]
                 FROM unnest(ARRAY[1, 5, 2, 4, 3, 6, 2, 4, 30]::float8[]) WITH ORDINALITY AS d(v, t)"
            ));
            assert_eq!(found[0], None, "{name}");
            assert!(found[1].is_some_and(f64::is_nan), "{name}");
            let infinite = if name == "anomaly_score" {
                (1.0, 1.0)
            } else {
                (f64::INFINITY, f64::NEG_INFINITY)
            };
            assert_eq!((found[2], found[3]), (Some(infinite.0), Some(infinite.1)), "{name}");
            assert!(found[4].is_some_and(f64::is_finite), "{name}");
            assert_eq!(found[4], without[0], "{name}");
        }
    }

    #[pg_test]
    fn fault_i2_constant_and_short_frames() {
        for (name, arguments) in MOVING {
            let (needed, above, below) = match name {
                "anomaly_score" => (5, 1.0, 1.0),
                "iqr_score" => (4, f64::INFINITY, f64::NEG_INFINITY),
                "modified_zscore" => (3, f64::INFINITY, f64::NEG_INFINITY),
                _ => (2, f64::INFINITY, f64::NEG_INFINITY),
            };
            for (last, expected) in [("7.3", 0.0), ("7.4", above), ("7.2", below)] {
                for others in [0, 1, needed - 1, needed, 40] {
                    let found = floats(&format!(
                        "SELECT ARRAY[{name}({arguments} ORDER BY t)] FROM (
                             SELECT t, 7.3::float8 FROM generate_series(1, {others}) AS t
                             UNION ALL SELECT 1000, {last}) AS d(t, v)"
                    ));
                    let expected = (others >= needed).then_some(expected);
                    assert_eq!(found, [expected], "{name}, {others} others, last {last}");
                }
            }
            let all_null: Option<f64> = Spi::get_one(&format!(
                "SELECT {name}({arguments}) FROM (SELECT NULL::float8 FROM generate_series(1, 20)) AS d(v)"
            ))
            .expect("query");
            assert_eq!(all_null, None, "{name}");
        }
    }

    #[pg_test]
    fn frames_that_do_not_end_at_the_current_row_are_refused() {
        Spi::run(
            "CREATE TEMP TABLE frames AS
             SELECT t, t / 2 AS tied, (t * 7919 % 101)::float8 AS v FROM generate_series(1, 40) AS t",
        )
        .expect("table");
        let refused = [
            "",
            "PARTITION BY t % 2",
            "ORDER BY t ROWS BETWEEN 5 PRECEDING AND 5 FOLLOWING",
            "ORDER BY t ROWS BETWEEN 5 PRECEDING AND 1 PRECEDING",
            "ORDER BY t ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
            "ORDER BY t ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            "ORDER BY t RANGE BETWEEN 5 PRECEDING AND 0 FOLLOWING",
            "ORDER BY t GROUPS BETWEEN 5 PRECEDING AND 1 FOLLOWING",
            "ORDER BY t ROWS BETWEEN 5 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW",
            "ORDER BY t ROWS BETWEEN 5 PRECEDING AND CURRENT ROW EXCLUDE GROUP",
            "ORDER BY tied",
            "ORDER BY tied RANGE BETWEEN 5 PRECEDING AND CURRENT ROW",
            "ORDER BY tied GROUPS BETWEEN 5 PRECEDING AND CURRENT ROW",
        ];
        let accepted = [
            "ORDER BY t",
            "ROWS 5 PRECEDING",
            "ORDER BY tied ROWS 5 PRECEDING",
            "ORDER BY t ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            "PARTITION BY t % 3 ORDER BY t RANGE BETWEEN 20 PRECEDING AND CURRENT ROW",
            "ORDER BY t GROUPS 7 PRECEDING",
            "ORDER BY tied RANGE BETWEEN 5 PRECEDING AND CURRENT ROW EXCLUDE TIES",
            "ORDER BY tied ROWS 7 PRECEDING EXCLUDE TIES",
        ];
        for (name, arguments) in MOVING {
            for frame in refused {
                let error =
                    error_of(&format!("SELECT {name}({arguments}) OVER ({frame}) FROM frames"));
                assert!(error.starts_with("42P20 "), "{name} OVER ({frame}): {error}");
                assert!(
                    error.contains("zscore(anomaly_summary(v) OVER (…), v)"),
                    "{name} OVER ({frame}): {error}"
                );
            }
            for frame in accepted {
                let error =
                    error_of(&format!("SELECT {name}({arguments}) OVER ({frame}) FROM frames"));
                assert_eq!(error, "none", "{name} OVER ({frame})");
            }
        }
    }

    /// Every frame kind gives what a plain aggregate over the frame's rows gives.
    #[pg_test]
    fn window_equals_plain_aggregate_over_the_same_rows() {
        Spi::run(
            "CREATE TEMP TABLE frames_alike AS
             SELECT t, t % 3 AS p,
                    CASE WHEN t % 11 = 0 THEN NULL WHEN t % 17 = 0 THEN 'NaN'
                         WHEN t = 60 THEN 1e15 ELSE (t * 7919 % 101)::float8 END AS v
             FROM generate_series(1, 300) AS t",
        )
        .expect("table");
        for (name, arguments) in MOVING {
            for (frame, rows) in [
                ("ORDER BY t ROWS 30 PRECEDING", "o.t BETWEEN d.t - 30 AND d.t"),
                ("ORDER BY t", "o.t <= d.t"),
                (
                    "PARTITION BY p ORDER BY t ROWS 9 PRECEDING",
                    "o.p = d.p AND o.t BETWEEN d.t - 27 AND d.t",
                ),
                (
                    "ORDER BY t RANGE BETWEEN 25 PRECEDING AND CURRENT ROW",
                    "o.t BETWEEN d.t - 25 AND d.t",
                ),
                (
                    "ORDER BY t / 2 RANGE BETWEEN 9 PRECEDING AND CURRENT ROW EXCLUDE TIES",
                    "o.t / 2 BETWEEN d.t / 2 - 9 AND d.t / 2 AND (o.t = d.t OR o.t / 2 <> d.t / 2)",
                ),
            ] {
                let differing: Option<i64> = Spi::get_one(&format!(
                    "SELECT count(*) FROM (
                         SELECT t, p, v, {name}({arguments}) OVER ({frame}) AS s FROM frames_alike) AS d
                     CROSS JOIN LATERAL (
                         SELECT {name}({arguments} ORDER BY o.t = d.t, o.t) AS s FROM frames_alike AS o
                         WHERE {rows}) AS plain
                     WHERE (d.s IS NULL) <> (plain.s IS NULL)
                        OR d.s <> plain.s AND NOT abs(d.s - plain.s) <= 1e-9 * greatest(1, abs(plain.s))"
                ))
                .expect("query");
                assert_eq!(differing, Some(0), "{name} OVER ({frame})");
            }
        }
    }

    #[pg_test]
    fn a_row_kept_out_by_filter_scores_null() {
        let found = floats(
            "SELECT array_agg(s ORDER BY t) FROM (
                 SELECT t, zscore(v) FILTER (WHERE v < 100) OVER (ORDER BY t ROWS 3 PRECEDING) AS s
                 FROM unnest(ARRAY[1, 3, 10, 1000, 2000, 3000, 4000, 5000]::float8[])
                      WITH ORDINALITY AS d(v, t)) AS q",
        );
        let mut expected = vec![None; 8];
        expected[2] = Some(8.0);
        assert_eq!(found, expected);
    }

    #[pg_test]
    fn partial_plans_are_impossible() {
        let combining: Option<i64> = Spi::get_one(
            "SELECT count(*) FROM pg_catalog.pg_aggregate AS a JOIN pg_catalog.pg_proc AS p ON p.oid = a.aggfnoid
             WHERE p.proname IN ('zscore', 'modified_zscore', 'iqr_score', 'ewma_score', 'anomaly_score')
               AND a.aggminvtransfn <> 0 AND a.aggcombinefn = 0 AND p.proparallel = 's'",
        )
        .expect("query");
        assert_eq!(combining, Some(5));
    }

    #[pg_test]
    fn every_object_has_a_comment() {
        let silent: Option<i64> = Spi::get_one(
            "SELECT count(*) FROM pg_catalog.pg_proc
             WHERE proname ~ '^(zscore|modified_zscore|iqr_score|ewma_score|anomaly_score)(_trans|_inv|_final)?$'
               AND pg_catalog.obj_description(oid, 'pg_proc') IS NULL",
        )
        .expect("query");
        assert_eq!(silent, Some(0));
    }

    #[pg_test]
    fn fault_i5_order_is_the_frames() {
        // Duplicate and infinite timestamps only order the rows; ROWS frames take them as they come.
        let found = floats(
            "SELECT array_agg(s ORDER BY i) FROM (
                 SELECT i, zscore(v) OVER (ORDER BY at, i ROWS 3 PRECEDING) AS s
                 FROM (VALUES (1, '-infinity'::timestamptz, 1::float8), (2, '2024-01-01', 3),
                              (3, '2024-01-01', 10), (4, 'infinity', 1)) AS d(i, at, v)) AS q",
        );
        assert_eq!(found[..3], [None, None, Some(8.0)]);
        assert!(found[3].is_some_and(|s| s < 0.0));
    }

    /// Nothing converts to `internal`, so no caller can forge a state.
    #[pg_test]
    fn support_functions_cannot_be_called_by_hand() {
        for call in ["zscore_final(NULL)", "zscore_trans(NULL, 1)", "zscore_inv(0, 1)"] {
            let error = error_of(&format!("SELECT {call}"));
            assert!(error.starts_with("42883 "), "{call}: {error}");
        }
    }
}
