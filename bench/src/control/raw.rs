//! Messages as bytes: what many agents say is made before the clock runs, and of what they hear only the
//! generation is read, so that they cost little beside the controller on the same processors.

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use routemesh_proto::Piece;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The part of a ControllerMessage that says of which generation it is.
#[derive(Clone, PartialEq, Message)]
pub struct Heard {
    /// A whole config.
    #[prost(message, optional, tag = "1")]
    pub config: Option<Whole>,
    /// What has changed.
    #[prost(message, optional, tag = "2")]
    pub change: Option<Changed>,
    /// A piece of a message.
    #[prost(message, optional, tag = "120")]
    pub piece: Option<Piece>,
}

/// Of a Config.
#[derive(Clone, PartialEq, Message)]
pub struct Whole {
    /// Its generation.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
}

/// Of a Change.
#[derive(Clone, PartialEq, Message)]
pub struct Changed {
    /// The generation that it leads to.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
}

impl Heard {
    /// The generation that an agent has after it.
    pub fn generation(&self) -> Option<u64> {
        let whole = self.config.as_ref().map(|it| it.generation);
        whole.or(self.change.as_ref().map(|it| it.generation))
    }
}

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
