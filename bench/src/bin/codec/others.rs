//! The codecs of other crates, each used as its documentation shows.

use crate::{Case, Work, ours};
use bgpkit_parser::bgp::parse_bgp_message;
use bgpkit_parser::models::{AsnLength, AttributeValue, BgpMessage as BgpkitMessage};
use bytes::Bytes;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::path_attribute::{MpReach, PathAttributeValue};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use routecore::bgp::message::SessionConfig;
use routecore::bgp::message::UpdateMessage;
use routecore::bgp::message::update_builder::UpdateBuilder;
use routecore::bgp::nlri::afisafi::{
    AfiSafiNlri, Ipv4UnicastNlri, Ipv6UnicastNlri, NlriCompose, NlriParse,
};
use routecore::bgp::path_attributes::PaMap;
use routecore::bgp::types::NextHop;
use routemesh_bench::prefix::Family;
use std::hint::black_box;
use std::io::Cursor;

/// What was written must announce the prefixes, or the time of writing says nothing.
fn proven<'a>(case: &Case, written: &[u8], work: Work<'a>) -> Option<Work<'a>> {
    (ours::count(written) == case.prefixes.len()).then_some(work)
}

// ---- netgauze-bgp-pkt --------------------------------------------------------------------------

fn netgauze(bytes: &[u8], context: &mut BgpParsingContext) -> Option<BgpMessage> {
    BgpMessage::parse(&mut SliceReader::new(bytes), context).ok()
}

pub fn netgauze_decode(case: &Case) -> Option<Work<'_>> {
    let mut context = BgpParsingContext::default();
    context.set_asn4(true);
    Some(Box::new(move || {
        let Some(BgpMessage::Update(update)) = netgauze(black_box(&case.bytes), &mut context)
        else {
            return 0;
        };
        let mut count = 0;
        for attribute in update.path_attributes() {
            match attribute.value() {
                PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) => {
                    for prefix in nlri {
                        black_box(prefix);
                        count += 1;
                    }
                }
                other => {
                    black_box(other);
                }
            }
        }
        for prefix in update.nlri() {
            black_box(prefix);
            count += 1;
        }
        count
    }))
}

pub fn netgauze_encode(case: &Case) -> Option<Work<'_>> {
    let mut context = BgpParsingContext::default();
    context.set_asn4(true);
    let message = netgauze(&case.bytes, &mut context)?;
    let write = |message: &BgpMessage, out: &mut Vec<u8>| {
        out.clear();
        message.write(&mut Cursor::new(&mut *out)).is_ok()
    };
    let mut out = Vec::with_capacity(4096);
    write(&message, &mut out).then_some(())?;
    let written = out.clone();
    let work = move || {
        write(black_box(&message), &mut out);
        black_box(&out).len()
    };
    proven(case, &written, Box::new(work))
}

// ---- bgpkit-parser -----------------------------------------------------------------------------

fn bgpkit(bytes: &Bytes) -> Option<BgpkitMessage> {
    parse_bgp_message(&mut bytes.clone(), false, &AsnLength::Bits32).ok()
}

pub fn bgpkit_decode(case: &Case) -> Option<Work<'_>> {
    let bytes = Bytes::from(case.bytes.clone());
    Some(Box::new(move || {
        let Some(BgpkitMessage::Update(update)) = bgpkit(black_box(&bytes)) else {
            return 0;
        };
        let mut count = 0;
        for attribute in update.attributes.iter() {
            match attribute {
                AttributeValue::MpReachNlri(nlri) => {
                    for prefix in &nlri.prefixes {
                        black_box(prefix);
                        count += 1;
                    }
                }
                other => {
                    black_box(other);
                }
            }
        }
        for prefix in &update.announced_prefixes {
            black_box(prefix);
            count += 1;
        }
        count
    }))
}

pub fn bgpkit_encode(case: &Case) -> Option<Work<'_>> {
    let message = bgpkit(&Bytes::from(case.bytes.clone()))?;
    let written = message.encode(AsnLength::Bits32).ok()?;
    let work = move || {
        black_box(&message)
            .encode(AsnLength::Bits32)
            .map_or(0, |bytes| black_box(bytes).len())
    };
    proven(case, &written, Box::new(work))
}

// ---- routecore ---------------------------------------------------------------------------------

/// Attributes and prefixes are read from the bytes as they are asked for.
fn routecore_count<'a, N>(update: &'a UpdateMessage<&'a [u8]>) -> Option<usize>
where
    N: AfiSafiNlri + NlriParse<'a, &'a [u8], &'a [u8]>,
{
    black_box(update.origin().ok()?);
    black_box(update.aspath().ok()?);
    black_box(update.local_pref().ok()?);
    black_box(update.find_next_hop(N::afi_safi()).ok()?);
    let mut count = 0;
    for prefix in update.typed_announcements::<_, N>().ok()?? {
        black_box(prefix.ok()?);
        count += 1;
    }
    Some(count)
}

pub fn routecore_decode(case: &Case) -> Option<Work<'_>> {
    let config = SessionConfig::modern();
    Some(Box::new(move || {
        let bytes = black_box(case.bytes.as_slice());
        let Ok(update) = UpdateMessage::from_octets(bytes, &config) else {
            return 0;
        };
        let count = match case.family {
            Family::Ipv4 => routecore_count::<Ipv4UnicastNlri>(&update),
            Family::Ipv6 => routecore_count::<Ipv6UnicastNlri>(&update),
        };
        count.unwrap_or(0)
    }))
}

pub fn routecore_encode(case: &Case) -> Option<Work<'_>> {
    match case.family {
        Family::Ipv4 => routecore_build::<Ipv4UnicastNlri>(case),
        Family::Ipv6 => routecore_build::<Ipv6UnicastNlri>(case),
    }
}

/// Its builder takes what it is given: so giving it is a part of writing. The message that it makes
/// has been read once more.
fn routecore_build<'a, N>(case: &'a Case) -> Option<Work<'a>>
where
    N: AfiSafiNlri + NlriCompose + NlriParse<'a, &'a [u8], &'a [u8], Output = N> + Clone + 'a,
{
    let config = SessionConfig::modern();
    let bytes: &'a [u8] = &case.bytes;
    let update = Box::leak(Box::new(UpdateMessage::from_octets(bytes, &config).ok()?));
    let update: &'a UpdateMessage<&'a [u8]> = update;
    let attributes = PaMap::from_update_pdu(update).ok()?;
    let next_hop = update.find_next_hop(N::afi_safi()).ok()?;
    let prefixes = update.typed_announcements::<_, N>().ok()??;
    let prefixes: Vec<N> = prefixes.filter_map(Result::ok).collect();
    let build =
        move |config: &SessionConfig, attributes: &PaMap, next_hop: NextHop, prefixes: &[N]| {
            let mut builder =
                UpdateBuilder::<Vec<u8>, N>::from_attributes_builder(attributes.clone());
            builder
                .announcements_from_iter(prefixes.iter().cloned())
                .ok()?;
            builder.set_nexthop(next_hop).ok()?;
            Some(builder.into_message(config).ok()?.into_octets())
        };
    let written = build(&config, &attributes, next_hop, &prefixes)?;
    let work = move || {
        let built = build(
            &config,
            black_box(&attributes),
            next_hop,
            black_box(&prefixes),
        );
        built.map_or(0, |bytes| black_box(bytes).len())
    };
    proven(case, &written, Box::new(work))
}
