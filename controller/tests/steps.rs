//! What an agent is told step by step is what the whole configs differ in.

#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use routemesh_controller::drain::{Drain, staying};
use routemesh_controller::ids::{self, Ids};
use routemesh_controller::mesh::{Keys, Mesh, Retired, retire};
use routemesh_controller::plan::{plan, plan_step};
use routemesh_controller::render::render;
use routemesh_controller::spec;
use routemesh_controller::step::Step;
use routemesh_proto::{PublicKey, diff};
use std::collections::BTreeSet;
use std::fmt::Write;

/// A gateway: a second endpoint, one of IPv4, its preference, its weight, a router.
type Gateway = (bool, bool, Option<u8>, Option<u8>, bool);

/// How many prefixes, an AS of its own, an option, and gateways by number.
type Site = (usize, bool, bool, Vec<Option<Gateway>>);

/// A small mesh, most of which another draw has just so.
#[derive(Clone, Debug)]
struct Draw {
    hold_time: u8,
    mesh_dpd: Option<u8>,
    kind: usize,
    bfd: bool,
    sites: Vec<Option<Site>>,
    /// Written tunnels between the first gateways of the first sites.
    written: Option<u8>,
    /// Foreign peers, each held by a gateway of a site, and the only site that may reach it.
    foreign: Vec<(usize, Option<usize>, bool)>,
    drained: BTreeSet<(usize, Option<usize>)>,
    keys: Vec<Option<u8>>,
}

fn rarely<T: std::fmt::Debug + Clone>(
    some: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.15, some)
}

fn draw() -> impl Strategy<Value = Draw> {
    let gateway = || {
        (
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            rarely(100u8..103),
            rarely(1u8..3),
            prop::bool::weighted(0.2),
        )
    };
    let first = gateway().prop_map(Some);
    let gateways = (first, prop::option::of(gateway())).prop_map(|(one, two)| vec![one, two]);
    let odd = || prop::bool::weighted(0.15);
    let site = (1usize..3, odd(), odd(), gateways);
    let sites = vec(prop::option::weighted(0.9, site), 4);
    let foreign = vec((0usize..4, rarely(0usize..4), odd()), 0..3);
    let drained = btree_set((0usize..4, prop::option::of(0usize..4)), 0..2);
    let mesh = (6u8..8, rarely(20u8..22), 0usize..3, odd());
    let keys = vec(rarely(1u8..3), 4);
    (mesh, sites, rarely(5u8..7), foreign, drained, keys).prop_map(
        |((hold_time, mesh_dpd, kind, bfd), sites, written, foreign, drained, keys)| Draw {
            hold_time,
            mesh_dpd,
            kind,
            bfd,
            sites,
            written,
            foreign,
            drained,
            keys,
        },
    )
}

/// One part of the second is put in the place of the first's: what operators do.
fn edit() -> impl Strategy<Value = (Draw, Draw)> {
    let parts = (0usize..10, 0usize..4);
    (draw(), draw(), parts).prop_map(|(one, other, (part, at))| {
        let mut edited = one.clone();
        match part {
            0 => edited.hold_time = other.hold_time,
            1 => edited.mesh_dpd = other.mesh_dpd,
            2 => edited.kind = other.kind,
            3 => edited.bfd = other.bfd,
            4 => edited.written = other.written,
            5 => edited.foreign = other.foreign,
            6 => edited.drained = other.drained,
            7 => edited.keys = other.keys,
            8 => edited = other,
            _ => edited.sites[at] = other.sites[at].clone(),
        }
        (one, edited)
    })
}

