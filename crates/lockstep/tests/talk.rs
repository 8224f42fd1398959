//! Talking to a model: chats over pipes and terminals, prompts from anywhere, and what becomes of
//! the output.

mod support;

use std::fs;
use std::process::Command;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::vocabulary::Vocabulary;
use support::process::{Ended, Process, Signal};
use support::ring::{Ring, THREE};
use support::{
    Folder, MODEL, PATIENCE, WATCHDOG, command, command_in, lockstep, real_model, tokens,
};

const QUESTION: &str = "What is the capital of France?";

/// Runs a chat over pipes: these lines, and then the end of input.
fn chat(arguments: &[&str], lines: &str) -> Ended {
    let mut client = Process::spawn(command(arguments));
    client.write_stdin(lines);
    client.end(PATIENCE)
}

/// A shell line in which `$L` is the program.
fn shell(line: &str) -> Command {
    let program = command(&[]);
    let mut shell = Command::new("sh");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("L", program.get_program()).args(["-c", line]);
    shell
}

fn in_shell(line: &str) -> Ended {
    Process::spawn(shell(line)).end(PATIENCE)
}

#[test]
fn a_chat_says_a_verdict_in_one_line_and_proves_it_on_request() {
    let ring = Ring::start(&THREE, &[]);
    let tickets = ring.tickets();
    let lines = format!("{QUESTION}\n/proof\n/nonsense\n/set temperature hot\n/retry\n/bye\nno\n");
    let ended = chat(&["chat", &tickets, "-n", "8"], &lines).expect_code(0);
    let verdicts: Vec<&str> = ended.stderr.lines().filter(|line| line.contains('◈')).collect();
    assert_eq!(verdicts.len(), 3, "an answer, its proof, and another answer: {ended}");
    for line in [verdicts[0], verdicts[2]] {
        assert!(line.starts_with("◈ verified · ") && line.contains(" cells · 3 servers"), "{line}");
    }
    assert!(verdicts[1].starts_with("◈ VERIFIED"), "{ended}");
    assert!(ended.stderr.contains("caught with probability"), "{ended}");
    assert!(ended.stderr.contains("/nonsense is no command; /help"), "{ended}");
    assert!(ended.stderr.contains("expected a number, got \"hot\""), "{ended}");
    assert_eq!(ended.stdout.matches("Paris").count(), 2, "answers alone: {ended}");
    assert!(!ended.stdout.contains("verified"), "{ended}");
}

#[test]
fn a_conversation_is_kept_and_gone_on_with() {
    let name = format!("kept-{}", std::process::id());
    let save = format!("/system You are a parrot.\nMy name is Ada.\n/save {name}\n");
    let arguments = ["up", MODEL, "-n", "4", "--servers", "1", "--audit", "off"];
    chat(&arguments, &save).expect_code(0);
    let lines = format!("/load {name}\n/system\n/drop 5\n/load nowhere\n");
    let ended = chat(&arguments, &lines).expect_code(0);
    assert!(ended.stderr.contains("1 turns") && ended.stderr.contains("a parrot"), "{ended}");
    assert!(ended.stderr.contains("dropped the 1 oldest turn; 0 are left"), "{ended}");
    assert!(ended.stderr.contains("no conversation \"nowhere\" is kept"), "{ended}");
    fs::remove_file(support::home().join(format!("conversations/{name}.json"))).unwrap();
}

#[test]
fn a_chat_goes_on_with_another_model() {
    let folder = Folder::new("models");
    for part in ["blobs", "keys"] {
        std::os::unix::fs::symlink(support::home().join(part), folder.path().join(part)).unwrap();
    }
    fs::create_dir(folder.path().join("models")).unwrap();
    for name in [MODEL, "other"] {
        let record = support::home().join(format!("models/{MODEL}.toml"));
        fs::copy(record, folder.path().join(format!("models/{name}.toml"))).unwrap();
    }
    let arguments = ["up", MODEL, "--servers", "1", "-n", "2", "--audit", "off"];
    let mut client = Process::spawn(command_in(folder.path(), &arguments));
    client.write_stdin("Hi.\n/model nowhere\n/model other\n/model\nHi again.\n/bye\n");
    let ended = client.end(PATIENCE).expect_code(0);
    assert!(ended.stderr.contains("no model \"nowhere\" here"), "{ended}");
    assert!(ended.stderr.contains("other ("), "{ended}");
    assert_eq!(ended.stderr.matches("ring: ").count(), 2, "started twice: {ended}");
    assert_eq!(ended.stderr.matches('◈').count(), 2, "{ended}");
}

