//! The tunnels between two gateways, as far as they are other than the mesh's: `[[tunnels]]`.

use super::check::error;
use super::keys;
use super::options;
use super::place::{At, SpecError, quote};
use super::reader::{Reader, Table, Value};
use super::values;
use super::{Family, Gateway, MeshSpec, Options, OuterAddress, Setting, Site, TunnelKind};
use crate::ids::WIREGUARD_ENDPOINTS;
use std::collections::{BTreeMap, BTreeSet};
use toml::de::DeTable;

/// The tunnels between two gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    /// The gateways.
    pub between: [At<String>; 2],
    /// How they are made.
    pub tunnel: Option<At<TunnelKind>>,
    /// What is written of their SAs.
    pub options: Options,
}

/// So many may be written.
const MOST: usize = 4096;

impl MeshSpec {
    /// What holds for the tunnels between two gateways: what is written of them, else at their sites,
    /// else for the mesh. [`check`] sees to it that the sites do not say two things.
    pub fn options(&self, ends: [(&Site, &Gateway); 2]) -> Options {
        let mut options = self.options.clone();
        for (site, _) in ends {
            options.extend(site.options.clone());
        }
        let [(_, a), (_, b)] = ends;
        if let Some(tunnels) = self.tunnels_between(a, b) {
            options.extend(tunnels.options.clone());
        }
        options
    }

    /// How the tunnels between two gateways are made.
    pub fn kind(&self, a: &Gateway, b: &Gateway) -> TunnelKind {
        let own = self.tunnels_between(a, b).and_then(|it| it.tunnel.as_ref());
        own.map_or(self.tunnel, |tunnel| tunnel.value)
    }

    /// Whether any tunnel is made so.
    pub fn has(&self, kind: TunnelKind) -> bool {
        let mut own = self.tunnels.values().filter_map(|it| it.tunnel.as_ref());
        self.tunnel == kind || own.any(|it| it.value == kind)
    }

    fn tunnels_between(&self, a: &Gateway, b: &Gateway) -> Option<&Tunnels> {
        // There may be millions to ask for, and most meshes write none.
        if self.tunnels.is_empty() {
            return None;
        }
        self.tunnels.get(&names(&a.name, &b.name))
    }
}

/// Two names, whichever is first.
pub(super) fn names(a: &str, b: &str) -> [String; 2] {
    let mut names = [a.to_owned(), b.to_owned()];
    names.sort();
    names
}

impl<'t> Reader<'t> {
    /// All of them, by the gateways' names.
    pub(super) fn tunnels(&mut self, root: &DeTable<'t>) -> BTreeMap<[String; 2], Tunnels> {
        let mut all: BTreeMap<[String; 2], Tunnels> = BTreeMap::new();
        let Some(value) = root.get("tunnels") else {
            return all;
        };
        for entry in self.array("tunnels", value, MOST, None) {
            let Some(tunnels) = self.tunnels_of(entry) else {
                continue;
            };
            let [a, b] = &tunnels.between;
            let names = names(a, b);
            if let Some(first) = all.get(&names) {
                let line = first.between[0].place.line;
                let reason = format!(
                    "the tunnels between {a} and {b} already stand on line {line}: write one entry",
                    a = a.value,
                    b = b.value
                );
                self.wrong(a.place, reason);
                continue;
            }
            all.insert(names, tunnels);
        }
        all
    }

    /// What a table says of how tunnels are made.
    pub(super) fn tunnel_kind(&mut self, of: &Table<'_, 't>) -> Option<At<TunnelKind>> {
        let value = of.get("tunnel")?;
        self.text("tunnel", value, |text| match text {
            "xfrm" => Ok(TunnelKind::Xfrm),
            "vti" => Ok(TunnelKind::Vti),
            "wireguard" => Ok(TunnelKind::WireGuard),
            other => Err(format!(
                "{} is not a kind of tunnel: write \"xfrm\", \"vti\" or \"wireguard\"",
                quote(other)
            )),
        })
    }

    fn tunnels_of(&mut self, value: &Value<'t>) -> Option<Tunnels> {
        let place = self.lines.place(value.span().start);
        let what = "an entry of tunnels".to_owned();
        let table = self.table(what, place, value.get_ref(), keys::TUNNELS)?;
        let options = self.options(&table);
        let tunnel = self.tunnel_kind(&table);
        let cure = "name two gateways, like between = [\"paris-1\", \"rome-1\"]";
        let value = self.required(&table, "between", cure)?;
        let place = self.lines.place(value.span().start);
        let name = |text: &str| values::check_name(text).map(|()| text.to_owned());
        let written = self.array("between", value, 2, Some(cure));
        let complete = written.len() == 2;
        let named = written.into_iter().map(|it| self.text("a name", it, name));
        match <[At<String>; 2]>::try_from(named.collect::<Option<Vec<_>>>()?) {
            Ok(between) => Some(Tunnels {
                between,
                tunnel,
                options,
            }),
            Err(_) => {
                if !complete {
                    self.wrong(place, format!("between is one gateway: {cure}"));
                }
                None
            }
        }
    }
}

