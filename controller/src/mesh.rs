//! One generation of the mesh as the controller holds it.

use crate::canary::Trial;
use crate::drain::Drains;
use crate::ids::{End, Ids, gateway_names};
use crate::render::header;
use crate::spec::{Gateway, MeshSpec, Site};
use routemesh_proto::{Config, PublicKey, Secret};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Gateways that left the specification, with what they last ran, less all that carries traffic:
/// one that was away takes its tunnels down when it comes back.
pub type Retired = BTreeMap<String, Config>;

/// The gateways' public keys for WireGuard, as they told them.
pub type Keys = BTreeMap<String, PublicKey>;

/// A specification in force, and all that is rendered from besides it. A copy costs little.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Counts specifications.
    pub generation: u64,
    /// The text that was applied. It may hold passwords.
    pub text: Arc<Secret>,
    /// The same, parsed.
    pub spec: Arc<MeshSpec>,
    /// Ids of its endpoints, and of former ones.
    pub ids: Arc<Ids>,
    /// Who left.
    pub retired: Retired,
    /// What is drained.
    pub drains: Drains,
    /// Whose public keys are known. They change without a new generation.
    pub keys: Keys,
    /// It is tried at one site before the others follow.
    pub trial: Option<Arc<Trial>>,
    /// Where what stands in `spec`, and with which ids.
    index: Arc<Index>,
}

#[derive(Debug, Default)]
struct Index {
    gateways: HashMap<String, Found>,
    /// Every endpoint that has an id, in the order of the file: one gateway's stand together.
    ends: Vec<(Found, usize, u32)>,
    /// Those of each gateway.
    own: HashMap<String, Range<usize>>,
}

/// A gateway's place: the number of its site, and its own within the site.
#[derive(Clone, Copy, Debug)]
struct Found(usize, usize);

impl Index {
    fn new(spec: &MeshSpec, ids: &Ids) -> Self {
        let mut index = Self::default();
        for (s, site) in spec.sites.iter().enumerate() {
            for (g, gateway) in site.gateways.iter().enumerate() {
                let (name, first) = (&gateway.name.value, index.ends.len());
                let with_id = gateway.endpoints.iter().enumerate();
                let with_id = with_id.filter_map(|(e, it)| Some((e, ids.get(name, it)?)));
                index
                    .ends
                    .extend(with_id.map(|(e, id)| (Found(s, g), e, id)));
                index.gateways.insert(name.clone(), Found(s, g));
                index.own.insert(name.clone(), first..index.ends.len());
            }
        }
        index
    }
}

impl Mesh {
    /// A generation, from which nobody has left yet, and of which nothing is drained.
    pub fn new(generation: u64, text: Secret, spec: MeshSpec, ids: Ids) -> Self {
        Self {
            generation,
            text: Arc::new(text),
            index: Arc::new(Index::new(&spec, &ids)),
            spec: Arc::new(spec),
            ids: Arc::new(ids),
            retired: Retired::new(),
            drains: Drains::new(),
            keys: Keys::new(),
            trial: None,
        }
    }

    fn at(&self, Found(site, gateway): Found) -> Option<(&Site, &Gateway)> {
        let site = self.spec.sites.get(site)?;
        Some((site, site.gateways.get(gateway)?))
    }

    /// One gateway with its site, without looking through all.
    pub fn gateway(&self, name: &str) -> Option<(&Site, &Gateway)> {
        self.at(*self.index.gateways.get(name)?)
    }

    fn end(&self, &(found, endpoint, id): &(Found, usize, u32)) -> Option<End<'_>> {
        let (site, gateway) = self.at(found)?;
        let endpoint = gateway.endpoints.get(endpoint)?;
        Some(End {
            site,
            gateway,
            endpoint,
            id,
        })
    }

    /// Every endpoint that has an id, in the order of the file.
    pub fn ends(&self) -> impl Iterator<Item = End<'_>> {
        self.index.ends.iter().filter_map(|it| self.end(it))
    }

    /// Those of one gateway.
    pub fn ends_of(&self, gateway: &str) -> impl Iterator<Item = End<'_>> {
        let range = self.index.own.get(gateway).cloned().unwrap_or_default();
        let own = self.index.ends.get(range).unwrap_or_default();
        own.iter().filter_map(|it| self.end(it))
    }
}

/// Who is retired once `spec` follows `before`.
pub fn retire(before: Option<&Mesh>, mut retired: Retired, spec: &MeshSpec) -> Retired {
    let staying = gateway_names(spec);
    let leaving = before.into_iter().flat_map(|mesh| {
        let gateways = mesh.spec.gateways();
        gateways
            .filter(|(_, gateway)| !staying.contains(gateway.name.as_str()))
            .map(|(site, gateway)| (gateway.name.value.clone(), header(mesh, site, gateway)))
    });
    for (name, config) in leaving {
        let idle = Config {
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
