//! Replays what the fuzz targets of `fuzz/` have found worth keeping.

mod fuzz;

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files = std::fs::read_dir(folder.join(target)).expect("a corpus");
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        body(&std::fs::read(path).expect("an input"));
        count += 1;
    }
    assert!(count >= 20, "only {count} inputs");
}

#[test]
fn decode() {
    replay("decode", fuzz::decode);
}

#[test]
fn round_trip() {
    replay("round_trip", fuzz::round_trip);
}

#[test]
fn session() {
    replay("session", fuzz::session);
}
