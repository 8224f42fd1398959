//! Six servers that place themselves, with uneven threads and one of them slowed down, and many
//! clients that come, go and cancel.

use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use lockstep_node::memory::sizes;
use serde_json::{Value, json};

use crate::memory::Watch;
use crate::support::load::{Asks, End, Plan, Told, crowd, jain};
use crate::support::process::Process;
use crate::support::ring::{Server, are_ready, starting, swarm_of, wait_for};
use crate::support::{MODEL, PATIENCE, command, real_model};
use crate::{Alone, Shown, judge};

/// The threads of the servers, in the order in which they start.
const THREADS: [usize; 6] = [1, 2, 1, 2, 1, 1];
/// The servers that are started with memory for embedding and head.
const HEADS: [usize; 2] = [0, 3];
/// The server that gets less of the processors than the others, as `renice` says.
const SLOWED: usize = 4;
/// Layers for which each server has memory.
const LAYERS: u64 = 10;
/// MiB beside weights and sessions: the program, its threads, frames on their way.
const OWN_MIB: u64 = 160;

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Seconds for which clients begin requests
    #[arg(long, default_value_t = 90)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most tokens of an answer
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// The longest pause of a client between two requests, in milliseconds
    #[arg(long, default_value_t = 500)]
    pause: u64,
    /// Positions of sessions for which each server has memory in each of its layers
    #[arg(long, default_value_t = 32_768)]
    room: u32,
    /// Threads of the process that the swarm is compared with
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The servers, with the MiB that each may take.
struct Swarm {
    servers: Vec<Server>,
    memory: Vec<u64>,
}

impl Swarm {
    /// Starts them one after the other; all but the first find their layers themselves.
    fn start(room: u32) -> Self {
        let sizes = sizes(&real_model().manifest, Some(room));
        let layer = sizes.layer_bytes + sizes.kv_bytes;
        let memory = |server: usize| {
            let head = if HEADS.contains(&server) { sizes.head_bytes } else { 0 };
            (LAYERS * layer + layer / 2 + head) >> 20
        };
        let memory: Vec<u64> = (0..THREADS.len()).map(memory).collect();
        let mut servers: Vec<Server> = Vec::new();
        for (threads, memory) in THREADS.iter().zip(&memory) {
            let (threads, memory, room) =
                (threads.to_string(), memory.to_string(), room.to_string());
            let flags = ["--threads", &threads, "--memory", &memory];
            let process = match servers.first() {
                None => starting(0..LAYERS as u32, &flags),
                Some(first) => {
                    let joins = ["serve", MODEL, "--join", &first.ticket, "--room", &room];
                    let usual = ["--bind", "127.0.0.1:0", "--ephemeral", "--json"];
                    let end = ["--until-stdin-closes"];
                    Process::spawn(command(&[&joins[..], &flags, &usual, &end].concat()))
                }
            };
            servers.push(Server::ready(process));
        }
        wait_for(&servers[0].ticket, "all servers", |seen| are_ready(seen, THREADS.len()));
        let slowed = servers[SLOWED].process.id().to_string();
        let renice = Command::new("renice").args(["-n", "10", "-p", &slowed]).output();
        assert!(renice.unwrap().status.success(), "renice");
        Self { servers, memory }
    }

    fn ticket(&self) -> &str {
        &self.servers[0].ticket
    }

    /// The free pages of each server, as soon as it runs no session any more.
    fn free_pages(&self) -> Vec<u32> {
        let of = |server: &Server| {
            server.wait_idle(PATIENCE);
            server.status().unwrap().kv_pages_free
        };
        self.servers.iter().map(of).collect()
    }

    fn spans(&self) -> Value {
        let nodes = swarm_of(self.ticket());
        let nodes = nodes["nodes"].as_array().unwrap();
        let span = |server: &Server| {
            let node = nodes.iter().find(|node| node["node"] == *server.node).unwrap();
            json!([node["first"], node["end"]])
        };
        self.servers.iter().map(span).collect()
    }
}

/// What the clients saw.
struct Seen {
    told: Told,
    service: Vec<usize>,
    tokens_per_s: f64,
}

