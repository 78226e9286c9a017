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

/// A running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` has it.
    pub name: String,
    /// The kernel.org version that it was made from, as far as it tells.
    pub version: Version,
    /// Its maker carries fixes over without telling by the version.
    pub patched: bool,
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
        let has = |word: &str| name.contains(word);
        Self {
            name: name.to_owned(),
            version: told.unwrap_or(named),
            // Ubuntu without its signature, as within a container.
            patched: has(".el") || (told.is_none() && has("-generic")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_tell_their_version_in_different_places() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.153-1 (2025-09-20)";
        let ubuntu = "#126-Ubuntu SMP Mon Jul 1 10:14:24 UTC 2024";
        let signature = "Ubuntu 5.15.0-116.126-generic 5.15.158";
        for (name, build, signature, version, patched) in [
            (
                "6.1.0-40-cloud-amd64",
                debian,
                "",
                Version(6, 1, 153),
                false,
            ),
            (
                "6.12.43+deb13-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.12.43-1 (2025-08-27)",
                "",
                Version(6, 12, 43),
                false,
            ),
            (
                "5.15.0-116-generic",
                ubuntu,
                signature,
                Version(5, 15, 158),
                false,
            ),
            ("5.15.0-116-generic", ubuntu, "", Version(5, 15, 0), true),
            (
                "6.8.0-45-generic",
                "#45-Ubuntu SMP",
                "Ubuntu 6.8.0-45.45-generic 6.8.12",
                Version(6, 8, 12),
                false,
            ),
            (
                "5.14.0-427.13.1.el9_4.x86_64",
                "#1 SMP",
                "",
                Version(5, 14, 0),
                true,
            ),
            (
                "6.12.0-55.9.1.el10_0.x86_64",
                "#1 SMP",
                "",
                Version(6, 12, 0),
                true,
            ),
            (
                "6.6.58-0-lts",
                "#1-Alpine SMP",
                "",
                Version(6, 6, 58),
                false,
            ),
            ("7.1.0", "", "", Version(7, 1, 0), false),
            // Of another series than the name says: not to be believed.
            (
                "6.1.0-40-amd64",
                "Debian 4.19.1",
                "",
                Version(6, 1, 0),
                false,
            ),
            ("", "", "", Version(0, 0, 0), false),
        ] {
            let release = Release::parse(name, build, signature);
            assert_eq!(
                (release.version, release.patched),
                (version, patched),
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
