//! What stands in a specification, key by key.

use super::keys;
use super::place::{At, Lines, Place, SpecError, quote};
use super::reader::{Reader, TWICE, Table, Value};
use super::{
    Firewall, Gateway, MeshSpec, OuterAddress, Router, Site, Spread, TunnelKind, bfd, values,
};
use ipnet::{IpNet, Ipv6Net};
use routemesh_proto::Service;
use std::net::{IpAddr, Ipv6Addr};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a gateway has that says nothing else.
struct Defaults {
    asn: u32,
    spread: Spread,
    firewall: Firewall,
    services: Vec<Service>,
}

/// Beyond this, only the first syntax error is looked for.
const RECOVERABLE: usize = 1 << 20;

/// The specification as far as it can be read, and what cannot.
pub(super) fn read(text: &str) -> (Option<MeshSpec>, Vec<SpecError>) {
    let mut reader = Reader {
        lines: Lines::new(text),
        errors: Vec::new(),
    };
    let (root, broken) = match DeTable::parse(text) {
        Ok(root) => (root, vec![]),
        Err(error) if text.len() > RECOVERABLE => (Spanned::new(0..0, DeTable::new()), vec![error]),
        Err(_) => DeTable::parse_recoverable(text),
    };
    // What a torn text seems to say is not worth checking; a key written twice tears nothing.
    let torn = broken.iter().any(|error| error.message() != TWICE);
    for error in broken {
        reader.syntax(&error);
    }
    let spec = if torn {
        None
    } else {
        reader.mesh(root.get_ref())
    };
    (spec, reader.errors)
}

impl<'t> Reader<'t> {
    fn mesh(&mut self, root: &DeTable<'t>) -> Option<MeshSpec> {
        self.known("a specification", root, keys::ROOT);
        let none = DeValue::Table(DeTable::new());
        let (place, value) = match root.get_key_value("mesh") {
            Some((key, value)) => (self.lines.place(key.span().start), value.get_ref()),
            None => (Place { line: 1, column: 1 }, &none),
        };
        let mesh = self.table("[mesh]".to_owned(), place, value, keys::MESH)?;
        let asn = self.required(&mesh, "as", "the AS of the mesh, like as = 65000");
        let asn = asn.and_then(|value| self.number("as", value, values::asn));
        let pool = self.required(
            &mesh,
            "interconnect",
            "where tunnels take their addresses from, like interconnect = \"fd00:ff::/64\"",
        );
        let interconnect: Option<At<Ipv6Net>> =
            pool.and_then(|value| self.text("interconnect", value, values::interconnect));
        let tunnel = self.tunnel_kind(&mesh);
        let options = self.options(&mesh);
        let hold_time = mesh.get("hold_time");
        let hold_time = hold_time.and_then(|value| self.hold_time(value));
        let bfd = match mesh.get("bfd") {
            Some(value) => self.bfd(value).map(|bfd| bfd.value),
            None => Some(bfd::DEFAULT),
        };
        let defaults = Defaults {
            asn: asn.unwrap_or_default(),
            spread: self.spread(&mesh, Spread::default()),
            firewall: self.firewall(&mesh).unwrap_or_default(),
            services: self.services(&mesh).unwrap_or_default(),
        };
        let sites = self.sites(root, &defaults);
        // What stands in for a value that was reported only serves to look for more errors.
        Some(MeshSpec {
            asn: asn.unwrap_or_default(),
            interconnect: interconnect.unwrap_or(At {
                value: Ipv6Addr::UNSPECIFIED.into(),
                place,
            }),
            tunnel: tunnel.map_or(TunnelKind::Xfrm, |tunnel| tunnel.value),
            options,
            hold_time: hold_time.unwrap_or(9),
            bfd,
            sites,
            tunnels: self.tunnels(root),
            foreign: self.foreign(root),
        })
    }

    fn sites(&mut self, root: &DeTable<'t>, defaults: &Defaults) -> Vec<Site> {
        let named = match root.get_key_value("sites") {
            Some((key, value)) => {
                let place = self.lines.place(key.span().start);
                self.named("sites", place, value.get_ref())
            }
            None => Vec::new(),
        };
        if named.is_empty() {
            let top = Place { line: 1, column: 1 };
            self.wrong(
                top,
                "there is no site: write [sites.NAME] with its prefixes",
            );
        }
        named
            .into_iter()
            .filter_map(|(name, value)| self.site(name, value, defaults))
            .collect()
    }

    fn site(&mut self, name: At<String>, value: &DeValue<'t>, defaults: &Defaults) -> Option<Site> {
        let what = format!("site {}", quote(&name));
        let table = self.table(what, name.place, value, keys::SITE)?;
        let own = table.get("as");
        let asn = own.and_then(|value| self.number("as", value, values::asn));
        let cure = "list what it owns, like prefixes = [\"10.0.1.0/24\"]";
        let written = match self.required(&table, "prefixes", cure) {
            Some(value) => self.array("prefixes", value, 4096, Some(cure)),
            None => Vec::new(),
        };
        let prefixes: Vec<At<IpNet>> = written
            .into_iter()
            .filter_map(|value| self.text("a prefix", value, values::site_prefix))
            .collect();
        let named = match table.entries.get_key_value("gateways") {
            Some((key, value)) => {
                let place = self.lines.place(key.span().start);
                self.named("gateways", place, value.get_ref())
            }
            None => Vec::new(),
        };
        if named.is_empty() {
            let cure = format!(
                "write [sites.{}.gateways.NAME] with its endpoints",
                name.value
            );
            self.wrong(
                table.place,
                format!("{} has no gateway: {cure}", table.what),
            );
        }
        Some(Site {
            asn: asn.unwrap_or(defaults.asn),
            prefixes,
            options: self.options(&table),
            gateways: named
                .into_iter()
                .filter_map(|(name, value)| self.gateway(name, value, defaults))
                .collect(),
            name,
        })
    }

