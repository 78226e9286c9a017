use super::*;
use routemesh_proto::{
    BfdStatus, BgpStatus, Hop, Interface, LivenessStatus, Lookup, Outside, Whole,
};

/// What is known of one end, owned.
#[derive(Clone, Debug, Default)]
struct Side {
    name: &'static str,
    address: &'static str,
    unasked: Option<String>,
    status: Option<TunnelStatus>,
    footing: Option<Footing>,
    problems: Vec<Problem>,
    rejected: Vec<Rejected>,
    announced: Option<Vec<String>>,
    foreign: bool,
}

/// Both ends: A, B.
type Pair = [Side; 2];
type Spoil = fn(&mut Pair);

const A: usize = 0;
const B: usize = 1;

impl Side {
    fn end(&self) -> End<'_> {
        End {
            name: self.name,
            foreign: self.foreign,
            address: self.address,
            unasked: self.unasked.as_deref(),
            status: self.status.as_ref(),
            footing: self.footing.as_ref(),
            problems: &self.problems,
            rejected: &self.rejected,
            announced: self.announced.as_deref(),
        }
    }
}

fn look(kind: &str, pair: &Pair) -> Ladder {
    let evidence = Evidence {
        number: 3,
        kind,
        ends: [pair[A].end(), pair[B].end()],
    };
    climb(&evidence)
}

fn sa(spi: u32, outbound: bool, now: u64) -> SecurityAssociation {
    SecurityAssociation {
        spi,
        outbound,
        now,
        packets: 100 + now,
        ..SecurityAssociation::default()
    }
}

/// A route into the mesh.
fn route(target: &str, prefix: &str, peer: &str) -> Lookup {
    let hop = Hop {
        interface: "rm3".into(),
        tunnel: Some(3),
        peer: peer.into(),
        weight: 1,
        ..Hop::default()
    };
    Lookup {
        target: target.into(),
        prefix: prefix.into(),
        kind: "unicast".into(),
        protocol: "routemesh".into(),
        hops: vec![hop.clone()],
        taken: Some(hop),
        ..Lookup::default()
    }
}

fn well() -> Pair {
    let all = |answered| Echoes {
        sent: 4,
        answered,
        problem: String::new(),
    };
    let side = |name, address: &'static str, spis: [u32; 2], routes, own: &str| Side {
        name,
        address,
        status: Some(TunnelStatus {
            number: 3,
            ike: "up".into(),
            interface: "up".into(),
            mtu: 1426,
            bfd: Some(BfdStatus {
                state: "Up".into(),
                ..BfdStatus::default()
            }),
            bgp: Some(BgpStatus {
                state: "Established".into(),
                received: 1,
                accepted: 1,
                advertised: 1,
                ..BgpStatus::default()
            }),
            liveness: Some(LivenessStatus {
                state: "alive".into(),
                ..LivenessStatus::default()
            }),
            ..TunnelStatus::default()
        }),
        footing: Some(Footing {
            tunnel: 3,
            clock: 1_000_000,
            outside: Some(Outside {
                local: "2001:db8::a".into(),
                remote: "2001:db8::b".into(),
                interface: "eth0".into(),
                ping: Some(all(4)),
                port_500: Some(true),
                port_4500: Some(true),
                ..Outside::default()
            }),
            interface: Some(Interface {
                name: "rm3".into(),
                up: true,
                carrier: true,
                mtu: 1426,
                known_by: "if_id 0x52000003".into(),
                known: true,
                addresses: vec![format!("{address}/127"), "fe80::1/64".into()],
            }),
            sas: vec![sa(spis[0], true, 9), sa(spis[1], false, 9)],
            policies: 6,
            inside: Some(all(4)),
            routes: vec![routes],
            ..Footing::default()
        }),
        announced: Some(vec![own.to_owned()]),
        ..Side::default()
    };
    [
        side(
            "A",
            "fd00:ff::6",
            [0xa, 0xb],
            route("10.0.2.1", "10.0.2.0/24", "B"),
            "10.0.1.0/24",
        ),
        side(
            "B",
            "fd00:ff::7",
            [0xb, 0xa],
            route("10.0.1.1", "10.0.1.0/24", "A"),
            "10.0.2.0/24",
        ),
    ]
}

