//! The terms of a router's policy, as the config has them.

use super::{ConfigError, Fields};
use routemesh_bgp::Policy;
use routemesh_bgp::policy::{
    Changes, Community, Conditions, MAX_TERMS, Med, PrefixRange, Term, Then,
};
use routemesh_bgp::wire::Family;
use routemesh_proto as proto;

/// A policy of these terms; of one that accepts everything where there are none.
pub(super) fn policy(
    fields: &Fields,
    field: &'static str,
    raw: &[proto::Term],
) -> Result<Policy, ConfigError> {
    if raw.is_empty() {
        return Ok(Policy::accept());
    }
    let terms = raw.iter().enumerate().map(|(at, raw)| {
        let number = at + 1;
        let object = format!("{}, {field} term {number}", fields.object);
        term(&Fields { object: &object }, field, number, raw)
    });
    let terms = terms.collect::<Result<Vec<Term>, ConfigError>>()?;
    let count = terms.len().to_string();
    Policy::new(terms).map_err(|_| {
        const { assert!(MAX_TERMS == 64) };
        fields.wrong(field, &count, "at most 64 terms")
    })
}

fn term(
    fields: &Fields,
    direction: &str,
    number: usize,
    raw: &proto::Term,
) -> Result<Term, ConfigError> {
    Ok(Term {
        conditions: conditions(fields, raw)?,
        changes: changes(fields, raw)?,
        then: match raw.action.as_str() {
            "accept" => Then::Accept,
            "next" => Then::Next,
            "reject" if raw.reason.is_empty() => {
                Then::Reject(format!("{direction} term {number} rejects it").into())
            }
            "reject" => Then::Reject(raw.reason.as_str().into()),
            other => return Err(fields.wrong("action", other, "accept, reject or next")),
        },
    })
}

fn conditions(fields: &Fields, raw: &proto::Term) -> Result<Conditions, ConfigError> {
    let range = |text: &String| {
        let expected = "a prefix with bounds of its length";
        let range: proto::PrefixRange = fields.parse("prefixes", text, expected)?;
        Ok(PrefixRange::new(range.net, range.at_least, range.at_most))
    };
    let ranges: Result<Vec<_>, _> = raw.prefixes.iter().map(range).collect();
    let ranges = ranges?;
    Ok(Conditions {
        prefixes: (!ranges.is_empty()).then(|| ranges.into_iter().collect()),
        family: match raw.family.as_str() {
            "" => None,
            "ipv4" => Some(Family::Ipv4),
            "ipv6" => Some(Family::Ipv6),
            other => return Err(fields.wrong("family", other, "ipv4 or ipv6")),
        },
        communities: communities(fields, "communities", &raw.communities)?,
        origin_as: raw.origin_as.clone(),
        through_as: raw.through_as.clone(),
        neighbour_as: raw.neighbour_as.clone(),
        longest_path: raw
            .longest_path
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
    })
}

fn changes(fields: &Fields, raw: &proto::Term) -> Result<Changes, ConfigError> {
    let med = match (raw.set_med, raw.add_med) {
        (Some(_), Some(more)) => {
            return Err(fields.wrong("add_med", &more.to_string(), "there beside set_med"));
        }
        (Some(med), None) => Some(Med::Set(med)),
        (None, Some(more)) => Some(Med::Add(more)),
        (None, None) => None,
    };
    let weight: u16 = at_most(fields, "set_weight", raw.set_weight, 256, "at most 256")?;
    Ok(Changes {
        preference: raw.set_preference,
        med,
        clear_communities: raw.clear_communities,
        remove_communities: communities(fields, "remove_communities", &raw.remove_communities)?,
        add_communities: communities(fields, "add_communities", &raw.add_communities)?,
        weight: Some(weight).filter(|weight| *weight > 0),
        prepend: at_most(fields, "prepend", raw.prepend, 16, "at most 16")?,
    })
}

fn at_most<T: TryFrom<u32>>(
    fields: &Fields,
    field: &'static str,
    value: u32,
    most: u32,
    expected: &'static str,
) -> Result<T, ConfigError> {
    let narrow = T::try_from(value).ok().filter(|_| value <= most);
    narrow.ok_or_else(|| fields.wrong(field, &value.to_string(), expected))
}

