//! One generation of the mesh as the controller holds it.

use crate::drain::Drains;
use crate::ids::{Ids, gateway_names};
use crate::render::render;
use crate::spec::MeshSpec;
use routemesh_proto::{Config, PublicKey, Secret};
use std::collections::BTreeMap;

/// Gateways that left the specification, with what they last ran, less all that carries traffic:
/// one that was away takes its tunnels down when it comes back.
pub type Retired = BTreeMap<String, Config>;

/// The gateways' public keys for WireGuard, as they told them.
pub type Keys = BTreeMap<String, PublicKey>;

/// A specification in force, and all that is rendered from besides it.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Counts specifications.
    pub generation: u64,
    /// The text that was applied. It may hold passwords.
    pub text: Secret,
    /// The same, parsed.
    pub spec: MeshSpec,
    /// Ids of its endpoints, and of former ones.
    pub ids: Ids,
    /// Who left.
    pub retired: Retired,
    /// What is drained.
    pub drains: Drains,
    /// Whose public keys are known. They change without a new generation.
    pub keys: Keys,
}

/// Who is retired once `spec` follows `before`.
pub fn retire(before: Option<&Mesh>, mut retired: Retired, spec: &MeshSpec) -> Retired {
    let staying = gateway_names(spec);
    let leaving = before.into_iter().flat_map(|mesh| {
        let names = gateway_names(&mesh.spec).into_iter();
        names
            .filter(|name| !staying.contains(name))
            .filter_map(|name| Some((name.to_owned(), render(mesh, name)?)))
    });
    for (name, config) in leaving {
        let idle = Config {
            tunnels: Vec::new(),
            routers: Vec::new(),
            announce: Vec::new(),
            sites: Vec::new(),
            drain: false,
            ..config
        };
        retired.insert(name, idle);
    }
    retired.retain(|name, _| !staying.contains(name.as_str()));
    retired
}
