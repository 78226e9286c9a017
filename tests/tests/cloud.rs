//! Three networks in three clouds, each behind one-to-one NAT, become a mesh by `docs/first-mesh.md`, command by
//! command; and what NAT does to tunnels.
//!
//! What is systemd's and apt's on the page is done here as the units would: `tests/tests/packages` tries it with
//! them. Run it through `tests/vm/run`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::charon::Charon;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::mesh::program;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::{say, wait_for, wait_until};
use routemesh_tests::lab::sniff::{Kind, Sniffer};
use routemesh_tests::lab::spaces::Spaces;

const PAGE: &str = include_str!("../../docs/first-mesh.md");
const EXAMPLE: &str = include_str!("../../examples/first-mesh.toml");
/// Where the page stops to be about how it is made.
const TROUBLE: &str = "## When it is not up";

/// Three hosts and all that runs on them share an emulated processor.
const SETTLE: Duration = Duration::from_secs(150);

/// Gateway, public address, its own, network.
const CLOUDS: [[&str; 4]; 3] = [
    ["paris-1", "192.0.2.10", "10.1.0.10", "10.1"],
    ["oslo-1", "198.51.100.20", "10.2.0.10", "10.2"],
    ["rome-1", "203.0.113.30", "10.3.0.10", "10.3"],
];

struct Lab {
    hosts: BTreeMap<&'static str, Gateway>,
    internet: Host,
    /// Beside each gateway, in the order of [`CLOUDS`].
    machines: Vec<Host>,
    _routers: Vec<Host>,
    // The last to go.
    spaces: Spaces,
}

/// A host that a person has logged in to.
struct Gateway {
    host: Host,
    /// Holds its files: mounts that nobody else sees.
    _session: Process,
    pid: String,
    charon: Option<Charon>,
    agent: Option<Process>,
    controller: Option<Process>,
    /// What was exported in the shell, line by line.
    exported: String,
    token: Option<String>,
}

impl Lab {
    fn start() -> Result<Self> {
        let spaces = Spaces::new("cloud")?;
        let internet = spaces.host("internet")?;
        internet.ip_batch(&["link add switch up type bridge stp_state 0".to_owned()])?;
        let mut hosts = BTreeMap::new();
        let (mut machines, mut routers) = (Vec::new(), Vec::new());
        for [name, public, own, net] in CLOUDS {
            let router = provider(&spaces, &internet, [name, public, own, net])?;
            let host = spaces.host(name)?;
            plug(&router, &host, "gateway", &format!("{own}/24"), net)?;
            let machine = spaces.host(&format!("{name}-machine"))?;
            plug(&router, &machine, "machine", &format!("{net}.0.20/24"), net)?;
            hosts.insert(name, Gateway::log_in(host)?);
            machines.push(machine);
            routers.push(router);
        }
        Ok(Self {
            hosts,
            internet,
            machines,
            _routers: routers,
            spaces,
        })
    }

    fn charon(&self, name: &str) -> Result<&Charon> {
        let missing = || LabError::Unexpected(format!("no charon on {name}"));
        self.hosts[name].charon.as_ref().ok_or_else(missing)
    }

    /// Types the commands of a part of the page.
    fn follow(&mut self, page: &str) -> Result<usize> {
        let mut typed = 0;
        for block in blocks(page) {
            for name in &block.hosts {
                if let Some(file) = &block.file {
                    self.hosts[name.as_str()].write(file, &block.text)?;
                    continue;
                }
                for line in block.text.lines() {
                    say(format_args!("{name}# {line}"));
                    self.enter(name, line)?;
                    typed += 1;
                }
            }
        }
        Ok(typed)
    }

