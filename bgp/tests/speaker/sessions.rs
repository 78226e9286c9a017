//! How sessions come up and go down.

use crate::network::*;
use routemesh_bgp::PeerState;

#[test]
fn two_speakers_meet_and_exchange_both_families() {
    for ebgp in [false, true] {
        let mut network = Network::mesh(&["A", "B"], ebgp);
        network.run(seconds(5.0));
        for (name, peer, prefixes) in [("A", "B", prefixes_of(2)), ("B", "A", prefixes_of(1))] {
            assert_eq!(network.state(name, peer), PeerState::Established);
            let routes: Vec<_> = network.speaker(name).loc_rib().map(|it| it.0).collect();
            assert_eq!(routes, Vec::from_iter(prefixes));
            assert!(network.speaker(name).settled(network.now));
        }
        assert_eq!(network.connections("A", "B"), 1);
    }
}
