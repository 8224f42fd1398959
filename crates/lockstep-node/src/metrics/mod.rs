//! The figures of a server in Prometheus' text format, and the HTTP server that shows them.
//!
//! Every value is one that a machine of the protocol has counted or announces; here they are only
//! named. No label holds a prompt, a token, a session's name or a client: labels are node ids of
//! this server's neighbours, of which there are bounded numbers, and words of enums.
//!
//! | module | what it has |
//! |---|---|
//! | `page` | families of metrics in the text format |
//! | `http` | the HTTP server, with its limits |

mod http;
mod page;

use std::fmt;
use std::net::SocketAddr;

use lockstep_proto::announcement::{BATCHES, Speed, State};
use lockstep_proto::counters::Traffic;
use lockstep_proto::server::{self, Refused};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;

pub use http::{MetricsError, MetricsServer};

use crate::driver::{Figures, SwarmFigures};
use page::{Labels, Page};

/// Parses an address to listen on for requests of metrics: `IP:PORT`, or a port alone, which stands
/// for this machine's loopback. Port 0 lets the system choose.
///
/// # Errors
/// What was expected.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| {
        "expected a port, such as 9464, for this machine alone, or a socket address: an IP address \
         with a port, such as 0.0.0.0:9464 or [::]:9464"
            .to_owned()
    })
}

/// The figures that one page shows.
#[derive(Debug)]
struct Shown {
    figures: Figures,
    /// The memory of this process in bytes; none where the system can't be asked.
    resident: Option<u64>,
}

impl Shown {
    /// Returns the page as Prometheus reads it.
    fn render(self) -> Result<String, fmt::Error> {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut Page::new(encoder);
        if let Some(server) = &self.figures.server {
            announced(server, page)?;
            load(server, page)?;
            sessions(&server.counters, page)?;
            work(&server.counters, page)?;
            audits(server, page)?;
            hops(server, page)?;
        }
        if let Some(swarm) = &self.figures.swarm {
            gossip(swarm, page)?;
        }
        let resident = self.resident.map(|bytes| (Vec::new(), bytes as f64));
        let help = "The memory of the process in bytes, mapped weights among it.";
        page.gauge("process_resident_memory_bytes", help, resident)
    }
}

/// A value without labels.
fn one(value: impl Into<f64>) -> [(Labels, f64); 1] {
    [(Vec::new(), value.into())]
}

/// Seconds of nanoseconds.
fn seconds(ns: u32) -> f64 {
    f64::from(ns) / 1e9
}

/// What the server announces of itself: what it holds, and how fast it is.
fn announced(figures: &server::Figures, page: &mut Page<'_>) -> fmt::Result {
    let status = &figures.status;
    let info = vec![
        ("node", status.node.to_string()),
        ("model", status.manifest.short()),
        ("first", status.first.to_string()),
        ("end", status.end.to_string()),
        ("software", status.software.clone()),
    ];
    let help = "1, with what the server holds: layers first to end - 1 of the model.";
    page.gauge("lockstep_server_info", help, [(info, 1.0)])?;
    let all = [State::Joining, State::Ready, State::Draining, State::Left];
    let is_now = |state: State| f64::from(u8::from(state == status.state));
    let states = all.map(|state| (vec![("state", state.to_string())], is_now(state)));
    page.gauge("lockstep_server_state", "1 at the state that the server announces.", states)?;
    let Speed { decode_ns, head_ns, prefill_ns } = status.speed;
    let by_batch = |times: [u32; 3]| {
        let of = |(batch, ns): (u32, u32)| (vec![("batch", batch.to_string())], seconds(ns));
        BATCHES.into_iter().zip(times).filter(|(_, ns)| *ns > 0).map(of)
    };
    let help = "The announced time of one layer for a decode step of so many sessions.";
    page.gauge("lockstep_decode_seconds_per_layer", help, by_batch(decode_ns))?;
    let help = "The announced time of the head for a decode step of so many sessions.";
    page.gauge("lockstep_head_seconds", help, by_batch(head_ns))?;
    let layers = status.end.saturating_sub(status.first);
    let rate = 1.0 / (seconds(prefill_ns) * f64::from(layers));
    let rate = rate.is_finite().then(|| (Vec::new(), rate));
    let help = "The announced rate at which the server's layers read a prompt.";
    page.gauge("lockstep_prefill_tokens_per_second", help, rate)
}