    fn enter(&mut self, name: &str, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let host = || LabError::Unexpected(format!("no host {name}"));
        let gateway = self.hosts.get_mut(name).ok_or_else(host)?;
        match words[..] {
            ["apt", "install", ..] => match line.contains("routemesh-controller") {
                true => gateway.start_controller(),
                false => Ok(()),
            },
            ["systemctl", "restart", "strongswan"] => gateway.start_charon(),
            ["systemctl", "restart", "routemesh-agent"] => gateway.start_agent(),
            ["export", ..] => {
                gateway.exported += &format!("{line}\n");
                Ok(())
            }
            ["meshctl", "token", "create", "--gateway", whose, ..] => {
                let token = gateway.shell(line)?.trim().to_owned();
                let whose = self.hosts.get_mut(whose).ok_or_else(host)?;
                whose.token = Some(token);
                Ok(())
            }
            ["mesh-agent", "enroll", "TOKEN"] => {
                let token = gateway.token.clone().unwrap_or_default();
                gateway.shell(&line.replace("TOKEN", &token)).map(drop)
            }
            // As a person does, again and again until all is up.
            ["ping" | "meshctl", ..] if words[1] != "apply" => {
                wait_until(line, SETTLE, || gateway.shell(line).map(drop))
            }
            _ => gateway.shell(line).map(drop),
        }
    }

    /// Machines of different sites reach each other.
    fn reach(&self) -> Result<()> {
        for (machine, [name, ..]) in self.machines.iter().zip(CLOUDS) {
            for [far, .., net] in CLOUDS.iter().filter(|[far, ..]| *far != name) {
                let words = ["ping", "-n", "-c1", "-W2", &format!("{net}.0.20")];
                wait_until(&format!("from {name} to {far}"), SETTLE, || {
                    machine.run(&words).map(drop)
                })?;
            }
        }
        Ok(())
    }
}

/// A provider's router: an address of the internet for the gateway, and a network, whose route table knows the
/// other two.
fn provider(spaces: &Spaces, internet: &Host, cloud: [&str; 4]) -> Result<Host> {
    let [name, public, own, net] = cloud;
    let router = spaces.host(&format!("{name}-provider"))?;
    router.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ])?;
    internet.ip_batch(&[format!(
        "link add {name} up master switch type veth peer name wan netns {}",
        router.name()
    )])?;
    let mut lines = vec![
        format!("address add {public}/32 dev wan"),
        "link set wan up".to_owned(),
        "link add lan up type bridge stp_state 0".to_owned(),
        format!("address add {net}.0.1/24 dev lan"),
    ];
    let others = CLOUDS.iter().filter(|it| it[0] != name);
    lines.extend(
        others
            .clone()
            .map(|[_, far, ..]| format!("route add {far} dev wan")),
    );
    router.ip_batch(&lines)?;
    let routes = others
        .clone()
        .map(|[.., far]| format!("route add {far}.0.0/16 via {own}"));
    router.ip_batch(&routes.collect::<Vec<_>>())?;
    let others: Vec<&str> = others.map(|it| it[1]).collect();
    let (others, tcp) = (
        others.join(", "),
        if name == "paris-1" { "7179" } else { "9" },
    );
    let rules = format!(
        "table ip nat {{\n\
         chain in {{ type nat hook prerouting priority dstnat; iifname wan ip daddr {public} dnat to {own}; }}\n\
         chain out {{ type nat hook postrouting priority srcnat; oifname wan ip saddr {own} snat to {public}; }}\n\
         }}\n\
         table ip security {{ chain group {{ type filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\n\
         iifname lan accept\n\
         ip saddr {{ {others} }} udp dport {{ 500, 4500 }} accept\n\
         ip saddr {{ {others} }} tcp dport {tcp} accept; }}; }}"
    );
    router.run(&["nft", &rules])?;
    Ok(router)
}

/// A port in a provider's network.
fn plug(router: &Host, host: &Host, port: &str, address: &str, net: &str) -> Result<()> {
    router.ip_batch(&[format!(
        "link add {port} up master lan type veth peer name ens5 netns {}",
        host.name()
    )])?;
    host.ip_batch(&[
        "link set ens5 up".to_owned(),
        format!("address add {address} dev ens5"),
        format!("route add default via {net}.0.1"),
    ])
}

