//! What a tunnel's connection is, and how it is said to charon.
//!
//! # Who starts, and who starts again
//!
//! `start_action` and `close_action` are `none` everywhere: the agent initiates ([`super::heal`]).
//! A trap would let charon start by itself as soon as there is traffic, and there always is (BGP),
//! so that charon and agent, or both ends, start at once and every tunnel has two SAs; and a
//! `close_action` of `start` would answer the closing of a duplicate with the next duplicate.
//!
//! Only the side that initiates asks charon to `restart` when the peer is declared dead, with
//! `keyingtries` without end: so a tunnel comes back from a lost network or a dead peer even while
//! no agent runs. The other side clears, and waits to be called.
//!
//! `unique` is `never`: strongSwan compares identities, not addresses, and two gateways may have
//! several tunnels, whose SAs would close each other. Duplicates are closed by [`super::heal`],
//! which goes by what is bound to the interface.
//!
//! The initiator rekeys first, as its times are a fifth shorter and what chance takes off them is a
//! tenth: rekeying from both sides at once works but leaves extra SAs for a while. Only the
//! initiator authenticates again: since strongSwan 5.9.4 the other side would as well, in turns.

use super::message::{Message, Value};
use crate::config::{EspOptions, IkeOptions, Offload};
use crate::state::ours;
use ipnet::IpNet;
use routemesh_proto::Secret;
use std::collections::BTreeSet;
use std::time::Duration;

/// Packets after which a CHILD_SA is rekeyed, well before 2^32: without extended sequence
/// numbers there are no more.
const REKEY_PACKETS: u64 = 2_000_000_000;

/// By what a connection's section for the peer names the authorities.
const TRUSTED: &str = "cacerts";

/// Digits of a child's name that say how its SA was made, and of each authority that may have vouched for the peer.
const TERMS: usize = 16;
const AUTHORITY: usize = 8;
/// At the end of the digest. The SA is the same with and without: only the next one is made otherwise.
const NAT: &str = "n";

/// Whether an SA that was made of one child is as one of the other would be. It may have been made when fewer authorities
/// were trusted: another one makes it no worse. One that has gone since may be the one that vouched.
pub fn is_current(made: &str, wanted: &str) -> bool {
    let parts = |child: &str| {
        let digest = child.split(CHILD_SEPARATOR).next().unwrap_or_default();
        let digest = digest.strip_suffix(NAT).unwrap_or(digest);
        let (terms, trusted) = digest.split_at_checked(TERMS)?;
        let trusted = trusted.as_bytes().chunks(AUTHORITY).map(<[u8]>::to_vec);
        Some((terms.to_owned(), trusted.collect::<BTreeSet<_>>()))
    };
    let (Some(made), Some(wanted)) = (parts(made), parts(wanted)) else {
        return made == wanted;
    };
    made.0 == wanted.0 && made.1.is_subset(&wanted.1)
}

/// Between the digest and the tunnel's number in the name of a child that is not the first.
pub const CHILD_SEPARATOR: char = '.';

/// How a tunnel's SAs find its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bind {
    /// To an XFRM interface, by its id.
    IfId(u32),
    /// To a VTI interface, by its key.
    Mark(u32),
}

impl Bind {
    /// The tunnel's number among ours, of either kind.
    pub fn number(self) -> u32 {
        match self {
            Bind::IfId(number) | Bind::Mark(number) => number,
        }
    }

    /// Whether that is a number of ours: a tunnel's has 24 bits.
    pub fn is_ours(self) -> bool {
        self.number().wrapping_sub(ours::IF_ID) < 1 << 24
    }

    /// The interface.
    pub fn link(self) -> String {
        link(self.number().wrapping_sub(ours::IF_ID))
    }
}

/// The interface of a tunnel.
pub fn link(number: u32) -> String {
    format!("{}{number}", ours::LINK_PREFIX)
}

/// How the two sides of a connection know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// By certificates of the mesh's CA.
    Certificate {
        /// Own.
        own_pem: String,
        /// The CAs: the peer's certificate must come from one of them and from no other.
        ca_pems: Vec<String>,
    },
    /// By a key that both have. It is told to charon apart from the connection.
    Psk(Secret),
}

