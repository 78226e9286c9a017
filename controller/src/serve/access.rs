//! Who may call what: one table, looked at before a request is read.

use crate::admission::Admissions;
use crate::ca::{Peer, PeerError, Role};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Request, Status};
use tower::Layer;
use tracing::{debug, warn};

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Everybody, without a certificate too.
    Anybody,
    /// Whoever has a certificate of the mesh.
    Holders,
    /// Whoever has this role, or one that includes it.
    Role(Role),
}

/// Every call there is. One that is missing here is refused to all.
const CALLS: &[(&str, For)] = &[
    // Whether there is anybody, for load balancers and watchdogs.
    ("/grpc.health.v1.Health/Check", For::Anybody),
    ("/grpc.health.v1.Health/Watch", For::Anybody),
    ("/routemesh.v1.Agents/Attach", For::Role(Role::Gateway)),
    ("/routemesh.v1.Certificates/Enroll", For::Anybody),
    ("/routemesh.v1.Certificates/Renew", For::Holders),
    ("/routemesh.v1.Certificates/GetAuthorities", For::Holders),
    ("/routemesh.v1.Operators/Apply", For::Role(Role::Operator)),
    (
        "/routemesh.v1.Operators/GetTopology",
        For::Role(Role::Viewer),
    ),
    ("/routemesh.v1.Operators/GetRoutes", For::Role(Role::Viewer)),
    ("/routemesh.v1.Operators/Drain", For::Role(Role::Operator)),
    // It says whether a password that is guessed is the one in force.
    ("/routemesh.v1.Operators/GetPlan", For::Role(Role::Operator)),
    ("/routemesh.v1.Operators/GetDiff", For::Role(Role::Viewer)),
    (
        "/routemesh.v1.Operators/GetHistory",
        For::Role(Role::Viewer),
    ),
    (
        "/routemesh.v1.Operators/Rollback",
        For::Role(Role::Operator),
    ),
    ("/routemesh.v1.Operators/GetCanary", For::Role(Role::Viewer)),
    // It has the passwords of the specification in it.
    ("/routemesh.v1.Operators/Backup", For::Role(Role::Operator)),
    ("/routemesh.v1.Trust/CreateToken", For::Role(Role::Admin)),
    ("/routemesh.v1.Trust/Revoke", For::Role(Role::Admin)),
    ("/routemesh.v1.Trust/GetAudit", For::Role(Role::Viewer)),
];

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody known: no certificate was shown.
    Nobody,
    /// Somebody whose certificate says nothing of use.
    Unclear(PeerError),
    /// The holder of a certificate.
    Holder(Peer),
}

/// How often something was refused, by reason, since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Refusals {
    /// One more. There are as many reasons as the program has.
    pub(super) fn count(&self, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }
}

impl Refusals {
    /// All of them.
    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

/// Why a call is refused: for counting, and for whoever called.
type Refused = (&'static str, Status);

fn judge(call: &str, caller: &Caller, admissions: &Admissions) -> Result<(), Refused> {
    let Some((_, whom)) = CALLS.iter().find(|(name, _)| *name == call) else {
        let text = "the controller does not know this call: it is of another version";
        return Err(("unknown call", Status::unimplemented(text)));
    };
    let peer = match (whom, caller) {
        (For::Anybody, _) => return Ok(()),
        (_, Caller::Nobody) => {
            return Err((
                "no certificate",
                Status::unauthenticated(
                    "no certificate was shown: `mesh-agent enroll` or `meshctl enroll` gets one",
                ),
            ));
        }
        (_, Caller::Unclear(error)) => {
            return Err((
                "unclear certificate",
                Status::permission_denied(error.to_string()),
            ));
        }
        (_, Caller::Holder(peer)) => peer,
    };
    if !admissions.admit(peer) {
        return Err((
            "revoked",
            Status::permission_denied(format!(
                "{peer} was revoked: an administrator's `meshctl token create` lets it enroll again"
            )),
        ));
    }
    match whom {
        For::Role(least) if !peer.role.includes(*least) => Err((
            "wrong role",
            Status::permission_denied(format!(
                "the certificate is of {peer}: this needs one of role {least}"
            )),
        )),
        _ => Ok(()),
    }
}

/// Who calls. The table has let them pass.
#[allow(clippy::result_large_err)]
pub(super) fn caller<T>(request: &Request<T>) -> Result<Peer, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Holder(peer)) => Ok(peer.clone()),
        _ => Err(Status::unauthenticated("no certificate was shown")),
    }
}