impl Side {
    fn status(&mut self) -> &mut TunnelStatus {
        self.status.get_or_insert_default()
    }
    fn footing(&mut self) -> &mut Footing {
        self.footing.get_or_insert_default()
    }
    fn outside(&mut self) -> &mut Outside {
        self.footing().outside.get_or_insert_default()
    }
    fn interface(&mut self) -> &mut Interface {
        self.footing().interface.get_or_insert_default()
    }
    fn bgp(&mut self) -> &mut BgpStatus {
        self.status().bgp.get_or_insert_default()
    }
    fn bfd(&mut self) -> &mut BfdStatus {
        self.status().bfd.get_or_insert_default()
    }
    /// IKE came to nothing.
    fn refused(&mut self, reason: &str) {
        (self.status().ike, self.status().ike_reason) = ("connecting".into(), reason.into());
        self.footing().sas.clear();
    }
    fn gone(&mut self, why: &str) {
        (self.status, self.footing, self.announced) = (None, None, None);
        self.unasked = Some(why.into());
    }
}

fn ike_is_down(pair: &mut Pair, [a, b]: [&str; 2]) {
    pair[A].refused(a);
    pair[B].refused(b);
}

fn mute(side: &mut Side, ports: &[u16], ping: bool) {
    let outside = side.outside();
    for (port, place) in [(500, &mut outside.port_500), (4500, &mut outside.port_4500)] {
        *place = Some(!ports.contains(&port));
    }
    if let Some(echoes) = outside.ping.as_mut().filter(|_| !ping) {
        echoes.answered = 0;
    }
}

