//! Errors as a report names them.

use routemesh_proto::Problem;
use std::error::Error;

/// A problem told by an error and the causes beneath it, as far as it does not tell them itself.
pub fn problem(object: impl ToString, error: &dyn Error) -> Problem {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = error.source();
    }
    remark(object, &reason)
}

/// A problem told in our own words.
pub fn remark(object: impl ToString, reason: &str) -> Problem {
    Problem {
        object: object.to_string(),
        reason: reason.to_owned(),
    }
}
