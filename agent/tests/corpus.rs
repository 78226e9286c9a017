//! Replays what the fuzz target of `fuzz/` has found worth keeping, and takes every rendered example for input.

#![allow(clippy::unwrap_used)]

mod fuzz;

use std::fs;
use std::path::Path;

#[test]
fn configs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for example in fs::read_dir(root.join("tests/golden")).unwrap() {
        for file in fs::read_dir(example.unwrap().path()).unwrap() {
            let text = fs::read(file.unwrap().path()).unwrap();
            fuzz::config(&[&[2][..], &text].concat());
            count += 1;
        }
    }
    for file in fs::read_dir(root.join("fuzz/corpus/config")).unwrap() {
        let path = file.unwrap().path();
        println!("{}", path.display());
        fuzz::config(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count >= 50, "only {count} inputs");
}
