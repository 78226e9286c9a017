//! ipsec.conf and ipsec.secrets, as strongSwan's `ipsec` starter reads them.

use super::swanctl::selectors;
use super::words;
use super::{Child, Connection, Host, Key, Notes, Torn};
use routemesh_proto::Secret;
use std::collections::BTreeMap;

/// A `conn` with what its defaults say.
#[derive(Clone, Debug, Default)]
struct Conn {
    name: String,
    line: usize,
    /// Value and line of each key.
    values: BTreeMap<String, (String, usize)>,
}

pub(super) fn read(text: &str, host: &mut Host, notes: &mut Notes) -> Result<(), Torn> {
    let conns = conns(text, notes)?;
    let empty = Conn::default();
    let defaults = conns.iter().find(|conn| conn.name == "%default");
    let defaults = defaults.unwrap_or(&empty);
    let whole: Vec<Conn> = conns
        .iter()
        .filter(|conn| !conn.name.starts_with('%'))
        .map(|conn| with_others(conn, &conns, defaults))
        // What is not even started is there for others to take over.
        .filter(|conn| conn.values.contains_key("right") || conn.values.contains_key("auto"))
        .collect();
    let turned = turned(&whole);
    for conn in &whole {
        host.connections.push(connection(conn, turned, notes));
    }
    Ok(())
}

fn conns(text: &str, notes: &mut Notes) -> Result<Vec<Conn>, Torn> {
    let mut conns: Vec<Conn> = Vec::new();
    let mut in_conn = false;
    for (at, whole) in text.lines().enumerate() {
        let line = at + 1;
        let said = uncommented(whole);
        let indented = said.starts_with([' ', '\t']);
        let said = said.trim();
        if said.is_empty() {
            continue;
        }
        if !indented {
            let (kind, name) = said.split_once(char::is_whitespace).unwrap_or((said, ""));
            in_conn = kind == "conn";
            match kind {
                "conn" => conns.push(Conn {
                    name: name.trim().to_owned(),
                    line,
                    ..Conn::default()
                }),
                "config" | "ca" | "version" => {}
                "include" => notes.add(
                    line,
                    "what is included is not read: give the files themselves",
                ),
                _ => {
                    let reason = format!("{kind:?} is no section: conn, config, ca or include");
                    return Err(Torn { line, reason });
                }
            }
            continue;
        }
        let Some((key, value)) = said.split_once('=') else {
            let reason = format!("{said:?} is not KEY = VALUE");
            return Err(Torn { line, reason });
        };
        let value = value.trim().trim_matches('"').to_owned();
        if let Some(conn) = conns.last_mut().filter(|_| in_conn) {
            conn.values.insert(key.trim().to_owned(), (value, line));
        }
    }
    Ok(conns)
}

/// A line without its comment, which a # begins that no quotes are around.
fn uncommented(line: &str) -> &str {
    let mut quoted = false;
    let end = line.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    end.and_then(|end| line.get(..end)).unwrap_or(line)
}

/// What a connection says counts before what it takes over by `also`, and that before the defaults.
fn with_others(conn: &Conn, conns: &[Conn], defaults: &Conn) -> Conn {
    let mut whole = conn.clone();
    let mut next = conn;
    // Whoever names each other in a ring is left after as many steps as there are connections.
    for _ in 0..conns.len() {
        let also = next.values.get("also");
        let found = also.and_then(|(name, _)| conns.iter().find(|it| it.name == *name));
        let Some(other) = found else {
            break;
        };
        next = other;
        take_over(&mut whole, other);
    }
    take_over(&mut whole, defaults);
    whole
}

