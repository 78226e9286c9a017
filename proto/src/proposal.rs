//! Proposals of algorithms, in strongSwan's words (its documentation lists them as "Algorithm Proposals").

/// Why a text is no proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// A word that strongSwan does not know either.
    #[error("strongSwan knows no algorithm {word:?}{}", near.map_or(String::new(), |near| format!(": do you mean {near:?}?")))]
    Unknown {
        /// The word.
        word: String,
        /// The one that is most like it.
        near: Option<&'static str>,
    },
    /// Something that leaves packets readable.
    #[error("{word:?} is not to be used: it does not encrypt")]
    Clear {
        /// The word.
        word: String,
    },
    /// What there is makes no proposal.
    #[error("{text:?} is not {expected}")]
    Form {
        /// The text.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What a word stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Encryption that needs integrity beside it.
    Cipher,
    /// Encryption that does both.
    Combined,
    /// No encryption.
    Clear,
    Integrity,
    Prf,
    Exchange,
    /// The lack of an exchange.
    NoExchange,
    SequenceNumbers,
}

#[rustfmt::skip]
const WORDS: [(Kind, &[&str]); 8] = [
    (Kind::Cipher, &[
        "3des", "aes", "aes128", "aes192", "aes256", "aes128ctr", "aes192ctr", "aes256ctr",
        "camellia", "camellia128", "camellia192", "camellia256",
        "camellia128ctr", "camellia192ctr", "camellia256ctr",
        "des", "blowfish", "blowfish128", "blowfish192", "blowfish256", "cast128",
        "serpent", "serpent128", "serpent192", "serpent256",
        "twofish", "twofish128", "twofish192", "twofish256",
    ]),
    (Kind::Combined, &[
        "aes128gcm", "aes128gcm8", "aes128gcm12", "aes128gcm16", "aes128gcm64", "aes128gcm96", "aes128gcm128",
        "aes192gcm", "aes192gcm8", "aes192gcm12", "aes192gcm16", "aes192gcm64", "aes192gcm96", "aes192gcm128",
        "aes256gcm", "aes256gcm8", "aes256gcm12", "aes256gcm16", "aes256gcm64", "aes256gcm96", "aes256gcm128",
        "aes128ccm", "aes128ccm8", "aes128ccm12", "aes128ccm16", "aes128ccm64", "aes128ccm96", "aes128ccm128",
        "aes192ccm", "aes192ccm8", "aes192ccm12", "aes192ccm16", "aes192ccm64", "aes192ccm96", "aes192ccm128",
        "aes256ccm", "aes256ccm8", "aes256ccm12", "aes256ccm16", "aes256ccm64", "aes256ccm96", "aes256ccm128",
        "camellia128ccm8", "camellia128ccm12", "camellia128ccm16", "camellia128ccm64", "camellia128ccm96",
        "camellia128ccm128", "camellia192ccm8", "camellia192ccm12", "camellia192ccm16", "camellia192ccm64",
        "camellia192ccm96", "camellia192ccm128", "camellia256ccm8", "camellia256ccm12", "camellia256ccm16",
        "camellia256ccm64", "camellia256ccm96", "camellia256ccm128", "chacha20poly1305",
    ]),
    (Kind::Clear, &["null", "aes128gmac", "aes192gmac", "aes256gmac"]),
    (Kind::Integrity, &[
        "md5", "md5_128", "sha", "sha1", "sha1_160", "sha256", "sha2_256", "sha256_96", "sha2_256_96",
        "sha384", "sha2_384", "sha512", "sha2_512", "aesxcbc", "aescmac", "camelliaxcbc",
    ]),
    (Kind::Prf, &[
        "prfmd5", "prfsha1", "prfsha256", "prfsha384", "prfsha512", "prfaesxcbc", "prfaescmac", "prfcamelliaxcbc",
    ]),
    (Kind::Exchange, &[
        "modp768", "modp1024", "modp1536", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192",
        "modp1024s160", "modp2048s224", "modp2048s256",
        "ecp192", "ecp224", "ecp256", "ecp384", "ecp521", "ecp224bp", "ecp256bp", "ecp384bp", "ecp512bp",
        "curve25519", "x25519", "curve448", "x448", "mlkem512", "mlkem768", "mlkem1024",
        "kyber1", "kyber3", "kyber5", "frodoa1", "frodoa3", "frodoa5", "frodos1", "frodos3", "frodos5",
        "bike1", "bike3", "bike5", "hqc1", "hqc3", "hqc5", "ntru112", "ntru128", "ntru192", "ntru256",
        "newhope128",
    ]),
    (Kind::NoExchange, &["none", "modpnone"]),
    (Kind::SequenceNumbers, &["esn", "noesn"]),
];

/// What the words of a proposal stand for.
pub(crate) fn kinds(proposal: &str) -> Result<Vec<(&str, Kind)>, ProposalError> {
    let split = proposal.split('-');
    split.map(|word| Ok((word, kind(word)?))).collect()
}

