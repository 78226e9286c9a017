//! Policies against the plainest possible reading of them.

use super::*;
use crate::wire::{AsPath, Family};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::Arc;

const US: u32 = 65000;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn through(ases: &[u32]) -> Attributes {
    Attributes {
        as_path: AsPath(ases.to_vec()),
        ..Attributes::default()
    }
}

/// What a policy makes of a path, in one.
fn outcome(
    policy: &Policy,
    prefix: &IpNet,
    attributes: &Attributes,
) -> Result<(Attributes, Option<u16>), Rejection> {
    match policy.evaluate(prefix, attributes) {
        Verdict::Reject(why) => Err(why),
        Verdict::Accept(matched) => {
            let mut changed = attributes.clone();
            policy.apply(matched, &mut changed, US);
            Ok((changed, policy.weight(matched)))
        }
    }
}

#[test]
fn each_condition_decides_alone() {
    let attributes = Attributes {
        communities: vec![1, 2],
        large_communities: vec![[1, 2, 3]],
        extended_communities: vec![[7; 8]],
        ..through(&[10, 20, 30])
    };
    let only = |change: fn(&mut Conditions)| {
        let mut conditions = Conditions::default();
        change(&mut conditions);
        let term = Term {
            conditions,
            ..Term::default()
        };
        Policy::new(vec![term]).unwrap()
    };
    let table: [(Policy, bool); 20] = [
        (only(|_| {}), true),
        (
            only(|it| it.prefixes = Some(PrefixSet::inside(&[net("10.0.0.0/8")]))),
            true,
        ),
        (
            only(|it| it.prefixes = Some(PrefixSet::inside(&[net("11.0.0.0/8")]))),
            false,
        ),
        (only(|it| it.prefixes = Some(PrefixSet::default())), false),
        (only(|it| it.family = Some(Family::Ipv4)), true),
        (only(|it| it.family = Some(Family::Ipv6)), false),
        (
            only(|it| it.communities = vec![Community::Standard(9), Community::Standard(2)]),
            true,
        ),
        (
            only(|it| it.communities = vec![Community::Standard(9)]),
            false,
        ),
        (
            only(|it| it.communities = vec![Community::Large([1, 2, 3])]),
            true,
        ),
        (
            only(|it| it.communities = vec![Community::Large([1, 2, 4])]),
            false,
        ),
        (
            only(|it| it.communities = vec![Community::Extended([7; 8])]),
            true,
        ),
        (
            only(|it| it.communities = vec![Community::Extended([1; 8])]),
            false,
        ),
        (only(|it| it.origin_as = vec![9, 30]), true),
        (only(|it| it.origin_as = vec![10]), false),
        (only(|it| it.through_as = vec![20]), true),
        (only(|it| it.through_as = vec![21]), false),
        (only(|it| it.neighbour_as = vec![10]), true),
        (only(|it| it.neighbour_as = vec![30]), false),
        (only(|it| it.longest_path = Some(3)), true),
        (only(|it| it.longest_path = Some(2)), false),
    ];
    for (policy, expected) in table {
        let found = outcome(&policy, &net("10.1.0.0/16"), &attributes);
        match expected {
            true => assert_eq!(found, Ok((attributes.clone(), None)), "{policy:?}"),
            false => assert_eq!(found, Err(Rejection::NoTerm), "{policy:?}"),
        }
    }
}

