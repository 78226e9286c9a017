//! A VICI message as a plain tree, checked before it is sent and read without expectations.
//!
//! `serde_vici` writes a name's length in one byte and a value's in two, and lets both wrap around;
//! and a type that refuses what charon sends ends rsvici's event stream. So what we send is checked
//! here field by field, and what we receive is taken as it comes: [`Received`] never fails to
//! deserialize.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::fmt;

/// Longest packet charon takes or sends, its type and name included.
pub const LONGEST_PACKET: usize = 512 * 1024;
/// Longest value: its length has two bytes on the wire.
pub const LONGEST_VALUE: usize = u16::MAX as usize;
/// Longest name: its length has one byte on the wire.
pub const LONGEST_NAME: usize = u8::MAX as usize;
/// Sections within sections that are read; charon's own messages have five.
const DEEPEST: usize = 16;

/// Named values in the order in which they are on the wire. A name may occur twice.
///
/// It may hold a private key, so it has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, Value)>);

/// What a name stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Anything scalar: text on the wire, even if it is a number.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// More of the same.
    Section(Message),
}

/// What does not fit VICI's length fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// The sections down to the value or name, with dots; `message` for all of it.
    pub field: String,
    /// Its bytes.
    pub length: usize,
    /// How many there may be.
    pub longest: usize,
}

impl Message {
    /// A message with nothing in it.
    pub fn new() -> Message {
        Message::default()
    }

    /// With one more text.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<String>) -> Message {
        self.0.push((name.to_owned(), Value::Text(value.into())));
        self
    }

    /// With one more list, unless it is empty: to charon that is the same as none.
    #[must_use]
    pub fn list(
        mut self,
        name: &str,
        items: impl IntoIterator<Item = impl Into<String>>,
    ) -> Message {
        let items: Vec<String> = items.into_iter().map(Into::into).collect();
        if !items.is_empty() {
            self.0.push((name.to_owned(), Value::List(items)));
        }
        self
    }

    /// With one more section.
    #[must_use]
    pub fn section(mut self, name: &str, section: Message) -> Message {
        self.0.push((name.to_owned(), Value::Section(section)));
        self
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The first value of that name.
    fn get(&self, name: &str) -> Option<&Value> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// The text of that name.
    pub fn get_text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The list of that name, or nothing.
    pub fn get_list(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// The section of that name.
    pub fn get_section(&self, name: &str) -> Option<&Message> {
        match self.get(name) {
            Some(Value::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// Names and contents of all sections directly in this one.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Message)> {
        self.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name, section)),
            _ => None,
        })
    }

    /// Whether everything fits the length fields of the protocol, as the arguments of `command`.
    pub fn check(&self, command: &str) -> Result<(), TooLong> {
        // Type, length of the name, the name.
        let length = 2 + command.len() + self.check_within("")?;
        if length > LONGEST_PACKET {
            return Err(TooLong {
                field: "message".into(),
                length,
                longest: LONGEST_PACKET,
            });
        }
        Ok(())
    }

    /// The same within a section; gives the bytes it takes on the wire.
    fn check_within(&self, path: &str) -> Result<usize, TooLong> {
        let mut total = 0;
        for (name, value) in self.iter() {
            let field = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            let fits = |length: usize, longest: usize| match length <= longest {
                true => Ok(length),
                false => Err(TooLong {
                    field: field.clone(),
                    length,
                    longest,
                }),
            };
            total += 2 + fits(name.len(), LONGEST_NAME)?;
            total += match value {
                Value::Text(text) => 2 + fits(text.len(), LONGEST_VALUE)?,
                Value::Section(section) => 1 + section.check_within(&field)?,
                Value::List(items) => {
                    let mut sum = 1;
                    for item in items {
                        sum += 3 + fits(item.len(), LONGEST_VALUE)?;
                    }
                    sum
                }
            };
        }
        Ok(total)
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} has {} bytes, {} at most can be sent",
            self.field, self.length, self.longest
        )
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items),
            Value::Section(section) => section.serialize(serializer),
        }
    }
}

/// A message as it came, or nothing if it could not be read. Deserializing it never fails.
pub struct Received(pub Option<Message>);

impl<'de> serde::Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Received, D::Error> {
        let message = match Depth(DEEPEST).deserialize(deserializer) {
            Ok(Value::Section(message)) => Some(message),
            _ => None,
        };
        Ok(Received(message))
    }
}

/// Reads any value with at most so many sections in each other: recursion must end somewhere.
struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of texts or a section")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Depth(0))? {
            match item {
                Value::Text(text) => list.push(text),
                _ => return Err(A::Error::custom("a list of something else than texts")),
            }
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some(depth) = self.0.checked_sub(1) else {
            return Err(A::Error::custom("too many sections in each other"));
        };
        let mut message = Message::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Depth(depth))?;
            message.0.push((name, value));
        }
        Ok(Value::Section(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> String {
        "x".repeat(length)
    }

    #[test]
    fn what_fits_is_let_through() {
        let message = Message::new()
            .text(&text(255), text(65_535))
            .list("list", [text(65_535)]);
        assert_eq!(message.check("load-conn"), Ok(()));
    }

    #[test]
    fn what_is_too_long_is_named() {
        let too_long = |field: &str, length, longest| {
            Err(TooLong {
                field: field.into(),
                length,
                longest,
            })
        };
        let certs = Message::new().list("certs", [text(3), text(65_536)]);
        let connection = Message::new().section("rm1-v2", Message::new().section("local", certs));
        assert_eq!(
            connection.check("load-conn"),
            too_long("rm1-v2.local.certs", 65_536, 65_535)
        );
        let name = Message::new().text(&text(256), "");
        assert_eq!(name.check("load-conn"), too_long(&text(256), 256, 255));
    }

    #[test]
    fn a_message_of_512_kilobytes_is_the_longest() {
        // Type, length and name of the command: 3. The list: start, its name, its end: 4.
        // An item: its start, its length: 3, and itself.
        let full = 512 * 1024 - 3 - 4;
        let items = |last| {
            vec![text(65_000); 8]
                .into_iter()
                .chain([text(last)])
                .collect::<Vec<_>>()
        };
        let last = full - 8 * 65_003 - 3;
        assert_eq!(Message::new().list("l", items(last)).check("c"), Ok(()));
        let over = Message::new().list("l", items(last + 1)).check("c");
        assert_eq!(
            over,
            Err(TooLong {
                field: "message".into(),
                length: 524_289,
                longest: 524_288
            })
        );
    }
}
