//! Carrying out [`Op`]s, in order, each with its own result.

use super::link::{self, Interface};
use super::socket::{Answer, BATCH_MESSAGES, Channel, Refusal, Request, Socket, TIMEOUT};
use super::{Kernel, Op, nexthop, route};
use crate::state::{LinkKind, Side};
use netlink_packet_core::NLM_F_DUMP;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

/// An operation that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct OpError {
    /// What was to be done.
    pub op: Op,
    /// Why it was not.
    pub reason: Reason,
}

/// Why an operation was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The kernel said no.
    #[error("{0}")]
    Refused(Refusal),
    /// Something else is there: a stranger's object, or one of ours that was not observed.
    #[error("conflict: something else is there already")]
    Conflict,
    /// The interface is not where it should be.
    #[error("there is no link {0} in the overlay")]
    NoLink(String),
    /// An interface of this name is somebody else's.
    #[error("conflict: link {0} is not a tunnel interface of ours")]
    NotOurs(String),
    /// A tunnel has two outer addresses of one family.
    #[error("the outer addresses are of different families")]
    MixedFamilies,
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Operations that were begun.
pub struct Begun {
    ops: Arc<Vec<Op>>,
    answer: Answer<Vec<Result<(), Reason>>>,
}

impl Begun {
    /// Waits for what the kernel says to each, in order. Dropping the future loses nothing.
    pub async fn answer(&mut self) -> Answers {
        let failed = |refusal: Refusal| vec![Err(refusal.into()); self.ops.len()];
        let results = self.answer.get().await;
        Answers(results.unwrap_or_else(failed))
    }
}

/// What the kernel said to each operation: [`Kernel::judge`] says what that means.
#[derive(Debug)]
pub struct Answers(Vec<Result<(), Reason>>);

impl Kernel {
    /// Carries out `ops` strictly in order and returns one result for each, in order. None stops
    /// those after it. "Already so" is success. Runs of nexthop and route operations go to the
    /// kernel many at a time.
    ///
    /// One caller at a time: the kernel has had races between writers of nexthops and routes.
    pub async fn apply(&self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut results = Vec::with_capacity(ops.len());
        for run in ops.chunk_by(|one, next| one.is_bulk() && next.is_bulk()) {
            if let [op] = run
                && !op.is_bulk()
            {
                let result = self.apply_link(op).await;
                results.push(result.map_err(|reason| OpError::new(op, reason)));
                continue;
            }
            for some in run.chunks(BATCH_MESSAGES) {
                let answers = self.begin(Arc::new(some.to_vec())).answer().await;
                results.extend(self.judge(some, answers).await);
            }
        }
        results
    }

    /// Begins to carry out operations on nexthops and routes, in order, after all that were begun
    /// before: the kernel need not wait while the next ones are thought out.
    pub fn begin(&self, ops: Arc<Vec<Op>>) -> Begun {
        let sends = u32::try_from(ops.len() / BATCH_MESSAGES).unwrap_or(u32::MAX);
        let timeout = TIMEOUT.saturating_mul(sends.saturating_add(1));
        let these = ops.clone();
        let write = move |socket: &mut Socket| write(socket, &these);
        Begun {
            ops,
            answer: self.overlay.exchange(timeout, write),
        }
    }

    /// What became of operations, by what the kernel said to them.
    pub async fn judge(&self, ops: &[Op], answers: Answers) -> Vec<Result<(), OpError>> {
        let Answers(mut results) = answers;
        self.forgive_existing(ops, &mut results).await;
        let judged = ops.iter().zip(results);
        judged
            .map(|(op, result)| result.map_err(|reason| OpError::new(op, reason)))
            .collect()
    }