#[test]
fn changes_are_made_in_order_and_only_when_accepted() {
    let change = |changes, then| Term {
        conditions: Conditions::default(),
        changes,
        then,
    };
    let first = Changes {
        preference: Some(200),
        med: Some(Med::Set(u32::MAX - 1)),
        clear_communities: true,
        add_communities: vec![Community::Standard(1), Community::Large([1, 1, 1])],
        weight: Some(3),
        prepend: 1,
        ..Changes::default()
    };
    let second = Changes {
        med: Some(Med::Add(5)),
        remove_communities: vec![Community::Standard(1), Community::Extended([1; 8])],
        add_communities: vec![Community::Standard(2), Community::Standard(2)],
        weight: Some(4),
        prepend: 2,
        ..Changes::default()
    };
    let came = Attributes {
        communities: vec![9],
        large_communities: vec![[9, 9, 9]],
        extended_communities: vec![[1; 8], [2; 8]],
        ..through(&[10])
    };
    let expected = Attributes {
        local_pref: Some(200),
        med: Some(u32::MAX),
        communities: vec![2],
        large_communities: vec![[1, 1, 1]],
        extended_communities: vec![[2; 8]],
        ..through(&[US, US, US, 10])
    };
    let terms = vec![
        change(first.clone(), Then::Next),
        change(second, Then::Accept),
        change(Changes::default(), Then::Reject("not reached".into())),
    ];
    let policy = Policy::new(terms).unwrap();
    let prefix = net("10.0.0.0/24");
    assert_eq!(outcome(&policy, &prefix, &came), Ok((expected, Some(4))));

    let reason: Arc<str> = "too far".into();
    let terms = vec![
        change(first, Then::Next),
        change(Changes::default(), Then::Reject(reason.clone())),
    ];
    let policy = Policy::new(terms).unwrap();
    assert_eq!(
        outcome(&policy, &prefix, &came),
        Err(Rejection::Policy(reason))
    );
}

#[test]
fn no_term_widens_what_is_authorized() {
    let policy = Policy::accept().within(&[net("10.0.0.0/23")]);
    let attributes = Attributes::default();
    for (prefix, expected) in [
        ("10.0.0.0/23", Ok((attributes.clone(), None))),
        ("10.0.1.128/25", Ok((attributes.clone(), None))),
        ("10.0.0.0/22", Err(Rejection::NotAuthorized)),
        ("10.0.2.0/24", Err(Rejection::NotAuthorized)),
        ("::/0", Err(Rejection::NotAuthorized)),
    ] {
        assert_eq!(
            outcome(&policy, &net(prefix), &attributes),
            expected,
            "{prefix}"
        );
    }
    let nothing = Policy::default();
    let found = outcome(&nothing, &net("10.0.0.0/24"), &attributes);
    assert_eq!(found, Err(Rejection::NoTerm));
}

#[test]
fn the_last_of_the_most_terms_counts() {
    let mut terms = vec![
        Term {
            then: Then::Next,
            ..Term::default()
        };
        MAX_TERMS - 1
    ];
    terms.push(Term {
        changes: Changes {
            weight: Some(7),
            ..Changes::default()
        },
        ..Term::default()
    });
    let policy = Policy::new(terms.clone()).unwrap();
    let attributes = Attributes::default();
    let found = outcome(&policy, &net("::/0"), &attributes);
    assert_eq!(found, Ok((attributes, Some(7))));
    terms.push(Term::default());
    assert_eq!(Policy::new(terms), Err(TooManyTerms));
}

// ---- Against a reference ----

fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (0..8_u32, 24..=27_u8).prop_map(|(bits, length)| {
        let address = Ipv4Addr::from(0x0a00_0000 | bits << 5);
        IpNet::new(address.into(), length).unwrap().trunc()
    });
    prop_oneof![v4, Just(net("2001:db8::/32"))]
}

