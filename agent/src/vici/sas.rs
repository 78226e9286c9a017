//! charon's security associations as values.

use super::definition::Bind;
use super::message::Message;
use crate::state::ours;
use ipnet::IpNet;
use routemesh_proto::Esp;
use std::collections::BTreeSet;
use std::time::Duration;

/// An IKE_SA of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeSa {
    /// Name of the connection it was made from, or will be.
    pub connection: String,
    /// charon's number for it; later ones are higher.
    pub unique_id: u32,
    /// Its state.
    pub state: IkeState,
    /// Whether this side started it.
    pub initiator: bool,
    /// How long it has been established, if it is.
    pub established: Option<Duration>,
    /// Time until it is rekeyed.
    pub rekey_in: Option<Duration>,
    /// Own outer address in use.
    pub local_host: String,
    /// The peer's outer address in use.
    pub remote_host: String,
    /// The peer's identity, as soon as it is known.
    pub remote_id: String,
    /// Behind a NAT, on whichever side: ESP goes within UDP.
    pub nat: bool,
    /// Encryption, integrity, PRF and group as charon names them, joined by slashes.
    pub algorithms: String,
    /// Whether making a child is waiting or under way.
    pub making_child: bool,
    /// Its CHILD_SAs.
    pub children: Vec<ChildSa>,
}

/// State of an IKE_SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IkeState {
    /// Not established yet: `CREATED`, `CONNECTING`.
    Connecting,
    /// In use: `ESTABLISHED`, `REKEYING`.
    Established,
    /// On its way out: `REKEYED`, `DELETING`, `DESTROYING`, or unknown to us.
    Closing,
}

/// A CHILD_SA: a pair of ESP SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSa {
    /// Name of the child in the connection: the digest of what was loaded.
    pub name: String,
    /// charon's number for it; later ones are higher.
    pub unique_id: u32,
    /// Its state.
    pub state: ChildState,
    /// Packets share and fill ESP packets (RFC 9347).
    pub iptfs: bool,
    /// The interface it is bound to, if it is to the same in both directions.
    pub bind: Option<Bind>,
    /// Different pairs of traffic selectors of one family and protocol, one of each side: each has its
    /// policies.
    pub selectors: usize,
    /// What it takes of the far side, in every protocol.
    pub remote: Vec<IpNet>,
    /// SPI of what comes in.
    pub spi_in: Option<u32>,
    /// SPI of what goes out.
    pub spi_out: Option<u32>,
    /// Bytes received.
    pub bytes_in: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Time since it was installed.
    pub installed: Option<Duration>,
    /// Time until it is rekeyed.
    pub rekey_in: Option<Duration>,
    /// Encryption, integrity and group as charon names them, joined by slashes.
    pub algorithms: String,
    /// The sizes of its packets, where these algorithms are known.
    pub esp: Option<Esp>,
}

/// State of a CHILD_SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChildState {
    /// Not installed yet.
    Making,
    /// Carries traffic both ways: `INSTALLED`, `UPDATING`, `REKEYING`.
    Installed,
    /// Replaced or on its way out, or unknown to us.
    Closing,
}

/// Whether a connection of that name is ours: the prefix, a number, a dash.
pub fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(ours::CONNECTION_PREFIX) else {
        return false;
    };
    match rest.split_once('-') {
        Some((number, _)) => !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()),
        None => false,
    }
}

/// The SAs of ours in what `list-sas` streamed.
pub fn from_list(items: &[Message]) -> Vec<IkeSa> {
    let named = items.iter().flat_map(Message::sections);
    named
        .filter(|(name, _)| is_ours(name))
        .map(|(name, section)| ike(name, section))
        .collect()
}

/// The SPIs of all others in it.
pub fn others(items: &[Message]) -> BTreeSet<u32> {
    let named = items.iter().flat_map(Message::sections);
    let others = named.filter(|(name, _)| !is_ours(name));
    let children = others.filter_map(|(_, section)| section.get_section("child-sas"));
    let children = children.flat_map(Message::sections);
    let spis =
        |(_, child): (&str, &Message)| ["spi-in", "spi-out"].map(|key| hexadecimal(child, key));
    children.flat_map(spis).flatten().collect()
}

/// One IKE_SA.
fn ike(name: &str, section: &Message) -> IkeSa {
    let tasks = ["tasks-queued", "tasks-active"];
    IkeSa {
        connection: name.to_owned(),
        unique_id: number(section, "uniqueid").unwrap_or(0),
        state: match section.get_text("state") {
            Some("CREATED" | "CONNECTING") => IkeState::Connecting,
            Some("ESTABLISHED" | "REKEYING") => IkeState::Established,
            _ => IkeState::Closing,
        },
        initiator: section.get_text("initiator") == Some("yes"),
        established: number(section, "established").map(Duration::from_secs),
        rekey_in: number(section, "rekey-time").map(Duration::from_secs),
        local_host: text(section, "local-host"),
        remote_host: text(section, "remote-host"),
        remote_id: text(section, "remote-id"),
        nat: section.get_text("nat-any") == Some("yes"),
        algorithms: algorithms(section),
        making_child: tasks.iter().any(|t| {
            section
                .get_list(t)
                .iter()
                .any(|task| task == "CHILD_CREATE")
        }),
        children: section
            .get_section("child-sas")
            .map(|children| {
                children
                    .sections()
                    .map(|(name, section)| child(name, section))
                    .collect()
            })
            .unwrap_or_default(),
    }
}

