//! Which package may link what. A crate exists where a rule changes, so the table here *is* the
//! architecture; ARCHITECTURE.md is its prose.

use super::Finding;
use super::tree::{Package, Tree};

/// What one package may link.
struct Layer {
    name: &'static str,
    /// Packages of this workspace.
    ours: &'static [&'static str],
    /// Anybody else's.
    others: &'static [&'static str],
    /// What only its tests link, besides `TEST_TOOLS`.
    in_tests: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { name: "lockstep-exact", ours: &[], others: &["blake3"], in_tests: &[] },
    Layer {
        name: "lockstep-kernels",
        ours: &["lockstep-exact"],
        others: &["memmap2", "thiserror"],
        in_tests: &["loom", "perf-event2"],
    },
    Layer {
        name: "lockstep-cuda",
        ours: &["lockstep-exact"],
        others: &["libloading", "thiserror"],
        in_tests: &["blake3", "sha2"],
    },
    Layer {
        name: "lockstep-import",
        ours: &["lockstep-exact"],
        others: &[
            "aho-corasick",
            "blake3",
            "libm",
            "regex-syntax",
            "serde",
            "serde_json",
            "sha1_smol",
            "sha2",
            "thiserror",
            "tokenizers",
            "zip",
        ],
        in_tests: &["lockstep-kernels", "test-model"],
    },
    Layer {
        name: "lockstep-verify",
        ours: &["lockstep-exact"],
        others: &["blake3", "ed25519-dalek", "zeroize"],
        in_tests: &["lockstep-kernels", "lockstep-import"],
    },
    Layer {
        name: "lockstep-proto",
        ours: &["lockstep-exact", "lockstep-verify"],
        others: &[],
        in_tests: &["lockstep-kernels", "lockstep-import"],
    },
    Layer {
        name: "lockstep-node",
        ours: CORE,
        others: &[
            "axum",
            "blake3",
            "bytes",
            "ed25519-dalek",
            "getrandom",
            "hyper",
            "hyper-util",
            "if-addrs",
            "iroh",
            "iroh-relay",
            "libc",
            "mdns-sd",
            "memmap2",
            "prometheus-client",
            "rcgen",
            "reqwest",
            "rustix",
            "rustls",
            "rustls-webpki",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "toml",
            "tracing",
            "zeroize",
        ],
        in_tests: &["zip"],
    },
    Layer {
        name: "lockstep-client",
        ours: NODE_AND_CORE,
        others: &["getrandom", "serde_json", "thiserror", "tokio"],
        in_tests: &[],
    },
    Layer {
        name: "lockstep",
        ours: ALL,
        others: &[
            "anyhow",
            "clap",
            "clap_complete",
            "getrandom",
            "indicatif",
            "rustix",
            "rustyline",
            "serde",
            "serde_json",
            "signal-hook",
            "tokio",
            "toml",
            "tracing",
            "tracing-subscriber",
        ],
        in_tests: &["test-model"],
    },
    Layer {
        name: "lockstep-liar",
        ours: &[
            "lockstep-exact",
            "lockstep-kernels",
            "lockstep-node",
            "lockstep-proto",
            "lockstep-testing",
            "lockstep-verify",
        ],
        others: &["anyhow", "clap", "serde_json", "tokio"],
        in_tests: &["test-model"],
    },
    Layer {
        name: "lockstep-testing",
        ours: &["lockstep-exact", "lockstep-proto", "lockstep-verify"],
        others: &["blake3"],
        in_tests: &[],
    },
    Layer {
        name: "sim",
        ours: &["lockstep-exact", "lockstep-proto", "lockstep-testing", "lockstep-verify"],
        others: &["anyhow", "clap", "serde_json"],
        in_tests: &[],
    },
    Layer { name: "test-model", ours: &["lockstep-import"], others: &[], in_tests: &[] },
    Layer { name: "xtask", ours: CORE, others: &["anyhow", "serde_json"], in_tests: &[] },
];

const CORE: &[&str] =
    &["lockstep-exact", "lockstep-import", "lockstep-kernels", "lockstep-proto", "lockstep-verify"];

const NODE_AND_CORE: &[&str] = &[
    "lockstep-exact",
    "lockstep-import",
    "lockstep-kernels",
    "lockstep-node",
    "lockstep-proto",
    "lockstep-verify",
];

const ALL: &[&str] = &[
    "lockstep-client",
    "lockstep-cuda",
    "lockstep-exact",
    "lockstep-import",
    "lockstep-kernels",
    "lockstep-node",
    "lockstep-proto",
    "lockstep-verify",
];

/// What any package's tests may link.
const TEST_TOOLS: &[&str] =
    &["criterion", "lockstep-testing", "proptest", "serde_json", "tempfile"];

/// Crates whose output must not depend on how they were built.
const FEATURELESS: &[&str] = &[
    "lockstep-cuda",
    "lockstep-exact",
    "lockstep-import",
    "lockstep-kernels",
    "lockstep-proto",
    "lockstep-verify",
];

pub(super) fn dependencies(tree: &Tree) -> Vec<Finding> {
    tree.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let name = &package.name;
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == *name) else {
        let message = format!("`{name}` is new: say in dev/xtask/src/tidy/layers.rs what it links");
        return vec![Finding::new(&manifest, 0, message)];
    };
    let links = |other: &str| layer.ours.contains(&other) || layer.others.contains(&other);
    let links_in_tests = |other: &str| {
        links(other) || layer.in_tests.contains(&other) || TEST_TOOLS.contains(&other)
    };
    let mut found = Vec::new();
    for other in package.links.iter().filter(|other| !links(other)) {
        found.push(Finding::new(&manifest, 0, format!("`{name}` must not link `{other}`")));
    }
    for other in package.links_in_tests.iter().filter(|other| !links_in_tests(other)) {
        let message = format!("tests of `{name}` must not link `{other}`");
        found.push(Finding::new(&manifest, 0, message));
    }
    found
}

/// No Cargo feature changes an output byte: the crates that define bytes have no features.
pub(super) fn features(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for package in tree.packages.iter().filter(|p| FEATURELESS.contains(&p.name.as_str())) {
        for feature in &package.features {
            let message = format!("feature `{feature}`: one build, one answer");
            found.push(Finding::new(&format!("{}/Cargo.toml", package.folder), 0, message));
        }
    }
    found
}

/// Versions and lints are said once, in the root manifest.
pub(super) fn manifests(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in &tree.texts {
        if path.ends_with("/Cargo.toml") && !path.contains("fuzz/") {
            found.extend(check_manifest(path, text));
        }
    }
    found
}

fn check_manifest(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if !text.contains("[lints]\nworkspace = true") {
        found.push(Finding::new(path, 0, "does not inherit the workspace's lints"));
    }
    let mut section = "";
    for (i, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies")
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            found.push(Finding::new(path, i + 1, "versions stand in the root Cargo.toml"));
        }
    }
    found
}
