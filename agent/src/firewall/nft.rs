//! `nft`, run in a namespace and bounded in time.

use super::rules::{Count, Counter, DYNAMIC, TABLE, Table, remove};
use crate::netns::{self, Netns};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Of what it prints: somebody may have filled our table.
const LONGEST_OUTPUT: u64 = 64 << 20;
/// Of what it complains: it may repeat a line of ours.
const LONGEST_COMPLAINT: usize = 300;

/// Why the packet filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no program of this name.
    #[error("the program nft is missing: install the package nftables")]
    Missing,
    /// It does not start, or cannot be talked to.
    #[error("nft cannot be run: {0}")]
    Run(#[from] io::Error),
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// It hangs.
    #[error("nft did not end within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// It said no.
    #[error("nft refused: {0}")]
    Refused(String),
    /// Its answer is none.
    #[error("nft printed what cannot be read: {0}")]
    Unreadable(String),
}

/// Puts a table in place, in one transaction: what counters have counted goes on.
pub async fn put(
    netns: &Netns,
    table: &Table,
    counted: &BTreeMap<Counter, Count>,
) -> Result<(), Error> {
    run(netns, &["-f", "-"], &table.script(counted)).await?;
    Ok(())
}

/// Removes the table. Where it cannot be there, that is done.
pub async fn delete(netns: &Netns) -> Result<(), Error> {
    match run(netns, &["-f", "-"], &remove()).await {
        Ok(_) | Err(Error::Missing) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The table as nft prints it, without what changes by itself; `None` where there is none.
pub async fn list(netns: &Netns) -> Result<Option<String>, Error> {
    match run(netns, &["-s", "list", "table", "inet", TABLE], "").await {
        Ok(text) => Ok(Some(lasting(&text))),
        Err(Error::Refused(reason)) if is_absence(&reason) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the counters have counted; nothing where there is no table.
pub async fn counts(netns: &Netns) -> Result<BTreeMap<Counter, Count>, Error> {
    match run(
        netns,
        &["-j", "list", "counters", "table", "inet", TABLE],
        "",
    )
    .await
    {
        Ok(text) => parse_counts(&text).map_err(|error| Error::Unreadable(error.to_string())),
        Err(Error::Refused(reason)) if is_absence(&reason) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

fn is_absence(reason: &str) -> bool {
    reason.contains("No such file or directory")
}

/// A listing without the elements of sets that packets fill.
fn lasting(listing: &str) -> String {
    let dynamic = DYNAMIC.map(|name| format!("\tset {name} {{"));
    let (mut inside, mut skipping) = (false, false);
    let mut lines = String::with_capacity(listing.len());
    for line in listing.lines() {
        inside |= dynamic.iter().any(|set| set == line);
        skipping |= inside && line.trim_start().starts_with("elements = {");
        if line == "\t}" {
            (inside, skipping) = (false, false);
        }
        if !skipping {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

/// Of `nft -j list counters` (libnftables-json).
fn parse_counts(text: &str) -> Result<BTreeMap<Counter, Count>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Listing {
        nftables: Vec<Object>,
    }
    #[derive(serde::Deserialize)]
    struct Object {
        counter: Option<Named>,
    }
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
        packets: u64,
        bytes: u64,
    }
    let listing: Listing = serde_json::from_str(text)?;
    let named = listing.nftables.into_iter().filter_map(|it| it.counter);
    let count = |it: Named| {
        let count = Count {
            packets: it.packets,
            bytes: it.bytes,
        };
        Some((Counter::named(&it.name)?, count))
    };
    Ok(named.filter_map(count).collect())
}

async fn run(netns: &Netns, arguments: &[&str], input: &str) -> Result<String, Error> {
    let child = spawn(netns, arguments)?;
    // Dropped, it is killed.
    let talked = timeout(TIMEOUT, talk(child, input)).await;
    talked.map_err(|_| Error::Timeout)?
}

/// A child is born into the namespace of the thread that starts it.
fn spawn(netns: &Netns, arguments: &[&str]) -> Result<Child, Error> {
    let runtime = Handle::current();
    let spawned = netns.run(|| {
        let _entered = runtime.enter();
        Command::new("nft")
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    })?;
    spawned.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Missing,
        _ => Error::Run(error),
    })
}

async fn talk(mut child: Child, input: &str) -> Result<String, Error> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that has ended early says why by itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output, complaint) = tokio::join!(write, read(stdout), read(stderr));
    let status = child.wait().await?;
    if status.success() {
        return Ok(output?);
    }
    let complaint: String = complaint?.chars().take(LONGEST_COMPLAINT).collect();
    let lines: Vec<&str> = complaint.lines().map(str::trim).collect();
    Err(Error::Refused(lines.join(" ")))
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(LONGEST_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::Reason;

    #[test]
    fn what_packets_leave_in_a_set_is_no_change() {
        let without = "table inet routemesh {\n\tset asked_ip4 {\n\t\tsize 65535\n\t}\n\n\tset own4 {\n\
            \t\telements = { 10.0.1.0/24 }\n\t}\n}\n";
        let with = without.replace(
            "65535\n",
            "65535\n\t\telements = { 10.0.2.1 . 53 . 40000 expires 59s,\n\t\t\t     10.0.2.2 . 53 . 40000 expires 9s }\n",
        );
        assert_eq!(lasting(&with), without);
        assert_eq!(lasting(without), without);
    }

    #[test]
    fn counters_are_read_by_name() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "rm3_not_here", "table": "routemesh", "handle": 4, "packets": 5, "bytes": 100}},
            {"counter": {"family": "inet", "name": "strange", "table": "routemesh", "handle": 5, "packets": 1, "bytes": 1}}]}"#;
        let counted = parse_counts(text).unwrap();
        let counter = Counter::Tunnel("rm3".into(), Reason::NotHere);
        let count = Count {
            packets: 5,
            bytes: 100,
        };
        assert_eq!(counted, BTreeMap::from([(counter, count)]));
        assert!(parse_counts("[]").is_err());
    }
}
