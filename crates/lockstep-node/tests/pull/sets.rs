//! Models of several files: split GGUF files, and folders of safetensors files.

use std::collections::BTreeMap;
use std::fs;

use lockstep_import::limits::MAX_CONFIG_BYTES;
use lockstep_import::safetensors::FolderError;
use lockstep_import::source::{Checksum, GitBlob, HubError, HubRef};
use lockstep_node::pull::{Fetched, Progress, PullError};
use tokio::time::timeout;

use super::{Fixture, Reply, Request, StandIn, WATCHDOG, fixture, sha256};

const RESOLVE: &str = "/org/model/resolve/main/";
const PARTS: [&str; 2] = ["q8/m-00001-of-00002.gguf", "q8/m-00002-of-00002.gguf"];
const INDEX: &str = "model.safetensors.index.json";

/// A repository's files by path.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// Small files as git names them, weights by SHA-256, as the model host has it.
fn listing(files: &Files) -> String {
    let entries = files.iter().map(|(path, content)| {
        let git = GitBlob::of(content.as_slice(), content.len() as u64).expect("memory");
        let oid = Checksum::Git(git).digits();
        let stored = match path.ends_with(".gguf") || path.ends_with(".safetensors") {
            true => format!(r#","lfs":{{"oid":"{}"}}"#, sha256(content)),
            false => String::new(),
        };
        let len = content.len();
        format!(r#"{{"type":"file","path":"{path}","size":{len},"oid":"{oid}"{stored}}}"#)
    });
    format!("[{}]", entries.collect::<Vec<_>>().join(","))
}

/// A stand-in that has these files, and answers for one of them in another way.
fn repository(
    files: &Files,
    mut otherwise: impl FnMut(&str, &[u8], &Request) -> Option<Reply> + Send + 'static,
) -> StandIn {
    let (listing, files) = (listing(files), files.clone());
    StandIn::new(move |request| match request.path.strip_prefix(RESOLVE) {
        None => Reply::new("200 OK", listing.clone()),
        Some(path) => match files.get(path) {
            Some(content) => {
                otherwise(path, content, request).unwrap_or_else(|| Reply::file(content, request))
            }
            None => Reply::new("404 Not Found", ""),
        },
    })
}

fn as_listed(files: &Files) -> StandIn {
    repository(files, |_, _, _| None)
}

async fn pull(fixture: &Fixture, reference: &str) -> Result<Fetched, PullError> {
    let reference = HubRef::parse(reference).expect("a reference");
    let mut progress = |_| ();
    let pull = fixture.puller.hub_model(&reference, None, &mut progress);
    timeout(WATCHDOG, pull).await.expect("no hang")
}

fn content(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn split() -> Files {
    [(PARTS[0], content(1, 70_000)), (PARTS[1], content(2, 90_000))].into()
}

fn folder() -> Files {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    [
        ("README.md", b"---\nlicense: mit\n---\n".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{} ".to_vec()),
        ("generation_config.json", b"not read".to_vec()),
        (INDEX, index.into()),
        ("model-1.safetensors", content(3, 50_000)),
        ("model-2.safetensors", content(4, 60_000)),
    ]
    .into()
}

/// Paths of the files that were asked for, in order.
fn asked(server: &StandIn) -> Vec<String> {
    let heard = server.heard();
    heard.iter().filter_map(|r| r.path.strip_prefix(RESOLVE).map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_split_file_is_brought_whole_by_any_part_or_the_stem() {
    let files = split();
    for (index, name) in ["", ":q8/m", ":q8/m-00002-of-00002.gguf"].into_iter().enumerate() {
        let server = as_listed(&files);
        let fixture = fixture(&format!("set-split-{index}"), &server.url, |_| ());
        let reference = HubRef::parse(&format!("hf:org/model{name}")).expect("a reference");
        let mut seen = Vec::new();
        let mut progress = |now| seen.push(now);
        let pulled = fixture.puller.hub_model(&reference, None, &mut progress);
        let fetched = timeout(WATCHDOG, pulled).await.expect("no hang").expect("brought");
        assert_eq!(asked(&server), PARTS);
        assert_eq!(fetched.path.file_name().expect("a file"), "m-00001-of-00002.gguf");
        assert_eq!(fs::read(&fetched.path).expect("here"), files[PARTS[0]]);
        let second = fetched.path.with_file_name("m-00002-of-00002.gguf");
        assert_eq!(fs::read(second).expect("here"), files[PARTS[1]]);
        assert_eq!(fetched.origin, "hf:org/model:q8/m-00001-of-00002.gguf");
        assert_eq!((fetched.bytes, fetched.checksums.len()), (160_000, 2));
        // One measure for both.
        assert!(seen.contains(&Progress::Bytes { done: 70_000, total: 160_000 }));
        assert_eq!(seen.last(), Some(&Progress::Checking { done: 160_000, total: 160_000 }));
        fetched.discard().expect("removed");
        assert_eq!(fixture.files(), 0);
    }
}

#[tokio::test]
async fn a_part_that_is_not_listed_is_named() {
    let mut files = split();
    files.remove(PARTS[1]);
    let server = as_listed(&files);
    let fixture = fixture("set-missing", &server.url, |_| ());
    let error = pull(&fixture, "hf:org/model").await.expect_err("not whole");
    let PullError::Hub(HubError::PartMissing { file }) = error else { panic!("{error}") };
    assert_eq!(file, PARTS[1]);
    assert!(asked(&server).is_empty(), "nothing is brought in vain");
}

#[tokio::test]
async fn a_folder_is_brought_with_what_describes_it_and_what_its_index_lists() {
    let files = folder();
    let server = as_listed(&files);
    let fixture = fixture("set-folder", &server.url, |_| ());
    let fetched = pull(&fixture, "hf:org/model").await.expect("brought");
    assert_eq!(fetched.path.file_name().expect("a name"), "model");
    let mut here: Vec<String> = fs::read_dir(&fetched.path)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    here.sort();
    let expected: Vec<&str> = files.keys().copied().collect();
    assert_eq!(here, expected, "with generation_config.json, which names tokens that end answers");
    for name in expected {
        assert_eq!(fs::read(fetched.path.join(name)).expect("here"), files[name], "{name}");
    }
    assert_eq!((fetched.origin.as_str(), fetched.checksums.len()), ("hf:org/model", 7));
    fetched.discard().expect("removed");
    assert_eq!(fixture.files(), 0);
}

#[tokio::test]
async fn a_model_card_that_is_too_long_to_be_read_is_left_out() {
    let mut files = folder();
    files.insert("README.md", vec![b'x'; MAX_CONFIG_BYTES + 1]);
    let server = as_listed(&files);
    let fixture = fixture("set-card", &server.url, |_| ());
    let fetched = pull(&fixture, "hf:org/model").await.expect("brought");
    assert!(!fetched.path.join("README.md").exists());
    assert_eq!(fetched.checksums.len(), 6);
    assert!(!asked(&server).contains(&"README.md".to_owned()));
}

#[tokio::test]
async fn one_file_of_weights_needs_no_index_and_a_folder_can_be_asked_for() {
    let mut files = folder();
    files.remove(INDEX);
    files.insert("model.safetensors", content(5, 10_000));
    files.insert("model-Q8_0.gguf", content(6, 1000));
    let server = as_listed(&files);
    let fixture = fixture("set-one", &server.url, |_| ());
    let fetched = pull(&fixture, "hf:org/model:safetensors").await.expect("brought");
    assert_eq!(asked(&server).last().expect("asked"), "model.safetensors");
    fetched.discard().expect("removed");
    let fetched = pull(&fixture, "hf:org/model").await.expect("brought");
    assert_eq!(fetched.origin, "hf:org/model:model-Q8_0.gguf");
}

#[tokio::test]
async fn a_pull_that_ended_early_goes_on_with_the_files_that_are_missing() {
    let files = folder();
    let mut refused = true;
    let server = repository(&files, move |path, content, request| match path {
        "model-2.safetensors" if refused => {
            refused = false;
            Some(Reply::new("403 Forbidden", ""))
        }
        "model-1.safetensors" => {
            let reply = Reply::file(content, request);
            let rest = reply.body.len();
            Some(reply.cut(rest.min(30_000)))
        }
        _ => None,
    });
    let fixture = fixture("set-resume", &server.url, |_| ());
    let error = pull(&fixture, "hf:org/model").await.expect_err("refused");
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    let before = asked(&server).len();
    let fetched = pull(&fixture, "hf:org/model").await.expect("brought");
    assert_eq!(asked(&server)[before..], ["model-2.safetensors"]);
    let weights = fs::read(fetched.path.join("model-1.safetensors")).expect("here");
    assert_eq!(weights, files["model-1.safetensors"]);
}

#[tokio::test]
async fn an_index_that_names_a_file_outside_the_folder_is_refused() {
    for outside in ["../up.safetensors", "/etc/up.safetensors", "sub/up.safetensors"] {
        let mut files = folder();
        files.insert(INDEX, format!(r#"{{"weight_map":{{"a":"{outside}"}}}}"#).into());
        let server = as_listed(&files);
        let fixture = fixture("set-outside", &server.url, |_| ());
        let error = pull(&fixture, "hf:org/model").await.expect_err("refused");
        let PullError::Index(FolderError::FileName { name }) = error else { panic!("{error}") };
        assert_eq!(name, outside);
        assert!(asked(&server).iter().all(|path| !path.ends_with(".safetensors")));
    }
}

#[tokio::test]
async fn a_file_of_weights_that_is_not_listed_is_named() {
    for (removed, missing) in [
        ("model-2.safetensors", "model-2.safetensors"),
        (INDEX, "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
    ] {
        let mut files = folder();
        files.remove(removed);
        let server = as_listed(&files);
        let fixture = fixture("set-weights", &server.url, |_| ());
        let error = pull(&fixture, "hf:org/model").await.expect_err("not whole");
        let PullError::Hub(HubError::PartMissing { file }) = error else { panic!("{error}") };
        assert_eq!(file, missing);
    }
}

#[tokio::test]
async fn a_describing_file_that_was_changed_or_cut_is_refused() {
    for (name, change) in [
        ("set-changed", (|content| [content, b"!"].concat()[1..].to_vec()) as fn(&[u8]) -> Vec<u8>),
        ("set-shorter", |content| content[1..].to_vec()),
    ] {
        let server = repository(&folder(), move |path, content, _| {
            (path == "config.json").then(|| Reply::new("200 OK", change(content)))
        });
        let fixture = fixture(name, &server.url, |_| ());
        let error = pull(&fixture, "hf:org/model").await.expect_err("another file");
        let as_expected = match (name, &error) {
            ("set-changed", PullError::Digest { got, .. }) => matches!(got, Checksum::Git(_)),
            ("set-shorter", PullError::Length { expected, got, .. }) => (*expected, *got) == (2, 1),
            _ => false,
        };
        assert!(as_expected, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_file_of_weights_that_is_cut_again_and_again_or_wrong_is_refused() {
    let server = repository(&folder(), |path, content, request| {
        (path == "model-2.safetensors").then(|| {
            let rest = content.len() - request.from.unwrap_or(0);
            Reply::file(content, request).cut(if request.from.is_some() { 0 } else { rest / 2 })
        })
    });
    let cut = fixture("set-cut", &server.url, |_| ());
    let error = pull(&cut, "hf:org/model").await.expect_err("never whole");
    assert!(matches!(error, PullError::Network { .. } | PullError::BrokenOff { .. }), "{error}");
    let server = repository(&folder(), |path, content, _| {
        (path == "model-2.safetensors").then(|| Reply::new("200 OK", vec![0; content.len()]))
    });
    let wrong = fixture("set-wrong", &server.url, |_| ());
    let error = pull(&wrong, "hf:org/model").await.expect_err("other weights");
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn a_repository_without_a_model_or_with_several_says_what_it_has() {
    let files: Files = [("README.md", b"x".to_vec()), ("data.csv", b"y".to_vec())].into();
    let server = as_listed(&files);
    let none = fixture("set-none", &server.url, |_| ());
    let error = pull(&none, "hf:org/model").await.expect_err("no model").to_string();
    assert!(error.contains("no model") && error.contains("README.md, data.csv"), "{error}");
    let files: Files = [("a-Q8_0.gguf", content(1, 10)), ("a-F16.gguf", content(2, 10))].into();
    let server = as_listed(&files);
    let several = fixture("set-several", &server.url, |_| ());
    let error = pull(&several, "hf:org/model").await.expect_err("several").to_string();
    assert!(error.contains("hf:org/model:NAME: a-F16.gguf, a-Q8_0.gguf"), "{error}");
    pull(&several, "hf:org/model:a-F16").await.expect("named");
}

#[tokio::test]
async fn room_is_made_sure_of_for_all_files_before_the_weights_are_asked_for() {
    let files = split();
    let server = as_listed(&files);
    let long = fixture("set-long", &server.url, |options| options.longest = 100_000);
    let error = pull(&long, "hf:org/model").await.expect_err("too long together");
    assert!(matches!(error, PullError::TooLong { bytes: 160_000, .. }), "{error}");
    let full = fixture("set-full", &server.url, |options| options.disk_reserve = u64::MAX);
    let error = pull(&full, "hf:org/model").await.expect_err("no room");
    assert!(matches!(error, PullError::DiskFull(_)), "{error}");
    assert!(asked(&server).is_empty());
}

#[tokio::test]
async fn two_processes_do_not_write_one_model() {
    let server = as_listed(&split());
    let fixture = fixture("set-busy", &server.url, |_| ());
    let held = pull(&fixture, "hf:org/model").await.expect("brought");
    let error = pull(&fixture, "hf:org/model").await.expect_err("held");
    assert!(matches!(error, PullError::Busy { .. }), "{error}");
    drop(held);
    pull(&fixture, "hf:org/model").await.expect("still here");
    assert_eq!(asked(&server).len(), 2, "not downloaded twice");
}
