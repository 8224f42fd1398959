//! Model files that people already have, turned into canonical content-addressed packages.
//!
//! ```text
//!  a GGUF file, its parts,            a named model, a repository,
//!  or a folder of safetensors         a Python package
//!          │ gguf, safetensors                │ source
//!          ▼                                  ▼
//!  ┌────────────────┐  families  ┌───────────────────┐   Sink    ┌──────────┐
//!  │ checked tensors│ ─────────▶ │ package::ModelFile│ ────────▶ │ blobs    │
//!  │ and metadata   │            └───────────────────┘           │ Manifest │
//!  └────────────────┘ ─────────▶ tokenizer, chat template ─────▶ └──────────┘
//!                      tokenizer, template     balance, quantise, rope: floats end here
//! ```
//!
//! This crate parses hostile files and holds the last free use of floating point: what it writes
//! is integers, row scales and tables, and is a pure function of the input file's bytes. A file
//! that is malformed, or that holds something that is not understood, is refused with an error that
//! names the place and what was expected; nothing is ignored that could change an answer.
//!
//! | module, in the order of reading | what it has |
//! |---|---|
//! | [`source`] | where model files come from: named models, repositories, packages of Python |
//! | [`foreign`] | what a file is that is no model file, told by its first bytes |
//! | [`limits`] | every bound on what is read |
//! | [`gguf`], [`safetensors`] | the two kinds of files, parsed and checked |
//! | `layout`, `oddity` | what every file of tensors must keep; weights that no training leaves |
//! | `families` | hyperparameters, and which tensor is which part of a layer |
//! | `balance`, `quantise`, `rope` | from floats to integer codes, scales and tables |
//! | [`package`] | a model file opened, and written as blobs and a manifest |
//! | [`tokenizer`] | text to token ids and back |
//! | [`template`], `jinja`, `date` | chat templates, their language, and the dates that they show |
//! | [`float`](mod@float) | an ordinary f32 forward pass over a file, to judge quality by |
//!
//! A file is opened, which checks all but the numbers in it, and imported:
//!
//! ```
//! use lockstep_import::package::{MemorySink, ModelFile};
//!
//! # fn text(text: &str) -> Vec<u8> {
//! #     [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
//! # }
//! # fn array(kind: u32, count: usize, items: Vec<u8>) -> Vec<u8> {
//! #     [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &items].concat()
//! # }
//! # fn a_llama_of_one_layer() -> Vec<u8> {
//! #     let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
//! #     tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
//! #     let (count, texts) = (tokens.len(), tokens.iter().flat_map(|of| text(of)).collect());
//! #     let kinds = [2, 3, 3].into_iter().chain([6; 256]).flat_map(i32::to_le_bytes).collect();
//! #     let number = |number: u32| number.to_le_bytes().to_vec();
//! #     let pairs = [
//! #         ("general.architecture", 8, text("llama")),
//! #         ("llama.block_count", 4, number(1)),
//! #         ("llama.context_length", 4, number(64)),
//! #         ("llama.embedding_length", 4, number(32)),
//! #         ("llama.feed_forward_length", 4, number(64)),
//! #         ("llama.attention.head_count", 4, number(4)),
//! #         ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5_f32.to_le_bytes().to_vec()),
//! #         ("tokenizer.ggml.model", 8, text("llama")),
//! #         ("tokenizer.ggml.tokens", 9, array(8, count, texts)),
//! #         ("tokenizer.ggml.scores", 9, array(6, count, vec![0; 4 * count])),
//! #         ("tokenizer.ggml.token_type", 9, array(5, count, kinds)),
//! #         ("tokenizer.ggml.bos_token_id", 4, number(1)),
//! #         ("tokenizer.ggml.eos_token_id", 4, number(2)),
//! #     ];
//! #     let tensors: [(&str, &[usize]); 11] = [
//! #         ("token_embd.weight", &[32, count]),
//! #         ("output_norm.weight", &[32]),
//! #         ("blk.0.attn_norm.weight", &[32]),
//! #         ("blk.0.attn_q.weight", &[32, 32]),
//! #         ("blk.0.attn_k.weight", &[32, 32]),
//! #         ("blk.0.attn_v.weight", &[32, 32]),
//! #         ("blk.0.attn_output.weight", &[32, 32]),
//! #         ("blk.0.ffn_norm.weight", &[32]),
//! #         ("blk.0.ffn_gate.weight", &[32, 64]),
//! #         ("blk.0.ffn_up.weight", &[32, 64]),
//! #         ("blk.0.ffn_down.weight", &[64, 32]),
//! #     ];
//! #     let mut file = b"GGUF".to_vec();
//! #     file.extend(3_u32.to_le_bytes());
//! #     file.extend((tensors.len() as u64).to_le_bytes());
//! #     file.extend((pairs.len() as u64).to_le_bytes());
//! #     for (key, kind, value) in pairs {
//! #         file.extend([text(key), number(kind), value].concat());
//! #     }
//! #     let mut data = Vec::new();
//! #     for (name, dims) in tensors {
//! #         file.extend([text(name), number(dims.len() as u32)].concat());
//! #         file.extend(dims.iter().flat_map(|dim| (*dim as u64).to_le_bytes()));
//! #         file.extend([number(0), (data.len() as u64).to_le_bytes().to_vec()].concat());
//! #         let number = |n| ((n * 37 % 101) as f32 / 101.0 - 0.4).to_le_bytes();
//! #         data.extend((0..dims.iter().product::<usize>()).flat_map(number));
//! #     }
//! #     file.resize(file.len().next_multiple_of(32), 0);
//! #     [file, data].concat()
//! # }
//! let bytes = a_llama_of_one_layer(); // as it would be read from a disk
//! let file = ModelFile::open(&bytes)?;
//! assert_eq!((file.facts().layers, file.facts().hidden), (1, 32));
//!
//! let mut blobs = MemorySink::default();
//! let manifest = file.import(&mut blobs, |_| ())?;
//! for blob in &manifest.blobs {
//!     assert_eq!(blobs.get(&blob.digest).map(<[u8]>::len), Some(blob.len as usize));
//! }
//!
//! // The package is a function of the file: its id is the same wherever it is made.
//! let again = ModelFile::open(&bytes)?.import(&mut MemorySink::default(), |_| ())?;
//! assert_eq!(again.id(), manifest.id());
//!
//! let error = ModelFile::open(&bytes[..100]).unwrap_err();
//! assert!(error.to_string().contains("byte"), "{error}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs
)]

mod balance;
mod date;
mod families;
pub mod float;
pub mod foreign;
pub mod gguf;
mod jinja;
mod layout;
pub mod limits;
mod oddity;
pub mod package;
mod quantise;
mod rope;
pub mod safetensors;
pub mod source;
pub mod template;
pub mod tokenizer;

pub use families::FamilyError;
pub use oddity::Oddity;
