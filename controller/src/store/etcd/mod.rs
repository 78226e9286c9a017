//! etcd: the same store for any number of controllers. Every change compares the key "head" with what was
//! read before; etcd's consensus does the rest.
//!
//! ```text
//! head               what is in force, and where its long parts are
//! revision/00000007  who made the generation, when and how
//! blob/NAME/0000     what is too long for one value, in pieces, written before the head names it
//! wireguard/GATEWAY  token/DIGEST  admission/KIND/NAME  deed/WHEN-NAME
//! controller/URL     a controller that is there, beneath a lease of its own
//! ```
//!
//! Reports are not here: too much is written of them, and etcd keeps every version for a while. Controllers
//! tell each other (`serve::others`).

mod client;
mod revisions;
mod trust;
mod watch;

// As etcd's own documents have it.
#[allow(missing_docs, clippy::doc_markdown, clippy::enum_variant_names)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

use super::{Backend, Backup, Others, StoreError, StoredReport};
use crate::ids::Ids;
use crate::mesh::{Keys, Retired};
use api::{Blob, Compare, Head, KeptIds, KeptRetired, KeyValue, RequestOp};
use client::{Client, delete_all, is_away, name, put, unchanged};
use prost::Message;
use ring::rand::{SecureRandom, SystemRandom};
use routemesh_proto::{Config, Identity};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

/// etcd answers by then, or has no quorum.
const PATIENCE: Duration = Duration::from_secs(5);
/// One that did not answer is not asked again so soon.
const HOPELESS: Duration = Duration::from_secs(1);
/// It is pinged no more often than etcd allows.
const PING: Duration = Duration::from_secs(5);
/// A member that does not answer a ping by then is gone.
const PONG: Duration = Duration::from_secs(2);
/// etcd takes requests of 1.5 MiB.
const PIECE: usize = 1 << 20;
/// Of a transaction's 128 operations, so many are ours.
const OPERATIONS: usize = 100;
/// Whoever is always overtaken by others gives up.
const ATTEMPTS: usize = 10;

/// Whose answer is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// That of most members: what a change is made from.
    Quorum,
    /// That of one, if need be, who may not know the latest.
    Anyone,
}

/// A store in etcd.
#[derive(Debug)]
pub(super) struct Etcd {
    /// Of its own, so that whoever calls may wait, wherever that is.
    runtime: Option<Runtime>,
    client: Client,
    urls: String,
    /// Where other controllers reach this one.
    own: Option<String>,
    /// When it last did not answer, and has not since.
    silent: Mutex<Option<Instant>>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A place as an endpoint: TLS, but on this host.
fn endpoint(url: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, String> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|error| format!("{url}: {error}"))?;
    let endpoint = endpoint
        .connect_timeout(PONG)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true);
    let local = ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"];
    match tls {
        _ if local.iter().any(|it| url.starts_with(it)) => Ok(endpoint),
        Some(tls) if url.starts_with("https://") => endpoint
            .tls_config(tls.clone())
            .map_err(|error| error.to_string()),
        None if url.starts_with("https://") => Err(
            "give the directory with ca.pem, cert.pem and key.pem for etcd: --etcd-identity DIR"
                .to_owned(),
        ),
        _ => Err(format!("{url} is not https://HOST:PORT")),
    }
}