/// What does not fit.
pub(super) fn check(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = gateways(spec);
    errors.extend(sites_that_differ(spec));
    errors.extend(hosts(spec));
    errors.extend(mobike_of_vti(spec));
    errors.extend(wireguard_with_options(spec));
    errors.extend(wireguard_ports(spec));
    errors.extend(clashes(spec));
    errors
}

/// All that is written, wherever.
fn settings(spec: &MeshSpec) -> impl Iterator<Item = &At<Setting>> {
    let sites = spec.sites.iter().map(|site| &site.options);
    let tunnels = spec.tunnels.values().map(|tunnels| &tunnels.options);
    let all = sites.chain(tunnels).chain([&spec.options]);
    all.flat_map(|options| options.values())
}

/// Options that a tunnel cannot have together, wherever each of them was written.
fn clashes(spec: &MeshSpec) -> Vec<SpecError> {
    // Most meshes need not be looked through, tunnel by tunnel.
    if !settings(spec).any(|it| matches!(it.value, Setting::HwOffload("crypto" | "packet"))) {
        return Vec::new();
    }
    let gateways: Vec<_> = spec.gateways().collect();
    let mut found = BTreeMap::new();
    for (i, a) in gateways.iter().enumerate() {
        let others = gateways.iter().skip(i + 1);
        let ipsec = |b: &&(&Site, &Gateway)| spec.kind(a.1, b.1) != TunnelKind::WireGuard;
        for b in others.filter(|b| b.0.name != a.0.name).filter(ipsec) {
            let clash = options::clash(&spec.options([*a, *b]));
            found.extend(clash.map(|error| (error.place, error)));
        }
    }
    found.into_values().collect()
}

fn gateways(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for Tunnels {
        between: [a, b], ..
    } in spec.tunnels.values()
    {
        let mut sites = Vec::new();
        for end in [a, b] {
            match spec.gateway(end) {
                Some((site, _)) => sites.push(&site.name),
                None => {
                    let reason = format!("there is no gateway {}", end.value);
                    errors.push(error(end.place, reason));
                }
            }
        }
        if let [first, second] = *sites
            && first == second
        {
            let reason = format!(
                "{} and {} are both of site {}: tunnels join gateways of different sites",
                a.value, b.value, first.value
            );
            errors.push(error(b.place, reason));
        }
    }
    errors
}

/// Both ends of a tunnel are told the same. Where their sites want different things, somebody has to
/// decide.
fn sites_that_differ(spec: &MeshSpec) -> Vec<SpecError> {
    let sites: Vec<&Site> = spec
        .sites
        .iter()
        .filter(|it| !it.options.is_empty())
        .collect();
    let mut errors = Vec::new();
    for (i, a) in sites.iter().enumerate() {
        for b in sites.iter().skip(i + 1) {
            for (key, second) in &b.options {
                let Some(first) = a.options.get(key).filter(|first| *first != second) else {
                    continue;
                };
                let Some((x, y)) = undecided(spec, [a, b], key) else {
                    continue;
                };
                let reason = format!(
                    "sites {} and {} want different {}.{} (the other on line {}): say it for the tunnels between them, in [[tunnels]] with between = [{:?}, {:?}]",
                    a.name.value,
                    b.name.value,
                    key.0,
                    key.1,
                    first.place.line,
                    x.name.value,
                    y.name.value
                );
                errors.push(error(second.place, reason));
            }
        }
    }
    errors
}

/// Gateways of two sites for whose tunnels nobody says what holds.
fn undecided<'s>(
    spec: &MeshSpec,
    [a, b]: [&'s Site; 2],
    key: &(&'static str, &'static str),
) -> Option<(&'s Gateway, &'s Gateway)> {
    let pairs = a
        .gateways
        .iter()
        .flat_map(|x| b.gateways.iter().map(move |y| (x, y)));
    let decided = |x: &Gateway, y: &Gateway| {
        let tunnels = spec.tunnels_between(x, y);
        spec.kind(x, y) == TunnelKind::WireGuard
            || tunnels.is_some_and(|tunnels| tunnels.options.contains_key(key))
    };
    pairs.into_iter().find(|(x, y)| !decided(x, y))
}

