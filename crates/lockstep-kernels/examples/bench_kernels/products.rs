//! Matrix products of the sizes that models have, weights from memory.

use std::hint::black_box;

use lockstep_exact::matrix::Shape;
use lockstep_exact::ops::{Flags, Ops};
use lockstep_kernels::{Codes, Kernels, Rows, Sums};

use crate::Times;
use crate::machine::Machine;
use crate::random::{Random, matrices};

/// Outputs × inputs: SmolLM2-135M, then Llama-3.2-1B.
const SHAPES: [(usize, usize); 9] = [
    (960, 576),
    (576, 576),
    (3072, 576),
    (576, 1536),
    (49_152, 576),
    (3072, 2048),
    (2048, 2048),
    (16_384, 2048),
    (2048, 8192),
];
/// Input rows.
const COUNTS: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 16, 128, 512];
/// Weights that are walked through, so that they come from memory.
const BYTES: usize = 1 << 29;

/// Measures with each of `counts` input rows, or with all of [`COUNTS`] if there are none.
pub(crate) fn run(kernels: &Kernels, machine: &Machine, counts: &[usize]) {
    let counts = if counts.is_empty() { &COUNTS } else { counts };
    println!(
        "{:>12} {:>4} {:>8} {:>8} {:>7} {:>8} {:>7}",
        "matrix", "M", "GB/s", "median", "share", "GMAC/s", "share"
    );
    let mut random = Random(88_172_645_463_325_252);
    for (rows, columns) in SHAPES {
        let shape = Shape { rows, columns };
        let copies = BYTES.div_ceil(shape.packed_bytes());
        let weights = matrices(&mut random, shape, copies);
        let scales = weights[0].row_scales();
        for &count in counts {
            let codes = codes(kernels, &mut random, count, columns);
            let (mut sums, mut out) = (Sums::default(), Rows::default());
            // Every run walks on to the next copy; all together last about half a second.
            let runs = (100_000_000_000 / (rows * columns * count)).clamp(5, 10_000);
            let mut next = 0;
            let times = kernels.scope(|| {
                Times::of(runs, || {
                    let Ok(()) =
                        kernels.product(&weights[next], &scales, &codes, &mut sums, &mut out);
                    next = (next + 1) % copies;
                })
            });
            black_box(&out);
            let gb_s = |seconds| shape.packed_bytes() as f64 / seconds / 1e9;
            let (gb_s, median) = (gb_s(times.best()), gb_s(times.median()));
            let gmac_s = (2 * rows * columns * count) as f64 / times.best() / 1e9;
            println!(
                "{:>12} {count:>4} {gb_s:>8.1} {median:>8.1} {:>6.0}% {gmac_s:>8.0} {:>6.0}%",
                shape.to_string(),
                100.0 * gb_s / machine.read_gb_s,
                100.0 * gmac_s / machine.peak_gmac_s.unwrap_or(f64::NAN),
            );
        }
    }
}

fn codes(kernels: &Kernels, random: &mut Random, count: usize, columns: usize) -> Codes {
    let values = (0..count * columns).map(|_| (random.next() % 2001) as f32 - 1000.0).collect();
    let mut codes = Codes::default();
    kernels.quantise(&Rows::new(columns, values), &mut codes, &mut Flags::default());
    codes
}
