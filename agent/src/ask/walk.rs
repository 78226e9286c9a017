//! What holds of tunnels at this end, from the bottom up: evidence, for the controller to judge.

use super::ping::{Target, several};
use super::{Desk, Error, Reply, ike, route};
use crate::config::{Config, Tunnel};
use crate::kernel::{Count, Flow, Interface, Kernel, Xfrm};
use crate::nat::Nat;
use crate::netns::Netns;
use crate::probe;
use crate::state::{LinkKind, Side, ours};
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use routemesh_proto::{self as proto, answer};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

/// Tunnels of one question.
const TUNNELS: usize = 64;
/// Side by side.
const AT_ONCE: usize = 16;
/// Prefixes of the far side that are looked up.
const PREFIXES: usize = 8;
/// Members of a group that are told.
const HOPS: usize = 16;
/// For a name.
const RESOLVE: Duration = Duration::from_secs(3);
/// SAs are watched for at least this long, so that both ends' looks overlap.
const WATCH: Duration = Duration::from_secs(2);

pub(super) async fn answer(desk: &Desk, asked: proto::AskWalk, reply: &Reply) -> Result<(), Error> {
    let config = desk.config()?;
    let kernel = Kernel::open(&config.overlay)?;
    let began = Instant::now();
    let before = SaCounts::look().await;
    let interfaces = kernel.interfaces().await?;
    let numbers = asked.tunnels.iter().take(TUNNELS);
    let tunnels: Vec<&Tunnel> = numbers.filter_map(|it| config.tunnels.get(it)).collect();
    let ground = Ground {
        config: &config,
        kernel: &kernel,
        interfaces: &interfaces,
    };
    let looks: Vec<_> = tunnels.iter().map(|it| ground.look(it).boxed()).collect();
    let looks = futures::stream::iter(looks).buffered(AT_ONCE);
    let mut found: Vec<proto::Footing> = looks.collect().await;
    sleep_until(began + WATCH).await;
    let after = SaCounts::look().await;
    for (footing, tunnel) in found.iter_mut().zip(tunnels) {
        if tunnel.is_ipsec() {
            after.tell(&before, tunnel, footing);
        }
    }
    for footing in found {
        reply.send(answer::Piece::Footing(footing)).await;
    }
    Ok(())
}

/// What all looks share.
struct Ground<'g> {
    config: &'g Config,
    kernel: &'g Kernel,
    interfaces: &'g BTreeMap<String, Interface>,
}

impl Ground<'_> {
    async fn look(&self, tunnel: &Tunnel) -> proto::Footing {
        let interface = self.interfaces.get(&tunnel.link());
        let (outside, inside, whole, routes) = tokio::join!(
            self.outside(tunnel),
            self.inside(tunnel, interface),
            self.whole(tunnel, interface),
            self.routes(tunnel)
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        proto::Footing {
            tunnel: tunnel.number,
            clock: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
            outside: Some(outside),
            interface: interface.map(|it| of_interface(tunnel, it)),
            inside,
            whole,
            routes,
            ..proto::Footing::default()
        }
    }

    async fn outside(&self, tunnel: &Tunnel) -> proto::Outside {
        let mut outside = proto::Outside {
            local: tunnel.here(),
            remote: tunnel.remote_endpoint.clone(),
            ..proto::Outside::default()
        };
        let (local, remote) = match ends(self.config, tunnel).await {
            Ok(ends) => ends,
            Err(error) => {
                outside.problem = error.to_string();
                return outside;
            }
        };
        outside.local = local.to_string();
        outside.remote = remote.to_string();
        let flow = Flow {
            source: Some(local),
            ..Flow::to(remote)
        };
        match self.kernel.look_up(Side::Underlay, flow).await {
            Ok(way) => match way.taken {
                Ok((hop, _)) => {
                    outside.interface = hop.link;
                    outside.via = hop.gateway.map(|it| it.to_string()).unwrap_or_default();
                }
                Err(errno) => {
                    outside.problem = format!("no way to {remote}: {}", errno.desc());
                    return outside;
                }
            },
            Err(error) => outside.problem = error.to_string(),
        }
        let target = Target {
            netns: self.kernel.underlay().clone(),
            link: None,
            source: Some(local),
            target: remote,
        };
        let asks = |port| async move {
            match tunnel.is_ipsec() {
                true => ike::answers(local, remote, port).await.map(Some),
                false => Ok(None),
            }
        };
        let (ping, port_500, port_4500) = tokio::join!(several(&target, 2), asks(500), asks(4500));
        outside.ping = Some(ping);
        for (answered, place) in [
            (port_500, &mut outside.port_500),
            (port_4500, &mut outside.port_4500),
        ] {
            match answered {
                Ok(answered) => *place = answered,
                Err(error) => outside.problem = format!("cannot send from {local}: {error}"),
            }
        }
        outside
    }

    async fn inside(
        &self,
        tunnel: &Tunnel,
        interface: Option<&Interface>,
    ) -> Option<proto::Echoes> {
        let (own, target) = tunnel.address().zip(tunnel.far_address())?;
        interface?;
        let netns: &Netns = self.kernel.overlay();
        let target = Target {
            netns: netns.clone(),
            link: Some(tunnel.link()),
            source: Some(own.addr()),
            target,
        };
        Some(several(&target, 4).await)
    }

    async fn whole(&self, tunnel: &Tunnel, interface: Option<&Interface>) -> Option<proto::Whole> {
        let (local, remote) = tunnel.interconnect()?;
        let target = probe::Target {
            ends: [local, remote],
            mtu: interface?.mtu,
        };
        let came_back = probe::whole(self.kernel.overlay(), &tunnel.link(), &target).await?;
        Some(proto::Whole {
            size: target.mtu,
            came_back,
        })
    }

    /// The ways to the first host of what the far site owns.
    async fn routes(&self, tunnel: &Tunnel) -> Vec<proto::Lookup> {
        let prefixes = self.config.prefixes_of(&tunnel.peer_site);
        let mut found = Vec::new();
        for prefix in prefixes.iter().take(PREFIXES) {
            let flow = Flow::to(first_host(prefix));
            let mut lookup = route::look_up(self.config, self.kernel, flow).await;
            // The answer has to fit into one message.
            lookup.hops.truncate(HOPS);
            found.push(lookup);
        }
        found
    }
}