/// Stands before all services.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) admissions: watch::Receiver<Arc<Admissions>>,
    pub(super) refusals: Refusals,
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner,
            gate: self.clone(),
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<http::Request<B>> for Gated<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let caller = caller.unwrap_or(&Caller::Nobody);
        let call = request.uri().path();
        let judged = judge(call, caller, &self.gate.admissions.borrow());
        if let Err((reason, status)) = judged {
            self.gate.refusals.count(reason);
            match caller {
                // Anybody can make so many of these that the log shows nothing else.
                Caller::Nobody => debug!("{call} refused: {reason}"),
                caller => warn!("{call} refused to {caller:?}: {reason}"),
            }
            return Box::pin(async { Ok(status.into_http()) });
        }
        Box::pin(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    const ROLES: [Role; 4] = [Role::Gateway, Role::Viewer, Role::Operator, Role::Admin];

    fn may(call: &str, caller: &Caller) -> Result<(), Code> {
        judge(call, caller, &Admissions::default()).map_err(|(_, status)| status.code())
    }

    fn who_may(call: &str) -> Vec<Role> {
        let holder = |role: &Role| Caller::Holder(Peer::new(*role, "x"));
        let all = ROLES.into_iter();
        all.filter(|role| may(call, &holder(role)).is_ok())
            .collect()
    }

    #[test]
    fn every_call_has_its_least_role() {
        use Role::{Admin, Gateway, Operator, Viewer};
        let may = |call: &str| who_may(&format!("/routemesh.v1.{call}"));
        assert_eq!(may("Agents/Attach"), [Gateway]);
        assert_eq!(may("Operators/GetTopology"), [Viewer, Operator, Admin]);
        assert_eq!(may("Operators/Apply"), [Operator, Admin]);
        assert_eq!(may("Operators/GetPlan"), [Operator, Admin]);
        assert_eq!(may("Trust/CreateToken"), [Admin]);
        assert_eq!(may("Certificates/Renew"), ROLES);
        assert_eq!(may("Operators/Unheard"), []);
    }

    #[test]
    fn no_call_of_the_protocol_is_forgotten() {
        let of_protocol: Vec<String> = [
            include_str!("../../../proto/routemesh.proto"),
            include_str!("../../../proto/trust.proto"),
        ]
        .iter()
        .flat_map(|text| calls(text))
        .collect();
        let mut table: Vec<&str> = CALLS.iter().map(|(call, _)| *call).collect();
        let mut of_protocol: Vec<&str> = of_protocol.iter().map(String::as_str).collect();
        of_protocol.sort_unstable();
        table.retain(|call| call.starts_with("/routemesh."));
        table.sort_unstable();
        assert_eq!(table, of_protocol);
    }

    fn calls(proto: &str) -> Vec<String> {
        let mut service = "";
        let mut calls = Vec::new();
        for line in proto.lines() {
            let mut words = line.split([' ', '(']).filter(|word| !word.is_empty());
            match words.next() {
                Some("service") => service = words.next().unwrap(),
                Some("rpc") => {
                    let call = words.next().unwrap();
                    calls.push(format!("/routemesh.v1.{service}/{call}"));
                }
                _ => {}
            }
        }
        calls
    }

    #[test]
    fn nobody_may_enroll_and_nothing_else() {
        for (call, whom) in CALLS {
            let refused = (*whom != For::Anybody).then_some(Code::Unauthenticated);
            assert_eq!(may(call, &Caller::Nobody).err(), refused, "{call}");
        }
        assert_eq!(
            may("/routemesh.v1.Certificates/Enroll", &Caller::Nobody),
            Ok(())
        );
        let unclear = Caller::Unclear(PeerError::NoRole);
        let refused = may("/routemesh.v1.Certificates/Renew", &unclear);
        assert_eq!(refused, Err(Code::PermissionDenied));
    }

    #[test]
    fn who_was_revoked_may_nothing() {
        let mut admissions = Admissions::default();
        let peer = Peer::new(Role::Admin, "ann");
        admissions.revoke(peer.role, &peer.name);
        for call in ["Trust/CreateToken", "Certificates/Renew"] {
            let call = format!("/routemesh.v1.{call}");
            let (reason, _) = judge(&call, &Caller::Holder(peer.clone()), &admissions).unwrap_err();
            assert_eq!(reason, "revoked");
        }
        // In whatever role, and until admitted again.
        let lesser = Caller::Holder(Peer::new(Role::Viewer, "ann"));
        assert!(judge("/routemesh.v1.Operators/GetTopology", &lesser, &admissions).is_err());
        let gateway = Caller::Holder(Peer::new(Role::Gateway, "ann"));
        assert!(judge("/routemesh.v1.Agents/Attach", &gateway, &admissions).is_ok());
    }
}
