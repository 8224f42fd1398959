//! The command line's contract: exit codes, JSON, files, help, errors, logs, and several clients.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_node::transport::Identity;
use lockstep_verify::bundle::Bundle;
use serde_json::Value;

use support::process::{Process, Signal};
use support::ring::{Ring, Server, THREE, starting};
use support::{
    Folder, MODEL, PATIENCE, WATCHDOG, command, command_in, home, lockstep, lockstep_in, tokens,
};

const PROMPT: &str = "What is the capital of France?";

/// Three servers for all tests of this file. They end with the process: their input closes.
fn ring() -> &'static Ring {
    static RING: OnceLock<Ring> = OnceLock::new();
    RING.get_or_init(|| Ring::start(&THREE, &[]))
}

/// The file of a verified bundle in the shared home.
fn receipt() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let answer = ring().chat(PROMPT, &["-n", "6"]).end(PATIENCE).expect_code(0).json();
        PathBuf::from(answer["receipt"].as_str().unwrap())
    })
}

fn bundle() -> Bundle {
    Bundle::from_bytes(&fs::read(receipt()).unwrap()).unwrap()
}

fn verify_in(home: &Path, file: &str) -> support::process::Ended {
    lockstep_in(home, &["verify", file, "--json"])
}

fn has_keys(report: &Value, keys: &[&str]) {
    for key in keys {
        assert!(report.get(key).is_some(), "no {key:?}: {report}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn up_gives_one_json_object_and_streams_the_answer_to_standard_error() {
    let arguments = ["up", MODEL, "--servers", "3", "--prompt", PROMPT];
    let ended = lockstep(&[&arguments[..], &["--max-tokens", "8", "--json"]].concat());
    let ended = ended.expect_code(0);
    let report = ended.json();
    has_keys(
        &report,
        &[
            "text",
            "tokens",
            "finish_reason",
            "servers",
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
            "verdict",
            "coverage",
            "receipt",
        ],
    );
    has_keys(&report["coverage"], &["cells_checked", "cells_total", "error_bound_log2", "detects"]);
    assert_eq!(report["verdict"], "verified");
    assert_eq!(report["servers"], 3);
    assert!(report["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    let text = report["text"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text:?}");
    assert!(ended.stderr.contains(text), "{ended}");
    assert_eq!(ended.stdout.lines().count(), 1, "{ended}");
}

#[test]
fn switched_off_audits_are_not_checked() {
    let more = ["-n", "3", "--audit", "off"];
    let ended = ring().chat(PROMPT, &more).end(PATIENCE).expect_code(0);
    assert_eq!(ended.json()["verdict"], "not checked");
    let file = ended.json()["receipt"].as_str().unwrap().to_owned();
    // Without openings there is nothing to check later, either.
    let later = verify_in(home(), &file).expect_code(4).json();
    assert_eq!(later["verdict"], "not checked", "{later}");
}

#[test]
fn a_full_audit_checks_every_cell() {
    let more = ["-n", "2", "--audit", "full"];
    let report = ring().chat("Hi.", &more).end(PATIENCE).expect_code(0).json();
    let coverage = &report["coverage"];
    assert_eq!(coverage["cells_checked"], coverage["cells_total"], "{report}");
    assert_eq!(coverage["head_checked"], coverage["head_total"], "{report}");
    assert_eq!(report["verdict"], "verified");
}

#[test]
fn verify_needs_the_key_and_neither_weights_nor_servers() {
    let folder = Folder::new("key-only");
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    for entry in fs::read_dir(home().join("keys")).unwrap().flatten() {
        fs::copy(entry.path(), keys.join(entry.file_name())).unwrap();
    }
    let file = folder.file("moved.receipt");
    fs::copy(receipt(), &file).unwrap();
    let report = verify_in(folder.path(), &file).expect_code(0).json();
    has_keys(&report, &["verdict", "coverage"]);
    assert_eq!(report["verdict"], "verified");
    let words = lockstep_in(folder.path(), &["verify", &file]).expect_code(0);
    assert!(words.stdout.starts_with("VERIFIED"), "{words}");
}

#[test]
fn verify_without_a_key_is_not_checked() {
    let file = receipt().to_str().unwrap();
    let nothing = Folder::new("nothing");
    let report = verify_in(nothing.path(), file).expect_code(4).json();
    assert_eq!(report["verdict"], "not checked");
    assert!(report["reason"].as_str().unwrap().contains("lockstep key"), "{report}");

    let weights = Folder::new("weights-only");
    for part in ["blobs", "models"] {
        symlink(home().join(part), weights.path().join(part)).unwrap();
    }
    let report = verify_in(weights.path(), file).expect_code(4).json();
    assert_eq!(report["verdict"], "not checked");
    assert!(report["reason"].as_str().unwrap().contains("without a key"), "{report}");

    // What can be seen without a key is seen.
    let mut forged = bundle();
    forged.receipt.answer[0] ^= 1;
    let forged_file = weights.file("forged.receipt");
    fs::write(&forged_file, forged.to_bytes()).unwrap();
    let report = verify_in(weights.path(), &forged_file).expect_code(3).json();
    assert_eq!(report["verdict"], "failed");
}

#[test]
fn a_changed_byte_fails_with_stage_cell_and_reason() {
    let folder = Folder::new("tampered");
    let verify = |name: &str, bundle: &Bundle| {
        let file = folder.file(name);
        fs::write(&file, bundle.to_bytes()).unwrap();
        let ended = verify_in(home(), &file).expect_code(3);
        let report = ended.json();
        has_keys(&report, &["verdict", "coverage", "stage", "cell", "reason"]);
        assert_eq!(report["verdict"], "failed");
        let words = lockstep(&["verify", &file]).expect_code(3);
        assert!(words.stdout.starts_with("FAILED"), "{words}");
        report
    };
    let mut answer = bundle();
    answer.receipt.answer[0] ^= 1;
    verify("answer", &answer);
    let mut prompt = bundle();
    prompt.receipt.request.prompt[0] ^= 1;
    verify("prompt", &prompt);
    let mut root = bundle();
    root.receipt.segments[1].layers[2].kv.0[5] ^= 1;
    verify("root", &root);
    let mut opening = bundle();
    let body = &mut opening.exchanges[3].opening.body;
    let middle = body.len() / 2;
    body[middle] ^= 1;
    verify("opening", &opening);
}

#[test]
fn no_changed_byte_of_a_receipt_file_is_verified() {
    let folder = Folder::new("flipped");
    let whole = fs::read(receipt()).unwrap();
    let file = folder.file("flipped.receipt");
    for part in 0..12 {
        let mut bytes = whole.clone();
        let at = (part * 2 + 1) * whole.len() / 24;
        bytes[at] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        let ended = verify_in(home(), &file);
        assert!(matches!(ended.code, Some(1 | 3 | 4)), "byte {at}: {ended}");
    }
    let of_cut = |len: usize| {
        fs::write(&file, &whole[..len]).unwrap();
        verify_in(home(), &file)
    };
    for len in [0, 1, 9, 13, 40] {
        let ended = of_cut(len).expect_code(1);
        assert!(ended.stderr.contains("is not a receipt bundle"), "{len}: {ended}");
    }
    for len in [whole.len() / 2, whole.len() - 1] {
        let ended = of_cut(len).expect_code(1);
        let said = ended.stderr.split_once("is damaged: the exchange at byte ");
        let (at, said) = said.and_then(|(_, said)| said.split_once(" is cut off")).unwrap();
        assert!(said.contains("what is before it is a bundle"), "{len}: {ended}");
        // What was written before: right as far as it goes.
        let report = of_cut(at.parse().unwrap()).expect_code(4).json();
        assert_eq!(report["verdict"], "not checked", "{report}");
    }
}

#[test]
fn keys_and_receipts_are_for_their_owner_alone() {
    let folder = Folder::new("modes");
    let file = folder.file("own.receipt");
    let more = ["-n", "2", "--audit", "off", "--receipt", &file];
    ring().chat(PROMPT, &more).end(PATIENCE).expect_code(0);
    assert_eq!(mode(Path::new(&file)), 0o600);
    assert_eq!(mode(receipt()), 0o600);
    let key = folder.file("own.key");
    lockstep(&["key", MODEL, "--out", &key]).expect_code(0);
    assert_eq!(mode(Path::new(&key)), 0o600);
    for entry in fs::read_dir(home().join("keys")).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
    }
    // A server that keeps its identity.
    let arguments = ["serve", MODEL, "--layers", "29..30", "--json", "--until-stdin-closes"];
    let server = Server::ready(Process::spawn(command(&arguments)));
    assert_eq!(mode(&home().join("node.key")), 0o600);
    drop(server);
    assert_eq!(mode(home()), 0o700);
}

#[cfg(unix)]
#[test]
fn a_key_to_which_others_have_a_right_is_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    let chmod = |path: &str, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let home = Folder::new("exposed");
    let key = home.file("verifier.key");
    lockstep(&["key", MODEL, "--out", &key]).expect_code(0);
    let receipt = receipt().to_str().unwrap();
    let verify = || lockstep_in(home.path(), &["verify", receipt, "--key", &key]);
    verify().expect_code(0);
    let own = home.file("own.key");
    fs::write(&own, [7; 32]).unwrap();
    chmod(&own, 0o600);
    for path in [&key, &own] {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o666] {
            chmod(path, mode);
            let ended = verify().expect_code(1);
            let advice = format!("chmod 600 {path}");
            assert!(ended.stderr.contains(&advice), "{mode:o}: {ended}");
        }
        let ended = lockstep_in(home.path(), &["doctor"]);
        let is_told = ended.stdout.contains(&format!("{path} can be read by others"));
        assert_eq!(is_told, path == &own, "only what is in the home's places: {ended}");
        chmod(path, 0o600);
        verify().expect_code(0);
    }
}

