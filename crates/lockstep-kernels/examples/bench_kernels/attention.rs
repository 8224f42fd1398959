//! Attention of long sessions: its share of a decoded token, and what is left of the rate of a
//! prompt.

use std::time::Instant;

use lockstep_exact::forward::{Row, Scratch};
use lockstep_exact::kv::KvCache;
use lockstep_exact::ops::Place;
use lockstep_kernels::{Kernels, Kv};

use crate::machine::Machine;
use crate::model::{MODELS, Model, empty_cache, step};
use crate::random::Random;
use crate::timed::Timed;

/// Positions in the cache when a token is decoded.
const CONTEXTS: [usize; 4] = [16, 512, 2048, 8192];
/// Tokens that are decoded at each.
const DECODED: usize = 40;
/// Positions of a prompt; the first gives the rate that the others are compared with.
const PROMPTS: [usize; 3] = [512, 2048, 4096];
/// Positions of a prompt that are fed at once.
const CHUNK: usize = 128;
/// Runs of a prompt: the best counts.
const RUNS: usize = 3;

/// The steps of a run, and where their time went.
struct Spent {
    all: f64,
    attend: f64,
    append: f64,
}

pub(crate) fn run(kernels: &Kernels, machine: &Machine) {
    let sizes = &MODELS[0];
    let model = Model::new(sizes);
    println!("{}", sizes.name);
    // A third argument measures one context or prompt only.
    let only = std::env::args().nth(3).and_then(|only| only.parse::<usize>().ok());
    for context in CONTEXTS.into_iter().filter(|&context| only.is_none_or(|only| only == context)) {
        let spent = decode(kernels, &model, context);
        let bytes: usize = model.layers.iter().map(|layer| layer.kv_shape().row_bytes()).sum();
        let gb_s = (bytes * context) as f64 / spent.attend / 1e9;
        println!(
            "  decode at {context:>5}: {:>6.0} us a token, attention {:>6.0} us = {:>4.1} % at \
             {gb_s:>4.1} GB/s ({:.0} % of {:.1}), append {:.0} us",
            1e6 * spent.all,
            1e6 * spent.attend,
            100.0 * spent.attend / spent.all,
            100.0 * gb_s / machine.read_gb_s,
            machine.read_gb_s,
            1e6 * spent.append,
        );
    }
    let mut base = None;
    for len in PROMPTS.into_iter().filter(|&len| only.is_none_or(|only| only == len)) {
        let spent = prefill(kernels, &model, len);
        let rate = 1.0 / spent.all;
        println!(
            "  prefill {len:>5}: {rate:>6.0} tokens/s = {:>3.0} % of the rate at {}; us a token: \
             {:.0}, attention {:.0}, append {:.0}",
            100.0 * rate / *base.get_or_insert(rate),
            PROMPTS[0],
            1e6 * spent.all,
            1e6 * spent.attend,
            1e6 * spent.append,
        );
    }
}

/// The median token after `context` positions.
fn decode(kernels: &Kernels, model: &Model, context: usize) -> Spent {
    let mut cache = filled(model, context);
    let mut scratch = Scratch::default();
    let tokens = (context..context + DECODED).map(|position| {
        let rows = [Row { place: Place { slot: 0, position }, feeds_head: true }];
        timed_step(kernels, model, &rows, &mut cache, &mut scratch)
    });
    let mut tokens: Vec<Spent> = tokens.collect();
    tokens.sort_by(|a, b| a.all.total_cmp(&b.all));
    tokens.swap_remove(tokens.len() / 2)
}

/// A token of a prompt of `len`: the best of some runs.
fn prefill(kernels: &Kernels, model: &Model, len: usize) -> Spent {
    let runs = (0..RUNS).map(|_| {
        let mut cache = empty_cache(model);
        let mut scratch = Scratch::default();
        let mut spent = Spent { all: 0.0, attend: 0.0, append: 0.0 };
        for start in (0..len).step_by(CHUNK) {
            let row = |position| Row {
                place: Place { slot: 0, position },
                feeds_head: position + 1 == len,
            };
            let rows: Vec<Row> = (start..len.min(start + CHUNK)).map(row).collect();
            let step = timed_step(kernels, model, &rows, &mut cache, &mut scratch);
            spent.all += step.all / len as f64;
            spent.attend += step.attend / len as f64;
            spent.append += step.append / len as f64;
        }
        spent
    });
    let best = runs.min_by(|a, b| a.all.total_cmp(&b.all));
    best.unwrap_or(Spent { all: f64::NAN, attend: f64::NAN, append: f64::NAN })
}

fn timed_step<'k>(
    kernels: &'k Kernels,
    model: &Model,
    rows: &[Row],
    cache: &mut Kv,
    scratch: &mut Scratch<Timed<'k>>,
) -> Spent {
    let timed = Timed::new(kernels);
    let start = Instant::now();
    step(&timed, model, rows, &mut [cache], scratch);
    Spent {
        all: start.elapsed().as_secs_f64(),
        attend: timed.seconds(&["attend"]),
        append: timed.seconds(&["append"]),
    }
}

/// A cache with random rows.
fn filled(model: &Model, len: usize) -> Kv {
    let mut cache = empty_cache(model);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for (index, layer) in model.layers.iter().enumerate() {
        let shape = layer.kv_shape();
        let mut row = vec![0; shape.row_bytes()];
        for scale in row[2 * shape.width()..].chunks_exact_mut(4) {
            scale.copy_from_slice(&0.01_f32.to_le_bytes());
        }
        for position in 0..len {
            let codes = &mut row[..2 * shape.width()];
            for eight in codes.chunks_exact_mut(8) {
                eight.copy_from_slice(&random.next().to_le_bytes());
            }
            codes.iter_mut().filter(|code| **code == 0x80).for_each(|code| *code = 1);
            assert_eq!(cache.write_row(index, position, &row), Ok(()));
        }
    }
    cache
}
