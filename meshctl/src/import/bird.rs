//! bird.conf, of BIRD 1.6 and 2: as far as it says who speaks BGP with whom.

use super::{Bird, Neighbour, Notes, Torn};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Blocks may be in blocks so deep.
const DEEPEST: usize = 32;

/// A statement: its words up to the semicolon, and the statements of its block.
#[derive(Clone, Debug, Default, PartialEq)]
struct Statement {
    line: usize,
    words: Vec<String>,
    block: Vec<Statement>,
}

impl Statement {
    fn word(&self, at: usize) -> &str {
        self.words.get(at).map(String::as_str).unwrap_or_default()
    }

    /// The word after this one.
    fn after(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|it| it == word)?;
        self.words.get(at + 1).map(String::as_str)
    }
}

pub(super) fn read(text: &str, notes: &mut Notes) -> Result<Bird, Torn> {
    let statements = parse(text)?;
    let numbers: BTreeMap<&str, &str> = statements
        .iter()
        .filter(|it| it.word(0) == "define" && it.word(2) == "=")
        .map(|it| (it.word(1), it.word(3)))
        .collect();
    let templates: BTreeMap<&str, &Statement> = statements
        .iter()
        .filter(|it| it.word(0) == "template" && it.word(1) == "bgp")
        .map(|it| (it.word(2), it))
        .collect();
    let mut bird = Bird::default();
    for statement in &statements {
        match (statement.word(0), statement.word(1)) {
            ("protocol", "bgp") => {
                let template = statement.after("from").and_then(|name| templates.get(name));
                let mut neighbour = Neighbour {
                    file: notes.file.to_owned(),
                    line: statement.line,
                    name: statement.word(2).to_owned(),
                    ..Neighbour::default()
                };
                for line in template.iter().flat_map(|it| &it.block).chain(&statement.block) {
                    take(line, &numbers, &mut neighbour);
                }
                bird.asn = bird.asn.or(neighbour.local_as);
                bird.neighbours.push(neighbour);
            }
            ("protocol", "ospf" | "rip" | "babel" | "static") => bird.others = true,
            ("include", file) => {
                notes.add(statement.line, format!("{file} is not read: give the file itself"));
            }
            ("protocol", kind @ ("pipe" | "l3vpn" | "mrt" | "bmp" | "rpki")) => {
                notes.add(statement.line, format!("protocol {kind} has no place in a mesh"));
            }
            ("filter" | "function", name) => notes.add(
                statement.line,
                format!("filter {name} is not carried over: what a site owns decides what it may announce, and routers' terms are in docs/policy.md"),
            ),
            _ => {}
        }
    }
    Ok(bird)
}

fn take(line: &Statement, numbers: &BTreeMap<&str, &str>, neighbour: &mut Neighbour) {
    let number = |text: &str| {
        let text = numbers.get(text).copied().unwrap_or(text);
        text.parse::<u32>().ok()
    };
    let address = |text: &str| -> Option<(IpAddr, Option<String>)> {
        let (address, interface) = match text.split_once('%') {
            Some((address, interface)) => (
                address,
                Some(interface.trim_matches(['\'', '"']).to_owned()),
            ),
            None => (text, None),
        };
        Some((address.parse().ok()?, interface))
    };
    match line.word(0) {
        "local" | "source" => {
            neighbour.local = line
                .words
                .iter()
                .find_map(|word| address(word))
                .map(|(it, _)| it)
                .or(neighbour.local);
            neighbour.local_as = line.after("as").and_then(number).or(neighbour.local_as);
        }
        "neighbor" => {
            if let Some((found, interface)) =
                line.words.iter().skip(1).find_map(|word| address(word))
            {
                neighbour.address = Some(found);
                neighbour.interface = interface.or(neighbour.interface.take());
            }
            neighbour.asn = line.after("as").and_then(number).or(neighbour.asn);
            if line.words.iter().any(|word| word == "internal") {
                neighbour.asn = neighbour.local_as;
            }
        }
        "interface" => neighbour.interface = Some(line.word(1).to_owned()),
        "password" => neighbour.password = true,
        "import" | "export" => neighbour.filtered |= line.word(1) != "all",
        "ipv4" | "ipv6" => line
            .block
            .iter()
            .for_each(|line| take(line, numbers, neighbour)),
        _ => {}
    }
}

fn parse(text: &str) -> Result<Vec<Statement>, Torn> {
    let torn = |line: usize, reason: &str| Torn {
        line,
        reason: reason.to_owned(),
    };
    let mut open: Vec<Statement> = vec![Statement::default()];
    let mut now = Statement::default();
    for (line, word) in tokens(text) {
        match word {
            ";" => end(&mut open, &mut now),
            "{" => {
                if open.len() > DEEPEST {
                    return Err(torn(line, "blocks are too deep"));
                }
                open.push(std::mem::take(&mut now));
            }
            "}" => {
                end(&mut open, &mut now);
                let Some(block) = open.pop().filter(|_| !open.is_empty()) else {
                    return Err(torn(line, "this brace closes nothing"));
                };
                // A block needs no semicolon behind it.
                if let Some(parent) = open.last_mut() {
                    parent.block.push(block);
                }
            }
            word => {
                if now.words.is_empty() {
                    now.line = line;
                }
                now.words.push(word.trim_matches('"').to_owned());
            }
        }
    }
    end(&mut open, &mut now);
    match (open.pop(), open.is_empty()) {
        (Some(root), true) => Ok(root.block),
        (Some(block), false) => Err(torn(block.line, "this block is not closed")),
        (None, _) => Ok(Vec::new()),
    }
}

fn end(open: &mut [Statement], now: &mut Statement) {
    let statement = std::mem::take(now);
    if let Some(block) = open.last_mut().filter(|_| !statement.words.is_empty()) {
        block.block.push(statement);
    }
}

/// Words, strings and the marks that hold statements together, with their lines.
fn tokens(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        loop {
            let blank = rest.len() - rest.trim_start().len();
            let (blank, after) = rest.split_at(blank);
            line += blank.matches('\n').count();
            rest = after;
            let length = if rest.starts_with('#') {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |end| end + 2)
            } else {
                break;
            };
            line += rest[..length].matches('\n').count();
            rest = &rest[length..];
        }
        let first = rest.chars().next()?;
        let length = match first {
            ';' | '{' | '}' => 1,
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            _ => rest
                .find(|c: char| c.is_whitespace() || matches!(c, ';' | '{' | '}' | '#' | '"'))
                .unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        let at = line;
        line += word.matches('\n').count();
        Some((at, word))
    })
}
