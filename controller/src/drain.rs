//! What operators have drained. It stands beside the specification, so that a new one does not undo it.

use crate::ids::gateway_names;
use crate::spec::MeshSpec;
use std::collections::BTreeSet;
use std::fmt;

/// A gateway, or all tunnels between two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drain {
    gateway: String,
    peer: Option<String>,
}

/// All that is drained.
pub type Drains = BTreeSet<Drain>;

impl Drain {
    /// The whole gateway.
    pub fn gateway(name: &str) -> Self {
        let gateway = name.to_owned();
        Self {
            gateway,
            peer: None,
        }
    }

    /// The tunnels between two gateways, whichever is named first.
    pub fn between(one: &str, other: &str) -> Self {
        let (gateway, peer) = if one < other {
            (one, other)
        } else {
            (other, one)
        };
        Self {
            gateway: gateway.to_owned(),
            peer: Some(peer.to_owned()),
        }
    }

    /// The gateway; and the other one where only the tunnels between the two are meant.
    pub fn names(&self) -> (&str, Option<&str>) {
        (&self.gateway, self.peer.as_deref())
    }
}

/// As an operator names it, and as it is kept: names have no spaces.
impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.gateway)?;
        self.peer.iter().try_for_each(|peer| write!(f, " {peer}"))
    }
}

impl From<&str> for Drain {
    fn from(text: &str) -> Self {
        match text.split_once(' ') {
            Some((one, other)) => Self::between(one, other),
            None => Self::gateway(text),
        }
    }
}

/// Those that still mean something in this specification.
pub fn staying(mut drains: Drains, spec: &MeshSpec) -> Drains {
    let names = gateway_names(spec);
    drains.retain(|drain| {
        let (gateway, peer) = drain.names();
        names.contains(gateway) && peer.is_none_or(|peer| names.contains(peer))
    });
    drains
}
