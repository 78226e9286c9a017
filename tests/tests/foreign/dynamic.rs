//! A cloud that speaks BGP over both tunnels: `examples/aws.toml` against strongSwan, XFRM interfaces
//! made by hand, and BIRD.

use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::bird::ask;
use routemesh_tests::lab::charon::Charon;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::spaces::Spaces;
use routemesh_tests::lab::vici::Word;

use super::{Gateway, HOME, SETTLE, cloud, identities, internet, plug};

/// The interfaces of both tunnels, by the golden config.
const INTERFACES: [&str; 2] = ["rm0", "rm1"];
/// What the cloud may announce, and a machine there.
const VPC: [&str; 2] = ["10.30.0.0/16", "10.30.0.10"];
/// What it announces as well, and may not.
const STOLEN: &str = "192.168.1.128/25";
/// What we are to announce to it, and a machine there.
const OFFICE: [&str; 2] = ["192.168.1.0/24", "192.168.1.1"];

struct Cloud {
    host: Host,
    charon: Charon,
    daemon: Process,
}

fn key(number: usize) -> String {
    format!("the.shared.secret.of.tunnel.{number}")
}

impl Cloud {
    fn start(spaces: &Spaces, internet: &Host) -> Result<Self> {
        let host = spaces.host("aws")?;
        plug(internet, &host, "aws", &format!("{}/24", cloud::outer(1)))?;
        let mut lines = vec![
            format!("address add {}/24 dev wan", cloud::outer(2)),
            "link add vpc up type dummy".to_owned(),
            format!("address add {}/16 dev vpc", VPC[1]),
        ];
        for number in 1..=2 {
            lines.push(format!(
                "link add x{number} up type xfrm dev wan if_id {number}"
            ));
            let [own, _, length] = inside(number);
            lines.push(format!("address add {own}/{length} dev x{number} nodad"));
        }
        host.ip_batch(&lines)?;
        let charon = Charon::start(&host)?;
        let file = host.dir().join("bird.conf");
        std::fs::write(&file, configuration()).map_err(LabError::io("bird.conf"))?;
        let daemon = bird(&host, &[])?;
        charon.wait()?;
        let cloud = Self {
            host,
            charon,
            daemon,
        };
        for number in 1..=2 {
            cloud.load(number)?;
        }
        Ok(cloud)
    }

    /// Loads the connection of a tunnel, which carries everything through its interface.
    fn load(&self, number: usize) -> Result<()> {
        let (name, id) = (format!("tunnel{number}"), number.to_string());
        let (own, far) = (cloud::outer(number), HOME);
        // Both have the same far end: the addresses of this side tell the keys apart.
        cloud::load_key(&self.charon, &name, &key(number), [far, &own])?;
        let side = |side, id| {
            let words = [Word::Text("auth", "psk"), Word::Text("id", id)];
            [&[Word::Open(side)], &words[..], &[Word::Close]].concat()
        };
        let words = [
            vec![
                Word::Open(&name),
                Word::Text("version", "2"),
                Word::List("local_addrs", &own),
                Word::List("remote_addrs", far),
                Word::List("proposals", "aes256-sha2_256-modp2048"),
            ],
            side("local", &own),
            side("remote", far),
            vec![
                Word::Open("children"),
                Word::Open("all"),
                Word::List("esp_proposals", "aes256gcm16-modp2048"),
                Word::List("local_ts", "0.0.0.0/0,::/0"),
                Word::List("remote_ts", "0.0.0.0/0,::/0"),
                Word::Text("if_id_in", &id),
                Word::Text("if_id_out", &id),
                Word::Close,
                Word::Close,
                Word::Close,
            ],
        ];
        self.charon.order("load-conn", &words.concat())
    }

    /// Lets BGP over a tunnel go or come: that a tunnel is down is known in a cloud.
    fn bird(&self, command: &str, number: usize) -> Result<String> {
        let command = format!("{command} tunnel{number}");
        ask(&self.host.dir().join("bird.ctl"), &command)
    }

    fn unload(&self, number: usize) -> Result<()> {
        let name = format!("tunnel{number}");
        self.charon
            .order("unload-conn", &[Word::Text("name", &name)])?;
        self.charon.order("terminate", &[Word::Text("ike", &name)])
    }

    /// How many paths to what the office owns its BIRD has.
    fn paths(&self) -> Result<usize> {
        let command = format!("show route {}", OFFICE[0]);
        let text = ask(&self.host.dir().join("bird.ctl"), &command)?;
        Ok(text.lines().filter(|line| line.contains("via ")).count())
    }
}

