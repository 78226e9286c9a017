//! A page of the documentation, as commands to be carried out word by word.

use crate::shell::Shell;
use std::fs;
use std::path::Path;

/// The blocks of a page that nobody has carried out yet.
pub struct Page {
    name: &'static str,
    blocks: Vec<Vec<String>>,
}

/// What ends otherwise than with 0, and why that is as it should be.
const ENDS: [(&str, &[i32], &str); 6] = [
    (
        "mesh-agent preflight",
        &[0, 1],
        "the kernel may have no ESP",
    ),
    ("meshctl doctor", &[0, 2], "no tunnel is up"),
    ("meshctl topology", &[0, 2], "no tunnel is up"),
    ("meshctl plan", &[2], "there is something to change"),
    ("meshctl diff", &[2], "there is a difference"),
    ("journalctl", &[0, 1], "nothing may have been said"),
];

/// What is not done, and why.
const SKIPPED: [(&str, &str); 1] = [("reboot", "such a machine does not come back")];

impl Page {
    /// Reads a page of `docs/`.
    pub fn read(name: &'static str) -> Self {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let text = fs::read_to_string(docs.join(name)).expect("a page");
        let text = text.replace("\\\n", " ");
        // A line of text ends a block, an empty one does not.
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let runs = lines.chunk_by(|a, b| a.starts_with("    ") == b.starts_with("    "));
        let blocks = runs.filter(|run| run[0].starts_with("    "));
        let blocks = blocks.map(|run| run.iter().map(|line| line.trim().to_owned()).collect());
        let blocks = blocks.collect();
        Self { name, blocks }
    }

    /// Carries out the next block that begins so, every line of it, with what is given for its words. Returns
    /// what was said.
    pub fn block(&mut self, begins: &str, shell: &mut Shell, given: &[(&str, &str)]) -> String {
        let at = self
            .blocks
            .iter()
            .position(|block| block[0].starts_with(begins));
        let at = at.unwrap_or_else(|| panic!("{}: no block begins with {begins:?}", self.name));
        let mut all = String::new();
        for line in self.blocks.remove(at) {
            let line = given
                .iter()
                .fold(line, |line, (word, by)| line.replace(word, by));
            if SKIPPED.iter().any(|(skipped, _)| line == *skipped) {
                continue;
            }
            let (status, said) = shell.run(&line);
            let ends = ENDS.iter().find(|(begins, ..)| line.starts_with(begins));
            let ends = ends.map_or(&[0][..], |(_, ends, _)| ends);
            assert!(
                ends.contains(&status),
                "{}: {line}: {status}\n{said}",
                self.name
            );
            all += &said;
        }
        all
    }

    /// The first lines of the blocks that were not carried out.
    pub fn rest(&self) -> Vec<&str> {
        self.blocks.iter().map(|block| block[0].as_str()).collect()
    }
}
