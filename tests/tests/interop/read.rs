//! What the daemons' JSON is read with.

use std::collections::BTreeSet;

use routemesh_tests::lab::error::{LabError, Result};
use serde_json::Value;

/// What a command has answered.
pub fn json(command: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|error| LabError::Unexpected(format!("{command}: {error}: {text}")))
}

pub fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// Its elements; none where it is no array.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The strings in an array.
pub fn words(value: &Value) -> BTreeSet<String> {
    let words = list(value).iter().filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

/// A string; an empty one where it is none.
pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
