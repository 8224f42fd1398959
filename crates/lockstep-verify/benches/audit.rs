//! What a verifier pays at the sizes of a Llama-3.1-8B layer, on one thread.
//!
//! `algebra` is r·y = v·x for the four products of a layer, for batches of 1, 8 and 64 cells;
//! `naive` is the same in 128-bit integers with one reduction at the end. `audit` is the audit of
//! 16 cells after 512 positions: digest, decoding, paths, ranges, algebra, everything between the
//! products, equality. Elements are cells, so the time per element is that of a layer and token.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_exact::field::{P, reduce};
use lockstep_exact::matrix::Codec;
use lockstep_exact::weights::load_span;
use lockstep_kernels::{Isa, Kernels};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Sizes, TinyModel};
use lockstep_verify::measure::{Algebra, Column};

/// Rows and columns of qkv, output, gate and up, down.
const SHAPES: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)];
const SIZES: Sizes = Sizes {
    layers: 1,
    hidden: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    inner: 14_336,
    vocabulary: 272,
    context: 2048,
};

fn algebra(criterion: &mut Criterion) {
    let shapes = SHAPES.map(|(rows, columns)| Codec::W8.shape(rows, columns));
    for isa in Isa::available() {
        let kernels = Kernels::new(isa, 1).expect("kernels start");
        let mut group = criterion.benchmark_group(format!("algebra/{isa}"));
        for cells in [1, 8, 64] {
            let algebra = Algebra::new(shapes, cells);
            group.throughput(Throughput::Elements(cells as u64));
            group.bench_function(BenchmarkId::from_parameter(cells), |b| {
                b.iter(|| assert!(black_box(&algebra).check(&kernels)));
            });
        }
        group.finish();
    }
}

fn naive(criterion: &mut Criterion) {
    let mut numbers = Numbers::new(1);
    let mut weights = |len| (0..len).map(|_| numbers.below(P)).collect::<Vec<u64>>();
    let keys = SHAPES.map(|(rows, columns)| (weights(rows), weights(columns)));
    let sums = keys.each_ref().map(|(r, _)| r.iter().map(|&r| (r >> 23) as i64).collect());
    let codes = keys.each_ref().map(|(_, v)| v.iter().map(|&v| (v >> 46) as i16).collect());
    let (sums, codes): ([Vec<i64>; 4], [Vec<i16>; 4]) = (sums, codes);
    let mut group = criterion.benchmark_group("algebra");
    group.throughput(Throughput::Elements(1));
    group.bench_function("naive", |b| {
        b.iter(|| {
            for (((r, v), y), x) in keys.iter().zip(&sums).zip(&codes) {
                black_box((dot(black_box(r), black_box(y)), dot(black_box(v), black_box(x))));
            }
        });
    });
    group.finish();
}

fn dot<V: Copy + Into<i128>>(weights: &[u64], values: &[V]) -> u64 {
    let products = weights.iter().zip(values).map(|(&w, &x)| i128::from(w) * x.into());
    reduce(products.sum::<i128>().unsigned_abs())
}

fn audit(criterion: &mut Criterion) {
    let kernels = Kernels::detect(1).expect("kernels start");
    let model = TinyModel::with_sizes(1, SIZES);
    let layers = load_span(&kernels, &model.manifest, 0..1, |b| model.blob(b)).expect("a layer");
    let mut group = criterion.benchmark_group("audit");
    for (positions, cells) in [(512, 1), (512, 16)] {
        let column = Column::new(&kernels, &layers[0], positions, cells).expect("a column");
        group.throughput(Throughput::Elements(cells.into()));
        group.bench_function(BenchmarkId::from_parameter(cells), |b| {
            b.iter(|| black_box(&column).check(&kernels).expect("an honest column"));
        });
    }
    group.finish();
}

criterion_group!(benches, algebra, naive, audit);
criterion_main!(benches);
