//! Every limit of the protocol, in one place: sizes in bytes or counts, times in microseconds.
//!
//! Past a limit the sender gets a typed refusal, never an endless wait. Relations between limits
//! are checked at compile time.

use lockstep_exact::limits as model;
use lockstep_exact::pieces;
use lockstep_exact::state::row_bytes;
use lockstep_verify::limits as proof;

/// Bytes of the length that precedes a frame.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of a frame that a client sends to a server: a request with the longest prompt fits.
pub const TO_SERVER_BYTES: usize = 8 << 20;
/// Bytes of a frame that a server sends to a client: the largest opening fits.
pub const TO_CLIENT_BYTES: usize = 25 << 20;
/// Bytes of a frame between stages: a chunk of the widest state fits.
pub const RING_BYTES: usize = 9 << 20;

/// The most bytes of a challenge.
pub const CHALLENGE_BYTES: usize = proof::CHALLENGE_POSITIONS * 4 + 1024;
/// Bytes of a lease, with its padding.
pub const LEASE_BYTES: usize = 256 << 10;
/// The most bytes of a step's marks.
pub const TRAIL_BYTES: usize = 64 << 10;
/// Bytes of all segments of a session.
pub const SEGMENTS_BYTES: usize = 1 << 20;
/// Bytes of any frame that carries nothing of variable length.
pub const SMALL_FRAME_BYTES: usize = 4 << 10;
/// For how many milliseconds a server announces what it says of itself, at least.
pub const ANNOUNCEMENT_MS: u64 = 30_000;
/// Announcements that a server makes in the time for which one is true, so that two may be lost.
pub const RENEWALS: u64 = 3;
/// Milliseconds of that time for each node of a large swarm.
pub const ANNOUNCEMENT_OF_NODE_MS: u64 = 30;
/// For how many milliseconds from now an announcement may be true at most, and how far ahead its
/// sequence may be: clocks differ.
pub const ANNOUNCEMENT_MOST_MS: u64 = 600_000;
/// Links to other nodes that a server announces.
pub const NEIGHBOURS: usize = 16;
/// Adapters that a server announces.
pub const ADAPTERS_HELD: usize = 32;
/// Words that a server announces about itself.
pub const TAGS: usize = 8;
/// The most bytes of a word that a server announces about itself.
pub const TAG_BYTES: usize = 32;
/// Bytes of the version of a server's program.
pub const SOFTWARE_BYTES: usize = 32;
/// The most bytes of an announcement.
pub const ANNOUNCEMENT_BYTES: usize = 3 << 10;
/// Bytes of a frame between nodes of a swarm: the summary of the largest swarm fits.
pub const SWARM_FRAME_BYTES: usize = 512 << 10;
/// The most nodes of a swarm that a node knows.
pub const SWARM_NODES: usize = 16_384;
/// Those of one host: an IPv4 address, or a network of IPv6.
pub const SWARM_NODES_OF_HOST: usize = 256;
/// Those that are reached over one relay.
pub const SWARM_NODES_OF_RELAY: usize = 4096;
/// Those that one peer was the first to bring.
pub const SWARM_NODES_OF_PEER: usize = 4096;
/// Nodes that are gone and whose addresses are remembered.
pub const SWARM_FORMER_NODES: usize = 256;
/// Announcements of one node that are taken at once.
pub const SWARM_RENEWALS_AT_ONCE: u64 = 4;
/// Time after which one more is taken.
pub const SWARM_RENEWAL_US: u64 = 2_000_000;
/// Signatures of announcements that one peer has brought and that are checked at once.
pub const SWARM_CHECKS_OF_PEER: u64 = SWARM_NODES_OF_PEER as u64;
/// Time after which one more is checked: of everybody's renewals in the largest swarm there are 100
/// in a second.
pub const SWARM_CHECK_OF_PEER_US: u64 = 5_000;
/// Time from one round of gossip to the next, at least.
pub const GOSSIP_ROUND_US: u64 = 1_000_000;
/// Time of a round for each node of a large swarm.
pub const GOSSIP_ROUND_OF_NODE_US: u64 = 1_000;
/// Nodes that are drawn in one round, until one may be dialled.
pub const GOSSIP_PICKS: u32 = 3;
/// Nodes that a node tells at once that it leaves.
pub const GOSSIP_FAREWELLS: u32 = 4;
/// Nodes that were found otherwise than by tickets and that a node dials without knowing them.
pub const GOSSIP_SEEDS: usize = 64;
/// One round in this many is for a node that is gone, or that a ticket names.
pub const GOSSIP_FORMER_ONE_IN: u64 = 8;
/// Time for which a peer is left alone with which an exchange has failed once, halved.
pub const GOSSIP_BACKOFF_US: u64 = 2_000_000;
/// The number of times that the time for which such a peer is left alone is doubled.
pub const GOSSIP_BACKOFF_DOUBLINGS: u32 = 5;
/// Rounds that a node begins at once because there is more to learn: each brings a frame, and so
/// many bring the longest announcements of the largest swarm.
pub const GOSSIP_AT_ONCE: u64 = 96;
/// Time after which it may begin one more so.
pub const GOSSIP_AT_ONCE_US: u64 = 10_000_000;
/// Addresses that a node dials at once because others say that nodes are there, and at which it has
/// never found them.
pub const GOSSIP_STRANGE_ADDRESSES: u64 = 64;
/// Time after which it may dial one more of them.
pub const GOSSIP_STRANGE_ADDRESS_US: u64 = 1_000_000;
/// Hosts of which a node remembers that it did not find whom it looked for there.
pub const GOSSIP_HOSTS: usize = 1024;
/// Time for an exchange of what two nodes know.
pub const EXCHANGE_US: u64 = 10_000_000;
/// Exchanges that a node has under way at once.
pub const EXCHANGES: usize = 64;
/// Those that others have begun. The other places are for those that it begins itself, so that
/// nobody can silence it.
pub const EXCHANGES_ACCEPTED: usize = EXCHANGES / 2;
/// Those that one peer has begun and that are under way.
pub const EXCHANGES_ACCEPTED_OF_PEER: usize = 2;
/// Exchanges that one peer may begin at once, if they are over soon.
pub const EXCHANGES_OF_PEER_AT_ONCE: u64 = 32;
/// Time after which it may begin one more.
pub const EXCHANGE_OF_PEER_US: u64 = 500_000;
/// The most pieces of a blob: 16 GiB.
pub const BLOB_PIECES: usize = 65_536;
/// Bytes of a frame from a holder of blobs: the outline of the longest blob fits.
pub const BLOB_FRAME_BYTES: usize = BLOB_PIECES * 32 + 256;
/// The most bytes of a piece of a blob.
pub const BLOB_PIECE_BYTES: usize = 256 << 10;
/// Bytes of a frame with a piece of a blob.
pub const BLOB_PIECE_FRAME_BYTES: usize = BLOB_PIECE_BYTES + 256;
/// Pieces that a node has asked one holder for and that are not on its disk yet.
pub const BLOB_PIECES_ASKED: usize = 8;
/// Questions of one link that wait at a holder.
pub const BLOB_QUESTIONS: usize = 2 * BLOB_PIECES_ASKED;
/// Holders from which a node fetches at once.
pub const BLOB_HOLDERS: usize = 8;
/// Holders that a node considers for one fetch.
pub const BLOB_HOLDERS_KNOWN: usize = 64;
/// Those of one host that keep their places where nodes of other hosts want them.
pub const BLOB_HOLDERS_OF_HOST: usize = 16;
/// Nodes that a node remembers beside those as possible holders: all of the largest swarm.
pub const BLOB_HOLDERS_OFFERED: usize = SWARM_NODES;
/// Bytes per second below which a holder gives its place to one that has not failed.
pub const BLOB_LEAST_BYTES_PER_S: u64 = 128 << 10;
/// Time of waiting for a holder after which what it has given before counts half.
pub const BLOB_RATE_US: u64 = 10_000_000;
/// Time for a holder to be reached.
pub const BLOB_DIAL_US: u64 = 10_000_000;
/// Time without an answer, although one is due, after which another holder is asked.
pub const BLOB_STALL_US: u64 = 15_000_000;
/// Time without any progress after which a fetch is given up.
pub const BLOB_PATIENCE_US: u64 = 120_000_000;
/// Time for which a holder is left alone that has failed once or is busy, halved.
pub const BLOB_BACKOFF_US: u64 = 1_000_000;
/// The number of times that the time for which a holder is left alone is doubled.
pub const BLOB_BACKOFF_DOUBLINGS: u32 = 4;
/// Failures of a holder without a piece between them, after which it is not asked any more.
pub const BLOB_FAILURES: u32 = 5;
/// The factor by which a holder that has nothing to send must be faster than another one, to take a
/// blob over from that one in the middle of it.
pub const BLOB_TAKEOVER_FACTOR: u64 = 4;
/// Time that the slow holder would need for what is left, at least.
pub const BLOB_TAKEOVER_US: u64 = 2_000_000;
/// Links on which a holder sends at once; what is asked on others is refused.
pub const BLOB_UPLOADS: usize = 8;
/// Links of one node on which a holder sends at once.
pub const BLOB_UPLOADS_OF_PEER: usize = 2;
/// Time for which a link has a place among those without taking bytes of blobs.
pub const BLOB_PLACE_US: u64 = 5_000_000;
/// Bytes of blobs for which a link keeps its place for that time; for fewer, so much less.
pub const BLOB_PLACE_BYTES: u64 = 64 << 10;
/// Time after which a holder closes a link on which it has sent no bytes of blobs, or an answer was
/// not taken.
pub const BLOB_IDLE_US: u64 = 60_000_000;
/// The number of times that a holder sends the bytes of its package to one node in
/// [`BLOB_REFILL_US`].
pub const BLOB_PACKAGES_OF_PEER: u64 = 2;
/// Time in which a node may fetch as much as that again.
pub const BLOB_REFILL_US: u64 = 6 * 3600 * 1_000_000;
/// Nodes of which a holder counts what it has sent them.
pub const BLOB_PEERS_COUNTED: usize = 1024;
/// The nanoseconds per layer of a decode step that are counted for a server that has not measured
/// itself, whatever the number of sessions in it: slower than a machine that is worth having.
pub const UNKNOWN_DECODE_NS: u32 = 20_000_000;
/// The nanoseconds per layer and position of a prompt that are counted for such a server.
pub const UNKNOWN_PREFILL_NS: u32 = 5_000_000;
/// The number of layers that the head is counted as where its time was not measured.
pub const UNKNOWN_HEAD_LAYERS: u32 = 4;
/// The round trip in microseconds that is counted for a link which neither end has measured.
pub const UNKNOWN_RTT_US: u32 = 100_000;
/// The bytes per second that are counted for a link whose sender has not measured them: 10 Mbit/s.
pub const UNKNOWN_BYTES_PER_S: u64 = 1_250_000;
/// Other servers that a route names for each of its stages.
pub const STANDBYS: usize = 4;
/// The rings of a server whose times are remembered: the best of them counts.
pub const RINGS_TIMED: usize = 8;
/// The time after which a server gets another canary that failed one; twice as long each time.
pub const CANARY_AGAIN_US: u64 = 10_000_000;
/// The most doublings of that time, after which it is nearly three hours.
pub const CANARY_DOUBLINGS: u32 = 10;
/// The servers that are looked at for the next canary.
pub const CANARY_CANDIDATES: usize = 16;
/// Servers with the head from which the fastest ring is searched, those first from which it could
/// be fastest.
pub const HEADS_TRIED: usize = 8;
/// Servers among which a ring is searched without leaving any out beforehand.
pub const ROUTE_SERVERS: usize = 256;
/// Servers that a search among more keeps for each layer: those that are soonest done from there.
pub const ROUTE_SERVERS_OF_LAYER: usize = 16;
/// The number of cases that the search for a ring without the same server twice may solve.
pub const ROUTE_CASES: usize = 48;
/// Rounds in which a flow is shared out evenly.
pub const FLOW_ROUNDS: u32 = 256;
/// Rings that a server which was passed over for want of room may make up for, and those that one
/// which stood in for others is counted ahead of its share.
pub const RINGS_OWED: u64 = 4;
/// Machines among which the best ring is searched exactly.
pub const RING_SEARCH: usize = 16;
/// Machines that a plan can add to those that there are.
pub const MACHINES_PLANNED: u32 = 64;
/// By how many percent the weakest layer of a swarm must become stronger for a server to move.
pub const MOVE_MARGIN_PERCENT: u32 = 33;
/// Seconds after which a move must have given more than it cost.
pub const MOVE_HORIZON_S: u64 = 600;
/// Tokens that count as lost with each session that a move ends.
pub const MOVE_SESSION_TOKENS: u64 = 256;
/// Time over which nodes spread that choose layers in one round.
pub const PLACE_TURNS_US: u64 = 10_000_000;
/// Time for which a server that joins lets the swarm know what it claims before it takes it: two
/// rounds of gossip for its claim, and two for another one.
pub const CLAIM_US: u64 = 4 * GOSSIP_ROUND_US;
/// The number of times that a server chooses layers again because of others that came first.
pub const CLAIMS: u32 = 16;
/// Time after which a server that was tried in vain is tried again, at first and without its random
/// part, halved.
pub const TRIAL_BACKOFF_US: u64 = 1_000_000;
/// The number of times that this time is doubled.
pub const TRIAL_BACKOFF_DOUBLINGS: u32 = 6;
/// Addresses of one stage that are dialled because a lease names them.
pub const DIALLED_ADDRESSES: usize = 8;
/// Bytes that a frame must have for each address of a stage that its lease names: more than
/// dialling that address in vain sends.
pub const DIAL_BYTES: usize = 8 << 10;

