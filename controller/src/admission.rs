//! Who was revoked, and who was admitted again since.

use crate::ca::{Peer, Role};
use std::collections::{BTreeMap, BTreeSet};

/// Gateways and controllers have names of their own; all other roles are of people, and a person's are revoked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A gateway.
    Gateway,
    /// A viewer, operator or administrator.
    Person,
    /// A controller, which nobody revokes.
    Controller,
}

impl From<Role> for Kind {
    fn from(role: Role) -> Self {
        match role {
            Role::Gateway => Self::Gateway,
            Role::Viewer | Role::Operator | Role::Admin => Self::Person,
            Role::Controller => Self::Controller,
        }
    }
}

/// One of its roles: which one does not matter for what is kept.
impl From<Kind> for Role {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Gateway => Self::Gateway,
            Kind::Person => Self::Viewer,
            Kind::Controller => Self::Controller,
        }
    }
}

/// What became of a name that was revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// How often it was revoked. Certificates carry it: those with another are no good.
    pub number: u32,
    /// Nobody has enrolled by that name since.
    pub revoked: bool,
}

/// Names that were revoked, ever. All others are as they were at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admissions(BTreeMap<(Kind, String), Admission>);

impl Admissions {
    /// As it was kept.
    pub fn insert(&mut self, kind: Kind, name: String, admission: Admission) {
        self.0.insert((kind, name), admission);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str, Admission)> {
        let all = self.0.iter();
        all.map(|((kind, name), admission)| (*kind, name.as_str(), *admission))
    }

    /// What became of a name.
    pub fn of(&self, role: Role, name: &str) -> Admission {
        let key = (role.into(), name.to_owned());
        self.0.get(&key).copied().unwrap_or_default()
    }

    /// Whether a certificate of this holder is good.
    pub fn admit(&self, peer: &Peer) -> bool {
        let now = self.of(peer.role, &peer.name);
        !now.revoked && now.number == peer.admission
    }

    /// No certificate of that name is good from now on.
    pub fn revoke(&mut self, role: Role, name: &str) -> Admission {
        let key = (role.into(), name.to_owned());
        let admission = self.0.entry(key).or_default();
        if !admission.revoked {
            admission.number = admission.number.saturating_add(1);
            admission.revoked = true;
        }
        *admission
    }

    /// Somebody enrolls by that name: whoever did before is still refused.
    pub fn enroll(&mut self, role: Role, name: &str) -> Admission {
        let key = (role.into(), name.to_owned());
        match self.0.get_mut(&key) {
            Some(admission) => {
                admission.revoked = false;
                *admission
            }
            None => Admission::default(),
        }
    }

    /// Those of gateways.
    pub fn gateways(&self) -> impl Iterator<Item = (&str, Admission)> {
        let all = self.iter();
        all.filter(|(kind, ..)| *kind == Kind::Gateway)
            .map(|(_, name, admission)| (name, admission))
    }

    /// Gateways that nobody may speak to.
    pub fn revoked_gateways(&self) -> BTreeSet<&str> {
        let revoked = self.gateways().filter(|(_, admission)| admission.revoked);
        revoked.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_certificate_is_refused_for_ever() {
        let mut admissions = Admissions::default();
        let first = Peer::new(Role::Gateway, "V1");
        assert!(admissions.admit(&first));
        assert_eq!(admissions.enroll(Role::Gateway, "V1").number, 0);
        admissions.revoke(Role::Gateway, "V1");
        // Twice is once.
        let again = admissions.revoke(Role::Gateway, "V1");
        assert_eq!((again.number, again.revoked), (1, true));
        assert_eq!(admissions.revoked_gateways(), ["V1"].into());
        let second = Peer {
            admission: 1,
            ..first.clone()
        };
        assert!(!admissions.admit(&first) && !admissions.admit(&second));
        assert_eq!(admissions.enroll(Role::Gateway, "V1").number, 1);
        assert!(!admissions.admit(&first) && admissions.admit(&second));
        admissions.revoke(Role::Gateway, "V1");
        assert_eq!(admissions.enroll(Role::Gateway, "V1").number, 2);
        assert!(!admissions.admit(&first) && !admissions.admit(&second));
        // A person of that name is somebody else.
        assert!(admissions.admit(&Peer::new(Role::Operator, "V1")));
    }
}