/// A child of a connection: what one interface carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The BGP peer's name, or that of the way where there is no BGP.
    pub way: String,
    /// What is reached by it without BGP: whether the way is alive, an SA that takes all of it says.
    pub reached: Option<BTreeSet<IpNet>>,
    /// The interface.
    pub bind: Bind,
    /// Traffic selectors of this side.
    pub local: Vec<String>,
    /// Traffic selectors of the far side.
    pub remote: Vec<String>,
}

impl Child {
    /// One for everything.
    pub fn of_all(way: String, bind: Bind) -> Self {
        let any = || vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        Self {
            way,
            reached: None,
            bind,
            local: any(),
            remote: any(),
        }
    }
}

/// Everything about an IKE connection and its children; between gateways of the mesh, it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The site at the far end, or the foreign peer. charon is not told of it.
    pub site: String,
    /// Own outer addresses.
    pub local_addrs: Vec<String>,
    /// The host has none of these, and others stand for them: any may. No matter to an SA that is there.
    pub nat: bool,
    /// The peer's outer address: a literal, or a host name that charon resolves each time.
    pub remote_addrs: Vec<String>,
    /// Own IKE identity; the certificate must carry it.
    pub local_id: String,
    /// The peer's IKE identity; its certificate must carry it.
    pub remote_id: String,
    /// How they are proven.
    pub auth: Auth,
    /// What is carried, and by which interface; the first is the tunnel that the connection is named
    /// after.
    pub children: Vec<Child>,
    /// Whether this side starts.
    pub initiate: bool,
    /// Of the IKE_SA.
    pub ike: IkeOptions,
    /// Of the child.
    pub esp: EspOptions,
}

impl Definition {
    /// Its far end is no gateway of the mesh.
    pub fn is_foreign(&self) -> bool {
        matches!(self.auth, Auth::Psk(_))
    }

    /// This side shows that certificate, or none.
    pub fn is_of(&self, certificate: &str) -> bool {
        match &self.auth {
            Auth::Certificate { own_pem, .. } => own_pem == certificate,
            Auth::Psk(_) => true,
        }
    }

    /// Hexadecimal digits that are the same as long as charon would be told the same, pre-shared
    /// keys aside. The first child is named by them, so that what is loaded can be told from what
    /// should be. The first 16 say all but whom the peer's certificate may come from; then there are 8 for each
    /// of these ([`is_current`]), and the last is a letter where there is a NAT.
    pub fn digest(&self) -> String {
        let mut terms = Fnv::new();
        let (local, remote) = self.sides();
        let (of_remote, trusted): (Vec<_>, Vec<_>) =
            remote.iter().partition(|(name, _)| *name != TRUSTED);
        terms.message(&self.section("", &self.local_addrs, local, Message::new()));
        terms.values(of_remote);
        let authority = |pem: &String| {
            let mut authority = Fnv::new();
            authority.bytes(pem.as_bytes());
            // The lower half is enough to tell a few from each other.
            format!("{:08x}", authority.0 & 0xffff_ffff)
        };
        let lists = trusted.into_iter().map(|(_, value)| value);
        let authorities: BTreeSet<String> = lists
            .flat_map(|value| match value {
                Value::List(pems) => pems.iter().map(authority).collect(),
                _ => Vec::new(),
            })
            .collect();
        let nat = if self.nat { NAT } else { "" };
        let authorities = Vec::from_iter(authorities).concat();
        format!("{:016x}{authorities}{nat}", terms.0)
    }

    /// The arguments of `load-conn`.
    pub fn to_vici(&self, name: &str) -> Message {
        let (local, remote) = self.sides();
        let from = self.from();
        Message::new().section(name, self.section(&self.digest(), &from, local, remote))
    }

    /// Own addresses as charon is told them. It sends from the first that is no range, and else from where the
    /// routes say.
    fn from(&self) -> Vec<String> {
        let any = |address: &String| match address.contains(':') {
            true => "::/0".to_owned(),
            false => "0.0.0.0/0".to_owned(),
        };
        match self.nat {
            true => self.local_addrs.iter().map(any).collect(),
            false => self.local_addrs.clone(),
        }
    }

