//! Echo requests for people who ask, one after the other.

use super::{Desk, Error, Reply, tunnel};
use crate::kernel::Kernel;
use crate::netns::Netns;
use crate::probe::ping::{Asked, Echo};
use nix::net::if_::if_nametoindex;
use routemesh_proto::{self as proto, answer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Requests that one question may make.
const MOST: u32 = 20;
/// Between two of them, at least.
const APART: Duration = Duration::from_millis(200);
/// For each answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is asked, and from where.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub netns: Netns,
    /// The interface by which requests leave; none for where the routes lead.
    pub link: Option<String>,
    /// None for the kernel's choice.
    pub source: Option<IpAddr>,
    pub target: IpAddr,
}

pub(super) async fn answer(desk: &Desk, asked: proto::AskPing, reply: &Reply) -> Result<(), Error> {
    let config = desk.config()?;
    let kernel = Kernel::open(&config.overlay)?;
    let through = asked.tunnel.map(|number| tunnel(&config, number));
    let through = through.transpose()?;
    let target = match (asked.target.as_str(), through) {
        ("", None) => return Err(Error::NoTarget),
        ("", Some(tunnel)) => tunnel.far_address().ok_or(Error::NoInside(tunnel.number))?,
        (text, _) => address(text)?,
    };
    let own = through
        .and_then(|tunnel| tunnel.address())
        .map(|it| it.addr());
    let own = own.filter(|own| own.is_ipv4() == target.is_ipv4());
    let source = match asked.source.as_str() {
        "" => own,
        text => Some(address(text)?),
    };
    let target = Target {
        netns: kernel.overlay().clone(),
        link: through.map(|tunnel| tunnel.link()),
        source,
        target,
    };
    for sequence in 1..=asked.count.clamp(1, MOST) {
        let next = Instant::now() + APART;
        let echo = once(&target, sequence).await;
        reply.send(answer::Piece::Echo(echo)).await;
        sleep_until(next).await;
    }
    Ok(())
}

pub(super) fn address(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::Address(text.to_owned()))
}

/// So many, and how many of them were answered.
pub(super) async fn several(target: &Target, count: u32) -> proto::Echoes {
    let mut echoes = proto::Echoes::default();
    for sequence in 1..=count {
        let next = Instant::now() + APART;
        let echo = once(target, sequence).await;
        echoes.sent += 1;
        echoes.answered += u32::from(echo.micros.is_some());
        echoes.problem = echo.problem;
        sleep_until(next).await;
    }
    echoes
}

/// One request, and its answer if it comes in time.
pub(super) async fn once(to: &Target, sequence: u32) -> proto::Echo {
    let echo = proto::Echo {
        sequence,
        target: to.target.to_string(),
        ..proto::Echo::default()
    };
    match ask(to).await {
        Ok(took) => proto::Echo {
            micros: took.map(|took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX)),
            ..echo
        },
        Err(problem) => proto::Echo { problem, ..echo },
    }
}

async fn ask(to: &Target) -> Result<Option<Duration>, String> {
    let index = match &to.link {
        None => 0,
        Some(link) => {
            let found = to.netns.run(|| if_nametoindex(link.as_str()));
            let found = found.map_err(|error| error.to_string())?;
            found.map_err(|_| format!("there is no interface {link}"))?
        }
    };
    // Answers to others' requests, and to earlier ones, are none to this.
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).map_err(|error| error.to_string())?;
    let any: IpAddr = match to.target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = Asked {
        source: to.source.unwrap_or(any),
        target: to.target,
        link: to.link.clone().unwrap_or_default(),
        index,
        interval: PATIENCE,
        number: u32::from_ne_bytes(tag),
    };
    let mut echo = Echo::open(&to.netns, &asked).map_err(|error| error.to_string())?;
    let sent = Instant::now();
    echo.ask(&asked).map_err(|errno| errno.desc().to_owned())?;
    match timeout_at(sent + PATIENCE, echo.answer(&asked)).await {
        Ok(Ok(())) => Ok(Some(sent.elapsed())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Ok(None),
    }
}
