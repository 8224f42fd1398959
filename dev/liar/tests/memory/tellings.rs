//! Lies about bindings, told many times with everything drawn: rings, servers, lengths, places,
//! jitter. Each time the liar is convicted, or nobody is named where an honest server could be
//! made to look the same; never anybody else.

use lockstep_testing::lie::{Aim, Lie, Script};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::proofs::Ask;
use lockstep_verify::draw::Extent;

use crate::ring::{Scene, Subject, fit_for};

const RINGS: [&[u32]; 5] = [&[3, 6], &[2, 6], &[2, 4, 6], &[1, 2, 6], &[1, 3, 4, 6]];
const LIES: [Lie; 6] = [
    Lie::TwoMarks,
    Lie::OtherMarkInput,
    Lie::OtherLease,
    Lie::OtherSessionKey,
    Lie::MixedRuns,
    Lie::HiddenTail,
];

/// Tells a lie once, as the seed says, and says what was wrong with how it ended.
fn tell(lie: Lie, seed: u64) -> Result<(), String> {
    let mut numbers = Numbers::new(seed);
    let mut below = |bound: u32| numbers.below(bound.into()) as u32;
    let ends = RINGS[below(5) as usize];
    let tellers: Vec<usize> =
        (0..ends.len()).filter(|stage| lie.teller().includes(*stage, ends.len())).collect();
    let stage = tellers[below(tellers.len() as u32) as usize];
    let (prompt, tokens) = (2 + below(150), 1 + below(5));
    // The last server sends nothing before the prompt's last position.
    let is_last = stage + 1 == ends.len();
    let first = if is_last && lie == Lie::TwoMarks { prompt - 1 } else { 0 };
    let position = first + below(prompt + tokens - 1 - first);
    // For mixed runs: whose segment is of another run.
    let layer = ends[below(ends.len() as u32 - 1) as usize];
    let script = Script { lie, aim: Aim { layer, position } };
    let ask = fit_for(Ask::new(below(1000), prompt, tokens.max(2)), lie);
    let mut earlier = Vec::new();
    if lie == Lie::MixedRuns {
        let mut before = Scene::new(seed.wrapping_add(1), ends, &[]);
        let client = before.ask(&ask);
        before.run();
        earlier = before.segments(client);
    }
    let mut scene = Scene::after(Subject::plain(), seed, ends, &[(stage, script)], earlier);
    scene.ring.weather.jitter_us = u64::from(below(3_000));
    let verdict = scene.whole(&ask, Extent::Sampled);
    if verdict.convicts(stage, lie) {
        return Ok(());
    }
    Err(format!("{lie}, seed {seed}, {ends:?}, stage {stage}, {script:?}: {verdict:?}"))
}

fn tell_all(seeds: std::ops::Range<u64>) {
    for lie in LIES {
        let wrong: Vec<String> = seeds.clone().filter_map(|seed| tell(lie, seed).err()).collect();
        assert!(wrong.is_empty(), "{} of {seeds:?}:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn lies_about_bindings_convict_the_liar_or_nobody() {
    tell_all(0..8);
}

/// `cargo test --release -p lockstep-liar --test memory -- --ignored a_thousand_times`
#[test]
#[ignore = "takes minutes: 6 lies, 1,000 times each"]
fn lies_about_bindings_told_a_thousand_times_convict_the_liar_or_nobody() {
    tell_all(0..1_000);
}
