//! Gateways that are not ours, as a cloud's are: `[foreign.NAME]` and its tunnels.

use super::keys;
use super::place::{At, Place, quote};
use super::reader::{Reader, Table, Value};
use super::spread::PREFERENCE;
use super::term::Direction;
use super::{Gateway, Health, Options, OuterAddress, Provider};
use super::{router, values};
use ipnet::IpNet;
use routemesh_proto::{Bfd, Secret, Term};
use std::collections::BTreeSet;
use std::net::IpAddr;
use toml::de::{DeTable, DeValue};

/// Somebody else's network, behind gateways that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its name.
    pub name: At<String>,
    /// Whose VPN service it is, where that is known.
    pub provider: Option<At<Provider>>,
    /// What it owns.
    pub prefixes: Vec<At<IpNet>>,
    /// Its AS, where it speaks BGP; else its prefixes are static.
    pub asn: Option<At<u32>>,
    /// BGP hold time in seconds, where it is not the mesh's or the provider's.
    pub hold_time: Option<At<u16>>,
    /// How many prefixes each of its sessions may announce, where that is not left to the agent.
    pub max_prefixes: Option<u32>,
    /// The sites that may reach it; all where none are written.
    pub sites: Option<Vec<At<String>>>,
    /// How the SAs of its tunnels are made and kept; what the provider documents included.
    pub options: Options,
    /// What is taken from it and told it over all its tunnels.
    pub terms: Terms,
    /// BFD over its tunnels.
    pub bfd: Option<At<Bfd>>,
    /// Who is pinged through its tunnels; the outer `None` where nothing is written.
    pub health: Option<Option<At<Health>>>,
    /// Its tunnels, in the order of the file.
    pub tunnels: Vec<ForeignTunnel>,
}

/// An IKE connection between a gateway of ours and one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignTunnel {
    /// Ours.
    pub gateway: At<String>,
    /// Which of its endpoints, where there is a choice.
    pub local: Option<At<OuterAddress>>,
    /// The far gateway's address.
    pub remote: At<OuterAddress>,
    /// Pre-shared key.
    pub psk: At<Secret>,
    /// IKE identity of our side, where it is not the address.
    pub local_id: Option<String>,
    /// IKE identity of the far side, where it is not the address.
    pub remote_id: Option<String>,
    /// Its CHILD_SAs, each with an interface of its own: one at least.
    pub selectors: Vec<Selectors>,
    /// Who is pinged through it, where that is other than for the peer's other tunnels.
    pub health: Option<Option<At<Health>>>,
    /// Both ends' addresses within, where it has any.
    pub inside: Option<At<Inside>>,
    /// How its SAs are made and kept, where that is other than for the peer's other tunnels.
    pub options: Options,
    /// What is taken and told over it, before what holds for all of the peer's tunnels.
    pub terms: Terms,
    /// How much it is preferred to other ways.
    pub preference: Option<u32>,
    /// Its share of the traffic beside other ways.
    pub weight: Option<u16>,
}

/// What is taken from a far end of what it owns, and what it is told of what others own; without terms,
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What is taken.
    pub import: Vec<Term>,
    /// What is told.
    pub export: Vec<Term>,
    /// Where they are written.
    pub place: Option<Place>,
}

/// The addresses of a tunnel's ends, which BGP goes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Ours, and the length of the prefix that both are in.
    pub own: IpNet,
    /// The far end's.
    pub far: IpAddr,
}

/// Traffic selectors of a CHILD_SA; all that is empty is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// On our side.
    pub local: Vec<At<IpNet>>,
    /// On the far side.
    pub remote: Vec<At<IpNet>>,
}

/// So many tunnels may be written of one foreign peer, and so many selectors of one tunnel.
const MOST: usize = 64;

/// Shorter ones can be guessed by whoever has seen one exchange.
const SHORTEST_PSK: usize = 8;
const LONGEST_PSK: usize = 256;

impl Foreign {
    /// A site may reach it.
    pub fn admits(&self, site: &str) -> bool {
        let Some(sites) = &self.sites else {
            return true;
        };
        sites.iter().any(|it| it.value == site)
    }

