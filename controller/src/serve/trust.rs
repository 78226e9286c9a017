//! What administrators do with identities.

use super::access::caller;
use super::history::utc;
use super::operators::status;
use super::state::{ApplyError, New, State, lock};
use crate::ca::{Authority, Peer, RequestError, Requested, Role};
use crate::mesh::Mesh;
use crate::spec::{self, check_name};
use crate::store::{Deed, Kind, Store, StoreError, Token};
use ring::rand::{SecureRandom, SystemRandom};
use routemesh_proto::trust_server::Trust;
use routemesh_proto::{
    Audit, AuditEntry, AuditRequest, CreateTokenReply, CreateTokenRequest, Refusal, RevokeReply,
    RevokeRequest, fingerprint,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};
use tracing::{error, info};

/// A token is good for no longer than this.
const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// So often another controller may come first.
const ATTEMPTS: u32 = 10;

/// Why a token is no good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRefused {
    #[error(
        "the controller knows no such token, or has forgotten it: `meshctl token create` makes another"
    )]
    Unknown,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(
        "the token of {0} was used {1} s ago, and is good for one time: if that was not you, `meshctl revoke` it; \
         `meshctl token create` makes another", .of, .ago.as_secs()
    )]
    Used { of: String, ago: Duration },
    #[error("the token of {0} has run out {1} s ago: `meshctl token create` makes another", .of, .ago.as_secs())]
    Expired { of: String, ago: Duration },
    #[error("the token is for {0}, and not for {1:?}", .of, .name)]
    Other { of: String, name: String },
}

/// Whether a token is good for whoever asks in that name.
fn judge(token: &Token, name: &str, now: SystemTime) -> Result<(), TokenRefused> {
    let of = format!("{} {}", token.role, token.name);
    let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
    if let Some(used) = token.used {
        let ago = since(used);
        return Err(TokenRefused::Used { of, ago });
    }
    if now > token.expires {
        let ago = since(token.expires);
        return Err(TokenRefused::Expired { of, ago });
    }
    if name != token.name {
        let name = name.chars().take(64).collect();
        return Err(TokenRefused::Other { of, name });
    }
    Ok(())
}

/// A defect of ours.
pub(super) fn broken(error: tokio::task::JoinError) -> Status {
    error!("a call failed: {error}");
    Status::internal("the controller failed; its log says more")
}

impl State {
    /// Names that were revoked, now and whenever that changes.
    pub(super) fn admissions(&self) -> watch::Receiver<Arc<crate::admission::Admissions>> {
        self.admissions.subscribe()
    }

    /// Keeps a token. Blocks on the disk.
    fn add_token(&self, who: &Peer, token: &Token, now: SystemTime) -> Result<(), StoreError> {
        let mut store = lock(&self.store);
        store.add_token(token, now)?;
        store.note(&Deed {
            at: now,
            who: who.to_string(),
            what: "token".to_owned(),
            detail: format!("{} {}", token.role, token.name),
        })
    }

    /// Lets no certificate of a name be good any more. Those of a gateway's peers that are connected have
    /// forgotten it when this returns, or are being told. Blocks on the disk.
    fn revoke(&self, who: &Peer, role: Role, name: &str) -> Result<RevokeReply, ApplyError> {
        let mut store = lock(&self.store);
        let store = &mut *store;
        self.refresh(store)?;
        let mut admissions = self.admissions.borrow().as_ref().clone();
        let before = admissions.of(role, name);
        let admission = admissions.revoke(role, name);
        // Also where an earlier attempt came no further than the admission.
        let in_mesh = |mesh: &Arc<Mesh>| role == Role::Gateway && mesh.gateway(name).is_some();
        let in_force = self.mesh.borrow().as_ref().is_some_and(in_mesh);
        if admission != before {
            let kind = match role {
                Role::Gateway => "gateway",
                _ => "person",
            };
            let deed = Deed {
                at: SystemTime::now(),
                who: who.to_string(),
                what: "revoke".to_owned(),
                detail: format!("{kind} {name}"),
            };
            store.save_admission(role, name, before, admission, Some(&deed))?;
            lock(&self.told).remove(name);
            self.admit(admissions);
        }
        if in_force {
            let again = self.again(store, &who.name, Kind::Revoke, name);
            again.map_err(|source| ApplyError::Revoked {
                name: name.to_owned(),
                source: Box::new(source),
            })?;
        }
        let mesh = self.mesh.borrow();
        Ok(RevokeReply {
            generation: mesh.as_ref().map_or(0, |mesh| mesh.generation),
            unchanged: admission == before && !in_force,
        })
    }

