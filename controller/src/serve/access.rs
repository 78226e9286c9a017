//! Who may call what: one table, looked at before a request is read.

use super::figures::Figures;
use crate::admission::Admissions;
use crate::ca::{Peer, PeerError, Role};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service, http};
use tonic::{Code, Request, Status};
use tower::Layer;
use tracing::{debug, warn};

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Everybody, without a certificate too.
    Anybody,
    /// Gateways, and people of whatever role.
    Holders,
    /// Whoever has this role, or one that includes it.
    Role(Role),
}

/// Every call there is. One that is missing here is refused to all.
const CALLS: &[(&str, For)] = &[
    // Whether there is anybody, for load balancers and watchdogs.
    ("/grpc.health.v1.Health/Check", For::Anybody),
    ("/grpc.health.v1.Health/Watch", For::Anybody),
    // What calls there are, for `grpcurl` and the like.
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        For::Holders,
    ),
    ("/routemesh.v1.Agents/Attach", For::Role(Role::Gateway)),
    ("/routemesh.v1.Certificates/Enroll", For::Anybody),
    ("/routemesh.v1.Certificates/Renew", For::Holders),
    ("/routemesh.v1.Certificates/GetAuthorities", For::Holders),
    (
        "/routemesh.v1.Controllers/Follow",
        For::Role(Role::Controller),
    ),
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
    ("/routemesh.v1.Asks/Ping", For::Role(Role::Viewer)),
    ("/routemesh.v1.Asks/Doctor", For::Role(Role::Viewer)),
    ("/routemesh.v1.Asks/Trace", For::Role(Role::Viewer)),
    // What people send to each other, and what agents say of it.
    ("/routemesh.v1.Asks/Capture", For::Role(Role::Operator)),
    ("/routemesh.v1.Asks/GetLogs", For::Role(Role::Operator)),
    ("/routemesh.v1.Asks/GetEvents", For::Role(Role::Viewer)),
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
        return Err(("revoked", gone(peer)));
    }
    match whom {
        For::Role(least) if !peer.role.includes(*least) => Err((
            "wrong role",
            Status::permission_denied(format!(
                "the certificate is of {peer}: this needs one of role {least}"
            )),
        )),
        For::Holders if peer.role == Role::Controller => Err((
            "wrong role",
            Status::permission_denied(format!(
                "the certificate is of {peer}, which makes its own and follows others, and nothing else"
            )),
        )),
        _ => Ok(()),
    }
}

fn gone(peer: &Peer) -> Status {
    Status::permission_denied(format!(
        "{peer} was revoked: an administrator's `meshctl token create` lets it enroll again"
    ))
}

/// What one who is revoked is told then.
type Revoked = Pin<Box<dyn Future<Output = Status> + Send>>;

async fn revoked(mut admissions: watch::Receiver<Arc<Admissions>>, peer: Peer) -> Status {
    // It cannot change any more once the sender is gone: the controller is stopping.
    if admissions.wait_for(|all| !all.admit(&peer)).await.is_err() {
        std::future::pending().await
    }
    gone(&peer)
}

/// Who calls. The table has let them pass.
#[allow(clippy::result_large_err)]
pub(super) fn caller<T>(request: &Request<T>) -> Result<Peer, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Holder(peer)) => Ok(peer.clone()),
        _ => Err(Status::unauthenticated("no certificate was shown")),
    }
}

/// Calls of a person at once, whatever connections they come by: each may be a specification of megabytes.
const OF_PERSON: usize = 16;
/// Calls of a gateway at once: it has a stream or two, and a report may be larger still.
const OF_GATEWAY: usize = 8;

/// Who has how many calls under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Mutex<HashMap<String, Weak<()>>>>);