/// One CHILD_SA; before strongSwan 5.8 its section had the plain name.
fn child(key: &str, section: &Message) -> ChildSa {
    ChildSa {
        name: section.get_text("name").unwrap_or(key).to_owned(),
        unique_id: number(section, "uniqueid").unwrap_or(0),
        state: match section.get_text("state") {
            Some("CREATED" | "ROUTED" | "INSTALLING") => ChildState::Making,
            Some("INSTALLED" | "UPDATING" | "REKEYING") => ChildState::Installed,
            _ => ChildState::Closing,
        },
        iptfs: section.get_text("mode") == Some("IPTFS"),
        bind: bind(section),
        selectors: selectors(section),
        remote: remote(section),
        spi_in: hexadecimal(section, "spi-in"),
        spi_out: hexadecimal(section, "spi-out"),
        bytes_in: number(section, "bytes-in").unwrap_or(0),
        packets_in: number(section, "packets-in").unwrap_or(0),
        bytes_out: number(section, "bytes-out").unwrap_or(0),
        packets_out: number(section, "packets-out").unwrap_or(0),
        installed: number(section, "install-time").map(Duration::from_secs),
        rekey_in: number(section, "rekey-time").map(Duration::from_secs),
        algorithms: algorithms(section),
        esp: section
            .get_text("encr-alg")
            .and_then(|cipher| Esp::negotiated(cipher, section.get_text("integ-alg"))),
    }
}

impl ChildSa {
    /// It takes all of these prefixes: the far end may have agreed to less than it was asked.
    pub fn takes<'a>(&self, mut prefixes: impl Iterator<Item = &'a IpNet>) -> bool {
        prefixes.all(|prefix| self.remote.iter().any(|it| it.contains(prefix)))
    }
}

/// Neighbouring ones are taken together.
fn remote(section: &Message) -> Vec<IpNet> {
    let texts = section.get_list("remote-ts").iter();
    let nets: Vec<IpNet> = texts.filter_map(|it| it.parse().ok()).collect();
    IpNet::aggregate(&nets)
}

/// Those that charon makes policies of: the two of a pair have one family and one protocol, unless one
/// of them has any.
fn selectors(section: &Message) -> usize {
    let side = |name| -> BTreeSet<&String> { section.get_list(name).iter().collect() };
    let (local, remote) = (side("local-ts"), side("remote-ts"));
    let v6 = |text: &str| text.contains(':');
    let fits = |one: &str, other: &str| {
        let protocols = [protocol(one), protocol(other)];
        let same = protocols[0] == protocols[1] || protocols.contains(&None);
        same && v6(one) == v6(other)
    };
    let pairs = |one: &&String| remote.iter().filter(|it| fits(one, it)).count();
    local.iter().map(pairs).sum()
}

/// A selector may be followed by protocol and ports: "10.0.0.0/8[tcp/80]".
fn protocol(selector: &str) -> Option<&str> {
    let (_, after) = selector.split_once('[')?;
    let after = after.trim_end_matches(']');
    let (protocol, _) = after.split_once('/').unwrap_or((after, ""));
    Some(protocol).filter(|it| !it.is_empty() && *it != "0")
}

/// What a CHILD_SA is bound to. All these are hexadecimal and left out if they are zero.
fn bind(section: &Message) -> Option<Bind> {
    let both = |a: &str, b: &str| {
        hexadecimal(section, a).filter(|&id| hexadecimal(section, b) == Some(id))
    };
    both("if-id-in", "if-id-out")
        .map(Bind::IfId)
        .or_else(|| both("mark-in", "mark-out").map(Bind::Mark))
}

/// The names of an SA's algorithms.
fn algorithms(section: &Message) -> String {
    let mut names = Vec::new();
    for (algorithm, size) in [
        ("encr-alg", "encr-keysize"),
        ("integ-alg", "integ-keysize"),
        ("prf-alg", ""),
        ("dh-group", ""),
    ] {
        if let Some(name) = section.get_text(algorithm) {
            let size = section
                .get_text(size)
                .map(|size| format!("-{size}"))
                .unwrap_or_default();
            names.push(format!("{name}{size}"));
        }
    }
    names.join("/")
}

fn text(section: &Message, name: &str) -> String {
    section.get_text(name).unwrap_or_default().to_owned()
}

/// A decimal number. What is overdue is negative on the wire, and nothing here.
fn number<T: std::str::FromStr>(section: &Message, name: &str) -> Option<T> {
    section.get_text(name)?.parse().ok()
}

