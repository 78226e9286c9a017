//! The keys themselves, a line each: name, what it takes, what holds without it, what it is for, an example.

use super::{Key, Section};

const fn key(
    name: &'static str,
    takes: &'static str,
    without: &'static str,
    says: &'static str,
    example: &'static str,
) -> Key {
    Key { name, takes, without, says, example }
}

/// The whole text.
pub(in crate::spec) const ROOT: &[Key] = &[
    key("mesh", "`[mesh]`", "", "what holds for all", "{ as = 65000, interconnect = \"fd00:ff::/64\" }"),
    key("sites", "`[sites.NAME]`", "", "who takes part, and what each owns", "{}"),
    key("tunnels", "`[[tunnels]]`", "none", "what is other between two gateways", "[]"),
    key("foreign", "`[foreign.NAME]`", "none", "networks behind gateways that are not ours", "{}"),
];

const IKE_TABLE: Key = key("ike", "`ike` below", "what [options.md](options.md) has", "how IKE_SAs are made and kept", "{ dpd_delay = \"5s\" }");
const ESP_TABLE: Key = key("esp", "`esp` below", "what [options.md](options.md) has", "how CHILD_SAs are made and kept", "{ rekey_time = \"2h\" }");
const IMPORT: Key = key("import", "terms, 63 at most", "everything that the mesh allows", "what is taken: [policy.md](policy.md)", "[{ action = \"accept\" }]");
const EXPORT: Key = key("export", "terms, 63 at most", "everything that the mesh allows", "what is told: [policy.md](policy.md)", "[{ action = \"accept\" }]");
const PREFERENCE: Key = key("preference", "1 to 65535", "100", "ways of a higher one are used alone: [multipath.md](multipath.md)", "50");
const WEIGHT: Key = key("weight", "1 to 256", "equal shares", "its share of the traffic beside ways of the same preference", "3");
const HEALTH: Key = key("health", "`true`, `false`, or `health` below", "`false`", "echo requests through tunnels, without whose answers they are dead", "true");

/// `[mesh]`.
pub(in crate::spec) const MESH: &[Key] = &[
    key("as", "1 to 4294967294", "", "AS of sites that name none", "65000"),
    key("interconnect", "an IPv6 prefix", "", "where tunnels take their addresses from, two each; nobody else may have them", "\"fd00:ff::/64\""),
    key("tunnel", "`\"xfrm\"`, `\"vti\"`, `\"wireguard\"`", "`\"xfrm\"`", "the kind of interface: [wireguard.md](wireguard.md) for the last", "\"vti\""),
    IKE_TABLE,
    ESP_TABLE,
    key("hold_time", "3 to 65535", "9", "BGP hold time in seconds (RFC 4271)", "30"),
    key("bfd", "`true`, `false`, or `bfd` below", "300 ms x 3", "BFD over every tunnel (RFC 5880)", "false"),
    key("hash", "`\"l3\"`, `\"l4\"`, `\"inner\"`", "`\"l4\"`", "by what flows are told apart: addresses, ports too, or of the packet within", "\"l3\""),
    key("groups", "`\"plain\"`, `\"resilient\"`", "`\"plain\"`", "whether flows stay where they are when other ways come or go", "\"resilient\""),
    key("table", "1 to 4294967295, but 253 and 255", "the main one", "the routing table of the mesh's routes: [overlay.md](overlay.md)", "100"),
    key("metric", "1 to 4294967294", "50", "metric of routes that carry traffic", "20"),
    key("firewall", "`\"enforce\"`, `\"observe\"`, `\"off\"`", "`\"enforce\"`", "what becomes of packets that the mesh does not allow: [firewall.md](firewall.md)", "\"observe\""),
    key("services", "64 of `\"tcp/22\"`, `\"udp/5000-5010\"`", "none", "what other sites may use of the gateways themselves", "[\"tcp/22\"]"),
];

/// `[sites.NAME]`.
pub(in crate::spec) const SITE: &[Key] = &[
    key("prefixes", "1 to 4096 prefixes", "", "all that the site may announce", "[\"10.0.1.0/24\"]"),
    key("as", "1 to 4294967294", "that of `[mesh]`", "its AS", "65001"),
    key("gateways", "`[sites.NAME.gateways.NAME]`", "", "its VPN hosts", "{ g-1 = { endpoints = [\"192.0.2.1\"] } }"),
    IKE_TABLE,
    ESP_TABLE,
];

