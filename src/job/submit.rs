//! `anomaly.submit`: has something done in the background that takes long.

use pgrx::{JsonB, PgSqlErrorCode, pg_sys, prelude::*};
use serde_json::{Map, Value};

use crate::{
    detector::{catalog::DetectorRow, create_detector, source::Source},
    error::{SqlResult, invalid, not_null, report},
    gucs,
    job::{KEPT_JOBS, Kind, Type},
    pg::{internal_rights, json_arg::JsonArg, session},
    run, sql, worker,
};

/// Settings that say what a detector reads. In the owner's session nobody but the owner may choose it.
const READS: [&str; 6] = ["source", "value", "at", "entity", "trials", "features"];

/// Has a training, scan, backtest or preview done as the owner of the detector, by a background worker or
/// the owner's next `CALL anomaly.run_due()`. Answers the number of the job.
///
/// # Errors
/// 22023 for an unknown kind or argument, 42704 and 42501 for the detector, 53400 when the owner has too
/// many jobs waiting, 55000 for an owner that no worker can be, 25006 on a standby.
#[pg_extern(schema = "anomaly", volatile, parallel_unsafe)]
pub fn submit(kind: Option<&str>, args: default!(Option<JsonArg>, "'{}'")) -> SqlResult<i64> {
    not_null!(kind, args);
    run::check_writable("submit")?;
    let kind = Kind::of(kind)?;
    let Value::Object(mut args) = args.0 else {
        return Err(invalid("args is not a JSON object", kind.example()));
    };
    kind.check(&mut args)?;
    let me = session::current_user();
    let (owner, detector) = match args.get("detector") {
        Some(Value::String(detector)) => {
            let row = DetectorRow::load_administered(detector)?;
            (row.owner, Some(row.detector))
        }
        _ => (me, None),
    };
    if let Some(detector) = &detector {
        // A short name was one; another detector may have it when the job runs.
        args.insert("detector".to_owned(), Value::from(detector.as_str()));
    }
    if let Some(Value::String(source)) = args.get("source") {
        Source::resolve(source)?;
    }
    check_settings(&args, me, owner)?;
    create_detector::check_login(owner)?;
    let job_id = store(kind, owner, detector.as_deref(), args)?;
    if !worker::is_preloaded() {
        pgrx::warning!(
            "job {job_id} will not run by itself: anomaly_detection is not in \
             shared_preload_libraries (add it and restart, or CALL anomaly.run_due() as the owner)"
        );
    }
    worker::notify_due(session::now());
    Ok(job_id)
}

/// The owner's session would read it with the owner's rights.
fn check_settings(args: &Map<String, Value>, me: pg_sys::Oid, owner: pg_sys::Oid) -> SqlResult<()> {
    let Some(Value::Object(settings)) = args.get("settings") else { return Ok(()) };
    match settings.keys().find(|key| READS.contains(&key.as_str())) {
        Some(key) if me != owner => Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("\"{key}\" of the settings is chosen by nobody but the owner"),
        )
        .set_hint(format!("SET ROLE to the owner, or leave out {}", READS.join(", ")))),
        _ => Ok(()),
    }
}

fn store(
    kind: &Kind,
    owner: pg_sys::Oid,
    detector: Option<&str>,
    args: Map<String, Value>,
) -> SqlResult<i64> {
    let by = session::current_user();
    let most = gucs::max_queued_jobs();
    internal_rights::with(|| {
        let waiting = sql::row(
            "SELECT count(*) FROM anomaly.job WHERE owner = $1::oid AND status IN ('queued', 'running')",
            &[owner.into()],
            |row| row.must::<i64>(1),
        )?
        .unwrap_or(0);
        if most >= 0 && waiting >= most && !session::is_superuser(by) {
            return Err(report(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!(
                    "{waiting} jobs wait already: anomaly_detection.max_queued_jobs is {most}"
                ),
            )
            .set_hint(
                "wait for some of anomaly.jobs, SELECT anomaly.cancel_job(job), or ask a superuser for a \
                 higher limit: ALTER ROLE … SET anomaly_detection.max_queued_jobs",
            ));
        }
        sql::execute(
            "DELETE FROM anomaly.job WHERE job_id IN ( \
                SELECT job_id FROM anomaly.job WHERE owner = $1::oid AND finished_at IS NOT NULL \
                 ORDER BY job_id DESC OFFSET $2)",
            &[owner.into(), (KEPT_JOBS - 1).into()],
        )?;
        sql::execute_returning(
            "INSERT INTO anomaly.job (owner, submitted_by, kind, detector, args, submitted_at) \
             VALUES ($1::oid, $2::oid::regrole::text, $3, $4, $5, $6) RETURNING job_id",
            &[
                owner.into(),
                by.into(),
                kind.name.into(),
                detector.into(),
                JsonB(Value::Object(args)).into(),
                sql::timestamptz(session::now())?.into(),
            ],
            |row| row.must(1),
        )?
        .into_iter()
        .next()
        .ok_or_else(|| report(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "job was not stored"))
    })
}

impl Kind {
    fn example(&self) -> String {
        let names: Vec<String> = self
            .arguments
            .iter()
            .map(|a| format!("\"{}\"{}", a.name, if a.required { "" } else { " (optional)" }))
            .collect();
        format!("args of {} are an object with {}", self.name, names.join(", "))
    }

    /// Checks what can be checked now; times are those of now.
    ///
    /// # Errors
    /// 22023 for an argument that is missing, unknown or of another type; 22007 and 22008 for a time.
    fn check(&self, args: &mut Map<String, Value>) -> SqlResult<()> {
        if let Some(key) = args.keys().find(|key| self.arguments.iter().all(|a| a.name != *key)) {
            return Err(invalid(
                format!("a job of kind {} has no argument \"{key}\"", self.name),
                self.example(),
            ));
        }
        for argument in self.arguments {
            let name = argument.name;
            let checked = match (args.get(name), argument.of) {
                (None | Some(Value::Null), _) if argument.required => {
                    return Err(invalid(
                        format!("a job of kind {} needs the argument \"{name}\"", self.name),
                        self.example(),
                    ));
                }
                (None | Some(Value::Null), _) => {
                    args.remove(name);
                    continue;
                }
                (Some(Value::String(text)), Type::Text) => Value::from(text.as_str()),
                (Some(Value::String(text)), Type::Interval) => {
                    sql::row(
                        "SELECT $1::pg_catalog.interval",
                        &[text.as_str().into()],
                        |_| Ok(()),
                    )?;
                    Value::from(text.as_str())
                }
                (Some(Value::String(text)), Type::Timestamp) => sql::row(
                    "SELECT pg_catalog.to_jsonb($1::pg_catalog.timestamptz)",
                    &[text.as_str().into()],
                    |row| row.must::<JsonB>(1),
                )?
                .map_or(Value::Null, |json| json.0),
                (Some(Value::Object(map)), Type::Object) => Value::Object(map.clone()),
                (Some(other), of) => {
                    let wanted = if of == Type::Object { "an object" } else { "a text" };
                    return Err(invalid(
                        format!("the argument \"{name}\" is {other}, not {wanted}"),
                        self.example(),
                    ));
                }
            };
            args.insert(name.to_owned(), checked);
        }
        Ok(())
    }
}