#[test]
fn wrong_arguments_and_files_are_named_with_what_was_expected() {
    let folder = Folder::new("wrong");
    let text = folder.file("text.gguf");
    fs::write(&text, "this is no model").unwrap();
    let missing = folder.file("missing");
    let out = folder.file("a.key");
    fs::write(&out, "a key").unwrap();
    let ticket = ring().servers[0].ticket.clone();
    let (whole, last) = ticket.split_at(ticket.len() - 1);
    let damaged = format!("{whole}{}", if last == "b" { "a" } else { "b" });
    let chat = |ticket: &str| vec!["chat".to_owned(), ticket.to_owned()];
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let table: Vec<(Vec<String>, i32, &[&str])> = vec![
        (words("no-such-command"), 2, &["unrecognized subcommand"]),
        (words("up --no-such-flag"), 2, &["unexpected argument"]),
        (words("up --servers 0 -p hi"), 2, &["--servers", "1 or more", "0"]),
        (words("up --servers 31 -p hi"), 2, &["--servers", "1..=30", "31"]),
        (words("up --servers many"), 2, &["--servers", "a whole number"]),
        (words("up --audit some"), 2, &["--audit", "sampled", "full", "off"]),
        (words("up no-such-model -p hi"), 1, &["no-such-model", "lockstep list", "smollm2"]),
        (words("generate"), 2, &["--prompt"]),
        (words("generate -p hi -n 0"), 2, &["--max-tokens", "at least 1"]),
        (words("generate -p hi --temperature -1"), 2, &["temperature"]),
        (words("generate -p hi --top-p 2"), 2, &["top_p"]),
        (words("generate -p hi --logit-bias 5"), 2, &["--logit-bias", "TOKEN_ID=BIAS"]),
        (words("generate -p hi --logit-bias 99999999=1"), 2, &["no token 99999999", "49152"]),
        (words("serve --layers 5"), 2, &["--layers", "FIRST..END", "5"]),
        (words("serve --layers 7..7"), 2, &["--layers", "FIRST..END", "7..7"]),
        (words("serve --layers 20..31"), 2, &["--layers", "0..30", "20..31"]),
        (words("serve --allow me"), 2, &["--allow", "64 lower-case hexadecimal digits"]),
        (words("serve --bind here"), 2, &["--bind", "socket address"]),
        (words("serve --bind 192.0.2.1:1"), 1, &["192.0.2.1:1"]),
        (words("chat"), 2, &["TICKET"]),
        (chat("hello"), 2, &["ticket", "lockstep1", "lockstep run"]),
        (chat(&damaged), 2, &["ticket", "copy it again"]),
        (chat(&ticket[..40]), 2, &["ticket", "copy it again"]),
        (words("import"), 2, &["<PATH>"]),
        (vec!["import".into(), missing.clone()], 1, &["missing", "No such file"]),
        (vec!["import".into(), text.clone()], 1, &["text.gguf", "GGUF"]),
        (vec!["verify".into(), missing], 1, &["missing", "No such file"]),
        (vec!["verify".into(), text], 1, &["text.gguf", "LOCKRCPT"]),
        (words("key no-such-model"), 1, &["no-such-model"]),
        (vec!["key".into(), MODEL.into(), "--out".into(), out], 1, &["a.key", "--force"]),
        (words("show no-such-model"), 1, &["no-such-model", "lockstep list"]),
        (words("rm no-such-model"), 1, &["no-such-model", "lockstep list"]),
    ];
    for (arguments, code, expected) in table {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ended = lockstep(&arguments).expect_code(code);
        for word in expected {
            assert!(ended.stderr.contains(word), "{arguments:?}: no {word:?}: {ended}");
        }
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[test]
fn wrong_keys_and_settings_are_named() {
    let folder = Folder::new("settings");
    let key = folder.file("broken.key");
    let real = fs::read_dir(home().join("keys")).unwrap().flatten().next().unwrap().path();
    let mut bytes = fs::read(real).unwrap();
    bytes.truncate(1000);
    fs::write(&key, bytes).unwrap();
    let file = receipt().to_str().unwrap();
    let ended = lockstep(&["verify", file, "--key", &key]).expect_code(1);
    assert!(ended.stderr.contains("broken.key"), "{ended}");
    let ended = lockstep(&["verify", file, "--key", &folder.file("none")]).expect_code(1);
    assert!(ended.stderr.contains("no key at"), "{ended}");

    fs::write(folder.path().join("config.toml"), "threads = 2\nthraeds = 3\n").unwrap();
    let ended = lockstep_in(folder.path(), &["list"]).expect_code(1);
    assert!(ended.stderr.contains("line 2") && ended.stderr.contains("thraeds"), "{ended}");
    fs::remove_file(folder.path().join("config.toml")).unwrap();
    let mut command = command_in(folder.path(), &["list"]);
    command.env("LOCKSTEP_RETENTION_S", "long");
    let ended = Process::spawn(command).end(PATIENCE).expect_code(1);
    assert!(ended.stderr.contains("LOCKSTEP_RETENTION_S=long"), "{ended}");
}

const COMMANDS: [&str; 19] = [
    "up",
    "run",
    "serve",
    "chat",
    "generate",
    "import",
    "pull",
    "list",
    "show",
    "rm",
    "key",
    "verify",
    "receipts",
    "id",
    "nodes",
    "bench",
    "quality",
    "doctor",
    "completions",
];

#[test]
fn every_command_has_help_and_every_flag_an_environment_twin() {
    let all = lockstep(&["--help"]).expect_code(0).stdout;
    for name in COMMANDS {
        assert!(all.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {all}");
        let help = lockstep(&[name, "--help"]).expect_code(0).stdout;
        assert!(help.contains("Usage: lockstep"), "{help}");
        let flags = help.split("\n  -").flat_map(|part| part.split("\n      -")).skip(1);
        for flag in flags.filter(|flag| !flag.contains("-help") && !flag.contains("-version")) {
            assert!(flag.contains("[env: LOCKSTEP_"), "{name}: -{flag}");
        }
    }
}

#[test]
fn logs_never_hold_prompts_or_answers() {
    let everything = "debug,lockstep=trace,lockstep_node=trace";
    let start = |span: &std::ops::Range<u32>| {
        let layers = format!("{}..{}", span.start, span.end);
        let arguments = ["serve", MODEL, "--layers", &layers, "--threads", "1", "--ephemeral"];
        let more = ["--json", "--until-stdin-closes"];
        let mut command = command(&[&arguments[..], &more].concat());
        command.env("LOCKSTEP_LOG_LEVEL", everything);
        // Both formats, in one ring.
        command.env("LOCKSTEP_LOG", if span.start == 0 { "text" } else { "json" });
        Process::spawn(command)
    };
    let starting: Vec<Process> = THREE.iter().map(start).collect();
    let ring = Ring { servers: starting.into_iter().map(Server::ready).collect() };
    let prompt = "Repeat the words zanzibar and marzipan, please.";
    let system = "You like gooseberries.";
    let more = ["--system", system, "-n", "12", "-vv"];
    let client = ring.chat(prompt, &more).end(PATIENCE).expect_code(0);
    let report = client.json();
    let bundle = Bundle::from_bytes(&fs::read(report["receipt"].as_str().unwrap()).unwrap());
    let prompt_tokens = bundle.unwrap().receipt.request.prompt;
    let text = report["text"].as_str().unwrap();
    let answer = text.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    assert!(answer.len() > 5, "{answer:?}");
    let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let secrets = [
        "zanzibar".to_owned(),
        "marzipan".to_owned(),
        "gooseberries".to_owned(),
        list(&prompt_tokens[2..5]),
        list(&tokens(&report)[..3]),
    ];
    for (place, server) in ring.servers.into_iter().enumerate() {
        let log = server.process.end(WATCHDOG).stderr;
        assert!(log.contains("session opened"), "the log has been read: {log}");
        assert!(log.contains("session finished"), "{log}");
        let objects = log.lines().filter(|line| line.starts_with('{'));
        let is_event = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            let is_own = event["target"].as_str().is_some_and(|from| from.starts_with("lockstep"));
            ["timestamp", "level", "target"].iter().all(|key| event[key].is_string())
                && (event["message"].is_string() || !is_own)
        };
        assert_eq!(objects.clone().count() > 1, place > 0, "{log}");
        assert!(objects.clone().all(is_event), "{log}");
        assert!(log.contains("DEBUG"), "the setting goes before the default: {log}");
        for secret in secrets.iter().chain([&answer]) {
            assert!(!log.contains(secret.as_str()), "{secret:?} in {log}");
        }
    }
    // The client's own log, beside the streamed answer.
    let own = client.stderr.replace(text, "");
    for secret in [prompt, system, &secrets[3]] {
        assert!(!own.contains(secret), "{secret:?} in {own}");
    }
}

#[test]
fn a_server_refuses_who_is_not_on_its_allow_list_and_serves_who_is() {
    let folder = Folder::new("allowed");
    for part in ["blobs", "models", "keys"] {
        symlink(home().join(part), folder.path().join(part)).unwrap();
    }
    let other = Identity::from_secret(&[7; 32]).id().to_string();
    let ask = |server: &Server, more: &[&str]| {
        let arguments = ["chat", &server.ticket, "--prompt", "Hi.", "-n", "2", "--json"];
        lockstep_in(folder.path(), &[&arguments[..], more].concat())
    };
    let closed = Server::ready(starting(0..30, &["--allow", &other]));
    let refused = ask(&closed, &[]).expect_code(1);
    assert!(refused.stderr.contains("not on its allow-list"), "{refused}");
    assert!(refused.stderr.contains("--as-node"), "the next step: {refused}");
    let refused = ask(&closed, &["--as-node"]).expect_code(1);
    let own = Identity::load_or_create(&folder.path().join("node.key")).unwrap().id().to_string();
    assert!(refused.stderr.contains(&own), "what to allow: {refused}");

    let open = Server::ready(starting(0..30, &["--allow", &format!("{other},{own}")]));
    let report = ask(&open, &["--as-node"]).expect_code(0).json();
    assert_eq!(report["verdict"], "verified");
    ask(&open, &[]).expect_code(1);
}

#[test]
fn four_clients_at_once_are_answered_as_each_alone_and_verified() {
    let prompts = [PROMPT, "Count to five.", "Name a colour.", "Why is the sky blue?"];
    let ask = |prompt: &&str| ring().chat(prompt, &["-n", "8"]);
    let finish = |client: Process| client.end(PATIENCE).expect_code(0).json();
    let alone: Vec<Vec<u32>> = prompts.iter().map(|prompt| tokens(&finish(ask(prompt)))).collect();
    let clients: Vec<Process> = prompts.iter().map(ask).collect();
    for (client, alone) in clients.into_iter().zip(alone) {
        let report = finish(client);
        assert_eq!(tokens(&report), alone);
        assert_eq!(report["verdict"], "verified");
    }
}

#[test]
fn an_interrupted_client_frees_the_servers() {
    let ring = Ring::start(&THREE, &["-v"]);
    let story = "Write a long story about a lighthouse keeper and the sea.";
    let client = ring.chat(story, &["-n", "1000"]);
    let streamed = |text: &str| {
        let (_, rest) = text.split_once("ring: ")?;
        let (_, answer) = rest.split_once('\n')?;
        (answer.len() > 40).then_some(())
    };
    client.wait_stderr(PATIENCE, "tokens", streamed);
    assert!(ring.servers.iter().all(|server| server.status().unwrap().sessions == 1));
    client.signal(Signal::Interrupt);
    let ended = client.end(WATCHDOG).expect_code(1);
    assert!(ended.stderr.contains("cancelled"), "{ended}");
    assert_eq!(ended.json()["exit_code"], 1, "{ended}");
    ring.wait_idle(WATCHDOG);
}

#[test]
fn an_interrupted_audit_keeps_the_receipt_and_is_not_checked() {
    let prompt = "The wind came from the west that day, and nobody wondered. ".repeat(30);
    let client = ring().chat(&prompt, &["-n", "4", "--audit", "full"]);
    // Thousands of cells are about to be opened.
    client.wait_stderr(PATIENCE, "the answer's end", |text| {
        text.contains(" over 3 servers, ").then_some(())
    });
    client.signal(Signal::Interrupt);
    let report = client.end_by_itself(WATCHDOG).expect_code(4).json();
    assert_eq!(report["verdict"], "not checked");
    assert_eq!(report["reason"], "the audit was interrupted");
    assert_eq!(tokens(&report).len(), 4);
    let file = report["receipt"].as_str().unwrap();
    let kept = Bundle::from_bytes(&fs::read(file).unwrap()).unwrap();
    assert_eq!(kept.receipt.answer, tokens(&report));
    assert_eq!(mode(Path::new(file)), 0o600);
    let later = verify_in(home(), file).expect_code(4).json();
    assert_eq!(later["verdict"], "not checked", "{later}");
}

#[test]
fn models_of_another_version_are_named_and_can_be_removed() {
    let home = Folder::new("other-version");
    let run = |arguments: &[&str]| lockstep_in(home.path(), arguments);
    run(&["list"]).expect_code(0);
    let manifest = b"a manifest of days to come";
    let digest = Digest::of(manifest);
    fs::write(home.path().join(format!("blobs/{digest}")), manifest).unwrap();
    for name in ["one", "two"] {
        let record =
            format!("manifest = \"{digest}\"\nmanifest_bytes = {}\nsource = \"\"", manifest.len());
        fs::write(home.path().join(format!("models/{name}.toml")), record).unwrap();
    }
    let said = run(&["list"]).expect_code(0).stderr;
    assert!(said.contains("one: manifest") && said.contains("lockstep rm"), "{said}");
    let said = run(&["show", "one"]).expect_code(1).stderr;
    assert!(said.contains("another version") && said.contains("lockstep rm"), "{said}");
    run(&["rm", "one"]).expect_code(0);
    run(&["rm", "two"]).expect_code(0);
    assert!(run(&["list"]).expect_code(0).stdout.contains("No models yet"));
}

#[test]
fn a_chat_remembers_and_ends_when_it_is_interrupted() {
    let tickets = ring().tickets();
    let mut client = Process::spawn(command(&["chat", &tickets, "-n", "8", "--json"]));
    let answers = |count: usize| {
        move |text: &str| (text.matches("◈ verified").count() == count).then_some(())
    };
    client.write_stdin("My name is Ada.\n");
    client.wait_stderr(PATIENCE, "an answer", answers(1));
    client.write_stdin("What is my name?\n");
    client.wait_stderr(PATIENCE, "a second answer", answers(2));
    client.signal(Signal::Interrupt);
    let report = client.end_by_itself(WATCHDOG).expect_code(0).json();
    assert_eq!(report["verdict"], "verified");
    let file = report["receipt"].as_str().unwrap();
    let prompt = Bundle::from_bytes(&fs::read(file).unwrap()).unwrap().receipt.request.prompt;
    assert!(prompt.len() > bundle().receipt.request.prompt.len() + 15, "both questions are in it");
}
