//! Every rule is broken once, by a snippet made for it, and holds on a snippet beside it; and all
//! rules hold on the real tree.

use super::exceptions::{EXCEPTIONS, Exception};
use super::tree::{Package, Tree};
use super::{Broken, RULES, check, prose};
use std::path::Path;

/// A rule with a tree on which it holds and one on which it doesn't.
struct Case {
    rule: &'static str,
    good: Tree,
    bad: Tree,
}

/// A case about one Rust file.
fn text(rule: &'static str, path: &str, good: &str, bad: &str) -> Case {
    Case { rule, good: Tree::of([(path, good)]), bad: Tree::of([(path, bad)]) }
}

/// A case about one package.
fn package(rule: &'static str, good: Package, bad: Package) -> Case {
    let tree = |package| Tree { packages: vec![package], ..Tree::default() };
    Case { rule, good: tree(good), bad: tree(bad) }
}

fn linking(name: &str, links: &[&str], links_in_tests: &[&str], features: &[&str]) -> Package {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Package {
        name: name.to_owned(),
        folder: format!("crates/{name}"),
        links: owned(links),
        links_in_tests: owned(links_in_tests),
        features: owned(features),
    }
}

const CUDA: &str = "crates/lockstep-cuda/src/a.rs";
const CUDA_DRIVER: &str = "crates/lockstep-cuda/src/driver/a.rs";
const EXACT: &str = "crates/lockstep-exact/src/a.rs";
const KERNELS: &str = "crates/lockstep-kernels/src/a.rs";
const IMPORT: &str = "crates/lockstep-import/src/a.rs";
const CLIENT: &str = "crates/lockstep-client/src/a.rs";
const NODE: &str = "crates/lockstep-node/src/a.rs";
const BINARY: &str = "crates/lockstep/src/a.rs";
const PROTO: &str = "crates/lockstep-proto/src/a.rs";

fn word_cases() -> Vec<Case> {
    let unfinished = concat!("// TO", "DO: later");
    let test_clock = "#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}";
    vec![
        text("anyhow-in-binary", NODE, "// anyhow\n", "use anyhow::Result;"),
        text("gguf-in-import", EXACT, "/// From a GGUF.\nfn f() {}", "struct GgufTensor;"),
        text("gguf-in-import", NODE, "f(\"x.gguf\")", "fn is_gguf() {}"),
        text("no-fused", KERNELS, "_mm512_mul_ps(a, b)", "_mm512_fmadd_ps(a, b, c)"),
        text("no-fused", EXACT, "a * b + c", "a.mul_add(b, c)"),
        text("no-sleep-in-tests", NODE, "fn f() { sleep(x) }", "#[test]\nfn f() { sleep(x) }"),
        text(
            "no-sleep-in-tests",
            "crates/a/tests/b.rs",
            "fn sleep_state() {}",
            "t::sleep(d).await",
        ),
        text("no-unfinished", NODE, "// what is left", unfinished),
        text("no-unfinished", NODE, "f(\"todo!\")", "fn f() { todo!() }"),
        text("printing-in-binary", NODE, "#[test]\nfn f() { println!() }", "fn f() { println!() }"),
        text("pure-core", EXACT, test_clock, "use std::time::Instant;"),
        text("pure-core", PROTO, "BTreeMap::new()", "HashMap::new()"),
        text("pure-core", PROTO, "use core::net::IpAddr;", "use std::net::IpAddr;"),
        text("pure-core", PROTO, "fn io() {}", "use std::{fs, mem};\nfn f() { fs::read(p) }"),
        text("pure-core", NODE.replace("node", "verify").leak(), "fn f() {}", "async fn f() {}"),
        text("runtime-in-client-and-node", PROTO, "// tokio\n", "use tokio::time::sleep;"),
        text("signals-in-binary", CLIENT, "use tokio::sync::mpsc;", "use tokio::signal::ctrl_c;"),
        text("sockets-in-node", CLIENT, "use tokio::sync::mpsc;", "use tokio::net::TcpStream;"),
        text("streams-in-output", BINARY, "c.stdout(f())", "write(&mut io::stdout(), text)"),
        text("unsafe-in-kernels", NODE, "#![deny(unsafe_code)]", "unsafe { f() }"),
        text("unsafe-in-kernels", KERNELS, "unsafe { f() }", "")
            .swapped(IMPORT, "unsafe fn f() {}"),
        text("unsafe-in-kernels", CUDA_DRIVER, "unsafe { f() }", "")
            .swapped(CUDA, "unsafe { f() }"),
    ]
}

