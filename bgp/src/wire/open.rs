//! OPEN and its capabilities (RFC 4271 section 4.2, RFC 5492).

use super::as_path::two_octets;
use super::notification::{code, open};
use super::reader::Reader;
use super::{
    Capabilities, Directions, Family, GracefulRestart, LongLived, Notification, Open, Role,
};
use super::{PerFamily, nlri};

const VERSION: u8 = 4;

/// The only optional parameter there is (RFC 5492).
const CAPABILITIES: u8 = 2;
/// In place of a parameter's type: all lengths that follow have two bytes (RFC 9072).
const EXTENDED_LENGTHS: u8 = 255;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGES: u8 = 6;
const ROLE: u8 = 9;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED: u8 = 71;

/// R, the speaker has restarted (RFC 4724 section 3).
const RESTARTING: u16 = 0x8000;
/// N, it restarts gracefully after NOTIFICATIONs (RFC 8538 section 2).
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
/// F, forwarding was kept. RFC 9494 has the same.
const FORWARDING_KEPT: u8 = 0x80;
/// The longest time to keep stale paths: 24 bits (RFC 9494 section 3.1).
const LONGEST_STALE: u32 = 0xff_ffff;

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
    /// Two different roles were there.
    two_roles: bool,
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
    if received.two_roles {
        return Err(error(open::ROLE_MISMATCH, &[]));
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
        EXTENDED_MESSAGES => capabilities.extended_messages = true,
        ENHANCED_ROUTE_REFRESH => capabilities.enhanced_route_refresh = true,
        ROLE => received.add_role(value.u8()?),
        ADD_PATH => {
            let mut add_path = PerFamily::default();
            // A value that is not defined makes all of it "not understood" (RFC 7911 section 4).
            let understood = read_add_path(&mut value, &mut add_path)?;
            if understood {
                capabilities.add_path = add_path;
            }
        }
        LONG_LIVED => capabilities.long_lived = read_long_lived(&mut value)?,
        _ => return Some(()), // RFC 5492 section 3
    }
    value.is_empty().then_some(())
}

impl Received {
    /// RFC 9234 section 4.2: a role may come twice, but only the same one.
    fn add_role(&mut self, value: u8) {
        let role = role(value);
        match self.capabilities.role {
            Some(other) if other != role => self.two_roles = true,
            _ => self.capabilities.role = Some(role),
        }
    }
}

fn role(value: u8) -> Role {
    match value {
        0 => Role::Provider,
        1 => Role::RouteServer,
        2 => Role::RouteServerClient,
        3 => Role::Customer,
        4 => Role::Peer,
        other => Role::Unassigned(other),
    }
}

fn role_value(role: Role) -> u8 {
    match role {
        Role::Provider => 0,
        Role::RouteServer => 1,
        Role::RouteServerClient => 2,
        Role::Customer => 3,
        Role::Peer => 4,
        Role::Unassigned(value) => value,
    }
}

/// `None`: malformed; false: not understood.
fn read_add_path(value: &mut Reader<'_>, add_path: &mut PerFamily<Directions>) -> Option<bool> {
    let mut understood = true;
    while !value.is_empty() {
        let (afi, safi, directions) = (value.u16()?, value.u8()?, value.u8()?);
        understood &= matches!(directions, 1..=3);
        if let Some(family) = nlri::family(afi, safi) {
            *add_path.of_mut(family) = Directions {
                receive: directions & 1 != 0,
                send: directions & 2 != 0,
            };
        }
    }
    Some(understood)
}

fn read_long_lived(value: &mut Reader<'_>) -> Option<PerFamily<Option<LongLived>>> {
    let mut long_lived = PerFamily::default();
    while !value.is_empty() {
        let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
        let [high, middle, low] = value.array()?;
        if let Some(family) = nlri::family(afi, safi) {
            *long_lived.of_mut(family) = Some(LongLived {
                forwarding: flags & FORWARDING_KEPT != 0,
                seconds: u32::from_be_bytes([0, high, middle, low]),
            });
        }
    }
    Some(long_lived)
}

fn read_graceful_restart(value: &mut Reader<'_>) -> Option<GracefulRestart> {
    let header = value.u16()?;
    let mut restart = GracefulRestart {
        restarting: header & RESTARTING != 0,
        restart_time: header & RESTART_TIME,
        notification: header & NOTIFICATION != 0,
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
    // In the order in which we say them: the same capability is the same value.
    restart.families.sort_unstable();
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
    // All in one parameter (RFC 5492 section 4). There are at most 80 bytes of them.
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
    if capabilities.extended_messages {
        out.extend([EXTENDED_MESSAGES, 0]);
    }
    if let Some(role) = capabilities.role {
        out.extend([ROLE, 1, role_value(role)]);
    }
    if let Some(restart) = &capabilities.graceful_restart {
        write_graceful_restart(restart, out);
    }
    if capabilities.four_octet_as {
        out.extend([FOUR_OCTET_AS, 4]);
        out.extend(open.asn.to_be_bytes());
    }
    write_add_path(&capabilities.add_path, out);
    if capabilities.enhanced_route_refresh {
        out.extend([ENHANCED_ROUTE_REFRESH, 0]);
    }
    write_long_lived(&capabilities.long_lived, out);
}

fn write_add_path(add_path: &PerFamily<Directions>, out: &mut Vec<u8>) {
    let mut families = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let Directions { receive, send } = *add_path.of(family);
        let directions = u8::from(receive) | u8::from(send) << 1;
        if directions != 0 {
            families.extend(nlri::afi(family).to_be_bytes());
            families.extend([nlri::UNICAST, directions]);
        }
    }
    if !families.is_empty() {
        out.extend([ADD_PATH, families.len() as u8]);
        out.extend(families);
    }
}

fn write_long_lived(long_lived: &PerFamily<Option<LongLived>>, out: &mut Vec<u8>) {
    let mut families = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        if let Some(it) = long_lived.of(family) {
            let flags = if it.forwarding { FORWARDING_KEPT } else { 0 };
            families.extend(nlri::afi(family).to_be_bytes());
            families.extend([nlri::UNICAST, flags]);
            families.extend(it.seconds.min(LONGEST_STALE).to_be_bytes().iter().skip(1));
        }
    }
    if !families.is_empty() {
        out.extend([LONG_LIVED, families.len() as u8]);
        out.extend(families);
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
    if restart.notification {
        header |= NOTIFICATION;
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
                    restart_time: 0xfffe,
                    families: families.repeat(100),
                    ..GracefulRestart::default()
                }),
                ..Capabilities::default()
            },
        };
        let mut body = Vec::new();
        write(&open, &mut body);
        let restart = read(&body).map(|open| open.capabilities.graceful_restart);
        let expected = GracefulRestart {
            restart_time: 4095,
            families: vec![(Family::Ipv4, true), (Family::Ipv6, true)],
            ..GracefulRestart::default()
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
