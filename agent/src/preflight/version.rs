//! Versions as kernels and strongSwan tell them.

use std::fmt;

/// Major, minor, patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The numbers that a text begins with: "6.12.43+deb13-amd64", "5.9.8", "6.0.2dr1".
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit());
        let numbers = text.get(..end.unwrap_or(text.len()))?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let major = numbers.next()??;
        let minor = numbers.next()??;
        Some(Self(major, minor, numbers.next().flatten().unwrap_or(0)))
    }

    /// Whether a fix is in it that came with these, one for each series, the newest last: later series
    /// have it from their beginning.
    pub fn has(self, fixed: &[Self]) -> bool {
        let of_series = |fix: &&Self| (fix.0, fix.1) == (self.0, self.1);
        match fixed.iter().find(of_series) {
            Some(fix) => self >= *fix,
            None => fixed.last().is_some_and(|newest| self >= *newest),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        match patch {
            0 => write!(f, "{major}.{minor}"),
            _ => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

/// What a kernel's maker carries over from later versions, without its telling by the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carried {
    /// Nothing: it is as kernel.org's of its version, as far as concerns us. Debian, Fedora, Alpine, Arch.
    Nothing,
    /// Fixes: whether it has one cannot be told. Ubuntu, Proxmox.
    Fixes,
    /// Whole features, and their faults: nothing can be told. Red Hat and its relatives, SUSE Linux Enterprise.
    Features,
}

/// A running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` has it.
    pub name: String,
    /// The kernel.org version that it was made from, as far as it tells.
    pub version: Version,
    /// What else is in it.
    pub carried: Carried,
}

impl Release {
    /// Of the kernel that runs.
    pub fn running() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let name = read("/proc/sys/kernel/osrelease");
        let build = read("/proc/sys/kernel/version");
        Self::parse(name.trim(), &build, &read("/proc/version_signature"))
    }

    /// From `uname -r`, `uname -v` and Ubuntu's /proc/version_signature (empty elsewhere): Debian up
    /// to 12 and Ubuntu tell the version that they are made from only in the latter two.
    pub fn parse(name: &str, build: &str, signature: &str) -> Self {
        let of_debian = build
            .split_once("Debian ")
            .and_then(|(_, rest)| Version::parse(rest));
        let of_ubuntu = signature.split_whitespace().last().and_then(Version::parse);
        let named = Version::parse(name).unwrap_or_default();
        let same_series = |it: &Version| (it.0, it.1) == (named.0, named.1);
        let told = of_ubuntu.or(of_debian).filter(same_series);
        let ubuntu = build.contains("Ubuntu") || !signature.is_empty();
        let carried = if name.contains(".el") || is_suse_enterprise(name) {
            Carried::Features
        } else if ubuntu || name.ends_with("-generic") || name.ends_with("-pve") {
            Carried::Fixes
        } else {
            Carried::Nothing
        };
        Self {
            name: name.to_owned(),
            version: told.unwrap_or(named),
            carried,
        }
    }
}

/// "6.4.0-150600.23.25-default": its builds are numbered by product, those of Tumbleweed from 1.
fn is_suse_enterprise(name: &str) -> bool {
    let build = name
        .split_once('-')
        .and_then(|(_, rest)| Version::parse(rest));
    build.is_some_and(|it| it.0 >= 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_tell_their_version_in_different_places() {
        use Carried::{Features, Fixes, Nothing};
        let debian12 = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)";
        let debian13 = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1 (2025-08-27)";
        let ubuntu = "#126-Ubuntu SMP Mon Jul 1 10:14:24 UTC 2024";
        let signature22 = "Ubuntu 5.15.0-116.126-generic 5.15.158";
        let signature24 = "Ubuntu 6.8.0-45.45-generic 6.8.12";
        for (name, build, signature, version, carried) in [
            ("6.1.0-40-cloud-amd64", debian12, "", (6, 1, 153), Nothing),
            ("6.12.43+deb13-amd64", debian13, "", (6, 12, 43), Nothing),
            (
                "5.15.0-116-generic",
                ubuntu,
                signature22,
                (5, 15, 158),
                Fixes,
            ),
            (
                "6.8.0-45-generic",
                "#45-Ubuntu SMP",
                signature24,
                (6, 8, 12),
                Fixes,
            ),
            // Without the signature, as within a container.
            (
                "6.8.0-1017-aws",
                "#18~22.04.1-Ubuntu SMP",
                "",
                (6, 8, 0),
                Fixes,
            ),
            ("5.15.0-116-generic", "", "", (5, 15, 0), Fixes),
            (
                "6.8.12-4-pve",
                "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-4",
                "",
                (6, 8, 12),
                Fixes,
            ),
            (
                "5.14.0-427.13.1.el9_4.x86_64",
                "#1 SMP",
                "",
                (5, 14, 0),
                Features,
            ),
            (
                "6.12.0-55.9.1.el10_0.x86_64",
                "#1 SMP",
                "",
                (6, 12, 0),
                Features,
            ),
            (
                "5.15.0-200.131.27.el9uek.x86_64",
                "#2 SMP",
                "",
                (5, 15, 0),
                Features,
            ),
            (
                "5.14.21-150500.55.7-default",
                "#1 SMP",
                "",
                (5, 14, 21),
                Features,
            ),
            (
                "6.4.0-150600.23.25-default",
                "#1 SMP",
                "",
                (6, 4, 0),
                Features,
            ),
            (
                "6.12.0-160000.5-default",
                "#1 SMP",
                "",
                (6, 12, 0),
                Features,
            ),
            ("6.17.5-1-default", "#1 SMP", "", (6, 17, 5), Nothing),
            ("6.11.4-301.fc41.x86_64", "#1 SMP", "", (6, 11, 4), Nothing),
            (
                "6.1.102-108.177.amzn2023.x86_64",
                "#1 SMP",
                "",
                (6, 1, 102),
                Nothing,
            ),
            ("6.6.58-0-lts", "#1-Alpine SMP", "", (6, 6, 58), Nothing),
            ("6.17.8-arch1-1", "#1 SMP", "", (6, 17, 8), Nothing),
            ("7.1.0", "", "", (7, 1, 0), Nothing),
            // Of another series than the name says: not to be believed.
            ("6.1.0-40-amd64", "Debian 4.19.1", "", (6, 1, 0), Nothing),
            ("", "", "", (0, 0, 0), Nothing),
        ] {
            let release = Release::parse(name, build, signature);
            let (major, minor, patch) = version;
            assert_eq!(
                (release.version, release.carried),
                (Version(major, minor, patch), carried),
                "{name} {build}"
            );
        }
    }

    #[test]
    fn a_fix_comes_to_each_series_by_itself() {
        let fixed = [
            Version(6, 6, 118),
            Version(6, 12, 60),
            Version(6, 17, 10),
            Version(6, 18, 0),
        ];
        for (version, has) in [
            (Version(6, 6, 117), false),
            (Version(6, 6, 118), true),
            (Version(6, 7, 200), false),
            (Version(6, 12, 60), true),
            (Version(6, 17, 9), false),
            (Version(6, 18, 0), true),
            (Version(7, 0, 1), true),
        ] {
            assert_eq!(version.has(&fixed), has, "{version}");
        }
        assert!(!Version(1, 0, 0).has(&[]));
    }
}