#[test]
fn doc_comments_are_counted_for_what_they_fail_to_say() {
    let of = |text: &str| prose::plain_words(&Tree::of([(EXACT, text)])).len();
    let plain = "/// Returns `a` plus `b`, rounded.\npub fn f() {}\n";
    assert_eq!(of(plain), 0);
    assert_eq!(of(&plain.replace("Returns", "The result of")), 1, "no verb");
    assert_eq!(of(&plain.replace("Returns", "Sums of")), 1, "a noun that ends as a verb does");
    assert_eq!(of(&plain.replace("Returns", "Never takes")), 0, "a verb after all");
    assert_eq!(of(&plain.replace("fn f()", "struct F")), 0, "a type needs none");
    assert_eq!(of(&plain.replace("Returns `a` plus `b`, rounded", "Adds them")), 1, "short");
    assert_eq!(of(&plain.replace("pub ", "")), 0, "not public");
    assert_eq!(of("pub enum E {\n    /// Short.\n    #[x]\n    A,\n}\n"), 1, "a variant");
    assert_eq!(of("/// Its subject stands in\n/// two lines.\npub mod a;\n"), 0);
}

/// Defaults with a reason and without, in files that decide and in others.
fn default_cases() -> Vec<Case> {
    let rule = "silent-defaults";
    let verify = "crates/lockstep-verify/src/a.rs";
    let executor = "crates/lockstep-node/src/executor/a.rs";
    let before = "// default: an absent one has no bytes,\n// and is not counted\nx.unwrap_or(0)";
    let in_test = "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap_or(0) }\n}";
    vec![
        text(rule, verify, before, "// why not\nx.unwrap_or(0)"),
        text(
            rule,
            EXACT,
            "x.unwrap_or_default() // default: none is none",
            "x.unwrap_or_default()",
        ),
        text(rule, PROTO, in_test, "x.unwrap_or_else(Vec::new)"),
        text(rule, executor, "x.ok_or(y)?", "x.ok()"),
        text(rule, KERNELS, "// default: zero is zero\nx.unwrap_or(0)", "x.unwrap_or(0)"),
        text(rule, executor, "// default: no room\nx.map(Result::ok)", "x.map(Result::ok)"),
        text(rule, NODE, "x.unwrap_or(0)", "").swapped(executor, "x.unwrap_or(0)"),
        // A reason that says nothing, or stands behind a gap, is none.
        text(rule, verify, "", "// default: \nx.unwrap_or(0)"),
        text(rule, verify, "", "// default: why\n\nx.unwrap_or(0)"),
        text(rule, verify, "f(\"x.unwrap_or(0)\")", "f(\"// default: why\", x.unwrap_or(0))"),
    ]
}

#[test]
fn defaults_that_have_a_reason_are_counted() {
    let tree = Tree::of([
        (EXACT, "// default: none\nx.unwrap_or(0);\nx.unwrap_or(0);\n"),
        (PROTO, "x.ok() // default: the error says no more\n"),
    ]);
    assert_eq!(super::defaults::excused(&tree), 2);
}

/// A check of the verifier with and without its entry.
fn check_cases() -> Vec<Case> {
    let path = "crates/lockstep-verify/src/a.rs";
    let check = (path, "fn f() {\n    return Err(x);\n}\n");
    let entry = "file: crates/lockstep-verify/src/a.rs\ntests: -p x --lib\n== c\ntest: t\n";
    let entry = format!("{entry}-    return Err(x);\n");
    let listed = Tree::of([check, ("dev/xtask/ablations/a.patch", entry.as_str())]);
    vec![Case { rule: "checks-removed", good: listed, bad: Tree::of([check]) }]
}

