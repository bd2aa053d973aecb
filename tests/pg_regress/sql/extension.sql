-- What holds for every object of the extension. Each query lists offenders.
CREATE TEMP VIEW member AS
SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'anomaly_detection' AND d.deptype = 'e'
-- PostgreSQL 18 counts the row and array types that come with a table or type as members of their own.
AND NOT (d.classid = 'pg_type'::regclass AND EXISTS (
    SELECT FROM pg_depend i WHERE i.classid = 'pg_type'::regclass AND i.objid = d.objid AND i.deptype = 'i'));
CREATE TEMP VIEW function_of_extension AS
SELECT p.* FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid;

SELECT count(*) > 10 AS the_views_see_the_extension FROM member;

-- check_comments: every object says what it is; a partition is what its table is
SELECT object AS object_without_comment
FROM member
WHERE NOT EXISTS (SELECT FROM pg_class c WHERE classid = 'pg_class'::regclass AND c.oid = objid AND c.relispartition)
AND coalesce(obj_description(objid, (SELECT relname FROM pg_class WHERE oid = classid)), '') = ''
ORDER BY object COLLATE "C";

-- fault_a11_no_security_definer
SELECT oid::regprocedure AS security_definer FROM function_of_extension WHERE prosecdef ORDER BY oid::regprocedure::text COLLATE "C";

-- fault_a11_execute_revoked_from_public: the whole list of what PUBLIC may not call
SELECT oid::regprocedure AS not_for_public
FROM function_of_extension
WHERE NOT EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0 AND privilege_type = 'EXECUTE')
ORDER BY oid::regprocedure::text COLLATE "C";

-- A parameter with such a name cannot be passed as name => value.
SELECT p.oid::regprocedure AS function, k.word AS reserved_parameter
FROM function_of_extension p, unnest(p.proargnames) WITH ORDINALITY AS a (name, place) JOIN pg_get_keywords() k ON k.word = name
WHERE k.catcode IN ('R', 'C') AND COALESCE(p.proargmodes[place], 'i') <> 't'    -- those of a result are never written before =>
ORDER BY p.oid::regprocedure::text COLLATE "C", k.word;

-- name(x) would be read as a cast
SELECT DISTINCT p.proname AS type_and_function
FROM function_of_extension p JOIN pg_type t ON t.typname = p.proname
JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
WHERE p.pronamespace = t.typnamespace;

-- Base tables and sequences are granted to nobody; people read views.
SELECT c.oid::regclass AS granted_table, a.grantee::regrole, a.privilege_type
FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relkind IN ('r', 'p', 'S') AND a.grantee <> c.relowner
ORDER BY 1, 2, 3;
-- The whole list of views that need not hide rows from a user's functions: everybody may read all of them.
SELECT c.oid::regclass AS view_without_security_barrier
FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind = 'v' AND NOT coalesce('security_barrier=true' = ANY (c.reloptions), false)
ORDER BY c.oid::regclass::text COLLATE "C";

-- Volatile by oversight: what reads nothing and writes nothing must say so. Functions of schema anomaly are commands.
SELECT oid::regprocedure AS volatile_query_function
FROM function_of_extension
WHERE provolatile = 'v' AND pronamespace <> 'anomaly'::regnamespace AND prokind <> 'a'
ORDER BY oid::regprocedure::text COLLATE "C";
