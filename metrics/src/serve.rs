//! A page over HTTP: one request for each connection, a few at a time, none for long.

use crate::Page;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// So many are answered at once; others wait.
const AT_ONCE: usize = 8;
/// For a whole connection.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Bytes of a request.
const LONGEST: usize = 16 << 10;
/// How long to rest where nobody can be let in.
const REST: Duration = Duration::from_secs(1);

const TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Why nothing is served.
#[derive(Debug)]
pub struct ServeError {
    address: String,
    source: std::io::Error,
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, source } = self;
        write!(
            f,
            "cannot serve metrics at {address}: {source}; it is an address and a port, like [::1]:7180"
        )
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens the port.
pub async fn listen(address: &str) -> Result<TcpListener, ServeError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ServeError {
        address: address.to_owned(),
        source,
    })
}

/// Gives whoever asks for `/metrics` the page that `page` makes then, for ever.
pub async fn serve(listener: TcpListener, page: impl Fn() -> Page + Send + Sync + 'static) {
    let page = Arc::new(page);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    // It is never closed.
    while let Ok(permit) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = page.clone();
                tokio::spawn(async move {
                    if timeout(PATIENCE, connection(stream, &*page)).await.is_err() {
                        debug!("whoever asked for metrics took too long");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("nobody can ask for metrics: {error}");
                sleep(REST).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, page: &(impl Fn() -> Page + Sync)) {
    let answer = |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), page);
        async { Ok::<_, Infallible>(response) }
    };
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(LONGEST);
    let served = http.serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = served.await {
        debug!("whoever asked for metrics was not understood: {error}");
    }
}

fn answer(method: &Method, path: &str, page: impl Fn() -> Page) -> Response<Full<Bytes>> {
    let with = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if path != "/metrics" {
        return with(StatusCode::NOT_FOUND, "metrics are at /metrics\n".into());
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = with(StatusCode::METHOD_NOT_ALLOWED, String::new());
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match page().text() {
        Ok(text) => {
            let mut response = with(StatusCode::OK, text);
            response.headers_mut().insert(CONTENT_TYPE, TYPE);
            response
        }
        Err(error) => with(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn who_asks_is_answered_and_who_says_nothing_keeps_nobody_waiting() {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let page = || {
            let mut page = Page::default();
            page.gauge("generation", "Of the config", [(vec![], 7)]);
            page
        };
        tokio::spawn(serve(listener, page));
        let mut silent = Vec::new();
        for _ in 0..AT_ONCE - 1 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let said = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.contains("application/openmetrics-text"), "{said}");
        assert!(said.contains("\nroutemesh_generation{} 7\n"), "{said}");
        for (request, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            (
                "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                "405",
            ),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let said = ask(address, request).await;
            assert!(said.starts_with(&format!("HTTP/1.1 {expected}")), "{said}");
        }
        // One too many of them: they are waited for, but not for ever.
        silent.push(TcpStream::connect(address).await.unwrap());
        let late = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(late.starts_with("HTTP/1.1 200 OK\r\n"), "{late}");
    }

    #[tokio::test]
    async fn a_port_that_cannot_be_opened_is_named() {
        let error = listen("nowhere").await.unwrap_err();
        assert!(error.to_string().contains("metrics at nowhere"), "{error}");
    }
}
