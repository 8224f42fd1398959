//! The tokenizer that a GGUF file's metadata describe.
//!
//! Read are BPE (`tokenizer.ggml.model = "gpt2"`) with a known `tokenizer.ggml.pre`, SentencePiece
//! BPE (`"llama"`) and Unigram (`"t5"`). Anything else is an error: a wrong rule gives plausible
//! ids and a model that seems stupid. What files may leave out, and types that are known to be
//! wrong in them, are taken as llama.cpp takes them, with a [`Warning`].

mod error;
pub(crate) mod keys;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lockstep_exact::bytes::Canonical;
use lockstep_exact::vocabulary::Vocabulary;

pub use error::{TokenizerError, Warning};
use keys::*;

use super::ends::{self, Marks};
use super::spelling::SPACE;
use super::{
    Definition, Merge, Model, Pairs, Rule, Scores, Spelling, Steps, Strip, TokenKind, alphabet,
    pieces,
};
use crate::gguf::{Gguf, GgufError, Strings, Value, required};
use crate::limits::{MAX_MERGES, MAX_PIECE_WORK, MAX_STOP_IDS, MAX_TOKEN_BYTES, MAX_VOCAB};
use crate::template::{ChatTemplates, DEFAULT};

/// The architecture whose SentencePiece models swallow white space behind special tokens although
/// GGUF files do not say so, and the tokens of theirs that do not.
const STRIPPING: &str = "phi3";
const NOT_STRIPPING: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
/// The rule that files are read by that name none.
const UNNAMED: &str = "default";

/// The tokenizer of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromGguf {
    /// The bytes of every token.
    pub vocabulary: Vocabulary,
    /// The definition by which text becomes tokens.
    pub definition: Definition,
    /// Tokens that end an answer, ascending.
    pub end_tokens: Vec<u32>,
    /// The warnings about what was taken otherwise than the file has it, or is likely to be wrong
    /// in it.
    pub warnings: Vec<Warning>,
}

/// Reads the tokenizer from a file's metadata.
///
/// # Errors
/// The file's tokenizer is of another kind, or contradicts itself.
pub fn read(gguf: &Gguf<'_>) -> Result<FromGguf, TokenizerError> {
    let texts = strings(gguf, TOKENS, MAX_VOCAB)?;
    let model = required(gguf.optional_str(MODEL)?, MODEL)?;
    let (kinds, mistyped, warnings) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut file = File { gguf, texts, kinds, mistyped, warnings };
    file.kinds = file.read_kinds(model != "gpt2")?;
    // Ids that SentencePiece models have where files name none.
    let (bos, eos) = match model {
        "llama" => {
            (file.id(BOS)?.or_else(|| file.known(1)), file.id(EOS)?.or_else(|| file.known(2)))
        }
        "t5" => (file.id(BOS)?, file.id(EOS)?.or_else(|| file.known(1))),
        _ => (file.id(BOS)?, file.id(EOS)?),
    };
    let marks = file.marks(eos)?;
    let parts = match model {
        "gpt2" => file.read_pairs()?,
        "llama" if gguf.get(STEPS).is_some() => file.read_marked_pairs()?,
        "llama" => file.read_pieces()?,
        "t5" => file.read_unigram()?,
        got => return Err(TokenizerError::Model { got: got.to_owned() }),
    };
    file.definition(parts, bos, eos, marks)
}

/// The parts of a tokenizer that depend on its kind.
struct Parts {
    vocabulary: Vocabulary,
    model: Model,
    /// Whether prompts begin with the beginning-of-sequence token if the file does not say, and
    /// whether they end with the end-of-sequence token.
    adds_bos: bool,
    adds_eos: bool,
}

/// A file whose tokenizer is being read.
struct File<'f, 'a> {
    gguf: &'f Gguf<'a>,
    texts: Vec<&'a str>,
    kinds: Vec<TokenKind>,
    /// Tokens that became control tokens although the file has another type for them.
    mistyped: BTreeSet<u32>,
    warnings: Vec<Warning>,
}

