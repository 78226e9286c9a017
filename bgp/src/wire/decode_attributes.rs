//! Path attributes from bytes, each with the error handling that RFC 7606 section 7 gives it.

use super::attribute::{self, Attribute};
use super::notification::{code, update};
use super::reader::Reader;
use super::{Action, AsPath, Attributes, Context, Fault, NextHop, Nlri, Notification, Origin};
use super::{UnknownAttribute, as_path, nlri};
use std::net::Ipv4Addr;

/// How many faults are told of one message, besides the first that costs its routes. A long message
/// could have 20,000, each with its line in the log.
const MAX_FAULTS: usize = 16;

/// What the attributes of one UPDATE say.
pub(super) struct Parsed<'a, 'v> {
    attributes: &'v mut Attributes,
    pub(super) faults: &'v mut Vec<Fault>,
    /// NEXT_HOP, for the prefixes outside the attributes.
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) reach: Option<MpReach<'a>>,
    pub(super) unreach: Option<MpUnreach<'a>>,
    /// Why the routes have to be withdrawn: the first reason.
    pub(super) withdraw: Option<Cause<'a>>,
    seen: Seen,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
}

/// MP_REACH_NLRI.
#[derive(Clone, Copy)]
pub(super) enum MpReach<'a> {
    /// Of a family that we have.
    Known(NextHop, Nlri<'a>),
    /// Of any other family: not for us.
    Foreign,
}

/// MP_UNREACH_NLRI.
#[derive(Clone, Copy)]
pub(super) enum MpUnreach<'a> {
    /// Of a family that we have.
    Known(Nlri<'a>),
    /// Of any other family: not for us.
    Foreign,
}

/// An error as a NOTIFICATION would tell it.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    pub(super) subcode: u8,
    pub(super) data: &'a [u8],
}

impl Cause<'_> {
    pub(super) fn notification(self) -> Notification {
        Notification::new(code::UPDATE, self.subcode, self.data)
    }
}

