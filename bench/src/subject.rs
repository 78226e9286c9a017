//! The daemons under test: how each is configured and started. Each is given two iBGP neighbours that
//! may send one family, and told to install equal paths as ECMP; graceful restart is off or unused.

use crate::error::{Error, Result};
use crate::far::Timers;
use crate::lab::Space;
use crate::prefix::{COVER_IPV4, COVER_IPV6, Family, MOST};
use crate::process::{Daemon, sibling};
use clap::ValueEnum;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const FRR: &str = "/usr/lib/frr";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// `mesh-agent` of this build.
    Routemesh,
    /// BIRD 2 from Debian.
    Bird,
    /// FRR from Debian, zebra and bgpd.
    Frr,
    /// The kernel alone, written to by this program.
    Raw,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Routemesh => "Routemesh",
            Self::Bird => "BIRD 2",
            Self::Frr => "FRR",
            Self::Raw => "kernel alone",
        })
    }
}

/// The daemons of one subject, running.
pub struct Running(Vec<Daemon>);

impl Running {
    /// Does `steps` with them. What failed is told with their last words.
    pub fn through(mut self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let done = steps(&self);
        self.check()?;
        done.map_err(|error| match error {
            Error::Interrupted => error,
            error => Error::Wrong(format!("{error}\n{}", self.last_words())),
        })
    }

    /// An error if one of them has ended.
    fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Daemon::check)
    }

    /// Resident memory of them all, in octets.
    pub fn resident(&self) -> Result<u64> {
        self.memory(|[all, _]| all)
    }

    /// What of that is no part of a file.
    pub fn anonymous(&self) -> Result<u64> {
        self.memory(|[_, anonymous]| anonymous)
    }

    fn memory(&self, which: impl Fn([u64; 2]) -> u64) -> Result<u64> {
        self.0.iter().map(|it| it.resident().map(&which)).sum()
    }

    /// Processor time that they all have used.
    pub fn busy(&self) -> Result<Duration> {
        self.0.iter().map(Daemon::busy).sum()
    }

    /// All that the first of them has said.
    pub fn said(&self) -> String {
        self.0.first().map(Daemon::said).unwrap_or_default()
    }

    /// The last lines of their logs.
    fn last_words(&self) -> String {
        let words: Vec<String> = self.0.iter().map(Daemon::last_words).collect();
        words.join("\n")
    }
}

impl Subject {
    /// Starts it in `middle` with these neighbours, with its files in `dir`.
    pub fn start(
        self,
        middle: &Space,
        neighbours: &[IpAddr],
        family: Family,
        bfd: Option<Timers>,
        dir: &Path,
    ) -> Result<Running> {
        let daemon = |name: &str, command| middle.daemon(name, command, dir);
        let started = match self {
            Self::Routemesh => vec![daemon("mesh-agent", routemesh(neighbours, bfd, dir)?)?],
            Self::Bird => vec![daemon("bird", bird(neighbours, family, bfd, dir)?)?],
            Self::Frr => {
                give_to_frr(dir)?;
                let mut zebra = daemon("zebra", frr("zebra", "", dir)?)?;
                // bgpd does not look for zebra again for some seconds.
                let socket = dir.join("zserv");
                crate::process::wait("zebra's socket", Duration::from_secs(20), || {
                    zebra.check()?;
                    Ok(socket.exists().then_some(()))
                })?;
                let mut running = vec![zebra];
                if bfd.is_some() {
                    running.push(daemon("bfdd", bfdd(dir)?)?);
                }
                let bgpd = frr("bgpd", &bgpd(neighbours, family, bfd), dir)?;
                running.push(daemon("bgpd", bgpd)?);
                running
            }
            Self::Raw => Vec::new(),
        };
        Ok(Running(started))
    }
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf> {
    fs::write(&path, text).map_err(Error::io(path.display().to_string()))?;
    Ok(path)
}

/// A gateway without tunnels: LAN routers announce what its site owns.
fn routemesh(neighbours: &[IpAddr], bfd: Option<Timers>, dir: &Path) -> Result<Command> {
    let mut config = format!(
        "gateway = \"bench\"\nsite = \"here\"\nasn = 65000\nrouter_id = \"192.0.2.254\"\n\
         hold_time = 180\n\n[[sites]]\nname = \"here\"\nprefixes = [\"{COVER_IPV4}\", \"{COVER_IPV6}\"]\n"
    );
    for address in neighbours {
        config += &format!(
            "\n[[routers]]\naddress = \"{address}\"\nasn = 65000\nmax_prefixes = {MOST}\n"
        );
        if let Some(Timers {
            interval,
            multiplier,
        }) = bfd
        {
            config += &format!("bfd = {{ interval = {interval}, multiplier = {multiplier} }}\n");
        }
    }
    let config = write(dir.join("config.toml"), &config)?;
    // There is no controller and no charon: the files only have to be there.
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let path = write(dir.join(name), "none")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::io("a key"))?;
    }
    let mut command = Command::new(sibling("mesh-agent")?);
    command
        .args([
            "run",
            "--log",
            "warn,routemesh_agent::reconcile=debug",
            "--config",
        ])
        .arg(config);
    command.arg("--identity").arg(dir);
    command.arg("--state-dir").arg(dir.join("state"));
    command.arg("--vici").arg(dir.join("no.vici"));
    Ok(command)
}

