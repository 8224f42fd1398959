//! An answer's text as its tokens come: cut before a stop text, whole characters only.

use lockstep_import::tokenizer::{ControlText, Tokenizer, Utf8Stream};

/// Makes the text of an answer out of its tokens as they come, and keeps it.
pub struct AnswerText<'a> {
    tokenizer: &'a Tokenizer,
    cut: StopCut,
    characters: Utf8Stream,
    all: String,
}

impl<'a> AnswerText<'a> {
    /// Creates an empty answer that ends before any of these texts.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, stops: &[Vec<u8>]) -> Self {
        let (cut, characters) = (StopCut::new(stops), Utf8Stream::default());
        Self { tokenizer, cut, characters, all: String::new() }
    }

    /// Takes the next token of the answer. Returns the text that can be shown now: as far as its
    /// characters are whole and can't be the beginning of a stop text. Control tokens have none.
    pub fn push(&mut self, token: u32) -> String {
        let bytes = self.tokenizer.decode_bytes(&[token], ControlText::Plain);
        let bytes = self.cut.push(&bytes);
        let piece = self.characters.push(&bytes);
        self.all.push_str(&piece);
        piece
    }

    /// Returns what was held back, because no more tokens come.
    pub fn finish(&mut self) -> String {
        let held = self.cut.take_held();
        let mut piece = self.characters.push(&held);
        piece.push_str(&std::mem::take(&mut self.characters).finish());
        self.all.push_str(&piece);
        piece
    }

    /// Returns the whole text until now.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.all
    }

    /// Returns the whole text until now.
    #[must_use]
    pub fn into_text(self) -> String {
        self.all
    }
}

/// Passes bytes on up to the first stop text in them; what may be the beginning of one waits.
#[derive(Debug, Default)]
struct StopCut {
    stops: Vec<Vec<u8>>,
    held: Vec<u8>,
    has_ended: bool,
}

impl StopCut {
    fn new(stops: &[Vec<u8>]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: Vec::new(), has_ended: false }
    }

    /// Returns the bytes that can be passed on.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.has_ended {
            return Vec::new();
        }
        self.held.extend_from_slice(bytes);
        let find = |stop: &Vec<u8>| self.held.windows(stop.len()).position(|part| part == stop);
        if let Some(at) = self.stops.iter().filter_map(find).min() {
            self.has_ended = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        let first = self.held.len().saturating_sub(longest);
        let begins = |from: &usize| {
            let end = self.held.get(*from..).unwrap_or_default();
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        let keep_from = (first..self.held.len()).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep_from);
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns the bytes that were held back because they could have begun a stop text, when no
    /// token follows any more.
    fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of each piece, and at the end.
    fn cut(stops: &[&str], pieces: &[&str]) -> Vec<String> {
        let stops: Vec<Vec<u8>> = stops.iter().map(|stop| stop.as_bytes().to_vec()).collect();
        let mut cut = StopCut::new(&stops);
        let mut out: Vec<Vec<u8>> = pieces.iter().map(|piece| cut.push(piece.as_bytes())).collect();
        out.push(cut.take_held());
        out.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn a_stop_text_and_what_follows_it_are_not_passed_on() {
        assert_eq!(cut(&["END"], &["a ENDb", "c"]), ["a ", "", ""]);
        assert_eq!(cut(&["END"], &["a E", "N", "Db", "c"]), ["a ", "", "", "", ""]);
        assert_eq!(cut(&["b", "ab"], &["xab"]), ["x", ""], "the first to begin");
        assert_eq!(cut(&["\n\n"], &["a\n", "\nb"]), ["a", "", ""]);
    }

    #[test]
    fn what_only_begins_like_a_stop_text_waits_and_then_comes() {
        assert_eq!(cut(&["END"], &["a EN", "ds", "E"]), ["a ", "ENds", "", "E"]);
        assert_eq!(cut(&["aab"], &["aa", "a", "c"]), ["", "a", "aac", ""]);
        assert_eq!(cut(&[], &["a", "b"]), ["a", "b", ""]);
        assert_eq!(cut(&["é"], &["e"]), ["e", ""]);
    }

    #[test]
    fn pieces_of_any_length_give_what_the_whole_gives() {
        let (stops, text) = (["abab", "bb"], "aabaababaxbb");
        let whole = cut(&stops, &[text]).concat();
        for size in 1..text.len() {
            let pieces: Vec<&str> =
                text.as_bytes().chunks(size).map(|p| std::str::from_utf8(p).unwrap()).collect();
            assert_eq!(cut(&stops, &pieces).concat(), whole, "{size}");
        }
    }
}
