//! What a ring costs: three servers on the loopback against one server, and against one process
//! without any, on the same processors.

use std::ops::Range;
use std::slice;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::support::load::{Asks, Plan, crowd};
use crate::support::ring::{Ring, THREE};
use crate::{Alone, Shown, judge, median, range};

/// The span of one server.
const ALL: Range<u32> = 0..30;
/// Sessions that decode together.
const BATCH: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct Hops {
    #[arg(long, default_value_t = 96)]
    tokens: u32,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Threads of each server, and of the process without any
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seconds of each measurement of many streams
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// The seconds of a token of one stream over a ring: of two answers, between their first tokens
/// and their last.
pub(crate) fn stream(ring: &Ring, tokens: u32) -> f64 {
    let (asks, pause) = (Asks::Times(2), Duration::ZERO);
    let told = crowd(&ring.tickets(), Plan { clients: 1, seed: 1, asks, tokens, pause });
    assert!(told.lost().is_empty(), "{:?}", told.lost());
    let ends = |came: &[Instant]| Some((*came.last()? - *came.first()?, came.len() - 1));
    let answers = told.all().filter_map(|asked| ends(&asked.came));
    let (time, count) =
        answers.fold((Duration::ZERO, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    time.as_secs_f64() / count as f64
}

/// The tokens per second of eight streams over a ring.
fn batch(ring: &Ring, seconds: u64) -> f64 {
    let time = Duration::from_secs(seconds);
    let (asks, pause) = (Asks::For(time), Duration::ZERO);
    let plan = Plan { clients: BATCH, seed: 1, asks, tokens: 128, pause };
    let began = Instant::now();
    let told = crowd(&ring.tickets(), plan);
    let (from, until) = (began + time / 5, began + time);
    let tokens: usize = told.service(from, until).iter().sum();
    tokens as f64 / (until - from).as_secs_f64()
}

/// The figures of all repetitions.
#[derive(Default)]
struct Figures {
    alone: Vec<Alone>,
    /// The seconds of a token of one stream over one and over three servers.
    streams: [Vec<f64>; 2],
    /// The tokens per second of eight streams.
    batches: [Vec<f64>; 2],
}

impl Hops {
    pub(crate) fn show(&self) -> Shown {
        let threads = self.threads.to_string();
        let flags = ["--threads", &threads];
        let rings = [Ring::start(slice::from_ref(&ALL), &flags), Ring::start(&THREE, &flags)];
        let mut figures = Figures::default();
        for _ in 0..self.repetitions {
            figures.alone.push(Alone::measure(self.threads));
            for (ring, seconds) in rings.iter().zip(&mut figures.streams) {
                seconds.push(stream(ring, self.tokens));
            }
            for (ring, rates) in rings.iter().zip(&mut figures.batches) {
                rates.push(batch(ring, self.seconds));
            }
        }
        figures.show()
    }
}

impl Figures {
    fn show(&self) -> Shown {
        let alone_s: Vec<f64> = self.alone.iter().map(|alone| 1.0 / alone.one).collect();
        let alone_eight: Vec<f64> = self.alone.iter().map(|alone| alone.eight).collect();
        let [one_s, three_s] = self.streams.each_ref().map(|seconds| median(seconds.clone()));
        let [one_rate, three_rate] = self.batches.each_ref().map(|rates| median(rates.clone()));
        let (process_s, process_rate) = (median(alone_s.clone()), median(alone_eight.clone()));
        println!(
            "one stream, ms a token: {:.3} without servers, {:.3} over one, {:.3} over three",
            1e3 * process_s,
            1e3 * one_s,
            1e3 * three_s,
        );
        println!(
            "a server costs {:.0} us a token; three cost {:.0} us for each hop more than one",
            1e6 * (one_s - process_s),
            1e6 * (three_s - one_s) / THREE.len() as f64,
        );
        println!(
            "eight streams, tokens/s: {process_rate:.1} without servers, {one_rate:.1} over one, \
             {three_rate:.1} over three",
        );
        let (share, many) = (process_s / three_s, three_rate / process_rate);
        let one = format!("one stream: {:.1} % of one process >= 85 %", 100.0 * share);
        let eight = format!("eight streams: {:.1} % of one process >= 95 %", 100.0 * many);
        let is_good = [judge(&one, share >= 0.85), judge(&eight, many >= 0.95)];
        let figures = json!({
            "alone_s": range(&alone_s),
            "one_server_s": range(&self.streams[0]),
            "three_servers_s": range(&self.streams[1]),
            "alone_batch_tokens_per_s": range(&alone_eight),
            "one_server_batch_tokens_per_s": range(&self.batches[0]),
            "three_servers_batch_tokens_per_s": range(&self.batches[1]),
            "share": share,
            "batch_share": many,
        });
        Shown { is_good: is_good == [true, true], figures }
    }
}
