//! The generation of a namespace's packet filter: a number that every transaction counts up.

use super::Error;
use super::socket::{Request, Socket};
use super::wire::attribute;
use crate::netns::Netns;
use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_NETFILTER;

/// `NFT_MSG_GETGEN` and `NFT_MSG_NEWGEN` of `NFNL_SUBSYS_NFTABLES`.
const GET: u16 = 10 << 8 | 16;
const NEW: u16 = 10 << 8 | 15;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
const NFTA_GEN_ID: u16 = 1;

/// Asks for it.
pub fn generation(netns: &Netns) -> Result<Option<u32>, Error> {
    let request = Request {
        kind: GET,
        flags: 0,
        body: vec![0; HEADER],
    };
    let ask = || Socket::open(NETLINK_NETFILTER)?.ask(&request, NLM_F_ACK, decode);
    let mut answers = netns.run(ask)?.map_err(|refusal| Error::Refused {
        what: "ask for the packet filter's generation",
        refusal,
    })?;
    Ok(answers.pop())
}

fn decode(kind: u16, body: &[u8]) -> Option<u32> {
    let id = attribute(body.get(HEADER..)?, NFTA_GEN_ID).filter(|_| kind == NEW)?;
    Some(u32::from_be_bytes(*id.first_chunk()?))
}
