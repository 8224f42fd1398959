//! What a person trips over in the first hour: bare file names, flags that do nothing, values that
//! are found wrong too late, errors without JSON, receipts that fill the disk, names that are not
//! unique.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use support::process::{Ended, Process};
use support::ring::Server;
use support::{Folder, MODEL, PATIENCE, command_in, home, lockstep_in};

/// A home of its own with the model and the key of the shared one.
fn own_home(name: &str) -> Folder {
    let folder = Folder::new(name);
    for part in ["blobs", "keys"] {
        symlink(home().join(part), folder.path().join(part)).unwrap();
    }
    fs::create_dir(folder.path().join("models")).unwrap();
    named(&folder, MODEL);
    folder
}

/// Gives the model one more name.
fn named(folder: &Folder, name: &str) {
    let record = home().join(format!("models/{MODEL}.toml"));
    fs::copy(record, folder.path().join(format!("models/{name}.toml"))).unwrap();
}

/// Runs the program in a folder with its own home, and nothing to read.
fn run_in(folder: &Path, home: &Path, line: &str) -> Ended {
    let arguments: Vec<&str> = line.split(' ').collect();
    let mut command = command_in(home, &arguments);
    command.current_dir(folder);
    Process::spawn(command).end(PATIENCE)
}

#[test]
fn receipts_and_keys_go_into_files_of_bare_names() {
    let folder = own_home("bare");
    let run = |line: &str| run_in(folder.path(), folder.path(), line);
    let up = "up smollm2 --servers 1 -p hi -n 2 --json --receipt";
    for name in ["r2", "./r3", "sub/r4"] {
        let report = run(&format!("{up} {name}")).expect_code(0).json();
        assert_eq!((&report["verdict"], &report["receipt"]), (&"verified".into(), &name.into()));
        let later = run(&format!("verify {name} --json")).expect_code(0).json();
        assert_eq!(later["verdict"], "verified", "{name}");
    }
    run("key smollm2 -o k1").expect_code(0);
    let words = run("verify r2 --key k1").expect_code(0);
    assert!(words.stdout.starts_with("VERIFIED by this machine, with the key k1:"), "{words}");
    // The one that is there already is said.
    assert!(run("key smollm2").expect_code(0).stdout.contains(".key already"));
    // A folder is no file: refused before anything is asked.
    let ended = run(&format!("{up} sub")).expect_code(2);
    assert!(ended.stderr.contains("--receipt") && !ended.stderr.contains("ring:"), "{ended}");
}

#[test]
fn a_receipt_that_can_not_be_kept_costs_no_verdict_and_leaves_nothing() {
    let folder = own_home("unkept");
    // The receipts folder is a file: nothing can be kept there.
    fs::write(folder.path().join("receipts"), "no folder").unwrap();
    let ended = run_in(folder.path(), folder.path(), "up smollm2 --servers 1 -p hi -n 2 --json");
    let report = ended.expect_code(1).json();
    assert_eq!(report["verdict"], "verified", "{report}");
    assert_eq!(report["receipt"], Value::Null, "{report}");
    assert!(report["receipt_error"].as_str().unwrap().contains("receipts"), "{report}");
}

#[test]
fn receipts_stay_within_their_limit_and_can_be_listed_and_removed() {
    let folder = own_home("receipts");
    let run = |line: &str| run_in(folder.path(), folder.path(), line);
    fs::write(folder.path().join("config.toml"), "receipts_mib = 1\n").unwrap();
    let server = Server::ready(Process::spawn(command_in(
        folder.path(),
        &["serve", MODEL, "--ephemeral", "--json", "--until-stdin-closes"],
    )));
    let chat = format!("chat {} -n 2 --json -p", server.ticket);
    let kept = |line: &str| run(line).expect_code(0).json();
    let old = folder.path().join("receipts/000000000000.receipt");
    let mine = folder.path().join("receipts/mine.receipt");
    fs::create_dir(folder.path().join("receipts")).unwrap();
    fs::write(&mine, vec![0; 700 << 10]).unwrap();
    fs::write(&old, vec![0; 700 << 10]).unwrap();
    let ended = run(&format!("{chat} hi")).expect_code(0);
    assert!(ended.stderr.contains("1 of the oldest receipts are removed"), "{ended}");
    assert!(!old.exists() && mine.exists());
    let list = kept("receipts --json");
    assert_eq!(list["receipts"].as_array().unwrap().len(), 2, "{list}");
    let id = list["receipts"][0]["id"].as_str().unwrap();
    assert!(ended.json()["receipt"].as_str().unwrap().contains(id), "the newest first: {list}");
    assert_eq!(kept(&format!("verify {id} --json"))["verdict"], "verified");
    assert!(run("receipts").expect_code(0).stdout.contains("minutes ago"));
    run("receipts --rm nothing").expect_code(1);
    run(&format!("receipts --rm {id}")).expect_code(0);
    assert_eq!(kept("receipts --json")["receipts"][0]["id"], "mine");
    run("receipts --rm all").expect_code(0);
    assert!(!mine.exists());
}

