//! What must hold for any input: for the fuzz target in `fuzz/`, and for the replay of its corpus.

use prost::Message;
use routemesh_agent::config::Config;
use routemesh_agent::desired::Links;
use routemesh_agent::peers;
use routemesh_proto as proto;

/// Takes whatever comes for a config from a controller, or for what has changed of one; the first byte says
/// which. It is refused with a reason, or can be used.
pub fn config(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let raw = match kind % 3 {
        0 => proto::Config::decode(bytes).ok(),
        1 => proto::Change::decode(bytes).ok().and_then(|change| {
            let held = proto::Config {
                generation: change.from,
                ..proto::Config::default()
            };
            proto::patch(&held, &change).ok()
        }),
        _ => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| toml::from_str(text).ok()),
    };
    let Some(raw) = raw else {
        return;
    };
    match Config::try_from(&raw) {
        Ok(config) => drop(peers::setup(&config, &Links::default())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
