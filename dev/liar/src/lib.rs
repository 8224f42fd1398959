//! Servers that lie, for tests: what an audit is worth is what it finds.
//!
//! A lie is told where a server would tell it: in its [`weights`], in its [`ops`], in what its
//! [`executor`] answers, in its [`openings`](crate::lie), in its [`rules`] or in its [`frames`]. It
//! is told consistently: the server that opens cells is the one that computed them, with the same
//! wrong weights and operations, so that the audit finds the lie and not a slip of the liar.
//!
//! This crate is never part of the program.
#![forbid(unsafe_code)]

pub mod executor;
pub mod frames;
pub mod lie;
mod openings;
pub mod ops;
pub mod rules;
pub mod session;
mod states;
pub mod weights;

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::blob::Blob;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::ops::{LoadMatrix, Ops};
use lockstep_exact::weights::LoadError;
use lockstep_node::executor::{Executor, Weights};

use executor::LyingExecutor;
use lie::Script;
use ops::LyingOps;
use session::Embedding;

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
    O: LoadMatrix + Ops<Error = Infallible>,
{
    let ops = LyingOps::new(ops, script);
    let head = Arc::clone(&ops.head);
    let mut weights = Weights::load(&ops, manifest, span, |index| {
        weights::blob(script, manifest, index, blob(index))
    })?;
    weights::swap(script, &mut weights);
    weights::leave_out(script, &mut weights);
    ops::name_matrices(&mut weights);
    let embedding = weights
        .head
        .as_ref()
        .map(|head| Embedding { table: head.embedding.clone(), scale: head.embedding_scale });
    let executor = Executor::new(ops, manifest, weights);
    Ok(LyingExecutor::new(executor, script, Arc::clone(manifest), embedding, head))
}