/// What is broken, where it has to be found, and words of the cause.
#[rustfmt::skip]
const FAULTS: &[(&str, Spoil, &str, &str)] = &[
    ("both agents away", |p| { p[A].gone("not connected"); p[B].gone("not connected"); }, "agents", "A, B: nobody says anything"),
    ("one agent away, and all else well", |p| p[B].gone("not connected"), "agents", "B does not report: not connected"),
    ("no route outside", |p| { ike_is_down(p, ["", ""]); p[A].outside().problem = "no way to 2001:db8::b: Network is unreachable".into(); }, "outside", "A has no way to B's endpoint: no way to 2001:db8::b"),
    ("a name that does not resolve", |p| p[B].outside().problem = "cannot look up vpn.example".into(), "outside", "cannot look up vpn.example"),
    ("UDP 500 and 4500 towards B", |p| { ike_is_down(p, ["the far end does not answer", ""]); mute(&mut p[A], &[500, 4500], true); }, "udp", "UDP 500 and 4500 towards B (2001:db8::b) is dropped on the way, or its charon does not run (B gets answers from A, so it is that way only)"),
    ("UDP both ways, pings pass", |p| { ike_is_down(p, ["", ""]); mute(&mut p[A], &[500, 4500], true); mute(&mut p[B], &[500, 4500], true); }, "udp", "is dropped on the way, or its charon does not run (pings pass)"),
    ("UDP 4500 only", |p| { ike_is_down(p, ["", ""]); mute(&mut p[A], &[4500], true); }, "udp", "UDP 4500 towards B"),
    ("nothing passes", |p| { ike_is_down(p, ["", ""]); for it in p { mute(it, &[500, 4500], false); } }, "udp", "nothing comes back from B (2001:db8::b), no ping either"),
    ("B's host is down", |p| { p[A].refused(""); mute(&mut p[A], &[500, 4500], false); p[B].gone("its agent is not connected"); }, "udp", "no ping either, and its agent does not report either"),
    ("no charon at B", |p| { ike_is_down(p, ["", ""]); p[B].status().ike = "charon unreachable".into(); mute(&mut p[A], &[500, 4500], true); }, "udp", "charon does not run on B"),
    ("a charon that its agent cannot reach", |p| p[B].status().ike = "charon unreachable".into(), "ike", "charon does not run on B, or does not answer its agent"),
    ("a far end that answers to IKE, and not to probes", |p| { ike_is_down(p, ["the far end refused, AUTHENTICATION_FAILED: let the pre-shared keys", ""]); mute(&mut p[A], &[500, 4500], true); }, "ike", "identity: A says that the far end refused"),
    ("an identity that nobody expects", |p| ike_is_down(p, ["the far end refused, AUTHENTICATION_FAILED: let", "the far end refused, AUTHENTICATION_FAILED: let"]), "ike", "B finds nothing wrong with its key or certificate"),
    ("a refusal of who cannot be asked", |p| { p[A].refused("the far end refused, AUTHENTICATION_FAILED: let"); p[B].gone("not connected"); }, "ike", "authentication: A says that the far end refused"),
    ("another pre-shared key", |p| ike_is_down(p, ["the far end refused, AUTHENTICATION_FAILED: let the pre-shared keys and identities", "the far end has another pre-shared key"]), "ike", "authentication: B says that the far end has another pre-shared key"),
    ("another authority", |p| ike_is_down(p, ["", "the far end's certificate is not of this mesh's authority, or not for that gateway"]), "ike", "authentication: B says that the far end's certificate is not of this mesh's authority"),
    ("another identity", |p| ike_is_down(p, ["", "the far end has another identity than it should"]), "ike", "identity: B says that the far end has another identity"),
    ("clocks differ", |p| { ike_is_down(p, ["", "the far end's certificate is not of this mesh's authority"]); p[B].footing().clock += 7_200_000; }, "ike", "the ends' clocks differ by 7200 s"),
    ("a certificate of the future", |p| ike_is_down(p, ["the far end's certificate, or its authority's, is not valid at this host's time", "the far end refused, AUTHENTICATION_FAILED: let"]), "ike", "time: A says that the far end's certificate"),
    ("no connection at an end that is down", |p| { p[A].refused("the far end refused, NO_PROPOSAL_CHOSEN: it takes none of our IKE proposals"); p[B].gone("its agent is not connected"); }, "ike", "as B does not report (its agent is not connected), it may have no connection for A"),
    ("no common IKE proposal", |p| ike_is_down(p, ["the far end refused, NO_PROPOSAL_CHOSEN: it takes none of our IKE proposals", ""]), "ike", "proposals: A says that the far end refused, NO_PROPOSAL_CHOSEN"),
    ("still connecting", |p| ike_is_down(p, ["", ""]), "ike", "has not told why yet"),
    ("no common ESP proposal", |p| ike_is_down(p, ["the far end refused, NO_PROPOSAL_CHOSEN: it takes none of our ESP proposals", "none of the far end's ESP proposals is acceptable here"]), "child", "proposals: A says"),
    ("selectors", |p| ike_is_down(p, ["the far end refused, TS_UNACCEPTABLE: it takes none of our traffic selectors", ""]), "child", "traffic selectors: A says"),
    ("selectors narrowed", |p| p[A].status().ike = "narrowed".into(), "child", "B has agreed to a part"),
    ("SAs deleted", |p| p[B].footing().sas.clear(), "child", "B's kernel lacks SAs or policies"),
    ("policies deleted", |p| p[A].footing().policies = 0, "child", "A's kernel lacks SAs or policies"),
    ("SAs of nobody", |p| p[B].footing().sas = vec![sa(0xc, true, 9), sa(0xd, false, 0)], "child", "A sends by SAs that B does not have"),
    ("no interface", |p| { p[A].footing().interface = None; p[A].problems = vec![Problem { object: "interface rm3".into(), reason: "Operation not supported".into() }]; ike_is_down(p, ["", ""]); }, "interface", "A cannot make the tunnel's interface: interface rm3: Operation not supported"),
    ("no interface, and nobody to ask", |p| { p[A].footing = None; p[A].status().interface = "missing".into(); }, "interface", "A cannot make the tunnel's interface"),
    ("interface set down", |p| p[B].interface().up = false, "interface", "B's rm3 is set down"),
    ("another if_id", |p| { p[B].interface().known = false; p[B].interface().known_by = "if_id 0x7".into(); }, "interface", "B's rm3 is bound to if_id 0x7"),
    ("address removed", |p| p[B].interface().addresses = vec!["fe80::1/64".into()], "interface", "B's rm3 lacks its address fd00:ff::7"),
    ("ESP lost one way", |p| p[B].footing().sas[1].now = 0, "esp", "ESP from A to B is lost: A sent 9 packets, and B got none of them"),
    ("ESP lost, B cannot be asked", |p| { p[B].gone("not connected"); p[A].footing().sas[1].now = 0; }, "esp", "A sends ESP, and gets none from B"),
    ("pings inside unanswered", |p| { p[A].footing().inside = Some(Echoes { sent: 4, ..Echoes::default() }); p[A].bgp().state = "Active".into(); }, "interconnect", "packets through the tunnel are not answered by B (fd00:ff::7), though ESP passes"),
    ("large packets lost", |p| p[A].problems = vec![Problem { object: "mtu of rm3".into(), reason: "packets of more than 1280 bytes are lost without a word: let ICMP pass".into() }], "mtu", "A: packets of more than 1280 bytes are lost"),
    ("large packets lost just now", |p| p[A].footing().whole = Some(Whole { size: 1426, came_back: false }), "mtu", "small packets come back from B to A, and those of 1426 bytes do not"),
    ("BFD filtered at A", |p| { p[A].bfd().state = "Down".into(); p[B].bfd().state = "Init".into(); }, "bfd", "A gets no packet of BFD from B"),
    ("BFD filtered", |p| { for it in p { it.bfd().state = "Down".into(); } }, "bfd", "A and B do not get each other's packets of BFD"),
    ("held", |p| { p[A].status().liveness = Some(LivenessStatus { state: "held".into(), reason: "BFD".into(), held: 20, deaths: 3 }); }, "bfd", "went down 3 times lately (BFD)"),
    ("BGP filtered", |p| { p[A].bgp().state = "Connect".into(); p[B].bgp().state = "Active".into(); }, "bgp", "TCP port 179 is dropped"),
    ("BGP's hold timer", |p| { p[A].bgp().state = "Active".into(); p[A].bgp().last_error = "Hold Timer Expired".into(); }, "bgp", "the hold timer has run out"),
    ("held for BGP's sake", |p| { p[A].bgp().state = "Connect".into(); p[A].status().liveness = Some(LivenessStatus { state: "held".into(), reason: "BGP's hold timer expired".into(), held: 9, deaths: 1 }); }, "bgp", "TCP port 179 is dropped"),
    ("another AS", |p| { p[A].bgp().state = "Idle".into(); p[A].bgp().last_notification = "sent: OPEN Message Error, Bad Peer AS".into(); }, "bgp", "do not agree on B's AS"),
    ("not started", |p| p[B].status().bgp = None, "bgp", "B has not started BGP"),
    ("a prefix that is not owned", |p| { p[A].bgp().rejected = 1; p[A].rejected = vec![Rejected { peer: "rm3-B".into(), prefix: "192.0.2.0/24".into(), reason: "site two does not own it".into() }]; }, "prefixes", "A rejects 192.0.2.0/24 of B: site two does not own it"),
    ("nothing to announce", |p| { p[A].bgp().received = 0; p[B].announced = Some(Vec::new()); }, "prefixes", "B has nothing to announce"),
    ("a blackhole", |p| { let it = &mut p[A].footing().routes[0]; (it.kind, it.protocol) = ("blackhole".into(), "boot".into()); it.hops.clear(); }, "routes", "A has a blackhole route 10.0.2.0/24 (protocol boot) that swallows 10.0.2.1"),
    ("somebody else's route", |p| { let it = &mut p[A].footing().routes[0]; it.protocol = "static".into(); it.hops = vec![Hop { interface: "lan0".into(), address: "192.168.0.1".into(), ..Hop::default() }]; }, "routes", "not into the mesh: 10.0.2.0/24 (static): lan0 to 192.168.0.1"),
    ("a blackhole that the kernel does not name", |p| p[A].footing().routes = vec![Lookup { target: "10.0.2.1".into(), kind: "blackhole".into(), ..Lookup::default() }], "routes", "A has a blackhole route of somebody else's that swallows 10.0.2.1"),
    ("not used", |p| { let it = &mut p[A].footing().routes[0]; it.kind = "unreachable".into(); it.hops.clear(); }, "routes", "A has no way to 10.0.2.1: B announces it"),
    ("no route at all", |p| p[A].footing().routes = vec![Lookup { target: "10.0.2.1".into(), kind: "none".into(), ..Lookup::default() }], "routes", "A's kernel has no route to 10.0.2.1"),
    ("no way back", |p| { let it = &mut p[B].footing().routes[0]; (it.kind, it.protocol) = ("prohibit".into(), "static".into()); it.hops.clear(); }, "return", "B has a prohibit route"),
];

