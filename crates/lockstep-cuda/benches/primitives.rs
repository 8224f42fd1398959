//! Times of each primitive on this machine's GPU, and how much of its memory's bandwidth products
//! and attention use. Shapes are those of an 8B model of Llama's family.
//!
//! ```text
//! cargo bench -p lockstep-cuda
//! ```
//!
//! Times are medians of [`ROUNDS`] rounds, by the device's own clock, of many calls each. Weights
//! and caches rotate over more memory than the device's second cache holds. A call at a time is
//! launched: what the driver takes to launch is in the time of calls shorter than that.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use lockstep_cuda::{
    Batch, Codes, Driver, Error, Flags, Gpu, Heads, Kv, Matrix, Norm, Queries, Rows, Scratch,
    States,
};
use lockstep_exact::blob::Blob;
use lockstep_exact::kv::KvShape;
use lockstep_exact::matrix::{Codec, Packed, seeded_bytes};
use lockstep_exact::norm;
use lockstep_exact::num;
use lockstep_exact::ops::Place;
use lockstep_exact::plan::{Activation, AttentionPlan};
use lockstep_exact::state::State;

/// Rounds of which the median counts.
const ROUNDS: usize = 9;
/// Bytes of weights or caches that one round reads at least.
const ROTATION: usize = 400 << 20;
const HIDDEN: usize = 4096;
const INNER: usize = 14_336;
/// Rows of a batch.
const BATCHES: [usize; 4] = [1, 4, 8, 16];

fn main() {
    let outcome = Driver::load().and_then(|driver| {
        let gpu = Gpu::open(&driver, 0)?;
        let info = gpu.info().clone();
        println!(
            "{}, compute capability {}, CUDA {}, text {}",
            info.name,
            info.capability,
            driver.version(),
            gpu.target()
        );
        elements(&gpu)?;
        products(&gpu)?;
        attention(&gpu)
    });
    if let Err(error) = outcome {
        println!("NOT RUN: {error}");
    }
}

/// The median time of one of `calls` calls, in microseconds.
fn microseconds(
    gpu: &Gpu,
    calls: usize,
    mut call: impl FnMut(usize) -> Result<(), Error>,
) -> Result<f32, Error> {
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        let time = gpu.time(|| (0..calls).try_for_each(&mut call))?;
        // The first warms up.
        if round > 0 {
            times.push(time * 1000.0 / calls as f32);
        }
    }
    times.sort_by(f32::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// Ordinary numbers that differ.
fn numbers(count: usize) -> Vec<f32> {
    let hash = |k: usize| (k as u32).wrapping_mul(2_654_435_769) >> 8;
    (0..count).map(|k| hash(k) as f32 * num::pow2(-23) - 1.0).collect()
}

fn row_of(name: &str, times: &[f32]) {
    let times: Vec<String> = times.iter().map(|time| format!("{time:9.2}")).collect();
    println!("{name:<28}{} us", times.join(""));
}

fn elements(gpu: &Gpu) -> Result<(), Error> {
    println!("\nrows                        {}", BATCHES.map(|m| format!("{m:9}")).concat());
    let norm = norm::Norm::new(1e-5, numbers(HIDDEN));
    let norm: Norm = gpu.norm_of(&norm)?;
    let mut times = [[0.0; BATCHES.len()]; 4];
    for (at, rows) in BATCHES.into_iter().enumerate() {
        let (mut x, mut delta, mut out) = (States::new(gpu)?, Rows::new(gpu)?, Rows::new(gpu)?);
        let (mut sum, mut codes) = (States::new(gpu)?, Codes::new(gpu)?);
        let mut flags = Flags::new(gpu, rows)?;
        delta.write(HIDDEN, &numbers(rows * HIDDEN))?;
        x.write(&State::zeros(rows, HIDDEN))?;
        gpu.residual(&x, &delta, &mut sum, &mut flags)?;
        times[0][at] = microseconds(gpu, 200, |_| gpu.norm(&sum, norm.eps, &norm.gain, &mut out))?;
        times[1][at] = microseconds(gpu, 200, |_| gpu.residual(&sum, &delta, &mut x, &mut flags))?;
        times[2][at] = microseconds(gpu, 200, |_| gpu.quantise(&delta, &mut codes, &mut flags))?;
        delta.write(2 * INNER, &numbers(rows * 2 * INNER))?;
        times[3][at] = microseconds(gpu, 200, |_| gpu.gate(Activation::Silu, &delta, &mut out))?;
    }
    let names = ["norm 4096", "residual 4096", "quantise 4096", "gate 14336"];
    names.iter().zip(&times).for_each(|(name, times)| row_of(name, times));
    Ok(())
}

fn products(gpu: &Gpu) -> Result<(), Error> {
    println!("\nproducts                    {}", BATCHES.map(|m| format!("{m:9}")).concat());
    let shapes = [
        ("qkv", 6144, HIDDEN),
        ("output", HIDDEN, HIDDEN),
        ("gate_up", 2 * INNER, HIDDEN),
        ("down", HIDDEN, INNER),
        ("head", 128_256, HIDDEN),
    ];
    for codec in Codec::ALL {
        for (name, rows, columns) in shapes {
            let shape = codec.shape(rows, columns);
            let bytes = Blob::new(seeded_bytes(7, shape));
            let Some(slice) = bytes.slice(0, shape.packed_bytes()) else { continue };
            let Ok(packed) = Packed::new(shape, slice) else { continue };
            let copies = ROTATION.div_ceil(shape.packed_bytes());
            let copies: Result<Vec<Matrix>, Error> =
                (0..copies).map(|_| Matrix::new(gpu, &packed)).collect();
            let copies = copies?;
            let mut times = [0.0; BATCHES.len()];
            for (time, rows) in times.iter_mut().zip(BATCHES) {
                let (mut x, mut out) = (Rows::new(gpu)?, Rows::new(gpu)?);
                let (mut codes, mut flags) = (Codes::new(gpu)?, Flags::new(gpu, rows)?);
                x.write(columns, &numbers(rows * columns))?;
                gpu.quantise(&x, &mut codes, &mut flags)?;
                let product = |at: usize| gpu.product(&copies[at], &codes, None, None, &mut out);
                *time = microseconds(gpu, copies.len(), product)?;
            }
            row_of(&format!("{name} {shape}"), &times);
            let rates = times.map(|time| shape.packed_bytes() as f32 / time / 1000.0);
            let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:9.0}")).collect();
            println!("{:<28}{} GB/s", "", rates.join(""));
        }
    }
    Ok(())
}

