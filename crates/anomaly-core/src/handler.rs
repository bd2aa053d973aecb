//! Which handlers hear of what happens to an alert, what they are told, and when a delivery that failed is
//! tried again.

use serde_json::{Map, Value, json};

use crate::random::mix;
use crate::verdict::Severity;
use crate::{Error, Result};

/// What can happen to an alert that people want to hear of.
pub const TRANSITIONS: [&str; 6] =
    ["opened", "escalated", "reopened", "acknowledged", "resolved", "withdrawn"];

/// Where a handler sends what it is told: the first two are done in the database.
pub const KINDS: [&str; 6] = ["function", "notify", "webhook", "slack", "alertmanager", "smtp"];

/// Deliveries that failed so often are given up.
pub const ATTEMPTS: u32 = 10;

const FIRST_PAUSE: i64 = 5_000_000;
const LONGEST_PAUSE: i64 = 3_600_000_000;

/// µs to wait after the n-th attempt in a row (from 1): 5 s, twice as long after each, an hour at most, and a
/// tenth of it more or less, so that what failed together is not tried together.
pub fn pause(attempt: u32, seed: u64) -> i64 {
    let factor = 1i64 << attempt.saturating_sub(1).min(20);
    let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
    let hash = mix(seed ^ mix(u64::from(attempt)));
    // of the 53 bits that a double holds, a fraction in [0, 1)
    let fraction = (hash >> 11) as f64 / (1u64 << 53) as f64;
    (pause as f64 * (0.9 + 0.2 * fraction)) as i64
}

/// Conditions on alerts, all of which have to hold; an empty list admits everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matchers {
    detector: Vec<String>,
    entity: Vec<String>,
    anomaly_type: Vec<String>,
    kind: Vec<String>,
    transitions: Vec<String>,
    min_severity: Option<Severity>,
}

/// What matchers look at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub detector: &'a str,
    /// Empty for a detector without entities.
    pub entity: &'a str,
    pub anomaly_type: &'a str,
    /// One of [`ALERT_KINDS`].
    pub kind: &'a str,
    pub severity: Severity,
    pub transition: &'a str,
}

/// What an alert is about: a value, missing values, or a detector that cannot run.
pub const ALERT_KINDS: [&str; 3] = ["anomaly", "no_data", "error"];

const KEYS: &str = "detector, entity, anomaly_type, kind, transitions and min_severity";

fn wrong(message: String, hint: impl Into<String>) -> Error {
    Error::InvalidParameter { message, hint: hint.into() }
}

/// One text or an array of them.
fn texts(key: &str, value: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(
            format!("matcher {key} is {other}"),
            format!("give a text or an array of texts, for example {{\"{key}\": [\"a\", \"b\"]}}"),
        )),
    };
    match value {
        Value::Array(values) if values.is_empty() => Err(wrong(
            format!("matcher {key} is empty and would match nothing"),
            format!("leave out {key} to match everything"),
        )),
        Value::Array(values) => values.iter().map(text).collect(),
        value => Ok(vec![text(value)?]),
    }
}

fn is_among(texts: &[String], text: &str) -> bool {
    texts.is_empty() || texts.iter().any(|t| t == text)
}

impl Matchers {
    /// `InvalidParameter` for what is no object, for unknown keys, and for values that can never match.
    pub fn parse(matchers: &Value) -> Result<Self> {
        let Value::Object(map) = matchers else {
            return Err(wrong(
                format!("matchers are {matchers}, not an object"),
                r#"for example {"min_severity": "critical"}"#,
            ));
        };
        let mut parsed = Matchers::default();
        for (key, value) in map {
            match key.as_str() {
                "detector" => parsed.detector = texts(key, value)?,
                "entity" => parsed.entity = texts(key, value)?,
                "anomaly_type" => parsed.anomaly_type = texts(key, value)?,
                "kind" => parsed.kind = texts(key, value)?,
                "transitions" => parsed.transitions = texts(key, value)?,
                "min_severity" => {
                    let named = value.as_str().unwrap_or_default();
                    let found = Severity::ALL.into_iter().find(|s| s.as_str() == named);
                    parsed.min_severity = Some(found.ok_or_else(|| {
                        wrong(
                            format!("min_severity is {value}"),
                            "severities are info, warning, critical and emergency",
                        )
                    })?);
                }
                _ => {
                    return Err(wrong(
                        format!("unknown matcher \"{key}\""),
                        format!("matchers are {KEYS}"),
                    ));
                }
            }
        }
        if let Some(name) = parsed.kind.iter().find(|k| !ALERT_KINDS.contains(&k.as_str())) {
            return Err(wrong(
                format!("unknown kind of alerts \"{name}\""),
                format!("kinds are {}", ALERT_KINDS.join(", ")),
            ));
        }
        if let Some(name) = parsed.transitions.iter().find(|t| !TRANSITIONS.contains(&t.as_str())) {
            return Err(wrong(
                format!("unknown transition \"{name}\""),
                format!("transitions are {}", TRANSITIONS.join(", ")),
            ));
        }
        Ok(parsed)
    }

    /// As [`Matchers::parse`] reads it.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, texts) in [
            ("detector", &self.detector),
            ("entity", &self.entity),
            ("anomaly_type", &self.anomaly_type),
            ("kind", &self.kind),
            ("transitions", &self.transitions),
        ] {
            if !texts.is_empty() {
                map.insert(key.into(), json!(texts));
            }
        }
        if let Some(severity) = self.min_severity {
            map.insert("min_severity".into(), json!(severity.as_str()));
        }
        Value::Object(map)
    }

    pub fn anomaly_types(&self) -> &[String] {
        &self.anomaly_type
    }

    pub fn matches(&self, subject: &Subject) -> bool {
        self.matches_alert(subject) && self.admits(subject.transition)
    }

    /// Whether they match the alert, whatever has happened to it.
    pub fn matches_alert(&self, subject: &Subject) -> bool {
        is_among(&self.detector, subject.detector)
            && is_among(&self.entity, subject.entity)
            && is_among(&self.anomaly_type, subject.anomaly_type)
            && is_among(&self.kind, subject.kind)
            && self.min_severity.is_none_or(|least| subject.severity >= least)
    }

    /// Whether a transition is one of those that are asked for.
    pub fn admits(&self, transition: &str) -> bool {
        is_among(&self.transitions, transition)
    }
}

/// A text with placeholders such as `{{metric_name}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Template {
    /// `InvalidParameter` for a placeholder that is none of `fields`, and for one that does not end.
    pub fn parse(text: &str, fields: &[&str]) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((name, after)) = after.split_once("}}") else {
                return Err(wrong(
                    "a placeholder of the template does not end".to_owned(),
                    "write {{name}} with two closing braces",
                ));
            };
            let name = name.trim();
            if !fields.contains(&name) {
                return Err(wrong(
                    format!("unknown placeholder {{{{{name}}}}}"),
                    format!("placeholders are {}", fields.join(", ")),
                ));
            }
            parts.push(Part::Field(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template(parts))
    }

    /// The text with the values in it; what is missing or null is empty.
    pub fn render(&self, values: &Map<String, Value>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(name) => match values.get(name) {
                    None | Some(Value::Null) => {}
                    Some(Value::String(text)) => out.push_str(text),
                    Some(other) => out.push_str(&other.to_string()),
                },
            }
        }
        out
    }
}