#[test]
fn a_full_context_is_said_and_the_chat_goes_on() {
    let long = "word ".repeat(9000);
    let lines = format!("{long}\nSay hi.\n{long}\n/bye\n");
    let arguments = ["up", MODEL, "--servers", "1", "-n", "3", "--audit", "off"];
    let ended = chat(&arguments, &lines).expect_code(0);
    let said = "prompt tokens, the model takes 8192: ";
    assert_eq!(ended.stderr.matches(said).count(), 2, "{}", &ended.stderr);
    assert!(ended.stderr.contains("this message alone is too long"), "{}", &ended.stderr);
    assert!(ended.stderr.contains("/drop forgets the oldest of 1 turns"), "{}", &ended.stderr);
    assert_eq!(ended.stderr.matches('◈').count(), 1, "{}", &ended.stderr);
}

#[test]
fn a_prompt_comes_from_the_line_a_file_or_standard_input() {
    let folder = Folder::new("prompts");
    let file = folder.file("prompt.txt");
    fs::write(&file, "The sea is\n").unwrap();
    let ask = |arguments: &[&str], input: &str| {
        let base = ["generate", MODEL, "--raw", "-n", "4", "--json"];
        let ended = chat(&[&base[..], arguments].concat(), input).expect_code(0);
        tokens(&ended.json())
    };
    let expected = ask(&["--prompt", "The sea is"], "");
    assert_eq!(ask(&["--prompt-file", &file], ""), expected);
    assert_eq!(ask(&["--prompt-file", "-"], "The sea is\n"), expected);
    assert_eq!(ask(&["--prompt", "-"], "The sea is\n"), expected);
    assert_eq!(ask(&[], "The sea is\n"), expected);
    let run = ["run", MODEL, "--raw", "-n", "4", "--json"];
    let piped = chat(&run, "The sea is\n").expect_code(0).json();
    assert_eq!(tokens(&piped), expected);
    let words = chat(&[&run[..], &["The", "sea", "is"]].concat(), "").expect_code(0).json();
    assert_eq!(tokens(&words), expected);

    fs::write(&file, b"\xff").unwrap();
    let ended = lockstep(&["generate", MODEL, "-f", &file]).expect_code(1);
    assert!(ended.stderr.contains("prompt.txt is not UTF-8"), "{ended}");
    let ended = lockstep(&["generate", MODEL, "-f", "/nowhere"]).expect_code(1);
    assert!(ended.stderr.contains("can't read /nowhere"), "{ended}");
    lockstep(&["generate", MODEL, "-f", &file, "-p", "hi"]).expect_code(2);
    let ended = lockstep(&["run", MODEL]).expect_code(2);
    assert!(ended.stderr.contains("--prompt-file"), "{ended}");
}

#[test]
fn nothing_from_a_stop_text_on_is_shown() {
    let base = ["generate", MODEL, "-p", QUESTION, "-n", "12"];
    let whole = lockstep(&base).expect_code(0).stdout;
    assert!(whole.contains("capital of France"), "{whole}");
    for stop in ["tal of", " France", "capital of France is Par"] {
        let ended = lockstep(&[&base[..], &["--stop", stop]].concat()).expect_code(0);
        let (before, _) = whole.split_once(stop).unwrap();
        assert_eq!(ended.stdout, format!("{before}\n"), "{stop}");
        let report = lockstep(&[&base[..], &["--stop", stop, "--json"]].concat()).json();
        assert_eq!(report["text"], before, "{stop}");
        assert_eq!(report["finish_reason"], "stop", "{stop}");
    }
}

#[test]
fn an_answer_commands_no_terminal_and_json_has_it_as_it_is() {
    let model = real_model();
    let blob = model.blobs.get(model.manifest.vocabulary_blob).unwrap();
    let vocabulary = Vocabulary::from_bytes(blob.as_slice()).unwrap();
    let escape = (0..model.manifest.vocabulary).find(|&id| vocabulary.token(id) == b"\x1b");
    let bias = format!("{}=1000", escape.expect("a token of ESC"));
    let base = ["generate", MODEL, "--raw", "-p", "a", "-n", "2", "--logit-bias", &bias];
    let ended = lockstep(&base).expect_code(0);
    assert_eq!(ended.stdout, "\\u{1b}\\u{1b}\n");
    let ended = lockstep(&[&base[..], &["--json"]].concat()).expect_code(0);
    assert!(!ended.stdout.contains('\x1b') && !ended.stderr.contains('\x1b'), "{ended}");
    assert_eq!(ended.json()["text"], "\x1b\x1b");
}

