//! A gateway's identity from the token to the revocation, by the programs as a person runs them. It needs
//! no charon: what the agent does with a renewed certificate there, the labs show.

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::program;
use routemesh_tests::lab::report::wait_until;
use routemesh_tests::lab::secrets::{leaks, private_keys};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SPEC: &str = r#"
[mesh]
as = 65000
interconnect = "fd00:ff::/64"
[sites.one]
prefixes = ["10.0.1.0/24"]
[sites.one.gateways.A]
endpoints = ["2001:db8::a"]
routers = [{ address = "fd00:1::254", as = 65001, password = "password-of-a-router" }]
[foreign.cloud]
provider = "aws"
prefixes = ["10.30.0.0/16"]
as = 64512
[[foreign.cloud.tunnels]]
gateway = "A"
remote = "2001:db8::c"
psk = "the.shared.secret.of.a.tunnel"
inside = "169.254.10.2/30"
[sites.two]
prefixes = ["10.0.2.0/24"]
gateways.B.endpoints = ["2001:db8::b"]
"#;

/// A network namespace, and whatever runs in it.
struct Host {
    dir: PathBuf,
    name: String,
    running: Vec<Child>,
}

impl Host {
    fn new() -> Result<Self> {
        let name = format!("rm-trust-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).map_err(LabError::io("make a directory"))?;
        let host = Self {
            dir,
            name,
            running: Vec::new(),
        };
        ip(&["netns", "add", &host.name])?;
        ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn command(&self, words: &str) -> Result<Command> {
        let mut words = words.split_whitespace();
        let program = match words.next().unwrap_or_default() {
            "curl" => "curl".to_owned(),
            ours => program(ours)?,
        };
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, &program])
            .args(words)
            .current_dir(&self.dir)
            .env("MESHCTL_CONTROLLER", "https://[::1]:7179")
            .env("MESHCTL_IDENTITY", "root");
        Ok(command)
    }

    /// What it printed, and whether it succeeded.
    fn run(&self, words: &str) -> Result<(bool, String)> {
        let output = self.command(words)?.output();
        let output = output.map_err(LabError::io("run a program"))?;
        let success = output.status.success();
        let said = if success {
            output.stdout
        } else {
            output.stderr
        };
        Ok((success, String::from_utf8_lossy(&said).into_owned()))
    }

    fn must(&self, words: &str) -> Result<String> {
        match self.run(words)? {
            (true, said) => Ok(said),
            (false, said) => Err(LabError::Unexpected(format!("{words}: {said}"))),
        }
    }

    fn start(&mut self, words: &str, log: &str) -> Result<()> {
        let log = File::create(self.file(log)).map_err(LabError::io("write a log"))?;
        let mut command = self.command(words)?;
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.running
            .push(child.map_err(LabError::io("start a program"))?);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = ip(&["netns", "del", &self.name]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(words).status();
    match status.map_err(LabError::io("run ip"))?.success() {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("ip {}", words.join(" ")))),
    }
}

fn soon(what: &str, check: impl Fn() -> Result<bool>) -> Result<()> {
    wait_until(what, Duration::from_secs(40), || match check()? {
        true => Ok(()),
        false => Err(LabError::Unexpected("not yet".to_owned())),
    })
}

/// Whoever reads what was written, looks at the mesh, makes a mistake or asks for figures learns no secret.
fn nothing_tells_a_secret(host: &Host, tokens: &[&str]) -> Result<()> {
    let spec = "mesh-with-an-error.toml";
    let wrong = SPEC.replace("10.0.2.0/24", "10.0.2.1/24");
    fs::write(host.file(spec), wrong).map_err(LabError::io("write"))?;
    let asked = [
        "meshctl topology -o json",
        "meshctl get gateways -o json",
        "meshctl history",
        "meshctl audit",
        "meshctl diff 1 2",
        "meshctl plan mesh.toml",
        "meshctl plan mesh-with-an-error.toml",
        "mesh-agent enroll rm1-nonsense --identity other",
        "curl -sS http://[::1]:7180/metrics",
        "curl -sS http://[::1]:7181/metrics",
    ];
    for (n, words) in asked.into_iter().enumerate() {
        // It fails where it should, or says that not all is well.
        let output = host.command(words)?.output();
        let output = output.map_err(LabError::io("run a program"))?;
        let said = [output.stdout, output.stderr].concat();
        assert!(
            said.len() > 5,
            "{words}: {}",
            String::from_utf8_lossy(&said)
        );
        fs::write(host.file(&format!("said-{n}")), said).map_err(LabError::io("write"))?;
    }
    fs::remove_file(host.file(spec)).map_err(LabError::io("remove"))?;
    let key = fs::read_to_string(host.file("state/wireguard.key")).map_err(LabError::io("key"))?;
    let mut secrets = private_keys(&host.dir).map_err(LabError::io("look for keys"))?;
    assert!(secrets.len() >= 4, "{} keys", secrets.len());
    secrets.extend(tokens.iter().map(|token| (*token).to_owned()));
    secrets.extend([key.trim(), "password-of-a-router", "the.shared.secret"].map(str::to_owned));
    let found = leaks(&host.dir, &secrets).map_err(LabError::io("look for secrets"))?;
    assert_eq!(found, Vec::<PathBuf>::new());
    // What is looked for is found where it is.
    for secret in &secrets {
        let control = host.file("control");
        fs::write(&control, secret).map_err(LabError::io("write"))?;
        let found = leaks(&host.dir, &secrets).map_err(LabError::io("look for secrets"))?;
        assert_eq!(found, [control]);
    }
    Ok(())
}