/// The first address that is not the network's own.
fn first_host(prefix: &IpNet) -> IpAddr {
    prefix.hosts().next().unwrap_or(prefix.network())
}

/// Both outer addresses, of one family.
pub(super) async fn ends(config: &Config, tunnel: &Tunnel) -> Result<(IpAddr, IpAddr), Error> {
    let remote = addresses(&tunnel.remote_endpoint).await?;
    let local = match nat(config).translates(tunnel) {
        true => chosen(&remote).await,
        false => addresses(&tunnel.here()).await?,
    };
    let pair = remote.iter().find_map(|remote| {
        let same = local.iter().find(|it| it.is_ipv4() == remote.is_ipv4())?;
        Some((*same, *remote))
    });
    pair.ok_or_else(|| Error::Name {
        name: tunnel.remote_endpoint.clone(),
        source: std::io::Error::other("no address of the family of this end's"),
    })
}

/// Which ends this host does not have itself.
fn nat(config: &Config) -> Nat {
    let ends = config.tunnels.values().map(|it| &it.local_endpoint);
    let ends: BTreeSet<IpAddr> = ends.filter_map(|it| it.parse().ok()).collect();
    let is_here = |address: &IpAddr| {
        let bound = std::net::UdpSocket::bind((*address, 0));
        !bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    };
    Nat::new(config, &ends.into_iter().filter(is_here).collect()).0
}

/// Whence the routes would send to one of these.
async fn chosen(remote: &[IpAddr]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for remote in remote {
        let any: IpAddr = match remote {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Nothing is sent.
        if let Ok(socket) = UdpSocket::bind((any, 0)).await
            && socket.connect((*remote, 500)).await.is_ok()
        {
            found.extend(socket.local_addr().map(|it| it.ip()));
        }
    }
    found
}

async fn addresses(name: &str) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let failed = |source| Error::Name {
        name: name.to_owned(),
        source,
    };
    match timeout(RESOLVE, tokio::net::lookup_host((name, 500))).await {
        Ok(Ok(found)) => Ok(found.map(|it| it.ip()).collect()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

fn of_interface(tunnel: &Tunnel, interface: &Interface) -> proto::Interface {
    let wanted = ours::IF_ID + tunnel.number;
    let (known_by, known) = match &interface.ours {
        Some(LinkKind::Xfrm { if_id }) => (format!("if_id {if_id:#x}"), *if_id == wanted),
        Some(LinkKind::Vti { key, .. }) => (format!("mark {key:#x}"), *key == wanted),
        Some(LinkKind::WireGuard { group }) => (format!("group {group:#x}"), *group == wanted),
        None => ("nothing of ours".to_owned(), false),
    };
    proto::Interface {
        name: tunnel.link(),
        up: interface.up,
        carrier: interface.usable,
        mtu: interface.mtu,
        known_by,
        known,
        addresses: interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// What the kernel's SAs have carried, and how many policies there are of each tunnel.
struct SaCounts(Result<(Vec<Count>, BTreeMap<u32, u32>), String>);

impl SaCounts {
    async fn look() -> Self {
        let look = async {
            let xfrm = Xfrm::open()?;
            let counts = xfrm.counts().await?;
            let mut policies = BTreeMap::new();
            for policy in xfrm.policies().await? {
                *policies.entry(policy.number).or_default() += 1;
            }
            Ok((counts, policies))
        };
        let looked: Result<_, crate::kernel::Error> = look.await;
        Self(looked.map_err(|error| error.to_string()))
    }

    fn tell(&self, before: &Self, tunnel: &Tunnel, footing: &mut proto::Footing) {
        let (counts, policies) = match &self.0 {
            Ok(found) => found,
            Err(problem) => {
                footing.sas_problem.clone_from(problem);
                return;
            }
        };
        let number = ours::IF_ID + tunnel.number;
        footing.policies = policies.get(&number).copied().unwrap_or_default();
        // What a VTI tunnel receives by is known by its other half.
        let own = |it: &&Count| it.sa.number == Some(number);
        let reqids: Vec<u32> = counts.iter().filter(own).map(|it| it.sa.reqid).collect();
        let remote: Option<IpAddr> = footing
            .outside
            .as_ref()
            .and_then(|outside| outside.remote.parse().ok());
        let of_tunnel =
            |it: &&Count| own(it) || it.sa.number.is_none() && reqids.contains(&it.sa.reqid);
        footing.sas = counts
            .iter()
            .filter(of_tunnel)
            .map(|count| proto::SecurityAssociation {
                spi: count.sa.spi,
                outbound: Some(count.sa.to) == remote,
                now: count.packets.saturating_sub(before.packets(count)),
                packets: count.packets,
                replayed: count.replayed,
                forged: count.forged,
            })
            .collect();
    }

    /// What the same SA had carried then.
    fn packets(&self, count: &Count) -> u64 {
        let before = self.0.iter().flat_map(|(counts, _)| counts);
        let same = before.into_iter().find(|it| it.sa == count.sa);
        same.map_or(0, |it| it.packets)
    }
}
