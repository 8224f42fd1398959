//! Text that a terminal may be given: what [`crate::output`] writes is a [`Printable`], and nothing
//! makes one but the escaping here.
//!
//! Answers, errors, names, licences, paths and files are other people's. Escaped are control
//! characters, characters that reorder or hide text, and [`MARK`], the sign before this program's
//! own verdicts: no text can command a terminal, conceal a line or write a verdict. Escapes look
//! like Rust's, `\u{1b}`. Joiners in emoji and in scripts that need them stay.

use std::fmt::{self, Display, Write as _};
use std::path::Path;

/// The sign before a verdict of this program. Text from elsewhere has it escaped.
pub(crate) const MARK: char = '◈';

/// Combining marks that one character may carry; more would be drawn over other lines.
const MARKS_IN_A_ROW: u32 = 4;

/// Text without anything that commands a terminal. There is no other way to make one than to
/// escape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Printable(String);

impl Printable {
    /// Returns a line of a message: a line break in it begins an indented line, which can't be
    /// taken for the next message.
    pub(crate) fn line(text: impl Display) -> Self {
        let text = text.to_string();
        let mut escaped = Escaped::default();
        let mut out = String::with_capacity(text.len());
        for (index, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            out.push_str(match line {
                _ if index == 0 => "",
                "" => "\n",
                _ => "\n    ",
            });
            escaped.push(line, &mut out);
        }
        Self(out)
    }

    /// Returns the text of several lines, as it is laid out: line breaks and tabs stay.
    pub(crate) fn block(text: impl Display) -> Self {
        Escaped::default().text(&text.to_string())
    }

    /// Returns the first line of a verdict: this program's own, with the mark.
    pub(crate) fn verdict(text: impl Display) -> Self {
        let Self(text) = Self::line(text);
        Self(format!("{MARK} {text}"))
    }

    /// Returns the escaped text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Somebody else's text in a line of ours: on one line, escaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign<'a>(pub(crate) &'a str);

impl Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::with_capacity(self.0.len());
        let mut escaped = Escaped::default();
        for (index, line) in self.0.split('\n').enumerate() {
            out.push_str(if index == 0 { "" } else { "\\n" });
            escaped.push(line, &mut out);
        }
        f.pad(&out)
    }
}

/// A path in a line of ours: bytes that are no text are shown as `\xNN`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignPath<'a>(pub(crate) &'a Path);

impl Display for ForeignPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for chunk in self.0.as_os_str().as_encoded_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            for byte in chunk.invalid() {
                write!(text, "\\x{byte:02x}")?;
            }
        }
        Foreign(&text).fmt(f)
    }
}

/// Escapes a text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Escaped {
    /// The last character that was written as it is.
    last: Option<char>,
    /// The number of combining marks at the end of the text so far.
    marks: u32,
}

impl Escaped {
    /// Returns the next piece, line breaks and tabs kept.
    pub(crate) fn text(&mut self, piece: &str) -> Printable {
        let mut out = String::with_capacity(piece.len());
        for (index, line) in piece.split('\n').enumerate() {
            if index > 0 {
                out.push('\n');
                self.last = Some('\n');
            }
            self.push(line, &mut out);
        }
        Printable(out)
    }

    /// Appends a piece of one line to `out`, escaped.
    fn push(&mut self, piece: &str, out: &mut String) {
        for character in piece.chars() {
            let is_mark = is_combining(character);
            self.marks = if is_mark { self.marks + 1 } else { 0 };
            if self.shows(character) && self.marks <= MARKS_IN_A_ROW {
                out.push(character);
                self.last = Some(character);
            } else {
                out.extend(character.escape_default());
                self.last = None;
            }
        }
    }

    /// Returns whether a character is shown as it is after the one before.
    fn shows(&self, character: char) -> bool {
        match character {
            '\t' => true,
            MARK => false,
            // Joiners: between emoji, and between letters of scripts that are written with them.
            '\u{200c}' | '\u{200d}' => self.last.is_some_and(takes_joiner),
            '\u{fe00}'..='\u{fe0f}' => self.last.is_some_and(takes_selector),
            _ => !is_hidden(character),
        }
    }
}

/// Returns whether a character commands a terminal, or reorders or hides text, whatever is beside
/// it.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control() || is_format(character)
}

/// Characters that aren't seen: format characters, fillers, selectors, tags, noncharacters.
fn is_format(character: char) -> bool {
    let code = u32::from(character);
    matches!(
        code,
        0xad | 0x34f
            | 0x61c
            | 0x115f
            | 0x1160
            | 0x17b4
            | 0x17b5
            | 0x180b..=0x180f
            | 0x200b..=0x200f
            | 0x2028..=0x202e
            | 0x2060..=0x206f
            | 0x3164
            | 0xfdd0..=0xfdef
            | 0xfe00..=0xfe0f
            | 0xfeff
            | 0xffa0
            | 0xfff0..=0xfffb
            | 0x1_3430..=0x1_345f
            | 0x1_bca0..=0x1_bca3
            | 0x1_d173..=0x1_d17a
            | 0xe_0000..=0xe_0fff
    ) || code & 0xfffe == 0xfffe
}

