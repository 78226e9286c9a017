//! Sets of prefixes with ranges of lengths.

use ipnet::IpNet;

/// A prefix and how long the prefixes inside it may be: `10.0.0.0/8 ge 16 le 24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixRange {
    net: IpNet,
    at_least: u8,
    at_most: u8,
}

impl PrefixRange {
    /// The prefix itself.
    pub fn exactly(net: IpNet) -> Self {
        Self::new(net, net.prefix_len(), net.prefix_len())
    }

    /// The prefix and all that is inside it.
    pub fn inside(net: IpNet) -> Self {
        Self::new(net, net.prefix_len(), net.max_prefix_len())
    }

    /// What is equal to or inside the prefix and of a length from `at_least` to `at_most`.
    pub fn new(net: IpNet, at_least: u8, at_most: u8) -> Self {
        Self {
            net: net.trunc(),
            at_least,
            at_most,
        }
    }

    fn holds(&self, prefix: &IpNet) -> bool {
        (self.at_least..=self.at_most).contains(&prefix.prefix_len()) && self.net.contains(prefix)
    }
}

/// A set of [`PrefixRange`]s, asked whether one of them holds a prefix.
///
/// Sorted, and every member knows the nearest one that covers it. Whatever covers a prefix is its
/// predecessor or covers that: a binary search and a short climb, however long the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet(Vec<Member>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    range: PrefixRange,
    /// The next one to ask.
    outer: Option<usize>,
}

impl PrefixSet {
    /// All prefixes that are equal to or inside one of these.
    pub fn inside(nets: &[IpNet]) -> Self {
        nets.iter().map(|net| PrefixRange::inside(*net)).collect()
    }

    /// Whether a member holds `prefix`.
    pub fn holds(&self, prefix: &IpNet) -> bool {
        let after = self.0.partition_point(|it| it.range.net <= *prefix);
        let mut next = after.checked_sub(1);
        while let Some(member) = next.and_then(|at| self.0.get(at)) {
            if member.range.holds(prefix) {
                return true;
            }
            next = member.outer;
        }
        false
    }

    /// Whether no prefix is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<PrefixRange> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = PrefixRange>>(ranges: I) -> Self {
        let mut ranges: Vec<PrefixRange> = ranges.into_iter().collect();
        ranges.sort();
        ranges.dedup();
        let mut members: Vec<Member> = Vec::with_capacity(ranges.len());
        for range in ranges {
            // A covering prefix sorts before what it covers.
            let mut outer = members.len().checked_sub(1);
            while let Some((at, member)) = outer.and_then(|at| Some((at, members.get(at)?))) {
                if member.range.net.contains(&range.net) {
                    outer = Some(at);
                    break;
                }
                outer = member.outer;
            }
            members.push(Member { range, outer });
        }
        Self(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn inside(texts: &[&str]) -> PrefixSet {
        PrefixSet::inside(&texts.iter().map(|text| net(text)).collect::<Vec<_>>())
    }

    #[test]
    fn a_prefix_is_inside_when_it_is_equal_to_or_inside_a_member() {
        let allowed = inside(&[
            "10.0.1.0/24",
            "10.0.0.0/30",
            "2001:db8:a1::/64",
            "10.0.1.128/25",
        ]);
        let table = [
            ("10.0.1.0/24", true),
            ("10.0.1.0/25", true),
            ("10.0.1.128/25", true),
            ("10.0.1.255/32", true),
            ("10.0.0.0/16", false),
            ("10.0.0.0/24", false),
            ("10.0.0.0/30", true),
            ("10.0.0.4/32", false),
            ("10.0.2.0/24", false),
            ("0.0.0.0/0", false),
            ("9.255.255.255/32", false),
            ("2001:db8:a1::/64", true),
            ("2001:db8:a1::1/128", true),
            ("2001:db8:a1::/48", false),
            ("2001:db8:a2::/64", false),
            ("::/0", false),
        ];
        for (prefix, expected) in table {
            assert_eq!(allowed.holds(&net(prefix)), expected, "{prefix}");
        }
        // Neighbours do not add up to what nobody listed.
        let halves = inside(&["10.0.0.0/25", "10.0.0.128/25"]);
        assert!(!halves.holds(&net("10.0.0.0/24")));
        assert!(!inside(&[]).holds(&net("10.0.0.0/24")));
        let all = inside(&["0.0.0.0/0"]);
        assert!(all.holds(&net("0.0.0.0/0")) && all.holds(&net("10.0.0.0/24")));
        assert!(!all.holds(&net("::/0")));
        // Host bits in the list are of no account.
        assert!(inside(&["10.0.1.7/24"]).holds(&net("10.0.1.0/24")));
    }

    #[test]
    fn lengths_have_their_limits() {
        let set = PrefixSet::from_iter([
            PrefixRange::new(net("10.0.0.0/8"), 16, 24),
            PrefixRange::exactly(net("10.9.0.0/16")),
            PrefixRange::exactly(net("10.9.9.9/32")),
        ]);
        let table = [
            ("10.0.0.0/8", false),
            ("10.128.0.0/15", false),
            ("10.0.0.0/16", true),
            ("10.9.0.0/16", true),
            ("10.9.9.0/24", true),
            ("10.9.9.8/31", false),
            ("10.9.9.9/32", true),
            ("11.0.0.0/16", false),
        ];
        for (prefix, expected) in table {
            assert_eq!(set.holds(&net(prefix)), expected, "{prefix}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(2000))]

        /// Few addresses and many lengths, so that members nest and repeat.
        #[test]
        fn the_set_agrees_with_looking_at_every_member(
            members in proptest::collection::vec((0..64_u32, 22..=32_u8, 22..=32_u8, 22..=32_u8), 0..20),
            asked in (0..64_u32, 22..=32_u8),
        ) {
            let net = |bits: u32, length: u8| {
                let address = Ipv4Addr::from(0x0a00_0000 | bits << 4);
                IpNet::new(address.into(), length).unwrap().trunc()
            };
            let ranges = members.into_iter().map(|(bits, length, ge, le)| PrefixRange::new(net(bits, length), ge, le));
            let ranges: Vec<PrefixRange> = ranges.collect();
            let asked = net(asked.0, asked.1);
            let length = asked.prefix_len();
            let expected = ranges.iter().any(|range| {
                range.net.contains(&asked) && range.at_least <= length && length <= range.at_most
            });
            proptest::prop_assert_eq!(ranges.into_iter().collect::<PrefixSet>().holds(&asked), expected);
        }
    }
}
