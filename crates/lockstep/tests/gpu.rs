//! Servers whose layers an NVIDIA GPU computes: in a ring with processors they give the same bits;
//! where there is no GPU, the program says so.
//!
//! What needs a GPU is ignored, and fails where there is none:
//!
//! ```text
//! cargo test --release -p lockstep --test gpu -- --ignored
//! ```

mod support;

use std::fs;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::statement::LayerRoots;
use serde_json::Value;
use support::process::Signal;
use support::ring::{Ring, Server, THREE, starting};
use support::{MODEL, PATIENCE, WATCHDOG, lockstep};

/// A number that no device has.
const ABSENT: &str = "cuda:999";
/// The GPU of the tests that need one.
const GPU: &str = "cuda:0";

fn serve(device: &str, more: &[&str]) -> support::process::Ended {
    let arguments = ["serve", MODEL, "--layers", "29..30", "--ephemeral", "--device", device];
    lockstep(&[&arguments[..], more].concat())
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_says_what_is_and_what_works_without() {
    let ended = serve(ABSENT, &[]).expect_code(1);
    let asked = "cuda:999 can't be used; --device cpu needs no GPU: ";
    assert!(ended.stderr.contains(asked), "{ended}");
    // With a driver, the device is missing; without, the driver.
    let found = ["no CUDA driver: ", "there is no CUDA device 999: this machine has "];
    assert!(found.iter().any(|found| ended.stderr.contains(found)), "{ended}");
    let ended = serve(ABSENT, &["--json"]).expect_code(1);
    let report = ended.json();
    assert!(report["error"].as_str().unwrap().contains(asked), "{report}");
    assert_eq!(report["exit_code"], 1, "{report}");
}

#[test]
fn what_is_no_device_is_a_mistake_in_the_arguments() {
    for wrong in ["gpu", "cuda", "cuda:x", "0"] {
        let ended = serve(wrong, &[]).expect_code(2);
        assert!(ended.stderr.contains("expected cpu, auto, or a GPU such as cuda:0"), "{ended}");
    }
}

#[test]
fn auto_serves_on_whatever_there_is_and_says_on_what() {
    let server = Server::ready(starting(29..30, &["--device", "auto"]));
    let line = server.process.stdout.text();
    let told: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let device = told["device"].as_str().unwrap();
    assert!(device == "cpu" || device.starts_with("cuda:"), "{told}");
    server.process.end(WATCHDOG);
}

#[test]
fn doctor_says_which_gpus_there_are_and_no_gpu_is_no_fault() {
    let report = lockstep(&["doctor", "--json"]).json();
    let checks = report["checks"].as_array().unwrap();
    let gpu = checks.iter().find(|check| check["name"] == "GPU").unwrap();
    let detail = gpu["detail"].as_str().unwrap();
    assert_ne!(gpu["status"], "fail", "{gpu}");
    assert!(detail.starts_with("none") || detail.contains("cuda:0 "), "{gpu}");
}

/// All that a ring has committed to, whoever computed it.
#[derive(Debug, PartialEq)]
struct Committed {
    tokens: Vec<u32>,
    /// Of each stage: its layers, the root of what it received, the roots of its layers.
    roots: Vec<(u32, u32, Digest, Vec<LayerRoots>)>,
}

/// Has a ring answer, with every cell opened and checked.
fn answer(ring: &Ring) -> Committed {
    let prompt = "Explain in two sentences why the sky is blue.";
    let more = ["-n", "24", "--seed", "7", "--audit", "full"];
    let report = ring.chat(prompt, &more).end(PATIENCE).expect_code(0).json();
    assert_eq!(report["verdict"], "verified", "{report}");
    let receipt = fs::read(report["receipt"].as_str().unwrap()).unwrap();
    let receipt = Bundle::from_bytes(&receipt).unwrap().receipt;
    let segments = receipt.segments.into_iter();
    let roots = segments.map(|of| (of.first, of.end, of.input_root, of.layers));
    Committed { tokens: receipt.answer, roots: roots.collect() }
}

/// A server of a stage that computes on a device, which it must have got.
fn server_on(stage: usize, device: &str) -> Server {
    let server = Server::ready(starting(THREE[stage].clone(), &["--device", device]));
    let told = server.process.stdout.text();
    let got = told.contains("cuda:0 (");
    assert_eq!(got, device == GPU, "NOT RUN on {device}: {told}");
    server
}

/// A ring of three servers that compute on these devices.
fn ring_on(devices: &[&str; 3]) -> Ring {
    let servers = devices.iter().enumerate().map(|(stage, device)| server_on(stage, device));
    Ring { servers: servers.collect() }
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep --test gpu -- --ignored"]
fn a_gpu_in_any_place_of_a_ring_gives_the_roots_of_processors_and_every_cell_is_verified() {
    let expected = answer(&Ring::start(&THREE, &[]));
    assert!(!expected.tokens.is_empty());
    for place in 0..THREE.len() {
        let mut devices = ["cpu"; 3];
        devices[place] = GPU;
        let ring = ring_on(&devices);
        let got = answer(&ring);
        assert_eq!(got.tokens, expected.tokens, "the GPU is stage {place}");
        assert!(got.roots == expected.roots, "the GPU is stage {place}: {}", ring.logs());
    }
}

/// A request that takes long enough to kill a server in the middle of it.
const STORY: &str = "Write a long story about a lighthouse keeper and the sea.";
const LONG: [&str; 6] = ["--audit", "off", "-n", "600", "--seed", "7"];

/// Kills a stage's server in the middle of an answer; the text of it that had come.
fn kill_in_the_middle(ring: &Ring, stage: usize) -> String {
    let client = ring.chat(STORY, &LONG);
    let route = client.wait_stderr(PATIENCE, "a route", |text| {
        let route = text.find("ring: ")?;
        text[route..].find('\n').map(|end| route + end + 1)
    });
    client.wait_stderr(WATCHDOG, "tokens", |text| (text.len() >= route + 100).then_some(()));
    ring.signal(stage, Signal::Kill);
    let ended = client.end(PATIENCE).expect_code(1);
    let (text, error) = ended.stderr[route..].split_once("error: ").unwrap();
    assert!(error.contains(&format!("the answer broke off at s{}", stage + 1)), "{ended}");
    text.trim_end().to_owned()
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep --test gpu -- --ignored"]
fn any_server_killed_and_replaced_by_one_of_the_other_kind_leaves_every_bit_as_it_was() {
    let processors = Ring::start(&THREE, &[]);
    let expected = answer(&processors);
    let story = processors.chat(STORY, &LONG).end(PATIENCE).expect_code(0).json();
    let story = story["text"].as_str().unwrap();
    drop(processors);
    let mut devices = ["cpu", GPU, "cpu"];
    let mut ring = ring_on(&devices);
    // Each stage is killed on one kind and goes on on the other; the last kill takes a GPU again.
    for stage in [1, 0, 2, 0] {
        let before = devices;
        let told = kill_in_the_middle(&ring, stage);
        assert!(story.starts_with(&told), "{before:?}, stage {stage} killed: {told}\n{story}");
        devices[stage] = if devices[stage] == GPU { "cpu" } else { GPU };
        ring.servers[stage] = server_on(stage, devices[stage]);
        ring.wait_idle(WATCHDOG);
        let got = answer(&ring);
        assert!(got == expected, "{before:?} became {devices:?}: {}", ring.logs());
    }
}
