//! A server with an empty home joins a swarm of real processes: it gets the model's files for its
//! span from the others, and no more of them, and its answers are those of a machine that has all.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lockstep_exact::Digest;
use lockstep_node::store::span_blobs;
use serde_json::Value;
use support::process::Process;
use support::ring::{Server, starting};
use support::tokens;
use support::{
    Folder, MODEL, PATIENCE, WATCHDOG, command, command_in, lockstep, lockstep_in, real_model,
};

/// A server that joins from a home of its own, in memory for some twelve layers.
fn joining(home: &Path, ticket: &str, model: &[&str]) -> Process {
    let arguments = ["--join", ticket, "--bind", "127.0.0.1:0", "--threads", "1"];
    let end = ["--memory", "80", "--ephemeral", "--json", "--until-stdin-closes"];
    let all = [&["serve"][..], model, &arguments[..], &end[..]].concat();
    Process::spawn(command_in(home, &all))
}

fn is_ready(ticket: &str, count: usize) -> Option<Vec<Value>> {
    let seen = lockstep(&["status", ticket, "--json"]).expect_code(0).json();
    let nodes = seen["nodes"].as_array().expect("a list").clone();
    let is_so = nodes.len() == count && nodes.iter().all(|one| one["state"] == "ready");
    is_so.then_some(nodes)
}

fn wait_until_ready(ticket: &str, count: usize) -> Vec<Value> {
    let began = std::time::Instant::now();
    loop {
        if let Some(nodes) = is_ready(ticket, count) {
            return nodes;
        }
        assert!(began.elapsed() < WATCHDOG, "not {count} that are ready");
    }
}

fn blobs_in(home: &Path) -> BTreeSet<Digest> {
    let name = |entry: fs::DirEntry| entry.file_name().to_str().map(Digest::parse);
    let entries = fs::read_dir(home.join("blobs")).unwrap().flatten();
    entries.filter_map(name).map(|digest| digest.expect("named by its digest")).collect()
}

#[test]
fn a_server_without_the_model_gets_its_layers_from_the_swarm_and_answers_as_the_others_do() {
    let first = Server::ready(starting(0..20, &[]));
    let home = Folder::new("fetching");
    let second = Server::ready(joining(home.path(), &first.ticket, &[]));
    let seen = wait_until_ready(&first.ticket, 2);
    let number = |value: &Value| u32::try_from(value.as_u64().expect("a number")).unwrap();
    let (span_first, end) = (number(&seen[1]["first"]), number(&seen[1]["end"]));
    assert!((10..=20).contains(&span_first) && end == 30, "{seen:?}");
    // Just what it serves, the vocabulary and the tokenizer, and the manifest.
    let model = real_model();
    let manifest = &model.manifest;
    let texts = [manifest.vocabulary_blob, manifest.tokenizer_blob];
    let needed = span_blobs(manifest, span_first..end).into_iter().chain(texts);
    let needed = needed.map(|index| manifest.blobs[index as usize].digest);
    assert_eq!(blobs_in(home.path()), needed.chain([manifest.id()]).collect());
    assert_eq!(fs::read_dir(home.path().join("partial")).unwrap().count(), 0);
    // The tokens are those of one machine.
    let asked = ["--prompt", "Name a colour.", "-n", "8", "--json"];
    let chat = [&["chat", &first.ticket][..], &asked[..]].concat();
    let report = Process::spawn(command(&chat)).end(WATCHDOG).expect_code(0).json();
    assert_eq!((&report["servers"], &report["verdict"]), (&2.into(), &"verified".into()));
    let alone = lockstep(&[&["generate", MODEL][..], &asked[..]].concat()).expect_code(0).json();
    assert_eq!(tokens(&report), tokens(&alone));
    let listed = lockstep_in(home.path(), &["list", "--json"]).expect_code(0).json();
    assert_eq!(listed["models"][0]["name"], MODEL, "{listed}");
    let checks = lockstep_in(home.path(), &["doctor", "--json"]).json();
    let of_models = checks["checks"].as_array().expect("a list").iter();
    let of_models: Vec<_> = of_models.filter(|check| check["name"] == "models").collect();
    assert!(of_models.iter().all(|check| check["status"] == "ok"), "{of_models:?}");
    // What has come once is not fetched again.
    second.process.end(WATCHDOG);
    let again = Server::ready(joining(home.path(), &first.ticket, &[MODEL]));
    let told = again.process.stderr.text();
    assert!(!told.contains("Fetched"), "{told}");
    // Nobody takes a part for the whole model.
    let id = manifest.id().to_string();
    let whole = lockstep_in(home.path(), &["generate", &id, "--prompt", "Hi."]).expect_code(1);
    assert!(whole.stderr.contains("only a part of"), "{whole}");
}

#[test]
fn a_model_that_nobody_serves_is_named_and_a_dead_swarm_is_said() {
    let first = Server::ready(starting(0..20, &[]));
    let home = Folder::new("fetching-nothing");
    let refused = joining(home.path(), &first.ticket, &["no-such-model"]).end_by_itself(WATCHDOG);
    let refused = refused.expect_code(1);
    assert!(refused.stderr.contains("no server of the swarm serves"), "{refused}");
    assert!(refused.stderr.contains("no model \"no-such-model\""), "{refused}");
    let ticket = first.ticket.clone();
    first.process.end(WATCHDOG);
    let alone = joining(home.path(), &ticket, &[]).end_by_itself(WATCHDOG).expect_code(1);
    assert!(alone.stderr.contains("no server of the swarm answered"), "{alone}");
    assert!(blobs_in(home.path()).is_empty());
}

#[test]
fn a_server_that_shares_nothing_gives_nothing() {
    let first = Server::ready(starting(0..20, &["--uplink", "0"]));
    let home = Folder::new("fetching-refused");
    let refused = joining(home.path(), &first.ticket, &[]).end_by_itself(PATIENCE).expect_code(1);
    assert!(refused.stderr.contains("no server gives"), "{refused}");
}
