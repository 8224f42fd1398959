//! Memory: what imports really take, and what is refused before it is begun.

mod support;

use std::fs;
use std::process::Command;

use support::process::{Ended, Process};
use support::ring::{Server, starting_with};
use support::{Folder, MODEL, PATIENCE, command_in, home, lockstep_in};

const MIB: u64 = 1 << 20;

/// Runs the program under a limit of the memory that it may write to, mapped files not counted.
fn limited(home: &Folder, mib: u64, arguments: &[&str]) -> Ended {
    let program = command_in(home.path(), arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -d {} && exec \"$0\" \"$@\"", mib * 1024)]);
    shell.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Process::spawn(shell).end(PATIENCE)
}

#[test]
fn an_import_takes_less_memory_than_its_file_has_bytes() {
    let folder = Folder::new("limited");
    let file = test_model::path();
    let mib = fs::metadata(&file).unwrap().len() / MIB;
    let arguments = ["import", file.to_str().unwrap(), "--name", "limited", "--json"];
    let report = limited(&folder, mib, &arguments).expect_code(0).json();
    let of_home = lockstep_in(home(), &["show", MODEL, "--json"]).expect_code(0).json();
    assert_eq!(report["id"], of_home["id"]);
}

/// Where there is memory for a prompt of a usual length, a longer one is refused
/// before it is read, and so is one whose answer may get too long.
#[test]
fn a_prompt_that_does_not_fit_is_refused_before_it_is_read() {
    let ask = |mib: u64, prompt: &str, answer: &str| {
        let base = ["generate", MODEL, "--raw", "-p", prompt, "-n", answer, "--stop=-"];
        let mut command = command_in(home(), &base);
        command.env("LOCKSTEP_MEMORY_MIB", mib.to_string());
        Process::spawn(command).end(PATIENCE)
    };
    let needed = |ended: &Ended| -> u64 {
        let (_, words) = ended.stderr.split_once(": ").unwrap().1.split_once(": ").unwrap();
        words.split(' ').next().unwrap().parse().unwrap()
    };
    let least = needed(&ask(1, "the", "2").expect_code(1));
    ask(least, "the", "2").expect_code(0);
    ask(least, "the", "-1").expect_code(0);
    let long = "the ".repeat(3000);
    let ended = ask(least, &long, "2").expect_code(1);
    let words = "not enough memory for running smollm2 with a prompt of 3001 tokens and an answer \
                 of 2: ";
    assert!(ended.stderr.contains(words), "{ended}");
    assert!(needed(&ended) > least, "{ended}");
    let ended = ask(least, "the", "4000").expect_code(1);
    assert!(ended.stderr.contains("a prompt of 1 tokens and an answer of 4000: "), "{ended}");
}

#[test]
fn an_import_without_memory_is_refused_before_it_writes() {
    let folder = Folder::new("no-memory");
    let file = test_model::path();
    let mut command = command_in(folder.path(), &["import", file.to_str().unwrap()]);
    command.env("LOCKSTEP_MEMORY_MIB", "16");
    let ended = Process::spawn(command).end(PATIENCE).expect_code(1);
    for word in ["not enough memory for importing", "MiB are needed", "only 16 MiB", "raise it"] {
        assert!(ended.stderr.contains(word), "no {word:?}: {ended}");
    }
    assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_span_that_does_not_fit_is_refused_and_a_smaller_one_is_served() {
    let setting = [("LOCKSTEP_MEMORY_MIB", "64")];
    let ended = starting_with(0..30, &[], &setting).end(PATIENCE).expect_code(1);
    let words = ["not enough memory for serving layers 0..30", "only 64 MiB", "--layers"];
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?}: {ended}");
    }
    let server = Server::ready(starting_with(20..30, &[], &setting));
    let pages = server.status().unwrap().kv_pages_free;
    assert!((80..1000).contains(&pages), "{pages} pages");
}
