//! Looks at the host, and tells what was found. Decides nothing.

use super::verdict::{Charon, Facts, Needs, verdict};
use super::{Ability, FAILS, Release, offload, trial};
use crate::control::InForce;
use crate::kernel::Kernel;
use crate::vici::Vici;
use routemesh_proto::Finding;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Where charon's settings belong. Red Hat's charon reads another directory; where that is, it counts.
const DROP_IN: &str = "/etc/strongswan.d/routemesh.conf";
const RED_HATS: &str = "/etc/strongswan/strongswan.d/routemesh.conf";
/// charon may be started later than the agent, or another version of it.
const AGAIN: Duration = Duration::from_secs(60);

/// Everything that can be found out here, as far as somebody may need it. Takes about a second.
pub async fn look(vici: &Vici, needs: &Needs) -> Facts {
    let wanted = needs.abilities.iter().copied().chain(Ability::TRACELESS);
    let wanted = wanted.collect();
    let tried = spawn_blocking(move || trial::all(&wanted)).await;
    let settings = OpenOptions::new()
        .write(true)
        .open("/proc/sys/net/ipv4/ip_forward");
    let asked = needs.offloaders();
    Facts {
        kernel: Release::running(),
        tried: tried.unwrap_or_else(|error| Err(error.to_string())),
        overlay: Kernel::open(&needs.overlay)
            .map(drop)
            .map_err(|error| error.to_string()),
        settings: settings.map(drop).map_err(|error| error.to_string()),
        charon: ask_charon(vici).await,
        drop_in: drop_in(),
        offload: asked
            .filter_map(|it| offload::at(&it).map(|does| (it, does)))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn drop_in() -> (&'static str, bool) {
    let red_hats = Path::new(RED_HATS);
    let place = match red_hats.parent().is_some_and(Path::is_dir) {
        true => RED_HATS,
        false => DROP_IN,
    };
    (place, Path::new(place).exists())
}

/// What charon tells of itself.
pub async fn ask_charon(vici: &Vici) -> Result<Charon, String> {
    let asked = async {
        Ok::<_, crate::vici::Error>(Charon {
            version: vici.version().await?.version,
            plugins: vici.plugins().await?,
        })
    };
    asked.await.map_err(|error| error.to_string())
}

/// Tells what is wrong with the host, for ever: at once, when the config changes, and as charon does.
pub async fn watch(
    vici: Vici,
    mut config: watch::Receiver<Option<InForce>>,
    findings: watch::Sender<Vec<Finding>>,
) {
    let mut known: Option<(Needs, Facts)> = None;
    loop {
        let needs = config
            .borrow_and_update()
            .as_ref()
            .map_or_else(Needs::default, |it| Needs::of(&it.config));
        let facts = match known.take() {
            // The kernel is the one that it was, and what it could it still can.
            Some((same, facts)) if same == needs && can_all(&facts, &needs) => Facts {
                charon: ask_charon(&vici).await,
                drop_in: drop_in(),
                ..facts
            },
            _ => look(&vici, &needs).await,
        };
        let news = verdict(&facts, &needs);
        findings.send_if_modified(|findings| {
            let changed = *findings != news;
            *findings = news;
            changed
        });
        known = Some((needs, facts));
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            () = sleep(AGAIN) => {}
        }
    }
}

/// Nothing that is needed, and that somebody may have mended since, was found missing.
fn can_all(facts: &Facts, needs: &Needs) -> bool {
    let tried = facts.tried.as_ref();
    let lacks = |it: &Ability| tried.is_ok_and(|tried| tried.get(it).is_some_and(Result::is_err));
    let all = tried.is_ok() && !needs.abilities.iter().any(lacks);
    all && facts.overlay.is_ok() && facts.settings.is_ok() && facts.offload.values().all(|can| *can)
}

/// For people.
pub fn text(facts: &Facts, findings: &[Finding]) -> String {
    let mut out = format!("kernel      Linux {}", facts.kernel.name);
    let version = facts.kernel.version.to_string();
    if !facts.kernel.name.starts_with(&version) {
        let _ = write!(out, " (made from {version})");
    }
    out.push('\n');
    if let Ok(tried) = &facts.tried {
        let of = |well: bool| {
            let such = tried
                .iter()
                .filter(move |(_, result)| result.is_ok() == well);
            such.map(|(it, _)| it.to_string()).collect::<Vec<_>>()
        };
        for (what, names) in [("has", of(true)), ("has not", of(false))] {
            if !names.is_empty() {
                let _ = writeln!(out, "  {what:<9} {}", names.join(", "));
            }
        }
    }
    let _ = match &facts.charon {
        Ok(charon) => writeln!(out, "strongSwan  {}", charon.version),
        Err(_) => writeln!(out, "strongSwan  does not answer"),
    };
    out.push('\n');
    for finding in findings {
        let Finding {
            severity,
            object,
            breaks,
            cure,
        } = finding;
        let _ = writeln!(
            out,
            "{severity:<6} {object}\n       {breaks}\n       -> {cure}\n"
        );
    }
    let fails = findings.iter().filter(|it| it.severity == FAILS).count();
    out += &match (fails, findings.len()) {
        (0, 0) => "ready\n".to_owned(),
        (0, risks) => format!("ready, with {risks} at risk\n"),
        (fails, _) => format!("not ready: {fails} to mend\n"),
    };
    out
}
