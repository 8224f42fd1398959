//! Lines from a person: a line editor with a history on a terminal, plain lines elsewhere.
//!
//! Reading blocks a thread of its own that nobody has to wait for; it reads only when a line is
//! wanted, so that an answer never shares the terminal with the editor.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;

use anyhow::{Context, Result};
use lockstep_node::home::Home;
use tokio::sync::mpsc;

use super::command::is_open;
use super::editor::LineEditor;
use super::entry::Entry;
use super::history::History;
use super::terminal::Terminal;
use crate::output::{self, Printer};

/// Longest line that is read from a pipe, in bytes.
const LINE_BYTES: u64 = 64 << 20;

/// The prompt for a message, and for its further lines.
const PROMPTS: [&str; 2] = [">>> ", "... "];

/// The source of a person's lines: an editor on a terminal, or a pipe.
pub(crate) struct Input {
    wanted: std_mpsc::Sender<usize>,
    entries: mpsc::Receiver<Entry>,
    is_terminal: bool,
    /// Whether a line is wanted that has not come: whoever waited for it was interrupted.
    is_wanted: bool,
    /// The terminal, if lines are edited.
    edited: Option<Arc<Terminal>>,
}

impl Input {
    /// Reads standard input: with a line editor where that is a terminal that can be commanded.
    /// Lines are kept for the next chat if the person wants that.
    pub(crate) fn open(home: &Home, keeps_history: bool) -> Result<Self> {
        let is_terminal = io::stdin().is_terminal();
        let edited = Terminal::open().context("the terminal can't be used")?;
        let history = keeps_history.then(|| History::at(home.history()));
        let (want, wanted) = std_mpsc::channel();
        let (tell, entries) = mpsc::channel(1);
        let (home, terminal) = (home.clone(), edited.clone());
        let read = move || match terminal {
            Some(terminal) => edit(&wanted, &tell, &terminal, home, history),
            None => read_plain(&wanted, &tell, is_terminal),
        };
        let reader = thread::Builder::new().name("stdin".to_owned()).spawn(read);
        drop(reader.context("no thread for standard input")?);
        Ok(Self { wanted: want, entries, is_terminal, is_wanted: false, edited })
    }

    /// Returns whether the lines are typed on a terminal.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Returns whether Ctrl-C at the prompt is a key that is read, and no signal.
    pub(crate) const fn is_edited(&self) -> bool {
        self.edited.is_some()
    }

    /// Returns the next message or command: lines in quotes are one.
    pub(crate) async fn next(&mut self) -> Entry {
        let mut text = match self.line(0).await {
            Entry::Text(text) => text,
            other => return other,
        };
        while is_open(&text) {
            match self.line(1).await {
                Entry::Text(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                // What ends inside the quotes is a message all the same.
                Entry::End => break,
                other => return other,
            }
        }
        Entry::Text(text)
    }

    async fn line(&mut self, prompt: usize) -> Entry {
        if self.is_wanted {
            Printer::new(true).block(PROMPTS.get(prompt).copied().unwrap_or_default());
        } else if self.wanted.send(prompt).is_err() {
            return Entry::End;
        }
        self.is_wanted = true;
        let entry = self.entries.recv().await;
        self.is_wanted = false;
        entry.unwrap_or(Entry::End)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // The editor may still wait for keys that nobody wants any more.
        if let Some(terminal) = &self.edited {
            terminal.restore();
        }
    }
}

/// Reads lines of a pipe or file, or of a terminal that only shows text, as they are wanted.
fn read_plain(wanted: &std_mpsc::Receiver<usize>, tell: &mpsc::Sender<Entry>, prompts: bool) {
    let mut lines = io::stdin().lock();
    for prompt in wanted {
        if prompts {
            Printer::new(true).block(PROMPTS.get(prompt).copied().unwrap_or_default());
        }
        let mut line = Vec::new();
        let entry = match lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Entry::End,
            Ok(_) => String::from_utf8(line).map_or(Entry::NotText, |line| {
                let line = line.strip_suffix('\n').unwrap_or(&line);
                Entry::Text(line.strip_suffix('\r').unwrap_or(line).to_owned())
            }),
        };
        if tell.blocking_send(entry).is_err() {
            return;
        }
    }
}

/// Lets a person edit lines on the terminal as they are wanted.
fn edit(
    wanted: &std_mpsc::Receiver<usize>,
    tell: &mpsc::Sender<Entry>,
    terminal: &Terminal,
    home: Home,
    history: Option<History>,
) {
    let opened = LineEditor::open(home, history, output::is_on_terminal());
    let mut editor = match opened {
        Ok(editor) => editor,
        Err(error) => {
            tracing::warn!(%error, "lines can't be edited");
            return read_plain(wanted, tell, true);
        }
    };
    for prompt in wanted {
        let prompt = PROMPTS.get(prompt).copied().unwrap_or_default();
        let entry = terminal.edit(|| editor.read(prompt));
        if tell.blocking_send(entry).is_err() {
            return;
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../../tests/support/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the program use the rest")]
mod process;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    /// Set in the process that is to panic.
    const CHILD: &str = "LOCKSTEP_TEST_PANICS_WHILE_A_LINE_IS_READ";

    /// Reads a line and panics when it gets a signal.
    fn panic_while_a_line_is_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut input = Input::open(&Home::at("/nowhere"), false).unwrap();
        runtime.block_on(async {
            let mut signals = signal(SignalKind::user_defined1()).unwrap();
            tokio::select! {
                entry = input.next() => panic!("{entry:?} came before the signal"),
                _ = signals.recv() => panic!("as the test asked"),
            }
        });
    }

    #[test]
    fn a_panic_leaves_a_terminal_that_works() {
        if std::env::var_os(CHILD).is_some() {
            return panic_while_a_line_is_read();
        }
        let line = "stty -g; sh -c 'echo \"pid $$.\"; exec \"$T\" --exact --nocapture \
                    conversation::input::tests::a_panic_leaves_a_terminal_that_works'; stty -g";
        let mut script = Command::new("script");
        script
            .args(["-q", "-f", "-c", line, "/dev/null"])
            .env("T", std::env::current_exe().unwrap());
        script.env(CHILD, "1").env("TERM", "xterm").env("SHELL", "/bin/sh");
        let child = process::Process::spawn(script);
        let patience = Duration::from_secs(60);
        let id = child.wait_stdout(patience, "the prompt", |shown| {
            let (_, rest) = shown.split_once("pid ")?;
            let (id, rest) = rest.split_once('.')?;
            rest.contains(">>> ").then(|| id.to_owned())
        });
        let line = format!("kill -USR1 {id}");
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
        let ended = child.end_by_itself(patience);
        assert!(ended.stdout.contains("as the test asked"), "{ended}");
        let mut modes = ended.stdout.lines();
        assert_eq!(modes.next(), modes.next_back(), "{ended}");
        assert!(ended.stdout.contains("\x1b[?2004l"), "{ended}");
    }
}
