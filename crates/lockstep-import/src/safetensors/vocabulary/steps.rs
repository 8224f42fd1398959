//! The `normalizer` and `pre_tokenizer` of `tokenizer.json` as the steps that packages have.

use serde_json::Value;

use super::super::FolderError;
use crate::limits::MAX_STEPS;
use crate::tokenizer::{
    Behavior, Cut, Expression, ExpressionError, Prefix, Rewrite, Spelling, Steps,
};

/// Signs as the `Punctuation` step has them.
const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";
/// The expression by which GPT-2 cuts text, which the `ByteLevel` step has of its own.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Reads both; `prefix_space` is what `tokenizer_config.json` says about it.
pub(super) fn read(
    normalizer: &Value,
    pre_tokenizer: &Value,
    prefix_space: Option<bool>,
) -> Result<Steps, FolderError> {
    let mut steps = Steps::default();
    for step in listed(normalizer, "normalizers", "normalizer")? {
        rewrite(&step, &mut steps.rewrites)?;
    }
    // `transformers` lets its settings overrule a step that stands alone.
    let alone = pre_tokenizer["type"] == "ByteLevel";
    for step in listed(pre_tokenizer, "pretokenizers", "pre_tokenizer")? {
        cut(&step, prefix_space.filter(|_| alone), &mut steps.cuts)?;
    }
    if steps.rewrites.len() > MAX_STEPS || steps.cuts.len() > MAX_STEPS {
        let why = format!("at most {MAX_STEPS} are taken");
        let got = steps.rewrites.len().max(steps.cuts.len());
        return Err(FolderError::tokenizer("pre_tokenizer", format!("{got} steps"), why));
    }
    if steps.cuts.iter().filter(|cut| **cut == Cut::Spell).count() > 1 {
        let why = "text would be spelled in the byte alphabet twice";
        return Err(FolderError::tokenizer("pre_tokenizer", "two ByteLevel steps", why));
    }
    Ok(steps)
}

/// Returns how tokens are spelled, by what the steps make of spaces.
pub(super) fn spelling(steps: &Steps) -> Result<Spelling, FolderError> {
    if steps.spells_bytes() {
        return Ok(Spelling::Bytes);
    }
    let of_rewrite = |rewrite: &Rewrite| match rewrite {
        Rewrite::Replace { expression, content } if expression.text() == " " => {
            let mut letters = content.chars();
            letters.next().filter(|_| letters.next().is_none())
        }
        _ => None,
    };
    let of_cut = |cut: &Cut| match cut {
        Cut::Metaspace { mark, .. } => Some(*mark),
        _ => None,
    };
    let mut marks: Vec<char> = steps.rewrites.iter().filter_map(of_rewrite).collect();
    marks.extend(steps.cuts.iter().filter_map(of_cut));
    marks.dedup();
    match marks.as_slice() {
        [] => Ok(Spelling::Plain),
        [mark] => Ok(Spelling::Marked(*mark)),
        _ => {
            let why = "spaces become several characters one after another";
            Err(FolderError::tokenizer("pre_tokenizer", format!("{marks:?}"), why))
        }
    }
}

/// Returns the steps of a sequence, or the one step, or none.
fn listed(step: &Value, list: &str, field: &'static str) -> Result<Vec<Value>, FolderError> {
    match step {
        Value::Null => Ok(Vec::new()),
        step if step["type"] == "Sequence" => {
            let steps = step[list].as_array();
            let missing = || FolderError::tokenizer(field, step, "a sequence without a list");
            let mut all = Vec::new();
            for step in steps.ok_or_else(missing)? {
                if step["type"] == "Sequence" {
                    let why = "sequences in sequences are refused";
                    return Err(FolderError::tokenizer(field, step, why));
                }
                all.push(step.clone());
            }
            Ok(all)
        }
        step => Ok(vec![step.clone()]),
    }
}

fn rewrite(step: &Value, out: &mut Vec<Rewrite>) -> Result<(), FolderError> {
    let refused = |why: &str| FolderError::tokenizer("normalizer", step, why);
    let text = |name: &str| step[name].as_str().map(str::to_owned);
    out.push(match step["type"].as_str().unwrap_or_default() {
        "NFC" => Rewrite::Nfc,
        "NFD" => Rewrite::Nfd,
        "NFKC" => Rewrite::Nfkc,
        "NFKD" => Rewrite::Nfkd,
        "Lowercase" => Rewrite::Lowercase,
        "StripAccents" => Rewrite::StripAccents,
        "Nmt" => Rewrite::Nmt,
        "Strip" => {
            let side = |name: &str| flag(step, name, true);
            let sides = side("strip_left").zip(side("strip_right"));
            let (left, right) = sides.ok_or_else(|| refused("its sides are not flags"))?;
            Rewrite::Strip { left, right }
        }
        "Replace" => {
            let expression = pattern(step, "normalizer")?;
            let content = text("content").ok_or_else(|| refused("no text to put in"))?;
            Rewrite::Replace { expression, content }
        }
        "Prepend" => Rewrite::Prepend(text("prepend").ok_or_else(|| refused("no text"))?),
        "Precompiled" if step["precompiled_charsmap"].as_str().is_none_or(str::is_empty) => {
            return Ok(());
        }
        "Precompiled" => {
            return Err(FolderError::tokenizer(
                "normalizer",
                "Precompiled",
                "a table of characters compiled by SentencePiece cannot be imported",
            ));
        }
        _ => return Err(refused("no step that is known here")),
    });
    Ok(())
}

