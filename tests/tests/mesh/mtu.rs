//! How large a packet a tunnel carries: what `meshctl mtu` reckons, what the agent sets, and what
//! the kernel does.

use std::collections::BTreeMap;

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::program;
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::settle::SETTLE;
use routemesh_tests::lab::topology::Topology;
use serde_json::Value;

use super::{gateway, mesh_up, spec};

/// A proposal, and the algorithms that `ip xfrm` has for it: kind, name, bytes of key, bits of the
/// check value.
type Row = (
    &'static str,
    &'static [(&'static str, &'static str, usize, u32)],
);

/// Every cipher with one integrity algorithm, and every integrity algorithm with one cipher.
const ROWS: &[Row] = &[
    ("aes256gcm16", &[("aead", "rfc4106(gcm(aes))", 36, 128)]),
    ("aes128gcm12", &[("aead", "rfc4106(gcm(aes))", 20, 96)]),
    ("aes192gcm8", &[("aead", "rfc4106(gcm(aes))", 28, 64)]),
    ("aes128ccm16", &[("aead", "rfc4309(ccm(aes))", 19, 128)]),
    ("aes128ccm12", &[("aead", "rfc4309(ccm(aes))", 19, 96)]),
    ("aes256ccm8", &[("aead", "rfc4309(ccm(aes))", 35, 64)]),
    (
        "chacha20poly1305",
        &[("aead", "rfc7539esp(chacha20,poly1305)", 36, 128)],
    ),
    ("aes256-sha256", &[("enc", "cbc(aes)", 32, 0), SHA256]),
    (
        "aes128ctr-sha256",
        &[("enc", "rfc3686(ctr(aes))", 20, 0), SHA256],
    ),
    (
        "camellia256-sha256",
        &[("enc", "cbc(camellia)", 32, 0), SHA256],
    ),
    ("3des-sha256", &[("enc", "cbc(des3_ede)", 24, 0), SHA256]),
    ("aes128-md5", &[AES, ("auth-trunc", "hmac(md5)", 16, 96)]),
    (
        "aes128-md5_128",
        &[AES, ("auth-trunc", "hmac(md5)", 16, 128)],
    ),
    ("aes128-sha1", &[AES, ("auth-trunc", "hmac(sha1)", 20, 96)]),
    (
        "aes128-sha1_160",
        &[AES, ("auth-trunc", "hmac(sha1)", 20, 160)],
    ),
    (
        "aes128-sha256_96",
        &[AES, ("auth-trunc", "hmac(sha256)", 32, 96)],
    ),
    ("aes128-sha256", &[AES, SHA256]),
    (
        "aes128-sha384",
        &[AES, ("auth-trunc", "hmac(sha384)", 48, 192)],
    ),
    (
        "aes128-sha512",
        &[AES, ("auth-trunc", "hmac(sha512)", 64, 256)],
    ),
    (
        "aes128-aesxcbc",
        &[AES, ("auth-trunc", "xcbc(aes)", 16, 96)],
    ),
    (
        "aes128-aescmac",
        &[AES, ("auth-trunc", "cmac(aes)", 16, 96)],
    ),
];
const AES: (&str, &str, usize, u32) = ("enc", "cbc(aes)", 16, 0);
const SHA256: (&str, &str, usize, u32) = ("auth-trunc", "hmac(sha256)", 32, 128);

/// As `meshctl mtu` names them; addresses of the outer packets; what `ip xfrm` adds.
const OUTERS: [(&str, &str, &str, &str); 3] = [
    ("IPv6", "2001:db8:1::1", "2001:db8:1::9", ""),
    ("IPv4", "192.0.2.1", "192.0.2.9", ""),
    (
        "IPv4 in UDP",
        "192.0.2.1",
        "192.0.2.9",
        "encap espinudp 4500 4500 0.0.0.0",
    ),
];

