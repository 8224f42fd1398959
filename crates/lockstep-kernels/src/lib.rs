//! The operations of [`lockstep_exact::ops`], fast.
//!
//! ```text
//!          exact::forward, on the thread that computes
//!                          │ Products, Device
//!                          ▼
//!   ┌──────────────────────────────────────────────┐
//!   │ ops::Kernels: an instruction set and threads │
//!   └──────────────────────────────────────────────┘
//!      │ matmul        │ append, attend     │ rows           │ field
//!      ▼               ▼                    ▼                ▼
//!   products of     rotate, quantise,    norm, quantise,  a verifier's
//!   packed weights  attention over kv    gate, dequant    dot products
//!      └───────────────┴─────────┬──────────┴────────────────┘
//!                                ▼ parts of a region
//!                         pool: compute threads
//! ```
//!
//! [`Kernels`] computes on one of the processor's instruction sets ([`Isa`]) and some threads;
//! which of them, and how work is cut into parts, cannot change a bit of any result. It is equal
//! to [`lockstep_exact::reference::Reference`] or it is a bug: `tests/laws` holds every available
//! instruction set and several thread counts to that.
//!
//! | module, in the order of reading | what it has |
//! |---|---|
//! | `isa`, `float_mode` | the instruction set as a proof that it is there; the mode of floats |
//! | `pool` | compute threads for regions of microseconds |
//! | `ops` | [`Kernels`]: the operations, and the buffers between them |
//! | `rows` | what is done element by element: norms, quantising, the gate, sums to floats |
//! | `matmul` | products of packed weights with rows of codes |
//! | `kv`, `slabs`, `line`, `buffer` | keys and values in the order in which attention reads them |
//! | `append`, `attend` | rotation and quantising into the cache; attention over it |
//! | `field` | dot products modulo p, for verifiers |
//! | [`machine`] | what memory and processor can do at best, measured |
//!
//! The logits after a prompt are the oracle's, bit for bit, on every instruction set that this
//! machine has:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use lockstep_exact::forward::{Row, Scratch, forward, logits};
//! use lockstep_exact::kv::KvCache;
//! use lockstep_exact::ops::{Device, KvOf, Place, StateOf};
//! use lockstep_exact::reference::Reference;
//! use lockstep_exact::weights::{Backend, LayerWeights, LoadError, load_head, load_span};
//! use lockstep_kernels::{Isa, Kernels};
//! use lockstep_testing::tiny_model::TinyModel;
//!
//! fn bits<O>(ops: &O, model: &TinyModel, prompt: &[u32]) -> Result<Vec<u32>, LoadError>
//! where
//!     O: Backend<Error = Infallible>,
//! {
//!     let layers = load_span(ops, &model.manifest, model.span(), |blob| model.blob(blob))?;
//!     let head = load_head(ops, &model.manifest, |blob| model.blob(blob))?;
//!     let shapes: Vec<_> = layers.iter().map(LayerWeights::kv_shape).collect();
//!     let (mut cache, mut scratch) = (KvOf::<O>::new(&shapes), Scratch::default());
//!     let row = |position| Row { place: Place { slot: 0, position }, feeds_head: true };
//!     let rows: Vec<Row> = (0..prompt.len()).map(row).collect();
//!     let mut state = StateOf::<O>::default();
//!     let device = ops.device();
//!     device.embed(&head.embedding, head.embedding_scale, prompt, &mut state);
//!     let caches = &mut [&mut cache];
//!     let Ok(state) = forward(ops, &layers, &rows, caches, state, &mut scratch, &mut ());
//!     let Ok(all) = logits(ops, &head, &rows, &state, &mut scratch, &mut ());
//!     Ok(all.into_iter().flatten().flatten().map(f32::to_bits).collect())
//! }
//!
//! let (model, prompt) = (TinyModel::new(7), [1, 2, 3, 4, 5]);
//! let expected = bits(&Reference, &model, &prompt)?;
//! assert_eq!(expected.len(), 5 * model.manifest.vocabulary as usize);
//! for isa in Isa::available() {
//!     let kernels = Kernels::new(isa, 2)?;
//!     assert_eq!(bits(&kernels, &model, &prompt)?, expected, "{}", isa.name());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Integer products (matrices, attention) are written with intrinsics; everything element-wise
//! is plain Rust compiled once per instruction set, but for the weights of attention, which are
//! both. `unsafe` is for four things only: calling code that is compiled for an instruction set
//! which an [`Isa`] proves, reading whole registers from slices whose lengths are checked, lending
//! a region of work to the pool's threads, and the mapped memory of sessions.

#![deny(
    clippy::disallowed_methods,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    unsafe_op_in_unsafe_fn
)]

mod append;
mod attend;
mod buffer;
mod field;
mod float_mode;
mod isa;
mod kv;
mod line;
pub mod machine;
mod matmul;
mod ops;
mod pool;
mod rows;
mod slabs;

pub use float_mode::FloatModeError;
pub use isa::{Isa, IsaError, OVERRIDE};
pub use kv::Kv;
pub use ops::{Codes, Kernels, Rows, Sums};

/// Why kernels could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread's floating-point mode is not the one the arithmetic is defined for.
    #[error(transparent)]
    FloatMode(#[from] FloatModeError),
    /// The instruction set asked for is unknown or not available.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A compute thread could not be started.
    #[error("a compute thread could not be started: {0}")]
    Spawn(#[source] std::io::Error),
}
