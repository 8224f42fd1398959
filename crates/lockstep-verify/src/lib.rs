//! How an answer is checked: statements, commitments, keys, challenges, openings and audits.
//!
//! ```text
//!   stage, while it serves                            client
//!  ┌────────────────────────┐                ┌──────────────────────────┐
//!  │ column: rows of inputs,│  marks, roots  │ receipt: request, tokens,│
//!  │ states and KV, as they │ ─────────────▶ │ what every stage signed  │
//!  │ are computed           │   statement    └──────────────────────────┘
//!  └────────────────────────┘                     │ draw: which cells
//!              │ archive                          ▼
//!  ┌────────────────────────┐   challenge    ┌──────────────────────────┐
//!  │ Prover: the cells' own │ ◀───────────── │ audit: links, then every │
//!  │ inputs, sums, outputs, │ ─────────────▶ │ opening, with a secret   │
//!  │ and where they lie     │    opening     │ key of the model         │
//!  └────────────────────────┘                └──────────────────────────┘
//!                                              │                 │
//!                                              ▼                 ▼
//!                                     Verified, coverage   Fault: stage, cell
//! ```
//!
//! Everything here is total: hostile bytes and lying servers give typed errors and faults, never a
//! panic. Nothing here does I/O, reads a clock or draws randomness; callers bring bytes, time and
//! seeds. What is guaranteed, and what is not, stands in `docs/verification.md`.
//!
//! | module, in the order of reading | what it has |
//! |---|---|
//! | [`limits`] | every limit on requests, receipts and openings |
//! | [`secret`], [`sign`] | secrets that are wiped; identities and signatures |
//! | [`request`], [`run_id`] | what a client asks for, its lease, and the name of one execution |
//! | [`slice`](mod@slice) | proofs of ranges of bytes |
//! | [`column`](mod@column) | what stages commit to |
//! | [`statement`], [`receipt`] | what servers sign, and the receipt of an answer |
//! | [`links`] | everything that can be checked of a receipt without opening a cell |
//! | [`key`] | a verifier's key: products are checked without their matrices |
//! | [`draw`], [`price`], [`challenge`] | which cells are opened, at what cost; the question |
//! | `slots`, [`sums`], [`opening`] | which exact sums are sent, in few bytes; the answer itself |
//! | [`archive`] | what a stage keeps, and how it answers challenges |
//! | [`device`] | what is asked of a backend: everything but products |
//! | `checked`, `run`, `layer`, `cells` | the forward pass over opened cells, with claims |
//! | `auditor` | a key as the weights of that pass, and the receipt it is for |
//! | [`audit`], [`bundle`], [`fault`] | the verdict over everything, and what was wrong |
//! | [`coverage`], [`rates`] | how much was looked at, and what that would have found |
//! | [`measure`] | honest work to measure a verifier with |
//!
//! A ring of two stages answers, opens what it is challenged to, and is verified; a ring whose
//! second stage multiplies with another weight is not, and that stage is named:
//!
//! ```
//! use lockstep_exact::reference::Reference;
//! use lockstep_testing::proofs::{Ask, Ring, Slip, key, model, slip};
//! use lockstep_verify::audit::{Unverified, audit};
//! use lockstep_verify::draw::Extent;
//! use lockstep_verify::fault::Fault;
//!
//! // Layers 0, 1 and 2 are the first stage's; a prompt of 12 tokens, an answer of 3.
//! let ring = Ring::new(model(), &[3]);
//! let session = ring.run(&Ask::new(1, 12, 3));
//! // Challenges are drawn from the receipt, and each stage answers those about its cells.
//! let bundle = session.bundle(Extent::Full)?;
//! let verified = audit(&Reference, key(), &bundle).expect("honest");
//! assert!(verified.coverage().is_full());
//! assert_eq!(verified.value().answer.len(), 3);
//!
//! let ring = ring.lying(1, slip(Slip::Code(4)));
//! let bundle = ring.run(&Ask::new(1, 12, 3)).bundle(Extent::Full)?;
//! let Err(Unverified::Failed(fault)) = audit(&Reference, key(), &bundle) else {
//!     panic!("the lie was not found");
//! };
//! assert!(fault.to_string().contains("stage 1"), "{fault}");
//! # Ok::<(), Fault>(())
//! ```
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::get_unwrap,
    clippy::host_endian_bytes,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::string_slice,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]

pub mod archive;
pub mod audit;
mod auditor;
pub mod bundle;
mod cells;
pub mod challenge;
mod checked;
pub mod column;
pub mod coverage;
pub mod device;
pub mod draw;
pub mod fault;
pub mod key;
mod layer;
pub mod limits;
pub mod links;
pub mod measure;
pub mod opening;
pub mod price;
pub mod rates;
pub mod receipt;
pub mod request;
mod run;
pub mod run_id;
pub mod secret;
pub mod sign;
pub mod slice;
mod slots;
pub mod statement;
pub mod sums;