fn take_over(conn: &mut Conn, other: &Conn) {
    for (key, value) in &other.values {
        conn.values
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
}

/// Left is right: charon finds out which side is its own, and here only the sides' addresses tell. The side that
/// is the same in all connections while the other is not, is the host's.
fn turned(conns: &[Conn]) -> bool {
    let same = |key: &str| {
        let mut values = conns
            .iter()
            .map(|conn| conn.values.get(key).map(|(it, _)| it));
        let first = values.next();
        values.all(|it| Some(it) == first)
    };
    conns.len() > 1 && same("right") && !same("left")
}

/// Both sides' keys, without "left" or "right".
const OF_SIDES: [&str; 4] = ["", "id", "subnet", "auth"];

/// What the agent does its own way, whatever is written.
const OF_AGENT: [&str; 22] = [
    "also",
    "auto",
    "authby",
    "closeaction",
    "dpdaction",
    "dpdtimeout",
    "forceencaps",
    "installpolicy",
    "keyexchange",
    "keyingtries",
    "rekey",
    "rekeyfuzz",
    "type",
    "fragmentation",
    "lifebytes",
    "lifepackets",
    "marginbytes",
    "marginpackets",
    "margintime",
    "rekeymargin",
    "reqid",
    "reauth",
];

fn connection(conn: &Conn, turned: bool, notes: &mut Notes) -> Connection {
    let value = |key: &str| conn.values.get(key).map(|(value, _)| value.as_str());
    let (own, far) = if turned {
        ("right", "left")
    } else {
        ("left", "right")
    };
    let mut connection = Connection {
        name: conn.name.clone(),
        file: notes.file.to_owned(),
        line: conn.line,
        local_id: value(&format!("{own}id")).map(str::to_owned),
        remote_id: value(&format!("{far}id")).map(str::to_owned),
        psk: [value("authby"), value(&format!("{far}auth"))]
            .iter()
            .any(|auth| matches!(auth, Some("psk" | "secret"))),
        ..Connection::default()
    };
    let mut child = Child::default();
    let margin = value("margintime").or(value("rekeymargin")).unwrap_or("9m");
    let margin = words::seconds(margin).unwrap_or_default();
    for (key, (value, line)) in &conn.values {
        let done = match key.as_str() {
            "ike" => {
                words::put_proposals(&mut connection.ike, value);
                Ok(())
            }
            "esp" => {
                words::put_proposals(&mut child.esp, value);
                Ok(())
            }
            "ikelifetime" => rekeyed(&mut connection.ike, value, margin),
            "lifetime" | "keylife" => rekeyed(&mut child.esp, value, margin),
            "dpddelay" => words::put_time(&mut connection.ike, "dpd_delay", value),
            "mobike" => Ok(()),
            "mark" | "mark_in" | "mark_out" => {
                child.number = child.number.or(words::number(value));
                child.vti = true;
                Ok(())
            }
            "if_id_in" | "if_id_out" => {
                child.number = child.number.or(words::number(value));
                Ok(())
            }
            "replay_window" => match value.parse::<i64>() {
                Ok(window @ 32..=4096) => {
                    child.esp.insert("replay_window", window.into());
                    Ok(())
                }
                _ => Err(format!(
                    "replay_window={value} is not possible, 32 to 4096 is"
                )),
            },
            "keyexchange" if value == "ikev1" => {
                Err("IKEv1 is not spoken: the far end has to speak IKEv2".to_owned())
            }
            "type" if value != "tunnel" => Err(format!(
                "type={value}: tunnels of a mesh are in tunnel mode"
            )),
            "leftupdown" | "rightupdown" => Err(format!(
                "{value} is not run: interfaces, nexthop groups and routes are made by the agent"
            )),
            key if OF_AGENT.contains(&key) => Ok(()),
            key => match key.strip_prefix(own).or(key.strip_prefix(far)) {
                Some(rest) if OF_SIDES.contains(&rest) => Ok(()),
                _ => Err(format!("{key}={value} is not carried over")),
            },
        };
        if let Err(reason) = done {
            notes.add(*line, reason);
        }
    }
    if value("mobike") == Some("yes") {
        connection.ike.insert("mobike", true.into());
    }
    for (side, to) in [(own, &mut connection.local), (far, &mut connection.remote)] {
        match conn.values.get(side) {
            Some((value, line)) => match words::address(value) {
                Some(address) => to.push(address),
                None => notes.add(*line, format!("{side}={value} is no single address")),
            },
            None => notes.add(
                conn.line,
                format!("{} does not say its {side} address", conn.name),
            ),
        }
    }
    for (side, to) in [(own, &mut child.local), (far, &mut child.remote)] {
        match conn.values.get(&format!("{side}subnet")) {
            Some((value, line)) => {
                if let Err(reason) = selectors(value, to) {
                    notes.add(*line, reason);
                }
            }
            None => notes.add(conn.line, format!(
                "{} carries nothing but its {side} gateway's own addresses, as it has no {side}subnet; a tunnel of a mesh carries everything",
                conn.name
            )),
        }
    }
    connection.children.push(child);
    connection
}

/// `ipsec` has lifetimes, and new keys so much before their end.
fn rekeyed(options: &mut super::Options, lifetime: &str, margin: u64) -> Result<(), String> {
    let Some(seconds) = words::seconds(lifetime) else {
        return Err(format!("{lifetime:?} is not a time"));
    };
    let before = seconds.saturating_sub(margin);
    words::put_time(options, "rekey_time", &format!("{before}s"))
}

/// Lines of "ID ID : PSK \"secret\"".
pub(super) fn read_secrets(text: &str, host: &mut Host, notes: &mut Notes) {
    for (at, whole) in text.lines().enumerate() {
        let line = uncommented(whole).trim();
        if line.is_empty() {
            continue;
        }
        // A colon within an IPv6 address has no space before it.
        let split = match line.strip_prefix(": ") {
            Some(rest) => Some(("", rest)),
            None => line.split_once(" : "),
        };
        let said =
            split.and_then(|(ids, rest)| Some((ids, rest.trim().strip_prefix("PSK ")?.trim())));
        let quoted = said
            .and_then(|(ids, secret)| Some((ids, secret.strip_prefix('"')?.strip_suffix('"')?)));
        match quoted {
            Some((ids, secret)) => host.keys.push(Key {
                ids: ids.split_whitespace().map(str::to_owned).collect(),
                secret: Secret::from(secret.to_owned()),
            }),
            // Not shown: it may be a secret.
            None => notes.add(
                at + 1,
                "this is no pre-shared key in quotes: it is not carried over",
            ),
        }
    }
}
