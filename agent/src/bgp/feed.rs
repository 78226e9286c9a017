//! What the speaker has to tell the dataplane, in batches, as fast as they are worked off.

use crate::dataplane::{BATCH, News};
use crate::plan::Change;
use hashbrown::HashSet;
use ipnet::IpNet;
use routemesh_bgp::wire::Family;
use routemesh_bgp::{Hop, PeerId, PeerState, PeerStatus, Speaker, Time};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;

/// Batches that are under way: enough that nobody waits for the other.
const AHEAD: usize = 8;
/// What may be under way besides: news of lost peers.
pub(super) const QUEUE: usize = 256;
/// How long a new prefix waits for the peers that are still telling theirs.
const PATIENCE: Duration = Duration::from_millis(250);
/// A peer that has not told all after so long is not waited for.
const TELLING: Duration = Duration::from_secs(10);

/// Hands out changes.
///
/// Peers tell the same prefixes one after the other, and a route that is written when the first has
/// spoken is written again for the second. So a prefix that the kernel does not forward yet waits
/// until all peers whose sessions are up and that have not come to their End-of-RIB have a path
/// among its own; for at most [`PATIENCE`], and for no peer longer than [`TELLING`] after its session
/// came up. Whatever concerns a prefix that is forwarded waits for nobody.
pub(super) struct Feed {
    news: mpsc::Sender<News>,
    /// Batches that were not answered yet.
    unanswered: usize,
    /// Prefixes that wait.
    held: HashSet<IpNet>,
    /// The same in order, since when; those that were told of meanwhile are here still.
    waiting: VecDeque<(Time, Vec<IpNet>)>,
    /// Peers that have not told all they know: the families, and until when that matters.
    telling: Vec<(PeerId, BTreeSet<Family>, Time)>,
    /// The last review asked for.
    review: u64,
    /// What the dataplane was told last: that all is told, and this review and settledness.
    level: Option<(u64, bool)>,
}

impl Feed {
    pub fn new(news: mpsc::Sender<News>) -> Self {
        Self {
            news,
            unanswered: 0,
            held: HashSet::new(),
            waiting: VecDeque::new(),
            telling: Vec::new(),
            review: 0,
            level: None,
        }
    }

    /// A batch was worked off.
    pub fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// A peer is lost, and nothing of it is kept. If there is no room for the word, the changes that
    /// follow say the same, later.
    pub fn lost(&mut self, peer: PeerId) {
        if self.news.capacity() > AHEAD + 1 {
            let _ = self.news.try_send(News::Lost(peer));
        }
    }

    /// Everything is to be told once more.
    pub fn review(&mut self, review: u64, speaker: &mut Speaker) {
        self.review = review;
        speaker.review();
    }

    /// Something happened to a peer.
    pub fn peers(&mut self, speaker: &Speaker) {
        self.telling = speaker.peers().filter_map(telling).collect();
        // What waited for one that has told all waits no more.
        let mut ready = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        for (_, prefixes) in &mut waiting {
            prefixes.retain(|prefix| {
                if !self.held.contains(prefix) {
                    return false;
                }
                let hops = speaker.in_use(prefix).map(|(hops, _)| hops);
                let waits = hops.is_some_and(|hops| self.is_partial(prefix, hops));
                if !waits {
                    ready.push(*prefix);
                }
                waits
            });
        }
        waiting.retain(|(_, prefixes)| !prefixes.is_empty());
        let ready = ready.chunks(BATCH).map(|some| (Time::ZERO, some.to_vec()));
        self.waiting = ready.chain(waiting).collect();
    }

    /// When [`Feed::hand_out`] has something to do, even if nothing happens.
    pub fn deadline(&self) -> Option<Time> {
        let (since, _) = self.waiting.front()?;
        self.has_room().then_some(*since + PATIENCE)
    }

