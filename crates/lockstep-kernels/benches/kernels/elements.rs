//! The operations between products, row by row. Throughput counts elements.

use std::hint::black_box;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput};
use lockstep_exact::flags::Flags;
use lockstep_exact::ops::{Device, Host};
use lockstep_exact::plan::Activation;
use lockstep_exact::state::State;
use lockstep_kernels::{Codes, Rows, Sums};

/// Rows of a decoded token and of a prompt's chunk.
const COUNTS: [usize; 2] = [1, 128];
/// Elements of a state, and of the feed-forward part: SmolLM2-135M and Llama-3.2-1B.
const WIDTHS: [(usize, usize); 2] = [(576, 1536), (2048, 8192)];

pub(crate) fn bench<M: Measurement>(criterion: &mut Criterion<M>) {
    let kernels = crate::kernels();
    let mut group = criterion.benchmark_group("elements");
    for (hidden, inner) in WIDTHS {
        for count in COUNTS {
            let id = |name, width| BenchmarkId::new(format!("{name} {width}"), count);
            let (delta, gate_up) = (crate::rows(count, hidden), crate::rows(count, 2 * inner));
            let (mut state, mut out) = (State::default(), State::default());
            let (zeros, mut flags) = (State::zeros(count, hidden), Flags::none(count));
            kernels.residual(&zeros, &delta, &mut state, &mut flags);
            let (mut rows, mut codes) = (Rows::default(), Codes::default());
            let gain = vec![1.0; hidden];

            group.throughput(Throughput::Elements((count * hidden) as u64));
            group.bench_function(id("norm", hidden), |bencher| {
                bencher.iter(|| kernels.norm(black_box(&state), 1e-5, &gain, &mut rows));
            });
            group.bench_function(id("quantise", hidden), |bencher| {
                bencher.iter(|| kernels.quantise(black_box(&delta), &mut codes, &mut flags));
            });
            let mut sums = Sums::default();
            kernels.write_sums(hidden, &vec![123_456_789; count * hidden], &mut sums);
            group.bench_function(id("dequant", hidden), |bencher| {
                bencher.iter(|| kernels.dequant(black_box(&sums), &codes, &gain, &mut rows));
            });
            group.bench_function(id("residual", hidden), |bencher| {
                bencher.iter(|| kernels.residual(black_box(&state), &delta, &mut out, &mut flags));
            });
            group.throughput(Throughput::Elements((count * inner) as u64));
            group.bench_function(id("gate", inner), |bencher| {
                bencher.iter(|| kernels.gate(Activation::Silu, black_box(&gate_up), &mut rows));
            });
        }
    }
    group.finish();
}