impl File<'_, '_> {
    /// Tokens that end an answer; those that the file has another type for become control tokens.
    fn marks(&mut self, eos: Option<u32>) -> Result<Marks, TokenizerError> {
        let mut named: BTreeSet<u32> = eos.into_iter().collect();
        for key in OTHER_ENDS {
            named.extend(self.id(key)?);
        }
        if let Some(array) = self.gguf.optional_array(ENDS)? {
            let ids = array.integers().ok_or_else(|| wrong(ENDS, INTEGERS))?;
            named.extend(ids.filter_map(|id| u32::try_from(id).ok()).filter(|id| self.has(*id)));
        }
        let marks = ends::marks(&self.texts, &self.kinds, &named);
        for id in &marks.mistyped {
            if let Some(kind) = self.kinds.get_mut(*id as usize) {
                *kind = TokenKind::Control;
            }
        }
        self.mistyped.clone_from(&marks.mistyped);
        match marks.ends.len() {
            got if got > MAX_STOP_IDS => {
                let key = "tokens that end an answer".to_owned();
                Err(TokenizerError::TooMany { key, got, limit: MAX_STOP_IDS })
            }
            0 => {
                self.warnings.push(Warning::NoEnd);
                Ok(marks)
            }
            _ => Ok(marks),
        }
    }

    fn definition(
        mut self,
        parts: Parts,
        bos: Option<u32>,
        eos: Option<u32>,
        marks: Marks,
    ) -> Result<FromGguf, TokenizerError> {
        let (gguf, Parts { vocabulary, model, adds_bos, adds_eos }) = (self.gguf, parts);
        if !marks.mistyped.is_empty() {
            let tokens = ends::shown(&vocabulary, &marks.mistyped);
            self.warnings.push(Warning::Mistyped { tokens });
        }
        let definition = Definition {
            model,
            add_bos: gguf.optional_bool(ADD_BOS)?.unwrap_or(adds_bos),
            add_eos: gguf.optional_bool(ADD_EOS)?.unwrap_or(adds_eos),
            bos,
            eos,
            strips: read_strips(gguf, &vocabulary, &self.kinds)?,
            words: self.ids(WORDS)?,
            rewritten: self.ids(REWRITTEN)?,
            marked: self.ids(MARKED)?,
            kinds: self.kinds,
            chat_templates: read_templates(gguf)?,
        };
        definition.check(&vocabulary)?;
        let (end_tokens, warnings) = (marks.ends.into_iter().collect(), self.warnings);
        Ok(FromGguf { vocabulary, definition, end_tokens, warnings })
    }

    /// Returns the steps from text to pieces: those that a folder states, or those of the rule that
    /// the file names.
    fn read_rule(&mut self) -> Result<(Steps, bool, bool), TokenizerError> {
        if let Some(array) = self.gguf.optional_array(STEPS)? {
            let bytes = array.integers().ok_or_else(|| wrong(STEPS, INTEGERS))?;
            let bytes: Vec<u8> = bytes.map(|byte| byte.to_le_bytes()[0]).collect();
            let takes_whole = self.gguf.optional_bool(TAKES_WHOLE)?.unwrap_or(false);
            return Ok((Steps::from_bytes(&bytes)?, takes_whole, false));
        }
        let stated = self.gguf.optional_str(PRE)?;
        if stated.is_none_or(|name| name == UNNAMED) {
            self.warnings.push(Warning::NoPre);
        }
        let name = stated.unwrap_or(UNNAMED);
        let unknown = || TokenizerError::Pre { got: name.to_owned() };
        let rule = Rule::named(name).ok_or_else(unknown)?;
        let expression = |error| TokenizerError::Expression { rule: rule.name(), error };
        Ok((rule.steps().map_err(expression)?, rule.takes_whole, rule.adds_bos))
    }

    fn read_pairs(&mut self) -> Result<Parts, TokenizerError> {
        let (steps, takes_whole, adds_bos) = self.read_rule()?;
        self.drop_unspelled()?;
        let spelled = |id, text: &str, kind| match kind {
            // Ordinary tokens are spelled in the byte alphabet; all others are the text they show.
            TokenKind::Text => {
                alphabet::bytes_of(text).map_err(|letter| TokenizerError::Letter { id, letter })
            }
            _ => Ok(text.as_bytes().to_vec()),
        };
        let vocabulary = read_vocabulary(&self.texts, &self.kinds, spelled)?;
        let pairs = self.pairs(steps, Spelling::Bytes, takes_whole)?;
        Ok(Parts { vocabulary, model: Model::Pairs(pairs), adds_bos, adds_eos: false })
    }

