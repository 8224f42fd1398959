//! An answer's text as its tokens come, escaped for the eyes.

use lockstep_client::text::AnswerText;
use lockstep_import::tokenizer::Tokenizer;

use crate::output::Voice;
use crate::printable::Escaped;

/// Shows an answer as its tokens come, and keeps its text.
pub(crate) struct Shown<'a> {
    text: AnswerText<'a>,
    voice: Voice,
    escaped: Escaped,
}

impl<'a> Shown<'a> {
    /// Creates an empty answer that ends before any of these texts.
    pub(crate) fn new(tokenizer: &'a Tokenizer, stops: &[Vec<u8>], voice: Voice) -> Self {
        Self { text: AnswerText::new(tokenizer, stops), voice, escaped: Escaped::default() }
    }

    /// Shows a token's text, as far as it is known.
    pub(crate) fn token(&mut self, token: u32) {
        let piece = self.text.push(token);
        self.show(&piece);
    }

    fn show(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.voice.piece(&self.escaped.text(piece));
        }
    }

    /// What was held back is shown, and the line of an answer ended; the whole text, as it is.
    pub(crate) fn finish(mut self, is_answer: bool) -> String {
        let piece = self.text.finish();
        self.show(&piece);
        if is_answer || !self.text.text().is_empty() {
            self.voice.block("\n");
        }
        self.text.into_text()
    }
}
