//! Models with what only some families have: honest rings are verified, and a server that leaves
//! such a part out, or lies as before, is caught and named.

use lockstep_exact::names::ProductName;
use lockstep_exact::reference::Reference;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};
use lockstep_verify::audit::{Unverified, audit};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Reason};
use lockstep_verify::key::Key;

use lockstep_testing::lie::Lie;
use lockstep_testing::overflow::blown_up;
use lockstep_testing::proofs::{Ask, Misdeed, Ring, Slip, key_of, node, slip, told};

const CUTS: [u32; 2] = [2, 4];

/// What is done wrong in a layer.
type InLayer = fn(u32) -> Misdeed;

fn model(features: Features) -> TinyModel {
    TinyModel::with_features(12, Sizes::default(), features)
}

fn ask() -> Ask {
    Ask::new(23, 11, 3)
}

/// A full audit's reason, of a fault of the lie's stage alone.
fn caught(model: &TinyModel, key: &Key, stage: usize, lie: Misdeed) -> Reason {
    let session = Ring::new(model, &CUTS).lying(stage, lie).run(&ask());
    let bundle = match session.bundle_with(key, Extent::Full) {
        Ok(bundle) => bundle,
        Err(fault) => return fault.reason,
    };
    let Err(Unverified::Failed(fault)) = audit(&Reference, key, &bundle) else {
        panic!("{lie:?} was not caught");
    };
    let (node, stage) = (node(stage).id(), u32::try_from(stage).unwrap());
    assert_eq!(fault.blame, Blame::Stage { stage, node }, "{lie:?}: {fault}");
    fault.reason
}

#[test]
fn honest_rings_over_every_family_are_verified_in_full_also_by_a_key_from_a_file() {
    for (name, features) in Features::EACH {
        let model = model(features);
        let key = Key::from_file(&key_of(&model).to_file()).unwrap();
        for cuts in [&[][..], &CUTS] {
            let session = Ring::new(&model, cuts).run(&ask());
            let bundle = session.bundle_with(&key, Extent::Full).unwrap();
            let verified = audit(&Reference, &key, &bundle);
            assert!(verified.is_ok_and(|v| v.coverage().is_full()), "{name}, {cuts:?}");
        }
    }
}

#[test]
fn a_part_that_is_left_out_is_caught_at_its_layer() {
    let model = model(Features::ALL);
    let key = key_of(&model);
    // Windows and the second table are in layers with an odd index.
    let left_out: [(InLayer, [u32; 3], Reason); 7] = [
        (
            |layer| told(Lie::WrongActivation, layer, 0),
            [0, 3, 4],
            Reason::Product(ProductName::Down),
        ),
        (|layer| slip(Slip::OmitsDownBias(layer)), [1, 2, 5], Reason::Output),
        (|layer| told(Lie::LeftOutHeadNorms, layer, 0), [0, 3, 5], Reason::Kv),
        (
            |layer| told(Lie::LeftOutPostNorms, layer, 0),
            [1, 2, 4],
            Reason::Product(ProductName::GateUp),
        ),
        (|layer| told(Lie::LeftOutBiases, layer, 0), [0, 2, 5], Reason::Kv),
        (|layer| told(Lie::WrongRope, layer, 0), [1, 3, 5], Reason::Kv),
        (
            |layer| told(Lie::IgnoredWindow, layer, 0),
            [1, 3, 5],
            Reason::Product(ProductName::Output),
        ),
    ];
    for (lie, layers, reason) in left_out {
        for layer in layers {
            let lie = lie(layer);
            assert_eq!(caught(&model, &key, layer as usize / 2, lie), reason, "{lie:?}");
        }
    }
}

const EXPERTS: Features = Features { experts: true, ..Features::NONE };
const SHARED: Features = Features { shared_expert: true, ..EXPERTS };

/// What is wrong with a lie about experts.
#[derive(Debug, PartialEq)]
enum Wrong {
    Expert,
    Output,
    Router,
    SharedSums,
    State,
}

