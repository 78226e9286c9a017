//! A token as text: what an operator hands to whoever is to enroll.

use crate::Token;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost::Message;
use std::fmt;

/// By this the text is known, and its form.
const PREFIX: &str = "rm1-";
/// A text may be this long, in bytes.
const LONGEST: usize = 4096;

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that is no token: one begins with {PREFIX}, and is copied whole; `meshctl token create` makes one"
)]
pub struct TokenError;

impl Token {
    /// The text. It is a secret until it has been used.
    pub fn expose(&self) -> String {
        let text = BASE64_URL_SAFE_NO_PAD.encode(self.encode_to_vec());
        format!("{PREFIX}{text}")
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        if text.len() > LONGEST {
            return Err(TokenError);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| TokenError)?;
        let token = Self::decode(bytes.as_slice()).map_err(|_| TokenError)?;
        // One that was cut short may still decode.
        let whole = !token.controllers.is_empty()
            && token.authority.len() == 32
            && !token.name.is_empty()
            && token.secret.len() == 32;
        whole.then_some(token).ok_or(TokenError)
    }
}

/// For whom it is; nothing of what must not be seen.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_never_by_half() {
        let token = Token {
            controllers: vec!["https://[2001:db8::7]:7179".into()],
            authority: vec![1; 32],
            role: "gateway".into(),
            name: "V1-1".into(),
            secret: vec![2; 32],
        };
        let text = token.expose();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!("{text}\n").parse(), Ok(token.clone()));
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<Token>(), Err(TokenError), "{end}");
        }
        assert_eq!(
            format!("rm1-{}", "A".repeat(9000)).parse::<Token>(),
            Err(TokenError)
        );
        let shown = format!("{token} {token:?}");
        assert!(shown.contains("V1-1") && !shown.contains("2, 2"), "{shown}");
    }
}
