//! `anomaly_summary(double precision)`, its type `anomaly_sketch`, what can be asked of one, and
//! `rollup(anomaly_sketch)`.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use anomaly_core::codec;
use anomaly_core::sketch::{Robust, Sketch};
use pgrx::prelude::*;

use crate::error::{SqlResult, from_core, report};
use crate::pg::varlena::{Pair, SketchArg, SketchValue};

extension_sql!("CREATE TYPE @extschema@.anomaly_sketch;", name = "anomaly_sketch_shell");

extension_sql!(
    r#"
CREATE FUNCTION anomaly_sketch_recv(internal) RETURNS anomaly_sketch
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_sketch_recv';

CREATE TYPE @extschema@.anomaly_sketch (
    INPUT = anomaly_sketch_in,
    OUTPUT = anomaly_sketch_out,
    RECEIVE = anomaly_sketch_recv,
    SEND = anomaly_sketch_send,
    INTERNALLENGTH = variable,
    ALIGNMENT = double,
    STORAGE = extended
);

CREATE FUNCTION anomaly_summary_trans(anomaly_sketch, double precision) RETURNS anomaly_sketch
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_summary_trans';

CREATE FUNCTION anomaly_summary_combine(anomaly_sketch, anomaly_sketch) RETURNS anomaly_sketch
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'anomaly_summary_combine';
"#,
    name = "anomaly_sketch_type",
    requires = ["anomaly_sketch_shell", anomaly_sketch_in, anomaly_sketch_out, anomaly_sketch_send],
);