    /// Hands out what there is, as far as it is wanted.
    pub fn hand_out(&mut self, speaker: &mut Speaker, settled: bool, now: Time) {
        while self.has_room() {
            let mut batch = self.overdue(speaker, now);
            if batch.is_empty() {
                let changes = speaker.take_changes(BATCH);
                if changes.is_empty() {
                    break;
                }
                batch = self.hold_back(changes, speaker, now);
            }
            if !batch.is_empty() {
                self.level = None;
                if self.news.try_send(News::Changes(batch)).is_err() {
                    // Nobody is there any more.
                    return;
                }
                self.unanswered += 1;
            }
        }
        if self.held.is_empty() {
            self.waiting.clear();
            self.held.shrink_to(BATCH);
        }
        let told_all = self.held.is_empty() && !speaker.has_changes();
        let review = self.review;
        let level = (review, settled);
        if told_all && self.level != Some(level) {
            let sent = self.news.try_send(News::Level { review, settled });
            self.level = sent.is_ok().then_some(level);
        }
    }

    /// Room for the level is kept.
    fn has_room(&self) -> bool {
        self.unanswered < AHEAD && self.news.capacity() > 1
    }

    /// Keeps the new prefixes that somebody else may yet have a path to.
    fn hold_back(&mut self, changes: Vec<Change>, speaker: &Speaker, now: Time) -> Vec<Change> {
        self.telling.retain(|(_, _, until)| *until > now);
        if self.telling.is_empty() && self.held.is_empty() {
            return changes;
        }
        let waits = |(prefix, hops): &Change| {
            let new = || {
                !speaker
                    .in_use(prefix)
                    .is_some_and(|(_, installed)| installed)
            };
            hops.as_ref().is_some_and(|it| self.is_partial(prefix, it)) && new()
        };
        let (waiting, batch): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(waits);
        for (prefix, _) in &batch {
            self.held.remove(prefix);
        }
        let mut waiting: Vec<IpNet> = waiting.into_iter().map(|(prefix, _)| prefix).collect();
        waiting.retain(|prefix| self.held.insert(*prefix));
        if !waiting.is_empty() {
            self.waiting.push_back((now, waiting));
        }
        batch
    }

    /// A peer that is still telling has no path here yet.
    fn is_partial(&self, prefix: &IpNet, hops: &[Hop]) -> bool {
        let family = match prefix {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        };
        let tells = |families: &BTreeSet<Family>| families.contains(&family);
        let has = |peer: &PeerId| hops.iter().any(|hop| hop.peer == *peer);
        let mut telling = self.telling.iter();
        telling.any(|(peer, families, _)| tells(families) && !has(peer))
    }

    /// Prefixes that have waited long enough, as they are now.
    fn overdue(&mut self, speaker: &Speaker, now: Time) -> Vec<Change> {
        let mut batch = Vec::new();
        while batch.is_empty()
            && let Some((_, prefixes)) = self
                .waiting
                .pop_front_if(|(since, _)| *since + PATIENCE <= now)
        {
            for prefix in prefixes {
                if !self.held.remove(&prefix) {
                    continue;
                }
                // One that is not in use any more was told of without waiting. One that is forwarded by now
                // is not to be left out: it may be by the paths that it had before it waited.
                if let Some((hops, _)) = speaker.in_use(&prefix) {
                    batch.push((prefix, Some(hops.clone())));
                }
            }
        }
        batch
    }
}

