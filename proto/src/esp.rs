//! What ESP adds to a packet: the largest packet that a tunnel carries follows from it
//! (RFC 4303 section 2; `xfrm_state_mtu` in the kernel's net/xfrm/xfrm_state.c).

use crate::proposal::{Kind, ProposalError, kinds};

/// SPI and sequence number; with extended sequence numbers half of them is sent as well.
const HEADER: u32 = 8;
/// Pad length and next header.
const TRAILER: u32 = 2;
/// ESP within UDP (RFC 3948).
const UDP: u32 = 8;

/// The sizes of an ESP SA's packets, in bytes: all of an algorithm that matters to the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esp {
    /// Initialization vector.
    pub iv: u32,
    /// What is encrypted is padded to a multiple of this.
    pub block: u32,
    /// Integrity check value.
    pub icv: u32,
}

/// What ESP's packets travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// IPv6, or IPv4.
    pub ipv6: bool,
    /// Within UDP, because of a NAT on the way.
    pub udp: bool,
}

impl Outer {
    /// Bytes of its headers.
    pub fn header(self) -> u32 {
        let ip = if self.ipv6 { 40 } else { 20 };
        ip + if self.udp { UDP } else { 0 }
    }
}

impl Esp {
    /// The shape that costs most of those that a proposal in strongSwan's words permits.
    pub fn proposed(proposal: &str) -> Result<Self, ProposalError> {
        let form = || ProposalError::Form {
            text: proposal.chars().take(60).collect(),
            expected: "an ESP proposal: write an encryption algorithm that the kernel has, one for integrity \
                       where that does not do it itself, and a group, in strongSwan's words, like \
                       \"aes256gcm16-ecp384\" or \"aes128-sha256-x25519\"",
        };
        let (mut combined, mut ciphers, mut integrity) = (Vec::new(), Vec::new(), Vec::new());
        for (word, kind) in kinds(proposal)? {
            match kind {
                Kind::Cipher => ciphers.push(cipher(word).ok_or_else(form)?),
                Kind::Combined => combined.push(cipher(word).ok_or_else(form)?),
                Kind::Integrity => integrity.push(integrity_word(word).ok_or_else(form)?),
                Kind::Exchange | Kind::NoExchange | Kind::SequenceNumbers => {}
                Kind::Prf | Kind::Clear => return Err(form()),
            }
        }
        // strongSwan refuses a mix of the two kinds as well.
        let worst = match (&*combined, &*ciphers, integrity.iter().max()) {
            ([_, ..], [], None) => worst(combined),
            ([], [_, ..], Some(icv)) => worst(ciphers).map(|esp| Self { icv: *icv, ..esp }),
            _ => None,
        };
        worst.ok_or_else(form)
    }

    /// What charon calls the algorithms of a CHILD_SA: encryption ("AES_GCM_16"), and integrity
    /// ("HMAC_SHA2_256_128") where there is one. `None` for those that are not known here.
    pub fn negotiated(encryption: &str, integrity: Option<&str>) -> Option<Self> {
        let esp = match encryption {
            "AES_CBC" | "CAMELLIA_CBC" => CBC,
            "3DES_CBC" => DES,
            "AES_CTR" => CTR,
            "AES_GCM_8" | "AES_CCM_8" => counter(8),
            "AES_GCM_12" | "AES_CCM_12" => counter(12),
            "AES_GCM_16" | "AES_CCM_16" | "CHACHA20_POLY1305" => counter(16),
            _ => return None,
        };
        let icv = match integrity {
            None => 0,
            Some("HMAC_MD5_96" | "HMAC_SHA1_96" | "HMAC_SHA2_256_96") => 12,
            Some("AES_XCBC_96" | "AES_CMAC_96") => 12,
            Some("HMAC_MD5_128" | "HMAC_SHA2_256_128") => 16,
            Some("HMAC_SHA1_160") => 20,
            Some("HMAC_SHA2_384_192") => 24,
            Some("HMAC_SHA2_512_256") => 32,
            Some(_) => return None,
        };
        match (esp.icv, icv) {
            (0, 0) => None,
            (0, icv) => Some(Self { icv, ..esp }),
            _ => Some(esp),
        }
    }

