//! What holds for every mesh, whatever its sites, gateways and endpoints.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use routemesh_controller::ids::{self, Ids, tunnel_count};
use routemesh_controller::mesh::{Mesh, Retired, retire};
use routemesh_controller::render::{pairs, render};
use routemesh_controller::spec;
use routemesh_proto::{Config, Tunnel};
use std::collections::{BTreeMap, BTreeSet};

/// Sites, each a list of gateways, each with its numbers of IPv6 and further IPv4 endpoints.
type Sites = Vec<Vec<(usize, usize)>>;

fn sites() -> impl Strategy<Value = Sites> {
    vec(vec((1usize..3, 0usize..3), 1..4), 1..6)
}

fn text(sites: &Sites) -> String {
    let kind = ["xfrm", "wireguard"][sites.len() % 2];
    let mut text = "[mesh]\nas = 65000\ninterconnect = \"fd00:ff::/64\"\n".to_owned();
    text += &format!("tunnel = \"{kind}\"\n");
    for (s, gateways) in sites.iter().enumerate() {
        text += &format!("[sites.s{s}]\nprefixes = [\"10.{s}.0.0/16\"]\n");
        for (g, (ipv6, ipv4)) in gateways.iter().enumerate() {
            let ipv6 = (0..*ipv6).map(|e| format!("\"2001:db8:{s}:{g}::{e}\""));
            let ipv4 = (0..*ipv4).map(|e| format!("\"192.{s}.{g}.{}\"", e + 1));
            let endpoints: Vec<String> = ipv6.chain(ipv4).collect();
            let endpoints = endpoints.join(", ");
            text += &format!("[sites.s{s}.gateways.g{s}-{g}]\nendpoints = [{endpoints}]\n");
        }
    }
    text
}

fn mesh(known: &Ids, sites: &Sites) -> Mesh {
    let text = text(sites);
    let spec = spec::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let ids = ids::assign(known, &spec).unwrap();
    Mesh::new(1, text.into(), spec, ids)
}

fn configs(mesh: &Mesh) -> BTreeMap<String, Config> {
    let names = mesh.spec.gateways().map(|(_, g)| g.name.value.clone());
    names
        .map(|name| (name.clone(), render(mesh, &name).unwrap()))
        .collect()
}

fn find(configs: &BTreeMap<String, Config>, gateway: &str, number: u32) -> Tunnel {
    let mut tunnels = configs[gateway].tunnels.iter();
    tunnels.find(|t| t.number == number).unwrap().clone()
}

#[test]
fn a_gateway_whose_endpoint_changes_keeps_its_bgp_identifier() {
    let sites = vec![vec![(1, 0)], vec![(1, 0)]];
    let before = mesh(&Ids::default(), &sites);
    let text = before
        .text
        .expose()
        .replace("2001:db8:0:0::0", "2001:db8:0:0::9");
    let spec = spec::parse("test", &text).unwrap();
    let ids = ids::assign(&before.ids, &spec).unwrap();
    let after = Mesh::new(1, text.into(), spec, ids);
    let (old, new) = (configs(&before), configs(&after));
    let [old, new] = [&old["g0-0"], &new["g0-0"]];
    assert_eq!(old.router_id, new.router_id);
    assert_ne!(old.tunnels[0].number, new.tunnels[0].number);
}