fn kind(word: &str) -> Result<Kind, ProposalError> {
    let all = || {
        let kinds = WORDS.iter();
        kinds.flat_map(|(kind, words)| words.iter().map(|word| (*word, *kind)))
    };
    // One of the additional exchanges (RFC 9370): "ke1_mlkem768".
    let additional = word.strip_prefix("ke").and_then(|it| it.split_once('_'));
    let plain = match additional {
        Some(("1" | "2" | "3" | "4" | "5" | "6" | "7", rest)) => rest,
        _ => word,
    };
    let known = all().find(|(it, _)| *it == plain).map(|(_, kind)| kind);
    let exchanges = |kind: &Kind| matches!(kind, Kind::Exchange | Kind::NoExchange);
    match known.filter(|kind| plain == word || exchanges(kind)) {
        Some(Kind::Clear) => Err(ProposalError::Clear {
            word: word.to_owned(),
        }),
        Some(kind) => Ok(kind),
        None => {
            let word: String = word.chars().take(60).collect();
            let near = all().map(|(it, _)| (distance(&word, it), it)).min();
            let near = near.filter(|(far, it)| *far <= 2 && *far < it.len() / 2);
            let near = near.map(|(_, it)| it);
            Err(ProposalError::Unknown { word, near })
        }
    }
}

/// How many letters have to be changed, left out or put in to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut before = std::iter::once(i + 1).collect::<Vec<_>>();
        for ((b, above), beside) in other.chars().zip(row.iter().skip(1)).zip(&row) {
            let left = before.last().copied().unwrap_or_default();
            let changed = beside + usize::from(a != b);
            before.push(changed.min(above + 1).min(left + 1));
        }
        row = before;
    }
    row.last().copied().unwrap_or_default()
}

/// Whether a text is a proposal for IKE: what strongSwan insists on is there.
pub fn check_ike(proposal: &str) -> Result<(), ProposalError> {
    let kinds = kinds(proposal)?;
    let has = |kind: Kind| kinds.iter().any(|(_, it)| *it == kind);
    // Where no PRF is named, it is that of the integrity algorithm.
    let complete = match (has(Kind::Cipher), has(Kind::Combined)) {
        (true, false) => has(Kind::Integrity),
        (false, true) => has(Kind::Prf) || has(Kind::Integrity),
        _ => false,
    };
    if complete && has(Kind::Exchange) && !has(Kind::SequenceNumbers) {
        return Ok(());
    }
    Err(ProposalError::Form {
        text: proposal.chars().take(60).collect(),
        expected: "an IKE proposal: write an encryption algorithm, one for integrity or, where encryption \
                   does that itself, a PRF, and a group, in strongSwan's words, like \
                   \"aes256gcm16-prfsha384-ecp384\" or \"aes128-sha256-x25519\"",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn proposals_for_ike() {
        for well in [
            crate::IKE_PROPOSAL,
            "aes128-sha256-x25519",
            "aes256-aes128-sha384-sha256-prfsha384-ecp384-modp3072",
            "chacha20poly1305-prfsha512-curve448-ke1_mlkem768-ke2_none",
            "aes256gcm16-sha384-ecp384",
        ] {
            assert_eq!(check_ike(well), Ok(()), "{well}");
        }
        for form in [
            "aes256gcm16-ecp384",
            "aes256gcm16-prfsha384",
            "aes256gcm16-prfsha384-none",
            "aes256gcm16-aes128-sha256-ecp384",
            "aes128-ecp256",
            "sha256-ecp256",
            "aes128-sha256-ecp256-esn",
        ] {
            let error = check_ike(form).unwrap_err();
            assert!(matches!(error, ProposalError::Form { .. }), "{error}");
        }
        let clear = check_ike("null-sha256-ecp256").unwrap_err().to_string();
        assert!(clear.contains("does not encrypt"), "{clear}");
    }

    #[test]
    fn the_word_that_was_meant_is_named() {
        for (written, meant) in [
            ("aes256gmc16", Some("aes256gcm16")),
            ("epc384", Some("ecp384")),
            ("modp99", None),
            ("modp2049", Some("modp2048")),
            ("AES256", None),
            ("ke8_x25519", None),
            ("ke1_aes128", None),
            ("x", None),
            ("", None),
        ] {
            let word = kind(written);
            let near = match &word {
                Err(ProposalError::Unknown { near, .. }) => *near,
                _ => None,
            };
            assert!(word.is_err() && near == meant, "{written}: {word:?}");
        }
        let error = check_ike("aes256gmc16-prfsha384-ecp384").unwrap_err();
        assert_eq!(
            error.to_string(),
            "strongSwan knows no algorithm \"aes256gmc16\": do you mean \"aes256gcm16\"?"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,300}", words in prop::collection::vec("[a-z0-9_]{0,12}", 0..5)) {
            let _ = check_ike(&text);
            let _ = check_ike(&words.join("-"));
        }

        #[test]
        fn distances(one in "[a-c]{0,6}", other in "[a-c]{0,6}") {
            let far = distance(&one, &other);
            prop_assert_eq!(far, distance(&other, &one));
            prop_assert_eq!(far == 0, one == other);
            prop_assert!(far <= one.len().max(other.len()));
            prop_assert!(far >= one.len().abs_diff(other.len()));
        }
    }
}