/// `[sites.NAME.gateways.NAME]`.
pub(in crate::spec) const GATEWAY: &[Key] = &[
    key("endpoints", "1 to 16 addresses, or `{ host, family }`", "", "its outer addresses: a tunnel for each pair of one family", "[\"192.0.2.1\", \"2001:db8::1\"]"),
    key("overlay", "a network namespace's name, or `\"vrf:NAME\"`", "the agent's own namespace", "where the private side is: [overlay.md](overlay.md)", "\"private\""),
    key("routers", "64 routers", "none", "BGP peers on its LAN", "[{ address = \"10.0.1.254\", as = 65010 }]"),
    key("announce", "32 route protocols, by name or number", "`[\"kernel\"]` where there are no `routers`, else none", "which routes of the kernel it announces, as far as its site owns them", "[\"kernel\", \"bird\"]"),
    key("hash", "as of `[mesh]`", "as of `[mesh]`", "", "\"l3\""),
    key("groups", "as of `[mesh]`", "as of `[mesh]`", "", "\"plain\""),
    key("table", "as of `[mesh]`", "as of `[mesh]`", "", "100"),
    key("metric", "as of `[mesh]`", "as of `[mesh]`", "", "20"),
    PREFERENCE,
    WEIGHT,
    key("firewall", "as of `[mesh]`", "as of `[mesh]`", "", "\"off\""),
    key("services", "as of `[mesh]`", "as of `[mesh]`", "", "[]"),
    key("ipsec_from", "256 prefixes", "none", "whence IKE, ESP and WireGuard are taken besides the tunnels' far endpoints", "[\"203.0.113.0/24\"]"),
];

/// An endpoint that has no fixed address, or is another address on the host.
pub(in crate::spec) const ENDPOINT: &[Key] = &[
    key("address", "an address", "", "where others reach it; or the next two", "\"2001:db8:1::5\""),
    key("host", "a DNS name", "", "is looked up by charon", "\"vpn.example.net\""),
    key("family", "`\"ipv4\"`, `\"ipv6\"`", "", "of the address that `host` stands for", "\"ipv6\""),
    key("local", "an address of the same family", "the endpoint, or any of the host's where it has none", "the host's own address behind one-to-one NAT: needed where several endpoints of a family are behind it, for a host name, and for VTI", "\"2001:db8::5\""),
];

/// An entry of `routers`.
pub(in crate::spec) const ROUTER: &[Key] = &[
    key("address", "an address, a link-local one with `%INTERFACE`", "", "the router; or one of the next two", "\"10.0.1.254\""),
    key("interface", "an interface", "", "whichever routers are on it (BGP unnumbered)", "\"lan0\""),
    key("range", "a prefix", "", "up to 64 routers that connect from there", "\"10.0.1.0/24\""),
    key("as", "1 to 4294967294", "", "its AS; the gateway's own makes it a route reflection client", "65010"),
    key("password", "1 to 80 bytes", "none", "TCP MD5 (RFC 2385)", "\"a secret\""),
    key("ttl_security", "1 to 254", "any distance", "hops away at most (GTSM, RFC 5082)", "1"),
    key("role", "`\"provider\"`, `\"customer\"`, `\"peer\"`, `\"rs\"`, `\"rs-client\"`", "none", "the gateway's role (RFC 9234)", "\"customer\""),
    key("max_prefixes", "1 to 4294967295", "100000", "more end the session", "1000"),
    key("add_path", "`true`, `false`", "`false`", "several paths per prefix, both ways (RFC 7911)", "true"),
    key("long_lived", "1 to 16777215", "not at all", "seconds as a last resort when it does not return (RFC 9494)", "3600"),
    key("bfd", "as of `[mesh]`", "none", "BFD with it; not with `range`", "true"),
    IMPORT,
    EXPORT,
];

