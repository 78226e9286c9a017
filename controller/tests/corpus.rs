//! Replays what the fuzz targets of `fuzz/` have found worth keeping, and takes all examples for input.

#![allow(clippy::unwrap_used)]

mod fuzz;

use std::fs;
use std::path::Path;

fn inputs(dir: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir);
    let files = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    let files = files.filter(|it| it.extension().is_none_or(|it| it == "toml"));
    let read = |path: std::path::PathBuf| {
        println!("{}", path.display());
        fs::read(path).unwrap()
    };
    files.map(read).collect()
}

#[test]
fn specs() {
    let examples = inputs("examples");
    let rendered: usize = examples.iter().map(|it| fuzz::spec(it).len()).sum();
    assert!(rendered > 20, "only {rendered} configs");
    let found = inputs("fuzz/corpus/spec");
    assert!(found.len() >= 20, "only {} inputs", found.len());
    for input in found {
        fuzz::spec(&input);
    }
}

#[test]
fn messages() {
    let found = inputs("fuzz/corpus/messages");
    assert!(found.len() >= 20, "only {} inputs", found.len());
    found.iter().for_each(|it| fuzz::messages(it));
}
