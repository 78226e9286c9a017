//! As much of VICI as the tests need: an order, and charon's CHILD_SAs. Not through our own agent,
//! and not through `swanctl`, which takes a second to start.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::error::{LabError, Result};

/// Types of packets.
const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const REGISTER: u8 = 3;
const CONFIRM: u8 = 5;
const EVENT: u8 = 7;

/// How long charon may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A CHILD_SA that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The connection it is of.
    pub connection: String,
    /// Its name in the configuration.
    pub name: String,
    /// charon's number for it.
    pub unique_id: String,
    /// SPIs of what comes in and of what goes out, as in `ip xfrm state`.
    pub spis: [String; 2],
}

/// All values of a message, with the sections that they are in before their own names.
type Values = Vec<(Vec<String>, String)>;

/// A piece of a message.
#[derive(Debug, Clone, Copy)]
pub enum Word<'a> {
    /// A section begins.
    Open(&'a str),
    /// The innermost section ends.
    Close,
    /// A value.
    Text(&'a str, &'a str),
    /// A list, with commas between.
    List(&'a str, &'a str),
}

impl Word<'_> {
    fn put(self, message: &mut Vec<u8>) {
        let value = |message: &mut Vec<u8>, value: &str| {
            message.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
            message.extend(value.as_bytes());
        };
        match self {
            Self::Open(name) => {
                message.push(1);
                text(message, name);
            }
            Self::Close => message.push(2),
            Self::Text(name, of) => {
                message.push(3);
                text(message, name);
                value(message, of);
            }
            Self::List(name, of) => {
                message.push(4);
                text(message, name);
                for item in of.split(',') {
                    message.push(5);
                    value(message, item);
                }
                message.push(6);
            }
        }
    }
}

/// A command that says whether it succeeded.
pub(super) fn order(socket: &Path, command: &str, arguments: &[Word<'_>]) -> Result<()> {
    let mut stream = open(socket)?;
    let mut message = Vec::new();
    arguments.iter().for_each(|word| word.put(&mut message));
    send(&mut stream, REQUEST, command, &message)?;
    let (kind, body) = receive(&mut stream)?;
    let answer = flat(&body);
    let yes = |(path, value): &(Vec<String>, String)| path == &["success"] && value == "yes";
    if kind == RESPONSE && answer.iter().any(yes) {
        return Ok(());
    }
    Err(LabError::Unexpected(format!(
        "{command} {arguments:?}: {answer:?}"
    )))
}

/// The installed CHILD_SAs.
pub(super) fn children(socket: &Path) -> Result<Vec<Child>> {
    let listed = list(socket, "list-sas", "list-sa")?;
    Ok(listed.iter().flat_map(|it| installed(it)).collect())
}

/// The children of loaded connections: names of both. Paths are CONNECTION, `children`, NAME, VALUE.
pub(super) fn loaded(socket: &Path) -> Result<BTreeSet<(String, String)>> {
    let listed = list(socket, "list-conns", "list-conn")?;
    let names = listed
        .iter()
        .flatten()
        .filter_map(|(path, _)| match &path[..] {
            [connection, children, name, _] if children == "children" => {
                Some((connection.clone(), name.clone()))
            }
            _ => None,
        });
    Ok(names.collect())
}

/// The values of each event that a command answers with.
fn list(socket: &Path, command: &str, event: &str) -> Result<Vec<Values>> {
    let mut stream = open(socket)?;
    send(&mut stream, REGISTER, event, &[])?;
    let (kind, _) = receive(&mut stream)?;
    if kind != CONFIRM {
        return Err(LabError::Unexpected(format!("{event}: packet {kind}")));
    }
    send(&mut stream, REQUEST, command, &[])?;
    let mut found = Vec::new();
    loop {
        let (kind, body) = receive(&mut stream)?;
        if kind != EVENT {
            return Ok(found);
        }
        // After the name of the event.
        let message = body.get(1 + usize::from(body.first().copied().unwrap_or(0))..);
        found.push(flat(message.unwrap_or_default()));
    }
}

/// Those in one event, whose paths are CONNECTION, `child-sas`, KEY OF THE CHILD, NAME.
fn installed(values: &[(Vec<String>, String)]) -> Vec<Child> {
    let get = |connection: &str, key: &str, name: &str| {
        let path = [connection, "child-sas", key, name];
        let found = values.iter().find(|(it, _)| *it == path);
        found.map_or(String::new(), |(_, value)| value.clone())
    };
    let mut found = Vec::new();
    for (path, value) in values {
        let [connection, _, key, name] = &path[..] else {
            continue;
        };
        if name == "state" && matches!(value.as_str(), "INSTALLED" | "REKEYING") {
            let get = |name: &str| get(connection, key, name);
            found.push(Child {
                connection: connection.clone(),
                name: get("name"),
                unique_id: get("uniqueid"),
                spis: ["spi-in", "spi-out"].map(|name| format!("0x{}", get(name))),
            });
        }
    }
    found
}

fn open(socket: &Path) -> Result<UnixStream> {
    let io = || LabError::io(socket.display().to_string());
    let stream = UnixStream::connect(socket).map_err(io())?;
    stream.set_read_timeout(Some(LIMIT)).map_err(io())?;
    Ok(stream)
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.push(u8::try_from(text.len()).unwrap_or(0));
    to.extend(text.as_bytes());
}

fn send(stream: &mut UnixStream, kind: u8, name: &str, message: &[u8]) -> Result<()> {
    let mut packet = vec![kind];
    text(&mut packet, name);
    packet.extend(message);
    let length = u32::try_from(packet.len()).unwrap_or(0).to_be_bytes();
    let sent = stream.write_all(&[&length[..], &packet].concat());
    sent.map_err(LabError::io(format!("VICI: {name}")))
}

/// A packet's type, and what follows it.
fn receive(stream: &mut UnixStream) -> Result<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    let mut read = |buffer: &mut [u8]| stream.read_exact(buffer).map_err(LabError::io("VICI"));
    read(&mut length)?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    read(&mut packet)?;
    match packet.split_first() {
        Some((kind, rest)) => Ok((*kind, rest.to_vec())),
        None => Err(LabError::Unexpected("VICI: an empty packet".into())),
    }
}

