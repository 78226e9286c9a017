//! What must hold for any input: for the fuzz targets in `fuzz/`, and for the replay of their corpus.

use prost::Message;
use routemesh_controller::ca::{Peer, Requested, Role};
use routemesh_controller::ids::{self, Ids, tunnel_count};
use routemesh_controller::mesh::Mesh;
use routemesh_controller::render::render;
use routemesh_controller::report::{Kept, Report};
use routemesh_controller::spec;
use routemesh_controller::step::Step;
use routemesh_controller::topology::{Wanted, topology};
use routemesh_proto as proto;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A specification with more tunnels is not rendered: that takes its time, and tells nothing else.
const MOST: u64 = 300;

/// Reads whatever comes as a specification: it is refused with lines that are there, or becomes configs
/// that their TOML brings back. Those are returned, for whoever knows an agent.
pub fn spec(input: &[u8]) -> Vec<proto::Config> {
    let Ok(text) = std::str::from_utf8(input) else {
        return Vec::new();
    };
    // What is told of it, or kept, has no secrets in it, and can be told of anything.
    let _ = spec::redact(text);
    let spec = match spec::parse("fuzz.toml", text) {
        Ok(spec) => spec,
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            return Vec::new();
        }
    };
    if tunnel_count(&spec) > MOST {
        return Vec::new();
    }
    let Ok(ids) = ids::assign(&Ids::default(), &spec) else {
        return Vec::new();
    };
    let mesh = Mesh::new(1, text.into(), spec, ids);
    let names: Vec<String> = mesh
        .spec
        .gateways()
        .map(|(_, it)| it.name.value.clone())
        .collect();
    let configs = names.iter().filter_map(|name| render(&mesh, name));
    let configs: Vec<_> = configs.inspect(comes_back).collect();
    assert_eq!(configs.len(), names.len());
    // To itself there is no step.
    let step = Step::new(&mesh, &mesh);
    for name in &names {
        let change = step.change(&mesh, &mesh, name);
        assert!(change.is_none_or(|it| it.is_nothing()), "{name}");
    }
    configs
}

fn comes_back(config: &proto::Config) {
    let text = toml::to_string(config).expect("a config as text");
    assert_eq!(toml::from_str(&text).as_ref(), Ok(config));
    let bytes = config.encode_to_vec();
    assert_eq!(proto::Config::decode(bytes.as_slice()).as_ref(), Ok(config));
}

const MESH: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::a"]
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::b", "192.0.2.1"]
"#;

/// Takes whatever comes for a message to the controller; the first byte says for which.
pub fn messages(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 7 {
        0 => {
            if let Ok(status) = proto::Status::decode(bytes) {
                reported(Kept::new(status));
            }
        }
        1 => {
            let Ok(change) = proto::StatusChange::decode(bytes) else {
                return;
            };
            let mut kept = Kept::new(proto::Status {
                tunnels: (0..4).map(tunnel).collect(),
                ..proto::Status::default()
            });
            if kept.change(change) {
                reported(kept);
            }
        }
        2 => {
            if let Ok(requested) = Requested::parse(bytes) {
                assert!(requested.name.len() <= bytes.len());
            }
        }
        3 => drop(Peer::from_certificate(bytes)),
        4 => {
            if let Ok(request) = proto::ApplyRequest::decode(bytes) {
                drop(spec(request.text.as_bytes()));
                assert!(request.text.is_empty() || !format!("{request:?}").contains(&request.text));
            }
        }
        6 => {
            let piece = proto::Piece {
                data: bytes.to_vec(),
                last: true,
            };
            let Ok(Some(packed)) = proto::Pieces::default().add(&piece) else {
                return;
            };
            if let Ok(proto::AgentMessage {
                message: Some(proto::agent_message::Message::Status(status)),
            }) = packed.open()
            {
                reported(Kept::new(status));
            }
        }
        _ => {
            let Ok(hello) = proto::Hello::decode(bytes) else {
                return;
            };
            drop(hello.wireguard_key.parse::<proto::PublicKey>());
            let _ = hello.version.parse::<Role>();
            if let Ok(token) = String::from_utf8_lossy(bytes).parse::<proto::Token>() {
                assert_eq!(token.expose().parse(), Ok(token));
            }
        }
    }
}

fn tunnel(number: u32) -> proto::TunnelStatus {
    proto::TunnelStatus {
        number,
        ike: "up".to_owned(),
        interface: "up".to_owned(),
        ..proto::TunnelStatus::default()
    }
}

/// What a gateway says is kept, brought to disk and back, and shown.
fn reported(kept: Kept) {
    let octets = kept.to_octets();
    let back = Kept::from_octets(&octets).expect("what was kept");
    assert_eq!(back.head(), kept.head());
    assert_eq!(back.tunnels(), kept.tunnels());
    assert_eq!(back.routes(), kept.routes());
    let spec = spec::parse("mesh.toml", MESH).expect("a mesh");
    let ids = ids::assign(&Ids::default(), &spec).expect("numbers");
    let mesh = Mesh::new(1, MESH.into(), spec, ids);
    let report = Report {
        kept: Arc::new(kept),
        age: Duration::ZERO,
    };
    let reports = BTreeMap::from([("A".to_owned(), report)]);
    let shown = topology(&mesh, &reports, &Wanted::default());
    assert_eq!((shown.gateways.len(), shown.edges.len()), (2, 1));
}