#[test]
fn every_rung_breaks_with_its_cause() {
    for (name, spoil, rung, cause) in FAULTS {
        let mut pair = well();
        spoil(&mut pair);
        let found = look("xfrm", &pair);
        assert_eq!(found.broken, *rung, "{name}: {found:#?}");
        assert!(found.cause.contains(cause), "{name}: {}", found.cause);
        assert!(!found.cure.is_empty(), "{name}");
        // Whatever was broken has its evidence.
        let last = found.rungs.iter().find(|it| it.name == *rung).unwrap();
        assert!(
            !last.evidence.is_empty() || *rung == "agents",
            "{name}: {last:?}"
        );
    }
    let rungs: Vec<&str> = RUNGS.iter().map(|(name, _)| *name).collect();
    for rung in rungs {
        assert!(
            FAULTS.iter().any(|(_, _, it, _)| *it == rung),
            "{rung} never breaks"
        );
    }
}

/// What does not keep traffic from flowing breaks nothing; and what it comes to.
#[rustfmt::skip]
const NO_FAULTS: &[(&str, Spoil, Outcome)] = &[
    ("nothing", |_| {}, Outcome::Holds),
    ("pings filtered outside", |p| { for it in p { mute(it, &[], false); } }, Outcome::Filtered),
    ("probes of IKE filtered while it is up", |p| mute(&mut p[A], &[500, 4500], true), Outcome::Filtered),
    ("pings filtered outside and within", |p| { for it in p { mute(it, &[], false); it.footing().inside = Some(Echoes { sent: 4, ..Echoes::default() }); } }, Outcome::Unwell),
    ("full-size packets that come back", |p| for it in p { it.footing().whole = Some(Whole { size: 1426, came_back: true }); }, Outcome::Holds),
    ("pings of no size come back while BGP is up", |p| { p[A].footing().inside = Some(Echoes { sent: 4, ..Echoes::default() }); p[A].footing().whole = Some(Whole { size: 1426, came_back: false }); }, Outcome::Unwell),
    ("pings filtered within while BGP is up", |p| p[A].footing().inside = Some(Echoes { sent: 4, ..Echoes::default() }), Outcome::Unwell),
    ("an address that B does not announce", |p| p[A].footing().routes = vec![Lookup { target: "10.9.0.1".into(), prefix: "10.9.0.0/16".into(), kind: "unreachable".into(), protocol: "routemesh".into(), ..Lookup::default() }], Outcome::Holds),
    ("agents that cannot be asked, and report", |p| { for it in p { it.footing = None; it.unasked = Some("too old".into()); } }, Outcome::ByReport),
    ("more SAs than one pair, while they are made anew", |p| { for it in p { let more = [sa(0xe, true, 0), sa(0xf, false, 0)]; it.footing().sas.extend(more); } }, Outcome::Holds),
    ("no packets meanwhile", |p| { for it in p { for sa in &mut it.footing().sas { sa.now = 0; } } }, Outcome::Holds),
    ("no BFD", |p| { for it in p { it.status().bfd = None; } }, Outcome::Holds),
    ("one agent that cannot be asked, and reports", |p| { p[B].footing = None; p[B].unasked = Some("too old".into()); }, Outcome::ByReport),
    ("nothing received of what B announces", |p| p[A].bgp().received = 0, Outcome::Unwell),
    ("no packets meanwhile, and nobody else can tell", |p| for it in p { for sa in &mut it.footing().sas { sa.now = 0; } it.footing().inside = None; }, Outcome::Unwell),
];

