//! WireGuard's public keys: points of Curve25519, in base64 as `wg` writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;

/// A gateway's public key for WireGuard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a key for WireGuard: 32 bytes in base64, as `wg pubkey` writes them")]
pub struct NoKey;

impl PublicKey {
    /// Its 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let bytes = STANDARD.decode(text.trim_end()).map_err(|_| NoKey)?;
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| NoKey)?;
        // All zeros is how the kernel says "none".
        if bytes == [0; 32] {
            return Err(NoKey);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64() {
        let text = "/7c2tE6/Ze0hXqfN0Jpm6jeT5iIQxqq9JAY6CAG3IGk=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(format!("{text}\n").parse(), Ok(key));
        let zeros = PublicKey([0; 32]).to_string();
        for wrong in [
            "",
            "x",
            "/7c2tE6=",
            &text[1..],
            &text[..43],
            &zeros,
            "AA==\0",
        ] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(NoKey), "{wrong}");
        }
    }
}
