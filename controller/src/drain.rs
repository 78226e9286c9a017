//! What operators have drained. It stands beside the specification, so that a new one does not undo it.

use crate::ids::gateway_names;
use crate::spec::MeshSpec;
use std::collections::BTreeSet;
use std::fmt;

/// A gateway, or all tunnels between two, or between one and a foreign peer.
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

    /// The tunnels between two gateways, or one and a foreign peer, whichever is named first.
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
    let gateways = gateway_names(spec);
    let foreign: BTreeSet<&str> = spec.foreign.iter().map(|it| it.name.as_str()).collect();
    drains.retain(|drain| match drain.names() {
        (gateway, None) => gateways.contains(gateway),
        (one, Some(other)) => match (gateways.contains(one), gateways.contains(other)) {
            (true, true) => true,
            (true, false) => foreign.contains(other),
            (false, true) => foreign.contains(one),
            (false, false) => false,
        },
    });
    drains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_from_the_specification_is_not_drained_any_more() {
        let text = r#"
            [mesh]
            as = 65000
            interconnect = "fd00:ff::/64"
            [sites.one]
            prefixes = ["10.1.0.0/16"]
            gateways.A.endpoints = ["192.0.2.1"]
            gateways.Z.endpoints = ["192.0.2.2"]
            [foreign.M]
            prefixes = ["10.9.0.0/16"]
            [[foreign.M.tunnels]]
            gateway = "A"
            remote = "198.51.100.1"
            psk = "long enough for a key"
        "#;
        let spec = crate::spec::parse("test", text).unwrap();
        let stay = [
            Drain::gateway("A"),
            Drain::between("A", "Z"),
            Drain::between("A", "M"),
            Drain::between("Z", "M"),
        ];
        let gone = [
            Drain::gateway("M"),
            Drain::gateway("B"),
            Drain::between("A", "B"),
            Drain::between("B", "M"),
            Drain::between("M", "M"),
        ];
        let all = stay.iter().chain(&gone).cloned().collect();
        assert_eq!(staying(all, &spec), stay.into());
    }
}
