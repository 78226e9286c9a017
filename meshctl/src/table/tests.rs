use super::*;
use routemesh_proto::{Path, Rejected, Route};

fn end(gateway: &str, ike: &str, state: &str, accepted: u32) -> Option<End> {
    Some(End {
        gateway: gateway.to_owned(),
        status: Some(TunnelStatus {
            ike: ike.to_owned(),
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
    }
}

fn via(gateway: &str, via: &[&str]) -> PrefixPaths {
    PrefixPaths {
        gateway: gateway.to_owned(),
        via: via.iter().map(|via| (*via).to_owned()).collect(),
    }
}

#[test]
fn a_mesh_at_three_in_the_morning() {
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
            ..GatewayView::default()
        }],
        edges: vec![
            edge(
                1,
                end("V1-1", "up", "Established", 2),
                end("V3-1", "up", "Established", 4),
                "up",
                "",
            ),
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
    };
    let expected = "\
TUNNEL  A     B     VERDICT  IKE             BGP          PREFIXES  REASON
1       V1-1  V3-1  up       up              Established  2 / 4
3       V1-1  V2-1  down     connecting / -  Idle / -     0 / -     V2-1: last report 45 s ago; V1-1: IKE connecting

PREFIX       SITE  ANNOUNCED BY  PATHS IN USE
10.0.2.0/24  two   V2-1 V2-2     1 gateway x 2 paths; V1-1: V2-2

GATEWAY  SITE  VERDICT  GENERATION  REPORTED  VERSION  ENDPOINTS      REASON
V2-1     two   stale    4           45 s ago  0.1.0    2001:db8:2::1  last report 45 s ago

1 of 2 tunnels up, generation 4
";
    assert_eq!(topology(&view, Look::plain()), expected);
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

#[test]
fn the_routes_of_a_gateway() {
    let path = |via: &str, interface: &str| Path {
        via: via.to_owned(),
        interface: interface.to_owned(),
        address: "fd00::1".to_owned(),
    };
    let view = Routes {
        gateway: "V1-1".to_owned(),
        reported: 3,
        routes: vec![Route {
            prefix: "10.0.2.0/24".to_owned(),
            paths: vec![path("V2-1", "rm3"), path("V2-2", "rm6")],
        }],
        announced: vec!["10.0.1.0/24".to_owned()],
        rejected: vec![Rejected {
            peer: "V2-1".to_owned(),
            prefix: "0.0.0.0/0".to_owned(),
            reason: "not owned by site two".to_owned(),
        }],
    };
    let expected = "\
V1-1, reported 3 s ago

PREFIX       VIA   INTERFACE  NEXTHOP
10.0.2.0/24  V2-1  rm3        fd00::1
             V2-2  rm6        fd00::1

announces 10.0.1.0/24

REFUSED    FROM  REASON
0.0.0.0/0  V2-1  not owned by site two
";
    assert_eq!(routes(&view, Look::plain()), expected);
}
