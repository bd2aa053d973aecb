//! `anomaly_detection`: anomaly detection inside PostgreSQL.
//!
//! Table of contents: each file is named for what a SQL user calls. Mathematics live in
//! `crates/anomaly-core`, `unsafe` in `pg/`, tables and views in `sql/`.

mod error;
mod pg;

::pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["bootstrap"]);

/// Set-up of the test server that `cargo pgrx test` starts.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'anomaly_detection'"]
    }
}
