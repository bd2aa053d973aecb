//! What a panic in the middle of a detector's run does. Needs a function that panics, which only a
//! build for tests has; hence not in tests/.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// A source's function with a bug: an index out of bounds from the given number on.
    #[pg_extern(volatile, parallel_unsafe)]
    fn out_of_bounds(value: f64, from: f64) -> f64 {
        let values = [value; 3];
        if value < from { value } else { values[value as usize] }
    }

    fn one<T: FromDatum + IntoDatum>(query: &str) -> T {
        Spi::get_one(query).expect("query works").expect("a value")
    }

    /// Two detectors that are due; the source of the first panics once it meets a value of 100.
    fn two_detectors() {
        Spi::run(
            "CREATE TABLE points AS SELECT now() - i * interval '1 minute' AS at, \
                (i % 9)::float8 AS v FROM generate_series(1, 300) i; \
             SELECT anomaly.watch('SELECT at, tests.out_of_bounds(v, 100) AS v FROM points', \
                settle => '0 s', every => '1 minute', name => 'buggy', strategy => 'mad'); \
             SELECT anomaly.watch('points', settle => '0 s', every => '1 minute', \
                name => 'sound', strategy => 'mad'); \
             INSERT INTO points VALUES (clock_timestamp(), 100); \
             SELECT pg_sleep(0.01);",
        )
        .expect("detectors are set up");
    }

    #[pg_test]
    fn fault_p7_panic_in_scan() {
        two_detectors();
        let error: String = one(
            "CREATE FUNCTION pg_temp.attempt(command text) RETURNS text LANGUAGE plpgsql AS $$ \
             BEGIN EXECUTE command; RETURN 'no error'; \
             EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM; END $$; \
             SELECT pg_temp.attempt($$ SELECT anomaly.scan('buggy') $$)",
        );
        assert!(error.starts_with("XX000 index out of bounds"), "{error}");
        // The session lives, the detector stands where it stood, and another one runs.
        assert_eq!(one::<i64>("SELECT alerts_opened FROM anomaly.scan('sound')"), 1);
        assert_eq!(
            one::<i64>("SELECT points_processed FROM anomaly.detectors WHERE detector = 'buggy'"),
            0
        );
        assert_eq!(one::<i64>("SELECT count(*) FROM anomaly.alerts WHERE detector = 'buggy'"), 0);
        // Once the bug is gone, the point that it was about is judged.
        Spi::run(
            "CREATE OR REPLACE FUNCTION tests.out_of_bounds(value float8, \"from\" float8) \
             RETURNS float8 LANGUAGE sql AS 'SELECT $1'",
        )
        .expect("function is replaced");
        assert_eq!(one::<i64>("SELECT alerts_opened FROM anomaly.scan('buggy')"), 1);
    }

    #[pg_test]
    fn fault_p7_panic_in_scheduled_run() {
        two_detectors();
        // What CALL anomaly.run_due() does, without its commits.
        Spi::run(
            "UPDATE anomaly.detector_state SET next_due = clock_timestamp(); \
             DO $$ \
             DECLARE \
                 began CONSTANT timestamptz := clock_timestamp(); \
                 run bigint; alerts bigint; code text; message text; \
             BEGIN \
                 LOOP \
                     run := anomaly.claim_next_due(began); \
                     EXIT WHEN run IS NULL; \
                     alerts := NULL; code := NULL; message := NULL; \
                     BEGIN \
                         alerts := anomaly.perform_claimed(run); \
                     EXCEPTION WHEN OTHERS THEN code := SQLSTATE; message := SQLERRM; \
                     END; \
                     PERFORM anomaly.settle_claimed(run, alerts, code, message, NULL, NULL); \
                 END LOOP; \
             END $$",
        )
        .expect("what is due has run");
        let runs: String = one("SELECT string_agg(concat_ws(' ', detector, status, error_code, \
                left(error_message, 19), alerts_opened), '; ' ORDER BY detector) FROM anomaly.runs");
        assert_eq!(runs, "buggy failed XX000 index out of bounds; sound succeeded 1");
        let states: String = one("SELECT string_agg(concat_ws(' ', detector, status, \
                consecutive_failures), '; ' ORDER BY detector) FROM anomaly.detectors");
        assert_eq!(states, "buggy active 1; sound active 0");
        let health: String = one("SELECT concat_ws(': ', status, left(reason, 19)) \
                FROM anomaly.health WHERE name = 'buggy'");
        assert_eq!(health, "failing: index out of bounds");
    }
}