/// How busy the server is now.
fn load(figures: &server::Figures, page: &mut Page<'_>) -> fmt::Result {
    let status = &figures.status;
    page.gauge("lockstep_sessions", "Sessions under way.", one(status.sessions))?;
    let help =
        "Sessions that the server takes at once: of clients with the head, of stages without.";
    page.gauge("lockstep_sessions_limit", help, one(status.sessions_limit))?;
    page.gauge("lockstep_queue_depth", "Items that wait for the executor.", one(status.queue))?;
    let help = "Requests that wait for a place.";
    page.gauge("lockstep_requests_waiting", help, one(figures.waiting as f64))?;
    let help = "Jobs at the executor.";
    page.gauge("lockstep_jobs_running", help, one(figures.running as f64))?;
    let used = figures.kv_pages.saturating_sub(status.kv_pages_free);
    let help = "KV pages, 256 positions of one layer each, that sessions hold.";
    page.gauge("lockstep_kv_pages_used", help, one(used))?;
    let help = "KV pages that new sessions may take.";
    page.gauge("lockstep_kv_pages_free", help, one(status.kv_pages_free))
}

/// What became of sessions.
fn sessions(counters: &server::Counters, page: &mut Page<'_>) -> fmt::Result {
    let as_what = |place: &str, count| (vec![("place", place.to_owned())], count);
    let opened = [as_what("first", counters.opened_first), as_what("other", counters.opened_other)];
    let help = "Sessions that began: as server 1 of their ring, or as any other.";
    page.counter("lockstep_sessions_opened", help, opened)?;
    let help = "Sessions that came to their end and can be audited for a while.";
    page.counter("lockstep_sessions_finished", help, [(Vec::new(), counters.finished)])?;
    let ended = counters.ended.iter().map(|(why, count)| (vec![("reason", word(why))], *count));
    let help = "Sessions that ended before their answer did, by the reason.";
    page.counter("lockstep_sessions_ended", help, ended)?;
    let refused = counters.refused.iter().map(|((what, why), count)| {
        let what = match what {
            Refused::Challenge => "challenge",
            Refused::Session => "session",
        };
        (vec![("what", what.to_owned()), ("reason", word(why))], *count)
    });
    let help = "Sessions and challenges that were refused, by the reason.";
    page.counter("lockstep_refusals", help, refused)?;
    let help = "Frames of nodes that have no part in the frame's session.";
    page.counter("lockstep_stranger_frames", help, [(Vec::new(), counters.strangers)])?;
    let help = "Tokens that clients were told, at server 1.";
    page.counter("lockstep_tokens", help, [(Vec::new(), counters.tokens)])?;
    let help = "Time from a request to its first token, at server 1.";
    page.times("lockstep_time_to_first_token_seconds", help, [(vec![], &counters.first_token)])?;
    let help = "Time from one token of a session to the next, at server 1.";
    page.times("lockstep_inter_token_latency_seconds", help, [(vec![], &counters.next_token)])
}

/// What the server computed, and how long that took and waited.
fn work(counters: &server::Counters, page: &mut Page<'_>) -> fmt::Result {
    let jobs = counters.jobs.iter().map(|(kind, times)| (vec![("kind", word(kind))], times));
    let help = "Time for which the executor computed each job, by what was in the job.";
    page.times("lockstep_stage_compute_seconds", help, jobs)?;
    let waited = counters.waited_us as f64 / 1e6;
    let help = "Time for which items waited for the executor, all of them together.";
    page.counter("lockstep_stage_queue_seconds", help, [(Vec::new(), waited)])?;
    let help = "Items that the executor was given.";
    page.counter("lockstep_stage_items", help, [(Vec::new(), counters.items)])?;
    let of = |kind: &str, count| (vec![("kind", kind.to_owned())], count);
    let positions =
        [of("decode", counters.decode_positions), of("prompt", counters.prompt_positions)];
    let help = "Positions that the executor was given, the head's among those of decoding.";
    page.counter("lockstep_stage_positions", help, positions)
}

