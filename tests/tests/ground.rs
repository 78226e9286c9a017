//! The ground that the mesh stands on, without any program of ours: the lab's network, its
//! routers, charon, XFRM interfaces in the overlay, ESP on the public side. If this fails, the
//! mesh tests need no look.

use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::probe::Probe;
use routemesh_tests::lab::report::{measured, say, wait_until};
use routemesh_tests::lab::sniff::{Kind, Sniffer, in_clear};
use routemesh_tests::lab::topology::{Gateway, PUBLIC, Topology};
use routemesh_tests::lab::{FORWARDING, Lab};

/// One connection by hand, as a foreigner would make it.
fn connection(local: Gateway, remote: Gateway) -> String {
    format!(
        "connections {{ hand {{\n version = 2\n proposals = aes256gcm16-prfsha384-ecp384\n\
         local_addrs = {l}\n remote_addrs = {r}\n\
         local {{ auth = psk\n id = {l} }}\n remote {{ auth = psk\n id = {r} }}\n\
         children {{ hand {{ local_ts = ::/0,0.0.0.0/0\n remote_ts = ::/0,0.0.0.0/0\n\
         esp_proposals = aes256gcm16-ecp384\n if_id_in = 7\n if_id_out = 7 }} }} }} }}\n\
         secrets {{ ike-hand {{ secret = \"correct horse\" }} }}\n",
        l = local.public(),
        r = remote.public()
    )
}

#[test]
fn two_gateways_by_hand() -> Result<()> {
    let lab = Lab::start("ground", Topology::pair())?;
    let gateways = lab.topology().gateways();
    let (a, b) = (gateways[0], gateways[1]);
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;

    for (local, remote, address) in [(a, b, "2001:db8:ff::"), (b, a, "2001:db8:ff::1")] {
        let (underlay, overlay) = (lab.underlay(local), lab.overlay(local));
        let file = underlay.dir().join("hand.conf");
        std::fs::write(&file, connection(local, remote)).map_err(LabError::io("write"))?;
        underlay.ip_batch(&[
            "link add hand type xfrm dev eth0 if_id 7".into(),
            format!("link set hand netns {}", local.overlay()),
        ])?;
        overlay.sysctl(&FORWARDING)?;
        let other = if local == a { 2 } else { 1 };
        overlay.ip_batch(&[
            "link set hand mtu 1500 up".into(),
            format!("address add {address}/127 dev hand nodad"),
            format!("route add 2001:db8:a{other}::/64 dev hand"),
        ])?;
        let own = if local == a { 1 } else { 2 };
        overlay.ip_batch(&[format!(
            "route add 2001:db8:a{own}::/64 via fd00:{own}::254"
        )])?;
        lab.router(own).ip_batch(&[format!(
            "route add 2001:db8:a{other}::/64 via fd00:{own}::1"
        )])?;
        say("swanctl --load-all");
        lab.charon(local).swanctl(
            underlay,
            &["--load-all", "--file", &file.display().to_string()],
        )?;
    }
    say("initiate");
    lab.charon(a).swanctl(
        lab.underlay(a),
        &["--initiate", "--child", "hand", "--timeout", "20"],
    )?;
    say("ping across");
    wait_until("a ping through the tunnel", Duration::from_secs(20), || {
        let ping = [
            "ping",
            "-c1",
            "-W1",
            "-I",
            "2001:db8:a1::1",
            "2001:db8:a2::1",
        ];
        lab.router(1).run(&ping).map(drop)
    })?;
    let probe = Probe::start(
        (lab.router(1), "2001:db8:a1::1"),
        (lab.router(2), "2001:db8:a2::1"),
        8,
        400,
    )?;
    std::thread::sleep(Duration::from_secs(5));
    let report = probe.stop()?;
    measured("hand-made tunnel", &report);
    assert_eq!(report.lost, 0);
    assert!(report.sent > 1500, "{report}");

    let counts = sniffer.stop()?;
    say(format_args!("{counts:?}"));
    assert!(counts[&Kind::Esp] >= report.sent);
    assert!(counts[&Kind::Ike] >= 4);
    assert_eq!(in_clear(&counts), 0, "{counts:?}");
    lab.passed()
}

/// The capture's positive control: what is sent in clear is seen.
#[test]
fn a_datagram_in_clear_is_seen() -> Result<()> {
    let lab = Lab::bare("clear", Topology::pair())?;
    let gateways = lab.topology().gateways();
    let (a, b) = (gateways[0], gateways[1]);
    let sniffer = Sniffer::start(lab.host(PUBLIC))?;
    let (from, to) = (a.public(), b.public());
    let probe = Probe::start((lab.underlay(a), &from), (lab.underlay(b), &to), 2, 20)?;
    std::thread::sleep(Duration::from_secs(1));
    let sent = probe.stop()?.sent;
    let counts = sniffer.stop()?;
    assert_eq!(in_clear(&counts), sent, "{counts:?}");
    lab.passed()
}
