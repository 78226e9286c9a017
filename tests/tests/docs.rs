//! The documentation, held against what it speaks of.

use std::path::Path;

/// A test that a page names is there: `FILE.rs: NAME` in code.
#[test]
fn the_tests_of_the_scenarios_exist() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(workspace.join(path)).unwrap_or_default();
    let page = read("docs/scenarios.md");
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
