//! The kernel settings that forwarding over tunnels needs, in the overlay.

use super::{Error, Kernel};
use crate::config::Hash;
use crate::netns::Netns;
use crate::state::{Link, LinkKind, Side};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FORWARDING: &str = "net.ipv6.conf.all.forwarding";
/// BIRD's route protocol (`RTPROT_BIRD`).
const BIRD: u8 = 12;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A setting and the value it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, with dots.
    pub key: String,
    /// Its value.
    pub value: String,
    /// A kernel without it will do.
    pub optional: bool,
    /// Of an interface: set it only where it, or that of `all`, has this value now.
    pub instead_of: Option<String>,
}

impl Setting {
    fn new(key: impl Into<String>, value: &str) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            optional: false,
            instead_of: None,
        }
    }

    fn optional(key: impl Into<String>, value: &str) -> Self {
        Self {
            optional: true,
            ..Self::new(key, value)
        }
    }
}

/// What forwarding needs, whatever the tunnels.
pub fn forwarding(hash: Hash) -> Vec<Setting> {
    let policy = match hash {
        Hash::L3 => "0",
        Hash::L4 => "1",
        Hash::Inner => "2",
    };
    vec![
        Setting::new("net.ipv4.ip_forward", "1"),
        Setting::new(FORWARDING, "1"),
        Setting::new("net.ipv4.fib_multipath_hash_policy", policy),
        Setting::new("net.ipv6.fib_multipath_hash_policy", policy),
    ]
}

/// Whether the kernel tells of our routes' next hops in full, or by the number of their group alone,
/// which is a hundred times faster where a group of many routes changes (since 5.8). BIRD, in 2.0 at
/// least, takes no route that it is told only the number of: where it fills the kernel's table, and
/// is likely to read it as well, it is told in full.
pub fn in_full(announce: &BTreeSet<u8>) -> Setting {
    let value = if announce.contains(&BIRD) { "1" } else { "0" };
    Setting::optional("net.ipv4.nexthop_compat_mode", value)
}

/// What the tunnel interfaces in the overlay need. They may vanish meanwhile.
pub fn tunnels(links: &BTreeMap<String, Link>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, link) in links.iter().filter(|(_, link)| link.side == Side::Overlay) {
        // Strict would drop what comes by the other of two paths; loose outdoes a strict `all`.
        settings.push(Setting {
            instead_of: Some("1".into()),
            ..Setting::optional(format!("net.ipv4.conf.{name}.rp_filter"), "2")
        });
        if matches!(link.kind, LinkKind::Vti { .. }) {
            // The interface is the policy; the policies themselves carry a mark that decrypted
            // packets do not.
            for family in ["ipv4", "ipv6"] {
                let key = format!("net.{family}.conf.{name}.disable_policy");
                settings.push(Setting::optional(key, "1"));
            }
        }
    }
    settings
}

impl Kernel {
    /// Gives settings their values in the overlay, writing only those that differ, and returns
    /// those.
    pub async fn set(&self, settings: Vec<Setting>) -> Result<Vec<Setting>, Error> {
        let netns = self.netns.clone();
        let blocking = tokio::task::spawn_blocking(move || write_different(&netns, settings));
        match tokio::time::timeout(TIMEOUT, blocking).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::SysctlTimeout(TIMEOUT.as_secs())),
        }
    }
}

fn write_different(netns: &Netns, settings: Vec<Setting>) -> Result<Vec<Setting>, Error> {
    // Which namespace's settings are seen under /proc/sys/net depends on who looks.
    netns.run(|| {
        let mut changed = Vec::new();
        if settings.iter().any(|it| it.key == FORWARDING) {
            keep_advertised_routes().map_err(|source| Error::Sysctl {
                key: "net.ipv6.conf.*.accept_ra".into(),
                value: "2".into(),
                source,
            })?;
        }
        for setting in settings {
            match write(&setting) {
                Ok(false) => {}
                Ok(true) => changed.push(setting),
                Err(error) if setting.optional && error.kind() == ErrorKind::NotFound => {}
                Err(source) => {
                    let Setting { key, value, .. } = setting;
                    return Err(Error::Sysctl { key, value, source });
                }
            }
        }
        Ok(changed)
    })?
}

/// A host that forwards takes no router advertisements, and forgets what it learnt from them, its
/// default route among it, unless its interfaces are told to take them all the same.
fn keep_advertised_routes() -> io::Result<()> {
    if read(&path(FORWARDING))? != "0" {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let file = entry?.path().join("accept_ra");
        let takes = std::fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1");
        // An interface may vanish meanwhile.
        if takes
            && let Err(error) = std::fs::write(&file, "2")
            && file.exists()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Whether it was written.
fn write(setting: &Setting) -> io::Result<bool> {
    let path = path(&setting.key);
    let value = read(&path)?;
    let wanted = match (
        &setting.instead_of,
        path.file_name(),
        path.ancestors().nth(2),
    ) {
        (Some(unwanted), Some(name), Some(interfaces)) => {
            value == *unwanted || read(&interfaces.join("all").join(name))? == *unwanted
        }
        _ => true,
    };
    if value == setting.value || !wanted {
        return Ok(false);
    }
    std::fs::write(&path, &setting.value)?;
    Ok(true)
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}

fn read(path: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}
