//! The end of a gateway: everything of ours goes. And where its overlay is gone, what is left of it.

use super::{failures, links, state, with_routers};
use crate::bgp::{self, Bgp};
use crate::charon;
use crate::config::{Config, Overlay};
use crate::firewall;
use crate::kernel::{self, Kernel, Op};
use crate::peers;
use crate::plan;
use crate::state::Link;
use crate::state_dir::StateDir;
use crate::vici::Vici;
use routemesh_bgp::PeerState;
use routemesh_proto::Problem;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tracing::warn;

/// How long peers are waited for to be told that this gateway goes.
const LEAVE: Duration = Duration::from_secs(5);

/// Removes all that is ours from kernel and charon, and nothing else. What failed is returned.
pub async fn down(
    config: &Config,
    vici: &Vici,
    state_dir: &StateDir,
) -> Result<Vec<Problem>, kernel::Error> {
    let (kernel, there) = match Kernel::open(&config.overlay) {
        // What was in it went with it, or is in the agent's own namespace now.
        Err(error) if error.is_missing() => (Kernel::open(&Overlay::Own)?, false),
        opened => (opened?, true),
    };
    let _claim = kernel.claim()?;
    if there {
        take_leave(config, &kernel).await?;
    }
    // SAs first: while the interface is there, nothing passes in clear.
    let mut problems = charon::down(vici, state_dir).await;
    let place = kernel.place(config.place);
    let mut tables = kernel.tables().await?;
    tables.insert(place.table);
    let observed = state(&kernel.observe(&tables).await?, place);
    problems.extend(failures(kernel.apply(&plan::teardown(&observed)).await));
    problems.extend(firewall::down(kernel.underlay(), kernel.overlay()).await);
    Ok(problems)
}

/// Opens the kernel of a gateway that starts. The interfaces that a deleted VRF has left among the
/// public ones are set down: nothing is to pass them there.
pub(super) async fn open(overlay: &Overlay) -> Result<Kernel, kernel::Error> {
    let opened = Kernel::open(overlay);
    if overlay.is_vrf() && opened.as_ref().is_err_and(kernel::Error::is_missing) {
        let kernel = Kernel::open(&Overlay::Own)?;
        let _claim = kernel.claim()?;
        let links = kernel.objects().await?.links.into_iter();
        let down = |(name, link): (String, Link)| Op::SetLink {
            name,
            up: false,
            mtu: link.mtu,
        };
        let ops: Vec<Op> = links.filter(|(_, link)| link.up).map(down).collect();
        for problem in failures(kernel.apply(&ops).await) {
            warn!("{}: {}", problem.object, problem.reason);
        }
    }
    opened
}

/// Peers keep the paths of an agent that went away for its return (RFC 4724). This one does not
/// return: it opens the sessions once more, says that nothing was preserved, and closes them.
async fn take_leave(config: &Config, kernel: &Kernel) -> Result<(), kernel::Error> {
    let links = with_routers(links(&kernel.objects().await?), config, kernel).await?;
    let mut setup = peers::setup(config, &links);
    // Nobody's death is to be noticed any more.
    setup.bfd.clear();
    let (bgp, _news) = Bgp::start(kernel.overlay().clone(), setup, BTreeSet::new(), None);
    let established = |view: bgp::View| {
        let mut peers = view.peers.into_values();
        peers.all(|peer| peer.state == PeerState::Established)
    };
    let began = Instant::now();
    while began.elapsed() < LEAVE && !established(bgp.view().await) {
        sleep(Duration::from_millis(100)).await;
    }
    bgp.shutdown("gateway taken down").await;
    // What was said has to leave the sockets before they go.
    sleep(Duration::from_millis(100)).await;
    Ok(())
}