// SSPACE: a state starts at 256 bytes and ends near 16 kB; most groups are small.
extension_sql!(
    r#"
CREATE AGGREGATE @extschema@.anomaly_summary(double precision) (
    SFUNC = anomaly_summary_trans,
    STYPE = anomaly_sketch,
    SSPACE = 1024,
    COMBINEFUNC = anomaly_summary_combine,
    FINALFUNC = anomaly_summary_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);

CREATE AGGREGATE @extschema@.rollup(anomaly_sketch) (
    SFUNC = anomaly_summary_combine,
    STYPE = anomaly_sketch,
    SSPACE = 16384,
    COMBINEFUNC = anomaly_summary_combine,
    FINALFUNC = anomaly_summary_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);

COMMENT ON TYPE anomaly_sketch IS 'mergeable summary of a sample: counts, moments and quantiles in at most 16 kB';
COMMENT ON AGGREGATE anomaly_summary(double precision) IS 'mergeable summary of a sample; NULL, NaN and infinities are counted apart';
COMMENT ON AGGREGATE rollup(anomaly_sketch) IS 'joins summaries into the summary of all their values';
COMMENT ON FUNCTION anomaly_sketch_in(cstring) IS 'input of anomaly_sketch: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_sketch_out(anomaly_sketch) IS 'output of anomaly_sketch: \x and hexadecimal digits';
COMMENT ON FUNCTION anomaly_sketch_recv(internal) IS 'binary input of anomaly_sketch';
COMMENT ON FUNCTION anomaly_sketch_send(anomaly_sketch) IS 'binary output of anomaly_sketch';
COMMENT ON FUNCTION anomaly_summary_trans(anomaly_sketch, double precision) IS 'transition function of anomaly_summary: adds one value';
COMMENT ON FUNCTION anomaly_summary_combine(anomaly_sketch, anomaly_sketch) IS 'joins two summaries';
COMMENT ON FUNCTION anomaly_summary_final(anomaly_sketch) IS 'final function of anomaly_summary: a compact copy of the state';
COMMENT ON FUNCTION num_vals(anomaly_sketch) IS 'number of finite values, which all statistics of the summary describe';
COMMENT ON FUNCTION num_nulls(anomaly_sketch) IS 'number of NULLs';
COMMENT ON FUNCTION num_nans(anomaly_sketch) IS 'number of NaNs';
COMMENT ON FUNCTION num_infs(anomaly_sketch) IS 'number of infinities of either sign';
COMMENT ON FUNCTION mean(anomaly_sketch) IS 'arithmetic mean';
COMMENT ON FUNCTION stddev(anomaly_sketch) IS 'sample standard deviation (divisor n - 1)';
COMMENT ON FUNCTION variance(anomaly_sketch) IS 'sample variance (divisor n - 1)';
COMMENT ON FUNCTION skewness(anomaly_sketch) IS 'biased skewness m3/m2^1.5; NULL for a constant sample';
COMMENT ON FUNCTION kurtosis(anomaly_sketch) IS 'biased excess kurtosis m4/m2^2 - 3; NULL for a constant sample';
COMMENT ON FUNCTION min_val(anomaly_sketch) IS 'smallest finite value';
COMMENT ON FUNCTION max_val(anomaly_sketch) IS 'largest finite value';
COMMENT ON FUNCTION quantile(anomaly_sketch, double precision) IS 'quantile, q from 0 to 1: type 7 up to 2,000 values, beyond that within rank_error of it';
COMMENT ON FUNCTION median(anomaly_sketch) IS 'median';
COMMENT ON FUNCTION mad(anomaly_sketch) IS 'median absolute deviation from the median, unscaled';
COMMENT ON FUNCTION iqr(anomaly_sketch) IS 'interquartile range';
COMMENT ON FUNCTION iqr_bounds(anomaly_sketch, double precision) IS 'first quartile - k * iqr and third quartile + k * iqr';
COMMENT ON FUNCTION zscore(anomaly_sketch, double precision) IS '(x - mean) / population standard deviation';
COMMENT ON FUNCTION modified_zscore(anomaly_sketch, double precision) IS '0.6745 * (x - median) / mad';
COMMENT ON FUNCTION rank_error(anomaly_sketch) IS 'largest rank error of a quantile as a fraction of num_vals, with 99 % confidence; 0 when exact';
"#,
    name = "anomaly_summary_aggregates",
    requires = [
        "anomaly_sketch_type",
        anomaly_summary_final,
        sketch_num_vals,
        sketch_num_nulls,
        sketch_num_nans,
        sketch_num_infs,
        sketch_mean,
        sketch_stddev,
        sketch_variance,
        sketch_skewness,
        sketch_kurtosis,
        sketch_min_val,
        sketch_max_val,
        sketch_quantile,
        sketch_median,
        sketch_mad,
        sketch_iqr,
        sketch_iqr_bounds,
        sketch_zscore,
        sketch_modified_zscore,
        sketch_rank_error
    ],
);

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_sketch_shell"])]
fn anomaly_sketch_in(input: &CStr) -> SqlResult<SketchValue> {
    let malformed = || {
        report(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            "invalid input syntax for type anomaly_sketch",
        )
        .set_hint("use text that anomaly_sketch has given out: \\x and an even number of hexadecimal digits")
    };
    // The input is already in memory, so its own length bounds what is allocated here.
    let bytes = codec::from_text(input.to_bytes()).ok_or_else(malformed)?;
    let sketch = Sketch::decode(&bytes).map_err(from_core)?;
    Ok(SketchValue(sketch.words().to_vec()))
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_sketch_shell"])]
fn anomaly_sketch_out(sketch: SketchArg<'_>) -> SqlResult<CString> {
    let text = codec::to_text(&sketch.view()?.encode());
    CString::new(text)
        .map_err(|_| report(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "zero byte in output"))
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_sketch_shell"])]
fn anomaly_sketch_send(sketch: SketchArg<'_>) -> SqlResult<Vec<u8>> {
    Ok(sketch.view()?.encode())
}

#[pg_extern(immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn anomaly_summary_final(sketch: SketchArg<'_>) -> SqlResult<SketchValue> {
    sketch.view()?.settled().map(SketchValue).map_err(from_core)
}

#[pg_extern(name = "num_vals", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_num_vals(sketch: SketchArg<'_>) -> SqlResult<i64> {
    Ok(sketch.view()?.num_vals() as i64)
}

#[pg_extern(name = "num_nulls", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_num_nulls(sketch: SketchArg<'_>) -> SqlResult<i64> {
    Ok(sketch.view()?.num_nulls() as i64)
}

#[pg_extern(name = "num_nans", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_num_nans(sketch: SketchArg<'_>) -> SqlResult<i64> {
    Ok(sketch.view()?.num_nans() as i64)
}

