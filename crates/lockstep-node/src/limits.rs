//! Every limit of this crate, in one file, with units in the names.
//!
//! A limit is what a peer, a file or a remote server can cost us. Past a limit the caller gets a
//! typed error; nothing here is a tuning knob that changes an answer.

use std::time::Duration;

use lockstep_proto::limits as protocol;

/// Longest frame on the ring, in bytes: the protocol's.
pub const RING_FRAME_BYTES: usize = protocol::RING_BYTES;
/// Longest frame between nodes of a swarm, in bytes: the protocol's.
pub const SWARM_FRAME_BYTES: usize = protocol::SWARM_FRAME_BYTES;
/// Longest frame to a node that holds files of a model, in bytes: the protocol's.
pub const TO_HOLDER_FRAME_BYTES: usize = protocol::SMALL_FRAME_BYTES;
/// Longest frame from a node that holds files of a model, in bytes: the protocol's.
pub const FROM_HOLDER_FRAME_BYTES: usize = protocol::BLOB_FRAME_BYTES;
/// Longest control frame from a server, in bytes: the protocol's longest, which carries an opening.
pub const TO_CLIENT_FRAME_BYTES: usize = protocol::TO_CLIENT_BYTES;
/// Longest control frame to a server, in bytes.
pub const TO_SERVER_FRAME_BYTES: usize = protocol::TO_SERVER_BYTES;
/// Bytes of frames that one peer may have on their way or not taken up, over all its links.
pub const FLIGHT_PEER_BYTES: usize = 64 << 20;
/// Bytes of frames of all peers together.
pub const FLIGHT_BYTES: usize = 256 << 20;
/// Bytes in flight on one connection that was dialled, or that stages use, before they are read.
pub const WINDOW_BYTES: u32 = 8 << 20;
/// Bytes in flight on one connection that a client has dialled, before they are read: it sends
/// little.
pub const GUEST_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes in flight on one connection that a stage has dialled, before they are read.
pub const STAGE_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes that one connection has sent, or given to the socket, and that have not arrived.
pub const SEND_WINDOW_BYTES: u64 = 2 << 20;
/// Bytes that may wait in one link's send queue, whatever its class.
pub const SEND_QUEUE_BYTES: usize = 64 << 20;
/// Bytes of frames that may wait for one peer to take them, over all its links.
pub const UNREAD_PEER_BYTES: usize = 96 << 20;
/// Bytes of frames that may wait for all peers together to take them.
pub const UNREAD_BYTES: usize = 384 << 20;
/// Bytes of frames that wait for stages that are being dialled, all together.
pub const DIALLING_BYTES: usize = 64 << 20;
/// Bytes for which a queued frame counts on top of its own, so that empty frames are bounded too.
pub const SEND_QUEUE_FRAME_COST_BYTES: usize = 256;

/// Whole time allowed for dialling a peer: handshake, allow-list and greeting.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Whole time an incoming connection has to finish its handshake and greet.
pub const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// Time a frame has to arrive completely once its first byte has arrived, and time a peer has to
/// take a frame that we write.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);
/// Time that finished links have to hand over what is still queued.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// Time that an endpoint has to tell its peers that it leaves.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A sign of life is sent at least this often on every connection.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// A network path without a sign of life for this long is given up.
pub const PATH_SILENCE: Duration = Duration::from_millis(2_000);
/// A connection without a sign of life for this long is dead.
pub const PEER_SILENCE: Duration = Duration::from_millis(2_500);

