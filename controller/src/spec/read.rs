//! TOML -> values, one by one, each with its place.

use super::place::{At, Lines, Place, SpecError, quote};
use super::{Gateway, MeshSpec, OuterAddress, Router, Site, TunnelKind, values};
use ipnet::{IpNet, Ipv6Net};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Beyond this, only the first syntax error is looked for.
const RECOVERABLE: usize = 1 << 20;

type Value<'t> = Spanned<DeValue<'t>>;

/// The specification as far as it can be read, and what cannot.
pub(super) fn read(text: &str) -> (Option<MeshSpec>, Vec<SpecError>) {
    let mut reader = Reader {
        lines: Lines::new(text),
        errors: Vec::new(),
    };
    let (root, broken) = match DeTable::parse(text) {
        Ok(root) => (root, vec![]),
        Err(error) if text.len() > RECOVERABLE => (Spanned::new(0..0, DeTable::new()), vec![error]),
        Err(_) => DeTable::parse_recoverable(text),
    };
    // What a torn text seems to say is not worth checking; a key written twice tears nothing.
    let torn = broken.iter().any(|error| error.message() != TWICE);
    for error in broken {
        reader.syntax(&error);
    }
    let spec = if torn {
        None
    } else {
        reader.mesh(root.get_ref())
    };
    (spec, reader.errors)
}

/// How the TOML parser says it.
const TWICE: &str = "duplicate key";

struct Reader<'t> {
    lines: Lines<'t>,
    errors: Vec<SpecError>,
}

/// A table, and what to call it in messages.
struct Table<'r, 't> {
    what: String,
    place: Place,
    entries: &'r DeTable<'t>,
}

impl<'r, 't> Table<'r, 't> {
    fn get(&self, key: &str) -> Option<&'r Value<'t>> {
        self.entries.get(key)
    }
}

impl<'t> Reader<'t> {
    fn at<T>(&self, span: Range<usize>, value: T) -> At<T> {
        let place = self.lines.place(span.start);
        At { value, place }
    }

    fn wrong(&mut self, place: Place, reason: impl Into<String>) {
        let reason = reason.into();
        self.errors.push(SpecError { place, reason });
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let place = self.lines.place(span.start);
        let reason = if error.message() == TWICE {
            let key = self.lines.text_at(span).trim_matches(['"', '\'']);
            format!(
                "{} is written twice: give it another name or remove one",
                quote(key)
            )
        } else {
            format!("not TOML: {}", error.message().replace('\n', ", "))
        };
        self.wrong(place, reason);
    }

