//! How plainly public items are described: doc comments whose first sentence a newcomer could not
//! understand, counted by signs that text can show.
//!
//! A sentence counts as *short* below [`SHORTEST`] characters, as a *riddle* when it begins with a
//! relative clause in place of a noun ("What there is."), and a function's as *without a verb* when
//! it does not begin with one in the third person ("Returns ..."). `cargo xtask prose` prints the
//! counts of each crate and the places; the rule `plain-words` allows none.

use super::Finding;
use super::source::Source;
use super::tree::Tree;
use std::collections::BTreeMap;

/// The fewest characters of a first sentence that can name its subject and say something of it.
const SHORTEST: usize = 24;

/// Beginnings of relative clauses that stand for a noun.
const RIDDLES: &[&str] = &["What ", "Who ", "Whom ", "How ", "Where ", "As ", "So many ", "That "];

/// Words that end as verbs in the third person do, and are none.
const NO_VERBS: &[&str] = &[
    "Alternatives",
    "As",
    "Attributes",
    "Biases",
    "Bits",
    "Bytes",
    "Cells",
    "Certificates",
    "Characters",
    "Codes",
    "Columns",
    "Conversations",
    "Defaults",
    "Digits",
    "Dimensions",
    "Entries",
    "Files",
    "Frames",
    "Groups",
    "Heads",
    "Items",
    "Its",
    "Kernels",
    "Keys",
    "Layers",
    "Letters",
    "Logits",
    "Mantissas",
    "Microseconds",
    "Milliseconds",
    "Names",
    "Numbers",
    "Operators",
    "Pages",
    "Penalties",
    "Positions",
    "Regions",
    "Residues",
    "Rows",
    "Seconds",
    "Segments",
    "Sessions",
    "Signatures",
    "Sizes",
    "Statements",
    "Steps",
    "Strings",
    "Sums",
    "This",
    "Threads",
    "Tokens",
    "Values",
    "Versions",
    "Weights",
    "Workers",
];

/// What is wrong with a doc comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Riddle,
    Short,
    WithoutVerb,
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Riddle => "a riddle",
            Self::Short => "too short",
            Self::WithoutVerb => "without a verb",
        }
    }
}

/// One doc comment with a fault: line from 1, the fault, the first sentence.
type Place = (usize, Fault, String);

/// Prints the number of faults of each crate, and each place.
pub(super) fn print(tree: &Tree) {
    let mut crates: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for source in &tree.sources {
        let Some((folder, _)) = source.path.split_once("/src/") else { continue };
        for (line, fault, sentence) in faults(source) {
            println!("{}:{line}: {}: {sentence}", source.path, fault.name());
            *crates.entry(folder).or_default().entry(fault.name()).or_default() += 1;
        }
    }
    for (name, counts) in &crates {
        let list: Vec<String> =
            counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        println!("{name}: {}", list.join(", "));
    }
    let sum: usize = crates.values().flat_map(BTreeMap::values).sum();
    println!("all: {sum}");
}

/// Returns a finding for each doc comment of a public item that has a fault.
pub(super) fn plain_words(tree: &Tree) -> Vec<Finding> {
    let sources = tree.sources.iter().filter(|source| source.path.contains("/src/"));
    let places = sources.flat_map(|source| {
        faults(source).into_iter().map(|(line, fault, sentence)| {
            let name = fault.name();
            let message = format!("a doc comment is {name} (see CONTRIBUTING.md): {sentence}");
            Finding::new(&source.path, line, message)
        })
    });
    places.collect()
}

/// The doc comments of public items of a file that have a fault.
fn faults(source: &Source) -> Vec<Place> {
    let mut found = Vec::new();
    let mut comment: Option<(usize, String)> = None;
    // The line that closes the public enum or trait that is open.
    let mut closing: Option<String> = None;
    for (line, text, is_test) in source.lines(&source.text) {
        let item = text.trim();
        if let Some(words) = item.strip_prefix("///") {
            let (_, all) = comment.get_or_insert((line, String::new()));
            all.push_str(words);
            all.push('\n');
        } else if !item.starts_with("#[") && !item.is_empty() {
            let kind = public(item).or_else(|| closing.as_ref().and_then(|_| member(item)));
            if let Some((at, words)) = comment.take().filter(|_| !is_test) {
                let sentence = first_sentence(&words);
                let fault = kind.and_then(|item| fault(item, &sentence));
                found.extend(fault.map(|fault| (at, fault, sentence)));
            }
            if public(item)
                .is_some_and(|item| ["enum ", "trait "].iter().any(|k| item.starts_with(k)))
            {
                closing = Some(format!("{}}}", &text[..text.len() - text.trim_start().len()]));
            } else if closing.as_deref() == Some(text) {
                closing = None;
            }
        }
    }
    found
}

/// The item that a line begins, without its visibility, if others can see it.
fn public(item: &str) -> Option<&str> {
    item.strip_prefix("pub ").or_else(|| item.strip_prefix("pub(crate) "))
}

/// The variant of an enum or the function of a trait that a line begins.
fn member(item: &str) -> Option<&str> {
    let is_member = item.starts_with(|c: char| c.is_ascii_uppercase()) || is_function(item);
    is_member.then_some(item)
}

/// What is wrong with the first sentence of the doc comment of a public item.
fn fault(item: &str, sentence: &str) -> Option<Fault> {
    if RIDDLES.iter().any(|riddle| sentence.starts_with(riddle)) {
        Some(Fault::Riddle)
    } else if sentence.chars().count() < SHORTEST {
        Some(Fault::Short)
    } else if is_function(item) && !begins_with_verb(sentence) {
        Some(Fault::WithoutVerb)
    } else {
        None
    }
}

fn is_function(item: &str) -> bool {
    let words = item.split_whitespace();
    let qualifiers = ["async", "const", "unsafe", "extern"];
    words.map(|word| word.trim_matches('"')).find(|word| !qualifiers.contains(word)) == Some("fn")
}

fn begins_with_verb(sentence: &str) -> bool {
    let mut words = sentence.split_whitespace().skip_while(|word| *word == "Never");
    let first = words.next().unwrap_or_default().trim_end_matches(',');
    first.ends_with('s') && !NO_VERBS.contains(&first)
}

/// The text of a doc comment up to the end of its first sentence.
fn first_sentence(words: &str) -> String {
    let paragraph = words.split("\n\n").next().unwrap_or_default();
    let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => text,
    }
}
