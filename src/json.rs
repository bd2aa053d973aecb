//! Reading JSON, and numbers of JSON objects.

use pgrx::PgSqlErrorCode;
use serde_json::Value;

use crate::error::{SqlResult, invalid, report};

/// Reads a text that PostgreSQL takes for JSON.
///
/// # Errors
/// 22003 for a number beyond double precision, 54000 for a value nested too deeply, 22023 for what is no JSON.
pub fn parse(text: &str) -> SqlResult<Value> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // serde_json tells its errors apart by their texts only.
        if message.starts_with("number out of range") {
            return report(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                "a number in the JSON value is beyond the range of double precision",
            )
            .set_hint("give numbers between -1.7e308 and 1.7e308");
        }
        if message.starts_with("recursion limit exceeded") {
            return report(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the JSON value is nested too deeply",
            )
            .set_hint("nest arrays and objects at most 127 deep");
        }
        invalid(format!("not valid JSON: {message}"), "give an array or object as jsonb takes it")
    })
}

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
