//! Sampled audits find what they say they find, as often as they say. All seeds are fixed, so the
//! counts are exact.

use lockstep_liar::lie::{Aim, Lie, Script};
use lockstep_verify::coverage::Cheat;
use lockstep_verify::draw::Extent;

use crate::ring::{Ask, Scene, Verdict};

/// Sessions of which an audit found the liar, and the probability that an honest one was told.
fn caught(ends: &[u32], stage: usize, lie: Lie, layer: u32, sessions: u32) -> (u32, f64) {
    let script = Script { lie, aim: Aim { layer, position: 0 } };
    let mut found = 0;
    let mut stated = 0.0;
    for seed in 0..sessions {
        let ask = Ask::new(seed, 60, 3);
        let verdict = Scene::new(1, ends, &[(stage, script)]).whole(&ask, Extent::Sampled);
        match &verdict {
            Verdict::Verified(verified) => {
                stated = verified.coverage().stages[stage].detects(Cheat::OneLayer);
            }
            other => {
                assert!(other.convicts(stage, lie), "{other:?}");
                found += 1;
            }
        }
    }
    (found, stated)
}

#[test]
fn one_skipped_layer_of_six_is_found_in_two_thirds_of_all_sessions() {
    // 4 of 6 layers are opened.
    let (found, stated) = caught(&[6], 0, Lie::SkippedLayer, 2, 120);
    assert_eq!(stated, 4.0 / 6.0);
    assert_eq!(found, 77);
}

#[test]
fn a_skipped_last_layer_is_always_found_although_most_of_its_cells_have_no_state() {
    // The cells that gave the head its states are opened with the head's.
    let (found, _) = caught(&[6], 0, Lie::SkippedLayer, 5, 60);
    assert_eq!(found, 60);
}

#[test]
fn a_skipped_layer_of_a_server_with_two_is_always_found() {
    for layer in 0..6 {
        let (found, _) = caught(&[2, 4, 6], layer as usize / 2, Lie::SkippedLayer, layer, 20);
        assert_eq!(found, 20, "layer {layer}");
    }
}
