//! A line editor: arrow keys, a history, completion of commands, and pasted lines as one message.
//!
//! Quotes hold lines together while they are edited, so that a message of several lines is one
//! entry of the history and can be changed as a whole.

use std::cell::Cell;

use lockstep_node::home::Home;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{History as _, MemHistory};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};

use super::command::{self, is_open};
use super::entry::Entry;
use super::history::{self, History, is_to_be_kept};
use super::setting;
use super::talk;

/// An editor of lines on the terminal.
pub(super) struct LineEditor {
    editor: Editor<Keys, MemHistory>,
    history: Option<History>,
}

impl LineEditor {
    /// Returns an editor that writes to standard output, or, where that leads elsewhere, to the
    /// terminal itself. Lines come from and go to the history's file if there is one.
    pub(super) fn open(
        home: Home,
        history: Option<History>,
        is_output_terminal: bool,
    ) -> rustyline::Result<Self> {
        let behavior = if is_output_terminal { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder()
            .behavior(behavior)
            .bracketed_paste(true)
            .completion_type(CompletionType::List)
            .max_history_size(history::LINES)?
            .build();
        let mut lines = MemHistory::with_config(&config);
        for line in history.iter().flat_map(History::lines) {
            lines.add_owned(line)?;
        }
        let mut editor = Editor::with_history(config, lines)?;
        editor.set_helper(Some(Keys { home, is_empty: Cell::new(true) }));
        Ok(Self { editor, history })
    }

    /// Lets a person edit a line, or several in quotes.
    pub(super) fn read(&mut self, prompt: &str) -> Entry {
        match self.editor.readline(prompt) {
            Ok(line) => {
                if is_to_be_kept(&line)
                    && matches!(self.editor.add_history_entry(line.as_str()), Ok(true))
                    && let Some(history) = &self.history
                {
                    history.add(&line);
                }
                Entry::Text(line)
            }
            Err(ReadlineError::Interrupted) => {
                let is_empty = self.editor.helper().is_none_or(|keys| keys.is_empty.get());
                Entry::Interrupt { is_empty }
            }
            Err(_) => Entry::End,
        }
    }
}

/// The answers to the editor's questions about the line that is being edited.
struct Keys {
    home: Home,
    /// Whether there is nothing on the line.
    is_empty: Cell<bool>,
}

impl Helper for Keys {}

impl Highlighter for Keys {}

impl Hinter for Keys {
    type Hint = String;

    /// Returns no hint, ever. The editor asks for one each time that the line has changed, and so
    /// this is where that is noticed.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.is_empty.set(line.is_empty());
        None
    }
}

impl Validator for Keys {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_open(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Keys {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..at).unwrap_or(line);
        Ok(completed(before, || talk::kept(&self.home)))
    }
}

/// Returns where the word before the cursor begins, and the texts that can complete it: commands,
/// or what a command takes.
fn completed(before: &str, kept: impl FnOnce() -> Vec<String>) -> (usize, Vec<String>) {
    let start = before.rfind(' ').map_or(0, |space| space + 1);
    let (command, word) = before.split_at(start);
    let choices: Vec<String> = match command.trim_end() {
        "" if start == 0 && word.starts_with('/') => {
            command::NAMES.iter().map(|name| format!("/{name}")).collect()
        }
        "/set" => setting::NAMES.map(str::to_owned).to_vec(),
        "/load" | "/save" => kept(),
        _ => Vec::new(),
    };
    (start, choices.into_iter().filter(|choice| choice.starts_with(word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_they_take_are_completed_and_nothing_else() {
        let kept = || vec!["tale".to_owned(), "tax".to_owned(), "poem".to_owned()];
        for (before, start, choices) in [
            ("/re", 0, &["/retry"][..]),
            ("/s", 0, &["/save", "/set", "/system"]),
            ("/set temp", 5, &["temperature"]),
            ("/set p", 5, &["presence_penalty"]),
            ("/load ta", 6, &["tale", "tax"]),
            ("/save p", 6, &["poem"]),
            ("/nonsense", 0, &[]),
            ("/set temperature ", 17, &[]),
            ("say /re", 4, &[]),
            ("re", 0, &[]),
            (" /re", 1, &[]),
            ("", 0, &[]),
        ] {
            let (at, found) = completed(before, kept);
            assert_eq!((at, found), (start, choices.iter().map(|&c| c.to_owned()).collect()));
        }
    }
}
