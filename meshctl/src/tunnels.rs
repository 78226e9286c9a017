//! What one end of a tunnel has to say of it, as `ipsec status`, `ip link` and a ping would.

use routemesh_proto::{Edge, End, FIRST_KEY, Topology, TunnelStatus};
use serde::Serialize;
use std::collections::BTreeSet;

/// A tunnel, as the gateway at one end sees it. What that has not said lately is absent.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TunnelEnd {
    pub(crate) interface: String,
    pub(crate) gateway: String,
    pub(crate) peer: String,
    /// Endpoints, its own first.
    pub(crate) outside: [String; 2],
    /// Addresses of the interconnect, its own first; a foreign peer may have none.
    pub(crate) inside: [String; 2],
    pub(crate) ike: Option<String>,
    /// WireGuard's last, in seconds before the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handshake: Option<u64>,
    pub(crate) bfd: Option<String>,
    pub(crate) bgp: Option<String>,
    /// The largest packet, in bytes.
    pub(crate) mtu: Option<u32>,
    /// The `if_id` or mark of its SAs and policies; the interface's group where it is WireGuard's.
    pub(crate) known_by: String,
}

/// Both ends of every tunnel, or those at one gateway. A foreign peer's end is nobody's to tell of.
pub(crate) fn ends(topology: &Topology, gateway: Option<&str>) -> Vec<TunnelEnd> {
    let both = |edge: &Edge| {
        let ends = [(&edge.a, &edge.b), (&edge.b, &edge.a)];
        ends.map(|(own, far)| Some(end(edge, own.as_ref()?, far.as_ref()?)))
    };
    let ours = topology.gateways.iter().map(|view| view.name.as_str());
    let ours: BTreeSet<&str> = ours
        .filter(|name| gateway.is_none_or(|wanted| wanted == *name))
        .collect();
    let all = topology.edges.iter().flat_map(both).flatten();
    all.filter(|end| ours.contains(end.gateway.as_str()))
        .collect()
}

fn end(edge: &Edge, own: &End, far: &End) -> TunnelEnd {
    let status = own.status.as_ref().filter(|_| own.fresh);
    let key = FIRST_KEY.saturating_add(edge.number);
    let known_by = match edge.kind.as_str() {
        "vti" => format!("mark {key:#x}"),
        "wireguard" => format!("group {key:#x}"),
        _ => format!("if_id {key:#x}"),
    };
    TunnelEnd {
        interface: format!("rm{}", edge.number),
        gateway: own.gateway.clone(),
        peer: far.gateway.clone(),
        outside: [&own.endpoint, &far.endpoint].map(Clone::clone),
        inside: [&own.address, &far.address].map(Clone::clone),
        ike: status.map(|status| status.ike.clone()),
        handshake: status.and_then(|status| status.handshake),
        bfd: status.and_then(|status| Some(status.bfd.as_ref()?.state.clone())),
        bgp: status.and_then(|status| Some(status.bgp.as_ref()?.state.clone())),
        mtu: status.and_then(mtu),
        known_by,
    }
}

/// None for no interface.
fn mtu(status: &TunnelStatus) -> Option<u32> {
    Some(status.mtu).filter(|mtu| *mtu > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::{BfdStatus, BgpStatus, GatewayView};

    fn one_end(gateway: &str, number: u8, fresh: bool) -> Option<End> {
        Some(End {
            gateway: gateway.to_owned(),
            endpoint: format!("192.0.2.{number}"),
            address: format!("2001:db8:ff::{number}"),
            fresh,
            status: Some(TunnelStatus {
                ike: "up".to_owned(),
                handshake: Some(7),
                mtu: 1446,
                bfd: Some(BfdStatus {
                    state: "Up".to_owned(),
                    ..BfdStatus::default()
                }),
                bgp: Some(BgpStatus {
                    state: "Established".to_owned(),
                    ..BgpStatus::default()
                }),
                ..TunnelStatus::default()
            }),
            ..End::default()
        })
    }

    fn view(name: &str) -> GatewayView {
        GatewayView {
            name: name.to_owned(),
            ..GatewayView::default()
        }
    }

    fn topology(kind: &str) -> Topology {
        let edge = |number, a, b| Edge {
            number,
            a,
            b,
            kind: kind.to_owned(),
            ..Edge::default()
        };
        Topology {
            gateways: ["V1-1", "V2-1", "V3-1"].map(view).to_vec(),
            edges: vec![
                edge(1, one_end("V1-1", 1, true), one_end("V2-1", 2, false)),
                edge(2, one_end("V2-1", 2, false), one_end("V3-1", 3, true)),
            ],
            ..Topology::default()
        }
    }

    #[test]
    fn every_end_is_told_from_where_it_stands() {
        let all = ends(&topology("xfrm"), None);
        let who: Vec<[&str; 2]> = all.iter().map(|it| [&*it.gateway, &*it.peer]).collect();
        let expected = [
            ["V1-1", "V2-1"],
            ["V2-1", "V1-1"],
            ["V2-1", "V3-1"],
            ["V3-1", "V2-1"],
        ];
        assert_eq!(who, expected);
        let text = serde_json::to_value(&all[3]).unwrap();
        let expected = serde_json::json!({
            "interface": "rm2", "gateway": "V3-1", "peer": "V2-1",
            "outside": ["192.0.2.3", "192.0.2.2"],
            "inside": ["2001:db8:ff::3", "2001:db8:ff::2"],
            "ike": "up", "handshake": 7, "bfd": "Up", "bgp": "Established", "mtu": 1446,
            "known_by": "if_id 0x52000002",
        });
        assert_eq!(text, expected);
    }

    #[test]
    fn what_was_said_long_ago_is_not_told() {
        let of_one = ends(&topology("vti"), Some("V2-1"));
        assert_eq!(of_one.len(), 2);
        assert_eq!((&of_one[0].ike, of_one[0].mtu), (&None, None));
        assert_eq!(of_one[0].known_by, "mark 0x52000001");
    }

    #[test]
    fn a_foreign_peer_has_no_end_here() {
        let mut topology = topology("");
        topology.gateways.pop();
        let far = ends(&topology, None).into_iter().map(|it| it.gateway);
        assert_eq!(far.collect::<Vec<_>>(), ["V1-1", "V2-1", "V2-1"]);
    }
}
