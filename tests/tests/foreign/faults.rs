//! Faults under traffic, as between gateways of the mesh: at our end, and where both ends disagree.

use std::time::Duration;

use routemesh_tests::lab::error::{LabError, Result};
use routemesh_tests::lab::probe::Probe;
use routemesh_tests::lab::report::{measured, say, wait_until};

use super::cloud::key;
use super::{CONFIG, HOME, INTERFACES, Lab, SELECTORS, SETTLE, children, if_id, run_agent};

/// For as long a flow may be without packets where one of the ends has to find out.
const BOUND: Duration = Duration::from_secs(10);
/// Of the second tunnel, at first by a key that we do not have.
pub const NEW_KEY: &str = "a newer secret of tunnel 1";
/// A network of the cloud that nobody of ours goes to.
const MORE: &str = "10.21.0.0/16";

impl Lab {
    /// One after the other, each until all is well again.
    pub fn faults(&mut self) -> Result<()> {
        let [v4, v6] = INTERFACES;
        // The cloud sends by the second tunnel only.
        self.cloud.use_endpoints(&[2])?;
        self.cloud.endpoints[0].unload("customer")?;
        self.await_ways("tunnel 1 is dead", [&v4[1..], &v6[1..]])?;
        self.fault(
            "agent killed and back while tunnel 1 is dead",
            None,
            |lab| {
                lab.home.agent.kill();
                std::thread::sleep(Duration::from_millis(200));
                lab.restart()?;
                std::thread::sleep(Duration::from_secs(3));
                lab.await_ways("as before", [&v4[1..], &v6[1..]])
            },
        )?;

        // Back with another key: it is refused, and said why; then we have it too.
        let words = "AUTHENTICATION_FAILED";
        let before = self.said(words)?;
        self.fault("tunnel 1 back with another key", Some(BOUND), |lab| {
            let cloud = &mut lab.cloud.endpoints[0];
            NEW_KEY.clone_into(&mut cloud.key);
            cloud.load("customer", HOME, &children())?;
            wait_until("the reason of the refusal", SETTLE, || {
                match lab.said(words)? > before {
                    true => Ok(()),
                    false => Err(LabError::Unexpected("nothing said of it".to_owned())),
                }
            })?;
            lab.await_ways("by tunnel 2 as before", [&v4[1..], &v6[1..]])?;
            lab.configure(|text| text.replace(&key(1), NEW_KEY))?;
            lab.await_ways("both with the other key", [&v4, &v6])
        })?;
        self.cloud.use_endpoints(&[1, 2])?;

        self.fault(
            "charon of home killed, back after 2 s",
            Some(BOUND),
            |lab| {
                lab.home.charon.kill();
                std::thread::sleep(Duration::from_secs(2));
                lab.home.charon.start_again(&lab.home.underlay)?;
                wait_until("SAs of the new charon", SETTLE, || {
                    match lab.home.charon.children()?.len() {
                        // And that to the shop.
                        5.. => Ok(()),
                        few => Err(LabError::Unexpected(format!("{few} CHILD_SAs"))),
                    }
                })?;
                lab.await_ways("both tunnels", [&v4, &v6])
            },
        )?;

        // One more network through tunnel 2, and no more.
        let wide = [("ipv4", [SELECTORS[0][0], "10.0.0.0/8"]), children()[1]];
        self.cloud.endpoints[1].load("customer", HOME, &wide)?;
        let (one, two) = (
            "[\"10.20.0.0/16\"]",
            format!("[\"10.20.0.0/16\", \"{MORE}\"]"),
        );
        for (what, from, to) in [("added", one, two.as_str()), ("removed", &two, one)] {
            let name = format!("a selector {what}");
            self.fault(&name, Some(BOUND), |lab| {
                lab.configure(|text| of_tunnel_6(&text, from, to))?;
                wait_until(&name, SETTLE, || {
                    let text = lab
                        .home
                        .underlay
                        .run(&["ip", "xfrm", "policy", "list", "dst", MORE])?;
                    match text.contains(&if_id(v4[1])) == (what == "added") {
                        true => Ok(()),
                        false => Err(LabError::Unexpected(format!("policies: {text}"))),
                    }
                })?;
                lab.await_ways("both tunnels", [&v4, &v6])
            })?;
        }
        self.cloud.endpoints[1].load("customer", HOME, &children())
    }

    /// Something happens under traffic; without a bound, nothing may be lost.
    fn fault(
        &mut self,
        what: &str,
        bound: Option<Duration>,
        happens: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        wait_until("pings to the cloud", SETTLE, || self.ping())?;
        say(what);
        let probes = self.probes()?;
        let outcome = happens(self);
        std::thread::sleep(Duration::from_secs(1));
        let reports: Vec<_> = probes.into_iter().map(Probe::stop).collect::<Result<_>>()?;
        outcome?;
        let lost: usize = reports.iter().map(|it| it.lost).sum();
        let sent: usize = reports.iter().map(|it| it.sent).sum();
        let gap = reports.iter().map(|it| it.longest_gap).max();
        let gap = gap.unwrap_or_default();
        let longest = match lost {
            0 => String::new(),
            _ => format!(", longest gap {:.2} s", gap.as_secs_f64()),
        };
        measured(
            &format!("a cloud, {what}"),
            format_args!("{lost} of {sent} packets lost{longest}"),
        );
        match bound {
            None => assert_eq!(lost, 0, "{what}: {reports:?}"),
            Some(bound) => assert!(gap < bound, "{what}: {reports:?}"),
        }
        Ok(())
    }

    /// Another agent in place of the one at home, with what it finds.
    fn restart(&mut self) -> Result<()> {
        let home = &mut self.home;
        home.agent = run_agent(&home.underlay, &home.charon, &home.identity)?;
        Ok(())
    }

    /// The same with another config.
    fn configure(&mut self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.home.underlay.dir().join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(LabError::io(CONFIG))?;
        let changed = change(text.clone());
        assert_ne!(text, changed);
        std::fs::write(&file, changed).map_err(LabError::io(CONFIG))?;
        self.home.agent.stop(SETTLE)?;
        self.restart()
    }

    /// How often the agent at home has said this.
    fn said(&self, words: &str) -> Result<usize> {
        let log = std::fs::read_to_string(self.home.agent.log()).map_err(LabError::io("log"))?;
        Ok(log.matches(words).count())
    }
}

/// Changes the selectors of the tunnel that carries IPv4 to the second endpoint.
fn of_tunnel_6(text: &str, from: &str, to: &str) -> String {
    let start = text.find("number = 6\n").unwrap_or_default();
    let (before, rest) = text.split_at(start);
    format!("{before}{}", rest.replacen(from, to, 1))
}
