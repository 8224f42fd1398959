//! Honest rings: never a fault.

use lockstep_exact::sample::Bias;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::proofs::Ask;
use lockstep_verify::draw::Extent;

use crate::ring::{Scene, Subject, Verdict};

const SPLITS: [&[u32]; 8] =
    [&[6], &[1, 6], &[3, 6], &[5, 6], &[2, 4, 6], &[1, 2, 6], &[1, 3, 4, 6], &[1, 2, 3, 4, 5, 6]];

/// A request with everything drawn: length (some prompts take two or three chunks), sampling and
/// stops.
fn draw(numbers: &mut Numbers, seed: u32) -> Ask {
    let long = numbers.below(10) == 0;
    let prompt = 1 + if long { 100 + numbers.below(180) } else { numbers.below(24) };
    let mut ask = Ask::new(seed, prompt as u32, 1 + numbers.below(8) as u32);
    let sampling = &mut ask.sampling;
    if numbers.below(2) == 1 {
        sampling.temperature = 0.5 + numbers.below(4) as f32 * 0.5;
        sampling.top_k = [0, 1, 7, 40][numbers.below(4) as usize];
        sampling.top_p = [1.0, 0.9, 0.5][numbers.below(3) as usize];
        sampling.min_p = [0.0, 0.05][numbers.below(2) as usize];
        sampling.seed = numbers.next_u64();
    }
    if numbers.below(3) == 0 {
        sampling.repetition_penalty = 1.2;
        sampling.presence_penalty = 0.3;
        sampling.frequency_penalty = -0.2;
    }
    if numbers.below(4) == 0 {
        let token = numbers.below(272) as u32;
        sampling.logit_bias = vec![Bias { token, bias: 4.0 }];
    }
    if numbers.below(3) == 0 {
        ask.stops.ignore_end = false;
        let byte = numbers.below(256) as u8;
        ask.stops.strings = vec![vec![byte]];
    }
    ask
}

#[test]
fn two_hundred_honest_sessions_give_no_fault_and_are_verified() {
    let mut numbers = Numbers::new(2026);
    let (mut sessions, mut full) = (0, 0);
    for round in 0..50 {
        let ends = SPLITS[numbers.below(SPLITS.len() as u64) as usize];
        let mut scene = Scene::new(round, ends, &[]);
        scene.ring.weather.jitter_us = 3_000;
        let clients: Vec<usize> = (0..4)
            .map(|client| scene.ask(&draw(&mut numbers, round as u32 * 4 + client)))
            .collect();
        scene.run();
        for client in clients {
            let extent = if numbers.below(4) == 0 { Extent::Sampled } else { Extent::Full };
            match scene.verdict(client, extent) {
                Verdict::Verified(verified) => full += u32::from(verified.coverage().is_full()),
                other => panic!("round {round}, {ends:?}, client {client}: {other:?}"),
            }
            sessions += 1;
        }
    }
    assert_eq!(sessions, 200);
    assert!(full > 100, "{full} in full");
    assert_eq!(Subject::plain().manifest.layers.len(), 6);
}

/// `LOCKSTEP_KERNEL=avx2 cargo test --release -p lockstep-liar --test memory -- --ignored cells`,
/// for each of the kernels that the machine has.
#[test]
#[ignore = "minutes: full audits of long sessions"]
fn a_hundred_thousand_honest_cells_give_no_fault() {
    let (mut cells, mut numbers) = (0, Numbers::new(7));
    for seed in 0.. {
        let ends = SPLITS[numbers.below(SPLITS.len() as u64) as usize];
        let prompt = 100 + numbers.below(200) as u32;
        let ask = Ask { prompt: Ask::new(seed, prompt, 40).prompt, ..draw(&mut numbers, seed) };
        match Scene::new(seed.into(), ends, &[]).whole(&ask, Extent::Full) {
            Verdict::Verified(verified) => {
                let coverage = verified.coverage();
                assert!(coverage.is_full(), "{coverage}");
                cells += coverage.cells_checked();
            }
            other => panic!("seed {seed}, {ends:?}: {other:?}"),
        }
        if cells >= 100_000 {
            break;
        }
    }
}