fn community() -> impl Strategy<Value = Community> {
    prop_oneof![
        (0..3_u32).prop_map(Community::Standard),
        (0..2_u32).prop_map(|n| Community::Large([n; 3])),
        (0..2_u8).prop_map(|n| Community::Extended([n; 8])),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let conditions = (
        proptest::option::of(vec((prefix(), 24..=27_u8, 24..=27_u8), 0..3)),
        proptest::option::of(prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]),
        vec(community(), 0..2),
        [
            vec(0..4_u32, 0..2),
            vec(0..4_u32, 0..2),
            vec(0..4_u32, 0..2),
        ],
        proptest::option::of(0..3_usize),
    );
    let conditions = conditions.prop_map(|(ranges, family, communities, ases, longest_path)| {
        let [origin_as, through_as, neighbour_as] = ases;
        let range = |(net, least, most)| PrefixRange::new(net, least, most);
        Conditions {
            prefixes: ranges.map(|ranges| ranges.into_iter().map(range).collect()),
            family,
            communities,
            origin_as,
            through_as,
            neighbour_as,
            longest_path,
        }
    });
    let changes =
        (proptest::option::of(0..3_u32), 0..2_u8).prop_map(|(preference, prepend)| Changes {
            preference,
            prepend,
            ..Changes::default()
        });
    let then = prop_oneof![
        Just(Then::Accept),
        Just(Then::Reject("so".into())),
        Just(Then::Next)
    ];
    (conditions, changes, then).prop_map(|(conditions, changes, then)| Term {
        conditions,
        changes,
        then,
    })
}

fn path() -> impl Strategy<Value = Attributes> {
    (vec(0..4_u32, 0..4), vec(community(), 0..3)).prop_map(|(ases, communities)| {
        let mut attributes = through(&ases);
        for community in communities {
            match community {
                Community::Standard(it) => attributes.communities.push(it),
                Community::Large(it) => attributes.large_communities.push(it),
                Community::Extended(it) => attributes.extended_communities.push(it),
            }
        }
        attributes
    })
}

/// Term after term, as the text of a policy reads.
fn naive(
    terms: &[Term],
    authorized: &[IpNet],
    prefix: &IpNet,
    came: &Attributes,
) -> Result<Attributes, Rejection> {
    if !authorized.iter().any(|it| it.contains(prefix)) {
        return Err(Rejection::NotAuthorized);
    }
    let mut now = came.clone();
    for term in terms {
        let it = &term.conditions;
        let ases = &came.as_path.0;
        let has = |community: &Community| match community {
            Community::Standard(it) => came.communities.contains(it),
            Community::Large(it) => came.large_communities.contains(it),
            Community::Extended(it) => came.extended_communities.contains(it),
        };
        let any = |wanted: &[u32], found: &[u32]| {
            wanted.is_empty() || wanted.iter().any(|asn| found.contains(asn))
        };
        let last = ases.last().map(std::slice::from_ref).unwrap_or_default();
        let first = ases.first().map(std::slice::from_ref).unwrap_or_default();
        let holds = it.prefixes.as_ref().is_none_or(|set| set.holds(prefix))
            && it.family.is_none_or(|family| family == Family::of(prefix))
            && (it.communities.is_empty() || it.communities.iter().any(has))
            && any(&it.origin_as, last)
            && any(&it.neighbour_as, first)
            && any(&it.through_as, ases)
            && it.longest_path.is_none_or(|most| ases.len() <= most);
        if !holds {
            continue;
        }
        if let Some(preference) = term.changes.preference {
            now.local_pref = Some(preference);
        }
        for _ in 0..term.changes.prepend {
            now.as_path.0.insert(0, US);
        }
        match &term.then {
            Then::Accept => return Ok(now),
            Then::Reject(reason) => return Err(Rejection::Policy(reason.clone())),
            Then::Next => {}
        }
    }
    Err(Rejection::NoTerm)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn evaluation_agrees_with_reading_term_after_term(
        terms in vec(term(), 0..6),
        authorized in vec(prefix(), 1..4),
        prefixes in vec(prefix(), 1..6),
        came in path(),
    ) {
        let policy = Policy::new(terms.clone()).unwrap().within(&authorized);
        // One judge serves all prefixes of an UPDATE.
        let judge = policy.on(&came);
        for prefix in &prefixes {
            let expected = naive(&terms, &authorized, prefix, &came);
            let found = outcome(&policy, prefix, &came).map(|(changed, _)| changed);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(judge.judge(prefix), policy.evaluate(prefix, &came));
        }
    }
}
