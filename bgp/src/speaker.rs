//! The speaker: what happens to one peer, and what follows from it for the table and the others.

use crate::adj_rib_out::AdjRibOut;
use crate::config::{ConnId, PeerConfig, PeerId, SpeakerConfig, Time};
use crate::ending::Ending;
use crate::export::Audience;
use crate::identity::Identity;
use crate::interface::{Input, Output, PeerStatus};
use crate::peer::Peer;
use crate::policy::Rejection;
use crate::reach::Reach;
use crate::schedule::Schedule;
use crate::table::{AttributeSets, Hop, Path, Seed, Table};
use crate::wire::notification::cease;
use crate::wire::{Attributes, Notification};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A BGP speaker: give it inputs and the time, do what it puts out, read its routes.
///
/// After every call of [`input`](Self::input), [`timeout`](Self::timeout),
/// [`configure`](Self::configure), [`originate`](Self::originate), [`reach`](Self::reach),
/// [`installed`](Self::installed) and [`shutdown`](Self::shutdown): take outputs until there are none, then see to it that `timeout`
/// is called at [`next_deadline`](Self::next_deadline). Bytes that wait in sockets go in before a
/// `timeout`, so that a driver that was held up does not take its peers for dead.
#[derive(Debug)]
pub struct Speaker {
    /// How long after the start announcing, and tidying up, waits for the peers' End-of-RIB.
    pub(crate) deferral_time: Duration,
    /// When we started, if it was a restart with the kernel's routes still in place.
    pub(crate) restarted: Option<Time>,
    pub(crate) started: Time,
    /// After a restart: nothing is announced before the peers' routes are here
    /// (RFC 4724 section 4.1).
    pub(crate) deferring: bool,
    pub(crate) settled: bool,
    pub(crate) stopped: bool,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// By ways that are no peers, where there is anything.
    pub(crate) reached: BTreeMap<PeerId, Reach>,
    pub(crate) conns: BTreeMap<ConnId, PeerId>,
    pub(crate) seed: Seed,
    pub(crate) table: Table,
    pub(crate) sets: AttributeSets,
    pub(crate) outputs: VecDeque<Output>,
    schedule: Schedule,
    /// Peers that may be told something now; all others may not.
    pub(crate) ready: BTreeSet<PeerId>,
    /// What kinds of peers have had sessions: what is for none of them need not be offered to each.
    pub(crate) audiences: Vec<Audience>,
    /// What peers were told in sessions that are over: to be cleared away.
    pub(crate) left: Vec<AdjRibOut>,
    /// The last time we were told.
    pub(crate) now: Time,
}

impl Speaker {
    /// A speaker that begins to connect to its peers. `restarting`: an earlier run left its routes
    /// in the kernel, and the peers are asked to keep theirs (RFC 4724). `seed`: a random number that
    /// no peer knows, so that none can choose prefixes that are slow to find.
    pub fn new(config: SpeakerConfig, restarting: bool, seed: u64, now: Time) -> Self {
        let seed = Seed::new(seed);
        let mut speaker = Self {
            deferral_time: config.deferral_time,
            restarted: restarting.then_some(now),
            started: now,
            deferring: restarting,
            // Nothing of an earlier run is there to be kept.
            settled: !restarting,
            stopped: false,
            peers: BTreeMap::new(),
            reached: BTreeMap::new(),
            conns: BTreeMap::new(),
            seed,
            table: Table::new(seed),
            sets: AttributeSets::new(seed),
            outputs: VecDeque::new(),
            schedule: Schedule::default(),
            ready: BTreeSet::new(),
            audiences: Vec::new(),
            left: Vec::new(),
            now,
        };
        speaker.configure(config, now);
        speaker
    }

    /// Makes `config` what is in force. Peers that are new or gone are connected or ended, those
    /// that differ in AS, addresses, families, `client`, `meshed` or `add_path` are reset; nothing happens to
    /// the others. What OPENs say else, the hold time for one, counts from the next session on.
    /// After [`Speaker::shutdown`] there is nothing more to configure.
    pub fn configure(&mut self, config: SpeakerConfig, now: Time) {
        if self.stopped {
            return;
        }
        self.catch_up();
        let us = Identity::new(&config, self.restarted);
        let gone: Vec<PeerId> = self.peers.keys().cloned().collect();
        for id in gone {
            match config.peers.get(&id) {
                None => self.remove(&id, cease::PEER_DECONFIGURED, now),
                Some(wanted) => self.adopt(&id, wanted, us, now),
            }
        }
        for id in config.peers.keys() {
            // What was reached without a session is from now on what the peer says.
            if self.reached.remove(id).is_some() {
                self.table.sources.remove_peer(id);
            }
        }
        for (id, wanted) in config.peers {
            let new = |id: &PeerId| Peer::new(id.clone(), wanted, us, now);
            self.peers.entry(id).or_insert_with_key(new);
        }
        self.deferral_time = config.deferral_time;
        self.propagate();
        self.reschedule_all();
        self.timeout(now);
    }

