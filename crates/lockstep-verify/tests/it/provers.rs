//! What a stage's prover refuses: layers, columns, cells and tokens that are not its own.

use lockstep_exact::Digest;
use lockstep_verify::archive::{Archive, OpenError};
use lockstep_verify::challenge::{Side, Target};
use lockstep_verify::column::{Columns, Keep};

use lockstep_testing::proofs::{Ask, Ring, Session, model};

/// Stage 1 serves layers 2 and 3.
fn session() -> Session {
    Ring::new(model(), &[2, 4]).run(&Ask::new(4, 9, 4))
}

#[test]
fn a_layer_that_is_not_the_stages_is_not_rebuilt() {
    let session = session();
    for layer in [0, 1, 4, 9] {
        let rebuilt = session.rebuild(1, layer, None);
        assert_eq!(rebuilt.err(), Some(OpenError::OutOfRange), "{layer}");
    }
}

#[test]
fn columns_that_do_not_lead_to_a_layer_are_not_used() {
    let session = session();
    let foreign = session.rebuilt(0, 0, None).into_columns();
    let roots = Columns::new(2..3, Keep::Root);
    for before in [foreign, roots] {
        let rebuilt = session.rebuilt(1, 3, Some(before));
        assert_eq!(rebuilt.columns().span(), 3..4);
    }
    // Of a later layer of the same stage.
    let session = Ring::new(model(), &[1]).run(&Ask::new(4, 9, 4));
    let later = session.rebuilt(1, 3, None).into_columns();
    assert_eq!(session.rebuilt(1, 2, Some(later)).columns().span(), 2..3);
}

#[test]
fn columns_that_do_not_have_the_signed_roots_are_told() {
    let session = session();
    let segment = &session.receipt.segments[1];
    let diverged = Err(OpenError::Diverged);
    for layer in [2, 3] {
        let rebuilt = session.rebuilt(1, layer, None);
        let compare = |input: Digest, layers: &[_]| rebuilt.compare(input, layers);
        assert_eq!(compare(segment.input_root, &segment.layers), Ok(()));
        let mut other = segment.layers.clone();
        other[layer as usize - 2].kv = Digest::ZERO;
        assert_eq!(compare(segment.input_root, &other), diverged);
        // What went into the layer: what the stage received, or the states after the one before.
        let mut other = segment.layers.clone();
        other[0].states = if layer == 2 { other[0].states } else { Digest::ZERO };
        let input = if layer == 2 { Digest::ZERO } else { segment.input_root };
        assert_eq!(compare(input, &other), diverged);
    }
}

#[test]
fn only_the_edges_of_a_stage_are_opened_and_only_from_their_columns() {
    let session = session();
    let (first, last) = (session.rebuilt(1, 2, None), session.rebuilt(1, 3, None));
    let edge = |layer, side| Target::Edge { layer, side, first: 0, count: 5 };
    assert!(first.open(&edge(2, Side::Received)).is_ok());
    assert!(last.open(&edge(3, Side::Sent)).is_ok());
    let refused = Err(OpenError::OutOfRange);
    assert_eq!(first.open(&edge(2, Side::Sent)), refused);
    assert_eq!(last.open(&edge(3, Side::Received)), refused);
    // The columns are those of the other layer.
    assert_eq!(last.open(&edge(2, Side::Received)), refused);
    assert_eq!(first.open(&edge(3, Side::Sent)), refused);
}

#[test]
fn tokens_that_the_model_does_not_have_are_not_embedded() {
    let session = session();
    let mut archive = Archive::new(0..2, 3);
    archive.tokens(&[1, model().manifest.vocabulary, 2]);
    let rebuilt = session.rebuild_of(0, &archive, 0, None);
    assert_eq!(rebuilt.err(), Some(OpenError::OutOfRange));
}
