//! Tokens and column roots are the same bytes however the work is cut: over stages, chunks,
//! batches, threads, instruction sets and processes.

mod support;

use std::fs;

use lockstep_exact::blob::Blob;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::reference::Reference;
use lockstep_import::tokenizer::{ControlText, Tokenizer};
use lockstep_kernels::{Isa, Kernels};
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::statement::LayerRoots;

use support::line::{Answer, Ask, Line};
use support::{Folder, MODEL, RealModel, command, lockstep, process::Process, real_model};

/// Positions of a chunk and sessions of a batch.
const SIZES: [usize; 3] = [1, 7, 64];

/// Every way to compute on this machine.
fn backends() -> Vec<(String, Kernels)> {
    let with = |threads: usize| {
        Isa::available().into_iter().map(move |isa| {
            (format!("{isa} on {threads} threads"), Kernels::new(isa, threads).unwrap())
        })
    };
    [1, 2].into_iter().flat_map(with).collect()
}

/// Cuts of all ways to split so many layers.
fn all_splits(layers: u32) -> Vec<Vec<u32>> {
    let cuts = |bits: u32| (1..layers).filter(|layer| bits >> (layer - 1) & 1 == 1).collect();
    (0..1 << (layers - 1)).map(cuts).collect()
}

fn tiny_ask(seed: u64, prompt: usize, tokens: usize) -> Ask {
    let mut numbers = Numbers::new(seed);
    let prompt = (0..prompt).map(|_| numbers.below(256) as u32).collect();
    Ask { prompt, tokens }
}

#[test]
fn a_tiny_model_answers_alike_over_all_splits_chunks_threads_and_kernels() {
    let model = TinyModel::new(1);
    let ask = tiny_ask(1, 71, 6);
    let mut reference = Line::new(Reference, &model.manifest, |blob| model.blob(blob));
    let expected = reference.alone(&ask);
    assert_eq!((expected.tokens.len(), expected.roots.len()), (6, 6));
    let splits = all_splits(6);
    assert_eq!(splits.len(), 32);
    for (name, kernels) in backends() {
        let mut line = Line::new(kernels, &model.manifest, |blob| model.blob(blob));
        for cuts in &splits {
            for chunk in SIZES {
                let answer = line.run(std::slice::from_ref(&ask), cuts, chunk).remove(0);
                assert_eq!(answer, expected, "{name}, cuts {cuts:?}, chunks of {chunk}");
            }
        }
    }
    for cuts in &splits {
        let answer = reference.run(std::slice::from_ref(&ask), cuts, 7).remove(0);
        assert_eq!(answer, expected, "the reference, cuts {cuts:?}");
    }
}

/// All layers but the first have experts, and a shared one.
fn with_experts(seed: u64) -> TinyModel {
    let features = Features { experts: true, shared_expert: true, ..Features::default() };
    TinyModel::with_features(seed, Sizes::default(), features)
}

