-- Runs first: every other file of this directory uses the extension in this database.
CREATE EXTENSION anomaly_detection;
SELECT extname, nspname AS schema, extrelocatable
FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
WHERE extname = 'anomaly_detection';

-- What becomes of a command: 'accepted' or the first column of its first row, or its error with the HINT.
CREATE SCHEMA helper;
GRANT USAGE ON SCHEMA helper TO PUBLIC;
CREATE FUNCTION helper.attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, hint);
END $$;
CREATE FUNCTION helper.answer(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; hint text;
BEGIN
    EXECUTE command INTO result;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || SQLERRM || coalesce(' (HINT: ' || nullif(hint, '') || ')', '');
END $$;