/// Lists in documents that are right, and with something left out.
fn list_cases() -> Vec<Case> {
    let frames = "pub enum ToServer {\n    /// Ends.\n    Cancel(u8),\n    Open {\n\
                  \x20       A: u8,\n    },\n}\n";
    let table = "| `x` | client -> server | `Cancel`, `Open` |\n";
    let frame = |text| {
        Tree::of([("crates/lockstep-proto/src/frame/ctl.rs", frames), ("docs/protocol.md", text)])
    };
    let failure = "pub enum Reason {\n    Idle,\n}\n    pub enum Refusal (\"r\") {\n\
                   \x20       Busy = 3, \"b\";\n    }\n";
    let tables = "| seen | reason | named |\n|---|---|---|\n| a | `Idle` | b |\n\n\
                  | refusal | meaning |\n|---|---|\n| `Busy` | b |\n";
    let reason = |text| {
        Tree::of([("crates/lockstep-proto/src/failure.rs", failure), ("docs/protocol.md", text)])
    };
    let ops = "pub trait Device {\n    type A;\n    fn a();\n    fn b() {\n    }\n}\nfn c() {}\n\
               pub trait Products {\n    fn a();\n}\npub trait Host: Device {\n    fn a();\n}\n\
               pub trait FieldDots {\n    fn a();\n}\n";
    let counted = "1. **`Device`** - 2 operations\n2. **`Products`** - 1 operation\n\
                   3. **`Host`** - 1\n4. **`FieldDots`** - 1\n";
    let operation =
        |text| Tree::of([("crates/lockstep-exact/src/ops.rs", ops), ("ARCHITECTURE.md", text)]);
    let lib = "//! | module | what |\n//! |---|---|\n//! | [`a`], `b` | x |\n\n\
               pub mod a;\nmod b;\n#[cfg(test)]\nmod c;\n";
    let module = |text: &str| Tree::of([("crates/lockstep-node/src/lib.rs", text)]);
    let case = |rule, good, bad| Case { rule, good, bad };
    vec![
        case("frames-listed", frame(table), frame("| `x` | client -> server | `Cancel` |\n")),
        case("frames-listed", frame(table), frame(&table.replace("Open", "Open`, `Close"))),
        case("reasons-listed", reason(tables), reason(&tables.replace("`Busy`", "busy"))),
        case("reasons-listed", reason(tables), reason(&tables.replace("`Idle`", "`Lost`"))),
        case(
            "operations-counted",
            operation(counted),
            operation(&counted.replace("- 2 operations", "- about ten operations")),
        ),
        case(
            "operations-counted",
            operation(counted),
            operation(&counted.replace("**`Host`** - 1", "**`Host`** - 2")),
        ),
        case("modules-listed", module(lib), module(&format!("{lib}pub mod d;\n"))),
        case("modules-listed", module(lib), module(&format!("{lib}mod d;\n"))),
        case("modules-listed", module(lib), module(&lib.replace("mod b;\n", ""))),
        case("modules-listed", module("fn f() {}\n"), module("//! A crate.\n\nmod b;\n")),
    ]
}

fn shape_cases() -> Vec<Case> {
    let lines = |count: usize| "x;\n".repeat(count);
    let function = |count: usize| format!("fn f() {{\n{}}}\n", lines(count));
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(400), lines(600));
    let wide = format!("// {}\n", "é".repeat(97));
    let row = "|x".repeat(60);
    vec![
        text("document-lines", "docs/a.md", &row, &row[1..]),
        text("file-length", EXACT, &tested, &lines(801)),
        text("function-length", EXACT, &function(68), &function(69)),
        text("line-length", EXACT, &wide, &wide.replace("// ", "// e")),
        text("module-header", EXACT, "//! What it is.\n", "use std::mem;\n//! Late.\n"),
        text("module-names", "crates/a/src/utilities.rs", "", "mod helpers {\n}\n"),
        text("no-versions-in-names", EXACT, "fn v2() {}", "fn forward_v2() {}"),
        text(
            "plain-words",
            EXACT,
            "/// Adds `a` and `b`, and returns the sum.\npub fn f() {}\n",
            "/// What there is.\npub fn f() {}\n",
        ),
        text(
            "reasons",
            EXACT,
            "#[expect(dead_code, reason = \"read by name\")]",
            "#[allow(dead_code)]",
        ),
    ]
}

