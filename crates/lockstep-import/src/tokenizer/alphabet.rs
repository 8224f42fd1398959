//! The alphabet in which model files spell bytes as printable characters.
//!
//! Bytes 33..=126, 161..=172 and 174..=255 stand for the character of the same number; the other
//! 68, in order, for the characters from U+0100 on. So a space is spelled `Ġ`.

/// Returns the byte that `letter` spells, if it spells one.
pub(super) fn byte_of(letter: char) -> Option<u8> {
    let number = u32::from(letter);
    let byte = match number {
        33..=126 | 161..=172 | 174..=255 => number,
        0x100..=0x120 => number - 0x100,
        0x121..=0x142 => number - 0x121 + 127,
        0x143 => 173,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Returns the letter that spells `byte`.
fn letter_of(byte: u8) -> char {
    let number = u32::from(byte);
    let letter = match number {
        0..=32 => number + 0x100,
        127..=160 => number - 127 + 0x121,
        173 => 0x143,
        _ => number,
    };
    char::from_u32(letter).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Returns the letters of all bytes.
pub(crate) fn byte_letters() -> impl Iterator<Item = char> {
    (0..=255).map(letter_of)
}

/// Spells `bytes` in the byte alphabet.
pub(super) fn spelled(bytes: &[u8]) -> String {
    bytes.iter().copied().map(letter_of).collect()
}

/// Returns the bytes that `text` spells, or the first character that spells none.
pub(super) fn bytes_of(text: &str) -> Result<Vec<u8>, char> {
    text.chars().map(|letter| byte_of(letter).ok_or(letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_letter() {
        let mut letters = [None; 256];
        for letter in (0..0x400).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(letter) {
                assert_eq!(letters[usize::from(byte)].replace(letter), None, "{byte:#x}");
            }
        }
        for byte in 0..=255 {
            assert_eq!(letters[usize::from(byte)], Some(letter_of(byte)), "{byte:#x}");
        }
        assert_eq!((letters[32], letters[10], letters[65]), (Some('Ġ'), Some('Ċ'), Some('A')));
    }

    #[test]
    fn a_character_outside_the_alphabet_is_named() {
        assert_eq!(bytes_of("Ġthe"), Ok(b" the".to_vec()));
        assert_eq!(spelled(b" the\xad"), "Ġthe\u{143}");
        assert_eq!(bytes_of("a b"), Err(' '));
        assert_eq!(bytes_of("▁the"), Err('▁'));
    }
}
