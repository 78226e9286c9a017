//! Every example, rendered for every gateway; every bad specification, with its errors.
//!
//! `RENEW_GOLDEN=1 cargo test -p routemesh-controller --test golden` writes them anew: read the
//! difference before it is committed.

#![allow(clippy::unwrap_used)]

use routemesh_controller::ids::{self, Ids};
use routemesh_controller::mesh::Mesh;
use routemesh_controller::render::render;
use routemesh_controller::spec;
use routemesh_proto::{PublicKey, Secret};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

fn files(dir: &Path, extension: &str) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeMap::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    wanted
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (stem, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// Compares with the files of `dir`, or replaces them.
fn golden(dir: &Path, extension: &str, now: &BTreeMap<String, String>) {
    let kept = files(dir, extension);
    if std::env::var_os("RENEW_GOLDEN").is_none() {
        for (name, text) in now {
            let kept = kept.get(name).map(String::as_str);
            assert_eq!(
                kept,
                Some(text.as_str()),
                "{}/{name}.{extension}",
                dir.display()
            );
        }
        assert_eq!(
            kept.len(),
            now.len(),
            "{} has more than it should",
            dir.display()
        );
        return;
    }
    fs::create_dir_all(dir).unwrap();
    for name in kept.keys() {
        fs::remove_file(dir.join(format!("{name}.{extension}"))).unwrap();
    }
    for (name, text) in now {
        fs::write(dir.join(format!("{name}.{extension}")), text).unwrap();
    }
}

#[test]
fn examples_render_as_before() {
    for (example, text) in files(&workspace().join("examples"), "toml") {
        let spec = spec::parse(&format!("{example}.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
        // Those of a site's second gateways have not come yet.
        let names = spec
            .gateways()
            .map(|(_, gateway)| gateway.name.value.clone());
        let first = names.filter(|name| !name.ends_with("-2"));
        let key = |name: String| {
            let mut bytes = [b'='; 32];
            bytes
                .iter_mut()
                .zip(name.bytes())
                .for_each(|(to, from)| *to = from);
            (name, PublicKey::from(bytes))
        };
        let keys = first.map(key).collect();
        let ids = ids::assign(&Ids::default(), &spec).unwrap();
        let mut mesh = Mesh::new(1, text.into(), spec, ids);
        mesh.keys = keys;
        let rendered = mesh.spec.gateways().map(|(_, gateway)| {
            let mut config = render(&mesh, &gateway.name).unwrap();
            for (router, written) in config.routers.iter_mut().zip(&gateway.routers) {
                let password = written.password.as_ref().map_or("", Secret::expose);
                assert_eq!(router.password, password);
                // Golden files hold no secret, not even an example's.
                if !password.is_empty() {
                    router.password = "(secret)".to_owned();
                }
            }
            let foreign = config.tunnels.iter_mut();
            for foreign in foreign.filter_map(|tunnel| tunnel.foreign.as_mut()) {
                assert!(mesh.text.expose().contains(&foreign.psk));
                foreign.psk = "(secret)".to_owned();
            }
            (
                gateway.name.value.clone(),
                toml::to_string(&config).unwrap(),
            )
        });
        golden(
            &workspace().join("tests/golden").join(&example),
            "toml",
            &rendered.collect(),
        );
    }
}

#[test]
fn the_examples_of_the_documentation_are_among_the_examples() {
    let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap();
    let page = read("docs/policy.md");
    let (_, fenced) = page.split_once("```toml\n").unwrap();
    let (example, _) = fenced.split_once("```").unwrap();
    assert!(example.contains("import = [") && example.contains("export = ["));
    assert!(
        read("examples/lan-policy.toml").contains(example),
        "{example}"
    );
    let indented = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("    {line}\n"),
    };
    let example = read("examples/first-mesh.toml");
    let example: String = example.lines().map(indented).collect();
    assert!(read("docs/first-mesh.md").contains(&example), "{example}");
}

#[test]
fn bad_specifications_are_refused_as_before() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let refused = files(&dir, "toml").into_iter().map(|(name, text)| {
        let file = format!("{name}.toml");
        let errors = match spec::parse(&file, &text) {
            Err(errors) => errors,
            Ok(spec) => match ids::assign(&Ids::default(), &spec) {
                Err(errors) => spec::SpecErrors::new(&file, errors),
                Ok(_) => panic!("{file} is not bad"),
            },
        };
        (name, format!("{errors}\n"))
    });
    golden(&dir, "err", &refused.collect());
}

/// What `meshctl import` drafts is a specification, but for prefixes that no file of the old mesh says.
#[test]
fn drafts_are_specifications() {
    let drafts = files(&workspace().join("meshctl/tests/import"), "toml");
    assert!(drafts.len() >= 3);
    for (name, text) in drafts {
        let mut site = 0;
        let mut owned = |line: &str| match line {
            "prefixes = []" => {
                site += 1;
                format!("prefixes = [\"2001:db8:a{site}::/64\"]\n")
            }
            line => line.replace("psk_file", "psk") + "\n",
        };
        let text: String = text.lines().map(&mut owned).collect();
        spec::parse(&format!("{name}.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
    }
}
