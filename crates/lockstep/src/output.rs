//! What people and scripts see: progress bars on standard error, results on standard output.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar over bytes.
pub(crate) fn bytes_bar(what: &str, total: u64) -> ProgressBar {
    let style = "{msg:<24} {bar:32} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>5}";
    bar(what, total, style)
}

/// A progress bar over steps (layers, cells).
pub(crate) fn steps_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:<24} {bar:32} {pos:>4} of {len} {eta:>5}")
}

fn bar(what: &str, total: u64, style: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// Prints a line for people: on standard error when standard output is for a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    json: bool,
}

impl Voice {
    /// A voice that keeps standard output free for one JSON object if `json`.
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the last line is a JSON object.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// A line of the result.
    pub(crate) fn line(self, text: impl AsRef<str>) {
        self.piece(&format!("{}\n", text.as_ref()));
    }

    /// A piece of streamed text, shown at once.
    pub(crate) fn piece(self, text: &str) {
        if self.json {
            write_to(&mut io::stderr().lock(), text);
        } else {
            write_to(&mut io::stdout().lock(), text);
        }
    }

    /// A note beside the result, always on standard error.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        write_to(&mut io::stderr().lock(), &format!("{}\n", text.as_ref()));
    }

    /// The last line for scripts, if they asked for it.
    pub(crate) fn json(self, value: &serde_json::Value) {
        if self.json {
            write_to(&mut io::stdout().lock(), &format!("{value}\n"));
        }
    }

    /// Dim text on a terminal.
    pub(crate) fn dim(self, text: &str) -> String {
        self.styled("2", text)
    }

    /// Bold text on a terminal.
    pub(crate) fn bold(self, text: &str) -> String {
        self.styled("1", text)
    }

    fn styled(self, code: &str, text: &str) -> String {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if colours && !self.json { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes and flushes; a reader that has gone away is not an error of ours.
fn write_to(out: &mut impl Write, text: &str) {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    drop(written);
}

/// Somebody's text for a terminal: control characters are escaped, so that it can only be read.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            _ if character.is_control() => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
    out
}

/// Bytes in a unit that people read.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_text_from_a_manifest_commands_no_terminal() {
        assert_eq!(printable("MIT \u{1b}[2J\r\u{9b}K"), "MIT \\u{1b}[2J\\r\\u{9b}K");
        assert_eq!(printable("größe, \u{4e2d}"), "größe, \u{4e2d}");
    }
}
