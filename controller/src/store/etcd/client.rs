//! Calls of etcd's API, all of them beneath one prefix.

use super::api::compare::{CompareResult, CompareTarget, TargetUnion};
use super::api::kv_client::KvClient;
use super::api::lease_client::LeaseClient;
use super::api::range_request::SortOrder;
use super::api::request_op::Request as Operation;
use super::api::watch_client::WatchClient;
use super::api::{
    Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
    WatchResponse, watch_request,
};
use std::future::Future;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

/// Everything of ours in etcd is beneath it.
const PREFIX: &str = "/routemesh/";
/// What one answer may hold.
const LARGEST: usize = 64 << 20;
/// What is long is read so many at a time: each is at most a mebibyte or so;
const PIECES: i64 = 32;
/// what is short, so many.
const PAGE: i64 = 1_000;
/// Names, without their values, so many.
const NAMES: i64 = 10_000;
/// As often a call is repeated that no member has taken, with pauses.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// A member that has not answered by then may be gone; another is asked.
const TRIAL: Duration = Duration::from_secs(2);

/// A connection to etcd.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
    /// Reads what a member has, though it may have lost the others.
    alone: bool,
}

/// The name of a key without our prefix.
pub(super) fn name(kv: &KeyValue) -> &str {
    let key = std::str::from_utf8(&kv.key).unwrap_or_default();
    key.strip_prefix(PREFIX).unwrap_or_default()
}

fn key(name: &str) -> Vec<u8> {
    format!("{PREFIX}{name}").into_bytes()
}

/// Above all keys that begin so: our names end in a letter, a digit or a slash.
fn above(prefix: &str) -> Vec<u8> {
    let mut key = key(prefix);
    if let Some(last) = key.last_mut() {
        *last = last.saturating_add(1);
    }
    key
}

pub(super) fn put(name: &str, value: Vec<u8>) -> RequestOp {
    put_leased(name, value, 0)
}

/// It goes when the lease does.
pub(super) fn put_leased(name: &str, value: Vec<u8>, lease: i64) -> RequestOp {
    let put = PutRequest {
        key: key(name),
        value,
        lease,
    };
    RequestOp {
        request: Some(Operation::RequestPut(put)),
    }
}

pub(super) fn delete(name: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: key(name),
        range_end: Vec::new(),
    };
    RequestOp {
        request: Some(Operation::RequestDeleteRange(delete)),
    }
}

pub(super) fn delete_all(prefix: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: key(prefix),
        range_end: above(prefix),
    };
    RequestOp {
        request: Some(Operation::RequestDeleteRange(delete)),
    }
}

/// The key is as it was read; 0: it is not there.
pub(super) fn unchanged(name: &str, mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key(name),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        range_end: Vec::new(),
    }
}

/// No key that begins so has come or changed since they were listed.
pub(super) fn none_since(prefix: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Mod.into(),
        key: key(prefix),
        target_union: Some(TargetUnion::ModRevision(revision.saturating_add(1))),
        range_end: above(prefix),
    }
}

/// How many of them one answer holds.
fn page(prefix: &str, names: bool) -> i64 {
    match prefix.starts_with("blob/") {
        _ if names => NAMES,
        true => PIECES,
        false => PAGE,
    }
}

/// Nobody is there who could do it; what etcd refuses, it has answered.
pub(super) fn is_away(status: &Status) -> bool {
    // What breaks on the way has many codes, and a cause.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// A member that is gone is no reason to give up, as long as another takes its place.
async fn retried<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut attempts = 0;
    loop {
        let tried = tokio::time::timeout(TRIAL, call()).await;
        let tried = tried.unwrap_or_else(|_| Err(Status::unavailable("no answer")));
        match tried {
            Err(status) if is_away(&status) && attempts < ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done.map(Response::into_inner),
        }
    }
}