    /// A gateway holds tunnels to it.
    pub fn is_held_by(&self, gateway: &str) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|it| it.gateway.value == gateway)
    }

    /// BGP hold time in seconds, where it is not the mesh's.
    pub fn hold_time(&self) -> Option<u16> {
        let written = self.hold_time.as_ref().map(|it| it.value);
        let provider = self.provider.as_ref();
        written.or_else(|| provider?.value.hold_time())
    }

    /// What is taken over a tunnel.
    pub fn import_of(&self, tunnel: &ForeignTunnel) -> Vec<Term> {
        let terms = [&tunnel.terms.import, &self.terms.import];
        terms.into_iter().flatten().cloned().collect()
    }

    /// What is told over a tunnel.
    pub fn export_of(&self, tunnel: &ForeignTunnel) -> Vec<Term> {
        let terms = [&tunnel.terms.export, &self.terms.export];
        terms.into_iter().flatten().cloned().collect()
    }

    /// How much less a tunnel is preferred than the best of the peer's.
    pub fn behind(&self, tunnel: &ForeignTunnel) -> u32 {
        let preference = |it: &ForeignTunnel| it.preference.unwrap_or(PREFERENCE);
        let best = self.tunnels.iter().map(preference).max();
        best.map_or(0, |best| best.saturating_sub(preference(tunnel)))
    }

    /// How a tunnel's SAs are made and kept.
    pub fn options_of(&self, tunnel: &ForeignTunnel) -> Options {
        let mut options = self.options.clone();
        options.extend(tunnel.options.clone());
        options
    }
}

impl ForeignTunnel {
    /// The endpoint of our gateway.
    pub fn endpoint<'m>(&self, gateway: &'m Gateway) -> Option<&'m At<OuterAddress>> {
        let fits = |it: &&At<OuterAddress>| match &self.local {
            Some(local) => it.value == local.value,
            None => it.family() == self.remote.family(),
        };
        gateway.endpoints.iter().find(fits)
    }

    /// IKE identity of our side.
    pub fn own_identity(&self, gateway: &Gateway) -> Option<String> {
        let address = || Some(self.endpoint(gateway)?.text());
        self.local_id.clone().or_else(address)
    }

    /// IKE identity of the far side.
    pub fn far_identity(&self) -> String {
        let address = || self.remote.text();
        self.remote_id.clone().unwrap_or_else(address)
    }
}

impl Selectors {
    /// A packet between these addresses, ours first, is within them.
    pub fn carry(&self, source: IpAddr, target: IpAddr) -> bool {
        let holds = |nets: &[At<IpNet>], address: IpAddr| {
            nets.is_empty() || nets.iter().any(|net| net.contains(&address))
        };
        holds(&self.local, source) && holds(&self.remote, target)
    }

    /// The same text for the same prefixes, in whatever order they are written; empty for everything.
    pub fn text(&self) -> String {
        let sorted = |nets: &[At<IpNet>]| {
            let nets: BTreeSet<IpNet> = nets.iter().map(|it| it.value).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        match self.local.is_empty() && self.remote.is_empty() {
            true => String::new(),
            false => format!("{}>{}", sorted(&self.local), sorted(&self.remote)),
        }
    }
}

impl<'t> Reader<'t> {
    /// All foreign peers.
    pub(super) fn foreign(&mut self, root: &DeTable<'t>) -> Vec<Foreign> {
        let Some((key, value)) = root.get_key_value("foreign") else {
            return Vec::new();
        };
        let place = self.lines.place(key.span().start);
        let named = self.named("foreign", place, value.get_ref());
        let read = named
            .into_iter()
            .filter_map(|(name, value)| self.foreign_peer(name, value));
        read.collect()
    }