#[pg_extern(name = "num_infs", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_num_infs(sketch: SketchArg<'_>) -> SqlResult<i64> {
    Ok(sketch.view()?.num_infs() as i64)
}

#[pg_extern(name = "mean", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_mean(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    Ok(sketch.view()?.moments().map_err(from_core)?.mean())
}

#[pg_extern(name = "stddev", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_stddev(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    sketch.view()?.moments().and_then(|m| m.stddev()).map_err(from_core)
}

#[pg_extern(name = "variance", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_variance(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    sketch.view()?.moments().and_then(|m| m.variance()).map_err(from_core)
}

#[pg_extern(name = "skewness", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_skewness(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    Ok(sketch.view()?.moments().map_err(from_core)?.skewness())
}

#[pg_extern(name = "kurtosis", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_kurtosis(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    Ok(sketch.view()?.moments().map_err(from_core)?.kurtosis())
}

#[pg_extern(name = "min_val", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_min_val(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    let moments = sketch.view()?.moments().map_err(from_core)?;
    Ok((moments.n > 0).then_some(moments.min))
}

#[pg_extern(name = "max_val", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_max_val(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    let moments = sketch.view()?.moments().map_err(from_core)?;
    Ok((moments.n > 0).then_some(moments.max))
}

#[pg_extern(name = "quantile", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_quantile(sketch: SketchArg<'_>, q: f64) -> SqlResult<Option<f64>> {
    sketch.view()?.quantile(q).map_err(from_core)
}

#[pg_extern(name = "median", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_median(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    sketch.view()?.median().map_err(from_core)
}

#[pg_extern(name = "mad", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_mad(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    let robust = sketch.view()?.robust().map_err(from_core)?;
    robust.map(|r| r.mad()).transpose().map_err(from_core)
}

#[pg_extern(name = "iqr", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_iqr(sketch: SketchArg<'_>) -> SqlResult<Option<f64>> {
    sketch.view()?.iqr().map_err(from_core)
}

#[pg_extern(
    sql = r#"
CREATE FUNCTION iqr_bounds(
    sketch anomaly_sketch, k double precision DEFAULT 1.5,
    OUT lower double precision, OUT upper double precision
) RETURNS record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#,
    immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"]
)]
fn sketch_iqr_bounds(sketch: SketchArg<'_>, k: f64) -> SqlResult<Option<Pair>> {
    let bounds = sketch.view()?.iqr_bounds(k).map_err(from_core)?;
    Ok(bounds.map(|(lower, upper)| Pair(lower, upper)))
}

#[pg_extern(name = "zscore", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_zscore(sketch: SketchArg<'_>, x: f64) -> SqlResult<Option<f64>> {
    Ok(sketch.view()?.moments().map_err(from_core)?.zscore(x))
}

#[pg_extern(
    name = "modified_zscore",
    immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"]
)]
fn sketch_modified_zscore(sketch: SketchArg<'_>, x: f64) -> SqlResult<Option<f64>> {
    Ok(robust_of(&sketch)?.and_then(|robust| robust.modified_zscore(x)))
}

#[pg_extern(name = "rank_error", immutable, strict, parallel_safe, requires = ["anomaly_sketch_type"])]
fn sketch_rank_error(sketch: SketchArg<'_>) -> SqlResult<f64> {
    Ok(sketch.view()?.rank_error())
}

thread_local! {
    /// The last sketch that `modified_zscore` was asked about and its answer. Median and MAD need two
    /// sorts of up to 2,000 values; a query asks the same sketch about every row, and comparing 16 kB
    /// costs a hundredth of that.
    static LAST_ROBUST: RefCell<(Vec<u64>, Option<Robust>)> = const { RefCell::new((Vec::new(), None)) };
}