/// The most stages of a ring.
pub const STAGES: usize = proof::STAGES;
/// Positions of one step: the length of a prefill chunk.
pub const CHUNK_POSITIONS: u32 = 128;
/// Decode steps in one job.
pub const DECODE_BATCH: usize = 64;
/// Positions that the steps of one job compute together, by default: as many decode steps as a job
/// takes, and one chunk of a prompt. It is how long a token waits for the prompts of others: more
/// makes nothing faster where a chunk alone keeps all cores busy, less lets chunks alternate with
/// decode steps, which then read all weights a second time.
pub const BATCH_POSITIONS: u32 = 192;
/// The largest budget that a server may be given: what a batch takes in memory grows with it.
pub const BATCH_POSITIONS_MOST: u32 = 4096;
/// The largest weight that a server may give a client's work beside that of others, which have 1.
pub const CLIENT_WEIGHT_MOST: u8 = 16;
/// Clients without waiting work of whom a stage remembers that they have had more than was due.
pub const FAIR_ABSENT: usize = 1024;
/// Returns by how much the work that two clients with these weights get in any time in which both
/// wait may differ from their shares, where one piece of work costs `largest` at most: in
/// thousandths of it for a weight of 1, rounded up.
#[must_use]
pub const fn fair_lag(largest: u64, weights: (u8, u8)) -> u64 {
    let thousandths = largest.saturating_mul(1000);
    let (one, other) = (weights.0 as u64, weights.1 as u64);
    thousandths.div_ceil(one).saturating_add(thousandths.div_ceil(other))
}
/// Jobs that are at the executor, the one that runs among them.
pub const JOBS_AT_EXECUTOR: usize = 2;
/// Allocations, ends and drops that go with one batch.
pub const CONTROL_BATCH: usize = 32;
/// Jobs after which a waiting opening, or the next slice of one, is run although steps are waiting.
/// A slice is what a chunk of a prompt takes, and rebuilding one of a span's L layers takes 1/L of
/// the slices that the prompt took chunks. With one job in four, a stage of four layers or more
/// that has as much else to do as it can rebuilds each layer of an audit, in their order, in no
/// longer than it had for the prompt, and so within the time that a client gives it for an answer.
pub const JOBS_PER_OPENING: u32 = 3;

