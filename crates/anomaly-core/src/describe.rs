//! Alerts in words, for every strategy.

use serde_json::{Map, Value};

use crate::strategy::{ANOMALY_TYPES, FOUND_BY, Rule, Strategy};
use crate::verdict::{Direction, Status, Verdict};

/// Two decimals; in scientific notation where that would show nothing but zeros or too many digits.
pub fn figure(v: f64) -> String {
    let magnitude = v.abs();
    if v.is_finite() && magnitude != 0.0 && !(0.005..1e15).contains(&magnitude) {
        format!("{v:.2e}")
    } else if v.is_infinite() {
        if v > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{v:.2}")
    }
}

/// One sentence: metric, value, direction, the strategy's figure with its threshold (or p with its
/// limit), and the expected range; then the members of an ensemble that find it by themselves.
/// What has no sides says that the value stays where it is.
pub fn description(
    metric: &str,
    strategy: &dyn Strategy,
    rule: &Rule,
    verdict: &Verdict,
    metadata: &Map<String, Value>,
) -> String {
    let statistic_name = strategy.statistic_name();
    let value = figure(verdict.value);
    if verdict.status == Status::Missing {
        let expected = match verdict.expected.is_nan() {
            true => String::new(),
            false => format!("; expected {}", figure(verdict.expected)),
        };
        return format!(
            "{metric} is missing ({} in a row, p = {}{expected})",
            verdict.statistic,
            probability(verdict.ln_p())
        );
    }
    if verdict.value.is_nan() {
        return format!("{metric} is NaN: not a number, neither normal nor anomalous");
    }
    if verdict.expected.is_nan() {
        return format!("{metric} is {value}; there is no baseline yet");
    }
    let side = verdict.direction.as_str();
    let range = format!(
        "expected {}, range {} to {}",
        figure(verdict.expected),
        figure(verdict.lower),
        figure(verdict.upper)
    );
    let limit = match rule.threshold {
        Some(threshold) => format!(
            "{statistic_name} {}, threshold {}",
            figure(verdict.statistic),
            figure(strategy.limit(threshold))
        ),
        None => format!(
            "{statistic_name} {}, p = {}, threshold {}",
            figure(verdict.statistic),
            probability(verdict.ln_p()),
            probability(rule.ln_alpha)
        ),
    };
    if !strategy.has_sides() && verdict.value.is_finite() {
        return format!("{metric} stays at {value} ({limit}; {range})");
    }
    let mut text = format!("{metric} is {value}, {side} normal ({limit}; {range})");
    if let Some(Value::Array(members)) = metadata.get(FOUND_BY) {
        let members: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
        if !members.is_empty() {
            text += "; found by ";
            text += &members.join(", ");
        }
    }
    text
}

/// A probability from its logarithm, also where it underflows.
pub fn probability(ln_p: f64) -> String {
    let log10 = ln_p / std::f64::consts::LN_10;
    if ln_p > -7.0 {
        format!("{:.4}", libm::exp(ln_p))
    } else if log10 > -300.0 {
        format!("{:.1e}", libm::exp(ln_p))
    } else {
        format!("1e{log10:.0}")
    }
}

/// What to do about an anomaly, by its type and direction. `family` is that of a type which is not built in.
pub fn suggestion(anomaly_type: &str, family: Option<&str>, direction: Direction) -> &'static str {
    let built_in = ANOMALY_TYPES.iter().find(|t| t.name == anomaly_type).map(|t| t.family);
    let family = built_in.or(family).unwrap_or("other");
    match (anomaly_type, family, direction) {
        ("system_error_rate" | "system_latency", ..) => {
            "Look at recent deployments, configuration changes and traffic, and at the logs of the time."
        }
        (_, "system", Direction::Low) => {
            "Check that the service is healthy: unusually low use often means that something has stopped."
        }
        (_, "system", _) => {
            "Find what is using the resource; if it lasts, add capacity or move load away."
        }
        (_, "user", _) => {
            "Review the activity log of this user and rule out a compromised account."
        }
        (_, "data", _) => "Check the quality of the source and the pipeline that loads it.",
        _ => "Compare with related metrics of the same time to find the cause.",
    }
}
