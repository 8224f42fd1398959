//! The rules for cutting text that GGUF files only name (`tokenizer.ggml.pre`).
//!
//! Each is written out as the steps that the models' own `tokenizer.json` states, so that a model
//! is the same package from both; where such a file isn't known, as llama.cpp has it. A name that
//! isn't here is refused: a wrong rule gives plausible ids and a model that seems stupid.

use super::expression::{Behavior, Expression, ExpressionError};
use super::steps::{Cut, Rewrite, Steps};

/// A rule of pre-tokenization that GGUF files name.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its names; the first is what messages call it.
    names: &'static [&'static str],
    /// The expressions at which text is cut, one after another.
    cuts: &'static [Piece],
    /// Whether text is normalised (NFC) first.
    normalises: bool,
    /// Whether a piece that is a token as a whole is not split further, whatever the merges say.
    pub(super) takes_whole: bool,
    /// Whether prompts begin with the beginning-of-sequence token unless the file says otherwise.
    pub(super) adds_bos: bool,
}

/// One step of a rule.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// Matches are pieces of their own.
    At(&'static str),
    /// Matches beside each other are one piece.
    Runs(&'static str),
    /// From here on bytes are spelled in the byte alphabet.
    Spell,
}
use Piece::{At, Runs, Spell};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const YOUTU: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Chinese and Korean, and what lies between, as DeepSeek's first models have it.
const CJK_OLD: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEP_SEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const SPARK: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
);
/// The letters that DeepSeek's earliest general models take for Latin, Greek, Cyrillic and similar
/// alphabets.
const DEEP_SEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z",
    "\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}",
    "\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}",
    "\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}",
    "\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}",
    "\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}",
    "\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}",
    "\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}",
    "\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}",
    "\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}",
    "\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}",
    "\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}",
    "\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}",
    "\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}",
    "\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}",
    "\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}",
    "\u{1e900}-\u{1e943}",
    "]+"
);
const WORDS_TO_STOPS: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DIGITS_FROM_RIGHT: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// Returns a rule whose pieces are tokens only through merges, and which adds nothing.
const fn rule(names: &'static [&'static str], cuts: &'static [Piece]) -> Rule {
    Rule { names, cuts, normalises: false, takes_whole: false, adds_bos: false }
}

impl Rule {
    const fn normalising(self) -> Self {
        Self { normalises: true, ..self }
    }

    const fn taking_whole(self) -> Self {
        Self { takes_whole: true, ..self }
    }

    const fn adding_bos(self) -> Self {
        Self { adds_bos: true, ..self }
    }
}

