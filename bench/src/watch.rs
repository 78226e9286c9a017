//! What the kernel holds of the prefixes of a trial: kept up to date from its notifications, which
//! cost every daemon the same, and checked against a dump when a trial's step is done.

use crate::clock;
use crate::error::{Error, Result};
use crate::lab::Space;
use crate::netlink::{Netlink, News, Received, Way};
use crate::prefix::Family;
use crate::process::wait;
use std::collections::HashMap;
use std::time::Duration;

/// The routes of one family to the first N prefixes.
#[derive(Debug)]
pub struct Routes {
    ways: Vec<Way>,
    /// Routes with so many hops of their own, one and more.
    hops: [u32; 2],
    nexthops: HashMap<u32, Nexthop>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Nexthop {
    members: u16,
    routes: u32,
}

/// How many prefixes have a route by one hop, and by several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// By one hop.
    pub single: u32,
    /// By several: ECMP.
    pub multiple: u32,
}

impl Routes {
    fn new(count: u32) -> Self {
        Self {
            ways: vec![Way::None; count as usize],
            hops: [0; 2],
            nexthops: HashMap::new(),
        }
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Route(prefix, way) => self.set(prefix, |_| way),
            News::RouteGone(prefix, gone) => self.set(prefix, |before| match before {
                Way::Hops(hops) if hops > gone => Way::Hops(hops - gone),
                _ => Way::None,
            }),
            News::Nexthop(id, members) => self.nexthops.entry(id).or_default().members = members,
            News::NexthopGone(id) => {
                // Its routes went with it, each perhaps without a word.
                let gone = self.nexthops.remove(&id).unwrap_or_default();
                if gone.routes > 0 {
                    let over = |way: &&mut Way| **way == Way::Nexthop(id);
                    self.ways
                        .iter_mut()
                        .filter(over)
                        .for_each(|way| *way = Way::None);
                }
            }
        }
    }

    fn set(&mut self, prefix: u32, next: impl FnOnce(Way) -> Way) {
        let Some(place) = self.ways.get_mut(prefix as usize) else {
            return;
        };
        let before = *place;
        let after = next(before);
        *place = after;
        for (way, sign) in [(before, -1), (after, 1)] {
            let counter = match way {
                Way::None => continue,
                Way::Hops(1) => &mut self.hops[0],
                Way::Hops(_) => &mut self.hops[1],
                Way::Nexthop(id) => &mut self.nexthops.entry(id).or_default().routes,
            };
            *counter = counter.saturating_add_signed(sign);
        }
    }

    fn count(&self) -> Count {
        let mut count = Count {
            single: self.hops[0],
            multiple: self.hops[1],
        };
        for nexthop in self.nexthops.values() {
            match nexthop.members {
                0 | 1 => count.single += nexthop.routes,
                _ => count.multiple += nexthop.routes,
            }
        }
        count
    }
}

/// The kernel of one namespace, watched.
pub struct Watch {
    family: Family,
    news: Netlink,
    asks: Netlink,
    routes: Routes,
}

impl Watch {
    /// Begins to watch routes to the first `count` prefixes.
    pub fn start(space: &Space, family: Family, count: u32) -> Result<Self> {
        let (news, asks) = space.enter(|| Ok((Netlink::open()?, Netlink::open()?)))?;
        news.listen(family)?;
        Ok(Self {
            family,
            news,
            asks,
            routes: Routes::new(count),
        })
    }

    /// When the kernel came to hold what is wanted, to within a quarter of a millisecond.
    pub fn until(&mut self, wanted: Count, what: &str, after: Duration) -> Result<Duration> {
        let when = wait(what, after, || {
            self.catch_up()?;
            Ok((self.routes.count() == wanted).then(clock::now))
        });
        when.map_err(|error| match error {
            Error::Timeout { what, after } => {
                let what = format!("{what} (wanted {wanted:?}, now {:?})", self.routes.count());
                Error::Timeout { what, after }
            }
            other => other,
        })
    }

    /// Reads what the kernel told meanwhile.
    pub fn catch_up(&mut self) -> Result<()> {
        loop {
            let learn = |news| self.routes.learn(news);
            match self.news.receive(self.family, false, learn)? {
                Received::Nothing => return Ok(()),
                Received::Lost => {
                    return Err(Error::Wrong("notifications of the kernel were lost".into()));
                }
                _ => {}
            }
        }
    }

    /// What the kernel holds as far as it told.
    pub fn count(&self) -> Count {
        self.routes.count()
    }

    /// Whether a dump says the same as the notifications did.
    pub fn verify(&mut self, wanted: Count) -> Result<()> {
        let mut routes = Routes::new(u32::try_from(self.routes.ways.len()).unwrap_or(u32::MAX));
        self.asks.dump(self.family, |news| routes.learn(news))?;
        let found = routes.count();
        match found == wanted {
            true => Ok(()),
            false => Err(Error::Wrong(format!(
                "the kernel holds {found:?} where {wanted:?} was announced by its notifications"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(routes: &Routes) -> (u32, u32) {
        let Count { single, multiple } = routes.count();
        (single, multiple)
    }

    #[test]
    fn routes_are_counted_by_their_hops() {
        let mut routes = Routes::new(3);
        for prefix in 0..9 {
            routes.learn(News::Route(prefix, Way::Hops(1)));
        }
        assert_eq!(count(&routes), (3, 0));
        routes.learn(News::Route(1, Way::Hops(2)));
        assert_eq!(count(&routes), (2, 1));
        // One hop of two goes, then the other.
        routes.learn(News::RouteGone(1, 1));
        assert_eq!(count(&routes), (3, 0));
        routes.learn(News::RouteGone(1, 1));
        assert_eq!(count(&routes), (2, 0));
        routes.learn(News::RouteGone(0, 2));
        assert_eq!(count(&routes), (1, 0));
    }

    #[test]
    fn routes_follow_their_group() {
        let mut routes = Routes::new(3);
        routes.learn(News::Nexthop(7, 2));
        for prefix in 0..3 {
            routes.learn(News::Route(prefix, Way::Nexthop(7)));
        }
        assert_eq!(count(&routes), (0, 3));
        routes.learn(News::Nexthop(7, 1));
        assert_eq!(count(&routes), (3, 0));
        routes.learn(News::RouteGone(0, u16::MAX));
        assert_eq!(count(&routes), (2, 0));
        routes.learn(News::NexthopGone(7));
        assert_eq!(count(&routes), (0, 0));
        // They can come again.
        routes.learn(News::Nexthop(7, 2));
        routes.learn(News::Route(0, Way::Nexthop(7)));
        assert_eq!(count(&routes), (0, 1));
    }
}
