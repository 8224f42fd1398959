//! Every family's files become the plan that they describe, and what the plan computes is what an
//! ordinary f32 forward pass over the same file computes.

mod support;

use lockstep_exact::blob::Blob;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::forward::{Probe, Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, ReferenceKv};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Codec;
use lockstep_exact::ops::{Device, Place};
use lockstep_exact::plan::Activation;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_import::float::FloatModel;
use lockstep_import::package::{MemorySink, ModelFile};
use support::family::{FAMILIES, add, biases, cases, file, long_phi, mixtral, with_experts_apart};
use support::{File, HIDDEN, Meta};

/// The last row's state after each layer.
struct States(Vec<Vec<f32>>);

impl Probe for States {
    fn state(&mut self, _layer: u32, rows: &[Row], state: &State) {
        let last = rows.len() - 1;
        self.0.push((0..state.width()).map(|element| state.value(last, element)).collect());
    }
}

struct Package {
    manifest: Manifest,
    sink: MemorySink,
}

impl Package {
    fn of(bytes: &[u8]) -> Self {
        Self::stored(bytes, Codec::W8)
    }

    fn stored(bytes: &[u8], codec: Codec) -> Self {
        let mut sink = MemorySink::default();
        let model = ModelFile::open(bytes).unwrap().with_weights(codec);
        let manifest = model.import(&mut sink, |_| ()).unwrap();
        Self { manifest, sink }
    }

    fn blob(&self, index: u32) -> Blob {
        let digest = self.manifest.blobs[index as usize].digest;
        Blob::new(self.sink.get(&digest).unwrap().to_vec())
    }

    /// The exact logits behind each token, and the last token's state after each layer.
    fn logits(&self, tokens: &[u32]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let all = 0..self.manifest.layers.len() as u32;
        let layers = load_span(&Reference, &self.manifest, all, |b| self.blob(b)).unwrap();
        let head = load_head(&Reference, &self.manifest, |b| self.blob(b)).unwrap();
        let shapes: Vec<_> = layers.iter().map(|layer| layer.kv_shape()).collect();
        let mut cache: ReferenceKv = KvCache::new(&shapes);
        let row = |position| Row { place: Place { slot: 0, position }, feeds_head: true };
        let rows: Vec<Row> = (0..tokens.len()).map(row).collect();
        let (mut state, mut scratch, mut seen) =
            (State::default(), Scratch::default(), States(Vec::new()));
        Reference.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
        let caches = &mut [&mut cache];
        let Ok(state) = forward(&Reference, &layers, &rows, caches, state, &mut scratch, &mut seen);
        let Ok(out) = logits(&Reference, &head, &rows, &state, &mut scratch, &mut ());
        (out.into_iter().map(Result::unwrap).collect(), seen.0)
    }
}

fn tokens() -> Vec<u32> {
    (0..24).map(|at| (at * 37 + 11) % 260).collect()
}

/// The size of the logits' differences over the logits'.
fn difference(bytes: &[u8]) -> f32 {
    difference_stored(bytes, Codec::W8)
}

fn difference_stored(bytes: &[u8], codec: Codec) -> f32 {
    let tokens = tokens();
    let (exact, _) = Package::stored(bytes, codec).logits(&tokens);
    let float = FloatModel::read(&ModelFile::open(bytes).unwrap()).unwrap().logits(&tokens);
    let (exact, float) = (exact.concat(), float.concat());
    off(&exact, &float)
}

/// Writes the files for which `golden/families.py` computes what is expected.
#[test]
#[ignore = "writes files for golden/families.py"]
fn write_the_files_of_the_parity_table() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("families");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, file) in cases() {
        std::fs::write(folder.join(format!("{name}.gguf")), file.bytes()).unwrap();
    }
    println!("{}", folder.display());
}

