//! swanctl.conf, in the syntax of strongswan.conf(5).

use super::words::{self, Selector};
use super::{Child, Connection, Host, Key, Notes, Torn};
use routemesh_proto::Secret;

/// Sections may be in sections so deep.
const DEEPEST: usize = 32;

/// The key under which stands whom a section ("name : others") takes values over from.
const OTHERS: &str = ":";

/// A section: what stands in it, in its order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Section {
    pub(super) values: Vec<(String, String, usize)>,
    pub(super) sections: Vec<(String, Section, usize)>,
}

impl Section {
    fn value(&self, key: &str) -> Option<&str> {
        let mut found = self.values.iter().filter(|(name, _, _)| name == key);
        // The last one counts.
        found.next_back().map(|(_, value, _)| value.as_str())
    }

    /// Sections of this name, or of this name and a suffix as "local-0" has one.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Section> {
        let mut sections = self.sections.iter();
        std::iter::from_fn(move || {
            let found = sections.find(|(it, _, _)| it.strip_prefix(name).is_some_and(is_suffix));
            found.map(|(_, section, _)| section)
        })
    }
}

fn is_suffix(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('-') || rest.chars().all(|c| c.is_ascii_digit())
}

pub(super) fn read(text: &str, host: &mut Host, notes: &mut Notes) -> Result<(), Torn> {
    let root = parse(text)?;
    for (_, _, line) in root.values.iter().filter(|(key, _, _)| key == "include") {
        notes.add(
            *line,
            "what is included is not read: give the files themselves",
        );
    }
    for (name, section, line) in &root.sections {
        match name.as_str() {
            "connections" => {
                for (name, section, line) in &section.sections {
                    let connection = connection(name, section, *line, notes);
                    host.connections.push(connection);
                }
            }
            "secrets" => secrets(section, host, notes),
            _ => notes.add(*line, format!("section {name} has no place in a mesh")),
        }
    }
    Ok(())
}

fn secrets(section: &Section, host: &mut Host, notes: &mut Notes) {
    for (name, section, line) in &section.sections {
        let (true, Some(secret)) = (name.starts_with("ike"), section.value("secret")) else {
            notes.add(*line, format!("secret {name} is none that a mesh needs"));
            continue;
        };
        if secret.starts_with("0x") || secret.starts_with("0s") {
            notes.add(
                *line,
                format!("secret {name} is encoded: write it as text, or agree on another one"),
            );
            continue;
        }
        let ids = section
            .values
            .iter()
            .filter(|(key, _, _)| key.strip_prefix("id").is_some_and(is_suffix));
        host.keys.push(Key {
            ids: ids.map(|(_, id, _)| id.clone()).collect(),
            secret: Secret::from(secret.to_owned()),
        });
    }
}

/// What says the same of every connection of ours, or is the agent's business.
const OURS: [&str; 8] = [
    "version",
    "keyingtries",
    "unique",
    "rand_time",
    "over_time",
    "encap",
    "send_cert",
    "send_certreq",
];

