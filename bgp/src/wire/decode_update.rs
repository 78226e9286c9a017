//! UPDATE from bytes (RFC 4271 section 4.3), with the error handling of RFC 7606.

use super::attribute;
use super::decode_attributes::{Cause, MpReach, MpUnreach, Parsed};
use super::notification::{code, update};
use super::reader::Reader;
use super::{Attributes, Context, Family, Fault, NextHop, Nlri, Notification, UpdateView, nlri};
use std::net::IpAddr;

/// Reads the body of an UPDATE, after the header, into an empty `view`: the result is too large to be
/// moved about for one prefix. An error ends the session.
pub(super) fn read<'a>(
    body: &'a [u8],
    context: &Context,
    view: &mut UpdateView<'a>,
    faults: &mut Vec<Fault>,
) -> Result<(), Notification> {
    let fields = Fields::split(body)
        .ok_or_else(|| Notification::new(code::UPDATE, update::MALFORMED_ATTRIBUTES, []))?;
    if fields.are_empty() {
        view.end_of_rib = Some(Family::Ipv4);
        return Ok(());
    }
    view.withdrawn = read_ipv4(fields.withdrawn, context)?;
    let plain = read_ipv4(fields.prefixes, context)?;
    let mut parsed = Parsed::new(&mut view.attributes, faults);
    parsed.read(fields.attributes, context)?;
    match parsed.unreach {
        Some(MpUnreach::Known(prefixes)) if prefixes.is_empty() => {
            if view.withdrawn.is_empty() && plain.is_empty() && parsed.is_end_of_rib() {
                view.end_of_rib = Some(prefixes.family());
                return Ok(());
            }
        }
        Some(MpUnreach::Known(prefixes)) => view.unreach = prefixes,
        Some(MpUnreach::Foreign) | None => {}
    }
    let announces_foreign = matches!(parsed.reach, Some(MpReach::Foreign));
    view.plain = parsed.reach_plain(plain);
    view.reach = parsed.reach_multiprotocol();
    let announces = view.plain.is_some() || view.reach.is_some();
    if announces {
        parsed.require(attribute::ORIGIN);
        parsed.require(attribute::AS_PATH);
    }
    match parsed.withdraw {
        None if announces => return Ok(()),
        Some(cause) if !announces && !announces_foreign => {
            // Prefixes were to be expected and may have been lost (RFC 7606 section 5.2).
            return Err(cause.notification());
        }
        cause => view.lost = cause.is_some(),
    }
    view.attributes = Attributes::default();
    Ok(())
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

impl<'a> Parsed<'a, '_> {
    /// RFC 4724 section 2; for an MP_UNREACH_NLRI without prefixes.
    fn is_end_of_rib(&self) -> bool {
        self.has_only(attribute::MP_UNREACH_NLRI) && self.faults.is_empty()
    }

    /// What is announced after the attributes. Like [`Parsed::reach_multiprotocol`] it checks what an
    /// announcement has to have, so look at `withdraw` afterwards.
    fn reach_plain(&mut self, prefixes: Nlri<'a>) -> Option<(NextHop, Nlri<'a>)> {
        let announces = !prefixes.is_empty();
        announces.then(|| (self.plain_next_hop(), prefixes))
    }

    /// What is announced in MP_REACH_NLRI.
    fn reach_multiprotocol(&mut self) -> Option<(NextHop, Nlri<'a>)> {
        match self.reach {
            Some(MpReach::Known(next_hop, prefixes)) if !prefixes.is_empty() => {
                self.require_host(attribute::MP_REACH_NLRI, next_hop.address);
                Some((next_hop, prefixes))
            }
            _ => None,
        }
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
