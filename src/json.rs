//! Numbers of JSON objects.

use serde_json::Value;

use crate::error::{SqlResult, invalid};

/// What is under a key, as a number: true is 1, false 0, a text is what it spells, and what is missing
/// or null is NaN.
///
/// # Errors
/// 22023 naming the key for anything else.
pub fn feature(name: &str, value: Option<&Value>) -> SqlResult<f64> {
    let Some(value) = value else { return Ok(f64::NAN) };
    let number = match value {
        Value::Null => Some(f64::NAN),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Array(_) | Value::Object(_) => None,
    };
    number.ok_or_else(|| {
        invalid(
            format!("feature \"{name}\" is {value}, not a number"),
            "give a JSON number, true, false or null, or leave it out",
        )
    })
}
