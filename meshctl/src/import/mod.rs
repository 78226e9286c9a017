//! A specification drafted from what a mesh made by hand is configured with: swanctl.conf, ipsec.conf, bird.conf.
//!
//! Each file is read for what it says (`swanctl`, `ipsec`, `bird`: text -> [`Connection`]s and [`Bird`]), and all
//! hosts together become a text for `meshctl apply` (`draft`). What has no place in it is a [`Note`], never
//! left out silently. Keys never stand in the text: they go into files of their own.

mod bird;
mod draft;
mod ipsec;
mod names;
mod swanctl;
#[cfg(test)]
mod tests;
mod words;

use routemesh_proto::Secret;
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) use draft::Draft;

/// What kind of file it is; its name on the command line is what people call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Swanctl,
    Ipsec,
    Bird,
}

impl Kind {
    /// The kind of this name.
    pub(crate) fn named(word: &str) -> Option<Self> {
        match word {
            "swanctl" => Some(Kind::Swanctl),
            "ipsec.conf" => Some(Kind::Ipsec),
            "bird" => Some(Kind::Bird),
            _ => None,
        }
    }
}

/// A file of one host.
pub(crate) struct Source {
    pub(crate) kind: Kind,
    /// The host's name, where it was said.
    pub(crate) host: Option<String>,
    /// As it is called in notes.
    pub(crate) file: String,
    pub(crate) text: String,
}

/// Something that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Note {
    pub(crate) file: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// What one file says, with its notes.
struct Notes<'f> {
    file: &'f str,
    notes: Vec<Note>,
}

impl Notes<'_> {
    fn add(&mut self, line: usize, text: impl Into<String>) {
        self.notes.push(Note {
            file: self.file.to_owned(),
            line,
            text: text.into(),
        });
    }
}

/// Options of SAs, by their names in a specification.
type Options = BTreeMap<&'static str, toml::Value>;

/// An IKE connection as one host has it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Connection {
    name: String,
    file: String,
    line: usize,
    /// Outer addresses or host names, as far as they say one.
    local: Vec<String>,
    remote: Vec<String>,
    local_id: Option<String>,
    remote_id: Option<String>,
    /// The far end shows a pre-shared key.
    psk: bool,
    ike: Options,
    children: Vec<Child>,
}

/// A CHILD_SA. No selectors are everything.
#[derive(Clone, Debug, Default, PartialEq)]
struct Child {
    local: Vec<ipnet::IpNet>,
    remote: Vec<ipnet::IpNet>,
    esp: Options,
    /// What its interface knows it by: an if_id, or a VTI's mark.
    number: Option<u32>,
    vti: bool,
}

/// A pre-shared key, and the identities that it is for; none for all.
#[derive(Clone, Debug)]
struct Key {
    ids: Vec<String>,
    secret: Secret,
}

/// What BIRD has to do with other hosts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bird {
    asn: Option<u32>,
    neighbours: Vec<Neighbour>,
    /// It learns routes by other protocols, or has static ones.
    others: bool,
}

/// A BGP session of BIRD's.
#[derive(Clone, Debug, Default, PartialEq)]
struct Neighbour {
    file: String,
    line: usize,
    name: String,
    local: Option<std::net::IpAddr>,
    /// Absent for one that is known by its interface only.
    address: Option<std::net::IpAddr>,
    interface: Option<String>,
    local_as: Option<u32>,
    asn: Option<u32>,
    password: bool,
    filtered: bool,
}

/// All that was said of one host.
#[derive(Debug, Default)]
struct Host {
    /// As was said.
    name: Option<String>,
    /// That its files are in.
    directory: Option<String>,
    connections: Vec<Connection>,
    keys: Vec<Key>,
    bird: Option<Bird>,
}

/// Why there is no draft.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("{0}: there is no connection and no BGP session in it")]
    Nothing(String),
    #[error("{file}:{line}: {reason}")]
    Syntax {
        file: String,
        line: usize,
        reason: String,
    },
    #[error(
        "{0} and {1} both have the address {2}: files of one host go together as NAME=FILE, with the same NAME"
    )]
    Twice(String, String, String),
}

/// A file's syntax error; its name is added where it is known.
struct Torn {
    line: usize,
    reason: String,
}

/// Drafts a specification. Files without a name of their host are of a host each, but for those of the same
/// directory.
pub(crate) fn import(sources: &[Source]) -> Result<Draft, ImportError> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    let mut order = Vec::new();
    let mut notes = Vec::new();
    for source in sources {
        let directory = source.file.rsplit_once('/').map(|(directory, _)| directory);
        // Files of one directory are of one host, but for the one that the operator is in.
        let key = match (&source.host, directory) {
            (Some(name), _) => format!("={name}"),
            (None, directory) => directory.unwrap_or(&source.file).to_owned(),
        };
        if !hosts.contains_key(&key) {
            order.push(key.clone());
        }
        let host = hosts.entry(key).or_default();
        host.name = source.host.clone();
        host.directory = directory.map(str::to_owned);
        notes.extend(read(source, host)?);
    }
    let hosts: Vec<Host> = order.iter().filter_map(|key| hosts.remove(key)).collect();
    draft::draft(hosts, notes)
}

fn read(source: &Source, host: &mut Host) -> Result<Vec<Note>, ImportError> {
    let mut notes = Notes {
        file: &source.file,
        notes: Vec::new(),
    };
    let text = source.text.as_str();
    let before = (host.connections.len(), host.keys.len());
    let read = match source.kind {
        Kind::Swanctl => swanctl::read(text, host, &mut notes),
        Kind::Ipsec if source.file.ends_with(".secrets") => {
            ipsec::read_secrets(text, host, &mut notes);
            Ok(())
        }
        Kind::Ipsec => ipsec::read(text, host, &mut notes),
        Kind::Bird => bird::read(text, &mut notes).map(|bird| {
            let known = host.bird.get_or_insert_default();
            known.asn = known.asn.or(bird.asn);
            known.neighbours.extend(bird.neighbours);
            known.others |= bird.others;
        }),
    };
    read.map_err(|Torn { line, reason }| ImportError::Syntax {
        file: source.file.clone(),
        line,
        reason,
    })?;
    let empty = before == (host.connections.len(), host.keys.len());
    if source.kind != Kind::Bird && empty {
        return Err(ImportError::Nothing(source.file.clone()));
    }
    Ok(notes.notes)
}
