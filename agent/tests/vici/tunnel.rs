//! Two gateways with a charon each and a wire between them, healed by what heal.rs decides.
//!
//! Needs a kernel with ESP, and fails on another: `tests/vm/run` has one.

use crate::charon::{Authority, Charon};
use crate::space::require_esp;
use routemesh_agent::config::{EspOptions, IkeOptions};
use routemesh_agent::vici::heal::{Action, History, Wanted, wanted};
use routemesh_agent::vici::{
    Audit, Auth, Bind, Child, ChildState, Definition, Event, IkeSa, Secret, Vici, events,
};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

const NUMBER: u32 = 0x5200_0001;

/// Runs a command line; whether it succeeded.
fn sh(line: &str) -> bool {
    let output = Command::new("sh")
        .args(["-c", line])
        .stdout(Stdio::null())
        .status();
    output.unwrap().success()
}

/// Runs command lines that must succeed.
fn all(lines: &str) {
    assert!(sh(&format!("set -ex; {lines}")), "{lines}");
}

/// A gateway: a network namespace, a charon, and the little that the agent would do about it.
struct Gateway {
    netns: String,
    charon: Charon,
    vici: Vici,
    definition: Definition,
    key: Secret,
    history: History,
}

impl Gateway {
    const CONNECTION: &str = "rm1-peer";

    /// Tells charon what it should know, as after every one of its starts.
    async fn load(&self) {
        self.vici.load_key(&self.key).await.unwrap();
        self.vici
            .load(Self::CONNECTION, &self.definition)
            .await
            .unwrap();
    }

    /// One pass: look, decide, act.
    async fn tend(&mut self) -> Vec<IkeSa> {
        let sas = self.vici.sas().await.unwrap();
        let connection = Wanted {
            connection: Self::CONNECTION.into(),
            child: self.definition.digest(),
            bind: self.definition.children[0].bind,
            initiate: self.definition.initiate,
            site: self.definition.site.clone(),
        };
        let audit = Audit::default();
        let heal = wanted(&[connection], &sas, &audit, &self.history, Instant::now());
        for action in heal.actions {
            eprintln!("{}: {action:?}", self.netns);
            match action {
                Action::Initiate { connection, child } => {
                    self.vici.initiate(&connection, &child).await
                }
                Action::Terminate { unique_id } => self.vici.terminate(unique_id).await,
                Action::TerminateChild { unique_id } => self.vici.terminate_child(unique_id).await,
                Action::Clear(_) => Ok(()),
            }
            .unwrap();
        }
        self.history = heal.history;
        sas
    }

    fn ping(&self, address: &str) -> bool {
        sh(&format!(
            "ip netns exec {} ping -q -c 1 -W 1 {address}",
            self.netns
        ))
    }
}

/// Children that are installed and named by the definition in force.
fn current(gateway: &Gateway, sas: &[IkeSa]) -> usize {
    let digest = gateway.definition.digest();
    let children = sas.iter().flat_map(|ike| &ike.children);
    children
        .filter(|child| child.state == ChildState::Installed && child.name == digest)
        .count()
}

/// Two of them.
struct Pair {
    a: Gateway,
    b: Gateway,
}

impl Pair {
    /// Wired up, with an interface each, and their connections loaded. A initiates.
    async fn new(name: &str, bind: Bind) -> Pair {
        let (a, b) = (format!("{name}a"), format!("{name}b"));
        let _ = sh(&format!(
            "ip netns del {a} 2>/dev/null; ip netns del {b} 2>/dev/null"
        ));
        all(&format!(
            "ip netns add {a}; ip netns add {b}
             ip link add wire netns {a} address 02:00:00:00:00:01 type veth peer name wire netns {b} address 02:00:00:00:00:02"
        ));
        for (netns, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
            let link = match bind {
                Bind::IfId(id) => format!("type xfrm dev wire if_id {id}"),
                Bind::Mark(key) => {
                    format!("type vti local 192.0.2.{own} remote 192.0.2.{other} key {key}")
                }
            };
            all(&format!(
                "ip -n {netns} link set lo up
                 ip -n {netns} link set wire up
                 ip -n {netns} address add 192.0.2.{own}/24 dev wire
                 ip -n {netns} link add rm1 {link}
                 ip -n {netns} link set rm1 up mtu 1400
                 ip -n {netns} address add 10.1.0.{own}/24 dev rm1
                 ip -n {netns} address add fd00::{own}/64 dev rm1 nodad
                 ip netns exec {netns} sysctl -qw net.ipv4.conf.rm1.disable_policy=1"
            ));
        }
        let ca = Authority::new();
        let pair = Pair {
            a: gateway(&ca, a, "v1", "v2", 1, 2, bind).await,
            b: gateway(&ca, b, "v2", "v1", 2, 1, bind).await,
        };
        pair.a.load().await;
        pair.b.load().await;
        pair
    }

