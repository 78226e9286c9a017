//! A connection to one of several controllers.

use hyper_util::client::legacy::connect::HttpConnector;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;
use tonic::codegen::Service;
use tonic::transport::Uri;

/// One that has not answered by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Connects to whichever of them answers first. Every connection begins with another one, the first with any,
/// so that those who dial are spread, and one that answers and is no good is not tried for ever.
#[derive(Clone, Debug)]
pub(super) struct OneOf {
    uris: Vec<Uri>,
    next: usize,
    http: HttpConnector,
}

impl OneOf {
    pub(super) fn new(uris: Vec<Uri>) -> Self {
        let mut http = HttpConnector::new();
        // What is https comes on top.
        http.enforce_http(false);
        http.set_nodelay(true);
        // As good as random, and differs from process to process.
        let next = RandomState::new().hash_one(0) as usize % uris.len().max(1);
        Self { uris, next, http }
    }

    /// For all of them, and what is agreed on after.
    pub(super) fn patience(&self) -> Duration {
        PATIENCE * u32::try_from(self.uris.len() + 1).unwrap_or(u32::MAX)
    }
}

impl Service<Uri> for OneOf {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.http.poll_ready(context).map_err(io::Error::other)
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (before, after) = self.uris.split_at(self.next.min(self.uris.len()));
        let order: Vec<Uri> = after.iter().chain(before).cloned().collect();
        self.next = (self.next + 1) % self.uris.len().max(1);
        let mut http = self.http.clone();
        Box::pin(async move {
            let mut failures = Vec::new();
            for uri in order {
                let failure = match timeout(PATIENCE, http.call(uri.clone())).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                failures.push(format!("{uri}: {failure}"));
            }
            Err(io::Error::other(failures.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// From whichever it begins: of those that nobody is at, none is a reason to give up.
    #[tokio::test]
    async fn it_finds_the_one_that_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        let uri = |address| format!("https://{address}").parse::<Uri>().unwrap();
        let mut one_of = OneOf::new(vec![uri(nobody), uri(there), uri(nobody)]);
        for _ in 0..6 {
            let connected = one_of.call(uri(nobody)).await.unwrap();
            assert_eq!(connected.inner().peer_addr().unwrap(), there);
        }
        drop(listener);
        let error = one_of.call(uri(nobody)).await.unwrap_err().to_string();
        assert!(error.contains(&nobody.to_string()) && error.contains(&there.to_string()));
    }

    /// Connections begin with another each time.
    #[tokio::test]
    async fn connections_are_spread() {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let uris = listeners.iter().map(|it| {
            let address = it.local_addr().unwrap();
            format!("https://{address}").parse::<Uri>().unwrap()
        });
        let mut one_of = OneOf::new(uris.collect());
        let mut reached = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let connected = one_of.call(Uri::default()).await.unwrap();
            reached.insert(connected.inner().peer_addr().unwrap());
        }
        assert_eq!(reached.len(), 3);
    }
}
