//! The tokens that are put before and after a prompt, and those that end an answer.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::FolderError;
use super::super::config::Config;
use super::file::File;

/// Tokens that the files give names to.
pub(super) struct Ids<'a> {
    pub(super) file: &'a File,
    pub(super) settings: &'a Map<String, Value>,
    pub(super) config: &'a Config,
    /// The content of `generation_config.json`.
    pub(super) generation: &'a Map<String, Value>,
    /// The number of token ids that the model has.
    pub(super) size: usize,
}

/// One of the two ends of a prompt.
pub(super) struct Side {
    /// The token that stands at this end.
    pub(super) id: Option<u32>,
    /// Whether the token is added to prompts.
    pub(super) is_added: bool,
}

impl Ids<'_> {
    /// Returns the token that the settings call `name`.
    fn named(&self, name: &str) -> Result<Option<u32>, FolderError> {
        let text = match self.settings.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.as_str(),
            Some(token) => token["content"].as_str().unwrap_or(""),
        };
        let unknown = || FolderError::NamedToken { name: name.to_owned(), text: text.to_owned() };
        self.file.id_of(text).map(Some).ok_or_else(unknown)
    }

    /// Returns the id of the token that the settings call `name`; where they name none,
    /// `config.json` may, of several the first.
    fn id(&self, name: &str) -> Result<Option<u32>, FolderError> {
        let stated = || self.listed(self.config.value(&format!("{name}_id"))).first().copied();
        Ok(self.named(name)?.or_else(stated))
    }

    /// Returns all ids that `config.json` and `generation_config.json` say end an answer.
    pub(super) fn ends(&self) -> BTreeSet<u32> {
        let values = [self.config.value("eos_token_id"), self.generation.get("eos_token_id")];
        values.into_iter().flat_map(|value| self.listed(value)).collect()
    }

    /// Returns an id, or a list of ids, that the model has.
    fn listed(&self, value: Option<&Value>) -> Vec<u32> {
        let values = match value {
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
            None => &[],
        };
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        values.iter().filter_map(id).filter(|id| (*id as usize) < self.size).collect()
    }

    /// Returns the tokens that begin and end a prompt, and whether they are put there: if the
    /// settings do not say, the step behind tokenization does. What no file names, it may name as
    /// well.
    pub(super) fn frame(&self) -> Result<[Side; 2], FolderError> {
        let (before, behind) = self.framed()?;
        let side = |name: &str, flag: &str, stated: &[u32]| {
            let id = self.id(name)?;
            let is_added = match (self.settings.get(flag).and_then(Value::as_bool), stated) {
                (Some(flag), _) => flag,
                (None, []) => false,
                (None, [one]) if id.is_none_or(|id| id == *one) => true,
                (None, other) => {
                    let why = "only the beginning-of-sequence token can be put before a prompt, \
                               and the end-of-sequence token behind it";
                    let value = format!("tokens {other:?}");
                    return Err(FolderError::tokenizer("post_processor", value, why));
                }
            };
            Ok(Side { id: id.or_else(|| stated.first().copied()), is_added })
        };
        Ok([
            side("bos_token", "add_bos_token", &before)?,
            side("eos_token", "add_eos_token", &behind)?,
        ])
    }

    /// Tokens that the post-processor puts before and behind a text.
    fn framed(&self) -> Result<(Vec<u32>, Vec<u32>), FolderError> {
        let post = &self.file.post_processor;
        let steps = match post["type"].as_str() {
            Some("Sequence") => post["processors"].as_array().map_or(&[][..], Vec::as_slice),
            None => &[],
            Some(_) => std::slice::from_ref(post),
        };
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        for step in steps {
            let refused = |why: &str| FolderError::tokenizer("post_processor", step, why);
            match step["type"].as_str().unwrap_or_default() {
                "ByteLevel" => {}
                "TemplateProcessing" => {
                    let parts = step["single"].as_array();
                    let mut is_behind = false;
                    for part in parts.ok_or_else(|| refused("no template for one text"))? {
                        match part.pointer("/SpecialToken/id").and_then(Value::as_str) {
                            Some(text) => {
                                let id = self.template_id(step, text);
                                let id = id.ok_or_else(|| refused("it names an unknown token"))?;
                                if is_behind { &mut behind } else { &mut before }.push(id);
                            }
                            None => is_behind = true,
                        }
                    }
                }
                "BertProcessing" | "RobertaProcessing" => {
                    let id = |name: &str| {
                        let id = step.get(name)?.get(1)?.as_u64()?;
                        u32::try_from(id).ok()
                    };
                    let both = id("cls").zip(id("sep"));
                    let (cls, sep) = both.ok_or_else(|| refused("it names no ids"))?;
                    before.push(cls);
                    behind.push(sep);
                }
                _ => return Err(refused("no step that is known here")),
            }
        }
        Ok((before, behind))
    }

    /// Returns the id of a token of a template, which has a table of its own.
    fn template_id(&self, step: &Value, text: &str) -> Option<u32> {
        let listed = || {
            let ids = step.get("special_tokens")?.get(text)?.get("ids")?;
            u32::try_from(ids.get(0)?.as_u64()?).ok()
        };
        listed().or_else(|| self.file.id_of(text))
    }
}
