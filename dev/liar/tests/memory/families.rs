//! Every family's plan: honest rings are verified in full, and each lie of the table, those about
//! the family's own parts among them, names its teller and no other.

use std::sync::Arc;

use lockstep_exact::manifest::{Manifest, RopeTable};
use lockstep_exact::names::ProductName;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

use crate::lies::{RINGS, check_all, check_honest};
use crate::ring::Subject;

/// Biases of queries, keys and values alone.
fn qwen2() -> TinyModel {
    model("qwen2", Features { biases: true, ..Features::default() }, of_attention_alone)
}

fn of_attention_alone(manifest: &mut Manifest) {
    for layer in &mut manifest.layers {
        let products = layer.parts.products_mut().into_iter();
        let others = products.filter(|(name, _)| *name != ProductName::Qkv);
        others.for_each(|(_, product)| product.bias = None);
    }
}

/// Qwen 2's layers; all but the first have experts, and a shared one.
fn qwen2_moe() -> TinyModel {
    let has = Features { biases: true, ..EXPERTS };
    model("qwen2moe", Features { shared_expert: true, ..has }, of_attention_alone)
}

/// Qwen 3's layers; all but the first have experts.
fn qwen3_moe() -> TinyModel {
    model("qwen3moe", Features { head_norms: true, ..EXPERTS }, |_| ())
}

/// Llama's layers; all but the first have experts. In 4 bits.
fn mixtral() -> TinyModel {
    model("llama", Features { w4: true, ..EXPERTS }, |_| ())
}

const EXPERTS: Features = Features { experts: true, ..Features::NONE };

/// Head norms.
fn qwen3() -> TinyModel {
    model("qwen3", Features { head_norms: true, ..Features::default() }, |_| ())
}

/// Head norms, post-norms, GELU, scaled embeddings; of six layers five have a window and a rotary
/// base of their own.
fn gemma3() -> TinyModel {
    let has = Features { head_norms: true, post_norms: true, gelu: true, ..Features::default() };
    model("gemma3", has, |manifest| {
        manifest.head.embedding_scale = (manifest.hidden as f32).sqrt();
        let turns = manifest.ropes[0].frequencies.iter().enumerate();
        let frequencies = turns.map(|(pair, turn)| turn >> pair).collect();
        manifest.ropes.push(RopeTable { frequencies });
        for layer in &mut manifest.layers[..5] {
            layer.attention.rope = 1;
            layer.attention.window = 5;
        }
    })
}

/// A window in every layer; half of each head turns.
fn phi3() -> TinyModel {
    model("phi3", Features::default(), |manifest| {
        manifest.ropes[0].frequencies.truncate(4);
        for layer in &mut manifest.layers {
            layer.attention.window = 6;
        }
    })
}

fn model(name: &str, has: Features, change: fn(&mut Manifest)) -> TinyModel {
    let mut model = TinyModel::with_features(31, Sizes::default(), has);
    name.clone_into(&mut model.manifest.provenance.architecture);
    change(&mut model.manifest);
    assert_eq!(model.manifest.check(), Ok(()));
    model
}

/// Gives how many lies were told, and how often, in the ring of three servers.
fn check(model: TinyModel) -> (usize, usize) {
    let subject: Arc<Subject> = Subject::new(model);
    check_honest(&subject, &RINGS);
    check_all(&subject, &RINGS[2..])
}

/// A llama whose layers are in 4-bit codes.
fn w4() -> TinyModel {
    model("llama", Features { w4: true, ..Features::default() }, |_| ())
}

// The numbers are those of docs/liars.md. Llama's plan is the plain model's, in `lies`.

#[test]
fn the_lies_about_qwen_2_are_caught_those_about_its_biases_among_them() {
    assert_eq!(check(qwen2()), (51, 266));
}

#[test]
fn the_lies_about_qwen_3_are_caught_those_about_its_head_norms_among_them() {
    assert_eq!(check(qwen3()), (51, 266));
}

#[test]
fn the_lies_about_mixtral_are_caught_those_about_its_experts_among_them() {
    assert_eq!(check(mixtral()), (54, 280));
}

#[test]
fn the_lies_about_qwen_2_with_experts_are_caught_those_about_the_shared_one_among_them() {
    assert_eq!(check(qwen2_moe()), (56, 291));
}

#[test]
fn the_lies_about_qwen_3_with_experts_are_caught_those_about_its_experts_among_them() {
    assert_eq!(check(qwen3_moe()), (55, 286));
}

#[test]
fn the_lies_about_gemma_3_are_caught_those_about_all_its_own_parts_among_them() {
    assert_eq!(check(gemma3()), (54, 278));
}

#[test]
fn the_lies_about_4_bit_weights_are_caught_coarser_ones_among_them() {
    assert_eq!(check(w4()), (50, 260));
}

#[test]
fn the_lies_about_phi_3_are_caught_those_about_its_windows_among_them() {
    assert_eq!(check(phi3()), (51, 266));
}