/// Root of the mean square.
fn size(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

/// The size of the differences over that of the expected numbers.
fn off(got: &[f32], expected: &[f32]) -> f32 {
    let differences: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    size(&differences) / size(expected)
}

/// The largest magnitude.
fn largest(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.map(f32::abs).fold(0.0, f32::max)
}

#[test]
fn every_layer_gives_what_an_independent_implementation_gives() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/families.json")).unwrap();
    println!(
        "of each layer's state, at the last position: largest difference, and over the state's"
    );
    println!("largest magnitude, of the f32 forward pass / of the exact pass");
    for (name, file) in cases() {
        let bytes = file.bytes();
        let tokens = tokens();
        let mut states = Vec::new();
        let float = FloatModel::read(&ModelFile::open(&bytes).unwrap()).unwrap();
        let last = |x: &[f32]| x[x.len() - HIDDEN..].to_vec();
        let logits = float.logits_and_states(&tokens, |_, x| states.push(last(x)));
        assert_eq!(logits.len(), tokens.len());
        let (_, exact) = Package::of(&bytes).logits(&tokens);
        let expected = golden[name].as_array().unwrap();
        assert_eq!((states.len(), exact.len()), (expected.len(), expected.len()));
        let mut line = format!("{name:<15}");
        for ((float, exact), expected) in states.iter().zip(&exact).zip(expected) {
            let numbers = expected.as_array().unwrap().iter();
            let expected: Vec<f32> = numbers.map(|x| x.as_f64().unwrap() as f32).collect();
            let furthest = |got: &[f32]| largest(got.iter().zip(&expected).map(|(a, b)| a - b));
            let (far_float, far_exact) = (furthest(float), furthest(exact));
            let size = largest(expected.iter().copied());
            line.push_str(&format!(
                "  {far_float:.1e} ({:.1e}) / {far_exact:.1e} ({:.1e})",
                far_float / size,
                far_exact / size,
            ));
            let (float, exact) = (off(float, &expected), off(exact, &expected));
            assert!(float < 1e-4, "{name}: {float}");
            assert!(exact < 0.1, "{name}: {exact}");
        }
        println!("{line}");
    }
}

#[test]
fn every_familys_exact_logits_are_close_to_those_of_an_f32_forward_pass() {
    for family in FAMILIES {
        let difference = difference(&file(family).bytes());
        println!("{family:<8} logits differ by {difference:.4} of their size");
        assert!(difference < 0.12, "{family}: {difference}");
    }
}

#[test]
fn every_familys_logits_of_4_bit_layers_are_near_those_of_an_f32_forward_pass() {
    for family in FAMILIES {
        let difference = difference_stored(&file(family).bytes(), Codec::W4);
        println!("{family:<8} logits differ by {difference:.4} of their size");
        assert!(difference < 0.5, "{family}: {difference}");
    }
}

#[test]
fn keys_with_a_huge_pair_lose_nothing_because_they_are_balanced() {
    for family in ["qwen2", "qwen3", "gemma3"] {
        let mut file = file(family);
        let (query, key) = match family {
            "qwen2" => ("blk.0.attn_q.weight", "blk.0.attn_k.weight"),
            _ => ("blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"),
        };
        // Element 1 of every head turns with element 5.
        for (name, factor) in [(query, 1.0 / 256.0), (key, 256.0)] {
            let tensor = file.tensor(name);
            let columns = if tensor.dims.len() == 2 { HIDDEN } else { 1 };
            let numbers = tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let scaled = numbers.enumerate().map(|(at, x)| match at / columns % 4 {
                1 => x * factor,
                _ => x,
            });
            let scaled: Vec<f32> = scaled.collect();
            file.numbers(name, scaled);
        }
        let difference = difference(&file.bytes());
        assert!(difference < 0.12, "{family}: {difference}");
    }
}

#[test]
fn a_plan_has_what_its_family_has_and_nothing_else() {
    for family in FAMILIES {
        let manifest = Package::of(&file(family).bytes()).manifest;
        let norms = ["qwen3", "qwen3moe", "gemma3"].contains(&family);
        let gemma = family == "gemma3";
        assert_eq!(manifest.provenance.architecture, family);
        for layer in &manifest.layers {
            assert_eq!(layer.parts.qkv.bias.is_some(), family.starts_with("qwen2"));
            assert_eq!(layer.parts.output.bias, None);
            assert!(layer.parts.feed_forward.products().iter().all(|(_, of)| of.bias.is_none()));
            let experts = layer.parts.feed_forward.experts();
            assert_eq!(experts.is_some(), family.ends_with("moe"));
            if let Some(experts) = experts {
                let rule = Rule { used: 2, normalise: family == "qwen3moe" };
                assert_eq!((experts.rule, experts.experts.len()), (rule, 4));
                assert_eq!(experts.shared.is_some(), family == "qwen2moe");
            }
            assert_eq!(layer.parts.head_norms.is_some(), norms);
            assert_eq!(layer.parts.post_norms.is_some(), gemma);
            let gelu = layer.activation == Activation::GeluTanh;
            assert_eq!(gelu, gemma);
        }
        let seen: Vec<(u32, u32)> =
            manifest.layers.iter().map(|l| (l.attention.rope, l.attention.window)).collect();
        match family {
            "gemma3" => assert_eq!(seen, [(1, 5), (0, 0)]),
            "phi3" => assert_eq!(seen, [(0, 6), (0, 6)]),
            _ => assert_eq!(seen, [(0, 0), (0, 0)]),
        }
        let pairs: Vec<usize> = manifest.ropes.iter().map(|rope| rope.frequencies.len()).collect();
        match family {
            "gemma3" => assert_eq!(pairs, [4, 4]),
            "phi3" => assert_eq!(pairs, [2]),
            _ => assert_eq!(pairs, [4]),
        }
        let scale = if gemma { (HIDDEN as f32).sqrt() } else { 1.0 };
        assert_eq!(manifest.head.embedding_scale, scale);
    }
}