    /// Tends both until it is so; how long that took.
    async fn until(
        &mut self,
        what: &str,
        so: impl Fn(&Pair, &[IkeSa], &[IkeSa]) -> bool,
    ) -> Duration {
        let started = Instant::now();
        let tending = async {
            loop {
                let (a, b) = (self.a.tend().await, self.b.tend().await);
                if so(self, &a, &b) {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(90), tending).await;
        if in_time.is_err() {
            let (a, b) = (self.a.vici.sas().await, self.b.vici.sas().await);
            panic!(
                "{what}: not so after {:?}\n{a:#?}\n{b:#?}",
                started.elapsed()
            );
        }
        eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f64());
        started.elapsed()
    }

    /// Tends both until traffic flows in both families, and then until there is one SA left.
    async fn heals(&mut self, what: &str) {
        self.until(&format!("{what}, traffic"), |pair, a, b| {
            let up = current(&pair.a, a) > 0 && current(&pair.b, b) > 0;
            up && pair.a.ping("10.1.0.2") && pair.b.ping("fd00::1")
        })
        .await;
        self.until(&format!("{what}, one SA"), |pair, a, b| {
            let one = |gateway, sas: &[IkeSa]| {
                sas.len() == 1 && sas[0].children.len() == 1 && current(gateway, sas) == 1
            };
            one(&pair.a, a) && one(&pair.b, b)
        })
        .await;
        assert!(
            self.a.ping("fd00::2") && self.b.ping("10.1.0.1"),
            "{what}: still"
        );
    }

    /// Everything is lost on the wire, and nobody is told.
    fn cut(&self) {
        for (gateway, other) in [(&self.a, 2), (&self.b, 1)] {
            let nowhere = "lladdr 02:00:00:00:00:99 nud permanent dev wire";
            all(&format!(
                "ip -n {} neigh replace 192.0.2.{other} {nowhere}",
                gateway.netns
            ));
        }
    }

    fn mend(&self) {
        for (gateway, other) in [(&self.a, 2), (&self.b, 1)] {
            all(&format!(
                "ip -n {} neigh del 192.0.2.{other} dev wire",
                gateway.netns
            ));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for gateway in [&mut self.a, &mut self.b] {
            gateway.charon.kill();
            sh(&format!("ip netns del {}", gateway.netns));
        }
    }
}

async fn gateway(
    ca: &Authority,
    netns: String,
    name: &str,
    peer: &str,
    own: u8,
    other: u8,
    bind: Bind,
) -> Gateway {
    let charon = Charon::start(Some(netns.clone())).await;
    let (own_pem, key) = ca.issue(name);
    let definition = Definition {
        site: "two".into(),
        local_addrs: vec![format!("192.0.2.{own}")],
        nat: false,
        remote_addrs: vec![format!("192.0.2.{other}")],
        local_id: name.into(),
        remote_id: peer.into(),
        auth: Auth::Certificate {
            own_pem,
            ca_pems: vec![ca.pem.clone()],
        },
        children: vec![Child::of_all(name.into(), bind)],
        initiate: own == 1,
        ike: IkeOptions {
            dpd_delay: Duration::from_secs(2),
            ..IkeOptions::default()
        },
        esp: EspOptions::default(),
    };
    let vici = Vici::new(charon.socket());
    Gateway {
        netns,
        charon,
        vici,
        definition,
        key,
        history: History::default(),
    }
}

#[tokio::test]
async fn a_tunnel_comes_up_and_back_whatever_happens() {
    require_esp();
    let mut pair = Pair::new("rmx", Bind::IfId(NUMBER)).await;
    let mut events = events(pair.a.charon.socket());
    pair.heals("cold start").await;

    let sas = pair.a.vici.sas().await.unwrap();
    let (ike, child) = (&sas[0], &sas[0].children[0]);
    eprintln!("{ike:#?}");
    assert_eq!(ike.connection, Gateway::CONNECTION);
    assert_eq!(
        (ike.local_host.as_str(), ike.remote_host.as_str()),
        ("192.0.2.1", "192.0.2.2")
    );
    assert_eq!(ike.remote_id, "v2");
    assert!(ike.initiator && ike.established.is_some() && ike.rekey_in.is_some());
    assert_eq!(child.bind, Some(Bind::IfId(NUMBER)));
    assert!(child.spi_in.is_some() && child.spi_out.is_some() && child.installed.is_some());
    assert!(
        child.packets_in > 0 && child.packets_out > 0 && child.bytes_in > 0 && child.bytes_out > 0
    );
    assert!(
        child
            .rekey_in
            .is_some_and(|t| t <= Duration::from_secs(3600))
    );
    let state = ip_xfrm_state(&pair.a.netns);
    assert!(
        state.contains("replay_window 512") || state.contains("replay-window 512"),
        "{state}"
    );

    let mut seen = Vec::new();
    while let Ok(Some(event)) = timeout(Duration::from_millis(500), events.recv()).await {
        seen.push(event);
    }
    assert!(
        seen.contains(&Event::ConnectionUp(Gateway::CONNECTION.into())),
        "{seen:?}"
    );

    pair.a.definition.esp.proposals = vec!["aes128gcm16-ecp256".into()];
    pair.b.definition.esp.proposals = pair.a.definition.esp.proposals.clone();
    pair.a.load().await;
    pair.b.load().await;
    pair.heals("other ESP proposals on both sides").await;

    // Another IKE part, and only on the side that does not initiate.
    pair.b.definition.ike.dpd_delay = Duration::from_secs(3);
    pair.b.load().await;
    pair.heals("another IKE part on the responder").await;

    pair.a.charon.kill();
    pair.a.charon.run().await;
    pair.a.load().await;
    pair.heals("initiator's charon killed and started").await;

    pair.b.charon.kill();
    pair.b.charon.run().await;
    pair.b.load().await;
    pair.heals("responder's charon killed and started").await;

    pair.cut();
    pair.until("wire cut, both notice", |pair, a, b| {
        current(&pair.a, a) + current(&pair.b, b) == 0
    })
    .await;
    sleep(Duration::from_secs(10)).await;
    pair.mend();
    pair.heals("wire mended").await;

    pair.a.vici.unload(Gateway::CONNECTION).await.unwrap();
    let sas = pair.a.vici.sas().await.unwrap();
    assert_eq!(sas.len(), 1, "living SAs outlive their connection");
    pair.a.load().await;
    pair.heals("unloaded and loaded").await;
}

#[tokio::test]
async fn a_vti_tunnel_comes_up() {
    require_esp();
    let mut pair = Pair::new("rmv", Bind::Mark(NUMBER)).await;
    pair.heals("cold start, VTI").await;
    let sas = pair.a.vici.sas().await.unwrap();
    assert_eq!(sas[0].children[0].bind, Some(Bind::Mark(NUMBER)));
}

#[tokio::test]
async fn a_tunnel_follows_an_address_that_changes() {
    require_esp();
    let mut pair = Pair::new("rmm", Bind::IfId(NUMBER)).await;
    for gateway in [&mut pair.a, &mut pair.b] {
        gateway.definition.ike.mobike = true;
        gateway.charon.kill();
        gateway.charon.roams = true;
        gateway.charon.run().await;
        gateway.load().await;
    }
    pair.heals("cold start, MOBIKE").await;
    let before = pair.a.vici.sas().await.unwrap();
    let netns = &pair.a.netns;
    all(&format!(
        "ip -n {netns} address add 192.0.2.11/32 dev wire
         ip -n {netns} address del 192.0.2.1/24 dev wire
         ip -n {netns} route add 192.0.2.0/24 dev wire src 192.0.2.11"
    ));
    pair.until("another address", |pair, a, b| {
        let moved = |sas: &[IkeSa], host: fn(&IkeSa) -> &String| {
            matches!(sas, [sa] if host(sa) == "192.0.2.11")
        };
        let both = moved(a, |sa| &sa.local_host) && moved(b, |sa| &sa.remote_host);
        both && pair.a.ping("10.1.0.2") && pair.b.ping("fd00::1")
    })
    .await;
    let after = pair.a.vici.sas().await.unwrap();
    assert_eq!(after[0].unique_id, before[0].unique_id, "the same SA");
}

fn ip_xfrm_state(netns: &str) -> String {
    let output = Command::new("ip")
        .args(["-n", netns, "-s", "xfrm", "state"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