fn wrong(reason: &Reason) -> Option<Wrong> {
    match reason {
        Reason::Product(ProductName::Router) => Some(Wrong::Router),
        Reason::Product(ProductName::ExpertGateUp(_)) => Some(Wrong::Expert),
        Reason::Sums { product: ProductName::SharedGate, .. } => Some(Wrong::SharedSums),
        Reason::Sums { product: ProductName::ExpertGateUp(_), .. } => Some(Wrong::Output),
        Reason::Output => Some(Wrong::State),
        _ => None,
    }
}

#[test]
fn every_misuse_of_experts_is_caught_at_its_layer() {
    let table: [(Features, &[(InLayer, Wrong)]); 2] = [
        (EXPERTS, &[(|layer| told(Lie::OtherChoice, layer, 0), Wrong::Expert)]),
        (
            SHARED,
            &[
                (|layer| told(Lie::OtherChoice, layer, 0), Wrong::Expert),
                (|layer| slip(Slip::NormalisesExperts(layer)), Wrong::State),
                (|layer| slip(Slip::OmitsShared(layer)), Wrong::SharedSums),
                (|layer| slip(Slip::OmitsSharedGate(layer)), Wrong::State),
                (|layer| told(Lie::SwappedExperts, layer, 0), Wrong::Expert),
                (|layer| told(Lie::OtherRouter, layer, 0), Wrong::Router),
                (|layer| slip(Slip::SkipsExpert(layer)), Wrong::Output),
                (|layer| told(Lie::OtherWeights, layer, 0), Wrong::State),
            ],
        ),
    ];
    for (features, misuses) in table {
        let model = model(features);
        let key = key_of(&model);
        for (misuse, expected) in misuses {
            for layer in [1, 2, 5] {
                let lie = misuse(layer);
                let reason = caught(&model, &key, layer as usize / 2, lie);
                assert_eq!(wrong(&reason).as_ref(), Some(expected), "{lie:?}: {reason:?}");
            }
        }
    }
}

#[test]
fn an_overflow_of_the_router_or_of_an_expert_is_audited_like_any_other_cell() {
    let of_expert = |name: ProductName| name.expert() == Some(2);
    let models = [
        blown_up(model(EXPERTS), 3, |name| name == ProductName::Router),
        blown_up(model(SHARED), 3, of_expert),
        blown_up(model(EXPERTS), 5, of_expert),
    ];
    for model in models {
        let key = key_of(&model);
        let session = Ring::new(&model, &CUTS).run(&ask());
        let bundle = session.bundle_with(&key, Extent::Full).unwrap();
        let verified = audit(&Reference, &key, &bundle);
        assert!(verified.is_ok_and(|v| v.coverage().is_full()));
        // Whoever says that it fits lies.
        let unmarked = Ring::new(&model, &CUTS).lying(1, told(Lie::ZeroState, 3, 0)).run(&ask());
        let bundle = unmarked.bundle_with(&key, Extent::Full).unwrap();
        assert!(matches!(audit(&Reference, &key, &bundle), Err(Unverified::Failed(_))));
    }
}

#[test]
fn the_sums_of_experts_are_in_the_order_of_experts() {
    let model = model(EXPERTS);
    let reason = caught(&model, &key_of(&model), 1, slip(Slip::SumsSwapped));
    assert_eq!(wrong(&reason), Some(Wrong::Expert), "{reason:?}");
}

#[test]
fn the_lies_about_a_layer_are_caught_in_every_family() {
    for (name, features) in Features::EACH {
        let model = model(features);
        let key = key_of(&model);
        for lie in [
            slip(Slip::Code(2)),
            told(Lie::FlippedBit, 3, 4),
            told(Lie::WrongKv, 2, 5),
            told(Lie::OldState, 3, 6),
            told(Lie::ScaledRowScales, 3, 0),
            told(Lie::SkippedLayer, 2, 0),
            told(Lie::SumOffByOne, 0, 0),
            told(Lie::TruncatedContext, 3, 0),
            told(Lie::ZeroState, 2, 0),
        ] {
            let reason = caught(&model, &key, 1, lie);
            let expected = !matches!(reason, Reason::Shape(_) | Reason::Encoding(_));
            assert!(expected, "{name}, {lie:?}: {reason:?}");
        }
    }
}
