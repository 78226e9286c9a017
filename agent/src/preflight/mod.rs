//! What this host can do, against what is asked of it. The verdicts are pure ([`verdict()`],
//! [`refusal`]); `look`, `offload` and `trial` are the edge.

mod look;
pub mod offload;
mod options;
mod trial;
mod verdict;
mod version;

pub use look::{ask_charon, look, text, watch};
pub use options::{Host, refusal};
pub use verdict::{Charon, FAILS, Facts, Needs, RISK, verdict};
pub use version::{Carried, Release, Version};

use std::fmt;

/// Something that a kernel can do or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// Interfaces that SAs are bound to by id.
    XfrmInterface,
    /// Interfaces that SAs are bound to by mark, over IPv4.
    Vti,
    /// The same over IPv6.
    Vti6,
    /// Interfaces of WireGuard.
    WireGuard,
    /// ESP, with the algorithms of our own proposal.
    Esp,
    /// Nexthop objects and groups of them.
    Nexthops,
    /// Groups whose flows stay when members change.
    ResilientGroups,
    /// Routing tables of their own.
    Vrf,
    /// The packet filter.
    Nftables,
}

impl Ability {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::XfrmInterface,
        Self::Vti,
        Self::Vti6,
        Self::WireGuard,
        Self::Esp,
        Self::Nexthops,
        Self::ResilientGroups,
        Self::Vrf,
        Self::Nftables,
    ];

    /// Those that can be tried without leaving a trace: the module of VTI makes an interface in every
    /// namespace of the host.
    const TRACELESS: [Self; 7] = [
        Self::XfrmInterface,
        Self::WireGuard,
        Self::Esp,
        Self::Nexthops,
        Self::ResilientGroups,
        Self::Vrf,
        Self::Nftables,
    ];

    fn breaks(self) -> &'static str {
        match self {
            Self::XfrmInterface | Self::WireGuard => "no tunnel can be made",
            Self::Vti => "no tunnel over IPv4 can be made",
            Self::Vti6 => "no tunnel over IPv6 can be made",
            Self::Esp => "no tunnel comes up",
            Self::Nexthops => "no route can be installed",
            Self::ResilientGroups => "no route can be installed",
            Self::Vrf => "the overlay cannot be a VRF",
            Self::Nftables => "the packet filter cannot be put in place, and no tunnel is made",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::XfrmInterface => {
                "modprobe xfrm_interface (Linux 4.19, CONFIG_XFRM_INTERFACE), or tunnel = \"vti\""
            }
            Self::WireGuard => {
                "modprobe wireguard (Linux 5.6, CONFIG_WIREGUARD), or tunnel = \"xfrm\""
            }
            Self::Vti => "modprobe ip_vti (CONFIG_NET_IPVTI), or tunnel = \"xfrm\"",
            Self::Vti6 => "modprobe ip6_vti (CONFIG_IPV6_VTI), or tunnel = \"xfrm\"",
            Self::Esp => {
                "modprobe esp4 esp6 (CONFIG_XFRM_USER, CONFIG_INET_ESP, CONFIG_INET6_ESP, CONFIG_CRYPTO_GCM)"
            }
            Self::Nexthops => "run Linux 5.3 or later",
            Self::ResilientGroups => "run Linux 5.13 or later, or groups = \"plain\"",
            Self::Vrf => "modprobe vrf (CONFIG_NET_VRF)",
            Self::Nftables => {
                "install the package nftables (CONFIG_NF_TABLES_INET), or firewall = \"off\""
            }
        }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XfrmInterface => "XFRM interfaces",
            Self::Vti => "VTI interfaces over IPv4",
            Self::Vti6 => "VTI interfaces over IPv6",
            Self::WireGuard => "WireGuard",
            Self::Esp => "ESP with AES-GCM",
            Self::Nexthops => "nexthop objects",
            Self::ResilientGroups => "resilient nexthop groups",
            Self::Vrf => "VRF",
            Self::Nftables => "nftables",
        })
    }
}