#[test]
fn what_carries_is_not_broken() {
    for (name, change, comes_to) in NO_FAULTS {
        let mut pair = well();
        change(&mut pair);
        let found = look("xfrm", &pair);
        assert_eq!(found.broken, "", "{name}: {found:#?}");
        assert_eq!(found.rungs.len(), RUNGS.len(), "{name}");
        assert_eq!(judge(&pair, true), *comes_to, "{name}: {found:#?}");
    }
}

fn judge(pair: &Pair, up: bool) -> Outcome {
    let evidence = Evidence {
        number: 3,
        kind: "xfrm",
        ends: [pair[A].end(), pair[B].end()],
    };
    outcome(&evidence, &climb(&evidence), up)
}

#[test]
fn what_nobody_looked_at_does_not_hold() {
    let mut pair = well();
    for it in &mut pair {
        it.footing = None;
    }
    assert_eq!(judge(&pair, true), Outcome::ByReport);
    assert_eq!(judge(&pair, false), Outcome::Unwell);
    // What is configured is no measurement.
    let state = |pair: &Pair, name: &str| {
        let found = look("xfrm", pair);
        let rung = found.rungs.into_iter().find(|it| it.name == name).unwrap();
        (rung.state, rung.evidence.join("; "))
    };
    let mut pair = well();
    let (mtu, why) = state(&pair, "mtu");
    assert!(
        mtu == "unmeasured" && why.contains("not measured"),
        "{mtu}: {why}"
    );
    pair[A].footing().whole = Some(Whole {
        size: 1426,
        came_back: true,
    });
    let (mtu, why) = state(&pair, "mtu");
    assert!(
        mtu == "holds" && why.contains("A: 1426 bytes came back from B"),
        "{mtu}: {why}"
    );
    let mut pair = well();
    pair[A].footing().inside = None;
    pair[B].footing().inside = None;
    assert_eq!(state(&pair, "mtu").0, "unknown");
    for sa in pair.iter_mut().flat_map(|it| &mut it.footing().sas) {
        sa.now = 0;
    }
    assert_eq!(state(&pair, "esp").0, "unknown");
}