impl Gateway {
    /// Its `/etc`, `/var/lib`, `/root` and `/run` are its own.
    fn log_in(host: Host) -> Result<Self> {
        let dir = host.dir().display().to_string();
        let mounts = format!(
            "cd {dir} && mkdir etc etc.work lib lib.work root\n\
             over() {{ mount -t overlay -o lowerdir=$1,upperdir={dir}/$2,workdir={dir}/$2.work over $1; }}\n\
             over /etc etc && over /var/lib lib && mount --bind root /root && mount -t tmpfs run /run || exit\n\
             mkdir -p /etc/default && ln -s {dir}/charon.vici /run/charon.vici\n\
             echo $$ >{dir}/session; exec sleep infinity"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &mounts]);
        let mut session = host.spawn("session", command)?;
        let pid = wait_for("a session", SETTLE, || {
            session.check()?;
            let text = std::fs::read_to_string(host.dir().join("session")).unwrap_or_default();
            Ok(text.strip_suffix('\n').map(str::to_owned))
        })?;
        Ok(Self {
            host,
            _session: session,
            pid,
            charon: None,
            agent: None,
            controller: None,
            exported: String::new(),
            token: None,
        })
    }

    /// A specification in its `/root`. An emulated processor may be silent for longer than BFD is told to wait on
    /// a real one.
    fn write(&self, file: &str, spec: &str) -> Result<()> {
        let bfd = "[mesh]\nbfd = { interval = \"300ms\", multiplier = 20 }\n";
        let spec = spec.replacen("[mesh]\n", bfd, 1);
        let path = self.host.dir().join("root").join(file);
        std::fs::write(path, spec).map_err(LabError::io("write a specification"))
    }

    /// The words that have a shell run a script among its files.
    fn words(&self, script: &str) -> Result<Vec<String>> {
        let agent = program("mesh-agent")?;
        let bin = Path::new(&agent).parent().unwrap_or(Path::new("/"));
        let script = format!(
            "cd /root; export HOME=/root PATH={}:$PATH\n{}{script}",
            bin.display(),
            self.exported
        );
        let words = [
            "nsenter", "--mount", "--target", &self.pid, "sh", "-c", &script,
        ];
        Ok(words.map(str::to_owned).to_vec())
    }

    fn shell(&self, line: &str) -> Result<String> {
        let words = self.words(line)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.host.run(&words)
    }

    fn daemon(&self, name: &str, script: &str) -> Result<Process> {
        let words = self.words(script)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.host.spawn(name, command)
    }

    fn start_charon(&mut self) -> Result<()> {
        let charon = self.charon.insert(Charon::start(&self.host)?);
        charon.wait()
    }

    fn start_agent(&mut self) -> Result<()> {
        let script = "set -a; . /etc/default/routemesh-agent; exec mesh-agent run";
        self.agent = Some(self.daemon("agent", script)?);
        Ok(())
    }

    fn start_controller(&mut self) -> Result<()> {
        let script = "mesh-controller init && exec mesh-controller run";
        self.controller = Some(self.daemon("controller", script)?);
        let connect = || TcpStream::connect("127.0.0.1:7179").map(drop);
        wait_until("the controller", SETTLE, || {
            self.host.enter(connect)?.map_err(LabError::io("connect"))
        })
    }

    fn ip(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        self.host.run(&words)
    }
}

/// Lines of the page that somebody types, or writes into a file.
#[derive(Debug, PartialEq)]
struct Block {
    hosts: Vec<String>,
    file: Option<String>,
    text: String,
}

/// The blocks that the sentence before says where to type.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut prose = None;
    for piece in page.split("\n\n") {
        let Some(first) = piece.strip_prefix("    ") else {
            prose = Some(piece.replace('\n', " "));
            continue;
        };
        let text = first.trim_end().replace("\n    ", "\n") + "\n";
        match (prose.take(), blocks.last_mut()) {
            (None, Some(block)) => block.text += &format!("\n{text}"),
            (prose, _) => {
                let prose = prose.unwrap_or_default();
                let sentence = prose.rsplit(". ").next().unwrap_or_default();
                let every = sentence.contains("every gateway");
                let names = CLOUDS.iter().map(|it| it[0]);
                let named = names.filter(|name| every || sentence.contains(name));
                blocks.push(Block {
                    hosts: named.map(str::to_owned).collect(),
                    file: sentence.split('`').nth(1).map(str::to_owned),
                    text,
                });
            }
        }
    }
    blocks.retain(|it| !it.hosts.is_empty());
    blocks
}

