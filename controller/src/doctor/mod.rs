//! Why a tunnel does not work: the ladder from the network outside up to the routes, climbed until the first
//! rung that is broken. (evidence of both ends) -> verdict. Pure.
//!
//! What stands below carries what stands above, so that nothing above the first broken rung says anything of
//! its own. An end that cannot be asked is judged by what the other end knows.

mod above;
mod below;
mod sas;
#[cfg(test)]
mod tests;

pub(crate) use above::describe;

use routemesh_proto::{
    Echoes, Edge, Footing, Ladder, Problem, Rejected, Rung, SecurityAssociation, TunnelStatus,
};

/// What is known of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'e> {
    /// Its number.
    pub number: u32,
    /// In the specification's word; empty for one to a foreign peer, which is of IPsec.
    pub kind: &'e str,
    /// Both ends; the second is the one that does not report where it is no gateway of ours.
    pub ends: [End<'e>; 2],
}

/// What is known of one end.
#[derive(Clone, Copy, Debug)]
pub struct End<'e> {
    /// The gateway, or foreign peer.
    pub name: &'e str,
    /// It is no gateway of the mesh: nobody can ask it.
    pub foreign: bool,
    /// Its interconnect address; empty for none.
    pub address: &'e str,
    /// Why it could not be asked.
    pub unasked: Option<&'e str>,
    /// What it reports, if lately.
    pub status: Option<&'e TunnelStatus>,
    /// What it found when it was asked.
    pub footing: Option<&'e Footing>,
    /// Everything that it could not do.
    pub problems: &'e [Problem],
    /// Prefixes that it refuses, of all peers.
    pub rejected: &'e [Rejected],
    /// Prefixes that it has to announce, as far as they are listed; `None` where it does not report.
    pub announced: Option<&'e [String]>,
}

impl<'e> End<'e> {
    /// Of an edge, before anybody is asked.
    pub fn of(edge: &'e Edge, second: bool) -> Self {
        let end = if second { &edge.b } else { &edge.a };
        let end = end.as_ref();
        Self {
            name: end.map_or("", |it| it.gateway.as_str()),
            foreign: false,
            address: end.map_or("", |it| it.address.as_str()),
            unasked: None,
            status: end.filter(|it| it.fresh).and_then(|it| it.status.as_ref()),
            footing: None,
            problems: &[],
            rejected: &[],
            announced: None,
        }
    }

    /// Whether there is anything that it says of now.
    fn is_heard(&self) -> bool {
        self.status.is_some() || self.footing.is_some()
    }

    /// What it could not do with the tunnel.
    fn problems_of(&self, number: u32) -> impl Iterator<Item = &'e Problem> {
        let link = format!("rm{number}");
        let connection = format!("rm{number}-");
        let about = move |problem: &&Problem| {
            let mut words = problem.object.split(' ');
            words.any(|word| word == link || word.starts_with(&connection))
        };
        self.problems.iter().filter(about)
    }

    /// Its SAs in one direction.
    fn sas(&self, outbound: bool) -> impl Iterator<Item = &'e SecurityAssociation> {
        let footing = self.footing.into_iter();
        let all = footing.flat_map(|it| &it.sas);
        all.filter(move |sa| sa.outbound == outbound)
    }
}

impl<'e> Evidence<'e> {
    /// Each end with the one opposite.
    fn sides(&self) -> [(&End<'e>, &End<'e>); 2] {
        let [a, b] = &self.ends;
        [(a, b), (b, a)]
    }

    fn is_ipsec(&self) -> bool {
        self.kind != "wireguard"
    }

    /// Both ends that report say that IKE is up, and one does.
    fn ike_is_up(&self) -> bool {
        let mut said = self.ends.iter().filter_map(|end| end.status).peekable();
        said.peek().is_some() && said.all(|status| status.ike == "up")
    }

    /// The same of BGP.
    fn bgp_is_up(&self) -> bool {
        let said = self.ends.iter().filter_map(|end| end.status?.bgp.as_ref());
        let mut said = said.peekable();
        said.peek().is_some() && said.all(|bgp| bgp.state == "Established")
    }

    /// Packets pass as far as anybody can see: what nobody has measured keeps none of them.
    fn carries(&self) -> bool {
        let abroad = self.ends.iter().any(|end| end.foreign);
        let mut bgp = self.ends.iter().filter_map(|end| end.status?.bgp.as_ref());
        let mut inside = self
            .ends
            .iter()
            .filter_map(|end| end.footing?.inside.as_ref());
        let by_bgp = match abroad {
            // It may have no BGP, and no address within.
            true => bgp.all(|it| it.state == "Established") && self.ike_is_up(),
            false => self.bgp_is_up() && inside.clone().next().is_some(),
        };
        by_bgp && inside.all(|echoes| echoes.answered > 0)
    }

    /// An end says why there is no CHILD_SA.
    fn blames_child(&self) -> bool {
        let mut said = self.ends.iter().filter_map(|end| end.status);
        said.any(|status| sas::is_of_child(&status.ike_reason))
    }
}