/// Incoming connections that may be in their handshake at once.
pub const HANDSHAKES: usize = 256;
/// Incoming connections of one source that may be in their handshake at once.
pub const HANDSHAKES_OF_SOURCE: usize = 64;
/// Incoming links that may be open at once.
pub const INCOMING_LINKS: usize = 1024;
/// Those of one source: an IPv4 address, or a network of IPv6.
pub const LINKS_OF_SOURCE: usize = 256;
/// Incoming links of one peer that may be open at once.
pub const LINKS_OF_PEER: usize = 16;
/// Time after which a link on which nothing was said may be closed for a newcomer.
pub const QUIET_LINK: Duration = Duration::from_secs(10);
/// Links that a client keeps between requests.
pub const KEPT_LINKS: usize = 32;
/// Links to one server that a client keeps between requests.
pub const KEPT_LINKS_OF_PEER: usize = 4;
/// Time after which a link that a client keeps is closed if nothing is asked over it.
pub const KEPT_LINK_IDLE: Duration = Duration::from_secs(30);
/// Dials under way because leases ask for them.
pub const DIALS: usize = 64;
/// Peers whose address is remembered because they have connected from it.
pub const KNOWN_ADDRESSES: usize = 1024;
/// Accepted links that may wait for the program to pick them up.
pub const ACCEPT_QUEUE_LINKS: usize = 64;

/// Microseconds that an exchange with a node must take at least for the node to be logged as slow.
pub const SLOW_PEER_US: u64 = 250_000;
/// The factor by which an exchange must be slower than the fastest one with the same node for the
/// node to be logged as slow.
pub const SLOW_PEER_TIMES: u64 = 4;
/// Questions for the figures of one machine that wait for its loop.
pub const FIGURES_ASKED: usize = 8;
/// Time for a loop to answer such a question.
pub const FIGURES_DEADLINE: Duration = Duration::from_secs(2);
/// Connections of the HTTP server of metrics that may be open at once.
pub const METRICS_CONNECTIONS: usize = 16;
/// Bytes that the head of a request for metrics may have, the request line among them.
pub const METRICS_HEAD_BYTES: usize = 8 << 10;
/// Header fields of a request for metrics.
pub const METRICS_HEADERS: usize = 64;
/// Time for the head of a request for metrics to arrive.
pub const METRICS_HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Time of a whole connection for metrics, from its beginning to the last byte of the answer.
pub const METRICS_DEADLINE: Duration = Duration::from_secs(10);

/// Time for which the HTTP server of metrics waits after a connection that could not be accepted,
/// or for one that is refused to be written to.
pub const METRICS_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of the receipts that are kept in the home directory, unless the settings say otherwise.
pub const RECEIPTS_BYTES: u64 = 1 << 30;

/// The most peers that one ticket may name.
pub const TICKET_PEERS: usize = 64;
/// Longest name of a model in a ticket, in bytes.
pub const TICKET_NAME_BYTES: usize = 256;
/// The most socket addresses that one peer may have.
pub const PEER_ADDRESSES: usize = 8;
/// Longest ticket text, in characters.
pub const TICKET_CHARS: usize = 32 << 10;

/// Longest text of a server's addresses in its record on the local network, in bytes: with the name
/// of the text no more than 255 (RFC 6763, section 6.1).
pub const LAN_ADDRESS_BYTES: usize = 250;
/// Longest name of a model in a record on the local network, in bytes.
pub const LAN_NAME_BYTES: usize = 200;
/// Servers on the local network that are looked at before some of them are chosen.
pub const LAN_RECORDS: usize = 1024;
/// Time for which servers on the local network are waited for.
pub const LAN_WAIT: Duration = Duration::from_secs(2);

/// Relays that an endpoint uses at once.
pub const RELAYS: usize = 4;
/// Time for a relay to answer an endpoint that is opened, before it goes on without.
pub const RELAY_DEADLINE: Duration = Duration::from_secs(5);
/// Nodes that may be connected to a relay at once.
pub const RELAY_NODES: usize = 4096;
/// Connections that a node may have to a relay at once.
pub const RELAY_CONNECTIONS_OF_NODE: usize = 4;
/// TCP connections to a relay that may be open at once, those of no node yet among them.
pub const RELAY_CONNECTIONS: usize = 2 * RELAY_NODES;
/// Those of one source: an IPv4 address, or a network of IPv6.
pub const RELAY_CONNECTIONS_OF_SOURCE: usize = 64;
/// Time for which a relay waits after a connection that could not be accepted.
pub const RELAY_PAUSE: Duration = Duration::from_millis(100);