fn telling(peer: PeerStatus) -> Option<(PeerId, BTreeSet<Family>, Time)> {
    let families: BTreeSet<Family> = peer
        .families
        .difference(&peer.end_of_rib)
        .copied()
        .collect();
    let tells = peer.state == PeerState::Established && !families.is_empty();
    tells.then(|| (peer.peer, families, peer.since + TELLING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_bgp::wire::{
        Attributes, Capabilities, Context, Message, NextHop, Open, announce, encode,
    };
    use routemesh_bgp::{ConnId, Input, PeerConfig, SpeakerConfig};
    use std::net::{IpAddr, Ipv4Addr};

    const START: Time = Duration::from_secs(1000);

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn name(number: u8) -> PeerId {
        format!("P{number}").into()
    }

    /// A speaker with sessions to peers 2, 3 and 4, of which none has told anything yet.
    fn speaker() -> Speaker {
        let peer = |number| {
            let config = PeerConfig::new(65000, address(1), address(number));
            (name(number), config)
        };
        let config = SpeakerConfig {
            asn: 65000,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            restart_time: Duration::from_secs(10),
            deferral_time: Duration::from_secs(10),
            peers: (2..=4).map(peer).collect(),
        };
        let mut speaker = Speaker::new(config, false, 1, START);
        for number in 2..=4 {
            let conn = ConnId(number.into());
            let (peer, active) = (name(number), false);
            speaker.input(Input::Connected { peer, conn, active }, START);
            let open = Message::Open(Open {
                asn: 65000,
                hold_time: 90,
                router_id: Ipv4Addr::new(10, 0, 0, number),
                capabilities: Capabilities {
                    families: BTreeSet::from([Family::Ipv4]),
                    four_octet_as: true,
                    ..Capabilities::default()
                },
            });
            let mut bytes = Vec::new();
            encode(&open, &Context::UNKNOWN, &mut bytes);
            encode(&Message::Keepalive, &Context::UNKNOWN, &mut bytes);
            speaker.input(Input::Received { conn, bytes }, START);
            while speaker.poll_output().is_some() {}
        }
        speaker
    }

    fn hear(speaker: &mut Speaker, from: u8, prefix: IpNet, now: Time) {
        let context = Context {
            four_octet_as: true,
            internal: true,
            ..Context::UNKNOWN
        };
        let next_hop = NextHop {
            address: address(from),
            link_local: None,
        };
        let (attributes, mut bytes) = (Attributes::default(), Vec::new());
        let prefixes = std::iter::once((0, prefix));
        announce(
            Family::Ipv4,
            &next_hop,
            &attributes,
            prefixes,
            &context,
            &mut bytes,
        );
        let conn = ConnId(from.into());
        speaker.input(Input::Received { conn, bytes }, now);
        while speaker.poll_output().is_some() {}
    }

    /// The prefixes told next, and by how many paths.
    fn told(news: &mut mpsc::Receiver<News>) -> Option<Vec<(IpNet, usize)>> {
        while let Ok(news) = news.try_recv() {
            if let News::Changes(changes) = news {
                let paths = |(prefix, hops): Change| (prefix, hops.map_or(0, |it| it.len()));
                return Some(changes.into_iter().map(paths).collect());
            }
        }
        None
    }

    #[test]
    fn a_path_that_comes_while_a_route_is_being_written_is_told_of() {
        let mut speaker = speaker();
        let (sender, mut news) = mpsc::channel(QUEUE);
        let mut feed = Feed::new(sender);
        feed.peers(&speaker);
        let prefix: IpNet = "10.1.0.0/16".parse().unwrap();

        hear(&mut speaker, 2, prefix, START);
        feed.hand_out(&mut speaker, true, START);
        assert_eq!(told(&mut news), None, "two others may have a path");
        let now = feed.deadline().unwrap();
        feed.hand_out(&mut speaker, true, now);
        assert_eq!(told(&mut news), Some(vec![(prefix, 1)]));

        hear(&mut speaker, 3, prefix, now);
        feed.hand_out(&mut speaker, true, now);
        assert_eq!(told(&mut news), None, "one other may have a path");
        // Only now it is written, with the first path.
        feed.answered();
        speaker.installed([(prefix, true)], now);
        let now = feed.deadline().unwrap();
        feed.hand_out(&mut speaker, true, now);
        assert_eq!(told(&mut news), Some(vec![(prefix, 2)]));

        // What is forwarded waits for nobody.
        hear(&mut speaker, 4, prefix, now);
        feed.hand_out(&mut speaker, true, now);
        assert_eq!(told(&mut news), Some(vec![(prefix, 3)]));
        assert_eq!(feed.deadline(), None);
    }

    #[test]
    fn what_all_have_told_of_is_told_once() {
        let mut speaker = speaker();
        let (sender, mut news) = mpsc::channel(QUEUE);
        let mut feed = Feed::new(sender);
        feed.peers(&speaker);
        let prefix: IpNet = "10.1.0.0/16".parse().unwrap();
        for peer in 2..=4 {
            assert_eq!(told(&mut news), None);
            hear(&mut speaker, peer, prefix, START);
            feed.hand_out(&mut speaker, true, START);
        }
        assert_eq!(told(&mut news), Some(vec![(prefix, 3)]));
        // Neither when somebody has told all, nor when the wait would be over.
        feed.peers(&speaker);
        assert_eq!(feed.deadline(), None);
        feed.hand_out(&mut speaker, true, START + PATIENCE);
        assert_eq!(told(&mut news), None);
    }
}
