//! The specification's reference, `docs/spec.md`: made from the keys that the reader knows, each of which takes what its
//! example says.
//!
//! `RENEW_GOLDEN=1 cargo test -p routemesh-controller --test reference` writes it anew.

#![allow(clippy::unwrap_used)]

use routemesh_controller::spec::{self, keys};
use std::fs;
use std::path::Path;
use toml::{Table, Value};

#[test]
fn the_page_has_what_the_reader_knows() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec.md");
    let now = keys::reference();
    if std::env::var_os("RENEW_GOLDEN").is_some() {
        fs::write(&file, &now).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap() == now,
        "docs/spec.md is another by now"
    );
}

const BASE: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
ike = {}
esp = {}
bfd = {}

[sites.one]
prefixes = ["10.0.1.0/24"]

[sites.one.gateways.g-1]
endpoints = ["192.0.2.1", { host = "g-1.example.net", family = "ipv6" }]
routers = [{ address = "10.0.1.254", as = 65010, import = [{ action = "accept" }] }]

[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.h-1 = { endpoints = ["192.0.2.2"] }

[[tunnels]]
between = ["g-1", "h-1"]

[foreign.cloud]
prefixes = ["10.9.0.0/16"]
as = 64512
health = { source = "10.0.1.1" }

[[foreign.cloud.tunnels]]
gateway = "g-1"
remote = "198.51.100.1"
psk = "a long random text"
inside = "169.254.10.2/30"
"#;

/// Where each section's table stands in [`BASE`].
const PLACES: [(&str, &str); 14] = [
    ("`[mesh]`", "mesh"),
    ("`[sites.NAME]`", "sites/one"),
    ("`[sites.NAME.gateways.NAME]`", "sites/one/gateways/g-1"),
    ("`endpoints`", "sites/one/gateways/g-1/endpoints/1"),
    ("`routers`", "sites/one/gateways/g-1/routers/0"),
    (
        "`import`, `export`",
        "sites/one/gateways/g-1/routers/0/import/0",
    ),
    ("`[[tunnels]]`", "tunnels/0"),
    ("`ike`", "mesh/ike"),
    ("`esp`", "mesh/esp"),
    ("`bfd`", "mesh/bfd"),
    ("`health`", "foreign/cloud/health"),
    ("`[foreign.NAME]`", "foreign/cloud"),
    ("`[[foreign.NAME.tunnels]]`", "foreign/cloud/tunnels/0"),
    ("`selectors`", "foreign/cloud/tunnels/0/selectors/0"),
];

fn table<'v>(root: &'v mut Table, path: &str) -> &'v mut Table {
    let mut steps = path.split('/');
    let mut at = root.get_mut(steps.next().unwrap()).unwrap();
    for step in steps {
        at = match at {
            Value::Array(values) => &mut values[step.parse::<usize>().unwrap()],
            Value::Table(table) => table.get_mut(step).unwrap(),
            other => panic!("{path}: {other}"),
        };
    }
    at.as_table_mut().unwrap()
}

/// The base with a key, without what cannot stand beside it.
fn with(section: &str, place: &str, key: &keys::Key) -> Table {
    let mut root: Table = BASE.parse().unwrap();
    let value: Table = format!("it = {}", key.example).parse().unwrap();
    if section == "`selectors`" || key.name == "selectors" {
        table(&mut root, "foreign/cloud").remove("as");
        table(&mut root, "foreign/cloud").remove("health");
        let tunnel = table(&mut root, "foreign/cloud/tunnels/0");
        tunnel.remove("inside");
        let both = "it = [{ local = [\"10.0.1.0/24\"], remote = [\"10.9.0.0/16\"] }]";
        tunnel.insert(
            "selectors".to_owned(),
            both.parse::<Table>().unwrap()["it"].clone(),
        );
    }
    // A VTI's far end has an address.
    if key.name == "tunnel" {
        let gateway = table(&mut root, "sites/one/gateways/g-1");
        gateway["endpoints"].as_array_mut().unwrap().pop();
    }
    let at = table(&mut root, place);
    match key.name {
        "address" if section == "`endpoints`" => at.clear(),
        "interface" | "range" => drop(at.remove("address")),
        "reason" => drop(at.insert("action".to_owned(), "reject".into())),
        _ => {}
    }
    at.insert(key.name.to_owned(), value["it"].clone());
    root
}

#[test]
fn every_key_takes_its_example() {
    let mut refused = String::new();
    for keys::Section { head, keys, .. } in &keys::SECTIONS[1..] {
        let (_, place) = PLACES.iter().find(|(it, _)| it == head).unwrap();
        for key in keys.iter().filter(|key| !key.example.is_empty()) {
            // A list that may not be empty has its entries in the base.
            if key.example == "[]" && key.name == "tunnels" {
                continue;
            }
            let text = with(head, place, key).to_string();
            if let Err(errors) = spec::parse("example.toml", &text) {
                refused += &format!("{head} {}: {errors}\n", key.name);
            }
        }
    }
    assert_eq!(refused, "");
}

/// What the page says of a value that is refused is not what it says of one that is taken.
#[test]
fn a_key_that_is_not_there_is_refused() {
    for (head, place) in PLACES {
        let unknown = keys::Key {
            name: "unheard",
            takes: "",
            without: "",
            says: "",
            example: "1",
        };
        let text = with(head, place, &unknown).to_string();
        let errors = spec::parse("example.toml", &text).unwrap_err().to_string();
        assert!(
            errors.contains("\"unheard\" is not a key of"),
            "{head}: {errors}"
        );
    }
}