/// Servers that run from one home with identities that it keeps.
pub const NODES_OF_A_HOME: u32 = 64;

/// Nodes of which this machine remembers how they answered its audits.
pub const RECORD_NODES: usize = 2048;
/// Longest record of nodes, in bytes.
pub const RECORD_BYTES: u64 = 4 << 20;
/// Characters that are kept of what an audit found when it convicted a node.
pub const CONVICTION_CHARS: usize = 200;
/// Answers of which a node must have withheld openings before it is avoided for that.
pub const WITHHELD_ANSWERS: u64 = 2;
/// A node is avoided only if it has withheld openings of at least one in this many of its answers.
pub const WITHHELD_SHARE: u64 = 4;

/// Longest key file of a verifier, in bytes.
pub const KEY_BYTES: u64 = 64 << 30;
/// Longest settings file, in bytes.
pub const CONFIG_BYTES: u64 = 256 << 10;
/// The most bytes that a model record in the store may have.
pub const MODEL_RECORD_BYTES: u64 = 64 << 10;
/// The most bytes that a model's name may have.
pub const MODEL_NAME_BYTES: usize = 128;
/// Hexadecimal digits of a model's id by which it may be called; no name looks so.
pub const MODEL_ID_DIGITS: usize = 8;
/// Longest manifest that the store reads into memory, in bytes.
pub const MANIFEST_BYTES: u64 = 64 << 20;
/// Disk space that a write leaves free unless the settings say otherwise, in bytes.
pub const DISK_RESERVE_BYTES: u64 = 512 << 20;
/// The memory that an import takes is at least the bytes of the model files divided by this: no
/// model in use has so many layers that its largest layer, in 4 bits where the files have 32, is
/// smaller.
pub const IMPORT_LEAST_SHARE: u64 = 1024;
/// Positions for which a server must have room beside its weights, unless the context is shorter.
pub const SERVE_LEAST_POSITIONS: u64 = 2048;
/// The share of the available memory that a server leaves to others, unless the settings say how
/// much it may take.
pub const MEMORY_LEFT_SHARE: u64 = 8;
/// A server's room for sessions, divided by this, is for those that are kept for audits.
pub const KEPT_SHARE: u64 = 8;
/// A server's room for sessions, divided by this, is for columns that are computed again for
/// challenges: a session that takes an eighth of all pages can be audited, whatever the span, for a
/// rebuild takes at most twice the pages of one layer.
pub const REBUILD_SHARE: u64 = 4;
/// Time to wait for another process that holds the store.
pub const STORE_LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of columns that an executor keeps as sessions have filled them, to answer challenges
/// without computing them again, of all sessions but the one that was challenged last: that one
/// keeps what it has. Those that were computed again have a room of their own.
pub const COLUMN_BYTES: usize = 256 << 20;
/// The number of times that a session's challenges may have its span computed again, counted in
/// layers, where the columns that they need have been dropped. Each of the audits that a session
/// may ask for takes one pass in the order of its layers, and two more for edges where neighbours
/// differ; a fourth is for columns that were dropped for others meanwhile.
pub const REBUILD_PASSES: u32 = 16;
/// Bytes that the columns of a layer take beside the rows: hashers, and rows that wait to be
/// hashed.
pub const LAYER_COLUMNS_BYTES: usize = 48 << 10;
/// Bytes that rebuilding layers' columns may take at most, to open cells of sessions whose columns
/// were freed; a server with less memory takes less. Rebuilds wait for one another within it, and a
/// session that would take more by itself is refused as it begins.
pub const REBUILD_BYTES: u64 = 8 << 30;
/// States from which the head chooses tokens in one pass: what their logits take in memory at once
/// is so many times the vocabulary.
pub const HEAD_ROWS: usize = 8;
/// Rows that a session's columns have room for from the start; it costs address space only.
pub const COLUMN_ROWS_AHEAD: u32 = 2048;

