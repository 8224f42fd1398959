//! One Rust file as the rules see it: which bytes are code, comment or literal, which lines are
//! tests, and where a function ends.
//!
//! This is a scanner, not a parser: it knows comments, strings, characters, attributes and
//! brackets, and relies on `cargo fmt` for the rest. Every view keeps byte offsets and lines.

/// What a byte of Rust source belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// A Rust file with the views the rules read.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path below the repository's root, with `/`.
    pub(crate) path: String,
    /// The text of the file as it is.
    pub(crate) text: String,
    /// The file with comments and the insides of literals blanked.
    pub(crate) code: String,
    /// The file with only the insides of literals blanked.
    pub(crate) prose: String,
    /// For each line, whether it is test code.
    test_lines: Vec<bool>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let kinds = classify(text.as_bytes());
        let code = blank(text, &kinds, |kind| kind == Kind::Code);
        let prose = blank(text, &kinds, |kind| kind != Kind::Literal);
        let test_lines = test_lines(path, &code);
        Self { path: path.to_owned(), text: text.to_owned(), code, prose, test_lines }
    }

    /// Returns the lines of a view, numbered from 1, each with whether it is test code.
    pub(crate) fn lines<'a>(
        &'a self,
        view: &'a str,
    ) -> impl Iterator<Item = (usize, &'a str, bool)> {
        view.lines().enumerate().map(|(i, line)| (i + 1, line, self.is_test(i + 1)))
    }

    /// Returns whether a line, counted from 1, is test code.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line.wrapping_sub(1)).copied().unwrap_or(false)
    }

    /// Returns the number of lines that are not test code.
    pub(crate) fn length(&self) -> usize {
        self.lines(&self.text).filter(|(_, _, test)| !test).count()
    }

    /// Returns every function with a name: (line from 1, name, length in lines).
    pub(crate) fn functions(&self) -> Vec<(usize, &str, usize)> {
        let mut found = Vec::new();
        for at in words(&self.code, "fn") {
            let rest = self.code[at + 2..].trim_start();
            let name = &rest[..rest.bytes().take_while(|&b| is_word(b)).count()];
            if !name.is_empty() {
                let end = item_end(self.code.as_bytes(), at);
                let length = self.code[at..end].matches('\n').count() + 1;
                found.push((line_of(&self.code, at), name, length));
            }
        }
        found
    }

    /// Returns the bodies of all functions that have one: their bytes, braces included.
    pub(crate) fn bodies(&self) -> Vec<std::ops::Range<usize>> {
        let code = self.code.as_bytes();
        let body = |at| Some(item_body(code, at)?..item_end(code, at));
        words(&self.code, "fn").filter_map(body).collect()
    }

    /// Returns every module whose body stands in the file: its bytes and its name, outer ones
    /// first.
    pub(crate) fn inner_modules(&self) -> Vec<(std::ops::Range<usize>, String)> {
        let code = self.code.as_bytes();
        let module = |at: usize| {
            let body = item_body(code, at)?;
            let name = self.code[at + 3..body].trim().to_owned();
            name.bytes().all(is_word).then(|| (body..item_end(code, at), name))
        };
        words(&self.code, "mod").filter_map(module).collect()
    }

    /// Returns every attribute: (line from 1, its text).
    pub(crate) fn attributes(&self) -> Vec<(usize, &str)> {
        let mut found = Vec::new();
        for opening in ["#[", "#!["] {
            for (at, _) in self.code.match_indices(opening) {
                let end = bracket_end(self.code.as_bytes(), at + opening.len() - 1);
                found.push((line_of(&self.code, at), &self.code[at..end]));
            }
        }
        found
    }
}

/// Byte offsets at which `word` stands as a whole word.
pub(super) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).is_some_and(|i| is_word(bytes[i]));
        let after = bytes.get(at + word.len()).is_some_and(|&b| is_word(b));
        let starts = word.bytes().next().is_some_and(is_word);
        let ends = word.bytes().last().is_some_and(is_word);
        !(starts && before || ends && after)
    })
}

/// The line (from 1) of a byte offset.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn blank(text: &str, kinds: &[Kind], keep: impl Fn(Kind) -> bool) -> String {
    let byte = |(b, &kind): (u8, &Kind)| if keep(kind) || b == b'\n' { b } else { b' ' };
    let bytes: Vec<u8> = text.bytes().zip(kinds).map(byte).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn classify(text: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let at = kinds.len();
        let (kind, end) = span_at(text, at);
        kinds.resize(end.clamp(at + 1, text.len()), kind);
    }
    kinds
}

/// The kind of the piece that starts at `at`, and where it ends.
fn span_at(text: &[u8], at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    if rest.starts_with(b"//") {
        return (Kind::Comment, at + rest.iter().take_while(|&&b| b != b'\n').count());
    }
    if rest.starts_with(b"/*") {
        return (Kind::Comment, at + block_comment(rest));
    }
    let in_word = at.checked_sub(1).is_some_and(|i| is_word(text[i]));
    if let Some(length) = raw_string(rest).filter(|_| !in_word) {
        return (Kind::Literal, at + length);
    }
    match rest[0] {
        b'"' => (Kind::Literal, at + quoted(rest, b'"')),
        b'\'' if is_character(rest) => (Kind::Literal, at + quoted(rest, b'\'')),
        _ => (Kind::Code, at + 1),
    }
}

