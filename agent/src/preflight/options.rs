//! Options of a tunnel that not every host can have. What is asked for in so many words and cannot be
//! had is refused, and the tunnel stays as it is: never weaker without a word.

use super::verdict::NEIGHBOUR;
use super::{Carried, Release, Version};
use crate::config::{EspOptions, Offload};

/// What a host has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// strongSwan's version, as it writes it.
    pub charon: String,
    /// The kernel.
    pub kernel: Release,
    /// The interface with the tunnel's outer address can do ESP itself; `None` where that is not known.
    pub offload: Option<bool>,
}

/// An option, and since when strongSwan and the kernel have it.
struct Since {
    option: &'static str,
    strongswan: Version,
    kernel: Version,
}

const PACKET: Since = Since {
    option: "esp.hw_offload = \"packet\"",
    strongswan: Version(5, 9, 10),
    kernel: Version(6, 2, 0),
};
const IPTFS: Since = Since {
    option: "esp.mode = \"iptfs\"",
    strongswan: Version(6, 0, 2),
    kernel: Version(6, 14, 0),
};

/// Why this host cannot have these options; `None` where it can, as far as can be told beforehand.
pub fn refusal(esp: &EspOptions, host: &Host) -> Option<String> {
    let packet = (esp.hw_offload == Offload::Packet).then_some(&PACKET);
    let iptfs = esp.iptfs.then_some(&IPTFS);
    let mut wanted = packet.into_iter().chain(iptfs);
    if let Some(reason) = wanted.find_map(|since| too_old(since, host)) {
        return Some(reason);
    }
    // Of "auto", charon may make "packet" where the interface does ESP at all.
    let whole = esp.hw_offload == Offload::Packet
        || esp.hw_offload == Offload::Auto && host.offload == Some(true);
    let kernel = &host.kernel;
    let certain = kernel.carried == Carried::Nothing;
    if whole && !esp.iptfs && certain && NEIGHBOUR.is_in(kernel) {
        return Some(format!(
            "Linux {}: {}: {}; the tunnel stays as it was",
            kernel.name, NEIGHBOUR.breaks, NEIGHBOUR.cure
        ));
    }
    let offload = match esp.hw_offload {
        Offload::No | Offload::Auto => return None,
        Offload::Crypto => "crypto",
        Offload::Packet => "packet",
    };
    if esp.iptfs {
        return Some(format!(
            "no network interface does IP-TFS itself: remove esp.hw_offload = {offload:?} or esp.mode = \"iptfs\""
        ));
    }
    (host.offload == Some(false)).then(|| {
        format!(
            "esp.hw_offload = {offload:?} needs an interface with esp-hw-offload, which the one with the \
             tunnel's outer address does not have (ethtool -k): \"auto\" uses it where there is one"
        )
    })
}

fn too_old(since: &Since, host: &Host) -> Option<String> {
    let Since {
        option,
        strongswan,
        kernel,
    } = since;
    let cure = "the tunnel stays as it was";
    // What says no version is left to say no by itself.
    if Version::parse(&host.charon).is_some_and(|it| it < *strongswan) {
        let charon = &host.charon;
        return Some(format!(
            "{option} needs strongSwan {strongswan}, and this is {charon}: {cure}"
        ));
    }
    let Release {
        name,
        version,
        carried,
    } = &host.kernel;
    (version < kernel && *carried < Carried::Features)
        .then(|| format!("{option} needs Linux {kernel}, and this is {name}: {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(charon: &str, kernel: &str, offload: Option<bool>) -> Host {
        Host {
            charon: charon.to_owned(),
            kernel: Release::parse(kernel, "", ""),
            offload,
        }
    }

    #[test]
    fn what_a_host_cannot_do_is_refused_with_the_reason() {
        let debian12 = |offload| host("5.9.8", "6.1.0-40-amd64", offload);
        let debian13 = |offload| host("6.0.1", "6.12.43+deb13-amd64", offload);
        let rhel9 = |offload| host("5.9.14", "5.14.0-427.el9.x86_64", offload);
        let ubuntu22 = |offload| host("5.9.13", "5.15.0-116-generic", offload);
        let ubuntu24 = |offload| host("5.9.13", "6.8.0-45-generic", offload);
        let new = |offload| host("6.0.2", "6.14.1-0-lts", offload);
        let with = |hw_offload, iptfs| EspOptions {
            hw_offload,
            iptfs,
            ..EspOptions::default()
        };
        for (options, host, expected) in [
            (with(Offload::No, false), debian12(None), None),
            (with(Offload::Auto, false), debian12(Some(false)), None),
            (with(Offload::Crypto, false), debian12(Some(true)), None),
            (
                with(Offload::Crypto, false),
                debian12(Some(false)),
                Some("esp-hw-offload"),
            ),
            // charon will find out.
            (with(Offload::Crypto, false), debian12(None), None),
            (
                with(Offload::Packet, false),
                debian12(Some(true)),
                Some("needs strongSwan 5.9.10, and this is 5.9.8"),
            ),
            (
                with(Offload::Packet, false),
                debian13(Some(true)),
                Some("is dropped"),
            ),
            (
                with(Offload::Auto, false),
                debian13(Some(true)),
                Some("is dropped"),
            ),
            (with(Offload::Auto, false), debian13(None), None),
            (
                with(Offload::Packet, false),
                host("6.0.1", "6.12.60+deb13-amd64", Some(true)),
                None,
            ),
            // Ubuntu's may have the fix, and do not have what is newer.
            (with(Offload::Packet, false), ubuntu24(Some(true)), None),
            (
                with(Offload::Packet, false),
                ubuntu22(Some(true)),
                Some("needs Linux 6.2"),
            ),
            // Red Hat's have what later ones have.
            (with(Offload::Packet, false), rhel9(Some(true)), None),
            (
                with(Offload::Packet, false),
                host("5.9.14", "5.15.0-10-lts", Some(true)),
                Some("needs Linux 6.2, and this is 5.15.0-10-lts"),
            ),
            (
                with(Offload::No, true),
                debian13(None),
                Some("needs strongSwan 6.0.2, and this is 6.0.1"),
            ),
            (with(Offload::No, true), new(None), None),
            (with(Offload::Auto, true), new(Some(true)), None),
            (
                with(Offload::Packet, true),
                new(Some(true)),
                Some("no network interface does IP-TFS"),
            ),
        ] {
            let reason = refusal(&options, &host);
            let as_expected = match (&reason, expected) {
                (Some(reason), Some(expected)) => reason.contains(expected),
                (None, None) => true,
                _ => false,
            };
            assert!(as_expected, "{options:?} {host:?}: {reason:?}");
        }
    }
}
