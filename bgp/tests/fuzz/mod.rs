//! What must hold for any input, and how bytes become messages: for the fuzz targets in `fuzz/`, and for
//! the replay of their corpus.

mod choices;
mod session;

use choices::Choices;
use ipnet::IpNet;
use routemesh_bgp::wire::{self, *};
pub use session::session;
use std::collections::BTreeSet;

/// Decodes whatever comes, as whatever was negotiated: no panic, progress, memory in proportion, an
/// answer that can itself be sent, and what was understood can be said again.
pub fn decode(input: &[u8]) {
    let mut choices = Choices::new(input);
    let context = choices.context();
    let framed = choices.flag();
    let stream = match framed {
        true => framed_as(choices.byte(), choices.rest()),
        false => choices.rest().to_vec(),
    };
    let mut rest = stream.as_slice();
    loop {
        match wire::decode(rest, &context) {
            Ok(None) => break,
            Err(notification) => {
                assert!(notification.data.len() <= rest.len());
                check_again(&Message::Notification(notification), &context);
                break;
            }
            Ok(Some(decoded)) => {
                assert!((19..=rest.len()).contains(&decoded.length));
                assert!(decoded.faults.len() <= decoded.length);
                let message = decoded.message.to_owned();
                if let Message::Update(update) = &message {
                    let prefixes = update.reach.iter().map(|reach| reach.prefixes.len());
                    let prefixes = prefixes.sum::<usize>() + update.withdrawn.len();
                    assert!(prefixes <= decoded.length);
                }
                check_again(&message, &context);
                rest = rest.get(decoded.length..).unwrap_or_default();
            }
        }
    }
}

/// Makes a message of `input`: what is encoded of it is decoded to the same.
pub fn round_trip(input: &[u8]) {
    let mut choices = Choices::new(input);
    let context = choices.context();
    let message = choices.message(&of_receiver(&context));
    check_again(&message, &context);
}

/// A message with a good header.
fn framed_as(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind % 8);
    bytes.extend(body);
    bytes
}

/// Sends a message back to where it could have come from.
fn check_again(message: &Message, receiver: &Context) {
    let sender = of_receiver(receiver);
    let mut bytes = Vec::new();
    encode(message, &sender, &mut bytes);
    let mut rest = bytes.as_slice();
    let mut again = Vec::new();
    while !rest.is_empty() {
        let decoded = wire::decode(rest, receiver).expect("our own bytes are valid");
        let decoded = decoded.expect("and complete");
        assert_eq!(decoded.faults, []);
        rest = rest.get(decoded.length..).unwrap_or_default();
        again.push(decoded.message.to_owned());
    }
    match message {
        Message::Update(update) => {
            let updates = again.into_iter().map(|message| match message {
                Message::Update(update) => update,
                other => panic!("not an UPDATE: {other:?}"),
            });
            assert_eq!(said(updates), said([update.clone()]));
        }
        // Cut, if it came in a message longer than those that the other side takes.
        Message::Notification(long) if long.data.len() > 4075 => {}
        message => assert_eq!(again, std::slice::from_ref(message)),
    }
}

/// The same session as seen from the other side.
fn of_receiver(sender: &Context) -> Context {
    let turned = |it: Directions| Directions {
        receive: it.send,
        send: it.receive,
    };
    Context {
        extended_messages: turned(sender.extended_messages),
        add_path: PerFamily {
            ipv4: turned(sender.add_path.ipv4),
            ipv6: turned(sender.add_path.ipv6),
        },
        ..*sender
    }
}

/// What several UPDATEs say together, in an order that does not depend on how they were cut.
#[derive(Debug, Default, PartialEq)]
struct Said {
    withdrawn: BTreeSet<(u32, IpNet)>,
    reach: BTreeSet<(NextHop, (u32, IpNet))>,
    attributes: Option<Attributes>,
    end_of_rib: Option<Family>,
}

fn said(updates: impl IntoIterator<Item = Update>) -> Said {
    let mut said = Said::default();
    for update in updates {
        said.withdrawn.extend(update.withdrawn);
        if !update.reach.is_empty() {
            said.attributes = Some(update.attributes);
        }
        for Reach { next_hop, prefixes } in update.reach {
            let reach = prefixes.into_iter().map(|prefix| (next_hop, prefix));
            said.reach.extend(reach);
        }
        said.end_of_rib = said.end_of_rib.or(update.end_of_rib);
    }
    said
}