#[test]
fn a_tiny_model_with_experts_answers_alike_over_splits_chunks_threads_and_kernels() {
    let (model, ask) = (with_experts(5), tiny_ask(3, 71, 6));
    let expected = Line::new(Reference, &model.manifest, |blob| model.blob(blob)).alone(&ask);
    for (name, kernels) in backends() {
        let mut line = Line::new(kernels, &model.manifest, |blob| model.blob(blob));
        for cuts in [&[][..], &[1], &[3], &[1, 2, 3, 4, 5]] {
            for chunk in SIZES {
                let answer = line.run(std::slice::from_ref(&ask), cuts, chunk).remove(0);
                assert_eq!(answer, expected, "{name}, cuts {cuts:?}, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn tiny_sessions_in_one_batch_answer_as_each_alone() {
    check_batches(&TinyModel::new(2));
}

#[test]
fn sessions_that_share_experts_in_one_batch_answer_as_each_alone() {
    check_batches(&with_experts(2));
}

fn check_batches(model: &TinyModel) {
    let asks: Vec<Ask> =
        (0..64).map(|i| tiny_ask(i, 1 + 5 * i as usize % 47, 1 + i as usize % 5)).collect();
    let mut reference = Line::new(Reference, &model.manifest, |blob| model.blob(blob));
    let alone: Vec<Answer> = asks.iter().map(|ask| reference.alone(ask)).collect();
    assert!(alone.windows(2).all(|pair| pair[0].roots != pair[1].roots), "they do differ");
    for (name, kernels) in backends() {
        let mut line = Line::new(kernels, &model.manifest, |blob| model.blob(blob));
        for size in SIZES {
            for chunk in SIZES {
                let batches = asks.chunks(size);
                let together: Vec<Answer> =
                    batches.flat_map(|batch| line.run(batch, &[2, 5], chunk)).collect();
                assert_eq!(together, alone, "{name}, {size} in a batch, chunks of {chunk}");
            }
        }
    }
}

/// A text of about 40 tokens, and 8 tokens of what follows it.
fn real_ask(model: &RealModel) -> Ask {
    let blob = |index| blob(model, index);
    let vocabulary = blob(model.manifest.vocabulary_blob);
    let definition = blob(model.manifest.tokenizer_blob);
    let tokenizer = Tokenizer::from_blobs(vocabulary.as_slice(), definition.as_slice()).unwrap();
    let text = "The lighthouse keeper wrote the same three lines in his log every night: the \
                direction of the wind, the height of the waves, and the name of the last ship \
                that had passed before the fog came in.";
    let prompt = tokenizer.encode(text, ControlText::Plain).unwrap();
    assert!((35..=50).contains(&prompt.len()), "{} tokens", prompt.len());
    Ask { prompt, tokens: 8 }
}

fn blob(model: &RealModel, index: u32) -> Blob {
    model.blobs.get(index).unwrap()
}

fn real_line(model: &RealModel, kernels: Kernels) -> Line<Kernels> {
    Line::new(kernels, &model.manifest, |index| blob(model, index))
}

/// So many different splits of 30 layers into three or more stages.
fn seeded_splits(seed: u64, count: usize) -> Vec<Vec<u32>> {
    let mut numbers = Numbers::new(seed);
    let mut splits: Vec<Vec<u32>> = Vec::new();
    while splits.len() < count {
        // Some of few stages, some of many.
        let odds = 2 + numbers.below(12);
        let cuts: Vec<u32> = (1..30).filter(|_| numbers.below(odds) == 0).collect();
        if cuts.len() >= 2 && !splits.contains(&cuts) {
            splits.push(cuts);
        }
    }
    splits
}

#[test]
fn the_real_model_answers_alike_over_all_two_way_and_twenty_other_splits() {
    let model = real_model();
    let ask = real_ask(&model);
    let mut line = real_line(&model, Kernels::new(fastest(), 2).unwrap());
    let expected = line.alone(&ask);
    assert_eq!(expected.roots.len(), 30);
    let two_way = (1..30).map(|cut| vec![cut]);
    for cuts in two_way.chain(seeded_splits(1, 20)) {
        let answer = line.run(std::slice::from_ref(&ask), &cuts, 64).remove(0);
        assert_eq!(answer, expected, "cuts {cuts:?}");
    }
}

#[test]
fn the_real_model_answers_alike_in_all_chunks_threads_and_kernels() {
    let model = real_model();
    let ask = real_ask(&model);
    let expected = real_line(&model, Kernels::new(fastest(), 1).unwrap()).alone(&ask);
    for (name, kernels) in backends() {
        let is_slow = kernels.isa() == Isa::PORTABLE;
        let mut line = real_line(&model, kernels);
        for chunk in SIZES.into_iter().filter(|chunk| !is_slow || *chunk == 7) {
            let answer = line.run(std::slice::from_ref(&ask), &[11], chunk).remove(0);
            assert_eq!(answer, expected, "{name}, chunks of {chunk}");
        }
    }
}

#[test]
fn sessions_of_the_real_model_in_one_batch_answer_as_each_alone() {
    let model = real_model();
    let whole = real_ask(&model);
    let part = |i: usize| Ask { prompt: whole.prompt[i % 16..16 + i % 9].to_vec(), tokens: 3 };
    let asks: Vec<Ask> = (0..64).map(part).collect();
    let mut line = real_line(&model, Kernels::new(fastest(), 2).unwrap());
    let alone: Vec<Answer> = asks.iter().map(|ask| line.alone(ask)).collect();
    for size in [7, 64] {
        let together: Vec<Answer> =
            asks.chunks(size).flat_map(|batch| line.run(batch, &[11], 7)).collect();
        assert_eq!(together, alone, "{size} in a batch");
    }
}

fn fastest() -> Isa {
    Isa::available().into_iter().max().unwrap()
}

const PROMPT: &str = "What is the capital of France, and which river flows through it?";
const TOKENS: &str = "12";

/// What `lockstep generate` gives in one process.
fn generated(kernel: &str, threads: &str) -> Vec<u32> {
    let arguments = ["generate", MODEL, "--prompt", PROMPT, "-n", TOKENS, "--json"];
    let mut command = command(&arguments);
    command.env("LOCKSTEP_KERNEL", kernel).env("LOCKSTEP_THREADS", threads);
    support::tokens(&Process::spawn(command).end(support::PATIENCE).expect_code(0).json())
}

#[test]
fn the_program_generates_alike_on_every_kernel_path_and_number_of_threads() {
    let expected = generated(fastest().name(), "1");
    assert!(!expected.is_empty());
    for isa in Isa::available() {
        for threads in ["1", "2"] {
            let tokens = generated(isa.name(), threads);
            assert_eq!(tokens, expected, "{isa} on {threads} threads");
        }
    }
}

#[test]
fn one_two_three_and_five_real_servers_answer_alike_and_are_verified() {
    let folder = Folder::new("tokens");
    let expected_tokens = generated(fastest().name(), "2");
    let mut expected_roots: Option<Vec<LayerRoots>> = None;
    for servers in ["1", "2", "3", "5"] {
        let file = folder.file(&format!("{servers}.receipt"));
        let ended = lockstep(&[
            "up",
            MODEL,
            "--servers",
            servers,
            "--prompt",
            PROMPT,
            "-n",
            TOKENS,
            "--json",
            "--audit",
            "sampled",
            "--receipt",
            &file,
        ])
        .expect_code(0);
        let report = ended.json();
        assert_eq!(report["verdict"], "verified", "{servers} servers: {report}");
        assert_eq!(report["servers"].to_string(), servers);
        assert_eq!(support::tokens(&report), expected_tokens, "{servers} servers");
        let bundle = Bundle::from_bytes(&fs::read(&file).unwrap()).unwrap();
        let segments = &bundle.receipt.segments;
        assert_eq!(segments.len().to_string(), servers);
        let roots: Vec<LayerRoots> = segments.iter().flat_map(|s| s.layers.clone()).collect();
        let expected = expected_roots.get_or_insert_with(|| in_this_process(&bundle));
        assert_eq!(&roots, expected, "{servers} servers");
    }
}

/// The roots of a bundle's answer, computed here.
fn in_this_process(bundle: &Bundle) -> Vec<LayerRoots> {
    let model = real_model();
    let receipt = &bundle.receipt;
    let ask = Ask { prompt: receipt.request.prompt.clone(), tokens: receipt.answer.len() };
    let answer = real_line(&model, Kernels::new(fastest(), 2).unwrap()).alone(&ask);
    assert_eq!(answer.tokens, receipt.answer);
    answer.roots
}
