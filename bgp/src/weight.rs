//! The members of an ECMP set and their shares of the traffic, as pure functions.

use crate::wire::Attributes;

/// The largest weight of a member: that of a kernel's nexthop group.
pub const MAX_WEIGHT: u16 = 256;

/// Bytes per second in the link bandwidth community of a path (draft-ietf-idr-link-bandwidth), of
/// either kind, transitive or not. The least one where there are several; nothing that is not a
/// positive number counts.
pub fn link_bandwidth(attributes: &Attributes) -> Option<f32> {
    let communities = attributes.extended_communities.iter();
    let bandwidths = communities.filter_map(|community| match *community {
        [0x00 | 0x40, 0x04, _, _, a, b, c, d] => Some(f32::from_be_bytes([a, b, c, d])),
        _ => None,
    });
    bandwidths
        .filter(|it| it.is_finite() && *it > 0.0)
        .min_by(f32::total_cmp)
}

/// The weights of the paths of a set, given what policy and link bandwidth say of each.
///
/// Policy counts where it gives every path a weight; otherwise bandwidth, where every path has one;
/// otherwise all are equal. Weights are from 1 to 256, and without a common divisor.
pub fn weights(paths: &[(Option<u16>, Option<f32>)]) -> Vec<u16> {
    let by_policy: Option<Vec<u16>> = paths.iter().map(|path| path.0).collect();
    let by_bandwidth: Option<Vec<f32>> = paths.iter().map(|path| path.1).collect();
    let weights = match (by_policy, by_bandwidth) {
        (Some(weights), _) => weights
            .iter()
            .map(|it| (*it).clamp(1, MAX_WEIGHT))
            .collect(),
        (None, Some(bandwidths)) => scaled(&bandwidths),
        (None, None) => vec![1; paths.len()],
    };
    reduced(weights)
}

/// In proportion: exactly where small whole numbers can say it, as 3 to 1; otherwise with the largest
/// becoming [`MAX_WEIGHT`]. Nobody gets nothing.
fn scaled(bandwidths: &[f32]) -> Vec<u16> {
    if let Some(exact) = exact(bandwidths) {
        return exact;
    }
    let most = bandwidths.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let share = |bandwidth: &f32| {
        let share = f64::from(*bandwidth) / f64::from(most) * f64::from(MAX_WEIGHT);
        // A conversion that cannot fail: a value out of range becomes the nearest one.
        (share.round() as u16).clamp(1, MAX_WEIGHT)
    };
    bandwidths.iter().map(share).collect()
}

/// Whole numbers of bytes, by what they have in common.
fn exact(bandwidths: &[f32]) -> Option<Vec<u16>> {
    // Beyond this no number has an odd part of its own any more.
    let whole = |it: &f32| (it.fract() == 0.0 && *it < 1e18).then_some(*it as u64);
    let whole: Option<Vec<u64>> = bandwidths.iter().map(whole).collect();
    let whole = whole?;
    let divisor = whole.iter().copied().fold(0, gcd).max(1);
    let share = |it: &u64| u16::try_from(it / divisor).ok();
    let shares: Option<Vec<u16>> = whole.iter().map(share).collect();
    shares.filter(|it| it.iter().all(|share| (1..=MAX_WEIGHT).contains(share)))
}

/// Equal sets look equal: 100 and 50 are 2 and 1, whatever they count.
fn reduced(mut weights: Vec<u16>) -> Vec<u16> {
    // No larger than the least of them.
    let divisor = weights.iter().map(|it| u64::from(*it)).fold(0, gcd).max(1) as u16;
    weights.iter_mut().for_each(|weight| *weight /= divisor);
    weights
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn community(kind: u8, subtype: u8, bandwidth: f32) -> [u8; 8] {
        let [a, b, c, d] = bandwidth.to_be_bytes();
        [kind, subtype, 0xfd, 0xe8, a, b, c, d]
    }

    fn with(extended_communities: &[[u8; 8]]) -> Attributes {
        Attributes {
            extended_communities: extended_communities.to_vec(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_least_positive_bandwidth_is_found() {
        let table = [
            (vec![], None),
            (vec![community(0x40, 4, 1250.0)], Some(1250.0)),
            (vec![community(0x00, 4, 1250.0)], Some(1250.0)),
            // A route target, and another type's fourth subtype.
            (
                vec![community(0x00, 2, 1250.0), community(0x01, 4, 1.0)],
                None,
            ),
            (
                vec![community(0x40, 4, 9.0), community(0x40, 4, 8.0)],
                Some(8.0),
            ),
            (
                vec![
                    community(0x40, 4, f32::NAN),
                    community(0x40, 4, f32::INFINITY),
                    community(0x40, 4, 0.0),
                    community(0x40, 4, -1.0),
                ],
                None,
            ),
        ];
        for (communities, expected) in table {
            assert_eq!(
                link_bandwidth(&with(&communities)),
                expected,
                "{communities:?}"
            );
        }
    }

    type Said = (Option<u16>, Option<f32>);

    #[test]
    fn everybody_must_have_one() {
        let table: [(&[Said], &[u16]); 12] = [
            (&[], &[]),
            (&[(None, Some(5.0))], &[1]),
            (&[(None, Some(100.0)), (None, Some(50.0))], &[2, 1]),
            (&[(None, Some(100.0)), (None, None)], &[1, 1]),
            // Small whole numbers come out as they are: 3 and 1 Gbit/s, and 10, 2.5 and 1.
            (&[(None, Some(3.75e8)), (None, Some(1.25e8))], &[3, 1]),
            (
                &[
                    (None, Some(1.25e9)),
                    (None, Some(3.125e8)),
                    (None, Some(1.25e8)),
                ],
                &[20, 5, 2],
            ),
            (&[(None, Some(0.5)), (None, Some(0.25))], &[2, 1]),
            (&[(Some(3), None), (Some(1), None)], &[3, 1]),
            (&[(Some(6), Some(1.0)), (Some(4), Some(9.0))], &[3, 2]),
            (&[(Some(6), Some(1.0)), (None, Some(2.0))], &[1, 2]),
            (&[(Some(0), None), (Some(1000), None)], &[1, 256]),
            // 10 Gbit/s beside 1 Mbit/s still lets a little through.
            (&[(None, Some(1.25e9)), (None, Some(1.25e5))], &[256, 1]),
        ];
        for (paths, expected) in table {
            assert_eq!(weights(paths), expected, "{paths:?}");
        }
    }

    proptest! {
        #[test]
        fn shares_are_in_proportion(bandwidths in vec(prop_oneof![1e-30_f32..3e38, 1e6_f32..1e9], 1..20)) {
            let paths: Vec<_> = bandwidths.iter().map(|it| (None, Some(*it))).collect();
            let found = weights(&paths);
            prop_assert_eq!(&found, &weights(&paths));
            prop_assert!(found.iter().all(|it| (1..=MAX_WEIGHT).contains(it)));
            let most = bandwidths.iter().copied().fold(0.0, f32::max);
            let largest = *found.iter().max().unwrap();
            for (bandwidth, weight) in bandwidths.iter().zip(&found) {
                let wanted = f64::from(*bandwidth) / f64::from(most);
                let got = f64::from(*weight) / f64::from(largest);
                // Half a step of rounding; who would get nothing gets one step.
                let bound = if wanted < 0.5 / 256.0 { 1.0 / 256.0 } else { 0.5 / 256.0 };
                prop_assert!((wanted - got).abs() <= bound + 1e-9, "{wanted} became {got}");
            }
        }
    }
}