impl Calls {
    /// One more, until what is given is dropped; `None` where it would be too many.
    fn enter(&self, peer: &Peer) -> Option<Arc<()>> {
        let most = match peer.role {
            Role::Gateway => OF_GATEWAY,
            _ => OF_PERSON,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many names as there are good certificates.
        let own = all.entry(peer.uri()).or_default();
        let Some(one) = own.upgrade() else {
            let first = Arc::new(());
            *own = Arc::downgrade(&first);
            return Some(first);
        };
        // The one in hand is not a call yet.
        (Arc::strong_count(&one) <= most).then_some(one)
    }
}

/// An answer, which is a call of its caller's until its end, and ends where they are revoked.
struct Answer {
    body: Body,
    /// `None` once it is done.
    revoked: Option<Revoked>,
    _call: Arc<()>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let revoked = self.revoked.as_mut().map(|it| it.as_mut().poll(context));
        if let Some(Poll::Ready(status)) = revoked {
            (self.revoked, self.body) = (None, Body::empty());
            let headers = status.into_http::<Body>().into_parts().0.headers;
            return Poll::Ready(Some(Ok(http_body::Frame::trailers(headers))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Stands before all services.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) figures: Arc<Figures>,
    pub(super) admissions: watch::Receiver<Arc<Admissions>>,
    pub(super) calls: Calls,
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
        let admitted = judged.and_then(|()| match caller {
            Caller::Holder(peer) => match self.gate.calls.enter(peer) {
                Some(call) => {
                    let revoked = revoked(self.gate.admissions.clone(), peer.clone());
                    Ok(Some((call, Box::pin(revoked))))
                }
                None => {
                    let text = format!("{peer} has too many calls under way: wait for their ends");
                    Err(("too many calls", Status::resource_exhausted(text)))
                }
            },
            Caller::Nobody | Caller::Unclear(_) => Ok(None),
        });
        let own = match admitted {
            Ok(own) => own,
            Err((reason, status)) => {
                self.gate.figures.refusals.count(reason);
                match caller {
                    // Anybody can make so many of these that the log shows nothing else.
                    Caller::Nobody => debug!("{call} refused: {reason}"),
                    caller => warn!("{call} refused to {caller:?}: {reason}"),
                }
                return Box::pin(async { Ok(status.into_http()) });
            }
        };
        let answered = self.inner.call(request);
        let refusals = self.gate.figures.refusals.clone();
        let Some((call, mut revoked)) = own else {
            return Box::pin(async move {
                let answer = answered.await?;
                too_large(&answer, &refusals);
                Ok(answer)
            });
        };
        Box::pin(async move {
            let answer = tokio::select! {
                answer = answered => answer?,
                status = &mut revoked => return Ok(status.into_http()),
            };
            too_large(&answer, &refusals);
            Ok(answer.map(|body| {
                Body::new(Answer {
                    body,
                    revoked: Some(revoked),
                    _call: call,
                })
            }))
        })
    }
}

/// Counts a message that was larger than any of its kind may be.
fn too_large(answer: &http::Response<Body>, refusals: &Refusals) {
    let status = Status::from_header_map(answer.headers());
    if status.is_some_and(|it| it.code() == Code::OutOfRange) {
        refusals.count("message too large");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 5] = [
        Role::Gateway,
        Role::Viewer,
        Role::Operator,
        Role::Admin,
        Role::Controller,
    ];

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
        use Role::{Admin, Controller, Gateway, Operator, Viewer};
        let may = |call: &str| who_may(&format!("/routemesh.v1.{call}"));
        assert_eq!(may("Agents/Attach"), [Gateway]);
        assert_eq!(may("Operators/GetTopology"), [Viewer, Operator, Admin]);
        assert_eq!(may("Operators/Apply"), [Operator, Admin]);
        assert_eq!(may("Operators/GetPlan"), [Operator, Admin]);
        assert_eq!(may("Trust/CreateToken"), [Admin]);
        assert_eq!(
            may("Certificates/Renew"),
            [Gateway, Viewer, Operator, Admin]
        );
        assert_eq!(may("Controllers/Follow"), [Controller]);
        assert_eq!(may("Asks/Doctor"), [Viewer, Operator, Admin]);
        assert_eq!(may("Asks/Capture"), [Operator, Admin]);
        assert_eq!(may("Operators/Unheard"), []);
    }

    #[test]
    fn no_call_of_the_protocol_is_forgotten() {
        let of_protocol: Vec<String> = [
            include_str!("../../../proto/routemesh.proto"),
            include_str!("../../../proto/trust.proto"),
            include_str!("../../../proto/controllers.proto"),
            include_str!("../../../proto/ask.proto"),
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
