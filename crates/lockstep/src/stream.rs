//! An answer's text as its tokens come, escaped for the eyes.

use lockstep_client::text::AnswerText;
use lockstep_import::tokenizer::Tokenizer;

use crate::output::Printer;
use crate::printable::Escaped;

/// Shows an answer as its tokens come, and keeps its text.
pub(crate) struct StreamedAnswer<'a> {
    text: AnswerText<'a>,
    printer: Printer,
    escaped: Escaped,
}

impl<'a> StreamedAnswer<'a> {
    /// Creates an empty answer that ends before any of these texts.
    pub(crate) fn new(tokenizer: &'a Tokenizer, stops: &[Vec<u8>], printer: Printer) -> Self {
        Self { text: AnswerText::new(tokenizer, stops), printer, escaped: Escaped::default() }
    }

    /// Shows a token's text, as far as it is known.
    pub(crate) fn token(&mut self, token: u32) {
        let piece = self.text.push(token);
        self.show(&piece);
    }

    fn show(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.printer.piece(&self.escaped.text(piece));
        }
    }

    /// Shows what was held back, ends the line of an answer, and returns the whole text as it is.
    pub(crate) fn finish(mut self, is_answer: bool) -> String {
        let piece = self.text.finish();
        self.show(&piece);
        if is_answer || !self.text.text().is_empty() {
            self.printer.block("\n");
        }
        self.text.into_text()
    }
}