fn refused(file: &File) -> String {
    let bytes = file.bytes();
    ModelFile::open(&bytes).map(|_| ()).unwrap_err().to_string()
}

/// As llama.cpp reads them: a factor without a type is linear scaling, an older key says the same,
/// and no scaling has no factor.
#[test]
fn a_scaling_factor_is_read_as_llama_cpp_reads_it() {
    let id = |pairs: &[(&str, Meta)]| {
        let mut file = file("qwen2");
        for (key, value) in pairs {
            file.set(&format!("qwen2.rope.{key}"), value.clone());
        }
        Package::of(&file.bytes()).manifest.ropes
    };
    let text = |text: &str| Meta::Str(text.to_owned());
    let (plain, factor) = (id(&[]), Meta::F32(8.0));
    let linear = id(&[("scaling.type", text("linear")), ("scaling.factor", factor.clone())]);
    assert_ne!(linear, plain);
    assert_eq!(id(&[("scaling.factor", factor.clone())]), linear);
    assert_eq!(id(&[("scale_linear", factor.clone())]), linear);
    assert_eq!(id(&[("scaling.type", text("none")), ("scaling.factor", factor)]), plain);
    assert_eq!(id(&[("scaling.type", text("linear"))]), plain);
    assert_eq!(id(&[("scaling.factor", Meta::F32(1.0))]), plain);
    assert_eq!(id(&[("scaling.factor", Meta::F32(0.0))]), plain);
}

#[test]
fn what_a_family_needs_is_missed_and_what_it_does_not_have_is_refused() {
    for (family, missing) in [
        ("qwen2", "blk.1.attn_k.bias"),
        ("qwen3", "blk.0.attn_k_norm.weight"),
        ("gemma3", "blk.1.post_ffw_norm.weight"),
        ("phi3", "blk.0.attn_qkv.weight"),
    ] {
        let mut short = file(family);
        short.tensors.retain(|tensor| tensor.name != missing);
        assert!(refused(&short).contains(missing), "{family}: {}", refused(&short));
    }
    let mut foreign = file("qwen3");
    biases(&mut foreign);
    assert!(refused(&foreign).contains("plain qwen3 model"), "{}", refused(&foreign));
    let mut capped = file("gemma3");
    capped.set("gemma3.attn_logit_softcapping", Meta::F32(50.0));
    assert!(refused(&capped).contains("attn_logit_softcapping"));
    let mut yarn = file("qwen2");
    yarn.set("qwen2.rope.scaling.type", Meta::Str("yarn".to_owned()));
    assert!(refused(&yarn).contains("qwen2.rope.scaling.type"));
}

#[test]
fn experts_are_read_from_one_tensor_or_from_one_each() {
    for whole in [mixtral(), file("qwen2moe"), file("qwen3moe")] {
        let apart = with_experts_apart(whole.clone());
        assert_ne!(whole.tensors.len(), apart.tensors.len());
        let manifests = [whole, apart].map(|file| Package::of(&file.bytes()).manifest);
        assert_eq!(manifests[0].id(), manifests[1].id());
    }
    let rule = |file: &File| {
        let manifest = Package::of(&file.bytes()).manifest;
        manifest.layers[1].parts.feed_forward.experts().unwrap().rule
    };
    assert_eq!(rule(&mixtral()), Rule { used: 2, normalise: true });
    let mut stated = file("qwen3moe");
    stated.set("qwen3moe.expert_weights_norm", Meta::Bool(false));
    stated.set("qwen3moe.expert_used_count", Meta::U32(3));
    stated.set("qwen3moe.expert_gating_func", Meta::U32(1));
    assert_eq!(rule(&stated), Rule { used: 3, normalise: false });
}