proptest! {
    #[test]
    fn both_ends_of_each_tunnel_agree(sites in sites()) {
        let mesh = mesh(&Ids::default(), &sites);
        let configs = configs(&mesh);
        let mut ends = 0;
        for (gateway, config) in &configs {
            for near in &config.tunnels {
                let far = find(&configs, &near.peer, near.number);
                prop_assert_eq!(&far.peer, gateway);
                prop_assert_eq!(&far.peer_site, &config.site);
                prop_assert_eq!(far.peer_asn, config.asn);
                prop_assert_eq!(&far.remote_address, &near.local_address);
                prop_assert_eq!(&far.local_address, &near.remote_address);
                prop_assert_eq!(&far.remote_endpoint, &near.local_endpoint);
                prop_assert_eq!(&far.local_endpoint, &near.remote_endpoint);
                prop_assert_eq!(&far.kind, &near.kind);
                let ports = |it: &Tunnel| it.wireguard.clone().map(|it| (it.listen_port, it.remote_port));
                prop_assert_eq!(ports(&far).map(|(a, b)| (b, a)), ports(near));
                prop_assert_eq!(near.kind == "wireguard", near.wireguard.is_some() && near.esp.is_none());
                prop_assert!(far.initiate != near.initiate);
                ends += 1;
            }
        }
        prop_assert_eq!(ends, 2 * pairs(&mesh).len());
        prop_assert_eq!(tunnel_count(&mesh.spec), pairs(&mesh).len() as u64);
    }

    #[test]
    fn no_two_tunnels_share_a_number_or_an_address(sites in sites()) {
        let mesh = mesh(&Ids::default(), &sites);
        let configs = configs(&mesh);
        let ends = || configs.values().flat_map(|config| &config.tunnels);
        let addresses: BTreeSet<&str> = ends().map(|t| t.local_address.as_str()).collect();
        prop_assert_eq!(addresses.len(), ends().count());
        let numbers: BTreeSet<u32> = ends().map(|t| t.number).collect();
        prop_assert_eq!(2 * numbers.len(), ends().count());
        let routers: BTreeSet<&str> = configs.values().map(|c| c.router_id.as_str()).collect();
        prop_assert_eq!(routers.len(), configs.len());
        for config in configs.values() {
            prop_assert!(config.tunnels.is_sorted_by_key(|t| t.number));
            let ports = config.tunnels.iter().filter_map(|t| Some(t.wireguard.as_ref()?.listen_port));
            let ports: Vec<u32> = ports.collect();
            let different: BTreeSet<u32> = ports.iter().copied().collect();
            prop_assert_eq!(different.len(), ports.len());
            prop_assert!(different.iter().all(|port| (20_000..62_000).contains(port)));
        }
    }

    #[test]
    fn gateways_of_different_sites_are_joined_and_others_not(sites in sites()) {
        let mesh = mesh(&Ids::default(), &sites);
        let configs = configs(&mesh);
        for (a, config) in &configs {
            for (b, far) in &configs {
                let joined = config.tunnels.iter().any(|t| t.peer == *b);
                prop_assert_eq!(joined, config.site != far.site, "{} {}", a, b);
            }
        }
    }

    #[test]
    fn a_gateway_that_comes_or_goes_renumbers_nothing(
        before in sites(),
        site in any::<prop::sample::Index>(),
        endpoints in (1usize..3, 0usize..3),
    ) {
        let old = mesh(&Ids::default(), &before);
        let mut after = before.clone();
        let at = site.index(after.len());
        after[at].push(endpoints);
        let new = mesh(&old.ids, &after);
        let (was, is) = (configs(&old), configs(&new));
        for (gateway, config) in &was {
            for tunnel in &config.tunnels {
                prop_assert_eq!(tunnel, &find(&is, gateway, tunnel.number));
            }
            prop_assert_eq!(&config.router_id, &is[gateway].router_id);
        }
        // It goes and comes back: as if nothing had been, and nobody else got its numbers.
        let gone = mesh(&new.ids, &before);
        prop_assert_eq!(configs(&gone), was);
        prop_assert_eq!(configs(&mesh(&gone.ids, &after)), is);
    }

    #[test]
    fn who_leaves_keeps_nothing_but_its_name(before in sites(), n in any::<prop::sample::Index>()) {
        prop_assume!(before.len() > 1);
        let old = mesh(&Ids::default(), &before);
        let mut after = before.clone();
        after.pop();
        let mut new = mesh(&old.ids, &after);
        new.retired = retire(Some(&old), Retired::new(), &new.spec);
        new.generation = 2;
        let gone = before.len() - 1;
        let gateway = format!("g{gone}-{}", n.index(before[gone].len()));
        let idle = render(&new, &gateway).unwrap();
        let was = render(&old, &gateway).unwrap();
        prop_assert_eq!(idle.generation, 2);
        prop_assert!(idle.tunnels.is_empty() && idle.sites.is_empty());
        prop_assert_eq!((&idle.site, &idle.overlay, &idle.router_id), (&was.site, &was.overlay, &was.router_id));
        prop_assert!(retire(Some(&new), new.retired.clone(), &old.spec).is_empty());
        prop_assert_eq!(render(&new, "stranger"), None);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "(\\[|\\]|\\{|\\}|=|\"|'|\n|,|\\.|mesh|sites|gateways|as|prefixes|endpoints|host|family|routers|announce|one|10\\.0\\.1\\.0/24|fd00::/64|[0-9]{1,12}|\\PC){0,60}") {
        let _ = spec::parse("test", &text);
    }
}
