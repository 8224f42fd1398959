//! The names under which people know models.

use std::fmt;
use std::str::FromStr;

use crate::limits;

/// A model's name on this machine: lower-case letters, digits, `.`, `_` and `-`, starting with a
/// letter or digit. It is a file name, so nothing else is let in; and no name looks like an id,
/// since both say which model is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// Returns the name of the model as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError { name: text.to_owned() };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.len() > limits::MODEL_NAME_BYTES || !text.starts_with(plain) {
            return Err(refused());
        }
        if !text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-')) {
            return Err(refused());
        }
        if is_id(text) {
            return Err(refused());
        }
        Ok(Self(text.to_owned()))
    }
}

impl ModelName {
    /// Returns a name made of any text, such as a file's: what may not stand in one becomes a
    /// hyphen. `None` if nothing of the text is left.
    ///
    /// # Examples
    /// ```
    /// # use lockstep_node::store::ModelName;
    /// let name = |text| ModelName::made_of(text).map(|name| name.to_string());
    /// assert_eq!(name("Llama 3.2 (1B)"), Some("llama-3.2-1b".to_owned()));
    /// assert_eq!(name("\u{6a21}\u{578b}"), None);
    /// ```
    pub fn made_of(text: &str) -> Option<Self> {
        let mut name = String::new();
        for c in text.chars().map(|c| c.to_ascii_lowercase()) {
            match c {
                'a'..='z' | '0'..='9' | '.' | '_' => name.push(c),
                _ if name.ends_with('-') => {}
                _ => name.push('-'),
            }
        }
        let name = name.trim_matches(['.', '_', '-']);
        let name = name.get(..limits::MODEL_NAME_BYTES).unwrap_or(name);
        let name = if is_id(name) { format!("model-{name}") } else { name.to_owned() };
        let name = name.get(..limits::MODEL_NAME_BYTES).unwrap_or(&name);
        name.trim_end_matches(['.', '_', '-']).parse().ok()
    }

    /// Returns this name with `-number` behind it, cut short where it would be too long; `None` if
    /// that is no name.
    pub fn numbered(&self, number: u32) -> Option<Self> {
        let end = format!("-{number}");
        let most = limits::MODEL_NAME_BYTES.saturating_sub(end.len());
        format!("{}{end}", self.0.get(..most).unwrap_or(&self.0)).parse().ok()
    }
}

/// Returns whether a text can be the beginning of a model's id: eight hexadecimal digits or more.
fn is_id(text: &str) -> bool {
    text.len() >= limits::MODEL_ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error that a text can't be the name of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no model name: use lower-case letters, digits, '.', '_' and '-', \
     starting with a letter or digit, and nothing that looks like an id (8 hexadecimal digits)"
)]
pub struct NameError {
    /// The text that was given.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_makes_a_name_or_none() {
        let long = "z".repeat(300);
        for (text, expected) in [
            ("Model.Q4_K_M", "model.q4_k_m"),
            ("-dash", "dash"),
            (".hidden", "hidden"),
            ("two  words!", "two-words"),
            ("\u{43c}odel", "odel"),
            ("40236d8fa1f2", "model-40236d8fa1f2"),
            (&long, &long[..limits::MODEL_NAME_BYTES]),
        ] {
            assert_eq!(ModelName::made_of(text).expect(text).as_str(), expected);
        }
        for none in ["", "---", "\u{6a21}\u{578b}", "..."] {
            assert_eq!(ModelName::made_of(none), None, "{none:?}");
        }
        let name: ModelName = long[..limits::MODEL_NAME_BYTES].parse().expect("as long as can be");
        let second = name.numbered(2).expect("a name");
        assert!(second.as_str().ends_with("z-2") && second.as_str().len() <= 128);
    }

    #[test]
    fn a_name_can_not_leave_its_directory() {
        for good in ["smollm2", "qwen3-0.6b", "a_b.c"] {
            assert_eq!(good.parse::<ModelName>().expect(good).as_str(), good);
        }
        let long = "a".repeat(limits::MODEL_NAME_BYTES + 1);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-rf",
            ".hidden",
            "Big",
            "a b",
            "a\0",
            &long,
            "40236d8fa1f2",
        ] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
    }
}