/// Requests that wait for a place at a server whose places are all taken.
pub const WAITING: usize = 128;
/// Requests of one client that wait for a place.
pub const WAITING_OF_CLIENT: usize = 8;
/// Bytes of all requests that wait: some of the longest, or all of a usual length.
pub const WAITING_BYTES: u64 = 64 << 20;
/// Bytes that a waiting request counts beside its prompt.
pub const WAITING_OWN_BYTES: u64 = 4 << 10;
/// Time for which a request waits for a place at most. It is refused at once if it is not to be
/// expected to have one until then.
pub const WAIT_US: u64 = 10_000_000;
/// Time for which requests that would fit are held back at most, because room is kept for the one
/// whose turn it is and that does not fit yet. For as long afterwards room is kept for nobody.
pub const RESERVE_US: u64 = WAIT_US / 2;
/// The most milliseconds after which a client is told to ask again.
pub const RETRY_MS: u32 = 600_000;
/// Time for which a request that was refused for want of room waits at least before it asks the
/// same servers again, halved.
pub const RETRY_US: u64 = 50_000;
/// The number of times that this time is doubled.
pub const RETRY_DOUBLINGS: u32 = 7;
/// Refusals for want of room after which a client gives a request up.
pub const ATTEMPTS: u32 = 64;
/// The most milliseconds for which a client leaves a server out because another one says so.
pub const REPORTED_MS: u32 = 5_000;
/// The milliseconds for which it leaves one out that it could not use itself.
pub const FAILED_MS: u32 = 10_000;
/// The number of times that a server 1 may say of other servers of its rings that a request failed
/// for them, before the request does without itself.
pub const REPORTS: u32 = 2;
/// The number of times that a request without a token takes another ring because a server failed.
pub const MOVES: u32 = 4;
/// Time after which a client gives a request up that finds no room.
pub const PATIENCE_US: u64 = 120_000_000;