impl Client {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            alone: false,
        }
    }

    /// The same, for reading what may be a little old, without a quorum too.
    pub(super) fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }

    /// A member that knows no leader refuses at once, and ends watches that would hear nothing.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.alone {
            let metadata = request.metadata_mut();
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let request = RangeRequest {
            serializable: self.alone,
            ..request
        };
        let range = || {
            let (mut kv, request) = (self.kv(), self.request(request.clone()));
            async move { kv.range(request).await }
        };
        retried(range).await
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<KeyValue>, Status> {
        let request = RangeRequest {
            key: key(name),
            ..RangeRequest::default()
        };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// The last keys that begin so, the last one first, and no more than asked for.
    pub(super) async fn last(&self, prefix: &str, limit: u32) -> Result<Vec<KeyValue>, Status> {
        let mut found: Vec<KeyValue> = Vec::new();
        let mut end = above(prefix);
        loop {
            let wanted = i64::from(limit) - i64::try_from(found.len()).unwrap_or(i64::MAX);
            // To etcd, none is all.
            if wanted <= 0 {
                return Ok(found);
            }
            let request = RangeRequest {
                key: key(prefix),
                range_end: end.clone(),
                limit: wanted.min(page(prefix, false)),
                sort_order: SortOrder::Descend.into(),
                ..RangeRequest::default()
            };
            let reply = self.range(request).await?;
            found.extend(reply.kvs);
            match found.last() {
                Some(last) if reply.more => end.clone_from(&last.key),
                _ => return Ok(found),
            }
        }
    }

    /// All keys that begin so, in order, as they were at one moment; `names`: without their values.
    pub(super) async fn list(&self, prefix: &str, names: bool) -> Result<Vec<KeyValue>, Status> {
        let (found, _) = self.list_at(prefix, names).await?;
        Ok(found)
    }

    /// The same, and that moment, as etcd counts.
    pub(super) async fn list_at(
        &self,
        prefix: &str,
        names: bool,
    ) -> Result<(Vec<KeyValue>, i64), Status> {
        let mut found: Vec<KeyValue> = Vec::new();
        let (mut from, mut revision) = (key(prefix), 0);
        loop {
            let request = RangeRequest {
                key: from,
                range_end: above(prefix),
                limit: page(prefix, names),
                revision,
                keys_only: names,
                ..RangeRequest::default()
            };
            let reply = self.range(request).await?;
            if revision == 0 {
                revision = reply.header.map_or(0, |header| header.revision);
            }
            found.extend(reply.kvs);
            match found.last() {
                Some(last) if reply.more => {
                    from = last.key.clone();
                    from.push(0);
                }
                _ => return Ok((found, revision)),
            }
        }
    }

    /// Does all of it if all compares so, else nothing. Where an answer was lost it is asked again, and compares
    /// with what it did itself: see [`super::Etcd::commit`].
    pub(super) async fn commit(
        &self,
        compare: Vec<Compare>,
        success: Vec<RequestOp>,
    ) -> Result<bool, Status> {
        let request = TxnRequest {
            compare,
            success,
            failure: Vec::new(),
        };
        let txn = || {
            let (mut kv, request) = (self.kv(), self.request(request.clone()));
            async move { kv.txn(request).await }
        };
        Ok(retried(txn).await?.succeeded)
    }

    /// What is beneath the lease goes when it is not renewed for so many seconds.
    pub(super) async fn lease(&self, seconds: i64) -> Result<i64, Status> {
        let grant = || {
            let mut leases = LeaseClient::new(self.channel.clone());
            let request = self.request(LeaseGrantRequest { ttl: seconds });
            async move { leases.lease_grant(request).await }
        };
        Ok(retried(grant).await?.id)
    }

    /// Whether the lease was still there.
    pub(super) async fn renew(&self, lease: i64) -> Result<bool, Status> {
        let mut leases = LeaseClient::new(self.channel.clone());
        let request = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }]);
        let replies = leases.lease_keep_alive(self.request(request)).await?;
        let reply = replies.into_inner().message().await?;
        Ok(reply.is_some_and(|reply| reply.ttl > 0))
    }

    /// All that changes beneath these prefixes, from now on.
    pub(super) async fn watch(
        &self,
        prefixes: &[&str],
    ) -> Result<Streaming<WatchResponse>, Status> {
        let create = |prefix: &&str| {
            let create = WatchCreateRequest {
                key: key(prefix),
                range_end: above(prefix),
                start_revision: 0,
            };
            WatchRequest {
                request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
            }
        };
        let create: Vec<_> = prefixes.iter().map(create).collect();
        // The watch ends with our side of the stream.
        let requests = tokio_stream::iter(create).chain(tokio_stream::pending());
        let mut watches = WatchClient::new(self.channel.clone()).max_decoding_message_size(LARGEST);
        Ok(watches.watch(self.request(requests)).await?.into_inner())
    }
}
