//! Output for people and scripts: progress bars and notes on standard error, results on standard
//! output. Nothing else in the program writes to either.
//!
//! What is written is [`Printable`]; styles are added here, for the stream that is written to and
//! only if that is a terminal. The first failure to write a result is kept, and ends the program
//! with an error: see [`failure`].

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::sync::Notify;

use crate::printable::{Printable, is_hidden};

/// Returns a progress bar over bytes.
pub(crate) fn bytes_bar(what: &str, total: u64) -> ProgressBar {
    let style = "{msg:<24} {bar:32} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>5}";
    bar(what, total, style)
}

/// Returns a progress bar over steps (layers, cells).
pub(crate) fn steps_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:<24} {bar:32} {pos:>4} of {len} {eta:>5}")
}

fn bar(what: &str, total: u64, style: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    name_bar(&bar, what);
    bar
}

/// Says beside a bar what it is about.
pub(crate) fn name_bar(bar: &ProgressBar, what: impl Display) {
    bar.set_message(Printable::line(what).as_str().to_owned());
}

/// Something that turns while there is nothing to show yet, on a terminal; gone when dropped.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Starts to turn, if standard error is a terminal.
    pub(crate) fn start(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        name_bar(&bar, what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Removes the spinner from the terminal.
    pub(crate) fn stop(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The style of a line on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// The style of ordinary lines.
    Plain,
    /// The style of what is beside the matter.
    Dim,
    /// The style of good news, such as a verdict of *verified*.
    Good,
    /// The style of news that are neither good nor bad.
    Doubt,
    /// The style of bad news, such as a failed audit.
    Bad,
}

impl Style {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("2"),
            Self::Good => Some("1;32"),
            Self::Doubt => Some("1;33"),
            Self::Bad => Some("1;31"),
        }
    }
}

/// One of the two streams that the program writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

impl Stream {
    fn is_terminal(self) -> bool {
        match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        }
    }

    /// Returns whether styles may be written to it.
    fn is_styled(self) -> bool {
        let variable = |name: &str| std::env::var(name).ok();
        wants_style(self.is_terminal(), variable)
    }

    /// Writes a text at once. A failure to write to standard output is kept as the program's
    /// failure; a failure to write to standard error is ignored, because nobody could be told.
    fn write(self, text: &Printable, style: Style, end: &str) {
        let text = text.as_str();
        let code = style.code().filter(|_| self.is_styled());
        let styled = code.map(|code| format!("\x1b[{code}m{text}\x1b[0m{end}"));
        let bytes = styled.unwrap_or_else(|| format!("{text}{end}"));
        match self {
            Self::Out => kept(write_to(&mut io::stdout().lock(), &bytes)),
            Self::Err => drop(write_to(&mut io::stderr().lock(), &bytes)),
        }
    }
}

