//! `mesh-agent preflight` on the kernel that there is, without a charon.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn says_what_this_host_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
        .args(["preflight", "--vici"])
        .arg(dir.path().join("charon.vici"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    // There is no charon, whatever the kernel.
    assert_eq!(output.status.code(), Some(1));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(said.contains(kernel.trim()));
    assert!(said.contains("strongSwan  does not answer"));
    assert!(said.contains("\nfails  strongSwan: "));
    // What the tests of the kernel run on as well.
    let has = said
        .lines()
        .find(|line| line.starts_with("  has  "))
        .unwrap();
    for ability in ["nexthop objects", "resilient nexthop groups", "nftables"] {
        assert!(has.contains(ability), "{ability}");
    }
    // Asked another way, the kernel gives the same answer.
    let mut link = Command::new("unshare");
    link.args([
        "-n", "ip", "link", "add", "try", "type", "xfrm", "if_id", "1",
    ]);
    let can = link.output().unwrap().status.success();
    assert_eq!(has.contains("XFRM interfaces"), can);
    assert_eq!(said.contains("\nfails  XFRM interfaces: "), !can);
}