/// `direct`: the neighbours are on the link, and BIRD need not look their next hops up in its table.
fn bird(neighbours: &[IpAddr], family: Family, bfd: Option<Timers>, dir: &Path) -> Result<Command> {
    let channel = match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    };
    let mut config = format!(
        "router id 192.0.2.254;\nprotocol device {{}}\n\
         protocol kernel {{ {channel} {{ import none; export all; }}; merge paths on; }}\n"
    );
    let on = match bfd {
        Some(timers) => {
            config += &timers.bird();
            "bfd on;"
        }
        None => "",
    };
    for (number, address) in neighbours.iter().enumerate() {
        config += &format!(
            "protocol bgp peer{number} {{ local as 65000; neighbor {address} as 65000; direct; passive;\n\
             graceful restart off; {on} {channel} {{ import all; export none; }}; }}\n"
        );
    }
    let config = write(dir.join("bird.conf"), &config)?;
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(config);
    command.arg("-s").arg(dir.join("bird.ctl"));
    command.arg("-P").arg(dir.join("bird.pid"));
    Ok(command)
}

fn bgpd(neighbours: &[IpAddr], family: Family, bfd: Option<Timers>) -> String {
    let mut config =
        "router bgp 65000\n bgp router-id 192.0.2.254\n no bgp ebgp-requires-policy\n \
                      no bgp default ipv4-unicast\n bgp graceful-restart-disable\n"
            .to_owned();
    let channel = match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    };
    for address in neighbours {
        config += &format!(" neighbor {address} remote-as 65000\n neighbor {address} passive\n");
        if let Some(Timers {
            interval,
            multiplier,
        }) = bfd
        {
            let times = format!("{multiplier} {interval} {interval}");
            config += &format!(" neighbor {address} bfd {times}\n");
        }
    }
    config += &format!(" address-family {channel} unicast\n");
    for address in neighbours {
        config += &format!("  neighbor {address} activate\n");
    }
    config += "  maximum-paths ibgp 2\n exit-address-family\n";
    config
}

fn bfdd(dir: &Path) -> Result<Command> {
    let mut command = frr("bfdd", "", dir)?;
    command.arg("--bfdctl").arg(dir.join("bfdd.ctl"));
    Ok(command)
}

/// FRR's daemons run as a user of their own.
fn give_to_frr(dir: &Path) -> Result<()> {
    let user = nix::unistd::User::from_name("frr").map_err(Error::os("look for user frr"))?;
    let user = user.ok_or_else(|| Error::Wrong("no user frr: is FRR installed?".into()))?;
    std::os::unix::fs::chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .map_err(Error::io("give a directory to FRR"))
}

fn frr(name: &str, config: &str, dir: &Path) -> Result<Command> {
    let config = write(dir.join(format!("{name}.conf")), config)?;
    let mut command = Command::new(format!("{FRR}/{name}"));
    command.args(["-P", "0", "--log", "stdout"]);
    command.arg("-f").arg(config);
    command.arg("-z").arg(dir.join("zserv"));
    command.arg("-i").arg(dir.join(format!("{name}.pid")));
    command.arg("--vty_socket").arg(dir);
    Ok(command)
}