    fn gateway(
        &mut self,
        name: At<String>,
        value: &DeValue<'t>,
        defaults: &Defaults,
    ) -> Option<Gateway> {
        let what = format!("gateway {}", quote(&name));
        let table = self.table(what, name.place, value, keys::GATEWAY)?;
        let cure = "list its outer addresses, like endpoints = [\"2001:db8:1::1\"]";
        let (mut endpoints, mut locals) = (Vec::new(), Vec::new());
        if let Some(value) = self.required(&table, "endpoints", cure) {
            for value in self.array("endpoints", value, 16, Some(cure)) {
                let Some((endpoint, local)) = self.endpoint(value) else {
                    continue;
                };
                locals.extend(local.map(|local| (endpoint.value.clone(), local)));
                endpoints.push(endpoint);
            }
        }
        let overlay = table
            .get("overlay")
            .and_then(|value| self.text("overlay", value, values::overlay));
        let routers: Vec<Router> = match table.get("routers") {
            Some(value) => {
                let written = self.array("routers", value, 64, None);
                written
                    .into_iter()
                    .filter_map(|value| self.router(value))
                    .collect()
            }
            None => Vec::new(),
        };
        let announce = match table.get("announce") {
            Some(value) => {
                let written = self.array("announce", value, 32, None);
                written
                    .into_iter()
                    .filter_map(|value| self.protocol(value))
                    .collect()
            }
            // Without a router to ask, the kernel's own connected routes say what is here.
            None if table.get("routers").is_none() => vec!["kernel".to_owned()],
            None => Vec::new(),
        };
        let ipsec_from = match table.get("ipsec_from") {
            Some(value) => {
                let written = self.array("ipsec_from", value, 256, None);
                let read = |value| self.text("a prefix", value, values::outside);
                let read = written.into_iter().filter_map(read);
                read.map(|net| net.value).collect()
            }
            None => Vec::new(),
        };
        let (preference, weight) = self.worth(&table);
        Some(Gateway {
            spread: self.spread(&table, defaults.spread),
            preference,
            weight,
            name,
            endpoints,
            locals,
            overlay: overlay.map(|overlay| overlay.value),
            routers,
            announce,
            firewall: self.firewall(&table).unwrap_or(defaults.firewall),
            services: self
                .services(&table)
                .unwrap_or_else(|| defaults.services.clone()),
            ipsec_from,
            admission: 0,
        })
    }

    pub(super) fn hold_time(&mut self, value: &Value<'t>) -> Option<u16> {
        self.number("hold_time", value, |seconds| {
            u16::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds >= 3)
                .ok_or_else(|| format!("hold_time is {seconds}: 3 to 65535 seconds"))
        })
    }

    fn firewall(&mut self, table: &Table<'_, 't>) -> Option<Firewall> {
        let value = table.get("firewall")?;
        let mode = self.text("firewall", value, values::firewall)?;
        Some(mode.value)
    }

    fn services(&mut self, table: &Table<'_, 't>) -> Option<Vec<Service>> {
        let value = table.get("services")?;
        let written = self.array("services", value, 64, None);
        let read = |value| self.text("a service", value, values::service);
        let read = written.into_iter().filter_map(read);
        Some(read.map(|service| service.value).collect())
    }

    /// An endpoint, and the host's own address behind it where that is another.
    fn endpoint(&mut self, value: &Value<'t>) -> Option<(At<OuterAddress>, Option<At<IpAddr>>)> {
        if !value.get_ref().is_table() {
            let address = self.text("an endpoint", value, values::endpoint)?;
            return Some((address, None));
        }
        let place = self.lines.place(value.span().start);
        let what = "an endpoint".to_owned();
        let table = self.table(what, place, value.get_ref(), keys::ENDPOINT)?;
        let local = table.get("local");
        let local = local.and_then(|value| self.text("local", value, values::unicast));
        let value = match table.get("address") {
            Some(value) => {
                if ["host", "family"].iter().any(|it| table.get(it).is_some()) {
                    let reason = "an endpoint has an address, or a host name and its family";
                    self.wrong(place, reason);
                }
                self.text("address", value, values::endpoint)?.value
            }
            None => {
                let host = self.required(&table, "host", "like host = \"vpn.example.net\"");
                let family = self.required(&table, "family", "write \"ipv4\" or \"ipv6\"");
                let host = host.and_then(|value| self.text("host", value, values::host));
                let family = family.and_then(|value| self.text("family", value, values::family));
                OuterAddress::Host(host?.value, family?.value)
            }
        };
        Some((At { value, place }, local))
    }

    /// An end of a tunnel to a foreign peer.
    pub(super) fn outer_address(&mut self, value: &Value<'t>) -> Option<At<OuterAddress>> {
        let (address, local) = self.endpoint(value)?;
        if let Some(local) = local {
            let reason = "local belongs to the endpoint in the gateway's own list";
            self.wrong(local.place, reason);
        }
        Some(address)
    }

    fn protocol(&mut self, value: &Value<'t>) -> Option<String> {
        if value.get_ref().is_integer() {
            let parse = |number: u64| values::protocol(&number.to_string());
            return self.number("a route protocol", value, parse);
        }
        let name = self.text("a route protocol", value, values::protocol)?;
        Some(name.value)
    }
}
