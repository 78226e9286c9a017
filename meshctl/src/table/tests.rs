use super::*;
use routemesh_proto::{BfdStatus, Fault, Path, Rejected, Route, RouterStatus, Routes};

fn end(gateway: &str, ike: &str, state: &str, accepted: u32) -> Option<End> {
    Some(End {
        gateway: gateway.to_owned(),
        status: Some(TunnelStatus {
            ike: ike.to_owned(),
            bfd: (state == "Established").then(|| BfdStatus {
                state: "Up".to_owned(),
                detection_time: 900,
                ..BfdStatus::default()
            }),
            bgp: Some(BgpStatus {
                state: state.to_owned(),
                accepted,
                ..BgpStatus::default()
            }),
            ..TunnelStatus::default()
        }),
        ..End::default()
    })
}

fn edge(number: u32, a: Option<End>, b: Option<End>, verdict: &str, reason: &str) -> Edge {
    Edge {
        number,
        a,
        b,
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        ..Edge::default()
    }
}

fn via(gateway: &str, via: &[&str]) -> PrefixPaths {
    PrefixPaths {
        gateway: gateway.to_owned(),
        via: via.iter().map(|via| (*via).to_owned()).collect(),
    }
}

#[test]
fn a_doctor_says_what_is_wrong_and_what_to_do() {
    let view = GatewayView {
        name: "V2-1".to_owned(),
        verdict: "ok".to_owned(),
        findings: vec![Finding {
            severity: "risk".to_owned(),
            object: "Linux 6.16: use after free".to_owned(),
            breaks: "the kernel can crash".to_owned(),
            cure: "run another".to_owned(),
        }],
        ..GatewayView::default()
    };
    let text = doctor(std::slice::from_ref(&view), Look::plain());
    assert!(text.contains("V2-1"));
    let finding =
        "\nrisk   Linux 6.16: use after free\n       the kernel can crash\n       -> run another\n";
    assert!(text.ends_with(finding), "{text}");
}

#[test]
fn a_mesh_at_three_in_the_morning() {
    let mut spoofed = end("V3-1", "up", "Established", 4);
    if let Some(status) = spoofed.as_mut().and_then(|end| end.status.as_mut()) {
        status.invalid.push(Invalid {
            reason: "in: source not of the far site".to_owned(),
            packets: 12,
        });
    }
    let silent = Some(End {
        gateway: "V2-1".to_owned(),
        ..End::default()
    });
    let view = Topology {
        generation: 4,
        gateways: vec![GatewayView {
            name: "V2-1".to_owned(),
            site: "two".to_owned(),
            verdict: "stale".to_owned(),
            reason: "last report 45 s ago".to_owned(),
            generation: 4,
            version: "0.1.0".to_owned(),
            reported: Some(45),
            endpoints: vec!["2001:db8:2::1".to_owned()],
            repairs: vec![Repair {
                object: "route".to_owned(),
                count: 3,
            }],
            ..GatewayView::default()
        }],
        edges: vec![
            edge(1, end("V1-1", "up", "Established", 2), spoofed, "up", ""),
            edge(
                3,
                end("V1-1", "connecting", "Idle", 0),
                silent,
                "down",
                "V2-1: last report 45 s ago; V1-1: IKE connecting",
            ),
        ],
        prefixes: vec![PrefixView {
            prefix: "10.0.2.0/24".to_owned(),
            site: "two".to_owned(),
            announced_by: vec!["V2-1".to_owned(), "V2-2".to_owned()],
            paths: vec![via("V1-1", &["V2-2"]), via("V3-1", &["V2-1", "V2-2"])],
        }],
        ..Topology::default()
    };
    let expected = "\
TUNNEL  A     B     VERDICT  IKE             BFD        BGP          PREFIXES  REASON
1       V1-1  V3-1  up       up              Up 900 ms  Established  2 / 4     V3-1: invalid packets: 12 in: source not of the far site
3       V1-1  V2-1  down     connecting / -  -          Idle / -     0 / -     V2-1: last report 45 s ago; V1-1: IKE connecting

PREFIX       SITE  ANNOUNCED BY  PATHS IN USE
10.0.2.0/24  two   V2-1 V2-2     1 gateway x 2 paths; V1-1: V2-2

GATEWAY  SITE  VERDICT  GENERATION  REPORTED  VERSION  ENDPOINTS      REASON
V2-1     two   stale    4           45 s ago  0.1.0    2001:db8:2::1  last report 45 s ago
                                                                      undone by others and repaired: 3 route

1 of 2 tunnels up, generation 4
";
    assert_eq!(topology(&view, &State::ALL, Look::plain()), expected);
}

