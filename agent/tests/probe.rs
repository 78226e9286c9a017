//! A link that drops large packets without a word is found, and how large they may be.

mod space;

use routemesh_agent::netns::Netns;
use routemesh_agent::probe::{Probe, Target, Targets, whole};
use space::{Space, run};
use std::time::Duration;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);
const MTU: u32 = 1500;

/// Two namespaces at the ends of a veth.
fn spaces() -> [Space; 2] {
    let spaces = [Space::new(), Space::new()];
    let [one, two] = &spaces;
    one.ip(&format!(
        "link add rm1 type veth peer name rm1 netns {}",
        two.0
    ));
    for (n, space) in (1..).zip(&spaces) {
        space.ip(&format!("addr add fd00:1::{n}/64 dev rm1 nodad"));
        space.ip("link set rm1 up");
    }
    spaces
}

fn nft(space: &Space, text: &str) {
    run("ip", &["netns", "exec", &space.0, "nft", text]);
}

fn targets(mtu: u32) -> Targets {
    let address = |text: &str| text.parse().expect("an address");
    let ends = [address("fd00:1::1"), address("fd00:1::2")];
    [("rm1".to_owned(), Target { ends, mtu })].into()
}

/// Wants them looked at, and waits until this many bytes are found to pass, or all.
async fn found(probe: &Probe, mtu: u32, passes: Option<u32>) {
    let mut changes = probe.changes();
    probe.want(targets(mtu));
    let expected = passes.map(|passes| (mtu, passes));
    let holds = changes.wait_for(|holes| holes.get("rm1").copied() == expected);
    let holds = timeout(DEADLINE, holds).await.map(|it| it.is_ok());
    assert_eq!(
        holds,
        Ok(true),
        "not {expected:?}: {:?}",
        probe.changes().borrow()
    );
}

#[tokio::test]
async fn a_hole_is_found_either_way_and_goes_with_its_cause() {
    let [one, two] = spaces();
    let probe = Probe::start(Netns::named(&one.0).expect("a namespace"));
    let drops = "add table ip6 t; add chain ip6 t c { type filter hook prerouting priority 0; }; \
                 add rule ip6 t c meta length > 1400 drop";
    nft(&two, drops);
    found(&probe, MTU, Some(1400)).await;
    let problems = probe.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].object, "mtu of rm1");
    assert!(
        problems[0].reason.contains("more than 1400 bytes"),
        "{}",
        problems[0].reason
    );
    nft(&two, "flush ruleset");
    // On the way back.
    nft(&one, &drops.replace("1400", "1300"));
    found(&probe, MTU - 1, Some(1300)).await;
    nft(&one, "flush ruleset");
    found(&probe, MTU, None).await;
}

#[tokio::test]
async fn whoever_asks_learns_now_whether_a_full_size_packet_comes_back() {
    let [one, two] = spaces();
    let overlay = Netns::named(&one.0).expect("a namespace");
    let target = targets(MTU).remove("rm1").expect("a target");
    assert_eq!(whole(&overlay, "rm1", &target).await, Some(true));
    let drops = "add table ip6 t; add chain ip6 t c { type filter hook prerouting priority 0; }; \
                 add rule ip6 t c meta length > 1499 drop";
    nft(&two, drops);
    assert_eq!(whole(&overlay, "rm1", &target).await, Some(false));
    assert_eq!(whole(&overlay, "rm2", &target).await, None);
}