/// Every rule that is known, with all its names.
pub const RULES: &[Rule] = &[
    rule(
        &[
            "gpt-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
        ],
        &[At(GPT2), Spell],
    ),
    rule(
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[At(r"\p{N}"), At(GPT2), Spell],
    ),
    rule(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[At(LLAMA3), Spell],
    )
    .taking_whole()
    .adding_bos(),
    rule(&["glm4", "glm5"], &[At(LLAMA3), Spell]).taking_whole(),
    rule(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[At(LLAMA3), Spell]),
    rule(&["qwen2"], &[At(QWEN2), Spell]).normalising(),
    rule(
        &[
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[At(QWEN2), Spell],
    ),
    rule(&["qwen35"], &[At(QWEN35), Spell]),
    rule(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[At(GPT4O), Spell]),
    rule(&["granite-embed-multi-97m"], &[At(GPT4O), Spell]).taking_whole(),
    rule(&["tekken"], &[At(TEKKEN), Spell]).taking_whole().adding_bos(),
    rule(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[At(r"\p{N}{1,3}"), At(CJK), At(DEEP_SEEK3), Spell],
    ),
    rule(
        &["deepseek-llm"],
        &[
            At(r"[\r\n]"),
            At(DEEP_SEEK_LETTERS),
            At("\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
            At(r"\s+$"),
            At(CJK_OLD),
            At(r"\p{N}"),
            Spell,
        ],
    ),
    rule(
        &["deepseek-coder"],
        &[At(r"[\r\n]"), At(r"\s?\p{L}+"), At(r"\s?\p{P}+"), At(CJK_OLD), At(r"\p{N}"), Spell],
    ),
    rule(
        &["falcon"],
        &[Runs(r"[\p{P}!-/:-@\[-`{-~]"), At(GPT2), Spell, Runs(r"\p{N}"), At("[0-9][0-9][0-9]")],
    ),
    rule(&["poro-chat", "bloom", "gpt3-finnish"], &[At(WORDS_TO_STOPS), Spell]),
    rule(&["viking"], &[At(WORDS_TO_STOPS), At(r"\p{N}"), Spell]),
    rule(
        &["jais-2"],
        &[
            At(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)",
                r"|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)",
                r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
            )),
            Spell,
        ],
    ),
    rule(
        &["youtu"],
        &[
            At(concat!(
                "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[！…“”‘’—：；，\u{3001}-\u{303f}",
                "\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+",
                "|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"
            )),
            At(YOUTU),
            Spell,
        ],
    )
    .taking_whole(),
    rule(&["spark2_5"], &[At(r"\p{N}{1,3}"), At(CJK), At(SPARK), At(r"\p{N}"), Spell]),
    rule(
        &["chameleon"],
        &[
            At("<sentinel:[0-9]+>"),
            At("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            At(r"([\t\n]|    |  )"),
            At(r"\p{N}"),
            At(r"[\p{P}!-/:-@\[-`{-~]"),
            At(GPT2),
            Spell,
        ],
    )
    .adding_bos(),
    rule(&["tiny_aya", "cohere2moe"], &[At(DIGITS_FROM_RIGHT), At(GPT4O), Spell]),
    rule(&["superbpe"], &[At(r"\p{N}+"), At(r"(?=(\d{3})+(?!\d))"), Spell]),
    rule(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[
            At(concat!(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
            )),
            Spell,
        ],
    ),
    rule(
        &["seed-coder"],
        &[
            At(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}",
                r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Spell,
        ],
    ),
    rule(
        &["ufakzeka"],
        &[
            At(concat!(
                r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Spell,
        ],
    ),
    rule(&["laguna"], &[At(r"[^\n]+|[\n]+"), At(QWEN2), Spell]),
    rule(
        &["exaone-moe"],
        &[
            At(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            )),
            Spell,
        ],
    ),
    rule(
        &["minicpm5"],
        &[
            At(r"\p{N}{1,3}"),
            At(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Spell,
        ],
    )
    .taking_whole(),
    // What llama.cpp does with files that name no rule: they are from before there were names.
    rule(
        &["default"],
        &[At(r"[\p{P}\$\+<=>\^~\|]+"), At(GPT2), At(r"\p{N}+"), At("[0-9][0-9][0-9]"), Spell],
    ),
];

impl Rule {
    /// Returns the rule that `tokenizer.ggml.pre` calls `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.names.contains(&name))
    }

    /// Returns the earliest of the rule's names.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// Returns whether a piece that is a token as a whole is not split further.
    pub const fn takes_whole(&self) -> bool {
        self.takes_whole
    }

    /// Returns the steps of the rule, with its expressions parsed.
    ///
    /// # Errors
    /// One of its expressions doesn't read, which a test excludes.
    pub fn steps(&self) -> Result<Steps, ExpressionError> {
        let split = |text, behavior| {
            Ok(Cut::Split { expression: Expression::new(text)?, behavior, invert: false })
        };
        let cut = |piece: &Piece| match piece {
            At(text) => split(text, Behavior::Isolated),
            Runs(text) => split(text, Behavior::Contiguous),
            Spell => Ok(Cut::Spell),
        };
        let rewrites = if self.normalises { vec![Rewrite::Nfc] } else { Vec::new() };
        Ok(Steps { rewrites, cuts: self.cuts.iter().map(cut).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::expression::Budget;
    use super::*;

    fn pieces(rule: &str, text: &str) -> Vec<String> {
        let mut steps = Rule::named(rule).unwrap().steps().unwrap();
        steps.cuts.retain(|cut| *cut != Cut::Spell);
        let pieces = steps.pieces(text, true, &Budget::of_text(text.len())).unwrap();
        pieces.into_iter().map(|piece| piece.text.into_owned()).collect()
    }

    #[test]
    fn every_rule_reads_and_every_name_leads_to_one() {
        let mut names = HashSet::new();
        for rule in RULES {
            assert!(rule.steps().unwrap().spells_bytes(), "{}", rule.name());
            for name in rule.names {
                assert!(names.insert(*name), "{name}");
                assert_eq!(Rule::named(name).unwrap().name(), rule.name());
            }
        }
        assert!(Rule::named("none").is_none());
    }

    #[test]
    fn pieces_join_to_the_text() {
        let text = "  I'LL pay\u{a0}  7€\r\n\n\t x\u{301}²  中文。 12345";
        for rule in RULES {
            assert_eq!(pieces(rule.name(), text).concat(), text, "{}", rule.name());
        }
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word_behind_it() {
        assert_eq!(pieces("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces("gpt-2", "a \n\nb"), ["a", " \n", "\n", "b"]);
        assert_eq!(pieces("gpt-2", "a  "), ["a", "  "]);
        assert_eq!(pieces("llama-bpe", "a \n\nb"), ["a", " \n\n", "b"]);
        assert_eq!(pieces("llama-bpe", "a \n  b"), ["a", " \n", " ", " b"]);
    }

    #[test]
    fn digits_group_as_each_model_learned_them() {
        assert_eq!(pieces("gpt-2", "in 1969"), ["in", " 1969"]);
        assert_eq!(pieces("smollm", "in 1969"), ["in", " ", "1", "9", "6", "9"]);
        assert_eq!(pieces("llama-bpe", "in 1969"), ["in", " ", "196", "9"]);
        assert_eq!(pieces("qwen2", "in 19"), ["in", " ", "1", "9"]);
        assert_eq!(pieces("superbpe", "12345 x"), ["12", "345", " x"]);
        let aya = ["123", "456", "7", "x", " ", "1", "234", "567"];
        assert_eq!(pieces("tiny_aya", "1234567x 1234567"), aya);
    }

    #[test]
    fn contractions_split_in_any_case_only_where_the_model_does() {
        assert_eq!(pieces("gpt-2", "I'LL I'll"), ["I", "'", "LL", " I", "'ll"]);
        assert_eq!(pieces("llama-bpe", "I'LL I'll"), ["I", "'LL", " I", "'ll"]);
        assert_eq!(pieces("ufakzeka", "I'll"), ["I", "'ll"]);
    }

    #[test]
    fn words_end_before_capitals_and_keep_contractions_only_where_the_model_does() {
        let text = "getHTTPCode it's";
        assert_eq!(pieces("gpt-4o", text), ["get", "HTTPCode", " it's"]);
        assert_eq!(pieces("tekken", text), ["get", "HTTPCode", " it", "'s"]);
        assert_eq!(pieces("llama-bpe", text), ["getHTTPCode", " it", "'s"]);
        assert_eq!(pieces("gpt-4o", "a/\n/1234"), ["a", "/\n/", "123", "4"]);
        assert_eq!(pieces("tekken", "a/\n/12"), ["a", "/\n/", "1", "2"]);
    }

    #[test]
    fn one_rule_after_another_cuts_what_the_one_before_left() {
        let cut = |text| pieces("deepseek-v3", text);
        assert_eq!(cut("東京タワーabc"), ["東京タワー", "abc"]);
        assert_eq!(cut("x12345#include <y"), ["x", "123", "45", "#include", " <", "y"]);
        assert_eq!(cut("a ++\n b"), ["a", " ++\n", " b"]);
    }
}
