//! UPDATE from bytes (RFC 4271 section 4.3), with the error handling of RFC 7606.

use super::attribute;
use super::decode_attributes::{self, Cause, MpReach, MpUnreach, Parsed};
use super::notification::{code, update};
use super::reader::Reader;
use super::{Context, Family, Fault, NextHop, Nlri, Notification, UpdateView, nlri};
use std::net::IpAddr;

/// Reads the body of an UPDATE, after the header. An error ends the session.
pub(super) fn read<'a>(
    body: &'a [u8],
    context: &Context,
) -> Result<(UpdateView<'a>, Vec<Fault>), Notification> {
    let fields = Fields::split(body)
        .ok_or_else(|| Notification::new(code::UPDATE, update::MALFORMED_ATTRIBUTES, []))?;
    if fields.are_empty() {
        return Ok((end_of_rib(Family::Ipv4), Vec::new()));
    }
    let withdrawn = read_ipv4(fields.withdrawn, context)?;
    let plain = read_ipv4(fields.prefixes, context)?;
    let mut parsed = decode_attributes::read(fields.attributes, context)?;

    let alone = withdrawn.is_empty() && plain.is_empty();
    let unreach = match parsed.unreach {
        Some(MpUnreach::Known(prefixes))
            if prefixes.is_empty() && alone && parsed.is_end_of_rib() =>
        {
            return Ok((end_of_rib(prefixes.family()), Vec::new()));
        }
        Some(MpUnreach::Known(prefixes)) => prefixes,
        Some(MpUnreach::Foreign) | None => Nlri::default(),
    };

    let reach = parsed.reachable(plain);
    let mut update = UpdateView {
        withdrawn: [withdrawn, unreach, Nlri::default(), Nlri::default()],
        ..UpdateView::default()
    };
    if let Some(cause) = parsed.withdraw {
        if !parsed.announces(&reach) {
            // Prefixes were to be expected and may have been lost (RFC 7606 section 5.2).
            return Err(cause.notification());
        }
        let [plain, mp] = reach.map(|reach| reach.map_or(Nlri::default(), |(_, lost)| lost));
        update.withdrawn = [withdrawn, unreach, plain, mp];
    } else if reach != [None, None] {
        update.reach = reach;
        update.attributes = parsed.attributes;
    }
    Ok((update, parsed.faults))
}

/// What a message announces after the attributes and in MP_REACH_NLRI, if any.
type Announced<'a> = [Option<(NextHop, Nlri<'a>)>; 2];

fn end_of_rib(family: Family) -> UpdateView<'static> {
    UpdateView {
        end_of_rib: Some(family),
        ..UpdateView::default()
    }
}

/// The fields of an UPDATE.
struct Fields<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    prefixes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// `None` where the lengths of the fields exceed that of the message.
    fn split(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let length = reader.u16()?;
        let withdrawn = reader.take(usize::from(length))?;
        let length = reader.u16()?;
        let attributes = reader.take(usize::from(length))?;
        Some(Self {
            withdrawn,
            attributes,
            prefixes: reader.rest(),
        })
    }

    fn are_empty(&self) -> bool {
        self.withdrawn.is_empty() && self.attributes.is_empty() && self.prefixes.is_empty()
    }
}

/// Without the prefixes nothing can be salvaged (RFC 7606 sections 3 (j) and 5.3).
fn read_ipv4<'a>(bytes: &'a [u8], context: &Context) -> Result<Nlri<'a>, Notification> {
    Nlri::read(Family::Ipv4, bytes, context)
        .ok_or_else(|| Notification::new(code::UPDATE, update::INVALID_NETWORK, []))
}

impl<'a> Parsed<'a> {
    /// RFC 4724 section 2; for an MP_UNREACH_NLRI without prefixes.
    fn is_end_of_rib(&self) -> bool {
        self.has_only(attribute::MP_UNREACH_NLRI) && self.faults.is_empty()
    }

    /// Whether the message announces anything, if only of a family that we do not have.
    fn announces(&self, reach: &Announced<'_>) -> bool {
        *reach != [None, None] || matches!(self.reach, Some(MpReach::Foreign))
    }

    /// What the message announces: `plain`, the prefixes after the attributes, and those in
    /// MP_REACH_NLRI. Checks what an announcement has to have, so look at `withdraw` afterwards.
    fn reachable(&mut self, plain: Nlri<'a>) -> Announced<'a> {
        let mut reach = [None, None];
        let [after_attributes, in_attributes] = &mut reach;
        if !plain.is_empty() {
            *after_attributes = Some((self.plain_next_hop(), plain));
        }
        if let Some(MpReach::Known(next_hop, prefixes)) = self.reach
            && !prefixes.is_empty()
        {
            self.require_host(attribute::MP_REACH_NLRI, next_hop.address);
            *in_attributes = Some((next_hop, prefixes));
        }
        if reach != [None, None] {
            self.require(attribute::ORIGIN);
            self.require(attribute::AS_PATH);
        }
        reach
    }

    fn plain_next_hop(&mut self) -> NextHop {
        self.require(attribute::NEXT_HOP);
        if let Some(address) = self.next_hop {
            self.require_host(attribute::NEXT_HOP, IpAddr::V4(address));
        }
        // Without one, all is treated as withdrawn.
        let address = self.next_hop.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
        NextHop {
            address: IpAddr::V4(address),
            link_local: None,
        }
    }

    /// RFC 7606 section 3 (d). There are prefixes to withdraw, so the cause is never told to the peer
    /// and needs no data.
    fn require(&mut self, code: u8) {
        if !self.has(code) {
            let cause = Cause {
                subcode: update::MISSING_WELL_KNOWN,
                data: &[],
            };
            self.treat_as_withdraw(code, cause, "missing");
        }
    }

    /// A next hop is looked at only where prefixes use it: NEXT_HOP beside MP_REACH_NLRI is to be
    /// ignored (RFC 4760 section 3).
    fn require_host(&mut self, code: u8, address: IpAddr) {
        if !nlri::is_host(address) {
            let cause = Cause {
                subcode: update::INVALID_NEXT_HOP,
                data: &[],
            };
            self.treat_as_withdraw(code, cause, "not the address of a host");
        }
    }
}
