//! The laws of the GPU: every operation gives the bits of the reference, on random and on
//! adversarial values.
//!
//! A *case* makes its inputs from a seed, has a subject compute, and records all bits that come
//! out. The laws compare a GPU's records with the reference's; they are ignored where tests run
//! without a GPU, and fail if they are run there:
//!
//! ```text
//! cargo test --release -p lockstep-cuda -- --ignored
//! ```
//!
//! `transcript.txt` holds the digests of a GPU's records, written there by the last of these tests
//! where `LOCKSTEP_CUDA_TRANSCRIPT` names a file. On every machine the reference must still give
//! them: a change of the arithmetic that the kernels do not follow fails without a GPU.

mod attention;
mod decode;
mod device;
mod elements;
mod model;
mod products;
mod record;
mod shapes;
mod subject;

use std::fmt::Write as _;

use lockstep_cuda::{Driver, Gpu};
use lockstep_testing::numbers::Numbers;

use device::Device;
use record::Record;
use subject::Subject;

/// A way to make inputs from a seed and to record what comes out.
struct Case {
    name: &'static str,
    run: fn(&dyn Subject, &mut Numbers, &mut Record),
}

macro_rules! cases {
    ($($file:ident: $case:ident,)*) => {
        const CASES: &[Case] =
            &[$(Case { name: stringify!($case), run: $file::$case },)*];

        $(#[test]
        #[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
        fn $case() {
            hold(stringify!($case));
        })*

        #[test]
        fn every_case_is_named_once() {
            let mut names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), CASES.len());
        }
    };
}

cases! {
    elements: norms_of_states,
    elements: norms_of_rows,
    elements: residuals,
    elements: quantised_rows,
    elements: quantised_rows_at_both_edges,
    elements: gates,
    elements: embeddings,
    elements: large_logits,
    elements: markers,
    products: products_of_8_bit_weights,
    products: products_of_4_bit_weights,
    products: products_of_the_largest_numbers,
    products: products_of_many_rows,
    products: products_of_every_code,
    attention: appended_rows,
    attention: attention_in_windows,
    attention: attention_of_every_head_size_and_group,
    attention: attention_over_scales_of_any_spread,
    attention: attention_that_overflows,
    attention: attention_to_values_of_zero,
    attention: attention_of_mixed_sessions,
    decode: decode_of_every_feature,
    decode: decode_of_every_number_of_sessions,
    decode: decode_of_odd_sizes,
    decode: decode_of_real_sizes,
    decode: decode_of_states_of_any_size,
    decode: decode_that_overflows,
}

/// Seeds in the transcript.
const RECORDED: std::ops::Range<u64> = 1..3;
/// Seeds that a GPU is held to.
const HELD: std::ops::Range<u64> = 1..6;

const TRANSCRIPT: &str = include_str!("transcript.txt");

fn record(case: &Case, subject: &dyn Subject, seed: u64) -> Record {
    let mut record = Record::default();
    (case.run)(subject, &mut Numbers::new(seed), &mut record);
    assert!(!record.is_empty(), "{} records something", case.name);
    record
}

/// The GPU of this machine, with each text that it takes.
fn gpus() -> Vec<Gpu> {
    let driver = Driver::load().unwrap_or_else(|error| panic!("NOT RUN: {error}"));
    let targets = ["sm_90a", "sm_80", "sm_75"];
    let best = Gpu::open(&driver, 0).unwrap_or_else(|error| panic!("NOT RUN: {error}"));
    let others = targets.into_iter().skip_while(|target| *target != best.target()).skip(1);
    let others = others.map(|target| Gpu::open_target(&driver, 0, target).unwrap());
    let others: Vec<Gpu> = others.collect();
    std::iter::once(best).chain(others).collect()
}

/// Holds every text of a GPU to the reference in one case.
fn hold(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let devices: Vec<Device> = gpus().into_iter().map(Device).collect();
    for seed in HELD {
        let expected = record(case, &lockstep_exact::reference::Reference, seed);
        for device in &devices {
            let got = record(case, device, seed);
            got.assert_equal(&expected, &format!("{name}, seed {seed}, {}", device.0.target()));
        }
    }
}

/// The transcript's lines for a subject.
fn transcript(subject: &dyn Subject) -> String {
    let mut lines = String::new();
    for case in CASES {
        for seed in RECORDED {
            let digest = record(case, subject, seed).digest();
            writeln!(lines, "{} {seed} {digest}", case.name).unwrap();
        }
    }
    lines
}

/// The lines of the file, without what says where it is from.
fn recorded() -> String {
    let lines = TRANSCRIPT.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_reference_gives_what_a_gpu_gave() {
    assert_eq!(transcript(&lockstep_exact::reference::Reference), recorded());
}

#[test]
fn the_transcript_says_which_gpu_it_is_from() {
    let header = TRANSCRIPT.lines().next().unwrap_or("");
    assert!(header.starts_with("# NVIDIA "), "{header}");
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
fn the_gpu_gives_the_transcript() {
    let mut header = String::new();
    let mut lines = None;
    for gpu in gpus() {
        if header.is_empty() {
            let (name, capability) = (&gpu.info().name, gpu.info().capability);
            let cuda = Driver::load().unwrap().version();
            write!(header, "# {name}, compute capability {capability}, CUDA {cuda}, texts")
                .unwrap();
        }
        write!(header, " {}", gpu.target()).unwrap();
        let these = transcript(&Device(gpu));
        assert_eq!(lines.get_or_insert_with(|| these.clone()), &these, "all texts agree");
    }
    let lines = lines.unwrap();
    if let Some(path) = std::env::var_os("LOCKSTEP_CUDA_TRANSCRIPT") {
        std::fs::write(path, format!("{header}\n{lines}")).unwrap();
    } else {
        assert_eq!(lines, recorded());
    }
}