#[test]
fn what_is_drained_is_seen_although_all_is_well() {
    let view = Topology {
        gateways: vec![GatewayView {
            name: "V1-1".to_owned(),
            verdict: "ok".to_owned(),
            drain: "draining".to_owned(),
            drain_reason: "V2-1 sends 10.0.1.0/24 through it".to_owned(),
            ..GatewayView::default()
        }],
        edges: vec![Edge {
            drain: "drained".to_owned(),
            ..edge(1, None, None, "up", "")
        }],
        ..Topology::default()
    };
    let text = topology(&view, &State::ALL, Look::plain());
    for words in [
        "up, drained",
        "ok, draining",
        "draining: V2-1 sends 10.0.1.0/24 through it",
        "1 of 1 tunnel up",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn paths_in_a_few_words() {
    let two = |name: &str| via(name, &["X", "Y"]);
    assert_eq!(paths(&[]), "-");
    assert_eq!(
        paths(&[two("A"), two("B"), two("C"), two("D")]),
        "4 gateways x 2 paths"
    );
    assert_eq!(paths(&[via("A", &["X"])]), "1 gateway x 1 path");
    assert_eq!(
        paths(&[via("A", &[]), via("B", &[])]),
        "2 gateways: unreachable"
    );
    assert_eq!(
        paths(&[two("A"), two("B"), via("C", &["X"]), via("D", &[])]),
        "2 gateways x 2 paths; C: X; D: unreachable"
    );
}

fn view(weights: [u32; 2]) -> Routes {
    let path = |via: &str, interface: &str, weight| Path {
        via: via.to_owned(),
        interface: interface.to_owned(),
        address: "fd00::1".to_owned(),
        weight,
    };
    let [one, two] = weights;
    Routes {
        gateway: "V1-1".to_owned(),
        reported: 3,
        routes: vec![Route {
            prefix: "10.0.2.0/24".to_owned(),
            paths: vec![path("V2-1", "rm3", one), path("V2-2", "rm6", two)],
        }],
        announced: vec!["10.0.1.0/24".to_owned()],
        rejected: vec![Rejected {
            peer: "rm3-V2-1".to_owned(),
            prefix: "0.0.0.0/0".to_owned(),
            reason: "the peer may not announce this prefix".to_owned(),
        }],
        ..Routes::default()
    }
}

#[test]
fn the_routes_of_a_gateway() {
    let expected = "\
V1-1, reported 3 s ago

PREFIX       VIA   INTERFACE  NEXTHOP
10.0.2.0/24  V2-1  rm3        fd00::1
             V2-2  rm6        fd00::1

announces 10.0.1.0/24

refuses 1: meshctl routes V1-1 --rejected
";
    // Agents that do not tell weights have equal ones.
    for weights in [[0, 0], [1, 1]] {
        assert_eq!(routes(&view(weights), Look::plain()), expected);
    }
}

#[test]
fn routes_with_weights_and_more_than_are_listed() {
    let view = Routes {
        routes_total: 100_001,
        announced_total: 3,
        rejected_total: 2000,
        ..view([3, 1])
    };
    let expected = "\
V1-1, reported 3 s ago

PREFIX       VIA   INTERFACE  NEXTHOP  WEIGHT
10.0.2.0/24  V2-1  rm3        fd00::1  3
             V2-2  rm6        fd00::1  1
… and 100000 more

announces 10.0.1.0/24
… and 2 more

refuses 2000: meshctl routes V1-1 --rejected
";
    assert_eq!(routes(&view, Look::plain()), expected);
}

#[test]
fn what_a_gateway_refuses_and_from_whom() {
    let tunnel = TunnelStatus {
        peer: "V2-1".to_owned(),
        bgp: Some(BgpStatus {
            state: "Established".to_owned(),
            received: 750,
            rejected: 1,
            advertised: 4,
            max_prefixes: 1000,
            messages_received: 20,
            messages_sent: 30,
            ..BgpStatus::default()
        }),
        ..TunnelStatus::default()
    };
    let fault = |attribute, action: &str| Fault {
        attribute,
        action: action.to_owned(),
        count: 2,
    };
    let router = RouterStatus {
        address: "10.0.1.254".to_owned(),
        bgp: Some(BgpStatus {
            state: "Idle".to_owned(),
            received: 749,
            max_prefixes: 1000,
            faults: vec![fault(5, "treat as withdraw"), fault(0, "session reset")],
            last_notification: "received: hold timer expired".to_owned(),
            ..BgpStatus::default()
        }),
        ..RouterStatus::default()
    };
    let view = Routes {
        rejected_total: 2,
        tunnels: vec![tunnel],
        routers: vec![router],
        ..view([1, 1])
    };
    let expected = "\
V1-1, reported 3 s ago

PEER        STATE        RECEIVED             REFUSED  TOLD  MESSAGES IN/OUT  FAULTS                               LAST NOTIFICATION
V2-1        Established  750 of at most 1000  1        4     20/30            0
10.0.1.254  Idle         749                  0        0     0/0              2 x treat as withdraw (attribute 5)  received: hold timer expired
                                                                              2 x session reset

REFUSED    FROM      REASON
0.0.0.0/0  rm3-V2-1  the peer may not announce this prefix
… and 1 more
";
    assert_eq!(rejected(&view, Look::plain()), expected);

    let nothing = Routes {
        gateway: "V1-1".to_owned(),
        ..Routes::default()
    };
    let expected = "V1-1, reported 0 s ago\n\nrefuses nothing\n";
    assert_eq!(rejected(&nothing, Look::plain()), expected);
}

#[test]
fn a_tunnel_from_its_ends() {
    let gateway = |name: &str| GatewayView {
        name: name.to_owned(),
        ..GatewayView::default()
    };
    let view = Topology {
        gateways: vec![gateway("V1-1"), gateway("V2-1")],
        edges: vec![Edge {
            kind: "vti".to_owned(),
            ..edge(
                3,
                end("V1-1", "up", "Established", 2).map(|end| End {
                    endpoint: "2001:db8:1::1".to_owned(),
                    address: "2001:db8:ff::6".to_owned(),
                    fresh: true,
                    ..end
                }),
                Some(End {
                    gateway: "V2-1".to_owned(),
                    endpoint: "2001:db8:2::1".to_owned(),
                    address: "2001:db8:ff::7".to_owned(),
                    ..End::default()
                }),
                "unknown",
                "",
            )
        }],
        ..Topology::default()
    };
    let expected = "\
INTERFACE  GATEWAY  PEER  OUTSIDE                        INSIDE                           IKE  BFD  BGP          MTU  KNOWN BY
rm3        V1-1     V2-1  2001:db8:1::1 > 2001:db8:2::1  2001:db8:ff::6 > 2001:db8:ff::7  up   Up   Established  -    mark 0x52000003
rm3        V2-1     V1-1  2001:db8:2::1 > 2001:db8:1::1  2001:db8:ff::7 > 2001:db8:ff::6  -    -    -            -    mark 0x52000003
";
    let ends = crate::tunnels::ends(&view, None);
    assert_eq!(tunnels(&ends, Look::plain()), expected);
}
