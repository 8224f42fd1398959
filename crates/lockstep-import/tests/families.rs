//! Every family's files become the plan that they describe, and what the plan computes is what an
//! ordinary f32 forward pass over the same file computes.

mod support;

use lockstep_exact::blob::Blob;
use lockstep_exact::fixture::Numbers;
use lockstep_exact::forward::{Probe, Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, ReferenceKv};
use lockstep_exact::manifest::{Activation, Manifest};
use lockstep_exact::ops::{Ops, Place};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_import::float::FloatModel;
use lockstep_import::package::{MemorySink, ModelFile};
use support::{File, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Meta, Tensor, tiny};

const QUERIES: usize = HEADS * HEAD_DIM;
const KV: usize = KV_HEADS * HEAD_DIM;

/// The tiny model as a file of another family.
fn file(family: &str) -> File {
    let mut file = tiny();
    for (key, _) in &mut file.pairs {
        if let Some(name) = key.strip_prefix("llama.") {
            *key = format!("{family}.{name}");
        }
    }
    file.set("general.architecture", Meta::Str(family.to_owned()));
    match family {
        "qwen2" => biases(&mut file),
        "qwen3" => head_norms(&mut file),
        "gemma3" => {
            file.set("gemma3.attention.sliding_window", Meta::U32(5));
            file.set("gemma3.attention.sliding_window_pattern", Meta::U32(2));
            file.set("gemma3.rope.freq_base", Meta::F32(1e6));
            head_norms(&mut file);
            for layer in 0..LAYERS {
                add(&mut file, &format!("blk.{layer}.post_attention_norm.weight"), HIDDEN, 1.0);
                add(&mut file, &format!("blk.{layer}.post_ffw_norm.weight"), HIDDEN, 1.0);
            }
        }
        "phi3" => {
            file.set("phi3.rope.dimension_count", Meta::U32(4));
            file.set("phi3.attention.sliding_window", Meta::U32(6));
            for layer in 0..LAYERS {
                let parts = ["attn_q", "attn_k", "attn_v"];
                fuse(&mut file, layer, &parts, "attn_qkv", QUERIES + 2 * KV);
                fuse(&mut file, layer, &["ffn_gate", "ffn_up"], "ffn_up", 2 * INNER);
            }
        }
        _ => {}
    }
    file
}

/// Adds a vector of numbers around `middle`.
fn add(file: &mut File, name: &str, len: usize, middle: f32) {
    let mut numbers = Numbers::new(file.tensors.len() as u64);
    let values = (0..len).map(|_| middle + 0.5 * numbers.signed_unit());
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    let (name, dims) = (name.to_owned(), vec![len as u64]);
    file.tensors.push(Tensor { name, dims, ty: 0, bytes, offset: None });
}

fn biases(file: &mut File) {
    for layer in 0..LAYERS {
        for (part, len) in [("attn_q", QUERIES), ("attn_k", KV), ("attn_v", KV)] {
            add(file, &format!("blk.{layer}.{part}.bias"), len, 0.0);
        }
    }
}

fn head_norms(file: &mut File) {
    for layer in 0..LAYERS {
        add(file, &format!("blk.{layer}.attn_q_norm.weight"), HEAD_DIM, 1.0);
        add(file, &format!("blk.{layer}.attn_k_norm.weight"), HEAD_DIM, 1.0);
    }
}

/// Puts matrices one below the other.
fn fuse(file: &mut File, layer: usize, parts: &[&str], name: &str, rows: usize) {
    let names: Vec<String> =
        parts.iter().map(|part| format!("blk.{layer}.{part}.weight")).collect();
    let bytes = names.iter().flat_map(|name| file.tensor(name).bytes.clone()).collect();
    file.tensors.retain(|tensor| !names.contains(&tensor.name));
    let (name, dims) = (format!("blk.{layer}.{name}.weight"), vec![HIDDEN as u64, rows as u64]);
    file.tensors.push(Tensor { name, dims, ty: 0, bytes, offset: None });
}

/// The last row's state after each layer.
struct States(Vec<Vec<f32>>);

impl Probe<Reference> for States {
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
        let mut sink = MemorySink::default();
        let manifest = ModelFile::open(bytes).unwrap().import(&mut sink, |_| ()).unwrap();
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
    let tokens = tokens();
    let (exact, _) = Package::of(bytes).logits(&tokens);
    let float = FloatModel::read(&ModelFile::open(bytes).unwrap()).unwrap().logits(&tokens);
    let (exact, float) = (exact.concat(), float.concat());
    off(&exact, &float)
}

/// Every case of the parity table: the families, and what changes positions.
fn cases() -> Vec<(&'static str, File)> {
    let mut cases: Vec<_> = FAMILIES.iter().map(|&family| (family, file(family))).collect();
    let mut llama3 = file("llama");
    add(&mut llama3, "rope_freqs.weight", HEAD_DIM / 2, 4.0);
    cases.push(("llama3", llama3));
    cases.push(("phi3-long", long_phi()));
    let mut linear = file("gemma3");
    linear.set("gemma3.rope.scaling.type", Meta::Str("linear".to_owned()));
    linear.set("gemma3.rope.scaling.factor", Meta::F32(8.0));
    cases.push(("gemma3-linear", linear));
    let mut mistral = file("llama");
    mistral.set("llama.attention.sliding_window", Meta::U32(7));
    cases.push(("mistral-window", mistral));
    cases
}

fn long_phi() -> File {
    let mut long = file("phi3");
    add(&mut long, "rope_factors_long.weight", 2, 4.0);
    add(&mut long, "rope_factors_short.weight", 2, 2.0);
    long.set("phi3.rope.scaling.original_context_length", Meta::U32(64));
    long.set("phi3.rope.scaling.attn_factor", Meta::F32(1.2));
    long
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

#[test]
fn every_layer_gives_what_an_independent_implementation_gives() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/families.json")).unwrap();
    println!("size of differences over the state's size, per layer: f32 forward / exact");
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
            let (float, exact) = (off(float, &expected), off(exact, &expected));
            line.push_str(&format!("  {float:.1e} / {exact:.1e}"));
            assert!(float < 1e-4, "{name}: {float}");
            assert!(exact < 0.1, "{name}: {exact}");
        }
        println!("{line}");
    }
}

const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma3", "phi3"];

#[test]
fn every_familys_exact_logits_are_close_to_those_of_an_f32_forward_pass() {
    for family in FAMILIES {
        let difference = difference(&file(family).bytes());
        println!("{family:<8} logits differ by {difference:.4} of their size");
        assert!(difference < 0.12, "{family}: {difference}");
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
        let (norms, gemma) = (["qwen3", "gemma3"].contains(&family), family == "gemma3");
        assert_eq!(manifest.provenance.architecture, family);
        for layer in &manifest.layers {
            assert_eq!(layer.biases.qkv.is_some(), family == "qwen2");
            assert_eq!((layer.biases.output, layer.biases.down), (None, None));
            assert_eq!(layer.head_norms.is_some(), norms);
            assert_eq!(layer.post_norms.is_some(), gemma);
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
