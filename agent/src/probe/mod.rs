//! Whether tunnels carry what they should: full-size packets to the far gateway and back. A link on the
//! way that drops large packets without a word (RFC 2923 section 2.1) shows in nothing else: BFD, BGP
//! and pings are small.
//!
//! It only tells; nothing is changed for it.

mod echo;
pub mod ping;
mod search;

use crate::bgp::View;
use crate::config::{Config, Tunnel};
use crate::netns::Netns;
use crate::problem::remark;
use crate::state::Link;
use echo::{Answer, Echo};
use routemesh_bgp::PeerState;
use routemesh_proto::Problem;
use search::{Next, Search};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

/// Between two looks at the same tunnel.
const ROUND: Duration = Duration::from_secs(60);
/// After a change; a tunnel that has just come up may still have another MTU.
const BREATH: Duration = Duration::from_secs(5);
/// Tunnels looked at side by side.
const AT_ONCE: usize = 8;

/// A tunnel that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Interconnect addresses, ours and the far one.
    pub ends: [Ipv6Addr; 2],
    /// Of the interface.
    pub mtu: u32,
}

/// Tunnels by interface.
pub type Targets = BTreeMap<String, Target>;

/// By interface: its MTU, and the largest packet that comes back, where that is less.
pub type Holes = BTreeMap<String, (u32, u32)>;

/// The tunnels whose sessions are up.
pub fn targets(config: &Config, view: &View, links: &BTreeMap<String, Link>) -> Targets {
    let target = |tunnel: &Tunnel| {
        let peer = view.peers.get(tunnel.name().as_str())?;
        let mtu = links.get(&tunnel.link())?.mtu;
        let (local, remote) = tunnel.interconnect()?;
        let ends = [local, remote];
        let established = peer.state == PeerState::Established;
        established.then(|| (tunnel.link(), Target { ends, mtu }))
    };
    config.tunnels.values().filter_map(target).collect()
}

/// The probing of one gateway's tunnels. Dropped, it ends.
pub struct Probe {
    wanted: watch::Sender<Targets>,
    holes: watch::Receiver<Holes>,
    _task: JoinSet<()>,
}

impl Probe {
    /// Starts it, without any tunnel yet.
    pub fn start(overlay: Netns) -> Self {
        let (wanted, wishes) = watch::channel(Targets::new());
        let (tell, holes) = watch::channel(Holes::new());
        let mut task = JoinSet::new();
        task.spawn(run(overlay, wishes, tell));
        Self {
            wanted,
            holes,
            _task: task,
        }
    }

    /// Wants these looked at, and no others.
    pub fn want(&self, targets: Targets) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != targets;
            *wanted = targets;
            changed
        });
    }

    /// What is to be reported.
    pub fn problems(&self) -> Vec<Problem> {
        let holes = self.holes.borrow();
        holes
            .iter()
            .map(|(link, sizes)| hole(link, *sizes))
            .collect()
    }

    /// Changes whenever something else is found.
    pub fn changes(&self) -> watch::Receiver<Holes> {
        self.holes.clone()
    }
}

fn hole(link: &str, (mtu, passes): (u32, u32)) -> Problem {
    let reason = format!(
        "packets of more than {passes} bytes are lost without a word, there or on the way back, and the \
         tunnel should carry {mtu}: let ICMP \"packet too big\" (\"fragmentation needed\") pass on the way \
         between the gateways, or lower the MTU of the interface towards it by {}",
        mtu.saturating_sub(passes)
    );
    remark(format!("mtu of {link}"), &reason)
}

async fn run(overlay: Netns, mut wanted: watch::Receiver<Targets>, tell: watch::Sender<Holes>) {
    loop {
        let began = Instant::now();
        let targets = wanted.borrow_and_update().clone();
        let holes = look(&overlay, targets).await;
        tell.send_if_modified(|before| {
            let changed = *before != holes;
            *before = holes;
            changed
        });
        tokio::select! {
            () = sleep_until(began + ROUND) => {}
            changed = wanted.changed() => match changed {
                Ok(()) => sleep(BREATH).await,
                Err(_) => return,
            },
        }
    }
}

/// All tunnels, some at a time.
async fn look(overlay: &Netns, targets: Targets) -> Holes {
    let (mut looks, mut holes) = (JoinSet::new(), Holes::new());
    let mut left = targets.into_iter();
    loop {
        while looks.len() < AT_ONCE
            && let Some((link, target)) = left.next()
        {
            let overlay = overlay.clone();
            looks.spawn(async move {
                let found = measure(&overlay, &link, &target).await;
                found.map(|passes| (link, (target.mtu, passes)))
            });
        }
        match looks.join_next().await {
            Some(found) => holes.extend(found.ok().flatten()),
            None => return holes,
        }
    }
}

/// Whether a packet as large as the interface takes comes back; `None` where it cannot be sent.
pub async fn whole(overlay: &Netns, link: &str, target: &Target) -> Option<bool> {
    let mut echo = Echo::open(overlay, link, target.ends).ok()?;
    match echo.ask(target.mtu).await {
        Answer::CameBack => Some(true),
        Answer::Lost => Some(false),
        Answer::NotSent => None,
    }
}

/// The largest packet that comes back, if large ones do not and small ones do.
async fn measure(overlay: &Netns, link: &str, target: &Target) -> Option<u32> {
    let mut echo = match Echo::open(overlay, link, target.ends) {
        Ok(echo) => echo,
        Err(error) => {
            debug!("{error}");
            return None;
        }
    };
    let mut search = Search::new(target.mtu);
    loop {
        match search.next() {
            Next::Try(size) => match echo.ask(size).await {
                Answer::NotSent => return None,
                answer => search.tried(size, answer == Answer::CameBack),
            },
            // A tunnel that was dead for the first packets looks the same.
            Next::Hole(passes) => {
                let again = echo.ask(target.mtu).await;
                return (again == Answer::Lost).then_some(passes);
            }
            Next::Whole | Next::Dead => return None,
        }
    }
}
