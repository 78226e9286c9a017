//! What is asked of gateways, through the controller, by the programs as a person runs them: two gateways that
//! see each other outside, and whose tunnel does not come up.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::host::Host;
use routemesh_tests::lab::mesh::program;
use routemesh_tests::lab::process::Process;
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::spaces::Spaces;
use serde_json::Value;

const SPEC: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
gateways.A.endpoints = ["2001:db8::a"]
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::b"]
"#;
const CONTROLLER: &str = "https://[2001:db8::a]:7179";
const SOON: Duration = Duration::from_secs(40);

/// The controller's host is A's.
struct Trial {
    a: Host,
    b: Host,
    dir: PathBuf,
    running: Vec<Process>,
    /// After what is in it.
    spaces: Spaces,
}

impl Trial {
    fn start() -> Result<Self> {
        let spaces = Spaces::new("doctor")?;
        let (a, b) = (spaces.host("A")?, spaces.host("B")?);
        a.ip_batch(&[format!(
            "link add eth0 type veth peer name eth0 netns {}",
            b.name()
        )])?;
        for (host, address) in [(&a, "2001:db8::a"), (&b, "2001:db8::b")] {
            host.ip_batch(&[
                "link set eth0 up".to_owned(),
                format!("address add {address}/64 dev eth0 nodad"),
            ])?;
        }
        let dir = a.dir().to_owned();
        let trial = Self {
            a,
            b,
            dir,
            running: Vec::new(),
            spaces,
        };
        trial.run("mesh-controller", "init --dir @controller")?;
        for words in ["--admin root", "--viewer eve", "--gateway A", "--gateway B"] {
            let name = words.split(' ').next_back().unwrap_or_default();
            trial.run(
                "mesh-controller",
                &format!("issue --dir @controller {words} --out @{name}"),
            )?;
        }
        std::fs::write(trial.file("mesh.toml"), SPEC).map_err(LabError::io("write"))?;
        Ok(trial)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program's words, where what begins with @ is a file of the trial.
    fn words(&self, words: &str) -> Vec<String> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.file(name).display().to_string(),
            None => word.to_owned(),
        };
        words.split_whitespace().map(word).collect()
    }

    fn run(&self, name: &str, words: &str) -> Result<String> {
        let mut all = vec![program(name)?];
        all.extend(self.words(words));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.a.run(&all)
    }

    fn daemon(&mut self, on_b: bool, name: &str, words: &str) -> Result<()> {
        let mut command = Command::new(program(name)?);
        command.args(self.words(words));
        let host = if on_b { &self.b } else { &self.a };
        self.running.push(host.spawn(name, command)?);
        Ok(())
    }

    fn agent(&mut self, on_b: bool) -> Result<()> {
        let (name, state) = if on_b {
            ("B", "state-b")
        } else {
            ("A", "state-a")
        };
        let words = format!(
            "run --controller {CONTROLLER} --identity @{name} --state-dir @{state} --vici @none"
        );
        self.daemon(on_b, "mesh-agent", &words)
    }

    /// What it says, also where its exit status says that something is wrong.
    fn meshctl(&self, who: &str, words: &str) -> Result<String> {
        let words = format!("--controller {CONTROLLER} --identity @{who} {words}");
        match self.run("meshctl", &words) {
            Err(LabError::Command { output, .. }) => Ok(output),
            other => other,
        }
    }

    fn says(&self, words: &str, pieces: &[&str]) -> Result<()> {
        wait_until(words, SOON, || {
            let said = self.meshctl("root", words)?;
            match pieces.iter().find(|piece| !said.contains(*piece)) {
                None => Ok(()),
                Some(piece) => Err(LabError::Unexpected(format!("no {piece:?} in {said}"))),
            }
        })
    }

    /// The ladder between both.
    fn ladder(&self) -> Result<Value> {
        let said = self.meshctl("root", "doctor A B -o json")?;
        let found: Value = serde_json::from_str(&said)
            .map_err(|error| LabError::Unexpected(format!("{error}: {said}")))?;
        Ok(found["diagnosis"]["ladders"][0].clone())
    }

    fn breaks_at(&self, rung: &str, evidence: &str) -> Result<()> {
        wait_until(&format!("{rung}: {evidence}"), SOON, || {
            let ladder = self.ladder()?;
            match ladder["broken"] == rung && ladder.to_string().contains(evidence) {
                true => Ok(()),
                false => Err(LabError::Unexpected(ladder.to_string())),
            }
        })
    }
}

