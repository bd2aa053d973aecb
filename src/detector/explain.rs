//! `anomaly.explain`: why there is an alert, from what is stored with it.

use pgrx::{JsonB, PgSqlErrorCode, prelude::*};
use serde_json::{Map, Value, json};

use crate::{
    error::{SqlResult, report},
    sql,
};

/// Everything in one object: the verdict on the alert's most deviating point, the columns that make it
/// up with the largest share first, what the strategy says of itself, the model that judged, and a
/// sentence. What only members of the owner may see is not in the view, and so not here.
///
/// # Errors
/// 42704 for a number that no alert has, or none that the caller may see.
#[pg_extern(schema = "anomaly", stable, parallel_unsafe, strict)]
fn explain(alert: i64) -> SqlResult<JsonB> {
    let found = sql::row(ALERT, &[alert.into()], |row| {
        Ok(Stored {
            alert: object(row.must::<JsonB>(1)?),
            model: row.get::<JsonB>(2)?.map(object),
            value_column: row.get(3)?,
            feature_columns: row.get(4)?,
        })
    })?;
    let Some(stored) = found else {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("alert {alert} does not exist"),
        )
        .set_hint("SELECT id, description FROM anomaly.alerts"));
    };
    Ok(JsonB(stored.explained()))
}

extension_sql!(
    r#"COMMENT ON FUNCTION anomaly.explain(bigint) IS
'why there is an alert: the verdict, the share of each column in it, the strategy''s figures, the model that judged, and a sentence';"#,
    name = "explain_comment",
    requires = [explain]
);

/// As the caller, so that the views decide what there is to see. A detector that was made anew under
/// the same name has models that are younger than the alert.
const ALERT: &str = "\
    SELECT pg_catalog.to_jsonb(a), CASE WHEN m.version IS NOT NULL THEN pg_catalog.to_jsonb(m) END, \
           d.value_column, d.feature_columns \
      FROM anomaly.alerts a \
      LEFT JOIN anomaly.models m ON m.detector OPERATOR(pg_catalog.=) a.detector \
       AND m.version OPERATOR(pg_catalog.=) a.model_version \
       AND m.trained_at OPERATOR(pg_catalog.<=) a.raised_at \
      LEFT JOIN anomaly.detectors d ON d.detector OPERATOR(pg_catalog.=) a.detector \
       AND d.created_at OPERATOR(pg_catalog.<=) a.raised_at \
     WHERE a.id OPERATOR(pg_catalog.=) $1";

fn object(json: JsonB) -> Map<String, Value> {
    match json.0 {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An alert and what there still is of the detector that raised it.
struct Stored {
    alert: Map<String, Value>,
    model: Option<Map<String, Value>>,
    value_column: Option<String>,
    feature_columns: Option<Vec<String>>,
}

/// A column and its share in the deviation.
struct Reason {
    column: String,
    share: f64,
    /// Of the alert's most deviating point.
    value: Option<Value>,
}

impl Stored {
    fn explained(mut self) -> Value {
        let mut metadata = match self.alert.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        let shares = metadata.remove("contributions");
        let features = metadata.remove("features");
        let reasons = self.reasons(shares.as_ref(), features.as_ref());
        let explanation = self.sentences(&reasons);
        let mut verdict = self.taken(&[
            "value",
            "expected",
            "lower",
            "upper",
            "deviation",
            "score",
            "p_value",
            "direction",
        ]);
        verdict.insert("at".into(), self.alert.remove("peak_at").unwrap_or_default());
        let mut explained = self.taken(&[
            "detector",
            "status",
            "severity",
            "anomaly_type",
            "metric_name",
            "entity",
            "at",
            "last_at",
            "points",
            "suggestion",
        ]);
        let reasons = reasons.into_iter().map(|reason| match reason.value {
            Some(value) => {
                json!({"column": reason.column, "share": reason.share, "value": value})
            }
            None => json!({"column": reason.column, "share": reason.share}),
        });
        match self.alert.remove("kind") {
            Some(Value::String(kind)) if kind != "anomaly" => {
                explained.insert("kind".into(), kind.into());
            }
            _ => {}
        }
        explained.insert("alert".into(), self.alert.remove("id").unwrap_or_default());
        explained.insert("verdict".into(), Value::Object(verdict));
        explained.insert("reasons".into(), reasons.collect());
        explained
            .insert("strategy".into(), self.alert.remove("detection_strategy").unwrap_or_default());
        explained.insert("metadata".into(), Value::Object(metadata));
        let version = self.alert.remove("model_version").unwrap_or_default();
        let model = match self.model.take() {
            Some(model) => taken(
                model,
                &[
                    "version",
                    "active",
                    "trained_at",
                    "trained_from",
                    "trained_until",
                    "trained_rows",
                ],
            ),
            // Training deletes old versions.
            None => Map::from_iter([("version".to_owned(), version)]),
        };
        explained.insert("model".into(), Value::Object(model));
        explained.insert("explanation".into(), Value::from(explanation));
        Value::Object(explained)
    }

    fn taken(&mut self, keys: &[&str]) -> Map<String, Value> {
        keys.iter()
            .map(|key| ((*key).to_owned(), self.alert.remove(*key).unwrap_or_default()))
            .collect()
    }

    fn text(&self, key: &str) -> &str {
        self.alert.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// The columns with their shares, the largest first. `shares` begin with the value's, those of
    /// further columns follow in their order, and then those that have no name: of the calendar, or
    /// of a detector that is gone.
    fn reasons(&self, shares: Option<&Value>, features: Option<&Value>) -> Vec<Reason> {
        let value_name = self.value_column.as_deref().unwrap_or(self.text("metric_name"));
        let mut columns = vec![(value_name.to_owned(), self.alert.get("value").cloned())];
        match features.and_then(Value::as_array) {
            Some(features) => columns.extend(features.iter().map(|feature| {
                let name = feature.get("name").and_then(Value::as_str).unwrap_or_default();
                (name.to_owned(), feature.get("value").cloned())
            })),
            None => {
                let names = self.feature_columns.iter().flatten();
                columns.extend(names.map(|name| (name.clone(), None)));
            }
        }
        let (mut reasons, mut others) = (Vec::new(), 0.0);
        for (i, share) in shares.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let share = share.as_f64().unwrap_or_default();
            match columns.get(i) {
                Some((column, value)) => {
                    reasons.push(Reason { column: column.clone(), share, value: value.clone() })
                }
                None => others += share,
            }
        }
        if others > 0.0 {
            reasons.push(Reason { column: "other columns".into(), share: others, value: None });
        }
        reasons.sort_by(|a, b| b.share.total_cmp(&a.share));
        reasons
    }

    fn sentences(&self, reasons: &[Reason]) -> String {
        let mut text = format!("{}.", self.text("description"));
        if let [most, _, ..] = reasons {
            let share = 100.0 * most.share;
            text.push_str(&format!(" {} makes up {share:.0} % of it.", most.column));
        }
        if self.text("kind") != "anomaly" {
            return text;
        }
        text.push_str(&format!(" Judged by {}", self.text("detection_strategy")));
        match &self.model {
            Some(model) => {
                let trained_at =
                    model.get("trained_at").and_then(Value::as_str).unwrap_or_default();
                let rows = model.get("trained_rows").and_then(Value::as_i64).unwrap_or_default();
                text.push_str(&format!(", trained at {trained_at} on {rows} points."));
            }
            None => text.push_str(", by a model that is gone."),
        }
        text
    }
}

fn taken(mut map: Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    keys.iter().map(|key| ((*key).to_owned(), map.remove(*key).unwrap_or_default())).collect()
}
