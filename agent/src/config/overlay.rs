//! Where the private side is, and where in it the mesh's routes are.

use super::{ConfigError, Fields};
use crate::state::{Place, ours};
use routemesh_proto as proto;
use std::fmt;

/// Before the name of a VRF.
const VRF: &str = "vrf:";

/// Where the private side is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// In the agent's own network namespace.
    #[default]
    Own,
    /// In the network namespace of this name.
    Netns(String),
    /// In the VRF of this name in the agent's own.
    Vrf(String),
}

impl Overlay {
    /// It is a VRF.
    pub fn is_vrf(&self) -> bool {
        matches!(self, Self::Vrf(_))
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => write!(f, "the agent's own network namespace"),
            Self::Netns(name) => write!(f, "network namespace {name}"),
            Self::Vrf(name) => write!(f, "VRF {name}"),
        }
    }
}

pub(super) fn overlay(fields: &Fields, raw: &proto::Config) -> Result<Overlay, ConfigError> {
    Ok(
        match (raw.overlay.as_str(), raw.overlay.strip_prefix(VRF)) {
            ("", _) => Overlay::Own,
            (_, Some(name)) => Overlay::Vrf(fields.interface("overlay", name)?),
            (name, None) => Overlay::Netns(fields.name("overlay", name)?),
        },
    )
}

pub(super) fn place(fields: &Fields, raw: &proto::Config) -> Result<Place, ConfigError> {
    let wrong =
        |field, value: u32, expected| Err(fields.wrong(field, &value.to_string(), expected));
    let table = match raw.table {
        0 => ours::TABLE,
        table if raw.overlay.starts_with(VRF) => {
            return wrong("table", table, "0: a VRF has a table of its own");
        }
        // RT_TABLE_DEFAULT and RT_TABLE_LOCAL are the kernel's own.
        table @ (253 | 255) => return wrong("table", table, "a table for routes of ours"),
        table => table,
    };
    let metric = match raw.metric {
        0 => ours::METRIC,
        metric if metric < ours::METRIC_UNREACHABLE => metric,
        worst => {
            return wrong(
                "metric",
                worst,
                "better than that of the unreachable routes",
            );
        }
    };
    Ok(Place { table, metric })
}
