//! What the kernels reach beside what the machine can: GB/s next to the measured read bandwidth,
//! multiply-adds per second next to the measured int8 peak, tokens/s of a whole model of random
//! weights.
//!
//! `cargo run --release -p lockstep-kernels --example bench_kernels [THREADS] [products|model]`;
//! `LOCKSTEP_KERNEL` forces an instruction set. Figures are the best of several runs, so that
//! other load on the machine shows least. Multiply-adds count both activation planes, weight
//! bytes count once.

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

mod machine;
mod model;
mod products;
mod random;

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
    if part.as_deref() != Some("model") {
        products::run(&kernels, &machine);
    }
    if part.as_deref() != Some("products") {
        model::run(&kernels, &machine);
    }
    Ok(())
}

/// The shortest of `count` runs, in seconds.
fn best_of(count: usize, mut body: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        body();
        start.elapsed().as_secs_f64()
    };
    (0..count).map(run).min_by(f64::total_cmp).unwrap_or(f64::NAN)
}
