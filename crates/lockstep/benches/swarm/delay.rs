//! One stream over three servers that are far from each other: how close its tokens come to the
//! floor, which is every hop's delay and the time that the ring takes without any.

use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::hops::stream;
use crate::support::relay::{Relay, Weather};
use crate::support::ring::{Ring, THREE, behind};
use crate::{Shown, judge, median, range};

#[derive(Debug, Args)]
pub(crate) struct Delay {
    /// One-way delays from server to server, in milliseconds
    #[arg(long, value_delimiter = ',', default_value = "10,50")]
    delays: Vec<u64>,
    #[arg(long, default_value_t = 48)]
    tokens: u32,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Threads of each server
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// This process is in a network of its own
    #[arg(long = "inside", hide = true)]
    pub(crate) is_inside: bool,
}

/// Makes a network of its own, in which servers behind relays cannot reach each other but over
/// these: QUIC tells both ends of a connection all their addresses, and takes the fastest way.
const NETWORK: &str = "ip link set lo up && nft add table ip swarm && \
    nft 'add chain ip swarm out { type filter hook output priority 0; }' && \
    nft add rule ip swarm out ip saddr 127.0.0.2 ip daddr 127.0.0.2 udp dport 1-65535 drop && \
    exec \"$@\"";

/// Runs this program once more, in a network of its own.
pub(crate) fn in_its_own_network() -> ExitCode {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--map-root-user", "sh", "-c", NETWORK, "sh"]).arg(program);
    let status = command.args(std::env::args_os().skip(1)).arg("--inside").status();
    let is_good = status.expect("unshare, of util-linux").success();
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A ring whose servers reach each other over relays alone.
struct Far {
    ms: u64,
    ring: Ring,
    relays: Vec<Relay>,
    /// The seconds of a token, of each repetition.
    token_s: Vec<f64>,
}

impl Far {
    fn sent(&self) -> u64 {
        self.relays.iter().map(|relay| relay.counts.sent.load(Ordering::Relaxed)).sum()
    }
}

impl Delay {
    pub(crate) fn show(&self) -> Shown {
        let threads = self.threads.to_string();
        let flags = ["--threads", &threads];
        let near = Ring::start(&THREE, &flags);
        let far = |ms: &u64| {
            let weather = Weather { delay: Duration::from_millis(*ms), ..Weather::default() };
            let (ring, relays) = behind(&THREE, weather, &flags);
            Far { ms: *ms, ring, relays, token_s: Vec::new() }
        };
        // Relays without a delay show what they cost themselves.
        let mut rings: Vec<Far> = [0].iter().chain(&self.delays).map(far).collect();
        let mut near_s = Vec::new();
        for _ in 0..self.repetitions {
            near_s.push(stream(&near, self.tokens));
            rings.iter_mut().for_each(|far| far.token_s.push(stream(&far.ring, self.tokens)));
        }
        let stages_s = median(near_s.clone());
        println!("without delays and relays a token takes {:.2} ms", 1e3 * stages_s);
        let mut is_good = true;
        let mut figures = json!({ "near_s": range(&near_s), "delays": {} });
        for far in &rings {
            let floor_s = stages_s + THREE.len() as f64 * far.ms as f64 / 1e3;
            let token_s = median(far.token_s.clone());
            let share = floor_s / token_s;
            let what = format!(
                "{} ms: floor {:.1} ms a token ({:.2} tokens/s), measured {:.1} ms ({:.2} \
                 tokens/s), {:.1} %; {} datagrams",
                far.ms,
                1e3 * floor_s,
                1.0 / floor_s,
                1e3 * token_s,
                1.0 / token_s,
                100.0 * share,
                far.sent(),
            );
            // A ring that is much faster than its floor has found a way round the relays.
            is_good &= judge(&what, far.ms == 0 || (0.9..1.05).contains(&share));
            figures["delays"][far.ms.to_string()] =
                json!({ "floor_s": floor_s, "token_s": range(&far.token_s), "share": share });
        }
        Shown { is_good, figures }
    }
}
