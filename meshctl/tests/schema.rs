//! The page of what programs may rely on is made from the contract itself.

#![allow(clippy::unwrap_used)]

use protox::Compiler;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// What shows which message.
const COMMANDS: [(&str, &str); 11] = [
    ("topology", "Topology"),
    ("get gateways", "array of GatewayView"),
    ("routes", "Routes"),
    ("plan", "Plan"),
    ("diff", "Diff"),
    ("history", "History"),
    ("audit", "Audit"),
    ("apply, rollback", "ApplyReply"),
    ("apply --canary", "CanaryView"),
    ("drain, undrain", "DrainReply"),
    ("revoke", "RevokeReply"),
];

const BEGIN: &str = "<!-- from the contract -->\n";
const END: &str = "<!-- until here -->\n";

fn contract() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut compiler = Compiler::new([proto]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(["routemesh.proto", "trust.proto"])
        .unwrap();
    compiler.descriptor_pool()
}

/// As serde writes what prost has made of it.
fn kind(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        Kind::String => "text".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Bytes => "array of numbers".to_owned(),
        Kind::Message(message) => {
            format!("[{0}](#{1})", message.name(), message.name().to_lowercase())
        }
        Kind::Float | Kind::Double | Kind::Enum(_) => {
            panic!("{}: say how it is written", field.full_name())
        }
        _ => "number".to_owned(),
    };
    match field.is_list() {
        true => format!("array of {one}"),
        false if field.supports_presence() => format!("{one}, or null"),
        false => one,
    }
}

/// The comment above it.
fn meaning(field: &FieldDescriptor) -> String {
    let file = field.parent_file();
    let places = &file
        .file_descriptor_proto()
        .source_code_info
        .as_ref()
        .unwrap()
        .location;
    let place = places.iter().find(|it| it.path == field.path()).unwrap();
    let words = place.leading_comments().split_whitespace();
    words.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn tables(pool: &DescriptorPool) -> String {
    let message = |name: &str| {
        let name = format!("routemesh.v1.{}", name.trim_start_matches("array of "));
        pool.get_message_by_name(&name).unwrap()
    };
    let mut out = String::from("\n| command | shows |\n|---|---|\n");
    let mut waiting: Vec<MessageDescriptor> = Vec::new();
    for (command, shows) in COMMANDS {
        let shown = message(shows);
        let linked = format!("[{0}](#{1})", shown.name(), shown.name().to_lowercase());
        let _ = writeln!(
            out,
            "| `{command}` | {} |",
            shows.replace(shown.name(), &linked)
        );
        waiting.push(shown);
    }
    waiting.reverse();
    let mut told = BTreeSet::new();
    while let Some(message) = waiting.pop() {
        if !told.insert(message.full_name().to_owned()) {
            continue;
        }
        let _ = write!(
            out,
            "\n### {}\n\n| key | value | |\n|---|---|---|\n",
            message.name()
        );
        for field in message.fields() {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} |",
                field.name(),
                kind(&field),
                meaning(&field)
            );
            if let Kind::Message(within) = field.kind() {
                waiting.push(within);
            }
        }
    }
    out + "\n"
}

#[test]
fn the_page_says_what_the_contract_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/meshctl.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let new = format!("{before}{BEGIN}{}{END}{after}", tables(&contract()));
    if std::env::var_os("RENEW_GOLDEN").is_some() {
        return std::fs::write(&path, &new).unwrap();
    }
    assert!(page == new, "RENEW_GOLDEN=1 renews {}", path.display());
}

/// What prost and serde make of a message is what the page says of it.
#[test]
fn a_message_has_the_keys_that_the_page_names() {
    use routemesh_proto::{
        ApplyReply, Edge, GatewayView, History, Plan, Routes, Topology, TunnelStatus,
    };
    let pool = contract();
    let written = [
        (
            "Topology",
            serde_json::to_value(Topology::default()).unwrap(),
        ),
        ("Edge", serde_json::to_value(Edge::default()).unwrap()),
        (
            "GatewayView",
            serde_json::to_value(GatewayView::default()).unwrap(),
        ),
        (
            "TunnelStatus",
            serde_json::to_value(TunnelStatus::default()).unwrap(),
        ),
        ("Routes", serde_json::to_value(Routes::default()).unwrap()),
        ("Plan", serde_json::to_value(Plan::default()).unwrap()),
        ("History", serde_json::to_value(History::default()).unwrap()),
        (
            "ApplyReply",
            serde_json::to_value(ApplyReply::default()).unwrap(),
        ),
    ];
    for (name, value) in written {
        let message = pool
            .get_message_by_name(&format!("routemesh.v1.{name}"))
            .unwrap();
        let fields: Vec<FieldDescriptor> = message.fields().collect();
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), fields.len(), "{name}");
        for field in fields {
            let value = &object[field.name()];
            let expected = match kind(&field) {
                it if it.ends_with("or null") => value.is_null(),
                it if it.starts_with("array") => value.is_array(),
                it if it == "text" => value.is_string(),
                it if it == "number" => value.is_u64(),
                _ => value.is_boolean(),
            };
            assert!(expected, "{name}.{}: {value}", field.name());
        }
    }
}