/// All values of a message with the sections they are in; lists are left out.
fn flat(mut message: &[u8]) -> Values {
    let mut values = Vec::new();
    let mut path = Vec::new();
    let mut take = |length: usize| -> Option<Vec<u8>> {
        let (taken, rest) = message.split_at_checked(length)?;
        message = rest;
        Some(taken.to_vec())
    };
    let mut next = || -> Option<(u8, Vec<u8>, Vec<u8>)> {
        let kind = take(1)?[0];
        let name = match kind {
            1 | 3 | 4 => {
                let length = take(1)?[0];
                take(length.into())?
            }
            _ => Vec::new(),
        };
        let value = match kind {
            3 | 5 => {
                let length = take(2)?;
                take(u16::from_be_bytes([length[0], length[1]]).into())?
            }
            _ => Vec::new(),
        };
        Some((kind, name, value))
    };
    while let Some((kind, name, value)) = next() {
        let readable = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match kind {
            1 => path.push(readable(name)),
            2 => drop(path.pop()),
            3 => {
                let path = [&path[..], &[readable(name)]].concat();
                values.push((path, readable(value)));
            }
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_sections() {
        let message = b"\x01\x03rm7\x01\x09child-sas\x01\x03x-4\
                        \x03\x05state\x00\x09INSTALLED\x03\x04name\x00\x01x\x03\x06spi-in\x00\x02c1\
                        \x04\x05local\x05\x00\x01a\x06\x02\x02\x02";
        let [child] = &installed(&flat(message))[..] else {
            panic!("not one child");
        };
        assert_eq!(
            (child.connection.as_str(), child.name.as_str()),
            ("rm7", "x")
        );
        assert_eq!(child.spis, ["0xc1", "0x"]);
    }
}
