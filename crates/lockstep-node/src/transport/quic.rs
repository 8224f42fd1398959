//! Opens and accepts links over QUIC.
//!
//! A link is one connection with one bidirectional stream, opened by the dialler. Each side first
//! writes [`GREETING`]: the acceptor only after it has checked the allow-list and found room, so a
//! dialler that has read it knows that it is welcome.

use std::net::SocketAddr;
use std::sync::Arc;

use iroh::endpoint::{
    BindOpts, ConnectError, ConnectWithOptsError, ConnectingError, Connection, ConnectionError,
    IdleTimeout, Incoming, IncomingAddr, PortmapperConfig, QuicTransportConfig, ReadError,
    ReadExactError, RecvStream, SendStream, VarInt, WriteError, presets,
};
use iroh::{
    EndpointAddr, NetReportConfig, RelayConfig, RelayMap, RelayMode, RelayUrl, TransportAddr,
};
use iroh_relay::RelayQuicConfig;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::door::{Door, Place, Source};
use super::error::deepest;
use super::flight::Flight;
use super::frame::Assembler;
use super::identity;
use super::listen::reachable;
use super::relay_tls;
use super::unread::Unread;
use super::wire::quic::{CapOfKind, Reader, Wire, Writer, close};
use super::wire::{self, Source as FrameSource};
use super::{
    Address, BindError, Class, ConnectFailure, End, HangUp, Identity, Link, LinkFailure, Listen,
    NodeId, PeerAddr, Receiver, Relay, Sender, SharedAllowList, permits,
};
use crate::limits;

/// First bytes of a link's stream in each direction.
const GREETING: [u8; 4] = *b"LKS0";

/// A UDP socket with everything that listens on it.
#[derive(Debug)]
pub(super) struct Socket {
    endpoint: iroh::Endpoint,
    relays: Vec<(Relay, RelayUrl)>,
    counts: Counts,
    acceptor: AbortHandle,
}

