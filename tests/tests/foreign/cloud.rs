//! The cloud's side, with nothing of ours: two VPN endpoints that run plain strongSwan with policies
//! and no interfaces, and a router behind them that sends by whichever tunnels are up.

use routemesh_tests::lab::charon::Charon;
use routemesh_tests::lab::error::Result;
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::spaces::Spaces;
use routemesh_tests::lab::vici::Word;

/// A machine in the cloud.
pub const MACHINE: [&str; 2] = ["10.20.0.10", "2001:db8:c10d::10"];
/// The networks, as both sides' selectors have them: the customer's and the cloud's.
pub const SELECTORS: [[&str; 2]; 2] = [
    ["192.168.0.0/16", "10.20.0.0/16"],
    ["2001:db8:f00f::/48", "2001:db8:c10d::/56"],
];
/// What whoever takes the tunnels for policies has there instead.
pub const PLAIN: [&str; 2] = ["172.31.0.0/16", "10.20.0.0/16"];

/// A VPN endpoint.
pub struct Endpoint {
    pub host: Host,
    pub charon: Charon,
    /// What it shares with its customer.
    pub key: String,
    number: usize,
}

pub struct Cloud {
    pub endpoints: Vec<Endpoint>,
    pub router: Host,
}

impl Cloud {
    /// Everything but the connections.
    pub fn start(spaces: &Spaces, internet: &Host) -> Result<Self> {
        let router = spaces.host("drg")?;
        router.sysctl(&[
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/ip_forward", "1"),
        ])?;
        let [v4, v6] = MACHINE;
        router.ip_batch(&[
            "link add vcn up type dummy".to_owned(),
            format!("address add {v4}/16 dev vcn"),
            format!("address add {v6}/56 dev vcn"),
        ])?;
        let mut endpoints = Vec::new();
        for number in [1, 2] {
            let name = format!("cloud{number}");
            let host = spaces.host(&name)?;
            super::plug(internet, &host, &name, &format!("{}/24", outer(number)))?;
            host.sysctl(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
            ])?;
            router.ip_batch(&[format!(
                "link add e{number} type veth peer name lan netns {}",
                host.name()
            )])?;
            router.ip_batch(&[
                format!("link set e{number} up"),
                format!("address add 100.64.{number}.1/30 dev e{number}"),
                format!("address add fd00:64:{number}::1/64 dev e{number}"),
            ])?;
            let mut lines = vec![
                "link set lan up".to_owned(),
                format!("address add 100.64.{number}.2/30 dev lan"),
                format!("address add fd00:64:{number}::2/64 dev lan"),
                format!("route add 10.20.0.0/16 via 100.64.{number}.1"),
                format!("route add 2001:db8:c10d::/56 via fd00:64:{number}::1"),
            ];
            // Where packets go is for the policies to say, once there is a route at all.
            let [[customer4, _], [customer6, _]] = SELECTORS;
            for customer in [customer4, customer6, PLAIN[0]] {
                lines.push(format!("route add {customer} dev wan"));
            }
            host.ip_batch(&lines)?;
            let charon = Charon::start(&host)?;
            endpoints.push(Endpoint {
                host,
                charon,
                key: key(number),
                number,
            });
        }
        let cloud = Self { endpoints, router };
        cloud.use_endpoints(&[1, 2])?;
        cloud.answer(1, true)?;
        cloud.answer(2, true)?;
        Ok(cloud)
    }

    /// By which endpoints the cloud sends, as its route tables follow its tunnels.
    pub fn use_endpoints(&self, numbers: &[usize]) -> Result<()> {
        let [[customer4, _], [customer6, _]] = SELECTORS;
        let via = |address: &dyn Fn(usize) -> String| -> String {
            let hops = numbers
                .iter()
                .map(|it| format!("nexthop via {}", address(*it)));
            hops.collect::<Vec<_>>().join(" ")
        };
        let v4 = via(&|it| format!("100.64.{it}.2"));
        let v6 = via(&|it| format!("fd00:64:{it}::2"));
        self.router.ip_batch(&[
            format!("route replace {customer4} {v4}"),
            format!("route replace {customer6} {v6}"),
        ])
    }
}

/// An endpoint's address.
pub fn outer(number: usize) -> String {
    format!("198.51.100.{number}")
}

/// The pre-shared key with it.
pub fn key(number: usize) -> String {
    format!("the shared secret of tunnel {number}")
}

impl Endpoint {
    /// Loads the connection to a customer with these children, by selectors (the customer's first).
    pub fn load(&self, name: &str, customer: &str, children: &[(&str, [&str; 2])]) -> Result<()> {
        let own = outer(self.number);
        load_key(&self.charon, name, &self.key, [&own, customer])?;
        let children: Vec<(&str, [&str; 2])> = children
            .iter()
            .map(|(name, [theirs, ours])| (*name, [*ours, *theirs]))
            .collect();
        load(&self.charon, name, [&own, customer], &children, "clear")
    }

    /// Lets the connection go, as an operator who turns a tunnel off.
    pub fn unload(&self, name: &str) -> Result<()> {
        self.charon
            .order("unload-conn", &[Word::Text("name", name)])?;
        self.charon.order("terminate", &[Word::Text("ike", name)])
    }

    /// Closes one child.
    pub fn close(&self, child: &str) -> Result<()> {
        self.charon
            .order("terminate", &[Word::Text("child", child)])
    }
}

/// A pre-shared key between two addresses.
pub fn load_key(charon: &Charon, id: &str, key: &str, owners: [&str; 2]) -> Result<()> {
    // One owner is enough to find it: each key is of one far end.
    let words = [
        Word::Text("id", id),
        Word::Text("type", "IKE"),
        Word::Text("data", key),
        Word::List("owners", owners[1]),
    ];
    charon.order("load-shared", &words)
}

/// A connection as a cloud's documentation has it: addresses for identities, policies and no interface.
/// Selectors are those of our own side first.
pub fn load(
    charon: &Charon,
    name: &str,
    [own, far]: [&str; 2],
    children: &[(&str, [&str; 2])],
    when_dead: &str,
) -> Result<()> {
    let mut words = vec![
        Word::Open(name),
        Word::Text("version", "2"),
        Word::Text("mobike", "no"),
        Word::Text("keyingtries", "0"),
        Word::Text("dpd_delay", "20s"),
        Word::List("local_addrs", own),
        Word::List("remote_addrs", far),
        Word::List("proposals", "aes256-sha2_384-ecp384"),
        Word::Open("local"),
        Word::Text("auth", "psk"),
        Word::Text("id", own),
        Word::Close,
        Word::Open("remote"),
        Word::Text("auth", "psk"),
        Word::Text("id", far),
        Word::Close,
        Word::Open("children"),
    ];
    for (name, [ours, theirs]) in children {
        words.extend([
            Word::Open(name),
            Word::Text("mode", "tunnel"),
            Word::List("esp_proposals", "aes256gcm16-modp1536"),
            Word::List("local_ts", ours),
            Word::List("remote_ts", theirs),
            Word::Text("dpd_action", when_dead),
            Word::Close,
        ]);
    }
    words.extend([Word::Close, Word::Close]);
    charon.order("load-conn", &words)
}