fn hexadecimal(section: &Message, name: &str) -> Option<u32> {
    u32::from_str_radix(section.get_text(name)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_by_their_names() {
        for name in ["rm0-v2", "rm17-site-2", "rm3-"] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "rm", "rm-v2", "rmx-v2", "rm1", "rm 1-v2", "home", "", "1-v2", "rm+1-v2",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn interface_ids_and_spis_are_hexadecimal_and_the_rest_is_not() {
        let section = Message::new()
            .text("uniqueid", "12")
            .text("name", "0123456789abcdef")
            .text("state", "INSTALLED")
            .text("if-id-in", "52000012")
            .text("if-id-out", "52000012")
            .text("spi-in", "c0000010")
            .text("bytes-in", "10")
            .text("rekey-time", "-3")
            .list("local-ts", ["10.0.1.0/24", "10.0.2.0/24", "2001:db8::/32"])
            .list("remote-ts", ["0.0.0.0/0|/0", "::/0[tcp]"]);
        let child = child("0123456789abcdef-12", &section);
        assert_eq!(child.name, "0123456789abcdef");
        assert_eq!(child.unique_id, 12);
        assert_eq!(child.bind, Some(Bind::IfId(0x5200_0012)));
        assert_eq!(child.spi_in, Some(0xc000_0010));
        assert_eq!((child.bytes_in, child.bytes_out), (10, 0));
        assert_eq!(child.rekey_in, None, "overdue");
        assert_eq!(child.selectors, 3);
        assert_eq!(child.remote, [], "all of one protocol is not all");
    }

    #[test]
    fn an_sa_takes_what_the_far_end_has_agreed_to() {
        let takes = |agreed: &[&str], wanted: &[&str]| {
            let section = Message::new().list("remote-ts", agreed.iter().copied());
            let wanted: Vec<IpNet> = wanted.iter().map(|it| it.parse().unwrap()).collect();
            child("a", &section).takes(wanted.iter())
        };
        assert!(takes(
            &["0.0.0.0/0", "::/0"],
            &["10.9.0.0/16", "2001:db8:9::/48"]
        ));
        assert!(takes(&["10.9.0.0/17", "10.9.128.0/17"], &["10.9.0.0/16"]));
        assert!(takes(&["10.9.0.0/16"], &["10.9.1.0/24"]));
        assert!(takes(&[], &[]));
        for agreed in [
            &["10.9.0.0/17"][..],
            &["::/0"],
            &["10.9.0.0/16[tcp]"],
            &["odd"],
            &[],
        ] {
            assert!(!takes(agreed, &["10.9.0.0/16"]), "{agreed:?}");
        }
    }

    #[test]
    fn pairs_of_selectors_are_counted_as_charon_makes_policies_of_them() {
        let table: [(&[&str], &[&str], usize); 7] = [
            (&[], &["10.0.0.0/8"], 0),
            (&["10.0.0.0/8"], &["10.0.0.0/8", "10.0.0.0/8"], 1),
            (&["10.0.0.0/8", "10.0.0.0/8"], &["10.9.0.0/16", "::/0"], 1),
            (&["10.0.0.0/8[tcp]"], &["10.9.0.0/16[udp/53]"], 0),
            (
                &["10.0.0.0/8[tcp]"],
                &["10.9.0.0/16[tcp/80]", "10.8.0.0/16"],
                2,
            ),
            (&["10.0.0.0/8[tcp]", "10.0.0.0/8[udp]"], &["10.9.0.0/16"], 2),
            (&["10.0.0.0/8"], &["::/0"], 0),
        ];
        for (local, remote, expected) in table {
            let section = Message::new()
                .list("local-ts", local.iter().copied())
                .list("remote-ts", remote.iter().copied());
            assert_eq!(selectors(&section), expected, "{local:?} {remote:?}");
        }
    }

    #[test]
    fn a_child_bound_to_two_interfaces_or_none_is_bound_to_none() {
        let of = |pairs: &[(&str, &str)]| {
            let message = pairs
                .iter()
                .fold(Message::new(), |m, (name, value)| m.text(name, *value));
            bind(&message)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("if-id-in", "1")]), None);
        assert_eq!(of(&[("if-id-in", "1"), ("if-id-out", "2")]), None);
        assert_eq!(
            of(&[("mark-in", "1f"), ("mark-out", "1f")]),
            Some(Bind::Mark(0x1f))
        );
        assert_eq!(of(&[("if-id-in", "no"), ("if-id-out", "no")]), None);
    }

    #[test]
    fn an_sa_about_which_nothing_is_known_is_no_use() {
        let sas = from_list(&[Message::new().section("rm1-v2", Message::new())]);
        assert_eq!(sas.len(), 1);
        assert_eq!(
            (sas[0].state, sas[0].children.len()),
            (IkeState::Closing, 0)
        );
    }
}