/// The gateways that have tunnels of a kind, as far as it is known without looking at every pair.
fn gateways_with(spec: &MeshSpec, kind: TunnelKind) -> Vec<&Gateway> {
    let entries = spec.tunnels.values();
    let entries = entries.filter(|it| it.tunnel.as_ref().is_some_and(|it| it.value == kind));
    let named: BTreeSet<&str> = entries
        .flat_map(|it| &it.between)
        .map(|name| name.value.as_str())
        .collect();
    let all = spec.tunnel == kind;
    let gateways = spec.gateways().map(|(_, gateway)| gateway);
    gateways
        .filter(|it| all || named.contains(it.name.as_str()))
        .collect()
}

/// VTI and WireGuard interfaces are given addresses; charon is the one that looks names up.
fn hosts(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for (kind, name) in [
        (TunnelKind::Vti, "VTI"),
        (TunnelKind::WireGuard, "WireGuard"),
    ] {
        let endpoints = gateways_with(spec, kind).into_iter();
        let endpoints = endpoints.flat_map(|it| &it.endpoints);
        for endpoint in endpoints.filter(|it| matches!(it.value, OuterAddress::Host(..))) {
            let reason = format!(
                "{} is a host name, and {name} needs addresses: write one, or use tunnel = \"xfrm\"",
                endpoint.value
            );
            errors.push(error(endpoint.place, reason));
        }
    }
    errors
}

/// A VTI interface has the endpoints' addresses.
fn mobike_of_vti(spec: &MeshSpec) -> Vec<SpecError> {
    if !spec.has(TunnelKind::Vti) {
        return Vec::new();
    }
    let mut places = BTreeSet::new();
    let mut note = |setting: Option<&At<Setting>>| {
        let mobike = setting.filter(|it| it.value == Setting::Mobike(true));
        places.extend(mobike.map(|it| it.place));
    };
    let key = ("ike", "mobike");
    for Tunnels {
        between: [a, b], ..
    } in spec.tunnels.values()
    {
        if let (Some(a), Some(b)) = (spec.gateway(a), spec.gateway(b))
            && spec.kind(a.1, b.1) == TunnelKind::Vti
        {
            note(spec.options([a, b]).get(&key));
        }
    }
    if spec.tunnel == TunnelKind::Vti {
        let sites = spec.sites.iter().map(|site| &site.options);
        let all = sites.chain([&spec.options]);
        all.for_each(|options| note(options.get(&key)));
    }
    let reason = "MOBIKE changes the addresses of a tunnel, and a VTI interface has fixed ones: use tunnel = \"xfrm\"";
    places
        .into_iter()
        .map(|place| error(place, reason.to_owned()))
        .collect()
}

/// Options of SAs where no tunnel has any.
fn wireguard_with_options(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    let mut refuse = |options: &Options, whose: &str, cure: &str| {
        for ((table, key), setting) in options {
            let reason = format!(
                "{table}.{key} is IPsec's, and {whose} WireGuard's, which has nothing to choose from: remove it, or {cure}"
            );
            errors.push(error(setting.place, reason));
        }
    };
    let mut ipsec = spec.tunnel != TunnelKind::WireGuard;
    for tunnels in spec.tunnels.values() {
        let kind = tunnels.tunnel.as_ref().map_or(spec.tunnel, |it| it.value);
        if kind == TunnelKind::WireGuard {
            let [a, b] = &tunnels.between;
            let whose = format!("the tunnels between {} and {} are", a.value, b.value);
            refuse(&tunnels.options, &whose, "write tunnel = \"xfrm\" for them");
        } else {
            ipsec = true;
        }
    }
    if !ipsec {
        let written = spec.sites.iter().map(|site| &site.options);
        for options in written.chain([&spec.options]) {
            refuse(options, "all tunnels are", "use tunnel = \"xfrm\"");
        }
    }
    errors
}

fn wireguard_ports(spec: &MeshSpec) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for gateway in gateways_with(spec, TunnelKind::WireGuard) {
        for family in [Family::Ipv4, Family::Ipv6] {
            let mut endpoints = gateway.endpoints.iter().filter(|it| it.family() == family);
            if let Some(beyond) = endpoints.nth(WIREGUARD_ENDPOINTS) {
                let reason = format!(
                    "gateway {} has more than {WIREGUARD_ENDPOINTS} {family} endpoints, and WireGuard needs a UDP port for every two endpoints, of which there are not so many: remove one, or use tunnel = \"xfrm\"",
                    gateway.name.value
                );
                errors.push(error(beyond.place, reason));
            }
        }
    }
    errors
}