fn cut(step: &Value, prefix_space: Option<bool>, out: &mut Vec<Cut>) -> Result<(), FolderError> {
    let refused = |why: &str| FolderError::tokenizer("pre_tokenizer", step, why);
    let split = |text: &str, behavior, invert| {
        let expression =
            Expression::new(text).map_err(|error| unread("pre_tokenizer", step, &error))?;
        Ok::<_, FolderError>(Cut::Split { expression, behavior, invert })
    };
    let is_set = |name: &str, default| {
        flag(step, name, default).ok_or_else(|| refused(&format!("{name} is not a flag")))
    };
    match step["type"].as_str().unwrap_or_default() {
        "ByteLevel" => {
            if prefix_space.map_or_else(|| is_set("add_prefix_space", true), Ok)? {
                out.push(Cut::SpacePrefix);
            }
            if is_set("use_regex", true)? {
                out.push(split(GPT2, Behavior::Isolated, false)?);
            }
            out.push(Cut::Spell);
        }
        "Split" => {
            let behavior = behavior(step)?.ok_or_else(|| refused("no behavior"))?;
            let (expression, invert) = (pattern(step, "pre_tokenizer")?, is_set("invert", false)?);
            out.push(Cut::Split { expression, behavior, invert });
        }
        "Digits" => {
            let each = is_set("individual_digits", false)?;
            let behavior = if each { Behavior::Isolated } else { Behavior::Contiguous };
            out.push(split(r"\p{N}", behavior, false)?);
        }
        "Punctuation" => {
            let behavior = behavior(step)?.unwrap_or(Behavior::Isolated);
            out.push(split(PUNCTUATION, behavior, false)?);
        }
        "Whitespace" => out.push(split(r"\w+|[^\w\s]+", Behavior::Removed, true)?),
        "WhitespaceSplit" => out.push(split(r"\s", Behavior::Removed, false)?),
        "BertPreTokenizer" => {
            out.push(split(r"\s", Behavior::Removed, false)?);
            out.push(split(PUNCTUATION, Behavior::Isolated, false)?);
        }
        "CharDelimiterSplit" => {
            let delimiter = step["delimiter"].as_str().ok_or_else(|| refused("no delimiter"))?;
            let expression = Expression::literal(delimiter);
            let expression = expression.map_err(|error| unread("pre_tokenizer", step, &error))?;
            out.push(Cut::Split { expression, behavior: Behavior::Removed, invert: false });
        }
        "Metaspace" => out.push(metaspace(step)?),
        _ => return Err(refused("no step that is known here")),
    }
    Ok(())
}

fn metaspace(step: &Value) -> Result<Cut, FolderError> {
    let refused = |why: &str| FolderError::tokenizer("pre_tokenizer", step, why);
    let mark = step["replacement"].as_str().unwrap_or_default();
    let mut letters = mark.chars();
    let mark = match (letters.next(), letters.next()) {
        (Some(mark), None) if mark != ' ' => mark,
        _ => return Err(refused("the replacement is not one character other than a space")),
    };
    // Older files have only a flag.
    let prefix = match (step["prepend_scheme"].as_str(), step["add_prefix_space"].as_bool()) {
        (None | Some("never"), Some(false)) | (Some("never"), _) => Prefix::Never,
        (Some("first"), None | Some(true)) => Prefix::First,
        (None | Some("always"), None | Some(true)) => Prefix::Always,
        _ => return Err(refused("prepend_scheme and add_prefix_space contradict each other")),
    };
    let split = flag(step, "split", true).ok_or_else(|| refused("split is not a flag"))?;
    Ok(Cut::Metaspace { mark, prefix, split })
}

/// Returns a flag, with the value that it has where it isn't set; none if it is something else.
fn flag(step: &Value, name: &str, default: bool) -> Option<bool> {
    match &step[name] {
        Value::Null => Some(default),
        value => value.as_bool(),
    }
}

fn behavior(step: &Value) -> Result<Option<Behavior>, FolderError> {
    let Some(name) = step["behavior"].as_str() else { return Ok(None) };
    let unknown = || FolderError::tokenizer("pre_tokenizer", step, "a behavior that is not known");
    Behavior::from_name(name).ok_or_else(unknown).map(Some)
}

fn pattern(step: &Value, field: &'static str) -> Result<Expression, FolderError> {
    let expression = match (step.pointer("/pattern/String"), step.pointer("/pattern/Regex")) {
        (Some(Value::String(text)), None) => Expression::literal(text),
        (None, Some(Value::String(text))) => Expression::new(text),
        _ => return Err(FolderError::tokenizer(field, step, "no pattern")),
    };
    expression.map_err(|error| unread(field, step, &error))
}

fn unread(field: &'static str, step: &Value, error: &ExpressionError) -> FolderError {
    FolderError::tokenizer(field, step, format!("the expression is not supported: {error}"))
}