#[test]
fn an_answer_of_any_length_ends_where_the_model_ends_it() {
    let report = lockstep(&["generate", MODEL, "-p", QUESTION, "-n", "-1", "--json"]).json();
    assert_eq!(report["finish_reason"], "stop");
    for wrong in ["0", "-2", "many"] {
        let ended = lockstep(&["generate", MODEL, "-p", "a", "-n", wrong]).expect_code(2);
        assert!(ended.stderr.contains("at least 1, or -1"), "{ended}");
    }
}

#[test]
fn threads_are_bounded_by_the_rule_that_the_error_states() {
    for threads in ["0", "999"] {
        let arguments = ["generate", MODEL, "-p", "a", "--threads", threads];
        let ended = lockstep(&arguments).expect_code(2);
        assert!(ended.stderr.contains("--threads: expected 1 to "), "{ended}");
        assert!(ended.stderr.contains("four for each"), "{ended}");
    }
}

#[test]
fn output_that_is_lost_is_an_error_and_a_reader_that_leaves_is_none() {
    let ask = format!("generate {MODEL} --raw -p a -n 2");
    for arguments in ["list", "--help", "completions bash", &ask, &format!("{ask} --json")] {
        let ended = in_shell(&format!("$L {arguments} > /dev/full")).expect_code(1);
        assert!(ended.stderr.contains("can't write the result: No space left"), "{ended}");
    }
    let long = format!("generate {MODEL} --raw -p a -n 2000");
    for arguments in ["list", "completions bash", &long] {
        let line = format!("{{ $L {arguments}; echo code $? >&2; }} | head -c 1 > /dev/null");
        let ended = in_shell(&line).expect_code(0);
        assert!(ended.stderr.contains("code 0"), "{ended}");
        assert!(!ended.stderr.contains("panicked"), "{ended}");
    }
}

#[test]
fn figures_are_shown_on_request() {
    let ended = lockstep(&["generate", MODEL, "--raw", "-p", "a", "-n", "2", "--verbose"]);
    let ended = ended.expect_code(0);
    for name in ["total duration:", "prompt eval rate:", "eval count:", "eval rate:"] {
        assert!(ended.stderr.contains(name), "{name}: {ended}");
    }
}

#[test]
fn no_colours_go_into_files_and_pipes() {
    for (name, value) in [("TERM", "xterm-256color"), ("CLICOLOR", "1"), ("COLORTERM", "truecolor")]
    {
        let mut ask = command(&["generate", MODEL, "--raw", "-p", "a", "-n", "2", "-vv"]);
        ask.env(name, value);
        let ended = Process::spawn(ask).end(PATIENCE).expect_code(0);
        assert!(!ended.stderr.contains('\x1b') && !ended.stdout.contains('\x1b'), "{ended}");
    }
    let mut wrong = command(&["no-such\x1b[2J\u{202e}command"]);
    wrong.env("TERM", "xterm-256color");
    let ended = Process::spawn(wrong).end(PATIENCE).expect_code(2);
    assert!(!ended.stderr.contains('\x1b') && ended.stderr.contains("\\u{202e}command"), "{ended}");
}

#[test]
fn an_interrupt_ends_an_answer_and_not_the_chat() {
    let arguments = ["up", MODEL, "--servers", "1", "-n", "2000", "--json"];
    let mut client = Process::spawn(command(&arguments));
    client.write_stdin("Write a long story about a whale.\n");
    client.wait_stderr(PATIENCE, "an answer", |text| {
        let (_, answer) = text.split_once("-> s1\n")?;
        (answer.len() > 40).then_some(())
    });
    client.signal(Signal::Interrupt);
    client.wait_stderr(WATCHDOG, "its end", |text| {
        text.contains("◈ not checked · interrupted").then_some(())
    });
    client.write_stdin("/set max_tokens 4\nSay hi.\n");
    let ended = client.end(PATIENCE).expect_code(0);
    assert_eq!(ended.json()["verdict"], "verified", "{ended}");
}

#[test]
fn a_folder_without_models_says_what_to_do() {
    let folder = Folder::new("empty-run");
    let ended = Process::spawn(command_in(folder.path(), &["run", "no-such-model", "hi"]));
    let ended = ended.end(PATIENCE).expect_code(1);
    assert!(ended.stderr.contains("lockstep list"), "{ended}");
    assert_eq!(ended.stderr.matches("no-such-model").count(), 1, "said once: {ended}");
}
