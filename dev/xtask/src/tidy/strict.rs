//! That the compiler and clippy are asked to be as strict as each crate's rule demands.

use super::Finding;
use super::tree::Tree;

/// Lints that a crate's root must deny or forbid.
struct Tier {
    root: &'static str,
    lints: &'static [&'static [&'static str]],
}

const SAFE: &[&str] = &["unsafe_code"];

const TOTAL: &[&str] =
    &["clippy::expect_used", "clippy::panic", "clippy::unwrap_used", "missing_docs"];

const EXACT: &[&str] = &[
    "clippy::disallowed_methods",
    "clippy::disallowed_types",
    "clippy::host_endian_bytes",
    "clippy::let_underscore_must_use",
    "clippy::panic_in_result_fn",
    "clippy::wildcard_enum_match_arm",
];

const HOSTILE: &[&str] = &[
    "clippy::cast_possible_truncation",
    "clippy::cast_possible_wrap",
    "clippy::cast_sign_loss",
    "clippy::string_slice",
    "clippy::unreachable",
];

const INDEXED: &[&str] = &["clippy::indexing_slicing"];

const SILENT: &[&str] = &["clippy::print_stderr", "clippy::print_stdout"];

const KERNELS: &[&str] = &[
    "clippy::disallowed_methods",
    "clippy::undocumented_unsafe_blocks",
    "missing_docs",
    "unsafe_op_in_unsafe_fn",
];

const FOREIGN: &[&str] = &["clippy::undocumented_unsafe_blocks", "unsafe_op_in_unsafe_fn"];

const TIERS: &[Tier] = &[
    Tier { root: "crates/lockstep-cuda/src/lib.rs", lints: &[SAFE, TOTAL, FOREIGN] },
    Tier { root: "crates/lockstep-exact/src/lib.rs", lints: &[SAFE, TOTAL, EXACT] },
    Tier { root: "crates/lockstep-kernels/src/lib.rs", lints: &[KERNELS] },
    Tier { root: "crates/lockstep-import/src/lib.rs", lints: &[SAFE, TOTAL, INDEXED] },
    Tier {
        root: "crates/lockstep-verify/src/lib.rs",
        lints: &[SAFE, TOTAL, EXACT, HOSTILE, INDEXED],
    },
    Tier {
        root: "crates/lockstep-proto/src/lib.rs",
        lints: &[SAFE, TOTAL, EXACT, HOSTILE, INDEXED],
    },
    Tier { root: "crates/lockstep-node/src/lib.rs", lints: &[SAFE] },
    Tier { root: "crates/lockstep-client/src/lib.rs", lints: &[SAFE, TOTAL, INDEXED, SILENT] },
    Tier { root: "crates/lockstep/src/main.rs", lints: &[SAFE] },
];

pub(super) fn attributes(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for tier in TIERS {
        let root = tree.sources.iter().find(|file| file.path == tier.root);
        // A root without an item promises nothing yet.
        let Some(root) = root.filter(|file| file.code.contains(['{', ';'])) else { continue };
        let attributes = root.attributes();
        let denied = |lint: &str| {
            let is_strict =
                |text: &str| text.starts_with("#![deny") || text.starts_with("#![forbid");
            attributes.iter().any(|(_, text)| is_strict(text) && names(text).any(|n| n == lint))
        };
        for lint in tier.lints.iter().copied().flatten().filter(|lint| !denied(lint)) {
            found.push(Finding::new(tier.root, 0, format!("must deny or forbid `{lint}`")));
        }
    }
    found
}

/// The paths, such as `clippy::panic`, that stand in an attribute.
fn names(attribute: &str) -> impl Iterator<Item = &str> {
    attribute.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

/// Crates where only `+ - * / sqrt`, comparison and conversion of floats are allowed.
const FLOAT_BANS: &[&str] = &["exact", "kernels", "proto", "verify"];

/// Crates without hash maps, clocks and threads.
const TYPE_BANS: &[&str] = &["exact", "proto", "verify"];

/// Clippy reads one clippy.toml per crate and merges nothing, so the lists are copies: equal ones.
pub(super) fn equal_bans(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (key, crates) in [("disallowed-methods", FLOAT_BANS), ("disallowed-types", TYPE_BANS)] {
        let list = |name: &str| ban_list(tree.text(&clippy_file(name)), key);
        let first = list("exact");
        for name in crates {
            if list(name).is_empty() || list(name) != first {
                let message = format!("`{key}` is missing or differs from lockstep-exact's");
                found.push(Finding::new(&clippy_file(name), 0, message));
            }
        }
    }
    found
}

pub(super) fn clippy_file(name: &str) -> String {
    format!("crates/lockstep-{name}/clippy.toml")
}

/// The text of an array in a settings file, without its white space.
fn ban_list(text: &str, key: &str) -> String {
    let start = text.find(&format!("{key} = [")).unwrap_or(text.len());
    let end = text[start..].find("\n]").map_or(text.len(), |length| start + length);
    text[start..end].split_whitespace().collect()
}

/// A relaxed lint says why; clippy sees only the code that this target compiles.
pub(super) fn reasons(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        for (line, text) in file.attributes() {
            let relaxes = text.contains("allow(") || text.contains("expect(");
            if relaxes && !names(text).any(|name| name == "reason") {
                let message = "a relaxed lint needs `reason = \"…\"` (and `expect`, not `allow`)";
                found.push(Finding::new(&file.path, line, message));
            }
        }
    }
    found
}