    /// The children by name. Those after the first tell their interfaces by theirs, as charon lists
    /// nothing else of what is loaded.
    pub fn named_children<'a>(
        &'a self,
        digest: &'a str,
    ) -> impl Iterator<Item = (String, &'a Child)> {
        let children = self.children.iter().enumerate();
        children.map(move |(at, child)| match at {
            0 => (digest.to_owned(), child),
            _ => {
                let number = child.bind.number().wrapping_sub(ours::IF_ID);
                (format!("{digest}{CHILD_SEPARATOR}{number}"), child)
            }
        })
    }

    /// How this side and the peer prove who they are.
    fn sides(&self) -> (Message, Message) {
        let side = |id: &str, certificates: &str, pem: fn(&Auth) -> &[String]| {
            let kind = match &self.auth {
                Auth::Certificate { .. } => "pubkey",
                Auth::Psk(_) => "psk",
            };
            let side = Message::new().text("auth", kind).text("id", id);
            side.list(certificates, pem(&self.auth))
        };
        let local = side(&self.local_id, "certs", |auth| match auth {
            Auth::Certificate { own_pem, .. } => std::slice::from_ref(own_pem),
            Auth::Psk(_) => &[],
        });
        let remote = side(&self.remote_id, TRUSTED, |auth| match auth {
            Auth::Certificate { ca_pems, .. } => ca_pems,
            Auth::Psk(_) => &[],
        });
        (local, remote)
    }

    /// The connection's own section.
    fn section(&self, digest: &str, from: &[String], local: Message, remote: Message) -> Message {
        let ike = &self.ike;
        let rekey = self.lifetime(ike.rekey_time);
        let reauth = ike.reauth_time.filter(|_| self.initiate);
        let mut connection = Message::new()
            .text("version", "2")
            .list("local_addrs", from)
            .list("remote_addrs", &self.remote_addrs)
            .list("proposals", &ike.proposals)
            .text("mobike", if ike.mobike { "yes" } else { "no" })
            .text("unique", "never")
            .text("keyingtries", "0")
            .text("dpd_delay", seconds(ike.dpd_delay))
            .text("rekey_time", seconds(rekey));
        if let Some(reauth) = reauth {
            connection = connection.text("reauth_time", seconds(reauth));
        }
        let longer = reauth.map_or(rekey, |reauth| reauth.max(rekey));
        let shorter = reauth.map_or(rekey, |reauth| reauth.min(rekey));
        let over = ike.over_time.unwrap_or(margin(longer));
        if over != rekey / 10 {
            connection = connection
                .text("over_time", seconds(over))
                // charon takes it from both times, and does not see that one is shorter than that.
                .text("rand_time", seconds(shorter / 10));
        }
        let children = self
            .named_children(digest)
            .fold(Message::new(), |children, (name, child)| {
                children.section(&name, self.child(child))
            });
        connection
            // Each side knows which certificate to send, whatever CAs the other knows.
            .text("send_certreq", "no")
            .text("send_cert", "always")
            .section("local", local)
            .section("remote", remote)
            .section("children", children)
    }

    /// The side that responds rekeys only if the other did not.
    fn lifetime(&self, time: Duration) -> Duration {
        match self.initiate {
            true => time,
            false => time + time / 4,
        }
    }

    /// A child's section.
    fn child(&self, of: &Child) -> Message {
        let esp = &self.esp;
        let rekey = self.lifetime(esp.rekey_time);
        let mut child = Message::new()
            .text("mode", if esp.iptfs { "iptfs" } else { "tunnel" })
            .list("local_ts", &of.local)
            .list("remote_ts", &of.remote)
            .list("esp_proposals", &esp.proposals)
            .text("start_action", "none")
            .text("close_action", "none")
            .text(
                "dpd_action",
                if self.initiate { "restart" } else { "clear" },
            )
            .text("rekey_time", seconds(rekey))
            .text("rekey_packets", REKEY_PACKETS.to_string())
            .text("replay_window", esp.replay_window.to_string());
        let over = esp.over_time.unwrap_or(margin(rekey));
        if over != rekey / 10 {
            child = child
                .text("life_time", seconds(rekey + over))
                .text("rand_time", seconds(rekey / 10));
        }
        let offload = match esp.hw_offload {
            Offload::No => None,
            // strongSwan before 5.9.10 has no other word for it, and later ones have this one as well.
            Offload::Crypto => Some("yes"),
            Offload::Packet => Some("packet"),
            Offload::Auto => Some("auto"),
        };
        if let Some(offload) = offload {
            child = child.text("hw_offload", offload);
        }
        if esp.policies_fwd_out {
            child = child.text("policies_fwd_out", "yes");
        }
        match of.bind {
            Bind::IfId(id) => child
                .text("if_id_in", format!("{id:#010x}"))
                .text("if_id_out", format!("{id:#010x}")),
            Bind::Mark(key) => child
                .text("mark_in", format!("{key:#010x}/0xffffffff"))
                .text("mark_out", format!("{key:#010x}/0xffffffff")),
        }
    }
}