/// What was opened for audits, and is kept for them.
fn audits(figures: &server::Figures, page: &mut Page<'_>) -> fmt::Result {
    let counters = &figures.counters;
    let help = "Challenges that were answered with an opening.";
    page.counter("lockstep_audits_answered", help, [(Vec::new(), counters.answered)])?;
    let help = "Bytes of openings that were sent.";
    page.counter("lockstep_opening_bytes", help, [(Vec::new(), counters.opening_bytes)])?;
    let help = "Finished sessions that are kept for audits.";
    page.gauge("lockstep_retained_sessions", help, one(figures.retained as f64))?;
    let help = "Bytes that are kept, or are promised to be kept, for audits.";
    page.gauge("lockstep_retained_bytes", help, one(figures.kept_bytes as f64))
}

/// What went over links, and how long links are.
fn hops(figures: &server::Figures, page: &mut Page<'_>) -> fmt::Result {
    let counters = &figures.counters;
    let hops = counters.hops.iter().map(|(node, traffic)| (node.to_string(), *traffic));
    let others =
        [("clients".to_owned(), counters.clients), ("others".to_owned(), counters.other_hops)];
    let all: Vec<(String, Traffic)> = hops.chain(others).collect();
    let both = |count: fn(&Traffic) -> [u64; 2]| {
        all.iter().flat_map(move |(peer, traffic)| {
            let of =
                |dir: &str, count| (vec![("peer", peer.clone()), ("dir", dir.to_owned())], count);
            let [sent, received] = count(traffic);
            [of("sent", sent), of("received", received)]
        })
    };
    let help = "Frames to and from each neighbour in rings, all clients, and all other nodes.";
    let frames = both(|traffic| [traffic.sent_frames, traffic.received_frames]);
    page.counter("lockstep_hop_frames", help, frames)?;
    let help = "Bytes to and from each neighbour in rings, all clients, and all other nodes.";
    let sizes = both(|traffic| [traffic.sent_bytes, traffic.received_bytes]);
    page.counter("lockstep_hop_bytes", help, sizes)?;
    let links = figures.status.neighbours.iter();
    let trips =
        links.map(|link| (vec![("peer", link.node.to_string())], f64::from(link.rtt_us) / 1e6));
    let help = "The round trip to other nodes of the swarm, as it is announced.";
    page.gauge("lockstep_hop_rtt_seconds", help, trips)
}

/// What gossip costs, and whom it knows.
fn gossip(figures: &SwarmFigures, page: &mut Page<'_>) -> fmt::Result {
    let SwarmFigures { counters, members } = figures;
    let traffic = &counters.traffic;
    let of = |dir: &str, count| (vec![("dir", dir.to_owned())], count);
    let frames = [of("sent", traffic.sent_frames), of("received", traffic.received_frames)];
    page.counter("lockstep_gossip_frames", "Frames of gossip.", frames)?;
    let sizes = [of("sent", traffic.sent_bytes), of("received", traffic.received_bytes)];
    page.counter("lockstep_gossip_bytes", "Bytes of the frames of gossip.", sizes)?;
    let exchanges = [
        (vec![("result", "complete".to_owned())], counters.compared),
        (vec![("result", "failed".to_owned())], counters.failed),
    ];
    let help = "Exchanges of gossip that this node began, and that failed on either side.";
    page.counter("lockstep_gossip_exchanges", help, exchanges)?;
    let help = "Announcements that others brought and that were not taken.";
    page.counter("lockstep_announcements_refused", help, [(Vec::new(), counters.refused)])?;
    let changes = [
        (vec![("change", "joined".to_owned())], counters.joined),
        (vec![("change", "left".to_owned())], counters.left),
    ];
    let help = "Nodes that became known, and that left or were gone.";
    page.counter("lockstep_swarm_changes", help, changes)?;
    let help = "Other nodes of the swarm that are known.";
    page.gauge("lockstep_swarm_nodes", help, one(*members as f64))
}

/// Returns the name of a variant as a label has it: `Refused(NoRoom)` as `refused_no_room`.
fn word(variant: &impl fmt::Debug) -> String {
    let mut word = String::new();
    for character in format!("{variant:?}").chars().filter(char::is_ascii_alphanumeric) {
        if character.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(character.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests;
