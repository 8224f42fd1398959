//! What an application does with Lockstep: it makes requests, has servers answer them, audits the
//! answers, keeps the receipts and verifies them again.
//!
//! ```text
//!  messages, parameters                      tickets
//!          │ request, format                    │ client, ring
//!          ▼                                    ▼
//!    ┌──────────┐   ask    ┌───────────┐    ┌────────┐  pooled links   ┌─────────┐
//!    │ Question │ ───────▶ │ Answering │ ◀──│  Ring  │ ◀─────────────▶ │ servers │
//!    └──────────┘          └───────────┘    └────────┘                 └─────────┘
//!                 Token, Finished(Answer) │       ▲ challenges, openings
//!                                         ▼       │
//!    ┌────────┐  Opened, Unanswered  ┌─────────┐  │  key   ┌──────┐
//!    │ Bundle │ ◀─────────────────── │  Audit  │ ─┘ ◀───── │ keys │
//!    └────────┘      as they come    └─────────┘           └──────┘
//!         │ reverify, offline             │ Finished(Audited)
//!         ▼                               ▼
//!      verdict                  verdict, conduct of each server
//! ```
//!
//! It is a library: it prints nothing, hears no signal (who wants no more of an answer says
//! [`cancel`](ring::Answering::cancel)), and its errors are types. What happens while an answer is
//! made or audited comes as values, from handles that can be waited on and dropped at any time. The
//! program `lockstep` parses its command line, calls this crate and prints.
//!
//! | module, in the order of reading | what it has |
//! |---|---|
//! | [`request`] | from messages or a prompt to a checked question, by one builder |
//! | [`format`](mod@format) | chat templates, their arguments and tools |
//! | [`ring`] | a ring found among peers, and the events of an answer |
//! | [`asked`] | a request of a client, which takes a ring of its own and another one if it must |
//! | [`audit`] | openings are asked for and checked as they come |
//! | [`canary`] | servers that have shown nothing yet are tried, before a request goes over them |
//! | [`outcome`] | the verdict in one word |
//! | [`client`] | a ring and a home folder, for receipts and what is remembered |
//! | [`place`], [`model`] | the home folder and its models |
//! | [`keys`], [`own`] | the secrets of whoever verifies, and of whoever asks |
//! | [`receipts`], [`bundle_file`] | where receipts are kept, and their files |
//! | [`reverify`] | a saved bundle verified again, offline |
//! | [`standing`] | how servers answered before, and whom routes avoid |
//! | [`swarm`], [`forecast`] | a look at the servers of a swarm; what they are expected to give |
//! | [`from_swarm`] | a model's files from the servers of a swarm |
//! | [`trial`] | a token crosses a ring with this process's own server |
//! | [`text`] | the text of an answer as its tokens come |
//! | [`here`] | a whole model in this process, without servers |
//! | [`backend`], [`random`], `path_text` | operations and threads; random bytes; paths in errors |
//!
//! Two programs show it whole: `examples/serve_a_span.rs` and `examples/ask_and_verify.rs`. What a
//! request is like, without a server:
//!
//! ```
//! use lockstep_client::request::{Parameters, RequestError};
//! use lockstep_testing::tiny_model::TinyModel;
//!
//! let manifest = TinyModel::new(7).manifest;
//! let parameters = Parameters { max_tokens: 8, ..Parameters::default() };
//! let question = parameters.question(vec![1, 2, 3], &manifest)?;
//! assert_eq!(question.stops.max_tokens, 8);
//!
//! let error = parameters.question(vec![manifest.vocabulary], &manifest).unwrap_err();
//! assert_eq!(error.parameter(), Some("prompt"));
//! assert!(error.to_string().contains("there is no token"));
//! # Ok::<(), RequestError>(())
//! ```

#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]

pub mod asked;
pub mod audit;
pub mod backend;
pub mod bundle_file;
pub mod canary;
pub mod client;
pub mod forecast;
pub mod format;
pub mod from_swarm;
pub mod here;
pub mod keys;
pub mod model;
pub mod outcome;
pub mod own;
mod path_text;
pub mod place;
pub mod random;
pub mod receipts;
pub mod request;
pub mod reverify;
pub mod ring;
pub mod standing;
pub mod swarm;
pub mod text;
pub mod trial;