/// Runs it, after an earlier one or for the first time.
fn bird(host: &Host, more: &[&str]) -> Result<Process> {
    let dir = host.dir();
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(dir.join("bird.conf"));
    command.arg("-s").arg(dir.join("bird.ctl")).args(more);
    host.spawn("bird", command)
}

/// Addresses within a tunnel: the cloud's, ours, and the length of their prefix. The golden config has
/// IPv4 in both, and this cloud has IPv6 in the second.
fn inside(number: usize) -> [&'static str; 3] {
    match number {
        1 => ["169.254.10.1", "169.254.10.2", "30"],
        _ => ["fd00:11::1", "fd00:11::2", "126"],
    }
}

fn with_ipv6_inside(config: String) -> String {
    let [cloud, own, length] = inside(2);
    let (before, after) = config.split_at(config.find("number = 1\n").unwrap_or_default());
    let after = after.replacen("169.254.11.2", own, 1);
    let after = after.replacen("169.254.11.1", cloud, 1);
    let length = format!("prefix_length = {length}");
    format!(
        "{before}{}",
        after.replacen("prefix_length = 30", &length, 1)
    )
}

fn configuration() -> String {
    let sessions = (1..=2).map(|number| {
        let [own, far, _] = inside(number);
        let extended = if number == 2 {
            "extended next hop on;"
        } else {
            ""
        };
        format!(
            "protocol bgp tunnel{number} {{
                local {own} as 64512;
                neighbor {far} as 65000;
                hold time 30;
                graceful restart on;
                ipv4 {{ import all; export where source ~ [RTS_DEVICE, RTS_STATIC]; {extended} }};
            }}\n"
        )
    });
    let sessions: String = sessions.collect();
    format!(
        "log stderr all;
        router id 10.30.0.10;
        protocol device {{ }}
        protocol direct {{ ipv4; interface \"vpc\"; }}
        protocol static {{ ipv4; route {STOLEN} blackhole; }}
        protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
        {sessions}"
    )
}

#[test]
fn a_cloud_with_bgp_is_used_over_both_tunnels_and_over_either() -> Result<()> {
    let mut spaces = Spaces::new("foreign-bgp")?;
    let identities = identities(&spaces, ["office-1"])?;
    let internet = internet(&spaces)?;
    let lan = |overlay: &Host| {
        overlay.ip_batch(&[
            "link add lan0 up type dummy".to_owned(),
            format!("address add {}/24 dev lan0", OFFICE[1]),
        ])
    };
    let keys = [1, 2].map(key);
    let config = ("aws/office-1.toml", &keys[..], with_ipv6_inside as _);
    let identity = &identities[0];
    let mut office = Gateway::start(&spaces, &internet, "office", HOME, lan, identity, config)?;
    let mut cloud = Cloud::start(&spaces, &internet)?;

    let settle = |what: &str, ways: &[&str], office: &mut Gateway, cloud: &mut Cloud| {
        say(what);
        wait_until(what, SETTLE, || {
            office.agent.check()?;
            cloud.daemon.check()?;
            let (found, paths) = (office.ways(VPC[0])?, cloud.paths()?);
            if found != ways || paths != ways.len() {
                return Err(LabError::Unexpected(format!(
                    "{} goes by {found:?}, not {ways:?}; the cloud has {paths} paths back",
                    VPC[0]
                )));
            }
            let words = ["ping", "-n", "-c1", "-W2", "-I", OFFICE[1], VPC[1]];
            office.overlay.run(&words).map(drop)
        })?;
        // What is not the cloud's is not taken from it.
        assert_eq!(office.ways(STOLEN)?, Vec::<String>::new());
        Ok::<(), LabError>(())
    };
    settle(
        "BGP over both tunnels",
        &INTERFACES,
        &mut office,
        &mut cloud,
    )?;
    // It restarts gracefully (RFC 4724): both tunnels are used all the time.
    cloud.daemon.kill();
    for _ in 0..6 {
        assert_eq!(office.ways(VPC[0])?, INTERFACES, "BIRD is away");
        std::thread::sleep(Duration::from_millis(500));
    }
    cloud.daemon = bird(&cloud.host, &["-R"])?;
    settle(
        "BGP over both after a restart",
        &INTERFACES,
        &mut office,
        &mut cloud,
    )?;
    for (down, left) in [(1, 1), (2, 0)] {
        cloud.unload(down)?;
        cloud.bird("disable", down)?;
        settle("BGP over one", &[INTERFACES[left]], &mut office, &mut cloud)?;
        cloud.load(down)?;
        cloud.bird("enable", down)?;
        settle("BGP over both again", &INTERFACES, &mut office, &mut cloud)?;
    }
    spaces.keep_secrets(&keys)?;
    spaces.passed();
    Ok(())
}
