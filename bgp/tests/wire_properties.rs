//! What holds for every message, whatever is in it.

mod messages;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use routemesh_bgp::wire::*;
use std::collections::BTreeSet;

fn encoded(message: &Message, context: &Context) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, context, &mut bytes);
    bytes
}

/// The longest message that a receiver takes.
fn longest(receiver: &Context) -> usize {
    match receiver.extended_messages.receive {
        true => 65535,
        false => 4096,
    }
}

/// Decodes all of `bytes`, which must be whole and faultless messages, as the peer of `sender`.
fn decode_all(mut bytes: &[u8], sender: &Context) -> Vec<Message> {
    let receiver = messages::of_receiver(sender);
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let decoded = decode(bytes, &receiver)
            .expect("our own bytes are valid")
            .expect("and complete");
        assert_eq!(decoded.faults, []);
        assert!(decoded.length <= longest(&receiver));
        bytes = &bytes[decoded.length..];
        messages.push(decoded.message.to_owned());
    }
    messages
}

/// What several UPDATEs say together, in an order that does not depend on how they were cut.
#[derive(Debug, Default, PartialEq)]
struct Said {
    withdrawn: Vec<(u32, IpNet)>,
    reach: Vec<(NextHop, (u32, IpNet))>,
    attributes: Vec<Attributes>,
    end_of_rib: Option<Family>,
}

fn said(updates: impl IntoIterator<Item = Update>) -> Said {
    let mut said = Said::default();
    for update in updates {
        assert_eq!(said.end_of_rib, None, "End-of-RIB comes last");
        said.withdrawn.extend(update.withdrawn);
        if !update.reach.is_empty() {
            said.attributes.push(update.attributes);
        }
        for Reach { next_hop, prefixes } in update.reach {
            let reach = prefixes.into_iter().map(|prefix| (next_hop, prefix));
            said.reach.extend(reach);
        }
        said.end_of_rib = update.end_of_rib;
    }
    said.withdrawn.sort();
    said.reach.sort();
    said.attributes.dedup();
    said
}

fn as_update(message: Message) -> Update {
    match message {
        Message::Update(update) => update,
        other => panic!("not an UPDATE: {other:?}"),
    }
}

/// What must hold for any input: no panic, progress, memory in proportion, and an answer that can
/// itself be sent.
fn check_robust(bytes: &[u8], context: &Context) -> Result<(), TestCaseError> {
    let back = messages::of_receiver(context);
    match decode(bytes, context) {
        Err(notification) => {
            prop_assert!(notification.data.len() <= bytes.len());
            let reply = encoded(&Message::Notification(notification.clone()), &back);
            prop_assert_eq!(
                decode_all(&reply, &back),
                vec![Message::Notification(notification)]
            );
        }
        Ok(None) => prop_assert!(bytes.len() < longest(context)),
        Ok(Some(decoded)) => {
            prop_assert!((19..=longest(context)).contains(&decoded.length));
            prop_assert!(decoded.length <= bytes.len());
            prop_assert!(decoded.faults.len() <= decoded.length);
            let message = decoded.message.to_owned();
            let again = decode_all(&encoded(&message, &back), &back);
            if let Message::Update(update) = message {
                let prefixes = update.reach.iter().map(|reach| reach.prefixes.len());
                prop_assert!(prefixes.sum::<usize>() + update.withdrawn.len() <= decoded.length);
                // What was understood can be said again.
                prop_assert_eq!(said(again.into_iter().map(as_update)), said([update]));
            } else {
                prop_assert_eq!(again, vec![message]);
            }
        }
    }
    Ok(())
}

fn context_and_message() -> impl Strategy<Value = (Context, Message)> {
    messages::context().prop_flat_map(|context| (Just(context), messages::message(context)))
}

proptest! {
    #[test]
    fn decoding_undoes_encoding((context, message) in context_and_message()) {
        let bytes = encoded(&message, &context);
        let receiver = messages::of_receiver(&context);
        let decoded = decode(&bytes, &receiver).expect("valid").expect("complete");
        prop_assert_eq!(decoded.message.to_owned(), message);
        prop_assert_eq!(decoded.length, bytes.len());
        prop_assert_eq!(decoded.faults, vec![]);
    }

    #[test]
    fn a_message_is_taken_only_when_all_of_it_is_there(
        (context, message) in context_and_message(),
        cut in any::<Index>(),
        more in vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = encoded(&message, &context);
        let length = bytes.len();
        let receiver = messages::of_receiver(&context);
        prop_assert_eq!(decode(&bytes[..cut.index(length)], &receiver), Ok(None));
        bytes.extend(more);
        let decoded = decode(&bytes, &receiver).expect("valid").expect("complete");
        prop_assert_eq!(decoded.length, length);
    }

    #[test]
    fn arbitrary_bytes_are_harmless(
        context in messages::context(),
        bytes in vec(any::<u8>(), 0..200),
    ) {
        check_robust(&bytes, &context)?;
    }

    #[test]
    fn arbitrary_bodies_are_harmless(
        context in messages::context(),
        kind in 0..7_u8,
        body in vec(prop_oneof![any::<u8>(), 0..6_u8], 0..200),
    ) {
        let length = 19 + body.len() as u16;
        let mut bytes = vec![0xff; 16];
        bytes.extend(length.to_be_bytes());
        bytes.push(kind);
        bytes.extend(body);
        check_robust(&bytes, &context)?;
    }

    #[test]
    fn damaged_messages_are_harmless(
        (context, message) in context_and_message(),
        // Decoded as another peer would, too.
        other in messages::context(),
        damage in vec((any::<Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = encoded(&message, &context);
        for (at, value) in damage {
            // Behind the marker, where anything happens only after it was checked.
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] = value;
        }
        check_robust(&bytes, &context)?;
        check_robust(&bytes, &other)?;
    }
}

proptest! {
    // Thousands of prefixes each: fewer will do.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn large_updates_become_several_messages(
        (context, update) in messages::context()
            .prop_flat_map(|context| (Just(context), messages::large_update(context))),
    ) {
        let bytes = encoded(&Message::Update(update.clone()), &context);
        let messages = decode_all(&bytes, &context);
        for message in &messages {
            let update = as_update(message.clone());
            // RFC 7606 section 5.1: each carries prefixes in one place.
            let withdrawn: BTreeSet<Family> =
                update.withdrawn.iter().map(|(_, prefix)| Family::of(prefix)).collect();
            let places = withdrawn.len() + update.reach.len();
            prop_assert!(places <= 1);
        }
        prop_assert_eq!(said(messages.into_iter().map(as_update)), said([update]));
    }
}
