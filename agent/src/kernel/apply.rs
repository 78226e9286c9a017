//! Carrying out [`Op`]s, in order, each with its own result.

use super::link::{self, Interface};
use super::socket::{Channel, Refusal, Request};
use super::{Kernel, Op, nexthop, route};
use crate::state::Side;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

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
    #[error("there is no link {0}")]
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

impl Kernel {
    /// Carries out `ops` strictly in order and returns one result for each, in order. None stops
    /// those after it. "Already so" is success. Runs of nexthop and route operations go to the
    /// kernel many at a time.
    ///
    /// One caller at a time: the kernel has had races between writers of nexthops and routes.
    pub async fn apply(&self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut results = Vec::with_capacity(ops.len());
        for run in ops.chunk_by(|one, next| one.is_bulk() && next.is_bulk()) {
            match run {
                [op] if !op.is_bulk() => results.push(self.apply_link(op).await),
                _ => results.extend(self.apply_bulk(run).await),
            }
        }
        let failed = |(result, op): (Result<(), Reason>, &Op)| {
            result.map_err(|reason| OpError {
                op: op.clone(),
                reason,
            })
        };
        results.into_iter().zip(ops).map(failed).collect()
    }

    async fn apply_link(&self, op: &Op) -> Result<(), Reason> {
        match op {
            Op::AddLink { name, kind, mtu } => {
                let request = link::add(name, kind, *mtu).ok_or(Reason::MixedFamilies)?;
                match self.underlay.send_one(request).await {
                    Err(Refusal {
                        errno: Errno::EEXIST,
                        ..
                    }) => {}
                    result => return Ok(result?),
                }
                for channel in [&self.underlay, &self.overlay] {
                    let found = find(channel, name)
                        .await?
                        .and_then(|interface| interface.ours);
                    if found.as_ref() == Some(kind) {
                        return Ok(());
                    }
                }
                Err(Reason::Conflict)
            }
            Op::MoveLink { name } => match find(&self.underlay, name).await? {
                // Already there, or nowhere.
                None => ours(&self.overlay, name).await.map(drop),
                Some(found) if found.ours.is_none() => Err(Reason::NotOurs(name.clone())),
                Some(_) if self.same => Ok(()),
                Some(found) => {
                    let request = link::transfer(found.index, self.netns.as_fd());
                    Ok(self.underlay.send_one(request).await?)
                }
            },
            Op::SetLink { name, up, mtu } => {
                let found = ours(&self.overlay, name).await?;
                Ok(self
                    .overlay
                    .send_one(link::set(found.index, *up, *mtu))
                    .await?)
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
                let index = ours(&self.overlay, link).await?.index;
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

    async fn apply_bulk(&self, ops: &[Op]) -> Vec<Result<(), Reason>> {
        let indices = match self.indices(ops).await {
            Ok(indices) => indices,
            Err(refusal) => return vec![Err(refusal.into()); ops.len()],
        };
        let mut results: Vec<Result<(), Reason>> = Vec::with_capacity(ops.len());
        let mut requests = Vec::with_capacity(ops.len());
        for op in ops {
            let request = op.request(&indices);
            results.push(request.map(|request| requests.push(request)));
        }
        // Each Ok so far has its request, in order.
        let mut answers = self.overlay.send(requests).await.into_iter();
        for (op, result) in ops
            .iter()
            .zip(&mut results)
            .filter(|(_, result)| result.is_ok())
        {
            let answer = answers.next().unwrap_or_else(|| Err(Errno::EBADMSG.into()));
            *result = already(answer, op.already());
        }
        self.forgive_existing(ops, &mut results).await;
        results
    }

    /// The interfaces that nexthops are to be put on.
    async fn indices(&self, ops: &[Op]) -> Result<BTreeMap<String, u32>, Refusal> {
        if !ops.iter().any(|op| matches!(op, Op::PutNexthop { .. })) {
            return Ok(BTreeMap::new());
        }
        let interfaces = self.overlay.dump(link::dump(), link::decode).await?;
        Ok(interfaces
            .into_iter()
            .map(|interface| (interface.name, interface.index))
            .collect())
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
        let Ok(observed) = self.observe().await else {
            return;
        };
        let refused = ops.iter().zip(results).filter(|(_, result)| exists(result));
        for (op, result) in refused {
            let same = match op {
                Op::PutNexthop { id, nexthop, .. } => observed.nexthops.get(id) == Some(nexthop),
                Op::PutGroup { id, members, .. } => observed.groups.get(id) == Some(members),
                Op::PutRoute { key, target, .. } => observed.routes.get(key) == Some(target),
                _ => false,
            };
            *result = if same { Ok(()) } else { Err(Reason::Conflict) };
        }
    }
}

impl Op {
    /// Goes to the kernel many at a time.
    fn is_bulk(&self) -> bool {
        match self {
            Self::AddLink { .. }
            | Self::MoveLink { .. }
            | Self::SetLink { .. }
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

    /// The message for a bulk operation.
    fn request(&self, indices: &BTreeMap<String, u32>) -> Result<Request, Reason> {
        match self {
            Self::PutNexthop {
                id,
                nexthop,
                replace,
            } => {
                let index = indices.get(&nexthop.link);
                let index = index.ok_or_else(|| Reason::NoLink(nexthop.link.clone()))?;
                Ok(nexthop::put_nexthop(*id, nexthop.gateway, *index, *replace))
            }
            Self::PutGroup {
                id,
                members,
                replace,
            } => Ok(nexthop::put_group(*id, members, *replace)),
            Self::DelNexthop { id } | Self::DelGroup { id } => Ok(nexthop::delete(*id)),
            Self::PutRoute {
                key,
                target,
                replace,
            } => Ok(route::put(key, target, *replace)),
            Self::DelRoute { key } => Ok(route::delete(key)),
            // Not bulk.
            _ => Err(Reason::Refused(Errno::EOPNOTSUPP.into())),
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
