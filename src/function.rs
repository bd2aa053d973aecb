//! A function that somebody names, of a handler or a strategy: looked up here with the caller's rights, and called
//! later in sessions of the owner's.

use pgrx::{PgSqlErrorCode, pg_sys, spi::quote_qualified_identifier};

use crate::{
    error::{SqlResult, invalid, report},
    pg::subxact,
    sql,
};

pub struct Function {
    pub oid: pg_sys::Oid,
    /// Schema and name, quoted.
    pub name: String,
    /// Neither procedure nor aggregate, one value and no set.
    pub is_plain: bool,
    pub result: pg_sys::Oid,
    pub is_volatile: bool,
    is_temporary: bool,
    may_execute: bool,
}

/// The function of this signature, with the types of its arguments; `None` for what is no signature, too: before 16
/// PostgreSQL raises what is wrong with one.
pub fn find(signature: &str) -> SqlResult<Option<Function>> {
    let found = subxact::attempt(|| {
        sql::row(
            "SELECT p.oid, n.nspname::pg_catalog.text, p.proname::pg_catalog.text, \
                    p.prokind OPERATOR(pg_catalog.=) 'f' AND NOT p.proretset, p.prorettype, \
                    p.provolatile OPERATOR(pg_catalog.=) 'v', \
                    n.oid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema(), \
                    pg_catalog.has_function_privilege(p.oid, 'EXECUTE') \
                    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
               FROM pg_catalog.pg_proc p \
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
              WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure($1)::pg_catalog.oid",
            &[signature.into()],
            |row| {
                Ok(Function {
                    oid: row.must(1)?,
                    name: quote_qualified_identifier(
                        row.must::<String>(2)?,
                        row.must::<String>(3)?,
                    ),
                    is_plain: row.must(4)?,
                    result: row.must(5)?,
                    is_volatile: row.must(6)?,
                    is_temporary: row.must(7)?,
                    may_execute: row.must(8)?,
                })
            },
        )
    });
    match found {
        Ok(found) => Ok(found),
        // of the classes: no such feature, data exception, syntax error or access rule violation
        Err(caught)
            if ["0A", "22", "42"].iter().any(|class| caught.sqlstate.starts_with(class)) =>
        {
            Ok(None)
        }
        Err(caught) => Err(caught.into_report()),
    }
}

impl Function {
    /// Whether sessions of the current role's can call it later; `shown` is how it was named.
    ///
    /// # Errors
    /// 22023 for a temporary function, 42501 for one that the current role may not execute.
    pub fn check_callable(&self, shown: &str) -> SqlResult<()> {
        if self.is_temporary {
            return Err(invalid(
                format!("{shown} is a temporary function, which no other session has"),
                "create the function in another schema",
            ));
        }
        if !self.may_execute {
            return Err(report(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("permission denied for function {shown}"),
            )
            .set_hint("it is called as the current role: GRANT EXECUTE on the function, and USAGE on its schema"));
        }
        Ok(())
    }
}
