//! Splits a template's source into tokens, as Jinja2's lexer does.
//!
//! White space is Jinja2's under `trim_blocks` and `lstrip_blocks`: a block or comment takes the
//! line break behind it, and the white space before it if nothing else stands on its line; `-`
//! takes all white space on its side, `+` none. Line ends of all systems are read as `\n`.

use super::budget::{Error, Result};
use super::strings::is_space;

/// A token, and the line on which it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

/// The kinds of tokens of the template language.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text that stands between the tags.
    Text(String),
    /// The beginning of a printed expression, `{{`.
    PrintBegin,
    /// The end of a printed expression, `}}`.
    PrintEnd,
    /// The beginning of a statement, `{%`.
    BlockBegin,
    /// The end of a statement, `%}`.
    BlockEnd,
    Name(String),
    String(String),
    Integer(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Operators; where one begins another, the longer stands first.
const OPERATORS: [&str; 26] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "<", ">", "=", "~", "|", ".", ",",
    ":", ";", "(", ")", "[", "]", "{", "}",
];

/// Returns the tokens of `source`.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, found: Vec::new(), bol: true };
    while lexer.at < source.len() {
        lexer.text()?;
    }
    lexer.push(Kind::End);
    Ok(lexer.found)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    found: Vec<Token>,
    /// Whether what was read last ended with a line break, or is the start.
    bol: bool,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind) {
        self.found.push(Token { line: self.line, kind });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::fails(message).at(self.line))
    }

    /// Goes on by `bytes`, counting lines.
    fn advance(&mut self, bytes: usize) {
        let passed = self.rest().get(..bytes).unwrap_or_default();
        self.line += passed.matches('\n').count() as u32;
        self.bol = passed.ends_with('\n');
        self.at += bytes;
    }

    /// Reads text up to the next tag, and the tag.
    fn text(&mut self) -> Result<()> {
        let rest = self.rest();
        let Some((start, open)) = next_tag(rest) else {
            self.push(Kind::Text(rest.to_owned()));
            self.advance(rest.len());
            return Ok(());
        };
        let text = rest.get(..start).unwrap_or_default();
        let sign = rest.get(start + 2..).and_then(|rest| rest.chars().next());
        let kept = match sign {
            Some('-') => text.trim_end_matches(is_space),
            Some('+') => text,
            _ if open == "{{" => text,
            _ => without_indent(text, self.bol),
        };
        if !kept.is_empty() {
            self.push(Kind::Text(kept.to_owned()));
        }
        self.advance(start);
        let signed = matches!(sign, Some('-' | '+'));
        match open {
            "{#" => self.comment(),
            "{%" => match raw_begin(self.rest()) {
                Some(len) => self.raw(len),
                None => self.tag(Kind::BlockBegin, signed),
            },
            _ => self.tag(Kind::PrintBegin, signed),
        }
    }

    /// Skips a comment, which begins here.
    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        let Some(end) = rest.get(2..).and_then(|body| body.find("#}")) else {
            return self.fail("a comment without its end");
        };
        let close = end + 2;
        let before = rest.get(2..close).unwrap_or_default();
        let behind = self.behind(close + 2, before.chars().last());
        self.advance(behind);
        Ok(())
    }

    /// Returns the offset at which reading goes on after a tag that ends at `end`, with `sign`
    /// before its last mark.
    fn behind(&self, end: usize, sign: Option<char>) -> usize {
        let after = self.rest().get(end..).unwrap_or_default();
        match sign {
            Some('-') => end + (after.len() - after.trim_start_matches(is_space).len()),
            Some('+') => end,
            _ if after.starts_with('\n') => end + 1,
            _ => end,
        }
    }

    /// Reads `{% raw %}` of `len` bytes, and all up to its end.
    fn raw(&mut self, len: usize) -> Result<()> {
        self.advance(len);
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest.get(from..).and_then(|rest| rest.find("{%")) {
            let start = from + found;
            let Some((end, sign)) = raw_end(rest.get(start..).unwrap_or_default()) else {
                from = start + 2;
                continue;
            };
            let text = rest.get(..start).unwrap_or_default();
            let kept = match rest.get(start + 2..).and_then(|rest| rest.chars().next()) {
                Some('-') => text.trim_end_matches(is_space),
                Some('+') => text,
                _ => without_indent(text, self.bol),
            };
            if !kept.is_empty() {
                self.push(Kind::Text(kept.to_owned()));
            }
            let behind = self.behind(start + end, sign);
            self.advance(behind);
            return Ok(());
        }
        self.fail("raw without endraw")
    }

    /// Reads a tag's begin, its tokens, and its end.
    fn tag(&mut self, begin: Kind, signed: bool) -> Result<()> {
        let is_block = begin == Kind::BlockBegin;
        self.push(begin);
        self.advance(2 + usize::from(signed));
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            self.advance(blank);
            let rest = self.rest();
            if rest.is_empty() {
                return self.fail("a tag without its end");
            }
            if open.is_empty()
                && let Some((end, sign)) = tag_end(rest, is_block)
            {
                self.push(if is_block { Kind::BlockEnd } else { Kind::PrintEnd });
                let sign = if is_block || sign == Some('-') { sign } else { Some('+') };
                let behind = self.behind(end, sign);
                self.advance(behind);
                return Ok(());
            }
            self.token(&mut open)?;
        }
    }

    /// Reads one token inside a tag; `open` are the brackets that wait for their ends.
    fn token(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or_default();
        if first == '"' || first == '\'' {
            return self.string(first);
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '_' || first.is_alphanumeric() {
            let is_part = |c: char| c == '_' || c.is_alphanumeric();
            let len = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            self.push(Kind::Name(rest.get(..len).unwrap_or_default().to_owned()));
            self.advance(len);
            return Ok(());
        }
        let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator))
        else {
            return self.fail(format!("unexpected character {first:?}"));
        };
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(operator) => {
                return self.fail(format!("unexpected {operator:?}"));
            }
            _ => {}
        }
        self.push(Kind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let body = self.rest().get(1..).unwrap_or_default();
        let mut escaped = false;
        let end = body.char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else { return self.fail("a string without its end") };
        match unescaped(body.get(..end).unwrap_or_default()) {
            Ok(text) => self.push(Kind::String(text)),
            Err(escape) => {
                return self.fail(format!("{escape} in a string stands for no character"));
            }
        }
        self.advance(end + 2);
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let whole = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        let word = rest.get(..whole).unwrap_or_default();
        let radix = match word.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => 16,
            Some("0o") => 8,
            Some("0b") => 2,
            _ => 10,
        };
        let (len, kind) = if radix == 10 {
            decimal(rest)
        } else {
            let digits = word.get(2..).unwrap_or_default().replace('_', "");
            (whole, i128::from_str_radix(&digits, radix).ok().map(Kind::Integer))
        };
        let Some(kind) = kind else {
            return self.fail(format!("{word} is no number, or one of more than 127 bits"));
        };
        self.push(kind);
        self.advance(len);
        Ok(())
    }
}

