//! `completeness("any")`: the share of rows that have a value.

use pgrx::prelude::*;

// The state and its combine and final functions are shared with `validity`.
extension_sql!(
    r#"
CREATE FUNCTION count_pair_combine(bigint[], bigint[]) RETURNS bigint[]
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'count_pair_combine';
CREATE FUNCTION share_final(bigint[]) RETURNS double precision
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'share_final';
COMMENT ON FUNCTION count_pair_combine(bigint[], bigint[]) IS 'combine function of completeness and validity: adds counts';
COMMENT ON FUNCTION share_final(bigint[]) IS 'final function of completeness and validity: second count / first';

CREATE FUNCTION completeness_trans(bigint[], "any") RETURNS bigint[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'completeness_trans';
COMMENT ON FUNCTION completeness_trans(bigint[], "any") IS 'transition function of completeness: counts rows and values that are not NULL';

CREATE AGGREGATE @extschema@.completeness("any") (
    SFUNC = completeness_trans,
    STYPE = bigint[],
    INITCOND = '{0,0}',
    COMBINEFUNC = count_pair_combine,
    FINALFUNC = share_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE completeness("any") IS 'share of rows whose value is not NULL, 0 to 1; NULL without rows';
"#,
    name = "completeness",
);