    /// An interface of this name and kind is there already, in either namespace.
    async fn made(&self, name: &str, kind: &LinkKind) -> Result<bool, Reason> {
        for channel in [&self.underlay, &self.overlay] {
            let found = find(channel, name).await?;
            if found.and_then(|interface| interface.ours).as_ref() == Some(kind) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn apply_link(&self, op: &Op) -> Result<(), Reason> {
        match op {
            Op::AddLink { name, kind, mtu } => {
                let request = link::add(name, kind, *mtu).ok_or(Reason::MixedFamilies)?;
                // The kernel refuses a second interface of one number wherever the first is by now, but
                // nothing of the kind for WireGuard.
                let unique = !matches!(kind, LinkKind::WireGuard { .. });
                if !unique && self.made(name, kind).await? {
                    return Ok(());
                }
                match self.underlay.send_one(request).await {
                    Err(Refusal {
                        errno: Errno::EEXIST,
                        ..
                    }) => match self.made(name, kind).await? {
                        true => Ok(()),
                        false => Err(Reason::Conflict),
                    },
                    result => Ok(result?),
                }
            }
            Op::MoveLink { name } => match find(&self.underlay, name).await? {
                // Already there, or nowhere.
                None => ours(&self.overlay, name).await.map(drop),
                Some(found) if found.ours.is_none() => Err(Reason::NotOurs(name.clone())),
                Some(found) => {
                    let request = match &self.vrf {
                        Some(vrf) if vrf.has(&found) => return Ok(()),
                        Some(vrf) => link::enslave(found.index, vrf.index),
                        None if self.same => return Ok(()),
                        None => link::transfer(found.index, self.netns.as_fd()),
                    };
                    Ok(self.underlay.send_one(request).await?)
                }
            },
            Op::SetLink { name, up, mtu } => {
                let found = self.inside(name).await?;
                Ok(self
                    .overlay
                    .send_one(link::set(found.index, *up, *mtu))
                    .await?)
            }
            Op::SetWireGuard {
                name,
                wireguard,
                anew,
            } => {
                self.inside(name).await?;
                Ok(self.set_wireguard(name, wireguard, *anew).await?)
            }
            Op::DelLink { name, side } => {
                let channel = match side {
                    Side::Underlay => &self.underlay,
                    Side::Overlay => &self.overlay,
                };
                match ours(channel, name).await {
                    Ok(found) => {
                        let result = channel.send_one(link::delete(found.index)).await;
                        already(result, &[Errno::ENODEV])
                    }
                    Err(Reason::NoLink(_)) => Ok(()),
                    Err(reason) => Err(reason),
                }
            }
            Op::AddAddress { link, address } => {
                let index = self.inside(link).await?.index;
                match self
                    .overlay
                    .send_one(link::add_address(index, address))
                    .await
                {
                    Err(Refusal {
                        errno: Errno::EEXIST,
                        ..
                    }) => {}
                    result => return Ok(result?),
                }
                let held = self
                    .overlay
                    .dump(link::dump_addresses(), link::decode_address)
                    .await?;
                let same = held
                    .iter()
                    .any(|held| held.index == index && held.own == *address);
                if same { Ok(()) } else { Err(Reason::Conflict) }
            }
            Op::DelAddress { link, address } => match ours(&self.overlay, link).await {
                Ok(found) => {
                    let request = link::delete_address(found.index, address);
                    let result = self.overlay.send_one(request).await;
                    already(result, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
                }
                Err(Reason::NoLink(_)) => Ok(()),
                Err(reason) => Err(reason),
            },
            // Bulk.
            _ => Err(Reason::Refused(Errno::EOPNOTSUPP.into())),
        }
    }

    /// A tunnel interface of ours that is in the overlay.
    async fn inside(&self, name: &str) -> Result<Interface, Reason> {
        let found = ours(&self.overlay, name).await?;
        match &self.vrf {
            Some(vrf) if !vrf.has(&found) => Err(Reason::NoLink(name.to_owned())),
            _ => Ok(found),
        }
    }

    /// An exclusive creation is refused where something is there. If that is ours and the same, it
    /// is already so; if not, it is a conflict.
    async fn forgive_existing(&self, ops: &[Op], results: &mut [Result<(), Reason>]) {
        let exists = |result: &Result<(), Reason>| match result {
            Err(Reason::Refused(refusal)) => refusal.errno == Errno::EEXIST,
            _ => false,
        };
        if !results.iter().any(exists) {
            return;
        }
        let refused = ops.iter().zip(&*results).filter(|(_, it)| exists(it));
        // The kernel cannot be asked for one route by its key.
        let tables = refused.filter_map(|(op, _)| match op {
            Op::PutRoute { key, .. } => Some(key.table),
            _ => None,
        });
        let Ok(observed) = self.ours(&tables.collect()).await else {
            return;
        };
        let refused = ops.iter().zip(results).filter(|(_, result)| exists(result));
        for (op, result) in refused {
            let same = match op {
                Op::PutNexthop { id, nexthop, .. } => observed.nexthops.get(id) == Some(nexthop),
                Op::PutGroup { id, group, .. } => observed.groups.get(id) == Some(group),
                Op::PutRoute { key, target, .. } => observed.routes.get(key) == Some(target),
                _ => false,
            };
            *result = if same { Ok(()) } else { Err(Reason::Conflict) };
        }
    }
}

impl OpError {
    fn new(op: &Op, reason: Reason) -> Self {
        let op = op.clone();
        Self { op, reason }
    }
}

/// Sends the messages of bulk operations, and says what the kernel answered to each.
fn write(socket: &mut Socket, ops: &[Op]) -> Vec<Result<(), Reason>> {
    let links = match links(socket, ops) {
        Ok(links) => links,
        Err(refusal) => return vec![Err(refusal.into()); ops.len()],
    };
    let indices: Vec<Result<u32, Reason>> = ops.iter().map(|op| op.index(&links)).collect();
    let requests = ops.iter().zip(&indices);
    let requests = requests.filter_map(|(op, index)| op.request(*index.as_ref().ok()?));
    let mut answers = socket.send(requests).into_iter();
    let result = |(op, index): (&Op, Result<u32, Reason>)| {
        index?;
        let answer = answers.next();
        already(
            answer.unwrap_or_else(|| Err(Refusal::malformed())),
            op.already(),
        )
    };
    ops.iter().zip(indices).map(result).collect()
}

/// The interfaces that nexthops are to be put on.
fn links(socket: &mut Socket, ops: &[Op]) -> Result<BTreeMap<String, u32>, Refusal> {
    if !ops.iter().any(|op| matches!(op, Op::PutNexthop { .. })) {
        return Ok(BTreeMap::new());
    }
    let interfaces = socket.ask(&link::dump(), NLM_F_DUMP, link::decode)?;
    let index = |interface: Interface| (interface.name, interface.index);
    Ok(interfaces.into_iter().map(index).collect())
}

impl Op {
    /// Goes to the kernel many at a time.
    fn is_bulk(&self) -> bool {
        match self {
            Self::AddLink { .. }
            | Self::MoveLink { .. }
            | Self::SetLink { .. }
            | Self::SetWireGuard { .. }
            | Self::DelLink { .. }
            | Self::AddAddress { .. }
            | Self::DelAddress { .. } => false,
            Self::PutNexthop { .. }
            | Self::DelNexthop { .. }
            | Self::PutGroup { .. }
            | Self::DelGroup { .. }
            | Self::PutRoute { .. }
            | Self::DelRoute { .. } => true,
        }
    }

    /// The interface that a bulk operation is about; 0 where it is about none.
    fn index(&self, links: &BTreeMap<String, u32>) -> Result<u32, Reason> {
        match self {
            Self::PutNexthop { nexthop, .. } => {
                let index = links.get(&nexthop.link).copied();
                index.ok_or_else(|| Reason::NoLink(nexthop.link.clone()))
            }
            op if op.is_bulk() => Ok(0),
            _ => Err(Reason::Refused(Errno::EOPNOTSUPP.into())),
        }
    }

    /// The message for a bulk operation.
    fn request(&self, index: u32) -> Option<Request> {
        match self {
            Self::PutNexthop {
                id,
                nexthop,
                replace,
            } => Some(nexthop::put_nexthop(*id, nexthop.gateway, index, *replace)),
            Self::PutGroup { id, group, replace } => Some(nexthop::put_group(*id, group, *replace)),
            Self::DelNexthop { id } | Self::DelGroup { id } => Some(nexthop::delete(*id)),
            Self::PutRoute {
                key,
                target,
                replace,
            } => Some(route::put(key, target, *replace)),
            Self::DelRoute { key } => Some(route::delete(key)),
            _ => None,
        }
    }

    /// The errors that mean it is already so.
    fn already(&self) -> &'static [Errno] {
        match self {
            Self::DelNexthop { .. } | Self::DelGroup { .. } => &[Errno::ENOENT],
            Self::DelRoute { .. } => &[Errno::ESRCH],
            _ => &[],
        }
    }
}

fn already(result: Result<(), Refusal>, errors: &[Errno]) -> Result<(), Reason> {
    match result {
        Err(refusal) if errors.contains(&refusal.errno) => Ok(()),
        result => Ok(result?),
    }
}

async fn find(channel: &Channel, name: &str) -> Result<Option<Interface>, Refusal> {
    match channel.get(link::get(name), link::decode).await {
        Err(Refusal {
            errno: Errno::ENODEV,
            ..
        }) => Ok(None),
        result => result,
    }
}

/// The interface of this name, if it is ours: what is somebody else's is not touched.
async fn ours(channel: &Channel, name: &str) -> Result<Interface, Reason> {
    match find(channel, name).await? {
        None => Err(Reason::NoLink(name.into())),
        Some(found) if found.ours.is_none() => Err(Reason::NotOurs(name.into())),
        Some(found) => Ok(found),
    }
}
