//! Shows with real processes: many clients at a swarm, a ring over slow links, and what a ring
//! costs beside one process. Each measures what it compares in the same run, because machines
//! drift, and ends with a verdict.
//!
//! ```sh
//! cargo bench -p lockstep --bench swarm -- load           # six servers, fifty clients
//! cargo bench -p lockstep --bench swarm -- delay          # 10 and 50 ms from server to server
//! cargo bench -p lockstep --bench swarm -- hops           # three servers against one process
//! ```

#![allow(clippy::print_stdout, reason = "figures are shown")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod delay;
mod hops;
mod load;
mod memory;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use support::{MODEL, lockstep};

/// Shows of a swarm of real processes on this machine.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench -p lockstep --bench swarm --")]
struct Arguments {
    #[command(subcommand)]
    show: Show,
    /// End standard output with one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Many clients come and go at servers that place themselves
    Load(load::Load),
    /// One stream over servers that are far from each other
    Delay(delay::Delay),
    /// Three servers on the loopback against one, for one stream and for many
    Hops(hops::Hops),
}

/// Whether everything was as it is to be, and the figures.
struct Shown {
    is_good: bool,
    figures: Value,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let shown = match arguments.show {
        Show::Load(load) => load.show(),
        Show::Delay(delay) if !delay.is_inside => return delay::in_its_own_network(),
        Show::Delay(delay) => delay.show(),
        Show::Hops(hops) => hops.show(),
    };
    println!("{}", if shown.is_good { "PASSED" } else { "NOT PASSED" });
    if arguments.json {
        println!("{}", shown.figures);
    }
    if shown.is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tokens per second of one process without servers: of one stream, and of eight together.
#[derive(Clone, Copy, Debug)]
struct Alone {
    one: f64,
    eight: f64,
}

impl Alone {
    /// Measures it with `lockstep bench`.
    fn measure(threads: usize) -> Self {
        let threads = threads.to_string();
        let lengths = ["--prefill", "16", "--decode", "64", "--batch", "8", "--repetitions", "3"];
        let more = ["--rates-only", "--json", "--threads", &threads];
        let report = lockstep(&[&["bench", MODEL][..], &lengths, &more].concat());
        let report = report.expect_code(0).json();
        let figure = |name: &str| report[name].as_f64().expect("a figure");
        let (one, eight) = (figure("decode_tokens_per_s"), figure("batch_decode_tokens_per_s"));
        Self { one, eight }
    }

    /// The mean of two measurements, one before and one after what they are compared with.
    fn mean(before: Self, after: Self) -> Self {
        let mean = |of: fn(Self) -> f64| f64::midpoint(of(before), of(after));
        Self { one: mean(|alone| alone.one), eight: mean(|alone| alone.eight) }
    }
}

/// Prints whether a figure is as it is to be, and returns that.
fn judge(what: &str, is_good: bool) -> bool {
    println!("  {} {what}", if is_good { "ok  " } else { "MISS" });
    is_good
}

/// The number in the middle; the smaller of two.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() - 1) / 2]
}

fn range(figures: &[f64]) -> Value {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    json!({ "median": median(figures.to_vec()), "min": least, "max": most })
}
