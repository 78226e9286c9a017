//! The largest packets of tunnels, reckoned offline.

use routemesh_proto::{Esp, Outer, ProposalError};
use serde::Serialize;

/// IP and TCP without options.
const TCP_OVER_IPV4: u32 = 40;
const TCP_OVER_IPV6: u32 = 60;

/// What fits through one kind of tunnel, in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Sizes {
    pub(crate) proposal: String,
    /// "IPv6", "IPv4 in UDP".
    pub(crate) outer: &'static str,
    pub(crate) path: u32,
    /// The largest packet.
    pub(crate) mtu: u32,
    /// The largest TCP segments.
    pub(crate) mss_ipv4: u32,
    pub(crate) mss_ipv6: u32,
}

/// Each proposal in each kind of outer packet.
pub(crate) fn sizes(proposals: &[String], path: u32) -> Result<Vec<Sizes>, ProposalError> {
    let mut sizes = Vec::new();
    for proposal in proposals {
        let esp = Esp::proposed(proposal)?;
        for (name, ipv6, udp) in [
            ("IPv6", true, false),
            ("IPv6 in UDP", true, true),
            ("IPv4", false, false),
            ("IPv4 in UDP", false, true),
        ] {
            let mtu = esp.inner_mtu(Outer { ipv6, udp }, path);
            sizes.push(Sizes {
                proposal: proposal.clone(),
                outer: name,
                path,
                mtu,
                mss_ipv4: mtu.saturating_sub(TCP_OVER_IPV4),
                mss_ipv6: mtu.saturating_sub(TCP_OVER_IPV6),
            });
        }
    }
    Ok(sizes)
}
