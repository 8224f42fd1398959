//! The kernels one by one, at the sizes of models: `cargo bench -p lockstep-kernels`.
//!
//! One thread; `LOCKSTEP_KERNEL` forces an instruction set. With `LOCKSTEP_COUNT=instructions`
//! instructions are counted instead of time, where the machine has a counter for them. Whole
//! models, beside what the machine can: `lockstep bench --shape`.

mod attention;
mod elements;
mod instructions;
mod products;

use std::process::ExitCode;

use criterion::Criterion;
use criterion::measurement::Measurement;
use instructions::Instructions;
use lockstep_exact::flags::Flags;
use lockstep_exact::ops::Device;
use lockstep_kernels::{Codes, Kernels, Rows};

/// Kernels on one thread.
fn kernels() -> Kernels {
    Kernels::detect(1).expect("this machine can run them")
}

/// Rows of f32 without meaning.
fn rows(count: usize, width: usize) -> Rows {
    let value = |at: usize| (at * 7919 % 2001) as f32 / 500.0 - 2.0;
    Rows::new(width, (0..count * width).map(value).collect())
}

/// Rows of codes without meaning.
fn codes(kernels: &Kernels, count: usize, width: usize) -> Codes {
    let mut codes = Codes::default();
    kernels.quantise(&rows(count, width), &mut codes, &mut Flags::none(count));
    codes
}

fn bench<M: Measurement>(mut criterion: Criterion<M>) {
    products::bench(&mut criterion);
    attention::bench(&mut criterion);
    elements::bench(&mut criterion);
    criterion.final_summary();
}

#[expect(clippy::print_stderr, reason = "a program says why it fails")]
fn main() -> ExitCode {
    let criterion = Criterion::default().configure_from_args();
    match std::env::var("LOCKSTEP_COUNT").as_deref() {
        Err(_) => bench(criterion),
        Ok("instructions") => match Instructions::new() {
            Ok(instructions) => bench(criterion.with_measurement(instructions)),
            Err(error) => {
                eprintln!("no instructions can be counted on this machine: {error}");
                return ExitCode::FAILURE;
            }
        },
        Ok(other) => {
            eprintln!("LOCKSTEP_COUNT is {other:?}: only \"instructions\" can be counted");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
