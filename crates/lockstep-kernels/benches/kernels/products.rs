//! Matrix products, weights from memory. Throughput counts the multiply-adds of both planes.

use std::hint::black_box;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput};
use lockstep_exact::blob::Blob;
use lockstep_exact::matrix::{Codec, Packed, Shape, seeded_bytes};
use lockstep_exact::ops::Products;
use lockstep_kernels::Sums;

/// Outputs, inputs: gate and up, and down, of SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B.
const SHAPES: [(usize, usize); 6] =
    [(3072, 576), (576, 1536), (16_384, 2048), (2048, 8192), (28_672, 4096), (4096, 14_336)];
/// Input rows.
const COUNTS: [usize; 3] = [1, 8, 128];
/// Weights that are walked through: more than a cache holds.
const BYTES: usize = 128 << 20;

pub(crate) fn bench<M: Measurement>(criterion: &mut Criterion<M>) {
    let kernels = crate::kernels();
    let mut group = criterion.benchmark_group("product");
    group.sample_size(10);
    let shapes = |codec: Codec| SHAPES.map(|(rows, columns)| codec.shape(rows, columns));
    for shape in Codec::ALL.into_iter().flat_map(shapes) {
        let Shape { rows, columns, .. } = shape;
        let copies = BYTES.div_ceil(shape.packed_bytes());
        let matrices: Vec<Packed> = (0..copies).map(|copy| matrix(copy, shape)).collect();
        for count in COUNTS {
            let codes = crate::codes(&kernels, count, columns);
            let mut sums = Sums::default();
            let mut next = matrices.iter().cycle();
            group.throughput(Throughput::Elements((2 * rows * columns * count) as u64));
            group.bench_function(BenchmarkId::new(shape.to_string(), count), |bencher| {
                bencher.iter(|| {
                    if let Some(matrix) = next.next() {
                        let Ok(()) = kernels.matmul(matrix, &codes, &mut sums);
                    }
                    black_box(&sums);
                });
            });
        }
    }
    group.finish();
}

fn matrix(copy: usize, shape: Shape) -> Packed {
    let blob = Blob::new(seeded_bytes(copy as u64 + 1, shape));
    let slice = blob.slice(0, shape.packed_bytes()).expect("all of it");
    Packed::new(shape, slice).expect("in packed form")
}