/// Marks that are drawn over or under the character before, of every script that has some.
fn is_combining(character: char) -> bool {
    matches!(
        u32::from(character),
        0x300..=0x36f
            | 0x483..=0x489
            | 0x591..=0x5bd
            | 0x5bf
            | 0x5c1..=0x5c2
            | 0x5c4..=0x5c5
            | 0x5c7
            | 0x610..=0x61a
            | 0x64b..=0x65f
            | 0x670
            | 0x6d6..=0x6dc
            | 0x6df..=0x6e4
            | 0x6e7..=0x6e8
            | 0x6ea..=0x6ed
            | 0x711
            | 0x730..=0x74a
            | 0x7eb..=0x7f3
            | 0x7fd
            | 0x816..=0x819
            | 0x81b..=0x823
            | 0x825..=0x827
            | 0x829..=0x82d
            | 0x859..=0x85b
            | 0x897..=0x89f
            | 0x8ca..=0x8e1
            | 0x8e3..=0x8ff
            | 0x93c
            | 0x94d
            | 0x951..=0x954
            | 0xe31
            | 0xe34..=0xe3a
            | 0xe47..=0xe4e
            | 0xeb1
            | 0xeb4..=0xebc
            | 0xec8..=0xece
            | 0xf18..=0xf19
            | 0xf35
            | 0xf37
            | 0xf39
            | 0xf71..=0xf84
            | 0xf86..=0xf87
            | 0xfc6
            | 0x1037..=0x103a
            | 0x135d..=0x135f
    ) || is_rarer_combining(u32::from(character))
}

/// Returns whether a character from U+1700 on is a combining mark; [`is_combining`] covers those
/// before.
fn is_rarer_combining(code: u32) -> bool {
    matches!(
        code,
        0x17c9..=0x17d3
            | 0x17dd
            | 0x18a9
            | 0x1939..=0x193b
            | 0x1a17..=0x1a18
            | 0x1a60..=0x1a7f
            | 0x1ab0..=0x1aff
            | 0x1b34
            | 0x1b6b..=0x1b73
            | 0x1cd0..=0x1cd2
            | 0x1cd4..=0x1ce8
            | 0x1ced
            | 0x1cf4
            | 0x1cf7..=0x1cf9
            | 0x1dc0..=0x1dff
            | 0x20d0..=0x20ff
            | 0x2cef..=0x2cf1
            | 0x2de0..=0x2dff
            | 0x302a..=0x302f
            | 0x3099..=0x309a
            | 0xa66f
            | 0xa674..=0xa67d
            | 0xa69e..=0xa69f
            | 0xa6f0..=0xa6f1
            | 0xa8e0..=0xa8f1
            | 0xa92b..=0xa92d
            | 0xaab0
            | 0xaab2..=0xaab4
            | 0xaab7..=0xaab8
            | 0xaabe..=0xaabf
            | 0xaac1
            | 0xfb1e
            | 0xfe20..=0xfe2f
            | 0x1_01fd
            | 0x1_02e0
            | 0x1_0376..=0x1_037a
            | 0x1_0a0d..=0x1_0a0f
            | 0x1_0a38..=0x1_0a3f
            | 0x1_0ae5..=0x1_0ae6
            | 0x1_0d24..=0x1_0d27
            | 0x1_0eab..=0x1_0eac
            | 0x1_0f46..=0x1_0f50
            | 0x1_0f82..=0x1_0f85
            | 0x1_1100..=0x1_1102
            | 0x1_1366..=0x1_1374
            | 0x1_6af0..=0x1_6af4
            | 0x1_6b30..=0x1_6b36
            | 0x1_d165..=0x1_d169
            | 0x1_d16d..=0x1_d172
            | 0x1_d17b..=0x1_d182
            | 0x1_d185..=0x1_d18b
            | 0x1_d1aa..=0x1_d1ad
            | 0x1_d242..=0x1_d244
            | 0x1_e000..=0x1_e02a
            | 0x1_e130..=0x1_e136
            | 0x1_e2ae
            | 0x1_e2ec..=0x1_e2ef
            | 0x1_e8d0..=0x1_e8d6
            | 0x1_e944..=0x1_e94a
    )
}

/// Returns whether a joiner after this character joins: emoji with their selectors and skin tones,
/// and scripts from Arabic to Khmer and Mongolian.
fn takes_joiner(last: char) -> bool {
    is_emoji(last)
        || matches!(u32::from(last), 0xfe0f | 0x600..=0x8ff | 0x900..=0xdff | 0xf00..=0xfff)
        || matches!(u32::from(last), 0x1000..=0x109f | 0x1780..=0x18af | 0xa840..=0xabff)
        || matches!(u32::from(last), 0xfb50..=0xfdff | 0xfe70..=0xfefc | 0x1_1000..=0x1_1fff)
}