fn robust_of(sketch: &SketchArg<'_>) -> SqlResult<Option<Robust>> {
    let known = LAST_ROBUST
        .with_borrow(|(words, robust)| (words.as_slice() == sketch.words()).then_some(*robust));
    if let Some(robust) = known {
        return Ok(robust);
    }
    let robust = sketch.view()?.robust().map_err(from_core)?;
    LAST_ROBUST.with_borrow_mut(|last| {
        last.0.clear();
        last.0.extend_from_slice(sketch.words());
        last.1 = robust;
    });
    Ok(robust)
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    fn truth(query: &str) -> bool {
        Spi::get_one(query) == Ok(Some(true))
    }

    #[pg_test]
    fn golden_text_of_a_stored_summary() {
        let golden = include_str!("golden_summary_v1.hex").trim();
        let text: Option<String> = Spi::get_one(
            "SELECT anomaly_summary(v)::text FROM unnest('{1,2.5,-4,NaN,Infinity,NULL}'::float8[]) AS v",
        )
        .unwrap_or_default();
        assert_eq!(text.as_deref(), Some(golden));
        assert!(truth(&format!("SELECT median('{golden}'::anomaly_sketch) = 1")));
    }

    #[pg_test]
    fn fault_i4_binary_copy_restores_the_same_bytes() {
        Spi::run(
            "CREATE TABLE before AS
             SELECT n, anomaly_summary(v) AS s
             FROM unnest('{0,1,2000,2001,60000}'::int[]) AS n, LATERAL generate_series(0, n) AS v GROUP BY n;
             CREATE TABLE after (LIKE before);
             DO $$
             DECLARE file text := current_setting('data_directory') || '/anomaly_sketch_test.bin';
             BEGIN
                 EXECUTE format('COPY before TO %L (FORMAT binary)', file);
                 EXECUTE format('COPY after FROM %L (FORMAT binary)', file);
             END $$",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert!(truth(
            "SELECT count(*) = 5 AND bool_and(a.s::text = b.s::text) FROM before AS b JOIN after AS a USING (n)"
        ));
    }

    #[pg_test(error = "damaged anomaly_sketch: it has a wrong checksum")]
    fn fault_i4_damaged_text_is_refused() {
        let _: Option<i64> = Spi::get_one(
            "SELECT num_vals(overlay(anomaly_summary(v)::text placing 'f' from 60)::anomaly_sketch)
             FROM generate_series(1, 10) AS v",
        )
        .unwrap_or_default();
    }

    #[pg_test(error = "quantile NaN is not between 0 and 1")]
    fn fault_i6_quantile_of_nan_is_refused() {
        let _: Option<f64> = Spi::get_one(
            "SELECT quantile(anomaly_summary(v), 'NaN') FROM generate_series(1, 3) AS v",
        )
        .unwrap_or_default();
    }

    #[pg_test]
    fn a_transition_outside_an_aggregate_changes_a_copy() {
        assert!(truth(
            "SELECT num_vals(s) = 3 AND num_vals(anomaly_summary_trans(s, 4)) = 4 AND num_vals(s) = 3
                AND num_vals(anomaly_summary_combine(s, s)) = 6 AND num_vals(s) = 3
             FROM (SELECT anomaly_summary(v) AS s FROM generate_series(1, 3) AS v OFFSET 0) AS t"
        ));
    }

    #[pg_test]
    fn fault_i7_a_hash_aggregate_that_spills_is_exact() {
        Spi::run("SET work_mem = '64kB'; SET enable_sort = off").unwrap_or_else(|e| panic!("{e}"));
        assert!(truth(
            "SELECT count(*) = 10000 AND bool_and(num_vals(s) = 4 AND mean(s) = g + 15000)
             FROM (SELECT i % 10000 AS g, anomaly_summary(i) AS s
                   FROM generate_series(0, 39999) AS i GROUP BY i % 10000) AS t"
        ));
    }

    #[pg_test]
    fn fault_i1_and_i2_degenerate_samples() {
        assert!(truth("SELECT anomaly_summary(v) IS NULL FROM generate_series(1, 0) AS v"));
        assert!(truth(
            "SELECT num_nulls(s) = 2 AND mean(s) IS NULL AND median(s) IS NULL AND zscore(s, 1) IS NULL
             FROM (SELECT anomaly_summary(v) AS s FROM unnest('{NULL,NULL}'::float8[]) AS v) AS t"
        ));
        assert!(truth(
            "SELECT zscore(s, 5) = 0 AND zscore(s, 6) = 'Infinity' AND modified_zscore(s, 4) = '-Infinity'
             FROM (SELECT anomaly_summary(5) AS s FROM generate_series(1, 9)) AS t"
        ));
    }
}