/// The bytes of frames of all peers: those that come in, and those that go out.
#[derive(Clone, Debug, Default)]
struct Counts {
    flight: Flight,
    unread: Unread,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Socket {
    pub(super) async fn bind(
        identity: &Identity,
        listen: &Listen,
        allow: SharedAllowList,
        accepted: mpsc::Sender<Link>,
    ) -> Result<Self, BindError> {
        let refused = |detail: String| BindError::of(listen, detail);
        let urls = listen.relays().iter().map(|&relay| Ok((relay, url_of(&relay)?)));
        let relays: Vec<(Relay, RelayUrl)> =
            urls.collect::<Result<_, String>>().map_err(refused)?;
        // Over HTTPS too: where no UDP gets through, nothing else finds the relay.
        let mut probes = NetReportConfig::minimal();
        probes.https_probes = true;
        let mut endpoint = iroh::Endpoint::builder(presets::Minimal)
            .secret_key(identity.key())
            .alpns(Class::ALL.map(|class| class.alpn().to_vec()).to_vec())
            .relay_mode(relay_mode(&relays))
            .ca_tls_config(relay_tls::trusting(listen.relays()))
            .net_report_config(probes)
            .clear_address_lookup()
            .portmapper_config(PortmapperConfig::Disabled)
            .transport_config(transport_config().map_err(|e| refused(e.to_string()))?)
            .clear_ip_transports();
        for addr in listen.addrs() {
            let options = BindOpts::default().set_is_required(!listen.is_any());
            let bound = endpoint.bind_addr_with_opts(*addr, options);
            endpoint = bound.map_err(|e| refused(e.to_string()))?;
        }
        let endpoint = endpoint.bind().await.map_err(|e| refused(deepest(&e)))?;
        // Without a relay this would wait for ever.
        if !relays.is_empty() && timeout(limits::RELAY_DEADLINE, endpoint.online()).await.is_err() {
            tracing::warn!("no relay has answered; it is tried further");
        }
        let counts = Counts::default();
        let acceptor = Acceptor { allow, accepted, door: Door::new(), counts: counts.clone() };
        let acceptor = tokio::spawn(acceptor.run(endpoint.clone())).abort_handle();
        Ok(Self { endpoint, relays, counts, acceptor })
    }

    pub(super) fn bound(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    pub(super) fn addrs(&self) -> Vec<Address> {
        let addr = self.endpoint.addr();
        let own = reachable(addr.ip_addrs().copied().collect(), &self.bound());
        let connected = |url: &RelayUrl| addr.relay_urls().any(|other| other == url);
        let relays = self.relays.iter().filter(|(_, url)| connected(url));
        let relays: Vec<_> = relays.map(|(relay, _)| Address::Relay(*relay)).collect();
        let room = limits::PEER_ADDRESSES - relays.len();
        own.into_iter().take(room).map(Address::Socket).chain(relays).collect()
    }

    /// Returns the addresses of a peer that this endpoint can dial. Of relays these are its own:
    /// nobody else decides to which machines it connects.
    fn dialled(&self, peer: &PeerAddr) -> Vec<TransportAddr> {
        let first = peer.addrs.iter().take(limits::PEER_ADDRESSES);
        let dialled = first.filter_map(|address| match address {
            Address::Socket(addr) => Some(TransportAddr::Ip(*addr)),
            Address::Relay(relay) => {
                let known = self.relays.iter().find(|(known, _)| known == relay)?;
                Some(TransportAddr::Relay(known.1.clone()))
            }
        });
        dialled.collect()
    }

    pub(super) async fn dial(&self, peer: &PeerAddr, class: Class) -> Result<Link, ConnectFailure> {
        let after = limits::CONNECT_DEADLINE;
        let dialled = timeout(after, self.dial_unhurried(peer, class)).await;
        dialled.unwrap_or(Err(ConnectFailure::NoAnswer { after }))
    }

    async fn dial_unhurried(&self, peer: &PeerAddr, class: Class) -> Result<Link, ConnectFailure> {
        let key = identity::public_key(&peer.id).ok_or(ConnectFailure::NotAKey)?;
        let addrs = self.dialled(peer);
        if addrs.is_empty() {
            return Err(match peer.addrs.iter().find_map(Address::relay) {
                Some(relay) => ConnectFailure::OtherRelay(relay),
                None => ConnectFailure::NoAddress,
            });
        }
        let addr = EndpointAddr::from_parts(key, addrs);
        let conn = self
            .endpoint
            .connect(addr, class.alpn())
            .await
            .map_err(|error| dial_failure(&error, class))?;
        let lost = |error: ConnectionError| connection_refused(&error, class);
        let (mut send, mut recv) = conn.open_bi().await.map_err(lost)?;
        send.write_all(&GREETING).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => connection_refused(&error, class),
            other => ConnectFailure::Network(other.to_string()),
        })?;
        read_greeting(&mut recv).await.map_err(|error| match error {
            Some(error) => connection_refused(&error, class),
            None => ConnectFailure::Incompatible { alpn: class.alpn() },
        })?;
        conn.set_receive_window(VarInt::from_u32(limits::WINDOW_BYTES));
        let at = self.answered(&conn);
        let opened = NewLink { conn, class, end: End::Dialler, entry: None };
        Ok(Link { at, ..opened.link(&self.counts, send, recv) })
    }

    /// Returns the address at which a peer that was dialled has answered.
    fn answered(&self, conn: &Connection) -> Option<Address> {
        let paths = conn.paths();
        let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next())?;
        match path.remote_addr() {
            TransportAddr::Ip(addr) => Some(Address::Socket(*addr)),
            TransportAddr::Relay(url) => {
                let relay = self.relays.iter().find(|(_, own)| own == url);
                relay.map(|(relay, _)| Address::Relay(*relay))
            }
            _ => None,
        }
    }

    pub(super) async fn close(&self) {
        self.acceptor.abort();
        // On a deadline: the peers are told once, but nobody waits for those that don't answer.
        let _ = timeout(limits::CLOSE_DEADLINE, self.endpoint.close()).await;
    }
}

/// Returns the URL of a relay: its address is one of numbers, so that no name is looked up.
fn url_of(relay: &Relay) -> Result<RelayUrl, String> {
    let url = format!("https://{}/", relay.addr);
    url.parse().map_err(|error| format!("relay {relay}: {error}"))
}

