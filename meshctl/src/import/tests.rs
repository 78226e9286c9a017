use super::words::{Selector, number, seconds, selector, time};
use super::*;

fn source(kind: Kind, file: &str, text: &str) -> Source {
    Source {
        kind,
        host: None,
        file: file.to_owned(),
        text: text.to_owned(),
    }
}

fn drafted(kind: Kind, files: &[(&str, &str)]) -> Draft {
    let sources: Vec<Source> = files
        .iter()
        .map(|(file, text)| source(kind, file, text))
        .collect();
    import(&sources).unwrap()
}

fn told(draft: &Draft) -> Vec<String> {
    let notes = draft.notes.iter();
    notes
        .map(|it| format!("{}:{}: {}", it.file, it.line, it.text))
        .collect()
}

#[test]
fn times_and_numbers_of_strongswan() {
    let times = [
        ("28800s", Some(28800)),
        ("8h", Some(28800)),
        ("90", Some(90)),
        ("1d", Some(86400)),
        ("x", None),
        ("", None),
    ];
    for (text, value) in times {
        assert_eq!(seconds(text), value, "{text}");
    }
    assert_eq!(seconds("99999999999999999d"), None);
    for (value, text) in [
        (28800, "8h"),
        (90, "90s"),
        (60, "1m"),
        (86400, "1d"),
        (0, "0s"),
    ] {
        assert_eq!(time(value), text);
    }
    for (text, value) in [
        ("42", Some(42)),
        ("0x2a", Some(42)),
        ("5/0xffffffff", Some(5)),
        ("%unique", None),
    ] {
        assert_eq!(number(text), value, "{text}");
    }
}

#[test]
fn selectors_are_prefixes_or_everything() {
    assert_eq!(selector("0.0.0.0/0"), Selector::Everything);
    assert_eq!(
        selector("10.0.1.7/24"),
        Selector::Net("10.0.1.0/24".parse().unwrap())
    );
    assert_eq!(
        selector("2001:db8::1"),
        Selector::Net("2001:db8::1/128".parse().unwrap())
    );
    assert_eq!(selector("dynamic"), Selector::Own);
    assert_eq!(selector("10.0.0.0/8[tcp/80]"), Selector::Strange);
}

/// A connection between two hosts, as one of them has it.
fn connection(own: &str, far: &str, rest: &str) -> String {
    format!(
        "connections {{ x {{ local_addrs = {own}\n remote_addrs = {far}\n{rest}\n children {{ c {{ local_ts = 10.0.{}.0/24\n remote_ts = 10.0.{}.0/24\n }} }} }} }}",
        own.rsplit('.').next().unwrap(),
        far.rsplit('.').next().unwrap()
    )
}

#[test]
fn two_hosts_are_two_sites_of_a_mesh() {
    let (a, b) = (
        connection("192.0.2.1", "192.0.2.2", ""),
        connection("192.0.2.2", "192.0.2.1", ""),
    );
    let draft = drafted(
        Kind::Swanctl,
        &[("paris/swanctl.conf", &a), ("oslo/swanctl.conf", &b)],
    );
    assert!(
        draft
            .text
            .contains("[sites.paris]\nprefixes = [\"10.0.1.0/24\"]"),
        "{}",
        draft.text
    );
    assert!(
        draft
            .text
            .contains("[sites.oslo.gateways.oslo]\nendpoints = [\"192.0.2.2\"]"),
        "{}",
        draft.text
    );
    assert!(!draft.text.contains("foreign"), "{}", draft.text);
    assert_eq!(told(&draft), [] as [&str; 0]);
}

#[test]
fn options_that_differ_between_pairs_stay_with_them() {
    let with = |own: &str, far: &str, time: &str| {
        connection(
            own,
            far,
            &format!("rekey_time = {time}\n proposals = aes128-sha256-x25519"),
        )
    };
    let host = |connections: &[String]| connections.join("\n");
    let a = host(&[
        with("192.0.2.1", "192.0.2.2", "1h"),
        with("192.0.2.1", "192.0.2.3", "2h"),
    ]);
    let b = host(&[with("192.0.2.2", "192.0.2.1", "1h")]);
    let c = host(&[with("192.0.2.3", "192.0.2.1", "7200s")]);
    let draft = drafted(Kind::Swanctl, &[("a/f", &a), ("b/f", &b), ("c/f", &c)]);
    let expected = "[mesh.ike]\nproposals = [\"aes128-sha256-x25519\"]\n";
    assert!(draft.text.contains(expected), "{}", draft.text);
    let expected = "[[tunnels]]\nbetween = [\"a\", \"c\"]\nike.rekey_time = \"2h\"\n";
    assert!(draft.text.contains(expected), "{}", draft.text);
}

#[test]
fn what_has_no_place_is_told_with_its_line() {
    let text = connection(
        "192.0.2.1",
        "192.0.2.2",
        "vips = 0.0.0.0\n version = 1\n over_time = 1h",
    );
    let draft = drafted(Kind::Swanctl, &[("a/swanctl.conf", &text)]);
    let told = told(&draft);
    assert!(
        told.contains(&"a/swanctl.conf:3: vips = 0.0.0.0 is not carried over".to_owned()),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|it| it.starts_with("a/swanctl.conf:4: IKEv1")),
        "{told:?}"
    );
    assert!(!told.iter().any(|it| it.contains("over_time")), "{told:?}");
}