/// Sessions that clients open at a server at once, by default. One client may hold a quarter.
pub const SESSIONS: usize = 128;
/// Sessions at once that stages before bring, for each that clients may open: rings of several
/// servers 1 meet in one stage, and one stage before may bring all but a quarter of them.
pub const BROUGHT_PER_PLACE: usize = 4;
/// Sessions that a server keeps for challenges, by default, those under way among them.
pub const RETAINED_SESSIONS: usize = 4096;
/// Bytes of what a server keeps of sessions for challenges, by default.
pub const KEPT_BYTES: u64 = 1 << 30;
/// Bytes that a kept session takes beside its tokens and states: lease, roots, tables.
pub const KEPT_SESSION_BYTES: u64 = 64 << 10;
/// Neighbours whose frames a server counts one by one.
pub const COUNTED_HOPS: usize = 64;
/// Ended sessions whose late frames are ignored instead of answered.
pub const ENDED_SESSIONS: usize = 4096;
/// Returns the number of steps of one session that may be on their way round a ring of `stages`
/// stages: one computed in every stage, and one that waits.
#[must_use]
pub const fn window(stages: usize) -> usize {
    stages + 1
}
/// Items of one session that wait for the executor.
pub const LANE_ITEMS: usize = window(STAGES) + CHALLENGES_WAITING + 4;

