//! What a text is before it is run.

use std::ffi::CString;

use pgrx::{PgList, PgSqlErrorCode, pg_sys};

use crate::error::{SqlResult, invalid, report};

/// Accepts one SELECT, WITH, TABLE or VALUES statement and nothing behind it. A syntax error is
/// raised by PostgreSQL itself with its position.
///
/// This is what keeps a query that is later wrapped as `SELECT … FROM (query)` from closing the
/// parenthesis early: alone it has to be a whole statement.
pub fn check_single_select(query: &str) -> SqlResult<()> {
    let text = CString::new(query)
        .map_err(|_| report(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, "query contains a zero byte"))?;
    // SAFETY: the text is NUL-terminated and outlives the call; the parse tree lives in the
    // current memory context and is only read here.
    let (statements, is_select) = unsafe {
        let list: PgList<pg_sys::RawStmt> = PgList::from_pg(pg_sys::raw_parser(
            text.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        let is_select = list.get_ptr(0).is_some_and(|raw| {
            (*(*raw).stmt).type_ == pg_sys::NodeTag::T_SelectStmt
                && (*((*raw).stmt as *mut pg_sys::SelectStmt)).intoClause.is_null()
        });
        (list.len(), is_select)
    };
    if statements == 1 && is_select {
        return Ok(());
    }
    Err(invalid(
        "the source is not a single query",
        "give a table or view, or one SELECT, WITH, TABLE or VALUES statement without a semicolon",
    ))
}