/// Attribute codes met so far.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    fn contains(&self, code: u8) -> bool {
        let word = self.0.get(usize::from(code / 64));
        word.is_some_and(|word| word & (1 << (code % 64)) != 0)
    }

    fn insert(&mut self, code: u8) {
        if let Some(word) = self.0.get_mut(usize::from(code / 64)) {
            *word |= 1 << (code % 64);
        }
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// How an attribute is malformed.
struct Malformed {
    severity: Severity,
    /// Of the UPDATE Message Error with which RFC 4271 would have ended the session.
    subcode: u8,
    reason: &'static str,
}

/// The approaches of RFC 7606 section 2, weakest first.
#[derive(Clone, Copy)]
enum Severity {
    Discard,
    Withdraw,
    Reset,
}

fn discard(reason: &'static str) -> Malformed {
    Malformed {
        severity: Severity::Discard,
        subcode: update::OPTIONAL_ATTRIBUTE,
        reason,
    }
}

fn withdraw(subcode: u8, reason: &'static str) -> Malformed {
    Malformed {
        severity: Severity::Withdraw,
        subcode,
        reason,
    }
}

fn reset(subcode: u8, reason: &'static str) -> Malformed {
    Malformed {
        severity: Severity::Reset,
        subcode,
        reason,
    }
}

/// A length that contradicts the type of the attribute.
fn wrong_length() -> Malformed {
    withdraw(update::ATTRIBUTE_LENGTH, "wrong length")
}

impl<'a, 'v> Parsed<'a, 'v> {
    /// Nothing yet.
    pub(super) fn new(attributes: &'v mut Attributes, faults: &'v mut Vec<Fault>) -> Self {
        Self {
            attributes,
            faults,
            next_hop: None,
            reach: None,
            unreach: None,
            withdraw: None,
            seen: Seen::default(),
            as4_path: None,
            as4_aggregator: None,
        }
    }

    /// Reads the path attributes of an UPDATE. An error ends the session.
    pub(super) fn read(&mut self, bytes: &'a [u8], context: &Context) -> Result<(), Notification> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let Some(attribute) = Attribute::read(&mut reader) else {
                self.overrun(reader)?;
                break;
            };
            if let Err(malformed) = self.take(&attribute, context) {
                self.note(&attribute, malformed)?;
            }
        }
        self.merge_as4();
        // Neighbours may order them differently; equal sets shall be equal values.
        let unknown = &mut self.attributes.unknown;
        unknown.sort_unstable_by_key(|unknown| unknown.code);
        Ok(())
    }

    pub(super) fn has(&self, code: u8) -> bool {
        self.seen.contains(code)
    }

    /// Whether `code` is the one attribute there is.
    pub(super) fn has_only(&self, code: u8) -> bool {
        self.seen.contains(code) && self.seen.count() == 1
    }

    /// Records that the routes have to be withdrawn.
    pub(super) fn treat_as_withdraw(&mut self, code: u8, cause: Cause<'a>, reason: &'static str) {
        let first = self.withdraw.is_none();
        self.withdraw.get_or_insert(cause);
        if first || self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault {
                attribute: code,
                action: Action::TreatAsWithdraw,
                reason,
            });
        }
    }

    /// An attribute longer than the rest of the list (RFC 7606 section 4). The prefixes after the
    /// list are found all the same, but those in this attribute cannot be.
    fn overrun(&mut self, rest: Reader<'a>) -> Result<(), Notification> {
        let code = rest.rest().get(1).copied().unwrap_or(0);
        let cause = Cause {
            subcode: update::MALFORMED_ATTRIBUTES,
            data: &[],
        };
        if matches!(code, attribute::MP_REACH_NLRI | attribute::MP_UNREACH_NLRI) {
            return Err(cause.notification());
        }
        self.treat_as_withdraw(code, cause, "longer than the attributes together");
        Ok(())
    }

    fn note(
        &mut self,
        attribute: &Attribute<'a>,
        malformed: Malformed,
    ) -> Result<(), Notification> {
        let data: &[u8] = match malformed.subcode {
            update::MALFORMED_ATTRIBUTES | update::MALFORMED_AS_PATH => &[],
            _ => attribute.bytes,
        };
        let cause = Cause {
            subcode: malformed.subcode,
            data,
        };
        match malformed.severity {
            Severity::Reset => return Err(cause.notification()),
            Severity::Withdraw => {
                self.treat_as_withdraw(attribute.code, cause, malformed.reason);
            }
            Severity::Discard if self.faults.len() < MAX_FAULTS => self.faults.push(Fault {
                attribute: attribute.code,
                action: Action::Discard,
                reason: malformed.reason,
            }),
            Severity::Discard => {}
        }
        Ok(())
    }

    fn take(&mut self, attribute: &Attribute<'a>, context: &Context) -> Result<(), Malformed> {
        let code = attribute.code;
        let multiprotocol = matches!(code, attribute::MP_REACH_NLRI | attribute::MP_UNREACH_NLRI);
        if self.seen.contains(code) {
            // RFC 7606 section 3 (g).
            return Err(match multiprotocol {
                true => reset(update::MALFORMED_ATTRIBUTES, "came twice"),
                false => discard("came twice"),
            });
        }
        self.seen.insert(code);
        if let Some(reason) = misplaced(code, context) {
            return Err(discard(reason));
        }
        let Some(flags) = attribute::flags(code) else {
            return self.take_unknown(attribute);
        };
        let specified = attribute::OPTIONAL | attribute::TRANSITIVE;
        if attribute.flags & specified != flags {
            // Sections 3 (c) and 5.3.
            return Err(match multiprotocol {
                true => reset(update::ATTRIBUTE_FLAGS, "wrong flags"),
                false => withdraw(update::ATTRIBUTE_FLAGS, "wrong flags"),
            });
        }
        self.take_known(code, attribute.value, context)
    }

    fn take_known(
        &mut self,
        code: u8,
        value: &'a [u8],
        context: &Context,
    ) -> Result<(), Malformed> {
        let set = &mut *self.attributes;
        match code {
            attribute::ORIGIN => set.origin = origin(value)?,
            attribute::AS_PATH => {
                set.as_path = as_path::read(value, context.four_octet_as)
                    .map_err(|wrong| withdraw(update::MALFORMED_AS_PATH, wrong.reason()))?;
            }
            attribute::NEXT_HOP => self.next_hop = Some(exactly(value)?.into()),
            attribute::MULTI_EXIT_DISC => set.med = Some(u32::from_be_bytes(exactly(value)?)),
            attribute::LOCAL_PREF => set.local_pref = Some(u32::from_be_bytes(exactly(value)?)),
            attribute::ATOMIC_AGGREGATE => {
                set.atomic_aggregate = value.is_empty();
                if !value.is_empty() {
                    return Err(discard("wrong length"));
                }
            }
            attribute::AGGREGATOR => {
                set.aggregator = Some(aggregator(value, context.four_octet_as)?);
            }
            attribute::COMMUNITIES => {
                set.communities = communities(value, u32::from_be_bytes)?;
            }
            attribute::ORIGINATOR_ID => set.originator_id = Some(exactly(value)?.into()),
            attribute::CLUSTER_LIST => {
                let from: fn([u8; 4]) -> Ipv4Addr = Ipv4Addr::from;
                set.cluster_list = list(value, update::ATTRIBUTE_LENGTH, from)?;
            }
            attribute::EXTENDED_COMMUNITIES => {
                set.extended_communities = communities(value, |eight| eight)?;
            }
            attribute::LARGE_COMMUNITIES => {
                set.large_communities = communities(value, large_community)?;
            }
            attribute::ONLY_TO_CUSTOMER => {
                set.only_to_customer = Some(u32::from_be_bytes(exactly(value)?));
            }
            attribute::AS4_PATH => {
                self.as4_path = Some(as_path::read_as4(value).map_err(wrong_as4_path)?);
            }
            attribute::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            attribute::MP_REACH_NLRI => self.reach = Some(mp_reach(value, context)?),
            attribute::MP_UNREACH_NLRI => self.unreach = Some(mp_unreach(value, context)?),
            _ => {}
        }
        Ok(())
    }

    /// An attribute that we do not know (RFC 4271 section 5).
    fn take_unknown(&mut self, attribute: &Attribute<'_>) -> Result<(), Malformed> {
        if attribute.flags & attribute::OPTIONAL == 0 {
            return Err(reset(
                update::UNRECOGNIZED_WELL_KNOWN,
                "unknown, yet well-known",
            ));
        }
        if attribute.flags & attribute::TRANSITIVE != 0 {
            self.attributes.unknown.push(UnknownAttribute {
                code: attribute.code,
                value: attribute.value.to_vec(),
            });
        }
        Ok(())
    }

    /// Applies what a speaker of four octets said past one of two (RFC 6793 section 4.2.3).
    fn merge_as4(&mut self) {
        let set = &mut *self.attributes;
        let hidden = (u32::from(attribute::AS_TRANS), self.as4_aggregator);
        match (set.aggregator, hidden) {
            (Some((asn, _)), (trans, Some(_))) if asn != trans => return,
            (Some(_), (_, Some(hidden))) => set.aggregator = Some(hidden),
            _ => {}
        }
        if let Some(as4_path) = self.as4_path.take() {
            as_path::merge(&mut set.as_path, as4_path);
        }
    }
}