#[test]
fn flags_that_would_do_nothing_are_refused() {
    let folder = own_home("silent");
    let tools = folder.file("tools.json");
    fs::write(&tools, "[{\"name\": \"weather\"}]").unwrap();
    for (line, words) in [
        ("run smollm2 hi --audit full", ["--audit", "--servers"]),
        ("run smollm2 hi --receipt r.x", ["--receipt", "lockstep up"]),
        ("run smollm2 hi --tools TOOLS", ["--tools", "does not read `tools`"]),
        ("generate -p hi --tools TOOLS", ["--tools", "does not read `tools`"]),
        ("run smollm2 hi --template-arg foo=true", ["--template-arg", "\"foo\""]),
        ("run smollm2 hi --raw --system S", ["--raw", "--system"]),
        ("quality --reference x --windows 2", ["--text", "required"]),
        ("quality --reference x --against y", ["--text", "required"]),
        ("bench --shape llama-3.2-1b --servers 2", ["--shape", "--servers"]),
        ("bench --rates-only --servers 2", ["--rates-only", "--servers"]),
    ] {
        let line = line.replace("TOOLS", &tools);
        let ended = run_in(folder.path(), folder.path(), &line).expect_code(2);
        for word in words {
            assert!(ended.stderr.contains(word), "{line}: no {word:?}: {ended}");
        }
        assert_eq!(ended.stdout, "", "{line}");
    }
    // What leaves things out on request says so.
    let page = folder.file("page.html");
    fs::write(&page, "<html>").unwrap();
    let line = format!("run smollm2 hi -n 1 --chat-template {page} --tools {tools}");
    let said = run_in(folder.path(), folder.path(), &line).expect_code(0).stderr;
    assert!(said.contains("reads no `messages`") && said.contains("reads no `tools`"), "{said}");
}

#[test]
fn what_is_wrong_with_a_value_is_said_before_anything_is_fetched() {
    let empty = Folder::new("empty-home");
    let page = empty.file("page.html");
    fs::write(&page, "<html>").unwrap();
    // No such model is anywhere: an error about it would come first if it were looked for.
    for (line, code, word) in [
        ("run none hi --top-p 2", 2, "top_p"),
        ("run none hi --temperature -1", 2, "temperature"),
        ("up none -p hi --min-p 3", 2, "min_p"),
        ("generate none -p hi --logit-bias 5", 2, "TOKEN_ID=BIAS"),
        ("generate none -p hi --logit-bias 5=1 --logit-bias 5=2", 2, "token 5 is given twice"),
        ("generate none -p hi --template-arg foo", 2, "NAME=VALUE"),
        ("generate none -p hi --tools PAGE", 1, "is not JSON"),
        ("generate none -p hi --tools gone", 1, "can't read gone"),
        ("generate none -p hi --prompt-file gone", 2, "cannot be used with"),
        ("run none hi --threads 0", 2, "--threads"),
        ("run none hi --seed -1", 2, "0 or more; without --seed"),
        ("run none hi --top-k -1", 2, "0 or more"),
        ("up none --servers -1 -p hi", 2, "1 or more"),
        ("up none -p hi --receipt .", 2, "--receipt"),
        ("serve none --layers 5", 2, "FIRST..END"),
        ("serve none --allow me", 2, "--allow"),
        ("serve none --bind 127.0.0.1", 2, "with a port, such as 0.0.0.0:4848"),
        ("serve none --bind ::1", 2, "with a port"),
        ("key none --out page.html", 1, "--force"),
    ] {
        let line = line.replace("PAGE", &page);
        let ended = run_in(empty.path(), empty.path(), &line).expect_code(code);
        assert!(ended.stderr.contains(word), "{line}: no {word:?}: {ended}");
        assert!(!ended.stderr.contains("no model"), "{line}: {ended}");
        assert!(!ended.stderr.contains("'-- -"), "a tip that makes it a prompt: {line}: {ended}");
    }
}

