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