/// How a rung was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It carries.
    #[default]
    Holds,
    /// Nobody has measured it: it holds if all else does.
    Unmeasured,
    /// Nobody can tell.
    Unknown,
    /// Something is not as it should be, and does not keep traffic from flowing.
    Doubtful,
    /// It does not carry.
    Broken,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Holds => HOLDS,
            Self::Unmeasured => UNMEASURED,
            Self::Doubtful => "doubtful",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// What was found of a rung.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    state: State,
    evidence: Vec<String>,
    cause: String,
    cure: String,
}

impl Found {
    fn note(&mut self, line: String) {
        self.evidence.push(line);
    }

    /// The worst of what is found counts.
    fn is(&mut self, state: State) {
        self.state = self.state.max(state);
    }

    fn breaks(&mut self, cause: String, cure: String) {
        if self.state != State::Broken {
            (self.state, self.cause, self.cure) = (State::Broken, cause, cure);
        }
    }

    /// Nothing was found either way.
    fn or_unknown(mut self) -> Self {
        if self.state == State::Holds && self.evidence.is_empty() {
            self.state = State::Unknown;
        }
        self
    }
}

type Look = fn(&Evidence) -> Found;

/// From the bottom. The interface comes before IKE, which the agent does not begin without it; ESP after it, as
/// only SAs show whether it passes.
const RUNGS: [(&str, Look); 14] = [
    ("agents", below::agents),
    ("outside", below::outside),
    ("udp", below::udp),
    ("interface", below::interface),
    ("ike", sas::ike),
    ("child", sas::child),
    ("esp", sas::esp),
    ("interconnect", above::interconnect),
    ("mtu", above::mtu),
    ("bfd", above::bfd),
    ("bgp", above::bgp),
    ("prefixes", above::prefixes),
    ("routes", above::routes),
    ("return", above::back),
];

/// Rungs of the network between.
const OUTER: [&str; 2] = ["outside", "udp"];

const HOLDS: &str = "holds";
const UNMEASURED: &str = "unmeasured";

/// What a ladder comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All rungs do.
    Holds,
    /// All above do: what looks doubtful outside is what somebody filters there, and nothing depends on it.
    Filtered,
    /// By its reports, as an end could not be asked.
    ByReport,
    /// A rung is broken, or doubtful, or nobody can tell.
    Unwell,
}

/// Judges a ladder of a tunnel that is up, or not, by its reports.
pub fn outcome(evidence: &Evidence, ladder: &Ladder, up: bool) -> Outcome {
    if !ladder.broken.is_empty() {
        return Outcome::Unwell;
    }
    let held = |rung: &Rung| [HOLDS, UNMEASURED].contains(&rung.state.as_str());
    if ladder.rungs.iter().all(held) {
        return Outcome::Holds;
    }
    let filtered = |rung: &Rung| rung.state == "doubtful" && OUTER.contains(&rung.name.as_str());
    if up && ladder.rungs.iter().all(|it| held(it) || filtered(it)) {
        return Outcome::Filtered;
    }
    let ours = evidence.ends.iter().filter(|end| !end.foreign);
    let mut unasked = ours.filter(|end| end.footing.is_none());
    // That it could not be asked is what is doubtful of an agent.
    let doubtful = |rung: &Rung| rung.state == "doubtful" && rung.name != "agents";
    match up && unasked.next().is_some() && !ladder.rungs.iter().any(doubtful) {
        true => Outcome::ByReport,
        false => Outcome::Unwell,
    }
}

/// Climbs until a rung breaks.
pub fn climb(evidence: &Evidence) -> Ladder {
    let [a, b] = &evidence.ends;
    let mut ladder = Ladder {
        tunnel: evidence.number,
        a: a.name.to_owned(),
        b: b.name.to_owned(),
        ..Ladder::default()
    };
    for (name, look) in RUNGS {
        let found = look(evidence);
        let broken = found.state == State::Broken;
        let state = match found.state {
            State::Unmeasured if !evidence.carries() => State::Unknown,
            state => state,
        };
        ladder.rungs.push(Rung {
            name: name.to_owned(),
            state: state.word().to_owned(),
            evidence: found.evidence,
        });
        if broken {
            name.clone_into(&mut ladder.broken);
            (ladder.cause, ladder.cure) = (found.cause, found.cure);
            return ladder;
        }
    }
    // Whatever else holds, an end that does not report is not well.
    if let Some((silent, why)) = below::silent(evidence) {
        "agents".clone_into(&mut ladder.broken);
        ladder.cause = format!("{silent} does not report: {why}");
        ladder.cure = below::WAKE.to_owned();
    }
    ladder
}

/// "3 of 4".
fn of(echoes: &Echoes) -> String {
    match echoes.problem.as_str() {
        "" => format!("{} of {}", echoes.answered, echoes.sent),
        problem => format!("{} of {} ({problem})", echoes.answered, echoes.sent),
    }
}