/// How long an SA lives on that could not be replaced in time: a tenth, and no less than what a
/// request that is lost a few times needs. charon's own is the tenth, which is also what chance
/// takes off, unless it is told.
fn margin(lifetime: Duration) -> Duration {
    (lifetime / 10).max(Duration::from_secs(30))
}

/// As charon reads a time: whole seconds, and 0 would turn it off.
fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs().max(1))
}

/// The 64-bit FNV-1a hash.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A kind and a text with its length, so that no two messages give the same bytes.
    fn text(&mut self, kind: u8, text: &str) {
        self.bytes(&[kind]);
        self.bytes(&(text.len() as u64).to_be_bytes());
        self.bytes(text.as_bytes());
    }

    fn message(&mut self, message: &Message) {
        self.values(message.iter());
    }

    fn values<'m>(&mut self, values: impl IntoIterator<Item = (&'m str, &'m Value)>) {
        for (name, value) in values {
            self.text(b'n', name);
            match value {
                Value::Text(text) => self.text(b't', text),
                Value::List(items) => {
                    items.iter().for_each(|item| self.text(b'i', item));
                    self.bytes(b"l");
                }
                Value::Section(section) => self.message(section),
            }
        }
        self.bytes(b"s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            site: "two".into(),
            local_addrs: vec!["2001:db8:1::1".into()],
            nat: false,
            remote_addrs: vec!["2001:db8:2::1".into()],
            local_id: "V1-1".into(),
            remote_id: "V2-1".into(),
            auth: Auth::Certificate {
                own_pem: "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n".into(),
                ca_pems: vec![
                    "-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n".into(),
                ],
            },
            children: vec![Child::of_all("rm3-V2-1".into(), Bind::IfId(0x5200_0003))],
            initiate: true,
            ike: IkeOptions {
                dpd_delay: Duration::from_secs(5),
                ..IkeOptions::default()
            },
            esp: EspOptions {
                proposals: vec!["aes256gcm16-ecp384".into(), "aes256gcm16".into()],
                ..EspOptions::default()
            },
        }
    }

    fn certificates(own: &str, ca: &str) -> Auth {
        Auth::Certificate {
            own_pem: own.into(),
            ca_pems: vec![ca.into()],
        }
    }

    /// A message as swanctl.conf would have it.
    fn show(message: &Message, indent: usize) -> String {
        let mut out = String::new();
        let margin = " ".repeat(indent * 2);
        for (name, value) in message.iter() {
            match value {
                Value::Text(text) => out += &format!("{margin}{name} = {text}\n"),
                Value::List(items) => {
                    out += &format!(
                        "{margin}{name} = [{}]\n",
                        items.join(", ").replace('\n', "|")
                    );
                }
                Value::Section(section) => {
                    out += &format!(
                        "{margin}{name} {{\n{}{margin}}}\n",
                        show(section, indent + 1)
                    );
                }
            }
        }
        out
    }

    const INITIATOR: &str = "\
rm3-V2-1 {
  version = 2
  local_addrs = [2001:db8:1::1]
  remote_addrs = [2001:db8:2::1]
  proposals = [aes256gcm16-prfsha384-ecp384]
  mobike = no
  unique = never
  keyingtries = 0
  dpd_delay = 5s
  rekey_time = 14400s
  send_certreq = no
  send_cert = always
  local {
    auth = pubkey
    id = V1-1
    certs = [-----BEGIN CERTIFICATE-----|ours|-----END CERTIFICATE-----|]
  }
  remote {
    auth = pubkey
    id = V2-1
    cacerts = [-----BEGIN CERTIFICATE-----|ca|-----END CERTIFICATE-----|]
  }
  children {
    DIGEST {
      mode = tunnel
      local_ts = [0.0.0.0/0, ::/0]
      remote_ts = [0.0.0.0/0, ::/0]
      esp_proposals = [aes256gcm16-ecp384, aes256gcm16]
      start_action = none
      close_action = none
      dpd_action = restart
      rekey_time = 3600s
      rekey_packets = 2000000000
      replay_window = 512
      if_id_in = 0x52000003
      if_id_out = 0x52000003
    }
  }
}
";

    #[test]
    fn the_initiator_of_an_xfrm_tunnel_loads_this() {
        let definition = definition();
        let expected = INITIATOR.replace("DIGEST", &definition.digest());
        assert_eq!(show(&definition.to_vici("rm3-V2-1"), 0), expected);
    }

    #[test]
    fn the_responder_of_a_vti_tunnel_loads_that() {
        let definition = Definition {
            initiate: false,
            children: vec![Child::of_all("rm3-V2-1".into(), Bind::Mark(0x5200_0003))],
            ..definition()
        };
        let expected = INITIATOR
            .replace("DIGEST", &definition.digest())
            .replace("dpd_action = restart", "dpd_action = clear")
            .replace("14400s", "18000s")
            .replace("3600s", "4500s")
            .replace("if_id_in = 0x52000003", "mark_in = 0x52000003/0xffffffff")
            .replace("if_id_out = 0x52000003", "mark_out = 0x52000003/0xffffffff");
        assert_eq!(show(&definition.to_vici("rm3-V2-1"), 0), expected);
    }

    #[test]
    fn a_foreign_peers_connection_has_a_child_per_interface_and_shows_no_key() {
        let child = |number: u32, local: &str, remote: &str| Child {
            way: format!("rm{number}-oracle"),
            reached: Some(BTreeSet::new()),
            bind: Bind::IfId(ours::IF_ID + number),
            local: vec![local.into()],
            remote: vec![remote.into()],
        };
        let definition = Definition {
            auth: Auth::Psk("a secret of both".into()),
            children: vec![
                child(3, "10.0.1.0/24", "10.9.0.0/16"),
                child(5, "2001:db8:a1::/64", "2001:db8:9::/48"),
            ],
            ..definition()
        };
        let digest = definition.digest();
        let shown = show(&definition.to_vici("rm3-oracle"), 0);
        for line in [
            "    auth = psk\n    id = V2-1\n  }\n".to_owned(),
            format!("    {digest} {{\n"),
            format!("    {digest}.5 {{\n"),
            "      local_ts = [2001:db8:a1::/64]\n      remote_ts = [2001:db8:9::/48]\n".to_owned(),
            "      if_id_in = 0x52000005\n".to_owned(),
        ] {
            assert!(shown.contains(&line), "{line} in {shown}");
        }
        let debug = format!("{shown} {definition:?}");
        assert!(!debug.contains("a secret"), "{debug}");
        assert_eq!(definition.children[1].bind.link(), "rm5");
    }

    /// What a definition says of times, without the other lines.
    fn times(definition: &Definition) -> String {
        let shown = show(&definition.to_vici("x"), 0);
        let lines = shown.lines().map(str::trim);
        let times = lines.filter(|line| line.contains("_time ="));
        times.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_responder_waits_longer_and_nobody_gives_up_before_an_answer_can_come() {
        let mut definition = definition();
        assert_eq!(
            times(&definition),
            "rekey_time = 14400s, rekey_time = 3600s"
        );
        definition.ike.rekey_time = Duration::from_secs(100);
        definition.esp.rekey_time = Duration::from_secs(60);
        assert_eq!(
            times(&definition),
            "rekey_time = 100s, over_time = 30s, rand_time = 10s, \
             rekey_time = 60s, life_time = 90s, rand_time = 6s"
        );
        definition.ike.reauth_time = Some(Duration::from_secs(1000));
        definition.esp.over_time = Some(Duration::from_secs(3600));
        assert_eq!(
            times(&definition),
            "rekey_time = 100s, reauth_time = 1000s, over_time = 100s, rand_time = 10s, \
             rekey_time = 60s, life_time = 3660s, rand_time = 6s"
        );
        definition.initiate = false;
        definition.ike.over_time = Some(Duration::from_secs(3600));
        assert_eq!(
            times(&definition),
            "rekey_time = 125s, over_time = 3600s, rand_time = 12s, \
             rekey_time = 75s, life_time = 3675s, rand_time = 7s"
        );
    }

    /// If this fails, every tunnel is keyed anew at the upgrade: fine if meant, and only then.
    #[test]
    fn the_digest_is_the_same_from_release_to_release() {
        assert_eq!(definition().digest(), "8e779b193732ea7c779d1ed9");
    }

    #[test]
    fn who_is_trusted_besides_keys_nothing_anew_and_who_is_not_any_more_does() {
        let of = |own: &str, authorities: &[&str]| {
            let definition = Definition {
                auth: Auth::Certificate {
                    own_pem: own.into(),
                    ca_pems: authorities.iter().map(|it| (*it).to_owned()).collect(),
                },
                ..definition()
            };
            definition.digest()
        };
        let (old, both, new) = (
            of("ours", &["old"]),
            of("ours", &["new", "old"]),
            of("ours", &["new"]),
        );
        assert_ne!(old, both);
        assert!(is_current(&old, &both));
        assert!(!is_current(&both, &new));
        assert!(!is_current(&old, &new));
        assert_eq!(both, of("ours", &["old", "new"]), "in whatever order");
        assert!(!is_current(&old, &of("renewed", &["old"])));
        // A further interface of a connection, and what is no name of ours.
        assert!(is_current(&format!("{old}.5"), &both));
        assert!(!is_current("x", &both));
        assert!(is_current("x", "x"));
    }

    #[test]
    fn behind_nat_charon_takes_any_address_and_keys_nothing_anew() {
        let mut definition = definition();
        let before = definition.digest();
        definition.nat = true;
        let text = show(&definition.to_vici("rm3-V2-1"), 0);
        assert!(text.contains("  local_addrs = [::/0]\n"), "{text}");
        definition.local_addrs = vec!["203.0.113.5".into()];
        let text = show(&definition.to_vici("rm3-V2-1"), 0);
        assert!(text.contains("  local_addrs = [0.0.0.0/0]\n"), "{text}");
        definition.local_addrs = vec!["2001:db8:1::1".into()];
        let after = definition.digest();
        assert_ne!(before, after, "it is loaded anew");
        assert!(is_current(&before, &after) && is_current(&after, &before));
        assert!(is_current(&format!("{after}.5"), &before));
        definition.local_addrs = vec!["2001:db8:1::2".into()];
        assert!(!is_current(&after, &definition.digest()));
    }

    #[test]
    fn the_digest_depends_on_everything() {
        let changes: [fn(&mut Definition); 27] = [
            |d| d.local_addrs.clear(),
            |d| d.nat = true,
            |d| d.remote_addrs = vec!["v2.example.org".into()],
            |d| d.local_id.push('x'),
            |d| d.remote_id.push('x'),
            |d| d.auth = certificates("x", "ca"),
            |d| d.auth = certificates("ours", "x"),
            |d| d.auth = Auth::Psk(Secret::default()),
            |d| d.children[0].bind = Bind::Mark(0x5200_0003),
            |d| d.children[0].local = vec!["10.0.0.0/8".into()],
            |d| d.children.push(d.children[0].clone()),
            |d| d.initiate = false,
            |d| d.ike.proposals.push("aes128-sha256-modp3072".into()),
            |d| d.ike.rekey_time *= 2,
            |d| d.ike.reauth_time = Some(Duration::from_secs(86_400)),
            |d| d.ike.over_time = Some(Duration::from_secs(60)),
            |d| d.ike.dpd_delay += Duration::from_secs(1),
            |d| d.ike.mobike = true,
            |d| d.esp.proposals.swap(0, 1),
            |d| d.esp.rekey_time *= 2,
            |d| d.esp.over_time = Some(Duration::from_secs(60)),
            |d| d.esp.replay_window = 1024,
            |d| d.esp.hw_offload = Offload::Crypto,
            |d| d.esp.hw_offload = Offload::Packet,
            |d| d.esp.hw_offload = Offload::Auto,
            |d| d.esp.policies_fwd_out = true,
            |d| d.esp.iptfs = true,
        ];
        let mut digests = vec![definition().digest()];
        for change in changes {
            let mut changed = definition();
            change(&mut changed);
            digests.push(changed.digest());
        }
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
