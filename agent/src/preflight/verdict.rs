//! What is wrong with a host, from what was found there. Pure.

use super::trial::Tried;
use super::{Ability, Carried, Host, Release, Version, refusal};
use crate::config::{Config, Mode, Offload, Overlay, Tunnel};
use crate::state::LinkKind;
use routemesh_proto::Finding;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kernel.
    pub kernel: Release,
    /// What was tried of it; an error is that nothing could be.
    pub tried: Result<Tried, String>,
    /// The private side's namespace or VRF is there.
    pub overlay: Result<(), String>,
    /// Kernel settings can be written.
    pub settings: Result<(), String>,
    /// strongSwan, if it answers.
    pub charon: Result<Charon, String>,
    /// Where our file of settings for charon belongs, and whether it is there.
    pub drop_in: (&'static str, bool),
    /// By outer address, whether the interface that has it does ESP itself, where that was asked.
    pub offload: BTreeMap<String, bool>,
}

/// What charon tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charon {
    /// As it writes it.
    pub version: String,
    /// Loaded ones.
    pub plugins: Vec<String>,
}

/// What a config asks of its host; without one, what every mesh does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Of the kernel.
    pub abilities: BTreeSet<Ability>,
    /// Where the private side is.
    pub overlay: Overlay,
    tunnels: Vec<Tunnel>,
}

impl Default for Needs {
    fn default() -> Self {
        use Ability::{Esp, Nexthops, Nftables, XfrmInterface};
        Self {
            abilities: BTreeSet::from([Esp, Nexthops, Nftables, XfrmInterface]),
            overlay: Overlay::Own,
            tunnels: Vec::new(),
        }
    }
}

impl Needs {
    /// Of a config.
    pub fn of(config: &Config) -> Self {
        let mut abilities = BTreeSet::from([Ability::Nexthops]);
        if config.firewall != Mode::Off {
            abilities.insert(Ability::Nftables);
        }
        if config.resilient {
            abilities.insert(Ability::ResilientGroups);
        }
        if config.overlay.is_vrf() {
            abilities.insert(Ability::Vrf);
        }
        let tunnels: Vec<Tunnel> = config.tunnels.values().cloned().collect();
        abilities.extend(tunnels.iter().map(|tunnel| match tunnel.kind {
            LinkKind::Xfrm { .. } => Ability::XfrmInterface,
            LinkKind::Vti {
                local: IpAddr::V4(_),
                ..
            } => Ability::Vti,
            LinkKind::Vti { .. } => Ability::Vti6,
            LinkKind::WireGuard { .. } => Ability::WireGuard,
        }));
        if tunnels.is_empty() || tunnels.iter().any(Tunnel::is_ipsec) {
            abilities.insert(Ability::Esp);
        }
        Self {
            abilities,
            overlay: config.overlay.clone(),
            tunnels,
        }
    }

    /// Outer addresses whose interface is to do ESP.
    pub fn offloaders(&self) -> impl Iterator<Item = String> {
        let wants = |it: &&Tunnel| matches!(it.esp.hw_offload, Offload::Crypto | Offload::Packet);
        let wanting = self.tunnels.iter().filter(wants);
        wanting.map(Tunnel::here)
    }

    fn offloads(&self, how: Offload) -> bool {
        self.tunnels.iter().any(|it| it.esp.hw_offload == how)
    }
}

/// The mesh does not work with it.
pub const FAILS: &str = "fails";
/// The mesh works, and may not always.
pub const RISK: &str = "risk";

fn finding(severity: &str, object: impl ToString, breaks: &str, cure: &str) -> Finding {
    Finding {
        severity: severity.to_owned(),
        object: object.to_string(),
        breaks: breaks.to_owned(),
        cure: cure.to_owned(),
    }
}

/// What is wrong, the worst first.
pub fn verdict(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let mut findings = abilities(facts, needs);
    if let Err(error) = &facts.overlay {
        findings.push(finding(
            FAILS,
            format!("overlay: {error}"),
            "nothing of the mesh is made on this host",
            "make it before the agent starts, or give the gateway another overlay",
        ));
    }
    if let Err(error) = &facts.settings {
        findings.push(finding(
            FAILS,
            format!("kernel settings: {error}"),
            "nothing is forwarded, unless somebody else switches it on",
            "let the agent write below /proc/sys/net",
        ));
    }
    if needs.abilities.contains(&Ability::Esp) {
        findings.extend(charon(facts));
    }
    findings.extend(flaws(&facts.kernel, needs));
    findings.extend(options(facts, needs));
    findings.sort_by_key(|it| it.severity != FAILS);
    findings
}

