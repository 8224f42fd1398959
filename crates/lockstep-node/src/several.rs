//! Parses settings that name several things, such as addresses, node ids or tickets.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// Returns the parts of a text that names several things: commas and white space separate them.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|character: char| character == ',' || character.is_whitespace());
    parts.filter(|part| !part.is_empty())
}

/// Reads a setting that names several things: a list of texts, or one text of several parts.
///
/// # Errors
/// What the value's own reading says.
pub(crate) fn several<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<String, A::Error> {
            let mut all = String::new();
            while let Some(text) = texts.next_element::<String>()? {
                all += &text;
                all.push(',');
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(Texts)?.parse().map_err(de::Error::custom)
}
