//! Keeps the benchmark from rotting: all of it, once, with few prefixes. Says nothing about speed.

use std::fs;
use std::process::Command;

const MARKS: &str = "<!-- routes -->\n<!-- /routes -->\n";

#[test]
fn every_step_of_every_subject_gives_a_figure() {
    let docs = tempfile::tempdir().expect("a directory");
    fs::write(docs.path().join("bench.md"), MARKS).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--only", "routes", "--n", "1000", "--rounds", "1", "--docs"])
        .arg(docs.path())
        .args(["--subject", "routemesh,bird,raw"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = fs::read_to_string(docs.path().join("bench.tsv")).expect("written");
    let found = lines.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [figure, family, _, subject, median, _] = fields[..] else {
            panic!("{line}");
        };
        assert_ne!(
            median, "-",
            "{figure} {family} {subject}: no figure: {said}"
        );
        format!("{figure} {family} {subject}")
    });
    let found: Vec<String> = found.collect();
    for family in ["IPv4", "IPv6"] {
        for subject in ["Routemesh", "BIRD 2"] {
            for figure in ["install", "memory", "withdraw", "lose a peer"] {
                let row = format!("{figure} {family} {subject}");
                assert!(found.contains(&row), "{row}: {said}");
            }
        }
        for figure in ["install", "withdraw", "lose a peer", "delete a nexthop"] {
            let row = format!("{figure} {family} kernel alone");
            assert!(found.contains(&row), "{row}: {said}");
        }
    }
    let page = fs::read_to_string(docs.path().join("bench.md")).expect("there");
    assert!(page.contains("| install | 1,000 IPv4 |"), "{page}");
}