impl Etcd {
    /// Connects when something is asked for. `own`: where other controllers reach this one.
    pub(super) fn open(
        urls: &str,
        identity: Option<&Path>,
        own: Option<&str>,
    ) -> Result<Self, StoreError> {
        let wrong = |reason: String| StoreError::Place {
            urls: urls.to_owned(),
            reason,
        };
        let tls = identity.map(Identity::load).transpose();
        let tls = tls.map_err(|error| wrong(error.to_string()))?.map(|it| {
            let own = tonic::transport::Identity::from_pem(&it.certificate, it.expose_key());
            ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&it.ca))
                .identity(own)
        });
        let endpoints = urls
            .split(',')
            .map(|url| endpoint(url.trim(), tls.as_ref()));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let channel = {
            let _within = runtime.enter();
            Channel::balance_list(endpoints.into_iter())
        };
        Ok(Self {
            runtime: Some(runtime),
            client: Client::new(channel),
            urls: urls.to_owned(),
            own: own.map(str::to_owned),
            silent: Mutex::default(),
        })
    }

    fn away(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Etcd {
            urls: self.urls.clone(),
            reason: reason.into(),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            urls: self.urls.clone(),
            what: what.into(),
        }
    }

    /// Waits for a call, but not for ever; and not again where many wait for an etcd that is away.
    fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let answer = self.answer(call);
        answer.map_err(|status| self.away(reason(&status)))
    }

    fn answer<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        if self.is_silent(HOPELESS) {
            let text = "it did not answer a moment ago: has it lost its quorum?";
            return Err(Status::unavailable(text));
        }
        let done = self.ask(self.client.clone(), call);
        let mut since = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        *since = done.as_ref().is_err_and(is_away).then(Instant::now);
        done
    }

    /// Does all of it if all compares so, else nothing. An answer may be lost, and what is asked again compares
    /// with what it did itself: `made` says whether it was done.
    fn commit(
        &self,
        compare: Vec<Compare>,
        operations: Vec<RequestOp>,
        made: impl Fn() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let done = self.answer(|client| async move { client.commit(compare, operations).await });
        match done {
            Ok(true) => Ok(true),
            Ok(false) => made(),
            Err(status) if is_refusal(&status) => Err(self.away(reason(&status))),
            Err(status) => {
                // What is on its way may still arrive, and nobody asks earlier.
                std::thread::sleep(HOPELESS);
                match made() {
                    Ok(true) => Ok(true),
                    Ok(false) => Err(self.away(reason(&status))),
                    Err(error) => Err(self.away(format!(
                        "it is not known whether it was done (meshctl history and audit tell, when etcd is back): {error}"
                    ))),
                }
            }
        }
    }

    fn is_silent(&self, within: Duration) -> bool {
        let since = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < within)
    }

    fn ask<T, F>(&self, client: Client, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (done, answer) = std::sync::mpsc::channel();
        let call = call(client);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let _ = done.send(tokio::time::timeout(PATIENCE, call).await);
            });
        }
        match answer.recv() {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Status::unavailable(format!(
                "no answer within {} s: has it lost its quorum?",
                PATIENCE.as_secs()
            ))),
            Err(_) => Err(Status::unavailable("the controller is stopping")),
        }
    }

    /// For people, where there is no quorum, what one member has.
    fn read<T, F>(&self, whom: Whom, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        if whom == Whom::Quorum {
            return self.call(call);
        }
        if !self.is_silent(PATIENCE) {
            let done = self.call(&call);
            // What it answered, it would answer again.
            if done.is_ok() || !self.is_silent(PATIENCE) {
                return done;
            }
        }
        let alone = self.ask(self.client.clone().alone(), call);
        alone.map_err(|status| self.away(reason(&status)))
    }

    /// What is not there; one member may only not know it.
    fn missing<T>(&self, whom: Whom) -> Result<Option<T>, StoreError> {
        if whom == Whom::Anyone && self.is_silent(PATIENCE) {
            return Err(self.away("it has no quorum, and the member that answers does not know it"));
        }
        Ok(None)
    }

    fn get(&self, name: String) -> Result<Option<KeyValue>, StoreError> {
        self.call(|client| async move { client.get(&name).await })
    }

    fn list(&self, prefix: &'static str) -> Result<Vec<KeyValue>, StoreError> {
        self.call(move |client| async move { client.list(prefix, false).await })
    }

    fn decode<M: Message + Default>(&self, name: &str, bytes: &[u8]) -> Result<M, StoreError> {
        M::decode(bytes).map_err(|error| self.damaged(format!("{name}: {error}")))
    }

    /// A name that nobody else gives.
    fn random(&self) -> Result<String, StoreError> {
        let mut random = [0; 16];
        let filled = SystemRandom::new().fill(&mut random);
        filled.map_err(|_| self.away("this host has no random numbers"))?;
        Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Writes what may be long, in pieces; nothing names it yet.
    fn put_blob(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let name = self.random()?;
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let put = put(&format!("blob/{name}/{number:04}"), piece.to_vec());
            self.call(|client| async move { client.commit(Vec::new(), vec![put]).await })?;
        }
        let bytes = bytes.len() as u64;
        Ok(Blob { name, bytes })
    }

    /// `None` where it is not there, or not all of it: what named it is not in force any more.
    fn get_blob(&self, whom: Whom, blob: Option<&Blob>) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(blob) = blob else {
            return Ok(None);
        };
        let prefix = format!("blob/{}/", blob.name);
        let pieces = self.read(whom, |client| {
            let prefix = prefix.clone();
            async move { client.list(&prefix, false).await }
        })?;
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.value).collect();
        Ok((bytes.len() as u64 == blob.bytes).then_some(bytes))
    }

    fn delete_blob(&self, blob: Option<&Blob>) -> Result<(), StoreError> {
        let Some(blob) = blob else {
            return Ok(());
        };
        let delete = delete_all(&format!("blob/{}/", blob.name));
        let deleted =
            self.call(|client| async move { client.commit(Vec::new(), vec![delete]).await });
        deleted.map(drop)
    }

    /// A long part of what is in force. The next change may come between the head and what it names.
    fn of_head<M: Message + Default>(
        &self,
        what: &str,
        blob: impl Fn(&Head) -> Option<&Blob>,
    ) -> Result<Option<M>, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some((head, _)) = self.head()? else {
                return Ok(None);
            };
            if let Some(bytes) = self.get_blob(Whom::Quorum, blob(&head))? {
                return self.decode(what, &bytes).map(Some);
            }
        }
        Err(self.damaged(format!("{what}: not all of it is there")))
    }
}