    /// Makes ordinary tokens that aren't spelled in the byte alphabet, and that no merge has to do
    /// with, unused ones: no text ever becomes them, but the model may answer with them.
    fn drop_unspelled(&mut self) -> Result<(), TokenizerError> {
        let is_odd = |(text, kind): (&&str, &TokenKind)| {
            *kind == TokenKind::Text && alphabet::bytes_of(text).is_err()
        };
        let odd: Vec<bool> = self.texts.iter().zip(&self.kinds).map(is_odd).collect();
        if !odd.contains(&true) {
            return Ok(());
        }
        let mut merged = HashSet::new();
        for rule in strings(self.gguf, MERGES, MAX_MERGES)? {
            merged.insert(rule.replacen(' ', "", 1));
            merged.extend(rule.splitn(2, ' ').map(str::to_owned));
        }
        for ((text, kind), odd) in self.texts.iter().zip(&mut self.kinds).zip(odd) {
            if odd && !merged.contains(*text) {
                *kind = TokenKind::Unused;
            }
        }
        Ok(())
    }

    /// Pairs of tokens that are spelled as text, which only folders have.
    fn read_marked_pairs(&mut self) -> Result<Parts, TokenizerError> {
        let (steps, takes_whole, adds_bos) = self.read_rule()?;
        let spelling = self.spelling()?;
        let vocabulary = self.read_texts(spelling)?;
        let pairs = self.pairs(steps, spelling, takes_whole)?;
        Ok(Parts { vocabulary, model: Model::Pairs(pairs), adds_bos, adds_eos: false })
    }

    fn pairs(
        &self,
        steps: Steps,
        spelling: Spelling,
        takes_whole: bool,
    ) -> Result<Pairs, TokenizerError> {
        let merges = self.read_merges()?;
        // Folders name the token for what is not known where it is used; files have no use for it.
        let is_stated = self.gguf.get(STEPS).is_some();
        let unknown = self.id(UNKNOWN)?.filter(|_| is_stated);
        let fuses_unknown = self.gguf.optional_bool(FUSES_UNKNOWN)?.unwrap_or(false);
        Ok(Pairs { steps, spelling, takes_whole, unknown, fuses_unknown, merges })
    }

    /// Returns how tokens that are text are spelled: folders say which character stands for a
    /// space.
    fn spelling(&self) -> Result<Spelling, TokenizerError> {
        let Some(mark) = self.gguf.optional_str(MARK)? else {
            return Ok(Spelling::Marked(SPACE));
        };
        Ok(mark.chars().next().map_or(Spelling::Plain, Spelling::Marked))
    }

    /// Returns the bytes of tokens that are text, or single bytes.
    fn read_texts(&self, spelling: Spelling) -> Result<Vocabulary, TokenizerError> {
        let spelled = |id, text: &str, kind| match kind {
            TokenKind::Byte => {
                let byte = text.strip_prefix("<0x").and_then(|digits| digits.strip_suffix('>'));
                let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                byte.map(|byte| vec![byte]).ok_or(TokenizerError::ByteForm { id })
            }
            _ => Ok(spelling.unspelled(text).into_owned()),
        };
        let vocabulary = read_vocabulary(&self.texts, &self.kinds, spelled)?;
        let squares = self.texts.iter().map(|text| text.len().saturating_mul(text.len()));
        if squares.fold(0, usize::saturating_add) > MAX_PIECE_WORK {
            return Err(TokenizerError::LongTokens);
        }
        Ok(vocabulary)
    }

    fn read_pieces(&self) -> Result<Parts, TokenizerError> {
        for key in REWRITES {
            if self.gguf.get(key).is_some_and(|value| *value != Value::Bool(false)) {
                return Err(TokenizerError::Rewrite { key });
            }
        }
        let vocabulary = self.read_texts(Spelling::Marked(SPACE))?;
        let scores = read_scores(self.gguf, self.texts.len())?;
        let space_prefix = self.gguf.optional_bool(SPACE_PREFIX)?.unwrap_or(true);
        let ranks = pieces::ranks(&vocabulary, &self.kinds, &scores);
        let model = Model::Pieces { space_prefix, ranks };
        Ok(Parts { vocabulary, model, adds_bos: true, adds_eos: false })
    }

    fn read_unigram(&mut self) -> Result<Parts, TokenizerError> {
        let is_stated = self.gguf.get(STEPS).is_some();
        let (steps, spelling) = if is_stated {
            (self.read_rule()?.0, self.spelling()?)
        } else {
            (self.unigram_steps()?, Spelling::Marked(SPACE))
        };
        let vocabulary = self.read_texts(spelling)?;
        let unknown = match self.id(UNKNOWN)? {
            None if !is_stated => self.known(2),
            unknown => unknown,
        };
        let scores = match self.gguf.optional_array(SCORE_BITS)? {
            Some(array) => {
                let words = array.integers().ok_or_else(|| wrong(SCORE_BITS, INTEGERS))?;
                let words: Vec<u64> = words.map(|word| u64::from(word as u32)).collect();
                let joined =
                    |pair: &[u64]| pair.iter().rev().fold(0, |bits, half| bits << 32 | half);
                words.chunks_exact(2).map(joined).collect()
            }
            None => {
                let scores = read_scores(self.gguf, self.texts.len())?;
                scores.into_iter().map(|score| f64::from(score).to_bits()).collect()
            }
        };
        let model = Model::Unigram(Scores { steps, spelling, unknown, scores });
        Ok(Parts { vocabulary, model, adds_bos: false, adds_eos: !is_stated })
    }