    /// The largest packet that fits into an outer packet of this size, 0 for none.
    pub fn inner_mtu(self, outer: Outer, outer_mtu: u32) -> u32 {
        let around = outer.header() + HEADER + self.iv + self.icv;
        let encrypted = outer_mtu.saturating_sub(around);
        (encrypted - encrypted % self.block).saturating_sub(TRAILER)
    }

    /// The size of the outer packet around an inner one of this size.
    pub fn outer_size(self, outer: Outer, inner: u32) -> u32 {
        let encrypted = (inner + TRAILER).next_multiple_of(self.block);
        outer.header() + HEADER + self.iv + encrypted + self.icv
    }
}

const CBC: Esp = Esp {
    iv: 16,
    block: 16,
    icv: 0,
};
const DES: Esp = Esp {
    iv: 8,
    block: 8,
    icv: 0,
};
/// ESP itself pads to four bytes.
const CTR: Esp = Esp {
    iv: 8,
    block: 4,
    icv: 0,
};

const fn counter(icv: u32) -> Esp {
    Esp { icv, ..CTR }
}

fn worst(all: Vec<Esp>) -> Option<Esp> {
    all.into_iter()
        .max_by_key(|esp| esp.iv + esp.block + esp.icv)
}

/// A word for an encryption algorithm.
fn cipher(word: &str) -> Option<Esp> {
    let mode = match word {
        "3des" => return Some(DES),
        "aes" | "camellia" => return Some(CBC),
        "chacha20poly1305" => return Some(counter(16)),
        _ => word
            .strip_prefix("aes")
            .or_else(|| word.strip_prefix("camellia"))?,
    };
    let mode = ["128", "192", "256"]
        .iter()
        .find_map(|bits| mode.strip_prefix(bits))?;
    match mode {
        "" => Some(CBC),
        "ctr" => Some(CTR),
        "gcm8" | "gcm64" | "ccm8" | "ccm64" => Some(counter(8)),
        "gcm12" | "gcm96" | "ccm12" | "ccm96" => Some(counter(12)),
        "gcm" | "gcm16" | "gcm128" | "ccm" | "ccm16" | "ccm128" => Some(counter(16)),
        _ => None,
    }
    // The kernel has Camellia in CBC and CTR only.
    .filter(|esp| word.starts_with("aes") || esp.icv == 0)
}

