//! `validity(boolean)`: the share of values that meet a condition.

use pgrx::prelude::*;

extension_sql!(
    r#"
CREATE FUNCTION validity_trans(bigint[], boolean) RETURNS bigint[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'validity_trans';
COMMENT ON FUNCTION validity_trans(bigint[], boolean) IS 'transition function of validity: counts values that are not NULL and those that are true';

CREATE AGGREGATE @extschema@.validity(boolean) (
    SFUNC = validity_trans,
    STYPE = bigint[],
    INITCOND = '{0,0}',
    COMBINEFUNC = count_pair_combine,
    FINALFUNC = share_final,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE validity(boolean) IS 'share of true among true and false, 0 to 1; NULL is left out; NULL without either';
"#,
    name = "validity",
    requires = ["completeness"],
);
