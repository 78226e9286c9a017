//! The documentation, held against what it speaks of.

use routemesh_tests::lab::mesh::program;
use std::path::Path;
use std::process::Command;

/// A test that a page names is there: `FILE.rs: NAME` in code.
#[test]
fn the_tests_that_pages_name_exist() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(workspace.join(path)).unwrap_or_default();
    let page = read("docs/scenarios.md") + &read("docs/coexistence.md");
    let codes = page.split('`').skip(1).step_by(2);
    let named: Vec<(&str, &str)> = codes.filter_map(|code| code.split_once(".rs: ")).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing = named.iter().filter(|(file, name)| {
        let text = read(&format!("{file}.rs"));
        let function = format!("fn {name}() ");
        !text.split("#[").any(|item| {
            let test = item.starts_with("test]") || item.starts_with("tokio::test");
            test && item.contains(&function)
        })
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&(&str, &str)>::new());
}

const PROGRAMS: [&str; 3] = ["meshctl", "mesh-agent", "mesh-controller"];

/// The command lines of our programs in a page: lines of its blocks, and code within its text.
fn commands(page: &str) -> Vec<Vec<String>> {
    let blocks = page
        .lines()
        .filter(|line| line.starts_with("    ") || line.starts_with("$ "));
    let within = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| !code.contains('\n'));
    blocks.chain(within).filter_map(command).collect()
}

/// A line's words from our program on, as far as a shell gives them to it.
fn command(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches(['$', '#']).trim_start();
    let mut words = line.split_whitespace().skip_while(|word| {
        let (name, _) = word.split_once('=').unwrap_or((word, ""));
        let set = word.contains('=') && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        set || ["sudo", "ip", "netns", "exec"].contains(word)
    });
    let program = words.next().filter(|word| PROGRAMS.contains(word))?;
    let rest = words.take_while(|word| {
        !["#", "|", ">", ">>", "&&", "||", "2>", "…", "...", "\\"].contains(word)
    });
    let rest = rest.map(|word| {
        word.trim_matches(['\'', '"', ',', ';', '[', ']'])
            .to_owned()
    });
    Some([program.to_owned()].into_iter().chain(rest).collect())
}

/// No page shows a command or an option that is not there: the programs read the whole line, and are asked for help at
/// its end.
#[test]
fn the_programs_know_every_command_of_the_pages() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(workspace.join("docs")).expect("docs");
    let pages = docs.map(|entry| entry.expect("an entry").path());
    let pages = pages.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut seen = 0;
    let mut unknown = String::new();
    for page in pages.chain([workspace.join("README.md")]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for words in commands(&text) {
            let [name, rest @ ..] = words.as_slice() else {
                continue;
            };
            let program = program(name).expect("`cargo build --release --bins` made it");
            let help = ["--help"]
                .iter()
                .filter(|_| rest.first().is_none_or(|it| it != "help"));
            let said = Command::new(program).args(rest).args(help).output();
            let said = said.expect("it runs");
            seen += 1;
            let error = String::from_utf8_lossy(&said.stderr);
            // Text names an option often without what it takes.
            if !said.status.success() && !error.contains("a value is required for") {
                let reason = error.lines().next().unwrap_or_default();
                unknown += &format!("{}: {}: {reason}\n", page.display(), words.join(" "));
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert_eq!(unknown, "");
}

#[test]
fn a_command_is_found_however_it_is_written() {
    let of = |line| command(line).map(|words| words.join(" "));
    assert_eq!(
        of("    $ sudo meshctl topology | less").as_deref(),
        Some("meshctl topology")
    );
    assert_eq!(
        of("MESHCTL_IDENTITY=a meshctl get gateways   # all").as_deref(),
        Some("meshctl get gateways")
    );
    assert_eq!(of("meshctl"), Some("meshctl".to_owned()));
    assert_eq!(of("see meshctl topology"), None);
}
