//! Words that may stand in some files only: the text side of "who may do what".
//!
//! A word between `*` matches inside longer words. Clippy's bans see types and catch what a text
//! scan cannot; this scan sees code for every target, compiled here or not.

use super::Finding;
use super::source::{Source, line_of, words};
use super::tree::Tree;

/// Words that must not stand in the files that `applies` picks.
pub(super) struct Ban {
    words: &'static [&'static str],
    applies: fn(&str) -> bool,
    /// Whether comments count too (literals never do).
    comments: bool,
    /// Whether test code counts too.
    tests: bool,
    why: &'static str,
}

const DEFINING: &[&str] = &["crates/lockstep-exact/", "crates/lockstep-kernels/"];
const PURE: &[&str] = &[
    "crates/lockstep-exact/",
    "crates/lockstep-proto/",
    "crates/lockstep-verify/",
    "dev/testing/",
];
const BINARY: &[&str] = &["crates/lockstep/", "dev/"];

fn within(path: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

pub(super) const ANYHOW: Ban = Ban {
    words: &["anyhow"],
    applies: |path| !within(path, BINARY),
    comments: false,
    tests: true,
    why: "libraries have typed errors",
};

pub(super) const GGUF: Ban = Ban {
    words: &["*GGUF*", "*Gguf*", "*gguf*"],
    applies: |path| !within(path, BINARY) && !within(path, &["crates/lockstep-import/", "fuzz/"]),
    comments: false,
    tests: false,
    why: "past import there are only packages",
};

pub(super) const FUSED: Ban = Ban {
    words: &[
        "*fmadd*",
        "*fmsub*",
        "*fnmadd*",
        "*vfma*",
        "*vfms*",
        "*vmlaq_f*",
        "*rcp14*",
        "*rcp_ps*",
        "*rcp_ss*",
        "*rsqrt*",
        "*vrecp*",
        "*max_ps*",
        "*min_ps*",
        "*max_ss*",
        "*min_ss*",
        "*vmaxq_f*",
        "*vminq_f*",
        "*dpbusds*",
        "*dpwssds*",
        "*setcsr*",
        "mul_add",
    ],
    applies: |path| within(path, DEFINING),
    comments: false,
    tests: false,
    why: "fused, estimated, saturating or target-defined: not in the arithmetic",
};

pub(super) const IMPURE: Ban = Ban {
    words: &[
        "HashMap",
        "HashSet",
        "Instant",
        "RandomState",
        "SystemTime",
        "async",
        "env::",
        "fs::",
        "io::",
        "process::",
        "rand",
        "std::env",
        "std::fs",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "thread::",
        "thread_local",
        "tokio::net",
    ],
    applies: |path| within(path, PURE),
    comments: false,
    tests: false,
    why: "the core has no input, output, clock, thread or chance of its own",
};

pub(super) const PRINTING: Ban = Ban {
    words: &["dbg!", "eprint!", "eprintln!", "print!", "println!"],
    applies: |path| !within(path, BINARY),
    comments: false,
    tests: false,
    why: "a library returns values; the binary prints",
};

pub(super) const STREAMS: Ban = Ban {
    words: &["eprint!", "eprintln!", "print!", "println!", "stderr()", "stdout()"],
    applies: |path| {
        let is_sink = path == "crates/lockstep/src/output.rs";
        path.starts_with("crates/") && path.contains("/src/") && !is_sink
    },
    comments: false,
    tests: false,
    why: "what is written is escaped: `output` alone has the streams",
};

pub(super) const SOCKETS: Ban = Ban {
    words: &["iroh", "quinn", "socket2", "std::net", "tokio::net"],
    applies: |path| !within(path, BINARY) && !within(path, &["crates/lockstep-node/"]),
    comments: false,
    tests: true,
    why: "node owns the sockets",
};

pub(super) const RUNTIME: Ban = Ban {
    words: &["tokio"],
    applies: |path| {
        let waits = ["crates/lockstep-client/", "crates/lockstep-node/"];
        !within(path, BINARY) && !within(path, &waits)
    },
    comments: false,
    tests: true,
    why: "only node and client wait",
};

pub(super) const SIGNALS: Ban = Ban {
    words: &["ctrl_c", "signal_hook", "tokio::signal"],
    applies: |path| !within(path, BINARY),
    comments: false,
    tests: true,
    why: "a library is told to end; the binary hears of interrupts",
};

pub(super) const UNFINISHED: Ban = Ban {
    words: &[
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        "todo!",
        "unimplemented!",
    ],
    applies: |_| true,
    comments: true,
    tests: true,
    why: "finish it, or say in the documents what is missing",
};

pub(super) const UNSAFE: Ban = Ban {
    words: &["unsafe"],
    applies: |path| {
        let is_map = path.starts_with("crates/lockstep-node/src/") && path.ends_with("/mmap.rs");
        let driver = ["crates/lockstep-cuda/src/driver.rs", "crates/lockstep-cuda/src/driver/"];
        !is_map && !within(path, &["crates/lockstep-kernels/"]) && !within(path, &driver)
    },
    comments: false,
    tests: true,
    why: "only kernels, the CUDA driver and node's memory map may be unsafe",
};

pub(super) fn check(ban: &Ban, tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.sources.iter().filter(|file| (ban.applies)(&file.path)) {
        let view = if ban.comments { &file.prose } else { &file.code };
        for word in ban.words {
            for line in lines_with(view, word) {
                if ban.tests || !file.is_test(line) {
                    let message = format!("`{}`: {}", word.trim_matches('*'), ban.why);
                    found.push(Finding::new(&file.path, line, message));
                }
            }
        }
    }
    found
}

/// The lines (from 1) of a view on which a word stands.
fn lines_with(view: &str, word: &str) -> Vec<usize> {
    let bare = word.trim_matches('*');
    let offsets: Vec<usize> = if bare == word {
        words(view, bare).collect()
    } else {
        view.match_indices(bare).map(|(at, _)| at).collect()
    };
    offsets.into_iter().map(|at| line_of(view, at)).collect()
}

/// A test that sleeps is slow when it passes and flaky when it fails: time is an input.
pub(super) fn sleep_in_tests(tree: &Tree) -> Vec<Finding> {
    let sleeps = |file: &Source| {
        let lines = lines_with(&file.code, "sleep(").into_iter();
        lines.filter(|&line| file.is_test(line)).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for file in &tree.sources {
        for line in sleeps(file) {
            found.push(Finding::new(&file.path, line, "a test sleeps: drive time by hand"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Check, RULES};
    use super::{Tree, check};

    const PATHS: [&str; 2] = ["crates/lockstep-exact/src/a.rs", "crates/lockstep-kernels/src/a.rs"];

    #[test]
    fn every_word_of_every_ban_is_found_in_code_and_not_in_a_literal() {
        for rule in RULES {
            let Check::Words(ban) = &rule.check else { continue };
            let path = PATHS.into_iter().find(|path| (ban.applies)(path)).unwrap();
            for word in ban.words.iter().map(|word| word.trim_matches('*')) {
                let findings = |text: String| check(ban, &Tree::of([(path, text.as_str())])).len();
                assert!(findings(format!("{word} x")) >= 1, "{}: {word}", rule.name);
                assert_eq!(findings(format!("f(\"{word} x\")")), 0, "{}: {word}", rule.name);
            }
        }
    }

    #[test]
    fn a_word_inside_a_longer_one_is_another_word() {
        let findings = |text| check(&super::IMPURE, &Tree::of([(PATHS[0], text)])).len();
        assert_eq!(findings("let InstantValue = operand; studio::f(); my_thread::f()"), 0);
    }
}
