//! Every capability against the BGP daemons of Debian, as routers on a gateway's LAN. What is found
//! is the table in docs/interop.md.
//!
//! A daemon's test carries out all that [`CAPABILITIES`] has, several at a time, each in network
//! namespaces of its own, and fails if one fails or if the daemon's column in the table is not what
//! was found. `RENEW_GOLDEN=1 cargo nextest run -p routemesh-tests --test interop` writes the
//! table anew. `INTEROP=words` carries out only what has these words in its name.

mod bird;
mod daemon;
mod ending;
mod exabgp;
mod exchange;
mod frr;
mod gobgp;
mod guard;
mod lan;
mod openbgpd;
mod paths;
mod read;
mod restart;
mod table;

use std::sync::Mutex;

use daemon::{Kind, Setup};
use lan::Lan;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::report::say;

/// One row of the table.
struct Capability {
    name: &'static str,
    test: fn(&Trial) -> Result<Verdict>,
}

/// What becomes of one capability with one daemon; anything else is an error.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It works.
    Yes,
    /// The daemon does not have it, or has it in another way.
    No(&'static str),
}

/// One capability with one daemon.
struct Trial {
    kind: Kind,
    name: &'static str,
}

impl Trial {
    /// A LAN on which the session is up.
    fn up(&self, setup: Setup) -> Result<Lan> {
        Lan::up(&self.log_name(), self.kind, setup)
    }

    /// A LAN on which everything has just been started.
    fn start(&self, setup: Setup) -> Result<Lan> {
        Lan::start(&self.log_name(), self.kind, setup)
    }

    fn log_name(&self) -> String {
        let name = format!("interop {} {}", self.kind.name(), self.name);
        name.replace(|c: char| !c.is_alphanumeric(), "-")
    }
}

const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "eBGP over IPv6",
        test: exchange::external6,
    },
    Capability {
        name: "iBGP over IPv6, reflected (RFC 4456)",
        test: exchange::internal6,
    },
    Capability {
        name: "eBGP over IPv4",
        test: exchange::external4,
    },
    Capability {
        name: "iBGP over IPv4, reflected",
        test: exchange::internal4,
    },
    Capability {
        name: "IPv4 with IPv6 next hops (RFC 8950)",
        test: exchange::extended_next_hop,
    },
    Capability {
        name: "Route refresh, asked of us (RFC 2918)",
        test: exchange::refresh,
    },
    Capability {
        name: "Enhanced route refresh, asked of us (RFC 7313)",
        test: exchange::enhanced_refresh,
    },
    Capability {
        name: "Long messages (RFC 8654)",
        test: exchange::long_message,
    },
    Capability {
        name: "ECMP with another router",
        test: exchange::ecmp,
    },
    Capability {
        name: "Several paths from the daemon (RFC 7911)",
        test: paths::from_the_daemon,
    },
    Capability {
        name: "Several paths to the daemon (RFC 7911)",
        test: paths::to_the_daemon,
    },
    Capability {
        name: "Link bandwidth as ECMP weight",
        test: paths::bandwidth,
    },
    Capability {
        name: "Graceful shutdown of the daemon (RFC 8326)",
        test: paths::shutdown,
    },
    Capability {
        name: "Graceful shutdown of the gateway (RFC 8326)",
        test: paths::drain,
    },
    Capability {
        name: "Graceful restart of the daemon (RFC 4724)",
        test: restart::daemon,
    },
    Capability {
        name: "Graceful restart of the agent (RFC 4724)",
        test: restart::agent,
    },
    Capability {
        name: "Graceful restart after a NOTIFICATION (RFC 8538)",
        test: restart::notification,
    },
    Capability {
        name: "Long-lived graceful restart of the daemon (RFC 9494)",
        test: restart::long_lived,
    },
    Capability {
        name: "Shutdown text from us (RFC 9003)",
        test: ending::our_text,
    },
    Capability {
        name: "Shutdown text to us (RFC 9003)",
        test: ending::their_text,
    },
    Capability {
        name: "Hold timer, the daemon silent",
        test: ending::daemon_silent,
    },
    Capability {
        name: "Hold timer, the agent silent",
        test: ending::agent_silent,
    },
    Capability {
        name: "Maximum prefixes, the daemon's limit (RFC 4486)",
        test: ending::their_limit,
    },
    Capability {
        name: "Maximum prefixes, our limit (RFC 4486)",
        test: ending::our_limit,
    },
    Capability {
        name: "TCP MD5 (RFC 2385)",
        test: guard::md5,
    },
    Capability {
        name: "GTSM (RFC 5082)",
        test: guard::gtsm,
    },
    Capability {
        name: "Roles (RFC 9234)",
        test: guard::roles,
    },
    Capability {
        name: "By link-local address",
        test: guard::link_local,
    },
    Capability {
        name: "By interface, unnumbered",
        test: guard::interface,
    },
    Capability {
        name: "By range, dynamic",
        test: guard::range,
    },
];

/// Trials at the same time: they mostly wait.
const AT_ONCE: usize = 5;

fn run(kind: Kind) -> Result<()> {
    let only = std::env::var("INTEROP").unwrap_or_default().to_lowercase();
    let chosen = |c: &&Capability| c.name.to_lowercase().contains(&only);
    let queue: Vec<&Capability> = CAPABILITIES.iter().filter(chosen).collect();
    let queue = Mutex::new(queue.into_iter());
    let found: Mutex<Vec<(&str, Result<Verdict>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(Capability { name, test }) = next(&queue) {
                    let verdict = test(&Trial { kind, name });
                    match &verdict {
                        Ok(verdict) => say(format_args!("{}: {name}: {verdict:?}", kind.name())),
                        Err(error) => say(format_args!("{}: {name}: {error}", kind.name())),
                    }
                    lock(&found).push((name, verdict));
                }
            });
        }
    });
    let mut cells = Vec::new();
    let mut failed = Vec::new();
    for (name, verdict) in found
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
    {
        match verdict {
            Ok(Verdict::Yes) => cells.push((name, "yes".to_owned())),
            Ok(Verdict::No(reason)) => cells.push((name, format!("no: {reason}"))),
            Err(_) => failed.push(name),
        }
    }
    if !failed.is_empty() {
        return Err(LabError::Unexpected(format!("failed: {failed:?}")));
    }
    match only.is_empty() {
        true => table::compare(kind, &cells),
        false => Ok(()),
    }
}

fn next<'a>(queue: &Mutex<impl Iterator<Item = &'a Capability>>) -> Option<&'a Capability> {
    lock(queue).next()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[test]
fn bird() -> Result<()> {
    run(Kind::Bird)
}

#[test]
fn frr() -> Result<()> {
    run(Kind::Frr)
}

#[test]
fn gobgp() -> Result<()> {
    run(Kind::Gobgp)
}

#[test]
fn openbgpd() -> Result<()> {
    run(Kind::Openbgpd)
}

#[test]
fn exabgp() -> Result<()> {
    run(Kind::Exabgp)
}
