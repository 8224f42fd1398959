//! The rates of prompts and of batches of many sessions on this machine's GPU, operation by
//! operation through the backend that servers use.
//!
//! ```text
//! cargo bench -p lockstep-cuda --bench batches
//! ```
//!
//! Weights are random, of the sizes of real models; each layer has its own place in memory. A pass
//! is measured by the host's clock, from states on the device to states on the device: once with
//! nobody looking on, and once with all states and KV rows recorded in columns, which keep and hash
//! them, as a server does. Embedding, head and sampling are not in it. Medians of the passes
//! (min-max).
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../tests/laws/shapes.rs"]
mod shapes;

use std::time::Instant;

use lockstep_cuda::{Cuda, Driver, Error, Gpu, Span};
use lockstep_exact::forward::{self, Probe, Row, Scratch};
use lockstep_exact::kv::{KvCache as _, KvShape};
use lockstep_exact::matrix::Codec;
use lockstep_exact::ops::{Host as _, KvOf, Place};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::{self, State};
use lockstep_testing::shown::{Columns, Keep, Recorder};
use lockstep_testing::tiny_model::Sizes;

/// Passes that are measured, after one that is not.
const PASSES: usize = 5;

fn main() {
    let outcome = Driver::load().and_then(|driver| {
        for (name, codec, sizes) in [
            ("SmolLM2-135M w8", Codec::W8, shapes::SMOLLM2),
            ("Llama-3.2-1B w8", Codec::W8, shapes::LLAMA_1B),
            ("Llama-3.2-1B w4", Codec::W4, shapes::LLAMA_1B),
            ("Llama-3.1-8B w8", Codec::W8, shapes::LLAMA_8B),
        ] {
            measure(Gpu::open(&driver, 0)?, name, codec, sizes)?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        println!("NOT RUN: {error}");
    }
}

/// A model's layers on a GPU, and sessions.
struct World {
    cuda: Cuda,
    span: Span,
    caches: Vec<KvOf<Cuda>>,
    scratch: Scratch<Cuda>,
    /// One row of a state, repeated.
    row: State,
}

impl World {
    fn sessions(&mut self, count: usize) {
        let shapes: Vec<KvShape> = self.span.layers().iter().map(|of| of.kv_shape()).collect();
        self.caches = (0..count).map(|_| KvOf::<Cuda>::new(&shapes)).collect();
    }

    /// Feeds each session `rows` rows; the seconds that it takes.
    fn feed<P: Probe>(&mut self, rows: usize, probe: &mut P) -> Result<f64, Error> {
        let mut batch = Vec::new();
        for (slot, cache) in self.caches.iter().enumerate() {
            let first = cache.len();
            batch.extend(
                (first..first + rows)
                    .map(|position| Row { place: Place { slot, position }, feeds_head: true }),
            );
        }
        let state = self.cuda.put_state(self.row.select(&vec![0; batch.len()]))?;
        let mut caches: Vec<&mut KvOf<Cuda>> = self.caches.iter_mut().collect();
        let (layers, scratch) = (self.span.layers(), &mut self.scratch);
        // What was given before is done.
        self.cuda.read_state(&state)?;
        let start = Instant::now();
        let state = forward::serve(&self.cuda, layers, &batch, &mut caches, state, scratch, probe)?;
        // One row, to know that it is done.
        let last = lockstep_exact::ops::Device::select_state(&self.cuda, &state, &[0]);
        self.cuda.read_state(&last)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

impl World {
    /// Feeds as [`World::feed`] does, recorded in columns of each session.
    fn feed_recorded(&mut self, rows: usize) -> Result<f64, Error> {
        let span = 0..self.span.layers().len() as u32;
        let new = |_: &KvOf<Cuda>| Columns::new(span.clone(), Keep::Bytes);
        let mut columns: Vec<Columns> = self.caches.iter().map(new).collect();
        let kv = self.span.layers().first().map_or(0, |layer| layer.kv_shape().row_bytes());
        let state = state::row_bytes(self.row.width());
        columns.iter_mut().for_each(|columns| columns.reserve(rows, state, kv));
        let mut columns: Vec<&mut Columns> = columns.iter_mut().collect();
        let mut recorder = Recorder::new(&mut columns);
        let time = self.feed(rows, &mut recorder)?;
        assert!(recorder.finish().is_ok(), "all rows have columns");
        Ok(time)
    }
}

/// Returns the median of some times, as tokens a second, and the spread.
fn figure(tokens: usize, mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let rate = |at: usize| tokens as f64 / times[at];
    let last = times.len() - 1;
    format!("{:6.0} tokens/s ({:.0}-{:.0})", rate(last / 2), rate(last), rate(0))
}

fn measure(gpu: Gpu, name: &str, codec: Codec, sizes: Sizes) -> Result<(), Error> {
    let (layer, head) = shapes::random_model(7, codec, sizes);
    let mut row = State::default();
    lockstep_exact::ops::Device::embed(&Reference, &head.embedding, 1.0, &[1], &mut row);
    let span = Span::new(&gpu, &vec![layer; sizes.layers as usize])?;
    let (caches, scratch) = (Vec::new(), Scratch::default());
    let mut world = World { cuda: Cuda::new(gpu), span, caches, scratch, row };
    println!("\n{name}");
    for length in [192, 512, 2048] {
        let (mut alone, mut shown) = (Vec::new(), Vec::new());
        for pass in 0..=PASSES {
            world.sessions(1);
            let time = world.feed(length, &mut ())?;
            world.sessions(1);
            let seen = world.feed_recorded(length)?;
            if pass > 0 {
                alone.push(time);
                shown.push(seen);
            }
        }
        let (alone, shown) = (figure(length, alone), figure(length, shown));
        println!("  a prompt of {length:4}: {alone}; recorded {shown}");
    }
    for sessions in [16, 64] {
        world.sessions(sessions);
        world.feed(128, &mut ())?;
        let (mut alone, mut shown) = (Vec::new(), Vec::new());
        for step in 0..=2 * PASSES {
            let time = world.feed(1, &mut ())?;
            let seen = world.feed_recorded(1)?;
            if step > 0 {
                alone.push(time);
                shown.push(seen);
            }
        }
        let (alone, shown) = (figure(sessions, alone), figure(sessions, shown));
        println!("  {sessions:2} sessions x 128: {alone}; recorded {shown}");
    }
    Ok(())
}