/// Answers to everything at the ports of IKE, as charon does to what it does not understand.
fn plays_charon(host: &Host, address: &str) -> Result<()> {
    for port in [500, 4500] {
        let socket = host.enter(|| UdpSocket::bind((address, port)))?;
        let socket = socket.map_err(LabError::io("bind to IKE's port"))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            // It ends with the test.
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
    Ok(())
}

#[test]
fn gateways_answer_what_they_are_asked() -> Result<()> {
    let mut trial = Trial::start()?;
    trial.daemon(
        false,
        "mesh-controller",
        "run --dir @controller --listen [::]:7179",
    )?;
    wait_until("the controller", SOON, || {
        trial
            .run(
                "meshctl",
                &format!("--controller {CONTROLLER} --identity @root apply @mesh.toml --yes"),
            )
            .map(drop)
    })?;
    trial.says(
        "ping A 2001:db8::b",
        &["A cannot be asked: its agent is not connected to this controller"],
    )?;
    trial.breaks_at("agents", "A, B: nobody says anything of the tunnel")?;
    trial.agent(false)?;
    trial.agent(true)?;

    trial.says("ping A 2001:db8::b -c 3", &["3 of 3 answered"])?;
    trial.says("ping A 2001:db8::d -c 1", &["0 of 1 answered"])?;
    trial.says("ping A B", &["not sent: there is no interface rm0"])?;
    trial.says("logs A --text controller", &["connected to the controller"])?;
    trial.says("events", &["generation 1 is in force"])?;

    // Nobody answers to IKE, and then somebody does.
    trial.breaks_at("udp", "B does not answer A at UDP 500 and 4500")?;
    plays_charon(&trial.a, "2001:db8::a")?;
    plays_charon(&trial.b, "2001:db8::b")?;
    wait_until("IKE's ports answer", SOON, || {
        let ladder = trial.ladder()?.to_string();
        match ladder.contains("B answers A to IKE at UDP 500 and 4500") {
            true => Ok(()),
            false => Err(LabError::Unexpected(ladder)),
        }
    })?;
    let filter = "table ip6 broken { chain input { type filter hook input priority -400; udp dport 500 drop; }; }";
    trial.b.run(&["nft", filter])?;
    trial.breaks_at("udp", "B does not answer A at UDP 500\"")?;
    trial.b.run(&["nft", "delete table ip6 broken"])?;

    // Outside a capture sees what the doctor asks.
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            trial.ladder()
        });
        let captured = trial.run(
            "meshctl",
            &format!("--controller {CONTROLLER} --identity @root capture A B --outside -w @pcap --packets 4 --seconds 20"),
        );
        let _ = asks.join();
        captured
    })?;
    let pcap = std::fs::read(trial.file("pcap")).map_err(LabError::io("read"))?;
    assert_eq!(pcap.get(..4), Some(&[0xd4, 0xc3, 0xb2, 0xa1][..]));
    // An IPv6 packet, of UDP or ICMPv6.
    assert_eq!(pcap.get(40).map(|it| it >> 4), Some(6));
    trial.says("audit", &["capture", "logs", "ping", "admin root"])?;
    let refused = trial.meshctl("eve", "capture A B --outside -w @pcap")?;
    assert!(refused.contains("needs one of role operator"), "{refused}");
    let refused = trial.meshctl("eve", "ping A 2001:db8::b -c 1")?;
    assert!(refused.contains("needs one of role operator"), "{refused}");
    let allowed = trial.meshctl("eve", "ping A B -c 1")?;
    assert!(
        allowed.contains("not sent: there is no interface"),
        "{allowed}"
    );

    // Where packets would go that no tunnel carries.
    trial.says(
        "trace A 10.0.2.7",
        &[
            "10.0.2.7 is in 10.0.2.0/24 of two, announced by nobody",
            "A does not send it anywhere",
        ],
    )?;
    trial.says("trace A 192.0.2.7", &["is nobody's in the mesh"])?;

    trial
        .a
        .ip_batch(&["route add unreachable 2001:db8::b/128".to_owned()])?;
    trial.breaks_at("outside", "A has no way to B's endpoint")?;
    trial.spaces.passed();
    Ok(())
}
