//! A long list of a report, packed: a mesh of 2,000 gateways has four million ends of tunnels to keep.

use prost::Message;
use prost::bytes::Bytes;
use routemesh_proto::{Route, TunnelStatus, pack as pack_octets, unpack as unpack_octets};
use std::collections::{BTreeMap, BTreeSet};

/// Unpacked, a list has at most so many octets: what one message may have.
const LARGEST: usize = 32 << 20;
/// What has changed is kept beside the packed list, until it is an eighth of it and more than this.
const BESIDE: usize = 64;

/// What is told apart by a key.
pub(crate) trait Keyed: Message + Default + Clone {
    type Key: Ord + Clone;
    fn key(&self) -> Self::Key;
}

impl Keyed for TunnelStatus {
    type Key = u32;
    fn key(&self) -> u32 {
        self.number
    }
}

impl Keyed for Route {
    type Key = String;
    fn key(&self) -> String {
        self.prefix.clone()
    }
}

/// The list.
#[derive(Clone, Debug)]
pub(crate) struct Part<T: Keyed> {
    packed: Bytes,
    /// In `packed`.
    count: usize,
    /// Since: what is new or other, and what is gone.
    changed: BTreeMap<T::Key, Option<T>>,
    /// At most so many octets are in `changed`.
    beside: usize,
}

impl<T: Keyed> Part<T> {
    pub(crate) fn new(items: &[T]) -> Self {
        Self {
            packed: pack(items),
            count: items.len(),
            changed: BTreeMap::new(),
            beside: 0,
        }
    }

    /// As [`Part::to_stored`] gave it, and how many are packed. What is damaged has nothing in it.
    pub(crate) fn from_stored(
        (packed, count): (Bytes, u32),
        changed: Vec<T>,
        removed: Vec<T::Key>,
    ) -> Self {
        let mut part = Self {
            count: usize::try_from(count).unwrap_or(usize::MAX),
            packed,
            changed: BTreeMap::new(),
            beside: 0,
        };
        part.change(changed, removed);
        part
    }

    /// How many are packed.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    pub(crate) fn to_stored(&self) -> (Bytes, Vec<T>, Vec<T::Key>) {
        let changed = self.changed.values().flatten().cloned().collect();
        let removed = self.changed.iter().filter(|(_, it)| it.is_none());
        let removed = removed.map(|(key, _)| key.clone()).collect();
        (self.packed.clone(), changed, removed)
    }

    pub(crate) fn change(&mut self, changed: Vec<T>, removed: Vec<T::Key>) {
        self.beside += changed.iter().map(Message::encoded_len).sum::<usize>();
        let removed = removed.into_iter().map(|key| (key, None));
        let changed = changed.into_iter().map(|it| (it.key(), Some(it)));
        self.changed.extend(removed.chain(changed));
        if self.changed.len() > BESIDE.max(self.count / 8) || self.beside > LARGEST / 8 {
            *self = Self::new(&self.all());
        }
    }

    /// It is no longer than a list may be.
    pub(crate) fn fits(&self) -> bool {
        self.count + self.changed.len() <= super::MOST
            && packed_from(&self.packed) + self.beside <= LARGEST
    }

    /// All of it: in the order it came, what is new at the end.
    pub(crate) fn all(&self) -> Vec<T> {
        let mut changed = self.changed.clone();
        let packed = unpack::<T>(&self.packed).into_iter();
        let mut all: Vec<T> = packed
            .filter_map(|it| changed.remove(&it.key()).unwrap_or(Some(it)))
            .collect();
        all.extend(changed.into_values().flatten());
        all
    }
}

impl Part<TunnelStatus> {
    /// Some of it. The others are skipped as octets.
    pub(crate) fn some(&self, numbers: &BTreeSet<u32>) -> Vec<TunnelStatus> {
        let mut plain = plain(&self.packed);
        let mut some = Vec::new();
        while let Some(octets) = next(&mut plain) {
            let wanted = Number::decode(octets.clone()).is_ok_and(|it| {
                numbers.contains(&it.number) && !self.changed.contains_key(&it.number)
            });
            if let Some(tunnel) = wanted.then(|| TunnelStatus::decode(octets).ok()) {
                some.extend(tunnel);
            }
        }
        let changed = self.changed.iter();
        let changed = changed.filter(|(number, _)| numbers.contains(number));
        some.extend(changed.filter_map(|(_, tunnel)| tunnel.clone()));
        some
    }
}

/// Of a TunnelStatus.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    number: u32,
}

/// The items one after the other, packed.
fn pack<T: Message>(items: &[T]) -> Bytes {
    if items.is_empty() {
        return Bytes::new();
    }
    let mut plain = Vec::with_capacity(items.iter().map(|it| it.encoded_len() + 5).sum());
    for item in items {
        // A vector has room for everything.
        let _ = item.encode_length_delimited(&mut plain);
    }
    pack_octets(&plain).into()
}

/// How many octets these are unpacked.
fn packed_from(packed: &Bytes) -> usize {
    let length = packed.first_chunk().map(|it| u32::from_be_bytes(*it));
    length.map_or(0, |it| usize::try_from(it).unwrap_or(usize::MAX / 2))
}

fn plain(packed: &Bytes) -> Bytes {
    unpack_octets(packed, LARGEST).unwrap_or_default().into()
}

/// The next item of a list, as octets.
fn next(plain: &mut Bytes) -> Option<Bytes> {
    let length = prost::decode_length_delimiter(&mut *plain).ok()?;
    (length <= plain.len()).then(|| plain.split_to(length))
}

fn unpack<T: Message + Default>(packed: &Bytes) -> Vec<T> {
    let mut plain = plain(packed);
    let items = std::iter::from_fn(|| T::decode(next(&mut plain)?).ok());
    items.collect()
}