fn circle_case() -> Case {
    let using = |back| {
        Tree::of([
            ("crates/a/src/b.rs", "use crate::c::C;\n"),
            ("crates/a/src/c.rs", back),
            ("crates/a/src/d.rs", "use crate::b::B;\n"),
        ])
    };
    Case { rule: "no-circles", good: using(""), bad: using("use crate::d::D;\n") }
}

fn file_cases() -> Vec<Case> {
    let named = |path: &str| Tree::of([(path, "")]);
    let target = ("fuzz/fuzz_targets/frame.rs", "//! Frames.\n");
    let runs = (EXACT, "#[test]\nfn fuzz_frame_in_bounds() {}\n");
    let elsewhere = (EXACT, "#[test]\nfn fuzz_framework() {}\nfn fuzz_frame() {}\n");
    vec![
        circle_case(),
        Case { rule: "module-names", good: named(EXACT), bad: named("crates/a/src/utils/b.rs") },
        Case {
            rule: "no-versions-in-names",
            good: named(EXACT),
            bad: named("crates/a/src/b_old.rs"),
        },
        Case {
            rule: "fuzz-in-tests",
            good: Tree::of([target, runs]),
            bad: Tree::of([target, elsewhere]),
        },
    ]
}

fn package_cases() -> Vec<Case> {
    let inherits = "[lints]\nworkspace = true\n\n[dependencies]\nblake3.workspace = true\n";
    let versions = inherits.replace(".workspace = true", " = \"1\"");
    let manifest = "crates/lockstep-exact/Cargo.toml";
    let exact = |links, tests, features| linking("lockstep-exact", links, tests, features);
    vec![
        package("layers", exact(&["blake3"], &[], &[]), exact(&["serde"], &[], &[])),
        package("layers", exact(&[], &["proptest"], &[]), exact(&[], &["tokio"], &[])),
        package(
            "layers",
            linking("lockstep-node", &["tokio"], &[], &[]),
            linking("lockstep-proto", &["tokio"], &[], &[]),
        ),
        package("layers", exact(&[], &[], &[]), linking("lockstep-common", &[], &[], &[])),
        package("no-features", exact(&[], &[], &[]), exact(&[], &[], &["fast"])),
        text("workspace-manifests", manifest, inherits, &versions),
        text("workspace-manifests", manifest, inherits, "[dependencies]\n"),
    ]
}

fn strict_cases() -> Vec<Case> {
    let settings = |kernels: &'static str| {
        let bans = "disallowed-methods = [\n    \"f32::exp\",\n]\ndisallowed-types = [\n  1\n]\n";
        let files =
            ["exact", "proto", "verify"].map(|name| super::strict::clippy_file(name).leak());
        let kernels = ("crates/lockstep-kernels/clippy.toml", kernels);
        Tree::of(files.into_iter().map(|file| (&*file, bans)).chain([kernels]))
    };
    let root = "crates/lockstep-node/src/lib.rs";
    vec![
        Case {
            rule: "clippy-bans",
            good: settings("disallowed-methods = [ \"f32::exp\",\n]\n"),
            bad: settings("disallowed-methods = [\n]\n"),
        },
        text("strict-tier", root, "#![deny(unsafe_code)]\nmod a;", "#![warn(unsafe_code)]\nmod a;"),
    ]
}

