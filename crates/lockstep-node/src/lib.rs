//! The shell around Lockstep's protocol: sockets, files, threads and the clock, and nothing else.
//!
//! ```text
//!    other nodes                            this node
//!   ┌───────────┐  frames   ┌─────────────────────────────────────┐
//!   │ transport │ ◀───────▶ │ driver: brings frames, finished jobs│
//!   │  (QUIC)   │           │ and time to a machine of the        │
//!   └───────────┘           │ protocol, does what it says         │
//!                           └─────────────────────────────────────┘
//!                                Job │              ▲ Outcome
//!   ┌───────────┐  weights           ▼              │
//!   │   store   │ ───────▶ ┌─────────────────────────────────────┐
//!   │ (mapped)  │          │ executor: one thread that computes  │
//!   └───────────┘          └─────────────────────────────────────┘
//! ```
//!
//! No decision about an answer is made here: what a frame means is the matter of `lockstep-proto`,
//! what is computed that of `lockstep-exact`.
//!
//! | module, in the order of reading | what it owns |
//! |---|---|
//! | [`limits`] | every limit and deadline |
//! | [`ticket`] | the text that tells a client where servers are, and of which model |
//! | [`transport`] | authenticated links of frames between nodes |
//! | [`lan`] | servers that find each other on a local network |
//! | [`relay`] | a relay for nodes that nobody can reach from outside |
//! | [`driver`] | the loops around the protocol's machines: a server, and a client's requests |
//! | [`executor`] | the thread that computes: sessions, batches, openings |
//! | [`local`] | a whole model in this process, without servers |
//! | [`home`], [`config`], [`several`] | the directory, its file modes, and the settings |
//! | [`store`] | content-addressed model files, checked and mapped |
//! | [`pull`] | model files from elsewhere |
//! | [`receipts`], [`record`] | the receipts that are kept, within a limit; how servers answered |
//! | [`measure`] | how fast this machine computes |
//! | [`metrics`] | the figures of a server as Prometheus reads them, over HTTP |
//! | [`memory`], [`cgroup`] | how much of it there is, and what models take of it |
//! | [`doctor`] | what this machine can and can't do |
//!
//! Every wait has a deadline and every queue and file a limit; they are all in [`limits`].
//! `unsafe` is allowed in `store::mmap` alone.
//!
//! A server of a whole tiny model on this machine, which ends as soon as it is told to:
//!
//! ```
//! use std::sync::Arc;
//!
//! use lockstep_exact::reference::Reference;
//! use lockstep_node::driver::{Serving, serve};
//! use lockstep_node::executor::{Executor, Weights};
//! use lockstep_node::ticket::Ticket;
//! use lockstep_node::transport::{AllowList, Endpoint, Identity, Listen};
//! use lockstep_proto::model::Model;
//! use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
//! use lockstep_testing::tiny_model::TinyModel;
//! use lockstep_verify::secret::Secret;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = TinyModel::new(7);
//! let identity = Identity::generate();
//! // By default on this machine alone, at a port that the system chooses.
//! let endpoint = Endpoint::bind(&identity, Listen::default(), AllowList::Anyone).await?;
//!
//! // What it computes with, and what it says that it holds.
//! let weights = Weights::load(&Reference, &model.manifest, model.span(), |i| model.blob(i))?;
//! let executor = Executor::new(Reference, &model.manifest, weights);
//! let head = Some(Arc::new(model.vocabulary()));
//! let holding = Holding { model: Model::from(&model.manifest), span: model.span(), head };
//!
//! // The names of its runs must be drawn from randomness that nobody else knows.
//! let runs = RunValues::new(Secret::of(&[7; 32]));
//! let mut machine = Server::new(identity.keypair(), holding, Capacity::default(), runs);
//! machine.reachable_at(&endpoint.addr().text());
//!
//! // What a client is told, as one line of text.
//! let (peers, manifest) = (vec![endpoint.addr()], Some(model.manifest.id()));
//! let ticket = Ticket { peers, manifest, called: "tiny".to_owned() };
//! assert_eq!(ticket.to_string().parse::<Ticket>()?, ticket);
//!
//! let serving = Serving { endpoint: Arc::new(endpoint), machine, executor };
//! serve(serving, std::future::pending(), async {}).await?;
//! # Ok(())
//! # }
//! ```

#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unsafe_code
)]

pub mod cgroup;
pub mod config;
pub mod doctor;
pub mod driver;
pub mod executor;
pub mod home;
pub mod lan;
pub mod limits;
pub mod local;
pub mod measure;
pub mod memory;
pub mod metrics;
pub mod pull;
pub mod receipts;
pub mod record;
pub mod relay;
pub mod several;
pub mod store;
pub mod ticket;
pub mod transport;

#[cfg(test)]
mod testdir;