fn relay_mode(relays: &[(Relay, RelayUrl)]) -> RelayMode {
    if relays.is_empty() {
        return RelayMode::Disabled;
    }
    let config = |(relay, url): &(Relay, RelayUrl)| {
        RelayConfig::new(url.clone(), Some(RelayQuicConfig::new(relay.addr.port())))
    };
    RelayMode::Custom(relays.iter().map(config).collect::<RelayMap>())
}

fn transport_config() -> Result<QuicTransportConfig, iroh::endpoint::VarIntBoundsExceeded> {
    let window = VarInt::from_u32(limits::WINDOW_BYTES);
    // Until it is known what a connection is for.
    let guest_window = VarInt::from_u32(limits::GUEST_WINDOW_BYTES);
    Ok(QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window)
        .receive_window(guest_window)
        .send_window(limits::SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
        .default_path_keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
        .default_path_max_idle_timeout(limits::PATH_SILENCE)
        .max_idle_timeout(Some(IdleTimeout::try_from(limits::PEER_SILENCE)?))
        .build())
}

/// Lets peers in, each in a task of its own so that nobody waits for a slow stranger.
#[derive(Clone)]
struct Acceptor {
    allow: SharedAllowList,
    accepted: mpsc::Sender<Link>,
    door: Door,
    counts: Counts,
}

impl Acceptor {
    async fn run(self, endpoint: iroh::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            if self.door.is_crowded() && !incoming.remote_addr_validated() {
                // One that has been validated meanwhile is not asked again: nothing is lost.
                incoming.retry().ok();
                continue;
            }
            let from = match incoming.remote_addr() {
                IncomingAddr::Ip(addr) => Some(addr),
                _ => None,
            };
            let place = self.door.knock(Source::of(from));
            let (door, number, acceptor) = (self.door.clone(), place.number(), self.clone());
            let task = tokio::spawn(async move {
                let _place = place;
                let greeted = acceptor.greet(incoming, from);
                if timeout(limits::GREETING_DEADLINE, greeted).await.is_err() {
                    tracing::debug!("an incoming connection did not greet in time");
                }
            });
            door.is_done_by(number, task.abort_handle());
        }
    }

    async fn greet(self, incoming: Incoming, from: Option<SocketAddr>) {
        let conn = match incoming.await {
            Ok(conn) => conn,
            Err(error) => return tracing::debug!(%error, "an incoming handshake failed"),
        };
        let peer = NodeId(*conn.remote_id().as_bytes());
        let Some(class) = Class::from_alpn(conn.alpn()) else {
            return close(&conn, HangUp::BadFrame);
        };
        if !permits(&self.allow, &peer) {
            tracing::info!(peer = %peer.short(), "refused: not on the allow-list");
            return close(&conn, HangUp::NotAllowed);
        }
        let Ok((mut send, mut recv)) = conn.accept_bi().await else { return };
        if read_greeting(&mut recv).await.is_err() {
            return close(&conn, HangUp::BadFrame);
        }
        let shown_out = conn.clone();
        let show_out = move || close(&shown_out, HangUp::Busy);
        let place = self.door.enter(peer, Source::of(from), show_out);
        let (Some(place), Ok(accepted)) = (place, self.accepted.try_reserve_owned()) else {
            return close(&conn, HangUp::Busy);
        };
        if send.write_all(&GREETING).await.is_err() {
            return close(&conn, HangUp::BadFrame);
        }
        if class == Class::Ring {
            conn.set_receive_window(VarInt::from_u32(limits::STAGE_WINDOW_BYTES));
        }
        let opening = NewLink { conn, class, end: End::Acceptor, entry: Some((place, from)) };
        accepted.send(opening.link(&self.counts, send, recv));
    }
}

/// Reads the greeting that opens a stream; `Err(None)` if something other than the greeting came.
async fn read_greeting(recv: &mut RecvStream) -> Result<(), Option<ConnectionError>> {
    let mut greeting = [0; GREETING.len()];
    match recv.read_exact(&mut greeting).await {
        Ok(()) if greeting == GREETING => Ok(()),
        Err(ReadExactError::ReadError(ReadError::ConnectionLost(error))) => Err(Some(error)),
        _ => Err(None),
    }
}