#[test]
fn experts_that_are_not_understood_are_refused() {
    let set = |family: &str, name: &str, value: Meta| {
        let mut file = file(family);
        file.set(&format!("{family}.{name}"), value);
        refused(&file)
    };
    for (family, name, value) in [
        ("qwen3moe", "expert_count", Meta::U32(0)),
        ("qwen3moe", "expert_count", Meta::U32(1025)),
        ("qwen3moe", "expert_used_count", Meta::U32(5)),
        ("qwen3moe", "expert_used_count", Meta::U32(0)),
        ("qwen3moe", "expert_gating_func", Meta::U32(2)),
        ("qwen3moe", "expert_feed_forward_length", Meta::U32(0)),
        ("qwen3moe", "expert_weights_scale", Meta::F32(2.5)),
        ("qwen2moe", "expert_group_count", Meta::U32(2)),
        ("qwen3", "expert_count", Meta::U32(4)),
        ("llama", "expert_feed_forward_length", Meta::U32(24)),
    ] {
        let words = set(family, name, value);
        assert!(words.contains(&format!("{family}.{name}")), "{words}");
    }
    let router = set("llama", "expert_count", Meta::U32(4));
    assert!(router.contains("llama.expert_used_count"), "{router}");
    for (family, missing) in [
        ("qwen3moe", "blk.1.ffn_down_exps.weight"),
        ("qwen2moe", "blk.1.ffn_up_shexp.weight"),
        ("qwen2moe", "blk.0.ffn_gate_inp_shexp.weight"),
    ] {
        let mut short = file(family);
        short.tensors.retain(|tensor| tensor.name != missing);
        assert!(refused(&short).contains(missing), "{family}: {}", refused(&short));
    }
    let mut short = mixtral();
    short.tensors.retain(|tensor| tensor.name != "blk.1.ffn_gate_inp.weight");
    assert!(refused(&short).contains("blk.1.ffn_gate_inp.weight"), "{}", refused(&short));
    let mut apart = with_experts_apart(file("qwen3moe"));
    apart.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.2.weight");
    assert!(refused(&apart).contains("blk.1.ffn_up.2.weight"), "{}", refused(&apart));
    let mut wrong = file("qwen3moe");
    wrong.tensor("blk.0.ffn_up_exps.weight").dims.swap(1, 2);
    assert!(refused(&wrong).contains("blk.0.ffn_up_exps.weight"), "{}", refused(&wrong));
    let mut foreign = file("qwen3moe");
    add(&mut foreign, "blk.0.exp_probs_b.bias", 4, 0.0);
    assert!(refused(&foreign).contains("plain qwen3moe model"), "{}", refused(&foreign));
}

#[test]
fn rotary_factors_slow_positions_down() {
    let plain = Package::of(&file("phi3").bytes()).manifest.ropes;
    let long = long_phi();
    let bytes = long.bytes();
    let slowed = Package::of(&bytes).manifest.ropes;
    let ratio = plain[0].frequencies[0] as f64 / slowed[0].frequencies[0] as f64;
    assert!((3.5..4.5).contains(&ratio), "{ratio}");
    assert!(difference(&bytes) < 0.12);
    let mut linear = file("gemma3");
    linear.set("gemma3.rope.scaling.type", Meta::Str("linear".to_owned()));
    linear.set("gemma3.rope.scaling.factor", Meta::F32(8.0));
    let (plain, scaled) = (
        Package::of(&file("gemma3").bytes()).manifest.ropes,
        Package::of(&linear.bytes()).manifest.ropes,
    );
    assert_eq!(scaled[0].frequencies[0], plain[0].frequencies[0] / 8);
    assert_eq!(scaled[1], plain[1], "local layers are not scaled");
}