/// An entry of `import` or `export`.
pub(in crate::spec) const TERM: &[Key] = &[
    key("prefixes", "`\"10.0.0.0/8 ge 16 le 24\"`", "any", "one of these", "[\"10.0.0.0/8 le 24\"]"),
    key("family", "`\"ipv4\"`, `\"ipv6\"`", "any", "", "\"ipv4\""),
    key("communities", "`\"65000:100\"`, `\"65000:1:2\"`, names", "any", "has one of these", "[\"65000:100\"]"),
    key("origin_as", "AS numbers", "any", "the last AS of the path is one of these", "[65010]"),
    key("through_as", "AS numbers", "any", "one of these is in the path", "[65010]"),
    key("neighbour_as", "AS numbers", "any", "the first AS of the path is one of these", "[65010]"),
    key("longest_path", "0 to 4294967295", "any", "ASes of the path at most", "3"),
    key("set_preference", "0 to 4294967295", "as it is", "LOCAL_PREF", "200"),
    key("set_med", "0 to 4294967295", "as it is", "MED", "10"),
    key("add_med", "0 to 4294967295", "as it is", "to the MED", "10"),
    key("set_communities", "as `communities`", "as they are", "instead of all", "[]"),
    key("remove_communities", "as `communities`", "none", "", "[\"65000:100\"]"),
    key("add_communities", "as `communities`", "none", "", "[\"65000:100\"]"),
    key("set_weight", "1 to 256", "as it is", "its share of traffic; in `import` only", "2"),
    key("prepend", "1 to 16", "none", "our AS so many times more", "2"),
    key("action", "`\"accept\"`, `\"reject\"`, `\"next\"`", "", "what becomes of the path", "\"accept\""),
    key("reason", "1 to 128 bytes", "none", "for people, of a term that rejects", "\"not ours\""),
];

/// An entry of `[[tunnels]]`.
pub(in crate::spec) const TUNNELS: &[Key] = &[
    key("between", "two gateways", "", "whose tunnels these are", "[\"g-1\", \"h-1\"]"),
    key("tunnel", "as of `[mesh]`", "as of `[mesh]`", "", "\"vti\""),
    IKE_TABLE,
    ESP_TABLE,
];

/// `ike`.
pub(in crate::spec) const IKE: &[Key] = &[
    key("proposals", "strongSwan's words", "`aes256gcm16-prfsha384-ecp384`", "best first", "[\"aes128-sha256-x25519\"]"),
    key("rekey_time", "`\"1m\"` to `\"30d\"`", "`\"4h\"`", "until new keys", "\"8h\""),
    key("reauth_time", "`\"5m\"` to `\"366d\"`", "never", "until it is made anew", "\"1d\""),
    key("over_time", "`\"30s\"` to `\"1d\"`", "a tenth of these", "until it is closed if that did not succeed", "\"5m\""),
    key("dpd_delay", "`\"1s\"` to `\"10m\"`", "`\"10s\"`", "silence after which a sign of life is asked for", "\"5s\""),
    key("mobike", "`true`, `false`", "`false`", "SAs follow an address that changes (RFC 4555)", "true"),
];

/// `esp`.
pub(in crate::spec) const ESP: &[Key] = &[
    key("proposals", "strongSwan's words", "`aes256gcm16-ecp384`", "best first", "[\"aes128gcm16-x25519\"]"),
    key("rekey_time", "as of `ike`", "`\"1h\"`", "until new keys", "\"2h\""),
    key("over_time", "as of `ike`", "a tenth of it", "as of `ike`", "\"5m\""),
    key("replay_window", "32 to 4096", "512", "packets that may overtake each other", "1024"),
    key("hw_offload", "`\"no\"`, `\"crypto\"`, `\"packet\"`, `\"auto\"`", "`\"no\"`", "what the network interface does", "\"auto\""),
    key("policies_fwd_out", "`true`, `false`", "`false`", "policies for what is forwarded outwards", "true"),
    key("mode", "`\"tunnel\"`, `\"iptfs\"`", "`\"tunnel\"`", "the latter is RFC 9347", "\"iptfs\""),
    key("per_cpu_sas", "nothing", "none", "is refused, with the reason", ""),
];

/// `bfd`.
pub(in crate::spec) const BFD: &[Key] = &[
    key("interval", "`\"50ms\"` to `\"10s\"`", "`\"300ms\"`", "between packets; the slower end decides", "\"100ms\""),
    key("multiplier", "1 to 20", "3", "so many in a row, and the far end is dead", "5"),
];

/// `health`.
pub(in crate::spec) const HEALTH_TABLE: &[Key] = &[
    key("ping", "an address, or 16", "the far end's within", "who is asked: the first that the CHILD_SA carries", "\"10.9.0.1\""),
    key("source", "an address of the gateway", "ours within, where the far end's within is asked", "from where", "\"10.0.1.1\""),
    key("interval", "`\"100ms\"` to `\"1m\"`", "`\"1s\"`", "between requests", "\"500ms\""),
    key("lost", "1 to 20", "3", "so many in a row, and the tunnel is dead", "5"),
];

