//! A cloud that speaks BGP over both tunnels: `examples/aws.toml` against strongSwan, XFRM interfaces
//! made by hand, and BIRD.

use std::process::Command;

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
            lines.push(format!(
                "address add 169.254.{}.1/30 dev x{number}",
                9 + number
            ));
        }
        host.ip_batch(&lines)?;
        let charon = Charon::start(&host)?;
        let file = host.dir().join("bird.conf");
        std::fs::write(&file, configuration()).map_err(LabError::io("bird.conf"))?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(&file);
        command.arg("-s").arg(host.dir().join("bird.ctl"));
        let daemon = host.spawn("bird", command)?;
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
                Word::List("local_ts", "0.0.0.0/0"),
                Word::List("remote_ts", "0.0.0.0/0"),
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

fn configuration() -> String {
    let sessions = (1..=2).map(|number| {
        let net = 9 + number;
        format!(
            "protocol bgp tunnel{number} {{
                local 169.254.{net}.1 as 64512;
                neighbor 169.254.{net}.2 as 65000;
                hold time 30;
                ipv4 {{ import all; export where source ~ [RTS_DEVICE, RTS_STATIC]; }};
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
    let config = ("aws/office-1.toml", &keys[..], std::convert::identity as _);
    let identity = &identities[0];
    let mut office = Gateway::start(&spaces, &internet, "office", HOME, lan, identity, config)?;
    let mut cloud = Cloud::start(&spaces, &internet)?;

    let mut settle = |what: &str, ways: &[&str], cloud: &mut Cloud| {
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
    settle("BGP over both tunnels", &INTERFACES, &mut cloud)?;
    for (down, left) in [(1, 1), (2, 0)] {
        cloud.unload(down)?;
        cloud.bird("disable", down)?;
        settle("BGP over one", &[INTERFACES[left]], &mut cloud)?;
        cloud.load(down)?;
        cloud.bird("enable", down)?;
        settle("BGP over both again", &INTERFACES, &mut cloud)?;
    }
    spaces.passed();
    Ok(())
}