#[test]
fn three_clouds_become_a_mesh_by_the_page() -> Result<()> {
    let mut lab = Lab::start()?;
    let sniffer = Sniffer::start(&lab.internet)?;
    let (made, trouble) = PAGE.split_once(TROUBLE).unwrap_or((PAGE, ""));
    let typed = lab.follow(made)?;
    assert!(typed > 20, "{typed}");
    say("all that the page says is done");
    lab.reach()?;

    let strange = |kind: &&Kind| match kind {
        Kind::Ike | Kind::Controller | Kind::Neighbour => false,
        Kind::Other(what) => what != "ARP",
        _ => true,
    };
    let seen = sniffer.stop()?;
    assert_eq!(
        seen.keys().filter(strange).collect::<Vec<_>>(),
        Vec::<&Kind>::new()
    );
    assert!(seen[&Kind::Ike] > 100, "{seen:?}");
    for ([name, _, own, _], links) in
        CLOUDS
            .iter()
            .zip([["rm0", "rm1"], ["rm0", "rm2"], ["rm1", "rm2"]])
    {
        let gateway = &lab.hosts[name];
        for link in links {
            wait_until("the MTU of ESP in UDP", SETTLE, || {
                let link = gateway.ip(&format!("link show {link}"))?;
                let fits = link.contains("mtu 1438 ");
                fits.then_some(()).ok_or(LabError::Unexpected(link))
            })?;
        }
        let states = gateway.ip("xfrm state")?;
        assert!(states.contains(&format!("src {own} ")), "{states}");
        assert_eq!(
            states.matches("encap type espinudp").count(),
            states.matches("\tproto esp").count()
        );
    }
    lab.follow(trouble)?;
    translated_keys_are_renewed(&lab)?;
    an_address_that_comes_and_goes_keys_nothing_anew(&lab)?;
    an_address_of_its_own_is_as_good(&lab)?;
    lab.spaces.passed();
    Ok(())
}

/// The SPIs of a gateway's SAs.
fn spis(lab: &Lab, name: &str) -> Result<BTreeSet<[String; 2]>> {
    let children = lab.charon(name)?.children()?;
    Ok(children.into_iter().map(|it| it.spis).collect())
}

fn translated_keys_are_renewed(lab: &Lab) -> Result<()> {
    let before = spis(lab, "rome-1")?;
    for child in lab.charon("paris-1")?.children()? {
        lab.charon("paris-1")?.rekey("child", &child.name, false)?;
    }
    wait_until("other keys at rome", SETTLE, || {
        let now = spis(lab, "rome-1")?;
        let other = now.len() == 2 && now != before;
        other
            .then_some(())
            .ok_or(LabError::Unexpected(format!("{now:?}")))
    })?;
    lab.reach()
}

/// What rome's charon has loaded, by the last letter of the children's names.
fn await_loaded(lab: &Lab, translated: bool) -> Result<()> {
    let charon = lab.charon("rome-1")?;
    wait_until("another definition at rome", SETTLE, || {
        let loaded = charon.loaded()?;
        let is = |(_, child): &(String, String)| child.ends_with('n') == translated;
        let all = loaded.len() == 2 && loaded.iter().all(is);
        all.then_some(())
            .ok_or(LabError::Unexpected(format!("{loaded:?}")))
    })
}

fn an_address_that_comes_and_goes_keys_nothing_anew(lab: &Lab) -> Result<()> {
    let rome = &lab.hosts["rome-1"];
    let before = spis(lab, "rome-1")?;
    await_loaded(lab, true)?;
    rome.ip("address add 203.0.113.30/32 dev lo")?;
    await_loaded(lab, false)?;
    rome.ip("address del 203.0.113.30/32 dev lo")?;
    await_loaded(lab, true)?;
    assert_eq!(spis(lab, "rome-1")?, before);
    Ok(())
}

fn an_address_of_its_own_is_as_good(lab: &Lab) -> Result<()> {
    let paris = &lab.hosts["paris-1"];
    let before = spis(lab, "rome-1")?;
    let own = r#"[{ address = "203.0.113.30", local = "10.3.0.10" }]"#;
    let text = EXAMPLE.replace(r#"["203.0.113.30"]"#, own);
    paris.write("mesh.toml", &text)?;
    paris.shell("meshctl apply mesh.toml")?;
    await_loaded(lab, false)?;
    wait_until("SAs of that", SETTLE, || {
        let now = spis(lab, "rome-1")?;
        let other = now.len() == 2 && now.is_disjoint(&before);
        other
            .then_some(())
            .ok_or(LabError::Unexpected(format!("{now:?}")))
    })?;
    lab.reach()
}
