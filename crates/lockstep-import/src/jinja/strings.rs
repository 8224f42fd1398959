//! Classes of characters as Python defines them, and searches in text.

use super::budget::{Budget, Error, Result};

/// Returns whether Python's `str.isspace` holds.
pub(super) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

/// Returns whether a line ends with it, for `str.splitlines`.
pub(super) fn is_line_end(letter: char) -> bool {
    matches!(
        letter,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Returns whether Python's `repr` shows it as it is.
pub(super) fn is_printable(letter: char) -> bool {
    // Behind another character, Rust escapes what Python does, and the marks `\`, `'` and `"`.
    let mut pair = ['a', letter].iter().collect::<String>().escape_debug().count() == 2;
    pair |= matches!(letter, '\\' | '\'' | '"');
    pair
}

/// Returns the first letter of a word, and the rest, as `str.title` and `str.capitalize` write
/// them.
pub(super) fn title_case(letter: char) -> String {
    match letter {
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}'.to_string(),
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}'.to_string(),
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}'.to_string(),
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}'.to_string(),
        // Georgian has capitals, but no words that begin with one.
        '\u{10d0}'..='\u{10ff}' => letter.to_string(),
        _ => {
            let mut upper = letter.to_uppercase();
            let first = upper.next().into_iter();
            first.chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

/// Returns whether it is a letter that has an upper and a lower case.
pub(super) fn is_cased(letter: char) -> bool {
    letter.is_lowercase() || letter.is_uppercase() || matches!(letter, '\u{1c5}' | '\u{1c8}')
}

/// Returns the offsets at which `part` stands in `text`, from left to right, without overlaps.
pub(super) fn places(budget: &Budget, text: &str, part: &str) -> Result<Vec<usize>> {
    budget.read(text.len())?;
    let found: Vec<usize> = text.match_indices(part).map(|(at, _)| at).collect();
    budget.make_times(size_of::<usize>(), found.len())?;
    Ok(found)
}

/// Returns a number as a count, 0 if it is negative; an error if no value can have so many.
pub(super) fn count(number: i128) -> Result<usize> {
    if number < 0 {
        return Ok(0);
    }
    usize::try_from(number).map_err(|_| Error::fails("the number is too large for a length"))
}

/// Returns the byte at which the character `at` of `text` begins; its end if there are fewer.
pub(super) fn byte_of(text: &str, at: usize) -> usize {
    if text.is_ascii() {
        return at.min(text.len());
    }
    text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
}