#[test]
fn a_foreign_peer_is_judged_by_one_end() {
    let mut pair = well();
    pair[B] = Side {
        name: "cloud",
        foreign: true,
        ..Side::default()
    };
    assert_eq!(judge(&pair, true), Outcome::Holds, "{:#?}", look("", &pair));
    // Its terms reject on purpose.
    pair[A].bgp().rejected = 1;
    pair[A].rejected = vec![Rejected {
        peer: "rm3-cloud".into(),
        prefix: "0.0.0.0/0".into(),
        reason: "rejected by a term".into(),
    }];
    let found = look("", &pair);
    assert_eq!(found.broken, "", "{found:#?}");
    pair[A].refused("");
    // It need not answer to what is no IKE.
    mute(&mut pair[A], &[500, 4500], true);
    assert_eq!(look("", &pair).broken, "ike");
    pair[A].refused("the far end has another pre-shared key");
    assert_eq!(look("", &pair).broken, "ike");
    pair[A].refused("the far end does not answer");
    assert_eq!(look("", &pair).broken, "udp");
}

#[test]
fn wireguard_has_no_ike_and_no_sas() {
    let mut pair = well();
    for side in &mut pair {
        side.footing().sas.clear();
        (side.outside().port_500, side.outside().port_4500) = (None, None);
    }
    assert_eq!(look("wireguard", &pair).broken, "");
    pair[A].status().ike = "no handshake".into();
    let found = look("wireguard", &pair);
    assert_eq!(found.broken, "ike");
    assert!(found.cause.contains("handshake"), "{}", found.cause);
}

/// What is broken above says nothing while something below is.
#[test]
fn the_lower_of_two_faults_is_found() {
    for (low, high) in [
        ("no route outside", "a blackhole"),
        ("interface set down", "large packets lost"),
        ("ESP lost one way", "BFD filtered"),
        ("BFD filtered", "BGP filtered"),
        ("BGP filtered", "a prefix that is not owned"),
        ("a blackhole", "no way back"),
    ] {
        let fault = |name: &str| FAULTS.iter().find(|it| it.0 == name).unwrap();
        let mut pair = well();
        (fault(high).1)(&mut pair);
        (fault(low).1)(&mut pair);
        assert_eq!(look("xfrm", &pair).broken, fault(low).2, "{low}, {high}");
    }
}