impl Load {
    pub(crate) fn show(&self) -> Shown {
        let before = Alone::measure(self.threads);
        let swarm = Swarm::start(self.room);
        let spans = swarm.spans();
        println!("servers: layers {spans}, threads {THREADS:?}, server {SLOWED} at nice 10");
        let pages = swarm.free_pages();
        let processes = swarm.servers.iter().map(|server| server.process.id()).collect();
        let watch = Watch::start(processes);
        let seen = self.crowd(&swarm);
        let pages_after = swarm.free_pages();
        let resident = watch.stop();
        let alone = Alone::mean(before, Alone::measure(self.threads));
        let share = seen.tokens_per_s / alone.eight;
        let fair = jain(&seen.service);
        self.print(&seen, &alone);
        let judged = [
            judge("no request was lost", seen.told.lost().is_empty()),
            judge("all answers to a prompt begin alike", seen.told.contradictions() == 0),
            judge(&format!("Jain's index {fair:.3} >= 0.9"), fair >= 0.9),
            judge(&format!("{:.0} % of batch 8 >= 70 %", 100.0 * share), share >= 0.7),
            judge(&format!("free pages {pages_after:?} as before"), pages == pages_after),
            within(&resident, &swarm.memory),
        ];
        let figures = json!({
            "spans": spans,
            "tokens_per_s": seen.tokens_per_s,
            "alone_batch_8_tokens_per_s": alone.eight,
            "share": share,
            "jain": fair,
            "requests": seen.told.all().count(),
            "answered": seen.told.count(|end| *end == End::Answered),
            "cancelled": seen.told.count(|end| *end == End::Cancelled),
            "refused": seen.told.count(|end| matches!(end, End::Refused(_))),
            "lost": seen.told.lost(),
            "service": seen.service,
            "resident_mib": resident,
        });
        Shown { is_good: judged.iter().all(|is_good| *is_good), figures }
    }

    fn crowd(&self, swarm: &Swarm) -> Seen {
        let time = Duration::from_secs(self.seconds);
        let plan = Plan {
            clients: self.clients,
            seed: self.seed,
            asks: Asks::For(time),
            tokens: self.tokens,
            pause: Duration::from_millis(self.pause),
        };
        let began = Instant::now();
        let told = crowd(swarm.ticket(), plan);
        // Without the beginning, in which clients connect and sessions fill the batches.
        let (from, until) = (began + time / 5, began + time);
        let tokens: usize = told.service(from, until).iter().sum();
        let tokens_per_s = tokens as f64 / (until - from).as_secs_f64();
        // Fairness counts all that a client got until then.
        let service = told.service(began, until);
        Seen { told, service, tokens_per_s }
    }

    fn print(&self, seen: &Seen, alone: &Alone) {
        let Seen { told, service, tokens_per_s } = seen;
        println!(
            "{} clients for {} s, seed {}: {} requests: {} answered, {} cancelled, {} refused for \
             want of room, {} lost",
            self.clients,
            self.seconds,
            self.seed,
            told.all().count(),
            told.count(|end| *end == End::Answered),
            told.count(|end| *end == End::Cancelled),
            told.count(|end| matches!(end, End::Refused(_))),
            told.lost().len(),
        );
        told.lost().iter().take(10).for_each(|why| println!("  lost: {why}"));
        let refused = told.all().filter_map(|asked| match &asked.end {
            End::Refused(why) => Some(why),
            End::Answered | End::Cancelled | End::Lost(_) => None,
        });
        refused.take(3).for_each(|why| println!("  refused: {why}"));
        println!("tokens of each client: {service:?}");
        println!(
            "{tokens_per_s:.1} tokens/s together; one process with {} threads: {:.1} in a batch of \
             8, {:.1} for one stream",
            self.threads, alone.eight, alone.one,
        );
    }
}

/// Prints the memory of each server over time, and judges whether it stays within its limit.
fn within(resident: &[Vec<u64>], limits: &[u64]) -> bool {
    let mut is_good = true;
    for (server, (seen, limit)) in resident.iter().zip(limits).enumerate() {
        let tenth = seen.len().div_ceil(10).max(1);
        let peak_of = |part: &[u64]| part.iter().max().copied();
        let peaks: Vec<u64> = seen.chunks(tenth).filter_map(peak_of).collect();
        let peak = peak_of(&peaks).unwrap_or(0);
        let most = limit + OWN_MIB;
        let what = format!("server {server}: peak {peak} MiB <= {limit} + {OWN_MIB}; {peaks:?}");
        is_good &= judge(&what, peak > 0 && peak <= most);
    }
    is_good
}
