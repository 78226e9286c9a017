//! OPEN and its capabilities (RFC 4271 section 4.2, RFC 5492).

use super::as_path::two_octets;
use super::notification::{code, open};
use super::reader::Reader;
use super::{Capabilities, Family, GracefulRestart, Notification, Open, nlri};

const VERSION: u8 = 4;

/// The only optional parameter there is (RFC 5492).
const CAPABILITIES: u8 = 2;
/// In place of a parameter's type: all lengths that follow have two bytes (RFC 9072).
const EXTENDED_LENGTHS: u8 = 255;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;

/// R, the speaker has restarted (RFC 4724 section 3).
const RESTARTING: u16 = 0x8000;
const RESTART_TIME: u16 = 0x0fff;
/// F, forwarding was kept.
const FORWARDING_KEPT: u8 = 0x80;

fn error(subcode: u8, data: &[u8]) -> Notification {
    Notification::new(code::OPEN, subcode, data)
}

/// Reads the body of an OPEN, after the header.
pub(super) fn read(body: &[u8]) -> Result<Open, Notification> {
    let mut reader = Reader::new(body);
    let version = reader.u8();
    if version != Some(VERSION) {
        let ours = u16::from(VERSION).to_be_bytes();
        return Err(error(open::UNSUPPORTED_VERSION, &ours));
    }
    let fixed = (reader.u16(), reader.u16(), reader.ipv4(), reader.u8());
    let (Some(two_octet_as), Some(hold_time), Some(router_id), Some(length)) = fixed else {
        return Err(error(open::UNSPECIFIC, &[]));
    };
    if two_octet_as == 0 {
        return Err(error(open::BAD_PEER_AS, &[0, 0])); // RFC 7607
    }
    if matches!(hold_time, 1 | 2) {
        let data = hold_time.to_be_bytes();
        return Err(error(open::UNACCEPTABLE_HOLD_TIME, &data));
    }
    if router_id.is_unspecified() {
        return Err(error(open::BAD_IDENTIFIER, &[0; 4])); // RFC 6286 section 2.2
    }
    let received = read_parameters(length, reader)?;
    Ok(Open {
        asn: received.asn.unwrap_or(u32::from(two_octet_as)),
        hold_time,
        router_id,
        capabilities: received.capabilities,
    })
}

/// What the optional parameters say.
#[derive(Default)]
struct Received {
    capabilities: Capabilities,
    /// Of the capability for four octets.
    asn: Option<u32>,
    /// The multiprotocol capability was there, even if for no family of ours.
    multiprotocol: bool,
}

fn read_parameters(length: u8, mut reader: Reader<'_>) -> Result<Received, Notification> {
    let malformed = || error(open::UNSPECIFIC, &[]);
    let extended = length != 0 && reader.rest().first() == Some(&EXTENDED_LENGTHS);
    let length = if extended {
        reader.u8();
        reader.u16().map(usize::from)
    } else {
        Some(usize::from(length))
    };
    if length != Some(reader.len()) {
        return Err(malformed());
    }
    let mut received = Received::default();
    while !reader.is_empty() {
        let kind = reader.u8();
        let value = take_value(&mut reader, extended);
        match (kind, value) {
            (Some(CAPABILITIES), Some(value)) => {
                read_capabilities(value, &mut received).ok_or_else(malformed)?;
            }
            (Some(_), Some(_)) => return Err(error(open::UNSUPPORTED_PARAMETER, &[])),
            _ => return Err(malformed()),
        }
    }
    if received.multiprotocol && received.capabilities.families.is_empty() {
        // A session without a common family could carry nothing. Saying so here keeps "no family of
        // ours" apart from "no multiprotocol", which stands for IPv4.
        return Err(unsupported_families());
    }
    if received.asn == Some(0) {
        return Err(error(open::BAD_PEER_AS, &[0; 4])); // RFC 7607
    }
    Ok(received)
}

fn take_value<'a>(reader: &mut Reader<'a>, extended: bool) -> Option<&'a [u8]> {
    let length = match extended {
        true => usize::from(reader.u16()?),
        false => usize::from(reader.u8()?),
    };
    reader.take(length)
}

/// "Unsupported Capability" with the capabilities that would have done (RFC 5492 section 5).
fn unsupported_families() -> Notification {
    let mut data = Vec::new();
    write_family(Family::Ipv4, &mut data);
    write_family(Family::Ipv6, &mut data);
    error(open::UNSUPPORTED_CAPABILITY, &data)
}

/// `None` where a capability that we know, or the list of them, is malformed.
fn read_capabilities(value: &[u8], received: &mut Received) -> Option<()> {
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let value = take_value(&mut reader, false)?;
        read_capability(kind, Reader::new(value), received)?;
    }
    Some(())
}

