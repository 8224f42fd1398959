//! Lines from a person.
//!
//! Reading blocks a thread of its own that nobody has to wait for; it reads only when a line is
//! wanted, so that an answer never shares the terminal with the editor.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::mpsc as std_mpsc;
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use super::command::is_open;
use crate::output::Voice;

/// Longest line that is read from a pipe, in bytes.
const LINE_BYTES: u64 = 64 << 20;

/// The prompt for a message, and for its further lines.
const PROMPTS: [&str; 2] = [">>> ", "... "];

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing more will come.
    End,
    /// Ctrl-C at the prompt.
    Interrupt,
    /// A line that is not UTF-8.
    NotText,
    /// A line, or lines that belong together.
    Text(String),
}

/// Where a person's lines come from.
pub(crate) struct Input {
    wanted: std_mpsc::Sender<usize>,
    heard: mpsc::Receiver<Heard>,
    is_terminal: bool,
}

impl Input {
    /// Reads standard input.
    pub(crate) fn open() -> Result<Self> {
        let is_terminal = io::stdin().is_terminal();
        let (want, wanted) = std_mpsc::channel();
        let (tell, heard) = mpsc::channel(1);
        let read = move || {
            read_plain(&wanted, &tell, is_terminal);
        };
        let reader = thread::Builder::new().name("stdin".to_owned()).spawn(read);
        drop(reader.context("no thread for standard input")?);
        Ok(Self { wanted: want, heard, is_terminal })
    }

    /// Whether a person types.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// The next message or command: lines in quotes are one.
    pub(crate) async fn next(&mut self) -> Heard {
        let mut text = match self.line(0).await {
            Heard::Text(text) => text,
            other => return other,
        };
        while is_open(&text) {
            match self.line(1).await {
                Heard::Text(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                // What ends inside the quotes is a message all the same.
                Heard::End => break,
                other => return other,
            }
        }
        Heard::Text(text)
    }

    async fn line(&mut self, prompt: usize) -> Heard {
        if self.wanted.send(prompt).is_err() {
            return Heard::End;
        }
        self.heard.recv().await.unwrap_or(Heard::End)
    }
}

/// Reads lines of a pipe or file as they are wanted.
fn read_plain(wanted: &std_mpsc::Receiver<usize>, tell: &mpsc::Sender<Heard>, prompts: bool) {
    let mut lines = io::stdin().lock();
    for prompt in wanted {
        if prompts {
            Voice::new(true).block(PROMPTS.get(prompt).copied().unwrap_or_default());
        }
        let mut line = Vec::new();
        let heard = match lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Heard::End,
            Ok(_) => match String::from_utf8(line) {
                Ok(line) => Heard::Text(line.trim_end_matches(['\r', '\n']).to_owned()),
                Err(_) => Heard::NotText,
            },
        };
        if tell.blocking_send(heard).is_err() {
            return;
        }
    }
}