    /// Returns the steps of a Unigram model, as GGUF files state them.
    fn unigram_steps(&self) -> Result<Steps, TokenizerError> {
        let mut steps = Steps::default();
        if let Some(charsmap) = self.gguf.optional_array(CHARSMAP)?
            && !charsmap.is_empty()
        {
            return Err(TokenizerError::Rewrite { key: CHARSMAP });
        }
        let merges_spaces = self.gguf.optional_bool(EXTRA_SPACES)?.unwrap_or(false);
        let prefix = self.gguf.optional_bool(SPACE_PREFIX)?.unwrap_or(true);
        steps
            .add_sentencepiece(prefix, merges_spaces)
            .map_err(|error| TokenizerError::Expression { rule: "SentencePiece", error })?;
        Ok(steps)
    }

    fn has(&self, id: u32) -> bool {
        (id as usize) < self.texts.len()
    }

    /// Returns `id` if there is such a token.
    fn known(&self, id: u32) -> Option<u32> {
        Some(id).filter(|id| self.has(*id))
    }

    fn id(&self, key: &'static str) -> Result<Option<u32>, TokenizerError> {
        read_id(self.gguf, key, self.texts.len())
    }

    /// Returns a list of ids, which only folders state.
    fn ids(&self, key: &'static str) -> Result<BTreeSet<u32>, TokenizerError> {
        let Some(array) = self.gguf.optional_array(key)? else { return Ok(BTreeSet::new()) };
        let ids = array.integers().ok_or_else(|| wrong(key, INTEGERS))?;
        Ok(ids.map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect())
    }

    /// Returns the kind of every token; files without types have ordinary tokens only.
    fn read_kinds(&self, has_bytes: bool) -> Result<Vec<TokenKind>, TokenizerError> {
        let tokens = self.texts.len();
        let Some(array) = self.gguf.optional_array(TYPES)? else {
            return Ok(vec![TokenKind::Text; tokens]);
        };
        if array.len() != tokens {
            return Err(TokenizerError::TypeCount { tokens, types: array.len() });
        }
        let kind = |(id, ty)| match ty {
            0 | 1 => Ok(TokenKind::Text),
            2 | 3 => Ok(TokenKind::Control),
            4 => Ok(TokenKind::Added),
            5 => Ok(TokenKind::Unused),
            // Byte-level models have no use for such tokens, and files that have them spell them.
            6 => Ok(if has_bytes { TokenKind::Byte } else { TokenKind::Text }),
            got => Err(TokenizerError::TokenType { id, got }),
        };
        let types = array.integers().ok_or_else(|| wrong(TYPES, INTEGERS))?;
        types.enumerate().map(kind).collect()
    }

    fn read_merges(&self) -> Result<Vec<Merge>, TokenizerError> {
        let ids: HashMap<&str, u32> = self.texts.iter().copied().zip(0..).collect();
        let merge = |(rank, rule): (usize, &str)| {
            // A token may begin with a space where spaces are not spelled.
            let at = rule.char_indices().skip(1).find(|(_, letter)| *letter == ' ');
            let (left, right) = at
                .and_then(|(at, _)| Some((rule.get(..at)?, rule.get(at + 1..)?)))
                .ok_or(TokenizerError::MergeForm { rank })?;
            let id = |token: &str| {
                let unknown = || TokenizerError::MergeToken { rank, token: token.to_owned() };
                ids.get(token).copied().ok_or_else(unknown)
            };
            let joined = [left, right].concat();
            Ok(Merge { left: id(left)?, right: id(right)?, result: id(&joined)? })
        };
        // Text does not become a control token by merging, although the file has it as text.
        let is_text = |merge: &Merge| {
            [merge.left, merge.right, merge.result].iter().all(|id| !self.mistyped.contains(id))
        };
        let merges = strings(self.gguf, MERGES, MAX_MERGES)?.into_iter().enumerate().map(merge);
        merges.filter(|merge| merge.as_ref().map_or(true, is_text)).collect()
    }
}