/// The size of the check value of a word for an integrity algorithm.
fn integrity_word(word: &str) -> Option<u32> {
    Some(match word {
        "md5" | "sha" | "sha1" | "sha256_96" | "sha2_256_96" | "aesxcbc" | "aescmac" => 12,
        "md5_128" | "sha256" | "sha2_256" => 16,
        "sha1_160" => 20,
        "sha384" | "sha2_384" => 24,
        "sha512" | "sha2_512" => 32,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IPV4: Outer = Outer {
        ipv6: false,
        udp: false,
    };
    const IPV6: Outer = Outer {
        ipv6: true,
        udp: false,
    };

    fn mtu(proposal: &str, outer: Outer) -> u32 {
        Esp::proposed(proposal).unwrap().inner_mtu(outer, 1500)
    }

    /// 1406 and 1426 are what a kernel was seen to find by path MTU discovery.
    #[test]
    fn inside_1500() {
        let udp = Outer { udp: true, ..IPV4 };
        for (proposal, outer, expected) in [
            ("aes128-sha256", IPV6, 1406),
            ("aes256gcm16-ecp384", IPV6, 1426),
            ("aes256gcm16-ecp384", IPV4, 1446),
            ("aes256gcm16-ecp384", udp, 1438),
            ("aes128-sha256-x25519", IPV4, 1438),
            ("aes256-sha512", IPV4, 1422),
            ("aes256gcm8", IPV4, 1454),
            ("aes256ctr-sha1", IPV4, 1450),
            ("3des-sha1", IPV4, 1446),
            ("chacha20poly1305-x25519", IPV6, 1426),
        ] {
            assert_eq!(mtu(proposal, outer), expected, "{proposal} {outer:?}");
        }
    }

    #[test]
    fn of_several_algorithms_the_largest_counts() {
        assert_eq!(
            mtu("aes128-aes128ctr-sha1-sha512", IPV4),
            mtu("aes128-sha512", IPV4)
        );
        assert_eq!(
            mtu("aes128gcm8-aes256gcm16", IPV4),
            mtu("aes256gcm16", IPV4)
        );
    }

    #[test]
    fn words_that_are_no_esp_proposal() {
        let none = [
            "",
            "aes128",
            "sha256",
            "aes256gcm16-aes128-sha256",
            "aes256gcm16-sha256",
            "aes257gcm16",
            "aes256gcm17",
            "camellia256gcm16",
            "aes128-sha256-prfsha256",
            "null-sha256",
            "aes256gmac",
            "aes256gcm16-",
            "modp",
        ];
        for text in none {
            assert!(Esp::proposed(text).is_err(), "{text}");
        }
        let clear = Esp::proposed("null-sha256").unwrap_err();
        assert!(clear.to_string().contains("does not encrypt"), "{clear}");
    }

    /// The words of the specification and charon's names mean the same sizes.
    #[test]
    fn negotiated_as_proposed() {
        for (proposal, encryption, integrity) in [
            (
                "aes256-sha2_384-ecp384",
                "AES_CBC",
                Some("HMAC_SHA2_384_192"),
            ),
            ("aes128-sha1", "AES_CBC", Some("HMAC_SHA1_96")),
            ("aes128ctr-aesxcbc", "AES_CTR", Some("AES_XCBC_96")),
            ("aes256gcm128-modp1536", "AES_GCM_16", None),
            ("aes128ccm96", "AES_CCM_12", None),
            ("chacha20poly1305", "CHACHA20_POLY1305", None),
            ("camellia-md5_128", "CAMELLIA_CBC", Some("HMAC_MD5_128")),
            ("3des-sha512", "3DES_CBC", Some("HMAC_SHA2_512_256")),
        ] {
            let negotiated = Esp::negotiated(encryption, integrity);
            assert_eq!(negotiated, Esp::proposed(proposal).ok(), "{proposal}");
        }
        assert_eq!(Esp::negotiated("AES_CBC", None), None);
        assert_eq!(Esp::negotiated("ROT13", None), None);
        assert_eq!(Esp::negotiated("AES_CBC", Some("CRC32")), None);
    }

    proptest! {
        #[test]
        fn the_largest_packet_fits_and_one_byte_more_does_not(
            iv in 0u32..32,
            block in prop::sample::select(vec![4u32, 8, 16]),
            icv in 0u32..64,
            ipv6: bool,
            udp: bool,
            outer_mtu in 300u32..10_000,
        ) {
            let (esp, outer) = (Esp { iv, block, icv }, Outer { ipv6, udp });
            let inner = esp.inner_mtu(outer, outer_mtu);
            prop_assert!(esp.outer_size(outer, inner) <= outer_mtu);
            prop_assert!(esp.outer_size(outer, inner + 1) > outer_mtu);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}", words in prop::collection::vec("[a-z0-9_]{0,12}", 0..5)) {
            let _ = Esp::proposed(&text);
            let _ = Esp::proposed(&words.join("-"));
        }

        #[test]
        fn no_outer_size_is_too_small(outer_mtu in 0u32..300) {
            let _ = Esp::proposed("aes256-sha512").unwrap().inner_mtu(IPV6, outer_mtu);
        }
    }
}
