//! What the clouds document of their ends: `provider = "aws"`. What is written beside it counts, but for
//! what the cloud says it never does. The sources stand in docs/foreign.md.

use super::check::error;
use super::place::{At, Place, SpecError, quote};
use super::{Foreign, ForeignTunnel, Inside, MeshSpec, Options, Setting};
use ipnet::IpNet;

/// A cloud's VPN service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon: AWS Site-to-Site VPN.
    Aws,
    /// Microsoft: Azure VPN Gateway.
    Azure,
    /// Google: Cloud VPN with Cloud Router.
    Gcp,
    /// Oracle: OCI Site-to-Site VPN.
    Oci,
}

/// What is known of one.
struct Facts {
    /// Of the IKE_SA and of CHILD_SAs: one that it has by default, or that can be chosen there.
    proposals: [&'static str; 2],
    /// Seconds until new keys are made, a little before its own lifetime is over.
    rekey_times: [u32; 2],
    /// Its own lifetimes, where no others can be chosen.
    lifetimes: Option<[u32; 2]>,
    /// Seconds of silence.
    dpd_delay: u32,
    /// BGP's.
    hold_time: Option<u16>,
    /// It keeps its hold time whatever is proposed.
    fixed_hold_time: bool,
    /// Where addresses within are, and the lengths of their prefixes; of a family without any, anything goes.
    inside: &'static [(&'static str, &'static [u8])],
    /// That holds for link-local ones only.
    others_inside: bool,
    /// Where they are not.
    reserved: &'static [&'static str],
    /// ASes that its peers cannot have.
    own_ases: &'static [u32],
    /// So many prefixes it takes from us.
    takes: Option<usize>,
    /// What a pre-shared key is made of.
    key: Option<Key>,
}

/// What a pre-shared key is made of.
struct Key {
    longest: usize,
    /// Besides letters and digits.
    others: &'static [char],
    /// It does not begin with this.
    not_first: Option<char>,
    said: &'static str,
}

const HOUR: u32 = 3600;
const MINUTE: u32 = 60;

impl Provider {
    const ALL: [Self; 4] = [Self::Aws, Self::Azure, Self::Gcp, Self::Oci];

    fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Gcp => "gcp",
            Self::Oci => "oci",
        }
    }

    /// The one of this name.
    pub(super) fn named(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| {
            format!(
                "{} is no provider: one of {}; without any, write what the far end wants",
                quote(text),
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }

    fn facts(self) -> Facts {
        match self {
            Self::Aws => Facts {
                proposals: ["aes256-sha2_256-modp2048", "aes256gcm16-modp2048"],
                rekey_times: [7 * HOUR, 50 * MINUTE],
                lifetimes: Some([8 * HOUR, HOUR]),
                dpd_delay: 10,
                hold_time: Some(30),
                fixed_hold_time: false,
                inside: &[("169.254.0.0/16", &[30]), ("fd00::/8", &[126])],
                others_inside: false,
                reserved: &[
                    "169.254.0.0/30",
                    "169.254.1.0/30",
                    "169.254.2.0/30",
                    "169.254.3.0/30",
                    "169.254.4.0/30",
                    "169.254.5.0/30",
                    "169.254.169.252/30",
                ],
                own_ases: &[],
                takes: Some(100),
                key: Some(Key {
                    longest: 64,
                    others: &['.', '_'],
                    not_first: Some('0'),
                    said: "8 to 64 letters, digits, \".\" and \"_\", not \"0\" first",
                }),
            },
            Self::Azure => Facts {
                proposals: ["aes256-sha2_256-modp2048", "aes256gcm16-modp2048"],
                rekey_times: [7 * HOUR, 7 * HOUR],
                // Of a policy of one's own they can be chosen.
                lifetimes: None,
                dpd_delay: 10,
                hold_time: Some(180),
                fixed_hold_time: true,
                inside: &[
                    ("169.254.21.0/24", &[30, 31]),
                    ("169.254.22.0/24", &[30, 31]),
                ],
                // Without custom ones, its own is of the virtual network.
                others_inside: true,
                reserved: &[],
                own_ases: &[8074, 8075, 12076, 65515, 65517, 65518, 65519, 65520],
                takes: Some(4000),
                key: None,
            },
            Self::Gcp => Facts {
                proposals: ["aes256-sha2_256-modp2048", "aes256gcm16-modp2048"],
                rekey_times: [9 * HOUR, 165 * MINUTE],
                lifetimes: Some([10 * HOUR, 3 * HOUR]),
                dpd_delay: 20,
                hold_time: Some(60),
                fixed_hold_time: false,
                inside: &[("169.254.0.0/16", &[30]), ("fdff:1::/64", &[126])],
                others_inside: false,
                reserved: &[],
                own_ases: &[],
                takes: None,
                key: None,
            },
            Self::Oci => Facts {
                proposals: ["aes256-sha2_384-ecp384", "aes256gcm16-modp1536"],
                rekey_times: [7 * HOUR, 50 * MINUTE],
                lifetimes: Some([8 * HOUR, HOUR]),
                dpd_delay: 20,
                hold_time: None,
                fixed_hold_time: false,
                inside: &[],
                others_inside: true,
                reserved: &[],
                own_ases: &[],
                takes: None,
                key: Some(Key {
                    longest: 256,
                    others: &[' '],
                    not_first: None,
                    said: "letters, digits and spaces",
                }),
            },
        }
    }

    /// How SAs with it are made and kept.
    pub(super) fn options(self, place: Place) -> Options {
        let Facts {
            proposals: [ike, esp],
            rekey_times: [ike_time, esp_time],
            dpd_delay,
            ..
        } = self.facts();
        let settings = [
            (
                ("ike", "proposals"),
                Setting::IkeProposals(vec![ike.to_owned()]),
            ),
            (("ike", "rekey_time"), Setting::IkeRekeyTime(ike_time)),
            (("ike", "dpd_delay"), Setting::DpdDelay(dpd_delay)),
            (
                ("esp", "proposals"),
                Setting::EspProposals(vec![esp.to_owned()]),
            ),
            (("esp", "rekey_time"), Setting::EspRekeyTime(esp_time)),
        ];
        let placed = settings.map(|(key, value)| (key, At { value, place }));
        placed.into()
    }

    /// BGP hold time, where it documents one.
    pub(super) fn hold_time(self) -> Option<u16> {
        self.facts().hold_time
    }
}

/// What is written that the cloud never does.
pub(super) fn check(spec: &MeshSpec, foreign: &Foreign) -> Vec<SpecError> {
    let Some(provider) = foreign.provider.as_ref().map(|it| it.value) else {
        return Vec::new();
    };
    let (facts, cloud) = (provider.facts(), provider.name());
    let mut errors: Vec<SpecError> = Vec::new();
    errors.extend(hold_time(&facts, cloud, foreign));
    errors.extend(too_many(&facts, cloud, spec, foreign));
    for tunnel in &foreign.tunnels {
        errors.extend(lifetimes(&facts, cloud, foreign, tunnel));
        errors.extend(own_as(&facts, cloud, spec, foreign, tunnel));
        errors.extend(key(&facts, cloud, tunnel));
        let inside = tunnel.inside.as_ref();
        errors.extend(inside.and_then(|it| misplaced(&facts, cloud, it)));
    }
    errors
}

fn hold_time(facts: &Facts, cloud: &str, foreign: &Foreign) -> Option<SpecError> {
    let (written, its) = (foreign.hold_time.as_ref()?, facts.hold_time?);
    (facts.fixed_hold_time && written.value < its).then(|| {
        let reason = format!(
            "hold_time is {}, and {cloud} keeps to its own {its} whatever is proposed: leave it out",
            written.value
        );
        error(written.place, reason)
    })
}

/// Its sessions end.
fn too_many(facts: &Facts, cloud: &str, spec: &MeshSpec, foreign: &Foreign) -> Option<SpecError> {
    let (asn, takes) = (foreign.asn.as_ref()?, facts.takes?);
    let tunnels = foreign.tunnels.iter().map(|it| foreign.export_of(it));
    // Whoever has terms may choose some.
    if tunnels.into_iter().any(|terms| !terms.is_empty()) {
        return None;
    }
    let admitted = spec.sites.iter().filter(|it| foreign.admits(&it.name));
    let told: usize = admitted.map(|it| it.prefixes.len()).sum();
    (told > takes).then(|| {
        let reason = format!(
            "{cloud} takes {takes} prefixes and ends the session above, and the sites that may reach foreign {} own \
             {told}: name fewer sites, have them own fewer and larger ones, or choose by export",
            foreign.name.value
        );
        error(asn.place, reason)
    })
}

fn lifetimes<'s>(
    facts: &'s Facts,
    cloud: &'s str,
    foreign: &Foreign,
    tunnel: &ForeignTunnel,
) -> Vec<SpecError> {
    let options = foreign.options_of(tunnel);
    let Some(lifetimes) = facts.lifetimes else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    for (table, most) in ["ike", "esp"].into_iter().zip(lifetimes) {
        let written = options.get(&(table, "rekey_time"));
        let longer = written.filter(|it| match it.value {
            Setting::IkeRekeyTime(time) | Setting::EspRekeyTime(time) => time > most,
            _ => false,
        });
        errors.extend(longer.map(|it| {
            let reason = format!(
                "{table}.rekey_time is longer than {cloud} keeps such an SA, {} minutes: write less",
                most / MINUTE
            );
            error(it.place, reason)
        }));
    }
    errors
}