/// Challenges that one session may pose to one stage; of a long session, whose full audits take
/// more of them, as many as these take.
pub const CHALLENGES_PER_SESSION: u64 = 4096;
/// Challenges of one session that wait for one stage's executor.
pub const CHALLENGES_WAITING: usize = 8;
/// Challenges of one peer that wait for one stage's executor, of all sessions.
pub const CHALLENGES_WAITING_OF_PEER: usize = 32;
/// Challenges that the client has under way at one stage.
pub const CHALLENGES_ASKED: usize = 2;
/// The number of times that a session's client may have everything opened that a stage computed in
/// it: its challenges and their prices of work, as the draw makes them.
pub const AUDITS_PER_SESSION: u64 = 4;
/// Bytes that may be opened beyond that, so that short sessions can be audited again and again.
pub const AUDIT_FLOOR_BYTES: u64 = 64 << 20;

/// Time between heartbeats on a link that a session uses.
pub const HEARTBEAT_US: u64 = 500_000;
/// Silence after which the sessions that use a link end.
pub const SILENCE_US: u64 = 2_000_000;
/// Time to the first frame of a peer, connecting included.
pub const HANDSHAKE_US: u64 = 5_000_000;
/// Time for a lease to go round the ring.
pub const ROUND_US: u64 = 8_000_000;
/// Time for one job, from the end of the job before it.
pub const JOB_US: u64 = 60_000_000;
/// Time without progress of a session at stage 0, all its links alive.
pub const PROGRESS_US: u64 = 120_000_000;
/// Time without a frame of a session at any other stage.
pub const IDLE_US: u64 = 240_000_000;
/// Time from a lease to the session's first step, at any stage but stage 0.
pub const FIRST_STEP_US: u64 = 30_000_000;
/// Time for which a client's link may stay open although nothing is asked on it.
pub const GUEST_US: u64 = 60_000_000;
/// Time without progress at the client.
pub const CLIENT_PROGRESS_US: u64 = 150_000_000;
/// Time for an answer to a challenge, at least: as long as the session's answer took, if that is
/// longer.
pub const CHALLENGE_US: u64 = 30_000_000;
/// Time by which each challenge that a stage answers prolongs its promise to answer others, beside
/// that of the opening on the line, so that no audit is too long for a stage that keeps this pace.
pub const CHALLENGE_PACE_US: u64 = 2_000_000;
/// The slowest line of a client that openings are given time for: 1 Mbit/s.
pub const LINE_BYTES_PER_S: u64 = 125_000;
/// Challenges that prolong a promise beyond as many as a full audit takes.
pub const CHALLENGES_BEYOND_AUDIT: u64 = 150;
/// Time after which a stage whose link was lost during an audit is asked once more, and one that
/// has refused a challenge for haste.
pub const CHALLENGE_AGAIN_US: u64 = 1_000_000;
/// The number of times in a row that a client waits for a stage that refuses its challenges for
/// haste: as long as the shortest promise, in all.
pub const HASTE_WAITS: u32 = 300;
/// Time that sessions have to finish at a server that is about to leave.
pub const DRAIN_US: u64 = 30_000_000;
/// Time that a server which is about to leave waits for the next challenge, after a session has
/// finished or a challenge has come.
pub const LAST_CHALLENGE_US: u64 = 2_000_000;
/// Time for which a finished session can be challenged, by default.
pub const RETENTION_US: u64 = 600_000_000;
/// The shortest time for which a client accepts a stage's promise to answer challenges.
pub const LEAST_RETENTION_US: u64 = 300_000_000;