fn connection(name: &str, section: &Section, line: usize, notes: &mut Notes) -> Connection {
    let mut connection = Connection {
        name: name.to_owned(),
        file: notes.file.to_owned(),
        line,
        ..Connection::default()
    };
    for (key, value, line) in &section.values {
        let done = match key.as_str() {
            "local_addrs" => addresses(value, &mut connection.local),
            "remote_addrs" => addresses(value, &mut connection.remote),
            "proposals" => {
                words::put_proposals(&mut connection.ike, value);
                Ok(())
            }
            "rekey_time" => words::put_time(&mut connection.ike, "rekey_time", value),
            "reauth_time" => words::put_time(&mut connection.ike, "reauth_time", value),
            "dpd_delay" => words::put_time(&mut connection.ike, "dpd_delay", value),
            "mobike" => {
                if words::truth(value) {
                    connection.ike.insert("mobike", true.into());
                }
                Ok(())
            }
            "version" if value == "1" => {
                Err("IKEv1 is not spoken: the far end has to speak IKEv2".to_owned())
            }
            OTHERS => Err(format!("what {value} says is not read here: write it out")),
            key if OURS.contains(&key) => Ok(()),
            key => Err(format!("{key} = {value} is not carried over")),
        };
        if let Err(reason) = done {
            notes.add(*line, reason);
        }
    }
    for local in section.named("local") {
        connection.local_id = local.value("id").map(str::to_owned);
    }
    for remote in section.named("remote") {
        connection.remote_id = remote.value("id").map(str::to_owned);
        connection.psk |= remote.value("auth") == Some("psk");
    }
    for (name, section, line) in &section.sections {
        if name == "children" {
            let children = section.sections.iter();
            let children = children.map(|(name, section, line)| child(name, section, *line, notes));
            connection.children.extend(children);
        } else if !["local", "remote"]
            .iter()
            .any(|it| name.strip_prefix(it).is_some_and(is_suffix))
        {
            notes.add(
                *line,
                format!("section {name} of {} is not carried over", connection.name),
            );
        }
    }
    connection
}

/// Adds those that are addresses; an error names one that is none.
fn addresses(text: &str, to: &mut Vec<String>) -> Result<(), String> {
    let mut strange = Vec::new();
    for word in text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match words::address(word) {
            Some(address) => to.push(address),
            None => strange.push(word),
        }
    }
    match strange.is_empty() {
        true => Ok(()),
        false => Err(format!("{} is no single address", strange.join(", "))),
    }
}

/// What the agent does its own way, whatever is written.
const OF_AGENT: [&str; 14] = [
    "start_action",
    "close_action",
    "dpd_action",
    "mode",
    "life_time",
    "rand_time",
    "life_bytes",
    "life_packets",
    "rand_bytes",
    "rand_packets",
    "reqid",
    "priority",
    "interface",
    "hostaccess",
];

fn child(name: &str, section: &Section, line: usize, notes: &mut Notes) -> Child {
    let mut child = Child::default();
    for (key, value, line) in &section.values {
        let done = match key.as_str() {
            "local_ts" => selectors(value, &mut child.local),
            "remote_ts" => selectors(value, &mut child.remote),
            "esp_proposals" => {
                words::put_proposals(&mut child.esp, value);
                Ok(())
            }
            "rekey_time" => words::put_time(&mut child.esp, "rekey_time", value),
            "replay_window" => match value.parse::<i64>() {
                Ok(window @ 32..=4096) => {
                    child.esp.insert("replay_window", window.into());
                    Ok(())
                }
                _ => Err(format!(
                    "replay_window = {value} is not possible, 32 to 4096 is"
                )),
            },
            "policies_fwd_out" => {
                if words::truth(value) {
                    child.esp.insert("policies_fwd_out", true.into());
                }
                Ok(())
            }
            "hw_offload" => {
                if value != "no" {
                    child.esp.insert("hw_offload", value.as_str().into());
                }
                Ok(())
            }
            "mode" if value == "iptfs" => {
                child.esp.insert("mode", "iptfs".into());
                Ok(())
            }
            "mode" if value != "tunnel" => Err(format!(
                "mode = {value}: tunnels of a mesh are in tunnel mode"
            )),
            "if_id_in" | "if_id_out" => {
                child.number = child.number.or(words::number(value));
                Ok(())
            }
            "mark_in" | "mark_out" => {
                child.number = child.number.or(words::number(value));
                child.vti = true;
                Ok(())
            }
            "updown" => Err(format!(
                "{value} is not run: interfaces, nexthop groups and routes are made by the agent; its rules for the packet filter are docs/firewall.md's business"
            )),
            OTHERS => Err(format!("what {value} says is not read here: write it out")),
            key if OF_AGENT.contains(&key) => Ok(()),
            key => Err(format!("{key} = {value} is not carried over")),
        };
        if let Err(reason) = done {
            notes.add(*line, reason);
        }
    }
    if section.value("local_ts").is_none() || section.value("remote_ts").is_none() {
        notes.add(line, format!("{name} carries the gateways' own addresses only, as it has no traffic selectors; a tunnel of a mesh carries everything"));
    }
    child
}