/// `[foreign.NAME]`.
pub(in crate::spec) const FOREIGN: &[Key] = &[
    key("provider", "`\"aws\"`, `\"azure\"`, `\"gcp\"`, `\"oci\"`", "nobody's", "fills in what that cloud documents", "\"oci\""),
    key("prefixes", "1 to 4096 prefixes", "", "what is behind it", "[\"10.9.0.0/16\"]"),
    key("as", "1 to 4294967294", "static prefixes", "its AS, where it speaks BGP", "64512"),
    key("hold_time", "as of `[mesh]`", "the provider's, or the mesh's", "BGP hold time in seconds", "30"),
    key("max_prefixes", "1 to 4294967295", "100000", "more end the session", "1000"),
    key("sites", "names of sites", "all", "who may reach it, and be reached from there", "[\"one\"]"),
    IKE_TABLE,
    ESP_TABLE,
    key("bfd", "as of `[mesh]`", "none", "BFD between the addresses within", "true"),
    HEALTH,
    IMPORT,
    EXPORT,
    key("tunnels", "1 to 64 tunnels", "", "`[[foreign.NAME.tunnels]]`", "[]"),
];

/// `[[foreign.NAME.tunnels]]`.
pub(in crate::spec) const FOREIGN_TUNNEL: &[Key] = &[
    key("gateway", "a gateway", "", "which of ours holds it", "\"g-1\""),
    key("local", "an endpoint", "the only one of that family", "which of its endpoints", "\"192.0.2.1\""),
    key("remote", "an address, or `{ host, family }`", "", "the far gateway", "\"198.51.100.1\""),
    key("psk", "8 to 256 bytes", "", "the pre-shared key; or the next one", "\"a long random text\""),
    key("psk_file", "a file's name", "`psk`", "`meshctl` puts what it holds in its place", ""),
    key("local_id", "an IKE identity", "the address", "ours", "\"192.0.2.1\""),
    key("remote_id", "an IKE identity", "the address", "theirs", "\"198.51.100.1\""),
    key("selectors", "1 to 64 of `{ local, remote }`", "one that carries everything", "its CHILD_SAs", "[{ local = [\"10.0.1.0/24\"], remote = [\"10.9.0.0/16\"] }]"),
    key("inside", "an address and a length that holds two hosts", "none", "ours; the other one is theirs", "\"169.254.10.2/30\""),
    HEALTH,
    IMPORT,
    EXPORT,
    IKE_TABLE,
    ESP_TABLE,
    PREFERENCE,
    WEIGHT,
];

/// An entry of `selectors`.
pub(in crate::spec) const SELECTORS: &[Key] = &[
    key("local", "prefixes", "", "of this side", "[\"10.0.1.0/24\"]"),
    key("remote", "prefixes", "", "of the far side", "[\"10.9.0.0/16\"]"),
];

/// All of them, from the outside inwards.
pub const SECTIONS: [Section; 15] = [
    Section { head: "The file", says: "TOML, with these tables.", keys: ROOT },
    Section { head: "`[mesh]`", says: "What holds for all.", keys: MESH },
    Section { head: "`[sites.NAME]`", says: "A site, and what it owns.", keys: SITE },
    Section { head: "`[sites.NAME.gateways.NAME]`", says: "A VPN host.", keys: GATEWAY },
    Section { head: "`endpoints`", says: "An address, or, where that changes or the host itself has another:", keys: ENDPOINT },
    Section { head: "`routers`", says: "A router on the LAN, by one of `address`, `interface` and `range`.", keys: ROUTER },
    Section { head: "`import`, `export`", says: "Ordered terms: what is matched, what is changed, what becomes of it. [policy.md](policy.md) explains them.", keys: TERM },
    Section { head: "`[[tunnels]]`", says: "What is other for the tunnels between two gateways.", keys: TUNNELS },
    Section { head: "`ike`", says: "Of the mesh, a site, tunnels, a foreign peer, or a tunnel to one; the narrower counts. [options.md](options.md) explains them.", keys: IKE },
    Section { head: "`esp`", says: "As `ike`.", keys: ESP },
    Section { head: "`bfd`", says: "Timers.", keys: BFD },
    Section { head: "`health`", says: "Pings through tunnels to a foreign peer.", keys: HEALTH_TABLE },
    Section { head: "`[foreign.NAME]`", says: "A network behind gateways that are not ours: [foreign.md](foreign.md).", keys: FOREIGN },
    Section { head: "`[[foreign.NAME.tunnels]]`", says: "A tunnel to one.", keys: FOREIGN_TUNNEL },
    Section { head: "`selectors`", says: "A CHILD_SA.", keys: SELECTORS },
];
