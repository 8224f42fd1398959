//! Which tokens end an answer, by the rules of llama.cpp and `transformers` together: those that
//! keys of the file name, and those whose texts are known to, whatever type the file gives them.
//!
//! Exporters write such tokens as ordinary or user-defined ones now and then. A model whose mark
//! is not taken for one talks on after its turn, so they become control tokens here.

use std::collections::BTreeSet;

use lockstep_exact::vocabulary::Vocabulary;

use super::TokenKind;

/// Texts of tokens that end an answer wherever they occur.
const END_TEXTS: [&str; 23] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "<|plamo:eos|>",
];
/// Texts of tokens that separate files and repositories: of each kind the first token ends an
/// answer, for what comes behind it is another document.
const SEPARATORS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];
/// Texts of tokens that frame what is to be filled in: control tokens, but no ends.
const FRAMES: [&str; 24] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
    "<PRE>",
    "\u{2581}<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
    "<SUF>",
    "\u{2581}<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
    "<MID>",
    "\u{2581}<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// The tokens that a file's texts and keys mark as special.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Marks {
    /// The tokens that end an answer.
    pub(super) ends: BTreeSet<u32>,
    /// Tokens that the file has another type for than that of a control token.
    pub(super) mistyped: BTreeSet<u32>,
}

/// Returns the tokens that texts and keys mark; `named` are the ids that keys of the file name.
pub(super) fn marks(texts: &[&str], kinds: &[TokenKind], named: &BTreeSet<u32>) -> Marks {
    let of = |text: &str| {
        let at = texts.iter().position(|other| *other == text)?;
        u32::try_from(at).ok()
    };
    let known: BTreeSet<&str> = END_TEXTS
        .iter()
        .chain(&FRAMES)
        .chain(SEPARATORS.iter().copied().flatten())
        .copied()
        .collect();
    // One walk over the texts; most tokens are none of these.
    let present: BTreeSet<&str> =
        texts.iter().copied().filter(|text| known.contains(text)).collect();
    let id = |text: &&str| present.contains(*text).then(|| of(text)).flatten();
    let mut ends: BTreeSet<u32> = END_TEXTS.iter().filter_map(id).collect();
    let mut control = ends.clone();
    for separators in SEPARATORS {
        if let Some(first) = separators.iter().filter_map(id).min() {
            ends.insert(first);
            control.insert(first);
        }
    }
    control.extend(FRAMES.iter().filter_map(id));
    // Where other tokens end an answer, these stand inside one.
    let has = |text: &str| present.contains(text);
    let is_harmony = has("<|return|>") && has("<|call|>");
    let is_solar = (has("<|call|>") || has("<|calls|>")) && has("<|flush|>");
    if is_harmony || is_solar {
        id(&"<|end|>").map(|end| ends.remove(&end));
    }
    if (has("<|tool_response>") || has("<|plamo:eos|>"))
        && let Some(end) = id(&"</s>")
    {
        ends.remove(&end);
        control.remove(&end);
    }
    ends.extend(named);
    let mistyped = control.into_iter().filter(|id| {
        let kind = kinds.get(*id as usize);
        kind.is_some_and(|kind| *kind != TokenKind::Control)
    });
    Marks { mistyped: mistyped.collect(), ends }
}

/// Returns the texts of tokens, for messages: of some of many.
pub(super) fn shown(vocabulary: &Vocabulary, ids: &BTreeSet<u32>) -> String {
    let text = |id: &u32| String::from_utf8_lossy(vocabulary.token(*id)).into_owned();
    let shown: Vec<String> =
        ids.iter().take(4).map(|id| format!("{:?} ({id})", text(id))).collect();
    let more = ids.len().saturating_sub(shown.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}