/// Adds what is a prefix; everything is what no selectors are.
pub(super) fn selectors(text: &str, to: &mut Vec<ipnet::IpNet>) -> Result<(), String> {
    let mut strange = Vec::new();
    for word in text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        match words::selector(word) {
            Selector::Net(net) => to.push(net),
            Selector::Everything => {}
            Selector::Own | Selector::Strange => strange.push(word),
        }
    }
    match strange.is_empty() {
        true => Ok(()),
        false => Err(format!("{} is no prefix", strange.join(", "))),
    }
}

/// A text's sections. Values end with their line, or with the section's brace.
pub(super) fn parse(text: &str) -> Result<Section, Torn> {
    let mut open: Vec<(String, Section, usize)> = vec![(String::new(), Section::default(), 0)];
    let mut rest = text;
    let mut line = 1;
    loop {
        rest = rest.trim_start_matches(|c: char| {
            line += usize::from(c == '\n');
            c.is_whitespace() || c == ';'
        });
        let Some(first) = rest.chars().next() else {
            break;
        };
        match first {
            '#' => rest = rest.find('\n').map_or("", |end| &rest[end..]),
            '}' => {
                rest = &rest[1..];
                let closed = open.pop();
                match (closed, open.last_mut()) {
                    (Some(section), Some((_, parent, _))) => parent.sections.push(section),
                    _ => return Err(torn(line, "this brace closes nothing")),
                }
            }
            _ => {
                let end = rest.find(['=', '{', '}', '#', '\n']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                let key = key.trim();
                let began = line;
                if let Some(file) = key.strip_prefix("include ") {
                    rest = after;
                    push(
                        &mut open,
                        ("include".to_owned(), file.trim().to_owned(), began),
                    );
                } else if let Some(after) = after.strip_prefix('=') {
                    let (value, left, lines) = value(after);
                    (rest, line) = (left, line + lines);
                    push(&mut open, (key.to_owned(), value, began));
                } else {
                    // The brace may stand on the next line.
                    let opened = after.trim_start_matches(|c: char| {
                        line += usize::from(c == '\n');
                        c.is_whitespace()
                    });
                    rest = opened.strip_prefix('{').ok_or_else(|| {
                        torn(began, format!("{key:?} is neither a value (KEY = VALUE) nor a section (NAME {{ … }})"))
                    })?;
                    if open.len() > DEEPEST {
                        return Err(torn(began, "sections are too deep"));
                    }
                    let mut section = Section::default();
                    let (name, others) = key.split_once(':').unwrap_or((key, ""));
                    if !others.is_empty() {
                        section
                            .values
                            .push((OTHERS.to_owned(), others.trim().to_owned(), began));
                    }
                    open.push((name.trim().to_owned(), section, began));
                }
            }
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some((_, root, _)), true) => Ok(root),
        (Some((name, _, line)), false) => Err(torn(line, format!("section {name} is not closed"))),
        (None, _) => Ok(Section::default()),
    }
}

fn push(open: &mut [(String, Section, usize)], value: (String, String, usize)) {
    if let Some((_, section, _)) = open.last_mut() {
        section.values.push(value);
    }
}

fn torn(line: usize, reason: impl Into<String>) -> Torn {
    Torn {
        line,
        reason: reason.into(),
    }
}

/// A value, what comes after it, and how many lines it goes over. Quoted ones may go over several.
fn value(text: &str) -> (String, &str, usize) {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(quoted) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    let lines = value.matches('\n').count();
                    return (value, &quoted[at + 1..], lines);
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| match escaped {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                })),
                c => value.push(c),
            }
        }
        let lines = value.matches('\n').count();
        return (value, "", lines);
    }
    let end = text.find(['\n', '#', '}']).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    (value.trim().to_owned(), rest, 0)
}