fn attention(gpu: &Gpu) -> Result<(), Error> {
    println!("\nattention, sessions x positions (32/8 heads of 128)");
    let shape = KvShape { kv_heads: 8, head_dim: 128 };
    let score_scale = num::LOG2_E / f32::from(128_u8).sqrt();
    let plan =
        AttentionPlan { heads: 32, kv_heads: 8, head_dim: 128, rope: 0, window: 0, score_scale };
    let rope: Vec<u64> = (0..64).map(|pair| 1 << 62 >> (pair % 40)).collect();
    let rope = gpu.buffer(&rope)?;
    let layer = Heads { plan: &plan, rope: &rope, norms: None };
    for (sessions, positions) in [(1, 1024), (1, 8192), (8, 1024), (8, 8192), (1, 32_768)] {
        let mut rows: Vec<u8> = Vec::with_capacity(positions * shape.row_bytes());
        let codes = numbers(2 * shape.width());
        for position in 0..positions {
            rows.extend(codes.iter().map(|x| ((x * 127.0) as i8).cast_unsigned()));
            let scale = 0.01 + position as f32 * num::pow2(-24);
            (0..2 * shape.kv_heads).for_each(|_| rows.extend(scale.to_le_bytes()));
        }
        let mut caches: Vec<Kv> = (0..sessions).map(|_| Kv::new(shape)).collect();
        for cache in &mut caches {
            if cache.write(gpu, 0, &rows)?.is_err() {
                println!("a row is not canonical");
            }
        }
        let mut caches: Vec<&mut Kv> = caches.iter_mut().collect();
        let place = |slot| Place { slot, position: positions - 1 };
        let places: Vec<Place> = (0..sessions).map(place).collect();
        let wanted: Vec<usize> = (0..sessions).collect();
        let batch = Batch::new(gpu, &places, &mut caches)?;
        let (mut qkv, mut out) = (Rows::new(gpu)?, Rows::new(gpu)?);
        let (mut queries, mut scratch) = (Queries::new(gpu)?, Scratch::new(gpu)?);
        let mut flags = Flags::new(gpu, sessions)?;
        qkv.write(plan.qkv_width(), &numbers(sessions * plan.qkv_width()))?;
        let append = microseconds(gpu, 50, |_| {
            gpu.append(layer, &qkv, &batch, &wanted, &mut queries, &mut flags)
        })?;
        let attend = microseconds(gpu, 50, |_| {
            gpu.attend(&plan, &queries, &batch, &mut scratch, &mut out, &mut flags)
        })?;
        let rate = (sessions * positions * shape.row_bytes()) as f32 / attend / 1000.0;
        println!(
            "{sessions:2} x {positions:6}: append {append:7.2} us (with an upload), attend \
             {attend:7.2} us, {rate:5.0} GB/s"
        );
    }
    Ok(())
}