/// Every kind of tunnel that the specification can ask for, by hand: the kernel finds the same MTU
/// as `meshctl mtu` reckons.
#[test]
fn the_kernel_finds_the_mtu_that_is_reckoned() -> Result<()> {
    let lab = Lab::bare("mtu", Topology::pair())?;
    let host = lab.underlay(gateway(1, 1));
    let cases = ROWS.iter().flat_map(|row| OUTERS.map(|outer| (row, outer)));
    let cases: Vec<_> = (1..).zip(cases).collect();
    let mut lines = vec!["address add 192.0.2.1/24 dev eth0".to_owned()];
    for (number, ((_, algorithms), (_, source, destination, encap))) in &cases {
        let algorithms = algorithms.iter().map(|(kind, name, key, bits)| {
            let bits = if *bits > 0 {
                bits.to_string()
            } else {
                String::new()
            };
            format!("{kind} {name} 0x{} {bits}", "5a".repeat(*key))
        });
        let algorithms: Vec<String> = algorithms.collect();
        let ends = format!("src {source} dst {destination} proto esp");
        lines.extend([
            format!("link add x{number} type xfrm dev eth0 if_id {number}"),
            format!("link set x{number} mtu 1500 up"),
            format!("address add 2001:db8:f:{number}::1/64 dev x{number} nodad"),
            format!(
                "xfrm state add {ends} spi {number} reqid {number} mode tunnel if_id {number} {} {encap} sel src ::/0 dst ::/0",
                algorithms.join(" ")
            ),
            format!(
                "xfrm policy add src ::/0 dst ::/0 dir out if_id {number} tmpl {ends} reqid {number} mode tunnel"
            ),
        ]);
    }
    host.ip_batch(&lines)?;

    let proposals: Vec<&str> = ROWS.iter().map(|(proposal, _)| *proposal).collect();
    let meshctl = program("meshctl")?;
    let words = [
        &[meshctl.as_str(), "mtu", "--output", "json"],
        &proposals[..],
    ]
    .concat();
    let sizes: Vec<Value> = serde_json::from_str(&host.run(&words)?)
        .map_err(|error| LabError::Unexpected(format!("meshctl mtu: {error}")))?;
    let reckoned: BTreeMap<(&str, &str), u64> = sizes
        .iter()
        .filter_map(|row| {
            let key = (row["proposal"].as_str()?, row["outer"].as_str()?);
            Some((key, row["mtu"].as_u64()?))
        })
        .collect();

    let mut wrong = Vec::new();
    for (number, ((proposal, _), (outer, ..))) in &cases {
        let target = format!("2001:db8:f:{number}::2");
        // It is too large and comes to nothing: the kernel remembers what would fit.
        let _ = host.run(&["ping", "-c1", "-W1", "-Mdo", "-s1452", &target]);
        let route = host.ip(&["route", "get", &target])?;
        let found = route.first().and_then(|route| {
            let metrics = route["metrics"].as_array()?;
            metrics.first()?["mtu"].as_u64()
        });
        let reckoned = reckoned.get(&(proposal, outer)).copied();
        say(format_args!("{proposal} in {outer}: {found:?}"));
        if found.is_none() || found != reckoned {
            wrong.push(format!(
                "{proposal} in {outer}: {found:?}, and reckoned {reckoned:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    lab.passed()
}

/// The interface of a tunnel has the MTU that its SA leaves of the path, and follows the path.
#[test]
fn a_tunnel_says_itself_what_it_carries() -> Result<()> {
    let lab = Lab::start("tunnel-mtu", Topology::pair())?;
    let mesh = mesh_up(&lab, &two_gateways())?;
    let (a, b) = (gateway(1, 1), gateway(2, 1));
    let interface = lab.tunnels_of(a)[0].interface();
    let mtu = |at, wanted: u64| {
        wait_until(&format!("an MTU of {wanted}"), SETTLE, || {
            let link = lab.overlay(at).ip(&["link", "show", &interface])?;
            match link.first().and_then(|link| link["mtu"].as_u64()) {
                Some(found) if found == wanted => Ok(()),
                found => Err(LabError::Unexpected(format!("{found:?}"))),
            }
        })
    };
    mtu(a, 1426)?;
    mtu(b, 1426)?;
    let edge = mesh.topology()?["edges"][0].clone();
    assert_eq!(edge["a"]["status"]["mtu"], 1426, "{edge}");
    let ping = |size: u32| {
        let size = format!("-s{}", size - 48);
        let words = [
            "ping",
            "-c1",
            "-W2",
            "-Mdo",
            &size,
            "-I2001:db8:a1::1",
            "2001:db8:a2::1",
        ];
        lab.router(1).run(&words)
    };
    wait_until("a packet of 1426 bytes across", SETTLE, || {
        ping(1426).map(drop)
    })?;
    // The gateway says so, and does not leave it to be found out.
    let too_large = ping(1427).unwrap_or_else(|error| error.to_string());
    assert!(too_large.contains("1426"), "{too_large}");

    lab.underlay(a)
        .ip_batch(&["link set eth0 mtu 1400".into()])?;
    mtu(a, 1326)?;
    lab.underlay(a)
        .ip_batch(&["link set eth0 mtu 1500".into()])?;
    mtu(a, 1426)?;
    lab.passed()
}

/// The specification, of the first two sites' first gateways alone.
fn two_gateways() -> String {
    let mut spec: toml::Table = spec().parse().expect("the example");
    let sites = spec["sites"].as_table_mut().expect("sites");
    sites.remove("three");
    for (site, second) in [("one", "V1-2"), ("two", "V2-2")] {
        let gateways = sites[site]["gateways"].as_table_mut();
        gateways.expect("gateways").remove(second);
    }
    spec.to_string()
}
