//! An answer's text as its tokens come: cut before a stop text, whole characters only, escaped for
//! the eyes.

use lockstep_import::tokenizer::{ControlText, Tokenizer, Utf8Stream};

use crate::output::Voice;
use crate::printable::Escaped;

/// Shows an answer as its tokens come, and keeps its text.
pub(crate) struct Shown<'a> {
    tokenizer: &'a Tokenizer,
    voice: Voice,
    cut: StopCut,
    characters: Utf8Stream,
    escaped: Escaped,
    all: String,
}

impl<'a> Shown<'a> {
    /// An empty answer that ends before any of these texts.
    pub(crate) fn new(tokenizer: &'a Tokenizer, stops: &[Vec<u8>], voice: Voice) -> Self {
        Self {
            tokenizer,
            voice,
            cut: StopCut::new(stops),
            characters: Utf8Stream::default(),
            escaped: Escaped::default(),
            all: String::new(),
        }
    }

    /// Shows a token's text, as far as its characters are whole and can't be the beginning of a
    /// stop text; control tokens have none.
    pub(crate) fn token(&mut self, token: u32) {
        let bytes = self.tokenizer.decode_bytes(&[token], ControlText::Plain);
        let bytes = self.cut.push(&bytes);
        let piece = self.characters.push(&bytes);
        self.show(&piece);
    }

    fn show(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.voice.piece(&self.escaped.text(piece));
            self.all.push_str(piece);
        }
    }

    /// What was held back is shown, and the line of an answer ended; the whole text, as it is.
    pub(crate) fn finish(mut self, is_answer: bool) -> String {
        let held = self.cut.take_held();
        let piece = self.characters.push(&held);
        self.show(&piece);
        let rest = std::mem::take(&mut self.characters).finish();
        self.show(&rest);
        if is_answer || !self.all.is_empty() {
            self.voice.block("\n");
        }
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

    /// The bytes that can be passed on.
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

    /// What waits, when nothing comes any more.
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
