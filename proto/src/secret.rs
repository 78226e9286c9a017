//! A text that must not be seen.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// A password, or a text that holds some. It has no `Display`, and its `Debug` says only that it is
/// there: whoever needs the text says so with [`Secret::expose`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself: never to be printed, logged or reported.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Fields of messages, and keys of specifications, whose values are secrets.
const SECRET_FIELDS: [&str; 2] = ["password", "psk"];

/// Whether the value of a message's field, or of a specification's key, must not be shown.
pub fn is_secret(field: &str) -> bool {
    SECRET_FIELDS.contains(&field)
}

/// Reads a text of which nothing may stand in an error: serde's own shows a value of another type.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_string(Text)
}

struct Text;

impl Text {
    fn wrong<T, E: de::Error>() -> Result<T, E> {
        Err(E::custom("a secret is written as a string in quotes"))
    }
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<String, E> {
        Self::wrong()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<String, E> {
        Self::wrong()
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<String, E> {
        Self::wrong()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<String, E> {
        Self::wrong()
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<String, E> {
        Self::wrong()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<String, E> {
        Self::wrong()
    }
}

// Generated messages have plain strings for their secrets. Their `Debug` is ours, and names every
// field, so that a new one is not forgotten.

impl fmt::Debug for crate::Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            asn,
            interface,
            range,
            password,
            ttl_security,
            role,
            max_prefixes,
            add_path,
            long_lived,
            bfd,
            import,
            export,
        } = self;
        let password = (!password.is_empty()).then(|| Secret::from(password.as_str()));
        f.debug_struct("Router")
            .field("address", address)
            .field("asn", asn)
            .field("interface", interface)
            .field("range", range)
            .field("password", &password)
            .field("ttl_security", ttl_security)
            .field("role", role)
            .field("max_prefixes", max_prefixes)
            .field("add_path", add_path)
            .field("long_lived", long_lived)
            .field("bfd", bfd)
            .field("import", import)
            .field("export", export)
            .finish()
    }
}

impl fmt::Debug for crate::Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connection,
            local_id,
            remote_id,
            psk,
            local_selectors,
            remote_selectors,
            sites,
            prefix_length,
            max_prefixes,
            hold_time,
            ping,
            bfd,
            import,
            export,
        } = self;
        f.debug_struct("Foreign")
            .field("connection", connection)
            .field("local_id", local_id)
            .field("remote_id", remote_id)
            .field("psk", &Secret::from(psk.as_str()))
            .field("local_selectors", local_selectors)
            .field("remote_selectors", remote_selectors)
            .field("sites", sites)
            .field("prefix_length", prefix_length)
            .field("max_prefixes", max_prefixes)
            .field("hold_time", hold_time)
            .field("ping", ping)
            .field("bfd", bfd)
            .field("import", import)
            .field("export", export)
            .finish()
    }
}

impl fmt::Debug for crate::ApplyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            text,
            file,
            expect,
            canary,
        } = self;
        f.debug_struct("ApplyRequest")
            .field("text", &Secret::from(text.as_str()))
            .field("file", file)
            .field("expect", expect)
            .field("canary", canary)
            .finish()
    }
}

impl fmt::Debug for crate::PlanRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, file } = self;
        f.debug_struct("PlanRequest")
            .field("text", &Secret::from(text.as_str()))
            .field("file", file)
            .finish()
    }
}

impl fmt::Debug for crate::BackupPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data } = self;
        write!(f, "BackupPiece({} bytes)", data.len())
    }
}

/// It may be of a config.
impl fmt::Debug for crate::Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, last } = self;
        write!(f, "Piece({} bytes, last: {last})", data.len())
    }
}

impl fmt::Debug for crate::CapturePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, dropped } = self;
        write!(f, "CapturePiece({} bytes, {dropped} dropped)", data.len())
    }
}

impl fmt::Debug for crate::EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _, request } = self;
        f.debug_struct("EnrollRequest")
            .field("secret", &Secret::default())
            .field("request", request)
            .finish()
    }
}

impl fmt::Debug for crate::Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            controllers,
            authority,
            role,
            name,
            secret: _,
        } = self;
        f.debug_struct("Token")
            .field("controllers", controllers)
            .field("authority", authority)
            .field("role", role)
            .field("name", name)
            .field("secret", &Secret::default())
            .finish()
    }
}

impl fmt::Debug for crate::CreateTokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            secret: _,
            authority,
            known,
        } = self;
        f.debug_struct("CreateTokenReply")
            .field("secret", &Secret::default())
            .field("authority", authority)
            .field("known", known)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ApplyRequest, Config, ControllerMessage, Foreign, Router, Tunnel, controller_message,
    };
    use std::collections::BTreeSet;

    #[test]
    fn no_debug_output_holds_a_password() {
        let router = Router {
            address: "10.0.1.254".into(),
            password: "hunter2".into(),
            ..Router::default()
        };
        let tunnel = Tunnel {
            foreign: Some(Foreign {
                remote_id: "198.51.100.1".into(),
                psk: "hunter2".into(),
                ..Foreign::default()
            }),
            ..Tunnel::default()
        };
        let message = ControllerMessage {
            message: Some(controller_message::Message::Config(Config {
                routers: vec![router],
                tunnels: vec![tunnel],
                ..Config::default()
            })),
        };
        let request = ApplyRequest {
            text: "password = \"hunter2\"".into(),
            file: "mesh.toml".into(),
            ..ApplyRequest::default()
        };
        let text = format!("{message:?} {request:#?} {:?}", Secret::from("hunter2"));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("10.0.1.254") && text.contains("mesh.toml"));
        assert!(text.contains("198.51.100.1"));
    }

    #[test]
    fn every_secret_of_the_contract_is_known_by_its_name() {
        let contract = include_str!("../routemesh.proto");
        let lines: Vec<&str> = contract.lines().map(str::trim).collect();
        let told: BTreeSet<&str> = lines
            .windows(2)
            .filter(|pair| pair[0].starts_with("//") && pair[0].ends_with("A secret."))
            .filter_map(|pair| pair[1].split(" = ").next()?.split(' ').next_back())
            .collect();
        assert_eq!(told, BTreeSet::from(SECRET_FIELDS));
        assert!(told.into_iter().all(is_secret) && !is_secret("file"));
    }

    #[test]
    fn no_error_about_a_config_holds_a_password() {
        for written in [
            "12345678",
            "-12345678",
            "1234.5678",
            "[12345678]",
            "{ a = 12345678 }",
        ] {
            let config = format!("[[routers]]\npassword = {written}");
            let error = toml::from_str::<Config>(&config).unwrap_err();
            assert!(!error.message().contains("1234"), "{}", error.message());
            let config = format!("[[tunnels]]\nforeign.psk = {written}");
            let error = toml::from_str::<Config>(&config).unwrap_err();
            assert!(!error.message().contains("1234"), "{}", error.message());
        }
        let config: Config = toml::from_str("[[routers]]\npassword = \"hunter2\"").unwrap();
        assert_eq!(config.routers[0].password, "hunter2");
        let config: Config = toml::from_str("[[routers]]\nasn = 1").unwrap();
        assert_eq!(config.routers[0].password, "");
    }
}