fn abilities(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let tried = match &facts.tried {
        Ok(tried) => tried,
        Err(error) => {
            return vec![finding(
                RISK,
                format!("the kernel's abilities: {error}"),
                "it is not known whether tunnels can be made",
                "run it as root",
            )];
        }
    };
    let lacks = |ability: &Ability| {
        let error = tried.get(ability)?.as_ref().err()?;
        let object = format!("{ability}: {error}");
        Some(finding(FAILS, object, ability.breaks(), ability.cure()))
    };
    needs.abilities.iter().filter_map(lacks).collect()
}

/// The oldest that has what we use.
const OLDEST: Version = Version(5, 9, 0);
/// One of each is needed.
const PLUGINS: [(&[&str], &str); 5] = [
    (&["kernel-netlink"], "no key reaches the kernel"),
    (
        &["socket-default", "socket-dynamic"],
        "no IKE packet is sent",
    ),
    (&["x509", "openssl"], "no certificate can be read"),
    (
        &["pubkey", "openssl", "gmp"],
        "no certificate can be checked",
    ),
    (&["nonce"], "no tunnel comes up"),
];

fn charon(facts: &Facts) -> Vec<Finding> {
    let charon = match &facts.charon {
        Ok(charon) => charon,
        Err(error) => {
            return vec![finding(
                FAILS,
                format!("strongSwan: {error}"),
                "no tunnel comes up",
                "install strongswan-charon and its plugin vici, start it, or name its socket with --vici",
            )];
        }
    };
    let mut findings = Vec::new();
    if Version::parse(&charon.version).is_some_and(|it| it < OLDEST) {
        findings.push(finding(
            FAILS,
            format!("strongSwan {}", charon.version),
            "it is older than what the agent was written for",
            "install strongSwan 5.9 or later",
        ));
    }
    let has = |name: &&str| charon.plugins.iter().any(|it| it == name);
    for (names, breaks) in PLUGINS {
        if !names.iter().any(&has) {
            let object = format!("strongSwan's plugin {}", names.join(" or "));
            findings.push(finding(
                FAILS,
                object,
                breaks,
                "install it, or name it in `load`",
            ));
        }
    }
    if has(&"kernel-libipsec") {
        findings.push(finding(
            FAILS,
            "strongSwan's plugin kernel-libipsec",
            "SAs are not the kernel's, and tunnel interfaces carry nothing",
            "remove the plugin (Debian: in libcharon-extra-plugins, /etc/strongswan.d/charon/kernel-libipsec.conf, load = no)",
        ));
    }
    let (place, there) = facts.drop_in;
    if !there {
        findings.push(finding(
            RISK,
            format!("charon's settings: there is no {place}"),
            "with install_routes on, as it is by default, charon draws all traffic of the host into a tunnel; dead peers are waited for 165 s",
            "put packaging/strongswan.d/routemesh.conf there and restart charon, unless the same is set elsewhere",
        ));
    }
    findings
}

/// What a version of Linux does wrong.
pub(super) struct Flaw {
    name: &'static str,
    since: Version,
    /// By series, the newest last.
    fixed: &'static [Version],
    pub(super) breaks: &'static str,
    pub(super) cure: &'static str,
}

impl Flaw {
    pub(super) fn is_in(&self, kernel: &Release) -> bool {
        kernel.version >= self.since && !kernel.version.has(self.fixed)
    }
}

/// Linux 5eddd76ec2fd, and 59630e2ccd72 for what the host itself sends, which BGP is: both are needed.
pub(super) const NEIGHBOUR: Flaw = Flaw {
    name: "packet offload looks the inner destination up as a neighbour",
    since: Version(6, 2, 0),
    fixed: &[
        Version(6, 6, 118),
        Version(6, 12, 60),
        Version(6, 17, 10),
        Version(6, 18, 0),
    ],
    breaks: "what goes into a tunnel with packet offload is dropped, BGP's packets among it",
    cure: "Linux 6.6.118, 6.12.60, 6.17.10 or 6.18, or esp.hw_offload = \"crypto\"",
};
const NEXTHOP: Flaw = Flaw {
    name: "use after free when a nexthop is replaced while an IPv6 route over it is deleted",
    since: Version(6, 16, 0),
    fixed: &[Version(7, 1, 8)],
    breaks: "the kernel can crash; the agent does one after the other, other programs may not",
    cure: "Linux 7.1.8 or one before 6.16; let no other program change nexthop objects",
};