    /// Puts the specification in force once more, as a gateway of it is revoked or admitted: nothing
    /// happens where it has no such gateway. What one site tries, maybe with that gateway, is not waited for:
    /// all go back. Where another controller makes a generation at that moment, this one comes after it.
    fn again(
        &self,
        store: &mut Store,
        who: &str,
        kind: Kind,
        gateway: &str,
    ) -> Result<(), ApplyError> {
        let mut attempts = ATTEMPTS;
        loop {
            let moved = match self.once_more(store, who, kind, gateway) {
                Err(ApplyError::Store(moved @ StoreError::Moved { .. })) => moved,
                done => return done,
            };
            attempts -= 1;
            if attempts == 0 {
                return Err(moved.into());
            }
            self.refresh(store)?;
        }
    }

    fn once_more(
        &self,
        store: &mut Store,
        who: &str,
        kind: Kind,
        gateway: &str,
    ) -> Result<(), ApplyError> {
        let trial = self
            .mesh
            .borrow()
            .as_ref()
            .and_then(|mesh| mesh.trial.clone());
        let revision = match &trial {
            Some(trial) => store.revision(trial.before.generation)?,
            None => store.current()?,
        };
        let Some(revision) = revision else {
            return Ok(());
        };
        let (file, text) = (&*revision.file, revision.text.expose());
        let spec = spec::parse(file, text)?;
        if trial.is_some() || spec.gateway(gateway).is_some() {
            let new = New {
                operator: who,
                kind,
                summary: gateway.to_owned(),
                file,
                text,
                spec,
                trial: None,
            };
            self.install(store, new)?;
        }
        Ok(())
    }