/// A connection that has been greeted.
struct NewLink {
    conn: Connection,
    class: Class,
    /// The end of the link that this node has.
    end: End,
    /// The place and the source address of a link that came in; `None` for one that was dialled.
    entry: Option<(Place, Option<SocketAddr>)>,
}

impl NewLink {
    fn link(self, counts: &Counts, send: SendStream, recv: RecvStream) -> Link {
        let Self { conn, class, end, entry } = self;
        let peer = NodeId(*conn.remote_id().as_bytes());
        let (place, from) = entry.map_or((None, None), |(place, from)| (Some(place), from));
        let pulse = place.as_ref().map(Place::pulse);
        let room = Arc::new(Semaphore::new(limits::SEND_QUEUE_BYTES));
        let wire = Wire { conn, room: Arc::clone(&room), pulse, failure: Arc::default() };
        let (queue, queued) = mpsc::unbounded_channel();
        let cap = class.frame_cap(end);
        tokio::spawn(Writer { stream: send, queued, wire: wire.clone(), cap }.run());
        let other = end.other();
        let cap_of_kind: CapOfKind = Box::new(move |kind| class.cap_of_kind(other, kind));
        let reader = Reader {
            stream: recv,
            assembler: Assembler::new(class.frame_cap(other), cap_of_kind),
            cargo: counts.flight.link(peer),
            begun: None,
            ended: false,
            wire: wire.clone(),
        };
        let given_up = wire.clone();
        let outbox = counts.unread.link(peer, move || {
            given_up.fail(LinkFailure::Crowded);
        });
        let wire = wire::Wire::Quic(wire);
        let sender = Sender::new(peer, (class, end), (queue, room), outbox, wire);
        let source = FrameSource::Quic(Box::new(reader));
        let receiver = Receiver { peer, class, source, _place: place };
        Link { peer, class, from, at: None, sender, receiver }
    }
}

fn dial_failure(error: &ConnectError, class: Class) -> ConnectFailure {
    match error {
        ConnectError::Connect { source, .. } => match source {
            ConnectWithOptsError::EndpointClosed { .. } => ConnectFailure::Closed,
            ConnectWithOptsError::NoAddress { .. } => ConnectFailure::NoAddress,
            ConnectWithOptsError::SelfConnect { .. } => ConnectFailure::Oneself,
            other => ConnectFailure::Network(deepest(other)),
        },
        ConnectError::Connecting { source, .. } => match source {
            ConnectingError::ConnectionError { source, .. } => connection_refused(source, class),
            other => ConnectFailure::Network(deepest(other)),
        },
        ConnectError::Connection { source, .. } => connection_refused(source, class),
        other => ConnectFailure::Network(deepest(other)),
    }
}

/// TLS alert "no application protocol" as a QUIC error code.
const NO_APPLICATION_PROTOCOL: u64 = 0x178;
/// QUIC error codes that stand for TLS alerts.
const TLS_ALERTS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

fn connection_refused(error: &ConnectionError, class: Class) -> ConnectFailure {
    let by_code = |code: u64, detail: String| match code {
        NO_APPLICATION_PROTOCOL => ConnectFailure::Incompatible { alpn: class.alpn() },
        code if TLS_ALERTS.contains(&code) => ConnectFailure::WrongIdentity,
        _ => ConnectFailure::Network(detail),
    };
    match error {
        ConnectionError::ApplicationClosed(close) => {
            match HangUp::from_code(close.error_code.into_inner()) {
                HangUp::Busy => ConnectFailure::Busy,
                HangUp::NotAllowed => ConnectFailure::NotAllowed,
                HangUp::Done | HangUp::ShuttingDown => ConnectFailure::Closed,
                other => ConnectFailure::Network(other.to_string()),
            }
        }
        ConnectionError::ConnectionClosed(close) => {
            by_code(close.error_code.into(), close.to_string())
        }
        ConnectionError::LocallyClosed => ConnectFailure::Closed,
        ConnectionError::TimedOut => ConnectFailure::NoAnswer { after: limits::PEER_SILENCE },
        ConnectionError::TransportError(error) => by_code(error.code.into(), error.to_string()),
        ConnectionError::VersionMismatch => ConnectFailure::Incompatible { alpn: class.alpn() },
        other => ConnectFailure::Network(other.to_string()),
    }
}