impl Draw {
    fn has(&self, site: usize) -> bool {
        self.sites[site].is_some()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\nhold_time = {}\n",
            self.hold_time
        );
        text += ["", "tunnel = \"vti\"\n", "tunnel = \"wireguard\"\n"][self.kind];
        if self.bfd {
            text += "bfd = false\n";
        }
        let ipsec = self.kind != 2;
        if let Some(seconds) = self.mesh_dpd.filter(|_| ipsec) {
            writeln!(text, "[mesh.ike]\ndpd_delay = \"{seconds}s\"").unwrap();
        }
        if self.sites.iter().all(Option::is_none) {
            text += "[sites.only]\nprefixes = [\"10.8.0.0/16\"]\n";
            text += "gateways.only.endpoints = [\"2001:db8:8::1\"]\n";
        }
        for (s, site) in self.sites.iter().enumerate() {
            let Some((prefixes, asn, option, gateways)) = site else {
                continue;
            };
            let prefixes = (0..*prefixes).map(|p| format!("\"10.{s}.{p}.0/24\""));
            let prefixes: Vec<String> = prefixes.collect();
            writeln!(text, "[sites.s{s}]\nprefixes = [{}]", prefixes.join(", ")).unwrap();
            if *asn {
                writeln!(text, "as = {}", 65001 + s).unwrap();
            }
            if *option && ipsec {
                text += "esp = { replay_window = 64 }\n";
            }
            for (g, gateway) in gateways.iter().enumerate() {
                let Some((second, ipv4, preference, weight, router)) = gateway else {
                    continue;
                };
                let mut endpoints = format!("\"2001:db8:{s}:{g}::1\"");
                if *second {
                    endpoints += &format!(", \"2001:db8:{s}:{g}::2\"");
                }
                if *ipv4 {
                    endpoints += &format!(", \"192.0.{s}.{}\"", g + 1);
                }
                writeln!(
                    text,
                    "[sites.s{s}.gateways.g{s}-{g}]\nendpoints = [{endpoints}]"
                )
                .unwrap();
                if let Some(preference) = preference {
                    writeln!(text, "preference = {preference}").unwrap();
                }
                if let Some(weight) = weight {
                    writeln!(text, "weight = {weight}").unwrap();
                }
                if *router {
                    writeln!(
                        text,
                        "routers = [{{ address = \"10.{s}.0.9\", as = 65099 }}]"
                    )
                    .unwrap();
                }
            }
        }
        if let Some(minutes) = self.written
            && self.has(0)
            && self.has(1)
        {
            writeln!(
                text,
                "[[tunnels]]\nbetween = [\"g0-0\", \"g1-0\"]\ntunnel = \"xfrm\"\nike = {{ rekey_time = \"{minutes}m\" }}"
            )
            .unwrap();
        }
        for (f, (holder, only, asn)) in self.foreign.iter().enumerate() {
            if !self.has(*holder) {
                continue;
            }
            writeln!(text, "[foreign.f{f}]\nprefixes = [\"10.9.{f}.0/24\"]").unwrap();
            if let Some(only) = only.filter(|only| self.sites[*only].is_some()) {
                writeln!(text, "sites = [\"s{only}\"]").unwrap();
            }
            let psk = if *asn {
                "long enough for a key"
            } else {
                "another key that is long"
            };
            writeln!(
                text,
                "[[foreign.f{f}.tunnels]]\ngateway = \"g{holder}-0\"\nlocal = \"2001:db8:{holder}:0::1\"\nremote = \"2001:db8:f::{f}\"\npsk = \"{psk}\""
            )
            .unwrap();
        }
        text
    }

    /// Of the first gateways of each site.
    fn keys(&self) -> Keys {
        let key = |(site, key): (usize, &Option<u8>)| {
            Some((format!("g{site}-0"), PublicKey::from([(*key)?; 32])))
        };
        self.keys.iter().enumerate().filter_map(key).collect()
    }

    fn mesh(&self, generation: u64, before: Option<&Mesh>) -> Mesh {
        let text = self.text();
        let spec = spec::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let known = before.map_or(Ids::default(), |mesh| (*mesh.ids).clone());
        let ids = ids::assign(&known, &spec).unwrap();
        let retired = before.map_or(Retired::new(), |mesh| mesh.retired.clone());
        let retired = retire(before, retired, &spec);
        let drains = self.drained.iter().map(|(gateway, peer)| match peer {
            Some(peer) => Drain::between(&format!("g{gateway}-0"), &format!("g{peer}-0")),
            None => Drain::gateway(&format!("g{gateway}-0")),
        });
        let drains = staying(drains.collect(), &spec);
        let mut mesh = Mesh::new(generation, text.into(), spec, ids);
        mesh.retired = retired;
        mesh.drains = drains;
        mesh.keys = self.keys();
        mesh
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_step_tells_what_the_whole_configs_differ_in((one, other) in edit()) {
        let before = one.mesh(1, None);
        let after = other.mesh(2, Some(&before));
        let step = Step::new(&before, &after);
        for (_, gateway) in before.spec.gateways().chain(after.spec.gateways()) {
            let name = &gateway.name.value;
            let whole = render(&before, name)
                .and_then(|had| Some(diff(&had, &render(&after, name)?)));
            prop_assert_eq!(step.change(&before, &after, name), whole, "{}", name);
        }
        let whole = plan_step(Some(&before), &after, &Step::everything());
        prop_assert_eq!(plan(Some(&before), &after), whole);
    }
}

#[test]
fn a_gateway_that_comes_concerns_others_in_one_tunnel() {
    let gateway = || Some((false, false, None, None, false));
    let site = |gateways| Some((1, false, false, gateways));
    let one = Draw {
        hold_time: 6,
        mesh_dpd: None,
        kind: 0,
        bfd: false,
        sites: vec![site(vec![gateway()]), site(vec![gateway()]), None, None],
        written: None,
        foreign: Vec::new(),
        drained: BTreeSet::new(),
        keys: Vec::new(),
    };
    let mut other = one.clone();
    other.sites[1] = site(vec![gateway(), gateway()]);
    let before = one.mesh(1, None);
    let after = other.mesh(2, Some(&before));
    let step = Step::new(&before, &after);
    assert!(step.is_whole("g1-1"));
    for name in ["g0-0", "g1-0"] {
        assert!(!step.is_whole(name), "{name}");
    }
    let change = step.change(&before, &after, "g0-0").unwrap();
    let peers: Vec<&str> = change.tunnels.iter().map(|it| it.peer.as_str()).collect();
    assert_eq!((change.header, peers), (None, vec!["g1-1"]));
}