/// The length of a block comment, which may hold others.
fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of a raw string such as `r"…"`, `br#"…"#`, if one starts here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|p| rest.starts_with(p))?.len();
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = &rest[open + 1..];
    let length = body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
    Some((open + 1 + length + close.len()).min(rest.len()))
}

/// The length of a quoted literal that starts at the first byte, escapes included.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Whether the apostrophe at the start opens a character rather than a lifetime.
fn is_character(rest: &[u8]) -> bool {
    let Some(&first) = rest.get(1) else { return false };
    let width = match first {
        b'\\' => return true,
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    rest.get(1 + width) == Some(&b'\'')
}

/// Marks the lines of items under `#[cfg(test)]` and `#[test]`, or all lines of a test file.
fn test_lines(path: &str, code: &str) -> Vec<bool> {
    let mut marks = vec![is_test_path(path); code.lines().count()];
    for attribute in ["#[cfg(test)]", "#[cfg(all(test,", "#[test]", "#[tokio::test"] {
        for (at, _) in code.match_indices(attribute) {
            let first = line_of(code, at);
            let last = line_of(code, item_end(code.as_bytes(), at).saturating_sub(1));
            let end = last.min(marks.len());
            marks[(first - 1).min(end)..end].fill(true);
        }
    }
    marks
}

fn is_test_path(path: &str) -> bool {
    let folders = ["/tests/", "/benches/", "/examples/", "/fuzz_targets/"];
    folders.iter().any(|f| path.contains(f)) || path.ends_with("/tests.rs")
}

/// Where the item that starts at `from` ends: after its `;` or its closing brace.
fn item_end(code: &[u8], from: usize) -> usize {
    match item_body(code, from) {
        Some(brace) => bracket_end(code, brace),
        None => item_head(code, from).saturating_add(1).min(code.len()),
    }
}

/// Where the body of the item that starts at `from` opens, if it has one.
fn item_body(code: &[u8], from: usize) -> Option<usize> {
    let end = item_head(code, from);
    (code.get(end) == Some(&b'{')).then_some(end)
}

/// Where the head of the item that starts at `from` ends: at its `;` or its opening brace.
/// Attributes before the item are skipped like any other bracket.
fn item_head(code: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < code.len() && !matches!(code[at], b'{' | b';') {
        at = match code[at] {
            b'(' | b'[' => bracket_end(code, at),
            _ => at + 1,
        };
    }
    at.min(code.len())
}

/// Where the bracket that opens at `from` is closed, whatever brackets stand inside.
fn bracket_end(code: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn source(text: &str) -> Source {
        Source::new("crates/a/src/b.rs", text)
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let lines = [
            r#"let a = "unsafe \" unsafe"; // unsafe"#,
            "let b = r#\"un\"safe\"#; /* /* un */ safe */",
            r#"let c = ['x', '\'', '"', 'é']; c"#,
        ];
        let file = source(&lines.join("\n"));
        assert!(!file.code.contains("safe"), "{}", file.code);
        assert!(file.code.ends_with("; c"), "{}", file.code);
        assert!(file.prose.contains("// unsafe"));
        assert_eq!(file.code.len(), file.text.len());
    }

    #[test]
    fn a_lifetime_does_not_open_a_character() {
        let file = source("fn f<'a>(x: &'a str) -> &'a str { unsafe_word(x) }");
        assert_eq!(file.code, file.text);
    }

    #[test]
    fn lines_of_test_items_are_marked_and_others_are_not() {
        let file = source("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n");
        let marks: Vec<bool> = file.lines(&file.code).map(|(_, _, test)| test).collect();
        assert_eq!(marks, [false, true, true, true, true, false]);
        assert_eq!(file.length(), 2);
    }

    #[test]
    fn a_test_module_in_its_own_file_marks_only_its_declaration() {
        let file = source("#[cfg(test)]\nmod tests;\nfn a() {}\n");
        assert!(file.is_test(2) && !file.is_test(3));
        assert!(Source::new("crates/a/src/b/tests.rs", "fn a() {}\n").is_test(1));
    }

    #[test]
    fn functions_are_measured_from_name_to_closing_brace() {
        let file = source("fn a(x: [u8; 4]) -> [u8; 2] {\n  {\n  }\n}\nfn b();\nlet f: fn(u8);\n");
        assert_eq!(file.functions(), [(1, "a", 4), (5, "b", 1)]);
    }

    #[test]
    fn attributes_are_found_whole() {
        let file = source("#![deny(\n  a,\n)]\n#[expect(b, reason = \"c\")]\nfn d() {}\n");
        let names: Vec<usize> = file.attributes().iter().map(|&(line, _)| line).collect();
        assert_eq!(names, [4, 1]);
        assert!(file.attributes()[1].1.contains("a,"));
    }
}
