//! What the kernels reach beside what the machine can: GB/s next to the measured read bandwidth,
//! multiply-adds per second next to the measured int8 peak, tokens/s of a whole model of random
//! weights.
//!
//! `cargo run --release -p lockstep-kernels --example bench_kernels [THREADS]
//! [products|attention|model|smollm2|llama]`; `LOCKSTEP_KERNEL` forces an instruction set.
//! Figures are the best of several runs, so that other load on the machine shows least.
//! Multiply-adds count both activation planes, weight bytes count once.

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

mod attention;
mod machine;
mod model;
mod products;
mod random;
mod timed;

use std::error::Error;
use std::time::Instant;

use lockstep_kernels::Kernels;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let part = arguments.next();
    let kernels = Kernels::detect(threads)?;
    let machine = machine::Machine::measure(threads);
    println!(
        "{} on {threads} thread(s); reads {:.1} GB/s, int8 peak {}",
        kernels.isa(),
        machine.read_gb_s,
        machine.peak_gmac_s.map_or_else(|| "unknown".into(), |peak| format!("{peak:.0} GMAC/s")),
    );
    let part = part.unwrap_or_default();
    if part.is_empty() || part == "products" {
        products::run(&kernels, &machine);
    }
    if part.is_empty() || part == "attention" {
        attention::run(&kernels, &machine);
    }
    if part != "products" && part != "attention" {
        model::run(&kernels, &machine, &part);
    }
    Ok(())
}

/// The shortest of `count` runs, in seconds.
fn best_of(count: usize, body: impl FnMut()) -> f64 {
    Times::of(count, body).best()
}

/// How long some runs took, in seconds.
struct Times(Vec<f64>);

impl Times {
    /// Runs `body` `count` times.
    fn of(count: usize, mut body: impl FnMut()) -> Self {
        let run = |_| {
            let start = Instant::now();
            body();
            start.elapsed().as_secs_f64()
        };
        let mut times: Vec<f64> = (0..count).map(run).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn best(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