/// Why an attribute has no place in a message of this peer, whatever is in it.
fn misplaced(code: u8, context: &Context) -> Option<&'static str> {
    match code {
        // RFC 7606 sections 7.5, 7.9 and 7.10.
        attribute::LOCAL_PREF | attribute::ORIGINATOR_ID | attribute::CLUSTER_LIST => {
            (!context.internal).then_some("from an external peer")
        }
        // RFC 6793 section 4.1.
        attribute::AS4_PATH | attribute::AS4_AGGREGATOR => context
            .four_octet_as
            .then_some("from a peer with 4-octet AS numbers"),
        _ => None,
    }
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| wrong_length())
}

/// Values of `N` bytes each, at least one (RFC 7606 section 4).
fn list<const N: usize, T>(
    value: &[u8],
    subcode: u8,
    convert: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, Malformed> {
    match value.as_chunks() {
        (items, []) if !items.is_empty() => Ok(items.iter().copied().map(convert).collect()),
        _ => Err(withdraw(subcode, "wrong length")),
    }
}

fn origin(value: &[u8]) -> Result<Origin, Malformed> {
    match exactly(value)? {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        _ => Err(withdraw(update::INVALID_ORIGIN, "undefined")),
    }
}

/// RFC 6793 section 6; but a set costs the routes wherever it is (RFC 9774 section 3).
fn wrong_as4_path(wrong: as_path::Wrong) -> Malformed {
    match wrong {
        as_path::Wrong::Set => withdraw(update::MALFORMED_AS_PATH, wrong.reason()),
        as_path::Wrong::Malformed(reason) => discard(reason),
    }
}

/// AGGREGATOR and AS4_AGGREGATOR are discarded where others would cost the routes (RFC 7606
/// section 7.7, RFC 6793 section 6, RFC 7607).
fn aggregator(value: &[u8], four_octet_as: bool) -> Result<(u32, Ipv4Addr), Malformed> {
    let mut reader = Reader::new(value);
    let asn = match four_octet_as {
        true => reader.u32(),
        false => reader.u16().map(u32::from),
    };
    match (asn, reader.ipv4(), reader.is_empty()) {
        (Some(0), Some(_), true) => Err(discard("AS 0")),
        (Some(asn), Some(address), true) => Ok((asn, address)),
        _ => Err(discard("wrong length")),
    }
}

fn communities<const N: usize, T: Copy + Ord>(
    value: &[u8],
    convert: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, Malformed> {
    let mut communities = list(value, update::OPTIONAL_ATTRIBUTE, convert)?;
    remove_repeated(&mut communities);
    Ok(communities)
}

fn large_community(bytes: [u8; 12]) -> [u32; 3] {
    let (words, _) = bytes.as_chunks();
    let mut community = [0; 3];
    for (number, word) in community.iter_mut().zip(words) {
        *number = u32::from_be_bytes(*word);
    }
    community
}

/// Communities of all kinds are sets: each comes once, received or sent. RFC 8092 section 5 asks for
/// it; of the others it is a matter of equal sets being equal values. Keeps the order of the first
/// ones.
pub(super) fn remove_repeated<T: Copy + Ord>(communities: &mut Vec<T>) {
    if may_repeat(communities) {
        let mut seen = std::collections::BTreeSet::new();
        communities.retain(|community| seen.insert(*community));
    }
}

/// False for lists in ascending order, as most are: seen at once.
pub(super) fn may_repeat<T: Ord>(communities: &[T]) -> bool {
    !communities.is_sorted_by(|one, next| one < next)
}

/// Where prefixes cannot be found, RFC 7606 sections 5.3 and 7.11 leave the choice between a reset
/// and giving up the family: ours is the reset, after which nothing stale is left.
fn mp_reach<'a>(value: &'a [u8], context: &Context) -> Result<MpReach<'a>, Malformed> {
    let wrong = |reason| reset(update::OPTIONAL_ATTRIBUTE, reason);
    let mut reader = Reader::new(value);
    let (Some(afi), Some(safi), Some(length)) = (reader.u16(), reader.u8(), reader.u8()) else {
        return Err(wrong("too short"));
    };
    let (Some(next_hop), Some(_reserved)) = (reader.take(usize::from(length)), reader.u8()) else {
        return Err(wrong("too short"));
    };
    let Some(family) = nlri::family(afi, safi) else {
        return Ok(MpReach::Foreign);
    };
    let next_hop = nlri::read_next_hop(family, next_hop, context.extended_next_hop)
        .ok_or_else(|| wrong("wrong next hop length"))?;
    let prefixes =
        Nlri::read(family, reader.rest(), context).ok_or_else(|| wrong("malformed prefix"))?;
    Ok(MpReach::Known(next_hop, prefixes))
}

fn mp_unreach<'a>(value: &'a [u8], context: &Context) -> Result<MpUnreach<'a>, Malformed> {
    let wrong = |reason| reset(update::OPTIONAL_ATTRIBUTE, reason);
    let mut reader = Reader::new(value);
    let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
        return Err(wrong("too short"));
    };
    let Some(family) = nlri::family(afi, safi) else {
        return Ok(MpUnreach::Foreign);
    };
    let prefixes =
        Nlri::read(family, reader.rest(), context).ok_or_else(|| wrong("malformed prefix"))?;
    Ok(MpUnreach::Known(prefixes))
}