fn own_as(
    facts: &Facts,
    cloud: &str,
    spec: &MeshSpec,
    foreign: &Foreign,
    tunnel: &ForeignTunnel,
) -> Option<SpecError> {
    foreign.asn.as_ref()?;
    let (site, _) = spec.gateway(&tunnel.gateway)?;
    facts.own_ases.contains(&site.asn).then(|| {
        let reason = format!(
            "gateway {} has AS {}, which {cloud} keeps for itself: give its site another",
            tunnel.gateway.value, site.asn
        );
        error(tunnel.gateway.place, reason)
    })
}

/// The value never stands in the reason.
fn key(facts: &Facts, cloud: &str, tunnel: &ForeignTunnel) -> Option<SpecError> {
    let key = facts.key.as_ref()?;
    let text = tunnel.psk.expose();
    let plain = |c: char| c.is_ascii_alphanumeric() || key.others.contains(&c);
    let begins = key.not_first.is_some_and(|c| text.starts_with(c));
    let fits = text.len() <= key.longest && text.chars().all(plain) && !begins;
    (!fits).then(|| {
        let reason = format!("a psk of {cloud} is of {}", key.said);
        error(tunnel.psk.place, reason)
    })
}

fn misplaced(facts: &Facts, cloud: &str, inside: &At<Inside>) -> Option<SpecError> {
    let net = inside.own.trunc();
    let nets = facts.inside.iter();
    let nets = nets.filter_map(|(text, lengths)| Some((text.parse::<IpNet>().ok()?, lengths)));
    let of_family = |it: &IpNet| it.addr().is_ipv4() == net.addr().is_ipv4();
    let nets: Vec<_> = nets.filter(|(it, _)| of_family(it)).collect();
    let link_local: IpNet = "169.254.0.0/16".parse().ok()?;
    let free = nets.is_empty() || facts.others_inside && !link_local.contains(&net);
    let fits =
        |(it, lengths): &(IpNet, &&[u8])| it.contains(&net) && lengths.contains(&net.prefix_len());
    let reserved = facts
        .reserved
        .iter()
        .filter_map(|it| it.parse::<IpNet>().ok());
    let taken = reserved.into_iter().any(|it| it.contains(&net));
    let reason = if taken {
        format!("{net} is what {cloud} keeps for itself: choose another in its console")
    } else if free || nets.iter().any(fits) {
        return None;
    } else {
        let lengths = |lengths: &[u8]| {
            let each = lengths.iter().map(|it| format!("/{it}"));
            each.collect::<Vec<_>>().join(" or ")
        };
        let each = nets
            .iter()
            .map(|(net, of)| format!("a {} of {net}", lengths(of)));
        let each: Vec<String> = each.collect();
        format!(
            "{net} is nothing that {cloud} has within tunnels: it has {}",
            each.join(", or ")
        )
    };
    Some(error(inside.place, reason))
}