    /// Takes a changed configuration of a peer; removes the peer where that needs a reset.
    fn adopt(&mut self, id: &PeerId, wanted: &PeerConfig, us: Identity, now: Time) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let before = peer.config.clone();
        if !peer.adopt(wanted, us) {
            self.remove(id, cease::CONFIGURATION_CHANGE, now);
            return;
        }
        if before == *wanted {
            return;
        }
        peer.reconnect(now);
        if before.import != wanted.import {
            self.import_again(id);
        }
        if let Some(peer) = self.peers.get_mut(id)
            && let Some(out) = &mut peer.out
        {
            out.drain(wanted.drain);
            out.review(&mut self.table, &peer.allowed_out);
        }
        self.check_max_prefixes(id, now);
    }

    fn remove(&mut self, id: &PeerId, subcode: u8, now: Time) {
        if let Some(peer) = self.peers.get_mut(id) {
            let ending = Ending::Sent(Notification::cease(subcode));
            peer.end_all(&ending, now, &mut self.outputs);
            self.peers.remove(id);
            self.table.sources.remove_peer(id);
        }
    }

    /// Makes `prefixes` the whole set that we originate. They win over all that is learnt.
    pub fn originate(&mut self, prefixes: BTreeSet<IpNet>, now: Time) {
        self.catch_up();
        let prefixes = prefixes.iter().map(IpNet::trunc).collect();
        self.table.originate(prefixes);
        self.propagate();
        self.timeout(now);
    }

    /// Learnt prefixes that the kernel forwards from now on (`true`), or no more. From the first
    /// call on, learnt prefixes that it does not forward are not announced: a neighbour would send
    /// traffic that goes nowhere.
    pub fn installed(&mut self, changes: impl IntoIterator<Item = (IpNet, bool)>, now: Time) {
        self.catch_up();
        self.table.install(changes);
        self.propagate();
        self.now = now;
        self.settle(now);
    }

    /// Ends all sessions, with a text for the operators at the other ends (RFC 9003), for good.
    pub fn shutdown(&mut self, reason: &str, now: Time) {
        self.stopped = true;
        let notification = Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, reason);
        let ids: Vec<PeerId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.end_all(&id, &Ending::Sent(notification.clone()), now);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.stop();
                peer.note_state(now);
            }
        }
        self.reschedule_all();
    }

    /// Something happened.
    pub fn input(&mut self, input: Input, now: Time) {
        self.now = now;
        self.catch_up();
        let concerned = self.concerned(&input);
        match input {
            Input::Connected { peer, conn, active } => match self.peers.get_mut(&peer) {
                Some(machine) => {
                    self.conns.insert(conn, peer);
                    machine.connected(conn, active, now, &mut self.outputs);
                    machine.note_state(now);
                }
                None => self.outputs.push_back(Output::Close { conn }),
            },
            Input::ConnectFailed { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.connect_failed(now);
                    peer.note_state(now);
                }
            }
            Input::Received { conn, bytes } => self.received(conn, bytes, now),
            Input::Writable { conn } => {
                if let Some(id) = self.conns.get(&conn)
                    && let Some(peer) = self.peers.get_mut(id)
                {
                    peer.writable(conn);
                }
            }
            Input::Closed { conn } => {
                if let Some(id) = self.conns.remove(&conn)
                    && let Some(peer) = self.peers.get_mut(&id)
                {
                    let happening = peer.end(conn, Ending::Closed, now, &mut self.outputs);
                    self.follow(&id, happening, now);
                }
            }
            Input::Dead { peer } => self.end_all(&peer, &Ending::Dead, now),
            Input::Alive { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.alive(now, &mut self.outputs);
                    peer.note_state(now);
                }
            }
        }
        if let Some(id) = concerned {
            self.reschedule(&id);
        }
        self.settle(now);
    }

    /// The peer whose machine an input goes to.
    fn concerned(&self, input: &Input) -> Option<PeerId> {
        match input {
            Input::Connected { peer, .. }
            | Input::ConnectFailed { peer }
            | Input::Dead { peer }
            | Input::Alive { peer } => Some(peer.clone()),
            Input::Received { conn, .. } | Input::Writable { conn } | Input::Closed { conn } => {
                self.conns.get(conn).cloned()
            }
        }
    }

    /// Notes when a peer has something due, and whether it can be told something. To be called after
    /// everything that may change it.
    pub(crate) fn reschedule(&mut self, id: &PeerId) {
        let deadline = self.peers.get(id).and_then(Peer::deadline);
        self.schedule.set(id, deadline);
        self.note_ready(id);
    }

    fn reschedule_all(&mut self) {
        let peers = self.peers.keys().cloned();
        for id in peers.chain(self.schedule.peers()).collect::<Vec<_>>() {
            self.reschedule(&id);
        }
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Time) {
        self.now = now;
        self.catch_up();
        for id in self.schedule.due(now) {
            while let Some(peer) = self.peers.get_mut(&id)
                && let Some(happening) = peer.timeout(now, &mut self.outputs)
            {
                self.follow(&id, happening, now);
            }
            self.reschedule(&id);
        }
        self.settle(now);
    }

    /// When [`Speaker::timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let settling = || {
            let quiet = self.peers.values().filter_map(Peer::quiet_at);
            quiet.chain([self.deferral_ends()])
        };
        let settling = (!self.settled || self.deferring).then(settling);
        let settling = settling.into_iter().flatten();
        settling.chain(self.schedule.next()).min()
    }

    fn received(&mut self, conn: ConnId, bytes: Vec<u8>, now: Time) {
        let Some(id) = self.conns.get(&conn).cloned() else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let stream = peer.receive(conn, bytes);
        let mut rest = stream.as_slice();
        while let Some(peer) = self.peers.get_mut(&id)
            && let Some(happening) = peer.next(conn, &mut rest, now, &mut self.outputs)
        {
            self.follow(&id, happening, now);
        }
        let used = stream.len() - rest.len();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.keep(conn, stream, used);
        }
    }

    pub(crate) fn end_all(&mut self, id: &PeerId, ending: &Ending, now: Time) {
        if let Some(peer) = self.peers.get_mut(id) {
            let happening = peer.end_all(ending, now, &mut self.outputs);
            self.follow(id, happening, now);
        }
    }

    /// The next thing to be done outside. When a session is down, [`Event::Down`] comes out first,
    /// and only then the table is walked for what that means for the routes.
    ///
    /// [`Event::Down`]: crate::Event::Down
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.outputs.is_empty() && (self.catch_up() || self.announce()) {}
        let output = self.outputs.pop_front();
        if let Some(Output::Close { conn }) = &output {
            self.conns.remove(conn);
        }
        output
    }

    // ---- What there is to see ----

    /// The prefixes learnt and in use, with their ECMP sets: never empty, the best path first, and
    /// equal sets are the same allocation. Prefixes that we originate are not among them.
    pub fn loc_rib(&self) -> impl Iterator<Item = (IpNet, &Arc<[Hop]>)> {
        self.table.loc_rib()
    }

    /// Takes up to `max` prefixes whose entry in the Loc-RIB changed since they were last taken:
    /// each once, with its ECMP set as it is now; `None` where it is not in use any more. To be
    /// called again until nothing is left. Who applies them all to nothing has
    /// [`Speaker::loc_rib`].
    pub fn take_changes(&mut self, max: usize) -> Vec<(IpNet, Option<Arc<[Hop]>>)> {
        self.catch_up();
        self.table.take_changes(max)
    }

    /// Makes [`Speaker::take_changes`] tell everything in use once more, for whoever does not trust
    /// what he made of it.
    pub fn review(&mut self) {
        self.catch_up();
        self.table.review();
    }

    /// The ECMP set of a prefix in use, as it is now, and whether [`Speaker::installed`] said that
    /// the kernel forwards it.
    pub fn in_use(&self, prefix: &IpNet) -> Option<(&Arc<[Hop]>, bool)> {
        self.table.in_use(prefix)
    }

    /// Whether [`Speaker::take_changes`] has something.
    pub fn has_changes(&self) -> bool {
        self.table.sources.are_dirty() || self.table.has_changes()
    }

    /// Whether the routes can be taken for complete: every peer's End-of-RIB arrived since the
    /// start, or the deferral time is over. Only then may routes of an earlier run be deleted.
    /// Once true, it stays so. A speaker without peers has nothing to wait for.
    pub fn settled(&self, now: Time) -> bool {
        self.settled || now >= self.deferral_ends()
    }

    /// Paths that are not used, and why.
    pub fn rejected(&self) -> impl Iterator<Item = (PeerId, IpNet, Rejection)> {
        // Most of the time there are none, or few, and the table may be large.
        let counts = self.peers.values().map(|peer| peer.intake.rejected);
        let most = counts.fold(0, usize::saturating_add);
        self.table.rejected().take(most)
    }

    /// All that a peer announced, rejected paths included.
    pub fn adj_rib_in(&self, peer: &PeerId) -> impl Iterator<Item = (IpNet, Path)> {
        let paths = self.table.all_paths();
        paths.filter(move |(_, path)| path.source.peer == *peer)
    }

    /// All that a peer was told. The next hop is always our address of the session.
    pub fn adj_rib_out(&self, peer: &PeerId) -> impl Iterator<Item = (IpNet, Arc<Attributes>)> {
        let out = self.peers.get(peer).and_then(|peer| peer.out.as_ref());
        out.into_iter().flat_map(|out| out.told())
    }

    /// A peer.
    pub fn peer(&self, peer: &PeerId) -> Option<PeerStatus> {
        self.peers.get(peer).map(Peer::status)
    }

    /// The peers, by name.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.values().map(Peer::status)
    }
}
