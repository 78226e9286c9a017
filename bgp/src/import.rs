//! What becomes of a path on its way into the table: whether it may be used, and with which
//! attributes. Pure; nothing depends on other paths.

use crate::peer::Peer;
use crate::policy::{ImportJudge, ImportRules, Rejection, Verdict};
use crate::table::{AttributeSets, Used};
use crate::wire::{Attributes, NextHop, Role};
use ipnet::IpNet;
use std::sync::Arc;

/// The path is about to go (RFC 8326).
pub(crate) const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// Import that has seen what is the same for all prefixes of an UPDATE.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    rules: &'a ImportRules,
    of_path: ImportJudge<'a>,
    received: &'a Arc<Attributes>,
    /// What OTC becomes (RFC 9234 section 5); an error: the path is a leak.
    only_to_customer: Result<Option<u32>, u32>,
}

/// Looks at a path of the peer.
pub(crate) fn judge<'a>(
    peer: &'a Peer,
    received: &'a Arc<Attributes>,
    next_hop: &NextHop,
) -> Judge<'a> {
    let rules = &peer.rules;
    let external = rules.peer_asn != rules.asn;
    let role = peer.config.role.filter(|_| external);
    Judge {
        rules,
        of_path: rules.on(received, next_hop),
        received,
        only_to_customer: only_to_customer(role, rules.peer_asn, received.only_to_customer),
    }
}

/// RFC 9234 section 5, ingress: `role` is ours, `found` what the path came with. From a customer no
/// path that was meant for customers only can come, from a peer only its own.
fn only_to_customer(
    role: Option<Role>,
    peer_asn: u32,
    found: Option<u32>,
) -> Result<Option<u32>, u32> {
    match (role, found) {
        (Some(Role::Provider | Role::RouteServer), Some(asn)) => Err(asn),
        (Some(Role::Peer), Some(asn)) if asn != peer_asn => Err(asn),
        (Some(Role::Customer | Role::Peer | Role::RouteServerClient), None) => Ok(Some(peer_asn)),
        _ => Ok(found),
    }
}

impl Judge<'_> {
    /// What becomes of the path to a prefix.
    pub(crate) fn judge(&self, prefix: &IpNet) -> Verdict {
        match (self.of_path.judge(prefix), self.only_to_customer) {
            (Verdict::Accept(_), Err(asn)) => Verdict::Reject(Rejection::RouteLeak(asn)),
            (verdict, _) => verdict,
        }
    }

    /// What a verdict comes to: the attributes that are used, or why none are.
    pub(crate) fn outcome(
        &self,
        verdict: &Verdict,
        sets: &mut AttributeSets,
    ) -> Result<Used, Rejection> {
        let matched = match verdict {
            Verdict::Reject(why) => return Err(why.clone()),
            Verdict::Accept(matched) => *matched,
        };
        let policy = self.rules.policy.as_ref();
        let received = self.received;
        let only_to_customer = self.only_to_customer.unwrap_or(received.only_to_customer);
        let shuts_down = received.communities.contains(&GRACEFUL_SHUTDOWN);
        let same =
            matched.is_empty() && !shuts_down && only_to_customer == received.only_to_customer;
        let attributes = match same {
            true => received.clone(),
            false => {
                let mut attributes = received.as_ref().clone();
                if let Some(policy) = policy {
                    policy.apply(matched, &mut attributes, self.rules.asn);
                }
                // RFC 8326 section 4: as the last choice, whatever the policy prefers; also where the policy
                // says so for a peer that does not itself.
                if shuts_down || attributes.communities.contains(&GRACEFUL_SHUTDOWN) {
                    attributes.local_pref = Some(0);
                }
                attributes.only_to_customer = only_to_customer;
                sets.intern(attributes)
            }
        };
        let weight = policy.and_then(|it| it.weight(matched));
        Ok(Used { attributes, weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_to_customer_as_each_role_hears_it() {
        use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        const THEM: u32 = 65009;
        // Our role; heard without OTC, with the peer's own AS, with another.
        let table = [
            (None, Ok(None), Ok(Some(THEM)), Ok(Some(1))),
            (Some(Provider), Ok(None), Err(THEM), Err(1)),
            (Some(RouteServer), Ok(None), Err(THEM), Err(1)),
            (Some(Peer), Ok(Some(THEM)), Ok(Some(THEM)), Err(1)),
            (Some(Customer), Ok(Some(THEM)), Ok(Some(THEM)), Ok(Some(1))),
            (
                Some(RouteServerClient),
                Ok(Some(THEM)),
                Ok(Some(THEM)),
                Ok(Some(1)),
            ),
        ];
        for (role, without, own, other) in table {
            assert_eq!(only_to_customer(role, THEM, None), without, "{role:?}");
            assert_eq!(only_to_customer(role, THEM, Some(THEM)), own, "{role:?}");
            assert_eq!(only_to_customer(role, THEM, Some(1)), other, "{role:?}");
        }
    }
}