/// Returns whether a stream gets colours: NO_COLOR, CLICOLOR_FORCE, CLICOLOR and TERM as programs
/// agree.
fn wants_style(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let is_on = |name: &str| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
    if is_set("NO_COLOR") {
        return false;
    }
    let is_off = variable("CLICOLOR").is_some_and(|value| value == "0");
    let is_dumb = variable("TERM").map_or(cfg!(not(windows)), |value| value == "dumb");
    is_on("CLICOLOR_FORCE") || (is_terminal && !is_off && !is_dumb)
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

static FAILURE: OnceLock<io::Error> = OnceLock::new();
static FAILED: Notify = Notify::const_new();

fn kept(written: io::Result<()>) {
    if let Err(error) = written
        && FAILURE.set(error).is_ok()
    {
        FAILED.notify_one();
    }
}

/// Returns why a result could not be written to standard output, if it could not. A reader that has
/// gone away (`| head`) is none of it: it has what it wanted.
pub(crate) fn failure() -> Option<&'static io::Error> {
    FAILURE.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Returns whether nobody can read standard output any more, so that there is no use in going on.
pub(crate) fn is_unread() -> bool {
    FAILURE.get().is_some()
}

/// Returns whether results are shown on a terminal.
pub(crate) fn is_on_terminal() -> bool {
    Stream::Out.is_terminal()
}

/// Returns the number of characters in a line of the terminal on which results are shown: what
/// COLUMNS says, or else what the terminal says; none if there is no terminal.
pub(crate) fn width() -> Option<usize> {
    if !is_on_terminal() {
        return None;
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    columns.or_else(columns_of_terminal).filter(|columns| *columns > 0)
}

#[cfg(unix)]
fn columns_of_terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(size.ws_col.into())
}

#[cfg(not(unix))]
const fn columns_of_terminal() -> Option<usize> {
    None
}

/// Waits until nobody can read standard output any more.
pub(crate) async fn unread() {
    if !is_unread() {
        FAILED.notified().await;
    }
}

/// Prints a line for people: on standard error when standard output is for a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    /// Creates a printer that keeps standard output free for one JSON object if `json`.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Returns whether the last line is a JSON object.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    const fn results(self) -> Stream {
        if self.json { Stream::Err } else { Stream::Out }
    }

    /// Prints a line of the result.
    pub(crate) fn line(self, text: impl Display) {
        self.results().write(&Printable::line(text), Style::Plain, "\n");
    }

    /// Clears the terminal, if results are shown on one, so that what follows replaces what was
    /// there.
    pub(crate) fn clear(self) {
        if self.results().is_terminal() {
            drop(write_to(&mut io::stdout().lock(), "\x1b[2J\x1b[H"));
        }
    }

    /// Lines of the result, laid out already.
    pub(crate) fn block(self, text: impl Display) {
        self.results().write(&Printable::block(text), Style::Plain, "");
    }

    /// Prints a piece of streamed text at once.
    pub(crate) fn piece(self, text: &Printable) {
        self.results().write(text, Style::Plain, "");
    }

    /// Prints a note beside the result, always on standard error.
    pub(crate) fn note(self, text: impl Display) {
        Stream::Err.write(&Printable::line(text), Style::Plain, "\n");
    }

    /// Prints a note that few people need, on standard error.
    pub(crate) fn aside(self, text: impl Display) {
        Stream::Err.write(&Printable::line(text), Style::Dim, "\n");
    }

    /// Prints a verdict beside the result, on standard error: the only line that begins with the
    /// sign `◈`, which no answer can write.
    pub(crate) fn verdict(self, style: Style, text: impl Display) {
        Stream::Err.write(&Printable::verdict(text), style, "\n");
    }

    /// Prints the last line for scripts, if the command was asked for JSON.
    pub(crate) fn json(self, value: &Value) {
        if self.json {
            kept(write_to(&mut io::stdout().lock(), &json_line(value)));
        }
    }
}

/// Returns JSON in which characters that command terminals or hide text are written as escapes: it
/// holds the text as it is, and can be looked at.
fn json_line(value: &Value) -> String {
    escaped(&value.to_string())
}

fn escaped(json: &str) -> String {
    let mut line = String::new();
    for character in json.chars() {
        if is_hidden(character) {
            // Outside of strings JSON has none of them.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

/// The writer of the log: to standard error, each event on one line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    /// Each event is one line of text.
    Text,
    /// Each event is one JSON object on its line.
    Json,
}

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        match self {
            Self::Text => Stream::Err.write(&Printable::line(text), Style::Plain, "\n"),
            // Nobody could be told that it can't be written.
            Self::Json => drop(write_to(&mut io::stderr().lock(), &escaped(text.trim_end()))),
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the bytes in a unit that people read.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stream_is_styled_as_programs_agree() {
        let styled = |is_terminal: bool, variables: &[(&str, &str)]| {
            let find = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            wants_style(is_terminal, find)
        };
        let xterm = ("TERM", "xterm");
        assert!(styled(true, &[xterm]));
        assert!(!styled(false, &[xterm]), "never into files and pipes");
        assert!(!styled(true, &[("TERM", "dumb")]) && !styled(true, &[]));
        assert!(!styled(true, &[xterm, ("NO_COLOR", "1")]));
        assert!(styled(true, &[xterm, ("NO_COLOR", "")]), "empty is not set");
        assert!(!styled(true, &[xterm, ("CLICOLOR", "0")]));
        assert!(
            styled(false, &[("CLICOLOR_FORCE", "1")]) && !styled(false, &[("CLICOLOR_FORCE", "0")])
        );
        assert!(!styled(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    }

    #[test]
    fn json_holds_the_text_as_it_is_and_commands_no_terminal() {
        let text = "\u{1b}[2J \u{9b} \u{7f} \u{202e} \u{e0041} größe 👩\u{200d}👧";
        let line = json_line(&json!({ "text": text }));
        assert!(line.trim_end().chars().all(|character| !is_hidden(character)), "{line}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["text"], text);
    }
}
