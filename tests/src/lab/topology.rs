//! What the lab consists of, and every address in it.
//!
//! The reference lab `lab-routed-vpn`: sites whose gateways share a public switch, each with a
//! router and a private network behind it. Site N's gateway M is `VN-M`.

/// One gateway: an underlay namespace `V1-2` and an overlay namespace `V1-2-private`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Site, from 1.
    pub site: usize,
    /// Which of the site's gateways, from 1.
    pub member: usize,
}

impl Gateway {
    /// `V1-2`; also the underlay namespace.
    pub fn name(self) -> String {
        format!("V{}-{}", self.site, self.member)
    }

    /// The overlay namespace.
    pub fn overlay(self) -> String {
        format!("{}-private", self.name())
    }

    /// The public address.
    pub fn public(self) -> String {
        format!("2001:db8:{}::{}", self.site, self.member)
    }

    /// The gateway's address on its site's LAN, which its router peers with.
    pub fn lan(self) -> String {
        format!("fd00:{}::{}", self.site, self.member)
    }
}

/// Where a gateway's private side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Private {
    /// In the overlay namespace.
    Netns,
    /// In the underlay's, with nothing to keep them apart.
    Own,
    /// There, in the VRF [`VRF`].
    Vrf,
}

/// Sites and how many gateways each has.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Gateways per site; site 1 first.
    pub sites: Vec<usize>,
    /// Those whose private side is not in a namespace of its own.
    pub private: Vec<(Gateway, Private)>,
}

/// The VRF of gateways that have one, and its table.
pub const VRF: &str = "blue";
const VRF_TABLE: u32 = 77;

/// The controller's namespace.
pub const CONTROLLER: &str = "ctl";
/// The namespace with the public switch in it.
pub const PUBLIC: &str = "public";
/// The controller's public address.
pub const CONTROLLER_ADDRESS: &str = "2001:db8:c::1";

impl Topology {
    /// The reference lab: three sites, two gateways each.
    pub fn three_sites() -> Self {
        Self {
            sites: vec![2, 2, 2],
            ..Self::default()
        }
    }

    /// The same with every kind of overlay: V1-1's is a VRF, V1-2 has none of its own.
    pub fn three_overlays() -> Self {
        let of = |member, private| (Gateway { site: 1, member }, private);
        Self {
            private: vec![of(1, Private::Vrf), of(2, Private::Own)],
            ..Self::three_sites()
        }
    }

    /// Two sites, two gateways each.
    pub fn two_sites() -> Self {
        Self {
            sites: vec![2, 2],
            ..Self::default()
        }
    }

    /// Two sites, one gateway each.
    pub fn pair() -> Self {
        Self {
            sites: vec![1, 1],
            ..Self::default()
        }
    }

    /// Where a gateway's private side is.
    pub fn private(&self, gateway: Gateway) -> Private {
        let found = self.private.iter().find(|(it, _)| *it == gateway);
        found.map_or(Private::Netns, |(_, private)| *private)
    }

    /// The namespace of a gateway's private side.
    pub fn overlay(&self, gateway: Gateway) -> String {
        match self.private(gateway) {
            Private::Netns => gateway.overlay(),
            Private::Own | Private::Vrf => gateway.name(),
        }
    }

    /// A specification that gives each of these gateways a namespace, with what they have instead.
    pub fn in_spec(&self, spec: &str) -> String {
        let mut spec = spec.to_owned();
        for (gateway, private) in &self.private {
            let namespace = format!("overlay = \"{}\"\n", gateway.overlay());
            let instead = match private {
                Private::Netns => namespace.clone(),
                Private::Own => String::new(),
                Private::Vrf => format!("overlay = \"vrf:{VRF}\"\n"),
            };
            spec = spec.replacen(&namespace, &instead, 1);
        }
        spec
    }

    /// Every gateway, in order.
    pub fn gateways(&self) -> Vec<Gateway> {
        let members = |(index, count): (usize, &usize)| {
            let site = index + 1;
            (1..=*count).map(move |member| Gateway { site, member })
        };
        self.sites.iter().enumerate().flat_map(members).collect()
    }