/// Returns the length of the decimal number that `rest` begins with, and its value.
fn decimal(rest: &str) -> (usize, Option<Kind>) {
    let digits = |from: usize| {
        let tail = rest.get(from..).unwrap_or_default();
        if !tail.starts_with(|c: char| c.is_ascii_digit()) {
            return from;
        }
        let len = tail.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(tail.len());
        from + tail.get(..len).unwrap_or_default().trim_end_matches('_').len()
    };
    let byte = |at: usize| rest.as_bytes().get(at).copied().unwrap_or_default();
    let whole = digits(0);
    let mut end = whole;
    if byte(end) == b'.' {
        let fraction = digits(end + 1);
        if fraction > end + 1 {
            end = fraction;
        }
    }
    if matches!(byte(end), b'e' | b'E') {
        let sign = usize::from(matches!(byte(end + 1), b'+' | b'-'));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    let text = rest.get(..end).unwrap_or_default().replace('_', "");
    if end == whole {
        let leading = text.len() > 1 && text.starts_with('0') && text.bytes().any(|b| b != b'0');
        return (end, text.parse().ok().filter(|_| !leading).map(Kind::Integer));
    }
    (end, text.parse().ok().map(Kind::Float))
}

/// Returns the first tag in `text`: where it begins, and how.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    text.match_indices('{').find_map(|(at, _)| {
        let open = match text.as_bytes().get(at + 1)? {
            b'{' => "{{",
            b'%' => "{%",
            b'#' => "{#",
            _ => return None,
        };
        Some((at, open))
    })
}

