//! The names under which people know models.

use std::fmt;
use std::str::FromStr;

use crate::limits;

/// A model's name on this machine: lower-case letters, digits, `.`, `_` and `-`, starting with a
/// letter or digit. It is a file name, so nothing else is let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// The name as text.
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
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no model name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no model name: use lower-case letters, digits, '.', '_' and '-', \
     starting with a letter or digit"
)]
pub struct NameError {
    /// The text.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_leave_its_directory() {
        for good in ["smollm2", "qwen3-0.6b", "a_b.c"] {
            assert_eq!(good.parse::<ModelName>().expect(good).as_str(), good);
        }
        let long = "a".repeat(limits::MODEL_NAME_BYTES + 1);
        for bad in ["", ".", "..", "../x", "a/b", "-rf", ".hidden", "Big", "a b", "a\0", &long] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
    }
}
