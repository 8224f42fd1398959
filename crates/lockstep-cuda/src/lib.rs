//! The operations of Lockstep's arithmetic on an NVIDIA GPU, with the bits of the CPU.
//!
//! The crate needs no CUDA to be built: the driver is looked for when [`Driver::load`] is called,
//! and the kernels are PTX text, which the driver compiles for the GPU it finds. A machine without
//! a GPU gets a typed [`Error`] that says what is missing.
//!
//! | module | what it is |
//! |---|---|
//! | `limits`, `version` | the memory left free; the oldest driver and chip, and their versions |
//! | `driver` | the CUDA driver: devices, memory, modules, launches; the only `unsafe` code here |
//! | `text` | the PTX texts, and what parameters each kernel takes |
//! | `gpu` | [`Gpu`]: an open device with its kernels |
//! | `rows` | rows of numbers, codes, sums, states and flags in the device's memory |
//! | `elements` | norm, residual, quantise, gate, embed, flags |
//! | `moves` | rows that are selected, scaled, added |
//! | `partial` | memory for sums of which several blocks compute parts |
//! | `products` | weight matrices and their products with rows of codes |
//! | `kv` | keys and values of a session, in pages |
//! | `attention` | append and attend |
//! | `span` | the weights of a span of layers, of embedding and head |
//! | `words` | what a decode step's launch is told, as the kernels read it |
//! | `decode` | a decode step of a few sessions: one launch |
//! | `backend` | [`Cuda`]: all of it behind the traits of `lockstep_exact::ops`, for servers |
//! | `needs` | the device memory that serving takes |
//!
//! Invariant: every operation gives the bits of [`lockstep_exact::reference::Reference`] or is a
//! bug. `tests/laws` holds a GPU to that; `tests/transcript.rs` holds the digests that a GPU gave
//! to the reference on every machine.

#![deny(
    unsafe_code,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used
)]

mod attention;
mod backend;
mod decode;
#[expect(unsafe_code, reason = "the driver is foreign code behind pointers")]
mod driver;
mod elements;
mod gpu;
mod kv;
mod limits;
mod moves;
mod needs;
mod partial;
mod products;
mod rows;
mod span;
mod text;
mod version;
mod words;

pub use attention::{Batch, Heads, Queries, Scratch};
pub use backend::{Cache, Cuda, Held, Quantised, Slot, Ticket};
pub use decode::{Decoded, Input, Step};
pub use driver::{Buffer, DeviceInfo, Driver, Element, Error};
pub use gpu::{Gpu, Norm};
pub use kv::Kv;
pub use needs::Needs;
pub use products::Matrix;
pub use rows::{Codes, Flags, Rows, States, Sums};
pub use span::{Layer, Span};
pub use version::{Capability, Version};
