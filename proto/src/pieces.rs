//! What is large travels packed and in pieces: both ends of a stream would keep room for the largest
//! message that ever passed, and there are thousands of streams.

use crate::{AgentMessage, ControllerMessage, Piece, agent_message, controller_message};
use prost::{Message, decode_length_delimiter as varint};
use std::fmt;

/// What is larger travels in pieces, and so large is each.
const PIECE: usize = 4 << 10;
/// So much may come packed.
const LARGEST_PACKED: usize = 8 << 20;
/// And so much may come out of it.
const LARGEST: usize = 32 << 20;
/// A report has no more texts, lists' entries and other messages within it: one of two octets takes hundreds
/// once it is read. Twenty thousand tunnels have less than half of that.
const MOST: usize = 1 << 19;
/// Messages within messages, deeper than any are.
const DEPTH: u32 = 8;
/// Fast rather than small: it is two thirds of what the best would leave.
const LEVEL: i32 = 1;

/// What came in pieces is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// Too much of it.
    #[error("a message in pieces is larger than {} MiB", LARGEST_PACKED >> 20)]
    TooLarge,
    /// It cannot be unpacked, or is more than may come out of it.
    #[error("a message in pieces is damaged")]
    Damaged,
    /// Reading it would take too much room.
    #[error("a message in pieces has more than {MOST} parts")]
    TooMany,
}

/// A message of a stream, which may be a piece of another.
pub trait Pieced: Message + Default {
    /// It has no more parts.
    const MOST: usize;
    /// A piece as a message.
    fn from_piece(piece: Piece) -> Self;
    /// The piece that it is.
    fn piece(&self) -> Option<&Piece>;
}

impl Pieced for AgentMessage {
    const MOST: usize = MOST;

    fn from_piece(piece: Piece) -> Self {
        Self {
            message: Some(agent_message::Message::Piece(piece)),
        }
    }

    fn piece(&self) -> Option<&Piece> {
        match &self.message {
            Some(agent_message::Message::Piece(piece)) => Some(piece),
            _ => None,
        }
    }
}

impl Pieced for ControllerMessage {
    // Agents do what the controller says anyhow.
    const MOST: usize = usize::MAX;

    fn from_piece(piece: Piece) -> Self {
        Self {
            message: Some(controller_message::Message::Piece(piece)),
        }
    }

    fn piece(&self) -> Option<&Piece> {
        match &self.message {
            Some(controller_message::Message::Piece(piece)) => Some(piece),
            _ => None,
        }
    }
}

/// A message as it travels: by itself if it is small.
pub fn split<M: Pieced>(message: M) -> Vec<M> {
    if message.encoded_len() <= PIECE {
        return vec![message];
    }
    let packed = pack(&message.encode_to_vec());
    let pieces = packed.chunks(PIECE);
    let last = pieces.len().saturating_sub(1);
    let pieces = pieces.enumerate().map(|(at, data)| Piece {
        data: data.to_vec(),
        last: at == last,
    });
    pieces.map(M::from_piece).collect()
}

/// The pieces of a message, as far as they have come.
#[derive(Clone, Default)]
pub struct Pieces(Vec<u8>);

impl Pieces {
    /// Adds the next; all of them once it was the last.
    pub fn add(&mut self, piece: &Piece) -> Result<Option<Packed>, PieceError> {
        if self.0.len() + piece.data.len() > LARGEST_PACKED {
            return Err(PieceError::TooLarge);
        }
        self.0.extend_from_slice(&piece.data);
        Ok(piece.last.then(|| Packed(std::mem::take(&mut self.0))))
    }

    /// What a message that came is to whom it came to; `None` for a piece that others follow.
    pub fn whole<M: Pieced>(&mut self, message: M) -> Result<Option<M>, PieceError> {
        match message.piece() {
            None => Ok(Some(message)),
            Some(piece) => self.add(piece)?.map(Packed::open).transpose(),
        }
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces({} bytes)", self.0.len())
    }
}

/// A whole message, packed.
pub struct Packed(Vec<u8>);

impl Packed {
    /// The message. It takes milliseconds.
    pub fn open<M: Pieced>(self) -> Result<M, PieceError> {
        let plain = unpack(&self.0, LARGEST).ok_or(PieceError::Damaged)?;
        let mut left = M::MOST;
        count(&plain, DEPTH, &mut left).ok_or(PieceError::TooMany)?;
        let message = M::decode(plain.as_slice()).map_err(|_| PieceError::Damaged)?;
        match message.piece() {
            None => Ok(message),
            Some(_) => Err(PieceError::Damaged),
        }
    }
}

/// Takes all parts that have a length, at whatever depth, from what is `left`; `None` where that is too few.
///
/// A text is counted as what it would be as a message, which is little, as few are one by chance. What is no
/// message from somewhere on, a decoder has read as far as there.
fn count(mut octets: &[u8], depth: u32, left: &mut usize) -> Option<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Some(());
    };
    while let Ok(key) = varint(&mut octets) {
        let length = match key & 7 {
            0 => varint(&mut octets).map(|_| 0),
            1 => Ok(8),
            2 => varint(&mut octets),
            // What is between the ends of a group stands by itself.
            3 | 4 => Ok(0),
            5 => Ok(4),
            _ => break,
        };
        let Some((part, rest)) = length.ok().and_then(|it| octets.split_at_checked(it)) else {
            break;
        };
        octets = rest;
        if key & 7 == 2 {
            *left = left.checked_sub(1)?;
            count(part, depth, left)?;
        }
    }
    Some(())
}

