//! What the answer is: this crate defines every number that a Lockstep server computes.
//!
//! ```text
//!   manifest, blobs                    tokens of a session
//!         │ weights                          │ Device::embed
//!         ▼                                  ▼
//!  ┌──────────────┐   ┌─────────────────────────────────────────┐   ┌────────┐
//!  │ LayerWeights │──▶│ forward: layers over a batch of rows    │──▶│ sample │──▶ token
//!  │ HeadWeights  │   │ logits:  the head over the rows wanted  │   └────────┘
//!  └──────────────┘   └─────────────────────────────────────────┘
//!                        │ each step is an operation │ each result
//!                        ▼                           ▼
//!            Device, Products:           Probe: () serves,
//!            Reference, or faster        others commit or audit
//! ```
//!
//! [`reference::Reference`] is the oracle: each operation as `docs/arithmetic.md` defines it, one
//! element at a time. A backend may only be faster.
//!
//! | module, in the order of reading | what it has |
//! |---|---|
//! | [`invariant`](mod@invariant) | broken assumptions: loud in tests, typed errors in production |
//! | [`num`] | the few operations on numbers that everything is made of; overflow |
//! | [`bytes`], [`digest`] | canonical bytes of what is hashed, signed or sent; their digests |
//! | [`pieces`] | pieces of a blob, each checked by itself against the blob's digest |
//! | [`limits`] | every limit on the size of a model and of a session |
//! | [`names`], [`norm`], [`feed_forward`], [`tree`] | the parts of a layer, written once |
//! | [`plan`], [`manifest`] | where a package holds them; all that defines a model, and its id |
//! | [`figure`], [`vocabulary`] | measured quality, as a manifest states it; the bytes of tokens |
//! | [`blob`], [`matrix`] | shared bytes; packed weight matrices of 8 or 4 bits |
//! | [`state`], [`flags`] | what crosses a layer boundary; which rows have overflowed |
//! | [`kv`], [`attend`] | keys and values of past positions, and attention over them |
//! | [`experts`] | which experts a row goes to, and with which weights |
//! | [`ops`], [`reference`](mod@reference) | the operations as traits, and their definition |
//! | `probe` | who looks on at a forward pass |
//! | [`weights`] | a model's weights, taken from a package's blobs; what serves them |
//! | [`forward`] | the one forward pass |
//! | [`sample`] | from logits to the next token, and when to stop |
//! | [`field`] | the field of integers in which verifiers check products |
//!
//! A tiny model reads a prompt and gives a token; the same on every machine, and however the prompt
//! is cut into batches:
//!
//! ```
//! use lockstep_exact::forward::{Row, Scratch, forward, logits};
//! use lockstep_exact::kv::{KvCache, ReferenceKv};
//! use lockstep_exact::ops::{Device, Place};
//! use lockstep_exact::reference::Reference;
//! use lockstep_exact::sample::{History, Sampling, sample};
//! use lockstep_exact::state::State;
//! use lockstep_exact::weights::{LayerWeights, load_head, load_span};
//! use lockstep_testing::tiny_model::TinyModel;
//!
//! let model = TinyModel::new(7);
//! let layers = load_span(&Reference, &model.manifest, model.span(), |blob| model.blob(blob))?;
//! let head = load_head(&Reference, &model.manifest, |blob| model.blob(blob))?;
//!
//! let next_token = |prompt: &[u32], batch: usize| {
//!     let shapes: Vec<_> = layers.iter().map(LayerWeights::kv_shape).collect();
//!     let (mut cache, mut scratch) = (ReferenceKv::new(&shapes), Scratch::default());
//!     let mut last = None;
//!     for tokens in prompt.chunks(batch) {
//!         let row = |position| Row { place: Place { slot: 0, position }, feeds_head: true };
//!         let rows: Vec<Row> = (cache.len()..cache.len() + tokens.len()).map(row).collect();
//!         let mut state = State::default();
//!         Reference.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
//!         let caches = &mut [&mut cache];
//!         let Ok(state) =
//!             forward(&Reference, &layers, &rows, caches, state, &mut scratch, &mut ());
//!         let Ok(mut rows) = logits(&Reference, &head, &rows, &state, &mut scratch, &mut ());
//!         last = rows.pop();
//!     }
//!     let logits = last.expect("a prompt of one token or more")?;
//!     sample(&logits, &Sampling::default(), History { prompt, answer: &[] }, None)
//! };
//!
//! let token = next_token(&[1, 2, 3, 4, 5], 5)?;
//! assert!(token < model.manifest.vocabulary);
//! assert_eq!(next_token(&[1, 2, 3, 4, 5], 2)?, token);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No unsafe code, no I/O, no clock, no threads, no hash maps; floats only through the few
//! operations that every machine defines alike.
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::host_endian_bytes,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::todo,
    clippy::unimplemented,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]

pub mod attend;
pub mod blob;
pub mod bytes;
pub mod digest;
pub mod experts;
pub mod feed_forward;
pub mod field;
pub mod figure;
pub mod flags;
pub mod forward;
pub mod invariant;
pub mod kv;
pub mod limits;
pub mod manifest;
pub mod matrix;
pub mod names;
pub mod norm;
pub mod num;
pub mod ops;
pub mod pieces;
pub mod plan;
mod probe;
pub mod reference;
pub mod sample;
pub mod state;
pub mod tree;
pub mod vocabulary;
pub mod weights;

pub use digest::Digest;