#[test]
fn a_gateway_enrolls_renews_and_is_revoked() -> Result<()> {
    let mut host = Host::new()?;
    host.must("mesh-controller init --dir controller")?;
    host.must("mesh-controller issue --dir controller --admin root --out root")?;
    fs::write(host.file("mesh.toml"), SPEC).map_err(LabError::io("write"))?;
    let only_owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(host.file("mesh.toml"), only_owner).map_err(LabError::io("chmod"))?;
    let serve = "mesh-controller run --dir controller --listen [::1]:7179 --lifetime 24s --metrics [::1]:7181 --log trace";
    host.start(serve, "controller.log")?;
    soon("the controller serves", || {
        Ok(host.run("meshctl apply mesh.toml --yes")?.0)
    })?;

    let token = host.must("meshctl token create --gateway A --ttl 5m")?;
    let first_token = token.trim();
    host.must(&format!(
        "mesh-agent enroll {first_token} --identity identity"
    ))?;
    let (again, said) = host.run(&format!("mesh-agent enroll {first_token} --identity other"))?;
    assert!(!again && said.contains("gateway A was used"), "{said}");
    let agent = "mesh-agent run --controller https://[::1]:7179 --identity identity --state-dir state --vici none --metrics [::1]:7180 --log trace";
    host.start(agent, "agent.log")?;

    // When the gateway's certificate ends, as it reports.
    let told = |host: &Host| -> Result<u64> {
        let said = host.must("meshctl get gateways -o json")?;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        Ok(said[0]["certificate"]["to"].as_u64().unwrap_or_default())
    };
    soon("the first certificate is reported", || Ok(told(&host)? > 0))?;
    let end = told(&host)?;
    // Three times another certificate and another key, and the controller knows the gateway throughout.
    for _ in 0..3 {
        let (key, certificate) = (
            host.text("identity/key.pem"),
            host.text("identity/cert.pem"),
        );
        soon("the certificate is renewed", || {
            Ok(host.text("identity/key.pem") != key
                && host.text("identity/cert.pem") != certificate)
        })?;
    }
    soon("a new one is reported", || Ok(told(&host)? > end))?;
    // The controller's own is as short.
    let own = host.text("controller/cert.pem");
    host.must("mesh-controller renew --dir controller --days 1")?;
    assert_ne!(own, host.text("controller/cert.pem"));
    soon("the controller takes its new one up", || {
        Ok(host
            .text("controller.log")
            .contains("certificate or authorities are new"))
    })?;
    let reported = |host: &Host| -> Result<bool> {
        let said = host.must("meshctl get gateways -o json")?;
        Ok(said.matches("\"reported\": null").count() == 1)
    };
    soon("the gateway reports", || reported(&host))?;

    // A person's as well, by whatever command.
    let token = host.must("meshctl token create --viewer eve")?;
    host.must(&format!("meshctl --identity eve enroll {}", token.trim()))?;
    let first = host.text("eve/cert.pem");
    soon("meshctl renews", || {
        host.must("meshctl --identity eve history")?;
        Ok(host.text("eve/cert.pem") != first)
    })?;

    host.must("meshctl revoke A")?;
    soon("it is told", || {
        Ok(host.text("agent.log").contains("gateway A was revoked"))
    })?;
    let audit = host.must("meshctl audit")?;
    for deed in [
        "enroll",
        "token",
        "revoke",
        "0 -> 1",
        "1 -> 2",
        "token used",
    ] {
        assert!(audit.contains(deed), "{deed}: {audit}");
    }
    // With a new token it is back, as somebody else.
    let second = host.must("meshctl token create --gateway A")?;
    let second = second.trim();
    host.must(&format!(
        "mesh-agent enroll {second} --identity identity --replace"
    ))?;
    let history = host.must("meshctl history")?;
    assert!(history.contains("admit"), "{history}");
    nothing_tells_a_secret(&host, &[first_token, second])?;
    let mode = |path: &Path| fs::metadata(path).map(|it| it.permissions().mode() & 0o777);
    assert_eq!(mode(&host.file("identity/key.pem")).ok(), Some(0o600));
    Ok(())
}
