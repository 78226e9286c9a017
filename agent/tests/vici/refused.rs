//! Two charons that do not agree: what is told of why. No ESP is needed, as it never gets to SAs.

use crate::charon::{Authority, Charon};
use crate::space::Space;
use routemesh_agent::config::{EspOptions, IkeOptions};
use routemesh_agent::vici::{Auth, Bind, Child, Definition, Event, Vici, events};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const CONNECTION: &str = "rm1-peer";
const PATIENCE: Duration = Duration::from_secs(20);

struct End {
    charon: Charon,
    vici: Vici,
    events: Receiver<Event>,
    definition: Definition,
    // The last to go.
    _space: Space,
}

impl End {
    /// With a pre-shared key, which both have.
    async fn new(space: Space, own: u8, other: u8) -> Self {
        let charon = Charon::start(Some(space.0.clone())).await;
        let address = |number: u8| format!("192.0.2.{number}");
        let definition = Definition {
            site: "two".into(),
            local_addrs: vec![address(own)],
            nat: false,
            remote_addrs: vec![address(other)],
            local_id: format!("v{own}"),
            remote_id: format!("v{other}"),
            auth: Auth::Psk("a key of both".into()),
            children: vec![Child::of_all("way".into(), Bind::IfId(0x5200_0001))],
            initiate: own == 1,
            ike: IkeOptions::default(),
            esp: EspOptions::default(),
        };
        Self {
            vici: Vici::new(charon.socket()),
            events: events(charon.socket()),
            charon,
            definition,
            _space: space,
        }
    }

    /// As if it were new.
    async fn load(&mut self, definition: &Definition) {
        for sa in self.vici.sas().await.unwrap() {
            self.vici.terminate(sa.unique_id).await.unwrap();
        }
        self.vici.load(CONNECTION, definition).await.unwrap();
        if let Auth::Psk(key) = &definition.auth {
            let owner = &definition.remote_id;
            self.vici.load_shared(CONNECTION, key, owner).await.unwrap();
        }
        while self.events.try_recv().is_ok() {}
    }

    /// What the next refusal says.
    async fn reason(&mut self) -> String {
        let refused = async {
            loop {
                match self.events.recv().await.unwrap() {
                    Event::Refused { connection, reason } if connection == CONNECTION => {
                        return reason;
                    }
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, refused).await.unwrap()
    }
}

#[tokio::test]
async fn both_ends_learn_why_there_is_no_sa() {
    let [a, b] = [Space::new(), Space::new()];
    a.ip(&format!(
        "link add wire type veth peer name wire netns {}",
        b.0
    ));
    for (space, own) in [(&a, 1), (&b, 2)] {
        space.ip("link set wire up");
        space.ip(&format!("address add 192.0.2.{own}/24 dev wire"));
    }
    let (mut a, mut b) = (End::new(a, 1, 2).await, End::new(b, 2, 1).await);
    let (ca, other_ca) = (Authority::new(), Authority::new());
    let certified = async |end: &End, ca: &Authority| {
        let (own_pem, key) = ca.issue(&end.definition.local_id);
        end.vici.load_key(&key).await.unwrap();
        let ca_pems = vec![ca.pem.clone()];
        Auth::Certificate { own_pem, ca_pems }
    };
    let [of_a, of_b] = [certified(&a, &ca).await, certified(&b, &other_ca).await];
    let (own_pem, key) = ca.issue_early(&b.definition.local_id);
    b.vici.load_key(&key).await.unwrap();
    let ca_pems = vec![ca.pem.clone()];
    let early = Auth::Certificate { own_pem, ca_pems };
    let also_a = of_a.clone();

    type Change = Box<dyn Fn(&mut Definition)>;
    let change = |change: fn(&mut Definition)| -> Change { Box::new(change) };
    let same = || change(|_| {});
    // What is other at either end, and what both are told of it; the answering end need not know of whom
    // it is.
    let table: [(Change, Change, &str, Option<&str>); 7] = [
        (
            same(),
            change(|it| it.auth = Auth::Psk("another key".into())),
            "AUTHENTICATION_FAILED",
            Some("another pre-shared key"),
        ),
        (
            same(),
            change(|it| it.remote_id = "v9".into()),
            "AUTHENTICATION_FAILED",
            None,
        ),
        (
            same(),
            change(|it| it.ike.proposals = vec!["aes128-sha256-modp2048".into()]),
            "none of our IKE proposals",
            None,
        ),
        (
            same(),
            change(|it| it.esp.proposals = vec!["aes128gcm16-modp3072".into()]),
            "none of our ESP proposals",
            Some("ESP proposals"),
        ),
        (
            change(|it| it.children[0].remote = vec!["10.9.0.0/16".into()]),
            change(|it| it.children[0].local = vec!["10.8.0.0/16".into()]),
            "none of our traffic selectors",
            Some("traffic selectors"),
        ),
        (
            Box::new(move |it| it.auth = of_a.clone()),
            Box::new(move |it| it.auth = of_b.clone()),
            "AUTHENTICATION_FAILED",
            Some("certificate"),
        ),
        (
            Box::new(move |it| it.auth = also_a.clone()),
            Box::new(move |it| it.auth = early.clone()),
            "not valid at this host's time",
            None,
        ),
    ];
    for (of_a, of_b, told_a, told_b) in table {
        let (mut at_a, mut at_b) = (a.definition.clone(), b.definition.clone());
        of_a(&mut at_a);
        of_b(&mut at_b);
        a.load(&at_a).await;
        b.load(&at_b).await;
        a.vici.initiate(CONNECTION, &at_a.digest()).await.unwrap();
        let reason = a.reason().await;
        assert!(reason.contains(told_a), "{told_a}: {reason}");
        if let Some(told) = told_b {
            let reason = b.reason().await;
            assert!(reason.contains(told), "{told}: {reason}");
        }
    }
    a.charon.kill();
    b.charon.kill();
}
