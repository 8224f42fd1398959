//! The protocol of Lockstep without I/O: the frames that clients and servers exchange, and the
//! machines that send and answer them.
//!
//! A *machine* is one side of a conversation as a value: a server with all its sessions
//! ([`server::Server`]), one request of a client ([`client::Client`]), the challenges to one answer
//! ([`client::Challenger`]). Frames, lost links, results of jobs and the time go in; frames to
//! send, jobs to run and events come out. Sockets, threads, files and clocks belong to whoever
//! drives it ([`machine::Machine`] says how). Computing is an output too: a server asks for a
//! [`job::Job`] and is told what came of it.
//!
//! ```text
//!    frames, lost links, the time             frames to send, links to close, events
//!                │                                          ▲
//!                ▼                                          │
//!    ┌───────────────────────── a machine ──────────────────────────┐
//!    │  handle(now, input)      deadline()                  poll()  │
//!    └───────────────────────────▲────────────────────────┬─────────┘
//!                                │ Ran { job, done }      │ Run(job)
//!                                │                        ▼
//!                         an executor: forward passes, tokens, openings
//! ```
//!
//! Everything that a peer sends is hostile until it is checked. The same inputs at the same times
//! give the same outputs, so a whole ring runs in one test without a socket or a clock.
//!
//! # Modules, in reading order
//!
//! | module | what it has |
//! |---|---|
//! | [`now`], [`limits`] | time as a value; every size, count and time limit |
//! | [`model`] | what the protocol knows of a model |
//! | [`failure`] | why something is refused, and why a session ended |
//! | [`frame`], [`version`] | the frames between clients and servers and between stages, as bytes |
//! | [`announcement`] | what a server says of itself, signed |
//! | `chain` | a stage's chain of marks, continued and checked |
//! | [`fair`] | a queue that is shared out between clients by their weights |
//! | `life`, `promise` | whether a link is alive; until when a stage answers challenges |
//! | [`counters`] | what machines count of what they do |
//! | [`job`], [`schedule`] | what an executor is asked, and which waiting work it gets next |
//! | [`machine`] | how a machine is driven |
//! | [`server`] | the machine of a server: sessions as any stage, quotas, challenges |
//! | [`client`] | the machines of a client: a request, and the challenges afterwards |
//! | [`swarm`] | the members of a swarm, how they come to know each other, and which rings follow |
//!
//! # Example: two servers and a client
//!
//! One machine's output is another one's input; here a queue takes the place of the network.
//!
//! ```
//! # use std::collections::VecDeque;
//! # use lockstep_exact::{digest::Digest, sample::{Sampling, Stops}};
//! # use lockstep_proto::client::{self, Ask, Client, Event};
//! # use lockstep_proto::job::Execute as _;
//! # use lockstep_proto::limits::LENGTH_BYTES;
//! # use lockstep_proto::now::Now;
//! # use lockstep_proto::server::{Capacity, Holding, Input, LinkId, Output, RunValues, Server};
//! # use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
//! # use lockstep_verify::request::{AuditSeed, Hop, Request};
//! # use lockstep_verify::{secret::Secret, sign::Keypair};
//! # let keys = [1, 2].map(|server| Keypair::from_secret(&[server; 32]));
//! # let (now, user) = (Now(1_700_000_000_000_000), Keypair::from_secret(&[3; 32]));
//! # let request = Request {
//! #     manifest: model().manifest, adapters: vec![], prompt: vec![1, 2, 3, 4],
//! #     sampling: Sampling::default(), stops: Stops { max_tokens: 8, ..Stops::default() },
//! #     nonce: [0; 32], session_key: user.id(),
//! #     audit_commitment: AuditSeed::new(Secret::of(&[4; 32])).commitment(),
//! # };
//! let spans = [0..3, 3..LAYERS];
//! let server = |at: usize| {
//!     let head = (at == 0).then(vocabulary);
//!     let holding = Holding { model: model(), span: spans[at].clone(), head };
//!     let runs = RunValues::new(Secret::of(&[at as u8; 32])); // random in a real server
//!     Server::new(keys[at].clone(), holding, Capacity::default(), runs)
//! };
//! let mut servers = [server(0), server(1)];
//! let mut executors = [HashModel::default(), HashModel::default()];
//! let hop = |at: usize| Hop { node: keys[at].id(), first: spans[at].start, end: spans[at].end };
//! let ask = Ask { request: request.clone(), route: vec![hop(0), hop(1)], addresses: vec![] };
//! let mut client = Client::new(now, ask, &user, &model(), vocabulary())?;
//!
//! let body = |wire: Vec<u8>| wire[LENGTH_BYTES..].to_vec();
//! let mut network = VecDeque::new();
//! let receipt = loop {
//!     match client.poll() {
//!         Some(client::Output::Event(Event::Finished(receipt))) => break receipt,
//!         Some(client::Output::Event(event)) => println!("{event:?}"),
//!         Some(client::Output::Send(wire)) => {
//!             let (link, peer, body) = (LinkId(1), user.id(), body(wire));
//!             network.push_back((0, Input::ClientFrame { link, peer, body }));
//!         }
//!         None => {
//!             let (at, input) = network.pop_front().expect("somebody acts until the end");
//!             servers[at].handle(now, input);
//!             while let Some(output) = servers[at].poll() {
//!                 match output {
//!                     Output::ToClient { wire, .. } => {
//!                         client.handle(now, client::Input::Frame(body(wire)));
//!                     }
//!                     Output::ToPeer { wire, .. } => {
//!                         let (node, body) = (keys[at].id(), body(wire));
//!                         network.push_back((1 - at, Input::PeerFrame { node, body }));
//!                     }
//!                     Output::Run(job) => {
//!                         let (job, done) = (job.id, executors[at].run(job));
//!                         network.push_back((at, Input::Ran { job, done }));
//!                     }
//!                     Output::Announce(_) | Output::Event(_) => {}
//!                     Output::CloseClient(_) | Output::ClosePeer { .. } => {}
//!                 }
//!             }
//!         }
//!     }
//! };
//! assert_eq!(receipt.answer, HashModel::answer(&request, 8));
//! # Ok::<(), client::ClientError>(())
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

pub mod announcement;
mod chain;
pub mod client;
pub mod counters;
pub mod failure;
pub mod fair;
pub mod frame;
pub mod job;
mod life;
pub mod limits;
pub mod machine;
pub mod model;
pub mod now;
mod promise;
pub mod schedule;
pub mod server;
pub mod swarm;
pub mod version;