    fn foreign_peer(&mut self, name: At<String>, value: &DeValue<'t>) -> Option<Foreign> {
        let what = format!("foreign {}", quote(&name));
        let table = self.table(what, name.place, value, keys::FOREIGN)?;
        let cure = "list what is behind it, like prefixes = [\"10.9.0.0/16\"]";
        let prefixes = match self.required(&table, "prefixes", cure) {
            Some(value) => self.prefixes("a prefix", value, Some(cure)),
            None => Vec::new(),
        };
        let sites = table.get("sites").map(|value| {
            let cure = "name the sites that may reach it, or leave it out for all";
            let written = self.array("sites", value, 4096, Some(cure));
            let name = |text: &str| values::check_name(text).map(|()| text.to_owned());
            let read = written
                .into_iter()
                .filter_map(|it| self.text("a site", it, name));
            read.collect()
        });
        let cure = format!(
            "write [[foreign.{}.tunnels]] with gateway, remote and psk",
            name.value
        );
        let tunnels = match self.required(&table, "tunnels", &cure) {
            Some(value) => {
                let written = self.array("tunnels", value, MOST, Some(&cure));
                written
                    .into_iter()
                    .filter_map(|value| self.foreign_tunnel(value))
                    .collect()
            }
            None => Vec::new(),
        };
        let asn = table.get("as").and_then(|value| {
            let place = self.lines.place(value.span().start);
            let asn = self.number("as", value, values::asn)?;
            Some(At { value: asn, place })
        });
        let hold_time = table.get("hold_time").and_then(|value| {
            let place = self.lines.place(value.span().start);
            let value = self.hold_time(value)?;
            Some(At { value, place })
        });
        let provider = table.get("provider");
        let provider = provider.and_then(|value| self.text("provider", value, Provider::named));
        let mut options = provider
            .as_ref()
            .map_or_else(Options::new, |it| it.value.options(it.place));
        options.extend(self.options(&table));
        let limit = table.get("max_prefixes");
        let limit = limit.and_then(|value| self.number("max_prefixes", value, router::prefixes));
        Some(Foreign {
            provider,
            prefixes,
            asn,
            hold_time,
            max_prefixes: limit,
            sites,
            options,
            terms: self.import_and_export(&table),
            bfd: table.get("bfd").and_then(|value| self.bfd(value)),
            health: table.get("health").and_then(|value| self.health(value)),
            tunnels,
            name,
        })
    }

    fn foreign_tunnel(&mut self, value: &Value<'t>) -> Option<ForeignTunnel> {
        let place = self.lines.place(value.span().start);
        let what = "a tunnel to a foreign peer".to_owned();
        let table = self.table(what, place, value.get_ref(), keys::FOREIGN_TUNNEL)?;
        let cure = "which gateway of ours holds it, like gateway = \"paris-1\"";
        let gateway = self.required(&table, "gateway", cure);
        let name = |text: &str| values::check_name(text).map(|()| text.to_owned());
        let gateway = gateway.and_then(|value| self.text("gateway", value, name));
        let local = table.get("local");
        let local = local.and_then(|value| self.outer_address(value));
        let cure = "the far gateway's address, like remote = \"198.51.100.1\"";
        let remote = self.required(&table, "remote", cure);
        let remote = remote.and_then(|value| self.outer_address(value));
        let cure = "the pre-shared key, like psk = \"a long random text\"";
        let psk = match table.get("psk_file") {
            Some(value) => {
                let place = self.lines.place(value.span().start);
                let reason = "psk_file is read by meshctl, which puts the key in its place: apply the specification by it";
                self.wrong(place, reason);
                None
            }
            None => self.required(&table, "psk", cure),
        };
        let psk = psk.and_then(|value| self.text("psk", value, pre_shared));
        let mut id = |key| {
            let value = table.get(key)?;
            let id = self.text(key, value, identity)?;
            Some(id.value)
        };
        let (local_id, remote_id) = (id("local_id"), id("remote_id"));
        let selectors = self.selectors(&table);
        let within = table.get("inside");
        let within = within.and_then(|value| self.text("inside", value, inside));
        let health = table.get("health").and_then(|value| self.health(value));
        let options = self.options(&table);
        let (preference, weight) = self.worth(&table);
        Some(ForeignTunnel {
            gateway: gateway?,
            local,
            remote: remote?,
            psk: psk?,
            local_id,
            remote_id,
            selectors,
            health,
            inside: within,
            options,
            terms: self.import_and_export(&table),
            preference,
            weight,
        })
    }

    fn import_and_export(&mut self, table: &Table<'_, 't>) -> Terms {
        let written = table.get("import").or_else(|| table.get("export"));
        Terms {
            import: self.terms(table, Direction::Import),
            export: self.terms(table, Direction::Export),
            place: written.map(|value| self.lines.place(value.span().start)),
        }
    }

    fn selectors(&mut self, table: &Table<'_, 't>) -> Vec<Selectors> {
        let Some(value) = table.get("selectors") else {
            return vec![Selectors::default()];
        };
        let cure = "leave it out for one CHILD_SA that carries everything";
        let written = self.array("selectors", value, MOST, Some(cure));
        let read = written.into_iter().filter_map(|value| {
            let place = self.lines.place(value.span().start);
            let what = "an entry of selectors".to_owned();
            let table = self.table(what, place, value.get_ref(), keys::SELECTORS)?;
            let cure = "list the prefixes of this side that the CHILD_SA carries";
            let local = self.required(&table, "local", cure);
            let local = local.map(|value| self.prefixes("a selector", value, Some(cure)));
            let cure = "list the prefixes of the far side that the CHILD_SA carries";
            let remote = self.required(&table, "remote", cure);
            let remote = remote.map(|value| self.prefixes("a selector", value, Some(cure)));
            Some(Selectors {
                local: local?,
                remote: remote?,
            })
        });
        read.collect()
    }