#[test]
fn errors_are_one_json_object_for_scripts() {
    let folder = own_home("json-errors");
    for (line, code, word) in [
        ("run smolm2 hi --json", 1, "did you mean smollm2?"),
        ("show SmolLM --json", 1, "did you mean smollm2?"),
        ("run smollm2 hi --top-p 2 --json", 2, "top_p"),
        ("verify nothing --json", 1, "can't read nothing"),
        ("up --no-such-flag --json", 2, "unexpected argument"),
        ("up smollm2 -p hi --servers 31 --json", 2, "1..=30"),
    ] {
        let ended = run_in(folder.path(), folder.path(), line).expect_code(code);
        let told = ended.json();
        assert!(told["error"].as_str().unwrap().contains(word), "{line}: {told}");
        assert_eq!(told["exit_code"], code, "{line}");
        assert_eq!(ended.stdout.lines().count(), 1, "{ended}");
        assert!(ended.stderr.contains(word), "{ended}");
    }
}

#[test]
fn a_prompt_without_room_is_the_same_error_wherever_it_is_answered() {
    let folder = own_home("long");
    let file = folder.file("long.txt");
    fs::write(&file, "word ".repeat(9000)).unwrap();
    for command in ["generate smollm2", "up smollm2 --servers 1"] {
        let line = format!("{command} --raw -n 1 --json -f {file}");
        let told = run_in(folder.path(), folder.path(), &line).expect_code(1).json();
        let error = told["error"].as_str().unwrap();
        assert!(error.starts_with("the prompt has ") && error.contains("8192"), "{line}: {error}");
    }
}

#[test]
fn a_drawn_seed_is_said_and_survives_every_reader_of_json() {
    let folder = own_home("seeds");
    let line = "generate -p Tell --raw -n 4 --temperature 1 --json";
    for _ in 0..3 {
        let ended = run_in(folder.path(), folder.path(), line).expect_code(0);
        let report = ended.json();
        let seed = report["seed"].as_u64().unwrap();
        assert!(seed < 1 << 53, "{seed}");
        assert!(ended.stderr.contains(&format!(", seed {seed}")), "{ended}");
        let again = run_in(folder.path(), folder.path(), &format!("{line} --seed {seed}"));
        assert_eq!(again.expect_code(0).json()["tokens"], report["tokens"]);
    }
}

#[test]
fn an_id_of_two_names_is_removed_by_neither() {
    let folder = own_home("two-names");
    named(&folder, "other");
    let run = |line: &str| run_in(folder.path(), folder.path(), line);
    let id = run("show other --json").expect_code(0).json()["id"].as_str().unwrap()[..8].to_owned();
    let ended = run(&format!("rm {id}")).expect_code(1);
    assert!(ended.stderr.contains("other, smollm2"), "{ended}");
    let said = run("rm other").expect_code(0).stdout;
    assert!(said.contains("stays under the name smollm2"), "{said}");
    let ended = run("rm smolm2").expect_code(1);
    assert!(ended.stderr.contains("did you mean smollm2?"), "{ended}");
}

#[test]
fn a_client_without_the_model_is_told_its_name_and_how_to_get_it() {
    let folder = own_home("serves");
    let serve = |name: &str| {
        let arguments = ["serve", name, "--ephemeral", "--json", "--until-stdin-closes"];
        Server::ready(Process::spawn(command_in(folder.path(), &arguments)))
    };
    named(&folder, "own-model");
    let empty = Folder::new("no-model");
    for (name, next) in [(MODEL, "`lockstep pull smollm2` gets it"), ("own-model", "import FILE")] {
        let server = serve(name);
        for more in ["", " --audit off"] {
            let line = format!("chat {} -p hi --json{more}", server.ticket);
            let ended = run_in(empty.path(), empty.path(), &line).expect_code(1);
            for word in [&format!("model {name}, package "), "tokenizer", "key", next] {
                assert!(ended.stderr.contains(word), "no {word:?}: {ended}");
            }
        }
        // Any mixture of tickets, separated in any way.
        let twice = format!("chat {0},{0} {0} -p hi -n 1 --json", server.ticket);
        run_in(folder.path(), folder.path(), &twice).expect_code(0);
    }
}

#[test]
fn the_node_id_of_a_home_is_told() {
    let folder = Folder::new("own-id");
    let id = lockstep_in(folder.path(), &["id"]).expect_code(0).stdout;
    let told = lockstep_in(folder.path(), &["id", "--json"]).expect_code(0).json();
    assert_eq!(id.trim(), told["node"].as_str().unwrap());
    assert_eq!(id.trim().len(), 64);
}