    /// What was done, the latest first. Blocks on the disk.
    fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let (deeds, generations) = {
            let store = lock(&self.store);
            (store.deeds(limit)?, store.history(limit)?)
        };
        let deeds = deeds.into_iter().map(|it| {
            let entry = AuditEntry {
                at: utc(it.at),
                who: it.who,
                what: it.what,
                detail: it.detail,
                ..AuditEntry::default()
            };
            (it.at, entry)
        });
        let generations = generations.into_iter().map(|it| {
            let entry = AuditEntry {
                at: utc(it.at),
                who: it.operator,
                what: it.kind.to_string(),
                detail: it.summary,
                from: it.generation.saturating_sub(1),
                to: it.generation,
            };
            (it.at, entry)
        });
        let mut all: Vec<_> = deeds.chain(generations).collect();
        all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        all.truncate(limit.try_into().unwrap_or(usize::MAX));
        Ok(all.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Uses a token up, for the name in a request (PKCS#10, DER), which is looked at for no stranger; says whom
    /// to certify. Blocks on the disk.
    pub(super) fn use_token(
        &self,
        digest: &[u8; 32],
        request: &[u8],
        now: SystemTime,
    ) -> Result<Result<(Peer, Requested), TokenRefused>, StoreError> {
        let mut store = lock(&self.store);
        let Some(token) = store.token(digest)? else {
            return Ok(Err(TokenRefused::Unknown));
        };
        let requested = match Requested::parse(request) {
            Ok(requested) => requested,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Err(refused) = judge(&token, &requested.name, now) {
            return Ok(Err(refused));
        }
        self.refresh(&store)?;
        // Another controller may have been first since.
        let mut admissions = self.admissions.borrow().as_ref().clone();
        let admission = admissions.enroll(token.role, &token.name);
        let peer = Peer {
            role: token.role,
            name: token.name.clone(),
            admission: admission.number,
        };
        let deed = Deed {
            at: now,
            who: peer.to_string(),
            what: "enroll".to_owned(),
            detail: String::new(),
        };
        if !store.use_token(&token, &deed)? {
            let ago = Duration::ZERO;
            let of = token.name;
            return Ok(Err(TokenRefused::Used { of, ago }));
        }
        let changed = admissions != **self.admissions.borrow();
        if changed {
            self.admit(admissions);
        }
        if changed && peer.role == Role::Gateway {
            let admitted = self.again(&mut store, &peer.name, Kind::Admit, &peer.name);
            // It has its certificate all the same, and the next specification has it.
            if let Err(failure) = admitted {
                error!("{peer} is not in the mesh again: {failure}");
            }
        }
        Ok(Ok((peer, requested)))
    }
}

pub(super) struct TrustService {
    pub(super) state: Arc<State>,
    pub(super) authority: Authority,
}

#[async_trait]
impl Trust for TrustService {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let administrator = caller(&request)?;
        let CreateTokenRequest {
            role,
            name,
            lifetime,
        } = request.into_inner();
        let role: Role = role.parse().map_err(Status::invalid_argument)?;
        if role == Role::Controller {
            let text = "a controller makes its own certificate: give it the authority's key and certificates";
            return Err(Status::invalid_argument(text));
        }
        check_name(&name).map_err(Status::invalid_argument)?;
        let lifetime = Duration::from_secs(lifetime);
        if lifetime.is_zero() || lifetime > LONGEST_LIFETIME {
            let text = "a token is good for a second to seven days";
            return Err(Status::invalid_argument(text));
        }
        let mut secret = [0; 32];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| Status::internal("the host gives no random numbers"))?;
        let now = SystemTime::now();
        let token = Token {
            digest: fingerprint(&secret),
            role,
            name,
            expires: now + lifetime,
            used: None,
        };
        let known = role != Role::Gateway
            || self
                .state
                .mesh()
                .borrow()
                .as_ref()
                .is_some_and(|mesh| mesh.spec.gateway(&token.name).is_some());
        let (state, authority) = (self.state.clone(), self.authority.clone());
        let (of, who) = (format!("{role} {}", token.name), administrator.clone());
        let work = move || -> Result<[u8; 32], Status> {
            let fingerprint = authority.fingerprint().map_err(|error| {
                error!("no token can be made: {error}");
                Status::internal(error.to_string())
            })?;
            let added = state.add_token(&who, &token, now);
            added.map_err(|failure| status("make a token", failure.into()))?;
            Ok(fingerprint)
        };
        let authority = tokio::task::spawn_blocking(work).await.map_err(broken)??;
        info!("{administrator} makes a token for {of}, good for {lifetime:?}");
        Ok(Response::new(CreateTokenReply {
            secret: secret.to_vec(),
            authority: authority.to_vec(),
            known,
        }))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeReply>, Status> {
        let administrator = caller(&request)?;
        let RevokeRequest { name, person } = request.into_inner();
        check_name(&name).map_err(Status::invalid_argument)?;
        if person && name == administrator.name {
            let text = "you would lock yourself out: let another administrator revoke you";
            return Err(Status::failed_precondition(text));
        }
        let role = if person { Role::Viewer } else { Role::Gateway };
        let of = format!("{} {name}", if person { "person" } else { "gateway" });
        info!("{administrator} revokes {of}");
        let state = self.state.clone();
        let work = move || state.revoke(&administrator, role, &name);
        let revoked = tokio::task::spawn_blocking(work).await.map_err(broken)?;
        let revoked = revoked.map_err(|failure| status(&format!("revoke {of}"), failure));
        revoked.map(Response::new)
    }

    async fn get_audit(&self, request: Request<AuditRequest>) -> Result<Response<Audit>, Status> {
        let limit = match request.into_inner().limit {
            0 => u32::MAX,
            some => some,
        };
        let state = self.state.clone();
        let entries = tokio::task::spawn_blocking(move || state.audit(limit)).await;
        let entries = entries.map_err(broken)?;
        let refusals = self.state.figures.refusals.all().into_iter();
        Ok(Response::new(Audit {
            entries: entries.map_err(|failure| status("tell what was done", failure.into()))?,
            refusals: refusals
                .map(|(reason, count)| Refusal {
                    reason: reason.to_owned(),
                    count,
                })
                .collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_token_is_good_once_in_time_and_for_one() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        let token = Token {
            digest: [0; 32],
            role: Role::Gateway,
            name: "V1".to_owned(),
            expires: now,
            used: None,
        };
        assert_eq!(judge(&token, "V1", now), Ok(()));
        let text = |refused: Result<(), TokenRefused>| refused.unwrap_err().to_string();
        assert_eq!(
            text(judge(&token, "V2", now)),
            "the token is for gateway V1, and not for \"V2\""
        );
        assert!(text(judge(&token, "V1", now + second)).contains("has run out 1 s ago"));
        let used = Token {
            used: Some(now - second),
            ..token
        };
        // Also by the same again, and after it has run out.
        for at in [now, now + second] {
            assert!(text(judge(&used, "V1", at)).contains("of gateway V1 was used"));
        }
    }
}
