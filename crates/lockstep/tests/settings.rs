//! Settings of `config.toml`: each is used by the commands that it is for.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::process::Process;
use support::ring::Server;
use support::{Folder, MODEL, PATIENCE, WATCHDOG, command_in, home, lockstep_in};

/// A home with the model, the key and these settings.
fn home_with(name: &str, settings: &str) -> Folder {
    let folder = Folder::new(name);
    for part in ["blobs", "models", "keys"] {
        symlink(home().join(part), folder.path().join(part)).unwrap();
    }
    fs::write(folder.path().join("config.toml"), settings).unwrap();
    folder
}

const CHAT: [&str; 6] = ["chat", "--prompt", "Hi.", "-n", "2", "--json"];

#[test]
fn a_chat_without_a_ticket_takes_those_of_the_settings() {
    let servers = [Server::start(0..15), Server::start(15..30)];
    let tickets = servers.each_ref().map(|server| server.ticket.clone()).join(", ");
    let folder = home_with("ticket", &format!("ticket = {tickets:?}\n"));
    let report = lockstep_in(folder.path(), &CHAT).expect_code(0).json();
    assert_eq!((&report["servers"], &report["verdict"]), (&2.into(), &"verified".into()));

    let without = home_with("no-ticket", "");
    let ended = lockstep_in(without.path(), &CHAT).expect_code(2);
    assert!(ended.stderr.contains("config.toml"), "the next step: {ended}");
    let mut command = command_in(without.path(), &CHAT);
    command.env("LOCKSTEP_TICKET", tickets.replace(',', "\n"));
    Process::spawn(command).end(PATIENCE).expect_code(0);
}

#[test]
fn the_log_setting_filters_and_the_command_line_goes_before_it() {
    let said = |settings: &str, more: &[&str]| {
        let folder = home_with("log", settings);
        let arguments = ["serve", MODEL, "--threads", "1", "--ephemeral", "--json"];
        let arguments = [&arguments[..], &["--until-stdin-closes"], more].concat();
        let server = Server::ready(Process::spawn(command_in(folder.path(), &arguments)));
        let chat = ["chat", &server.ticket, "--prompt", "Hi.", "-n", "1", "--audit", "off"];
        lockstep_in(folder.path(), &chat).expect_code(0);
        server.process.end(WATCHDOG).stderr.contains("session opened")
    };
    assert!(!said("", &[]));
    assert!(said("log_level = \"lockstep_node=info\"", &[]));
    assert!(!said("log_level = \"off\"", &[]));
    assert!(said("log_level = \"off\"", &["-v"]));
    let folder = home_with("log-wrong", "log_level = \"lockstep=loud\"");
    let ended = lockstep_in(folder.path(), &["list"]).expect_code(1);
    assert!(ended.stderr.contains("lockstep=loud"), "{ended}");
}

/// Compute threads of a server, by their names.
#[cfg(target_os = "linux")]
fn threads_of(folder: &Folder, more: &[&str]) -> usize {
    let arguments = ["serve", MODEL, "--layers", "29..30", "--ephemeral", "--json"];
    let arguments = [&arguments[..], &["--until-stdin-closes"], more].concat();
    let server = Server::ready(Process::spawn(command_in(folder.path(), &arguments)));
    let tasks = fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap();
    let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")).unwrap());
    names.filter(|name| name.starts_with("lockstep-")).count()
}

#[cfg(target_os = "linux")]
#[test]
fn the_threads_setting_is_used_and_the_command_line_goes_before_it() {
    let folder = home_with("threads", "threads = 4\n");
    let (four, two) = (threads_of(&folder, &[]), threads_of(&folder, &["--threads", "2"]));
    assert_eq!(four, two + 2);
}
