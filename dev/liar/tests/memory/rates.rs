//! Sampled audits find what they say they find: what is said to be found always is never missed.
//! Seeds are fixed.

use lockstep_testing::lie::{Aim, Lie, Script};
use lockstep_testing::proofs::Ask;
use lockstep_verify::draw::Extent;

use crate::ring::Scene;

const PROMPT: u32 = 40;

/// Tells a lie in so many sessions, each of which a sampled audit must find and blame on the server
/// that told it.
fn is_always_found(ends: &[u32], stage: usize, script: Script, sessions: std::ops::Range<u32>) {
    for seed in sessions {
        let ask = Ask::new(seed, PROMPT, 3);
        let verdict = Scene::new(1, ends, &[(stage, script)]).whole(&ask, Extent::Sampled);
        assert!(verdict.convicts(stage, script.lie), "{script:?}, seed {seed}: {verdict:?}");
    }
}

/// The lies that the draw leaves no room for, each told `sessions` times by every server.
fn all_are_always_found(sessions: u32) {
    for (ends, stage, span) in
        [(&[6][..], 0, 0..6), (&[2, 4, 6], 0, 0..2), (&[2, 4, 6], 1, 2..4), (&[2, 4, 6], 2, 4..6)]
    {
        let layers = span.end - span.start;
        for (at, layer) in span.enumerate() {
            let first = at as u32 * sessions / layers;
            let seeds = first..(at as u32 + 1) * sessions / layers;
            for lie in [Lie::SkippedLayer, Lie::SkippedInPrompt, Lie::SkippedInAnswer] {
                let script = Script { lie, aim: Aim { layer, position: PROMPT } };
                is_always_found(ends, stage, script, seeds.clone());
            }
        }
    }
    for seed in 0..sessions {
        // Any single token of the prompt, and all but the last one.
        for (lie, position) in
            [(Lie::HiddenEmbedding, seed % PROMPT), (Lie::AnotherPrompt, PROMPT - 1)]
        {
            let script = Script { lie, aim: Aim { layer: 0, position } };
            is_always_found(&[3, 6], 0, script, seed..seed + 1);
        }
    }
}

#[test]
fn what_leaves_no_layer_and_no_prompt_token_unseen_is_found_in_every_session() {
    all_are_always_found(40);
}

/// `cargo test --release -p lockstep-liar --test memory -- --ignored always`
#[test]
#[ignore = "minutes: a thousand tellings of each lie"]
fn a_thousand_tellings_of_each_are_always_found() {
    all_are_always_found(1000);
}