fn read_capability(kind: u8, mut value: Reader<'_>, received: &mut Received) -> Option<()> {
    let capabilities = &mut received.capabilities;
    match kind {
        MULTIPROTOCOL => {
            let (afi, _reserved, safi) = (value.u16()?, value.u8()?, value.u8()?);
            capabilities.families.extend(nlri::family(afi, safi));
            received.multiprotocol = true;
        }
        ROUTE_REFRESH => capabilities.route_refresh = true,
        EXTENDED_NEXT_HOP => {
            while !value.is_empty() {
                let (afi, safi, next_hop_afi) = (value.u16()?, value.u16()?, value.u16()?);
                let ipv4_unicast = (1, u16::from(nlri::UNICAST));
                if (afi, safi) == ipv4_unicast && next_hop_afi == nlri::afi(Family::Ipv6) {
                    capabilities.extended_next_hop = true;
                }
            }
        }
        GRACEFUL_RESTART => {
            // Of several, the last one counts (RFC 4724 section 3).
            capabilities.graceful_restart = Some(read_graceful_restart(&mut value)?);
        }
        FOUR_OCTET_AS => {
            received.asn = Some(value.u32()?);
            capabilities.four_octet_as = true;
        }
        _ => return Some(()), // RFC 5492 section 3
    }
    value.is_empty().then_some(())
}

fn read_graceful_restart(value: &mut Reader<'_>) -> Option<GracefulRestart> {
    let header = value.u16()?;
    let mut restart = GracefulRestart {
        restarting: header & RESTARTING != 0,
        restart_time: header & RESTART_TIME,
        families: Vec::new(),
    };
    while !value.is_empty() {
        let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
        if let Some(family) = nlri::family(afi, safi) {
            // Each family once: a list as long as the peer likes is of no use to anybody.
            restart.families.retain(|(known, _)| *known != family);
            let kept = flags & FORWARDING_KEPT != 0;
            restart.families.push((family, kept));
        }
    }
    Some(restart)
}

/// Appends the body of an OPEN. A restart time beyond 12 bits is sent as the longest there is, and
/// an AS beyond 16 bits without the capability for four octets as AS_TRANS.
pub(super) fn write(open: &Open, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend(two_octets(open.asn).to_be_bytes());
    out.extend(open.hold_time.to_be_bytes());
    out.extend(open.router_id.octets());
    let mut capabilities = Vec::new();
    write_capabilities(open, &mut capabilities);
    // All in one parameter (RFC 5492 section 4). There are at most 40 bytes of them.
    let length = capabilities.len() as u8;
    if length == 0 {
        out.push(0);
        return;
    }
    out.extend([length + 2, CAPABILITIES, length]);
    out.extend(capabilities);
}

fn write_capabilities(open: &Open, out: &mut Vec<u8>) {
    let capabilities = &open.capabilities;
    for family in &capabilities.families {
        write_family(*family, out);
    }
    if capabilities.route_refresh {
        out.extend([ROUTE_REFRESH, 0]);
    }
    if capabilities.extended_next_hop {
        out.extend([EXTENDED_NEXT_HOP, 6, 0, 1, 0, nlri::UNICAST]);
        out.extend(nlri::afi(Family::Ipv6).to_be_bytes());
    }
    if let Some(restart) = &capabilities.graceful_restart {
        write_graceful_restart(restart, out);
    }
    if capabilities.four_octet_as {
        out.extend([FOUR_OCTET_AS, 4]);
        out.extend(open.asn.to_be_bytes());
    }
}

fn write_family(family: Family, out: &mut Vec<u8>) {
    out.extend([MULTIPROTOCOL, 4]);
    out.extend(nlri::afi(family).to_be_bytes());
    out.extend([0, nlri::UNICAST]);
}

fn write_graceful_restart(restart: &GracefulRestart, out: &mut Vec<u8>) {
    let mut header = restart.restart_time.min(RESTART_TIME);
    if restart.restarting {
        header |= RESTARTING;
    }
    let mut families = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        // As on receipt, each family once, the last one counts.
        let last = restart.families.iter().rfind(|(known, _)| *known == family);
        if let Some((_, kept)) = last {
            families.extend(nlri::afi(family).to_be_bytes());
            families.extend([nlri::UNICAST, if *kept { FORWARDING_KEPT } else { 0 }]);
        }
    }
    out.extend([GRACEFUL_RESTART, 2 + families.len() as u8]);
    out.extend(header.to_be_bytes());
    out.extend(families);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_restart_that_does_not_fit_is_sent_as_far_as_it_does() {
        let families = [
            (Family::Ipv6, false),
            (Family::Ipv4, true),
            (Family::Ipv6, true),
        ];
        let open = Open {
            asn: 65001,
            hold_time: 90,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities {
                graceful_restart: Some(GracefulRestart {
                    restarting: false,
                    restart_time: 0xfffe,
                    families: families.repeat(100),
                }),
                ..Capabilities::default()
            },
        };
        let mut body = Vec::new();
        write(&open, &mut body);
        let restart = read(&body).map(|open| open.capabilities.graceful_restart);
        let expected = GracefulRestart {
            restarting: false,
            restart_time: 4095,
            families: vec![(Family::Ipv4, true), (Family::Ipv6, true)],
        };
        assert_eq!(restart, Ok(Some(expected)));
    }

    #[test]
    fn an_as_of_four_octets_needs_the_capability() {
        let open = Open {
            asn: 70_000,
            hold_time: 0,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities::default(),
        };
        let mut body = Vec::new();
        write(&open, &mut body);
        assert_eq!(body, [4, 0x5b, 0xa0, 0, 0, 10, 0, 0, 1, 0]);
    }
}
