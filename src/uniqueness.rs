//! `uniqueness("any")`: distinct values as a share of all values, exact.

use pgrx::prelude::*;

// SSPACE: each group sorts on its own, so many groups must be grouped by sorting, not by hashing.
// FINALFUNC_MODIFY: the sort takes no values after the first answer, so OVER is refused.
extension_sql!(
    r#"
CREATE FUNCTION uniqueness_trans(internal, "any") RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'uniqueness_trans';
CREATE FUNCTION uniqueness_final(internal) RETURNS double precision
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'uniqueness_final';
COMMENT ON FUNCTION uniqueness_trans(internal, "any") IS 'transition function of uniqueness: puts a value into a sort';
COMMENT ON FUNCTION uniqueness_final(internal) IS 'final function of uniqueness: distinct values / values';

CREATE AGGREGATE @extschema@.uniqueness("any") (
    SFUNC = uniqueness_trans,
    STYPE = internal,
    SSPACE = 100000,
    FINALFUNC = uniqueness_final,
    FINALFUNC_MODIFY = READ_WRITE,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE uniqueness("any") IS 'distinct values / values that are not NULL, above 0 to 1, exact; NULL without values';
"#,
    name = "uniqueness",
);
