//! `anomaly_detection`: anomaly detection inside PostgreSQL.
//!
//! Table of contents: each file is named for what a SQL user calls. Mathematics live in
//! `crates/anomaly-core`, `unsafe` in `pg/`, tables and views in `sql/`.

mod anomaly_score;
mod anomaly_summary;
mod anomaly_type;
mod completeness;
mod decompose;
mod detect_anomalies;
mod detect_periods;
mod detector;
mod error;
mod ewma_score;
mod function;
mod gucs;
mod handler;
mod health;
mod iqr_score;
mod isolation_forest;
mod job;
mod json;
mod limits;
mod modified_zscore;
mod monitor;
mod monitor_system;
mod pg;
mod run;
mod sql;
mod stats;
mod strategy;
mod uniqueness;
mod validity;
mod volume_check;
mod worker;
mod zscore;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

/// Called when the library is loaded: once by the postmaster if it is preloaded, else by each
/// session that calls one of its functions, parallel workers included.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    gucs::init();
    anomaly_core::progress::interrupt_by(pg::interrupts::check);
    worker::init();
}

/// Only tells pgrx that the schema exists, for `#[pg_extern(schema = "anomaly")]`. It also makes pgrx
/// emit CREATE SCHEMA IF NOT EXISTS, which finds the schema that sql/bootstrap.sql has created with a
/// plain CREATE before: a schema of somebody else has stopped the installation by then.
#[pgrx::pg_schema]
mod anomaly {}

pgrx::extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["bootstrap"]);
pgrx::extension_sql_file!("../sql/registries.sql", name = "registries", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/alerts.sql", name = "alerts", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/handlers.sql", name = "handlers", requires = ["alerts"]);
pgrx::extension_sql_file!("../sql/secrets.sql", name = "secrets", requires = ["handlers"]);
pgrx::extension_sql_file!("../sql/warnings.sql", name = "warnings", requires = ["secrets"]);
pgrx::extension_sql_file!("../sql/replication.sql", name = "replication", requires = ["handlers"]);
pgrx::extension_sql_file!("../sql/samples.sql", name = "samples", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/monitors.sql", name = "monitors", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/runs.sql", name = "runs", requires = ["tables"]);
pgrx::extension_sql_file!(
    "../sql/scheduling.sql",
    name = "scheduling",
    requires = [
        "runs",
        "handlers",
        "warnings",
        handler::deliver::deliver,
        run::claim_next_due,
        run::perform_claimed,
        run::settle_claimed,
        run::run_is_alive,
        run::paused_reason,
        run::resume,
        run::pause,
        run::owner_problem,
        health::scheduler_health,
        health::scheduler_state,
        health::running_workers,
        health::due_of_others
    ]
);
pgrx::extension_sql_file!("../sql/schedule.sql", name = "schedule", requires = ["scheduling"]);
pgrx::extension_sql_file!(
    "../sql/jobs.sql",
    name = "jobs",
    requires = [
        "tables",
        health::running_workers,
        job::submit::submit,
        job::cancel_job::cancel_job,
        job::cancel_job::job_result,
        job::job_is_alive,
        job::claim_next_job,
        job::perform_job,
        job::settle_job
    ]
);
pgrx::extension_sql_file!(
    "../sql/stats.sql",
    name = "stats",
    requires = ["tables", stats::reset_stats]
);
pgrx::extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = ["registries", "alerts", "samples"]
);
pgrx::extension_sql_file!(
    "../sql/feedback.sql",
    name = "feedback",
    requires = ["views", detector::feedback::wilson_interval]
);
pgrx::extension_sql_file!("../sql/shadow.sql", name = "shadow", requires = ["feedback"]);
pgrx::extension_sql_file!(
    "../sql/engine.sql",
    name = "engine",
    requires = ["views", detector::get_alerts::alert_page]
);
pgrx::extension_sql_file!(
    "../sql/writes.sql",
    name = "writes",
    requires = ["views", run::paused_reason]
);
pgrx::extension_sql_file!(
    "../sql/calendars.sql",
    name = "calendars",
    requires = ["views", detector::calendars::next_occurrence]
);
pgrx::extension_sql_file!("../sql/extending.sql", name = "extending", requires = ["views"]);
pgrx::extension_sql_file!(
    "../sql/incidents.sql",
    name = "incidents",
    requires = ["alerts", "handlers"]
);
pgrx::extension_sql_file!(
    "../sql/dump.sql",
    name = "dump",
    requires = [
        "views",
        "feedback",
        "calendars",
        "incidents",
        "scheduling",
        "jobs",
        "stats",
        "writes",
        "extending",
        "shadow"
    ],
    finalize
);

/// Set-up of the test server that `cargo pgrx test` starts.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'anomaly_detection'"]
    }
}