#[test]
fn a_tunnel_with_bgp_has_its_addresses() {
    let text = "connections { aws { local_addrs = 192.0.2.1\n remote_addrs = 198.51.100.1\n children { c { if_id_in = 7\n \
        if_id_out = 7\n local_ts = 0.0.0.0/0\n remote_ts = 0.0.0.0/0\n } } } }";
    let bird = "define US = 65010; protocol bgp { local 169.254.10.2 as US; neighbor 169.254.10.1 as 64512; interface \"xfrm7\"; \
        ipv4 { import all; }; }\nprotocol bgp lan { local as US; neighbor 10.0.1.254 as 65011; password \"x\"; }";
    let draft = import(&[
        source(Kind::Swanctl, "a/s", text),
        source(Kind::Bird, "a/b", bird),
    ])
    .unwrap();
    assert!(draft.text.contains("as = 64512\n"), "{}", draft.text);
    assert!(
        draft.text.contains("inside = \"169.254.10.2/30\""),
        "{}",
        draft.text
    );
    assert!(
        draft
            .text
            .contains("routers = [\n    { address = \"10.0.1.254\", as = 65011 },\n]"),
        "{}",
        draft.text
    );
    assert!(told(&draft).contains(
        &"a/b:2: the password of lan is not carried over: write it into the draft".to_owned()
    ));
    assert!(!draft.text.contains("\"x\""));
}

#[test]
fn torn_files_are_refused_with_their_line() {
    let torn = [
        (
            Kind::Swanctl,
            "connections {\n x {\n",
            "f:2: section x is not closed",
        ),
        (
            Kind::Swanctl,
            "a = 1\n}\n",
            "f:2: this brace closes nothing",
        ),
        (
            Kind::Swanctl,
            "connections\nnonsense\n",
            "f:1: \"connections\" is neither a value (KEY = VALUE) nor a section (NAME { … })",
        ),
        (
            Kind::Ipsec,
            "conn a\n  left\n",
            "f:2: \"left\" is not KEY = VALUE",
        ),
        (
            Kind::Ipsec,
            "con a\n",
            "f:1: \"con\" is no section: conn, config, ca or include",
        ),
        (
            Kind::Bird,
            "protocol bgp {\n",
            "f:1: this block is not closed",
        ),
        (
            Kind::Bird,
            "protocol device { } }\n",
            "f:1: this brace closes nothing",
        ),
        (
            Kind::Swanctl,
            "",
            "f: there is no connection and no BGP session in it",
        ),
    ];
    for (kind, text, expected) in torn {
        let refused = import(&[source(kind, "f", text)]).map(|draft| draft.text);
        assert_eq!(
            refused.map_err(|error| error.to_string()),
            Err(expected.to_owned()),
            "{text}"
        );
    }
}

#[test]
fn one_address_is_of_one_host() {
    let text = connection("192.0.2.1", "192.0.2.2", "");
    let refused = import(&[
        source(Kind::Swanctl, "a/f", &text),
        source(Kind::Swanctl, "b/f", &text),
    ]);
    let expected = ImportError::Twice("a".to_owned(), "b".to_owned(), "192.0.2.1".to_owned());
    assert_eq!(refused.map(|draft| draft.text), Err(expected));
}

#[test]
fn right_may_be_the_own_side_and_others_may_be_taken_over() {
    let text = "conn base
  rightsubnet=10.0.1.0/24
  lifetime=1h
conn b
  also=base
  right=192.0.2.1
  left=192.0.2.2 # far
  leftsubnet=10.0.2.0/24
conn c
  also=base
  right=192.0.2.1
  left=192.0.2.3
  leftsubnet=10.0.3.0/24
";
    let draft = drafted(Kind::Ipsec, &[("a/ipsec.conf", text)]);
    assert!(
        draft
            .text
            .contains("[sites.a.gateways.a]\nendpoints = [\"192.0.2.1\"]"),
        "{}",
        draft.text
    );
    assert!(
        draft.text.contains("remote = \"192.0.2.3\""),
        "{}",
        draft.text
    );
    // New keys come nine minutes before a lifetime ends.
    assert!(
        draft.text.contains("rekey_time = \"51m\""),
        "{}",
        draft.text
    );
}

#[test]
fn whatever_is_read_nothing_panics() {
    let texts = [
        include_str!("../../tests/import/cloud/swanctl.conf"),
        include_str!("../../tests/import/lab/V1-1/ipsec.conf"),
        include_str!("../../tests/import/lab/V1-1/bird.conf"),
    ];
    for text in texts {
        for kind in [Kind::Swanctl, Kind::Ipsec, Kind::Bird] {
            for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
                let _ = import(&[source(kind, "f", &text[..end])]);
                let _ = import(&[source(kind, "f", &text[end..])]);
            }
        }
    }
}
