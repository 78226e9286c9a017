//! Debian's BIRD 2 on a site's router or on a gateway, asked over its control socket.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::DAEMON_DEADLINE;
use super::error::{LabError, Result};
use super::host::Host;
use super::process::Process;
use super::report::wait_until;
use super::topology::{Gateway, prefixes, private4, private6};

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    socket: PathBuf,
    process: Process,
}

impl Bird {
    /// Starts it with a configuration.
    pub(super) fn start(host: &Host, configuration: &str) -> Result<Self> {
        let file = |name: &str| host.dir().join(name);
        write(host, configuration)?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(file("bird.conf"));
        command.arg("-s").arg(file("bird.ctl"));
        command.arg("-P").arg(file("bird.pid"));
        let process = host.spawn("bird", command)?;
        Ok(Self {
            socket: file("bird.ctl"),
            process,
        })
    }

    /// Gives it another configuration.
    pub(super) fn configure(&self, host: &Host, configuration: &str) -> Result<()> {
        write(host, configuration)?;
        self.ask("configure").map(drop)
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn wait(&mut self) -> Result<()> {
        wait_until("BIRD's control socket", DAEMON_DEADLINE, || {
            self.process.check()?;
            self.ask("show status").map(drop)
        })
    }

    /// What `birdc COMMAND` says.
    pub fn ask(&self, command: &str) -> Result<String> {
        ask(&self.socket, command)
    }

    /// How many paths BIRD holds for a prefix.
    pub fn paths(&self, prefix: &str) -> Result<usize> {
        let table = if prefix.contains(':') {
            "master6"
        } else {
            "master4"
        };
        match self.ask(&format!("show route table {table} {prefix}")) {
            Ok(text) => Ok(text.lines().filter(|l| l.contains("via ")).count()),
            // "Network not found" is an answer.
            Err(LabError::Unexpected(text)) if text.contains("not found") => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// What `birdc COMMAND` says over a control socket, without starting a program.
pub fn ask(socket: &Path, command: &str) -> Result<String> {
    let io = || LabError::io(format!("birdc {command} at {}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(io())?;
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).map_err(io())?;
    stream
        .write_all(format!("{command}\n").as_bytes())
        .map_err(io())?;
    // Lines are `CODE-text` or, to go on with the same code, ` text`; a reply ends with
    // `CODE text`. The greeting is such a reply, too.
    let mut reply = String::new();
    let mut ends = 0;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(io())?;
        let coded = line.len() >= 5 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
        let last = coded && line.as_bytes()[4] == b' ';
        if ends == 1 {
            let text = if coded { &line[5..] } else { &line };
            let _ = writeln!(reply, "{text}");
        }
        ends += usize::from(last);
        if ends == 2 {
            if line.starts_with(['8', '9']) {
                return Err(LabError::Unexpected(format!("birdc {command}: {reply}")));
            }
            return Ok(reply);
        }
    }
    Err(LabError::Unexpected(format!(
        "birdc {command}: cut short: {reply}"
    )))
}

fn write(host: &Host, configuration: &str) -> Result<()> {
    let file = host.dir().join("bird.conf");
    std::fs::write(&file, configuration).map_err(LabError::io(file.display().to_string()))
}

/// Of a router: an eBGP session to each gateway of its site, which gives the site's networks and
/// takes everything, several paths a prefix, into the kernel.
pub(super) fn of_router(site: usize, gateways: &[Gateway]) -> String {
    let [own6, own4] = prefixes(site);
    let mut text = format!(
        r#"log stderr all;
router id {id};
timeformat protocol iso long ms;
protocol device {{ scan time 5; }}
protocol kernel {{
    ipv4 {{
        import none;
        export filter {{
            if source != RTS_BGP then reject;
            krt_prefsrc = {id};
            accept;
        }};
    }};
    merge paths on;
}}
protocol kernel {{
    ipv6 {{
        import none;
        export filter {{
            if source != RTS_BGP then reject;
            krt_prefsrc = {own};
            accept;
        }};
    }};
    merge paths on;
}}
protocol static own6 {{ ipv6; route {own6} via "net0"; }}
protocol static own4 {{ ipv4; route {own4} via "net0"; }}
template bgp lan_gateway {{
    local fd00:{site}::254 as 6500{site};
    hold time 9;
    connect retry time 1;
    connect delay time 1;
    error wait time 1, 3;
    ipv6 {{ import all; export where source = RTS_STATIC; }};
    ipv4 {{ import all; export where source = RTS_STATIC; extended next hop on; }};
}}
"#,
        id = private4(site),
        own = private6(site),
    );
    for gateway in gateways {
        let name = gateway.name().replace('-', "_");
        let address = gateway.lan();
        let _ = writeln!(
            text,
            "protocol bgp {name} from lan_gateway {{ neighbor {address} as 65000; }}"
        );
    }
    text
}
