//! The rate of whole decode steps on this machine's GPU, beside what reading the weights takes.
//!
//! ```text
//! cargo bench -p lockstep-cuda --bench decode
//! ```
//!
//! Weights are random, of the sizes of real models; each layer has its own place in memory. A step
//! is measured twice: by the device's own clock, from the upload of its tokens and positions to the
//! end of the launch; and by the host's, from tokens there to all states, KV rows and logits there.
//! Hashes and sampling are not in it. Medians of the steps (min-max).
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../tests/laws/shapes.rs"]
mod shapes;

use std::time::Instant;

use lockstep_cuda::{Driver, Error, Gpu, Input, Kv, Span, Step};
use lockstep_exact::matrix::{Codec, Packed};
use lockstep_exact::weights::{HeadWeights, LayerWeights};
use lockstep_testing::tiny_model::Sizes;

/// Steps that are measured, after as many that are not.
const STEPS: usize = 64;
/// Bytes a second that this kind of device reads, by `docs/decisions/0009-cuda-backend.md`.
const READ: f64 = 4.6e12;

fn main() {
    let outcome = Driver::load().and_then(|driver| {
        let gpu = Gpu::open(&driver, 0)?;
        println!("{}, CUDA {}, text {}", gpu.info().name, driver.version(), gpu.target());
        for (name, codec, sizes) in [
            ("SmolLM2-135M w8", Codec::W8, shapes::SMOLLM2),
            ("Llama-3.2-1B w8", Codec::W8, shapes::LLAMA_1B),
            ("Llama-3.2-1B w4", Codec::W4, shapes::LLAMA_1B),
            ("Llama-3.1-8B w8", Codec::W8, shapes::LLAMA_8B),
        ] {
            measure(&gpu, name, codec, sizes)?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        println!("NOT RUN: {error}");
    }
}

/// Bytes of weights that a token reads.
fn weights(layer: &LayerWeights<Packed>, head: &HeadWeights<Packed>, layers: usize) -> usize {
    let of = layer.parts.feed_forward.dense().unwrap();
    let products = [&layer.parts.qkv, &layer.parts.output, &of.gate_up, &of.down];
    let of_layer: usize =
        products.iter().map(|product| product.matrix.shape().packed_bytes()).sum();
    of_layer * layers + head.output.matrix.shape().packed_bytes()
}

fn measure(gpu: &Gpu, name: &str, codec: Codec, sizes: Sizes) -> Result<(), Error> {
    let (layer, head) = shapes::random_model(7, codec, sizes);
    let count = sizes.layers as usize;
    let bytes = weights(&layer, &head, count);
    let span = Span::new(gpu, &vec![layer; count])?;
    let span = span.with_embedding(gpu, &head)?.with_head(gpu, &head)?;
    let floor = bytes as f64 / READ * 1e6;
    println!("\n{name}: {:.3} GB a token, floor {floor:.0} us", bytes as f64 / 1e9);
    for sessions in [1, 4, 8] {
        for context in [0, 1024] {
            let mut caches: Vec<Vec<Kv>> = (0..sessions).map(|_| span.caches()).collect();
            for cache in caches.iter_mut().flatten() {
                let rows = vec![0; context * cache.shape().row_bytes()];
                cache.write(gpu, 0, &rows)?.unwrap();
            }
            let mut step = Step::new(gpu, &span, sessions, context + 2 * STEPS)?;
            let (mut device, mut whole) = (Vec::new(), Vec::new());
            for at in 0..2 * STEPS {
                let tokens: Vec<u32> =
                    (0..sessions).map(|session| (at * 31 + session * 7) as u32 + 1).collect();
                let mut borrowed: Vec<&mut [Kv]> =
                    caches.iter_mut().map(Vec::as_mut_slice).collect();
                let start = Instant::now();
                let time = gpu
                    .time(|| gpu.decode(&span, &mut step, Input::Tokens(&tokens), &mut borrowed))?;
                let read = step.read()?;
                let elapsed = start.elapsed().as_secs_f64() * 1e6;
                if read.logits(0).is_err() {
                    println!("overflow");
                }
                if at >= STEPS {
                    device.push(f64::from(time) * 1e3);
                    whole.push(elapsed);
                }
            }
            device.sort_by(f64::total_cmp);
            whole.sort_by(f64::total_cmp);
            let figure = |times: &[f64]| {
                let (low, middle, high) = (times[0], times[STEPS / 2], times[STEPS - 1]);
                format!("{middle:6.0} us ({low:.0}-{high:.0})")
            };
            let rate = |time: f64| sessions as f64 / time * 1e6;
            println!(
                "  {sessions} x {context:5}: on the device {} = {:5.0} tokens/s, {:3.0} % of the \
                 floor; to the host {} = {:5.0} tokens/s",
                figure(&device),
                rate(device[STEPS / 2]),
                floor / device[STEPS / 2] * 100.0,
                figure(&whole),
                rate(whole[STEPS / 2]),
            );
        }
    }
    Ok(())
}
