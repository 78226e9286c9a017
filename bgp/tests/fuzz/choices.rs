//! Bytes as choices: any bytes make a valid message.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use routemesh_bgp::wire::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is left to choose by. All choices are zero when nothing is.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As many as there are, up to `length`.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.0) {
            *to = *from;
        }
        self.0 = self.0.get(N..).unwrap_or_default();
        array
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn option<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| some(self))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.byte();
        (0..count).map(|_| item(self)).collect()
    }

    /// Each item once.
    fn set<T: Ord>(&mut self, item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let set: BTreeSet<T> = self.list(item).into_iter().collect();
        set.into_iter().collect()
    }

    pub fn context(&mut self) -> Context {
        let [flags, directions] = self.array();
        let flag = |bit: u8| flags & bit != 0;
        let pair = |shift: u8| Directions {
            receive: directions >> shift & 1 != 0,
            send: directions >> shift & 2 != 0,
        };
        Context {
            four_octet_as: flag(1),
            extended_next_hop: flag(2),
            internal: flag(4),
            enhanced_route_refresh: flag(8),
            extended_messages: pair(0),
            add_path: PerFamily {
                ipv4: pair(2),
                ipv6: pair(4),
            },
        }
    }

    /// A message for the peer of such a context.
    pub fn message(&mut self, sender: &Context) -> Message {
        match self.byte() % 8 {
            0 => Message::Open(self.open()),
            1 => {
                let [code, subcode] = self.array();
                Message::Notification(Notification::new(code, subcode, self.rest()))
            }
            2 => Message::Keepalive,
            3 => {
                let refresh = match self.byte() % 3 {
                    1 if sender.enhanced_route_refresh => Refresh::Begin,
                    2 if sender.enhanced_route_refresh => Refresh::End,
                    _ => Refresh::Request,
                };
                Message::RouteRefresh(self.family(), refresh)
            }
            _ => Message::Update(self.update(sender)),
        }
    }

    fn family(&mut self) -> Family {
        match self.flag() {
            true => Family::Ipv6,
            false => Family::Ipv4,
        }
    }

    fn asn(&mut self) -> u32 {
        self.number().max(1)
    }

    fn open(&mut self) -> Open {
        let four_octet_as = self.flag();
        let families = self.list(Self::family).into_iter().collect();
        let hold_time = u16::from_be_bytes(self.array());
        let asn = self.asn();
        Open {
            asn: match four_octet_as {
                true => asn,
                false => asn % 65535 + 1,
            },
            hold_time: if hold_time < 3 { 0 } else { hold_time },
            router_id: self.number().max(1).into(),
            capabilities: Capabilities {
                families,
                extended_next_hop: self.flag(),
                route_refresh: self.flag(),
                four_octet_as,
                graceful_restart: self.option(Self::graceful_restart),
                enhanced_route_refresh: self.flag(),
                extended_messages: self.flag(),
                role: self.option(Self::role),
                add_path: PerFamily {
                    ipv4: self.directions(),
                    ipv6: self.directions(),
                },
                long_lived: PerFamily {
                    ipv4: self.option(Self::long_lived),
                    ipv6: self.option(Self::long_lived),
                },
            },
        }
    }

    fn graceful_restart(&mut self) -> GracefulRestart {
        let kept = [self.option(Self::flag), self.option(Self::flag)];
        let families = [Family::Ipv4, Family::Ipv6].into_iter().zip(kept);
        GracefulRestart {
            restarting: self.flag(),
            notification: self.flag(),
            restart_time: u16::from_be_bytes(self.array()) & 0xfff,
            families: families
                .filter_map(|(family, kept)| Some((family, kept?)))
                .collect(),
        }
    }

    fn role(&mut self) -> Role {
        match self.byte() {
            0 => Role::Provider,
            1 => Role::RouteServer,
            2 => Role::RouteServerClient,
            3 => Role::Customer,
            4 => Role::Peer,
            other => Role::Unassigned(other),
        }
    }

    fn directions(&mut self) -> Directions {
        Directions {
            receive: self.flag(),
            send: self.flag(),
        }
    }

    fn long_lived(&mut self) -> LongLived {
        LongLived {
            forwarding: self.flag(),
            seconds: self.number() >> 8,
        }
    }

    fn update(&mut self, sender: &Context) -> Update {
        let withdrawn = self.list(|it| {
            let family = it.family();
            it.prefix(family, sender)
        });
        // At most one that goes after the attributes, and one in them.
        let plain = self.option(|it| it.reach(Family::Ipv4, false, sender));
        let multiprotocol = self.option(|it| {
            let family = match sender.extended_next_hop {
                true => it.family(),
                false => Family::Ipv6,
            };
            it.reach(family, true, sender)
        });
        let reach = [plain, multiprotocol].into_iter().flatten();
        let reach: Vec<Reach> = reach.filter(|it| !it.prefixes.is_empty()).collect();
        let attributes = match reach.is_empty() {
            true => Attributes::default(),
            false => self.attributes(sender),
        };
        Update {
            withdrawn,
            reach,
            attributes,
            end_of_rib: self.option(Self::family),
        }
    }

    fn reach(&mut self, family: Family, ipv6_next_hop: bool, sender: &Context) -> Reach {
        let next_hop = match ipv6_next_hop {
            true => {
                let address = u128::from_be_bytes(self.array()) >> 1 | 1;
                let link_local = self.option(|it| {
                    let low = u128::from_be_bytes(it.array()) >> 10;
                    Ipv6Addr::from(0xfe80 << 112 | low)
                });
                NextHop {
                    address: IpAddr::V6(address.into()),
                    link_local,
                }
            }
            false => NextHop {
                address: IpAddr::V4(Ipv4Addr::from(self.number() >> 1 | 1)),
                link_local: None,
            },
        };
        Reach {
            next_hop,
            prefixes: self.list(|it| it.prefix(family, sender)),
        }
    }

    fn prefix(&mut self, family: Family, sender: &Context) -> (u32, IpNet) {
        let id = match sender.add_path.of(family).send {
            true => self.number(),
            false => 0,
        };
        let length = self.byte();
        let prefix = match family {
            Family::Ipv4 => {
                let address = self.array::<4>().into();
                IpNet::V4(Ipv4Net::new_assert(address, length % 33))
            }
            Family::Ipv6 => {
                let address = self.array::<16>().into();
                IpNet::V6(Ipv6Net::new_assert(address, length % 129))
            }
        };
        (id, prefix.trunc())
    }

    /// Attributes that fit into one message beside a prefix.
    fn attributes(&mut self, sender: &Context) -> Attributes {
        let internal = sender.internal;
        let large = |it: &mut Self| [it.number(), it.number(), it.number()];
        Attributes {
            origin: match self.byte() % 3 {
                0 => Origin::Igp,
                1 => Origin::Egp,
                _ => Origin::Incomplete,
            },
            as_path: AsPath(self.list(Self::asn)),
            med: self.option(Self::number),
            local_pref: self.option(Self::number).filter(|_| internal),
            atomic_aggregate: self.flag(),
            aggregator: self.option(|it| (it.asn(), it.number().into())),
            communities: first(self.set(Self::number), 50),
            originator_id: self.option(|it| it.number().into()).filter(|_| internal),
            cluster_list: match internal {
                true => first(self.list(|it| it.number().into()), 50),
                false => vec![],
            },
            extended_communities: first(self.set(Self::array), 20),
            large_communities: first(self.set(large), 20),
            only_to_customer: self.option(Self::number),
            unknown: self.unknown(),
        }
    }

    /// At most 400 bytes of it.
    fn unknown(&mut self) -> Vec<UnknownAttribute> {
        let codes: BTreeSet<u8> = (0..self.byte() % 5).map(|_| self.byte()).collect();
        let known = [1..=10, 14..=18, 32..=32, 35..=35];
        let unknown = |code: &u8| !known.iter().any(|known| known.contains(code));
        let codes = codes.into_iter().filter(unknown);
        let attribute = |code| UnknownAttribute {
            code,
            value: first(self.list(Self::byte), 100),
        };
        codes.map(attribute).collect()
    }
}

fn first<T>(mut items: Vec<T>, count: usize) -> Vec<T> {
    items.truncate(count);
    items
}