/// Returns whether a variation selector after this character chooses a shape of it.
fn takes_selector(last: char) -> bool {
    is_emoji(last)
        || matches!(last, '#' | '*' | '0'..='9')
        || matches!(u32::from(last), 0x2000..=0x2fff | 0x3000..=0x9fff | 0xa9 | 0xae)
}

fn is_emoji(character: char) -> bool {
    matches!(u32::from(character), 0x2190..=0x2bff | 0x3030 | 0x303d | 0x3297 | 0x3299)
        || matches!(u32::from(character), 0x1_f000..=0x1_faff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        Printable::line(text).0
    }

    fn block(text: &str) -> String {
        Printable::block(text).0
    }

    #[test]
    fn no_text_commands_a_terminal() {
        assert_eq!(line("MIT \u{1b}[2J\r\u{9b}K\u{7f}"), "MIT \\u{1b}[2J\\r\\u{9b}K\\u{7f}");
        assert_eq!(line("größe, \u{4e2d}\t|"), "größe, \u{4e2d}\t|");
        for code in (0..0x20).chain(0x7f..0xa0).filter(|code| ![0x9, 0xa].contains(code)) {
            let control = char::from_u32(code).unwrap();
            let shown = block(&format!("a{control}b"));
            assert!(!shown.contains(control) && shown.is_ascii(), "{code:#x}: {shown}");
        }
    }

    #[test]
    fn characters_that_reorder_or_hide_text_are_seen() {
        let hidden = "\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{202a}\u{202e}\u{2060}\u{2066}\
                      \u{2069}\u{3164}\u{feff}\u{fff9}\u{e0001}\u{e0041}\u{e0100}\u{1d173}\u{ffff}";
        for character in hidden.chars() {
            for before in ["a", "👩", "م", "中", ""] {
                let shown = block(&format!("{before}{character}b"));
                let expected = format!("{before}{}b", character.escape_default());
                assert_eq!(shown, expected);
            }
        }
    }

    #[test]
    fn joiners_stay_where_they_join_and_nowhere_else() {
        let whole = ["👩\u{200d}👩\u{200d}👧", "🏳\u{fe0f}\u{200d}🌈", "👩🏽\u{200d}🚀", "❤\u{fe0f}"];
        for text in whole.into_iter().chain(["می\u{200c}خواهم", "क्\u{200d}ष", "1\u{fe0f}\u{20e3}"])
        {
            assert_eq!(block(text), text);
        }
        assert_eq!(block("a\u{200d}b"), "a\\u{200d}b");
        assert_eq!(block("👩\u{200d}\u{200d}"), "👩\u{200d}\\u{200d}", "one hides, two carry bits");
        assert_eq!(block("a\u{fe01}"), "a\\u{fe01}");
        assert_eq!(block("\u{200d}"), "\\u{200d}");
    }

    #[test]
    fn marks_are_not_piled_up_over_other_lines() {
        assert_eq!(block("e\u{301}\u{323}"), "e\u{301}\u{323}");
        for mark in ["\u{301}", "\u{8e4}", "\u{eb8}", "\u{1cd0}", "\u{2de0}", "\u{1e8d0}"] {
            let shown = |marks: &str| block(&format!("e{}", marks.repeat(9)));
            assert_eq!(shown(mark).matches(mark).count(), 4, "{mark:?}");
            // One of another script between them begins no new pile.
            let mixed = shown(&format!("\u{301}{mark}"));
            assert_eq!(mixed.chars().filter(|c| is_combining(*c)).count(), 4, "{mark:?}");
        }
    }

    #[test]
    fn nobody_else_writes_the_mark_of_a_verdict() {
        for shown in [line("◈ verified"), block("◈ verified"), Foreign("◈").to_string()] {
            assert!(shown.starts_with("\\u{25c8}"), "{shown}");
        }
    }

    #[test]
    fn a_line_break_in_a_message_begins_no_message() {
        assert_eq!(line("error\n\nVERIFIED\n"), "error\n\n    VERIFIED");
        assert_eq!(Foreign("MIT\nVERIFIED\u{1b}").to_string(), "MIT\\nVERIFIED\\u{1b}");
        assert_eq!(format!("{:<6}|", Foreign("a")), "a     |");
        assert_eq!(block("a\n\tb\n"), "a\n\tb\n");
    }

    #[test]
    fn pieces_are_escaped_as_the_whole() {
        let text =
            "👩\u{200d}👧 a\u{200d}b e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301} \u{1b}[1m\n";
        let mut escaped = Escaped::default();
        let pieces: String = text.chars().map(|piece| escaped.text(&piece.to_string()).0).collect();
        assert_eq!(pieces, block(text));
    }

    #[cfg(unix)]
    #[test]
    fn bytes_of_a_path_that_are_no_text_are_seen() {
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\x1b/b"));
        assert_eq!(ForeignPath(path).to_string(), "a\\xff\\u{1b}/b");
    }
}
