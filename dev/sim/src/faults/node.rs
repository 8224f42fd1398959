//! The executor of every server: the hash model, which can be made to lie.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, LazyLock};

use lockstep_exact::manifest::Manifest;
use lockstep_testing::hash_model::{HashModel, VOCABULARY, model};
use lockstep_testing::liar::executor::LyingExecutor;
use lockstep_testing::lie::Script;
use lockstep_testing::tiny_model::TinyModel;

/// The executor of every server; an honest one has no script.
pub(crate) type Node = LyingExecutor<HashModel>;

/// Creates an executor of the hash model, which tells a lie if it has a script.
pub(crate) fn executor(script: Option<Script>) -> Node {
    static MANIFEST: LazyLock<Arc<Manifest>> = LazyLock::new(|| {
        let mut manifest = TinyModel::new(1).manifest;
        let model = model();
        (manifest.hidden, manifest.vocabulary) = (model.hidden, VOCABULARY);
        manifest.end_tokens = model.end_tokens;
        Arc::new(manifest)
    });
    let head = Arc::new(AtomicU32::new(0));
    LyingExecutor::new(HashModel::default(), script, Arc::clone(&MANIFEST), None, head)
}
