//! Dot products in the field, for every instruction set of this processor: one vector of 4096
//! residues with 1, 8 and 64 rows of sums and of codes. Elements are multiply-adds.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_exact::field::P;
use lockstep_exact::ops::FieldDots;
use lockstep_kernels::{Isa, Kernels};
use lockstep_testing::numbers::Numbers;

const LEN: usize = 4096;

fn field(criterion: &mut Criterion) {
    let mut numbers = Numbers::new(1);
    let weights: Vec<u64> = (0..LEN).map(|_| numbers.below(P)).collect();
    for isa in Isa::available() {
        let kernels = Kernels::new(isa, 1).expect("kernels start");
        let mut group = criterion.benchmark_group(format!("field/{isa}"));
        for rows in [1, 8, 64] {
            let numbers = (0..LEN * rows).map(|_| numbers.next_u64().cast_signed());
            // As large as the sums of 4096 columns can be.
            let values: Vec<i64> = numbers.map(|number| number >> 23).collect();
            let codes: Vec<i16> = values.iter().map(|&value| value as i16).collect();
            let mut out = vec![0; rows];
            group.throughput(Throughput::Elements((LEN * rows) as u64));
            group.bench_function(BenchmarkId::new("sums", rows), |b| {
                b.iter(|| kernels.field_dots_i64(&weights, black_box(&values), &mut out));
            });
            group.bench_function(BenchmarkId::new("codes", rows), |b| {
                b.iter(|| kernels.field_dots_i16(&weights, black_box(&codes), &mut out));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, field);
criterion_main!(benches);
