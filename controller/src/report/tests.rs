use super::*;
use proptest::prelude::*;
use routemesh_proto::{BgpStatus, Path, status_diff};

fn tunnels() -> impl Strategy<Value = Vec<TunnelStatus>> {
    let tunnel = (prop::bool::weighted(0.9), "up|down", 0u32..3);
    // More than are kept beside the packed ones, now and then.
    let count = prop_oneof![4 => 0usize..6, 1 => 60usize..90];
    (count, 0u32..5).prop_flat_map(move |(count, first)| {
        let tunnels = proptest::collection::vec(tunnel.clone(), count);
        tunnels.prop_map(move |tunnels| {
            let numbered = (first..).zip(tunnels).filter(|(_, (there, ..))| *there);
            numbered
                .map(|(number, (_, ike, accepted))| TunnelStatus {
                    number,
                    ike,
                    interface: "up".to_owned(),
                    bgp: (accepted > 0).then(|| BgpStatus {
                        state: "Established".to_owned(),
                        accepted,
                        ..BgpStatus::default()
                    }),
                    ..TunnelStatus::default()
                })
                .collect()
        })
    })
}

fn status() -> impl Strategy<Value = Status> {
    let routes = proptest::collection::btree_map("10\\.[0-5]\\.0\\.0/16", "A|B", 0..4);
    (1u64..3, tunnels(), routes).prop_map(|(generation, tunnels, routes)| Status {
        generation,
        tunnels,
        routes: routes
            .into_iter()
            .map(|(prefix, via)| Route {
                prefix,
                paths: vec![Path {
                    via,
                    ..Path::default()
                }],
            })
            .collect(),
        ..Status::default()
    })
}

fn sorted(kept: &Kept) -> Status {
    let (mut tunnels, mut routes) = (kept.tunnels(), kept.routes());
    tunnels.sort_by_key(|it| it.number);
    routes.sort_by(|a, b| a.prefix.cmp(&b.prefix));
    Status {
        tunnels,
        routes,
        ..kept.head().clone()
    }
}

proptest! {
    #[test]
    fn changes_lead_to_what_a_whole_report_says(all in proptest::collection::vec(status(), 1..6)) {
        let mut kept = Kept::new(all[0].clone());
        for pair in all.windows(2) {
            prop_assert!(kept.change(status_diff(&pair[0], &pair[1])));
            let stored = Kept::from_octets(&kept.to_octets()).unwrap();
            for kept in [&kept, &stored] {
                prop_assert_eq!(&sorted(kept), &pair[1]);
                for number in 0..100 {
                    let mut tunnels = pair[1].tunnels.iter();
                    let found = tunnels.find(|it| it.number == number);
                    prop_assert_eq!(kept.look(number), found.map(Look::of));
                }
            }
        }
    }

    #[test]
    fn damage_breaks_nothing(status in status(), at in any::<prop::sample::Index>(), octet: u8) {
        let mut octets = Kept::new(status).to_octets();
        let at = at.index(octets.len());
        octets[at] = octet;
        if let Some(kept) = Kept::from_octets(&octets) {
            let _ = (kept.tunnels(), kept.routes());
        }
    }
}

/// Numbers and prefixes are the gateway's to say, change by change.
#[test]
fn a_report_does_not_grow_without_end() {
    let numbered = |numbers: std::ops::Range<u32>| StatusChange {
        // The worst order for a list that is sorted.
        tunnels: (numbers.rev())
            .map(|number| TunnelStatus {
                number,
                ..TunnelStatus::default()
            })
            .collect(),
        ..StatusChange::default()
    };
    let mut kept = Kept::new(Status::default());
    assert!(kept.change(numbered(0..60_000)));
    assert_eq!(kept.look(59_999), Some(Look::Unwell));
    assert!(!kept.change(numbered(60_000..80_000)));
    assert!(!Kept::new(Status::default()).change(StatusChange {
        removed_tunnels: vec![0; MOST + 1],
        ..StatusChange::default()
    }));
    // Few, and each of them large.
    let mut kept = Kept::new(Status::default());
    let mut routes = (0..40).map(|number| StatusChange {
        routes: vec![Route {
            prefix: format!("{number}{}", "x".repeat(1 << 20)),
            ..Route::default()
        }],
        ..StatusChange::default()
    });
    assert!(kept.change(routes.next().unwrap()));
    assert!(routes.any(|change| !kept.change(change)));
}