    fn prefixes(&mut self, what: &str, value: &Value<'t>, cure: Option<&str>) -> Vec<At<IpNet>> {
        let written = self.array("prefixes", value, 4096, cure);
        written
            .into_iter()
            .filter_map(|value| self.text(what, value, values::site_prefix))
            .collect()
    }
}

/// The value never stands in the reason.
fn pre_shared(text: &str) -> Result<Secret, String> {
    let fits = (SHORTEST_PSK..=LONGEST_PSK).contains(&text.len());
    if !fits || text.contains(char::is_control) {
        return Err(format!(
            "psk has {} bytes: {SHORTEST_PSK} to {LONGEST_PSK}, without control characters",
            text.len()
        ));
    }
    Ok(Secret::from(text))
}

/// Our address with the length of a prefix that holds two: the other one is the far end's.
fn inside(text: &str) -> Result<Inside, String> {
    let form = || {
        format!(
            "{} is not what tunnels have inside: write our address and the length of a prefix that holds two, \
             like \"169.254.10.2/30\", \"10.0.0.1/31\" or \"fd00::2/126\"",
            quote(text)
        )
    };
    let own: IpNet = text.parse().map_err(|_| form())?;
    let both: Vec<IpAddr> = match (own.max_prefix_len() - own.prefix_len(), own) {
        (1, _) => own
            .subnets(own.max_prefix_len())
            .map_err(|_| form())?
            .map(|it| it.addr())
            .collect(),
        // The first and the last are of no host; in IPv6 the first is of all routers.
        (2, _) => {
            let four = own.subnets(own.max_prefix_len()).map_err(|_| form())?;
            four.map(|it| it.addr()).skip(1).take(2).collect()
        }
        _ => return Err(form()),
    };
    let far = both.iter().find(|it| **it != own.addr());
    match far {
        Some(far) if both.contains(&own.addr()) => Ok(Inside { own, far: *far }),
        _ => Err(format!(
            "{} is not the address of a host: one of {}",
            own.addr(),
            both.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and ")
        )),
    }
}

/// In strongSwan's words: an address, a name, an e-mail address, a distinguished name; none that others
/// match, as a key that is known by it would be theirs as well.
fn identity(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '*' || c == ' ';
    let bare = match text.split_once(':') {
        Some((kind, rest)) if kind.starts_with("ipv") => rest,
        _ => text,
    };
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let nobody = address(bare).is_some_and(|it| it.is_unspecified());
    let net = bare.parse::<IpNet>().is_ok();
    let range = bare.split_once('-').and_then(|(from, _)| address(from));
    let several = nobody || net || range.is_some() || text.starts_with('%');
    if text.is_empty() || text.len() > 255 || !text.chars().all(plain) || several {
        return Err(format!(
            "{} cannot be an IKE identity: write one like \"192.0.2.1\", \"vpn.example.net\" or \
             \"me@example.net\"",
            quote(text)
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_of_one() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "vpn.example.net",
            "a-b",
            "me@x",
            "C=CH, CN=a",
        ] {
            assert!(identity(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "%any",
            "*",
            "*.example.net",
            "C=CH, CN=*",
            "0.0.0.0",
            "::",
            "0::0",
            "10.0.0.0/8",
            "10.0.0.1-10.0.0.9",
            "ipv4net:10.0.0.0/8",
            "ipv6range:fd00::1-fd00::2",
        ] {
            assert!(identity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_far_end_has_the_other_address() {
        let table = [
            ("169.254.10.2/30", Some("169.254.10.1")),
            ("169.254.10.1/30", Some("169.254.10.2")),
            ("169.254.10.0/30", None),
            ("10.0.0.1/31", Some("10.0.0.0")),
            ("fd00::2/126", Some("fd00::1")),
            ("fd00::/126", None),
            ("fd00::/127", Some("fd00::1")),
            ("10.0.0.1/24", None),
            ("10.0.0.1/32", None),
            ("10.0.0.1", None),
        ];
        for (text, far) in table {
            let found = inside(text).ok().map(|it| it.far.to_string());
            assert_eq!(found.as_deref(), far, "{text}");
        }
    }
}