const STRINGS: &str = "an array of strings";
const FLOATS: &str = "an array of 32-bit floats";
const INTEGERS: &str = "an array of 32-bit integers";

/// Returns the error of an array under `key` whose items are not `expected`.
fn wrong(key: &str, expected: &'static str) -> TokenizerError {
    let got = "an array of something else";
    TokenizerError::Gguf(GgufError::WrongValue { key: key.to_owned(), expected, got })
}

fn read_scores(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
    let array = required(gguf.optional_array(SCORES)?, SCORES)?;
    if array.len() != tokens {
        return Err(TokenizerError::ScoreCount { tokens, scores: array.len() });
    }
    let floats = array.floats().ok_or_else(|| wrong(SCORES, FLOATS))?;
    // Zeros of either sign are one score.
    let scores: Vec<f32> = floats.map(|score| score + 0.0).collect();
    match scores.iter().position(|score| score.is_nan()) {
        None => Ok(scores),
        Some(id) => Err(TokenizerError::Score { id }),
    }
}

fn strings<'a>(gguf: &Gguf<'a>, key: &str, limit: usize) -> Result<Vec<&'a str>, TokenizerError> {
    let array = required(gguf.optional_array(key)?, key)?;
    if array.len() > limit {
        return Err(TokenizerError::TooMany { key: key.to_owned(), got: array.len(), limit });
    }
    array.strings().map(Strings::collect).ok_or_else(|| wrong(key, STRINGS))
}

/// Returns the chat templates: the one without a name, and those that have one.
fn read_templates(gguf: &Gguf<'_>) -> Result<ChatTemplates, TokenizerError> {
    let mut templates = ChatTemplates::default();
    // In order of key the one without a name is the first, and it stays.
    for (key, _) in gguf.metadata() {
        let name = match key.strip_prefix(TEMPLATE) {
            Some("") => Some(DEFAULT),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        };
        if let Some(name) = name
            && let Some(source) = gguf.optional_str(key)?
        {
            templates.add(name, source)?;
        }
    }
    Ok(templates)
}

/// Reads which tokens take white space beside them: as the file says, or as runtimes do with models
/// of its architecture.
fn read_strips(
    gguf: &Gguf<'_>,
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
) -> Result<BTreeMap<u32, Strip>, TokenizerError> {
    let mut strips = BTreeMap::<u32, Strip>::new();
    let mut is_stated = false;
    for (key, is_left) in STRIPS.into_iter().zip([true, false]) {
        let Some(array) = gguf.optional_array(key)? else { continue };
        is_stated = true;
        let wrong = || wrong(key, INTEGERS);
        for id in array.integers().ok_or_else(wrong)? {
            let strip = strips.entry(u32::try_from(id).unwrap_or(u32::MAX)).or_default();
            (strip.left, strip.right) = (strip.left || is_left, strip.right || !is_left);
        }
    }
    let is_phi = gguf.optional_str("general.architecture")? == Some(STRIPPING)
        && gguf.optional_str(MODEL)? == Some("llama");
    if is_phi && !is_stated {
        let of = |(id, kind): (u32, &TokenKind)| {
            let strips = kind.is_special() && !NOT_STRIPPING.contains(&vocabulary.token(id));
            strips.then_some((id, Strip { left: false, right: true }))
        };
        strips = (0..).zip(kinds).filter_map(of).collect();
    }
    Ok(strips)
}

/// Returns the bytes of all tokens, each as `spelled` reads it.
fn read_vocabulary(
    texts: &[&str],
    kinds: &[TokenKind],
    spelled: impl Fn(usize, &str, TokenKind) -> Result<Vec<u8>, TokenizerError>,
) -> Result<Vocabulary, TokenizerError> {
    let mut tokens = Vec::with_capacity(texts.len());
    for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        let bytes = spelled(id, text, *kind)?;
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::LongToken { id, got: bytes.len() });
        }
        tokens.push(bytes);
    }
    Ok(Vocabulary::new(tokens.iter().map(Vec::as_slice))?)
}

fn read_id(gguf: &Gguf<'_>, key: &str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    let Some(id) = gguf.optional_u64(key)? else { return Ok(None) };
    let unknown = TokenizerError::NoSuchToken { key: key.to_owned(), id, tokens };
    let known = u32::try_from(id).ok().filter(|_| id < tokens as u64);
    known.ok_or(unknown).map(Some)
}