// Values hold passwords and keys.
impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyValue({})", name(self))
    }
}

impl std::fmt::Debug for api::PutRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PutRequest({} bytes)", self.value.len())
    }
}

/// It has answered, and done nothing.
fn is_refusal(status: &Status) -> bool {
    let codes = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
    ];
    !is_away(status) && codes.contains(&status.code())
}

fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => format!(
            "{text} (its user is the common name of cert.pem, and needs readwrite beneath /routemesh/)"
        ),
        Code::ResourceExhausted => {
            format!("{text} (docs/operations.md tells how to make room)")
        }
        _ => text,
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}

fn encode_ids(ids: &Ids) -> Vec<u8> {
    let ids = ids.iter().map(|(owner, address, id)| api::kept_ids::Id {
        owner: owner.to_owned(),
        address: address.to_owned(),
        id,
    });
    KeptIds { ids: ids.collect() }.encode_to_vec()
}

fn encode_retired(retired: &Retired) -> Vec<u8> {
    let gateways = retired
        .iter()
        .map(|(name, config)| api::kept_retired::Gateway {
            name: name.clone(),
            config: config.encode_to_vec(),
        });
    let gateways = gateways.collect();
    KeptRetired { gateways }.encode_to_vec()
}

impl Backend for Etcd {
    fn ids(&self) -> Result<Ids, StoreError> {
        let mut ids = Ids::default();
        let kept: Option<KeptIds> = self.of_head("ids", |head| head.ids.as_ref())?;
        for it in kept.into_iter().flat_map(|kept| kept.ids) {
            ids.insert(it.owner, it.address, it.id);
        }
        Ok(ids)
    }

    fn retired(&self) -> Result<Retired, StoreError> {
        let mut retired = Retired::new();
        let kept: Option<KeptRetired> = self.of_head("retired", |head| head.retired.as_ref())?;
        for it in kept.into_iter().flat_map(|kept| kept.gateways) {
            let config: Config = self.decode(&it.name, &it.config)?;
            retired.insert(it.name, config);
        }
        Ok(retired)
    }

    fn keys(&self) -> Result<Keys, StoreError> {
        let keys = self.list("wireguard/")?.into_iter().filter_map(|kv| {
            let gateway = name(&kv).strip_prefix("wireguard/")?.to_owned();
            let key = std::str::from_utf8(&kv.value).ok()?.parse().ok()?;
            Some((gateway, key))
        });
        Ok(keys.collect())
    }

    fn save_keys(&mut self, keys: &Keys) -> Result<(), StoreError> {
        // Nobody is revoked in between, whose key would come back.
        let mut admitted = BTreeMap::new();
        for kv in self.list("admission/gateway/")? {
            let gateway = name(&kv).trim_start_matches("admission/gateway/");
            let admission = trust::admission(&self.decode("an admission", &kv.value)?);
            admitted.insert(gateway.to_owned(), (admission, kv.mod_revision));
        }
        let keys = keys.iter().filter_map(|(gateway, key)| {
            let known = admitted.get(gateway);
            let (admission, revision) = known.copied().unwrap_or_default();
            let admission_key = format!("admission/gateway/{gateway}");
            let put = put(
                &format!("wireguard/{gateway}"),
                key.to_string().into_bytes(),
            );
            (!admission.revoked).then(|| (unchanged(&admission_key, revision), put))
        });
        let keys: Vec<_> = keys.collect();
        for some in keys.chunks(OPERATIONS) {
            let (compare, puts) = some.iter().cloned().unzip();
            if !self.call(|client| async move { client.commit(compare, puts).await })? {
                return Err(StoreError::Overtaken);
            }
        }
        Ok(())
    }

    fn reports(&self) -> Result<Vec<StoredReport>, StoreError> {
        Ok(Vec::new())
    }

    fn save_reports(&mut self, _: &[StoredReport]) -> Result<(), StoreError> {
        Ok(())
    }

    fn backup(&self) -> Option<Backup> {
        None
    }

    fn controllers(&self) -> Result<BTreeSet<String>, StoreError> {
        let there = self.list("controller/")?;
        Ok(there.iter().filter_map(watch::address).collect())
    }

    fn others(&mut self) -> Option<Others> {
        let runtime = self.runtime.as_ref()?;
        let own = self.own.clone()?;
        Some(watch::start(runtime, &self.client, own))
    }
}
