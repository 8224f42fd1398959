//! A server's executor that tells a lie: what `lockstep-testing` knows of lies, around the executor
//! of real servers. This crate is never part of the program.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::blob::Blob;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::weights::Backend;
use lockstep_exact::weights::LoadError;
use lockstep_node::executor::{Executor, Weights};

use lockstep_testing::liar::executor::LyingExecutor;
use lockstep_testing::liar::ops::{InMemory, LyingOps, name_matrices};
use lockstep_testing::liar::session::Embedding;
use lockstep_testing::liar::weights;
use lockstep_testing::lie::Script;

/// The executor of a server that lies.
pub type Liar<O> = LyingExecutor<Executor<LyingOps<O>>>;

/// Loads a span and makes an executor that tells a lie; an honest one if there is no script.
///
/// # Errors
/// [`LoadError`].
pub fn liar<O>(
    ops: O,
    script: Option<Script>,
    manifest: &Arc<Manifest>,
    span: Range<u32>,
    mut blob: impl FnMut(u32) -> Blob,
) -> Result<Liar<O>, LoadError>
where
    O: Backend + InMemory,
{
    let ops = LyingOps::new(ops, script);
    let head = Arc::clone(&ops.head);
    let mut loaded = Weights::load(&ops, manifest, span, |index| {
        weights::blob(script, manifest, index, blob(index))
    })?;
    weights::swap(script, &mut loaded.layers);
    weights::leave_out(script, &mut loaded.layers);
    name_matrices(&mut loaded.layers);
    let embedding = loaded
        .head
        .as_ref()
        .map(|head| Embedding { table: head.embedding.clone(), scale: head.embedding_scale });
    let executor = Executor::new(ops, manifest, loaded);
    Ok(LyingExecutor::new(executor, script, Arc::clone(manifest), embedding, head))
}
