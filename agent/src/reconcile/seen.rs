//! What was observed of the kernel -> what decisions are made by.

use crate::config::Config;
use crate::desired::Links;
use crate::kernel::{self, Kernel, Observed};
use crate::state::{Place, State, Target};
use std::collections::BTreeMap;

pub(super) fn links(observed: &Observed) -> Links {
    let state = observed.link_state.iter();
    let indices = state
        .clone()
        .map(|(name, (index, _))| (name.clone(), *index));
    let up = state.filter(|(_, (_, usable))| *usable);
    Links {
        connected: observed.connected.clone(),
        usable: up.map(|(name, _)| name.clone()).collect(),
        indices: indices.collect(),
        link_local: observed.link_local.clone(),
        routers: BTreeMap::new(),
    }
}

/// Adds the routers that made themselves known, where the configuration asks for them.
pub(super) async fn with_routers(
    links: Links,
    config: &Config,
    kernel: &Kernel,
) -> Result<Links, kernel::Error> {
    let routers = match config.is_unnumbered() {
        true => kernel.routers().await?,
        false => BTreeMap::new(),
    };
    Ok(Links { routers, ..links })
}

pub(super) fn state(observed: &Observed, place: Place) -> State {
    let mut state = State {
        place,
        links: observed.links.clone(),
        nexthops: observed.nexthops.clone(),
        groups: observed.groups.clone(),
        ..State::default()
    };
    for (key, target) in &observed.routes {
        match (state.place.holds(key), target) {
            (true, Target::Group(group)) => state.routes.insert(&key.prefix, *group),
            _ => drop(state.barriers.insert(*key, *target)),
        }
    }
    state
}