    /// The value if its text is one, or the reason why it is not.
    fn text<T>(
        &mut self,
        what: &str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let place = self.lines.place(value.span().start);
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse(text),
            other => Err(format!(
                "{what} is of type {}: write it as a string in quotes",
                other.type_str()
            )),
        };
        match parsed {
            Ok(value) => Some(At { value, place }),
            Err(reason) => {
                self.wrong(place, reason);
                None
            }
        }
    }

    fn number<T>(
        &mut self,
        what: &str,
        value: &Value<'t>,
        parse: impl Fn(u64) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("{what} cannot be {number}"))
                .and_then(parse),
            other => Err(format!(
                "{what} is of type {}: write a number without quotes",
                other.type_str()
            )),
        };
        parsed
            .map_err(|reason| self.wrong(self.lines.place(value.span().start), reason))
            .ok()
    }

    /// The elements of an array that is not longer than `most`; `cure` says what to do where it
    /// must not be empty.
    fn array<'r>(
        &mut self,
        what: &str,
        value: &'r Value<'t>,
        most: usize,
        cure: Option<&str>,
    ) -> Vec<&'r Value<'t>> {
        let wrong = match (value.get_ref(), cure) {
            (DeValue::Array(values), Some(cure)) if values.is_empty() => {
                format!("{what} is empty: {cure}")
            }
            (DeValue::Array(values), _) if values.len() <= most => return values.iter().collect(),
            (DeValue::Array(values), _) => {
                format!("{what} has {} entries, at most {most}", values.len())
            }
            (other, _) => format!(
                "{what} is of type {}: write a list in brackets",
                other.type_str()
            ),
        };
        self.wrong(self.lines.place(value.span().start), wrong);
        Vec::new()
    }

    fn table<'r>(
        &mut self,
        what: String,
        place: Place,
        value: &'r DeValue<'t>,
        known: &[&str],
    ) -> Option<Table<'r, 't>> {
        let DeValue::Table(entries) = value else {
            let kind = value.type_str();
            self.wrong(place, format!("{what} is of type {kind}: write a table"));
            return None;
        };
        self.known(&what, entries, known);
        Some(Table {
            what,
            place,
            entries,
        })
    }

    fn known(&mut self, what: &str, entries: &DeTable<'t>, known: &[&str]) {
        for key in entries.keys() {
            if known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let place = self.lines.place(key.span().start);
            let cure = match nearest(key.get_ref(), known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there are {}", known.join(", ")),
            };
            let key = quote(key.get_ref());
            self.wrong(place, format!("{key} is not a key of {what}: {cure}"));
        }
    }

    /// A table's named entries in the order of the file. A name that cannot be one is reported.
    fn named<'r>(
        &mut self,
        what: &str,
        place: Place,
        value: &'r DeValue<'t>,
    ) -> Vec<(At<String>, &'r DeValue<'t>)> {
        let DeValue::Table(entries) = value else {
            let kind = value.type_str();
            self.wrong(place, format!("{what} is of type {kind}: write a table"));
            return Vec::new();
        };
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut named = Vec::new();
        for (key, value) in entries {
            let name = self.at(key.span(), key.get_ref().to_string());
            if let Err(reason) = values::check_name(&name) {
                self.wrong(name.place, reason);
            }
            named.push((name, value.get_ref()));
        }
        named
    }

    fn mesh(&mut self, root: &DeTable<'t>) -> Option<MeshSpec> {
        self.known("a specification", root, &["mesh", "sites"]);
        let top = Place { line: 1, column: 1 };
        let Some((key, value)) = root.get_key_value("mesh") else {
            self.wrong(
                top,
                "there is no [mesh]: write one with `as` and `interconnect`",
            );
            self.sites(root, 0);
            return None;
        };
        let place = self.lines.place(key.span().start);
        const KNOWN: [&str; 6] = [
            "as",
            "interconnect",
            "tunnel",
            "ike_proposals",
            "esp_proposals",
            "hold_time",
        ];
        let mesh = self.table("[mesh]".to_owned(), place, value.get_ref(), &KNOWN)?;
        let asn = self.required(&mesh, "as", "the AS of the mesh, like as = 65000");
        let asn = asn.and_then(|value| self.number("as", value, values::asn));
        let pool = self.required(
            &mesh,
            "interconnect",
            "where tunnels take their addresses from, like interconnect = \"fd00:ff::/64\"",
        );
        let interconnect: Option<At<Ipv6Net>> =
            pool.and_then(|value| self.text("interconnect", value, values::interconnect));
        let tunnel = mesh.get("tunnel").and_then(|value| {
            self.text("tunnel", value, |text| match text {
                "xfrm" => Ok(TunnelKind::Xfrm),
                "vti" => Ok(TunnelKind::Vti),
                other => Err(format!(
                    "{} is not a kind of tunnel: write \"xfrm\" or \"vti\"",
                    quote(other)
                )),
            })
        });
        let ike = self.proposals(&mesh, "ike_proposals", "aes256gcm16-prfsha384-ecp384");
        let esp = self.proposals(&mesh, "esp_proposals", "aes256gcm16-ecp384");
        let hold_time = mesh.get("hold_time").and_then(|value| {
            self.number("hold_time", value, |seconds| {
                u16::try_from(seconds)
                    .ok()
                    .filter(|seconds| *seconds >= 3)
                    .ok_or_else(|| format!("hold_time is {seconds}: 3 to 65535 seconds"))
            })
        });
        let sites = self.sites(root, asn.unwrap_or_default());
        Some(MeshSpec {
            asn: asn?,
            interconnect: interconnect?,
            tunnel: tunnel.map_or(TunnelKind::Xfrm, |tunnel| tunnel.value),
            ike_proposals: ike,
            esp_proposals: esp,
            hold_time: hold_time.unwrap_or(9),
            sites,
        })
    }

    fn required<'r>(
        &mut self,
        table: &Table<'r, 't>,
        key: &str,
        what: &str,
    ) -> Option<&'r Value<'t>> {
        let value = table.get(key);
        if value.is_none() {
            self.wrong(
                table.place,
                format!("{} has no {key:?}: {what}", table.what),
            );
        }
        value
    }

    fn proposals(&mut self, mesh: &Table<'_, 't>, key: &str, default: &str) -> Vec<String> {
        let Some(value) = mesh.get(key) else {
            return vec![default.to_owned()];
        };
        let cure = format!("leave it out for {default:?}");
        let written = self.array(key, value, 16, Some(&cure));
        let read = |value| self.text(key, value, values::proposal);
        let read = written.into_iter().filter_map(read);
        read.map(|proposal| proposal.value).collect()
    }

    fn sites(&mut self, root: &DeTable<'t>, default_asn: u32) -> Vec<Site> {
        let named = match root.get_key_value("sites") {
            Some((key, value)) => {
                let place = self.lines.place(key.span().start);
                self.named("sites", place, value.get_ref())
            }
            None => Vec::new(),
        };
        if named.is_empty() {
            let top = Place { line: 1, column: 1 };
            self.wrong(
                top,
                "there is no site: write [sites.NAME] with its prefixes",
            );
        }
        named
            .into_iter()
            .filter_map(|(name, value)| self.site(name, value, default_asn))
            .collect()
    }

    fn site(&mut self, name: At<String>, value: &DeValue<'t>, default_asn: u32) -> Option<Site> {
        let what = format!("site {}", quote(&name));
        let table = self.table(what, name.place, value, &["as", "prefixes", "gateways"])?;
        let own = table.get("as");
        let asn = own.and_then(|value| self.number("as", value, values::asn));
        let cure = "list what it owns, like prefixes = [\"10.0.1.0/24\"]";
        let written = match self.required(&table, "prefixes", cure) {
            Some(value) => self.array("prefixes", value, 4096, Some(cure)),
            None => Vec::new(),
        };
        let prefixes: Vec<At<IpNet>> = written
            .into_iter()
            .filter_map(|value| self.text("a prefix", value, values::site_prefix))
            .collect();
        let named = match table.entries.get_key_value("gateways") {
            Some((key, value)) => {
                let place = self.lines.place(key.span().start);
                self.named("gateways", place, value.get_ref())
            }
            None => Vec::new(),
        };
        if named.is_empty() {
            let cure = format!(
                "write [sites.{}.gateways.NAME] with its endpoints",
                name.value
            );
            self.wrong(
                table.place,
                format!("{} has no gateway: {cure}", table.what),
            );
        }
        Some(Site {
            asn: asn.unwrap_or(default_asn),
            prefixes,
            gateways: named
                .into_iter()
                .filter_map(|(name, value)| self.gateway(name, value))
                .collect(),
            name,
        })
    }

    fn gateway(&mut self, name: At<String>, value: &DeValue<'t>) -> Option<Gateway> {
        let what = format!("gateway {}", quote(&name));
        let known = ["endpoints", "overlay", "routers", "announce"];
        let table = self.table(what, name.place, value, &known)?;
        let cure = "list its outer addresses, like endpoints = [\"2001:db8:1::1\"]";
        let endpoints = match self.required(&table, "endpoints", cure) {
            Some(value) => {
                let written = self.array("endpoints", value, 16, Some(cure));
                written
                    .into_iter()
                    .filter_map(|value| self.endpoint(value))
                    .collect()
            }
            None => Vec::new(),
        };
        let overlay = table
            .get("overlay")
            .and_then(|value| self.text("overlay", value, values::overlay));
        let routers: Vec<Router> = match table.get("routers") {
            Some(value) => {
                let written = self.array("routers", value, 64, None);
                written
                    .into_iter()
                    .filter_map(|value| self.router(value))
                    .collect()
            }
            None => Vec::new(),
        };
        let announce = match table.get("announce") {
            Some(value) => {
                let written = self.array("announce", value, 32, None);
                written
                    .into_iter()
                    .filter_map(|value| self.protocol(value))
                    .collect()
            }
            // Without a router to ask, the kernel's own connected routes say what is here.
            None if table.get("routers").is_none() => vec!["kernel".to_owned()],
            None => Vec::new(),
        };
        Some(Gateway {
            name,
            endpoints,
            overlay: overlay.map(|overlay| overlay.value),
            routers,
            announce,
        })
    }

    fn endpoint(&mut self, value: &Value<'t>) -> Option<At<OuterAddress>> {
        if !value.get_ref().is_table() {
            return self.text("an endpoint", value, values::endpoint);
        }
        let place = self.lines.place(value.span().start);
        let what = "an endpoint".to_owned();
        let table = self.table(what, place, value.get_ref(), &["host", "family"])?;
        let host = self.required(&table, "host", "like host = \"vpn.example.net\"");
        let family = self.required(&table, "family", "write \"ipv4\" or \"ipv6\"");
        let host = host.and_then(|value| self.text("host", value, values::host));
        let family = family.and_then(|value| self.text("family", value, values::family));
        Some(At {
            value: OuterAddress::Host(host?.value, family?.value),
            place,
        })
    }

    fn router(&mut self, value: &Value<'t>) -> Option<Router> {
        let place = self.lines.place(value.span().start);
        let what = "a router".to_owned();
        let table = self.table(what, place, value.get_ref(), &["address", "as"])?;
        let address = self.required(&table, "address", "like address = \"10.0.1.254\"");
        let asn = self.required(&table, "as", "like as = 65001");
        let address = address.and_then(|value| self.text("address", value, values::unicast));
        let asn = asn.and_then(|value| self.number("as", value, values::asn));
        Some(Router {
            address: address?,
            asn: asn?,
        })
    }

    fn protocol(&mut self, value: &Value<'t>) -> Option<String> {
        if value.get_ref().is_integer() {
            let parse = |number: u64| values::protocol(&number.to_string());
            return self.number("a route protocol", value, parse);
        }
        let name = self.text("a route protocol", value, values::protocol)?;
        Some(name.value)
    }
}

/// The known key that somebody may have meant.
fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let with_distance = known.iter().map(|key| (distance(written, key), *key));
    with_distance
        .filter(|(distance, key)| *distance <= key.len().div_ceil(3))
        .min()
        .map(|(_, key)| key)
}

/// How many letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, other) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, letter) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(*letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        let known = ["endpoints", "overlay", "routers"];
        assert_eq!(nearest("endpoint", &known), Some("endpoints"));
        assert_eq!(nearest("ruoters", &known), Some("routers"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
