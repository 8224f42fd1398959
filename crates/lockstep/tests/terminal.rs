//! Chats on a real terminal: `script` gives the program one, and the test types.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use support::process::Process;
use support::{Folder, MODEL, PATIENCE, WATCHDOG, command_in, home};

/// The editor asks for this when it begins to read a line, and takes it back afterwards.
const PASTE_ON: &str = "\x1b[?2004h";
const PASTE_OFF: &str = "\x1b[?2004l";

/// A program on a terminal.
struct Screen {
    process: Process,
    /// How much of what was shown has been looked at.
    seen: usize,
}

/// What was shown until the program had ended.
struct Left {
    shown: String,
    /// The program's exit code, as a shell tells it.
    code: i32,
    /// Whether the terminal was left as it was found.
    is_restored: bool,
}

impl Screen {
    /// `lockstep run` with these arguments, and what a shell takes behind them.
    fn run(home: &Folder, arguments: &str, variables: &[(&str, &str)]) -> Self {
        let program = command_in(home.path(), &[]);
        let line = format!(
            "trap : INT; stty -g | sed 's/^/mode /'; \
             sh -c 'echo \"pid $$.\"; exec \"$L\" run {MODEL} {arguments}'; \
             echo \"code $?.\"; stty -g | sed 's/^/mode /'"
        );
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-f", "-c", &line, "/dev/null"]);
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.env("L", program.get_program()).env("TERM", "xterm").env("SHELL", "/bin/sh");
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            script.env_remove(name);
        }
        script.envs(variables.iter().copied());
        Self { process: Process::spawn(script), seen: 0 }
    }

    /// Waits until a text is shown behind what was looked at so far.
    #[track_caller]
    fn see(&mut self, text: &str) {
        let from = self.seen;
        self.seen = self.process.wait_stdout(PATIENCE, text, |shown| {
            let at = shown.get(from..)?.find(text)?;
            Some(from + at + text.len())
        });
    }

    /// Waits for the next prompt of the editor.
    #[track_caller]
    fn see_prompt(&mut self) {
        self.see(PASTE_ON);
        self.see(">>> ");
    }

    /// Waits for an answer and the next prompt.
    #[track_caller]
    fn see_answer(&mut self) {
        self.see("◈ computed on this machine");
        self.see_prompt();
    }

    fn press(&mut self, keys: &str) {
        self.process.write_stdin(keys);
    }

    /// Sends the program a signal.
    fn kill(&self, signal: &str) {
        let shown = self.process.stdout.text();
        let (_, rest) = shown.split_once("pid ").unwrap();
        let line = format!("kill -{signal} {}", rest.split_once('.').unwrap().0);
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success(), "{line}");
    }

    /// Waits until the program has left.
    #[track_caller]
    fn left(self) -> Left {
        let shown = self.process.end_by_itself(WATCHDOG).stdout;
        let after = |word: &str, text: &str| {
            let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{shown:?}"));
            rest.lines().next().unwrap().trim_end_matches('.').to_owned()
        };
        let (_, last) = shown.rsplit_once("code ").unwrap_or_else(|| panic!("{shown:?}"));
        let code = last.split_once('.').unwrap().0.parse().unwrap();
        let is_same = after("mode ", &shown) == after("mode ", last);
        let is_typed = shown.matches(PASTE_ON).count() == shown.matches(PASTE_OFF).count();
        Left { code, is_restored: is_same && is_typed, shown }
    }
}

/// A home of its own with the model of all.
fn own_home(name: &str) -> Folder {
    let folder = Folder::new(name);
    for part in ["blobs", "models", "keys"] {
        std::os::unix::fs::symlink(home().join(part), folder.path().join(part)).unwrap();
    }
    folder
}