/// Returns `text` without the white space that its last line consists of, if there is nothing else
/// on it.
fn without_indent(text: &str, at_line_start: bool) -> &str {
    let line = text.rfind('\n').map_or(0, |at| at + 1);
    let indent = text.get(line..).unwrap_or_default();
    if (line > 0 || at_line_start) && indent.chars().all(is_space) {
        text.get(..line).unwrap_or_default()
    } else {
        text
    }
}

/// Returns the length of the end of a tag, and its sign, if `rest` begins with one.
fn tag_end(rest: &str, is_block: bool) -> Option<(usize, Option<char>)> {
    let end = if is_block { "%}" } else { "}}" };
    if rest.starts_with(end) {
        return Some((2, None));
    }
    let sign = rest.chars().next().filter(|c| *c == '-' || (*c == '+' && is_block))?;
    rest.get(1..)?.starts_with(end).then_some((3, Some(sign)))
}

/// Returns the length of `{% raw %}` if `rest` begins with it.
fn raw_begin(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("{%")?;
    let body = body.strip_prefix(['-', '+']).unwrap_or(body).trim_start_matches(is_space);
    let body = body.strip_prefix("raw")?.trim_start_matches(is_space);
    if let Some(after) = body.strip_prefix("-%}") {
        return Some(rest.len() - after.trim_start_matches(is_space).len());
    }
    Some(rest.len() - body.strip_prefix("%}")?.len())
}

/// Returns the length of `{% endraw %}` and the sign before its end, if `rest` begins with it.
fn raw_end(rest: &str) -> Option<(usize, Option<char>)> {
    let body = rest.strip_prefix("{%")?;
    let body = body.strip_prefix(['-', '+']).unwrap_or(body).trim_start_matches(is_space);
    let body = body.strip_prefix("endraw")?.trim_start_matches(is_space);
    let (len, sign) = tag_end(body, true)?;
    Some((rest.len() - body.len() + len, sign))
}

/// Returns the text that a string literal stands for, as Python reads it, or the escape that stands
/// for nothing.
fn unescaped(text: &str) -> std::result::Result<String, String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        let Some(escape) = letters.next() else { return Err("\\".to_owned()) };
        let digits = match escape {
            '\n' => continue,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '\'' | '"' => escape,
            'x' => numbered(&mut letters, escape, 2)?,
            'u' => numbered(&mut letters, escape, 4)?,
            'U' => numbered(&mut letters, escape, 8)?,
            'N' => return Err("\\N".to_owned()),
            '0'..='7' => octal(&mut letters, escape),
            _ => {
                out.push('\\');
                escape
            }
        };
        out.push(digits);
    }
    Ok(out)
}

/// Returns the character whose number follows in `digits` hexadecimal digits.
fn numbered(
    letters: &mut std::str::Chars<'_>,
    escape: char,
    digits: usize,
) -> std::result::Result<char, String> {
    let number: String = letters.by_ref().take(digits).collect();
    let is_number = number.len() == digits && number.bytes().all(|b| b.is_ascii_hexdigit());
    let code = u32::from_str_radix(&number, 16).ok().filter(|_| is_number);
    code.and_then(char::from_u32).ok_or_else(|| format!("\\{escape}{number}"))
}

/// Returns the character whose number is `first` and up to two octal digits that follow.
fn octal(letters: &mut std::str::Chars<'_>, first: char) -> char {
    let mut code = first.to_digit(8).unwrap_or_default();
    for _ in 0..2 {
        let Some(digit) = letters.as_str().chars().next().and_then(|c| c.to_digit(8)) else {
            break;
        };
        code = code * 8 + digit;
        letters.next();
    }
    char::from_u32(code).unwrap_or_default()
}