/// Time to reach a model server and to get the head of its answer.
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A download that brings no byte for this long is broken off (and can be resumed).
pub const HTTP_STALL_DEADLINE: Duration = Duration::from_secs(30);
/// Redirects that one request follows.
pub const HTTP_REDIRECTS: usize = 5;
/// Longest listing of a model repository, in bytes.
pub const HTTP_LISTING_BYTES: usize = 8 << 20;
/// Longest model file that is downloaded unless the caller says otherwise, in bytes.
pub const MODEL_FILE_BYTES: u64 = 1 << 40;
/// Attempts at one download; each resumes where the last one broke off.
pub const HTTP_ATTEMPTS: u32 = 4;
/// Time that `pip` has to bring a package.
pub const PIP_DEADLINE: Duration = Duration::from_secs(30 * 60);

const _: () = assert!(SEND_QUEUE_BYTES >= RING_FRAME_BYTES + SEND_QUEUE_FRAME_COST_BYTES);
const _: () = assert!(SEND_QUEUE_BYTES >= TO_CLIENT_FRAME_BYTES + SEND_QUEUE_FRAME_COST_BYTES);
const _: () = assert!(SEND_QUEUE_BYTES <= u32::MAX as usize);
const _: () = assert!(SEND_QUEUE_BYTES < UNREAD_PEER_BYTES);
const _: () = assert!(UNREAD_PEER_BYTES <= UNREAD_BYTES / 4);
const _: () = assert!(DIALLING_BYTES <= SEND_QUEUE_BYTES);
const _: () = assert!(TO_CLIENT_FRAME_BYTES <= u32::MAX as usize);
const _: () = assert!(FLIGHT_PEER_BYTES >= TO_CLIENT_FRAME_BYTES + RING_FRAME_BYTES);
const _: () = assert!(FLIGHT_BYTES >= 4 * FLIGHT_PEER_BYTES);
const _: () = assert!(REBUILD_PASSES as u64 >= 4 * protocol::AUDITS_PER_SESSION);
const _: () = assert!(HANDSHAKES_OF_SOURCE * 2 <= HANDSHAKES);
const _: () = assert!(LINKS_OF_PEER < LINKS_OF_SOURCE && LINKS_OF_SOURCE < INCOMING_LINKS);
const _: () = assert!(KEPT_LINKS_OF_PEER < LINKS_OF_PEER && KEPT_LINKS_OF_PEER < KEPT_LINKS);
const _: () = assert!(KEPT_LINK_IDLE.as_micros() < protocol::GUEST_US as u128);
const _: () = assert!(PEER_ADDRESSES >= protocol::DIALLED_ADDRESSES);
const _: () = assert!(KEEP_ALIVE_INTERVAL.as_millis() * 3 < PATH_SILENCE.as_millis());
const _: () = assert!(PATH_SILENCE.as_millis() < PEER_SILENCE.as_millis());
const _: () = assert!(PEER_SILENCE.as_millis() <= 3_000);

/// Time that a link of an exchange between nodes of a swarm may be open, connecting included.
pub const EXCHANGE_DEADLINE: Duration = Duration::from_micros(2 * protocol::EXCHANGE_US);
/// Announcements of this node that wait to be taken up.
pub const ANNOUNCED: usize = 8;
/// Time that a node which leaves waits until another node knows it.
pub const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);
/// Numbers that are tried behind the name of a model that a server fetches, until one is free.
pub const NAMES_TRIED: u32 = 1000;
/// Pieces of files, and what is to be done with files, that may wait for the thread that writes.
pub const FILE_COMMANDS: usize = 256;
/// Files that are hashed at once because other nodes ask for their outlines.
pub const OUTLINES_AT_ONCE: usize = 2;
/// Microseconds for which a file that could not be given is not looked at again.
pub const OUTLINE_AGAIN_US: u64 = 60_000_000;
/// Events that may wait for a driver's loop to take them up.
pub const DRIVER_INBOX: usize = 1024;
/// Time for a peer to tell its status, connecting included.
pub const STATUS_DEADLINE: Duration = Duration::from_secs(6);