const _: () = {
    assert!(
        CHUNK_POSITIONS as usize * row_bytes(model::HIDDEN) + 1024 <= RING_BYTES,
        "a step of the widest model fits a ring frame"
    );
    assert!(model::CONTEXT * 4 + (1 << 20) <= TO_SERVER_BYTES, "the longest prompt fits a frame");
    assert!(proof::OPENING_BYTES + 1024 <= TO_CLIENT_BYTES, "the largest opening fits a frame");
    assert!(
        // No stage has more roots than layers: every server looks at those that it hands on.
        STAGES * 512 + model::LAYERS * 64 + 1024 <= SEGMENTS_BYTES,
        "the segments of the longest ring fit a frame"
    );
    assert!(
        proof::ADDRESS_BYTES
            + NEIGHBOURS * 44
            + ADAPTERS_HELD * 32
            + TAGS * (TAG_BYTES + 4)
            + SOFTWARE_BYTES
            + 256
            <= ANNOUNCEMENT_BYTES
            && ANNOUNCEMENT_BYTES < SMALL_FRAME_BYTES,
        "the longest announcement fits a frame"
    );
    assert!(BLOB_PIECE_BYTES as u64 == pieces::PIECE_BYTES, "a piece fits its frame");
    assert!(SWARM_NODES * 16 + 64 <= SWARM_FRAME_BYTES, "a summary of everybody fits a frame");
    assert!(SWARM_NODES_OF_HOST < SWARM_NODES_OF_PEER && SWARM_NODES_OF_PEER < SWARM_NODES);
    assert!(SWARM_NODES_OF_RELAY < SWARM_NODES && EXCHANGES_ACCEPTED_OF_PEER < EXCHANGES_ACCEPTED);
    assert!(
        GOSSIP_AT_ONCE * SWARM_FRAME_BYTES as u64 >= (SWARM_NODES * ANNOUNCEMENT_BYTES) as u64,
        "a node that joins learns of everybody at once"
    );
    assert!(GOSSIP_ROUND_US < ANNOUNCEMENT_MS * 1000 / 3 / 2, "news spread within a renewal");
    assert!(SWARM_NODES as u64 * ANNOUNCEMENT_OF_NODE_MS < ANNOUNCEMENT_MOST_MS);
    assert!(RING_BYTES <= TO_CLIENT_BYTES, "the largest frame is an opening");
    assert!(STAGES * 512 + 1024 <= TRAIL_BYTES, "the marks of the longest ring fit a frame");
    assert!(
        STAGES * (proof::ADDRESS_BYTES + 64) + proof::ADAPTERS * 32 + 1024 <= LEASE_BYTES
            && DIALLED_ADDRESSES * DIAL_BYTES <= LEASE_BYTES,
        "the lease of the longest ring fits a frame"
    );
    assert!(TO_CLIENT_BYTES <= u32::MAX as usize, "a length fits its field");
    assert!(2 * HEARTBEAT_US < SILENCE_US, "one lost heartbeat is not silence");
    assert!(SILENCE_US < HANDSHAKE_US && HANDSHAKE_US < JOB_US);
    assert!(HANDSHAKE_US + SILENCE_US < ROUND_US, "a stage's neighbour is first to name it");
    assert!(JOB_US < PROGRESS_US, "a stuck job is told before a stuck session");
    assert!(PROGRESS_US < CLIENT_PROGRESS_US, "stage 0 is first to say that nothing moves");
    assert!(PROGRESS_US < IDLE_US, "other stages wait for stage 0 to say so");
    assert!(ROUND_US < FIRST_STEP_US && FIRST_STEP_US < IDLE_US);
    assert!(WAIT_US < CLIENT_PROGRESS_US, "the server is first to say that there is no place");
    assert!(WAIT_US < GUEST_US, "a client that waits is not one that asks nothing");
    assert!(CHALLENGE_US < LEAST_RETENTION_US && LEAST_RETENTION_US <= RETENTION_US);
    assert!(CHALLENGE_PACE_US < CHALLENGE_US, "a slow answer is no missing one");
    assert!(
        HASTE_WAITS as u64 * CHALLENGE_AGAIN_US >= LEAST_RETENTION_US,
        "what is withheld for haste was refused for as long as the shortest promise"
    );
    assert!(CHALLENGES_WAITING < CHALLENGES_WAITING_OF_PEER);
    assert!(KEPT_SESSION_BYTES * (RETAINED_SESSIONS as u64) < KEPT_BYTES);
    assert!(LAST_CHALLENGE_US < DRAIN_US && DRAIN_US < RETENTION_US);
    assert!(CHALLENGES_ASKED <= CHALLENGES_WAITING, "an honest client is never refused for haste");
    assert!(
        BATCH_POSITIONS as usize >= DECODE_BATCH + CHUNK_POSITIONS as usize,
        "a chunk runs beside a full batch of decode steps"
    );
    assert!(BATCH_POSITIONS <= BATCH_POSITIONS_MOST && JOBS_AT_EXECUTOR >= 1);
    assert!(SESSIONS >= 1 && RETAINED_SESSIONS >= 1 && STAGES >= 1 && DECODE_BATCH >= 1);
    assert!(LANE_ITEMS > window(STAGES) + CHALLENGES_WAITING, "honest work always fits its lane");
};
