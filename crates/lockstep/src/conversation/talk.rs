//! The text of a conversation: the system message, the turns, and files of both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lockstep_import::template::Message;
use lockstep_node::home::{self, Home};
use serde::{Deserialize, Serialize};

use crate::printable::ForeignPath;

/// Longest file of a conversation, in bytes.
const CONVERSATION_BYTES: u64 = 64 << 20;
/// Longest name of a conversation, in bytes.
const NAME_BYTES: usize = 64;

/// A question with its answer, or a question that has none yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// The message of the person.
    pub(crate) user: String,
    /// The answer of the model, if it has come.
    pub(crate) assistant: Option<String>,
}

/// The turns of a conversation, with its system message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Talk {
    /// The model that it was with, by its id.
    #[serde(default)]
    pub(crate) model: String,
    /// The system message in place of the model's own.
    #[serde(default)]
    pub(crate) system: Option<String>,
    /// The turns of the conversation, the oldest at the beginning.
    pub(crate) turns: Vec<Turn>,
}

impl Talk {
    /// Returns all messages, as a chat template takes them.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let turns = self.turns.iter().flat_map(|turn| {
            let answer = turn.assistant.iter().map(|text| Message::new("assistant", text));
            [Message::new("user", &turn.user)].into_iter().chain(answer)
        });
        system.chain(turns).collect()
    }

    /// Adds a message of the person, whose answer is still to come.
    pub(crate) fn ask(&mut self, user: String) {
        self.turns.push(Turn { user, assistant: None });
    }

    /// Adds the answer to the last message.
    pub(crate) fn answer(&mut self, text: String) {
        if let Some(turn) = self.turns.last_mut() {
            turn.assistant = Some(text);
        }
    }

    /// Takes back a question that got no answer.
    pub(crate) fn unask(&mut self) -> Option<String> {
        self.turns.pop_if(|turn| turn.assistant.is_none()).map(|turn| turn.user)
    }

    /// Drops up to `count` of the oldest turns, and returns how many were dropped. A message that
    /// waits for its answer stays.
    pub(crate) fn drop_oldest(&mut self, count: usize) -> usize {
        let waiting = self.turns.last().is_some_and(|turn| turn.assistant.is_none());
        let count = count.min(self.turns.len() - usize::from(waiting));
        self.turns.drain(..count);
        count
    }

    /// Keeps the conversation under a name, for its owner's eyes only.
    pub(crate) fn save(&self, home: &Home, name: &str) -> Result<PathBuf> {
        let path = path(home, name)?;
        let text = serde_json::to_string_pretty(self)?;
        home::write_private(&path, text.as_bytes())
            .with_context(|| format!("can't write {}", ForeignPath(&path)))?;
        Ok(path)
    }

    /// Reads a conversation that was kept under a name.
    pub(crate) fn load(home: &Home, name: &str) -> Result<Self> {
        let path = path(home, name)?;
        let bytes = match home::read_capped(&path, CONVERSATION_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let kept = kept(home);
                let list = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
                bail!("no conversation {name:?} is kept (kept: {list})");
            }
            other => other.with_context(|| format!("can't read {}", ForeignPath(&path)))?,
        };
        let talk = serde_json::from_slice(&bytes);
        talk.with_context(|| format!("{} is no conversation", ForeignPath(&path)))
    }
}

/// Returns the file for a conversation of this name.
fn path(home: &Home, name: &str) -> Result<PathBuf> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > NAME_BYTES
        || name.starts_with('.')
        || !name.chars().all(is_plain)
    {
        bail!(
            "{name:?} can't be a conversation's name: expected up to {NAME_BYTES} letters, digits, \
             '.', '_' and '-', not beginning with '.'"
        );
    }
    Ok(home.conversations().join(format!("{name}.json")))
}

/// Returns the names of the conversations that are kept.
pub(super) fn kept(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.conversations()).into_iter().flatten().flatten();
    let name = |path: PathBuf| {
        let is_one = path.extension().is_some_and(|end| end == "json");
        let stem = path.file_stem().map(Path::new).filter(|_| is_one)?;
        Some(stem.to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Talk {
        let mut talk = Talk { system: Some("s".to_owned()), ..Talk::default() };
        for turn in ["one", "two", "three"] {
            talk.ask(turn.to_owned());
            talk.answer(turn.to_uppercase());
        }
        talk
    }

    fn roles(talk: &Talk) -> Vec<(String, String)> {
        let text = |message: &Message| message.content.as_text().unwrap_or_default().to_owned();
        talk.messages().into_iter().map(|message| (message.role.clone(), text(&message))).collect()
    }

    #[test]
    fn the_oldest_turns_go_and_the_question_and_the_system_message_stay() {
        let mut talk = talk();
        talk.ask("four".to_owned());
        assert_eq!(talk.drop_oldest(2), 2);
        let left = roles(&talk);
        let left: Vec<_> = left.iter().map(|(role, text)| (role.as_str(), text.as_str())).collect();
        assert_eq!(
            left,
            [("system", "s"), ("user", "three"), ("assistant", "THREE"), ("user", "four")]
        );
        assert_eq!(talk.drop_oldest(9), 1);
        assert_eq!(talk.drop_oldest(9), 0, "the question that waits");
        assert_eq!(talk.unask().as_deref(), Some("four"));
        assert_eq!(roles(&talk).len(), 1);
        assert_eq!(talk.unask(), None);
        assert_eq!(talk.drop_oldest(1), 0);
    }

    #[test]
    fn a_question_with_an_answer_is_not_taken_back() {
        let mut talk = talk();
        assert_eq!(talk.unask(), None);
        assert_eq!(talk.turns.len(), 3);
    }

    #[test]
    fn a_conversation_is_kept_and_read_again() {
        let folder = std::env::temp_dir().join(format!("lockstep-talk-{}", std::process::id()));
        let home = Home::at(&folder);
        let talk = talk();
        let file = talk.save(&home, "tale").unwrap();
        assert_eq!(home::secrecy(&file).unwrap(), home::Secrecy::Private);
        assert_eq!(Talk::load(&home, "tale").unwrap(), talk);
        let error = Talk::load(&home, "other").unwrap_err().to_string();
        assert!(error.contains("kept: tale"), "{error}");
        fs::write(&file, "{}").unwrap();
        let error = format!("{:#}", Talk::load(&home, "tale").unwrap_err());
        assert!(error.contains("is no conversation") && error.contains("turns"), "{error}");
        for name in ["", "..", "a/b", ".hidden", "ä", &"a".repeat(65)] {
            let error = talk.save(&home, name).unwrap_err().to_string();
            assert!(error.contains("expected up to 64"), "{name}: {error}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
