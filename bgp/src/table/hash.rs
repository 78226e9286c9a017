//! Hashes that a peer cannot foresee, and that are the same again for the same seed.

use crate::wire::Attributes;
use ipnet::IpNet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// What hashes depend on, beside the value: secret, so that no peer can choose prefixes or
/// attributes that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed([u64; 3]);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        // SplitMix64: three numbers that say nothing about each other.
        let number = |n: u64| {
            let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self([number(1), number(2), number(3)])
    }

    /// Of a prefix: one or two multiplications of 64 by 64 bits, as wyhash has them.
    #[inline]
    pub(crate) fn prefix(&self, address: IpAddr, length: u8) -> u64 {
        let [a, b, c] = self.0;
        let length = u64::from(length);
        match address {
            IpAddr::V4(address) => {
                let word = u64::from(address.to_bits()) << 8 | length;
                fold(fold(word ^ a, b), c)
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let (high, low) = ((bits >> 64) as u64, bits as u64);
                fold(fold(high ^ a, low ^ b) ^ length, c)
            }
        }
    }

    #[inline]
    pub(crate) fn net(&self, prefix: &IpNet) -> u64 {
        self.prefix(prefix.addr(), prefix.prefix_len())
    }

    /// Of attributes, which come once per message: SipHash, with the seed in front.
    pub(crate) fn attributes(&self, attributes: &Attributes) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, attributes).hash(&mut hasher);
        hasher.finish()
    }

    /// Of a few numbers.
    pub(crate) fn numbers(&self, numbers: [u64; 2]) -> u64 {
        let ([a, b, c], [x, y]) = (self.0, numbers);
        fold(fold(x ^ a, y ^ b), c)
    }
}

/// Both halves of the product, one upon the other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}
