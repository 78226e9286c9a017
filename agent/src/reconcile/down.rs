//! The end of a gateway: everything of ours goes.

use super::{failures, links, state, with_routers};
use crate::bgp::{self, Bgp};
use crate::charon;
use crate::config::Config;
use crate::firewall;
use crate::kernel::{self, Kernel};
use crate::peers;
use crate::plan;
use crate::state_dir::StateDir;
use crate::vici::Vici;
use routemesh_bgp::PeerState;
use routemesh_proto::Problem;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long peers are waited for to be told that this gateway goes.
const LEAVE: Duration = Duration::from_secs(5);

/// Removes all that is ours from kernel and charon, and nothing else. What failed is returned.
pub async fn down(
    config: &Config,
    vici: &Vici,
    state_dir: &StateDir,
) -> Result<Vec<Problem>, kernel::Error> {
    let kernel = Kernel::open(config.overlay.as_deref())?;
    let _claim = kernel.claim()?;
    take_leave(config, &kernel).await?;
    // SAs first: while the interface is there, nothing passes in clear.
    let mut problems = charon::down(vici, state_dir).await;
    let mut tables = kernel.tables().await?;
    tables.insert(config.place.table);
    let observed = state(&kernel.observe(&tables).await?, config.place);
    problems.extend(failures(kernel.apply(&plan::teardown(&observed)).await));
    problems.extend(firewall::down(kernel.underlay(), kernel.overlay()).await);
    Ok(problems)
}

/// Peers keep the paths of an agent that went away for its return (RFC 4724). This one does not
/// return: it opens the sessions once more, says that nothing was preserved, and closes them.
async fn take_leave(config: &Config, kernel: &Kernel) -> Result<(), kernel::Error> {
    let links = with_routers(links(&kernel.objects().await?), config, kernel).await?;
    let mut setup = peers::setup(config, &links);
    // Nobody's death is to be noticed any more.
    setup.bfd.clear();
    let (bgp, _news) = Bgp::start(kernel.overlay().clone(), setup, BTreeSet::new(), false);
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
