//! Why IKE comes to nothing, by what charon logs of it. Pure.
//!
//! charon has no event for that, and answers `initiate` before it knows; where it is told to wait it
//! may lock itself up before 5.9.11 (strongSwan issue 566), and tells nothing of what the peer
//! initiates or what it tries again by itself.

/// Of a certificate that charon finds not valid at its time.
pub(super) const UNTIMELY: &str =
    "the far end's certificate, or its authority's, is not valid at this host's time";
/// Of one that it does not trust, for whatever reason.
pub(super) const UNTRUSTED: &str =
    "the far end's certificate is not of this mesh's authority, or not for that gateway";

/// What a line says of why there is no SA, for people. It quotes nothing but the names of notifications
/// (RFC 7296 section 3.10.1), so whatever the far end sent is not passed on.
pub fn reason(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("received ") {
        let (name, rest) = rest.split_once(" notify")?;
        return notification(name, rest);
    }
    let said = |start: &str, end: &str| line.starts_with(start) && line.contains(end);
    let reason = if said("giving up after ", " retransmits") {
        "the far end does not answer"
    } else if said("tried ", "MAC mismatched") {
        "the far end has another pre-shared key"
    } else if said("no shared key found for ", "") {
        "there is no pre-shared key for the identity that the far end has"
    } else if said("no trusted ", " public key found for ")
        // Where charon remembers a certificate of that name that it did trust.
        || said("signature validation failed", "")
    {
        UNTRUSTED
    } else if said("subject certificate invalid ", "") || said("issuer certificate invalid ", "") {
        UNTIMELY
    } else if said("constraint check failed: identity ", " required") {
        "the far end has another identity than it should"
    } else if said("no acceptable proposal found", "") {
        "none of the far end's ESP proposals is acceptable here"
    } else if said("traffic selectors ", " unacceptable") {
        "none of the far end's traffic selectors is acceptable here"
    } else if said("unable to resolve ", ", initiate aborted") {
        "the far end's host name does not resolve"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// What the far end notified of: of all, or of a CHILD_SA only.
fn notification(name: &str, rest: &str) -> Option<String> {
    let child = rest == ", no CHILD_SA built";
    let known = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if !child && rest != " error" || name.len() > 64 || !name.bytes().all(known) {
        return None;
    }
    let hint = match (name, child) {
        ("AUTHENTICATION_FAILED", _) => {
            ": let the pre-shared keys and identities of both ends be the same, or the certificates be of one authority"
        }
        ("NO_PROPOSAL_CHOSEN", false) => ": it takes none of our IKE proposals",
        ("NO_PROPOSAL_CHOSEN", true) => ": it takes none of our ESP proposals",
        ("TS_UNACCEPTABLE", _) => ": it takes none of our traffic selectors",
        _ => "",
    };
    Some(format!("the far end refused, {name}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_why_or_nothing() {
        let table = [
            (
                "received AUTHENTICATION_FAILED notify error",
                "AUTHENTICATION_FAILED: let the pre-shared keys",
            ),
            (
                "received NO_PROPOSAL_CHOSEN notify error",
                "none of our IKE proposals",
            ),
            (
                "received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built",
                "none of our ESP proposals",
            ),
            (
                "received TS_UNACCEPTABLE notify, no CHILD_SA built",
                "none of our traffic selectors",
            ),
            ("received INVALID_SYNTAX notify error", "INVALID_SYNTAX"),
            ("giving up after 5 retransmits", "does not answer"),
            (
                "tried 2 shared keys for '192.0.2.1' - 'cloud', but MAC mismatched",
                "another pre-shared key",
            ),
            (
                "no shared key found for 'a' - 'b'",
                "no pre-shared key for the identity",
            ),
            (
                "no trusted ECDSA public key found for 'V2-1'",
                "certificate",
            ),
            (
                "signature validation failed, looking for another key",
                "not of this mesh's authority",
            ),
            (
                "subject certificate invalid (valid from Jan 01 00:00:00 2040 to Jan 01 00:00:00 2041)",
                "not valid at this host's time",
            ),
            (
                "constraint check failed: identity 'V2-1' required ",
                "another identity",
            ),
            ("no acceptable proposal found", "ESP proposals"),
            (
                "traffic selectors 10.0.0.0/8 === 0.0.0.0/0 unacceptable",
                "traffic selectors is acceptable here",
            ),
            (
                "unable to resolve vpn.example, initiate aborted",
                "does not resolve",
            ),
        ];
        for (line, part) in table {
            let said = reason(line).unwrap_or_default();
            assert!(said.contains(part), "{line}: {said}");
        }
        for line in [
            "",
            "received TEMPORARY_FAILURE notify",
            "received packet: from 192.0.2.1[500] to 192.0.2.2[500] (304 bytes)",
            "received <b>AUTHENTICATION</b> notify error",
            "received XAuth/EAP vendor notify errors",
            "IKE_SA rm1-v2[1] established between 192.0.2.1[a]...192.0.2.2[b]",
            "retransmit 1 of request with message ID 0",
            "authentication of 'a' with pre-shared key successful",
        ] {
            assert_eq!(reason(line), None, "{line}");
        }
    }
}
