//! The HTTP server that shows the figures of this process at `/metrics`.
//!
//! It reads the head of one request on each connection and answers it: whatever else comes is
//! refused with a status and a sentence; so is a request for a host that is neither an address, nor
//! `localhost`, nor a name that the operator gave. A page of a stranger's whose name suddenly means
//! this machine, as in DNS rebinding, learns nothing. Heads, connections and times are bounded by
//! [`crate::limits`]; what is asked changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::prometheus_text;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use super::Shown;
use crate::driver::Observer;
use crate::limits;
use crate::memory;

/// The path of the metrics.
const PATH: &str = "/metrics";
/// What a connection is told for which there is no place; its request is not read.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    content-length: 43\r\nconnection: close\r\n\r\ntoo many connections are open: come again.\n";

/// The error that the HTTP server of metrics could not listen.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for requests of metrics: {source}")]
pub struct MetricsError {
    /// The address to listen on.
    pub address: SocketAddr,
    /// The error that the system reported.
    pub source: io::Error,
}

/// An HTTP server of metrics that listens.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    names: Names,
}

impl MetricsServer {
    /// Listens on an address; port 0 lets the system choose one. To be called inside a runtime of
    /// tokio.
    ///
    /// # Errors
    /// [`MetricsError`]: the address is taken, or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let of = |source| MetricsError { address, source };
        let listener = TcpListener::bind(address).await.map_err(of)?;
        let address = listener.local_addr().map_err(of)?;
        Ok(Self { listener, address, names: Names::default() })
    }

    /// Answers requests for hosts of these names too.
    #[must_use]
    pub fn named(self, names: &[String]) -> Self {
        let names = names.iter().map(|name| plain(name)).collect();
        Self { names: Names(Arc::new(names)), ..self }
    }

    /// Returns the address at which it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with the figures that `observer` gets, for ever. What is under way ends
    /// when this is dropped.
    pub async fn serve(self, observer: Observer) {
        let places = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS));
        let routes = routes(observer, self.names);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // A connection that broke, or no file left: others may go on.
                    debug!(%error, "a connection for metrics could not be accepted");
                    tokio::time::sleep(limits::METRICS_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                // Written at once, or not at all: nobody waits for whoever has no place.
                timeout(limits::METRICS_PAUSE, stream.writable()).await.ok();
                stream.try_write(TOO_MANY).ok();
                continue;
            };
            let routes = routes.clone();
            connections.spawn(async move {
                let _place = place;
                answer(stream, routes).await;
            });
        }
    }
}

/// Answers the one request of a connection.
async fn answer(stream: TcpStream, routes: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::METRICS_HEAD_DEADLINE)
        .max_headers(limits::METRICS_HEADERS)
        .max_header_size(limits::METRICS_HEAD_BYTES)
        .keep_alive(false);
    let answering = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match timeout(limits::METRICS_DEADLINE, answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a request for metrics was not answered"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

fn routes(observer: Observer, names: Names) -> Router {
    Router::new()
        .route(PATH, get(scrape))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(observer)
        .layer(middleware::from_fn_with_state(names, known_host))
}

/// The names for which requests are answered, beside addresses and `localhost`; in lower case.
#[derive(Clone, Debug, Default)]
struct Names(Arc<BTreeSet<String>>);

impl Names {
    /// Returns whether a host, with or without a port, is one for which requests are answered.
    fn has(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = plain(authority.host());
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || ip.is_ok() || self.0.contains(&host)
    }
}

/// Returns a host's name as it is compared: in lower case, without the dot of the root.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Answers a request, unless it is for a host that is not known.
async fn known_host(State(names): State<Names>, request: Request, next: Next) -> Response<Body> {
    let headers = request.headers().get_all(HOST).iter();
    // What is no text is no host that is known.
    let hosts = headers.map(|value| value.to_str().unwrap_or(""));
    let asked = hosts.chain(request.uri().authority().map(Authority::as_str));
    let unknown = asked.map(str::to_owned).find(|host| !names.has(host));
    match unknown {
        None => next.run(request).await,
        Some(_) => text(
            StatusCode::MISDIRECTED_REQUEST,
            "metrics are not shown under this name: ask by the server's address, or start it with \
             --metrics-name NAME.\n"
                .to_owned(),
        ),
    }
}

async fn scrape(State(observer): State<Observer>) -> Response<Body> {
    let figures = observer.figures().await;
    if figures.server.is_none() && figures.swarm.is_none() {
        let why = "the server does not serve yet, or is overloaded: come again.\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    }
    match (Shown { figures, resident: memory::resident() }).render() {
        Ok(page) => {
            let mut answer = text(StatusCode::OK, page);
            let kind = HeaderValue::from_static(prometheus_text::CONTENT_TYPE);
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics: {error}\n")),
    }
}

async fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, format!("nothing is here: GET {PATH}\n"))
}

async fn wrong_method() -> Response<Body> {
    let why = format!("only GET and HEAD: GET {PATH}\n");
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, why);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