/// The length, and then the bytes, packed.
pub fn pack(plain: &[u8]) -> Vec<u8> {
    let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    let mut packed = length.to_be_bytes().to_vec();
    // It fails only where there is no memory; then nobody can unpack it.
    packed.extend(zstd::bulk::compress(plain, LEVEL).unwrap_or_default());
    packed.shrink_to_fit();
    packed
}

/// What [`pack`] packed; `None` where that is damaged, or larger than `largest`.
pub fn unpack(packed: &[u8], largest: usize) -> Option<Vec<u8>> {
    let (length, packed) = packed.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length > largest {
        return None;
    }
    let plain = zstd::bulk::decompress(packed, length).ok()?;
    (plain.len() == length).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BgpStatus, LivenessStatus, Status, TunnelStatus};

    fn message(tunnels: u32) -> AgentMessage {
        let tunnels = (0..tunnels).map(|number| TunnelStatus {
            number: number.wrapping_mul(2_654_435_761),
            peer: format!("gw-{number}"),
            ike: "up".to_owned(),
            interface: "up".to_owned(),
            bgp: Some(BgpStatus {
                state: "Established".to_owned(),
                ..BgpStatus::default()
            }),
            liveness: Some(LivenessStatus {
                state: "alive".to_owned(),
                ..LivenessStatus::default()
            }),
            ..TunnelStatus::default()
        });
        AgentMessage {
            message: Some(agent_message::Message::Status(Status {
                tunnels: tunnels.collect(),
                ..Status::default()
            })),
        }
    }

    #[test]
    fn what_travels_arrives() {
        // Alone, in one piece, in many.
        for (tunnels, pieces) in [(1, 1..2), (200, 1..2), (20_000, 10..80)] {
            let message = message(tunnels);
            let travels = split(message.clone());
            assert!(pieces.contains(&travels.len()), "{}", travels.len());
            let mut arrived = Pieces::default();
            let mut all = Vec::new();
            for piece in travels {
                assert!(piece.encoded_len() <= PIECE + 16);
                all.extend(arrived.whole(piece).unwrap());
            }
            assert_eq!(all, vec![message]);
        }
    }

    /// Two octets make a tunnel, a path or a text.
    #[test]
    fn what_would_take_too_much_room_is_not_read() {
        let opened = |plain: &[u8]| {
            let piece = Piece {
                data: pack(plain),
                last: true,
            };
            let all = Pieces::default().add(&piece).unwrap();
            all.unwrap().open::<AgentMessage>().map(drop)
        };
        let within = |key: &[u8], plain: &[u8]| {
            let mut all = key.to_vec();
            prost::encode_length_delimiter(plain.len(), &mut all).unwrap();
            all.extend(plain);
            all
        };
        let tunnels = |count| [0x1a, 0].repeat(count);
        let (status, change, head): (&[u8], &[u8], &[u8]) = (&[0x12], &[0xc2, 0x07], &[0x0a]);
        assert_eq!(opened(&within(status, &tunnels(1_000))), Ok(()));
        let too_many = tunnels(MOST);
        let damaged = [&too_many[..], &[0xff]].concat();
        for plain in [
            within(status, &too_many),
            within(change, &within(head, &too_many)),
            // It is read as far as there.
            within(status, &damaged),
        ] {
            assert_eq!(opened(&plain), Err(PieceError::TooMany));
        }
        // As many as there can be.
        let most = message(20_000).encode_to_vec();
        let mut left = MOST / 2;
        assert!(count(&most, DEPTH, &mut left).is_some());
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let piece = |data: &[u8], last| Piece {
            data: data.to_vec(),
            last,
        };
        let opened = |data: &[u8]| {
            let all = Pieces::default().add(&piece(data, true)).unwrap();
            all.unwrap().open::<AgentMessage>()
        };
        let good = pack(&message(2_000).encode_to_vec());
        assert!(opened(&good).is_ok());
        // Cut, longer or shorter than it says, no message, a piece again.
        let mut longer = good.clone();
        longer[..4].copy_from_slice(&(LARGEST as u32 + 1).to_be_bytes());
        let mut shorter = good.clone();
        shorter[..4].copy_from_slice(&7_u32.to_be_bytes());
        let nested = AgentMessage::from_piece(piece(&good, true));
        for data in [
            &[][..],
            &good[..3],
            &good[..good.len() - 1],
            &longer,
            &shorter,
            &pack(&[0xff; 40]),
            &pack(&nested.encode_to_vec()),
        ] {
            assert_eq!(opened(data), Err(PieceError::Damaged));
        }
        let mut pieces = Pieces::default();
        let half = piece(&vec![0; LARGEST_PACKED / 2], false);
        assert!(pieces.add(&half).is_ok_and(|it| it.is_none()));
        assert!(pieces.add(&half).is_ok_and(|it| it.is_none()));
        let more = pieces.add(&piece(&[0], false));
        assert_eq!(more.err(), Some(PieceError::TooLarge));
    }
}
