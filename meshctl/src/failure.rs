//! Why a command failed, in words for whoever typed it.

use crate::client::CallError;
use crate::import::ImportError;
use routemesh_proto::{EnrollError, ProposalError, TokenError};
use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("meshctl: {0}")]
    Call(#[from] CallError),
    /// Shown as it came: lines of file:line:column: reason.
    #[error("{0}")]
    Spec(String),
    #[error("meshctl: cannot read {file}: {reason}")]
    Read { file: String, reason: String },
    #[error("meshctl: cannot write {file}: {reason}")]
    WriteFile { file: String, reason: String },
    #[error("meshctl: {0}")]
    Import(#[from] ImportError),
    #[error("meshctl: rolled back: {0}")]
    RolledBack(String),
    #[error("meshctl: nothing was changed, as it was not wanted")]
    NotWanted,
    #[error("meshctl: cannot write: {0}")]
    Write(#[from] io::Error),
    #[error("meshctl: cannot show this as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("meshctl: {0}")]
    Token(#[from] TokenError),
    #[error("meshctl: {0}")]
    Enroll(#[from] EnrollError),
    #[error(
        "meshctl: there is no context {0}: `meshctl context list` lists them, and `meshctl --context {0} enroll TOKEN` makes one"
    )]
    NoContext(String),
    #[error("meshctl: {0}")]
    Usage(&'static str),
    #[error("meshctl: there is no gateway {0}: `meshctl get gateways` lists them")]
    NoGateway(String),
    #[error("meshctl: {0}")]
    Proposal(#[from] ProposalError),
}
