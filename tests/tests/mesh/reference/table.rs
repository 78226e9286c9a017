//! docs/troubleshooting.md: what stands in its table is run, and has to say what stands beside it.

use routemesh_tests::lab::Lab;
use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::mesh::Mesh;
use routemesh_tests::lab::report::{say, wait_until};
use routemesh_tests::lab::settle::SETTLE;

const PAGE: &str = include_str!("../../../../docs/troubleshooting.md");

/// Where packets are counted.
const MARKED: [&str; 2] = ["V1-1", "V1-1-private"];

/// A command, where it is typed, and pieces of what it says.
#[derive(Debug)]
struct Line<'p> {
    /// A host of the lab; none for `meshctl`.
    host: Option<&'p str>,
    command: &'p str,
    answers: Vec<&'p str>,
}

/// Runs every command of the table.
pub(super) fn holds(lab: &Lab, mesh: &Mesh<'_>) -> Result<()> {
    let lines = lines(PAGE);
    assert!(lines.len() > 15, "{lines:?}");
    for line in &lines {
        say(format_args!(
            "{} {}",
            line.host.unwrap_or("$"),
            line.command
        ));
        wait_until(line.command, SETTLE, || {
            // What fails says why; a ping that is too large fails.
            let said = match line.host {
                None => mesh.meshctl(&line.command.split(' ').collect::<Vec<_>>()),
                Some(host) => on_host(lab, host, line.command),
            };
            let said = said.unwrap_or_else(|error| error.to_string());
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            match line.answers.iter().find(|piece| !said.contains(*piece)) {
                None => Ok(()),
                Some(piece) => Err(LabError::Unexpected(format!("no {piece:?} in {said}"))),
            }
        })?;
    }
    // No packet with a mark says something only where packets were counted.
    for host in MARKED {
        let counts = lab
            .host(host)
            .run(&["nft", "list", "table", "inet", "marks"])?;
        let idle = counts
            .lines()
            .any(|line| line.trim().starts_with("counter packets 0 "));
        assert!(!idle, "{host}: {counts}");
    }
    Ok(())
}

/// With the sockets that daemons have in the lab.
fn on_host(lab: &Lab, host: &str, command: &str) -> Result<String> {
    if let Some(rest) = command.strip_prefix("birdc ") {
        let bird = lab.bird_on(host);
        let bird = bird.ok_or_else(|| LabError::Unexpected(format!("no BIRD on {host}")))?;
        return bird.ask(rest);
    }
    if let Some(rest) = command.strip_prefix("swanctl ") {
        let gateways = lab.topology().gateways().into_iter();
        let gateway = gateways.into_iter().find(|it| it.name() == host);
        let gateway =
            gateway.ok_or_else(|| LabError::Unexpected(format!("no charon on {host}")))?;
        let words: Vec<_> = rest.split(' ').collect();
        return lab.charon(gateway).swanctl(lab.underlay(gateway), &words);
    }
    lab.host(host).run(&["sh", "-c", command])
}

/// Rows of the table: what one wants to know, a command on a host, `meshctl`. A cell's first code is
/// `HOST$ COMMAND` or `meshctl COMMAND`, the others are pieces of the answer.
fn lines(page: &str) -> Vec<Line<'_>> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let cells = rows.flat_map(|row| row.split(" | "));
    cells.filter_map(line).collect()
}

fn line(cell: &str) -> Option<Line<'_>> {
    let mut codes = cell.split('`').skip(1).step_by(2);
    let (first, answers) = (codes.next()?, codes.collect());
    match first.strip_prefix("meshctl ") {
        Some(command) => Some(Line {
            host: None,
            command,
            answers,
        }),
        None => {
            let (host, command) = first.split_once("$ ")?;
            Some(Line {
                host: Some(host),
                command,
                answers,
            })
        }
    }
}

/// As the page says: counts packets that have a mark, and those that have none.
pub(super) fn count_marks(lab: &Lab) -> Result<()> {
    let text = PAGE
        .lines()
        .find_map(|line| line.trim().strip_prefix("nft "));
    let text = text.ok_or_else(|| LabError::Unexpected("no nft line in the page".into()))?;
    let text = text.trim_matches('\'');
    for host in MARKED {
        lab.host(host).run(&["nft", text])?;
    }
    Ok(())
}
