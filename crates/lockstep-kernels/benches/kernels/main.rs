//! The kernels one by one, at the sizes of models: `cargo bench -p lockstep-kernels`.
//!
//! One thread; `LOCKSTEP_KERNEL` forces an instruction set. Whole models, beside what the machine
//! can: `lockstep bench --shape`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod attention;
mod elements;
mod products;

use criterion::{criterion_group, criterion_main};
use lockstep_exact::ops::{Flags, Ops as _};
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
    kernels.quantise(&rows(count, width), &mut codes, &mut Flags::default());
    codes
}

criterion_group!(benches, products::bench, attention::bench, elements::bench);
criterion_main!(benches);
