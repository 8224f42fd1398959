//! Text out of bytes that arrive in parts.

/// Holds back the bytes of a character whose rest has not arrived yet.
///
/// Everything pushed, plus [`finish`](Self::finish), joins to the lossy UTF-8 reading of all bytes:
/// ill-formed sequences become U+FFFD exactly as if the bytes had come at once.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of a character: at most three bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// Returns the text that `bytes` complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut incomplete = 0;
        let mut chunks = self.held.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                incomplete = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held.drain(..self.held.len().saturating_sub(incomplete));
        text
    }

    /// Returns the text of a character that was never completed.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Returns whether `bytes` may become one character when more arrive.
fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_appears_with_its_last_byte() {
        let mut stream = Utf8Stream::default();
        let [a, b, c, d] = "🙂".as_bytes() else { unreachable!("four bytes") };
        assert_eq!(stream.push(&[b'x', *a, *b]), "x");
        assert_eq!(stream.push(&[*c]), "");
        assert_eq!(stream.push(&[*d, b'y']), "🙂y");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn parts_join_to_the_lossy_reading_of_the_whole(
            parts in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![any::<u8>(), 0x80..=0xbf_u8, 0xe0..=0xf4_u8], 0..6),
                0..8)
        ) {
            let mut stream = Utf8Stream::default();
            let mut text: String = parts.iter().map(|part| stream.push(part)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&parts.concat()).into_owned());
        }
    }
}