fn flaws(kernel: &Release, needs: &Needs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |flaw: &Flaw| {
        let name = match kernel.carried {
            Carried::Nothing => flaw.name.to_owned(),
            _ => format!(
                "{}, if its maker did not mend it, which the version does not tell",
                flaw.name
            ),
        };
        let object = format!("Linux {}: {name}", kernel.name);
        findings.push(finding(RISK, object, flaw.breaks, flaw.cure));
    };
    let flawed = NEIGHBOUR.is_in(kernel) || kernel.carried == Carried::Features;
    // Where it is certain, "packet" is refused.
    let packet = kernel.carried > Carried::Nothing && needs.offloads(Offload::Packet);
    if flawed && (packet || needs.offloads(Offload::Auto)) {
        found(&NEIGHBOUR);
    }
    if NEXTHOP.is_in(kernel) {
        found(&NEXTHOP);
    }
    findings
}

/// Options of tunnels that this host cannot have.
fn options(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let Ok(charon) = &facts.charon else {
        return Vec::new();
    };
    let refused = |tunnel: &Tunnel| {
        let host = Host {
            charon: charon.version.clone(),
            kernel: facts.kernel.clone(),
            offload: facts.offload.get(&tunnel.here()).copied(),
        };
        let reason = refusal(&tunnel.esp, &host)?;
        let object = format!("connection {}: {reason}", tunnel.name());
        Some(finding(
            FAILS,
            object,
            "the connection is not loaded",
            "choose another option for this tunnel, or mend what it needs",
        ))
    };
    let ipsec = needs.tunnels.iter().filter(|it| it.is_ipsec());
    ipsec.filter_map(refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host on which all is well.
    fn facts(kernel: Release, charon: &str) -> Facts {
        let plugins = [
            "kernel-netlink",
            "socket-default",
            "openssl",
            "nonce",
            "vici",
        ];
        Facts {
            kernel,
            tried: Ok(Ability::ALL.into_iter().map(|it| (it, Ok(()))).collect()),
            overlay: Ok(()),
            settings: Ok(()),
            charon: Ok(Charon {
                version: charon.to_owned(),
                plugins: plugins.map(str::to_owned).into(),
            }),
            drop_in: ("/etc/strongswan.d/routemesh.conf", true),
            offload: BTreeMap::new(),
        }
    }

    fn offloading(how: Option<&str>) -> Needs {
        let tunnel = routemesh_proto::Tunnel {
            number: 3,
            peer: "V2-1".into(),
            peer_site: "two".into(),
            peer_asn: 65000,
            kind: "xfrm".into(),
            local_endpoint: "192.0.2.1".into(),
            remote_endpoint: "192.0.2.2".into(),
            local_address: "fd00::6".into(),
            remote_address: "fd00::7".into(),
            esp: Some(routemesh_proto::EspOptions {
                hw_offload: how.map(str::to_owned),
                ..Default::default()
            }),
            ..Default::default()
        };
        let raw = routemesh_proto::Config {
            gateway: "V1-1".into(),
            site: "one".into(),
            asn: 65000,
            router_id: "198.18.0.1".into(),
            hold_time: 9,
            tunnels: vec![tunnel],
            ..Default::default()
        };
        Needs::of(&Config::try_from(&raw).unwrap())
    }

    /// Severities and the first words of what is found.
    fn told(facts: &Facts, needs: &Needs) -> Vec<(String, String)> {
        let short = |it: Finding| (it.severity, it.object.chars().take(24).collect());
        verdict(facts, needs).into_iter().map(short).collect()
    }

    #[test]
    fn hosts_of_today() {
        let debian12 = Release::parse("6.1.0-40-amd64", "#1 SMP Debian 6.1.153-1", "");
        let debian13 = Release::parse("6.12.43+deb13-amd64", "#1 Debian 6.12.43-1", "");
        let debian13_new = Release::parse("6.12.63+deb13-amd64", "#1 Debian 6.12.63-1", "");
        let ubuntu22 = Release::parse(
            "5.15.0-116-generic",
            "",
            "Ubuntu 5.15.0-116.126-generic 5.15.158",
        );
        let ubuntu24 = Release::parse("6.8.0-45-generic", "", "Ubuntu 6.8.0-45.45-generic 6.8.12");
        let rhel9 = Release::parse("5.14.0-427.13.1.el9_4.x86_64", "", "");
        let rhel10 = Release::parse("6.12.0-55.9.1.el10_0.x86_64", "", "");
        let alpine = Release::parse("6.6.58-0-lts", "", "");
        let alpine_new = Release::parse("6.12.31-0-lts", "", "");
        let suse15 = Release::parse("6.4.0-150600.23.25-default", "", "");
        let fedora41 = Release::parse("6.11.4-301.fc41.x86_64", "", "");
        let new = Release::parse("6.18.44", "", "");
        let newest = Release::parse("7.1.8", "", "");
        for (name, kernel, charon, plain, auto, packet) in [
            // Packet offload is newer than its strongSwan or kernel: refused, and no flaw.
            (
                "Debian 12",
                &debian12,
                "5.9.8",
                &[][..],
                &[][..],
                &["fails"][..],
            ),
            ("Debian 13", &debian13, "6.0.1", &[], &["risk"], &["fails"]),
            ("Debian 13, mended", &debian13_new, "6.0.1", &[], &[], &[]),
            ("Ubuntu 22.04", &ubuntu22, "5.9.5", &[], &[], &["fails"]),
            (
                "Ubuntu 24.04",
                &ubuntu24,
                "5.9.13",
                &[],
                &["risk"],
                &["risk"],
            ),
            ("SUSE 15 SP6", &suse15, "5.9.11", &[], &["risk"], &["risk"]),
            ("Fedora 41", &fedora41, "5.9.14", &[], &["risk"], &["fails"]),
            ("RHEL 9", &rhel9, "5.9.14", &[], &["risk"], &["risk"]),
            ("RHEL 10", &rhel10, "6.0.1", &[], &["risk"], &["risk"]),
            ("Alpine 3.20", &alpine, "5.9.14", &[], &["risk"], &["fails"]),
            (
                "Alpine 3.22",
                &alpine_new,
                "6.0.1",
                &[],
                &["risk"],
                &["fails"],
            ),
            ("6.18", &new, "6.0.2", &["risk"], &["risk"], &["risk"]),
            ("7.1.8", &newest, "6.0.2", &[], &[], &[]),
        ] {
            for (how, expected) in [
                (None, plain),
                (Some("auto"), auto),
                (Some("packet"), packet),
            ] {
                let findings = verdict(&facts(kernel.clone(), charon), &offloading(how));
                let severities: Vec<_> = findings.iter().map(|it| it.severity.as_str()).collect();
                assert_eq!(severities, expected, "{name} {how:?}: {findings:#?}");
            }
        }
    }

    #[test]
    fn what_is_needed_and_not_there_fails() {
        let well = facts(Release::parse("6.1.153", "", ""), "5.9.8");
        let needs = Needs::default();
        assert_eq!(told(&well, &needs), []);
        let fails = |facts: &Facts, needs: &Needs| {
            let told = told(facts, needs);
            assert!(
                told.iter().all(|(severity, _)| severity == FAILS),
                "{told:?}"
            );
            told.into_iter()
                .map(|(_, object)| object)
                .collect::<Vec<_>>()
        };

        let mut facts = well.clone();
        let lacks = |ability| (ability, Err("Operation not supported".to_owned()));
        facts.tried = Ok(Ability::ALL.map(lacks).into());
        let all = fails(&facts, &needs);
        assert_eq!(all.len(), needs.abilities.len(), "{all:?}");
        // Without the packet filter, nobody needs nft.
        let mut lean = needs.clone();
        lean.abilities.remove(&Ability::Nftables);
        assert_eq!(fails(&facts, &lean).len(), all.len() - 1);

        let mut facts = well.clone();
        facts.charon = Err("cannot connect".into());
        assert_eq!(fails(&facts, &needs), ["strongSwan: cannot conne"]);
        facts.charon = Ok(Charon {
            version: "5.8.4".into(),
            plugins: vec!["kernel-libipsec".into()],
        });
        assert_eq!(fails(&facts, &needs).len(), 1 + PLUGINS.len() + 1);

        let mut facts = well.clone();
        facts.overlay = Err("there is no VRF blue".into());
        assert_eq!(fails(&facts, &needs), ["overlay: there is no VRF"]);

        let mut facts = well.clone();
        facts.settings = Err("read-only".into());
        facts.drop_in.1 = false;
        let told = told(&facts, &needs);
        assert_eq!(told[0], (FAILS.into(), "kernel settings: read-on".into()));
        assert_eq!(told[1], (RISK.into(), "charon's settings: there".into()));
        assert_eq!(told.len(), 2);
    }
}