/// The lines that a home's history has kept.
fn kept(home: &Path) -> Vec<String> {
    let path = home.join("history.json");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn pasted_lines_are_one_message_and_the_next_chat_brings_it_back() {
    let home = own_home("terminal-paste");
    let mut chat = Screen::run(&home, "-n 4", &[]);
    chat.see_prompt();
    chat.press("\x1b[200~My name is Ada.\r\n/bye\rWhat is it?\x1b[201~\r");
    chat.see_answer();
    chat.press(" a secret\r");
    chat.see_answer();
    // Typed ahead: no line may get lost.
    chat.press("/set temperature 0.5\r/set\r/bye\r");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
    assert!(left.shown.contains("temperature          0.5"), "{}", left.shown);
    let pasted = "My name is Ada.\n/bye\nWhat is it?";
    assert_eq!(kept(home.path()), [pasted, "/set temperature 0.5", "/set", "/bye"]);

    let mut chat = Screen::run(&home, "-n 4", &[]);
    chat.see_prompt();
    // Up to the fourth line before, which is the pasted message.
    chat.press("\x1b[A\x1b[A\x1b[A\x1b[A\r");
    chat.see_answer();
    // Lines in quotes are one message, and one entry.
    chat.press("\"\"\"one\rtwo\r\"\"\"\r");
    chat.see_answer();
    chat.press("/bye\r");
    assert_eq!(chat.left().code, 0);
    assert_eq!(kept(home.path())[4..], [pasted, "\"\"\"one\ntwo\n\"\"\"", "/bye"]);
}

#[test]
fn no_history_is_read_or_kept_on_request() {
    let home = own_home("terminal-no-history");
    fs::write(home.path().join("history.json"), "[\"/nonsense\"]").unwrap();
    for (arguments, variables) in [
        ("--no-history", &[("LOCKSTEP_LOG_LEVEL", "debug")][..]),
        ("", &[("LOCKSTEP_NO_HISTORY", "1")]),
    ] {
        let mut chat = Screen::run(&home, arguments, variables);
        chat.see_prompt();
        chat.press("\x1b[A/proof\r");
        chat.see("no answer of servers yet");
        chat.see_prompt();
        // Within one chat lines come back all the same.
        chat.press("\x1b[A\r");
        chat.see("no answer of servers yet");
        chat.press("/bye\r");
        let left = chat.left();
        assert_eq!(left.code, 0, "{}", left.shown);
        assert!(!left.shown.contains("KeyEvent"), "a log of every key: {}", left.shown);
        let history = fs::read_to_string(home.path().join("history.json")).unwrap();
        assert_eq!(history, "[\"/nonsense\"]");
    }
}

#[test]
fn ctrl_c_clears_the_line_and_leaves_when_there_is_none() {
    let home = own_home("terminal-interrupt");
    let mut chat = Screen::run(&home, "-n 4", &[]);
    chat.see_prompt();
    for words in ["wrong words", "others"] {
        chat.press(words);
        chat.press("\x03");
        chat.see("again leaves");
        chat.see_prompt();
    }
    // The end of input is one only on an empty line.
    chat.press("/proof x\x1b[D\x04\r");
    chat.see("no answer of servers yet");
    chat.see_prompt();
    chat.press("\x03");
    chat.see("again leaves");
    chat.see_prompt();
    chat.press("\x03");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
    assert!(!left.shown.contains('◈'), "nothing was sent: {}", left.shown);

    let mut chat = Screen::run(&home, "", &[]);
    chat.see_prompt();
    chat.press("\x04");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
}

#[test]
fn ctrl_c_in_an_answer_ends_the_answer() {
    let home = own_home("terminal-answer");
    let mut chat = Screen::run(&home, "-n -1 --logit-bias 2=-1000,0=-1000", &[]);
    chat.see_prompt();
    chat.press("Write a long story about a whale.\r");
    chat.see("whale.");
    let from = chat.seen;
    chat.process.wait_stdout(PATIENCE, "an answer", |shown| {
        (shown.get(from..)?.chars().filter(|c| c.is_alphabetic()).count() > 60).then_some(())
    });
    chat.press("\x03");
    chat.see("not checked · interrupted");
    chat.see_prompt();
    chat.press("/bye\r");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
}

#[test]
fn tab_completes_commands_and_keys_move_by_whole_characters() {
    let home = own_home("terminal-keys");
    let mut chat = Screen::run(&home, "-n 4", &[]);
    chat.see_prompt();
    chat.press("/pro\t\r");
    chat.see("no answer of servers yet");
    chat.see_prompt();
    chat.press("/set temp\t 0.25\r");
    chat.see_prompt();
    chat.press("/set\r");
    chat.see("temperature          0.25");
    chat.see_prompt();
    // A wide character is two columns: left over it, and then it is deleted.
    chat.press("你好\x1b[D");
    chat.see("\x1b[2D");
    chat.press("\x7f\r");
    chat.see_answer();
    chat.press("/bye\r");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
    assert_eq!(kept(home.path())[3], "好");
}

#[test]
fn a_signal_that_ends_the_program_leaves_a_terminal_that_works() {
    let home = own_home("terminal-signals");
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut chat = Screen::run(&home, "", &[]);
        chat.see_prompt();
        chat.press("half a li");
        chat.see("half a li");
        chat.kill(signal);
        let left = chat.left();
        assert_eq!((left.code, left.is_restored), (code, true), "{signal}: {}", left.shown);
    }
}

#[test]
fn a_terminal_that_knows_no_commands_gets_none() {
    let home = own_home("terminal-dumb");
    let mut chat = Screen::run(&home, "-n 4", &[("TERM", "dumb")]);
    chat.see(">>> ");
    chat.press("/proof\n");
    chat.see("no answer of servers yet");
    chat.see(">>> ");
    chat.press("Hi.\n");
    chat.see("◈ computed on this machine");
    chat.see(">>> ");
    chat.press("\x03");
    chat.see("again leaves");
    chat.press("\x03");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
    assert!(!left.shown.contains('\x1b'), "{:?}", left.shown);
    assert!(!home.path().join("history.json").exists());
}

#[test]
fn answers_alone_go_where_standard_output_leads() {
    let home = own_home("terminal-redirected");
    let file = home.file("out");
    let mut chat = Screen::run(&home, &format!("-n 4 > {file}"), &[]);
    chat.see_prompt();
    chat.press("What is the capital of France?\r");
    chat.see_answer();
    chat.press("/bye\r");
    let left = chat.left();
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.shown);
    let answer = fs::read_to_string(file).unwrap();
    assert_eq!(answer, "The capital of France\n");
}

#[test]
fn a_verdict_is_styled_on_a_terminal_and_not_where_that_is_unwanted() {
    let home = own_home("terminal-style");
    for (variables, is_styled) in [(&[][..], true), (&[("NO_COLOR", "1")][..], false)] {
        let mut chat = Screen::run(&home, "-n 4", variables);
        chat.see_prompt();
        chat.press("Hi.\r");
        chat.see_answer();
        chat.press("/bye\r");
        let left = chat.left();
        let styled = left.shown.contains("\x1b[2m◈ computed");
        assert_eq!((left.code, styled), (0, is_styled), "{variables:?}: {:?}", left.shown);
    }
}