/// The ids of the packages of every case, in 8 and in 4 bits. Blobs and manifests are what they
/// were when these were written down; whoever changes one on purpose changes
/// `lockstep_import::package::RULES` with it.
const IDS: [(&str, [&str; 2]); 15] = [
    (
        "llama",
        [
            "be2d64bc1755d0aad05eef7ab60b6597f7699c694cabd9da7dcb2a7a343c58e3",
            "69fcff4b2fa7b3616c87afd3c90d54737daded4a2b4bd1a762c620ae30c10dd9",
        ],
    ),
    (
        "qwen2",
        [
            "b9869d0d89e48644fc97f144f89e9501b2aad4d4cbad032d6fd2ec44a3bd7e02",
            "086b01dd6068915807510a336c8cdaab0c83d04176c8d558deab6f3ed06360f5",
        ],
    ),
    (
        "qwen2moe",
        [
            "08afbca97de5f12bd4fa1d3efae5384380072bae888460d295afdaa28993c9e0",
            "1887f3b080fedafefbcf3708bf9f3b453947327e9b263354890116ced3e98dac",
        ],
    ),
    (
        "qwen3",
        [
            "becf1d2e32407225ceb480367286e22b0374e1d982c7c1ea6c2055da38f64502",
            "1d42eb7da7d3c65c21bc3014afcc7e8650abfd182c257ee1507ff31f3d1f6533",
        ],
    ),
    (
        "qwen3moe",
        [
            "e00f41f8929287d8fbcffb2162a2430d1168058e84bf6492429a02b8829ca0a8",
            "31f3da34f5b8cbe5ec54a738750a9eab6da82e6d961af2575ccb814279672e92",
        ],
    ),
    (
        "gemma3",
        [
            "79d83e07b4e06081378d8291ce280e7b4d11644de8b38ac08f169225f89883fa",
            "00acc9862c54f8cf0638194de08184b03c31fed8ff66add399e54dba15ac60cf",
        ],
    ),
    (
        "phi3",
        [
            "0c890bf4ff1266d4ff1e8985ec990f94871abea6bfbe27456705cf3e3c2128ca",
            "346178bb715a61643a7fe110a978bde52140f51844c969a60b5602fd32bedc07",
        ],
    ),
    (
        "llama3",
        [
            "06064912b138bd570add4806e93d0f82c5c0fda28f67343f3301194b139329ce",
            "371b7ecd6518064c76948568c35094411c80a8595f5b32114b31b5987c9b6616",
        ],
    ),
    (
        "phi3-long",
        [
            "5acf8f6db3c899f6987ffe089eb8e49c0778994f8da18530eec671ddb91a7705",
            "e634ff88d224fc194ecadf556af2b717161842b3f897e77b2e2604fd49b0040a",
        ],
    ),
    (
        "gemma3-linear",
        [
            "2e8dd806925420282538026c94ee97cdab67feee9b7c30245737f160a5a53f8d",
            "57f75ac9e2aadc5c318d6573890a82db944baa62ae06579246fceb9a59d9d446",
        ],
    ),
    (
        "mistral-window",
        [
            "60b69b90c15fcc869eb4e1366f630413198e20f721d554557fd2b19d0b9e123f",
            "27db85bf17b7bde63e041396f24b0a237fab6d7ffb708206da4bd158980a94aa",
        ],
    ),
    (
        "mixtral",
        [
            "038704d22c76de41ab5c2c66d8aa26ad6fe6632fcea98fc125d290597557a8cc",
            "70d0a532d8c6c9c3c9664ed07338fee95dd4d62d17ea193555979f7600a50f4d",
        ],
    ),
    (
        "qwen3moe-dense",
        [
            "04afa676837fb2cd0d8eadf6811856438074f6c820db0c3a33b7851b9f961f1b",
            "00266cadfbb5669f263f6f4c8b4009fcbadbea9bac6e8f4948a08b3fe99bfe38",
        ],
    ),
    (
        "qwen2moe-norm",
        [
            "feae245422d7345bbddd6d2867025896d902c6ed5bd451dd7e3aa0cc3d2c6ef1",
            "d99b9164c747e5a73f35a00f29eab2b38e9a1a59366104ad0b5d0c9e1c8cd7a0",
        ],
    ),
    (
        "llama-biases",
        [
            "94bd1ca680ba2484a718108d02f92d9968533d4491d69275a6faa321015658b8",
            "2de7b9b814a248bd431a6ea7dee3059263bf1fbd184316a45cafd7dafe951ba4",
        ],
    ),
];

#[test]
fn packages_have_the_ids_that_they_have_always_had() {
    let mut cases = cases();
    let mut biased = file("llama");
    biases(&mut biased);
    (0..2)
        .for_each(|layer| add(&mut biased, &format!("blk.{layer}.attn_output.bias"), HIDDEN, 0.0));
    cases.push(("llama-biases", biased));
    let ids = cases.into_iter().map(|(name, file)| {
        let bytes = file.bytes();
        (name, Codec::ALL.map(|codec| Package::stored(&bytes, codec).manifest.id().to_string()))
    });
    let ids: Vec<(&str, [String; 2])> = ids.collect();
    let expected = IDS.map(|(name, ids)| (name, ids.map(str::to_owned)));
    assert_eq!(ids, expected);
}
