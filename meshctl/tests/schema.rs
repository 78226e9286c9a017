//! The page of what programs may rely on is made from the contract itself.

#![allow(clippy::unwrap_used)]

use protox::Compiler;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// What shows which message.
const COMMANDS: [(&str, &str); 16] = [
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
    (
        "doctor",
        "`gateways`: array of GatewayView, and `diagnosis`: Diagnosis",
    ),
    ("trace", "Trace"),
    ("ping", "array of Echo"),
    ("logs", "array of LogLine; with `--follow` one a line"),
    ("events", "array of Event; with `--follow` one a line"),
];

const BEGIN: &str = "<!-- from the contract -->\n";
const END: &str = "<!-- until here -->\n";

fn contract() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut compiler = Compiler::new([proto]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(["routemesh.proto", "trust.proto", "ask.proto"])
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
    let message = |name: &str| pool.get_message_by_name(&format!("routemesh.v1.{name}"));
    let mut out = String::from("\n| command | shows |\n|---|---|\n");
    let mut waiting: Vec<MessageDescriptor> = Vec::new();
    for (command, shows) in COMMANDS {
        // Every word that is a message's name.
        let words = shows.split(' ').map(|word| {
            let name = word.trim_end_matches([',', ';']);
            let Some(shown) = message(name) else {
                return word.to_owned();
            };
            waiting.push(shown);
            let linked = format!("[{name}](#{})", name.to_lowercase());
            word.replace(name, &linked)
        });
        let shows = words.collect::<Vec<_>>().join(" ");
        let _ = writeln!(out, "| `{command}` | {shows} |");
    }
    assert!(waiting.len() >= COMMANDS.len());
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
        ApplyReply, Diagnosis, Echo, Edge, Event, GatewayView, History, Learnt, LogLine, Lookup,
        Plan, Routes, Topology, Trace, TunnelStatus,
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
        (
            "Diagnosis",
            serde_json::to_value(Diagnosis::default()).unwrap(),
        ),
        ("Trace", serde_json::to_value(Trace::default()).unwrap()),
        ("Lookup", serde_json::to_value(Lookup::default()).unwrap()),
        ("Learnt", serde_json::to_value(Learnt::default()).unwrap()),
        ("Echo", serde_json::to_value(Echo::default()).unwrap()),
        ("LogLine", serde_json::to_value(LogLine::default()).unwrap()),
        ("Event", serde_json::to_value(Event::default()).unwrap()),
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