fn communities(
    fields: &Fields,
    field: &'static str,
    texts: &[String],
) -> Result<Vec<Community>, ConfigError> {
    let community = |text: &String| {
        let community: proto::Community = fields.parse(field, text, "a community")?;
        Ok(match community {
            proto::Community::Standard(it) => Community::Standard(it),
            proto::Community::Large(it) => Community::Large(it),
            proto::Community::Extended(it) => Community::Extended(it),
        })
    };
    texts.iter().map(community).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use routemesh_bgp::Rejection;
    use routemesh_bgp::policy::Verdict;
    use routemesh_bgp::wire::Attributes;

    const FIELDS: Fields = Fields { object: "router r" };

    fn accept() -> proto::Term {
        proto::Term {
            action: "accept".into(),
            ..proto::Term::default()
        }
    }

    #[test]
    fn what_is_written_is_what_is_done() {
        let terms = [
            proto::Term {
                prefixes: vec!["10.0.0.0/8 ge 16 le 24".into()],
                family: "ipv4".into(),
                communities: vec!["65000:1".into()],
                origin_as: vec![3],
                through_as: vec![2],
                neighbour_as: vec![1],
                longest_path: Some(3),
                set_preference: Some(200),
                add_med: Some(5),
                clear_communities: true,
                remove_communities: vec!["target:1:1".into()],
                add_communities: vec!["65000:1:2".into(), "no-export".into()],
                set_weight: 256,
                prepend: 2,
                ..accept()
            },
            proto::Term {
                family: "ipv6".into(),
                action: "reject".into(),
                ..proto::Term::default()
            },
            proto::Term {
                action: "reject".into(),
                reason: "not today".into(),
                ..proto::Term::default()
            },
        ];
        let policy = policy(&FIELDS, "import", &terms).unwrap();
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let came = Attributes {
            as_path: routemesh_bgp::wire::AsPath(vec![1, 2, 3]),
            communities: vec![65000 << 16 | 1],
            extended_communities: vec![[0, 2, 0, 1, 0, 0, 0, 1]],
            ..Attributes::default()
        };
        let Verdict::Accept(matched) = policy.evaluate(&net("10.1.0.0/16"), &came) else {
            panic!("rejected");
        };
        let mut changed = came.clone();
        policy.apply(matched, &mut changed, 9);
        let expected = Attributes {
            as_path: routemesh_bgp::wire::AsPath(vec![9, 9, 1, 2, 3]),
            local_pref: Some(200),
            med: Some(5),
            communities: vec![0xffff_ff01],
            large_communities: vec![[65000, 1, 2]],
            ..Attributes::default()
        };
        assert_eq!((changed, policy.weight(matched)), (expected, Some(256)));
        let rejected = |prefix| match policy.evaluate(&net(prefix), &came) {
            Verdict::Reject(Rejection::Policy(reason)) => reason.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rejected("2001:db8::/32"), "import term 2 rejects it");
        assert_eq!(rejected("10.0.0.0/8"), "not today");
    }

    #[test]
    fn without_terms_everything_passes() {
        assert_eq!(policy(&FIELDS, "import", &[]), Ok(Policy::accept()));
    }

    #[test]
    fn a_term_that_cannot_be_is_named() {
        type Spoil = fn(&mut proto::Term);
        let cases: [(Spoil, &str); 9] = [
            (|it| it.action = String::new(), "action is \"\""),
            (|it| it.action = "drop".into(), "action is \"drop\""),
            (|it| it.prefixes = vec!["x".into()], "prefixes is \"x\""),
            (|it| it.family = "ipv5".into(), "family is \"ipv5\""),
            (|it| it.communities = vec!["1".into()], "communities is"),
            (
                |it| it.add_communities = vec!["1".into()],
                "add_communities is",
            ),
            (|it| it.set_weight = 257, "set_weight is \"257\""),
            (|it| it.prepend = 17, "prepend is \"17\""),
            (
                |it| (it.set_med, it.add_med) = (Some(1), Some(2)),
                "add_med is \"2\"",
            ),
        ];
        for (spoil, expected) in cases {
            let mut bad = accept();
            spoil(&mut bad);
            let error = policy(&FIELDS, "export", &[accept(), bad]).unwrap_err();
            let expected = format!("router r, export term 2: {expected}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        let error = policy(&FIELDS, "export", &vec![accept(); 65]).unwrap_err();
        assert!(error.to_string().contains("at most 64 terms"), "{error}");
    }
}