    /// Site numbers.
    pub fn site_numbers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.sites.len()
    }

    /// The namespaces of all hosts.
    pub fn namespaces(&self) -> Vec<String> {
        let mut names = vec![PUBLIC.to_owned(), CONTROLLER.to_owned()];
        names.extend(self.site_numbers().map(router));
        for gateway in self.gateways() {
            names.push(gateway.name());
            if self.private(gateway) == Private::Netns {
                names.push(gateway.overlay());
            }
        }
        names
    }

    /// `ip -batch` lines that make the namespaces.
    pub(super) fn namespace_lines(&self) -> Vec<String> {
        let line = |name: &String| format!("netns add {name}");
        self.namespaces().iter().map(line).collect()
    }

    /// Lines, run anywhere, that make all links between hosts.
    pub(super) fn link_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let port = |name: &str| {
            format!("link add eth0 netns {name} type veth peer name {name} netns {PUBLIC}")
        };
        lines.push(port(CONTROLLER));
        for gateway in self.gateways() {
            let (name, overlay) = (gateway.name(), self.overlay(gateway));
            lines.push(port(&name));
            lines.push(format!(
                "link add lan0 netns {overlay} type veth peer name {name} netns {}",
                router(gateway.site)
            ));
        }
        lines
    }

    /// Lines for each host, run in it.
    pub(super) fn host_lines(&self) -> Vec<(String, Vec<String>)> {
        let line = str::to_owned;
        let mut hosts = Vec::new();

        // Snooping would hold multicast, and so neighbour discovery, until it has learnt.
        let mut lines = vec![line(
            "link add switch up type bridge stp_state 0 mcast_snooping 0",
        )];
        let plugged = self.gateways().into_iter().map(Gateway::name);
        for name in plugged.chain([line(CONTROLLER)]) {
            lines.push(format!("link set {name} master switch up"));
        }
        hosts.push((line(PUBLIC), lines));

        hosts.push((
            line(CONTROLLER),
            self.public_side(&format!("{CONTROLLER_ADDRESS}/64"), None),
        ));
        for site in self.site_numbers() {
            let mut lines = vec![
                line("link set lo up"),
                line("link add lan up type bridge stp_state 0 mcast_snooping 0"),
                format!("address add fd00:{site}::254/64 dev lan nodad"),
                format!("address add 172.16.{site}.254/24 dev lan"),
                line("link add net0 up type dummy"),
                format!("address add {}/64 dev net0 nodad", private6(site)),
                format!("address add {}/24 dev net0", private4(site)),
            ];
            for gateway in self.gateways().into_iter().filter(|g| g.site == site) {
                lines.push(format!("link set {} master lan up", gateway.name()));
            }
            hosts.push((router(site), lines));
        }
        for gateway in self.gateways() {
            let own = format!("{}/64", gateway.public());
            let mut public = self.public_side(&own, Some(gateway.site));
            let private = self.private_lines(gateway);
            match self.private(gateway) {
                Private::Netns => hosts.push((gateway.overlay(), private)),
                Private::Own | Private::Vrf => public.extend(private),
            }
            hosts.push((gateway.name(), public));
        }
        hosts
    }

    /// Lines that make a gateway's private side of its LAN, or make it anew.
    pub fn private_lines(&self, gateway: Gateway) -> Vec<String> {
        let Gateway { site, member } = gateway;
        let mut lines = vec!["link set lo up".to_owned()];
        if self.private(gateway) == Private::Vrf {
            lines.push(format!("link add {VRF} up type vrf table {VRF_TABLE}"));
            lines.push(format!("link set lan0 master {VRF}"));
        }
        lines.extend([
            "link set lan0 up".to_owned(),
            format!("address replace fd00:{site}::{member}/64 dev lan0 nodad"),
            format!("address replace 172.16.{site}.{member}/24 dev lan0"),
        ]);
        lines
    }

    /// An address on the switch, and every other public prefix on the link. Private prefixes are
    /// not known here at all.
    fn public_side(&self, address: &str, own: Option<usize>) -> Vec<String> {
        let mut lines = vec![
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("address add {address} dev eth0 nodad"),
        ];
        let others = self.site_numbers().filter(|site| Some(*site) != own);
        lines.extend(others.map(|site| format!("route add 2001:db8:{site}::/64 dev eth0")));
        if own.is_some() {
            lines.push("route add 2001:db8:c::/64 dev eth0".to_owned());
        }
        lines
    }
}

/// A site's router, and its namespace.
pub fn router(site: usize) -> String {
    format!("R{site}")
}

/// The router's address in its site's private IPv6 network.
pub fn private6(site: usize) -> String {
    format!("2001:db8:a{site}::1")
}

/// The router's address in its site's private IPv4 network.
pub fn private4(site: usize) -> String {
    format!("10.0.{site}.1")
}

/// The prefixes that a site owns.
pub fn prefixes(site: usize) -> [String; 2] {
    [
        format!("2001:db8:a{site}::/64"),
        format!("10.0.{site}.0/24"),
    ]
}
