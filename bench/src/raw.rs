//! The kernel alone: the same routes, written as fast as it takes them. No daemon can be faster.

use crate::clock;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::netlink::{
    Netlink, Requests, delete_nexthop, delete_route, put_group, put_nexthop, put_route,
    replace_group,
};
use crate::prefix::Family;
use std::fs;
use std::time::Duration;

/// Messages of one system call.
const BATCH: usize = 512;
const GROUP: u32 = 10;
const MEMBERS: [u32; 2] = [1, 2];

/// A writer in the middle of the lab.
pub struct Raw {
    family: Family,
    count: u32,
    netlink: Netlink,
}

impl Raw {
    /// Prepares it.
    pub fn start(lab: &Lab, family: Family, count: u32) -> Result<Self> {
        lab.middle.enter(|| {
            let path = "/proc/sys/net/ipv4/nexthop_compat_mode";
            fs::write(path, "0").map_err(Error::io(path))?;
            let netlink = Netlink::open()?;
            Ok(Self {
                family,
                count,
                netlink,
            })
        })
    }

    /// Two nexthops, a group and all routes over it.
    pub fn install(&mut self, lab: &Lab) -> Result<Duration> {
        let mut nexthops = Vec::new();
        for (peer, id) in MEMBERS.into_iter().enumerate() {
            let name = Lab::interface(peer);
            let index = lab.middle.enter(|| {
                nix::net::if_::if_nametoindex(name.as_str()).map_err(Error::os(name.clone()))
            })?;
            nexthops.push(put_nexthop(id, Lab::peer_address(self.family, peer), index));
        }
        nexthops.push(put_group(GROUP, &MEMBERS));
        let mut batches = vec![Requests::new(nexthops)];
        let family = self.family;
        batches.extend(self.batches(|prefix| put_route(family, prefix, GROUP)));
        self.send(&batches)
    }

    /// The group has one member less from now on: how long the kernel takes for a group change.
    pub fn change_group(&mut self) -> Result<Duration> {
        let [first, _] = MEMBERS;
        let took = self.send(&[Requests::new([replace_group(GROUP, &[first])])])?;
        self.send(&[Requests::new([replace_group(GROUP, &MEMBERS)])])?;
        Ok(took)
    }

    /// One nexthop goes, and with it a member of the group.
    pub fn delete_nexthop(&mut self) -> Result<Duration> {
        let [_, second] = MEMBERS;
        self.send(&[Requests::new([delete_nexthop(second)])])
    }

    /// All routes go.
    pub fn withdraw(&mut self) -> Result<Duration> {
        let family = self.family;
        let batches = self.batches(|prefix| delete_route(family, prefix));
        let took = self.send(&batches)?;
        // The group first: it would go with the last of its members.
        let rest = [GROUP].into_iter().chain(MEMBERS).map(delete_nexthop);
        self.send(&[Requests::new(rest)])?;
        Ok(took)
    }

    fn batches(&self, request: impl Fn(u32) -> crate::netlink::Request) -> Vec<Requests> {
        let firsts = (0..self.count).step_by(BATCH);
        let last = |first: u32| self.count.min(first + BATCH as u32);
        firsts
            .map(|first| Requests::new((first..last(first)).map(&request)))
            .collect()
    }

    fn send(&mut self, batches: &[Requests]) -> Result<Duration> {
        let began = clock::now();
        for batch in batches {
            self.netlink.request(batch)?;
        }
        Ok(clock::now() - began)
    }
}