fn document_cases() -> Vec<Case> {
    let listed = |text: &'static str| Tree {
        packages: vec![linking("lockstep-exact", &[], &[], &[])],
        ..Tree::of([("README.md", text), ("ARCHITECTURE.md", "`lockstep-exact`")])
    };
    let rules: String = RULES.iter().map(|rule| format!("`{}`\n", rule.name)).collect();
    let home = concat!("see /ho", "me/me/notes");
    vec![
        Case { rule: "crate-tables", good: listed("`lockstep-exact`"), bad: listed("exact") },
        Case {
            rule: "crate-tables",
            good: listed("`lockstep-exact` is not `lockstep-1`"),
            bad: listed("`lockstep-exact` and `lockstep-ghost`"),
        },
        text("links", "docs/a.md", "[a](./a.md#top) [b](../docs) [c](https://c)", "[a](b.md)"),
        text("machine-paths", "docs/a.md", "src/home/a and ~/notes", home),
        text(
            "paths-named",
            "docs/a.md",
            "`docs/a.md`, `docs/`, `docs/*.md`, `docs/NAME.md`, `cargo test docs/b.md`, `a/b.rs`",
            "`docs/b.md`",
        ),
        text("paths-named", "docs/a.md", "`docs/a.*`", "`docs/b.*`"),
        text("rules-named", "ARCHITECTURE.md", &rules, "`layers`"),
    ]
}

impl Case {
    /// Replaces the bad tree: for rules about where a file stands.
    fn swapped(self, path: &str, text: &str) -> Self {
        Self { bad: Tree::of([(path, text)]), ..self }
    }
}

fn cases() -> Vec<Case> {
    let groups = [
        word_cases(),
        default_cases(),
        check_cases(),
        list_cases(),
        shape_cases(),
        file_cases(),
        package_cases(),
        strict_cases(),
        document_cases(),
    ];
    groups.into_iter().flatten().collect()
}

fn errors(tree: &Tree, rule: &str) -> Vec<String> {
    let broken = check(tree, &[]).into_iter();
    broken.filter(|b| b.rule == rule && !b.finding.warning).map(|b| b.to_string()).collect()
}

#[test]
fn each_rule_holds_on_its_good_snippet_and_fails_on_its_bad_one() {
    for (i, case) in cases().into_iter().enumerate() {
        let rule = case.rule;
        assert_eq!(errors(&case.good, rule), [""; 0], "case {i}: {rule} fails on the good tree");
        assert!(!errors(&case.bad, rule).is_empty(), "case {i}: {rule} holds on the bad tree");
    }
}

#[test]
fn every_rule_has_a_snippet_that_breaks_it() {
    let cases = cases();
    for rule in RULES {
        assert!(cases.iter().any(|case| case.rule == rule.name), "{} is never broken", rule.name);
    }
}

#[test]
fn rules_are_sorted_by_name_and_named_once() {
    assert!(RULES.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn an_exception_excuses_its_file_and_becomes_a_finding_once_it_excuses_nothing() {
    let exception = |path| Exception { rule: "unsafe-in-kernels", path, reason: "a test" };
    let tree = Tree::of([(NODE, "//! A.\nunsafe { f() }\n")]);
    let named = |path| -> Vec<Broken> {
        let broken = check(&tree, &[exception(path)]).into_iter();
        broken.filter(|b| ["unsafe-in-kernels", "exceptions"].contains(&b.rule)).collect()
    };
    assert!(named(NODE).is_empty());
    let rules: Vec<&str> = named(PROTO).iter().map(|b| b.rule).collect();
    assert_eq!(rules, ["unsafe-in-kernels", "exceptions"]);
}

#[test]
fn a_file_past_the_comfortable_length_is_a_warning() {
    let tree = Tree::of([(EXACT, "x;\n".repeat(501).as_str())]);
    let warnings = check(&tree, &[]).into_iter().filter(|b| b.finding.warning).count();
    assert_eq!(warnings, 1);
    assert!(errors(&tree, "file-length").is_empty());
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let tree = Tree::load(root).unwrap();
    assert!(tree.sources.iter().any(|file| file.path == "dev/xtask/src/tidy.rs"));
    let broken = check(&tree, EXCEPTIONS).into_iter();
    let errors: Vec<String> =
        broken.filter(|b| !b.finding.warning).map(|b| b.to_string()).collect();
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}
